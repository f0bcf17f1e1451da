/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes that are put aside while something is made: in memory up to a bound, then in a file without
 * a name in STORE/uploads, which is gone after a crash. Appended by one thread; read by any. */
#ifndef CAS_SPOOL_H
#define CAS_SPOOL_H

#include "cas/store.h"

struct cas_spool;
struct cas_spool *cas_spool_new(struct cas_store *s);
void cas_spool_free(struct cas_spool *sp);
CAS_DEFINE_CLEANUP(cas_cleanup_spool_, struct cas_spool *, cas_spool_free);
#define cas_cleanup_spool __attribute__((cleanup(cas_cleanup_spool_)))
int cas_spool_append(struct cas_spool *sp, const void *data, size_t len,
                     struct cas_err *err) CAS_MUST_CHECK;
uint64_t cas_spool_bytes(const struct cas_spool *sp);
/* Exactly len bytes that were appended before. */
int cas_spool_read(struct cas_spool *sp, uint64_t offset, void *buf, size_t len,
                   struct cas_err *err) CAS_MUST_CHECK;

#endif
