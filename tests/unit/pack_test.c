/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <xxhash.h>
#include <cmocka.h>

#include "cas/codec.h"
#include "cas/pack_int.h"
#include "tests/support/packs.h"

#define PACK_ID 0x1234
#define GOLDEN_1 "tests/golden/pack-1.pack" /* of version 1, which has no recipes */
#define GOLDEN "tests/golden/pack-2.pack"
#define BAD_DIR "tests/golden-fail/pack"

/* ---- a pack in memory ---- */

static void add_header(struct cas_buf *b)
{
        uint8_t header[CAS_PACK_HEADER_BYTES];
        cas_pack_header_encode(PACK_ID, header);
        cas_buf_append(b, header, sizeof(header));
}

static void add_block(struct cas_buf *b, const char *const *chunks, uint32_t count,
                      enum cas_codec codec)
{
        cas_cleanup_buf struct cas_buf raw = CAS_BUF_INIT;
        size_t table = cas_pack_block_frame(count);
        uint8_t record[8192];
        for (uint32_t i = 0; i < count; i++) {
                struct cas_hash name;
                cas_sha256(chunks[i], strlen(chunks[i]), &name);
                cas_pack_block_entry(record, i, &name, (uint32_t)strlen(chunks[i]), i % 2 == 0);
                cas_buf_append_str(&raw, chunks[i]);
        }
        struct cas_pack_block block = {.chunk_count = count,
                                       .raw_bytes = (uint32_t)raw.len_bytes,
                                       .raw_checksum = XXH3_64bits(raw.data, raw.len_bytes),
                                       .codec = (uint8_t)codec};
        if (codec == CAS_CODEC_NONE) {
                memcpy(record + table, raw.data, raw.len_bytes);
                block.stored_bytes = block.raw_bytes;
        } else {
                cas_cleanup_compressor struct cas_compressor *c = cas_compressor_new(codec, 1);
                block.stored_bytes = (uint32_t)cas_compressor_run(
                        c, raw.data, raw.len_bytes, record + table, raw.len_bytes - 1);
                assert_true(block.stored_bytes > 0);
        }
        size_t len = cas_pack_block_finish(record, b->len_bytes, &block);
        cas_buf_append(b, record, len);
}

static void add_object(struct cas_buf *b, uint32_t chunk_count)
{
        struct cas_chunk_ref refs[3] = {
                {.length_bytes = 300}, {.length_bytes = 20}, {.length_bytes = 1}};
        struct cas_hash id;
        uint64_t size_bytes = 0;
        cas_sha256("object", 6, &id);
        for (uint32_t i = 0; i < chunk_count; i++) {
                cas_sha256(&i, sizeof(i), &refs[i].chunk);
                size_bytes += refs[i].length_bytes;
        }
        cas_pack_object_encode(b->len_bytes, &id, size_bytes, refs, chunk_count, false, b);
}

static const struct cas_layer_record *some_layer(void)
{
        static struct cas_layer_record layer;
        cas_digest_of(CAS_DIGEST_SHA512, "blob", 4, &layer.blob);
        cas_digest_of(CAS_DIGEST_SHA256, "tar", 3, &layer.diff_id);
        cas_sha256("listing", 7, &layer.listing);
        layer.tar_bytes = 10240;
        layer.content_bytes = 321;
        layer.entry_count = 7;
        layer.listing_version = 1;
        layer.compression = 2;
        return &layer;
}

static const struct cas_recipe_record *some_recipe(void)
{
        static struct cas_recipe_record recipe = {
                .is_proved = true,
                .analysis = 3,
                .wrap = 1,
                .blob_bytes = 1234,
                .recipe_bytes = 56,
                .corrections_bytes = 7,
                .text = "go-1.2 level 6",
        };
        cas_digest_of(CAS_DIGEST_SHA512, "blob", 4, &recipe.blob);
        cas_sha256("recipe", 6, &recipe.recipe);
        return &recipe;
}

static void add_footer(struct cas_buf *b)
{
        struct cas_pack_entry entries[16];
        uint32_t count = 0;
        struct cas_hash sha256;
        for (uint64_t at = CAS_PACK_HEADER_BYTES; at < b->len_bytes; count++) {
                const uint8_t *r = b->data + at;
                entries[count] = (struct cas_pack_entry){
                        .offset = at,
                        .length_bytes =
                                CAS_PACK_RECORD_BYTES + cas_get_le32(r + 8) + cas_get_le32(r + 16),
                        .kind = r[4],
                };
                at += entries[count].length_bytes;
        }
        cas_sha256(b->data, b->len_bytes, &sha256);
        cas_pack_footer_encode(b->len_bytes, &sha256, entries, count, b);
}

