/* SPDX-License-Identifier: Apache-2.0 */
/* Damage that readers met: noted in memory, for the next scrub to look at first. Private to cas.
 * Thread-safe; what is noted again while it waits is one note, and beyond CAS_DAMAGES_MAX nothing
 * more is noted: a scrub finds the rest. */
#ifndef CAS_DAMAGE_INT_H
#define CAS_DAMAGE_INT_H

#include "cas/digest.h"
#include "cas/store.h"

#define CAS_DAMAGES_MAX 256

struct cas_damage_note {
        bool is_blob;           /* whose recipe does not make it; else a chunk */
        struct cas_digest blob; /* is_blob */
        struct cas_hash chunk;  /* else */
};
struct cas_damages;
struct cas_damages *cas_damages_new(void);
void cas_damages_free(struct cas_damages *d);

void cas_damage_note_chunk(struct cas_store *s, const struct cas_hash *chunk);
void cas_damage_note_blob(struct cas_store *s, const struct cas_digest *blob);
/* Takes up to max notes away, oldest first; how many. */
size_t cas_damage_take(struct cas_store *s, struct cas_damage_note *out, size_t max);

#endif
