/* SPDX-License-Identifier: Apache-2.0 */
/* The store's errors as the protocol's: OCI error codes with their HTTP status,
 * and the answer that carries one. */
#ifndef REG_ERR_H
#define REG_ERR_H

#include "cas/err.h"
#include "registry/http.h"

/* X(name, code in the body, status). The codes of the distribution-spec and those that every
 * client knows besides; TOO_LARGE is sent under the code that clients know for it. */
#define REG_CODE_TABLE(X)                                                                          \
        X(BLOB_UNKNOWN, "BLOB_UNKNOWN", 404)                                                       \
        X(BLOB_UPLOAD_UNKNOWN, "BLOB_UPLOAD_UNKNOWN", 404)                                         \
        X(DIGEST_INVALID, "DIGEST_INVALID", 400)                                                   \
        X(MANIFEST_BLOB_UNKNOWN, "MANIFEST_BLOB_UNKNOWN", 400)                                     \
        X(MANIFEST_INVALID, "MANIFEST_INVALID", 400)                                               \
        X(MANIFEST_UNKNOWN, "MANIFEST_UNKNOWN", 404)                                               \
        X(NAME_INVALID, "NAME_INVALID", 400)                                                       \
        X(NAME_UNKNOWN, "NAME_UNKNOWN", 404)                                                       \
        X(SIZE_INVALID, "SIZE_INVALID", 400)                                                       \
        X(TAG_INVALID, "TAG_INVALID", 400)                                                         \
        X(PAGINATION_NUMBER_INVALID, "PAGINATION_NUMBER_INVALID", 400)                             \
        X(RANGE_INVALID, "RANGE_INVALID", 416)                                                     \
        X(DENIED, "DENIED", 403)                                                                   \
        X(UNSUPPORTED, "UNSUPPORTED", 405)                                                         \
        X(TOOMANYREQUESTS, "TOOMANYREQUESTS", 429)                                                 \
        X(TAG_IMMUTABLE, "DENIED", 409)                                                            \
        X(PRECONDITION_FAILED, "PRECONDITION_FAILED", 412)                                         \
        X(MANIFEST_TOO_LARGE, "MANIFEST_INVALID", 413)                                             \
        X(TOO_LARGE, "SIZE_INVALID", 413)                                                          \
        X(UNAVAILABLE, "UNAVAILABLE", 503)                                                         \
        X(UNKNOWN, "UNKNOWN", 500)

enum reg_code {
#define X(name, text, status) REG_E_##name,
        REG_CODE_TABLE(X)
#undef X
};

/* What a request is about: the same failure has another name for each. */
enum reg_about {
        REG_ABOUT_NAME, /* a repository */
        REG_ABOUT_BLOB,
        REG_ABOUT_UPLOAD,
        REG_ABOUT_MANIFEST,     /* being asked for or deleted */
        REG_ABOUT_MANIFEST_PUT, /* what is not found is what it names */
};
enum reg_code reg_code_of(enum cas_code code, enum reg_about about);
unsigned reg_code_status(enum reg_code code);
const char *reg_code_text(enum reg_code code);

/* Answers with {"errors":[…]}, not to be stored by caches. */
void reg_reply_code(struct reg_http_req *req, enum reg_code code, const char *message);
/* The same with any status and code. */
void reg_reply_status(struct reg_http_req *req, unsigned status, const char *code,
                      const char *message);
/* The same for an error of the store. What is our own fault (5xx) is logged, and not told. */
void reg_reply_err(struct reg_http_req *req, enum reg_about about, const struct cas_err *err);

#endif
