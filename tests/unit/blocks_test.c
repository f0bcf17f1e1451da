/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "tests/support/scratch.h"
#include "tiering/blocks_int.h"

#define PACK_BYTES (UINT64_C(4) << 20)
#define PAGE TIER_PAGE_BYTES

/* ---- packs whose bytes follow from their place ---- */

static void fill_bytes(uint64_t pack_id, uint64_t offset, uint8_t *out, size_t len)
{
        for (size_t i = 0; i < len; i++) {
                uint64_t word = (offset + i) / 8;
                uint64_t key[2] = {pack_id, word};
                out[i] = (uint8_t)(XXH3_64bits(key, sizeof(key)) >> ((offset + i) % 8 * 8));
        }
}

struct world {
        char *dir; /* scratch */
        int cache_fd;
        struct tier_blocks *blocks;
        struct tier_blocks_config config;
        _Atomic uint64_t room_used, room_max, remote_reads, home_opens;
        _Atomic int remote_delay_us, remote_fails;
};

static int home_open(void *arg, uint32_t tier CAS_UNUSED, uint64_t pack_id, int *out_fd,
                     struct cas_err *err)
{
        struct world *w = arg;
        cas_cleanup_free char *path =
                cas_xasprintf("%s/home/%llu", w->dir, (unsigned long long)pack_id);
        atomic_fetch_add(&w->home_opens, 1);
        return cas_io_open(cas_io_posix(), AT_FDCWD, path, O_RDONLY, 0, out_fd, err);
}

static int remote_read(void *arg, uint32_t tier CAS_UNUSED, const struct cas_pack_file *pack,
                       uint64_t offset, void *out, size_t len, struct cas_err *err)
{
        struct world *w = arg;
        atomic_fetch_add(&w->remote_reads, 1);
        if (atomic_load(&w->remote_delay_us))
                (void)usleep((useconds_t)atomic_load(&w->remote_delay_us));
        if (atomic_load(&w->remote_fails) > 0) {
                atomic_fetch_sub(&w->remote_fails, 1);
                return cas_fail(err, CAS_E_BUSY, "as asked");
        }
        fill_bytes(pack->pack_id, offset, out, len);
        return 0;
}

static bool room_take(void *arg, uint64_t bytes)
{
        struct world *w = arg;
        if (atomic_load(&w->room_max) && w->room_used + bytes > w->room_max)
                return false;
        atomic_fetch_add(&w->room_used, bytes);
        return true;
}

static void room_give(void *arg, uint64_t bytes)
{
        struct world *w = arg;
        assert_true(atomic_load(&w->room_used) >= bytes);
        atomic_fetch_sub(&w->room_used, bytes);
}

static const struct tier_blocks_ops ops = {.home_open = home_open,
                                           .remote_read = remote_read,
                                           .room_take = room_take,
                                           .room_give = room_give};

static void world_open(struct world *w)
{
        struct cas_err err = CAS_ERR_INIT;
        atomic_store(&w->room_used, 0); /* what is there is taken again */
        if (tier_blocks_open(&w->config, &w->blocks, &err) < 0)
                fail_msg("%s", err.msg);
}

