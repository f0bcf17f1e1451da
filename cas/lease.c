/* SPDX-License-Identifier: Apache-2.0 */
/* Leases: records of the index, and the same in memory, where collection asks for them.
 *
 * A root is held in memory before its record is written, and passes the gate then: so who takes a
 * lease and looks afterwards finds what stays. It is condemned with the record that goes, and let
 * go afterwards. While one thread changes a lease, others that want to change the same wait. */
#include "cas/lease.h"

#include <time.h>

#include "cas/condemned_int.h"
#include "cas/lease_int.h"
#include "cas/map.h"
#include "cas/pins_int.h"
#include "cas/record_int.h"
#include "cas/store_int.h"

/* That a root is kept: once for each lease, twice while its record is being replaced. */
struct hold {
        struct cas_digest root;
        uint64_t expires_unix_s; /* 0: never */
        struct hold *next, *before;
};

struct entry {
        struct hold *hold; /* owned; NULL: not written yet */
        unsigned waiting;  /* threads that want to change it */
        bool busy;         /* one does */
};

struct cas_leases {
        struct cas_mutex mutex; /* "leases", a leaf; guards all: */
        pthread_cond_t change;  /* an entry is not busy any more */
        struct cas_map *ids;    /* id -> owned struct entry */
        struct cas_map *roots;  /* digest -> first struct hold of it */
        struct cas_err damage;  /* a record could not be read: everything counts as leased */
};

struct cas_leases *cas_leases_new(void)
{
        struct cas_leases *l = cas_xcalloc(1, sizeof(*l));
        cas_mutex_init(&l->mutex, "leases");
        cas_cond_init(&l->change);
        l->ids = cas_map_new();
        l->roots = cas_map_new();
        l->damage = (struct cas_err)CAS_ERR_INIT;
        return l;
}

static void free_entry(void *arg CAS_UNUSED, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                       uint64_t value)
{
        struct entry *e = (struct entry *)(uintptr_t)value;
        cas_assert(!e->busy);
        free(e->hold);
        free(e);
}

void cas_leases_free(struct cas_leases *l)
{
        if (!l)
                return;
        cas_map_each(l->ids, free_entry, NULL);
        cas_map_free(l->ids);
        cas_map_free(l->roots);
        (void)pthread_cond_destroy(&l->change);
        cas_mutex_release(&l->mutex);
        free(l);
}

/* ---- what is held ---- */

static bool has_expired(uint64_t expires_unix_s, uint64_t now)
{
        return expires_unix_s != 0 && expires_unix_s < now;
}

static struct hold *hold_locked(struct cas_leases *l, const struct cas_lease *lease)
{
        cas_assert_held(&l->mutex);
        struct hold *h = cas_xcalloc(1, sizeof(*h));
        h->root = lease->root;
        h->expires_unix_s = lease->expires_unix_s;
        uint64_t *first = cas_map_put(l->roots, &h->root, sizeof(h->root), NULL);
        h->next = (struct hold *)(uintptr_t)*first;
        if (h->next)
                h->next->before = h;
        *first = (uintptr_t)h;
        return h;
}

/* NULL does nothing. */
static void let_go_locked(struct cas_leases *l, struct hold *h)
{
        cas_assert_held(&l->mutex);
        if (!h)
                return;
        if (h->next)
                h->next->before = h->before;
        if (h->before)
                h->before->next = h->next;
        else if (h->next)
                *cas_map_get(l->roots, &h->root, sizeof(h->root)) = (uintptr_t)h->next;
        else
                (void)cas_map_remove(l->roots, &h->root, sizeof(h->root));
        free(h);
}

bool cas_blob_is_leased(struct cas_store *s, const struct cas_digest *blob)
{
        struct cas_leases *l = s->leases;
        const uint64_t now = (uint64_t)time(NULL);
        cas_assert(cas_gate_is_mine(s));
        cas_mutex_lock(&l->mutex);
        const uint64_t *first = cas_map_get(l->roots, blob, sizeof(*blob));
        const struct hold *h = first ? (const struct hold *)(uintptr_t)*first : NULL;
        while (h && has_expired(h->expires_unix_s, now))
                h = h->next;
        bool leased = h || l->damage.code != CAS_OK;
        cas_mutex_unlock(&l->mutex);
        return leased;
}

/* ---- changing one ---- */

/* The entry of an id, which is this thread's until entry_end. NULL: there is none, and none was to
 * be made. */
static struct entry *entry_begin(struct cas_leases *l, const char *id, bool make)
{
        cas_mutex_lock(&l->mutex);
        uint64_t *slot = make ? cas_map_put(l->ids, id, strlen(id), NULL)
                              : cas_map_get(l->ids, id, strlen(id));
        if (slot && *slot == 0)
                *slot = (uintptr_t)cas_xcalloc(1, sizeof(struct entry));
        struct entry *e = slot ? (struct entry *)(uintptr_t)*slot : NULL;
        if (e) {
                e->waiting++;
                while (e->busy)
                        cas_mutex_wait(&l->mutex, &l->change);
                e->waiting--;
                e->busy = true;
        }
        cas_mutex_unlock(&l->mutex);
        return e;
}