static const char *const words[] = {
        "one chunk", "another chunk, another chunk, another chunk, another chunk", "three"};

static void build_pack(struct cas_buf *b, bool sealed)
{
        add_header(b);
        add_block(b, words, 3, CAS_CODEC_NONE);
        add_block(b, words + 1, 1, CAS_CODEC_LZ4);
        add_block(b, words + 1, 1, CAS_CODEC_ZSTD);
        add_object(b, 3);
        add_object(b, 0);
        cas_pack_layer_encode(b->len_bytes, some_layer(), b);
        cas_pack_recipe_encode(b->len_bytes, some_recipe(), b);
        if (sealed)
                add_footer(b);
}

static int file_of(const void *data, size_t len)
{
        int fd = memfd_create("pack", MFD_CLOEXEC);
        assert_true(fd >= 0);
        test_ok(cas_io_pwrite_all(cas_io_posix(), fd, data, len, 0, "pack", err));
        return fd;
}

/* ---- walking ---- */

struct walked {
        int fd;
        struct cas_buf again; /* the records, encoded again from what the walk told */
        unsigned count;
};

static void encode_block_again(struct walked *w, const struct cas_pack_item *item)
{
        uint8_t record[8192];
        struct cas_pack_block block = {.chunk_count = item->chunk_count,
                                       .raw_bytes = item->block.block_raw_bytes,
                                       .stored_bytes = item->block.block_stored_bytes,
                                       .raw_checksum = item->block.block_checksum,
                                       .codec = item->block.codec};
        for (uint32_t i = 0; i < item->chunk_count; i++)
                cas_pack_block_entry(record, i, &item->chunks[i].chunk,
                                     item->chunks[i].length_bytes, item->chunks[i].is_object);
        test_ok(cas_io_pread_exact(cas_io_posix(), w->fd,
                                   record + cas_pack_block_frame(item->chunk_count),
                                   block.stored_bytes, item->block.block_offset, "pack", err));
        size_t len = cas_pack_block_finish(record, item->record_offset, &block);
        cas_buf_append(&w->again, record, len);
}

static int note_item(void *arg, const struct cas_pack_item *item, struct cas_err *err CAS_UNUSED)
{
        struct walked *w = arg;
        assert_int_equal(item->record_offset, w->again.len_bytes);
        switch (item->kind) {
        case CAS_PACK_BLOCK:
                encode_block_again(w, item);
                break;
        case CAS_PACK_OBJECT:
                cas_pack_object_encode(item->record_offset, &item->object, item->object_bytes,
                                       item->refs, item->ref_count, item->is_kept, &w->again);
                break;
        case CAS_PACK_LAYER:
                cas_pack_layer_encode(item->record_offset, &item->layer, &w->again);
                break;
        case CAS_PACK_RECIPE:
                cas_pack_recipe_encode(item->record_offset, &item->recipe, &w->again);
                break;
        }
        assert_int_equal(item->record_offset + item->record_bytes, w->again.len_bytes);
        w->count++;
        return 0;
}

static int walk(const struct cas_buf *pack, unsigned *count, uint64_t *end, bool *sealed,
                struct cas_err *err)
{
        struct walked w = {.fd = file_of(pack->data, pack->len_bytes)};
        cas_buf_append(&w.again, pack->data,
                       pack->len_bytes < CAS_PACK_HEADER_BYTES ? pack->len_bytes
                                                               : CAS_PACK_HEADER_BYTES);
        int rc = cas_pack_walk(cas_io_posix(), w.fd, PACK_ID, note_item, &w, end, sealed, err);
        if (rc == 0) {
                assert_int_equal(w.again.len_bytes, *end);
                assert_memory_equal(w.again.data, pack->data, *end);
        }
        *count = w.count;
        (void)close(w.fd);
        cas_buf_release(&w.again);
        return rc;
}

static void tells_what_was_written(void **state CAS_UNUSED)
{
        for (int seal = 0; seal < 2; seal++) {
                cas_cleanup_buf struct cas_buf pack = CAS_BUF_INIT;
                unsigned count;
                uint64_t end;
                bool sealed;
                build_pack(&pack, seal);
                test_ok(walk(&pack, &count, &end, &sealed, err));
                assert_int_equal(sealed, seal);
                assert_int_equal(count, 7);
                if (!seal)
                        assert_int_equal(end, pack.len_bytes);
        }
}

