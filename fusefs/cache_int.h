/* SPDX-License-Identifier: Apache-2.0 */
/* A bounded cache of counted values under small keys: extents, decoded blocks
 * and pack descriptors of `lamina fs`. Values in use are never evicted; of the
 * others the least recently used go first. Who asks for a value that another
 * thread is loading waits for it. Thread-safe. Loading happens outside of the
 * cache's lock. */
#ifndef FFS_CACHE_INT_H
#define FFS_CACHE_INT_H

#include "cas/err.h"

struct ffs_cache_key {
        uint64_t a, b;
};

struct ffs_cache;
/* `name` is static. Values are worth a weight each; weight_max bounds their sum but for those in
 * use. */
struct ffs_cache *ffs_cache_new(const char *name, size_t weight_max, void (*free_value)(void *));
/* No value may be in use. */
void ffs_cache_free(struct ffs_cache *c);

/* Makes the value of a key; may block. */
typedef int (*ffs_cache_load)(void *arg, void **value, size_t *weight, struct cas_err *err);
/* Gives the value, in use until put; loads it when it is not there. Errors: those of load. */
int ffs_cache_get(struct ffs_cache *c, const struct ffs_cache_key *key, ffs_cache_load load,
                  void *arg, void **value, struct cas_err *err) CAS_MUST_CHECK;
void ffs_cache_put(struct ffs_cache *c, const struct ffs_cache_key *key, void *value);
/* Adds a value that was made already; freed at once where the key has one. Takes ownership. */
void ffs_cache_add(struct ffs_cache *c, const struct ffs_cache_key *key, void *value,
                   size_t weight);
/* Forgets a value that proved wrong; who uses it keeps it until put. */
void ffs_cache_drop(struct ffs_cache *c, const struct ffs_cache_key *key);
/* Lets go of what is not in use until the rest weighs no more than that. */
void ffs_cache_trim(struct ffs_cache *c, size_t weight);
/* Lets go of values that are not in use and for which goes() is true; it is called with the cache's
 * lock held. */
void ffs_cache_sweep(struct ffs_cache *c, bool (*goes)(const void *value));
size_t ffs_cache_weight(struct ffs_cache *c);

#endif
