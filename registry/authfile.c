/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/authfile.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>

#include "cas/json.h"
#include "cas/limits.h"

#define DOCKER_HUB "docker.io"
#define DOCKER_HUB_KEY "https://index.docker.io/v1/"

static void wipe_free(char *text)
{
        if (text)
                OPENSSL_cleanse(text, strlen(text));
        free(text);
}

void reg_credentials_release(struct reg_credentials *c)
{
        wipe_free(c->user);
        wipe_free(c->password);
        wipe_free(c->identity_token);
        *c = (struct reg_credentials){0};
}

const char *reg_authfile_host(const char *host)
{
        static const char *const names[] = {"docker.io", "index.docker.io", "registry-1.docker.io",
                                            "registry.hub.docker.com"};
        for (size_t i = 0; i < CAS_COUNT(names); i++) {
                if (strcmp(host, names[i]) == 0)
                        return DOCKER_HUB;
        }
        return host;
}

/* Keys as docker wrote them: a URL, of which the host counts. Owned; NULL when it is none. */
static char *host_of_url_key(const char *key)
{
        if (strncmp(key, "https://", 8) == 0)
                key += 8;
        else if (strncmp(key, "http://", 7) == 0)
                key += 7;
        else
                return NULL;
        return cas_xstrndup(key, strcspn(key, "/"));
}

static const json_t *by_url_key(const json_t *map, const char *host)
{
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)(uintptr_t)map, key, value)
        {
                cas_cleanup_free char *of = host_of_url_key(key);
                if (of && strcmp(reg_authfile_host(of), host) == 0)
                        return value;
                if (!of && strcmp(key, host) != 0 && strcmp(reg_authfile_host(key), host) == 0)
                        return value;
        }
        return NULL;
}

/* "user:password" in base64. */
static int decode_auth(const char *text, struct reg_credentials *out, struct cas_err *err)
{
        size_t len = strlen(text);
        if (len > REG_CREDENTIAL_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "auth of %zu bytes", len);
        unsigned char *raw = cas_xcalloc(1, len + 4);
        int n = len % 4 == 0 ? EVP_DecodeBlock(raw, (const unsigned char *)text, (int)len) : -1;
        for (size_t i = 0; n > 0 && i < 2 && len > i && text[len - 1 - i] == '='; i++)
                n--;
        char *colon = n > 0 ? memchr(raw, ':', (size_t)n) : NULL;
        bool fits = colon && !memchr(raw, 0, (size_t)n);
        if (fits) {
                raw[n] = 0;
                *colon = 0;
                out->user = cas_xstrdup((char *)raw);
                out->password = cas_xstrdup(colon + 1);
        }
        OPENSSL_cleanse(raw, len + 4);
        free(raw);
        return fits ? 0 : cas_fail(err, CAS_E_INVALID, "auth is not USER:PASSWORD in base64");
}

static int take_entry(const json_t *entry, struct reg_credentials *out, struct cas_err *err)
{
        const char *auth, *token, *user, *password;
        if (!json_is_object(entry))
                return cas_fail(err, CAS_E_INVALID, "an entry of auths is no object");
        if (cas_json_string_in(entry, "auth", &auth, err) < 0 ||
            cas_json_string_in(entry, "identitytoken", &token, err) < 0 ||
            cas_json_string_in(entry, "username", &user, err) < 0 ||
            cas_json_string_in(entry, "password", &password, err) < 0)
                return -(int)err->code;
        if (token && *token) {
                out->identity_token = cas_xstrdup(token);
                return 0;
        }
        if (auth && *auth)
                return decode_auth(auth, out, err);
        if (user && *user && password) {
                out->user = cas_xstrdup(user);
                out->password = cas_xstrdup(password);
        }
        return 0;
}

static bool has_some(const struct reg_credentials *c)
{
        return c->user || c->identity_token;
}

static int take_helper(const json_t *name, const char *server, char **helper, char **out,
                       struct cas_err *err)
{
        if (!json_is_string(name))
                return cas_fail(err, CAS_E_INVALID, "the name of a credential helper is no text");
        *helper = cas_xstrdup(json_string_value(name));
        *out = cas_xstrdup(strcmp(server, DOCKER_HUB) == 0 ? DOCKER_HUB_KEY : server);
        return 0;
}

struct lookup {
        const json_t *auths, *helpers; /* may be NULL */
        const char *host;              /* by reg_authfile_host */
        struct reg_credentials *out;
        char **helper, **server;
};

/* What is said under one key. */
static int look_under(struct lookup *l, const char *key, bool url_keys, struct cas_err *err)
{
        const json_t *name = l->helpers ? json_object_get(l->helpers, key) : NULL;
        const json_t *entry = l->auths ? json_object_get(l->auths, key) : NULL;
        if (!name && url_keys && l->helpers)
                name = by_url_key(l->helpers, l->host);
        if (name)
                return take_helper(name, l->host, l->helper, l->server, err);
        if (entry && take_entry(entry, l->out, err) < 0)
                return -(int)err->code;
        if (!has_some(l->out) && url_keys && l->auths && (entry = by_url_key(l->auths, l->host)))
                return take_entry(entry, l->out, err);
        return 0;
}

