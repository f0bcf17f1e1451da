/* SPDX-License-Identifier: Apache-2.0 */
/* Writing a layer from entries, in canonical form: tar as cas/tarwrite.h says,
 * gzip (zlib, level 6) without name or time. The same entries and content give
 * the same digests, however they are handed over.
 *
 * The layer is decoded and published by a thread of the writer while it is
 * written; memory is bounded. One thread at a time uses a writer. Collection may
 * take the layer again as soon as the writer is freed: free it once something
 * names the layer. */
#ifndef CAS_LAYERWRITE_H
#define CAS_LAYERWRITE_H

#include "cas/layer.h"

struct cas_layer_writer;
/* Errors: what pthread_create(3) says. */
int cas_layer_writer_open(struct cas_store *s, struct cas_layer_writer **out,
                          struct cas_err *err) CAS_MUST_CHECK;
/* Drops what was not finished. */
void cas_layer_writer_free(struct cas_layer_writer *w);
CAS_DEFINE_CLEANUP(cas_cleanup_layer_writer_, struct cas_layer_writer *, cas_layer_writer_free);
#define cas_cleanup_layer_writer __attribute__((cleanup(cas_cleanup_layer_writer_)))

/* The next entry (cas_tarwrite_header); a file's content, all size_bytes of it, must follow by
 * cas_layer_writer_data before the next one. Order is the caller's: that of listings is canonical.
 * Errors: INVALID (what layers cannot hold), and at any call what the publication met: NOSPACE, IO,
 * LIMIT. */
int cas_layer_writer_entry(struct cas_layer_writer *w, const struct cas_entry *e,
                           struct cas_err *err) CAS_MUST_CHECK;
int cas_layer_writer_data(struct cas_layer_writer *w, const void *data, size_t len,
                          struct cas_err *err) CAS_MUST_CHECK;
/* Ends the archive; the layer is durable on return. The writer is then only to be freed. */
int cas_layer_writer_finish(struct cas_layer_writer *w, struct cas_layer_record *out,
                            struct cas_err *err) CAS_MUST_CHECK;

#endif
