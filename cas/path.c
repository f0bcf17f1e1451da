/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/path.h"

#include "cas/limits.h"

int cas_path_clean(const char *raw, char **out, struct cas_err *err)
{
        size_t raw_len = strlen(raw);
        if (raw_len > CAS_PATH_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a path of %zu bytes: the limit is %d", raw_len,
                                CAS_PATH_BYTES_MAX);
        cas_cleanup_free char *clean = cas_xmalloc(raw_len + 1);
        size_t len = 0;
        unsigned depth = 0;
        for (const char *at = raw; *at;) {
                size_t n = strcspn(at, "/");
                if (n == 2 && at[0] == '.' && at[1] == '.') {
                        while (len > 0 && clean[len - 1] != '/')
                                len--;
                        len -= len > 0; /* the slash */
                        depth -= depth > 0;
                } else if (n > 0 && !(n == 1 && at[0] == '.')) {
                        if (n > CAS_NAME_BYTES_MAX)
                                return cas_fail(err, CAS_E_LIMIT,
                                                "a name of %zu bytes in a path: the limit is %d", n,
                                                CAS_NAME_BYTES_MAX);
                        if (++depth > CAS_PATH_DEPTH_MAX)
                                return cas_fail(err, CAS_E_LIMIT,
                                                "a path of more than %d directories",
                                                CAS_PATH_DEPTH_MAX);
                        if (len > 0)
                                clean[len++] = '/';
                        memcpy(clean + len, at, n);
                        len += n;
                }
                at += n + (at[n] == '/');
        }
        clean[len] = '\0';
        *out = cas_steal(&clean);
        return 0;
}

bool cas_path_valid(const char *path)
{
        if (path[0] == '\0')
                return true;
        unsigned depth = 0;
        for (const char *at = path;;) {
                size_t n = strcspn(at, "/");
                bool dots = at[0] == '.' && (n == 1 || (n == 2 && at[1] == '.'));
                if (n == 0 || n > CAS_NAME_BYTES_MAX || dots || ++depth > CAS_PATH_DEPTH_MAX)
                        return false;
                at += n;
                if (*at == '\0')
                        return at - path <= CAS_PATH_BYTES_MAX;
                at++;
        }
}

int cas_path_compare(const char *a, const char *b)
{
        while (*a && *a == *b) {
                a++;
                b++;
        }
        if (*a == *b)
                return 0;
        /* The end of a path, then a slash, sort before every other byte. */
        if (*a == '\0' || *b == '\0')
                return *a == '\0' ? -1 : 1;
        if (*a == '/' || *b == '/')
                return *a == '/' ? -1 : 1;
        return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
}

bool cas_path_inside(const char *path, const char *dir)
{
        size_t n = strlen(dir);
        if (n == 0)
                return path[0] != '\0';
        return strncmp(path, dir, n) == 0 && path[n] == '/';
}
