/* SPDX-License-Identifier: Apache-2.0 */
/* A file that an export writes: under a temporary name beside it, synced and
 * renamed when it is whole. What is not a regular file (a pipe, /dev/stdout) is
 * written to as it is. Private to cas/export*.c. One thread. */
#ifndef CAS_OUTFILE_INT_H
#define CAS_OUTFILE_INT_H

#include "cas/err.h"

struct cas_outfile {
        int fd;
        const char *path; /* borrowed */
        char *temporary;  /* owned; NULL: written in place */
};
int cas_outfile_open(struct cas_outfile *o, const char *path, struct cas_err *err) CAS_MUST_CHECK;
/* Appends; arg is the file. */
int cas_outfile_write(void *arg, const void *data, size_t len, struct cas_err *err) CAS_MUST_CHECK;
/* Writes at a place of a file that has a temporary name. */
int cas_outfile_write_at(const struct cas_outfile *o, const void *data, size_t len, uint64_t offset,
                         struct cas_err *err) CAS_MUST_CHECK;
/* r: how the writing went. Gives the file its name, durably, or takes it away. Returns r, or what
 * went wrong here. */
int cas_outfile_close(struct cas_outfile *o, int r, struct cas_err *err) CAS_MUST_CHECK;

#endif
