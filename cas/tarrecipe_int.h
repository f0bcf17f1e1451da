/* SPDX-License-Identifier: Apache-2.0 */
/* What the maker and the reader of a recipe's tar sections share (spec/recipe.md). Private to
 * cas/tarrecipe*.c and tests. */
#ifndef CAS_TARRECIPE_INT_H
#define CAS_TARRECIPE_INT_H

#include "cas/layer.h"
#include "cas/recipe_int.h"
#include "cas/tarheader_int.h"

/* Operations: a varint of the kind in its low bits and an operand above. */
enum cas_tarop {
        CAS_TAROP_BYTES = 0,   /* operand: so many bytes of TAR_BYTES */
        CAS_TAROP_ZEROS = 1,   /* operand: so many zeros */
        CAS_TAROP_PLACE = 2,   /* goes to a listing entry; operand: where it begins, as a signed
                                * distance from the end of the one before (zigzag) */
        CAS_TAROP_CONTENT = 3, /* content of the file whose entry that is; operand: enum below */
        CAS_TAROP_OBJECT = 4,  /* operand: number in TAR_OBJECTS; then varints: offset, length */
        CAS_TAROP_HEADER = 5, /* a header as foretold (tarheader_int.h) but for some bytes; operand:
                               * flags below, the number of changes above. Then for each change two
                               * varints: bytes that are as foretold, bytes of TAR_BYTES */
        CAS_TAROP_RESET = 6,  /* operand 0: forgets the headers and the entry before */
        CAS_TAROP_KIND_COUNT
};
#define CAS_TAROP_KIND_BITS 3
enum {
        CAS_TAROP_CONTENT_PADDED = 0, /* with zeros up to a multiple of 512 */
        CAS_TAROP_CONTENT_BARE = 1,
};
enum {
        CAS_TAROP_HEADER_CHECKSUM = 1, /* the checksum's field follows in TAR_BYTES: it is odd */
        CAS_TAROP_HEADER_LISTED = 2,   /* it is the header of the present entry */
};
#define CAS_TAROP_HEADER_FLAG_BITS 2

/* Where reading can begin; in ascending order of tar_offset, the first at 0. Entries of TAR_SEEK
 * are these four numbers, 8 bytes each. */
struct cas_tarseek {
        uint64_t tar_offset;
        uint64_t ops_offset;
        uint64_t bytes_offset;
        uint64_t place; /* in the listing: the end of the entry before */
};
#define CAS_TARSEEK_BYTES 32
#define CAS_TARSEEK_SPACING_BYTES CAS_MIB

static inline uint64_t cas_zigzag(int64_t v)
{
        return (uint64_t)v << 1 ^ (uint64_t)(v >> 63);
}
static inline int64_t cas_unzigzag(uint64_t v)
{
        return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

#endif
