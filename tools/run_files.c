/* SPDX-License-Identifier: Apache-2.0 */
/* What a sandbox is shown beside its image: the resolver's configuration, names
 * of hosts, its own name, and volumes. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cas/io.h"
#include "tools/paths.h"
#include "tools/run_spec.h"

#define HOSTNAME_BYTES_MAX 64 /* what the kernel takes */
#define DOMAIN_BYTES_MAX 253

/* ---- names ---- */

static bool domain_good(const char *text, size_t max)
{
        size_t len = strlen(text);
        return len > 0 && len <= max && text[0] != '-' && text[0] != '.' &&
               strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") ==
                       len;
}

static bool address_good(const char *text)
{
        unsigned char bytes[sizeof(struct in6_addr)];
        return inet_pton(AF_INET, text, bytes) == 1 || inet_pton(AF_INET6, text, bytes) == 1;
}

/* ---- files ---- */

/* Made for this sandbox, and shown to it at `to`, where it cannot be changed. */
static int file_show(const struct run_request *r, struct run_spec *s, const char *name,
                     const struct cas_buf *text, const char *to, struct cas_err *err)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", r->files_dir, name);
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (fd < 0 || fchmod(fd, 0644) < 0)
                return cas_fail_sys(err, errno, "make %s", path);
        if (write(fd, cas_buf_str(text), text->len_bytes) != (ssize_t)text->len_bytes)
                return cas_fail_sys(err, ENOSPC, "write %s", path);
        return run_spec_bind(s, path, to, true, err);
}

/* The host's resolv.conf, where there is one and it can be shown. */
static int resolver_show(const struct run_request *r, struct run_spec *s, const char *path,
                         struct cas_err *err)
{
        cas_cleanup_free char *inside = NULL;
        if (access(path, R_OK) != 0)
                return 0;
        if (run_path_resolve(s->root, path, &inside, err) < 0)
                return -(int)err->code;
        cas_cleanup_free char *full = cas_xasprintf("%s%s", s->root, inside);
        return r->fixed && access(full, F_OK) != 0 ? 0 : run_spec_bind(s, path, path, true, err);
}

static int resolver_make(const struct run_request *r, struct run_spec *s, struct cas_err *err)
{
        static const char path[] = "/etc/resolv.conf";
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        if (r->dns_count == 0 && r->dns_search_count == 0) {
                /* Without a network the host's resolvers are of no use. */
                return r->network ? resolver_show(r, s, path, err) : 0;
        }
        for (size_t i = 0; i < r->dns_search_count; i++) {
                if (!domain_good(r->dns_search[i], DOMAIN_BYTES_MAX))
                        return cas_fail(err, CAS_E_INVALID, "--dns-search %s: not a domain",
                                        r->dns_search[i]);
                cas_buf_printf(&text, "%s%s", i ? " " : "search ", r->dns_search[i]);
        }
        cas_buf_append_str(&text, r->dns_search_count ? "\n" : "");
        for (size_t i = 0; i < r->dns_count; i++) {
                if (!address_good(r->dns[i]))
                        return cas_fail(err, CAS_E_INVALID, "--dns %s: not an address", r->dns[i]);
                cas_buf_printf(&text, "nameserver %s\n", r->dns[i]);
        }
        if (r->dns_count == 0 && r->network) {
                cas_cleanup_buf struct cas_buf host = CAS_BUF_INIT;
                struct cas_err ignored = CAS_ERR_INIT; /* a host without one has no resolvers */
                if (run_image_read("/", path, &host, &ignored) == 0) {
                        cas_cleanup_free char *copy =
                                cas_xstrndup(cas_buf_str(&host), host.len_bytes);
                        char *at = copy;
                        for (char *line; (line = strsep(&at, "\n"));) {
                                if (strncmp(line, "nameserver", 10) == 0)
                                        cas_buf_printf(&text, "%s\n", line);
                        }
                }
        }
        return file_show(r, s, "resolv.conf", &text, path, err);
}

