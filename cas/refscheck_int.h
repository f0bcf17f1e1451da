/* SPDX-License-Identifier: Apache-2.0 */
/* References compared with what they should be, while the store is used: each that a record asks
 * for is there, and each that is there has its parent (spec/scrub.md). Thread-safe. Private to cas.
 */
#ifndef CAS_REFSCHECK_INT_H
#define CAS_REFSCHECK_INT_H

#include "cas/refs_int.h"
#include "cas/store_int.h"

/* missing: it should be there, and without it collection may remove what is needed. Else it is
 * superfluous, and only keeps something too long. Both have been seen twice, the second time after
 * the parent was looked at again. */
typedef void (*cas_refs_found_fn)(void *arg, bool missing, const struct cas_reference *ref);
/* Families that this looks at; parents first, then references. */
bool cas_refs_checks(enum cas_family family);
/* One record of such a family, as it was read a while ago. What cannot be read is passed over:
 * others tell of that. Errors: those of the index. */
int cas_refs_check_record(struct cas_store *s, enum cas_family family, const void *key,
                          size_t key_len, const void *value, size_t value_len, cas_refs_found_fn fn,
                          void *arg, struct cas_err *err) CAS_MUST_CHECK;
/* Records of a family from `at` on (inclusive; empty: the first), at most `max` of them. `at` is
 * where to go on then; empty: that was the last. */
int cas_refs_check(struct cas_store *s, enum cas_family family, struct cas_record_key *at,
                   unsigned max, cas_refs_found_fn fn, void *arg,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Puts a missing one, takes a superfluous one away, unless that is not so any more. Durable. */
int cas_refs_repair(struct cas_store *s, bool missing, const struct cas_reference *ref,
                    struct cas_err *err) CAS_MUST_CHECK;
/* For people: family, child, role, parent. Returns out. */
#define CAS_REFERENCE_TEXT_BYTES 512
char *cas_reference_text(const struct cas_reference *ref, char out[CAS_REFERENCE_TEXT_BYTES]);

#endif
