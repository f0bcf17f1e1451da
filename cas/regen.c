/* SPDX-License-Identifier: Apache-2.0 */
/* Segments of a blob, each from one mark to the next, are made by worker threads in the order in
 * which they will be read. A segment's bytes go through a list of pieces that has a bounded length:
 * that of the segment being read is emptied as it is filled, so it streams; those after it run
 * ahead until their lists are full, and then wait for their turn. At most `window` segments are
 * under way, so memory is bounded, and as the one being read can always go on, nothing waits for
 * ever.
 *
 * Threads: workers, and one reader at a time. Everything of a segment that both touch is guarded by
 * the regeneration's mutex; pieces belong to who took them off a list. */
#include "cas/regen.h"

#include <inttypes.h>

#include "cas/mutex.h"
#include "cas/pool.h"
#include "cas/regen_int.h"

#define PIECE_BYTES (128 * CAS_KIB)
/* Of a segment that is not being read yet: more than marks are apart as a rule, so that workers
 * finish it and go on to the next. */
#define SEGMENT_PIECES_MAX (CAS_RECIPE_MARK_SPACING_BYTES / PIECE_BYTES + 4)
#define WINDOW_EXTRA 1 /* segments under way beyond one for each thread */
#define THREADS_MAX 64

struct piece {
        struct piece *next;
        size_t len;
        uint8_t data[PIECE_BYTES];
};

struct segment {
        uint32_t mark;       /* it begins at; fixed while it is under way */
        struct piece *first; /* made, in order */
        struct piece **last;
        unsigned piece_count;
        bool done; /* no more pieces come */
        struct cas_err err;
};

struct cas_regen {
        struct cas_recipe *recipe;
        bool own_recipe;
        const struct cas_wrap_ops *ops; /* NULL: by kind */
        const bool *dropped;            /* borrowed, or NULL */
        uint32_t mark_count;
        uint64_t blob_bytes, offset;

        struct cas_mutex mutex; /* "regen"; guards what follows */
        pthread_cond_t change;
        _Atomic bool stopping;            /* also read without the mutex */
        _Atomic bool hungry;              /* the reader waits: also read without */
        uint32_t next_mark;               /* of the segment that is begun next; mark_count: none */
        uint64_t begun_count, read_count; /* segments begun, and read to their end */
        unsigned window;
        struct segment *segments; /* ring of `window` */
        struct piece *spare;

        unsigned thread_count;
        pthread_t *threads;

        /* The reader's own. */
        struct piece *piece; /* being read */
        size_t piece_at;
        uint64_t position;
        struct cas_hasher *hasher; /* NULL: nothing to compare */
        struct cas_digest digest;
        struct cas_err failure; /* given again by every later call */
};

static uint32_t mark_after(const struct cas_regen *g, uint32_t mark)
{
        do
                mark++;
        while (mark < g->mark_count && g->dropped && g->dropped[mark]);
        return mark;
}

/* ---- pieces ---- */

static struct piece *piece_new(struct cas_regen *g)
{
        cas_mutex_lock(&g->mutex);
        struct piece *p = g->spare;
        if (p)
                g->spare = p->next;
        cas_mutex_unlock(&g->mutex);
        if (!p)
                p = cas_xmalloc(sizeof(*p));
        p->next = NULL;
        p->len = 0;
        return p;
}

static void pieces_free(struct piece *p)
{
        while (p) {
                struct piece *next = p->next;
                free(p);
                p = next;
        }
}

/* Appends a piece to its segment, once there is room. False when all is to stop; the piece is
 * freed then. */
static bool push_piece(struct cas_regen *g, struct segment *s, struct piece *p)
{
        cas_mutex_lock(&g->mutex);
        while (s->piece_count >= SEGMENT_PIECES_MAX && !g->stopping)
                cas_mutex_wait(&g->mutex, &g->change);
        bool stopping = g->stopping;
        if (!stopping) {
                *s->last = p;
                s->last = &p->next;
                s->piece_count++;
                (void)pthread_cond_broadcast(&g->change);
        }
        cas_mutex_unlock(&g->mutex);
        if (stopping)
                free(p);
        return !stopping;
}

/* ---- workers ---- */

/* The tar stream from a mark on, opened when the wrap first wants some of it. */
struct tar {
        struct cas_regen *regen;
        uint64_t offset;
        struct cas_tarrecipe_reader *reader;
};

