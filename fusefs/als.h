/* SPDX-License-Identifier: Apache-2.0 */
/* An Additional Layer Store for podman, buildah and CRI-O (spec/als.md): a small
 * FUSE file system of dynamic names. What layers are, where they are mounted and
 * who uses them is asked of whoever started it. */
#ifndef FFS_ALS_H
#define FFS_ALS_H

#include "cas/digest.h"

#define FFS_ALS_REF_BYTES_MAX 700
#define FFS_ALS_PATH_BYTES 4096

/* A layer of an image, as others name both. */
struct ffs_als_name {
        const char *ref; /* as podman writes it: HOST[:PORT]/NAME[:TAG][@DIGEST]; any text */
        struct cas_digest layer;
};
struct ffs_als_layer {
        char *info; /* owned: the file `info` */
        uint64_t blob_bytes;
};
/* All may block, and are called from several threads at once. Errors: NOTFOUND (the caller is to
 * fetch the layer elsewhere), and any other. */
struct ffs_als_ops {
        int (*find)(void *arg, const struct ffs_als_name *name, struct ffs_als_layer *out,
                    struct cas_err *err);
        /* The directory that shows the layer, mounted when it is not; out has
         * FFS_ALS_PATH_BYTES. Called again and again: to be quick when it is there. */
        int (*mount)(void *arg, const struct ffs_als_name *name, char *out, struct cas_err *err);
        /* Somebody begins, or ceases, to use the layer. Counts are durable. */
        int (*use)(void *arg, const struct ffs_als_name *name, bool begins, struct cas_err *err);
        /* A descriptor of the layer's blob, to be closed by the caller. */
        int (*blob)(void *arg, const struct ffs_als_name *name, int *out_fd, struct cas_err *err);
};

/* The reference that a directory's name stands for: base64 (RFC 4648, padded) of text without
 * NULs, which ends with one in out. False: it is none. */
bool ffs_als_ref_decode(const char *text, char out[static FFS_ALS_REF_BYTES_MAX + 1]);
/* Mounts on dir; *out_fd serves it. Needs root. Errors: DENIED, UNSUPPORTED. */
int ffs_als_mount(const char *dir, int *out_fd, struct cas_err *err) CAS_MUST_CHECK;
/* Serves until it is unmounted. One that died is followed by another on the same descriptor and
 * `state`: FFS_ALS_STATE_BYTES of zeroed memory that outlives both. `started` (may be NULL) is
 * called when requests are answered. */
#define FFS_ALS_STATE_BYTES 4096
int ffs_als_serve(int fuse_fd, void *state, const struct ffs_als_ops *ops, void *arg,
                  void (*started)(void *arg), struct cas_err *err) CAS_MUST_CHECK;
/* Whether it is mounted there; nobody is asked. */
bool ffs_als_is_mounted(const char *dir);
/* Unmounts it. Errors: NOTFOUND (dir is no such mount), BUSY (a container stands on it). */
int ffs_als_umount(const char *dir, struct cas_err *err) CAS_MUST_CHECK;

#endif
