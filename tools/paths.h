/* SPDX-License-Identifier: Apache-2.0 */
/* Where things are: the store, the runtime directory, this program. Reads the
 * environment; thread-safe. Strings that are returned are owned by the caller. */
#ifndef TOOLS_PATHS_H
#define TOOLS_PATHS_H

#include "cas/err.h"

/* --store, else $LAMINA_STORE, else /var/lib/lamina (root) or $XDG_DATA_HOME/lamina
 * (default ~/.local/share). Absolute. */
int path_store(const char *option, char **out, struct cas_err *err) CAS_MUST_CHECK;
/* $LAMINA_RUN, else /run/lamina/STORE_ID (root), $XDG_RUNTIME_DIR/lamina/STORE_ID or
 * /tmp/lamina-UID/STORE_ID. Made with mode 0700 when it is not there; a directory of somebody
 * else, or that others can write, is refused (DENIED). */
int path_run_dir(const char *store_id, char **out, struct cas_err *err) CAS_MUST_CHECK;
/* Absolute: the working directory before a relative path. The path need not exist. */
int path_absolute(const char *path, char **out, struct cas_err *err) CAS_MUST_CHECK;
/* With links resolved; the last component may be missing. */
int path_real(const char *path, char **out, struct cas_err *err) CAS_MUST_CHECK;
/* This program's file. */
int path_program(char **out, struct cas_err *err) CAS_MUST_CHECK;
/* Makes a directory and those above it. Existing is success. */
int path_make_dirs(const char *path, unsigned mode, struct cas_err *err) CAS_MUST_CHECK;

#endif
