/* SPDX-License-Identifier: Apache-2.0 */
/* Names: what a publication changes, in the order that makes it safe (spec/cluster.md, "Writing"),
 * and how they are asked for. */
#include <stdio.h>

#include "tiering/cluster_int.h"

/* ---- single names ---- */

/* Makes a cell what `wanted` says, whatever was there; one that is live and says the same stays. */
static int cell_set(struct tier_cluster *c, const char *key, const struct tier_cell *wanted,
                    struct cas_err *err)
{
        for (unsigned i = 0; i < TIER_TRIES; i++) {
                tier_cleanup_cell struct tier_cell now = TIER_CELL_INIT;
                struct tier_version version;
                struct cas_err why = CAS_ERR_INIT;
                bool there;
                int rc = tier_cell_read(c, key, &now, &there, &version, err);
                if (rc < 0)
                        return rc;
                if (there && now.state == TIER_CELL_LIVE && now.size_bytes == wanted->size_bytes &&
                    strcmp(now.type, wanted->type) == 0)
                        return 0;
                struct tier_cell made = {.size_bytes = wanted->size_bytes};
                memcpy(made.type, wanted->type, sizeof(made.type));
                rc = tier_cell_write(c, key, &made, &version, NULL, &why);
                if (rc == 0)
                        return 0;
                if (rc != -CAS_E_EXISTS) {
                        *err = why;
                        return rc;
                }
        }
        return tier_fail_tries(key, err);
}

static int fail_went(const char *key, struct cas_err *err)
{
        return cas_fail(err, CAS_E_BUSY, "%s went while it was named", key);
}

/* The child is there after its parent can be seen. */
static int hold_again(struct tier_cluster *c, const char *key, uint64_t *bytes, struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct cas_err why = CAS_ERR_INIT;
        int rc = tier_cell_hold(c, key, &cell, &why);
        if (rc == -CAS_E_NOTFOUND)
                return fail_went(key, err);
        if (rc < 0)
                *err = why;
        else if (bytes)
                *bytes = cell.size_bytes;
        return rc;
}

static int link_blob(struct tier_cluster *c, const struct cas_shared_name *name,
                     struct cas_err *err)
{
        char blob[TIER_KEY_BYTES], key[TIER_KEY_BYTES];
        struct tier_cell link = TIER_CELL_INIT;
        tier_key_blob(&name->digest, blob);
        tier_key_digest(name->repo, "_links", &name->digest, key);
        int rc = hold_again(c, blob, &link.size_bytes, err);
        if (rc == 0)
                rc = cell_set(c, key, &link, err);
        return rc < 0 ? rc : hold_again(c, blob, NULL, err);
}

static int link_manifest(struct tier_cluster *c, const struct cas_shared_name *name,
                         struct cas_err *err)
{
        char key[TIER_KEY_BYTES];
        struct tier_cell cell = {.size_bytes = name->size_bytes};
        memcpy(cell.type, name->media_type, sizeof(cell.type));
        tier_key_digest(name->repo, "_manifests", &name->digest, key);
        return cell_set(c, key, &cell, err);
}

static void referrer_key(const struct cas_shared_name *name, char out[TIER_KEY_BYTES])
{
        char subject[CAS_DIGEST_TEXT_BYTES], referrer[CAS_DIGEST_TEXT_BYTES];
        (void)snprintf(out, TIER_KEY_BYTES, "repos/%s/_referrers/%s/%s", name->repo,
                       tier_digest_name(&name->digest, subject),
                       tier_digest_name(&name->referrer, referrer));
}

/* ---- tags ---- */

static int ask_guard(const struct cas_shared_names *names, const char *repo, const char *tag,
                     const struct cas_digest *before, const struct cas_digest *after,
                     struct cas_err *err)
{
        struct cas_tag_change change = {.repo = repo, .tag = tag};
        if (before)
                change.before = *before;
        if (after)
                change.after = *after;
        return names->guard ? names->guard(names->guard_arg, &change, err) : 0;
}

