/* SPDX-License-Identifier: Apache-2.0 */
/* Operations that bring something: publications, uploads, manifests, imports, commits. */
#include "cas/blob.h"
#include "cas/derive.h"
#include "cas/layerwrite.h"
#include "cas/object.h"
#include "cas/transfer.h"
#include "tests/crash/parts/operation.h"
#include "tests/support/testlayout.h"

#define FILE_BYTES 9000 /* of a file in a tar: too large to be in the listing */

/* ---- one publication ---- */

static int run_publish(struct cas_store *s, struct cas_err *err)
{
        struct testimage image;
        return testimage_put(s, "r", "new", 3, FILES, &image, err); /* shares files with the old */
}

static enum outcome look_publish(struct cas_store *s)
{
        struct cas_digest d;
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", 3, FILES);
        struct cas_digest layer = test_digest(blob);
        if (!image_is_whole(s, "old", 0))
                return BROKEN;
        if (image_is_whole(s, "new", 3))
                return AFTER;
        return has_tag(s, "new", &d) || test_has_blob(s, &layer) ? BROKEN : BEFORE;
}

/* ---- a blob in chunks ---- */

static const char first_half[] = "first half of an upload, ";
static const char second_half[] = "and its second half";

static int run_upload(struct cas_store *s, struct cas_err *err)
{
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_upload *u = NULL;
        cas_cleanup_free char *whole = cas_xasprintf("%s%s", first_half, second_half);
        struct cas_digest d = test_digest(whole);
        int rc = cas_upload_create(s, "r", id, err);
        if (rc == 0)
                rc = cas_upload_open(s, "r", id, &u, err);
        if (rc < 0)
                return rc;
        rc = cas_upload_append(u, first_half, strlen(first_half), err);
        cas_upload_close(u);
        if (rc == 0)
                rc = cas_upload_open(s, "r", id, &u, err);
        if (rc < 0)
                return rc;
        rc = cas_upload_append(u, second_half, strlen(second_half), err);
        if (rc == 0)
                rc = cas_upload_finish(u, &d, err);
        if (rc < 0)
                cas_upload_close(u);
        return rc;
}

static enum outcome look_upload(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *whole = cas_xasprintf("%s%s", first_half, second_half);
        cas_cleanup_buf struct cas_buf got = CAS_BUF_INIT;
        struct cas_digest d = test_digest(whole);
        bool linked;
        if (!image_is_whole(s, "old", 0) || cas_blob_linked(s, "r", &d, &linked, &err) < 0)
                return BROKEN;
        if (!linked)
                return test_has_blob(s, &d) ? BROKEN : BEFORE;
        return cas_blob_read(s, &d, 1000, &got, &err) == 0 ? AFTER : BROKEN;
}
/* ---- a chunk that is acknowledged, before the upload ends ---- */

static bool note_length(void *arg, const struct cas_upload_info *info)
{
        uint64_t *longest = arg;
        *longest = cas_max_u64(*longest, info->size_bytes);
        return true;
}

static enum outcome look_chunk(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        uint64_t longest = 0;
        if (!image_is_whole(s, "old", 0) ||
            cas_upload_each(s, "r", note_length, &longest, &err) < 0)
                return BROKEN;
        return longest >= strlen(first_half) ? AFTER : BEFORE;
}

static int run_chunk(struct cas_store *s, struct cas_err *err)
{
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_upload *u = NULL;
        if (look_chunk(s) == AFTER)
                return 0;
        int rc = cas_upload_create(s, "r", id, err);
        if (rc == 0)
                rc = cas_upload_open(s, "r", id, &u, err);
        if (rc < 0)
                return rc;
        rc = cas_upload_append(u, first_half, strlen(first_half), err);
        if (rc == 0)
                rc = cas_upload_sync(u, err);
        cas_upload_close(u);
        return rc;
}

/* ---- an upload that goes on ---- */

static bool find_upload(void *arg, const struct cas_upload_info *info)
{
        char *id = arg;
        memcpy(id, info->id, CAS_UPLOAD_ID_BYTES);
        return false;
}

/* The first half is there, acknowledged. */
static void prepare_resume(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_upload *u = NULL;
        prepare_one(s);
        must(cas_upload_create(s, "r", id, &err) == 0 &&
             cas_upload_open(s, "r", id, &u, &err) == 0 &&
             cas_upload_append(u, first_half, strlen(first_half), &err) == 0 &&
             cas_upload_sync(u, &err) == 0);
        cas_upload_close(u);
}

