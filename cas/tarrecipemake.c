/* SPDX-License-Identifier: Apache-2.0 */
/* Taking a tar stream apart. It is walked block by block; only what must be known to find the
 * content of files is looked at (checksum, type, size, names and the extended headers that overrule
 * them), and what makes no sense is kept as it is until the next valid header. Whatever is
 * understood wrongly here costs bytes and nothing else: operations say what the stream is, not what
 * it means. */
#include "cas/map.h"
#include "cas/path.h"
#include "cas/tar_int.h"
#include "cas/tarops_int.h"
#include "cas/verity.h"

#define WINDOW_BYTES (128 * CAS_KIB)
/* A file up to this is put aside while it is hashed, which needs no disk; a larger one is compared
 * with the object that the listing has for its name. */
#define HASH_BYTES_MAX (256 * CAS_KIB)
#define COMPARE_BYTES (128 * CAS_KIB)

struct maker {
        const struct cas_recipe_writer *writer;
        struct cas_store *store;
        struct cas_tarops ops;

        cas_source_fn source;
        void *arg;
        uint8_t *window; /* owned; what is not taken yet is [at, end) */
        size_t at, end;
        bool source_ended;

        struct cas_listed *listed; /* owned; sorted by path */
        size_t listed_count;
        struct cas_map *listed_by_object; /* object -> number in listed, + 1 */

        /* Extended headers that wait for their entry. */
        struct cas_buf records, long_name;
        struct cas_verity *verity;
        struct cas_spool *aside;
};

static void maker_release(struct maker *m)
{
        for (size_t i = 0; i < m->listed_count; i++)
                cas_entry_release(&m->listed[i].entry);
        free(m->listed);
        free(m->window);
        cas_map_free(m->listed_by_object);
        cas_tarops_release(&m->ops);
        cas_buf_release(&m->records);
        cas_buf_release(&m->long_name);
        cas_verity_free(m->verity);
        cas_spool_free(m->aside);
}
#define cleanup_maker __attribute__((cleanup(maker_release)))

/* ---- the stream ---- */

/* At least `want` bytes in the window (want ≤ WINDOW_BYTES) unless the stream ends; *have says how
 * many there are. */
static int look(struct maker *m, size_t want, size_t *have, struct cas_err *err)
{
        if (m->end - m->at < want && m->at > 0) {
                memmove(m->window, m->window + m->at, m->end - m->at);
                m->end -= m->at;
                m->at = 0;
        }
        while (m->end - m->at < want && !m->source_ended) {
                size_t n = 0;
                if (m->source(m->arg, m->window + m->end, WINDOW_BYTES - m->end, &n, err) < 0)
                        return -(int)err->code;
                m->source_ended = n == 0;
                m->end += n;
        }
        *have = m->end - m->at;
        return 0;
}

/* Up to max bytes of the stream are own bytes; fewer only at its end. */
static int pass_own(struct maker *m, uint64_t max, struct cas_err *err)
{
        while (max > 0) {
                size_t have = 0;
                if (look(m, 1, &have, err) < 0)
                        return -(int)err->code;
                size_t n = cas_min_u64(have, max);
                if (n == 0)
                        return 0;
                if (cas_tarops_own(&m->ops, m->window + m->at, n, err) < 0)
                        return -(int)err->code;
                m->at += n;
                max -= n;
        }
        return 0;
}

/* Whether the padding after content of `bytes` is there, all zeros; then it is taken. */
static int take_padding(struct maker *m, uint64_t bytes, bool *out, struct cas_err *err)
{
        static const uint8_t zeros[CAS_TAR_BLOCK_BYTES];
        size_t padding = cas_align_up(bytes, CAS_TAR_BLOCK_BYTES) - bytes, have = 0;
        if (look(m, padding, &have, err) < 0)
                return -(int)err->code;
        *out = have >= padding && memcmp(m->window + m->at, zeros, padding) == 0;
        if (*out)
                m->at += padding;
        return 0;
}

