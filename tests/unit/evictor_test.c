/* SPDX-License-Identifier: Apache-2.0 */
/* Policies against models that are written naively, and all of them against what the interface
 * promises, on random sequences of everything that can be asked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tiering/evictor_int.h"
#include "tiering/sketch.h"

#define KEYS 400
#define OPERATIONS 60000

static uint64_t random_state;

static uint64_t next_random(void)
{
        random_state ^= random_state << 13;
        random_state ^= random_state >> 7;
        random_state ^= random_state << 17;
        return random_state;
}

/* Few keys often, many seldom. */
static unsigned random_key(void)
{
        unsigned limit = 1 + (unsigned)(next_random() % KEYS);
        return (unsigned)(next_random() % limit);
}

static struct tier_key key_of(unsigned n)
{
        return (struct tier_key){.hi = n / 7, .lo = (uint64_t)n << 20};
}

static unsigned number_of(const struct tier_key *key)
{
        return (unsigned)(key->lo >> 20);
}

static uint64_t size_of(unsigned n, bool equal)
{
        return equal ? 100 : 1 + n * 37 % 400 + (n % 50 == 0 ? 3000 : 0);
}

/* ---- what the interface promises ---- */

struct mirror {
        bool in[KEYS];
        uint64_t bytes[KEYS], used;
        unsigned evictions;
        unsigned fresh; /* the key that is being admitted; KEYS: none */
};

static void mirror_evicted(void *arg, const struct tier_key *key, uint64_t bytes)
{
        struct mirror *m = arg;
        unsigned n = number_of(key);
        assert_true(n < KEYS);
        assert_true(m->in[n]); /* it was in, and goes once */
        assert_int_not_equal(n, m->fresh);
        assert_int_equal(bytes, m->bytes[n]);
        m->in[n] = false;
        m->used -= bytes;
        m->evictions++;
}

static void mirror_step(struct tier_evictor *p, struct mirror *m, bool equal, uint64_t *capacity)
{
        unsigned n = random_key(), what = (unsigned)(next_random() % 1000);
        struct tier_key key = key_of(n);
        m->fresh = KEYS;
        if (what < 20) {
                tier_evictor_remove(p, &key);
                m->used -= m->in[n] ? m->bytes[n] : 0;
                m->in[n] = false;
        } else if (what < 23) {
                *capacity = next_random() % 20000;
                tier_evictor_resize(p, *capacity, mirror_evicted, m);
        } else if (what < 100 || !tier_evictor_hit(p, &key)) { /* below 100: brought unasked */
                bool must = next_random() % 3 == 0;
                uint64_t bytes = m->in[n] ? m->bytes[n] : size_of(n, equal);
                m->fresh = n;
                bool in = tier_evictor_admit(p, &key, bytes, must, mirror_evicted, m);
                assert_true(in || !m->in[n]);
                assert_true(in || !must || bytes > *capacity);
                assert_false(in && bytes > *capacity);
                m->used += in && !m->in[n] ? bytes : 0;
                m->in[n] = in;
                m->bytes[n] = bytes;
        } else {
                assert_true(m->in[n]);
        }
}

static void all_policies_keep_their_promises(void **state CAS_UNUSED)
{
        for (unsigned kind = 0; kind < TIER_EVICT_KINDS; kind++) {
                for (unsigned equal = 0; equal < 2; equal++) {
                        uint64_t capacity = 10000;
                        struct mirror m = {0};
                        random_state = 0x1234567 + kind;
                        struct tier_evictor *p = tier_evictor_new((enum tier_evictor_kind)kind,
                                                                  capacity, equal ? 100 : 200);
                        for (unsigned i = 0; i < OPERATIONS; i++) {
                                mirror_step(p, &m, equal != 0, &capacity);
                                assert_int_equal(tier_evictor_used_bytes(p), m.used);
                                assert_true(m.used <= capacity);
                                for (unsigned k = i % 16; k < KEYS; k += 16) {
                                        struct tier_key key = key_of(k);
                                        assert_int_equal(tier_evictor_has(p, &key), m.in[k]);
                                }
                        }
                        assert_true(m.evictions > 1000);
                        tier_evictor_free(p);
                }
        }
}

/* Whatever comes, no more than a stated number of bytes for each entry that fits. */
static void memory_is_bounded(void **state CAS_UNUSED)
{
        for (unsigned kind = 0; kind < TIER_EVICT_KINDS; kind++) {
                const unsigned fit = 10000;
                struct tier_evictor *p =
                        tier_evictor_new((enum tier_evictor_kind)kind, fit * 100, 100);
                for (unsigned i = 0; i < 40 * fit; i++) {
                        struct tier_key key = {.hi = i % 3 ? i : next_random() % fit, .lo = 1};
                        if (!tier_evictor_hit(p, &key))
                                (void)tier_evictor_admit(p, &key, 100, false, NULL, NULL);
                }
                assert_true(tier_evictor_memory_bytes(p) <= fit * TIER_EVICTOR_ENTRY_BYTES_MAX);
                tier_evictor_free(p);
        }
}

