/* SPDX-License-Identifier: Apache-2.0 */
/* Layers of an unknown encoder whose frames hold files, or pieces of files: kept, used as the
 * files' chunks, and made into the blob again, whatever happens to packs and index meanwhile. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>
#include <zstd.h>

#include "cas/codec.h"
#include "cas/commit_int.h"
#include "cas/condense.h"
#include "cas/kept_int.h"
#include "cas/layer.h"
#include "cas/maintain.h"
#include "cas/regen_int.h"
#include "cas/record_int.h"
#include "cas/store_int.h"
#include "cas/verity.h"
#include "tests/support/deflatesample.h"
#include "tests/support/memsource.h"
#include "tests/support/packs.h"
#include "tests/support/tarmake.h"
#include "tests/support/teststore.h"

#define FILES 40

/* How a blob is made, as podman does: a frame for what is before a file, frames of its content. */
struct maker {
        unsigned first_file;
        size_t piece_bytes;  /* of a file in a frame */
        unsigned search_log; /* what makes the encoder one of its own */
        bool checksum;
};

static size_t file_bytes(unsigned i)
{
        static const size_t sizes[] = {20, 5000, 130000, 9000, 262144, 700000, 70000, 1};
        return sizes[i % CAS_COUNT(sizes)] + i % 3;
}

static void file_content(unsigned i, struct cas_buf *out)
{
        deflate_sample(i % 5 == 4 ? DEFLATE_SAMPLE_RANDOM : DEFLATE_SAMPLE_TEXT, i, file_bytes(i),
                       out);
        if (i == 7) /* two of one content */
                out->len_bytes = 0, deflate_sample(DEFLATE_SAMPLE_TEXT, 1, file_bytes(1), out);
}

static void add_frame(const struct maker *m, struct cas_buf *blob, const void *data, size_t len)
{
        ZSTD_CCtx *ctx = ZSTD_createCCtx();
        assert_non_null(ctx);
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_compressionLevel, 3);
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_minMatch, 7);
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_searchLog, (int)m->search_log);
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_hashLog, 8);
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_checksumFlag, m->checksum);
        cas_buf_reserve(blob, ZSTD_compressBound(len));
        size_t n = ZSTD_compress2(ctx, blob->data + blob->len_bytes, ZSTD_compressBound(len), data,
                                  len);
        assert_false(ZSTD_isError(n));
        blob->len_bytes += n;
        (void)ZSTD_freeCCtx(ctx);
}

static void add_skippable(struct cas_buf *blob, size_t len)
{
        cas_buf_append_le32(blob, 0x184d2a50);
        cas_buf_append_le32(blob, (uint32_t)len);
        for (size_t i = 0; i < len; i++)
                cas_buf_append_byte(blob, (uint8_t)i);
}

static void make_blob(const struct maker *m, struct cas_buf *blob)
{
        cas_cleanup_buf struct cas_buf pending = CAS_BUF_INIT, content = CAS_BUF_INIT;
        for (unsigned i = m->first_file; i < m->first_file + FILES; i++) {
                char name[32];
                (void)snprintf(name, sizeof(name), "dir/file%u", i);
                cas_buf_clear(&content);
                file_content(i, &content);
                tarmake_header(&pending, &(struct tarmake){.name = name,
                                                           .size = content.len_bytes,
                                                           .mode = 0644,
                                                           .mtime = 1700000000});
                add_frame(m, blob, pending.data, pending.len_bytes);
                for (size_t at = 0; at < content.len_bytes; at += m->piece_bytes)
                        add_frame(m, blob, content.data + at,
                                  cas_min_u64(m->piece_bytes, content.len_bytes - at));
                cas_buf_clear(&pending);
                static const uint8_t zeros[512];
                cas_buf_append(&pending, zeros,
                               cas_align_up(content.len_bytes, 512) - content.len_bytes);
        }
        tarmake_end(&pending);
        add_frame(m, blob, pending.data, pending.len_bytes);
        add_skippable(blob, 500);
        add_skippable(blob, 64);
}

/* ---- a blob in a store, condensed ---- */

struct layer {
        struct cas_buf blob;
        struct cas_layer_record rec;
        struct cas_hash recipe;
        struct cas_wrap_report report;
        enum cas_wrap_kind kind;
        uint32_t marks;
};

static void layer_release(struct layer *l)
{
        cas_buf_release(&l->blob);
}
#define cleanup_layer __attribute__((cleanup(layer_release)))

