/* SPDX-License-Identifier: Apache-2.0 */
/* A regeneration puts what it makes into a file once it is more than half a MiB: that is where
 * these tests hold it, or let it fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <time.h>
#include <zlib.h>

#include "cas/blobstream.h"
#include "cas/commit_int.h"
#include "cas/condense.h"
#include "cas/flights_int.h"
#include "cas/maintain.h"
#include "cas/recipe_int.h"
#include "cas/store_int.h"
#include "tests/support/tarmake.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

#define FILES 16
#define THREADS 8

static void check_ok(int rc, const struct cas_err *err, int line)
{
        if (rc < 0)
                fail_msg("line %d: %s", line, err->msg);
}
#define ok(call) check_ok(call, &err, __LINE__)

/* ---- the gate ---- */

static struct {
        pthread_mutex_t mutex;
        pthread_cond_t change;
        bool closed;
        unsigned waiting;
        int error; /* 0: none */
} gate = {.mutex = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER};

static int gated_openat(void *ctx, int dirfd, const char *path, int flags, mode_t mode)
{
        int error = 0;
        if (strncmp(path, "uploads/tmp-", 12) == 0 && (flags & O_ACCMODE) == O_RDWR) {
                (void)pthread_mutex_lock(&gate.mutex);
                gate.waiting++;
                (void)pthread_cond_broadcast(&gate.change);
                while (gate.closed)
                        (void)pthread_cond_wait(&gate.change, &gate.mutex);
                gate.waiting--;
                error = gate.error;
                (void)pthread_mutex_unlock(&gate.mutex);
        }
        if (error == 0)
                return cas_io_posix()->ops->openat(ctx, dirfd, path, flags, mode);
        errno = error;
        return -1;
}

static void gate_set(bool closed, int error)
{
        (void)pthread_mutex_lock(&gate.mutex);
        gate.closed = closed;
        gate.error = error;
        (void)pthread_cond_broadcast(&gate.change);
        (void)pthread_mutex_unlock(&gate.mutex);
}

static void gate_await(unsigned waiting)
{
        (void)pthread_mutex_lock(&gate.mutex);
        while (gate.waiting < waiting)
                (void)pthread_cond_wait(&gate.change, &gate.mutex);
        (void)pthread_mutex_unlock(&gate.mutex);
}

/* ---- stores and layers ---- */

struct layer {
        struct cas_digest blob;
        struct cas_buf bytes;
};

static void open_with(struct teststore *t, unsigned regenerations, uint64_t blob_cache_bytes)
{
        static struct cas_io_ops ops;
        static struct cas_io io;
        struct cas_err err = CAS_ERR_INIT;
        ops = *cas_io_posix()->ops;
        ops.openat = gated_openat;
        io = (struct cas_io){.ops = &ops, .ctx = cas_io_posix()->ctx};
        const struct cas_store_config config = {.path = t->path,
                                                .io = &io,
                                                .threads = 2,
                                                .regenerations = regenerations,
                                                .blob_cache_bytes = blob_cache_bytes};
        teststore_close(t);
        ok(cas_store_open(&config, &t->store, &err));
}

static void make_tar(unsigned seed, struct cas_buf *out)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        for (unsigned i = 0; i < FILES; i++) {
                cas_cleanup_free char *name = cas_xasprintf("file%u", i);
                test_file(seed + i, &bytes);
                tarmake_header(out, &(struct tarmake){
                                            .name = name, .size = bytes.len_bytes, .mode = 0644});
                tarmake_data(out, bytes.data, bytes.len_bytes);
        }
        tarmake_end(out);
}

static void make_gzip(const struct cas_buf *raw, struct cas_buf *out)
{
        z_stream z = {0};
        assert_int_equal(deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
        size_t bound = deflateBound(&z, raw->len_bytes);
        cas_buf_reserve(out, bound);
        z.next_in = raw->data;
        z.avail_in = (uInt)raw->len_bytes;
        z.next_out = out->data;
        z.avail_out = (uInt)bound;
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        out->len_bytes = z.total_out;
        (void)deflateEnd(&z);
}

static void push(struct teststore *t, struct layer *l)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_blob(p, l->bytes.data, l->bytes.len_bytes, NULL, &l->blob, &err));
        ok(cas_publish_blob_link(p, "r", &l->blob, &err));
        ok(cas_publish_commit(p, &err));
}

