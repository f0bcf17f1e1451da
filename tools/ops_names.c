/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on names: what is here, what it is, tags, removal. */
#include "cas/blob.h"
#include "cas/elsewhere.h"
#include "cas/json.h"
#include "cas/map.h"
#include "tools/ops.h"
#include "tools/ops_json.h"

/* ---- images ---- */

struct images_walk {
        struct cas_store *s;
        json_t *images; /* borrowed */
        const char *repo;
        bool any_elsewhere; /* layers of the store that have not wholly come */
        struct cas_err *err;
        int rc;
        char **repos; /* owned */
        size_t repo_count;
};

static bool repo_seen(void *arg, const char *repo)
{
        struct images_walk *w = arg;
        w->repos = cas_xrealloc(w->repos, (w->repo_count + 1) * sizeof(char *));
        w->repos[w->repo_count++] = cas_xstrdup(repo);
        return true;
}

/* How much of an image at another lamina has come, in percent; 100 where nothing is missing. */
struct come {
        struct cas_store *s;
        uint64_t here, total;
};

static void add_manifest(struct come *c, const struct cas_digest *digest, unsigned depth)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        struct cas_err ignored = CAS_ERR_INIT;
        if (depth > CAS_INDEX_DEPTH_MAX ||
            cas_blob_read(c->s, digest, CAS_MANIFEST_BYTES_MAX, &bytes, &ignored) < 0 ||
            cas_manifest_parse(bytes.data, bytes.len_bytes, NULL, &m, &ignored) < 0)
                return;
        for (size_t i = 0; i < m.child_count; i++) {
                struct cas_elsewhere_progress p;
                if (m.kind == CAS_MANIFEST_INDEX)
                        add_manifest(c, &m.children[i].digest, depth + 1);
                else if (cas_elsewhere_progress(c->s, &m.children[i].digest, &p, &ignored) == 0) {
                        c->here += p.here_bytes;
                        c->total += p.file_bytes;
                } else {
                        c->here += m.children[i].size_bytes;
                        c->total += m.children[i].size_bytes;
                }
        }
}

static bool stop_at_first(void *arg, const struct cas_elsewhere_layer *layer CAS_UNUSED)
{
        *(bool *)arg = true;
        return false;
}

static json_t *image_json(struct images_walk *w, const char *tag,
                          const struct cas_manifest_info *info)
{
        json_t *image = op_manifest_json(w->repo, tag, info);
        struct come c = {.s = w->s};
        if (w->any_elsewhere)
                add_manifest(&c, &info->digest, 0);
        if (c.here < c.total) /* never 100 */
                json_object_set_new(image, "percent",
                                    json_integer((json_int_t)(c.here * 100 / c.total)));
        return image;
}

static bool tag_seen(void *arg, const char *tag, const struct cas_digest *digest)
{
        struct images_walk *w = arg;
        struct cas_manifest_info info;
        w->rc = cas_manifest_stat(w->s, w->repo, digest, &info, w->err);
        if (w->rc < 0)
                return false;
        json_array_append_new(w->images, image_json(w, tag, &info));
        return true;
}

int op_images(struct cas_store *s, const json_t *args, const struct op_context *ctx,
              json_t **result, struct cas_err *err)
{
        (void)args;
        (void)ctx;
        op_cleanup_json json_t *images = json_array();
        struct images_walk w = {.s = s, .images = images, .err = err};
        int rc = cas_elsewhere_each(s, stop_at_first, &w.any_elsewhere, err);
        if (rc == 0)
                rc = cas_repo_each(s, NULL, repo_seen, &w, err);
        for (size_t i = 0; i < w.repo_count; i++) {
                w.repo = w.repos[i];
                if (rc == 0)
                        rc = cas_tag_each(s, w.repo, NULL, tag_seen, &w, err);
                if (rc == 0)
                        rc = w.rc;
                free(w.repos[i]);
        }
        free(w.repos);
        if (rc < 0)
                return rc;
        *result = json_pack("{s:O}", "images", images);
        return 0;
}

/* ---- tag ---- */

