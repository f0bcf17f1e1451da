/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include "cas/log.h"
#include "tiering/cluster_int.h"

#define FRESH_S 5
#define GRACE_S (24 * 3600)
#define GC_S 3600
#define NODES_MAX 100000
#define STOPPED_MS 5000 /* a request without progress: a node that is cut off says so soon */
#define TRIES 3

/* ---- the table ---- */

static unsigned op_fresh_s(struct cas_shared *sh)
{
        return (unsigned)tier_cluster_from(sh)->settings.fresh_s;
}

static void cluster_free(struct tier_cluster *c)
{
        tier_cluster_gc_release(c);
        cas_mutex_release(&c->collecting);
        cas_background_release(&c->background);
        c->objects->ops->close(c->objects);
        free(c);
}

static void op_close(struct cas_shared *sh)
{
        cluster_free(tier_cluster_from(sh));
}

static const struct cas_shared_ops cluster_ops = {
        .blob_hold = tier_op_blob_hold,
        .blob_put = tier_op_blob_put,
        .blob_read = tier_op_blob_read,
        .publish = tier_op_publish,
        .tag_get = tier_op_tag_get,
        .manifest_get = tier_op_manifest_get,
        .link_get = tier_op_link_get,
        .repo_exists = tier_op_repo_exists,
        .tag_each = tier_op_tag_each,
        .repo_each = tier_op_repo_each,
        .referrer_each = tier_op_referrer_each,
        .upload_begin = tier_op_upload_begin,
        .upload_load = tier_op_upload_load,
        .upload_read = tier_op_upload_read,
        .upload_append = tier_op_upload_append,
        .upload_finish = tier_op_upload_finish,
        .upload_end = tier_op_upload_end,
        .upload_each = tier_op_upload_each,
        .fresh_s = op_fresh_s,
        .close = op_close,
};

struct cas_shared *tier_cluster_shared(struct tier_cluster *c)
{
        return &c->shared;
}

struct tier_cluster *tier_cluster_of(struct cas_shared *sh)
{
        return sh && sh->ops == &cluster_ops ? tier_cluster_from(sh) : NULL;
}

/* ---- opening ---- */

static int check_abilities(const struct s3_abilities *a, struct cas_err *err)
{
        const char *lacks = !a->if_absent          ? "If-None-Match: * when an object is put"
                            : !a->if_match         ? "If-Match when an object is put"
                            : !a->ranges           ? "ranges"
                            : !a->list_after_write ? "listing what was just written"
                                                   : NULL;
        if (!lacks)
                return 0;
        return cas_fail(err, CAS_E_UNSUPPORTED,
                        "the store does not honour %s: several nodes cannot share it", lacks);
}

static struct tier_cluster *cluster_new(struct tier_objects *objects)
{
        struct tier_cluster *c = cas_xcalloc(1, sizeof(*c));
        c->shared.ops = &cluster_ops;
        c->objects = objects;
        cas_mutex_init(&c->collecting, "cluster.collecting");
        cas_background_init(&c->background);
        return c;
}

static uint64_t setting(uint64_t wanted, uint64_t absent)
{
        return wanted ? wanted : absent;
}

/* The settings that all keep to: those that are there, or ours. */
static int settings_agree(struct tier_cluster *c, const struct tier_cluster_settings *wanted,
                          struct cas_err *err)
{
        for (unsigned i = 0; i < TIER_TRIES; i++) {
                tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
                struct tier_version version;
                struct cas_err why = CAS_ERR_INIT;
                bool there;
                int rc = tier_cell_read(c, "cluster", &cell, &there, &version, err);
                if (rc < 0)
                        return rc;
                if (!there) {
                        cell.fresh_s = setting(wanted ? wanted->fresh_s : 0, FRESH_S);
                        cell.grace_s = setting(wanted ? wanted->grace_s : 0, GRACE_S);
                        cell.gc_s = setting(wanted ? wanted->gc_s : 0, GC_S);
                        rc = tier_cell_write(c, "cluster", &cell, &version, NULL, &why);
                }
                if (rc == 0) {
                        c->settings = (struct tier_cluster_settings){.fresh_s = cell.fresh_s,
                                                                     .grace_s = cell.grace_s,
                                                                     .gc_s = cell.gc_s};
                        if (cell.fresh_s && cell.grace_s && cell.gc_s)
                                return 0;
                        return cas_fail(err, CAS_E_CORRUPT, "cluster: settings are missing");
                }
                if (rc != -CAS_E_EXISTS) {
                        *err = why;
                        return rc;
                }
        }
        return tier_fail_tries("cluster", err);
}

