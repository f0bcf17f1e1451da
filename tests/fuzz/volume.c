/* SPDX-License-Identifier: Apache-2.0 */
/* Property: the description of a volume that parses is written and parsed again to the same text.
 */
#include "fusefs/volume_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static struct ffs_volume_spec first, second;
        struct cas_err err = CAS_ERR_INIT;
        if (ffs_volume_parse((const char *)data, size, &first, &err) < 0)
                return 0;
        cas_cleanup_free char *text = ffs_volume_format(&first);
        if (strlen(text) > FFS_VOLUME_TEXT_BYTES_MAX)
                return 0; /* escaped, it is longer than it came */
        cas_assert(ffs_volume_parse(text, strlen(text), &second, &err) == 0);
        cas_cleanup_free char *again = ffs_volume_format(&second);
        cas_assert(strcmp(text, again) == 0);
        return 0;
}
