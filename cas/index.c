/* SPDX-License-Identifier: Apache-2.0 */
/* The index over RocksDB. Three column families: small things, chunks, objects
 * with their lists; within one, a prefix byte tells the family (spec/index.md).
 * A store is opened by every short command, so what opening costs (threads,
 * files, memory) is kept small. */
#include "cas/index_int.h"

#include "cas/indexdb_int.h"
#include "cas/limits.h"
#include "cas/map.h"
#include "cas/mutex.h"
#include "cas/record_int.h"

/* References of a chunk list in one record: 9 KiB. */
#define PAGE_REFS 256
/* Of manual compaction: entries that are at rest already are written again, compressed. */
#define BOTTOMMOST_FORCE 2 /* rocksdb::BottommostLevelCompaction::kForce */

static const struct family {
        const char *name;
        uint8_t column;
        uint8_t prefix;
} families[CAS_FAMILY_COUNT] = {
#define X(id, text, column_index, prefix_byte)                                                     \
        [CAS_FAMILY_##id] = {.name = (text), .column = (column_index), .prefix = (prefix_byte)},
        CAS_FAMILY_TABLE(X)
#undef X
};

struct cas_index {
        struct cas_indexdb *db;
        rocksdb_readoptions_t *point;   /* single keys */
        rocksdb_readoptions_t *peek;    /* the same, past the cache */
        rocksdb_writeoptions_t *synced; /* every write but collection's */
        rocksdb_writeoptions_t *soon;
        struct cas_rwlock condemning; /* shared while references, condemned records are written */
        struct cas_mutex packs;       /* held while pack records are written */
};

/* One change: u8 family, u8 put, le32 key_len, le32 value_len, key, value. */
struct cas_batch {
        struct cas_buf ops;
};

const char *cas_family_name(enum cas_family family)
{
        return families[family].name;
}

int cas_index_open(const char *path, bool create, struct cas_index **out, struct cas_err *err)
{
        struct cas_indexdb *db;
        int rc = cas_indexdb_open(path, create, &db, err);
        if (rc < 0)
                return rc;
        struct cas_index *ix = cas_xcalloc(1, sizeof(*ix));
        ix->db = db;
        cas_mutex_init(&ix->packs, "index.packs");
        cas_rwlock_init(&ix->condemning, "index.condemning");
        ix->point = rocksdb_readoptions_create();
        ix->peek = rocksdb_readoptions_create();
        rocksdb_readoptions_set_fill_cache(ix->peek, 0);
        ix->synced = rocksdb_writeoptions_create();
        rocksdb_writeoptions_set_sync(ix->synced, 1);
        ix->soon = rocksdb_writeoptions_create();
        *out = ix;
        return 0;
}

void cas_index_close(struct cas_index *ix)
{
        if (!ix)
                return;
        cas_indexdb_close(ix->db);
        rocksdb_readoptions_destroy(ix->point);
        rocksdb_readoptions_destroy(ix->peek);
        rocksdb_writeoptions_destroy(ix->synced);
        rocksdb_writeoptions_destroy(ix->soon);
        cas_rwlock_release(&ix->condemning);
        cas_mutex_release(&ix->packs);
        free(ix);
}

int cas_index_mend(struct cas_index *ix, struct cas_err *err)
{
        return cas_indexdb_mend(ix->db, err);
}

int cas_index_flush(struct cas_index *ix, struct cas_err *err)
{
        struct cas_indexdb_open in;
        char *message = NULL;
        int rc = cas_indexdb_mend(ix->db, err);
        if (rc == 0)
                rc = cas_indexdb_enter(ix->db, &in, err);
        if (rc < 0)
                return rc;
        rocksdb_flushoptions_t *wait = rocksdb_flushoptions_create();
        rocksdb_flushoptions_set_wait(wait, 1);
        for (unsigned i = 0; i < CAS_INDEXDB_COLUMNS && !message; i++)
                rocksdb_flush_cf(in.db, wait, in.columns[i], &message);
        rocksdb_flushoptions_destroy(wait);
        cas_indexdb_leave(ix->db);
        return message ? cas_indexdb_failed(ix->db, err, message, "flush index") : 0;
}

int cas_index_compact(struct cas_index *ix, struct cas_err *err)
{
        struct cas_indexdb_open in;
        int rc = cas_index_flush(ix, err);
        if (rc == 0)
                rc = cas_indexdb_enter(ix->db, &in, err);
        if (rc < 0)
                return rc;
        rocksdb_compactoptions_t *all = rocksdb_compactoptions_create();
        rocksdb_compactoptions_set_exclusive_manual_compaction(all, 0);
        rocksdb_compactoptions_set_bottommost_level_compaction(all, BOTTOMMOST_FORCE);
        for (unsigned i = 0; i < CAS_INDEXDB_COLUMNS; i++)
                rocksdb_compact_range_cf_opt(in.db, in.columns[i], all, NULL, 0, NULL, 0);
        rocksdb_compactoptions_destroy(all);
        cas_indexdb_leave(ix->db);
        return cas_indexdb_check(ix->db, err, "compact index"); /* the call itself says nothing */
}

int cas_index_each_table(struct cas_index *ix,
                         int (*fn)(void *arg, const char *name, struct cas_err *err), void *arg,
                         struct cas_err *err)
{
        struct cas_indexdb_open in;
        int rc = cas_indexdb_enter(ix->db, &in, err);
        if (rc < 0)
                return rc;
        const rocksdb_livefiles_t *files = rocksdb_livefiles(in.db);
        int count = rocksdb_livefiles_count(files);
        for (int i = 0; rc == 0 && i < count; i++) {
                const char *name = rocksdb_livefiles_name(files, i);
                rc = fn(arg, name + (name[0] == '/'), err);
        }
        rocksdb_livefiles_destroy(files);
        cas_indexdb_leave(ix->db);
        return rc;
}

bool cas_index_log_is_over(const struct cas_index *ix, const char *name)
{
        return cas_indexdb_log_is_over(ix->db, name);
}

int cas_index_checkpoint(struct cas_index *ix, const char *path, struct cas_err *err)
{
        struct cas_indexdb_open in;
        char *message = NULL;
        int rc = cas_indexdb_enter(ix->db, &in, err);
        if (rc < 0)
                return rc;
        rocksdb_checkpoint_t *checkpoint = rocksdb_checkpoint_object_create(in.db, &message);
        /* What came since the last flush goes along as log, which takes less time than a flush. */
        if (!message)
                rocksdb_checkpoint_create(checkpoint, path, UINT64_MAX, &message);
        if (checkpoint)
                rocksdb_checkpoint_object_destroy(checkpoint);
        cas_indexdb_leave(ix->db);
        return message ? cas_indexdb_fail(err, message, "copy index") : 0;
}

int cas_index_destroy(const char *path, struct cas_err *err)
{
        char *message = NULL;
        rocksdb_options_t *options = rocksdb_options_create();
        rocksdb_destroy_db(options, path, &message);
        rocksdb_options_destroy(options);
        return message ? cas_indexdb_fail(err, message, "remove index") : 0;
}

/* ---- reading ---- */

/* A key with its family's byte in front. */
struct full_key {
        char bytes[1 + CAS_RECORD_KEY_BYTES_MAX];
        size_t len;
};

static void full_key_set(struct full_key *full, enum cas_family family, const void *key, size_t len)
{
        cas_assert(len <= CAS_RECORD_KEY_BYTES_MAX);
        full->bytes[0] = (char)families[family].prefix;
        if (len)
                memcpy(full->bytes + 1, key, len);
        full->len = len + 1;
}

/* NULL in *out when the key is absent; else the database is entered until it is unpinned. */
static int get_pinned_by(struct cas_index *ix, const rocksdb_readoptions_t *options,
                         enum cas_family family, const void *key, size_t key_len,
                         rocksdb_pinnableslice_t **out, struct cas_err *err)
{
        struct full_key full;
        struct cas_indexdb_open in;
        full_key_set(&full, family, key, key_len);
        char *message = NULL;
        int rc = cas_indexdb_enter(ix->db, &in, err);
        if (rc < 0)
                return rc;
        *out = rocksdb_get_pinned_cf(in.db, options, in.columns[families[family].column],
                                     full.bytes, full.len, &message);
        if (message || !*out)
                cas_indexdb_leave(ix->db);
        return message ? cas_indexdb_fail(err, message, "read index") : 0;
}

static void unpin(struct cas_index *ix, rocksdb_pinnableslice_t *slice)
{
        rocksdb_pinnableslice_destroy(slice);
        cas_indexdb_leave(ix->db);
}

static int get_pinned(struct cas_index *ix, enum cas_family family, const void *key, size_t key_len,
                      rocksdb_pinnableslice_t **out, struct cas_err *err)
{
        return get_pinned_by(ix, ix->point, family, key, key_len, out, err);
}

static int get_by(struct cas_index *ix, const rocksdb_readoptions_t *options,
                  enum cas_family family, const void *key, size_t key_len, struct cas_buf *out,
                  struct cas_err *err)
{
        rocksdb_pinnableslice_t *slice;
        int rc = get_pinned_by(ix, options, family, key, key_len, &slice, err);
        if (rc < 0)
                return rc;
        if (!slice)
                return cas_fail(err, CAS_E_NOTFOUND, "not in the index");
        size_t len;
        const char *value = rocksdb_pinnableslice_value(slice, &len);
        cas_buf_append(out, value, len);
        unpin(ix, slice);
        return 0;
}

int cas_index_get(struct cas_index *ix, enum cas_family family, const void *key, size_t key_len,
                  struct cas_buf *out, struct cas_err *err)
{
        return get_by(ix, ix->point, family, key, key_len, out, err);
}

int cas_index_peek(struct cas_index *ix, enum cas_family family, const void *key, size_t key_len,
                   struct cas_buf *out, struct cas_err *err)
{
        return get_by(ix, ix->peek, family, key, key_len, out, err);
}

int cas_index_has(struct cas_index *ix, enum cas_family family, const void *key, size_t key_len,
                  bool *out, struct cas_err *err)
{
        rocksdb_pinnableslice_t *slice;
        int rc = get_pinned(ix, family, key, key_len, &slice, err);
        if (rc < 0)
                return rc;
        *out = slice != NULL;
        if (slice)
                unpin(ix, slice);
        return 0;
}

static int scan_iterator(rocksdb_iterator_t *it, const struct full_key *prefix, cas_scan_fn fn,
                         void *arg, struct cas_err *err)
{
        for (; rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
                size_t key_len, value_len;
                const char *key = rocksdb_iter_key(it, &key_len);
                if (key_len < prefix->len || memcmp(key, prefix->bytes, prefix->len) != 0)
                        return 0;
                const char *value = rocksdb_iter_value(it, &value_len);
                int rc = fn(arg, key + 1, key_len - 1, value, value_len, err);
                if (rc != 0)
                        return rc < 0 ? rc : 0;
        }
        char *message = NULL;
        rocksdb_iter_get_error(it, &message);
        return message ? cas_indexdb_fail(err, message, "read index") : 0;
}

int cas_index_scan(struct cas_index *ix, const struct cas_scan *scan, cas_scan_fn fn, void *arg,
                   struct cas_err *err)
{
        struct full_key prefix, from;
        full_key_set(&prefix, scan->family, scan->prefix, scan->prefix_len);
        full_key_set(&from, scan->family, scan->from, scan->from_len);
        size_t common = cas_min_u64(prefix.len, from.len);
        int order = memcmp(prefix.bytes, from.bytes, common);
        const struct full_key *start =
                order > 0 || (order == 0 && from.len < prefix.len) ? &prefix : &from;
        struct cas_indexdb_open in;
        int rc = cas_indexdb_enter(ix->db, &in, err);
        if (rc < 0)
                return rc;
        /* Scans of everything shall not throw the working set out of the cache. */
        rocksdb_readoptions_t *options = rocksdb_readoptions_create();
        rocksdb_readoptions_set_fill_cache(options, scan->prefix_len > 0);
        rocksdb_iterator_t *it = rocksdb_create_iterator_cf(
                in.db, options, in.columns[families[scan->family].column]);
        rocksdb_iter_seek(it, start->bytes, start->len);
        rc = scan_iterator(it, &prefix, fn, arg, err);
        rocksdb_iter_destroy(it);
        rocksdb_readoptions_destroy(options);
        cas_indexdb_leave(ix->db);
        return rc;
}

struct cas_index_walk {
        struct cas_index *ix;
        enum cas_family family;
        rocksdb_readoptions_t *options;
        rocksdb_iterator_t *it;
};

int cas_index_walk_open(struct cas_index *ix, enum cas_family family, struct cas_index_walk **out,
                        struct cas_err *err)
{
        struct cas_indexdb_open in;
        int rc = cas_indexdb_enter(ix->db, &in, err);
        if (rc < 0)
                return rc;
        struct cas_index_walk *w = cas_xcalloc(1, sizeof(*w));
        w->ix = ix;
        w->family = family;
        w->options = rocksdb_readoptions_create();
        rocksdb_readoptions_set_fill_cache(w->options, 0);
        w->it = rocksdb_create_iterator_cf(in.db, w->options, in.columns[families[family].column]);
        *out = w;
        return 0;
}

void cas_index_walk_close(struct cas_index_walk *w)
{
        if (!w)
                return;
        rocksdb_iter_destroy(w->it);
        rocksdb_readoptions_destroy(w->options);
        cas_indexdb_leave(w->ix->db);
        free(w);
}

/* How the iterator's key compares with the prefix: 0 when it starts with it. */
static int compare_prefix(const struct cas_index_walk *w, const struct full_key *prefix)
{
        size_t len;
        if (!rocksdb_iter_valid(w->it))
                return 1;
        const char *key = rocksdb_iter_key(w->it, &len);
        int order = memcmp(key, prefix->bytes, cas_min_u64(len, prefix->len));
        return order == 0 && len < prefix->len ? -1 : order;
}

int cas_index_walk_has(struct cas_index_walk *w, const void *prefix, size_t len, bool *out,
                       struct cas_err *err)
{
        struct full_key full;
        char *message = NULL;
        full_key_set(&full, w->family, prefix, len);
        if (!rocksdb_iter_valid(w->it) || compare_prefix(w, &full) < 0)
                rocksdb_iter_seek(w->it, full.bytes, full.len);
        *out = compare_prefix(w, &full) == 0;
        rocksdb_iter_get_error(w->it, &message);
        return message ? cas_indexdb_fail(err, message, "read index") : 0;
}

int cas_index_get_chunk(struct cas_index *ix, const struct cas_hash *chunk,
                        struct cas_chunk_record *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        char hex[CAS_HASH_HEX_BYTES];
        int rc = cas_index_get(ix, CAS_FAMILY_CHUNKS, chunk->bytes, CAS_HASH_BYTES, &value, err);
        if (rc == 0)
                rc = cas_chunk_record_decode(value.data, value.len_bytes, out, err);
        return rc < 0 ? cas_err_wrap(err, "chunk %s", cas_hash_hex(chunk, hex)) : 0;
}

int cas_index_get_object(struct cas_index *ix, const struct cas_hash *id,
                         struct cas_object_record *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        char hex[CAS_HASH_HEX_BYTES];
        int rc = cas_index_get(ix, CAS_FAMILY_OBJECTS, id->bytes, CAS_HASH_BYTES, &value, err);
        if (rc == 0)
                rc = cas_object_record_decode(value.data, value.len_bytes, out, err);
        return rc < 0 ? cas_err_wrap(err, "object %s", cas_hash_hex(id, hex)) : 0;
}

static uint32_t list_pages(uint32_t chunk_count)
{
        return chunk_count > 1 ? (chunk_count - 1) / PAGE_REFS + 1 : 0;
}

/* A page's start in the object, then its references (refs NULL: not wanted); *count 0 when there is
 * no such page. */
static int decode_page(const void *data, size_t len, struct cas_chunk_ref *refs, uint32_t *count,
                       uint64_t *offset, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(data, len);
        *offset = cas_cursor_le64(&c);
        if (c.failed || cas_cursor_left(&c) == 0)
                return cas_fail(err, CAS_E_CORRUPT, "a page of %zu bytes", len);
        if (refs)
                return cas_chunk_refs_decode(c.at, cas_cursor_left(&c), refs, PAGE_REFS, count,
                                             err);
        *count = PAGE_REFS;
        return 0;
}

static int get_page(struct cas_index *ix, const struct cas_hash *id, uint32_t page,
                    struct cas_chunk_ref *refs, uint32_t *count, uint64_t *offset,
                    struct cas_err *err)
{
        struct cas_record_key key;
        cas_key_list_page(id, page, &key);
        rocksdb_pinnableslice_t *slice;
        int rc = get_pinned(ix, CAS_FAMILY_OBJECT_CHUNKS, key.bytes, key.len, &slice, err);
        *count = 0;
        if (rc < 0 || !slice)
                return rc;
        size_t len;
        const char *value = rocksdb_pinnableslice_value(slice, &len);
        rc = decode_page(value, len, refs, count, offset, err);
        unpin(ix, slice);
        return rc;
}

int cas_index_get_object_chunks_at(struct cas_index *ix, const struct cas_hash *id, uint32_t first,
                                   struct cas_chunk_ref *out, uint32_t max, uint32_t *count,
                                   uint64_t *offset, struct cas_err *err)
{
        struct cas_chunk_ref refs[PAGE_REFS];
        uint64_t end = 0;
        *count = 0;
        while (*count < max) {
                uint32_t at = first + *count, in_page;
                uint64_t start;
                int rc = get_page(ix, id, at / PAGE_REFS, refs, &in_page, &start, err);
                if (rc < 0) {
                        char hex[CAS_HASH_HEX_BYTES];
                        return cas_err_wrap(err, "object %s", cas_hash_hex(id, hex));
                }
                uint32_t skip = at % PAGE_REFS;
                if (in_page <= skip || (*count > 0 && start != end))
                        return 0;
                for (uint32_t i = 0; i < skip; i++)
                        start += refs[i].length_bytes;
                if (*count == 0)
                        *offset = end = start;
                uint32_t take = (uint32_t)cas_min_u64(in_page - skip, max - *count);
                memcpy(out + *count, refs + skip, take * sizeof(refs[0]));
                for (uint32_t i = 0; i < take; i++)
                        end += refs[skip + i].length_bytes;
                *count += take;
                if (in_page < PAGE_REFS)
                        return 0;
        }
        return 0;
}

int cas_index_get_object_chunks(struct cas_index *ix, const struct cas_hash *id, uint32_t first,
                                struct cas_chunk_ref *out, uint32_t max, uint32_t *count,
                                struct cas_err *err)
{
        uint64_t offset;
        return cas_index_get_object_chunks_at(ix, id, first, out, max, count, &offset, err);
}

int cas_index_seek_object_chunk(struct cas_index *ix, const struct cas_hash *id,
                                uint32_t chunk_count, uint32_t chunk, uint64_t offset,
                                uint32_t *out_chunk, uint64_t *out_offset, struct cas_err *err)
{
        uint32_t low = 0, high = list_pages(chunk_count);
        *out_chunk = 0;
        *out_offset = 0;
        if (high > chunk / PAGE_REFS + 1)
                high = chunk / PAGE_REFS + 1;
        /* Pages below low start at or before both; pages from high on do not. */
        while (low < high) {
                /* By number alone the last is the one. */
                uint32_t page = offset == UINT64_MAX ? high - 1 : low + (high - low) / 2;
                uint32_t count;
                uint64_t start;
                int rc = get_page(ix, id, page, NULL, &count, &start, err);
                if (rc == 0 && count == 0)
                        rc = cas_fail(err, CAS_E_CORRUPT, "no page %u of its chunks", page);
                if (rc < 0) {
                        char hex[CAS_HASH_HEX_BYTES];
                        return cas_err_wrap(err, "object %s", cas_hash_hex(id, hex));
                }
                if (start > offset) {
                        high = page;
                        continue;
                }
                low = page + 1;
                *out_chunk = page * PAGE_REFS;
                *out_offset = start;
        }
        return 0;
}

int cas_index_get_pack(struct cas_index *ix, uint64_t pack_id, struct cas_pack_record *out,
                       struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        cas_key_pack(pack_id, &key);
        int rc = cas_index_get(ix, CAS_FAMILY_PACKS, key.bytes, key.len, &value, err);
        if (rc == 0)
                rc = cas_pack_record_decode(value.data, value.len_bytes, out, err);
        return rc < 0 ? cas_err_wrap(err, "pack %llu", (unsigned long long)pack_id) : 0;
}

struct pack_scan {
        bool (*fn)(void *arg, uint64_t pack_id, const struct cas_pack_record *rec);
        void *arg;
};

static int scan_pack(void *arg, const void *key, size_t key_len, const void *value,
                     size_t value_len, struct cas_err *err)
{
        const struct pack_scan *scan = arg;
        struct cas_pack_record rec;
        if (key_len != 8)
                return cas_fail(err, CAS_E_CORRUPT, "pack: malformed key");
        int rc = cas_pack_record_decode(value, value_len, &rec, err);
        if (rc < 0)
                return rc;
        return scan->fn(scan->arg, cas_get_be64(key), &rec) ? 0 : 1;
}

int cas_index_each_pack(struct cas_index *ix,
                        bool (*fn)(void *arg, uint64_t pack_id, const struct cas_pack_record *rec),
                        void *arg, struct cas_err *err)
{
        struct pack_scan scan = {.fn = fn, .arg = arg};
        return cas_index_scan(ix, &(struct cas_scan){.family = CAS_FAMILY_PACKS}, scan_pack, &scan,
                              err);
}

int cas_index_get_tree(struct cas_index *ix, const struct cas_hash *key,
                       struct cas_tree_record *rec, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        int rc = cas_index_get(ix, CAS_FAMILY_TREES, key->bytes, CAS_HASH_BYTES, &value, err);
        if (rc == 0)
                rc = cas_tree_record_decode(value.data, value.len_bytes, rec, err);
        return rc < 0 ? cas_err_wrap(err, "tree") : 0;
}

int cas_index_get_layer(struct cas_index *ix, const struct cas_digest *blob,
                        struct cas_layer_record *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_key_digest(blob, &key);
        int rc = cas_index_get(ix, CAS_FAMILY_LAYERS, key.bytes, key.len, &value, err);
        if (rc == 0)
                rc = cas_layer_record_decode(blob, value.data, value.len_bytes, out, err);
        return rc < 0 ? cas_err_wrap(err, "layer %s", cas_digest_text(blob, text)) : 0;
}

int cas_index_get_recipe(struct cas_index *ix, const struct cas_digest *blob,
                         struct cas_recipe_record *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_key_digest(blob, &key);
        int rc = cas_index_get(ix, CAS_FAMILY_RECIPES, key.bytes, key.len, &value, err);
        if (rc == 0)
                rc = cas_recipe_record_decode(blob, value.data, value.len_bytes, out, err);
        return rc < 0 ? cas_err_wrap(err, "recipe of %s", cas_digest_text(blob, text)) : 0;
}

/* ---- batches ---- */

struct cas_batch *cas_batch_new(void)
{
        return cas_xcalloc(1, sizeof(struct cas_batch));
}

void cas_batch_free(struct cas_batch *b)
{
        if (!b)
                return;
        cas_buf_release(&b->ops);
        free(b);
}

size_t cas_batch_bytes(const struct cas_batch *b)
{
        return b->ops.len_bytes;
}

void cas_batch_join(struct cas_batch *b, struct cas_batch *from)
{
        cas_buf_append(&b->ops, from->ops.data, from->ops.len_bytes);
        cas_buf_clear(&from->ops);
}

static void batch_add(struct cas_batch *b, enum cas_family family, bool put, const void *key,
                      size_t key_len, const void *value, size_t value_len)
{
        cas_assert(key_len <= CAS_RECORD_KEY_BYTES_MAX);
        cas_assert(value_len <= UINT32_MAX);
        cas_buf_append_byte(&b->ops, (uint8_t)family);
        cas_buf_append_byte(&b->ops, put);
        cas_buf_append_le32(&b->ops, (uint32_t)key_len);
        cas_buf_append_le32(&b->ops, (uint32_t)value_len);
        cas_buf_append(&b->ops, key, key_len);
        cas_buf_append(&b->ops, value, value_len);
}

void cas_batch_put(struct cas_batch *b, enum cas_family family, const void *key, size_t key_len,
                   const void *value, size_t value_len)
{
        batch_add(b, family, true, key, key_len, value, value_len);
}

void cas_batch_del(struct cas_batch *b, enum cas_family family, const void *key, size_t key_len)
{
        batch_add(b, family, false, key, key_len, NULL, 0);
}

void cas_batch_put_chunk(struct cas_batch *b, const struct cas_hash *chunk,
                         const struct cas_chunk_record *rec)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        cas_chunk_record_encode(rec, &value);
        cas_batch_put(b, CAS_FAMILY_CHUNKS, chunk->bytes, CAS_HASH_BYTES, value.data,
                      value.len_bytes);
}