static void condense(struct teststore *t, const struct layer *l)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recipe_record rec;
        const struct cas_condense_options options = {.threads = 2};
        ok(cas_condense_blob(t->store, &l->blob, &options, NULL, &rec, &err));
        assert_string_equal(rec.reason, "");
        assert_true(rec.is_proved);
}

static void put_layer(struct teststore *t, unsigned seed, bool gzip, struct layer *l)
{
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        *l = (struct layer){0};
        make_tar(seed, &tar);
        if (gzip)
                make_gzip(&tar, &l->bytes);
        else
                cas_buf_append(&l->bytes, tar.data, tar.len_bytes);
        push(t, l);
}

static void layer_release(struct layer *l)
{
        cas_buf_release(&l->bytes);
}
#define cleanup_layer __attribute__((cleanup(layer_release)))

static enum cas_blob_copy copy_of(struct teststore *t, const struct layer *l)
{
        struct cas_err err = CAS_ERR_INIT;
        enum cas_blob_copy copy;
        ok(cas_blob_copy(t->store, &l->blob, &copy, &err));
        return copy;
}

static bool is_proved(struct teststore *t, const struct layer *l)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recipe_record rec;
        ok(cas_recipe_stat(t->store, &l->blob, &rec, &err));
        return rec.is_proved;
}

static struct cas_blob_stream_counts counts_of(struct teststore *t)
{
        struct cas_blob_stream_counts counts;
        cas_blob_stream_counts(t->store, &counts);
        return counts;
}

