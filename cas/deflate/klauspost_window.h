/* SPDX-License-Identifier: Apache-2.0 */
/* The window of klauspost's levels 7 to 9, the chains of places with one hash in it, and the search
 * for matches. Places are indexes of `bytes`; in the tables an index plus 1, and 0 for none. */
#ifndef CAS_KLAUSPOST_WINDOW_H
#define CAS_KLAUSPOST_WINDOW_H

#include "cas/deflate/klauspost_find.h"

#define CAS_KP_CHAIN_WINDOW_BYTES 32768U /* matches reach back so far */
#define CAS_KP_CHAIN_BUFFER_BYTES 65536U
#define CAS_KP_LENGTH_NONE 3U /* stands for no match */
#define CAS_KP_LENGTH_MIN 4U
#define CAS_KP_LENGTH_MAX 258U
#define CAS_KP_CHAIN_HASH_BITS 17U

/* What makes a candidate better than the one before it. */
enum cas_kp_choice {
        CAS_KP_CHOICE_NEAR,    /* longer; one of 4 bytes only at 4096 or nearer */
        CAS_KP_CHOICE_ENTROPY, /* longer, and gains bits at a mean price of a literal */
        CAS_KP_CHOICE_LENGTH,  /* longer */
        CAS_KP_CHOICE_PRICES   /* longer, and gains bits at each literal's price */
};
/* What is looked for at the end of a match. */
enum cas_kp_end_check {
        CAS_KP_END_NONE,
        CAS_KP_END_SAME, /* a longer one that begins where it does */
        CAS_KP_END_MOVED /* one that begins there, or up to 2 bytes later */
};

struct cas_kp_chain_params {
        uint32_t lazy;  /* a match this long is not compared with one at the next position */
        uint32_t nice;  /* one this long is not compared with other candidates */
        uint32_t tries; /* candidates */
        enum cas_kp_choice choice;
        enum cas_kp_end_check end_check;
        bool swap;         /* the hash takes its bytes in the other order */
        bool skip_inserts; /* places without a search are in the chains all the same */
        /* PRICES */
        uint32_t price_bytes_max; /* of the input that prices are made from */
        int32_t price_of_match;   /* beside its extra bits */
        int32_t gain_min;         /* more than this must be gained */
        uint8_t price_absent;     /* of literals that do not occur there */
};

struct cas_kp_window {
        uint32_t start; /* of what is known of `bytes` */
        int32_t entropy_bits;
        uint32_t price[CAS_KP_CHAIN_BUFFER_BYTES +
                       1]; /* of the literals before, from some index on */
        uint16_t head[1U << CAS_KP_CHAIN_HASH_BITS];
        uint16_t before[CAS_KP_CHAIN_WINDOW_BYTES]; /* by index, cyclic */
        uint8_t bytes[CAS_KP_CHAIN_BUFFER_BYTES + CAS_KP_SLACK_BYTES];
};

void cas_kp_window_clear(struct cas_kp_window *w);
/* The upper half of the buffer becomes the lower one. */
void cas_kp_window_shift(struct cas_kp_window *w);
/* How much literals are worth while from up to end is worked on. */
void cas_kp_window_price(struct cas_kp_window *w, const struct cas_kp_chain_params *p,
                         uint32_t from, uint32_t end, bool sync);

struct cas_kp_found {
        uint32_t length, distance;
};
/* The best match at `at`, which was entered when `head` was the latest place of its chain:
 * LENGTH_NONE if there is none. lookahead: bytes from `at` on, 4 at least. */
struct cas_kp_found cas_kp_window_find(const struct cas_kp_window *w,
                                       const struct cas_kp_chain_params *p, uint32_t at,
                                       uint32_t head, uint32_t lookahead);

/* `m` begins before `next`, and places from insert_end on are in no chain. Gives m or what is
 * better by the latest place that is like m's end. lookahead: bytes from next on. */
struct cas_kp_found cas_kp_window_end_same(const struct cas_kp_window *w, uint32_t next,
                                           uint32_t insert_end, uint32_t lookahead,
                                           struct cas_kp_found m);
/* *owed: so many bytes later than m. */
struct cas_kp_found cas_kp_window_end_moved(const struct cas_kp_window *w, uint32_t next,
                                            uint32_t insert_end, uint32_t lookahead,
                                            struct cas_kp_found m, uint32_t *owed);

/* Enters a place, which has 4 bytes; gives the one that was the latest of its chain. */
static inline uint32_t cas_kp_window_insert(struct cas_kp_window *w, bool swap, uint32_t at)
{
        uint32_t value = cas_kp_load32(w->bytes + at);
        if (swap)
                value = __builtin_bswap32(value);
        uint16_t *slot = &w->head[cas_kp_hash4(value, CAS_KP_CHAIN_HASH_BITS)];
        uint16_t latest = *slot;
        w->before[at % CAS_KP_CHAIN_WINDOW_BYTES] = latest;
        *slot = (uint16_t)(at + 1);
        return latest;
}

#endif
