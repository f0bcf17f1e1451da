/* SPDX-License-Identifier: Apache-2.0 */
/* Patterns for names of repositories and tags, as the configuration has them.
 * "*" stands for any text without a slash, "**" for any text; both may be
 * empty. All else stands for itself. Pure functions; matching takes time in
 * proportion to the length of pattern times name, whatever is in them. */
#ifndef REG_GLOB_H
#define REG_GLOB_H

#include "cas/err.h"

#define REG_GLOB_BYTES_MAX 255 /* as many as a repository's name has */

/* Not empty, not too long, and made of what names are made of and stars. */
bool reg_glob_valid(const char *pattern);
/* The whole of text. A pattern that is not valid matches nothing. */
bool reg_glob_match(const char *pattern, const char *text);

/* Several of them: text matches when one does. Zeroed, it is empty and matches nothing. */
#define REG_GLOBS_MAX 256
struct reg_globs {
        size_t count;
        char **patterns; /* owned */
};
/* Adds what `text` lists, separated by spaces, tabs or commas. Errors: INVALID (none, or one that
 * is not valid), LIMIT; nothing is added then. */
int reg_globs_add(struct reg_globs *globs, const char *text, struct cas_err *err) CAS_MUST_CHECK;
bool reg_globs_match(const struct reg_globs *globs, const char *text);
void reg_globs_release(struct reg_globs *globs);

#endif
