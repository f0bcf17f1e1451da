/* SPDX-License-Identifier: Apache-2.0 */
/* Export: what an image leads to is collected, then handed to a target. A
 * publication without content keeps the image all the while. */
#include "cas/export_int.h"

#include "cas/blob.h"
#include "cas/blobstream.h"
#include "cas/elsewhere.h"
#include "cas/manifest_int.h"
#include "cas/publish.h"
#include "cas/source_int.h"

/* ---- collecting ---- */

static void export_add(struct cas_export *ex, const struct cas_digest *digest, uint64_t size_bytes)
{
        size_t n = ex->blob_count++;
        if ((n & (n - 1)) == 0)
                ex->blobs = cas_xrealloc(ex->blobs, (n ? n * 2 : 1) * sizeof(*ex->blobs));
        ex->blobs[n] = (struct cas_export_blob){.digest = *digest, .size_bytes = size_bytes};
        ex->progress.total_bytes += size_bytes;
}

static int export_blob(struct cas_export *ex, const struct cas_descriptor *d, bool optional,
                       struct cas_err *err)
{
        bool inserted;
        struct cas_err miss = CAS_ERR_INIT;
        uint64_t bytes;
        (void)cas_map_put(ex->seen, &d->digest, sizeof(d->digest), &inserted);
        if (!inserted)
                return 0;
        int r = cas_blob_stat(ex->s, &d->digest, &bytes, &miss);
        if (r == -CAS_E_NOTFOUND && cas_layer_is_elsewhere(ex->s, &d->digest)) {
                r = cas_elsewhere_complete(ex->s, &d->digest, NULL, err);
                if (r == 0)
                        r = cas_blob_stat(ex->s, &d->digest, &bytes, err);
                if (r < 0)
                        return r;
        }
        if (r == -CAS_E_NOTFOUND && optional)
                return 0;
        if (r < 0) {
                *err = miss;
                return r;
        }
        export_add(ex, &d->digest, bytes);
        return 0;
}

static int export_doc(struct cas_export *ex, const struct cas_manifest_info *info, unsigned depth,
                      struct cas_err *err);

