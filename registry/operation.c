/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/operation.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <time.h>

#include "cas/blobstream.h"
#include "cas/json.h"
#include "cas/log.h"
#include "cas/maintenance.h"
#include "cas/mutex.h"
#include "cas/version.h"
#include "registry/accesslog.h"
#include "registry/operation_config.h"
#include "registry/reg_access.h"
#include "registry/retention.h"
#include "registry/webhook.h"
#include "registry/websharing.h"

#define TICK_MS 1000
#define UPLOADS_EVERY_S 15
#define PROBE_EVERY_S 5
#define STOP_MS 2000
#define CLOCK_EVERY_S 60
#define RETENTION_FIRST_S 300 /* after the start, at the latest */
#define REASON_BYTES 160

/* What the disk said last. */
struct probe {
        uint64_t at_s; /* 0: not asked yet */
        uint64_t free_bytes;
        char reason[REASON_BYTES]; /* "": it takes writes, and has room */
};

struct reg_operation {
        struct cas_store *store; /* borrowed, as the next two */
        const struct reg_operation_config *config;
        const struct reg_config *all;
        struct reg_access *access;
        struct reg_events *events;
        struct reg_metrics *metrics;   /* owned, as all that follows */
        struct reg_webhooks *webhooks; /* NULL: none */
        struct reg_tagclock *clock;
        struct reg_websharing *sharing; /* NULL: no web page */
        struct reg_accesslog *log;      /* NULL: off */
        struct reg_http_server *http;   /* its own address; NULL: none */
        _Atomic bool stopping;
        uint64_t id_prefix; /* random */
        _Atomic(uint64_t) id_count;

        struct cas_mutex probe_mutex; /* held while the disk is asked */
        struct probe probe;

        pthread_t keeper;
        struct cas_mutex mutex; /* guards all below */
        pthread_cond_t change;
        bool stop;
        bool has_stats;
        struct cas_store_stats stats;
        uint64_t stats_ms; /* how long it took to find them out */
        uint64_t upload_count;
};

static uint64_t monotonic_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

struct reg_metrics *reg_operation_metrics(struct reg_operation *op)
{
        return op->metrics;
}

bool reg_operation_stats(struct reg_operation *op, struct cas_store_stats *out)
{
        cas_mutex_lock(&op->mutex);
        bool has = op->has_stats;
        *out = op->stats;
        cas_mutex_unlock(&op->mutex);
        return has;
}

struct reg_websharing *reg_operation_sharing(struct reg_operation *op)
{
        return op->sharing;
}

struct reg_tagclock *reg_operation_tagclock(struct reg_operation *op)
{
        return op->clock;
}

void reg_operation_id(struct reg_operation *op, char out[REG_OPERATION_ID_BYTES])
{
        static const char digits[] = "0123456789abcdef";
        uint64_t parts[2] = {op->id_prefix, atomic_fetch_add(&op->id_count, 1)};
        for (unsigned i = 0; i < 32; i++)
                out[i] = digits[parts[i / 16] >> (60 - i % 16 * 4) & 15];
        out[32] = '\0';
}

/* ---- what the keeper finds out ---- */

