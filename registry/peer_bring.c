/* SPDX-License-Identifier: Apache-2.0 */
/* Whole layers by their parts (spec/peer.md, "A layer by its parts"), and what
 * else is asked of another lamina. */
#include "cas/assemble.h"
#include "registry/peer_int.h"

/* A blob of so few bytes is pulled as it is. */
#define BLOB_BYTES_MIN ((uint64_t)64 * 1024)
/* The blob is as short as its parts when more than this share of its content is missing. */
#define MISSING_EIGHTHS_MAX 7
/* What has come is committed in steps of so much, and does not travel again after a crash. */
#define STEP_BYTES ((uint64_t)64 * 1024 * 1024)
/* What a lazy mount's source remembers of layers. */
#define SETS_BYTES_MAX ((size_t)16 * 1024 * 1024)

/* ---- single answers ---- */

static int check_kind(const struct reg_remote *r, struct cas_err *err)
{
        if (reg_remote_kind(r) == REG_REMOTE_OTHER)
                return cas_fail(err, CAS_E_UNSUPPORTED, "%s is no lamina", reg_remote_host(r));
        return 0;
}

int reg_peer_layer(struct reg_remote *r, const char *repo, const struct cas_digest *layer,
                   struct reg_peer_layer *out, struct cas_err *err)
{
        char text[CAS_DIGEST_TEXT_BYTES], name[REG_REMOTE_REPO_BYTES];
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        cas_cleanup_free char *path = cas_xasprintf("layers/%s", cas_digest_text(layer, text));
        int rc = check_kind(r, err);
        if (rc == 0)
                rc = reg_peer_get_body(r, reg_remote_repo(r, repo, name), path,
                                       REG_PEER_FACTS_BYTES_MAX, &body, err);
        if (rc == -CAS_E_NOTFOUND && reg_remote_kind(r) != REG_REMOTE_LAMINA)
                err->code = CAS_E_UNSUPPORTED;
        if (rc == 0)
                rc = reg_peer_facts_parse(body.data, body.len_bytes, layer, out, err);
        return rc < 0 ? cas_err_wrap(err, "layer %s at %s", text, reg_remote_host(r)) : 0;
}

int reg_peer_order(struct reg_remote *r, const char *repo, const struct cas_digest *manifest,
                   struct cas_hash **ids, size_t *count, size_t max, struct cas_err *err)
{
        char text[CAS_DIGEST_TEXT_BYTES], name[REG_REMOTE_REPO_BYTES];
        const size_t raw_max = (size_t)REG_PEER_IDS_MAX * CAS_HASH_BYTES;
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        reg_cleanup_peer_frame struct reg_peer_frame frame = {0};
        cas_cleanup_free char *path =
                cas_xasprintf("manifests/%s/order", cas_digest_text(manifest, text));
        int rc = check_kind(r, err);
        if (rc == 0)
                rc = reg_peer_get_body(r, reg_remote_repo(r, repo, name), path,
                                       REG_PEER_FRAME_BYTES_MAX(raw_max), &body, err);
        if (rc == 0)
                rc = reg_peer_frame_decode(body.data, body.len_bytes, raw_max, &frame, err);
        if (rc == 0 && (frame.kind != REG_PEER_IDS || frame.raw.len_bytes % CAS_HASH_BYTES != 0))
                rc = cas_fail(err, CAS_E_CORRUPT, "no digests");
        if (rc < 0)
                return cas_err_wrap(err, "order of %s at %s", text, reg_remote_host(r));
        *count = cas_min_u64(frame.raw.len_bytes / CAS_HASH_BYTES, max);
        *ids = cas_xmalloc(*count * CAS_HASH_BYTES + 1);
        if (*count > 0)
                memcpy(*ids, frame.raw.data, *count * CAS_HASH_BYTES);
        return 0;
}

/* ---- layers that are elsewhere ---- */

