/* SPDX-License-Identifier: Apache-2.0 */
/* Layers: a blob that is a tar becomes file objects and a listing: what the
 * tar's entries, extracted one after the other, come to (spec/layer.md). The
 * listing is itself an object. */
#ifndef CAS_LAYER_H
#define CAS_LAYER_H

#include "cas/entry.h"
#include "cas/publish.h"

#define CAS_LISTING_VERSION 1
/* In the record of a layer of which something was lost (cas/quarantine.c): it serves as far as it
 * goes, and is decoded again as soon as its blob is here. */
#define CAS_LISTING_VERSION_DAMAGED 0
#define CAS_LISTING_HEAD_BYTES 16 /* before the first entry */
/* No entry takes more: path, target and xattrs at their limits, and what is of fixed size. */
#define CAS_LISTING_ENTRY_BYTES_MAX                                                                \
        (2 * CAS_PATH_BYTES_MAX + CAS_XATTRS_BYTES_MAX + CAS_XATTRS_MAX * 263 + 256)

/* Sorted by cas_path_compare(): a directory stands before what is in it, siblings follow each
 * other byte-wise; each path once. Parents that the layer does not name are not listed: who
 * merges finds them below (through symbolic links there), or makes them: 0755, root, time 0.
 * Whiteouts and implied directories make no parents. */
struct cas_listing {
        struct cas_entry *entries; /* owned */
        size_t count;
};
void cas_listing_release(struct cas_listing *l);
#define cas_cleanup_listing __attribute__((cleanup(cas_listing_release)))

/* The bytes of a listing: deterministic, versioned. */
int cas_listing_encode(const struct cas_listing *l, struct cas_buf *out,
                       struct cas_err *err) CAS_MUST_CHECK;
/* Errors: CORRUPT (any byte may be hostile), UNSUPPORTED (version). */
int cas_listing_decode(const void *data, size_t len, struct cas_listing *out,
                       struct cas_err *err) CAS_MUST_CHECK;

/* The bytes before the first entry alone. Errors: CORRUPT, UNSUPPORTED (version). */
int cas_listing_check_head(const void *data, size_t len, struct cas_err *err) CAS_MUST_CHECK;
/* The one entry that begins at data; *out_bytes gets its length there. Errors: CORRUPT, also when
 * len is too short for it. */
int cas_listing_decode_entry(const void *data, size_t len, struct cas_entry *out, size_t *out_bytes,
                             struct cas_err *err) CAS_MUST_CHECK;

/* Errors: NOTFOUND when the layer has not been decoded yet. */
int cas_layer_stat(struct cas_store *s, const struct cas_digest *blob, struct cas_layer_record *out,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Decodes a blob of the store into file objects and a listing and publishes
 * them, or brings all of a layer that is elsewhere (cas/elsewhere.h); done at once when it was
 * decoded before. Blocks for the whole decoding; concurrent calls for one blob decode it once.
 * `progress` counts stored bytes and may be NULL. Errors: NOTFOUND, CORRUPT or INVALID or LIMIT (a
 * bad layer: the store is as it was). */
int cas_layer_ensure(struct cas_store *s, const struct cas_digest *blob,
                     const struct cas_progress *progress, struct cas_layer_record *out,
                     struct cas_err *err) CAS_MUST_CHECK;
/* Calls fn for decoded layers in the order of their digests, after `after` (exclusive; NULL: from
 * the start), until it returns false. It sees the layers that are there when it begins. */
int cas_layer_each(struct cas_store *s, const struct cas_digest *after,
                   bool (*fn)(void *arg, const struct cas_layer_record *layer), void *arg,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Reads a decoded layer's listing. */
int cas_layer_listing(struct cas_store *s, const struct cas_layer_record *layer,
                      struct cas_listing *out, struct cas_err *err) CAS_MUST_CHECK;
/* Adds a layer blob that `source` gives: verbatim and decoded in one pass, in one
 * publication of its own. expected may be NULL. Errors as cas_layer_ensure, INVALID (digest). */
int cas_layer_import(struct cas_store *s,
                     int (*source)(void *arg, void *buf, size_t len, size_t *out_len,
                                   struct cas_err *err),
                     void *arg, const struct cas_digest *expected,
                     const struct cas_progress *progress, struct cas_layer_record *out,
                     struct cas_err *err) CAS_MUST_CHECK;

#endif