static int read_blocks(void *arg, const struct cas_pack_item *item, struct cas_err *err)
{
        static const char all[] = "one chunkanother chunk, another chunk, another chunk, another "
                                  "chunkthree";
        cas_cleanup_buf struct cas_buf scratch = CAS_BUF_INIT;
        char raw[256] = "";
        int *fd = arg;
        if (item->kind != CAS_PACK_BLOCK)
                return 0;
        int rc = cas_block_read(*fd, &item->block, raw, &scratch, err);
        if (rc == 0)
                assert_string_equal(raw, item->block.codec == CAS_CODEC_NONE ? all : words[1]);
        return rc;
}

/* The frozen file has a frame of each codec; libraries may learn to pack better, but must go on
 * reading it. */
static void check_golden(const char *path, unsigned records)
{
        cas_cleanup_buf struct cas_buf pack = CAS_BUF_INIT, golden = CAS_BUF_INIT;
        unsigned count;
        uint64_t end;
        bool sealed;
        test_ok(cas_io_read_file(cas_io_posix(), AT_FDCWD, path, 65536, &golden, err));
        test_ok(walk(&golden, &count, &end, &sealed, err));
        assert_true(sealed);
        assert_int_equal(count, records);
        int fd = file_of(golden.data, golden.len_bytes);
        test_ok(cas_pack_walk(cas_io_posix(), fd, PACK_ID, read_blocks, &fd, &end, &sealed, err));
        (void)close(fd);
        /* The footer, from the file's own bytes. */
        cas_buf_append(&pack, golden.data, end);
        add_footer(&pack);
        assert_int_equal(pack.len_bytes, golden.len_bytes);
        assert_memory_equal(pack.data, golden.data, golden.len_bytes);
}

static void golden_files(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf pack = CAS_BUF_INIT;
        if (getenv("LAMINA_WRITE_GOLDEN")) {
                build_pack(&pack, true);
                test_ok(cas_io_replace_file(cas_io_posix(), AT_FDCWD, "tests/golden", GOLDEN,
                                            pack.data, pack.len_bytes, 0644, err));
        }
        check_golden(GOLDEN_1, 6);
        check_golden(GOLDEN, 7);
}

static void version_1_has_no_recipes(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf pack = CAS_BUF_INIT;
        struct cas_err reason = CAS_ERR_INIT;
        unsigned count;
        uint64_t end;
        bool sealed;
        add_header(&pack);
        cas_put_le32(pack.data + 8, 1);
        cas_put_le64(pack.data + 24, XXH3_64bits(pack.data, 24));
        cas_pack_layer_encode(pack.len_bytes, some_layer(), &pack);
        cas_pack_recipe_encode(pack.len_bytes, some_recipe(), &pack);
        test_ok(walk(&pack, &count, &end, &sealed, err));
        assert_int_equal(count, 1);
        add_footer(&pack);
        assert_int_equal(walk(&pack, &count, &end, &sealed, &reason), -CAS_E_CORRUPT);
        assert_non_null(strstr(reason.msg, "version 1"));
}

/* A crash may leave any length of the last record: everything before it is told. */
static void a_torn_tail_ends_the_pack(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf pack = CAS_BUF_INIT;
        add_header(&pack);
        add_block(&pack, words, 3, CAS_CODEC_NONE);
        size_t whole = pack.len_bytes;
        add_block(&pack, words, 3, CAS_CODEC_NONE);
        size_t full = pack.len_bytes;
        for (size_t len = whole; len <= full; len++) {
                unsigned count;
                uint64_t end;
                bool sealed;
                pack.len_bytes = len;
                test_ok(walk(&pack, &count, &end, &sealed, err));
                assert_int_equal(end, len == full ? full : whole);
                assert_int_equal(count, len == full ? 2 : 1);
                assert_false(sealed);
        }
        /* The same when the file is as long as it should be, but its last bytes are zero. */
        for (size_t len = whole; len < full; len++) {
                cas_cleanup_buf struct cas_buf torn = CAS_BUF_INIT;
                unsigned count;
                uint64_t end;
                bool sealed;
                cas_buf_append(&torn, pack.data, len);
                cas_buf_append_zero(&torn, full - len);
                if (memcmp(torn.data, pack.data, full) == 0)
                        continue;
                test_ok(walk(&torn, &count, &end, &sealed, err));
                assert_int_equal(end, whole);
        }
}

