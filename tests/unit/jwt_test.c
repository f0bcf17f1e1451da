/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <openssl/evp.h>
#include <openssl/pem.h>

#include "registry/base64.h"
#include "registry/jwt.h"

#define ok(call) assert_int_equal(call, 0)
#define NOW INT64_C(1800000000)

/* A private key of OpenSSL's name, and its public half as PEM. */
struct pair {
        struct reg_key *key;
        struct cas_buf public_pem;
};

static struct pair pair_make(const char *type)
{
        struct pair p = {.public_pem = CAS_BUF_INIT};
        struct cas_err err = CAS_ERR_INIT;
        EVP_PKEY *pkey = strcmp(type, "RSA") == 0
                                 ? EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)2048)
                         : strncmp(type, "P-", 2) == 0 ? EVP_PKEY_Q_keygen(NULL, NULL, "EC", type)
                                                       : EVP_PKEY_Q_keygen(NULL, NULL, type);
        char *text;
        assert_non_null(pkey);
        BIO *bio = BIO_new(BIO_s_mem());
        assert_int_equal(PEM_write_bio_PKCS8PrivateKey(bio, pkey, NULL, NULL, 0, NULL, NULL), 1);
        long len = BIO_get_mem_data(bio, &text);
        if (reg_key_parse(text, (size_t)len, &p.key, &err) < 0)
                p.key = NULL;
        BIO_free(bio);
        bio = BIO_new(BIO_s_mem());
        assert_int_equal(PEM_write_bio_PUBKEY(bio, pkey), 1);
        len = BIO_get_mem_data(bio, &text);
        cas_buf_append(&p.public_pem, text, (size_t)len);
        BIO_free(bio);
        EVP_PKEY_free(pkey);
        return p;
}

static void pair_release(struct pair *p)
{
        reg_key_free(p->key);
        cas_buf_release(&p->public_pem);
}

static char *make_token(const struct reg_key *key, const char *claims_text)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf token = CAS_BUF_INIT;
        cas_cleanup_json json_t *claims = json_loads(claims_text, 0, NULL);
        assert_non_null(claims);
        ok(reg_jwt_sign(key, claims, &token, &err));
        return cas_xstrdup(cas_buf_str(&token));
}

/* A token of any text; signed, if a key is given. */
static char *raw_token(const struct reg_key *key, const char *header, const char *claims)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf token = CAS_BUF_INIT, signature = CAS_BUF_INIT;
        reg_base64_append(REG_BASE64_URL, header, strlen(header), &token);
        cas_buf_append_byte(&token, '.');
        reg_base64_append(REG_BASE64_URL, claims, strlen(claims), &token);
        if (key)
                ok(reg_key_sign(key, token.data, token.len_bytes, &signature, &err));
        cas_buf_append_byte(&token, '.');
        reg_base64_append(REG_BASE64_URL, signature.data, signature.len_bytes, &token);
        return cas_xstrdup(cas_buf_str(&token));
}

static bool verifies(const char *token, const struct reg_keyset *keys)
{
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_jwt struct reg_jwt jwt = {0};
        return reg_jwt_parse(token, &jwt, &err) == 0 && reg_jwt_verify(&jwt, token, keys, NULL);
}

static void each_kind_of_key_signs(void **state CAS_UNUSED)
{
        static const char *const types[] = {"RSA", "P-256", "ED25519"};
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf all = CAS_BUF_INIT;
        struct pair pairs[CAS_COUNT(types)];
        struct reg_keyset *set;
        for (size_t i = 0; i < CAS_COUNT(types); i++) {
                pairs[i] = pair_make(types[i]);
                assert_non_null(pairs[i].key);
                cas_buf_append(&all, pairs[i].public_pem.data, pairs[i].public_pem.len_bytes);
        }
        ok(reg_keyset_parse(all.data, all.len_bytes, &set, &err));
        assert_int_equal(reg_keyset_count(set), 3);
        for (size_t i = 0; i < CAS_COUNT(types); i++) {
                cas_cleanup_free char *token = make_token(pairs[i].key, "{\"sub\":\"a\"}");
                reg_cleanup_keyset struct reg_keyset *own = reg_keyset_of(pairs[i].key);
                reg_cleanup_keyset struct reg_keyset *other =
                        reg_keyset_of(pairs[(i + 1) % CAS_COUNT(types)].key);
                assert_true(verifies(token, set));
                assert_true(verifies(token, own));
                assert_false(verifies(token, other));
                /* any other byte of it is another token */
                for (size_t at = 0, len = strlen(token); at < len; at += 7) {
                        char was = token[at];
                        token[at] = was == 'A' ? 'B' : 'A';
                        assert_false(verifies(token, set));
                        token[at] = was;
                }
        }
        reg_keyset_unref(set);
        for (size_t i = 0; i < CAS_COUNT(types); i++)
                pair_release(&pairs[i]);
}

