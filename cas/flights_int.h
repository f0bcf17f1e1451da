/* SPDX-License-Identifier: Apache-2.0 */
/* The regenerations that are under way in a store (cas/blobstream.c). */
#ifndef CAS_FLIGHTS_INT_H
#define CAS_FLIGHTS_INT_H

#include "cas/store.h"

struct cas_flights;
/* max: regenerations at a time; threads: of one that is alone (0: one per CPU). Many have fewer. */
struct cas_flights *cas_flights_new(struct cas_store *s, unsigned max, unsigned threads);
/* Breaks off and waits for all of them. No stream may be open. */
void cas_flights_free(struct cas_flights *f);
#endif
