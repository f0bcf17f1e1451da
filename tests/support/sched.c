/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/sched.h"

#include <errno.h>
#include <pthread.h>
#include <rocksdb/c.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>
#include <time.h>

#include "cas/lockorder_int.h"
#include "cas/mutex.h"

#define THREADS_MAX 512
#define LOCKS_MAX 256
#define CHANGES_MAX 16
#define TRACE_MAX 64
#define NS_PER_S 1000000000LL
#define STEP_NS 1000
/* Files get the system's time: they are old from the beginning. */
#define AHEAD_S 3600
#define TIMEOUT_ODDS 200 /* that a time limit is over though others could go on */

enum state { RUNNABLE, ON_LOCK, ON_CONDITION, ON_THREAD, ASLEEP, ENDED };

struct thread {
        unsigned id;
        const char *name;
        const struct thread *maker;
        pthread_t handle;
        sem_t turn;
        void *(*fn)(void *);
        void *arg;
        enum state state;
        const void *on; /* lock, condition or thread */
        bool wants_write;
        bool limited; /* a time limit, deadline_ns */
        int64_t deadline_ns;
        bool timed_out;
        bool gone; /* joined, or detached: its handle means nothing */
        int priority;
};

/* A lock that somebody holds. */
struct lock {
        const void *address;
        const char *name;
        const struct thread *writer;
        unsigned reader_count;
        const struct thread *readers[THREADS_MAX];
};

struct step {
        unsigned thread;
        const char *what;
        const void *on;
};

/* Whoever runs owns all of it; the turn is handed on by semaphores. */
static struct {
        bool active;
        struct sched_config config;
        uint64_t random;
        /* Random bytes are numbers of their own: what a process asks for only once does not make
         * its first schedule another. */
        uint64_t random_bytes;
        struct thread *threads[THREADS_MAX];
        unsigned thread_count;
        struct lock *locks[LOCKS_MAX];
        unsigned lock_count;
        int64_t start_ns, now_ns; /* of CLOCK_REALTIME */
        unsigned switch_odds;
        uint64_t change_at[CHANGES_MAX], focused; /* points that count, so far */
        int lowest;
        struct sched_result result;
        struct step trace[TRACE_MAX];
} sched;

static _Thread_local struct thread *self;

int __real_pthread_create(pthread_t *out, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg);
int __real_pthread_join(pthread_t handle, void **out);
int __real_pthread_detach(pthread_t handle);
int __real_pthread_mutex_lock(pthread_mutex_t *m);
int __real_pthread_mutex_unlock(pthread_mutex_t *m);
int __real_pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m);
int __real_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m,
                                  const struct timespec *deadline);
int __real_pthread_cond_signal(pthread_cond_t *c);
int __real_pthread_cond_broadcast(pthread_cond_t *c);
void __real_cas_rwlock_read(struct cas_rwlock *l);
void __real_cas_rwlock_write(struct cas_rwlock *l);
void __real_cas_rwlock_unlock(struct cas_rwlock *l);
int __real_clock_gettime(clockid_t clock, struct timespec *out);
time_t __real_time(time_t *out);
int __real_nanosleep(const struct timespec *want, struct timespec *left);
int __real_clock_nanosleep(clockid_t clock, int flags, const struct timespec *want,
                           struct timespec *left);
ssize_t __real_getrandom(void *buf, size_t len, unsigned flags);
int __real_getentropy(void *buf, size_t len);
void __real_rocksdb_write(rocksdb_t *db, const rocksdb_writeoptions_t *o, rocksdb_writebatch_t *b,
                          char **err);
rocksdb_pinnableslice_t *__real_rocksdb_get_pinned_cf(rocksdb_t *db, const rocksdb_readoptions_t *o,
                                                      rocksdb_column_family_handle_t *cf,
                                                      const char *key, size_t len, char **err);
rocksdb_iterator_t *__real_rocksdb_create_iterator_cf(rocksdb_t *db, const rocksdb_readoptions_t *o,
                                                      rocksdb_column_family_handle_t *cf);

