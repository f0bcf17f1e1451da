/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/blockcache.h"

#include "cas/limits.h"
#include "cas/mutex.h"

#define BUCKETS 1024

/* The checksum is in the key: whatever a stale extent says, it cannot meet
 * another block's bytes. */
struct key {
        uint64_t pack_id, block_offset, checksum;
};

struct entry {
        struct cas_block block; /* first: what callers hold */
        struct key key;
        uint8_t *data;      /* owned */
        unsigned ref_count; /* callers, and the table while it is listed */
        bool loading;       /* one thread reads it; others wait */
        bool listed;        /* in the table */
        struct entry *next_in_bucket;
        struct entry *newer, *older; /* while listed */
};

struct cas_blockcache {
        struct cas_mutex mutex; /* guards all below but the data of loaded blocks */
        pthread_cond_t loaded;
        size_t max_bytes, bytes;
        struct entry *newest, *oldest;
        struct entry *buckets[BUCKETS];
};

struct cas_blockcache *cas_blockcache_new(size_t max_bytes)
{
        struct cas_blockcache *c = cas_xcalloc(1, sizeof(*c));
        cas_mutex_init(&c->mutex, "blockcache");
        cas_cond_init(&c->loaded);
        c->max_bytes = max_bytes;
        return c;
}

static struct key key_of(const struct cas_extent *e)
{
        return (struct key){.pack_id = e->pack_id,
                            .block_offset = e->block_offset,
                            .checksum = e->block_checksum};
}

static struct entry **bucket_of(struct cas_blockcache *c, const struct key *key)
{
        uint64_t mixed =
                (key->pack_id ^ key->block_offset * UINT64_C(0x9e3779b97f4a7c15)) + key->checksum;
        return &c->buckets[(mixed ^ mixed >> 32) % BUCKETS];
}

static void unref_locked(struct cas_blockcache *c, struct entry *e)
{
        cas_assert_held(&c->mutex);
        cas_assert(e->ref_count > 0);
        if (--e->ref_count > 0)
                return;
        free(e->data);
        free(e);
}

static void lru_remove_locked(struct cas_blockcache *c, struct entry *e)
{
        cas_assert_held(&c->mutex);
        *(e->newer ? &e->newer->older : &c->newest) = e->older;
        *(e->older ? &e->older->newer : &c->oldest) = e->newer;
        e->newer = e->older = NULL;
}

static void lru_push_locked(struct cas_blockcache *c, struct entry *e)
{
        cas_assert_held(&c->mutex);
        e->newer = NULL;
        e->older = c->newest;
        *(c->newest ? &c->newest->newer : &c->oldest) = e;
        c->newest = e;
}

static void list_locked(struct cas_blockcache *c, struct entry *e)
{
        struct entry **bucket = bucket_of(c, &e->key);
        e->next_in_bucket = *bucket;
        *bucket = e;
        e->listed = true;
        e->ref_count++;
        c->bytes += e->block.length_bytes;
        lru_push_locked(c, e);
}

static void unlist_locked(struct cas_blockcache *c, struct entry *e)
{
        struct entry **link = bucket_of(c, &e->key);
        while (*link != e)
                link = &(*link)->next_in_bucket;
        *link = e->next_in_bucket;
        e->listed = false;
        c->bytes -= e->block.length_bytes;
        lru_remove_locked(c, e);
        unref_locked(c, e);
}

/* Drops what nobody uses, oldest first, until the rest fits. */
static void shrink_locked(struct cas_blockcache *c)
{
        cas_assert_held(&c->mutex);
        for (struct entry *e = c->oldest; e && c->bytes > c->max_bytes;) {
                struct entry *newer = e->newer;
                if (e->ref_count == 1 && !e->loading)
                        unlist_locked(c, e);
                e = newer;
        }
}