struct peer_remote {
        struct cas_remote base;    /* first */
        struct reg_remote *remote; /* owned */
        struct reg_peer_sets *sets;
        char repo[REG_REMOTE_REPO_BYTES];
};

static int remote_fetch(struct cas_remote *base, const struct cas_digest *layer,
                        const struct cas_hash *ids, size_t count, struct cas_publish *p,
                        struct cas_err *err)
{
        struct peer_remote *r = (struct peer_remote *)base;
        const struct reg_peer_source from = {
                .remote = r->remote, .repo = r->repo, .sets = r->sets, .layer = layer};
        return reg_peer_fetch_objects(&from, ids, count, p, NULL, err);
}

static void remote_close(struct cas_remote *base)
{
        struct peer_remote *r = (struct peer_remote *)base;
        reg_remote_close(r->remote);
        reg_peer_sets_free(r->sets);
        free(r);
}

static int remote_finish(struct cas_remote *base, struct cas_store *s,
                         const struct cas_layer_record *layer, uint64_t blob_bytes,
                         const struct cas_progress *progress, struct cas_err *err);

struct cas_remote *reg_peer_remote_new(struct reg_remote *remote, const char *repo)
{
        static const struct cas_remote_ops ops = {.fetch_objects = remote_fetch,
                                                  .finish_layer = remote_finish,
                                                  .close = remote_close};
        struct peer_remote *r = cas_xcalloc(1, sizeof(*r));
        r->base.ops = &ops;
        r->remote = remote;
        r->sets = reg_peer_sets_new(SETS_BYTES_MAX);
        (void)reg_remote_repo(remote, repo, r->repo);
        return &r->base;
}

/* ---- whole layers ---- */

struct bringing {
        struct reg_remote *remote;
        const char *repo;
        struct cas_store *store;
        const struct cas_progress *progress;
        struct reg_peer_meter *meter;
        struct reg_peer_layer facts;
        struct reg_peer_sets *sets;
};

