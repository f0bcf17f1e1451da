/* SPDX-License-Identifier: Apache-2.0 */
/* Remembers when tags are pushed and pulled, and writes it down now and then
 * (cas/tagtimes.h): losing some minutes of it makes tags look older, by as much.
 * Pulls of one tag within a minute count as one, so that popular tags cost
 * nothing. Thread-safe. */
#ifndef REG_TAGCLOCK_H
#define REG_TAGCLOCK_H

#include "cas/tagtimes.h"
#include "registry/events.h"

struct reg_tagclock;
/* Listens to events. The store is borrowed. */
struct reg_tagclock *reg_tagclock_new(struct cas_store *store, struct reg_events *events);
/* Writes what is remembered. NULL is nothing. */
void reg_tagclock_free(struct reg_tagclock *c);
/* Writes what is remembered; blocks. */
int reg_tagclock_write(struct reg_tagclock *c, struct cas_err *err) CAS_MUST_CHECK;
/* What is written, and what is only remembered. Errors: NOTFOUND, IO. */
int reg_tagclock_get(struct reg_tagclock *c, const char *repo, const char *tag,
                     const struct cas_digest *manifest, struct cas_tag_times *out,
                     struct cas_err *err) CAS_MUST_CHECK;

#endif
