/* SPDX-License-Identifier: Apache-2.0 */
/* The directory of a tier (spec/tiering.md): its marker, and whether it is the one that it should
 * be. Nothing is written to or removed from one that is not. Thread-safe. */
#ifndef TIERING_TIERDIR_H
#define TIERING_TIERDIR_H

#include <sys/stat.h>

#include "cas/err.h"

struct tier_dir {
        int packs_fd, cache_fd; /* owned; -1: not open */
        dev_t device;           /* of the directory itself */
        ino_t inode;
};
#define TIER_DIR_INIT                                                                              \
        {                                                                                          \
                .packs_fd = -1, .cache_fd = -1                                                     \
        }
struct tier_dir_name {
        const char *store_id; /* 32 hex digits */
        uint32_t id;          /* of the tier */
        const char *name;
};

/* Makes an empty directory a tier's: itself (its parent must be there), the marker and what is in
 * it; durable on return. One with this store's marker and no packs is as good as empty. *path: as
 * it is called without links (owned).
 * Errors: DENIED (something else lies there; says what to do), INVALID, IO, NOSPACE. */
int tier_dir_make(const char *where, const struct tier_dir_name *name, char **path,
                  struct cas_err *err) CAS_MUST_CHECK;
/* Whether one directory is the other, or lies in it. Both exist. */
bool tier_dir_is_within(const char *inner, const char *outer);
/* Errors: NOTFOUND (it is not there), DENIED (empty, or not this tier: refused), IO. */
int tier_dir_open(const char *where, const struct tier_dir_name *name, struct tier_dir *out,
                  struct cas_err *err) CAS_MUST_CHECK;
/* Whether the path still names the directory that is open. Errors: NOTFOUND (nothing, or another
 * directory, is there now), IO. */
int tier_dir_check(const char *where, const struct tier_dir *d, struct cas_err *err) CAS_MUST_CHECK;
/* Bytes of the pack files in it, by their lengths. */
int tier_dir_pack_bytes(int packs_fd, uint64_t *out, struct cas_err *err) CAS_MUST_CHECK;
/* Bytes of all files below a directory (absent: none), by their lengths, up to `depth` levels deep.
 */
int tier_dir_tree_bytes(int dirfd, const char *path, unsigned depth, uint64_t *out,
                        struct cas_err *err) CAS_MUST_CHECK;
void tier_dir_close(struct tier_dir *d);
/* Takes the marker and the empty directories `packs` and `cache` away; twins go. Errors: BUSY (a
 * pack is there). */
int tier_dir_unmake(const char *where, struct tier_dir *d, struct cas_err *err) CAS_MUST_CHECK;

#endif
