/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/layerwrite.h"

#include <zlib.h>

#include "cas/layer_int.h"
#include "cas/mutex.h"
#include "cas/pins_int.h"
#include "cas/tarwrite.h"

#define GZIP_LEVEL 6
#define PIECE_BYTES (256 * 1024)
#define PIECE_COUNT 4

struct cas_layer_writer {
        struct cas_store *store;
        struct cas_pins *pins; /* the layer that was made */
        struct cas_buf plain;  /* tar bytes that are not compressed yet */
        uint64_t content_left; /* of the entry that was begun last */
        uint64_t content_bytes;
        z_stream z;
        pthread_t thread;
        bool joined;
        uint8_t *pieces[PIECE_COUNT]; /* compressed, a ring */

        struct cas_mutex mutex; /* guards what follows */
        pthread_cond_t change;
        size_t lengths[PIECE_COUNT];
        uint64_t put_count;
        uint64_t taken_count; /* ring positions follow from the counts */
        size_t taken_bytes;   /* of the piece that is being taken */
        bool all_put;
        bool given_up;
        bool imported; /* the thread is done: rc, err and record are set */
        int rc;
        struct cas_err err;
        struct cas_layer_record record;
};

/* ---- the thread ---- */

/* Source of the import: waits for a piece. */
static int next_bytes(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct cas_layer_writer *w = arg;
        size_t n = 0;
        cas_mutex_lock(&w->mutex);
        while (w->taken_count == w->put_count && !w->all_put && !w->given_up)
                cas_mutex_wait(&w->mutex, &w->change);
        bool given_up = w->given_up;
        if (!given_up && w->taken_count < w->put_count) {
                size_t at = (size_t)(w->taken_count % PIECE_COUNT);
                n = (size_t)cas_min_u64(len, w->lengths[at] - w->taken_bytes);
                memcpy(buf, w->pieces[at] + w->taken_bytes, n);
                w->taken_bytes += n;
                if (w->taken_bytes == w->lengths[at]) {
                        w->taken_bytes = 0;
                        w->taken_count++;
                        (void)pthread_cond_broadcast(&w->change);
                }
        }
        cas_mutex_unlock(&w->mutex);
        *out_len = n;
        return given_up ? cas_fail(err, CAS_E_INVALID, "the layer was given up") : 0;
}

static void *import_thread(void *arg)
{
        struct cas_layer_writer *w = arg;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record record;
        int rc = cas_layer_import_pinned(w->store, next_bytes, w, NULL, w->pins, NULL, &record,
                                         &err);
        cas_mutex_lock(&w->mutex);
        w->rc = rc;
        if (rc < 0)
                w->err = err;
        else
                w->record = record;
        w->imported = true;
        (void)pthread_cond_broadcast(&w->change);
        cas_mutex_unlock(&w->mutex);
        return NULL;
}

/* ---- the writer ---- */

static void release(struct cas_layer_writer *w)
{
        for (size_t i = 0; i < PIECE_COUNT; i++)
                free(w->pieces[i]);
        cas_pins_free(w->pins);
        cas_buf_release(&w->plain);
        (void)deflateEnd(&w->z);
        (void)pthread_cond_destroy(&w->change);
        cas_mutex_release(&w->mutex);
        free(w);
}

