/* SPDX-License-Identifier: Apache-2.0 */
/* Any legal deflate stream comes out of its differences bit by bit, whatever the parameters and
 * wherever it is cut; and any corrections either fail or make no more than items may.
 * The first byte says what the rest is; parameters follow. */
#include "tests/support/diffround.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PLAIN 70000

static void decode(const struct cas_difference_params *params, const uint8_t *data, size_t size)
{
        static uint8_t bytes[PLAIN + CAS_PREDICT_SLACK_BYTES];
        struct cas_difference_plain plain = {.data = bytes, .window_bytes = 1000};
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_difference struct cas_difference *d = cas_difference_new();
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        bool more = true;
        int rc = 0;
        if (size < 4)
                return;
        plain.plain_bytes = cas_get_le16(data + 1);
        for (size_t i = 0; i < PLAIN; i++)
                bytes[i] = (uint8_t)(i * i >> data[3] % 20);
        cas_difference_decode_begin(d, params, &plain, data + 4, size - 4, data[0], data[0] % 8);
        for (unsigned items = 0; rc == 0 && more && items < 100000; items++) {
                cas_buf_clear(&out);
                rc = cas_difference_decode(d, &out, &more, &err);
                cas_assert(rc == -(int)err.code);
                cas_assert(out.len_bytes <= CAS_DIFFERENCE_ITEM_BYTES_MAX);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_difference_params params;
        if (size < 1 + CAS_DIFFERENCE_PARAMS_BYTES || !cas_difference_params_get(data + 1, &params))
                return 0;
        uint8_t what = data[0];
        data += 1 + CAS_DIFFERENCE_PARAMS_BYTES;
        size -= 1 + CAS_DIFFERENCE_PARAMS_BYTES;
        if (what & 1) {
                decode(&params, data, size);
                return 0;
        }
        struct diffround r = {.params = params};
        (void)diffround_run(&r, data, size, what >> 1);
        diffround_release(&r);
        return 0;
}
