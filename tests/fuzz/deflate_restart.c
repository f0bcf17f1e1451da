/* SPDX-License-Identifier: Apache-2.0 */
/* A restart of any deflate encoder from a mark of its own goes on with the same bytes, where the
 * class promises that, whatever the ends before and behind it; a damaged mark does no harm. The
 * first byte says the class, the second the level, six more how to cut; the rest is input,
 * repeated. */
#include "cas/deflate/encoder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEAD_BYTES 8
#define INPUT_BYTES_MAX 400000
#define STEPS_MAX 64
#define GO 1
#define FIRST_OF_ZLIB 32

struct step {
        size_t at; /* in the input, behind this step */
        enum cas_deflate_end end;
};

struct plan {
        const uint8_t *head;
        struct cas_buf input; /* dictionary first */
        size_t dictionary_bytes;
        struct step steps[STEPS_MAX];
        unsigned step_count;
        struct cas_deflate_mark mark;
        unsigned mark_step; /* done before the mark was given */
        bool is_marked;
};

static unsigned next(uint64_t *random)
{
        *random = *random * UINT64_C(6364136223846793005) + 1442695040888963407;
        return (unsigned)(*random >> 33);
}

static void make_input(struct plan *p, const uint8_t *data, size_t size)
{
        cas_buf_reserve(&p->input, INPUT_BYTES_MAX);
        cas_buf_append(&p->input, data, size);
        for (unsigned i = 0; i < p->head[2] % 16 && size > 0; i++) {
                size_t now = p->input.len_bytes, n = now;
                if (now + n > INPUT_BYTES_MAX)
                        break;
                cas_buf_append(&p->input, p->input.data, n);
                p->input.data[now + n - 1 - i % n] ^= (uint8_t)(i + p->head[3]);
        }
        p->dictionary_bytes = p->input.len_bytes * (p->head[4] % 8) / 16;
}

static void make_steps(struct plan *p, const struct cas_deflate_class *class)
{
        uint64_t random = cas_get_le16(p->head + 5);
        size_t at = 0, len = p->input.len_bytes - p->dictionary_bytes;
        while (p->step_count < STEPS_MAX - 1) {
                size_t piece = (size_t)1 + next(&random) % (1U << (next(&random) % 18));
                at += cas_min_u64(piece, len - at);
                unsigned end = next(&random) % 16;
                bool is_end = end > CAS_DEFLATE_END_FINISH && class->ends >> end & 1;
                p->steps[p->step_count++] = (struct step){at, is_end ? (enum cas_deflate_end)end
                                                                     : CAS_DEFLATE_END_NONE};
        }
        p->steps[p->step_count++] = (struct step){len, CAS_DEFLATE_END_FINISH};
}

static bool is_same_mark(const struct cas_deflate_mark *a, const struct cas_deflate_mark *b)
{
        return a->in_bytes == b->in_bytes && a->out_bytes == b->out_bytes &&
               a->state_bytes == b->state_bytes && memcmp(a->state, b->state, a->state_bytes) == 0;
}

/* The latest mark that there is in the first part of the steps. `done`: those before it. */
static void note_mark(struct plan *p, const struct cas_deflate_encoder *e, unsigned done)
{
        struct cas_deflate_mark mark;
        if (done > p->head[7] % p->step_count || !e->ops->mark(e, &mark) ||
            (p->is_marked && is_same_mark(&mark, &p->mark)))
                return;
        p->mark = mark;
        p->mark_step = done;
        p->is_marked = true;
}

/* Steps from `first` on, the input from `at`. */
static void encode(struct plan *p, struct cas_deflate_encoder *e, unsigned first, size_t at,
                   bool marks, struct cas_buf *out)
{
        const uint8_t *input = p->input.data + p->dictionary_bytes;
        for (unsigned i = first; i < p->step_count; i++) {
                const struct step *s = &p->steps[i];
                if (s->at > at)
                        e->ops->write(e, input + at, s->at - at, out);
                at = s->at > at ? s->at : at;
                if (marks)
                        note_mark(p, e, i);
                if (s->end != CAS_DEFLATE_END_NONE)
                        e->ops->end(e, s->end, out);
                if (marks)
                        note_mark(p, e, i + 1);
        }
}

