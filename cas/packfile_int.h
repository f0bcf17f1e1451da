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
#include "cas/tiers.h"

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
        unsigned fetches; /* of remote packs, under way */
        pthread_cond_t fetch_ended;
};

/* At opening (cas/packrecover.c). */
int cas_packset_recover(struct cas_packset *ps, struct cas_err *err) CAS_MUST_CHECK;

/* ---- the set ---- */
/* A pack of that density to append to, one reference taken: an idle one, else a new one. It is on
 * that tier; with CAS_TIER_ANY, on the one that the backend chooses now. May block for room. */
int cas_packset_take(struct cas_packset *ps, uint32_t tier, enum cas_pack_density density,
                     struct cas_packfile **out, struct cas_err *err) CAS_MUST_CHECK;
/* The same, always a new one. */
int cas_packset_take_new(struct cas_packset *ps, uint32_t tier, enum cas_pack_density density,
                         struct cas_packfile **out, struct cas_err *err) CAS_MUST_CHECK;
/* Seals a pack that is the caller's alone (taken, or claimed), and tells the index. */
int cas_packset_seal_one(struct cas_packset *ps, struct cas_packfile *pf,
                         struct cas_err *err) CAS_MUST_CHECK;
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
/* Where the backend said that a new pack is to be written. */
struct cas_pack_place {
        uint64_t pack_id;
        uint32_t tier;
        int dirfd; /* borrowed from the backend */
};
int cas_packfile_create(struct cas_packset *ps, const struct cas_pack_place *place,
                        enum cas_pack_density density, struct cas_packfile **out,
                        struct cas_err *err) CAS_MUST_CHECK;
/* A pack that is on disk already, and whole to its end; idle (no descriptor), one reference. */
struct cas_packfile *cas_packfile_adopt(struct cas_packset *ps, uint64_t id,
                                        const struct cas_pack_record *rec, int dirfd);
void cas_packfile_ref_locked(struct cas_packset *ps, struct cas_packfile *pf);
void cas_packfile_unref_locked(struct cas_packset *ps, struct cas_packfile *pf);
void cas_packfile_unref(struct cas_packset *ps, struct cas_packfile *pf);
/* Writer only: opens the file when it is not open. */
int cas_packfile_reopen(struct cas_packset *ps, struct cas_packfile *pf,
                        struct cas_err *err) CAS_MUST_CHECK;
/* Writer only. A failed write leaves the pack as it was. May block for room. Errors: NOSPACE. */
int cas_packfile_append(struct cas_packset *ps, struct cas_packfile *pf, const void *data,
                        size_t len, struct cas_err *err) CAS_MUST_CHECK;
/* Writer only: writes the footer. Reads the file once. */
int cas_packfile_seal(struct cas_packset *ps, struct cas_packfile *pf,
                      struct cas_err *err) CAS_MUST_CHECK;
/* The footer for a pack of so many bytes, and the digest that the file will have with it. Reads the
 * file. Errors: CORRUPT (it reads back damaged). */
int cas_packfile_footer(struct cas_packset *ps, uint64_t pack_id, int fd, uint64_t size_bytes,
                        struct cas_buf *footer, struct cas_hash *sha256,
                        struct cas_err *err) CAS_MUST_CHECK;
/* Makes the first end_offset bytes durable, and the file's name. Any thread. */
int cas_packfile_sync(struct cas_packset *ps, struct cas_packfile *pf, uint64_t end_offset,
                      struct cas_err *err) CAS_MUST_CHECK;
/* What the index shall know: the synced part. Call after cas_packfile_sync. */
void cas_packfile_record(struct cas_packset *ps, struct cas_packfile *pf,
                         struct cas_pack_record *out);
/* Room on a tier: taken before bytes are written, given back when they have gone, or never came. */
int cas_packset_room_take(struct cas_packset *ps, uint32_t tier, uint64_t bytes,
                          struct cas_err *err) CAS_MUST_CHECK;
void cas_packset_room_give(struct cas_packset *ps, uint32_t tier, uint64_t bytes);
/* SHA-256 of the first len bytes of a file; more may be added to the hasher. */
int cas_packfile_hash(const struct cas_io *io, int fd, uint64_t len, const char *what,
                      struct cas_hasher *hasher, struct cas_err *err) CAS_MUST_CHECK;

