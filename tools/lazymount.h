/* SPDX-License-Identifier: Apache-2.0 */
/* Images at a registry that are to be mounted: from another lamina what a mount
 * needs is brought, from others the whole image. In the owner. */
#ifndef TOOLS_LAZYMOUNT_H
#define TOOLS_LAZYMOUNT_H

#include "cas/image.h"

enum lazymount_pull {
        LAZYMOUNT_MISSING,
        LAZYMOUNT_ALWAYS,
        LAZYMOUNT_NEVER,
        LAZYMOUNT_PROVED, /* always, whole, and by the registry's own bytes alone */
};
/* "missing", "always", "never", "proved"; NULL: missing. Errors: INVALID. */
int lazymount_pull_parse(const char *text, enum lazymount_pull *out,
                         struct cas_err *err) CAS_MUST_CHECK;

struct remotes;
struct lazymount_options {
        enum lazymount_pull pull;
        bool on_demand_only;
        const struct cas_platform *platform; /* NULL: the host's */
        const struct cas_progress *progress; /* may be NULL */
        struct remotes *remotes;             /* of this process; may be NULL */
};
/* name: HOST[:PORT]/NAME[:TAG][@DIGEST]. *out is how it is called here, and it is here as far as a
 * mount needs it. Errors: NOTFOUND, those of the registry. */
int lazymount_bring(struct cas_store *s, const char *name, const struct lazymount_options *options,
                    struct cas_ref *out, struct cas_err *err) CAS_MUST_CHECK;

#endif
