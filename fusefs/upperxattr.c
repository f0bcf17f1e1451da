/* SPDX-License-Identifier: Apache-2.0 */
/* Extended attributes as a sandbox sees them. overlayfs's own names are escaped
 * and unescaped as overlayfs does (PREFIXoverlay.X is shown as PREFIXX). Where
 * the process has no privileges, what it may not set is kept under
 * user.containers.override_NAME; ACLs among it, which the disk would apply, are
 * applied by us. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/xattr.h>

#include "fusefs/upperparts_int.h"

#define ESCAPE "overlay."

static bool starts(const char *s, const char *with)
{
        return strncmp(s, with, strlen(with)) == 0;
}

/* ---- names ---- */

/* What a user may not set, or must not be able to say to us. */
static bool is_kept_aside(const struct ffs_upperlayer *u, const char *name)
{
        return u->config.owners_in_xattrs &&
               (starts(name, "security.") || starts(name, "trusted.") ||
                starts(name, "system.posix_acl_") || starts(name, FFS_OVERRIDE_PREFIX));
}

int ffs_upper_xattr_to_disk(const struct ffs_upperlayer *u, const char *name,
                            char out[FFS_UPPER_XATTR_NAME_BYTES])
{
        int n;
        if (starts(name, u->prefix))
                n = snprintf(out, FFS_UPPER_XATTR_NAME_BYTES, "%s%s%s", u->prefix, ESCAPE,
                             name + u->prefix_len);
        else
                n = snprintf(out, FFS_UPPER_XATTR_NAME_BYTES, "%s%s",
                             is_kept_aside(u, name) ? FFS_OVERRIDE_PREFIX : "", name);
        return n < FFS_UPPER_XATTR_NAME_BYTES ? 0 : -ERANGE;
}

bool ffs_upper_xattr_from_disk(const struct ffs_upperlayer *u, const char *disk,
                               char out[FFS_UPPER_XATTR_NAME_BYTES])
{
        const char *shown = disk;
        if (starts(disk, u->prefix)) {
                if (!starts(disk + u->prefix_len, ESCAPE))
                        return false;
                (void)snprintf(out, FFS_UPPER_XATTR_NAME_BYTES, "%s%s", u->prefix,
                               disk + u->prefix_len + strlen(ESCAPE));
                return true;
        }
        if (u->config.owners_in_xattrs && starts(disk, FFS_OVERRIDE_PREFIX)) {
                shown = disk + strlen(FFS_OVERRIDE_PREFIX);
                if (!is_kept_aside(u, shown) || starts(shown, u->prefix))
                        return false;
        } else if (is_kept_aside(u, disk)) {
                return false; /* the disk's own, a label for instance */
        }
        int n = snprintf(out, FFS_UPPER_XATTR_NAME_BYTES, "%s", shown);
        return n > 0 && n < FFS_UPPER_XATTR_NAME_BYTES;
}

/* ---- ACLs ---- */

static bool is_acl(const char *name)
{
        return strcmp(name, FFS_ACL_ACCESS) == 0 || strcmp(name, FFS_ACL_DEFAULT) == 0;
}

/* An access ACL that is kept aside: the disk does not make the mode follow it, so we do. */
static int put_kept_access(const struct ffs_upperlayer *u, struct ffs_place at, const uint8_t *acl,
                           size_t len, int flags)
{
        char text[FFS_OVERRIDE_TEXT_BYTES];
        struct stat st;
        int rc = ffs_place_stat(at, &st);
        if (rc < 0)
                return rc;
        ssize_t n = ffs_place_getxattr(at, FFS_OVERRIDE_XATTR, text, sizeof(text));
        rc = ffs_upper_show_stat(u, at, n >= 0, &st);
        if (rc < 0)
                return rc;
        mode_t permissions;
        bool minimal = ffs_acl_to_mode(acl, len, &permissions);
        if (minimal) {
                rc = ffs_place_removexattr(at, FFS_OVERRIDE_PREFIX FFS_ACL_ACCESS);
                rc = rc == -ENODATA ? 0 : rc;
        } else {
                rc = ffs_place_setxattr(at, FFS_OVERRIDE_PREFIX FFS_ACL_ACCESS, acl, len, flags);
        }
        return rc < 0 ? rc
                      : ffs_upper_put_mode(u, at, &st, (st.st_mode & ~(mode_t)0777) | permissions);
}

