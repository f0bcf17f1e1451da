/* SPDX-License-Identifier: Apache-2.0 */
/* Layers that have not wholly come (spec/lazy.md). The listing of such a layer
 * is here, so that trees can be made and images mounted; its files are brought
 * from another store when somebody reads them, and in the background. Its blob
 * is not here, and neither is it a layer to anybody who asks cas_layer_stat():
 * it becomes one when everything has come and the blob was proved.
 *
 * Who waits for files and who brings them are threads of one process. A source
 * that fails is asked again after a pause that grows; those who wait for it are
 * given up after a stated time, and while it stays away later ones at once, but
 * for who comes when it is to be asked again. */
#ifndef CAS_ELSEWHERE_H
#define CAS_ELSEWHERE_H

#include "cas/layer.h"

#define CAS_SOURCE_TEXT_BYTES 512
/* How long a reader waits for a source that does not answer. */
#define CAS_ELSEWHERE_WAIT_MS 20000

struct cas_remote;

/* How sources are reached. Set once, before anything of the store is used by others; borrowed for
 * as long as the store is open. */
struct cas_remotes {
        /* Connects to a source. Blocks. *out is closed by its own table (cas/backend.h). */
        int (*open)(void *arg, const char *source, struct cas_remote **out, struct cas_err *err);
        void *arg;
        unsigned wait_ms; /* 0: CAS_ELSEWHERE_WAIT_MS */
};
void cas_store_set_remotes(struct cas_store *s, const struct cas_remotes *remotes);

struct cas_elsewhere_layer {
        struct cas_layer_record layer;
        uint64_t blob_bytes;
        uint64_t added_unix_s;              /* set by cas_elsewhere_put: when it was noted first */
        bool on_demand_only;                /* nothing is brought in the background */
        struct cas_digest manifest;         /* of the image that wanted it first */
        char source[CAS_SOURCE_TEXT_BYTES]; /* e.g. "HOST/NAME"; means something to `open` alone */
};
/* Notes that the layer is elsewhere; its listing is in the same publication, or here; `listing`,
 * borrowed, is what it holds. One that is noted already gets this source. Takes effect at the
 * commit; cas_elsewhere_changed() after it. */
int cas_elsewhere_put(struct cas_publish *p, const struct cas_elsewhere_layer *layer,
                      const struct cas_listing *listing, struct cas_err *err) CAS_MUST_CHECK;
void cas_elsewhere_changed(struct cas_store *s);
/* The layer is brought in the background from now on, if it was not to be. */
int cas_elsewhere_fill(struct cas_store *s, const struct cas_digest *blob,
                       struct cas_err *err) CAS_MUST_CHECK;
/* Errors: NOTFOUND (no such layer, or it is here now). */
int cas_elsewhere_stat(struct cas_store *s, const struct cas_digest *blob,
                       struct cas_elsewhere_layer *out, struct cas_err *err) CAS_MUST_CHECK;
bool cas_layer_is_elsewhere(struct cas_store *s, const struct cas_digest *blob);
/* The record of a layer that is here or elsewhere. Errors: NOTFOUND. */
int cas_elsewhere_layer(struct cas_store *s, const struct cas_digest *blob,
                        struct cas_layer_record *out, struct cas_err *err) CAS_MUST_CHECK;
/* Calls fn for each in the order of their digests until it returns false. */
int cas_elsewhere_each(struct cas_store *s,
                       bool (*fn)(void *arg, const struct cas_elsewhere_layer *layer), void *arg,
                       struct cas_err *err) CAS_MUST_CHECK;

/* ---- bringing ---- */

/* Has the object brought, and waits until it is here, but no longer than hold_ms after it was first
 * asked for. 0: it is here. Small files beside it come along. Thread-safe.
 * Errors: BUSY (it is on its way: ask again), NOTFOUND (no layer that is elsewhere has it), IO (its
 * source was away for too long, or does not have it), CORRUPT (other bytes), NOSPACE. */
int cas_elsewhere_bring(struct cas_store *s, const struct cas_hash *id, unsigned hold_ms,
                        struct cas_err *err) CAS_MUST_CHECK;

struct cas_elsewhere_progress {
        uint64_t file_count, file_bytes; /* distinct contents that the layer has */
        uint64_t here_count, here_bytes; /* of them */
};
/* Errors: NOTFOUND (the layer is not elsewhere). */
int cas_elsewhere_progress(struct cas_store *s, const struct cas_digest *blob,
                           struct cas_elsewhere_progress *out, struct cas_err *err) CAS_MUST_CHECK;

/* Brings all of a layer and makes it an ordinary one; done at once when it is that already. Blocks.
 * progress counts bytes of files, and may be NULL. Errors: NOTFOUND (no such layer here or
 * elsewhere), IO (the source is away: the message says what is missing), CORRUPT. */
int cas_elsewhere_complete(struct cas_store *s, const struct cas_digest *blob,
                           const struct cas_progress *progress, struct cas_err *err) CAS_MUST_CHECK;

#endif