/* Prototypes of what the linker calls. */
int __wrap_pthread_create(pthread_t *out, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg);
int __wrap_pthread_join(pthread_t handle, void **out);
int __wrap_pthread_detach(pthread_t handle);
int __wrap_pthread_mutex_lock(pthread_mutex_t *m);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *m);
int __wrap_pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m);
int __wrap_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m,
                                  const struct timespec *deadline);
int __wrap_pthread_cond_signal(pthread_cond_t *c);
int __wrap_pthread_cond_broadcast(pthread_cond_t *c);
void __wrap_cas_rwlock_read(struct cas_rwlock *l);
void __wrap_cas_rwlock_write(struct cas_rwlock *l);
void __wrap_cas_rwlock_unlock(struct cas_rwlock *l);
int __wrap_clock_gettime(clockid_t clock, struct timespec *out);
time_t __wrap_time(time_t *out);
int __wrap_nanosleep(const struct timespec *want, struct timespec *left);
int __wrap_clock_nanosleep(clockid_t clock, int flags, const struct timespec *want,
                           struct timespec *left);
ssize_t __wrap_getrandom(void *buf, size_t len, unsigned flags);
int __wrap_getentropy(void *buf, size_t len);
void __wrap_rocksdb_write(rocksdb_t *db, const rocksdb_writeoptions_t *o, rocksdb_writebatch_t *b,
                          char **err);
rocksdb_pinnableslice_t *__wrap_rocksdb_get_pinned_cf(rocksdb_t *db, const rocksdb_readoptions_t *o,
                                                      rocksdb_column_family_handle_t *cf,
                                                      const char *key, size_t len, char **err);
rocksdb_iterator_t *__wrap_rocksdb_create_iterator_cf(rocksdb_t *db, const rocksdb_readoptions_t *o,
                                                      rocksdb_column_family_handle_t *cf);

/* ---- random numbers ---- */

static uint64_t next_random(uint64_t *state)
{
        uint64_t z = *state += 0x9e3779b97f4a7c15; /* splitmix64 */
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return z ^ (z >> 31);
}

uint64_t sched_random(uint64_t n)
{
        return next_random(&sched.random) % n;
}

/* ---- reports ---- */

/* Every mutex of the code under test is a cas_mutex. */
static const char *mutex_name(const pthread_mutex_t *m)
{
        return ((const struct cas_mutex *)(const void *)m)->name;
}

static struct lock *lock_find(const void *address)
{
        for (unsigned i = 0; i < sched.lock_count; i++)
                if (sched.locks[i]->address == address)
                        return sched.locks[i];
        return NULL;
}

static bool reads(const struct lock *l, const struct thread *t)
{
        for (unsigned i = 0; i < l->reader_count; i++)
                if (l->readers[i] == t)
                        return true;
        return false;
}

static void tell_thread(const struct thread *t)
{
        (void)fprintf(stderr, "  thread %u (%s%s): ", t->id, t->maker ? "of " : "", t->name);
        const struct lock *l = t->state == ON_LOCK ? lock_find(t->on) : NULL;
        switch (t->state) {
        case RUNNABLE:
                (void)fprintf(stderr, t == self ? "runs" : "could run");
                break;
        case ON_LOCK:
                (void)fprintf(stderr, "waits for lock \"%s\"", l ? l->name : "?");
                if (l && l->writer)
                        (void)fprintf(stderr, " of thread %u", l->writer->id);
                for (unsigned i = 0; l && i < l->reader_count; i++)
                        (void)fprintf(stderr, " of reader %u", l->readers[i]->id);
                break;
        case ON_CONDITION:
                (void)fprintf(stderr, "waits for a condition %p", t->on);
                break;
        case ON_THREAD:
                (void)fprintf(stderr, "waits for thread %u", ((const struct thread *)t->on)->id);
                break;
        case ASLEEP:
                (void)fprintf(stderr, "sleeps");
                break;
        case ENDED:
                (void)fprintf(stderr, "has ended");
                break;
        }
        for (unsigned i = 0; i < sched.lock_count; i++)
                if (sched.locks[i]->writer == t || reads(sched.locks[i], t))
                        (void)fprintf(stderr, ", holds \"%s\"", sched.locks[i]->name);
        (void)fprintf(stderr, "\n");
}

