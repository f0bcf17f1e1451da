/* SPDX-License-Identifier: Apache-2.0 */
/* Property: what decodes of an answer of the resolve protocol is in bounds, so that `lamina fs` may
 * compute with it; requests decode to what encodes to them again, reserved bytes aside. */
#include "cas/limits.h"
#include "fusefs/resolve_msg_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_reply(const uint8_t *data, size_t size)
{
        static struct cas_extent extents[FFS_RESOLVE_EXTENTS_MAX];
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_resolve_reply r;
        if (ffs_resolve_reply_decode(data, size, &r, extents, &err) < 0)
                return;
        cas_assert(r.count <= FFS_RESOLVE_EXTENTS_MAX);
        cas_assert(r.count <= r.chunk_count);
        for (uint32_t i = 0; i < r.count; i++) {
                const struct cas_extent *e = &extents[i];
                cas_assert((uint64_t)e->chunk_offset + e->length_bytes <= e->block_raw_bytes);
                cas_assert(e->block_raw_bytes <= CAS_BLOCK_BYTES_MAX);
                cas_assert(e->object_offset + e->length_bytes <= r.size_bytes);
                cas_assert(i == 0 || e->object_offset == extents[i - 1].object_offset +
                                                                 extents[i - 1].length_bytes);
        }
        cas_cleanup_buf struct cas_buf again = CAS_BUF_INIT;
        ffs_resolve_reply_encode(&r, extents, &again);
        cas_assert(again.len_bytes == size);
}

static void check_request(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_resolve_request r, back;
        uint8_t again[FFS_RESOLVE_REQUEST_BYTES];
        if (ffs_resolve_request_decode(data, size, &r, &err) < 0)
                return;
        for (uint32_t i = 0; i < r.touches; i++) {
                struct ffs_resolve_touch touch;
                ffs_resolve_touch_decode(data, i, &touch);
        }
        ffs_resolve_request_encode(&r, again);
        if (r.type == FFS_RESOLVE_TOUCHED) /* its reads are missing */
                return;
        cas_assert(r.type != FFS_RESOLVE_FILL || r.bytes <= FFS_RESOLVE_FILL_BYTES_MAX);
        cas_assert(ffs_resolve_request_decode(again, sizeof(again), &back, &err) == 0);
        cas_assert(back.type == r.type);
        cas_assert(back.tag == r.tag);
        cas_assert(back.first_chunk == r.first_chunk);
        cas_assert(back.pack_id == r.pack_id);
        cas_assert(back.offset == r.offset && back.bytes == r.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        check_reply(data, size);
        check_request(data, size);
        return 0;
}
