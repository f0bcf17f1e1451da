/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/jwt.h"

#include "registry/base64.h"

#define HEADER_BYTES_MAX 4096
#define TIME_MAX 253402300800 /* the year 10000 */

void reg_jwt_release(struct reg_jwt *t)
{
        free(t->kid);
        json_decref(t->claims);
        cas_buf_release(&t->signature);
        *t = (struct reg_jwt){0};
}

/* The part that starts at text and ends at `end`. */
static int part_json(const char *text, const char *end, size_t max_bytes, const char *what,
                     json_t **out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        if (!reg_base64_decode(REG_BASE64_URL, text, (size_t)(end - text), &bytes) ||
            bytes.len_bytes == 0)
                return cas_fail(err, CAS_E_INVALID, "a token's %s is not Base64", what);
        if (cas_json_parse(bytes.data, bytes.len_bytes, max_bytes, out, err) < 0)
                return cas_err_wrap(err, "a token's %s", what);
        if (!json_is_object(*out))
                return cas_fail(err, CAS_E_INVALID, "a token's %s is no object", what);
        return 0;
}

static int read_header(const json_t *header, struct reg_jwt *out, struct cas_err *err)
{
        const char *alg, *kid;
        if (cas_json_string_in(header, "alg", &alg, err) < 0 ||
            cas_json_string_in(header, "kid", &kid, err) < 0)
                return cas_err_wrap(err, "a token's header");
        if (json_object_get(header, "crit") || json_object_get(header, "b64"))
                return cas_fail(err, CAS_E_UNSUPPORTED, "a token with extensions");
        if (!alg || !reg_key_alg_of(alg, &out->alg))
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "a token that is not signed by RS256, ES256 or EdDSA");
        out->kid = kid ? cas_xstrdup(kid) : NULL;
        return 0;
}

static int parse(const char *text, struct reg_jwt *out, struct cas_err *err)
{
        cas_cleanup_json json_t *header = NULL;
        size_t len = strnlen(text, REG_JWT_BYTES_MAX + 1);
        if (len > REG_JWT_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a token of more than %d bytes",
                                REG_JWT_BYTES_MAX);
        const char *first = strchr(text, '.');
        const char *second = first ? strchr(first + 1, '.') : NULL;
        if (!second || strchr(second + 1, '.'))
                return cas_fail(err, CAS_E_INVALID, "a token has three parts");
        out->signed_bytes = (size_t)(second - text);
        int rc = part_json(text, first, HEADER_BYTES_MAX, "header", &header, err);
        if (rc == 0)
                rc = read_header(header, out, err);
        if (rc == 0)
                rc = part_json(first + 1, second, REG_JWT_BYTES_MAX, "claims", &out->claims, err);
        if (rc < 0)
                return rc;
        if (!reg_base64_decode(REG_BASE64_URL, second + 1, strlen(second + 1), &out->signature) ||
            out->signature.len_bytes == 0 || out->signature.len_bytes > REG_SIGNATURE_BYTES_MAX)
                return cas_fail(err, CAS_E_INVALID, "a token's signature is none");
        return 0;
}

int reg_jwt_parse(const char *text, struct reg_jwt *out, struct cas_err *err)
{
        *out = (struct reg_jwt){0};
        int rc = parse(text, out, err);
        if (rc < 0)
                reg_jwt_release(out);
        return rc;
}

bool reg_jwt_verify(const struct reg_jwt *t, const char *text, const struct reg_keyset *keys,
                    bool *tried)
{
        return reg_keyset_verify(keys, t->alg, t->kid, text, t->signed_bytes, t->signature.data,
                                 t->signature.len_bytes, tried);
}

/* A time of the claims, whole or not. *there false: it is not said. */
static int time_in(const json_t *claims, const char *key, bool *there, int64_t *out,
                   struct cas_err *err)
{
        const json_t *value = json_object_get(claims, key);
        *there = value && !json_is_null(value);
        if (!*there)
                return 0;
        double seconds = json_number_value(value);
        if (!json_is_number(value) || !(seconds >= 0) || !(seconds < TIME_MAX))
                return cas_fail(err, CAS_E_INVALID, "a token's %s is no time", key);
        *out = (int64_t)seconds;
        return 0;
}

static int check_times(const json_t *claims, int64_t now, int64_t *until_s, struct cas_err *err)
{
        bool has_exp, has_nbf, has_iat;
        int64_t exp = 0, nbf = 0, iat = 0;
        if (time_in(claims, "exp", &has_exp, &exp, err) < 0 ||
            time_in(claims, "nbf", &has_nbf, &nbf, err) < 0 ||
            time_in(claims, "iat", &has_iat, &iat, err) < 0)
                return -(int)err->code;
        if (!has_exp)
                return cas_fail(err, CAS_E_INVALID, "a token without an end (exp)");
        if (exp + REG_JWT_LEEWAY_S <= now)
                return cas_fail(err, CAS_E_DENIED, "the token has expired");
        if ((has_nbf && nbf > now + REG_JWT_LEEWAY_S) || (has_iat && iat > now + REG_JWT_LEEWAY_S))
                return cas_fail(err, CAS_E_DENIED, "the token is not valid yet");
        *until_s = exp + REG_JWT_LEEWAY_S;
        return 0;
}

static bool is_text(const json_t *value, const char *text)
{
        return json_is_string(value) && json_string_length(value) == strlen(text) &&
               strcmp(json_string_value(value), text) == 0;
}

/* One text, or a list. */
static bool names_audience(const json_t *aud, const char *audience)
{
        const json_t *one;
        size_t i;
        json_array_foreach(aud, i, one)
        {
                if (is_text(one, audience))
                        return true;
        }
        return is_text(aud, audience);
}

int reg_jwt_check(const struct reg_jwt *t, const struct reg_jwt_wanted *wanted, int64_t *until_s,
                  struct cas_err *err)
{
        if (wanted->issuer && !is_text(json_object_get(t->claims, "iss"), wanted->issuer))
                return cas_fail(err, CAS_E_DENIED, "the token is by another issuer");
        if (wanted->audience &&
            !names_audience(json_object_get(t->claims, "aud"), wanted->audience))
                return cas_fail(err, CAS_E_DENIED, "the token is for another service");
        return check_times(t->claims, wanted->now_s, until_s, err);
}

static void append_json(const json_t *doc, struct cas_buf *out)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        cas_json_append(doc, &text);
        reg_base64_append(REG_BASE64_URL, text.data, text.len_bytes, out);
}

int reg_jwt_sign(const struct reg_key *key, const json_t *claims, struct cas_buf *out,
                 struct cas_err *err)
{
        cas_cleanup_json json_t *header =
                json_pack("{s:s, s:s, s:s}", "typ", "JWT", "alg",
                          reg_key_alg_name(reg_key_alg(key)), "kid", reg_key_id(key));
        cas_cleanup_buf struct cas_buf signature = CAS_BUF_INIT;
        size_t start = out->len_bytes;
        cas_assert(header != NULL);
        append_json(header, out);
        cas_buf_append_byte(out, '.');
        append_json(claims, out);
        int rc = reg_key_sign(key, out->data + start, out->len_bytes - start, &signature, err);
        if (rc < 0)
                return rc;
        cas_buf_append_byte(out, '.');
        reg_base64_append(REG_BASE64_URL, signature.data, signature.len_bytes, out);
        return 0;
}
