/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/s3creds_int.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <pwd.h>

#include "cas/io.h"
#include "cas/json.h"
#include "cas/mutex.h"
#include "tiering/s3http_int.h"
#include "tiering/s3xml_int.h"

#define REFRESH_BEFORE_S 300
#define REFRESH_AGAIN_S 30 /* after one that failed while the old ones are valid */
#define METADATA_TIMEOUT_MS 2000
#define METADATA_TRIES 3
#define METADATA_TOKEN_S "21600"
#define MACHINE_ENDPOINT "http://169.254.169.254"
#define CONTAINER_ENDPOINT "http://169.254.170.2"
#define MACHINE_PATH "/latest/meta-data/iam/security-credentials/"

struct s3_credentials {
        char *profile; /* owned; NULL: any */

        struct cas_mutex mutex;  /* guards what follows; held while they are fetched */
        struct s3_secret now;    /* key_id NULL: none yet */
        int64_t fetch_at_unix_s; /* 0: never again */
};

static void free_secret(char **text)
{
        if (*text)
                OPENSSL_cleanse(*text, strlen(*text));
        free(*text);
        *text = NULL;
}

void s3_secret_release(struct s3_secret *s)
{
        free_secret(&s->key_id);
        free_secret(&s->secret);
        free_secret(&s->token);
        s->expires_unix_s = 0;
}

struct s3_credentials *s3_credentials_new(const char *profile)
{
        struct s3_credentials *c = cas_xcalloc(1, sizeof(*c));
        c->profile = profile ? cas_xstrdup(profile) : NULL;
        cas_mutex_init(&c->mutex, "s3.credentials");
        return c;
}

void s3_credentials_free(struct s3_credentials *c)
{
        if (!c)
                return;
        s3_secret_release(&c->now);
        cas_mutex_release(&c->mutex);
        free(c->profile);
        free(c);
}

/* A value that goes into a header as it is. */
static bool is_sound(const char *value)
{
        size_t len = strlen(value);
        if (len == 0 || len > S3_SECRET_BYTES_MAX)
                return false;
        for (size_t i = 0; i < len; i++) {
                if (value[i] <= ' ' || value[i] > '~')
                        return false;
        }
        return true;
}

static int check_secret(const struct s3_secret *s, const char *what, struct cas_err *err)
{
        if (!is_sound(s->key_id) || strchr(s->key_id, '/') || !is_sound(s->secret) ||
            (s->token && !is_sound(s->token)))
                return cas_fail(err, CAS_E_INVALID, "%s: keys that cannot be any", what);
        return 0;
}

/* Files. */

struct line {
        const char *at;
        size_t len;
};

static struct line trimmed(const char *at, size_t len)
{
        while (len > 0 && (*at == ' ' || *at == '\t')) {
                at++;
                len--;
        }
        while (len > 0 && (at[len - 1] == ' ' || at[len - 1] == '\t' || at[len - 1] == '\r'))
                len--;
        return (struct line){at, len};
}

static bool line_is(struct line l, const char *text)
{
        return l.len == strlen(text) && memcmp(l.at, text, l.len) == 0;
}

static bool is_section(struct line l, const char *profile, bool config_file)
{
        l = trimmed(l.at + 1, l.len - 2);
        static const char word[] = "profile";
        size_t skip = sizeof(word) - 1;
        if (config_file && l.len > skip && memcmp(l.at, word, skip) == 0 &&
            (l.at[skip] == ' ' || l.at[skip] == '\t'))
                return line_is(trimmed(l.at + skip, l.len - skip), profile);
        return (!config_file || strcmp(profile, "default") == 0) && line_is(l, profile);
}

static void take_value(struct line l, struct s3_secret *s)
{
        const char *equals = memchr(l.at, '=', l.len);
        if (!equals)
                return;
        struct line name = trimmed(l.at, (size_t)(equals - l.at));
        struct line value = trimmed(equals + 1, l.len - (size_t)(equals - l.at) - 1);
        char **to = line_is(name, "aws_access_key_id")       ? &s->key_id
                    : line_is(name, "aws_secret_access_key") ? &s->secret
                    : line_is(name, "aws_session_token")     ? &s->token
                                                             : NULL;
        if (!to)
                return;
        free_secret(to);
        *to = cas_xstrndup(value.at, value.len);
}

