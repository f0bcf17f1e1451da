/* SPDX-License-Identifier: Apache-2.0 */
/* Collection of what nothing in the bucket needs (spec/cluster.md, "Collection"). That it takes
 * nothing that is needed rests on the versions of cells alone: what goes, goes in the version that
 * was listed before the mark began, and that was condemned then. */
#include <inttypes.h>
#include <stdio.h>
#include <xxhash.h>

#include "cas/hashset.h"
#include "cas/image.h"
#include "cas/log.h"
#include "tiering/cluster_int.h"

#define LEASE_KEY "gc/lease"
#define LEASE_S 60
#define REFERENCES_MAX 1000000 /* remembered from run to run */
#define TICK_MS 1000

/* What a manifest names. */
struct tier_references {
        size_t count;
        struct reference {
                struct cas_digest digest;
                bool is_manifest;
        } list[];
};

/* A cell that may go, as it was before the mark. */
struct candidate {
        char *key; /* owned */
        uint64_t etag;
};
struct candidates {
        struct candidate *list; /* owned */
        size_t count;
};

struct run {
        struct tier_cluster *c;
        struct tier_cluster_gc_result *result;
        struct tier_version lease;
        struct tier_cell lease_cell;
        uint64_t renewed_ms;
        int64_t before_unix_s; /* what was written later stays; the store's clock */
        struct candidates links, manifests, blobs, uploads;
        struct cas_hashset named;    /* repository and blob, by its manifests */
        struct cas_hashset dangling; /* repository and manifest, whose bytes are not there */
        struct cas_hashset marked;   /* blobs */
};

/* ---- the lease ---- */

static uint64_t lease_ms(const struct tier_cluster *c)
{
        return 1000 * cas_max_u64(1, cas_min_u64(LEASE_S, c->settings.grace_s));
}

/* Whether somebody holds it who may still be at work. */
static bool is_held(struct tier_cluster *c, const struct tier_cell *lease)
{
        uint64_t now = cas_clock_ms();
        if (!lease->holder[0])
                return false;
        if (strcmp(lease->nonce, c->lease_nonce) != 0) {
                memcpy(c->lease_nonce, lease->nonce, sizeof(c->lease_nonce));
                c->lease_seen_ms = now;
                return true;
        }
        return now - c->lease_seen_ms < lease_ms(c);
}

static int fail_lease(struct cas_err *err)
{
        return cas_fail(err, CAS_E_BUSY, "another node collects");
}

static int lease_write(struct run *r, struct cas_err *err)
{
        r->renewed_ms = cas_clock_ms();
        int rc = tier_cell_write(r->c, LEASE_KEY, &r->lease_cell, &r->lease, &r->lease, err);
        return rc == -CAS_E_EXISTS ? fail_lease(err) : rc;
}

static int lease_take(struct run *r, struct cas_err *err)
{
        struct tier_cluster *c = r->c;
        struct s3_object object;
        bool there;
        int rc = tier_cell_read(c, LEASE_KEY, &r->lease_cell, &there, &r->lease, err);
        if (rc == 0 && there && is_held(c, &r->lease_cell))
                return fail_lease(err);
        if (rc < 0)
                return rc;
        (void)snprintf(r->lease_cell.holder, sizeof(r->lease_cell.holder), "node %llu",
                       (unsigned long long)c->node);
        r->lease_cell.token++;
        rc = lease_write(r, err);
        if (rc == 0)
                rc = c->objects->ops->head(c->objects, LEASE_KEY, &object, err);
        if (rc == 0)
                r->before_unix_s = object.modified_unix_s - (int64_t)c->settings.grace_s;
        return rc;
}

static void lease_drop(struct run *r)
{
        struct cas_err ignored = CAS_ERR_INIT;
        r->lease_cell.holder[0] = '\0';
        (void)!lease_write(r, &ignored); /* or it runs out */
}

/* Between steps: the run goes on only while it has the lease. */
static int go_on(struct run *r, struct cas_err *err)
{
        if (cas_background_stopping(&r->c->background))
                return cas_fail(err, CAS_E_BUSY, "the node is stopping");
        return cas_clock_ms() - r->renewed_ms < lease_ms(r->c) / 3 ? 0 : lease_write(r, err);
}

