/* SPDX-License-Identifier: Apache-2.0 */
/* Reading of recipes, out of an object or out of a writer. Pages of sections that were read last
 * are kept, so that reading small pieces does not look a block up for each; several threads that
 * regenerate one blob share them. */
#include "cas/recipe_int.h"

#include "cas/condense.h"

#include "cas/mutex.h"

#define PAGE_BYTES (32 * CAS_KIB)
#define PAGES_MAX 32
#define STREAM_BYTES (16 * CAS_KIB)

struct page {
        uint8_t *data; /* owned; NULL: unused */
        enum cas_recipe_section section;
        uint64_t index;
        uint64_t used_at;
};

struct cas_recipe {
        struct cas_store *store;          /* borrowed */
        struct cas_hash object;           /* unless there is a writer */
        struct cas_recipe_writer *writer; /* borrowed, or NULL */
        struct cas_recipe_head head;
        uint64_t section_at[CAS_RECIPE_SECTION_COUNT]; /* in the object */
        struct cas_mutex mutex;                        /* "recipe", a leaf; guards all below */
        struct page pages[PAGES_MAX];
        uint64_t clock;
};

const struct cas_recipe_head *cas_recipe_head(const struct cas_recipe *r)
{
        return &r->head;
}

struct cas_store *cas_recipe_store(const struct cas_recipe *r)
{
        return r->store;
}

static struct cas_recipe *recipe_new(struct cas_store *s)
{
        struct cas_recipe *r = cas_xcalloc(1, sizeof(*r));
        r->store = s;
        cas_mutex_init(&r->mutex, "recipe");
        return r;
}

void cas_recipe_close(struct cas_recipe *r)
{
        if (!r)
                return;
        for (unsigned i = 0; i < PAGES_MAX; i++)
                free(r->pages[i].data);
        cas_mutex_release(&r->mutex);
        free(r);
}

/* ---- opening ---- */

static int head_decode(const uint8_t bytes[CAS_RECIPE_HEAD_BYTES], struct cas_recipe_head *head,
                       struct cas_err *err)
{
        if (memcmp(bytes, CAS_RECIPE_MAGIC, 4) != 0)
                return cas_fail(err, CAS_E_CORRUPT, "not a recipe");
        if (cas_get_le32(bytes + 4) != CAS_RECIPE_VERSION)
                return cas_fail(err, CAS_E_UNSUPPORTED, "version %u", cas_get_le32(bytes + 4));
        if (bytes[24] >= CAS_WRAP_KIND_COUNT)
                return cas_fail(err, CAS_E_UNSUPPORTED, "wrap of kind %u", bytes[24]);
        head->blob_bytes = cas_get_le64(bytes + 8);
        head->tar_bytes = cas_get_le64(bytes + 16);
        head->wrap = (enum cas_wrap_kind)bytes[24];
        head->mark_bytes = bytes[25];
        head->mark_count = cas_get_le32(bytes + 28);
        if (cas_get_le16(bytes + 26) != 0 || head->blob_bytes > CAS_OBJECT_BYTES_MAX ||
            head->tar_bytes > CAS_TAR_BYTES_MAX || head->mark_bytes < CAS_RECIPE_MARK_BYTES_MIN ||
            head->mark_bytes > CAS_RECIPE_MARK_BYTES_MAX || head->mark_count == 0)
                return cas_fail(err, CAS_E_CORRUPT, "a value of its head is out of range");
        for (unsigned i = 0; i < CAS_RECIPE_SECTION_COUNT; i++)
                head->section_bytes[i] = cas_get_le64(bytes + 32 + 8 * i);
        return 0;
}

