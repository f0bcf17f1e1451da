/* SPDX-License-Identifier: Apache-2.0 */
/* How often keys were seen of late, about: a count-min sketch of counters of four bits, four for
 * each key, all in one line of memory. It never says too little of what was counted since, beyond
 * 15 it says 15, and all counters are halved once as many were noted as `sample` says, so that
 * what was once is forgotten. Not thread-safe. */
#ifndef TIERING_SKETCH_H
#define TIERING_SKETCH_H

#include "cas/base.h"

#define TIER_SKETCH_MAX 15

struct tier_sketch {
        uint64_t *words; /* owned; 16 counters each */
        uint32_t blocks; /* of 8 words; a power of two */
        uint64_t noted, sample;
};
/* For so many keys: 8 bytes for each, rounded up to a power of two. */
void tier_sketch_init(struct tier_sketch *s, uint64_t keys);
void tier_sketch_release(struct tier_sketch *s);
/* For more keys, what was counted is kept. Does nothing when it is large enough. */
void tier_sketch_grow(struct tier_sketch *s, uint64_t keys);
/* hash: evenly spread over 64 bits. */
void tier_sketch_note(struct tier_sketch *s, uint64_t hash);
unsigned tier_sketch_count(const struct tier_sketch *s, uint64_t hash);
uint64_t tier_sketch_bytes(const struct tier_sketch *s);

#endif