/* after NULL: it goes, if it names `only` (NULL: whatever it names). EXISTS: again. */
static int change_tag_once(struct tier_cluster *c, const struct cas_shared_names *names,
                           const char *repo, const char *tag, const struct cas_digest *after,
                           const struct cas_digest *only, struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct tier_version version;
        char key[TIER_KEY_BYTES];
        bool there;
        tier_key_name(repo, "_tags", tag, key);
        int rc = tier_cell_read(c, key, &cell, &there, &version, err);
        if (rc == 0 && only && (!there || !cas_digest_equal(&cell.digest, only)))
                return 0;
        if (rc == 0)
                rc = ask_guard(names, repo, tag, there ? &cell.digest : NULL, after, err);
        if (rc < 0)
                return rc;
        if (!after)
                return there ? tier_cell_empty(c, key, &version, err) : 0;
        if (there && cas_digest_equal(&cell.digest, after))
                return 0;
        struct tier_cell made = {.digest = *after};
        return tier_cell_write(c, key, &made, &version, NULL, err);
}

static int change_tag(struct tier_cluster *c, const struct cas_shared_names *names,
                      const char *repo, const char *tag, const struct cas_digest *after,
                      const struct cas_digest *only, struct cas_err *err)
{
        for (unsigned i = 0; i < TIER_TRIES; i++) {
                struct cas_err why = CAS_ERR_INIT;
                int rc = change_tag_once(c, names, repo, tag, after, only, &why);
                if (rc != -CAS_E_EXISTS) {
                        if (rc < 0)
                                *err = why;
                        return rc;
                }
        }
        return tier_fail_tries(tag, err);
}

/* A tag's manifest is in the repository. linked: it was linked by this publication, so that it is
 * nobody's fault but a deletion's that it is not. */
static int check_manifest(struct tier_cluster *c, const struct cas_shared_name *name, bool linked,
                          struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct cas_err why = CAS_ERR_INIT;
        char key[TIER_KEY_BYTES], text[CAS_DIGEST_TEXT_BYTES];
        tier_key_digest(name->repo, "_manifests", &name->digest, key);
        int rc = tier_cell_hold(c, key, &cell, &why);
        if (rc == -CAS_E_NOTFOUND && linked)
                return fail_went(key, err);
        if (rc == -CAS_E_NOTFOUND)
                return cas_fail(err, CAS_E_NOTFOUND, "tag %s:%s: no manifest %s in the repository",
                                name->repo, name->tag, cas_digest_text(&name->digest, text));
        if (rc < 0)
                *err = why;
        return rc;
}

static int set_tag(struct tier_cluster *c, const struct cas_shared_names *names,
                   const struct cas_shared_name *name, struct cas_err *err)
{
        int rc = check_manifest(c, name, false, err);
        if (rc == 0)
                rc = change_tag(c, names, name->repo, name->tag, &name->digest, NULL, err);
        return rc < 0 ? rc : check_manifest(c, name, true, err);
}

/* ---- removing a manifest ---- */

struct listed {
        char **keys; /* owned */
        size_t count;
        const char *suffix; /* NULL: all */
};

static void listed_release(struct listed *l)
{
        for (size_t i = 0; i < l->count; i++)
                free(l->keys[i]);
        free(l->keys);
}

static int list_one(void *arg, const char *key, const struct s3_object *object,
                    struct cas_err *err CAS_UNUSED)
{
        struct listed *l = arg;
        size_t len = strlen(key), suffix = l->suffix ? strlen(l->suffix) : 0;
        if (!object || object->size_bytes == 0)
                return 0;
        if (suffix > 0 && (len < suffix || strcmp(key + len - suffix, l->suffix) != 0))
                return 0;
        if ((l->count & (l->count - 1)) == 0)
                l->keys = cas_xrealloc(l->keys, (l->count ? 2 * l->count : 1) * sizeof(*l->keys));
        l->keys[l->count++] = cas_xstrdup(key);
        return 0;
}

static int list_keys(struct tier_cluster *c, const char *repo, const char *kind, struct listed *out,
                     struct cas_err *err)
{
        char prefix[TIER_KEY_BYTES];
        tier_key_name(repo, kind, "", prefix);
        return c->objects->ops->list(c->objects, prefix, NULL, list_one, out, err);
}