/* Sections follow the head without a gap, and nothing follows them. */
static int place_sections(struct cas_recipe *r, uint64_t object_bytes, struct cas_err *err)
{
        const struct cas_recipe_head *head = &r->head;
        uint64_t at = CAS_RECIPE_HEAD_BYTES;
        for (unsigned i = 0; i < CAS_RECIPE_SECTION_COUNT; i++) {
                r->section_at[i] = at;
                if (head->section_bytes[i] > object_bytes - at)
                        return cas_fail(err, CAS_E_CORRUPT, "section %u is cut off", i);
                at += head->section_bytes[i];
        }
        if (at != object_bytes ||
            head->section_bytes[CAS_RECIPE_MARKS] != (uint64_t)head->mark_count * head->mark_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "its sections have other lengths than it");
        return 0;
}

static int read_head(struct cas_recipe *r, struct cas_err *err)
{
        uint8_t bytes[CAS_RECIPE_HEAD_BYTES];
        struct cas_object_info info;
        struct cas_recipe_mark first;
        size_t got = 0;
        if (cas_object_stat(r->store, &r->object, &info, err) < 0 ||
            cas_object_pread(r->store, &r->object, 0, bytes, sizeof(bytes), &got, err) < 0)
                return -(int)err->code;
        if (got < sizeof(bytes))
                return cas_fail(err, CAS_E_CORRUPT, "not a recipe");
        if (head_decode(bytes, &r->head, err) < 0 || place_sections(r, info.size_bytes, err) < 0 ||
            cas_recipe_mark(r, 0, &first, err) < 0)
                return -(int)err->code;
        if (first.blob_offset != 0 || first.tar_offset != 0)
                return cas_fail(err, CAS_E_CORRUPT, "its first mark is not the beginning");
        return 0;
}

int cas_recipe_open(struct cas_store *s, const struct cas_hash *object, struct cas_recipe **out,
                    struct cas_err *err)
{
        cas_cleanup_recipe struct cas_recipe *r = recipe_new(s);
        char hex[CAS_HASH_HEX_BYTES];
        r->object = *object;
        if (read_head(r, err) < 0)
                return cas_err_wrap(err, "recipe %s", cas_hash_hex(object, hex));
        *out = cas_steal(&r);
        return 0;
}

int cas_recipe_open_writer(struct cas_recipe_writer *w, struct cas_recipe **out,
                           struct cas_err *err)
{
        if (w->head.mark_count == 0)
                return cas_fail(err, CAS_E_INVALID, "a recipe without a mark");
        struct cas_recipe *r = recipe_new(w->store);
        r->writer = w;
        r->head = w->head;
        for (unsigned i = 0; i < CAS_RECIPE_SECTION_COUNT; i++)
                r->head.section_bytes[i] = cas_spool_bytes(w->sections[i]);
        *out = r;
        return 0;
}

/* ---- pages ---- */

static int fetch(struct cas_recipe *r, enum cas_recipe_section section, uint64_t offset, void *buf,
                 size_t len, struct cas_err *err)
{
        size_t got = 0;
        if (r->writer)
                return cas_spool_read(r->writer->sections[section], offset, buf, len, err);
        if (cas_object_pread(r->store, &r->object, r->section_at[section] + offset, buf, len, &got,
                             err) < 0)
                return -(int)err->code;
        cas_assert(got == len); /* place_sections saw to it */
        return 0;
}

static struct page *find_page_locked(struct cas_recipe *r, enum cas_recipe_section section,
                                     uint64_t index)
{
        cas_assert_held(&r->mutex);
        for (unsigned i = 0; i < PAGES_MAX; i++) {
                struct page *p = &r->pages[i];
                if (p->data && p->index == index && p->section == section) {
                        p->used_at = ++r->clock;
                        return p;
                }
        }
        return NULL;
}

