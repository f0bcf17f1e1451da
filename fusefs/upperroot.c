/* SPDX-License-Identifier: Apache-2.0 */
/* The root of a new upper: it covers the image's, and so is made like it. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "cas/tree.h"
#include "fusefs/upper_int.h"
#include "fusefs/upperlayer_int.h"

struct root {
        struct ffs_upperlayer *upper;
        int fd; /* borrowed */
        int rc; /* negative errno of the first xattr that could not be set */
};

static bool take_xattr(void *arg, const char *name, const void *value, size_t len)
{
        struct root *r = arg;
        int rc = ffs_upper_setxattr(r->upper, r->fd, name, value, len, 0);
        if (rc == -EPERM || rc == -EOPNOTSUPP) /* as users and file systems cannot have all */
                return true;
        r->rc = rc;
        return rc == 0;
}

/* Owner first, since it takes rights away; times last. */
static int take_attributes(struct root *r, const struct cas_tree *tree,
                           const struct cas_inode *inode, struct cas_err *err)
{
        const struct timespec times[2] = {
                {.tv_nsec = UTIME_OMIT},
                {.tv_sec = (time_t)inode->mtime_s, .tv_nsec = (long)inode->mtime_ns}};
        int rc = ffs_upper_chown(r->upper, r->fd, inode->uid, inode->gid);
        if (rc == 0)
                rc = ffs_upper_chmod(r->upper, r->fd, inode->mode & 07777);
        if (rc == 0 && cas_tree_xattrs(tree, inode->nid, take_xattr, r, err) < 0)
                return -(int)err->code;
        if (rc == 0)
                rc = r->rc;
        if (rc == 0)
                rc = ffs_upper_utimens(r->upper, r->fd, times);
        return rc < 0 ? cas_fail_sys(err, -rc, "attributes of the upper directory") : 0;
}

int ffs_upper_take_root(const struct ffs_upper *u, const char *tree_path, struct cas_err *err)
{
        const struct ffs_upperlayer_config config = {.dir_fd = u->fd,
                                                     .format = u->binding.format,
                                                     .owners_in_xattrs =
                                                             u->binding.owners_in_xattrs};
        cas_cleanup_tree struct cas_tree *tree = NULL;
        struct cas_inode inode;
        struct root root = {0};
        cas_cleanup_fd int fd = open(tree_path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open tree %s", tree_path);
        if (cas_tree_open_fd(fd, &tree, err) < 0 ||
            cas_tree_inode(tree, cas_tree_root(tree), &inode, err) < 0)
                return cas_err_wrap(err, "tree %s", tree_path);
        int rc = ffs_upperlayer_open(&config, &root.upper);
        if (rc < 0)
                return cas_fail_sys(err, -rc, "open the upper directory");
        root.fd = ffs_upperlayer_root_fd(root.upper);
        rc = take_attributes(&root, tree, &inode, err);
        ffs_upperlayer_close(root.upper);
        return rc;
}
