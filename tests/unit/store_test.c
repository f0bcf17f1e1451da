/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>

#include "cas/format_int.h"
#include "cas/store_int.h"
#include "tests/support/scratch.h"
#include "tests/support/teststore.h"

static void is_made_on_first_use(void **state)
{
        struct teststore *t = *state;
        char id[33];
        (void)snprintf(id, sizeof(id), "%s", cas_store_id(t->store));
        assert_int_equal(strlen(id), 32);
        assert_string_equal(cas_store_path(t->store), t->path);
        teststore_reopen(t);
        assert_string_equal(cas_store_id(t->store), id);
        struct stat st;
        assert_int_equal(fstat(cas_store_dirfd(t->store), &st), 0);
        assert_int_equal(st.st_mode & 07777, 0700);
        assert_int_equal(fstatat(cas_store_dirfd(t->store), "blobs/sha256/7f", &st, 0), 0);
        assert_int_equal(st.st_mode & 07777, 0700);
}

static void umask_does_not_matter(void **state)
{
        struct teststore *t = *state;
        mode_t before = umask(0777);
        teststore_close(t);
        cas_cleanup_free char *path = cas_xasprintf("%s/other", t->dir);
        const struct cas_store_config config = {.path = path};
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store *s = NULL;
        int rc = cas_store_open(&config, &s, &err);
        umask(before);
        assert_int_equal(rc, 0);
        cas_store_close(s);
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0700);
        assert_int_equal(teststore_open(t, &err), 0);
}

static void has_one_owner(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store *second = NULL;
        const struct cas_store_config config = {.path = t->path, .lock_wait_ms = 30};
        assert_int_equal(cas_store_open(&config, &second, &err), -CAS_E_BUSY);
        char pid[32];
        (void)snprintf(pid, sizeof(pid), "process %ld", (long)getpid());
        assert_non_null(strstr(err.msg, pid));
}

static void refuses_what_is_no_store(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store *s = NULL;
        cas_cleanup_free char *path = cas_xasprintf("%s/absent", t->dir);
        struct cas_store_config config = {.path = path, .must_exist = true};
        assert_int_equal(cas_store_open(&config, &s, &err), -CAS_E_NOTFOUND);
        assert_int_equal(access(path, F_OK), -1);
        config.path = t->dir; /* holds "store" */
        assert_int_equal(cas_store_open(&config, &s, &err), -CAS_E_NOTFOUND);
        config.must_exist = false;
        assert_int_equal(cas_store_open(&config, &s, &err), -CAS_E_INVALID);
        assert_non_null(strstr(err.msg, "not empty"));
}

static void write_format(struct teststore *t, const char *text)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/format", t->path);
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_TRUNC | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static void checks_the_format(void **state)
{
        struct teststore *t = *state;
#define ID "id = 00112233445566778899aabbccddeeff\n"
        static const struct {
                const char *text;
                enum cas_code code;
                const char *says;
        } cases[] = {
                {"lamina store\nversion = 4\n" ID, CAS_E_UNSUPPORTED, "newer"},
                {"lamina store\nversion = 1\n" ID, CAS_E_UNSUPPORTED, "lamina upgrade"},
                {"lamina store\nversion = 2\n" ID, CAS_E_UNSUPPORTED, "lamina upgrade"},
                {"lamina store\nversion = 3\nincompat = 0x10\n" ID, CAS_E_UNSUPPORTED, "features"},
                {"lamina store\nversion = 3\nro_compat = 1\n" ID, CAS_E_UNSUPPORTED, "features"},
                {"lamina store\nversion = 0\n" ID, CAS_E_CORRUPT, "malformed"},
                {"lamina store\nversion = 1\n", CAS_E_CORRUPT, "malformed"},
                {"lamina store\nversion = 1x\n" ID, CAS_E_CORRUPT, "malformed"},
                {"lamina store\nversion = 1\nid = 1\n", CAS_E_CORRUPT, "malformed"},
                {"lamina store\nversion = 1\ncompat = -1\n" ID, CAS_E_CORRUPT, "malformed"},
                {"lamina store\nnonsense\nversion = 1\n" ID, CAS_E_CORRUPT, "malformed"},
                {"another\nversion = 1\n" ID, CAS_E_CORRUPT, "malformed"},
                {"lamina store\nversion = 1", CAS_E_CORRUPT, "malformed"},
                {"", CAS_E_CORRUPT, "malformed"},
                {"lamina store\nversion = 3\n" ID, CAS_E_CORRUPT, "another store"},
        };
        teststore_close(t);
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                write_format(t, cases[i].text);
                assert_int_equal(teststore_open(t, &err), -(int)cases[i].code);
                assert_non_null(strstr(err.msg, cases[i].says));
        }
}

