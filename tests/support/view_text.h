/* SPDX-License-Identifier: Apache-2.0 */
/* Views for tests: made of layers of text (listing_text.h), and told as text. */
#ifndef TESTS_VIEW_TEXT_H
#define TESTS_VIEW_TEXT_H

#include "fusefs/view_int.h"

/* The view of layers, lowest first and NULL last, cut after the first `base` of them (0: one flat
 * tree). The trees' digests are those of their bytes. */
int view_of_text(const char *const *layers, size_t base, struct ffs_view **out,
                 struct cas_err *err) CAS_MUST_CHECK;
/* As tree_to_text has it, in order of names. Aborts on errors. Owned. */
char *view_to_text(const struct ffs_view *v);

#endif
