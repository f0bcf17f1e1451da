/* SPDX-License-Identifier: Apache-2.0 */
/* How a command reaches its store: through the process that owns it, or by
 * owning it for as long as the operation takes. */
#ifndef TOOLS_ACCESS_H
#define TOOLS_ACCESS_H

#include <jansson.h>

#include "cas/store.h"
#include "tools/cli.h"

/* How long a command waits for a store that another one is using. */
#define ACCESS_WAIT_MS 30000

/* Runs an operation, in the owner when one answers, else here. Waits up to ACCESS_WAIT_MS for
 * the store. *result: a new reference. Errors: BUSY (waited in vain), those of the operation. */
int access_call(const char *store_path, const char *op, const json_t *args,
                const struct cas_progress *progress, json_t **result,
                struct cas_err *err) CAS_MUST_CHECK;
/* Makes sure that an owner answers, starting one in the background when none does, and gives
 * what it says of itself (tools/control.h). */
int access_owner(const char *store_path, json_t **info, struct cas_err *err) CAS_MUST_CHECK;
/* For what needs the store closed. Errors: BUSY (an owner answers; says how to end it). */
int access_nobody(const char *store_path, struct cas_err *err) CAS_MUST_CHECK;

/* The common body of commands: calls `op` with a progress line, and on success hands the result
 * to `show` (NULL: nothing is shown), or prints it as it is with --json. Steals args.
 * Returns an exit status. */
int access_command(const struct cli *cli, const char *op, json_t *args,
                   int (*show)(const struct cli *cli, const json_t *result));
/* Adds a member; NULL is left out. Errors: INVALID (not UTF-8). */
int access_arg(json_t *args, const char *key, const char *value,
               struct cas_err *err) CAS_MUST_CHECK;

#endif
