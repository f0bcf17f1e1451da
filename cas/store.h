/* SPDX-License-Identifier: Apache-2.0 */
/* A store: one directory, owned by one process at a time (spec/store.md).
 * Everything in it is named by content; names (tags and what repositories hold)
 * are the only things that change. All functions that take a store are
 * thread-safe unless they say otherwise, and may block on I/O. */
#ifndef CAS_STORE_H
#define CAS_STORE_H

#include "cas/digest.h"
#include "cas/io.h"

struct cas_store;
struct cas_backend;
struct cas_shared;
struct cas_decoder;

struct cas_store_config {
        const char *path;            /* directory; borrowed during open */
        const struct cas_io *io;     /* NULL: cas_io_posix(); outlives the store */
        struct cas_backend *backend; /* where packs live (cas/backend.h); NULL: STORE/packs */
        /* Instead: makes the backend when the store is locked (its path, id and directory can be
         * asked for, and no more); the store closes it. *out NULL: STORE/packs. */
        int (*backend_open)(struct cas_store *s, struct cas_backend **out, struct cas_err *err);
        /* What is shared with other nodes (cas/shared.h), made when the store is open but for its
         * backgrounds; the store closes it. *out NULL, or no function: nothing is. */
        int (*shared_open)(struct cas_store *s, struct cas_shared **out, struct cas_err *err);
        bool must_exist;        /* else it is made on first use */
        unsigned lock_wait_ms;  /* how long to wait for another owner; 0: do not wait */
        unsigned threads;       /* workers; 0: one per CPU */
        unsigned regenerations; /* of condensed blobs for readers, at a time; 0: two per CPU */
        bool flat_trees;        /* never cut chains of layers: one tree an image (spec/tree.md) */
        uint64_t blob_cache_bytes; /* of verbatim copies of condensed blobs; 0: none are kept */
        const struct cas_decoder *decoder; /* of layers (cas/decoding.h); outlives the store; NULL:
                                            * they are decoded in this process */
};

/* Opens the store, making it when it is not there, takes its lock and recovers
 * what a crash left: unfinished tails are dropped, never acknowledged data.
 * Errors: BUSY (another owner holds the lock after lock_wait_ms), NOTFOUND (must_exist),
 * UNSUPPORTED (a format of another version: says whether `lamina upgrade` helps), CORRUPT. */
int cas_store_open(const struct cas_store_config *config, struct cas_store **out,
                   struct cas_err *err) CAS_MUST_CHECK;
/* No publication may be open. */
void cas_store_close(struct cas_store *s);
CAS_DEFINE_CLEANUP(cas_cleanup_store_, struct cas_store *, cas_store_close);
#define cas_cleanup_store __attribute__((cleanup(cas_cleanup_store_)))

const char *cas_store_path(const struct cas_store *s); /* absolute; borrowed */
const char *cas_store_id(const struct cas_store *s);   /* 32 hex digits; borrowed */
int cas_store_dirfd(const struct cas_store *s);        /* borrowed */

struct cas_store_stats {
        uint64_t blob_count, blob_bytes;           /* as they were brought */
        uint64_t copy_count, copy_bytes;           /* of them, whose file is there … */
        uint64_t cached_count, cached_bytes;       /* … and may go: there is a proved recipe */
        uint64_t condensed_count, condensed_bytes; /* those without a file */
        uint64_t recipe_count, recipe_bytes;       /* proved ones; bytes before compression */
        uint64_t refused_count;                    /* looked at, and stay verbatim */
        uint64_t object_count, object_bytes;       /* distinct file contents */
        uint64_t chunk_count, chunk_bytes;         /* distinct pieces of them, before compression */
        uint64_t pack_count, pack_bytes;           /* stored */
        uint64_t content_bytes;                    /* of files, in each layer that has them */
        uint64_t layer_count, manifest_count, repo_count, tag_count, lease_count;
        uint64_t tree_count, tree_bytes;
};
/* Walks the index: costs time in its size. */
int cas_store_stats(struct cas_store *s, struct cas_store_stats *out,
                    struct cas_err *err) CAS_MUST_CHECK;

/* Progress of long work. done and total in bytes unless said otherwise; total 0: unknown.
 * Called from any thread, one call at a time. */
struct cas_progress_item {
        const char *name; /* borrowed for the call */
        uint64_t done, total;
};
struct cas_progress {
        void (*update)(void *arg, const char *what, uint64_t done, uint64_t total);
        void *arg;
        /* What is under way side by side, told before an update; NULL: nobody wants to know. */
        void (*items)(void *arg, const struct cas_progress_item *items, size_t count);
};
void cas_progress_update(const struct cas_progress *p, const char *what, uint64_t done,
                         uint64_t total); /* p may be NULL */

#endif
