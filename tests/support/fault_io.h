/* SPDX-License-Identifier: Apache-2.0 */
/* An I/O table that counts calls and at one of them fails, or ends the process
 * as `kill -9` does, or is prepared for a power cut: it notes what is not synced
 * yet, so that another process can undo it afterwards.
 *
 * The model of a power cut: a file keeps what was in it at its last sync and
 * loses what was appended since; a name that was made, moved or removed without
 * a later sync of its directory is as it was before. RocksDB does its own I/O
 * and loses nothing: it syncs every batch. One process at a time; thread-safe. */
#ifndef TESTS_FAULT_IO_H
#define TESTS_FAULT_IO_H

#include "cas/io.h"

enum fault_kind {
        FAULT_NONE,       /* only count */
        FAULT_EIO,        /* call `at` fails with EIO */
        FAULT_ENOSPC,     /* call `at` fails with ENOSPC (only calls that take space) */
        FAULT_KILL,       /* the process ends at call `at`; of a write, half is done */
        FAULT_KILL_AFTER, /* the process ends when call `at` has been made */
};
/* What fault_power_cut() takes back. */
#define FAULT_LOSE_DATA 1u
#define FAULT_LOSE_NAMES 2u

#define FAULT_EXIT_STATUS 99

/* Lies in shared memory: a parent sees what its child has done. `side` is a directory on the
 * file system of the store, outside of it. */
struct fault_plan;
struct fault_plan *fault_plan_new(const char *side);
void fault_plan_free(struct fault_plan *plan);
/* Forgets everything and sets what is to happen; calls are counted once armed. */
void fault_plan_reset(struct fault_plan *plan, enum fault_kind kind, unsigned at);
void fault_plan_arm(struct fault_plan *plan, bool armed);
/* Calls so far. */
unsigned fault_plan_calls(const struct fault_plan *plan);
/* Whether the fault has struck. */
bool fault_plan_struck(const struct fault_plan *plan);
/* What the child wants to tell: e.g. that the operation was acknowledged. */
void fault_plan_note(struct fault_plan *plan, unsigned note);
unsigned fault_plan_noted(const struct fault_plan *plan);
/* The table. */
const struct cas_io *fault_io(struct fault_plan *plan);
/* Takes back what was not synced. For the parent, once the child is gone. */
void fault_power_cut(struct fault_plan *plan, unsigned lose);

#endif
