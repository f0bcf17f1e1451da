/* SPDX-License-Identifier: Apache-2.0 */
/* What tests that mount need: a mount namespace of their own, a watchdog that
 * aborts FUSE connections when a test hangs, and a store with files in it that
 * is served by a resolver in this process. */
#ifndef TESTS_FUSEBOX_H
#define TESTS_FUSEBOX_H

#include "cas/object.h"
#include "fusefs/mount.h"
#include "fusefs/process_int.h"
#include "fusefs/resolve.h"

struct fusebox {
        char dir[256]; /* private, removed at the end */
        char store_path[300], run_dir[300], resolve_path[320];
        struct cas_store *store;
        struct ffs_resolver *resolver;
        struct ffs_host host;
        struct ffs_serving serving;
        pid_t watchdog;
};

/* The program of the test is `hold`, `fs` and (with the store of the test's own process) a `serve`
 * that ends at once: main() calls this first, and returns *status when it says so. */
/* A file in RUN_DIR: a path that the next fs is to open in a thread of its own, again and again. */
#define FUSEBOX_SELF_READER "self-reader"
bool fusebox_is_process(int argc, char **argv, int *status);
/* False where the machine cannot: no root, no /dev/fuse. The namespace is the process's from then
 * on. seconds: until the watchdog acts. */
bool fusebox_possible(void);
void fusebox_open(struct fusebox *box, unsigned seconds);
/* Stops hold and fs when they run, and the rest. */
void fusebox_close(struct fusebox *box);
void fusebox_owner_start(struct fusebox *box); /* opens the store and listens */
void fusebox_owner_stop(struct fusebox *box);
/* Adds a file of pseudo-random content that compresses by half; content_at() tells its bytes. */
void fusebox_add(struct fusebox *box, uint32_t seed, size_t bytes, struct cas_hash *id);
void fusebox_add_many(struct fusebox *box, uint32_t first_seed, uint32_t count, size_t bytes,
                      struct cas_hash *ids);
void fusebox_content(uint32_t seed, size_t bytes, uint8_t *out);
/* RUN_DIR/objects/xx/yyyy… */
void fusebox_object_path(const struct fusebox *box, const struct cas_hash *id, char *out,
                         size_t out_bytes);

#endif
