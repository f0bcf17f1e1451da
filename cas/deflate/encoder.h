/* SPDX-License-Identifier: Apache-2.0 */
/* Classes of deflate encoders: each makes the same stream, bit by bit, as the program that it is
 * named for (spec/deflate-classes.md). A class is a format: its output never changes once it was
 * released, and its vectors are frozen in tests/golden/deflate. An encoder belongs to one thread.
 *
 * A stream may consist of several runs that each began with a fresh encoder (pgzip, pigz): the
 * pieces are put together by who uses this. The output does not depend on how the input is cut into
 * calls of write, only on the ends that are asked for. */
#ifndef CAS_ENCODER_H
#define CAS_ENCODER_H

#include "cas/buf.h"

/* How a run, or a part of one, ends. Numbers are in recipes. */
enum cas_deflate_end {
        CAS_DEFLATE_END_NONE = 0,
        CAS_DEFLATE_END_FINISH = 1,  /* last block; the stream is over */
        CAS_DEFLATE_END_SYNC = 2,    /* closed block, empty stored one: zlib's Z_SYNC_FLUSH, Go's
                                        Flush */
        CAS_DEFLATE_END_FULL = 3,    /* the same, and what was seen is forgotten: Z_FULL_FLUSH */
        CAS_DEFLATE_END_PARTIAL = 4, /* closed block, empty fixed one: Z_PARTIAL_FLUSH */
        CAS_DEFLATE_END_BLOCK = 5,   /* closed block: Z_BLOCK */
        CAS_DEFLATE_END_PIGZ = 6     /* as pigz fills up the last byte of its pieces */
};

/* Where a stream can be taken up again: the end of a block. in_bytes and out_bytes count from the
 * beginning of the run; out_bytes are whole bytes, the bits that follow are in `state`. */
#define CAS_DEFLATE_STATE_BYTES_MAX 48
struct cas_deflate_mark {
        uint64_t in_bytes; /* a restarted encoder is fed from here on */
        uint64_t out_bytes;
        uint8_t state_bytes;
        uint8_t state[CAS_DEFLATE_STATE_BYTES_MAX]; /* the class's own, for this end of block */
};

struct cas_deflate_encoder;
struct cas_deflate_class {
        uint16_t id;      /* in recipes: never changed, never used twice */
        const char *name; /* for people, and in vectors */
        int8_t level_min, level_max;
        uint32_t ends;         /* bit 1 << enum cas_deflate_end for each that it can make */
        uint32_t window_bytes; /* of input that a restart wants to see before the mark */
        struct cas_deflate_encoder *(*create)(const struct cas_deflate_class *class, int level);
};

struct cas_deflate_encoder_ops {
        /* Ends whatever was under way and begins a run. dictionary: what came before, which
         * matches may reach (the class may take less of it), NULL for none. */
        void (*begin)(struct cas_deflate_encoder *e, const uint8_t *dictionary, size_t len);
        /* Takes input; what is whole of the output is appended. */
        void (*write)(struct cas_deflate_encoder *e, const uint8_t *data, size_t len,
                      struct cas_buf *out);
        /* One of the class's ends. After FINISH only begin and restart are allowed. */
        void (*end)(struct cas_deflate_encoder *e, enum cas_deflate_end end, struct cas_buf *out);
        /* The latest end of a block at which a restart is possible. False: none since begin. A mark
         * that was first given after an end at the same byte of input lies behind that end. */
        bool (*mark)(const struct cas_deflate_encoder *e, struct cas_deflate_mark *out);
        /* Goes on from a mark: `window` is the input before it, window_bytes of the class or
         * from the beginning of the run (dictionary included) when that is nearer. Output begins
         * with byte out_bytes of the run. A mark may be hostile: INVALID, or other output. */
        int (*restart)(struct cas_deflate_encoder *e, const struct cas_deflate_mark *mark,
                       const uint8_t *window, size_t len, struct cas_err *err);
        void (*free)(struct cas_deflate_encoder *e);
};
/* The first member of every class's own struct. */
struct cas_deflate_encoder {
        const struct cas_deflate_encoder_ops *ops;
        const struct cas_deflate_class *class;
        int level;
};
void cas_deflate_encoder_free(struct cas_deflate_encoder *e);
CAS_DEFINE_CLEANUP(cas_cleanup_deflate_encoder_, struct cas_deflate_encoder *,
                   cas_deflate_encoder_free);
#define cas_cleanup_deflate_encoder __attribute__((cleanup(cas_cleanup_deflate_encoder_)))

/* The catalogue: all classes, NULL at its end. Ids: 1 Go up to 1.26; 2 Go from 1.27 (the same as
 * klauspost/compress from December 2025); 16 to 31 klauspost/compress by date; 32 zlib;
 * 33 GNU gzip. */
extern const struct cas_deflate_class *const cas_deflate_classes[];
/* NULL: unknown. */
const struct cas_deflate_class *cas_deflate_class_by_id(unsigned id);
const struct cas_deflate_class *cas_deflate_class_by_name(const char *name);
/* The earliest class that makes the same of everything at this level: who tries one class after the
 * other needs to try a level only with classes where this is the class itself. */
const struct cas_deflate_class *cas_deflate_class_first(const struct cas_deflate_class *class,
                                                        int level);

#endif
