/* SPDX-License-Identifier: Apache-2.0 */
/* Headers of gzip members (RFC 1952, 2.3). */
#ifndef CAS_GZIPHEADER_H
#define CAS_GZIPHEADER_H

#include "cas/err.h"

#define CAS_GZIP_HEADER_BYTES_MIN 10
#define CAS_GZIP_HEADER_BYTES_MAX (128 * 1024)
#define CAS_GZIP_TRAILER_BYTES 8

/* *header_bytes: of the header that `data` begins with; 0 when more of it is needed.
 * Errors: CORRUPT, LIMIT (longer than CAS_GZIP_HEADER_BYTES_MAX). */
int cas_gzip_header_find_end(const uint8_t *data, size_t len, size_t *header_bytes,
                             struct cas_err *err) CAS_MUST_CHECK;

#endif
