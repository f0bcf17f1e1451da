/* SPDX-License-Identifier: Apache-2.0 */
/* A store that a fuzz target keeps open from run to run, in a directory that goes when the program
 * ends. */
#ifndef TESTS_SUPPORT_FUZZSTORE_H
#define TESTS_SUPPORT_FUZZSTORE_H

#include <stdio.h>

#include "cas/removetree.h"
#include "cas/store.h"

/* Of a call that no input can make fail. */
#define fuzz_ok(call)                                                                              \
        do {                                                                                       \
                struct cas_err err_ = CAS_ERR_INIT, *err = &err_;                                  \
                if ((call) < 0) {                                                                  \
                        fprintf(stderr, "%s: %s\n", #call, err->msg);                              \
                        abort();                                                                   \
                }                                                                                  \
        } while (0)

static struct {
        char dir[64];
        struct cas_store *store;
} fuzzstore;

static void fuzzstore_close(void)
{
        cas_store_close(fuzzstore.store);
        fuzz_ok(cas_remove_tree(fuzzstore.dir, err));
}

static inline struct cas_store *fuzzstore_get(void)
{
        const struct cas_store_config config = {.path = fuzzstore.dir, .threads = 1};
        if (fuzzstore.store)
                return fuzzstore.store;
        const char *base = getenv("TMPDIR");
        (void)snprintf(fuzzstore.dir, sizeof(fuzzstore.dir), "%.40s/fuzz-XXXXXX",
                       base ? base : "/tmp");
        cas_assert(mkdtemp(fuzzstore.dir) != NULL);
        fuzz_ok(cas_store_open(&config, &fuzzstore.store, err));
        (void)atexit(fuzzstore_close);
        return fuzzstore.store;
}

#endif
