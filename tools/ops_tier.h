/* SPDX-License-Identifier: Apache-2.0 */
/* What the operations on tiers share. */
#ifndef TOOLS_OPS_TIER_H
#define TOOLS_OPS_TIER_H

#include "tiering/mover.h"
#include "tools/ops.h"

struct op_number {
        const char *key;
        uint64_t value;
};
json_t *op_number(uint64_t v);
/* Errors: UNSUPPORTED. */
int op_tier_set_of(struct cas_store *s, struct tier_set **out, struct cas_err *err) CAS_MUST_CHECK;
/* All that is known of tiers, mover and cache; a new reference. */
json_t *op_tiers_json(struct tier_set *set, const struct op_context *ctx);

/* Packs by what lies in them (ops_tierexplain.c). */
struct op_pack {
        struct cas_pack_info info;
        uint64_t stored_bytes; /* of what was asked for */
};
struct op_packs {
        struct op_pack *list; /* owned; each once */
        size_t count;
};
void op_packs_release(struct op_packs *p);
#define op_cleanup_packs __attribute__((cleanup(op_packs_release)))
/* what: a pack's id (16 hex digits), a digest as cas_packs_of takes it, or the name of an image.
 * Errors: NOTFOUND, INVALID. */
int op_packs_find(struct cas_store *s, const char *what, struct op_packs *out,
                  struct cas_err *err) CAS_MUST_CHECK;
/* Names of images with a piece on that tier are appended. Walks all images. */
int op_tier_dependents(struct cas_store *s, uint32_t tier, json_t *images,
                       struct cas_err *err) CAS_MUST_CHECK;

#endif
