/* SPDX-License-Identifier: Apache-2.0 */
/* What `lamina fs` reads of packs that are not all here: a store with one tier that is slow or in a
 * bucket (by what the tests say), a cache of blocks, the resolve protocol, and its readers. */
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

#include "cas/log.h"
#include "cas/order.h"
#include "cas/prefetch.h"
#include "fusefs/lentpack_int.h"
#include "fusefs/reader_int.h"
#include "fusefs/unixsock_int.h"
#include "tests/support/fusebox.h"
#include "tests/support/scratch.h"
#include "tests/support/teststore.h"
#include "tiering/blocks.h"

#define FILES 24
#define FILE_BYTES 60000

/* ---- a tier that is not here ---- */

struct faraway {
        struct cas_backend backend; /* first */
        char *dir;                  /* scratch */
        int packs_fd, cache_fd;
        struct tier_blocks *blocks;
        bool exact; /* set before it is opened */
        _Atomic bool remote, unreachable;
        _Atomic unsigned reads, fails, touched;
        _Atomic int delay_ms;
};

static struct faraway *far_of(struct cas_backend *b)
{
        return (struct faraway *)b;
}

static int far_place(struct cas_backend *b, uint64_t pack_id CAS_UNUSED, uint32_t want CAS_UNUSED,
                     int *out_dirfd, uint32_t *out_tier, struct cas_err *err CAS_UNUSED)
{
        *out_dirfd = far_of(b)->packs_fd;
        *out_tier = CAS_TIER_OWN;
        return 0;
}

static int far_dir(struct cas_backend *b, uint64_t pack_id CAS_UNUSED, uint32_t tier CAS_UNUSED,
                   int *out_dirfd, struct cas_err *err)
{
        if (far_of(b)->unreachable)
                return cas_fail(err, CAS_E_IO, "not reachable");
        *out_dirfd = far_of(b)->packs_fd;
        return 0;
}

static int far_info(struct cas_backend *b, uint32_t tier, struct cas_tier_info *out,
                    struct cas_err *err CAS_UNUSED)
{
        *out = (struct cas_tier_info){.tier = tier,
                                      .name = "far",
                                      .remote = far_of(b)->remote,
                                      .reachable = true,
                                      .writable = true,
                                      .counts_reads = true,
                                      .density = CAS_PACK_FAST};
        return 0;
}

static int far_each(struct cas_backend *b,
                    int (*fn)(void *arg, const struct cas_tier_info *tier, int dirfd,
                              struct cas_err *err),
                    void *arg, struct cas_err *err)
{
        struct cas_tier_info info;
        (void)!far_info(b, CAS_TIER_OWN, &info, err);
        return fn(arg, &info, far_of(b)->packs_fd, err);
}

/* Whole: nobody wants that here. */
static int far_get(struct cas_backend *b CAS_UNUSED, uint32_t tier CAS_UNUSED,
                   const struct cas_pack_file *pack CAS_UNUSED, int fd CAS_UNUSED,
                   struct cas_err *err)
{
        return cas_fail(err, CAS_E_IO, "all of a pack");
}

static int far_block_open(struct cas_backend *b, uint32_t tier, const struct cas_pack_file *pack,
                          int home_fd, uint64_t offset, uint32_t bytes, struct cas_block_place *out,
                          struct cas_err *err)
{
        return tier_blocks_block_open(far_of(b)->blocks, tier, pack, home_fd, offset, bytes, out,
                                      err);
}

static void far_block_close(struct cas_backend *b, struct cas_block_place *place, bool bad)
{
        tier_blocks_block_close(far_of(b)->blocks, place, bad);
}

static int far_cache_open(struct cas_backend *b, uint32_t tier CAS_UNUSED,
                          const struct cas_pack_file *pack, int *out_fd, struct cas_err *err)
{
        return tier_blocks_cache_open(far_of(b)->blocks, pack, out_fd, err);
}

static int far_bring(struct cas_backend *b, uint32_t tier, const struct cas_pack_file *pack,
                     int home_fd, const struct cas_block_range *ranges, size_t count,
                     bool (*stop)(void *arg), void *stop_arg, struct cas_err *err)
{
        return tier_blocks_bring(far_of(b)->blocks, tier, pack, home_fd, ranges, count, stop,
                                 stop_arg, err);
}

