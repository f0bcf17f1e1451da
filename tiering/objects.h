/* SPDX-License-Identifier: Apache-2.0 */
/* Where the objects of a cluster are: a bucket by s3.h, or memory (tests/support/memobjects.h),
 * which can fail in all the ways that a bucket can. Meanings and errors are those of s3.h, but that
 * what is not reached is AWAY. Thread-safe. */
#ifndef TIERING_OBJECTS_H
#define TIERING_OBJECTS_H

#include "tiering/s3.h"

struct tier_objects;
struct tier_objects_ops {
        int (*put)(struct tier_objects *o, const char *key, const void *data, size_t len,
                   const struct s3_condition *condition, struct s3_object *out,
                   struct cas_err *err);
        int (*get)(struct tier_objects *o, const char *key, size_t max_bytes, struct cas_buf *out,
                   struct s3_object *object, struct cas_err *err);
        int (*get_range)(struct tier_objects *o, const char *key, uint64_t offset, void *out,
                         size_t len, struct cas_err *err);
        int (*head)(struct tier_objects *o, const char *key, struct s3_object *out,
                    struct cas_err *err);
        int (*delete)(struct tier_objects *o, const char *key, const char *if_match,
                      struct cas_err *err);
        int (*list)(struct tier_objects *o, const char *prefix, const char *after,
                    int (*fn)(void *arg, const char *key, const struct s3_object *object,
                              struct cas_err *err),
                    void *arg, struct cas_err *err);
        int (*probe)(struct tier_objects *o, struct s3_abilities *out, struct cas_err *err);
        void (*close)(struct tier_objects *o);
};
/* Implementations embed this as their first member. */
struct tier_objects {
        const struct tier_objects_ops *ops;
};

int tier_objects_s3_open(const struct s3_config *config, struct tier_objects **out,
                         struct cas_err *err) CAS_MUST_CHECK;

#endif
