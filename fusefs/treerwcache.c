/* SPDX-License-Identifier: Apache-2.0 */
/* A few open descriptors of a volume's upper, by node: the oldest used goes. */
#include <fcntl.h>

#include "fusefs/treerwcore_int.h"

struct kept_fd {
        uint64_t node, used;
        int fd;
};
struct ffs_rw_fdcache {
        struct cas_mutex mutex; /* guards all below; leaf */
        uint64_t clock;
        size_t max, count;
        struct kept_fd kept[];
};

struct ffs_rw_fdcache *ffs_rw_fdcache_new(size_t max)
{
        struct ffs_rw_fdcache *c = cas_xcalloc(1, sizeof(*c) + max * sizeof(c->kept[0]));
        cas_mutex_init(&c->mutex, "treerw.fds");
        c->max = max;
        return c;
}

void ffs_rw_fdcache_free(struct ffs_rw_fdcache *c)
{
        if (!c)
                return;
        for (size_t i = 0; i < c->count; i++)
                (void)close(c->kept[i].fd);
        cas_mutex_release(&c->mutex);
        free(c);
}

static struct kept_fd *find_locked(struct ffs_rw_fdcache *c, uint64_t node)
{
        cas_assert_held(&c->mutex);
        for (size_t i = 0; i < c->count; i++)
                if (c->kept[i].node == node)
                        return &c->kept[i];
        return NULL;
}

int ffs_rw_fdcache_get(struct ffs_rw_fdcache *c, uint64_t node)
{
        int fd = -1;
        cas_mutex_lock(&c->mutex);
        struct kept_fd *k = find_locked(c, node);
        if (k) {
                k->used = ++c->clock;
                fd = fcntl(k->fd, F_DUPFD_CLOEXEC, 3);
        }
        cas_mutex_unlock(&c->mutex);
        return fd;
}

void ffs_rw_fdcache_put(struct ffs_rw_fdcache *c, uint64_t node, int fd)
{
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3), old;
        if (copy < 0)
                return;
        cas_mutex_lock(&c->mutex);
        struct kept_fd *k = find_locked(c, node);
        if (!k && c->count < c->max) {
                k = &c->kept[c->count++];
                k->fd = -1;
        } else if (!k) {
                k = &c->kept[0];
                for (size_t i = 1; i < c->count; i++)
                        if (c->kept[i].used < k->used)
                                k = &c->kept[i];
        }
        old = k->fd;
        *k = (struct kept_fd){.node = node, .used = ++c->clock, .fd = copy};
        cas_mutex_unlock(&c->mutex);
        if (old >= 0)
                (void)close(old);
}

void ffs_rw_fdcache_drop(struct ffs_rw_fdcache *c, uint64_t node)
{
        int fd = -1;
        cas_mutex_lock(&c->mutex);
        struct kept_fd *k = find_locked(c, node);
        if (k) {
                fd = k->fd;
                *k = c->kept[--c->count];
        }
        cas_mutex_unlock(&c->mutex);
        if (fd >= 0)
                (void)close(fd);
}
