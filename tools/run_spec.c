/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/run_spec.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "tools/paths.h"

#define PATH_LINKS_MAX 40
#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static void strings_free(char **list)
{
        for (char **p = list; p && *p; p++)
                free(*p);
        free(list);
}

void run_spec_release(struct run_spec *s)
{
        free(s->root);
        free(s->workdir);
        free(s->groups);
        strings_free(s->argv);
        strings_free(s->env);
        for (size_t i = 0; i < s->bind_count; i++) {
                free(s->binds[i].from);
                free(s->binds[i].to);
        }
        free(s->binds);
        free(s->hostname);
        *s = (struct run_spec)RUN_SPEC_INIT;
}

static void strings_add(char ***list, size_t *count, char *text)
{
        *list = cas_xrealloc(*list, (*count + 2) * sizeof(char *));
        (*list)[(*count)++] = text;
        (*list)[*count] = NULL;
}

/* ---- paths ---- */

/* "/a//b/../c" without its dots. */
static char *path_normal(const char *path)
{
        cas_cleanup_free char *copy = cas_xstrdup(path);
        char *out = cas_xcalloc(1, strlen(path) + 2);
        size_t len = 0;
        char *at = copy;
        for (char *part; (part = strsep(&at, "/"));) {
                if (part[0] == '\0' || strcmp(part, ".") == 0)
                        continue;
                if (strcmp(part, "..") == 0) {
                        while (len > 0 && out[--len] != '/')
                                continue;
                        out[len] = '\0';
                        continue;
                }
                out[len++] = '/';
                memcpy(out + len, part, strlen(part) + 1);
                len += strlen(part);
        }
        if (len == 0)
                out[0] = '/';
        return out;
}

/* Opens what `path` begins with, as much as there is: *len bytes of it. *real is where that is
 * inside of root, "" the root itself. */
