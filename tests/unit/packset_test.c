/* SPDX-License-Identifier: Apache-2.0 */
/* Recovery after crashes, sealing, rewriting and removing, failing disks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <errno.h>
#include <fcntl.h>
#include <cmocka.h>

#include "cas/packwriter_int.h"
#include "tests/support/packs.h"

/* ---- a disk that fails when it is told to ---- */

static struct {
        atomic_int writes_left; /* the call after that many fails; -1: none */
        atomic_int syncs_left;
        int error;
        ssize_t torn; /* a failing write writes that many bytes first */
        struct cas_packset
                *drop_from; /* the next file that is opened: drop_id is dropped meanwhile */
        uint64_t drop_id;
} disk = {.writes_left = -1, .syncs_left = -1};

static bool is_due(atomic_int *left)
{
        return atomic_load(left) >= 0 && atomic_fetch_sub(left, 1) == 0;
}

static ssize_t faulty_pwrite(void *ctx CAS_UNUSED, int fd, const void *buf, size_t len,
                             off_t offset)
{
        if (is_due(&disk.writes_left)) {
                if (disk.torn > 0 && pwrite(fd, buf, (size_t)disk.torn, offset) < 0)
                        return -1;
                errno = disk.error;
                return -1;
        }
        return pwrite(fd, buf, len, offset);
}

static int dropping_openat(void *ctx CAS_UNUSED, int dirfd, const char *path, int flags,
                           mode_t mode)
{
        struct cas_packset *ps = cas_steal(&disk.drop_from);
        if (ps)
                cas_packset_fd_drop(ps, disk.drop_id);
        return openat(dirfd, path, flags, mode);
}

static int faulty_fdatasync(void *ctx CAS_UNUSED, int fd)
{
        if (is_due(&disk.syncs_left)) {
                errno = disk.error;
                return -1;
        }
        return fdatasync(fd);
}

static const struct cas_io *faulty_io(void)
{
        static struct cas_io_ops ops;
        static const struct cas_io io = {.ops = &ops};
        ops = *cas_io_posix()->ops;
        ops.pwrite = faulty_pwrite;
        ops.fdatasync = faulty_fdatasync;
        ops.openat = dropping_openat;
        return &io;
}

static int setup(void **state)
{
        static struct test_packs t;
        test_packs_init(&t, faulty_io());
        *state = &t;
        return 0;
}

static int teardown(void **state)
{
        atomic_store(&disk.writes_left, -1);
        atomic_store(&disk.syncs_left, -1);
        test_packs_release(*state);
        return 0;
}

static void fill(uint8_t *data, size_t len, uint64_t seed)
{
        struct test_random r = {seed};
        test_random_fill(&r, data, len);
}

static void put(struct test_packs *t, uint64_t seed, size_t len, struct cas_hash *id)
{
        cas_cleanup_free uint8_t *data = cas_xmalloc(len);
        fill(data, len, seed);
        test_packs_put(t, data, len, id);
}

static int read_back(struct test_packs *t, uint64_t seed, size_t len, const struct cas_hash *id,
                     struct cas_err *err)
{
        cas_cleanup_free uint8_t *data = cas_xmalloc(len);
        cas_cleanup_buf struct cas_buf got = CAS_BUF_INIT;
        fill(data, len, seed);
        int rc = cas_object_read(&t->store, id, len, &got, err);
        if (rc == 0) {
                assert_int_equal(got.len_bytes, len);
                assert_memory_equal(got.data, data, len);
        }
        return rc;
}

struct only_pack {
        unsigned count;
        uint64_t id;
        struct cas_pack_record rec;
        char name[CAS_PACK_NAME_BYTES];
};

static bool note_pack(void *arg, uint64_t pack_id, const struct cas_pack_record *rec)
{
        struct only_pack *p = arg;
        p->count++;
        p->id = pack_id;
        p->rec = *rec;
        return true;
}

/* The last pack of the index, and how many there are. */
static struct only_pack packs_of(struct test_packs *t)
{
        struct only_pack p = {0};
        test_ok(cas_index_each_pack(t->store.index, note_pack, &p, err));
        (void)cas_pack_name(p.id, p.name);
        return p;
}

static uint64_t file_bytes(struct test_packs *t, const char *name)
{
        uint64_t bytes;
        test_ok(cas_io_size(cas_io_posix(), t->dirfd, name, &bytes, err));
        return bytes;
}

