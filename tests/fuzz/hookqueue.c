/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as the records of a webhook's queue: it opens, gives events in order, takes another,
 * and after opening again has just what it had. Checksums are set right first. */
#include <sys/mman.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "registry/hookqueue.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The queue lies in memory: the one file there is. */
static int fuzz_openat(void *ctx, int dirfd CAS_UNUSED, const char *path CAS_UNUSED,
                       int flags CAS_UNUSED, mode_t mode CAS_UNUSED)
{
        return dup(*(int *)ctx);
}

static int fuzz_fstatat(void *ctx, int dirfd CAS_UNUSED, const char *path CAS_UNUSED,
                        struct stat *st, int flags CAS_UNUSED)
{
        return fstat(*(int *)ctx, st);
}

static int fuzz_sync(void *ctx CAS_UNUSED, int fd CAS_UNUSED)
{
        return 0;
}

static void put_header(int fd)
{
        uint8_t header[64] = "LAMHOOK\n";
        cas_put_le32(header + 8, 1);
        cas_put_le64(header + 56, XXH3_64bits(header, 56));
        ssize_t n = pwrite(fd, header, sizeof(header), 0);
        cas_assert(n == sizeof(header));
}

static void set_checksums(uint8_t *bytes, size_t size)
{
        for (size_t at = 0; size - at >= REG_HOOKRECORD_HEAD_BYTES;) {
                size_t len = cas_get_le32(bytes + at + 4);
                if (len > size - at - REG_HOOKRECORD_HEAD_BYTES)
                        return;
                cas_put_le64(bytes + at + 24,
                             XXH3_64bits_withSeed(bytes + at + REG_HOOKRECORD_HEAD_BYTES, len,
                                                  XXH3_64bits(bytes + at, 24)));
                at += REG_HOOKRECORD_HEAD_BYTES + len;
        }
}

struct seen {
        uint64_t events, bytes;
};

static void see(void *arg, const void *event, size_t len)
{
        struct seen *seen = arg;
        const uint8_t *p = event;
        seen->events++;
        for (size_t i = 0; i < len; i++)
                seen->bytes += p[i] + 1U;
}

static struct reg_hookqueue *open_queue(const struct cas_io *io, struct seen *seen, uint64_t *last)
{
        const struct reg_hookqueue_config config = {.io = io,
                                                    .dir = ".",
                                                    .name = "q",
                                                    .store_id = "00000000000000000000000000000000",
                                                    .max_bytes = UINT64_MAX};
        struct cas_err err = CAS_ERR_INIT;
        struct reg_hookqueue *q = NULL;
        uint64_t cut = 0, events = 0, bytes = 0;
        unsigned count;
        int rc = reg_hookqueue_open(&config, &q, &cut, &err);
        cas_assert(rc == 0);
        reg_hookqueue_pending(q, &events, &bytes);
        *seen = (struct seen){0};
        rc = reg_hookqueue_next(q, UINT32_MAX, SIZE_MAX, see, seen, last, &count, &err);
        cas_assert(rc == 0);
        cas_assert(count == events && seen->events == events);
        return q;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_io_ops ops = *cas_io_posix()->ops;
        cas_cleanup_fd int fd = memfd_create("queue", MFD_CLOEXEC);
        const struct cas_io io = {.ops = &ops, .ctx = &fd};
        ops.openat = fuzz_openat;
        ops.fstatat = fuzz_fstatat;
        ops.fdatasync = fuzz_sync;
        ops.fsync = fuzz_sync;
        cas_cleanup_free uint8_t *bytes = cas_xmalloc(size + 1);
        if (size > 0)
                memcpy(bytes, data, size);
        set_checksums(bytes, size);
        put_header(fd);
        ssize_t n = pwrite(fd, bytes, size, 64);
        cas_assert(n == (ssize_t)size);
        struct seen first, again;
        uint64_t last = 0;
        struct reg_hookqueue *q = open_queue(&io, &first, &last);
        int rc = reg_hookqueue_add(q, "x", 1, true, &err);
        cas_assert(rc == 0);
        reg_hookqueue_close(q);
        q = open_queue(&io, &again, &last);
        cas_assert(again.events == first.events + 1 && again.bytes == first.bytes + 'x' + 1);
        rc = reg_hookqueue_delivered(q, last, &err);
        cas_assert(rc == 0);
        reg_hookqueue_close(q);
        q = open_queue(&io, &again, &last);
        cas_assert(again.events == 0);
        reg_hookqueue_close(q);
        return 0;
}
