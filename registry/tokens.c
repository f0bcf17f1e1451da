/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/tokens.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "cas/log.h"
#include "cas/mutex.h"
#include "cas/store.h"
#include "registry/jwt.h"
#include "registry/keysource.h"
#include "registry/passwords.h"
#include "registry/reg_clock.h"

#define KEY_DIR "registry"
#define KEY_FILE KEY_DIR "/token-key.pem"
#define OUR_ISSUER "lamina"
#define LIFETIME_S_DEFAULT 300
#define REFRESH_LIFETIME_S_DEFAULT (90 * 86400)
#define KNOWN_FOR_S 300 /* a signature is checked again after that */

struct reg_tokens {
        const struct reg_access_settings *settings; /* borrowed */
        struct reg_logins *logins;                  /* borrowed */
        const char *service;                        /* borrowed */
        char *refresh_audience;                     /* owned */
        int store_dirfd;                            /* -1: none */

        struct reg_keysource *source; /* of an outside issuer; NULL: tokens are ours */

        struct cas_mutex mutex;  /* registry.tokens; guards the rest */
        struct reg_key *key;     /* ours */
        struct reg_keyset *ours; /* its public half */
        uint64_t generation;
};

/* ---- our own key ---- */

/* Makes the key's file in the store, where there is none. */
static int key_create(const struct reg_tokens *t, struct cas_buf *out, struct cas_err *err)
{
        struct reg_key *key;
        if (reg_key_make(&key, err) < 0)
                return -(int)err->code;
        reg_key_pem(key, out);
        reg_key_free(key);
        if (t->store_dirfd < 0)
                return 0;
        if (mkdirat(t->store_dirfd, KEY_DIR, 0700) < 0 && errno != EEXIST)
                return cas_fail_sys(err, errno, "%s", KEY_DIR);
        int rc = cas_io_replace_file(cas_io_posix(), t->store_dirfd, KEY_DIR, KEY_FILE, out->data,
                                     out->len_bytes, 0600, err);
        if (rc == 0)
                cas_log(CAS_LOG_INFO, "tokens", "key=made file=%s", KEY_FILE);
        return rc;
}

static int key_text(const struct reg_tokens *t, struct cas_buf *out, struct cas_err *err)
{
        const char *path = t->settings->token_key;
        struct cas_err miss = CAS_ERR_INIT;
        if (path)
                return cas_io_read_file(cas_io_posix(), AT_FDCWD, path, REG_KEYS_BYTES_MAX, out,
                                        err);
        if (t->store_dirfd < 0)
                return key_create(t, out, err);
        int rc = cas_io_read_file(cas_io_posix(), t->store_dirfd, KEY_FILE, REG_KEYS_BYTES_MAX, out,
                                  &miss);
        if (rc == -CAS_E_NOTFOUND)
                return key_create(t, out, err);
        if (rc < 0)
                *err = miss;
        return rc;
}

static int key_load(struct reg_tokens *t, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        const char *name = t->settings->token_key ? t->settings->token_key : KEY_FILE;
        struct reg_key *key;
        int rc = key_text(t, &text, err);
        if (rc == 0)
                rc = reg_key_parse(text.data, text.len_bytes, &key, err);
        if (text.data)
                OPENSSL_cleanse(text.data, text.len_bytes);
        if (rc < 0)
                return cas_err_wrap(err, "%s", name);
        cas_mutex_lock(&t->mutex);
        struct reg_key *former = t->key;
        struct reg_keyset *former_set = t->ours;
        bool changed = !former || strcmp(reg_key_id(former), reg_key_id(key)) != 0;
        t->key = key;
        t->ours = reg_keyset_of(key);
        t->generation += changed;
        reg_key_free(former);
        cas_mutex_unlock(&t->mutex);
        reg_keyset_unref(former_set);
        return 0;
}

/* ---- both ---- */

