/* SPDX-License-Identifier: Apache-2.0 */
/* Import: images of a source become images of the store.
 *
 * A plan is made first: which images under which names, the documents
 * (manifests and indexes) of each, children before parents, and every blob
 * once. Then blobs come in on several threads while this one waits for those
 * of each image in turn and puts its documents: an image is durable when it is
 * reported, and a failure leaves those before it.
 *
 * A publication without content keeps blobs from before they are looked for,
 * so that those which no manifest names yet stay. */
#include <fcntl.h>

#include "cas/blob.h"
#include "cas/map.h"
#include "cas/pool.h"
#include "cas/progress.h"
#include "cas/source_int.h"
#include "cas/store_int.h"

struct import;

/* One blob that some image needs. */
struct import_blob {
        struct import *import;
        struct cas_digest digest;
        uint64_t size_bytes;
        size_t image;        /* the first that needs it */
        bool layer;          /* decoded as well */
        bool optional;       /* may be absent in the source */
        struct cas_err *err; /* owned; why it failed, else NULL: there may be very many blobs */
};

struct import_doc {
        struct cas_digest digest;
        const char *media_type; /* static storage */
};

struct import_image {
        struct cas_ref ref;
        struct cas_descriptor top;
        struct import_doc *docs; /* owned; children first, the top last */
        size_t doc_count;
        struct cas_map *seen; /* owned; digests of docs, while planning */
        struct cas_pool_group group;
};

struct import {
        struct cas_store *s;
        struct cas_publish *keep; /* borrowed: keeps the blobs, for manifests to name */
        struct cas_source *src;
        struct import_image *images; /* owned */
        size_t image_count;
        struct import_blob *blobs; /* owned */
        size_t blob_count;
        size_t doc_count;      /* of all images */
        uint64_t doc_bytes;    /* read so far: bounds what many names of few documents cost */
        struct cas_map *known; /* owned; digest -> index in blobs */
        struct cas_map *named; /* owned; "repo:tag" -> index in images */
        struct cas_progress_sum progress;
        _Atomic bool stop; /* something failed: what has not begun is left out */
};

static void import_release(struct import *in)
{
        for (size_t i = 0; i < in->image_count; i++) {
                free(in->images[i].docs);
                cas_map_free(in->images[i].seen);
        }
        for (size_t i = 0; i < in->blob_count; i++)
                free(in->blobs[i].err);
        free(in->images);
        free(in->blobs);
        cas_map_free(in->known);
        cas_map_free(in->named);
        cas_source_free(in->src);
}

/* ---- which images, and their names ---- */

/* A name that a layout or an archive gives. What is no reference because of a registry's port in
 * front is taken without that registry. */
static int ref_from_name(const char *name, struct cas_ref *out, struct cas_err *err)
{
        struct cas_err first = CAS_ERR_INIT, second = CAS_ERR_INIT;
        int r = cas_ref_parse(name, out, &first);
        const char *slash = strchr(name, '/');
        const char *colon = strchr(name, ':');
        if (r < 0 && slash && colon && colon < slash)
                r = cas_ref_parse(slash + 1, out, &second);
        if (r == 0 && out->digest.alg == CAS_DIGEST_NONE)
                return 0;
        return cas_fail(err, CAS_E_INVALID,
                        "\"%.200s\" is no name for an image here: import it as NAME[:TAG]", name);
}

static bool name_selects(const char *name, const char *wanted)
{
        size_t len = strlen(wanted);
        if (strcmp(name, wanted) == 0)
                return true;
        return len > 0 && strncmp(name, wanted, len) == 0 && strcmp(name + len, ":latest") == 0;
}

/* Adds an image to the plan. The same name for two images is an error of the source. */
static int import_add_image(struct import *in, const struct cas_ref *ref,
                            const struct cas_descriptor *top, struct cas_err *err)
{
        char key[sizeof(ref->repo) + sizeof(ref->tag)];
        bool inserted;
        (void)snprintf(key, sizeof(key), "%s:%s", ref->repo, ref->tag);
        uint64_t *at = cas_map_put(in->named, key, strlen(key), &inserted);
        if (!inserted) {
                if (cas_digest_equal(&in->images[*at].top.digest, &top->digest))
                        return 0;
                return cas_fail(err, CAS_E_INVALID, "two images are called %s", key);
        }
        *at = in->image_count;
        in->images[in->image_count++] = (struct import_image){.ref = *ref, .top = *top};
        return 0;
}

