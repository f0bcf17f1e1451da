/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "cas/buf.h"
#include "fusefs/connection_int.h"
#include "fusefs/idmap_int.h"
#include "fusefs/kmount_int.h"

static int write_proc(pid_t pid, const char *name, const char *text, struct cas_err *err)
{
        char path[64];
        (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open %s", path);
        /* The kernel takes a map in one piece only. */
        if (write(fd, text, strlen(text)) < 0)
                return cas_fail_sys(err, errno, "map ids of a user namespace (%s)", name);
        return 0;
}

static int write_ranges(pid_t pid, const char *name, const struct ffs_id_range *ranges,
                        size_t count, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        for (size_t i = 0; i < count; i++)
                cas_buf_printf(&text, "%u %u %u\n", ranges[i].image, ranges[i].host,
                               ranges[i].count);
        if (count == 0)
                cas_buf_printf(&text, "0 0 %u\n", UINT32_MAX);
        return write_proc(pid, name, cas_buf_str(&text), err);
}

/* In the namespace, until it is killed; tells the errno of what failed, or 0. */
static CAS_NORETURN void child_main(int to)
{
        int code = unshare(CLONE_NEWUSER) < 0 ? errno : 0;
        (void)!write(to, &code, sizeof(code));
        for (;;)
                (void)pause();
}

static int await_child(int from, struct cas_err *err)
{
        int code = EIO;
        ssize_t n;
        do
                n = read(from, &code, sizeof(code));
        while (n < 0 && errno == EINTR);
        if (n == (ssize_t)sizeof(code) && code == 0)
                return 0;
        return cas_fail_sys(err, code, "make a user namespace");
}

int ffs_userns_open(const char *id_map, int *out_fd, struct cas_err *err)
{
        struct ffs_idmap map;
        int ends[2];
        if (ffs_idmap_parse(id_map, &map, err) < 0)
                return -(int)err->code;
        if (pipe2(ends, O_CLOEXEC) < 0)
                return cas_fail_sys(err, errno, "pipe");
        cas_cleanup_fd int from = ends[0];
        cas_cleanup_fd int to = ends[1];
        pid_t pid = fork();
        if (pid < 0)
                return cas_fail_sys(err, errno, "fork");
        if (pid == 0)
                child_main(to);
        (void)close(cas_steal_fd(&to));
        char path[64];
        (void)snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
        int rc = await_child(from, err);
        if (rc == 0)
                rc = write_ranges(pid, "uid_map", map.uids, map.uid_count, err);
        if (rc == 0)
                rc = write_ranges(pid, "gid_map", map.gids, map.gid_count, err);
        if (rc == 0) {
                *out_fd = open(path, O_RDONLY | O_CLOEXEC);
                if (*out_fd < 0)
                        rc = cas_fail_sys(err, errno, "open %s", path);
        }
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        return rc;
}

int ffs_userns_mount_fuse(const char *dir, int *out_fd, struct cas_err *err)
{
        cas_cleanup_fd int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
        if (fd < 0 && (errno == ENOENT || errno == ENODEV || errno == ENXIO))
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "there is no usable /dev/fuse (modprobe fuse?)");
        if (fd < 0 && (errno == EACCES || errno == EPERM))
                return cas_fail(err, CAS_E_DENIED,
                                "this user may not open /dev/fuse: root lets it (chmod 0666, or "
                                "its group)");
        if (fd < 0)
                return cas_fail_sys(err, errno, "open /dev/fuse");
        char options[160];
        (void)snprintf(options, sizeof(options),
                       "fd=%d,rootmode=40755,user_id=0,group_id=0,allow_other,default_permissions,"
                       "max_read=%d",
                       fd, FFS_REQUEST_BYTES_MAX);
        if (mount("lamina", dir, "fuse.lamina", MS_NOSUID | MS_NODEV, options) < 0)
                return cas_fail_sys(err, errno, "mount FUSE at %s in a user namespace (Linux 4.18)",
                                    dir);
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

static int make_below(const char *base, const char *name, char **out, struct cas_err *err)
{
        *out = cas_xasprintf("%s/%s", base, name);
        if (mkdir(*out, 0755) < 0 && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", *out);
        return 0;
}

int ffs_userns_mount_overlay(const char *lower_dir, const char *upper_dir, const char *dir,
                             struct cas_err *err)
{
        cas_cleanup_free char *upper = NULL;
        cas_cleanup_free char *work = NULL;
        ffs_cleanup_kmount struct ffs_kmount m = {0};
        if (make_below(upper_dir, "upper", &upper, err) < 0 ||
            make_below(upper_dir, "work", &work, err) < 0 ||
            ffs_kmount_open("overlay", &m, err) < 0 ||
            ffs_kmount_set(&m, "source", "lamina", err) < 0 ||
            ffs_kmount_set_path(&m, "lowerdir+", lower_dir, err) < 0 ||
            ffs_kmount_set_path(&m, "upperdir", upper, err) < 0 ||
            ffs_kmount_set_path(&m, "workdir", work, err) < 0 ||
            ffs_kmount_flag(&m, "userxattr", err) < 0 ||
            ffs_kmount_finish(&m, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID, dir, err) < 0)
                return -(int)err->code;
        return 0;
}
