/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/s3http_int.h"

#include <signal.h>

#include "cas/io.h"

#define CURL_BUFFER_BYTES (256L * 1024)
#define META "x-amz-meta-lamina-"

uint64_t s3_now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void init_libcurl(void)
{
        cas_assert(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
}

/* The pool. */

void s3_handles_init(struct s3_handles *h, unsigned max_count)
{
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        (void)pthread_once(&once, init_libcurl);
        cas_assert(max_count > 0 && max_count <= S3_CONNECTIONS_MAX);
        cas_mutex_init(&h->mutex, "s3.handles");
        cas_cond_init(&h->changed);
        h->idle_count = h->busy_count = 0;
        h->max_count = max_count;
        atomic_init(&h->broken, false);
}

void s3_handles_release(struct s3_handles *h)
{
        cas_assert(h->busy_count == 0);
        while (h->idle_count > 0)
                curl_easy_cleanup(h->idle[--h->idle_count]);
        (void)pthread_cond_destroy(&h->changed);
        cas_mutex_release(&h->mutex);
}

void s3_handles_break(struct s3_handles *h)
{
        cas_mutex_lock(&h->mutex);
        atomic_store(&h->broken, true);
        (void)pthread_cond_broadcast(&h->changed);
        cas_mutex_unlock(&h->mutex);
}

bool s3_handles_sleep(struct s3_handles *h, unsigned ms)
{
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += ms / 1000;
        until.tv_nsec += (long)(ms % 1000) * 1000000;
        if (until.tv_nsec >= 1000000000) {
                until.tv_sec++;
                until.tv_nsec -= 1000000000;
        }
        cas_mutex_lock(&h->mutex);
        while (!atomic_load(&h->broken) && cas_mutex_timedwait(&h->mutex, &h->changed, &until))
                ;
        cas_mutex_unlock(&h->mutex);
        return !atomic_load(&h->broken);
}

/* NULL when broken. */
static CURL *take_handle(struct s3_handles *h)
{
        CURL *easy = NULL;
        cas_mutex_lock(&h->mutex);
        while (h->busy_count == h->max_count && !atomic_load(&h->broken))
                cas_mutex_wait(&h->mutex, &h->changed);
        if (!atomic_load(&h->broken)) {
                h->busy_count++;
                easy = h->idle_count > 0 ? h->idle[--h->idle_count] : curl_easy_init();
                cas_assert(easy != NULL);
        }
        cas_mutex_unlock(&h->mutex);
        return easy;
}

static void give_handle(struct s3_handles *h, CURL *easy)
{
        curl_easy_reset(easy); /* its connection stays */
        cas_mutex_lock(&h->mutex);
        h->busy_count--;
        h->idle[h->idle_count++] = easy;
        (void)pthread_cond_broadcast(&h->changed);
        cas_mutex_unlock(&h->mutex);
}

/* An exchange, as libcurl's callbacks know it. */
struct running {
        const struct s3_exchange *x;
        struct s3_answer *a;
        CURL *easy;
        const _Atomic bool *broken; /* NULL: never */
        struct cas_err *err;
        bool failed; /* err says why */
        uint64_t sent;
        uint64_t moved_at_ms;
        curl_off_t moved;
        unsigned headers;
        bool idle, ended; /* nothing moved; broken */
};

static int fail(struct running *r, int rc)
{
        r->failed = true;
        return rc;
}

static size_t on_send(char *buf, size_t size, size_t count, void *arg)
{
        struct running *r = arg;
        const struct s3_from *from = &r->x->from;
        size_t len = cas_min_u64(size * count, from->bytes - r->sent);
        if (from->memory) {
                memcpy(buf, (const uint8_t *)from->memory + r->sent, len);
        } else if (len > 0 &&
                   cas_io_pread_exact(cas_io_posix(), from->fd, buf, len, from->offset + r->sent,
                                      "the file that is put", r->err) < 0) {
                (void)fail(r, 0);
                r->a->final = true;
                return CURL_READFUNC_ABORT;
        }
        r->sent += len;
        return len;
}

static int on_rewind(void *arg, curl_off_t offset, int origin)
{
        struct running *r = arg;
        if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > r->x->from.bytes)
                return CURL_SEEKFUNC_CANTSEEK;
        r->sent = (uint64_t)offset;
        return CURL_SEEKFUNC_OK;
}

