/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/buf.h"
#include "registry/http_uri.h"
#include "registry/route.h"

#define D "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static void splits_from_the_right(void **state CAS_UNUSED)
{
        static const struct {
                const char *path;
                enum reg_noun noun;
                const char *repo;
                const char *last;
        } cases[] = {
                {"/v2", REG_NOUN_PING, "", ""},
                {"/v2/", REG_NOUN_PING, "", ""},
                {"/v2/_catalog?n=5", REG_NOUN_CATALOG, "", ""},
                {"/v2/a/blobs/" D, REG_NOUN_BLOB, "a", D},
                {"/v2/a/b/c/blobs/sha256%3Aab", REG_NOUN_BLOB, "a/b/c", "sha256:ab"},
                {"/v2/a/blobs/uploads/", REG_NOUN_UPLOADS, "a", ""},
                {"/v2/a/blobs/uploads", REG_NOUN_UPLOADS, "a", "uploads"},
                {"/v2/a/blobs/uploads/id", REG_NOUN_UPLOAD, "a", "id"},
                {"/v2/a/blobs/uploads/blobs/" D, REG_NOUN_BLOB, "a/blobs/uploads", D},
                {"/v2/a/blobs/uploads/blobs/uploads/", REG_NOUN_UPLOADS, "a/blobs/uploads", ""},
                {"/v2/a/blobs/uploads/manifests/t", REG_NOUN_MANIFEST, "a/blobs/uploads", "t"},
                {"/v2/manifests/manifests/manifests", REG_NOUN_MANIFEST, "manifests", "manifests"},
                {"/v2/tags/list/tags/list", REG_NOUN_TAGS, "tags/list", "list"},
                {"/v2/a/manifests/v1.0", REG_NOUN_MANIFEST, "a", "v1.0"},
                {"/v2/a/tags/list", REG_NOUN_TAGS, "a", "list"},
                {"/v2/a/referrers/" D, REG_NOUN_REFERRERS, "a", D},
                {"/v2/_oci/ext/discover", REG_NOUN_EXTENSIONS, "", ""},
                {"/v2/a/b/_oci/ext/discover", REG_NOUN_EXTENSIONS, "a/b", ""},
                {"/v2/a/b/_lamina/layers/" D "/manifests/t", REG_NOUN_LAMINA, "a/b", ""},
                {"/v2/a/_lamina/x", REG_NOUN_LAMINA, "a", ""},
                {"/v2/a/manifests/_lamina", REG_NOUN_MANIFEST, "a", "_lamina"},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                reg_cleanup_uri struct reg_uri uri = {0};
                struct reg_route route;
                assert_int_equal(reg_uri_parse(cases[i].path, &uri, &err), 0);
                if (reg_route_parse(&uri, &route, &err) < 0)
                        fail_msg("%s: %s", cases[i].path, err.msg);
                assert_int_equal(route.noun, cases[i].noun);
                assert_string_equal(route.repo, cases[i].repo);
                assert_string_equal(route.last, cases[i].last);
        }
}

static void refuses_other_paths(void **state CAS_UNUSED)
{
        static const struct {
                const char *path;
                enum cas_code code;
        } cases[] = {
                {"/", CAS_E_NOTFOUND},
                {"/v1/a/tags/list", CAS_E_NOTFOUND},
                {"/v2/x", CAS_E_NOTFOUND},
                {"/v2/a/tags", CAS_E_NOTFOUND},
                {"/v2/a/tags/other", CAS_E_NOTFOUND},
                {"/v2/a/_catalog", CAS_E_NOTFOUND},
                {"/v2/blobs/" D, CAS_E_INVALID},
                {"/v2/blobs/uploads/", CAS_E_INVALID},
                {"/v2//blobs/" D, CAS_E_INVALID},
                {"/v2/A/blobs/" D, CAS_E_INVALID},
                {"/v2/../a/blobs/" D, CAS_E_INVALID},
                {"/v2/a%20b/blobs/" D, CAS_E_INVALID},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                reg_cleanup_uri struct reg_uri uri = {0};
                struct reg_route route;
                assert_int_equal(reg_uri_parse(cases[i].path, &uri, &err), 0);
                if (reg_route_parse(&uri, &route, &err) != -(int)cases[i].code)
                        fail_msg("%s: %s", cases[i].path, err.msg);
        }
}