static int fail_stopped(struct cas_err *err)
{
        return cas_fail(err, CAS_E_BUSY, "regeneration is broken off");
}

static int tar_read(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct tar *t = arg;
        if (t->regen->stopping)
                return fail_stopped(err);
        if (!t->reader && cas_tarrecipe_open(t->regen->recipe, t->offset, &t->reader, err) < 0)
                return -(int)err->code;
        return cas_tarrecipe_read(t->reader, buf, len, out_len, err);
}

static void tar_release(struct tar *t)
{
        cas_tarrecipe_close(t->reader);
}
#define cleanup_tar __attribute__((cleanup(tar_release)))

struct span {
        uint64_t start, end; /* of the blob */
        uint64_t wanted;     /* what is before is not given */
};

/* Passes on what the wrap makes, from span->start to its end. */
static int make_pieces(struct cas_regen *g, struct segment *s, struct cas_wrap_reader *wrap,
                       const struct span *span, struct cas_err *err)
{
        struct piece *p = piece_new(g);
        int ret = 0;
        for (uint64_t at = span->start; at < span->end;) {
                bool wanted = at >= span->wanted;
                uint64_t most = (wanted ? span->end : span->wanted) - at;
                size_t n = 0;
                ret = cas_wrap_read(wrap, p->data + p->len, cas_min_u64(PIECE_BYTES - p->len, most),
                                    &n, err);
                if (ret == 0 && n == 0)
                        ret = cas_fail(err, CAS_E_CORRUPT, "it ends at byte %" PRIu64, at);
                if (ret == 0 && g->stopping)
                        ret = fail_stopped(err);
                if (ret < 0)
                        break;
                at += n;
                p->len += wanted ? n : 0;
                if (p->len == 0 || (p->len < PIECE_BYTES && at < span->end && !g->hungry))
                        continue;
                if (!push_piece(g, s, p))
                        return fail_stopped(err);
                p = piece_new(g);
        }
        free(p);
        return ret;
}

/* At its end the wrap may still find that something is wrong. */
static int check_end(struct cas_wrap_reader *wrap, struct cas_err *err)
{
        uint8_t byte;
        size_t n = 0;
        if (cas_wrap_read(wrap, &byte, 1, &n, err) < 0)
                return -(int)err->code;
        return n == 0 ? 0 : cas_fail(err, CAS_E_CORRUPT, "it goes on after the blob's end");
}

static int make_segment(struct cas_regen *g, struct segment *s, struct cas_err *err)
{
        struct cas_recipe_mark mark, next = {.blob_offset = g->blob_bytes};
        uint32_t after = mark_after(g, s->mark);
        if (cas_recipe_mark(g->recipe, s->mark, &mark, err) < 0 ||
            (after < g->mark_count && cas_recipe_mark(g->recipe, after, &next, err) < 0))
                return -(int)err->code;
        if (next.blob_offset < mark.blob_offset ||
            (after < g->mark_count && next.blob_offset == mark.blob_offset))
                return cas_fail(err, CAS_E_CORRUPT, "marks are out of order");
        const struct span span = {.start = mark.blob_offset,
                                  .end = next.blob_offset,
                                  .wanted = cas_max_u64(mark.blob_offset, g->offset)};
        cleanup_tar struct tar tar = {.regen = g, .offset = mark.tar_offset};
        cas_cleanup_wrap struct cas_wrap_reader *wrap = NULL;
        int ret = g->ops ? g->ops->open(g->recipe, &mark, tar_read, &tar, &wrap, err)
                         : cas_wrap_open(g->recipe, &mark, tar_read, &tar, &wrap, err);
        if (ret == 0)
                ret = make_pieces(g, s, wrap, &span, err);
        if (ret == 0 && after == g->mark_count)
                ret = check_end(wrap, err);
        return ret;
}

/* The next segment, once fewer than `window` are under way; NULL when none is left. */
static struct segment *begin_segment_locked(struct cas_regen *g)
{
        cas_assert_held(&g->mutex);
        while (!g->stopping && g->next_mark < g->mark_count &&
               g->begun_count - g->read_count >= g->window)
                cas_mutex_wait(&g->mutex, &g->change);
        if (g->stopping || g->next_mark >= g->mark_count)
                return NULL;
        struct segment *s = &g->segments[g->begun_count++ % g->window];
        *s = (struct segment){.mark = g->next_mark};
        s->last = &s->first;
        g->next_mark = mark_after(g, g->next_mark);
        return s;
}

