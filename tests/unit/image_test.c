/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/maintain.h"
#include "tests/support/testlayout.h"
#include "tests/support/teststore.h"

#define check(call, err)                                                                           \
        do {                                                                                       \
                int check_ = (call);                                                               \
                if (check_ < 0)                                                                    \
                        print_error("%s: %s\n", #call, (err)->msg);                                \
                assert_int_equal(check_, 0);                                                       \
        } while (0)

static struct cas_digest put_bytes(struct teststore *t, const void *data, size_t len)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_digest d;
        check(cas_publish_begin(t->store, &p, &err), &err);
        check(cas_publish_blob(p, data, len, NULL, &d, &err), &err);
        check(cas_publish_commit(p, &err), &err);
        return d;
}

static int put_manifest(struct teststore *t, const char *repo, const char *tag, const char *text,
                        struct cas_manifest_info *info, struct cas_err *err)
{
        struct cas_manifest_put_options options = {.repo = repo, .tag = tag};
        return cas_manifest_put(t->store, &options, text, strlen(text), info, err);
}

/* The manifest of an image whose layers hold one file each, with these texts. */
static void image_text(struct teststore *t, const char *const *files, size_t count,
                       const char *arch, struct cas_buf *out)
{
        cas_cleanup_buf struct cas_buf config = CAS_BUF_INIT, layers = CAS_BUF_INIT;
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_buf_printf(&config,
                       "{\"os\":\"linux\",\"architecture\":\"%s\",\"rootfs\":{"
                       "\"type\":\"layers\",\"diff_ids\":[",
                       arch);
        for (size_t i = 0; i < count; i++) {
                cas_cleanup_buf struct cas_buf gzip = CAS_BUF_INIT;
                struct cas_digest diff_id;
                testlayout_layer(files[i], &gzip, &diff_id);
                struct cas_digest d = put_bytes(t, gzip.data, gzip.len_bytes);
                cas_buf_printf(&config, "%s\"%s\"", i ? "," : "", cas_digest_text(&diff_id, text));
                cas_buf_append_str(&layers, i ? "," : "");
                testlayout_descriptor(&layers, CAS_MT_OCI_LAYER_GZIP, &d, gzip.len_bytes, "");
        }
        cas_buf_append_str(&config, "]}}");
        struct cas_digest d = put_bytes(t, config.data, config.len_bytes);
        cas_buf_append_str(out, "{\"schemaVersion\":2,\"config\":");
        testlayout_descriptor(out, CAS_MT_OCI_CONFIG, &d, config.len_bytes, "");
        cas_buf_printf(out, ",\"layers\":[%s]}", cas_buf_str(&layers));
}

static struct cas_manifest_info put_image(struct teststore *t, const char *repo, const char *tag,
                                          const char *const *files, size_t count, const char *arch)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_manifest_info info;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        image_text(t, files, count, arch, &text);
        check(put_manifest(t, repo, tag, cas_buf_str(&text), &info, &err), &err);
        return info;
}

static int open_image(struct teststore *t, const char *name, const char *platform,
                      struct cas_image *out, struct cas_err *err)
{
        struct cas_ref ref;
        struct cas_platform p;
        int r = cas_ref_parse(name, &ref, err);
        if (r == 0 && platform)
                r = cas_platform_parse(platform, &p, err);
        return r == 0 ? cas_image_open(t->store, &ref, platform ? &p : NULL, NULL, out, err) : r;
}

static void puts_are_whole_or_not_at_all(void **state)
{
        struct teststore *t = *state;
        struct cas_manifest_info info;
        bool linked;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        image_text(t, (const char *[]){"a", "b"}, 2, "amd64", &text);
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest wrong = test_digest("something else");
        struct cas_manifest_put_options options = {.repo = "r", .tag = "t", .expected = &wrong};
        assert_int_equal(
                cas_manifest_put(t->store, &options, text.data, text.len_bytes, &info, &err),
                -CAS_E_INVALID);
        /* A push must not reach blobs that its repository does not have. */
        struct cas_err other = CAS_ERR_INIT;
        options = (struct cas_manifest_put_options){.repo = "r", .tag = "t", .linked_only = true};
        assert_int_equal(
                cas_manifest_put(t->store, &options, text.data, text.len_bytes, &info, &other),
                -CAS_E_NOTFOUND);
        assert_non_null(strstr(other.msg, "sha256:"));
        check(cas_repo_exists(t->store, "r", &linked, &err), &err);
        assert_false(linked);
        check(put_manifest(t, "r", "t", cas_buf_str(&text), &info, &err), &err);
        cas_cleanup_manifest struct cas_manifest m = {0};
        check(cas_manifest_parse(text.data, text.len_bytes, NULL, &m, &err), &err);
        check(cas_blob_linked(t->store, "r", &m.children[1].digest, &linked, &err), &err);
        assert_true(linked);
        check(cas_manifest_put(t->store, &options, text.data, text.len_bytes, &info, &err), &err);
}

