/* SPDX-License-Identifier: Apache-2.0 */
/* The client of the owner's control API (spec/control.md): HTTP over the Unix
 * socket STORE/control.sock. One thread at a time per call; blocking. */
#ifndef TOOLS_CONTROL_H
#define TOOLS_CONTROL_H

#include <jansson.h>

#include "cas/store.h"

#define CONTROL_SOCKET_NAME "control.sock"
#define CONTROL_API_VERSION 1
#define CONTROL_ARGS_BYTES_MAX (1024 * 1024)
#define CONTROL_LINE_BYTES_MAX (64 * 1024 * 1024) /* a result */

/* What the owner says of itself: {"api", "version", "pid", "id", "store", "runDir",
 * "resolve", "program", "mountNamespace"}. *out is a new reference.
 * Errors: NOTFOUND (nobody answers there), UNSUPPORTED (another API version), DENIED, IO. */
int control_info(const char *store_path, json_t **out, struct cas_err *err) CAS_MUST_CHECK;
/* Ends an owner that was started in the background. Errors: BUSY (it was not), as above. */
int control_end(const char *store_path, struct cas_err *err) CAS_MUST_CHECK;
/* Ends any owner, so that the caller takes its place (`lamina serve --upgrade`). Errors as above.
 */
int control_make_way(const char *store_path, struct cas_err *err) CAS_MUST_CHECK;
/* Runs an operation in the owner; its errors come back as they were.
 * Errors beside those: NOTFOUND with *no_owner set (nobody answers), IO (the owner ended
 * before the operation did). */
int control_call(const char *store_path, const char *op, const json_t *args,
                 const struct cas_progress *progress, json_t **result, bool *no_owner,
                 struct cas_err *err) CAS_MUST_CHECK;

#endif