static int open_outside(struct reg_tokens *t, struct cas_err *err)
{
        const struct reg_access_settings *s = t->settings;
        if (!s->token_keys == !s->token_keys_url)
                return cas_fail(err, CAS_E_INVALID,
                                "token_issuer needs token_keys, or token_keys_url");
        if (s->token_key || s->token_lifetime_s || s->refresh_lifetime_s)
                return cas_fail(err, CAS_E_INVALID,
                                "token_key and lifetimes are for tokens of our own, but there is "
                                "a token_issuer");
        if (!s->realm && !s->basic)
                return cas_fail(err, CAS_E_INVALID,
                                "token_issuer needs realm: the address that gives its tokens");
        if (s->token_keys_url)
                return reg_keysource_url(s->token_keys_url, s->token_keys_ca, &t->source, err);
        return reg_keysource_file(s->token_keys, &t->source, err);
}

int reg_tokens_new(const struct reg_access_settings *settings, struct cas_store *store,
                   struct reg_logins *logins, struct reg_tokens **out, struct cas_err *err)
{
        struct reg_tokens *t = cas_xcalloc(1, sizeof(*t));
        t->settings = settings;
        t->logins = logins;
        t->service = settings->service ? settings->service : REG_SERVICE_DEFAULT;
        t->refresh_audience = cas_xasprintf("%s#refresh", t->service);
        t->store_dirfd = store ? cas_store_dirfd(store) : -1;
        cas_mutex_init(&t->mutex, "registry.tokens");
        int rc;
        if (settings->issuer)
                rc = open_outside(t, err);
        else if (settings->token_keys || settings->token_keys_url || settings->token_keys_ca)
                rc = cas_fail(err, CAS_E_INVALID, "token_keys needs token_issuer");
        else
                rc = key_load(t, err);
        if (rc < 0) {
                reg_tokens_free(t);
                return rc;
        }
        *out = t;
        return 0;
}

void reg_tokens_free(struct reg_tokens *t)
{
        if (!t)
                return;
        reg_keysource_free(t->source);
        reg_keyset_unref(t->ours);
        reg_key_free(t->key);
        cas_mutex_release(&t->mutex);
        free(t->refresh_audience);
        free(t);
}

int reg_tokens_reload(struct reg_tokens *t, struct cas_err *err)
{
        return t->source ? reg_keysource_reload(t->source, err) : key_load(t, err);
}

static void keys_reload(struct reg_tokens *t)
{
        struct cas_err err = CAS_ERR_INIT;
        if (reg_keysource_reload(t->source, &err) < 0)
                cas_log(CAS_LOG_ERROR, "access", "reload=failed message=\"%s\"", err.msg);
        else
                cas_log(CAS_LOG_INFO, "access", "reload=ok what=token-keys");
}

void reg_tokens_watch(struct reg_tokens *t)
{
        if (t->source && !reg_keysource_remote(t->source) && reg_keysource_stale(t->source, false))
                keys_reload(t);
}

bool reg_tokens_ours(const struct reg_tokens *t)
{
        return !t->source;
}

static struct reg_keyset *keys_get(struct reg_tokens *t, uint64_t *generation)
{
        if (t->source)
                return reg_keysource_get(t->source, generation);
        cas_mutex_lock(&t->mutex);
        struct reg_keyset *keys = reg_keyset_ref(t->ours);
        *generation = t->generation;
        cas_mutex_unlock(&t->mutex);
        return keys;
}

/* ---- whose a token is ---- */

static int read_user(const struct reg_jwt *jwt, char user[REG_USER_BYTES_MAX + 1],
                     struct cas_err *err)
{
        int rc = cas_json_copy_in(jwt->claims, "sub", user, REG_USER_BYTES_MAX + 1, err);
        if (rc == 0 && user[0] && !reg_user_valid(user))
                return cas_fail(err, CAS_E_INVALID, "a token's sub is no user");
        return rc;
}

