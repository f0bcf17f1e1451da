/* SPDX-License-Identifier: Apache-2.0 */
/* Credentials of registries, from where podman and docker keep them: JSON files
 * with "auths", and the helper programs that these name. No state. */
#ifndef REG_AUTHFILE_H
#define REG_AUTHFILE_H

#include "cas/err.h"

#define REG_AUTHFILE_BYTES_MAX ((size_t)1024 * 1024)
#define REG_CREDENTIAL_BYTES_MAX ((size_t)64 * 1024) /* of each part */
#define REG_CREDHELPER_WAIT_MS 30000

/* All NULL: there are none. Owned. */
struct reg_credentials {
        char *user, *password;
        char *identity_token; /* in place of a password: exchanged for tokens */
};
void reg_credentials_release(struct reg_credentials *c);
#define reg_cleanup_credentials __attribute__((cleanup(reg_credentials_release)))

/* For "HOST[:PORT]" and a repository there ("" or NULL: any). `path`: one file, which must be
 * there; NULL: $REGISTRY_AUTH_FILE, else $XDG_RUNTIME_DIR/containers/auth.json,
 * ~/.config/containers/auth.json and ~/.docker/config.json; the first that has some counts. Of
 * keys, the longest that is a prefix by path does ("host/team/app", "host/team", "host"). None is
 * success. Blocks for a helper program, at most REG_CREDHELPER_WAIT_MS. Errors: NOTFOUND (path),
 * INVALID, LIMIT, DENIED, UNSUPPORTED (a helper that is not there, or fails). */
int reg_authfile_find(const char *path, const char *host, const char *repo,
                      struct reg_credentials *out, struct cas_err *err) CAS_MUST_CHECK;
/* The same in the text of a file; a helper is named, not run: *helper (owned) and *server (owned:
 * what to ask it for), both NULL when the text itself tells, or nothing does. */
int reg_authfile_parse(const void *text, size_t len, const char *host, const char *repo,
                       struct reg_credentials *out, char **helper, char **server,
                       struct cas_err *err) CAS_MUST_CHECK;
/* Asks docker-credential-NAME, found by PATH. Having none is success. Errors: UNSUPPORTED, INVALID
 * (name, answer), LIMIT. */
int reg_credhelper_get(const char *name, const char *server, unsigned wait_ms,
                       struct reg_credentials *out, struct cas_err *err) CAS_MUST_CHECK;
/* docker.io under all of its names is "docker.io"; others as they are. */
const char *reg_authfile_host(const char *host);

#endif
