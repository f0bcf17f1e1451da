/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the asking side share: peer_fetch.c (requests under way),
 * peer_facts.c, peer.c (objects), peer_bring.c (whole layers). */
#ifndef REG_PEER_INT_H
#define REG_PEER_INT_H

#include "registry/peer.h"
#include "registry/peer_frame.h"
#include "registry/peer_sets.h"

/* peer_facts.c. Any bytes. Errors: UNSUPPORTED (version), CORRUPT (malformed, of another layer,
 * beyond limits). */
#define REG_PEER_FACTS_BYTES_MAX 65536
int reg_peer_facts_parse(const void *data, size_t len, const struct cas_digest *layer,
                         struct reg_peer_layer *out, struct cas_err *err) CAS_MUST_CHECK;

/* peer_fetch.c: frames by address, several requests at a time, answers in the order of asking. One
 * thread uses it. */
#define REG_PEER_REQUESTS_MAX 6     /* at a time */
#define REG_PEER_FETCH_QUEUE_MAX 16 /* asked for, and not taken */
struct reg_peer_fetch;
/* All is borrowed until free; meter may be NULL. */
struct reg_peer_fetch *reg_peer_fetch_new(struct reg_remote *r, const char *repo,
                                          struct reg_peer_meter *meter);
/* Waits for what is under way. */
void reg_peer_fetch_free(struct reg_peer_fetch *f); /* NULL is nothing */
CAS_DEFINE_CLEANUP(reg_cleanup_peer_fetch_, struct reg_peer_fetch *, reg_peer_fetch_free);
#define reg_cleanup_peer_fetch __attribute__((cleanup(reg_cleanup_peer_fetch_)))
bool reg_peer_fetch_full(const struct reg_peer_fetch *f);
/* Asks, below /v2/REPO/_lamina/; it is not full (asserted). Takes path. */
void reg_peer_fetch_ask(struct reg_peer_fetch *f, char *path, size_t raw_max);
/* The answer to the oldest request that was not taken; there is one (asserted). Blocks. Errors:
 * as reg_remote_exchange, and reg_peer_frame_decode. */
int reg_peer_fetch_take(struct reg_peer_fetch *f, struct reg_peer_frame *out,
                        struct cas_err *err) CAS_MUST_CHECK;
/* One whole answer. */
int reg_peer_get_body(struct reg_remote *r, const char *repo, const char *path, size_t max_bytes,
                      struct cas_buf *out, struct cas_err *err) CAS_MUST_CHECK;

/* peer.c: reg_peer_objects for who asks again and again. */
struct reg_peer_source {
        struct reg_remote *remote;
        const char *repo;
        struct reg_peer_sets *sets;
        const struct cas_digest *layer;
        const struct cas_layer_record *record; /* NULL: as the store knows it, or the peer */
        struct reg_peer_meter *meter;          /* may be NULL */
};
int reg_peer_fetch_objects(const struct reg_peer_source *from, const struct cas_hash *ids,
                           size_t count, struct cas_publish *p, const struct cas_progress *progress,
                           struct cas_err *err) CAS_MUST_CHECK;

#endif
