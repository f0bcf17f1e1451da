/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever a tar holds, its listing encodes, decodes and encodes to the same bytes. */
#include "cas/extract.h"
#include "cas/tar.h"
#include "tests/support/memsource.h"
#include "tests/support/tarfix.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool extract(struct cas_tar *t, struct cas_extract *x)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_entry *e, *file;
        for (;;) {
                if (cas_tar_next(t, &e, &err) < 0)
                        return false;
                if (!e)
                        return true;
                if (cas_extract_add(x, e, &file, &err) < 0)
                        return false;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free uint8_t *tar = cas_xmalloc(size);
        struct memsource s = {.data = tar, .len = size, .step = SIZE_MAX};
        cas_cleanup_tar struct cas_tar *t = NULL;
        cas_cleanup_extract struct cas_extract *x = cas_extract_new();
        cas_cleanup_listing struct cas_listing l = {0};
        cas_cleanup_listing struct cas_listing back = {0};
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf again = CAS_BUF_INIT;
        memcpy(tar, data, size);
        tarfix(tar, size);
        cas_assert(cas_tar_open(memsource_lend, &s, &t, &err) == 0);
        if (!extract(t, x))
                return 0;
        cas_extract_listing(x, &l);
        cas_assert(cas_listing_encode(&l, &bytes, &err) == 0);
        cas_assert(cas_listing_decode(bytes.data, bytes.len_bytes, &back, &err) == 0);
        cas_assert(cas_listing_encode(&back, &again, &err) == 0);
        cas_assert(again.len_bytes == bytes.len_bytes);
        cas_assert(memcmp(again.data, bytes.data, bytes.len_bytes) == 0);
        return 0;
}
