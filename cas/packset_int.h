/* SPDX-License-Identifier: Apache-2.0 */
/* The packs of a store: writing file objects into them and walking them.
 * Private to cas. Thread-safe, but an ingest belongs to one publication. */
#ifndef CAS_PACKSET_INT_H
#define CAS_PACKSET_INT_H

#include "cas/backend.h"
#include "cas/index_int.h"
#include "cas/object.h"

struct cas_packset;
struct cas_pace;
struct cas_pins;
struct cas_removals;
/* All borrowed until close. Cuts unfinished tails of unsealed packs (bytes after the last whole,
 * checksummed record) and tells the index of packs that it does not know; new packs get ids above
 * every id in the index and in the directories, and above those of packs that were removed.
 * A pack that is shorter than the index says is left as it is, for fsck to tell. */
int cas_packset_open(const struct cas_io *io, struct cas_backend *backend, struct cas_index *index,
                     struct cas_removals *removals, struct cas_packset **out,
                     struct cas_err *err) CAS_MUST_CHECK;
void cas_packset_close(struct cas_packset *ps);
/* The backend of one directory, tier 0: what a store uses when none was given. The descriptor stays
 * the caller's. Close it with backend->ops->close, after the packset. */
struct cas_backend *cas_backend_local_new(int packs_dirfd);

/* ---- one publication's objects (see cas/publish.h for the meaning) ---- */
struct cas_ingest;
struct cas_prefixset;
/* pins (borrowed; NULL: nobody collects): gets what is added, and what is found. */
struct cas_ingest *cas_ingest_new(struct cas_packset *ps, struct cas_pins *pins);
int cas_ingest_object_begin(struct cas_ingest *in, struct cas_hash *id_slot,
                            struct cas_err *err) CAS_MUST_CHECK;
int cas_ingest_named_begin(struct cas_ingest *in, const struct cas_hash *id,
                           struct cas_err *err) CAS_MUST_CHECK;
int cas_ingest_object_write(struct cas_ingest *in, const void *data, size_t len,
                            struct cas_err *err) CAS_MUST_CHECK;
int cas_ingest_object_end(struct cas_ingest *in, struct cas_err *err) CAS_MUST_CHECK;
int cas_ingest_drain(struct cas_ingest *in, struct cas_err *err) CAS_MUST_CHECK;
/* Layer records go into packs too, so that the index can be made again. */
int cas_ingest_layer(struct cas_ingest *in, const struct cas_layer_record *layer,
                     struct cas_err *err) CAS_MUST_CHECK;
/* Proved recipes as well. */
int cas_ingest_recipe(struct cas_ingest *in, const struct cas_recipe_record *recipe,
                      struct cas_err *err) CAS_MUST_CHECK;
/* First half of a commit: everything is written, packs and their directories are synced, and the
 * index records of chunks, objects and packs are in the batch (layers are not), with references of
 * objects to chunks. New objects that are not `wanted` are condemned. */
int cas_ingest_flush(struct cas_ingest *in, struct cas_batch *batch,
                     const struct cas_prefixset *wanted, struct cas_err *err) CAS_MUST_CHECK;
/* Second half: the batch was written. */
void cas_ingest_published(struct cas_ingest *in);
void cas_ingest_free(struct cas_ingest *in); /* drops what was not published */

/* ---- walking a pack file: fsck, rebuild, gc ---- */
enum cas_pack_record_kind {
        CAS_PACK_BLOCK = 1,
        CAS_PACK_OBJECT = 2,
        CAS_PACK_LAYER = 3,
        CAS_PACK_RECIPE = 5
};
struct cas_pack_chunk {
        struct cas_hash chunk;
        uint32_t chunk_offset, length_bytes;
        bool is_object; /* an object of one chunk: named by its fs-verity digest, not by SHA-256 */
};
struct cas_pack_item {
        enum cas_pack_record_kind kind;
        uint64_t record_offset, record_bytes;
        struct cas_extent block;             /* BLOCK: pack, offset, lengths, codec, checksum */
        const uint8_t *frame;                /* BLOCK: as stored; borrowed during the call */
        const struct cas_pack_chunk *chunks; /* BLOCK */
        uint32_t chunk_count;
        struct cas_hash object; /* OBJECT */
        uint64_t object_bytes;
        const struct cas_chunk_ref *refs;
        uint32_t ref_count;
        bool is_kept;                    /* OBJECT: of kept frames; wins over a list that is not */
        struct cas_layer_record layer;   /* LAYER */
        struct cas_recipe_record recipe; /* RECIPE: proved */
};
/* Calls fn (0 goes on, else its error is returned) for each whole record. *end_offset: where the
 * last whole record ends. *sealed: a valid footer was found. Errors: CORRUPT for damage before the
 * end of a sealed pack; an unsealed pack merely ends at the first bad record. */
