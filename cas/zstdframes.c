/* SPDX-License-Identifier: Apache-2.0 */
/* zstd of an encoder that is not known, whose frames hold files or pieces of files and nothing else
 * (zstd:chunked): those frames become the blocks of the files' chunks, and the blob is a row of
 * such frames and of bytes as they are (spec/recipe-zstd.md, kind 4).
 *
 * Analysis decodes the blob thrice: to find where files and frames begin and end; to name the
 * chunks, and see whether one is kept as another frame; and to store the frames. What was stored
 * stays when the recipe comes to nothing later: it is the content of files all the same. */
#include "cas/zstdframes_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <zstd.h>

#include "cas/kept_int.h"
#include "cas/map.h"
#include "cas/record_int.h"
#include "cas/store_int.h"
#include "cas/tar.h"
#include "cas/verity.h"

#define INPUT_BYTES (128 * CAS_KIB)
#define OUTPUT_BYTES (128 * CAS_KIB)
#define FRAMES_MAX (UINT32_C(1) << 20) /* of a blob; about 50 bytes each are remembered */
#define BYTES_PERCENT_MAX 25           /* of the blob that may be bytes of the recipe */

enum file_state {
        FILE_BYTES,  /* its frames are bytes of the recipe */
        FILE_NEW,    /* they are to be stored */
        FILE_STORED, /* they are in the store already, or come with a file before */
};

/* A regular file of the tar whose content frames cover exactly. */
struct file {
        struct cas_hash id;
        uint32_t first_frame, frame_count;
        enum file_state state;
};

/* Where frames begin; one more stands for the end. */
struct boundary {
        uint64_t blob_at, tar_at;
};

struct analysis {
        const struct cas_wrap_input *in;
        struct cas_store *store;
        struct cas_recipe_writer *w;
        ZSTD_DCtx *decoder;
        uint8_t *input, *output; /* owned */

        /* the walk through the tar */
        ZSTD_inBuffer in_buffer;
        uint64_t fetched; /* blob bytes that were read */
        uint64_t tar_at;
        bool in_frame;

        struct boundary *frames; /* owned; frame_count + 1 when the walk is done */
        uint32_t frame_count, frame_max;
        struct file *files; /* owned */
        size_t file_count, file_max;
        struct span {
                uint64_t start, end; /* in the tar */
                struct cas_hash id;
        } * spans; /* owned: content of regular files */
        size_t span_count, span_max;

        struct cas_map *names;   /* of a chunk that is to be stored -> its frame */
        struct cas_map *objects; /* id -> number of its file, + 1 */
        struct cas_buf stored, plain, other;
        uint64_t kept_bytes; /* of the blob */
        uint64_t kept_count; /* files of it */
        struct cas_recipe_mark mark;
        struct cas_map *numbers; /* id -> number in TAR_OBJECTS */
        uint64_t object_count;   /* in TAR_OBJECTS */
};

static void analysis_release(struct analysis *a)
{
        (void)ZSTD_freeDCtx(a->decoder);
        free(a->input);
        free(a->output);
        free(a->frames);
        free(a->files);
        free(a->spans);
        cas_map_free(a->names);
        cas_map_free(a->objects);
        cas_map_free(a->numbers);
        cas_buf_release(&a->stored);
        cas_buf_release(&a->plain);
        cas_buf_release(&a->other);
}
#define cleanup_analysis __attribute__((cleanup(analysis_release)))

static int read_blob(const struct analysis *a, uint64_t offset, void *buf, size_t len,
                     struct cas_err *err)
{
        return cas_io_pread_exact(a->in->io, a->in->fd, buf, len, offset, "blob", err);
}

/* ---- where frames and files are ---- */

static int add_boundary(struct analysis *a, struct cas_err *err)
{
        if (a->frame_count == FRAMES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "zstd of more than %u frames", FRAMES_MAX);
        if (a->frame_count + 1 >= a->frame_max) {
                a->frame_max = a->frame_max ? 2 * a->frame_max : 1024;
                a->frames = cas_xrealloc(a->frames, a->frame_max * sizeof(a->frames[0]));
        }
        a->frames[a->frame_count] = (struct boundary){
                .blob_at = a->fetched - (a->in_buffer.size - a->in_buffer.pos),
                .tar_at = a->tar_at,
        };
        return 0;
}