static struct world *world_new(uint64_t capacity_bytes, enum tier_evictor_kind kind)
{
        struct world *w = cas_xcalloc(1, sizeof(*w));
        w->dir = scratch_new();
        cas_cleanup_free char *cache = cas_xasprintf("%s/cache", w->dir);
        cas_cleanup_free char *home = cas_xasprintf("%s/home", w->dir);
        assert_int_equal(mkdir(cache, 0700), 0);
        assert_int_equal(mkdir(home, 0700), 0);
        w->cache_fd = open(cache, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        w->config = (struct tier_blocks_config){.dirfd = w->cache_fd,
                                                .capacity_bytes = capacity_bytes,
                                                .evictor = kind,
                                                .exact = true,
                                                .ops = &ops,
                                                .arg = w};
        world_open(w);
        return w;
}

static void world_free(struct world *w)
{
        tier_blocks_close(w->blocks);
        (void)close(w->cache_fd);
        scratch_free(w->dir);
        free(w);
}

static void world_reopen(struct world *w)
{
        tier_blocks_close(w->blocks);
        world_open(w);
}

static int home_make(struct world *w, uint64_t pack_id)
{
        cas_cleanup_free char *path =
                cas_xasprintf("%s/home/%llu", w->dir, (unsigned long long)pack_id);
        cas_cleanup_free uint8_t *bytes = cas_xmalloc(PACK_BYTES);
        fill_bytes(pack_id, 0, bytes, PACK_BYTES);
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(pwrite(fd, bytes, PACK_BYTES, 0), PACK_BYTES);
        return fd;
}

static struct cas_pack_file pack_of(uint64_t id)
{
        return (struct cas_pack_file){.pack_id = id, .size_bytes = PACK_BYTES};
}

/* Whether the bytes at the place are right. */
static bool place_is_right(const struct cas_block_place *place, uint64_t pack_id, uint64_t offset,
                           uint32_t bytes)
{
        cas_cleanup_free uint8_t *got = cas_xmalloc(bytes);
        cas_cleanup_free uint8_t *want = cas_xmalloc(bytes);
        fill_bytes(pack_id, offset, want, bytes);
        return pread(place->fd, got, bytes, (off_t)offset) == (ssize_t)bytes &&
               memcmp(got, want, bytes) == 0;
}

/* Reads a block as the store does. */
static void read_block(struct world *w, uint64_t pack_id, int home_fd, uint64_t offset,
                       uint32_t bytes)
{
        const struct cas_pack_file pack = pack_of(pack_id);
        struct cas_block_place place;
        struct cas_err err = CAS_ERR_INIT;
        for (unsigned i = 0;; i++) {
                if (tier_blocks_block_open(w->blocks, 1, &pack, home_fd, offset, bytes, &place,
                                           &err) < 0)
                        fail_msg("%s", err.msg);
                bool right = place_is_right(&place, pack_id, offset, bytes);
                tier_blocks_block_close(w->blocks, &place, !right);
                if (right)
                        return;
                assert_true(i < 2);
        }
}

static struct tier_blocks_counts counts_of(struct world *w)
{
        struct tier_blocks_counts c;
        tier_blocks_counts(w->blocks, &c);
        return c;
}

static void wait_for_blocks(struct world *w, uint64_t count)
{
        for (unsigned i = 0; i < 5000 && counts_of(w).cached_blocks != count; i++)
                (void)usleep(1000);
        assert_int_equal(counts_of(w).cached_blocks, count);
}

/* The account of the file system itself has the blocks of its own tree in it, too. */
static uint64_t data_bytes(int fd)
{
        uint64_t sum = 0;
        for (off_t at = 0, data; (data = lseek(fd, at, SEEK_DATA)) >= 0;) {
                at = lseek(fd, data, SEEK_HOLE);
                sum += cas_align_up((uint64_t)at, PAGE) - (uint64_t)data;
        }
        return sum;
}

/* Bytes of all twins on the disk. */
static uint64_t bytes_on_disk(struct world *w, unsigned *files)
{
        int dirfd = openat(w->cache_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fdopendir(dirfd);
        uint64_t sum = 0;
        *files = 0;
        for (struct dirent *e; (e = readdir(dir));) {
                uint64_t id;
                if (!tier_twin_name_parse(e->d_name, &id))
                        continue;
                cas_cleanup_fd int twin = openat(w->cache_fd, e->d_name, O_RDONLY | O_CLOEXEC);
                sum += twin >= 0 ? data_bytes(twin) : 0; /* gone meanwhile */
                (*files)++;
        }
        (void)closedir(dir);
        return sum;
}

/* What is counted is what is there. */
static void check_account(struct world *w)
{
        unsigned files;
        uint64_t bytes = bytes_on_disk(w, &files);
        struct tier_blocks_counts c = counts_of(w);
        assert_int_equal(bytes, c.cached_bytes);
        assert_int_equal(c.cached_bytes, atomic_load(&w->room_used));
        assert_true(c.cached_bytes <= c.capacity_bytes);
}

/* ---- twins alone ---- */

static void test_twin_pages(void **state CAS_UNUSED)
{
        enum { PAGES = 64, BYTES = PAGES * PAGE };
        static uint8_t covered[BYTES];
        struct tier_twin *t = tier_twin_new(7);
        unsigned seed = 4711;
        memset(covered, 0, sizeof(covered));
        for (unsigned i = 0; i < 20000; i++) {
                uint64_t offset = (uint64_t)rand_r(&seed) % BYTES;
                uint32_t bytes = 1 + (uint32_t)rand_r(&seed) % (3 * PAGE);
                struct tier_block *block = NULL;
                if (offset + bytes > BYTES)
                        continue;
                bool any = memchr(covered + offset, 1, bytes) != NULL;
                assert_true(any != tier_twin_is_free(t, offset, bytes));
                assert_true(tier_twin_has(t, offset, bytes) ==
                            (memchr(covered + offset, 0, bytes) == NULL));
                uint64_t before = t->page_count;
                if (!any) {
                        uint64_t pages = tier_twin_new_pages(t, offset, bytes);
                        assert_non_null(tier_twin_insert(t, offset, bytes));
                        memset(covered + offset, 1, bytes);
                        assert_int_equal(t->page_count, before + pages);
                } else if (i % 2 && t->count > 0) {
                        block = &t->blocks[(size_t)rand_r(&seed) % t->count];
                        assert_ptr_equal(tier_twin_at(t, block->offset), block);
                        memset(covered + block->offset, 0, block->bytes);
                        (void)tier_twin_remove(t, block);
                }
                uint64_t pages = 0;
                for (size_t p = 0; p < PAGES; p++)
                        pages += memchr(covered + p * PAGE, 1, PAGE) != NULL;
                assert_int_equal(t->page_count, pages);
        }
        tier_twin_free(t);
}

static void test_twin_name(void **state CAS_UNUSED)
{
        char name[TIER_TWIN_NAME_BYTES];
        uint64_t id;
        assert_string_equal(tier_twin_name(0x1234abcd, name), "000000001234abcd.blocks");
        assert_true(tier_twin_name_parse(name, &id));
        assert_int_equal(id, 0x1234abcd);
        assert_false(tier_twin_name_parse("000000001234abcD.blocks", &id));
        assert_false(tier_twin_name_parse("000000001234abcd.block", &id));
        assert_false(tier_twin_name_parse("blocks", &id));
}

/* ---- directories ---- */

static void test_local_is_promoted(void **state CAS_UNUSED)
{
        struct world *w = world_new(1 << 20, TIER_EVICT_LRU);
        int home = home_make(w, 5);
        const struct cas_pack_file pack = pack_of(5);
        struct cas_block_place place;
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(
                tier_blocks_block_open(w->blocks, 1, &pack, home, 1000, 5000, &place, &err), 0);
        assert_int_equal(place.fd, home);
        tier_blocks_block_close(w->blocks, &place, false);
        wait_for_blocks(w, 1);
        for (unsigned i = 0; i < 1000; i++) { /* it is filled soon */
                read_block(w, 5, home, 1000, 5000);
                if (counts_of(w).hits > 0)
                        break;
        }
        assert_int_equal(
                tier_blocks_block_open(w->blocks, 1, &pack, home, 1000, 5000, &place, &err), 0);
        assert_int_not_equal(place.fd, home);
        assert_true(place_is_right(&place, 5, 1000, 5000));
        tier_blocks_block_close(w->blocks, &place, false);
        assert_int_equal(counts_of(w).misses, 1);
        check_account(w);
        /* Read by somebody else: it comes, too. */
        tier_blocks_touched(w->blocks, 1, false, 5, 100000, 3000);
        wait_for_blocks(w, 2);
        tier_blocks_touched(w->blocks, 1, true, 6, 0, 3000); /* cannot be brought by that */
        (void)close(home);
        world_free(w);
}

/* ---- buckets ---- */

static void test_remote(void **state CAS_UNUSED)
{
        struct world *w = world_new(1 << 20, TIER_EVICT_S3FIFO);
        read_block(w, 9, -1, 4000, 200000);
        assert_int_equal(counts_of(w).misses, 1);
        read_block(w, 9, -1, 4000, 200000);
        read_block(w, 9, -1, 5000, 100); /* a piece of what is there */
        assert_int_equal(counts_of(w).hits, 2);
        assert_int_equal(atomic_load(&w->remote_reads), 1);
        check_account(w);
        /* Larger than the cache: given out all the same. */
        read_block(w, 9, -1, 300000, 2 << 20);
        assert_int_equal(counts_of(w).unkept, 1);
        /* Half on what is there: the rest is fetched. */
        uint64_t bytes = counts_of(w).brought_bytes;
        read_block(w, 9, -1, 200000, 60000);
        assert_int_equal(counts_of(w).brought_bytes - bytes, 56000);
        assert_int_equal(counts_of(w).unkept, 1);
        /* A hole between two. */
        read_block(w, 9, -1, 400000, 100000);
        bytes = counts_of(w).brought_bytes;
        read_block(w, 9, -1, 204000, 290000);
        assert_int_equal(counts_of(w).brought_bytes - bytes, 140000);
        check_account(w);
        world_free(w);
}

/* Who reads on and on fetches more at a time; so does who reads little pieces. */
static void test_ahead(void **state CAS_UNUSED)
{
        struct world *w = world_new(16 << 20, TIER_EVICT_S3FIFO);
        w->config.exact = false;
        world_reopen(w);
        for (uint64_t at = 0; at + 50000 <= PACK_BYTES; at += 50100)
                read_block(w, 1, -1, at, 50000);
        assert_in_range(atomic_load(&w->remote_reads), 4, 12);
        atomic_store(&w->remote_reads, 0);
        for (uint64_t at = 1 << 20; at < (5 << 18); at += 4096)
                read_block(w, 2, -1, at, 100);
        assert_in_range(atomic_load(&w->remote_reads), 1, 2);
        atomic_store(&w->remote_reads, 0);
        for (uint64_t i = 0; i < 8; i++) /* here and there: no more than is wanted */
                read_block(w, 3, -1, (i * 5 % 8) * (PACK_BYTES / 8), 50000);
        assert_int_equal(atomic_load(&w->remote_reads), 8);
        check_account(w);
        uint64_t bytes = counts_of(w).cached_bytes;
        read_block(w, 4, -1, PACK_BYTES - 10, 10); /* not beyond its end */
        assert_int_equal(counts_of(w).cached_bytes - bytes, PAGE);
        world_reopen(w);
        check_account(w);
        world_free(w);
}

static void test_remote_fails(void **state CAS_UNUSED)
{
        struct world *w = world_new(1 << 20, TIER_EVICT_S3FIFO);
        const struct cas_pack_file pack = pack_of(1);
        struct cas_block_place place;
        struct cas_err err = CAS_ERR_INIT;
        atomic_store(&w->remote_fails, 1);
        assert_int_equal(tier_blocks_block_open(w->blocks, 1, &pack, -1, 0, 5000, &place, &err),
                         -CAS_E_BUSY);
        check_account(w);
        assert_int_equal(counts_of(w).cached_blocks, 0);
        read_block(w, 1, -1, 0, 5000);
        assert_int_equal(
                tier_blocks_block_open(w->blocks, 1, &pack, -1, PACK_BYTES - 10, 11, &place, &err),
                -CAS_E_INVALID);
        assert_int_equal(tier_blocks_block_open(w->blocks, 1, &pack, -1, 0,
                                                TIER_BLOCK_BYTES_MAX + 1, &place, &err),
                         -CAS_E_INVALID);
        world_free(w);
}

static void *read_one(void *arg)
{
        read_block(arg, 3, -1, 70000, 90000);
        return NULL;
}

static void test_remote_shares(void **state CAS_UNUSED)
{
        struct world *w = world_new(1 << 20, TIER_EVICT_S3FIFO);
        pthread_t threads[8];
        atomic_store(&w->remote_delay_us, 50000);
        for (size_t i = 0; i < CAS_COUNT(threads); i++)
                assert_int_equal(pthread_create(&threads[i], NULL, read_one, w), 0);
        for (size_t i = 0; i < CAS_COUNT(threads); i++)
                assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(atomic_load(&w->remote_reads), 1);
        assert_true(counts_of(w).shared > 0);
        world_free(w);
}

static void test_no_room(void **state CAS_UNUSED)
{
        struct world *w = world_new(1 << 20, TIER_EVICT_S3FIFO);
        atomic_store(&w->room_max, 3 * PAGE);
        read_block(w, 1, -1, 0, 2 * PAGE);
        read_block(w, 1, -1, 100000, 2 * PAGE); /* the tier has no room: not kept */
        assert_int_equal(counts_of(w).unkept, 1);
        check_account(w);
        world_free(w);
        /* Without a directory all is given out, and nothing kept. */
        w = world_new(0, TIER_EVICT_S3FIFO);
        w->config.dirfd = -1;
        world_reopen(w);
        int fd;
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_pack_file pack = pack_of(1);
        read_block(w, 1, -1, 0, 2 * PAGE);
        read_block(w, 1, -1, 0, 2 * PAGE);
        assert_int_equal(counts_of(w).unkept, 2);
        assert_int_equal(tier_blocks_cache_open(w->blocks, &pack, &fd, &err), 0);
        assert_int_equal(fd, -1);
        world_free(w);
}

/* ---- going ---- */

static void test_eviction(void **state)
{
        enum tier_evictor_kind kind = *(const enum tier_evictor_kind *)*state;
        struct world *w = world_new(40 * PAGE, kind);
        unsigned seed = 1;
        w->config.exact = kind == TIER_EVICT_SIEVE;
        world_reopen(w);
        for (unsigned i = 0; i < 2000; i++) {
                uint64_t pack = 1 + (uint64_t)rand_r(&seed) % 3;
                uint64_t block = (uint64_t)rand_r(&seed) % 64;
                read_block(w, pack, -1, block * 10007, 1 + (uint32_t)(block * 157) % 10007);
                if (i % 100 == 0)
                        check_account(w);
        }
        struct tier_blocks_counts c = counts_of(w);
        assert_true(c.evicted > 0 && c.hits > 0);
        check_account(w);
        tier_blocks_resize(w->blocks, 4 * PAGE);
        check_account(w);
        tier_blocks_resize(w->blocks, 0);
        check_account(w);
        unsigned files;
        assert_int_equal(bytes_on_disk(w, &files), 0);
        assert_int_equal(files, 0);
        world_free(w);
}

/* A block that is read stays as it is until its reader is done. */
static void test_pinned(void **state CAS_UNUSED)
{
        struct world *w = world_new(4 * PAGE, TIER_EVICT_LRU);
        const struct cas_pack_file pack = pack_of(1);
        struct cas_block_place place;
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(tier_blocks_block_open(w->blocks, 1, &pack, -1, 0, 3 * PAGE, &place, &err),
                         0);
        read_block(w, 2, -1, 0, 4 * PAGE); /* wants all of the cache */
        assert_true(place_is_right(&place, 1, 0, 3 * PAGE));
        read_block(w, 1, -1, 0, 3 * PAGE); /* known to go, and in the way */
        assert_true(place_is_right(&place, 1, 0, 3 * PAGE));
        assert_true(counts_of(w).cached_bytes <= 4 * PAGE);
        tier_blocks_block_close(w->blocks, &place, false);
        check_account(w);
        read_block(w, 1, -1, 0, 3 * PAGE);
        check_account(w);
        world_free(w);
}

static void test_bad(void **state CAS_UNUSED)
{
        struct world *w = world_new(1 << 20, TIER_EVICT_S3FIFO);
        char name[TIER_TWIN_NAME_BYTES];
        read_block(w, 1, -1, 10000, 9000);
        read_block(w, 1, -1, 19000, 9000);
        int fd = openat(w->cache_fd, tier_twin_name(1, name), O_RDWR | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "damage", 6, 12000), 6);
        read_block(w, 1, -1, 10000, 9000);
        assert_int_equal(counts_of(w).bad, 1);
        assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PACK_BYTES),
                         0);
        read_block(w, 1, -1, 10000, 9000);
        read_block(w, 1, -1, 19000, 9000);
        assert_int_equal(counts_of(w).bad, 3);
        check_account(w);
        (void)close(fd);
        world_free(w);
}

