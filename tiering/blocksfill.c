/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks that come: one by one because they are read, or many because they will be. */
#include <errno.h>
#include <fcntl.h>

#include "cas/log.h"
#include "tiering/blocks_int.h"

/* What one bringing may take of the cache. */
#define BRING_SHARE 4

int tier_blocks_read_source(struct tier_blocks *b, const struct tier_source *source,
                            uint64_t offset, void *out, size_t len, struct cas_err *err)
{
        if (source->home_fd < 0 && !b->ops->remote_read)
                return cas_fail(err, CAS_E_IO, "pack %016llx lies in a bucket, and none is known",
                                (unsigned long long)source->pack.pack_id);
        int rc = source->home_fd < 0 ? b->ops->remote_read(b->arg, source->tier, &source->pack,
                                                           offset, out, len, err)
                                     : cas_io_pread_exact(b->io, source->home_fd, out, len, offset,
                                                          "pack", err);
        if (rc < 0)
                return rc;
        /* The twin is the copy that the page cache shall have. */
        if (source->home_fd >= 0)
                (void)posix_fadvise(source->home_fd, (off_t)offset, (off_t)len,
                                    POSIX_FADV_DONTNEED);
        cas_mutex_lock(&b->mutex);
        b->counts.brought_bytes += len;
        cas_mutex_unlock(&b->mutex);
        return 0;
}

/* ---- claims ---- */

static uint64_t first_page(uint64_t offset)
{
        return offset / TIER_PAGE_BYTES;
}

static uint64_t end_page(const struct cas_block_range *range)
{
        return (range->offset + range->bytes + TIER_PAGE_BYTES - 1) / TIER_PAGE_BYTES;
}

/* The twin, made when it is not there, when none of its pages of the range are being punched. */
static struct tier_twin *quiet_twin_locked(struct tier_blocks *b, uint64_t pack_id,
                                           const struct cas_block_range *range)
{
        for (;;) {
                struct tier_twin *t = tier_blocks_twin_locked(b, pack_id);
                if (!t) {
                        t = tier_twin_new(pack_id);
                        *cas_map_put(b->twins, &pack_id, sizeof(pack_id), NULL) =
                                (uint64_t)(uintptr_t)t;
                }
                if (b->punching.twin != t || end_page(range) <= b->punching.first_page ||
                    first_page(range->offset) >= b->punching.end_page)
                        return t;
                cas_mutex_wait(&b->mutex, &b->changed);
        }
}

static bool take_room_locked(struct tier_blocks *b, uint64_t pages)
{
        return pages == 0 || !b->ops->room_take ||
               b->ops->room_take(b->arg, pages * TIER_PAGE_BYTES);
}

/* Admits it and takes its room; false leaves all as it was. */
static bool admit_locked(struct tier_blocks *b, struct tier_twin *t,
                         const struct cas_block_range *range, bool must)
{
        const struct tier_key key = tier_blocks_key(t->pack_id, range->offset);
        const uint64_t bytes = (end_page(range) - first_page(range->offset)) * TIER_PAGE_BYTES;
        const uint64_t pages = tier_twin_new_pages(t, range->offset, range->bytes);
        if (bytes > b->capacity_bytes ||
            !tier_evictor_admit(b->evictor, &key, bytes, must, tier_blocks_evicted_locked, b))
                return false;
        if (!take_room_locked(b, pages)) {
                tier_evictor_remove(b->evictor, &key);
                return false;
        }
        struct tier_block *block = tier_twin_insert(t, range->offset, range->bytes);
        block->filling = true;
        block->users = 1;
        b->page_count += pages;
        b->block_count++;
        b->counts.admitted++;
        return true;
}

enum tier_claim tier_blocks_claim_locked(struct tier_blocks *b, uint64_t pack_id,
                                         const struct cas_block_range *range, bool must)
{
        cas_assert_held(&b->mutex);
        if (b->dirfd < 0) {
                b->counts.rejected++;
                return TIER_CLAIM_REFUSED;
        }
        struct tier_twin *t = quiet_twin_locked(b, pack_id, range);
        const struct tier_block *block = tier_twin_first(t, range->offset);
        if (tier_twin_has(t, range->offset, range->bytes) ||
            (block && block->filling && block->offset < range->offset + range->bytes))
                return TIER_CLAIM_THERE;
        /* What is on its way out may be in the way. */
        if (tier_twin_is_free(t, range->offset, range->bytes) && admit_locked(b, t, range, must))
                return TIER_CLAIM_OURS;
        b->counts.rejected++;
        tier_blocks_forget_locked(b, t);
        return TIER_CLAIM_REFUSED;
}

