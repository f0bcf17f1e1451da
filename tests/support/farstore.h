/* SPDX-License-Identifier: Apache-2.0 */
/* Two stores and a remote between them that can be slow, dead or a liar: what
 * lazy mounts are tested with. `far` has images, `near` gets them. */
#ifndef TESTS_FARSTORE_H
#define TESTS_FARSTORE_H

#include <stdatomic.h>

#include "cas/backend.h"
#include "cas/elsewhere.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

struct farstore {
        struct cas_remote remote;
        struct teststore *near;
        struct cas_store *far; /* owned */
        _Atomic(unsigned) delay_ms;
        _Atomic(bool) dead;
        _Atomic(bool) no_finish;
        _Atomic(unsigned) requests, objects, finished, opened;
        struct cas_hash victim;   /* of the two below */
        _Atomic(bool) lies;       /* other bytes under its name */
        _Atomic(bool) misses;     /* it is not there */
        struct cas_hash log[512]; /* objects in the order in which they were asked for */
        _Atomic(unsigned) log_count;
};
/* The store in `near` is told of the source "far", with that much patience. */
void farstore_open(struct farstore *f, struct teststore *near, unsigned wait_ms);
/* Tells a store that was opened again. */
void farstore_wire(struct farstore *f, unsigned wait_ms);
/* Closes both stores. */
void farstore_close(struct farstore *f);
/* Makes an image in `far`, and notes it in `near` as elsewhere, under repo:tag. */
void farstore_image(struct farstore *f, const char *repo, const char *tag, unsigned seed,
                    unsigned files, struct testimage *out);
/* The object of a file. */
struct cas_hash farstore_file(struct farstore *f, const struct testimage *image, unsigned file);

#endif
