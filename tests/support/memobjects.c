/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/memobjects.h"

#include <pthread.h>
#include <stdio.h>

struct view {
        struct tier_objects objects; /* first */
        struct membucket *b;
};

static struct membucket *bucket_of(struct tier_objects *o)
{
        return ((struct view *)o)->b;
}

static void *run_hook(void *arg)
{
        struct membucket *b = arg;
        b->hook(b->hook_arg);
        return NULL;
}

/* Whether the request is done, and whether its answer is lost. */
static int enter(struct membucket *b, bool *lost, struct cas_err *err)
{
        *lost = false;
        unsigned n = ++b->requests;
        if (b->hook_at == n && b->hook) {
                b->hook_at = 0;  /* what happens there makes requests of its own */
                pthread_t other; /* who waits for the answer may hold locks */
                cas_assert(pthread_create(&other, NULL, run_hook, b) == 0);
                cas_assert(pthread_join(other, NULL) == 0);
        }
        bool fails = b->away || (b->fault_at == n && b->fault == MEMBUCKET_AWAY);
        *lost = b->fault_at == n && b->fault == MEMBUCKET_LOST_ACK;
        return fails ? cas_fail(err, CAS_E_AWAY, "away") : 0;
}

static int leave(bool lost, struct cas_err *err)
{
        return lost ? cas_fail(err, CAS_E_AWAY, "the answer is lost") : 0;
}

/* Where the key is, or would be. */
static size_t place_of(const struct membucket *b, const char *key)
{
        size_t low = 0, high = b->count;
        while (low < high) {
                size_t mid = (low + high) / 2;
                if (strcmp(b->list[mid].key, key) < 0)
                        low = mid + 1;
                else
                        high = mid;
        }
        return low;
}

static struct memobject *find(const struct membucket *b, const char *key)
{
        size_t at = place_of(b, key);
        return at < b->count && strcmp(b->list[at].key, key) == 0 ? &b->list[at] : NULL;
}

const struct memobject *membucket_find(const struct membucket *b, const char *key)
{
        return find(b, key);
}

static void describe(const struct memobject *m, struct s3_object *out)
{
        struct cas_hash hash;
        char hex[CAS_HASH_HEX_BYTES];
        if (!out)
                return;
        cas_sha256(m->data.data, m->data.len_bytes, &hash);
        *out = (struct s3_object){.size_bytes = m->data.len_bytes,
                                  .modified_unix_s = m->modified_unix_s};
        (void)snprintf(out->etag, sizeof(out->etag), "\"%s\"", cas_hash_hex(&hash, hex));
}

static bool holds(const struct memobject *m, const struct s3_condition *c)
{
        struct s3_object now;
        if (c && c->if_absent && m)
                return false;
        if (!c || !c->if_match)
                return true;
        if (!m)
                return false;
        describe(m, &now);
        return strcmp(now.etag, c->if_match) == 0;
}

static struct memobject *make(struct membucket *b, const char *key)
{
        size_t at = place_of(b, key);
        b->list = cas_xrealloc(b->list, (b->count + 1) * sizeof(*b->list));
        memmove(&b->list[at + 1], &b->list[at], (b->count - at) * sizeof(*b->list));
        b->list[at] = (struct memobject){.key = cas_xstrdup(key)};
        b->count++;
        return &b->list[at];
}

static int put(struct tier_objects *o, const char *key, const void *data, size_t len,
               const struct s3_condition *condition, struct s3_object *out, struct cas_err *err)
{
        struct membucket *b = bucket_of(o);
        bool lost;
        int rc = enter(b, &lost, err);
        if (rc < 0)
                return rc;
        struct memobject *m = find(b, key);
        if (!holds(m, condition))
                return cas_fail(err, CAS_E_EXISTS, "%s: the condition does not hold", key);
        if (!m)
                m = make(b, key);
        cas_buf_clear(&m->data);
        cas_buf_append(&m->data, data, len);
        m->modified_unix_s = b->now_unix_s;
        describe(m, out);
        if (out)
                out->modified_unix_s = 0; /* PutObject does not tell it */
        return leave(lost, err);
}

static int get(struct tier_objects *o, const char *key, size_t max_bytes, struct cas_buf *out,
               struct s3_object *object, struct cas_err *err)
{
        struct membucket *b = bucket_of(o);
        bool lost;
        int rc = enter(b, &lost, err);
        if (rc < 0)
                return rc;
        const struct memobject *m = find(b, key);
        if (!m)
                return cas_fail(err, CAS_E_NOTFOUND, "%s", key);
        if (m->data.len_bytes > max_bytes)
                return cas_fail(err, CAS_E_LIMIT, "%s", key);
        cas_buf_append(out, m->data.data, m->data.len_bytes);
        describe(m, object);
        return leave(lost, err);
}

