/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/passwords.h"

#include <openssl/crypto.h>
#include <stdio.h>

#include "cas/buf.h"
#include "cas/mutex.h"
#include "registry/base64.h"
#include "registry/reg_clock.h"

#define HASHING_MAX 8
#define WAITING_MAX 32  /* half of the threads that requests may wait on */
#define KNOWN_FOR_S 600 /* at most; a changed file ends it at once */

struct reg_passwords {
        struct reg_htpasswd *file; /* borrowed, as the next two */
        struct reg_logins *logins;
        struct reg_limiter *failures;
        unsigned hashing_max;

        struct cas_mutex mutex; /* registry.passwords; guards all below */
        pthread_cond_t change;
        unsigned hashing, waiting;
        struct cas_hash running[HASHING_MAX]; /* MACs of what is being hashed; zero: nothing */
};

struct reg_passwords *reg_passwords_new(struct reg_htpasswd *file, struct reg_logins *logins,
                                        struct reg_limiter *failures)
{
        struct reg_passwords *p = cas_xcalloc(1, sizeof(*p));
        long cpus = sysconf(_SC_NPROCESSORS_ONLN);
        p->file = file;
        p->logins = logins;
        p->failures = failures;
        /* half of the processors go on with what needs no hash */
        p->hashing_max = (unsigned)cas_min_u64(HASHING_MAX, cpus < 2 ? 1 : (uint64_t)cpus / 2);
        cas_mutex_init(&p->mutex, "registry.passwords");
        cas_cond_init(&p->change);
        return p;
}

void reg_passwords_free(struct reg_passwords *p)
{
        if (!p)
                return;
        (void)pthread_cond_destroy(&p->change);
        cas_mutex_release(&p->mutex);
        free(p);
}

bool reg_user_valid(const char *user)
{
        size_t len = strnlen(user, REG_USER_BYTES_MAX + 1);
        for (size_t i = 0; i < len; i++) {
                if ((unsigned char)user[i] < ' ' || user[i] == 0x7f)
                        return false;
        }
        return len > 0 && len <= REG_USER_BYTES_MAX;
}

bool reg_credentials_parse(const char *text, struct reg_credentials *out)
{
        cas_cleanup_buf struct cas_buf plain = CAS_BUF_INIT;
        bool good =
                strlen(text) < 4096 && reg_base64_decode(REG_BASE64, text, strlen(text), &plain);
        const char *colon =
                good && plain.len_bytes > 0 ? memchr(plain.data, ':', plain.len_bytes) : NULL;
        good = colon && !memchr(plain.data, 0, plain.len_bytes);
        if (good) {
                size_t user_len = (size_t)(colon - cas_buf_str(&plain));
                size_t password_len = plain.len_bytes - user_len - 1;
                good = user_len <= REG_USER_BYTES_MAX && password_len <= REG_PASSWORD_BYTES_MAX;
                if (good) {
                        memcpy(out->user, plain.data, user_len);
                        out->user[user_len] = '\0';
                        memcpy(out->password, colon + 1, password_len + 1);
                        good = user_len == 0 || reg_user_valid(out->user);
                }
        }
        if (plain.data)
                OPENSSL_cleanse(plain.data, plain.len_bytes);
        return good;
}

static void mac_of(const struct reg_passwords *p, const struct reg_credentials *c,
                   struct cas_hash *out)
{
        /* a user's name has no line break */
        cas_cleanup_free char *text = cas_xasprintf("%s\n%s", c->user, c->password);
        reg_logins_mac(p->logins, 'P', text, out);
        OPENSSL_cleanse(text, strlen(text));
}

static bool is_known(struct reg_passwords *p, const struct cas_hash *mac)
{
        struct reg_identity identity;
        bool known = reg_logins_get(p->logins, mac, reg_htpasswd_generation(p->file), reg_clock_s(),
                                    &identity);
        if (known)
                reg_identity_release(&identity);
        return known;
}

static bool is_running_locked(const struct reg_passwords *p, const struct cas_hash *mac)
{
        for (size_t i = 0; i < HASHING_MAX; i++) {
                if (cas_hash_equal(&p->running[i], mac))
                        return true;
        }
        return false;
}

static void set_running_locked(struct reg_passwords *p, const struct cas_hash *from,
                               const struct cas_hash *to)
{
        size_t i = 0;
        while (i < HASHING_MAX && !cas_hash_equal(&p->running[i], from))
                i++;
        cas_assert(i < HASHING_MAX);
        p->running[i] = *to;
}

/* Waits for a turn to hash. Not ALLOWED: there is no turn, too many wait already. */
static enum reg_verdict turn_take(struct reg_passwords *p, const struct cas_hash *mac)
{
        static const struct cas_hash none;
        enum reg_verdict verdict = REG_ALLOWED;
        cas_mutex_lock(&p->mutex);
        while (p->hashing == p->hashing_max || is_running_locked(p, mac)) {
                if (p->waiting == WAITING_MAX) {
                        verdict = REG_LIMITED;
                        break;
                }
                p->waiting++;
                cas_mutex_wait(&p->mutex, &p->change);
                p->waiting--;
        }
        if (verdict == REG_ALLOWED) {
                p->hashing++;
                set_running_locked(p, &none, mac);
        }
        cas_mutex_unlock(&p->mutex);
        return verdict;
}

static void turn_give(struct reg_passwords *p, const struct cas_hash *mac)
{
        static const struct cas_hash none;
        cas_mutex_lock(&p->mutex);
        p->hashing--;
        set_running_locked(p, mac, &none);
        (void)pthread_cond_broadcast(&p->change);
        cas_mutex_unlock(&p->mutex);
}

/* With a turn. Others may have found out meanwhile, or failed. */
static enum reg_verdict hash(struct reg_passwords *p, const struct reg_credentials *c,
                             const struct cas_hash *mac, const char *client)
{
        uint64_t generation = reg_htpasswd_generation(p->file), wait_ns;
        struct reg_identity identity = {0};
        if (is_known(p, mac))
                return REG_ALLOWED;
        if (reg_limiter_wait_ns(p->failures, client, reg_clock_ns()) > 0)
                return REG_LIMITED;
        if (!reg_htpasswd_verify(p->file, c->user, c->password)) {
                (void)reg_limiter_take(p->failures, client, reg_clock_ns(), &wait_ns);
                return REG_UNAUTHORIZED;
        }
        (void)snprintf(identity.user, sizeof(identity.user), "%s", c->user);
        reg_logins_put(p->logins, mac, generation, reg_clock_s() + KNOWN_FOR_S, &identity);
        return REG_ALLOWED;
}

enum reg_verdict reg_passwords_check(struct reg_passwords *p, const struct reg_credentials *c,
                                     const char *client, bool may_block)
{
        struct cas_hash mac;
        mac_of(p, c, &mac);
        if (is_known(p, &mac))
                return REG_ALLOWED;
        if (reg_limiter_wait_ns(p->failures, client, reg_clock_ns()) > 0)
                return REG_LIMITED;
        if (!may_block)
                return REG_LATER;
        enum reg_verdict verdict = turn_take(p, &mac);
        if (verdict != REG_ALLOWED)
                return verdict;
        verdict = hash(p, c, &mac, client);
        turn_give(p, &mac);
        return verdict;
}