static int take_success(struct running *r, const char *data, size_t len)
{
        const struct s3_into *into = &r->x->into;
        uint64_t at = r->a->body_bytes;
        if (into->kind == S3_SINK_NONE)
                return 0;
        if (len > into->bytes - at) {
                if (into->kind == S3_SINK_BUF) {
                        r->a->final = true;
                        return cas_fail(r->err, CAS_E_LIMIT, "the answer is longer than %llu bytes",
                                        (unsigned long long)into->bytes);
                }
                return cas_fail(r->err, CAS_E_CORRUPT, "the answer is longer than was asked for");
        }
        if (into->kind == S3_SINK_BUF) {
                cas_buf_append(into->buf, data, len);
        } else if (into->kind == S3_SINK_MEMORY) {
                memcpy((uint8_t *)into->memory + at, data, len);
        } else if (cas_io_pwrite_all(cas_io_posix(), into->fd, data, len, into->offset + at,
                                     "the file that is fetched", r->err) < 0) {
                r->a->final = true;
                return -(int)r->err->code;
        }
        return 0;
}

static size_t on_data(char *data, size_t size, size_t count, void *arg)
{
        struct running *r = arg;
        size_t len = size * count;
        long status = 0;
        (void)curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &status);
        if (status >= 200 && status < 300) {
                if (take_success(r, data, len) < 0) {
                        (void)fail(r, 0);
                        return 0;
                }
        } else if (r->a->error.len_bytes + len <= S3_ERROR_BODY_BYTES_MAX) {
                cas_buf_append(&r->a->error, data, len);
        } else {
                return 0;
        }
        r->a->body_bytes += len;
        return len;
}

static void take_text(const char *value, size_t len, char *out, size_t size)
{
        if (len >= size)
                return; /* nothing that we would know how to use */
        memcpy(out, value, len);
        out[len] = '\0';
}

static void take_header(struct s3_answer *a, const char *name, size_t name_len, const char *value,
                        size_t len)
{
        const struct {
                const char *name;
                char *out;
                size_t size;
        } texts[] = {
                {"etag", a->etag, sizeof(a->etag)},
                {"date", a->date, sizeof(a->date)},
                {"content-range", a->range, sizeof(a->range)},
                {"x-amz-bucket-region", a->region, sizeof(a->region)},
                {"x-amz-checksum-sha256", a->checksum, sizeof(a->checksum)},
                {META "write", a->nonce, sizeof(a->nonce)},
                {META "sha256", a->sha256, sizeof(a->sha256)},
        };
        for (size_t i = 0; i < CAS_COUNT(texts); i++) {
                if (strlen(texts[i].name) == name_len &&
                    strncasecmp(texts[i].name, name, name_len) == 0)
                        take_text(value, len, texts[i].out, texts[i].size);
        }
        char text[64] = "";
        take_text(value, len, text, sizeof(text));
        if (name_len == 13 && strncasecmp(name, "last-modified", 13) == 0) {
                time_t when = curl_getdate(text, NULL);
                a->modified_unix_s = when > 0 ? when : 0;
        } else if (name_len == 11 && strncasecmp(name, "retry-after", 11) == 0) {
                a->retry_after_s = (unsigned)cas_min_u64(strtoull(text, NULL, 10), 3600);
        }
}

static size_t on_header(char *line, size_t size, size_t count, void *arg)
{
        struct running *r = arg;
        size_t len = size * count, kept = len;
        if (++r->headers > S3_ANSWER_HEADERS_MAX)
                return 0;
        while (kept > 0 && (line[kept - 1] == '\r' || line[kept - 1] == '\n'))
                kept--;
        const char *colon = memchr(line, ':', kept);
        if (!colon || memchr(line, 0, kept))
                return len;
        const char *value = colon + 1, *end = line + kept;
        while (value < end && (*value == ' ' || *value == '\t'))
                value++;
        while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
                end--;
        take_header(r->a, line, (size_t)(colon - line), value, (size_t)(end - value));
        return len;
}

static int on_progress(void *arg, curl_off_t down_total CAS_UNUSED, curl_off_t down,
                       curl_off_t up_total CAS_UNUSED, curl_off_t up)
{
        struct running *r = arg;
        uint64_t now = s3_now_ms();
        if (r->broken && atomic_load(r->broken)) {
                r->ended = true;
                return 1;
        }
        if (down + up != r->moved) {
                r->moved = down + up;
                r->moved_at_ms = now;
        }
        r->idle = now - r->moved_at_ms > r->x->timeout_ms;
        return r->idle;
}

/* Options are pointers, numbers or functions: all of them fit but where libcurl lacks them. */
#define SET(easy, option, value) cas_assert(curl_easy_setopt((easy), (option), (value)) == CURLE_OK)