void cas_blockcache_clear(struct cas_blockcache *c)
{
        cas_mutex_lock(&c->mutex);
        size_t max_bytes = c->max_bytes;
        c->max_bytes = 0;
        shrink_locked(c);
        c->max_bytes = max_bytes;
        cas_mutex_unlock(&c->mutex);
}

void cas_blockcache_free(struct cas_blockcache *c)
{
        if (!c)
                return;
        cas_blockcache_clear(c);
        cas_assert(c->bytes == 0);
        (void)pthread_cond_destroy(&c->loaded);
        cas_mutex_release(&c->mutex);
        free(c);
}

static bool key_equal(const struct key *a, const struct key *b)
{
        return a->pack_id == b->pack_id && a->block_offset == b->block_offset &&
               a->checksum == b->checksum;
}

/* With a reference, waiting while another thread reads it; NULL when it is not there. */
static struct entry *find_locked(struct cas_blockcache *c, const struct cas_extent *extent)
{
        struct key key = key_of(extent);
        for (;;) {
                struct entry *e = *bucket_of(c, &key);
                while (e && (!key_equal(&e->key, &key) ||
                             e->block.length_bytes != extent->block_raw_bytes))
                        e = e->next_in_bucket;
                if (!e)
                        return NULL;
                if (!e->loading) {
                        lru_remove_locked(c, e);
                        lru_push_locked(c, e);
                        e->ref_count++;
                        return e;
                }
                cas_mutex_wait(&c->mutex, &c->loaded);
        }
}

struct cas_block *cas_blockcache_find(struct cas_blockcache *c, const struct cas_extent *extent)
{
        cas_mutex_lock(&c->mutex);
        struct entry *e = find_locked(c, extent);
        cas_mutex_unlock(&c->mutex);
        return e ? &e->block : NULL;
}

/* A listed entry that this thread must now load, with its reference. */
static int entry_new_locked(struct cas_blockcache *c, const struct cas_extent *extent,
                            struct entry **out, struct cas_err *err)
{
        if (extent->block_raw_bytes > CAS_BLOCK_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a block of %u bytes", extent->block_raw_bytes);
        uint8_t *data = malloc(extent->block_raw_bytes ? extent->block_raw_bytes : 1);
        if (!data)
                return cas_fail(err, CAS_E_NOMEM, "no memory for a block of %u bytes",
                                extent->block_raw_bytes);
        struct entry *e = cas_xcalloc(1, sizeof(*e));
        e->data = data;
        e->block = (struct cas_block){.data = data, .length_bytes = extent->block_raw_bytes};
        e->key = key_of(extent);
        e->ref_count = 1;
        e->loading = true;
        list_locked(c, e);
        shrink_locked(c);
        *out = e;
        return 0;
}

int cas_blockcache_get(struct cas_blockcache *c, int pack_fd, const struct cas_extent *extent,
                       struct cas_block **out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf scratch = CAS_BUF_INIT;
        cas_mutex_lock(&c->mutex);
        struct entry *e = find_locked(c, extent);
        if (e) {
                cas_mutex_unlock(&c->mutex);
                *out = &e->block;
                return 0;
        }
        int rc = entry_new_locked(c, extent, &e, err);
        cas_mutex_unlock(&c->mutex);
        if (rc < 0)
                return rc;
        rc = cas_block_read(pack_fd, extent, e->data, &scratch, err);
        cas_mutex_lock(&c->mutex);
        e->loading = false;
        if (rc < 0) {
                unlist_locked(c, e); /* those who wait try for themselves */
                unref_locked(c, e);
        }
        (void)pthread_cond_broadcast(&c->loaded);
        cas_mutex_unlock(&c->mutex);
        if (rc == 0)
                *out = &e->block;
        return rc;
}

void cas_blockcache_put(struct cas_blockcache *c, struct cas_block *block)
{
        struct entry *e = (struct entry *)block;
        cas_mutex_lock(&c->mutex);
        unref_locked(c, e);
        shrink_locked(c);
        cas_mutex_unlock(&c->mutex);
}