/* A child of an index, left out when it is not here. */
static int export_child(struct cas_export *ex, const struct cas_descriptor *d, unsigned depth,
                        struct cas_err *err)
{
        struct cas_manifest_info info;
        struct cas_err miss = CAS_ERR_INIT;
        if (!cas_media_type_is_manifest(d->media_type))
                return export_blob(ex, d, true, err);
        int r = cas_manifest_stat(ex->s, ex->ref.repo, &d->digest, &info, &miss);
        if (r == 0)
                return export_doc(ex, &info, depth + 1, err);
        if (r == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return r;
}

static int export_doc(struct cas_export *ex, const struct cas_manifest_info *info, unsigned depth,
                      struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        bool inserted;
        (void)cas_map_put(ex->seen, &info->digest, sizeof(info->digest), &inserted);
        if (!inserted)
                return 0;
        if (depth > CAS_INDEX_DEPTH_MAX)
                return cas_fail(err, CAS_E_LIMIT, "indexes are nested too deep");
        int r = cas_blob_read(ex->s, &info->digest, CAS_MANIFEST_BYTES_MAX, &bytes, err);
        if (r == 0)
                r = cas_manifest_parse(bytes.data, bytes.len_bytes, info->media_type, &m, err);
        if (r == 0 && m.kind == CAS_MANIFEST_IMAGE)
                r = export_blob(ex, &m.config, false, err);
        for (size_t i = 0; r == 0 && i < m.child_count; i++)
                r = m.kind == CAS_MANIFEST_IMAGE
                            ? export_blob(ex, &m.children[i], m.children[i].foreign, err)
                            : export_child(ex, &m.children[i], depth, err);
        if (r == 0)
                export_add(ex, &info->digest, bytes.len_bytes);
        return r;
}

/* ---- pieces for the targets ---- */

char *cas_export_name(const struct cas_ref *ref, const char *given)
{
        if (given[0])
                return cas_xstrdup(given);
        if (!ref->tag[0])
                return cas_xstrdup("");
        if (strcmp(ref->tag, "latest") == 0)
                return cas_xstrdup(ref->repo);
        return cas_xasprintf("%s:%s", ref->repo, ref->tag);
}

int cas_export_blob_each(struct cas_export *ex, const struct cas_export_blob *b,
                         int (*fn)(void *arg, const void *data, size_t len, struct cas_err *err),
                         void *arg, struct cas_err *err)
{
        cas_cleanup_blob_stream struct cas_blob_stream *st = NULL;
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(b->digest.alg);
        size_t size = (size_t)cas_min_u64(b->size_bytes + 1, CAS_MIB);
        cas_cleanup_free uint8_t *buf = cas_xmalloc(size);
        struct cas_progress_part part;
        cas_progress_part_init(&part, &ex->progress, b->size_bytes);
        int r = cas_blob_stream_open(ex->s, &b->digest, 0, UINT64_MAX, true, &st, err);
        uint64_t done = 0;
        for (size_t n = 1; r == 0 && n > 0; done += n) {
                r = cas_blob_stream_read(st, buf, size, &n, err);
                if (r < 0 || n == 0)
                        break;
                cas_hasher_update(hasher, buf, n);
                r = fn(arg, buf, n, err);
                cas_progress_update(&part.progress, "export", done + n, b->size_bytes);
        }
        if (r < 0)
                return r;
        struct cas_digest is;
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_hasher_final(hasher, &is);
        if (!cas_digest_equal(&is, &b->digest))
                return cas_fail(err, CAS_E_CORRUPT, "blob %s of the store is damaged",
                                cas_digest_text(&b->digest, text));
        cas_progress_part_end(&part);
        return 0;
}

/* Reads an index.json that is there; else makes an empty one. */
static int index_begin(const struct cas_buf *old, json_t **out, struct cas_err *err)
{
        if (!old) {
                *out = json_pack("{s:i, s:s, s:[]}", "schemaVersion", 2, "mediaType",
                                 CAS_MT_OCI_INDEX, "manifests");
                return 0;
        }
        cas_cleanup_json json_t *j = NULL;
        const json_t *manifests = NULL;
        int r = cas_json_parse(old->data, old->len_bytes, CAS_LAYOUT_INDEX_BYTES_MAX, &j, err);
        if (r == 0)
                r = cas_json_array_in(j, "manifests", &manifests, err);
        if (r < 0)
                return cas_err_wrap(err, "index.json");
        if (!manifests && json_object_set_new(j, "manifests", json_array()) < 0)
                return cas_fail(err, CAS_E_INVALID, "index.json: not an object");
        *out = cas_steal(&j);
        return 0;
}

int cas_export_index(const struct cas_export *ex, const char *name, const struct cas_buf *old,
                     struct cas_buf *out, struct cas_err *err)
{
        cas_cleanup_json json_t *j = NULL;
        int r = index_begin(old, &j, err);
        if (r < 0)
                return r;
        json_t *manifests = json_object_get(j, "manifests");
        for (size_t i = json_array_size(manifests); i-- > 0;) {
                const json_t *annotations =
                        json_object_get(json_array_get(manifests, i), "annotations");
                const char *is =
                        json_string_value(json_object_get(annotations, CAS_LAYOUT_ANNOTATION_NAME));
                if (name[0] && is && strcmp(is, name) == 0)
                        (void)json_array_remove(manifests, i);
        }
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_digest_text(&ex->top.digest, text);
        json_t *entry = json_pack("{s:s, s:s, s:I}", "mediaType", ex->top.media_type, "digest",
                                  text, "size", (json_int_t)ex->top.size_bytes);
        if (name[0])
                (void)json_object_set_new(entry, "annotations",
                                          json_pack("{s:s}", CAS_LAYOUT_ANNOTATION_NAME, name));
        if (json_array_append_new(manifests, entry) < 0)
                return cas_fail(err, CAS_E_INVALID, "\"%.200s\" is not UTF-8", name);
        cas_json_append(j, out);
        return 0;
}

/* ---- the whole ---- */

static void export_release(struct cas_export *ex)
{
        free(ex->blobs);
        cas_map_free(ex->seen);
        cas_progress_sum_release(&ex->progress);
}

/* What is exported: all that the reference names, or the image of one platform. */
static int export_choose(struct cas_export *ex, const struct cas_platform *platform, bool one,
                         struct cas_image *image, struct cas_err *err)
{
        if (!platform && !one)
                return cas_ref_resolve(ex->s, &ex->ref, &ex->top, err);
        int r = cas_image_find(ex->s, &ex->ref, platform, image, err);
        if (r == 0)
                r = cas_manifest_stat(ex->s, ex->ref.repo, &image->manifest_digest, &ex->top, err);
        return r;
}

/* Chosen again once it is kept: a tag may have been moved, and what it named collected. */
static int export_keep(struct cas_export *ex, struct cas_publish *keep,
                       const struct cas_platform *platform, bool one, struct cas_image *image,
                       struct cas_err *err)
{
        struct cas_digest kept = {0};
        for (;;) {
                cas_image_release(image);
                int r = export_choose(ex, platform, one, image, err);
                if (r < 0 || cas_digest_equal(&ex->top.digest, &kept))
                        return r;
                kept = ex->top.digest;
                cas_publish_keep_blob(keep, &kept);
        }
}

int cas_export(struct cas_store *s, const struct cas_ref *ref, const struct cas_platform *platform,
               const struct cas_transfer_address *to, const struct cas_progress *progress,
               struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *fence = NULL;
        cas_cleanup_image struct cas_image image = {0};
        struct cas_export ex = {.s = s, .ref = *ref, .seen = cas_map_new()};
        cas_progress_sum_init(&ex.progress, progress, "export", 0);
        int r = cas_publish_begin(s, &fence, err);
        if (r == 0)
                r = export_keep(&ex, fence, platform, to->kind == CAS_TRANSFER_DOCKER_ARCHIVE,
                                &image, err);
        if (r == 0)
                r = export_doc(&ex, &ex.top, 0, err);
        if (r == 0) {
                switch (to->kind) {
                case CAS_TRANSFER_OCI_LAYOUT:
                        r = cas_export_layout(&ex, to, err);
                        break;
                case CAS_TRANSFER_OCI_ARCHIVE:
                        r = cas_export_oci_archive(&ex, to, err);
                        break;
                case CAS_TRANSFER_DOCKER_ARCHIVE:
                        r = cas_export_docker_archive(&ex, &image, to, err);
                        break;
                }
        }
        export_release(&ex);
        return r;
}
