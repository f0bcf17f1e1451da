/* SPDX-License-Identifier: Apache-2.0 */
/* Which extended attributes of a tar entry an image has: those that the Linux
 * VFS would take, as other unpackers leave them (spec/layer.md). */
#ifndef CAS_XATTR_H
#define CAS_XATTR_H

#include "cas/entry.h"

/* Drops what cannot be set on an entry of this type, and applies an access ACL to the mode, as
 * the kernel does. Errors: INVALID (a malformed ACL). */
int cas_xattr_settle(struct cas_entry *e, struct cas_err *err) CAS_MUST_CHECK;

#endif
