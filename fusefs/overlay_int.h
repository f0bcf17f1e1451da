/* SPDX-License-Identifier: Apache-2.0 */
/* The overlay driver: EROFS trees, mounted once each, stacked by the kernel's
 * overlayfs over the object file system as a data-only layer (spec/mounts.md).
 * The caller holds the lock of RUN_DIR. */
#ifndef FFS_OVERLAY_INT_H
#define FFS_OVERLAY_INT_H

#include "fusefs/process_int.h"
#include "fusefs/records_int.h"
#include "fusefs/upper_int.h"

/* Of every overlay, and more of a writable one. An upper is bound to this text. */
#define FFS_OVERLAY_OPTIONS "metacopy=on,redirect_dir=on,xino=on"
#define FFS_OVERLAY_OPTIONS_RW FFS_OVERLAY_OPTIONS ",index=on"

/* What this kernel and process lack for the driver. Errors: UNSUPPORTED, DENIED. */
int ffs_overlay_probe(struct cas_err *err) CAS_MUST_CHECK;
/* Mounts each tree at RUN_DIR/trees/HEX where it is not mounted. */
int ffs_overlay_trees(const struct ffs_host *host, const struct ffs_image *image,
                      struct cas_err *err) CAS_MUST_CHECK;
/* The read-only overlay of an image, made where it is not there; its name below RUN_DIR/images.
 * id_map: as in ffs_mount_options, here and below; each map is an overlay of its own. */
int ffs_overlay_image(const struct ffs_host *host, const struct ffs_image *image,
                      const char *id_map, const struct ffs_serving *serving,
                      char key[FFS_IMAGE_KEY_BYTES], struct cas_err *err) CAS_MUST_CHECK;
/* A writable overlay at dir; attributes: MOUNT_ATTR_*. Whatever the map, image ids are what is
 * written to the upper's disk. Errors: BUSY (the upper is in use), UNSUPPORTED (a map). */
int ffs_overlay_writable(const struct ffs_host *host, const struct ffs_image *image,
                         const struct ffs_upper *upper, const char *id_map, unsigned attributes,
                         const char *dir, struct cas_err *err) CAS_MUST_CHECK;
/* Unmounts trees and images that no record names. */
int ffs_overlay_sweep(const struct ffs_host *host, struct cas_err *err) CAS_MUST_CHECK;

#endif
