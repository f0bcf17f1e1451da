/* SPDX-License-Identifier: Apache-2.0 */
/* KIND:PATH[:TAG] as a person gives it, with the path made absolute. */
#ifndef TOOLS_TRANSFER_ARG_H
#define TOOLS_TRANSFER_ARG_H

#include "cas/err.h"

/* *out is owned by the caller. Errors: INVALID. */
int transfer_arg_absolute(const char *text, char **out, struct cas_err *err) CAS_MUST_CHECK;

#endif