static void puts_check_what_is_named(void **state)
{
        struct teststore *t = *state;
        struct cas_digest here = put_bytes(t, "{}", 2);
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_digest_text(&here, text);
        static const struct {
                const char *head, *tail;
                enum cas_code code;
        } cases[] = {
                {"{\"schemaVersion\":2,\"config\":{\"mediaType\":\"a/b\",\"size\":2,\"digest\":\"",
                 "\"}}", CAS_OK},
                {"{\"schemaVersion\":2,\"config\":{\"mediaType\":\"a/b\",\"size\":3,\"digest\":\"",
                 "\"}}", CAS_E_INVALID},
                {"{\"schemaVersion\":2,\"config\":{\"mediaType\":\"a/b\",\"size\":2,\"digest\":\"",
                 "\"},\"layers\":[{\"mediaType\":\"a/b\",\"size\":0,\"digest\":\"sha256:"
                 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"}]}",
                 CAS_E_NOTFOUND},
                {"{\"schemaVersion\":2,\"config\":{\"mediaType\":\"a/b\",\"size\":2,\"digest\":\"",
                 "\"},\"layers\":[{\"mediaType\":"
                 "\"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip\",\"size\":0,"
                 "\"digest\":\"sha256:"
                 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"}]}",
                 CAS_OK},
                {"{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"" CAS_MT_OCI_MANIFEST
                 "\",\"size\":2,\"digest\":\"",
                 "\"}]}", CAS_E_NOTFOUND},
                /* A subject may be absent. */
                {"{\"schemaVersion\":2,\"manifests\":[],\"subject\":{\"mediaType\":"
                 "\"" CAS_MT_OCI_MANIFEST "\",\"size\":2,\"digest\":\"",
                 "\"}}", CAS_OK},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_manifest_info info;
                cas_cleanup_free char *json =
                        cas_xasprintf("%s%s%s", cases[i].head, text, cases[i].tail);
                int r = put_manifest(t, "r", NULL, json, &info, &err);
                if (r != -(int)cases[i].code)
                        print_error("case %zu: %d %s\n", i, r, err.msg);
                assert_int_equal(r, -(int)cases[i].code);
        }
}

static bool count_referrer(void *arg, const struct cas_digest *d CAS_UNUSED)
{
        ++*(unsigned *)arg;
        return true;
}

static void deletes_take_tags_and_referrers(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest now, config = put_bytes(t, "{}", 2);
        struct cas_manifest_info image, referrer, stat;
        char digest[CAS_DIGEST_TEXT_BYTES];
        image = put_image(t, "r", "one", (const char *[]){"a"}, 1, "amd64");
        (void)put_image(t, "r", "two", (const char *[]){"a"}, 1, "amd64");
        cas_cleanup_free char *json = cas_xasprintf(
                "{\"schemaVersion\":2,\"artifactType\":\"x/y\",\"config\":{\"mediaType\":\"a/b\","
                "\"size\":2,\"digest\":\"%s\"},\"subject\":{\"mediaType\":\"%s\",\"size\":%llu,"
                "\"digest\":\"",
                cas_digest_text(&config, digest), image.media_type,
                (unsigned long long)image.size_bytes);
        cas_cleanup_free char *whole =
                cas_xasprintf("%s%s\"}}", json, cas_digest_text(&image.digest, digest));
        check(put_manifest(t, "r", NULL, whole, &referrer, &err), &err);
        unsigned referrers = 0;
        check(cas_referrer_each(t->store, "r", &image.digest, count_referrer, &referrers, &err),
              &err);
        assert_int_equal(referrers, 1);
        check(cas_manifest_delete(t->store, "r", NULL, &referrer.digest, NULL, NULL, &err), &err);
        referrers = 0;
        check(cas_referrer_each(t->store, "r", &image.digest, count_referrer, &referrers, &err),
              &err);
        assert_int_equal(referrers, 0);
        check(cas_manifest_delete(t->store, "r", "one", NULL, NULL, NULL, &err), &err);
        assert_int_equal(cas_manifest_delete(t->store, "r", "one", NULL, NULL, NULL, &err),
                         -CAS_E_NOTFOUND);
        check(cas_manifest_stat(t->store, "r", &image.digest, &stat, &err), &err);
        check(cas_manifest_delete(t->store, "r", NULL, &image.digest, NULL, NULL, &err), &err);
        assert_int_equal(cas_tag_get(t->store, "r", "two", &now, &err), -CAS_E_NOTFOUND);
}

