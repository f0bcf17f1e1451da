/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the upper layer (upperlayer_int.h) share: its struct, system
 * calls on a place of the disk, owners in xattrs, names of xattrs. For
 * upper*.c and their tests alone. */
#ifndef FFS_UPPERPARTS_INT_H
#define FFS_UPPERPARTS_INT_H

#include <stdatomic.h>

#include "fusefs/upperlayer_int.h"

#define FFS_UPPER_XATTR_NAME_BYTES 256    /* 255 and the end */
#define FFS_UPPER_XATTR_BYTES_MAX 65536   /* of a value, and of a list: the kernel's own limits */
#define FFS_UPPER_REDIRECT_BYTES_MAX 4096 /* the kernel writes 256 at most */
#define FFS_UPPER_DEPTH_MAX 2048          /* of directories, where all are walked */
#define FFS_UPPER_TEMP_BYTES 40
/* What an inode costs against the limit beside its blocks, so that empty files are not free. */
#define FFS_UPPER_INODE_BYTES 512

struct ffs_upperlayer {
        struct ffs_upperlayer_config config;
        int root_fd;      /* O_PATH of upper/ */
        int work_base_fd; /* O_PATH of work/; -1 where it is not there (read_only) */
        int work_fd;      /* O_PATH of work/work, on the same file system; -1: read_only */
        uid_t owner; /* of upper/: whose everything is that says nothing else (owners_in_xattrs) */
        uid_t euid;  /* who serves */
        gid_t egid;
        const char *prefix; /* of overlayfs's own xattrs, with its last dot */
        size_t prefix_len;
        uint64_t seed;               /* of names in work/: none is used again by a successor */
        _Atomic uint64_t next;       /* the rest of such names */
        _Atomic uint64_t used_bytes; /* where there is a limit */
};

/* ---- a place on the disk (upperdisk.c) ---- */

/* One name of a directory, or what a descriptor stands for. Links are not followed. All of these
 * return 0 (or bytes) or a negative errno, and work on descriptors of O_PATH. */
struct ffs_place {
        int fd;
        const char *name; /* NULL: fd itself */
};
int ffs_place_stat(struct ffs_place at, struct stat *out);
ssize_t ffs_place_getxattr(struct ffs_place at, const char *name, void *value, size_t size);
ssize_t ffs_place_listxattr(struct ffs_place at, char *list, size_t size);
int ffs_place_setxattr(struct ffs_place at, const char *name, const void *value, size_t size,
                       int flags);
int ffs_place_removexattr(struct ffs_place at, const char *name);
int ffs_place_chmod(struct ffs_place at, mode_t mode);
int ffs_place_chown(struct ffs_place at, uid_t uid, gid_t gid);
int ffs_place_utimens(struct ffs_place at, const struct timespec times[2]);
/* One name more for what fd stands for. */
int ffs_place_link(int fd, int dirfd, const char *name);
/* The list of xattrs, owned, ended by an empty name; NULL where there is none or no memory. */
int ffs_place_xattr_names(struct ffs_place at, char **out, size_t *out_len);
/* A value up to max_bytes, owned and ended by a zero byte that does not count. E2BIG: longer. */
int ffs_place_xattr_value(struct ffs_place at, const char *name, size_t max_bytes, uint8_t **out,
                          size_t *out_len);

/* ---- marks (upperattr.c) ---- */

/* What came into a directory: where it stands for something elsewhere below, overlayfs is told to
 * look for inode numbers there when it lists the directory. */
int ffs_upper_note_impure(struct ffs_upperlayer *u, struct ffs_place at, int dirfd);

/* ---- names (upperlayer.c) ---- */

/* A name in work/ that nobody has, for what goes with its step. */
void ffs_upper_work_name(struct ffs_upperlayer *u, char out[FFS_UPPER_TEMP_BYTES]);
/* Whether a name is one that callers may give what they hide. */
bool ffs_upper_is_hidden_name(const char *name);
/* Removes a file or a directory with all in it from work/. */
int ffs_upper_work_remove(struct ffs_upperlayer *u, const char *name);
/* Whether a name is one component that may be in a directory. */
bool ffs_upper_is_name(const char *name);

/* ---- marks (upperlook.c) ---- */

/* "PREFIXmark" of this upper's format. */
void ffs_upper_mark_name(const struct ffs_upperlayer *u, const char *mark,
                         char out[FFS_UPPER_XATTR_NAME_BYTES]);