static void far_touched(struct cas_backend *b, uint32_t tier, uint64_t pack_id, uint64_t offset,
                        uint32_t bytes)
{
        struct faraway *f = far_of(b);
        atomic_fetch_add(&f->touched, 1);
        tier_blocks_touched(f->blocks, tier, f->remote, pack_id, offset, bytes);
}

static const struct cas_backend_ops far_ops = {.pack_place = far_place,
                                               .pack_dir = far_dir,
                                               .tier_info = far_info,
                                               .tier_each = far_each,
                                               .remote_get = far_get,
                                               .block_open = far_block_open,
                                               .block_close = far_block_close,
                                               .cache_open = far_cache_open,
                                               .blocks_bring = far_bring,
                                               .touched = far_touched};

static int home_open(void *arg, uint32_t tier CAS_UNUSED, uint64_t pack_id, int *out_fd,
                     struct cas_err *err)
{
        struct faraway *f = arg;
        char name[40];
        (void)snprintf(name, sizeof(name), "%016llx.pack", (unsigned long long)pack_id);
        return cas_io_open(cas_io_posix(), f->packs_fd, name, O_RDONLY, 0, out_fd, err);
}

static int remote_read(void *arg, uint32_t tier, const struct cas_pack_file *pack, uint64_t offset,
                       void *out, size_t len, struct cas_err *err)
{
        struct faraway *f = arg;
        cas_cleanup_fd int fd = -1;
        atomic_fetch_add(&f->reads, 1);
        if (f->delay_ms)
                (void)usleep((useconds_t)f->delay_ms * 1000);
        if (f->fails > 0) {
                atomic_fetch_sub(&f->fails, 1);
                return cas_fail(err, CAS_E_IO, "as asked");
        }
        if (home_open(arg, tier, pack->pack_id, &fd, err) < 0)
                return -(int)err->code;
        return cas_io_pread_exact(cas_io_posix(), fd, out, len, offset, "pack", err);
}

static const struct tier_blocks_ops blocks_ops = {.home_open = home_open,
                                                  .remote_read = remote_read};

static void far_open(struct faraway *f, uint64_t cache_bytes)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct tier_blocks_config config = {.dirfd = cache_bytes ? f->cache_fd : -1,
                                                  .capacity_bytes = cache_bytes,
                                                  .evictor = TIER_EVICT_S3FIFO,
                                                  .exact = f->exact,
                                                  .ops = &blocks_ops,
                                                  .arg = f};
        if (tier_blocks_open(&config, &f->blocks, &err) < 0)
                fail_msg("%s", err.msg);
}

/* ---- a world ---- */

struct world {
        struct faraway far;
        struct fusebox box; /* only its store is used */
        struct cas_hash ids[FILES];
        char path[300];
        struct ffs_reader *reader;
};

static void owner_start(struct world *w)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *store = cas_xasprintf("%s/store", w->far.dir);
        const struct cas_store_config config = {
                .path = store, .lock_wait_ms = 5000, .backend = &w->far.backend};
        if (cas_store_open(&config, &w->box.store, &err) < 0 ||
            ffs_resolver_start(w->box.store, w->path, &w->box.resolver, &err) < 0)
                fail_msg("%s", err.msg);
}

static void owner_stop(struct world *w)
{
        ffs_resolver_stop(w->box.resolver);
        cas_store_close(w->box.store);
}

static void reader_new(struct world *w)
{
        const struct ffs_reader_config config = {.resolve_path = w->path,
                                                 .block_cache_bytes = 1, /* all is read again */
                                                 .extent_cache_bytes = 1 << 20,
                                                 .packs_max = 4};
        ffs_reader_free(w->reader);
        w->reader = ffs_reader_new(&config);
}

