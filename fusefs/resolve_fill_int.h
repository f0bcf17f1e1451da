/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks that the owner brings for `lamina fs` (spec/resolve.md, "Packs that are not all here"):
 * by threads of their own, started as they are needed, so that who asks waits for as long as it
 * wants and asks again. Who asks for the same shares it. Thread-safe. */
#ifndef FFS_RESOLVE_FILL_INT_H
#define FFS_RESOLVE_FILL_INT_H

#include "cas/store.h"

struct ffs_fills;
struct ffs_fills *ffs_fills_new(struct cas_store *s);
/* Waits for what is under way. Nobody may be waiting. */
void ffs_fills_free(struct ffs_fills *f);

struct ffs_fill_wish {
        uint64_t pack_id, offset;
        uint32_t bytes;
        bool was_bad;
};
/* cas_block_bring, waited for at most wait_ms: BUSY then, and it goes on. *out_fd is the caller's.
 */
int ffs_fills_get(struct ffs_fills *f, const struct ffs_fill_wish *wish, int wait_ms, int *out_fd,
                  struct cas_err *err) CAS_MUST_CHECK;

#endif
