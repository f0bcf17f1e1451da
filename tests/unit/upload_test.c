/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)

static void append(struct cas_upload *u, const char *text)
{
        struct cas_err err = CAS_ERR_INIT;
        ok(cas_upload_append(u, text, strlen(text), &err));
}

static struct cas_upload *open_upload(struct teststore *t, const char *repo, const char *id)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_upload *u = NULL;
        ok(cas_upload_open(t->store, repo, id, &u, &err));
        return u;
}

static unsigned files_left(struct teststore *t)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/uploads", t->path);
        DIR *d = opendir(path);
        unsigned n = 0;
        while (readdir(d))
                n++;
        (void)closedir(d);
        return n - 2;
}

static void expect_blob(struct teststore *t, const char *repo, const char *text)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest d = test_digest(text);
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        bool linked;
        ok(cas_blob_read(t->store, &d, 1000, &out, &err));
        assert_string_equal(cas_buf_str(&out), text);
        ok(cas_blob_linked(t->store, repo, &d, &linked, &err));
        assert_true(linked);
}

static void arrives_in_pieces(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_digest d = test_digest("one two three");
        ok(cas_upload_create(t->store, "a/b", id, &err));
        struct cas_upload *u = open_upload(t, "a/b", id);
        append(u, "one ");
        append(u, "two ");
        cas_upload_close(u);
        u = open_upload(t, "a/b", id);
        assert_int_equal(cas_upload_bytes(u), 8);
        append(u, "three");
        ok(cas_upload_finish(u, &d, &err));
        expect_blob(t, "a/b", "one two three");
        assert_int_equal(files_left(t), 0);
        assert_int_equal(cas_upload_open(t->store, "a/b", id, &u, &err), -CAS_E_NOTFOUND);
}

static void survives_a_restart(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_digest d = test_digest("before after");
        ok(cas_upload_create(t->store, "r", id, &err));
        struct cas_upload *u = open_upload(t, "r", id);
        append(u, "before ");
        cas_upload_close(u);
        teststore_reopen(t);
        u = open_upload(t, "r", id);
        append(u, "after");
        ok(cas_upload_finish(u, &d, &err));
        expect_blob(t, "r", "before after");
}

struct seen {
        unsigned count;
        struct cas_upload_info last;
};

static bool see(void *arg, const struct cas_upload_info *info)
{
        struct seen *seen = arg;
        seen->count++;
        seen->last = *info;
        return true;
}

/* Who comes back finds a session again, and what was said when it was begun. */
static void sessions_are_found_again(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        char id[CAS_UPLOAD_ID_BYTES], other[CAS_UPLOAD_ID_BYTES];
        struct cas_upload_info info = {.owner = "user:a b", .digest = test_digest("before after")};
        struct cas_upload_info nobody = {.alg = CAS_DIGEST_SHA512};
        struct cas_upload_info bad = {.owner = "a\nb"};
        struct seen seen = {0};
        ok(cas_upload_begin(t->store, "a/b", &info, id, &err));
        ok(cas_upload_begin(t->store, "a/c", &nobody, other, &err));
        assert_int_equal(cas_upload_begin(t->store, "a/b", &bad, other, &err), -CAS_E_INVALID);
        struct cas_upload *u = open_upload(t, "a/b", id);
        append(u, "before ");
        cas_upload_close(u);
        teststore_reopen(t);
        ok(cas_upload_each(t->store, "a/b", see, &seen, &err));
        assert_int_equal(seen.count, 1);
        assert_string_equal(seen.last.id, id);
        assert_string_equal(seen.last.owner, "user:a b");
        assert_int_equal(seen.last.alg, CAS_DIGEST_SHA256);
        assert_true(cas_digest_equal(&seen.last.digest, &info.digest));
        assert_int_equal(seen.last.size_bytes, 7);
        assert_true(seen.last.touched_unix_s > 0);
        u = open_upload(t, "a/b", id);
        append(u, "after");
        ok(cas_upload_finish(u, &info.digest, &err));
        seen.count = 0;
        ok(cas_upload_each(t->store, "a/b", see, &seen, &err));
        assert_int_equal(seen.count, 0);
        ok(cas_upload_each(t->store, "a/c", see, &seen, &err));
        assert_int_equal(seen.count, 1);
        assert_int_equal(seen.last.alg, CAS_DIGEST_SHA512);
        assert_int_equal(seen.last.digest.alg, CAS_DIGEST_NONE);
        assert_string_equal(seen.last.owner, "");
}

