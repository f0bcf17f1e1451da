/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates that a machine's administrator keeps for one registry, where
 * podman and docker keep them: directories certs.d/HOST[:PORT] with *.crt (whom
 * to trust), *.cert and *.key (who we are). No state. */
#ifndef REG_HOSTCERTS_H
#define REG_HOSTCERTS_H

#include "cas/buf.h"

struct reg_hostcerts {
        struct cas_buf ca;          /* of all files *.crt, one after the other; may be empty */
        char *cert_path, *key_path; /* owned; both or neither */
};
void reg_hostcerts_release(struct reg_hostcerts *c);
#define reg_cleanup_hostcerts __attribute__((cleanup(reg_hostcerts_release)))
/* host: "HOST[:PORT]". dirs: where to look, NULL-terminated; NULL: /etc/containers/certs.d, then
 * /etc/docker/certs.d; the first that has the host counts. None is success. Reads files.
 * Errors: IO, DENIED, LIMIT (too large), INVALID (a certificate without its key). */
int reg_hostcerts_find(const char *const *dirs, const char *host, struct reg_hostcerts *out,
                       struct cas_err *err) CAS_MUST_CHECK;

#endif
