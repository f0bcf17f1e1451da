/* SPDX-License-Identifier: Apache-2.0 */
/* Raw entries of the index as text, for `lamina dump` and for comparing with
 * other readers of the formats. */
#ifndef CAS_DUMP_H
#define CAS_DUMP_H

#include "cas/store.h"

/* Calls fn for every entry, family after family, in byte order, with a line
 * "FAMILY KEY VALUE": the family's name (spec/index.md), hex of the key without
 * its family's byte, hex of the value ("-" when it is empty). No newline. fn
 * returns 0, or -code with err filled. */
int cas_dump_index(struct cas_store *s, int (*fn)(void *arg, const char *line, struct cas_err *err),
                   void *arg, struct cas_err *err) CAS_MUST_CHECK;

#endif