static void either_algorithm_may_be_announced(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        static const char text[] = "some text";
        static const enum cas_digest_alg algs[] = {CAS_DIGEST_SHA256, CAS_DIGEST_SHA512};
        for (int i = 0; i < 4; i++) {
                char id[CAS_UPLOAD_ID_BYTES];
                struct cas_upload_info info = {.alg = algs[i % 2]};
                struct cas_digest d, wrong;
                cas_digest_of(algs[i / 2], text, strlen(text), &d);
                cas_digest_of(algs[i / 2], text, 1, &wrong);
                ok(cas_upload_begin(t->store, "r", &info, id, &err));
                struct cas_upload *u = open_upload(t, "r", id);
                append(u, text);
                assert_int_equal(cas_upload_finish(u, &wrong, &err), -CAS_E_INVALID);
                ok(cas_upload_finish(u, &d, &err));
                assert_true(test_has_blob(t->store, &d));
        }
}

static void takes_back_what_failed(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_digest d = test_digest("good good");
        ok(cas_upload_create(t->store, "r", id, &err));
        struct cas_upload *u = open_upload(t, "r", id);
        append(u, "good bad bad bad");
        assert_int_equal(cas_upload_truncate(u, 17, &err), -CAS_E_INVALID);
        ok(cas_upload_truncate(u, 5, &err));
        append(u, "good");
        ok(cas_upload_finish(u, &d, &err));
        expect_blob(t, "r", "good good");
        /* All of it taken back: the running digest starts anew. */
        ok(cas_upload_create(t->store, "r", id, &err));
        u = open_upload(t, "r", id);
        append(u, "x");
        ok(cas_upload_truncate(u, 0, &err));
        append(u, "other");
        d = test_digest("other");
        ok(cas_upload_finish(u, &d, &err));
        expect_blob(t, "r", "other");
}

static void a_wrong_digest_ends_nothing(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_digest wrong = test_digest("else"), right, got;
        cas_digest_of(CAS_DIGEST_SHA512, "bytes", 5, &right);
        ok(cas_upload_create(t->store, "r", id, &err));
        struct cas_upload *u = open_upload(t, "r", id);
        append(u, "bytes");
        assert_int_equal(cas_upload_finish(u, &wrong, &err), -CAS_E_INVALID);
        assert_false(test_has_blob(t->store, &wrong));
        ok(cas_upload_finish(u, &right, &err));
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        ok(cas_blob_read(t->store, &right, 1000, &out, &err));
        cas_digest_of(CAS_DIGEST_SHA512, out.data, out.len_bytes, &got);
        assert_true(cas_digest_equal(&got, &right));
}

static void has_one_writer(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_upload *second = NULL;
        ok(cas_upload_create(t->store, "r", id, &err));
        struct cas_upload *u = open_upload(t, "r", id);
        assert_int_equal(cas_upload_open(t->store, "r", id, &second, &err), -CAS_E_BUSY);
        cas_upload_close(u);
        u = open_upload(t, "r", id);
        ok(cas_upload_cancel(u, &err));
        assert_int_equal(files_left(t), 0);
}

static void belongs_to_its_repository(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_upload *u = NULL;
        ok(cas_upload_create(t->store, "r", id, &err));
        assert_int_equal(cas_upload_open(t->store, "other", id, &u, &err), -CAS_E_NOTFOUND);
        static const char *const ids[] = {"", "../../etc/passwd", "x",
                                          "00000000-0000-4000-8000-000000000000",
                                          "00000000-0000-4000-8000-00000000000g"};
        for (size_t i = 0; i < CAS_COUNT(ids); i++)
                assert_int_equal(cas_upload_open(t->store, "r", ids[i], &u, &err), -CAS_E_NOTFOUND);
        assert_int_equal(cas_upload_create(t->store, "..", id, &err), -CAS_E_INVALID);
        u = open_upload(t, "r", id);
        cas_upload_close(u);
}

