/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/zlibchains.h"

enum { TRIO_BITS = 16, GRAM_BITS = 15, TRIO_STEPS_MAX = 8 };
#define MULTIPLIER 0x9e3779b1U

void cas_zlib_chains_init(struct cas_zlib_chains *c, uint32_t hash_bits)
{
        *c = (struct cas_zlib_chains){
                .hash_bits = hash_bits,
                .links = cas_xcalloc(CAS_ZLIB_BUFFER_BYTES, sizeof(*c->links)),
                .last = cas_xcalloc(1U << hash_bits, sizeof(uint16_t)),
                .count = cas_xcalloc(1U << hash_bits, sizeof(uint16_t)),
                .trio_last = cas_xcalloc(1U << TRIO_BITS, sizeof(uint16_t)),
                .gram_last = cas_xcalloc(1U << GRAM_BITS, sizeof(uint16_t)),
        };
}

void cas_zlib_chains_release(struct cas_zlib_chains *c)
{
        free(c->links);
        free(c->last);
        free(c->count);
        free(c->trio_last);
        free(c->gram_last);
        *c = (struct cas_zlib_chains){0};
}

void cas_zlib_chains_forget(struct cas_zlib_chains *c, uint32_t from)
{
        memset(c->last, 0, sizeof(*c->last) << c->hash_bits);
        memset(c->trio_last, 0, sizeof(*c->trio_last) << TRIO_BITS);
        memset(c->gram_last, 0, sizeof(*c->gram_last) << GRAM_BITS);
        c->entered = c->gram_entered = from;
}

void cas_zlib_chains_slide(struct cas_zlib_chains *c)
{
        cas_zlib_slide_links(c->last, 1U << c->hash_bits);
        cas_zlib_slide_links(c->trio_last, 1U << TRIO_BITS);
        cas_zlib_slide_links(c->gram_last, 1U << GRAM_BITS);
        c->phase ^= CAS_ZLIB_WINDOW_BYTES;
        c->entered -= CAS_ZLIB_WINDOW_BYTES;
        c->gram_entered -= CAS_ZLIB_WINDOW_BYTES;
}

static inline struct cas_zlib_link *link_at(const struct cas_zlib_chains *c, uint32_t at)
{
        return &c->links[at ^ c->phase];
}

static void enter_string(struct cas_zlib_chains *c, const struct cas_zlib_window *w, uint32_t at)
{
        uint32_t hash = cas_zlib_hash(w, at), last = c->last[hash];
        struct cas_zlib_link *link = link_at(c, at);
        link->back = last > 0 ? (uint16_t)(at - last) : 0;
        link->number = c->count[hash]++;
        c->last[hash] = (uint16_t)at;
        hash = (cas_get_le32(w->bytes + at) << 8) * MULTIPLIER >> (32 - TRIO_BITS);
        last = c->trio_last[hash];
        link->trio_back = last > 0 ? (uint16_t)(at - last) : 0;
        c->trio_last[hash] = (uint16_t)at;
}

static void enter_gram(struct cas_zlib_chains *c, const struct cas_zlib_window *w, uint32_t at)
{
        uint32_t hash = cas_get_le32(w->bytes + at) * MULTIPLIER >> (32 - GRAM_BITS);
        uint32_t last = c->gram_last[hash];
        link_at(c, at)->gram_back = last > 0 ? (uint16_t)(at - last) : 0;
        c->gram_last[hash] = (uint16_t)at;
}

void cas_zlib_chains_enter(struct cas_zlib_chains *c, const struct cas_zlib_window *w,
                           uint32_t fill)
{
        /* The last string was whole before its four bytes were. */
        for (; c->gram_entered < c->entered && c->gram_entered + 4 <= fill; c->gram_entered++)
                enter_gram(c, w, c->gram_entered);
        for (uint32_t at = c->entered; at + 3 <= fill; at++) {
                enter_string(c, w, at);
                c->entered = at + 1;
                if (at + 4 > fill)
                        break;
                enter_gram(c, w, at);
                c->gram_entered = at + 1;
        }
}

/* One search. */
struct hunt {
        const struct cas_zlib_chains *chains;
        const uint8_t *bytes, *scan;
        uint32_t at;
        uint32_t limit; /* candidates are above it, but the nearest string may be as low */
        struct cas_zlib_search search;
        uint32_t best, match;
        /* Where the walk of the chain is, and how many strings it has seen. */
        uint32_t walked_to, walked;
};

static inline bool is_near(const struct hunt *h, uint32_t candidate, uint32_t nearer)
{
        return candidate > h->limit || (candidate == h->limit && candidate > 0 && nearer == 0);
}

