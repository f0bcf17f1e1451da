/* SPDX-License-Identifier: Apache-2.0 */
/* A store in a private directory, and shorthands for what tests do with it.
 * They assert success unless they return a code. */
#ifndef TESTS_TESTSTORE_H
#define TESTS_TESTSTORE_H

#include "cas/blob.h"
#include "cas/names.h"
#include "cas/publish.h"

struct teststore {
        char *dir;               /* scratch directory */
        char *path;              /* of the store in it */
        const struct cas_io *io; /* NULL: the system's */
        struct cas_store *store;
};

/* cmocka set-up and tear-down: *state is a struct teststore with an open store. */
int teststore_setup(void **state);
int teststore_teardown(void **state);
void teststore_close(struct teststore *t);
/* Opens it (again). 0 or -code. */
int teststore_open(struct teststore *t, struct cas_err *err);
void teststore_reopen(struct teststore *t);

struct cas_digest test_digest(const char *text);
/* Publishes text as a blob and links it in the repository (unless NULL). */
struct cas_digest test_put_blob(struct cas_store *s, const char *repo, const char *text);
/* Publishes text as a blob and as a manifest of the repository, with the tag unless NULL. */
struct cas_digest test_put_manifest(struct cas_store *s, const char *repo, const char *tag,
                                    const char *text);
bool test_has_blob(struct cas_store *s, const struct cas_digest *d);

#endif
