/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/zlibwindow.h"

void cas_zlib_window_init(struct cas_zlib_window *w, uint32_t hash_bits)
{
        *w = (struct cas_zlib_window){
                .hash_bits = hash_bits,
                .hash_shift = (hash_bits + 2) / 3,
                .hash_mask = (1U << hash_bits) - 1,
                .bytes = cas_xcalloc(1, CAS_ZLIB_BUFFER_BYTES + CAS_ZLIB_MATCH_MAX + 8),
                .head = cas_xcalloc(1U << hash_bits, sizeof(uint16_t)),
                .prev = cas_xcalloc(CAS_ZLIB_WINDOW_BYTES, sizeof(uint16_t)),
        };
}

void cas_zlib_window_release(struct cas_zlib_window *w)
{
        free(w->bytes);
        free(w->head);
        free(w->prev);
        *w = (struct cas_zlib_window){0};
}

void cas_zlib_window_forget(struct cas_zlib_window *w)
{
        memset(w->head, 0, sizeof(*w->head) << w->hash_bits);
}

void cas_zlib_slide_links(uint16_t *links, uint32_t count)
{
        for (uint32_t i = 0; i < count; i++) {
                uint16_t link = links[i];
                links[i] = link >= CAS_ZLIB_WINDOW_BYTES ? (uint16_t)(link - CAS_ZLIB_WINDOW_BYTES)
                                                         : 0;
        }
}

void cas_zlib_window_slide(struct cas_zlib_window *w, bool has_chains)
{
        memcpy(w->bytes, w->bytes + CAS_ZLIB_WINDOW_BYTES, CAS_ZLIB_WINDOW_BYTES);
        if (!has_chains)
                return;
        cas_zlib_slide_links(w->head, 1U << w->hash_bits);
        cas_zlib_slide_links(w->prev, CAS_ZLIB_WINDOW_BYTES);
}
