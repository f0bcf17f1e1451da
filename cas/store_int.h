/* SPDX-License-Identifier: Apache-2.0 */
/* What a store is made of. Private to cas. */
#ifndef CAS_STORE_INT_H
#define CAS_STORE_INT_H

#include "cas/index_int.h"
#include "cas/maintenance_int.h"
#include "cas/mutex.h"
#include "cas/removals_int.h"
#include "cas/store.h"

struct cas_blobcache;
struct cas_blockcache;
struct cas_damages;
struct cas_elsewhere;
struct cas_flights;
struct cas_gate;
struct cas_journal;
struct cas_learner;
struct cas_leases;
struct cas_map;
struct cas_packset;
struct cas_pool;
struct cas_scrub_turn;
struct cas_trees;

/* A commit that waits for its turn (cas/commit.c). */
struct cas_commit;

#define CAS_NAMES_GENERATIONS 1024

struct cas_store {
        /* fixed after opening */
        bool is_open; /* all of it */
        char *path;   /* absolute */
        char *index_path;
        char id[33];
        const struct cas_io *io;
        int dirfd;
        int lock_fd;
        int packs_fd; /* STORE/packs */
        struct cas_index *index;
        struct cas_backend *backend;
        bool own_backend;
        struct cas_shared *shared;      /* NULL: nothing is shared (cas/shared.c) */
        struct cas_mutex *shared_names; /* SHARED_STRIPES of them, by repository */
        bool flat_trees;
        const struct cas_decoder *decoder; /* borrowed; may be NULL */
        struct cas_packset *packset;
        struct cas_blockcache *blocks;
        struct cas_pool *pool;
        struct cas_trees *trees;     /* has its own lock (cas/tree.c) */
        struct cas_flights *flights; /* has its own locks (cas/blobstream.c) */

        struct cas_damages *damages;       /* has its own lock (cas/damage.c) */
        struct cas_elsewhere *elsewhere;   /* has its own locks (cas/elsewherebring.c) */
        struct cas_learner *learner;       /* has its own lock (cas/learner.c) */
        struct cas_prefetcher *prefetcher; /* has its own lock (cas/prefetch.c) */
        struct cas_gate *gate;             /* and the pins; has its own locks (cas/pins.c) */
        struct cas_leases *leases;         /* has its own lock (cas/lease.c) */
        struct cas_scrub_turn *scrub_turn; /* has its own lock (cas/scrubturn.c) */

        struct cas_mutex collecting; /* one run of collection at a time */
        _Atomic(unsigned) collectors_waiting;
        _Atomic(uint64_t) collections;                              /* begun and ended (cas/gc.c) */
        _Atomic(uint64_t) names_generations[CAS_NAMES_GENERATIONS]; /* cas_names_generation */

        struct cas_mutex names; /* "store.names": guards all to commit_error but the journal */
        pthread_cond_t names_change;
        struct cas_journal *journal; /* belongs to the thread that set commit_busy */
        struct cas_commit *commit_first, **commit_last;
        bool commit_busy; /* a thread writes the commits that it took from the queue */
        /* A commit failed halfway: journal and index may disagree, and nothing more is committed
         * until they have been made to agree, which the next commit tries. Message of what failed
         * last. */
        bool commit_broken;
        struct cas_err commit_error;
        int64_t commit_mend_ns; /* CLOCK_MONOTONIC: not again before that */

        struct cas_mutex uploads_mutex; /* guards the two below */
        struct cas_map *uploads;        /* id -> struct upload_state (cas/upload.c) */

        _Atomic(bool) recoding;          /* packs, one call at a time (cas/recode.c) */
        struct cas_blobcache *blobcache; /* has its own lock */
        uint64_t blob_cache_bytes;
        struct cas_rwlock blob_files; /* cas_blob_files_lock */

        struct cas_removals removals;       /* has its own lock */
        struct cas_maintenance maintenance; /* the same */

        struct cas_mutex keeping; /* cas_keeping_lock */

        struct cas_mutex blob_dirs_mutex;
        bool blob_dirs_made[3]; /* by algorithm: its directories are there, durably */
};

/* Directories of a store. */
#define CAS_DIR_INDEX "index"
#define CAS_DIR_INDEX_TRIAL "index.trial" /* what a dry run of collection changes */
#define CAS_DIR_INDEX_OLD "index.old"     /* while a rebuilt one takes its place */
#define CAS_DIR_BLOBS "blobs"
#define CAS_DIR_JOURNAL "journal"
#define CAS_DIR_TREES "trees"
#define CAS_DIR_PACKS "packs"
#define CAS_DIR_UPLOADS "uploads"
#define CAS_DIR_SANDBOXES "sandboxes"
#define CAS_DIR_QUARANTINE "quarantine" /* made when wanted (cas/quarantine.c) */
#define CAS_DIR_REGISTRY "registry"
#define CAS_LOCK_PATH "lock"

/* Opens and locks the directory and no more: for what works below an open store. */
int cas_store_open_bare(const struct cas_store_config *config, struct cas_store **out,
                        struct cas_err *err) CAS_MUST_CHECK;

/* Opens the rest of it, for a step of an upgrade. */
int cas_store_open_parts(struct cas_store *s, const struct cas_store_config *config,
                         struct cas_err *err) CAS_MUST_CHECK;

/* Before so many bytes of a blob or an upload are written: room for them. May block. Errors:
 * NOSPACE. */
int cas_store_own_room(struct cas_store *s, uint64_t bytes, struct cas_err *err) CAS_MUST_CHECK;

/* Opens STORE/packs, and the backend that the configuration asks for. */
int cas_store_open_backend(struct cas_store *s, const struct cas_store_config *config,
                           struct cas_err *err) CAS_MUST_CHECK;

/* Puts the old index back where a rebuild broke off between taking it away and putting the new one
 * in its place; one that is left beside the new one is removed. Of a store that is locked. */
int cas_store_settle_index(struct cas_store *s, struct cas_err *err) CAS_MUST_CHECK;

/* mkdir with mode 0700 whatever the umask. Existing is success; the parent is not synced. */
int cas_store_mkdir(struct cas_store *s, const char *path, struct cas_err *err) CAS_MUST_CHECK;

/* A new name in STORE/uploads for a file that becomes something later; what is left of them is
 * removed when the store is opened. Relative to the store's directory. */
#define CAS_TEMPORARY_PREFIX "tmp-"
#define CAS_TEMPORARY_PATH_BYTES 64
int cas_temporary_path(char out[CAS_TEMPORARY_PATH_BYTES], struct cas_err *err) CAS_MUST_CHECK;

/* Paths relative to the store's directory; out has CAS_BLOB_PATH_BYTES. */
#define CAS_BLOB_PATH_BYTES 160
void cas_blob_path(const struct cas_digest *digest, char *out);
/* Makes the directories that blobs of an algorithm lie in, durably. */
int cas_blob_dirs_make(struct cas_store *s, enum cas_digest_alg alg,
                       struct cas_err *err) CAS_MUST_CHECK;

/* names.c: the repository's names are others now. After they can be seen, before their commit
 * returns. */
void cas_names_changed(struct cas_store *s, const char *repo);

#endif
