/* SPDX-License-Identifier: Apache-2.0 */
/* The index: RocksDB by its C API behind typed records (spec/index.md). Private
 * to cas. Reads see what was written; one batch is atomic across all families.
 * Thread-safe, but a batch belongs to one thread. */
#ifndef CAS_INDEX_INT_H
#define CAS_INDEX_INT_H

#include "cas/backend.h"
#include "cas/condense.h"
#include "cas/lease.h"
#include "cas/publish.h"

struct cas_index;
struct cas_batch;

/* Where one chunk lies. */
struct cas_chunk_record {
        uint64_t pack_id;
        uint64_t block_offset;       /* of the frame in the pack file */
        uint32_t block_stored_bytes; /* of the frame */
        uint32_t block_raw_bytes;
        uint64_t block_checksum; /* XXH3-64 of the decoded block */
        uint32_t chunk_offset;   /* in the decoded block */
        uint32_t length_bytes;
        uint8_t codec;
};
/* A chunk of an object of several. An object of one chunk has no list: the
 * chunk's name is the object's. An empty object has no chunk. */
struct cas_chunk_ref {
        struct cas_hash chunk;
        uint32_t length_bytes;
};
struct cas_object_record {
        uint64_t size_bytes;
        uint32_t chunk_count;
};
/* What a pack's blocks were written with. Packs of one density are written on; those of less are
 * what recoding takes. */
struct cas_pack_record {
        uint32_t tier;
        bool sealed;
        uint8_t density;        /* enum cas_pack_density */
        uint64_t size_bytes;    /* of the file, when sealed; else what was synced last */
        struct cas_hash sha256; /* of the file, when sealed: its name elsewhere */
};

/* A tree that was made from a chain of layers; its key is chosen by cas/tree.c. */
struct cas_tree_record {
        struct cas_digest tree; /* SHA-256 of the image: its file's name */
        uint64_t size_bytes;
        struct cas_digest *layers; /* blobs, lowest first: the tree lives while all of them do */
        size_t layer_count;
};

/* The index is one key space of families; X(NAME, text, column, prefix). A column is a column
 * family of RocksDB: few of them, because each costs time at every opening. */
#define CAS_FAMILY_TABLE(X)                                                                        \
        X(META, "meta", 0, 'M')                                                                    \
        X(PACKS, "packs", 0, 'P')                                                                  \
        X(LAYERS, "layers", 0, 'L')                                                                \
        X(BLOBS, "blobs", 0, 'B')                                                                  \
        X(RECIPES, "recipes", 0, 'R')                                                              \
        X(TREES, "trees", 0, 'T')                                                                  \
        X(CHAINS, "chains", 0, 'C')                                                                \
        X(LEASES, "leases", 0, 'E')                                                                \
        X(MANIFESTS, "manifests", 0, 'm')                                                          \
        X(TAGS, "tags", 0, 't')                                                                    \
        X(BLOB_LINKS, "blob-links", 0, 'b')                                                        \
        X(REFERRERS, "referrers", 0, 'r')                                                          \
        X(ELSEWHERE, "elsewhere", 0, 'X')                                                          \
        X(ORDERS, "orders", 0, 'O')                                                                \
        X(TAG_TIMES, "tag-times", 0, 'i')                                                          \
        X(NODES, "nodes", 0, 'n')                                                                  \
        X(BLOB_REFS, "blob-refs", 0, 'e')                                                          \
        X(CONDEMNED, "condemned", 0, 'Q')                                                          \
        X(PACK_DEAD, "pack-dead", 0, 'D')                                                          \
        X(CHUNKS, "chunks", 1, 'c')                                                                \
        X(CHUNK_REFS, "chunk-refs", 1, 'k')                                                        \
        X(OBJECTS, "objects", 2, 'o')                                                              \
        X(OBJECT_CHUNKS, "object-chunks", 2, 'l')                                                  \
        X(OBJECT_REFS, "object-refs", 2, 'f')
enum cas_family {
#define X(name, text, column, prefix) CAS_FAMILY_##name,
        CAS_FAMILY_TABLE(X)
#undef X
                CAS_FAMILY_COUNT
};
const char *cas_family_name(enum cas_family family);

/* path: an absolute directory, made when it is not there and `create`. Errors: NOTFOUND,
 * CORRUPT, IO, BUSY. */
int cas_index_open(const char *path, bool create, struct cas_index **out,
                   struct cas_err *err) CAS_MUST_CHECK;
