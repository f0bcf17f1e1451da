/* SPDX-License-Identifier: Apache-2.0 */
/* The text of a cell: what can be read is written and read again as the same. */
#include "tiering/cell.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        tier_cleanup_cell struct tier_cell cell = TIER_CELL_INIT, again = TIER_CELL_INIT;
        cas_cleanup_buf struct cas_buf first = CAS_BUF_INIT, second = CAS_BUF_INIT;
        struct cas_err err = CAS_ERR_INIT;
        if (tier_cell_decode(data, size, &cell, &err) < 0)
                return 0;
        int rc = tier_cell_encode(&cell, &first, &err);
        cas_assert(rc == 0);
        rc = tier_cell_decode(first.data, first.len_bytes, &again, &err);
        cas_assert(rc == 0);
        rc = tier_cell_encode(&again, &second, &err);
        cas_assert(rc == 0);
        cas_assert(first.len_bytes == second.len_bytes);
        cas_assert(memcmp(first.data, second.data, first.len_bytes) == 0);
        return 0;
}
