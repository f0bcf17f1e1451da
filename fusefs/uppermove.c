/* SPDX-License-Identifier: Apache-2.0 */
/* Taking names away and moving them, each in one step that can be seen. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/sysmacros.h>

#include "fusefs/upperparts_int.h"

static bool has_limit(const struct ffs_upperlayer *u)
{
        return u->config.size_limit_bytes > 0;
}

/* Moves a name to work/, where it is gone; what is left there is a whiteout, or nothing. */
static int move_away(struct ffs_upperlayer *u, int dirfd, const char *name, bool whiteout,
                     const char *to)
{
        unsigned flags = RENAME_NOREPLACE | (whiteout ? RENAME_WHITEOUT : 0);
        return renameat2(dirfd, name, u->work_fd, to, flags) < 0 ? -errno : 0;
}

/* Present already, and a directory only if nothing but whiteouts is in it. */
static int drop(struct ffs_upperlayer *u, int dirfd, const char *name, const struct stat *st,
                bool whiteout)
{
        char temp[FFS_UPPER_TEMP_BYTES];
        int rc = S_ISDIR(st->st_mode) ? ffs_upper_only_whiteouts(u, dirfd, name) : 0;
        if (rc < 0)
                return rc;
        ffs_upper_work_name(u, temp);
        rc = move_away(u, dirfd, name, whiteout, temp);
        if (rc < 0)
                return rc;
        ffs_upper_credit(u, st);
        (void)ffs_upper_work_remove(u, temp); /* else litter: the step is done */
        return 0;
}

int ffs_upper_whiteout(struct ffs_upperlayer *u, int dirfd, const char *name)
{
        struct ffs_place at = {dirfd, name};
        struct stat st;
        if (!ffs_upper_is_name(name))
                return -EINVAL;
        int rc = ffs_place_stat(at, &st);
        if (rc == -ENOENT)
                return mknodat(dirfd, name, S_IFCHR, makedev(0, 0)) < 0 ? -errno : 0;
        if (rc < 0)
                return rc;
        if (S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0))
                return 0;
        return drop(u, dirfd, name, &st, true);
}

int ffs_upper_unlink(struct ffs_upperlayer *u, int dirfd, const char *name, bool is_dir)
{
        struct ffs_place at = {dirfd, name};
        struct stat st;
        if (!ffs_upper_is_name(name))
                return -EINVAL;
        if (has_limit(u)) {
                int rc = ffs_place_stat(at, &st);
                if (rc < 0)
                        return rc;
        }
        if (unlinkat(dirfd, name, is_dir ? AT_REMOVEDIR : 0) == 0) {
                if (has_limit(u))
                        ffs_upper_credit(u, &st);
                return 0;
        }
        if (!is_dir || (errno != ENOTEMPTY && errno != EEXIST))
                return -errno;
        int rc = ffs_place_stat(at, &st);
        return rc < 0 ? rc : drop(u, dirfd, name, &st, false);
}

/* ---- hidden names ---- */

int ffs_upper_hide(struct ffs_upperlayer *u, int dirfd, const char *name, bool whiteout,
                   const char *hidden)
{
        if (!ffs_upper_is_name(name) || !ffs_upper_is_hidden_name(hidden))
                return -EINVAL;
        return move_away(u, dirfd, name, whiteout, hidden);
}

int ffs_upper_open_hidden(struct ffs_upperlayer *u, const char *hidden, int flags, int *out_fd)
{
        return ffs_upper_is_hidden_name(hidden)
                       ? ffs_upper_open(u, u->work_fd, hidden, flags, out_fd)
                       : -EINVAL;
}

int ffs_upper_drop_hidden(struct ffs_upperlayer *u, const char *hidden, bool is_dir)
{
        struct stat st;
        if (!ffs_upper_is_hidden_name(hidden))
                return -EINVAL;
        if (has_limit(u) && ffs_place_stat((struct ffs_place){u->work_fd, hidden}, &st) == 0)
                ffs_upper_credit(u, &st);
        if (!is_dir && unlinkat(u->work_fd, hidden, 0) == 0)
                return 0;
        return ffs_upper_work_remove(u, hidden);
}

/* ---- renames ---- */

