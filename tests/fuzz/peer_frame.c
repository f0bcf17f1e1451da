/* SPDX-License-Identifier: Apache-2.0 */
/* Property: any bytes are a frame of another lamina or an error; no more is decoded than was
 * expected, and pages of chunks stay within their object. */
#include "cas/limits.h"
#include "registry/peer_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAW_MAX 300000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        reg_cleanup_peer_frame struct reg_peer_frame f = {0};
        int r = reg_peer_frame_decode(data, size, RAW_MAX, &f, &err);
        cas_assert(r == -(int)err.code);
        if (r < 0)
                return 0;
        cas_assert(f.raw.len_bytes <= RAW_MAX);
        cas_assert(f.object_bytes <= CAS_OBJECT_BYTES_MAX);
        reg_cleanup_peer_page struct reg_peer_page page = {0};
        if (reg_peer_page_decode(&f, &page, &err) < 0)
                return 0;
        cas_assert(page.count > 0);
        uint64_t end = page.offset;
        for (size_t i = 0; i < page.count; i++)
                end += page.chunks[i].length_bytes;
        cas_assert(end <= f.object_bytes);
        cas_cleanup_buf struct cas_buf again = CAS_BUF_INIT;
        reg_peer_page_encode(&page, &again);
        cas_assert(again.len_bytes == f.raw.len_bytes);
        cas_assert(memcmp(again.data, f.raw.data, again.len_bytes) == 0);
        return 0;
}
