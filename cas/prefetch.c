/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/prefetch_int.h"

#include <stdatomic.h>

#include "cas/log.h"
#include "cas/object.h"
#include "cas/order.h"
#include "cas/packfile_int.h"
#include "cas/store_int.h"

/* Images that wait for their turn. */
#define QUEUE_MAX 16
/* What is sorted by place at a time: the first of an order is wanted first, and the more is sorted
 * together the less a disk seeks. */
#define WINDOW_BYTES_FIRST (4 * CAS_MIB)
#define WINDOW_BYTES_MAX (64 * CAS_MIB)
#define EXTENTS_AT_ONCE 64
/* Of one object: of a large one only a part is read at a start. */
#define OBJECT_EXTENTS_MAX 256

struct wish {
        struct cas_digest manifest;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1]; /* "": none */
};

struct cas_prefetcher {
        struct cas_mutex mutex; /* a leaf; guards all below */
        pthread_cond_t changed;
        struct wish queue[QUEUE_MAX]; /* oldest first */
        size_t count;
        bool started, working;
        pthread_t thread;
        _Atomic(bool) stopping;
};

struct cas_prefetcher *cas_prefetcher_new(void)
{
        struct cas_prefetcher *p = cas_xcalloc(1, sizeof(*p));
        cas_mutex_init(&p->mutex, "prefetch");
        cas_cond_init(&p->changed);
        return p;
}

void cas_prefetcher_free(struct cas_prefetcher *p)
{
        if (!p)
                return;
        cas_mutex_lock(&p->mutex);
        atomic_store(&p->stopping, true);
        (void)pthread_cond_broadcast(&p->changed);
        bool started = p->started;
        cas_mutex_unlock(&p->mutex);
        if (started)
                (void)pthread_join(p->thread, NULL);
        (void)pthread_cond_destroy(&p->changed);
        cas_mutex_release(&p->mutex);
        free(p);
}

/* ---- a window of an order ---- */

struct piece {
        uint64_t pack_id;
        struct cas_block_range range;
};

struct window {
        struct cas_store *s;
        struct piece *pieces; /* owned */
        size_t count, max;
        uint64_t bytes;
};

static bool is_stopped(void *arg)
{
        return atomic_load(&((struct cas_store *)arg)->prefetcher->stopping);
}

/* Neighbours of an object are often in one block. */
static void window_add(struct window *w, const struct cas_extent *e)
{
        const struct piece *last = w->count ? &w->pieces[w->count - 1] : NULL;
        if (last && last->pack_id == e->pack_id && last->range.offset == e->block_offset)
                return;
        if (w->count == w->max) {
                w->max = w->max ? 2 * w->max : 256;
                w->pieces = cas_xrealloc(w->pieces, w->max * sizeof(*w->pieces));
        }
        w->pieces[w->count++] =
                (struct piece){e->pack_id, {e->block_offset, e->block_stored_bytes}};
        w->bytes += e->block_stored_bytes;
}

static void window_add_object(struct window *w, const struct cas_hash *id)
{
        struct cas_extent extents[EXTENTS_AT_ONCE];
        struct cas_err gone = CAS_ERR_INIT;
        uint32_t count = EXTENTS_AT_ONCE;
        for (uint32_t first = 0; first < OBJECT_EXTENTS_MAX && count == EXTENTS_AT_ONCE;
             first += count) {
                if (cas_object_extents(w->s, id, first, extents, EXTENTS_AT_ONCE, &count, &gone) <
                    0)
                        return;
                for (uint32_t i = 0; i < count; i++)
                        window_add(w, &extents[i]);
        }
}

static int by_place(const void *a, const void *b)
{
        const struct piece *x = a, *y = b;
        if (x->pack_id != y->pack_id)
                return x->pack_id < y->pack_id ? -1 : 1;
        return (x->range.offset > y->range.offset) - (x->range.offset < y->range.offset);
}

static int bring_pack(struct cas_store *s, uint64_t pack_id, const struct cas_block_range *ranges,
                      size_t count, struct cas_err *err)
{
        cas_cleanup_fd int fd = -1;
        struct cas_pack_record rec;
        if (cas_packset_open_home(s->packset, pack_id, &fd, &rec, err) < 0)
                return -(int)err->code;
        const struct cas_pack_file file = cas_pack_file_of(pack_id, &rec);
        return s->backend->ops->blocks_bring(s->backend, rec.tier, &file, fd, ranges, count,
                                             is_stopped, s, err);
}

