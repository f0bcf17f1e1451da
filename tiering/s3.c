/* SPDX-License-Identifier: Apache-2.0 */
/* The client, and what it does with single objects in memory. */
#include "tiering/s3_int.h"

#include "cas/limits.h"

#define WORKERS_MAX 8
#define WORKERS_QUEUE 64

static char *copy_of(const char *text)
{
        return text && *text ? cas_xstrdup(text) : NULL;
}

void s3_config_copy(const struct s3_config *from, struct s3_config *out)
{
        *out = *from;
        out->endpoint = copy_of(from->endpoint);
        out->region = copy_of(from->region);
        out->bucket = copy_of(from->bucket);
        out->prefix = copy_of(from->prefix);
        out->ca_file = copy_of(from->ca_file);
        out->sse = copy_of(from->sse);
        out->sse_kms_key = copy_of(from->sse_kms_key);
        out->credentials = copy_of(from->credentials);
}

void s3_config_release(struct s3_config *config)
{
        free(config->endpoint);
        free(config->region);
        free(config->bucket);
        free(config->prefix);
        free(config->ca_file);
        free(config->sse);
        free(config->sse_kms_key);
        free(config->credentials);
        *config = (struct s3_config){0};
}

static void set_usual(struct s3_config *c)
{
        if (!c->region)
                c->region = cas_xstrdup("us-east-1");
        if (c->part_bytes == 0)
                c->part_bytes = S3_PART_BYTES;
        if (c->connections == 0)
                c->connections = S3_CONNECTIONS;
        if (c->timeout_ms == 0)
                c->timeout_ms = S3_TIMEOUT_MS;
        if (c->tries == 0)
                c->tries = S3_TRIES;
}

static bool is_header_value(const char *text)
{
        for (; text && *text; text++) {
                if (*text < ' ' || *text > '~')
                        return false;
        }
        return true;
}

static int check_config(const struct s3_config *c, struct cas_err *err)
{
        if (c->part_bytes < S3_PART_BYTES_MIN || c->part_bytes > S3_PART_BYTES_MAX)
                return cas_fail(err, CAS_E_INVALID, "S3: parts have from %llu to %llu bytes",
                                (unsigned long long)S3_PART_BYTES_MIN,
                                (unsigned long long)S3_PART_BYTES_MAX);
        if (c->connections > S3_CONNECTIONS_MAX || c->tries > S3_TRIES_MAX)
                return cas_fail(err, CAS_E_INVALID, "S3: at most %u connections and %u tries",
                                S3_CONNECTIONS_MAX, S3_TRIES_MAX);
        size_t prefix = c->prefix ? strlen(c->prefix) : 0;
        if (prefix > S3_KEY_BYTES_MAX / 2 ||
            (prefix > 0 && (c->prefix[0] == '/' || c->prefix[prefix - 1] == '/')))
                return cas_fail(err, CAS_E_INVALID,
                                "S3: a prefix is short, and has '/' neither first nor last");
        if (c->sse && strcmp(c->sse, "AES256") != 0 && strcmp(c->sse, "aws:kms") != 0)
                return cas_fail(err, CAS_E_INVALID, "S3: sse is AES256 or aws:kms");
        if (c->sse_kms_key &&
            (!c->sse || strcmp(c->sse, "aws:kms") != 0 || !is_header_value(c->sse_kms_key)))
                return cas_fail(err, CAS_E_INVALID, "S3: sse_key goes with sse = aws:kms");
        return 0;
}

int s3_open(const struct s3_config *config, struct s3 **out, struct cas_err *err)
{
        s3_cleanup_client struct s3 *s = cas_xcalloc(1, sizeof(*s));
        s3_config_copy(config, &s->config);
        set_usual(&s->config);
        cas_mutex_init(&s->mutex, "s3");
        s->credentials = s3_credentials_new(s->config.credentials);
        s3_handles_init(&s->handles, s->config.connections <= S3_CONNECTIONS_MAX
                                             ? s->config.connections
                                             : S3_CONNECTIONS_MAX);
        if (check_config(&s->config, err) < 0 || s3_place_init(&s->config, &s->place, err) < 0)
                return -(int)err->code;
        *out = cas_steal(&s);
        return 0;
}

void s3_close(struct s3 *s)
{
        if (!s)
                return;
        if (s->workers)
                cas_pool_free(s->workers);
        s3_handles_release(&s->handles);
        s3_credentials_free(s->credentials);
        s3_place_release(&s->place);
        s3_config_release(&s->config);
        cas_mutex_release(&s->mutex);
        free(s);
}

void s3_break(struct s3 *s)
{
        s3_handles_break(&s->handles);
}

void s3_counts(struct s3 *s, struct s3_counts *out)
{
        *out = (struct s3_counts){.requests = atomic_load(&s->requests),
                                  .failed = atomic_load(&s->failed),
                                  .retried = atomic_load(&s->retried),
                                  .slowed = atomic_load(&s->slowed),
                                  .bytes_in = atomic_load(&s->bytes_in),
                                  .bytes_out = atomic_load(&s->bytes_out)};
}