static void test_gone(void **state CAS_UNUSED)
{
        struct world *w = world_new(1 << 20, TIER_EVICT_S3FIFO);
        const struct cas_pack_file pack = pack_of(2);
        struct cas_block_place place;
        struct cas_err err = CAS_ERR_INIT;
        unsigned files;
        int fd;
        read_block(w, 1, -1, 0, 100000);
        read_block(w, 1, -1, 200000, 100000);
        assert_int_equal(tier_blocks_cache_open(w->blocks, &pack, &fd, &err), 0);
        assert_true(fd >= 0);
        assert_int_equal(tier_blocks_block_open(w->blocks, 1, &pack, -1, 0, 5000, &place, &err), 0);
        struct cas_block_place seen = {.fd = fd};
        assert_true(place_is_right(&seen, 2, 0, 5000)); /* what is brought is seen */
        tier_blocks_pack_gone(w->blocks, 1);
        tier_blocks_pack_gone(w->blocks, 2);
        tier_blocks_pack_gone(w->blocks, 77);
        assert_true(place_is_right(&place, 2, 0, 5000));
        assert_true(bytes_on_disk(w, &files) > 0);
        assert_int_equal(files, 1);
        tier_blocks_block_close(w->blocks, &place, false);
        assert_int_equal(bytes_on_disk(w, &files), 0);
        assert_int_equal(files, 0);
        check_account(w);
        read_block(w, 2, -1, 0, 5000); /* it may come back */
        check_account(w);
        (void)close(fd);
        world_free(w);
}

