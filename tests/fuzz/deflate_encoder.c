/* SPDX-License-Identifier: Apache-2.0 */
/* What any encoder of the catalogue makes of any input, dictionary and ends, zlib's inflate takes
 * back to the input, however the input was cut into calls of write; and a restart from a mark that
 * nobody made harms nothing. */
#include <zlib.h>

#include "cas/deflate/encoder.h"

#define INPUT_BYTES_MAX (300 * 1024)
#define OPTIONS_BYTES 8
#define GO 1
#define KLAUSPOST_MIN 16
#define KLAUSPOST_MAX 30

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A few bytes make much input: bytes as they are, repeats of what came before, runs. */
static void expand(struct cas_cursor *c, struct cas_buf *out)
{
        while (cas_cursor_left(c) > 0 && !c->failed && out->len_bytes < INPUT_BYTES_MAX) {
                uint8_t op = cas_cursor_u8(c);
                size_t len = (size_t)(op & 63) + 1;
                if (op < 128) {
                        if (len > cas_cursor_left(c))
                                len = cas_cursor_left(c);
                        if (len > 0)
                                cas_buf_append(out, cas_cursor_take(c, len), len);
                        continue;
                }
                size_t distance = (size_t)cas_cursor_le16(c) + 1;
                if (op >= 192)
                        len *= 257;
                if (distance > out->len_bytes)
                        cas_buf_append_byte(out, (uint8_t)distance);
                for (; len > 0 && out->len_bytes < INPUT_BYTES_MAX; len--) {
                        size_t back = distance < out->len_bytes ? distance : out->len_bytes;
                        cas_buf_append_byte(out, out->data[out->len_bytes - back]);
                }
        }
}

/* An end that the class can make, by chance; not FINISH. */
static enum cas_deflate_end end_of(const struct cas_deflate_class *class, unsigned chance)
{
        for (unsigned i = 0; i < 8; i++) {
                unsigned end = (chance + i) % 7;
                if (end != CAS_DEFLATE_END_FINISH && class->ends >> end & 1)
                        return (enum cas_deflate_end)end;
        }
        return CAS_DEFLATE_END_NONE;
}

struct plan {
        const struct cas_deflate_class *class;
        int level;
        enum cas_deflate_end end;
        size_t end_every, dictionary_bytes;
        const uint8_t *input; /* the dictionary first */
        size_t len;
};

/* With a dictionary, a stored first block holds that too: nobody can inflate it. */
static bool may_store_dictionary(const struct plan *p)
{
        unsigned id = p->class->id;
        return p->dictionary_bytes > 0 &&
               (id == GO || (id >= KLAUSPOST_MIN && id <= KLAUSPOST_MAX && p->level >= 7));
}

/* pieces: sizes of calls. mark: the latest goes there, if it is not NULL; state_bytes stays when
 * there is none. */
static void encode(const struct plan *p, struct cas_deflate_encoder *e, size_t at, size_t piece,
                   struct cas_deflate_mark *mark, struct cas_buf *out)
{
        size_t since = 0;
        while (at < p->len) {
                size_t n = p->len - at < piece ? p->len - at : piece;
                if (p->end_every > 0 && n > p->end_every - since)
                        n = p->end_every - since;
                e->ops->write(e, p->input + at, n, out);
                at += n;
                since += n;
                if (p->end_every > 0 && since == p->end_every) {
                        e->ops->end(e, p->end, out);
                        since = 0;
                }
                struct cas_deflate_mark latest;
                if (mark && e->ops->mark(e, &latest))
                        *mark = latest;
        }
        e->ops->end(e, CAS_DEFLATE_END_FINISH, out);
}

static void check_inflates(const struct plan *p, const struct cas_buf *stream)
{
        size_t want = p->len - p->dictionary_bytes;
        z_stream z = {0};
        cas_assert(inflateInit2(&z, -15) == Z_OK);
        if (p->dictionary_bytes > 0)
                cas_assert(inflateSetDictionary(&z, p->input, (uInt)p->dictionary_bytes) == Z_OK);
        cas_cleanup_free uint8_t *plain = cas_xmalloc(want + 1);
        z.next_in = stream->data;
        z.avail_in = (uInt)stream->len_bytes;
        z.next_out = plain;
        z.avail_out = (uInt)want + 1;
        cas_assert(inflate(&z, Z_FINISH) == Z_STREAM_END);
        cas_assert(z.avail_in == 0);
        cas_assert(z.total_out == want);
        cas_assert(memcmp(plain, p->input + p->dictionary_bytes, want) == 0);
        inflateEnd(&z);
}

