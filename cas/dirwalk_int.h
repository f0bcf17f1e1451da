/* SPDX-License-Identifier: Apache-2.0 */
/* Walking the directories of a store. */
#ifndef CAS_DIRWALK_INT_H
#define CAS_DIRWALK_INT_H

#include "cas/store_int.h"

/* Calls fn for each entry of the directory `path` (relative to the store's) but "." and "..",
 * with the entry's path; fn may remove it. 0 goes on, else its code is returned. */
typedef int (*cas_dir_fn)(void *arg, const char *path, const char *name, struct cas_err *err);
int cas_dir_each(struct cas_store *s, const char *path, cas_dir_fn fn, void *arg,
                 struct cas_err *err) CAS_MUST_CHECK;
/* The same of any directory; paths are names. */
int cas_dir_each_at(int dirfd, cas_dir_fn fn, void *arg, struct cas_err *err) CAS_MUST_CHECK;
/* Every file of blobs/ that lies where its name says; `stray` (may be NULL) gets the others. */
int cas_blob_files_each(struct cas_store *s,
                        int (*fn)(void *arg, const char *path, const struct cas_digest *digest,
                                  struct cas_err *err),
                        cas_dir_fn stray, void *arg, struct cas_err *err) CAS_MUST_CHECK;
/* The same in parts, each of which is a directory: `number` of so many. Absent ones are empty. */
#define CAS_BLOB_DIRECTORIES (2 * 257)
int cas_blob_directory_each(struct cas_store *s, unsigned number,
                            int (*fn)(void *arg, const char *path, const struct cas_digest *digest,
                                      struct cas_err *err),
                            cas_dir_fn stray, void *arg, struct cas_err *err) CAS_MUST_CHECK;

#endif
