/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <zlib.h>
#include <zstd.h>

#include "cas/buf.h"
#include "cas/decompress.h"
#include "cas/limits.h"
#include "tests/support/memsource.h"

static int decode_step(const struct cas_buf *stored, size_t in_step, size_t out_step,
                       struct cas_buf *out, enum cas_compression *kind, struct cas_err *err)
{
        struct memsource s = {.data = stored->data, .len = stored->len_bytes, .step = in_step};
        cas_cleanup_decompress struct cas_decompress *d = NULL;
        if (cas_decompress_open(memsource_read, &s, &d, err) < 0)
                return -(int)err->code;
        if (kind)
                *kind = cas_decompress_kind(d);
        for (;;) {
                size_t got = 0;
                cas_buf_reserve(out, out_step);
                if (cas_decompress_read(d, out->data + out->len_bytes, out_step, &got, err) < 0)
                        return -(int)err->code;
                if (got == 0)
                        break;
                out->len_bytes += got;
        }
        assert_int_equal(cas_decompress_stored_bytes(d), stored->len_bytes);
        return 0;
}

static void gzip_member_with(struct cas_buf *out, const void *data, size_t len, int level,
                             gz_headerp header)
{
        z_stream z = {0};
        assert_int_equal(deflateInit2(&z, level, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
        if (header)
                assert_int_equal(deflateSetHeader(&z, header), Z_OK);
        size_t bound = deflateBound(&z, len) + 300000;
        cas_buf_reserve(out, bound);
        z.next_in = (Bytef *)(uintptr_t)data;
        z.avail_in = (uInt)len;
        z.next_out = out->data + out->len_bytes;
        z.avail_out = (uInt)bound;
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        out->len_bytes += z.total_out;
        (void)deflateEnd(&z);
}

static void gzip_member(struct cas_buf *out, const void *data, size_t len, int level)
{
        gzip_member_with(out, data, len, level, NULL);
}

static void zstd_frame(struct cas_buf *out, const void *data, size_t len, int window_log)
{
        ZSTD_CCtx *z = ZSTD_createCCtx();
        (void)ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1);
        if (window_log) {
                (void)ZSTD_CCtx_setParameter(z, ZSTD_c_contentSizeFlag, 0);
                (void)ZSTD_CCtx_setParameter(z, ZSTD_c_enableLongDistanceMatching, 1);
                (void)ZSTD_CCtx_setParameter(z, ZSTD_c_windowLog, window_log);
        }
        size_t bound = ZSTD_compressBound(len);
        cas_buf_reserve(out, bound);
        ZSTD_inBuffer in = {data, len, 0};
        ZSTD_outBuffer to = {out->data + out->len_bytes, bound, 0};
        /* Two calls, so that the size is not known when the header is written. */
        assert_false(ZSTD_isError(ZSTD_compressStream2(z, &to, &in, ZSTD_e_flush)));
        assert_int_equal(ZSTD_compressStream2(z, &to, &in, ZSTD_e_end), 0);
        out->len_bytes += to.pos;
        ZSTD_freeCCtx(z);
}

/* Bytes between random and regular. */
static void fill(struct cas_buf *out, size_t len, uint32_t seed)
{
        for (size_t i = 0; i < len; i++) {
                seed = seed * 1664525 + 1013904223;
                cas_buf_append_byte(out, (uint8_t)(seed >> (seed & 0x10000 ? 24 : 30)));
        }
}

static void assert_decodes(const struct cas_buf *stored, const struct cas_buf *plain,
                           enum cas_compression want)
{
        static const size_t in_steps[] = {1, 2, 7, 511, 100000, 1 << 20};
        static const size_t out_steps[] = {1, 13, 4096, 1 << 20};
        for (size_t i = 0; i < CAS_COUNT(in_steps); i++)
                for (size_t o = 0; o < CAS_COUNT(out_steps); o++) {
                        struct cas_err err = CAS_ERR_INIT;
                        enum cas_compression kind;
                        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                        assert_int_equal(
                                decode_step(stored, in_steps[i], out_steps[o], &out, &kind, &err),
                                0);
                        assert_int_equal(kind, want);
                        assert_int_equal(out.len_bytes, plain->len_bytes);
                        assert_memory_equal(out.data, plain->data, plain->len_bytes);
                }
}

static void assert_fails(const struct cas_buf *stored, enum cas_code code, const char *why)
{
        static const size_t steps[] = {1, 1 << 20};
        for (size_t i = 0; i < CAS_COUNT(steps); i++) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                assert_int_equal(decode_step(stored, steps[i], 4096, &out, NULL, &err), -(int)code);
                assert_non_null(strstr(err.msg, why));
        }
}

