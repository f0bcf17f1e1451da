/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>

#include "cas/packfile_int.h"

#define KEPT_MAX 64

struct kept {
        uint64_t pack_id;        /* 0: free */
        struct cas_packfd given; /* what users get; fd -1: it is remote */
        unsigned users;
        bool dropped;  /* close it when the last user is done */
        uint64_t used; /* clock of the last use */
};

struct cas_packfds {
        struct cas_mutex mutex; /* a leaf; guards all below */
        uint64_t clock;
        uint64_t drop_count;
        struct kept kept[KEPT_MAX];
};

struct cas_packfds *cas_packfds_new(void)
{
        struct cas_packfds *fds = cas_xcalloc(1, sizeof(*fds));
        cas_mutex_init(&fds->mutex, "packfds");
        return fds;
}

static void kept_close_locked(struct cas_packfds *fds, struct kept *k)
{
        cas_assert_held(&fds->mutex);
        if (k->given.fd >= 0)
                (void)close(k->given.fd);
        *k = (struct kept){.pack_id = 0};
}

void cas_packfds_free(struct cas_packfds *fds)
{
        if (!fds)
                return;
        cas_mutex_lock(&fds->mutex);
        for (int i = 0; i < KEPT_MAX; i++) {
                cas_assert(fds->kept[i].users == 0);
                if (fds->kept[i].pack_id != 0)
                        kept_close_locked(fds, &fds->kept[i]);
        }
        cas_mutex_unlock(&fds->mutex);
        cas_mutex_release(&fds->mutex);
        free(fds);
}

static bool kept_find_locked(struct cas_packfds *fds, uint64_t pack_id, struct cas_packfd *out)
{
        cas_assert_held(&fds->mutex);
        for (int i = 0; i < KEPT_MAX; i++) {
                struct kept *k = &fds->kept[i];
                if (k->pack_id == pack_id && !k->dropped) {
                        k->users++;
                        k->used = ++fds->clock;
                        *out = k->given;
                        return true;
                }
        }
        return false;
}

/* A free slot, or that of the descriptor unused for longest; -1 when all are in use. */
static int kept_room_locked(struct cas_packfds *fds)
{
        cas_assert_held(&fds->mutex);
        int oldest = -1;
        for (int i = 0; i < KEPT_MAX; i++) {
                struct kept *k = &fds->kept[i];
                if (k->pack_id == 0)
                        return i;
                if (k->users == 0 && (oldest < 0 || k->used < fds->kept[oldest].used))
                        oldest = i;
        }
        if (oldest >= 0)
                kept_close_locked(fds, &fds->kept[oldest]);
        return oldest;
}

int cas_packset_fd_get(struct cas_packset *ps, uint64_t pack_id, struct cas_packfd *out,
                       struct cas_err *err)
{
        struct cas_packfds *fds = ps->fds;
        cas_mutex_lock(&fds->mutex);
        bool found = kept_find_locked(fds, pack_id, out);
        uint64_t drop_count = fds->drop_count;
        cas_mutex_unlock(&fds->mutex);
        if (found)
                return 0;
        struct cas_pack_record rec;
        cas_cleanup_fd int fd = -1;
        int rc = cas_packset_open_home(ps, pack_id, &fd, &rec, err);
        if (rc < 0)
                return rc;
        cas_mutex_lock(&fds->mutex);
        if (!kept_find_locked(fds, pack_id, out)) { /* else another thread was faster */
                /* A pack may have gone while it was opened: that is not kept. */
                int slot = fds->drop_count == drop_count ? kept_room_locked(fds) : -1;
                *out = (struct cas_packfd){.fd = cas_steal_fd(&fd),
                                           .slot = slot,
                                           .tier = rec.tier,
                                           .file = cas_pack_file_of(pack_id, &rec)};
                if (slot >= 0)
                        fds->kept[slot] = (struct kept){.pack_id = pack_id,
                                                        .given = *out,
                                                        .users = 1,
                                                        .used = ++fds->clock};
        }
        cas_mutex_unlock(&fds->mutex);
        return 0;
}

void cas_packset_fd_put(struct cas_packset *ps, struct cas_packfd *fd)
{
        struct cas_packfds *fds = ps->fds;
        if (fd->slot < 0) {
                if (fd->fd >= 0)
                        (void)close(fd->fd);
                return;
        }
        cas_mutex_lock(&fds->mutex);
        struct kept *k = &fds->kept[fd->slot];
        cas_assert(k->users > 0);
        if (--k->users == 0 && k->dropped)
                kept_close_locked(fds, k);
        cas_mutex_unlock(&fds->mutex);
}

void cas_packset_fd_drop(struct cas_packset *ps, uint64_t pack_id)
{
        struct cas_packfds *fds = ps->fds;
        cas_mutex_lock(&fds->mutex);
        fds->drop_count++;
        for (int i = 0; i < KEPT_MAX; i++) {
                struct kept *k = &fds->kept[i];
                if (k->pack_id != pack_id)
                        continue;
                if (k->users == 0)
                        kept_close_locked(fds, k);
                else
                        k->dropped = true;
        }
        cas_mutex_unlock(&fds->mutex);
}