static void platforms_are_chosen(void **state)
{
        struct teststore *t = *state;
        static const char *const archs[] = {"amd64", "arm", "arm", "arm64", "unknown"};
        static const char *const variants[] = {"", "v6", "v7", "v8", ""};
        cas_cleanup_buf struct cas_buf index = CAS_BUF_INIT, outer = CAS_BUF_INIT;
        struct cas_digest digests[CAS_COUNT(archs)];
        struct cas_err err = CAS_ERR_INIT;
        struct cas_manifest_info info;
        cas_buf_append_str(&index, "{\"schemaVersion\":2,\"manifests\":[");
        for (size_t i = 0; i < CAS_COUNT(archs); i++) {
                const char *file[] = {variants[i][0] ? variants[i] : archs[i]};
                info = put_image(t, "m", NULL, file, 1, archs[i]);
                digests[i] = info.digest;
                cas_cleanup_free char *platform = cas_xasprintf(
                        ",\"platform\":{\"os\":\"%s\",\"architecture\":\"%s\",\"variant\":\"%s\"}",
                        i == 4 ? "unknown" : "linux", archs[i], variants[i]);
                cas_buf_append_str(&index, i ? "," : "");
                testlayout_descriptor(&index, info.media_type, &info.digest, info.size_bytes,
                                      platform);
        }
        cas_buf_append_str(&index, "]}");
        check(put_manifest(t, "m", "flat", cas_buf_str(&index), &info, &err), &err);
        cas_buf_append_str(&outer, "{\"schemaVersion\":2,\"manifests\":[");
        testlayout_descriptor(&outer, info.media_type, &info.digest, info.size_bytes, "");
        cas_buf_append_str(&outer, "]}");
        check(put_manifest(t, "m", "nested", cas_buf_str(&outer), &info, &err), &err);
        static const struct {
                const char *platform;
                size_t want; /* CAS_COUNT(archs): none */
        } cases[] = {
                {"linux/amd64", 0},   {"linux/arm", 2},     {"linux/arm/v7", 2},
                {"linux/arm/v6", 1},  {"linux/arm64", 3},   {"linux/arm64/v8", 3},
                {"linux/s390x", 5},   {"windows/amd64", 5}, {"linux/arm/v5", 5},
                {"linux/unknown", 5},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                for (size_t nested = 0; nested < 2; nested++) {
                        struct cas_err miss = CAS_ERR_INIT;
                        cas_cleanup_image struct cas_image image = {0};
                        int r = open_image(t, nested ? "m:nested" : "m:flat", cases[i].platform,
                                           &image, &miss);
                        if (cases[i].want == CAS_COUNT(archs)) {
                                assert_int_equal(r, -CAS_E_NOTFOUND);
                                assert_non_null(strstr(miss.msg, "linux/arm64/v8"));
                                continue;
                        }
                        check(r, &miss);
                        assert_true(
                                cas_digest_equal(&image.manifest_digest, &digests[cases[i].want]));
                        assert_int_equal(image.layers[0].entry_count, 1);
                }
        }
}

