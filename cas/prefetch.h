/* SPDX-License-Identifier: Apache-2.0 */
/* What an image will read first, by the order that earlier starts were seen to read it in
 * (cas/order.h), is brought to where it is read fast when it is mounted from a slow tier or a
 * bucket. In the background, in pieces that keep readers waiting for a few milliseconds at most;
 * advice alone, and nothing where there is one tier or nothing was learned. Thread-safe. */
#ifndef CAS_PREFETCH_H
#define CAS_PREFETCH_H

#include "cas/store.h"

/* The image is being mounted; repo may be NULL. Cheap; forgotten when many wait. */
void cas_prefetch_image(struct cas_store *s, const char *repo, const struct cas_digest *manifest);
/* Waits until nothing is to be done. */
void cas_prefetch_wait(struct cas_store *s);

#endif
