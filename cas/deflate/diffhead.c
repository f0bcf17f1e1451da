/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/diffhead.h"

#define LENGTH_MAX 15
#define CLEN_MAX 7

/* ---- symbols ---- */

const struct cas_deflate_extra cas_deflate_length_extra[29] = {
        {3, 0},   {4, 0},   {5, 0},   {6, 0},   {7, 0},  {8, 0},  {9, 0},  {10, 0},
        {11, 1},  {13, 1},  {15, 1},  {17, 1},  {19, 2}, {23, 2}, {27, 2}, {31, 2},
        {35, 3},  {43, 3},  {51, 3},  {59, 3},  {67, 4}, {83, 4}, {99, 4}, {115, 4},
        {131, 5}, {163, 5}, {195, 5}, {227, 5}, {258, 0}};
const struct cas_deflate_extra cas_deflate_distance_extra[30] = {
        {1, 0},     {2, 0},     {3, 0},     {4, 0},      {5, 1},      {7, 1},
        {9, 2},     {13, 2},    {17, 3},    {25, 3},     {33, 4},     {49, 4},
        {65, 5},    {97, 5},    {129, 6},   {193, 6},    {257, 7},    {385, 7},
        {513, 8},   {769, 8},   {1025, 9},  {1537, 9},   {2049, 10},  {3073, 10},
        {4097, 11}, {6145, 11}, {8193, 12}, {12289, 12}, {16385, 13}, {24577, 13}};

unsigned cas_deflate_length_symbol(unsigned length)
{
        if (length == 258)
                return 285;
        unsigned n = length - 3;
        if (n < 8)
                return 257 + n;
        unsigned log = 31 - (unsigned)__builtin_clz(n);
        return 257 + 4 * (log - 1) + (n >> (log - 2) & 3);
}

unsigned cas_deflate_distance_symbol(unsigned distance)
{
        unsigned n = distance - 1;
        if (n < 4)
                return n;
        unsigned log = 31 - (unsigned)__builtin_clz(n);
        return 2 * log + (n >> (log - 1) & 1);
}

void cas_diffhead_count(struct cas_diffhead_histogram *h, const uint32_t *tokens, size_t count)
{
        for (size_t i = 0; i < count; i++) {
                uint32_t t = tokens[i];
                if (!(t & CAS_TOKEN_IS_MATCH)) {
                        h->literals[t & 0xff]++;
                        continue;
                }
                h->literals[t & CAS_TOKEN_ODD_258
                                    ? 284
                                    : cas_deflate_length_symbol(cas_token_length(t))]++;
                h->distances[cas_deflate_distance_symbol(cas_token_distance(t))]++;
        }
}

/* ---- Huffman ---- */

struct node {
        uint32_t frequency;
        uint16_t parent;
        uint8_t depth; /* HEAP: of the tree below */
        uint8_t length;
};
struct tree {
        struct node nodes[2 * CAS_DIFFHEAD_LITERALS];
        uint16_t heap[CAS_DIFFHEAD_LITERALS + 1]; /* from 1 on */
        unsigned heap_count;
        uint16_t order[2 * CAS_DIFFHEAD_LITERALS]; /* in ascending frequency, as taken */
        unsigned used;
};

static bool heap_before(const struct tree *t, unsigned a, unsigned b)
{
        const struct node *na = &t->nodes[a], *nb = &t->nodes[b];
        return na->frequency < nb->frequency ||
               (na->frequency == nb->frequency && na->depth <= nb->depth);
}

static void heap_sink(struct tree *t, unsigned at)
{
        uint16_t moving = t->heap[at];
        for (unsigned child; (child = 2 * at) <= t->heap_count; at = child) {
                if (child < t->heap_count && heap_before(t, t->heap[child + 1], t->heap[child]))
                        child++;
                if (heap_before(t, moving, t->heap[child]))
                        break;
                t->heap[at] = t->heap[child];
        }
        t->heap[at] = moving;
}

/* Joins the two lightest trees until one is left. Returns its root; `order` then holds all nodes
 * in the order in which they were taken. */
