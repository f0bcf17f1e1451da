/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of the list of tiers of an open store. */
#include <stdio.h>

#include "cas/log.h"
#include "tiering/tierset_int.h"

/* The list as it is, with `add` (may be NULL) besides and without `drop`; what it points to is
 * borrowed, and stays while `changing` is held. */
static void list_gather(struct tier_set *set, const struct tier_config *add,
                        const struct tier *drop, struct tier_list *out)
{
        cas_assert_held(&set->changing);
        *out = (struct tier_list){.next_id = set->next_id};
        cas_mutex_lock(&set->mutex);
        out->paused = set->paused;
        for (size_t i = 0; i < set->count; i++) {
                if (!set->tiers[i]->gone && set->tiers[i] != drop)
                        out->tiers[out->count++] = set->tiers[i]->config;
        }
        cas_mutex_unlock(&set->mutex);
        if (add)
                out->tiers[out->count++] = *add;
}

static int list_write(struct tier_set *set, const struct tier_list *l, struct cas_err *err)
{
        return tier_list_write(set->store_dirfd, l, err);
}

/* ---- adding ---- */

/* No tier lies in another, nor in the store, nor the other way round. */
static int place_check(struct tier_set *set, const char *path, struct cas_err *err)
{
        if (tier_dir_is_within(path, set->store_path) || tier_dir_is_within(set->store_path, path))
                return cas_fail(err, CAS_E_DENIED,
                                "%s lies in the store, or the store in it: choose a directory "
                                "beside it",
                                path);
        for (size_t i = 0; i < set->count; i++) {
                const struct tier *t = set->tiers[i];
                if (t->gone || !t->config.where || !tier_is_local(t))
                        continue;
                if (tier_dir_is_within(path, t->config.where) ||
                    tier_dir_is_within(t->config.where, path))
                        return cas_fail(err, CAS_E_DENIED,
                                        "%s and tier %s (%s) lie in one another: choose another "
                                        "directory",
                                        path, t->name, t->config.where);
        }
        return 0;
}

/* The parent of what may not be there yet. */
static int parent_check(struct tier_set *set, const char *where, struct cas_err *err)
{
        cas_cleanup_free char *parent = cas_xstrdup(where);
        char *slash = strrchr(parent, '/');
        if (!slash)
                return cas_fail(err, CAS_E_INVALID, "%s is not an absolute path", where);
        slash[slash == parent ? 1 : 0] = '\0';
        for (size_t i = 0; i <= set->count; i++) {
                const char *outer = i == set->count       ? set->store_path
                                    : set->tiers[i]->gone ? NULL
                                                          : set->tiers[i]->config.where;
                if (outer && outer[0] == '/' && tier_dir_is_within(parent, outer))
                        return cas_fail(err, CAS_E_DENIED,
                                        "%s lies in %s, which is in use: choose another directory",
                                        where, outer);
        }
        return 0;
}

static int pack_found(void *arg, const struct cas_pack_file *pack CAS_UNUSED, struct cas_err *err)
{
        return cas_fail(err, CAS_E_DENIED,
                        "%s holds packs of a tier of this store, or of one that this is a copy of: "
                        "it is left alone",
                        (const char *)arg);
}

/* The marker may be that of the store that this one is a copy of. */
static int bucket_is_new(const struct tier_bucket_config *config, const char *where,
                         struct cas_err *err)
{
        tier_cleanup_bucket struct tier_bucket *bucket = NULL;
        int rc = tier_bucket_open(config, &bucket, err);
        return rc < 0 ? rc : tier_bucket_each(bucket, pack_found, (void *)(uintptr_t)where, err);
}

static int place_make(struct tier_set *set, struct tier_config *c, struct cas_err *err)
{
        if (c->class == TIER_REMOTE) {
                const struct tier_bucket_config bucket = {
                        .s3 = c->s3, .store_id = set->store_id, .tier = c->id, .name = c->name};
                int rc = tier_bucket_make(&bucket, err);
                return rc < 0 ? rc : bucket_is_new(&bucket, c->where, err);
        }
        const struct tier_dir_name name = {.store_id = set->store_id, .id = c->id, .name = c->name};
        int rc = parent_check(set, c->where, err);
        if (rc == 0)
                rc = place_check(set, c->where, err);
        char *real = NULL;
        if (rc == 0)
                rc = tier_dir_make(c->where, &name, &real, err);
        if (rc < 0)
                return rc;
        free(c->where);
        c->where = real;
        return 0;
}

static int add_check(const struct tier_list *l, const struct tier_config *c, struct cas_err *err)
{
        if (tier_config_check(c, err) < 0)
                return -(int)err->code;
        if (l->count == TIERS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "there are %d tiers already", TIERS_MAX);
        for (size_t i = 0; i < l->count; i++) {
                if (strcmp(l->tiers[i].name, c->name) == 0)
                        return cas_fail(err, CAS_E_EXISTS,
                                        "there is a tier %s already (`lamina tier set` changes it)",
                                        c->name);
                if (c->s3 && l->tiers[i].where && strcmp(l->tiers[i].where, c->where) == 0)
                        return cas_fail(err, CAS_E_DENIED, "%s is tier %s already", c->where,
                                        l->tiers[i].name);
        }
        return 0;
}

