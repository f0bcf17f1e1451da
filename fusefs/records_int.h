/* SPDX-License-Identifier: Apache-2.0 */
/* RUN_DIR and the records of mounts in it (spec/mounts.md, "RUN_DIR"): one JSON
 * file for each mount that a person asked for, named by its directory. The
 * caller holds the lock of RUN_DIR while it changes anything. */
#ifndef FFS_RECORDS_INT_H
#define FFS_RECORDS_INT_H

#include "cas/io.h"
#include "fusefs/mount.h"

#define FFS_TREES_MAX 4
#define FFS_IMAGE_KEY_BYTES 80

struct ffs_record {
        struct ffs_mount_info info;
        char image[FFS_IMAGE_KEY_BYTES]; /* directory below images/; "" when writable */
        size_t tree_count;
        struct cas_digest trees[FFS_TREES_MAX];
        bool upper_is_ours;  /* removed with the mount */
        char connection[40]; /* fuse driver: of fs, and the volume in it; else "" */
        char volume[40];
        char boot[40]; /* boot id of the kernel that mounted it */
};

/* Makes RUN_DIR's directories and takes its lock, waiting for others; the descriptor is the lock.
 */
int ffs_run_lock(const char *run_dir, int *out_fd, struct cas_err *err) CAS_MUST_CHECK;
/* The id of a mount on an absolute directory; out as in ffs_mount_info. */
void ffs_record_id(const char *dir, char out[40]);
int ffs_boot_id(char out[40], struct cas_err *err) CAS_MUST_CHECK;

/* Errors: NOTFOUND, CORRUPT. */
int ffs_record_load(const char *run_dir, const char *id, struct ffs_record *out,
                    struct cas_err *err) CAS_MUST_CHECK;
int ffs_record_save(const char *run_dir, const struct ffs_record *record,
                    struct cas_err *err) CAS_MUST_CHECK;
int ffs_record_remove(const char *run_dir, const char *id, struct cas_err *err) CAS_MUST_CHECK;
/* Damaged ones are reported to the log and passed over; fn false ends. */
int ffs_record_each(const char *run_dir, bool (*fn)(void *arg, const struct ffs_record *record),
                    void *arg, struct cas_err *err) CAS_MUST_CHECK;

/* Text of the record (owned; NULL when a path is not UTF-8), and the record of a text.
 * Errors: CORRUPT. */
char *ffs_record_format(const struct ffs_record *record);
int ffs_record_parse(const char *text, size_t len, struct ffs_record *out,
                     struct cas_err *err) CAS_MUST_CHECK;

/* Replaces a small file of RUN_DIR at once; not durable, as RUN_DIR is not. */
int ffs_run_write(const char *path, const char *text, struct cas_err *err) CAS_MUST_CHECK;

#endif
