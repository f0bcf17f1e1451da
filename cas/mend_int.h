/* SPDX-License-Identifier: Apache-2.0 */
/* Mending: a publication that brings again what the store has already, because what the store has
 * is damaged (cas/repair_int.h). What is not named is taken to be sound, as always. Private to
 * cas. */
#ifndef CAS_MEND_INT_H
#define CAS_MEND_INT_H

#include "cas/hashset.h"
#include "cas/publish.h"

struct cas_mend {
        struct cas_hashset names; /* chunks and objects: written although the index has them, which
                                   * points to the new ones then */
        struct cas_digest blob;   /* alg NONE: none. Its file is written although there is one */
};
/* Before anything is added; no names come with it. Borrowed until the publication is freed. */
void cas_publish_mend(struct cas_publish *p, const struct cas_mend *mend);
/* Decodes the stored bytes of a layer's blob once more. Errors: as cas_layer_ensure; the blob's
 * digest is compared before anything is published. */
int cas_layer_mend(struct cas_store *s, const struct cas_digest *blob, const struct cas_mend *mend,
                   struct cas_err *err) CAS_MUST_CHECK;

struct cas_ingest;
/* The ingest's side. */
void cas_ingest_mend(struct cas_ingest *in, const struct cas_hashset *names);

#endif
