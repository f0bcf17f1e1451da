/* SPDX-License-Identifier: Apache-2.0 */
/* STORE/heat: any bytes are read or refused, with a right checksum, too; what is read is bounded,
 * and written so that it reads the same. */
#include <xxhash.h>

#include "tiering/heat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const void *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        struct tier_heat *h = tier_heat_new(), *again = tier_heat_new();
        if (tier_heat_decode(h, data, size, &err) == 0) {
                cas_assert(tier_heat_count(h) <= TIER_HEAT_PACKS_MAX);
                tier_heat_touch(h, 1, 1700000000);
                tier_heat_encode(h, &out);
                int rc = tier_heat_decode(again, out.data, out.len_bytes, &err);
                cas_assert(rc == 0);
                cas_assert(tier_heat_count(h) == tier_heat_count(again));
                cas_assert(tier_heat_get(again, 1, 1700000000).heat >= TIER_HEAT_READ ||
                           tier_heat_get(again, 1, 1700000000).heat > 0);
        }
        tier_heat_free(h);
        tier_heat_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        check(data, size);
        cas_cleanup_buf struct cas_buf sealed = CAS_BUF_INIT;
        cas_buf_append(&sealed, data, size);
        cas_buf_append_le64(&sealed, XXH3_64bits(sealed.data ? sealed.data : data, size));
        check(sealed.data, sealed.len_bytes);
        return 0;
}
