/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/blocks.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "cas/slowio.h"
#include "tiering/blocks_int.h"

/* What the tables of the evictor are sized by. */
#define EXPECTED_BLOCK_BYTES (UINT64_C(128) << 10)
#define TWIN_FLAGS (O_RDWR | O_CREAT | O_NOFOLLOW)
/* Looks at a range that others are about to fill or to punch out, or that is fetched in pieces. */
#define LOOKS_MAX 8

/* The token of a place. NULL: the home copy. */
struct place {
        struct tier_twin *twin;       /* NULL: fd is the place's own */
        struct cas_block_range range; /* all blocks on it are in use */
        int fd;
};

struct tier_key tier_blocks_key(uint64_t pack_id, uint64_t offset)
{
        return (struct tier_key){.hi = pack_id, .lo = offset};
}

/* ---- twins ---- */

struct tier_twin *tier_blocks_twin_locked(struct tier_blocks *b, uint64_t pack_id)
{
        cas_assert_held(&b->mutex);
        uint64_t *value = cas_map_get(b->twins, &pack_id, sizeof(pack_id));
        return value ? (struct tier_twin *)(uintptr_t)*value : NULL; // NOLINT: kept as a number
}

void tier_blocks_forget_locked(struct tier_blocks *b, struct tier_twin *t)
{
        if (t->count > 0 || t->fd >= 0 || t->in_trash || b->punching.twin == t)
                return;
        (void)cas_map_remove(b->twins, &t->pack_id, sizeof(t->pack_id));
        tier_twin_free(t);
}

void tier_blocks_fd_close_locked(struct tier_blocks *b, struct tier_twin *t)
{
        if (t->fd < 0)
                return;
        for (size_t i = 0; i < b->open_count; i++) {
                if (b->open[i] == t)
                        b->open[i--] = b->open[--b->open_count];
        }
        (void)close(cas_steal_fd(&t->fd));
}

/* Closes one that nobody uses. False: all are in use. */
static bool close_one_locked(struct tier_blocks *b)
{
        for (size_t i = 0; i < b->open_count; i++) {
                struct tier_twin *t = b->open[(b->open_hand + i) % b->open_count];
                if (t->fd_users == 0) {
                        b->open_hand++;
                        tier_blocks_fd_close_locked(b, t);
                        return true;
                }
        }
        return false;
}

int tier_blocks_fd_get_locked(struct tier_blocks *b, struct tier_twin *t, int *out,
                              struct cas_err *err)
{
        char name[TIER_TWIN_NAME_BYTES];
        cas_assert_held(&b->mutex);
        if (t->fd < 0) {
                if (b->open_count == TIER_TWINS_OPEN_MAX && !close_one_locked(b))
                        return cas_fail(err, CAS_E_LIMIT, "%d twins of packs are in use",
                                        TIER_TWINS_OPEN_MAX);
                if (cas_io_open(b->io, b->dirfd, tier_twin_name(t->pack_id, name), TWIN_FLAGS, 0600,
                                &t->fd, err) < 0)
                        return -(int)err->code;
                b->open[b->open_count++] = t;
        }
        t->fd_users++;
        *out = t->fd;
        return 0;
}

void tier_blocks_fd_put_locked(struct tier_twin *t)
{
        cas_assert(t->fd_users > 0);
        t->fd_users--;
}

int tier_blocks_cache_open(struct tier_blocks *b, const struct cas_pack_file *pack, int *out_fd,
                           struct cas_err *err)
{
        char name[TIER_TWIN_NAME_BYTES];
        *out_fd = -1;
        cas_mutex_lock(&b->mutex);
        bool keeps = b->dirfd >= 0 && b->capacity_bytes > 0;
        cas_mutex_unlock(&b->mutex);
        if (!keeps)
                return 0;
        /* Made when it is not there: what is brought later is seen by who has it open. */
        return cas_io_open(b->io, b->dirfd, tier_twin_name(pack->pack_id, name),
                           O_RDONLY | O_CREAT | O_NOFOLLOW, 0600, out_fd, err);
}

