/* SPDX-License-Identifier: Apache-2.0 */
/* Writes the operations of a recipe's tar sections, in the order of the stream: runs are joined,
 * places in the listing and headers are followed as a reader will, and places to begin at are set.
 * One thread. Private to cas/tar*.c. */
#ifndef CAS_TAROPS_INT_H
#define CAS_TAROPS_INT_H

#include "cas/map.h"
#include "cas/tarrecipe_int.h"

/* An entry of the listing. */
struct cas_listed {
        struct cas_entry entry;
        uint64_t start, end; /* in the bytes of the listing */
};

struct cas_tarops {
        struct cas_recipe_writer *writer; /* borrowed */
        struct cas_tarrecipe_stats stats;
        struct cas_map *objects; /* object -> number in TAR_OBJECTS; owned */
        uint64_t object_count;   /* in TAR_OBJECTS */
        uint64_t position;       /* in the tar, of what comes next */
        enum cas_tarop run_kind;
        uint64_t run_bytes; /* of own bytes or zeros that have no operation yet */
        uint64_t place;     /* in the listing, as the reader has it */
        const struct cas_listed *current;
        struct cas_tarheader_model headers;
        uint64_t next_seek;
};
/* listing: the object, or NULL. Release it also when this fails. */
int cas_tarops_begin(struct cas_tarops *o, struct cas_recipe_writer *w,
                     const struct cas_hash *listing, struct cas_err *err) CAS_MUST_CHECK;
void cas_tarops_release(struct cas_tarops *o);

int cas_tarops_own(struct cas_tarops *o, const void *data, size_t len,
                   struct cas_err *err) CAS_MUST_CHECK;
int cas_tarops_zeros(struct cas_tarops *o, uint64_t bytes, struct cas_err *err) CAS_MUST_CHECK;
/* The content of a file of the listing; padded: and zeros to a multiple of a block. */
int cas_tarops_content(struct cas_tarops *o, const struct cas_listed *l, bool padded,
                       struct cas_err *err) CAS_MUST_CHECK;
/* A piece of an object. */
int cas_tarops_object(struct cas_tarops *o, const struct cas_hash *id, uint64_t offset,
                      uint64_t bytes, struct cas_err *err) CAS_MUST_CHECK;
/* A header block; l: its entry in the listing, or NULL. */
int cas_tarops_header(struct cas_tarops *o, const uint8_t block[CAS_TAR_BLOCK_BYTES],
                      const struct cas_listed *l, struct cas_err *err) CAS_MUST_CHECK;
/* Sets a place to begin at, when the last one is far enough away. */
int cas_tarops_seek(struct cas_tarops *o, struct cas_err *err) CAS_MUST_CHECK;
/* The end of the stream; sets the recipe's tar_bytes. */
int cas_tarops_finish(struct cas_tarops *o, struct cas_tarrecipe_stats *out,
                      struct cas_err *err) CAS_MUST_CHECK;

#endif
