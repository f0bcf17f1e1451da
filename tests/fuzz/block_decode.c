/* SPDX-License-Identifier: Apache-2.0 */
/* Property: decoding a frame of any bytes writes exactly the wanted length or fails. The first
 * byte is the codec, the next three the length. */
#include "cas/codec.h"
#include "cas/limits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        if (size < 4)
                return 0;
        size_t raw_len = (cas_get_le32(data) >> 8) % (CAS_BLOCK_BYTES_MAX + 1);
        uint8_t *raw = cas_xmalloc(raw_len + 1);
        int rc = cas_codec_decode(data[0] & 7, data + 4, size - 4, raw, raw_len, &err);
        cas_assert(rc == -(int)err.code);
        free(raw);
        return 0;
}