int s3_profile_parse(const void *data, size_t len, const char *profile, bool config_file,
                     struct s3_secret *out, struct cas_err *err)
{
        s3_cleanup_secret struct s3_secret s = {0};
        if (len > S3_PROFILE_BYTES_MAX)
                return cas_fail(err, CAS_E_INVALID, "over %zu bytes", S3_PROFILE_BYTES_MAX);
        if (len > 0 && memchr(data, 0, len))
                return cas_fail(err, CAS_E_INVALID, "no text");
        bool ours = false;
        const char *at = data, *end = at + len;
        while (at < end) {
                const char *stop = memchr(at, '\n', (size_t)(end - at));
                stop = stop ? stop : end;
                struct line l = trimmed(at, (size_t)(stop - at));
                bool nested = *at == ' ' || *at == '\t'; /* values of a value: s3 = … */
                if (l.len >= 2 && l.at[0] == '[' && l.at[l.len - 1] == ']')
                        ours = is_section(l, profile, config_file);
                else if (ours && !nested && l.len > 0 && l.at[0] != '#' && l.at[0] != ';')
                        take_value(l, &s);
                at = stop < end ? stop + 1 : end;
        }
        if (!s.key_id || !s.secret)
                return cas_fail(err, CAS_E_NOTFOUND, "no keys of profile %.64s", profile);
        if (check_secret(&s, "profile", err) < 0)
                return -(int)err->code;
        *out = s;
        s = (struct s3_secret){0};
        return 0;
}

static char *shared_path(const char *variable, const char *name)
{
        const char *set = getenv(variable);
        if (set && *set)
                return cas_xstrdup(set);
        const char *home = getenv("HOME");
        return home && *home ? cas_xasprintf("%s/.aws/%s", home, name) : NULL;
}

static int from_file(const char *path, const char *profile, bool config_file, struct s3_secret *out,
                     struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        if (!path)
                return cas_fail(err, CAS_E_NOTFOUND, "no such file");
        int rc = cas_io_read_file(cas_io_posix(), AT_FDCWD, path, S3_PROFILE_BYTES_MAX, &text, err);
        if (rc == 0 &&
            s3_profile_parse(text.data, text.len_bytes, profile, config_file, out, err) < 0)
                rc = cas_err_wrap(err, "%s", path);
        if (text.data)
                OPENSSL_cleanse(text.data, text.len_bytes);
        return rc;
}