void cas_batch_del_chunk(struct cas_batch *b, const struct cas_hash *chunk)
{
        cas_batch_del(b, CAS_FAMILY_CHUNKS, chunk->bytes, CAS_HASH_BYTES);
}

/* Pages of an object's list; objects of up to one chunk have none. */
void cas_batch_put_object(struct cas_batch *b, const struct cas_hash *id, uint64_t size_bytes,
                          const struct cas_chunk_ref *refs, uint32_t chunk_count)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        const struct cas_object_record rec = {.size_bytes = size_bytes, .chunk_count = chunk_count};
        cas_assert(chunk_count <= 1 || refs != NULL);
        cas_object_record_encode(&rec, &value);
        cas_batch_put(b, CAS_FAMILY_OBJECTS, id->bytes, CAS_HASH_BYTES, value.data,
                      value.len_bytes);
        uint64_t offset = 0;
        for (uint32_t page = 0; page < list_pages(chunk_count); page++) {
                uint32_t first = page * PAGE_REFS;
                uint32_t count = (uint32_t)cas_min_u64(chunk_count - first, PAGE_REFS);
                struct cas_record_key key;
                cas_key_list_page(id, page, &key);
                cas_buf_clear(&value);
                cas_buf_append_le64(&value, offset);
                cas_chunk_refs_encode(refs + first, count, &value);
                for (uint32_t i = 0; i < count; i++)
                        offset += refs[first + i].length_bytes;
                cas_batch_put(b, CAS_FAMILY_OBJECT_CHUNKS, key.bytes, key.len, value.data,
                              value.len_bytes);
        }
}

