/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/address.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <sys/random.h>

#include "cas/io.h"
#include "cas/mutex.h"
#include "registry/range.h"

#define STORE_DIR "registry"
#define STORE_FILE STORE_DIR "/address-keys"
#define FILE_BYTES_MAX 4096
/* What is signed: this, the digest's text, a newline and the expiry in decimal. */
#define SIGNED_PREFIX "lamina-cas-1\n"

struct key_set {
        size_t count;
        struct cas_hash keys[REG_ADDRESS_KEYS_MAX];
};

struct reg_address_keys {
        int dirfd;  /* that path is relative to; borrowed from the store */
        char *path; /* owned */
        struct cas_mutex mutex;
        struct key_set set; /* guarded by mutex */
};

/* Lines of hex; empty lines and those that begin with "#" are skipped. */
static int parse_keys(const char *text, struct key_set *out, struct cas_err *err)
{
        *out = (struct key_set){0};
        for (const char *at = text; *at;) {
                size_t len = strcspn(at, "\n");
                if (len > 0 && at[0] != '#') {
                        if (out->count == REG_ADDRESS_KEYS_MAX)
                                return cas_fail(err, CAS_E_INVALID, "more than %d keys",
                                                REG_ADDRESS_KEYS_MAX);
                        if (!cas_hash_from_hex(at, len, &out->keys[out->count++]))
                                return cas_fail(err, CAS_E_INVALID,
                                                "a key is not 64 lower-case hex digits");
                }
                at += len + (at[len] == '\n');
        }
        if (out->count == 0)
                return cas_fail(err, CAS_E_INVALID, "there is no key in it");
        return 0;
}

static int make_keys(const struct reg_address_keys *k, struct cas_err *err)
{
        struct cas_hash key;
        char line[CAS_HASH_HEX_BYTES];
        if (getrandom(key.bytes, sizeof(key.bytes), 0) != (ssize_t)sizeof(key.bytes))
                return cas_fail(err, CAS_E_IO, "no random bytes");
        cas_hash_hex(&key, line);
        line[CAS_HASH_HEX_BYTES - 1] = '\n';
        int rc = cas_io_mkdir(cas_io_posix(), k->dirfd, STORE_DIR, 0700, err);
        if (rc == 0)
                rc = cas_io_replace_file(cas_io_posix(), k->dirfd, STORE_DIR, k->path, line,
                                         sizeof(line), 0600, err);
        OPENSSL_cleanse(line, sizeof(line));
        OPENSSL_cleanse(&key, sizeof(key));
        return rc;
}

int reg_address_keys_reload(struct reg_address_keys *k, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        struct key_set set;
        int rc = cas_io_read_file(cas_io_posix(), k->dirfd, k->path, FILE_BYTES_MAX, &text, err);
        if (rc == 0)
                rc = parse_keys(cas_buf_str(&text), &set, err);
        if (text.data)
                OPENSSL_cleanse(text.data, text.len_bytes);
        if (rc < 0)
                return cas_err_wrap(err, "keys of addresses (%s)", k->path);
        cas_mutex_lock(&k->mutex);
        k->set = set;
        cas_mutex_unlock(&k->mutex);
        return 0;
}

int reg_address_keys_open(struct cas_store *s, const char *path, struct reg_address_keys **out,
                          struct cas_err *err)
{
        struct reg_address_keys *k = cas_xcalloc(1, sizeof(*k));
        struct cas_err miss = CAS_ERR_INIT;
        k->dirfd = path ? AT_FDCWD : cas_store_dirfd(s);
        k->path = cas_xstrdup(path ? path : STORE_FILE);
        cas_mutex_init(&k->mutex, "address.keys");
        int rc = reg_address_keys_reload(k, &miss);
        if (rc == -CAS_E_NOTFOUND && !path) {
                rc = make_keys(k, err);
                if (rc == 0)
                        rc = reg_address_keys_reload(k, err);
        } else if (rc < 0) {
                *err = miss;
        }
        if (rc < 0)
                reg_address_keys_free(k);
        else
                *out = k;
        return rc;
}

