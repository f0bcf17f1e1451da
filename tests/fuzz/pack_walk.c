/* SPDX-License-Identifier: Apache-2.0 */
/* Property: whatever the bytes of a pack file are, walking it ends, and reads and allocates only
 * what the limits and the file's length allow. An input that starts with the magic is the file;
 * any other is its records, and header and checksums are made right, so that what lies behind
 * them is tried as well. */
#include <sys/mman.h>
#include <xxhash.h>

#include "cas/pack_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
        int fd;
        uint64_t end;
};

static int check_item(void *arg, const struct cas_pack_item *item, struct cas_err *err CAS_UNUSED)
{
        struct seen *seen = arg;
        cas_assert(item->record_offset == seen->end);
        seen->end += item->record_bytes;
        if (item->kind == CAS_PACK_BLOCK) {
                static uint8_t raw[CAS_BLOCK_BYTES_MAX];
                cas_cleanup_buf struct cas_buf scratch = CAS_BUF_INIT;
                struct cas_err ignored = CAS_ERR_INIT;
                uint64_t sum = 0;
                for (uint32_t i = 0; i < item->chunk_count; i++)
                        sum += item->chunks[i].length_bytes;
                cas_assert(sum == item->block.block_raw_bytes);
                int rc = cas_block_read(seen->fd, &item->block, raw, &scratch, &ignored);
                cas_assert(rc == 0 || ignored.code != CAS_OK);
        }
        return 0;
}

static void make_checksums_right(uint8_t *pack, size_t size)
{
        cas_pack_header_encode(1, pack);
        for (size_t at = CAS_PACK_HEADER_BYTES; size - at >= CAS_PACK_RECORD_BYTES;) {
                uint8_t *r = pack + at;
                uint64_t table = cas_get_le32(r + 8), frame = cas_get_le32(r + 16);
                if (table + frame > size - at - CAS_PACK_RECORD_BYTES)
                        return;
                cas_put_le32(r, CAS_PACK_RECORD_MAGIC);
                if (frame > 0)
                        cas_put_le64(r + 32, XXH3_64bits(r + CAS_PACK_RECORD_BYTES + table, frame));
                cas_put_le64(r + 48, cas_pack_record_checksum(r, (uint32_t)table, at));
                at += CAS_PACK_RECORD_BYTES + table + frame;
        }
}

static void walk_bytes(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        uint64_t end, pack_id = size >= 24 ? cas_get_le64(data + 16) : 0;
        bool sealed;
        cas_cleanup_fd int fd = memfd_create("pack", MFD_CLOEXEC);
        cas_assert(fd >= 0);
        cas_assert(write(fd, data, size) == (ssize_t)size);
        struct seen seen = {.fd = fd, .end = 32};
        int rc = cas_pack_walk(cas_io_posix(), fd, pack_id, check_item, &seen, &end, &sealed, &err);
        cas_assert(rc <= 0);
        if (rc == 0)
                cas_assert(end == seen.end);
        cas_assert(seen.end <= size || seen.end == 32);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        if (size >= 8 && memcmp(data, CAS_PACK_MAGIC, 8) == 0) {
                walk_bytes(data, size);
                return 0;
        }
        cas_cleanup_free uint8_t *pack = cas_xmalloc(CAS_PACK_HEADER_BYTES + size);
        if (size)
                memcpy(pack + CAS_PACK_HEADER_BYTES, data, size);
        make_checksums_right(pack, CAS_PACK_HEADER_BYTES + size);
        walk_bytes(pack, CAS_PACK_HEADER_BYTES + size);
        return 0;
}
