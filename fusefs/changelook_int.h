/* SPDX-License-Identifier: Apache-2.0 */
/* What the two walks of changes.c share: names, and where a name of an upper leads
 * to in the view. One thread. */
#ifndef FFS_CHANGELOOK_INT_H
#define FFS_CHANGELOOK_INT_H

#include <sys/types.h>

#include "fusefs/changes_int.h"

struct ffs_names {
        char **list; /* owned, as are its strings */
        size_t count;
        bool sorted;
};
void ffs_names_release(struct ffs_names *n);
#define ffs_cleanup_names __attribute__((cleanup(ffs_names_release)))
void ffs_names_add(struct ffs_names *n, const char *name, size_t len);
/* Byte-wise order, each once: the order of listings among siblings. */
void ffs_names_sort(struct ffs_names *n);
/* Of sorted ones. */
bool ffs_names_have(const struct ffs_names *n, const char *name);

/* A directory that is walked. */
struct ffs_change_dir {
        const char *path;
        unsigned depth;
        int fd;         /* of the upper; -1: it has none */
        uint64_t below; /* what shows through in it, or FFS_VID_NONE */
        uint64_t base;  /* the image's directory at this very path, or FFS_VID_NONE */
        bool hidden;    /* an opaque mark on the way here hides the base */
};

/* All names of a directory, added. */
int ffs_names_of_view(const struct ffs_changes_source *s, uint64_t dir, struct ffs_names *out,
                      struct cas_err *err) CAS_MUST_CHECK;
int ffs_names_of_upper(const struct ffs_changes_source *s, const struct ffs_change_dir *d,
                       struct ffs_names *out, struct cas_err *err) CAS_MUST_CHECK;

/* One name more was looked at. Errors: LIMIT. */
int ffs_change_count(uint64_t *visits, struct cas_err *err) CAS_MUST_CHECK;
/* Of a name in a directory; owned. */
char *ffs_change_path(const char *dir, const char *name);
/* Whether what is at `path` in d may be walked. Errors: LIMIT. */
int ffs_change_check_depth(const struct ffs_change_dir *d, const char *path,
                           struct cas_err *err) CAS_MUST_CHECK;

/* FFS_VID_NONE where there is nothing, and in the directory FFS_VID_NONE. */
int ffs_change_find(const struct ffs_changes_source *s, uint64_t dir, const char *name,
                    uint64_t *out, struct cas_err *err) CAS_MUST_CHECK;
int ffs_change_mode(const struct ffs_changes_source *s, uint64_t vid, mode_t *mode, uint32_t *nlink,
                    struct cas_err *err) CAS_MUST_CHECK;
/* The vid itself if it is a directory, else FFS_VID_NONE. */
int ffs_change_only_directory(const struct ffs_changes_source *s, uint64_t vid, uint64_t *out,
                              struct cas_err *err) CAS_MUST_CHECK;
/* Where a redirect in d leads to. Errors: CORRUPT (nothing is there). */
int ffs_change_redirect(const struct ffs_changes_source *s, const struct ffs_change_dir *d,
                        const char *path, const char *redirect, uint64_t *out,
                        struct cas_err *err) CAS_MUST_CHECK;
/* The directory that shows through a directory of the upper; `named` is what has its name below.
 * Errors: CORRUPT. */
int ffs_change_below(const struct ffs_changes_source *s, const struct ffs_change_dir *d,
                     const char *path, const struct ffs_upper_entry *e, uint64_t named,
                     uint64_t *out, struct cas_err *err) CAS_MUST_CHECK;

#endif