void cas_batch_del_object(struct cas_batch *b, const struct cas_hash *id, uint32_t chunk_count)
{
        cas_batch_del(b, CAS_FAMILY_OBJECTS, id->bytes, CAS_HASH_BYTES);
        for (uint32_t page = 0; page < list_pages(chunk_count); page++) {
                struct cas_record_key key;
                cas_key_list_page(id, page, &key);
                cas_batch_del(b, CAS_FAMILY_OBJECT_CHUNKS, key.bytes, key.len);
        }
}

void cas_batch_put_pack(struct cas_batch *b, uint64_t pack_id, const struct cas_pack_record *rec)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        cas_key_pack(pack_id, &key);
        cas_pack_record_encode(rec, &value);
        cas_batch_put(b, CAS_FAMILY_PACKS, key.bytes, key.len, value.data, value.len_bytes);
}

void cas_batch_del_pack(struct cas_batch *b, uint64_t pack_id)
{
        struct cas_record_key key;
        cas_key_pack(pack_id, &key);
        cas_batch_del(b, CAS_FAMILY_PACKS, key.bytes, key.len);
}

void cas_batch_put_layer(struct cas_batch *b, const struct cas_layer_record *rec)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        cas_key_digest(&rec->blob, &key);
        cas_layer_record_encode(rec, &value);
        cas_batch_put(b, CAS_FAMILY_LAYERS, key.bytes, key.len, value.data, value.len_bytes);
}