static void *worker(void *arg)
{
        struct cas_regen *g = arg;
        struct segment *s;
        cas_mutex_lock(&g->mutex);
        while ((s = begin_segment_locked(g))) {
                struct cas_err err = CAS_ERR_INIT;
                cas_mutex_unlock(&g->mutex);
                if (make_segment(g, s, &err) < 0)
                        (void)cas_err_wrap(&err, "from mark %u", s->mark);
                cas_mutex_lock(&g->mutex);
                s->err = err;
                s->done = true;
                (void)pthread_cond_broadcast(&g->change);
        }
        cas_mutex_unlock(&g->mutex);
        return NULL;
}

/* ---- opening and closing ---- */

static int start_threads(struct cas_regen *g, unsigned count, struct cas_err *err)
{
        g->window = count + WINDOW_EXTRA;
        g->segments = cas_xcalloc(g->window, sizeof(*g->segments));
        g->threads = cas_xcalloc(count, sizeof(*g->threads));
        for (; g->thread_count < count; g->thread_count++) {
                int rc = pthread_create(&g->threads[g->thread_count], NULL, worker, g);
                if (rc != 0 && g->thread_count == 0)
                        return cas_fail_sys(err, rc, "thread of a regeneration");
                if (rc != 0)
                        break; /* those that there are do */
        }
        return 0;
}

static int regen_start(struct cas_regen *g, const struct cas_regen_config *config,
                       struct cas_err *err)
{
        const struct cas_recipe_head *head = cas_recipe_head(config->recipe);
        unsigned threads = config->threads ? config->threads : cas_cpu_count();
        g->ops = config->ops;
        g->dropped = config->dropped;
        g->mark_count = head->mark_count;
        g->blob_bytes = head->blob_bytes;
        g->offset = g->position = config->offset;
        if (g->offset > g->blob_bytes)
                return cas_fail(err, CAS_E_INVALID, "byte %" PRIu64 " of a blob of %" PRIu64,
                                g->offset, g->blob_bytes);
        if (config->digest && g->offset == 0) {
                g->digest = *config->digest;
                g->hasher = cas_hasher_new((enum cas_digest_alg)config->digest->alg);
        }
        g->next_mark = g->mark_count;
        if (g->offset == g->blob_bytes)
                return 0;
        if (cas_recipe_find_mark(g->recipe, g->offset, &g->next_mark, err) < 0)
                return -(int)err->code;
        while (g->dropped && g->dropped[g->next_mark]) /* the first never is */
                g->next_mark--;
        unsigned most = (unsigned)cas_min_u64(THREADS_MAX, g->mark_count - g->next_mark);
        return start_threads(g, threads < most ? threads : most, err);
}

static struct cas_regen *regen_new(struct cas_recipe *recipe, bool own_recipe)
{
        struct cas_regen *g = cas_xcalloc(1, sizeof(*g));
        g->recipe = recipe;
        g->own_recipe = own_recipe;
        cas_mutex_init(&g->mutex, "regen");
        cas_cond_init(&g->change);
        return g;
}

int cas_regen_start(const struct cas_regen_config *config, struct cas_regen **out,
                    struct cas_err *err)
{
        cas_cleanup_regen struct cas_regen *g = regen_new(config->recipe, false);
        if (regen_start(g, config, err) < 0)
                return -(int)err->code;
        *out = cas_steal(&g);
        return 0;
}

int cas_regen_open(struct cas_store *s, const struct cas_digest *digest,
                   const struct cas_hash *recipe, uint64_t offset, unsigned threads,
                   struct cas_regen **out, struct cas_err *err)
{
        struct cas_regen_config config = {.digest = digest, .offset = offset, .threads = threads};
        if (cas_recipe_open(s, recipe, &config.recipe, err) < 0)
                return -(int)err->code;
        cas_cleanup_regen struct cas_regen *g = regen_new(config.recipe, true);
        if (regen_start(g, &config, err) < 0)
                return -(int)err->code;
        *out = cas_steal(&g);
        return 0;
}