static void weak_and_other_keys_are_refused(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_keyset *set;
        struct pair p384 = pair_make("P-384"), x = pair_make("X25519");
        assert_null(p384.key);
        assert_null(x.key);
        assert_int_equal(
                reg_keyset_parse(p384.public_pem.data, p384.public_pem.len_bytes, &set, &err),
                -CAS_E_INVALID);
        pair_release(&p384);
        pair_release(&x);
        static const char *const wrong[] = {
                "",
                "nothing",
                "{}",
                "{\"keys\":[]}",
                "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}",
                "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}",
                "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"?\",\"e\":\"AQAB\"}]}",
                "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AAAA\"}]}",
                "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":"
                "\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\",\"y\":"
                "\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}]}",
                "{\"keys\":[1, 2]}",
                "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        };
        for (size_t i = 0; i < CAS_COUNT(wrong); i++)
                assert_true(reg_keyset_parse(wrong[i], strlen(wrong[i]), &set, &err) < 0);
        struct reg_key *key;
        assert_int_equal(reg_keyset_parse(NULL, 0, &set, &err), -CAS_E_INVALID);
        assert_int_equal(reg_key_parse(NULL, 0, &key, &err), -CAS_E_INVALID);
}

/* The examples of RFC 8037 (A.2: the key, A.4: signed) and RFC 7515 (A.3). */
static void published_examples_verify(void **state CAS_UNUSED)
{
        static const char keys[] =
                "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"ed\",\"x\":"
                "\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"},"
                "{\"kty\":\"EC\",\"crv\":\"P-256\",\"use\":\"sig\",\"x\":"
                "\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\",\"y\":"
                "\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"},"
                "{\"kty\":\"EC\",\"crv\":\"P-256\",\"use\":\"enc\",\"x\":"
                "\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\",\"y\":"
                "\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}";
        static const char es256[] = "eyJhbGciOiJFUzI1NiJ9."
                                    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leG"
                                    "FtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-"
                                    "Xx-F4GawxaepmXFCgfTjDx"
                                    "w5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        static const char eddsa_data[] = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        static const char eddsa_signature[] =
                "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_"
                "MuM0KAg";
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf signature = CAS_BUF_INIT;
        reg_cleanup_keyset struct reg_keyset *set = NULL;
        reg_cleanup_jwt struct reg_jwt jwt = {0};
        int64_t until_s;
        bool tried;
        ok(reg_keyset_parse(keys, strlen(keys), &set, &err));
        assert_int_equal(reg_keyset_count(set), 2); /* not the one for encryption */
        assert_true(verifies(es256, set));
        assert_true(reg_base64_decode(REG_BASE64_URL, eddsa_signature, strlen(eddsa_signature),
                                      &signature));
        assert_true(reg_keyset_verify(set, REG_KEY_EDDSA, "ed", eddsa_data, strlen(eddsa_data),
                                      signature.data, signature.len_bytes, &tried));
        assert_false(reg_keyset_verify(set, REG_KEY_EDDSA, "other", eddsa_data, strlen(eddsa_data),
                                       signature.data, signature.len_bytes, &tried));
        assert_false(tried);
        ok(reg_jwt_parse(es256, &jwt, &err));
        const struct reg_jwt_wanted wanted = {.issuer = "joe", .now_s = 1300819380 - 10};
        ok(reg_jwt_check(&jwt, &wanted, &until_s, &err));
}

