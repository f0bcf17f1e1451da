/* SPDX-License-Identifier: Apache-2.0 */
/* A full run: what its files share. Private to cas/gcfull*.c. */
#ifndef CAS_GCFULL_INT_H
#define CAS_GCFULL_INT_H

#include "cas/gc_int.h"
#include "cas/hashset.h"

struct cas_gc_full;
/* Looks at one entry of a family; what is to be done goes into the batch. CORRUPT is told later. */
typedef int (*cas_gc_look_fn)(struct cas_gc_full *f, const void *key, size_t key_len,
                              const void *value, size_t value_len, struct cas_err *err);

struct cas_gc_full {
        struct cas_gc_run *gc;
        struct cas_batch *batch; /* owned: of the page */
        cas_gc_look_fn look;
        enum cas_family family;      /* that is gone through */
        struct cas_record_key after; /* where the next page begins */
        unsigned keys;               /* of this page */
        uint64_t seen;
        struct cas_index_walk *beside; /* owned: references, for objects and chunks */

        /* What is to go is looked at twice: again, `sure`, while nobody writes references. */
        bool sure;
        struct cas_buf suspects;  /* keys: le32 length, bytes */
        struct cas_digest *trees; /* owned: whose records went with this page */
        size_t tree_count;

        struct cas_hashset parents; /* known to be there: of references */
        struct cas_map *live;       /* be64 pack id to bytes of chunks; owned */
        uint64_t list_bytes;        /* records of packs that are none of chunks, about */
};

int cas_gc_full_condemn_blob(struct cas_gc_full *f, const struct cas_digest *blob,
                             struct cas_err *err) CAS_MUST_CHECK;
int cas_gc_full_condemn(struct cas_gc_full *f, enum cas_condemned_kind kind,
                        const struct cas_hash *hash, struct cas_err *err) CAS_MUST_CHECK;

/* Is looked at again when all of the page was. */
int cas_gc_full_suspect(struct cas_gc_full *f, const void *key, size_t key_len);

/* ---- gcfullrefs.c ---- */

int cas_gc_look_at_blob_ref(struct cas_gc_full *f, const void *key, size_t key_len,
                            const void *value, size_t value_len, struct cas_err *err);
int cas_gc_look_at_object_ref(struct cas_gc_full *f, const void *key, size_t key_len,
                              const void *value, size_t value_len, struct cas_err *err);
int cas_gc_look_at_chunk_ref(struct cas_gc_full *f, const void *key, size_t key_len,
                             const void *value, size_t value_len, struct cas_err *err);
int cas_gc_look_at_object(struct cas_gc_full *f, const void *key, size_t key_len, const void *value,
                          size_t value_len, struct cas_err *err);
int cas_gc_look_at_chunk(struct cas_gc_full *f, const void *key, size_t key_len, const void *value,
                         size_t value_len, struct cas_err *err);
/* A record of a family that has one in packs as well. */
void cas_gc_full_note_record(struct cas_gc_full *f, enum cas_family family);
/* Dead bytes of each pack follow from what lives in it. */
int cas_gc_recount_packs(struct cas_gc_full *f, struct cas_err *err) CAS_MUST_CHECK;

#endif
