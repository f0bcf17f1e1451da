/* SPDX-License-Identifier: Apache-2.0 */
/* Reading one block out of a pack, without a store. */
#include <errno.h>
#include <fcntl.h>
#include <xxhash.h>

#include "cas/codec.h"
#include "cas/limits.h"
#include "cas/object.h"
#include "cas/slowio.h"

/* What a descriptor with O_DIRECT wants of offsets, lengths and memory; no device in use asks
 * for more. */
#define DIRECT_ALIGN_BYTES 4096

static uint32_t stored_bytes_max(const struct cas_extent *e)
{
        return e->codec == CAS_CODEC_ZSTD_KEPT ? CAS_KEPT_STORED_BYTES_MAX(e->block_raw_bytes)
                                               : e->block_raw_bytes;
}

static int check_extent(const struct cas_extent *e, struct cas_err *err)
{
        if (e->block_raw_bytes == 0 || e->block_raw_bytes > CAS_BLOCK_BYTES_MAX ||
            e->block_stored_bytes == 0 || e->block_stored_bytes > stored_bytes_max(e))
                return cas_fail(err, CAS_E_LIMIT, "block of %u bytes kept as %u",
                                e->block_raw_bytes, e->block_stored_bytes);
        if (e->chunk_offset > e->block_raw_bytes ||
            e->length_bytes > e->block_raw_bytes - e->chunk_offset)
                return cas_fail(err, CAS_E_CORRUPT, "%u bytes at %u of a block of %u",
                                e->length_bytes, e->chunk_offset, e->block_raw_bytes);
        return 0;
}

/* The frame in memory: in scratch. */
static int read_frame(int fd, const struct cas_extent *e, struct cas_buf *scratch,
                      const uint8_t **frame, struct cas_err *err)
{
        const uint64_t mask = DIRECT_ALIGN_BYTES - 1;
        int flags = fcntl(fd, F_GETFL);
        if (flags < 0)
                return cas_fail_sys(err, errno, "pack descriptor");
        bool direct = (flags & O_DIRECT) != 0;
        uint64_t start = direct ? e->block_offset & ~mask : e->block_offset;
        size_t skip = e->block_offset - start;
        size_t want = skip + e->block_stored_bytes;
        size_t len = direct ? cas_align_up(want, DIRECT_ALIGN_BYTES) : want;
        size_t got = 0;
        cas_buf_clear(scratch);
        int rc = cas_buf_try_reserve(scratch, len + DIRECT_ALIGN_BYTES,
                                     CAS_BLOCK_BYTES_MAX + 4 * DIRECT_ALIGN_BYTES, err);
        if (rc < 0)
                return rc;
        uint8_t *at = scratch->data;
        at += cas_align_up((uintptr_t)at, DIRECT_ALIGN_BYTES) - (uintptr_t)at;
        rc = cas_io_pread_blocks(cas_io_device(), fd, at, len, direct ? DIRECT_ALIGN_BYTES : 1,
                                 start, &got, "pack", err);
        if (rc < 0)
                return rc;
        if (got < want)
                return cas_fail(err, CAS_E_CORRUPT, "the pack ends at %llu",
                                (unsigned long long)(start + got));
        *frame = at + skip;
        return 0;
}

int cas_block_read(int pack_fd, const struct cas_extent *extent, void *out, struct cas_buf *scratch,
                   struct cas_err *err)
{
        const uint8_t *frame = NULL;
        int rc = check_extent(extent, err);
        if (rc == 0)
                rc = read_frame(pack_fd, extent, scratch, &frame, err);
        if (rc == 0)
                rc = cas_codec_decode(extent->codec, frame, extent->block_stored_bytes, out,
                                      extent->block_raw_bytes, err);
        if (rc == 0 && XXH3_64bits(out, extent->block_raw_bytes) != extent->block_checksum)
                rc = cas_fail(err, CAS_E_CORRUPT, "checksum of the decoded block differs");
        return rc < 0 ? cas_err_wrap(err, "pack %016llx, block at %llu",
                                     (unsigned long long)extent->pack_id,
                                     (unsigned long long)extent->block_offset)
                      : 0;
}
