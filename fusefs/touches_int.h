/* SPDX-License-Identifier: Apache-2.0 */
/* Tells the owner of a store with tiers what was read without it (spec/resolve.md): a bounded
 * number of reads, sent together about once a second; more are forgotten, and all when the owner
 * is away. Its thread is started by the first read. Thread-safe; noting never blocks. */
#ifndef FFS_TOUCHES_INT_H
#define FFS_TOUCHES_INT_H

#include "fusefs/resolve_client_int.h"

#define FFS_TOUCHES_SWEEP_MS 10000

struct ffs_touches;
/* client is borrowed. sweep() is called by the thread every FFS_TOUCHES_SWEEP_MS. */
struct ffs_touches *ffs_touches_new(struct ffs_resolve_client *client, void (*sweep)(void *arg),
                                    void *arg);
void ffs_touches_free(struct ffs_touches *t);
void ffs_touches_note(struct ffs_touches *t, const struct ffs_resolve_touch *touch);

#endif
