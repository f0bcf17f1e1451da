/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/resolve_fill_int.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>

#include "cas/mutex.h"
#include "cas/object.h"

#define THREADS_MAX 32
/* Wishes known at a time; who comes when all are taken is told to come again. */
#define FILLS_MAX 128
/* What nobody fetched for so long is let go of. */
#define KEPT_MS 10000

enum fill_state { FILL_FREE, FILL_WANTED, FILL_UNDER_WAY, FILL_DONE };
struct fill {
        enum fill_state state;
        struct ffs_fill_wish wish;
        unsigned waiters;
        uint64_t number, done_ms;
        int fd; /* owned; of one that is done and went well */
        struct cas_err err;
};

struct ffs_fills {
        struct cas_store *store; /* borrowed */
        struct cas_mutex mutex;  /* leaf; guards all below */
        pthread_cond_t wanted, done;
        struct fill fills[FILLS_MAX];
        uint64_t number;
        pthread_t threads[THREADS_MAX];
        unsigned thread_count, idle;
        bool stopping;
};

static uint64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

struct ffs_fills *ffs_fills_new(struct cas_store *s)
{
        struct ffs_fills *f = cas_xcalloc(1, sizeof(*f));
        f->store = s;
        cas_mutex_init(&f->mutex, "fills");
        cas_cond_init(&f->wanted);
        cas_cond_init(&f->done);
        return f;
}

static void fill_clear_locked(struct fill *fill)
{
        if (fill->state == FILL_DONE && fill->fd >= 0)
                (void)close(fill->fd);
        fill->state = FILL_FREE;
}

void ffs_fills_free(struct ffs_fills *f)
{
        if (!f)
                return;
        cas_mutex_lock(&f->mutex);
        f->stopping = true;
        (void)pthread_cond_broadcast(&f->wanted);
        cas_mutex_unlock(&f->mutex);
        for (unsigned i = 0; i < f->thread_count; i++)
                (void)pthread_join(f->threads[i], NULL);
        for (size_t i = 0; i < FILLS_MAX; i++)
                fill_clear_locked(&f->fills[i]);
        (void)pthread_cond_destroy(&f->wanted);
        (void)pthread_cond_destroy(&f->done);
        cas_mutex_release(&f->mutex);
        free(f);
}

/* The oldest that is wanted, or NULL. */
static struct fill *next_locked(struct ffs_fills *f)
{
        struct fill *oldest = NULL;
        for (size_t i = 0; i < FILLS_MAX; i++) {
                struct fill *fill = &f->fills[i];
                if (fill->state == FILL_WANTED && (!oldest || fill->number < oldest->number))
                        oldest = fill;
        }
        return oldest;
}

static void fill_do_locked(struct ffs_fills *f, struct fill *fill)
{
        const struct ffs_fill_wish wish = fill->wish;
        struct cas_err err = CAS_ERR_INIT;
        int fd = -1;
        fill->state = FILL_UNDER_WAY;
        cas_mutex_unlock(&f->mutex);
        if (cas_block_bring(f->store, wish.pack_id, wish.offset, wish.bytes, wish.was_bad, &fd,
                            &err) < 0)
                fd = -1;
        cas_mutex_lock(&f->mutex);
        fill->state = FILL_DONE;
        fill->done_ms = now_ms();
        fill->fd = fd;
        fill->err = err;
        (void)pthread_cond_broadcast(&f->done);
}

static void *fill_thread(void *arg)
{
        struct ffs_fills *f = arg;
        cas_mutex_lock(&f->mutex);
        while (!f->stopping) {
                struct fill *fill = next_locked(f);
                if (fill) {
                        fill_do_locked(f, fill);
                        continue;
                }
                f->idle++;
                cas_mutex_wait(&f->mutex, &f->wanted);
                f->idle--;
        }
        cas_mutex_unlock(&f->mutex);
        return NULL;
}

static bool same_wish(const struct ffs_fill_wish *a, const struct ffs_fill_wish *b)
{
        return a->pack_id == b->pack_id && a->offset == b->offset && a->bytes == b->bytes &&
               a->was_bad == b->was_bad;
}

/* The one that is under way, or a new one; NULL: too many are. */
static struct fill *find_locked(struct ffs_fills *f, const struct ffs_fill_wish *wish)
{
        struct fill *unused = NULL;
        uint64_t now = now_ms();
        for (size_t i = 0; i < FILLS_MAX; i++) {
                struct fill *fill = &f->fills[i];
                if (fill->state == FILL_DONE && fill->waiters == 0 && now - fill->done_ms > KEPT_MS)
                        fill_clear_locked(fill);
                if (fill->state == FILL_FREE)
                        unused = fill;
                else if (same_wish(&fill->wish, wish))
                        return fill;
        }
        if (!unused)
                return NULL;
        *unused =
                (struct fill){.state = FILL_WANTED, .wish = *wish, .number = f->number++, .fd = -1};
        if (f->idle == 0 && f->thread_count < THREADS_MAX &&
            pthread_create(&f->threads[f->thread_count], NULL, fill_thread, f) == 0)
                f->thread_count++;
        (void)pthread_cond_signal(&f->wanted);
        return unused;
}

static int take_result_locked(struct fill *fill, int *out_fd, struct cas_err *err)
{
        int rc = 0;
        *out_fd = fill->fd >= 0 ? fcntl(fill->fd, F_DUPFD_CLOEXEC, 3) : -1;
        if (fill->err.code != CAS_OK) {
                *err = fill->err;
                rc = -(int)err->code;
        } else if (*out_fd < 0) {
                rc = cas_fail_sys(err, errno, "descriptor");
        }
        if (fill->waiters == 0)
                fill_clear_locked(fill);
        return rc;
}

int ffs_fills_get(struct ffs_fills *f, const struct ffs_fill_wish *wish, int wait_ms, int *out_fd,
                  struct cas_err *err)
{
        struct timespec deadline;
        int rc;
        (void)clock_gettime(CLOCK_MONOTONIC, &deadline);
        deadline.tv_nsec += (long)wait_ms % 1000 * 1000000;
        deadline.tv_sec += wait_ms / 1000 + deadline.tv_nsec / 1000000000;
        deadline.tv_nsec %= 1000000000;
        cas_mutex_lock(&f->mutex);
        struct fill *fill = find_locked(f, wish);
        if (fill) {
                fill->waiters++;
                while (fill->state != FILL_DONE &&
                       cas_mutex_timedwait(&f->mutex, &f->done, &deadline))
                        ;
                fill->waiters--;
        }
        if (fill && fill->state == FILL_DONE)
                rc = take_result_locked(fill, out_fd, err);
        else
                rc = cas_fail(err, CAS_E_BUSY, "the block is on its way");
        cas_mutex_unlock(&f->mutex);
        return rc;
}
