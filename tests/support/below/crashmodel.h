/* SPDX-License-Identifier: Apache-2.0 */
/* What a directory may look like after the machine stopped somewhere in a trace (recorder.h).
 *
 * CRASH_POSIX: nothing is certain but what was synced, and nothing keeps an order but a sync.
 * - A file's bytes: those that were there at its last sync, and of the writes and changes of length
 *   since, any subset, in their order; one write may be torn (its first half, its second half, or
 *   its length alone, with zeros for bytes). A sync of a file says nothing about its name.
 * - A directory's names: those at its last sync, and of the changes since, any subset, in their
 *   order. A sync of a directory says nothing about what is in its files or in directories below.
 * - A rename is atomic: between two directories its old name may be left beside the new one, but
 *   never is there neither.
 * - But for directories of RocksDB: there, names change in order. When it opens a database it
 * renames CURRENT before it syncs the directory, and so counts on that (as file systems with a
 * journal of names give it). CRASH_ORDERED (as ext4 does with data=ordered): changes of names come
 * in their order, whatever the directory, and any sync brings all before it. A file that grows does
 * so in order, and its length never comes before its bytes; writes over what was there come in any
 * order, and may be torn.
 *
 * A sync that failed leaves what it should have brought uncertain for ever, whatever is synced
 * later. That the process alone ends is the state in which everything came. */
#ifndef TESTS_BELOW_CRASHMODEL_H
#define TESTS_BELOW_CRASHMODEL_H

#include "tests/support/below/recorder.h"

#define CRASH_ROCKSDB_DIR "index" /* how names of such directories begin */

enum crash_rules { CRASH_POSIX, CRASH_ORDERED };

struct crash_model;
/* From the directory as it was when recording began. */
struct crash_model *crash_model_new(const struct recorder *r, const char *base,
                                    enum crash_rules rules);
void crash_model_free(struct crash_model *m);
/* Goes behind the next operation of the trace; false at its end. */
bool crash_model_step(struct crash_model *m);
/* How many operations are behind it. */
size_t crash_model_at(const struct crash_model *m);
/* Changes that were not synced. */
size_t crash_model_pending(const struct crash_model *m);

/* The states that are possible here: all combinations of up to 2^bound_bits; of more changes, those
 * where one alone came or is missing, those where the first came, and `samples` random ones, which
 * depend on `seed`; and torn writes. fn returns false to end it. Each state once. */
struct crash_bounds {
        unsigned bound_bits, samples;
        uint64_t seed;
};
struct crash_state;
typedef bool (*crash_state_fn)(void *arg, const struct crash_state *state);
void crash_model_states(struct crash_model *m, const struct crash_bounds *bounds, crash_state_fn fn,
                        void *arg);
/* Equal for equal directories. */
uint64_t crash_state_hash(const struct crash_state *state);
/* Makes the directory, which must not be there. */
void crash_state_write(const struct crash_state *state, const char *dir);
/* What of the changes came, for people: a line each. */
void crash_state_print(const struct crash_state *state);

#endif
