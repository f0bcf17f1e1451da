/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/tar.h"

#include <inttypes.h>

#include "cas/tar_int.h"

#define ZEROS_BYTES (64 * 1024)
static const uint8_t zeros[ZEROS_BYTES];

struct cas_tar {
        cas_tar_source_fn source;
        void *arg;
        const uint8_t *window; /* borrowed from the source; not read yet */
        size_t window_bytes;
        bool source_ended;
        uint64_t stream_bytes;
        uint8_t block[CAS_TAR_BLOCK_BYTES]; /* one that two windows share */

        /* Extended headers that wait for their entry, and those for all entries. */
        struct cas_buf global_records, records, long_name, long_link;
        bool has_extension;

        struct cas_tar_header header; /* the entry that was given last */
        uint64_t content_left;        /* dense: bytes to give */
        uint64_t stored_left;         /* bytes of its data in the stream */
        size_t padding_left;          /* after them */
        size_t region;                /* sparse: the region at or after position */
        uint64_t position;            /* sparse: of the content */
        uint64_t hole_bytes;
        bool at_end;
};

int cas_tar_open(cas_tar_source_fn source, void *arg, struct cas_tar **out,
                 struct cas_err *err CAS_UNUSED)
{
        struct cas_tar *t = cas_xcalloc(1, sizeof(*t));
        t->source = source;
        t->arg = arg;
        *out = t;
        return 0;
}

void cas_tar_close(struct cas_tar *t)
{
        if (!t)
                return;
        cas_tar_header_release(&t->header);
        cas_buf_release(&t->global_records);
        cas_buf_release(&t->records);
        cas_buf_release(&t->long_name);
        cas_buf_release(&t->long_link);
        free(t);
}

uint64_t cas_tar_stream_bytes(const struct cas_tar *t)
{
        return t->stream_bytes;
}

uint64_t cas_tar_hole_bytes(const struct cas_tar *t)
{
        return t->hole_bytes;
}

bool cas_tar_is_sparse(const struct cas_tar *t)
{
        return t->header.sparse != CAS_TAR_DENSE;
}

/* ---- the stream ---- */

/* Makes the window non-empty, or sets source_ended. */
static int fill_window(struct cas_tar *t, struct cas_err *err)
{
        if (t->window_bytes > 0 || t->source_ended)
                return 0;
        if (t->source(t->arg, &t->window, &t->window_bytes, err) < 0)
                return -(int)err->code;
        t->source_ended = t->window_bytes == 0;
        return 0;
}

static void consume(struct cas_tar *t, size_t n)
{
        t->window += n;
        t->window_bytes -= n;
        t->stream_bytes += n;
}

static int fail_truncated(const struct cas_tar *t, struct cas_err *err)
{
        return cas_fail(err, CAS_E_CORRUPT, "the tar is cut off at byte %" PRIu64, t->stream_bytes);
}

/* Passes up to n bytes over; *left gets what the stream was short of. */
static int skip(struct cas_tar *t, uint64_t n, uint64_t *left, struct cas_err *err)
{
        while (n > 0) {
                if (fill_window(t, err) < 0)
                        return -(int)err->code;
                if (t->source_ended)
                        break;
                size_t step = (size_t)cas_min_u64(n, t->window_bytes);
                consume(t, step);
                n -= step;
        }
        *left = n;
        return 0;
}

/* The next block, borrowed until anything else is read; NULL at the end of the stream. */
static int next_block(struct cas_tar *t, const uint8_t **out, struct cas_err *err)
{
        size_t have = 0;
        while (have < sizeof(t->block)) {
                if (fill_window(t, err) < 0)
                        return -(int)err->code;
                if (t->source_ended)
                        break;
                if (have == 0 && t->window_bytes >= sizeof(t->block)) {
                        *out = t->window;
                        consume(t, sizeof(t->block));
                        return 0;
                }
                size_t step = (size_t)cas_min_u64(sizeof(t->block) - have, t->window_bytes);
                memcpy(t->block + have, t->window, step);
                consume(t, step);
                have += step;
        }
        if (have > 0 && have < sizeof(t->block))
                return fail_truncated(t, err);
        *out = have > 0 ? t->block : NULL;
        return 0;
}

static size_t padding_of(uint64_t bytes)
{
        return (size_t)(-bytes & (CAS_TAR_BLOCK_BYTES - 1));
}

/* ---- extended headers ---- */

