/* SPDX-License-Identifier: Apache-2.0 */
/* Request targets: "/a/b%3Ac?x=1&y" into percent-decoded path segments and
 * query parameters. Pure functions over text that is not trusted; bounded. */
#ifndef REG_HTTP_URI_H
#define REG_HTTP_URI_H

#include "cas/err.h"

#define REG_URI_BYTES_MAX 8192
#define REG_URI_SEGMENTS_MAX 160 /* a repository name of 255 bytes has at most 128 */
#define REG_URI_PARAMS_MAX 64

struct reg_uri_param {
        const char *name;
        const char *value; /* "" when there is none */
};
/* Pointers are into `text`; the struct cannot be copied. */
struct reg_uri {
        char *text;        /* owned */
        const char *raw;   /* as it was sent, query included; NUL-terminated */
        const char *query; /* raw, after "?"; "" when there is none */
        size_t segment_count;
        const char *segments[REG_URI_SEGMENTS_MAX]; /* "/a/b/" has three: "a", "b", "" */
        size_t param_count;
        struct reg_uri_param params[REG_URI_PARAMS_MAX];
};
/* Origin form only ("/…"). Errors: INVALID (not a path, broken escapes, an escaped NUL or
 * slash, control characters), LIMIT (one of the above). */
int reg_uri_parse(const char *target, struct reg_uri *out, struct cas_err *err) CAS_MUST_CHECK;
void reg_uri_release(struct reg_uri *uri);
#define reg_cleanup_uri __attribute__((cleanup(reg_uri_release)))
/* The first parameter of this name, or NULL. */
const char *reg_uri_param(const struct reg_uri *uri, const char *name);

#endif
