/* SPDX-License-Identifier: Apache-2.0 */
/* A flight is one regeneration: a thread makes bytes from `start` to `end` and appends them to a
 * spool; streams read from that. The flight ends early when nobody reads it. What follows a failure
 * are errors for those who want bytes that were not made.
 *
 * Locks: flights.mutex guards the list of flights and their reader counts; flight.mutex what was
 * made and who waits for it. The first is taken before the second. Neither is held while bytes are
 * made or read. */
#include "cas/blobstream.h"

#include <fcntl.h>
#include <inttypes.h>

#include "cas/blob.h"
#include "cas/condense.h"
#include "cas/damage_int.h"
#include "cas/flights_int.h"
#include "cas/limits.h"
#include "cas/log.h"
#include "cas/pins_int.h"
#include "cas/pool.h"
#include "cas/regen.h"
#include "cas/spool.h"
#include "cas/store_int.h"

/* Bytes that move at a time. */
#define PIECE_BYTES (256 * CAS_KIB)
/* How many regenerated blobs are remembered: one of them that is wanted again is kept. */
#define RECENT_COUNT 256
/* Who wants to begin this far behind what is made joins a flight; else another is started. */
#define JOIN_AHEAD_BYTES (8 * CAS_MIB)

struct waiter {
        struct waiter *next;
        void (*wake)(void *arg);
        void *arg;
        bool is_waiting;
};

struct flight {
        struct flight *next;
        struct cas_flights *flights;
        struct cas_digest digest;
        struct cas_hash recipe;
        uint64_t blob_bytes;
        uint64_t start, end; /* of the blob's bytes */
        unsigned threads;
        struct cas_pins *pins; /* the blob and its recipe, while it runs */
        struct cas_spool *spool;
        /* guarded by flights.mutex; the flight is freed when it neither runs nor is read */
        unsigned readers;
        bool is_running;
        bool is_listed;       /* others may join */
        _Atomic bool no_more; /* nobody wants it any more */

        struct cas_mutex mutex; /* guards all below */
        pthread_cond_t change;
        uint64_t made; /* offset in the blob of the first byte that is not there */
        bool ended;
        struct cas_err err; /* when it ended before `end` */
        struct waiter *waiters;
};

struct cas_flights {
        struct cas_store *store;
        unsigned max, threads;
        _Atomic bool closing;
        struct cas_mutex mutex; /* guards all below */
        pthread_cond_t change;  /* running */
        struct flight *list;
        struct cas_blob_stream_counts counts;
        struct cas_digest recent[RECENT_COUNT]; /* blobs that were made last; a ring */
        size_t recent_next;
};

struct cas_blob_stream {
        struct cas_store *store;
        uint64_t start, offset, end;
        int fd;                /* -1: a flight */
        struct flight *flight; /* one reader count */
        struct waiter waiter;
};

/* What somebody wants to read. */
struct wanted {
        struct cas_pins *pins; /* the blob and its recipe; a flight that is begun takes them */
        struct cas_recipe_record rec;
        uint64_t start, end; /* of the blob's bytes */
};

/* ---- flights ---- */

static void flight_free(struct flight *f)
{
        cas_spool_free(f->spool);
        cas_mutex_release(&f->mutex);
        (void)pthread_cond_destroy(&f->change);
        free(f);
}

/* Tells everybody who waits. */
static void flight_progress(struct flight *f, size_t more, bool ended, const struct cas_err *err)
{
        cas_mutex_lock(&f->mutex);
        f->made += more;
        f->ended = ended;
        if (err)
                f->err = *err;
        for (struct waiter *w = f->waiters; w; w = w->next) {
                w->is_waiting = false;
                w->wake(w->arg);
        }
        f->waiters = NULL;
        (void)pthread_cond_broadcast(&f->change);
        cas_mutex_unlock(&f->mutex);
}