/* Reads the data of an extended header of `size` bytes. */
static int read_extension(struct cas_tar *t, uint64_t size, struct cas_buf *out,
                          struct cas_err *err)
{
        uint64_t left;
        if (size > CAS_TAR_HEADER_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "an extended header of %" PRIu64 " bytes", size);
        cas_buf_clear(out);
        cas_buf_reserve(out, (size_t)size);
        while (out->len_bytes < size) {
                if (fill_window(t, err) < 0)
                        return -(int)err->code;
                if (t->source_ended)
                        return fail_truncated(t, err);
                size_t step = (size_t)cas_min_u64(size - out->len_bytes, t->window_bytes);
                cas_buf_append(out, t->window, step);
                consume(t, step);
        }
        if (skip(t, padding_of(size), &left, err) < 0)
                return -(int)err->code;
        return left == 0 ? 0 : fail_truncated(t, err);
}

static int read_global(struct cas_tar *t, uint64_t size, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        if (read_extension(t, size, &text, err) < 0 ||
            cas_tar_pax_parse(&text, &t->global_records, err) < 0)
                return -(int)err->code;
        if (t->global_records.len_bytes > CAS_TAR_GLOBAL_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "PAX headers for all entries take %zu bytes",
                                t->global_records.len_bytes);
        return 0;
}

static int read_local(struct cas_tar *t, uint64_t size, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        if (read_extension(t, size, &text, err) < 0)
                return -(int)err->code;
        cas_buf_clear(&t->records);
        t->has_extension = true;
        return cas_tar_pax_parse(&text, &t->records, err);
}

static void forget_extensions(struct cas_tar *t)
{
        cas_buf_clear(&t->records);
        cas_buf_clear(&t->long_name);
        cas_buf_clear(&t->long_link);
        t->has_extension = false;
}

/* Takes in a header that is about the next entry, or about none; *was_one says whether it was. */
static int take_extension(struct cas_tar *t, const uint8_t *block, bool *was_one,
                          struct cas_err *err)
{
        struct cas_tar_header h = {0};
        bool extended;
        uint64_t left = 0;
        int ret = cas_tar_block_parse(block, &h, &extended, err);
        char type = h.typeflag;
        uint64_t size = h.stored_bytes;
        cas_tar_header_release(&h);
        if (ret < 0)
                return ret;
        *was_one = true;
        switch (type) {
        case 'x':
        case 'X': /* Solaris wrote it before POSIX had 'x' */
                return read_local(t, size, err);
        case 'g':
                return read_global(t, size, err);
        case 'L':
                t->has_extension = true;
                return read_extension(t, size, &t->long_name, err);
        case 'K':
                t->has_extension = true;
                return read_extension(t, size, &t->long_link, err);
        case 'V': /* the label of a volume */
                forget_extensions(t);
                if (skip(t, size + padding_of(size), &left, err) < 0)
                        return -(int)err->code;
                return left == 0 ? 0 : fail_truncated(t, err);
        default:
                *was_one = false;
                return 0;
        }
}

/* ---- entries ---- */

/* The block of the next entry, its extended headers taken in; NULL at the end. */
static int next_header(struct cas_tar *t, const uint8_t **out, struct cas_err *err)
{
        for (;;) {
                bool was_extension;
                uint64_t at = t->stream_bytes;
                if (next_block(t, out, err) < 0)
                        return -(int)err->code;
                if (*out && cas_tar_block_zero(*out)) {
                        /* Two zero blocks end an archive; the end of the stream makes up for one.
                         */
                        if (next_block(t, out, err) < 0)
                                return -(int)err->code;
                        if (*out && !cas_tar_block_zero(*out))
                                return cas_fail(err, CAS_E_CORRUPT,
                                                "tar: a single zero block at byte %" PRIu64, at);
                        *out = NULL;
                }
                if (!*out && t->has_extension)
                        return cas_fail(err, CAS_E_CORRUPT,
                                        "tar: an extended header without its entry");
                if (!*out)
                        return 0;
                if (!cas_tar_block_valid(*out))
                        return cas_fail(
                                err, CAS_E_CORRUPT,
                                at == 0 ? "not a tar" : "tar: damaged header at byte %" PRIu64, at);
                if (take_extension(t, *out, &was_extension, err) < 0)
                        return -(int)err->code;
                if (!was_extension)
                        return 0;
        }
}