/* ---- before ---- */

static void candidate_add(struct candidates *all, const char *key, const struct s3_object *object)
{
        size_t n = all->count;
        if ((n & (n - 1)) == 0)
                all->list = cas_xrealloc(all->list, (n ? 2 * n : 1) * sizeof(*all->list));
        all->list[all->count++] = (struct candidate){
                .key = cas_xstrdup(key), .etag = XXH3_64bits(object->etag, strlen(object->etag))};
}

static void candidates_release(struct candidates *all)
{
        for (size_t i = 0; i < all->count; i++)
                free(all->list[i].key);
        free(all->list);
}

static bool is_old(const struct run *r, const struct s3_object *object)
{
        return object && object->size_bytes > 0 && object->modified_unix_s <= r->before_unix_s;
}

static int name_before(void *arg, const char *key, const struct s3_object *object,
                       struct cas_err *err)
{
        struct run *r = arg;
        bool link = strstr(key, "/_links/") != NULL, upload = strstr(key, "/_uploads/") != NULL;
        if (is_old(r, object) && link)
                candidate_add(&r->links, key, object);
        else if (is_old(r, object) && upload)
                candidate_add(&r->uploads, key, object);
        else if (is_old(r, object) && strstr(key, "/_manifests/"))
                candidate_add(&r->manifests, key, object);
        r->result->links += link;
        r->result->uploads += upload && object && object->size_bytes > 0;
        return go_on(r, err);
}

static int blob_before(void *arg, const char *key, const struct s3_object *object,
                       struct cas_err *err)
{
        struct run *r = arg;
        if (is_old(r, object))
                candidate_add(&r->blobs, key, object);
        r->result->blobs += object && object->size_bytes > 0;
        return go_on(r, err);
}

/* ---- mark ---- */

static void named_hash(const char *repo, const struct cas_digest *digest, struct cas_hash *out)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_cleanup_free char *both = cas_xasprintf("%s\n%s", repo, cas_digest_text(digest, text));
        cas_sha256(both, strlen(both), out);
}

static void blob_hash(const struct cas_digest *digest, struct cas_hash *out)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_digest_text(digest, text);
        cas_sha256(text, strlen(text), out);
}

static void mark_blob(struct run *r, const struct cas_digest *digest)
{
        struct cas_hash hash;
        blob_hash(digest, &hash);
        (void)cas_hashset_add(&r->marked, hash.bytes);
}

static void references_forget(void *arg CAS_UNUSED, const void *key CAS_UNUSED,
                              size_t key_len CAS_UNUSED, uint64_t value)
{
        free((void *)(uintptr_t)value);
}

static void forget_references(struct tier_cluster *c)
{
        if (c->references) {
                cas_map_each(c->references, references_forget, NULL);
                cas_map_free(c->references);
        }
        c->references = NULL;
        c->reference_count = 0;
}

static int take_bytes(void *arg, const void *data, size_t len, struct cas_err *err)
{
        struct cas_buf *out = arg;
        if (len > CAS_MANIFEST_BYTES_MAX - out->len_bytes)
                return cas_fail(err, CAS_E_LIMIT, "a manifest that is too large");
        cas_buf_append(out, data, len);
        return 0;
}

static struct tier_references *references_new(const struct cas_manifest *m)
{
        size_t extra = m->kind == CAS_MANIFEST_IMAGE;
        struct tier_references *refs =
                cas_xcalloc(1, sizeof(*refs) + (m->child_count + extra) * sizeof(refs->list[0]));
        if (extra)
                refs->list[refs->count++] = (struct reference){.digest = m->config.digest};
        for (size_t i = 0; i < m->child_count; i++)
                refs->list[refs->count++] = (struct reference){
                        .digest = m->children[i].digest,
                        .is_manifest = m->kind == CAS_MANIFEST_INDEX &&
                                       cas_media_type_is_manifest(m->children[i].media_type)};
        return refs;
}

