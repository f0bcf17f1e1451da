/* SPDX-License-Identifier: Apache-2.0 */
/* One blob of a registry elsewhere comes into the store: what arrives is kept in
 * an upload session, so that a later run goes on where this one was broken off,
 * and is a blob of the repository once its digest was compared. Layers are
 * decoded. Thread-safe: blobs come side by side. */
#ifndef REG_FETCH_H
#define REG_FETCH_H

#include "registry/board.h"
#include "registry/imageplan.h"
#include "registry/remote.h"

/* Blobs up to this size come in one publication: layers are decoded while they arrive. */
#define REG_FETCH_SMALL_BYTES (UINT64_C(8) << 20)
#define REG_FETCH_OWNER "pull" /* of the sessions */

enum reg_fetch_how {
        REG_FETCH_REUSED, /* it was here */
        REG_FETCH_FETCHED,
        REG_FETCH_LEFT_OUT, /* a foreign layer that nobody gives */
};
struct reg_fetch {
        struct cas_store *store;
        struct reg_remote *remote;
        const char *repo;         /* there */
        const char *to_repo;      /* here: the blob is linked to it */
        unsigned streams;         /* of one large blob */
        struct cas_publish *keep; /* borrowed: keeps what comes, for its manifests; NULL: nobody */
        bool proved; /* what only other repositories here have is the registry's to show */
        const _Atomic bool *stop; /* ends what is under way: BUSY; may be NULL */
        /* Another way to bring a layer, tried first; *brought false: the usual way, then. The
         * blob is in the store when it was brought, and decoded. May be NULL. */
        int (*other)(void *arg, const struct reg_fetch *f, const struct reg_plan_blob *b,
                     struct reg_board_part *part, bool *brought, struct cas_err *err);
        void *other_arg;
};
/* Durable on return. Blocks. Errors: those of remote blobs, CORRUPT (other bytes than named, or
 * no layer), NOSPACE, IO. */
int reg_fetch_blob(const struct reg_fetch *f, const struct reg_plan_blob *b,
                   struct reg_board_part *part, enum reg_fetch_how *how,
                   struct cas_err *err) CAS_MUST_CHECK;

#endif
