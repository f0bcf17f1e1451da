/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/reader_int.h"

#include <sys/eventfd.h>

#include "cas/limits.h"
#include "cas/mutex.h"
#include "fusefs/cache_int.h"
#include "fusefs/lentpack_int.h"
#include "fusefs/readahead_int.h"
#include "fusefs/touches_int.h"

/* Extents are asked for and kept in pages of this many chunks. */
#define PAGE_CHUNKS FFS_RESOLVE_EXTENTS_MAX
#define TOUCHED_MAX 64
/* A read lies in a few pages of extents, each of which may be out of date. */
#define READS_MAX 4
#define SCRATCH_KEPT_BYTES (512 * CAS_KIB)

struct extent_page {
        struct cas_hash object; /* the whole name: the key has but half of it */
        uint64_t size_bytes;    /* of the object */
        uint32_t chunk_count;   /* of the object */
        uint32_t count;
        struct cas_extent extents[];
};

struct block {
        uint32_t raw_bytes;
        uint64_t checksum;
        uint8_t data[];
};

struct ffs_reader {
        struct ffs_resolve_client *client;
        struct ffs_cache *pages;  /* of struct extent_page */
        struct ffs_cache *blocks; /* of struct block */
        struct ffs_cache *packs;  /* of struct ffs_lentpack */
        struct ffs_readahead *readahead;
        struct ffs_touches *touches;
        int activity_fd;               /* eventfd: packs were read since the last tidying */
        struct cas_mutex mutex;        /* leaf; guards what follows */
        uint64_t touched[TOUCHED_MAX]; /* packs read since the last tidying */
        size_t touched_count;
        uint64_t block_count, tidy_block_count; /* read; at the last look */
};

/* What one call works with. */
struct reading {
        struct ffs_reader *reader;
        const struct cas_hash *object;
        uint64_t size_bytes;
        int timeout_ms;
        struct cas_buf *scratch;
        bool fresh; /* pages are asked for, not taken from the cache */
};

static void free_lentpack(void *value)
{
        ffs_lentpack_free(value);
}

static bool lentpack_is_stale(const void *value)
{
        return ffs_lentpack_is_stale(value);
}

/* Files that were removed take up room for as long as they are open. */
static void sweep_packs(void *arg)
{
        struct ffs_reader *r = arg;
        ffs_cache_sweep(r->packs, lentpack_is_stale);
}

struct ffs_reader *ffs_reader_new(const struct ffs_reader_config *config)
{
        struct ffs_reader *r = cas_xcalloc(1, sizeof(*r));
        r->client = ffs_resolve_client_new(config->resolve_path);
        r->pages = ffs_cache_new("extents", config->extent_cache_bytes, free);
        r->blocks = ffs_cache_new("blocks", config->block_cache_bytes, free);
        r->packs = ffs_cache_new("packs", config->packs_max, free_lentpack);
        r->readahead = ffs_readahead_new();
        r->touches = ffs_touches_new(r->client, sweep_packs, r);
        r->activity_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        cas_assert(r->activity_fd >= 0);
        cas_mutex_init(&r->mutex, "reader");
        return r;
}

void ffs_reader_free(struct ffs_reader *r)
{
        if (!r)
                return;
        ffs_touches_free(r->touches);
        ffs_cache_free(r->pages);
        ffs_cache_free(r->blocks);
        ffs_cache_free(r->packs);
        ffs_readahead_free(r->readahead);
        (void)close(r->activity_fd);
        cas_mutex_release(&r->mutex);
        ffs_resolve_client_free(r->client);
        free(r);
}

int ffs_reader_ping(struct ffs_reader *r, int timeout_ms, struct cas_err *err)
{
        return ffs_resolve_ping(r->client, timeout_ms, err);
}

/* ---- extents ---- */

static struct ffs_cache_key page_key(const struct cas_hash *object, uint32_t page)
{
        return (struct ffs_cache_key){.a = cas_get_le64(object->bytes),
                                      .b = cas_get_le64(object->bytes + 8) ^ page};
}

struct page_load {
        const struct reading *reading;
        uint32_t page;
};

