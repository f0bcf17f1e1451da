/* SPDX-License-Identifier: Apache-2.0 */
/* Heat of packs: it grows with reads, halves every day, is bounded, and outlives its process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>

#include "tests/support/scratch.h"
#include "tiering/heat.h"

#define T0 UINT64_C(1700000000)

static void half_is_forgotten_every_day(void **state CAS_UNUSED)
{
        assert_int_equal(tier_heat_decayed(1000000, 0), 1000000);
        assert_int_equal(tier_heat_decayed(1000000, TIER_HEAT_HALF_S), 500000);
        assert_int_equal(tier_heat_decayed(1000000, TIER_HEAT_HALF_S / 2), 750000);
        assert_int_equal(tier_heat_decayed(1000000, 3 * TIER_HEAT_HALF_S), 125000);
        assert_int_equal(tier_heat_decayed(1000000, UINT64_MAX), 0);
        uint64_t before = UINT64_MAX;
        for (uint64_t s = 0; s < 4 * TIER_HEAT_HALF_S; s += 997) {
                uint64_t now = tier_heat_decayed(UINT64_C(1) << 40, s);
                assert_true(now <= before);
                before = now;
        }
}

static void reads_add_up(void **state CAS_UNUSED)
{
        struct tier_heat *h = tier_heat_new();
        for (int i = 0; i < 4; i++)
                tier_heat_touch(h, 7, T0);
        assert_int_equal(tier_heat_get(h, 7, T0).heat, 4 * TIER_HEAT_READ);
        assert_int_equal(tier_heat_get(h, 7, T0).read_unix_s, T0);
        assert_int_equal(tier_heat_get(h, 7, T0 + TIER_HEAT_HALF_S).heat, 2 * TIER_HEAT_READ);
        tier_heat_touch(h, 7, T0 + TIER_HEAT_HALF_S);
        assert_int_equal(tier_heat_get(h, 7, T0 + TIER_HEAT_HALF_S).heat, 3 * TIER_HEAT_READ);
        /* A clock that went back does no harm. */
        tier_heat_touch(h, 7, T0);
        assert_int_equal(tier_heat_get(h, 7, T0).read_unix_s, T0 + TIER_HEAT_HALF_S);
        assert_int_equal(tier_heat_get(h, 8, T0).heat, 0);
        tier_heat_forget(h, 7);
        tier_heat_forget(h, 7);
        assert_int_equal(tier_heat_get(h, 7, T0).heat, 0);
        assert_int_equal(tier_heat_count(h), 0);
        tier_heat_free(h);
}

static void the_table_is_bounded_and_keeps_what_is_warm(void **state CAS_UNUSED)
{
        struct tier_heat *h = tier_heat_new();
        for (uint64_t id = 0; id < 1000; id++) {
                for (int i = 0; i < 100; i++)
                        tier_heat_touch(h, id, T0);
        }
        for (uint64_t id = 1000; id < 3 * TIER_HEAT_PACKS_MAX; id++)
                tier_heat_touch(h, id, T0);
        assert_int_equal(tier_heat_count(h), TIER_HEAT_PACKS_MAX);
        unsigned warm = 0;
        for (uint64_t id = 0; id < 1000; id++)
                warm += tier_heat_get(h, id, T0).heat > 0;
        assert_true(warm > 990);
        tier_heat_free(h);
}

static void it_is_kept_in_a_file(void **state CAS_UNUSED)
{
        char *dir = scratch_new();
        int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct cas_err err = CAS_ERR_INIT;
        struct tier_heat *h = tier_heat_new(), *again = tier_heat_new();
        assert_int_equal(tier_heat_load(h, fd, &err), 0);
        assert_int_equal(tier_heat_save(h, fd, &err), 0);
        assert_int_equal(faccessat(fd, "heat", F_OK, 0), -1); /* nothing has changed */
        for (uint64_t id = 0; id < 500; id++)
                tier_heat_touch(h, id, T0 + id);
        assert_int_equal(tier_heat_save(h, fd, &err), 0);
        assert_int_equal(tier_heat_load(again, fd, &err), 0);
        assert_int_equal(tier_heat_count(again), 500);
        for (uint64_t id = 0; id < 500; id++) {
                assert_int_equal(tier_heat_get(again, id, T0).heat, TIER_HEAT_READ);
                assert_int_equal(tier_heat_get(again, id, T0).read_unix_s, T0 + id);
        }
        tier_heat_free(h);
        tier_heat_free(again);
        (void)close(fd);
        scratch_free(dir);
}

static void damage_is_told(void **state CAS_UNUSED)
{
        struct tier_heat *h = tier_heat_new(), *again = tier_heat_new();
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_err err = CAS_ERR_INIT;
        for (uint64_t id = 0; id < 3; id++)
                tier_heat_touch(h, id, T0);
        tier_heat_encode(h, &bytes);
        for (size_t len = 0; len < bytes.len_bytes; len++)
                assert_true(tier_heat_decode(again, bytes.data, len, &err) < 0);
        for (size_t at = 0; at < bytes.len_bytes; at++) {
                bytes.data[at] ^= 0x40;
                assert_true(tier_heat_decode(again, bytes.data, bytes.len_bytes, &err) < 0);
                bytes.data[at] ^= 0x40;
        }
        assert_int_equal(tier_heat_count(again), 0);
        assert_int_equal(tier_heat_decode(again, bytes.data, bytes.len_bytes, &err), 0);
        assert_int_equal(tier_heat_count(again), 3);
        tier_heat_free(h);
        tier_heat_free(again);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(half_is_forgotten_every_day),
                cmocka_unit_test(reads_add_up),
                cmocka_unit_test(the_table_is_bounded_and_keeps_what_is_warm),
                cmocka_unit_test(it_is_kept_in_a_file),
                cmocka_unit_test(damage_is_told),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