/* ---- a run before ---- */

static void test_restart(void **state CAS_UNUSED)
{
        struct world *w = world_new(1 << 20, TIER_EVICT_S3FIFO);
        char name[TIER_TWIN_NAME_BYTES];
        for (uint64_t p = 1; p <= 4; p++) {
                read_block(w, p, -1, 1000, 9000);
                read_block(w, p, -1, 10000, 9000);
                read_block(w, p, -1, 100000, 50);
        }
        uint64_t reads = atomic_load(&w->remote_reads);
        world_reopen(w);
        check_account(w);
        assert_int_equal(counts_of(w).cached_blocks, 12);
        read_block(w, 3, -1, 10000, 9000);
        assert_int_equal(atomic_load(&w->remote_reads), reads);
        /* One file is gone, of one a block was punched, one has bytes that nobody told of, one is
         * unknown. */
        assert_int_equal(unlinkat(w->cache_fd, tier_twin_name(1, name), 0), 0);
        int fd = openat(w->cache_fd, tier_twin_name(2, name), O_RDWR | O_CLOEXEC);
        assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 3 * PAGE, PAGE),
                         0);
        (void)close(fd);
        fd = openat(w->cache_fd, tier_twin_name(3, name), O_RDWR | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "more", 4, 500000), 4);
        (void)close(fd);
        fd = openat(w->cache_fd, tier_twin_name(99, name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(pwrite(fd, "more", 4, 500000), 4);
        (void)close(fd);
        world_reopen(w);
        check_account(w);
        assert_int_equal(counts_of(w).cached_blocks, 2 + 3 + 3);
        for (uint64_t p = 1; p <= 4; p++)
                read_block(w, p, -1, 10000, 9000);
        world_free(w);
}

static void test_remove(void **state CAS_UNUSED)
{
        struct world *w = world_new(1 << 20, TIER_EVICT_S3FIFO);
        struct cas_err err = CAS_ERR_INIT;
        read_block(w, 1, -1, 0, 5000);
        tier_blocks_resize(w->blocks, 0);
        tier_blocks_resize(w->blocks, 1 << 20);
        read_block(w, 2, -1, 0, 5000);
        assert_int_equal(tier_blocks_remove(w->cache_fd, &err), 0);
        cas_cleanup_free char *cache = cas_xasprintf("%s/cache", w->dir);
        assert_int_equal(rmdir(cache), 0); /* nothing is left */
        world_free(w);
}

static void test_log_is_torn(void **state CAS_UNUSED)
{
        struct world *w = world_new(1 << 20, TIER_EVICT_S3FIFO);
        struct stat st;
        read_block(w, 1, -1, 0, 5000);
        read_block(w, 1, -1, 10000, 5000);
        assert_int_equal(fstatat(w->cache_fd, TIER_TWINLOG_NAME, &st, 0), 0);
        int fd = openat(w->cache_fd, TIER_TWINLOG_NAME, O_RDWR | O_CLOEXEC);
        assert_int_equal(st.st_size, TIER_TWINLOG_HEAD_BYTES + 2 * TIER_TWINLOG_RECORD_BYTES);
        assert_int_equal(ftruncate(fd, st.st_size - 1), 0);
        world_reopen(w);
        assert_int_equal(counts_of(w).cached_blocks, 1);
        check_account(w);
        (void)close(fd);
        fd = openat(w->cache_fd, TIER_TWINLOG_NAME, O_RDWR | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "x", 1, 0), 1);
        world_reopen(w);
        assert_int_equal(counts_of(w).cached_blocks, 0);
        check_account(w);
        read_block(w, 1, -1, 0, 5000);
        (void)close(fd);
        world_free(w);
}

