/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/lockorder_int.h"

#ifdef CAS_LOCK_ORDER

#include <stdatomic.h>
#include <stdio.h>

#include "cas/mutex.h"

#define CLASSES_MAX 192
#define HELD_MAX 32
#define WORDS (CLASSES_MAX / 64)
#define TEXT_BYTES 512

struct class
{
        const char *name;
        unsigned rank; /* 0: of none in the table */
};

/* `graph` guards what follows; who wants it turns, since it is neither to be checked nor to be seen
 * by schedulers, and rare. Classes and edges are only ever added, so both are also read without. */
static atomic_flag graph = ATOMIC_FLAG_INIT;
static struct class classes[CLASSES_MAX];
static _Atomic(unsigned) class_count;
/* inside[a][b]: b was taken while a was held. */
static _Atomic(bool) inside[CLASSES_MAX][CLASSES_MAX];
static char *held_then[CLASSES_MAX][CLASSES_MAX]; /* what was held then; owned */
static uint64_t reach[CLASSES_MAX][WORDS];        /* over any number of such steps */

struct held {
        const void *lock;
        unsigned class;
};
static _Thread_local struct held held[HELD_MAX];
static _Thread_local unsigned held_count;

static const struct class ranks[] = {
#define RANK(NUMBER, NAME) {.name = NAME, .rank = NUMBER},
        CAS_LOCK_RANKS(RANK)
#undef RANK
};

static void graph_lock(void)
{
        while (atomic_flag_test_and_set_explicit(&graph, memory_order_acquire))
                ;
}

/* ---- classes ---- */

static bool class_find(const char *name, unsigned *out)
{
        unsigned count = atomic_load_explicit(&class_count, memory_order_acquire);
        for (unsigned i = 0; i < count; i++)
                if (classes[i].name == name || strcmp(classes[i].name, name) == 0) {
                        *out = i;
                        return true;
                }
        return false;
}

static unsigned rank_of(const char *name)
{
        for (size_t i = 0; i < CAS_COUNT(ranks); i++)
                if (strcmp(ranks[i].name, name) == 0)
                        return ranks[i].rank;
        return 0;
}

static void link_locked(unsigned outer, unsigned inner);

static unsigned class_add_locked(const char *name)
{
        unsigned n;
        if (class_find(name, &n))
                return n;
        n = atomic_load(&class_count);
        cas_assert(n < CLASSES_MAX);
        classes[n] = (struct class){.name = name, .rank = rank_of(name)};
        /* What the table says of it is as if it had happened. */
        for (unsigned i = 0; i < n && classes[n].rank; i++) {
                if (classes[i].rank && classes[i].rank < classes[n].rank)
                        link_locked(i, n);
                else if (classes[i].rank > classes[n].rank)
                        link_locked(n, i);
        }
        atomic_store_explicit(&class_count, n + 1, memory_order_release);
        return n;
}

static unsigned class_of(const char *name)
{
        unsigned n;
        if (class_find(name, &n))
                return n;
        graph_lock();
        n = class_add_locked(name);
        atomic_flag_clear_explicit(&graph, memory_order_release);
        return n;
}

/* ---- what lies inside of what ---- */

static bool reaches(unsigned from, unsigned to)
{
        return reach[from][to / 64] >> (to % 64) & 1;
}

static void link_locked(unsigned outer, unsigned inner)
{
        for (unsigned i = 0; i < CLASSES_MAX; i++) {
                if (i != outer && !reaches(i, outer))
                        continue;
                for (unsigned w = 0; w < WORDS; w++)
                        reach[i][w] |= reach[inner][w];
                reach[i][inner / 64] |= UINT64_C(1) << (inner % 64);
        }
}

static void held_text(char out[TEXT_BYTES], const char *last)
{
        size_t len = 0;
        out[0] = '\0';
        for (unsigned i = 0; i <= held_count && len < TEXT_BYTES; i++) {
                const char *name = i < held_count ? classes[held[i].class].name : last;
                int n = snprintf(out + len, TEXT_BYTES - len, "%s%s", i ? " > " : "", name);
                len += n > 0 ? (size_t)n : 0;
        }
}

/* The steps from one class to another that have led there, the shortest way. */
static void tell_way_locked(unsigned from, unsigned to)
{
        unsigned via[CLASSES_MAX], queue[CLASSES_MAX], head = 0, tail = 0;
        bool seen[CLASSES_MAX] = {false};
        queue[tail++] = to; /* backwards, so that the way comes out forwards */
        seen[to] = true;
        while (head < tail && !seen[from]) {
                unsigned inner = queue[head++];
                for (unsigned i = 0; i < atomic_load(&class_count); i++) {
                        bool ranked = classes[i].rank && classes[i].rank < classes[inner].rank;
                        if (seen[i] || !(ranked || atomic_load(&inside[i][inner])))
                                continue;
                        seen[i] = true;
                        via[i] = inner;
                        queue[tail++] = i;
                }
        }
        for (unsigned i = from; seen[from] && i != to; i = via[i])
                (void)fprintf(stderr, "  before: %s\n",
                              held_then[i][via[i]] ? held_then[i][via[i]]
                                                   : "cas/mutex.h has it so");
}

CAS_NORETURN static void violation_locked(unsigned outer, unsigned inner)
{
        char now[TEXT_BYTES];
        held_text(now, classes[inner].name);
        (void)fprintf(stderr, "lock order: %s is taken while %s is held\n  now:    %s\n",
                      classes[inner].name, classes[outer].name, now);
        if (outer == inner)
                (void)fprintf(stderr, "  two locks of one class\n");
        else if (classes[outer].rank && classes[outer].rank == classes[inner].rank)
                (void)fprintf(stderr, "  before: cas/mutex.h: both have rank %u\n",
                              classes[outer].rank);
        else
                tell_way_locked(inner, outer);
        abort();
}

static void note_inside(unsigned outer, unsigned inner)
{
        if (atomic_load_explicit(&inside[outer][inner], memory_order_acquire))
                return;
        graph_lock();
        bool same_rank = classes[outer].rank && classes[outer].rank == classes[inner].rank;
        if (outer == inner || same_rank || reaches(inner, outer))
                violation_locked(outer, inner);
        if (!held_then[outer][inner]) {
                char text[TEXT_BYTES];
                held_text(text, classes[inner].name);
                held_then[outer][inner] = cas_xstrdup(text);
                link_locked(outer, inner);
        }
        atomic_store_explicit(&inside[outer][inner], true, memory_order_release);
        atomic_flag_clear_explicit(&graph, memory_order_release);
}

void cas_lock_order_take(const void *lock, const char *name)
{
        unsigned class = class_of(name);
        for (unsigned i = 0; i < held_count; i++)
                note_inside(held[i].class, class);
        cas_assert(held_count < HELD_MAX);
        held[held_count++] = (struct held){.lock = lock, .class = class};
}

void cas_lock_order_drop(const void *lock)
{
        unsigned i = held_count;
        while (i > 0 && held[i - 1].lock != lock)
                i--;
        cas_assert(i > 0);
        memmove(&held[i - 1], &held[i], (held_count - i) * sizeof(held[0]));
        held_count--;
}

#endif
