/* SPDX-License-Identifier: Apache-2.0 */
/* A streaming tar reader: v7, ustar, PAX (POSIX.1-2001) and GNU, with long
 * names, sparse files of every kind and xattrs. It gives entries as the tar
 * has them: names are neither cleaned nor interpreted here. Constant memory,
 * but for the headers of one entry (CAS_TAR_HEADER_BYTES_MAX). One thread. */
#ifndef CAS_TAR_H
#define CAS_TAR_H

#include "cas/entry.h"

/* Gives the next piece of the stream, of any length; *len 0 means the end. The bytes are
 * borrowed until the next call. */
typedef int (*cas_tar_source_fn)(void *arg, const uint8_t **data, size_t *len, struct cas_err *err);

struct cas_tar;
int cas_tar_open(cas_tar_source_fn source, void *arg, struct cas_tar **out,
                 struct cas_err *err) CAS_MUST_CHECK;
void cas_tar_close(struct cas_tar *t);
CAS_DEFINE_CLEANUP(cas_cleanup_tar_, struct cas_tar *, cas_tar_close);
#define cas_cleanup_tar __attribute__((cleanup(cas_cleanup_tar_)))

/* The next entry, whatever was read of the one before; *out is NULL at the end of the archive.
 * Its path and target are the tar's own bytes, size_bytes is that of the content with its holes.
 * The entry is the caller's to change and to take from until the next call.
 * Errors: CORRUPT, LIMIT, UNSUPPORTED, INVALID, and the source's. */
int cas_tar_next(struct cas_tar *t, struct cas_entry **out, struct cas_err *err) CAS_MUST_CHECK;
/* The next piece of the entry's content, borrowed until the next call on t; *len 0 at its end.
 * Holes come as zeros. */
int cas_tar_data(struct cas_tar *t, const uint8_t **data, size_t *len,
                 struct cas_err *err) CAS_MUST_CHECK;
/* Bytes of the stream read so far, and bytes of holes in the files so far: those of the present
 * one count from its header on. */
uint64_t cas_tar_stream_bytes(const struct cas_tar *t);
uint64_t cas_tar_hole_bytes(const struct cas_tar *t);
/* Whether the present file is kept with a map of its holes: its bytes in the stream are then not
 * its content. */
bool cas_tar_is_sparse(const struct cas_tar *t);

#endif