static int resume_upload(struct cas_store *s, const char *id, const struct cas_digest *d,
                         struct cas_err *err)
{
        struct cas_upload *u = NULL;
        int rc = cas_upload_open(s, "r", id, &u, err);
        if (rc < 0)
                return rc;
        if (cas_upload_bytes(u) < strlen(first_half)) {
                cas_upload_close(u);
                return cas_fail(err, CAS_E_CORRUPT, "bytes that were acknowledged are lost");
        }
        rc = cas_upload_truncate(u, strlen(first_half), err);
        if (rc == 0)
                rc = cas_upload_append(u, second_half, strlen(second_half), err);
        if (rc == 0)
                rc = cas_upload_sync(u, err);
        if (rc == 0)
                rc = cas_upload_finish(u, d, err);
        if (rc < 0)
                cas_upload_close(u);
        return rc;
}

/* A session that is gone, after a failure, is begun anew. */
static int run_resume(struct cas_store *s, struct cas_err *err)
{
        char id[CAS_UPLOAD_ID_BYTES] = "";
        cas_cleanup_free char *whole = cas_xasprintf("%s%s", first_half, second_half);
        struct cas_digest d = test_digest(whole);
        bool linked;
        int rc = cas_blob_linked(s, "r", &d, &linked, err);
        if (rc == 0)
                rc = cas_upload_each(s, "r", find_upload, id, err);
        if (rc < 0)
                return rc;
        if (id[0])
                return resume_upload(s, id, &d, err);
        return linked ? 0 : run_upload(s, err);
}

static enum outcome look_resume(struct cas_store *s)
{
        return look_upload(s);
}

/* ---- a manifest whose blobs are there ---- */

static void manifest_of(const char *config, const char *layer, struct cas_buf *out)
{
        char config_text[CAS_DIGEST_TEXT_BYTES], layer_text[CAS_DIGEST_TEXT_BYTES];
        struct cas_digest c = test_digest(config), l = test_digest(layer);
        cas_buf_printf(out,
                       "{\"schemaVersion\":2,\"mediaType\":\"" CAS_MT_OCI_MANIFEST
                       "\",\"config\":{\"mediaType\":\"" CAS_MT_OCI_CONFIG
                       "\",\"digest\":\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":"
                       "\"application/x-parts\",\"digest\":\"%s\",\"size\":%zu}]}",
                       cas_digest_text(&c, config_text), strlen(config),
                       cas_digest_text(&l, layer_text), strlen(layer));
}

static const char pushed_config[] = "{\"of\":\"a push\"}", pushed_layer[] = "a layer of a push";

static void prepare_manifest(struct cas_store *s)
{
        prepare_one(s);
        (void)test_put_blob(s, "r", pushed_config);
        (void)test_put_blob(s, "r", pushed_layer);
}

static int run_manifest(struct cas_store *s, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        const struct cas_manifest_put_options options = {
                .repo = "r", .tag = "new", .linked_only = true};
        manifest_of(pushed_config, pushed_layer, &text);
        return cas_manifest_put(s, &options, text.data, text.len_bytes, NULL, err);
}

static enum outcome look_manifest(struct cas_store *s)
{
        struct cas_digest d, config = test_digest(pushed_config), layer = test_digest(pushed_layer);
        if (!image_is_whole(s, "old", 0))
                return BROKEN;
        bool tagged = has_tag(s, "new", &d);
        if (tagged &&
            (!test_has_blob(s, &d) || !test_has_blob(s, &config) || !test_has_blob(s, &layer)))
                return BROKEN;
        return tagged ? AFTER : BEFORE;
}

/* ---- an import ---- */

static char *import_path(void)
{
        return cas_xasprintf("%s/layout", crash_side);
}

static void prepare_import(struct cas_store *s)
{
        struct testlayout l;
        cas_cleanup_buf struct cas_buf image = CAS_BUF_INIT;
        prepare_one(s);
        testlayout_init(&l, crash_side, "layout");
        char text[FILE_BYTES + 1];
        memset(text, 'i', FILE_BYTES);
        text[FILE_BYTES] = '\0';
        testlayout_image(&l, text, "amd64", &image, "");
        testlayout_name(&l, cas_buf_str(&image), "imported");
        testlayout_finish(&l);
        testlayout_release(&l);
}

static int import_layout(struct cas_store *s, struct cas_err *err)
{
        cas_cleanup_free char *text = import_path();
        const struct cas_transfer_address from = {
                .kind = CAS_TRANSFER_OCI_LAYOUT, .path = text, .tag = (char[]){""}};
        return cas_import(s, &from, "r:new", NULL, NULL, NULL, err);
}

