/* SPDX-License-Identifier: Apache-2.0 */
/* Names of images at a registry, HOST[:PORT]/NAME[:TAG][@DIGEST], and how they
 * are called here. */
#ifndef TOOLS_REMOTE_NAME_H
#define TOOLS_REMOTE_NAME_H

#include "cas/names.h"

#define REMOTE_HOST_BYTES 256

struct remote_name {
        char host[REMOTE_HOST_BYTES]; /* HOST[:PORT] */
        struct cas_ref there;         /* at that registry */
        struct cas_ref here;          /* "HOST/NAME" with "_" for ":" */
        char source[REMOTE_HOST_BYTES + CAS_REPO_NAME_BYTES_MAX + 2]; /* "HOST[:PORT]/NAME" */
};
/* Whether the first part has a dot or a colon, or is localhost, and something follows. */
bool remote_name_is(const char *text);
/* Errors: INVALID. */
int remote_name_parse(const char *text, struct remote_name *out,
                      struct cas_err *err) CAS_MUST_CHECK;

#endif
