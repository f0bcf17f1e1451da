/* SPDX-License-Identifier: Apache-2.0 */
/* A private directory of a test. */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H

/* A new empty directory under $TMPDIR or /tmp; absolute path, owned. */
char *scratch_new(void);
/* Removes it with all it holds (mounts in it are not entered) and frees the path; NULL is fine. */
void scratch_free(char *path);
/* Copies a tree of directories and regular files; `to` must not exist. */
void scratch_copy(const char *from, const char *to);

#endif