static struct curl_slist *header_list(const struct s3_exchange *x)
{
        struct curl_slist *list = NULL;
        for (size_t i = 0; i < x->header_count; i++) {
                const struct s3_pair *p = &x->headers[i];
                if (strcmp(p->name, "host") == 0)
                        continue; /* libcurl's, of the URL: the same */
                cas_cleanup_free char *line = cas_xasprintf("%s: %s", p->name, p->value);
                list = curl_slist_append(list, line);
                cas_assert(list != NULL);
        }
        /* What libcurl would add by itself. */
        static const char *const none[] = {
                "Expect:", "Accept:", "Content-Type:", "Transfer-Encoding:"};
        for (size_t i = 0; i < CAS_COUNT(none); i++) {
                list = curl_slist_append(list, none[i]);
                cas_assert(list != NULL);
        }
        return list;
}

static void set_method(CURL *easy, const struct s3_exchange *x)
{
        if (strcmp(x->method, "HEAD") == 0) {
                SET(easy, CURLOPT_NOBODY, 1L);
        } else if (x->from.there) {
                SET(easy, CURLOPT_UPLOAD, 1L);
                SET(easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)x->from.bytes);
                SET(easy, CURLOPT_CUSTOMREQUEST, x->method);
        } else {
                SET(easy, CURLOPT_HTTPGET, 1L);
                SET(easy, CURLOPT_CUSTOMREQUEST, x->method);
        }
}

