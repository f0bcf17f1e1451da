/* SPDX-License-Identifier: Apache-2.0 */
/* Opening an image: from a reference down its indexes to the manifest of one
 * platform, its config, its layers decoded. No state of its own. */
#include "cas/image.h"

#include "cas/blob.h"
#include "cas/chain_int.h"
#include "cas/elsewhere.h"
#include "cas/pool.h"
#include "cas/progress.h"
#include "cas/store_int.h"

/* ---- choosing a manifest ---- */

struct choice {
        struct cas_store *s;
        const char *repo;
        struct cas_platform want;
        unsigned visits;          /* documents read so far */
        unsigned fit;             /* of the best found; 0: none */
        bool absent;              /* something fits, but is not in the store */
        struct cas_digest digest; /* of the best found */
        char media_type[256];
        size_t plain_count;      /* images that say no platform */
        struct cas_digest plain; /* the first of them */
        char plain_type[256];
        struct cas_buf seen; /* platforms that do not fit, for the message */
};

static int manifest_read(struct cas_store *s, const struct cas_digest *digest,
                         const char *media_type, struct cas_manifest *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        int r = cas_blob_read(s, digest, CAS_MANIFEST_BYTES_MAX, &bytes, err);
        if (r == 0)
                r = cas_manifest_parse(bytes.data, bytes.len_bytes, media_type, out, err);
        return r;
}

