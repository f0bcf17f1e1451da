/* SPDX-License-Identifier: Apache-2.0 */
/* User namespaces of users without privileges: ranges of ids, children in them,
 * FUSE mounts of theirs. Cases that need another user run as `nobody` in a child. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "tests/support/scratch.h"
#include "tools/rootless.h"

#define SOMEBODY 65534 /* nobody */
#define CASE_LIMIT_S 30

static char *scratch;
static char point[300];

#define MUST(condition)                                                                            \
        do {                                                                                       \
                if (!(condition)) {                                                                \
                        fprintf(stderr, "%s:%d: %s (errno %d, \"%s\")\n", __FILE__, __LINE__,      \
                                #condition, errno, err.msg);                                       \
                        _exit(1);                                                                  \
                }                                                                                  \
        } while (0)

/* ---- ranges ---- */

static void ranges_of_a_user(void **state)
{
        (void)state;
        static const char text[] = "other:100000:65536\n"
                                   "me:200000:1000\n"
                                   "me:300000\n"
                                   "me:x:5\nme:5:x\nme:5:0\nme:1:2:3\nme::7\nme\n\n:\n"
                                   "me:4294967295:1\nme:4294967290:10\nme:-1:5\n"
                                   "1234:400000:10\n"
                                   "mee:1:1\n"
                                   "me:500000:1";
        struct rootless_range r[ROOTLESS_RANGES_MAX] = {{.outside = 1234, .count = 1}};
        size_t count = 1;
        rootless_ranges_add(text, sizeof(text) - 1, "me", 1234, r, &count);
        assert_int_equal(count, 4);
        static const struct rootless_range want[] = {
                {0, 1234, 1}, {1, 200000, 1000}, {1001, 400000, 10}, {1011, 500000, 1}};
        assert_memory_equal(r, want, sizeof(want));
}

static void ranges_have_limits(void **state)
{
        (void)state;
        struct rootless_range r[ROOTLESS_RANGES_MAX] = {{.count = 1}};
        size_t count = 1;
        static const char many[] = "a:1:1\na:2:1\na:3:1\na:4:1\na:5:1\na:6:1\n";
        rootless_ranges_add(many, sizeof(many) - 1, "a", 7, r, &count);
        assert_int_equal(count, ROOTLESS_RANGES_MAX);
        static const char huge[] = "a:1:4294967294\na:1:4294967290\na:1:3\na:1:4\n";
        count = 1;
        rootless_ranges_add(huge, sizeof(huge) - 1, "a", 7, r, &count);
        assert_int_equal(count, 2); /* after 4294967294 at 1 there is no room */
}

static void maps_are_texts(void **state)
{
        (void)state;
        const struct rootless_ids alone = {
                .uids = {{0, 1000, 1}}, .gids = {{0, 100, 1}}, .uid_count = 1, .gid_count = 1};
        const struct rootless_ids more = {.uids = {{0, 1000, 1}, {1, 100000, 65536}},
                                          .gids = {{0, 100, 1}, {1, 5000, 10}, {11, 7000, 5}},
                                          .uid_count = 2,
                                          .gid_count = 3};
        const struct {
                char *have;
                const char *want;
        } cases[] = {
                {rootless_map_inside(&alone), "0:0:1;0:0:1;squash"},
                {rootless_map_outside(&alone), "0:1000:1;0:100:1;squash"},
                {rootless_map_inside(&more), "0:0:65537;0:0:16;squash"},
                {rootless_map_outside(&more),
                 "0:1000:1,1:100000:65536;0:100:1,1:5000:10,11:7000:5;squash"},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                assert_string_equal(cases[i].have, cases[i].want);
                free(cases[i].have);
        }
}

/* ---- namespaces ---- */

static void show(const char *text, const char *name, const char *at)
{
        struct cas_err err = CAS_ERR_INIT;
        char path[320];
        snprintf(path, sizeof(path), "%s/%s", scratch, name);
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        MUST(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
        MUST(fchmod(fd, 0644) == 0 && close(fd) == 0);
        MUST(mount(path, at, NULL, MS_BIND, NULL) == 0);
}

static void prepare(const char *subids)
{
        struct cas_err err = CAS_ERR_INIT;
        char device[320];
        (void)alarm(CASE_LIMIT_S);
        MUST(unshare(CLONE_NEWNS) == 0);
        MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
        snprintf(device, sizeof(device), "%s/fuse", scratch);
        MUST(mknod(device, S_IFCHR | 0600, makedev(10, 229)) == 0 || errno == EEXIST);
        MUST(chmod(device, 0666) == 0);
        MUST(mount(device, "/dev/fuse", NULL, MS_BIND, NULL) == 0);
        show(subids, "subuid", "/etc/subuid");
        show(subids, "subgid", "/etc/subgid");
        MUST(setgroups(0, NULL) == 0 && setgid(SOMEBODY) == 0 && setuid(SOMEBODY) == 0);
        MUST(prctl(PR_SET_DUMPABLE, 1) == 0); /* as a program that this user started is */
}

static void in_child(void (*body)(void))
{
        if (geteuid() != 0 || access("/dev/fuse", F_OK) != 0 || access("/etc/subuid", F_OK) != 0 ||
            access("/etc/subgid", F_OK) != 0 || access("/usr/bin/newuidmap", X_OK) != 0)
                skip();
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                body();
                _exit(0);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

static bool is_mounted(const char *dir)
{
        char line[4096];
        bool found = false;
        FILE *f = fopen("/proc/self/mountinfo", "re");
        while (f && fgets(line, sizeof(line), f))
                found = found || (strstr(line, dir) && strstr(line, "fuse.lamina"));
        if (f)
                (void)fclose(f);
        return found;
}

/* In the namespace: 0 when it is as it should be. */
static int is_root(void *arg)
{
        const struct rootless_ids *ids = arg;
        char text[200] = "";
        unsigned inside, outside, count;
        int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0 ||
            sscanf(text, "%u %u %u", &inside, &outside, &count) != 3)
                return 10;
        (void)close(fd);
        if (geteuid() != 0 || getegid() != 0 || inside != 0 || outside != SOMEBODY || count != 1)
                return 11;
        if (!is_mounted(point))
                return 12;
        if (ids->uid_count > 1 && (setresgid(5, 5, 5) != 0 || setresuid(5, 5, 5) != 0))
                return 13;
        return 42;
}

static void run_child(const struct rootless_ids *ids)
{
        struct cas_err err = CAS_ERR_INIT;
        struct rootless_child c;
        int status;
        MUST(rootless_start(ids, point, is_root, (void *)(uintptr_t)ids, &c, &err) == 0);
        struct pollfd p = {.fd = c.fuse_fd, .events = POLLIN};
        MUST(c.fuse_fd >= 0 && poll(&p, 1, 5000) == 1 && (p.revents & POLLIN));
        MUST(!is_mounted(point)); /* here */
        rootless_go(&c);
        MUST(waitpid(c.pid, &status, 0) == c.pid && WIFEXITED(status));
        MUST(WEXITSTATUS(status) == 42);
        MUST(poll(&p, 1, 5000) == 1 && (p.revents & POLLERR)); /* gone with the child */
        (void)close(c.fuse_fd);
}

static void alone(void)
{
        struct cas_err err = CAS_ERR_INIT;
        struct rootless_ids ids;
        prepare("somebody-else:100000:65536\n");
        MUST(rootless_ids_find(&ids, &err) == 0 && ids.uid_count == 1 && ids.gid_count == 1);
        run_child(&ids);
}

static void with_subordinates(void)
{
        struct cas_err err = CAS_ERR_INIT;
        struct rootless_ids ids;
        prepare("nobody:700000:65536\n");
        MUST(rootless_ids_find(&ids, &err) == 0 && ids.uid_count == 2 && ids.gid_count == 2);
        run_child(&ids);
        /* Ids that are not its own. */
        ids.uids[1].outside = 800000;
        struct rootless_child c;
        MUST(rootless_start(&ids, NULL, is_root, &ids, &c, &err) == -CAS_E_DENIED);
        MUST(strstr(err.msg, "newuidmap"));
}

/* Files of a subordinate id, in a directory that only it can write. */
static int make_files(void *arg)
{
        char path[400];
        const char *dir = arg;
        snprintf(path, sizeof(path), "%s/sub", dir);
        if (mkdir(dir, 0777) != 0 || chmod(dir, 0777) != 0 || setresgid(9, 9, 9) != 0 ||
            setresuid(9, 9, 9) != 0 || mkdir(path, 0700) != 0)
                return 1;
        snprintf(path, sizeof(path), "%s/sub/file", dir);
        return open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) < 0;
}

static void removes_what_subordinates_own(void)
{
        struct cas_err err = CAS_ERR_INIT;
        struct rootless_ids ids;
        struct rootless_child c;
        char dir[340];
        prepare("nobody:700000:65536\n");
        MUST(rootless_ids_find(&ids, &err) == 0 && ids.uid_count == 2);
        snprintf(dir, sizeof(dir), "%s/files", point);
        MUST(rootless_start(&ids, NULL, make_files, dir, &c, &err) == 0 && c.fuse_fd == -1);
        int status;
        rootless_go(&c);
        MUST(waitpid(c.pid, &status, 0) == c.pid && status == 0);
        MUST(rootless_remove_tree(&ids, dir, &err) == 0);
        MUST(access(dir, F_OK) < 0 && errno == ENOENT);
        MUST(rootless_remove_tree(&ids, dir, &err) == 0); /* absent */
}

static void gives_up(void)
{
        struct cas_err err = CAS_ERR_INIT;
        struct rootless_ids ids;
        struct rootless_child c;
        prepare("");
        MUST(rootless_ids_find(&ids, &err) == 0);
        MUST(rootless_start(&ids, point, is_root, &ids, &c, &err) == 0);
        pid_t pid = c.pid;
        rootless_release(&c);
        MUST(kill(pid, 0) < 0 && errno == ESRCH);
}

static void test_alone(void **state)
{
        (void)state;
        in_child(alone);
}
static void test_with_subordinates(void **state)
{
        (void)state;
        in_child(with_subordinates);
}
static void test_removes(void **state)
{
        (void)state;
        in_child(removes_what_subordinates_own);
}
static void test_gives_up(void **state)
{
        (void)state;
        in_child(gives_up);
}

static int make_scratch(void **state)
{
        (void)state;
        scratch = scratch_new();
        snprintf(point, sizeof(point), "%s/point", scratch);
        return chmod(scratch, 0755) || mkdir(point, 0755) ||
               (geteuid() == 0 && chown(point, SOMEBODY, SOMEBODY));
}

static int drop_scratch(void **state)
{
        (void)state;
        scratch_free(scratch);
        return 0;
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(ranges_of_a_user),       cmocka_unit_test(ranges_have_limits),
                cmocka_unit_test(maps_are_texts),         cmocka_unit_test(test_alone),
                cmocka_unit_test(test_with_subordinates), cmocka_unit_test(test_removes),
                cmocka_unit_test(test_gives_up),
        };
        return cmocka_run_group_tests(tests, make_scratch, drop_scratch);
}
