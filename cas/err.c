/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/err.h"

#include <errno.h>
#include <stdio.h>

int cas_fail_at_(struct cas_err *err, enum cas_code code, int sys_errno, const char *where,
                 const char *fmt, ...)
{
        cas_assert(err != NULL);
        cas_assert(code != CAS_OK);
        err->code = code;
        err->sys_errno = sys_errno;
        err->where = where;
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
        va_end(ap);
        if (sys_errno) {
                size_t len = strlen(err->msg);
                char text[64];
                (void)snprintf(err->msg + len, sizeof(err->msg) - len, ": %s",
                               strerror_r(sys_errno, text, sizeof(text)));
        }
        return -(int)code;
}

int cas_err_wrap(struct cas_err *err, const char *fmt, ...)
{
        cas_assert(err->code != CAS_OK);
        char inner[CAS_ERR_MSG_MAX];
        memcpy(inner, err->msg, sizeof(inner));
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
        va_end(ap);
        size_t len = strlen(err->msg);
        (void)snprintf(err->msg + len, sizeof(err->msg) - len, ": %s", inner);
        return -(int)err->code;
}

enum cas_code cas_code_from_errno(int sys_errno)
{
        switch (sys_errno) {
        case ENOENT:
        case ENOTDIR:
                return CAS_E_NOTFOUND;
        case EEXIST:
        case ENOTEMPTY:
                return CAS_E_EXISTS;
        case ENOSPC:
        case EDQUOT:
                return CAS_E_NOSPACE;
        case EPERM:
        case EACCES:
        case EROFS:
                return CAS_E_DENIED;
        case EBUSY:
        case EAGAIN:
        case ETXTBSY:
                return CAS_E_BUSY;
        case EINVAL:
        case ENAMETOOLONG:
        case EISDIR:
        case ELOOP:
                return CAS_E_INVALID;
        case EOPNOTSUPP:
        case ENOSYS:
                return CAS_E_UNSUPPORTED;
        case ENOMEM:
        case EMFILE: /* of the process or the machine, for now: LIMIT would say it of the data */
        case ENFILE:
                return CAS_E_NOMEM;
        case EFBIG:
                return CAS_E_LIMIT;
        default:
                return CAS_E_IO;
        }
}

const char *cas_code_name(enum cas_code code)
{
        switch (code) {
        case CAS_OK:
                return "OK";
#define X(name, text)                                                                              \
        case CAS_E_##name:                                                                         \
                return #name;
                CAS_ERR_TABLE(X)
#undef X
        }
        return "?";
}

const char *cas_code_text(enum cas_code code)
{
        switch (code) {
        case CAS_OK:
                return "success";
#define X(name, text)                                                                              \
        case CAS_E_##name:                                                                         \
                return text;
                CAS_ERR_TABLE(X)
#undef X
        }
        return "?";
}

enum cas_code cas_code_by_name(const char *name)
{
#define X(id, text)                                                                                \
        if (strcmp(name, #id) == 0)                                                                \
                return CAS_E_##id;
        CAS_ERR_TABLE(X)
#undef X
        return CAS_OK;
}