void cas_batch_put_recipe(struct cas_batch *b, const struct cas_recipe_record *rec)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        cas_key_digest(&rec->blob, &key);
        cas_recipe_record_encode(rec, &value);
        cas_batch_put(b, CAS_FAMILY_RECIPES, key.bytes, key.len, value.data, value.len_bytes);
}

void cas_batch_put_tree(struct cas_batch *b, const struct cas_hash *key,
                        const struct cas_tree_record *rec)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        cas_tree_record_encode(rec, &value);
        cas_batch_put(b, CAS_FAMILY_TREES, key->bytes, CAS_HASH_BYTES, value.data, value.len_bytes);
}

/* ---- writing ---- */

/* One change of a batch. */
struct op {
        enum cas_family family;
        bool put;
        size_t key_len, value_len;
        const uint8_t *key, *value;
};

static struct op next_op(struct cas_cursor *c)
{
        struct op op;
        op.family = cas_cursor_u8(c);
        op.put = cas_cursor_u8(c) != 0;
        op.key_len = cas_cursor_le32(c);
        op.value_len = cas_cursor_le32(c);
        op.key = cas_cursor_take(c, op.key_len);
        op.value = cas_cursor_take(c, op.value_len);
        cas_assert(!c->failed);
        return op;
}

/* Packs only grow, and are sealed last: of two records of one, the later has the greater age. */
static uint64_t pack_age(const void *value, size_t value_len)
{
        struct cas_pack_record rec;
        struct cas_err malformed = CAS_ERR_INIT;
        if (cas_pack_record_decode(value, value_len, &rec, &malformed) < 0)
                return 0;
        return rec.size_bytes << 1 | rec.sealed;
}

