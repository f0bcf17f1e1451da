/* SPDX-License-Identifier: Apache-2.0 */
/* A program in a sandbox by bubblewrap. The sandbox's first process is
 * tools/enter: it becomes the user, passes signals on and reaps. */
#ifndef TOOLS_SANDBOX_H
#define TOOLS_SANDBOX_H

#include <sys/types.h>

#include "tools/run_spec.h"

/* Starts it. The calling thread's signal mask is handed on: what is blocked waits for the
 * first process and is then acted on, so nothing is lost meanwhile.
 * *out_pid: to be waited for, it ends with the program's status; *out_signal_pid: to be signalled,
 * or 0 when the sandbox ended before it had begun. Errors: NOTFOUND (no bwrap), IO. */
int sandbox_start(const struct run_spec *spec, pid_t *out_pid, pid_t *out_signal_pid,
                  struct cas_err *err) CAS_MUST_CHECK;

#endif
