/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/cache_int.h"

#include "cas/map.h"
#include "cas/mutex.h"

/* States: loading (value NULL, one user) -> in use -> idle (users 0, in the LRU list) -> gone.
 * A dropped entry has left the map and goes with its last user. */
struct entry {
        struct ffs_cache_key key;
        void *value; /* owned; NULL while loading */
        size_t weight;
        unsigned users;
        bool dropped;
        struct entry *newer, *older; /* while idle */
        struct entry *next_dropped;
};

struct ffs_cache {
        struct cas_mutex mutex; /* leaf; guards all below */
        pthread_cond_t loaded;
        void (*free_value)(void *);
        struct cas_map *entries;
        struct entry *newest, *oldest; /* idle ones */
        struct entry *dropped;         /* in use, no longer in the map */
        size_t weight, weight_max;
};

struct ffs_cache *ffs_cache_new(const char *name, size_t weight_max, void (*free_value)(void *))
{
        struct ffs_cache *c = cas_xcalloc(1, sizeof(*c));
        cas_mutex_init(&c->mutex, name);
        cas_cond_init(&c->loaded);
        c->free_value = free_value;
        c->entries = cas_map_new();
        c->weight_max = weight_max;
        return c;
}

static void idle_unlink(struct ffs_cache *c, struct entry *e)
{
        *(e->newer ? &e->newer->older : &c->newest) = e->older;
        *(e->older ? &e->older->newer : &c->oldest) = e->newer;
        e->newer = e->older = NULL;
}

static void idle_push(struct ffs_cache *c, struct entry *e)
{
        e->older = c->newest;
        *(c->newest ? &c->newest->newer : &c->oldest) = e;
        c->newest = e;
}

static void destroy(struct ffs_cache *c, struct entry *e)
{
        if (e->value)
                c->free_value(e->value);
        free(e);
}

static struct entry *find_locked(const struct ffs_cache *c, const struct ffs_cache_key *key)
{
        uint64_t *found = cas_map_get(c->entries, key, sizeof(*key));
        return found ? (struct entry *)(uintptr_t)*found : NULL;
}

/* Takes idle entries out until no more than that is left; gives them as a list by `older`. */
static struct entry *evict_to_locked(struct ffs_cache *c, size_t weight)
{
        cas_assert_held(&c->mutex);
        struct entry *out = NULL;
        while (c->weight > weight && c->oldest) {
                struct entry *e = c->oldest;
                idle_unlink(c, e);
                c->weight -= e->weight;
                (void)cas_map_remove(c->entries, &e->key, sizeof(e->key));
                e->older = out;
                out = e;
        }
        return out;
}

static struct entry *evict_locked(struct ffs_cache *c)
{
        return evict_to_locked(c, c->weight_max);
}

static void destroy_all(struct ffs_cache *c, struct entry *list)
{
        while (list) {
                struct entry *next = list->older;
                destroy(c, list);
                list = next;
        }
}

void ffs_cache_free(struct ffs_cache *c)
{
        if (!c)
                return;
        cas_mutex_lock(&c->mutex);
        c->weight_max = 0;
        struct entry *all = evict_locked(c);
        cas_assert(cas_map_count(c->entries) == 0);
        cas_assert(c->dropped == NULL);
        cas_mutex_unlock(&c->mutex);
        destroy_all(c, all);
        cas_map_free(c->entries);
        (void)pthread_cond_destroy(&c->loaded);
        cas_mutex_release(&c->mutex);
        free(c);
}

static struct entry *add_entry_locked(struct ffs_cache *c, const struct ffs_cache_key *key)
{
        struct entry *e = cas_xcalloc(1, sizeof(*e));
        e->key = *key;
        *cas_map_put(c->entries, key, sizeof(*key), NULL) = (uintptr_t)e;
        return e;
}

/* Finds a loaded value or makes a loading entry: *mine says which. */
static struct entry *claim(struct ffs_cache *c, const struct ffs_cache_key *key, bool *mine)
{
        cas_mutex_lock(&c->mutex);
        struct entry *e;
        while ((e = find_locked(c, key)) && !e->value)
                cas_mutex_wait(&c->mutex, &c->loaded);
        *mine = e == NULL;
        if (!e)
                e = add_entry_locked(c, key);
        else if (e->users == 0)
                idle_unlink(c, e);
        e->users++;
        cas_mutex_unlock(&c->mutex);
        return e;
}

