/* SPDX-License-Identifier: Apache-2.0 */
/* The one error type of the project. The caller owns it, it never allocates,
 * and it is untouched on success. Functions that can fail return 0, or the
 * negated code, and take `struct cas_err *err` last (never NULL). */
#ifndef CAS_ERR_H
#define CAS_ERR_H

#include <stdarg.h>

#include "cas/base.h"

/* Codes are what a caller can act on. X(name, text) */
#define CAS_ERR_TABLE(X)                                                                           \
        X(NOTFOUND, "not found")                                                                   \
        X(EXISTS, "exists already")                                                                \
        X(CORRUPT, "damaged data")                                                                 \
        X(NOSPACE, "no space left")                                                                \
        X(IO, "input/output error")                                                                \
        X(LIMIT, "over a limit")                                                                   \
        X(DENIED, "not permitted")                                                                 \
        X(BUSY, "in use")                                                                          \
        X(INVALID, "invalid input")                                                                \
        X(UNSUPPORTED, "not supported")                                                            \
        X(NOMEM, "out of memory")                                                                  \
        X(AWAY, "cannot be reached now")

enum cas_code {
        CAS_OK = 0,
#define X(name, text) CAS_E_##name,
        CAS_ERR_TABLE(X)
#undef X
};

#define CAS_ERR_MSG_MAX 512

struct cas_err {
        enum cas_code code;
        int sys_errno;     /* errno of the failed call, or 0 */
        const char *where; /* function that failed first; static storage */
        char msg[CAS_ERR_MSG_MAX];
};

#define CAS_ERR_INIT                                                                               \
        {                                                                                          \
                0                                                                                  \
        }

/* Fills err and returns -code, so that callers `return cas_fail(...)`. */
#define cas_fail(err, code, ...) cas_fail_at_((err), (code), 0, __func__, __VA_ARGS__)
/* The same for a failed system call: the code follows from errno, and its text
 * is appended to the message. */
#define cas_fail_sys(err, sys_errno, ...)                                                          \
        cas_fail_at_((err), cas_code_from_errno(sys_errno), (sys_errno), __func__, __VA_ARGS__)
int cas_fail_at_(struct cas_err *err, enum cas_code code, int sys_errno, const char *where,
                 const char *fmt, ...) CAS_PRINTF(5, 6);

/* Prefixes the message with context ("pack 7: …") and returns -err->code. */
int cas_err_wrap(struct cas_err *err, const char *fmt, ...) CAS_PRINTF(2, 3);

enum cas_code cas_code_from_errno(int sys_errno);
/* Short name ("NOTFOUND") and text ("not found"); static storage. */
const char *cas_code_name(enum cas_code code);
const char *cas_code_text(enum cas_code code);
/* The code whose name this is, or CAS_OK. */
enum cas_code cas_code_by_name(const char *name);

#endif
