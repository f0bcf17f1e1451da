/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "registry/reg_err.h"

static void errors_have_the_protocols_names(void **state CAS_UNUSED)
{
        static const struct {
                enum cas_code code;
                enum reg_about about;
                const char *text;
                unsigned status;
        } cases[] = {
                {CAS_E_NOTFOUND, REG_ABOUT_NAME, "NAME_UNKNOWN", 404},
                {CAS_E_NOTFOUND, REG_ABOUT_BLOB, "BLOB_UNKNOWN", 404},
                {CAS_E_NOTFOUND, REG_ABOUT_UPLOAD, "BLOB_UPLOAD_UNKNOWN", 404},
                {CAS_E_NOTFOUND, REG_ABOUT_MANIFEST, "MANIFEST_UNKNOWN", 404},
                {CAS_E_NOTFOUND, REG_ABOUT_MANIFEST_PUT, "MANIFEST_BLOB_UNKNOWN", 400},
                {CAS_E_INVALID, REG_ABOUT_NAME, "NAME_INVALID", 400},
                {CAS_E_INVALID, REG_ABOUT_UPLOAD, "DIGEST_INVALID", 400},
                {CAS_E_UNSUPPORTED, REG_ABOUT_BLOB, "DIGEST_INVALID", 400},
                {CAS_E_INVALID, REG_ABOUT_MANIFEST_PUT, "MANIFEST_INVALID", 400},
                {CAS_E_LIMIT, REG_ABOUT_MANIFEST_PUT, "MANIFEST_INVALID", 413},
                {CAS_E_LIMIT, REG_ABOUT_UPLOAD, "SIZE_INVALID", 413},
                {CAS_E_DENIED, REG_ABOUT_BLOB, "DENIED", 403},
                {CAS_E_BUSY, REG_ABOUT_UPLOAD, "TOOMANYREQUESTS", 429},
                {CAS_E_NOSPACE, REG_ABOUT_UPLOAD, "UNAVAILABLE", 503},
                {CAS_E_IO, REG_ABOUT_BLOB, "UNKNOWN", 500},
                {CAS_E_CORRUPT, REG_ABOUT_MANIFEST, "UNKNOWN", 500},
                {CAS_E_NOMEM, REG_ABOUT_BLOB, "UNKNOWN", 500},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                enum reg_code code = reg_code_of(cases[i].code, cases[i].about);
                assert_string_equal(reg_code_text(code), cases[i].text);
                assert_int_equal(reg_code_status(code), cases[i].status);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(errors_have_the_protocols_names),
        };
        return cmocka_run_group_tests_name("reg_err", tests, NULL, NULL);
}