static unsigned heap_join(struct tree *t, unsigned count)
{
        unsigned fresh = count;
        for (unsigned i = t->heap_count / 2; i >= 1; i--)
                heap_sink(t, i);
        while (t->heap_count > 1) {
                uint16_t first = t->heap[1];
                t->heap[1] = t->heap[t->heap_count--];
                heap_sink(t, 1);
                uint16_t second = t->heap[1];
                t->order[t->used++] = first;
                t->order[t->used++] = second;
                uint8_t da = t->nodes[first].depth, db = t->nodes[second].depth;
                t->nodes[fresh] = (struct node){.frequency = t->nodes[first].frequency +
                                                             t->nodes[second].frequency,
                                                .depth = (uint8_t)((da > db ? da : db) + 1)};
                t->nodes[first].parent = t->nodes[second].parent = (uint16_t)fresh;
                t->heap[1] = (uint16_t)fresh++;
                heap_sink(t, 1);
        }
        return t->heap[1];
}

/* How many codes of each length; those that would be too long are made up for. */
static void heap_lengths(struct tree *t, unsigned count, unsigned root, unsigned max, uint8_t *out)
{
        unsigned counts[LENGTH_MAX + 1] = {0}, over = 0;
        t->nodes[root].length = 0;
        for (unsigned i = t->used; i-- > 0;) {
                struct node *n = &t->nodes[t->order[i]];
                unsigned length = t->nodes[n->parent].length + 1U;
                if (length > max) {
                        length = max;
                        over++;
                }
                n->length = (uint8_t)length;
                if (t->order[i] < count)
                        counts[length]++;
        }
        bool shortened = over > 0;
        for (int left = (int)over; left > 0; left -= 2) {
                unsigned bits = max - 1;
                while (counts[bits] == 0)
                        bits--;
                counts[bits]--;
                counts[bits + 1] += 2;
                counts[max]--;
        }
        if (shortened) {
                unsigned i = 0;
                for (unsigned bits = max; bits > 0; bits--)
                        for (unsigned n = counts[bits]; n > 0; i++)
                                if (t->order[i] < count) {
                                        t->nodes[t->order[i]].length = (uint8_t)bits;
                                        n--;
                                }
        }
        for (unsigned i = 0; i < t->used; i++)
                if (t->order[i] < count)
                        out[t->order[i]] = t->nodes[t->order[i]].length;
}

static void lengths_by_heap(const uint32_t *frequencies, unsigned count, unsigned max, uint8_t *out)
{
        struct tree t;
        t.heap_count = t.used = 0;
        for (unsigned i = 0; i < count; i++) {
                t.nodes[i] = (struct node){.frequency = frequencies[i]};
                if (frequencies[i] > 0)
                        t.heap[++t.heap_count] = (uint16_t)i;
        }
        /* Two codes at least: symbols 0 and 1 help out. */
        for (unsigned i = 0; i < 2 && t.heap_count < 2; i++)
                if (frequencies[i] == 0) {
                        t.nodes[i].frequency = 1;
                        t.heap[++t.heap_count] = (uint16_t)i;
                }
        unsigned root = heap_join(&t, count);
        heap_lengths(&t, count, root, max, out);
}

static int sorted_before(const void *a, const void *b)
{
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
        return x < y ? -1 : x > y;
}