/* Brings the blocks of the window, each pack's from front to back. */
static void window_bring(struct window *w)
{
        if (w->count == 0)
                return;
        cas_cleanup_free struct cas_block_range *ranges = cas_xcalloc(w->count, sizeof(*ranges));
        qsort(w->pieces, w->count, sizeof(*w->pieces), by_place);
        for (size_t at = 0, next; at < w->count && !is_stopped(w->s); at = next) {
                struct cas_err err = CAS_ERR_INIT;
                size_t n = 0;
                for (next = at; next < w->count && w->pieces[next].pack_id == w->pieces[at].pack_id;
                     next++) {
                        if (n == 0 || ranges[n - 1].offset != w->pieces[next].range.offset)
                                ranges[n++] = w->pieces[next].range;
                }
                if (bring_pack(w->s, w->pieces[at].pack_id, ranges, n, &err) < 0 &&
                    err.code != CAS_E_BUSY && err.code != CAS_E_NOTFOUND)
                        cas_log(CAS_LOG_WARN, "prefetch", "error=\"%s\"", err.msg);
        }
        w->count = 0;
        w->bytes = 0;
}

static void prefetch(struct cas_store *s, const struct wish *wish)
{
        cas_cleanup_free struct cas_hash *ids = NULL;
        struct window w = {.s = s};
        struct cas_err err = CAS_ERR_INIT;
        size_t count = 0;
        uint64_t window_bytes = WINDOW_BYTES_FIRST;
        if (cas_order_find(s, wish->repo[0] ? wish->repo : NULL, &wish->manifest, &ids, &count,
                           CAS_ORDER_OBJECTS_MAX, &err) < 0) {
                cas_log(CAS_LOG_WARN, "prefetch", "error=\"%s\"", err.msg);
                return;
        }
        for (size_t i = 0; i < count && !is_stopped(s); i++) {
                window_add_object(&w, &ids[i]);
                if (w.bytes < window_bytes)
                        continue;
                window_bring(&w);
                window_bytes = cas_min_u64(2 * window_bytes, WINDOW_BYTES_MAX);
        }
        window_bring(&w);
        free(w.pieces);
}

/* ---- the thread ---- */

static void *prefetch_thread(void *arg)
{
        struct cas_store *s = arg;
        struct cas_prefetcher *p = s->prefetcher;
        cas_mutex_lock(&p->mutex);
        while (!atomic_load(&p->stopping)) {
                if (p->count == 0) {
                        p->working = false;
                        (void)pthread_cond_broadcast(&p->changed);
                        cas_mutex_wait(&p->mutex, &p->changed);
                        continue;
                }
                const struct wish wish = p->queue[0];
                memmove(&p->queue[0], &p->queue[1], --p->count * sizeof(p->queue[0]));
                p->working = true;
                cas_mutex_unlock(&p->mutex);
                prefetch(s, &wish);
                cas_mutex_lock(&p->mutex);
        }
        p->working = false;
        (void)pthread_cond_broadcast(&p->changed);
        cas_mutex_unlock(&p->mutex);
        return NULL;
}

static bool is_of_use(struct cas_store *s)
{
        const struct cas_backend_ops *ops = s->backend->ops;
        struct cas_tier_info info;
        struct cas_err ignored = CAS_ERR_INIT;
        return ops->blocks_bring &&
               ops->tier_info(s->backend, CAS_TIER_OWN, &info, &ignored) == 0 && info.counts_reads;
}

void cas_prefetch_image(struct cas_store *s, const char *repo, const struct cas_digest *manifest)
{
        struct cas_prefetcher *p = s->prefetcher;
        if (!is_of_use(s))
                return;
        cas_mutex_lock(&p->mutex);
        if (!p->started && !atomic_load(&p->stopping))
                p->started = pthread_create(&p->thread, NULL, prefetch_thread, s) == 0;
        if (p->started && p->count < QUEUE_MAX) {
                struct wish *wish = &p->queue[p->count++];
                *wish = (struct wish){.manifest = *manifest};
                if (repo && strlen(repo) < sizeof(wish->repo))
                        memcpy(wish->repo, repo, strlen(repo) + 1);
                p->working = true;
                (void)pthread_cond_broadcast(&p->changed);
        }
        cas_mutex_unlock(&p->mutex);
}

void cas_prefetch_wait(struct cas_store *s)
{
        struct cas_prefetcher *p = s->prefetcher;
        cas_mutex_lock(&p->mutex);
        while (p->working && !atomic_load(&p->stopping))
                cas_mutex_wait(&p->mutex, &p->changed);
        cas_mutex_unlock(&p->mutex);
}
