/* SPDX-License-Identifier: Apache-2.0 */
/* A large blob over several connections: ranges of it arrive side by side, and
 * are given out in order. Where the registry serves no ranges, or the blob is
 * small, it is one stream. Memory: streams * REG_STRIPE_BYTES. One thread uses it. */
#ifndef REG_STRIPES_H
#define REG_STRIPES_H

#include "registry/remote.h"

#define REG_STRIPE_BYTES ((size_t)4 * 1024 * 1024)
#define REG_STRIPES_BLOB_BYTES_MIN (UINT64_C(4) * REG_STRIPE_BYTES) /* less is not divided */

struct reg_stripes;
/* From offset to size, which is the blob's. streams: at a time. Errors: of reg_remote_blob_open. */
int reg_stripes_open(struct reg_remote *r, const char *repo, const struct cas_digest *digest,
                     uint64_t offset, uint64_t size, unsigned streams, struct reg_stripes **out,
                     struct cas_err *err) CAS_MUST_CHECK;
/* A cas_source_fn. Errors: CORRUPT (another length than size), and those of a remote blob. */
int reg_stripes_read(void *stripes, void *buf, size_t len, size_t *out_len,
                     struct cas_err *err) CAS_MUST_CHECK;
void reg_stripes_close(struct reg_stripes *s);
CAS_DEFINE_CLEANUP(reg_cleanup_stripes_, struct reg_stripes *, reg_stripes_close);
#define reg_cleanup_stripes __attribute__((cleanup(reg_cleanup_stripes_)))

#endif