void cas_index_close(struct cas_index *ix);
/* After an error of I/O nothing is written until the database has been opened anew. Every write
 * does that first, so that work goes on when the fault is gone; who holds things that depend on
 * what the index has can ask for it. Success when there is nothing to do. Whether what failed was
 * written can be seen afterwards. Errors: IO, NOSPACE, BUSY (try again). */
int cas_index_mend(struct cas_index *ix, struct cas_err *err) CAS_MUST_CHECK;
/* Writes all entries anew, as small as can be. Reads and writes go on. */
int cas_index_compact(struct cas_index *ix, struct cas_err *err) CAS_MUST_CHECK;
/* Writes what is in memory to tables. */
int cas_index_flush(struct cas_index *ix, struct cas_err *err) CAS_MUST_CHECK;
/* A copy of the index, as it is at one instant, in the new directory `path`: tables are linked
 * where that can be. Durable once the directory that holds it was synced. Reads and writes go on.
 */
int cas_index_checkpoint(struct cas_index *ix, const char *path,
                         struct cas_err *err) CAS_MUST_CHECK;
/* Calls fn for each table file that is in use, by its name in the index's directory. */
int cas_index_each_table(struct cas_index *ix,
                         int (*fn)(void *arg, const char *name, struct cas_err *err), void *arg,
                         struct cas_err *err) CAS_MUST_CHECK;
/* A log of before the database was opened, by its name in the directory: all of it that counts is
 * in tables. Its end may be torn, as a crash left it. */
bool cas_index_log_is_over(const struct cas_index *ix, const char *name);
/* Removes an index that is not open. Absent is success. */
int cas_index_destroy(const char *path, struct cas_err *err) CAS_MUST_CHECK;

/* The value of one key, appended. Errors: NOTFOUND (its message is bare: callers name the thing).
 */
int cas_index_get(struct cas_index *ix, enum cas_family family, const void *key, size_t key_len,
                  struct cas_buf *out, struct cas_err *err) CAS_MUST_CHECK;
/* The same for whoever looks at everything: what others have read stays in the cache. */
int cas_index_peek(struct cas_index *ix, enum cas_family family, const void *key, size_t key_len,
                   struct cas_buf *out, struct cas_err *err) CAS_MUST_CHECK;
int cas_index_has(struct cas_index *ix, enum cas_family family, const void *key, size_t key_len,
                  bool *out, struct cas_err *err) CAS_MUST_CHECK;
/* Calls fn in byte order for the keys that start with `prefix` and are not below `from` (NULL:
 * the first), until it returns other than 0: 1 ends the scan with success, -code is returned.
 * It sees the index as it was when the scan began. */
typedef int (*cas_scan_fn)(void *arg, const void *key, size_t key_len, const void *value,
                           size_t value_len, struct cas_err *err);
struct cas_scan {
        enum cas_family family;
        const void *prefix;
        size_t prefix_len;
        const void *from;
        size_t from_len;
};
int cas_index_scan(struct cas_index *ix, const struct cas_scan *scan, cas_scan_fn fn, void *arg,
                   struct cas_err *err) CAS_MUST_CHECK;

/* Errors: NOTFOUND. rec->layers is owned by the caller (free). */
int cas_index_get_tree(struct cas_index *ix, const struct cas_hash *key,
                       struct cas_tree_record *rec, struct cas_err *err) CAS_MUST_CHECK;
int cas_index_get_layer(struct cas_index *ix, const struct cas_digest *blob,
                        struct cas_layer_record *out, struct cas_err *err) CAS_MUST_CHECK;
int cas_index_get_recipe(struct cas_index *ix, const struct cas_digest *blob,
                         struct cas_recipe_record *out, struct cas_err *err) CAS_MUST_CHECK;
int cas_index_get_chunk(struct cas_index *ix, const struct cas_hash *chunk,
                        struct cas_chunk_record *out, struct cas_err *err) CAS_MUST_CHECK;
int cas_index_get_object(struct cas_index *ix, const struct cas_hash *id,
                         struct cas_object_record *out, struct cas_err *err) CAS_MUST_CHECK;
/* Chunks first and on of an object's list; *count 0 past the end or when there is no list. */
int cas_index_get_object_chunks(struct cas_index *ix, const struct cas_hash *id, uint32_t first,
                                struct cas_chunk_ref *out, uint32_t max, uint32_t *count,
                                struct cas_err *err) CAS_MUST_CHECK;
/* The same, with the place of the first in the object. The list may be replaced at any time:
 * whoever goes through it compares *offset with what came before; what is given by one call fits
 * together. */
int cas_index_get_object_chunks_at(struct cas_index *ix, const struct cas_hash *id, uint32_t first,
                                   struct cas_chunk_ref *out, uint32_t max, uint32_t *count,
                                   uint64_t *offset, struct cas_err *err) CAS_MUST_CHECK;
