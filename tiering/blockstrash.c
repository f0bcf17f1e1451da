/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks that go. */
#include <errno.h>
#include <fcntl.h>

#include "cas/log.h"
#include "tiering/blocks_int.h"

static void trash_locked(struct tier_blocks *b, struct tier_twin *t)
{
        if (t->in_trash)
                return;
        t->in_trash = true;
        t->next_trash = b->trash;
        b->trash = t;
}

void tier_blocks_doom_locked(struct tier_blocks *b, struct tier_twin *t, struct tier_block *block)
{
        cas_assert_held(&b->mutex);
        if (block->doomed)
                return;
        block->doomed = true;
        if (!block->filling)
                tier_blocks_log_locked(b, TIER_TWINLOG_WENT, t->pack_id, block->offset,
                                       block->bytes);
        if (block->users == 0)
                trash_locked(b, t);
}

void tier_blocks_evicted_locked(void *arg, const struct tier_key *key, uint64_t bytes CAS_UNUSED)
{
        struct tier_blocks *b = arg;
        struct tier_twin *t = tier_blocks_twin_locked(b, key->hi);
        struct tier_block *block = t ? tier_twin_at(t, key->lo) : NULL;
        b->counts.evicted++;
        if (block)
                tier_blocks_doom_locked(b, t, block);
}

void tier_blocks_unuse_locked(struct tier_blocks *b, struct tier_twin *t, struct tier_block *block)
{
        cas_assert_held(&b->mutex);
        cas_assert(block->users > 0);
        if (--block->users == 0 && block->doomed)
                trash_locked(b, t);
}

/* ---- punching ---- */

static void went_locked(struct tier_blocks *b, uint64_t blocks, uint64_t pages)
{
        b->block_count -= blocks;
        b->page_count -= pages;
        if (pages > 0 && b->ops->room_give)
                b->ops->room_give(b->arg, pages * TIER_PAGE_BYTES);
}

static bool is_idle(const struct tier_block *block)
{
        return block->doomed && block->users == 0;
}

static struct tier_block *next_idle(struct tier_twin *t, bool *all)
{
        struct tier_block *found = NULL;
        *all = t->count > 0;
        for (size_t i = 0; i < t->count; i++) {
                if (!is_idle(&t->blocks[i]))
                        *all = false;
                else if (!found)
                        found = &t->blocks[i];
        }
        return found;
}

/* Removes a file whose room is free at once, also while others have it open. */
static void remove_file(struct tier_blocks *b, const struct tier_twin *t)
{
        char name[TIER_TWIN_NAME_BYTES];
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_fd int fd CAS_UNUSED = openat(b->dirfd, tier_twin_name(t->pack_id, name),
                                                  O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC);
        if (cas_io_unlink(b->io, b->dirfd, name, &err) < 0)
                cas_log(CAS_LOG_WARN, "blocks.remove", "error=\"%s\"", err.msg);
}

/* Nothing of it is left: the file goes. */
static void unlink_locked(struct tier_blocks *b, struct tier_twin *t)
{
        cas_assert(t->fd_users == 0);
        tier_blocks_fd_close_locked(b, t);
        b->punching.twin = t;
        b->punching.first_page = 0;
        b->punching.end_page = UINT64_MAX;
        cas_mutex_unlock(&b->mutex);
        remove_file(b, t);
        cas_mutex_lock(&b->mutex);
        b->punching.twin = NULL;
        went_locked(b, t->count, t->page_count);
        (void)cas_map_remove(b->twins, &t->pack_id, sizeof(t->pack_id));
        tier_twin_free(t);
}

static void punch_locked(struct tier_blocks *b, struct tier_twin *t, struct tier_block *block)
{
        const uint64_t offset = block->offset;
        struct cas_err err = CAS_ERR_INIT;
        uint64_t first, count;
        int fd;
        tier_twin_own_pages(t, block, &first, &count);
        if (tier_blocks_fd_get_locked(b, t, &fd, &err) < 0) {
                cas_log(CAS_LOG_WARN, "blocks.punch", "error=\"%s\"", err.msg);
                fd = -1;
        }
        if (fd >= 0 && count > 0) {
                b->punching.twin = t;
                b->punching.first_page = first;
                b->punching.end_page = first + count;
                cas_mutex_unlock(&b->mutex);
                if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              (off_t)(first * TIER_PAGE_BYTES),
                              (off_t)(count * TIER_PAGE_BYTES)) != 0)
                        cas_log(CAS_LOG_WARN, "blocks.punch", "errno=%d", errno);
                cas_mutex_lock(&b->mutex);
                b->punching.twin = NULL;
        }
        if (fd >= 0)
                tier_blocks_fd_put_locked(t);
        went_locked(b, 1, tier_twin_remove(t, tier_twin_at(t, offset)));
}

void tier_blocks_drain_locked(struct tier_blocks *b)
{
        cas_assert_held(&b->mutex);
        if (b->draining)
                return;
        b->draining = true;
        while (b->trash) {
                struct tier_twin *t = b->trash;
                bool all;
                struct tier_block *block = next_idle(t, &all);
                if (!block || all) {
                        b->trash = t->next_trash;
                        t->in_trash = false;
                }
                if (all)
                        unlink_locked(b, t);
                else if (block)
                        punch_locked(b, t, block);
                (void)pthread_cond_broadcast(&b->changed);
        }
        b->draining = false;
        (void)pthread_cond_broadcast(&b->changed);
}

bool tier_blocks_make_room_locked(struct tier_blocks *b)
{
        cas_assert_held(&b->mutex);
        while (b->page_count * TIER_PAGE_BYTES > b->capacity_bytes) {
                if (b->draining)
                        cas_mutex_wait(&b->mutex, &b->changed);
                else if (b->trash)
                        tier_blocks_drain_locked(b);
                else
                        return false;
        }
        return true;
}
