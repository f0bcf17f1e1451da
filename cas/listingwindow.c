/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/listingwindow_int.h"

#include "cas/object.h"

/* A listing of up to so many bytes (some 10,000 entries) is read as a whole, so that going back and
 * forth in it costs nothing. */
#define WHOLE_BYTES_MAX CAS_MIB
#define WINDOW_BYTES (32 * CAS_KIB)
_Static_assert(CAS_LISTING_ENTRY_BYTES_MAX < WHOLE_BYTES_MAX, "memory is bounded by one of them");

struct cas_listing_window {
        struct cas_store *store; /* borrowed */
        struct cas_hash listing;
        uint64_t listing_bytes;
        struct cas_buf bytes; /* of the listing, from `start` on */
        uint64_t start;
        struct cas_entry entry; /* given last */
};

static int load(struct cas_listing_window *w, uint64_t offset, size_t len, struct cas_err *err)
{
        size_t got = 0;
        len = cas_min_u64(len, w->listing_bytes - offset);
        cas_buf_clear(&w->bytes);
        cas_buf_reserve(&w->bytes, len);
        if (cas_object_pread(w->store, &w->listing, offset, w->bytes.data, len, &got, err) < 0)
                return -(int)err->code;
        w->bytes.len_bytes = got;
        w->start = offset;
        return 0;
}

int cas_listing_window_open(struct cas_store *s, const struct cas_hash *listing,
                            struct cas_listing_window **out, struct cas_err *err)
{
        struct cas_object_info info;
        cas_cleanup_listing_window struct cas_listing_window *w = cas_xcalloc(1, sizeof(*w));
        w->store = s;
        w->listing = *listing;
        if (cas_object_stat(s, listing, &info, err) < 0)
                return -(int)err->code;
        w->listing_bytes = info.size_bytes;
        size_t len = info.size_bytes <= WHOLE_BYTES_MAX ? WHOLE_BYTES_MAX : WINDOW_BYTES;
        if (load(w, 0, len, err) < 0 ||
            cas_listing_check_head(w->bytes.data, w->bytes.len_bytes, err) < 0)
                return -(int)err->code;
        *out = cas_steal(&w);
        return 0;
}

void cas_listing_window_close(struct cas_listing_window *w)
{
        if (!w)
                return;
        cas_buf_release(&w->bytes);
        cas_entry_release(&w->entry);
        free(w);
}

static int decode(struct cas_listing_window *w, uint64_t offset, size_t *len, struct cas_err *err)
{
        size_t at = offset - w->start;
        return cas_listing_decode_entry(w->bytes.data + at, w->bytes.len_bytes - at, &w->entry, len,
                                        err);
}

int cas_listing_window_read(struct cas_listing_window *w, uint64_t offset,
                            struct cas_listing_place *out, struct cas_err *err)
{
        struct cas_err reason = CAS_ERR_INIT;
        size_t len = 0;
        cas_entry_release(&w->entry);
        if (offset < CAS_LISTING_HEAD_BYTES || offset >= w->listing_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "no listing entry at byte %llu",
                                (unsigned long long)offset);
        bool inside = offset >= w->start && offset - w->start < w->bytes.len_bytes;
        if (!inside || decode(w, offset, &len, &reason) < 0) {
                if (load(w, offset, WINDOW_BYTES, err) < 0)
                        return -(int)err->code;
                if (decode(w, offset, &len, &reason) < 0 &&
                    (load(w, offset, CAS_LISTING_ENTRY_BYTES_MAX, err) < 0 ||
                     decode(w, offset, &len, err) < 0))
                        return -(int)err->code;
        }
        *out = (struct cas_listing_place){.entry = w->entry, .end = offset + len};
        return 0;
}