void tier_blocks_pack_gone(struct tier_blocks *b, uint64_t pack_id)
{
        char name[TIER_TWIN_NAME_BYTES];
        struct cas_err ignored = CAS_ERR_INIT;
        cas_mutex_lock(&b->mutex);
        struct tier_twin *t = tier_blocks_twin_locked(b, pack_id);
        for (size_t i = 0; t && i < t->count; i++) {
                struct tier_key key = tier_blocks_key(pack_id, t->blocks[i].offset);
                if (!t->blocks[i].doomed)
                        tier_evictor_remove(b->evictor, &key);
                tier_blocks_doom_locked(b, t, &t->blocks[i]);
        }
        tier_blocks_drain_locked(b);
        t = tier_blocks_twin_locked(b, pack_id);
        /* One that was made for readers, and never written. */
        if (b->dirfd >= 0 && (!t || (t->count == 0 && t->fd_users == 0 && !t->in_trash))) {
                if (t)
                        tier_blocks_fd_close_locked(b, t);
                (void)!cas_io_unlink(b->io, b->dirfd, tier_twin_name(pack_id, name), &ignored);
                if (t)
                        tier_blocks_forget_locked(b, t);
        }
        cas_mutex_unlock(&b->mutex);
}

/* ---- places ---- */

static void place_give(struct cas_block_place *out, int fd, struct tier_twin *twin,
                       const struct cas_block_range *range)
{
        struct place *p = cas_xcalloc(1, sizeof(*p));
        *p = (struct place){.twin = twin, .range = *range, .fd = fd};
        *out = (struct cas_block_place){.fd = fd, .token = p};
}

/* What is not kept is given out in a file of its own, at its offset. */
static int place_unkept(struct tier_blocks *b, const struct tier_source *source,
                        const struct cas_block_range *range, struct cas_block_place *out,
                        struct cas_err *err)
{
        cas_cleanup_free uint8_t *data = cas_xmalloc(range->bytes);
        cas_cleanup_fd int fd = memfd_create("lamina-block", MFD_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "memory for a block");
        if (tier_blocks_read_source(b, source, range->offset, data, range->bytes, err) < 0 ||
            cas_io_pwrite_all(cas_io_posix(), fd, data, range->bytes, range->offset, "block", err) <
                    0)
                return -(int)err->code;
        cas_mutex_lock(&b->mutex);
        b->counts.unkept++;
        cas_mutex_unlock(&b->mutex);
        place_give(out, cas_steal_fd(&fd), NULL, range);
        return 0;
}

/* One read of a block, while it goes on. */
struct look {
        struct tier_blocks *b;
        const struct tier_source *source;
        struct cas_block_range range;
        unsigned looks;
        bool counted, waited;
};

static void count_locked(struct look *l, bool hit)
{
        struct tier_blocks_counts *c = &l->b->counts;
        if (l->counted)
                return;
        l->counted = true;
        *(hit ? &c->hits : &c->misses) += 1;
        *(hit ? &c->hit_bytes : &c->miss_bytes) += l->range.bytes;
}

enum seen { SEEN_PLACE, SEEN_NOTHING, SEEN_AGAIN };

/* All of it is there: its blocks are used and in use. */
static bool use_locked(struct look *l, struct tier_twin *t, struct cas_block_place *out)
{
        const uint64_t end = l->range.offset + l->range.bytes;
        struct cas_err err = CAS_ERR_INIT;
        int fd;
        if (tier_blocks_fd_get_locked(l->b, t, &fd, &err) < 0)
                return false;
        for (struct tier_block *block = tier_twin_first(t, l->range.offset);
             block && block->offset < end; block = tier_twin_next(t, block)) {
                struct tier_key key = tier_blocks_key(t->pack_id, block->offset);
                (void)tier_evictor_hit(l->b->evictor, &key);
                cas_assert(block->users < UINT16_MAX);
                block->users++;
        }
        count_locked(l, true);
        place_give(out, fd, t, &l->range);
        return true;
}

/* Whether some of the range is being filled, or on its way out. */
static void trouble_locked(const struct look *l, struct tier_twin *t, bool *filling, bool *doomed)
{
        const uint64_t end = l->range.offset + l->range.bytes;
        *filling = *doomed = false;
        for (struct tier_block *block = t ? tier_twin_first(t, l->range.offset) : NULL;
             block && block->offset < end; block = tier_twin_next(t, block)) {
                *doomed |= block->doomed;
                *filling |= block->filling && !block->doomed;
        }
}

