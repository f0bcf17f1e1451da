/* SPDX-License-Identifier: Apache-2.0 */
/* Writing chunks, objects' lists and other records into packs, for one
 * publication or recoding. A writer belongs to one thread at a time.
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

/* How a writer writes blocks, and into which packs. */
struct cas_packstyle {
        enum cas_codec codec;
        int level;
        /* Of chunks, before compression: a block is full when it has grown to block_bytes, and
         * never has more than block_bytes_max, but for one chunk that is longer. */
        uint32_t block_bytes, block_bytes_max;
        uint32_t block_chunks; /* at most */
        enum cas_pack_density density;
};
extern const struct cas_packstyle cas_packstyle_fast; /* what is new */
extern const struct cas_packstyle cas_packstyle_default, cas_packstyle_cold;
const struct cas_packstyle *cas_packstyle_of(enum cas_pack_density density);

struct cas_openblock;

/* Where a chunk that is moved was. pack_id 0: it is new. */
struct cas_chunk_place {
        uint64_t pack_id, block_offset;
        uint32_t chunk_offset;
};

/* A chunk that some writer has taken in and that may not be in the index yet. */
struct cas_pending {
        struct cas_hash chunk; /* immutable, as the next two */
        uint32_t length_bytes;
        bool is_object;
        struct cas_chunk_place from;
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
        struct cas_pending **chunks; /* block_chunks of the writer's style */
        uint8_t *raw;                /* block_bytes, or one longest chunk */
};

struct cas_touched {
        struct cas_packfile *pack; /* one reference */
        uint64_t end_offset;
};

struct cas_packwriter {
        struct cas_packset *ps;
        const struct cas_packstyle *style;
        /* Set by who owns the writer, before anything is written. */
        uint32_t tier; /* CAS_TIER_ANY when it is not */
        bool alone;    /* packs of its own, that nobody else writes to until its end */
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

void cas_packwriter_init(struct cas_packwriter *w, struct cas_packset *ps,
                         const struct cas_packstyle *style);
/* Lets go of everything; what nobody else needs is dropped. */
void cas_packwriter_release(struct cas_packwriter *w);

/* Counts on a chunk that another writer has pending. False when there is none. */
bool cas_packwriter_claim(struct cas_packwriter *w, const struct cas_hash *chunk);
/* Takes a chunk in, unless another writer did so meanwhile. `shared` false: not in the map, for
 * recoding. len is 1 to CAS_CHUNK_BYTES_MAX. */
struct cas_packwriter_chunk {
        struct cas_hash name;
        const void *data;
        uint32_t length_bytes;
        bool is_object;
        bool shared;
        struct cas_chunk_place from;
};
int cas_packwriter_add(struct cas_packwriter *w, const struct cas_packwriter_chunk *chunk,
                       struct cas_err *err) CAS_MUST_CHECK;
/* A new chunk as a frame that is kept as it is (CAS_CODEC_ZSTD_KEPT): it takes the place of the
 * chunk that the index has, if any. chunk->data is the content. Errors: BUSY (another publication
 * is about to store the chunk). */
int cas_packwriter_add_kept(struct cas_packwriter *w, const struct cas_packwriter_chunk *chunk,
                            const void *frame, uint32_t frame_bytes,
                            struct cas_err *err) CAS_MUST_CHECK;
/* A block that is moved as it is: `frame` as stored. Not for shared chunks. */
int cas_packwriter_add_frame(struct cas_packwriter *w, const struct cas_pack_item *item,
                             const void *frame, struct cas_err *err) CAS_MUST_CHECK;
/* is_kept: its chunks are kept frames. */
int cas_packwriter_object(struct cas_packwriter *w, const struct cas_hash *id, uint64_t size_bytes,
                          const struct cas_chunk_ref *refs, uint32_t chunk_count, bool is_kept,
                          struct cas_err *err) CAS_MUST_CHECK;
int cas_packwriter_layer(struct cas_packwriter *w, const struct cas_layer_record *layer,
                         struct cas_err *err) CAS_MUST_CHECK;
int cas_packwriter_recipe(struct cas_packwriter *w, const struct cas_recipe_record *recipe,
                          struct cas_err *err) CAS_MUST_CHECK;
/* Does what a flush would wait for (the open block is written when `all`, packs are synced), so
 * that one which comes right after it, under locks, is short. Not for shared chunks. */
int cas_packwriter_settle(struct cas_packwriter *w, bool all, struct cas_err *err) CAS_MUST_CHECK;
/* Writes and syncs everything that this writer needs; its chunks and packs are in the batch. A
 * chunk that was moved is left out unless the index still has it where it was: the caller keeps
 * others from changing that until the batch is written. */
int cas_packwriter_flush(struct cas_packwriter *w, struct cas_batch *batch,
                         struct cas_err *err) CAS_MUST_CHECK;
/* The same without the open block, which goes on to be filled. Not for shared chunks. */
int cas_packwriter_flush_full(struct cas_packwriter *w, struct cas_batch *batch,
                              struct cas_err *err) CAS_MUST_CHECK;
/* The batch was written: lets go of packs, and of chunks that are not in the open block; ready for
 * more. */
void cas_packwriter_published(struct cas_packwriter *w);
/* Ends the pack that is written: others may go on with it. */
void cas_packwriter_end_pack(struct cas_packwriter *w);
/* Whether a chunk that was in that pack waits in the open block. */
bool cas_packwriter_waits(const struct cas_packwriter *w, uint64_t from_pack_id);

#endif
