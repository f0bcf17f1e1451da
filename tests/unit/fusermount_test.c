/* SPDX-License-Identifier: Apache-2.0 */
/* Mounts of a normal user by fusermount3. Each case is a child in a mount
 * namespace of its own, with a /dev/fuse that everybody may open. */
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
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "fusefs/fusermount_int.h"
#include "fusefs/kmount_int.h"
#include "tests/support/scratch.h"

#define SOMEBODY 65534 /* nobody: fusermount3 wants a user with a name */
#define CASE_LIMIT_S 30

static char *scratch; /* SCRATCH/home is SOMEBODY's */
static char home[300], point[320];

/* In the child: statements that must hold. */
#define MUST(condition)                                                                            \
        do {                                                                                       \
                if (!(condition)) {                                                                \
                        fprintf(stderr, "%s:%d: %s (errno %d, \"%s\")\n", __FILE__, __LINE__,      \
                                #condition, errno, err.msg);                                       \
                        _exit(1);                                                                  \
                }                                                                                  \
        } while (0)

static void enter_namespace(mode_t device_mode)
{
        struct cas_err err = CAS_ERR_INIT;
        char device[320];
        MUST(unshare(CLONE_NEWNS) == 0);
        MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
        snprintf(device, sizeof(device), "%s/fuse", scratch);
        MUST(mknod(device, S_IFCHR | 0600, makedev(10, 229)) == 0 || errno == EEXIST);
        MUST(chmod(device, device_mode) == 0);
        MUST(mount(device, "/dev/fuse", NULL, MS_BIND, NULL) == 0);
}

static void become_somebody(void)
{
        struct cas_err err = CAS_ERR_INIT;
        MUST(setgroups(0, NULL) == 0 && setgid(SOMEBODY) == 0 && setuid(SOMEBODY) == 0);
}

static void in_child(void (*body)(void), mode_t device_mode)
{
        if (geteuid() != 0 || access("/dev/fuse", F_OK) != 0 ||
            access("/usr/bin/fusermount3", X_OK) != 0)
                skip();
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                (void)alarm(CASE_LIMIT_S);
                enter_namespace(device_mode);
                body();
                _exit(0);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

static void write_text(const char *path, const char *text, mode_t mode)
{
        struct cas_err err = CAS_ERR_INIT;
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
        MUST(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
        MUST(fchmod(fd, mode) == 0 && close(fd) == 0);
}

/* ---- cases ---- */

static bool mount_options_have(const char *word)
{
        char line[4096];
        bool found = false;
        FILE *f = fopen("/proc/self/mountinfo", "re");
        while (f && fgets(line, sizeof(line), f)) {
                if (strstr(line, point) && strstr(line, word))
                        found = true;
        }
        if (f)
                (void)fclose(f);
        return found;
}

static void mounts_and_unmounts(void)
{
        struct cas_err err = CAS_ERR_INIT;
        int fd = -1;
        become_somebody();
        MUST(ffs_fusermount_mount(point, "fsname=lamina,subtype=lamina,ro", &fd, &err) == 0);
        MUST(fd >= 0 && (fcntl(fd, F_GETFD) & FD_CLOEXEC));
        struct pollfd p = {.fd = fd, .events = POLLIN};
        MUST(poll(&p, 1, 5000) == 1 && (p.revents & POLLIN)); /* INIT waits */
        MUST(mount_options_have("fuse.lamina lamina ro"));
        MUST(mount_options_have("default_permissions"));
        MUST(mount_options_have("user_id=65534"));
        MUST(!mount_options_have("allow_other"));
        struct ffs_mount_id id;
        MUST(ffs_kmount_identify(point, &id, &err) == 0 && id.is_mount_root);
        (void)close(fd);
        MUST(ffs_fusermount_umount(point, false, &err) == 0);
        MUST(ffs_kmount_identify(point, &id, &err) == 0 && !id.is_mount_root);
        MUST(ffs_fusermount_umount(point, false, &err) == 0); /* absent */
}

static void others_are_allowed(void)
{
        struct cas_err err = CAS_ERR_INIT;
        char conf[320];
        int fd = -1;
        snprintf(conf, sizeof(conf), "%s/fuse.conf", scratch);
        write_text(conf, "# comment\nuser_allow_other\n", 0644);
        MUST(mount(conf, "/etc/fuse.conf", NULL, MS_BIND, NULL) == 0);
        become_somebody();
        MUST(ffs_fusermount_mount(point, NULL, &fd, &err) == 0);
        MUST(mount_options_have("allow_other"));
        MUST(ffs_fusermount_umount(point, true, &err) == 0);
        (void)close(fd);
}

static void busy_is_told(void)
{
        struct cas_err err = CAS_ERR_INIT;
        int fd = -1;
        become_somebody();
        MUST(ffs_fusermount_mount(point, NULL, &fd, &err) == 0);
        (void)close(fd); /* aborted: the root can be opened as a path */
        int in_use = open(point, O_PATH | O_CLOEXEC);
        MUST(in_use >= 0);
        MUST(ffs_fusermount_umount(point, false, &err) == -CAS_E_BUSY);
        err = (struct cas_err)CAS_ERR_INIT;
        MUST(ffs_fusermount_umount(point, true, &err) == 0);
        (void)close(in_use);
}

static void refusals_are_told(void)
{
        struct cas_err err = CAS_ERR_INIT;
        int fd = -1;
        become_somebody();
        MUST(ffs_fusermount_mount(point, "nonsense=1", &fd, &err) == -CAS_E_INVALID);
        MUST(strstr(err.msg, "nonsense"));
        err = (struct cas_err)CAS_ERR_INIT;
        MUST(ffs_fusermount_mount("/usr", NULL, &fd, &err) == -CAS_E_DENIED);
        MUST(strstr(err.msg, "/usr"));
        err = (struct cas_err)CAS_ERR_INIT;
        MUST(ffs_fusermount_mount("/nowhere/at/all", NULL, &fd, &err) == -CAS_E_NOTFOUND);
        MUST(fd == -1);
}

static void device_is_denied(void)
{
        struct cas_err err = CAS_ERR_INIT;
        int fd = -1;
        become_somebody();
        if (ffs_fusermount_mount(point, NULL, &fd, &err) == 0) {
                /* A helper that opens the device as root does not mind. */
                MUST(ffs_fusermount_umount(point, true, &err) == 0);
                return;
        }
        MUST(err.code == CAS_E_DENIED && strstr(err.msg, "/dev/fuse"));
}

static void helper_is_missing(void)
{
        struct cas_err err = CAS_ERR_INIT;
        int fd = -1;
        MUST(setenv("PATH", home, 1) == 0);
        MUST(ffs_fusermount_mount(point, NULL, &fd, &err) == -CAS_E_UNSUPPORTED);
        MUST(strstr(err.msg, "not installed"));
}

static void helper_hangs(void)
{
        struct cas_err err = CAS_ERR_INIT;
        char path[700], program[330];
        int fd = -1;
        snprintf(program, sizeof(program), "%s/fusermount3", home);
        snprintf(path, sizeof(path), "%s:%s", home, getenv("PATH"));
        write_text(program, "#!/bin/sh\nexec sleep 20\n", 0755);
        MUST(setenv("PATH", path, 1) == 0);
        MUST(ffs_fusermount_mount(point, NULL, &fd, &err) == -CAS_E_BUSY);
        /* One that ends well without a descriptor is no success either. */
        write_text(program, "#!/bin/sh\necho 'fusermount3: not today' >&2\n", 0755);
        err = (struct cas_err)CAS_ERR_INIT;
        MUST(ffs_fusermount_mount(point, NULL, &fd, &err) == -CAS_E_DENIED);
        MUST(strstr(err.msg, "not today") && !strstr(err.msg, "fusermount3: not"));
        MUST(unlink(program) == 0 && fd == -1);
}

static void test_mount(void **state)
{
        (void)state;
        in_child(mounts_and_unmounts, 0666);
}
static void test_allow_other(void **state)
{
        (void)state;
        in_child(others_are_allowed, 0666);
}
static void test_busy(void **state)
{
        (void)state;
        in_child(busy_is_told, 0666);
}
static void test_refusals(void **state)
{
        (void)state;
        in_child(refusals_are_told, 0666);
}
static void test_device(void **state)
{
        (void)state;
        in_child(device_is_denied, 0600);
}
static void test_missing(void **state)
{
        (void)state;
        in_child(helper_is_missing, 0666);
}
static void test_hangs(void **state)
{
        (void)state;
        in_child(helper_hangs, 0666);
}

static void test_conf(void **state)
{
        (void)state;
        static const struct {
                const char *text;
                bool allows;
        } cases[] = {
                {"", false},
                {"user_allow_other", true},
                {"mount_max = 5\n \tuser_allow_other \r\n", true},
                {"user_allow_other # yes\n", true},
                {"#user_allow_other\n", false},
                {"user_allow_other=1\n", false},
                {"user_allow_otherwise\n", false},
                {"not user_allow_other\n", false},
        };
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
                assert_int_equal(ffs_fusermount_conf_allows(cases[i].text, strlen(cases[i].text)),
                                 cases[i].allows);
}

static int make_scratch(void **state)
{
        (void)state;
        scratch = scratch_new();
        snprintf(home, sizeof(home), "%s/home", scratch);
        snprintf(point, sizeof(point), "%s/point", home);
        return chmod(scratch, 0755) || mkdir(home, 0755) || mkdir(point, 0755) ||
               (geteuid() == 0 &&
                (chown(home, SOMEBODY, SOMEBODY) || chown(point, SOMEBODY, SOMEBODY)));
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
                cmocka_unit_test(test_conf),        cmocka_unit_test(test_mount),
                cmocka_unit_test(test_allow_other), cmocka_unit_test(test_busy),
                cmocka_unit_test(test_refusals),    cmocka_unit_test(test_device),
                cmocka_unit_test(test_missing),     cmocka_unit_test(test_hangs),
        };
        return cmocka_run_group_tests(tests, make_scratch, drop_scratch);
}