/* A place in the twin, if the range is there. Waits for who fills it. */
static enum seen look_locked(struct look *l, struct cas_block_place *out)
{
        struct tier_blocks *b = l->b;
        bool filling, doomed;
        struct tier_twin *t = tier_blocks_twin_locked(b, l->source->pack.pack_id);
        if (t && tier_twin_has(t, l->range.offset, l->range.bytes) && use_locked(l, t, out))
                return SEEN_PLACE;
        trouble_locked(l, t, &filling, &doomed);
        if (filling) {
                b->counts.shared += !l->waited;
                l->waited = true;
                cas_mutex_wait(&b->mutex, &b->changed);
                return SEEN_AGAIN;
        }
        if (!l->counted) {
                struct tier_key key = tier_blocks_key(l->source->pack.pack_id, l->range.offset);
                (void)tier_evictor_hit(b->evictor, &key);
        }
        count_locked(l, false);
        if (doomed && b->trash && !b->draining && l->looks++ < LOOKS_MAX) {
                tier_blocks_drain_locked(b);
                return SEEN_AGAIN;
        }
        return SEEN_NOTHING;
}

/* The first piece of the range that is not there, up to what is, or the range's end. */
static struct cas_block_range first_gap(struct tier_twin *t, const struct cas_block_range *range)
{
        const uint64_t end = range->offset + range->bytes;
        uint64_t from = range->offset;
        struct tier_block *block = t ? tier_twin_first(t, from) : NULL;
        while (block && block->offset <= from && block->offset + block->bytes < end) {
                from = block->offset + block->bytes;
                block = tier_twin_next(t, block);
        }
        uint64_t to = block && block->offset > from ? cas_min_u64(block->offset, end) : end;
        return (struct cas_block_range){from, (uint32_t)(to - from)};
}

/* What to fetch for a gap: more than it where small pieces are read, or one behind the other, but
 * not what is there already. */
static struct cas_block_range stretch_locked(struct look *l, struct tier_twin *t,
                                             const struct cas_block_range *gap)
{
        const uint64_t end = gap->offset + gap->bytes;
        if (!t || l->b->exact || end < l->range.offset + l->range.bytes)
                return *gap;
        bool follows = gap->offset >= t->ahead_end &&
                       gap->offset - t->ahead_end <= TIER_AHEAD_BYTES_MIN && t->ahead_end > 0;
        uint64_t want = gap->bytes <= TIER_SMALL_BYTES ? TIER_AHEAD_BYTES_MIN : 0;
        if (follows)
                want = cas_min_u64(cas_max_u64(2 * (uint64_t)t->ahead_bytes, TIER_AHEAD_BYTES_MIN),
                                   TIER_AHEAD_BYTES_MAX);
        const struct tier_block *next = tier_twin_first(t, gap->offset);
        if (next && next->offset < end) /* what is on its way out is in the way */
                return *gap;
        uint64_t to = cas_max_u64(end, gap->offset + want);
        to = cas_min_u64(to, l->source->pack.size_bytes);
        if (next)
                to = cas_min_u64(to, next->offset);
        t->ahead_end = to;
        t->ahead_bytes = (uint32_t)want;
        return (struct cas_block_range){gap->offset, (uint32_t)(to - gap->offset)};
}

/* Fetches the first piece that is missing of what is remote: a place when that was all of it. */
static int place_fetch(struct look *l, struct cas_block_place *out, bool *again,
                       struct cas_err *err)
{
        struct tier_blocks *b = l->b;
        struct tier_twin *twin = NULL;
        enum tier_claim claim;
        cas_mutex_lock(&b->mutex);
        struct tier_twin *t = tier_blocks_twin_locked(b, l->source->pack.pack_id);
        const struct cas_block_range gap = first_gap(t, &l->range);
        struct cas_block_range want = stretch_locked(l, t, &gap);
        cas_mutex_unlock(&b->mutex);
        if (tier_blocks_fill(b, l->source, &want, &claim, &twin, err) < 0)
                return -(int)err->code;
        if (claim == TIER_CLAIM_REFUSED && want.bytes > gap.bytes &&
            tier_blocks_fill(b, l->source, &gap, &claim, &twin, err) < 0)
                return -(int)err->code;
        *again = claim != TIER_CLAIM_REFUSED && l->looks++ < LOOKS_MAX;
        if (claim == TIER_CLAIM_OURS) {
                struct cas_block_place got;
                place_give(&got, twin->fd, twin, gap.bytes == l->range.bytes ? &l->range : &gap);
                if (gap.bytes == l->range.bytes) {
                        *again = false;
                        *out = got;
                        return 0;
                }
                tier_blocks_block_close(b, &got, false); /* the rest is looked at now */
        }
        return *again ? 0 : place_unkept(b, l->source, &l->range, out, err);
}

