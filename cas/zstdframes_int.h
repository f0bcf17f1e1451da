/* SPDX-License-Identifier: Apache-2.0 */
/* The analysis of kind ZSTD_FRAMES, which comes after that of ZSTD_REPLAY. Private to cas. */
#ifndef CAS_ZSTDFRAMES_INT_H
#define CAS_ZSTDFRAMES_INT_H

#include "cas/wrap_int.h"

/* *found: frames of most of the blob are kept now, and the writer has the recipe (it needs no tar
 * sections); else nothing was changed. What becomes durable here before any recipe refers to it is
 * pinned by the writer's pins, which the caller frees after the recipe's commit. */
int cas_zstdframes_analyse(const struct cas_wrap_input *in, struct cas_recipe_writer *w,
                           bool *found, struct cas_wrap_report *report,
                           struct cas_err *err) CAS_MUST_CHECK;

#endif
