/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever a decoding process says, the sink gets no more than a decoder may give it (asserted by
 * the sink), in whatever pieces it comes. The first byte is their length. */
#include "cas/decodeframe.h"
#include "tests/support/memsink.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        struct memsink m;
        struct cas_decode_sink sink;
        cas_cleanup_decode_result struct cas_decode_result result = {0};
        if (size == 0)
                return 0;
        memsink_init(&m, &sink);
        cas_cleanup_decodeframe_reader struct cas_decodeframe_reader *r =
                cas_decodeframe_reader_new(&sink, &result);
        size_t step = data[0] ? data[0] : SIZE_MAX;
        int rc = 0;
        for (size_t at = 1; rc == 0 && at < size && !cas_decodeframe_reader_ended(r);) {
                uint8_t *to;
                size_t n;
                cas_decodeframe_reader_room(r, &to, &n);
                cas_assert(n > 0);
                n = cas_min_u64(cas_min_u64(n, step), size - at);
                memcpy(to, data + at, n);
                at += n;
                rc = cas_decodeframe_reader_took(r, n, &err);
        }
        cas_assert(rc == 0 || rc == -(int)err.code);
        cas_assert(m.content_bytes <= m.tar_bytes);
        if (rc == 0 && cas_decodeframe_reader_ended(r))
                cas_assert(m.file_left == 0 && result.listing.len_bytes > 0);
        memsink_release(&m);
        return 0;
}
