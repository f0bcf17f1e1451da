/* SPDX-License-Identifier: Apache-2.0 */
/* A program in a sandbox by an OCI runtime (crun): a bundle is made, which is
 * config.json beside the mounted root file system. */
#ifndef TOOLS_BUNDLE_H
#define TOOLS_BUNDLE_H

#include <sys/types.h>

#include "tools/run_spec.h"

/* Writes DIR/config.json. */
int bundle_write(const struct run_spec *spec, const char *dir, struct cas_err *err) CAS_MUST_CHECK;
/* Starts `crun run`, which passes signals on and ends with the program's status. state_dir is
 * where crun keeps what it knows. */
int bundle_start(const struct run_spec *spec, const char *dir, const char *state_dir,
                 const char *id, pid_t *out_pid, struct cas_err *err) CAS_MUST_CHECK;
/* Ends and forgets a container, if it is there. */
void bundle_delete(const char *state_dir, const char *id);

#endif
