/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of uppers. Of work/ only overlayfs's index is taken, which has the hard
 * links of lower files; the mark that ties it to the original upper is left out,
 * and made anew by the next mount, as are numbers that tell one overlay from
 * another. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "cas/io.h"
#include "cas/removetree.h"
#include "fusefs/copytree_int.h"
#include "fusefs/sizedupper_int.h"
#include "fusefs/upper_int.h"

static const char *const tied_xattrs[] = {"trusted.overlay.upper", "user.overlay.upper",
                                          "trusted.overlay.uuid", "user.overlay.uuid", NULL};

/* ---- the new directory ---- */

static bool is_empty(int fd)
{
        int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = copy < 0 ? NULL : fdopendir(copy);
        int entries = 0;
        while (d && entries < 3 && readdir(d))
                entries++;
        if (d)
                (void)closedir(d);
        return d && entries < 3;
}

static int make_target(const char *dir, bool *made, int *out_fd, struct cas_err *err)
{
        *made = mkdir(dir, 0700) == 0;
        if (!*made && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", dir);
        cas_cleanup_fd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open %s", dir);
        if (!is_empty(fd))
                return cas_fail(err, CAS_E_EXISTS, "%s is not empty", dir);
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

/* ---- copies ---- */

static int copy_if_there(struct ffs_copytree *c, int from, int to, const char *name,
                         struct cas_err *err)
{
        if (faccessat(from, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
                return 0;
        return ffs_copytree_add(c, from, to, name, tied_xattrs, err);
}

/* upper/, and the index that has further names of what is in it. */
static int copy_upper(struct ffs_copytree *c, int from, int to, struct cas_err *err)
{
        if (mkdirat(to, "work", 0755) < 0)
                return cas_fail_sys(err, errno, "make work");
        if (ffs_copytree_add(c, from, to, "upper", tied_xattrs, err) < 0)
                return -(int)err->code;
        return copy_if_there(c, from, to, "work/index", err);
}

static int copy_image_file(struct ffs_copytree *c, int from_dir, int to_dir, struct cas_err *err)
{
        int flags = O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
        cas_cleanup_fd int from = openat(from_dir, FFS_SIZEDUPPER_NAME, O_RDONLY | flags);
        cas_cleanup_fd int to = from < 0 ? -1
                                         : openat(to_dir, FFS_SIZEDUPPER_NAME,
                                                  O_RDWR | O_CREAT | O_EXCL | flags, 0600);
        if (to < 0)
                return cas_fail_sys(err, errno, FFS_SIZEDUPPER_NAME);
        return ffs_copytree_data(c, from, to, err);
}

/* Into a file system of its own, of the same size. */
static int copy_into_image(struct ffs_copytree *c, int from_dir, int to_dir, uint64_t size_bytes,
                           struct cas_err *err)
{
        cas_cleanup_fd int from = -1;
        cas_cleanup_fd int to = -1;
        if (ffs_sizedupper_mount(from_dir, true, &from, err) < 0 ||
            ffs_sizedupper_make(to_dir, size_bytes, err) < 0 ||
            ffs_sizedupper_mount(to_dir, false, &to, err) < 0)
                return -(int)err->code;
        return copy_upper(c, from, to, err);
}

/* A file system that nobody has mounted is copied as a file; the lock keeps it so. */
static int copy_sized(struct ffs_copytree *c, int from_dir, int to_dir, uint64_t size_bytes,
                      struct cas_err *err)
{
        bool in_use;
        cas_cleanup_fd int lock = -1;
        if (ffs_sizedupper_lock(from_dir, &lock, &in_use, err) < 0)
                return -(int)err->code;
        if (!in_use)
                return copy_image_file(c, from_dir, to_dir, err);
        (void)close(cas_steal_fd(&lock));
        return copy_into_image(c, from_dir, to_dir, size_bytes, err);
}

static int clone_into(struct ffs_copytree *c, int from, int to, const char *new_dir,
                      struct ffs_binding *binding, bool frozen, struct cas_err *err)
{
        int rc = binding->has_image ? copy_sized(c, from, to, binding->size_limit_bytes, err)
                                    : copy_upper(c, from, to, err);
        if (rc == 0)
                rc = copy_if_there(c, from, to, "volumes", err);
        if (rc < 0)
                return rc;
        binding->frozen = frozen;
        cas_cleanup_free char *text = ffs_binding_format(binding);
        cas_cleanup_free char *path = cas_xasprintf("%s/" FFS_BINDING_NAME, new_dir);
        if (syncfs(to) < 0)
                return cas_fail_sys(err, errno, "sync %s", new_dir);
        return cas_io_replace_file(cas_io_posix(), AT_FDCWD, new_dir, path, text, strlen(text),
                                   0600, err);
}

int ffs_upper_clone(const char *dir, const char *new_dir, bool frozen, struct ffs_clone_counts *out,
                    struct cas_err *err)
{
        struct ffs_binding binding;
        cas_cleanup_fd int from = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        cas_cleanup_fd int to = -1;
        bool made = false;
        if (from < 0)
                return cas_fail_sys(err, errno, "open %s", dir);
        if (ffs_binding_read(from, &binding, err) < 0)
                return cas_err_wrap(err, "%s", dir);
        /* The kernel gets it to mount. */
        if (binding.has_image && ffs_upper_refuse_shared(from, dir, err) < 0)
                return -(int)err->code;
        if (make_target(new_dir, &made, &to, err) < 0)
                return -(int)err->code;
        ffs_cleanup_copytree struct ffs_copytree *c =
                ffs_copytree_new(frozen && binding.frozen && !binding.has_image);
        int rc = clone_into(c, from, to, new_dir, &binding, frozen, err);
        *out = *ffs_copytree_counts(c);
        if (rc < 0) {
                struct cas_err ignored = CAS_ERR_INIT;
                (void)!cas_remove_tree(new_dir, &ignored);
                if (!made)
                        (void)mkdir(new_dir, 0700);
        }
        return rc;
}
