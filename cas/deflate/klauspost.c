/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder of klauspost's classes: an engine that suits the level, and a block writer. */
#include "cas/deflate/klauspost.h"

#include "cas/deflate/klauspost_int.h"

#define WRITER_STATE_BYTES 2

struct encoder {
        struct cas_deflate_encoder base;
        struct cas_kp_writer *writer; /* owned, as the engine is */
        struct cas_kp_engine *engine;
};

static void kp_begin(struct cas_deflate_encoder *e, const uint8_t *dictionary, size_t len)
{
        struct encoder *self = (struct encoder *)e;
        cas_kp_writer_begin(self->writer);
        self->engine->mark = (struct cas_kp_mark){0};
        self->engine->ops->begin(self->engine, dictionary, len);
}

static void kp_write(struct cas_deflate_encoder *e, const uint8_t *data, size_t len,
                     struct cas_buf *out)
{
        struct encoder *self = (struct encoder *)e;
        cas_kp_writer_attach(self->writer, out);
        self->engine->ops->write(self->engine, data, len);
        cas_kp_writer_detach(self->writer);
}

static void kp_end(struct cas_deflate_encoder *e, enum cas_deflate_end end, struct cas_buf *out)
{
        struct encoder *self = (struct encoder *)e;
        cas_assert(end == CAS_DEFLATE_END_SYNC || end == CAS_DEFLATE_END_FINISH);
        cas_kp_writer_attach(self->writer, out);
        bool can_restart = self->engine->ops->sync(self->engine);
        if (end == CAS_DEFLATE_END_SYNC)
                cas_kp_write_sync(self->writer);
        else
                cas_kp_write_finish(self->writer);
        cas_kp_writer_detach(self->writer);
        if (can_restart) {
                self->engine->mark.valid = true;
                self->engine->mark.point = cas_kp_writer_point(self->writer);
        }
}

static bool kp_mark(const struct cas_deflate_encoder *e, struct cas_deflate_mark *out)
{
        const struct cas_kp_mark *mark = &((const struct encoder *)e)->engine->mark;
        if (!mark->valid)
                return false;
        *out = (struct cas_deflate_mark){
                .in_bytes = mark->in_bytes,
                .out_bytes = mark->point.out_bytes,
                .state_bytes = (uint8_t)(WRITER_STATE_BYTES + mark->state_bytes),
                .state = {mark->point.bit_count, mark->point.bits},
        };
        memcpy(out->state + WRITER_STATE_BYTES, mark->state, mark->state_bytes);
        return true;
}

static int kp_restart(struct cas_deflate_encoder *e, const struct cas_deflate_mark *mark,
                      const uint8_t *window, size_t len, struct cas_err *err)
{
        struct encoder *self = (struct encoder *)e;
        if (mark->state_bytes < WRITER_STATE_BYTES ||
            mark->state_bytes > CAS_DEFLATE_STATE_BYTES_MAX || mark->state[0] > 7 ||
            mark->state[1] >> mark->state[0])
                return cas_fail(err, CAS_E_INVALID, "mark of a deflate stream: odd state");
        struct cas_kp_mark inner = {
                .valid = true,
                .point = {mark->out_bytes, mark->state[0], mark->state[1]},
                .in_bytes = mark->in_bytes,
                .state_bytes = (uint8_t)(mark->state_bytes - WRITER_STATE_BYTES),
        };
        memcpy(inner.state, mark->state + WRITER_STATE_BYTES, inner.state_bytes);
        cas_kp_writer_restart(self->writer, &inner.point);
        self->engine->mark = inner;
        return self->engine->ops->restart(self->engine, &inner, window, len, err);
}

static void kp_free(struct cas_deflate_encoder *e)
{
        struct encoder *self = (struct encoder *)e;
        self->engine->ops->free(self->engine);
        cas_kp_writer_free(self->writer);
        free(self);
}

static struct cas_deflate_encoder *kp_create(const struct cas_deflate_class *class, int level)
{
        static const struct cas_deflate_encoder_ops ops = {kp_begin, kp_write,   kp_end,
                                                           kp_mark,  kp_restart, kp_free};
        cas_assert(level >= class->level_min && level <= class->level_max && level != -1);
        enum cas_kp_date date = (enum cas_kp_date)(class - cas_klauspost_classes);
        struct encoder *self = cas_xcalloc(1, sizeof *self);
        self->base = (struct cas_deflate_encoder){&ops, class, level};
        self->writer = cas_kp_writer_new(date, level);
        self->engine = level <= 0   ? cas_kp_plain_new(self->writer, date, level)
                       : level <= 6 ? cas_kp_fast_new(self->writer, date, level)
                                    : cas_kp_chain_new(self->writer, date, level);
        kp_begin(&self->base, NULL, 0);
        return &self->base;
}

