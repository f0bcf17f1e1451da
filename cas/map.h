/* SPDX-License-Identifier: Apache-2.0 */
/* An open-addressing hash map from byte keys to one pointer or number. Keys are
 * hashed with a per-process secret, so that input cannot choose collisions.
 * Not thread-safe. */
#ifndef CAS_MAP_H
#define CAS_MAP_H

#include "cas/base.h"

struct cas_map;
/* The map copies keys. */
struct cas_map *cas_map_new(void);
void cas_map_free(struct cas_map *m);
size_t cas_map_count(const struct cas_map *m);
/* Pointer to the value of key, valid until the next insertion or removal; NULL when absent. */
uint64_t *cas_map_get(const struct cas_map *m, const void *key, size_t key_len);
/* The same, inserting value 0 when absent; *inserted (may be NULL) says so. */
uint64_t *cas_map_put(struct cas_map *m, const void *key, size_t key_len, bool *inserted);
bool cas_map_remove(struct cas_map *m, const void *key, size_t key_len);
/* Calls fn for each entry, in no order; fn must not change the map. */
void cas_map_each(const struct cas_map *m,
                  void (*fn)(void *arg, const void *key, size_t key_len, uint64_t value),
                  void *arg);

static inline uint64_t *cas_map_get_str(const struct cas_map *m, const char *key)
{
        return cas_map_get(m, key, strlen(key));
}
CAS_DEFINE_CLEANUP(cas_cleanup_map_, struct cas_map *, cas_map_free);
#define cas_cleanup_map __attribute__((cleanup(cas_cleanup_map_)))

#endif
