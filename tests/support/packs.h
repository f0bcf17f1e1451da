/* SPDX-License-Identifier: Apache-2.0 */
/* A store of nothing but an index and packs, in a directory of its own, for tests. Every failure
 * ends the program with a message. */
#ifndef TESTS_SUPPORT_PACKS_H
#define TESTS_SUPPORT_PACKS_H

#include "cas/packfile_int.h"
#include "cas/store_int.h"

struct test_packs {
        char *dir;
        int dirfd; /* of packs/ */
        const struct cas_io *io;
        struct cas_store store; /* io, index, backend, packset and blocks only */
};
/* io NULL: the system's. */
void test_packs_init(struct test_packs *t, const struct cas_io *io);
/* Closes and opens again, as a restart does. */
void test_packs_close(struct test_packs *t);
void test_packs_open(struct test_packs *t);
/* With the directory. */
void test_packs_release(struct test_packs *t);

/* One object through an ingest of its own, published. */
void test_packs_put(struct test_packs *t, const void *data, size_t len, struct cas_hash *id);
void test_packs_publish(struct test_packs *t, struct cas_ingest *in);
void test_ingest_object(struct cas_ingest *in, const void *data, size_t len, struct cas_hash *id);
/* Bytes of pack files. */
uint64_t test_packs_bytes(struct test_packs *t, unsigned *count);

/* A small deterministic generator. */
struct test_random {
        uint64_t state;
};
uint64_t test_random_next(struct test_random *r);
/* $LAMINA_SEED, else the clock; printed. */
uint64_t test_seed(void);
/* Bytes of medium entropy: compressible a little, never the same twice. */
void test_random_fill(struct test_random *r, uint8_t *out, size_t len);

#define test_ok(call)                                                                              \
        do {                                                                                       \
                struct cas_err err_ = CAS_ERR_INIT, *err = &err_;                                  \
                if ((call) < 0)                                                                    \
                        test_failed(#call, __FILE__, __LINE__, err);                               \
        } while (0)
CAS_NORETURN void test_failed(const char *what, const char *file, int line,
                              const struct cas_err *err);

/* Writes a pack anew with its own density. 0 or -code. */
int test_packs_recode(struct test_packs *t, uint64_t pack_id, struct cas_recode_result *out,
                      struct cas_err *err);

#endif
