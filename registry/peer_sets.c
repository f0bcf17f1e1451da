/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/peer_sets.h"

#include "cas/assemble.h"
#include "cas/mutex.h"

enum set_state { SET_MADE, SET_BEING_MADE, SET_FAILED };

struct reg_peer_set {
        struct reg_peer_set *newer,
                *older; /* guarded by the sets' mutex, as are state, refs, linked */
        struct cas_digest layer;
        struct cas_hash listing, recipe;
        enum set_state state;
        unsigned refs;
        bool linked; /* in the list */

        /* Immutable once made. */
        struct reg_peer_parts parts;
        struct cas_hash *own; /* owned; what the recipe names itself, sorted */
        size_t own_count, own_alloc;
        size_t memory_bytes;
};

struct reg_peer_sets {
        size_t memory_max_bytes;
        struct cas_mutex mutex; /* guards all below */
        pthread_cond_t change;  /* a set was made, or could not be */
        struct reg_peer_set *newest, *oldest;
        size_t memory_bytes;
        unsigned count;
};

struct reg_peer_sets *reg_peer_sets_new(size_t memory_max_bytes)
{
        struct reg_peer_sets *sets = cas_xcalloc(1, sizeof(*sets));
        sets->memory_max_bytes = memory_max_bytes;
        cas_mutex_init(&sets->mutex, "peer sets");
        cas_cond_init(&sets->change);
        return sets;
}

static void set_free(struct reg_peer_set *set)
{
        reg_peer_parts_release(&set->parts);
        free(set->own);
        free(set);
}

static void link_locked(struct reg_peer_sets *sets, struct reg_peer_set *set)
{
        cas_assert_held(&sets->mutex);
        set->linked = true;
        set->newer = NULL;
        set->older = sets->newest;
        if (set->older)
                set->older->newer = set;
        else
                sets->oldest = set;
        sets->newest = set;
        sets->memory_bytes += set->memory_bytes;
        sets->count++;
}

static void unlink_locked(struct reg_peer_sets *sets, struct reg_peer_set *set)
{
        cas_assert_held(&sets->mutex);
        if (set->newer)
                set->newer->older = set->older;
        else
                sets->newest = set->older;
        if (set->older)
                set->older->newer = set->newer;
        else
                sets->oldest = set->newer;
        set->linked = false;
        sets->memory_bytes -= set->memory_bytes;
        sets->count--;
}

void reg_peer_sets_free(struct reg_peer_sets *sets)
{
        if (!sets)
                return;
        cas_mutex_lock(&sets->mutex);
        while (sets->newest) {
                struct reg_peer_set *set = sets->newest;
                cas_assert(set->refs == 0);
                unlink_locked(sets, set);
                set_free(set);
        }
        cas_mutex_unlock(&sets->mutex);
        (void)pthread_cond_destroy(&sets->change);
        cas_mutex_release(&sets->mutex);
        free(sets);
}

/* ---- making one ---- */

static int add_own(void *arg, const struct cas_hash *object, struct cas_err *err CAS_UNUSED)
{
        struct reg_peer_set *set = arg;
        if (set->own_count == set->own_alloc) {
                set->own_alloc = set->own_alloc ? 2 * set->own_alloc : 16;
                set->own = cas_xrealloc(set->own, set->own_alloc * sizeof(set->own[0]));
        }
        set->own[set->own_count++] = *object;
        return 0;
}

static int compare_hashes(const void *a, const void *b)
{
        return memcmp(a, b, CAS_HASH_BYTES);
}

static int make_set(struct reg_peer_set *set, struct cas_store *store,
                    const struct cas_layer_record *layer, struct cas_err *err)
{
        cas_cleanup_listing struct cas_listing listing = {0};
        int rc = cas_layer_listing(store, layer, &listing, err);
        if (rc == 0)
                rc = add_own(set, &set->listing, err);
        if (rc == 0 && !cas_hash_is_zero(&set->recipe)) {
                (void)add_own(set, &set->recipe, err);
                rc = cas_recipe_each_own_object(store, &set->recipe, add_own, set, err);
        }
        if (rc < 0)
                return rc;
        qsort(set->own, set->own_count, sizeof(set->own[0]), compare_hashes);
        reg_peer_parts_make(&listing, &set->parts);
        set->memory_bytes = sizeof(*set) + reg_peer_parts_memory(&set->parts) +
                            set->own_alloc * sizeof(set->own[0]);
        return 0;
}

/* ---- finding and keeping ---- */

