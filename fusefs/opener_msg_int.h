/* SPDX-License-Identifier: Apache-2.0 */
/* What `lamina fs` and `lamina opener`, which are the same program on the same
 * machine, send each other: one packet each. */
#ifndef FFS_OPENER_MSG_INT_H
#define FFS_OPENER_MSG_INT_H

#include "cas/digest.h"

enum ffs_opener_kind {
        FFS_OPENER_OPEN,       /* the reply carries a descriptor, or an error */
        FFS_OPENER_PREPARE,    /* [from, to) is asked for, the inode kept a while, and replied */
        FFS_OPENER_READ_AHEAD, /* [from, to) is asked for; no reply */
};
struct ffs_opener_request {
        uint32_t kind;
        uint32_t reserved;
        uint64_t tag; /* comes back */
        struct cas_hash object;
        uint64_t from, to;
};
struct ffs_opener_reply {
        uint64_t tag;
        int32_t error; /* errno, or 0 */
        uint32_t reserved;
};

#endif
