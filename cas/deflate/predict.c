/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/predict.h"

#define MATCH_MIN 3
#define MATCH_MAX 258
#define RING_BYTES 65536 /* chains reach 32768 back */
#define SHORT_BITS 15
#define LCG 0x1e35a7bdU

struct match {
        uint32_t length; /* 0: none */
        uint32_t distance;
};

/* What is known of a position before it is its turn. */
struct ahead {
        uint32_t at; /* UINT32_MAX: nothing */
        struct match match;
};

struct cas_predict {
        struct cas_predict_params params;
        const uint8_t *data; /* borrowed */
        uint32_t begin, at, end;
        unsigned shortest;
        unsigned hash_bytes;
        uint32_t inserted;     /* positions before were put into the chains, or left out */
        struct ahead expected; /* the match for which literals came before */
        struct ahead found;    /* a search that need not be done again */
        uint32_t literal_at;   /* a literal that SCORED2 has decided on already */
        uint64_t work;         /* positions of chains that were looked at */
        uint32_t head[1 << CAS_PREDICT_BITS_MAX]; /* position + 1; 0: none */
        uint16_t ring[RING_BYTES]; /* by position: how far back the one before is; 0: none */
        uint32_t short_head[1 << SHORT_BITS];
};

/* ---- parameters ---- */

void cas_predict_params_put(const struct cas_predict_params *p,
                            uint8_t out[CAS_PREDICT_PARAMS_BYTES])
{
        out[0] = p->policy;
        out[1] = p->hash;
        out[2] = p->hash_bits;
        out[3] = p->flags;
        const uint16_t wide[] = {p->depth,    p->good, p->lazy,         p->nice,
                                 p->distance, p->far,  p->insert_whole, p->insert_first};
        for (unsigned i = 0; i < CAS_COUNT(wide); i++)
                cas_put_le16(out + 4 + 2 * i, wide[i]);
}

bool cas_predict_params_get(const uint8_t in[CAS_PREDICT_PARAMS_BYTES],
                            struct cas_predict_params *out)
{
        struct cas_predict_params p = {
                .policy = in[0],
                .hash = in[1],
                .hash_bits = in[2],
                .flags = in[3],
                .depth = cas_get_le16(in + 4),
                .good = cas_get_le16(in + 6),
                .lazy = cas_get_le16(in + 8),
                .nice = cas_get_le16(in + 10),
                .distance = cas_get_le16(in + 12),
                .far = cas_get_le16(in + 14),
                .insert_whole = cas_get_le16(in + 16),
                .insert_first = cas_get_le16(in + 18),
        };
        *out = p;
        return p.policy < CAS_PREDICT_POLICY_COUNT && p.hash < CAS_PREDICT_HASH_COUNT &&
               p.hash_bits >= 8 && p.hash_bits <= CAS_PREDICT_BITS_MAX &&
               (p.flags & ~CAS_PREDICT_FLAGS) == 0 && p.depth >= 1 &&
               p.depth <= CAS_PREDICT_DEPTH_MAX && p.distance >= 1 && p.distance <= 32768;
}

/* ---- chains ---- */

static uint32_t load32(const uint8_t *at)
{
        return cas_get_le32(at);
}

static uint32_t load24(const uint8_t *at)
{
        return cas_get_le32(at) & 0xffffff;
}