/* Until nothing is regenerated any more. */
static void await_idle(struct teststore *t)
{
        while (counts_of(t).running > 0)
                (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* ---- reading ---- */

static int open_stream(struct teststore *t, const struct layer *l, uint64_t offset, bool wait,
                       struct cas_blob_stream **out, struct cas_err *err)
{
        return cas_blob_stream_open(t->store, &l->blob, offset, UINT64_MAX, wait, out, err);
}

/* Reads to the end, in pieces that are not those that things are made in. 0 or -code. */
static int read_rest(struct cas_blob_stream *st, const struct layer *l, uint64_t at, uint64_t end,
                     struct cas_err *err)
{
        cas_cleanup_free uint8_t *piece = cas_xmalloc(77777);
        size_t n = 1;
        while (n > 0) {
                int rc = cas_blob_stream_read(st, piece, 77777, &n, err);
                if (rc < 0)
                        return rc;
                assert_true(n <= end - at);
                assert_memory_equal(piece, l->bytes.data + at, n);
                at += n;
                assert_int_equal(cas_blob_stream_left(st), end - at);
        }
        assert_int_equal(at, end);
        return 0;
}

static int pull(struct teststore *t, const struct layer *l, struct cas_err *err)
{
        cas_cleanup_blob_stream struct cas_blob_stream *st = NULL;
        int rc = open_stream(t, l, 0, true, &st, err);
        return rc < 0 ? rc : read_rest(st, l, 0, l->bytes.len_bytes, err);
}

static void wake(void *arg)
{
        assert_int_equal(sem_post(arg), 0);
}

/* The same without waiting for the stream. */
static int poll_rest(struct cas_blob_stream *st, const struct layer *l, uint64_t at,
                     struct cas_err *err)
{
        cas_cleanup_free uint8_t *piece = cas_xmalloc(77777);
        sem_t woken;
        int rc = 0;
        assert_int_equal(sem_init(&woken, 0, 0), 0);
        while (rc == 0 && cas_blob_stream_left(st) > 0) {
                size_t n;
                rc = cas_blob_stream_poll(st, piece, 77777, &n, wake, &woken, err);
                if (rc < 0)
                        break;
                if (n == 0)
                        while (sem_wait(&woken) != 0)
                                assert_int_equal(errno, EINTR);
                assert_memory_equal(piece, l->bytes.data + at, n);
                at += n;
        }
        (void)sem_destroy(&woken);
        return rc;
}

/* ---- tests ---- */

static void expect_any_part(struct teststore *t, const struct layer *l)
{
        struct cas_err err = CAS_ERR_INIT;
        const uint64_t bytes = l->bytes.len_bytes;
        const uint64_t offsets[] = {0, 1, 511, bytes / 3, 2 * bytes / 3 + 1, bytes - 1, bytes};
        for (size_t i = 0; i < CAS_COUNT(offsets); i++) {
                const uint64_t lengths[] = {0, 1, bytes / 4, UINT64_MAX};
                for (size_t k = 0; k < CAS_COUNT(lengths); k++) {
                        cas_cleanup_blob_stream struct cas_blob_stream *st = NULL;
                        uint64_t end = offsets[i] + cas_min_u64(lengths[k], bytes - offsets[i]);
                        ok(cas_blob_stream_open(t->store, &l->blob, offsets[i], lengths[k], true,
                                                &st, &err));
                        assert_int_equal(cas_blob_stream_left(st), end - offsets[i]);
                        ok(read_rest(st, l, offsets[i], end, &err));
                }
        }
        struct cas_blob_stream *none = NULL;
        assert_int_equal(open_stream(t, l, bytes + 1, true, &none, &err), -CAS_E_INVALID);
        assert_null(none);
}

static void streams_begin_anywhere(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_blob_stream struct cas_blob_stream *st = NULL;
        cleanup_layer struct layer plain, gzip;
        uint64_t offset;
        put_layer(t, 0, false, &plain);
        put_layer(t, 30, true, &gzip);
        expect_any_part(t, &plain);
        assert_int_equal(counts_of(t).started, 0);
        condense(t, &plain);
        condense(t, &gzip);
        expect_any_part(t, &plain);
        expect_any_part(t, &gzip);
        assert_true(counts_of(t).started > 0);
        ok(open_stream(t, &gzip, 7, true, &st, &err));
        assert_int_equal(cas_blob_stream_take_fd(st, &offset), -1);
        assert_int_equal(offset, 7);
        struct layer absent = {.blob = test_digest("absent")};
        struct cas_blob_stream *none = NULL;
        assert_int_equal(open_stream(t, &absent, 0, true, &none, &err), -CAS_E_NOTFOUND);
        assert_null(none);
}

struct reader {
        struct teststore *t;
        const struct layer *layer;
        unsigned number;
        int rc;
        struct cas_err err;
};

/* Several ranges of one answer: there and back, of a file and of one regeneration. */
static void streams_go_back_and_ahead(void **state)
{
        struct teststore *t = *state;
        struct layer l = {0};
        struct cas_err err = CAS_ERR_INIT;
        put_layer(t, 7, true, &l);
        for (int condensed = 0; condensed < 2; condensed++) {
                if (condensed)
                        condense(t, &l);
                const uint64_t end = l.bytes.len_bytes - 5, started = counts_of(t).started;
                const uint64_t at[] = {end - 100, 10, 5000, 4900, end - 1, 10};
                struct cas_blob_stream *st = NULL;
                ok(cas_blob_stream_open(t->store, &l.blob, 10, end - 10, true, &st, &err));
                for (size_t i = 0; i < CAS_COUNT(at); i++) {
                        uint8_t got[200];
                        size_t n = 0, len, want = cas_min_u64(sizeof(got), end - at[i]);
                        cas_blob_stream_seek(st, at[i]);
                        for (; n < want; n += len)
                                ok(cas_blob_stream_read(st, got + n, want - n, &len, &err));
                        assert_memory_equal(got, l.bytes.data + at[i], want);
                }
                cas_blob_stream_seek(st, end);
                assert_int_equal(cas_blob_stream_left(st), 0);
                cas_blob_stream_close(st);
                await_idle(t);
                assert_int_equal(counts_of(t).started - started, condensed);
        }
        layer_release(&l);
}

static void *read_along(void *arg)
{
        struct reader *r = arg;
        cas_cleanup_blob_stream struct cas_blob_stream *st = NULL;
        uint64_t at = r->number * (r->layer->bytes.len_bytes / THREADS);
        r->rc = open_stream(r->t, r->layer, at, false, &st, &r->err);
        if (r->rc == 0)
                r->rc = r->number % 2
                                ? poll_rest(st, r->layer, at, &r->err)
                                : read_rest(st, r->layer, at, r->layer->bytes.len_bytes, &r->err);
        return NULL;
}

static void start_readers(struct teststore *t, const struct layer *l, struct reader *readers,
                          pthread_t *threads)
{
        for (unsigned i = 0; i < THREADS; i++) {
                readers[i] = (struct reader){.t = t, .layer = l, .number = i};
                assert_int_equal(pthread_create(&threads[i], NULL, read_along, &readers[i]), 0);
        }
}

static void readers_share_one_regeneration(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_layer struct layer l;
        struct reader readers[THREADS];
        pthread_t threads[THREADS];
        put_layer(t, 0, true, &l);
        condense(t, &l);
        for (unsigned round = 0; round < 4; round++) {
                cas_cleanup_blob_stream struct cas_blob_stream *st = NULL;
                open_with(t, 1, 0);
                gate_set(round % 2, 0);
                ok(open_stream(t, &l, 0, false, &st, &err));
                start_readers(t, &l, readers, threads);
                while (counts_of(t).joined < THREADS)
                        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
                gate_set(false, 0);
                for (unsigned i = 0; i < THREADS; i++) {
                        (void)pthread_join(threads[i], NULL);
                        check_ok(readers[i].rc, &readers[i].err, __LINE__);
                }
                ok(read_rest(st, &l, 0, l.bytes.len_bytes, &err));
                const struct cas_blob_stream_counts counts = counts_of(t);
                assert_int_equal(counts.started, 1);
                assert_int_equal(counts.refused + counts.failed, 0);
        }
}

static void a_reader_goes_in_the_middle(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_layer struct layer l;
        uint8_t bytes[100];
        size_t n, read;
        put_layer(t, 0, true, &l);
        condense(t, &l);
        open_with(t, 1, 0);
        struct cas_blob_stream *st = NULL, *waits = NULL;
        sem_t woken;
        assert_int_equal(sem_init(&woken, 0, 0), 0);
        gate_set(true, 0);
        ok(open_stream(t, &l, 0, false, &st, &err));
        ok(cas_blob_stream_read(st, bytes, sizeof(bytes), &read, &err));
        assert_in_range(read, 1, sizeof(bytes));
        gate_await(1);
        ok(open_stream(t, &l, 600 * CAS_KIB, false, &waits, &err));
        ok(cas_blob_stream_poll(waits, bytes, sizeof(bytes), &n, wake, &woken, &err));
        assert_int_equal(n, 0);
        cas_blob_stream_close(waits); /* and is never woken */
        gate_set(false, 0);
        ok(read_rest(st, &l, read, l.bytes.len_bytes, &err));
        cas_blob_stream_close(cas_steal(&st));
        assert_int_equal(sem_trywait(&woken), -1);
        (void)sem_destroy(&woken);
        await_idle(t);
        assert_int_equal(counts_of(t).failed, 0);
        /* The store is closed while what nobody wants is still being made. */
        ok(open_stream(t, &l, 0, false, &st, &err));
        cas_blob_stream_close(cas_steal(&st));
        open_with(t, 1, 0);
        ok(pull(t, &l, &err));
}

static void regenerations_are_bounded(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_layer struct layer a, b;
        struct cas_blob_stream *first = NULL, *other = NULL;
        put_layer(t, 0, true, &a);
        put_layer(t, 30, false, &b);
        condense(t, &a);
        condense(t, &b);
        open_with(t, 1, 0);
        gate_set(true, 0);
        ok(open_stream(t, &a, 0, false, &first, &err));
        gate_await(1);
        assert_int_equal(open_stream(t, &b, 0, false, &other, &err), -CAS_E_BUSY);
        ok(open_stream(t, &a, 5, false, &other, &err)); /* what is made already costs nothing */
        cas_blob_stream_close(cas_steal(&other));
        assert_int_equal(counts_of(t).refused, 1);
        gate_set(false, 0);
        ok(pull(t, &b, &err)); /* waits for the other to be made, not for who reads it */
        ok(read_rest(first, &a, 0, a.bytes.len_bytes, &err));
        cas_blob_stream_close(first);
}

/* What goes wrong with the machine says nothing of the recipe. */
static void passing_errors_are_no_doubt(void **state)
{
        static const struct {
                int error;
                enum cas_code code;
        } cases[] = {{EIO, CAS_E_IO},
                     {ENOSPC, CAS_E_NOSPACE},
                     {ENOMEM, CAS_E_NOMEM},
                     {EMFILE, CAS_E_NOMEM}};
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_layer struct layer l;
        put_layer(t, 0, true, &l);
        condense(t, &l);
        open_with(t, 1, 0);
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                gate_set(false, cases[i].error);
                assert_int_equal(pull(t, &l, &err), -(int)cases[i].code);
                await_idle(t);
                assert_true(is_proved(t, &l));
                gate_set(false, 0);
                ok(pull(t, &l, &err));
        }
        assert_int_equal(counts_of(t).failed, CAS_COUNT(cases));
}

/* Puts another object in the recipe's place: no recipe at all. */
static void damage(struct teststore *t, const struct layer *l)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        struct cas_recipe_record rec;
        struct cas_layer_record layer;
        ok(cas_recipe_stat(t->store, &l->blob, &rec, &err));
        ok(cas_layer_stat(t->store, &l->blob, &layer, &err));
        rec.recipe = layer.listing;
        cas_batch_put_recipe(batch, &rec);
        ok(cas_index_write(t->store->index, batch, &err));
}

