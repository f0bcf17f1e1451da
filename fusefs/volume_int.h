/* SPDX-License-Identifier: Apache-2.0 */
/* A volume: one image, read-only or under one upper directory, as the fuse
 * driver serves it. This is the description that a mount command gives to
 * `lamina fs` and that `lamina hold` keeps for its successor, as JSON text
 * (spec/mounts.md, "Volumes") with one descriptor beside it. Values; no I/O. */
#ifndef FFS_VOLUME_INT_H
#define FFS_VOLUME_INT_H

#include "cas/digest.h"
#include "fusefs/idmap_int.h"

#define FFS_VOLUME_TREES_MAX 4
#define FFS_VOLUME_TEXT_BYTES_MAX 16384

enum ffs_upper_format {
        FFS_UPPER_TRUSTED, /* trusted.overlay.*: what overlayfs writes by default */
        FFS_UPPER_USER,    /* user.overlay.*: what it writes with userxattr; no redirects and no
                            * metacopy, as there */
};

struct ffs_volume_spec {
        char id[40]; /* of the mount, or of the image where mounts share it; [0-9a-z-] */
        size_t tree_count;
        struct cas_digest trees[FFS_VOLUME_TREES_MAX]; /* topmost first */
        char tree_paths[FFS_VOLUME_TREES_MAX][1024];
        bool rw; /* its descriptor is the directory that holds upper/ and work/ */
        enum ffs_upper_format format;
        bool owners_in_xattrs;     /* who serves may not chown: owner, mode and device are kept in
                                    * user.containers.override_stat */
        uint64_t size_limit_bytes; /* of the upper, counted by the server; 0: none */
        struct ffs_idmap map;
};

/* Text of it (owned; NULL when a path is not UTF-8), and it from text, of which any byte may be
 * hostile. Errors: INVALID, LIMIT (FFS_VOLUME_TEXT_BYTES_MAX). */
char *ffs_volume_format(const struct ffs_volume_spec *spec);
int ffs_volume_parse(const char *text, size_t len, struct ffs_volume_spec *out,
                     struct cas_err *err) CAS_MUST_CHECK;

#endif
