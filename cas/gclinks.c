/* SPDX-License-Identifier: Apache-2.0 */
/* Links of blobs in repositories: they go when no manifest of the repository names the blob any
 * more. Looked up beforehand, and again within the commit where the repository's names have changed
 * since: commits exclude each other. */
#include "cas/gc_int.h"

#include <time.h>

#include "cas/blob.h"
#include "cas/commit_int.h"
#include "cas/image.h"
#include "cas/limits.h"

/* References of a blob that are looked at before its repository's manifests are, one by one. */
#define REFS_MAX 256

struct link_plan {
        const struct cas_condemned *c;
        enum cas_gc_verdict verdict;
        uint64_t generation; /* of the repository's names, before it was looked up */
};

struct links {
        struct cas_gc_run *gc;
        struct link_plan *plans;
        size_t count;
        struct cas_name_changes changes;
        struct cas_buf records;
        struct cas_batch *batch;
};

/* ---- whether a manifest of the repository names a blob ---- */

struct naming {
        struct cas_gc_run *gc;
        const char *repo;
        unsigned left; /* references that may still be looked at */
        unsigned depth;
        bool named, unsure; /* too many of them */
};

static int look_up(struct naming *n, const struct cas_digest *child, struct cas_err *err);

/* A manifest or an index that names it. */
static int see_parent(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                      const void *value, size_t value_len, struct cas_err *err)
{
        struct naming *n = arg;
        struct cas_digest parent;
        struct cas_record_key link;
        n->unsure = n->left == 0;
        if (n->unsure)
                return 1;
        n->left--;
        int rc = cas_digest_value_decode(value, value_len, &parent, err);
        if (rc < 0)
                return rc;
        cas_key_repo_digest(n->repo, &parent, &link);
        rc = cas_gc_has(n->gc, CAS_FAMILY_MANIFESTS, &link, &n->named, err);
        if (rc == 0 && !n->named)
                rc = look_up(n, &parent, err); /* an index of the repository may name that */
        return rc < 0 ? rc : n->named || n->unsure;
}

static int look_up(struct naming *n, const struct cas_digest *child, struct cas_err *err)
{
        static const uint8_t roles[] = {CAS_BLOB_NAMED, CAS_BLOB_CHILD};
        int rc = 0;
        if (n->depth > CAS_INDEX_DEPTH_MAX + 1)
                return 0;
        n->depth++;
        for (size_t i = 0; rc == 0 && i < sizeof(roles) && !n->named && !n->unsure; i++) {
                struct cas_record_key prefix;
                cas_key_digest(child, &prefix);
                prefix.bytes[prefix.len++] = roles[i];
                rc = cas_index_scan(n->gc->ix,
                                    &(struct cas_scan){.family = CAS_FAMILY_BLOB_REFS,
                                                       .prefix = prefix.bytes,
                                                       .prefix_len = prefix.len},
                                    see_parent, n, err);
        }
        n->depth--;
        return rc;
}

/* The other way round, for blobs that very many manifests name. */
struct search {
        struct cas_gc_run *gc;
        const struct cas_digest *blob;
        unsigned depth;
        bool named;
};

static int search_below(struct search *s, const struct cas_digest *manifest, const char *media_type,
                        struct cas_err *err);

static int search_children(struct search *s, const struct cas_digest *index, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        int rc = cas_blob_read(s->gc->s, index, CAS_MANIFEST_BYTES_MAX, &bytes, err);
        if (rc == 0)
                rc = cas_manifest_parse(bytes.data, bytes.len_bytes, NULL, &m, err);
        for (size_t i = 0; rc == 0 && !s->named && i < m.child_count; i++)
                rc = search_below(s, &m.children[i].digest, m.children[i].media_type, err);
        return rc;
}

static int search_below(struct search *s, const struct cas_digest *manifest, const char *media_type,
                        struct cas_err *err)
{
        struct cas_reference ref;
        struct cas_record_key key;
        cas_key_digest(manifest, &key);
        cas_reference_of_blob(&ref, s->blob, CAS_BLOB_NAMED, key.bytes, key.len);
        int rc = cas_index_has(s->gc->ix, CAS_FAMILY_BLOB_REFS, ref.key, ref.key_len, &s->named,
                               err);
        if (rc < 0 || s->named || s->depth >= CAS_INDEX_DEPTH_MAX ||
            (strcmp(media_type, CAS_MT_OCI_INDEX) != 0 &&
             strcmp(media_type, CAS_MT_DOCKER_LIST) != 0))
                return rc;
        s->depth++;
        struct cas_err unread = CAS_ERR_INIT;
        rc = search_children(s, manifest, &unread);
        s->depth--;
        if (rc < 0) { /* what cannot be read may name it */
                s->named = rc == -CAS_E_CORRUPT || rc == -CAS_E_INVALID;
                if (!s->named && rc != -CAS_E_NOTFOUND) {
                        *err = unread;
                        return rc;
                }
        }
        return 0;
}

static int search_manifest(void *arg, const void *key, size_t key_len, const void *value,
                           size_t value_len, struct cas_err *err)
{
        struct search *s = arg;
        struct cas_manifest_info info;
        int rc = cas_manifest_entry_decode(key, key_len, value, value_len, &info, err);
        if (rc == 0)
                rc = search_below(s, &info.digest, info.media_type, err);
        return rc < 0 ? rc : s->named;
}

