/* SPDX-License-Identifier: Apache-2.0 */
/* A request, from its description to an answer that will not change: signed anew for each try;
 * repeated with growing, jittered waits where that may help; a conditional write whose answer was
 * lost is looked up by the mark that it carries before it is repeated. */
#include "tiering/s3_int.h"

#include <openssl/evp.h>
#include <sys/random.h>

#include "cas/io.h"

#define META "x-amz-meta-lamina-"
#define EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define HASH_PIECE_BYTES ((size_t)256 * 1024)

void s3_request_query(struct s3_request *r, const char *name, const char *value)
{
        cas_assert(r->query_count < CAS_COUNT(r->query));
        r->query[r->query_count++] = (struct s3_pair){name, value};
}

void s3_request_header(struct s3_request *r, const char *name, const char *value)
{
        cas_assert(r->header_count < CAS_COUNT(r->headers));
        r->headers[r->header_count++] = (struct s3_pair){name, value};
}

void s3_nonce(char *out)
{
        uint8_t random[(S3_NONCE_BYTES - 1) / 2];
        cas_assert(getrandom(random, sizeof(random), 0) == (ssize_t)sizeof(random));
        for (size_t i = 0; i < sizeof(random); i++)
                (void)snprintf(out + 2 * i, 3, "%02x", random[i]);
}

void s3_checksum(const struct cas_hash *hash, char *out)
{
        cas_assert(EVP_EncodeBlock((uint8_t *)out, hash->bytes, CAS_HASH_BYTES) ==
                   S3_CHECKSUM_BYTES - 1);
}

int s3_hash_file(int fd, uint64_t offset, uint64_t bytes, struct cas_hash *out, struct cas_err *err)
{
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(CAS_DIGEST_SHA256);
        cas_cleanup_free uint8_t *piece = cas_xmalloc(HASH_PIECE_BYTES);
        struct cas_digest digest;
        while (bytes > 0) {
                size_t n = cas_min_u64(bytes, HASH_PIECE_BYTES);
                if (cas_io_pread_exact(cas_io_posix(), fd, piece, n, offset, "file", err) < 0)
                        return -(int)err->code;
                cas_hasher_update(hasher, piece, n);
                offset += n;
                bytes -= n;
        }
        cas_hasher_final(hasher, &digest);
        memcpy(out->bytes, digest.bytes, CAS_HASH_BYTES);
        return 0;
}

void s3_write_headers(struct s3 *s, struct s3_request *r, const struct cas_hash *sha256,
                      struct s3_write_headers *h)
{
        if (sha256)
                s3_request_header(r, META "sha256", cas_hash_hex(sha256, h->sha256));
        if (s->config.sse)
                s3_request_header(r, "x-amz-server-side-encryption", s->config.sse);
        if (s->config.sse_kms_key)
                s3_request_header(r, "x-amz-server-side-encryption-aws-kms-key-id",
                                  s->config.sse_kms_key);
}

void s3_mark_header(struct s3_request *r, struct s3_write_headers *h)
{
        s3_nonce(h->nonce);
        s3_request_header(r, META "write", h->nonce);
}

void s3_if_match_header(struct s3 *s, struct s3_request *r, const char *etag,
                        struct s3_write_headers *h)
{
        size_t len = strlen(etag);
        if (s3_known_abilities(s).bare_etags && len > 2 && len <= S3_ETAG_BYTES && etag[0] == '"') {
                memcpy(h->etag, etag + 1, len - 2);
                h->etag[len - 2] = '\0';
                etag = h->etag;
        }
        s3_request_header(r, "if-match", etag);
}

bool s3_condition_headers(struct s3 *s, struct s3_request *r, const struct s3_condition *condition,
                          struct s3_write_headers *h)
{
        if (condition && condition->if_absent) {
                s3_request_header(r, "if-none-match", "*");
                return true;
        }
        if (!condition || !condition->if_match)
                return false;
        r->if_match = condition->if_match;
        s3_if_match_header(s, r, condition->if_match, h);
        return true;
}