/* Of a block that was claimed: its bytes are there, or will not be. */
static void settle_locked(struct tier_blocks *b, uint64_t pack_id,
                          const struct cas_block_range *range, bool good, bool keep_user)
{
        const struct tier_key key = tier_blocks_key(pack_id, range->offset);
        struct tier_twin *t = tier_blocks_twin_locked(b, pack_id);
        struct tier_block *block = tier_twin_at(t, range->offset);
        if (!good && !block->doomed) {
                tier_evictor_remove(b->evictor, &key);
                tier_blocks_doom_locked(b, t, block);
        }
        block->filling = false;
        if (good && !block->doomed)
                tier_blocks_log_locked(b, TIER_TWINLOG_CAME, pack_id, range->offset, range->bytes);
        if (!good || !keep_user)
                tier_blocks_unuse_locked(b, t, block);
        (void)pthread_cond_broadcast(&b->changed);
}

/* ---- one ---- */

static int write_block(struct tier_blocks *b, uint64_t pack_id, const struct cas_block_range *range,
                       const void *data, struct tier_twin **twin, struct cas_err *err)
{
        int fd;
        cas_mutex_lock(&b->mutex);
        struct tier_twin *t = tier_blocks_twin_locked(b, pack_id);
        int rc = tier_blocks_fd_get_locked(b, t, &fd, err);
        cas_mutex_unlock(&b->mutex);
        if (rc < 0)
                return rc;
        rc = cas_io_pwrite_all(b->io, fd, data, range->bytes, range->offset, "cache of blocks",
                               err);
        if (rc == 0 && twin) {
                *twin = t; /* with the descriptor's use */
                return 0;
        }
        cas_mutex_lock(&b->mutex);
        tier_blocks_fd_put_locked(t);
        cas_mutex_unlock(&b->mutex);
        return rc;
}

int tier_blocks_fill(struct tier_blocks *b, const struct tier_source *source,
                     const struct cas_block_range *range, enum tier_claim *claim,
                     struct tier_twin **use, struct cas_err *err)
{
        const uint64_t pack_id = source->pack.pack_id;
        cas_mutex_lock(&b->mutex);
        *claim = tier_blocks_claim_locked(b, pack_id, range, use != NULL);
        bool ours = *claim == TIER_CLAIM_OURS;
        bool fits = ours && tier_blocks_make_room_locked(b);
        if (ours && !fits) {
                settle_locked(b, pack_id, range, false, false);
                *claim = TIER_CLAIM_REFUSED;
        }
        if (ours)
                tier_blocks_drain_locked(b);
        cas_mutex_unlock(&b->mutex);
        if (!fits)
                return 0;
        cas_cleanup_free uint8_t *data = cas_xmalloc(range->bytes);
        int rc = tier_blocks_read_source(b, source, range->offset, data, range->bytes, err);
        if (rc == 0)
                rc = write_block(b, pack_id, range, data, use, err);
        cas_mutex_lock(&b->mutex);
        settle_locked(b, pack_id, range, rc == 0, use != NULL);
        tier_blocks_drain_locked(b);
        cas_mutex_unlock(&b->mutex);
        return rc;
}

/* ---- many ---- */

/* Some blocks of a pack that are near to each other. */
struct run {
        struct tier_blocks *b;
        const struct tier_source *source;
        const struct cas_block_range *ranges;
        size_t count;
        bool must;
        bool (*stop)(void *arg);
        void *stop_arg;
        struct cas_err err; /* code 0: it went well */
};

static size_t run_length(const struct cas_block_range *ranges, size_t count)
{
        size_t n = 1;
        while (n < count && n < TIER_RUN_BLOCKS_MAX) {
                uint64_t end = ranges[n - 1].offset + ranges[n - 1].bytes;
                if (ranges[n].offset < end || ranges[n].offset - end > TIER_RUN_GAP_BYTES ||
                    ranges[n].offset + ranges[n].bytes - ranges[0].offset > TIER_RUN_BYTES_MAX)
                        break;
                n++;
        }
        return n;
}