static int look_everywhere(struct lookup *l, const char *repo, struct cas_err *err)
{
        cas_cleanup_free char *key =
                repo && *repo ? cas_xasprintf("%s/%s", l->host, repo) : cas_xstrdup(l->host);
        for (;;) {
                bool host_alone = strlen(key) == strlen(l->host);
                if (look_under(l, key, host_alone, err) < 0)
                        return -(int)err->code;
                if (*l->helper || has_some(l->out) || host_alone)
                        return 0;
                *strrchr(key, '/') = 0;
        }
}

int reg_authfile_parse(const void *text, size_t len, const char *host, const char *repo,
                       struct reg_credentials *out, char **helper, char **server,
                       struct cas_err *err)
{
        cas_cleanup_json json_t *j = NULL;
        struct lookup l = {.host = reg_authfile_host(host), .helper = helper, .server = server};
        struct reg_credentials found = {0};
        const char *store;
        l.out = &found;
        *helper = *server = NULL;
        if (cas_json_parse(text, len, REG_AUTHFILE_BYTES_MAX, &j, err) < 0 ||
            cas_json_object_in(j, "auths", &l.auths, err) < 0 ||
            cas_json_object_in(j, "credHelpers", &l.helpers, err) < 0 ||
            cas_json_string_in(j, "credsStore", &store, err) < 0)
                return -(int)err->code;
        if (look_everywhere(&l, repo, err) < 0) {
                reg_credentials_release(&found);
                return -(int)err->code;
        }
        if (!*helper && !has_some(&found) && store && *store) {
                *helper = cas_xstrdup(store);
                *server = cas_xstrdup(strcmp(l.host, DOCKER_HUB) == 0 ? DOCKER_HUB_KEY : l.host);
        }
        *out = found;
        return 0;
}

static int read_file(const char *path, struct cas_buf *out, struct cas_err *err)
{
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open %s", path);
        uint8_t piece[8192];
        ssize_t n;
        while ((n = read(fd, piece, sizeof(piece))) > 0) {
                if (out->len_bytes + (size_t)n > REG_AUTHFILE_BYTES_MAX)
                        return cas_fail(err, CAS_E_LIMIT, "%s: more than %zu bytes", path,
                                        REG_AUTHFILE_BYTES_MAX);
                cas_buf_append(out, piece, (size_t)n);
        }
        return n < 0 ? cas_fail_sys(err, errno, "read %s", path) : 0;
}

static int find_in_file(const char *path, const char *host, const char *repo, bool must_exist,
                        struct reg_credentials *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        cas_cleanup_free char *helper = NULL, *server = NULL;
        struct cas_err failed = CAS_ERR_INIT;
        if (read_file(path, &text, &failed) < 0) {
                bool absent = failed.sys_errno == ENOENT || failed.sys_errno == ENOTDIR;
                if (!must_exist && (absent || failed.sys_errno == EACCES))
                        return 0;
                *err = failed;
                return -(int)err->code;
        }
        int rc = text.len_bytes == 0 ? 0
                                     : reg_authfile_parse(text.data, text.len_bytes, host, repo,
                                                          out, &helper, &server, err);
        if (text.data)
                OPENSSL_cleanse(text.data, text.len_bytes);
        if (rc == 0 && helper)
                rc = reg_credhelper_get(helper, server, REG_CREDHELPER_WAIT_MS, out, err);
        return rc < 0 ? cas_err_wrap(err, "%s", path) : 0;
}

/* One of the usual places; a variable that is not set leaves it out. */
static int find_below(const char *dir, const char *below, const char *host, const char *repo,
                      struct reg_credentials *out, struct cas_err *err)
{
        if (!dir || !*dir || has_some(out))
                return 0;
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", dir, below);
        return find_in_file(path, host, repo, false, out, err);
}

int reg_authfile_find(const char *path, const char *host, const char *repo,
                      struct reg_credentials *out, struct cas_err *err)
{
        struct reg_credentials found = {0};
        const char *home = getenv("HOME"), *set = getenv("REGISTRY_AUTH_FILE");
        int rc;
        if (path || (set && *set)) {
                rc = find_in_file(path ? path : set, host, repo, path != NULL, &found, err);
        } else {
                rc = find_below(getenv("XDG_RUNTIME_DIR"), "containers/auth.json", host, repo,
                                &found, err);
                if (rc == 0)
                        rc = find_below(home, ".config/containers/auth.json", host, repo, &found,
                                        err);
                if (rc == 0 && getenv("DOCKER_CONFIG"))
                        rc = find_below(getenv("DOCKER_CONFIG"), "config.json", host, repo, &found,
                                        err);
                if (rc == 0)
                        rc = find_below(home, ".docker/config.json", host, repo, &found, err);
        }
        if (rc == 0)
                *out = found;
        else
                reg_credentials_release(&found);
        return rc;
}