static int import_select_named(struct import *in, const char *tag, const char *name,
                               struct cas_err *err)
{
        for (size_t i = 0; i < in->src->image_count; i++) {
                const struct cas_source_image *image = &in->src->images[i];
                struct cas_ref ref;
                if (!name_selects(image->name, tag) && !name_selects(image->alias, tag))
                        continue;
                int r = name ? cas_ref_parse(name, &ref, err)
                             : ref_from_name(image->name, &ref, err);
                if (r == 0)
                        r = import_add_image(in, &ref, &image->top, err);
                if (r < 0)
                        return r;
        }
        if (in->image_count == 0)
                return cas_fail(err, CAS_E_NOTFOUND, "no image is called \"%s\" there", tag);
        return 0;
}

/* The only image of the source, whatever it is called. */
static int import_select_only(struct import *in, const char *name, struct cas_err *err)
{
        const struct cas_source_image *images = in->src->images;
        struct cas_ref ref;
        int r = cas_ref_parse(name, &ref, err);
        if (r < 0)
                return r;
        for (size_t i = 1; i < in->src->image_count; i++) {
                if (!cas_digest_equal(&images[i].top.digest, &images[0].top.digest))
                        return cas_fail(err, CAS_E_INVALID,
                                        "there are %zu images: say which, as …:TAG",
                                        in->src->image_count);
        }
        if (in->src->image_count == 0)
                return cas_fail(err, CAS_E_NOTFOUND, "there is no image");
        return import_add_image(in, &ref, &images[0].top, err);
}

static int import_select(struct import *in, const char *tag, const char *name, struct cas_err *err)
{
        in->images = cas_xcalloc(in->src->image_count + 1, sizeof(*in->images));
        in->named = cas_map_new();
        if (tag[0])
                return import_select_named(in, tag, name, err);
        if (name)
                return import_select_only(in, name, err);
        for (size_t i = 0; i < in->src->image_count; i++) {
                struct cas_ref ref;
                if (!in->src->images[i].name[0])
                        continue;
                int r = ref_from_name(in->src->images[i].name, &ref, err);
                if (r == 0)
                        r = import_add_image(in, &ref, &in->src->images[i].top, err);
                if (r < 0)
                        return r;
        }
        if (in->image_count == 0)
                return cas_fail(err, CAS_E_NOTFOUND,
                                in->src->image_count ? "no image has a name there: "
                                                       "import it as NAME[:TAG]"
                                                     : "there is no image");
        return 0;
}

/* ---- the plan of one image ---- */