static int bring_objects(const struct bringing *b, const struct cas_layer_record *record,
                         const struct cas_hash *ids, size_t count, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        const struct reg_peer_source from = {.remote = b->remote,
                                             .repo = b->repo,
                                             .sets = b->sets,
                                             .layer = &b->facts.record.blob,
                                             .record = record,
                                             .meter = b->meter};
        int rc = cas_publish_begin(b->store, &p, err);
        if (rc == 0)
                rc = reg_peer_fetch_objects(&from, ids, count, p, b->progress, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

/* What is missing, once listing and recipe are here. */
static int bring_missing(const struct bringing *b, struct cas_publish *keep, struct cas_err *err)
{
        cas_cleanup_assembly_needs struct cas_assembly_needs needs = {0};
        int rc = cas_assembly_needs(keep, &b->facts.record.listing, &b->facts.recipe, &needs, err);
        if (rc < 0 || needs.missing_count == 0)
                return rc;
        if (needs.missing_bytes > needs.content_bytes / 8 * MISSING_EIGHTHS_MAX)
                return cas_fail(err, CAS_E_UNSUPPORTED, "nearly all of the layer is missing");
        for (size_t first = 0, end = 0; rc == 0 && end < needs.missing_count; first = end) {
                uint64_t bytes = 0;
                while (end < needs.missing_count && bytes < STEP_BYTES)
                        bytes += needs.missing_sizes[end++];
                rc = bring_objects(b, &b->facts.record, needs.missing + first, end - first, err);
        }
        return rc;
}

static int check_facts(const struct reg_peer_layer *facts, uint64_t layer_bytes,
                       struct cas_err *err)
{
        if (!facts->has_recipe)
                return cas_fail(err, CAS_E_UNSUPPORTED, "the layer has no recipe there");
        if (facts->record.listing_version != CAS_LISTING_VERSION)
                return cas_fail(err, CAS_E_UNSUPPORTED, "a listing of version %u",
                                facts->record.listing_version);
        if (facts->blob_bytes != layer_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "a layer of %llu bytes, not %llu",
                                (unsigned long long)facts->blob_bytes,
                                (unsigned long long)layer_bytes);
        return 0;
}

static int bring(struct bringing *b, const struct cas_digest *layer, uint64_t layer_bytes,
                 struct cas_layer_record *out, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *keep = NULL; /* the parts, until a layer has them */
        const struct cas_hash first[] = {b->facts.record.listing, b->facts.recipe};
        int rc = cas_publish_begin(b->store, &keep, err);
        if (rc < 0)
                return rc;
        for (size_t i = 0; i < CAS_COUNT(first); i++)
                cas_publish_keep_object(keep, &first[i]);
        rc = bring_objects(b, NULL, first, CAS_COUNT(first), err);
        if (rc == 0)
                rc = bring_missing(b, keep, err);
        if (rc == 0)
                rc = cas_layer_assemble(b->store, layer, layer_bytes, &b->facts.recipe, b->progress,
                                        out, err);
        return rc;
}

int reg_peer_bring(struct reg_remote *r, const char *repo, const struct cas_digest *layer,
                   uint64_t layer_bytes, struct cas_store *s, const struct cas_progress *progress,
                   struct reg_peer_meter *meter, struct cas_layer_record *out, struct cas_err *err)
{
        char name[REG_REMOTE_REPO_BYTES];
        struct bringing b = {.remote = r,
                             .repo = reg_remote_repo(r, repo, name),
                             .store = s,
                             .progress = progress,
                             .meter = meter};
        int rc = check_kind(r, err);
        if (rc == 0 && layer_bytes < BLOB_BYTES_MIN)
                rc = cas_fail(err, CAS_E_UNSUPPORTED, "a layer of few bytes");
        if (rc == 0)
                rc = reg_peer_layer(r, repo, layer, &b.facts, err);
        if (rc == 0)
                rc = check_facts(&b.facts, layer_bytes, err);
        if (rc < 0)
                return rc;
        b.sets = reg_peer_sets_new(0);
        rc = bring(&b, layer, layer_bytes, out, err);
        reg_peer_sets_free(b.sets);
        return rc;
}

/* ---- the end of a layer that was elsewhere ---- */

static int finish_by_blob(struct peer_remote *r, struct cas_store *s,
                          const struct cas_digest *layer, const struct cas_progress *progress,
                          struct cas_err *err)
{
        reg_cleanup_remote_blob struct reg_remote_blob *blob = NULL;
        struct cas_layer_record out;
        uint64_t bytes;
        int rc = reg_remote_blob_open(r->remote, r->repo, layer, 0, &blob, &bytes, NULL, err);
        return rc < 0 ? rc
                      : cas_layer_import(s, reg_remote_blob_read, blob, layer, progress, &out, err);
}

/* By the recipe where there is one; the blob itself proves everything, too. */
static int remote_finish(struct cas_remote *base, struct cas_store *s,
                         const struct cas_layer_record *layer, uint64_t blob_bytes,
                         const struct cas_progress *progress, struct cas_err *err)
{
        struct peer_remote *r = (struct peer_remote *)base;
        struct bringing b = {.remote = r->remote,
                             .repo = r->repo,
                             .store = s,
                             .progress = progress,
                             .sets = r->sets};
        struct cas_layer_record out;
        struct cas_err why = CAS_ERR_INIT;
        int rc = reg_peer_layer(r->remote, r->repo, &layer->blob, &b.facts, &why);
        if (rc == 0)
                rc = check_facts(&b.facts, blob_bytes, &why);
        if (rc == 0)
                rc = bring(&b, &layer->blob, blob_bytes, &out, &why);
        if (rc == 0)
                return 0;
        if (rc != -CAS_E_IO && rc != -CAS_E_BUSY && rc != -CAS_E_DENIED && rc != -CAS_E_NOSPACE)
                return finish_by_blob(r, s, &layer->blob, progress, err);
        *err = why;
        return rc;
}
