/* SPDX-License-Identifier: Apache-2.0 */
/* RUN_DIR/fs.sock: what commands tell `lamina fs` (spec/mounts.md, "fs.sock").
 * The listening socket is an item that hold keeps, so a connection that is made
 * while fs is replaced waits for the successor. */
#ifndef FFS_FSCONTROL_INT_H
#define FFS_FSCONTROL_INT_H

#include "fusefs/treeset_int.h"

#define FFS_FS_SOCKET_NAME "fs.sock"
#define FFS_FS_MESSAGE_BYTES_MAX 32768

/* ---- fs ---- */

struct ffs_fscontrol;
struct ffs_fscontrol_config {
        const char *run_dir; /* borrowed for good, as the others */
        struct ffs_keep *keep;
        struct ffs_treeset *trees;
        struct ffs_slots *slots; /* of the object file system, for the status; NULL: none */
};
/* Listens, where a predecessor did not, and starts the thread that answers. */
int ffs_fscontrol_start(const struct ffs_fscontrol_config *config, struct ffs_fscontrol **out,
                        struct cas_err *err) CAS_MUST_CHECK;
/* Gives the run directory up: nobody is answered any more, and another fs may listen. */
void ffs_fscontrol_leave(struct ffs_fscontrol *c);
/* A command has asked for that. */
bool ffs_fscontrol_has_left(const struct ffs_fscontrol *c);

/* ---- commands ---- */
/* Each asks once, and again when fs dies before it has answered. All block, and have these errors
 * beside those of the treeset: NOTFOUND and BUSY with sys_errno set (there is no fs), IO. */

int ffs_fs_tree_add(const char *run_dir, const struct ffs_tree_spec *tree, int fuse_fd,
                    const struct ffs_volume_spec *volume, int dir_fd,
                    struct cas_err *err) CAS_MUST_CHECK;
int ffs_fs_volume_add(const char *run_dir, const char *tree, const struct ffs_volume_spec *volume,
                      int dir_fd, struct ffs_tree_spec *out, struct cas_err *err) CAS_MUST_CHECK;
int ffs_fs_volume_remove(const char *run_dir, const char *tree, const char *id,
                         struct cas_err *err) CAS_MUST_CHECK;
/* JSON text; owned. */
int ffs_fs_status(const char *run_dir, char **out, struct cas_err *err) CAS_MUST_CHECK;
int ffs_fs_leave(const char *run_dir, struct cas_err *err) CAS_MUST_CHECK;

#endif
