/* SPDX-License-Identifier: Apache-2.0 */
/* Hashes a stream on a thread of its own while its owner goes on using the
 * same bytes: a ring of buffers that the owner fills one after the other. */
#ifndef CAS_HASHPIPE_H
#define CAS_HASHPIPE_H

#include "cas/digest.h"

#define CAS_HASHPIPE_BUFFER_BYTES (512 * 1024)

struct cas_hashpipe;
/* SHA-256. Errors: what pthread_create(3) says. */
int cas_hashpipe_new(struct cas_hashpipe **out, struct cas_err *err) CAS_MUST_CHECK;
/* Waits for the thread. */
void cas_hashpipe_free(struct cas_hashpipe *p);
CAS_DEFINE_CLEANUP(cas_cleanup_hashpipe_, struct cas_hashpipe *, cas_hashpipe_free);
#define cas_cleanup_hashpipe __attribute__((cleanup(cas_cleanup_hashpipe_)))

/* A buffer to fill, of CAS_HASHPIPE_BUFFER_BYTES. Blocks until one is free: the one before stays
 * readable until the call after this. */
uint8_t *cas_hashpipe_buffer(struct cas_hashpipe *p);
/* Gives the first len bytes of that buffer to be hashed. They must not change any more. */
void cas_hashpipe_put(struct cas_hashpipe *p, size_t len);
/* The digest of all that was put. */
void cas_hashpipe_final(struct cas_hashpipe *p, struct cas_digest *out);

#endif