static bool is_of(const struct reg_peer_set *set, const struct cas_layer_record *layer,
                  const struct cas_hash *recipe)
{
        return cas_digest_equal(&set->layer, &layer->blob) &&
               cas_hash_equal(&set->listing, &layer->listing) &&
               cas_hash_equal(&set->recipe, recipe);
}

static struct reg_peer_set *find_locked(struct reg_peer_sets *sets,
                                        const struct cas_layer_record *layer,
                                        const struct cas_hash *recipe)
{
        cas_assert_held(&sets->mutex);
        struct reg_peer_set *set = sets->newest;
        while (set && !is_of(set, layer, recipe))
                set = set->older;
        return set;
}

static void shrink_locked(struct reg_peer_sets *sets)
{
        cas_assert_held(&sets->mutex);
        struct reg_peer_set *set = sets->oldest;
        while (set && set != sets->newest && sets->memory_bytes > sets->memory_max_bytes) {
                struct reg_peer_set *newer = set->newer;
                if (set->refs == 0) {
                        unlink_locked(sets, set);
                        set_free(set);
                }
                set = newer;
        }
}

static void put_locked(struct reg_peer_sets *sets, struct reg_peer_set *set)
{
        cas_assert_held(&sets->mutex);
        cas_assert(set->refs > 0);
        if (--set->refs == 0 && !set->linked)
                set_free(set);
        else
                shrink_locked(sets);
}

/* Waits until whoever makes it has done so. False: could not; who asks tries by itself. */
static bool wait_made_locked(struct reg_peer_sets *sets, struct reg_peer_set *set)
{
        cas_assert_held(&sets->mutex);
        set->refs++;
        while (set->state == SET_BEING_MADE)
                cas_mutex_wait(&sets->mutex, &sets->change);
        if (set->state == SET_MADE) {
                if (set->linked) { /* used now */
                        unlink_locked(sets, set);
                        link_locked(sets, set);
                }
                return true;
        }
        put_locked(sets, set);
        return false;
}

static struct reg_peer_set *begin_locked(struct reg_peer_sets *sets,
                                         const struct cas_layer_record *layer,
                                         const struct cas_hash *recipe)
{
        struct reg_peer_set *set = cas_xcalloc(1, sizeof(*set));
        set->layer = layer->blob;
        set->listing = layer->listing;
        set->recipe = *recipe;
        set->state = SET_BEING_MADE;
        set->refs = 1;
        link_locked(sets, set);
        return set;
}

int reg_peer_sets_get(struct reg_peer_sets *sets, struct cas_store *store,
                      const struct cas_layer_record *layer, const struct cas_hash *recipe,
                      struct reg_peer_set **out, struct cas_err *err)
{
        struct reg_peer_set *set;
        cas_mutex_lock(&sets->mutex);
        while ((set = find_locked(sets, layer, recipe)) != NULL) {
                if (wait_made_locked(sets, set)) {
                        cas_mutex_unlock(&sets->mutex);
                        *out = set;
                        return 0;
                }
        }
        set = begin_locked(sets, layer, recipe);
        cas_mutex_unlock(&sets->mutex);
        int rc = make_set(set, store, layer, err);
        cas_mutex_lock(&sets->mutex);
        set->state = rc == 0 ? SET_MADE : SET_FAILED;
        (void)pthread_cond_broadcast(&sets->change);
        if (rc == 0) {
                sets->memory_bytes += set->memory_bytes; /* it had none when it was linked */
                shrink_locked(sets);
                *out = set;
        } else {
                set->memory_bytes = 0;
                unlink_locked(sets, set);
                put_locked(sets, set);
        }
        cas_mutex_unlock(&sets->mutex);
        return rc;
}

void reg_peer_sets_put(struct reg_peer_sets *sets, struct reg_peer_set *set)
{
        if (!set)
                return;
        cas_mutex_lock(&sets->mutex);
        put_locked(sets, set);
        cas_mutex_unlock(&sets->mutex);
}

bool reg_peer_set_has(const struct reg_peer_set *set, const struct cas_hash *id)
{
        return reg_peer_parts_find(&set->parts, id) != NULL ||
               bsearch(id, set->own, set->own_count, sizeof(set->own[0]), compare_hashes) != NULL;
}

const struct reg_peer_parts *reg_peer_set_parts(const struct reg_peer_set *set)
{
        return &set->parts;
}

unsigned reg_peer_sets_count(struct reg_peer_sets *sets)
{
        cas_mutex_lock(&sets->mutex);
        unsigned count = sets->count;
        cas_mutex_unlock(&sets->mutex);
        return count;
}
