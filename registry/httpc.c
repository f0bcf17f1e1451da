/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP client's callers' side: requests become exchanges of the thread
 * (httpc_loop.c), bodies are fed, redirects followed. */
#include "registry/httpc.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>

#include "registry/hostcerts.h"
#include "registry/httpc_int.h"

#define CONNECTIONS_PER_HOST 6
#define CONNECTIONS 64
#define CONNECT_TIMEOUT_MS 10000
#define IDLE_TIMEOUT_MS 30000
#define DRAIN_BYTES_MAX ((size_t)16 * 1024)
#define CURL_BUFFER_BYTES (128 * 1024)

static void init_libcurl(void)
{
        cas_assert(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
}

static char *copy_of(const char *text)
{
        return text ? cas_xstrdup(text) : NULL;
}

/* The thread is to get no signals: they are the program's, and a broken pipe is no reason to die.
 */
static int start_thread(struct reg_httpc *c)
{
        sigset_t all, before;
        (void)sigfillset(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &before);
        int rc = pthread_create(&c->thread, NULL, httpc_thread, c);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
        return rc;
}

static void free_client(struct reg_httpc *c)
{
        (void)curl_multi_cleanup(c->multi);
        free((char *)(uintptr_t)c->config.ca_path);
        free((char *)(uintptr_t)c->config.client_cert_path);
        free((char *)(uintptr_t)c->config.client_key_path);
        (void)pthread_cond_destroy(&c->slot_free);
        cas_mutex_release(&c->mutex);
        free(c);
}

static unsigned or_else(unsigned value, unsigned usual)
{
        return value ? value : usual;
}

int reg_httpc_new(const struct reg_httpc_config *config, struct reg_httpc **out,
                  struct cas_err *err)
{
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        (void)pthread_once(&once, init_libcurl);
        struct reg_httpc *c = cas_xcalloc(1, sizeof(*c));
        c->config = *config;
        c->config.connections_per_host =
                or_else(config->connections_per_host, CONNECTIONS_PER_HOST);
        c->config.connections = or_else(config->connections, CONNECTIONS);
        c->config.connect_timeout_ms = or_else(config->connect_timeout_ms, CONNECT_TIMEOUT_MS);
        c->config.idle_timeout_ms = or_else(config->idle_timeout_ms, IDLE_TIMEOUT_MS);
        c->config.ca_path = copy_of(config->ca_path);
        c->config.client_cert_path = copy_of(config->client_cert_path);
        c->config.client_key_path = copy_of(config->client_key_path);
        c->multi = curl_multi_init();
        cas_assert(c->multi != NULL);
        /* HTTP/2 without sharing connections: one that is paused would hold up the others on it. */
        (void)curl_multi_setopt(c->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
        (void)curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, (long)c->config.connections);
        cas_mutex_init(&c->mutex, "httpc");
        cas_cond_init(&c->slot_free);
        int rc = start_thread(c);
        if (rc) {
                free_client(c);
                return cas_fail_sys(err, rc, "start the HTTP client");
        }
        *out = c;
        return 0;
}

void reg_httpc_free(struct reg_httpc *c)
{
        if (!c)
                return;
        cas_mutex_lock(&c->mutex);
        cas_assert(c->open_count == 0);
        c->stopping = true;
        cas_mutex_unlock(&c->mutex);
        (void)curl_multi_wakeup(c->multi);
        (void)pthread_join(c->thread, NULL);
        free_client(c);
}

void reg_httpc_break(struct reg_httpc *c)
{
        cas_mutex_lock(&c->mutex);
        c->broken = true;
        (void)pthread_cond_broadcast(&c->slot_free);
        cas_mutex_unlock(&c->mutex);
        (void)curl_multi_wakeup(c->multi);
}

/* Slots: as many transfers are open as the configuration allows. */

static struct httpc_host *host_locked(struct reg_httpc *c, const char *origin)
{
        cas_assert_held(&c->mutex);
        for (struct httpc_host *h = c->hosts; h; h = h->next) {
                if (strcmp(h->name, origin) == 0)
                        return h;
        }
        struct httpc_host *h = cas_xcalloc(1, sizeof(*h));
        h->name = cas_xstrdup(origin);
        h->next = c->hosts;
        c->hosts = h;
        return h;
}

static void drop_host_locked(struct reg_httpc *c, struct httpc_host *h)
{
        cas_assert_held(&c->mutex);
        struct httpc_host **at = &c->hosts;
        while (*at != h)
                at = &(*at)->next;
        *at = h->next;
        free(h->name);
        free(h);
}

/* A host is looked up anew each time: it may go while nobody has it open. */
static int take_slot(struct reg_httpc *c, const char *origin, struct httpc_host **out,
                     struct cas_err *err)
{
        uint64_t until_ns = httpc_now_ns() + (uint64_t)c->config.idle_timeout_ms * 1000000;
        struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000),
                                 .tv_nsec = (long)(until_ns % 1000000000)};
        bool in_time = true;
        cas_mutex_lock(&c->mutex);
        struct httpc_host *h = host_locked(c, origin);
        while (in_time && !c->broken &&
               (c->open_count >= c->config.connections ||
                h->open_count >= c->config.connections_per_host)) {
                in_time = cas_mutex_timedwait(&c->mutex, &c->slot_free, &until);
                h = host_locked(c, origin);
        }
        bool broken = c->broken;
        if (in_time && !broken) {
                h->open_count++;
                c->open_count++;
        } else if (h->open_count == 0) {
                drop_host_locked(c, h);
        }
        cas_mutex_unlock(&c->mutex);
        if (broken)
                return cas_fail(err, CAS_E_BUSY, "%s: broken off",
                                origin); /* not to be tried again */
        if (!in_time)
                return cas_fail(err, CAS_E_LIMIT, "%s: as many connections as allowed are in use",
                                origin);
        *out = h;
        return 0;
}

