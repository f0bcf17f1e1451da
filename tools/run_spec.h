/* SPDX-License-Identifier: Apache-2.0 */
/* What is run in a sandbox, and how: out of an image's configuration and the
 * command line, for either runtime. */
#ifndef TOOLS_RUN_SPEC_H
#define TOOLS_RUN_SPEC_H

#include <jansson.h>

#include "cas/err.h"

struct run_bind {
        char *from; /* absolute, of the host */
        char *to;   /* absolute, of the sandbox; no link in it */
        bool read_only;
};

struct run_spec {
        char *root; /* the mounted root file system; absolute, no link in it */
        bool read_only;
        bool network; /* the host's; else none */
        bool terminal;
        char **argv; /* NULL-terminated, as env */
        char **env;
        char *workdir;
        uint32_t uid, gid;
        uint32_t *groups;
        size_t group_count;
        struct run_bind *binds;
        size_t bind_count;
};

struct run_request {
        const char *root;
        const json_t *config; /* of the image: "user", "workingDir", "env", "entrypoint", "cmd" */
        const char *user;     /* NULL: the image's; as workdir and entrypoint */
        const char *workdir;
        const char *entrypoint; /* "": none */
        const char *const *env; /* KEY=VALUE, or KEY: the host's value */
        size_t env_count;
        const char *const *binds; /* SRC:DST[:ro] */
        size_t bind_count;
        const char *const *words; /* instead of the image's cmd */
        size_t word_count;
        bool read_only, network;
};

/* Everything in *out is owned by it. Errors: INVALID (no command, unknown user …). */
int run_spec_make(const struct run_request *request, struct run_spec *out,
                  struct cas_err *err) CAS_MUST_CHECK;
void run_spec_release(struct run_spec *s);
#define run_cleanup_spec __attribute__((cleanup(run_spec_release)))

/* Where a path of the image leads, links followed inside of root as a process in it would see
 * them: absolute, relative to root. What is missing at the end is kept. */
int run_path_resolve(const char *root, const char *path, char **out,
                     struct cas_err *err) CAS_MUST_CHECK;

/* The user "USER[:GROUP]" by the image's own /etc/passwd and /etc/group. *home is owned. */
struct run_user {
        uint32_t uid, gid;
        uint32_t *groups; /* owned; gid among them */
        size_t group_count;
        char *home; /* owned; "/" when not known */
};
int run_user_find(const char *root, const char *text, struct run_user *out,
                  struct cas_err *err) CAS_MUST_CHECK;
void run_user_release(struct run_user *u);

#endif
