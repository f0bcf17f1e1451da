/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding of layers, in one pass over the stored bytes:
 *
 *   source -> (blob of the publication) -> decompress -> tar -> objects of the publication
 *                                                    \-> SHA-256 of the tar, on its own thread
 *
 * The caller's thread drives all but the hashing of the tar and what the
 * publication does on its worker. Memory is bounded but for the names and
 * attributes of the layer (CAS_LISTING_BYTES_MAX). */
#include "cas/layer.h"

#include <inttypes.h>

#include "cas/blobstream.h"
#include "cas/decompress.h"
#include "cas/elsewhere_int.h"
#include "cas/extract.h"
#include "cas/hashpipe.h"
#include "cas/layer_int.h"
#include "cas/object.h"
#include "cas/once.h"
#include "cas/pins_int.h"
#include "cas/record_int.h"
#include "cas/store_int.h"
#include "cas/tar.h"

/* ---- decoding ---- */

struct decode {
        cas_source_fn source; /* stored bytes */
        void *source_arg;
        struct cas_publish *publish;         /* borrowed */
        const struct cas_progress *progress; /* borrowed; may be NULL */
        uint64_t stored_bytes_total;         /* 0: unknown */
        uint64_t tar_bytes;
        /* Ends after the publication does: that one fills digests into its entries. */
        struct cas_extract *extract;
        struct cas_decompress *decompress;
        struct cas_hashpipe *hashpipe;
        struct cas_tar *tar;
};

static void decode_release(struct decode *d)
{
        cas_tar_close(d->tar);
        cas_hashpipe_free(d->hashpipe);
        cas_decompress_close(d->decompress);
        cas_extract_free(d->extract);
}
#define cleanup_decode __attribute__((cleanup(decode_release)))

/* A cas_tar_source_fn: the next piece of the tar, which goes to be hashed as well. */
static int next_piece(void *arg, const uint8_t **data, size_t *len, struct cas_err *err)
{
        struct decode *d = arg;
        uint8_t *buffer = cas_hashpipe_buffer(d->hashpipe);
        if (cas_decompress_read(d->decompress, buffer, CAS_HASHPIPE_BUFFER_BYTES, len, err) < 0)
                return -(int)err->code;
        cas_hashpipe_put(d->hashpipe, *len);
        d->tar_bytes += *len;
        *data = buffer;
        cas_progress_update(d->progress, "layer", cas_decompress_stored_bytes(d->decompress),
                            d->stored_bytes_total);
        return 0;
}

/* Holes expand as compression does, and are bounded in the same way. */
static int check_holes(const struct decode *d, struct cas_err *err)
{
        uint64_t holes = cas_tar_hole_bytes(d->tar);
        uint64_t stored = cas_decompress_stored_bytes(d->decompress);
        if (holes > CAS_TAR_BYTES_MAX - cas_min_u64(d->tar_bytes, CAS_TAR_BYTES_MAX))
                return cas_fail(err, CAS_E_LIMIT, "sparse files of more than %" PRIu64 " GiB",
                                CAS_TAR_BYTES_MAX / CAS_GIB);
        if (holes > CAS_TAR_HOLES_FREE_BYTES &&
            (holes - CAS_TAR_HOLES_FREE_BYTES) / CAS_TAR_RATIO_MAX > stored)
                return cas_fail(err, CAS_E_LIMIT, "sparse files that expand more than %d times",
                                CAS_TAR_RATIO_MAX);
        return 0;
}

static int take_small(struct decode *d, struct cas_entry *file, struct cas_err *err)
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
        if (check_holes(d, err) < 0 || cas_publish_object_begin(d->publish, &file->object, err) < 0)
                return -(int)err->code;
        for (;;) {
                const uint8_t *data;
                size_t len;
                if (cas_tar_data(d->tar, &data, &len, err) < 0)
                        return -(int)err->code;
                if (len == 0)
                        break;
                if (cas_publish_object_write(d->publish, data, len, err) < 0)
                        return -(int)err->code;
        }
        return cas_publish_object_end(d->publish, err);
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
                int ret = file->size_bytes <= CAS_INLINE_BYTES_MAX ? take_small(d, file, err)
                                                                   : take_object(d, file, err);
                if (ret < 0)
                        return ret;
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

static int decode_stream(struct decode *d, struct cas_err *err)
{
        d->extract = cas_extract_new();
        if (cas_decompress_open(d->source, d->source_arg, &d->decompress, err) < 0 ||
            cas_hashpipe_new(&d->hashpipe, err) < 0 ||
            cas_tar_open(next_piece, d, &d->tar, err) < 0 || take_entries(d, err) < 0 ||
            drain(d, err) < 0)
                return cas_err_wrap(err, "layer");
        return 0;
}