/* NOTFOUND becomes *here false. */
static int manifest_here(struct choice *c, const struct cas_digest *digest, bool *here,
                         struct cas_err *err)
{
        struct cas_manifest_info info;
        struct cas_err miss = CAS_ERR_INIT;
        int r = cas_manifest_stat(c->s, c->repo, digest, &info, &miss);
        *here = r == 0;
        if (r == 0 || r == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return r;
}

static bool platform_is_unknown(const struct cas_platform *p)
{
        return strcmp(p->os, "unknown") == 0 || strcmp(p->arch, "unknown") == 0;
}

/* Remembers the image when it fits better than what was found before. */
static int choice_offer(struct choice *c, const struct cas_descriptor *d, struct cas_err *err)
{
        if (!d->has_platform) {
                if (c->plain_count++ == 0) {
                        c->plain = d->digest;
                        memcpy(c->plain_type, d->media_type, sizeof(c->plain_type));
                }
                return 0;
        }
        if (platform_is_unknown(&d->platform))
                return 0; /* attestations */
        unsigned fit = cas_platform_fit(&c->want, &d->platform);
        if (fit == 0) {
                char text[CAS_PLATFORM_TEXT_BYTES];
                if (c->seen.len_bytes < CAS_ERR_MSG_MAX / 2)
                        cas_buf_printf(&c->seen, "%s%s", c->seen.len_bytes ? ", " : "",
                                       cas_platform_text(&d->platform, text));
                return 0;
        }
        if (fit <= c->fit)
                return 0;
        bool here;
        int r = manifest_here(c, &d->digest, &here, err);
        if (r < 0)
                return r;
        if (!here) {
                c->absent = true;
                return 0;
        }
        c->fit = fit;
        c->digest = d->digest;
        memcpy(c->media_type, d->media_type, sizeof(c->media_type));
        return 0;
}

static int choice_index(struct choice *c, const struct cas_manifest *index, unsigned depth,
                        struct cas_err *err);

static int choice_nested(struct choice *c, const struct cas_descriptor *d, unsigned depth,
                         struct cas_err *err)
{
        bool here;
        int r = manifest_here(c, &d->digest, &here, err);
        if (r < 0 || !here)
                return r;
        if (depth >= CAS_INDEX_DEPTH_MAX || ++c->visits > CAS_INDEX_VISITS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "indexes are nested too deep or too many");
        cas_cleanup_manifest struct cas_manifest m = {0};
        r = manifest_read(c->s, &d->digest, d->media_type, &m, err);
        if (r == 0)
                r = choice_index(c, &m, depth, err);
        return r;
}

static int choice_index(struct choice *c, const struct cas_manifest *index, unsigned depth,
                        struct cas_err *err)
{
        int r = 0;
        for (size_t i = 0; r == 0 && i < index->child_count; i++) {
                const struct cas_descriptor *d = &index->children[i];
                if (strcmp(d->media_type, CAS_MT_OCI_INDEX) == 0 ||
                    strcmp(d->media_type, CAS_MT_DOCKER_LIST) == 0)
                        r = choice_nested(c, d, depth + 1, err);
                else if (cas_media_type_is_manifest(d->media_type))
                        r = choice_offer(c, d, err);
        }
        return r;
}

static int choice_end(struct choice *c, struct cas_err *err)
{
        char want[CAS_PLATFORM_TEXT_BYTES];
        if (c->fit > 0)
                return 0;
        cas_platform_text(&c->want, want);
        if (c->absent)
                return cas_fail(err, CAS_E_NOTFOUND,
                                "the image for %s is named by its index, but is not in the store",
                                want);
        if (c->plain_count == 1 && c->seen.len_bytes == 0) {
                c->digest = c->plain;
                memcpy(c->media_type, c->plain_type, sizeof(c->media_type));
                return 0;
        }
        return cas_fail(err, CAS_E_NOTFOUND, "no image for %s; there is: %s", want,
                        c->seen.len_bytes ? cas_buf_str(&c->seen) : "none with a platform");
}

/* From the top manifest to the image manifest for the platform. */
static int image_choose(struct cas_store *s, const struct cas_platform *want,
                        struct cas_image *image, struct cas_err *err)
{
        cas_cleanup_manifest struct cas_manifest top = {0};
        int r = manifest_read(s, &image->top.digest, image->top.media_type, &top, err);
        if (r < 0)
                return r;
        image->manifest_digest = image->top.digest;
        if (top.kind == CAS_MANIFEST_IMAGE) {
                image->manifest = top;
                top = (struct cas_manifest){0};
                return 0;
        }
        struct choice c = {.s = s, .repo = image->ref.repo, .want = *want};
        r = choice_index(&c, &top, 0, err);
        if (r == 0)
                r = choice_end(&c, err);
        cas_buf_release(&c.seen);
        if (r < 0)
                return r;
        image->manifest_digest = c.digest;
        r = manifest_read(s, &c.digest, c.media_type, &image->manifest, err);
        if (r == 0 && image->manifest.kind != CAS_MANIFEST_IMAGE)
                r = cas_fail(err, CAS_E_CORRUPT, "a child of the index is not of its media type");
        return r;
}

/* ---- config ---- */

/* What an index chose was said there; a manifest alone is what its config says, where configs
 * often leave the variant out. */
static int check_platform(const struct cas_platform *asked, const struct cas_image *image,
                          struct cas_err *err)
{
        struct cas_platform have = image->config.platform;
        if (!asked || !have.arch[0] ||
            !cas_digest_equal(&image->top.digest, &image->manifest_digest))
                return 0;
        if (!have.variant[0])
                memcpy(have.variant, asked->variant, sizeof(have.variant));
        if (cas_platform_fit(asked, &have) > 0)
                return 0;
        char want[CAS_PLATFORM_TEXT_BYTES], is[CAS_PLATFORM_TEXT_BYTES];
        return cas_fail(err, CAS_E_NOTFOUND, "no image for %s; there is: %s",
                        cas_platform_text(asked, want),
                        cas_platform_text(&image->config.platform, is));
}

static int image_read_config(struct cas_store *s, const struct cas_platform *asked,
                             struct cas_image *image, struct cas_err *err)
{
        const struct cas_manifest *m = &image->manifest;
        if (strcmp(m->config.media_type, CAS_MT_OCI_CONFIG) != 0 &&
            strcmp(m->config.media_type, CAS_MT_DOCKER_CONFIG) != 0)
                return cas_fail(err, CAS_E_INVALID,
                                "an artifact of type \"%s\", not an image with a root file system",
                                m->artifact_type[0] ? m->artifact_type : m->config.media_type);
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        int r = cas_blob_read(s, &m->config.digest, CAS_CONFIG_BYTES_MAX, &bytes, err);
        if (r == 0)
                r = cas_image_config_parse(bytes.data, bytes.len_bytes, &image->config, err);
        if (r < 0)
                return r;
        if (m->child_count > CAS_LAYERS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "an image of %zu layers, over %d", m->child_count,
                                CAS_LAYERS_MAX);
        if (image->config.diff_id_count != m->child_count)
                return cas_fail(err, CAS_E_CORRUPT, "%zu layers, but %zu diff_ids in the config",
                                m->child_count, image->config.diff_id_count);
        return check_platform(asked, image, err);
}

/* ---- layers ---- */

struct decode {
        struct cas_store *s;
        const struct cas_descriptor *layer;
        struct cas_layer_record *out;
        struct cas_progress_part part;
        struct cas_err err;
        int result;
};

static void decode_run(void *arg)
{
        struct decode *d = arg;
        d->result = cas_layer_ensure(d->s, &d->layer->digest, &d->part.progress, d->out, &d->err);
        if (d->result == 0) {
                cas_progress_part_end(&d->part);
        } else {
                char text[CAS_DIGEST_TEXT_BYTES];
                (void)cas_err_wrap(&d->err, "%slayer %s",
                                   d->layer->foreign ? "non-distributable " : "",
                                   cas_digest_text(&d->layer->digest, text));
        }
}

/* Runs what is in todo, in parallel where there is more than one. */
static int decode_all(struct cas_store *s, struct decode *todo, size_t count, struct cas_err *err)
{
        if (count == 1) {
                decode_run(todo);
        } else if (count > 1) {
                struct cas_pool *pool = cas_pool_new(cas_pool_threads(s->pool), (unsigned)count);
                struct cas_pool_group group = {0};
                for (size_t i = 0; i < count; i++)
                        cas_pool_submit(pool, &group, decode_run, &todo[i]);
                cas_pool_wait(pool, &group);
                cas_pool_free(pool);
        }
        for (size_t i = 0; i < count; i++) {
                if (todo[i].result < 0) {
                        *err = todo[i].err;
                        return todo[i].result;
                }
        }
        return 0;
}

static int image_decode_layers(struct cas_store *s, const struct cas_progress *progress, bool lazy,
                               struct cas_image *image, struct cas_err *err)
{
        const struct cas_manifest *m = &image->manifest;
        cas_cleanup_free struct decode *todo = cas_xcalloc(m->child_count + 1, sizeof(*todo));
        size_t count = 0;
        uint64_t total_bytes = 0;
        image->layers = cas_xcalloc(m->child_count + 1, sizeof(*image->layers));
        for (size_t i = 0; i < m->child_count; i++) {
                struct cas_err miss = CAS_ERR_INIT;
                int r = (lazy ? cas_elsewhere_layer : cas_layer_stat)(s, &m->children[i].digest,
                                                                      &image->layers[i], &miss);
                if (r == 0)
                        continue;
                if (r != -CAS_E_NOTFOUND) {
                        *err = miss;
                        return r;
                }
                todo[count++] =
                        (struct decode){.s = s, .layer = &m->children[i], .out = &image->layers[i]};
                total_bytes += m->children[i].size_bytes;
        }
        cas_cleanup_progress_sum struct cas_progress_sum sum;
        cas_progress_sum_init(&sum, progress, "layers", total_bytes);
        for (size_t i = 0; i < count; i++)
                cas_progress_part_init(&todo[i].part, &sum, todo[i].layer->size_bytes);
        return decode_all(s, todo, count, err);
}

static int image_check_diff_ids(const struct cas_image *image, struct cas_err *err)
{
        for (size_t i = 0; i < image->manifest.child_count; i++) {
                if (cas_digest_equal(&image->layers[i].diff_id, &image->config.diff_ids[i]))
                        continue;
                char is[CAS_DIGEST_TEXT_BYTES], said[CAS_DIGEST_TEXT_BYTES];
                return cas_fail(err, CAS_E_CORRUPT, "layer %zu decodes to %s, the config says %s",
                                i, cas_digest_text(&image->layers[i].diff_id, is),
                                cas_digest_text(&image->config.diff_ids[i], said));
        }
        return 0;
}

int cas_image_find(struct cas_store *s, const struct cas_ref *ref,
                   const struct cas_platform *platform, struct cas_image *out, struct cas_err *err)
{
        cas_cleanup_image struct cas_image image = {.ref = *ref};
        struct cas_platform want;
        if (platform)
                want = *platform;
        else
                cas_platform_host(&want);
        int r = cas_ref_resolve(s, ref, &image.top, err);
        if (r == 0)
                r = image_choose(s, &want, &image, err);
        if (r == 0)
                r = image_read_config(s, platform, &image, err);
        if (r < 0)
                return r;
        *out = image;
        image = (struct cas_image){0};
        return 0;
}

/* The image of a manifest that the store has: ref stays empty. */
static int image_find_manifest(struct cas_store *s, const struct cas_digest *manifest,
                               struct cas_image *out, struct cas_err *err)
{
        cas_cleanup_image struct cas_image image = {.top.digest = *manifest,
                                                    .manifest_digest = *manifest};
        int r = manifest_read(s, manifest, NULL, &image.manifest, err);
        if (r == 0 && image.manifest.kind != CAS_MANIFEST_IMAGE)
                r = cas_fail(err, CAS_E_INVALID, "an index of images, not one");
        if (r == 0)
                r = image_read_config(s, NULL, &image, err);
        if (r < 0)
                return r;
        *out = image;
        image = (struct cas_image){0};
        return 0;
}

/* Takes what was found, and frees it on failure. */
static int image_open_found(struct cas_store *s, struct cas_image *found, bool lazy,
                            const struct cas_progress *progress, struct cas_image *out,
                            struct cas_err *err)
{
        cas_cleanup_image struct cas_image image = *found;
        *found = (struct cas_image){0};
        int r = image_decode_layers(s, progress, lazy, &image, err);
        if (r == 0)
                r = image_check_diff_ids(&image, err);
        if (r < 0)
                return r;
        *out = image;
        image = (struct cas_image){0};
        return 0;
}

int cas_image_open_manifest(struct cas_store *s, const struct cas_digest *manifest,
                            const struct cas_progress *progress, struct cas_image *out,
                            struct cas_err *err)
{
        struct cas_image found;
        int r = image_find_manifest(s, manifest, &found, err);
        return r < 0 ? r : image_open_found(s, &found, false, progress, out, err);
}

int cas_image_open(struct cas_store *s, const struct cas_ref *ref,
                   const struct cas_platform *platform, const struct cas_progress *progress,
                   struct cas_image *out, struct cas_err *err)
{
        struct cas_image found;
        int r = cas_image_find(s, ref, platform, &found, err);
        return r < 0 ? r : image_open_found(s, &found, false, progress, out, err);
}

int cas_image_open_lazy(struct cas_store *s, const struct cas_ref *ref,
                        const struct cas_platform *platform, const struct cas_digest *manifest,
                        const struct cas_progress *progress, struct cas_image *out,
                        struct cas_err *err)
{
        struct cas_image found;
        int r = manifest ? image_find_manifest(s, manifest, &found, err)
                         : cas_image_find(s, ref, platform, &found, err);
        return r < 0 ? r : image_open_found(s, &found, true, progress, out, err);
}

void cas_image_release(struct cas_image *i)
{
        cas_manifest_release(&i->manifest);
        cas_image_config_release(&i->config);
        free(i->layers);
        *i = (struct cas_image){0};
}

int cas_image_keep(struct cas_publish *p, const struct cas_image *image, struct cas_err *err)
{
        cas_publish_keep_blob(p, &image->manifest_digest);
        return cas_blob_stat(cas_publish_store(p), &image->manifest_digest, NULL, err);
}

int cas_image_trees(struct cas_store *s, const struct cas_image *image,
                    struct cas_tree_ref out[CAS_IMAGE_TREES_MAX], size_t *out_count,
                    struct cas_err *err)
{
        const struct cas_digest *diff_ids = image->config.diff_ids;
        size_t count = image->manifest.child_count, base = 0;
        if (s->flat_trees) {
                *out_count = 1;
                return cas_tree_ensure(s, image->layers, count, &out[0], err);
        }
        bool found = false; /* trees stay as they are cut, so that uppers over them go on */
        int r = cas_tree_find_cut(s, image->layers, count, &base, &found, err);
        if (r < 0)
                return r;
        for (;; found = false) {
                r = found ? 0 : cas_chain_cut(s, diff_ids, count, &base, err);
                if (r < 0)
                        return r;
                if (base == 0)
                        break;
                struct cas_err unfit = CAS_ERR_INIT;
                r = cas_tree_ensure_stacked(s, image->layers, count, base, &out[0], &out[1],
                                            &unfit);
                if (r == 0) {
                        *out_count = 2;
                        return 0;
                }
                if (r != -CAS_E_UNSUPPORTED) {
                        *err = unfit;
                        return r;
                }
                r = cas_chain_note_unfit(s, diff_ids, count, base, err);
                if (r < 0)
                        return r;
        }
        *out_count = 1;
        return cas_tree_ensure(s, image->layers, count, &out[0], err);
}