/* A chunk of an object of chunk_count chunks that is near, and not behind, both chunk number
 * `chunk` and byte `offset` (UINT64_MAX: the number alone counts), and where it starts. */
int cas_index_seek_object_chunk(struct cas_index *ix, const struct cas_hash *id,
                                uint32_t chunk_count, uint32_t chunk, uint64_t offset,
                                uint32_t *out_chunk, uint64_t *out_offset,
                                struct cas_err *err) CAS_MUST_CHECK;
int cas_index_get_pack(struct cas_index *ix, uint64_t pack_id, struct cas_pack_record *out,
                       struct cas_err *err) CAS_MUST_CHECK;
int cas_index_each_pack(struct cas_index *ix,
                        bool (*fn)(void *arg, uint64_t pack_id, const struct cas_pack_record *rec),
                        void *arg, struct cas_err *err) CAS_MUST_CHECK;

struct cas_batch *cas_batch_new(void);
void cas_batch_free(struct cas_batch *b);
CAS_DEFINE_CLEANUP(cas_cleanup_batch_, struct cas_batch *, cas_batch_free);
#define cas_cleanup_batch __attribute__((cleanup(cas_cleanup_batch_)))
void cas_batch_put_chunk(struct cas_batch *b, const struct cas_hash *chunk,
                         const struct cas_chunk_record *rec);
void cas_batch_del_chunk(struct cas_batch *b, const struct cas_hash *chunk);
/* refs NULL when chunk_count is 0 or 1. */
void cas_batch_put_object(struct cas_batch *b, const struct cas_hash *id, uint64_t size_bytes,
                          const struct cas_chunk_ref *refs, uint32_t chunk_count);
void cas_batch_del_object(struct cas_batch *b, const struct cas_hash *id, uint32_t chunk_count);
void cas_batch_put_pack(struct cas_batch *b, uint64_t pack_id, const struct cas_pack_record *rec);
void cas_batch_del_pack(struct cas_batch *b, uint64_t pack_id);
void cas_batch_put_layer(struct cas_batch *b, const struct cas_layer_record *rec);
void cas_batch_put_recipe(struct cas_batch *b, const struct cas_recipe_record *rec);
void cas_batch_put_tree(struct cas_batch *b, const struct cas_hash *key,
                        const struct cas_tree_record *rec);
/* Any family, bytes as cas/record_int.h makes them. */
void cas_batch_put(struct cas_batch *b, enum cas_family family, const void *key, size_t key_len,
                   const void *value, size_t value_len);
void cas_batch_del(struct cas_batch *b, enum cas_family family, const void *key, size_t key_len);
size_t cas_batch_bytes(const struct cas_batch *b); /* 0: nothing in it */
/* Moves what `from` holds to the end of b. */
void cas_batch_join(struct cas_batch *b, struct cas_batch *from);
/* Atomic; durable on return. Empties the batch. A pack record that tells of less than what is known
 * of the pack (shorter, or not sealed) is left out, unless the pack was removed before it. */
int cas_index_write(struct cas_index *ix, struct cas_batch *b, struct cas_err *err) CAS_MUST_CHECK;

/* Goes forward through a family beside another one. One thread; it sees the index as it was when
 * it was made. */
struct cas_index_walk;
int cas_index_walk_open(struct cas_index *ix, enum cas_family family, struct cas_index_walk **out,
                        struct cas_err *err) CAS_MUST_CHECK;
void cas_index_walk_close(struct cas_index_walk *w); /* NULL does nothing */
/* Whether a key starts with `prefix`. */
int cas_index_walk_has(struct cas_index_walk *w, const void *prefix, size_t len, bool *out,
                       struct cas_err *err) CAS_MUST_CHECK;

/* ---- for collection ---- */

/* From lock to unlock nobody else's batch condemns or refers to anything: what is found needed in
 * between can lose its record, since who removes the last need condemns it later; and a reference
 * that is found to be of nothing can go. Waits for batches that are being written. */
void cas_index_condemning_lock(struct cas_index *ix);
void cas_index_condemning_unlock(struct cas_index *ix);
/* With that lock. As cas_index_write, but durable no later than cas_index_sync or any batch that is
 * written after it. */
int cas_index_write_soon(struct cas_index *ix, struct cas_batch *b,
                         struct cas_err *err) CAS_MUST_CHECK;
int cas_index_sync(struct cas_index *ix, struct cas_err *err) CAS_MUST_CHECK;
/* Grows with each batch that is written. */
uint64_t cas_index_sequence(struct cas_index *ix);

#endif