void s3_marked_condition_headers(struct s3 *s, struct s3_request *r,
                                 const struct s3_condition *condition, struct s3_write_headers *h)
{
        if (!s3_condition_headers(s, r, condition, h))
                return;
        s3_mark_header(r, h);
        r->nonce = h->nonce;
}

/* Sending one try. */

struct attempt {
        char time[S3_TIME_BYTES], payload[CAS_HASH_HEX_BYTES];
        struct s3_pair headers[S3_PAIRS_MAX];
        size_t header_count;
        struct cas_buf authorization, path, url;
};

static void attempt_release(struct attempt *t)
{
        cas_buf_release(&t->authorization);
        cas_buf_release(&t->path);
        cas_buf_release(&t->url);
}

static int find_payload(struct s3_request *r, char *out, struct cas_err *err)
{
        struct cas_hash hash;
        if (!r->from.there || r->from.bytes == 0) {
                memcpy(out, EMPTY_SHA256, CAS_HASH_HEX_BYTES);
                return 0;
        }
        if (r->from_sha256)
                hash = *r->from_sha256;
        else if (r->from.memory)
                cas_sha256(r->from.memory, r->from.bytes, &hash);
        else if (s3_hash_file(r->from.fd, r->from.offset, r->from.bytes, &hash, err) < 0)
                return -(int)err->code;
        (void)cas_hash_hex(&hash, out);
        return 0;
}

static void add_header(struct attempt *t, const char *name, const char *value)
{
        cas_assert(t->header_count < S3_PAIRS_MAX);
        t->headers[t->header_count++] = (struct s3_pair){name, value};
}

static void sign(struct s3 *s, const struct s3_request *r, const struct s3_secret *secret,
                 struct attempt *t)
{
        t->header_count = 0;
        s3_time_text(time(NULL) + atomic_load(&s->skew_s), t->time);
        for (size_t i = 0; i < r->header_count; i++)
                t->headers[t->header_count++] = r->headers[i];
        add_header(t, "host", s->place.host);
        add_header(t, "x-amz-content-sha256", t->payload);
        add_header(t, "x-amz-date", t->time);
        if (secret->token)
                add_header(t, "x-amz-security-token", secret->token);
        struct s3_signing g = {.method = r->method,
                               .path = cas_buf_str(&t->path),
                               .query = r->query,
                               .query_count = r->query_count,
                               .headers = t->headers,
                               .header_count = t->header_count,
                               .payload = t->payload,
                               .time = t->time,
                               .region = s->config.region,
                               .service = "s3",
                               .key_id = secret->key_id,
                               .secret = secret->secret};
        cas_buf_clear(&t->authorization);
        s3_authorization(&g, &t->authorization);
        add_header(t, "authorization", cas_buf_str(&t->authorization));
}

static void make_url(struct s3 *s, const struct s3_request *r, struct attempt *t)
{
        cas_buf_append_str(&t->path, s->place.base_path);
        if (r->key || !*s->place.base_path)
                cas_buf_append_byte(&t->path, '/');
        if (r->key)
                s3_encode(r->key, true, &t->path);
        cas_buf_printf(&t->url, "%s%s", s->place.origin, cas_buf_str(&t->path));
        if (r->query_count > 0) {
                cas_buf_append_byte(&t->url, '?');
                s3_query_text(r->query, r->query_count, &t->url);
        }
}

static int send_once(struct s3 *s, const struct s3_request *r, struct attempt *t, char key_id[128],
                     struct s3_answer *a, struct cas_err *err)
{
        s3_cleanup_secret struct s3_secret secret = {0};
        if (s3_credentials_get(s->credentials, &secret, err) < 0) {
                a->final = true;
                return -(int)err->code;
        }
        (void)snprintf(key_id, 128, "%s", secret.key_id);
        sign(s, r, &secret, t);
        struct s3_exchange x = {.method = r->method,
                                .url = cas_buf_str(&t->url),
                                .headers = t->headers,
                                .header_count = t->header_count,
                                .from = r->from,
                                .into = r->into,
                                .ca_file = s->config.ca_file,
                                .timeout_ms = s->config.timeout_ms};
        if (r->slow)
                x.timeout_ms *= S3_SLOW_ANSWER_FACTOR;
        int rc = s3_http(&s->handles, &x, a, err);
        atomic_fetch_add(&s->requests, 1);
        atomic_fetch_add(&s->bytes_in, a->received_bytes);
        atomic_fetch_add(&s->bytes_out, a->sent_bytes);
        return rc;
}

