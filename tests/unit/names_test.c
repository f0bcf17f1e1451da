/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/lease.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)

static bool list_tag(void *arg, const char *tag, const struct cas_digest *d CAS_UNUSED)
{
        cas_buf_printf(arg, "%s ", tag);
        return true;
}

static bool list_repo(void *arg, const char *repo)
{
        cas_buf_printf(arg, "%s ", repo);
        return true;
}

static bool list_digest(void *arg, const struct cas_digest *d)
{
        char hex[CAS_DIGEST_TEXT_BYTES];
        cas_buf_printf(arg, "%.8s ", cas_digest_hex(d, hex));
        return true;
}

static void lists_repositories_in_order(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        (void)test_put_manifest(t->store, "foo", "a", "1");
        (void)test_put_manifest(t->store, "foo-bar", NULL, "2");
        (void)test_put_blob(t->store, "foo/bar", "3");
        (void)test_put_blob(t->store, "foo.bar", "4");
        (void)test_put_blob(t->store, "foo", "5");
        (void)test_put_blob(t->store, "b", "6");
        static const struct {
                const char *last, *expected;
        } cases[] = {
                {NULL, "b foo foo-bar foo.bar foo/bar "},
                {"", "b foo foo-bar foo.bar foo/bar "},
                {"a", "b foo foo-bar foo.bar foo/bar "},
                {"b", "foo foo-bar foo.bar foo/bar "},
                {"foo", "foo-bar foo.bar foo/bar "},
                {"foo-c", "foo.bar foo/bar "},
                {"foo/bar", ""},
                {"z", ""},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                ok(cas_repo_each(t->store, cases[i].last, list_repo, &out, &err));
                assert_string_equal(cas_buf_str(&out), cases[i].expected);
        }
        bool exists;
        ok(cas_repo_exists(t->store, "foo.bar", &exists, &err));
        assert_true(exists);
        ok(cas_repo_exists(t->store, "fo", &exists, &err));
        assert_false(exists);
}

static void lists_tags_in_order(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        static const char *const tags[] = {"v2", "v10", "V1", "a", "v1"};
        for (size_t i = 0; i < CAS_COUNT(tags); i++)
                (void)test_put_manifest(t->store, "r", tags[i], "same");
        (void)test_put_manifest(t->store, "r-2", "other", "same");
        static const struct {
                const char *last, *expected;
        } cases[] = {
                {NULL, "V1 a v1 v10 v2 "},
                {"v1", "v10 v2 "},
                {"v0", "v1 v10 v2 "},
                {"v2", ""},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                ok(cas_tag_each(t->store, "r", cases[i].last, list_tag, &out, &err));
                assert_string_equal(cas_buf_str(&out), cases[i].expected);
        }
}

static void a_tag_moves(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest first = test_put_manifest(t->store, "r", "t", "first"), got;
        struct cas_digest second = test_put_manifest(t->store, "r", "t", "second");
        teststore_reopen(t);
        ok(cas_tag_get(t->store, "r", "t", &got, &err));
        assert_true(cas_digest_equal(&got, &second));
        struct cas_manifest_info info;
        struct cas_ref ref;
        ok(cas_ref_parse("r:t", &ref, &err));
        ok(cas_ref_resolve(t->store, &ref, &info, &err));
        assert_true(cas_digest_equal(&info.digest, &second));
        assert_string_equal(info.media_type, "application/test");
        assert_int_equal(info.size_bytes, 6);
        ref.digest = first; /* the digest wins over the tag */
        ok(cas_ref_resolve(t->store, &ref, &info, &err));
        assert_true(cas_digest_equal(&info.digest, &first));
}

static void says_what_is_missing(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest d;
        (void)test_put_manifest(t->store, "r", "t", "x");
        assert_int_equal(cas_tag_get(t->store, "q", "t", &d, &err), -CAS_E_NOTFOUND);
        assert_string_equal(err.msg, "no repository q");
        assert_int_equal(cas_tag_get(t->store, "r", "u", &d, &err), -CAS_E_NOTFOUND);
        assert_string_equal(err.msg, "repository r: no tag u");
        assert_int_equal(cas_tag_get(t->store, "r", "", &d, &err), -CAS_E_INVALID);
        struct cas_manifest_info info;
        d = test_digest("nothing");
        assert_int_equal(cas_manifest_stat(t->store, "r", &d, &info, &err), -CAS_E_NOTFOUND);
        assert_int_equal(cas_manifest_stat(t->store, "q", &d, &info, &err), -CAS_E_NOTFOUND);
}

static int commit_tag(struct teststore *t, const char *repo, const char *tag,
                      const struct cas_digest *d, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->store, &p, err));
        ok(cas_publish_tag(p, repo, tag, d, err));
        return cas_publish_commit(p, err);
}

static void a_tag_needs_its_manifest(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest d = test_put_blob(t->store, "r", "only a blob"), got;
        assert_int_equal(commit_tag(t, "r", "t", &d, &err), -CAS_E_NOTFOUND);
        assert_int_equal(cas_tag_get(t->store, "r", "t", &got, &err), -CAS_E_NOTFOUND);
        d = test_put_manifest(t->store, "r", NULL, "manifest");
        assert_int_equal(commit_tag(t, "other", "t", &d, &err), -CAS_E_NOTFOUND);
        ok(commit_tag(t, "r", "t", &d, &err));
        ok(cas_tag_get(t->store, "r", "t", &got, &err));
        /* Linked and unlinked at once. */
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_tag(p, "r", "u", &d, &err));
        ok(cas_publish_manifest_unlink(p, "r", &d, &err));
        assert_int_equal(cas_publish_commit(p, &err), -CAS_E_NOTFOUND);
}

