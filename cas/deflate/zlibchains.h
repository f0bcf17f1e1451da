/* SPDX-License-Identifier: Apache-2.0 */
/* The search of levels that insert every string. It finds what zlibwindow.h's walk of the chain
 * would find, without looking at most of the chain: since all strings are entered, as soon as their
 * bytes are there, a string can also be reached by the four bytes that end what is looked for, and
 * its place in its chain is known from its number. */
#ifndef CAS_ZLIBCHAINS_H
#define CAS_ZLIBCHAINS_H

#include "cas/deflate/zlibwindow.h"

struct cas_zlib_link {
        uint16_t back;      /* distance to the string before in the chain; 0: none */
        uint16_t number;    /* strings that were entered into the chain before, modulo 2^16 */
        uint16_t trio_back; /* distance to the last place with the same three bytes, or hash … */
        uint16_t gram_back; /* … or the same four; better hashes than the chain's */
};

struct cas_zlib_chains {
        struct cas_zlib_link *links; /* owned; by index and phase */
        uint32_t phase;              /* 0 or 32 KiB: instead of moving the links in a slide */
        uint16_t *last;              /* owned; by hash, the latest index; 0: none */
        uint16_t *count;             /* owned; by hash */
        uint16_t *trio_last;         /* owned; by hash of three bytes, as `last` */
        uint16_t *gram_last;         /* owned; of four bytes */
        uint32_t hash_bits;
        uint32_t entered, gram_entered; /* up to here strings are in */
};

void cas_zlib_chains_init(struct cas_zlib_chains *c, uint32_t hash_bits);
void cas_zlib_chains_release(struct cas_zlib_chains *c);
/* Empties them; strings from index `from` on will be entered. */
void cas_zlib_chains_forget(struct cas_zlib_chains *c, uint32_t from);
void cas_zlib_chains_slide(struct cas_zlib_chains *c);
/* Enters all strings that are whole. */
void cas_zlib_chains_enter(struct cas_zlib_chains *c, const struct cas_zlib_window *w,
                           uint32_t fill);
/* As cas_zlib_longest, for the string at `at`, which is entered. ahead: bytes of input from there
 * on. */
uint32_t cas_zlib_chains_longest(const struct cas_zlib_chains *c, const struct cas_zlib_window *w,
                                 uint32_t at, uint32_t ahead, uint32_t best,
                                 struct cas_zlib_search search, uint32_t *match);

#endif
