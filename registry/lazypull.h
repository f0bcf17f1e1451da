/* SPDX-License-Identifier: Apache-2.0 */
/* What a mount needs of an image at another lamina: manifest, config and the
 * listings of its layers. The files come later (cas/elsewhere.h, spec/lazy.md). */
#ifndef REG_LAZYPULL_H
#define REG_LAZYPULL_H

#include "cas/image.h"
#include "registry/remote.h"

struct reg_lazy_options {
        const struct cas_platform *platform; /* of an index; NULL: the host's */
        const char *source;  /* how the store reaches the repository again (struct cas_remotes) */
        bool on_demand_only; /* what is not read is not brought */
        const struct cas_progress *progress; /* may be NULL */
};
/* reference: a tag or a digest there; to: the name here. What is here already does not travel;
 * layers that the other side has not decoded come whole. Durable on return. Blocks.
 * Errors: UNSUPPORTED (it is no lamina: pull the image), NOTFOUND, those of the registry, CORRUPT,
 * NOSPACE, IO. */
int reg_lazy_pull(struct cas_store *s, struct reg_remote *from, const char *repo,
                  const char *reference, const struct cas_ref *to,
                  const struct reg_lazy_options *options, struct cas_manifest_info *out,
                  struct cas_err *err) CAS_MUST_CHECK;

#endif