int cas_gc_link_is_named(struct cas_gc_run *gc, const char *repo, const struct cas_digest *blob,
                         bool *out, struct cas_err *err)
{
        struct naming n = {.gc = gc, .repo = repo, .left = REFS_MAX};
        struct search s = {.gc = gc, .blob = blob};
        struct cas_record_key prefix;
        int rc = look_up(&n, blob, err);
        *out = n.named;
        if (rc < 0 || n.named || !n.unsure)
                return rc;
        cas_key_repo(repo, &prefix);
        rc = cas_index_scan(gc->ix,
                            &(struct cas_scan){.family = CAS_FAMILY_MANIFESTS,
                                               .prefix = prefix.bytes,
                                               .prefix_len = prefix.len},
                            search_manifest, &s, err);
        *out = s.named;
        return rc;
}

/* ---- plans ---- */

/* When it was linked; 0: it is not. */
static int linked_since(struct cas_gc_run *gc, const struct cas_condemned *c, uint64_t *out,
                        struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        struct cas_err miss = CAS_ERR_INIT;
        *out = 0;
        cas_key_repo_digest(c->repo, &c->blob, &key);
        int rc = cas_index_get(gc->ix, CAS_FAMILY_BLOB_LINKS, key.bytes, key.len, &value, &miss);
        if (rc == 0)
                return cas_time_value_decode(value.data, value.len_bytes, out, err);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

/* With all that is to be asked of the index. */
static int plan_link(struct cas_gc_run *gc, struct link_plan *p, struct cas_err *err)
{
        uint64_t since = 0;
        bool named = false;
        p->verdict = CAS_GC_WAITS;
        int rc = linked_since(gc, p->c, &since, err);
        if (rc == 0 && (cas_gc_is_young(gc, p->c->since_unix_s) || cas_gc_is_young(gc, since)))
                return 0;
        if (rc == 0)
                rc = cas_gc_link_is_named(gc, p->c->repo, &p->c->blob, &named, err);
        if (rc == 0)
                p->verdict = named || since == 0 ? CAS_GC_NEEDED : CAS_GC_GOES;
        return rc;
}

static void fill_link(struct links *l, const struct link_plan *p)
{
        cas_cleanup_free struct cas_name_record *rec = NULL;
        if (p->verdict == CAS_GC_WAITS)
                return;
        cas_batch_uncondemn_link(l->batch, p->c->repo, &p->c->blob);
        if (p->verdict == CAS_GC_NEEDED)
                return;
        rec = cas_xcalloc(1, sizeof(*rec));
        rec->kind = CAS_NAME_BLOB_UNLINK;
        rec->digest = p->c->blob;
        memcpy(rec->repo, p->c->repo, strlen(p->c->repo) + 1);
        if (!l->gc->trial) {
                cas_name_record_encode(rec, &l->records);
                l->changes.count++;
                return;
        }
        /* What the commit would write. */
        cas_name_record_apply(rec, l->batch);
        cas_batch_del_blob_ref(l->batch, &rec->digest, CAS_BLOB_IN_REPO, rec->repo,
                               strlen(rec->repo));
        cas_batch_condemn_blob(l->batch, &rec->digest, (uint64_t)time(NULL));
}

/* In the commit: of repositories whose names have changed, once more. */
static int fill_links(void *arg, struct cas_err *err)
{
        struct links *l = arg;
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < l->count; i++) {
                struct link_plan *p = &l->plans[i];
                if (p->verdict != CAS_GC_WAITS &&
                    cas_names_generation(l->gc->s, p->c->repo) != p->generation)
                        rc = plan_link(l->gc, p, err);
                if (rc == 0)
                        fill_link(l, p);
        }
        return rc;
}

static int commit_links(struct links *l, struct cas_err *err)
{
        bool any = false;
        for (size_t i = 0; i < l->count; i++)
                any = any || l->plans[i].verdict != CAS_GC_WAITS;
        if (!any)
                return 0;
        l->batch = cas_batch_new();
        l->changes = (struct cas_name_changes){
                .records = &l->records, .removes = true, .fill = fill_links, .fill_arg = l};
        int rc = 0;
        if (l->gc->trial) {
                rc = fill_links(l, err);
                if (rc == 0)
                        rc = cas_index_write_soon(l->gc->ix, l->batch, err);
        } else {
                rc = cas_commit_names(l->gc->s, l->batch, &l->changes, err);
        }
        cas_batch_free(l->batch);
        cas_buf_release(&l->records);
        return rc;
}

int cas_gc_links(struct cas_gc_run *gc, struct cas_err *err)
{
        const size_t count = gc->page_count;
        cas_cleanup_free struct link_plan *plans = cas_xcalloc(count, sizeof(plans[0]));
        struct links l = {.gc = gc, .plans = plans, .count = count};
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < count; i++) {
                plans[i].c = &gc->page[i];
                plans[i].generation = cas_names_generation(gc->s, plans[i].c->repo);
                rc = plan_link(gc, &plans[i], err);
        }
        if (rc == 0)
                rc = commit_links(&l, err);
        for (size_t i = 0; rc == 0 && i < count; i++) {
                gc->out->waiting += plans[i].verdict == CAS_GC_WAITS;
                gc->out->links_removed += plans[i].verdict == CAS_GC_GOES;
        }
        return rc;
}
