/* SPDX-License-Identifier: Apache-2.0 */
/* Repair of trees: they are made again from their layers when they are wanted, so that a damaged
 * one only has to go. */
#include "cas/record_int.h"
#include "cas/repair_run_int.h"
#include "cas/tree_int.h"

struct tree_search {
        const struct cas_digest *tree;
        struct cas_hash *keys; /* owned: chains that come to this tree */
        size_t count, max;
};

static int note_key(void *arg, const void *key, size_t key_len, const void *value, size_t value_len,
                    struct cas_err *err CAS_UNUSED)
{
        struct tree_search *t = arg;
        struct cas_tree_record rec;
        struct cas_err malformed = CAS_ERR_INIT;
        if (key_len != CAS_HASH_BYTES ||
            cas_tree_record_decode(value, value_len, &rec, &malformed) < 0)
                return 0;
        free(rec.layers);
        if (!cas_digest_equal(&rec.tree, t->tree))
                return 0;
        if (t->count == t->max) {
                t->max = t->max ? 2 * t->max : 4;
                t->keys = cas_xrealloc(t->keys, t->max * sizeof(t->keys[0]));
        }
        memcpy(t->keys[t->count++].bytes, key, CAS_HASH_BYTES);
        return 0;
}

int cas_repair_tree(struct cas_repair *r, const struct cas_digest *tree, enum cas_repaired *out,
                    struct cas_err *err)
{
        struct tree_search t = {.tree = tree};
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_mutex_lock(&r->mutex);
        int rc = cas_index_scan(r->s->index, &(struct cas_scan){.family = CAS_FAMILY_TREES},
                                note_key, &t, err);
        for (size_t i = 0; rc == 0 && i < t.count; i++)
                rc = cas_tree_drop(r->s, &t.keys[i], tree, err);
        *out = t.count > 0 ? CAS_REPAIRED : CAS_NOT_NEEDED;
        free(t.keys);
        cas_mutex_unlock(&r->mutex);
        return rc < 0 ? cas_err_wrap(err, "repair tree %s", cas_digest_text(tree, text)) : 0;
}
