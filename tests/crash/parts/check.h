/* SPDX-License-Identifier: Apache-2.0 */
/* What must hold of a store after an operation was cut short. */
#ifndef TESTS_CRASH_CHECK_H
#define TESTS_CRASH_CHECK_H

#include "tests/crash/parts/operation.h"

/* What is in a store, of things that do not depend on how it came there: for comparing one in which
 * an operation was cut short and done again with one in which it never was. */
#define PRINT_FILES CAS_FAMILY_COUNT /* names of files, after the families of the index */
struct print {
        uint64_t count[CAS_FAMILY_COUNT + 1];
        uint64_t hash[CAS_FAMILY_COUNT + 1]; /* of the keys, in any order */
};

/* Each ends the process with a message when something does not hold. */
struct cas_store *open_store(const char *path);
/* In a store that is open: no error of fsck (but of a damaged one), the outcome not BROKEN, and
 * AFTER when it was acknowledged; the operation succeeds when it is tried again. failed: a call
 * did, in this process.
 */
void check_whole(const struct operation *op, struct cas_store *s, bool acknowledged, bool failed);
/* Of a store that is closed: the same, and collection finds what is left over. want NULL: nothing
 * to compare with; out may be NULL. */
void check_closed(const struct operation *op, const char *path, bool acknowledged,
                  const struct print *want, struct print *out);

#endif
