/* SPDX-License-Identifier: Apache-2.0 */
/* A layer that comes from elsewhere. */
#include "cas/backend.h"
#include "cas/blob.h"
#include "cas/elsewhere.h"
#include "cas/image.h"
#include "cas/verity.h"
#include "tests/crash/parts/operation.h"

#define FAR_SEED 20

/* What testimage_put would make of FAR_SEED, without putting it anywhere. */
static void far_listing(struct cas_buf *out, struct cas_layer_record *layer)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf file = CAS_BUF_INIT;
        cas_cleanup_listing struct cas_listing listing = {0};
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", FAR_SEED, FILES);
        listing.entries = cas_xcalloc(FILES, sizeof(listing.entries[0]));
        listing.count = FILES;
        for (unsigned i = 0; i < FILES; i++) {
                test_file(FAR_SEED + i, &file);
                listing.entries[i] = (struct cas_entry){.type = CAS_ENTRY_FILE,
                                                        .path = cas_xasprintf("f%04u", i),
                                                        .mode = 0644,
                                                        .size_bytes = file.len_bytes};
                cas_verity_of(file.data, file.len_bytes, &listing.entries[i].object);
                layer->content_bytes += file.len_bytes;
        }
        must(cas_listing_encode(&listing, out, &err) == 0);
        layer->blob = layer->diff_id = test_digest(blob);
        layer->tar_bytes = 1024;
        layer->entry_count = FILES;
        layer->listing_version = CAS_LISTING_VERSION;
        cas_verity_of(out->data, out->len_bytes, &layer->listing);
}

static int far_fetch(struct cas_remote *r CAS_UNUSED, const struct cas_digest *layer CAS_UNUSED,
                     const struct cas_hash *ids, size_t count, struct cas_publish *p,
                     struct cas_err *err)
{
        for (unsigned i = 0; i < FILES; i++) {
                cas_cleanup_buf struct cas_buf file = CAS_BUF_INIT;
                struct cas_hash id, got;
                bool wanted = false;
                test_file(FAR_SEED + i, &file);
                cas_verity_of(file.data, file.len_bytes, &id);
                for (size_t k = 0; k < count; k++)
                        wanted = wanted || cas_hash_equal(&ids[k], &id);
                if (wanted && (cas_publish_object(p, file.data, file.len_bytes, &got, err) < 0 ||
                               cas_publish_drain(p, err) < 0))
                        return -(int)err->code;
        }
        return 0;
}

static int far_finish(struct cas_remote *r CAS_UNUSED, struct cas_store *s,
                      const struct cas_layer_record *layer, uint64_t blob_bytes CAS_UNUSED,
                      const struct cas_progress *progress CAS_UNUSED, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_cleanup_listing struct cas_listing listing = {0};
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", FAR_SEED, FILES);
        int rc = cas_publish_begin(s, &p, err);
        if (rc == 0)
                rc = cas_layer_listing(s, layer, &listing, err);
        if (rc == 0)
                rc = cas_publish_blob(p, blob, strlen(blob), &layer->blob, NULL, err);
        if (rc == 0)
                rc = cas_publish_layer(p, layer, &listing, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

static void far_close(struct cas_remote *r CAS_UNUSED)
{
}

static int far_open(void *arg CAS_UNUSED, const char *source CAS_UNUSED, struct cas_remote **out,
                    struct cas_err *err CAS_UNUSED)
{
        static const struct cas_remote_ops ops = {
                .fetch_objects = far_fetch, .finish_layer = far_finish, .close = far_close};
        static struct cas_remote remote = {.ops = &ops};
        *out = &remote;
        return 0;
}

static int put_far_manifest(struct cas_store *s, const struct cas_layer_record *layer,
                            struct cas_err *err)
{
        char config_text[CAS_DIGEST_TEXT_BYTES], layer_text[CAS_DIGEST_TEXT_BYTES];
        cas_cleanup_free char *config = cas_xasprintf("{\"seed\":%u}", FAR_SEED);
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", FAR_SEED, FILES);
        struct cas_digest digest = test_digest(config);
        cas_cleanup_free char *manifest =
                cas_xasprintf("{\"schemaVersion\":2,\"mediaType\":\"" CAS_MT_OCI_MANIFEST
                              "\",\"config\":{\"mediaType\":\"" CAS_MT_OCI_CONFIG
                              "\",\"digest\":\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":"
                              "\"" CAS_MT_OCI_LAYER_TAR "\",\"digest\":\"%s\",\"size\":%zu}]}",
                              cas_digest_text(&digest, config_text), strlen(config),
                              cas_digest_text(&layer->blob, layer_text), strlen(blob));
        const struct cas_manifest_put_options options = {
                .repo = "r", .tag = "new", .allow_elsewhere = true};
        return cas_manifest_put(s, &options, manifest, strlen(manifest), NULL, err);
}

static enum outcome look_elsewhere(struct cas_store *s)
{
        struct cas_digest d;
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", FAR_SEED, FILES);
        struct cas_digest layer = test_digest(blob);
        if (!image_is_whole(s, "old", 0))
                return BROKEN;
        /* All of it may be here, and the layer noted as elsewhere still: it is completed again. */
        if (cas_layer_is_elsewhere(s, &layer))
                return BEFORE;
        if (image_is_whole(s, "new", FAR_SEED))
                return AFTER;
        return has_tag(s, "new", &d) ? BROKEN : BEFORE;
}
/* Listing, record and config; then the name; then files and blob. */
static int run_elsewhere(struct cas_store *s, struct cas_err *err)
{
        static const struct cas_remotes remotes = {.open = far_open};
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_listing struct cas_listing listing = {0};
        cas_cleanup_free char *config = cas_xasprintf("{\"seed\":%u}", FAR_SEED);
        struct cas_elsewhere_layer rec = {.blob_bytes = strlen("layer 20 6"), .source = "far"};
        struct cas_hash id;
        if (look_elsewhere(s) == AFTER)
                return 0;
        far_listing(&bytes, &rec.layer);
        rec.manifest = rec.layer.blob;
        cas_store_set_remotes(s, &remotes);
        int rc = cas_publish_begin(s, &p, err);
        if (rc == 0)
                rc = cas_publish_object(p, bytes.data, bytes.len_bytes, &id, err);
        if (rc == 0)
                rc = cas_listing_decode(bytes.data, bytes.len_bytes, &listing, err);
        if (rc == 0)
                rc = cas_publish_blob(p, config, strlen(config), NULL, NULL, err);
        if (rc == 0)
                rc = cas_elsewhere_put(p, &rec, &listing, err);
        if (rc == 0)
                rc = cas_publish_commit(p, err);
        cas_publish_free(cas_steal(&p));
        cas_elsewhere_changed(s);
        if (rc == 0)
                rc = put_far_manifest(s, &rec.layer, err);
        return rc < 0 ? rc : cas_elsewhere_complete(s, &rec.layer.blob, NULL, err);
}

static const struct operation list[] = {
        {.name = "elsewhere", .prepare = prepare_one, .run = run_elsewhere, .look = look_elsewhere},
};
const struct operations crash_elsewhere = {list, CAS_COUNT(list)};
