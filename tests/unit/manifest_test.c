/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/image.h"

#define D "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define D512                                                                                       \
        "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"                  \
        "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
#define CONFIG "{\"mediaType\":\"" CAS_MT_OCI_CONFIG "\",\"digest\":\"" D "\",\"size\":2}"
#define LAYER "{\"mediaType\":\"" CAS_MT_OCI_LAYER_GZIP "\",\"digest\":\"" D512 "\",\"size\":7}"
#define TYPE(t) "\"mediaType\":\"" t "\","
#define IMAGE(more) "{\"schemaVersion\":2," more "\"config\":" CONFIG ",\"layers\":[" LAYER "]}"

static int parse(const char *text, const char *type, struct cas_manifest *m, struct cas_err *err)
{
        return cas_manifest_parse(text, strlen(text), type, m, err);
}

static void takes_what_is_valid(void **state CAS_UNUSED)
{
        static const struct {
                const char *text, *type, *want;
                enum cas_manifest_kind kind;
                size_t children;
        } cases[] = {
                {IMAGE(""), NULL, CAS_MT_OCI_MANIFEST, CAS_MANIFEST_IMAGE, 1},
                {IMAGE(""), CAS_MT_OCI_MANIFEST "; charset=utf-8", CAS_MT_OCI_MANIFEST,
                 CAS_MANIFEST_IMAGE, 1},
                {IMAGE(TYPE(CAS_MT_DOCKER_MANIFEST)), NULL, CAS_MT_DOCKER_MANIFEST,
                 CAS_MANIFEST_IMAGE, 1},
                {IMAGE(TYPE(CAS_MT_DOCKER_MANIFEST)), "", CAS_MT_DOCKER_MANIFEST,
                 CAS_MANIFEST_IMAGE, 1},
                {IMAGE("\"unknown\":[{}],"), CAS_MT_DOCKER_MANIFEST, CAS_MT_DOCKER_MANIFEST,
                 CAS_MANIFEST_IMAGE, 1},
                {"{\"schemaVersion\":2,\"artifactType\":\"a/b\",\"config\":" CONFIG
                 ",\"layers\":null}",
                 NULL, CAS_MT_OCI_MANIFEST, CAS_MANIFEST_IMAGE, 0},
                {"{\"schemaVersion\":2,\"manifests\":[]}", NULL, CAS_MT_OCI_INDEX,
                 CAS_MANIFEST_INDEX, 0},
                {"{\"schemaVersion\":2,\"manifests\":[" CONFIG "," LAYER "]}", CAS_MT_DOCKER_LIST,
                 CAS_MT_DOCKER_LIST, CAS_MANIFEST_INDEX, 2},
                {"{\"schemaVersion\":2,\"config\":{\"mediaType\":\"" CAS_MT_DOCKER_CONFIG
                 "\",\"digest\":\"" D "\",\"size\":2}}",
                 NULL, CAS_MT_DOCKER_MANIFEST, CAS_MANIFEST_IMAGE, 0},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_manifest struct cas_manifest m = {0};
                assert_int_equal(parse(cases[i].text, cases[i].type, &m, &err), 0);
                assert_string_equal(m.media_type, cases[i].want);
                assert_int_equal(m.kind, cases[i].kind);
                assert_int_equal(m.child_count, cases[i].children);
        }
}

static void reads_every_field(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        assert_int_equal(
                parse(IMAGE("\"artifactType\":\"x/y\",\"subject\":" LAYER ","), NULL, &m, &err), 0);
        char text[CAS_DIGEST_TEXT_BYTES];
        assert_string_equal(cas_digest_text(&m.config.digest, text), D);
        assert_string_equal(cas_digest_text(&m.children[0].digest, text), D512);
        assert_int_equal(m.children[0].size_bytes, 7);
        assert_false(m.children[0].foreign);
        assert_false(m.children[0].has_platform);
        assert_string_equal(m.artifact_type, "x/y");
        assert_true(m.has_subject);
        assert_string_equal(cas_digest_text(&m.subject.digest, text), D512);
}