static uint32_t crc32c(uint32_t value)
{
        static const uint32_t nibble[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
                                            0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
                                            0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
                                            0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
        for (unsigned i = 0; i < 8; i++)
                value = value >> 4 ^ nibble[value & 15];
        return value;
}

/* Signed halves of 16 bits. */
static uint32_t halves(uint32_t value)
{
        uint32_t low = ((value & 0xffff) ^ 0x8000) - 0x8000, high = (value >> 16 ^ 0x8000) - 0x8000;
        return low * 0xffffe84bU + high * 0xffff97b1U;
}

static uint32_t hash_at(const struct cas_predict *p, const uint8_t *at)
{
        unsigned bits = p->params.hash_bits;
        uint32_t mask = (1U << bits) - 1;
        switch ((enum cas_predict_hash)p->params.hash) {
        case CAS_PREDICT_HASH_SHIFT3: {
                unsigned shift = (bits + 2) / 3;
                return ((uint32_t)at[0] << 2 * shift ^ (uint32_t)at[1] << shift ^ at[2]) & mask;
        }
        case CAS_PREDICT_HASH_MUL4:
                return load32(at) * 2654435761U >> (32 - bits);
        case CAS_PREDICT_HASH_LCG4:
                return load32(at) * LCG >> (32 - bits);
        case CAS_PREDICT_HASH_TWICE4: {
                uint64_t h = load32(at) * UINT64_C(0xb2d06057) >> 16;
                return (uint32_t)(h * UINT64_C(0xb2d06057) >> 16) & mask;
        }
        case CAS_PREDICT_HASH_FOLD3: {
                uint32_t three = load24(at);
                return (three ^ three >> 17) & mask;
        }
        case CAS_PREDICT_HASH_CRC4:
                return crc32c(load32(at)) & mask;
        case CAS_PREDICT_HASH_CRC3:
                return crc32c(load24(at)) & mask;
        case CAS_PREDICT_HASH_KNUTH4:
                return (load32(at) * 66521U + 66521U) >> 16 & mask;
        case CAS_PREDICT_HASH_HALVES4:
                return halves(halves(load32(at))) & mask;
        case CAS_PREDICT_HASH_COUNT:
                break;
        }
        return 0;
}

static unsigned hash_bytes(enum cas_predict_hash hash)
{
        return hash == CAS_PREDICT_HASH_SHIFT3 || hash == CAS_PREDICT_HASH_FOLD3 ||
                               hash == CAS_PREDICT_HASH_CRC3
                       ? 3
                       : 4;
}

static void insert(struct cas_predict *p, uint32_t at)
{
        if (p->end - at < p->hash_bytes)
                return;
        uint32_t *head = &p->head[hash_at(p, p->data + at)];
        uint32_t back = *head > 0 ? at + 1 - *head : 0;
        p->ring[at % RING_BYTES] = back <= UINT16_MAX ? (uint16_t)back : 0;
        *head = at + 1;
        if (p->params.flags & CAS_PREDICT_SHORT_TABLE)
                p->short_head[load24(p->data + at) * LCG >> (32 - SHORT_BITS)] = at + 1;
}

static void insert_before(struct cas_predict *p, uint32_t at)
{
        for (; p->inserted < at; p->inserted++)
                insert(p, p->inserted);
}

static uint32_t reach(const struct cas_predict *p, uint32_t at, uint32_t distance)
{
        return at - p->begin < distance ? at - p->begin : distance;
}

/* Nodes of chains are positions + 1; 0: the end. What is more than 65535 back is not found. */
static uint32_t chain_next(const struct cas_predict *p, uint32_t node)
{
        uint32_t back = p->ring[(node - 1) % RING_BYTES];
        return back > 0 && back < node ? node - back : 0;
}

/* The first of the chain of `at` that is before it. */
static uint32_t chain_first(struct cas_predict *p, uint32_t at)
{
        uint32_t node = p->head[hash_at(p, p->data + at)];
        for (; node > at; node = chain_next(p, node))
                p->work++;
        return node;
}

static unsigned extent(const uint8_t *a, const uint8_t *b, unsigned max)
{
        unsigned n = 0;
        while (n + 8 <= max) {
                uint64_t differ = cas_get_le64(a + n) ^ cas_get_le64(b + n);
                if (differ)
                        return n + (unsigned)__builtin_ctzll(differ) / 8;
                n += 8;
        }
        while (n < max && a[n] == b[n])
                n++;
        return n;
}

static unsigned match_room(const struct cas_predict *p, uint32_t at)
{
        return p->end - at < MATCH_MAX ? p->end - at : MATCH_MAX;
}

/* ---- searching ---- */

/* Candidates left to look at. TRIPLES: a group ends early with a candidate that passes the first
 * check. */
struct budget {
        uint32_t groups, in_group;
        bool triples;
};

static struct budget budget_of(const struct cas_predict *p, uint32_t depth)
{
        struct budget b = {depth, 0, (p->params.flags & CAS_PREDICT_TRIPLES) != 0};
        if (b.triples)
                b.groups = (depth + 2) / 3;
        return b;
}

static bool budget_take(struct budget *b)
{
        if (b->in_group > 0) {
                b->in_group--;
                return true;
        }
        if (b->groups == 0)
                return false;
        b->groups--;
        b->in_group = b->triples ? 2 : 0;
        return true;
}

/* STOP_WORSE looks at a candidate closely once its first bytes and those around the wanted length
 * are right. */
static bool stops_worse(const struct cas_predict_params *params, const uint8_t *there,
                        const uint8_t *here, unsigned n, unsigned length)
{
        if (!(params->flags & CAS_PREDICT_STOP_WORSE))
                return false;
        unsigned width = length < 4 ? 2 : length < 8 ? 4 : 8;
        unsigned from = length + 1 - width;
        return n >= width && memcmp(there + from, here + from, width) == 0;
}

/* The nearest of the longest matches that are longer than `above`, among the first of the chain. */
static struct match search(struct cas_predict *p, uint32_t at, unsigned above, uint32_t depth)
{
        struct match best = {0, 0};
        const struct cas_predict_params *params = &p->params;
        unsigned room = match_room(p, at);
        if (room < p->hash_bytes || room <= above)
                return best;
        insert_before(p, at);
        const uint8_t *data = p->data, *here = data + at;
        uint32_t lowest = at - reach(p, at, params->distance);
        unsigned length = above;
        uint32_t node = chain_first(p, at);
        if (params->flags & CAS_PREDICT_SHORT_TABLE) {
                uint32_t other = p->short_head[load24(here) * LCG >> (32 - SHORT_BITS)];
                if (other > at) /* put there by a search further on */
                        other = 0;
                if (length < 3 && other > lowest && load24(data + other - 1) == load24(here)) {
                        best = (struct match){3, at - (other - 1)};
                        length = 3;
                }
        }
        struct budget budget = budget_of(p, depth);
        unsigned check = length > 0 ? length - 1 : 0;
        uint16_t tail = cas_get_le16(here + check);
        for (; node > lowest && budget_take(&budget); node = chain_next(p, node)) {
                const uint8_t *there = data + node - 1;
                p->work++;
                if (cas_get_le16(there + check) != tail)
                        continue;
                budget.in_group = 0;
                if (cas_get_le16(there) != cas_get_le16(here))
                        continue;
                unsigned n = extent(there, here, room);
                if (n <= length) {
                        if (stops_worse(params, there, here, n, length))
                                break;
                        continue;
                }
                if (n < p->hash_bytes)
                        continue;
                length = n;
                best = (struct match){n, at - (node - 1)};
                if (n >= params->nice || n == room)
                        break;
                check = n - 1;
                tail = cas_get_le16(here + check);
        }
        return best;
}

static uint32_t depth_for(const struct cas_predict *p, unsigned above)
{
        uint32_t depth = p->params.depth;
        return above >= p->params.good ? (depth >> 2 ? depth >> 2 : 1) : depth;
}

static struct match search_here(struct cas_predict *p)
{
        if (p->expected.at == p->at)
                return p->expected.match;
        if (p->found.at == p->at)
                return p->found.match;
        return search(p, p->at, p->shortest - 1, p->params.depth);
}

static bool worth_it(const struct cas_predict *p, const struct match *m)
{
        return m->length >= p->shortest && (m->length > 3 || m->distance <= p->params.far);
}

static int log2_floor(uint32_t n)
{
        return 31 - __builtin_clz(n);
}

/* ---- policies ---- */

/* Better than `m`, by so many quarters of a byte? */
static bool scores(const struct match *m, const struct match *other, int margin)
{
        return other->length >= m->length && 4 * (int)(other->length - m->length) +
                                                             log2_floor(m->distance) -
                                                             log2_floor(other->distance) >
                                                     margin;
}

static bool later_is_better(struct cas_predict *p, const struct match *m)
{
        const struct cas_predict_params *params = &p->params;
        uint32_t at = p->at;
        if (at + 1 >= p->end)
                return false;
        struct match next;
        if (params->policy == CAS_PREDICT_LAZY) {
                next = search(p, at + 1, m->length, depth_for(p, m->length));
                if (next.length <= m->length || !worth_it(p, &next))
                        return false;
                p->expected = (struct ahead){at + 1, next};
                return true;
        }
        next = search(p, at + 1, m->length - 1, params->depth / 2 ? params->depth / 2 : 1);
        if (next.length > 0 && scores(m, &next, 2)) {
                p->expected = (struct ahead){at + 1, next};
                return true;
        }
        if (params->policy != CAS_PREDICT_SCORED2 || at + 2 >= p->end)
                return false;
        next = search(p, at + 2, m->length - 1, params->depth / 4 ? params->depth / 4 : 1);
        if (next.length > 0 && scores(m, &next, 6)) {
                p->literal_at = at + 1;
                p->expected = (struct ahead){at + 2, next};
                return true;
        }
        return false;
}

/* Can the match behind `m` be drawn back until at most one byte of `m` is left? */
static bool reaches_back(struct cas_predict *p, struct match *m)
{
        uint32_t next_at = p->at + m->length;
        if (next_at >= p->end)
                return false;
        struct match next = search(p, next_at, p->shortest - 1, p->params.depth);
        p->found = (struct ahead){next_at, next};
        if (!worth_it(p, &next) || next_at - next.distance < p->begin + m->length)
                return false;
        const uint8_t *here = p->data + next_at, *there = here - next.distance;
        uint32_t back = 0;
        while (back < m->length && next.length + back < 256 &&
               there[-1 - (int)back] == here[-1 - (int)back])
                back++;
        if (back + 1 < m->length || back == 0)
                return false;
        struct match drawn = {next.length + back, next.distance};
        if (back == m->length) {
                *m = drawn;
                return false;
        }
        p->expected = (struct ahead){p->at + 1, drawn};
        return true;
}

uint32_t cas_predict_next(struct cas_predict *p, enum cas_predict_reason *out_reason)
{
        const struct cas_predict_params *params = &p->params;
        uint32_t literal = p->data[p->at];
        if (p->literal_at == p->at) {
                *out_reason = CAS_PREDICT_LATER;
                return literal;
        }
        bool expected = p->expected.at == p->at;
        struct match m = search_here(p);
        if (!worth_it(p, &m)) {
                *out_reason = m.length > 0 ? CAS_PREDICT_TOO_SHORT : CAS_PREDICT_NO_MATCH;
                return literal;
        }
        *out_reason = expected ? CAS_PREDICT_EXPECTED : CAS_PREDICT_BEST;
        bool later = false;
        if (params->policy == CAS_PREDICT_MEDIUM)
                later = reaches_back(p, &m);
        else if (params->policy == CAS_PREDICT_GREEDY || m.length >= params->lazy)
                *out_reason = CAS_PREDICT_AT_ONCE;
        else
                later = later_is_better(p, &m);
        if (later) {
                *out_reason = CAS_PREDICT_LATER;
                return literal;
        }
        return cas_token_match(m.length, m.distance);
}

/* ---- going on ---- */

void cas_predict_accept(struct cas_predict *p, uint32_t token)
{
        uint32_t at = p->at;
        if (!(token & CAS_TOKEN_IS_MATCH)) {
                p->at++;
                if (p->expected.at < p->at)
                        p->expected.at = UINT32_MAX;
                return;
        }
        uint32_t length = cas_token_length(token), end = at + length;
        cas_assert(length <= p->end - at);
        p->at = end;
        if (p->expected.at != UINT32_MAX)
                p->expected.at = UINT32_MAX;
        p->literal_at = UINT32_MAX;
        if (length <= p->params.insert_whole)
                return;
        uint32_t until = at + p->params.insert_first;
        insert_before(p, until < end ? until : end);
        if (p->inserted < end) {
                if (p->params.flags & CAS_PREDICT_INSERT_LAST)
                        insert(p, end - 1);
                p->inserted = end;
        }
}

void cas_predict_skip(struct cas_predict *p, uint32_t bytes)
{
        cas_assert(bytes <= p->end - p->at);
        p->at += bytes;
        p->expected.at = p->found.at = p->literal_at = UINT32_MAX;
}

static bool usable(const struct cas_predict *p)
{
        return match_room(p, p->at) >= p->hash_bytes;
}

bool cas_predict_rank(struct cas_predict *p, unsigned length, uint32_t distance, uint32_t *out_rank)
{
        if (!usable(p) || length < p->hash_bytes)
                return false;
        uint32_t rank = 0, wanted = p->at - distance + 1;
        uint32_t node = chain_first(p, p->at);
        for (unsigned i = 0; i < CAS_PREDICT_DEPTH_MAX && node >= wanted; i++) {
                p->work++;
                if (node == wanted) {
                        *out_rank = rank;
                        return true;
                }
                rank += extent(p->data + node - 1, p->data + p->at, length) == length;
                node = chain_next(p, node);
        }
        return false;
}

uint32_t cas_predict_ranked(struct cas_predict *p, unsigned length, uint32_t rank)
{
        if (!usable(p) || length > match_room(p, p->at))
                return 0;
        uint32_t lowest = p->at - reach(p, p->at, 32768);
        uint32_t node = chain_first(p, p->at);
        for (unsigned i = 0; i < CAS_PREDICT_DEPTH_MAX && node > lowest; i++) {
                p->work++;
                if (extent(p->data + node - 1, p->data + p->at, length) == length && rank-- == 0)
                        return p->at - (node - 1);
                node = chain_next(p, node);
        }
        return 0;
}

unsigned cas_predict_extent(const struct cas_predict *p, uint32_t distance)
{
        return extent(p->data + p->at - distance, p->data + p->at, match_room(p, p->at));
}

/* ---- beginning ---- */

struct cas_predict *cas_predict_new(void)
{
        return cas_xmalloc(sizeof(struct cas_predict));
}

void cas_predict_free(struct cas_predict *p)
{
        free(p);
}

void cas_predict_begin(struct cas_predict *p, const struct cas_predict_params *params,
                       const uint8_t *data, uint32_t begin, uint32_t at, uint32_t end)
{
        cas_assert(begin <= at);
        cas_assert(at <= end);
        p->params = *params;
        p->data = data;
        p->begin = begin;
        p->at = at;
        p->end = end;
        p->shortest = MATCH_MIN;
        p->work = 0;
        p->hash_bytes = hash_bytes((enum cas_predict_hash)params->hash);
        p->inserted = begin;
        p->expected.at = p->found.at = p->literal_at = UINT32_MAX;
        memset(p->head, 0, sizeof(p->head));
        memset(p->short_head, 0, sizeof(p->short_head));
        insert_before(p, at);
}

void cas_predict_restart(struct cas_predict *p)
{
        p->begin = p->at;
        p->inserted = p->inserted < p->at ? p->at : p->inserted;
        p->expected.at = p->found.at = p->literal_at = UINT32_MAX;
}

uint32_t cas_predict_at(const struct cas_predict *p)
{
        return p->at;
}

uint64_t cas_predict_work(const struct cas_predict *p)
{
        return p->work;
}

uint32_t cas_predict_reach(const struct cas_predict *p)
{
        return reach(p, p->at, 32768);
}

void cas_predict_set_shortest(struct cas_predict *p, unsigned length)
{
        p->shortest = length;
        p->found.at = UINT32_MAX;
}