int ffs_cache_get(struct ffs_cache *c, const struct ffs_cache_key *key, ffs_cache_load load,
                  void *arg, void **value, struct cas_err *err)
{
        bool mine;
        struct entry *e = claim(c, key, &mine);
        if (!mine) {
                *value = e->value;
                return 0;
        }
        void *loaded = NULL;
        size_t weight = 0;
        int rc = load(arg, &loaded, &weight, err);
        struct entry *evicted = NULL;
        cas_mutex_lock(&c->mutex);
        if (rc < 0) {
                (void)cas_map_remove(c->entries, key, sizeof(*key));
        } else {
                e->value = loaded;
                e->weight = weight;
                c->weight += weight;
                evicted = evict_locked(c);
        }
        (void)pthread_cond_broadcast(&c->loaded);
        cas_mutex_unlock(&c->mutex);
        destroy_all(c, evicted);
        if (rc < 0) {
                free(e);
                return rc;
        }
        *value = loaded;
        return 0;
}

/* The entry whose value this is, which a user holds. */
static struct entry *entry_of_locked(struct ffs_cache *c, const struct ffs_cache_key *key,
                                     const void *value, struct entry ***link)
{
        struct entry *e = find_locked(c, key);
        if (e && e->value == value)
                return e;
        for (struct entry **p = &c->dropped; *p; p = &(*p)->next_dropped) {
                if ((*p)->value == value) {
                        *link = p;
                        return *p;
                }
        }
        return NULL;
}

void ffs_cache_put(struct ffs_cache *c, const struct ffs_cache_key *key, void *value)
{
        struct entry *gone = NULL;
        cas_mutex_lock(&c->mutex);
        struct entry **link = NULL;
        struct entry *e = entry_of_locked(c, key, value, &link);
        cas_assert(e != NULL);
        cas_assert(e->users > 0);
        e->users--;
        if (e->users == 0 && e->dropped) {
                *link = e->next_dropped;
                c->weight -= e->weight;
                e->older = NULL;
                gone = e;
        } else if (e->users == 0) {
                idle_push(c, e);
                gone = evict_locked(c);
        }
        cas_mutex_unlock(&c->mutex);
        destroy_all(c, gone);
}

void ffs_cache_add(struct ffs_cache *c, const struct ffs_cache_key *key, void *value, size_t weight)
{
        struct entry *gone = NULL;
        cas_mutex_lock(&c->mutex);
        bool known = find_locked(c, key) != NULL;
        if (!known) {
                struct entry *e = add_entry_locked(c, key);
                e->value = value;
                e->weight = weight;
                c->weight += weight;
                idle_push(c, e);
                gone = evict_locked(c);
        }
        cas_mutex_unlock(&c->mutex);
        destroy_all(c, gone);
        if (known)
                c->free_value(value);
}

void ffs_cache_trim(struct ffs_cache *c, size_t weight)
{
        cas_mutex_lock(&c->mutex);
        struct entry *gone = evict_to_locked(c, weight);
        cas_mutex_unlock(&c->mutex);
        destroy_all(c, gone);
}

void ffs_cache_sweep(struct ffs_cache *c, bool (*goes)(const void *value))
{
        struct entry *gone = NULL;
        cas_mutex_lock(&c->mutex);
        for (struct entry *e = c->oldest, *newer; e; e = newer) {
                newer = e->newer;
                if (!goes(e->value))
                        continue;
                idle_unlink(c, e);
                c->weight -= e->weight;
                (void)cas_map_remove(c->entries, &e->key, sizeof(e->key));
                e->older = gone;
                gone = e;
        }
        cas_mutex_unlock(&c->mutex);
        destroy_all(c, gone);
}

void ffs_cache_drop(struct ffs_cache *c, const struct ffs_cache_key *key)
{
        struct entry *gone = NULL;
        cas_mutex_lock(&c->mutex);
        struct entry *e = find_locked(c, key);
        if (e && e->value) {
                (void)cas_map_remove(c->entries, key, sizeof(*key));
                if (e->users == 0) {
                        idle_unlink(c, e);
                        c->weight -= e->weight;
                        gone = e;
                } else {
                        e->dropped = true;
                        e->next_dropped = c->dropped;
                        c->dropped = e;
                }
        }
        cas_mutex_unlock(&c->mutex);
        destroy_all(c, gone);
}

size_t ffs_cache_weight(struct ffs_cache *c)
{
        cas_mutex_lock(&c->mutex);
        size_t weight = c->weight;
        cas_mutex_unlock(&c->mutex);
        return weight;
}