static int read_identity(const struct reg_tokens *t, const struct reg_jwt *jwt,
                         struct reg_identity *out, int64_t *until_s, struct cas_err *err)
{
        const struct reg_jwt_wanted wanted = {
                .issuer = t->source ? t->settings->issuer : OUR_ISSUER,
                .audience = t->service,
                .now_s = reg_clock_unix_s(),
        };
        const json_t *access;
        *out = (struct reg_identity){0};
        if (reg_jwt_check(jwt, &wanted, until_s, err) < 0 || read_user(jwt, out->user, err) < 0 ||
            cas_json_array_in(jwt->claims, "access", &access, err) < 0)
                return -(int)err->code;
        if (access)
                return reg_grants_from_json(access, !t->source, &out->grants, err);
        if (!t->source || !out->user[0])
                return cas_fail(err, CAS_E_DENIED, "the token is for nothing and by nobody");
        return 0; /* it says who asks: the rules decide */
}

/* Whether one of the keys in force made the signature; *tried: one of them might have. */
static bool is_signed(struct reg_tokens *t, const struct reg_jwt *jwt, const char *text,
                      bool *tried)
{
        uint64_t generation;
        reg_cleanup_keyset struct reg_keyset *keys = keys_get(t, &generation);
        *tried = false;
        return keys && reg_jwt_verify(jwt, text, keys, tried);
}

/* Keys of an outside issuer that are old, or (unknown) that lack one, are fetched. LATER: they
 * would be, where blocking is allowed. */
static enum reg_verdict keys_fetch(struct reg_tokens *t, bool unknown, bool may_block)
{
        if (!t->source || !reg_keysource_remote(t->source))
                return REG_ALLOWED;
        if (!may_block)
                return reg_keysource_maybe_stale(t->source, unknown) ? REG_LATER : REG_ALLOWED;
        if (reg_keysource_stale(t->source, unknown))
                keys_reload(t);
        return REG_ALLOWED;
}

/* Signature: ALLOWED, UNAUTHORIZED, LATER. */
static enum reg_verdict verify(struct reg_tokens *t, const struct reg_jwt *jwt, const char *text,
                               bool may_block)
{
        bool tried;
        if (keys_fetch(t, false, may_block) == REG_LATER)
                return REG_LATER;
        if (is_signed(t, jwt, text, &tried))
                return REG_ALLOWED;
        if (!tried && keys_fetch(t, true, may_block) == REG_LATER)
                return REG_LATER;
        return !tried && is_signed(t, jwt, text, &tried) ? REG_ALLOWED : REG_UNAUTHORIZED;
}

enum reg_verdict reg_tokens_identify(struct reg_tokens *t, const char *text, bool may_block,
                                     struct reg_identity *out)
{
        reg_cleanup_jwt struct reg_jwt jwt = {0};
        struct cas_err ignored = CAS_ERR_INIT; /* reg_tokens_why */
        struct cas_hash mac;
        uint64_t generation;
        int64_t until_s;
        reg_keyset_unref(keys_get(t, &generation));
        reg_logins_mac(t->logins, 'T', text, &mac);
        if (reg_logins_get(t->logins, &mac, generation, reg_clock_s(), out))
                return REG_ALLOWED;
        if (reg_jwt_parse(text, &jwt, &ignored) < 0)
                return REG_UNAUTHORIZED;
        enum reg_verdict verdict = verify(t, &jwt, text, may_block);
        if (verdict != REG_ALLOWED)
                return verdict;
        if (read_identity(t, &jwt, out, &until_s, &ignored) < 0) {
                reg_identity_release(out);
                return REG_UNAUTHORIZED;
        }
        uint64_t left_s = (uint64_t)(until_s - reg_clock_unix_s());
        reg_logins_put(t->logins, &mac, generation,
                       reg_clock_s() + cas_min_u64(left_s, KNOWN_FOR_S), out);
        return REG_ALLOWED;
}

void reg_tokens_why(struct reg_tokens *t, const char *text, struct cas_err *err)
{
        reg_cleanup_jwt struct reg_jwt jwt = {0};
        struct reg_identity unproved;
        int64_t until_s;
        if (reg_jwt_parse(text, &jwt, err) < 0 ||
            read_identity(t, &jwt, &unproved, &until_s, err) < 0)
                return;
        reg_identity_release(&unproved);
        (void)cas_fail(err, CAS_E_DENIED, "the token is signed by no key that is known");
}