static void condense(struct teststore *t, struct layer *l)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_cleanup_recipe_writer struct cas_recipe_writer w;
        struct memsource source = {
                .data = l->blob.data, .len = l->blob.len_bytes, .step = SIZE_MAX};
        uint64_t bytes;
        uint32_t dropped;
        int fd;
        test_ok(cas_layer_import(t->store, memsource_read, &source, NULL, NULL, &l->rec, err));
        test_ok(cas_publish_begin(t->store, &p, err));
        test_ok(cas_blob_open(t->store, &l->rec.blob, &fd, &bytes, err));
        const struct cas_wrap_input in = {.io = t->store->io, .fd = fd, .blob_bytes = bytes};
        cas_recipe_writer_init(&w, t->store);
        w.head.blob_bytes = bytes;
        test_ok(cas_zstd_analyse(&in, p, &w, &l->kind, &l->report, err));
        w.head.wrap = l->kind;
        if (l->report.reason[0] == '\0') {
                l->marks = w.head.mark_count;
                test_ok(cas_regen_prove(&w, &l->rec.blob, &in, 2, NULL, &dropped, err));
                assert_int_equal(dropped, 0);
                test_ok(cas_recipe_writer_publish(&w, p, &l->recipe, err));
        }
        test_ok(cas_publish_commit(p, err));
        (void)close(fd);
}

/* The blob from every mark, and from the middle. */
static void check_blob(struct teststore *t, const struct layer *l)
{
        cas_cleanup_free uint8_t *piece = cas_xmalloc(100000);
        for (unsigned i = 0; i < 4; i++) {
                cas_cleanup_regen struct cas_regen *g = NULL;
                uint64_t at = l->blob.len_bytes * i / 4;
                size_t n = 1;
                test_ok(cas_regen_open(t->store, &l->rec.blob, &l->recipe, at, 2, &g, err));
                for (; n > 0; at += n) {
                        test_ok(cas_regen_read(g, piece, 100000, &n, err));
                        assert_true(at + n <= l->blob.len_bytes);
                        assert_memory_equal(piece, l->blob.data + at, n);
                }
                assert_int_equal(at, l->blob.len_bytes);
        }
}

/* Content of every file, and whether the first `kept` of its chunks are kept frames of `piece`. */
static void check_files(struct teststore *t, const struct maker *m, bool kept)
{
        for (unsigned i = m->first_file; i < m->first_file + FILES; i++) {
                cas_cleanup_buf struct cas_buf content = CAS_BUF_INIT, got = CAS_BUF_INIT;
                struct cas_extent extents[1000];
                struct cas_hash id;
                uint8_t piece[300];
                uint32_t count;
                size_t n;
                file_content(i, &content);
                if (content.len_bytes <= CAS_INLINE_BYTES_MAX)
                        continue;
                cas_verity_of(content.data, content.len_bytes, &id);
                test_ok(cas_object_read(t->store, &id, 1 << 20, &got, err));
                assert_int_equal(got.len_bytes, content.len_bytes);
                assert_memory_equal(got.data, content.data, got.len_bytes);
                uint64_t at = content.len_bytes * 2 / 3;
                test_ok(cas_object_pread(t->store, &id, at, piece, sizeof(piece), &n, err));
                assert_memory_equal(piece, content.data + at, n);
                test_ok(cas_object_extents(t->store, &id, 0, extents, CAS_COUNT(extents), &count,
                                           err));
                uint64_t end = 0;
                for (uint32_t c = 0; c < count; c++) {
                        assert_int_equal(extents[c].object_offset, end);
                        end += extents[c].length_bytes;
                }
                assert_int_equal(end, content.len_bytes);
                for (uint32_t c = 0; c < count && kept; c++) {
                        assert_int_equal(extents[c].codec, CAS_CODEC_ZSTD_KEPT);
                        assert_int_equal(extents[c].chunk_offset, 0);
                        assert_int_equal(extents[c].length_bytes,
                                         cas_min_u64(m->piece_bytes,
                                                     content.len_bytes - c * m->piece_bytes));
                }
        }
}

static void say(void *arg, enum cas_fsck_severity severity, const char *id, const char *subject,
                const char *message)
{
        (void)arg;
        (void)severity;
        print_error("%s %s %s\n", id, subject, message);
}

static void check_store(struct teststore *t)
{
        struct cas_fsck_result r;
        test_ok(cas_fsck(t->store, NULL, NULL, say, NULL, &r, err));
        assert_int_equal(r.errors, 0);
}

