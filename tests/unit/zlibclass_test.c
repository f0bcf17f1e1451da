/* SPDX-License-Identifier: Apache-2.0 */
/* The classes "zlib" and "zlib-mem9" against the linked zlib: inputs, cuts, ends and dictionaries
 * at random, and restarts at every mark. */
#include "cas/deflate/zlibclass.h"
#include "tests/support/deflatesample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <zlib.h>

#include <cmocka.h>

static uint64_t random_state;

static uint32_t below(uint32_t n)
{
        random_state ^= random_state >> 12;
        random_state ^= random_state << 25;
        random_state ^= random_state >> 27;
        return (uint32_t)(((random_state * UINT64_C(0x2545f4914f6cdd1d) >> 32) * n) >> 32);
}

/* One piece of a stream: input, then an end. */
struct piece {
        size_t len;
        enum cas_deflate_end end;
};
struct plan {
        const struct cas_deflate_class *class;
        int level;
        struct cas_buf input;
        size_t dictionary_bytes; /* the input's first */
        struct piece pieces[64];
        size_t piece_count;
};

static int zlib_flush(enum cas_deflate_end end)
{
        switch (end) {
        case CAS_DEFLATE_END_NONE:
                return Z_NO_FLUSH;
        case CAS_DEFLATE_END_FINISH:
                return Z_FINISH;
        case CAS_DEFLATE_END_SYNC:
                return Z_SYNC_FLUSH;
        case CAS_DEFLATE_END_FULL:
                return Z_FULL_FLUSH;
        case CAS_DEFLATE_END_PARTIAL:
                return Z_PARTIAL_FLUSH;
        case CAS_DEFLATE_END_BLOCK:
        case CAS_DEFLATE_END_PIGZ:
                return Z_BLOCK;
        }
        return Z_NO_FLUSH;
}

static void zlib_piece(z_stream *z, int flush, struct cas_buf *out)
{
        do {
                cas_buf_reserve(out, 1 << 20);
                z->next_out = out->data + out->len_bytes;
                z->avail_out = 1 << 20;
                int rc = deflate(z, flush);
                assert_true(rc == Z_OK || rc == Z_STREAM_END || rc == Z_BUF_ERROR);
                out->len_bytes += (1U << 20) - z->avail_out;
        } while (z->avail_out == 0);
}

/* As pigz does it. */
static void zlib_fill_up(z_stream *z, struct cas_buf *out)
{
        int bits = 0;
        (void)deflatePending(z, Z_NULL, &bits);
        if (bits & 1) {
                zlib_piece(z, Z_SYNC_FLUSH, out);
        } else if (bits & 7) {
                do {
                        assert_int_equal(deflatePrime(z, 10, 2), Z_OK);
                        (void)deflatePending(z, Z_NULL, &bits);
                } while (bits & 7);
                zlib_piece(z, Z_BLOCK, out);
        }
}

static void by_zlib(const struct plan *p, struct cas_buf *out)
{
        z_stream z = {0};
        int memory = strcmp(p->class->name, "zlib-mem9") == 0 ? 9 : 8;
        assert_int_equal(deflateInit2(&z, p->level, Z_DEFLATED, -15, memory, Z_DEFAULT_STRATEGY),
                         Z_OK);
        const uint8_t *data = p->input.data;
        if (p->dictionary_bytes > 0)
                assert_int_equal(deflateSetDictionary(&z, data, (uInt)p->dictionary_bytes), Z_OK);
        data += p->dictionary_bytes;
        for (size_t i = 0; i < p->piece_count; i++) {
                z.next_in = (Bytef *)(uintptr_t)data;
                z.avail_in = (uInt)p->pieces[i].len;
                zlib_piece(&z, zlib_flush(p->pieces[i].end), out);
                if (p->pieces[i].end == CAS_DEFLATE_END_PIGZ)
                        zlib_fill_up(&z, out);
                data += p->pieces[i].len;
        }
        deflateEnd(&z);
}

#define MARKS_MAX 4096
static struct cas_deflate_mark marks[MARKS_MAX];
static size_t mark_count;

static void take_mark(const struct cas_deflate_encoder *e)
{
        struct cas_deflate_mark m;
        if (!e->ops->mark(e, &m) || mark_count == MARKS_MAX)
                return;
        if (mark_count == 0 || memcmp(&marks[mark_count - 1], &m, sizeof(m)) != 0)
                marks[mark_count++] = m;
}

