/* SPDX-License-Identifier: Apache-2.0 */
/* Leases keep things alive that no name holds: mounts, uploads, pulls under
 * way. Persistent; each has an owner text, a kind and an expiry. */
#ifndef CAS_LEASE_H
#define CAS_LEASE_H

#include "cas/store.h"

struct cas_lease {
        char id[128];            /* chosen by the caller, e.g. "mount:<uuid>" */
        struct cas_digest root;  /* manifest, blob or layer that is kept with all it refers to */
        uint64_t expires_unix_s; /* 0: never */
        char owner[256];         /* for people: "pid 12 boot …", a path */
};
/* Durable on return; replaces a lease of the same id. Take the lease first, then look whether the
 * root is there: what is found then stays. Errors: INVALID. */
int cas_lease_put(struct cas_store *s, const struct cas_lease *lease,
                  struct cas_err *err) CAS_MUST_CHECK;
/* Absent is success. */
int cas_lease_drop(struct cas_store *s, const char *id, struct cas_err *err) CAS_MUST_CHECK;
int cas_lease_each(struct cas_store *s, bool (*fn)(void *arg, const struct cas_lease *lease),
                   void *arg, struct cas_err *err) CAS_MUST_CHECK;

#endif