/* Publications that share a pack each say how long it was when they synced it, and may write that
 * in another order. *out: the index, or the batch so far, knows a later state of the pack. `ages`
 * holds what was seen so far, by key. */
static int pack_is_older(struct cas_index *ix, struct cas_map *ages, const struct op *op, bool *out,
                         struct cas_err *err)
{
        bool unseen;
        cas_assert_held(&ix->packs);
        uint64_t *age = cas_map_put(ages, op->key, op->key_len, &unseen);
        *out = false;
        if (!op->put) { /* whoever removes a pack knows that nobody writes to it */
                *age = 0;
                return 0;
        }
        if (unseen) {
                rocksdb_pinnableslice_t *slice;
                int rc = get_pinned(ix, CAS_FAMILY_PACKS, op->key, op->key_len, &slice, err);
                if (rc < 0)
                        return rc;
                if (slice) {
                        size_t len;
                        const char *value = rocksdb_pinnableslice_value(slice, &len);
                        *age = pack_age(value, len);
                        unpin(ix, slice);
                }
        }
        uint64_t given = pack_age(op->value, op->value_len);
        *out = given < *age;
        *age = cas_max_u64(*age, given);
        return 0;
}

static void write_op(const struct cas_indexdb_open *in, rocksdb_writebatch_t *w,
                     const struct op *op)
{
        struct full_key full;
        full_key_set(&full, op->family, op->key, op->key_len);
        rocksdb_column_family_handle_t *column = in->columns[families[op->family].column];
        if (op->put)
                rocksdb_writebatch_put_cf(w, column, full.bytes, full.len, (const char *)op->value,
                                          op->value_len);
        else
                rocksdb_writebatch_delete_cf(w, column, full.bytes, full.len);
}

