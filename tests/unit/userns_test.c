/* SPDX-License-Identifier: Apache-2.0 */
/* User namespaces that are only maps of ids. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <sys/wait.h>

#include "fusefs/userns.h"

/* What /proc says of the map, seen from inside. */
static void map_of(int userns_fd, const char *name, char out[256])
{
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                char path[64], text[256] = "";
                snprintf(path, sizeof(path), "/proc/self/%s", name);
                int fd = setns(userns_fd, CLONE_NEWUSER) == 0 ? open(path, O_RDONLY) : -1;
                ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
                _exit(n > 0 && write(ends[1], text, sizeof(text)) == sizeof(text) ? 0 : 1);
        }
        close(ends[1]);
        int status;
        assert_int_equal(read(ends[0], out, 256), 256);
        close(ends[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

static void check_map(int fd, const char *name, const unsigned *want, size_t count)
{
        char text[256];
        unsigned got[3];
        int used;
        map_of(fd, name, text);
        const char *at = text;
        for (size_t i = 0; i < count; i++) {
                assert_int_equal(sscanf(at, "%u %u %u%n", &got[0], &got[1], &got[2], &used), 3);
                assert_memory_equal(got, want + 3 * i, sizeof(got));
                at += used;
        }
        assert_int_equal(sscanf(at, "%u", &got[0]), -1);
}

static void maps(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        if (geteuid() != 0)
                skip();
        int fd = -1;
        assert_int_equal(ffs_userns_open("0:100000:65536;0:200000:10,10:300000:5", &fd, &err), 0);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        check_map(fd, "uid_map", (const unsigned[]){0, 100000, 65536}, 1);
        check_map(fd, "gid_map", (const unsigned[]){0, 200000, 10, 10, 300000, 5}, 2);
        close(fd);
        assert_int_equal(ffs_userns_open("", &fd, &err), 0);
        check_map(fd, "uid_map", (const unsigned[]){0, 0, 4294967295U}, 1);
        close(fd);
}

static void refusals(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        int fd = -1;
        assert_int_equal(ffs_userns_open("nonsense", &fd, &err), -CAS_E_INVALID);
        assert_int_equal(fd, -1);
}

int main(void)
{
        const struct CMUnitTest tests[] = {cmocka_unit_test(maps), cmocka_unit_test(refusals)};
        return cmocka_run_group_tests(tests, NULL, NULL);
}
