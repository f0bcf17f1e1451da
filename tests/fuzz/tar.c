/* SPDX-License-Identifier: Apache-2.0 */
/* The steps in which a tar arrives change nothing of what is read from it. */
#include "cas/tar.h"
#include "tests/support/memsource.h"
#include "tests/support/tarfix.h"

#define CONTENT_BYTES_MAX (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A digest of all entries and their content, up to the end or the first error. */
static int read_all(const uint8_t *data, size_t size, size_t step, struct cas_digest *digest)
{
        struct cas_err err = CAS_ERR_INIT;
        struct memsource s = {.data = data, .len = size, .step = step};
        cas_cleanup_hasher struct cas_hasher *h = cas_hasher_new(CAS_DIGEST_SHA256);
        cas_cleanup_tar struct cas_tar *t = NULL;
        struct cas_entry *e = NULL;
        int ret = cas_tar_open(memsource_lend, &s, &t, &err);
        while (ret == 0 && (ret = cas_tar_next(t, &e, &err)) == 0 && e) {
                cas_hasher_update(h, e->path, strlen(e->path) + 1);
                if (e->target)
                        cas_hasher_update(h, e->target, strlen(e->target) + 1);
                for (size_t i = 0; i < e->xattr_count; i++)
                        cas_hasher_update(h, e->xattrs[i].value, e->xattrs[i].value_bytes);
                uint64_t total = 0;
                size_t len = 1;
                while (len > 0 && total < CONTENT_BYTES_MAX) {
                        const uint8_t *piece;
                        if ((ret = cas_tar_data(t, &piece, &len, &err)) < 0)
                                break;
                        size_t want = (size_t)cas_min_u64(len, CONTENT_BYTES_MAX - total);
                        if (want > 0)
                                cas_hasher_update(h, piece, want);
                        total += len;
                }
                cas_assert(ret < 0 || len > 0 || total == e->size_bytes);
        }
        cas_hasher_final(h, digest);
        return ret;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_digest whole, stepped;
        cas_cleanup_free uint8_t *tar = cas_xmalloc(size);
        memcpy(tar, data, size);
        tarfix(tar, size);
        int ret = read_all(tar, size, SIZE_MAX, &whole);
        cas_assert(read_all(tar, size, 100, &stepped) == ret);
        cas_assert(ret < 0 || cas_digest_equal(&whole, &stepped));
        return 0;
}
