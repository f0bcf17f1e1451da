/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/upper_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cas/io.h"
#include "cas/removetree.h"

/* A directory, and no link to one: overlayfs would write behind it. *made when it was not there. */
static int make_dir(const char *path, bool *made, struct cas_err *err)
{
        struct stat st;
        *made = mkdir(path, 0755) == 0;
        if (!*made && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", path);
        if (lstat(path, &st) < 0)
                return cas_fail_sys(err, errno, "%s", path);
        if (!S_ISDIR(st.st_mode))
                return cas_fail(err, CAS_E_INVALID, "%s is not a directory", path);
        return 0;
}

/* Who else could write here could turn what root writes elsewhere by links. */
static int refuse_shared(const char *dir, struct cas_err *err)
{
        struct stat st;
        if (lstat(dir, &st) < 0)
                return cas_fail_sys(err, errno, "%s", dir);
        if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 0022))
                return cas_fail(err, CAS_E_DENIED,
                                "%s is not a directory that only its user, who is this one, can "
                                "write (chown, chmod go-w)",
                                dir);
        return 0;
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

static int bind_dir(const char *dir, const char *upper, const struct ffs_binding *want,
                    struct ffs_binding *out, struct cas_err *err)
{
        bool bound;
        cas_cleanup_free char *path = cas_xasprintf("%s/" FFS_BINDING_NAME, dir);
        cas_cleanup_free char *text = ffs_binding_format(want);
        if (binding_load(dir, out, &bound, err) < 0)
                return -(int)err->code;
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

int ffs_upper_prepare(const char *dir, const struct ffs_binding *want, struct ffs_upper *out,
                      struct cas_err *err)
{
        int n = snprintf(out->upper, sizeof(out->upper), "%s/upper", dir);
        if (n < 0 || (size_t)n >= sizeof(out->upper))
                return cas_fail(err, CAS_E_INVALID, "the path of the upper directory is too long");
        (void)snprintf(out->work, sizeof(out->work), "%s/work", dir);
        bool made;
        if (make_dir(dir, &made, err) < 0 || refuse_shared(dir, err) < 0 ||
            bind_dir(dir, out->upper, want, &out->binding, err) < 0 ||
            make_dir(out->upper, &out->fresh, err) < 0 || make_dir(out->work, &made, err) < 0)
                return -(int)err->code;
        return 0;
}

int ffs_upper_remove(const char *dir, struct cas_err *err)
{
        return cas_remove_tree(dir, err);
}
