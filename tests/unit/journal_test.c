/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>

#include "cas/commit_int.h"
#include "tests/support/scratch.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)
#define ID "00112233445566778899aabbccddeeff"

struct fixture {
        char *dir;
        int dirfd;
        struct cas_journal *j;
};

static int setup(void **state)
{
        struct cas_err err = CAS_ERR_INIT;
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        f->dir = scratch_new();
        f->dirfd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ok(mkdirat(f->dirfd, "journal", 0700));
        ok(cas_journal_create(cas_io_posix(), f->dirfd, ID, &err));
        ok(cas_journal_open(cas_io_posix(), f->dirfd, ID, NULL, &f->j, &err));
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        cas_journal_close(f->j);
        (void)close(f->dirfd);
        scratch_free(f->dir);
        free(f);
        return 0;
}

static int reopen(struct fixture *f, const struct cas_journal_position *seen, struct cas_err *err)
{
        cas_journal_close(cas_steal(&f->j));
        return cas_journal_open(cas_io_posix(), f->dirfd, ID, seen, &f->j, err);
}

/* A group of one record for each letter of text: a tag of that name is set. */
static void append(struct fixture *f, const char *text)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf records = CAS_BUF_INIT;
        bool unknown;
        for (const char *c = text; *c; c++) {
                struct cas_name_record rec = {
                        .kind = CAS_NAME_TAG, .repo = "r", .tag = {*c}, .digest = test_digest("d")};
                cas_name_record_encode(&rec, &records);
        }
        ok(cas_journal_append(f->j, &records, (uint32_t)strlen(text), &unknown, &err));
}

static int add_tag(void *arg, const struct cas_name_record *rec, struct cas_err *err CAS_UNUSED)
{
        cas_buf_append_str(arg, rec->tag);
        return 0;
}

static void expect(struct fixture *f, const char *tags)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        ok(cas_journal_replay(f->j, add_tag, &out, NULL, &err));
        assert_string_equal(cas_buf_str(&out), tags);
}

static off_t length(struct fixture *f)
{
        struct stat st;
        ok(fstatat(f->dirfd, "journal/names", &st, 0));
        return st.st_size;
}

static void cut(struct fixture *f, off_t bytes)
{
        int fd = openat(f->dirfd, "journal/names", O_RDWR | O_CLOEXEC);
        ok(ftruncate(fd, bytes));
        (void)close(fd);
}

static void flip(struct fixture *f, off_t at)
{
        int fd = openat(f->dirfd, "journal/names", O_RDWR | O_CLOEXEC);
        uint8_t byte;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 0x40;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        (void)close(fd);
}

static void replays_what_was_appended(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        expect(f, "");
        append(f, "abc");
        append(f, "d");
        expect(f, "abcd");
        ok(reopen(f, NULL, &err));
        expect(f, "abcd");
        struct cas_journal_position position = cas_journal_position(f->j);
        assert_int_equal(position.sequence, 2);
        append(f, "e");
        expect(f, "abcde");
}

/* Cut at every byte: whole groups stay, the torn one goes, the next takes its place. */
static void drops_a_torn_tail(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        append(f, "ab");
        off_t first = length(f);
        append(f, "cd");
        off_t second = length(f);
        for (off_t at = second - 1; at >= first; at--) {
                cut(f, at);
                ok(reopen(f, NULL, &err));
                expect(f, "ab");
                assert_int_equal(length(f), first);
                append(f, "cd");
                assert_int_equal(length(f), second);
        }
        for (off_t at = first; at < second; at++) {
                flip(f, at);
                ok(reopen(f, NULL, &err));
                expect(f, "ab");
                append(f, "cd");
        }
}

static void a_group_ahead_of_the_index_is_void(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        append(f, "a");
        struct cas_journal_position seen = cas_journal_position(f->j);
        append(f, "b");
        ok(reopen(f, &seen, &err));
        expect(f, "a");
        assert_int_equal(length(f), seen.offset);
        /* Two of them never happen: the index has lost one. */
        append(f, "b");
        append(f, "c");
        assert_int_equal(reopen(f, &seen, &err), -CAS_E_CORRUPT);
        assert_non_null(strstr(err.msg, "index"));
        ok(reopen(f, NULL, &err));
        expect(f, "abc");
}

static void a_journal_behind_the_index_is_damage(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        append(f, "a");
        append(f, "b");
        struct cas_journal_position seen = cas_journal_position(f->j);
        cut(f, (off_t)seen.offset - 1);
        assert_int_equal(reopen(f, &seen, &err), -CAS_E_CORRUPT);
        assert_non_null(strstr(err.msg, "--rebuild"));
        seen.generation++;
        assert_int_equal(reopen(f, &seen, &err), -CAS_E_CORRUPT);
        ok(reopen(f, NULL, &err));
}