/* A line of digits of the sparse map that stands before the data. */
static int map_number(struct cas_tar *t, struct cas_cursor *c, uint64_t *out, struct cas_err *err)
{
        struct cas_tar_header *h = &t->header;
        uint64_t v = 0;
        for (unsigned digits = 0;; digits++) {
                if (cas_cursor_left(c) == 0) {
                        const uint8_t *block = NULL;
                        if (h->stored_bytes >= CAS_TAR_BLOCK_BYTES &&
                            next_block(t, &block, err) < 0)
                                return -(int)err->code;
                        if (!block)
                                return cas_fail(err, CAS_E_CORRUPT, "damaged sparse map");
                        h->stored_bytes -= CAS_TAR_BLOCK_BYTES;
                        *c = cas_cursor_over(block, CAS_TAR_BLOCK_BYTES);
                }
                uint8_t byte = cas_cursor_u8(c);
                if (byte == '\n' && digits > 0)
                        break;
                if (byte < '0' || byte > '9' || digits >= 18)
                        return cas_fail(err, CAS_E_CORRUPT, "damaged sparse map");
                v = v * 10 + (uint64_t)(byte - '0');
        }
        *out = v;
        return 0;
}

static int read_map_in_data(struct cas_tar *t, struct cas_err *err)
{
        struct cas_tar_header *h = &t->header;
        struct cas_cursor c = cas_cursor_over(NULL, 0);
        uint64_t count, offset, length;
        cas_tar_map_release(&h->map);
        if (map_number(t, &c, &count, err) < 0)
                return -(int)err->code;
        for (uint64_t i = 0; i < count; i++)
                if (map_number(t, &c, &offset, err) < 0 || map_number(t, &c, &length, err) < 0 ||
                    cas_tar_map_add(&h->map, offset, length, err) < 0)
                        return -(int)err->code;
        return 0;
}