static int first_object(void *arg, const struct cas_hash *object, struct cas_err *err CAS_UNUSED)
{
        cas_batch_del_object(arg, object, 1);
        return 0;
}

/* Takes the objects away that the blob is made of. */
static void lose_objects(struct teststore *t, const struct layer *l)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_cleanup_recipe struct cas_recipe *recipe = NULL;
        struct cas_recipe_record rec;
        ok(cas_recipe_stat(t->store, &l->blob, &rec, &err));
        ok(cas_recipe_open(t->store, &rec.recipe, &recipe, &err));
        ok(cas_tarrecipe_each_object(recipe, first_object, batch, &err));
        ok(cas_index_write(t->store->index, batch, &err));
}

static void damage_is_found_and_healed(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_layer struct layer l;
        put_layer(t, 0, true, &l);
        for (unsigned round = 0; round < 2; round++) {
                struct cas_blob_stream *st = NULL;
                condense(t, &l);
                open_with(t, 1, 0);
                assert_int_equal(copy_of(t, &l), CAS_BLOB_CONDENSED);
                if (round == 0)
                        damage(t, &l);
                else
                        lose_objects(t, &l);
                assert_int_equal(pull(t, &l, &err), round == 0 ? -CAS_E_CORRUPT : -CAS_E_NOTFOUND);
                await_idle(t);
                assert_int_equal(counts_of(t).failed, 1);
                assert_false(is_proved(t, &l));
                assert_int_equal(open_stream(t, &l, 0, true, &st, &err), -CAS_E_NOTFOUND);
                push(t, &l);
                assert_int_equal(copy_of(t, &l), CAS_BLOB_VERBATIM);
                ok(pull(t, &l, &err));
                assert_int_equal(counts_of(t).started, 1);
        }
}

