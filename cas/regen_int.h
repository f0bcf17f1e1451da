/* SPDX-License-Identifier: Apache-2.0 */
/* Proving: a recipe that was just made is made into the blob, from every one of its marks, before
 * anybody relies on it. Private to cas. */
#ifndef CAS_REGEN_INT_H
#define CAS_REGEN_INT_H

#include "cas/regen.h"
#include "cas/wrap_int.h"

/* Makes the whole blob from what the writer holds, each segment from its mark, and compares it byte
 * for byte with the verbatim copy, and its digest with `blob`. Marks from which other bytes come
 * are dropped from the writer, and what they were to make is made from the mark before, until all
 * of it is right: what is published afterwards was proved as it is. *dropped_marks counts them.
 * Blocks for a whole regeneration, more when marks are dropped.
 * Errors: CORRUPT (the recipe does not make the blob: the message says where it differs), IO. */
int cas_regen_prove(struct cas_recipe_writer *w, const struct cas_digest *blob,
                    const struct cas_wrap_input *verbatim, unsigned threads,
                    const struct cas_progress *progress, uint32_t *dropped_marks,
                    struct cas_err *err) CAS_MUST_CHECK;

#endif