/* Takes data over: in the place of the page that was not used for longest. */
static void keep_page_locked(struct cas_recipe *r, enum cas_recipe_section section, uint64_t index,
                             uint8_t *data)
{
        struct page *p = find_page_locked(r, section, index);
        for (unsigned i = 0; !p && i < PAGES_MAX; i++)
                if (!r->pages[i].data)
                        p = &r->pages[i];
        if (!p) {
                p = &r->pages[0];
                for (unsigned i = 1; i < PAGES_MAX; i++)
                        if (r->pages[i].used_at < p->used_at)
                                p = &r->pages[i];
        }
        free(p->data);
        *p = (struct page){.data = data, .section = section, .index = index, .used_at = ++r->clock};
}

/* Bytes of one page. */
static int read_page(struct cas_recipe *r, enum cas_recipe_section section, uint64_t offset,
                     void *buf, size_t len, struct cas_err *err)
{
        uint64_t index = offset / PAGE_BYTES, start = index * PAGE_BYTES;
        cas_mutex_lock(&r->mutex);
        struct page *p = find_page_locked(r, section, index);
        if (p)
                memcpy(buf, p->data + (offset - start), len);
        cas_mutex_unlock(&r->mutex);
        if (p)
                return 0;
        size_t bytes = cas_min_u64(PAGE_BYTES, r->head.section_bytes[section] - start);
        cas_cleanup_free uint8_t *data = cas_xmalloc(bytes);
        if (fetch(r, section, start, data, bytes, err) < 0)
                return -(int)err->code;
        memcpy(buf, data + (offset - start), len);
        cas_mutex_lock(&r->mutex);
        keep_page_locked(r, section, index, cas_steal(&data));
        cas_mutex_unlock(&r->mutex);
        return 0;
}

int cas_recipe_read(struct cas_recipe *r, enum cas_recipe_section section, uint64_t offset,
                    void *buf, size_t len, struct cas_err *err)
{
        uint64_t bytes = r->head.section_bytes[section];
        uint8_t *out = buf;
        if (offset > bytes || len > bytes - offset)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: section %d ends early", (int)section);
        if (len >= PAGE_BYTES)
                return fetch(r, section, offset, out, len, err);
        while (len > 0) {
                size_t n = cas_min_u64(len, PAGE_BYTES - offset % PAGE_BYTES);
                if (read_page(r, section, offset, out, n, err) < 0)
                        return -(int)err->code;
                out += n;
                offset += n;
                len -= n;
        }
        return 0;
}

/* ---- marks ---- */

int cas_recipe_mark(struct cas_recipe *r, uint32_t index, struct cas_recipe_mark *out,
                    struct cas_err *err)
{
        uint8_t bytes[CAS_RECIPE_MARK_BYTES_MAX];
        size_t width = r->head.mark_bytes;
        cas_assert(index < r->head.mark_count);
        if (cas_recipe_read(r, CAS_RECIPE_MARKS, (uint64_t)index * width, bytes, width, err) < 0)
                return -(int)err->code;
        *out = (struct cas_recipe_mark){
                .blob_offset = cas_get_le64(bytes),
                .tar_offset = cas_get_le64(bytes + 8),
                .state_bytes = bytes[16],
        };
        if (out->blob_offset > r->head.blob_bytes || out->tar_offset > r->head.tar_bytes ||
            out->state_bytes > width - CAS_RECIPE_MARK_BYTES_MIN)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: mark %u is out of range", index);
        memcpy(out->state, bytes + CAS_RECIPE_MARK_BYTES_MIN, out->state_bytes);
        return 0;
}

int cas_recipe_find_mark(struct cas_recipe *r, uint64_t blob_offset, uint32_t *out_index,
                         struct cas_err *err)
{
        uint32_t low = 0, high = r->head.mark_count; /* the first is at 0 */
        while (high - low > 1) {
                struct cas_recipe_mark mark;
                uint32_t middle = low + (high - low) / 2;
                if (cas_recipe_mark(r, middle, &mark, err) < 0)
                        return -(int)err->code;
                if (mark.blob_offset <= blob_offset)
                        low = middle;
                else
                        high = middle;
        }
        *out_index = low;
        return 0;
}

/* ---- streams ---- */