/* The log is written anew when most of it is out of date. */
static void test_log_is_renewed(void **state CAS_UNUSED)
{
        struct world *w = world_new(2 * PAGE, TIER_EVICT_LRU);
        struct stat st;
        for (unsigned i = 0; i < 40000; i++) {
                const struct cas_pack_file pack = pack_of(1);
                struct cas_block_place place;
                struct cas_err err = CAS_ERR_INIT;
                assert_int_equal(tier_blocks_block_open(w->blocks, 1, &pack, -1,
                                                        (uint64_t)(i % 4) * PAGE, 8, &place, &err),
                                 0);
                tier_blocks_block_close(w->blocks, &place, false);
        }
        assert_int_equal(fstatat(w->cache_fd, TIER_TWINLOG_NAME, &st, 0), 0);
        assert_true(st.st_size < 70000 * TIER_TWINLOG_RECORD_BYTES);
        assert_true(counts_of(w).evicted > 35000);
        world_reopen(w);
        assert_int_equal(counts_of(w).cached_blocks, 2);
        check_account(w);
        world_free(w);
}

static void test_log_records(void **state CAS_UNUSED)
{
        struct tier_twinlog_record r = {TIER_TWINLOG_WENT, 1, 2, 3}, got;
        uint8_t bytes[TIER_TWINLOG_RECORD_BYTES];
        tier_twinlog_encode(&r, bytes);
        assert_true(tier_twinlog_decode(bytes, &got));
        assert_int_equal(got.offset, 2);
        for (size_t i = 0; i < sizeof(bytes) * 8; i++) {
                bytes[i / 8] ^= (uint8_t)(1 << i % 8);
                assert_false(tier_twinlog_decode(bytes, &got));
                bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        }
        r.bytes = 0;
        tier_twinlog_encode(&r, bytes);
        assert_false(tier_twinlog_decode(bytes, &got));
}

