/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/sizedupper_int.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "cas/program.h"
#include "fusefs/kmount_int.h"
#include "fusefs/loopdev_int.h"

#define NEW_NAME FFS_SIZEDUPPER_NAME ".new"
/* Written out, so that neither the host's mke2fs.conf nor its release decides. The journal, its
 * smallest, keeps names whole when the machine loses power; nothing is set aside for root or for
 * growth, and inode tables stay holes until they are used. */
#define FEATURES                                                                                   \
        "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,"          \
        "large_file,huge_file,dir_nlink,extra_isize,metadata_csum"
#define JOURNAL "size=4"
#define BYTES_PER_INODE "8192" /* packages are full of small files */
#define EXTENDED "lazy_itable_init=1,nodiscard,root_owner=0:0"

static int open_regular(int dir_fd, int *out_fd, struct cas_err *err)
{
        struct stat st;
        cas_cleanup_fd int fd =
                openat(dir_fd, FFS_SIZEDUPPER_NAME, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return cas_fail_sys(err, errno, "open " FFS_SIZEDUPPER_NAME);
        if (!S_ISREG(st.st_mode) || st.st_uid != geteuid())
                return cas_fail(err, CAS_E_INVALID, FFS_SIZEDUPPER_NAME " is no file of ours");
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

static int make_file(int dir_fd, uint64_t size_bytes, struct cas_err *err)
{
        (void)unlinkat(dir_fd, NEW_NAME, 0);
        cas_cleanup_fd int fd =
                openat(dir_fd, NEW_NAME, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0 || ftruncate(fd, (off_t)size_bytes) < 0)
                return cas_fail_sys(err, errno, "make " FFS_SIZEDUPPER_NAME);
        /* mke2fs opens it by a path, which leads to this very file. */
        char path[64];
        (void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)getpid(), fd);
        const char *const argv[] = {
                "mke2fs",        "-q", "-F",     "-t", "ext4",   "-b", "4096",  "-I",
                "256",           "-m", "0",      "-O", FEATURES, "-J", JOURNAL, "-i",
                BYTES_PER_INODE, "-E", EXTENDED, "-L", "lamina", path, NULL};
        const char *const envp[] = {CAS_PROGRAM_PATH, "LC_ALL=C", "MKE2FS_CONFIG=/dev/null", NULL};
        if (cas_program_run(argv, envp, "e2fsprogs", err) < 0)
                return -(int)err->code;
        if (fsync(fd) < 0 || renameat(dir_fd, NEW_NAME, dir_fd, FFS_SIZEDUPPER_NAME) < 0 ||
            fsync(dir_fd) < 0)
                return cas_fail_sys(err, errno, "make " FFS_SIZEDUPPER_NAME);
        return 0;
}

int ffs_sizedupper_make(int dir_fd, uint64_t size_bytes, struct cas_err *err)
{
        struct stat st;
        if (fstatat(dir_fd, FFS_SIZEDUPPER_NAME, &st, AT_SYMLINK_NOFOLLOW) == 0)
                return 0;
        if (errno != ENOENT)
                return cas_fail_sys(err, errno, FFS_SIZEDUPPER_NAME);
        if (size_bytes < FFS_SIZEDUPPER_BYTES_MIN || size_bytes > FFS_SIZEDUPPER_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT,
                                "a size of %llu bytes: it must be %llu MiB to "
                                "%llu TiB",
                                (unsigned long long)size_bytes,
                                (unsigned long long)FFS_SIZEDUPPER_BYTES_MIN >> 20,
                                (unsigned long long)FFS_SIZEDUPPER_BYTES_MAX >> 40);
        int rc = make_file(dir_fd, size_bytes, err);
        if (rc < 0)
                (void)unlinkat(dir_fd, NEW_NAME, 0);
        return rc;
}

/* Two loop devices over one file would be two file systems that know nothing of each other: who
 * looks and attaches holds the directory's lock. It belongs to what was opened: one of our own. */
static int lock_dir(int dir_fd, int *out_fd, struct cas_err *err)
{
        cas_cleanup_fd int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int rc = -1;
        while (fd >= 0 && (rc = flock(fd, LOCK_EX)) < 0 && errno == EINTR)
                ;
        if (rc < 0)
                return cas_fail_sys(err, errno, "lock the upper directory");
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

int ffs_sizedupper_lock(int dir_fd, int *out_lock_fd, bool *in_use, struct cas_err *err)
{
        char name[FFS_LOOP_NAME_BYTES];
        struct cas_err why = CAS_ERR_INIT;
        cas_cleanup_fd int fd = -1;
        cas_cleanup_fd int lock_fd = -1;
        cas_cleanup_fd int loop_fd = -1;
        int rc = lock_dir(dir_fd, &lock_fd, err);
        if (rc < 0)
                return rc;
        rc = open_regular(dir_fd, &fd, &why);
        if (rc == 0)
                rc = ffs_loop_find(fd, name, &loop_fd, &why);
        *in_use = rc == 0;
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = why;
                return rc;
        }
        *out_lock_fd = cas_steal_fd(&lock_fd);
        return 0;
}

/* The device that has the file already, or a new one. */
static int attach(int fd, char name[FFS_LOOP_NAME_BYTES], int *out_loop_fd, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        int rc = ffs_loop_find(fd, name, out_loop_fd, &why);
        if (rc == -CAS_E_NOTFOUND) {
                why = (struct cas_err)CAS_ERR_INIT;
                rc = ffs_loop_attach(fd, LO_FLAGS_DIRECT_IO, name, out_loop_fd, &why);
        }
        if (rc < 0)
                *err = why;
        return rc;
}

int ffs_sizedupper_mount(int dir_fd, bool read_only, int *out_mount_fd, struct cas_err *err)
{
        char name[FFS_LOOP_NAME_BYTES];
        cas_cleanup_fd int fd = -1;
        cas_cleanup_fd int loop_fd = -1;
        cas_cleanup_fd int lock_fd = -1;
        ffs_cleanup_kmount struct ffs_kmount m = {0};
        unsigned attributes = read_only ? MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID |
                                                  MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOATIME
                                        : 0;
        if (lock_dir(dir_fd, &lock_fd, err) < 0 || open_regular(dir_fd, &fd, err) < 0 ||
            attach(fd, name, &loop_fd, err) < 0 || ffs_kmount_open("ext4", &m, err) < 0 ||
            ffs_kmount_set(&m, "source", name, err) < 0 ||
            ffs_kmount_flag(&m, "noinit_itable", err) < 0 ||
            ffs_kmount_flag(&m, "discard", err) < 0 ||
            ffs_kmount_detached(&m, attributes, out_mount_fd, err) < 0)
                return -(int)err->code;
        return 0;
}
