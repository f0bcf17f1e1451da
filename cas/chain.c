/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/chain_int.h"

#include "cas/record_int.h"
#include "cas/store_int.h"

#define ID_BYTES 16
/* Images noted for one beginning: two tell all there is to know, a few more outlive removals. */
#define NOTES_MAX 4

enum note_kind { NOTE_STANDS = 's', NOTE_UNFIT = 'u' };

/* A beginning of a chain, or all of it: by the hash of its diff_ids. */
struct chain_id {
        uint8_t bytes[ID_BYTES];
};

struct chain_key {
        uint8_t kind;
        struct chain_id beginning, whole;
};
_Static_assert(sizeof(struct chain_key) == 1 + 2 * ID_BYTES, "a key without padding");

/* ids[k] is of the first k + 1 layers. Owned by the caller. */
static struct chain_id *chain_ids(const struct cas_digest *diff_ids, size_t count)
{
        struct chain_id *ids = cas_xcalloc(count + 1, sizeof(*ids));
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(CAS_DIGEST_SHA256);
        for (size_t i = 0; i < count; i++) {
                struct cas_digest so_far;
                cas_hasher_update(hasher, &diff_ids[i].alg, 1);
                cas_hasher_update(hasher, diff_ids[i].bytes, cas_digest_alg_bytes(diff_ids[i].alg));
                cas_hasher_peek(hasher, &so_far);
                memcpy(ids[i].bytes, so_far.bytes, ID_BYTES);
        }
        return ids;
}

struct look {
        struct cas_store *s;
        const struct chain_id *whole;
        unsigned seen;
        bool other; /* another chain, of a manifest that is still there */
        bool mine;
};

static int look_one(void *arg, const void *key, size_t key_len, const void *value, size_t value_len,
                    struct cas_err *err)
{
        struct look *l = arg;
        struct chain_key k;
        struct cas_digest manifest;
        struct cas_record_key blob;
        bool here = false;
        if (key_len != sizeof(k) || !cas_chain_manifest(value, value_len, &manifest))
                return 0;
        memcpy(&k, key, sizeof(k));
        cas_key_digest(&manifest, &blob);
        int r = cas_index_has(l->s->index, CAS_FAMILY_BLOBS, blob.bytes, blob.len, &here, err);
        if (r < 0 || !here)
                return r;
        if (memcmp(&k.whole, l->whole, sizeof(k.whole)) == 0)
                l->mine = true;
        else
                l->other = true;
        return ++l->seen > NOTES_MAX;
}

static int look_at(struct cas_store *s, const struct chain_id *beginning,
                   const struct chain_id *whole, struct look *out, struct cas_err *err)
{
        struct chain_key key = {.kind = NOTE_STANDS, .beginning = *beginning};
        struct cas_scan scan = {
                .family = CAS_FAMILY_CHAINS, .prefix = &key, .prefix_len = 1 + ID_BYTES};
        *out = (struct look){.s = s, .whole = whole};
        return cas_index_scan(s->index, &scan, look_one, out, err);
}

int cas_chain_note(struct cas_store *s, struct cas_batch *batch, const struct cas_digest *diff_ids,
                   size_t count, const struct cas_digest *manifest, struct cas_err *err)
{
        if (count == 0)
                return 0;
        cas_cleanup_free struct chain_id *ids = chain_ids(diff_ids, count);
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        cas_digest_append(&value, manifest);
        for (size_t i = 0; i < count; i++) {
                struct look l;
                int r = look_at(s, &ids[i], &ids[count - 1], &l, err);
                if (r < 0)
                        return r;
                if (l.mine || l.seen >= NOTES_MAX)
                        continue;
                struct chain_key key = {
                        .kind = NOTE_STANDS, .beginning = ids[i], .whole = ids[count - 1]};
                cas_batch_put(batch, CAS_FAMILY_CHAINS, &key, sizeof(key), value.data,
                              value.len_bytes);
        }
        return 0;
}

int cas_chain_forget(struct cas_index *ix, struct cas_batch *batch,
                     const struct cas_digest *diff_ids, size_t count,
                     const struct cas_digest *manifest, struct cas_err *err)
{
        cas_cleanup_free struct chain_id *ids = chain_ids(diff_ids, count);
        for (size_t i = 0; i < count; i++) {
                cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
                struct cas_err miss = CAS_ERR_INIT;
                struct cas_digest noted;
                struct chain_key key = {
                        .kind = NOTE_STANDS, .beginning = ids[i], .whole = ids[count - 1]};
                int r = cas_index_get(ix, CAS_FAMILY_CHAINS, &key, sizeof(key), &value, &miss);
                if (r < 0 && r != -CAS_E_NOTFOUND) {
                        *err = miss;
                        return r;
                }
                if (r == 0 && cas_chain_manifest(value.data, value.len_bytes, &noted) &&
                    cas_digest_equal(&noted, manifest))
                        cas_batch_del(batch, CAS_FAMILY_CHAINS, &key, sizeof(key));
        }
        return 0;
}

int cas_chain_cut(struct cas_store *s, const struct cas_digest *diff_ids, size_t count,
                  size_t *out_base_count, struct cas_err *err)
{
        cas_cleanup_free struct chain_id *ids = chain_ids(diff_ids, count);
        *out_base_count = 0;
        for (size_t base = count; base-- > 1;) {
                struct look l;
                bool unfit = false;
                int r = look_at(s, &ids[base - 1], &ids[count - 1], &l, err);
                if (r < 0)
                        return r;
                if (!l.other)
                        continue;
                struct chain_key key = {
                        .kind = NOTE_UNFIT, .beginning = ids[base - 1], .whole = ids[count - 1]};
                r = cas_index_has(s->index, CAS_FAMILY_CHAINS, &key, sizeof(key), &unfit, err);
                if (r < 0)
                        return r;
                if (!unfit) {
                        *out_base_count = base;
                        return 0;
                }
        }
        return 0;
}

int cas_chain_note_unfit(struct cas_store *s, const struct cas_digest *diff_ids, size_t count,
                         size_t base_count, struct cas_err *err)
{
        cas_assert(base_count > 0);
        cas_assert(base_count < count);
        cas_cleanup_free struct chain_id *ids = chain_ids(diff_ids, count);
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        struct chain_key key = {
                .kind = NOTE_UNFIT, .beginning = ids[base_count - 1], .whole = ids[count - 1]};
        cas_batch_put(batch, CAS_FAMILY_CHAINS, &key, sizeof(key), "", 0);
        return cas_index_write(s->index, batch, err);
}

bool cas_chain_manifest(const void *value, size_t value_len, struct cas_digest *out)
{
        struct cas_err ignored = CAS_ERR_INIT;
        return cas_digest_value_decode(value, value_len, out, &ignored) == 0;
}