/* A directory comes where a whiteout is: they change places, so that one is left behind. */
static int rename_onto_whiteout(struct ffs_upperlayer *u, int from_fd, const char *from, int to_fd,
                                const char *to, const struct stat *whiteout, bool leave_whiteout)
{
        if (S_ISREG(whiteout->st_mode)) { /* one by xattr counts only in its own directory */
                int rc = drop(u, to_fd, to, whiteout, true);
                if (rc < 0)
                        return rc;
        }
        if (renameat2(from_fd, from, to_fd, to, RENAME_EXCHANGE) < 0)
                return -errno;
        if (!leave_whiteout)
                (void)unlinkat(from_fd, from, 0); /* if it stays it hides nothing */
        return 0;
}

static bool remove_whiteout(void *arg, const char *name, enum ffs_upper_kind kind,
                            uint8_t type CAS_UNUSED, uint64_t ino CAS_UNUSED)
{
        const int *fd = arg;
        return kind == FFS_UPPER_WHITEOUT && unlinkat(*fd, name, 0) == 0;
}

/* The directory at the target is empty but for whiteouts: made opaque, it needs none of them. */
static int clear_target(struct ffs_upperlayer *u, int to_fd, const char *to)
{
        int rc = ffs_upper_only_whiteouts(u, to_fd, to);
        if (rc < 0)
                return rc;
        cas_cleanup_fd int fd = openat(to_fd, to, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        rc = ffs_upper_set_opaque(u, fd);
        return rc < 0 ? rc : ffs_upper_list(u, fd, remove_whiteout, &fd);
}

static int rename_over(struct ffs_upperlayer *u, int from_fd, const char *from, int to_fd,
                       const char *to, bool leave_whiteout)
{
        unsigned flags = leave_whiteout ? RENAME_WHITEOUT : 0;
        if (renameat2(from_fd, from, to_fd, to, flags) == 0)
                return 0;
        enum ffs_upper_kind kind;
        struct stat st;
        int rc = -errno;
        if (rc == -ENOTDIR) {
                int why = ffs_upper_kind((struct ffs_place){to_fd, to}, u, &kind, &st);
                if (why < 0 || kind != FFS_UPPER_WHITEOUT)
                        return rc;
                return rename_onto_whiteout(u, from_fd, from, to_fd, to, &st, leave_whiteout);
        }
        if (rc != -ENOTEMPTY && rc != -EEXIST)
                return rc;
        rc = clear_target(u, to_fd, to);
        return rc == 0 && renameat2(from_fd, from, to_fd, to, flags) < 0 ? -errno : rc;
}

/* The step is done: without the mark overlayfs lists other numbers than it tells by stat. */
static void note_moved(struct ffs_upperlayer *u, int dirfd, const char *name)
{
        (void)ffs_upper_note_impure(u, (struct ffs_place){dirfd, name}, dirfd);
}

int ffs_upper_rename(struct ffs_upperlayer *u, int from_fd, const char *from, int to_fd,
                     const char *to, unsigned flags, bool leave_whiteout)
{
        if (!ffs_upper_is_name(from) || !ffs_upper_is_name(to) ||
            (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE)) ||
            ((flags & RENAME_EXCHANGE) && (leave_whiteout || (flags & RENAME_NOREPLACE))))
                return -EINVAL;
        if (flags & RENAME_EXCHANGE) {
                if (renameat2(from_fd, from, to_fd, to, RENAME_EXCHANGE) < 0)
                        return -errno;
                note_moved(u, to_fd, to);
                note_moved(u, from_fd, from);
                return 0;
        }
        enum ffs_upper_kind kind = FFS_UPPER_ABSENT;
        struct stat st;
        if ((flags & RENAME_NOREPLACE) || has_limit(u)) {
                int rc = ffs_upper_kind((struct ffs_place){to_fd, to}, u, &kind, &st);
                if (rc < 0)
                        return rc;
        }
        if ((flags & RENAME_NOREPLACE) && kind == FFS_UPPER_PRESENT)
                return -EEXIST;
        int rc = rename_over(u, from_fd, from, to_fd, to, leave_whiteout);
        if (rc == 0 && kind == FFS_UPPER_PRESENT)
                ffs_upper_credit(u, &st);
        if (rc == 0)
                note_moved(u, to_fd, to);
        return rc;
}
