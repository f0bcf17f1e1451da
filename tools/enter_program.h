/* SPDX-License-Identifier: Apache-2.0 */
/* The first process of a sandbox (tools/enter), as it is carried in this
 * program: an executable file without a name, and its arguments. */
#ifndef TOOLS_ENTER_PROGRAM_H
#define TOOLS_ENTER_PROGRAM_H

#include "tools/run_spec.h"

/* Where a runtime finds it: at this descriptor of its own. */
#define ENTER_PROGRAM_FD 3
#define ENTER_PROGRAM_PATH "/proc/self/fd/3"
/* And where it finds the user namespace that it is to join, if there is one. */
#define ENTER_USERNS_FD 4

/* *out_fd: read-only, close-on-exec. Errors: NOMEM, IO. */
int enter_program_open(int *out_fd, struct cas_err *err) CAS_MUST_CHECK;
/* ENTER_PROGRAM_PATH and what it is to do for spec. NULL-terminated; the list and its strings are
 * owned by the caller. */
char **enter_program_argv(const struct run_spec *spec);

#endif
