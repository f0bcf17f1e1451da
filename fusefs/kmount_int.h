/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's mount API (fsopen, fsconfig, fsmount, move_mount; Linux 5.2 and
 * glibc 2.36), with the kernel's own words in the errors. */
#ifndef FFS_KMOUNT_INT_H
#define FFS_KMOUNT_INT_H

#include "cas/err.h"

/* A file system being configured. */
struct ffs_kmount {
        int context_fd;
        const char *type; /* static */
};
/* Errors: UNSUPPORTED (the kernel lacks the file system), DENIED. */
int ffs_kmount_open(const char *type, struct ffs_kmount *out, struct cas_err *err) CAS_MUST_CHECK;
void ffs_kmount_release(struct ffs_kmount *m);
#define ffs_cleanup_kmount __attribute__((cleanup(ffs_kmount_release)))
int ffs_kmount_set(struct ffs_kmount *m, const char *key, const char *value,
                   struct cas_err *err) CAS_MUST_CHECK;
int ffs_kmount_flag(struct ffs_kmount *m, const char *key, struct cas_err *err) CAS_MUST_CHECK;
/* A path of any length: the kernel takes at most 255 bytes as text, longer ones go as a
 * descriptor (overlayfs: Linux 6.13). */
int ffs_kmount_set_path(struct ffs_kmount *m, const char *key, const char *path,
                        struct cas_err *err) CAS_MUST_CHECK;
/* Makes the super block, or takes the one that the kernel has of the same source, and mounts it
 * nowhere: the descriptor (O_PATH) is its root, and holds it. */
int ffs_kmount_detached(struct ffs_kmount *m, unsigned attributes, int *out_fd,
                        struct cas_err *err) CAS_MUST_CHECK;
/* A layer by its descriptor (overlayfs: Linux 6.13), which must stay open until the end. */
int ffs_kmount_set_fd(struct ffs_kmount *m, const char *key, int fd,
                      struct cas_err *err) CAS_MUST_CHECK;
int ffs_kmount_attach(int fd, const char *dir, struct cas_err *err) CAS_MUST_CHECK;
int ffs_kmount_set_attributes(int fd, unsigned attributes, struct cas_err *err) CAS_MUST_CHECK;
/* Makes the super block and attaches it; attributes are MOUNT_ATTR_*. */
int ffs_kmount_finish(struct ffs_kmount *m, unsigned attributes, const char *dir,
                      struct cas_err *err) CAS_MUST_CHECK;

/* The whole mount at `from` appears at `to` as well; attributes (MOUNT_ATTR_*) are set there. */
int ffs_kmount_bind(const char *from, const char *to, unsigned attributes,
                    struct cas_err *err) CAS_MUST_CHECK;
/* A detached clone of the mount at `dir`, from there downwards, whose ids are shown as userns_fd
 * maps them (inside: on disk, outside: seen). Errors: UNSUPPORTED (the file system cannot). */
int ffs_kmount_clone_mapped(const char *dir, int userns_fd, int *out_fd,
                            struct cas_err *err) CAS_MUST_CHECK;
/* Absent mounts are success. lazy: also when it is in use. Errors: BUSY. */
int ffs_kmount_detach(const char *dir, bool lazy, struct cas_err *err) CAS_MUST_CHECK;

struct ffs_mount_id {
        uint64_t mount_id;
        unsigned dev_major, dev_minor;
        bool is_mount_root;
};
/* Of what is mounted at dir; asks no file system, so that it cannot block. */
int ffs_kmount_identify(const char *dir, struct ffs_mount_id *out,
                        struct cas_err *err) CAS_MUST_CHECK;
int ffs_kmount_identify_fd(int fd, struct ffs_mount_id *out, struct cas_err *err) CAS_MUST_CHECK;

#endif
