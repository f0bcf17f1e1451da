/* SPDX-License-Identifier: Apache-2.0 */
/* Packs on remote tiers that were put and never told of: what moves that broke off have left. */
#include "cas/gc_int.h"

#include "cas/log.h"
#include "cas/packfile_int.h"

#define US_PER_S 1000000

struct stray {
        struct cas_pack_file file;
        uint32_t tier;
};
struct strays {
        struct cas_gc_run *gc;
        uint32_t tier;      /* that is listed */
        struct stray *list; /* owned */
        size_t count, max;
};

static int is_home_copy(struct cas_gc_run *gc, const struct stray *stray, bool *out,
                        struct cas_err *err)
{
        struct cas_pack_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_index_get_pack(gc->s->index, stray->file.pack_id, &rec, &miss);
        *out = rc == 0 && rec.tier == stray->tier &&
               cas_hash_equal(&rec.sha256, &stray->file.sha256);
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}

/* Ids follow the clock: where nobody knows when it was put, a pack is as old as its id. */
static bool is_young(struct cas_gc_run *gc, const struct cas_pack_file *file)
{
        const int64_t put = file->put_unix_s;
        return cas_gc_is_young(gc, put > 0 ? (uint64_t)put : file->pack_id / US_PER_S);
}

static int look_at_pack(void *arg, const struct cas_pack_file *file, struct cas_err *err)
{
        struct strays *s = arg;
        const struct stray stray = {.file = *file, .tier = s->tier};
        bool is_home = false;
        if (is_young(s->gc, file))
                return 0;
        int rc = is_home_copy(s->gc, &stray, &is_home, err);
        if (rc < 0 || is_home)
                return rc;
        if (s->count == s->max) {
                s->max = s->max ? 2 * s->max : 64;
                s->list = cas_xrealloc(s->list, s->max * sizeof(s->list[0]));
        }
        s->list[s->count++] = stray;
        return 0;
}

static int list_tier(void *arg, const struct cas_tier_info *tier, int dirfd CAS_UNUSED,
                     struct cas_err *err CAS_UNUSED)
{
        struct strays *s = arg;
        struct cas_backend *backend = s->gc->s->backend;
        struct cas_err why = CAS_ERR_INIT;
        if (!tier->remote || !tier->reachable || tier->shared)
                return 0;
        s->tier = tier->tier;
        if (backend->ops->remote_each(backend, tier->tier, look_at_pack, s, &why) < 0)
                cas_log(CAS_LOG_WARN, "gc", "tier=%s error=\"%s\"", tier->name, why.msg);
        return 0;
}

/* With the pack claimed, nobody moves it there meanwhile and counts on what is there. */
static int remove_stray(struct cas_gc_run *gc, const struct stray *stray, struct cas_err *err)
{
        struct cas_packset *ps = gc->s->packset;
        const struct cas_pack_record rec = {.tier = stray->tier,
                                            .size_bytes = stray->file.size_bytes,
                                            .sha256 = stray->file.sha256};
        struct cas_err why = CAS_ERR_INIT;
        struct cas_pack_claim claim;
        bool is_home;
        if (!cas_packset_claim(ps, stray->file.pack_id, &claim))
                return 0;
        int rc = is_home_copy(gc, stray, &is_home, err);
        if (rc == 0 && !is_home) {
                if (cas_packset_unlink_copy(ps, stray->file.pack_id, &rec, &why) < 0)
                        cas_log(CAS_LOG_WARN, "gc", "left=\"%s\"", why.msg);
                else
                        gc->out->bytes_freed += stray->file.size_bytes;
        }
        cas_packset_unclaim(ps, &claim, false);
        return rc;
}

int cas_gc_remote_packs(struct cas_gc_run *gc, struct cas_err *err)
{
        struct strays s = {.gc = gc};
        struct cas_backend *backend = gc->s->backend;
        int rc = backend->ops->tier_each(backend, list_tier, &s, err);
        for (size_t i = 0; rc == 0 && i < s.count && cas_gc_goes_on(gc); i++) {
                if (gc->trial)
                        gc->out->bytes_freed += s.list[i].file.size_bytes;
                else
                        rc = remove_stray(gc, &s.list[i], err);
        }
        free(s.list);
        return rc;
}