/* `hold` (may be NULL) is what the lease holds from now on. */
static void entry_end(struct cas_leases *l, const char *id, struct entry *e, struct hold *hold)
{
        cas_mutex_lock(&l->mutex);
        if (hold != e->hold)
                let_go_locked(l, e->hold);
        e->hold = hold;
        e->busy = false;
        if (!hold && e->waiting == 0) {
                (void)cas_map_remove(l->ids, id, strlen(id));
                free(e);
        }
        (void)pthread_cond_broadcast(&l->change);
        cas_mutex_unlock(&l->mutex);
}

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

        struct entry *e = entry_begin(s->leases, lease->id, true);
        if (e->hold && !cas_digest_equal(&e->hold->root, &lease->root))
                cas_batch_condemn_blob(batch, &e->hold->root, (uint64_t)time(NULL));
        cas_gate_enter(s);
        cas_mutex_lock(&s->leases->mutex);
        struct hold *hold = hold_locked(s->leases, lease);
        cas_mutex_unlock(&s->leases->mutex);
        cas_gate_leave(s);

        int rc = cas_index_write(s->index, batch, err);
        if (rc < 0) {
                cas_mutex_lock(&s->leases->mutex);
                let_go_locked(s->leases, hold);
                cas_mutex_unlock(&s->leases->mutex);
        }
        entry_end(s->leases, lease->id, e, rc < 0 ? e->hold : hold);
        return rc;
}

/* Of an entry that is this thread's; ends it. */
static int drop_entry(struct cas_store *s, const char *id, struct entry *e, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        int rc = 0;
        if (e->hold) {
                cas_batch_del(batch, CAS_FAMILY_LEASES, id, strlen(id));
                cas_batch_condemn_blob(batch, &e->hold->root, (uint64_t)time(NULL));
                rc = cas_index_write(s->index, batch, err);
        }
        entry_end(s->leases, id, e, rc < 0 ? e->hold : NULL);
        return rc;
}

int cas_lease_drop(struct cas_store *s, const char *id, struct cas_err *err)
{
        struct entry *e = entry_begin(s->leases, id, false);
        return e ? drop_entry(s, id, e, err) : 0;
}

/* ---- all of them ---- */

struct expired {
        uint64_t now;
        char (*ids)[sizeof(((struct cas_lease *)0)->id)]; /* owned */
        size_t count, max;
};

static void note_expired(void *arg, const void *key, size_t key_len, uint64_t value)
{
        struct expired *x = arg;
        const struct entry *e = (const struct entry *)(uintptr_t)value;
        if (!e->hold || !has_expired(e->hold->expires_unix_s, x->now))
                return;
        if (x->count == x->max) {
                x->max = x->max ? 2 * x->max : 16;
                x->ids = cas_xrealloc(x->ids, x->max * sizeof(x->ids[0]));
        }
        memset(x->ids[x->count], 0, sizeof(x->ids[0]));
        memcpy(x->ids[x->count++], key, key_len);
}

int cas_leases_expire(struct cas_store *s, uint64_t now_unix_s, uint64_t *dropped,
                      struct cas_err *err)
{
        struct expired x = {.now = now_unix_s};
        int rc = 0;
        *dropped = 0;
        cas_mutex_lock(&s->leases->mutex);
        cas_map_each(s->leases->ids, note_expired, &x);
        cas_mutex_unlock(&s->leases->mutex);
        for (size_t i = 0; rc == 0 && i < x.count; i++) {
                struct entry *e = entry_begin(s->leases, x.ids[i], false);
                if (!e)
                        continue;
                if (e->hold && has_expired(e->hold->expires_unix_s, now_unix_s)) {
                        rc = drop_entry(s, x.ids[i], e, err);
                        *dropped += rc == 0;
                } else { /* it was renewed */
                        entry_end(s->leases, x.ids[i], e, e->hold);
                }
        }
        free(x.ids);
        if (rc == 0 && s->leases->damage.code != CAS_OK) {
                *err = s->leases->damage;
                rc = -(int)err->code;
        }
        return rc;
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

static int load_lease(void *arg, const void *key, size_t key_len, const void *value,
                      size_t value_len, struct cas_err *err CAS_UNUSED)
{
        struct cas_leases *l = arg;
        struct cas_lease lease;
        memset(&lease, 0, sizeof(lease));
        if (cas_lease_decode(key, key_len, value, value_len, &lease, &l->damage) < 0)
                return 0;
        struct entry *e = entry_begin(l, lease.id, true);
        cas_mutex_lock(&l->mutex);
        struct hold *hold = hold_locked(l, &lease);
        cas_mutex_unlock(&l->mutex);
        entry_end(l, lease.id, e, hold);
        return 0;
}

int cas_leases_load(struct cas_store *s, struct cas_err *err)
{
        return cas_index_scan(s->index, &(struct cas_scan){.family = CAS_FAMILY_LEASES}, load_lease,
                              s->leases, err);
}