/* What the manifest names; borrowed until references are forgotten. Errors: NOTFOUND. */
static int references_of(struct tier_cluster *c, const struct cas_digest *manifest,
                         const struct tier_references **out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_digest_text(manifest, text);
        if (!c->references)
                c->references = cas_map_new();
        const uint64_t *known = cas_map_get_str(c->references, text);
        if (known) {
                *out = (const struct tier_references *)(uintptr_t)*known;
                return 0;
        }
        int rc = tier_op_blob_read(&c->shared, manifest, take_bytes, &bytes, err);
        if (rc < 0)
                return rc;
        struct cas_digest got;
        cas_digest_of(manifest->alg, bytes.data, bytes.len_bytes, &got);
        if (!cas_digest_equal(&got, manifest))
                return cas_fail(err, CAS_E_CORRUPT, "manifest %s has another digest", text);
        if (cas_manifest_parse(bytes.data, bytes.len_bytes, NULL, &m, err) < 0)
                return cas_fail(err, CAS_E_CORRUPT, "manifest %s cannot be read", text);
        struct tier_references *refs = references_new(&m);
        *cas_map_put(c->references, text, strlen(text), NULL) = (uintptr_t)refs;
        c->reference_count += refs->count;
        *out = refs;
        return 0;
}

/* A manifest with all that it leads to. */
static int mark_manifest(struct run *r, const char *repo, const struct cas_digest *manifest,
                         unsigned depth, struct cas_err *err)
{
        const struct tier_references *refs = NULL;
        struct cas_err why = CAS_ERR_INIT;
        struct cas_hash hash;
        mark_blob(r, manifest);
        int rc = references_of(r->c, manifest, &refs, &why);
        if (rc == -CAS_E_NOTFOUND) {
                /* An index may name what is not here. What a repository has was never acknowledged
                 * without its bytes: its push broke off, or took longer than the grace. */
                named_hash(repo, manifest, &hash);
                if (depth == 0)
                        (void)cas_hashset_add(&r->dangling, hash.bytes);
                return 0;
        }
        if (rc < 0 && rc != -CAS_E_AWAY) /* what cannot be read may name anything */
                return cas_fail(err, CAS_E_CORRUPT, "%s: %s", repo, why.msg);
        if (rc < 0) {
                *err = why;
                return rc;
        }
        for (size_t i = 0; rc == 0 && i < refs->count; i++) {
                named_hash(repo, &refs->list[i].digest, &hash);
                (void)cas_hashset_add(&r->named, hash.bytes);
                mark_blob(r, &refs->list[i].digest);
                if (refs->list[i].is_manifest && depth < CAS_INDEX_DEPTH_MAX)
                        rc = mark_manifest(r, repo, &refs->list[i].digest, depth + 1, err);
        }
        return rc;
}

static int name_mark(void *arg, const char *key, const struct s3_object *object,
                     struct cas_err *err)
{
        struct run *r = arg;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        const char *kind, *name;
        struct cas_digest digest;
        if (!object || object->size_bytes == 0 || !tier_key_split(key, repo, &kind, &name) ||
            !tier_digest_from_name(name, &digest))
                return go_on(r, err);
        if (strncmp(kind, "_links/", 7) == 0)
                mark_blob(r, &digest);
        if (strncmp(kind, "_manifests/", 11) != 0)
                return go_on(r, err);
        r->result->manifests++;
        int rc = mark_manifest(r, repo, &digest, 0, err);
        return rc < 0 ? rc : go_on(r, err);
}

/* ---- what goes ---- */

/* Reads the candidate. *same: it is as it was before the mark. */
static int look(struct run *r, const struct candidate *one, struct tier_cell *cell,
                struct tier_version *version, bool *same, struct cas_err *err)
{
        bool there;
        int rc = go_on(r, err);
        if (rc == 0)
                rc = tier_cell_read(r->c, one->key, cell, &there, version, err);
        *same = rc == 0 && there && XXH3_64bits(version->etag, strlen(version->etag)) == one->etag;
        return rc;
}

