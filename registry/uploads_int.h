/* SPDX-License-Identifier: Apache-2.0 */
/* What uploads.c (bytes of sessions), sessions.c (beginning and finding them)
 * and mounts.c (blobs that are here already) share. */
#ifndef REG_UPLOADS_INT_H
#define REG_UPLOADS_INT_H

#include "registry/registry_int.h"

/* Headers of a session that has `bytes` so far. */
void reg_session_headers(struct reg_call *call, const char *id, uint64_t bytes);
void reg_session_reply(struct reg_call *call, unsigned status, const char *id, uint64_t bytes);
/* A blob is in the repository now. */
void reg_blob_reply_created(struct reg_call *call, const struct cas_digest *digest);
/* The digest in a parameter of the query. False: answered. */
bool reg_query_digest(struct reg_call *call, const char *name, struct cas_digest *out);

/* What the request says of the session it begins: who, and which digest or algorithm. False:
 * answered. */
bool reg_session_describe(struct reg_call *call, struct cas_upload_info *out);
/* Handlers of POST, on a worker's thread. */
void reg_session_begin(struct reg_call *call);
void reg_session_resume(struct reg_call *call);
void reg_blob_mount(struct reg_call *call);

#endif