/* ---- our own ---- */

static json_t *claims_new(const char *user, const char *audience, uint64_t lifetime_s)
{
        uint8_t random[16];
        struct cas_hash id = {0};
        char hex[CAS_HASH_HEX_BYTES];
        json_int_t now = (json_int_t)reg_clock_unix_s();
        cas_assert(getrandom(random, sizeof(random), 0) == sizeof(random));
        memcpy(id.bytes, random, sizeof(random));
        cas_hash_hex(&id, hex);
        hex[2 * sizeof(random)] = '\0';
        return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:s}", "iss", OUR_ISSUER, "sub", user,
                         "aud", audience, "exp", now + (json_int_t)lifetime_s, "nbf", now, "iat",
                         now, "jti", hex);
}

static int sign(struct reg_tokens *t, const json_t *claims, struct cas_buf *out,
                struct cas_err *err)
{
        cas_assert(!t->source);
        if (!claims)
                return cas_fail(err, CAS_E_INVALID, "the user's name is not UTF-8");
        cas_mutex_lock(&t->mutex);
        int rc = reg_jwt_sign(t->key, claims, out, err);
        cas_mutex_unlock(&t->mutex);
        return rc;
}

int reg_tokens_issue(struct reg_tokens *t, const char *user, const struct reg_grants *grants,
                     struct cas_buf *out, uint64_t *lifetime_s, struct cas_err *err)
{
        *lifetime_s =
                t->settings->token_lifetime_s ? t->settings->token_lifetime_s : LIFETIME_S_DEFAULT;
        cas_cleanup_json json_t *claims = claims_new(user, t->service, *lifetime_s);
        if (claims)
                (void)json_object_set_new(claims, "access", reg_grants_to_json(grants));
        return sign(t, claims, out, err);
}

int reg_tokens_issue_refresh(struct reg_tokens *t, const char *user, const struct cas_hash *stamp,
                             struct cas_buf *out, struct cas_err *err)
{
        char hex[CAS_HASH_HEX_BYTES];
        uint64_t lifetime_s = t->settings->refresh_lifetime_s ? t->settings->refresh_lifetime_s
                                                              : REFRESH_LIFETIME_S_DEFAULT;
        cas_cleanup_json json_t *claims = claims_new(user, t->refresh_audience, lifetime_s);
        if (claims)
                (void)json_object_set_new(claims, "stamp", json_string(cas_hash_hex(stamp, hex)));
        return sign(t, claims, out, err);
}

int reg_tokens_refresh_user(struct reg_tokens *t, const char *text, struct reg_htpasswd *users,
                            char user[REG_USER_BYTES_MAX + 1], struct cas_err *err)
{
        reg_cleanup_jwt struct reg_jwt jwt = {0};
        const struct reg_jwt_wanted wanted = {
                .issuer = OUR_ISSUER, .audience = t->refresh_audience, .now_s = reg_clock_unix_s()};
        struct cas_hash stamp;
        char hex[CAS_HASH_HEX_BYTES], given[CAS_HASH_HEX_BYTES];
        uint64_t generation;
        int64_t until_s;
        reg_cleanup_keyset struct reg_keyset *keys = keys_get(t, &generation);
        if (reg_jwt_parse(text, &jwt, err) < 0)
                return -(int)err->code;
        if (!reg_jwt_verify(&jwt, text, keys, NULL))
                return cas_fail(err, CAS_E_DENIED, "the refresh token is not ours");
        if (reg_jwt_check(&jwt, &wanted, &until_s, err) < 0 || read_user(&jwt, user, err) < 0 ||
            cas_json_copy_in(jwt.claims, "stamp", given, sizeof(given), err) < 0)
                return -(int)err->code;
        if (!reg_htpasswd_stamp(users, user, &stamp) ||
            strcmp(cas_hash_hex(&stamp, hex), given) != 0)
                return cas_fail(err, CAS_E_DENIED, "the password has changed since");
        return 0;
}
