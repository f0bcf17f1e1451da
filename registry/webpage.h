/* SPDX-License-Identifier: Apache-2.0 */
/* A few read-only pages for browsers, made here without scripts: repositories,
 * their tags, an image with its layers, and what sharing saves. Who asks sees
 * what they may pull. */
#ifndef REG_WEBPAGE_H
#define REG_WEBPAGE_H

#include "registry/registry_int.h"

/* Whether the path is one of the pages': "/" and what is below "/web". */
bool reg_web_path(const struct reg_uri *uri);
/* Answers; may go on on a worker's thread. */
void reg_web_serve(struct reg_call *call);
/* Who asks has not been believed: asked for a password, as browsers know it. */
void reg_web_refuse(struct reg_http_req *req, enum reg_verdict verdict);

#endif
