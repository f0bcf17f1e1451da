/* SPDX-License-Identifier: Apache-2.0 */
/* The blobs of a plan side by side: what pull, push and copy have in common. */
#ifndef REG_BLOBWORK_H
#define REG_BLOBWORK_H

#include <stdatomic.h>

#include "registry/board.h"
#include "registry/imageplan.h"
#include "registry/pull.h"

/* What became of one. */
enum reg_blobwork_end {
        REG_BLOBWORK_REUSED,
        REG_BLOBWORK_MOVED,
        REG_BLOBWORK_MOUNTED,
        REG_BLOBWORK_LEFT_OUT,
};
struct reg_blobwork {
        const struct reg_plan *plan;
        struct reg_board *board;
        unsigned jobs;
        _Atomic bool *stop; /* set when one fails: what has not begun does not */
        /* One blob, on any thread. */
        int (*one)(void *arg, const struct reg_plan_blob *blob, struct reg_board_part *part,
                   enum reg_blobwork_end *end, struct cas_err *err);
        void *arg;
};
/* Runs them, and counts them in `result`. Blocks. Errors: what the first that failed met. */
int reg_blobwork_run(const struct reg_blobwork *w, struct reg_transfer_result *result,
                     struct cas_err *err) CAS_MUST_CHECK;

#endif
