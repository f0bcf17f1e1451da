/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/objects.h"

struct s3_objects {
        struct tier_objects objects; /* first */
        struct s3 *s3;
};

static struct s3 *s3_of(struct tier_objects *o)
{
        return ((struct s3_objects *)o)->s3;
}

/* What the client gave up after all its tries: the bucket is not to be had now. */
static int away(int rc, struct cas_err *err)
{
        if (rc != -CAS_E_IO && rc != -CAS_E_BUSY)
                return rc;
        err->code = CAS_E_AWAY;
        return -CAS_E_AWAY;
}

static int put(struct tier_objects *o, const char *key, const void *data, size_t len,
               const struct s3_condition *condition, struct s3_object *out, struct cas_err *err)
{
        return away(s3_put(s3_of(o), key, data, len, condition, out, err), err);
}

static int get(struct tier_objects *o, const char *key, size_t max_bytes, struct cas_buf *out,
               struct s3_object *object, struct cas_err *err)
{
        return away(s3_get(s3_of(o), key, max_bytes, out, object, err), err);
}

static int get_range(struct tier_objects *o, const char *key, uint64_t offset, void *out,
                     size_t len, struct cas_err *err)
{
        return away(s3_get_range(s3_of(o), key, offset, out, len, err), err);
}

static int head(struct tier_objects *o, const char *key, struct s3_object *out, struct cas_err *err)
{
        return away(s3_head(s3_of(o), key, out, err), err);
}

static int delete (struct tier_objects *o, const char *key, const char *if_match,
                   struct cas_err *err)
{
        return away(s3_delete(s3_of(o), key, if_match, err), err);
}

/* What is said to whom lists is the caller's own. */
struct listing {
        int (*fn)(void *arg, const char *key, const struct s3_object *object, struct cas_err *err);
        void *arg;
        bool failed;
};

static int listed(void *arg, const char *key, const struct s3_object *object, struct cas_err *err)
{
        struct listing *l = arg;
        int rc = l->fn(l->arg, key, object, err);
        l->failed = rc < 0;
        return rc;
}

static int list(struct tier_objects *o, const char *prefix, const char *after,
                int (*fn)(void *arg, const char *key, const struct s3_object *object,
                          struct cas_err *err),
                void *arg, struct cas_err *err)
{
        struct listing l = {.fn = fn, .arg = arg};
        int rc = s3_list(s3_of(o), prefix, after, 0, listed, &l, err);
        return l.failed ? rc : away(rc, err);
}

static int probe(struct tier_objects *o, struct s3_abilities *out, struct cas_err *err)
{
        return away(s3_probe(s3_of(o), out, err), err);
}

static void close_s3(struct tier_objects *o)
{
        s3_close(s3_of(o));
        free(o);
}

static const struct tier_objects_ops s3_ops = {
        .put = put,
        .get = get,
        .get_range = get_range,
        .head = head,
        .delete = delete,
        .list = list,
        .probe = probe,
        .close = close_s3,
};

int tier_objects_s3_open(const struct s3_config *config, struct tier_objects **out,
                         struct cas_err *err)
{
        struct s3 *s3;
        int rc = s3_open(config, &s3, err);
        if (rc < 0)
                return rc;
        struct s3_objects *o = cas_xcalloc(1, sizeof(*o));
        o->objects.ops = &s3_ops;
        o->s3 = s3;
        *out = &o->objects;
        return 0;
}