/* The listing becomes an object. Every object of the layer has its id by then. */
static int publish_listing(struct decode *d, const struct cas_listing *listing,
                           struct cas_layer_record *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        if (cas_listing_encode(listing, &bytes, err) < 0)
                return cas_err_wrap(err, "layer");
        out->listing_version = CAS_LISTING_VERSION;
        out->entry_count = listing->count;
        out->content_bytes = 0;
        for (size_t i = 0; i < listing->count; i++)
                out->content_bytes += listing->entries[i].size_bytes;
        if (cas_publish_object(d->publish, bytes.data, bytes.len_bytes, &out->listing, err) < 0)
                return -(int)err->code;
        return cas_publish_drain(d->publish, err);
}

/* Everything of a decoded layer but its blob's digest, which the caller has set. */
static int add_layer(struct decode *d, struct cas_layer_record *out, struct cas_err *err)
{
        cas_cleanup_listing struct cas_listing listing = {0};
        out->tar_bytes = d->tar_bytes;
        out->compression = (uint8_t)cas_decompress_kind(d->decompress);
        cas_hashpipe_final(d->hashpipe, &out->diff_id);
        if (cas_publish_drain(d->publish, err) < 0)
                return -(int)err->code;
        cas_extract_listing(d->extract, &listing);
        if (publish_listing(d, &listing, out, err) < 0)
                return -(int)err->code;
        return cas_publish_layer(d->publish, out, &listing, err);
}

static int publish_layer(struct decode *d, struct cas_layer_record *out, struct cas_err *err)
{
        int rc = add_layer(d, out, err);
        return rc < 0 ? rc : cas_publish_commit(d->publish, err);
}

/* ---- import ---- */

struct tee {
        cas_source_fn source;
        void *arg;
        struct cas_publish *publish; /* borrowed */
};

static int tee_read(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct tee *t = arg;
        if (t->source(t->arg, buf, len, out_len, err) < 0)
                return -(int)err->code;
        return *out_len > 0 ? cas_publish_blob_write(t->publish, buf, *out_len, err) : 0;
}

