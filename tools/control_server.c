/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/control_server.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/un.h>
#include <time.h>

#include "cas/log.h"
#include "registry/http.h"
#include "tools/control.h"
#include "tools/ops.h"
#include "tools/ops_json.h"

#define PROGRESS_INTERVAL_NS UINT64_C(200000000)
#define STOP_WAIT_MS (60 * 1000)
#define IDLE_S (24 * 3600) /* an operation may be silent for long */

struct control_server {
        _Atomic bool ending;
        struct reg_http_server *http;
        struct cas_store *store;
        struct reg_registry *registry; /* NULL: none */
        struct remotes *remotes;
        struct tier_mover *mover;
        json_t *info; /* owned */
        atomic_uint_fast64_t used_s;
        atomic_uint under_way;
};

static uint64_t monotonic_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t control_server_used_s(const struct control_server *c)
{
        return atomic_load(&c->under_way) ? monotonic_ns() / 1000000000 : atomic_load(&c->used_s);
}

/* ---- answers ---- */

static void reply_json(struct reg_http_req *req, unsigned status, json_t *value)
{
        cas_cleanup_free char *text = json_dumps(value, JSON_COMPACT);
        json_decref(value);
        cas_assert(text != NULL);
        reg_http_reply_header(req, "Content-Type", "application/json");
        reg_http_reply_bytes(req, status, text, strlen(text));
}

static json_t *error_json(const struct cas_err *err)
{
        return json_pack("{s:{s:s, s:o, s:s, s:i}}", "error", "code", cas_code_name(err->code),
                         "message", op_text_json(err->msg), "where", err->where ? err->where : "",
                         "errno", err->sys_errno);
}

static void reply_error(struct reg_http_req *req, unsigned status, enum cas_code code,
                        const char *message)
{
        struct cas_err err = CAS_ERR_INIT;
        (void)cas_fail(&err, code, "%s", message);
        reply_json(req, status, error_json(&err));
}

static void stream_json(struct reg_http_stream *stream, json_t *value)
{
        cas_cleanup_free char *text = json_dumps(value, JSON_COMPACT);
        json_decref(value);
        cas_assert(text != NULL);
        cas_cleanup_free char *line = cas_xasprintf("%s\n", text);
        struct cas_err gone = CAS_ERR_INIT;
        /* A client that went away does not end its operation: what is half done would be lost. */
        (void)!reg_http_stream_write(stream, line, strlen(line), &gone);
}

/* ---- operations ---- */

struct call {
        struct control_server *server;
        const struct op *op;
        struct reg_http_stream *stream;
        uint64_t told_at_ns; /* one update at a time: guarded by the caller of the sink */
        json_t *items;       /* owned; of the update that follows, or NULL; guarded alike */
};

static void progress_send(void *arg, const char *what, uint64_t done, uint64_t total)
{
        struct call *call = arg;
        uint64_t now = monotonic_ns();
        if (now - call->told_at_ns < PROGRESS_INTERVAL_NS)
                return;
        call->told_at_ns = now;
        json_t *line = json_pack("{s:{s:o, s:I, s:I}}", "progress", "what", op_text_json(what),
                                 "done", (json_int_t)done, "total", (json_int_t)total);
        if (call->items)
                json_object_set_new(json_object_get(line, "progress"), "items",
                                    cas_steal(&call->items));
        stream_json(call->stream, line);
}

static void items_note(void *arg, const struct cas_progress_item *items, size_t count)
{
        struct call *call = arg;
        json_decref(call->items);
        call->items = json_array();
        for (size_t i = 0; i < count; i++)
                json_array_append_new(call->items, json_pack("{s:o, s:I, s:I}", "name",
                                                             op_text_json(items[i].name), "done",
                                                             (json_int_t)items[i].done, "total",
                                                             (json_int_t)items[i].total));
}

static void call_run(struct call *call, const json_t *args)
{
        struct cas_progress sink = {.update = progress_send, .arg = call, .items = items_note};
        struct op_context ctx = {.progress = &sink,
                                 .registry = call->server->registry,
                                 .remotes = call->server->remotes,
                                 .mover = call->server->mover,
                                 .ending = &call->server->ending};
        struct cas_err err = CAS_ERR_INIT;
        json_t *result = NULL;
        uint64_t start_ns = monotonic_ns();
        int rc = call->op->run(call->server->store, args, &ctx, &result, &err);
        cas_log(rc < 0 ? CAS_LOG_WARN : CAS_LOG_DEBUG, "op",
                "name=%s ms=%llu error=%s message=\"%s\"", call->op->name,
                (unsigned long long)((monotonic_ns() - start_ns) / 1000000),
                rc < 0 ? cas_code_name(err.code) : "", rc < 0 ? err.msg : "");
        stream_json(call->stream, rc < 0 ? error_json(&err) : json_pack("{s:o}", "result", result));
}