static int tier_add(struct tier_set *set, struct tier_config *c, struct cas_err *err)
{
        struct tier_list list;
        c->id = set->next_id;
        list_gather(set, NULL, NULL, &list);
        int rc = add_check(&list, c, err);
        if (rc < 0)
                return rc;
        /* The number is used up whatever comes of it: a marker that is left behind is no tier's
         * that comes later. */
        list.next_id = c->id + 1;
        if ((rc = list_write(set, &list, err)) < 0)
                return rc;
        set->next_id = list.next_id;
        rc = place_make(set, c, err);
        if (rc < 0)
                return rc;
        list.tiers[list.count++] = *c;
        rc = list_write(set, &list, err);
        return rc < 0 ? rc : tier_set_enlist(set, c, err);
}

int tier_set_add(struct tier_set *set, const struct tier_config *c, struct cas_err *err)
{
        struct tier_config copy;
        tier_config_copy(&copy, c);
        cas_mutex_lock(&set->changing);
        int rc = tier_add(set, &copy, err);
        cas_mutex_unlock(&set->changing);
        if (rc == 0)
                cas_log(CAS_LOG_DEBUG, "tiers", "added=%s where=%s", copy.name, copy.where);
        tier_config_release(&copy);
        return rc < 0 ? cas_err_wrap(err, "tier %s", c->name) : 0;
}

/* ---- changing ---- */

static bool texts_differ(const char *a, const char *b)
{
        return (a == NULL) != (b == NULL) || (a && strcmp(a, b) != 0);
}

static bool buckets_differ(const struct s3_config *a, const struct s3_config *b)
{
        if (!a || !b)
                return a != b;
        return a->path_style != b->path_style || texts_differ(a->endpoint, b->endpoint) ||
               texts_differ(a->region, b->region) || texts_differ(a->ca_file, b->ca_file) ||
               texts_differ(a->sse, b->sse) || texts_differ(a->sse_kms_key, b->sse_kms_key) ||
               texts_differ(a->credentials, b->credentials);
}

static int change_check(const struct tier *t, const struct tier_config *c, struct cas_err *err)
{
        if (tier_is_local(t) != (c->class != TIER_REMOTE) ||
            texts_differ(t->config.where, c->where) || buckets_differ(t->config.s3, c->s3))
                return cas_fail(err, CAS_E_INVALID,
                                "where a tier lies is not changed: add another, and evacuate this");
        return tier_config_check(c, err);
}

static int tier_change(struct tier_set *set, const struct tier_config *c, struct cas_err *err)
{
        struct tier_list list;
        struct tier_config *row;
        list_gather(set, NULL, NULL, &list);
        row = tier_list_find(&list, c->name);
        struct tier *t = tier_set_named(set, c->name);
        if (!row || !t)
                return cas_fail(err, CAS_E_NOTFOUND, "no tier is called %s", c->name);
        int rc = change_check(t, c, err);
        if (rc < 0)
                return rc;
        *row = *c;
        row->id = t->id;
        rc = list_write(set, &list, err);
        return rc < 0 ? rc : tier_set_settle(set, t, c, err);
}

int tier_set_change(struct tier_set *set, const struct tier_config *c, struct cas_err *err)
{
        cas_mutex_lock(&set->changing);
        int rc = tier_change(set, c, err);
        cas_mutex_unlock(&set->changing);
        return rc;
}

int tier_set_pause(struct tier_set *set, bool paused, struct cas_err *err)
{
        struct tier_list list;
        cas_mutex_lock(&set->changing);
        list_gather(set, NULL, NULL, &list);
        list.paused = paused;
        int rc = list_write(set, &list, err);
        if (rc == 0)
                rc = tier_set_begin_counting(set, err);
        if (rc == 0) {
                cas_mutex_lock(&set->mutex);
                set->paused = paused;
                (void)pthread_cond_broadcast(&set->room);
                if (set->mover_wake)
                        set->mover_wake(set->mover_arg);
                cas_mutex_unlock(&set->mutex);
        }
        cas_mutex_unlock(&set->changing);
        return rc;
}

/* ---- removing ---- */

static void place_unmake(struct tier *t)
{
        struct cas_err err = CAS_ERR_INIT;
        int rc = 0;
        if (t->dir.packs_fd >= 0 && t->state == TIER_OK)
                rc = tier_dir_unmake(t->config.where, &t->dir, &err);
        else if (t->bucket)
                rc = tier_bucket_unmake(t->bucket, &err);
        if (rc < 0)
                cas_log(CAS_LOG_WARN, "tiers", "tier=%s left=behind message=\"%s\"", t->name,
                        err.msg);
}

int tier_set_remove(struct tier_set *set, const char *name, struct cas_err *err)
{
        struct tier_list list;
        cas_mutex_lock(&set->changing);
        struct tier *t = tier_set_named(set, name);
        int rc = 0;
        if (!t)
                rc = cas_fail(err, CAS_E_NOTFOUND, "no tier is called %s", name);
        else if (t->id == CAS_TIER_OWN)
                rc = cas_fail(err, CAS_E_INVALID, "tier %s is the store's own directory", name);
        if (rc == 0) {
                list_gather(set, NULL, t, &list);
                rc = list_write(set, &list, err);
        }
        if (rc == 0) {
                cas_mutex_lock(&set->mutex);
                t->gone = true;
                (void)pthread_cond_broadcast(&set->room);
                cas_mutex_unlock(&set->mutex);
                struct cas_err cache = CAS_ERR_INIT;
                if (tier_cache_open(set, &cache) < 0)
                        cas_log(CAS_LOG_WARN, "tiers", "message=\"%s\"", cache.msg);
                place_unmake(t);
        }
        cas_mutex_unlock(&set->changing);
        return rc;
}
