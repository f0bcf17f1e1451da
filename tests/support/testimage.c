/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/testimage.h"

#include <stdio.h>

#include "cas/blob.h"
#include "cas/image.h"
#include "cas/object.h"

void test_file(unsigned seed, struct cas_buf *out)
{
        uint64_t x = seed * 2654435761u + 1;
        size_t len = seed % 5 == 4 ? 700 * CAS_KIB : 100 + (seed * 7919) % 20000;
        cas_buf_clear(out);
        cas_buf_reserve(out, len);
        for (size_t i = 0; i < len; i++) {
                x = x * 6364136223846793005u + 1442695040888963407u;
                out->data[i] = (uint8_t)((x >> 60) + 'a');
        }
        out->len_bytes = len;
}

static int put_files(struct cas_publish *p, unsigned seed, unsigned files,
                     struct cas_layer_record *layer, struct cas_listing *listing,
                     struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_free struct cas_hash *ids = cas_xcalloc(files + 1, sizeof(ids[0]));
        int rc = 0;
        listing->entries = cas_xcalloc(files + 1, sizeof(listing->entries[0]));
        listing->count = files;
        for (unsigned i = 0; i < files && rc == 0; i++) {
                test_file(seed + i, &bytes);
                listing->entries[i] = (struct cas_entry){.type = CAS_ENTRY_FILE,
                                                         .path = cas_xasprintf("f%04u", i),
                                                         .mode = 0644,
                                                         .size_bytes = bytes.len_bytes};
                layer->content_bytes += bytes.len_bytes;
                rc = cas_publish_object(p, bytes.data, bytes.len_bytes, &ids[i], err);
        }
        if (rc == 0)
                rc = cas_publish_drain(p, err);
        for (unsigned i = 0; i < files; i++)
                listing->entries[i].object = ids[i];
        cas_buf_clear(&bytes);
        if (rc == 0)
                rc = cas_listing_encode(listing, &bytes, err);
        if (rc == 0)
                rc = cas_publish_object(p, bytes.data, bytes.len_bytes, &layer->listing, err);
        return rc < 0 ? rc : cas_publish_drain(p, err);
}

static int put_layer(struct cas_publish *p, unsigned seed, unsigned files,
                     struct cas_layer_record *layer, struct cas_err *err)
{
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", seed, files);
        cas_cleanup_listing struct cas_listing listing = {0};
        *layer = (struct cas_layer_record){
                .tar_bytes = 1024, .entry_count = files, .listing_version = CAS_LISTING_VERSION};
        int rc = put_files(p, seed, files, layer, &listing, err);
        if (rc == 0)
                rc = cas_publish_blob(p, blob, strlen(blob), NULL, &layer->blob, err);
        layer->diff_id = layer->blob;
        return rc < 0 ? rc : cas_publish_layer(p, layer, &listing, err);
}

static void manifest_text(const struct testimage *image, size_t config_bytes, size_t layer_bytes,
                          struct cas_buf *out)
{
        char config[CAS_DIGEST_TEXT_BYTES], layer[CAS_DIGEST_TEXT_BYTES];
        cas_buf_printf(out,
                       "{\"schemaVersion\":2,\"mediaType\":\"" CAS_MT_OCI_MANIFEST
                       "\",\"config\":{\"mediaType\":\"" CAS_MT_OCI_CONFIG
                       "\",\"digest\":\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":"
                       "\"" CAS_MT_OCI_LAYER_TAR "\",\"digest\":\"%s\",\"size\":%zu}]}",
                       cas_digest_text(&image->config, config), config_bytes,
                       cas_digest_text(&image->layer.blob, layer), layer_bytes);
}

int testimage_put(struct cas_store *s, const char *repo, const char *tag, unsigned seed,
                  unsigned files, struct testimage *out, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_cleanup_buf struct cas_buf manifest = CAS_BUF_INIT;
        cas_cleanup_free char *config = cas_xasprintf("{\"seed\":%u}", seed);
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", seed, files);
        int rc = cas_publish_begin(s, &p, err);
        if (rc == 0)
                rc = put_layer(p, seed, files, &out->layer, err);
        if (rc == 0)
                rc = cas_publish_blob(p, config, strlen(config), NULL, &out->config, err);
        if (rc < 0)
                return rc;
        manifest_text(out, strlen(config), strlen(blob), &manifest);
        rc = cas_publish_blob(p, manifest.data, manifest.len_bytes, NULL, &out->manifest, err);
        if (rc == 0)
                rc = cas_publish_blob_link(p, repo, &out->layer.blob, err);
        if (rc == 0)
                rc = cas_publish_blob_link(p, repo, &out->config, err);
        if (rc == 0)
                rc = cas_publish_manifest_link(p, repo, &out->manifest, CAS_MT_OCI_MANIFEST,
                                               manifest.len_bytes, err);
        if (rc == 0 && tag)
                rc = cas_publish_tag(p, repo, tag, &out->manifest, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

bool testimage_is_whole(struct cas_store *s, const struct testimage *image, unsigned seed,
                        unsigned files)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_listing struct cas_listing listing = {0};
        cas_cleanup_buf struct cas_buf want = CAS_BUF_INIT, got = CAS_BUF_INIT;
        struct cas_layer_record rec;
        if (cas_blob_stat(s, &image->manifest, NULL, &err) < 0 ||
            cas_blob_stat(s, &image->config, NULL, &err) < 0 ||
            cas_blob_stat(s, &image->layer.blob, NULL, &err) < 0 ||
            cas_layer_stat(s, &image->layer.blob, &rec, &err) < 0 ||
            cas_layer_listing(s, &rec, &listing, &err) < 0 || listing.count != files)
                return false;
        for (unsigned i = 0; i < files; i++) {
                test_file(seed + i, &want);
                cas_buf_clear(&got);
                if (cas_object_read(s, &listing.entries[i].object, 1 << 24, &got, &err) < 0 ||
                    got.len_bytes != want.len_bytes ||
                    memcmp(got.data, want.data, want.len_bytes) != 0)
                        return false;
        }
        return true;
}