static void name_layer(struct teststore *t, const struct layer *l)
{
        char text[CAS_DIGEST_TEXT_BYTES], config_text[CAS_DIGEST_TEXT_BYTES];
        struct cas_digest config = test_put_blob(t->store, "r", "{}");
        cas_cleanup_free char *json = cas_xasprintf(
                "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\","
                "\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\","
                "\"digest\":\"%s\",\"size\":2},\"layers\":[{\"mediaType\":"
                "\"application/vnd.oci.image.layer.v1.tar+zstd\",\"digest\":\"%s\",\"size\":%zu}]}",
                cas_digest_text(&config, config_text), cas_digest_text(&l->rec.blob, text),
                l->blob.len_bytes);
        (void)test_put_manifest(t->store, "r", text + 60, json);
}

static const struct maker whole = {.piece_bytes = CAS_CHUNK_BYTES_MAX, .search_log = 1};
static const struct maker pieces = {.piece_bytes = 65536, .search_log = 1, .checksum = true};

static void frames_are_kept(void **state)
{
        struct teststore *t = *state;
        const struct maker *makers[] = {&whole, &pieces};
        for (unsigned i = 0; i < 2; i++) {
                cleanup_layer struct layer l = {0};
                struct maker m = *makers[i];
                m.first_file = 100 * i;
                make_blob(&m, &l.blob);
                condense(t, &l);
                assert_string_equal(l.report.reason, "");
                assert_int_equal(l.kind, CAS_WRAP_ZSTD_FRAMES);
                assert_non_null(strstr(l.report.text, "files kept"));
                assert_int_equal(l.marks, 1 + l.blob.len_bytes / CAS_RECIPE_MARK_SPACING_BYTES);
                check_blob(t, &l);
                check_files(t, &m, true);
                check_store(t);
        }
}

/* Recoding, collection, a rebuilt index: the frames stay what they are. */
static void frames_stay(void **state)
{
        struct teststore *t = *state;
        cleanup_layer struct layer a = {0}, b = {0};
        struct maker other = {.first_file = 200, .piece_bytes = 100000, .search_log = 1};
        struct cas_recode_result recoded;
        struct cas_gc_result gc;
        make_blob(&pieces, &a.blob);
        make_blob(&other, &b.blob);
        condense(t, &a);
        condense(t, &b);
        name_layer(t, &a);
        test_ok(cas_condense_packs(t->store, CAS_CONDENSE_DEFAULT, NULL, NULL, &recoded, err));
        assert_true(recoded.packs > 0);
        check_blob(t, &a);
        check_files(t, &pieces, true);
        /* The second is nobody's, but its recipe's object is not the first one's either. */
        const struct cas_gc_options options = {.live_percent_min = 90};
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_recipe_record rec = {.blob = a.rec.blob,
                                        .recipe = a.recipe,
                                        .is_proved = true,
                                        .analysis = CAS_CONDENSE_ANALYSIS,
                                        .wrap = CAS_WRAP_ZSTD_FRAMES,
                                        .blob_bytes = a.blob.len_bytes};
        test_ok(cas_publish_begin(t->store, &p, err));
        test_ok(cas_publish_recipe(p, &rec, NULL, err));
        test_ok(cas_publish_commit(p, err));
        cas_publish_free(cas_steal(&p));
        test_ok(cas_gc(t->store, &options, NULL, &gc, err));
        assert_true(gc.objects_removed > 0 && gc.packs_rewritten > 0);
        check_blob(t, &a);
        check_files(t, &pieces, true);
        check_store(t);
        teststore_close(t);
        const struct cas_store_config config = {.path = t->path};
        test_ok(cas_rebuild(&config, NULL, err));
        test_ok(teststore_open(t, err));
        check_blob(t, &a);
        check_files(t, &pieces, true);
        check_store(t);
        test_ok(cas_condense_packs(t->store, CAS_CONDENSE_COLD, NULL, NULL, &recoded, err));
        check_blob(t, &a);
        check_files(t, &pieces, true);
        check_store(t);
}

/* Just stored, in packs where the old lists and blocks still are. */
static void a_rebuilt_index_has_the_frames(void **state)
{
        struct teststore *t = *state;
        const struct maker *makers[] = {&whole, &pieces};
        struct layer l[2] = {{.marks = 0}, {.marks = 0}};
        struct maker m[2];
        for (unsigned i = 0; i < 2; i++) {
                m[i] = *makers[i];
                m[i].first_file = 100 * i;
                make_blob(&m[i], &l[i].blob);
                condense(t, &l[i]);
        }
        teststore_close(t);
        const struct cas_store_config config = {.path = t->path};
        test_ok(cas_rebuild(&config, NULL, err));
        test_ok(teststore_open(t, err));
        for (unsigned i = 0; i < 2; i++) {
                check_blob(t, &l[i]);
                check_files(t, &m[i], true);
                layer_release(&l[i]);
        }
        check_store(t);
}

