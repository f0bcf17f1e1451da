/* SPDX-License-Identifier: Apache-2.0 */
/* What fsck and scrub have found, for people. */
#ifndef TOOLS_FINDINGS_H
#define TOOLS_FINDINGS_H

#include <jansson.h>
#include <stdbool.h>

/* result: of the operations fsck and scrub (spec/control.md). */
void findings_print(const json_t *result);
/* Whether nothing is damaged, or not any more. */
bool findings_good(const json_t *result);

#endif
