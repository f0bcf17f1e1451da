/* SPDX-License-Identifier: Apache-2.0 */
/* Levels 0 and -2 of klauspost's encoders: nothing is looked for. Blocks of one size are stored, or
 * coded as literals. A full block waits until it is known that more follows. */
#include "cas/deflate/klauspost_int.h"

#define HUFFMAN_BLOCK_BYTES 32768U

struct plain {
        struct cas_kp_engine engine;
        uint32_t block_bytes, pending_bytes;
        uint64_t in_bytes; /* of the run, written as blocks */
        uint8_t pending[CAS_KP_BLOCK_BYTES_MAX];
};

static void plain_begin(struct cas_kp_engine *e, const uint8_t *dictionary CAS_UNUSED,
                        size_t len CAS_UNUSED)
{
        struct plain *p = (struct plain *)e;
        p->pending_bytes = 0;
        p->in_bytes = 0;
}

static void write_block(struct plain *p, bool sync)
{
        struct cas_kp_engine *e = &p->engine;
        bool can_restart =
                e->level == 0
                        ? cas_kp_write_stored(e->writer, p->pending, p->pending_bytes)
                        : cas_kp_write_literals(e->writer, p->pending, p->pending_bytes, sync);
        if (can_restart)
                e->mark = (struct cas_kp_mark){.valid = true,
                                               .point = cas_kp_writer_point(e->writer),
                                               .in_bytes = p->in_bytes};
        p->in_bytes += p->pending_bytes;
        p->pending_bytes = 0;
}

static void plain_write(struct cas_kp_engine *e, const uint8_t *data, size_t len)
{
        struct plain *p = (struct plain *)e;
        while (len > 0) {
                if (p->pending_bytes == p->block_bytes)
                        write_block(p, false);
                size_t part = p->block_bytes - p->pending_bytes;
                if (part > len)
                        part = len;
                memcpy(p->pending + p->pending_bytes, data, part);
                p->pending_bytes += (uint32_t)part;
                data += part;
                len -= part;
        }
}

static bool plain_sync(struct cas_kp_engine *e)
{
        struct plain *p = (struct plain *)e;
        if (p->pending_bytes > 0)
                write_block(p, true);
        e->mark.in_bytes = p->in_bytes;
        e->mark.state_bytes = 0;
        return true;
}

static int plain_restart(struct cas_kp_engine *e, const struct cas_kp_mark *mark,
                         const uint8_t *window CAS_UNUSED, size_t len CAS_UNUSED,
                         struct cas_err *err)
{
        struct plain *p = (struct plain *)e;
        if (mark->state_bytes != 0)
                return cas_fail(err, CAS_E_INVALID, "mark of a deflate stream: odd state");
        p->pending_bytes = 0;
        p->in_bytes = mark->in_bytes;
        return 0;
}

static void plain_free(struct cas_kp_engine *e)
{
        free(e);
}

struct cas_kp_engine *cas_kp_plain_new(struct cas_kp_writer *w, enum cas_kp_date date, int level)
{
        static const struct cas_kp_engine_ops ops = {plain_begin, plain_write, plain_sync,
                                                     plain_restart, plain_free};
        struct plain *p = cas_xcalloc(1, sizeof *p);
        p->engine = (struct cas_kp_engine){.ops = &ops, .writer = w, .date = date, .level = level};
        p->block_bytes =
                level < 0 && date >= CAS_KP_2021_03 ? HUFFMAN_BLOCK_BYTES : CAS_KP_BLOCK_BYTES_MAX;
        return &p->engine;
}
