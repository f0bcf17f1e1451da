/* SPDX-License-Identifier: Apache-2.0 */
/* Which token a deflate encoder would write next (spec/recipe-gzip-diff.md): a matcher with hash
 * chains and the usual ways to choose, by parameters. It is told what the encoder really wrote and
 * goes on from there, so that one surprise costs no more than one correction.
 *
 * What it predicts is format: recipes stand on it. One thread at a time. */
#ifndef CAS_PREDICT_H
#define CAS_PREDICT_H

#include "cas/deflate/token.h"

/* Numbers are in recipes. */
enum cas_predict_policy {
        CAS_PREDICT_GREEDY = 0,  /* the longest match, at once */
        CAS_PREDICT_LAZY = 1,    /* … unless the next position has a longer one */
        CAS_PREDICT_SCORED = 2,  /* … or one that is better by length and distance */
        CAS_PREDICT_SCORED2 = 3, /* … or the one after the next has */
        CAS_PREDICT_MEDIUM = 4,  /* … unless the match behind it reaches back over it */
        CAS_PREDICT_POLICY_COUNT
};
enum cas_predict_hash {
        CAS_PREDICT_HASH_SHIFT3 = 0,  /* three bytes, shifted */
        CAS_PREDICT_HASH_MUL4 = 1,    /* four bytes, by 2654435761 */
        CAS_PREDICT_HASH_LCG4 = 2,    /* four bytes, by 0x1e35a7bd */
        CAS_PREDICT_HASH_TWICE4 = 3,  /* four bytes, twice by 0xb2d06057 */
        CAS_PREDICT_HASH_FOLD3 = 4,   /* three bytes, folded */
        CAS_PREDICT_HASH_CRC4 = 5,    /* four bytes, CRC-32C */
        CAS_PREDICT_HASH_CRC3 = 6,    /* three bytes, CRC-32C */
        CAS_PREDICT_HASH_KNUTH4 = 7,  /* four bytes, 66521·x + 66521 */
        CAS_PREDICT_HASH_HALVES4 = 8, /* four bytes, twice: halves by two numbers, added */
        CAS_PREDICT_HASH_COUNT
};

#define CAS_PREDICT_BITS_MAX 16
#define CAS_PREDICT_DEPTH_MAX 4096
struct cas_predict_params {
        uint8_t policy;        /* enum cas_predict_policy */
        uint8_t hash;          /* enum cas_predict_hash */
        uint8_t hash_bits;     /* 8 to 16 */
        uint8_t flags;         /* CAS_PREDICT_… */
        uint16_t depth;        /* candidates looked at: 1 to 4096 */
        uint16_t good;         /* from this length on a quarter of them */
        uint16_t lazy;         /* from this length on nothing better is looked for */
        uint16_t nice;         /* … and the search ends */
        uint16_t distance;     /* 1 to 32768 */
        uint16_t far;          /* matches of 3 are not taken beyond this distance */
        uint16_t insert_whole; /* positions in matches up to this length all enter the chains … */
        uint16_t insert_first; /* … and of longer ones so many */
};
#define CAS_PREDICT_SHORT_TABLE 1 /* a table of its own for matches of 3 */
#define CAS_PREDICT_INSERT_LAST 2 /* the last position of a match enters the chains too */
#define CAS_PREDICT_STOP_WORSE 4  /* the search ends with a candidate that is not longer */
#define CAS_PREDICT_TRIPLES 8     /* candidates are counted by threes */
#define CAS_PREDICT_FLAGS 15

#define CAS_PREDICT_PARAMS_BYTES 20
void cas_predict_params_put(const struct cas_predict_params *p,
                            uint8_t out[CAS_PREDICT_PARAMS_BYTES]);
/* False: out of range. */
bool cas_predict_params_get(const uint8_t in[CAS_PREDICT_PARAMS_BYTES],
                            struct cas_predict_params *out);

/* Why a token was predicted: a context for corrections. */
enum cas_predict_reason {
        CAS_PREDICT_NO_MATCH = 0,
        CAS_PREDICT_TOO_SHORT = 1, /* … or too far away */
        CAS_PREDICT_LATER = 2,     /* a literal, for the sake of a match behind it */
        CAS_PREDICT_AT_ONCE = 3,   /* nothing better was looked for */
        CAS_PREDICT_BEST = 4,      /* nothing better was found */
        CAS_PREDICT_EXPECTED = 5,  /* the match for which the last was a literal */
        CAS_PREDICT_REASON_COUNT
};

struct cas_predict;
struct cas_predict *cas_predict_new(void);
void cas_predict_free(struct cas_predict *p);
CAS_DEFINE_CLEANUP(cas_cleanup_predict_, struct cas_predict *, cas_predict_free);
#define cas_cleanup_predict __attribute__((cleanup(cas_cleanup_predict_)))

/* Begins anew. `data` is borrowed and has CAS_PREDICT_SLACK_BYTES more that can be read and are
 * zero. What is before `at` can be matched from `begin` on. */
#define CAS_PREDICT_SLACK_BYTES 16
void cas_predict_begin(struct cas_predict *p, const struct cas_predict_params *params,
                       const uint8_t *data, uint32_t begin, uint32_t at, uint32_t end);
/* The same data, but a new stream begins here: nothing before can be matched. */
void cas_predict_restart(struct cas_predict *p);
uint32_t cas_predict_at(const struct cas_predict *p);
/* Positions of chains that were looked at since the beginning: what prediction takes. */
uint64_t cas_predict_work(const struct cas_predict *p);
/* How far back a match can reach here. */
uint32_t cas_predict_reach(const struct cas_predict *p);
/* Matches shorter than this (3 to 259) are not predicted. */
void cas_predict_set_shortest(struct cas_predict *p, unsigned length);

/* Token for the present position, which is before the end. */
uint32_t cas_predict_next(struct cas_predict *p, enum cas_predict_reason *out_reason);
/* What it really was. */
void cas_predict_accept(struct cas_predict *p, uint32_t token);
/* Bytes of a stored block. */
void cas_predict_skip(struct cas_predict *p, uint32_t bytes);

/* A match of `length` at the present position by its rank: how many positions in the chain are
 * nearer and match as long. False: it cannot be found so. */
bool cas_predict_rank(struct cas_predict *p, unsigned length, uint32_t distance,
                      uint32_t *out_rank);
/* The other way. 0: there is none. */
uint32_t cas_predict_ranked(struct cas_predict *p, unsigned length, uint32_t rank);
/* How long the present position matches at that distance, at most 258. */
unsigned cas_predict_extent(const struct cas_predict *p, uint32_t distance);

#endif
