/* SPDX-License-Identifier: Apache-2.0 */
/* Streams: answers written by one thread while an event thread sends them, or
 * read from a source by the event thread itself. Two sides hold a stream, the
 * writer (of a source: nobody) and the daemon's response; the last one frees it.
 * While there is nothing to send the connection is suspended, and only who
 * clears `suspended` resumes it, so that it is resumed exactly once; both under
 * one lock, so that who finds it cleared knows that it is resumed. */
#include "cas/log.h"
#include "registry/http_int.h"

#define SOURCE_BLOCK_BYTES (128 * 1024)

struct reg_http_stream {
        struct reg_http_server *server;        /* valid while `linked` */
        struct MHD_Connection *connection;     /* valid while `suspended`, or on its event thread */
        struct reg_http_req *req;              /* valid on the event thread, while it reads */
        struct reg_http_stream *next;          /* guarded by the server's mutex, as is */
        struct reg_http_stream **link;         /* the pointer to this one */
        const struct reg_http_source_ops *ops; /* NULL: there is a writer */
        void *source;

        struct cas_mutex mutex; /* guards all below */
        pthread_cond_t change;  /* something was sent, or the client is gone */
        struct cas_buf buf;
        size_t sent_bytes; /* of buf */
        bool suspended;
        bool woken;  /* the source has more than when it was asked last */
        bool closed; /* by the writer */
        bool cut;    /* closed as broken */
        bool gone;   /* the daemon's side has ended, or is to end */
        unsigned refs;
};

static void stream_unref(struct reg_http_stream *s)
{
        cas_mutex_lock(&s->mutex);
        bool last = --s->refs == 0;
        cas_mutex_unlock(&s->mutex);
        if (!last)
                return;
        cas_mutex_release(&s->mutex);
        (void)pthread_cond_destroy(&s->change);
        cas_buf_release(&s->buf);
        free(s);
}

/* Wakes the connection, which exists for as long as it is suspended. False: it was not. */
static bool resume_locked(struct reg_http_stream *s)
{
        cas_assert_held(&s->mutex);
        bool was = s->suspended;
        s->suspended = false;
        if (was)
                MHD_resume_connection(s->connection);
        return was;
}

/* The daemon wants bytes; on the connection's event thread. */
static ssize_t stream_read(void *arg, uint64_t at CAS_UNUSED, char *out, size_t max)
{
        struct reg_http_stream *s = arg;
        ssize_t n = 0;
        cas_mutex_lock(&s->mutex);
        size_t left = s->buf.len_bytes - s->sent_bytes;
        if (s->gone || (left == 0 && s->cut)) {
                n = MHD_CONTENT_READER_END_WITH_ERROR;
        } else if (left > 0) {
                n = (ssize_t)cas_min_u64(left, max);
                memcpy(out, s->buf.data + s->sent_bytes, (size_t)n);
                s->sent_bytes += (size_t)n;
                s->req->body_out_bytes += (uint64_t)n;
                if (s->sent_bytes == s->buf.len_bytes) {
                        cas_buf_clear(&s->buf);
                        s->sent_bytes = 0;
                }
                (void)pthread_cond_broadcast(&s->change);
        } else if (s->closed) {
                n = MHD_CONTENT_READER_END_OF_STREAM;
        } else {
                MHD_suspend_connection(s->connection);
                s->suspended = true;
        }
        cas_mutex_unlock(&s->mutex);
        return n;
}

/* The source has something, or has failed. */
static void source_wake(void *arg)
{
        struct reg_http_stream *s = arg;
        cas_mutex_lock(&s->mutex);
        s->woken = !resume_locked(s);
        cas_mutex_unlock(&s->mutex);
}

/* Nothing is there: waits, unless the source has called meanwhile, or all is to end. False: so it
 * is. */
static bool source_suspend(struct reg_http_stream *s)
{
        cas_mutex_lock(&s->mutex);
        bool again = s->woken || s->gone;
        s->woken = false;
        if (!again) {
                MHD_suspend_connection(s->connection);
                s->suspended = true;
        }
        cas_mutex_unlock(&s->mutex);
        return !again;
}