static int get_range(struct tier_objects *o, const char *key, uint64_t offset, void *out,
                     size_t len, struct cas_err *err)
{
        struct membucket *b = bucket_of(o);
        bool lost;
        int rc = enter(b, &lost, err);
        if (rc < 0)
                return rc;
        const struct memobject *m = find(b, key);
        if (!m)
                return cas_fail(err, CAS_E_NOTFOUND, "%s", key);
        if (offset > m->data.len_bytes || len > m->data.len_bytes - offset)
                return cas_fail(err, CAS_E_CORRUPT, "%s is shorter", key);
        memcpy(out, m->data.data + offset, len);
        return leave(lost, err);
}

static int head(struct tier_objects *o, const char *key, struct s3_object *out, struct cas_err *err)
{
        struct membucket *b = bucket_of(o);
        bool lost;
        int rc = enter(b, &lost, err);
        if (rc < 0)
                return rc;
        const struct memobject *m = find(b, key);
        if (!m)
                return cas_fail(err, CAS_E_NOTFOUND, "%s", key);
        describe(m, out);
        return leave(lost, err);
}

static int delete (struct tier_objects *o, const char *key, const char *if_match,
                   struct cas_err *err)
{
        struct membucket *b = bucket_of(o);
        const struct s3_condition condition = {.if_match = if_match};
        bool lost;
        int rc = enter(b, &lost, err);
        if (rc < 0)
                return rc;
        if (if_match && !b->abilities.conditional_delete)
                return cas_fail(err, CAS_E_UNSUPPORTED, "%s", key);
        struct memobject *m = find(b, key);
        if (m && !holds(m, &condition))
                return cas_fail(err, CAS_E_EXISTS, "%s", key);
        if (m) {
                size_t at = (size_t)(m - b->list);
                free(m->key);
                cas_buf_release(&m->data);
                b->count--;
                memmove(m, m + 1, (b->count - at) * sizeof(*m));
        }
        return leave(lost, err);
}

/* What is listed may change while it is: each key is looked for anew. */
static int list(struct tier_objects *o, const char *prefix, const char *after,
                int (*fn)(void *arg, const char *key, const struct s3_object *object,
                          struct cas_err *err),
                void *arg, struct cas_err *err)
{
        struct membucket *b = bucket_of(o);
        bool lost;
        int rc = enter(b, &lost, err);
        cas_cleanup_free char *last = cas_xstrdup(after ? after : "");
        while (rc == 0) {
                size_t at = place_of(b, strcmp(last, prefix) > 0 ? last : prefix);
                if (at < b->count && strcmp(b->list[at].key, last) == 0)
                        at++;
                if (at >= b->count || strncmp(b->list[at].key, prefix, strlen(prefix)) != 0)
                        break;
                struct s3_object object;
                describe(&b->list[at], &object);
                free(last);
                last = cas_xstrdup(b->list[at].key);
                rc = fn(arg, last, &object, err);
        }
        return rc < 0 ? rc : leave(lost, err);
}

static int probe(struct tier_objects *o, struct s3_abilities *out, struct cas_err *err)
{
        bool lost;
        int rc = enter(bucket_of(o), &lost, err);
        *out = bucket_of(o)->abilities;
        return rc;
}

static void close_view(struct tier_objects *o)
{
        free(o);
}

static const struct tier_objects_ops view_ops = {
        .put = put,
        .get = get,
        .get_range = get_range,
        .head = head,
        .delete = delete,
        .list = list,
        .probe = probe,
        .close = close_view,
};

void membucket_init(struct membucket *b)
{
        *b = (struct membucket){.now_unix_s = 1000000,
                                .abilities = {.if_absent = true,
                                              .if_match = true,
                                              .multipart_if_absent = true,
                                              .conditional_delete = true,
                                              .checksums = true,
                                              .ranges = true,
                                              .list_after_write = true}};
}

void membucket_release(struct membucket *b)
{
        for (size_t i = 0; i < b->count; i++) {
                free(b->list[i].key);
                cas_buf_release(&b->list[i].data);
        }
        free(b->list);
}

struct tier_objects *membucket_objects(struct membucket *b)
{
        struct view *v = cas_xcalloc(1, sizeof(*v));
        v->objects.ops = &view_ops;
        v->b = b;
        return &v->objects;
}

unsigned membucket_count(const struct membucket *b, const char *prefix)
{
        unsigned n = 0;
        for (size_t i = 0; i < b->count; i++)
                n += strncmp(b->list[i].key, prefix, strlen(prefix)) == 0 &&
                     b->list[i].data.len_bytes > 0;
        return n;
}
