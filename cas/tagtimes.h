/* SPDX-License-Identifier: Apache-2.0 */
/* When tags were set and last pulled, as far as somebody noted it: for rules
 * that remove old ones. Kept in the index alone (spec/index.md): a rebuilt index
 * takes what the old one has. What is noted of a tag holds while the tag names
 * the same manifest. */
#ifndef CAS_TAGTIMES_H
#define CAS_TAGTIMES_H

#include "cas/store.h"

struct cas_tag_times {
        uint64_t pushed_unix_s;
        uint64_t pulled_unix_s; /* 0: never */
};
/* What somebody saw: of a time that is 0, nothing. A tag that was pulled and of which nothing is
 * known counts as pushed then. */
struct cas_tag_note {
        const char *repo, *tag; /* valid names */
        struct cas_digest manifest;
        struct cas_tag_times times;
};
/* Times go forward only. One synced write for all. Blocks. Errors: INVALID (names), IO. */
int cas_tag_times_note(struct cas_store *s, const struct cas_tag_note *notes, size_t count,
                       struct cas_err *err) CAS_MUST_CHECK;
/* Errors: NOTFOUND (nothing is known of the tag with this manifest). */
int cas_tag_times_get(struct cas_store *s, const char *repo, const char *tag,
                      const struct cas_digest *manifest, struct cas_tag_times *out,
                      struct cas_err *err) CAS_MUST_CHECK;

#endif