static int check_range(const struct cas_pack_file *pack, uint64_t offset, uint32_t bytes,
                       bool remote, struct cas_err *err)
{
        if (bytes == 0 || bytes > TIER_BLOCK_BYTES_MAX ||
            offset > (uint64_t)INT64_MAX - TIER_BLOCK_BYTES_MAX ||
            (remote && offset + bytes > pack->size_bytes))
                return cas_fail(err, CAS_E_INVALID, "pack %016llx: %u bytes at %llu",
                                (unsigned long long)pack->pack_id, bytes,
                                (unsigned long long)offset);
        return 0;
}

int tier_blocks_block_open(struct tier_blocks *b, uint32_t tier, const struct cas_pack_file *pack,
                           int home_fd, uint64_t offset, uint32_t bytes,
                           struct cas_block_place *out, struct cas_err *err)
{
        const struct tier_source source = {.tier = tier, .pack = *pack, .home_fd = home_fd};
        struct look l = {.b = b, .source = &source, .range = {offset, bytes}};
        if (check_range(pack, offset, bytes, home_fd < 0, err) < 0)
                return -(int)err->code;
        for (bool again = true; again;) {
                enum seen seen;
                cas_mutex_lock(&b->mutex);
                do
                        seen = look_locked(&l, out);
                while (seen == SEEN_AGAIN);
                if (seen == SEEN_NOTHING && home_fd >= 0)
                        tier_blocks_promote_locked(b, tier, pack->pack_id, &l.range);
                cas_mutex_unlock(&b->mutex);
                if (seen == SEEN_PLACE)
                        return 0;
                if (home_fd >= 0)
                        break;
                if (place_fetch(&l, out, &again, err) < 0)
                        return -(int)err->code;
                if (!again)
                        return 0;
        }
        *out = (struct cas_block_place){.fd = home_fd};
        return 0;
}

void tier_blocks_block_close(struct tier_blocks *b, struct cas_block_place *place, bool bad)
{
        cas_cleanup_free struct place *p = place->token;
        place->token = NULL;
        if (!p)
                return;
        if (!p->twin) {
                (void)close(p->fd);
                return;
        }
        cas_mutex_lock(&b->mutex);
        struct tier_twin *t = p->twin;
        const uint64_t end = p->range.offset + p->range.bytes;
        b->counts.bad += bad;
        for (struct tier_block *block = tier_twin_first(t, p->range.offset);
             block && block->offset < end; block = tier_twin_next(t, block)) {
                if (bad && !block->doomed) {
                        struct tier_key key = tier_blocks_key(t->pack_id, block->offset);
                        tier_evictor_remove(b->evictor, &key);
                        tier_blocks_doom_locked(b, t, block);
                }
                tier_blocks_unuse_locked(b, t, block);
        }
        tier_blocks_fd_put_locked(t);
        tier_blocks_drain_locked(b);
        cas_mutex_unlock(&b->mutex);
}

void tier_blocks_touched(struct tier_blocks *b, uint32_t tier, bool remote, uint64_t pack_id,
                         uint64_t offset, uint32_t bytes)
{
        const struct cas_block_range range = {offset, bytes};
        const struct cas_pack_file pack = {.pack_id = pack_id};
        struct cas_err ignored = CAS_ERR_INIT;
        if (check_range(&pack, offset, bytes, false, &ignored) < 0)
                return;
        cas_mutex_lock(&b->mutex);
        struct tier_twin *t = tier_blocks_twin_locked(b, pack_id);
        bool there = t && tier_twin_has(t, offset, bytes);
        struct tier_key key =
                tier_blocks_key(pack_id, there ? tier_twin_first(t, offset)->offset : offset);
        (void)tier_evictor_hit(b->evictor, &key);
        *(there ? &b->counts.hits : &b->counts.misses) += 1;
        *(there ? &b->counts.hit_bytes : &b->counts.miss_bytes) += bytes;
        if (!there && !remote)
                tier_blocks_promote_locked(b, tier, pack_id, &range);
        cas_mutex_unlock(&b->mutex);
}

