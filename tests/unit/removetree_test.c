/* SPDX-License-Identifier: Apache-2.0 */
/* Removal of trees that nobody can name by a path. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "cas/removetree.h"
#include "tests/support/scratch.h"

static void write_file(int dirfd, const char *name)
{
        cas_cleanup_fd int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0400);
        assert_true(fd >= 0);
}

static void is_removed(const char *path)
{
        struct cas_err err = CAS_ERR_INIT;
        struct stat st;
        assert_int_equal(cas_remove_tree(path, &err), 0);
        assert_int_equal(lstat(path, &st), -1);
        assert_int_equal(errno, ENOENT);
}

/* Goes down `levels` directories, with a file and an empty directory in each. */
static void make_deep(int top, unsigned levels)
{
        cas_cleanup_fd int at = dup(top);
        for (unsigned i = 0; i < levels; i++) {
                static const char name[] = "a-name-of-no-particular-length";
                assert_int_equal(mkdirat(at, name, 0755), 0);
                assert_int_equal(mkdirat(at, "empty", 0700), 0);
                write_file(at, "file");
                int next = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                assert_true(next >= 0);
                (void)close(at);
                at = next;
        }
}

static void depth_does_not_matter(void **state CAS_UNUSED)
{
        char *s = scratch_new();
        cas_cleanup_free char *path = cas_xasprintf("%s/tree", s);
        assert_int_equal(mkdir(path, 0700), 0);
        cas_cleanup_fd int top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        make_deep(top, 3000); /* 90 KB of path */
        assert_int_equal(mkdirat(top, "second", 0700), 0);
        assert_int_equal(mkdirat(top, "removed-0", 0700), 0); /* names of ours may be there */
        write_file(top, "removed-0/file");
        is_removed(path);
        scratch_free(s);
}

static void links_are_not_followed(void **state CAS_UNUSED)
{
        char *s = scratch_new();
        cas_cleanup_free char *path = cas_xasprintf("%s/tree", s);
        cas_cleanup_free char *outside = cas_xasprintf("%s/outside", s);
        cas_cleanup_free char *kept = cas_xasprintf("%s/file", outside);
        cas_cleanup_free char *link = cas_xasprintf("%s/link", path);
        cas_cleanup_free char *deep = cas_xasprintf("%s/in/link", path);
        cas_cleanup_free char *in = cas_xasprintf("%s/in", path);
        assert_int_equal(mkdir(path, 0700), 0);
        assert_int_equal(mkdir(in, 0700), 0);
        assert_int_equal(mkdir(outside, 0700), 0);
        write_file(AT_FDCWD, kept);
        assert_int_equal(symlink(outside, link), 0);
        assert_int_equal(symlink(outside, deep), 0);
        is_removed(path);
        assert_int_equal(access(kept, F_OK), 0);
        assert_int_equal(symlink(outside, path), 0); /* nor a link in its place */
        is_removed(path);
        assert_int_equal(access(kept, F_OK), 0);
        scratch_free(s);
}

static void files_and_nothing(void **state CAS_UNUSED)
{
        char *s = scratch_new();
        cas_cleanup_free char *path = cas_xasprintf("%s/one", s);
        write_file(AT_FDCWD, path);
        is_removed(path);
        is_removed(path);
        scratch_free(s);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(depth_does_not_matter),
                cmocka_unit_test(links_are_not_followed),
                cmocka_unit_test(files_and_nothing),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