static void other_frames_of_the_same_files(void **state)
{
        struct teststore *t = *state;
        const struct maker others[] = {
                {.piece_bytes = 65536, .search_log = 1},                     /* no checksums */
                {.piece_bytes = 50000, .search_log = 1, .checksum = true},   /* other pieces */
                {.piece_bytes = 1 << 19, .search_log = 1, .checksum = true}, /* whole */
        };
        cleanup_layer struct layer first = {0};
        make_blob(&pieces, &first.blob);
        condense(t, &first);
        assert_int_equal(first.kind, CAS_WRAP_ZSTD_FRAMES);
        for (size_t i = 0; i < CAS_COUNT(others); i++) {
                cleanup_layer struct layer l = {0};
                make_blob(&others[i], &l.blob);
                condense(t, &l);
                assert_string_not_equal(l.report.reason, "");
        }
        /* The same frames with others beside them. */
        struct maker m = pieces;
        cleanup_layer struct layer more = {0};
        struct cas_store_stats before, after;
        m.first_file = 8;
        make_blob(&m, &more.blob);
        test_ok(cas_store_stats(t->store, &before, err));
        condense(t, &more);
        test_ok(cas_store_stats(t->store, &after, err));
        assert_int_equal(more.kind, CAS_WRAP_ZSTD_FRAMES);
        assert_true(after.pack_bytes - before.pack_bytes < more.blob.len_bytes * 9 / 10);
        check_blob(t, &first);
        check_blob(t, &more);
        check_files(t, &pieces, true);
        check_files(t, &m, true);
        check_store(t);
}

/* Frames that are longer than the longest chunk, or that hold headers as well. */
static void what_is_not_kept(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT, content = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_TEXT, 9, 3000000, &content);
        tarmake_header(&tar, &(struct tarmake){.name = "f", .size = 3000000});
        tarmake_data(&tar, content.data, content.len_bytes);
        tarmake_end(&tar);
        for (unsigned i = 0; i < 3; i++) {
                cleanup_layer struct layer l = {0};
                size_t first = i == 1 ? 600 : 512, step = i == 2 ? CAS_CHUNK_BYTES_MAX + 1 : 65536;
                add_frame(&whole, &l.blob, tar.data, first);
                for (size_t at = first; at < tar.len_bytes; at += step)
                        add_frame(&whole, &l.blob, tar.data + at,
                                  cas_min_u64(step, tar.len_bytes - at));
                condense(t, &l);
                assert_string_not_equal(l.report.reason, "");
        }
        check_store(t);
}

/* ---- beside others ---- */

struct traffic {
        struct teststore *t;
        struct maker maker;
        _Atomic(bool) stop;
};

static void *read_files(void *arg)
{
        struct traffic *traffic = arg;
        while (!traffic->stop)
                check_files(traffic->t, &traffic->maker, false);
        return NULL;
}

static void *recode_packs(void *arg)
{
        struct traffic *traffic = arg;
        while (!traffic->stop) {
                struct cas_recode_result r;
                test_ok(cas_condense_packs(traffic->t->store, CAS_CONDENSE_DEFAULT, NULL, NULL, &r,
                                           err));
        }
        return NULL;
}

/* Lists of several pages are replaced while they are read, blocks while they are moved. */
static void readers_and_recoding_go_on(void **state)
{
        struct teststore *t = *state;
        struct traffic traffic = {.t = t, .maker = {.piece_bytes = 1000, .search_log = 1}};
        for (unsigned round = 0; round < 3; round++) {
                cleanup_layer struct layer l = {0};
                struct memsource source = {.step = SIZE_MAX};
                pthread_t reader, recoder;
                traffic.maker.first_file = 100 * round;
                traffic.stop = false;
                make_blob(&traffic.maker, &l.blob);
                source.data = l.blob.data;
                source.len = l.blob.len_bytes;
                test_ok(cas_layer_import(t->store, memsource_read, &source, NULL, NULL, &l.rec,
                                         err));
                assert_int_equal(pthread_create(&reader, NULL, read_files, &traffic), 0);
                assert_int_equal(pthread_create(&recoder, NULL, recode_packs, &traffic), 0);
                condense(t, &l);
                traffic.stop = true;
                assert_int_equal(pthread_join(reader, NULL), 0);
                assert_int_equal(pthread_join(recoder, NULL), 0);
                assert_int_equal(l.kind, CAS_WRAP_ZSTD_FRAMES);
                check_blob(t, &l);
                check_store(t);
        }
}

