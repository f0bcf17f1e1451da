/* SPDX-License-Identifier: Apache-2.0 */
/* Files of RocksDB as bytes: whether each of them is as it was written. RocksDB itself compares
 * checksums of what it reads, and reads filters, indexes and ends of files once, when it opens
 * them; here every byte is looked at. No state. Private to cas. */
#ifndef CAS_SST_INT_H
#define CAS_SST_INT_H

#include "cas/io.h"

/* XXH3-128 of a whole file. */
#define CAS_TABLE_SUM_BYTES 16
/* A table (block-based, format version 5): its end is well-formed, its blocks follow each other
 * from the file's beginning to that end, and each has its checksum. Errors: CORRUPT, IO, LIMIT. */
int cas_table_verify(const struct cas_io *io, int fd, uint64_t file_bytes, const char *what,
                     uint8_t sum[CAS_TABLE_SUM_BYTES], struct cas_err *err) CAS_MUST_CHECK;
/* A log (WAL or MANIFEST): its records follow each other to its end, and each has its checksum.
 * While it grows, the last may seem to be cut off. Errors: CORRUPT, IO. */
int cas_log_verify(const struct cas_io *io, int fd, const char *what,
                   struct cas_err *err) CAS_MUST_CHECK;

#endif
