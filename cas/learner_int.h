/* SPDX-License-Identifier: Apache-2.0 */
/* Noting in which order the files of images are first read. Private to cas. */
#ifndef CAS_LEARNER_INT_H
#define CAS_LEARNER_INT_H

#include "cas/order.h"

struct cas_learner;
struct cas_learner *cas_learner_new(void);
void cas_learner_free(struct cas_learner *l);
/* Keeps what was learned of images whose time is over. By one thread. */
void cas_learner_tick(struct cas_store *s);

/* Calls fn for each file with an object of the image's layers, here or elsewhere, lowest first. */
int cas_order_each_file(struct cas_store *s, const struct cas_digest *manifest,
                        void (*fn)(void *arg, const struct cas_entry *file), void *arg,
                        struct cas_err *err) CAS_MUST_CHECK;

#endif