/* ---- recipes that cannot be ---- */

static void put_varint(struct cas_recipe_writer *w, uint64_t v)
{
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        cas_varint_append(&b, v);
        test_ok(cas_spool_append(w->sections[CAS_RECIPE_WRAP], b.data, b.len_bytes, err));
}

static void bad_recipes_are_refused(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_hash plain, ids[2] = {{{0}}};
        test_ok(cas_publish_begin(t->store, &p, err));
        test_ok(cas_publish_object(p, "not a kept frame", 16, &plain, err));
        test_ok(cas_publish_commit(p, err));
        ids[1] = plain;
        static const uint64_t parts[][3] = {
                {0},
                {101 << 1},
                {1 << 1 | 1, 0, 0},
                {1 << 1 | 1, 2, 0},
                {1 << 1 | 1, 1, 0},
                {1 << 1 | 1, 1, 1},
                {1 << 1 | 1, 1, UINT64_C(1) << 40},
                {10 << 1},
        };
        for (size_t i = 0; i < CAS_COUNT(parts); i++) {
                cas_cleanup_recipe_writer struct cas_recipe_writer w;
                cas_cleanup_recipe struct cas_recipe *r = NULL;
                cas_cleanup_wrap struct cas_wrap_reader *wr = NULL;
                struct cas_recipe_mark mark = {.state_bytes = 2};
                struct cas_err reason = CAS_ERR_INIT;
                uint8_t piece[100];
                size_t n;
                cas_recipe_writer_init(&w, t->store);
                w.head.blob_bytes = 100;
                w.head.wrap = CAS_WRAP_ZSTD_FRAMES;
                test_ok(cas_spool_append(w.sections[CAS_RECIPE_TAR_OBJECTS], ids, sizeof(ids),
                                         err));
                for (size_t k = 0; k < (parts[i][0] & 1 ? 3 : 1); k++)
                        put_varint(&w, parts[i][k]);
                test_ok(cas_recipe_writer_mark(&w, &mark, err));
                test_ok(cas_recipe_open_writer(&w, &r, err));
                test_ok(cas_wrap_open(r, &mark, NULL, NULL, &wr, err));
                assert_int_equal(cas_wrap_read(wr, piece, sizeof(piece), &n, &reason),
                                 -CAS_E_CORRUPT);
        }
}

/* Frames that are not the object that they are said to be. */
static void wrong_frames_are_refused(void **state)
{
        struct teststore *t = *state;
        cas_cleanup_buf struct cas_buf content = CAS_BUF_INIT, frame = CAS_BUF_INIT;
        deflate_sample(DEFLATE_SAMPLE_TEXT, 2, 5000, &content);
        add_frame(&whole, &frame, content.data, content.len_bytes);
        for (uint32_t frames = 1; frames <= 2; frames++) {
                cas_cleanup_publish struct cas_publish *p = NULL;
                struct cas_hash id;
                struct cas_err reason = CAS_ERR_INIT;
                const struct cas_kept_frame f = {.stored = frame.data,
                                                 .stored_bytes = (uint32_t)frame.len_bytes,
                                                 .plain = content.data,
                                                 .plain_bytes = (uint32_t)content.len_bytes};
                cas_verity_of("else", 4, &id);
                test_ok(cas_publish_begin(t->store, &p, err));
                test_ok(cas_publish_kept_begin(p, &id, frames, err));
                if (frames == 1) {
                        assert_int_equal(cas_publish_kept_frame(p, &f, &reason), -CAS_E_CORRUPT);
                        continue;
                }
                test_ok(cas_publish_kept_frame(p, &f, err));
                test_ok(cas_publish_kept_frame(p, &f, err));
                assert_int_equal(cas_publish_kept_end(p, &reason), -CAS_E_CORRUPT);
        }
        check_store(t);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(frames_are_kept),
                TEST(frames_stay),
                TEST(a_rebuilt_index_has_the_frames),
                TEST(other_frames_of_the_same_files),
                TEST(what_is_not_kept),
                TEST(readers_and_recoding_go_on),
                TEST(bad_recipes_are_refused),
                TEST(wrong_frames_are_refused),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