static int load_page(void *arg, void **value, size_t *weight, struct cas_err *err)
{
        const struct page_load *load = arg;
        const struct reading *rd = load->reading;
        struct cas_extent extents[FFS_RESOLVE_EXTENTS_MAX];
        struct ffs_resolve_reply reply;
        if (ffs_resolve_extents(rd->reader->client, rd->object, load->page * PAGE_CHUNKS,
                                PAGE_CHUNKS, rd->timeout_ms, &reply, extents, err) < 0)
                return -(int)err->code;
        size_t bytes = sizeof(struct extent_page) + reply.count * sizeof(extents[0]);
        struct extent_page *page = cas_xmalloc(bytes);
        *page = (struct extent_page){.object = *rd->object,
                                     .size_bytes = reply.size_bytes,
                                     .chunk_count = reply.chunk_count,
                                     .count = reply.count};
        memcpy(page->extents, extents, reply.count * sizeof(extents[0]));
        *value = page;
        *weight = bytes + 128; /* the cache's own */
        return 0;
}

static int page_get(const struct reading *rd, uint32_t number, struct extent_page **out,
                    struct cas_err *err)
{
        struct page_load load = {.reading = rd, .page = number};
        struct ffs_cache_key key = page_key(rd->object, number);
        void *value;
        if (rd->fresh)
                ffs_cache_drop(rd->reader->pages, &key);
        if (ffs_cache_get(rd->reader->pages, &key, load_page, &load, &value, err) < 0)
                return -(int)err->code;
        *out = value;
        if (!cas_hash_equal(&(*out)->object, rd->object)) {
                ffs_cache_put(rd->reader->pages, &key, value);
                return cas_fail(err, CAS_E_IO, "two objects with one key in the cache");
        }
        return 0;
}

static void page_put(const struct reading *rd, uint32_t number, struct extent_page *page)
{
        struct ffs_cache_key key = page_key(rd->object, number);
        ffs_cache_put(rd->reader->pages, &key, page);
}

int ffs_reader_stat(struct ffs_reader *r, const struct cas_hash *object, int timeout_ms,
                    uint64_t *size_bytes, struct cas_err *err)
{
        struct reading rd = {.reader = r, .object = object, .timeout_ms = timeout_ms};
        struct extent_page *page;
        if (page_get(&rd, 0, &page, err) < 0)
                return -(int)err->code;
        *size_bytes = page->size_bytes;
        page_put(&rd, 0, page);
        return 0;
}

static uint64_t page_end(const struct extent_page *p)
{
        return p->extents[p->count - 1].object_offset + p->extents[p->count - 1].length_bytes;
}

/* The page that holds offset. Chunks are of similar length, so the place is guessed from the
 * object's size and then found page by page. */
static int search_page(const struct reading *rd, uint64_t offset, uint32_t *number,
                       struct extent_page **out, struct cas_err *err)
{
        struct extent_page *page;
        if (page_get(rd, 0, &page, err) < 0)
                return -(int)err->code;
        *number = 0;
        uint32_t pages = (page->chunk_count + PAGE_CHUNKS - 1) / PAGE_CHUNKS;
        if (pages > 1 && page->count && offset >= page_end(page)) {
                uint32_t chunk_count = page->chunk_count;
                page_put(rd, 0, page);
                *number = (uint32_t)((__uint128_t)offset * chunk_count / rd->size_bytes /
                                     PAGE_CHUNKS);
                *number = (uint32_t)cas_min_u64(*number, pages - 1);
                if (page_get(rd, *number, &page, err) < 0)
                        return -(int)err->code;
        }
        for (uint32_t steps = 0; steps <= pages; steps++) {
                if (page->count == 0 || page->size_bytes != rd->size_bytes)
                        break;
                bool before = offset < page->extents[0].object_offset;
                if (!before && offset < page_end(page)) {
                        *out = page;
                        return 0;
                }
                page_put(rd, *number, page);
                if (before ? *number == 0 : *number + 1 >= pages)
                        return cas_fail(err, CAS_E_CORRUPT, "no extent at offset %ju",
                                        (uintmax_t)offset);
                *number = before ? *number - 1 : *number + 1;
                if (page_get(rd, *number, &page, err) < 0)
                        return -(int)err->code;
        }
        page_put(rd, *number, page);
        return cas_fail(err, CAS_E_CORRUPT, "extents do not cover offset %ju", (uintmax_t)offset);
}

/* The same, also when some pages were cached before the owner replaced the object's chunks, and so
 * do not go with others: those are asked for again. */
static int find_page(const struct reading *rd, uint64_t offset, uint32_t *number,
                     struct extent_page **out, struct cas_err *err)
{
        struct cas_err torn = CAS_ERR_INIT;
        struct reading fresh = *rd;
        int rc = search_page(rd, offset, number, out, &torn);
        if (rc == -CAS_E_CORRUPT) {
                fresh.fresh = true;
                return search_page(&fresh, offset, number, out, err);
        }
        if (rc < 0)
                *err = torn;
        return rc;
}

