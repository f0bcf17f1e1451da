/* SPDX-License-Identifier: Apache-2.0 */
/* Leases as the store has them in memory, for collection to ask. Private to cas. */
#ifndef CAS_LEASE_INT_H
#define CAS_LEASE_INT_H

#include "cas/lease.h"

struct cas_leases;
struct cas_leases *cas_leases_new(void);
void cas_leases_free(struct cas_leases *l);
/* Reads them from the index: once, while the store is opened. */
int cas_leases_load(struct cas_store *s, struct cas_err *err) CAS_MUST_CHECK;
/* Drops those that had expired before `now`; *dropped: how many. Errors: CORRUPT, after that, when
 * one could not be read at opening: as long as it is there everything counts as leased. */
int cas_leases_expire(struct cas_store *s, uint64_t now_unix_s, uint64_t *dropped,
                      struct cas_err *err) CAS_MUST_CHECK;

#endif
