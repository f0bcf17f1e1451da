/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs that are served while they come: readers follow the file that the
 * flight writes. */
#include <errno.h>
#include <unistd.h>

#include "registry/upstream_int.h"

struct reg_blob_reader {
        struct reg_flight *flight; /* a reference */
        uint64_t offset, left_bytes;
        struct reg_blob_reader *next; /* guarded by the flight's mutex, as all below */
        struct reg_blob_reader **link;
        void (*wake)(void *arg); /* NULL: does not wait */
        void *wake_arg;
};

/* How far readers may go: the last byte is kept until all were compared with the digest. */
static uint64_t readable_locked(const struct reg_flight *f)
{
        cas_assert_held(&f->mutex);
        if (f->ended)
                return f->bytes;
        return f->bytes < f->total_bytes || f->bytes == 0 ? f->bytes : f->bytes - 1;
}

static void wake_all_locked(struct reg_flight *f)
{
        cas_assert_held(&f->mutex);
        for (struct reg_blob_reader *r = f->readers; r; r = r->next) {
                void (*wake)(void *arg) = cas_steal(&r->wake);
                if (wake)
                        wake(r->wake_arg);
        }
}

void reg_flight_blob_more(struct reg_flight *f, uint64_t bytes)
{
        cas_mutex_lock(&f->mutex);
        uint64_t added = bytes - f->bytes;
        f->bytes = bytes;
        wake_all_locked(f);
        cas_mutex_unlock(&f->mutex);
        reg_metrics_add(f->up->set->metrics, REG_COUNTER_UPSTREAM_BYTES, added);
}

void reg_flight_blob_end(struct reg_flight *f, bool broken)
{
        cas_mutex_lock(&f->mutex);
        f->ended = !broken;
        f->broken = broken;
        wake_all_locked(f);
        cas_mutex_unlock(&f->mutex);
}

/* The stream of one client. */
static int reader_read(void *source, void *buf, size_t len, size_t *out_len,
                       void (*wake)(void *arg), void *arg, struct cas_err *err)
{
        struct reg_blob_reader *r = source;
        struct reg_flight *f = r->flight;
        cas_mutex_lock(&f->mutex);
        uint64_t readable = readable_locked(f);
        bool broken = f->broken || (f->ended && readable < f->total_bytes);
        bool there = readable > r->offset;
        if (!there && !broken) {
                r->wake = wake;
                r->wake_arg = arg;
        }
        cas_mutex_unlock(&f->mutex);
        *out_len = 0;
        if (!there)
                return broken ? cas_fail(err, CAS_E_IO, "%s: the upstream broke off", f->what) : 0;
        size_t want = cas_min_u64(cas_min_u64(len, r->left_bytes), readable - r->offset);
        ssize_t n;
        do {
                n = pread(f->fd, buf, want, (off_t)r->offset);
        } while (n < 0 && errno == EINTR);
        if (n <= 0)
                return cas_fail_sys(err, n < 0 ? errno : EIO, "%s: what has come", f->what);
        r->offset += (uint64_t)n;
        r->left_bytes -= (uint64_t)n;
        *out_len = (size_t)n;
        return 0;
}

static void reader_free(void *source)
{
        struct reg_blob_reader *r = source;
        struct reg_flight *f = r->flight;
        cas_mutex_lock(&f->mutex);
        *r->link = r->next;
        if (r->next)
                r->next->link = r->link;
        cas_mutex_unlock(&f->mutex);
        free(r);
        reg_flight_unref(f);
}

void reg_flight_blob_reply(struct reg_flight *f, struct reg_http_req *req, unsigned status,
                           uint64_t first, uint64_t bytes)
{
        static const struct reg_http_source_ops ops = {reader_read, reader_free};
        struct reg_upstreams *u = f->up->set;
        cas_mutex_lock(&u->mutex);
        f->refs++;
        cas_mutex_unlock(&u->mutex);
        struct reg_blob_reader *r = cas_xcalloc(1, sizeof(*r));
        r->flight = f;
        r->offset = first;
        r->left_bytes = bytes;
        cas_mutex_lock(&f->mutex);
        r->next = f->readers;
        r->link = &f->readers;
        if (r->next)
                r->next->link = &r->next;
        f->readers = r;
        cas_mutex_unlock(&f->mutex);
        reg_http_reply_source(req, status, bytes, &ops, r);
}