static void set_options(CURL *easy, struct running *r, struct curl_slist *headers, char *why)
{
        const struct s3_exchange *x = r->x;
        SET(easy, CURLOPT_NOSIGNAL, 1L);
        SET(easy, CURLOPT_URL, x->url);
        SET(easy, CURLOPT_PROTOCOLS_STR, "http,https");
        SET(easy, CURLOPT_FOLLOWLOCATION, 0L);
        SET(easy, CURLOPT_PATH_AS_IS, 1L); /* what is signed is what is sent */
        SET(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
        SET(easy, CURLOPT_BUFFERSIZE, CURL_BUFFER_BYTES);
        SET(easy, CURLOPT_UPLOAD_BUFFERSIZE, CURL_BUFFER_BYTES);
        SET(easy, CURLOPT_TCP_KEEPALIVE, 1L);
        SET(easy, CURLOPT_CONNECTTIMEOUT_MS,
            (long)cas_min_u64(x->timeout_ms, S3_CONNECT_TIMEOUT_MS));
        SET(easy, CURLOPT_ERRORBUFFER, why);
        SET(easy, CURLOPT_HTTPHEADER, headers);
        SET(easy, CURLOPT_USERAGENT, "lamina");
        SET(easy, CURLOPT_HEADERFUNCTION, on_header);
        SET(easy, CURLOPT_HEADERDATA, r);
        SET(easy, CURLOPT_WRITEFUNCTION, on_data);
        SET(easy, CURLOPT_WRITEDATA, r);
        SET(easy, CURLOPT_READFUNCTION, on_send);
        SET(easy, CURLOPT_READDATA, r);
        SET(easy, CURLOPT_SEEKFUNCTION, on_rewind);
        SET(easy, CURLOPT_SEEKDATA, r);
        SET(easy, CURLOPT_NOPROGRESS, 0L);
        SET(easy, CURLOPT_XFERINFOFUNCTION, on_progress);
        SET(easy, CURLOPT_XFERINFODATA, r);
        if (x->ca_file)
                SET(easy, CURLOPT_CAINFO, x->ca_file);
        if (x->no_proxy)
                SET(easy, CURLOPT_NOPROXY, "*");
        set_method(easy, x);
}

static int fail_transfer(struct running *r, CURLcode code, const char *why)
{
        struct s3_answer *a = r->a;
        const char *text = why[0] ? why : curl_easy_strerror(code);
        if (r->failed)
                return -(int)r->err->code;
        if (r->ended)
                return cas_fail(r->err, CAS_E_BUSY, "broken off");
        if (r->idle)
                return cas_fail(r->err, CAS_E_IO, "nothing moved for %u ms", r->x->timeout_ms);
        switch (code) {
        case CURLE_PEER_FAILED_VERIFICATION:
                a->final = true;
                return cas_fail(r->err, CAS_E_DENIED, "its certificate is not trusted: %s", text);
        case CURLE_SSL_CACERT_BADFILE:
        case CURLE_URL_MALFORMAT:
        case CURLE_UNSUPPORTED_PROTOCOL:
                a->final = true;
                return cas_fail(r->err, CAS_E_INVALID, "%s", text);
        default:
                return cas_fail(r->err, CAS_E_IO, "%s", text);
        }
}

static int check_length(struct running *r)
{
        const struct s3_into *into = &r->x->into;
        const struct s3_answer *a = r->a;
        bool exact = into->kind == S3_SINK_MEMORY || into->kind == S3_SINK_FILE;
        if (a->status < 200 || a->status >= 300 || !exact || a->body_bytes == into->bytes)
                return 0;
        return cas_fail(r->err, CAS_E_CORRUPT, "the answer has %llu bytes, not %llu",
                        (unsigned long long)a->body_bytes, (unsigned long long)into->bytes);
}

/* With CURLOPT_NOSIGNAL it is left to us that TLS may write to a connection that has ended. */
static CURLcode perform_without_sigpipe(CURL *easy)
{
        sigset_t pipe, before, pending;
        const struct timespec at_once = {0};
        (void)sigemptyset(&pipe);
        (void)sigaddset(&pipe, SIGPIPE);
        (void)sigpending(&pending);
        (void)pthread_sigmask(SIG_BLOCK, &pipe, &before);
        CURLcode code = curl_easy_perform(easy);
        while (!sigismember(&pending, SIGPIPE) && sigtimedwait(&pipe, NULL, &at_once) == SIGPIPE)
                ;
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
        return code;
}

static int perform(CURL *easy, const struct s3_exchange *x, const _Atomic bool *broken,
                   struct s3_answer *a, struct cas_err *err)
{
        char why[CURL_ERROR_SIZE] = "";
        struct running r = {.x = x, .a = a, .easy = easy, .broken = broken, .err = err};
        r.moved_at_ms = s3_now_ms();
        s3_answer_release(a);
        if (x->into.kind == S3_SINK_BUF)
                cas_buf_clear(x->into.buf);
        struct curl_slist *headers = header_list(x);
        set_options(easy, &r, headers, why);
        CURLcode code = perform_without_sigpipe(easy);
        long status = 0, request_bytes = 0;
        curl_off_t length = -1;
        (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
        (void)curl_easy_getinfo(easy, CURLINFO_REQUEST_SIZE, &request_bytes);
        (void)curl_easy_getinfo(easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
        a->status = (unsigned)status;
        a->length = length < 0 ? UINT64_MAX : (uint64_t)length;
        a->sent_bytes = r.sent;
        a->received_bytes = a->body_bytes;
        a->may_have_arrived = code != CURLE_OK && request_bytes > 0;
        int rc = code != CURLE_OK ? fail_transfer(&r, code, why) : check_length(&r);
        SET(easy, CURLOPT_HTTPHEADER, NULL);
        curl_slist_free_all(headers);
        return rc;
}

void s3_answer_release(struct s3_answer *a)
{
        cas_buf_release(&a->error);
        *a = (struct s3_answer){0};
}

int s3_http(struct s3_handles *h, const struct s3_exchange *x, struct s3_answer *a,
            struct cas_err *err)
{
        CURL *easy = take_handle(h);
        if (!easy) {
                a->final = true;
                return cas_fail(err, CAS_E_BUSY, "broken off");
        }
        int rc = perform(easy, x, &h->broken, a, err);
        give_handle(h, easy);
        return rc;
}

int s3_http_plain(const char *method, const char *url, const char *header, const char *value,
                  unsigned timeout_ms, size_t max_bytes, struct cas_buf *out, struct cas_err *err)
{
        const struct s3_pair pair = {header, value};
        struct s3_exchange x = {.method = method,
                                .url = url,
                                .headers = &pair,
                                .header_count = header ? 1 : 0,
                                .from = {.there = strcmp(method, "PUT") == 0, .memory = ""},
                                .into = {.kind = S3_SINK_BUF, .buf = out, .bytes = max_bytes},
                                .timeout_ms = timeout_ms,
                                .no_proxy = true};
        s3_cleanup_answer struct s3_answer a = {0};
        struct s3_handles one;
        s3_handles_init(&one, 1);
        int rc = s3_http(&one, &x, &a, err);
        s3_handles_release(&one);
        if (rc < 0)
                return rc;
        switch (a.status) {
        case 200:
                return 0;
        case 404:
                return cas_fail(err, CAS_E_NOTFOUND, "status 404");
        case 401:
        case 403:
                return cas_fail(err, CAS_E_DENIED, "status %u", a.status);
        default:
                return cas_fail(err, CAS_E_IO, "status %u", a.status);
        }
}
