/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "registry/address.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)
#define NOW UINT64_C(1800000123)

static void address_of(struct reg_address_keys *k, const char *content, struct cas_digest *digest,
                       uint64_t now_s, char *out)
{
        cas_digest_of(CAS_DIGEST_SHA256, content, strlen(content), digest);
        reg_address_make(k, digest, now_s, 60, out);
}

/* 0, or the error of the check; NOTFOUND when it is no such path. */
static int check(struct reg_address_keys *k, const char *address, uint64_t now_s)
{
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_uri struct reg_uri uri;
        struct cas_digest digest;
        ok(reg_uri_parse(address, &uri, &err));
        int rc = reg_address_parse(&uri, &digest, &err);
        return rc < 0 ? rc : reg_address_check(k, &uri, &digest, now_s, &err);
}

static void an_address_is_good_for_its_digest_and_time(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct reg_address_keys *k = NULL;
        struct cas_digest digest, other;
        char a[REG_ADDRESS_BYTES_MAX], b[REG_ADDRESS_BYTES_MAX];
        ok(reg_address_keys_open(t->store, NULL, &k, &err));
        address_of(k, "x", &digest, NOW, a);
        ok(check(k, a, NOW));
        ok(check(k, a, NOW + 60));
        assert_int_equal(check(k, a, NOW + 121), -CAS_E_DENIED);
        /* made in the same minute, it is the same */
        address_of(k, "x", &digest, NOW - NOW % 60 + 59, b);
        assert_string_equal(a, b);
        address_of(k, "x", &digest, NOW + 60, b);
        assert_string_not_equal(a, b);
        /* the signature of another digest, a changed one, a later expiry, none */
        address_of(k, "y", &other, NOW, b);
        memcpy(strchr(b, '?'), strchr(a, '?'), strlen(strchr(a, '?')));
        assert_int_equal(check(k, b, NOW), -CAS_E_DENIED);
        memcpy(b, a, sizeof(a));
        b[strlen(b) - 1] ^= 1;
        assert_int_equal(check(k, b, NOW), -CAS_E_DENIED);
        memcpy(b, a, sizeof(a));
        strchr(b, '=')[1]++;
        assert_int_equal(check(k, b, NOW), -CAS_E_DENIED);
        memcpy(b, a, sizeof(a));
        *strchr(b, '?') = '\0';
        assert_int_equal(check(k, b, NOW), -CAS_E_DENIED);
        reg_address_keys_free(k);
}

static void other_paths_are_no_addresses(void **state CAS_UNUSED)
{
        static const char hex[] =
                "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        static const char *const forms[] = {"/cas/sha256/2d/%s/", "/cas/sha256/2e/%s",
                                            "/cas/sha256/2d7/%s", "/cas/md5/2d/%s",
                                            "/cas/sha256/%s",     "/cas/sha512/2d/%s",
                                            "/cas/sha256/2d/%s0", "/v2/sha256/2d/%s"};
        char path[256];
        for (size_t i = 0; i < CAS_COUNT(forms); i++) {
                const char *at = strstr(forms[i], "%s");
                (void)snprintf(path, sizeof(path), "%.*s%s%s", (int)(at - forms[i]), forms[i], hex,
                               at + 2);
                assert_int_equal(check(NULL, path, NOW), -CAS_E_NOTFOUND);
        }
}

static void write_file(const char *path, const char *text)
{
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        assert_true(fputs(text, f) >= 0);
        ok(fclose(f));
}

static void keys_are_kept_and_changed(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct reg_address_keys *k = NULL;
        struct cas_digest digest;
        char a[REG_ADDRESS_BYTES_MAX], old[80], line[200];
        struct stat st;
        ok(reg_address_keys_open(t->store, NULL, &k, &err));
        ok(fstatat(cas_store_dirfd(t->store), "registry/address-keys", &st, 0));
        assert_int_equal(st.st_mode & 0777, 0600);
        address_of(k, "x", &digest, NOW, a);
        reg_address_keys_free(k);
        ok(reg_address_keys_open(t->store, NULL, &k, &err)); /* the same ones */
        ok(check(k, a, NOW));
        reg_address_keys_free(k);

        cas_cleanup_free char *own =
                cas_xasprintf("%s/registry/address-keys", cas_store_path(t->store));
        cas_cleanup_free char *path = cas_xasprintf("%s/keys", cas_store_path(t->store));
        FILE *f = fopen(own, "r");
        assert_non_null(fgets(old, sizeof(old), f));
        ok(fclose(f));
        assert_int_equal(reg_address_keys_open(t->store, path, &k, &err), -CAS_E_NOTFOUND);
        (void)snprintf(line, sizeof(line), "# new, then old\n%064d\n%s", 7, old);
        write_file(path, line);
        ok(reg_address_keys_open(t->store, path, &k, &err));
        ok(check(k, a, NOW)); /* the second key is taken, too */
        address_of(k, "x", &digest, NOW, a);
        (void)snprintf(line, sizeof(line), "%064d\n", 7);
        write_file(path, line);
        ok(reg_address_keys_reload(k, &err));
        ok(check(k, a, NOW)); /* the first had signed */
        write_file(path, "no key\n");
        assert_int_equal(reg_address_keys_reload(k, &err), -CAS_E_INVALID);
        ok(check(k, a, NOW)); /* the former stay */
        (void)snprintf(line, sizeof(line), "%064d\n", 8);
        write_file(path, line);
        ok(reg_address_keys_reload(k, &err));
        assert_int_equal(check(k, a, NOW), -CAS_E_DENIED);
        reg_address_keys_free(k);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(an_address_is_good_for_its_digest_and_time,
                                                teststore_setup, teststore_teardown),
                cmocka_unit_test(other_paths_are_no_addresses),
                cmocka_unit_test_setup_teardown(keys_are_kept_and_changed, teststore_setup,
                                                teststore_teardown),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