/* Names of one repository in the making. */
struct linking {
        struct cas_store *s;
        struct cas_publish *p; /* borrowed */
        const char *repo;
        struct cas_map *seen; /* manifests: an index may name one as often as it likes */
};

static int link_all(struct linking *l, const struct cas_digest *digest, const char *media_type,
                    unsigned depth, struct cas_err *err);

/* What is not here stays away, where that is allowed. */
static int link_child(struct linking *l, enum cas_manifest_kind kind,
                      const struct cas_descriptor *child, unsigned depth, struct cas_err *err)
{
        uint64_t size;
        struct cas_err absent = CAS_ERR_INIT;
        cas_publish_keep_blob(l->p, &child->digest);
        int rc = cas_blob_stat(l->s, &child->digest, &size, &absent);
        if (rc == -CAS_E_NOTFOUND && (kind == CAS_MANIFEST_INDEX || child->foreign))
                return 0;
        if (rc < 0) {
                *err = absent;
                return rc;
        }
        if (kind == CAS_MANIFEST_INDEX && cas_media_type_is_manifest(child->media_type))
                return link_all(l, &child->digest, child->media_type, depth + 1, err);
        return cas_publish_blob_link(l->p, l->repo, &child->digest, err);
}

/* Links a manifest with all that it names to a repository. */
static int link_all(struct linking *l, const struct cas_digest *digest, const char *media_type,
                    unsigned depth, struct cas_err *err)
{
        bool inserted;
        (void)cas_map_put(l->seen, digest, sizeof(*digest), &inserted);
        if (!inserted)
                return 0;
        if (depth > CAS_INDEX_DEPTH_MAX)
                return cas_fail(err, CAS_E_LIMIT, "indexes nested deeper than %d",
                                CAS_INDEX_DEPTH_MAX);
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        cas_publish_keep_blob(l->p, digest);
        if (cas_blob_read(l->s, digest, CAS_MANIFEST_BYTES_MAX, &bytes, err) < 0 ||
            cas_manifest_parse(bytes.data, bytes.len_bytes, media_type, &m, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < m.child_count; i++) {
                if (link_child(l, m.kind, &m.children[i], depth, err) < 0)
                        return -(int)err->code;
        }
        if (m.kind == CAS_MANIFEST_IMAGE &&
            cas_publish_blob_link(l->p, l->repo, &m.config.digest, err) < 0)
                return -(int)err->code;
        if (m.has_subject &&
            cas_publish_referrer(l->p, l->repo, &m.subject.digest, digest, err) < 0)
                return -(int)err->code;
        return cas_publish_manifest_link(l->p, l->repo, digest, m.media_type, bytes.len_bytes, err);
}

int op_tag(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
           struct cas_err *err)
{
        struct cas_ref from, to;
        struct cas_manifest_info info;
        struct cas_digest before;
        struct cas_err none = CAS_ERR_INIT;
        if (op_arg_ref(args, "from", &from, err) < 0 || op_arg_ref(args, "to", &to, err) < 0)
                return -(int)err->code;
        if (to.digest.alg != CAS_DIGEST_NONE)
                return cas_fail(err, CAS_E_INVALID, "a new name cannot have a digest");
        if (cas_ref_resolve(s, &from, &info, err) < 0)
                return -(int)err->code;
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_cleanup_map struct cas_map *seen = cas_map_new();
        if (cas_publish_begin(s, &p, err) < 0)
                return -(int)err->code;
        struct linking linking = {.s = s, .p = p, .repo = to.repo, .seen = seen};
        if (strcmp(from.repo, to.repo) != 0 &&
            link_all(&linking, &info.digest, info.media_type, 0, err) < 0)
                return -(int)err->code;
        if (cas_tag_get(s, to.repo, to.tag, &before, &none) < 0)
                before = (struct cas_digest){0};
        if (cas_publish_tag(p, to.repo, to.tag, &info.digest, err) < 0 ||
            cas_publish_commit(p, err) < 0)
                return -(int)err->code;
        op_tell_tag(ctx, to.repo, to.tag, &before, &info);
        *result = op_manifest_json(to.repo, to.tag, &info);
        return 0;
}
