/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/loopdev_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define LOOP_TRIES 16
#define BLOCK_BYTES 4096

static int configure(int loop_fd, int fd, uint32_t flags)
{
        struct loop_config config = {
                .fd = (uint32_t)fd,
                .block_size = BLOCK_BYTES,
                .info.lo_flags = LO_FLAGS_AUTOCLEAR | flags,
        };
        if (ioctl(loop_fd, LOOP_CONFIGURE, &config) == 0)
                return 0;
        if (!(flags & LO_FLAGS_DIRECT_IO) || errno == EBUSY)
                return -1;
        config.info.lo_flags &= ~(uint32_t)LO_FLAGS_DIRECT_IO;
        return ioctl(loop_fd, LOOP_CONFIGURE, &config);
}

int ffs_loop_attach(int fd, uint32_t flags, char name[FFS_LOOP_NAME_BYTES], int *out_loop_fd,
                    struct cas_err *err)
{
        cas_cleanup_fd int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
        if (control < 0)
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "there are no loop devices (/dev/loop-control)");
        for (int i = 0; i < LOOP_TRIES; i++) {
                int number = ioctl(control, LOOP_CTL_GET_FREE);
                if (number < 0)
                        return cas_fail_sys(err, errno, "find a free loop device");
                (void)snprintf(name, FFS_LOOP_NAME_BYTES, "/dev/loop%d", number);
                cas_cleanup_fd int loop_fd = open(name, O_RDWR | O_CLOEXEC);
                if (loop_fd < 0)
                        return cas_fail_sys(err, errno, "open %s", name);
                if (configure(loop_fd, fd, flags) == 0) {
                        *out_loop_fd = cas_steal_fd(&loop_fd);
                        return 0;
                }
                if (errno != EBUSY) /* else another process was quicker */
                        return cas_fail_sys(err, errno, "configure %s", name);
        }
        return cas_fail(err, CAS_E_BUSY, "no free loop device");
}

/* Whether a loop device is over the file. */
static bool is_over(int loop_fd, const struct stat *file)
{
        struct loop_info64 info;
        return ioctl(loop_fd, LOOP_GET_STATUS64, &info) == 0 &&
               info.lo_inode == (uint64_t)file->st_ino && info.lo_device == (uint64_t)file->st_dev;
}

int ffs_loop_find(int fd, char name[FFS_LOOP_NAME_BYTES], int *out_loop_fd, struct cas_err *err)
{
        struct stat st;
        if (fstat(fd, &st) < 0)
                return cas_fail_sys(err, errno, "file of a loop device");
        DIR *blocks = opendir("/sys/block");
        if (!blocks)
                return cas_fail_sys(err, errno, "open /sys/block");
        int found = -1;
        for (struct dirent *e; found < 0 && (e = readdir(blocks));) {
                /* Only those in use: opening a free one would keep it from whoever takes it. */
                cas_cleanup_free char *used =
                        cas_xasprintf("/sys/block/%s/loop/backing_file", e->d_name);
                int n = strncmp(e->d_name, "loop", 4) == 0 && access(used, F_OK) == 0
                                ? snprintf(name, FFS_LOOP_NAME_BYTES, "/dev/%s", e->d_name)
                                : -1;
                cas_cleanup_fd int loop_fd =
                        n > 0 && n < FFS_LOOP_NAME_BYTES ? open(name, O_RDONLY | O_CLOEXEC) : -1;
                if (loop_fd >= 0 && is_over(loop_fd, &st))
                        found = cas_steal_fd(&loop_fd);
        }
        (void)closedir(blocks);
        if (found < 0)
                return cas_fail(err, CAS_E_NOTFOUND, "no loop device is over the file");
        *out_loop_fd = found;
        return 0;
}
