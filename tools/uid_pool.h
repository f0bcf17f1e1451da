/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges of owners for sandboxes that are to have any of their own: pieces of
 * what /etc/subuid and /etc/subgid give to the name lamina. A file in
 * RUN_DIR/ranges says that one is taken. Safe between processes. */
#ifndef TOOLS_UID_POOL_H
#define TOOLS_UID_POOL_H

#include "cas/err.h"

#define UID_POOL_COUNT 65536 /* ids of a piece */

/* *first: ids from there on are the caller's, for users and groups, until they are given back.
 * Errors: NOTFOUND (no pool), LIMIT (all are taken). */
int uid_pool_take(const char *run_dir, uint32_t *first, struct cas_err *err) CAS_MUST_CHECK;
void uid_pool_give_back(const char *run_dir, uint32_t first);

/* The first piece of the pool at or after `from`, by the texts of both files; false: none. */
bool uid_pool_next(const char *subuid, const char *subgid, uint32_t from, uint32_t *first);

#endif