static void append_bytes(struct test_packs *t, const char *name, const void *data, size_t len)
{
        cas_cleanup_fd int fd = openat(t->dirfd, name, O_WRONLY | O_CLOEXEC);
        test_ok(cas_io_pwrite_all(cas_io_posix(), fd, data, len, file_bytes(t, name), name, err));
}

/* ---- recovery ---- */

/* What a crash leaves of a record, at every length of it, is cut; the pack is written on. */
static void torn_tails_are_cut(void **state)
{
        struct test_packs *t = *state;
        cas_cleanup_buf struct cas_buf record = CAS_BUF_INIT;
        struct cas_hash id, more;
        struct cas_hash name = {{1, 2, 3}};
        put(t, 1, 5000, &id);
        uint64_t before = packs_of(t).rec.size_bytes;
        cas_pack_object_encode(before, &name, 0, NULL, 0, false, &record);
        for (size_t len = 0; len < record.len_bytes; len++) {
                struct only_pack p = packs_of(t);
                assert_int_equal(p.count, 1);
                test_packs_close(t);
                append_bytes(t, p.name, record.data, len);
                test_packs_open(t);
                assert_int_equal(file_bytes(t, p.name), before);
                test_ok(read_back(t, 1, 5000, &id, err));
        }
        /* A whole record that the index was not told of may stay: it is garbage. */
        struct only_pack p = packs_of(t);
        test_packs_close(t);
        append_bytes(t, p.name, record.data, record.len_bytes);
        test_packs_open(t);
        assert_int_equal(file_bytes(t, p.name), before + record.len_bytes);
        put(t, 2, 7000, &more);
        assert_int_equal(packs_of(t).count, 1);
        test_packs_close(t);
        test_packs_open(t);
        test_ok(read_back(t, 1, 5000, &id, err));
        test_ok(read_back(t, 2, 7000, &more, err));
}

static void what_the_index_knows_is_never_cut(void **state)
{
        struct test_packs *t = *state;
        struct cas_hash id, other;
        struct cas_err reason = CAS_ERR_INIT;
        put(t, 1, 50000, &id);
        struct only_pack p = packs_of(t);
        test_packs_close(t);
        cas_cleanup_fd int fd = openat(t->dirfd, p.name, O_RDWR | O_CLOEXEC);
        /* Damage in the middle: seen when read, and the file is as long as before. */
        assert_int_equal(pwrite(fd, "xxxx", 4, 2000), 4);
        test_packs_open(t);
        assert_int_equal(file_bytes(t, p.name), p.rec.size_bytes);
        assert_int_equal(read_back(t, 1, 50000, &id, &reason), -CAS_E_CORRUPT);
        test_packs_close(t);
        /* Shorter than the index says: left alone, and not written to. */
        assert_int_equal(ftruncate(fd, 3000), 0);
        test_packs_open(t);
        put(t, 2, 6000, &other);
        assert_int_equal(file_bytes(t, p.name), 3000);
        assert_int_equal(packs_of(t).count, 2);
        assert_int_equal(read_back(t, 1, 50000, &id, &reason), -CAS_E_CORRUPT);
        test_ok(read_back(t, 2, 6000, &other, err));
}

static void a_missing_pack_is_damage(void **state)
{
        struct test_packs *t = *state;
        struct cas_hash id;
        struct cas_err reason = CAS_ERR_INIT;
        put(t, 1, 50000, &id);
        struct only_pack p = packs_of(t);
        test_packs_close(t);
        assert_int_equal(unlinkat(t->dirfd, p.name, 0), 0);
        test_packs_open(t);
        assert_int_equal(read_back(t, 1, 50000, &id, &reason), -CAS_E_CORRUPT);
}