void cas_regen_close(struct cas_regen *g)
{
        if (!g)
                return;
        cas_mutex_lock(&g->mutex);
        g->stopping = true;
        (void)pthread_cond_broadcast(&g->change);
        cas_mutex_unlock(&g->mutex);
        for (unsigned i = 0; i < g->thread_count; i++)
                (void)pthread_join(g->threads[i], NULL);
        for (unsigned i = 0; g->segments && i < g->window; i++)
                pieces_free(g->segments[i].first);
        pieces_free(g->spare);
        free(g->piece);
        free(g->segments);
        free(g->threads);
        cas_hasher_free(g->hasher);
        if (g->own_recipe)
                cas_recipe_close(g->recipe);
        (void)pthread_cond_destroy(&g->change);
        cas_mutex_release(&g->mutex);
        free(g);
}

uint64_t cas_regen_blob_bytes(const struct cas_regen *g)
{
        return g->blob_bytes;
}

/* ---- reading ---- */

/* Waits until the segment being read has something to say. */
static struct segment *wait_segment_locked(struct cas_regen *g)
{
        struct segment *s = &g->segments[g->read_count % g->window];
        cas_assert_held(&g->mutex);
        while (g->begun_count == g->read_count || (!s->first && !s->done)) {
                g->hungry = true;
                cas_mutex_wait(&g->mutex, &g->change);
        }
        g->hungry = false;
        return s;
}

void cas_regen_next(struct cas_regen *g, struct cas_regen_step *out)
{
        *out = (struct cas_regen_step){.kind = CAS_REGEN_END};
        cas_mutex_lock(&g->mutex);
        if (g->piece) {
                g->piece->next = g->spare;
                g->spare = cas_steal(&g->piece);
        }
        if (g->begun_count == g->read_count && g->next_mark >= g->mark_count) {
                cas_mutex_unlock(&g->mutex);
                return;
        }
        struct segment *s = wait_segment_locked(g);
        out->mark = s->mark;
        if (s->first) {
                g->piece = s->first;
                s->first = g->piece->next;
                if (!s->first)
                        s->last = &s->first;
                s->piece_count--;
                out->kind = CAS_REGEN_PIECE;
                out->data = g->piece->data;
                out->len = g->piece->len;
        } else {
                out->kind = CAS_REGEN_SEGMENT;
                out->failed = s->err.code != CAS_OK;
                out->reason = s->err;
                g->read_count++;
        }
        (void)pthread_cond_broadcast(&g->change);
        cas_mutex_unlock(&g->mutex);
}

static int check_digest(struct cas_regen *g, struct cas_err *err)
{
        struct cas_digest found;
        char text[CAS_DIGEST_TEXT_BYTES];
        if (!g->hasher || g->position < g->blob_bytes)
                return 0;
        cas_hasher_final(g->hasher, &found);
        cas_hasher_free(cas_steal(&g->hasher));
        if (cas_digest_equal(&found, &g->digest))
                return 0;
        return cas_fail(err, CAS_E_CORRUPT, "blob %s: its recipe makes other bytes",
                        cas_digest_text(&g->digest, text));
}

/* The piece to read, in g->piece; *end when there is none left. */
static int next_piece(struct cas_regen *g, bool *end, struct cas_err *err)
{
        struct cas_regen_step step;
        while (!*end && (!g->piece || g->piece_at == g->piece->len)) {
                g->piece_at = 0;
                cas_regen_next(g, &step);
                *end = step.kind == CAS_REGEN_END;
                if (step.kind == CAS_REGEN_SEGMENT && step.failed) {
                        *err = step.reason;
                        return -(int)err->code;
                }
        }
        if (*end && g->position < g->blob_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "the recipe ends at byte %" PRIu64,
                                g->position);
        return *end ? check_digest(g, err) : 0; /* only an empty blob has not been compared */
}

static int read_some(struct cas_regen *g, void *buf, size_t len, size_t *out_len,
                     struct cas_err *err)
{
        bool end = false;
        size_t n = 0;
        if (next_piece(g, &end, err) < 0)
                return -(int)err->code;
        if (!end) {
                n = cas_min_u64(len, g->piece->len - g->piece_at);
                memcpy(buf, g->piece->data + g->piece_at, n);
                if (g->hasher)
                        cas_hasher_update(g->hasher, buf, n);
                g->piece_at += n;
                g->position += n;
        }
        if (check_digest(g, err) < 0)
                return -(int)err->code;
        *out_len = n;
        return 0;
}

int cas_regen_read(struct cas_regen *g, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        cas_assert(len > 0);
        if (g->failure.code == CAS_OK && read_some(g, buf, len, out_len, &g->failure) == 0)
                return 0;
        *err = g->failure;
        return -(int)err->code;
}
