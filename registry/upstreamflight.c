/* SPDX-License-Identifier: Apache-2.0 */
/* One request upstream for any number of clients: a flight is joined by who
 * wants the same meanwhile. Clients wait parked, without a thread. */
#include "registry/upstream_int.h"

static struct reg_flight *find_locked(struct reg_upstream *up, enum reg_flight_kind kind,
                                      const char *repo, const char *what)
{
        cas_assert_held(&up->set->mutex);
        for (struct reg_flight *f = up->set->flights; f; f = f->next) {
                if (!f->closed && f->up == up && f->kind == kind && strcmp(f->repo, repo) == 0 &&
                    strcmp(f->what, what) == 0)
                        return f;
        }
        return NULL;
}

static void run(struct reg_work_item *item)
{
        struct reg_flight *f = (struct reg_flight *)item;
        reg_flight_run(f);
        if (f->rc < 0)
                reg_metrics_add(f->up->set->metrics, REG_COUNTER_UPSTREAM_FAILED, 1);
        if (f->stale)
                reg_metrics_add(f->up->set->metrics, REG_COUNTER_UPSTREAM_STALE, 1);
        reg_flight_arrive(f, REG_FLIGHT_DONE);
        reg_flight_unref(f);
}

/* Two references: the thread's and the caller's. */
static struct reg_flight *flight_new(struct reg_upstream *up, enum reg_flight_kind kind,
                                     const char *repo, const char *what)
{
        struct reg_flight *f = cas_xcalloc(1, sizeof(*f));
        f->work.fn = run;
        f->up = up;
        f->kind = kind;
        f->refs = 2;
        f->fd = -1;
        f->total_bytes = UINT64_MAX;
        f->what = cas_xstrdup(what);
        size_t prefix = strlen(up->prefix);
        memcpy(f->repo, repo, strlen(repo) + 1);
        const char *remote = repo + prefix + (prefix > 0);
        memcpy(f->remote, remote, strlen(remote) + 1);
        cas_mutex_init(&f->mutex, "upstream flight");
        return f;
}

bool reg_flight_join(struct reg_upstream *up, enum reg_flight_kind kind, const char *what,
                     struct reg_waiter *waiter,
                     void (*resume)(void *waiter, struct reg_http_req *req))
{
        struct reg_upstreams *u = up->set;
        const char *repo = waiter->call.route.repo;
        bool waits = false;
        cas_mutex_lock(&u->mutex);
        if (u->stopping) {
                cas_mutex_unlock(&u->mutex);
                return false;
        }
        reg_http_park(waiter->call.req, resume, waiter);
        struct reg_flight *f = find_locked(up, kind, repo, what);
        bool started = !f;
        if (started) {
                f = flight_new(up, kind, repo, what);
                f->next = u->flights;
                u->flights = f;
        } else {
                f->refs++;
        }
        waiter->flight = f;
        waits = f->state == REG_FLIGHT_RUNNING;
        if (waits) {
                waiter->next = f->waiters;
                f->waiters = waiter;
        }
        cas_mutex_unlock(&u->mutex);
        reg_metrics_add(u->metrics,
                        started ? REG_COUNTER_UPSTREAM_REQUESTS : REG_COUNTER_UPSTREAM_JOINED, 1);
        if (started)
                reg_work_push(u->work, &f->work);
        if (!waits)
                reg_http_unpark(waiter->call.req);
        return true;
}

void reg_flight_unref(struct reg_flight *f)
{
        struct reg_upstreams *u = f->up->set;
        cas_mutex_lock(&u->mutex);
        bool last = --f->refs == 0;
        cas_mutex_unlock(&u->mutex);
        if (!last)
                return;
        cas_assert(!f->readers);
        if (f->fd >= 0)
                (void)close(f->fd);
        cas_mutex_release(&f->mutex);
        cas_buf_release(&f->body);
        free(f->link_query);
        free(f->what);
        free(f);
}

void reg_flight_close(struct reg_flight *f)
{
        struct reg_upstreams *u = f->up->set;
        cas_mutex_lock(&u->mutex);
        f->closed = true;
        cas_mutex_unlock(&u->mutex);
}

/* The waiters, who are no longer the flight's. */
static struct reg_waiter *take_waiters_locked(struct reg_flight *f)
{
        return cas_steal(&f->waiters);
}

static void unpark_all(struct reg_waiter *waiters)
{
        while (waiters) {
                struct reg_waiter *w = waiters;
                waiters = w->next; /* the waiter is gone once it is resumed */
                reg_http_unpark(w->call.req);
        }
}

void reg_flight_arrive(struct reg_flight *f, enum reg_flight_state state)
{
        struct reg_upstreams *u = f->up->set;
        cas_mutex_lock(&u->mutex);
        f->state = state;
        if (state == REG_FLIGHT_DONE) {
                struct reg_flight **link = &u->flights;
                while (*link != f)
                        link = &(*link)->next;
                *link = f->next;
        }
        struct reg_waiter *waiters = take_waiters_locked(f);
        cas_mutex_unlock(&u->mutex);
        unpark_all(waiters);
}

void reg_upstreams_stop(struct reg_upstreams *u)
{
        struct reg_waiter *waiters = NULL;
        cas_mutex_lock(&u->mutex);
        u->stopping = true;
        for (struct reg_flight *f = u->flights; f; f = f->next) {
                struct reg_waiter *more = take_waiters_locked(f);
                while (more) {
                        struct reg_waiter *w = more;
                        more = w->next;
                        w->next = waiters;
                        waiters = w;
                }
        }
        cas_mutex_unlock(&u->mutex);
        unpark_all(waiters);
        for (size_t i = 0; i < u->count; i++) {
                cas_mutex_lock(&u->mutex);
                struct reg_httpc *http = u->list[i].http;
                cas_mutex_unlock(&u->mutex);
                if (http)
                        reg_httpc_break(http);
        }
}
