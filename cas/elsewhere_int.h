/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of cas/elsewhere*.c and maintenance share. */
#ifndef CAS_ELSEWHERE_INT_H
#define CAS_ELSEWHERE_INT_H

#include "cas/elsewhere.h"

/* The blob's digest is the key, not part of the value. */
void cas_elsewhere_encode(const struct cas_elsewhere_layer *rec, struct cas_buf *out);
int cas_elsewhere_decode(const struct cas_digest *blob, const void *data, size_t len,
                         struct cas_elsewhere_layer *out, struct cas_err *err) CAS_MUST_CHECK;

/* The manifest that an entry of the family `orders` is about; false for a malformed one. */
bool cas_order_manifest(const void *key, size_t key_len, const void *value, size_t value_len,
                        struct cas_digest *out);

#endif