static int flight_make(struct flight *f, uint8_t *piece, struct cas_err *err)
{
        cas_cleanup_regen struct cas_regen *g = NULL;
        uint64_t at = f->start;
        if (cas_regen_open(f->flights->store, &f->digest, &f->recipe, f->start, f->threads, &g,
                           err) < 0)
                return -(int)err->code;
        while (at < f->end && !atomic_load(&f->no_more)) {
                size_t len, want = cas_min_u64(PIECE_BYTES, f->end - at);
                if (cas_regen_read(g, piece, want, &len, err) < 0)
                        return -(int)err->code;
                if (len == 0)
                        return cas_fail(err, CAS_E_CORRUPT, "it ends at byte %" PRIu64, at);
                if (cas_spool_append(f->spool, piece, len, err) < 0)
                        return -(int)err->code;
                at += len;
                flight_progress(f, len, false, NULL);
        }
        return at < f->end ? cas_fail(err, CAS_E_IO, "broken off") : 0;
}

/* Of a flight that nobody may join any more. */
static void unlist_locked(struct flight *f)
{
        cas_assert_held(&f->flights->mutex);
        if (!f->is_listed)
                return;
        struct flight **at = &f->flights->list;
        while (*at != f)
                at = &(*at)->next;
        *at = f->next;
        f->is_listed = false;
}

/* Whether the blob was made before, and not long ago; it counts as made from now on. */
static bool made_before(struct cas_flights *fs, const struct cas_digest *digest)
{
        cas_mutex_lock(&fs->mutex);
        bool found = false;
        for (size_t i = 0; i < RECENT_COUNT; i++)
                found = found || cas_digest_equal(&fs->recent[i], digest);
        if (!found)
                fs->recent[fs->recent_next++ % RECENT_COUNT] = *digest;
        cas_mutex_unlock(&fs->mutex);
        return found;
}

static int write_copy(struct flight *f, const char *path, uint8_t *piece, struct cas_err *err)
{
        const struct cas_store *s = f->flights->store;
        cas_cleanup_fd int fd = -1;
        if (cas_io_open(s->io, s->dirfd, path, O_WRONLY | O_CREAT | O_EXCL, 0600, &fd, err) < 0)
                return -(int)err->code;
        for (uint64_t at = 0; at < f->end;) {
                size_t n = cas_min_u64(PIECE_BYTES, f->end - at);
                if (atomic_load(&f->flights->closing))
                        return cas_fail(err, CAS_E_BUSY, "the store is being closed");
                if (cas_spool_read(f->spool, at, piece, n, err) < 0 ||
                    cas_io_pwrite_all(s->io, fd, piece, n, at, path, err) < 0)
                        return -(int)err->code;
                at += n;
        }
        return 0;
}

/* What was pulled twice is kept as a copy. It was compared with its digest while it was made. */
static void keep_copy(struct flight *f, uint8_t *piece)
{
        struct cas_store *s = f->flights->store;
        struct cas_err err = CAS_ERR_INIT;
        char path[CAS_TEMPORARY_PATH_BYTES];
        bool kept;
        bool whole = f->start == 0 && f->end == f->blob_bytes;
        if (!whole || f->end > s->blob_cache_bytes || !made_before(f->flights, &f->digest))
                return;
        int rc = cas_temporary_path(path, &err);
        if (rc == 0) {
                rc = write_copy(f, path, piece, &err);
                if (rc < 0)
                        (void)s->io->ops->unlinkat(s->io->ctx, s->dirfd, path, 0);
        }
        if (rc == 0)
                rc = cas_blob_cache_put(s, strrchr(path, '/') + 1, &f->digest, &kept, &err);
        if (rc < 0)
                cas_log(CAS_LOG_WARN, "blob-cache", "error=\"%s\"", err.msg);
}

/* A recipe that makes something else, of what was pinned while it did, is not relied on any more.
 */
static void doubt_recipe(struct flight *f)
{
        struct cas_store *s = f->flights->store;
        struct cas_err err = CAS_ERR_INIT;
        cas_damage_note_blob(s, &f->digest);
        if (cas_recipe_doubt(s, &f->digest, &err) < 0)
                cas_log(CAS_LOG_WARN, "recipe", "error=\"%s\"", err.msg);
}

