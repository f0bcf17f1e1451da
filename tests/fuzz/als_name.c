/* SPDX-License-Identifier: Apache-2.0 */
/* Names that are looked up in an additional layer store: never more text than there is room for,
 * and no NUL in it. */
#include "fusefs/als.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        char out[FFS_ALS_REF_BYTES_MAX + 1];
        cas_cleanup_free char *text = cas_xstrndup((const char *)data, size);
        memset(out, 0xff, sizeof(out));
        if (ffs_als_ref_decode(text, out)) {
                cas_assert(strnlen(out, sizeof(out)) <= FFS_ALS_REF_BYTES_MAX);
                cas_assert(strnlen(out, sizeof(out)) <= strlen(text) / 4 * 3);
        }
        return 0;
}