/* Whether the store has a layer, decoded as this version does. */
static int layer_find(struct cas_store *s, const struct cas_digest *blob, bool *found,
                      struct cas_layer_record *out, struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        int ret = cas_layer_stat(s, blob, out, &miss);
        *found = ret == 0 && out->listing_version == CAS_LISTING_VERSION;
        if (ret == 0 || miss.code == CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return ret;
}

int cas_layer_import(struct cas_store *s, cas_source_fn source, void *arg,
                     const struct cas_digest *expected, const struct cas_progress *progress,
                     struct cas_layer_record *out, struct cas_err *err)
{
        return cas_layer_import_pinned(s, source, arg, expected, NULL, progress, out, err);
}

int cas_layer_import_pinned(struct cas_store *s, cas_source_fn source, void *arg,
                            const struct cas_digest *expected, struct cas_pins *pins,
                            const struct cas_progress *progress, struct cas_layer_record *out,
                            struct cas_err *err)
{
        struct cas_layer_record rec = {0};
        struct tee tee = {.source = source, .arg = arg};
        enum cas_digest_alg alg = expected ? (enum cas_digest_alg)expected->alg : CAS_DIGEST_SHA256;
        cleanup_decode struct decode d = {
                .source = tee_read, .source_arg = &tee, .progress = progress};
        cas_cleanup_publish struct cas_publish *p = NULL;
        if (cas_publish_begin(s, &p, err) < 0 || cas_publish_blob_begin(p, alg, err) < 0)
                return -(int)err->code;
        d.publish = tee.publish = p;
        if (decode_stream(&d, err) < 0 ||
            cas_publish_blob_end(p, expected, &rec.blob, NULL, err) < 0)
                return -(int)err->code;
        if (pins)
                cas_pin_blob(pins, &rec.blob);
        if (publish_layer(&d, &rec, err) < 0)
                return -(int)err->code;
        *out = rec;
        return 0;
}

int cas_layer_decode(struct cas_store *s, const struct cas_layer_source *from,
                     const struct cas_digest *blob, struct cas_layer_record *out,
                     struct cas_err *err)
{
        struct cas_layer_record rec = {.blob = *blob};
        cleanup_decode struct decode d = {.source = from->read,
                                          .source_arg = from->arg,
                                          .progress = from->progress,
                                          .stored_bytes_total = from->stored_bytes};
        cas_cleanup_publish struct cas_publish *p = NULL;
        if (cas_publish_begin(s, &p, err) < 0)
                return -(int)err->code;
        d.publish = p;
        if (decode_stream(&d, err) < 0 || add_layer(&d, &rec, err) < 0 ||
            from->finish(from->arg, p, &rec, err) < 0 || cas_publish_commit(p, err) < 0)
                return -(int)err->code;
        *out = rec;
        return 0;
}

/* ---- layers of the store ---- */

/* The stored bytes of a blob, from its copy or made again, compared with its digest when they end.
 */
struct blob_source {
        struct cas_blob_stream *stream;
        struct cas_hasher *hasher;
        const struct cas_digest *digest;
};

static int blob_read(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct blob_source *b = arg;
        if (cas_blob_stream_read(b->stream, buf, len, out_len, err) < 0)
                return -(int)err->code;
        if (*out_len > 0)
                cas_hasher_update(b->hasher, buf, *out_len);
        return 0;
}

static int check_blob(struct blob_source *b, struct cas_err *err)
{
        struct cas_digest digest;
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_hasher_final(b->hasher, &digest);
        if (cas_digest_equal(&digest, b->digest))
                return 0;
        return cas_fail(err, CAS_E_CORRUPT, "blob %s: its bytes have another digest",
                        cas_digest_text(b->digest, text));
}

static int decode_blob(struct cas_store *s, const struct cas_digest *blob,
                       const struct cas_progress *progress, struct cas_layer_record *out,
                       struct cas_err *err)
{
        struct cas_layer_record rec = {.blob = *blob};
        cas_cleanup_blob_stream struct cas_blob_stream *stream = NULL;
        cas_cleanup_hasher struct cas_hasher *hasher =
                cas_hasher_new((enum cas_digest_alg)blob->alg);
        struct blob_source source = {.hasher = hasher, .digest = blob};
        cleanup_decode struct decode d = {
                .source = blob_read, .source_arg = &source, .progress = progress};
        cas_cleanup_publish struct cas_publish *p = NULL;
        if (cas_publish_begin(s, &p, err) < 0)
                return -(int)err->code;
        cas_publish_keep_blob(p, blob);
        if (cas_blob_stream_open(s, blob, 0, UINT64_MAX, true, &stream, err) < 0)
                return -(int)err->code;
        source.stream = stream;
        d.stored_bytes_total = cas_blob_stream_left(stream);
        d.publish = p;
        if (decode_stream(&d, err) < 0 || check_blob(&source, err) < 0 ||
            publish_layer(&d, &rec, err) < 0)
                return -(int)err->code;
        *out = rec;
        return 0;
}

struct ensure {
        struct cas_store *s;
        const struct cas_digest *blob;
        const struct cas_progress *progress;
};

int cas_layer_decode_here(struct cas_store *s, const struct cas_digest *blob,
                          const struct cas_progress *progress, struct cas_layer_record *out,
                          struct cas_err *err)
{
        bool found;
        int rc = layer_find(s, blob, &found, out, err);
        return rc < 0 || found ? rc : decode_blob(s, blob, progress, out, err);
}

static int ensure_layer(void *arg, void *result, struct cas_err *err)
{
        const struct ensure *e = arg;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_layer_decode_here(e->s, e->blob, e->progress, result, &miss);
        if (rc != -CAS_E_NOTFOUND || !cas_layer_is_elsewhere(e->s, e->blob)) {
                if (rc < 0)
                        *err = miss;
                return rc;
        }
        rc = cas_elsewhere_complete(e->s, e->blob, e->progress, err);
        return rc < 0 ? rc : cas_layer_stat(e->s, e->blob, result, err);
}

int cas_layer_ensure(struct cas_store *s, const struct cas_digest *blob,
                     const struct cas_progress *progress, struct cas_layer_record *out,
                     struct cas_err *err)
{
        static struct cas_once once = CAS_ONCE_INIT("layer.once");
        struct ensure e = {.s = s, .blob = blob, .progress = progress};
        return cas_once(&once, s, blob, ensure_layer, &e, out, sizeof(*out), err);
}

int cas_layer_stat(struct cas_store *s, const struct cas_digest *blob, struct cas_layer_record *out,
                   struct cas_err *err)
{
        return cas_index_get_layer(s->index, blob, out, err);
}

struct each {
        bool (*fn)(void *arg, const struct cas_layer_record *layer);
        void *arg;
        const struct cas_digest *after;
};

static int each_layer(void *arg, const void *key, size_t key_len, const void *value,
                      size_t value_len, struct cas_err *err)
{
        struct each *e = arg;
        struct cas_layer_record rec;
        struct cas_digest blob;
        if (cas_digest_value_decode(key, key_len, &blob, err) < 0 ||
            cas_layer_record_decode(&blob, value, value_len, &rec, err) < 0)
                return -(int)err->code;
        if (e->after && cas_digest_equal(&blob, e->after))
                return 0;
        return e->fn(e->arg, &rec) ? 0 : 1;
}

int cas_layer_each(struct cas_store *s, const struct cas_digest *after,
                   bool (*fn)(void *arg, const struct cas_layer_record *layer), void *arg,
                   struct cas_err *err)
{
        struct each e = {fn, arg, after};
        struct cas_scan scan = {.family = CAS_FAMILY_LAYERS};
        struct cas_record_key from;
        if (after) {
                cas_key_digest(after, &from);
                scan.from = from.bytes;
                scan.from_len = from.len;
        }
        return cas_index_scan(s->index, &scan, each_layer, &e, err);
}

int cas_layer_listing(struct cas_store *s, const struct cas_layer_record *layer,
                      struct cas_listing *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        char text[CAS_DIGEST_TEXT_BYTES];
        if (cas_object_read(s, &layer->listing, CAS_LISTING_BYTES_MAX, &bytes, err) < 0 ||
            cas_listing_decode(bytes.data, bytes.len_bytes, out, err) < 0)
                return cas_err_wrap(err, "layer %s", cas_digest_text(&layer->blob, text));
        return 0;
}
