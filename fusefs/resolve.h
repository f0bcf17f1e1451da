/* SPDX-License-Identifier: Apache-2.0 */
/* The resolve protocol (spec/resolve.md): `lamina fs` asks the owner where an
 * object lies, once, and gets extents and pack descriptors (SCM_RIGHTS) over a
 * SOCK_SEQPACKET Unix socket. This is the owner's side. */
#ifndef FFS_RESOLVE_H
#define FFS_RESOLVE_H

#include "cas/store.h"

struct ffs_resolver;
/* Listens at path (mode 0600; peers of another uid than ours or root are refused) with
 * threads of its own. */
int ffs_resolver_start(struct cas_store *s, const char *path, struct ffs_resolver **out,
                       struct cas_err *err) CAS_MUST_CHECK;
void ffs_resolver_stop(struct ffs_resolver *r);

#endif
