/* SPDX-License-Identifier: Apache-2.0 */
/* Helper programs of the system. */
#ifndef CAS_PROGRAM_H
#define CAS_PROGRAM_H

#include "cas/err.h"

/* Where administrators' programs are, whatever PATH this process has. */
#define CAS_PROGRAM_PATH "PATH=/usr/sbin:/sbin:/usr/bin:/bin"

/* Runs a program found by PATH to its end, without input and output; argv and envp end with NULL.
 * `package` is where it comes from, for the message. Blocks. Thread-safe. Errors: UNSUPPORTED (it
 * is not installed, or it failed: the message is the last line that it wrote on stderr). */
int cas_program_run(const char *const *argv, const char *const *envp, const char *package,
                    struct cas_err *err) CAS_MUST_CHECK;

#endif