static struct world *world_make(uint64_t cache_bytes, bool exact)
{
        struct world *w = cas_xcalloc(1, sizeof(*w));
        w->far.exact = exact;
        cas_log_set_level(CAS_LOG_ERROR);
        w->far.backend.ops = &far_ops;
        w->far.dir = scratch_new();
        cas_cleanup_free char *packs = cas_xasprintf("%s/packs", w->far.dir);
        cas_cleanup_free char *cache = cas_xasprintf("%s/cache", w->far.dir);
        assert_int_equal(mkdir(packs, 0700), 0);
        assert_int_equal(mkdir(cache, 0700), 0);
        w->far.packs_fd = open(packs, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        w->far.cache_fd = open(cache, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        (void)snprintf(w->path, sizeof(w->path), "%s/resolve.sock", w->far.dir);
        far_open(&w->far, cache_bytes);
        owner_start(w);
        /* Each is a publication: blocks of their own. */
        for (uint32_t i = 0; i < FILES; i++)
                fusebox_add(&w->box, i + 1, FILE_BYTES, &w->ids[i]);
        reader_new(w);
        return w;
}

static struct world *world_new(uint64_t cache_bytes)
{
        return world_make(cache_bytes, true);
}

static void world_free(struct world *w)
{
        ffs_reader_free(w->reader);
        owner_stop(w);
        tier_blocks_close(w->far.blocks);
        (void)close(w->far.packs_fd);
        (void)close(w->far.cache_fd);
        scratch_free(w->far.dir);
        free(w);
}

/* Reads a file and compares; 0 or -code. */
static int read_file(struct world *w, unsigned i)
{
        cas_cleanup_buf struct cas_buf scratch = CAS_BUF_INIT;
        cas_cleanup_free uint8_t *got = cas_xmalloc(FILE_BYTES);
        cas_cleanup_free uint8_t *want = cas_xmalloc(FILE_BYTES);
        struct cas_err err = CAS_ERR_INIT;
        int rc = ffs_reader_read(w->reader, &w->ids[i], FILE_BYTES, 0, got, FILE_BYTES, &scratch,
                                 5000, &err);
        if (rc < 0)
                return rc;
        fusebox_content(i + 1, FILE_BYTES, want);
        assert_memory_equal(got, want, FILE_BYTES);
        return 0;
}

static void read_all(struct world *w)
{
        for (unsigned i = 0; i < FILES; i++)
                assert_int_equal(read_file(w, i), 0);
}

static struct tier_blocks_counts counts_of(struct world *w)
{
        struct tier_blocks_counts c;
        tier_blocks_counts(w->far.blocks, &c);
        return c;
}

/* Overwrites or punches all twins. */
static void damage_twins(struct world *w, bool punch)
{
        int dirfd = openat(w->far.cache_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fdopendir(dirfd);
        for (struct dirent *e; (e = readdir(dir));) {
                struct stat st;
                if (!strstr(e->d_name, ".blocks"))
                        continue;
                cas_cleanup_fd int fd = openat(w->far.cache_fd, e->d_name, O_RDWR | O_CLOEXEC);
                if (fd < 0 || fstat(fd, &st) != 0)
                        continue;
                for (off_t at = 0; at < st.st_size; at += 8192) {
                        if (punch)
                                (void)!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
                                                 4096);
                        else if (lseek(fd, at, SEEK_DATA) == at)
                                (void)!pwrite(fd, "damage", 6, at + 100);
                }
        }
        (void)closedir(dir);
}

/* ---- tests ---- */

static void wait_for_touches(struct world *w, unsigned count)
{
        for (unsigned i = 0; i < 500 && w->far.touched < count; i++)
                (void)usleep(10000);
        assert_true(w->far.touched >= count);
}

/* What is read of a slow home copy is told, brought, and then read from the cache. */
static void slow_home(void **state CAS_UNUSED)
{
        struct world *w = world_new(16 << 20);
        read_all(w);
        wait_for_touches(w, FILES);
        for (unsigned i = 0; i < 500 && counts_of(w).cached_blocks < FILES; i++)
                (void)usleep(10000);
        assert_int_equal(counts_of(w).cached_blocks, FILES);
        (void)usleep(50000); /* the last is written */
        w->far.touched = 0;
        read_all(w);
        wait_for_touches(w, FILES);
        assert_int_equal(counts_of(w).hits, FILES);
        /* The cache is damaged: the home copy is read, and the owner told. */
        damage_twins(w, false);
        w->far.touched = 0;
        read_all(w);
        wait_for_touches(w, FILES);
        assert_true(counts_of(w).bad >= FILES / 2);
        damage_twins(w, true);
        read_all(w);
        /* The owner away: what is known is read all the same. */
        owner_stop(w);
        read_all(w);
        damage_twins(w, false);
        read_all(w);
        owner_start(w);
        world_free(w);
}

static void remote(void **state CAS_UNUSED)
{
        struct world *w = world_new(16 << 20);
        w->far.remote = true;
        read_all(w);
        assert_int_equal(w->far.reads, FILES);
        read_all(w);
        assert_int_equal(w->far.reads, FILES);
        damage_twins(w, false);
        read_all(w);
        damage_twins(w, true);
        read_all(w);
        read_all(w);
        /* The owner away: what is in the cache is read, and nothing else. */
        unsigned reads = w->far.reads;
        owner_stop(w);
        assert_int_equal(read_file(w, FILES - 1), 0);
        damage_twins(w, true);
        assert_int_equal(read_file(w, FILES - 1), -CAS_E_BUSY);
        owner_start(w);
        (void)usleep(1100000); /* it was away for a moment */
        read_all(w);
        assert_true(w->far.reads > reads);
        world_free(w);
}

/* The file of the cache is another one now. */
static void emptied(void **state CAS_UNUSED)
{
        struct world *w = world_new(16 << 20);
        w->far.remote = true;
        read_all(w);
        tier_blocks_resize(w->far.blocks, 0);
        tier_blocks_resize(w->far.blocks, 16 << 20);
        read_all(w);
        assert_int_equal(w->far.reads, 2 * FILES);
        read_all(w);
        read_all(w);
        assert_int_equal(w->far.reads, 2 * FILES);
        world_free(w);
}

static void no_cache(void **state CAS_UNUSED)
{
        struct world *w = world_new(0);
        w->far.remote = true;
        read_all(w);
        read_all(w);
        assert_int_equal(counts_of(w).unkept, 2 * FILES);
        world_free(w);
}

static void fails_and_delays(void **state CAS_UNUSED)
{
        struct world *w = world_new(16 << 20);
        struct cas_err err = CAS_ERR_INIT;
        w->far.remote = true;
        w->far.fails = 100;
        assert_int_equal(read_file(w, 0), -CAS_E_IO);
        w->far.fails = 0;
        assert_int_equal(read_file(w, 0), 0);
        /* Slower than the owner holds an answer back: to be asked for again; others go on. */
        w->far.delay_ms = 700;
        assert_int_equal(read_file(w, 1), -CAS_E_BUSY);
        assert_int_equal(ffs_reader_ping(w->reader, 500, &err), 0);
        assert_int_equal(read_file(w, 0), 0);
        unsigned tries = 0;
        while (read_file(w, 1) == -CAS_E_BUSY && tries++ < 20)
                ;
        assert_int_equal(read_file(w, 1), 0);
        assert_in_range(tries, 1, 5);
        world_free(w);
}

/* One that cannot be kept is given out when it has come, however late. */
static void late_and_unkept(void **state CAS_UNUSED)
{
        struct world *w = world_new(0);
        w->far.remote = true;
        w->far.delay_ms = 600;
        unsigned tries = 0;
        while (read_file(w, 1) == -CAS_E_BUSY && tries++ < 20)
                ;
        assert_in_range(tries, 1, 5);
        assert_int_equal(w->far.reads, 1);
        world_free(w);
}

/* The home copy cannot be reached; what is cached of it can. */
static void unreachable(void **state CAS_UNUSED)
{
        struct world *w = world_new(16 << 20);
        read_all(w);
        wait_for_touches(w, FILES);
        for (unsigned i = 0; i < 500 && counts_of(w).cached_blocks < FILES; i++)
                (void)usleep(10000);
        (void)usleep(50000);
        w->far.unreachable = true;
        reader_new(w);
        read_all(w);
        damage_twins(w, true);
        assert_int_equal(read_file(w, 0), -CAS_E_IO);
        world_free(w);
}

/* What was learned of an image is there when it is mounted. */
static void prefetch(void **state CAS_UNUSED)
{
        for (int is_remote = 0; is_remote < 2; is_remote++) {
                struct world *w = world_new(16 << 20);
                struct cas_err err = CAS_ERR_INIT;
                const struct cas_digest manifest = test_digest("manifest");
                w->far.remote = is_remote;
                cas_prefetch_image(w->box.store, "app", &manifest);
                cas_prefetch_wait(w->box.store);
                assert_int_equal(counts_of(w).cached_blocks, 0);
                assert_int_equal(
                        cas_order_put(w->box.store, "app", &manifest, w->ids, FILES / 2, &err), 0);
                cas_prefetch_image(w->box.store, "app", &manifest);
                cas_prefetch_wait(w->box.store);
                assert_int_equal(counts_of(w).cached_blocks, FILES / 2);
                if (is_remote)
                        assert_int_equal(w->far.reads, 1); /* neighbours, in one go */
                for (unsigned i = 0; i < FILES / 2; i++)
                        assert_int_equal(read_file(w, i), 0);
                assert_int_equal(counts_of(w).misses, 0);
                assert_int_equal(w->far.reads, is_remote);
                world_free(w);
        }
}

/* A client that knows nothing of tiers. */
static void old_client(void **state CAS_UNUSED)
{
        struct world *w = world_new(16 << 20);
        struct cas_err err = CAS_ERR_INIT;
        static struct cas_extent extents[FFS_RESOLVE_EXTENTS_MAX];
        struct ffs_resolve_reply reply;
        struct ffs_resolve_client *c = ffs_resolve_client_new(w->path);
        assert_int_equal(ffs_resolve_extents(c, &w->ids[0], 0, 1, 1000, &reply, extents, &err), 0);
        for (int is_remote = 0; is_remote < 2; is_remote++) {
                struct ffs_resolve_request old = {.type = FFS_RESOLVE_PACK,
                                                  .pack_id = extents[0].pack_id};
                uint8_t msg[FFS_RESOLVE_REQUEST_BYTES], answer[FFS_RESOLVE_REPLY_BYTES_MAX];
                size_t len, fd_count = 2;
                int fds[2];
                cas_cleanup_fd int fd = -1;
                w->far.remote = is_remote;
                ffs_resolve_request_encode(&old, msg);
                assert_int_equal(ffs_sock_connect(w->path, &fd, &err), 0);
                assert_int_equal(ffs_sock_send(fd, msg, sizeof(msg), NULL, 0, &err), 0);
                assert_int_equal(ffs_sock_receive(fd, answer, sizeof(answer), &len, fds, &fd_count,
                                                  2000, &err),
                                 0);
                assert_int_equal(ffs_resolve_reply_decode(answer, len, &reply, extents, &err), 0);
                assert_int_equal(reply.code, is_remote ? CAS_E_IO : CAS_OK);
                assert_int_equal(fd_count, !is_remote);
                assert_false(reply.home || reply.cache || reply.fills || reply.wants_touched);
                if (!is_remote)
                        (void)close(fds[0]);
        }
        ffs_resolve_client_free(c);
        world_free(w);
}

struct reading {
        struct world *w;
        unsigned seed;
        _Atomic unsigned *left;
};

static void *reading_thread(void *arg)
{
        struct reading *r = arg;
        for (unsigned i = 0; i < 200; i++) {
                int rc = read_file(r->w, (unsigned)rand_r(&r->seed) % FILES);
                assert_int_equal(rc, 0);
        }
        atomic_fetch_sub(r->left, 1);
        return NULL;
}

/* Evictions, damage and holes while eight read: no wrong byte, and no failure. */
static void stress(bool is_remote)
{
        struct world *w = world_make(3 * FILE_BYTES, false);
        struct reading readings[8];
        pthread_t threads[8];
        _Atomic unsigned left = 8;
        w->far.remote = is_remote;
        for (size_t i = 0; i < 8; i++) {
                readings[i] = (struct reading){.w = w, .seed = (unsigned)i + 1, .left = &left};
                assert_int_equal(pthread_create(&threads[i], NULL, reading_thread, &readings[i]),
                                 0);
        }
        for (unsigned i = 0; left > 0; i++) {
                (void)usleep(3000);
                if (!is_remote) /* what is brought again for one is damaged again by this */
                        damage_twins(w, i % 2);
                else if (i % 8 == 0)
                        damage_twins(w, i % 16);
        }
        for (size_t i = 0; i < 8; i++)
                assert_int_equal(pthread_join(threads[i], NULL), 0);
        world_free(w);
}

static void stress_slow_home(void **state CAS_UNUSED)
{
        stress(false);
}

static void stress_remote(void **state CAS_UNUSED)
{
        stress(true);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(slow_home),        cmocka_unit_test(remote),
                cmocka_unit_test(emptied),          cmocka_unit_test(no_cache),
                cmocka_unit_test(fails_and_delays), cmocka_unit_test(late_and_unkept),
                cmocka_unit_test(unreachable),      cmocka_unit_test(old_client),
                cmocka_unit_test(prefetch),         cmocka_unit_test(stress_slow_home),
                cmocka_unit_test(stress_remote),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