static void every_flipped_byte_of_a_sealed_pack_is_seen(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf pack = CAS_BUF_INIT;
        build_pack(&pack, true);
        uint64_t footer = cas_get_le64(pack.data + pack.len_bytes - 8);
        for (size_t at = 0; at < pack.len_bytes; at++) {
                struct cas_err err = CAS_ERR_INIT;
                unsigned count;
                uint64_t end;
                bool sealed;
                pack.data[at] ^= 0x40;
                int rc = walk(&pack, &count, &end, &sealed, &err);
                if (at < footer)
                        assert_true(rc == -CAS_E_CORRUPT || rc == -CAS_E_UNSUPPORTED);
                else /* not sealed any more, and nothing is lost */
                        assert_true(rc == 0 && !sealed && end == footer && count == 7);
                pack.data[at] ^= 0x40;
        }
}

/* ---- packs that readers must refuse ---- */

/* Makes the checksum of the record at `offset` right again. */
static void checksum_again(struct cas_buf *b, uint64_t offset)
{
        uint8_t *r = b->data + offset;
        cas_put_le64(r + 48, cas_pack_record_checksum(r, cas_get_le32(r + 8), offset));
}

struct bad {
        const char *name;
        unsigned record;   /* whose head is changed: 0 first block … 6 recipe */
        unsigned at, size; /* field of the record */
        uint64_t value;
        const char *message;
};
static const struct bad bads[] = {
        {"kind-unknown", 0, 4, 1, 9, "table length"},
        {"codec-unknown", 0, 5, 1, 4, "codec"},
        {"kept-several", 0, 5, 1, 3, "kept frame of several"},
        {"reserved", 0, 6, 2, 1, "no record"},
        {"count-none", 0, 12, 4, 0, "table length"},
        {"count-more", 0, 12, 4, 4, "table length"},
        {"table-huge", 0, 8, 4, 0xffffffff, "table length"},
        {"stored-huge", 0, 16, 4, 0xffffffff, "stored length"},
        {"stored-not-less", 1, 16, 4, 58, "stored length"},
        {"raw-none", 0, 20, 4, 0, "decoded length"},
        {"raw-huge", 0, 20, 4, 0x7fffffff, "decoded length"},
        {"chunks-short", 1, 20, 4, 59, "chunks do not fill"},
        {"chunk-empty", 0, 56 + 32, 4, 0, "length of a chunk"},
        {"chunk-huge", 0, 56 + 32, 4, 0x7fffffff, "length of a chunk"},
        {"frame-checksum", 0, 32, 8, 1, "checksum of the stored block"},
        {"block-size", 0, 40, 8, 1, "must be zero"},
        {"object-one-chunk", 3, 12, 4, 1, "table length"},
        {"object-size", 3, 40, 8, 322, "chunks do not fill"},
        {"object-frame", 3, 16, 4, 1, "must be zero"},
        {"object-codec", 3, 5, 1, 2, "must be zero"},
        {"object-kept-empty", 4, 5, 1, 3, "must be zero"},
        {"object-chunk-empty", 3, 56 + 64, 4, 0, "length of a chunk"},
        {"layer-algorithm", 5, 56, 1, 7, "digest"},
        {"layer-padding", 5, 56 + 191, 1, 1, "must be zero"},
        {"layer-digest-tail", 5, 56 + 65 + 64, 1, 1, "digest"},
        {"recipe-algorithm", 6, 56, 1, 0, "digest"},
        {"recipe-padding", 6, 56 + 67, 1, 1, "must be zero"},
        {"recipe-size", 6, 40, 8, 1, "must be zero"},
        {"recipe-text-tail", 6, 56 + 128 + 40, 1, 'x', "text"},
        {"recipe-text-open", 6, 56 + 128 + 95, 1, 'x', "text"},
};

static uint64_t record_offset(const struct cas_buf *b, unsigned index)
{
        uint64_t at = CAS_PACK_HEADER_BYTES;
        while (index-- > 0)
                at += CAS_PACK_RECORD_BYTES + cas_get_le32(b->data + at + 8) +
                      cas_get_le32(b->data + at + 16);
        return at;
}

