/* SPDX-License-Identifier: Apache-2.0 */
/* An image as an ext4 file system, made by mke2fs(8) from its unpacked files. */
#ifndef TOOLS_EXT4_H
#define TOOLS_EXT4_H

#include "cas/transfer.h"

/* Writes FILE as a whole or not at all; the files are unpacked beside it meanwhile. size_bytes 0:
 * what they need, a quarter more, and 64 MiB. Blocks for the whole. Errors: DENIED (not root),
 * UNSUPPORTED (no mke2fs; what ext4 cannot hold), NOSPACE, those of cas_unpack. */
int ext4_export(struct cas_store *s, const struct cas_image *image, const char *file,
                uint64_t size_bytes, const struct cas_progress *progress,
                struct cas_err *err) CAS_MUST_CHECK;

#endif