/* ---- bringing ---- */

static bool stop_at_once(void *arg CAS_UNUSED)
{
        return true;
}

static void test_bring(void **state CAS_UNUSED)
{
        struct world *w = world_new(16 << 20, TIER_EVICT_S3FIFO);
        const struct cas_pack_file pack = pack_of(1);
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_block_range ranges[] = {
                {1000, 5000}, {6000, 10}, {20000, 100000}, {3 << 20, 5000}, {(3 << 20) + 9000, 1}};
        assert_int_equal(tier_blocks_bring(w->blocks, 1, &pack, -1, ranges, CAS_COUNT(ranges),
                                           stop_at_once, NULL, &err),
                         -CAS_E_BUSY);
        assert_int_equal(counts_of(w).cached_blocks, 0);
        assert_int_equal(tier_blocks_bring(w->blocks, 1, &pack, -1, ranges, CAS_COUNT(ranges), NULL,
                                           NULL, &err),
                         0);
        assert_int_equal(atomic_load(&w->remote_reads), 2);
        assert_int_equal(counts_of(w).cached_blocks, 5);
        for (size_t i = 0; i < CAS_COUNT(ranges); i++)
                read_block(w, 1, -1, ranges[i].offset, ranges[i].bytes);
        assert_int_equal(counts_of(w).hits, 5);
        assert_int_equal(atomic_load(&w->remote_reads), 2);
        check_account(w);
        /* A home copy, part of which is there. */
        int home = home_make(w, 2);
        const struct cas_pack_file local = pack_of(2);
        assert_int_equal(tier_blocks_bring(w->blocks, 1, &local, home, ranges, 2, NULL, NULL, &err),
                         0);
        uint64_t bytes = counts_of(w).brought_bytes;
        assert_int_equal(tier_blocks_bring(w->blocks, 1, &local, home, ranges, CAS_COUNT(ranges),
                                           NULL, NULL, &err),
                         0);
        assert_int_equal(counts_of(w).brought_bytes - bytes, 100000 + 9001);
        for (size_t i = 0; i < CAS_COUNT(ranges); i++)
                read_block(w, 2, home, ranges[i].offset, ranges[i].bytes);
        assert_int_equal(counts_of(w).misses, 0);
        check_account(w);
        (void)close(home);
        world_free(w);
}