void sched_fail(const char *fmt, ...)
{
        va_list args;
        va_start(args, fmt);
        (void)fprintf(stderr, "schedule %llu fails after %llu steps: ",
                      (unsigned long long)sched.config.seed,
                      (unsigned long long)sched.result.steps);
        (void)vfprintf(stderr, fmt, args); /* NOLINT(clang-analyzer-valist.Uninitialized) */
        va_end(args);
        (void)fprintf(stderr, "\n");
        for (unsigned i = 0; i < sched.thread_count; i++)
                if (sched.threads[i]->state != ENDED)
                        tell_thread(sched.threads[i]);
        uint64_t steps = sched.result.steps;
        for (uint64_t i = steps > TRACE_MAX ? steps - TRACE_MAX : 0; i < steps; i++) {
                const struct step *s = &sched.trace[i % TRACE_MAX];
                (void)fprintf(stderr, "  step %llu: thread %u, %s\n", (unsigned long long)i + 1,
                              s->thread, s->what);
        }
        if (sched.config.replay)
                (void)fprintf(stderr, "again: %s\n", sched.config.replay);
        abort();
}

/* ---- whose turn it is ---- */

static void note_step(const char *what)
{
        struct sched_result *r = &sched.result;
        sched.trace[r->steps++ % TRACE_MAX] = (struct step){.thread = self->id, .what = what};
        sched.now_ns += STEP_NS;
        r->trace_hash = (r->trace_hash ^ self->id) * 0x100000001b3;
        for (const char *c = what; *c; c++)
                r->trace_hash = (r->trace_hash ^ (uint8_t)*c) * 0x100000001b3;
        if (sched.config.trace)
                (void)fprintf(stderr, "%llu: %u %s\n", (unsigned long long)r->steps, self->id,
                              what);
        if (r->steps > sched.config.steps_max)
                sched_fail("it does not end");
}

static bool better(const struct thread *t, const struct thread *than)
{
        return !than || t->priority > than->priority;
}

/* Among those that can go on, or among those whose time may be over. */
static struct thread *choose_of(bool limited)
{
        struct thread *list[THREADS_MAX], *best = NULL;
        unsigned count = 0;
        for (unsigned i = 0; i < sched.thread_count; i++) {
                struct thread *t = sched.threads[i];
                bool fits = limited ? (t->state == ON_CONDITION || t->state == ASLEEP) && t->limited
                                    : t->state == RUNNABLE;
                if (!fits)
                        continue;
                list[count++] = t;
                /* Of time limits the first, mostly: clocks do not go back. */
                if (limited ? !best || t->deadline_ns < best->deadline_ns : better(t, best))
                        best = t;
        }
        if (count == 0)
                return NULL;
        if (!limited && sched.config.strategy == SCHED_PCT)
                return best;
        return limited && sched_random(4) ? best : list[sched_random(count)];
}

static void time_is_over(struct thread *t)
{
        if (t->deadline_ns > sched.now_ns)
                sched.now_ns = t->deadline_ns;
        t->timed_out = true;
        t->state = RUNNABLE;
        t->on = NULL;
        sched.result.timeouts++;
}

static struct thread *choose(void)
{
        struct thread *t = NULL;
        if (sched_random(TIMEOUT_ODDS) == 0)
                t = choose_of(true);
        if (!t)
                t = choose_of(false);
        if (!t)
                t = choose_of(true);
        if (!t)
                sched_fail("deadlock: nobody can go on");
        if (t->state != RUNNABLE)
                time_is_over(t);
        return t;
}

static void await_turn(struct thread *t)
{
        while (sem_wait(&t->turn) < 0)
                ;
}

/* Somebody else, or this thread again. It comes back when it is this one's turn. */
static void hand_on(void)
{
        struct thread *me = self, *next = choose();
        if (next == me)
                return;
        sched.result.switches++;
        (void)sem_post(&next->turn);
        await_turn(me);
}

