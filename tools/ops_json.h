/* SPDX-License-Identifier: Apache-2.0 */
/* What operations share: references and platforms out of arguments, manifests
 * into results, cleanup of the types they use. */
#ifndef TOOLS_OPS_JSON_H
#define TOOLS_OPS_JSON_H

#include <jansson.h>

#include "cas/transfer.h"

CAS_DEFINE_CLEANUP(op_cleanup_json_, json_t *, json_decref);
#define op_cleanup_json __attribute__((cleanup(op_cleanup_json_)))
#define op_cleanup_address __attribute__((cleanup(cas_transfer_address_release)))

/* NAME[:TAG][@DIGEST]. Errors: INVALID. */
int op_arg_ref(const json_t *args, const char *key, struct cas_ref *out,
               struct cas_err *err) CAS_MUST_CHECK;
/* "platform", when it is given. */
int op_arg_platform(const json_t *args, struct cas_platform *out, bool *out_given,
                    struct cas_err *err) CAS_MUST_CHECK;
/* {"name", "repository", "tag", "digest", "size", "mediaType"}; the tag is left out when it is "".
 * A new reference. */
json_t *op_manifest_json(const char *repo, const char *tag, const struct cas_manifest_info *m);
/* An absolute path of the client, as this process must name it: through /proc/PID/root where the
 * client lives in another mount namespace. *out is owned by the caller. Errors: INVALID,
 * UNSUPPORTED (the client cannot be found: another PID namespace). */
int op_client_path(const json_t *args, const char *path, char **out,
                   struct cas_err *err) CAS_MUST_CHECK;
/* The same for the member `key`. */
int op_arg_path(const json_t *args, const char *key, char **out,
                struct cas_err *err) CAS_MUST_CHECK;
/* kind:PATH[:TAG] (cas/transfer.h) with the path seen that way. */
int op_arg_address(const json_t *args, const char *key, struct cas_transfer_address *out,
                   struct cas_err *err) CAS_MUST_CHECK;
struct cas_recipe_record;
/* What is known of how a layer's blob is made: {"digest", "size", "condensed", "class"?, "reason"?,
 * "recipeBytes"?, "wrapBytes"?, "correctionsBytes"?}. A new reference. */
json_t *op_recipe_json(struct cas_store *s, const struct cas_recipe_record *rec);
/* The name of a new lease of a mount. */
void op_lease_id_new(char *out, size_t out_bytes);
/* A JSON string of text that need not be UTF-8: other bytes become "?". A new reference. */
json_t *op_text_json(const char *text);
/* "NAME:TAG", or "NAME@DIGEST" where the reference has no tag. Owned by the caller. */
char *op_ref_text(const struct cas_ref *ref);

#endif
