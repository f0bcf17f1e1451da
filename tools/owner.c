/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/owner.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>

#include "cas/blob.h"
#include "cas/condenser.h"
#include "cas/filler.h"
#include "cas/lease.h"
#include "cas/log.h"
#include "cas/order.h"
#include "fusefs/mount.h"
#include "fusefs/resolve.h"
#include "registry/registry.h"
#include "tiering/cluster.h"
#include "tiering/mover.h"
#include "tools/cli.h"
#include "tools/control.h"
#include "tools/control_server.h"
#include "tools/ops_json.h"
#include "tools/paths.h"
#include "tools/remotes.h"
#include "tools/repair_source.h"
#include "tools/tier_metrics.h"

#define TICK_S 1
#define UPLOAD_AGE_S (24 * 3600) /* unfinished uploads that nobody touches go */
#define UPLOAD_CHECK_S 3600
#define REGISTRY_STOP_MS 10000
#define CONDENSE_IDLE_S 30
#define LOCK_SLICE_MS 2000

struct owner {
        const struct owner_config *config;
        struct cas_store *store; /* owned, as all that follows */
        char *run_dir;
        char *resolve_path;
        char *program;
        struct ffs_host host; /* borrows */
        struct ffs_resolver *resolver;
        struct reg_config reg_config; /* borrows; what config->registry is, and our metrics */
        struct reg_registry *registry;
        struct cas_condenser *condenser;
        struct repair_source source;
        struct cas_caretaker *caretaker;
        struct remotes *remotes;
        struct cas_filler *filler;
        struct tier_mover *mover;
        struct control_server *control;
};

static uint64_t monotonic_s(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec;
}

/* ---- leases of mounts that are gone ---- */

struct lease_list {
        const char *run_dir;
        char (*ids)[sizeof(((struct cas_lease *)0)->id)]; /* owned */
        size_t count;
};

static bool lease_seen(void *arg, const struct cas_lease *lease)
{
        struct lease_list *list = arg;
        /* One that expires belongs to a mount in the making. */
        if (strncmp(lease->id, "mount:", 6) != 0 || lease->expires_unix_s != 0 ||
            strcmp(lease->owner, list->run_dir) != 0)
                return true;
        list->ids = cas_xrealloc(list->ids, (list->count + 1) * sizeof(*list->ids));
        memcpy(list->ids[list->count++], lease->id, sizeof(*list->ids));
        return true;
}

static bool mount_seen(void *arg, const struct ffs_mount_info *info)
{
        struct lease_list *list = arg;
        for (size_t i = 0; i < list->count; i++) {
                if (strcmp(list->ids[i], info->lease) == 0)
                        list->ids[i][0] = '\0';
        }
        return true;
}

/* After a reboot the mounts of this runtime directory are no more, but their leases are. */
static int leases_reconcile(struct owner *o, struct cas_err *err)
{
        struct lease_list list = {.run_dir = o->run_dir};
        int rc = cas_lease_each(o->store, lease_seen, &list, err);
        if (rc == 0 && list.count > 0)
                rc = ffs_mount_each(&o->host, mount_seen, &list, err);
        for (size_t i = 0; rc == 0 && i < list.count; i++) {
                if (list.ids[i][0])
                        rc = cas_lease_drop(o->store, list.ids[i], err);
        }
        free(list.ids);
        return rc;
}

/* ---- start ---- */

static int log_redirect(const struct owner *o, struct cas_err *err)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/owner.log", o->run_dir);
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd < 0 || dup2(fd, STDOUT_FILENO) < 0 || dup2(fd, STDERR_FILENO) < 0)
                return cas_fail_sys(err, errno, "%s", path);
        return 0;
}

static json_t *info_json(const struct owner *o)
{
        char mounts[64] = "";
        ssize_t len = readlink("/proc/self/ns/mnt", mounts, sizeof(mounts) - 1);
        if (len > 0)
                mounts[len] = '\0';
        json_t *info =
                json_pack("{s:i, s:s, s:i, s:s, s:s, s:s, s:s, s:s}", "api", CONTROL_API_VERSION,
                          "version", LAMINA_VERSION, "pid", (int)getpid(), "id",
                          cas_store_id(o->store), "store", cas_store_path(o->store), "runDir",
                          o->run_dir, "resolve", o->resolve_path, "mountNamespace", mounts);
        if (info)
                json_object_set_new(info, "background", json_boolean(o->config->ready_fd >= 0));
        if (info && o->registry)
                json_object_set_new(info, "registryPort",
                                    json_integer((json_int_t)reg_port(o->registry)));
        return info;
}

/* An owner in the background makes way for this one, and any other when it was asked for. One may
 * be started meanwhile by who has missed an owner: it is asked again. */
