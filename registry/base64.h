/* SPDX-License-Identifier: Apache-2.0 */
/* Base64, strictly: one text for each sequence of bytes. Pure functions. */
#ifndef REG_BASE64_H
#define REG_BASE64_H

#include "cas/buf.h"

enum reg_base64 {
        REG_BASE64,     /* with "+/", and padded: Basic credentials */
        REG_BASE64_URL, /* with "-_", without padding: tokens and keys */
};
void reg_base64_append(enum reg_base64 kind, const void *data, size_t len, struct cas_buf *out);
/* Appends the bytes. False: that is no such text; nothing is appended then. */
bool reg_base64_decode(enum reg_base64 kind, const char *text, size_t len,
                       struct cas_buf *out) CAS_MUST_CHECK;

#endif