/* The first extent that ends after offset, which lies in the page. */
static uint32_t find_extent(const struct extent_page *p, uint64_t offset)
{
        uint32_t low = 0, high = p->count - 1;
        while (low < high) {
                uint32_t middle = low + (high - low) / 2;
                const struct cas_extent *e = &p->extents[middle];
                if (offset < e->object_offset + e->length_bytes)
                        high = middle;
                else
                        low = middle + 1;
        }
        return low;
}

/* ---- blocks ---- */

struct block_load {
        const struct reading *reading;
        const struct cas_extent *extent;
};

static int load_pack(void *arg, void **value, size_t *weight, struct cas_err *err)
{
        const struct block_load *load = arg;
        struct ffs_lentpack *pack;
        if (ffs_lentpack_open(load->reading->reader->client, load->extent->pack_id,
                              load->reading->timeout_ms, &pack, err) < 0)
                return -(int)err->code;
        *value = pack;
        *weight = 1;
        return 0;
}

static int no_load(void *arg CAS_UNUSED, void **value CAS_UNUSED, size_t *weight CAS_UNUSED,
                   struct cas_err *err)
{
        return cas_fail(err, CAS_E_NOTFOUND, "not in the cache");
}

/* The page cache has the decoded bytes in the FUSE inode: what it has of packs is a second copy. */
static void drop_range(struct ffs_reader *r, uint64_t pack_id, uint64_t offset, uint64_t bytes)
{
        struct ffs_cache_key key = {.a = pack_id};
        struct cas_err ignored = CAS_ERR_INIT;
        void *held;
        if (ffs_cache_get(r->packs, &key, no_load, NULL, &held, &ignored) < 0)
                return; /* closed meanwhile */
        ffs_lentpack_drop(held, offset, bytes);
        ffs_cache_put(r->packs, &key, held);
}

static void touch(struct ffs_reader *r, uint64_t pack_id)
{
        cas_mutex_lock(&r->mutex);
        r->block_count++;
        bool first = r->touched_count == 0;
        size_t i = 0;
        while (i < r->touched_count && r->touched[i] != pack_id)
                i++;
        if (i == r->touched_count && i < TOUCHED_MAX)
                r->touched[r->touched_count++] = pack_id;
        cas_mutex_unlock(&r->mutex);
        uint64_t one = 1;
        if (first)
                (void)!write(r->activity_fd, &one, sizeof(one));
}

int ffs_reader_activity_fd(const struct ffs_reader *r)
{
        return r->activity_fd;
}

bool ffs_reader_tidy(struct ffs_reader *r)
{
        uint64_t touched[TOUCHED_MAX], events;
        cas_mutex_lock(&r->mutex);
        bool idle = r->block_count == r->tidy_block_count;
        r->tidy_block_count = r->block_count;
        size_t count = idle ? r->touched_count : 0;
        memcpy(touched, r->touched, count * sizeof(touched[0]));
        if (idle) {
                r->touched_count = 0;
                (void)!read(r->activity_fd, &events, sizeof(events));
        }
        cas_mutex_unlock(&r->mutex);
        for (size_t i = 0; i < count; i++)
                drop_range(r, touched[i], 0, 0);
        if (idle)
                ffs_cache_trim(r->blocks, 0);
        return idle;
}

static void read_ahead(struct ffs_reader *r, const struct ffs_lentpack *pack,
                       const struct cas_extent *e)
{
        struct ffs_readahead_advice advice;
        ffs_readahead_note(r->readahead, e->pack_id, e->block_offset, e->block_stored_bytes,
                           &advice);
        if (advice.fetch_bytes)
                ffs_lentpack_fetch(pack, advice.fetch_offset, advice.fetch_bytes);
        if (advice.drop_bytes)
                drop_range(r, advice.drop_pack, advice.drop_offset, advice.drop_bytes);
}

static void tell_read(struct ffs_reader *r, const struct ffs_lentpack *pack,
                      const struct cas_extent *e, const struct ffs_lentpack_use *use)
{
        const struct ffs_resolve_touch touch = {.pack_id = e->pack_id,
                                                .offset = e->block_offset,
                                                .bytes = e->block_stored_bytes,
                                                .was_bad = use->cache_was_bad};
        if (!use->by_owner && ffs_lentpack_wants_touched(pack))
                ffs_touches_note(r->touches, &touch);
}

