/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/damage_int.h"

#include "cas/mutex.h"
#include "cas/scrub.h"
#include "cas/store_int.h"

struct cas_damages {
        struct cas_mutex mutex; /* "damages", a leaf; guards all below */
        size_t count;
        struct cas_damage_note list[CAS_DAMAGES_MAX]; /* oldest first */
};

struct cas_damages *cas_damages_new(void)
{
        struct cas_damages *d = cas_xcalloc(1, sizeof(*d));
        cas_mutex_init(&d->mutex, "damages");
        return d;
}

void cas_damages_free(struct cas_damages *d)
{
        if (!d)
                return;
        cas_mutex_release(&d->mutex);
        free(d);
}

static bool is_same(const struct cas_damage_note *a, const struct cas_damage_note *b)
{
        if (a->is_blob != b->is_blob)
                return false;
        return a->is_blob ? cas_digest_equal(&a->blob, &b->blob)
                          : cas_hash_equal(&a->chunk, &b->chunk);
}

static void note(struct cas_damages *d, const struct cas_damage_note *damage)
{
        if (!d)
                return; /* packs without a store around them */
        cas_mutex_lock(&d->mutex);
        bool known = d->count == CAS_DAMAGES_MAX;
        for (size_t i = 0; i < d->count && !known; i++)
                known = is_same(&d->list[i], damage);
        if (!known)
                d->list[d->count++] = *damage;
        cas_mutex_unlock(&d->mutex);
}

void cas_damage_note_chunk(struct cas_store *s, const struct cas_hash *chunk)
{
        const struct cas_damage_note damage = {.chunk = *chunk};
        note(s->damages, &damage);
}

void cas_damage_note_blob(struct cas_store *s, const struct cas_digest *blob)
{
        const struct cas_damage_note damage = {.is_blob = true, .blob = *blob};
        note(s->damages, &damage);
}

size_t cas_damage_take(struct cas_store *s, struct cas_damage_note *out, size_t max)
{
        struct cas_damages *d = s->damages;
        cas_mutex_lock(&d->mutex);
        size_t n = cas_min_u64(max, d->count);
        memcpy(out, d->list, n * sizeof(out[0]));
        d->count -= n;
        memmove(d->list, d->list + n, d->count * sizeof(out[0]));
        cas_mutex_unlock(&d->mutex);
        return n;
}

uint64_t cas_scrub_noted(struct cas_store *s)
{
        cas_mutex_lock(&s->damages->mutex);
        uint64_t count = s->damages->count;
        cas_mutex_unlock(&s->damages->mutex);
        return count;
}