/* What stands between content that is own bytes, or an object's, and the next block. */
static int pass_padding(struct maker *m, uint64_t bytes, struct cas_err *err)
{
        uint64_t padding = cas_align_up(bytes, CAS_TAR_BLOCK_BYTES) - bytes;
        bool zero = false;
        if (take_padding(m, bytes, &zero, err) < 0)
                return -(int)err->code;
        return zero ? cas_tarops_zeros(&m->ops, padding, err) : pass_own(m, padding, err);
}

/* ---- content ---- */

static const struct cas_listed *find_listed_object(const struct maker *m, const struct cas_hash *id)
{
        const uint64_t *number = cas_map_get(m->listed_by_object, id->bytes, CAS_HASH_BYTES);
        return number ? &m->listed[*number - 1] : NULL;
}

static int finish_content(struct maker *m, const struct cas_listed *l, struct cas_err *err)
{
        bool padded = false;
        if (take_padding(m, l->entry.size_bytes, &padded, err) < 0)
                return -(int)err->code;
        return cas_tarops_content(&m->ops, l, padded, err);
}

/* Content that is within the window. */
static int take_inline(struct maker *m, uint64_t bytes, const struct cas_listed *l,
                       struct cas_err *err)
{
        size_t have = 0;
        if (look(m, bytes, &have, err) < 0)
                return -(int)err->code;
        if (have < bytes || !l ||
            memcmp(m->window + m->at, l->entry.inline_data, (size_t)bytes) != 0)
                return pass_own(m, bytes, err) < 0 ? -(int)err->code : pass_padding(m, bytes, err);
        m->at += bytes;
        return finish_content(m, l, err);
}

/* Hashes content while it is put aside; *have gets how much there was. */
static int hash_content(struct maker *m, uint64_t bytes, struct cas_hash *id, uint64_t *have,
                        struct cas_err *err)
{
        cas_spool_truncate(m->aside, 0);
        for (*have = 0; *have < bytes;) {
                size_t n = 0;
                if (look(m, 1, &n, err) < 0)
                        return -(int)err->code;
                n = cas_min_u64(n, bytes - *have);
                if (n == 0)
                        break;
                cas_verity_update(m->verity, m->window + m->at, n);
                if (cas_spool_append(m->aside, m->window + m->at, n, err) < 0)
                        return -(int)err->code;
                m->at += n;
                *have += n;
        }
        cas_verity_final(m->verity, id);
        return 0;
}

static int put_aside(struct maker *m, struct cas_err *err)
{
        cas_cleanup_free uint8_t *piece = cas_xmalloc(COMPARE_BYTES);
        uint64_t bytes = cas_spool_bytes(m->aside);
        for (uint64_t at = 0; at < bytes;) {
                size_t n = cas_min_u64(COMPARE_BYTES, bytes - at);
                if (cas_spool_read(m->aside, at, piece, n, err) < 0 ||
                    cas_tarops_own(&m->ops, piece, n, err) < 0)
                        return -(int)err->code;
                at += n;
        }
        return 0;
}

/* l: the entry of its name, or NULL. */
static int take_hashed(struct maker *m, uint64_t bytes, const struct cas_listed *l,
                       struct cas_err *err)
{
        struct cas_hash id;
        struct cas_object_info info;
        struct cas_err reason = CAS_ERR_INIT;
        uint64_t have = 0;
        if (hash_content(m, bytes, &id, &have, err) < 0)
                return -(int)err->code;
        if (have < bytes)
                return put_aside(m, err);
        if (!l || !cas_hash_equal(&l->entry.object, &id))
                l = find_listed_object(m, &id);
        if (l)
                return finish_content(m, l, err);
        cas_recipe_writer_pin(m->writer, &id);
        int ret = cas_object_stat(m->store, &id, &info, &reason);
        if (ret < 0 && ret != -CAS_E_NOTFOUND) {
                *err = reason;
                return ret;
        }
        ret = ret == 0 ? cas_tarops_object(&m->ops, &id, 0, bytes, err) : put_aside(m, err);
        return ret < 0 ? ret : pass_padding(m, bytes, err);
}