/* What is done about an answer. */

enum verdict {
        ANSWERED,     /* it will not change */
        REPEAT,       /* after a wait */
        REPEAT_AFTER, /* after a wait, and it may have been done */
        REPEAT_NOW,   /* signed otherwise */
        REFUSED       /* err says why */
};

static bool code_is(const struct s3_problem *p, const char *code)
{
        return strcmp(p->code, code) == 0;
}

static bool is_slow_down(unsigned status, const struct s3_problem *p)
{
        return status == 429 || code_is(p, "SlowDown") || code_is(p, "TooManyRequests") ||
               code_is(p, "RequestLimitExceeded") || (status == 503 && !*p->code);
}

/* Our clock and the store's differ by too much: from now on we go by its. */
static bool learn_skew(struct s3 *s, const struct s3_answer *a, const struct s3_problem *p)
{
        time_t theirs = curl_getdate(a->date, NULL);
        if (a->status != 403 || theirs <= 0 || (*p->code && !code_is(p, "RequestTimeTooSkewed")))
                return false;
        int64_t skew_s = (int64_t)theirs - time(NULL), known_s = atomic_load(&s->skew_s);
        if (skew_s - known_s < S3_SKEW_S && known_s - skew_s < S3_SKEW_S)
                return false;
        atomic_store(&s->skew_s, skew_s);
        return true;
}

static bool is_about_keys(const struct s3_problem *p)
{
        return code_is(p, "ExpiredToken") || code_is(p, "InvalidAccessKeyId") ||
               code_is(p, "InvalidToken") || code_is(p, "TokenRefreshRequired");
}

static int fail_region(struct s3 *s, const struct s3_answer *a, const struct s3_problem *p,
                       struct cas_err *err)
{
        const char *region = *p->region ? p->region : a->region;
        if (*region)
                return cas_fail(err, CAS_E_INVALID,
                                "bucket %s is in region %.63s, not in %s: set region and endpoint "
                                "accordingly",
                                s->config.bucket, region, s->config.region);
        return cas_fail(err, CAS_E_INVALID,
                        "bucket %s is elsewhere (status %u, %s): redirects are not followed, set "
                        "endpoint and region",
                        s->config.bucket, a->status, *p->code ? p->code : "no more said");
}

static enum cas_code code_of(unsigned status, const struct s3_problem *p)
{
        if (is_slow_down(status, p))
                return CAS_E_BUSY;
        if (code_is(p, "QuotaExceeded") || code_is(p, "XMinioStorageFull") || status == 507)
                return CAS_E_NOSPACE;
        if (code_is(p, "EntityTooLarge"))
                return CAS_E_LIMIT;
        if (status == 409)
                return CAS_E_EXISTS;
        if (status == 401 || status == 403)
                return CAS_E_DENIED;
        if (status == 404)
                return CAS_E_NOTFOUND;
        if (status == 405 || status == 501)
                return CAS_E_UNSUPPORTED;
        return CAS_E_IO;
}

static int fail_status(struct s3 *s, const struct s3_request *r, const struct s3_answer *a,
                       struct cas_err *err)
{
        struct s3_problem p;
        s3_xml_problem(a->error.data, a->error.len_bytes, &p);
        bool elsewhere = (a->status >= 300 && a->status < 400) ||
                         (code_is(&p, "AuthorizationHeaderMalformed") && *p.region);
        if (elsewhere)
                return fail_region(s, a, &p, err);
        if (code_is(&p, "NoSuchBucket"))
                return cas_fail(err, CAS_E_IO, "there is no bucket %s", s->config.bucket);
        return cas_fail(err, code_of(a->status, &p), "%s: status %u%s%s%s%s", r->method, a->status,
                        *p.code ? ", " : "", p.code, *p.message ? ": " : "", p.message);
}