/* Asks the guard (ask) of the tags that name the manifest, or takes them away. */
static int follow_tags(struct tier_cluster *c, const struct cas_shared_names *names,
                       const struct cas_shared_name *name, const struct listed *tags, bool ask,
                       struct cas_err *err)
{
        const struct cas_shared_names unguarded = {0};
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < tags->count; i++) {
                const char *tag = strrchr(tags->keys[i], '/') + 1;
                struct cas_digest now;
                struct cas_err miss = CAS_ERR_INIT;
                if (!ask) {
                        rc = change_tag(c, &unguarded, name->repo, tag, NULL, &name->digest, err);
                        continue;
                }
                rc = tier_op_tag_get(&c->shared, name->repo, tag, &now, &miss);
                if (rc == 0 && cas_digest_equal(&now, &name->digest))
                        rc = ask_guard(names, name->repo, tag, &now, NULL, err);
                else if (rc == -CAS_E_NOTFOUND)
                        rc = 0;
                else if (rc < 0)
                        *err = miss;
        }
        return rc;
}

static int unlink_manifest(struct tier_cluster *c, const struct cas_shared_names *names,
                           const struct cas_shared_name *name, struct cas_err *err)
{
        char key[TIER_KEY_BYTES], text[CAS_DIGEST_TEXT_BYTES];
        struct listed tags = {0}, referrers = {.suffix = tier_digest_name(&name->digest, text)};
        tier_key_digest(name->repo, "_manifests", &name->digest, key);
        int rc = list_keys(c, name->repo, "_tags", &tags, err);
        if (rc == 0)
                rc = follow_tags(c, names, name, &tags, true, err);
        if (rc == 0)
                rc = tier_cell_remove(c, key, err);
        if (rc == 0)
                rc = list_keys(c, name->repo, "_referrers", &referrers, err);
        for (size_t i = 0; rc == 0 && i < referrers.count; i++)
                rc = tier_cell_remove(c, referrers.keys[i], err);
        if (rc == 0) { /* also those that were set meanwhile */
                listed_release(&tags);
                tags = (struct listed){0};
                rc = list_keys(c, name->repo, "_tags", &tags, err);
        }
        if (rc == 0)
                rc = follow_tags(c, names, name, &tags, false, err);
        listed_release(&tags);
        listed_release(&referrers);
        return rc;
}

/* ---- publications ---- */

/* Children first. */
enum step {
        STEP_LINKS,
        STEP_MANIFESTS,
        STEP_REFERRERS,
        STEP_AGAIN,
        STEP_TAGS,
        STEP_REMOVALS,
        STEPS
};

static int step_link_again(struct tier_cluster *c, const struct cas_shared_names *names,
                           const struct cas_shared_name *name, struct cas_err *err)
{
        char key[TIER_KEY_BYTES];
        bool needed = false; /* a manifest of this publication may name it */
        for (size_t i = 0; i < names->count && !needed; i++)
                needed = names->list[i].change == CAS_SHARED_LINK_MANIFEST &&
                         strcmp(names->list[i].repo, name->repo) == 0;
        if (!needed)
                return 0;
        tier_key_digest(name->repo, "_links", &name->digest, key);
        return hold_again(c, key, NULL, err);
}

static int publish_one(struct tier_cluster *c, const struct cas_shared_names *names,
                       const struct cas_shared_name *name, enum step step, struct cas_err *err)
{
        char key[TIER_KEY_BYTES];
        struct tier_cell empty = TIER_CELL_INIT;
        switch (name->change) {
        case CAS_SHARED_LINK_BLOB:
                if (step == STEP_LINKS)
                        return link_blob(c, name, err);
                return step == STEP_AGAIN ? step_link_again(c, names, name, err) : 0;
        case CAS_SHARED_LINK_MANIFEST:
                if (step == STEP_MANIFESTS)
                        return link_manifest(c, name, err);
                tier_key_blob(&name->digest, key);
                return step == STEP_AGAIN ? hold_again(c, key, NULL, err) : 0;
        case CAS_SHARED_REFERRER:
                referrer_key(name, key);
                return step == STEP_REFERRERS ? cell_set(c, key, &empty, err) : 0;
        case CAS_SHARED_TAG:
                return step == STEP_TAGS ? set_tag(c, names, name, err) : 0;
        case CAS_SHARED_UNTAG:
                return step == STEP_TAGS
                               ? change_tag(c, names, name->repo, name->tag, NULL, NULL, err)
                               : 0;
        case CAS_SHARED_UNLINK_MANIFEST:
                return step == STEP_REMOVALS ? unlink_manifest(c, names, name, err) : 0;
        case CAS_SHARED_UNLINK_BLOB:
                tier_key_digest(name->repo, "_links", &name->digest, key);
                return step == STEP_REMOVALS ? tier_cell_remove(c, key, err) : 0;
        }
        return 0;
}