static void names(void **state CAS_UNUSED)
{
        for (unsigned kind = 0; kind < TIER_EVICT_KINDS; kind++) {
                enum tier_evictor_kind found;
                assert_true(tier_evictor_parse(tier_evictor_name((enum tier_evictor_kind)kind),
                                               &found));
                assert_int_equal(found, kind);
        }
        enum tier_evictor_kind none;
        assert_false(tier_evictor_parse("lr", &none));
        assert_false(tier_evictor_parse("", &none));
}

/* ---- models ---- */

struct item {
        unsigned n;
        uint64_t bytes;
        unsigned uses;
};
struct line { /* from the oldest to the newest */
        struct item items[4 * KEYS];
        size_t count;
};
struct model {
        enum tier_evictor_kind kind;
        uint64_t capacity;
        /* LRU and SIEVE have a main line alone; W-TinyLFU's window is small, its probation main. */
        struct line small, main, protected, ghosts;
        size_t hand;
        struct tier_sketch sketch;         /* W-TinyLFU's */
        const struct tier_evictor *hashes; /* as this one has them */
};

static uint64_t bytes_of(const struct line *l)
{
        uint64_t sum = 0;
        for (size_t i = 0; i < l->count; i++)
                sum += l->items[i].bytes;
        return sum;
}

static size_t place_in(const struct line *l, unsigned n)
{
        size_t i = 0;
        while (i < l->count && l->items[i].n != n)
                i++;
        return i;
}

static struct item take_from(struct line *l, size_t i)
{
        struct item it = l->items[i];
        memmove(&l->items[i], &l->items[i + 1], (l->count - i - 1) * sizeof(it));
        l->count--;
        return it;
}

static void push(struct line *l, struct item it)
{
        l->items[l->count++] = it;
}

static bool model_has(const struct model *m, unsigned n)
{
        return place_in(&m->small, n) < m->small.count || place_in(&m->main, n) < m->main.count ||
               place_in(&m->protected, n) < m->protected.count;
}

static uint64_t model_used(const struct model *m)
{
        return bytes_of(&m->small) + bytes_of(&m->main) + bytes_of(&m->protected);
}

static void model_haunt(struct model *m, struct item it)
{
        push(&m->ghosts, it);
        while (bytes_of(&m->ghosts) > m->capacity ||
               m->ghosts.count > m->small.count + m->main.count + m->protected.count)
                (void)take_from(&m->ghosts, 0);
}

static void model_take_main(struct model *m, size_t i)
{
        (void)take_from(&m->main, i);
        m->hand -= i < m->hand;
        m->hand = m->hand < m->main.count ? m->hand : 0;
}

static uint64_t hash_of(const struct model *m, unsigned n)
{
        struct tier_key key = key_of(n);
        return tier_evictor_hash(m->hashes, &key);
}

static void model_limit_protected(struct model *m)
{
        while (bytes_of(&m->protected) > (m->capacity - m->capacity / 10) * 80 / 100)
                push(&m->main, take_from(&m->protected, 0));
}

static void model_tinylfu_hit(struct model *m, unsigned n)
{
        size_t i = place_in(&m->small, n), j = place_in(&m->main, n);
        if (i < m->small.count)
                push(&m->small, take_from(&m->small, i));
        else if (j < m->main.count)
                push(&m->protected, take_from(&m->main, j));
        else
                push(&m->protected, take_from(&m->protected, place_in(&m->protected, n)));
        model_limit_protected(m);
}

/* The line in which the next victim is the oldest, but for `keep`; NULL: there is none. */
static struct line *model_victim(struct model *m, unsigned keep, size_t *at)
{
        struct line *lines[] = {&m->main, &m->protected, &m->small};
        for (size_t l = 0; l < CAS_COUNT(lines); l++) {
                *at = lines[l]->count > 0 && lines[l]->items[0].n == keep;
                if (*at < lines[l]->count)
                        return lines[l];
        }
        return NULL;
}

static void model_evict(struct model *m, unsigned keep)
{
        size_t at;
        while (model_used(m) > m->capacity) {
                struct line *l = model_victim(m, keep, &at);
                assert_non_null(l);
                model_haunt(m, take_from(l, at));
        }
}

