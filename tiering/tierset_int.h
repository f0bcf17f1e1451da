/* SPDX-License-Identifier: Apache-2.0 */
/* What a set of tiers is made of. Private to tiering. */
#ifndef TIERING_TIERSET_INT_H
#define TIERING_TIERSET_INT_H

#include "cas/mutex.h"
#include "cas/pace.h"
#include "tiering/bucket.h"
#include "tiering/heat.h"
#include "tiering/tierdir.h"
#include "tiering/tierset.h"

/* Borrowed by many until the set is closed: neither it nor its descriptors go before. */
struct tier {
        struct tier_set *set;
        uint32_t id; /* fixed, as the two below */
        char name[TIER_NAME_BYTES];
        struct cas_pace pace; /* has its own lock */

        /* guarded by set->mutex: */
        struct tier_config config; /* where, class and s3 are fixed */
        enum tier_state state;     /* leaving: is in the configuration */
        bool gone;                 /* off the list */
        char why[CAS_ERR_MSG_MAX];
        struct tier_dir dir;        /* once it was opened, the numbers stay */
        struct tier_bucket *bucket; /* once it was opened, it stays */
        uint64_t bucket_tried_ns;   /* CLOCK_MONOTONIC; of the last failure */
        uint64_t home_bytes, other_bytes, cached_bytes, written_bytes, read_bytes;
        uint64_t free_bytes; /* of the file system, less the reserve, and what was taken since … */
        uint64_t free_looked_ns; /* … then; 0: not looked at */
        unsigned waiters;        /* for room here */
        bool stuck;              /* and in vain: the mover found nothing to move */
        uint64_t waits, waited_ms, refused;
        uint64_t other_taken; /* tier 0: of other_bytes, ever */
};

struct tier_set {
        struct cas_backend backend; /* first */
        int store_dirfd;            /* fixed, as to the empty line; owned */
        char *store_path;
        char store_id[33];
        struct tier_heat *heat;    /* has its own lock */
        struct cas_mutex changing; /* changes of the list, and opening; before mutex */
        _Atomic(bool) counts;      /* there is a STORE/tiers: room is counted */

        struct cas_mutex mutex; /* a leaf, but for those of cas; guards all below */
        pthread_cond_t room;    /* some was given back, or the mover has come or gone */
        uint64_t recounted_ns;  /* CLOCK_MONOTONIC */
        struct tier **tiers;    /* by speed; owned, those that are gone too */
        size_t count;
        uint32_t next_id;
        bool paused;
        void (*mover_wake)(void *arg); /* NULL: none is at work */
        void *mover_arg;
        pthread_t mover_thread;
        struct tier_blocks *blocks;   /* NULL: none; once it was opened, it stays until … */
        struct tier *cache_tier;      /* NULL: nothing is kept */
        uint64_t cache_capacity;      /* as it was told last */
        struct tier_blocks **retired; /* … all are closed, these as well */
        size_t retired_count;
};

uint64_t tier_now_ns(void);
struct tier *tier_by_id_locked(struct tier_set *set,
                               uint32_t id); /* NULL: none that is on the list */
bool tier_is_local(const struct tier *t);
/* Whether the directory can be used; a bucket that was not spoken to yet is thought well of. */
bool tier_is_reachable_locked(const struct tier *t);

extern const struct cas_backend_ops tier_set_ops; /* tierbackend.c */

/* tierset.c; all with set->changing held */
struct tier *tier_set_named(struct tier_set *set, const char *name); /* NULL: none */
/* A tier that is on the written list now: it is looked at, and used. */
int tier_set_enlist(struct tier_set *set, const struct tier_config *c,
                    struct cas_err *err) CAS_MUST_CHECK;
/* It has these settings on the written list now. */
int tier_set_settle(struct tier_set *set, struct tier *t, const struct tier_config *c,
                    struct cas_err *err) CAS_MUST_CHECK;
/* There is a written list now: room is counted. What is being written at that moment may be counted
 * twice until the store is opened again. */
int tier_set_begin_counting(struct tier_set *set, struct cas_err *err) CAS_MUST_CHECK;
void tier_set_free(struct tier_set *set);

/* place.c */
int tier_place(struct tier_set *set, uint32_t want, int *out_dirfd, uint32_t *out_tier,
               struct cas_err *err) CAS_MUST_CHECK;
int tier_room_take(struct tier_set *set, uint32_t id, uint64_t bytes, bool pack,
                   struct cas_err *err) CAS_MUST_CHECK;
void tier_room_give(struct tier_set *set, uint32_t id, uint64_t bytes, bool pack);
/* For the cache of blocks: never waits. */
bool tier_cache_room_take(void *arg, uint64_t bytes);
void tier_cache_room_give(void *arg, uint64_t bytes);
/* What can be written there now, the cache left alone. */
uint64_t tier_room_locked(struct tier *t);
/* How large the cache may be, with what else lies there. */
uint64_t tier_cache_share_locked(const struct tier *t);

/* tiercache.c */
/* Opens the cache of blocks that the configuration asks for, if it is not open. set->changing held.
 */
int tier_cache_open(struct tier_set *set, struct cas_err *err) CAS_MUST_CHECK;
/* Gives it the size that it may have now. */
void tier_cache_fit(struct tier_set *set);
void tier_cache_close(struct tier_set *set);

/* tierbuckets.c */
/* The bucket of a remote tier, opened when it was not. Errors: UNSUPPORTED (none such), IO, … */
int tier_bucket_of(struct tier_set *set, uint32_t id, struct tier_bucket **out,
                   struct cas_err *err) CAS_MUST_CHECK;
int tier_remote_put(struct tier_set *set, uint32_t tier, const struct cas_pack_file *pack, int fd,
                    struct cas_err *err) CAS_MUST_CHECK;
int tier_remote_get(struct tier_set *set, uint32_t tier, const struct cas_pack_file *pack, int fd,
                    struct cas_err *err) CAS_MUST_CHECK;
int tier_remote_delete(struct tier_set *set, uint32_t tier, const struct cas_pack_file *pack,
                       struct cas_err *err) CAS_MUST_CHECK;
int tier_remote_each(struct tier_set *set, uint32_t tier,
                     int (*fn)(void *arg, const struct cas_pack_file *pack, struct cas_err *err),
                     void *arg, struct cas_err *err) CAS_MUST_CHECK;

#endif