static void reads_platforms_and_foreign_layers(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        assert_int_equal(
                parse("{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"" CAS_MT_OCI_MANIFEST
                      "\",\"digest\":\"" D "\",\"size\":1,\"platform\":{\"os\":\"linux\","
                      "\"architecture\":\"arm\",\"variant\":\"v7\",\"os.version\":\"1\"}},"
                      "{\"mediaType\":\"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
                      "\",\"digest\":\"" D "\",\"size\":1,\"urls\":[\"https://example.com/l\"]}]}",
                      NULL, &m, &err),
                0);
        assert_true(m.children[0].has_platform);
        assert_string_equal(m.children[0].platform.variant, "v7");
        assert_false(m.children[0].foreign);
        assert_true(m.children[1].foreign);
}

static void refuses_what_is_not(void **state CAS_UNUSED)
{
        static const struct {
                const char *text, *type;
                enum cas_code code;
        } cases[] = {
                {"", NULL, CAS_E_INVALID},
                {"[]", NULL, CAS_E_INVALID},
                {"7", NULL, CAS_E_INVALID},
                {"{", NULL, CAS_E_INVALID},
                {"{}", NULL, CAS_E_INVALID},
                {"{\"schemaVersion\":2}", NULL, CAS_E_INVALID},
                {"{\"schemaVersion\":3,\"manifests\":[]}", NULL, CAS_E_INVALID},
                {"{\"schemaVersion\":\"2\",\"manifests\":[]}", NULL, CAS_E_INVALID},
                {"{\"schemaVersion\":1,\"name\":\"a\",\"fsLayers\":[]}", NULL, CAS_E_INVALID},
                {IMAGE(""), CAS_MT_DOCKER_SCHEMA1 "prettyjws", CAS_E_INVALID},
                {IMAGE(""), "application/json", CAS_E_INVALID},
                {IMAGE(""), CAS_MT_OCI_INDEX, CAS_E_INVALID},
                {IMAGE(TYPE(CAS_MT_DOCKER_MANIFEST)), CAS_MT_OCI_MANIFEST, CAS_E_INVALID},
                {IMAGE(TYPE(CAS_MT_OCI_INDEX)), NULL, CAS_E_INVALID},
                {IMAGE("\"manifests\":[],"), NULL, CAS_E_INVALID},
                {IMAGE("\"manifests\":[],"), CAS_MT_OCI_MANIFEST, CAS_E_INVALID},
                {IMAGE("\"schemaVersion\":2,"), NULL, CAS_E_INVALID},
                {IMAGE("\"subject\":{},"), NULL, CAS_E_INVALID},
                {"{\"schemaVersion\":2,\"manifests\":[],\"layers\":[]}", NULL, CAS_E_INVALID},
                {"{\"schemaVersion\":2,\"manifests\":{}}", NULL, CAS_E_INVALID},
                {"{\"schemaVersion\":2,\"manifests\":[1]}", NULL, CAS_E_INVALID},
                {"{\"schemaVersion\":2,\"layers\":[" LAYER "]}", CAS_MT_OCI_MANIFEST,
                 CAS_E_INVALID},
                {"{\"schemaVersion\":2,\"config\":{\"mediaType\":\"a/b\",\"digest\":\"" D
                 "\",\"size\":-1}}",
                 NULL, CAS_E_INVALID},
                {"{\"schemaVersion\":2,\"config\":{\"mediaType\":\"a/b\",\"digest\":\"" D "\"}}",
                 NULL, CAS_E_INVALID},
                {"{\"schemaVersion\":2,\"config\":{\"digest\":\"" D "\",\"size\":1}}", NULL,
                 CAS_E_INVALID},
                {"{\"schemaVersion\":2,\"config\":{\"mediaType\":\"a/b\",\"digest\":"
                 "\"sha256:../../../../etc/passwd\",\"size\":1}}",
                 NULL, CAS_E_INVALID},
                {"{\"schemaVersion\":2,\"config\":{\"mediaType\":\"a/b\",\"digest\":"
                 "\"md5:d41d8cd98f00b204e9800998ecf8427e\",\"size\":1}}",
                 NULL, CAS_E_UNSUPPORTED},
                {"{\"schemaVersion\":2,\"config\":{\"mediaType\":\"a/b\",\"digest\":\"" D
                 "\",\"size\":99999999999999999999}}",
                 NULL, CAS_E_INVALID},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_manifest m = {0};
                int r = parse(cases[i].text, cases[i].type, &m, &err);
                if (r != -(int)cases[i].code)
                        print_error("case %zu: %d, %s\n", i, r, err.msg);
                assert_int_equal(r, -(int)cases[i].code);
                assert_null(m.children);
        }
}