/* A cas_tar_source_fn: the tar, frame by frame. */
static int next_piece(void *arg, const uint8_t **data, size_t *len, struct cas_err *err)
{
        struct analysis *a = arg;
        ZSTD_outBuffer out = {.dst = a->output, .size = OUTPUT_BYTES};
        *data = a->output;
        while (out.pos == 0) {
                bool at_end = a->fetched == a->in->blob_bytes;
                if (a->in_buffer.pos == a->in_buffer.size && !at_end) {
                        size_t n = cas_min_u64(INPUT_BYTES, a->in->blob_bytes - a->fetched);
                        if (read_blob(a, a->fetched, a->input, n, err) < 0)
                                return -(int)err->code;
                        a->in_buffer = (ZSTD_inBuffer){.src = a->input, .size = n};
                        a->fetched += n;
                } else if (a->in_buffer.pos == a->in_buffer.size && !a->in_frame) {
                        break;
                }
                if (!a->in_frame && add_boundary(a, err) < 0)
                        return -(int)err->code;
                a->frame_count += !a->in_frame;
                a->in_frame = true;
                size_t before = a->in_buffer.pos;
                size_t left = ZSTD_decompressStream(a->decoder, &out, &a->in_buffer);
                if (ZSTD_isError(left))
                        return cas_fail(err, CAS_E_CORRUPT, "zstd: %s", ZSTD_getErrorName(left));
                if (left != 0 && out.pos == 0 && a->in_buffer.pos == before && at_end)
                        return cas_fail(err, CAS_E_CORRUPT, "zstd: the stream is cut off");
                a->in_frame = left != 0;
                /* What follows in the same piece would belong to the next frame. */
                if (left == 0)
                        break;
        }
        a->tar_at += out.pos;
        *len = out.pos;
        return 0;
}

/* The same without pieces of no bytes, but at the end. */
static int tar_piece(void *arg, const uint8_t **data, size_t *len, struct cas_err *err)
{
        struct analysis *a = arg;
        do {
                if (next_piece(a, data, len, err) < 0)
                        return -(int)err->code;
        } while (*len == 0 && (a->in_frame || a->fetched < a->in->blob_bytes ||
                               a->in_buffer.pos < a->in_buffer.size));
        return 0;
}

static int take_file(struct analysis *a, struct cas_tar *tar, uint64_t size_bytes,
                     struct cas_err *err)
{
        cas_cleanup_verity struct cas_verity *verity = cas_verity_new();
        struct span span = {.start = cas_tar_stream_bytes(tar)};
        const uint8_t *data;
        size_t len = 1;
        span.end = span.start + size_bytes;
        while (len > 0) {
                if (cas_tar_data(tar, &data, &len, err) < 0)
                        return -(int)err->code;
                cas_verity_update(verity, data, len);
        }
        cas_verity_final(verity, &span.id);
        if (a->span_count == a->span_max) {
                a->span_max = a->span_max ? 2 * a->span_max : 1024;
                a->spans = cas_xrealloc(a->spans, a->span_max * sizeof(a->spans[0]));
        }
        a->spans[a->span_count++] = span;
        return 0;
}

static int walk_tar(struct analysis *a, struct cas_err *err)
{
        cas_cleanup_tar struct cas_tar *tar = NULL;
        struct cas_entry *e = NULL;
        const uint8_t *data;
        size_t len = 1;
        if (cas_tar_open(tar_piece, a, &tar, err) < 0)
                return -(int)err->code;
        do {
                if (cas_tar_next(tar, &e, err) < 0)
                        return -(int)err->code;
                if (e && e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX &&
                    !cas_tar_is_sparse(tar) && take_file(a, tar, e->size_bytes, err) < 0)
                        return -(int)err->code;
        } while (e);
        while (len > 0)
                if (tar_piece(a, &data, &len, err) < 0)
                        return -(int)err->code;
        return add_boundary(a, err);
}

/* The last frame that begins at, or before, a byte of the tar; those without content before it. */
static uint32_t find_frame(const struct analysis *a, uint64_t tar_at)
{
        uint32_t low = 0, high = a->frame_count;
        while (low + 1 < high) {
                uint32_t middle = low + (high - low) / 2;
                if (a->frames[middle].tar_at <= tar_at)
                        low = middle;
                else
                        high = middle;
        }
        return low;
}

