/* SPDX-License-Identifier: Apache-2.0 */
/* What a file system answers for an error of the store. */
#ifndef FFS_ERR_H
#define FFS_ERR_H

#include "cas/err.h"

/* A positive errno; CAS_OK gives 0. */
int ffs_errno_of(enum cas_code code);

#endif