/* ---- all at once ---- */

struct reader {
        struct world *w;
        unsigned seed;
        int home; /* of pack 8 */
        _Atomic bool *stop;
};

static void *reader_thread(void *arg)
{
        struct reader *r = arg;
        for (unsigned i = 0; i < 1500; i++) {
                uint64_t pack = 1 + (uint64_t)rand_r(&r->seed) % 8;
                uint64_t block = (uint64_t)rand_r(&r->seed) % 40;
                uint32_t bytes = 1 + (uint32_t)(block * 911) % 10007;
                read_block(r->w, pack, pack == 8 ? r->home : -1, block * 10007, bytes);
        }
        return NULL;
}

static void *trouble_thread(void *arg)
{
        struct reader *r = arg;
        while (!atomic_load(r->stop)) {
                const struct cas_pack_file pack = pack_of(1 + (uint64_t)rand_r(&r->seed) % 8);
                struct cas_block_range ranges[10];
                struct cas_err err = CAS_ERR_INIT;
                for (size_t i = 0; i < CAS_COUNT(ranges); i++)
                        ranges[i] = (struct cas_block_range){(i * 3) * 10007,
                                                             1 + (uint32_t)(i * 3 * 911) % 10007};
                tier_blocks_resize(r->w->blocks, (20 + (uint64_t)rand_r(&r->seed) % 60) * PAGE);
                (void)!tier_blocks_bring(r->w->blocks, 1, &pack, pack.pack_id == 8 ? r->home : -1,
                                         ranges, CAS_COUNT(ranges), NULL, NULL, &err);
                tier_blocks_touched(r->w->blocks, 1, pack.pack_id != 8, pack.pack_id, 10007, 912);
                if (rand_r(&r->seed) % 8 == 0)
                        tier_blocks_pack_gone(r->w->blocks, pack.pack_id);
        }
        return NULL;
}

