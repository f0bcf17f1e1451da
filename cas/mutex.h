/* SPDX-License-Identifier: Apache-2.0 */
/* A mutex that knows its name and its owner, so that `_locked` functions can
 * assert that it is held.
 *
 * Lock order, outermost first; a thread never takes a lock to the left of one
 * that it holds:
 *
 *   store.keeping   (who puts frames of a blob into packs as they are, one at a time; a
 *                    publication may be open already)
 *   > store.exclusive (rwlock: publishers shared, gc exclusive)
 *   > store.names   (tags, manifests of repositories, journal)
 *   > store.blob_files (rwlock: commits of blobs shared, who drops copies alone)
 *   > publish       (one publication)
 *   > packset.replacing (who moves chunks, or puts kept frames in their place, for the commit)
 *   > openblock (chunks of one ingest that are not written yet; one at a time)
 *   > packfile.sync (while a pack is synced)
 *   > packset       (open packs, pending chunks)
 *   > blobcache, blockcache, layerwriter, once, pool, recipe, recode, regen, spool, store.trees,
 *     index.packs, log (leaves)
 *
 * Beside that order: flights > flight (cas/blobstream.c), neither held around any of the above nor
 * taken inside of it, but for flights by collection, which has store.exclusive; who waits for bytes
 * is woken under flight, so that the waker's locks come after it. condenser is held alone.
 * elsewhere.loading (with the store shared) > elsewhere, a leaf, as is learner; filler is taken
 * inside of elsewhere.
 *
 * fusefs and registry take their own locks outside of every cas call, never
 * around one, but for those that their files name. */
#ifndef CAS_MUTEX_H
#define CAS_MUTEX_H

#include <pthread.h>
#include <stdatomic.h>

#include "cas/base.h"

struct cas_mutex {
        pthread_mutex_t mutex;
        const char *name; /* static storage */
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

#endif
