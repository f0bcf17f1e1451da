/* SPDX-License-Identifier: Apache-2.0 */
/* Opening of an upper directory, its work/, and names in there.
 *
 *   upper/        what is shown
 *   work/work/    16 hex digits: without a name in upper/, and still in use;
 *                 all else: in the making, worthless without the process that made it
 *   work/index/   of overlayfs alone
 *
 * overlayfs empties work/work when it mounts, so both kinds go by themselves
 * when the upper changes hands. */
#include "fusefs/upperlayer_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/syscall.h>

#include "fusefs/upperparts_int.h"

#define OPEN_DIR (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* ---- names in work/ ---- */

void ffs_upper_work_name(struct ffs_upperlayer *u, char out[FFS_UPPER_TEMP_BYTES])
{
        uint64_t n = atomic_fetch_add_explicit(&u->next, 1, memory_order_relaxed);
        (void)snprintf(out, FFS_UPPER_TEMP_BYTES, "t%016" PRIx64 "-%" PRIx64, u->seed, n);
}

bool ffs_upper_is_hidden_name(const char *name)
{
        return strspn(name, "0123456789abcdef") == 16 && name[16] == '\0';
}

bool ffs_upper_is_name(const char *name)
{
        return name[0] != '\0' && !strchr(name, '/') && strcmp(name, ".") != 0 &&
               strcmp(name, "..") != 0;
}

/* Names of directories that are still to be removed. */
struct doomed {
        char (*names)[FFS_UPPER_TEMP_BYTES];
        size_t count, room;
};
static void doomed_release(struct doomed *d)
{
        free(d->names);
}
#define cleanup_doomed __attribute__((cleanup(doomed_release)))

/* A directory with something in it leaves its place for work/, so that depth costs nothing. */
static int doom(struct ffs_upperlayer *u, struct doomed *d, int dirfd, const char *name)
{
        if (d->count == d->room) {
                size_t room = d->room ? 2 * d->room : 16;
                void *more = realloc(d->names, room * sizeof(*d->names));
                if (!more)
                        return -ENOMEM;
                d->names = more;
                d->room = room;
        }
        ffs_upper_work_name(u, d->names[d->count]);
        if (renameat(dirfd, name, u->work_fd, d->names[d->count]) < 0)
                return -errno;
        d->count++;
        return 0;
}

static int remove_one(struct ffs_upperlayer *u, struct doomed *d, int dirfd, const char *name)
{
        if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
                return 0;
        if (errno != EISDIR)
                return -errno;
        if (unlinkat(dirfd, name, AT_REMOVEDIR) == 0)
                return 0;
        return errno == ENOTEMPTY || errno == EEXIST ? doom(u, d, dirfd, name) : -errno;
}

static int open_listing(int dirfd, const char *name, DIR **out)
{
        cas_cleanup_fd int fd =
                openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        if (!d)
                return -errno;
        (void)cas_steal_fd(&fd);
        *out = d;
        return 0;
}

static void close_listing(DIR **d)
{
        if (*d)
                (void)closedir(*d);
}

