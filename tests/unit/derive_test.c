/* SPDX-License-Identifier: Apache-2.0 */
/* Layers written from entries, and images made over a base. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/derive.h"
#include "cas/json.h"
#include "cas/layerwrite.h"
#include "tests/support/teststore.h"

#define check(call, err)                                                                           \
        do {                                                                                       \
                int check_ = (call);                                                               \
                if (check_ < 0)                                                                    \
                        print_error("%s: %s\n", #call, (err)->msg);                                \
                assert_int_equal(check_, 0);                                                       \
        } while (0)

#define BIG_BYTES (3 * 1024 * 1024 + 17)

static struct cas_entry entries[] = {
        {.type = CAS_ENTRY_DIR, .path = (char[]){"d"}, .mode = 0755, .opaque = true},
        {.type = CAS_ENTRY_FILE, .path = (char[]){"d/big"}, .mode = 0644, .size_bytes = BIG_BYTES},
        {.type = CAS_ENTRY_HARDLINK, .path = (char[]){"d/link"}, .target = (char[]){"d/big"}},
        {.type = CAS_ENTRY_WHITEOUT, .path = (char[]){"e/gone"}, .mode = 0644, .uid = 7},
        {.type = CAS_ENTRY_FILE, .path = (char[]){"small"}, .mode = 0600, .size_bytes = 3},
        {.type = CAS_ENTRY_WHITEOUT, .path = (char[]){"top"}},
};

/* Content in steps of `step` bytes. */
static int write_layer(struct cas_store *s, size_t step, struct cas_layer_record *out,
                       struct cas_err *err)
{
        cas_cleanup_layer_writer struct cas_layer_writer *w = NULL;
        cas_cleanup_free uint8_t *data = cas_xmalloc(BIG_BYTES);
        for (size_t i = 0; i < BIG_BYTES; i++)
                data[i] = (uint8_t)((i * i) >> 9);
        int r = cas_layer_writer_open(s, &w, err);
        for (size_t i = 0; r == 0 && i < CAS_COUNT(entries); i++) {
                r = cas_layer_writer_entry(w, &entries[i], err);
                uint64_t size = entries[i].size_bytes;
                for (uint64_t at = 0; r == 0 && at < size; at += step)
                        r = cas_layer_writer_data(w, data + at,
                                                  (size_t)cas_min_u64(step, size - at), err);
        }
        return r < 0 ? r : cas_layer_writer_finish(w, out, err);
}

static void the_same_entries_give_the_same_layer(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record first, second;
        cas_cleanup_listing struct cas_listing listing = {0};
        check(write_layer(t->store, 1000, &first, &err), &err);
        check(write_layer(t->store, 700001, &second, &err), &err);
        assert_true(cas_digest_equal(&first.blob, &second.blob));
        check(cas_layer_listing(t->store, &first, &listing, &err), &err);
        assert_int_equal(listing.count, CAS_COUNT(entries));
        for (size_t i = 0; i < listing.count; i++) {
                assert_string_equal(listing.entries[i].path, entries[i].path);
                assert_int_equal(listing.entries[i].type, entries[i].type);
                assert_int_equal(listing.entries[i].opaque, entries[i].opaque);
                assert_int_equal(listing.entries[i].size_bytes, entries[i].size_bytes);
        }
        assert_false(listing.entries[0].implied);
}

static void what_is_not_finished_is_dropped(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_layer_writer struct cas_layer_writer *w = NULL;
        check(cas_layer_writer_open(t->store, &w, &err), &err);
        check(cas_layer_writer_entry(w, &entries[1], &err), &err);
        check(cas_layer_writer_data(w, "abc", 3, &err), &err);
        cas_layer_writer_free(cas_steal(&w));
        check(cas_layer_writer_open(t->store, &w, &err), &err);
        struct cas_entry bad = {.type = CAS_ENTRY_FILE, .path = (char[]){"a/.wh.b"}};
        struct cas_err why = CAS_ERR_INIT;
        assert_int_equal(cas_layer_writer_entry(w, &bad, &why), -CAS_E_INVALID);
}

/* An error of the import comes out of the writer: here of an archive that it refuses. */
static void errors_of_the_import_are_told(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_layer_writer struct cas_layer_writer *w = NULL;
        struct cas_layer_record record;
        struct cas_entry link = {
                .type = CAS_ENTRY_HARDLINK, .path = (char[]){"a"}, .target = (char[]){"a"}};
        check(cas_layer_writer_open(t->store, &w, &err), &err);
        check(cas_layer_writer_entry(w, &link, &err), &err);
        struct cas_err why = CAS_ERR_INIT;
        assert_int_equal(cas_layer_writer_finish(w, &record, &why), -CAS_E_INVALID);
}

static json_t *blob_json(struct cas_store *s, const struct cas_digest *digest)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        json_t *j = NULL;
        check(cas_blob_read(s, digest, 1 << 20, &bytes, &err), &err);
        check(cas_json_parse(bytes.data, bytes.len_bytes, 1 << 20, &j, &err), &err);
        return j;
}

static const char *text_in(const json_t *j, const char *a, const char *b)
{
        const char *text =
                json_string_value(json_object_get(b ? json_object_get(j, a) : j, b ? b : a));
        return text ? text : "";
}

static void derive(struct teststore *t, const char *name, const struct cas_derive_options *options,
                   struct cas_image *out)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_ref ref;
        struct cas_manifest_info info;
        check(cas_ref_parse(name, &ref, &err), &err);
        check(cas_image_derive(t->store, &ref, options, &info, &err), &err);
        check(cas_image_open(t->store, &ref, NULL, NULL, out, &err), &err);
        assert_true(cas_digest_equal(&info.digest, &out->manifest_digest));
}