static uint32_t stored_bytes(const struct analysis *a, uint32_t frame)
{
        return (uint32_t)(a->frames[frame + 1].blob_at - a->frames[frame].blob_at);
}

static uint32_t plain_bytes(const struct analysis *a, uint32_t frame)
{
        return (uint32_t)(a->frames[frame + 1].tar_at - a->frames[frame].tar_at);
}

static bool frame_fits(const struct analysis *a, uint32_t frame)
{
        const struct boundary *f = &a->frames[frame];
        uint64_t plain = f[1].tar_at - f[0].tar_at, stored = f[1].blob_at - f[0].blob_at;
        return plain > 0 && plain <= CAS_CHUNK_BYTES_MAX &&
               stored <= CAS_KEPT_STORED_BYTES_MAX(plain);
}

/* Whether frames cover the span and nothing else. */
static bool covered(const struct analysis *a, const struct span *span, struct file *out)
{
        uint32_t first = find_frame(a, span->start), at = first;
        if (a->frames[first].tar_at != span->start)
                return false;
        while (at < a->frame_count && a->frames[at].tar_at < span->end) {
                if (!frame_fits(a, at))
                        return false;
                at++;
        }
        *out = (struct file){.id = span->id, .first_frame = first, .frame_count = at - first};
        return a->frames[at].tar_at == span->end && at > first;
}

static void find_files(struct analysis *a)
{
        for (size_t i = 0; i < a->span_count; i++) {
                struct file file;
                if (!covered(a, &a->spans[i], &file))
                        continue;
                if (a->file_count == a->file_max) {
                        a->file_max = a->file_max ? 2 * a->file_max : 1024;
                        a->files = cas_xrealloc(a->files, a->file_max * sizeof(a->files[0]));
                }
                a->files[a->file_count++] = file;
        }
}

static uint64_t file_stored_bytes(const struct analysis *a, const struct file *f)
{
        return a->frames[f->first_frame + f->frame_count].blob_at -
               a->frames[f->first_frame].blob_at;
}

/* ---- what is kept already ---- */

/* A frame as it is in the blob: in a->stored. */
static int load_frame(struct analysis *a, uint32_t frame, struct cas_buf *out, struct cas_err *err)
{
        cas_buf_clear(out);
        cas_buf_reserve(out, stored_bytes(a, frame));
        out->len_bytes = stored_bytes(a, frame);
        return read_blob(a, a->frames[frame].blob_at, out->data, out->len_bytes, err);
}

/* With its content, in a->plain. */
static int decode_frame(struct analysis *a, uint32_t frame, struct cas_err *err)
{
        uint32_t bytes = plain_bytes(a, frame);
        if (load_frame(a, frame, &a->stored, err) < 0)
                return -(int)err->code;
        cas_buf_clear(&a->plain);
        cas_buf_reserve(&a->plain, bytes);
        a->plain.len_bytes = bytes;
        return cas_codec_decode(CAS_CODEC_ZSTD_KEPT, a->stored.data, a->stored.len_bytes,
                                a->plain.data, bytes, err);
}

static bool same_bytes(const struct cas_buf *a, const struct cas_buf *b)
{
        return a->len_bytes == b->len_bytes && memcmp(a->data, b->data, a->len_bytes) == 0;
}

/* Two frames of the blob. */
static int compare_frames(struct analysis *a, uint32_t one, uint32_t two, bool *same,
                          struct cas_err *err)
{
        if (load_frame(a, one, &a->stored, err) < 0 || load_frame(a, two, &a->other, err) < 0)
                return -(int)err->code;
        *same = same_bytes(&a->stored, &a->other);
        return 0;
}

/* A file whose object a file before has as well. */
static int check_again(struct analysis *a, struct file *f, const struct file *before,
                       struct cas_err *err)
{
        bool same = f->frame_count == before->frame_count && before->state != FILE_BYTES;
        for (uint32_t i = 0; same && i < f->frame_count; i++)
                if (compare_frames(a, f->first_frame + i, before->first_frame + i, &same, err) < 0)
                        return -(int)err->code;
        f->state = same ? FILE_STORED : FILE_BYTES;
        return 0;
}