int cas_pack_walk(const struct cas_io *io, int fd, uint64_t pack_id,
                  int (*fn)(void *arg, const struct cas_pack_item *item, struct cas_err *err),
                  void *arg, uint64_t *end_offset, bool *sealed,
                  struct cas_err *err) CAS_MUST_CHECK;
/* Opens a pack's home copy for reading (the caller closes it): for who walks it whole, since one
 * that is remote is fetched. Errors: NOTFOUND, IO (its tier cannot be reached: says which). */
int cas_packset_open_pack(struct cas_packset *ps, uint64_t pack_id, int *out_fd,
                          struct cas_err *err) CAS_MUST_CHECK;
/* Seals every pack that is open for writing. No ingest may be under way. */
int cas_packset_seal(struct cas_packset *ps, struct cas_err *err) CAS_MUST_CHECK;
/* Writes what is live of packs anew, in the order of the packs, while everything else goes on.
 * Chunks are moved where the index has them, other records where it knows of what they tell; a pack
 * goes when all of it has moved. One that somebody writes to, or takes, is left for another time.
 * What a crash leaves is garbage, and the next call goes on. The caller chooses the packs (recoders
 * run side by side); `yield` is called between steps, when nothing is held, and ends the work with
 * what was done when it answers false. */
struct cas_recoder;
struct cas_recode_hooks {
        bool (*yield)(void *arg);
        void *arg;
        struct cas_pace *pace; /* bytes read and written are paid for; NULL: none */
};
/* What is written goes to that tier. For one that is remote, new packs are written where there is
 * room first, and become home copies there; the finish seals and moves them, those that it can. */
struct cas_recoder *cas_recoder_new(struct cas_packset *ps, enum cas_pack_density density,
                                    uint32_t tier, const struct cas_recode_hooks *hooks);
/* Errors: CORRUPT (damage: what is sound has moved, the pack stays), BUSY (yield said so), IO … */
int cas_recoder_pack(struct cas_recoder *r, uint64_t pack_id, struct cas_err *err) CAS_MUST_CHECK;
/* Commits what is left; the counts are whole then. */
int cas_recoder_finish(struct cas_recoder *r, struct cas_recode_result *out,
                       struct cas_err *err) CAS_MUST_CHECK;
/* Whether the index has what a record of a pack tells of, and a chunk of a block in that place. */
int cas_pack_item_is_live(struct cas_index *ix, const struct cas_pack_item *item, bool *out,
                          struct cas_err *err) CAS_MUST_CHECK;
/* What was not committed is garbage. */
void cas_recoder_free(struct cas_recoder *r);
/* Removes the copy of a pack that was the home copy by that record, and is not any more. */
int cas_packset_unlink(struct cas_packset *ps, uint64_t pack_id, const struct cas_pack_record *rec,
                       struct cas_err *err) CAS_MUST_CHECK;

/* ---- dead bytes (spec/gc.md) ---- */

/* What a chunk takes in its pack: its share of the block's record, and its entry in the table. */
uint64_t cas_chunk_stored_bytes(const struct cas_chunk_record *rec);
/* A chunk is not where it was any more. In memory, until collection takes it. */
void cas_packset_note_dead(struct cas_packset *ps, const struct cas_chunk_record *rec);
/* Bytes by pack id (be64) since the last call. The map is the caller's. */
struct cas_map *cas_packset_take_dead(struct cas_packset *ps);

#endif