void reg_address_keys_free(struct reg_address_keys *k)
{
        if (!k)
                return;
        cas_mutex_release(&k->mutex);
        free(k->path);
        OPENSSL_cleanse(k, sizeof(*k));
        free(k);
}

static struct key_set keys_now(struct reg_address_keys *k)
{
        cas_mutex_lock(&k->mutex);
        struct key_set set = k->set;
        cas_mutex_unlock(&k->mutex);
        return set;
}

static void sign(const struct cas_hash *key, const struct cas_digest *digest, uint64_t expiry_s,
                 char out[CAS_HASH_HEX_BYTES])
{
        char text[CAS_DIGEST_TEXT_BYTES];
        char message[sizeof(SIGNED_PREFIX) + CAS_DIGEST_TEXT_BYTES + 24];
        struct cas_hash mac;
        unsigned len = 0;
        int n = snprintf(message, sizeof(message), SIGNED_PREFIX "%s\n%llu",
                         cas_digest_text(digest, text), (unsigned long long)expiry_s);
        const void *made = HMAC(EVP_sha256(), key->bytes, sizeof(key->bytes),
                                (const unsigned char *)message, (size_t)n, mac.bytes, &len);
        cas_assert(made != NULL && len == sizeof(mac.bytes));
        cas_hash_hex(&mac, out);
}

void reg_address_make(struct reg_address_keys *k, const struct cas_digest *digest, uint64_t now_s,
                      uint64_t valid_s, char out[REG_ADDRESS_BYTES_MAX])
{
        struct key_set set = keys_now(k);
        char hex[CAS_DIGEST_TEXT_BYTES], mac[CAS_HASH_HEX_BYTES];
        uint64_t expiry_s = (now_s / valid_s + 2) * valid_s;
        sign(&set.keys[0], digest, expiry_s, mac);
        cas_digest_hex(digest, hex);
        int n = snprintf(out, REG_ADDRESS_BYTES_MAX, "/cas/%s/%.2s/%s?e=%llu&s=%s",
                         cas_digest_alg_name(digest->alg), hex, hex, (unsigned long long)expiry_s,
                         mac);
        cas_assert(n > 0 && n < REG_ADDRESS_BYTES_MAX);
        OPENSSL_cleanse(&set, sizeof(set));
}

int reg_address_parse(const struct reg_uri *uri, struct cas_digest *out, struct cas_err *err)
{
        cas_cleanup_free char *text = NULL;
        struct cas_err bad = CAS_ERR_INIT;
        if (uri->segment_count != 4 || strcmp(uri->segments[0], "cas") != 0 ||
            strlen(uri->segments[2]) != 2 || strncmp(uri->segments[2], uri->segments[3], 2) != 0)
                return cas_fail(err, CAS_E_NOTFOUND, "no such path");
        text = cas_xasprintf("%s:%s", uri->segments[1], uri->segments[3]);
        if (cas_digest_parse(text, out, &bad) < 0)
                return cas_fail(err, CAS_E_NOTFOUND, "no such path");
        return 0;
}

int reg_address_check(struct reg_address_keys *k, const struct reg_uri *uri,
                      const struct cas_digest *digest, uint64_t now_s, struct cas_err *err)
{
        const char *expiry = reg_uri_param(uri, "e"), *given = reg_uri_param(uri, "s");
        uint64_t expiry_s;
        if (!expiry || !given || strlen(given) != CAS_HASH_HEX_BYTES - 1 ||
            !reg_count_parse(expiry, UINT64_MAX, &expiry_s))
                return cas_fail(err, CAS_E_DENIED,
                                "this address is given out by the registry, with a signature");
        struct key_set set = keys_now(k);
        bool good = false;
        for (size_t i = 0; i < set.count; i++) {
                char mac[CAS_HASH_HEX_BYTES];
                sign(&set.keys[i], digest, expiry_s, mac);
                good |= CRYPTO_memcmp(mac, given, sizeof(mac) - 1) == 0;
        }
        OPENSSL_cleanse(&set, sizeof(set));
        if (!good)
                return cas_fail(err, CAS_E_DENIED, "the signature of this address is wrong");
        if (expiry_s <= now_s)
                return cas_fail(err, CAS_E_DENIED,
                                "this address is no longer good: ask the registry again");
        return 0;
}
