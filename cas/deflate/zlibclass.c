/* SPDX-License-Identifier: Apache-2.0 */
/* The classes "zlib" (memLevel 8, as deflateInit takes it) and "zlib-mem9" (memLevel 9). */
#include "cas/deflate/zlibclass.h"

#include "cas/deflate/zlib_int.h"

#define ENDS                                                                                       \
        (1U << CAS_DEFLATE_END_FINISH | 1U << CAS_DEFLATE_END_SYNC | 1U << CAS_DEFLATE_END_FULL |  \
         1U << CAS_DEFLATE_END_PARTIAL | 1U << CAS_DEFLATE_END_BLOCK | 1U << CAS_DEFLATE_END_PIGZ)

static struct cas_deflate_encoder *create_mem8(const struct cas_deflate_class *class, int level)
{
        static const struct cas_zlib_flavour flavour = {.hash_bits = 15, .token_max = 16383};
        return cas_zlib_encoder_create(class, level, &flavour);
}

static struct cas_deflate_encoder *create_mem9(const struct cas_deflate_class *class, int level)
{
        static const struct cas_zlib_flavour flavour = {.hash_bits = 16, .token_max = 32767};
        return cas_zlib_encoder_create(class, level, &flavour);
}

const struct cas_deflate_class cas_deflate_zlib = {
        .id = 32,
        .name = "zlib",
        .level_min = 0,
        .level_max = 9,
        .ends = ENDS,
        .window_bytes = CAS_ZLIB_RESTART_BYTES,
        .create = create_mem8,
};

const struct cas_deflate_class cas_deflate_zlib_mem9 = {
        .id = 34,
        .name = "zlib-mem9",
        .level_min = 1,
        .level_max = 9,
        .ends = ENDS,
        .window_bytes = CAS_ZLIB_RESTART_BYTES,
        .create = create_mem9,
};