static void give_slot(struct reg_httpc *c, struct httpc_host *h)
{
        cas_mutex_lock(&c->mutex);
        c->open_count--;
        if (--h->open_count == 0)
                drop_host_locked(c, h);
        (void)pthread_cond_broadcast(&c->slot_free);
        cas_mutex_unlock(&c->mutex);
}

/* One exchange. */

/* Names have been looked up: somebody else's may mean this machine. */
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
        const struct reg_httpc_transfer *x = arg;
        (void)purpose;
        if (x->from_elsewhere && httpc_address_is_near(&address->addr))
                return CURL_SOCKET_BAD;
        int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
        return fd < 0 ? CURL_SOCKET_BAD : fd;
}

static void exchange_free(struct reg_httpc_transfer *x)
{
        struct reg_httpc *c = x->c;
        cas_mutex_lock(&c->mutex);
        if (x->asked_listed) {
                struct reg_httpc_transfer *before = NULL;
                for (struct reg_httpc_transfer *a = c->asked; a != x; a = a->asked_next)
                        before = a;
                if (before)
                        before->asked_next = x->asked_next;
                else
                        c->asked = x->asked_next;
                if (c->asked_last == x)
                        c->asked_last = before;
        }
        cas_mutex_unlock(&c->mutex);
        curl_easy_cleanup(x->easy);
        curl_slist_free_all(x->sent);
        if (x->host)
                give_slot(c, x->host);
        (void)pthread_cond_destroy(&x->changed);
        cas_mutex_release(&x->mutex);
        cas_buf_release(&x->head);
        free(x->in.data);
        free(x->out.data);
        free(x->url);
        free(x);
}

static void add_header(struct reg_httpc_transfer *x, const char *line)
{
        struct curl_slist *more = curl_slist_append(x->sent, line);
        cas_assert(more != NULL);
        x->sent = more;
}

static bool is_header(const char *line, const char *name)
{
        size_t len = strlen(name);
        return strncasecmp(line, name, len) == 0 && line[len] == ':';
}

static void set_callbacks(struct reg_httpc_transfer *x)
{
        CURL *e = x->easy;
        (void)curl_easy_setopt(e, CURLOPT_PRIVATE, x);
        (void)curl_easy_setopt(e, CURLOPT_ERRORBUFFER, x->why);
        (void)curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, httpc_on_header);
        (void)curl_easy_setopt(e, CURLOPT_HEADERDATA, x);
        (void)curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, httpc_on_data);
        (void)curl_easy_setopt(e, CURLOPT_WRITEDATA, x);
        (void)curl_easy_setopt(e, CURLOPT_READFUNCTION, httpc_on_send);
        (void)curl_easy_setopt(e, CURLOPT_READDATA, x);
        (void)curl_easy_setopt(e, CURLOPT_SEEKFUNCTION, httpc_on_rewind);
        (void)curl_easy_setopt(e, CURLOPT_SEEKDATA, x);
        (void)curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, open_socket);
        (void)curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, x);
}