void s3_set_abilities(struct s3 *s, const struct s3_abilities *abilities)
{
        cas_mutex_lock(&s->mutex);
        s->abilities = *abilities;
        cas_mutex_unlock(&s->mutex);
}

struct s3_abilities s3_known_abilities(struct s3 *s)
{
        cas_mutex_lock(&s->mutex);
        struct s3_abilities known = s->abilities;
        cas_mutex_unlock(&s->mutex);
        return known;
}

struct cas_pool *s3_workers(struct s3 *s)
{
        cas_mutex_lock(&s->mutex);
        if (!s->workers)
                s->workers = cas_pool_new((unsigned)cas_min_u64(s->config.connections, WORKERS_MAX),
                                          WORKERS_QUEUE);
        cas_mutex_unlock(&s->mutex);
        return s->workers;
}

int s3_key(const struct s3 *s, const char *key, char **out, struct cas_err *err)
{
        const char *prefix = s->config.prefix;
        char *whole = prefix ? cas_xasprintf("%s/%s", prefix, key) : cas_xstrdup(key);
        size_t len = strlen(whole);
        if (*key && len <= S3_KEY_BYTES_MAX) {
                *out = whole;
                return 0;
        }
        free(whole);
        return cas_fail(err, CAS_E_INVALID, "S3: a key has from 1 to %d bytes, not %zu",
                        S3_KEY_BYTES_MAX, len);
}

void s3_object_of(const struct s3_answer *a, uint64_t size_bytes, struct s3_object *out)
{
        if (!out)
                return;
        *out = (struct s3_object){.size_bytes = size_bytes, .modified_unix_s = a->modified_unix_s};
        memcpy(out->etag, a->etag, S3_ETAG_BYTES);
}

static int fail_key(struct s3 *s, const char *key, enum cas_code code, const char *what,
                    struct cas_err *err)
{
        return cas_fail(err, code, "s3://%s/%.200s: %s", s->config.bucket, key, what);
}

int s3_check_written(struct s3 *s, const struct s3_request *r, const struct s3_answer *a,
                     struct cas_err *err)
{
        if (a->status < 300)
                return 0;
        if (a->status == 412 || (a->status == 404 && r->if_match))
                return fail_key(s, r->key, CAS_E_EXISTS, "the condition of the write does not hold",
                                err);
        return s3_fail_answer(s, r, a, err);
}

int s3_put(struct s3 *s, const char *key, const void *data, size_t len,
           const struct s3_condition *condition, struct s3_object *out, struct cas_err *err)
{
        cas_cleanup_free char *whole = NULL;
        s3_cleanup_answer struct s3_answer a = {0};
        struct s3_write_headers h;
        struct cas_hash hash;
        if (len > S3_SMALL_BYTES_MAX)
                return fail_key(s, key, CAS_E_LIMIT, "too long to be put whole", err);
        if (s3_key(s, key, &whole, err) < 0)
                return -(int)err->code;
        cas_sha256(data, len, &hash);
        struct s3_request r = {.method = "PUT",
                               .key = whole,
                               .from = {.there = true, .memory = data ? data : "", .bytes = len},
                               .from_sha256 = &hash};
        s3_write_headers(s, &r, &hash, &h);
        if (s3_known_abilities(s).checksums) {
                s3_checksum(&hash, h.checksum);
                s3_request_header(&r, "x-amz-checksum-sha256", h.checksum);
        }
        s3_marked_condition_headers(s, &r, condition, &h);
        if (s3_perform(s, &r, &a, err) < 0 || s3_check_written(s, &r, &a, err) < 0)
                return -(int)err->code;
        s3_object_of(&a, len, out);
        return 0;
}

static int get(struct s3 *s, const char *key, const char *etag, size_t max_bytes,
               struct cas_buf *out, struct s3_object *object, bool *changed, struct cas_err *err)
{
        cas_cleanup_free char *whole = NULL;
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        s3_cleanup_answer struct s3_answer a = {0};
        if (s3_key(s, key, &whole, err) < 0)
                return -(int)err->code;
        struct s3_request r = {.method = "GET",
                               .key = whole,
                               .into = {.kind = S3_SINK_BUF, .buf = &body, .bytes = max_bytes},
                               .whole = true};
        if (s3_known_abilities(s).checksums)
                s3_request_header(&r, "x-amz-checksum-mode", "ENABLED");
        if (etag)
                s3_request_header(&r, "if-none-match", etag);
        if (s3_perform(s, &r, &a, err) < 0)
                return -(int)err->code;
        *changed = a.status != 304;
        if (!*changed && etag)
                return 0;
        if (a.status == 404)
                return fail_key(s, whole, CAS_E_NOTFOUND, "there is none", err);
        if (a.status != 200)
                return s3_fail_answer(s, &r, &a, err);
        cas_buf_append(out, body.data, body.len_bytes);
        s3_object_of(&a, body.len_bytes, object);
        return 0;
}

