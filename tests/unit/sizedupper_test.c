/* SPDX-License-Identifier: Apache-2.0 */
/* Uppers of limited size: their end is real, they are seen from several mounts at once, and no
 * loop device stays. Needs root and loop devices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "cas/removetree.h"
#include "fusefs/loopdev_int.h"
#include "fusefs/sizedupper_int.h"

static char dir[64];
static int dir_fd;

#define check(call, err)                                                                           \
        do {                                                                                       \
                if ((call) < 0)                                                                    \
                        fail_msg("%s: %s", #call, (err)->msg);                                     \
        } while (0)

static int setup(void **state CAS_UNUSED)
{
        (void)snprintf(dir, sizeof(dir), "/var/tmp/lamina-sized-XXXXXX");
        if (!mkdtemp(dir))
                return -1;
        dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return dir_fd < 0 ? -1 : 0;
}

static int teardown(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        (void)close(dir_fd);
        return cas_remove_tree(dir, &err);
}

/* Bytes that fit into a new file. */
static uint64_t fill(int root, const char *name)
{
        static const char zeros[65536];
        uint64_t total = 0;
        cas_cleanup_fd int fd = openat(root, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        for (;;) {
                ssize_t n = write(fd, zeros, sizeof(zeros));
                if (n < 0)
                        break;
                total += (uint64_t)n;
        }
        assert_int_equal(errno, ENOSPC);
        return total;
}

static bool has_loop(void)
{
        char name[FFS_LOOP_NAME_BYTES];
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_fd int fd = openat(dir_fd, FFS_SIZEDUPPER_NAME, O_RDONLY | O_CLOEXEC);
        cas_cleanup_fd int loop_fd = -1;
        assert_true(fd >= 0);
        int rc = ffs_loop_find(fd, name, &loop_fd, &err);
        assert_true(rc == 0 || rc == -CAS_E_NOTFOUND);
        return rc == 0;
}

static void the_end_is_real(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct statvfs vfs;
        struct stat st;
        int rw = -1, ro = -1;
        check(ffs_sizedupper_make(dir_fd, 32 << 20, &err), &err);
        assert_int_equal(fstatat(dir_fd, FFS_SIZEDUPPER_NAME, &st, 0), 0);
        assert_int_equal(st.st_size, 32 << 20);
        assert_true(st.st_blocks * 512 < 8 << 20); /* sparse, but for the journal */
        check(ffs_sizedupper_mount(dir_fd, false, &rw, &err), &err);
        uint64_t room = fill(rw, "all");
        assert_in_range(room, 20 << 20, 32 << 20);
        assert_int_equal(fstatvfs(rw, &vfs), 0);
        assert_true(vfs.f_bavail < 16);
        /* Another mount of it, made while the first stands, is the same file system. */
        check(ffs_sizedupper_mount(dir_fd, true, &ro, &err), &err);
        assert_int_equal(fstatat(ro, "all", &st, 0), 0);
        assert_true((uint64_t)st.st_size == room);
        assert_int_equal(mkdirat(ro, "d", 0700), -1);
        assert_int_equal(errno, EROFS);
        (void)close(rw);
        assert_true(has_loop());
        assert_int_equal(fstatat(ro, "all", &st, 0), 0);
        (void)close(ro);
        for (int i = 0; i < 200 && has_loop(); i++)
                (void)nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        assert_false(has_loop());
        /* And it is found again, as large as it was. */
        check(ffs_sizedupper_make(dir_fd, 64 << 20, &err), &err);
        check(ffs_sizedupper_mount(dir_fd, false, &rw, &err), &err);
        assert_int_equal(unlinkat(rw, "all", 0), 0);
        assert_true(fill(rw, "again") == room);
        (void)close(rw);
}

static void odd_files_and_sizes_are_refused(void **state CAS_UNUSED)
{
        struct cas_err small = CAS_ERR_INIT, large = CAS_ERR_INIT, absent = CAS_ERR_INIT;
        struct cas_err link = CAS_ERR_INIT, fifo = CAS_ERR_INIT;
        int fd;
        assert_int_equal(ffs_sizedupper_make(dir_fd, 1 << 20, &small), -CAS_E_LIMIT);
        assert_int_equal(ffs_sizedupper_make(dir_fd, UINT64_MAX, &large), -CAS_E_LIMIT);
        assert_int_equal(ffs_sizedupper_mount(dir_fd, true, &fd, &absent), -CAS_E_NOTFOUND);
        assert_int_equal(symlinkat("/etc/passwd", dir_fd, FFS_SIZEDUPPER_NAME), 0);
        assert_int_equal(ffs_sizedupper_mount(dir_fd, true, &fd, &link), -CAS_E_INVALID);
        assert_int_equal(unlinkat(dir_fd, FFS_SIZEDUPPER_NAME, 0), 0);
        assert_int_equal(mkfifoat(dir_fd, FFS_SIZEDUPPER_NAME, 0600), 0);
        assert_int_equal(ffs_sizedupper_mount(dir_fd, true, &fd, &fifo), -CAS_E_INVALID);
}

int main(void)
{
        if (geteuid() != 0 || access("/dev/loop-control", R_OK | W_OK) < 0 ||
            unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
                printf("skipped: needs root and loop devices\n");
                return 0;
        }
        (void)alarm(120);
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(the_end_is_real, setup, teardown),
                cmocka_unit_test_setup_teardown(odd_files_and_sizes_are_refused, setup, teardown),
        };
        return cmocka_run_group_tests_name("sizedupper", tests, NULL, NULL);
}