static void maybe_drop_priority(const char *what)
{
        if (sched.config.focus && strcmp(sched.config.focus, what) != 0)
                return;
        sched.focused++;
        for (unsigned i = 0; i < sched.config.changes; i++)
                if (sched.change_at[i] == sched.focused)
                        self->priority = --sched.lowest;
}

static void point(const char *what)
{
        note_step(what);
        if (sched.config.strategy == SCHED_PCT)
                maybe_drop_priority(what);
        else if (sched_random(sched.switch_odds) != 0)
                return;
        hand_on();
}

static void wait_on(enum state state, const void *on, const char *what)
{
        note_step(what);
        self->state = state;
        self->on = on;
        hand_on();
}

static void wake_all(enum state state, const void *on)
{
        for (unsigned i = 0; i < sched.thread_count; i++) {
                struct thread *t = sched.threads[i];
                if (t->state == state && t->on == on)
                        t->state = RUNNABLE;
        }
}

void sched_point(const char *what)
{
        if (self)
                point(what);
}

/* ---- threads ---- */

static struct thread *thread_new(void *(*fn)(void *), void *arg)
{
        struct thread *t = cas_xcalloc(1, sizeof(*t));
        if (sched.thread_count == THREADS_MAX)
                sched_fail("more than %d threads", THREADS_MAX);
        t->id = sched.thread_count;
        t->fn = fn;
        t->arg = arg;
        t->maker = self;
        t->name = self ? self->name : "main";
        t->priority = (int)sched_random(1U << 20) + 1;
        (void)sem_init(&t->turn, 0, 0);
        sched.threads[sched.thread_count++] = t;
        sched.result.threads++;
        return t;
}

static void *thread_main(void *arg)
{
        struct thread *t = arg;
        await_turn(t);
        self = t;
        void *out = t->fn(t->arg);
        note_step("thread ends");
        t->state = ENDED;
        wake_all(ON_THREAD, t);
        wake_all(ON_THREAD, NULL); /* who waits for all */
        self = NULL;
        struct thread *next = choose();
        (void)sem_post(&next->turn);
        return out;
}

int __wrap_pthread_create(pthread_t *out, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg)
{
        if (!self)
                return __real_pthread_create(out, attr, fn, arg);
        struct thread *t = thread_new(fn, arg);
        int rc = __real_pthread_create(&t->handle, attr, thread_main, t);
        if (rc != 0)
                sched_fail("no thread: %s", strerror(rc));
        *out = t->handle;
        point("pthread_create");
        return 0;
}

static struct thread *thread_find(pthread_t handle)
{
        for (unsigned i = 1; i < sched.thread_count; i++)
                if (!sched.threads[i]->gone && pthread_equal(sched.threads[i]->handle, handle))
                        return sched.threads[i];
        sched_fail("a thread is joined that there is not");
}

int __wrap_pthread_join(pthread_t handle, void **out)
{
        if (!self)
                return __real_pthread_join(handle, out);
        struct thread *t = thread_find(handle);
        point("pthread_join");
        while (t->state != ENDED)
                wait_on(ON_THREAD, t, "pthread_join waits");
        t->gone = true;
        return __real_pthread_join(handle, out);
}

int __wrap_pthread_detach(pthread_t handle)
{
        if (self)
                thread_find(handle)->gone = true;
        return __real_pthread_detach(handle);
}

/* ---- locks ---- */

static struct lock *lock_get(const void *address, const char *name)
{
        struct lock *l = lock_find(address);
        if (l)
                return l;
        if (sched.lock_count == LOCKS_MAX)
                sched_fail("more than %d locks are held", LOCKS_MAX);
        l = sched.locks[sched.lock_count];
        if (!l)
                l = sched.locks[sched.lock_count] = cas_xcalloc(1, sizeof(*l));
        sched.lock_count++;
        l->address = address;
        l->name = name;
        l->writer = NULL;
        l->reader_count = 0;
        return l;
}

static void lock_put(struct lock *l)
{
        if (l->writer || l->reader_count)
                return;
        wake_all(ON_LOCK, l->address);
        for (unsigned i = 0; i < sched.lock_count; i++)
                if (sched.locks[i] == l) {
                        sched.locks[i] = sched.locks[--sched.lock_count];
                        sched.locks[sched.lock_count] = l;
                        return;
                }
}