static int put_kept_acl(const struct ffs_upperlayer *u, struct ffs_place at, const char *name,
                        const void *value, size_t size, int flags)
{
        if (!ffs_acl_is_valid(value, size))
                return -EINVAL;
        struct stat st;
        int rc = ffs_place_stat(at, &st);
        if (rc < 0)
                return rc;
        if (strcmp(name, FFS_ACL_ACCESS) == 0)
                return put_kept_access(u, at, value, size, flags);
        return S_ISDIR(st.st_mode) ? ffs_place_setxattr(at, FFS_OVERRIDE_PREFIX FFS_ACL_DEFAULT,
                                                        value, size, flags)
                                   : -EACCES;
}

int ffs_upper_inherit_acl(const struct ffs_upperlayer *u, int dirfd, struct ffs_place at,
                          mode_t *mode)
{
        bool kept = u->config.owners_in_xattrs;
        const char *from = kept ? FFS_OVERRIDE_PREFIX FFS_ACL_DEFAULT : FFS_ACL_DEFAULT;
        const char *access = kept ? FFS_OVERRIDE_PREFIX FFS_ACL_ACCESS : FFS_ACL_ACCESS;
        cas_cleanup_free uint8_t *acl = NULL;
        size_t len;
        int rc = ffs_place_xattr_value((struct ffs_place){dirfd, "."}, from,
                                       FFS_UPPER_XATTR_BYTES_MAX, &acl, &len);
        if (rc == -ENODATA || rc == -EOPNOTSUPP)
                return 0;
        if (rc < 0)
                return rc;
        if (!ffs_acl_is_valid(acl, len))
                return -EUCLEAN;
        if (S_ISDIR(*mode))
                rc = ffs_place_setxattr(at, from, acl, len, 0);
        if (rc == 0 && !ffs_acl_inherit(acl, len, mode))
                rc = ffs_place_setxattr(at, access, acl, len, 0);
        return rc;
}

/* ---- values ---- */

int ffs_upper_put_xattr(const struct ffs_upperlayer *u, struct ffs_place at, const char *name,
                        const void *value, size_t size, int flags)
{
        char disk[FFS_UPPER_XATTR_NAME_BYTES];
        int rc = ffs_upper_xattr_to_disk(u, name, disk);
        if (rc < 0)
                return rc;
        if (is_acl(name) && u->config.owners_in_xattrs)
                return put_kept_acl(u, at, name, value, size, flags);
        return ffs_place_setxattr(at, disk, value, size, flags);
}

int ffs_upper_setxattr(struct ffs_upperlayer *u, int fd, const char *name, const void *value,
                       size_t size, int flags)
{
        return ffs_upper_put_xattr(u, (struct ffs_place){fd, NULL}, name, value, size, flags);
}

ssize_t ffs_upper_getxattr(struct ffs_upperlayer *u, int fd, const char *name, void *value,
                           size_t size)
{
        char disk[FFS_UPPER_XATTR_NAME_BYTES];
        struct ffs_place at = {fd, NULL};
        if (ffs_upper_xattr_to_disk(u, name, disk) < 0)
                return -ENODATA; /* none can have been set */
        ssize_t n = ffs_place_getxattr(at, disk, value, size);
        /* Links and special files have no user.* xattrs, where other names would be kept. */
        return n == -EPERM && strcmp(disk, name) != 0 ? -ENODATA : n;
}

ssize_t ffs_upper_listxattr(struct ffs_upperlayer *u, int fd, char *list, size_t size)
{
        cas_cleanup_free char *names = NULL;
        size_t len, used = 0;
        int rc = ffs_place_xattr_names((struct ffs_place){fd, NULL}, &names, &len);
        if (rc < 0)
                return rc;
        for (size_t i = 0; i < len; i += strlen(names + i) + 1) {
                char shown[FFS_UPPER_XATTR_NAME_BYTES];
                if (!ffs_upper_xattr_from_disk(u, names + i, shown))
                        continue;
                size_t n = strlen(shown) + 1;
                if (size > 0 && n > size - used)
                        return -ERANGE;
                if (size > 0)
                        memcpy(list + used, shown, n);
                used += n;
        }
        return (ssize_t)used;
}

int ffs_upper_removexattr(struct ffs_upperlayer *u, int fd, const char *name)
{
        char disk[FFS_UPPER_XATTR_NAME_BYTES];
        if (ffs_upper_xattr_to_disk(u, name, disk) < 0)
                return -ENODATA;
        return ffs_place_removexattr((struct ffs_place){fd, NULL}, disk);
}
