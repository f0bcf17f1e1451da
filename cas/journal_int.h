/* SPDX-License-Identifier: Apache-2.0 */
/* The journal of names (spec/journal.md): an append-only file of groups, from
 * which the names of the index can be made again. A group is void until the
 * index has seen it: the index's batch is what commits, so after a crash at
 * most one group is ahead of the index, and it is cut off.
 * Not thread-safe: store.names guards it. */
#ifndef CAS_JOURNAL_INT_H
#define CAS_JOURNAL_INT_H

#include "cas/io.h"
#include "cas/namerecord_int.h"
#include "cas/store_int.h"

#define CAS_JOURNAL_PATH CAS_DIR_JOURNAL "/names"

struct cas_journal;

/* How far the index has seen the journal. All zero: not at all. */
struct cas_journal_position {
        uint64_t sequence;
        uint64_t generation;
        uint64_t offset; /* where the next group begins */
};

/* Makes an empty journal, durably. */
int cas_journal_create(const struct cas_io *io, int dirfd, const char *store_id,
                       struct cas_err *err) CAS_MUST_CHECK;
/* Opens the journal and cuts what is behind `seen` off. seen NULL: there is no index yet, and
 * everything whole is kept. io, dirfd are borrowed. Errors: NOTFOUND, UNSUPPORTED, CORRUPT (also
 * when journal and index do not belong together: the message says what to do). */
int cas_journal_open(const struct cas_io *io, int dirfd, const char *store_id,
                     const struct cas_journal_position *seen, struct cas_journal **out,
                     struct cas_err *err) CAS_MUST_CHECK;
/* The same of a journal that is open, after a call that left it unknown what is in the file. It is
 * to be written anew then, before anything is appended: of a file whose sync failed, the disk may
 * have less than is read. When this fails it can be tried again, and nothing else may be called but
 * cas_journal_close. */
int cas_journal_reopen(struct cas_journal *j, const char *store_id,
                       const struct cas_journal_position *seen, struct cas_err *err) CAS_MUST_CHECK;
void cas_journal_close(struct cas_journal *j);
/* What an index that has seen everything notes. */
struct cas_journal_position cas_journal_position(const struct cas_journal *j);

/* Another descriptor (the caller closes it) of the file that the journal is at the moment: it only
 * grows, also when the journal has been written anew in another. */
int cas_journal_dup(const struct cas_journal *j, int *out_fd, struct cas_err *err) CAS_MUST_CHECK;

/* Appends one group of `count` records and syncs it. When it fails, *unknown tells whether the
 * group may be in the file nevertheless; the journal must then be opened anew. */
int cas_journal_append(struct cas_journal *j, const struct cas_buf *records, uint32_t count,
                       bool *unknown, struct cas_err *err) CAS_MUST_CHECK;

/* Calls fn for every record from the start: the snapshot, then the groups. `bad_offset` (may be
 * NULL) gets where reading ended before the end of the file, or 0. */
int cas_journal_replay(struct cas_journal *j,
                       int (*fn)(void *arg, const struct cas_name_record *rec, struct cas_err *err),
                       void *arg, uint64_t *bad_offset, struct cas_err *err) CAS_MUST_CHECK;

/* The same of the file as it is, up to what the index has seen, while others append and write it
 * anew: every group is whole and follows the one before. *bytes: so many were read. Errors:
 * CORRUPT, NOTFOUND, IO, what fn gives. */
int cas_journal_verify(const struct cas_io *io, int dirfd, const char *store_id,
                       const struct cas_journal_position *seen,
                       int (*fn)(void *arg, const struct cas_name_record *rec, struct cas_err *err),
                       void *arg, uint64_t *bytes, struct cas_err *err) CAS_MUST_CHECK;

/* Whether the journal has grown so much that writing it anew pays. */
bool cas_journal_wants_compaction(const struct cas_journal *j);
/* Writes the journal anew: `feed` gives every live name to `put`, in any order. On failure the
 * old journal stays, unless *unknown: then it must be opened anew. */
typedef int (*cas_journal_put_fn)(void *sink, const struct cas_name_record *rec,
                                  struct cas_err *err);
int cas_journal_compact(struct cas_journal *j,
                        int (*feed)(void *arg, cas_journal_put_fn put, void *sink,
                                    struct cas_err *err),
                        void *arg, bool *unknown, struct cas_err *err) CAS_MUST_CHECK;

#endif
