/* SPDX-License-Identifier: Apache-2.0 */
/* Traces of reads, real and made up, and what they are replayed against: see tiersim.c. */
#ifndef BENCH_TIERSIM_H
#define BENCH_TIERSIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One read of a block, as record_traces.py writes it: little-endian, as it stands here, one behind
 * the other. */
struct sim_read {
        uint64_t time_ms;
        uint64_t pack, offset; /* of the block's frame */
        uint64_t object;       /* a number of it; 0: not known */
        uint64_t object_bytes;
        uint32_t bytes; /* of the block, as stored */
        uint32_t event; /* a number of the mount or pull that it belongs to; 0: not known */
};
_Static_assert(sizeof(struct sim_read) == 48, "as in files");

struct sim_trace {
        struct sim_read *reads; /* owned */
        size_t count, max;
};
void sim_trace_add(struct sim_trace *t, const struct sim_read *read);
/* name: a file, or the description of one to be made: «zipf:s=0.9,keys=1000000,reads=4000000» or
 * «images:…»; tiergen.c says what there is. Exits with a message when it cannot be had. */
void sim_trace_get(struct sim_trace *t, const char *name);
void sim_trace_make(struct sim_trace *t, const char *description);

enum sim_unit { SIM_OBJECT, SIM_BLOCK, SIM_PACK };
/* The same, as numbers of keys: repeated reads of a key one behind the other are one. */
struct sim_keys {
        uint32_t *reads; /* owned */
        bool *scan;      /* owned: it is part of a scan, and counts for nothing */
        size_t count;
        uint64_t *bytes; /* owned; of each key */
        uint32_t distinct;
        uint64_t total_bytes; /* of all keys */
};
#define SIM_EVENT_SCAN UINT32_MAX
void sim_keys_make(struct sim_keys *k, const struct sim_trace *t, enum sim_unit unit);
void sim_keys_release(struct sim_keys *k);

struct sim_result {
        uint64_t reads, hits, read_bytes, hit_bytes; /* scans left out */
        uint64_t written_bytes, evicted_bytes;       /* scans included */
};
/* What knowing the future allows, from a cold start, for a cache that need not take what it reads:
 * «bytes» is an upper bound of the bytes hit by any policy (Belady's rule for entries that may be
 * kept in part; exact where sizes are equal); «hits» one of the hits (the space that each hit
 * needs, times its duration, shortest first, until all of the cache's is spent); «offline» is what
 * the largest «size times distance of the next use» out of 32 goes first achieves. */
void sim_bound_bytes(const struct sim_keys *k, uint64_t capacity, struct sim_result *out);
void sim_bound_hits(const struct sim_keys *k, uint64_t capacity, struct sim_result *out);
void sim_offline(const struct sim_keys *k, uint64_t capacity, struct sim_result *out);
/* The best set that never changes: what no policy without a future can beat in the long run where
 * reads are independent of each other. */
void sim_static(const struct sim_keys *k, uint64_t capacity, struct sim_result *out);

/* Placement by heat: what is read adds one, and heat halves in `half_life` reads; the coldest of 32
 * goes, and only what is hotter than that comes in. As the mover chooses packs that sink. */
void sim_heat(const struct sim_keys *k, uint64_t capacity, double half_life,
              struct sim_result *out);

/* Every run is the same. */
uint64_t sim_random(uint64_t *state);
uint64_t sim_mix(uint64_t a, uint64_t b);

#endif
