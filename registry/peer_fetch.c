/* SPDX-License-Identifier: Apache-2.0 */
/* A ring of requests: threads take them in order, and their owner takes the
 * answers in the same order. Memory is bounded by the ring. */
#include "cas/mutex.h"
#include "registry/peer_int.h"

/* Answers that break off are asked for again; reg_remote_exchange sees to all else. */
#define BODY_ATTEMPTS 3

enum slot_state { SLOT_ASKED, SLOT_UNDER_WAY, SLOT_DONE };
struct slot {
        enum slot_state state;
        char *path; /* owned */
        size_t raw_max;
        struct reg_peer_frame frame;
        int rc;
        struct cas_err err;
};

struct reg_peer_fetch {
        struct reg_remote *remote;
        const char *repo;
        struct reg_peer_meter *meter;
        pthread_t threads[REG_PEER_REQUESTS_MAX];
        unsigned thread_count; /* the owner's */

        struct cas_mutex mutex; /* guards all below; a slot under way is its thread's */
        pthread_cond_t change;
        bool stopping;
        uint64_t taken, begun, asked; /* in this order; slots are these modulo the ring */
        struct slot slots[REG_PEER_FETCH_QUEUE_MAX];
};

/* ---- one request ---- */

static int get_once(struct reg_remote *r, const char *repo, const char *path, size_t max_bytes,
                    struct cas_buf *out, struct cas_err *err)
{
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        const struct reg_remote_request request = {
                .method = "GET", .path = path, .scope_repo = repo, .actions = "pull"};
        int rc = reg_remote_exchange(r, &request, &t, NULL, err);
        if (rc == 0 && reg_httpc_status(t) != 200)
                rc = cas_fail(err, CAS_E_INVALID, "GET %s: HTTP %u", path, reg_httpc_status(t));
        cas_buf_clear(out);
        return rc < 0 ? rc : reg_httpc_read_all(t, max_bytes, out, err);
}

int reg_peer_get_body(struct reg_remote *r, const char *repo, const char *path, size_t max_bytes,
                      struct cas_buf *out, struct cas_err *err)
{
        cas_cleanup_free char *whole = cas_xasprintf("%s/_lamina/%s", repo, path);
        for (unsigned i = 1;; i++) {
                struct cas_err why = CAS_ERR_INIT;
                int rc = get_once(r, repo, whole, max_bytes, out, &why);
                if (rc == 0)
                        return 0;
                if (rc != -CAS_E_IO || i == BODY_ATTEMPTS) {
                        *err = why;
                        return rc;
                }
        }
}

static int fetch_frame(const struct reg_peer_fetch *f, struct slot *slot, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        struct reg_peer_meter *m = f->meter;
        if (m && m->stop && *m->stop)
                return cas_fail(err, CAS_E_BUSY, "stopped");
        int rc = reg_peer_get_body(f->remote, f->repo, slot->path,
                                   REG_PEER_FRAME_BYTES_MAX(slot->raw_max), &body, err);
        if (m) {
                m->requests++;
                m->moved_bytes += body.len_bytes;
        }
        if (rc == 0)
                rc = reg_peer_frame_decode(body.data, body.len_bytes, slot->raw_max, &slot->frame,
                                           err);
        return rc < 0 ? cas_err_wrap(err, "%s", slot->path) : 0;
}

/* ---- threads ---- */

static void *fetcher(void *arg)
{
        struct reg_peer_fetch *f = arg;
        cas_mutex_lock(&f->mutex);
        for (;;) {
                while (f->begun == f->asked && !f->stopping)
                        cas_mutex_wait(&f->mutex, &f->change);
                if (f->stopping)
                        break;
                struct slot *slot = &f->slots[f->begun++ % REG_PEER_FETCH_QUEUE_MAX];
                slot->state = SLOT_UNDER_WAY;
                cas_mutex_unlock(&f->mutex);
                slot->rc = fetch_frame(f, slot, &slot->err);
                cas_mutex_lock(&f->mutex);
                slot->state = SLOT_DONE;
                (void)pthread_cond_broadcast(&f->change);
        }
        cas_mutex_unlock(&f->mutex);
        return NULL;
}

struct reg_peer_fetch *reg_peer_fetch_new(struct reg_remote *r, const char *repo,
                                          struct reg_peer_meter *meter)
{
        struct reg_peer_fetch *f = cas_xcalloc(1, sizeof(*f));
        f->remote = r;
        f->repo = repo;
        f->meter = meter;
        cas_mutex_init(&f->mutex, "peer fetch");
        cas_cond_init(&f->change);
        return f;
}

void reg_peer_fetch_free(struct reg_peer_fetch *f)
{
        if (!f)
                return;
        cas_mutex_lock(&f->mutex);
        f->stopping = true;
        (void)pthread_cond_broadcast(&f->change);
        cas_mutex_unlock(&f->mutex);
        for (unsigned i = 0; i < f->thread_count; i++)
                (void)pthread_join(f->threads[i], NULL);
        for (; f->taken < f->asked; f->taken++) {
                struct slot *slot = &f->slots[f->taken % REG_PEER_FETCH_QUEUE_MAX];
                free(slot->path);
                reg_peer_frame_release(&slot->frame);
        }
        (void)pthread_cond_destroy(&f->change);
        cas_mutex_release(&f->mutex);
        free(f);
}

bool reg_peer_fetch_full(const struct reg_peer_fetch *f)
{
        return f->asked - f->taken == REG_PEER_FETCH_QUEUE_MAX; /* the owner alone changes them */
}

/* One more thread, while there are fewer than requests. Without any, who takes does the work. */
static void start_thread(struct reg_peer_fetch *f)
{
        if (f->thread_count == REG_PEER_REQUESTS_MAX || f->thread_count >= f->asked - f->taken)
                return;
        int rc = pthread_create(&f->threads[f->thread_count], NULL, fetcher, f);
        f->thread_count += rc == 0;
}

void reg_peer_fetch_ask(struct reg_peer_fetch *f, char *path, size_t raw_max)
{
        cas_assert(!reg_peer_fetch_full(f));
        cas_mutex_lock(&f->mutex);
        f->slots[f->asked % REG_PEER_FETCH_QUEUE_MAX] =
                (struct slot){.state = SLOT_ASKED, .path = path, .raw_max = raw_max};
        f->asked++;
        (void)pthread_cond_broadcast(&f->change);
        cas_mutex_unlock(&f->mutex);
        start_thread(f);
}

int reg_peer_fetch_take(struct reg_peer_fetch *f, struct reg_peer_frame *out, struct cas_err *err)
{
        cas_assert(f->taken < f->asked);
        struct slot *slot = &f->slots[f->taken % REG_PEER_FETCH_QUEUE_MAX];
        if (f->thread_count == 0) {
                f->begun++;
                slot->rc = fetch_frame(f, slot, &slot->err);
                slot->state = SLOT_DONE;
        }
        cas_mutex_lock(&f->mutex);
        while (slot->state != SLOT_DONE)
                cas_mutex_wait(&f->mutex, &f->change);
        f->taken++;
        cas_mutex_unlock(&f->mutex);
        free(slot->path);
        if (slot->rc < 0)
                *err = slot->err;
        else
                *out = slot->frame;
        return slot->rc;
}
