/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/lazypull.h"

#include <stdio.h>

#include "cas/blob.h"
#include "cas/elsewhere.h"
#include "cas/object.h"
#include "cas/order.h"
#include "registry/peer.h"

/* A document on the way from what was asked for to the image. */
struct document {
        struct cas_buf bytes;
        struct cas_manifest_info info;
        struct cas_manifest manifest;
};

struct lazy {
        struct cas_store *s;
        struct cas_publish *keep; /* borrowed: keeps what is here, or comes, for the manifest */
        struct reg_remote *from;
        const char *repo; /* there */
        const struct cas_ref *to;
        const struct reg_lazy_options *options;
        struct document docs[CAS_INDEX_DEPTH_MAX + 1]; /* the image's manifest is the last */
        size_t doc_count;
        struct cas_image_config config;
};

static void lazy_release(struct lazy *l)
{
        for (size_t i = 0; i < l->doc_count; i++) {
                cas_buf_release(&l->docs[i].bytes);
                cas_manifest_release(&l->docs[i].manifest);
        }
        cas_image_config_release(&l->config);
}

static struct document *image_of(struct lazy *l)
{
        return &l->docs[l->doc_count - 1];
}

/* ---- documents ---- */

static int read_document(struct lazy *l, const char *reference, struct cas_err *err)
{
        struct document *d = &l->docs[l->doc_count++];
        bool unchanged = false;
        int rc = reg_remote_manifest(l->from, l->repo, reference, NULL, &d->bytes, &d->info,
                                     &unchanged, NULL, err);
        if (rc == 0)
                rc = cas_manifest_parse(d->bytes.data, d->bytes.len_bytes, d->info.media_type,
                                        &d->manifest, err);
        return rc;
}

static bool is_index(const struct cas_descriptor *d)
{
        return strcmp(d->media_type, CAS_MT_OCI_INDEX) == 0 ||
               strcmp(d->media_type, CAS_MT_DOCKER_LIST) == 0;
}

/* The child that fits best; else an index within; else the only image, when it says no platform. */
static const struct cas_descriptor *choose(const struct cas_manifest *index,
                                           const struct cas_platform *want)
{
        const struct cas_descriptor *best = NULL, *nested = NULL, *plain = NULL;
        unsigned best_fit = 0;
        for (size_t i = 0; i < index->child_count; i++) {
                const struct cas_descriptor *d = &index->children[i];
                if (is_index(d)) {
                        nested = nested ? nested : d;
                        continue;
                }
                if (!cas_media_type_is_manifest(d->media_type))
                        continue;
                unsigned fit = d->has_platform ? cas_platform_fit(want, &d->platform) : 0;
                if (fit > best_fit) {
                        best = d;
                        best_fit = fit;
                }
                if (!d->has_platform)
                        plain = d;
        }
        return best ? best : nested ? nested : index->child_count == 1 ? plain : NULL;
}

static int read_documents(struct lazy *l, const char *reference, struct cas_err *err)
{
        struct cas_platform want;
        char text[CAS_DIGEST_TEXT_BYTES], platform[CAS_PLATFORM_TEXT_BYTES];
        if (l->options->platform)
                want = *l->options->platform;
        else
                cas_platform_host(&want);
        int rc = read_document(l, reference, err);
        while (rc == 0 && image_of(l)->manifest.kind == CAS_MANIFEST_INDEX) {
                const struct cas_descriptor *child = choose(&image_of(l)->manifest, &want);
                if (!child)
                        return cas_fail(err, CAS_E_NOTFOUND, "no image for %s",
                                        cas_platform_text(&want, platform));
                if (l->doc_count == CAS_COUNT(l->docs))
                        return cas_fail(err, CAS_E_LIMIT, "indexes are nested too deep");
                rc = read_document(l, cas_digest_text(&child->digest, text), err);
        }
        return rc;
}

/* The image's documents go here in the order in which they name each other. */
static int put_documents(struct lazy *l, struct cas_manifest_info *out, struct cas_err *err)
{
        int rc = 0;
        for (size_t i = l->doc_count; rc == 0 && i-- > 0;) {
                struct document *d = &l->docs[i];
                const struct cas_manifest_put_options put = {.repo = l->to->repo,
                                                             .tag = i == 0 ? l->to->tag : NULL,
                                                             .media_type = d->info.media_type,
                                                             .expected = &d->info.digest,
                                                             .allow_sparse = true,
                                                             .allow_elsewhere = true};
                rc = cas_manifest_put(l->s, &put, d->bytes.data, d->bytes.len_bytes, out, err);
        }
        return rc;
}

/* ---- blobs ---- */