/* From `skip` bytes of input on. */
static void feed(struct cas_deflate_encoder *e, const struct plan *p, size_t skip, bool with_marks,
                 struct cas_buf *out)
{
        const uint8_t *data = p->input.data + p->dictionary_bytes;
        size_t at = 0;
        for (size_t i = 0; i < p->piece_count; at += p->pieces[i++].len) {
                size_t end = at + p->pieces[i].len;
                /* The end that the mark stands behind was made already; an empty piece's as well,
                 * as tests have only one of those at a place. */
                if (skip > 0 && end <= skip && p->pieces[i].end != CAS_DEFLATE_END_FINISH)
                        continue;
                size_t from = skip > at ? skip : at;
                while (from < end) {
                        size_t n = 1 + below(with_marks ? 5000 : 200000);
                        n = n > end - from ? end - from : n;
                        e->ops->write(e, data + from, n, out);
                        from += n;
                        if (with_marks)
                                take_mark(e);
                }
                if (p->pieces[i].end != CAS_DEFLATE_END_NONE)
                        e->ops->end(e, p->pieces[i].end, out);
                if (with_marks)
                        take_mark(e);
        }
}

static size_t restarts, restarts_wrong;

static void check_restarts(struct cas_deflate_encoder *e, const struct plan *p,
                           const struct cas_buf *whole)
{
        for (size_t i = 0; i < mark_count; i++) {
                const struct cas_deflate_mark *m = &marks[i];
                struct cas_err err;
                size_t before = p->dictionary_bytes + (size_t)m->in_bytes;
                size_t len = cas_min_u64(before, p->class->window_bytes);
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                int rc = e->ops->restart(e, m, p->input.data + before - len, len, &err);
                restarts++;
                if (rc == 0)
                        feed(e, p, (size_t)m->in_bytes, false, &out);
                bool same = rc == 0 && m->out_bytes + out.len_bytes == whole->len_bytes &&
                            memcmp(out.data, whole->data + m->out_bytes, out.len_bytes) == 0;
                if (!same)
                        restarts_wrong++;
                if (p->level > 3 && !same)
                        fail_msg("%s level %d: restart at %llu (%s)", p->class->name, p->level,
                                 (unsigned long long)m->in_bytes, rc < 0 ? err.msg : "differs");
        }
}

static void check_plan(const struct plan *p, bool with_restarts)
{
        cas_cleanup_deflate_encoder struct cas_deflate_encoder *e =
                p->class->create(p->class, p->level);
        cas_cleanup_buf struct cas_buf want = CAS_BUF_INIT, got = CAS_BUF_INIT;
        by_zlib(p, &want);
        mark_count = 0;
        e->ops->begin(e, p->input.data, p->dictionary_bytes);
        feed(e, p, 0, true, &got);
        size_t same = 0;
        while (same < want.len_bytes && same < got.len_bytes && want.data[same] == got.data[same])
                same++;
        if (want.len_bytes != got.len_bytes || same < want.len_bytes)
                fail_msg("%s level %d, %zu bytes, dictionary %zu, %zu pieces: differs at %zu of "
                         "%zu (%zu)",
                         p->class->name, p->level, p->input.len_bytes, p->dictionary_bytes,
                         p->piece_count, same, want.len_bytes, got.len_bytes);
        if (with_restarts)
                check_restarts(e, p, &want);
}

static void random_plan(struct plan *p, const struct cas_deflate_class *class, int level,
                        size_t len_max)
{
        *p = (struct plan){.class = class, .level = level};
        deflate_sample((enum deflate_sample)below(DEFLATE_SAMPLE_COUNT), below(1000000),
                       1 + below((uint32_t)len_max), &p->input);
        if (below(3) == 0)
                p->dictionary_bytes = below(
                        1 + (uint32_t)cas_min_u64(p->input.len_bytes, below(2) ? 70000 : 100));
        size_t left = p->input.len_bytes - p->dictionary_bytes;
        size_t many = below(4);
        while (left > 0 && p->piece_count < 60 && many > 0 && below(20) > 0) {
                size_t n = 1 + below((uint32_t)cas_min_u64(left, below(2) ? 40 : 200000));
                enum cas_deflate_end end = (enum cas_deflate_end)(2 + below(5));
                /* zlib's result for pieces that end nothing depends on how they are cut, at level
                 * 0. */
                p->pieces[p->piece_count++] = (struct piece){n, end};
                left -= n;
        }
        p->pieces[p->piece_count++] = (struct piece){left, CAS_DEFLATE_END_FINISH};
}

static void like_zlib(void **state)
{
        (void)state;
        random_state = 12345;
        const char *seed = getenv("SEED");
        if (seed)
                random_state += strtoull(seed, NULL, 10);
        for (int round = 0; round < 200; round++) {
                struct plan p;
                const struct cas_deflate_class *class =
                        round % 5 == 4 ? &cas_deflate_zlib_mem9 : &cas_deflate_zlib;
                int level = (int)below(10);
                if (level < class->level_min)
                        level = 6;
                random_plan(&p, class, level, 1U << (4 + below(17)));
                check_plan(&p, round % 4 == 0);
                cas_buf_release(&p.input);
        }
        print_message("%zu restarts, %zu of the fast levels differ\n", restarts, restarts_wrong);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(like_zlib),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