int tier_op_publish(struct cas_shared *sh, const struct cas_shared_names *names,
                    struct cas_err *err)
{
        struct tier_cluster *c = tier_cluster_from(sh);
        for (unsigned step = 0; step < STEPS; step++) {
                for (size_t i = 0; i < names->count; i++) {
                        int rc = publish_one(c, names, &names->list[i], (enum step)step, err);
                        if (rc < 0)
                                return rc;
                }
        }
        return 0;
}

/* ---- asking ---- */

int tier_op_tag_get(struct cas_shared *sh, const char *repo, const char *tag,
                    struct cas_digest *out, struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct tier_version version;
        char key[TIER_KEY_BYTES];
        bool there;
        tier_key_name(repo, "_tags", tag, key);
        int rc = tier_cell_read(tier_cluster_from(sh), key, &cell, &there, &version, err);
        if (rc == 0 && !there)
                rc = cas_fail(err, CAS_E_NOTFOUND, "repository %s: no tag %s", repo, tag);
        if (rc == 0 && cell.digest.alg == CAS_DIGEST_NONE)
                rc = cas_fail(err, CAS_E_CORRUPT, "%s: it names nothing", key);
        if (rc == 0)
                *out = cell.digest;
        return rc;
}

int tier_op_manifest_get(struct cas_shared *sh, const char *repo, const struct cas_digest *manifest,
                         struct cas_manifest_info *out, struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct tier_version version;
        char key[TIER_KEY_BYTES], text[CAS_DIGEST_TEXT_BYTES];
        bool there;
        tier_key_digest(repo, "_manifests", manifest, key);
        int rc = tier_cell_read(tier_cluster_from(sh), key, &cell, &there, &version, err);
        if (rc == 0 && !there)
                rc = cas_fail(err, CAS_E_NOTFOUND, "repository %s: no manifest %s", repo,
                              cas_digest_text(manifest, text));
        if (rc < 0)
                return rc;
        *out = (struct cas_manifest_info){.digest = *manifest, .size_bytes = cell.size_bytes};
        memcpy(out->media_type, cell.type, sizeof(out->media_type));
        return 0;
}

int tier_op_link_get(struct cas_shared *sh, const char *repo, const struct cas_digest *blob,
                     bool hold, uint64_t *out_bytes, struct cas_err *err)
{
        struct tier_cluster *c = tier_cluster_from(sh);
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct tier_version version;
        char key[TIER_KEY_BYTES], text[CAS_DIGEST_TEXT_BYTES];
        struct cas_err miss = CAS_ERR_INIT;
        bool there = true;
        if (!cas_repo_name_valid(repo))
                return cas_fail(err, CAS_E_NOTFOUND, "no repository %.255s", repo);
        tier_key_digest(repo, "_links", blob, key);
        int rc = hold ? tier_cell_hold(c, key, &cell, &miss)
                      : tier_cell_read(c, key, &cell, &there, &version, &miss);
        if (rc == -CAS_E_NOTFOUND || (rc == 0 && !there))
                return cas_fail(err, CAS_E_NOTFOUND, "repository %s: no blob %s", repo,
                                cas_digest_text(blob, text));
        if (rc < 0)
                *err = miss;
        else
                *out_bytes = cell.size_bytes;
        return rc;
}

/* ---- lists ---- */

struct name_list {
        size_t prefix_len;
        bool (*fn)(void *arg, const char *tag);
        bool (*referrer_fn)(void *arg, const struct cas_digest *referrer);
        void *arg;
};

static int name_seen(void *arg, const char *key, const struct s3_object *object,
                     struct cas_err *err CAS_UNUSED)
{
        const struct name_list *l = arg;
        const char *name = key + l->prefix_len;
        struct cas_digest digest;
        if (!object || object->size_bytes == 0)
                return 0;
        if (l->fn)
                return !cas_tag_valid(name) || l->fn(l->arg, name) ? 0 : 1;
        return !tier_digest_from_name(name, &digest) || l->referrer_fn(l->arg, &digest) ? 0 : 1;
}