static void destroy_writebatch(rocksdb_writebatch_t **w)
{
        rocksdb_writebatch_destroy(*w);
}

/* Inside the database. */
static int write_ops(struct cas_index *ix, const struct cas_indexdb_open *in,
                     const struct cas_batch *b, const rocksdb_writeoptions_t *how,
                     struct cas_map *ages, struct cas_err *err)
{
        __attribute__((cleanup(destroy_writebatch))) rocksdb_writebatch_t *w =
                rocksdb_writebatch_create();
        struct cas_cursor c = cas_cursor_over(b->ops.data, b->ops.len_bytes);
        while (cas_cursor_left(&c) > 0) {
                struct op op = next_op(&c);
                bool older = false;
                if (op.family == CAS_FAMILY_PACKS) {
                        int rc = pack_is_older(ix, ages, &op, &older, err);
                        if (rc < 0)
                                return rc;
                }
                if (!older)
                        write_op(in, w, &op);
        }
        char *message = NULL;
        rocksdb_write(in->db, how, w, &message);
        return message ? cas_indexdb_failed(ix->db, err, message, "write index") : 0;
}

/* Whether collection must not be between its look and its batch while this one is written. */
static bool is_of_references(const struct cas_batch *b)
{
        struct cas_cursor c = cas_cursor_over(b->ops.data, b->ops.len_bytes);
        while (cas_cursor_left(&c) > 0) {
                switch (next_op(&c).family) {
                case CAS_FAMILY_CONDEMNED:
                case CAS_FAMILY_BLOB_REFS:
                case CAS_FAMILY_OBJECT_REFS:
                case CAS_FAMILY_CHUNK_REFS:
                        return true;
                default:
                        break;
                }
        }
        return false;
}