static int bring_config(struct lazy *l, struct cas_err *err)
{
        const struct cas_descriptor *d = &image_of(l)->manifest.config;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        reg_cleanup_remote_blob struct reg_remote_blob *blob = NULL;
        uint64_t size_bytes;
        size_t n = 1;
        cas_publish_keep_blob(l->keep, &d->digest);
        if (cas_blob_read(l->s, &d->digest, CAS_CONFIG_BYTES_MAX, &bytes, err) == 0)
                return cas_image_config_parse(bytes.data, bytes.len_bytes, &l->config, err);
        *err = (struct cas_err)CAS_ERR_INIT;
        if (d->size_bytes > CAS_CONFIG_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a config of more than %d bytes",
                                (int)CAS_CONFIG_BYTES_MAX);
        int rc = reg_remote_blob_open(l->from, l->repo, &d->digest, 0, &blob, &size_bytes, NULL,
                                      err);
        while (rc == 0 && n > 0 && bytes.len_bytes <= d->size_bytes) {
                uint8_t piece[8192];
                rc = reg_remote_blob_read(blob, piece, sizeof(piece), &n, err);
                if (rc == 0)
                        cas_buf_append(&bytes, piece, n);
        }
        if (rc == 0)
                rc = cas_publish_begin(l->s, &p, err);
        if (rc == 0)
                rc = cas_publish_blob(p, bytes.data, bytes.len_bytes, &d->digest, NULL, err);
        if (rc == 0)
                rc = cas_publish_commit(p, err);
        if (rc == 0)
                rc = cas_image_config_parse(bytes.data, bytes.len_bytes, &l->config, err);
        return rc;
}

/* A layer that the other side cannot give by its parts. */
static int bring_whole(struct lazy *l, const struct cas_descriptor *d, struct cas_err *err)
{
        reg_cleanup_remote_blob struct reg_remote_blob *blob = NULL;
        struct cas_layer_record layer;
        uint64_t size_bytes;
        int rc = reg_remote_blob_open(l->from, l->repo, &d->digest, 0, &blob, &size_bytes, NULL,
                                      err);
        if (rc == 0)
                rc = cas_layer_import(l->s, reg_remote_blob_read, blob, &d->digest,
                                      l->options->progress, &layer, err);
        return rc;
}

static int bring_listing(struct lazy *l, const struct reg_peer_layer *facts,
                         struct cas_listing *out, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_object_info info;
        struct cas_err miss = CAS_ERR_INIT;
        cas_publish_keep_object(l->keep, &facts->record.listing);
        int rc = cas_object_stat(l->s, &facts->record.listing, &info, &miss);
        if (rc == -CAS_E_NOTFOUND) {
                rc = cas_publish_begin(l->s, &p, err);
                if (rc == 0)
                        rc = reg_peer_objects(l->from, l->repo, &facts->record.blob,
                                              &facts->record.listing, 1, p, NULL, err);
                if (rc == 0)
                        rc = cas_publish_commit(p, err);
        } else if (rc < 0) {
                *err = miss;
        }
        if (rc == 0)
                rc = cas_layer_listing(l->s, &facts->record, out, err);
        if (rc == 0 && out->count != facts->record.entry_count)
                rc = cas_fail(err, CAS_E_CORRUPT, "a listing of %zu entries, not %llu", out->count,
                              (unsigned long long)facts->record.entry_count);
        return rc;
}

static int note_layer(struct lazy *l, const struct reg_peer_layer *facts,
                      const struct cas_listing *listing, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_cleanup_free struct cas_elsewhere_layer *rec = cas_xcalloc(1, sizeof(*rec));
        rec->layer = facts->record;
        rec->blob_bytes = facts->blob_bytes;
        rec->manifest = image_of(l)->info.digest;
        rec->on_demand_only = l->options->on_demand_only;
        if ((size_t)snprintf(rec->source, sizeof(rec->source), "%s", l->options->source) >=
            sizeof(rec->source))
                return cas_fail(err, CAS_E_LIMIT, "the name of the source is too long");
        int rc = cas_publish_begin(l->s, &p, err);
        if (rc == 0)
                rc = cas_elsewhere_put(p, rec, listing, err);
        if (rc == 0)
                rc = cas_publish_commit(p, err);
        return rc;
}

static int facts_check(const struct reg_peer_layer *facts, const struct cas_descriptor *d,
                       const struct cas_digest *diff_id, struct cas_err *err)
{
        if (facts->blob_bytes != d->size_bytes ||
            !cas_digest_equal(&facts->record.blob, &d->digest))
                return cas_fail(err, CAS_E_CORRUPT, "facts of another layer");
        if (!cas_digest_equal(&facts->record.diff_id, diff_id))
                return cas_fail(err, CAS_E_CORRUPT, "its diff_id is not that of the config");
        if (facts->record.listing_version != CAS_LISTING_VERSION)
                return cas_fail(err, CAS_E_UNSUPPORTED, "a listing of version %u",
                                facts->record.listing_version);
        return 0;
}

