/* SPDX-License-Identifier: Apache-2.0 */
/* A listing that decodes encodes to the same bytes. */
#include "cas/layer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_listing struct cas_listing l = {0};
        cas_cleanup_buf struct cas_buf again = CAS_BUF_INIT;
        if (cas_listing_decode(data, size, &l, &err) < 0)
                return 0;
        cas_assert(cas_listing_encode(&l, &again, &err) == 0);
        cas_assert(again.len_bytes == size);
        cas_assert(memcmp(again.data, data, size) == 0);
        return 0;
}
