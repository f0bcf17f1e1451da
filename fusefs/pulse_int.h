/* SPDX-License-Identifier: Apache-2.0 */
/* A sign of life that ends with the first moment of a process's death, and not
 * with its last thread: one that waits in the kernel, for a file system that this
 * very process serves, goes only once a successor has answered it. */
#ifndef FFS_PULSE_INT_H
#define FFS_PULSE_INT_H

#include "cas/err.h"

#define FFS_PULSE_ITEM "pulse" /* by this name `lamina hold` gets the descriptor */

/* The descriptor, the caller's, hangs up (POLLHUP) when this process is killed or ends. */
int ffs_pulse_start(int *out_fd, struct cas_err *err) CAS_MUST_CHECK;

#endif