static void unknown_packs_become_known(void **state)
{
        struct test_packs *t = *state;
        uint8_t header[CAS_PACK_HEADER_BYTES];
        char name[CAS_PACK_NAME_BYTES];
        struct cas_hash id;
        test_packs_close(t);
        /* Torn while its header was written. */
        cas_pack_header_encode(77, header);
        cas_cleanup_fd int fd =
                openat(t->dirfd, cas_pack_name(77, name), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        append_bytes(t, name, header, 20);
        test_packs_open(t);
        assert_int_equal(faccessat(t->dirfd, name, F_OK, 0), -1);
        assert_int_equal(packs_of(t).count, 0);
        test_packs_close(t);
        /* Whole: written on, under its id; new ids are above it. */
        cas_cleanup_fd int again = openat(t->dirfd, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        append_bytes(t, name, header, sizeof(header));
        test_packs_open(t);
        struct only_pack p = packs_of(t);
        assert_int_equal(p.count, 1);
        assert_int_equal(p.id, 77);
        put(t, 1, 1000, &id);
        assert_int_equal(packs_of(t).count, 1);
        assert_true(cas_packset_new_id(t->store.packset) > 77);
}

/* Zeros where a record was, whole ones behind it: not a torn tail. */
static void records_behind_damage_are_not_cut(void **state)
{
        struct test_packs *t = *state;
        cas_cleanup_buf struct cas_buf record = CAS_BUF_INIT;
        struct cas_hash id, other, name = {{1, 2, 3}};
        const uint8_t zeros[200] = {0};
        put(t, 1, 5000, &id);
        struct only_pack p = packs_of(t);
        test_packs_close(t);
        append_bytes(t, p.name, zeros, sizeof(zeros));
        cas_pack_object_encode(file_bytes(t, p.name), &name, 0, NULL, 0, false, &record);
        append_bytes(t, p.name, record.data, record.len_bytes);
        uint64_t whole = file_bytes(t, p.name);
        test_packs_open(t);
        put(t, 2, 6000, &other);
        assert_int_equal(file_bytes(t, p.name), whole);
        assert_int_equal(packs_of(t).count, 2);
        test_ok(read_back(t, 1, 5000, &id, err));
        test_ok(read_back(t, 2, 6000, &other, err));
}

/* The header of a new pack did not reach the disk. */
static void headless_packs_are_cleared(void **state)
{
        struct test_packs *t = *state;
        char name[CAS_PACK_NAME_BYTES];
        cas_cleanup_buf struct cas_buf record = CAS_BUF_INIT;
        struct cas_hash object = {{1, 2, 3}};
        const uint8_t zeros[CAS_PACK_HEADER_BYTES + 500] = {0};
        test_packs_close(t);
        cas_cleanup_fd int fd =
                openat(t->dirfd, cas_pack_name(77, name), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        append_bytes(t, name, zeros, sizeof(zeros));
        test_packs_open(t);
        assert_int_equal(faccessat(t->dirfd, name, F_OK, 0), -1);
        test_packs_close(t);
        cas_cleanup_fd int again = openat(t->dirfd, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        append_bytes(t, name, zeros, sizeof(zeros));
        cas_pack_object_encode(sizeof(zeros), &object, 0, NULL, 0, false, &record);
        append_bytes(t, name, record.data, record.len_bytes);
        test_packs_open(t);
        assert_int_equal(faccessat(t->dirfd, name, F_OK, 0), -1);
        cas_cleanup_free char *aside = cas_xasprintf("%s.damaged", name);
        assert_int_equal(file_bytes(t, aside), sizeof(zeros) + record.len_bytes);
        assert_int_equal(packs_of(t).count, 0);
        test_packs_close(t);
        test_packs_open(t);
}

/* The index forgets an object of one chunk. */
static void forget(struct test_packs *t, const struct cas_hash *id)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_batch_del_object(batch, id, 1);
        cas_batch_del_chunk(batch, id);
        test_ok(cas_index_write(t->store.index, batch, err));
}

static void ids_are_not_used_again(void **state)
{
        struct test_packs *t = *state;
        struct cas_hash id;
        put(t, 1, 1000, &id);
        struct only_pack first = packs_of(t);
        struct cas_recode_result recoded;
        forget(t, &id);
        test_ok(test_packs_recode(t, first.id, &recoded, err));
        assert_int_equal(recoded.empty, 1);
        assert_int_equal(packs_of(t).count, 0);
        test_packs_close(t);
        test_packs_open(t);
        put(t, 2, 1000, &id);
        assert_true(packs_of(t).id > first.id);
}

/* ---- sealing ---- */

static int count_items(void *arg, const struct cas_pack_item *item CAS_UNUSED,
                       struct cas_err *err CAS_UNUSED)
{
        ++*(unsigned *)arg;
        return 0;
}

static void assert_sealed(struct test_packs *t, const struct only_pack *p, unsigned items)
{
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(CAS_DIGEST_SHA256);
        struct cas_digest digest;
        unsigned count = 0;
        uint64_t end;
        bool sealed;
        int fd;
        assert_true(p->rec.sealed);
        assert_int_equal(p->rec.size_bytes, file_bytes(t, p->name));
        test_ok(cas_packset_open_pack(t->store.packset, p->id, &fd, err));
        test_ok(cas_pack_walk(t->io, fd, p->id, count_items, &count, &end, &sealed, err));
        assert_true(sealed);
        assert_int_equal(count, items);
        test_ok(cas_packfile_hash(t->io, fd, p->rec.size_bytes, p->name, hasher, err));
        cas_hasher_final(hasher, &digest);
        assert_memory_equal(digest.bytes, p->rec.sha256.bytes, CAS_HASH_BYTES);
        (void)close(fd);
}

static void sealed_packs_are_whole_and_named(void **state)
{
        struct test_packs *t = *state;
        struct cas_hash id, other;
        put(t, 1, 700000, &id); /* blocks and a list */
        test_ok(cas_packset_seal(t->store.packset, err));
        struct only_pack p = packs_of(t);
        assert_int_equal(p.count, 1);
        unsigned items = 0;
        uint64_t end;
        bool sealed;
        int fd;
        test_ok(cas_packset_open_pack(t->store.packset, p.id, &fd, err));
        test_ok(cas_pack_walk(t->io, fd, p.id, count_items, &items, &end, &sealed, err));
        (void)close(fd);
        assert_sealed(t, &p, items);
        put(t, 2, 1000, &other);
        assert_int_equal(packs_of(t).count, 2);
        test_ok(read_back(t, 1, 700000, &id, err));
}

/* A crash between the footer and the index: the next opening tells the index. */
static void a_footer_that_the_index_missed_counts(void **state)
{
        struct test_packs *t = *state;
        struct cas_hash id;
        put(t, 1, 3000, &id);
        struct only_pack before = packs_of(t);
        test_ok(cas_packset_seal(t->store.packset, err));
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_batch_del_pack(batch, before.id); /* else the index keeps what it knows */
        cas_batch_put_pack(batch, before.id, &before.rec);
        test_ok(cas_index_write(t->store.index, batch, err));
        test_packs_close(t);
        test_packs_open(t);
        struct only_pack p = packs_of(t);
        assert_sealed(t, &p, 1);
        /* Half a footer is cut like any tail. */
        test_packs_close(t);
        cas_cleanup_fd int fd = openat(t->dirfd, p.name, O_RDWR | O_CLOEXEC);
        assert_int_equal(ftruncate(fd, (off_t)p.rec.size_bytes - 1), 0);
        test_packs_open(t);
        cas_batch_del_pack(batch, before.id);
        cas_batch_put_pack(batch, before.id, &before.rec);
        test_ok(cas_index_write(t->store.index, batch, err));
        test_packs_close(t);
        test_packs_open(t);
        assert_int_equal(file_bytes(t, p.name), before.rec.size_bytes);
        test_ok(read_back(t, 1, 3000, &id, err));
}

/* ---- collecting ---- */

static int note_layers(void *arg, const struct cas_pack_item *item, struct cas_err *err CAS_UNUSED)
{
        if (item->kind == CAS_PACK_LAYER && item->layer.tar_bytes == 4711)
                ++*(unsigned *)arg;
        return 0;
}

static void rewriting_keeps_what_is_live(void **state)
{
        struct test_packs *t = *state;
        enum { COUNT = 20 };
        struct cas_hash ids[COUNT];
        struct cas_ingest *in = cas_ingest_new(t->store.packset, NULL);
        struct cas_layer_record layer = {.tar_bytes = 4711};
        static uint8_t data[600000];
        for (unsigned i = 0; i < COUNT; i++) {
                size_t len = i == 7 ? 600000 : 9000; /* one is cut */
                fill(data, len, i);
                test_ingest_object(in, data, len, &ids[i]);
        }
        cas_digest_of(CAS_DIGEST_SHA256, "b", 1, &layer.blob);
        cas_digest_of(CAS_DIGEST_SHA256, "t", 1, &layer.diff_id);
        test_ok(cas_ingest_layer(in, &layer, err));
        test_packs_publish(t, in);
        cas_ingest_free(in);
        struct only_pack old = packs_of(t);
        uint64_t old_bytes = file_bytes(t, old.name);
        assert_int_equal(old.count, 1);

        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_batch_put_layer(batch, &layer);
        test_ok(cas_index_write(t->store.index, batch, err));
        for (unsigned i = 0; i < COUNT; i++)
                if (i != 3 && i != 7)
                        forget(t, &ids[i]);
        /* A reader that has the old pack open goes on. */
        struct cas_extent extents[16];
        uint32_t extent_count;
        int fd;
        test_ok(cas_object_extents(&t->store, &ids[7], 0, extents, 16, &extent_count, err));
        test_ok(cas_packset_open_pack(t->store.packset, old.id, &fd, err));

        struct cas_recode_result recoded;
        test_ok(test_packs_recode(t, old.id, &recoded, err));
        assert_in_range(recoded.bytes_after, 1, old_bytes - 1);
        assert_int_equal(recoded.packs, 1);
        assert_int_equal(recoded.empty, 0);
        assert_int_equal(faccessat(t->dirfd, old.name, F_OK, 0), -1);
        struct only_pack p = packs_of(t);
        assert_int_equal(p.count, 1);
        assert_true(p.id > old.id);
        for (unsigned round = 0; round < 2; round++) {
                test_ok(read_back(t, 3, 9000, &ids[3], err));
                test_ok(read_back(t, 7, 600000, &ids[7], err));
                test_packs_close(t);
                test_packs_open(t);
        }
        unsigned layers = 0;
        uint64_t end;
        bool sealed;
        cas_cleanup_buf struct cas_buf scratch = CAS_BUF_INIT;
        cas_cleanup_free uint8_t *block = cas_xmalloc(extents[0].block_raw_bytes);
        test_ok(cas_block_read(fd, &extents[0], block, &scratch, err));
        (void)close(fd);
        test_ok(cas_packset_open_pack(t->store.packset, p.id, &fd, err));
        test_ok(cas_pack_walk(t->io, fd, p.id, note_layers, &layers, &end, &sealed, err));
        (void)close(fd);
        assert_int_equal(layers, 1);
}

/* A reader whose extents are from before a rewrite finds the chunk's new place. */
static void readers_follow_a_rewrite(void **state)
{
        struct test_packs *t = *state;
        struct cas_hash id;
        struct cas_recode_result recoded;
        put(t, 1, 9000, &id);
        struct only_pack old = packs_of(t);
        test_ok(read_back(t, 1, 9000, &id, err));
        test_ok(test_packs_recode(t, old.id, &recoded, err));
        test_ok(read_back(t, 1, 9000, &id, err));
        forget(t, &id);
        old = packs_of(t);
        test_ok(test_packs_recode(t, old.id, &recoded, err));
        assert_int_equal(recoded.bytes_after, 0);
        assert_int_equal(packs_of(t).count, 0);
}

static void a_damaged_pack_is_not_rewritten(void **state)
{
        struct test_packs *t = *state;
        struct cas_hash id;
        struct cas_recode_result recoded;
        struct cas_err reason = CAS_ERR_INIT;
        put(t, 1, 9000, &id);
        struct only_pack p = packs_of(t);
        cas_cleanup_fd int fd = openat(t->dirfd, p.name, O_RDWR | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "xxxx", 4, 200), 4);
        assert_int_equal(test_packs_recode(t, p.id, &recoded, &reason), -CAS_E_CORRUPT);
        assert_int_equal(faccessat(t->dirfd, p.name, F_OK, 0), 0);
        assert_int_equal(packs_of(t).count, 1);
}

/* A descriptor that was being opened while the pack was removed must not be kept. */
static void a_pack_removed_while_it_is_opened_is_not_kept(void **state)
{
        struct test_packs *t = *state;
        struct cas_hash id;
        struct cas_packfd fd;
        put(t, 1, 5000, &id);
        struct only_pack p = packs_of(t);
        test_packs_close(t);
        test_packs_open(t);
        disk.drop_from = t->store.packset;
        disk.drop_id = p.id;
        test_ok(cas_packset_fd_get(t->store.packset, p.id, &fd, err));
        assert_null(disk.drop_from);
        assert_int_equal(fd.slot, -1);
        cas_packset_fd_put(t->store.packset, &fd);
}

/* ---- disks that fail ---- */

static int try_put(struct test_packs *t, uint64_t seed, size_t len, struct cas_hash *id,
                   struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_cleanup_free uint8_t *data = cas_xmalloc(len);
        struct cas_ingest *in = cas_ingest_new(t->store.packset, NULL);
        fill(data, len, seed);
        int rc = cas_ingest_object_begin(in, id, err);
        if (rc == 0)
                rc = cas_ingest_object_write(in, data, len, err);
        if (rc == 0)
                rc = cas_ingest_object_end(in, err);
        if (rc == 0)
                rc = cas_ingest_flush(in, batch, NULL, err);
        if (rc == 0)
                rc = cas_index_write(t->store.index, batch, err);
        if (rc == 0)
                cas_ingest_published(in);
        cas_ingest_free(in);
        return rc;
}

static void a_full_disk_loses_nothing(void **state)
{
        struct test_packs *t = *state;
        struct cas_hash id, other;
        const size_t len = 3 * CAS_MIB;
        put(t, 1, 5000, &id);
        for (int after = 0; after < 12; after++) {
                struct cas_err reason = CAS_ERR_INIT;
                disk.error = ENOSPC;
                disk.torn = after % 2 ? 100 : 0;
                atomic_store(&disk.writes_left, after);
                int rc = try_put(t, 100, len, &other, &reason);
                bool failed = atomic_exchange(&disk.writes_left, -1) < 0;
                assert_int_equal(rc, failed ? -CAS_E_NOSPACE : 0);
                if (!failed)
                        break;
                struct cas_object_info info;
                assert_int_equal(cas_object_stat(&t->store, &other, &info, &reason),
                                 -CAS_E_NOTFOUND);
                test_ok(read_back(t, 1, 5000, &id, err));
        }
        test_ok(try_put(t, 100, len, &other, err));
        test_packs_close(t);
        test_packs_open(t);
        test_ok(read_back(t, 1, 5000, &id, err));
        test_ok(read_back(t, 100, len, &other, err));
}

/* After a failed sync nothing that the pack held is trusted or written behind. */
static void a_failed_sync_ends_the_pack(void **state)
{
        struct test_packs *t = *state;
        struct cas_hash id;
        struct cas_err reason = CAS_ERR_INIT;
        disk.error = EIO;
        atomic_store(&disk.syncs_left, 1); /* that of the header */
        assert_int_equal(try_put(t, 1, 5000, &id, &reason), -CAS_E_IO);
        atomic_store(&disk.syncs_left, -1);
        test_ok(try_put(t, 1, 5000, &id, err));
        unsigned count;
        (void)test_packs_bytes(t, &count);
        assert_int_equal(count, 2);
        test_ok(read_back(t, 1, 5000, &id, err));
        test_packs_close(t);
        test_packs_open(t);
        test_ok(read_back(t, 1, 5000, &id, err));
}

/* A pack that reads back damaged cannot be sealed: it must not be handed out for ever after. */
static void a_damaged_pack_is_left_when_it_is_to_be_sealed(void **state)
{
        struct test_packs *t = *state;
        struct cas_hash id, other;
        struct cas_err reason = CAS_ERR_INIT;
        put(t, 1, 9000, &id);
        struct only_pack p = packs_of(t);
        cas_cleanup_fd int fd = openat(t->dirfd, p.name, O_RDWR | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "xxxx", 4, 200), 4);
        assert_int_equal(cas_packset_seal(t->store.packset, &reason), -CAS_E_CORRUPT);
        put(t, 2, 9000, &other);
        assert_int_equal(packs_of(t).count, 2);
        test_ok(cas_packset_seal(t->store.packset, err));
        test_ok(read_back(t, 2, 9000, &other, err));
}

/* B counted on a chunk in A's pack; that pack fails to sync for A: B must fail as well. */
static void those_who_count_on_a_failed_pack_fail(void **state)
{
        struct test_packs *t = *state;
        struct cas_hash ida, idb;
        struct cas_err reason = CAS_ERR_INIT;
        static uint8_t data[2][256 * 1024];
        struct cas_ingest *a = cas_ingest_new(t->store.packset, NULL);
        struct cas_ingest *b = cas_ingest_new(t->store.packset, NULL);
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        fill(data[0], sizeof(data[0]), 1);
        fill(data[1], sizeof(data[1]), 2);
        test_ingest_object(a, data[0], sizeof(data[0]), &ida);
        test_ingest_object(a, data[1], sizeof(data[1]), &ida); /* the first block is written */
        test_ok(cas_ingest_drain(a, err));
        test_ingest_object(b, data[0], sizeof(data[0]), &idb);
        test_ok(cas_ingest_drain(b, err));
        disk.error = EIO;
        atomic_store(&disk.syncs_left, 0);
        assert_int_equal(cas_ingest_flush(a, batch, NULL, &reason), -CAS_E_IO);
        atomic_store(&disk.syncs_left, -1);
        assert_int_equal(cas_ingest_flush(b, batch, NULL, &reason), -CAS_E_IO);
        /* Another publication meanwhile stores it again. */
        test_ok(try_put(t, 1, sizeof(data[0]), &idb, err));
        cas_ingest_free(a);
        cas_ingest_free(b);
        test_ok(read_back(t, 1, sizeof(data[0]), &idb, err));
}

/* ---- publications that share a pack ---- */

/* B counts on a chunk in A's pack, which A goes on writing; B's batch is written last. */
static void a_late_batch_does_not_shrink_a_pack(void **state)
{
        struct test_packs *t = *state;
        struct cas_hash ida, idb, more;
        static uint8_t data[2][256 * 1024];
        struct cas_ingest *a = cas_ingest_new(t->store.packset, NULL);
        struct cas_ingest *b = cas_ingest_new(t->store.packset, NULL);
        cas_cleanup_batch struct cas_batch *early = cas_batch_new();
        cas_cleanup_batch struct cas_batch *late = cas_batch_new();
        fill(data[0], sizeof(data[0]), 1);
        fill(data[1], sizeof(data[1]), 2);
        test_ingest_object(a, data[0], sizeof(data[0]), &ida);
        test_ingest_object(a, data[1], sizeof(data[1]), &more); /* the first block is written */
        test_ok(cas_ingest_drain(a, err));
        test_ingest_object(b, data[0], sizeof(data[0]), &idb);
        test_ok(cas_ingest_flush(b, late, NULL, err));
        test_ok(cas_ingest_flush(a, early, NULL, err));
        test_ok(cas_index_write(t->store.index, early, err));
        struct only_pack p = packs_of(t);
        assert_int_equal(p.count, 1);
        assert_int_equal(p.rec.size_bytes, file_bytes(t, p.name));
        test_ok(cas_index_write(t->store.index, late, err));
        assert_int_equal(packs_of(t).rec.size_bytes, p.rec.size_bytes);
        cas_ingest_published(a);
        cas_ingest_published(b);
        cas_ingest_free(a);
        cas_ingest_free(b);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(torn_tails_are_cut, setup, teardown),
                cmocka_unit_test_setup_teardown(what_the_index_knows_is_never_cut, setup, teardown),
                cmocka_unit_test_setup_teardown(a_missing_pack_is_damage, setup, teardown),
                cmocka_unit_test_setup_teardown(unknown_packs_become_known, setup, teardown),
                cmocka_unit_test_setup_teardown(records_behind_damage_are_not_cut, setup, teardown),
                cmocka_unit_test_setup_teardown(headless_packs_are_cleared, setup, teardown),
                cmocka_unit_test_setup_teardown(ids_are_not_used_again, setup, teardown),
                cmocka_unit_test_setup_teardown(a_pack_removed_while_it_is_opened_is_not_kept,
                                                setup, teardown),
                cmocka_unit_test_setup_teardown(sealed_packs_are_whole_and_named, setup, teardown),
                cmocka_unit_test_setup_teardown(a_footer_that_the_index_missed_counts, setup,
                                                teardown),
                cmocka_unit_test_setup_teardown(rewriting_keeps_what_is_live, setup, teardown),
                cmocka_unit_test_setup_teardown(readers_follow_a_rewrite, setup, teardown),
                cmocka_unit_test_setup_teardown(a_damaged_pack_is_not_rewritten, setup, teardown),
                cmocka_unit_test_setup_teardown(a_full_disk_loses_nothing, setup, teardown),
                cmocka_unit_test_setup_teardown(a_failed_sync_ends_the_pack, setup, teardown),
                cmocka_unit_test_setup_teardown(a_damaged_pack_is_left_when_it_is_to_be_sealed,
                                                setup, teardown),
                cmocka_unit_test_setup_teardown(those_who_count_on_a_failed_pack_fail, setup,
                                                teardown),
                cmocka_unit_test_setup_teardown(a_late_batch_does_not_shrink_a_pack, setup,
                                                teardown),
        };
        return cmocka_run_group_tests_name("packset", tests, NULL, NULL);
}