/* Walks the chain from where it was left until something is longer than `best`. False: the end. */
static bool walk_chain(struct hunt *h)
{
        uint32_t back = h->best < 3 ? 0 : h->best - 3;
        uint32_t mask = h->best < 3 ? 0xffffff : 0xffffffff;
        uint32_t head = cas_get_le32(h->scan) & mask, tail = cas_get_le32(h->scan + back) & mask;
        while (h->walked < h->search.chain) {
                uint32_t distance = link_at(h->chains, h->walked_to)->back;
                if (distance == 0 || distance > h->walked_to - h->limit ||
                    !is_near(h, h->walked_to - distance, h->walked))
                        return false;
                uint32_t candidate = h->walked_to - distance;
                h->walked_to = candidate;
                h->walked++;
                const uint8_t *there = h->bytes + candidate;
                if ((cas_get_le32(there + back) & mask) != tail ||
                    (cas_get_le32(there) & mask) != head)
                        continue;
                uint32_t len = cas_zlib_common(h->scan, there, h->search.len_max);
                if (len > h->best) {
                        h->best = len;
                        h->match = candidate;
                        return true;
                }
        }
        return false;
}

static uint32_t rank(const struct hunt *h, uint32_t candidate)
{
        return (uint16_t)(link_at(h->chains, h->at)->number -
                          link_at(h->chains, candidate)->number - 1);
}

/* The nearest string with the same three bytes, by a shorter way than the chain. False: none. */
static inline bool find_first(struct hunt *h)
{
        uint32_t head = cas_get_le32(h->scan), candidate = h->at;
        for (uint32_t steps = 0; steps < TRIO_STEPS_MAX; steps++) {
                uint32_t distance = link_at(h->chains, candidate)->trio_back;
                if (distance == 0 || distance > candidate - h->limit)
                        return false;
                candidate -= distance;
                if ((cas_get_le32(h->bytes + candidate) ^ head) << 8 != 0)
                        continue;
                uint32_t nearer = rank(h, candidate);
                if (nearer >= h->search.chain || !is_near(h, candidate, nearer))
                        return false;
                h->best = cas_zlib_common(h->scan, h->bytes + candidate, h->search.len_max);
                h->match = h->walked_to = candidate;
                h->walked = nearer + 1;
                return true;
        }
        return walk_chain(h);
}

/* Follows the four bytes that end what is looked for, from the nearest place where they are. False:
 * there are too many of them. */
static bool follow_grams(struct hunt *h)
{
        uint32_t head = cas_get_le32(h->scan), back = h->best - 3, gram = h->at + back;
        /* A quarter of what the walk might cost. */
        for (uint32_t steps = h->search.chain / 4 + 4; steps > 0; steps--) {
                uint32_t distance = link_at(h->chains, gram)->gram_back;
                if (distance == 0 || gram < h->limit + back + distance)
                        return true;
                gram -= distance;
                uint32_t candidate = gram - back;
                if (cas_get_le32(h->bytes + candidate) != head)
                        continue;
                uint32_t len = cas_zlib_common(h->scan, h->bytes + candidate, h->search.len_max);
                if (len <= h->best)
                        continue;
                uint32_t nearer = rank(h, candidate);
                if (nearer >= h->search.chain || !is_near(h, candidate, nearer))
                        return true;
                h->best = len;
                h->match = h->walked_to = candidate;
                h->walked = nearer + 1;
                if (len >= h->search.nice || len >= h->search.len_max)
                        return true;
                back = len - 3;
                gram = h->at + back;
        }
        return false;
}

uint32_t cas_zlib_chains_longest(const struct cas_zlib_chains *c, const struct cas_zlib_window *w,
                                 uint32_t at, uint32_t ahead, uint32_t best,
                                 struct cas_zlib_search search, uint32_t *match)
{
        if (best >= search.len_max)
                return best;
        struct hunt h = {
                .chains = c,
                .bytes = w->bytes,
                .scan = w->bytes + at,
                .at = at,
                .limit = at > CAS_ZLIB_DISTANCE_MAX ? at - CAS_ZLIB_DISTANCE_MAX : 0,
                .search = search,
                .best = best,
                .walked_to = at,
        };
        if (best == 2 && !find_first(&h))
                return best;
        uint32_t enough = search.nice < search.len_max ? search.nice : search.len_max;
        /* GNU gzip compares beyond the input, where no grams are. */
        if (h.best == best || h.best < enough)
                if (search.len_max > ahead || !follow_grams(&h))
                        while (h.best < search.len_max && walk_chain(&h) && h.best < enough)
                                ;
        if (h.best > best)
                *match = h.match;
        return h.best;
}