static int plan_blob(struct import *in, size_t image, const struct cas_descriptor *d, bool layer,
                     bool optional, struct cas_err *err)
{
        bool inserted;
        uint64_t *at = cas_map_put(in->known, &d->digest, sizeof(d->digest), &inserted);
        if (!inserted) {
                struct import_blob *b = &in->blobs[*at];
                if (b->size_bytes != d->size_bytes) {
                        char text[CAS_DIGEST_TEXT_BYTES];
                        return cas_fail(err, CAS_E_INVALID, "%s is said to have two sizes",
                                        cas_digest_text(&d->digest, text));
                }
                b->layer |= layer;
                b->optional &= optional;
                return 0;
        }
        size_t n = in->blob_count;
        if (n >= CAS_IMPORT_BLOBS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %d blobs", CAS_IMPORT_BLOBS_MAX);
        if ((n & (n - 1)) == 0)
                in->blobs = cas_xrealloc(in->blobs, (n ? n * 2 : 1) * sizeof(*in->blobs));
        in->blobs[n] = (struct import_blob){.import = in,
                                            .digest = d->digest,
                                            .size_bytes = d->size_bytes,
                                            .image = image,
                                            .layer = layer,
                                            .optional = optional};
        *at = n;
        in->blob_count++;
        return 0;
}

static int plan_image_blobs(struct import *in, size_t image, const struct cas_manifest *m,
                            struct cas_err *err)
{
        int r = plan_blob(in, image, &m->config, false, false, err);
        for (size_t i = 0; r == 0 && i < m->child_count; i++) {
                const struct cas_descriptor *d = &m->children[i];
                r = plan_blob(in, image, d, cas_media_type_is_layer(d->media_type), d->foreign,
                              err);
        }
        return r;
}

static int plan_doc(struct import *in, size_t image, const struct cas_descriptor *d, unsigned depth,
                    struct cas_err *err);

static int plan_children(struct import *in, size_t image, const struct cas_manifest *m,
                         unsigned depth, struct cas_err *err)
{
        int r = 0;
        for (size_t i = 0; r == 0 && i < m->child_count; i++) {
                const struct cas_descriptor *d = &m->children[i];
                if (!cas_media_type_is_manifest(d->media_type)) {
                        r = plan_blob(in, image, d, false, true, err);
                        continue;
                }
                struct cas_err miss = CAS_ERR_INIT;
                r = plan_doc(in, image, d, depth + 1, &miss);
                if (r == -CAS_E_NOTFOUND)
                        r = 0; /* a sparse index */
                else if (r < 0)
                        *err = miss;
        }
        return r;
}

/* Media types of documents, so that a plan need not own them. */
static const char *static_media_type(const char *type)
{
        static const char *const types[] = {CAS_MT_OCI_MANIFEST, CAS_MT_OCI_INDEX,
                                            CAS_MT_DOCKER_MANIFEST, CAS_MT_DOCKER_LIST};
        for (size_t i = 0; i < CAS_COUNT(types); i++) {
                if (strcmp(type, types[i]) == 0)
                        return types[i];
        }
        return NULL;
}

/* NOTFOUND only when the document itself is not in the source. */
static int plan_doc(struct import *in, size_t image, const struct cas_descriptor *d, unsigned depth,
                    struct cas_err *err)
{
        struct import_image *im = &in->images[image];
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        char text[CAS_DIGEST_TEXT_BYTES];
        bool inserted;
        (void)cas_map_put(im->seen, &d->digest, sizeof(d->digest), &inserted);
        if (!inserted)
                return 0;
        if (depth > CAS_INDEX_DEPTH_MAX || ++in->doc_count > CAS_IMPORT_DOCUMENTS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "indexes are nested too deep or too many");
        int r = cas_source_read(in->src, &d->digest, CAS_MANIFEST_BYTES_MAX, &bytes, err);
        if (r < 0)
                return r;
        cas_digest_text(&d->digest, text);
        in->doc_bytes += bytes.len_bytes;
        if (in->doc_bytes > CAS_IMPORT_DOCUMENT_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %llu MiB of manifests",
                                (unsigned long long)(CAS_IMPORT_DOCUMENT_BYTES_MAX / CAS_MIB));
        if (bytes.len_bytes != d->size_bytes)
                return cas_fail(err, CAS_E_INVALID, "%s has %zu bytes, its descriptor says %llu",
                                text, bytes.len_bytes, (unsigned long long)d->size_bytes);
        if (cas_manifest_parse(bytes.data, bytes.len_bytes, d->media_type, &m, err) < 0)
                return cas_err_wrap(err, "%s", text);
        r = m.kind == CAS_MANIFEST_IMAGE ? plan_image_blobs(in, image, &m, err)
                                         : plan_children(in, image, &m, depth, err);
        if (r < 0)
                return r;
        size_t n = im->doc_count;
        if ((n & (n - 1)) == 0)
                im->docs = cas_xrealloc(im->docs, (n ? n * 2 : 1) * sizeof(*im->docs));
        im->docs[im->doc_count++] = (struct import_doc){
                .digest = d->digest, .media_type = static_media_type(m.media_type)};
        return 0;
}

static int import_plan(struct import *in, struct cas_err *err)
{
        in->known = cas_map_new();
        for (size_t i = 0; i < in->image_count; i++) {
                struct import_image *im = &in->images[i];
                im->seen = cas_map_new();
                if (plan_doc(in, i, &im->top, 0, err) < 0)
                        return cas_err_wrap(err, "%s:%s", im->ref.repo, im->ref.tag);
                cas_map_free(cas_steal(&im->seen));
        }
        return 0;
}

/* ---- bringing blobs in ---- */

/* Whether the store has it already, decoded when it is a layer. One whose file is gone is brought
 * again. */
static int blob_is_here(struct import_blob *b, bool *here, struct cas_err *err)
{
        struct cas_store *s = b->import->s;
        struct cas_layer_record record;
        struct cas_err miss = CAS_ERR_INIT;
        cas_publish_keep_blob(b->import->keep, &b->digest); /* until a manifest names it */
        int r = cas_blob_stat(s, &b->digest, NULL, &miss);
        if (r == 0 && b->layer)
                r = cas_layer_ensure(s, &b->digest, NULL, &record, &miss);
        *here = r == 0;
        if (r == 0 || r == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return r;
}

static int blob_copy(struct import_blob *b, struct cas_stream *st,
                     const struct cas_progress *progress, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        size_t size = (size_t)cas_min_u64(st->left_bytes + 1, CAS_MIB);
        cas_cleanup_free uint8_t *buf = cas_xmalloc(size);
        uint64_t done = 0;
        int r = cas_publish_begin(b->import->s, &p, err);
        if (r == 0)
                r = cas_publish_blob_begin(p, b->digest.alg, err);
        for (size_t n = 1; r == 0 && n > 0; done += n) {
                r = cas_stream_read(st, buf, size, &n, err);
                if (r == 0 && n > 0)
                        r = cas_publish_blob_write(p, buf, n, err);
                cas_progress_update(progress, "blob", done, 0);
        }
        if (r == 0)
                r = cas_publish_blob_end(p, &b->digest, NULL, NULL, err);
        if (r == 0)
                r = cas_publish_commit(p, err);
        return r;
}

static int blob_bring(struct import_blob *b, const struct cas_progress *progress,
                      struct cas_err *err)
{
        cas_cleanup_stream struct cas_stream st = {.fd = -1};
        bool here;
        int r = blob_is_here(b, &here, err);
        if (r < 0 || here)
                return r;
        struct cas_err miss = CAS_ERR_INIT;
        r = b->import->src->ops->open_blob(b->import->src, &b->digest, &st, &miss);
        if (r == -CAS_E_NOTFOUND && b->optional)
                return 0;
        if (r < 0) {
                *err = miss;
                return r;
        }
        if (st.left_bytes != b->size_bytes)
                return cas_fail(err, CAS_E_INVALID, "it has %llu bytes, its descriptor says %llu",
                                (unsigned long long)st.left_bytes,
                                (unsigned long long)b->size_bytes);
        if (!b->layer)
                return blob_copy(b, &st, progress, err);
        struct cas_layer_record record;
        return cas_layer_import(b->import->s, cas_stream_read, &st, &b->digest, progress, &record,
                                err);
}

static void blob_task(void *arg)
{
        struct import_blob *b = arg;
        if (atomic_load(&b->import->stop))
                return;
        struct cas_progress_part part;
        cas_progress_part_init(&part, &b->import->progress, b->size_bytes);
        struct cas_err err = CAS_ERR_INIT;
        if (blob_bring(b, &part.progress, &err) == 0) {
                cas_progress_part_end(&part);
        } else {
                char text[CAS_DIGEST_TEXT_BYTES];
                (void)cas_err_wrap(&err, "blob %s", cas_digest_text(&b->digest, text));
                b->err = cas_xmalloc(sizeof(err));
                *b->err = err;
                atomic_store(&b->import->stop, true);
        }
}

/* ---- putting images ---- */

static int image_put(struct import *in, const struct import_image *im,
                     struct cas_manifest_info *info, struct cas_err *err)
{
        int r = 0;
        for (size_t i = 0; r == 0 && i < im->doc_count; i++) {
                const struct import_doc *doc = &im->docs[i];
                cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
                struct cas_manifest_put_options options = {
                        .repo = im->ref.repo,
                        .tag = i + 1 == im->doc_count ? im->ref.tag : NULL,
                        .media_type = doc->media_type,
                        .expected = &doc->digest,
                        .allow_sparse = true,
                };
                r = cas_source_read(in->src, &doc->digest, CAS_MANIFEST_BYTES_MAX, &bytes, err);
                if (r == 0)
                        r = cas_manifest_put(in->s, &options, bytes.data, bytes.len_bytes, info,
                                             err);
        }
        return r;
}

/* The first failure among the blobs that came in for an image. */
static int image_blobs_result(const struct import *in, size_t image, size_t *at,
                              struct cas_err *err)
{
        for (; *at < in->blob_count && in->blobs[*at].image == image; (*at)++) {
                if (in->blobs[*at].err) {
                        *err = *in->blobs[*at].err;
                        return -(int)err->code;
                }
        }
        return 0;
}

static int import_images(struct import *in, struct cas_pool *pool,
                         void (*fn)(void *arg, const struct cas_ref *ref,
                                    const struct cas_manifest_info *m),
                         void *arg, struct cas_err *err)
{
        size_t at = 0;
        for (size_t i = 0; i < in->image_count; i++) {
                struct import_image *im = &in->images[i];
                struct cas_manifest_info info = {0};
                cas_pool_wait(pool, &im->group);
                int r = image_blobs_result(in, i, &at, err);
                if (r == 0)
                        r = image_put(in, im, &info, err);
                if (r < 0)
                        return cas_err_wrap(err, "%s:%s", im->ref.repo, im->ref.tag);
                if (fn)
                        fn(arg, &im->ref, &info);
        }
        return 0;
}

static int import_run(struct import *in, const struct cas_progress *progress,
                      void (*fn)(void *arg, const struct cas_ref *ref,
                                 const struct cas_manifest_info *m),
                      void *arg, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *keep = NULL;
        int r = cas_publish_begin(in->s, &keep, err);
        if (r < 0)
                return r;
        in->keep = keep;
        uint64_t total_bytes = 0;
        for (size_t i = 0; i < in->blob_count; i++)
                total_bytes += in->blobs[i].size_bytes;
        cas_progress_sum_init(&in->progress, progress, "import", total_bytes);
        struct cas_pool *pool =
                cas_pool_new(cas_pool_threads(in->s->pool), (unsigned)in->blob_count + 1);
        for (size_t i = 0; i < in->blob_count; i++)
                cas_pool_submit(pool, &in->images[in->blobs[i].image].group, blob_task,
                                &in->blobs[i]);
        r = import_images(in, pool, fn, arg, err);
        if (r < 0)
                atomic_store(&in->stop, true);
        cas_pool_free(pool);
        cas_progress_sum_release(&in->progress);
        return r;
}

static int import_open(struct cas_store *s, const struct cas_transfer_address *from,
                       struct cas_source **out, struct cas_err *err)
{
        if (from->kind == CAS_TRANSFER_OCI_LAYOUT)
                return cas_layout_source(from->path, out, err);
        cas_cleanup_fd int uploads = -1;
        int r = cas_io_open(cas_io_posix(), cas_store_dirfd(s), "uploads", O_RDONLY | O_DIRECTORY,
                            0, &uploads, err);
        if (r < 0)
                return r;
        return from->kind == CAS_TRANSFER_OCI_ARCHIVE
                       ? cas_archive_source(from->path, uploads, out, err)
                       : cas_docker_source(from->path, uploads, out, err);
}

int cas_import(struct cas_store *s, const struct cas_transfer_address *from, const char *name,
               const struct cas_progress *progress,
               void (*fn)(void *arg, const struct cas_ref *ref, const struct cas_manifest_info *m),
               void *arg, struct cas_err *err)
{
        struct import in = {.s = s};
        int r = import_open(s, from, &in.src, err);
        if (r == 0) {
                r = import_select(&in, from->tag, name, err);
                if (r == 0)
                        r = import_plan(&in, err);
                if (r == 0)
                        r = import_run(&in, progress, fn, arg, err);
                if (r < 0)
                        (void)cas_err_wrap(err, "%s", from->path);
        }
        import_release(&in);
        return r;
}