static ssize_t source_read(void *arg, uint64_t at CAS_UNUSED, char *out, size_t max)
{
        struct reg_http_stream *s = arg;
        struct cas_err err = CAS_ERR_INIT;
        size_t got = 0;
        do {
                cas_mutex_lock(&s->mutex);
                bool gone = s->gone;
                cas_mutex_unlock(&s->mutex);
                if (gone)
                        return MHD_CONTENT_READER_END_WITH_ERROR;
                if (s->ops->read(s->source, out, max, &got, source_wake, s, &err) < 0) {
                        cas_log(CAS_LOG_ERROR, "http", "answer cut off: %s", err.msg);
                        return MHD_CONTENT_READER_END_WITH_ERROR;
                }
        } while (got == 0 && !source_suspend(s));
        s->req->body_out_bytes += got;
        return (ssize_t)got;
}

/* The daemon drops its response. */
static void stream_released(void *arg)
{
        struct reg_http_stream *s = arg;
        struct reg_http_server *server = s->server;
        if (s->ops)
                s->ops->free(s->source); /* it calls source_wake no more */
        cas_mutex_lock(&server->mutex);
        *s->link = s->next;
        if (s->next)
                s->next->link = s->link;
        cas_mutex_unlock(&server->mutex);
        cas_mutex_lock(&s->mutex);
        s->gone = true;
        (void)pthread_cond_broadcast(&s->change);
        cas_mutex_unlock(&s->mutex);
        stream_unref(s);
}

static struct reg_http_stream *stream_new(struct reg_http_req *req, unsigned refs)
{
        struct reg_http_server *server = req->server;
        struct reg_http_stream *s = cas_xcalloc(1, sizeof(*s));
        s->server = server;
        s->connection = req->connection;
        s->req = req;
        s->refs = refs;
        cas_mutex_init(&s->mutex, "http stream");
        cas_cond_init(&s->change);
        cas_buf_init(&s->buf);
        cas_mutex_lock(&server->mutex);
        s->gone = server->ended;
        s->next = server->streams;
        s->link = &server->streams;
        if (s->next)
                s->next->link = &s->next;
        server->streams = s;
        cas_mutex_unlock(&server->mutex);
        return s;
}

struct reg_http_stream *reg_http_reply_stream(struct reg_http_req *req, unsigned status)
{
        struct reg_http_stream *s = stream_new(req, 2);
        reg_http_reply_response(req, status,
                                MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 32 * 1024,
                                                                  stream_read, s, stream_released),
                                0);
        /* `end` goes on; its answer leaves now */
        if (req->stage == REG_HTTP_WORKING) {
                req->streamed = true;
                MHD_resume_connection(req->connection);
        }
        return s;
}

void reg_http_reply_source(struct reg_http_req *req, unsigned status, uint64_t len,
                           const struct reg_http_source_ops *ops, void *source)
{
        struct reg_http_stream *s = stream_new(req, 1);
        s->ops = ops;
        s->source = source;
        reg_http_reply_response(req, status,
                                MHD_create_response_from_callback(len, SOURCE_BLOCK_BYTES,
                                                                  source_read, s, stream_released),
                                0);
}

int reg_http_stream_write(struct reg_http_stream *s, const void *data, size_t len,
                          struct cas_err *err)
{
        cas_mutex_lock(&s->mutex);
        cas_assert(!s->closed);
        while (!s->gone && s->buf.len_bytes - s->sent_bytes > REG_HTTP_STREAM_BYTES_MAX)
                cas_mutex_wait(&s->mutex, &s->change);
        bool gone = s->gone;
        if (!gone) {
                cas_buf_append(&s->buf, data, len);
                (void)resume_locked(s);
        }
        cas_mutex_unlock(&s->mutex);
        return gone ? cas_fail(err, CAS_E_IO, "the client is gone") : 0;
}

void reg_http_stream_close(struct reg_http_stream *s, bool broken)
{
        cas_mutex_lock(&s->mutex);
        cas_assert(!s->closed);
        s->closed = true;
        s->cut = broken;
        (void)resume_locked(s);
        cas_mutex_unlock(&s->mutex);
        stream_unref(s);
}

void reg_http_streams_break(struct reg_http_server *server)
{
        cas_mutex_lock(&server->mutex);
        for (struct reg_http_stream *s = server->streams; s; s = s->next) {
                cas_mutex_lock(&s->mutex);
                s->gone = true;
                (void)pthread_cond_broadcast(&s->change);
                (void)resume_locked(s);
                cas_mutex_unlock(&s->mutex);
        }
        cas_mutex_unlock(&server->mutex);
}
