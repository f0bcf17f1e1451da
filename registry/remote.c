/* SPDX-License-Identifier: Apache-2.0 */
/* Exchanges with a registry elsewhere: schemes, retries, errors. */
#include <ctype.h>
#include <time.h>

#include "cas/json.h"
#include "registry/httpc_int.h"
#include "registry/peer.h"
#include "registry/remote_int.h"

#define DOCKER_HUB_SERVER "registry-1.docker.io"
#define PAUSE_MS 200
#define PAUSE_MS_MAX 5000

uint64_t remote_now_ns(void)
{
        return httpc_now_ns();
}

static const char *copy_of(const char *text)
{
        return text ? cas_xstrdup(text) : NULL;
}

static bool host_valid(const char *host)
{
        size_t n = strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                ".-_:[]%");
        return n > 0 && n < 300 && host[n] == 0;
}

int reg_remote_open(const struct reg_remote_config *config, struct reg_remote **out,
                    struct cas_err *err)
{
        if (!host_valid(config->host))
                return cas_fail(err, CAS_E_INVALID, "%.100s: not HOST[:PORT]", config->host);
        struct reg_remote *r = cas_xcalloc(1, sizeof(*r));
        bool hub = strcmp(reg_authfile_host(config->host), "docker.io") == 0;
        r->config = *config;
        r->config.host = copy_of(config->host);
        r->config.user = copy_of(config->user);
        r->config.password = copy_of(config->password);
        r->config.identity_token = copy_of(config->identity_token);
        r->config.auth_file = copy_of(config->auth_file);
        r->config.ns = copy_of(config->ns);
        r->config.attempts = config->attempts ? config->attempts : REMOTE_ATTEMPTS;
        r->server = cas_xstrdup(hub ? DOCKER_HUB_SERVER : config->host);
        r->near = httpc_host_is_near(r->server);
        atomic_init(&r->was_near, r->near);
        if (config->plain_http)
                r->scheme = REMOTE_HTTP;
        else if (!r->near)
                r->scheme = REMOTE_HTTPS;
        cas_mutex_init(&r->mutex, "remote");
        cas_mutex_init(&r->fetching, "remote.fetching");
        *out = r;
        return 0;
}

static void wipe_free(const char *text)
{
        if (text)
                explicit_bzero((char *)(uintptr_t)text, strlen(text));
        free((char *)(uintptr_t)text);
}

void reg_remote_close(struct reg_remote *r)
{
        if (!r)
                return;
        remote_auth_release(r);
        free((char *)(uintptr_t)r->config.host);
        wipe_free(r->config.user);
        wipe_free(r->config.password);
        wipe_free(r->config.identity_token);
        free((char *)(uintptr_t)r->config.auth_file);
        free((char *)(uintptr_t)r->config.ns);
        free(r->server);
        cas_mutex_release(&r->mutex);
        cas_mutex_release(&r->fetching);
        free(r);
}

const char *reg_remote_host(const struct reg_remote *r)
{
        return r->config.host;
}

enum reg_remote_kind reg_remote_kind(const struct reg_remote *r)
{
        return r->kind;
}

/* A lamina stays one: what stands in front of it may answer for it. */
static void note_kind(struct reg_remote *r, const struct reg_httpc_transfer *t)
{
        if (reg_httpc_header(t, REG_PEER_HEADER))
                r->kind = REG_REMOTE_LAMINA;
        else if (reg_httpc_status(t) < 300 && r->kind == REG_REMOTE_UNKNOWN)
                r->kind = REG_REMOTE_OTHER;
}

char *reg_remote_repo(const struct reg_remote *r, const char *repo, char *out)
{
        bool library = strcmp(r->server, DOCKER_HUB_SERVER) == 0 && !strchr(repo, '/');
        (void)snprintf(out, REG_REMOTE_REPO_BYTES, "%s%s", library ? "library/" : "", repo);
        return out;
}

static enum remote_scheme scheme_of(struct reg_remote *r)
{
        cas_mutex_lock(&r->mutex);
        enum remote_scheme scheme = r->scheme;
        cas_mutex_unlock(&r->mutex);
        return scheme;
}

static void set_scheme(struct reg_remote *r, enum remote_scheme scheme)
{
        cas_mutex_lock(&r->mutex);
        r->scheme = scheme;
        cas_mutex_unlock(&r->mutex);
}

char *remote_base(struct reg_remote *r)
{
        return cas_xasprintf("%s://%s", scheme_of(r) == REMOTE_HTTP ? "http" : "https", r->server);
}

