/* SPDX-License-Identifier: Apache-2.0 */
/* Removal of a name. A tag goes; when no other tag of its repository leads to
 * the manifest, the manifest goes as well, with its referrers, and then every
 * manifest and blob link of that repository that only they needed. `gc` then
 * frees the bytes.
 *
 * Two closures decide: `gone`, what the removed manifest leads to, and `kept`,
 * what every tag that stays and every manifest outside of `gone` leads to. What
 * is in `gone` and not in `kept` is unlinked. */
#include "cas/blob.h"
#include "cas/map.h"
#include "tools/ops.h"
#include "tools/ops_json.h"

struct closure {
        struct cas_map *manifests; /* owned; digest to 1 */
        struct cas_map *blobs;     /* owned; configs and layers */
};

struct removal {
        struct cas_store *s;
        struct cas_publish *p; /* owned */
        const char *repo;      /* borrowed */
        const char *tag;       /* the tag that goes; NULL: every tag of the manifest */
        struct cas_digest manifest;
        struct closure gone, kept;
        struct cas_digest *todo; /* owned: what a walk of names found */
        size_t todo_count;
        char **tags; /* owned: tags that go */
        size_t tag_count;
        bool tagged; /* another tag leads to the manifest */
        uint64_t manifest_count, blob_count;
        int rc;
        struct cas_err *err;
};

static void removal_release(struct removal *r)
{
        cas_map_free(r->gone.manifests);
        cas_map_free(r->gone.blobs);
        cas_map_free(r->kept.manifests);
        cas_map_free(r->kept.blobs);
        for (size_t i = 0; i < r->tag_count; i++)
                free(r->tags[i]);
        free(r->tags);
        free(r->todo);
        if (r->p)
                cas_publish_free(r->p);
}

static void todo_add(struct removal *r, const struct cas_digest *digest)
{
        r->todo = cas_xrealloc(r->todo, (r->todo_count + 1) * sizeof(*r->todo));
        r->todo[r->todo_count++] = *digest;
}

