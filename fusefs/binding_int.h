/* SPDX-License-Identifier: Apache-2.0 */
/* DIR/lamina.json of an upper directory: what it was made over and how
 * (spec/mounts.md, "lamina.json"). It binds the upper to its exact trees, and tells
 * who reads the upper without mounting it what its bytes mean. Hostile when read. */
#ifndef FFS_BINDING_INT_H
#define FFS_BINDING_INT_H

#include "fusefs/volume_int.h"

#define FFS_BINDING_NAME "lamina.json"

struct ffs_binding {
        size_t tree_count;
        struct cas_digest trees[FFS_VOLUME_TREES_MAX]; /* topmost first */
        char options[256];                             /* of overlayfs */
        enum ffs_upper_format format;
        bool owners_in_xattrs;
        uint64_t size_limit_bytes; /* 0: none */
        bool has_image;            /* upper/ and work/ are in the file system DIR/upper.ext4 */
        bool frozen;               /* a snapshot: not to be mounted */
        /* Information, which binds to nothing. */
        char id_map[FFS_IDMAP_TEXT_BYTES]; /* of its first mount: ffs_idmap text, "" for none */
        char name[512];                    /* of the image; "" when unknown */
        struct cas_digest manifest;        /* alg NONE when unknown */
};

/* Text of it (owned); what has its default value is left out. */
char *ffs_binding_format(const struct ffs_binding *b);
/* Errors: INVALID. */
int ffs_binding_parse(const char *text, size_t len, struct ffs_binding *out,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Of the directory that holds upper/. Errors: NOTFOUND, INVALID (also when it is no regular
 * file). */
int ffs_binding_read(int dir_fd, struct ffs_binding *out, struct cas_err *err) CAS_MUST_CHECK;
/* Whether an upper bound to one may be mounted as the other says: all but the information. A
 * `want` without a size fits any. */
bool ffs_binding_fits(const struct ffs_binding *have, const struct ffs_binding *want);

#endif