/* A name of 255 bytes is allowed, in one part or in many; one more is not. */
static void bounds_names(void **state CAS_UNUSED)
{
        for (size_t len = 255; len <= 256; len++) {
                for (unsigned parts = 0; parts < 2; parts++) {
                        cas_cleanup_buf struct cas_buf path = CAS_BUF_INIT;
                        cas_buf_append_str(&path, "/v2/");
                        for (size_t i = 0; i < len; i++)
                                cas_buf_append_byte(&path, parts && i % 2 == 1 && i + 1 < len
                                                                   ? (uint8_t)'/'
                                                                   : (uint8_t)'a');
                        cas_buf_append_str(&path, "/tags/list");
                        struct cas_err err = CAS_ERR_INIT;
                        reg_cleanup_uri struct reg_uri uri = {0};
                        struct reg_route route;
                        assert_int_equal(reg_uri_parse(cas_buf_str(&path), &uri, &err), 0);
                        assert_int_equal(reg_route_parse(&uri, &route, &err),
                                         len == 255 ? 0 : -CAS_E_INVALID);
                        if (len == 255)
                                assert_int_equal(strlen(route.repo), 255);
                }
        }
}

static void reads_queries(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_uri struct reg_uri uri = {0};
        assert_int_equal(reg_uri_parse("/a/%62/?x=1&y=a%2Fb+c&&z&=v&x=2&w=p=q", &uri, &err), 0);
        assert_int_equal(uri.segment_count, 3);
        assert_string_equal(uri.segments[1], "b");
        assert_string_equal(uri.segments[2], "");
        assert_string_equal(reg_uri_param(&uri, "x"), "1");
        assert_string_equal(reg_uri_param(&uri, "y"), "a/b c");
        assert_string_equal(reg_uri_param(&uri, "z"), "");
        assert_string_equal(reg_uri_param(&uri, "w"), "p=q");
        assert_null(reg_uri_param(&uri, "v"));
        assert_int_equal(uri.param_count, 5);
        assert_string_equal(uri.raw, "/a/%62/?x=1&y=a%2Fb+c&&z&=v&x=2&w=p=q");
        assert_string_equal(uri.query, "x=1&y=a%2Fb+c&&z&=v&x=2&w=p=q");
}

static void refuses_bad_targets(void **state CAS_UNUSED)
{
        static const char *const bad[] = {"",      "a",       "*",       "http://h/", "/%",
                                          "/%4",   "/%zz",    "/%00",    "/a%2Fb",    "/a b",
                                          "/\x7f", "/?x=%00", "/?%0g=1", "/a\tb"};
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct reg_uri uri;
                if (reg_uri_parse(bad[i], &uri, &err) != -CAS_E_INVALID)
                        fail_msg("%s", bad[i]);
                assert_null(uri.text);
        }
        static const struct {
                char piece;
                char between;
                size_t count;
        } large[] = {{'a', 'a', REG_URI_BYTES_MAX}, {'a', '/', 400}, {'x', '&', 400}};
        for (size_t i = 0; i < CAS_COUNT(large); i++) {
                cas_cleanup_buf struct cas_buf target = CAS_BUF_INIT;
                cas_buf_append_str(&target, large[i].between == '&' ? "/?" : "/");
                for (size_t k = 0; k < large[i].count; k++)
                        cas_buf_append_byte(&target,
                                            (uint8_t)(k % 2 ? large[i].between : large[i].piece));
                struct cas_err err = CAS_ERR_INIT;
                struct reg_uri uri;
                assert_int_equal(reg_uri_parse(cas_buf_str(&target), &uri, &err), -CAS_E_LIMIT);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(splits_from_the_right), cmocka_unit_test(refuses_other_paths),
                cmocka_unit_test(bounds_names),          cmocka_unit_test(reads_queries),
                cmocka_unit_test(refuses_bad_targets),
        };
        return cmocka_run_group_tests_name("route", tests, NULL, NULL);
}
