/* SPDX-License-Identifier: Apache-2.0 */
/* Packs and the tiers that they lie on: what a mover works with (spec/tiering.md). All functions
 * are thread-safe and block. */
#ifndef CAS_TIERS_H
#define CAS_TIERS_H

#include "cas/backend.h"

struct cas_pack_info {
        uint64_t pack_id;
        uint32_t tier;
        uint8_t density;   /* enum cas_pack_density */
        bool sealed, open; /* open: somebody writes to it, or may come to */
        uint64_t size_bytes, dead_bytes;
};
/* Calls fn with each pack of the index, by id, until it returns false. */
int cas_pack_each(struct cas_store *s, bool (*fn)(void *arg, const struct cas_pack_info *pack),
                  void *arg, struct cas_err *err) CAS_MUST_CHECK;
/* Errors: NOTFOUND. */
int cas_pack_stat(struct cas_store *s, uint64_t pack_id, struct cas_pack_info *out,
                  struct cas_err *err) CAS_MUST_CHECK;

struct cas_pack_move_options {
        uint32_t to;             /* tier */
        bool as_it_is;           /* keep its blocks whatever the tier's density is */
        struct cas_pace *pace;   /* bytes read and written are paid for; NULL: none */
        bool (*stop)(void *arg); /* asked between steps; NULL: never */
        void *stop_arg;
};
struct cas_pack_move_result {
        uint64_t bytes_before, bytes_after; /* of files */
        bool recoded;                       /* its chunks are in other packs now */
};
/* Moves the home copy of a pack to another tier, or has it recoded on its own, while everything
 * else goes on: recoded with the tier's density where that is denser than the pack's (only what is
 * live goes along), else as it is. New copy durable, then one batch of the index, then the old copy
 * goes: broken off at any point, nothing is lost and the next call goes on. A pack that is on that
 * tier already, and as dense, is success. Errors: BUSY (somebody writes to it, or it was stopped),
 * NOTFOUND, NOSPACE, CORRUPT (damage: it stays), IO, UNSUPPORTED (no such tier). */
int cas_pack_move(struct cas_store *s, uint64_t pack_id, const struct cas_pack_move_options *o,
                  struct cas_pack_move_result *out, struct cas_err *err) CAS_MUST_CHECK;

/* In which packs the content of a blob (layer, config, manifest), file object or chunk lies, once
 * each, with how many bytes of it as stored; until fn returns false. What is kept as a file
 * (config, manifest) lies in none. digest: as cas_why takes it, less names. Errors: NOTFOUND (the
 * store does not have it), INVALID. */
int cas_packs_of(struct cas_store *s, const char *digest,
                 bool (*fn)(void *arg, uint64_t pack_id, uint64_t stored_bytes), void *arg,
                 struct cas_err *err) CAS_MUST_CHECK;

#endif