static int from_files(const char *profile, struct s3_secret *out, struct cas_err *err)
{
        cas_cleanup_free char *keys = shared_path("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        cas_cleanup_free char *config = shared_path("AWS_CONFIG_FILE", "config");
        int rc = from_file(keys, profile, false, out, err);
        if (rc == -CAS_E_NOTFOUND)
                rc = from_file(config, profile, true, out, err);
        return rc;
}

static int from_environment(struct s3_secret *out, struct cas_err *err)
{
        const char *key_id = getenv("AWS_ACCESS_KEY_ID"), *secret = getenv("AWS_SECRET_ACCESS_KEY");
        const char *token = getenv("AWS_SESSION_TOKEN");
        if (!key_id || !*key_id || !secret || !*secret)
                return cas_fail(err, CAS_E_NOTFOUND, "not in the environment");
        s3_cleanup_secret struct s3_secret s = {.key_id = cas_xstrdup(key_id),
                                                .secret = cas_xstrdup(secret)};
        s.token = token && *token ? cas_xstrdup(token) : NULL;
        if (check_secret(&s, "environment", err) < 0)
                return -(int)err->code;
        *out = s;
        s = (struct s3_secret){0};
        return 0;
}

/* Metadata services. */

int s3_metadata_parse(const void *data, size_t len, struct s3_secret *out, struct cas_err *err)
{
        cas_cleanup_json json_t *j = NULL;
        s3_cleanup_secret struct s3_secret s = {0};
        const char *key_id, *secret, *token, *expires;
        if (cas_json_parse(data, len, S3_METADATA_BYTES_MAX, &j, err) < 0 ||
            cas_json_string_in(j, "AccessKeyId", &key_id, err) < 0 ||
            cas_json_string_in(j, "SecretAccessKey", &secret, err) < 0 ||
            cas_json_string_in(j, "Token", &token, err) < 0 ||
            cas_json_string_in(j, "Expiration", &expires, err) < 0)
                return cas_err_wrap(err, "metadata service");
        if (!key_id || !secret)
                return cas_fail(err, CAS_E_INVALID, "metadata service: an answer without keys");
        s.key_id = cas_xstrdup(key_id);
        s.secret = cas_xstrdup(secret);
        s.token = token ? cas_xstrdup(token) : NULL;
        if (expires && !s3_time_parse(expires, &s.expires_unix_s))
                return cas_fail(err, CAS_E_INVALID, "metadata service: a time that is none");
        if (check_secret(&s, "metadata service", err) < 0)
                return -(int)err->code;
        *out = s;
        s = (struct s3_secret){0};
        return 0;
}

bool s3_metadata_url_allowed(const char *url)
{
        if (strncmp(url, "https://", 8) == 0)
                return true;
        if (strncmp(url, "http://", 7) != 0)
                return false;
        const char *host = url + 7;
        size_t len = strcspn(host, "/?#");
        if (memchr(host, '@', len))
                return false;
        static const char *const allowed[] = {"169.254.170.2", "169.254.170.23", "127.0.0.1",
                                              "[fd00:ec2::23]", "[::1]"};
        for (size_t i = 0; i < CAS_COUNT(allowed); i++) {
                size_t n = strlen(allowed[i]);
                if (len >= n && memcmp(host, allowed[i], n) == 0 && (len == n || host[n] == ':'))
                        return true;
        }
        return false;
}

/* *out is owned text. */
static int ask(const char *method, const char *url, const char *header, const char *value,
               struct cas_buf *out, struct cas_err *err)
{
        int rc = 0;
        for (unsigned i = 0; i < METADATA_TRIES; i++) {
                cas_buf_clear(out);
                rc = s3_http_plain(method, url, header, value, METADATA_TIMEOUT_MS,
                                   S3_METADATA_BYTES_MAX, out, err);
                if (rc != -CAS_E_IO)
                        break;
        }
        return rc < 0 ? cas_err_wrap(err, "metadata service") : 0;
}

static int container_token(char **out, struct cas_err *err)
{
        const char *path = getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
        const char *set = getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN");
        if (path && *path) {
                cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
                if (cas_io_read_file(cas_io_posix(), AT_FDCWD, path, S3_SECRET_BYTES_MAX, &text,
                                     err) < 0)
                        return -(int)err->code;
                struct line l = trimmed(cas_buf_str(&text), strcspn(cas_buf_str(&text), "\n"));
                *out = cas_xstrndup(l.at, l.len);
        } else if (set && *set) {
                *out = cas_xstrdup(set);
        }
        if (*out && (strpbrk(*out, "\r\n") || strlen(*out) > S3_SECRET_BYTES_MAX))
                return cas_fail(err, CAS_E_INVALID, "the token of the container is none");
        return 0;
}

static int from_container(struct s3_secret *out, struct cas_err *err)
{
        const char *full = getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI");
        const char *relative = getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
        cas_cleanup_free char *url = NULL, *token = NULL;
        cas_cleanup_buf struct cas_buf answer = CAS_BUF_INIT;
        if (relative && *relative == '/')
                url = cas_xasprintf(CONTAINER_ENDPOINT "%s", relative);
        else if (full && *full)
                url = cas_xstrdup(full);
        else
                return cas_fail(err, CAS_E_NOTFOUND, "no container's metadata service");
        if (!s3_metadata_url_allowed(url))
                return cas_fail(err, CAS_E_DENIED,
                                "the metadata service of the container is "
                                "neither https nor of this machine");
        if (container_token(&token, err) < 0 ||
            ask("GET", url, token ? "Authorization" : NULL, token, &answer, err) < 0)
                return -(int)err->code;
        int rc = s3_metadata_parse(answer.data, answer.len_bytes, out, err);
        if (answer.data)
                OPENSSL_cleanse(answer.data, answer.len_bytes);
        return rc;
}

static bool is_name(const char *text)
{
        return *text && strlen(text) <= 256 && !strpbrk(text, "/?#%\r\n\t ") && text[0] != '.';
}

/* The metadata service of a machine, version 2: a token first, then the role's name and keys. */
static int from_machine(struct s3_secret *out, struct cas_err *err)
{
        static const char token_header[] = "X-aws-ec2-metadata-token";
        const char *off = getenv("AWS_EC2_METADATA_DISABLED");
        const char *set = getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        if (off && strcasecmp(off, "true") == 0)
                return cas_fail(err, CAS_E_NOTFOUND, "the metadata service is switched off");
        cas_cleanup_free char *base = cas_xstrdup(set && *set ? set : MACHINE_ENDPOINT);
        if (base[strlen(base) - 1] == '/')
                base[strlen(base) - 1] = '\0';
        cas_cleanup_buf struct cas_buf token = CAS_BUF_INIT, role = CAS_BUF_INIT,
                                       answer = CAS_BUF_INIT;
        cas_cleanup_free char *token_url = cas_xasprintf("%s/latest/api/token", base);
        if (ask("PUT", token_url, "X-aws-ec2-metadata-token-ttl-seconds", METADATA_TOKEN_S, &token,
                err) < 0)
                return -(int)err->code;
        if (!is_sound(cas_buf_str(&token)))
                return cas_fail(err, CAS_E_INVALID, "metadata service: a token that is none");
        cas_cleanup_free char *role_url = cas_xasprintf("%s" MACHINE_PATH, base);
        if (ask("GET", role_url, token_header, cas_buf_str(&token), &role, err) < 0)
                return -(int)err->code;
        if (role.len_bytes > 0)
                role.data[strcspn(cas_buf_str(&role), "\r\n")] = '\0';
        if (!is_name(cas_buf_str(&role)))
                return cas_fail(err, CAS_E_INVALID, "metadata service: a role that is none");
        cas_cleanup_free char *keys_url = cas_xasprintf("%s%s", role_url, cas_buf_str(&role));
        if (ask("GET", keys_url, token_header, cas_buf_str(&token), &answer, err) < 0)
                return -(int)err->code;
        int rc = s3_metadata_parse(answer.data, answer.len_bytes, out, err);
        if (answer.data)
                OPENSSL_cleanse(answer.data, answer.len_bytes);
        return rc;
}

static int fetch(const char *profile, struct s3_secret *out, struct cas_err *err)
{
        if (profile)
                return from_files(profile, out, err);
        const char *set = getenv("AWS_PROFILE");
        int rc = from_environment(out, err);
        if (rc == -CAS_E_NOTFOUND)
                rc = from_files(set && *set ? set : "default", out, err);
        if (rc == -CAS_E_NOTFOUND)
                rc = from_container(out, err);
        if (rc == -CAS_E_NOTFOUND)
                rc = from_machine(out, err);
        if (rc == -CAS_E_NOTFOUND || rc == -CAS_E_IO)
                return cas_fail(
                        err, CAS_E_DENIED,
                        "no keys for S3: neither in the environment (AWS_ACCESS_KEY_ID), nor "
                        "in ~/.aws/credentials, nor from a metadata service");
        return rc;
}

static void copy_secret(const struct s3_secret *from, struct s3_secret *out)
{
        *out = (struct s3_secret){.key_id = cas_xstrdup(from->key_id),
                                  .secret = cas_xstrdup(from->secret),
                                  .token = from->token ? cas_xstrdup(from->token) : NULL,
                                  .expires_unix_s = from->expires_unix_s};
}

/* Fails only where there is nothing valid to go on with. */
static int refresh_locked(struct s3_credentials *c, int64_t now, struct cas_err *err)
{
        cas_assert_held(&c->mutex);
        struct s3_secret fresh = {0};
        struct cas_err why = CAS_ERR_INIT;
        if (fetch(c->profile, &fresh, &why) < 0) {
                if (!c->now.key_id || (c->now.expires_unix_s && c->now.expires_unix_s <= now)) {
                        *err = why;
                        return -(int)err->code;
                }
                c->fetch_at_unix_s = now + REFRESH_AGAIN_S;
                return 0;
        }
        s3_secret_release(&c->now);
        c->now = fresh;
        int64_t early = fresh.expires_unix_s - REFRESH_BEFORE_S;
        c->fetch_at_unix_s = fresh.expires_unix_s == 0 ? 0 : early > now + 1 ? early : now + 1;
        return 0;
}

int s3_credentials_get(struct s3_credentials *c, struct s3_secret *out, struct cas_err *err)
{
        int64_t now = time(NULL);
        int rc = 0;
        cas_mutex_lock(&c->mutex);
        if (!c->now.key_id || (c->fetch_at_unix_s && c->fetch_at_unix_s <= now))
                rc = refresh_locked(c, now, err);
        if (rc == 0)
                copy_secret(&c->now, out);
        cas_mutex_unlock(&c->mutex);
        return rc;
}

void s3_credentials_refused(struct s3_credentials *c, const char *key_id)
{
        cas_mutex_lock(&c->mutex);
        if (c->now.key_id && strcmp(c->now.key_id, key_id) == 0)
                c->fetch_at_unix_s = 1;
        cas_mutex_unlock(&c->mutex);
}