int s3_fail_answer(struct s3 *s, const struct s3_request *r, const struct s3_answer *a,
                   struct cas_err *err)
{
        (void)fail_status(s, r, a, err);
        return cas_err_wrap(err, "s3://%s/%.200s", s->config.bucket, r->key ? r->key : "");
}

static bool may_help(const struct s3_answer *a, const struct s3_problem *p)
{
        return a->status == 500 || a->status == 502 || a->status == 503 || a->status == 504 ||
               a->status == 429 || code_is(p, "RequestTimeout") || code_is(p, "BadDigest") ||
               code_is(p, "XAmzContentSHA256Mismatch") || code_is(p, "IncompleteBody") ||
               code_is(p, "OperationAborted") || code_is(p, "ConditionalRequestConflict") ||
               code_is(p, "ConcurrentModification") || code_is(p, "InternalError");
}

/* A body that is not what the object's own digest says. */
static int check_digest(const struct s3_request *r, const struct s3_answer *a, struct cas_err *err)
{
        char hex[CAS_HASH_HEX_BYTES], checksum[S3_CHECKSUM_BYTES];
        bool has_checksum = strlen(a->checksum) == S3_CHECKSUM_BYTES - 1;
        if (!r->whole || a->status != 200 || (!*a->sha256 && !has_checksum))
                return 0;
        struct cas_hash hash;
        if (r->into.kind == S3_SINK_BUF)
                cas_sha256(r->into.buf->data, r->into.buf->len_bytes, &hash);
        else if (s3_hash_file(r->into.fd, r->into.offset, r->into.bytes, &hash, err) < 0)
                return -(int)err->code;
        s3_checksum(&hash, checksum);
        if ((*a->sha256 && strcmp(a->sha256, cas_hash_hex(&hash, hex)) != 0) ||
            (has_checksum && strcmp(a->checksum, checksum) != 0))
                return cas_fail(err, CAS_E_CORRUPT,
                                "the body is not what was put: its digest differs");
        return 0;
}

static enum verdict judge(struct s3 *s, struct s3_request *r, struct s3_answer *a,
                          const char *key_id, unsigned *signed_again, struct cas_err *err)
{
        if (a->status < 300 || a->status == 304 || a->status == 412 || a->status == 416) {
                atomic_store(&s->bucket_seen, true);
                return check_digest(r, a, err) < 0 ? REPEAT : ANSWERED;
        }
        struct s3_problem p;
        s3_xml_problem(a->error.data, a->error.len_bytes, &p);
        if (is_slow_down(a->status, &p))
                atomic_fetch_add(&s->slowed, 1);
        if (may_help(a, &p)) {
                (void)fail_status(s, r, a, err);
                return a->status >= 500 ? REPEAT_AFTER : REPEAT;
        }
        if (*signed_again < 2 && learn_skew(s, a, &p)) {
                ++*signed_again;
                return REPEAT_NOW;
        }
        bool mute = a->status == 400 && strcmp(r->method, "HEAD") == 0;
        if (*signed_again < 2 && (mute || is_about_keys(&p))) {
                ++*signed_again;
                s3_credentials_refused(s->credentials, key_id);
                return REPEAT_NOW;
        }
        if (a->status == 404 && !code_is(&p, "NoSuchBucket"))
                return ANSWERED;
        (void)fail_status(s, r, a, err);
        return REFUSED;
}

int s3_look_up(struct s3 *s, const char *key, const char *nonce, struct s3_answer *a, bool *ours,
               struct cas_err *err)
{
        struct s3_request head = {.method = "HEAD", .key = key};
        if (s3_perform(s, &head, a, err) < 0)
                return -(int)err->code;
        *ours = a->status == 200 && strcmp(a->nonce, nonce) == 0;
        return 0;
}