static void node_key(uint64_t node, char out[TIER_KEY_BYTES])
{
        (void)snprintf(out, TIER_KEY_BYTES, "nodes/%llu", (unsigned long long)node);
}

/* The node is the one that joined; notes when it started. */
static int node_check(struct tier_cluster *c, const char *store_id, struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct tier_version version;
        char key[TIER_KEY_BYTES];
        bool there;
        node_key(c->node, key);
        int rc = tier_cell_read(c, key, &cell, &there, &version, err);
        if (rc == 0 && (!there || strcmp(cell.store, store_id) != 0))
                rc = cas_fail(err, CAS_E_DENIED,
                              "node %llu of the cluster is another store: leave it, and join again",
                              (unsigned long long)c->node);
        if (rc < 0)
                return rc;
        cell.seen_unix_s = (uint64_t)time(NULL);
        return tier_cell_write(c, key, &cell, &version, NULL, err);
}

int tier_cluster_open(struct tier_objects *objects, uint64_t node, const char *store_id,
                      const struct tier_cluster_settings *settings, struct tier_cluster **out,
                      struct cas_err *err)
{
        struct tier_cluster *c = cluster_new(objects);
        c->node = node;
        int rc = objects->ops->probe(objects, &c->abilities, err);
        if (rc == 0)
                rc = check_abilities(&c->abilities, err);
        if (rc == 0)
                rc = settings_agree(c, settings, err);
        if (rc == 0 && node > 0)
                rc = node_check(c, store_id, err);
        if (rc < 0) {
                cluster_free(c);
                return rc;
        }
        *out = c;
        return 0;
}

static int open_configured(struct tier_cluster_config *config, uint64_t node, const char *store_id,
                           const struct tier_cluster_settings *settings, struct tier_cluster **out,
                           struct cas_err *err)
{
        struct tier_objects *objects;
        config->s3.timeout_ms = STOPPED_MS;
        config->s3.tries = TRIES;
        int rc = tier_objects_s3_open(&config->s3, &objects, err);
        if (rc == 0)
                rc = tier_cluster_open(objects, node, store_id, settings, out, err);
        return rc < 0 ? cas_err_wrap(err, "%s", config->where) : 0;
}

int tier_cluster_shared_open(struct cas_store *s, struct cas_shared **out, struct cas_err *err)
{
        struct tier_cluster_config config = {0};
        struct tier_cluster *c;
        struct cas_err miss = CAS_ERR_INIT;
        *out = NULL;
        int rc = tier_cluster_config_read(cas_store_dirfd(s), &config, &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0)
                *err = miss;
        else
                rc = open_configured(&config, config.node, cas_store_id(s), NULL, &c, err);
        if (rc == 0)
                *out = &c->shared;
        tier_cluster_config_release(&config);
        return rc;
}

/* ---- joining and leaving ---- */

static int take_number(struct tier_cluster *c, const char *store_id, const char *name,
                       uint64_t *out, struct cas_err *err)
{
        for (uint64_t n = 1; n < NODES_MAX; n++) {
                tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
                struct tier_version version;
                struct cas_err why = CAS_ERR_INIT;
                char key[TIER_KEY_BYTES];
                bool there;
                node_key(n, key);
                int rc = tier_cell_read(c, key, &cell, &there, &version, err);
                if (rc < 0)
                        return rc;
                if (there || version.etag[0]) /* numbers are not used again */
                        continue;
                cell.seen_unix_s = (uint64_t)time(NULL);
                (void)snprintf(cell.store, sizeof(cell.store), "%s", store_id);
                (void)snprintf(cell.name, sizeof(cell.name), "%s", name);
                rc = tier_cell_write(c, key, &cell, &version, NULL, &why);
                if (rc == 0) {
                        *out = n;
                        return 0;
                }
                if (rc != -CAS_E_EXISTS) {
                        *err = why;
                        return rc;
                }
        }
        return cas_fail(err, CAS_E_LIMIT, "more than %u nodes", NODES_MAX);
}

static bool any_repo(void *arg, const char *repo CAS_UNUSED)
{
        *(bool *)arg = true;
        return false;
}

