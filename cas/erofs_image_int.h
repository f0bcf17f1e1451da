/* SPDX-License-Identifier: Apache-2.0 */
/* The metadata of an EROFS image with data (spec/disk.md), behind data that is
 * written already. Private to erofs_write.c and exporterofs.c. */
#ifndef CAS_EROFS_IMAGE_INT_H
#define CAS_EROFS_IMAGE_INT_H

#include "cas/erofs.h"
#include "cas/merge_int.h"

/* The data of all files with the same content. */
struct cas_erofs_content {
        struct cas_hash object;
        uint64_t size_bytes;
        uint64_t map;         /* its first entry in `maps`; with holes only */
        uint32_t block;       /* the first of the image; the others follow */
        uint32_t chunk_count; /* of chunk_bits */
        uint8_t chunk_bits;   /* log2 of the chunk size over the block size */
        bool holes;           /* some chunks are not written: there is a map */
};
struct cas_erofs_disk {
        struct cas_erofs_content *contents; /* owned; in the order of their data */
        uint32_t content_count;
        uint32_t *content_of; /* owned; by index in the plan, of files above CAS_INLINE_BYTES_MAX */
        uint32_t *maps;       /* owned; blocks of chunks, or EROFS_NULL_BLOCK */
        uint64_t map_count;
        uint32_t meta_block; /* where the metadata goes: behind the data */
};

/* out_meta: whole blocks, for meta_block on. out_super: block 0. Errors: LIMIT, NOMEM. */
int cas_erofs_write_disk(const struct cas_merge *m, const struct cas_plan *plan,
                         const struct cas_erofs_disk *disk, struct cas_buf *out_meta,
                         uint8_t out_super[static EROFS_BLOCK_BYTES],
                         struct cas_err *err) CAS_MUST_CHECK;

#endif
