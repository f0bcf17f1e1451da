/* SPDX-License-Identifier: Apache-2.0 */
/* What is run in a sandbox, and how: out of an image's configuration and the
 * command line, for either runtime. */
#ifndef TOOLS_RUN_SPEC_H
#define TOOLS_RUN_SPEC_H

#include <jansson.h>

#include "cas/buf.h"

struct run_bind {
        char *from; /* absolute, of the host */
        char *to;   /* absolute, of the sandbox; no link in it */
        bool read_only;
        bool is_directory;
};

struct run_spec {
        char *root; /* the mounted root file system; absolute, no link in it */
        bool read_only;
        bool network; /* the host's; else none */
        bool terminal;
        bool nested; /* the runtime is in a user namespace already: the kernel lets it bind nothing
                      * without what is mounted below */
        bool whole_proc; /* nothing of /proc is hidden or read-only but by its owners: only in a
                          * user namespace, which then may make others that mount it */
        char **argv;     /* NULL-terminated, as env */
        char **env;
        char *workdir;
        uint32_t uid, gid;
        uint32_t *groups;
        size_t group_count;
        struct run_bind *binds;
        size_t bind_count;
        char *hostname; /* NULL: the host's */
        int userns_fd;  /* that the first process joins, and with it everything; -1: none.
                         * Borrowed */
        int cgroup_fd;  /* of cgroup.procs, that the runtime begins by joining; -1: none.
                         * Borrowed */
};
#define RUN_SPEC_INIT                                                                              \
        {                                                                                          \
                .userns_fd = -1, .cgroup_fd = -1                                                   \
        }

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
        const char *const *dns; /* addresses of resolvers, instead of the host's resolv.conf */
        size_t dns_count;
        const char *const *dns_search;
        size_t dns_search_count;
        const char *const *hosts; /* NAME:ADDRESS */
        size_t host_count;
        const char *const *volumes; /* directories of the sandbox that are not of its root */
        size_t volume_count;
        const char *hostname;   /* NULL: the host's */
        const char *files_dir;  /* of this sandbox; where files are made that it is shown */
        const char *volume_dir; /* where volumes are kept; made when there are any */
        bool read_only, network;
        bool fixed; /* no mount point can be made in root */
};

/* Everything in *out is owned by it. Errors: INVALID (no command, unknown user …). */
int run_spec_make(const struct run_request *request, struct run_spec *out,
                  struct cas_err *err) CAS_MUST_CHECK;
void run_spec_release(struct run_spec *s);
#define run_cleanup_spec __attribute__((cleanup(run_spec_release)))

/* Adds what the sandbox sees at `to`, a path of the image. from: as it is given, it must be there.
 */
int run_spec_bind(struct run_spec *s, const char *from, const char *to, bool read_only,
                  struct cas_err *err) CAS_MUST_CHECK;
/* Makes resolv.conf, hosts and volumes as the request says, and binds them (run_files.c).
 * Errors: INVALID. */
int run_files_make(const struct run_request *request, struct run_spec *s,
                   struct cas_err *err) CAS_MUST_CHECK;

/* Nobody but root is in the namespace that it will run in. Errors: DENIED (it is to be another). */
int run_spec_alone(struct run_spec *s, struct cas_err *err) CAS_MUST_CHECK;
/* With a user namespace: makes the mount points that the image lacks (run_points.c). */
int run_points_make(const struct run_spec *s, struct cas_err *err) CAS_MUST_CHECK;

/* Where a path of the image leads, links followed inside of root as a process in it would see
 * them: absolute, relative to root. What is missing at the end is kept. */
int run_path_resolve(const char *root, const char *path, char **out,
                     struct cas_err *err) CAS_MUST_CHECK;

/* A small file of the image, links followed inside of root. Absent is empty. Errors: LIMIT. */
int run_image_read(const char *root, const char *path, struct cas_buf *out,
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
