/* SPDX-License-Identifier: Apache-2.0 */
/* The tiers of an open store: the backend that it keeps its packs by (cas/backend.h), the changes
 * of their list, and what is known of each. A store without STORE/tiers has one, its own directory,
 * of which nothing is counted.
 *
 * Room: each tier counts what lies there: packs (by what was asked for, and by the directory when
 * the store is opened), twins of the cache of blocks, and, on tier 0, blobs and uploads. It is
 * never more than the capacity, and some of the file system is left free. Who wants room that is
 * not there gets it from the cache, or waits while the mover makes it.
 *
 * Thread-safe. */
#ifndef TIERING_TIERSET_H
#define TIERING_TIERSET_H

#include "cas/tiers.h"
#include "tiering/blocks.h"
#include "tiering/tier.h"

#define TIER_ROOM_WAIT_MS 30000 /* writers wait so long for the mover */

struct tier_set;
struct tier_heat;

/* For cas_store_config.backend_open. Tiers that cannot be reached, or are refused, do not keep the
 * store from being opened. Errors: CORRUPT, INVALID (STORE/tiers), IO. */
int tier_set_open(struct cas_store *s, struct cas_backend **out,
                  struct cas_err *err) CAS_MUST_CHECK;
/* Of a store that was opened so; NULL: it was not. */
struct tier_set *tier_set_of(struct cas_store *s);
bool tier_set_is_configured(struct tier_set *set); /* there is a STORE/tiers */

enum tier_state {
        TIER_OK,
        TIER_LEAVING, /* nothing new goes there; being evacuated */
        TIER_REFUSED, /* empty, another store's, or not what it was: not touched */
        TIER_FAILED   /* not reachable, or it answered with errors of I/O */
};
const char *tier_state_name(enum tier_state state);
struct tier_status {
        struct tier_config config; /* borrowed during the call */
        enum tier_state state;
        const char *why;                    /* of the state; "" */
        uint64_t home_bytes;                /* packs */
        uint64_t other_bytes;               /* tier 0: blobs and uploads */
        uint64_t cached_bytes;              /* twins */
        uint64_t room_bytes;                /* what can be written now, the cache left alone */
        uint64_t written_bytes, read_bytes; /* of packs, since the store was opened */
        uint64_t waits, waited_ms, refused; /* writers who wanted room; who got none */
        unsigned waiters;                   /* for room, now */
        bool is_cache;                      /* the cache of blocks lies there */
        bool has_counts;                    /* it is a bucket that was spoken to: */
        struct s3_counts counts;
};
/* Calls fn with each, from fast to slow, until it returns false. Nothing is locked meanwhile. */
void tier_set_each(struct tier_set *set, bool (*fn)(void *arg, const struct tier_status *t),
                   void *arg);
/* The id of a tier. Errors: NOTFOUND. */
int tier_set_find(struct tier_set *set, const char *name, uint32_t *out,
                  struct cas_err *err) CAS_MUST_CHECK;
/* Counters of the cache of blocks; false: there is none. */
bool tier_set_cache_counts(struct tier_set *set, struct tier_blocks_counts *out);

/* ---- changes: durable on return ---- */

/* Makes the directory or the place in the bucket ours, and puts it on the list. c: all but the id.
 * Errors: EXISTS (the name), DENIED (the place is another's, inside of another tier or of the
 * store, or one that holds it), INVALID, LIMIT, IO … */
int tier_set_add(struct tier_set *set, const struct tier_config *c,
                 struct cas_err *err) CAS_MUST_CHECK;
/* One with this name has these settings now: all but id, class and where. Errors: NOTFOUND, INVALID
 */
int tier_set_change(struct tier_set *set, const struct tier_config *c,
                    struct cas_err *err) CAS_MUST_CHECK;
/* A copy (released by the caller) of a tier's settings. Errors: NOTFOUND. */
int tier_set_config(struct tier_set *set, const char *name, struct tier_config *out,
                    struct cas_err *err) CAS_MUST_CHECK;
/* Takes it off the list; the marker and empty directories go where they can be reached. The caller
 * has seen that no pack's home is there, or forgets those that are. Errors: NOTFOUND, INVALID (tier
 * 0), IO. */
int tier_set_remove(struct tier_set *set, const char *name, struct cas_err *err) CAS_MUST_CHECK;
int tier_set_pause(struct tier_set *set, bool paused, struct cas_err *err) CAS_MUST_CHECK;
bool tier_set_is_paused(struct tier_set *set);

/* ---- for the mover ---- */

/* The next slower tier that takes so many bytes now: CAS_TIER_ANY when there is none. With
 * `upwards` also a faster one, when none is slower. */
uint32_t tier_set_below(struct tier_set *set, uint32_t tier, uint64_t bytes, bool upwards);
/* How many bytes of packs are above what the tier shall hold: to be moved, until it is 0, once the
 * high mark was passed or somebody waits for room (`began`). */
uint64_t tier_set_excess(struct tier_set *set, uint32_t tier, bool began);
/* Both devices are paid for so. Borrowed until close. */
struct cas_pace *tier_set_pace(struct tier_set *set, uint32_t tier);
struct tier_heat *tier_set_heat(struct tier_set *set); /* borrowed */
/* Who waits for room may hope while one is at work; it is woken when somebody wants room. */
void tier_set_mover(struct tier_set *set, void (*wake)(void *arg), void *arg);
/* What has gone of blobs and uploads is not told to us: walks them when that was long ago, or
 * sooner when tier 0 is above its mark. */
void tier_set_recount(struct tier_set *set);
/* Whether somebody waits for room there. */
bool tier_set_is_wanted(struct tier_set *set, uint32_t tier);
int tier_set_save_heat(struct tier_set *set, struct cas_err *err) CAS_MUST_CHECK;
/* Nothing can be moved off the tier: who waits there does so in vain. */
void tier_set_stuck(struct tier_set *set, uint32_t tier);
/* Home bytes of a bucket, counted. */
void tier_set_count_remote(struct tier_set *set, uint32_t tier, uint64_t bytes);
/* Looks whether what failed is back, and what is there still is: every few seconds. Blocks. */
void tier_set_look(struct tier_set *set);

#endif
