/* SPDX-License-Identifier: Apache-2.0 */
/* One pack that is open for writing, and the set that such packs belong to.
 *
 * A pack has one writer at a time (it was taken from the set), so its records
 * stand in the order in which they were written, with no gap: after a crash
 * the first bad record is the end. Others may depend on records of it and sync
 * it, so it is counted: the set's idle list, its writer, every pending chunk in
 * it and every list of packs to sync hold one reference each. */
#ifndef CAS_PACKFILE_INT_H
#define CAS_PACKFILE_INT_H

#include "cas/map.h"
#include "cas/mutex.h"
#include "cas/pack_int.h"

struct cas_packfile {
        uint64_t id;
        uint32_t tier;
        enum cas_pack_density density;
        int dirfd;           /* borrowed from the backend */
        int fd;              /* -1 only while idle and not referred to by others */
        _Atomic bool failed; /* a sync or a truncation failed: what it holds is not to be trusted */

        /* guarded by the set's mutex; size_bytes is changed by the writer alone */
        unsigned ref_count;
        uint64_t size_bytes; /* whole records; with the footer when sealed */
        bool sealed;
        struct cas_hash sha256; /* of the file, when sealed */
        struct cas_packfile *next_idle;

        struct cas_mutex sync; /* held while syncing; guards: */
        uint64_t synced_bytes;
        bool dir_synced;
};

struct cas_packset {
        const struct cas_io *io;
        struct cas_backend *backend;
        struct cas_index *index;
        struct cas_removals *removals; /* NULL: nobody holds them */
        struct cas_packfds *fds;

        /* Held by who moves chunks from looking where they are to writing the batch, and by who
         * puts kept frames in the place of chunks while writing the batch. */
        struct cas_mutex replacing;
        struct cas_mutex mutex;  /* guards all below */
        struct cas_map *pending; /* chunk name to struct cas_pending (cas/packwriter_int.h) */
        struct cas_map *live;    /* pack id to struct cas_packfile, of all that there are */
        struct cas_map *claimed; /* pack ids: cas_packset_claim */
        struct cas_map *dead;    /* pack id to bytes: cas_packset_note_dead */
        struct cas_packfile *idle;
        unsigned idle_count;
        uint64_t next_id;
};

/* ---- the set ---- */
/* A pack of that density to append to, one reference taken: an idle one, else a new one. */
int cas_packset_take(struct cas_packset *ps, enum cas_pack_density density,
                     struct cas_packfile **out, struct cas_err *err) CAS_MUST_CHECK;
/* Ends the writer's reference; the pack is idle again unless it is sealed or failed. */
void cas_packset_give(struct cas_packset *ps, struct cas_packfile *pf);
void cas_packset_give_locked(struct cas_packset *ps, struct cas_packfile *pf);
/* Takes the pack of that id (0: any) out of the idle list, NULL when it is not there. The
 * descriptor may be closed: cas_packfile_reopen. */
struct cas_packfile *cas_packset_take_id(struct cas_packset *ps, uint64_t pack_id);
/* A pack that is one thread's: nobody else writes to it, or claims it. */
struct cas_pack_claim {
        uint64_t pack_id;
        struct cas_packfile *idle; /* taken out of the idle list; NULL: it was not there */
};
/* False while somebody writes to the pack, counts on what the index does not know of it, or has it
 * claimed. */
bool cas_packset_claim(struct cas_packset *ps, uint64_t pack_id, struct cas_pack_claim *out);
/* Whether that would be true. */
bool cas_packset_is_quiet(struct cas_packset *ps, uint64_t pack_id);
/* Whether somebody writes to the pack, may come to do so, or has it claimed. */
bool cas_packset_is_open(struct cas_packset *ps, uint64_t pack_id);
/* gone: the index does not know the pack any more. */
void cas_packset_unclaim(struct cas_packset *ps, const struct cas_pack_claim *claim, bool gone);
/* Writes a batch of the index; `replaces`: it puts kept frames in the place of chunks. */
int cas_packset_write(struct cas_packset *ps, struct cas_batch *batch, bool replaces,
                      struct cas_err *err) CAS_MUST_CHECK;
/* An id that no pack of this store has or had: it follows the clock. */
uint64_t cas_packset_new_id(struct cas_packset *ps);

/* ---- one pack ---- */
int cas_packfile_create(struct cas_packset *ps, enum cas_pack_density density,
                        struct cas_packfile **out, struct cas_err *err) CAS_MUST_CHECK;
/* A pack that is on disk already, and whole to its end; idle (no descriptor), one reference. */
struct cas_packfile *cas_packfile_adopt(struct cas_packset *ps, uint64_t id,
                                        const struct cas_pack_record *rec, int dirfd);
void cas_packfile_ref_locked(struct cas_packset *ps, struct cas_packfile *pf);
void cas_packfile_unref_locked(struct cas_packset *ps, struct cas_packfile *pf);
void cas_packfile_unref(struct cas_packset *ps, struct cas_packfile *pf);
/* Writer only: opens the file when it is not open. */
int cas_packfile_reopen(struct cas_packset *ps, struct cas_packfile *pf,
                        struct cas_err *err) CAS_MUST_CHECK;
/* Writer only. A failed write leaves the pack as it was. */
int cas_packfile_append(struct cas_packset *ps, struct cas_packfile *pf, const void *data,
                        size_t len, struct cas_err *err) CAS_MUST_CHECK;
/* Writer only: writes the footer. Reads the file once. */
int cas_packfile_seal(struct cas_packset *ps, struct cas_packfile *pf,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Makes the first end_offset bytes durable, and the file's name. Any thread. */
int cas_packfile_sync(struct cas_packset *ps, struct cas_packfile *pf, uint64_t end_offset,
                      struct cas_err *err) CAS_MUST_CHECK;
/* What the index shall know: the synced part. Call after cas_packfile_sync. */
void cas_packfile_record(struct cas_packset *ps, struct cas_packfile *pf,
                         struct cas_pack_record *out);
/* SHA-256 of the first len bytes of a file; more may be added to the hasher. */
int cas_packfile_hash(const struct cas_io *io, int fd, uint64_t len, const char *what,
                      struct cas_hasher *hasher, struct cas_err *err) CAS_MUST_CHECK;

/* ---- descriptors for reading, a bounded number kept open (cas/packfds.c) ---- */
struct cas_packfds;
struct cas_packfds *cas_packfds_new(void);
void cas_packfds_free(struct cas_packfds *fds);
struct cas_packfd {
        int fd;
        int slot; /* -1: not kept, closed when it is put back */
};
/* Errors: NOTFOUND (the pack is not known, or its file is gone). */
int cas_packset_fd_get(struct cas_packset *ps, uint64_t pack_id, struct cas_packfd *out,
                       struct cas_err *err) CAS_MUST_CHECK;
void cas_packset_fd_put(struct cas_packset *ps, struct cas_packfd *fd);
/* Forgets the descriptor of a pack that is removed; those in use are closed when put back. */
void cas_packset_fd_drop(struct cas_packset *ps, uint64_t pack_id);

#endif