static void an_index_of_one_image_needs_no_platform(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf index = CAS_BUF_INIT;
        cas_cleanup_image struct cas_image image = {0};
        struct cas_manifest_info info = put_image(t, "m", NULL, (const char *[]){"a"}, 1, "");
        cas_buf_append_str(&index, "{\"schemaVersion\":2,\"manifests\":[");
        testlayout_descriptor(&index, info.media_type, &info.digest, info.size_bytes, "");
        cas_buf_append_str(&index, "]}");
        check(put_manifest(t, "m", "i", cas_buf_str(&index), NULL, &err), &err);
        check(open_image(t, "m:i", NULL, &image, &err), &err);
        assert_true(cas_digest_equal(&image.manifest_digest, &info.digest));
}

static void layers_must_be_what_the_config_says(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT, gzip = CAS_BUF_INIT,
                                       manifest = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        struct cas_digest diff_id;
        image_text(t, (const char *[]){"right"}, 1, "amd64", &text);
        check(cas_manifest_parse(text.data, text.len_bytes, NULL, &m, &err), &err);
        testlayout_layer("wrong", &gzip, &diff_id);
        struct cas_digest d = put_bytes(t, gzip.data, gzip.len_bytes);
        cas_buf_append_str(&manifest, "{\"schemaVersion\":2,\"config\":");
        testlayout_descriptor(&manifest, CAS_MT_OCI_CONFIG, &m.config.digest, m.config.size_bytes,
                              "");
        cas_buf_append_str(&manifest, ",\"layers\":[");
        testlayout_descriptor(&manifest, CAS_MT_OCI_LAYER_GZIP, &d, gzip.len_bytes, "");
        cas_buf_append_str(&manifest, "]}");
        check(put_manifest(t, "r", "t", cas_buf_str(&manifest), NULL, &err), &err);
        cas_cleanup_image struct cas_image image = {0};
        assert_int_equal(open_image(t, "r:t", NULL, &image, &err), -CAS_E_CORRUPT);
}

static size_t tree_count(struct teststore *t, const char *name)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_image struct cas_image image = {0};
        struct cas_tree_ref trees[CAS_IMAGE_TREES_MAX];
        size_t count = 0;
        check(open_image(t, name, NULL, &image, &err), &err);
        check(cas_image_trees(t->store, &image, trees, &count, &err), &err);
        return count;
}

static void drop_image(struct teststore *t, const char *repo, const char *tag)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest manifest;
        check(cas_tag_get(t->store, repo, tag, &manifest, &err), &err);
        check(cas_manifest_delete(t->store, repo, NULL, &manifest, NULL, NULL, &err), &err);
}

static void chains_are_cut_where_others_stand(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        (void)put_image(t, "app", "1", (const char *[]){"base", "one"}, 2, "amd64");
        assert_int_equal(tree_count(t, "app:1"), 1);
        /* The same chain under another name is no other image. */
        (void)put_image(t, "copy", "1", (const char *[]){"base", "one"}, 2, "");
        assert_int_equal(tree_count(t, "copy:1"), 1);
        (void)put_image(t, "app", "2", (const char *[]){"base", "two"}, 2, "amd64");
        assert_int_equal(tree_count(t, "app:2"), 2);
        assert_int_equal(tree_count(t, "app:1"), 1); /* trees stay: uppers belong to them */
        (void)put_image(t, "other", "1", (const char *[]){"two", "base"}, 2, "amd64");
        assert_int_equal(tree_count(t, "other:1"), 1);
        teststore_reopen(t);
        assert_int_equal(tree_count(t, "app:1"), 1);
        assert_int_equal(tree_count(t, "app:2"), 2);
        /* An image stands alone when the others are collected. */
        drop_image(t, "app", "1");
        drop_image(t, "app", "2");
        drop_image(t, "copy", "1");
        struct cas_gc_options options = {.live_percent_min = 50};
        struct cas_gc_result result;
        check(cas_gc(t->store, &options, NULL, &result, &err), &err);
        (void)put_image(t, "app", "3", (const char *[]){"base", "three"}, 2, "amd64");
        assert_int_equal(tree_count(t, "app:3"), 1);
}

int main(void)
{
#define with_store(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)
        const struct CMUnitTest tests[] = {
                with_store(puts_are_whole_or_not_at_all),
                with_store(puts_check_what_is_named),
                with_store(deletes_take_tags_and_referrers),
                with_store(platforms_are_chosen),
                with_store(an_index_of_one_image_needs_no_platform),
                with_store(layers_must_be_what_the_config_says),
                with_store(chains_are_cut_where_others_stand),
        };
        return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