int s3_get(struct s3 *s, const char *key, size_t max_bytes, struct cas_buf *out,
           struct s3_object *object, struct cas_err *err)
{
        bool changed;
        return get(s, key, NULL, max_bytes, out, object, &changed, err);
}

int s3_get_changed(struct s3 *s, const char *key, const char *etag, size_t max_bytes,
                   struct cas_buf *out, struct s3_object *object, bool *changed,
                   struct cas_err *err)
{
        return get(s, key, etag, max_bytes, out, object, changed, err);
}

int s3_get_range(struct s3 *s, const char *key, uint64_t offset, void *out, size_t len,
                 struct cas_err *err)
{
        cas_cleanup_free char *whole = NULL;
        if (len == 0)
                return 0;
        if (s3_key(s, key, &whole, err) < 0)
                return -(int)err->code;
        struct s3_into into = {.kind = S3_SINK_MEMORY, .memory = out, .bytes = len};
        return s3_fetch_range(s, whole, offset, UINT64_MAX, &into, err);
}

/* Whether the bucket itself is there, asked where an answer without a body leaves it open. */
static int check_bucket(struct s3 *s, struct cas_err *err)
{
        s3_cleanup_answer struct s3_answer a = {0};
        if (atomic_load(&s->bucket_seen))
                return 0;
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        struct s3_request r = {
                .method = "GET",
                .into = {.kind = S3_SINK_BUF, .buf = &body, .bytes = S3_XML_BYTES_MAX}};
        s3_request_query(&r, "list-type", "2");
        s3_request_query(&r, "max-keys", "1");
        if (s3_perform(s, &r, &a, err) < 0)
                return -(int)err->code;
        return a.status == 200 ? 0 : s3_fail_answer(s, &r, &a, err);
}

int s3_head(struct s3 *s, const char *key, struct s3_object *out, struct cas_err *err)
{
        cas_cleanup_free char *whole = NULL;
        s3_cleanup_answer struct s3_answer a = {0};
        if (s3_key(s, key, &whole, err) < 0)
                return -(int)err->code;
        struct s3_request r = {.method = "HEAD", .key = whole};
        if (s3_perform(s, &r, &a, err) < 0)
                return -(int)err->code;
        if (a.status == 404) {
                if (check_bucket(s, err) < 0)
                        return -(int)err->code;
                return fail_key(s, whole, CAS_E_NOTFOUND, "there is none", err);
        }
        if (a.status != 200 || a.length == UINT64_MAX)
                return s3_fail_answer(s, &r, &a, err);
        s3_object_of(&a, a.length, out);
        return 0;
}

int s3_delete(struct s3 *s, const char *key, const char *if_match, struct cas_err *err)
{
        cas_cleanup_free char *whole = NULL;
        s3_cleanup_answer struct s3_answer a = {0};
        if (s3_key(s, key, &whole, err) < 0)
                return -(int)err->code;
        if (if_match && !s3_known_abilities(s).conditional_delete)
                return fail_key(s, whole, CAS_E_UNSUPPORTED,
                                "the store is not known to delete under a condition", err);
        struct s3_request r = {.method = "DELETE", .key = whole};
        struct s3_write_headers h;
        if (if_match)
                s3_if_match_header(s, &r, if_match, &h);
        if (s3_perform(s, &r, &a, err) < 0)
                return -(int)err->code;
        if (a.status == 404)
                return 0;
        return s3_check_written(s, &r, &a, err);
}

int s3_presign(struct s3 *s, const char *method, const char *key, unsigned seconds, char **out,
               struct cas_err *err)
{
        cas_cleanup_free char *whole = NULL;
        s3_cleanup_secret struct s3_secret secret = {0};
        cas_cleanup_buf struct cas_buf path = CAS_BUF_INIT, query = CAS_BUF_INIT;
        if (seconds == 0 || seconds > S3_PRESIGN_S_MAX)
                return cas_fail(err, CAS_E_INVALID, "S3: an address holds for a week at most");
        if (s3_key(s, key, &whole, err) < 0 || s3_credentials_get(s->credentials, &secret, err) < 0)
                return -(int)err->code;
        cas_buf_printf(&path, "%s/", s->place.base_path);
        s3_encode(whole, true, &path);
        char now[S3_TIME_BYTES];
        s3_time_text(time(NULL) + atomic_load(&s->skew_s), now);
        const struct s3_pair host = {"host", s->place.host};
        struct s3_signing g = {.method = method,
                               .path = cas_buf_str(&path),
                               .headers = &host,
                               .header_count = 1,
                               .payload = S3_UNSIGNED_PAYLOAD,
                               .time = now,
                               .region = s->config.region,
                               .service = "s3",
                               .key_id = secret.key_id,
                               .secret = secret.secret};
        s3_presigned_query(&g, secret.token, seconds, &query);
        *out = cas_xasprintf("%s%s?%s", s->place.origin, cas_buf_str(&path), cas_buf_str(&query));
        return 0;
}
