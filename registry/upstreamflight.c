/* SPDX-License-Identifier: Apache-2.0 */
/* One request upstream for any number of clients: a flight is joined by who
 * wants the same meanwhile. Clients wait parked, without a thread. */
#include "registry/upstream_int.h"

static struct reg_flight *find_locked(struct reg_upstreams *u, const char *key)
{
        cas_assert_held(&u->mutex);
        const uint64_t *found = cas_map_get_str(u->joinable, key);
        return found ? (struct reg_flight *)(uintptr_t)*found : NULL;
}

/* Joined by nobody any more. */
static void close_locked(struct reg_flight *f)
{
        struct reg_upstreams *u = f->up->set;
        if (find_locked(u, f->key) == f)
                (void)cas_map_remove(u->joinable, f->key, strlen(f->key));
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

/* Two references: the thread's and the caller's. Takes the key. */
static struct reg_flight *flight_new(struct reg_upstream *up, enum reg_flight_kind kind,
                                     const struct reg_waiter *waiter, const char *what, char *key)
{
        const char *repo = waiter->call.route.repo;
        struct reg_flight *f = cas_xcalloc(1, sizeof(*f));
        f->work.fn = run;
        f->up = up;
        f->kind = kind;
        f->refs = 2;
        f->fd = -1;
        f->total_bytes = UINT64_MAX;
        f->what = cas_xstrdup(what);
        f->key = key;
        f->ns_used = waiter->ns_used;
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
        bool waits = false;
        /* lists are made for the names that the client uses */
        cas_cleanup_free char *key =
                cas_xasprintf("%d %d %s\n%s", (int)kind, kind == REG_FLIGHT_LIST && waiter->ns_used,
                              waiter->call.route.repo, what);
        cas_mutex_lock(&u->mutex);
        if (u->stopping) {
                cas_mutex_unlock(&u->mutex);
                return false;
        }
        reg_http_park(waiter->call.req, resume, waiter);
        struct reg_flight *f = find_locked(u, key);
        bool started = !f;
        if (started) {
                f = flight_new(up, kind, waiter, what, cas_steal(&key));
                f->link = &u->flights;
                f->next = u->flights;
                if (f->next)
                        f->next->link = &f->next;
                u->flights = f;
                *cas_map_put(u->joinable, f->key, strlen(f->key), NULL) = (uintptr_t)f;
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
        free(f->next_link);
        free(f->key);
        free(f->what);
        free(f);
}

void reg_flight_close(struct reg_flight *f)
{
        struct reg_upstreams *u = f->up->set;
        cas_mutex_lock(&u->mutex);
        close_locked(f);
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
                close_locked(f);
                *f->link = f->next;
                if (f->next)
                        f->next->link = f->link;
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
