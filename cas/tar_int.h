/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the tar reader share: the fields of a header block, and
 * what extended headers say of an entry. Private to cas/tar*.c and tests. */
#ifndef CAS_TAR_INT_H
#define CAS_TAR_INT_H

#include "cas/buf.h"
#include "cas/tar.h"

#define CAS_TAR_BLOCK_BYTES 512

/* One stored region of a sparse file. */
struct cas_tar_region {
        uint64_t offset;
        uint64_t length;
};
struct cas_tar_map {
        struct cas_tar_region *regions; /* owned */
        size_t count, alloc;
};
void cas_tar_map_release(struct cas_tar_map *m);
/* Errors: LIMIT (CAS_TAR_SPARSE_MAX), CORRUPT (out of order, overlapping, past 2^63). */
int cas_tar_map_add(struct cas_tar_map *m, uint64_t offset, uint64_t length,
                    struct cas_err *err) CAS_MUST_CHECK;

enum cas_tar_sparse {
        CAS_TAR_DENSE = 0,
        CAS_TAR_SPARSE_MAPPED,  /* the map is complete */
        CAS_TAR_SPARSE_IN_DATA, /* PAX 1.0: the map stands before the data */
};

/* One entry under construction. */
struct cas_tar_header {
        struct cas_entry entry;
        char typeflag;
        uint64_t stored_bytes; /* of data in the archive */
        enum cas_tar_sparse sparse;
        struct cas_tar_map map;
        uint64_t sparse_offset; /* PAX 0.0: of the region whose length comes next */
        uint64_t real_bytes;    /* of a sparse file */
        bool has_real_bytes;
        char *sparse_name; /* owned */
        uint8_t block[CAS_TAR_BLOCK_BYTES];
};
void cas_tar_header_release(struct cas_tar_header *h);

/* The checksum of a header block is right, as signed or unsigned sum. */
bool cas_tar_block_valid(const uint8_t block[CAS_TAR_BLOCK_BYTES]);
bool cas_tar_block_zero(const uint8_t block[CAS_TAR_BLOCK_BYTES]);
/* Fills h from a valid block. extended gets whether a map block of old GNU sparse follows. */
int cas_tar_block_parse(const uint8_t block[CAS_TAR_BLOCK_BYTES], struct cas_tar_header *h,
                        bool *extended, struct cas_err *err) CAS_MUST_CHECK;
/* A following map block of old GNU sparse. */
int cas_tar_block_sparse(const uint8_t block[CAS_TAR_BLOCK_BYTES], struct cas_tar_map *map,
                         bool *extended, struct cas_err *err) CAS_MUST_CHECK;
/* Appends what the text of a PAX header says to `records`, in a form of our own; keys that mean
 * nothing to us are left out. Errors: CORRUPT. */
int cas_tar_pax_parse(const struct cas_buf *text, struct cas_buf *records,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Applies records over h, whose block was parsed. Later ones win; an empty value takes the block's
 * own back. Errors: CORRUPT, LIMIT, UNSUPPORTED. */
int cas_tar_pax_apply(const struct cas_buf *records, struct cas_tar_header *h,
                      struct cas_err *err) CAS_MUST_CHECK;
/* "seconds[.fraction]", signed, as PAX has times. */
bool cas_tar_pax_time(const char *text, int64_t *s, uint32_t *ns);

#endif
