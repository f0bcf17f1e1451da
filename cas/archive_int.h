/* SPDX-License-Identifier: Apache-2.0 */
/* An archive of images: a tar whose members are found by name and read by
 * offset. Names are keys only: nothing of the archive reaches a file system. */
#ifndef CAS_ARCHIVE_INT_H
#define CAS_ARCHIVE_INT_H

#include "cas/map.h"
#include "cas/source_int.h"

struct cas_archive {
        int fd;                             /* the tar, not compressed */
        struct cas_map *at;                 /* owned; name -> index in members */
        struct cas_archive_member *members; /* owned */
        size_t count;
};

/* Opens and walks it, headers only. A compressed file or a pipe is first copied, decoded, to a file
 * without a name in tmp_dirfd. Errors: CORRUPT, LIMIT, INVALID, and I/O. */
int cas_archive_open(const char *path, int tmp_dirfd, struct cas_archive *out,
                     struct cas_err *err) CAS_MUST_CHECK;
void cas_archive_release(struct cas_archive *a);
/* The bytes of a regular file in it; links are followed within the archive, a few of them.
 * out borrows the archive's descriptor. Errors: NOTFOUND, INVALID. */
int cas_archive_stream(const struct cas_archive *a, const char *name, struct cas_stream *out,
                       struct cas_err *err) CAS_MUST_CHECK;
/* A whole file, appended. Errors: NOTFOUND, LIMIT, INVALID. */
int cas_archive_read(const struct cas_archive *a, const char *name, size_t max_bytes,
                     struct cas_buf *out, struct cas_err *err) CAS_MUST_CHECK;

#endif
