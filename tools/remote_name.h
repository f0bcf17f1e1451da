/* SPDX-License-Identifier: Apache-2.0 */
/* How images at registries, HOST[:PORT]/NAME[:TAG][@DIGEST], are called here when they are pulled
 * or mounted by those names. */
#ifndef TOOLS_REMOTE_NAME_H
#define TOOLS_REMOTE_NAME_H

#include "tools/remote_arg.h"

struct remote_name {
        struct remote_address there;
        struct cas_ref here;                                          /* "_" for ":" in HOST */
        char source[REMOTE_HOST_BYTES + CAS_REPO_NAME_BYTES_MAX + 2]; /* HOST[:PORT]/NAME */
};
/* Whether the first part has a dot or a colon, or is localhost, and something follows. */
bool remote_name_is(const char *text);
/* Errors: INVALID. */
int remote_name_parse(const char *text, struct remote_name *out,
                      struct cas_err *err) CAS_MUST_CHECK;

#endif
