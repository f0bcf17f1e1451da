/* SPDX-License-Identifier: Apache-2.0 */
/* A mutex that knows its name and its owner, so that `_locked` functions can
 * assert that it is held; a lock for many readers or one writer; and the order
 * in which locks are taken, checked at run time in builds with CAS_LOCK_ORDER
 * (debug, asan, tsan: cas/lockorder_int.h).
 *
 * The name is the lock's class: two locks of one class are never held by one thread. */
#ifndef CAS_MUTEX_H
#define CAS_MUTEX_H

#include <pthread.h>
#include <stdatomic.h>

#include "cas/base.h"

/* Lock order, outermost first: a thread takes no lock whose rank is that of one that it holds, or
 * is smaller. tests/check-locks.sh compares the table with the names in cas.
 *
 * Locks of fusefs, registry and tools are not in it. They are taken outside of every cas call but
 * in callbacks (who waits for bytes is woken under "flight"); what is taken inside of what is
 * learned as it happens, together with this table, and a thread that closes a circle is told. */
#define CAS_LOCK_RANKS(X)                                                                          \
        X(5, "repair")             /* one thing is repaired at a time */                           \
        X(5, "store.collecting")   /* a run of collection */                                       \
        X(7, "shared.names")       /* a tag as the nodes share it, until it is so here */          \
        X(10, "store.keeping")     /* who puts frames of a blob into packs as they are */          \
        X(20, "elsewhere.loading") /* the list of other stores' parts */                           \
        X(30, "background")                                                                        \
        X(40, "elsewhere")         /* layers of other stores */                                    \
        X(45, "filler")            /* a layer that comes in the background */                      \
        X(50, "store.blob_files")  /* commits of blobs shared, who drops copies alone */           \
        X(60, "store.names")       /* who waits to commit, or takes the lead */                    \
        X(70, "packset.replacing") /* who moves chunks, or puts kept frames in their place */      \
        X(80, "openblock")         /* chunks of one ingest that are not written yet */             \
        X(90, "packfile.sync")     /* while a pack is synced */                                    \
        X(100, "packset")          /* open packs, pending chunks */                                \
        X(103, "trees.naming")     /* who makes trees known shared, who removes them alone */      \
        X(105, "index.condemning") /* batches that condemn shared, collection's alone */           \
        X(107, "gate")             /* who pins or leases shared, collection alone for a batch */   \
        X(110, "flights")          /* streams of blobs that are made again */                      \
        X(120, "flight")                                                                           \
        X(130, "pins") /* one set of pins */                                                       \
        X(140, "pins.sets")                                                                        \
        X(900, "blobcache") /* from here on: leaves */                                             \
        X(900, "blockcache")                                                                       \
        X(900, "assemble.once")                                                                    \
        X(900, "condense.once")                                                                    \
        X(900, "damages")                                                                          \
        X(900, "elsewhere.once")                                                                   \
        X(900, "hashpipe")                                                                         \
        X(900, "index.packs")                                                                      \
        X(900, "ingest.queue")                                                                     \
        X(900, "layer.once")                                                                       \
        X(900, "layerwriter")                                                                      \
        X(900, "learner")                                                                          \
        X(900, "leases")                                                                           \
        X(900, "pace")                                                                             \
        X(900, "maintenance")                                                                      \
        X(900, "packfds")                                                                          \
        X(900, "pool")                                                                             \
        X(900, "prefetch")                                                                         \
        X(900, "progress")                                                                         \
        X(900, "recipe")                                                                           \
        X(900, "recode")                                                                           \
        X(900, "removals")                                                                         \
        X(900, "regen")                                                                            \
        X(900, "scrub")                                                                            \
        X(900, "scrub.look")                                                                       \
        X(900, "scrub.pack")                                                                       \
        X(900, "scrub.turn")                                                                       \
        X(900, "spool")                                                                            \
        X(900, "store.blob_dirs")                                                                  \
        X(900, "store.trees")                                                                      \
        X(900, "store.uploads")                                                                    \
        X(900, "unpack")

/* ---- one at a time ---- */

struct cas_mutex {
        pthread_mutex_t mutex; /* first: tests' schedulers go from one to the other */
        const char *name;      /* static storage */
        _Atomic(pthread_t) owner;
        _Atomic bool held;
};

#define CAS_MUTEX_INIT(NAME)                                                                       \
        {                                                                                          \
                .mutex = PTHREAD_MUTEX_INITIALIZER, .name = (NAME)                                 \
        }

void cas_mutex_init(struct cas_mutex *m, const char *name);
void cas_mutex_release(struct cas_mutex *m);
void cas_mutex_lock(struct cas_mutex *m);
void cas_mutex_unlock(struct cas_mutex *m);
bool cas_mutex_is_mine(const struct cas_mutex *m);
#define cas_assert_held(m) cas_assert(cas_mutex_is_mine(m))
/* Waits on a condition while m is held. */
void cas_mutex_wait(struct cas_mutex *m, pthread_cond_t *cond);
/* The same, at most until `deadline` of CLOCK_MONOTONIC (the condition must use that clock).
 * False on time-out. */
bool cas_mutex_timedwait(struct cas_mutex *m, pthread_cond_t *cond,
                         const struct timespec *deadline);
/* Initialises a condition that cas_mutex_timedwait can use. */
void cas_cond_init(pthread_cond_t *cond);

/* ---- many readers, or one writer ---- */

/* A writer that waits goes before readers that come later, so a thread that reads already must not
 * read again. */
struct cas_rwlock {
        pthread_rwlock_t lock; /* first, as above */
        const char *name;      /* static storage */
};

void cas_rwlock_init(struct cas_rwlock *l, const char *name);
void cas_rwlock_release(struct cas_rwlock *l);
void cas_rwlock_read(struct cas_rwlock *l);
void cas_rwlock_write(struct cas_rwlock *l);
void cas_rwlock_unlock(struct cas_rwlock *l);

#endif