static void a_key_signs_by_its_algorithm_alone(void **state CAS_UNUSED)
{
        struct pair rsa = pair_make("RSA");
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_keyset struct reg_keyset *set = NULL;
        reg_cleanup_jwt struct reg_jwt jwt = {0};
        ok(reg_keyset_parse(rsa.public_pem.data, rsa.public_pem.len_bytes, &set, &err));
        static const char *const headers[] = {
                "{\"alg\":\"none\"}",
                "{\"alg\":\"NONE\"}",
                "{\"alg\":\"HS256\"}",
                "{\"alg\":\"rs256\"}",
                "{\"alg\":\"RS384\"}",
                "{\"alg\":\"PS256\"}",
                "{\"alg\":\"ES256K\"}",
                "{\"alg\":\"\"}",
                "{\"alg\":null}",
                "{\"alg\":[\"RS256\"]}",
                "{\"alg\":\"RS256\",\"alg\":\"none\"}",
                "{\"alg\":\"RS256\",\"crit\":[\"exp\"]}",
                "{\"alg\":\"RS256\",\"b64\":false}",
                "{\"alg\":\"RS256\",\"kid\":5}",
                "{}",
                "[]",
        };
        for (size_t i = 0; i < CAS_COUNT(headers); i++) {
                cas_cleanup_free char *token = raw_token(rsa.key, headers[i], "{}");
                assert_true(reg_jwt_parse(token, &jwt, &err) < 0);
        }
        /* signed by the RSA key, but said to be of another kind */
        cas_cleanup_free char *other = raw_token(rsa.key, "{\"alg\":\"EdDSA\"}", "{}");
        assert_false(verifies(other, set));
        cas_cleanup_free char *right = raw_token(rsa.key, "{\"alg\":\"RS256\"}", "{}");
        assert_true(verifies(right, set));
        cas_cleanup_free char *unsigned_one = raw_token(NULL, "{\"alg\":\"RS256\"}", "{}");
        assert_true(reg_jwt_parse(unsigned_one, &jwt, &err) < 0);
        pair_release(&rsa);
}

static void texts_that_are_no_tokens(void **state CAS_UNUSED)
{
        static const char *const wrong[] = {
                "",
                ".",
                "..",
                "...",
                "a.b.c",
                "e30.e30",
                "e30.e30.AA.AA",
                "eyJhbGciOiJFZERTQSJ9.e30=.AAAA", /* padded */
                "eyJhbGciOiJFZERTQSJ9.e31.AAAA",  /* bits left over */
                "eyJhbGciOiJFZERTQSJ9.e 30.AAAA",
                "eyJhbGciOiJFZERTQSJ9.W10.AAAA", /* claims: [] */
                "eyJhbGciOiJFZERTQSJ9.e30.",
                "eyJhbGciOiJFZERTQSJ9.e30.AAAA\n",
        };
        struct cas_err err = CAS_ERR_INIT;
        struct reg_jwt jwt;
        for (size_t i = 0; i < CAS_COUNT(wrong); i++)
                assert_true(reg_jwt_parse(wrong[i], &jwt, &err) < 0);
        cas_cleanup_free char *huge = cas_xcalloc(1, 2 * REG_JWT_BYTES_MAX);
        memset(huge, 'A', 2 * REG_JWT_BYTES_MAX - 1);
        assert_int_equal(reg_jwt_parse(huge, &jwt, &err), -CAS_E_LIMIT);
        ok(reg_jwt_parse("eyJhbGciOiJFZERTQSJ9.e30.AAAA", &jwt, &err));
        reg_jwt_release(&jwt);
}