static void plain_bytes_pass(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        cas_buf_reserve(&plain, 1);
        assert_decodes(&plain, &plain, CAS_COMPRESSION_NONE);
        cas_buf_append(&plain, "\x1f", 1);
        assert_decodes(&plain, &plain, CAS_COMPRESSION_NONE);
        fill(&plain, 30000, 9);
        assert_decodes(&plain, &plain, CAS_COMPRESSION_NONE);
}

static void gzip_members_follow_each_other(void **state)
{
        (void)state;
        static const size_t sizes[] = {0, 1, 100, 0, 33000, 5};
        for (int level = 0; level <= 9; level += 3) {
                cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
                cas_cleanup_buf struct cas_buf stored = CAS_BUF_INIT;
                for (size_t i = 0; i < CAS_COUNT(sizes); i++) {
                        size_t from = plain.len_bytes;
                        fill(&plain, sizes[i], (uint32_t)i);
                        gzip_member(&stored, plain.data + from, sizes[i], level);
                        assert_decodes(&stored, &plain, CAS_COMPRESSION_GZIP);
                }
                cas_buf_append_zero(&stored, 700);
                assert_decodes(&stored, &plain, CAS_COMPRESSION_GZIP);
        }
}

static void gzip_headers_may_have_every_field(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        fill(&plain, 1000, 1);
        cas_cleanup_free char *name = cas_xcalloc(1, 100001);
        memset(name, 'n', 100000);
        for (unsigned fields = 0; fields < 16; fields++) {
                cas_cleanup_buf struct cas_buf stored = CAS_BUF_INIT;
                gz_header h = {.hcrc = (fields & 1) != 0};
                if (fields & 2) {
                        h.extra = (Bytef *)name;
                        h.extra_len = 65535;
                }
                h.name = fields & 4 ? (Bytef *)name : NULL;
                h.comment = fields & 8 ? (Bytef *)(name + 99000) : NULL;
                gzip_member_with(&stored, plain.data, 500, 6, &h);
                gzip_member_with(&stored, plain.data + 500, 500, 6, &h);
                bool too_long = (fields & 6) == 6;
                if (too_long) {
                        assert_fails(&stored, CAS_E_LIMIT, "header");
                        continue;
                }
                assert_decodes(&stored, &plain, CAS_COMPRESSION_GZIP);
                stored.data[4] ^= 1; /* the time: only the header's own checksum sees it */
                if (fields & 1)
                        assert_fails(&stored, CAS_E_CORRUPT, "header checksum");
                stored.data[3] |= 0x80;
                assert_fails(&stored, CAS_E_CORRUPT, "header");
        }
}

static void gzip_damage_is_found(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf stored = CAS_BUF_INIT;
        fill(&plain, 3000, 2);
        gzip_member(&stored, plain.data, plain.len_bytes, 6);
        size_t len = stored.len_bytes;
        for (size_t cut = 2; cut < len; cut++) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                struct cas_buf part = {.data = stored.data, .len_bytes = cut};
                assert_int_equal(decode_step(&part, 1 << 20, 4096, &out, NULL, &err),
                                 -CAS_E_CORRUPT);
        }
        for (size_t at = len - 8; at < len; at++) {
                stored.data[at] ^= 0x10;
                assert_fails(&stored, CAS_E_CORRUPT, "checksum");
                stored.data[at] ^= 0x10;
        }
        cas_buf_append_byte(&stored, 'x');
        assert_fails(&stored, CAS_E_CORRUPT, "after the end");
        stored.data[len] = 0;
        cas_buf_append_byte(&stored, 0x1f);
        assert_fails(&stored, CAS_E_CORRUPT, "after the end");
}

static void zstd_frames_follow_each_other(void **state)
{
        (void)state;
        static const size_t sizes[] = {0, 1, 100, 33000, 5};
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf stored = CAS_BUF_INIT;
        cas_buf_append_le32(&stored, 0x184D2A5F);
        cas_buf_append_le32(&stored, 3);
        cas_buf_append(&stored, "abc", 3);
        for (size_t i = 0; i < CAS_COUNT(sizes); i++) {
                size_t from = plain.len_bytes;
                fill(&plain, sizes[i], (uint32_t)i);
                cas_buf_reserve(&plain, 1);
                zstd_frame(&stored, plain.data + from, sizes[i], 0);
                assert_decodes(&stored, &plain, CAS_COMPRESSION_ZSTD);
                cas_buf_append_le32(&stored, 0x184D2A50);
                cas_buf_append_le32(&stored, 0);
        }
        assert_decodes(&stored, &plain, CAS_COMPRESSION_ZSTD);
}