static void *flight_run(void *arg)
{
        struct flight *f = arg;
        struct cas_flights *fs = f->flights;
        struct cas_err err = CAS_ERR_INIT;
        uint8_t *piece = cas_xmalloc(PIECE_BYTES);
        int rc = flight_make(f, piece, &err);
        bool failed = rc < 0 && !atomic_load(&f->no_more); /* and who reads does not know yet */
        if (rc < 0) {
                char text[CAS_DIGEST_TEXT_BYTES];
                (void)cas_err_wrap(&err, "regenerating blob %s", cas_digest_text(&f->digest, text));
                if (err.code == CAS_E_CORRUPT || err.code == CAS_E_NOTFOUND)
                        doubt_recipe(f);
        }
        flight_progress(f, 0, true, rc < 0 ? &err : NULL);
        cas_pins_free(cas_steal(&f->pins));
        if (rc == 0)
                keep_copy(f, piece);
        free(piece);
        cas_mutex_lock(&fs->mutex);
        f->is_running = false;
        if (rc < 0)
                unlist_locked(f);
        bool last = f->readers == 0;
        if (last)
                unlist_locked(f);
        fs->counts.failed += failed;
        cas_mutex_unlock(&fs->mutex);
        if (last)
                flight_free(f);
        /* Nothing of the flights is touched after this: they may go. */
        cas_mutex_lock(&fs->mutex);
        fs->counts.running--;
        (void)pthread_cond_broadcast(&fs->change);
        cas_mutex_unlock(&fs->mutex);
        return NULL;
}

static void flight_leave(struct flight *f)
{
        struct cas_flights *fs = f->flights;
        cas_mutex_lock(&fs->mutex);
        bool last = --f->readers == 0;
        if (last) {
                atomic_store(&f->no_more, true);
                unlist_locked(f);
        }
        bool over = last && !f->is_running;
        cas_mutex_unlock(&fs->mutex);
        if (over)
                flight_free(f);
}

static bool flight_serves(struct flight *f, const struct wanted *w)
{
        if (!cas_digest_equal(&f->digest, &w->rec.blob) || w->start < f->start || w->end > f->end)
                return false;
        cas_mutex_lock(&f->mutex);
        bool near = w->start <= f->made + JOIN_AHEAD_BYTES;
        cas_mutex_unlock(&f->mutex);
        return near;
}

/* Of a flight that begins now: the more there are, the fewer. */
static unsigned thread_count_locked(const struct cas_flights *fs)
{
        cas_assert_held(&fs->mutex);
        unsigned all = fs->threads ? fs->threads : cas_cpu_count();
        return (unsigned)cas_max_u64(1, all / (fs->counts.running + 1));
}

/* Begins a flight; its one reader is the caller. */
static int flight_start_locked(struct cas_flights *fs, struct wanted *w, struct flight **out,
                               struct cas_err *err)
{
        cas_assert_held(&fs->mutex);
        struct flight *f = cas_xcalloc(1, sizeof(*f));
        f->flights = fs;
        f->digest = w->rec.blob;
        f->recipe = w->rec.recipe;
        f->blob_bytes = w->rec.blob_bytes;
        f->threads = thread_count_locked(fs);
        f->pins = cas_steal(&w->pins);
        f->start = f->made = w->start;
        f->end = w->end;
        f->spool = cas_spool_new(fs->store);
        f->readers = 1;
        f->is_running = true;
        cas_mutex_init(&f->mutex, "flight");
        cas_cond_init(&f->change);
        pthread_t thread;
        int errnum = pthread_create(&thread, NULL, flight_run, f);
        if (errnum != 0) {
                w->pins = cas_steal(&f->pins); /* they are not freed under the lock */
                flight_free(f);
                return cas_fail_sys(err, errnum, "a thread for regeneration");
        }
        (void)pthread_detach(thread);
        f->is_listed = true;
        f->next = fs->list;
        fs->list = f;
        fs->counts.running++;
        fs->counts.started++;
        *out = f;
        return 0;
}

static struct flight *flight_find_locked(struct cas_flights *fs, const struct wanted *w)
{
        cas_assert_held(&fs->mutex);
        struct flight *f = fs->list;
        while (f && !flight_serves(f, w))
                f = f->next;
        return f;
}

