/* SPDX-License-Identifier: Apache-2.0 */
/* What `mount`, `umount`, `mounts` and `run` share: the host as the owner
 * describes it, an image made ready by the owner, its lease. */
#ifndef TOOLS_MOUNTING_H
#define TOOLS_MOUNTING_H

#include <jansson.h>

#include "fusefs/mount.h"
#include "tools/cli.h"

struct mounting {
        char *store;  /* owned, as all that follows */
        json_t *info; /* of the owner */
        char *program;
        struct ffs_host host; /* borrows from the above */
};
/* Starts an owner when there is none. */
int mounting_open(const struct cli *cli, struct mounting *out, struct cas_err *err) CAS_MUST_CHECK;
void mounting_close(struct mounting *m);
#define mounting_cleanup __attribute__((cleanup(mounting_close)))

/* Has the owner make the image ready. *prepared (a new reference) is its answer
 * (spec/control.md, mount-prepare), `image` the same for ffs_mount. */
struct mounting_wish {
        const char *platform; /* NULL: this host's */
        const char *pull;     /* of images at a registry (spec/control.md); NULL: what is missing */
        bool no_background;   /* what is not read is not brought */
};
int mounting_prepare(const struct mounting *m, const char *name, const struct mounting_wish *wish,
                     struct ffs_image *image, json_t **prepared,
                     struct cas_err *err) CAS_MUST_CHECK;
/* The same of a manifest that the store has under whatever name; `name` is for people. */
int mounting_prepare_manifest(const struct mounting *m, const char *name,
                              const struct cas_digest *manifest, struct ffs_image *image,
                              json_t **prepared, struct cas_err *err) CAS_MUST_CHECK;
/* It is not mounted after all: the lease goes. */
void mounting_forget(const struct mounting *m, const json_t *prepared);
/* The same by any operation that answers so; args: without the owner. */
int mounting_prepare_by(const struct mounting *m, const char *op, json_t *args,
                        struct ffs_image *image, json_t **prepared,
                        struct cas_err *err) CAS_MUST_CHECK;
/* Mounts what was prepared; the lease is kept for as long as the mount, or dropped when
 * it fails. */
int mounting_mount(const struct mounting *m, const struct ffs_image *image, const json_t *prepared,
                   const struct ffs_mount_options *options, struct ffs_mount_info *out,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Unmounts and drops the lease. */
int mounting_umount(const struct mounting *m, const char *dir, struct ffs_mount_info *out,
                    struct cas_err *err) CAS_MUST_CHECK;

/* "auto", "overlay", "fuse"; NULL: auto. Errors: INVALID. */
int mounting_driver(const char *text, enum ffs_driver *out, struct cas_err *err) CAS_MUST_CHECK;
/* {"dir", "name", "manifest", "driver", "rw", "upper"}; a new reference. */
json_t *mounting_info_json(const struct ffs_mount_info *info);

#endif
