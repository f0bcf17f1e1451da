/* SPDX-License-Identifier: Apache-2.0 */
/* The sandbox that a command is about: a mount point, or an upper directory
 * that need not be mounted. */
#ifndef TOOLS_SANDBOXES_H
#define TOOLS_SANDBOXES_H

#include "fusefs/upper.h"
#include "tools/mounting.h"

struct sandbox_arg {
        char *upper;                  /* owned: its upper directory */
        bool by_upper;                /* it was named by that, not by a mount point */
        bool mounted;                 /* `mount` says where and how */
        struct ffs_mount_info *mount; /* owned */
        struct ffs_upper_info *info;  /* owned: what the upper says of itself */
};
void sandbox_arg_release(struct sandbox_arg *s);
#define sandbox_cleanup_arg __attribute__((cleanup(sandbox_arg_release)))

/* DIR as it was given: a mount point, else an upper directory; is_upper (--upper): the latter
 * alone, which may be mounted as well. Errors: NOTFOUND (nothing is mounted there), INVALID
 * (mounted read-only, no upper). */
int sandbox_arg_find(const struct mounting *m, const char *dir, bool is_upper,
                     struct sandbox_arg *out, struct cas_err *err) CAS_MUST_CHECK;
/* Has the owner make the image below ready, as mounting_prepare does, for reading what changed or
 * for mounting it again. */
int sandbox_arg_prepare(const struct mounting *m, const struct sandbox_arg *s,
                        struct ffs_image *image, json_t **prepared,
                        struct cas_err *err) CAS_MUST_CHECK;

#endif
