/* SPDX-License-Identifier: Apache-2.0 */
/* How warm packs are: reads of each, of which half is forgotten every day. Memory is bounded: when
 * the table is full, the coldest of a few that are looked at goes. Kept in STORE/heat (spec/
 * tiering.md), which may be lost without harm. Thread-safe. */
#ifndef TIERING_HEAT_H
#define TIERING_HEAT_H

#include "cas/buf.h"

#define TIER_HEAT_PACKS_MAX 65536 /* 24 bytes each */
#define TIER_HEAT_HALF_S (24 * 3600)
#define TIER_HEAT_READ 65536 /* what one read adds */
#define TIER_HEAT_FILE_BYTES_MAX (TIER_HEAT_PACKS_MAX * 24 + 64)

struct tier_heat;
struct tier_heat *tier_heat_new(void);
void tier_heat_free(struct tier_heat *h);
/* A piece of the pack was read. Must not block for long: takes one short lock. */
void tier_heat_touch(struct tier_heat *h, uint64_t pack_id, uint64_t now_s);
void tier_heat_forget(struct tier_heat *h, uint64_t pack_id);
struct tier_heat_of {
        uint64_t heat;        /* now, in 1/TIER_HEAT_READ reads */
        uint64_t read_unix_s; /* last; 0: not known */
};
struct tier_heat_of tier_heat_get(struct tier_heat *h, uint64_t pack_id, uint64_t now_s);
/* Heat after so many seconds; whole halves by shifting, the rest in a straight line. */
uint64_t tier_heat_decayed(uint64_t heat, uint64_t seconds);
size_t tier_heat_count(struct tier_heat *h);

/* ---- the file ---- */
void tier_heat_encode(struct tier_heat *h, struct cas_buf *out);
/* Any bytes are safe. Errors: CORRUPT, UNSUPPORTED (another version); h is as it was then. */
int tier_heat_decode(struct tier_heat *h, const void *data, size_t len,
                     struct cas_err *err) CAS_MUST_CHECK;
/* STORE/heat. Absent is success. */
int tier_heat_load(struct tier_heat *h, int store_dirfd, struct cas_err *err) CAS_MUST_CHECK;
/* Replaces it, if anything has changed since. */
int tier_heat_save(struct tier_heat *h, int store_dirfd, struct cas_err *err) CAS_MUST_CHECK;

#endif