static bool model_worth(struct model *m, unsigned n)
{
        uint64_t freed = 0, sum = 0, uses = tier_sketch_count(&m->sketch, hash_of(m, n));
        size_t compared = 0;
        while (model_used(m) > m->capacity + freed) {
                if (compared == m->main.count + m->protected.count)
                        return false;
                const struct item *it = compared < m->main.count
                                                ? &m->main.items[compared]
                                                : &m->protected.items[compared - m->main.count];
                freed += it->bytes;
                sum += tier_sketch_count(&m->sketch, hash_of(m, it->n));
                compared++;
                if (sum >= uses) {
                        while (--compared > 0 && m->main.count > 0)
                                push(&m->main, take_from(&m->main, 0));
                        return false;
                }
        }
        return true;
}

static void model_tinylfu_admit(struct model *m, struct item it, bool ghost)
{
        tier_sketch_grow(&m->sketch, m->small.count + m->main.count + m->protected.count + 1);
        push(ghost ? &m->main : &m->small, it);
        while (bytes_of(&m->small) > m->capacity / 10) {
                unsigned candidate = m->small.items[0].n;
                if (model_worth(m, candidate)) {
                        push(&m->main, take_from(&m->small, 0));
                        model_evict(m, candidate);
                } else {
                        model_haunt(m, take_from(&m->small, 0));
                }
        }
        model_evict(m, it.n);
}

static void model_hit(struct model *m, unsigned n)
{
        if (m->kind == TIER_EVICT_TINYLFU) {
                model_tinylfu_hit(m, n);
                return;
        }
        struct line *l = place_in(&m->main, n) < m->main.count ? &m->main : &m->small;
        size_t i = place_in(l, n);
        switch (m->kind) {
        case TIER_EVICT_LRU:
                push(l, take_from(l, i));
                break;
        case TIER_EVICT_SIEVE:
                l->items[i].uses = 1;
                break;
        default:
                l->items[i].uses += l->items[i].uses < 3;
        }
}

static void model_sieve_step(struct model *m, unsigned fresh)
{
        struct item *it = &m->main.items[m->hand];
        if (!it->uses && it->n != fresh) {
                (void)take_from(&m->main, m->hand);
        } else {
                it->uses = 0;
                m->hand++;
        }
        m->hand = m->hand < m->main.count ? m->hand : 0;
}

static void model_s3fifo_step(struct model *m, unsigned fresh)
{
        bool main_is_done =
                m->main.count == 0 || (m->main.count == 1 && m->main.items[0].n == fresh);
        bool small = bytes_of(&m->small) > m->capacity / 10 || main_is_done;
        struct item it = take_from(small ? &m->small : &m->main, 0);
        if (small && (it.uses >= 2 || it.n == fresh)) {
                it.uses = 0;
                push(&m->main, it);
        } else if (small) {
                model_haunt(m, it);
        } else if (it.uses > 0 || it.n == fresh) {
                it.uses -= it.uses > 0;
                push(&m->main, it);
        }
}

static void model_shrink(struct model *m, unsigned fresh)
{
        while (bytes_of(&m->main) + bytes_of(&m->small) > m->capacity) {
                if (m->kind == TIER_EVICT_LRU)
                        (void)take_from(&m->main, 0);
                else if (m->kind == TIER_EVICT_SIEVE)
                        model_sieve_step(m, fresh);
                else
                        model_s3fifo_step(m, fresh);
        }
}

static void model_admit(struct model *m, unsigned n, uint64_t bytes)
{
        if (model_has(m, n) || bytes > m->capacity)
                return;
        size_t ghost = place_in(&m->ghosts, n);
        bool was_ghost = ghost < m->ghosts.count;
        if (was_ghost)
                (void)take_from(&m->ghosts, ghost);
        if (m->kind == TIER_EVICT_TINYLFU) {
                model_tinylfu_admit(m, (struct item){n, bytes, 0}, was_ghost);
                return;
        }
        push(m->kind == TIER_EVICT_S3FIFO && !was_ghost ? &m->small : &m->main,
             (struct item){n, bytes, 0});
        model_shrink(m, n);
}

static void model_remove(struct model *m, unsigned n)
{
        size_t i = place_in(&m->main, n), j = place_in(&m->small, n), k = place_in(&m->ghosts, n);
        size_t l = place_in(&m->protected, n);
        if (i < m->main.count)
                model_take_main(m, i);
        if (j < m->small.count)
                (void)take_from(&m->small, j);
        if (k < m->ghosts.count)
                (void)take_from(&m->ghosts, k);
        if (l < m->protected.count)
                (void)take_from(&m->protected, l);
}