static bool is_dots(const char *name)
{
        return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static int empty_dir(struct ffs_upperlayer *u, struct doomed *d, const char *name)
{
        /* Whoever serves owns it, but its mode may keep everybody out. */
        (void)ffs_place_chmod((struct ffs_place){u->work_fd, name}, 0700);
        __attribute__((cleanup(close_listing))) DIR *list = NULL;
        int rc = open_listing(u->work_fd, name, &list);
        while (rc == 0) {
                errno = 0;
                struct dirent *e = readdir(list);
                if (!e)
                        return -errno;
                if (!is_dots(e->d_name))
                        rc = remove_one(u, d, dirfd(list), e->d_name);
        }
        return rc;
}

int ffs_upper_work_remove(struct ffs_upperlayer *u, const char *name)
{
        cleanup_doomed struct doomed d = {0};
        int rc = remove_one(u, &d, u->work_fd, name);
        while (rc == 0 && d.count > 0) {
                char at[FFS_UPPER_TEMP_BYTES];
                memcpy(at, d.names[--d.count], sizeof(at));
                rc = empty_dir(u, &d, at);
                if (rc == 0 && unlinkat(u->work_fd, at, AT_REMOVEDIR) < 0)
                        rc = -errno;
        }
        return rc;
}

/* ---- opening ---- */

/* What a predecessor left. "incompat" holds the names of features that overlayfs used and that
 * forbid another mount ("volatile": data may be missing after a crash). */
static int clear_work(struct ffs_upperlayer *u)
{
        __attribute__((cleanup(close_listing))) DIR *list = NULL;
        int rc = open_listing(u->work_fd, ".", &list);
        while (rc == 0) {
                errno = 0;
                struct dirent *e = readdir(list);
                if (!e)
                        return -errno;
                if (is_dots(e->d_name) ||
                    (u->config.keep_hidden && ffs_upper_is_hidden_name(e->d_name)))
                        continue;
                if (strcmp(e->d_name, "incompat") == 0)
                        rc = unlinkat(u->work_fd, e->d_name, AT_REMOVEDIR) < 0 ? -EUCLEAN : 0;
                else
                        rc = ffs_upper_work_remove(u, e->d_name);
        }
        return rc;
}

int ffs_upper_sweep_hidden(struct ffs_upperlayer *u, bool (*is_used)(void *arg, const char *hidden),
                           void *arg)
{
        __attribute__((cleanup(close_listing))) DIR *list = NULL;
        int rc = open_listing(u->work_fd, ".", &list);
        while (rc == 0) {
                errno = 0;
                const struct dirent *e = readdir(list);
                if (!e)
                        return -errno;
                if (ffs_upper_is_hidden_name(e->d_name) && !is_used(arg, e->d_name))
                        rc = ffs_upper_work_remove(u, e->d_name);
        }
        return rc;
}

static int open_dir_at(int dirfd, const char *name, bool make, int *out_fd)
{
        if (make && mkdirat(dirfd, name, 0700) < 0 && errno != EEXIST)
                return -errno;
        *out_fd = openat(dirfd, name, OPEN_DIR);
        if (*out_fd < 0)
                return errno == ELOOP || errno == ENOTDIR ? -EUCLEAN : -errno;
        return 0;
}

/* That this file system does what every step needs, as overlayfs tries it too. */
static int probe(struct ffs_upperlayer *u)
{
        char mark[FFS_UPPER_XATTR_NAME_BYTES], a[FFS_UPPER_TEMP_BYTES], b[FFS_UPPER_TEMP_BYTES];
        ffs_upper_mark_name(u, "lamina.probe", mark);
        ffs_upper_work_name(u, a);
        ffs_upper_work_name(u, b);
        cas_cleanup_fd int fd = openat(u->work_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd < 0)
                return errno == EISDIR ? -EOPNOTSUPP : -errno;
        int rc = ffs_place_setxattr((struct ffs_place){fd, NULL}, mark, "", 0, 0);
        if (rc == 0)
                rc = ffs_place_link(fd, u->work_fd, a);
        if (rc == 0 && renameat2(u->work_fd, a, u->work_fd, b, RENAME_WHITEOUT) < 0)
                rc = errno == EINVAL ? -EOPNOTSUPP : -errno;
        (void)unlinkat(u->work_fd, a, 0);
        (void)unlinkat(u->work_fd, b, 0);
        return rc;
}

/* work/work as nobody else's default ACL, group or mode shapes what is made there. */
static int open_work(struct ffs_upperlayer *u)
{
        struct stat root, work;
        int rc = open_dir_at(u->config.dir_fd, "work", true, &u->work_base_fd);
        if (rc == 0)
                rc = open_dir_at(u->work_base_fd, "work", true, &u->work_fd);
        struct ffs_place at = {u->work_base_fd, "work"};
        if (rc == 0)
                rc = ffs_place_chmod(at, 0700);
        if (rc < 0)
                return rc;
        (void)ffs_place_removexattr(at, FFS_ACL_DEFAULT);
        if (fstat(u->root_fd, &root) < 0 || fstat(u->work_fd, &work) < 0)
                return -errno;
        if (root.st_dev != work.st_dev)
                return -EXDEV;
        rc = clear_work(u);
        return rc < 0 ? rc : probe(u);
}

static int open_all(struct ffs_upperlayer *u)
{
        if (getrandom(&u->seed, sizeof(u->seed), 0) != (ssize_t)sizeof(u->seed))
                return -EIO;
        int rc = open_dir_at(u->config.dir_fd, "upper", false, &u->root_fd);
        if (rc == 0 && !u->config.read_only)
                rc = open_work(u);
        else if (rc == 0 && open_dir_at(u->config.dir_fd, "work", false, &u->work_base_fd) < 0)
                u->work_base_fd = -1; /* of no use to who reads, but for the index */
        if (rc == 0 && u->config.size_limit_bytes > 0)
                rc = ffs_upper_count(u);
        struct stat st;
        if (rc == 0 && fstat(u->root_fd, &st) < 0)
                rc = -errno;
        u->owner = rc == 0 ? st.st_uid : u->euid;
        return rc;
}

int ffs_upperlayer_open(const struct ffs_upperlayer_config *config, struct ffs_upperlayer **out)
{
        static const char *const prefixes[] = {
                [FFS_UPPER_TRUSTED] = "trusted.overlay.", [FFS_UPPER_USER] = "user.overlay."};
        struct ffs_upperlayer *u = cas_xcalloc(1, sizeof(*u));
        u->config = *config;
        u->root_fd = u->work_base_fd = u->work_fd = -1;
        u->euid = geteuid();
        u->egid = getegid();
        u->prefix = prefixes[config->format];
        u->prefix_len = strlen(u->prefix);
        int rc = open_all(u);
        if (rc < 0) {
                ffs_upperlayer_close(u);
                return rc;
        }
        *out = u;
        return 0;
}

void ffs_upperlayer_close(struct ffs_upperlayer *u)
{
        const int fds[] = {u->root_fd, u->work_base_fd, u->work_fd};
        for (size_t i = 0; i < CAS_COUNT(fds); i++) {
                if (fds[i] >= 0)
                        (void)close(fds[i]);
        }
        free(u);
}

int ffs_upperlayer_root_fd(const struct ffs_upperlayer *u)
{
        return u->root_fd;
}

/* ---- directories by path ---- */

/* As much of a path as one call takes, ended at a slash: its length, 0 where a name is too long. */
static size_t piece_length(const char *path)
{
        size_t len = strnlen(path, PATH_MAX - 1);
        if (path[len] == '\0')
                return len;
        while (len > 0 && path[len] != '/')
                len--;
        return len;
}

static int open_piece(int dirfd, const char *path, size_t len, int *out_fd)
{
        char piece[PATH_MAX];
        memcpy(piece, path, len);
        piece[len] = '\0';
        struct open_how how = {
                .flags = OPEN_DIR,
                .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
        };
        /* For reading where it may be read: xattrs are asked of it in one call then. */
        how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOATIME;
        long fd = syscall(SYS_openat2, dirfd, piece, &how, sizeof(how));
        if (fd < 0 && (errno == EACCES || errno == EPERM)) {
                how.flags = OPEN_DIR;
                fd = syscall(SYS_openat2, dirfd, piece, &how, sizeof(how));
        }
        if (fd < 0) {
                bool strange = errno == ELOOP || errno == ENOTDIR || errno == EXDEV;
                return errno == ENOENT ? -ESTALE : strange ? -EUCLEAN : -errno;
        }
        *out_fd = (int)fd;
        return 0;
}

int ffs_upperlayer_open_dir(const struct ffs_upperlayer *u, const char *path, int *out_fd)
{
        cas_cleanup_fd int at = -1;
        int rc = open_piece(u->root_fd, ".", 1, &at);
        while (rc == 0) {
                path += strspn(path, "/");
                if (*path == '\0') {
                        *out_fd = cas_steal_fd(&at);
                        return 0;
                }
                size_t len = piece_length(path);
                if (len == 0)
                        return -ENAMETOOLONG;
                cas_cleanup_fd int up = cas_steal_fd(&at);
                rc = open_piece(up, path, len, &at);
                path += len;
        }
        return rc;
}