static int store_open(struct owner *o, struct cas_store_config *store, struct cas_err *err)
{
        const struct owner_config *c = o->config;
        uint64_t deadline_s = monotonic_s() + c->lock_wait_ms / 1000;
        for (;;) {
                struct cas_err why = CAS_ERR_INIT, ignored = CAS_ERR_INIT;
                if (c->lock_wait_ms > 0)
                        (void)!(c->upgrade ? control_make_way(c->store_path, &ignored)
                                           : control_end(c->store_path, &ignored));
                store->lock_wait_ms = (unsigned)cas_min_u64(c->lock_wait_ms, LOCK_SLICE_MS);
                if (cas_store_open(store, &o->store, &why) == 0)
                        return 0;
                if (why.code != CAS_E_BUSY || monotonic_s() >= deadline_s) {
                        *err = why;
                        return -(int)err->code;
                }
        }
}

static void more_metrics(void *arg, struct cas_buf *out)
{
        const struct owner *o = arg;
        tier_metrics_append(o->store, o->mover, out);
}

static int owner_start(struct owner *o, struct cas_err *err)
{
        const struct owner_config *c = o->config;
        struct cas_store_config store = {.path = c->store_path,
                                         .backend_open = tier_set_open,
                                         .shared_open = tier_cluster_shared_open,
                                         .threads = c->store_threads,
                                         .flat_trees = c->flat_trees,
                                         .decoder = decoder_of(c->confine),
                                         .regenerations = c->regenerations,
                                         .blob_cache_bytes = c->blob_cache_bytes};
        if (store_open(o, &store, err) < 0 ||
            path_run_dir(cas_store_id(o->store), &o->run_dir, err) < 0 ||
            path_program(&o->program, err) < 0)
                return -(int)err->code;
        o->resolve_path = cas_xasprintf("%s/resolve.sock", o->run_dir);
        o->host = (struct ffs_host){.run_dir = o->run_dir,
                                    .store_path = cas_store_path(o->store),
                                    .resolve_path = o->resolve_path,
                                    .program = o->program};
        if (remotes_start(o->store, c->source_wait_ms, &o->remotes, err) < 0 ||
            leases_reconcile(o, err) < 0 ||
            ffs_resolver_start(o->store, o->resolve_path, &o->resolver, err) < 0)
                return -(int)err->code;
        o->mover = tier_mover_start(o->store, TIER_MOVER_ALWAYS);
        if (c->registry)
                o->reg_config = *c->registry;
        o->reg_config.more_metrics = more_metrics;
        o->reg_config.more_metrics_arg = o;
        if (c->registry && reg_start(o->store, &o->reg_config, &o->registry, err) < 0)
                return cas_err_wrap(err, "registry at %s", c->registry->listen);
        if (c->condense_share_percent > 0) {
                const struct cas_condenser_config condenser = {
                        .share_percent = c->condense_share_percent,
                        .idle_s = CONDENSE_IDLE_S,
                        .codec = c->condense_cold ? CAS_CONDENSE_COLD : CAS_CONDENSE_DEFAULT,
                };
                o->condenser = cas_condenser_start(o->store, &condenser);
        }
        o->source = (struct repair_source){.registry = o->registry, .remotes = o->remotes};
        struct cas_caretaker_config care = c->care;
        care.scrub.fetch_blob = repair_source_fetch;
        care.scrub.fetch_arg = &o->source;
        struct tier_cluster *cluster = tier_cluster_of(cas_store_shared(o->store));
        if (cluster && c->ready_fd < 0) /* not one that ends by itself */
                tier_cluster_gc_start(cluster);
        o->caretaker = cas_caretaker_start(o->store, &care);
        if (c->learn_ms)
                cas_order_set_watch_ms(o->store, c->learn_ms);
        o->filler = cas_filler_start(o->store);
        op_cleanup_json json_t *info = info_json(o);
        if (!info)
                return cas_fail(err, CAS_E_INVALID, "the paths of the store are not UTF-8");
        /* Last: whoever gets an answer here finds all of it running. */
        return control_server_start(o->store, o->registry, o->remotes, o->mover, info, &o->control,
                                    err);
}

/* Mounts go on by the former program where this one cannot serve them. */
static void mounts_upgrade(const struct owner *o)
{
        struct cas_err err = CAS_ERR_INIT;
        if (ffs_host_upgrade(&o->host, &err) < 0)
                cas_log(CAS_LOG_ERROR, "owner", "upgrade=failed message=\"%s\"", err.msg);
        else
                cas_log(CAS_LOG_INFO, "owner", "upgrade=ok");
}

static bool mount_any(void *arg, const struct ffs_mount_info *info)
{
        (void)info;
        *(bool *)arg = true;
        return false;
}

static bool owner_has_mounts(const struct owner *o)
{
        struct cas_err err = CAS_ERR_INIT;
        bool any = false;
        if (ffs_mount_each(&o->host, mount_any, &any, &err) < 0)
                return true; /* not known: nothing is to be taken away */
        return any;
}

