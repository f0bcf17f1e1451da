/* SPDX-License-Identifier: Apache-2.0 */
/* Paths in images: bytes, relative to the root, without leading or trailing
 * slash, empty, "." or ".." components; "" is the root. Values only, no I/O. */
#ifndef CAS_PATH_H
#define CAS_PATH_H

#include "cas/err.h"

/* Brings a path of a tar into that form: slashes at the ends, doubled ones and "." vanish, ".."
 * takes the component before it away and stays at the root when there is none. *out is owned by
 * the caller. Errors: LIMIT (path, component or depth). */
int cas_path_clean(const char *raw, char **out, struct cas_err *err) CAS_MUST_CHECK;
/* Whether it has that form and is within the limits. */
bool cas_path_valid(const char *path);
/* Order of listings: component by component, byte-wise; a directory stands before what is in
 * it. <0, 0, >0. */
int cas_path_compare(const char *a, const char *b);
/* Whether `path` lies in the directory `dir` or below it; not when they are equal. */
bool cas_path_inside(const char *path, const char *dir);

#endif