static bool has_packs(const struct cas_batch *b)
{
        struct cas_cursor c = cas_cursor_over(b->ops.data, b->ops.len_bytes);
        while (cas_cursor_left(&c) > 0) {
                if (next_op(&c).family == CAS_FAMILY_PACKS)
                        return true;
        }
        return false;
}

static int write_batch(struct cas_index *ix, struct cas_batch *b, const rocksdb_writeoptions_t *how,
                       struct cas_err *err)
{
        struct cas_indexdb_open in;
        int rc = cas_indexdb_enter(ix->db, &in, err);
        if (rc < 0)
                return rc;
        struct cas_map *ages = has_packs(b) ? cas_map_new() : NULL;
        if (ages)
                cas_mutex_lock(&ix->packs);
        rc = write_ops(ix, &in, b, how, ages, err);
        if (ages)
                cas_mutex_unlock(&ix->packs);
        cas_map_free(ages);
        cas_indexdb_leave(ix->db);
        if (rc == 0)
                cas_buf_clear(&b->ops);
        return rc;
}

int cas_index_write(struct cas_index *ix, struct cas_batch *b, struct cas_err *err)
{
        if (b->ops.len_bytes == 0)
                return 0;
        bool refers = is_of_references(b);
        int rc = cas_indexdb_mend(ix->db, err);
        if (rc < 0)
                return rc;
        if (refers)
                cas_rwlock_read(&ix->condemning);
        rc = write_batch(ix, b, ix->synced, err);
        if (refers)
                cas_rwlock_unlock(&ix->condemning);
        return rc;
}

