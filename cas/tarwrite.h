/* SPDX-License-Identifier: Apache-2.0 */
/* Writing tars in one canonical form: ustar headers, and a PAX header before
 * an entry for exactly what ustar cannot say (long or non-ASCII names, sizes
 * and owners beyond its digits, times with nanoseconds or before 1970,
 * xattrs). An xattr without a value is left out, since an empty record means
 * "absent" in PAX. A whiteout is an empty file .wh.NAME, and an opaque
 * directory's header is followed by one .wh..wh..opq in it; both of mode 0,
 * owner 0:0 and time 0. The same entries give the same bytes. No state; no I/O. */
#ifndef CAS_TARWRITE_H
#define CAS_TARWRITE_H

#include "cas/buf.h"
#include "cas/entry.h"

/* Appends the header of an entry; its content (e->size_bytes of a file, whatever inline_data
 * says) and then cas_tarwrite_padding must follow. path is relative; a directory's has no slash
 * at its end, "" is the root and becomes "./".
 * Errors: INVALID (a type that tars have not: sockets; a name that begins with .wh., which layers
 * cannot hold; an xattr name with "="). */
int cas_tarwrite_header(struct cas_buf *out, const struct cas_entry *e,
                        struct cas_err *err) CAS_MUST_CHECK;
/* Fills up the last block of a content of this size. */
void cas_tarwrite_padding(struct cas_buf *out, uint64_t size_bytes);
/* Ends the archive: two blocks of zeros. */
void cas_tarwrite_end(struct cas_buf *out);

#endif
