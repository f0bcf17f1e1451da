/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/reg_err.h"

#include "cas/json.h"
#include "cas/log.h"

unsigned reg_code_status(enum reg_code code)
{
        switch (code) {
#define X(name, text, status)                                                                      \
        case REG_E_##name:                                                                         \
                return status;
                REG_CODE_TABLE(X)
#undef X
        }
        return 500;
}

const char *reg_code_text(enum reg_code code)
{
        switch (code) {
#define X(name, text, status)                                                                      \
        case REG_E_##name:                                                                         \
                return text;
                REG_CODE_TABLE(X)
#undef X
        }
        return "UNKNOWN";
}

static enum reg_code unknown_of(enum reg_about about)
{
        switch (about) {
        case REG_ABOUT_NAME:
                return REG_E_NAME_UNKNOWN;
        case REG_ABOUT_BLOB:
                return REG_E_BLOB_UNKNOWN;
        case REG_ABOUT_UPLOAD:
                return REG_E_BLOB_UPLOAD_UNKNOWN;
        case REG_ABOUT_MANIFEST:
                return REG_E_MANIFEST_UNKNOWN;
        case REG_ABOUT_MANIFEST_PUT:
                return REG_E_MANIFEST_BLOB_UNKNOWN;
        }
        return REG_E_UNKNOWN;
}

static enum reg_code invalid_of(enum reg_about about)
{
        switch (about) {
        case REG_ABOUT_NAME:
                return REG_E_NAME_INVALID;
        case REG_ABOUT_BLOB:
        case REG_ABOUT_UPLOAD: /* what does not fit its digest */
                return REG_E_DIGEST_INVALID;
        case REG_ABOUT_MANIFEST:
        case REG_ABOUT_MANIFEST_PUT:
                return REG_E_MANIFEST_INVALID;
        }
        return REG_E_UNKNOWN;
}

enum reg_code reg_code_of(enum cas_code code, enum reg_about about)
{
        switch (code) {
        case CAS_E_NOTFOUND:
                return unknown_of(about);
        case CAS_E_INVALID:
        case CAS_E_UNSUPPORTED:
                return invalid_of(about);
        case CAS_E_LIMIT:
                return about == REG_ABOUT_MANIFEST_PUT ? REG_E_MANIFEST_TOO_LARGE : REG_E_TOO_LARGE;
        case CAS_E_DENIED:
                return REG_E_DENIED;
        case CAS_E_BUSY:
                return REG_E_TOOMANYREQUESTS;
        case CAS_E_NOSPACE:
        case CAS_E_AWAY:
                return REG_E_UNAVAILABLE;
        case CAS_OK:
        case CAS_E_EXISTS:
        case CAS_E_CORRUPT:
        case CAS_E_IO:
        case CAS_E_NOMEM:
                return REG_E_UNKNOWN;
        }
        return REG_E_UNKNOWN;
}

void reg_reply_status(struct reg_http_req *req, unsigned status, const char *code,
                      const char *message)
{
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        cas_cleanup_json json_t *doc =
                json_pack("{s:[{s:s,s:s}]}", "errors", "code", code, "message", message);
        if (!doc) /* the message is not UTF-8 */
                doc = json_pack("{s:[{s:s,s:s}]}", "errors", "code", code, "message", "");
        cas_assert(doc != NULL);
        cas_json_append(doc, &body);
        reg_http_reply_header(req, "Content-Type", "application/json");
        reg_http_reply_header(req, "Cache-Control", "no-store");
        reg_http_reply_buf(req, status, &body);
}

void reg_reply_code(struct reg_http_req *req, enum reg_code code, const char *message)
{
        if (code == REG_E_TOOMANYREQUESTS)
                reg_http_reply_header(req, "Retry-After", "1");
        reg_reply_status(req, reg_code_status(code), reg_code_text(code), message);
}

void reg_reply_err(struct reg_http_req *req, enum reg_about about, const struct cas_err *err)
{
        enum reg_code code = reg_code_of(err->code, about);
        unsigned status = reg_code_status(code);
        char target[REG_HTTP_LOG_TEXT_BYTES];
        if (status < 500) {
                reg_reply_code(req, code, err->msg);
                return;
        }
        cas_log(CAS_LOG_ERROR, "registry", "target=\"%s\" status=%u code=%s error=\"%s\"",
                reg_http_log_text(reg_http_target(req), target), status, cas_code_name(err->code),
                err->msg);
        if (err->code == CAS_E_AWAY)
                reg_http_reply_header(req, "Retry-After", "5");
        reg_reply_code(req, code, cas_code_text(err->code));
}
