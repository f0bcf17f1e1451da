/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/hostcerts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define CA_BYTES_MAX ((size_t)4 * 1024 * 1024)

static void close_dir(DIR **d)
{
        if (*d)
                (void)closedir(*d);
}

void reg_hostcerts_release(struct reg_hostcerts *c)
{
        cas_buf_release(&c->ca);
        free(c->cert_path);
        free(c->key_path);
        *c = (struct reg_hostcerts){0};
}

static bool ends_with(const char *name, const char *end)
{
        size_t n = strlen(name), e = strlen(end);
        return n > e && strcmp(name + n - e, end) == 0;
}

static int append_file(int dirfd, const char *name, struct cas_buf *out, struct cas_err *err)
{
        cas_cleanup_fd int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open %s", name);
        uint8_t piece[8192];
        ssize_t n;
        while ((n = read(fd, piece, sizeof(piece))) > 0) {
                if (out->len_bytes + (size_t)n > CA_BYTES_MAX)
                        return cas_fail(err, CAS_E_LIMIT, "%s: certificates of more than %zu bytes",
                                        name, CA_BYTES_MAX);
                cas_buf_append(out, piece, (size_t)n);
        }
        if (n < 0)
                return cas_fail_sys(err, errno, "read %s", name);
        cas_buf_append_byte(out, '\n');
        return 0;
}

/* The first pair by name, so that it is always the same one. */
static void take_pair(struct reg_hostcerts *out, const char *dir, const char *name)
{
        char *path = cas_xasprintf("%s/%s", dir, name);
        if (out->cert_path && strcmp(out->cert_path, path) <= 0) {
                free(path);
                return;
        }
        free(out->cert_path);
        free(out->key_path);
        out->cert_path = path;
        out->key_path = cas_xasprintf("%.*s.key", (int)(strlen(path) - strlen(".cert")), path);
}

static int read_dir(DIR *d, const char *dir, struct reg_hostcerts *out, struct cas_err *err)
{
        const struct dirent *e;
        while ((e = readdir(d))) {
                if (ends_with(e->d_name, ".crt") &&
                    append_file(dirfd(d), e->d_name, &out->ca, err) < 0)
                        return cas_err_wrap(err, "%s", dir);
                if (ends_with(e->d_name, ".cert"))
                        take_pair(out, dir, e->d_name);
        }
        if (out->cert_path && access(out->key_path, F_OK) != 0)
                return cas_fail(err, CAS_E_INVALID, "%s has no key beside it", out->cert_path);
        return 0;
}

int reg_hostcerts_find(const char *const *dirs, const char *host, struct reg_hostcerts *out,
                       struct cas_err *err)
{
        static const char *const usual[] = {"/etc/containers/certs.d", "/etc/docker/certs.d", NULL};
        if (strchr(host, '/') || host[0] == '.' || host[0] == 0)
                return 0;
        for (const char *const *at = dirs ? dirs : usual; *at; at++) {
                cas_cleanup_free char *dir = cas_xasprintf("%s/%s", *at, host);
                __attribute__((cleanup(close_dir))) DIR *d = opendir(dir);
                if (!d && (errno == ENOENT || errno == ENOTDIR || errno == EACCES))
                        continue;
                if (!d)
                        return cas_fail_sys(err, errno, "open %s", dir);
                struct reg_hostcerts found = {0};
                if (read_dir(d, dir, &found, err) < 0) {
                        reg_hostcerts_release(&found);
                        return -(int)err->code;
                }
                *out = found;
                return 0;
        }
        return 0;
}
