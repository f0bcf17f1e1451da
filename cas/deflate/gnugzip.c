/* SPDX-License-Identifier: Apache-2.0 */
/* The class "gzip": GNU gzip 1.x. */
#include "cas/deflate/zlib_int.h"
#include "cas/deflate/zlibclass.h"

bool cas_gnugzip_splits(const struct cas_zlib_encoder *e, uint32_t pos)
{
        const struct cas_zlib_block *b = &e->block;
        uint64_t match_count = 0, out_bits = (uint64_t)b->token_count * 8;
        for (uint32_t n = 0; n < CAS_ZLIB_DISTANCES; n++) {
                match_count += b->distance_freq[n];
                out_bits += (uint64_t)b->distance_freq[n] * (5U + cas_zlib_distance_extra[n]);
        }
        uint64_t in_bytes = (uint64_t)((int64_t)pos - e->block_start);
        return match_count < b->token_count / 2 && out_bits / 8 < in_bytes / 2;
}

static struct cas_deflate_encoder *create(const struct cas_deflate_class *class, int level)
{
        static const struct cas_zlib_flavour flavour = {
                .is_gnu = true, .hash_bits = 15, .token_max = 32767};
        return cas_zlib_encoder_create(class, level, &flavour);
}

const struct cas_deflate_class cas_deflate_gzip = {
        .id = 33,
        .name = "gzip",
        .level_min = 1,
        .level_max = 9,
        .ends = 1U << CAS_DEFLATE_END_FINISH,
        .window_bytes = CAS_ZLIB_RESTART_BYTES,
        .create = create,
};
