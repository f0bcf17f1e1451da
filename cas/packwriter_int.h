/* SPDX-License-Identifier: Apache-2.0 */
/* Writing chunks, objects' lists and layer records into packs, for one
 * publication or one rewrite. A writer belongs to one thread at a time.
 *
 * Chunks are collected in the writer's open block. A chunk that is not in the
 * index yet has a `cas_pending` in the set's map, so that other writers see it:
 * they count a reference instead of storing it again. When they commit first
 * and the chunk is still in an open block of its writer, they write that block
 * into their own pack: nobody waits for another publication's end, and nobody
 * loses by it. A writer that is dropped writes its open block only when others
 * count on it. */
#ifndef CAS_PACKWRITER_INT_H
#define CAS_PACKWRITER_INT_H

#include "cas/codec.h"
#include "cas/packfile_int.h"

#define CAS_BLOCK_TARGET_BYTES (256 * CAS_KIB) /* of chunks, before compression */
#define CAS_BLOCK_TARGET_CHUNKS 4096

struct cas_openblock;

/* A chunk that some writer has taken in and that may not be in the index yet. */
struct cas_pending {
        struct cas_hash chunk; /* immutable, as the next two */
        uint32_t length_bytes;
        bool is_object;
        /* guarded by the set's mutex; what follows ref_count does not change once pack is set */
        unsigned ref_count; /* writers that need it */
        bool in_map;
        struct cas_openblock *block; /* holds it while it is not written */
        struct cas_packfile *pack;   /* has it (one reference), once written */
        uint64_t end_offset;         /* of its record there */
        struct cas_chunk_record at;
};

struct cas_openblock {
        struct cas_mutex mutex; /* guards all but ref_count */
        unsigned ref_count;     /* guarded by the set's mutex */
        uint32_t raw_bytes;
        uint32_t chunk_count;
        struct cas_pending *chunks[CAS_BLOCK_TARGET_CHUNKS];
        uint8_t raw[CAS_BLOCK_TARGET_BYTES];
};

struct cas_touched {
        struct cas_packfile *pack; /* one reference */
        uint64_t end_offset;
};

struct cas_packwriter {
        struct cas_packset *ps;
        struct cas_compressor *compressor;
        struct cas_openblock *block;
        struct cas_packfile *pack;    /* taken from the set; NULL until something is written */
        struct cas_buf record;        /* where records are put together */
        struct cas_pending **entries; /* one reference each */
        size_t entry_count, entry_max;
        struct cas_touched *touched; /* packs to sync */
        size_t touched_count, touched_max;
        uint64_t written_bytes;
};

void cas_packwriter_init(struct cas_packwriter *w, struct cas_packset *ps);
/* Lets go of everything; what nobody else needs is dropped. */
void cas_packwriter_release(struct cas_packwriter *w);

/* Counts on a chunk that another writer has pending. False when there is none. */
bool cas_packwriter_claim(struct cas_packwriter *w, const struct cas_hash *chunk);
/* Takes a chunk in, unless another writer did so meanwhile. `shared` false: not in the map, for
 * rewrites. len is 1 to CAS_BLOCK_TARGET_BYTES. */
struct cas_packwriter_chunk {
        struct cas_hash name;
        const void *data;
        uint32_t length_bytes;
        bool is_object;
        bool shared;
};
int cas_packwriter_add(struct cas_packwriter *w, const struct cas_packwriter_chunk *chunk,
                       struct cas_err *err) CAS_MUST_CHECK;
/* A block as it is: `frame` as stored. For rewrites. */
int cas_packwriter_add_frame(struct cas_packwriter *w, const struct cas_pack_item *item,
                             const void *frame, struct cas_err *err) CAS_MUST_CHECK;
int cas_packwriter_object(struct cas_packwriter *w, const struct cas_hash *id, uint64_t size_bytes,
                          const struct cas_chunk_ref *refs, uint32_t chunk_count,
                          struct cas_err *err) CAS_MUST_CHECK;
int cas_packwriter_layer(struct cas_packwriter *w, const struct cas_layer_record *layer,
                         struct cas_err *err) CAS_MUST_CHECK;
int cas_packwriter_recipe(struct cas_packwriter *w, const struct cas_recipe_record *recipe,
                          struct cas_err *err) CAS_MUST_CHECK;
/* Writes and syncs everything that this writer needs; its chunks and packs are in the batch. */
int cas_packwriter_flush(struct cas_packwriter *w, struct cas_batch *batch,
                         struct cas_err *err) CAS_MUST_CHECK;
/* The batch was written: lets go of chunks and packs; ready for more. */
void cas_packwriter_published(struct cas_packwriter *w);

#endif
