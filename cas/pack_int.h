/* SPDX-License-Identifier: Apache-2.0 */
/* The pack format as bytes (spec/pack.md): encoding of headers, records and
 * footers. No state; cas/packset_int.h has the walk. */
#ifndef CAS_PACK_INT_H
#define CAS_PACK_INT_H

#include "cas/limits.h"
#include "cas/packset_int.h"

#define CAS_PACK_VERSION 2
#define CAS_PACK_VERSION_OLDEST 1 /* has no recipes and no kept frames */
#define CAS_PACK_HEADER_BYTES 32
#define CAS_PACK_RECORD_BYTES 56 /* head of a record; its table and its frame follow */
#define CAS_PACK_CHUNK_BYTES 36  /* entry of a block's and of an object's table */
#define CAS_PACK_LAYER_BYTES 192
#define CAS_PACK_RECIPE_BYTES 224
#define CAS_PACK_ENTRY_BYTES 16 /* of the footer's table */
#define CAS_PACK_TRAILER_BYTES 16
#define CAS_PACK_NAME_BYTES 24 /* with NUL */

#define CAS_PACK_MAGIC "lam-pack"
#define CAS_PACK_TRAILER_MAGIC "lam-seal"
#define CAS_PACK_RECORD_MAGIC UINT32_C(0x6365726c) /* "lrec" */
#define CAS_PACK_CHUNK_IS_OBJECT UINT32_C(0x80000000)
/* Record kind beside enum cas_pack_record_kind; never shown by a walk. */
#define CAS_PACK_FOOTER 4

/* Bounds of tables. */
#define CAS_BLOCK_CHUNKS_MAX 65536
#define CAS_OBJECT_CHUNKS_MAX (UINT32_C(1) << 22)
/* The smallest record has 88 bytes, so a pack that is sealed in time has fewer. */
#define CAS_PACK_RECORDS_MAX (UINT32_C(1) << 22)
_Static_assert(CAS_PACK_BYTES_MAX / (CAS_PACK_RECORD_BYTES + CAS_HASH_BYTES) < CAS_PACK_RECORDS_MAX,
               "a full pack has a footer");

/* "%016x.pack"; out has CAS_PACK_NAME_BYTES. Returns out. */
char *cas_pack_name(uint64_t pack_id, char *out);
bool cas_pack_name_parse(const char *name, uint64_t *pack_id);
/* Of a file that becomes a pack, or is a copy on its way: "%016x.pack.moving". Removed at opening.
 */
#define CAS_PACK_MOVING_NAME_BYTES 32 /* with NUL */
char *cas_pack_moving_name(uint64_t pack_id, char *out);
bool cas_pack_moving_name_parse(const char *name, uint64_t *pack_id);

void cas_pack_header_encode(uint64_t pack_id, uint8_t out[CAS_PACK_HEADER_BYTES]);
/* Errors: CORRUPT, UNSUPPORTED (version). */
int cas_pack_header_decode(const uint8_t in[CAS_PACK_HEADER_BYTES], uint64_t pack_id,
                           uint32_t *version, struct cas_err *err) CAS_MUST_CHECK;

/* Of head and table at `record`. */
uint64_t cas_pack_record_checksum(const uint8_t *record, uint32_t table_bytes, uint64_t offset);

/* Whole records. `offset` is where the record will stand: its checksum covers that. */

/* Finishes a BLOCK in place: at `record`, room for the head, then a table of `count` entries that
 * cas_pack_block_entry filled, then the frame. Returns the length of the record. */
struct cas_pack_block {
        uint32_t chunk_count, stored_bytes, raw_bytes;
        uint64_t raw_checksum;
        uint8_t codec;
};
void cas_pack_block_entry(uint8_t *record, uint32_t index, const struct cas_hash *chunk,
                          uint32_t length_bytes, bool is_object);
static inline size_t cas_pack_block_frame(uint32_t chunk_count)
{
        return CAS_PACK_RECORD_BYTES + (size_t)chunk_count * CAS_PACK_CHUNK_BYTES;
}
size_t cas_pack_block_finish(uint8_t *record, uint64_t offset, const struct cas_pack_block *block);

/* Whether the record of a block of one kept frame, which was read from that offset, is whole. */
bool cas_pack_kept_is_sound(const uint8_t *record, uint32_t stored_bytes, uint64_t offset);

/* The others are appended to out. chunk_count 0 or at least 2; is_kept: of kept frames. */
void cas_pack_object_encode(uint64_t offset, const struct cas_hash *id, uint64_t size_bytes,
                            const struct cas_chunk_ref *refs, uint32_t chunk_count, bool is_kept,
                            struct cas_buf *out);
void cas_pack_layer_encode(uint64_t offset, const struct cas_layer_record *layer,
                           struct cas_buf *out);
/* A proved one, with its object. */
void cas_pack_recipe_encode(uint64_t offset, const struct cas_recipe_record *recipe,
                            struct cas_buf *out);
struct cas_pack_entry {
        uint64_t offset;
        uint32_t length_bytes;
        uint8_t kind;
};
/* The footer record and the trailer. sha256: of all bytes before `offset`. */
void cas_pack_footer_encode(uint64_t offset, const struct cas_hash *sha256,
                            const struct cas_pack_entry *entries, uint32_t count,
                            struct cas_buf *out);

/* cas_pack_walk from a known end of a record on (0: from the header). */
int cas_pack_walk_from(const struct cas_io *io, int fd, uint64_t pack_id, uint64_t offset,
                       int (*fn)(void *arg, const struct cas_pack_item *item, struct cas_err *err),
                       void *arg, uint64_t *end_offset, bool *sealed,
                       struct cas_err *err) CAS_MUST_CHECK;
/* Whether a whole head and table stand at `offset` or anywhere behind it, whatever is before them.
 * True as well when there is too much that looks like one to tell. */
int cas_pack_has_record(const struct cas_io *io, int fd, uint64_t pack_id, uint64_t offset,
                        bool *out, struct cas_err *err) CAS_MUST_CHECK;

/* Bytes of a pack that are no record, or one that cannot be used. */
struct cas_pack_damage {
        uint64_t offset, end_offset;
        unsigned kind;                       /* of a record whose head is whole; 0: it is not */
        const struct cas_pack_chunk *chunks; /* of a block whose frame alone is damaged */
        uint32_t chunk_count;
};
/* All whole records, wherever they are: header, footer and what lies between may be damaged. Ends
 * early only by an error of the hooks (0 goes on), or UNSUPPORTED (version), NOMEM, IO. */
struct cas_pack_salvage {
        int (*item)(void *arg, const struct cas_pack_item *item, struct cas_err *err);
        int (*damage)(void *arg, const struct cas_pack_damage *damage,
                      struct cas_err *err); /* may be NULL */
        void *arg;
};
int cas_pack_salvage(const struct cas_io *io, int fd, uint64_t pack_id,
                     const struct cas_pack_salvage *hooks, struct cas_err *err) CAS_MUST_CHECK;

#endif