/* How many of `bytes` bytes of the stream are those of the object from `offset` on; they are
 * taken. */
static int compare_content(struct maker *m, const struct cas_hash *id, uint64_t offset,
                           uint64_t bytes, uint64_t *equal, struct cas_err *err)
{
        cas_cleanup_free uint8_t *piece = cas_xmalloc(COMPARE_BYTES);
        for (*equal = 0; *equal < bytes;) {
                size_t have = 0, n = 0, same = 0;
                if (look(m, 1, &have, err) < 0)
                        return -(int)err->code;
                have = cas_min_u64(cas_min_u64(have, COMPARE_BYTES), bytes - *equal);
                if (have > 0 &&
                    cas_object_pread(m->store, id, offset + *equal, piece, have, &n, err) < 0)
                        return -(int)err->code;
                while (same < n && piece[same] == m->window[m->at + same])
                        same++;
                m->at += same;
                *equal += same;
                if (same < have || have == 0)
                        break;
        }
        return 0;
}

static int take_compared(struct maker *m, uint64_t bytes, const struct cas_listed *l,
                         struct cas_err *err)
{
        uint64_t equal = 0;
        if (compare_content(m, &l->entry.object, 0, bytes, &equal, err) < 0)
                return -(int)err->code;
        if (equal == bytes)
                return finish_content(m, l, err);
        if ((equal > 0 && cas_tarops_object(&m->ops, &l->entry.object, 0, equal, err) < 0) ||
            pass_own(m, bytes - equal, err) < 0)
                return -(int)err->code;
        return pass_padding(m, bytes, err);
}

static int take_content(struct maker *m, uint64_t bytes, const struct cas_listed *l,
                        struct cas_err *err)
{
        if (bytes == 0)
                return 0;
        if (l && (l->entry.type != CAS_ENTRY_FILE || l->entry.size_bytes != bytes))
                l = NULL;
        if (bytes <= CAS_INLINE_BYTES_MAX)
                return take_inline(m, bytes, l, err);
        if (bytes > HASH_BYTES_MAX && l)
                return take_compared(m, bytes, l, err);
        return take_hashed(m, bytes, l, err);
}

/* ---- headers ---- */

static void forget_extensions(struct maker *m)
{
        cas_buf_clear(&m->records);
        cas_buf_clear(&m->long_name);
}

static int listed_order(const void *key, const void *element)
{
        return cas_path_compare(key, ((const struct cas_listed *)element)->entry.path);
}

/* The entry of a name in the tar, or NULL. */
static const struct cas_listed *find_listed(const struct maker *m, const char *name)
{
        struct cas_err reason = CAS_ERR_INIT;
        cas_cleanup_free char *path = NULL;
        if (m->listed_count == 0 || cas_path_clean(name, &path, &reason) < 0)
                return NULL;
        return bsearch(path, m->listed, m->listed_count, sizeof(m->listed[0]), listed_order);
}

/* The data of an extended header: own bytes, and up to a limit in `text`. */
static int take_extension(struct maker *m, uint64_t bytes, struct cas_buf *text,
                          struct cas_err *err)
{
        size_t have = 0;
        cas_buf_clear(text);
        while (bytes <= CAS_TAR_HEADER_BYTES_MAX && text->len_bytes < bytes) {
                if (look(m, 1, &have, err) < 0)
                        return -(int)err->code;
                size_t n = cas_min_u64(have, bytes - text->len_bytes);
                if (n == 0)
                        break;
                cas_buf_append(text, m->window + m->at, n);
                if (pass_own(m, n, err) < 0)
                        return -(int)err->code;
        }
        if (pass_own(m, bytes - text->len_bytes, err) < 0)
                return -(int)err->code;
        return pass_padding(m, bytes, err);
}

