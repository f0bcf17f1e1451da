/* SPDX-License-Identifier: Apache-2.0 */
/* fs-verity digests (Linux Documentation/filesystems/fsverity.rst): Merkle tree
 * of SHA-256 over 4 KiB blocks, no salt, wrapped in the descriptor. They name
 * file objects. Incremental, constant memory, not thread-safe per instance. */
#ifndef CAS_VERITY_H
#define CAS_VERITY_H

#include "cas/digest.h"

#define CAS_VERITY_BLOCK_BYTES 4096

struct cas_verity;
struct cas_verity *cas_verity_new(void);
void cas_verity_update(struct cas_verity *v, const void *data, size_t len);
/* Gives the digest and makes the instance ready for the next file. */
void cas_verity_final(struct cas_verity *v, struct cas_hash *out);
void cas_verity_free(struct cas_verity *v);
CAS_DEFINE_CLEANUP(cas_cleanup_verity_, struct cas_verity *, cas_verity_free);
#define cas_cleanup_verity __attribute__((cleanup(cas_cleanup_verity_)))

/* The digest of bytes in memory. */
void cas_verity_of(const void *data, size_t len, struct cas_hash *out);

#endif