static void test_stress(void **state)
{
        enum tier_evictor_kind kind = *(const enum tier_evictor_kind *)*state;
        struct world *w = world_new(80 * PAGE, kind);
        w->config.exact = false;
        world_reopen(w);
        int home = home_make(w, 8);
        _Atomic bool stop = false;
        struct reader readers[8], trouble = {.w = w, .seed = 99, .home = home, .stop = &stop};
        pthread_t threads[8], troubles;
        for (size_t i = 0; i < CAS_COUNT(threads); i++) {
                readers[i] = (struct reader){.w = w, .seed = (unsigned)i + 1, .home = home};
                assert_int_equal(pthread_create(&threads[i], NULL, reader_thread, &readers[i]), 0);
        }
        assert_int_equal(pthread_create(&troubles, NULL, trouble_thread, &trouble), 0);
        for (size_t i = 0; i < CAS_COUNT(threads); i++)
                assert_int_equal(pthread_join(threads[i], NULL), 0);
        atomic_store(&stop, true);
        assert_int_equal(pthread_join(troubles, NULL), 0);
        world_reopen(w);
        check_account(w);
        (void)close(home);
        world_free(w);
}

int main(void)
{
        static enum tier_evictor_kind kinds[] = {TIER_EVICT_LRU, TIER_EVICT_S3FIFO,
                                                 TIER_EVICT_SIEVE, TIER_EVICT_TINYLFU};
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_twin_pages),
                cmocka_unit_test(test_twin_name),
                cmocka_unit_test(test_local_is_promoted),
                cmocka_unit_test(test_remote),
                cmocka_unit_test(test_ahead),
                cmocka_unit_test(test_remote_fails),
                cmocka_unit_test(test_remote_shares),
                cmocka_unit_test(test_no_room),
                cmocka_unit_test_prestate(test_eviction, &kinds[0]),
                cmocka_unit_test_prestate(test_eviction, &kinds[1]),
                cmocka_unit_test_prestate(test_eviction, &kinds[2]),
                cmocka_unit_test_prestate(test_eviction, &kinds[3]),
                cmocka_unit_test(test_pinned),
                cmocka_unit_test(test_bad),
                cmocka_unit_test(test_gone),
                cmocka_unit_test(test_restart),
                cmocka_unit_test(test_remove),
                cmocka_unit_test(test_log_is_torn),
                cmocka_unit_test(test_log_is_renewed),
                cmocka_unit_test(test_log_records),
                cmocka_unit_test(test_bring),
                cmocka_unit_test_prestate(test_stress, &kinds[1]),
                cmocka_unit_test_prestate(test_stress, &kinds[3]),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