static void unlinking_takes_tags_and_referrers_along(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest subject = test_put_manifest(t->store, "r", "base", "subject");
        struct cas_digest m = test_put_manifest(t->store, "r", "one", "signature");
        (void)test_put_manifest(t->store, "r", "two", "signature");
        (void)test_put_manifest(t->store, "q", "one", "signature");
        struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_referrer(p, "r", &subject, &m, &err));
        ok(cas_publish_commit(p, &err));
        cas_publish_free(p);
        cas_cleanup_buf struct cas_buf before = CAS_BUF_INIT, after = CAS_BUF_INIT;
        ok(cas_referrer_each(t->store, "r", &subject, list_digest, &before, &err));
        assert_int_equal(before.len_bytes, 9);
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_manifest_unlink(p, "r", &m, &err));
        ok(cas_publish_commit(p, &err));
        cas_publish_free(p);
        teststore_reopen(t);
        ok(cas_referrer_each(t->store, "r", &subject, list_digest, &after, &err));
        ok(cas_tag_each(t->store, "r", NULL, list_tag, &after, &err));
        ok(cas_tag_each(t->store, "q", NULL, list_tag, &after, &err));
        assert_string_equal(cas_buf_str(&after), "base one ");
}

static void a_tag_moved_in_the_same_publication_stays(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest old = test_put_manifest(t->store, "r", "t", "old");
        struct cas_digest new = test_put_manifest(t->store, "r", NULL, "new"), got;
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_tag(p, "r", "t", &new, &err));
        ok(cas_publish_manifest_unlink(p, "r", &old, &err));
        ok(cas_publish_commit(p, &err));
        ok(cas_tag_get(t->store, "r", "t", &got, &err));
        assert_true(cas_digest_equal(&got, &new));
}

static void parses_references(void **state CAS_UNUSED)
{
#define HEX "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        static const struct {
                const char *text, *repo, *tag;
                bool digest;
        } good[] = {
                {"a", "a", "latest", false},
                {"a:b", "a", "b", false},
                {"lib/a-b_c__d.e--f/9:V1.0_-x", "lib/a-b_c__d.e--f/9", "V1.0_-x", false},
                {"a@sha256:" HEX, "a", "", true},
                {"a:t@sha256:" HEX, "a", "t", true},
        };
        for (size_t i = 0; i < CAS_COUNT(good); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_ref ref;
                ok(cas_ref_parse(good[i].text, &ref, &err));
                assert_string_equal(ref.repo, good[i].repo);
                assert_string_equal(ref.tag, good[i].tag);
                assert_int_equal(ref.digest.alg != CAS_DIGEST_NONE, good[i].digest);
        }
        static const char *const bad[] = {
                "",
                ":t",
                "A",
                "a/",
                "/a",
                "a//b",
                "a..b",
                "a___b",
                "a-",
                "-a",
                "a:",
                "a:-t",
                "a:.t",
                "a: t",
                "a b",
                "a@",
                "a@sha256:12",
                "a:t:u",
                "a@sha256:" HEX "@sha256:" HEX,
                "host:5000/a",
                "a:\xc3\xa4",
        };
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_ref ref;
                assert_int_equal(cas_ref_parse(bad[i], &ref, &err), -CAS_E_INVALID);
        }
        char longest[300];
        memset(longest, 'a', sizeof(longest));
        longest[255] = '\0';
        assert_true(cas_repo_name_valid(longest));
        longest[255] = 'a';
        longest[256] = '\0';
        assert_false(cas_repo_name_valid(longest));
        longest[128] = '\0';
        assert_true(cas_tag_valid(longest));
        longest[128] = 'a';
        longest[129] = '\0';
        assert_false(cas_tag_valid(longest));
}

static bool list_lease(void *arg, const struct cas_lease *lease)
{
        cas_buf_printf(arg, "%s %llu %s;", lease->id, (unsigned long long)lease->expires_unix_s,
                       lease->owner);
        return true;
}

static void leases_last(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_lease lease = {.id = "mount:2", .root = test_digest("m"), .owner = "pid 7"};
        ok(cas_lease_put(t->store, &lease, &err));
        (void)snprintf(lease.id, sizeof(lease.id), "mount:1");
        lease.expires_unix_s = 99;
        ok(cas_lease_put(t->store, &lease, &err));
        teststore_reopen(t);
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        ok(cas_lease_each(t->store, list_lease, &out, &err));
        assert_string_equal(cas_buf_str(&out), "mount:1 99 pid 7;mount:2 0 pid 7;");
        ok(cas_lease_drop(t->store, "mount:2", &err));
        ok(cas_lease_drop(t->store, "mount:2", &err));
        cas_buf_clear(&out);
        ok(cas_lease_each(t->store, list_lease, &out, &err));
        assert_string_equal(cas_buf_str(&out), "mount:1 99 pid 7;");
        lease.id[0] = '\0';
        assert_int_equal(cas_lease_put(t->store, &lease, &err), -CAS_E_INVALID);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(lists_repositories_in_order),
                TEST(lists_tags_in_order),
                TEST(a_tag_moves),
                TEST(says_what_is_missing),
                TEST(a_tag_needs_its_manifest),
                TEST(unlinking_takes_tags_and_referrers_along),
                TEST(a_tag_moved_in_the_same_publication_stays),
                cmocka_unit_test(parses_references),
                TEST(leases_last),
        };
        return cmocka_run_group_tests_name("names", tests, NULL, NULL);
}
