/* SPDX-License-Identifier: Apache-2.0 */
/* One pass of scrub at a time. Who has no pace goes before who has one: a paced pass ends where it
 * is, and its place is kept. Private to cas. */
#ifndef CAS_SCRUBTURN_INT_H
#define CAS_SCRUBTURN_INT_H

#include "cas/store.h"

struct cas_scrub_turn;
struct cas_scrub_turn *cas_scrub_turn_new(void);
void cas_scrub_turn_free(struct cas_scrub_turn *t);
/* Waits for the turn. False: stop() said so meanwhile. */
bool cas_scrub_turn_take(struct cas_store *s, bool hurries, bool (*stop)(void *arg), void *arg);
void cas_scrub_turn_give(struct cas_store *s);
/* Whether who has the turn should give it to somebody in a hurry. */
bool cas_scrub_turn_is_wanted(struct cas_store *s);

#endif
