/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands that talk to other registries share: addresses, options,
 * credentials. These are found on the user's side, since the owner of the store
 * may be another process with other files. */
#ifndef TOOLS_REMOTE_ARG_H
#define TOOLS_REMOTE_ARG_H

#include <jansson.h>

#include "cas/names.h"
#include "registry/pull.h"
#include "registry/remote.h"
#include "tools/options.h"

#define REMOTE_HOST_BYTES 300

/* HOST[:PORT]/NAME[:TAG][@DIGEST]. */
struct remote_address {
        char host[REMOTE_HOST_BYTES];
        struct cas_ref ref;
};
/* A first part without a dot, a port or "localhost" is no host. Errors: INVALID. */
int remote_address_parse(const char *text, struct remote_address *out,
                         struct cas_err *err) CAS_MUST_CHECK;
/* Its tag, or its digest as text. out has CAS_DIGEST_TEXT_BYTES or more. Returns out. */
const char *remote_reference(const struct remote_address *a, char out[CAS_DIGEST_TEXT_BYTES]);

struct remote_args {
        bool plain_http, password_stdin, referrers, all_platforms;
        const char *tls_verify, *user, *authfile, *platform;
        uint64_t jobs;
};
/* Options that fill a struct with a member `remote` of this type. */
#define REMOTE_OPTIONS_CONNECTION(type)                                                            \
        {"plain-http", 0,                                                                          \
         CLI_FLAG,     offsetof(type, remote.plain_http),                                          \
         NULL,         "speak HTTP without TLS"},                                                  \
                {"tls-verify", 0,                                                                  \
                 CLI_STRING,   offsetof(type, remote.tls_verify),                                  \
                 "yes|no",     "no: certificates are not checked"},                                \
                {"authfile", 0,                                                                    \
                 CLI_STRING, offsetof(type, remote.authfile),                                      \
                 "FILE",     "credentials, in place of the files of podman and docker"},           \
                {"jobs",     'j',                                                                  \
                 CLI_NUMBER, offsetof(type, remote.jobs),                                          \
                 "N",        "layers at a time; default: 4"},                                      \
        {                                                                                          \
                "referrers", 0, CLI_FLAG, offsetof(type, remote.referrers), NULL,                  \
                        "with signatures and whatever else refers to the image"                    \
        }
#define REMOTE_OPTIONS_USER(type)                                                                  \
        {"user",                                                                                   \
         'u',                                                                                      \
         CLI_STRING,                                                                               \
         offsetof(type, remote.user),                                                              \
         "NAME[:PASSWORD]",                                                                        \
         "who to log in as"},                                                                      \
        {                                                                                          \
                "password-stdin", 0, CLI_FLAG, offsetof(type, remote.password_stdin), NULL,        \
                        "the password is the first line of standard input"                         \
        }

/* Checks the options' values. Errors: INVALID. */
int remote_args_check(const struct remote_args *a, struct cas_err *err) CAS_MUST_CHECK;
/* Adds what an operation needs to reach `address`: host, repository, reference, how to connect,
 * credentials. May ask a credential helper, and read standard input. */
int remote_args_add(json_t *call, const struct remote_args *a, const struct remote_address *address,
                    struct cas_err *err) CAS_MUST_CHECK;
/* A client with as many connections as the jobs want; jobs 0: the usual. */
int remote_client(bool insecure, unsigned jobs, struct reg_httpc **out,
                  struct cas_err *err) CAS_MUST_CHECK;
/* {"moved", "reused", "mounted", "leftOut", "bytes"} as members of `into`. */
void remote_result_add(json_t *into, const struct reg_transfer_result *r);

#endif
