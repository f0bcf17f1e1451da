/* SPDX-License-Identifier: Apache-2.0 */
/* Packs as a mover sees them. */
#include "cas/tiers.h"

#include "cas/gc_int.h"
#include "cas/map.h"
#include "cas/packfile_int.h"
#include "cas/pace.h"

/* ---- what there is ---- */

/* Bytes that are dead, and not noted in the index yet. */
static uint64_t dead_in_memory(struct cas_packset *ps, uint64_t pack_id)
{
        struct cas_record_key key;
        cas_key_pack(pack_id, &key);
        cas_mutex_lock(&ps->mutex);
        const uint64_t *bytes = cas_map_get(ps->dead, key.bytes, key.len);
        uint64_t dead = bytes ? *bytes : 0;
        cas_mutex_unlock(&ps->mutex);
        return dead;
}

static int fill_info(struct cas_store *s, uint64_t pack_id, const struct cas_pack_record *rec,
                     struct cas_pack_info *out, struct cas_err *err)
{
        uint64_t dead;
        int rc = cas_pack_dead_get(s->index, pack_id, &dead, err);
        if (rc < 0)
                return rc;
        dead += dead_in_memory(s->packset, pack_id);
        *out = (struct cas_pack_info){.pack_id = pack_id,
                                      .tier = rec->tier,
                                      .density = rec->density,
                                      .sealed = rec->sealed,
                                      .open = cas_packset_is_open(s->packset, pack_id),
                                      .size_bytes = rec->size_bytes,
                                      .dead_bytes = cas_min_u64(dead, rec->size_bytes)};
        return 0;
}

int cas_pack_stat(struct cas_store *s, uint64_t pack_id, struct cas_pack_info *out,
                  struct cas_err *err)
{
        struct cas_pack_record rec;
        int rc = cas_index_get_pack(s->index, pack_id, &rec, err);
        return rc < 0 ? rc : fill_info(s, pack_id, &rec, out, err);
}

struct pack_list {
        struct known_pack {
                uint64_t pack_id;
                struct cas_pack_record rec;
        } * list; /* owned */
        size_t count, max;
};

static bool note_pack(void *arg, uint64_t pack_id, const struct cas_pack_record *rec)
{
        struct pack_list *l = arg;
        if (l->count == l->max) {
                l->max = l->max ? 2 * l->max : 64;
                l->list = cas_xrealloc(l->list, l->max * sizeof(l->list[0]));
        }
        l->list[l->count++] = (struct known_pack){.pack_id = pack_id, .rec = *rec};
        return true;
}

int cas_pack_each(struct cas_store *s, bool (*fn)(void *arg, const struct cas_pack_info *pack),
                  void *arg, struct cas_err *err)
{
        struct pack_list l = {0};
        bool goes_on = true;
        int rc = cas_index_each_pack(s->index, note_pack, &l, err);
        cas_cleanup_free void *owned = l.list;
        for (size_t i = 0; rc == 0 && goes_on && i < l.count; i++) {
                struct cas_pack_info info;
                rc = fill_info(s, l.list[i].pack_id, &l.list[i].rec, &info, err);
                if (rc == 0)
                        goes_on = fn(arg, &info);
        }
        return rc;
}

/* ---- moving ---- */

static bool goes_on(void *arg)
{
        const struct cas_pack_move_options *o = arg;
        return !o->stop || !o->stop(o->stop_arg);
}

static int move_recoded(struct cas_store *s, uint64_t pack_id, enum cas_pack_density density,
                        const struct cas_pack_move_options *o, struct cas_pack_move_result *out,
                        struct cas_err *err)
{
        struct cas_pack_move_options options = *o;
        const struct cas_recode_hooks hooks = {.yield = goes_on, .arg = &options, .pace = o->pace};
        struct cas_recode_result result = {0};
        if (!cas_packset_is_quiet(s->packset, pack_id))
                return cas_fail(err, CAS_E_BUSY, "pack %016llx is in use",
                                (unsigned long long)pack_id);
        struct cas_recoder *r = cas_recoder_new(s->packset, density, o->to, &hooks);
        int rc = cas_recoder_pack(r, pack_id, err);
        if (rc == 0)
                rc = cas_recoder_finish(r, &result, err);
        cas_recoder_free(r);
        if (rc < 0)
                return rc;
        if (result.packs == 0)
                return cas_fail(err, CAS_E_BUSY, "pack %016llx is in use",
                                (unsigned long long)pack_id);
        out->bytes_after = result.bytes_after;
        out->recoded = true;
        return 0;
}

static int check_target(struct cas_store *s, uint32_t tier, struct cas_tier_info *out,
                        struct cas_err *err)
{
        int rc = s->backend->ops->tier_info(s->backend, tier, out, err);
        if (rc < 0)
                return rc;
        if (!out->reachable)
                return cas_fail(err, CAS_E_IO, "tier %s cannot be reached", out->name);
        if (!out->writable)
                return cas_fail(err, CAS_E_UNSUPPORTED, "nothing new goes to tier %s", out->name);
        return 0;
}

int cas_pack_move(struct cas_store *s, uint64_t pack_id, const struct cas_pack_move_options *o,
                  struct cas_pack_move_result *out, struct cas_err *err)
{
        struct cas_tier_info to;
        struct cas_pack_record rec;
        bool as_it_is = true;
        *out = (struct cas_pack_move_result){0};
        int rc = check_target(s, o->to, &to, err);
        if (rc == 0)
                rc = cas_index_get_pack(s->index, pack_id, &rec, err);
        if (rc < 0)
                return rc;
        out->bytes_before = out->bytes_after = rec.size_bytes;
        bool denser = !o->as_it_is && to.density > rec.density;
        if (rec.tier == o->to && !denser)
                return 0;
        if (denser)
                return move_recoded(s, pack_id, (enum cas_pack_density)to.density, o, out, err);
        rc = cas_packset_move(s->packset, pack_id, o, &out->bytes_after, &as_it_is, err);
        if (rc == 0 && !as_it_is)
                rc = move_recoded(s, pack_id, (enum cas_pack_density)rec.density, o, out, err);
        return rc;
}