static void an_image_is_made_over_a_base(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record layer;
        cas_cleanup_image struct cas_image base = {0}, image = {0}, again = {0};
        check(write_layer(t->store, 4096, &layer, &err), &err);
        struct cas_derive_options first = {
                .layer = &layer,
                .newest_s = 86400,
                .created_by = "test",
                .config_json = "{\"config\":{\"Env\":[\"A=1\",\"B=2\"],\"Cmd\":[\"c\"],"
                               "\"Labels\":{\"x\":\"1\",\"y\":\"2\"}}}"};
        derive(t, "base:1", &first, &base);
        struct cas_derive_options second = {
                .base = &base,
                .layer = &layer,
                .newest_s = 5,
                .created_by = "more",
                .comment = "why",
                .author = "who",
                .config_json = "{\"config\":{\"Env\":[\"C=3\",\"A=9\"],\"Entrypoint\":[\"e\"],"
                               "\"Labels\":{\"y\":\"3\"}}}"};
        derive(t, "next:1", &second, &image);
        assert_int_equal(image.manifest.child_count, 2);
        assert_int_equal(image.config.diff_id_count, 2);
        assert_string_equal(image.config.env[0], "A=9");
        assert_string_equal(image.config.env[1], "B=2");
        assert_string_equal(image.config.env[2], "C=3");
        assert_string_equal(image.config.entrypoint[0], "e");
        assert_null(image.config.cmd[0]);
        cas_cleanup_json json_t *config = blob_json(t->store, &image.manifest.config.digest);
        const json_t *entry = json_array_get(json_object_get(config, "history"), 1);
        assert_string_equal(text_in(config, "created", NULL), "1970-01-02T00:00:00Z");
        assert_string_equal(text_in(config, "author", NULL), "who");
        assert_string_equal(text_in(entry, "created_by", NULL), "more");
        assert_string_equal(text_in(entry, "comment", NULL), "why");
        assert_string_equal(text_in(json_object_get(config, "config"), "Labels", "x"), "1");
        assert_string_equal(text_in(json_object_get(config, "config"), "Labels", "y"), "3");
        derive(t, "next:2", &second, &again);
        assert_true(cas_digest_equal(&image.manifest_digest, &again.manifest_digest));
}

/* base:1, with a configuration that says no more than it must. */
static void put_plain_image(struct cas_store *s, const struct cas_layer_record *layer)
{
        char diff_id[CAS_DIGEST_TEXT_BYTES], blob[CAS_DIGEST_TEXT_BYTES];
        struct cas_err err = CAS_ERR_INIT;
        uint64_t bytes;
        cas_cleanup_free char *config =
                cas_xasprintf("{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"%s\"]}}",
                              cas_digest_text(&layer->diff_id, diff_id));
        struct cas_digest digest = test_put_blob(s, "base", config);
        check(cas_blob_stat(s, &layer->blob, &bytes, &err), &err);
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_cleanup_free char *manifest = cas_xasprintf(
                "{\"schemaVersion\":2,\"mediaType\":\"" CAS_MT_DOCKER_MANIFEST "\",\"config\":"
                "{\"mediaType\":\"" CAS_MT_DOCKER_CONFIG "\",\"digest\":\"%s\",\"size\":%zu},"
                "\"layers\":[{\"mediaType\":\"" CAS_MT_DOCKER_LAYER_GZIP "\",\"digest\":\"%s\","
                "\"size\":%llu}]}",
                cas_digest_text(&digest, text), strlen(config), cas_digest_text(&layer->blob, blob),
                (unsigned long long)bytes);
        struct cas_manifest_put_options put = {
                .repo = "base", .tag = "1", .media_type = CAS_MT_DOCKER_MANIFEST};
        check(cas_manifest_put(s, &put, manifest, strlen(manifest), NULL, &err), &err);
}

static void an_image_without_a_layer_more_says_so(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record layer;
        struct cas_ref ref;
        cas_cleanup_image struct cas_image base = {0}, image = {0};
        check(write_layer(t->store, 4096, &layer, &err), &err);
        put_plain_image(t->store, &layer);
        check(cas_ref_parse("base:1", &ref, &err), &err);
        check(cas_image_find(t->store, &ref, NULL, &base, &err), &err);
        struct cas_derive_options options = {.base = &base, .created_by = "nothing"};
        derive(t, "same:1", &options, &image);
        assert_int_equal(image.manifest.child_count, 1);
        assert_string_equal(image.manifest.media_type, CAS_MT_DOCKER_MANIFEST);
        cas_cleanup_json json_t *config = blob_json(t->store, &image.manifest.config.digest);
        const json_t *history = json_object_get(config, "history");
        /* The base has no history: its layer gets an entry without words. */
        assert_int_equal(json_array_size(history), 2);
        assert_int_equal(json_object_size(json_array_get(history, 0)), 0);
        assert_true(json_is_true(json_object_get(json_array_get(history, 1), "empty_layer")));
        struct cas_manifest_info info;
        struct cas_err bad = CAS_ERR_INIT;
        options.config_json = "{\"config\":{\"Env\":[7]}}";
        assert_int_equal(cas_image_derive(t->store, &ref, &options, &info, &bad), -CAS_E_INVALID);
}

int main(void)
{
#define with_store(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)
        const struct CMUnitTest tests[] = {
                with_store(the_same_entries_give_the_same_layer),
                with_store(what_is_not_finished_is_dropped),
                with_store(errors_of_the_import_are_told),
                with_store(an_image_is_made_over_a_base),
                with_store(an_image_without_a_layer_more_says_so),
        };
        return cmocka_run_group_tests_name("derive", tests, NULL, NULL);
}