/* Claims what is not there; the ranges that are ours go to `mine`. */
static size_t run_claim(struct run *r, struct cas_block_range *mine)
{
        struct tier_blocks *b = r->b;
        size_t count = 0;
        cas_mutex_lock(&b->mutex);
        for (size_t i = 0; i < r->count; i++) {
                if (tier_blocks_claim_locked(b, r->source->pack.pack_id, &r->ranges[i], r->must) ==
                    TIER_CLAIM_OURS)
                        mine[count++] = r->ranges[i];
        }
        bool fits = tier_blocks_make_room_locked(b);
        for (size_t i = 0; i < count && !fits; i++)
                settle_locked(b, r->source->pack.pack_id, &mine[i], false, false);
        tier_blocks_drain_locked(b);
        cas_mutex_unlock(&b->mutex);
        return fits ? count : 0;
}

static int run_copy(struct run *r, const struct cas_block_range *mine, size_t count, size_t *done)
{
        const uint64_t from = mine[0].offset;
        const uint64_t end = mine[count - 1].offset + mine[count - 1].bytes;
        cas_cleanup_free uint8_t *data = cas_xmalloc(end - from);
        int rc = tier_blocks_read_source(r->b, r->source, from, data, end - from, &r->err);
        for (; rc == 0 && *done < count; (*done)++) {
                const struct cas_block_range *range = &mine[*done];
                rc = write_block(r->b, r->source->pack.pack_id, range,
                                 data + (range->offset - from), NULL, &r->err);
                if (rc < 0)
                        return rc;
                cas_mutex_lock(&r->b->mutex);
                settle_locked(r->b, r->source->pack.pack_id, range, true, false);
                cas_mutex_unlock(&r->b->mutex);
        }
        return rc;
}

static void run_do(void *arg)
{
        struct run *r = arg;
        struct cas_block_range mine[TIER_RUN_BLOCKS_MAX];
        size_t done = 0;
        if (r->stop && r->stop(r->stop_arg)) {
                (void)cas_fail(&r->err, CAS_E_BUSY, "stopped");
                return;
        }
        size_t count = run_claim(r, mine);
        if (count == 0)
                return;
        (void)run_copy(r, mine, count, &done);
        cas_mutex_lock(&r->b->mutex);
        for (; done < count; done++)
                settle_locked(r->b, r->source->pack.pack_id, &mine[done], false, false);
        tier_blocks_drain_locked(r->b);
        cas_mutex_unlock(&r->b->mutex);
}

static int runs_do(struct tier_blocks *b, struct run *runs, size_t count, bool parallel,
                   struct cas_err *err)
{
        struct cas_pool_group group = {0};
        for (size_t i = 0; i < count; i++) {
                if (parallel)
                        cas_pool_submit(b->fetchers, &group, run_do, &runs[i]);
                else
                        run_do(&runs[i]);
        }
        if (parallel)
                cas_pool_wait(b->fetchers, &group);
        for (size_t i = 0; i < count; i++) {
                if (runs[i].err.code != CAS_OK) {
                        *err = runs[i].err;
                        return -(int)err->code;
                }
        }
        return 0;
}

/* Ranges by offset; what is out of bounds or overlaps is passed over. */
static int bring(struct tier_blocks *b, const struct run *like, uint64_t bytes_max,
                 struct cas_err *err)
{
        cas_cleanup_free struct run *runs = cas_xcalloc(like->count + 1, sizeof(*runs));
        size_t count = 0;
        uint64_t bytes = 0;
        for (size_t at = 0; at < like->count && bytes < bytes_max;) {
                size_t n = run_length(like->ranges + at, like->count - at);
                runs[count] = *like;
                runs[count].ranges = like->ranges + at;
                runs[count++].count = n;
                for (size_t i = 0; i < n; i++)
                        bytes += like->ranges[at + i].bytes;
                at += n;
        }
        /* A disk has one head: who reads from it at once only makes it move. */
        return runs_do(b, runs, count, like->source->home_fd < 0, err);
}

int tier_blocks_bring(struct tier_blocks *b, uint32_t tier, const struct cas_pack_file *pack,
                      int home_fd, const struct cas_block_range *ranges, size_t count,
                      bool (*stop)(void *arg), void *stop_arg, struct cas_err *err)
{
        const struct tier_source source = {.tier = tier, .pack = *pack, .home_fd = home_fd};
        const struct run like = {.b = b,
                                 .source = &source,
                                 .ranges = ranges,
                                 .count = count,
                                 .must = true,
                                 .stop = stop,
                                 .stop_arg = stop_arg};
        for (size_t i = 0; i < count; i++) {
                if (ranges[i].bytes == 0 || ranges[i].bytes > TIER_BLOCK_BYTES_MAX ||
                    ranges[i].offset > INT64_MAX - TIER_BLOCK_BYTES_MAX)
                        return cas_fail(err, CAS_E_INVALID, "a block of %u bytes at %llu",
                                        ranges[i].bytes, (unsigned long long)ranges[i].offset);
        }
        cas_mutex_lock(&b->mutex);
        uint64_t bytes_max = b->capacity_bytes / BRING_SHARE;
        cas_mutex_unlock(&b->mutex);
        return b->dirfd < 0 ? 0 : bring(b, &like, bytes_max, err);
}