int cas_layer_writer_open(struct cas_store *s, struct cas_layer_writer **out, struct cas_err *err)
{
        struct cas_layer_writer *w = cas_xcalloc(1, sizeof(*w));
        w->store = s;
        w->pins = cas_pins_new(s);
        cas_mutex_init(&w->mutex, "layerwriter");
        (void)pthread_cond_init(&w->change, NULL);
        int r = deflateInit2(&w->z, GZIP_LEVEL, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
        cas_assert(r == Z_OK);
        for (size_t i = 0; i < PIECE_COUNT; i++)
                w->pieces[i] = cas_xmalloc(PIECE_BYTES);
        w->z.next_out = w->pieces[0];
        w->z.avail_out = PIECE_BYTES;
        int errnum = pthread_create(&w->thread, NULL, import_thread, w);
        if (errnum != 0) {
                release(w);
                return cas_fail_sys(err, errnum, "start a thread that imports the layer");
        }
        *out = w;
        return 0;
}

void cas_layer_writer_free(struct cas_layer_writer *w)
{
        if (!w)
                return;
        if (!w->joined) {
                cas_mutex_lock(&w->mutex);
                w->given_up = true;
                (void)pthread_cond_broadcast(&w->change);
                cas_mutex_unlock(&w->mutex);
                (void)pthread_join(w->thread, NULL);
        }
        release(w);
}

/* Hands the piece that is full (or the last) over and waits for room for the next. */
static int put_piece(struct cas_layer_writer *w, struct cas_err *err)
{
        int rc = 0;
        cas_mutex_lock(&w->mutex);
        w->lengths[w->put_count % PIECE_COUNT] = PIECE_BYTES - w->z.avail_out;
        w->put_count++;
        (void)pthread_cond_broadcast(&w->change);
        while (w->put_count - w->taken_count == PIECE_COUNT && !w->imported)
                cas_mutex_wait(&w->mutex, &w->change);
        if (w->imported) {
                cas_assert(w->rc < 0); /* it has not seen the end */
                *err = w->err;
                rc = w->rc;
        }
        w->z.next_out = w->pieces[w->put_count % PIECE_COUNT];
        w->z.avail_out = PIECE_BYTES;
        cas_mutex_unlock(&w->mutex);
        return rc;
}

static int compress_bytes(struct cas_layer_writer *w, uint8_t *data, size_t len, bool last,
                          struct cas_err *err)
{
        int r = Z_OK, rc = 0;
        w->z.next_in = data;
        w->z.avail_in = (unsigned)len;
        while (rc == 0 && (w->z.avail_in > 0 || (last && r != Z_STREAM_END))) {
                r = deflate(&w->z, last ? Z_FINISH : Z_NO_FLUSH);
                cas_assert(r != Z_STREAM_ERROR);
                if (w->z.avail_out == 0)
                        rc = put_piece(w, err);
        }
        return rc;
}

/* Compresses what there is in pieces of one size: what zlib is given at a time must not matter. */
static int compress_plain(struct cas_layer_writer *w, bool last, struct cas_err *err)
{
        size_t at = 0;
        int rc = 0;
        for (; rc == 0 && w->plain.len_bytes - at >= PIECE_BYTES; at += PIECE_BYTES)
                rc = compress_bytes(w, w->plain.data + at, PIECE_BYTES, false, err);
        if (rc == 0 && last)
                return compress_bytes(w, w->plain.data + at, w->plain.len_bytes - at, true, err);
        if (rc == 0 && at > 0) {
                memmove(w->plain.data, w->plain.data + at, w->plain.len_bytes - at);
                w->plain.len_bytes -= at;
        }
        return rc;
}

int cas_layer_writer_entry(struct cas_layer_writer *w, const struct cas_entry *e,
                           struct cas_err *err)
{
        cas_assert(w->content_left == 0);
        int rc = cas_tarwrite_header(&w->plain, e, err);
        if (rc < 0)
                return rc;
        w->content_bytes = w->content_left = e->type == CAS_ENTRY_FILE ? e->size_bytes : 0;
        return compress_plain(w, false, err);
}

int cas_layer_writer_data(struct cas_layer_writer *w, const void *data, size_t len,
                          struct cas_err *err)
{
        cas_assert(len <= w->content_left);
        int rc = 0;
        const uint8_t *at = data;
        for (size_t n; rc == 0 && len > 0; at += n, len -= n) {
                n = (size_t)cas_min_u64(len, PIECE_BYTES);
                cas_buf_append(&w->plain, at, n);
                w->content_left -= n;
                if (w->content_left == 0)
                        cas_tarwrite_padding(&w->plain, w->content_bytes);
                rc = compress_plain(w, false, err);
        }
        return rc;
}

int cas_layer_writer_finish(struct cas_layer_writer *w, struct cas_layer_record *out,
                            struct cas_err *err)
{
        cas_assert(w->content_left == 0);
        cas_assert(!w->joined);
        cas_tarwrite_end(&w->plain);
        int rc = compress_plain(w, true, err);
        if (rc == 0 && w->z.avail_out < PIECE_BYTES)
                rc = put_piece(w, err);
        if (rc < 0)
                return rc;
        cas_mutex_lock(&w->mutex);
        w->all_put = true;
        (void)pthread_cond_broadcast(&w->change);
        cas_mutex_unlock(&w->mutex);
        (void)pthread_join(w->thread, NULL);
        w->joined = true;
        if (w->rc < 0) {
                *err = w->err;
                return w->rc;
        }
        *out = w->record;
        return 0;
}