static bool restart(const struct plan *p, struct cas_deflate_encoder *e,
                    const struct cas_deflate_mark *mark)
{
        struct cas_err err = CAS_ERR_INIT;
        size_t before = p->dictionary_bytes + (size_t)mark->in_bytes;
        size_t window = cas_min_u64(before, e->class->window_bytes);
        int rc = e->ops->restart(e, mark, p->input.data + before - window, window, &err);
        cas_assert(rc == -(int)err.code);
        return rc == 0;
}

/* klauspost's restarts heal, most times: who uses them proves them. */
static bool is_restart_exact(const struct cas_deflate_class *class)
{
        return class->id == GO || class->id >= FIRST_OF_ZLIB;
}

static void check_mark(struct plan *p, struct cas_deflate_encoder *e, const struct cas_buf *want)
{
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        cas_assert(restart(p, e, &p->mark));
        encode(p, e, p->mark_step, (size_t)p->mark.in_bytes, false, &out);
        if (!is_restart_exact(e->class))
                return;
        cas_assert(p->mark.out_bytes + out.len_bytes == want->len_bytes);
        cas_assert(out.len_bytes == 0 ||
                   memcmp(out.data, want->data + p->mark.out_bytes, out.len_bytes) == 0);
}

/* A recipe may say that more or less came before than its class wants, and that the mark stands
 * anywhere. */
static void try_odd_window(struct plan *p, struct cas_deflate_encoder *e,
                           struct cas_deflate_mark *mark)
{
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        struct cas_err err = CAS_ERR_INIT;
        size_t window = p->input.len_bytes * p->head[7] / 255;
        if (p->head[2] & 16)
                mark->in_bytes = p->head[2] & 32 ? p->head[3] : UINT64_MAX - p->head[3];
        if (p->head[2] & 64)
                mark->out_bytes = UINT64_MAX - p->head[4];
        if (e->ops->restart(e, mark, p->input.data, window, &err) == 0)
                encode(p, e, 0, 0, true, &out);
}

static void try_damaged_mark(struct plan *p, struct cas_deflate_encoder *e)
{
        struct cas_deflate_mark mark = p->mark;
        size_t len = p->input.len_bytes - p->dictionary_bytes;
        for (unsigned i = 0; i < CAS_DEFLATE_STATE_BYTES_MAX; i++)
                if (i < 4 ? p->head[5] >> i & 1 : p->head[6] & 1)
                        mark.state[i] = p->input.data[(i + p->head[7]) % p->input.len_bytes];
        mark.state_bytes = (uint8_t)(mark.state_bytes + p->head[3] % 4);
        mark.in_bytes = p->head[4] & 8 ? p->head[6] % (len + 1) : mark.in_bytes;
        if (restart(p, e, &mark)) {
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                encode(p, e, 0, (size_t)mark.in_bytes, false, &out);
        }
        try_odd_window(p, e, &mark);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        unsigned count = 0;
        while (cas_deflate_classes[count])
                count++;
        if (size < HEAD_BYTES + 1)
                return 0;
        const struct cas_deflate_class *class = cas_deflate_classes[data[0] % count];
        int level = class->level_min + data[1] % (class->level_max - class->level_min + 1);
        if (level == -1)
                return 0;
        struct plan p = {.head = data};
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        make_input(&p, data + HEAD_BYTES, size - HEAD_BYTES);
        make_steps(&p, class);
        cas_cleanup_deflate_encoder struct cas_deflate_encoder *e = class->create(class, level);
        e->ops->begin(e, p.dictionary_bytes > 0 ? p.input.data : NULL, p.dictionary_bytes);
        encode(&p, e, 0, 0, true, &out);
        if (p.is_marked)
                check_mark(&p, e, &out);
        try_damaged_mark(&p, e);
        cas_buf_release(&p.input);
        return 0;
}
