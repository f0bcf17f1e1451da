/* SPDX-License-Identifier: Apache-2.0 */
/* STORE/tiers: any text is read or refused, and what is read is written so that it reads the same.
 */
#include "tiering/tier.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct tier_list l, again;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT, twice = CAS_BUF_INIT;
        if (tier_list_parse((const char *)data, size, &l, &err) < 0)
                return 0;
        cas_assert(l.count >= 1 && l.count <= TIERS_MAX);
        cas_assert(l.tiers[0].id == CAS_TIER_OWN);
        cas_assert(l.next_id > l.tiers[l.count - 1].id);
        tier_list_format(&l, &text);
        int rc = tier_list_parse(cas_buf_str(&text), text.len_bytes, &again, &err);
        cas_assert(rc == 0);
        tier_list_format(&again, &twice);
        cas_assert(text.len_bytes == twice.len_bytes);
        cas_assert(memcmp(text.data, twice.data, text.len_bytes) == 0);
        tier_list_release(&l);
        tier_list_release(&again);
        return 0;
}