/* Others were faster: it stays for this time. */
static int forgive(int rc, const struct cas_err *why, struct cas_err *err)
{
        if (rc < 0 && rc != -CAS_E_EXISTS)
                *err = *why;
        return rc == -CAS_E_EXISTS ? 0 : rc;
}

static int settle_link(struct run *r, const struct candidate *one, struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct tier_version version;
        struct cas_err why = CAS_ERR_INIT;
        bool same;
        int rc = look(r, one, &cell, &version, &same, err);
        if (rc < 0 || !same)
                return rc;
        bool goes = cell.state == TIER_CELL_CONDEMNED;
        cell.state = TIER_CELL_CONDEMNED;
        rc = goes ? tier_cell_empty(r->c, one->key, &version, &why)
                  : tier_cell_write(r->c, one->key, &cell, &version, NULL, &why);
        r->result->links_removed += rc == 0 && goes;
        r->result->links_condemned += rc == 0 && !goes;
        return forgive(rc, &why, err);
}

static int settle_blob(struct run *r, const struct candidate *one, struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct tier_version version;
        struct cas_err why = CAS_ERR_INIT;
        bool same;
        int rc = look(r, one, &cell, &version, &same, err);
        if (rc < 0 || !same)
                return rc;
        if (cell.state == TIER_CELL_LIVE) {
                cell.state = TIER_CELL_CONDEMNED;
                rc = tier_cell_write(r->c, one->key, &cell, &version, NULL, &why);
                r->result->blobs_condemned += rc == 0;
                return forgive(rc, &why, err);
        }
        if (cell.state == TIER_CELL_FINISHING)
                cell.piece_count = 0; /* they are a session's still */
        if (cell.state != TIER_CELL_DEAD) {
                cell.state = TIER_CELL_DEAD;
                r->result->bytes_removed += cell.content.len_bytes;
                cas_buf_clear(&cell.content);
                rc = tier_cell_write(r->c, one->key, &cell, &version, &version, &why);
                r->result->blobs_removed += rc == 0;
        }
        if (rc == 0)
                rc = tier_pieces_delete(r->c, &cell, NULL, &r->result->pieces_removed,
                                        &r->result->bytes_removed, &why);
        if (rc == 0)
                rc = tier_cell_empty(r->c, one->key, &version, &why);
        return forgive(rc, &why, err);
}

static int settle_upload(struct run *r, const struct candidate *one, struct cas_err *err)
{
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT;
        struct tier_version version;
        struct cas_err why = CAS_ERR_INIT;
        bool same;
        int rc = look(r, one, &cell, &version, &same, err);
        if (rc < 0 || !same)
                return rc;
        rc = tier_session_end(r->c, one->key, &cell, &version, &r->result->pieces_removed,
                              &r->result->bytes_removed, &why);
        r->result->uploads_removed += rc == 0;
        return forgive(rc, &why, err);
}

static bool name_is_in(const struct cas_hashset *set, const char *key, bool otherwise)
{
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        const char *kind, *name;
        struct cas_digest digest;
        struct cas_hash hash;
        if (!tier_key_split(key, repo, &kind, &name) || !tier_digest_from_name(name, &digest))
                return otherwise;
        named_hash(repo, &digest, &hash);
        return cas_hashset_has(set, hash.bytes);
}

/* blobs/ALGORITHM/HH/HEX */
static bool blob_is_marked(struct run *r, const char *key)
{
        char alg[16], hex[CAS_DIGEST_TEXT_BYTES];
        struct cas_digest digest;
        struct cas_hash hash;
        struct cas_err ignored = CAS_ERR_INIT;
        if (sscanf(key, "blobs/%15[a-z0-9]/%*2[0-9a-f]/%135[0-9a-f]", alg, hex) != 2)
                return true;
        cas_cleanup_free char *text = cas_xasprintf("%s:%s", alg, hex);
        if (cas_digest_parse(text, &digest, &ignored) < 0)
                return true;
        blob_hash(&digest, &hash);
        return cas_hashset_has(&r->marked, hash.bytes);
}

