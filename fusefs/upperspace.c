/* SPDX-License-Identifier: Apache-2.0 */
/* How much an upper may hold, for its limit: the sizes of its files in blocks, and
 * a little for each inode. Counted once when it is opened; from then on by what
 * callers say. Both ways count the same, or who makes and removes files again and
 * again would get more than the limit, or less. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "fusefs/upperparts_int.h"

/* ---- the first count ---- */

struct walk {
        struct ffs_upperlayer *u;
        uint64_t bytes;
        char **paths; /* of directories to come, owned */
        size_t count, room;
        const char *at; /* the directory that is being listed */
        size_t depth;
        int fd;
        int rc;
};

uint64_t ffs_upper_cost(uint64_t size_bytes)
{
        return size_bytes > UINT64_MAX - FFS_UPPER_BLOCK_BYTES
                       ? UINT64_MAX
                       : cas_align_up(size_bytes, FFS_UPPER_BLOCK_BYTES);
}

/* A file of several names is counted by its parts. */
static uint64_t share_of(const struct stat *st)
{
        uint64_t links = st->st_nlink && !S_ISDIR(st->st_mode) ? st->st_nlink : 1;
        uint64_t data = S_ISREG(st->st_mode) ? ffs_upper_cost((uint64_t)st->st_size) : 0;
        return (data + FFS_UPPER_INODE_BYTES) / links;
}

static int push(struct walk *w, const char *name)
{
        if (w->depth == FFS_UPPER_DEPTH_MAX)
                return -EUCLEAN;
        if (w->count == w->room) {
                size_t room = w->room ? 2 * w->room : 64;
                char **more = realloc(w->paths, room * sizeof(*more));
                if (!more)
                        return -ENOMEM;
                w->paths = more;
                w->room = room;
        }
        w->paths[w->count++] = cas_xasprintf("%s/%s", w->at, name);
        return 0;
}

static bool count_one(void *arg, const char *name, enum ffs_upper_kind kind CAS_UNUSED,
                      uint8_t type CAS_UNUSED, uint64_t ino CAS_UNUSED)
{
        struct walk *w = arg;
        struct stat st;
        w->rc = ffs_place_stat((struct ffs_place){w->fd, name}, &st);
        if (w->rc == 0) {
                w->bytes += share_of(&st);
                w->rc = S_ISDIR(st.st_mode) ? push(w, name) : 0;
        }
        return w->rc == 0;
}

static size_t depth_of(const char *path)
{
        size_t n = 0;
        for (; *path; path++)
                n += *path == '/';
        return n;
}

static int count_dir(struct walk *w, const char *path)
{
        cas_cleanup_fd int fd = -1;
        int rc = ffs_upperlayer_open_dir(w->u, path, &fd);
        if (rc < 0)
                return rc;
        w->at = path;
        w->depth = depth_of(path);
        w->fd = fd;
        rc = ffs_upper_list(w->u, fd, count_one, w);
        return rc < 0 ? rc : w->rc;
}

int ffs_upper_count(struct ffs_upperlayer *u)
{
        struct walk w = {.u = u};
        int rc = count_dir(&w, "");
        while (rc == 0 && w.count > 0) {
                cas_cleanup_free char *path = w.paths[--w.count];
                rc = count_dir(&w, path);
        }
        while (w.count > 0)
                free(w.paths[--w.count]);
        free(w.paths);
        atomic_store(&u->used_bytes, w.bytes);
        return rc;
}

/* ---- from then on ---- */

int ffs_upper_reserve(struct ffs_upperlayer *u, uint64_t bytes)
{
        uint64_t limit = u->config.size_limit_bytes;
        if (limit == 0)
                return 0;
        uint64_t used = atomic_load(&u->used_bytes);
        do {
                if (used > limit || bytes > limit - used)
                        return -ENOSPC;
        } while (!atomic_compare_exchange_weak(&u->used_bytes, &used, used + bytes));
        return 0;
}

void ffs_upper_unreserve(struct ffs_upperlayer *u, uint64_t bytes)
{
        if (u->config.size_limit_bytes == 0)
                return;
        uint64_t used = atomic_load(&u->used_bytes);
        while (!atomic_compare_exchange_weak(&u->used_bytes, &used,
                                             used > bytes ? used - bytes : 0)) {
        }
}

int ffs_upper_charge_inode(struct ffs_upperlayer *u)
{
        return ffs_upper_reserve(u, FFS_UPPER_INODE_BYTES);
}

void ffs_upper_credit(struct ffs_upperlayer *u, const struct stat *st)
{
        if (S_ISDIR(st->st_mode) || st->st_nlink <= 1)
                ffs_upper_unreserve(u, share_of(st));
}

int ffs_upper_statvfs(struct ffs_upperlayer *u, struct statvfs *out)
{
        if (fstatvfs(u->root_fd, out) < 0)
                return -errno;
        uint64_t limit = u->config.size_limit_bytes, block = out->f_frsize;
        if (limit == 0 || block == 0)
                return 0;
        uint64_t used = atomic_load(&u->used_bytes);
        uint64_t left = used < limit ? (limit - used) / block : 0;
        out->f_blocks = limit / block;
        out->f_bfree = out->f_bfree < left ? out->f_bfree : left;
        out->f_bavail = out->f_bavail < left ? out->f_bavail : left;
        return 0;
}