static void build_bad(const struct bad *bad, struct cas_buf *b)
{
        build_pack(b, true);
        uint64_t offset = record_offset(b, bad->record);
        uint8_t value[8];
        cas_put_le64(value, bad->value);
        uint32_t table_bytes = cas_get_le32(b->data + offset + 8);
        memcpy(b->data + offset + bad->at, value, bad->size);
        if (cas_get_le32(b->data + offset + 8) == table_bytes)
                checksum_again(b, offset);
}

static void refuses_records_that_break_a_rule(void **state CAS_UNUSED)
{
        for (size_t i = 0; i < CAS_COUNT(bads); i++) {
                cas_cleanup_buf struct cas_buf pack = CAS_BUF_INIT;
                struct cas_err reason = CAS_ERR_INIT;
                unsigned count;
                uint64_t end;
                bool sealed;
                build_bad(&bads[i], &pack);
                if (getenv("LAMINA_WRITE_GOLDEN")) {
                        cas_cleanup_free char *path =
                                cas_xasprintf("%s/%s.pack", BAD_DIR, bads[i].name);
                        test_ok(cas_io_replace_file(cas_io_posix(), AT_FDCWD, BAD_DIR, path,
                                                    pack.data, pack.len_bytes, 0644, err));
                }
                assert_int_equal(walk(&pack, &count, &end, &sealed, &reason), -CAS_E_CORRUPT);
                if (!strstr(reason.msg, bads[i].message))
                        fail_msg("%s: %s", bads[i].name, reason.msg);
        }
}

static int walk_file(const char *name, uint64_t *end, struct cas_err *reason)
{
        cas_cleanup_buf struct cas_buf pack = CAS_BUF_INIT;
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", BAD_DIR, name);
        unsigned count;
        bool sealed;
        test_ok(cas_io_read_file(cas_io_posix(), AT_FDCWD, path, 65536, &pack, err));
        return walk(&pack, &count, end, &sealed, reason);
}

static void golden_files_that_must_fail(void **state CAS_UNUSED)
{
        DIR *dir = opendir(BAD_DIR);
        size_t count = 0;
        assert_non_null(dir);
        for (struct dirent *e; (e = readdir(dir));) {
                struct cas_err err = CAS_ERR_INIT;
                uint64_t end;
                if (e->d_name[0] == '.')
                        continue;
                if (walk_file(e->d_name, &end, &err) != -CAS_E_CORRUPT)
                        fail_msg("%s was not refused", e->d_name);
                count++;
        }
        (void)closedir(dir);
        assert_int_equal(count, CAS_COUNT(bads));
}

static void refuses_other_headers(void **state CAS_UNUSED)
{
        uint8_t header[CAS_PACK_HEADER_BYTES];
        struct cas_err reason = CAS_ERR_INIT;
        uint32_t version;
        cas_pack_header_encode(7, header);
        test_ok(cas_pack_header_decode(header, 7, &version, err));
        assert_int_equal(version, CAS_PACK_VERSION);
        assert_int_equal(cas_pack_header_decode(header, 8, &version, &reason), -CAS_E_CORRUPT);
        for (unsigned at = 8; at <= 12; at += 4) { /* a later version, an unknown feature */
                cas_pack_header_encode(7, header);
                header[at] = 3;
                cas_put_le64(header + 24, XXH3_64bits(header, 24));
                assert_int_equal(cas_pack_header_decode(header, 7, &version, &reason),
                                 -CAS_E_UNSUPPORTED);
        }
}

static void names_are_exact(void **state CAS_UNUSED)
{
        char name[CAS_PACK_NAME_BYTES];
        uint64_t id;
        assert_true(cas_pack_name_parse(cas_pack_name(UINT64_MAX - 5, name), &id));
        assert_true(id == UINT64_MAX - 5);
        assert_false(cas_pack_name_parse("000000000000000A.pack", &id));
        assert_false(cas_pack_name_parse("00000000000000a.pack", &id));
        assert_false(cas_pack_name_parse("000000000000000a.packs", &id));
        assert_false(cas_pack_name_parse("", &id));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(tells_what_was_written),
                cmocka_unit_test(golden_files),
                cmocka_unit_test(version_1_has_no_recipes),
                cmocka_unit_test(a_torn_tail_ends_the_pack),
                cmocka_unit_test(every_flipped_byte_of_a_sealed_pack_is_seen),
                cmocka_unit_test(refuses_records_that_break_a_rule),
                cmocka_unit_test(golden_files_that_must_fail),
                cmocka_unit_test(refuses_other_headers),
                cmocka_unit_test(names_are_exact),
        };
        return cmocka_run_group_tests_name("pack", tests, NULL, NULL);
}