/* The answer to a conditional write is not known. *done: `a` is the answer now. */
static int settle(struct s3 *s, struct s3_request *r, struct s3_answer *a, bool *done,
                  struct cas_err *err)
{
        bool ours;
        s3_cleanup_answer struct s3_answer head = {0};
        *done = false;
        if (s3_look_up(s, r->key, r->nonce, &head, &ours, err) < 0)
                return cas_err_wrap(err, "whether a write that was not answered was done");
        bool lost = head.status == 200 && (!r->if_match || strcmp(head.etag, r->if_match) != 0);
        if (!ours && !lost)
                return 0;
        s3_answer_release(a);
        *a = head;
        head = (struct s3_answer){0};
        a->status = ours ? 200 : 412;
        *done = true;
        return 0;
}

unsigned s3_wait_ms(unsigned tried, unsigned retry_after_s)
{
        uint32_t random;
        cas_assert(getrandom(&random, sizeof(random), 0) == (ssize_t)sizeof(random));
        uint64_t most =
                cas_min_u64((uint64_t)S3_WAIT_FIRST_MS << cas_min_u64(tried, 20), S3_WAIT_MAX_MS);
        uint64_t ms = most / 4 + random % (most * 3 / 4 + 1);
        return (unsigned)cas_max_u64(ms,
                                     cas_min_u64((uint64_t)retry_after_s * 1000, S3_WAIT_MAX_MS));
}

static enum verdict try_once(struct s3 *s, struct s3_request *r, struct attempt *t,
                             struct s3_answer *a, unsigned *signed_again, struct cas_err *err)
{
        char key_id[128];
        if (send_once(s, r, t, key_id, a, err) == 0)
                return judge(s, r, a, key_id, signed_again, err);
        if (a->final || err->code == CAS_E_BUSY)
                return REFUSED;
        return a->may_have_arrived ? REPEAT_AFTER : REPEAT;
}

/* What is done between two tries. *done: there is an answer after all. Returns -code where nothing
 * more is to be done. */
static int before_next(struct s3 *s, struct s3_request *r, struct s3_answer *a, unsigned tried,
                       bool unsure, const struct cas_err *why, bool *done, struct cas_err *err)
{
        bool over = tried >= (r->tries ? r->tries : s->config.tries);
        if (!over) {
                atomic_fetch_add(&s->retried, 1);
                over = !s3_handles_sleep(&s->handles, s3_wait_ms(tried - 1, a->retry_after_s));
        }
        *done = false;
        if (unsure && r->nonce && settle(s, r, a, done, err) < 0)
                return -(int)err->code;
        if (*done || !over)
                return 0;
        *err = *why;
        return -(int)err->code;
}

static int perform(struct s3 *s, struct s3_request *r, struct attempt *t, struct s3_answer *a,
                   struct cas_err *err)
{
        unsigned signed_again = 0, tried = 0;
        bool unsure = false, done = false; /* unsure: an earlier try may have been done */
        while (!done) {
                struct cas_err why = CAS_ERR_INIT;
                switch (try_once(s, r, t, a, &signed_again, &why)) {
                case ANSWERED:
                        /* libcurl itself, or a proxy, may have sent it twice: on a connection that
                         * was kept and had just ended. */
                        return a->status == 412 && r->nonce ? settle(s, r, a, &done, err) : 0;
                case REFUSED:
                        *err = why;
                        return -(int)err->code;
                case REPEAT_NOW:
                        break;
                case REPEAT_AFTER:
                        unsure = true;
                        __attribute__((fallthrough));
                case REPEAT:
                        if (before_next(s, r, a, ++tried, unsure, &why, &done, err) < 0)
                                return -(int)err->code;
                        break;
                }
        }
        return 0;
}

int s3_perform(struct s3 *s, struct s3_request *r, struct s3_answer *a, struct cas_err *err)
{
        __attribute__((cleanup(attempt_release))) struct attempt t = {0};
        make_url(s, r, &t);
        if (find_payload(r, t.payload, err) < 0)
                return -(int)err->code;
        struct cas_err why = CAS_ERR_INIT;
        if (perform(s, r, &t, a, &why) == 0)
                return 0;
        atomic_fetch_add(&s->failed, 1);
        *err = why;
        return cas_err_wrap(err, "s3://%s/%.200s", s->config.bucket, r->key ? r->key : "");
}