static void damage_before_the_index_is_found(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        uint64_t bad = 0;
        append(f, "a");
        off_t first = length(f);
        append(f, "b");
        struct cas_journal_position seen = cas_journal_position(f->j);
        flip(f, first + 40);
        ok(reopen(f, &seen, &err)); /* only what is behind the position is read */
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        ok(cas_journal_replay(f->j, add_tag, &out, &bad, &err));
        assert_int_equal(bad, first);
        assert_int_equal(cas_journal_replay(f->j, add_tag, &out, NULL, &err), -CAS_E_CORRUPT);
}

static void checks_its_header(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        append(f, "a");
        for (off_t at = 0; at < 64; at++) {
                flip(f, at);
                int rc = reopen(f, NULL, &err);
                assert_true(rc == -CAS_E_CORRUPT || (rc == -CAS_E_UNSUPPORTED && at / 4 == 2));
                flip(f, at);
        }
        assert_int_equal(cas_journal_open(cas_io_posix(), f->dirfd,
                                          "ff112233445566778899aabbccddeeff", NULL, &f->j, &err),
                         -CAS_E_CORRUPT);
        cut(f, 63);
        assert_int_equal(reopen(f, NULL, &err), -CAS_E_CORRUPT);
}

static int feed_letters(void *arg, cas_journal_put_fn put, void *sink, struct cas_err *err)
{
        for (const char *c = arg; *c; c++) {
                struct cas_name_record rec = {
                        .kind = CAS_NAME_TAG, .repo = "r", .tag = {*c}, .digest = test_digest("d")};
                int rc = put(sink, &rec, err);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

static void is_written_anew(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        bool unknown;
        for (int i = 0; i < 50; i++)
                append(f, "ab");
        struct cas_journal_position before = cas_journal_position(f->j);
        off_t was = length(f);
        ok(cas_journal_compact(f->j, feed_letters, (void *)(uintptr_t) "ab", &unknown, &err));
        assert_true(length(f) < was / 10);
        expect(f, "ab");
        append(f, "c");
        struct cas_journal_position after = cas_journal_position(f->j);
        assert_int_equal(after.sequence, before.sequence + 1);
        assert_int_equal(after.generation, before.generation + 1);
        ok(reopen(f, &after, &err));
        expect(f, "abc");
        /* The index has seen the old file's end only: what was added since is void. */
        ok(reopen(f, &before, &err));
        expect(f, "ab");
}

static void grows_and_shrinks_in_a_store(void **state CAS_UNUSED)
{
        void *inner = NULL;
        ok(teststore_setup(&inner));
        struct teststore *t = inner;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest m[2];
        char tag[CAS_TAG_BYTES_MAX + 1];
        m[0] = test_put_manifest(t->store, "r", NULL, "0");
        m[1] = test_put_manifest(t->store, "r", NULL, "1");
        memset(tag, 't', sizeof(tag) - 1);
        tag[sizeof(tag) - 1] = '\0';
        uint64_t longest = 0;
        for (unsigned i = 0; i < 120; i++) {
                cas_cleanup_publish struct cas_publish *p = NULL;
                ok(cas_publish_begin(t->store, &p, &err));
                for (unsigned k = 0; k < 100; k++) {
                        tag[0] = (char)('a' + k % 26);
                        tag[1] = (char)('a' + k / 26);
                        ok(cas_publish_tag(p, "r", tag, &m[i % 2], &err));
                }
                ok(cas_publish_commit(p, &err));
                longest = cas_max_u64(longest, cas_journal_position(t->store->journal).offset);
        }
        struct cas_journal_position position = cas_journal_position(t->store->journal);
        assert_true(position.generation > 1);
        assert_true(longest > 1 << 19 && position.offset < longest);
        teststore_reopen(t);
        struct cas_digest got;
        ok(cas_tag_get(t->store, "r", tag, &got, &err));
        assert_true(cas_digest_equal(&got, &m[1]));
        ok(teststore_teardown(&inner));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(replays_what_was_appended),
                TEST(drops_a_torn_tail),
                TEST(a_group_ahead_of_the_index_is_void),
                TEST(a_journal_behind_the_index_is_damage),
                TEST(damage_before_the_index_is_found),
                TEST(checks_its_header),
                TEST(is_written_anew),
                cmocka_unit_test(grows_and_shrinks_in_a_store),
        };
        return cmocka_run_group_tests_name("journal", tests, NULL, NULL);
}