void cas_recipe_stream_init(struct cas_recipe_stream *st, struct cas_recipe *r,
                            enum cas_recipe_section section, uint64_t offset)
{
        *st = (struct cas_recipe_stream){.recipe = r, .section = section, .offset = offset};
}

void cas_recipe_stream_release(struct cas_recipe_stream *st)
{
        free(st->buffer);
        *st = (struct cas_recipe_stream){0};
}

uint64_t cas_recipe_stream_left(const struct cas_recipe_stream *st)
{
        uint64_t bytes = st->recipe->head.section_bytes[st->section];
        return st->offset < bytes ? bytes - st->offset : 0;
}

/* At least one byte in the buffer. */
static int fill(struct cas_recipe_stream *st, struct cas_err *err)
{
        size_t n = cas_min_u64(STREAM_BYTES, cas_recipe_stream_left(st));
        if (n == 0)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: section %d ends early",
                                (int)st->section);
        if (!st->buffer)
                st->buffer = cas_xmalloc(STREAM_BYTES);
        if (cas_recipe_read(st->recipe, st->section, st->offset, st->buffer, n, err) < 0)
                return -(int)err->code;
        st->at = 0;
        st->end = n;
        return 0;
}

int cas_recipe_stream_read(struct cas_recipe_stream *st, void *buf, size_t len, struct cas_err *err)
{
        uint8_t *out = buf;
        while (len > 0) {
                size_t n = cas_min_u64(len, st->end - st->at);
                if (n == 0 && len >= STREAM_BYTES) { /* past the buffer */
                        if (cas_recipe_read(st->recipe, st->section, st->offset, out, len, err) < 0)
                                return -(int)err->code;
                        st->offset += len;
                        return 0;
                }
                if (n == 0) {
                        if (fill(st, err) < 0)
                                return -(int)err->code;
                        continue;
                }
                memcpy(out, st->buffer + st->at, n);
                st->at += n;
                st->offset += n;
                out += n;
                len -= n;
        }
        return 0;
}

int cas_recipe_stream_varint(struct cas_recipe_stream *st, uint64_t *out, struct cas_err *err)
{
        uint64_t v = 0;
        for (unsigned shift = 0; shift < 64; shift += 7) {
                if (st->at == st->end && fill(st, err) < 0)
                        return -(int)err->code;
                uint8_t byte = st->buffer[st->at++];
                st->offset++;
                if ((shift == 63 && byte > 1) || (shift > 0 && byte == 0))
                        break;
                v |= (uint64_t)(byte & 0x7f) << shift;
                if (!(byte & 0x80)) {
                        *out = v;
                        return 0;
                }
        }
        return cas_fail(err, CAS_E_CORRUPT, "recipe: malformed number in section %d",
                        (int)st->section);
}

int cas_recipe_stream_skip(struct cas_recipe_stream *st, uint64_t bytes, struct cas_err *err)
{
        if (bytes > cas_recipe_stream_left(st))
                return cas_fail(err, CAS_E_CORRUPT, "recipe: section %d ends early",
                                (int)st->section);
        size_t n = cas_min_u64(bytes, st->end - st->at);
        st->at += n;
        st->offset += bytes;
        if (n < bytes)
                st->at = st->end = 0;
        return 0;
}

int cas_recipe_wrap_bytes(struct cas_store *s, const struct cas_recipe_record *rec,
                          uint64_t *out_bytes, struct cas_err *err)
{
        cas_cleanup_recipe struct cas_recipe *r = NULL;
        if (cas_recipe_open(s, &rec->recipe, &r, err) < 0)
                return -(int)err->code;
        const uint64_t *bytes = cas_recipe_head(r)->section_bytes;
        *out_bytes = bytes[CAS_RECIPE_WRAP] + bytes[CAS_RECIPE_WRAP_DATA] + bytes[CAS_RECIPE_MARKS];
        return 0;
}
