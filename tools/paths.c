/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/paths.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

static const char *env_absolute(const char *name)
{
        const char *v = getenv(name);
        return v && v[0] == '/' ? v : NULL;
}

int path_absolute(const char *path, char **out, struct cas_err *err)
{
        if (path[0] == '\0')
                return cas_fail(err, CAS_E_INVALID, "an empty path");
        if (path[0] == '/') {
                *out = cas_xstrdup(path);
                return 0;
        }
        cas_cleanup_free char *cwd = getcwd(NULL, 0);
        if (!cwd)
                return cas_fail_sys(err, errno, "the working directory");
        *out = cas_xasprintf("%s/%s", strcmp(cwd, "/") == 0 ? "" : cwd, path);
        return 0;
}

int path_real(const char *path, char **out, struct cas_err *err)
{
        char *real = realpath(path, NULL);
        if (real) {
                *out = real;
                return 0;
        }
        if (errno != ENOENT)
                return cas_fail_sys(err, errno, "%s", path);
        /* The parent must be there; what is made in it need not be. */
        cas_cleanup_free char *copy = cas_xstrdup(path);
        size_t len = strlen(copy);
        while (len > 1 && copy[len - 1] == '/')
                copy[--len] = '\0';
        char *slash = strrchr(copy, '/');
        const char *last = slash ? slash + 1 : copy;
        if (strcmp(last, "..") == 0 || strcmp(last, ".") == 0)
                return cas_fail_sys(err, ENOENT, "%s", path);
        cas_cleanup_free char *parent =
                slash ? cas_xstrndup(copy, slash == copy ? 1 : (size_t)(slash - copy))
                      : cas_xstrdup(".");
        cas_cleanup_free char *real_parent = realpath(parent, NULL);
        if (!real_parent)
                return cas_fail_sys(err, errno, "%s", parent);
        *out = cas_xasprintf("%s/%s", strcmp(real_parent, "/") == 0 ? "" : real_parent, last);
        return 0;
}

int path_store(const char *option, char **out, struct cas_err *err)
{
        const char *given = option;
        if (!given)
                given = getenv("LAMINA_STORE");
        if (given && given[0])
                return path_absolute(given, out, err);
        if (geteuid() == 0) {
                *out = cas_xstrdup("/var/lib/lamina");
                return 0;
        }
        const char *data = env_absolute("XDG_DATA_HOME");
        const char *home = env_absolute("HOME");
        if (!data && !home)
                return cas_fail(err, CAS_E_INVALID,
                                "no place for the store: neither HOME nor LAMINA_STORE is set");
        *out = data ? cas_xasprintf("%s/lamina", data)
                    : cas_xasprintf("%s/.local/share/lamina", home);
        return 0;
}

int path_make_dirs(const char *path, unsigned mode, struct cas_err *err)
{
        cas_assert(path[0] == '/');
        cas_cleanup_free char *copy = cas_xstrdup(path);
        for (char *p = copy + 1;; p++) {
                char c = *p;
                if (c != '/' && c != '\0')
                        continue;
                *p = '\0';
                if (mkdir(copy, mode) != 0 && errno != EEXIST)
                        return cas_fail_sys(err, errno, "make directory %s", copy);
                *p = c;
                if (c == '\0')
                        return 0;
        }
}

/* Others must not be able to put sockets or mount points into it. */
static int private_check(const char *path, struct cas_err *err)
{
        struct stat st;
        if (lstat(path, &st) != 0)
                return cas_fail_sys(err, errno, "%s", path);
        if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid())
                return cas_fail(err, CAS_E_DENIED, "%s is not a directory of this user", path);
        if (st.st_mode & 0022) /* what is in it may be somebody's already */
                return cas_fail(err, CAS_E_DENIED, "%s can be written by others (chmod go-w)",
                                path);
        return 0;
}

int path_run_dir(const char *store_id, char **out, struct cas_err *err)
{
        const char *given = env_absolute("LAMINA_RUN");
        const char *runtime = env_absolute("XDG_RUNTIME_DIR");
        cas_cleanup_free char *parent = NULL;
        if (given)
                parent = NULL;
        else if (geteuid() == 0)
                parent = cas_xstrdup("/run/lamina");
        else if (runtime)
                parent = cas_xasprintf("%s/lamina", runtime);
        else
                parent = cas_xasprintf("/tmp/lamina-%u", geteuid());
        cas_cleanup_free char *path =
                given ? cas_xstrdup(given) : cas_xasprintf("%s/%s", parent, store_id);
        if (path_make_dirs(path, 0700, err) < 0)
                return -(int)err->code;
        if ((parent && private_check(parent, err) < 0) || private_check(path, err) < 0)
                return cas_err_wrap(err, "runtime directory");
        *out = cas_steal(&path);
        return 0;
}

int path_program(char **out, struct cas_err *err)
{
        char buf[PATH_MAX];
        ssize_t len = readlink("/proc/self/exe", buf, sizeof(buf) - 1);
        if (len < 0)
                return cas_fail_sys(err, errno, "/proc/self/exe");
        buf[len] = '\0';
        /* The name may be of another root or mount namespace; the link itself always works. */
        *out = cas_xstrdup(access(buf, X_OK) == 0 ? buf : "/proc/self/exe");
        return 0;
}