static int read_map_blocks(struct cas_tar *t, bool extended, struct cas_err *err)
{
        while (extended) {
                const uint8_t *block;
                if (next_block(t, &block, err) < 0)
                        return -(int)err->code;
                if (!block)
                        return fail_truncated(t, err);
                if (cas_tar_block_sparse(block, &t->header.map, &extended, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

/* The map must account for every stored byte, within the file's size. */
static int check_map(const struct cas_tar_header *h, struct cas_err *err)
{
        uint64_t total = 0, end = 0;
        for (size_t i = 0; i < h->map.count; i++) {
                total += h->map.regions[i].length; /* regions do not overlap: below 2^63 */
                end = h->map.regions[i].offset + h->map.regions[i].length;
        }
        if (!h->has_real_bytes || total != h->stored_bytes || end > h->real_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "a sparse map that does not fit its file");
        return 0;
}

static int entry_type(struct cas_tar_header *h, struct cas_err *err)
{
        struct cas_entry *e = &h->entry;
        size_t len = strlen(e->path);
        switch (h->typeflag) {
        case '\0': /* v7 marks a directory by its name alone */
                e->type = len > 0 && e->path[len - 1] == '/' ? CAS_ENTRY_DIR : CAS_ENTRY_FILE;
                return 0;
        case '0':
        case '7': /* contiguous file */
        case 'S':
                e->type = CAS_ENTRY_FILE;
                return 0;
        case '1':
                e->type = CAS_ENTRY_HARDLINK;
                return 0;
        case '2':
                e->type = CAS_ENTRY_SYMLINK;
                return 0;
        case '3':
                e->type = CAS_ENTRY_CHARDEV;
                return 0;
        case '4':
                e->type = CAS_ENTRY_BLOCKDEV;
                return 0;
        case '5':
        case 'D': /* a directory, and the names in it as data */
                e->type = CAS_ENTRY_DIR;
                return 0;
        case '6':
                e->type = CAS_ENTRY_FIFO;
                return 0;
        default:
                return cas_fail(err, CAS_E_UNSUPPORTED, "tar: entry type 0x%02x",
                                (unsigned char)h->typeflag);
        }
}

static void apply_long_names(struct cas_tar *t)
{
        struct cas_entry *e = &t->header.entry;
        if (cas_buf_str(&t->long_name)[0] != '\0') {
                free(e->path);
                e->path = cas_xstrdup(cas_buf_str(&t->long_name));
        }
        if (cas_buf_str(&t->long_link)[0] != '\0') {
                free(e->target);
                e->target = cas_xstrdup(cas_buf_str(&t->long_link));
        }
}

/* What the entry holds, once every header has been read. */
static int settle_entry(struct cas_tar *t, bool extended, struct cas_err *err)
{
        struct cas_tar_header *h = &t->header;
        struct cas_entry *e = &h->entry;
        if (entry_type(h, err) < 0)
                return -(int)err->code;
        e->mode &= 07777;
        if (e->type != CAS_ENTRY_HARDLINK && e->type != CAS_ENTRY_SYMLINK) {
                free(e->target);
                e->target = NULL;
        }
        if (e->type != CAS_ENTRY_FILE) {
                t->stored_left = h->typeflag == 'D' ? h->stored_bytes : 0;
                h->sparse = CAS_TAR_DENSE;
                return 0;
        }
        if (h->sparse_name) {
                free(e->path);
                e->path = cas_steal(&h->sparse_name);
        }
        if (read_map_blocks(t, extended, err) < 0 ||
            (h->sparse == CAS_TAR_SPARSE_IN_DATA && read_map_in_data(t, err) < 0) ||
            (h->sparse != CAS_TAR_DENSE && check_map(h, err) < 0))
                return -(int)err->code;
        t->stored_left = t->content_left = h->stored_bytes;
        e->size_bytes = h->sparse == CAS_TAR_DENSE ? h->stored_bytes : h->real_bytes;
        if (h->sparse != CAS_TAR_DENSE)
                t->hole_bytes +=
                        cas_min_u64(h->real_bytes - h->stored_bytes, UINT64_MAX - t->hole_bytes);
        if (e->size_bytes > CAS_OBJECT_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a file of %" PRIu64 " bytes", e->size_bytes);
        return 0;
}

/* Leaves the entry that was given last. */
static int finish_entry(struct cas_tar *t, struct cas_err *err)
{
        uint64_t left;
        if (skip(t, t->stored_left, &left, err) < 0)
                return -(int)err->code;
        if (left > 0)
                return fail_truncated(t, err);
        if (skip(t, t->padding_left, &left, err) < 0)
                return -(int)err->code;
        cas_tar_header_release(&t->header);
        t->content_left = t->stored_left = t->position = 0;
        t->padding_left = t->region = 0;
        return 0;
}

int cas_tar_next(struct cas_tar *t, struct cas_entry **out, struct cas_err *err)
{
        const uint8_t *block = NULL;
        bool extended;
        if (finish_entry(t, err) < 0 || (!t->at_end && next_header(t, &block, err) < 0))
                return -(int)err->code;
        if (!block) {
                t->at_end = true;
                *out = NULL;
                return 0;
        }
        struct cas_tar_header *h = &t->header;
        if (cas_tar_block_parse(block, h, &extended, err) < 0 ||
            cas_tar_pax_apply(&t->global_records, h, err) < 0 ||
            cas_tar_pax_apply(&t->records, h, err) < 0)
                return -(int)err->code;
        apply_long_names(t);
        if (settle_entry(t, extended, err) < 0)
                return cas_err_wrap(err, "\"%.200s\"", h->entry.path);
        t->padding_left = padding_of(t->stored_left);
        forget_extensions(t);
        *out = &h->entry;
        return 0;
}

/* ---- content ---- */

/* Up to max bytes of what is stored. */
static int stored_data(struct cas_tar *t, uint64_t max, const uint8_t **data, size_t *len,
                       struct cas_err *err)
{
        if (fill_window(t, err) < 0)
                return -(int)err->code;
        if (t->source_ended)
                return fail_truncated(t, err);
        *data = t->window;
        *len = (size_t)cas_min_u64(max, t->window_bytes);
        consume(t, *len);
        t->stored_left -= *len;
        return 0;
}

static int sparse_data(struct cas_tar *t, const uint8_t **data, size_t *len, struct cas_err *err)
{
        const struct cas_tar_header *h = &t->header;
        const struct cas_tar_region *r = h->map.regions;
        while (t->region < h->map.count && t->position >= r[t->region].offset + r[t->region].length)
                t->region++;
        bool more = t->region < h->map.count;
        if (more && t->position >= r[t->region].offset) {
                uint64_t end = r[t->region].offset + r[t->region].length;
                if (stored_data(t, end - t->position, data, len, err) < 0)
                        return -(int)err->code;
        } else {
                uint64_t end = more ? r[t->region].offset : h->real_bytes;
                *data = zeros;
                *len = (size_t)cas_min_u64(end - t->position, ZEROS_BYTES);
        }
        t->position += *len;
        return 0;
}

int cas_tar_data(struct cas_tar *t, const uint8_t **data, size_t *len, struct cas_err *err)
{
        if (t->header.sparse != CAS_TAR_DENSE)
                return sparse_data(t, data, len, err);
        *data = NULL;
        *len = 0;
        if (t->content_left == 0)
                return 0;
        if (stored_data(t, t->content_left, data, len, err) < 0)
                return -(int)err->code;
        t->content_left -= *len;
        return 0;
}