static void op_end(struct reg_http_req *req, void *state, const struct cas_buf *body)
{
        struct control_server *server = state;
        const struct op *op = op_find(reg_http_uri(req)->segments[1]);
        cas_assert(op != NULL); /* begin looked */
        op_cleanup_json json_t *args =
                json_loadb(cas_buf_str(body), body->len_bytes, JSON_REJECT_DUPLICATES, NULL);
        if (!json_is_object(args)) {
                reply_error(req, 400, CAS_E_INVALID, "the arguments are not a JSON object");
                return;
        }
        atomic_fetch_add(&server->under_way, 1);
        reg_http_reply_header(req, "Content-Type", "application/x-ndjson");
        struct call call = {.server = server,
                            .op = op,
                            .stream = reg_http_reply_stream(req, 200),
                            .told_at_ns = monotonic_ns()};
        call_run(&call, args);
        json_decref(call.items);
        reg_http_stream_close(call.stream, false);
        atomic_store(&server->used_s, monotonic_ns() / 1000000000);
        atomic_fetch_sub(&server->under_way, 1);
}

/* Only an owner that a command started is ended by a command; any makes way for another. */
static void end_request(struct control_server *server, struct reg_http_req *req, bool make_way)
{
        if (!make_way && !json_is_true(json_object_get(server->info, "background"))) {
                reply_error(req, 409, CAS_E_BUSY, "the owner was started by a person");
                return;
        }
        reply_json(req, 200, json_pack("{s:{}}", "result"));
        (void)kill(getpid(), SIGTERM);
}

static void request_begin(void *arg, struct reg_http_req *req)
{
        struct control_server *server = arg;
        uid_t peer;
        if (!reg_http_peer_uid(req, &peer) || (peer != 0 && peer != geteuid())) {
                reply_error(req, 403, CAS_E_DENIED, "the store belongs to another user");
                return;
        }
        atomic_store(&server->used_s, monotonic_ns() / 1000000000);
        const struct reg_uri *uri = reg_http_uri(req);
        if (uri->segment_count == 1 && strcmp(uri->segments[0], "info") == 0 &&
            reg_http_method(req) == REG_HTTP_GET) {
                reply_json(req, 200, json_incref(server->info));
                return;
        }
        bool make_way = strcmp(uri->segment_count ? uri->segments[0] : "", "make-way") == 0;
        if (uri->segment_count == 1 && (make_way || strcmp(uri->segments[0], "end") == 0) &&
            reg_http_method(req) == REG_HTTP_POST) {
                end_request(server, req, make_way);
                return;
        }
        if (uri->segment_count != 2 || strcmp(uri->segments[0], "op") != 0 ||
            !op_find(uri->segments[1])) {
                reply_error(req, 404, CAS_E_UNSUPPORTED, "no such operation");
                return;
        }
        if (reg_http_method(req) != REG_HTTP_POST) {
                reply_error(req, 405, CAS_E_INVALID, "operations are called by POST");
                return;
        }
        static const struct reg_http_whole_ops ops = {.bytes_max = CONTROL_ARGS_BYTES_MAX,
                                                      .end = op_end};
        reg_http_accept_whole(req, &ops, server);
}

int control_server_start(struct cas_store *s, struct reg_registry *registry,
                         struct remotes *remotes, struct tier_mover *mover, json_t *info,
                         struct control_server **out, struct cas_err *err)
{
        struct control_server *c = cas_xcalloc(1, sizeof(*c));
        c->store = s;
        c->registry = registry;
        c->remotes = remotes;
        c->mover = mover;
        c->info = json_incref(info);
        atomic_init(&c->used_s, monotonic_ns() / 1000000000);
        cas_cleanup_free char *path = cas_xasprintf("%s/" CONTROL_SOCKET_NAME, cas_store_path(s));
        if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path)) {
                free(path);
                path = cas_xasprintf("/proc/self/fd/%d/" CONTROL_SOCKET_NAME, cas_store_dirfd(s));
        }
        struct reg_http_config config = {.listen = path,
                                         .listen_fd = -1,
                                         .socket_mode = 0600,
                                         .threads = 1,
                                         .idle_s = IDLE_S,
                                         .name = "control",
                                         .begin = request_begin,
                                         .arg = c};
        if (reg_http_start(&config, &c->http, err) < 0) {
                json_decref(c->info);
                free(c);
                return cas_err_wrap(err, "control socket");
        }
        *out = c;
        return 0;
}

void control_server_stop(struct control_server *c)
{
        atomic_store(&c->ending, true);
        (void)unlinkat(cas_store_dirfd(c->store), CONTROL_SOCKET_NAME, 0);
        reg_http_stop(c->http, STOP_WAIT_MS);
        json_decref(c->info);
        free(c);
}