/* Whether the store keeps chunks of the object; if so, whether as these frames. */
static int check_object(struct analysis *a, const struct file *f, bool *keeps, bool *same,
                        struct cas_err *err)
{
        struct cas_extent extents[64];
        uint32_t first = 0, count = 1;
        *keeps = false;
        *same = true;
        for (; count > 0; first += count) {
                if (cas_object_extents(a->store, &f->id, first, extents, CAS_COUNT(extents), &count,
                                       err) < 0)
                        return -(int)err->code;
                for (uint32_t i = 0; i < count; i++) {
                        bool is_kept = extents[i].codec == CAS_CODEC_ZSTD_KEPT;
                        *keeps = *keeps || is_kept;
                        *same = *same && is_kept && first + i < f->frame_count &&
                                extents[i].length_bytes == plain_bytes(a, f->first_frame + i);
                }
        }
        *same = *same && first == f->frame_count;
        for (uint32_t i = 0; *keeps && *same && i < f->frame_count; i++) {
                if (load_frame(a, f->first_frame + i, &a->stored, err) < 0 ||
                    cas_object_frame(a->store, &f->id, i, &a->other, err) < 0)
                        return -(int)err->code;
                *same = same_bytes(&a->stored, &a->other);
        }
        return 0;
}

/* Whether a chunk of that name is kept as another frame than the one in a->stored. */
static int check_chunk(struct analysis *a, const struct cas_hash *name, uint32_t frame, bool *good,
                       struct cas_err *err)
{
        const uint64_t *before = cas_map_get(a->names, name->bytes, CAS_HASH_BYTES);
        bool is_kept = false;
        if (before)
                return compare_frames(a, frame, (uint32_t)*before, good, err);
        if (cas_chunk_frame(a->store, name, &a->other, &is_kept, err) < 0)
                return -(int)err->code;
        *good = !is_kept || same_bytes(&a->stored, &a->other);
        return 0;
}

static int check_chunks(struct analysis *a, const struct file *f, bool *good, struct cas_err *err)
{
        cas_cleanup_free struct cas_hash *names = cas_xmalloc(f->frame_count * sizeof(*names));
        *good = true;
        for (uint32_t i = 0; *good && i < f->frame_count; i++) {
                uint32_t frame = f->first_frame + i;
                if (decode_frame(a, frame, err) < 0)
                        return -(int)err->code;
                cas_kept_name(&f->id, f->frame_count, a->plain.data, a->plain.len_bytes, &names[i]);
                if (check_chunk(a, &names[i], frame, good, err) < 0)
                        return -(int)err->code;
        }
        for (uint32_t i = 0; *good && i < f->frame_count; i++) {
                bool inserted;
                uint64_t *frame = cas_map_put(a->names, names[i].bytes, CAS_HASH_BYTES, &inserted);
                if (inserted)
                        *frame = f->first_frame + i;
        }
        return 0;
}

static int check_file(struct analysis *a, struct file *f, struct cas_err *err)
{
        bool here, keeps = false, same = false, inserted;
        uint64_t *before = cas_map_put(a->objects, f->id.bytes, CAS_HASH_BYTES, &inserted);
        if (!inserted)
                return check_again(a, f, &a->files[*before - 1], err);
        *before = (uint64_t)(f - a->files) + 1;
        cas_recipe_writer_pin(a->w, &f->id);
        if (cas_index_has(a->store->index, CAS_FAMILY_OBJECTS, f->id.bytes, CAS_HASH_BYTES, &here,
                          err) < 0 ||
            (here && check_object(a, f, &keeps, &same, err) < 0))
                return -(int)err->code;
        if (keeps)
                f->state = same ? FILE_STORED : FILE_BYTES;
        else if (check_chunks(a, f, &same, err) < 0)
                return -(int)err->code;
        else
                f->state = same ? FILE_NEW : FILE_BYTES;
        return 0;
}

static int check_files(struct analysis *a, struct cas_err *err)
{
        a->kept_bytes = 0;
        for (size_t i = 0; i < a->file_count; i++) {
                if (check_file(a, &a->files[i], err) < 0)
                        return -(int)err->code;
                if (a->files[i].state == FILE_BYTES)
                        continue;
                a->kept_bytes += file_stored_bytes(a, &a->files[i]);
                a->kept_count++;
        }
        return 0;
}