/* Whether the image opens, with its layer's file. */
static bool opens(struct cas_store *s, const char *name, const char *file)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_ref ref;
        struct cas_platform amd64 = {.os = "linux", .arch = "amd64"};
        cas_cleanup_image struct cas_image image = {0};
        cas_cleanup_listing struct cas_listing listing = {0};
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        if (cas_ref_parse(name, &ref, &err) < 0 ||
            cas_image_open(s, &ref, &amd64, NULL, &image, &err) < 0) {
                (void)fprintf(stderr, "%s: %s\n", name, err.msg);
                return false;
        }
        size_t top = image.manifest.child_count - 1;
        if (cas_layer_listing(s, &image.layers[top], &listing, &err) < 0) {
                (void)fprintf(stderr, "%s: %s\n", name, err.msg);
                return false;
        }
        for (size_t i = 0; i < listing.count; i++) {
                if (strcmp(listing.entries[i].path, file) == 0)
                        return cas_object_read(s, &listing.entries[i].object, 1 << 20, &bytes,
                                               &err) == 0;
        }
        return false;
}

static enum outcome look_import(struct cas_store *s)
{
        struct cas_digest d;
        if (!image_is_whole(s, "old", 0))
                return BROKEN;
        if (!has_tag(s, "new", &d))
                return BEFORE;
        return opens(s, "r:new", "f") ? AFTER : BROKEN;
}

/* ---- a sandbox's changes become an image ---- */

static void prepare_commit(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        prepare_import(s);
        must(import_layout(s, &err) == 0);
}

static int write_changes(struct cas_store *s, struct cas_layer_record *out, struct cas_err *err)
{
        static const char bytes[FILE_BYTES] = "what the sandbox wrote";
        cas_cleanup_layer_writer struct cas_layer_writer *w = NULL;
        struct cas_entry entry = {.type = CAS_ENTRY_FILE,
                                  .path = (char[]){"changed"},
                                  .mode = 0644,
                                  .size_bytes = sizeof(bytes)};
        int rc = cas_layer_writer_open(s, &w, err);
        if (rc == 0)
                rc = cas_layer_writer_entry(w, &entry, err);
        if (rc == 0)
                rc = cas_layer_writer_data(w, bytes, sizeof(bytes), err);
        return rc < 0 ? rc : cas_layer_writer_finish(w, out, err);
}

static int run_commit(struct cas_store *s, struct cas_err *err)
{
        struct cas_platform amd64 = {.os = "linux", .arch = "amd64"};
        struct cas_ref ref, to;
        struct cas_layer_record layer;
        struct cas_manifest_info info;
        cas_cleanup_image struct cas_image base = {0};
        int rc = cas_ref_parse("r:new", &ref, err);
        if (rc == 0)
                rc = cas_ref_parse("r:committed", &to, err);
        if (rc == 0)
                rc = cas_image_find(s, &ref, &amd64, &base, err);
        if (rc == 0)
                rc = write_changes(s, &layer, err);
        const struct cas_derive_options options = {
                .base = &base, .layer = &layer, .created_by = "test"};
        return rc < 0 ? rc : cas_image_derive(s, &to, &options, &info, err);
}

static enum outcome look_commit(struct cas_store *s)
{
        struct cas_digest d;
        if (!image_is_whole(s, "old", 0) || !opens(s, "r:new", "f"))
                return BROKEN;
        if (!has_tag(s, "committed", &d))
                return BEFORE;
        return opens(s, "r:committed", "changed") ? AFTER : BROKEN;
}

static const struct operation list[] = {
        {.name = "publish",
         .prepare = prepare_one,
         .run = run_publish,
         .look = look_publish,
         .quick = true},
        {.name = "upload",
         .prepare = prepare_one,
         .run = run_upload,
         .look = look_upload,
         .quick = true},
        {.name = "chunk", .prepare = prepare_one, .run = run_chunk, .look = look_chunk},
        {.name = "resume", .prepare = prepare_resume, .run = run_resume, .look = look_resume},
        {.name = "manifest",
         .prepare = prepare_manifest,
         .run = run_manifest,
         .look = look_manifest},
        {.name = "import", .prepare = prepare_import, .run = import_layout, .look = look_import},
        {.name = "commit", .prepare = prepare_commit, .run = run_commit, .look = look_commit},
};
const struct operations crash_push = {list, CAS_COUNT(list)};
