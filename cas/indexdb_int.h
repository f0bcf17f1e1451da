/* SPDX-License-Identifier: Apache-2.0 */
/* The database below the index: RocksDB, opened and kept writable. After an error of I/O RocksDB
 * writes nothing more until it is opened again: that is done here, in the same process, when the
 * next write comes. When it cannot be opened for writing (the disk is full), it is opened for
 * reading meanwhile. Private to cas/index.c.
 *
 * Who uses it is inside, shared (enter, leave); who opens it anew is there alone. A thread that is
 * inside may enter again: what a scan calls may ask the index. Readers go before who opens it anew,
 * which waits for a bounded time only, since it may hold what they wait for. */
#ifndef CAS_INDEXDB_INT_H
#define CAS_INDEXDB_INT_H

#include <rocksdb/c.h>

#include "cas/base.h"
#include "cas/err.h"

#define CAS_INDEXDB_COLUMNS 3

struct cas_indexdb;
/* Errors: as cas_index_open. */
int cas_indexdb_open(const char *path, bool create, struct cas_indexdb **out,
                     struct cas_err *err) CAS_MUST_CHECK;
/* NULL does nothing. */
void cas_indexdb_close(struct cas_indexdb *d);

/* What RocksDB's calls take; borrowed until leave. Errors: IO (it could not be opened anew). */
struct cas_indexdb_open {
        rocksdb_t *db;
        rocksdb_column_family_handle_t *const *columns;
};
int cas_indexdb_enter(struct cas_indexdb *d, struct cas_indexdb_open *out,
                      struct cas_err *err) CAS_MUST_CHECK;
void cas_indexdb_leave(struct cas_indexdb *d);

/* Opens it anew when something failed since it was opened. Errors: what keeps it from being
 * written; it is tried again when some time has passed. BUSY: others are inside for too long, or
 * the thread itself is. */
int cas_indexdb_mend(struct cas_indexdb *d, struct cas_err *err) CAS_MUST_CHECK;
/* A log of before it was opened: all that counts of it is in tables, and its end may be torn. */
bool cas_indexdb_log_is_over(const struct cas_indexdb *d, const char *name);
/* Whether something failed since it was opened. Errors: IO. */
int cas_indexdb_check(struct cas_indexdb *d, struct cas_err *err, const char *doing) CAS_MUST_CHECK;
/* Takes RocksDB's message of a failed write, flush or compaction; returns -code. */
int cas_indexdb_failed(struct cas_indexdb *d, struct cas_err *err, char *message,
                       const char *doing);
/* Of a failed read: the same, and nothing is opened anew because of it. */
int cas_indexdb_fail(struct cas_err *err, char *message, const char *doing);

#endif
