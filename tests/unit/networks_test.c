/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "registry/networks.h"

#define ok(call) assert_int_equal(call, 0)

static void addresses_are_in_the_networks_that_hold_them(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_networks n = {0};
        assert_false(reg_networks_have_text(&n, "127.0.0.1"));
        ok(reg_networks_add(&n, "10.0.0.0/8, 192.0.2.7\t::1", &err));
        ok(reg_networks_add(&n, "2001:db8::/33 172.16.0.0/12", &err));
        assert_int_equal(n.count, 5);
        static const char *const in[] = {
                "10.0.0.0",   "10.255.255.255",         "192.0.2.7",      "::1", "2001:db8::5",
                "172.31.0.1", "2001:db8:7fff:ffff::ff", "::ffff:10.1.2.3"};
        static const char *const out[] = {
                "11.0.0.0", "192.0.2.8", "::2", "2001:db8:8000::", "172.32.0.1", "unix", "", "x"};
        for (size_t i = 0; i < CAS_COUNT(in); i++)
                assert_true(reg_networks_have_text(&n, in[i]));
        for (size_t i = 0; i < CAS_COUNT(out); i++)
                assert_false(reg_networks_have_text(&n, out[i]));
        reg_networks_release(&n);
}

static void everything_is_in_the_whole_network(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_networks n = {0};
        ok(reg_networks_add(&n, "0.0.0.0/0", &err));
        assert_true(reg_networks_have_text(&n, "255.1.2.3"));
        assert_false(reg_networks_have_text(&n, "::1"));
        ok(reg_networks_add(&n, "::/0", &err));
        assert_true(reg_networks_have_text(&n, "::1"));
        reg_networks_release(&n);
}

static void nonsense_is_refused_whole(void **state CAS_UNUSED)
{
        static const char *const bad[] = {
                "",
                " ",
                "10.0.0.0/33",
                "::1/129",
                "10.0.0/8",
                "a.b.c",
                "10.0.0.0/",
                "10.0.0.0/-1",
                "10.0.0.0/8/8",
                "1.2.3.4, x",
                "111111111111111111111111111111111111111111111111111111111"};
        struct reg_networks n = {0};
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct cas_err err = CAS_ERR_INIT;
                assert_int_equal(reg_networks_add(&n, bad[i], &err), -CAS_E_INVALID);
                assert_int_equal(n.count, 0);
        }
        reg_networks_release(&n);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(addresses_are_in_the_networks_that_hold_them),
                cmocka_unit_test(everything_is_in_the_whole_network),
                cmocka_unit_test(nonsense_is_refused_whole),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
