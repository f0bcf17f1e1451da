/* SPDX-License-Identifier: Apache-2.0 */
/* Another lamina, asked for what a registry cannot give: the files and chunks of
 * a layer by their digests, its listing and its recipe, at addresses that any
 * cache keeps for ever (spec/peer.md). So only what is missing here travels.
 *
 * What a peer says is not trusted: objects are named by their digests, and a
 * layer counts as here only once its blob was made again and its digest compared. */
#ifndef REG_PEER_H
#define REG_PEER_H

#include "cas/backend.h"
#include "cas/layer.h"
#include "registry/remote.h"

/* Every answer of a lamina's registry says that it is one, and what it speaks. */
#define REG_PEER_HEADER "Lamina-Peer"
#define REG_PEER_VERSION "1"

/* What a peer knows of a decoded layer. */
struct reg_peer_layer {
        struct cas_layer_record record;
        uint64_t blob_bytes;
        uint64_t listing_bytes;
        bool has_recipe; /* a proved one */
        struct cas_hash recipe;
        uint64_t recipe_bytes;
};
/* Errors: UNSUPPORTED (it is no lamina, or does not speak to us), NOTFOUND (no such layer, or it
 * is not decoded there), DENIED, BUSY, IO. */
int reg_peer_layer(struct reg_remote *r, const char *repo, const struct cas_digest *layer,
                   struct reg_peer_layer *out, struct cas_err *err) CAS_MUST_CHECK;
/* Gives objects of that layer (its files, listing and recipe may be asked for) to a publication,
 * which the caller commits; chunks that are here already do not travel. Ids are checked.
 * Errors: NOTFOUND, CORRUPT (other bytes), BUSY, DENIED, IO. */
int reg_peer_objects(struct reg_remote *r, const char *repo, const struct cas_digest *layer,
                     const struct cas_hash *ids, size_t count, struct cas_publish *p,
                     const struct cas_progress *progress, struct cas_err *err) CAS_MUST_CHECK;
/* The order in which the image's files were first read at earlier starts, at most `max`; none is
 * success with *count 0. ids is owned by the caller. */
int reg_peer_order(struct reg_remote *r, const char *repo, const struct cas_digest *manifest,
                   struct cas_hash **ids, size_t *count, size_t max,
                   struct cas_err *err) CAS_MUST_CHECK;

/* For layers that are elsewhere: asks this repository. Takes r; closed by its table. */
struct cas_remote *reg_peer_remote_new(struct reg_remote *r, const char *repo);

/* Of work under way, for who watches it. */
struct reg_peer_meter {
        const _Atomic(bool) *stop;     /* ends it: BUSY; may be NULL */
        _Atomic(uint64_t) moved_bytes; /* of answers, as they came over the network */
        _Atomic(uint64_t) requests;
};

/* Brings a layer by its parts: what is missing of them, and the blob made of them, condensed.
 * layer_bytes: as the manifest says. Whatever the error, the store is as it was, and the blob can
 * be pulled as from any registry. meter may be NULL. Errors: UNSUPPORTED (that is the better way:
 * it is no lamina, there is no recipe, nearly everything is missing), as the functions above and
 * cas_layer_assemble otherwise. */
int reg_peer_bring(struct reg_remote *r, const char *repo, const struct cas_digest *layer,
                   uint64_t layer_bytes, struct cas_store *s, const struct cas_progress *progress,
                   struct reg_peer_meter *meter, struct cas_layer_record *out,
                   struct cas_err *err) CAS_MUST_CHECK;

#endif
