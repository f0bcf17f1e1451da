/* SPDX-License-Identifier: Apache-2.0 */
/* Programs that this one carries inside of itself, to start where no file of theirs can be
 * relied on. */
#ifndef TOOLS_CARRIED_H
#define TOOLS_CARRIED_H

#include "cas/err.h"

/* A descriptor of a sealed file in memory that has the bytes, to be run as /proc/self/fd/N. */
int carried_open(const char *name, const char *start, const char *end, int *out_fd,
                 struct cas_err *err) CAS_MUST_CHECK;

#endif