static void old_sessions_expire(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        char old[CAS_UPLOAD_ID_BYTES], held[CAS_UPLOAD_ID_BYTES], fresh[CAS_UPLOAD_ID_BYTES];
        uint64_t count;
        ok(cas_upload_create(t->store, "r", old, &err));
        ok(cas_upload_create(t->store, "r", held, &err));
        ok(cas_upload_create(t->store, "r", fresh, &err));
        cas_cleanup_free char *left =
                cas_xasprintf("%s/uploads/00000000-0000-4000-8000-000000000000.repo", t->path);
        (void)close(open(left, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        const struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
        cas_cleanup_free char *old_path = cas_xasprintf("%s/uploads/%s.data", t->path, old);
        cas_cleanup_free char *held_path = cas_xasprintf("%s/uploads/%s.data", t->path, held);
        ok(utimensat(AT_FDCWD, old_path, times, 0));
        ok(utimensat(AT_FDCWD, held_path, times, 0));
        ok(utimensat(AT_FDCWD, left, times, 0));
        struct cas_upload *u = open_upload(t, "r", held);
        ok(cas_upload_expire(t->store, 3600, &count, &err));
        assert_int_equal(count, 2);
        assert_int_equal(files_left(t), 4);
        cas_upload_close(u);
        ok(cas_upload_open(t->store, "r", fresh, &u, &err));
        cas_upload_close(u);
        assert_int_equal(cas_upload_open(t->store, "r", old, &u, &err), -CAS_E_NOTFOUND);
}

static void the_same_blob_twice(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest d = test_digest("same");
        char ids[2][CAS_UPLOAD_ID_BYTES];
        struct cas_upload *u[2];
        for (int i = 0; i < 2; i++) {
                ok(cas_upload_create(t->store, i ? "two" : "one", ids[i], &err));
                u[i] = open_upload(t, i ? "two" : "one", ids[i]);
                append(u[i], "same");
        }
        ok(cas_upload_finish(u[0], &d, &err));
        ok(cas_upload_finish(u[1], &d, &err));
        expect_blob(t, "one", "same");
        expect_blob(t, "two", "same");
        assert_int_equal(files_left(t), 0);
}

/* A process that dies while it publishes a session leaves it as it was. Its file may be a blob's by
 * then, also that of another publication which counts on the same name: it is not written to. */
static void a_session_outlives_a_broken_commit(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_digest d = test_digest("wanted by two"), missing = test_digest("no manifest");
        struct cas_digest longer = test_digest("wanted by two, and more");
        ok(cas_upload_create(t->store, "r", id, &err));
        struct cas_upload *u = open_upload(t, "r", id);
        append(u, "wanted by two");
        cas_upload_close(u);
        cas_cleanup_free char *name = cas_xasprintf("%s.data", id);
        for (int i = 0; i < 2; i++) { /* the second time the blob's file is this one already */
                struct cas_publish *p = NULL;
                ok(cas_publish_begin(t->store, &p, &err));
                ok(cas_publish_blob_adopt(p, name, &d, strlen("wanted by two"), &err));
                ok(cas_publish_tag(p, "r", "tag", &missing, &err));
                if (i == 1)
                        (void)test_put_blob(t->store, "other", "wanted by two");
                assert_int_equal(cas_publish_commit(p, &err), -CAS_E_NOTFOUND);
                cas_publish_free(p);
                assert_int_equal(files_left(t), 2);
        }
        u = open_upload(t, "r", id);
        assert_int_equal(cas_upload_bytes(u), strlen("wanted by two"));
        append(u, ", and more");
        expect_blob(t, "other", "wanted by two");
        ok(cas_upload_finish(u, &longer, &err));
        expect_blob(t, "other", "wanted by two");
        expect_blob(t, "r", "wanted by two, and more");
        assert_int_equal(files_left(t), 0);
}

/* The system's table, but for one fsync of a file that fails. */
static bool fsync_fails;
static int fsync_once(void *ctx CAS_UNUSED, int fd)
{
        struct stat st;
        if (fsync_fails && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
                fsync_fails = false;
                errno = EIO;
                return -1;
        }
        return fsync(fd);
}

/* After a failed sync the kernel takes the pages for clean: another sync proves nothing. */
static void a_failed_sync_ends_the_session(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_io_ops ops = *cas_io_posix()->ops;
        const struct cas_io io = {.ops = &ops};
        struct cas_digest d = test_digest("bytes");
        ops.fsync = fsync_once;
        t->io = &io;
        teststore_reopen(t);
        for (int close_first = 0; close_first < 2; close_first++) {
                char id[CAS_UPLOAD_ID_BYTES];
                ok(cas_upload_create(t->store, "r", id, &err));
                struct cas_upload *u = open_upload(t, "r", id);
                append(u, "bytes");
                fsync_fails = true;
                if (close_first) {
                        assert_int_equal(cas_upload_sync(u, &err), -CAS_E_IO);
                } else {
                        assert_int_equal(cas_upload_finish(u, &d, &err), -CAS_E_IO);
                        assert_int_equal(cas_upload_append(u, "x", 1, &err), -CAS_E_NOTFOUND);
                        ok(cas_upload_truncate(u, 0, &err));
                        assert_int_equal(cas_upload_finish(u, &d, &err), -CAS_E_NOTFOUND);
                }
                cas_upload_close(u);
                assert_false(fsync_fails);
                assert_int_equal(cas_upload_open(t->store, "r", id, &u, &err), -CAS_E_NOTFOUND);
                assert_false(test_has_blob(t->store, &d));
                assert_int_equal(files_left(t), 0);
        }
        teststore_close(t);
        t->io = NULL;
        ok(teststore_open(t, &err));
}

static unsigned file_syncs;
static int fsync_counted(void *ctx CAS_UNUSED, int fd)
{
        struct stat st;
        if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
                file_syncs++;
        return fsync(fd);
}

/* Nobody knows whether a process that died has synced what it wrote. */
static void what_another_process_left_is_synced(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_io_ops ops = *cas_io_posix()->ops;
        const struct cas_io io = {.ops = &ops};
        struct cas_digest d = test_digest("left behind");
        char id[CAS_UPLOAD_ID_BYTES], path[128];
        ops.fsync = fsync_counted;
        t->io = &io;
        teststore_reopen(t);
        ok(cas_upload_create(t->store, "r", id, &err));
        (void)snprintf(path, sizeof(path), "uploads/%s.data", id);
        cas_cleanup_fd int fd = openat(cas_store_dirfd(t->store), path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(write(fd, "left behind", 11), 11);
        struct cas_upload *u = open_upload(t, "r", id);
        assert_int_equal(cas_upload_bytes(u), 11);
        file_syncs = 0;
        ok(cas_upload_finish(u, &d, &err));
        assert_int_equal(file_syncs, 1);
        expect_blob(t, "r", "left behind");

        /* what this one has synced is not synced again */
        d = test_digest("ours");
        ok(cas_upload_create(t->store, "r", id, &err));
        u = open_upload(t, "r", id);
        append(u, "ours");
        ok(cas_upload_sync(u, &err));
        cas_upload_close(u);
        u = open_upload(t, "r", id);
        file_syncs = 0;
        ok(cas_upload_finish(u, &d, &err));
        assert_int_equal(file_syncs, 0);
        teststore_close(t);
        t->io = NULL;
        ok(teststore_open(t, &err));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(arrives_in_pieces),
                TEST(survives_a_restart),
                TEST(sessions_are_found_again),
                TEST(either_algorithm_may_be_announced),
                TEST(takes_back_what_failed),
                TEST(a_wrong_digest_ends_nothing),
                TEST(has_one_writer),
                TEST(belongs_to_its_repository),
                TEST(old_sessions_expire),
                TEST(the_same_blob_twice),
                TEST(a_session_outlives_a_broken_commit),
                TEST(a_failed_sync_ends_the_session),
                TEST(what_another_process_left_is_synced),
        };
        return cmocka_run_group_tests_name("upload", tests, NULL, NULL);
}
