/* SPDX-License-Identifier: Apache-2.0 */
/* Single entries of a layer's listing, by where they begin in its bytes, in constant memory: who
 * goes through a large listing in order, or nearly so, need not hold it. One thread. Private to
 * cas. */
#ifndef CAS_LISTINGWINDOW_INT_H
#define CAS_LISTINGWINDOW_INT_H

#include "cas/layer.h"

struct cas_listing_window;
/* Errors: NOTFOUND, CORRUPT, UNSUPPORTED (version). */
int cas_listing_window_open(struct cas_store *s, const struct cas_hash *listing,
                            struct cas_listing_window **out, struct cas_err *err) CAS_MUST_CHECK;
void cas_listing_window_close(struct cas_listing_window *w);
CAS_DEFINE_CLEANUP(cas_cleanup_listing_window_, struct cas_listing_window *,
                   cas_listing_window_close);
#define cas_cleanup_listing_window __attribute__((cleanup(cas_cleanup_listing_window_)))

/* An entry and where it ends. What the entry owns is the window's, until the next call. */
struct cas_listing_place {
        struct cas_entry entry;
        uint64_t end;
};
/* Errors: CORRUPT (no entry begins there, or none that could be one). */
int cas_listing_window_read(struct cas_listing_window *w, uint64_t offset,
                            struct cas_listing_place *out, struct cas_err *err) CAS_MUST_CHECK;

#endif
