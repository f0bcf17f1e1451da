/* SPDX-License-Identifier: Apache-2.0 */
/* Regeneration of a blob from its recipe: a stream that begins at any byte, made by several threads
 * ahead of its reader, from the recipe's marks. */
#ifndef CAS_REGEN_H
#define CAS_REGEN_H

#include "cas/store.h"

struct cas_regen;
/* recipe: the object (cas/condense.h tells which). Bytes from `offset` on, in order. threads 0: one
 * per CPU; memory is bounded by a few MiB for each. When the stream was begun at 0 and is read to
 * its end, its last bytes are given only once the digest was compared with `digest`.
 * Errors: NOTFOUND, CORRUPT, IO. */
int cas_regen_open(struct cas_store *s, const struct cas_digest *digest,
                   const struct cas_hash *recipe, uint64_t offset, unsigned threads,
                   struct cas_regen **out, struct cas_err *err) CAS_MUST_CHECK;
uint64_t cas_regen_blob_bytes(const struct cas_regen *g);
/* Blocks until something is there. *out_len 0: the end. One thread at a time. */
int cas_regen_read(struct cas_regen *g, void *buf, size_t len, size_t *out_len,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Stops the threads, whatever is left to do. */
void cas_regen_close(struct cas_regen *g);
CAS_DEFINE_CLEANUP(cas_cleanup_regen_, struct cas_regen *, cas_regen_close);
#define cas_cleanup_regen __attribute__((cleanup(cas_cleanup_regen_)))

#endif