/* Adds a manifest with all that it leads to. Manifests that are not here are left out. */
static int closure_add(struct removal *r, struct closure *c, const struct cas_digest *digest,
                       unsigned depth, struct cas_err *err)
{
        struct cas_manifest_info info;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_manifest_stat(r->s, r->repo, digest, &info, &miss);
        if (rc == -CAS_E_NOTFOUND || depth > CAS_INDEX_DEPTH_MAX)
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        bool inserted;
        *cas_map_put(c->manifests, digest, sizeof(*digest), &inserted) = 1;
        if (!inserted)
                return 0;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        if (cas_blob_read(r->s, digest, CAS_MANIFEST_BYTES_MAX, &bytes, err) < 0 ||
            cas_manifest_parse(bytes.data, bytes.len_bytes, info.media_type, &m, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < m.child_count; i++) {
                const struct cas_digest *child = &m.children[i].digest;
                if (m.kind == CAS_MANIFEST_IMAGE)
                        *cas_map_put(c->blobs, child, sizeof(*child), NULL) = 1;
                else if (closure_add(r, c, child, depth + 1, err) < 0)
                        return -(int)err->code;
        }
        if (m.kind == CAS_MANIFEST_IMAGE)
                *cas_map_put(c->blobs, &m.config.digest, sizeof(m.config.digest), NULL) = 1;
        return 0;
}

static bool referrer_seen(void *arg, const struct cas_digest *referrer)
{
        todo_add(arg, referrer);
        return true;
}

static bool tag_seen(void *arg, const char *tag, const struct cas_digest *digest)
{
        struct removal *r = arg;
        bool same = cas_digest_equal(digest, &r->manifest);
        if (r->tag ? strcmp(tag, r->tag) == 0 : same) {
                r->tags = cas_xrealloc(r->tags, (r->tag_count + 1) * sizeof(char *));
                r->tags[r->tag_count++] = cas_xstrdup(tag);
                return true;
        }
        r->tagged |= same;
        todo_add(r, digest);
        return true;
}

static bool manifest_seen(void *arg, const struct cas_manifest_info *m)
{
        struct removal *r = arg;
        if (!cas_map_get(r->gone.manifests, &m->digest, sizeof(m->digest)))
                todo_add(r, &m->digest);
        return true;
}

static void manifest_unlink(void *arg, const void *key, size_t key_len, uint64_t value)
{
        (void)value;
        struct removal *r = arg;
        if (r->rc < 0 || cas_map_get(r->kept.manifests, key, key_len))
                return;
        r->rc = cas_publish_manifest_unlink(r->p, r->repo, key, r->err);
        r->manifest_count++;
}

static void blob_unlink(void *arg, const void *key, size_t key_len, uint64_t value)
{
        (void)value;
        struct removal *r = arg;
        if (r->rc < 0 || cas_map_get(r->kept.blobs, key, key_len))
                return;
        r->rc = cas_publish_blob_unlink(r->p, r->repo, key, r->err);
        r->blob_count++;
}

/* What the manifest leads to, its referrers included. */
static int gone_fill(struct removal *r, struct cas_err *err)
{
        r->todo_count = 0;
        if (closure_add(r, &r->gone, &r->manifest, 0, err) < 0 ||
            cas_referrer_each(r->s, r->repo, &r->manifest, referrer_seen, r, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < r->todo_count; i++) {
                if (closure_add(r, &r->gone, &r->todo[i], 0, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

static int kept_fill(struct removal *r, struct cas_err *err)
{
        if (cas_manifest_each(r->s, r->repo, manifest_seen, r, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < r->todo_count; i++) {
                if (closure_add(r, &r->kept, &r->todo[i], 0, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

static int removal_do(struct removal *r, struct cas_err *err)
{
        if (cas_tag_each(r->s, r->repo, NULL, tag_seen, r, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < r->tag_count; i++) {
                if (cas_publish_untag(r->p, r->repo, r->tags[i], err) < 0)
                        return -(int)err->code;
        }
        if (!r->tagged) {
                struct cas_digest *tagged = r->todo;
                size_t tagged_count = r->todo_count;
                r->todo = NULL;
                int rc = gone_fill(r, err);
                free(r->todo);
                r->todo = tagged; /* what the other tags lead to stays */
                r->todo_count = tagged_count;
                if (rc < 0 || kept_fill(r, err) < 0)
                        return -(int)err->code;
                cas_map_each(r->gone.manifests, manifest_unlink, r);
                cas_map_each(r->gone.blobs, blob_unlink, r);
                if (r->rc < 0)
                        return r->rc;
        }
        return cas_publish_commit(r->p, err);
}

int op_rm(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
          struct cas_err *err)
{
        struct cas_ref ref;
        struct cas_manifest_info info;
        if (op_arg_ref(args, "name", &ref, err) < 0 || cas_ref_resolve(s, &ref, &info, err) < 0)
                return -(int)err->code;
        struct removal r = {.s = s,
                            .repo = ref.repo,
                            .tag = ref.tag[0] ? ref.tag : NULL,
                            .manifest = info.digest,
                            .err = err};
        r.gone = (struct closure){cas_map_new(), cas_map_new()};
        r.kept = (struct closure){cas_map_new(), cas_map_new()};
        int rc = cas_publish_begin(s, &r.p, err);
        if (rc == 0)
                rc = removal_do(&r, err);
        for (size_t i = 0; rc == 0 && i < r.tag_count; i++)
                op_tell_tag(ctx, ref.repo, r.tags[i], &info.digest, NULL);
        if (rc == 0)
                *result =
                        json_pack("{s:i, s:I, s:I}", "tags", (int)r.tag_count, "manifests",
                                  (json_int_t)r.manifest_count, "blobs", (json_int_t)r.blob_count);
        removal_release(&r);
        return rc;
}