static void owner_stop(struct owner *o)
{
        struct cas_err err = CAS_ERR_INIT;
        remotes_break(o->remotes); /* so that no operation waits for what does not come */
        if (o->control)            /* first: operations tell the registry's listeners */
                control_server_stop(o->control);
        cas_caretaker_stop(o->caretaker); /* it may be asking the registry's upstreams */
        if (o->registry)
                reg_stop(o->registry, REGISTRY_STOP_MS);
        cas_filler_stop(o->filler);
        tier_mover_stop(o->mover); /* after all who wait for room */
        cas_condenser_stop(o->condenser);
        if (o->resolver && !owner_has_mounts(o) && ffs_host_shutdown(&o->host, &err) < 0)
                cas_log(CAS_LOG_WARN, "owner", "shutdown=failed message=\"%s\"", err.msg);
        if (o->resolver)
                ffs_resolver_stop(o->resolver);
        if (o->store)
                cas_store_close(o->store);
        remotes_free(o->remotes);
        free(o->run_dir);
        free(o->resolve_path);
        free(o->program);
}

/* ---- life ---- */

static void ready_tell(const struct owner_config *c, const char *text)
{
        if (c->ready_fd < 0)
                return;
        if (write(c->ready_fd, text, strlen(text)) < 0)
                cas_log(CAS_LOG_WARN, "owner", "ready=unheard");
        (void)close(c->ready_fd);
}

static void uploads_expire(struct owner *o)
{
        struct cas_err err = CAS_ERR_INIT;
        uint64_t count = 0;
        if (cas_upload_expire(o->store, UPLOAD_AGE_S, &count, &err) < 0)
                cas_log(CAS_LOG_WARN, "uploads", "expire=failed message=\"%s\"", err.msg);
        else if (count > 0)
                cas_log(CAS_LOG_INFO, "uploads", "expired=%llu", (unsigned long long)count);
}

static void registry_reload(struct owner *o)
{
        struct cas_err err = CAS_ERR_INIT;
        if (o->registry && reg_reload(o->registry, &err) < 0)
                cas_log(CAS_LOG_ERROR, "registry", "reload=failed message=\"%s\"", err.msg);
        else if (o->registry)
                cas_log(CAS_LOG_INFO, "registry", "reload=ok");
}

static void owner_loop(struct owner *o, const sigset_t *signals)
{
        unsigned idle_s = o->config->idle_s;
        uint64_t busy_s = monotonic_s(), uploads_s = 0;
        for (;;) {
                struct timespec tick = {.tv_sec = TICK_S};
                int sig = sigtimedwait(signals, NULL, &tick);
                if (sig == SIGTERM || sig == SIGINT) {
                        cas_log(CAS_LOG_INFO, "owner", "end=signal signal=%d", sig);
                        return;
                }
                if (sig == SIGHUP)
                        registry_reload(o);
                uint64_t now = monotonic_s();
                if (now - uploads_s >= UPLOAD_CHECK_S || uploads_s == 0) {
                        uploads_s = now;
                        uploads_expire(o);
                }
                if (idle_s == 0)
                        continue;
                busy_s = cas_max_u64(busy_s, control_server_used_s(o->control));
                if (now - busy_s < idle_s)
                        continue;
                if (!owner_has_mounts(o)) {
                        cas_log(CAS_LOG_INFO, "owner", "end=idle");
                        return;
                }
                busy_s = now;
        }
}

/* A registry keeps a descriptor for each connection and each blob on its way; the soft limit of
 * a login shell is for programs that call select(2). */
static void raise_file_limit(void)
{
        struct rlimit files;
        if (getrlimit(RLIMIT_NOFILE, &files) != 0)
                return;
        files.rlim_cur = files.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &files) != 0)
                cas_log(CAS_LOG_WARN, "owner", "files=%llu error=\"%s\"",
                        (unsigned long long)files.rlim_max, strerrordesc_np(errno));
}

int owner_run(const struct owner_config *config, struct cas_err *err)
{
        struct owner o = {.config = config};
        sigset_t signals;
        sigemptyset(&signals);
        sigaddset(&signals, SIGTERM);
        sigaddset(&signals, SIGHUP);
        struct sigaction interrupt;
        (void)sigaction(SIGINT, NULL, &interrupt);
        if (interrupt.sa_handler != SIG_IGN) /* a shell's background job leaves ^C to others */
                sigaddset(&signals, SIGINT);
        (void)pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before any thread starts */
        (void)signal(SIGPIPE, SIG_IGN);
        raise_file_limit();
        int rc = owner_start(&o, err);
        if (rc == 0 && config->ready_fd >= 0)
                rc = log_redirect(&o, err);
        if (rc < 0) {
                cas_cleanup_free char *text =
                        cas_xasprintf("%s %s", cas_code_name(err->code), err->msg);
                ready_tell(config, text);
                owner_stop(&o);
                return rc;
        }
        ready_tell(config, "ok");
        cas_log(CAS_LOG_INFO, "owner", "start=ok store=%s run=%s pid=%d", cas_store_path(o.store),
                o.run_dir, (int)getpid());
        if (config->upgrade)
                mounts_upgrade(&o);
        if (o.registry)
                cas_log(CAS_LOG_INFO, "registry", "port=%u", reg_port(o.registry));
        owner_loop(&o, &signals);
        owner_stop(&o);
        return 0;
}
