/* SPDX-License-Identifier: Apache-2.0 */
/* Pins of operations, and the gate through which they come and go.
 *
 * Invariant: with the gate closed no set changes, nor does the list of sets. So a set is changed
 * only with the gate passed (shared) and under its own mutex, and read with either of the two.
 * A set joins the list with its first name; one that stays empty costs nothing.
 *
 * Names lie in open-addressed tables, 10 to 15 bytes each: linear probing from a place that a
 * secret factor decides, so that no input can choose long runs. When there are too many, or no
 * memory for more, a set pins everything of the kind. */
#include "cas/pins_int.h"

#include <sys/random.h>

#include "cas/mutex.h"
#include "cas/store_int.h"

#define TABLE_SLOTS_MIN 8

enum pin_kind { PIN_BLOB, PIN_OBJECT, PIN_CHUNK, PIN_KINDS };

struct table {
        uint64_t *slots; /* owned; 0: empty */
        size_t slot_count;
        size_t count;
        bool all; /* everything is in it; slots is NULL */
};

struct cas_gate {
        struct cas_rwlock lock; /* "gate": read by who pins or frees, written by collection */
        _Atomic(bool) closed;
        _Atomic(pthread_t) closer; /* while closed */
        uint64_t secret;           /* odd; fixed */

        struct cas_mutex sets_mutex; /* "pins.sets", taken with the gate passed; guards: */
        struct cas_pins *sets;
};

struct cas_pins {
        struct cas_store *store;
        struct cas_mutex mutex; /* "pins"; guards the tables and listed */
        struct table tables[PIN_KINDS];
        bool listed;
        struct cas_pins *next, **link; /* guarded by sets_mutex */
};

/* ---- tables ---- */

/* Not from the start of the name: keys that are chosen to share a prefix shall not be one. */
static uint64_t bits_of(const uint8_t *name)
{
        uint64_t bits = cas_get_le64(name + 8) ^ cas_get_le64(name + 24);
        return bits ? bits : 1;
}

/* The slot that holds bits, or the empty one where they belong. */
static size_t table_at(const struct table *t, uint64_t secret, uint64_t bits)
{
        uint64_t spread = bits * secret;
        size_t at = (size_t)(((unsigned __int128)spread * t->slot_count) >> 64);
        while (t->slots[at] != 0 && t->slots[at] != bits) {
                if (++at == t->slot_count)
                        at = 0;
        }
        return at;
}

static bool table_has(const struct table *t, uint64_t secret, uint64_t bits)
{
        return t->all || (t->count > 0 && t->slots[table_at(t, secret, bits)] != 0);
}

static void table_set_all(struct table *t)
{
        free(t->slots);
        *t = (struct table){.all = true};
}

/* Filled to four fifths, a table is made half as large again; or everything is in it from now on.
 */
static void table_grow(struct table *t, uint64_t secret)
{
        size_t wanted = t->slot_count ? t->slot_count + t->slot_count / 2 : TABLE_SLOTS_MIN;
        struct table bigger = {.slot_count = wanted, .count = t->count};
        bigger.slots = t->count < CAS_PINS_MAX ? calloc(wanted, sizeof(bigger.slots[0])) : NULL;
        if (!bigger.slots) {
                table_set_all(t);
                return;
        }
        for (size_t i = 0; i < t->slot_count; i++) {
                if (t->slots[i])
                        bigger.slots[table_at(&bigger, secret, t->slots[i])] = t->slots[i];
        }
        free(t->slots);
        *t = bigger;
}

static void table_add(struct table *t, uint64_t secret, uint64_t bits)
{
        if (table_has(t, secret, bits))
                return;
        if (t->count >= CAS_PINS_MAX || t->count * 5 >= t->slot_count * 4)
                table_grow(t, secret);
        if (t->all)
                return;
        t->slots[table_at(t, secret, bits)] = bits;
        t->count++;
}

static void table_join(struct table *to, const struct table *from, uint64_t secret)
{
        if (from->all && !to->all)
                table_set_all(to);
        for (size_t i = 0; i < from->slot_count && !to->all; i++) {
                if (from->slots[i])
                        table_add(to, secret, from->slots[i]);
        }
}

/* ---- the gate ---- */

struct cas_gate *cas_gate_new(void)
{
        struct cas_gate *g = cas_xcalloc(1, sizeof(*g));
        cas_rwlock_init(&g->lock, "gate");
        cas_mutex_init(&g->sets_mutex, "pins.sets");
        ssize_t n = getrandom(&g->secret, sizeof(g->secret), 0);
        cas_assert(n == (ssize_t)sizeof(g->secret));
        g->secret |= 1;
        return g;
}

void cas_gate_free(struct cas_gate *g)
{
        if (!g)
                return;
        cas_assert(!g->sets);
        cas_rwlock_release(&g->lock);
        cas_mutex_release(&g->sets_mutex);
        free(g);
}

static bool gate_is_mine(const struct cas_gate *g)
{
        return atomic_load_explicit(&g->closed, memory_order_acquire) &&
               pthread_equal(atomic_load_explicit(&g->closer, memory_order_relaxed),
                             pthread_self());
}

void cas_gate_enter(struct cas_store *s)
{
        cas_assert(!gate_is_mine(s->gate));
        cas_rwlock_read(&s->gate->lock);
}

