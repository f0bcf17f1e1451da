/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/lease.h"

#include "cas/record_int.h"
#include "cas/store_int.h"

int cas_lease_put(struct cas_store *s, const struct cas_lease *lease, struct cas_err *err)
{
        size_t id_len = strnlen(lease->id, sizeof(lease->id));
        if (id_len == 0 || id_len == sizeof(lease->id) ||
            strnlen(lease->owner, sizeof(lease->owner)) == sizeof(lease->owner) ||
            cas_digest_alg_bytes(lease->root.alg) == 0)
                return cas_fail(err, CAS_E_INVALID, "lease: no id, no root or too long a text");
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_lease_encode(lease, &value);
        cas_batch_put(batch, CAS_FAMILY_LEASES, lease->id, id_len, value.data, value.len_bytes);
        /* Before a collection or after it: who takes a lease first and looks then finds what
         * stays. */
        cas_store_shared_begin(s);
        int rc = cas_index_write(s->index, batch, err);
        cas_store_shared_end(s);
        return rc;
}

int cas_lease_drop(struct cas_store *s, const char *id, struct cas_err *err)
{
        size_t len = strlen(id);
        if (len == 0 || len >= sizeof(((struct cas_lease *)0)->id))
                return 0;
        bool there;
        int rc = cas_index_has(s->index, CAS_FAMILY_LEASES, id, len, &there, err);
        if (rc < 0 || !there)
                return rc;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_batch_del(batch, CAS_FAMILY_LEASES, id, len);
        return cas_index_write(s->index, batch, err);
}

struct lease_scan {
        bool (*fn)(void *arg, const struct cas_lease *lease);
        void *arg;
};

static int scan_lease(void *arg, const void *key, size_t key_len, const void *value,
                      size_t value_len, struct cas_err *err)
{
        const struct lease_scan *scan = arg;
        struct cas_lease lease;
        memset(&lease, 0, sizeof(lease));
        int rc = cas_lease_decode(key, key_len, value, value_len, &lease, err);
        if (rc < 0)
                return rc;
        return scan->fn(scan->arg, &lease) ? 0 : 1;
}

int cas_lease_each(struct cas_store *s, bool (*fn)(void *arg, const struct cas_lease *lease),
                   void *arg, struct cas_err *err)
{
        struct lease_scan leases = {.fn = fn, .arg = arg};
        return cas_index_scan(s->index, &(struct cas_scan){.family = CAS_FAMILY_LEASES}, scan_lease,
                              &leases, err);
}
