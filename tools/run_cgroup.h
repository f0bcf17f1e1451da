/* SPDX-License-Identifier: Apache-2.0 */
/* The memory limit of a sandbox: a control group of its own, of either version
 * of the kernel's hierarchy, below one named lamina. Needs root. */
#ifndef TOOLS_RUN_CGROUP_H
#define TOOLS_RUN_CGROUP_H

#include "cas/err.h"

/* Makes the group `id`. *procs_fd: who writes "0" to it is in it; close-on-exec.
 * Errors: UNSUPPORTED (no memory controller to be used), DENIED. */
int run_cgroup_make(const char *id, uint64_t memory_bytes, int *procs_fd,
                    struct cas_err *err) CAS_MUST_CHECK;
/* Once nobody is in it any more, for which this waits a little. Absent is success. */
void run_cgroup_remove(const char *id);

#endif