static int path_open_head(int root_fd, const char *root, const char *path, size_t *len, int *out_fd,
                          char real[PATH_MAX], struct cas_err *err)
{
        struct open_how how = {.flags = O_PATH | O_CLOEXEC,
                               .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
        *len = strlen(path);
        for (;;) {
                cas_cleanup_free char *head = cas_xstrndup(path, *len ? *len : 1);
                cas_cleanup_fd int fd = (int)syscall(SYS_openat2, root_fd, head, &how, sizeof(how));
                if (fd < 0) {
                        if ((errno != ENOENT && errno != ENOTDIR) || *len == 0)
                                return cas_fail_sys(err, errno, "%s in the image", path);
                        while (*len > 0 && path[--*len] != '/')
                                continue;
                        continue;
                }
                char link[32], full[PATH_MAX];
                snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
                ssize_t n = readlink(link, full, sizeof(full) - 1);
                if (n < 0 || strncmp(full, root, strlen(root)) != 0)
                        return cas_fail(err, CAS_E_INVALID, "%s: not in the image", path);
                full[n] = '\0';
                snprintf(real, PATH_MAX, "%s", full + strlen(root));
                *out_fd = cas_steal_fd(&fd);
                return 0;
        }
}

int run_path_resolve(const char *root, const char *path, char **out, struct cas_err *err)
{
        cas_cleanup_free char *text = path_normal(path);
        cas_cleanup_fd int root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (root_fd < 0)
                return cas_fail_sys(err, errno, "%s", root);
        for (unsigned links = 0; links <= PATH_LINKS_MAX; links++) {
                size_t len;
                char real[PATH_MAX], target[PATH_MAX];
                cas_cleanup_fd int fd = -1;
                if (path_open_head(root_fd, root, text, &len, &fd, real, err) < 0)
                        return -(int)err->code;
                const char *missing = text + len + (text[len] == '/');
                size_t name_len = strcspn(missing, "/");
                cas_cleanup_free char *name = cas_xstrndup(missing, name_len);
                ssize_t n = name_len ? readlinkat(fd, name, target, sizeof(target) - 1) : -1;
                if (n < 0) {
                        *out = text[len] ? cas_xasprintf("%s/%s", real, missing)
                                         : cas_xstrdup(real[0] ? real : "/");
                        return 0;
                }
                /* A link to what is not there: what would follow it makes things where it leads,
                 * and need not see the image as the root. */
                target[n] = '\0';
                cas_cleanup_free char *joined = cas_xasprintf(
                        "%s/%s%s", target[0] == '/' ? "" : real, target, missing + name_len);
                free(text);
                text = path_normal(joined);
        }
        return cas_fail(err, CAS_E_INVALID, "%s in the image: too many links", path);
}

/* ---- binds ---- */

int run_spec_bind(struct run_spec *s, const char *from, const char *to, bool read_only,
                  struct cas_err *err)
{
        struct run_bind b = {.read_only = read_only};
        if (path_real(from, &b.from, err) < 0)
                return cas_err_wrap(err, "bind");
        if (run_path_resolve(s->root, to, &b.to, err) < 0) {
                free(b.from);
                return cas_err_wrap(err, "bind");
        }
        struct stat st;
        b.is_directory = stat(b.from, &st) == 0 && S_ISDIR(st.st_mode);
        s->binds = cas_xrealloc(s->binds, (s->bind_count + 1) * sizeof(b));
        s->binds[s->bind_count++] = b;
        return 0;
}

/* SRC:DST[:ro] */
static int bind_parse(struct run_spec *s, const char *text, struct cas_err *err)
{
        cas_cleanup_free char *copy = cas_xstrdup(text);
        char *at = copy;
        const char *from = strsep(&at, ":"), *to = strsep(&at, ":");
        bool read_only = at && strcmp(at, "ro") == 0;
        if (!to || from[0] == '\0' || to[0] != '/' || (at && !read_only && strcmp(at, "rw") != 0))
                return cas_fail(err, CAS_E_INVALID, "--bind %s: not SRC:/DST[:ro]", text);
        if (access(from, F_OK) != 0)
                return cas_fail_sys(err, errno, "--bind %s", from);
        return run_spec_bind(s, from, to, read_only, err);
}

/* ---- environment ---- */

static void env_set(struct run_spec *s, size_t *count, const char *text)
{
        size_t key = strcspn(text, "=") + 1;
        for (size_t i = 0; i < *count; i++) {
                if (strncmp(s->env[i], text, key) == 0) {
                        free(s->env[i]);
                        s->env[i] = cas_xstrdup(text);
                        return;
                }
        }
        strings_add(&s->env, count, cas_xstrdup(text));
}

static void env_set_pair(struct run_spec *s, size_t *count, const char *key, const char *value)
{
        cas_cleanup_free char *text = cas_xasprintf("%s=%s", key, value);
        env_set(s, count, text);
}

static void env_make(struct run_spec *s, const struct run_request *r, const char *home)
{
        size_t count = 0, i;
        json_t *text;
        env_set_pair(s, &count, "PATH", PATH_DEFAULT);
        env_set_pair(s, &count, "HOME", home);
        if (s->terminal)
                env_set_pair(s, &count, "TERM", getenv("TERM") ? getenv("TERM") : "xterm");
        json_array_foreach(json_object_get(r->config, "env"), i, text)
        {
                if (strchr(json_string_value(text), '='))
                        env_set(s, &count, json_string_value(text));
        }
        for (i = 0; i < r->env_count; i++) {
                const char *host = strchr(r->env[i], '=') ? NULL : getenv(r->env[i]);
                if (host)
                        env_set_pair(s, &count, r->env[i], host);
                else if (strchr(r->env[i], '='))
                        env_set(s, &count, r->env[i]);
        }
}

/* ---- command ---- */

static void words_add(struct run_spec *s, size_t *count, const json_t *words)
{
        size_t i;
        json_t *word;
        json_array_foreach(words, i, word)
                strings_add(&s->argv, count, cas_xstrdup(json_string_value(word)));
}

static int argv_make(struct run_spec *s, const struct run_request *r, struct cas_err *err)
{
        size_t count = 0;
        if (!r->entrypoint)
                words_add(s, &count, json_object_get(r->config, "entrypoint"));
        else if (r->entrypoint[0])
                strings_add(&s->argv, &count, cas_xstrdup(r->entrypoint));
        for (size_t i = 0; i < r->word_count; i++)
                strings_add(&s->argv, &count, cas_xstrdup(r->words[i]));
        if (r->word_count == 0 && !r->entrypoint)
                words_add(s, &count, json_object_get(r->config, "cmd"));
        if (count == 0 || s->argv[0][0] == '\0')
                return cas_fail(err, CAS_E_INVALID,
                                "the image names no command: give one after --");
        return 0;
}

static const char *choose(const char *option, const json_t *config, const char *key,
                          const char *fallback)
{
        const char *text = option ? option : json_string_value(json_object_get(config, key));
        return text && text[0] ? text : fallback;
}

static int spec_fill(const struct run_request *r, struct run_spec *s, struct cas_err *err)
{
        s->root = cas_xstrdup(r->root);
        s->read_only = r->read_only;
        s->network = r->network;
        s->terminal = isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1;
        struct run_user user;
        if (run_user_find(r->root, choose(r->user, r->config, "user", "0"), &user, err) < 0)
                return -(int)err->code;
        s->uid = user.uid;
        s->gid = user.gid;
        s->groups = cas_steal(&user.groups);
        s->group_count = user.group_count;
        env_make(s, r, user.home);
        run_user_release(&user);
        const char *workdir = choose(r->workdir, r->config, "workingDir", "/");
        if (workdir[0] != '/')
                return cas_fail(err, CAS_E_INVALID, "working directory %s: not absolute", workdir);
        s->workdir = cas_xstrdup(workdir);
        if (argv_make(s, r, err) < 0)
                return -(int)err->code;
        if (run_files_make(r, s, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < r->bind_count; i++) {
                if (bind_parse(s, r->binds[i], err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

int run_spec_make(const struct run_request *request, struct run_spec *out, struct cas_err *err)
{
        run_cleanup_spec struct run_spec s = RUN_SPEC_INIT;
        if (spec_fill(request, &s, err) < 0)
                return -(int)err->code;
        *out = s;
        s = (struct run_spec)RUN_SPEC_INIT;
        return 0;
}

int run_spec_alone(struct run_spec *s, struct cas_err *err)
{
        s->group_count = 0;
        if (s->uid == 0 && s->gid == 0)
                return 0;
        return cas_fail(err, CAS_E_DENIED,
                        "it is to run as user %u, group %u, but this user has no subordinate ids: "
                        "root gives them by `usermod --add-subuids 100000-165535 --add-subgids "
                        "100000-165535 USER` (package uidmap); or run it with --user 0",
                        s->uid, s->gid);
}