static void claims_are_checked(void **state CAS_UNUSED)
{
        static const struct {
                const char *claims;
                int code;
        } cases[] = {
                {"{\"iss\":\"i\",\"aud\":\"s\",\"exp\":1800000100}", 0},
                {"{\"iss\":\"i\",\"aud\":[\"x\",\"s\"],\"exp\":1800000100.5,\"nbf\":1800000000,"
                 "\"iat\":1799999999}",
                 0},
                {"{\"iss\":\"i\",\"aud\":\"s\",\"exp\":1799999950}", 0}, /* clocks differ */
                {"{\"iss\":\"i\",\"aud\":\"s\",\"exp\":1799999940}", CAS_E_DENIED},
                {"{\"iss\":\"i\",\"aud\":\"s\",\"exp\":0}", CAS_E_DENIED},
                {"{\"iss\":\"i\",\"aud\":\"s\"}", CAS_E_INVALID},
                {"{\"iss\":\"i\",\"aud\":\"s\",\"exp\":\"1800000100\"}", CAS_E_INVALID},
                {"{\"iss\":\"i\",\"aud\":\"s\",\"exp\":-1}", CAS_E_INVALID},
                {"{\"iss\":\"i\",\"aud\":\"s\",\"exp\":1e300}", CAS_E_INVALID},
                {"{\"iss\":\"j\",\"aud\":\"s\",\"exp\":1800000100}", CAS_E_DENIED},
                {"{\"iss\":[\"i\"],\"aud\":\"s\",\"exp\":1800000100}", CAS_E_DENIED},
                {"{\"aud\":\"s\",\"exp\":1800000100}", CAS_E_DENIED},
                {"{\"iss\":\"i\",\"exp\":1800000100}", CAS_E_DENIED},
                {"{\"iss\":\"i\",\"aud\":\"t\",\"exp\":1800000100}", CAS_E_DENIED},
                {"{\"iss\":\"i\",\"aud\":[],\"exp\":1800000100}", CAS_E_DENIED},
                {"{\"iss\":\"i\",\"aud\":{\"s\":1},\"exp\":1800000100}", CAS_E_DENIED},
                {"{\"iss\":\"i\",\"aud\":\"s\",\"exp\":1800000100,\"nbf\":1800000061}",
                 CAS_E_DENIED},
                {"{\"iss\":\"i\",\"aud\":\"s\",\"exp\":1800000100,\"iat\":1800000061}",
                 CAS_E_DENIED},
        };
        const struct reg_jwt_wanted wanted = {.issuer = "i", .audience = "s", .now_s = NOW};
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct reg_jwt jwt = {.claims = json_loads(cases[i].claims, 0, NULL)};
                int64_t until_s;
                assert_non_null(jwt.claims);
                assert_int_equal(reg_jwt_check(&jwt, &wanted, &until_s, &err), -cases[i].code);
                reg_jwt_release(&jwt);
        }
}

static void base64_has_one_text_for_each(void **state CAS_UNUSED)
{
        uint8_t bytes[64];
        for (size_t i = 0; i < sizeof(bytes); i++)
                bytes[i] = (uint8_t)(i * 37 + 200);
        for (size_t len = 0; len <= sizeof(bytes); len++) {
                for (enum reg_base64 kind = REG_BASE64; kind <= REG_BASE64_URL; kind++) {
                        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT, back = CAS_BUF_INIT;
                        reg_base64_append(kind, bytes, len, &text);
                        assert_true(
                                reg_base64_decode(kind, cas_buf_str(&text), text.len_bytes, &back));
                        assert_int_equal(back.len_bytes, len);
                        if (len > 0)
                                assert_memory_equal(back.data, bytes, len);
                }
        }
        static const struct {
                enum reg_base64 kind;
                const char *text;
        } wrong[] = {
                {REG_BASE64, "YQ"},     {REG_BASE64, "YQ="},      {REG_BASE64, "Y==="},
                {REG_BASE64, "===="},   {REG_BASE64, "YR=="},     {REG_BASE64, "YWI_"},
                {REG_BASE64, "YWJj\n"}, {REG_BASE64, "YQ==YQ=="}, {REG_BASE64_URL, "YQ=="},
                {REG_BASE64_URL, "Y"},  {REG_BASE64_URL, "YR"},   {REG_BASE64_URL, "YW+j"},
        };
        for (size_t i = 0; i < CAS_COUNT(wrong); i++) {
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                assert_false(reg_base64_decode(wrong[i].kind, wrong[i].text, strlen(wrong[i].text),
                                               &out));
                assert_int_equal(out.len_bytes, 0);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(each_kind_of_key_signs),
                cmocka_unit_test(weak_and_other_keys_are_refused),
                cmocka_unit_test(published_examples_verify),
                cmocka_unit_test(a_key_signs_by_its_algorithm_alone),
                cmocka_unit_test(texts_that_are_no_tokens),
                cmocka_unit_test(claims_are_checked),
                cmocka_unit_test(base64_has_one_text_for_each),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