static void compare_with_model(enum tier_evictor_kind kind, bool equal)
{
        static struct model m;
        memset(&m, 0, sizeof(m));
        m.kind = kind;
        m.capacity = 8000;
        random_state = 0xabcdef + kind;
        struct tier_evictor *p = tier_evictor_new(kind, m.capacity, 200);
        m.hashes = p;
        tier_sketch_init(&m.sketch, m.capacity / 200);
        for (unsigned i = 0; i < OPERATIONS / 2; i++) {
                unsigned n = random_key(), what = (unsigned)(next_random() % 100);
                struct tier_key key = key_of(n);
                if (what >= 2)
                        tier_sketch_note(&m.sketch, hash_of(&m, n));
                if (what < 2) {
                        tier_evictor_remove(p, &key);
                        model_remove(&m, n);
                } else if (tier_evictor_hit(p, &key)) {
                        assert_true(model_has(&m, n));
                        model_hit(&m, n);
                } else {
                        assert_false(model_has(&m, n));
                        (void)tier_evictor_admit(p, &key, size_of(n, equal), false, NULL, NULL);
                        model_admit(&m, n, size_of(n, equal));
                }
                assert_int_equal(tier_evictor_used_bytes(p), model_used(&m));
                struct tier_key any = key_of(i % KEYS);
                assert_int_equal(tier_evictor_has(p, &any), model_has(&m, i % KEYS));
        }
        tier_sketch_release(&m.sketch);
        tier_evictor_free(p);
}

static void lru_is_as_its_model(void **state CAS_UNUSED)
{
        compare_with_model(TIER_EVICT_LRU, true);
        compare_with_model(TIER_EVICT_LRU, false);
}

static void s3fifo_is_as_its_model(void **state CAS_UNUSED)
{
        compare_with_model(TIER_EVICT_S3FIFO, true);
        compare_with_model(TIER_EVICT_S3FIFO, false);
}

static void sieve_is_as_its_model(void **state CAS_UNUSED)
{
        compare_with_model(TIER_EVICT_SIEVE, true);
        compare_with_model(TIER_EVICT_SIEVE, false);
}

static void tinylfu_is_as_its_model(void **state CAS_UNUSED)
{
        compare_with_model(TIER_EVICT_TINYLFU, true);
        compare_with_model(TIER_EVICT_TINYLFU, false);
}

/* A sketch never says less than was noted, as long as it has not halved. */
static void the_sketch_counts(void **state CAS_UNUSED)
{
        struct tier_sketch s;
        unsigned noted[1000] = {0}, wrong = 0;
        random_state = 99;
        tier_sketch_init(&s, 1024);
        for (unsigned i = 0; i < 5000; i++) {
                unsigned n = (unsigned)(next_random() % 100 * (next_random() % 10));
                tier_sketch_note(&s, (uint64_t)n * UINT64_C(0x9e3779b97f4a7c15) ^
                                             (uint64_t)n * UINT64_C(0xbf58476d1ce4e5b9) >> 31);
                noted[n]++;
        }
        tier_sketch_grow(&s, 4096);
        for (unsigned n = 0; n < 1000; n++) {
                unsigned count = tier_sketch_count(
                        &s, (uint64_t)n * UINT64_C(0x9e3779b97f4a7c15) ^
                                    (uint64_t)n * UINT64_C(0xbf58476d1ce4e5b9) >> 31);
                assert_true(count >= cas_min_u64(noted[n], TIER_SKETCH_MAX));
                wrong += count > noted[n];
        }
        assert_true(wrong < 100);
        tier_sketch_release(&s);
}

static void the_sketch_forgets(void **state CAS_UNUSED)
{
        struct tier_sketch s;
        tier_sketch_init(&s, 1024);
        for (unsigned i = 0; i < 20; i++)
                tier_sketch_note(&s, 5);
        assert_int_equal(tier_sketch_count(&s, 5), TIER_SKETCH_MAX);
        random_state = 7;
        for (unsigned i = 0; i < 100000; i++)
                tier_sketch_note(&s, next_random());
        assert_true(tier_sketch_count(&s, 5) < TIER_SKETCH_MAX);
        tier_sketch_release(&s);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(all_policies_keep_their_promises),
                cmocka_unit_test(memory_is_bounded),
                cmocka_unit_test(names),
                cmocka_unit_test(lru_is_as_its_model),
                cmocka_unit_test(s3fifo_is_as_its_model),
                cmocka_unit_test(sieve_is_as_its_model),
                cmocka_unit_test(tinylfu_is_as_its_model),
                cmocka_unit_test(the_sketch_counts),
                cmocka_unit_test(the_sketch_forgets),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
