/* SPDX-License-Identifier: Apache-2.0 */
/* Foretells header blocks of a tar from the headers before them and from the entries of its layer's
 * listing, so that a recipe keeps only what comes differently (spec/recipe.md). What is foretold is
 * format: it is the same in every version that reads recipes of this one. Values only. Private to
 * cas/tarrecipe*.c and tests. */
#ifndef CAS_TARHEADER_INT_H
#define CAS_TARHEADER_INT_H

#include "cas/entry.h"
#include "cas/tar_int.h"

#define CAS_TARHEADER_CHECKSUM_AT 148
#define CAS_TARHEADER_CHECKSUM_BYTES 8

/* The last header of each type of entry, and, as number 0, of all those that are not of an entry of
 * the listing. */
struct cas_tarheader_model {
        uint8_t blocks[CAS_ENTRY_WHITEOUT + 1][CAS_TAR_BLOCK_BYTES];
        bool has[CAS_ENTRY_WHITEOUT + 1];
        unsigned last; /* the number that was learned last, when any has one */
};

/* The next header, which is that of e, or of nothing in the listing (NULL): all but its checksum,
 * whose field holds that of the header it was made after. */
void cas_tarheader_foretell(const struct cas_tarheader_model *m, const struct cas_entry *e,
                            uint8_t out[CAS_TAR_BLOCK_BYTES]);
/* Puts the right checksum over the digits that the field holds, or makes the field. */
void cas_tarheader_set_checksum(uint8_t block[CAS_TAR_BLOCK_BYTES]);
/* What the header was in the end. */
void cas_tarheader_learn(struct cas_tarheader_model *m, const struct cas_entry *e,
                         const uint8_t block[CAS_TAR_BLOCK_BYTES]);

#endif
