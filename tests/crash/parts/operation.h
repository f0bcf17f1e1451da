/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on a store that tests/crash/enumerate.c cuts short. Each file of operations has a
 * table of them. What fails an assumption of theirs ends the process (must). */
#ifndef TESTS_CRASH_OPERATION_H
#define TESTS_CRASH_OPERATION_H

#include <stdio.h>

#include "cas/store_int.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

#define FILES 6 /* of an image */

#define must(cond)                                                                                 \
        do {                                                                                       \
                if (!(cond)) {                                                                     \
                        (void)fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);           \
                        _exit(1);                                                                  \
                }                                                                                  \
        } while (0)

/* BEFORE: nothing of it can be seen. AFTER: all of it, as it was acknowledged. */
enum outcome { BEFORE, AFTER, BROKEN };

struct operation {
        const char *name;
        /* Leaves the store as the operation finds it; all of it counts as synced. NULL: there is
         * none. What lies beside the store's directory is cut short as well. */
        void (*prepare)(struct cas_store *s);
        /* Holds nothing when it fails. Does it again, or what is left of it, when called again. */
        int (*run)(struct cas_store *s, struct cas_err *err);
        /* Instead of run: of a store that is closed. */
        int (*run_closed)(const struct cas_store_config *config, struct cas_err *err);
        enum outcome (*look)(struct cas_store *s);
        /* When collection has found what was left over; NULL: nothing more is asked. */
        void (*settled)(struct cas_store *s);
        /* Where packs live; NULL: in the store. */
        int (*backend_open)(struct cas_store *s, struct cas_backend **out, struct cas_err *err);
        bool opening; /* it is the opening of the store that is cut short */
        bool closes;  /* prepare ends by closing the store in order: no full collection is due */
        bool damaged; /* the store is, until the operation has been done */
        bool quick;   /* make test does it, too */
};
struct operations {
        const struct operation *list;
        size_t count;
};
extern const struct operations crash_push, crash_names, crash_condense, crash_elsewhere,
        crash_maintain, crash_repair, crash_tiers;

/* Of the operation that is cut short, for whoever opens its store. */
extern int (*crash_backend_open)(struct cas_store *s, struct cas_backend **out,
                                 struct cas_err *err);
int crash_tiers_open(struct cas_store *s, struct cas_backend **out, struct cas_err *err);
int crash_cold_tiers_open(struct cas_store *s, struct cas_backend **out, struct cas_err *err);

/* A directory beside the store, for what operations read. Set before the first prepare. */
extern const char *crash_side;

bool has_tag(struct cas_store *s, const char *tag, struct cas_digest *out);
void put_image(struct cas_store *s, const char *tag, unsigned seed, struct testimage *out);
/* An image as put_image made it of a seed is there, every byte of it. */
bool image_is_whole(struct cas_store *s, const char *tag, unsigned seed);
/* Stores with one image, "old" (seed 0), and with another, "second" (seed 50). */
void prepare_one(struct cas_store *s);
void prepare_two(struct cas_store *s);
/* Tags "second" and "third" become "old" in one commit. */
int run_tag(struct cas_store *s, struct cas_err *err);
enum outcome look_tag(struct cas_store *s);
/* "second" goes, with its manifest. Absent is success. */
int run_delete(struct cas_store *s, struct cas_err *err);
enum outcome look_both(struct cas_store *s); /* AFTER, or BROKEN */

#endif