/* The request's URL, and whether it is the registry's own. */
static int request_url(struct reg_remote *r, const struct reg_remote_request *request, char **out,
                       bool *own, struct cas_err *err)
{
        cas_cleanup_free char *base = remote_base(r), *text = NULL;
        cas_cleanup_free char *origin = NULL, *base_url = NULL, *base_origin = NULL;
        bool pull = strcmp(request->method, "GET") == 0 || strcmp(request->method, "HEAD") == 0;
        bool absolute = strncmp(request->path, "https://", 8) == 0 ||
                        strncmp(request->path, "http://", 7) == 0;
        if (absolute || request->path[0] == '/')
                text = cas_xstrdup(request->path);
        else if (r->config.ns && pull)
                text = cas_xasprintf("/v2/%s%cns=%s", request->path,
                                     strchr(request->path, '?') ? '&' : '?', r->config.ns);
        else
                text = cas_xasprintf("/v2/%s", request->path);
        if (httpc_url(base, NULL, &base_url, &base_origin, err) < 0 ||
            httpc_url(base, text, out, &origin, err) < 0)
                return -(int)err->code;
        *own = strcmp(origin, base_origin) == 0;
        /* The registry's own word, or that of a document it has, says where to go. */
        bool near = httpc_host_is_near(strstr(origin, "://") + 3);
        return !*own && (request->scope_repo || near)
                       ? httpc_redirect_allowed(base_origin, origin, err)
                       : 0;
}

static int send_once(struct reg_remote *r, const struct reg_remote_request *request,
                     const char *auth, struct reg_httpc_transfer **out, struct cas_err *err)
{
        cas_cleanup_free char *url = NULL;
        bool own = false;
        if (request_url(r, request, &url, &own, err) < 0)
                return -(int)err->code;
        size_t count = 0;
        for (const char *const *h = request->headers; h && *h; h++)
                count++;
        cas_cleanup_free const char **headers = cas_xcalloc(count + 2, sizeof(*headers));
        for (size_t i = 0; i < count; i++)
                headers[i] = request->headers[i];
        if (auth && own)
                headers[count] = auth;
        struct reg_httpc_request http = {.method = request->method,
                                         .url = url,
                                         .headers = headers,
                                         .body = request->body,
                                         .body_bytes = request->body_bytes,
                                         .body_read = request->body_read,
                                         .body_arg = request->body_arg,
                                         .from_elsewhere = !own && !atomic_load(&r->was_near)};
        int rc = reg_httpc_begin(r->config.http, &http, out, err);
        if (rc == 0 && own && reg_httpc_was_near(*out))
                atomic_store(&r->was_near, true);
        return rc;
}

/* A machine's own registry need not speak TLS. */
static int send_either(struct reg_remote *r, const struct reg_remote_request *request,
                       const char *auth, struct reg_httpc_transfer **out, struct cas_err *err)
{
        if (scheme_of(r) != REMOTE_SCHEME_UNKNOWN)
                return send_once(r, request, auth, out, err);
        struct cas_err of_https = CAS_ERR_INIT;
        if (send_once(r, request, auth, out, &of_https) == 0) {
                set_scheme(r, REMOTE_HTTPS);
                return 0;
        }
        if (of_https.code == CAS_E_DENIED) { /* it speaks TLS, but not as somebody we trust */
                *err = of_https;
                return -(int)err->code;
        }
        set_scheme(r, REMOTE_HTTP);
        struct cas_err of_http = CAS_ERR_INIT;
        if (send_once(r, request, auth, out, &of_http) == 0)
                return 0;
        set_scheme(r, REMOTE_SCHEME_UNKNOWN);
        *err = of_http;
        (void)cas_err_wrap(err, "%.200s; by http", of_https.msg);
        return -(int)err->code;
}

int remote_try(struct reg_remote *r, const struct reg_remote_request *request,
               struct reg_httpc_transfer **out, struct cas_err *err)
{
        cas_cleanup_free char *wider = NULL, *refused = NULL;
        for (unsigned round = 0;; round++) {
                reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
                cas_cleanup_free char *auth = NULL;
                bool asks = false;
                if (remote_auth_header(r, request, wider, refused, &auth, err) < 0 ||
                    send_either(r, request, auth, &t, err) < 0)
                        return -(int)err->code;
                unsigned status = reg_httpc_status(t);
                note_kind(r, t);
                if ((status == 401 || status == 403) && round < REMOTE_AUTH_ROUNDS) {
                        cas_cleanup_free char *scope = NULL;
                        if (remote_auth_challenged(r, t, &asks, &scope, err) < 0)
                                return -(int)err->code;
                        /* The same credentials again would be refused again. */
                        bool again = round > 0 && (!scope || (wider && !strcmp(scope, wider)));
                        asks = asks && !again && (status == 401 || scope);
                        if (scope) {
                                free(wider);
                                wider = cas_steal(&scope);
                        }
                }
                if (!asks) {
                        *out = cas_steal(&t);
                        return 0;
                }
                free(refused);
                refused = cas_steal(&auth);
                cas_cleanup_buf struct cas_buf rest = CAS_BUF_INIT;
                struct cas_err unused = CAS_ERR_INIT;
                if (reg_httpc_read_all(t, REMOTE_ERROR_BYTES_MAX, &rest, &unused) < 0)
                        continue; /* only so that the connection serves again */
        }
}