static void check_restart(const struct plan *p, const struct cas_deflate_mark *mark)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        cas_cleanup_deflate_encoder struct cas_deflate_encoder *e =
                p->class->create(p->class, p->level);
        size_t at = mark->in_bytes < p->len ? (size_t)mark->in_bytes : p->len;
        size_t window = at < p->class->window_bytes ? at : p->class->window_bytes;
        if (e->ops->restart(e, mark, p->input + at - window, window, &err) == 0)
                encode(p, e, at, 1 << 16, NULL, &out);
        e->ops->begin(e, NULL, 0);
        encode(p, e, p->dictionary_bytes, 1 << 16, NULL, &out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        if (size < OPTIONS_BYTES)
                return 0;
        struct cas_cursor c = cas_cursor_over(data, size);
        size_t classes = 0;
        while (cas_deflate_classes[classes])
                classes++;
        struct plan p = {.class = cas_deflate_classes[cas_cursor_u8(&c) % classes]};
        int levels = p.class->level_max - p.class->level_min + 1;
        p.level = p.class->level_min + cas_cursor_u8(&c) % levels;
        if (p.level == -1 && p.class->level_min < -1)
                p.level = 0; /* what it stands for is up to programs */
        p.end = end_of(p.class, cas_cursor_u8(&c));
        p.end_every = p.end == CAS_DEFLATE_END_NONE ? 0 : cas_cursor_le16(&c) * 5U + 40U;
        size_t dictionary_bytes = cas_cursor_u8(&c) * 256U;
        size_t piece = cas_cursor_u8(&c) * 300U + 1U;
        uint8_t mark_bytes = cas_cursor_u8(&c);
        struct cas_deflate_mark mark = {0};
        size_t taken = mark_bytes % (CAS_DEFLATE_STATE_BYTES_MAX + 2);
        const uint8_t *state = cas_cursor_left(&c) >= taken ? cas_cursor_take(&c, taken) : NULL;

        cas_cleanup_buf struct cas_buf input = CAS_BUF_INIT, stream = CAS_BUF_INIT,
                                       again = CAS_BUF_INIT;
        expand(&c, &input);
        cas_buf_reserve(&input, 1);
        p.input = input.data;
        p.len = input.len_bytes;
        p.dictionary_bytes = dictionary_bytes < p.len ? dictionary_bytes : p.len;
        cas_cleanup_deflate_encoder struct cas_deflate_encoder *e =
                p.class->create(p.class, p.level);
        e->ops->begin(e, p.dictionary_bytes > 0 ? p.input : NULL, p.dictionary_bytes);
        encode(&p, e, p.dictionary_bytes, p.len + 1, NULL, &stream);
        if (!may_store_dictionary(&p))
                check_inflates(&p, &stream);
        struct cas_deflate_mark own = {0};
        e->ops->begin(e, p.dictionary_bytes > 0 ? p.input : NULL, p.dictionary_bytes);
        encode(&p, e, p.dictionary_bytes, piece, &own, &again);
        cas_assert(again.len_bytes == stream.len_bytes);
        cas_assert(memcmp(again.data, stream.data, stream.len_bytes) == 0);
        if (state && taken <= CAS_DEFLATE_STATE_BYTES_MAX) {
                mark.in_bytes = piece * 7;
                mark.out_bytes = dictionary_bytes;
                mark.state_bytes = (uint8_t)taken;
                memcpy(mark.state, state, taken);
                check_restart(&p, &mark);
                if (own.state_bytes > 0) { /* nearly right */
                        own.state[mark_bytes % CAS_DEFLATE_STATE_BYTES_MAX] ^= mark_bytes;
                        check_restart(&p, &own);
                }
        }
        return 0;
}
