/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding of layers, in one pass over the stored bytes:
 *
 *   source -> (blob of the publication) -> decoder -> tar and content of files
 *     content -> objects of the publication
 *     tar -> SHA-256, on its own thread
 *
 * The decoder (cas/decoding.h) is in this thread or, where the store has one, in a process of its
 * own that is not believed: digests are made here, of the bytes that came, and the listing is
 * checked as one that a stranger wrote. Memory is bounded but for the names and attributes of the
 * layer (CAS_LISTING_BYTES_MAX) and the digests of its files. */
#include "cas/layer.h"

#include "cas/blobstream.h"
#include "cas/decoding.h"
#include "cas/elsewhere_int.h"
#include "cas/hashpipe.h"
#include "cas/layer_int.h"
#include "cas/mend_int.h"
#include "cas/object.h"
#include "cas/once.h"
#include "cas/pins_int.h"
#include "cas/record_int.h"
#include "cas/store_int.h"

/* ---- decoding ---- */

#define SLOTS_BLOCK 1024

/* A file object on its way: borrowed by the publication until that has named it. */
struct slot {
        struct cas_hash id;
        uint64_t size_bytes;
};

struct decode {
        cas_source_fn source; /* stored bytes */
        void *source_arg;
        struct cas_publish *publish;         /* borrowed */
        const struct cas_progress *progress; /* borrowed; may be NULL */
        uint64_t stored_bytes_total;         /* 0: unknown */
        uint64_t stored_bytes, tar_bytes, hole_bytes;
        /* Numbered from 1, in blocks that stay where they are. They go after the publication. */
        struct slot **blocks;
        uint64_t slot_count;
        uint64_t file_left; /* of the open file; 0: none is open */
        struct cas_hashpipe *hashpipe;
        struct cas_decode_result result;
};

static void decode_release(struct decode *d)
{
        cas_hashpipe_free(d->hashpipe);
        cas_decode_result_release(&d->result);
        for (uint64_t i = 0; i < d->slot_count; i += SLOTS_BLOCK)
                free(d->blocks[i / SLOTS_BLOCK]);
        free(d->blocks);
}
#define cleanup_decode __attribute__((cleanup(decode_release)))

/* ---- what the decoder gives: a struct cas_decode_sink ---- */

_Static_assert(CAS_HASHPIPE_BUFFER_BYTES >= CAS_DECODE_PIECE_BYTES, "pieces go to be hashed");

static uint8_t *sink_buffer(void *arg)
{
        const struct decode *d = arg;
        return cas_hashpipe_buffer(d->hashpipe);
}

static int sink_tar(void *arg, size_t len, struct cas_err *err)
{
        struct decode *d = arg;
        cas_hashpipe_put(d->hashpipe, len);
        d->tar_bytes += len;
        return cas_decompress_check(d->tar_bytes, d->stored_bytes, err);
}

static struct slot *slot_at(const struct decode *d, uint64_t number)
{
        return &d->blocks[(number - 1) / SLOTS_BLOCK][(number - 1) % SLOTS_BLOCK];
}

static struct slot *slot_new(struct decode *d)
{
        uint64_t block = d->slot_count / SLOTS_BLOCK;
        if (d->slot_count % SLOTS_BLOCK == 0) {
                d->blocks = cas_xrealloc(d->blocks, (block + 1) * sizeof(d->blocks[0]));
                d->blocks[block] = cas_xcalloc(SLOTS_BLOCK, sizeof(struct slot));
        }
        return slot_at(d, ++d->slot_count);
}

static int sink_file(void *arg, uint64_t size_bytes, struct cas_err *err)
{
        struct decode *d = arg;
        cas_assert(d->file_left == 0);
        if (d->slot_count == CAS_TAR_ENTRIES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a layer of more than %d entries",
                                CAS_TAR_ENTRIES_MAX);
        struct slot *slot = slot_new(d);
        slot->size_bytes = d->file_left = size_bytes;
        return cas_publish_object_begin(d->publish, &slot->id, err);
}

static int sink_content(void *arg, const uint8_t *data, size_t len, struct cas_err *err)
{
        struct decode *d = arg;
        cas_assert(len <= d->file_left);
        d->file_left -= len;
        if (cas_publish_object_write(d->publish, data, len, err) < 0)
                return -(int)err->code;
        return d->file_left == 0 ? cas_publish_object_end(d->publish, err) : 0;
}

