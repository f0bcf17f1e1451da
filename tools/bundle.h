/* SPDX-License-Identifier: Apache-2.0 */
/* A program in a sandbox by an OCI runtime: a bundle is made, which is
 * config.json beside the mounted root file system; for `lamina run`, which starts
 * crun itself, or for whoever starts runc or crun on it (`lamina bundle`). */
#ifndef TOOLS_BUNDLE_H
#define TOOLS_BUNDLE_H

#include <sys/types.h>

#include "tools/run_spec.h"

/* Writes DIR/config.json for `lamina run`: tools/enter is the first process. */
int bundle_write(const struct run_spec *spec, const char *dir, struct cas_err *err) CAS_MUST_CHECK;

/* What a bundle for others says beside the spec. */
struct bundle_ids {
        uint32_t first, count; /* ids of the host that 0, 1, … are inside; count 0: no mapping */
        uint32_t first_gid;    /* the same of groups */
};
/* Writes DIR/config.json for any runtime: the program itself is the first process, root.path is
 * "rootfs". It is marked, so that bundle_is_ours knows it. */
int bundle_write_plain(const struct run_spec *spec, const char *name, const struct bundle_ids *ids,
                       const char *dir, struct cas_err *err) CAS_MUST_CHECK;
/* DIR/config.json was written by bundle_write_plain. */
bool bundle_is_ours(const char *dir);
/* Removes what was made in it, once DIR/rootfs is unmounted; DIR stays. */
void bundle_clear(const char *dir);

/* Starts `crun run`, which passes signals on and ends with the program's status. state_dir is
 * where crun keeps what it knows. */
int bundle_start(const struct run_spec *spec, const char *dir, const char *state_dir,
                 const char *id, pid_t *out_pid, struct cas_err *err) CAS_MUST_CHECK;
/* Ends and forgets a container, if it is there. */
void bundle_delete(const char *state_dir, const char *id);

#endif