/* Upload sessions that are open: ID.data of each. */
static uint64_t count_uploads(struct reg_operation *op)
{
        uint64_t count = 0;
        int fd = openat(cas_store_dirfd(op->store), "uploads", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
        if (!dir) {
                if (fd >= 0)
                        (void)close(fd);
                return 0;
        }
        for (const struct dirent *e; (e = readdir(dir));) {
                const char *end = strrchr(e->d_name, '.');
                count += end && strcmp(end, ".data") == 0;
        }
        (void)closedir(dir);
        return count;
}

static void refresh_stats(struct reg_operation *op)
{
        struct cas_store_stats stats = {0};
        struct cas_err err = CAS_ERR_INIT;
        uint64_t start_ms = monotonic_ms();
        if (cas_store_stats(op->store, &stats, &err) < 0) {
                cas_log(CAS_LOG_WARN, "metrics", "stats=failed message=\"%s\"", err.msg);
                return;
        }
        cas_mutex_lock(&op->mutex);
        op->stats = stats;
        op->stats_ms = monotonic_ms() - start_ms;
        op->has_stats = true;
        cas_mutex_unlock(&op->mutex);
}

/* Waits for the next tick. False: the end. */
static bool next_tick(struct reg_operation *op)
{
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += TICK_MS / 1000;
        cas_mutex_lock(&op->mutex);
        while (!op->stop && cas_mutex_timedwait(&op->mutex, &op->change, &until))
                ;
        bool stop = op->stop;
        cas_mutex_unlock(&op->mutex);
        return !stop;
}

static void keep_uploads(struct reg_operation *op)
{
        uint64_t count = count_uploads(op);
        cas_mutex_lock(&op->mutex);
        op->upload_count = count;
        cas_mutex_unlock(&op->mutex);
}

static void write_clock(struct reg_operation *op)
{
        struct cas_err err = CAS_ERR_INIT;
        if (reg_tagclock_write(op->clock, &err) < 0)
                cas_log(CAS_LOG_WARN, "tag-times", "error=\"%s\"", err.msg);
}

static bool is_public(void *arg, const char *repo)
{
        const struct reg_operation *op = arg;
        return reg_access_public(op->access, repo);
}

static void refresh_sharing(struct reg_operation *op)
{
        struct cas_err err = CAS_ERR_INIT;
        if (reg_websharing_refresh(op->sharing, op->store, is_public, op, &err) < 0)
                cas_log(CAS_LOG_WARN, "web", "sharing=failed message=\"%s\"", err.msg);
}

static void removed(void *arg CAS_UNUSED, const struct reg_retention_item *item)
{
        char digest[CAS_DIGEST_TEXT_BYTES];
        cas_log(CAS_LOG_INFO, "retention", "rule=%s repository=%s tag=%s manifest=%s why=\"%s\"",
                item->rule, item->repo, item->tag, cas_digest_text(&item->manifest, digest),
                item->reason);
}

static void apply_retention(struct reg_operation *op)
{
        const struct reg_retention_run run = {
                .store = op->store,
                .config = reg_config_area(op->all, reg_retention_area.word),
                .immutable = reg_config_area(op->all, reg_immutable_area.word),
                .clock = op->clock,
                .events = op->events,
                .metrics = op->metrics,
                .stop = &op->stopping,
                .fn = removed,
        };
        struct reg_retention_result result;
        struct cas_err err = CAS_ERR_INIT;
        if (reg_retention_apply(&run, &result, &err) < 0)
                cas_log(CAS_LOG_WARN, "retention", "error=\"%s\"", err.msg);
}

/* What is done now and then. */
static void *keep(void *arg)
{
        struct reg_operation *op = arg;
        uint64_t retention_s = cas_min_u64(op->config->retention_every_s, RETENTION_FIRST_S);
        struct {
                void (*fn)(struct reg_operation *op);
                uint64_t every_s, at_ms;
        } tasks[] = {
                {keep_uploads, UPLOADS_EVERY_S, 0},
                {refresh_stats, op->config->stats_every_s, 0},
                {refresh_sharing, op->sharing ? op->config->stats_every_s : 0, 0},
                {write_clock, CLOCK_EVERY_S, monotonic_ms() + CLOCK_EVERY_S * 1000},
                {apply_retention, op->config->retention_every_s,
                 monotonic_ms() + retention_s * 1000},
        };
        do {
                for (size_t i = 0; i < CAS_COUNT(tasks) && !atomic_load(&op->stopping); i++) {
                        if (tasks[i].every_s == 0 || monotonic_ms() < tasks[i].at_ms)
                                continue;
                        tasks[i].fn(op);
                        tasks[i].at_ms = monotonic_ms() + tasks[i].every_s * 1000;
                }
        } while (next_tick(op));
        return NULL;
}

/* ---- health ---- */

/* Whether the disk takes a write. A file without a name leaves nothing behind. */
static bool disk_takes_write(struct reg_operation *op)
{
        cas_cleanup_fd int fd = openat(cas_store_dirfd(op->store), "uploads",
                                       O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
        if (fd < 0) /* some file systems have no such files: their mount flags must do */
                return errno == EOPNOTSUPP || errno == EISDIR;
        return write(fd, "x", 1) == 1 && fdatasync(fd) == 0;
}

static void probe_disk(struct reg_operation *op, struct probe *p)
{
        struct statvfs fs;
        p->reason[0] = '\0';
        p->free_bytes = 0;
        if (fstatvfs(cas_store_dirfd(op->store), &fs) != 0) {
                (void)snprintf(p->reason, sizeof(p->reason), "the disk does not answer");
                return;
        }
        p->free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
        if (fs.f_flag & ST_RDONLY)
                (void)snprintf(p->reason, sizeof(p->reason), "the disk is read-only");
        else if (p->free_bytes < op->config->min_free_bytes)
                (void)snprintf(p->reason, sizeof(p->reason), "less than %llu bytes are free",
                               (unsigned long long)op->config->min_free_bytes);
        else if (!disk_takes_write(op))
                (void)snprintf(p->reason, sizeof(p->reason), "the disk takes no writes");
}

/* Blocks: for the disk, or for another who asks it. */
static struct probe probe_recent(struct reg_operation *op)
{
        cas_mutex_lock(&op->probe_mutex);
        uint64_t now = monotonic_ms() / 1000 + 1;
        if (op->probe.at_s == 0 || now - op->probe.at_s >= PROBE_EVERY_S) {
                probe_disk(op, &op->probe);
                op->probe.at_s = now;
        }
        struct probe p = op->probe;
        cas_mutex_unlock(&op->probe_mutex);
        return p;
}

static void reply_json(struct reg_http_req *req, unsigned status, json_t *doc)
{
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        cas_assert(doc != NULL);
        cas_json_append(doc, &body);
        json_decref(doc);
        cas_buf_append_byte(&body, '\n');
        reg_http_reply_header(req, "Content-Type", "application/json");
        reg_http_reply_header(req, "Cache-Control", "no-store");
        reg_http_reply_buf(req, status, &body);
}

static void reply_ready(struct reg_operation *op, struct reg_http_req *req, bool details)
{
        bool stopping = atomic_load(&op->stopping);
        struct probe p = probe_recent(op);
        bool ready = !stopping && !p.reason[0];
        json_t *doc = json_pack("{s:s}", "status", ready ? "ready" : "not ready");
        if (details) {
                json_object_set_new(doc, "store", json_string(cas_store_id(op->store)));
                json_object_set_new(doc, "stopping", json_boolean(stopping));
                json_object_set_new(doc, "disk", json_string(p.reason[0] ? p.reason : "ok"));
                json_object_set_new(doc, "freeBytes", json_integer((json_int_t)p.free_bytes));
                json_object_set_new(doc, "minFreeBytes",
                                    json_integer((json_int_t)op->config->min_free_bytes));
        }
        if (!ready)
                reg_http_reply_header(req, "Retry-After", "5");
        reply_json(req, ready ? 200 : 503, doc);
}

/* ---- metrics ---- */

static void append_regenerations(struct reg_operation *op, struct cas_buf *out)
{
        struct cas_blob_stream_counts c;
        cas_blob_stream_counts(op->store, &c);
        static const char name[] = "lamina_regenerations_total";
        reg_metrics_head(out, name, "counter", "Condensed blobs that were asked for.");
        reg_metrics_sample(out, name, "{outcome=\"started\"}", c.started);
        reg_metrics_sample(out, name, "{outcome=\"joined\"}", c.joined);
        reg_metrics_sample(out, name, "{outcome=\"refused\"}", c.refused);
        reg_metrics_sample(out, name, "{outcome=\"failed\"}", c.failed);
        reg_metrics_head(out, "lamina_regenerations_running", "gauge", "Regenerations under way.");
        reg_metrics_sample(out, "lamina_regenerations_running", "", c.running);
}

static void append_stats(struct reg_operation *op, struct cas_buf *out)
{
        cas_mutex_lock(&op->mutex);
        const struct cas_store_stats s = op->stats;
        bool has = op->has_stats;
        uint64_t took_ms = op->stats_ms, uploads = op->upload_count;
        cas_mutex_unlock(&op->mutex);
        reg_metrics_head(out, "lamina_uploads_open", "gauge", "Upload sessions.");
        reg_metrics_sample(out, "lamina_uploads_open", "", uploads);
        if (!has)
                return;
        const struct {
                const char *name, *help;
                uint64_t value;
        } gauges[] = {
                {"lamina_store_repositories", "Repositories.", s.repo_count},
                {"lamina_store_tags", "Tags.", s.tag_count},
                {"lamina_store_manifests", "Manifests.", s.manifest_count},
                {"lamina_store_blobs", "Blobs.", s.blob_count},
                {"lamina_store_blob_bytes", "Bytes of blobs as they were brought.", s.blob_bytes},
                {"lamina_store_copies", "Blobs whose bytes lie in a file.", s.copy_count},
                {"lamina_store_copy_bytes", "Bytes of those files.", s.copy_bytes},
                {"lamina_store_cached_copy_bytes", "Bytes of files that may go.", s.cached_bytes},
                {"lamina_store_condensed", "Blobs that have a recipe and no file.",
                 s.condensed_count},
                {"lamina_store_condensed_bytes", "Bytes of those blobs.", s.condensed_bytes},
                {"lamina_store_recipes", "Proved recipes.", s.recipe_count},
                {"lamina_store_refused", "Blobs that stay as they came.", s.refused_count},
                {"lamina_store_objects", "Distinct files.", s.object_count},
                {"lamina_store_object_bytes", "Their bytes.", s.object_bytes},
                {"lamina_store_chunks", "Chunks of files.", s.chunk_count},
                {"lamina_store_packs", "Packs.", s.pack_count},
                {"lamina_store_pack_bytes", "Bytes of packs.", s.pack_bytes},
                {"lamina_store_content_bytes", "Bytes of files, in each layer that has them.",
                 s.content_bytes},
                {"lamina_store_chunk_bytes", "Bytes of chunks before compression.", s.chunk_bytes},
                {"lamina_store_recipe_bytes", "Bytes of recipes.", s.recipe_bytes},
                {"lamina_store_trees", "Trees that are kept.", s.tree_count},
                {"lamina_store_tree_bytes", "Bytes of trees.", s.tree_bytes},
                {"lamina_store_leases", "Leases.", s.lease_count},
                {"lamina_store_stats_milliseconds", "Time to find these numbers.", took_ms},
        };
        for (size_t i = 0; i < CAS_COUNT(gauges); i++) {
                reg_metrics_head(out, gauges[i].name, "gauge", gauges[i].help);
                reg_metrics_sample(out, gauges[i].name, "", gauges[i].value);
        }
}

static void append_maintenance(struct reg_operation *op, struct cas_buf *out)
{
        struct cas_maintenance_stats t;
        cas_maintenance_stats(op->store, &t);
        const struct {
                const char *name, *type, *help;
                uint64_t value;
        } rows[] = {
                {"lamina_gc_runs_total", "counter", "Collections.", t.gc_runs},
                {"lamina_gc_full_runs_total", "counter", "Collections that looked at everything.",
                 t.gc_full_runs},
                {"lamina_gc_failed_total", "counter", "Collections that met an error.",
                 t.gc_failed},
                {"lamina_gc_ended_seconds", "gauge", "When the last collection ended.",
                 t.gc_ended_unix_s},
                {"lamina_gc_milliseconds", "gauge", "How long it took.", t.gc_ms},
                {"lamina_gc_waiting", "gauge",
                 "What nothing needs, and is young or in use: it stays for now.", t.gc_waiting},
                {"lamina_gc_blobs_total", "counter", "Blobs that were removed.", t.gc_blobs},
                {"lamina_gc_objects_total", "counter", "Files that were removed.", t.gc_objects},
                {"lamina_gc_packs_total", "counter", "Packs that were removed.", t.gc_packs},
                {"lamina_gc_packs_rewritten_total", "counter", "Packs that were written anew.",
                 t.gc_packs_rewritten},
                {"lamina_scrub_passes_total", "counter", "Passes of scrub over the whole store.",
                 t.scrub_passes},
                {"lamina_scrub_ended_seconds", "gauge", "When the last pass ended.",
                 t.scrub_ended_unix_s},
                {"lamina_scrub_failed_total", "counter", "Passes that met an error.",
                 t.scrub_failed},
                {"lamina_scrub_errors_total", "counter", "Damage that was found.", t.scrub_errors},
                {"lamina_scrub_repaired_total", "counter", "Damage that was repaired.",
                 t.scrub_repaired},
                {"lamina_scrub_quarantined_total", "counter", "Damage that was put aside.",
                 t.scrub_quarantined},
        };
        for (size_t i = 0; i < CAS_COUNT(rows); i++) {
                reg_metrics_head(out, rows[i].name, rows[i].type, rows[i].help);
                reg_metrics_sample(out, rows[i].name, "", rows[i].value);
        }
}

static void append_webhooks(struct reg_operation *op, struct cas_buf *out)
{
        static const struct {
                const char *name, *type, *help;
                size_t offset;
        } families[] = {
#define ROW(name, type, help, member)                                                              \
        {"lamina_webhook_" name, type, help, offsetof(struct reg_webhook_stats, member)}
                ROW("pending_events", "gauge", "Events that wait to be delivered.", pending_events),
                ROW("pending_bytes", "gauge", "Bytes of those events.", pending_bytes),
                ROW("delivered_total", "counter", "Events that were delivered.", delivered),
                ROW("failures_total", "counter", "Attempts that failed.", failed),
                ROW("dropped_total", "counter", "Events that found no room.", dropped),
#undef ROW
        };
        for (size_t f = 0; reg_webhooks_count(op->webhooks) > 0 && f < CAS_COUNT(families); f++) {
                reg_metrics_head(out, families[f].name, families[f].type, families[f].help);
                for (size_t i = 0; i < reg_webhooks_count(op->webhooks); i++) {
                        struct reg_webhook_stats s;
                        uint64_t value;
                        reg_webhooks_stats(op->webhooks, i, &s);
                        memcpy(&value, (const char *)&s + families[f].offset, sizeof(value));
                        cas_buf_printf(out, "%s{webhook=\"%s\"} %llu\n", families[f].name, s.name,
                                       (unsigned long long)value);
                }
        }
}

static void append_disk(struct reg_operation *op, struct cas_buf *out)
{
        struct statvfs fs;
        if (fstatvfs(cas_store_dirfd(op->store), &fs) != 0)
                return;
        reg_metrics_head(out, "lamina_disk_free_bytes", "gauge", "Room on the store's disk.");
        reg_metrics_sample(out, "lamina_disk_free_bytes", "", (uint64_t)fs.f_bavail * fs.f_frsize);
        reg_metrics_head(out, "lamina_disk_bytes", "gauge", "The store's disk.");
        reg_metrics_sample(out, "lamina_disk_bytes", "", (uint64_t)fs.f_blocks * fs.f_frsize);
}

static void reply_metrics(struct reg_operation *op, struct reg_http_req *req)
{
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        reg_metrics_head(&out, "lamina_build_info", "gauge", "What runs.");
        cas_buf_append_str(&out, "lamina_build_info{version=\"");
        reg_metrics_label(&out, CAS_VERSION);
        cas_buf_append_str(&out, "\",store=\"");
        reg_metrics_label(&out, cas_store_id(op->store));
        cas_buf_append_str(&out, "\"} 1\n");
        reg_metrics_append(op->metrics, &out);
        append_regenerations(op, &out);
        append_maintenance(op, &out);
        append_stats(op, &out);
        append_webhooks(op, &out);
        append_disk(op, &out);
        if (op->all->more_metrics)
                op->all->more_metrics(op->all->more_metrics_arg, &out);
        reg_http_reply_header(req, "Content-Type", "text/plain; version=0.0.4; charset=utf-8");
        reg_http_reply_header(req, "Cache-Control", "no-store");
        reg_http_reply_buf(req, 200, &out);
}

/* ---- requests ---- */

/* Of this host, and not by a proxy for somebody else. */
static bool is_local(const struct reg_http_req *req)
{
        static const char *const forwarded[] = {"X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"};
        const char *client = reg_http_client(req);
        for (size_t i = 0; i < CAS_COUNT(forwarded); i++) {
                if (reg_http_header(req, forwarded[i]))
                        return false;
        }
        return strcmp(client, "unix") == 0 || strcmp(client, "::1") == 0 ||
               strncmp(client, "127.", 4) == 0;
}

static bool may_look(const struct reg_operation *op, const struct reg_http_req *req)
{
        switch (op->config->metrics_for) {
        case REG_METRICS_ALL:
                return true;
        case REG_METRICS_LOOPBACK:
                return is_local(req);
        case REG_METRICS_NOBODY:
                return false;
        }
        return false;
}

static void ready_details(void *arg, struct reg_http_req *req)
{
        reply_ready(arg, req, true);
}

static void ready_short(void *arg, struct reg_http_req *req)
{
        reply_ready(arg, req, false);
}

static bool serve(struct reg_operation *op, struct reg_http_req *req, bool allowed)
{
        const struct reg_uri *uri = reg_http_uri(req);
        const char *path = uri->segment_count == 1 ? uri->segments[0] : "";
        bool metrics = strcmp(path, "metrics") == 0, ready = strcmp(path, "readyz") == 0;
        if (!metrics && !ready && strcmp(path, "healthz") != 0)
                return false;
        enum reg_http_method method = reg_http_method(req);
        if (method != REG_HTTP_GET && method != REG_HTTP_HEAD) {
                reg_http_reply_header(req, "Allow", "GET, HEAD");
                reg_http_reply_empty(req, 405);
        } else if (ready) {
                reg_http_defer(req, allowed ? ready_details : ready_short, op);
        } else if (!metrics) {
                reply_json(req, 200, json_pack("{s:s}", "status", "alive"));
        } else if (allowed) {
                reply_metrics(op, req);
        } else {
                reg_http_reply_empty(req, 404); /* as if there were none */
        }
        return true;
}

bool reg_operation_serve(struct reg_operation *op, struct reg_http_req *req)
{
        return serve(op, req, may_look(op, req));
}

void reg_operation_done(struct reg_operation *op, const struct reg_http_done *done,
                        const char *user, const char *id, bool begun)
{
        reg_metrics_done(op->metrics, done, begun);
        if (op->log)
                reg_accesslog_add(op->log, done, user, id);
}

static void own_begin(void *arg, struct reg_http_req *req)
{
        if (!serve(arg, req, true))
                reg_http_reply_empty(req, 404);
}

/* ---- start and stop ---- */

static void event_seen(void *arg, const struct reg_event *event)
{
        struct reg_operation *op = arg;
        reg_metrics_event(op->metrics, event);
}

static void operation_free(struct reg_operation *op)
{
        reg_webhooks_stop(op->webhooks);
        reg_tagclock_free(op->clock);
        reg_websharing_free(op->sharing);
        reg_accesslog_close(op->log);
        reg_metrics_free(op->metrics);
        (void)pthread_cond_destroy(&op->change);
        cas_mutex_release(&op->mutex);
        cas_mutex_release(&op->probe_mutex);
        free(op);
}

static int start_parts(struct reg_operation *op, struct reg_events *events, struct cas_err *err)
{
        const struct reg_log_config *log = reg_log_config(op->all);
        int rc = 0;
        if (log->access != REG_ACCESS_LOG_OFF)
                rc = reg_accesslog_open(log, op->metrics, &op->log, err);
        if (rc == 0)
                rc = reg_webhooks_start(op->store, reg_config_area(op->all, reg_webhook_area.word),
                                        NULL, events, &op->webhooks, err);
        if (rc == 0 && op->config->listen) {
                const struct reg_http_config http = {
                        .listen = op->config->listen,
                        .listen_fd = -1,
                        .threads = 1,
                        .workers_max = 2,
                        .connections_max = 64,
                        .name = "operation-request",
                        .begin = own_begin,
                        .arg = op,
                };
                rc = reg_http_start(&http, &op->http, err);
                if (rc < 0)
                        rc = cas_err_wrap(err, "[operation] listen = %s", op->config->listen);
        }
        return rc;
}

int reg_operation_start(struct cas_store *store, const struct reg_config *config,
                        struct reg_access *access, struct reg_events *events,
                        struct reg_operation **out, struct cas_err *err)
{
        struct reg_operation *op = cas_xcalloc(1, sizeof(*op));
        op->store = store;
        op->all = config;
        op->config = reg_operation_config(config);
        op->events = events;
        op->access = access;
        if (reg_web_config(config)->enabled)
                op->sharing = reg_websharing_new();
        op->metrics = reg_metrics_new();
        op->clock = reg_tagclock_new(store, events);
        if (getentropy(&op->id_prefix, sizeof(op->id_prefix)) != 0)
                op->id_prefix = (uint64_t)time(NULL);
        cas_mutex_init(&op->probe_mutex, "health");
        cas_mutex_init(&op->mutex, "operation");
        cas_cond_init(&op->change);
        int rc = start_parts(op, events, err);
        if (rc == 0) /* before the thread, which tells events */
                reg_events_listen(events, event_seen, op);
        if (rc == 0 && pthread_create(&op->keeper, NULL, keep, op) != 0)
                rc = cas_fail(err, CAS_E_NOMEM, "no thread for metrics");
        if (rc < 0) {
                reg_http_stop(op->http, 0);
                operation_free(op);
                return rc;
        }
        *out = op;
        return 0;
}

int reg_operation_reload(struct reg_operation *op, struct cas_err *err)
{
        return op->log ? reg_accesslog_reopen(op->log, err) : 0;
}

void reg_operation_stopping(struct reg_operation *op)
{
        atomic_store(&op->stopping, true);
}

void reg_operation_stop(struct reg_operation *op)
{
        if (!op)
                return;
        reg_http_stop(op->http, STOP_MS);
        cas_mutex_lock(&op->mutex);
        op->stop = true;
        (void)pthread_cond_signal(&op->change);
        cas_mutex_unlock(&op->mutex);
        (void)pthread_join(op->keeper, NULL);
        operation_free(op);
}