static int settle(struct run *r, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < r->links.count; i++) {
                if (!name_is_in(&r->named, r->links.list[i].key, true))
                        rc = settle_link(r, &r->links.list[i], err);
        }
        for (size_t i = 0; rc == 0 && i < r->manifests.count; i++) {
                if (name_is_in(&r->dangling, r->manifests.list[i].key, false))
                        rc = settle_link(r, &r->manifests.list[i], err);
        }
        for (size_t i = 0; rc == 0 && i < r->blobs.count; i++) {
                if (!blob_is_marked(r, r->blobs.list[i].key))
                        rc = settle_blob(r, &r->blobs.list[i], err);
        }
        for (size_t i = 0; rc == 0 && i < r->uploads.count; i++)
                rc = settle_upload(r, &r->uploads.list[i], err);
        return rc;
}

/* ---- runs ---- */

static int list_all(struct run *r, const char *prefix,
                    int (*fn)(void *arg, const char *key, const struct s3_object *object,
                              struct cas_err *err),
                    struct cas_err *err)
{
        struct tier_objects *o = r->c->objects;
        return o->ops->list(o, prefix, NULL, fn, r, err);
}

static int run_leased(struct run *r, struct cas_err *err)
{
        if (r->c->reference_count > REFERENCES_MAX)
                forget_references(r->c);
        int rc = list_all(r, "repos/", name_before, err);
        if (rc == 0)
                rc = list_all(r, "blobs/", blob_before, err);
        if (rc == 0)
                rc = list_all(r, "repos/", name_mark, err);
        return rc < 0 ? rc : settle(r, err);
}

int tier_cluster_gc(struct tier_cluster *c, struct tier_cluster_gc_result *out, struct cas_err *err)
{
        struct run r = {.c = c, .result = out};
        *out = (struct tier_cluster_gc_result){0};
        cas_mutex_lock(&c->collecting);
        int rc = lease_take(&r, err);
        if (rc == 0) {
                rc = run_leased(&r, err);
                lease_drop(&r);
        }
        cas_mutex_unlock(&c->collecting);
        candidates_release(&r.links);
        candidates_release(&r.manifests);
        candidates_release(&r.blobs);
        candidates_release(&r.uploads);
        cas_hashset_release(&r.named);
        cas_hashset_release(&r.dangling);
        cas_hashset_release(&r.marked);
        tier_cell_release(&r.lease_cell);
        return rc;
}

static void run_in_background(struct tier_cluster *c)
{
        struct tier_cluster_gc_result result;
        struct cas_err err = CAS_ERR_INIT;
        int rc = tier_cluster_gc(c, &result, &err);
        if (rc < 0)
                cas_log(rc == -CAS_E_BUSY ? CAS_LOG_DEBUG : CAS_LOG_WARN, "cluster",
                        "gc=failed message=\"%s\"", err.msg);
        else
                cas_log(CAS_LOG_INFO, "cluster",
                        "gc=ok manifests=%" PRIu64 " links=%" PRIu64 "/%" PRIu64 " blobs=%" PRIu64
                        "/%" PRIu64 " uploads=%" PRIu64 " bytes=%" PRIu64,
                        result.manifests, result.links_removed, result.links, result.blobs_removed,
                        result.blobs, result.uploads_removed, result.bytes_removed);
}

static void *collect(void *arg)
{
        struct tier_cluster *c = arg;
        uint64_t next_ms = cas_clock_ms() + c->settings.gc_s * 1000;
        while (cas_background_pause_ms(&c->background, TICK_MS)) {
                if (cas_clock_ms() < next_ms)
                        continue;
                run_in_background(c);
                next_ms = cas_clock_ms() + c->settings.gc_s * 1000;
        }
        return NULL;
}

void tier_cluster_gc_start(struct tier_cluster *c)
{
        cas_assert(!c->started);
        c->started = pthread_create(&c->thread, NULL, collect, c) == 0;
        if (!c->started)
                cas_log(CAS_LOG_WARN, "cluster", "gc=none: no thread can be made");
}

void tier_cluster_gc_release(struct tier_cluster *c)
{
        cas_background_stop(&c->background);
        if (c->started)
                (void)pthread_join(c->thread, NULL);
        forget_references(c);
}