static int flight_join(struct cas_flights *fs, struct wanted *w, bool wait, struct flight **out,
                       struct cas_err *err)
{
        int rc = 0;
        cas_mutex_lock(&fs->mutex);
        struct flight *f = flight_find_locked(fs, w);
        while (!f && wait && fs->counts.running >= fs->max) {
                cas_mutex_wait(&fs->mutex, &fs->change);
                f = flight_find_locked(fs, w);
        }
        if (f) {
                f->readers++;
                fs->counts.joined++;
                *out = f;
        } else if (fs->counts.running >= fs->max) {
                fs->counts.refused++;
                rc = cas_fail(err, CAS_E_BUSY, "%u blobs are being regenerated already",
                              fs->counts.running);
        } else {
                rc = flight_start_locked(fs, w, out, err);
        }
        cas_mutex_unlock(&fs->mutex);
        return rc;
}

struct cas_flights *cas_flights_new(struct cas_store *s, unsigned max, unsigned threads)
{
        struct cas_flights *fs = cas_xcalloc(1, sizeof(*fs));
        fs->store = s;
        fs->max = max;
        fs->threads = threads;
        cas_mutex_init(&fs->mutex, "flights");
        cas_cond_init(&fs->change);
        return fs;
}

void cas_flights_free(struct cas_flights *fs)
{
        if (!fs)
                return;
        atomic_store(&fs->closing, true);
        cas_mutex_lock(&fs->mutex);
        while (fs->counts.running > 0)
                cas_mutex_wait(&fs->mutex, &fs->change);
        cas_assert(!fs->list);
        cas_mutex_unlock(&fs->mutex);
        cas_mutex_release(&fs->mutex);
        (void)pthread_cond_destroy(&fs->change);
        free(fs);
}

void cas_blob_stream_counts(struct cas_store *s, struct cas_blob_stream_counts *out)
{
        cas_mutex_lock(&s->flights->mutex);
        *out = s->flights->counts;
        cas_mutex_unlock(&s->flights->mutex);
}

/* ---- streams ---- */

static int check_offset(uint64_t offset, uint64_t blob_bytes, struct cas_err *err)
{
        if (offset <= blob_bytes)
                return 0;
        return cas_fail(err, CAS_E_INVALID, "byte %" PRIu64 " of a blob of %" PRIu64 " bytes",
                        offset, blob_bytes);
}

/* The recipe that the blob has, and that is pinned with what it is made of: another may take its
 * place before it is. */
static int pin_recipe(struct cas_store *s, const struct cas_digest *digest, struct cas_pins *pins,
                      struct cas_recipe_record *out, struct cas_err *err)
{
        struct cas_recipe_record now;
        cas_pin_blob(pins, digest);
        int rc = cas_recipe_stat(s, digest, out, err);
        for (bool same = false; rc == 0 && !same;) {
                cas_pin_object(pins, &out->recipe);
                rc = cas_recipe_stat(s, digest, &now, err);
                same = rc == 0 && cas_hash_equal(&now.recipe, &out->recipe);
                if (rc == 0)
                        *out = now;
        }
        return rc;
}

static int join_flight(struct cas_blob_stream *st, const struct cas_digest *digest, uint64_t bytes,
                       bool wait, struct wanted *w, struct cas_err *err)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        if (pin_recipe(st->store, digest, w->pins, &w->rec, err) < 0 ||
            check_offset(st->offset, w->rec.blob_bytes, err) < 0)
                return -(int)err->code;
        if (!w->rec.is_proved) /* not any more */
                return cas_fail(err, CAS_E_NOTFOUND, "blob %s: its recipe is not proved",
                                cas_digest_text(digest, text));
        w->start = st->offset;
        w->end = st->end = st->offset + cas_min_u64(bytes, w->rec.blob_bytes - st->offset);
        if (w->end == w->start)
                return 0;
        return flight_join(st->store->flights, w, wait, &st->flight, err);
}

static int open_flight(struct cas_blob_stream *st, const struct cas_digest *digest, uint64_t bytes,
                       bool wait, struct cas_err *err)
{
        struct wanted w = {.pins = cas_pins_new(st->store)};
        int rc = join_flight(st, digest, bytes, wait, &w, err);
        cas_pins_free(w.pins);
        return rc;
}