static int set_certificates(struct reg_httpc_transfer *x, const char *origin, struct cas_err *err)
{
        CURL *e = x->easy;
        const struct reg_httpc_config *config = &x->c->config;
        if (config->insecure) {
                (void)curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 0L);
                (void)curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 0L);
        }
        if (config->ca_path) /* beside the system's directory of them */
                (void)curl_easy_setopt(e, CURLOPT_CAINFO, config->ca_path);
        if (config->client_cert_path)
                (void)curl_easy_setopt(e, CURLOPT_SSLCERT, config->client_cert_path);
        if (config->client_key_path)
                (void)curl_easy_setopt(e, CURLOPT_SSLKEY, config->client_key_path);
        if (!config->host_certs || strncmp(origin, "https:", 6) != 0)
                return 0;
        cas_cleanup_free char *host = httpc_origin_host(origin);
        reg_cleanup_hostcerts struct reg_hostcerts certs = {0};
        if (reg_hostcerts_find(NULL, host, &certs, err) < 0)
                return -(int)err->code;
        if (certs.ca.len_bytes > 0) {
                struct curl_blob blob = {
                        .data = certs.ca.data, .len = certs.ca.len_bytes, .flags = CURL_BLOB_COPY};
                (void)curl_easy_setopt(e, CURLOPT_CAINFO_BLOB, &blob);
        }
        if (certs.cert_path) {
                (void)curl_easy_setopt(e, CURLOPT_SSLCERT, certs.cert_path);
                (void)curl_easy_setopt(e, CURLOPT_SSLKEY, certs.key_path);
        }
        return 0;
}

static int set_connection(struct reg_httpc_transfer *x, const char *origin, struct cas_err *err)
{
        CURL *e = x->easy;
        const struct reg_httpc_config *config = &x->c->config;
        (void)curl_easy_setopt(e, CURLOPT_URL, x->url);
        (void)curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L);
        (void)curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
        (void)curl_easy_setopt(
                e, CURLOPT_HTTP_VERSION,
                (long)(config->http1_only ? CURL_HTTP_VERSION_1_1 : CURL_HTTP_VERSION_2TLS));
        (void)curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
        (void)curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
        (void)curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
        (void)curl_easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
        (void)curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)config->connect_timeout_ms);
        (void)curl_easy_setopt(e, CURLOPT_BUFFERSIZE, (long)CURL_BUFFER_BYTES);
        (void)curl_easy_setopt(e, CURLOPT_UPLOAD_BUFFERSIZE, (long)CURL_BUFFER_BYTES);
        if (httpc_host_is_near(strstr(origin, "://") + 3))
                (void)curl_easy_setopt(e, CURLOPT_PROXY, ""); /* none is asked for ourselves */
        return set_certificates(x, origin, err);
}

static void set_request(struct reg_httpc_transfer *x, const struct reg_httpc_request *r,
                        bool same_origin)
{
        CURL *e = x->easy;
        bool sends = strcmp(r->method, "PUT") == 0 || strcmp(r->method, "POST") == 0 ||
                     strcmp(r->method, "PATCH") == 0;
        if (strcmp(r->method, "HEAD") == 0)
                (void)curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
        x->body_bytes = UINT64_MAX;
        if (sends) {
                x->body = r->body_read ? NULL : r->body ? r->body : (const uint8_t *)"";
                x->body_bytes = r->body_bytes;
                (void)curl_easy_setopt(e, CURLOPT_UPLOAD, 1L);
                (void)curl_easy_setopt(e, CURLOPT_INFILESIZE_LARGE, (curl_off_t)r->body_bytes);
        }
        x->answer_is_slow = sends || strcmp(r->method, "DELETE") == 0;
        (void)curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, r->method);
        add_header(x, "Expect:"); /* that is, none */
        for (const char *const *h = r->headers; h && *h; h++) {
                if (same_origin || !is_header(*h, "Authorization"))
                        add_header(x, *h);
        }
        (void)curl_easy_setopt(e, CURLOPT_USERAGENT, "lamina");
        (void)curl_easy_setopt(e, CURLOPT_HTTPHEADER, x->sent);
}

static int exchange_new(struct reg_httpc *c, const struct reg_httpc_request *r, const char *url,
                        const char *origin, bool same_origin, bool from_elsewhere,
                        struct reg_httpc_transfer **out, struct cas_err *err)
{
        struct httpc_host *host = NULL;
        if (take_slot(c, origin, &host, err) < 0)
                return -(int)err->code;
        struct reg_httpc_transfer *x = cas_xcalloc(1, sizeof(*x));
        x->c = c;
        x->host = host;
        x->url = cas_xstrdup(url);
        x->from_elsewhere = from_elsewhere;
        cas_mutex_init(&x->mutex, "httpc.transfer");
        cas_cond_init(&x->changed);
        x->length = UINT64_MAX;
        x->easy = curl_easy_init();
        cas_assert(x->easy != NULL);
        set_callbacks(x);
        set_request(x, r, same_origin);
        if (set_connection(x, origin, err) < 0) {
                exchange_free(x);
                return -(int)err->code;
        }
        *out = x;
        return 0;
}

