/* SPDX-License-Identifier: Apache-2.0 */
/* Tiers in buckets: opened when they are first spoken to, so that one that does not answer keeps
 * nobody from opening the store. */
#include <stdio.h>

#include "tiering/tierset_int.h"

#define BUCKET_RETRY_NS UINT64_C(10000000000) /* one that did not answer is left alone so long */

static int bucket_open(struct tier_set *set, struct tier *t, struct tier_bucket **out,
                       struct cas_err *err)
{
        const struct tier_bucket_config config = {
                .s3 = t->config.s3, .store_id = set->store_id, .tier = t->id, .name = t->name};
        struct tier_bucket *bucket = NULL;
        int rc = tier_bucket_open(&config, &bucket, err);
        cas_mutex_lock(&set->mutex);
        bool refused = rc == -CAS_E_DENIED || rc == -CAS_E_NOTFOUND;
        t->state = rc == 0 ? TIER_OK : refused ? TIER_REFUSED : TIER_FAILED;
        (void)snprintf(t->why, sizeof(t->why), "%s", rc == 0 ? "" : err->msg);
        t->bucket_tried_ns = rc == 0 ? 0 : tier_now_ns();
        t->bucket = bucket;
        cas_mutex_unlock(&set->mutex);
        if (refused)
                err->code = CAS_E_IO; /* its packs cannot be read; they are not gone */
        *out = bucket;
        return rc == 0 ? 0 : cas_err_wrap(err, "tier %s", t->name);
}

int tier_bucket_of(struct tier_set *set, uint32_t id, struct tier_bucket **out, struct cas_err *err)
{
        int rc = 0;
        cas_mutex_lock(&set->mutex);
        struct tier *t = tier_by_id_locked(set, id);
        *out = t ? t->bucket : NULL;
        if (!t || tier_is_local(t))
                rc = cas_fail(err, CAS_E_UNSUPPORTED, "no tier %u in a bucket", id);
        else if (!*out && t->bucket_tried_ns &&
                 tier_now_ns() - t->bucket_tried_ns < BUCKET_RETRY_NS)
                rc = cas_fail(err, CAS_E_IO, "tier %s: %s", t->name, t->why);
        cas_mutex_unlock(&set->mutex);
        if (rc < 0 || *out)
                return rc;
        cas_mutex_lock(&set->changing);
        *out = t->bucket; /* another thread may have been faster */
        if (!*out)
                rc = bucket_open(set, t, out, err);
        cas_mutex_unlock(&set->changing);
        return rc;
}

/* ---- the operations remote_* of cas/backend.h ---- */

int tier_remote_put(struct tier_set *set, uint32_t tier, const struct cas_pack_file *pack, int fd,
                    struct cas_err *err)
{
        struct tier_bucket *bucket;
        int rc = tier_bucket_of(set, tier, &bucket, err);
        if (rc == 0)
                rc = tier_room_take(set, tier, pack->size_bytes, true, err);
        if (rc < 0)
                return rc;
        rc = tier_bucket_put(bucket, pack, fd, err);
        if (rc < 0)
                tier_room_give(set, tier, pack->size_bytes, true);
        return rc;
}

int tier_remote_get(struct tier_set *set, uint32_t tier, const struct cas_pack_file *pack, int fd,
                    struct cas_err *err)
{
        struct tier_bucket *bucket;
        int rc = tier_bucket_of(set, tier, &bucket, err);
        return rc < 0 ? rc : tier_bucket_get(bucket, pack, fd, err);
}

int tier_remote_delete(struct tier_set *set, uint32_t tier, const struct cas_pack_file *pack,
                       struct cas_err *err)
{
        struct tier_bucket *bucket;
        int rc = tier_bucket_of(set, tier, &bucket, err);
        if (rc == 0)
                rc = tier_bucket_delete(bucket, pack, err);
        if (rc == 0)
                tier_room_give(set, tier, pack->size_bytes, true);
        return rc;
}

int tier_remote_each(struct tier_set *set, uint32_t tier,
                     int (*fn)(void *arg, const struct cas_pack_file *pack, struct cas_err *err),
                     void *arg, struct cas_err *err)
{
        struct tier_bucket *bucket;
        int rc = tier_bucket_of(set, tier, &bucket, err);
        return rc < 0 ? rc : tier_bucket_each(bucket, fn, arg, err);
}
