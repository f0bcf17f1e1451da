/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/digest.h"
#include "cas/verity.h"

static void parses_what_it_prints(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        static const enum cas_digest_alg algs[] = {CAS_DIGEST_SHA256, CAS_DIGEST_SHA512};
        for (size_t i = 0; i < CAS_COUNT(algs); i++) {
                struct cas_digest d, again;
                char text[CAS_DIGEST_TEXT_BYTES];
                cas_digest_of(algs[i], "lamina", 6, &d);
                assert_int_equal(cas_digest_parse(cas_digest_text(&d, text), &again, &err), 0);
                assert_true(cas_digest_equal(&d, &again));
        }
}

static void refuses_what_is_no_digest(void **state CAS_UNUSED)
{
        static const struct {
                const char *text;
                enum cas_code code;
        } cases[] = {
                {"", CAS_E_INVALID},
                {"sha256:", CAS_E_INVALID},
                {"sha256:abc", CAS_E_INVALID},
                {"sha256:baddigeststring", CAS_E_INVALID},
                {"sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
                 CAS_E_INVALID},
                {"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b8550",
                 CAS_E_INVALID},
                {"md5:d41d8cd98f00b204e9800998ecf8427e", CAS_E_UNSUPPORTED},
                {"blake3:abc", CAS_E_UNSUPPORTED},
                {"-:abc", CAS_E_INVALID},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_digest d;
                assert_int_equal(cas_digest_parse(cases[i].text, &d, &err), -(int)cases[i].code);
        }
}

/* Digests that the kernel's tool gives (fsverity digest, sha256, 4096). */
static void verity_matches_the_kernel(void **state CAS_UNUSED)
{
        static const struct {
                size_t size;
                const char *hex;
        } cases[] = {
                {0, "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"},
#include "tests/unit/verity_vectors.inc"
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                cas_cleanup_free uint8_t *data = cas_xmalloc(cases[i].size);
                for (size_t k = 0; k < cases[i].size; k++)
                        data[k] = (uint8_t)(k * 7 + (k >> 8));
                struct cas_hash whole, pieces;
                char hex[CAS_HASH_HEX_BYTES];
                cas_verity_of(data, cases[i].size, &whole);
                assert_string_equal(cas_hash_hex(&whole, hex), cases[i].hex);
                cas_cleanup_verity struct cas_verity *v = cas_verity_new();
                for (size_t at = 0, step = 1; at < cases[i].size; at += step, step = step * 3 + 1) {
                        if (step > cases[i].size - at)
                                step = cases[i].size - at;
                        cas_verity_update(v, data + at, step);
                }
                cas_verity_final(v, &pieces);
                assert_true(cas_hash_equal(&whole, &pieces));
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(parses_what_it_prints),
                cmocka_unit_test(refuses_what_is_no_digest),
                cmocka_unit_test(verity_matches_the_kernel),
        };
        return cmocka_run_group_tests_name("digest", tests, NULL, NULL);
}