/* ---- storing them ---- */

static int store_file(struct analysis *a, struct cas_publish *p, const struct file *f,
                      struct cas_err *err)
{
        if (cas_publish_kept_begin(p, &f->id, f->frame_count, err) < 0)
                return -(int)err->code;
        for (uint32_t i = 0; i < f->frame_count; i++) {
                if (decode_frame(a, f->first_frame + i, err) < 0)
                        return -(int)err->code;
                const struct cas_kept_frame frame = {
                        .stored = a->stored.data,
                        .stored_bytes = (uint32_t)a->stored.len_bytes,
                        .plain = a->plain.data,
                        .plain_bytes = (uint32_t)a->plain.len_bytes,
                };
                if (cas_publish_kept_frame(p, &frame, err) < 0)
                        return -(int)err->code;
        }
        return cas_publish_kept_end(p, err);
}

static int store_files(struct analysis *a, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        if (cas_publish_begin(a->store, &p, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < a->file_count; i++)
                if (a->files[i].state == FILE_NEW && store_file(a, p, &a->files[i], err) < 0)
                        return -(int)err->code;
        return cas_publish_commit(p, err);
}

/* ---- the recipe ---- */

static int put_varints(struct analysis *a, const uint64_t *numbers, size_t count,
                       struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf op = CAS_BUF_INIT;
        for (size_t i = 0; i < count; i++)
                cas_varint_append(&op, numbers[i]);
        return cas_spool_append(a->w->sections[CAS_RECIPE_WRAP], op.data, op.len_bytes, err);
}

/* A mark's state: where in WRAP and in WRAP_DATA its part is. */
static int add_mark(struct analysis *a, uint64_t blob_at, struct cas_err *err)
{
        if (blob_at > 0 && blob_at < a->mark.blob_offset + CAS_RECIPE_MARK_SPACING_BYTES)
                return 0;
        cas_cleanup_buf struct cas_buf state = CAS_BUF_INIT;
        cas_varint_append(&state, cas_spool_bytes(a->w->sections[CAS_RECIPE_WRAP]));
        cas_varint_append(&state, cas_spool_bytes(a->w->sections[CAS_RECIPE_WRAP_DATA]));
        a->mark = (struct cas_recipe_mark){.blob_offset = blob_at,
                                           .state_bytes = (uint8_t)state.len_bytes};
        memcpy(a->mark.state, state.data, state.len_bytes);
        return cas_recipe_writer_mark(a->w, &a->mark, err);
}

static int put_bytes(struct analysis *a, uint64_t start, uint64_t end, struct cas_err *err)
{
        while (start < end) {
                uint64_t n = cas_min_u64(CAS_RECIPE_MARK_SPACING_BYTES, end - start);
                const uint64_t op = n << 1;
                if (add_mark(a, start, err) < 0 || put_varints(a, &op, 1, err) < 0)
                        return -(int)err->code;
                for (uint64_t to = start + n; start < to;) {
                        size_t len = cas_min_u64(INPUT_BYTES, to - start);
                        if (read_blob(a, start, a->input, len, err) < 0 ||
                            cas_spool_append(a->w->sections[CAS_RECIPE_WRAP_DATA], a->input, len,
                                             err) < 0)
                                return -(int)err->code;
                        start += len;
                }
        }
        return 0;
}

static int put_object(struct analysis *a, const struct cas_hash *id, uint64_t *out,
                      struct cas_err *err)
{
        bool inserted;
        uint64_t *number = cas_map_put(a->numbers, id->bytes, CAS_HASH_BYTES, &inserted);
        if (inserted)
                *number = a->object_count++;
        *out = *number;
        return inserted ? cas_spool_append(a->w->sections[CAS_RECIPE_TAR_OBJECTS], id->bytes,
                                           CAS_HASH_BYTES, err)
                        : 0;
}

/* Runs of one object, so long as marks are wanted apart. */
static int put_frames(struct analysis *a, const struct file *f, struct cas_err *err)
{
        uint64_t number = 0;
        if (put_object(a, &f->id, &number, err) < 0)
                return -(int)err->code;
        for (uint32_t first = 0, next; first < f->frame_count; first = next) {
                const struct boundary *at = &a->frames[f->first_frame];
                for (next = first + 1;
                     next < f->frame_count &&
                     at[next].blob_at - at[first].blob_at < CAS_RECIPE_MARK_SPACING_BYTES;)
                        next++;
                const uint64_t op[] = {(uint64_t)(next - first) << 1 | 1, number, first};
                if (add_mark(a, at[first].blob_at, err) < 0 ||
                    put_varints(a, op, CAS_COUNT(op), err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

static int write_recipe(struct analysis *a, struct cas_err *err)
{
        static const struct cas_hash no_listing;
        uint64_t at = 0, number;
        for (unsigned i = 0; i < CAS_RECIPE_SECTION_COUNT; i++)
                cas_recipe_writer_clear(a->w, (enum cas_recipe_section)i);
        if (put_object(a, &no_listing, &number, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < a->file_count; i++) {
                const struct file *f = &a->files[i];
                if (f->state == FILE_BYTES)
                        continue;
                if (put_bytes(a, at, a->frames[f->first_frame].blob_at, err) < 0 ||
                    put_frames(a, f, err) < 0)
                        return -(int)err->code;
                at = a->frames[f->first_frame + f->frame_count].blob_at;
        }
        a->w->head.tar_bytes = 0;
        return put_bytes(a, at, a->in->blob_bytes, err);
}

/* ---- all of analysis ---- */

static bool worth_it(const struct analysis *a, uint64_t kept_bytes)
{
        return (a->in->blob_bytes - kept_bytes) * 100 <= a->in->blob_bytes * BYTES_PERCENT_MAX;
}

static int keep_files(struct analysis *a, bool *found, struct cas_err *err)
{
        if (check_files(a, err) < 0)
                return -(int)err->code;
        *found = worth_it(a, a->kept_bytes);
        return *found ? store_files(a, err) : 0;
}

static int analyse(struct analysis *a, bool *found, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        uint64_t most = 0;
        int rc = walk_tar(a, &why);
        if (rc < 0 && rc != -CAS_E_IO && rc != -CAS_E_NOMEM && rc != -CAS_E_NOSPACE)
                return 0; /* no tar that can be taken to pieces */
        if (rc < 0) {
                *err = why;
                return rc;
        }
        find_files(a);
        for (size_t i = 0; i < a->file_count; i++)
                most += file_stored_bytes(a, &a->files[i]);
        if (!worth_it(a, most))
                return 0;
        cas_keeping_lock(a->store);
        rc = keep_files(a, found, err);
        cas_keeping_unlock(a->store);
        return rc == 0 && *found ? write_recipe(a, err) : rc;
}

int cas_zstdframes_analyse(const struct cas_wrap_input *in, struct cas_recipe_writer *w,
                           bool *found, struct cas_wrap_report *report, struct cas_err *err)
{
        cleanup_analysis struct analysis a = {.in = in, .w = w, .store = w->store};
        *found = false;
        a.decoder = ZSTD_createDCtx();
        a.input = cas_xmalloc(INPUT_BYTES);
        a.output = cas_xmalloc(OUTPUT_BYTES);
        a.names = cas_map_new();
        a.objects = cas_map_new();
        a.numbers = cas_map_new();
        if (!a.decoder || ZSTD_isError(ZSTD_DCtx_setParameter(a.decoder, ZSTD_d_windowLogMax,
                                                              CAS_ZSTD_WINDOW_LOG_MAX)))
                return cas_fail(err, CAS_E_NOMEM, "zstd decoder");
        if (analyse(&a, found, err) < 0)
                return -(int)err->code;
        if (!*found)
                return 0;
        *report = (struct cas_wrap_report){0};
        (void)snprintf(report->text, sizeof(report->text), "zstd, frames of %" PRIu64 " files kept",
                       a.kept_count);
        return 0;
}

/* ---- reading ---- */

struct reader {
        struct cas_wrap_reader base;
        struct cas_recipe *recipe;
        struct cas_recipe_stream ops, data;
        uint64_t blob_left;
        uint64_t object_count;
        uint64_t bytes_left; /* of a part of bytes */
        struct cas_hash object;
        uint32_t chunk, frames_left; /* of a run of frames, to be loaded */
        struct cas_buf frame;
        size_t frame_at; /* from there on not given out yet */
};

static void frames_close(struct cas_wrap_reader *wr)
{
        struct reader *r = (struct reader *)wr;
        cas_recipe_stream_release(&r->ops);
        cas_recipe_stream_release(&r->data);
        cas_buf_release(&r->frame);
        free(r);
}

static int part_begin(struct reader *r, struct cas_err *err)
{
        uint64_t op = 0, number = 0, first = 0;
        if (cas_recipe_stream_varint(&r->ops, &op, err) < 0)
                return -(int)err->code;
        if (op >> 1 == 0 || op >> 1 > r->blob_left)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: a part of zstd that cannot be");
        if (!(op & 1)) {
                r->bytes_left = op >> 1;
                return 0;
        }
        if (cas_recipe_stream_varint(&r->ops, &number, err) < 0 ||
            cas_recipe_stream_varint(&r->ops, &first, err) < 0)
                return -(int)err->code;
        /* The first place is that of a listing. */
        if (number == 0 || number >= r->object_count || first > UINT32_MAX ||
            op >> 1 > UINT32_MAX - first)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: frames that cannot be");
        r->chunk = (uint32_t)first;
        r->frames_left = (uint32_t)(op >> 1);
        return cas_recipe_read(r->recipe, CAS_RECIPE_TAR_OBJECTS, number * CAS_HASH_BYTES,
                               r->object.bytes, CAS_HASH_BYTES, err);
}

static int load_next(struct reader *r, struct cas_err *err)
{
        r->frame_at = 0;
        if (cas_object_frame(cas_recipe_store(r->recipe), &r->object, r->chunk, &r->frame, err) < 0)
                return -(int)err->code;
        if (r->frame.len_bytes > r->blob_left)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: frames reach past the blob's end");
        r->chunk++;
        r->frames_left--;
        return 0;
}

static int frames_read(struct cas_wrap_reader *wr, void *buf, size_t len, size_t *out_len,
                       struct cas_err *err)
{
        struct reader *r = (struct reader *)wr;
        *out_len = 0;
        if (r->blob_left == 0 || len == 0)
                return 0;
        bool ready = r->bytes_left > 0 || r->frame_at < r->frame.len_bytes;
        if (!ready && r->frames_left == 0 && part_begin(r, err) < 0)
                return -(int)err->code;
        if (!ready && r->frames_left > 0 && load_next(r, err) < 0)
                return -(int)err->code;
        size_t n;
        if (r->bytes_left > 0) {
                n = cas_min_u64(len, r->bytes_left);
                if (cas_recipe_stream_read(&r->data, buf, n, err) < 0)
                        return -(int)err->code;
                r->bytes_left -= n;
        } else {
                n = cas_min_u64(len, r->frame.len_bytes - r->frame_at);
                memcpy(buf, r->frame.data + r->frame_at, n);
                r->frame_at += n;
        }
        r->blob_left -= n;
        *out_len = n;
        return 0;
}

static int frames_open(struct cas_recipe *recipe, const struct cas_recipe_mark *mark,
                       cas_source_fn tar CAS_UNUSED, void *tar_arg CAS_UNUSED,
                       struct cas_wrap_reader **out, struct cas_err *err)
{
        const struct cas_recipe_head *head = cas_recipe_head(recipe);
        struct cas_cursor state = cas_cursor_over(mark->state, mark->state_bytes);
        uint64_t ops_at = cas_cursor_varint(&state), data_at = cas_cursor_varint(&state);
        if (cas_cursor_end(&state, "mark of zstd frames", err) < 0)
                return -(int)err->code;
        if (mark->blob_offset > head->blob_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: a mark behind the end");
        struct reader *r = cas_xcalloc(1, sizeof(*r));
        r->base.ops = &cas_wrap_zstd_frames;
        r->recipe = recipe;
        r->blob_left = head->blob_bytes - mark->blob_offset;
        r->object_count = head->section_bytes[CAS_RECIPE_TAR_OBJECTS] / CAS_HASH_BYTES;
        cas_recipe_stream_init(&r->ops, recipe, CAS_RECIPE_WRAP, ops_at);
        cas_recipe_stream_init(&r->data, recipe, CAS_RECIPE_WRAP_DATA, data_at);
        *out = &r->base;
        return 0;
}

const struct cas_wrap_ops cas_wrap_zstd_frames = {frames_open, frames_read, frames_close};
