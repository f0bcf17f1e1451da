/* SPDX-License-Identifier: Apache-2.0 */
/* Pieces of the manifest parser that the index of a layout needs too. */
#ifndef CAS_MANIFEST_INT_H
#define CAS_MANIFEST_INT_H

#include "cas/image.h"
#include "cas/json.h"

/* out is zeroed before. Errors: INVALID, LIMIT, UNSUPPORTED (digest algorithm). */
int cas_descriptor_from_json(const json_t *j, struct cas_descriptor *out,
                             struct cas_err *err) CAS_MUST_CHECK;

#endif
