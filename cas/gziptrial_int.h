/* SPDX-License-Identifier: Apache-2.0 */
/* Which encoders may have made a gzip member: candidates in the order of what its header and its
 * first blocks look like, each tried on its first bytes before it is named. One thread. Private to
 * cas. */
#ifndef CAS_GZIPTRIAL_INT_H
#define CAS_GZIPTRIAL_INT_H

#include "cas/gzipreplay_int.h"

struct cas_gziptrial;
/* The member's header begins at blob_offset, and its stream header_bytes further.
 * Errors: CORRUPT (no deflate), IO. */
int cas_gziptrial_new(const struct cas_wrap_input *in, uint64_t blob_offset, size_t header_bytes,
                      struct cas_gziptrial **out, struct cas_err *err) CAS_MUST_CHECK;
void cas_gziptrial_free(struct cas_gziptrial *t);
CAS_DEFINE_CLEANUP(cas_cleanup_gziptrial_, struct cas_gziptrial *, cas_gziptrial_free);
#define cas_cleanup_gziptrial __attribute__((cleanup(cas_cleanup_gziptrial_)))
/* The next candidate that makes the first bytes. False: no more. */
bool cas_gziptrial_next(struct cas_gziptrial *t, struct cas_gzip_coder *out);

#endif