static void ignores_compatible_features(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_format format;
        assert_int_equal(cas_format_read(cas_io_posix(), cas_store_dirfd(t->store), &format, &err),
                         0);
        cas_cleanup_free char *text = cas_xasprintf(
                "lamina store\nversion = 3\nid = %s\ncompat = 0xff\nlater = yes\n", format.id);
        teststore_close(t);
        write_format(t, text);
        assert_int_equal(teststore_open(t, &err), 0);
}

/* Making a store was interrupted: everything is there but the format. */
static void goes_on_where_making_stopped(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        teststore_close(t);
        cas_cleanup_free char *format = cas_xasprintf("%s/format", t->path);
        assert_int_equal(unlink(format), 0);
        assert_int_equal(teststore_open(t, &err), 0);
        struct cas_digest d = test_put_blob(t->store, NULL, "x");
        teststore_reopen(t);
        assert_true(test_has_blob(t->store, &d));
}

static void a_missing_format_does_not_lose_a_store(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_hash id;
        assert_int_equal(cas_publish_begin(t->store, &p, &err), 0);
        assert_int_equal(cas_publish_object(p, "content", 7, &id, &err), 0);
        assert_int_equal(cas_publish_commit(p, &err), 0);
        cas_publish_free(cas_steal(&p));
        teststore_close(t);
        cas_cleanup_free char *format = cas_xasprintf("%s/format", t->path);
        assert_int_equal(unlink(format), 0);
        assert_int_equal(teststore_open(t, &err), -CAS_E_CORRUPT);
}

static void removes_unfinished_blobs(void **state)
{
        struct teststore *t = *state;
        teststore_close(t);
        cas_cleanup_free char *left = cas_xasprintf("%s/uploads/tmp-0123", t->path);
        cas_cleanup_fd int fd = open(left, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(teststore_open(t, &err), 0);
        assert_int_equal(access(left, F_OK), -1);
}

static void says_when_the_index_is_gone(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        teststore_close(t);
        cas_cleanup_free char *index = cas_xasprintf("%s/index", t->path);
        cas_cleanup_free char *moved = cas_xasprintf("%s/index", t->dir);
        assert_int_equal(rename(index, moved), 0);
        assert_int_not_equal(teststore_open(t, &err), 0);
        assert_non_null(strstr(err.msg, "--rebuild"));
}

static void counts_what_it_holds(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store_stats st;
        (void)test_put_manifest(t->store, "a/b", "x", "manifest");
        (void)test_put_blob(t->store, "c", "blob");
        (void)test_put_blob(t->store, "a/b", "blob");
        assert_int_equal(cas_store_stats(t->store, &st, &err), 0);
        assert_int_equal(st.blob_count, 2);
        assert_int_equal(st.blob_bytes, 12);
        assert_int_equal(st.manifest_count, 1);
        assert_int_equal(st.tag_count, 1);
        assert_int_equal(st.repo_count, 2);
        assert_int_equal(st.object_count, 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(is_made_on_first_use),
                TEST(umask_does_not_matter),
                TEST(has_one_owner),
                TEST(refuses_what_is_no_store),
                TEST(checks_the_format),
                TEST(ignores_compatible_features),
                TEST(goes_on_where_making_stopped),
                TEST(a_missing_format_does_not_lose_a_store),
                TEST(removes_unfinished_blobs),
                TEST(says_when_the_index_is_gone),
                TEST(counts_what_it_holds),
        };
        return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