/* NAME:ADDRESS, the address perhaps in brackets. */
static int host_append(const char *text, struct cas_buf *out, struct cas_err *err)
{
        const char *colon = strchr(text, ':');
        cas_cleanup_free char *name = cas_xstrndup(text, colon ? (size_t)(colon - text) : 0);
        cas_cleanup_free char *address = cas_xstrdup(colon ? colon + 1 : "");
        size_t len = strlen(address);
        if (len > 2 && address[0] == '[' && address[len - 1] == ']') {
                memmove(address, address + 1, len - 2);
                address[len - 2] = '\0';
        }
        if (!domain_good(name, DOMAIN_BYTES_MAX) || !address_good(address))
                return cas_fail(err, CAS_E_INVALID, "--hosts %s: not NAME:ADDRESS", text);
        cas_buf_printf(out, "%s\t%s\n", address, name);
        return 0;
}

/* The image's file and what is added to it. */
static int hosts_make(const struct run_request *r, struct run_spec *s, struct cas_err *err)
{
        static const char path[] = "/etc/hosts";
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        if (r->host_count == 0 && !r->hostname)
                return 0;
        if (run_image_read(s->root, path, &text, err) < 0)
                return -(int)err->code;
        if (text.len_bytes == 0)
                cas_buf_append_str(&text, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n");
        if (cas_buf_str(&text)[text.len_bytes - 1] != '\n')
                cas_buf_append_str(&text, "\n");
        if (r->hostname)
                cas_buf_printf(&text, "127.0.1.1\t%s\n", r->hostname);
        for (size_t i = 0; i < r->host_count; i++) {
                if (host_append(r->hosts[i], &text, err) < 0)
                        return -(int)err->code;
        }
        return file_show(r, s, "hosts", &text, path, err);
}

/* ---- volumes ---- */

/* A path as one name: '/' and '%' as %2F and %25. */
static char *volume_name(const char *path)
{
        cas_cleanup_buf struct cas_buf name = CAS_BUF_INIT;
        for (const char *p = path + 1; *p; p++) {
                if (*p == '/' || *p == '%')
                        cas_buf_printf(&name, "%%%02X", (unsigned)(unsigned char)*p);
                else
                        cas_buf_append(&name, p, 1);
        }
        return cas_xstrndup(cas_buf_str(&name), name.len_bytes);
}

/* What the image has there says whose a new volume is. */
static int volume_adopt(const char *root, const char *inside, const char *dir, struct cas_err *err)
{
        cas_cleanup_free char *path = cas_xasprintf("%s%s", root, inside);
        struct stat st, root_st;
        if (stat(root, &root_st) < 0)
                return cas_fail_sys(err, errno, "%s", root);
        bool there = lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
        const struct stat *owner = there ? &st : &root_st;
        if (chown(dir, owner->st_uid, owner->st_gid) < 0 ||
            chmod(dir, there ? st.st_mode & 07777 : 0755) < 0)
                return cas_fail_sys(err, errno, "owner of %s", dir);
        return 0;
}

static int volume_make(const struct run_request *r, struct run_spec *s, const char *to,
                       struct cas_err *err)
{
        if (to[0] != '/')
                return cas_fail(err, CAS_E_INVALID, "--volume %s: not an absolute path", to);
        cas_cleanup_free char *inside = NULL;
        if (run_path_resolve(s->root, to, &inside, err) < 0)
                return cas_err_wrap(err, "--volume");
        if (strcmp(inside, "/") == 0)
                return cas_fail(err, CAS_E_INVALID, "--volume %s: the root is no volume", to);
        cas_cleanup_free char *name = volume_name(inside);
        cas_cleanup_free char *dir = cas_xasprintf("%s/%s", r->volume_dir, name);
        if (path_make_dirs(r->volume_dir, 0711, err) < 0)
                return -(int)err->code;
        if (mkdir(dir, 0700) == 0) {
                if (volume_adopt(s->root, inside, dir, err) < 0)
                        return -(int)err->code;
        } else if (errno != EEXIST) {
                return cas_fail_sys(err, errno, "--volume %s: make %s", to, dir);
        }
        return run_spec_bind(s, dir, inside, false, err);
}

int run_files_make(const struct run_request *r, struct run_spec *s, struct cas_err *err)
{
        if (r->hostname && !domain_good(r->hostname, HOSTNAME_BYTES_MAX))
                return cas_fail(err, CAS_E_INVALID, "--hostname %s: not a host's name",
                                r->hostname);
        s->hostname = r->hostname ? cas_xstrdup(r->hostname) : NULL;
        if (resolver_make(r, s, err) < 0 || hosts_make(r, s, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < r->volume_count; i++) {
                if (volume_make(r, s, r->volumes[i], err) < 0)
                        return -(int)err->code;
        }
        return 0;
}
