/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder that the zlib family shares. zlibclass.c and gnugzip.c say in what they differ,
 * zlibdeflate.c chooses tokens, zlibencoder.c is the interface: runs, ends, marks, restarts. */
#ifndef CAS_ZLIB_INT_H
#define CAS_ZLIB_INT_H

#include "cas/deflate/encoder.h"
#include "cas/deflate/zlibchains.h"
#include "cas/deflate/zlibtrees.h"
#include "cas/deflate/zlibwindow.h"

/* Of input that a restart wants. Levels that insert every string need only the window; the fast
 * ones are run over the rest of it, so that their chains become the same. */
#define CAS_ZLIB_RESTART_BYTES (512U * 1024)
/* Ends that a mark of a fast level tells of, for the same reason. */
#define CAS_ZLIB_MARK_ENDS_MAX 8

struct cas_zlib_level {
        uint16_t good;  /* a previous match of this length: a quarter of the chain is enough */
        uint16_t lazy;  /* of this length: the next position is not searched; fast levels: longer
                           matches are not inserted */
        uint16_t nice;  /* a match of this length ends a search */
        uint16_t chain; /* strings that a search looks at */
};
/* By level; the same in all of the family. */
extern const struct cas_zlib_level cas_zlib_levels[10];
#define CAS_ZLIB_LEVEL_FAST_MAX 3

struct cas_zlib_flavour {
        bool is_gnu;
        uint32_t hash_bits;
        uint32_t token_max;
};

/* No string is waiting to be inserted. */
#define CAS_ZLIB_INSERT_NONE UINT32_MAX

/* The state at the end of a block. */
struct cas_zlib_mark {
        uint64_t in_bytes, out_bytes;
        uint32_t pos;     /* index of what comes next */
        uint32_t history; /* bytes before it that matches may know of, up to RESTART_BYTES */
        uint8_t bits, bit_count;
        uint8_t waiting;   /* strings before pos, 0 to 2, that are not inserted yet */
        uint8_t end_count; /* fast levels: ends within history … */
        uint32_t ends[CAS_ZLIB_MARK_ENDS_MAX]; /* … as bytes before the mark, the earliest first */
        bool is_pending;                       /* pos was searched already, with this outcome */
        uint16_t match_len, match_distance;
};

struct cas_zlib_encoder {
        struct cas_deflate_encoder base;
        struct cas_zlib_flavour flavour;
        struct cas_zlib_level level;
        struct cas_zlib_window window;
        struct cas_zlib_chains chains; /* slow levels */
        struct cas_zlib_block block;
        struct cas_bitwriter bits; /* its buffer is the present call's */
        size_t out_begin;          /* length of that buffer when the call began */
        uint64_t out_bytes;        /* of the run before the present call */

        uint64_t origin;  /* of index 0 in the run; in the dictionary it is below 0, modulo 2^64 */
        uint64_t history; /* position in the run before which nothing is known, likewise */
        uint32_t fill;    /* input is there up to this index */
        uint32_t pos;     /* what is searched next; up to fill + 1, after a restart */
        int32_t block_start;  /* below 0 when the window slid past it */
        uint32_t insert_from; /* fast: strings from here to pos wait for their third byte */
        uint32_t skipped_to;  /* end of the last match whose strings were not inserted */
        uint32_t split_at;    /* token count at which the block is closed, or might be */
        bool is_pending;      /* the byte before pos is not written yet … */
        uint32_t match_len, match_start; /* … and this match of it, if any, competes */
        bool is_at_end;                  /* GNU: the end of the input was seen */
        bool is_rehearsing;              /* restart: tokens are thrown away … */
        bool is_cut;                     /* … and the input goes on behind what is there */
        /* The latest ends but FINISH, by position in the run; a ring, of which `end_count` tells
         * how many there were since history began. */
        uint64_t ends[CAS_ZLIB_MARK_ENDS_MAX + 1];
        uint64_t end_count;

        bool has_mark;
        struct cas_zlib_mark mark;
};

struct cas_deflate_encoder *cas_zlib_encoder_create(const struct cas_deflate_class *class,
                                                    int level,
                                                    const struct cas_zlib_flavour *flavour);

/* Chooses tokens for what is in the window as far as that can be known; all of it when is_end. */
void cas_zlib_deflate(struct cas_zlib_encoder *e, bool is_end);
/* The next block begins at index `at`. */
void cas_zlib_begin_block(struct cas_zlib_encoder *e, uint32_t at);
/* Closes the block at index `end`; the next one begins there. */
void cas_zlib_close_block(struct cas_zlib_encoder *e, uint32_t end, bool is_final);
/* The present state becomes the mark. */
void cas_zlib_set_mark(struct cas_zlib_encoder *e, uint32_t pos, bool is_pending);

/* GNU gzip's guess: is this block, whose last token begins at or before `pos`, better closed? */
bool cas_gnugzip_splits(const struct cas_zlib_encoder *e, uint32_t pos);
#define CAS_GNUGZIP_SPLIT_TOKENS 4096U
#define CAS_GNUGZIP_SPLIT_LEVEL_MIN 3

#endif
