/* SPDX-License-Identifier: Apache-2.0 */
/* What the entries of a layer's tar come to when they are extracted one after
 * the other (spec/layer.md): names, inodes, marks. No files are made: this is
 * a model of a directory tree in memory, and gives the layer's listing. Paths
 * and links are hostile and never leave the model. One thread. */
#ifndef CAS_EXTRACT_H
#define CAS_EXTRACT_H

#include "cas/layer.h"

struct cas_extract;
struct cas_extract *cas_extract_new(void);
void cas_extract_free(struct cas_extract *x);
CAS_DEFINE_CLEANUP(cas_cleanup_extract_, struct cas_extract *, cas_extract_free);
#define cas_cleanup_extract __attribute__((cleanup(cas_cleanup_extract_)))

/* Extracts one entry as the tar has it (path and target not cleaned). Takes what it needs out of
 * e, which is then only to be released. *file is the entry whose content (size_bytes of it) the
 * caller puts into inline_data, or whose `object` it sets, before the listing is made; it stays
 * where it is until then. NULL: no content is wanted.
 * Errors: INVALID, LIMIT. After an error x is only to be freed. */
int cas_extract_add(struct cas_extract *x, struct cas_entry *e, struct cas_entry **file,
                    struct cas_err *err) CAS_MUST_CHECK;
/* Makes the listing; x is then only to be freed. */
void cas_extract_listing(struct cas_extract *x, struct cas_listing *out);

#endif
