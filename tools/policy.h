/* SPDX-License-Identifier: Apache-2.0 */
/* Who may have which images from the broker: an INI file of sections
 *
 *   [user NAME|UID|*]   or   [group NAME|GID]
 *   images = GLOB [GLOB …]
 *
 * A user may have what any section that names the user, or a group of the user's,
 * allows. A glob (fnmatch, "*" matches "/" too) is of NAME:TAG. Immutable once read;
 * thread-safe. */
#ifndef TOOLS_POLICY_H
#define TOOLS_POLICY_H

#include "cas/err.h"

struct policy;
/* Names are looked up when it is read; one that does not exist is an error, as is a file that
 * others than its owner can write. Errors: INVALID (with the line), NOTFOUND, DENIED. */
int policy_read(const char *path, struct policy **out, struct cas_err *err) CAS_MUST_CHECK;
void policy_free(struct policy *p);

bool policy_allows(const struct policy *p, uint32_t uid, const uint32_t *gids, size_t gid_count,
                   const char *image);

#endif