static void lengths_by_sort(const uint32_t *frequencies, unsigned count, unsigned max, uint8_t *out)
{
        uint64_t leaves[CAS_DIFFHEAD_LITERALS];
        uint64_t inner[CAS_DIFFHEAD_LITERALS];
        uint16_t inner_parent[CAS_DIFFHEAD_LITERALS];
        unsigned n = 0;
        for (unsigned i = 0; i < count; i++)
                if (frequencies[i] > 0)
                        leaves[n++] = (uint64_t)frequencies[i] << 16 | i;
        for (unsigned i = 0; i < 2 && n < 2; i++)
                if (frequencies[i] == 0)
                        leaves[n++] = 1 << 16 | i;
        cas_assert(n >= 2);
        qsort(leaves, n, sizeof(leaves[0]), sorted_before);
        unsigned leaf = 0, node = 0;
        for (unsigned made = 0; made < n - 1; made++) {
                uint64_t sum = 0;
                for (unsigned k = 0; k < 2; k++) {
                        if (leaf < n && (node == made || leaves[leaf] >> 16 <= inner[node])) {
                                sum += leaves[leaf++] >> 16;
                        } else {
                                sum += inner[node];
                                inner_parent[node++] = (uint16_t)made;
                        }
                }
                inner[made] = sum;
        }
        /* From the root down: each inner node turns one code into two that are longer. */
        unsigned counts[LENGTH_MAX + 2] = {0};
        uint8_t depths[CAS_DIFFHEAD_LITERALS];
        counts[1] = 2;
        depths[n - 2] = 0;
        for (unsigned i = n - 2; i-- > 0;) {
                unsigned depth = depths[inner_parent[i]] + 1U;
                depths[i] = (uint8_t)depth;
                if (depth >= max)
                        depth = max - 1;
                while (counts[depth] == 0)
                        depth--;
                counts[depth]--;
                counts[depth + 1] += 2;
        }
        unsigned i = 0;
        for (unsigned bits = max; bits > 0; bits--)
                for (unsigned k = counts[bits]; k > 0; k--)
                        out[leaves[i++] & 0xffff] = (uint8_t)bits;
}

void cas_diffhead_lengths(enum cas_diffhead_tree tree, const uint32_t *frequencies, unsigned count,
                          unsigned max, uint8_t *out)
{
        cas_assert(count >= 2);
        cas_assert(count <= CAS_DIFFHEAD_LITERALS);
        memset(out, 0, count);
        if (tree == CAS_DIFFHEAD_HEAP)
                lengths_by_heap(frequencies, count, max, out);
        else
                lengths_by_sort(frequencies, count, max, out);
}

bool cas_diffhead_codes(const uint8_t *lengths, unsigned count, uint16_t *out)
{
        unsigned counts[LENGTH_MAX + 1] = {0};
        uint32_t next[LENGTH_MAX + 2] = {0};
        for (unsigned i = 0; i < count; i++)
                counts[lengths[i]]++;
        counts[0] = 0;
        uint32_t code = 0;
        for (unsigned bits = 1; bits <= LENGTH_MAX; bits++) {
                code = (code + counts[bits - 1]) << 1;
                next[bits] = code;
                if (code + counts[bits] > 1U << bits)
                        return false;
        }
        for (unsigned i = 0; i < count; i++) {
                uint32_t value = lengths[i] ? next[lengths[i]]++ : 0, reversed = 0;
                for (unsigned b = 0; b < lengths[i]; b++)
                        reversed |= (value >> b & 1) << (lengths[i] - 1U - b);
                out[i] = (uint16_t)reversed;
        }
        return true;
}

/* ---- lengths by difference ---- */

static void code_lengths(struct cas_rangecoder *c, struct cas_diffhead_model *m, unsigned which,
                         const uint8_t *predicted, uint8_t *lengths, unsigned count)
{
        bool all = c->decodes || memcmp(predicted, lengths, count) == 0;
        if (cas_range_bit(c, &m->all_same[which], all)) {
                memcpy(lengths, predicted, count);
                return;
        }
        unsigned history = 0;
        for (unsigned i = 0; i < count; i++) {
                unsigned p = predicted[i];
                unsigned same = cas_range_bit(c, &m->same[which][p][history], lengths[i] == p);
                if (same)
                        lengths[i] = (uint8_t)p;
                else
                        lengths[i] = (uint8_t)cas_range_tree(c, m->length[which][p], lengths[i], 4);
                history = (history << 1 | !same) & 3;
        }
}

static unsigned trimmed(const uint8_t *lengths, unsigned count, unsigned least)
{
        while (count > least && lengths[count - 1] == 0)
                count--;
        return count;
}