static int take_pax(struct maker *m, uint64_t bytes, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        struct cas_err reason = CAS_ERR_INIT;
        if (take_extension(m, bytes, &text, err) < 0)
                return -(int)err->code;
        if (cas_tar_pax_parse(&text, &m->records, &reason) < 0)
                cas_buf_clear(&m->records); /* its entry's header is taken at its word */
        return 0;
}

/* ---- sparse files ---- */

/* The map blocks that follow an old GNU header; false when they are not understood. */
static int take_map_blocks(struct maker *m, struct cas_tar_map *map, bool *good,
                           struct cas_err *err)
{
        struct cas_err reason = CAS_ERR_INIT;
        for (bool extended = true; extended && *good;) {
                size_t have = 0;
                if (look(m, CAS_TAR_BLOCK_BYTES, &have, err) < 0)
                        return -(int)err->code;
                *good = have >= CAS_TAR_BLOCK_BYTES &&
                        cas_tar_block_sparse(m->window + m->at, map, &extended, &reason) == 0;
                if (*good && pass_own(m, CAS_TAR_BLOCK_BYTES, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

/* Lines of digits: how many regions, then offset and length of each. */
struct map_text {
        struct cas_tar_map *map;
        uint64_t number, numbers_left; /* the line under way; lines that are still to come */
        uint64_t offset;
        unsigned digits;
        bool has_count, good;
};

static void take_map_byte(struct map_text *t, uint8_t byte)
{
        struct cas_err reason = CAS_ERR_INIT;
        if (byte >= '0' && byte <= '9' && t->digits < 18) {
                t->number = t->number * 10 + (uint64_t)(byte - '0');
                t->digits++;
                return;
        }
        t->good = byte == '\n' && t->digits > 0;
        if (!t->has_count) {
                t->good = t->good && t->number <= CAS_TAR_SPARSE_MAX;
                t->numbers_left = 2 * t->number;
                t->has_count = true;
        } else if (t->numbers_left-- % 2 == 0) {
                t->offset = t->number;
        } else if (cas_tar_map_add(t->map, t->offset, t->number, &reason) < 0) {
                t->good = false;
        }
        t->number = t->digits = 0;
}

/* The map that PAX 1.0 has before the data, a multiple of a block; *bytes are what is stored. */
static int take_map_text(struct maker *m, struct cas_tar_map *map, uint64_t *bytes, bool *good,
                         struct cas_err *err)
{
        struct map_text t = {.map = map, .good = true};
        while (t.good && (!t.has_count || t.numbers_left > 0)) {
                size_t have = 0;
                if (look(m, CAS_TAR_BLOCK_BYTES, &have, err) < 0)
                        return -(int)err->code;
                t.good = have >= CAS_TAR_BLOCK_BYTES && *bytes >= CAS_TAR_BLOCK_BYTES;
                for (size_t i = 0;
                     t.good && i < CAS_TAR_BLOCK_BYTES && (!t.has_count || t.numbers_left > 0); i++)
                        take_map_byte(&t, m->window[m->at + i]);
                if (!t.good)
                        break;
                *bytes -= CAS_TAR_BLOCK_BYTES;
                if (pass_own(m, CAS_TAR_BLOCK_BYTES, err) < 0)
                        return -(int)err->code;
        }
        *good = t.good;
        return 0;
}

/* Regions as pieces of the expanded file, as far as they are equal to it. */
static int take_regions(struct maker *m, const struct cas_tar_map *map, const struct cas_hash *id,
                        uint64_t bytes, struct cas_err *err)
{
        uint64_t left = bytes;
        for (size_t i = 0; i < map->count && left > 0; i++) {
                const struct cas_tar_region *r = &map->regions[i];
                uint64_t length = cas_min_u64(r->length, left), equal = 0;
                if (length > CAS_INLINE_BYTES_MAX &&
                    compare_content(m, id, r->offset, length, &equal, err) < 0)
                        return -(int)err->code;
                if ((equal > 0 && cas_tarops_object(&m->ops, id, r->offset, equal, err) < 0) ||
                    pass_own(m, length - equal, err) < 0)
                        return -(int)err->code;
                left -= length;
        }
        if (pass_own(m, left, err) < 0)
                return -(int)err->code;
        return pass_padding(m, bytes, err);
}

/* What is stored of a sparse file, behind its header. */
static int take_sparse(struct maker *m, struct cas_tar_header *h, bool extended,
                       const struct cas_listed *l, struct cas_err *err)
{
        uint64_t bytes = h->stored_bytes;
        bool good = true;
        if (extended && take_map_blocks(m, &h->map, &good, err) < 0)
                return -(int)err->code;
        if (good && h->sparse == CAS_TAR_SPARSE_IN_DATA) {
                cas_tar_map_release(&h->map);
                if (take_map_text(m, &h->map, &bytes, &good, err) < 0)
                        return -(int)err->code;
        }
        if (!good)
                return 0; /* blocks like others */
        if (l && l->entry.type == CAS_ENTRY_FILE && l->entry.size_bytes > CAS_INLINE_BYTES_MAX)
                return take_regions(m, &h->map, &l->entry.object, bytes, err);
        return pass_own(m, bytes, err) < 0 ? -(int)err->code : pass_padding(m, bytes, err);
}

/* ---- entries ---- */

/* What follows the header of an entry: h is its block with what extended headers say. */
static int take_entry(struct maker *m, struct cas_tar_header *h, bool extended,
                      const struct cas_listed *l, struct cas_err *err)
{
        const char *path = h->entry.path;
        size_t len = strlen(path);
        switch (h->typeflag) {
        case '\0':
                if (len > 0 && path[len - 1] == '/')
                        return 0;
                break;
        case '0':
        case '7':
        case 'S':
                break;
        default:
                return 0;
        }
        if (h->sparse != CAS_TAR_DENSE) /* what is stored is not the content */
                return take_sparse(m, h, extended, l, err);
        return take_content(m, h->stored_bytes, l, err);
}

/* A header of extended headers, with its data. */
static int take_extended(struct maker *m, const struct cas_tar_header *h, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        if (cas_tarops_header(&m->ops, h->block, NULL, err) < 0)
                return -(int)err->code;
        switch (h->typeflag) {
        case 'x':
        case 'X':
                return take_pax(m, h->stored_bytes, err);
        case 'L':
                return take_extension(m, h->stored_bytes, &m->long_name, err);
        default:
                return take_extension(m, h->stored_bytes, &text, err);
        }
}

static int take_header(struct maker *m, struct cas_tar_header *h, struct cas_err *err)
{
        struct cas_err reason = CAS_ERR_INIT;
        bool extended = false, known;
        known = cas_tar_block_parse(m->window + m->at, h, &extended, &reason) == 0;
        m->at += CAS_TAR_BLOCK_BYTES;
        if (known && strchr("xXLKgV", h->typeflag) && h->typeflag != '\0')
                return take_extended(m, h, err);
        known = known && cas_tar_pax_apply(&m->records, h, &reason) == 0;
        const char *name = m->long_name.len_bytes > 0 ? cas_buf_str(&m->long_name) : h->entry.path;
        if (h->sparse_name)
                name = h->sparse_name;
        const struct cas_listed *l = known ? find_listed(m, name) : NULL;
        forget_extensions(m);
        if (cas_tarops_header(&m->ops, h->block, l, err) < 0)
                return -(int)err->code;
        return known ? take_entry(m, h, extended, l, err) : 0;
}

static int walk(struct maker *m, struct cas_err *err)
{
        for (;;) {
                size_t have = 0;
                const uint8_t *block;
                if (cas_tarops_seek(&m->ops, err) < 0 ||
                    look(m, CAS_TAR_BLOCK_BYTES, &have, err) < 0)
                        return -(int)err->code;
                block = m->window + m->at;
                if (have < CAS_TAR_BLOCK_BYTES)
                        return pass_own(m, have, err);
                if (cas_tar_block_zero(block)) {
                        m->at += CAS_TAR_BLOCK_BYTES;
                        if (cas_tarops_zeros(&m->ops, CAS_TAR_BLOCK_BYTES, err) < 0)
                                return -(int)err->code;
                } else if (cas_tar_block_valid(block)) {
                        struct cas_tar_header h = {0};
                        int ret = take_header(m, &h, err);
                        cas_tar_header_release(&h);
                        if (ret < 0)
                                return ret;
                } else {
                        forget_extensions(m);
                        if (pass_own(m, CAS_TAR_BLOCK_BYTES, err) < 0)
                                return -(int)err->code;
                }
        }
}

/* ---- the listing ---- */

static int add_listed(struct maker *m, const struct cas_buf *bytes, size_t *at, struct cas_err *err)
{
        size_t len = 0;
        struct cas_listed *l = &m->listed[m->listed_count];
        if (cas_listing_decode_entry(bytes->data + *at, bytes->len_bytes - *at, &l->entry, &len,
                                     err) < 0)
                return -(int)err->code;
        l->start = *at;
        *at += len;
        l->end = *at;
        m->listed_count++;
        if (l->entry.type == CAS_ENTRY_FILE && l->entry.size_bytes > CAS_INLINE_BYTES_MAX) {
                bool inserted;
                uint64_t *number = cas_map_put(m->listed_by_object, l->entry.object.bytes,
                                               CAS_HASH_BYTES, &inserted);
                if (inserted)
                        *number = m->listed_count;
        }
        return 0;
}

static int take_listing(struct maker *m, const struct cas_hash *id, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        size_t at = CAS_LISTING_HEAD_BYTES;
        if (!id)
                return 0;
        if (cas_object_read(m->store, id, CAS_LISTING_BYTES_MAX, &bytes, err) < 0 ||
            cas_listing_check_head(bytes.data, bytes.len_bytes, err) < 0)
                return -(int)err->code;
        uint64_t count = cas_get_le64(bytes.data + CAS_LISTING_HEAD_BYTES - 8);
        if (count > CAS_TAR_ENTRIES_MAX)
                return cas_fail(err, CAS_E_CORRUPT, "listing of %llu entries",
                                (unsigned long long)count);
        m->listed = calloc(count ? (size_t)count : 1, sizeof(m->listed[0]));
        if (!m->listed)
                return cas_fail(err, CAS_E_NOMEM, "listing of %llu entries",
                                (unsigned long long)count);
        for (uint64_t i = 0; i < count; i++)
                if (add_listed(m, &bytes, &at, err) < 0)
                        return -(int)err->code;
        return 0;
}

int cas_tarrecipe_make(struct cas_store *s, const struct cas_hash *listing, cas_source_fn tar,
                       void *tar_arg, struct cas_recipe_writer *w, struct cas_tarrecipe_stats *out,
                       struct cas_err *err)
{
        cleanup_maker struct maker m = {.store = s, .writer = w, .source = tar, .arg = tar_arg};
        m.window = cas_xmalloc(WINDOW_BYTES);
        m.listed_by_object = cas_map_new();
        m.verity = cas_verity_new();
        m.aside = cas_spool_new(s);
        if (cas_tarops_begin(&m.ops, w, listing, err) < 0 || take_listing(&m, listing, err) < 0 ||
            walk(&m, err) < 0 || cas_tarops_finish(&m.ops, out, err) < 0)
                return -(int)err->code;
        return 0;
}