static void zstd_damage_is_found(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf stored = CAS_BUF_INIT;
        fill(&plain, 3000, 2);
        zstd_frame(&stored, plain.data, plain.len_bytes, 0);
        for (size_t cut = 4; cut < stored.len_bytes; cut++) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                struct cas_buf part = {.data = stored.data, .len_bytes = cut};
                assert_int_equal(decode_step(&part, 1 << 20, 4096, &out, NULL, &err),
                                 -CAS_E_CORRUPT);
        }
        stored.data[stored.len_bytes - 1] ^= 1;
        assert_fails(&stored, CAS_E_CORRUPT, "hecksum");
        stored.data[stored.len_bytes - 1] ^= 1;
        cas_buf_append_zero(&stored, 8);
        assert_fails(&stored, CAS_E_CORRUPT, "zstd");
}

static void zstd_windows_are_bounded(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf stored = CAS_BUF_INIT;
        cas_buf_append_zero(&plain, 100);
        zstd_frame(&stored, plain.data, plain.len_bytes, CAS_ZSTD_WINDOW_LOG_MAX + 1);
        assert_fails(&stored, CAS_E_LIMIT, "window");
}

static void other_compressions_are_named(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf stored = CAS_BUF_INIT;
        cas_buf_append(&stored,
                       "\xfd"
                       "7zXZ\0\0\4",
                       8);
        assert_fails(&stored, CAS_E_UNSUPPORTED, "xz");
        cas_buf_clear(&stored);
        cas_buf_append_str(&stored, "BZh91AY&SY..");
        assert_fails(&stored, CAS_E_UNSUPPORTED, "bzip2");
}

/* A frame of 8 MiB of zeros is about 300 bytes of zstd: more than the ratio allows. */
static void bombs_are_stopped(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf stored = CAS_BUF_INIT;
        cas_buf_append_zero(&plain, 8 << 20);
        zstd_frame(&stored, plain.data, plain.len_bytes, 0);
        assert_true(stored.len_bytes < plain.len_bytes / CAS_TAR_RATIO_MAX);
        struct memsource s = {
                .data = stored.data, .len = stored.len_bytes, .step = 64, .repeat = 200};
        cas_cleanup_decompress struct cas_decompress *d = NULL;
        assert_int_equal(cas_decompress_open(memsource_read, &s, &d, &err), 0);
        size_t total = 0, got = 1;
        int ret = 0;
        while (got > 0 && (ret = cas_decompress_read(d, plain.data, 1 << 20, &got, &err)) == 0)
                total += got;
        assert_int_equal(ret, -CAS_E_LIMIT);
        assert_true(total >= 64 * CAS_MIB && total < 400 * CAS_MIB);
}

static int source_fails(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        unsigned *calls = arg;
        if ((*calls)++ > 1)
                return cas_fail(err, CAS_E_IO, "the source broke");
        memset(buf, 'x', len);
        *out_len = 20;
        return 0;
}

static void errors_of_the_source_pass(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        unsigned calls = 0;
        char buf[100];
        size_t got;
        cas_cleanup_decompress struct cas_decompress *d = NULL;
        assert_int_equal(cas_decompress_open(source_fails, &calls, &d, &err), 0);
        assert_int_equal(cas_decompress_read(d, buf, sizeof(buf), &got, &err), 0);
        assert_int_equal(cas_decompress_read(d, buf, sizeof(buf), &got, &err), 0);
        assert_int_equal(cas_decompress_read(d, buf, sizeof(buf), &got, &err), -CAS_E_IO);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(plain_bytes_pass),
                cmocka_unit_test(gzip_members_follow_each_other),
                cmocka_unit_test(gzip_headers_may_have_every_field),
                cmocka_unit_test(gzip_damage_is_found),
                cmocka_unit_test(zstd_frames_follow_each_other),
                cmocka_unit_test(zstd_damage_is_found),
                cmocka_unit_test(zstd_windows_are_bounded),
                cmocka_unit_test(other_compressions_are_named),
                cmocka_unit_test(bombs_are_stopped),
                cmocka_unit_test(errors_of_the_source_pass),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
