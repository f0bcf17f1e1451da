/* SPDX-License-Identifier: Apache-2.0 */
/* Owners of an image's files as a mount shows them. "Image ids" are what trees
 * and layers say; "host ids" what the kernel sees at the mount. On the
 * disk of an upper are image ids. Values; no state. */
#ifndef FFS_IDMAP_INT_H
#define FFS_IDMAP_INT_H

#include "cas/err.h"

#define FFS_IDMAP_RANGES_MAX 8
#define FFS_IDMAP_TEXT_BYTES 640 /* holds the longest */

struct ffs_id_range {
        uint32_t image, host, count;
};
struct ffs_idmap {
        size_t uid_count, gid_count; /* 0: the same on both sides */
        struct ffs_id_range uids[FFS_IDMAP_RANGES_MAX];
        struct ffs_id_range gids[FFS_IDMAP_RANGES_MAX];
        bool squash; /* an image id without a range is shown as the host id of image id 0 */
};
/* What has no counterpart (and is not squashed) is the overflow id, 65534. */
uint32_t ffs_idmap_uid_to_host(const struct ffs_idmap *m, uint32_t image_uid);
uint32_t ffs_idmap_gid_to_host(const struct ffs_idmap *m, uint32_t image_gid);
/* False where no image id stands for it: chown is then refused with EINVAL. */
bool ffs_idmap_uid_to_image(const struct ffs_idmap *m, uint32_t host_uid, uint32_t *out);
bool ffs_idmap_gid_to_image(const struct ffs_idmap *m, uint32_t host_gid, uint32_t *out);

/* "IMAGE:HOST:COUNT[,…]" for uids, then ";" and the same for gids, then ";squash" if so; "" is the
 * identity. Ranges must not overlap on either side. Errors: INVALID.
 * out of format: FFS_IDMAP_TEXT_BYTES hold any. */
int ffs_idmap_parse(const char *text, struct ffs_idmap *out, struct cas_err *err) CAS_MUST_CHECK;
void ffs_idmap_format(const struct ffs_idmap *m, char *out, size_t out_bytes);

/* Ids in the value of a POSIX ACL's xattr, in place; what is no ACL stays as it is. False: an id
 * has no counterpart (EINVAL, as for chown). */
void ffs_idmap_acl_to_host(const struct ffs_idmap *m, void *acl, size_t len);
bool ffs_idmap_acl_to_image(const struct ffs_idmap *m, void *acl, size_t len) CAS_MUST_CHECK;

/* Ids in the value of any xattr: of ACLs, and of capabilities, which are then for who is shown as
 * the image's root and for no other root. In place; the value may become longer by
 * FFS_IDMAP_XATTR_GROWTH bytes, for which there must be room. to_host: its length then. */
#define FFS_IDMAP_XATTR_GROWTH 4
size_t ffs_idmap_xattr_to_host(const struct ffs_idmap *m, const char *name, void *value,
                               size_t len);
bool ffs_idmap_xattr_to_image(const struct ffs_idmap *m, const char *name, void *value,
                              size_t *len) CAS_MUST_CHECK;

#endif