/* A document of `count` times `piece` between head and tail. */
static void repeat(struct cas_buf *b, const char *head, const char *piece, size_t count,
                   const char *tail)
{
        cas_buf_append_str(b, head);
        for (size_t i = 0; i < count; i++)
                cas_buf_append_str(b, piece);
        cas_buf_append_str(b, tail);
}

static void bounds_what_it_reads(void **state CAS_UNUSED)
{
        static const struct {
                const char *head, *piece, *tail;
                size_t count;
        } cases[] = {
                {"", "[", "", 100000},
                {"{\"a\":", "{\"a\":", "1}", 65},
                {"{\"a\":[", "0,", "0]}", CAS_JSON_VALUES_MAX + 1},
                {"{\"schemaVersion\":2,\"manifests\":[", CONFIG ",", CONFIG "]}",
                 CAS_INDEX_CHILDREN_MAX},
                {"{\"schemaVersion\":2}", " ", "", CAS_MANIFEST_BYTES_MAX},
                {"{\"schemaVersion\":2,\"manifests\":[],\"mediaType\":\"", "x", "\"}", 256},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_manifest m = {0};
                cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
                repeat(&b, cases[i].head, cases[i].piece, cases[i].count, cases[i].tail);
                int r = cas_manifest_parse(b.data, b.len_bytes, NULL, &m, &err);
                if (r != -CAS_E_LIMIT)
                        print_error("case %zu: %d, %s\n", i, r, err.msg);
                assert_int_equal(r, -CAS_E_LIMIT);
        }
}

/* Brackets in strings are no nesting. */
static void depth_counts_outside_of_strings(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        repeat(&b, "{\"schemaVersion\":2,\"x\":\"\\\"", "[{", 1000, "\",\"manifests\":[]}");
        assert_int_equal(cas_manifest_parse(b.data, b.len_bytes, NULL, &m, &err), 0);
}

static void platforms_fit(void **state CAS_UNUSED)
{
        static const struct {
                const char *want, *better, *worse; /* worse NULL: better does not fit either */
        } cases[] = {
                {"linux/amd64", "linux/amd64", "linux/amd64/v1"},
                {"linux/x86_64", "linux/amd64", "linux/amd64/v1"},
                {"linux/arm64", "linux/arm64", "linux/aarch64/v8"},
                {"linux/arm64/v8", "linux/arm64/v8", "linux/arm64"},
                {"linux/arm/v7", "linux/arm/v7", "linux/arm/v6"},
                {"linux/arm/v7", "linux/arm/v6", "linux/arm/v5"},
                {"linux/arm", "linux/arm/v7", "linux/arm/v6"},
                {"linux/arm/v6", "linux/arm/v7", NULL},
                {"linux/amd64", "linux/amd64/v3", NULL},
                {"linux/amd64", "windows/amd64", NULL},
                {"linux/amd64", "linux/arm64", NULL},
                {"linux/amd64", "linux/amd64/odd", NULL},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_platform want, better, worse;
                assert_int_equal(cas_platform_parse(cases[i].want, &want, &err), 0);
                assert_int_equal(cas_platform_parse(cases[i].better, &better, &err), 0);
                if (!cases[i].worse) {
                        assert_int_equal(cas_platform_fit(&want, &better), 0);
                        continue;
                }
                assert_int_equal(cas_platform_parse(cases[i].worse, &worse, &err), 0);
                assert_true(cas_platform_fit(&want, &better) > cas_platform_fit(&want, &worse));
                assert_true(cas_platform_fit(&want, &worse) > 0);
        }
}

