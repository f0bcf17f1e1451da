/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of remote registries share. Lock order: fetching (held while
 * a token is fetched, so that one is, for all who wait), then mutex. */
#ifndef REG_REMOTE_INT_H
#define REG_REMOTE_INT_H

#include "cas/mutex.h"
#include "registry/authfile.h"
#include "registry/challenge.h"
#include "registry/remote.h"

#define REMOTE_ATTEMPTS 5
#define REMOTE_AUTH_ROUNDS 4
#define REMOTE_TOKENS_MAX 64
#define REMOTE_TOKEN_BYTES_MAX ((size_t)64 * 1024)
#define REMOTE_TOKEN_ANSWER_BYTES_MAX ((size_t)1024 * 1024)
#define REMOTE_ERROR_BYTES_MAX ((size_t)64 * 1024)

enum remote_scheme { REMOTE_SCHEME_UNKNOWN, REMOTE_HTTPS, REMOTE_HTTP };

struct remote_token {
        struct remote_token *next;
        char *scope;  /* owned */
        char *header; /* owned: "Authorization: Bearer …" */
        uint64_t until_ns;
};
/* Credentials by repository, since keys of auth files may be paths. */
struct remote_known {
        struct remote_known *next;
        char *repo;
        struct reg_credentials credentials;
};

struct reg_remote {
        struct reg_remote_config config; /* strings are owned copies */
        char *server;                    /* owned: HOST[:PORT] that is connected to */
        bool near;                       /* this machine: https, then http */

        _Atomic(enum reg_remote_kind) kind;
        _Atomic bool was_near; /* it is, whatever its name says: so may be what it names */

        struct cas_mutex fetching;
        struct cas_mutex mutex; /* guards what follows */
        enum remote_scheme scheme;
        struct reg_challenge challenge; /* the last one */
        struct remote_token *tokens;    /* newest first */
        unsigned token_count;
        struct remote_known *known;
        unsigned known_count;
};

/* "https://HOST[:PORT]", by what was found out so far. Owned by the caller. */
char *remote_base(struct reg_remote *r);
uint64_t remote_now_ns(void);

/* remote_auth.c. What to send at once, NULL when nothing is known to be wanted. *header is owned
 * by the caller. `forget`: a header that was refused, or NULL. wider: a scope that the registry
 * asked for beyond that of the request; may be NULL. Blocks for a token. Errors: DENIED, IO … */
int remote_auth_header(struct reg_remote *r, const struct reg_remote_request *request,
                       const char *wider, const char *forget, char **header,
                       struct cas_err *err) CAS_MUST_CHECK;
/* Remembers what a 401 or 403 asks for. *wider (owned; NULL): the scope it says is wanted.
 * *asks false: it asks for nothing that is known here. */
int remote_auth_challenged(struct reg_remote *r, const struct reg_httpc_transfer *t, bool *asks,
                           char **wider, struct cas_err *err) CAS_MUST_CHECK;
void remote_auth_release(struct reg_remote *r);

/* remote.c */
bool remote_is_transient(unsigned status);
/* Sleeps before the next attempt: as the failure says, else longer each time. */
void remote_pause(unsigned attempt, const struct reg_remote_failure *failure);
/* An exchange of one attempt; statuses are the caller's to judge. */
int remote_try(struct reg_remote *r, const struct reg_remote_request *request,
               struct reg_httpc_transfer **out, struct cas_err *err) CAS_MUST_CHECK;

#endif
