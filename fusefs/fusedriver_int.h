/* SPDX-License-Identifier: Apache-2.0 */
/* The fuse driver from the side of a command: it makes the connection that a
 * mount needs, gives it and the volume to `lamina fs`, and binds the volume to
 * where it was asked for. Called with RUN_DIR locked; `lamina fs` runs.
 *
 * Who is root mounts: one connection for each page mode is shared by all mounts,
 * at RUN_DIR/views/NAME, and each volume is a directory of it. Private pages, and
 * everybody else's mounts, have a connection each. */
#ifndef FFS_FUSEDRIVER_INT_H
#define FFS_FUSEDRIVER_INT_H

#include "fusefs/records_int.h"
#include "fusefs/upper_int.h"

/* Whether this process has root's rights over the host: those of the first user namespace. */
bool ffs_fusedriver_is_privileged(void);
/* Page modes that `wanted` may become, the best first; count is at least 1. Errors: UNSUPPORTED,
 * DENIED (passthrough was asked for and cannot be). */
int ffs_fusedriver_modes(enum ffs_page_mode wanted, enum ffs_page_mode out[2], size_t *count,
                         struct cas_err *err) CAS_MUST_CHECK;

/* How uppers are written by this process, with these owners. */
void ffs_fusedriver_binding(const struct ffs_mount_options *options, struct ffs_binding *binding);

/* Mounts in one page mode. upper: NULL when read-only. The record, with its connection and volume,
 * is saved before anything is there that it names. Errors: UNSUPPORTED (also: this mode does not do
 * with this upper), and those of fs. */
int ffs_fusedriver_mount(const struct ffs_host *host, const struct ffs_image *image,
                         const struct ffs_mount_options *options, enum ffs_page_mode mode,
                         const struct ffs_upper *upper, struct ffs_record *record,
                         struct cas_err *err) CAS_MUST_CHECK;
/* Unmounts what a record of this boot names; where a sandbox has mounted it, waits a moment for
 * that to end. Errors: BUSY. */
int ffs_fusedriver_umount(const struct ffs_host *host, const struct ffs_record *record,
                          struct cas_err *err) CAS_MUST_CHECK;
/* Removes volumes and unmounts connections that no record names any more; called when `gone` has
 * been removed. */
int ffs_fusedriver_sweep(const struct ffs_host *host, const struct ffs_record *gone,
                         struct cas_err *err) CAS_MUST_CHECK;

#endif