void cas_gate_leave(struct cas_store *s)
{
        cas_rwlock_unlock(&s->gate->lock);
}

void cas_gate_close(struct cas_store *s)
{
        struct cas_gate *g = s->gate;
        cas_assert(!gate_is_mine(g));
        cas_rwlock_write(&g->lock);
        atomic_store_explicit(&g->closer, pthread_self(), memory_order_relaxed);
        atomic_store_explicit(&g->closed, true, memory_order_release);
}

void cas_gate_open(struct cas_store *s)
{
        struct cas_gate *g = s->gate;
        cas_assert(gate_is_mine(g));
        atomic_store_explicit(&g->closed, false, memory_order_release);
        cas_rwlock_unlock(&g->lock);
}

bool cas_gate_is_mine(const struct cas_store *s)
{
        return gate_is_mine(s->gate);
}

/* ---- sets ---- */

struct cas_pins *cas_pins_new(struct cas_store *s)
{
        struct cas_pins *p = cas_xcalloc(1, sizeof(*p));
        p->store = s;
        cas_mutex_init(&p->mutex, "pins");
        return p;
}

static void unlist(struct cas_pins *p)
{
        struct cas_gate *g = p->store->gate;
        cas_gate_enter(p->store);
        cas_mutex_lock(&g->sets_mutex);
        *p->link = p->next;
        if (p->next)
                p->next->link = p->link;
        cas_mutex_unlock(&g->sets_mutex);
        cas_gate_leave(p->store);
}

void cas_pins_free(struct cas_pins *p)
{
        if (!p)
                return;
        if (p->listed)
                unlist(p);
        for (unsigned k = 0; k < PIN_KINDS; k++)
                free(p->tables[k].slots);
        cas_mutex_release(&p->mutex);
        free(p);
}

/* With the gate passed. */
static void list_locked(struct cas_pins *p)
{
        struct cas_gate *g = p->store->gate;
        cas_assert_held(&p->mutex);
        if (p->listed)
                return;
        p->listed = true;
        cas_mutex_lock(&g->sets_mutex);
        p->next = g->sets;
        p->link = &g->sets;
        if (p->next)
                p->next->link = &p->next;
        g->sets = p;
        cas_mutex_unlock(&g->sets_mutex);
}

static void pin(struct cas_pins *p, enum pin_kind kind, const uint8_t *name)
{
        cas_gate_enter(p->store);
        cas_mutex_lock(&p->mutex);
        list_locked(p);
        table_add(&p->tables[kind], p->store->gate->secret, bits_of(name));
        cas_mutex_unlock(&p->mutex);
        cas_gate_leave(p->store);
}

void cas_pin_blob(struct cas_pins *p, const struct cas_digest *blob)
{
        pin(p, PIN_BLOB, blob->bytes);
}

void cas_pin_object(struct cas_pins *p, const struct cas_hash *object)
{
        pin(p, PIN_OBJECT, object->bytes);
}

void cas_pin_chunk(struct cas_pins *p, const struct cas_hash *chunk)
{
        pin(p, PIN_CHUNK, chunk->bytes);
}

/* The names of `from` as they are now. Owned. */
static void copy_tables(struct cas_pins *from, struct table out[PIN_KINDS])
{
        cas_mutex_lock(&from->mutex);
        for (unsigned k = 0; k < PIN_KINDS; k++) {
                out[k] = from->tables[k];
                size_t bytes = out[k].slot_count * sizeof(out[k].slots[0]);
                out[k].slots = bytes > 0 ? malloc(bytes) : NULL;
                if (out[k].slots)
                        memcpy(out[k].slots, from->tables[k].slots, bytes);
                else if (bytes > 0)
                        out[k] = (struct table){.all = true}; /* no memory */
        }
        cas_mutex_unlock(&from->mutex);
}

void cas_pins_join(struct cas_pins *to, struct cas_pins *from)
{
        struct table tables[PIN_KINDS];
        cas_assert(to != from && to->store == from->store);
        copy_tables(from, tables);
        cas_gate_enter(to->store);
        cas_mutex_lock(&to->mutex);
        list_locked(to);
        for (unsigned k = 0; k < PIN_KINDS; k++)
                table_join(&to->tables[k], &tables[k], to->store->gate->secret);
        cas_mutex_unlock(&to->mutex);
        cas_gate_leave(to->store);
        for (unsigned k = 0; k < PIN_KINDS; k++)
                free(tables[k].slots);
}

/* ---- asking ---- */

static bool is_pinned(const struct cas_gate *g, enum pin_kind kind, const uint8_t *name)
{
        const uint64_t bits = bits_of(name);
        cas_assert(gate_is_mine(g));
        for (const struct cas_pins *p = g->sets; p; p = p->next) {
                if (table_has(&p->tables[kind], g->secret, bits))
                        return true;
        }
        return false;
}

bool cas_blob_is_pinned(struct cas_store *s, const struct cas_digest *blob)
{
        return is_pinned(s->gate, PIN_BLOB, blob->bytes);
}

bool cas_object_is_pinned(struct cas_store *s, const struct cas_hash *object)
{
        return is_pinned(s->gate, PIN_OBJECT, object->bytes);
}

bool cas_chunk_is_pinned(struct cas_store *s, const struct cas_hash *chunk)
{
        return is_pinned(s->gate, PIN_CHUNK, chunk->bytes);
}