static int load_block(void *arg, void **value, size_t *weight, struct cas_err *err)
{
        const struct block_load *load = arg;
        const struct cas_extent *e = load->extent;
        struct ffs_reader *r = load->reading->reader;
        struct ffs_cache_key key = {.a = e->pack_id};
        struct ffs_lentpack_use use;
        void *pack;
        if (ffs_cache_get(r->packs, &key, load_pack, arg, &pack, err) < 0)
                return -(int)err->code;
        read_ahead(r, pack, e);
        struct block *block = cas_xmalloc(sizeof(*block) + e->block_raw_bytes);
        block->raw_bytes = e->block_raw_bytes;
        block->checksum = e->block_checksum;
        int rc = ffs_lentpack_read(pack, r->client, e, load->reading->timeout_ms, block->data,
                                   load->reading->scratch, &use, err);
        touch(r, e->pack_id);
        if (rc == 0)
                tell_read(r, pack, e, &use);
        ffs_cache_put(r->packs, &key, pack);
        /* What is asked for again is opened again. */
        if ((rc < 0 && rc != -CAS_E_BUSY) || use.stale)
                ffs_cache_drop(r->packs, &key);
        if (rc < 0) {
                free(block);
                return rc;
        }
        *value = block;
        *weight = e->block_raw_bytes;
        return 0;
}

static int copy_from_block(const struct reading *rd, const struct cas_extent *e, uint32_t skip,
                           void *out, size_t len, struct cas_err *err)
{
        struct block_load load = {.reading = rd, .extent = e};
        struct ffs_cache_key key = {.a = e->pack_id, .b = e->block_offset};
        void *value;
        if (ffs_cache_get(rd->reader->blocks, &key, load_block, &load, &value, err) < 0)
                return -(int)err->code;
        const struct block *block = value;
        int rc = 0;
        if (block->raw_bytes == e->block_raw_bytes && block->checksum == e->block_checksum)
                memcpy(out, block->data + e->chunk_offset + skip, len);
        else
                rc = cas_fail(err, CAS_E_CORRUPT, "pack %ju: two accounts of the block at %ju",
                              (uintmax_t)e->pack_id, (uintmax_t)e->block_offset);
        ffs_cache_put(rd->reader->blocks, &key, value);
        return rc;
}

/* Reads what one page of extents covers. */
static int read_from_page(const struct reading *rd, const struct extent_page *page, uint64_t offset,
                          uint8_t *out, size_t len, size_t *done, struct cas_err *err)
{
        *done = 0;
        for (uint32_t i = find_extent(page, offset); i < page->count && *done < len; i++) {
                const struct cas_extent *e = &page->extents[i];
                uint32_t skip = (uint32_t)(offset + *done - e->object_offset);
                size_t n = (size_t)cas_min_u64(e->length_bytes - skip, len - *done);
                if (copy_from_block(rd, e, skip, out + *done, n, err) < 0)
                        return -(int)err->code;
                *done += n;
        }
        return 0;
}

static int read_once(const struct reading *rd, uint64_t offset, uint8_t *out, size_t len,
                     struct cas_err *err)
{
        for (size_t at = 0; at < len;) {
                struct extent_page *page = NULL;
                uint32_t number = 0;
                size_t done = 0;
                if (find_page(rd, offset + at, &number, &page, err) < 0)
                        return -(int)err->code;
                int rc = read_from_page(rd, page, offset + at, out + at, len - at, &done, err);
                page_put(rd, number, page);
                if (rc < 0) {
                        struct ffs_cache_key key = page_key(rd->object, number);
                        if (rc != -CAS_E_BUSY)
                                ffs_cache_drop(rd->reader->pages, &key);
                        return rc;
                }
                at += done;
        }
        return 0;
}

int ffs_reader_read(struct ffs_reader *r, const struct cas_hash *object, uint64_t size_bytes,
                    uint64_t offset, void *out, size_t len, struct cas_buf *scratch, int timeout_ms,
                    struct cas_err *err)
{
        cas_assert(offset <= size_bytes);
        cas_assert(len <= size_bytes - offset);
        struct reading rd = {.reader = r,
                             .object = object,
                             .size_bytes = size_bytes,
                             .timeout_ms = timeout_ms,
                             .scratch = scratch};
        struct cas_err why = CAS_ERR_INIT;
        int rc = read_once(&rd, offset, out, len, &why);
        /* Packs are rewritten and moved: extents that fail are asked for again, page by page. */
        for (unsigned i = 1; i < READS_MAX && rc < 0 && rc != -CAS_E_BUSY; i++) {
                why = (struct cas_err)CAS_ERR_INIT;
                rc = read_once(&rd, offset, out, len, &why);
        }
        /* Frames of dense packs are large, and rare enough to be worth their memory back. */
        if (scratch->alloc_bytes > SCRATCH_KEPT_BYTES)
                cas_buf_release(scratch);
        if (rc < 0)
                *err = why;
        return rc;
}