static void platforms_are_checked(void **state CAS_UNUSED)
{
        static const char *const bad[] = {"",
                                          "linux",
                                          "linux/",
                                          "/amd64",
                                          "a/b/c/d",
                                          "linux/am d",
                                          "linux/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
        struct cas_platform p;
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct cas_err err = CAS_ERR_INIT;
                assert_int_equal(cas_platform_parse(bad[i], &p, &err), -CAS_E_INVALID);
        }
        struct cas_err err = CAS_ERR_INIT;
        char text[CAS_PLATFORM_TEXT_BYTES];
        assert_int_equal(cas_platform_parse("Linux/ARM64/v8", &p, &err), 0);
        assert_string_equal(cas_platform_text(&p, text), "linux/arm64/v8");
        cas_platform_host(&p);
        assert_string_equal(p.os, "linux");
        assert_true(p.arch[0] != 0);
}

static void config_is_read(void **state CAS_UNUSED)
{
        static const char text[] =
                "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"User\":\"1:2\","
                "\"Env\":[\"A=b\",\"C=\"],\"Entrypoint\":null,\"Cmd\":[\"sh\"],\"Labels\":{}},"
                "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" D "\"]}}";
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_image_config struct cas_image_config c = {0};
        assert_int_equal(cas_image_config_parse(text, sizeof(text) - 1, &c, &err), 0);
        assert_string_equal(c.platform.arch, "amd64");
        assert_string_equal(c.user, "1:2");
        assert_string_equal(c.working_dir, "");
        assert_string_equal(c.env[1], "C=");
        assert_null(c.env[2]);
        assert_null(c.entrypoint[0]);
        assert_string_equal(c.cmd[0], "sh");
        assert_int_equal(c.diff_id_count, 1);
}

static void bad_config_is_refused(void **state CAS_UNUSED)
{
        static const char *const bad[] = {
                "",
                "[]",
                "{}",
                "{\"rootfs\":[]}",
                "{\"rootfs\":{\"diff_ids\":[1]}}",
                "{\"rootfs\":{\"diff_ids\":[\"x\"]}}",
                "{\"rootfs\":{},\"rootfs\":{}}",
                "{\"rootfs\":{},\"config\":{\"Env\":\"A=b\"}}",
                "{\"rootfs\":{},\"config\":{\"Cmd\":[null]}}",
                "{\"rootfs\":{},\"config\":{\"User\":\"a\\u0000b\"}}",
        };
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_image_config c = {0};
                assert_int_equal(cas_image_config_parse(bad[i], strlen(bad[i]), &c, &err),
                                 -CAS_E_INVALID);
        }
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        repeat(&b, "{\"rootfs\":{\"diff_ids\":[", "\"" D "\",", CAS_LAYERS_MAX, "\"" D "\"]}}");
        struct cas_err err = CAS_ERR_INIT;
        struct cas_image_config c = {0};
        assert_int_equal(cas_image_config_parse(b.data, b.len_bytes, &c, &err), -CAS_E_LIMIT);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(takes_what_is_valid),
                cmocka_unit_test(reads_every_field),
                cmocka_unit_test(reads_platforms_and_foreign_layers),
                cmocka_unit_test(refuses_what_is_not),
                cmocka_unit_test(bounds_what_it_reads),
                cmocka_unit_test(depth_counts_outside_of_strings),
                cmocka_unit_test(platforms_fit),
                cmocka_unit_test(platforms_are_checked),
                cmocka_unit_test(config_is_read),
                cmocka_unit_test(bad_config_is_refused),
        };
        return cmocka_run_group_tests_name("manifest", tests, NULL, NULL);
}
