/* SPDX-License-Identifier: Apache-2.0 */
/* Where scrub asks for a blob that is damaged and of which there is no other copy: the upstream of
 * a repository that has it, or the registry that a repository is called after (HOST/NAME, as pulls
 * and mounts by that name call theirs). */
#ifndef TOOLS_REPAIR_SOURCE_H
#define TOOLS_REPAIR_SOURCE_H

#include "cas/scrub.h"

struct reg_registry;
struct remotes;
struct repair_source {
        struct reg_registry *registry; /* may be NULL */
        struct remotes *remotes;       /* may be NULL */
};
/* For cas_scrub_options; arg is a repair_source. */
int repair_source_fetch(void *arg, struct cas_publish *p, const struct cas_digest *blob,
                        const char *const *repos, size_t repo_count, struct cas_err *err);

#endif