/* A count of 0 to 2^bits - 1 above `least`. */
static unsigned code_count(struct cas_rangecoder *c, cas_range_context *same, unsigned predicted,
                           unsigned least, unsigned bits, unsigned value)
{
        if (cas_range_bit(c, same, value == predicted))
                return predicted;
        return least + cas_range_direct(c, value - least, bits);
}

/* ---- runs ---- */

struct run {
        uint8_t symbol, extra;
        uint8_t length;
};

static unsigned run_from(const uint8_t *lengths, unsigned at, unsigned end)
{
        unsigned n = 1;
        while (at + n < end && n < 138 && lengths[at + n] == lengths[at])
                n++;
        return n;
}

/* The usual choice: the longest run that there is. `begin` and `end`: runs stay inside. */
static struct run usual_run(const uint8_t *lengths, unsigned begin, unsigned at, unsigned end)
{
        unsigned n = run_from(lengths, at, end);
        if (lengths[at] == 0 && n >= 11)
                return (struct run){18, (uint8_t)(n - 11), (uint8_t)n};
        if (lengths[at] == 0 && n >= 3) /* n <= 10 */
                return (struct run){17, (uint8_t)(n - 3), (uint8_t)n};
        if (at > begin && lengths[at] == lengths[at - 1] && n >= 3) {
                n = n < 6 ? n : 6;
                return (struct run){16, (uint8_t)(n - 3), (uint8_t)n};
        }
        return (struct run){lengths[at], 0, 1};
}

static unsigned run_length(unsigned symbol, unsigned extra)
{
        return symbol < 16 ? 1 : symbol == 18 ? 11 + extra : 3 + extra;
}

static unsigned run_extra_bits(unsigned symbol)
{
        return symbol < 16 ? 0 : symbol == 16 ? 2 : symbol == 17 ? 3 : 7;
}

static bool run_is_legal(const uint8_t *lengths, unsigned at, unsigned count, struct run r)
{
        if (r.length > count - at || (r.symbol == 16 && at == 0))
                return false;
        uint8_t value = r.symbol == 16 ? lengths[at - 1] : r.symbol > 16 ? 0 : r.symbol;
        for (unsigned i = 0; i < r.length; i++)
                if (lengths[at + i] != value)
                        return false;
        return true;
}

static struct run predicted_run(const struct cas_deflate_block *b, bool joint, unsigned at)
{
        unsigned literals = b->literal_count, count = literals + b->distance_count;
        if (joint)
                return usual_run(b->lengths, 0, at, count);
        if (at < literals)
                return usual_run(b->lengths, 0, at, literals);
        return usual_run(b->lengths, literals, at, count);
}

/* Runs that are not as predicted. */
static unsigned surprises(const struct cas_deflate_block *b, bool joint)
{
        unsigned at = 0, n = 0;
        for (unsigned i = 0; i < b->clen_symbol_count; i++) {
                struct run r = predicted_run(b, joint, at);
                n += r.symbol != b->clen_symbols[i] || r.extra != b->clen_extra[i];
                at += run_length(b->clen_symbols[i], b->clen_extra[i]);
        }
        return n;
}

static int code_runs(struct cas_rangecoder *c, struct cas_diffhead_model *m,
                     struct cas_deflate_block *b, struct cas_err *err)
{
        unsigned count = b->literal_count + b->distance_count, at = 0, n = 0, history = 0;
        bool joint = !c->decodes && surprises(b, true) <= surprises(b, false);
        joint = cas_range_bit(c, &m->joint, joint);
        while (at < count) {
                struct run usual = predicted_run(b, joint, at), r = usual;
                if (!c->decodes)
                        r = (struct run){b->clen_symbols[n], b->clen_extra[n], 0};
                bool same = r.symbol == usual.symbol && r.extra == usual.extra;
                same = cas_range_bit(c, &m->run_same[history], same);
                history = (history << 1 | !same) & 3;
                if (same) {
                        r = usual;
                } else {
                        unsigned kind = r.symbol < 16 ? 0 : r.symbol - 15U;
                        kind = cas_range_tree(c, m->run, kind, 2);
                        r.symbol = kind == 0 ? b->lengths[at] : (uint8_t)(15 + kind);
                        if (kind > 0)
                                r.extra = (uint8_t)cas_range_direct(c, r.extra,
                                                                    run_extra_bits(r.symbol));
                        else
                                r.extra = 0;
                        r.length = (uint8_t)run_length(r.symbol, r.extra);
                }
                if (!run_is_legal(b->lengths, at, count, r))
                        return cas_fail(err, CAS_E_CORRUPT, "runs of code lengths do not fit");
                b->clen_symbols[n] = r.symbol;
                b->clen_extra[n++] = r.extra;
                at += r.length;
        }
        b->clen_symbol_count = (uint16_t)n;
        return 0;
}

