/* SPDX-License-Identifier: Apache-2.0 */
/* Property: a record of a mount that parses is written and parsed again to the same text. */
#include "fusefs/records_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static struct ffs_record first, second;
        struct cas_err err = CAS_ERR_INIT;
        if (ffs_record_parse((const char *)data, size, &first, &err) < 0)
                return 0;
        cas_cleanup_free char *text = ffs_record_format(&first);
        cas_assert(ffs_record_parse(text, strlen(text), &second, &err) == 0);
        cas_cleanup_free char *again = ffs_record_format(&second);
        cas_assert(strcmp(text, again) == 0);
        return 0;
}