/* ---- for collection ---- */

void cas_index_condemning_lock(struct cas_index *ix)
{
        cas_rwlock_write(&ix->condemning);
}

void cas_index_condemning_unlock(struct cas_index *ix)
{
        cas_rwlock_unlock(&ix->condemning);
}

int cas_index_write_soon(struct cas_index *ix, struct cas_batch *b, struct cas_err *err)
{
        return b->ops.len_bytes > 0 ? write_batch(ix, b, ix->soon, err) : 0;
}

int cas_index_sync(struct cas_index *ix, struct cas_err *err)
{
        struct cas_indexdb_open in;
        char *message = NULL;
        int rc = cas_indexdb_mend(ix->db, err);
        if (rc == 0)
                rc = cas_indexdb_enter(ix->db, &in, err);
        if (rc < 0)
                return rc;
        rocksdb_flush_wal(in.db, 1, &message);
        cas_indexdb_leave(ix->db);
        return message ? cas_indexdb_failed(ix->db, err, message, "sync index") : 0;
}

uint64_t cas_index_sequence(struct cas_index *ix)
{
        struct cas_indexdb_open in;
        struct cas_err closed = CAS_ERR_INIT;
        static _Atomic(uint64_t) never; /* what cannot be asked has changed */
        if (cas_indexdb_enter(ix->db, &in, &closed) < 0)
                return UINT64_MAX - atomic_fetch_add(&never, 1);
        uint64_t sequence = rocksdb_get_latest_sequence_number(in.db);
        cas_indexdb_leave(ix->db);
        return sequence;
}