static int sink_zeros(void *arg, uint64_t len, struct cas_err *err)
{
        static const uint8_t zeros[64 * 1024];
        struct decode *d = arg;
        d->hole_bytes += len;
        int rc = cas_decode_check_holes(d->hole_bytes, d->tar_bytes, d->stored_bytes, err);
        while (rc == 0 && len > 0) {
                size_t n = (size_t)cas_min_u64(len, sizeof(zeros));
                rc = sink_content(d, zeros, n, err);
                len -= n;
        }
        return rc;
}

/* A cas_source_fn: the stored bytes, counted. */
static int counted_read(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct decode *d = arg;
        if (d->source(d->source_arg, buf, len, out_len, err) < 0)
                return -(int)err->code;
        d->stored_bytes += *out_len;
        cas_progress_update(d->progress, "layer", d->stored_bytes, d->stored_bytes_total);
        return 0;
}

static int decode_stream(struct decode *d, struct cas_err *err)
{
        const struct cas_decode_sink sink = {.arg = d,
                                             .buffer = sink_buffer,
                                             .tar = sink_tar,
                                             .file = sink_file,
                                             .content = sink_content,
                                             .zeros = sink_zeros};
        const struct cas_decoder *other = cas_publish_store(d->publish)->decoder;
        int rc = cas_hashpipe_new(&d->hashpipe, err);
        if (rc == 0 && other)
                rc = other->run(other->ctx, counted_read, d, &sink, &d->result, err);
        else if (rc == 0)
                rc = cas_decode_run(counted_read, d, &sink, &d->result, err);
        return rc < 0 ? cas_err_wrap(err, "layer") : 0;
}

/* ---- the listing ---- */

/* Numbers of file objects become their digests. */
static int name_objects(const struct decode *d, struct cas_listing *listing, struct cas_err *err)
{
        for (size_t i = 0; i < listing->count; i++) {
                struct cas_entry *e = &listing->entries[i];
                if (e->type != CAS_ENTRY_FILE || e->size_bytes <= CAS_INLINE_BYTES_MAX)
                        continue;
                uint64_t number = cas_decode_number(&e->object);
                if (number == 0 || number > d->slot_count ||
                    slot_at(d, number)->size_bytes != e->size_bytes)
                        return cas_fail(err, CAS_E_CORRUPT,
                                        "the decoder lists a file that it did not give");
                e->object = slot_at(d, number)->id;
        }
        return 0;
}

/* What the decoder gave as a listing, checked. */
static int take_listing(struct decode *d, struct cas_listing *out, struct cas_err *err)
{
        const struct cas_buf *bytes = &d->result.listing;
        if (cas_listing_decode(bytes->data, bytes->len_bytes, out, err) < 0 ||
            name_objects(d, out, err) < 0)
                return cas_err_wrap(err, "layer");
        cas_buf_release(&d->result.listing); /* may be large, as is what follows */
        cas_buf_init(&d->result.listing);
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
        out->compression = (uint8_t)d->result.compression;
        cas_hashpipe_final(d->hashpipe, &out->diff_id);
        if (cas_publish_drain(d->publish, err) < 0 || take_listing(d, &listing, err) < 0)
                return -(int)err->code;
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

/* mend NULL: nothing of it is damaged. */
static int decode_blob(struct cas_store *s, const struct cas_digest *blob,
                       const struct cas_mend *mend, const struct cas_progress *progress,
                       struct cas_layer_record *out, struct cas_err *err)
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
        if (mend)
                cas_publish_mend(p, mend);
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
        struct cas_layer_record rec = {0};
        bool found;
        int rc = layer_find(s, blob, &found, &rec, err);
        if (rc == 0 && !found) {
                struct cas_err miss = CAS_ERR_INIT;
                bool serves = rec.blob.alg && rec.listing_version == CAS_LISTING_VERSION_DAMAGED;
                rc = decode_blob(s, blob, NULL, progress, out, &miss);
                if (rc == -CAS_E_NOTFOUND && serves)
                        rc = 0; /* its blob is not here to make it whole */
                else if (rc == 0)
                        return 0;
                else
                        *err = miss;
        }
        if (rc == 0)
                *out = rec;
        return rc;
}

int cas_layer_mend(struct cas_store *s, const struct cas_digest *blob, const struct cas_mend *mend,
                   struct cas_err *err)
{
        struct cas_layer_record ignored;
        return decode_blob(s, blob, mend, NULL, &ignored, err);
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