static int check_joinable(struct cas_store *s, struct cas_err *err)
{
        struct tier_cluster_config there = {0};
        struct cas_err miss = CAS_ERR_INIT;
        bool any = false;
        int rc = tier_cluster_config_read(cas_store_dirfd(s), &there, &miss);
        if (rc == 0)
                rc = cas_fail(err, CAS_E_EXISTS, "the store is of the cluster at %s", there.where);
        else if (rc != -CAS_E_NOTFOUND)
                *err = miss;
        else
                rc = cas_repo_each(s, NULL, any_repo, &any, err);
        tier_cluster_config_release(&there);
        if (rc == 0 && any)
                rc = cas_fail(
                        err, CAS_E_INVALID,
                        "the store has repositories of its own: join with a new one, and push "
                        "them to it");
        return rc;
}

int tier_cluster_join(struct cas_store *s, struct tier_cluster_config *config, const char *name,
                      struct tier_cluster_settings *settings, struct cas_err *err)
{
        struct tier_cluster *c;
        int rc = check_joinable(s, err);
        if (rc == 0)
                rc = open_configured(config, 0, "", settings, &c, err);
        if (rc < 0)
                return rc;
        rc = take_number(c, cas_store_id(s), name, &config->node, err);
        if (rc == 0)
                rc = tier_cluster_config_write(cas_store_dirfd(s), config, err);
        *settings = c->settings;
        cluster_free(c);
        return rc;
}

static int leave_bucket(struct cas_store *s, struct tier_cluster_config *config,
                        struct cas_err *err)
{
        struct tier_cluster *c;
        char key[TIER_KEY_BYTES];
        int rc = open_configured(config, config->node, cas_store_id(s), NULL, &c, err);
        if (rc < 0)
                return rc;
        /* Empty, not deleted: the number stays used. */
        c->abilities.conditional_delete = false;
        node_key(config->node, key);
        rc = tier_cell_remove(c, key, err);
        cluster_free(c);
        return rc;
}

int tier_cluster_leave(struct cas_store *s, bool force, struct cas_err *err)
{
        struct tier_cluster_config config = {0};
        struct cas_err why = CAS_ERR_INIT;
        int rc = tier_cluster_config_read(cas_store_dirfd(s), &config, err);
        if (rc == 0)
                rc = leave_bucket(s, &config, &why);
        if (rc < 0 && why.code != CAS_OK && !force)
                *err = why;
        else if (why.code != CAS_OK)
                rc = 0;
        tier_cluster_config_release(&config);
        if (rc < 0)
                return rc;
        rc = cas_io_unlink(cas_io_posix(), cas_store_dirfd(s), "cluster", err);
        return rc < 0 ? rc : cas_io_sync_dir(cas_io_posix(), cas_store_dirfd(s), ".", err);
}

/* ---- status ---- */

struct node_list {
        struct tier_cluster *c;
        bool (*fn)(void *arg, const struct tier_cluster_node *node);
        void *arg;
};

static int node_seen(void *arg, const char *key, const struct s3_object *object,
                     struct cas_err *err)
{
        const struct node_list *l = arg;
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct tier_version version;
        struct tier_cluster_node node = {0};
        bool there;
        if (!object || object->size_bytes == 0)
                return 0;
        int rc = tier_cell_read(l->c, key, &cell, &there, &version, err);
        if (rc < 0 || !there)
                return rc;
        node.node = strtoull(key + strlen("nodes/"), NULL, 10);
        node.seen_unix_s = cell.seen_unix_s;
        (void)snprintf(node.name, sizeof(node.name), "%.255s", cell.name);
        (void)snprintf(node.store, sizeof(node.store), "%s", cell.store);
        return l->fn(l->arg, &node) ? 0 : 1;
}

int tier_cluster_status(struct tier_cluster *c, struct tier_cluster_status *out,
                        bool (*fn)(void *arg, const struct tier_cluster_node *node), void *arg,
                        struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell lease = TIER_CELL_INIT;
        struct tier_version version;
        struct node_list list = {.c = c, .fn = fn, .arg = arg};
        bool there;
        *out = (struct tier_cluster_status){
                .node = c->node, .settings = c->settings, .abilities = c->abilities};
        int rc = tier_cell_read(c, "gc/lease", &lease, &there, &version, err);
        if (rc < 0)
                return rc;
        (void)snprintf(out->collector, sizeof(out->collector), "%s", lease.holder);
        out->token = lease.token;
        return c->objects->ops->list(c->objects, "nodes/", NULL, node_seen, &list, err);
}