/* ---- descriptors for reading, a bounded number kept open (cas/packfds.c) ---- */
struct cas_packfds;
struct cas_packfds *cas_packfds_new(void);
void cas_packfds_free(struct cas_packfds *fds);
struct cas_packfd {
        int fd;   /* -1: the home copy is remote */
        int slot; /* -1: not kept, closed when it is put back */
        uint32_t tier;
        struct cas_pack_file file; /* as the index had it then: of one that is open, no digest */
};
/* Errors: NOTFOUND (the pack is not known, or its file is gone), IO (its tier cannot be reached).
 */
int cas_packset_fd_get(struct cas_packset *ps, uint64_t pack_id, struct cas_packfd *out,
                       struct cas_err *err) CAS_MUST_CHECK;
void cas_packset_fd_put(struct cas_packset *ps, struct cas_packfd *fd);
/* Forgets the descriptor of a pack that is removed or moved; those in use are closed when put back.
 */
void cas_packset_fd_drop(struct cas_packset *ps, uint64_t pack_id);

/* ---- moving (cas/packmove.c) ---- */
/* Moves the home copy to another tier as it is, sealed on the way; see cas_pack_move. *as_it_is
 * false, and nothing done: the pack has no end that could be trusted (damage, or another version),
 * so that only what is whole in it can be moved. Whoever reads goes on. */
int cas_packset_move(struct cas_packset *ps, uint64_t pack_id,
                     const struct cas_pack_move_options *o, uint64_t *out_bytes, bool *as_it_is,
                     struct cas_err *err) CAS_MUST_CHECK;

/* ---- home copies (cas/packhome.c) ---- */
struct cas_pack_home {
        struct cas_pack_record rec;
        int dirfd; /* borrowed from the backend; -1: it is remote */
};
/* Errors: NOTFOUND (no such pack), IO (its tier cannot be reached: says which). */
int cas_packset_home(struct cas_packset *ps, uint64_t pack_id, struct cas_pack_home *out,
                     struct cas_err *err) CAS_MUST_CHECK;
/* False as well where there is no such tier. */
bool cas_packset_is_reachable(struct cas_packset *ps, uint32_t tier);
bool cas_packset_is_remote(struct cas_packset *ps, uint32_t tier);
/* IO, with the name of the first tier that cannot be reached. */
int cas_packset_reach_all(struct cas_packset *ps, struct cas_err *err) CAS_MUST_CHECK;
struct cas_pack_file cas_pack_file_of(uint64_t pack_id, const struct cas_pack_record *rec);
/* A copy of the pack that is not its home copy goes; others of it stay. */
int cas_packset_unlink_copy(struct cas_packset *ps, uint64_t pack_id,
                            const struct cas_pack_record *rec, struct cas_err *err) CAS_MUST_CHECK;
/* A file without a name, on tier 0. id: none of a pack. */
int cas_pack_temporary(const struct cas_io *io, struct cas_backend *backend, uint64_t id,
                       int *out_fd, struct cas_err *err) CAS_MUST_CHECK;
/* A remote pack into such a file; a few at a time. damaged_too: also when its digest is another. */
int cas_packset_fetch(struct cas_packset *ps, uint32_t tier, const struct cas_pack_file *pack,
                      bool damaged_too, int *out_fd, struct cas_err *err) CAS_MUST_CHECK;
/* As cas_packset_open_pack, with more flags for open(2), which a remote pack is fetched without. */
int cas_packset_open_flags(struct cas_packset *ps, uint64_t pack_id, int flags, int *out_fd,
                           bool *fetched, struct cas_err *err) CAS_MUST_CHECK;
/* The home copy and what the index says of it; *out_fd -1 when it is remote. */
int cas_packset_open_home(struct cas_packset *ps, uint64_t pack_id, int *out_fd,
                          struct cas_pack_record *out_rec, struct cas_err *err) CAS_MUST_CHECK;
/* Content: fn gets a descriptor in which those bytes of the pack stand at their offset, reads and
 * verifies; where it fails with CORRUPT or IO they are brought to another place, twice at most. */
typedef int (*cas_pack_read_fn)(void *arg, int fd, struct cas_err *err);
int cas_packset_read(struct cas_packset *ps, uint64_t pack_id, uint64_t offset, uint32_t bytes,
                     cas_pack_read_fn fn, void *arg, struct cas_err *err) CAS_MUST_CHECK;

#endif
