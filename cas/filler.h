/* SPDX-License-Identifier: Apache-2.0 */
/* The background of lazy mounts: a thread of the store's owner that brings what
 * has not come yet of layers that are elsewhere (spec/lazy.md), first what
 * earlier starts of their images have read, in that order, and makes them
 * ordinary layers; and that notes in which order files of images are first read.
 * Readers go first. It may be ended at any time, and a later one goes on. */
#ifndef CAS_FILLER_H
#define CAS_FILLER_H

#include "cas/store.h"

struct cas_filler;
struct cas_filler *cas_filler_start(struct cas_store *s);
/* Ends bringing altogether: readers of what is not here get errors from now on. Waits for the
 * request that is under way. NULL is fine. */
void cas_filler_stop(struct cas_filler *f);

#endif