/* What ended an exchange, as an error of ours. */
static int exchange_failed(const struct reg_httpc_transfer *x, struct cas_err *err)
{
        cas_cleanup_free char *shown = httpc_url_shown(x->url);
        if (x->idle)
                return cas_fail(err, CAS_E_LIMIT, "%s: nothing came for %u s", shown,
                                x->c->config.idle_timeout_ms / 1000);
        if (x->head_too_long)
                return cas_fail(err, CAS_E_IO, "%s: the answer's headers are too long or broken",
                                shown);
        enum cas_code code = CAS_E_IO;
        if (x->result == CURLE_OPERATION_TIMEDOUT)
                code = CAS_E_LIMIT;
        else if (x->result == CURLE_URL_MALFORMAT)
                code = CAS_E_INVALID;
        else if (x->result == CURLE_PEER_FAILED_VERIFICATION)
                code = CAS_E_DENIED; /* a certificate; trying again changes nothing */
        else if (x->result == CURLE_OUT_OF_MEMORY)
                code = CAS_E_NOMEM;
        return cas_fail(err, code, "%s: %s", shown,
                        x->why[0] ? x->why : curl_easy_strerror(x->result));
}

/* A piece of the body from its source; the mutex is not held while that works. */
static int feed_piece_locked(struct reg_httpc_transfer *x, const struct reg_httpc_request *r,
                             uint8_t *piece, struct cas_err *err)
{
        cas_assert_held(&x->mutex);
        unsigned generation = x->body_generation;
        uint64_t offset = x->body_offset;
        size_t want = cas_min_u64(cas_min_u64(REG_HTTPC_PIECE_BYTES, r->body_bytes - offset),
                                  httpc_ring_room(&x->out));
        size_t got = 0;
        cas_mutex_unlock(&x->mutex);
        int rc = r->body_read(r->body_arg, offset, piece, want, &got, err);
        if (rc == 0 && (got == 0 || got > want))
                rc = cas_fail(err, CAS_E_INVALID, "the body ends after %llu of %llu bytes",
                              (unsigned long long)offset, (unsigned long long)r->body_bytes);
        cas_mutex_lock(&x->mutex);
        if (rc < 0)
                return rc;
        if (generation != x->body_generation)
                return 0; /* from the beginning again */
        httpc_ring_put(&x->out, piece, got);
        x->body_offset += got;
        if (x->out_paused) {
                cas_mutex_unlock(&x->mutex);
                httpc_ask(x, HTTPC_RESUME);
                cas_mutex_lock(&x->mutex);
        }
        return 0;
}

/* Feeds the body until the answer's head is here. */
static int exchange_wait_head(struct reg_httpc_transfer *x, const struct reg_httpc_request *r,
                              struct cas_err *err)
{
        bool feeds = x->body_bytes != UINT64_MAX && r->body_read;
        cas_cleanup_free uint8_t *piece = feeds ? cas_xmalloc(REG_HTTPC_PIECE_BYTES) : NULL;
        int rc = 0;
        cas_mutex_lock(&x->mutex);
        while (rc == 0 && !x->head_done && !x->done) {
                if (feeds && x->body_offset < r->body_bytes && httpc_ring_room(&x->out) > 0)
                        rc = feed_piece_locked(x, r, piece, err);
                else
                        cas_mutex_wait(&x->mutex, &x->changed);
        }
        x->out_ended = true;
        bool wake = x->out_paused;
        bool head = x->head_done;
        cas_mutex_unlock(&x->mutex);
        if (rc == 0 && !head)
                return exchange_failed(x, err);
        if (wake)
                httpc_ask(x, HTTPC_RESUME);
        return rc;
}

/* Reads a short rest away, so that the connection serves again. */
static void drain(struct reg_httpc_transfer *x)
{
        struct cas_err unused = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf rest = CAS_BUF_INIT;
        if (x->length <= DRAIN_BYTES_MAX && reg_httpc_read_all(x, DRAIN_BYTES_MAX, &rest, &unused))
                return; /* it is ended anyway */
}

static bool is_redirect(unsigned status, const char *method)
{
        if (status == 307 || status == 308)
                return true;
        return (status == 301 || status == 302 || status == 303) &&
               (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0);
}