#define CLASS(id_, name_)                                                                          \
        {                                                                                          \
                .id = (id_), .name = (name_), .level_min = -2, .level_max = 9,                     \
                .ends = 1U << CAS_DEFLATE_END_FINISH | 1U << CAS_DEFLATE_END_SYNC,                 \
                .window_bytes = CAS_KP_WINDOW_BYTES, .create = kp_create,                          \
        }
const struct cas_deflate_class cas_klauspost_classes[CAS_KLAUSPOST_CLASS_COUNT] = {
        [CAS_KP_2020_02] = CLASS(16, "klauspost-2020-02"),
        [CAS_KP_2020_02B] = CLASS(17, "klauspost-2020-02b"),
        [CAS_KP_2021_03] = CLASS(18, "klauspost-2021-03"),
        [CAS_KP_2021_04] = CLASS(19, "klauspost-2021-04"),
        [CAS_KP_2021_05] = CLASS(20, "klauspost-2021-05"),
        [CAS_KP_2022_01] = CLASS(21, "klauspost-2022-01"),
        [CAS_KP_2022_01B] = CLASS(22, "klauspost-2022-01b"),
        [CAS_KP_2022_02] = CLASS(23, "klauspost-2022-02"),
        [CAS_KP_2022_03] = CLASS(24, "klauspost-2022-03"),
        [CAS_KP_2022_09] = CLASS(25, "klauspost-2022-09"),
        [CAS_KP_2022_09B] = CLASS(26, "klauspost-2022-09b"),
        [CAS_KP_2023_01] = CLASS(27, "klauspost-2023-01"),
        [CAS_KP_2025_02] = CLASS(28, "klauspost-2025-02"),
        [CAS_KP_2025_10] = CLASS(29, "klauspost-2025-10"),
        [CAS_KP_2025_12] = CLASS(30, "klauspost-2025-12"),
        [CAS_KP_GO_1_27] = CLASS(2, "go-1.27"),
};

/* Levels whose output changed at each date. */
#define LEVEL(n) (1U << ((n) + 2))
#define LEVELS_1_TO_6 (LEVEL(1) | LEVEL(2) | LEVEL(3) | LEVEL(4) | LEVEL(5) | LEVEL(6))
#define LEVELS_7_TO_9 (LEVEL(7) | LEVEL(8) | LEVEL(9))
static const uint16_t changed[CAS_KLAUSPOST_CLASS_COUNT] = {
        [CAS_KP_2020_02] = LEVEL(-2) | LEVEL(0) | LEVELS_1_TO_6 | LEVELS_7_TO_9,
        [CAS_KP_2020_02B] = LEVEL(-2) | LEVEL(0) | LEVELS_1_TO_6 | LEVELS_7_TO_9,
        [CAS_KP_2021_03] = LEVEL(-2) | LEVELS_1_TO_6,
        [CAS_KP_2021_04] = LEVEL(5) | LEVEL(6),
        [CAS_KP_2021_05] = LEVEL(-2) | LEVELS_1_TO_6,
        [CAS_KP_2022_01] = LEVELS_1_TO_6 | LEVELS_7_TO_9,
        [CAS_KP_2022_01B] = LEVELS_1_TO_6 | LEVELS_7_TO_9,
        [CAS_KP_2022_02] = LEVEL(-2) | LEVELS_1_TO_6 | LEVELS_7_TO_9,
        [CAS_KP_2022_03] = LEVELS_1_TO_6,
        [CAS_KP_2022_09] = LEVEL(5) | LEVEL(6),
        [CAS_KP_2022_09B] = LEVEL(1) | LEVEL(2) | LEVEL(3),
        [CAS_KP_2023_01] = LEVELS_7_TO_9,
        [CAS_KP_2025_02] = LEVEL(4),
        [CAS_KP_2025_10] = LEVELS_1_TO_6 | LEVELS_7_TO_9,
        [CAS_KP_2025_12] = LEVELS_1_TO_6 | LEVELS_7_TO_9,
        [CAS_KP_GO_1_27] = LEVELS_7_TO_9,
};

const struct cas_deflate_class *cas_klauspost_class_first(const struct cas_deflate_class *class,
                                                          int level)
{
        cas_assert(level >= -2 && level <= 9 && level != -1);
        size_t i = 0;
        while (i < CAS_KLAUSPOST_CLASS_COUNT && &cas_klauspost_classes[i] != class)
                i++;
        if (i == CAS_KLAUSPOST_CLASS_COUNT)
                return NULL;
        while (!(changed[i] & LEVEL(level)))
                i--;
        return &cas_klauspost_classes[i];
}
