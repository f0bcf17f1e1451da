/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/decoding.h"

#include <inttypes.h>

#include "cas/extract.h"
#include "cas/tar.h"

struct decode {
        const struct cas_decode_sink *sink; /* borrowed */
        uint64_t tar_bytes;
        uint64_t file_count;  /* objects so far */
        const uint8_t *piece; /* borrowed from the sink, piece_bytes long */
        size_t piece_bytes;
        struct cas_decompress *decompress;
        struct cas_tar *tar;
        struct cas_extract *extract;
};

static void decode_release(struct decode *d)
{
        cas_tar_close(d->tar);
        cas_decompress_close(d->decompress);
        cas_extract_free(d->extract);
}
#define cleanup_decode __attribute__((cleanup(decode_release)))

void cas_decode_result_release(struct cas_decode_result *r)
{
        cas_buf_release(&r->listing);
}

/* ---- bounds ---- */

int cas_decode_check_holes(uint64_t hole_bytes, uint64_t tar_bytes, uint64_t stored_bytes,
                           struct cas_err *err)
{
        if (hole_bytes > CAS_TAR_BYTES_MAX - cas_min_u64(tar_bytes, CAS_TAR_BYTES_MAX))
                return cas_fail(err, CAS_E_LIMIT, "sparse files of more than %" PRIu64 " GiB",
                                CAS_TAR_BYTES_MAX / CAS_GIB);
        if (hole_bytes > CAS_TAR_HOLES_FREE_BYTES &&
            (hole_bytes - CAS_TAR_HOLES_FREE_BYTES) / CAS_TAR_RATIO_MAX > stored_bytes)
                return cas_fail(err, CAS_E_LIMIT, "sparse files that expand more than %d times",
                                CAS_TAR_RATIO_MAX);
        return 0;
}

/* ---- object numbers ---- */

static void set_number(struct cas_hash *object, uint64_t number)
{
        *object = (struct cas_hash){0};
        cas_put_le64(object->bytes, number);
}

uint64_t cas_decode_number(const struct cas_hash *object)
{
        struct cas_hash same;
        uint64_t number = cas_get_le64(object->bytes);
        set_number(&same, number);
        return cas_hash_equal(&same, object) ? number : 0;
}

/* ---- the stream ---- */

/* A cas_tar_source_fn: the next piece of the tar. */
static int next_piece(void *arg, const uint8_t **data, size_t *len, struct cas_err *err)
{
        struct decode *d = arg;
        uint8_t *buffer = d->sink->buffer(d->sink->arg);
        if (cas_decompress_read(d->decompress, buffer, CAS_DECODE_PIECE_BYTES, len, err) < 0)
                return -(int)err->code;
        d->tar_bytes += *len;
        d->piece = *data = buffer;
        d->piece_bytes = *len;
        return *len > 0 ? d->sink->tar(d->sink->arg, *len, err) : 0;
}

static bool in_piece(const struct decode *d, const uint8_t *data)
{
        return (uintptr_t)data - (uintptr_t)d->piece < d->piece_bytes;
}

static int take_inline(struct decode *d, struct cas_entry *file, struct cas_err *err)
{
        size_t have = 0;
        while (have < file->size_bytes) {
                const uint8_t *data;
                size_t len;
                if (cas_tar_data(d->tar, &data, &len, err) < 0)
                        return -(int)err->code;
                cas_assert(len > 0 && len <= file->size_bytes - have);
                memcpy(file->inline_data + have, data, len);
                have += len;
        }
        return 0;
}

static int take_object(struct decode *d, struct cas_entry *file, struct cas_err *err)
{
        const struct cas_decode_sink *sink = d->sink;
        set_number(&file->object, ++d->file_count);
        if (cas_decode_check_holes(cas_tar_hole_bytes(d->tar), d->tar_bytes,
                                   cas_decompress_stored_bytes(d->decompress), err) < 0 ||
            sink->file(sink->arg, file->size_bytes, err) < 0)
                return -(int)err->code;
        for (;;) {
                const uint8_t *data;
                size_t len;
                if (cas_tar_data(d->tar, &data, &len, err) < 0)
                        return -(int)err->code;
                if (len == 0)
                        return 0;
                /* What does not lie in the piece is a hole. */
                int rc = in_piece(d, data) ? sink->content(sink->arg, data, len, err)
                                           : sink->zeros(sink->arg, len, err);
                if (rc < 0)
                        return rc;
        }
}

static int take_entries(struct decode *d, struct cas_err *err)
{
        for (;;) {
                struct cas_entry *e, *file;
                if (cas_tar_next(d->tar, &e, err) < 0)
                        return -(int)err->code;
                if (!e)
                        return 0;
                if (cas_extract_add(d->extract, e, &file, err) < 0)
                        return -(int)err->code;
                if (!file)
                        continue;
                int rc = file->size_bytes <= CAS_INLINE_BYTES_MAX ? take_inline(d, file, err)
                                                                  : take_object(d, file, err);
                if (rc < 0)
                        return rc;
        }
}

/* What follows the archive counts for the digests only. */
static int drain(struct decode *d, struct cas_err *err)
{
        const uint8_t *data;
        size_t len = 1;
        while (len > 0)
                if (next_piece(d, &data, &len, err) < 0)
                        return -(int)err->code;
        return 0;
}

static int make_listing(struct decode *d, struct cas_buf *out, struct cas_err *err)
{
        cas_cleanup_listing struct cas_listing listing = {0};
        cas_extract_listing(d->extract, &listing);
        return cas_listing_encode(&listing, out, err);
}

int cas_decode_run(cas_source_fn source, void *source_arg, const struct cas_decode_sink *sink,
                   struct cas_decode_result *out, struct cas_err *err)
{
        cleanup_decode struct decode d = {.sink = sink, .extract = cas_extract_new()};
        cas_cleanup_buf struct cas_buf listing = CAS_BUF_INIT;
        if (cas_decompress_open(source, source_arg, &d.decompress, err) < 0 ||
            cas_tar_open(next_piece, &d, &d.tar, err) < 0 || take_entries(&d, err) < 0 ||
            drain(&d, err) < 0 || make_listing(&d, &listing, err) < 0)
                return -(int)err->code;
        out->compression = cas_decompress_kind(d.decompress);
        out->listing = listing;
        listing = (struct cas_buf)CAS_BUF_INIT;
        return 0;
}
