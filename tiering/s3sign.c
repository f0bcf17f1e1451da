/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/s3sign_int.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#define ALGORITHM "AWS4-HMAC-SHA256"
#define DATE_BYTES 8

static bool is_plain(unsigned char c)
{
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '-' || c == '.' || c == '_' || c == '~';
}

void s3_encode(const char *text, bool keep_slash, struct cas_buf *out)
{
        for (const char *at = text; *at; at++) {
                unsigned char c = (unsigned char)*at;
                if (is_plain(c) || (keep_slash && c == '/'))
                        cas_buf_append_byte(out, c);
                else
                        cas_buf_printf(out, "%%%02X", c);
        }
}

static int hex_value(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool s3_decode(char *text)
{
        char *to = text;
        for (const char *at = text; *at; at++) {
                if (*at == '+') { /* as forms have it: some stores do */
                        *to++ = ' ';
                        continue;
                }
                if (*at != '%') {
                        *to++ = *at;
                        continue;
                }
                int high = hex_value(at[1]), low = high < 0 ? -1 : hex_value(at[2]);
                if (low < 0 || (high | low) == 0)
                        return false;
                *to++ = (char)(high << 4 | low);
                at += 2;
        }
        *to = '\0';
        return true;
}

void s3_time_text(int64_t unix_s, char *out)
{
        struct tm t;
        time_t when = (time_t)unix_s;
        cas_assert(gmtime_r(&when, &t) != NULL);
        cas_assert(strftime(out, S3_TIME_BYTES, "%Y%m%dT%H%M%SZ", &t) == S3_TIME_BYTES - 1);
}

/* A pair of a query, encoded, so that it can be put in order. */
struct encoded {
        struct cas_buf name, value;
};

static int by_name_and_value(const void *a, const void *b)
{
        const struct encoded *x = a, *y = b;
        int order = strcmp(cas_buf_str(&x->name), cas_buf_str(&y->name));
        return order ? order : strcmp(cas_buf_str(&x->value), cas_buf_str(&y->value));
}

void s3_query_text(const struct s3_pair *query, size_t count, struct cas_buf *out)
{
        struct encoded pairs[S3_PAIRS_MAX] = {0};
        cas_assert(count <= S3_PAIRS_MAX);
        for (size_t i = 0; i < count; i++) {
                s3_encode(query[i].name, false, &pairs[i].name);
                s3_encode(query[i].value, false, &pairs[i].value);
        }
        qsort(pairs, count, sizeof(*pairs), by_name_and_value);
        for (size_t i = 0; i < count; i++) {
                cas_buf_printf(out, "%s%s=%s", i > 0 ? "&" : "", cas_buf_str(&pairs[i].name),
                               cas_buf_str(&pairs[i].value));
                cas_buf_release(&pairs[i].name);
                cas_buf_release(&pairs[i].value);
        }
}

static int by_name(const void *a, const void *b)
{
        return strcmp(((const struct s3_pair *)a)->name, ((const struct s3_pair *)b)->name);
}

/* Blanks at the ends go, and runs of them become one. */
static void append_trimmed(const char *value, struct cas_buf *out)
{
        bool blank = false, any = false;
        for (const char *at = value; *at; at++) {
                if (*at == ' ' || *at == '\t') {
                        blank = any;
                        continue;
                }
                if (blank)
                        cas_buf_append_byte(out, ' ');
                blank = false;
                any = true;
                cas_buf_append_byte(out, (uint8_t)*at);
        }
}

static void sort_headers(const struct s3_signing *g, struct s3_pair *sorted)
{
        cas_assert(g->header_count <= S3_PAIRS_MAX);
        memcpy(sorted, g->headers, g->header_count * sizeof(*sorted));
        qsort(sorted, g->header_count, sizeof(*sorted), by_name);
}

static void append_names(const struct s3_signing *g, struct cas_buf *out)
{
        struct s3_pair sorted[S3_PAIRS_MAX];
        sort_headers(g, sorted);
        for (size_t i = 0; i < g->header_count; i++)
                cas_buf_printf(out, "%s%s", i > 0 ? ";" : "", sorted[i].name);
}

void s3_canonical_request(const struct s3_signing *g, struct cas_buf *out)
{
        struct s3_pair sorted[S3_PAIRS_MAX];
        sort_headers(g, sorted);
        cas_buf_printf(out, "%s\n%s\n", g->method, g->path);
        s3_query_text(g->query, g->query_count, out);
        cas_buf_append_byte(out, '\n');
        for (size_t i = 0; i < g->header_count; i++) {
                cas_buf_printf(out, "%s:", sorted[i].name);
                append_trimmed(sorted[i].value, out);
                cas_buf_append_byte(out, '\n');
        }
        cas_buf_append_byte(out, '\n');
        append_names(g, out);
        cas_buf_printf(out, "\n%s", g->payload);
}

static void append_scope(const struct s3_signing *g, struct cas_buf *out)
{
        cas_buf_printf(out, "%.*s/%s/%s/aws4_request", DATE_BYTES, g->time, g->region, g->service);
}

void s3_string_to_sign(const struct s3_signing *g, const char *canonical, struct cas_buf *out)
{
        char hex[CAS_HASH_HEX_BYTES];
        struct cas_hash hash;
        cas_sha256(canonical, strlen(canonical), &hash);
        cas_buf_printf(out, ALGORITHM "\n%s\n", g->time);
        append_scope(g, out);
        cas_buf_printf(out, "\n%s", cas_hash_hex(&hash, hex));
}

static void hmac(struct cas_hash *key, const char *text, size_t len)
{
        uint8_t out[EVP_MAX_MD_SIZE];
        unsigned bytes = 0;
        cas_assert(HMAC(EVP_sha256(), key->bytes, CAS_HASH_BYTES, (const uint8_t *)text, len, out,
                        &bytes) != NULL);
        cas_assert(bytes == CAS_HASH_BYTES);
        memcpy(key->bytes, out, CAS_HASH_BYTES);
        OPENSSL_cleanse(out, sizeof(out));
}

void s3_signature(const struct s3_signing *g, const char *string_to_sign, char *out)
{
        cas_cleanup_free char *secret = cas_xasprintf("AWS4%s", g->secret);
        struct cas_hash key;
        unsigned bytes = 0;
        cas_assert(HMAC(EVP_sha256(), secret, (int)strlen(secret), (const uint8_t *)g->time,
                        DATE_BYTES, key.bytes, &bytes) != NULL);
        OPENSSL_cleanse(secret, strlen(secret));
        hmac(&key, g->region, strlen(g->region));
        hmac(&key, g->service, strlen(g->service));
        hmac(&key, "aws4_request", strlen("aws4_request"));
        hmac(&key, string_to_sign, strlen(string_to_sign));
        (void)cas_hash_hex(&key, out);
}

static void sign(const struct s3_signing *g, char *signature)
{
        cas_cleanup_buf struct cas_buf canonical = CAS_BUF_INIT, text = CAS_BUF_INIT;
        s3_canonical_request(g, &canonical);
        s3_string_to_sign(g, cas_buf_str(&canonical), &text);
        s3_signature(g, cas_buf_str(&text), signature);
}

void s3_authorization(const struct s3_signing *g, struct cas_buf *out)
{
        char signature[CAS_HASH_HEX_BYTES];
        sign(g, signature);
        cas_buf_printf(out, ALGORITHM " Credential=%s/", g->key_id);
        append_scope(g, out);
        cas_buf_append_str(out, ",SignedHeaders=");
        append_names(g, out);
        cas_buf_printf(out, ",Signature=%s", signature);
}

void s3_presigned_query(const struct s3_signing *g, const char *token, unsigned seconds,
                        struct cas_buf *out)
{
        cas_cleanup_buf struct cas_buf credential = CAS_BUF_INIT, names = CAS_BUF_INIT;
        cas_cleanup_free char *expires = cas_xasprintf("%u", seconds);
        cas_buf_printf(&credential, "%s/", g->key_id);
        append_scope(g, &credential);
        append_names(g, &names);
        struct s3_pair query[S3_PAIRS_MAX];
        size_t count = g->query_count;
        cas_assert(count + 6 <= S3_PAIRS_MAX);
        if (count > 0)
                memcpy(query, g->query, count * sizeof(*query));
        query[count++] = (struct s3_pair){"X-Amz-Algorithm", ALGORITHM};
        query[count++] = (struct s3_pair){"X-Amz-Credential", cas_buf_str(&credential)};
        query[count++] = (struct s3_pair){"X-Amz-Date", g->time};
        query[count++] = (struct s3_pair){"X-Amz-Expires", expires};
        query[count++] = (struct s3_pair){"X-Amz-SignedHeaders", cas_buf_str(&names)};
        if (token)
                query[count++] = (struct s3_pair){"X-Amz-Security-Token", token};
        struct s3_signing whole = *g;
        whole.query = query;
        whole.query_count = count;
        char signature[CAS_HASH_HEX_BYTES];
        sign(&whole, signature);
        s3_query_text(query, count, out);
        cas_buf_printf(out, "&X-Amz-Signature=%s", signature);
}