/* ---- the code of the code lengths ---- */

static void code_clens(struct cas_rangecoder *c, struct cas_diffhead_model *m,
                       enum cas_diffhead_tree tree, struct cas_deflate_block *b)
{
        static const uint8_t order[CAS_DIFFHEAD_CLENS] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                          11, 4,  12, 3, 13, 2, 14, 1, 15};
        uint32_t frequencies[CAS_DIFFHEAD_CLENS] = {0};
        uint8_t predicted[CAS_DIFFHEAD_CLENS];
        for (unsigned i = 0; i < b->clen_symbol_count; i++)
                frequencies[b->clen_symbols[i]]++;
        cas_diffhead_lengths(tree, frequencies, CAS_DIFFHEAD_CLENS, CLEN_MAX, predicted);
        for (unsigned i = 0; i < CAS_DIFFHEAD_CLENS; i++) {
                unsigned p = predicted[i];
                uint8_t *length = &b->clen_lengths[i];
                if (cas_range_bit(c, &m->clen_same[p], *length == p))
                        *length = (uint8_t)p;
                else
                        *length = (uint8_t)cas_range_tree(c, m->clen[p], *length, 3);
        }
        uint8_t ordered[CAS_DIFFHEAD_CLENS];
        for (unsigned i = 0; i < CAS_DIFFHEAD_CLENS; i++)
                ordered[i] = b->clen_lengths[order[i]];
        unsigned usual = trimmed(ordered, CAS_DIFFHEAD_CLENS, 4);
        b->clen_count = (uint8_t)code_count(c, &m->count_same[2], usual, 4, 4, b->clen_count);
}

int cas_diffhead_code(struct cas_rangecoder *c, struct cas_diffhead_model *m,
                      enum cas_diffhead_tree tree, const struct cas_diffhead_histogram *h,
                      struct cas_deflate_block *b, struct cas_err *err)
{
        uint8_t literals[CAS_DIFFHEAD_LITERALS], distances[CAS_DIFFHEAD_DISTANCES];
        cas_diffhead_lengths(tree, h->literals, CAS_DIFFHEAD_LITERALS, LENGTH_MAX, literals);
        cas_diffhead_lengths(tree, h->distances, CAS_DIFFHEAD_DISTANCES, LENGTH_MAX, distances);
        unsigned usual = trimmed(literals, CAS_DIFFHEAD_LITERALS, 257);
        b->literal_count =
                (uint16_t)code_count(c, &m->count_same[0], usual, 257, 5, b->literal_count);
        usual = trimmed(distances, CAS_DIFFHEAD_DISTANCES, 1);
        b->distance_count =
                (uint16_t)code_count(c, &m->count_same[1], usual, 1, 5, b->distance_count);
        code_lengths(c, m, 0, literals, b->lengths, b->literal_count);
        code_lengths(c, m, 1, distances, b->lengths + b->literal_count, b->distance_count);
        int rc = code_runs(c, m, b, err);
        if (rc < 0)
                return rc;
        code_clens(c, m, tree, b);
        if (b->clen_count > CAS_DIFFHEAD_CLENS)
                return cas_fail(err, CAS_E_CORRUPT, "too many code lengths' code lengths");
        return 0;
}
