/* SPDX-License-Identifier: Apache-2.0 */
/* What clients and issuers of tokens send is read without fault, and what is taken
 * keeps its promises. The first byte says what the rest is. */
#include "cas/names.h"
#include "registry/access_config.h"
#include "registry/base64.h"
#include "registry/jwt.h"
#include "registry/passwords.h"
#include "registry/repo_pattern.h"
#include "registry/scope.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_token(const char *text)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct reg_jwt_wanted wanted = {.now_s = 1800000000};
        struct reg_jwt jwt;
        struct reg_grants *grants;
        int64_t until_s;
        if (reg_jwt_parse(text, &jwt, &err) < 0) {
                cas_assert(jwt.claims == NULL);
                return;
        }
        cas_assert(text[jwt.signed_bytes] == '.');
        cas_assert(jwt.signature.len_bytes > 0);
        if (reg_jwt_check(&jwt, &wanted, &until_s, &err) == 0)
                cas_assert(until_s > wanted.now_s);
        const json_t *access = json_object_get(jwt.claims, "access");
        if (json_is_array(access) && reg_grants_from_json(access, false, &grants, &err) == 0)
                reg_grants_unref(grants);
        reg_jwt_release(&jwt);
}

/* The set is asked for a signature of each kind, which none can have. */
static void check_keys(const uint8_t *data, size_t size)
{
        static const uint8_t signature[64] = {1};
        struct cas_err err = CAS_ERR_INIT;
        struct reg_keyset *keys;
        if (reg_keyset_parse(data, size, &keys, &err) < 0)
                return;
        cas_assert(reg_keyset_count(keys) > 0);
        for (enum reg_key_alg alg = REG_KEY_RS256; alg <= REG_KEY_EDDSA; alg++)
                (void)reg_keyset_verify(keys, alg, NULL, "x", 1, signature, sizeof(signature),
                                        NULL);
        reg_keyset_unref(keys);
}

static void check_base64(const char *text, size_t len)
{
        for (enum reg_base64 kind = REG_BASE64; kind <= REG_BASE64_URL; kind++) {
                cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT, again = CAS_BUF_INIT;
                if (!reg_base64_decode(kind, text, len, &bytes))
                        continue;
                reg_base64_append(kind, bytes.data, bytes.len_bytes, &again);
                cas_assert(again.len_bytes == len);
                if (len > 0)
                        cas_assert(memcmp(again.data, text, len) == 0);
        }
}

static void check_scope(const char *text)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_scope scope;
        if (reg_scope_parse(text, strlen(text), &scope, &err) < 0)
                return;
        cas_assert(scope.type != REG_SCOPE_REPOSITORY || cas_repo_name_valid(scope.repo));
        cas_assert(scope.actions <= 7);
}

static void check_pattern(const char *text)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_repo_pattern pattern;
        char user[64];
        if (reg_repo_pattern_init(&pattern, text, &err) < 0)
                return;
        static const char *const names[] = {"a", "home/alice/x", "home/a.b_c-d/x/y/z"};
        for (size_t i = 0; i < CAS_COUNT(names); i++) {
                if (reg_repo_pattern_owner(&pattern, names[i], user, sizeof(user)))
                        cas_assert(reg_repo_pattern_match(&pattern, names[i], user));
        }
        reg_repo_pattern_release(&pattern);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_credentials credentials;
        struct reg_rate rate;
        if (size == 0)
                return 0;
        cas_cleanup_free char *text = cas_xmalloc(size);
        memcpy(text, data + 1, size - 1);
        text[size - 1] = '\0';
        switch (data[0] % 7) {
        case 0:
                check_token(text);
                break;
        case 1:
                check_keys(data + 1, size - 1);
                break;
        case 2:
                check_base64(text, size - 1);
                break;
        case 3:
                check_scope(text);
                break;
        case 4:
                check_pattern(text);
                break;
        case 5:
                if (reg_credentials_parse(text, &credentials))
                        cas_assert(!credentials.user[0] || reg_user_valid(credentials.user));
                break;
        default:
                if (reg_rate_parse(text, &rate, &err) == 0)
                        cas_assert(rate.count > 0 && rate.period_s > 0 && rate.burst > 0);
        }
        return 0;
}
