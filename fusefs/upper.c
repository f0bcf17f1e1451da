/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/upper_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "cas/io.h"
#include "cas/removetree.h"
#include "fusefs/kmount_int.h"
#include "fusefs/sizedupper_int.h"
#include "fusefs/upper.h"

#define GONE_NAME "gone" /* in DIR, what is being removed */
#define SHOWN_NAME "mnt" /* in DIR, while a file system is shown to overlayfs */

/* A directory, and no link to one: overlayfs would write behind it. *made when it was not there. */
static int make_dir(const char *path, bool *made, struct cas_err *err)
{
        struct stat st;
        *made = mkdir(path, 0700) == 0; /* set-id programs of sandboxes are for nobody here */
        if (!*made && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", path);
        if (lstat(path, &st) < 0)
                return cas_fail_sys(err, errno, "%s", path);
        if (!S_ISDIR(st.st_mode))
                return cas_fail(err, CAS_E_INVALID, "%s is not a directory", path);
        return 0;
}

/* Who else could write here could turn what root writes elsewhere by links. */
static int refuse_if_shared(const struct stat *st, const char *dir, struct cas_err *err)
{
        if (!S_ISDIR(st->st_mode) || st->st_uid != geteuid() || (st->st_mode & 0022))
                return cas_fail(err, CAS_E_DENIED,
                                "%s is not a directory that only its user, who is this one, can "
                                "write (chown, chmod go-w)",
                                dir);
        return 0;
}

static int refuse_shared(const char *dir, struct cas_err *err)
{
        struct stat st;
        if (lstat(dir, &st) < 0)
                return cas_fail_sys(err, errno, "%s", dir);
        return refuse_if_shared(&st, dir, err);
}

int ffs_upper_refuse_shared(int fd, const char *dir, struct cas_err *err)
{
        struct stat st;
        if (fstat(fd, &st) < 0)
                return cas_fail_sys(err, errno, "%s", dir);
        return refuse_if_shared(&st, dir, err);
}

static int refuse_foreign(const char *upper, struct cas_err *err)
{
        DIR *d = opendir(upper);
        if (!d)
                return errno == ENOENT ? 0 : cas_fail_sys(err, errno, "open %s", upper);
        int entries = 0;
        while (readdir(d))
                entries++;
        (void)closedir(d);
        if (entries > 2)
                return cas_fail(err, CAS_E_INVALID,
                                "%s has files, but no %s beside it says over which trees they "
                                "were made: use an empty directory",
                                upper, FFS_BINDING_NAME);
        return 0;
}

/* What DIR is bound to; *bound false where it has no binding. */
static int binding_load(const char *dir, struct ffs_binding *out, bool *bound, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        cas_cleanup_fd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open %s", dir);
        int rc = ffs_binding_read(fd, out, &why);
        *bound = rc == 0;
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = why;
        return cas_err_wrap(err, "%s", dir);
}

static int bind_dir(const char *dir, const struct ffs_binding *want, struct ffs_binding *out,
                    struct cas_err *err)
{
        bool bound;
        cas_cleanup_free char *upper = cas_xasprintf("%s/upper", dir);
        cas_cleanup_free char *path = cas_xasprintf("%s/" FFS_BINDING_NAME, dir);
        cas_cleanup_free char *text = ffs_binding_format(want);
        if (binding_load(dir, out, &bound, err) < 0)
                return -(int)err->code;
        if (bound && out->frozen)
                return cas_fail(err, CAS_E_INVALID,
                                "%s is a snapshot, which stays as it is: lamina clone --upper %s "
                                "NEW-DIR, and mount that",
                                dir, dir);
        if (bound && !ffs_binding_fits(out, want))
                return cas_fail(err, CAS_E_INVALID,
                                "%s was made over other trees or options (see %s): an "
                                "upper directory fits only the image it was made over",
                                dir, path);
        if (bound)
                return 0;
        *out = *want;
        if (refuse_foreign(upper, err) < 0)
                return -(int)err->code;
        return cas_io_replace_file(cas_io_posix(), AT_FDCWD, dir, path, text, strlen(text), 0600,
                                   err);
}

static int make_dir_at(int dirfd, const char *name, bool *made, struct cas_err *err)
{
        struct stat st;
        *made = mkdirat(dirfd, name, 0755) == 0;
        if (!*made && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s of the upper directory", name);
        if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return cas_fail_sys(err, errno, "%s of the upper directory", name);
        if (!S_ISDIR(st.st_mode))
                return cas_fail(err, CAS_E_INVALID, "%s of the upper directory is no directory",
                                name);
        return 0;
}

/* Mounts the file system of a limited size; overlayfs wants paths, so it is shown for a while. */
static int show_sized(const char *dir, int dir_fd, struct ffs_upper *out, struct cas_err *err)
{
        cas_cleanup_free char *at = cas_xasprintf("%s/" SHOWN_NAME, dir);
        cas_cleanup_fd int mount_fd = -1;
        bool made;
        if (ffs_sizedupper_make(dir_fd, out->binding.size_limit_bytes, err) < 0 ||
            ffs_sizedupper_mount(dir_fd, false, &mount_fd, err) < 0 ||
            make_dir(at, &made, err) < 0 || ffs_kmount_detach(at, true, err) < 0)
                return cas_err_wrap(err, "%s", dir);
        if (move_mount(mount_fd, "", AT_FDCWD, at, MOVE_MOUNT_F_EMPTY_PATH) < 0)
                return cas_fail_sys(err, errno, "mount at %s", at);
        (void)snprintf(out->shown, sizeof(out->shown), "%s", at);
        return 0;
}

/* Where upper/ and work/ are, by path and descriptor. */
static int find_place(const char *dir, struct ffs_upper *out, struct cas_err *err)
{
        cas_cleanup_fd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open %s", dir);
        /* Again: who can write above it may have put another there. */
        if (ffs_upper_refuse_shared(fd, dir, err) < 0)
                return -(int)err->code;
        const char *place = dir;
        if (out->binding.has_image) {
                if (show_sized(dir, fd, out, err) < 0)
                        return -(int)err->code;
                (void)close(cas_steal_fd(&fd));
                place = out->shown;
                fd = open(place, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (fd < 0)
                        return cas_fail_sys(err, errno, "open %s", place);
        }
        out->fd = cas_steal_fd(&fd);
        int n = snprintf(out->upper, sizeof(out->upper), "%s/upper", place);
        if (n < 0 || (size_t)n >= sizeof(out->upper) ||
            snprintf(out->work, sizeof(out->work), "%s/work", place) < 0)
                return cas_fail(err, CAS_E_INVALID, "the path of the upper directory is too long");
        return 0;
}

static int make_parts(struct ffs_upper *u, const char *tree_path, struct cas_err *err)
{
        bool fresh, made;
        if (make_dir_at(u->fd, "upper", &fresh, err) < 0 ||
            make_dir_at(u->fd, "work", &made, err) < 0)
                return -(int)err->code;
        if (fresh && ffs_upper_take_root(u, tree_path, err) < 0) {
                (void)unlinkat(u->fd, "upper", AT_REMOVEDIR); /* not one that is as it came */
                return -(int)err->code;
        }
        return 0;
}

int ffs_upper_prepare(const char *dir, const struct ffs_binding *want, const char *tree_path,
                      struct ffs_upper *out, struct cas_err *err)
{
        bool made;
        *out = (struct ffs_upper)FFS_UPPER_INIT;
        if (make_dir(dir, &made, err) < 0 || refuse_shared(dir, err) < 0 ||
            bind_dir(dir, want, &out->binding, err) < 0 || find_place(dir, out, err) < 0 ||
            make_parts(out, tree_path, err) < 0) {
                ffs_upper_release(out);
                return -(int)err->code;
        }
        return 0;
}

void ffs_upper_release(struct ffs_upper *u)
{
        struct cas_err ignored = CAS_ERR_INIT;
        if (u->fd >= 0)
                (void)close(cas_steal_fd(&u->fd));
        if (u->shown[0] && ffs_kmount_detach(u->shown, true, &ignored) == 0)
                (void)rmdir(u->shown);
        u->shown[0] = '\0';
}

int ffs_upper_reach(const char *dir, struct ffs_binding *binding, int *out_fd, struct cas_err *err)
{
        cas_cleanup_fd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open %s", dir);
        struct cas_err why = CAS_ERR_INIT;
        int rc = ffs_binding_read(fd, binding, &why);
        if (rc == -CAS_E_NOTFOUND)
                return cas_fail(err, CAS_E_INVALID, "%s is no upper directory: it has no %s", dir,
                                FFS_BINDING_NAME);
        if (rc < 0) {
                *err = why;
                return cas_err_wrap(err, "%s", dir);
        }
        if (!binding->has_image) {
                *out_fd = cas_steal_fd(&fd);
                return 0;
        }
        cas_cleanup_fd int mount_fd = -1;
        if (ffs_upper_refuse_shared(fd, dir, err) < 0 ||
            ffs_sizedupper_mount(fd, true, &mount_fd, err) < 0)
                return cas_err_wrap(err, "%s", dir);
        *out_fd = openat(mount_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return *out_fd < 0 ? cas_fail_sys(err, errno, "open %s", dir) : 0;
}

int ffs_upper_describe(const char *dir, struct ffs_upper_info *out, struct cas_err *err)
{
        struct ffs_binding b;
        bool bound;
        if (binding_load(dir, &b, &bound, err) < 0)
                return -(int)err->code;
        if (!bound)
                return cas_fail(err, CAS_E_INVALID, "%s is no upper directory: it has no %s", dir,
                                FFS_BINDING_NAME);
        *out = (struct ffs_upper_info){.manifest = b.manifest,
                                       .tree_count = b.tree_count,
                                       .size_limit_bytes = b.size_limit_bytes,
                                       .frozen = b.frozen};
        memcpy(out->name, b.name, sizeof(out->name));
        memcpy(out->id_map, b.id_map, sizeof(out->id_map));
        memcpy(out->trees, b.trees, sizeof(out->trees));
        return 0;
}

/* Away from its name first: what is half removed is no upper. */
static int drop_directory(const char *dir, const char *name, struct cas_err *err)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", dir, name);
        cas_cleanup_free char *gone = cas_xasprintf("%s/" GONE_NAME, dir);
        if (cas_remove_tree(gone, err) < 0)
                return -(int)err->code;
        if (rename(path, gone) < 0)
                return errno == ENOENT ? 0 : cas_fail_sys(err, errno, "remove %s", path);
        return cas_remove_tree(gone, err);
}

/* Who still has it open, as a server that has not let go of it yet, keeps a file without a name. */
static int drop_image(const char *dir, struct cas_err *err)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/" FFS_SIZEDUPPER_NAME, dir);
        if (unlink(path) < 0 && errno != ENOENT)
                return cas_fail_sys(err, errno, "remove %s", path);
        return 0;
}

int ffs_upper_reset(const char *dir, struct cas_err *err)
{
        struct ffs_binding b;
        bool bound;
        if (refuse_shared(dir, err) < 0 || binding_load(dir, &b, &bound, err) < 0)
                return -(int)err->code;
        if (!bound)
                return cas_fail(err, CAS_E_INVALID, "%s is no upper directory: it has no %s", dir,
                                FFS_BINDING_NAME);
        if (b.frozen)
                return cas_fail(err, CAS_E_INVALID, "%s is a snapshot, which stays as it is", dir);
        if (b.has_image && drop_image(dir, err) < 0)
                return -(int)err->code;
        if (drop_directory(dir, "upper", err) < 0 || drop_directory(dir, "work", err) < 0 ||
            drop_directory(dir, "volumes", err) < 0)
                return -(int)err->code;
        return 0;
}

int ffs_upper_remove(const char *dir, struct cas_err *err)
{
        cas_cleanup_free char *shown = cas_xasprintf("%s/" SHOWN_NAME, dir);
        if (ffs_kmount_detach(shown, true, err) < 0)
                return -(int)err->code;
        return cas_remove_tree(dir, err);
}