/* ---- the whole ---- */

void tier_blocks_resize(struct tier_blocks *b, uint64_t capacity_bytes)
{
        cas_mutex_lock(&b->mutex);
        b->capacity_bytes = capacity_bytes;
        tier_evictor_resize(b->evictor, capacity_bytes, tier_blocks_evicted_locked, b);
        tier_blocks_drain_locked(b);
        cas_mutex_unlock(&b->mutex);
}

void tier_blocks_counts(struct tier_blocks *b, struct tier_blocks_counts *out)
{
        cas_mutex_lock(&b->mutex);
        *out = b->counts;
        out->cached_bytes = b->page_count * TIER_PAGE_BYTES;
        out->cached_blocks = b->block_count;
        out->cached_packs = cas_map_count(b->twins);
        out->capacity_bytes = b->capacity_bytes;
        out->memory_bytes = tier_evictor_memory_bytes(b->evictor) +
                            b->block_count * sizeof(struct tier_block) * 3 / 2 +
                            cas_map_count(b->twins) * (sizeof(struct tier_twin) + 64);
        cas_mutex_unlock(&b->mutex);
}

static int start(struct tier_blocks *b, const struct tier_blocks_config *config,
                 struct cas_err *err)
{
        if (config->dirfd >= 0) {
                b->dirfd = fcntl(config->dirfd, F_DUPFD_CLOEXEC, 3);
                if (b->dirfd < 0)
                        return cas_fail_sys(err, errno, "cache of blocks");
                if (tier_blocks_recover(b, err) < 0)
                        return -(int)err->code;
        }
        b->fetchers = cas_pool_new(config->threads ? config->threads : TIER_FETCHERS_DEFAULT,
                                   TIER_RUN_BLOCKS_MAX);
        unsigned promoters = config->threads ? config->threads : TIER_PROMOTERS_DEFAULT;
        return b->dirfd >= 0 && b->ops->home_open ? tier_blocks_promoters_start(b, promoters, err)
                                                  : 0;
}

int tier_blocks_open(const struct tier_blocks_config *config, struct tier_blocks **out,
                     struct cas_err *err)
{
        struct tier_blocks *b = cas_xcalloc(1, sizeof(*b));
        b->ops = config->ops;
        b->arg = config->arg;
        b->io = config->io ? config->io : cas_io_device();
        b->dirfd = -1;
        b->exact = config->exact;
        b->capacity_bytes = config->dirfd >= 0 ? config->capacity_bytes : 0;
        b->twins = cas_map_new();
        b->evictor = tier_evictor_new(config->evictor, b->capacity_bytes, EXPECTED_BLOCK_BYTES);
        cas_mutex_init(&b->mutex, "blocks");
        cas_cond_init(&b->changed);
        cas_cond_init(&b->wanted);
        int rc = start(b, config, err);
        if (rc < 0) {
                tier_blocks_close(b);
                return rc;
        }
        *out = b;
        return 0;
}

static void free_twin(void *arg CAS_UNUSED, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                      uint64_t value)
{
        struct tier_twin *t = (struct tier_twin *)(uintptr_t)value; // NOLINT: kept as a number
        cas_assert(t->fd_users == 0);
        tier_twin_free(t);
}

void tier_blocks_close(struct tier_blocks *b)
{
        if (!b)
                return;
        tier_blocks_promoters_stop(b);
        if (b->fetchers)
                cas_pool_free(b->fetchers);
        cas_map_each(b->twins, free_twin, NULL);
        cas_map_free(b->twins);
        tier_evictor_free(b->evictor);
        tier_twinlog_close(b->log);
        if (b->dirfd >= 0)
                (void)close(b->dirfd);
        (void)pthread_cond_destroy(&b->wanted);
        (void)pthread_cond_destroy(&b->changed);
        cas_mutex_release(&b->mutex);
        free(b);
}