bool remote_is_transient(unsigned status)
{
        return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 ||
               status == 504;
}

void remote_pause(unsigned attempt, const struct reg_remote_failure *failure)
{
        uint64_t ms = (uint64_t)failure->retry_after_s * 1000;
        if (ms == 0) {
                ms = cas_min_u64((uint64_t)PAUSE_MS << (attempt < 10 ? attempt : 10), PAUSE_MS_MAX);
                ms += remote_now_ns() / 1000 % (ms / 2); /* those who failed together spread */
        }
        struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}

/* Seconds, or a date. */
static unsigned retry_after(const struct reg_httpc_transfer *t)
{
        const char *text = reg_httpc_header(t, "Retry-After");
        if (!text)
                return 0;
        if (isdigit((unsigned char)*text)) {
                char *end;
                unsigned long n = strtoul(text, &end, 10);
                return *end ? 0 : n > UINT32_MAX ? UINT32_MAX : (unsigned)n;
        }
        time_t at = curl_getdate(text, NULL), now = time(NULL);
        return at > now ? (unsigned)(at - now) : 0;
}

/* What the registry says in words, in printable bytes. */
static void error_text(struct reg_httpc_transfer *t, char *out, size_t out_bytes)
{
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        cas_cleanup_json json_t *j = NULL;
        struct cas_err unused = CAS_ERR_INIT;
        out[0] = 0;
        if (reg_httpc_read_all(t, REMOTE_ERROR_BYTES_MAX, &body, &unused) < 0 ||
            cas_json_parse(body.data, body.len_bytes, REMOTE_ERROR_BYTES_MAX, &j, &unused) < 0)
                return;
        const json_t *first = json_array_get(json_object_get(j, "errors"), 0);
        const char *code = json_string_value(json_object_get(first, "code"));
        const char *message = json_string_value(json_object_get(first, "message"));
        if (!code && !message)
                return;
        (void)snprintf(out, out_bytes, ": %s%s%s", code ? code : "", code && message ? ", " : "",
                       message ? message : "");
        for (char *p = out; *p; p++) {
                if (*p < ' ' || *p > '~')
                        *p = '?';
        }
}

static enum cas_code code_of(unsigned status)
{
        switch (status) {
        case 401:
        case 403:
                return CAS_E_DENIED;
        case 404:
                return CAS_E_NOTFOUND;
        case 429:
        case 503:
                return CAS_E_BUSY;
        case 405:
        case 501:
                return CAS_E_UNSUPPORTED;
        default:
                return status >= 500 ? CAS_E_IO : CAS_E_INVALID;
        }
}

static int refused(struct reg_httpc_transfer *t, const char *method, struct cas_err *err)
{
        char text[240];
        cas_cleanup_free char *shown = httpc_url_shown(reg_httpc_url(t));
        error_text(t, text, sizeof(text));
        return cas_fail(err, code_of(reg_httpc_status(t)), "%s %s: HTTP %u%s", method, shown,
                        reg_httpc_status(t), text);
}

static bool is_success(unsigned status, const unsigned *accept)
{
        if (status < 400)
                return true;
        for (; accept && *accept; accept++) {
                if (*accept == status)
                        return true;
        }
        return false;
}

int reg_remote_exchange(struct reg_remote *r, const struct reg_remote_request *request,
                        struct reg_httpc_transfer **out, struct reg_remote_failure *failure,
                        struct cas_err *err)
{
        struct reg_remote_failure last = {0};
        int rc;
        for (unsigned attempt = 0;; attempt++) {
                reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
                struct cas_err why = CAS_ERR_INIT;
                bool transient;
                last = (struct reg_remote_failure){0};
                rc = remote_try(r, request, &t, &why);
                if (rc == 0) {
                        last.status = reg_httpc_status(t);
                        if (is_success(last.status, request->accept)) {
                                *out = cas_steal(&t);
                                break;
                        }
                        last.retry_after_s = retry_after(t);
                        transient = !r->config.impatient && remote_is_transient(last.status) &&
                                    last.retry_after_s <= REG_REMOTE_PAUSE_MAX_S;
                        rc = refused(t, request->method, &why);
                } else {
                        transient = why.code == CAS_E_IO || why.code == CAS_E_LIMIT;
                }
                if (!transient || request->once || attempt + 1 >= r->config.attempts) {
                        *err = why;
                        break;
                }
                remote_pause(attempt, &last);
        }
        if (failure)
                *failure = last;
        return rc;
}