static void what_is_wanted_twice_is_kept(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_blob_stream struct cas_blob_stream *st = NULL;
        cleanup_layer struct layer l;
        put_layer(t, 0, true, &l);
        condense(t, &l);
        open_with(t, 0, l.bytes.len_bytes);
        for (unsigned i = 0; i < 3; i++) { /* parts do not count */
                ok(cas_blob_stream_open(t->store, &l.blob, 0, l.bytes.len_bytes - 1, true, &st,
                                        &err));
                ok(read_rest(st, &l, 0, l.bytes.len_bytes - 1, &err));
                cas_blob_stream_close(cas_steal(&st));
                await_idle(t);
        }
        ok(pull(t, &l, &err));
        await_idle(t);
        assert_int_equal(copy_of(t, &l), CAS_BLOB_CONDENSED);
        ok(pull(t, &l, &err));
        await_idle(t);
        assert_int_equal(copy_of(t, &l), CAS_BLOB_CACHED);
        uint64_t started = counts_of(t).started, offset;
        ok(open_stream(t, &l, 9, false, &st, &err));
        cas_cleanup_fd int fd = cas_blob_stream_take_fd(st, &offset);
        assert_true(fd >= 0);
        assert_int_equal(offset, 9);
        assert_int_equal(counts_of(t).started, started);
        open_with(t, 0, l.bytes.len_bytes - 1); /* none that are larger than all there may be */
        ok(cas_blob_cache_shrink(t->store, 0, NULL, &err));
        for (unsigned i = 0; i < 3; i++) {
                ok(pull(t, &l, &err));
                await_idle(t);
        }
        assert_int_equal(copy_of(t, &l), CAS_BLOB_CONDENSED);
}

