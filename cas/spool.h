/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes that are put aside while something is made: in memory up to a bound, then in a file without
 * a name in STORE/uploads, which is gone after a crash. One thread appends; any number read what
 * they know to be there, also meanwhile. cas_spool_bytes and truncate are the appender's, or
 * anybody's once nothing is appended any more. */
#ifndef CAS_SPOOL_H
#define CAS_SPOOL_H

#include "cas/store.h"

struct cas_spool;
struct cas_spool *cas_spool_new(struct cas_store *s);
void cas_spool_free(struct cas_spool *sp);
CAS_DEFINE_CLEANUP(cas_cleanup_spool_, struct cas_spool *, cas_spool_free);
#define cas_cleanup_spool __attribute__((cleanup(cas_cleanup_spool_)))
/* Errors: NOSPACE, IO; the spool is of no use then. */
int cas_spool_append(struct cas_spool *sp, const void *data, size_t len,
                     struct cas_err *err) CAS_MUST_CHECK;
uint64_t cas_spool_bytes(const struct cas_spool *sp);
/* Forgets all but the first `bytes` of it. */
void cas_spool_truncate(struct cas_spool *sp, uint64_t bytes);
/* Exactly len bytes that were appended before (asserted). Errors: IO. */
int cas_spool_read(struct cas_spool *sp, uint64_t offset, void *buf, size_t len,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Appends all of `from` to sp. */
int cas_spool_append_spool(struct cas_spool *sp, struct cas_spool *from,
                           struct cas_err *err) CAS_MUST_CHECK;

#endif