/* Whether a redirect is one that overlayfs follows; relative ones are one name. */
bool ffs_upper_redirect_is_valid(const char *text, size_t len);
bool ffs_upper_metacopy_is_valid(const uint8_t *value, size_t len);
int ffs_upper_kind(struct ffs_place at, const struct ffs_upperlayer *u, enum ffs_upper_kind *out,
                   struct stat *st);
/* Whether a directory holds nothing but whiteouts: 0, -ENOTEMPTY. */
int ffs_upper_only_whiteouts(struct ffs_upperlayer *u, int dirfd, const char *name);

/* ---- owners (upperowner.c) ---- */

#define FFS_OVERRIDE_XATTR "user.containers.override_stat"
#define FFS_OVERRIDE_PREFIX "user.containers.override_"
#define FFS_OVERRIDE_TEXT_BYTES 96

struct ffs_override {
        uint32_t uid, gid;
        mode_t mode; /* permissions, and S_IFMT unless has_type is false */
        bool has_type;
        dev_t rdev;
};
/* "UID:GID:MODE[:TYPE]". False: no such text. */
bool ffs_override_parse(const char *text, size_t len, struct ffs_override *out);
void ffs_override_format(const struct ffs_override *o, char out[FFS_OVERRIDE_TEXT_BYTES]);
/* Turns what is on the disk into what is shown. has_override: its text may be there. EUCLEAN: it
 * contradicts the file. */
int ffs_upper_show_stat(const struct ffs_upperlayer *u, struct ffs_place at, bool has_override,
                        struct stat *st);
/* Permissions on the disk of what is shown with `mode`. */
mode_t ffs_upper_disk_mode(const struct ffs_upperlayer *u, mode_t mode);
/* Writes owner and mode of what was made a moment ago; type (and device) is in mode. */
int ffs_upper_put_owner(const struct ffs_upperlayer *u, struct ffs_place at, uint32_t uid,
                        uint32_t gid, mode_t mode, dev_t rdev);
/* Changes the permissions of what is shown as st says to those of `mode` (its type is st's). */
int ffs_upper_put_mode(const struct ffs_upperlayer *u, struct ffs_place at, const struct stat *st,
                       mode_t mode);
/* Whether a text has to be kept for this owner and mode. */
bool ffs_upper_needs_override(const struct ffs_upperlayer *u, uint32_t uid, uint32_t gid,
                              mode_t mode);

/* ---- POSIX ACLs as system.posix_acl_* xattrs hold them (upperacl.c) ---- */

#define FFS_ACL_ACCESS "system.posix_acl_access"
#define FFS_ACL_DEFAULT "system.posix_acl_default"

bool ffs_acl_is_valid(const uint8_t *acl, size_t len);
/* The rest take valid ones. */
/* Permissions that it means; true where it says nothing beyond them. */
bool ffs_acl_to_mode(const uint8_t *acl, size_t len, mode_t *permissions);
/* A default ACL becomes that of a new file of `mode`, which is cut; true where the mode says it
 * all. */
bool ffs_acl_inherit(uint8_t *acl, size_t len, mode_t *mode);
void ffs_acl_chmod(uint8_t *acl, size_t len, mode_t mode);

/* ---- xattrs (upperxattr.c) ---- */

/* The name on the disk of a name that the sandbox uses: 0, -ERANGE (too long). */
int ffs_upper_xattr_to_disk(const struct ffs_upperlayer *u, const char *name,
                            char out[FFS_UPPER_XATTR_NAME_BYTES]);
/* The reverse; false where it is not shown. */
bool ffs_upper_xattr_from_disk(const struct ffs_upperlayer *u, const char *disk,
                               char out[FFS_UPPER_XATTR_NAME_BYTES]);
/* As ffs_upper_setxattr, of any place. */
int ffs_upper_put_xattr(const struct ffs_upperlayer *u, struct ffs_place at, const char *name,
                        const void *value, size_t size, int flags);
/* What a new file gets of the default ACL of its directory; *mode is cut by it. */
int ffs_upper_inherit_acl(const struct ffs_upperlayer *u, int dirfd, struct ffs_place at,
                          mode_t *mode);

/* ---- space (upperspace.c) ---- */

int ffs_upper_count(struct ffs_upperlayer *u);
int ffs_upper_charge_inode(struct ffs_upperlayer *u);
/* What a name costs that goes; counted back. st: before it went. */
void ffs_upper_credit(struct ffs_upperlayer *u, const struct stat *st);

/* ---- index (upperindex.c) ---- */

/* The name of an index entry: where its inode lies below. False: of another form. */
bool ffs_upper_index_name_parse(const char *name, uint8_t uuid[16], uint64_t *nid);

#endif
