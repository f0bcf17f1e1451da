/* SPDX-License-Identifier: Apache-2.0 */
/* Pins: what an operation under way counts on stays (spec/gc.md). Pin first, look afterwards: what
 * is found then is there until the pins are freed; free them when what refers to the things has
 * been committed. In memory only. Private to cas.
 *
 * A set belongs to one operation, and any of its threads may add to it. It holds 64 bits of each
 * name, 10 to 15 bytes a name; beyond CAS_PINS_MAX names of a kind (or what there is memory for) it
 * pins everything of the kind until it is freed. */
#ifndef CAS_PINS_INT_H
#define CAS_PINS_INT_H

#include "cas/digest.h"
#include "cas/store.h"

#define CAS_PINS_MAX (4U << 20)

struct cas_pins;
/* All sets are freed before the store is closed. */
struct cas_pins *cas_pins_new(struct cas_store *s);
/* Waits for a batch of collection at most, as all of these do. NULL does nothing. */
void cas_pins_free(struct cas_pins *p);
CAS_DEFINE_CLEANUP(cas_cleanup_pins_, struct cas_pins *, cas_pins_free);
#define cas_cleanup_pins __attribute__((cleanup(cas_cleanup_pins_)))
/* Each waits for a batch of collection at most. */
void cas_pin_blob(struct cas_pins *p, const struct cas_digest *blob);
void cas_pin_object(struct cas_pins *p, const struct cas_hash *object);
void cas_pin_chunk(struct cas_pins *p, const struct cas_hash *chunk);
/* All that `from` pins, `to` pins as well. */
void cas_pins_join(struct cas_pins *to, struct cas_pins *from);

/* ---- the gate: for collection ---- */

/* From here to open nobody pins, nor are pins freed, nor roots leased: what was asked in between
 * holds for what is written in between. Keep it short: no sync, no reading of packs. */
void cas_gate_close(struct cas_store *s);
void cas_gate_open(struct cas_store *s);
/* With the gate closed. */
bool cas_blob_is_pinned(struct cas_store *s, const struct cas_digest *blob);
bool cas_object_is_pinned(struct cas_store *s, const struct cas_hash *object);
bool cas_chunk_is_pinned(struct cas_store *s, const struct cas_hash *chunk);
/* Whether it is the root of a lease that has not expired, asked in memory (cas/lease.c). */
bool cas_blob_is_leased(struct cas_store *s, const struct cas_digest *blob);

/* ---- for cas/store.c and cas/lease.c ---- */

struct cas_gate *cas_gate_new(void);
void cas_gate_free(struct cas_gate *g);
/* Passing the gate: what is done in between, collection sees wholly or not at all. Not to be held
 * twice by one thread, nor around anything that waits. */
void cas_gate_enter(struct cas_store *s);
void cas_gate_leave(struct cas_store *s);
/* Whether this thread has closed it. */
bool cas_gate_is_mine(const struct cas_store *s);

#endif