static void unlink_blob(struct teststore *t, const struct layer *l)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_blob_unlink(p, "r", &l->blob, &err));
        ok(cas_publish_commit(p, &err));
}

static void collect(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result r;
        const struct cas_gc_options options = {.live_percent_min = 100};
        ok(cas_gc(t->store, &options, NULL, &r, &err));
}

static void collection_leaves_what_is_read(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_blob_stream struct cas_blob_stream *st = NULL;
        cleanup_layer struct layer l;
        put_layer(t, 0, true, &l);
        condense(t, &l);
        open_with(t, 1, 0);
        gate_set(true, 0);
        ok(open_stream(t, &l, 0, false, &st, &err));
        gate_await(1);
        unlink_blob(t, &l);
        collect(t);
        assert_true(test_has_blob(t->store, &l.blob));
        gate_set(false, 0);
        await_idle(t);
        collect(t); /* all is made: the blob may go, and what was made does not */
        assert_false(test_has_blob(t->store, &l.blob));
        ok(read_rest(st, &l, 0, l.bytes.len_bytes, &err));
}

/* What is read is pinned: what is not found then was not collected. */
static void what_is_lost_while_it_is_read_is_doubted(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_blob_stream struct cas_blob_stream *st = NULL;
        cleanup_layer struct layer l;
        put_layer(t, 0, true, &l);
        condense(t, &l);
        open_with(t, 1, 0);
        gate_set(true, 0);
        ok(open_stream(t, &l, 0, false, &st, &err));
        gate_await(1);
        lose_objects(t, &l);
        gate_set(false, 0);
        int rc = read_rest(st, &l, 0, l.bytes.len_bytes, &err);
        assert_true(rc == 0 || rc == -CAS_E_NOTFOUND); /* as far as it was made already */
        await_idle(t);
        assert_int_equal(is_proved(t, &l), rc == 0);
        cas_blob_stream_close(cas_steal(&st));
        assert_int_equal(pull(t, &l, &err), -CAS_E_NOTFOUND);
        await_idle(t);
        assert_false(is_proved(t, &l));
}

static int setup(void **state)
{
        gate_set(false, 0);
        return teststore_setup(state);
}

static int teardown(void **state)
{
        gate_set(false, 0);
        return teststore_teardown(state);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(streams_begin_anywhere),
                TEST(streams_go_back_and_ahead),
                TEST(readers_share_one_regeneration),
                TEST(a_reader_goes_in_the_middle),
                TEST(regenerations_are_bounded),
                TEST(passing_errors_are_no_doubt),
                TEST(damage_is_found_and_healed),
                TEST(what_is_wanted_twice_is_kept),
                TEST(collection_leaves_what_is_read),
                TEST(what_is_lost_while_it_is_read_is_doubted),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
