/* SPDX-License-Identifier: Apache-2.0 */
/* A bucket in memory, for any number of nodes: conditions are honoured exactly, ETags are of the
 * content, and what comes is counted, so that a test can have something else happen, or fail, at
 * any request. For one thread at a time. */
#ifndef TESTS_SUPPORT_MEMOBJECTS_H
#define TESTS_SUPPORT_MEMOBJECTS_H

#include "tiering/objects.h"

struct memobject {
        char *key; /* owned */
        struct cas_buf data;
        int64_t modified_unix_s;
};
enum membucket_fault {
        MEMBUCKET_NONE,
        MEMBUCKET_AWAY,     /* nothing is done */
        MEMBUCKET_LOST_ACK, /* done, but told to be away */
};
struct membucket {
        struct memobject *list; /* owned, sorted by key */
        size_t count;
        int64_t now_unix_s;
        struct s3_abilities abilities;
        unsigned requests; /* so far */
        /* Before the request of that number (from 1): something else happens. 0: never. */
        unsigned hook_at;
        void (*hook)(void *arg);
        void *hook_arg;
        unsigned fault_at; /* the same */
        enum membucket_fault fault;
        bool away; /* all fail */
};
void membucket_init(struct membucket *b);
void membucket_release(struct membucket *b);
/* A view of it, which is closed by who takes it; the bucket outlives it. */
struct tier_objects *membucket_objects(struct membucket *b);
/* Objects that are not empty, below the prefix. */
unsigned membucket_count(const struct membucket *b, const char *prefix);
const struct memobject *membucket_find(const struct membucket *b, const char *key);

#endif