static bool is_here(struct lazy *l, const struct cas_descriptor *d)
{
        struct cas_err ignored = CAS_ERR_INIT;
        return cas_blob_stat(l->s, &d->digest, NULL, &ignored) == 0;
}

static int bring_layer(struct lazy *l, const struct cas_descriptor *d,
                       const struct cas_digest *diff_id, struct cas_err *err)
{
        struct reg_peer_layer facts;
        cas_cleanup_listing struct cas_listing listing = {0};
        struct cas_err why = CAS_ERR_INIT;
        cas_publish_keep_blob(l->keep, &d->digest);
        if (is_here(l, d))
                return 0;
        int rc = reg_peer_layer(l->from, l->repo, &d->digest, &facts, &why);
        if (rc == -CAS_E_UNSUPPORTED) {
                *err = why;
                return rc;
        }
        if (rc == 0)
                rc = facts_check(&facts, d, diff_id, &why);
        if (rc == 0)
                rc = bring_listing(l, &facts, &listing, &why);
        if (rc == -CAS_E_NOTFOUND || rc == -CAS_E_CORRUPT || rc == -CAS_E_UNSUPPORTED)
                return d->foreign ? 0 : bring_whole(l, d, err);
        if (rc < 0) {
                *err = why;
                return rc;
        }
        return note_layer(l, &facts, &listing, err);
}

static int bring_layers(struct lazy *l, struct cas_err *err)
{
        const struct cas_manifest *m = &image_of(l)->manifest;
        if (l->config.diff_id_count != m->child_count)
                return cas_fail(err, CAS_E_CORRUPT, "%zu layers, but %zu diff_ids in the config",
                                m->child_count, l->config.diff_id_count);
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < m->child_count; i++) {
                char text[CAS_DIGEST_TEXT_BYTES];
                cas_progress_update(l->options->progress, "listings", i, m->child_count);
                rc = bring_layer(l, &m->children[i], &l->config.diff_ids[i], err);
                if (rc < 0)
                        return cas_err_wrap(err, "layer %s",
                                            cas_digest_text(&m->children[i].digest, text));
        }
        return rc;
}

/* Advice only: whatever happens, files come in some order. */
static void bring_order(struct lazy *l)
{
        const struct cas_digest *manifest = &image_of(l)->info.digest;
        cas_cleanup_free struct cas_hash *mine = NULL, *theirs = NULL;
        size_t mine_count = 0, theirs_count = 0;
        struct cas_err ignored = CAS_ERR_INIT;
        if (cas_order_get(l->s, manifest, &mine, &mine_count, 1, &ignored) == 0 &&
            mine_count == 0 &&
            reg_peer_order(l->from, l->repo, manifest, &theirs, &theirs_count,
                           CAS_ORDER_OBJECTS_MAX, &ignored) == 0 &&
            theirs_count > 0)
                (void)!cas_order_put(l->s, l->to->repo, manifest, theirs, theirs_count, &ignored);
}

static int pull(struct lazy *l, const char *reference, struct cas_manifest_info *out,
                struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *keep = NULL; /* until a manifest names them */
        int rc = read_documents(l, reference, err);
        if (rc == 0 && reg_remote_kind(l->from) != REG_REMOTE_LAMINA)
                rc = cas_fail(err, CAS_E_UNSUPPORTED, "%s is no lamina", reg_remote_host(l->from));
        if (rc == 0)
                rc = cas_publish_begin(l->s, &keep, err);
        l->keep = keep;
        if (rc == 0)
                rc = bring_config(l, err);
        if (rc == 0)
                rc = bring_layers(l, err);
        if (rc == 0)
                bring_order(l);
        if (rc == 0)
                rc = put_documents(l, out, err);
        cas_elsewhere_changed(l->s);
        return rc;
}

int reg_lazy_pull(struct cas_store *s, struct reg_remote *from, const char *repo,
                  const char *reference, const struct cas_ref *to,
                  const struct reg_lazy_options *options, struct cas_manifest_info *out,
                  struct cas_err *err)
{
        cas_cleanup_free struct lazy *l = cas_xcalloc(1, sizeof(*l));
        *l = (struct lazy){.s = s, .from = from, .repo = repo, .to = to, .options = options};
        int rc = pull(l, reference, out, err);
        lazy_release(l);
        return rc;
}