static void take(const void *address, const char *name)
{
        struct lock *l;
        while ((l = lock_find(address)) != NULL) {
                if (l->writer == self || reads(l, self))
                        sched_fail("thread %u takes lock \"%s\" twice", self->id, name);
                self->wants_write = true;
                wait_on(ON_LOCK, address, name);
                self->wants_write = false;
        }
        lock_get(address, name)->writer = self;
}

static void let_go(const void *address)
{
        struct lock *l = lock_find(address);
        if (!l || l->writer != self)
                sched_fail("thread %u lets a lock go that it does not hold", self->id);
        l->writer = NULL;
        lock_put(l);
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *m)
{
        if (!self)
                return __real_pthread_mutex_lock(m);
        point(mutex_name(m));
        take(m, mutex_name(m));
        return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *m)
{
        if (!self)
                return __real_pthread_mutex_unlock(m);
        let_go(m);
        return 0;
}

static bool writer_waits(const void *address)
{
        for (unsigned i = 0; i < sched.thread_count; i++)
                if (sched.threads[i]->state == ON_LOCK && sched.threads[i]->on == address &&
                    sched.threads[i]->wants_write)
                        return true;
        return false;
}

/* Not below: RocksDB is opened anew under a bare lock, which is part of the one step. */
void __wrap_cas_rwlock_read(struct cas_rwlock *l)
{
        if (!self) {
                __real_cas_rwlock_read(l);
                return;
        }
        cas_lock_order_take(l, l->name);
        point(l->name);
        struct lock *held;
        while ((held = lock_find(l)) != NULL && (held->writer || writer_waits(l)))
                wait_on(ON_LOCK, l, l->name);
        held = lock_get(l, l->name);
        held->readers[held->reader_count++] = self;
}

void __wrap_cas_rwlock_write(struct cas_rwlock *l)
{
        if (!self) {
                __real_cas_rwlock_write(l);
                return;
        }
        cas_lock_order_take(l, l->name);
        point(l->name);
        take(l, l->name);
}

void __wrap_cas_rwlock_unlock(struct cas_rwlock *l)
{
        if (!self) {
                __real_cas_rwlock_unlock(l);
                return;
        }
        cas_lock_order_drop(l);
        struct lock *held = lock_find(l);
        if (!held || held->writer == self) {
                let_go(l);
                return;
        }
        unsigned i = 0;
        while (i < held->reader_count && held->readers[i] != self)
                i++;
        if (i == held->reader_count)
                sched_fail("thread %u lets a lock go that it does not read", self->id);
        held->readers[i] = held->readers[--held->reader_count];
        lock_put(held);
}

/* ---- conditions ---- */

static int condition_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
        self->timed_out = false;
        let_go(m);
        wait_on(ON_CONDITION, c, "pthread_cond_wait");
        take(m, mutex_name(m));
        return self->timed_out ? ETIMEDOUT : 0;
}

int __wrap_pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
        if (!self)
                return __real_pthread_cond_wait(c, m);
        return condition_wait(c, m);
}

static int64_t ns_of(const struct timespec *t)
{
        return (int64_t)t->tv_sec * NS_PER_S + t->tv_nsec;
}

/* Clocks but that of the day begin at 1 s. */
static int64_t clock_ns(clockid_t clock)
{
        return clock == CLOCK_REALTIME ? sched.now_ns : sched.now_ns - sched.start_ns + NS_PER_S;
}

static void limit(clockid_t clock, const struct timespec *deadline)
{
        self->limited = true;
        self->deadline_ns = sched.now_ns + ns_of(deadline) - clock_ns(clock);
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m,
                                  const struct timespec *deadline)
{
        if (!self)
                return __real_pthread_cond_timedwait(c, m, deadline);
        limit(CLOCK_MONOTONIC, deadline); /* as cas_cond_init() has it */
        int rc = condition_wait(c, m);
        self->limited = false;
        return rc;
}

