/* SPDX-License-Identifier: Apache-2.0 */
/* The additional layer store of a host (spec/als.md): one for each store, served
 * by two processes in the background. */
#ifndef TOOLS_LAYERSTORE_H
#define TOOLS_LAYERSTORE_H

#include "tools/mounting.h"

/* Mounts it on dir, an absolute path, and returns when it is served. Errors: BUSY (it is served
 * somewhere already), DENIED (not root), UNSUPPORTED. */
int layerstore_start(const struct mounting *m, const char *dir, struct cas_err *err) CAS_MUST_CHECK;
/* Unmounts it. What containers stand on stays mounted. Errors: NOTFOUND (there is none), BUSY. */
int layerstore_end(const struct mounting *m, const char *dir, struct cas_err *err) CAS_MUST_CHECK;
/* The same, wherever it is; none is success. */
int layerstore_end_any(const struct mounting *m, struct cas_err *err) CAS_MUST_CHECK;

#endif
