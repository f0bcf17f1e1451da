/* SPDX-License-Identifier: Apache-2.0 */
/* Where the chain of an image is cut (spec/tree.md, "Flat and stacked"): which
 * prefixes of layers do several chains of this store's trees begin with? The
 * answer comes from the trees' records, read once while the store is open. */
#include "cas/map.h"
#include "cas/record_int.h"
#include "cas/store_int.h"
#include "cas/tree_int.h"

/* A base must hold at least this share of the chain's entries: names are looked up in both
 * trees, so a small one does not pay. */
#define CUT_ENTRIES_PERCENT_MIN 25

/* The value of a prefix that several chains begin with. */
#define MANY UINT64_MAX

struct cas_tree_prefixes {
        struct cas_mutex mutex; /* "store.prefixes", a leaf */
        struct cas_map *chains; /* NULL: not read yet. Prefix -> its chain, or MANY */
};

struct cas_tree_prefixes *cas_tree_prefixes_new(void)
{
        struct cas_tree_prefixes *p = cas_xcalloc(1, sizeof(*p));
        cas_mutex_init(&p->mutex, "store.prefixes");
        return p;
}

void cas_tree_prefixes_free(struct cas_tree_prefixes *p)
{
        if (!p)
                return;
        cas_map_free(p->chains);
        cas_mutex_release(&p->mutex);
        free(p);
}

/* The name of a chain of blobs: that of the chain below it, and its topmost blob. */
static void prefix_extend(struct cas_hash *prefix, const struct cas_digest *layer)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        cas_buf_append(&text, prefix->bytes, sizeof(prefix->bytes));
        cas_digest_append(&text, layer);
        cas_sha256(text.data, text.len_bytes, prefix);
}

static uint64_t chain_id(const struct cas_digest *layers, size_t count)
{
        struct cas_hash whole = {0};
        for (size_t i = 0; i < count; i++)
                prefix_extend(&whole, &layers[i]);
        return cas_get_le64(whole.bytes) & ~(UINT64_C(1) << 63); /* never 0 in practice, nor MANY */
}

static void note_chain(struct cas_map *chains, const struct cas_digest *layers, size_t count)
{
        uint64_t id = chain_id(layers, count);
        struct cas_hash prefix = {0};
        for (size_t i = 0; i < count; i++) {
                bool inserted;
                prefix_extend(&prefix, &layers[i]);
                uint64_t *value = cas_map_put(chains, &prefix, sizeof(prefix), &inserted);
                if (inserted)
                        *value = id;
                else if (*value != id)
                        *value = MANY;
        }
}

void cas_tree_prefixes_note(struct cas_tree_prefixes *p, const struct cas_digest *layers,
                            size_t count)
{
        cas_mutex_lock(&p->mutex);
        if (p->chains)
                note_chain(p->chains, layers, count);
        cas_mutex_unlock(&p->mutex);
}

static int note_record(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                       const void *value, size_t value_len, struct cas_err *err)
{
        struct cas_tree_record rec;
        if (cas_tree_record_decode(value, value_len, &rec, err) < 0)
                return -(int)err->code;
        note_chain(arg, rec.layers, rec.layer_count);
        free(rec.layers);
        return 0;
}

static int read_prefixes_locked(struct cas_store *s, struct cas_tree_prefixes *p,
                                struct cas_err *err)
{
        cas_assert_held(&p->mutex);
        if (p->chains)
                return 0;
        cas_cleanup_map struct cas_map *chains = cas_map_new();
        const struct cas_scan all = {.family = CAS_FAMILY_TREES};
        if (cas_index_scan(s->index, &all, note_record, chains, err) < 0)
                return cas_err_wrap(err, "trees");
        p->chains = cas_steal(&chains);
        return 0;
}

/* The longest proper prefix that another chain begins with too; 0: none. */
static int shared_prefix(struct cas_store *s, const struct cas_layer_record *layers, size_t count,
                         size_t *out, struct cas_err *err)
{
        cas_cleanup_free struct cas_digest *blobs = cas_xcalloc(count + 1, sizeof(blobs[0]));
        for (size_t i = 0; i < count; i++)
                blobs[i] = layers[i].blob;
        uint64_t id = chain_id(blobs, count);
        struct cas_tree_prefixes *p = cas_trees_prefixes(s->trees);
        struct cas_hash prefix = {0};
        cas_mutex_lock(&p->mutex);
        int rc = read_prefixes_locked(s, p, err);
        *out = 0;
        for (size_t i = 0; rc == 0 && i + 1 < count; i++) {
                prefix_extend(&prefix, &blobs[i]);
                const uint64_t *value = cas_map_get(p->chains, &prefix, sizeof(prefix));
                if (value && *value != id)
                        *out = i + 1;
        }
        cas_mutex_unlock(&p->mutex);
        return rc;
}

static bool pays(const struct cas_layer_record *layers, size_t count, size_t base_count)
{
        uint64_t base = 0, all = 0;
        for (size_t i = 0; i < count; i++) {
                all += layers[i].entry_count;
                if (i < base_count)
                        base += layers[i].entry_count;
        }
        return base > 0 && base * 100 >= all * CUT_ENTRIES_PERCENT_MIN;
}

/* *found: the chain has trees already, cut there. */
static int find_cut(struct cas_store *s, const struct cas_layer_record *layers, size_t count,
                    size_t *out, bool *found, struct cas_err *err)
{
        struct cas_tree_chain chain = {.layers = layers, .count = count};
        *found = false;
        for (size_t base = 0; base == 0 || base < count; base++) {
                struct cas_hash key;
                chain.base_count = base;
                cas_tree_key(&chain, &key);
                if (cas_index_has(s->index, CAS_FAMILY_TREES, key.bytes, CAS_HASH_BYTES, found,
                                  err) < 0)
                        return -(int)err->code;
                *out = base;
                if (*found)
                        return 0;
        }
        return 0;
}

int cas_tree_choose_cut(struct cas_store *s, const struct cas_layer_record *layers, size_t count,
                        size_t *out_base_count, struct cas_err *err)
{
        bool found;
        if (find_cut(s, layers, count, out_base_count, &found, err) < 0)
                return -(int)err->code;
        if (found)
                return 0;
        if (shared_prefix(s, layers, count, out_base_count, err) < 0)
                return -(int)err->code;
        if (!pays(layers, count, *out_base_count))
                *out_base_count = 0;
        return 0;
}