int reg_httpc_begin(struct reg_httpc *c, const struct reg_httpc_request *request,
                    struct reg_httpc_transfer **out, struct cas_err *err)
{
        cas_cleanup_free char *url = NULL, *origin = NULL;
        if (httpc_url(request->url, NULL, &url, &origin, err) < 0)
                return -(int)err->code;
        cas_cleanup_free char *first = cas_xstrdup(origin);
        bool from_elsewhere = request->from_elsewhere;
        for (unsigned hops = 0;; hops++) {
                reg_cleanup_transfer struct reg_httpc_transfer *x = NULL;
                if (exchange_new(c, request, url, origin, strcmp(origin, first) == 0,
                                 from_elsewhere, &x, err) < 0)
                        return -(int)err->code;
                httpc_ask(x, HTTPC_START);
                if (exchange_wait_head(x, request, err) < 0)
                        return -(int)err->code;
                const char *to = reg_httpc_header(x, "Location");
                if (request->no_redirects || !to || !is_redirect(x->status, request->method)) {
                        *out = cas_steal(&x);
                        return 0;
                }
                if (hops == REG_HTTPC_REDIRECTS_MAX)
                        return cas_fail(err, CAS_E_DENIED, "%s: more than %d redirects",
                                        request->url, REG_HTTPC_REDIRECTS_MAX);
                cas_cleanup_free char *next = NULL, *next_origin = NULL;
                if (httpc_url(url, to, &next, &next_origin, err) < 0)
                        return cas_err_wrap(err, "redirected");
                if (httpc_redirect_allowed(origin, next_origin, err) < 0)
                        return -(int)err->code;
                from_elsewhere = from_elsewhere || !x->was_near;
                drain(x);
                free(url);
                free(origin);
                url = cas_steal(&next);
                origin = cas_steal(&next_origin);
        }
}

unsigned reg_httpc_status(const struct reg_httpc_transfer *t)
{
        return t->status;
}

const char *reg_httpc_header_at(const struct reg_httpc_transfer *t, const char *name, size_t index)
{
        const char *line = cas_buf_str(&t->head), *end = line + t->head.len_bytes;
        for (; line < end; line += strlen(line) + 1) {
                if (is_header(line, name) && index-- == 0) {
                        line += strlen(name) + 1;
                        return line + strspn(line, " \t");
                }
        }
        return NULL;
}

const char *reg_httpc_header(const struct reg_httpc_transfer *t, const char *name)
{
        const char *last = NULL, *value;
        for (size_t i = 0; (value = reg_httpc_header_at(t, name, i)); i++)
                last = value;
        return last;
}

bool reg_httpc_was_near(const struct reg_httpc_transfer *t)
{
        return t->was_near;
}

uint64_t reg_httpc_length(const struct reg_httpc_transfer *t)
{
        return t->length;
}

const char *reg_httpc_url(const struct reg_httpc_transfer *t)
{
        return t->url;
}

int reg_httpc_read(struct reg_httpc_transfer *t, void *buf, size_t len, size_t *out_len,
                   struct cas_err *err)
{
        cas_mutex_lock(&t->mutex);
        while (t->in.have == 0 && !t->done)
                cas_mutex_wait(&t->mutex, &t->changed);
        size_t n = httpc_ring_take(&t->in, buf, len);
        bool failed = n == 0 && t->done && t->result != CURLE_OK;
        bool wake = t->in_paused && !t->done && httpc_ring_room(&t->in) >= REG_HTTPC_RING_BYTES / 2;
        cas_mutex_unlock(&t->mutex);
        if (wake)
                httpc_ask(t, HTTPC_RESUME);
        if (failed)
                return exchange_failed(t, err);
        *out_len = n;
        return 0;
}

int reg_httpc_read_all(struct reg_httpc_transfer *t, size_t max_bytes, struct cas_buf *out,
                       struct cas_err *err)
{
        uint8_t piece[16384];
        for (size_t total = 0, n;; total += n) {
                if (reg_httpc_read(t, piece, sizeof(piece), &n, err) < 0)
                        return -(int)err->code;
                if (n == 0)
                        return 0;
                if (total + n > max_bytes)
                        return cas_fail(err, CAS_E_LIMIT, "%s: an answer of more than %zu bytes",
                                        t->url, max_bytes);
                cas_buf_append(out, piece, n);
        }
}

void reg_httpc_end(struct reg_httpc_transfer *t)
{
        if (!t)
                return;
        cas_mutex_lock(&t->mutex);
        bool done = t->done;
        cas_mutex_unlock(&t->mutex);
        if (!done)
                httpc_ask(t, HTTPC_END);
        cas_mutex_lock(&t->mutex);
        while (!t->done)
                cas_mutex_wait(&t->mutex, &t->changed);
        cas_mutex_unlock(&t->mutex);
        exchange_free(t);
}
