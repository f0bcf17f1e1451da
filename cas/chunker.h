/* SPDX-License-Identifier: Apache-2.0 */
/* Where a file is cut into chunks: by content, so that an insertion moves only
 * the cuts near it (spec/chunker.md). Pure functions: the same bytes give the
 * same cuts for ever, or stores stop sharing. Thread-safe. */
#ifndef CAS_CHUNKER_H
#define CAS_CHUNKER_H

#include "cas/limits.h"
#include "cas/base.h"

#define CAS_CHUNKER_BYTES_MIN (32 * CAS_KIB)
#define CAS_CHUNKER_BYTES_NORMAL                                                                   \
        (96 * CAS_KIB) /* cuts are rarer before this and likelier after                            \
                        */
#define CAS_CHUNKER_BYTES_MAX (256 * CAS_KIB)

/* The length of the chunk that starts at data. len must be the rest of the
 * file, or at least CAS_CHUNKER_BYTES_MAX; more is not looked at. Never 0
 * unless len is. A file of up to CAS_CHUNK_SMALL_BYTES_MAX is not given here:
 * it is one chunk. */
size_t cas_chunker_cut(const uint8_t *data, size_t len);

#endif
