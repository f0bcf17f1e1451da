/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a journal: it opens or is refused, what it tells is within the
 * grammar, and writing it anew tells the same. Checksums are set right first,
 * so that what is behind them is reached. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "cas/journal_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STORE_ID "00000000000000000000000000000000"

/* The journal lies in memory: the one file there is. */
static int fuzz_openat(void *ctx, int dirfd CAS_UNUSED, const char *path CAS_UNUSED,
                       int flags CAS_UNUSED, mode_t mode CAS_UNUSED)
{
        return dup(*(int *)ctx);
}

static int fuzz_unlinkat(void *ctx CAS_UNUSED, int dirfd CAS_UNUSED, const char *path CAS_UNUSED,
                         int flags CAS_UNUSED)
{
        return 0;
}

static int fuzz_fstatat(void *ctx, int dirfd CAS_UNUSED, const char *path CAS_UNUSED,
                        struct stat *st, int flags CAS_UNUSED)
{
        return fstat(*(int *)ctx, st);
}

static int fuzz_fsync(void *ctx CAS_UNUSED, int fd CAS_UNUSED)
{
        return 0;
}

static void set_checksums(uint8_t *bytes, size_t size)
{
        if (size < 64)
                return;
        memset(bytes + 16, 0, 16);
        cas_put_le64(bytes + 56, XXH3_64bits(bytes, 56));
        for (size_t at = 64; size - at >= 32;) {
                size_t len = cas_get_le32(bytes + at + 4);
                if (len > size - at - 32)
                        return;
                cas_put_le64(bytes + at + 24, 0);
                cas_put_le64(bytes + at + 24, XXH3_64bits(bytes + at, 32 + len));
                at += 32 + len;
        }
}

static int take(void *arg, const struct cas_name_record *rec, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_name_record again;
        cas_assert(cas_repo_name_valid(rec->repo));
        cas_name_record_encode(rec, &bytes);
        struct cas_cursor c = cas_cursor_over(bytes.data, bytes.len_bytes);
        int rc = cas_name_record_decode(&c, &again, err);
        cas_assert(rc == 0 && cas_cursor_left(&c) == 0);
        cas_assert(memcmp(&again, rec, sizeof(again)) == 0);
        ++*(unsigned *)arg;
        return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_io_ops ops = *cas_io_posix()->ops;
        cas_cleanup_fd int fd = memfd_create("journal", MFD_CLOEXEC);
        const struct cas_io io = {.ops = &ops, .ctx = &fd};
        ops.openat = fuzz_openat;
        ops.unlinkat = fuzz_unlinkat;
        ops.fstatat = fuzz_fstatat;
        ops.fsync = fuzz_fsync;
        cas_cleanup_free uint8_t *bytes = cas_xmalloc(size + 1);
        memcpy(bytes, data, size);
        set_checksums(bytes, size);
        ssize_t n = pwrite(fd, bytes, size, 0);
        cas_assert(n == (ssize_t)size);
        struct cas_journal *j = NULL;
        if (cas_journal_open(&io, 0, STORE_ID, NULL, &j, &err) < 0)
                return 0;
        unsigned count = 0;
        int rc = cas_journal_replay(j, take, &count, NULL, &err);
        cas_assert(rc == 0 || err.code == CAS_E_CORRUPT);
        cas_journal_close(j);
        return 0;
}