int tier_op_tag_each(struct cas_shared *sh, const char *repo, const char *last,
                     bool (*fn)(void *arg, const char *tag), void *arg, struct cas_err *err)
{
        struct tier_cluster *c = tier_cluster_from(sh);
        char prefix[TIER_KEY_BYTES];
        tier_key_name(repo, "_tags", "", prefix);
        cas_cleanup_free char *after =
                last && last[0] ? cas_xasprintf("%s%.128s", prefix, last) : NULL;
        struct name_list list = {.prefix_len = strlen(prefix), .fn = fn, .arg = arg};
        return c->objects->ops->list(c->objects, prefix, after, name_seen, &list, err);
}

int tier_op_referrer_each(struct cas_shared *sh, const char *repo, const struct cas_digest *subject,
                          bool (*fn)(void *arg, const struct cas_digest *referrer), void *arg,
                          struct cas_err *err)
{
        struct tier_cluster *c = tier_cluster_from(sh);
        char prefix[TIER_KEY_BYTES];
        tier_key_digest(repo, "_referrers", subject, prefix);
        strncat(prefix, "/", sizeof(prefix) - strlen(prefix) - 1);
        struct name_list list = {.prefix_len = strlen(prefix), .referrer_fn = fn, .arg = arg};
        return c->objects->ops->list(c->objects, prefix, NULL, name_seen, &list, err);
}

/* Repositories: one is told of by its first key, and all its others are passed over. */
struct repo_list {
        char **names; /* owned */
        size_t count;
        char after[TIER_KEY_BYTES];
        bool found;
};

static int repo_seen(void *arg, const char *key, const struct s3_object *object,
                     struct cas_err *err CAS_UNUSED)
{
        struct repo_list *l = arg;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        const char *kind, *name;
        if (!object || object->size_bytes == 0 || !tier_key_split(key, repo, &kind, &name) ||
            strcmp(kind, "_uploads") == 0 || strncmp(kind, "_uploads/", 9) == 0)
                return 0;
        if ((l->count & (l->count - 1)) == 0)
                l->names = cas_xrealloc(l->names, (l->count ? 2 * l->count : 1) * sizeof(char *));
        l->names[l->count++] = cas_xstrdup(repo);
        (void)snprintf(l->after, sizeof(l->after), "repos/%s/_~", repo);
        l->found = true;
        return 1;
}

static int compare_names(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

int tier_op_repo_exists(struct cas_shared *sh, const char *repo, bool *out, struct cas_err *err)
{
        struct tier_cluster *c = tier_cluster_from(sh);
        struct repo_list l = {0};
        char prefix[TIER_KEY_BYTES];
        *out = false;
        if (!cas_repo_name_valid(repo))
                return 0;
        (void)snprintf(prefix, sizeof(prefix), "repos/%s/_", repo);
        int rc = c->objects->ops->list(c->objects, prefix, NULL, repo_seen, &l, err);
        *out = l.found;
        for (size_t i = 0; i < l.count; i++)
                free(l.names[i]);
        free(l.names);
        return rc;
}

/* Keys sort otherwise than names do: all of them, then in order. */
int tier_op_repo_each(struct cas_shared *sh, const char *last,
                      bool (*fn)(void *arg, const char *repo), void *arg, struct cas_err *err)
{
        struct tier_cluster *c = tier_cluster_from(sh);
        struct repo_list l = {.found = true};
        bool more = true;
        int rc = 0;
        while (rc == 0 && l.found) {
                l.found = false;
                rc = c->objects->ops->list(c->objects, "repos/", l.after[0] ? l.after : NULL,
                                           repo_seen, &l, err);
        }
        if (rc == 0 && l.count > 0)
                qsort(l.names, l.count, sizeof(*l.names), compare_names);
        for (size_t i = 0; i < l.count; i++) {
                if (rc == 0 && more && (!last || strcmp(l.names[i], last) > 0))
                        more = fn(arg, l.names[i]);
                free(l.names[i]);
        }
        free(l.names);
        return rc;
}
