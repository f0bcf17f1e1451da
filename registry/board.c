/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/board.h"

#include <time.h>

#define TELL_NS UINT64_C(100000000)

static uint64_t now_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void reg_board_init(struct reg_board *b, const struct cas_progress *to, const char *what)
{
        *b = (struct reg_board){.to = to, .what = what};
        cas_mutex_init(&b->mutex, "board");
}

void reg_board_release(struct reg_board *b)
{
        cas_assert(!b->parts);
        cas_mutex_release(&b->mutex);
}

static void tell_locked(struct reg_board *b)
{
        cas_assert_held(&b->mutex);
        uint64_t now = now_ns();
        if (!b->to || now - b->told_at_ns < TELL_NS)
                return;
        b->told_at_ns = now;
        if (b->to->items) {
                struct cas_progress_item items[REG_BOARD_ITEMS_MAX];
                size_t count = 0;
                for (struct reg_board_part *p = b->parts; p && count < REG_BOARD_ITEMS_MAX;
                     p = p->next)
                        items[count++] = (struct cas_progress_item){
                                .name = p->name, .done = p->done_bytes, .total = p->total_bytes};
                b->to->items(b->to->arg, items, count);
        }
        cas_progress_update(b->to, b->what, b->done_bytes, b->total_bytes);
}

void reg_board_expect(struct reg_board *b, uint64_t bytes)
{
        cas_mutex_lock(&b->mutex);
        b->total_bytes += bytes;
        cas_mutex_unlock(&b->mutex);
}

void reg_board_begin(struct reg_board *b, struct reg_board_part *part, const char *name,
                     uint64_t total_bytes)
{
        *part = (struct reg_board_part){.board = b, .total_bytes = total_bytes};
        (void)snprintf(part->name, sizeof(part->name), "%s", name);
        cas_mutex_lock(&b->mutex);
        struct reg_board_part **at = &b->parts;
        while (*at)
                at = &(*at)->next;
        *at = part;
        tell_locked(b);
        cas_mutex_unlock(&b->mutex);
}

static void set_done_locked(struct reg_board_part *part, uint64_t done)
{
        done = cas_min_u64(done, part->total_bytes);
        part->board->done_bytes += done - part->done_bytes; /* may wrap, and back */
        part->done_bytes = done;
}

void reg_board_move(struct reg_board_part *part, uint64_t done_bytes, uint64_t moved_bytes)
{
        struct reg_board *b = part->board;
        cas_mutex_lock(&b->mutex);
        set_done_locked(part, done_bytes);
        b->moved_bytes += moved_bytes;
        tell_locked(b);
        cas_mutex_unlock(&b->mutex);
}

void reg_board_end(struct reg_board_part *part)
{
        struct reg_board *b = part->board;
        cas_mutex_lock(&b->mutex);
        set_done_locked(part, part->total_bytes);
        struct reg_board_part **at = &b->parts;
        while (*at != part)
                at = &(*at)->next;
        *at = part->next;
        tell_locked(b);
        cas_mutex_unlock(&b->mutex);
}

uint64_t reg_board_moved(struct reg_board *b)
{
        cas_mutex_lock(&b->mutex);
        uint64_t moved = b->moved_bytes;
        cas_mutex_unlock(&b->mutex);
        return moved;
}