int cas_blob_stream_open(struct cas_store *s, const struct cas_digest *digest, uint64_t offset,
                         uint64_t bytes, bool wait, struct cas_blob_stream **out,
                         struct cas_err *err)
{
        cas_cleanup_blob_stream struct cas_blob_stream *st = cas_xcalloc(1, sizeof(*st));
        struct cas_err why = CAS_ERR_INIT;
        uint64_t blob_bytes;
        st->store = s;
        st->start = st->offset = offset;
        st->fd = -1;
        int rc = cas_blob_open(s, digest, &st->fd, &blob_bytes, &why);
        if (rc == 0) {
                if (check_offset(offset, blob_bytes, err) < 0)
                        return -(int)err->code;
                st->end = offset + cas_min_u64(bytes, blob_bytes - offset);
        } else if (why.code == CAS_E_UNSUPPORTED) { /* condensed */
                if (open_flight(st, digest, bytes, wait, err) < 0)
                        return -(int)err->code;
        } else {
                *err = why;
                return rc;
        }
        *out = cas_steal(&st);
        return 0;
}

void cas_blob_stream_close(struct cas_blob_stream *st)
{
        if (!st)
                return;
        if (st->fd >= 0)
                (void)st->store->io->ops->close(st->store->io->ctx, st->fd);
        struct flight *f = st->flight;
        if (f) {
                cas_mutex_lock(&f->mutex);
                if (st->waiter.is_waiting) {
                        struct waiter **at = &f->waiters;
                        while (*at != &st->waiter)
                                at = &(*at)->next;
                        *at = st->waiter.next;
                }
                cas_mutex_unlock(&f->mutex);
                flight_leave(f);
        }
        free(st);
}

uint64_t cas_blob_stream_left(const struct cas_blob_stream *st)
{
        return st->end - st->offset;
}

void cas_blob_stream_seek(struct cas_blob_stream *st, uint64_t offset)
{
        cas_assert(offset >= st->start && offset <= st->end);
        st->offset = offset;
}

int cas_blob_stream_take_fd(struct cas_blob_stream *st, uint64_t *out_offset)
{
        *out_offset = st->offset;
        int fd = st->fd;
        if (fd >= 0)
                st->end = st->offset;
        st->fd = -1;
        return fd;
}

/* Waits for bytes of the flight, or leaves word that they are wanted. *have: how many there are. */
static int await(struct cas_blob_stream *st, void (*wake)(void *arg), void *arg, uint64_t *have,
                 struct cas_err *err)
{
        struct flight *f = st->flight;
        int rc = 0;
        cas_mutex_lock(&f->mutex);
        while (!wake && f->made <= st->offset && !f->ended)
                cas_mutex_wait(&f->mutex, &f->change);
        *have = f->made > st->offset ? f->made - st->offset : 0;
        if (*have == 0 && f->ended) {
                *err = f->err;
                rc = -(int)f->err.code;
                cas_assert(rc < 0);
        } else if (*have == 0 && !st->waiter.is_waiting) {
                st->waiter = (struct waiter){f->waiters, wake, arg, true};
                f->waiters = &st->waiter;
        }
        cas_mutex_unlock(&f->mutex);
        return rc;
}

int cas_blob_stream_poll(struct cas_blob_stream *st, void *buf, size_t len, size_t *out_len,
                         void (*wake)(void *arg), void *arg, struct cas_err *err)
{
        size_t got = cas_min_u64(len, st->end - st->offset);
        *out_len = 0;
        if (got == 0)
                return 0;
        if (st->fd >= 0) {
                if (cas_io_pread_exact(st->store->io, st->fd, buf, got, st->offset, "blob", err) <
                    0)
                        return -(int)err->code;
        } else {
                uint64_t have;
                if (await(st, wake, arg, &have, err) < 0)
                        return -(int)err->code;
                got = cas_min_u64(got, have);
                if (got > 0 && cas_spool_read(st->flight->spool, st->offset - st->flight->start,
                                              buf, got, err) < 0)
                        return -(int)err->code;
        }
        st->offset += got;
        *out_len = got;
        return 0;
}

int cas_blob_stream_read(void *stream, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        return cas_blob_stream_poll(stream, buf, len, out_len, NULL, NULL, err);
}
