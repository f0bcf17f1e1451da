/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding of a blob that comes from elsewhere than the store. Private to cas. */
#ifndef CAS_LAYER_INT_H
#define CAS_LAYER_INT_H

#include "cas/decompress.h"
#include "cas/layer.h"

struct cas_pins;
/* cas_layer_import; pins (NULL: none) get the blob before it is committed. */
int cas_layer_import_pinned(struct cas_store *s, cas_source_fn source, void *arg,
                            const struct cas_digest *expected, struct cas_pins *pins,
                            const struct cas_progress *progress, struct cas_layer_record *out,
                            struct cas_err *err) CAS_MUST_CHECK;

struct cas_layer_source {
        cas_source_fn read; /* the blob; it compares the digest before it ends */
        /* Adds to the publication that has the layer, and may refuse it; the commit follows. */
        int (*finish)(void *arg, struct cas_publish *p, const struct cas_layer_record *rec,
                      struct cas_err *err);
        void *arg;             /* of both */
        uint64_t stored_bytes; /* for progress; 0: unknown */
        const struct cas_progress *progress;
};
/* Publishes what the layer is made of, in one publication, but no copy of its bytes. Errors as
 * cas_layer_ensure, and those of the source. */
int cas_layer_decode(struct cas_store *s, const struct cas_layer_source *from,
                     const struct cas_digest *blob, struct cas_layer_record *out,
                     struct cas_err *err) CAS_MUST_CHECK;

#endif