int __wrap_pthread_cond_signal(pthread_cond_t *c)
{
        if (!self)
                return __real_pthread_cond_signal(c);
        struct thread *waiting[THREADS_MAX];
        unsigned count = 0;
        for (unsigned i = 0; i < sched.thread_count; i++)
                if (sched.threads[i]->state == ON_CONDITION && sched.threads[i]->on == c)
                        waiting[count++] = sched.threads[i];
        if (count)
                waiting[sched_random(count)]->state = RUNNABLE;
        return 0;
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *c)
{
        if (!self)
                return __real_pthread_cond_broadcast(c);
        wake_all(ON_CONDITION, c);
        return 0;
}

/* ---- clocks and random bytes ---- */

int __wrap_clock_gettime(clockid_t clock, struct timespec *out)
{
        if (!self)
                return __real_clock_gettime(clock, out);
        int64_t ns = clock_ns(clock);
        *out = (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
        return 0;
}

time_t __wrap_time(time_t *out)
{
        if (!self)
                return __real_time(out);
        time_t now = (time_t)(sched.now_ns / NS_PER_S);
        if (out)
                *out = now;
        return now;
}

static void sleep_until(clockid_t clock, const struct timespec *deadline)
{
        limit(clock, deadline);
        wait_on(ASLEEP, NULL, "sleeps");
        self->limited = false;
}

int __wrap_nanosleep(const struct timespec *want, struct timespec *left)
{
        if (!self)
                return __real_nanosleep(want, left);
        struct timespec deadline;
        int64_t ns = clock_ns(CLOCK_MONOTONIC) + ns_of(want);
        deadline = (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
        sleep_until(CLOCK_MONOTONIC, &deadline);
        return 0;
}

int __wrap_clock_nanosleep(clockid_t clock, int flags, const struct timespec *want,
                           struct timespec *left)
{
        if (!self)
                return __real_clock_nanosleep(clock, flags, want, left);
        if (!(flags & TIMER_ABSTIME))
                return __wrap_nanosleep(want, left);
        sleep_until(clock, want);
        return 0;
}

ssize_t __wrap_getrandom(void *buf, size_t len, unsigned flags)
{
        if (!self)
                return __real_getrandom(buf, len, flags);
        for (size_t i = 0; i < len; i++)
                ((uint8_t *)buf)[i] = (uint8_t)next_random(&sched.random_bytes);
        return (ssize_t)len;
}

int __wrap_getentropy(void *buf, size_t len)
{
        if (!self)
                return __real_getentropy(buf, len);
        (void)__wrap_getrandom(buf, len, 0);
        return 0;
}

/* ---- RocksDB: each call is one step ---- */

void __wrap_rocksdb_write(rocksdb_t *db, const rocksdb_writeoptions_t *o, rocksdb_writebatch_t *b,
                          char **err)
{
        sched_point("rocksdb_write");
        __real_rocksdb_write(db, o, b, err);
        sched_point("rocksdb_write has written");
}

rocksdb_pinnableslice_t *__wrap_rocksdb_get_pinned_cf(rocksdb_t *db, const rocksdb_readoptions_t *o,
                                                      rocksdb_column_family_handle_t *cf,
                                                      const char *key, size_t len, char **err)
{
        sched_point("rocksdb_get");
        return __real_rocksdb_get_pinned_cf(db, o, cf, key, len, err);
}

rocksdb_iterator_t *__wrap_rocksdb_create_iterator_cf(rocksdb_t *db, const rocksdb_readoptions_t *o,
                                                      rocksdb_column_family_handle_t *cf)
{
        sched_point("rocksdb_iterator");
        return __real_rocksdb_create_iterator_cf(db, o, cf);
}

/* ---- files ---- */

static const struct cas_io_ops *below(void)
{
        return cas_io_posix()->ops;
}

static int io_openat(void *ctx, int dirfd, const char *path, int flags, mode_t mode)
{
        sched_point("openat");
        return below()->openat(ctx, dirfd, path, flags, mode);
}

static ssize_t io_pwrite(void *ctx, int fd, const void *buf, size_t len, off_t offset)
{
        sched_point("pwrite");
        return below()->pwrite(ctx, fd, buf, len, offset);
}

/* Syncing is for crashes, which are others' tests. */
static int io_fsync(void *ctx CAS_UNUSED, int fd CAS_UNUSED)
{
        sched_point("fsync");
        return 0;
}

static int io_fdatasync(void *ctx CAS_UNUSED, int fd CAS_UNUSED)
{
        sched_point("fdatasync");
        return 0;
}

static int io_renameat(void *ctx, int old_dirfd, const char *old_path, int new_dirfd,
                       const char *new_path)
{
        sched_point("renameat");
        return below()->renameat(ctx, old_dirfd, old_path, new_dirfd, new_path);
}

static int io_linkat(void *ctx, int old_dirfd, const char *old_path, int new_dirfd,
                     const char *new_path)
{
        sched_point("linkat");
        return below()->linkat(ctx, old_dirfd, old_path, new_dirfd, new_path);
}

static int io_unlinkat(void *ctx, int dirfd, const char *path, int flags)
{
        sched_point("unlinkat");
        return below()->unlinkat(ctx, dirfd, path, flags);
}

static int io_fstatat(void *ctx, int dirfd, const char *path, struct stat *st, int flags)
{
        sched_point("fstatat");
        int rc = below()->fstatat(ctx, dirfd, path, st, flags);
        if (rc == 0 && self) /* else the real clock would decide which of two files is older */
                st->st_atim.tv_sec = st->st_mtim.tv_sec = st->st_ctim.tv_sec =
                        sched.start_ns / NS_PER_S - AHEAD_S;
        return rc;
}

const struct cas_io *sched_io(void)
{
        static struct cas_io_ops ops;
        static const struct cas_io io = {.ops = &ops};
        ops = *below();
        ops.openat = io_openat;
        ops.pwrite = io_pwrite;
        ops.fsync = io_fsync;
        ops.fdatasync = io_fdatasync;
        ops.renameat = io_renameat;
        ops.linkat = io_linkat;
        ops.unlinkat = io_unlinkat;
        ops.fstatat = io_fstatat;
        return &io;
}

/* ---- from begin to end ---- */

static void start_clocks(void)
{
        struct timespec now;
        (void)__real_clock_gettime(CLOCK_REALTIME, &now);
        sched.start_ns = sched.now_ns = ((int64_t)now.tv_sec + AHEAD_S) * NS_PER_S;
}

void sched_changes_within(uint64_t points)
{
        for (unsigned i = 0; i < sched.config.changes; i++)
                sched.change_at[i] = sched.focused + 1 + sched_random(points);
}

void sched_begin(const struct sched_config *config)
{
        cas_assert(!self && !sched.active);
        cas_assert(config->changes <= CHANGES_MAX);
        sched.active = true;
        sched.config = *config;
        sched.random = config->seed;
        sched.random_bytes = ~config->seed;
        sched.thread_count = 0;
        sched.lowest = 0;
        sched.focused = 0;
        sched.result = (struct sched_result){.trace_hash = 0xcbf29ce484222325};
        start_clocks();
        sched.switch_odds = 1U << sched_random(6);
        sched_changes_within(config->steps_guess);
        self = thread_new(NULL, NULL);
}

static bool all_have_ended(void)
{
        for (unsigned i = 1; i < sched.thread_count; i++)
                if (sched.threads[i]->state != ENDED)
                        return false;
        return true;
}

void sched_end(struct sched_result *out)
{
        cas_assert(self && self->id == 0);
        while (!all_have_ended())
                wait_on(ON_THREAD, NULL, "waits for all");
        if (sched.lock_count)
                sched_fail("lock \"%s\" is still held", sched.locks[0]->name);
        if (out)
                *out = sched.result;
        for (unsigned i = 0; i < sched.thread_count; i++) {
                (void)sem_destroy(&sched.threads[i]->turn);
                free(sched.threads[i]);
        }
        self = NULL;
        sched.active = false;
}

uint64_t sched_trace_hash(void)
{
        return sched.result.trace_hash;
}

void sched_name(const char *name)
{
        if (self)
                self->name = name;
}
