/* SPDX-License-Identifier: Apache-2.0 */
/* Where the keys of an outside issuer come from: a file that is read again when
 * it changes, or a URL that is fetched now and then and when a token names a
 * key that is not known, but not often. Thread-safe. */
#ifndef REG_KEYSOURCE_H
#define REG_KEYSOURCE_H

#include "registry/keyset.h"

struct reg_keysource;
/* Errors of a file: INVALID, NOTFOUND, IO … */
int reg_keysource_file(const char *path, struct reg_keysource **out,
                       struct cas_err *err) CAS_MUST_CHECK;
/* ca_path: a file of certificates to trust besides the system's; may be NULL. Fetches, but an
 * issuer that is away does not keep the registry from starting: it is asked again. Errors: INVALID.
 */
int reg_keysource_url(const char *url, const char *ca_path, struct reg_keysource **out,
                      struct cas_err *err) CAS_MUST_CHECK;
void reg_keysource_free(struct reg_keysource *s);
/* The keys in force, to be unreferenced; NULL while there are none yet. *generation grows with
 * each change. */
struct reg_keyset *reg_keysource_get(struct reg_keysource *s, uint64_t *generation);
/* Reads or fetches. The former stay in force on failure. Blocks. */
int reg_keysource_reload(struct reg_keysource *s, struct cas_err *err) CAS_MUST_CHECK;
/* Whether to reload: the file has changed, or what was fetched is old; unknown: a token names a key
 * that is not there. Of several threads that ask at once, one is told to fetch. */
bool reg_keysource_stale(struct reg_keysource *s, bool unknown);
/* The same, without having been told. */
bool reg_keysource_maybe_stale(struct reg_keysource *s, bool unknown);
/* Whether reloading waits for a network. */
bool reg_keysource_remote(const struct reg_keysource *s);

#endif