/* ---- promotions ---- */

void tier_blocks_promote_locked(struct tier_blocks *b, uint32_t tier, uint64_t pack_id,
                                const struct cas_block_range *range)
{
        cas_assert_held(&b->mutex);
        if (b->promoter_count == 0 || b->promotion_count == TIER_PROMOTIONS_MAX)
                return;
        b->promotions[b->promotion_count++] =
                (struct tier_promotion){.pack_id = pack_id, .tier = tier, .range = *range};
        (void)pthread_cond_signal(&b->wanted);
}

/* Those of one pack, which came first. */
static size_t take_promotions_locked(struct tier_blocks *b, struct tier_promotion *out)
{
        size_t taken = 0, left = 0;
        for (size_t i = 0; i < b->promotion_count; i++) {
                const struct tier_promotion p = b->promotions[i];
                if (i == 0 || (p.pack_id == out[0].pack_id && p.tier == out[0].tier))
                        out[taken++] = p;
                else
                        b->promotions[left++] = p;
        }
        b->promotion_count = left;
        return taken;
}

static int by_offset(const void *a, const void *b)
{
        const struct tier_promotion *x = a, *y = b;
        return (x->range.offset > y->range.offset) - (x->range.offset < y->range.offset);
}

static void promote(struct tier_blocks *b, struct tier_promotion *p, size_t count)
{
        struct cas_block_range ranges[TIER_PROMOTIONS_MAX];
        cas_cleanup_fd int fd = -1;
        struct cas_err err = CAS_ERR_INIT;
        size_t n = 0;
        qsort(p, count, sizeof(*p), by_offset);
        for (size_t i = 0; i < count; i++) {
                if (n == 0 || p[i].range.offset >= ranges[n - 1].offset + ranges[n - 1].bytes)
                        ranges[n++] = p[i].range;
        }
        if (b->ops->home_open(b->arg, p[0].tier, p[0].pack_id, &fd, &err) == 0) {
                const struct tier_source source = {
                        .tier = p[0].tier, .pack = {.pack_id = p[0].pack_id}, .home_fd = fd};
                const struct run like = {.b = b, .source = &source, .ranges = ranges, .count = n};
                (void)bring(b, &like, UINT64_MAX, &err);
        }
        if (err.code != CAS_OK && err.code != CAS_E_NOTFOUND)
                cas_log(CAS_LOG_DEBUG, "blocks.promote", "error=\"%s\"", err.msg);
}

static void *promoter_thread(void *arg)
{
        struct tier_blocks *b = arg;
        cas_cleanup_free struct tier_promotion *batch =
                cas_xcalloc(TIER_PROMOTIONS_MAX, sizeof(*batch));
        cas_mutex_lock(&b->mutex);
        for (;;) {
                while (!b->stopping && b->promotion_count == 0)
                        cas_mutex_wait(&b->mutex, &b->wanted);
                if (b->stopping)
                        break;
                size_t count = take_promotions_locked(b, batch);
                cas_mutex_unlock(&b->mutex);
                promote(b, batch, count);
                cas_mutex_lock(&b->mutex);
        }
        cas_mutex_unlock(&b->mutex);
        return NULL;
}

int tier_blocks_promoters_start(struct tier_blocks *b, unsigned threads, struct cas_err *err)
{
        for (unsigned i = 0; i < threads && i < TIER_PROMOTERS_MAX; i++) {
                pthread_t thread;
                int failed = pthread_create(&thread, NULL, promoter_thread, b);
                if (failed)
                        return cas_fail_sys(err, failed, "cache of blocks: thread");
                (void)pthread_setname_np(thread, "blocks");
                cas_mutex_lock(&b->mutex);
                b->promoters[b->promoter_count++] = thread;
                cas_mutex_unlock(&b->mutex);
        }
        return 0;
}

void tier_blocks_promoters_stop(struct tier_blocks *b)
{
        cas_mutex_lock(&b->mutex);
        b->stopping = true;
        (void)pthread_cond_broadcast(&b->wanted);
        cas_mutex_unlock(&b->mutex);
        for (unsigned i = 0; i < b->promoter_count; i++)
                (void)pthread_join(b->promoters[i], NULL);
        b->promoter_count = 0;
}
