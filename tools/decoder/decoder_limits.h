/* SPDX-License-Identifier: Apache-2.0 */
/* What one decoding process may use. */
#ifndef TOOLS_DECODER_DECODER_LIMITS_H
#define TOOLS_DECODER_DECODER_LIMITS_H

#include "cas/limits.h"

/* A window of zstd, and the names and attributes of a layer at CAS_LISTING_BYTES_MAX: as a model,
 * as a listing and as its bytes. */
#define DECODER_MEMORY_BYTES (4 * CAS_GIB)
/* CPU time: so much, and a second more for so many bytes that went in or came out. Who started it
 * looks to that; the kernel ends it at the third. */
#define DECODER_CPU_S_FREE 10
#define DECODER_CPU_BYTES_PER_S (4 * CAS_MIB)
#define DECODER_CPU_S_MAX (24 * 3600)

#endif
