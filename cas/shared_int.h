/* SPDX-License-Identifier: Apache-2.0 */
/* The shared store in the path of a publication. Private to cas. */
#ifndef CAS_SHARED_INT_H
#define CAS_SHARED_INT_H

#include "cas/publishrefs_int.h"
#include "cas/shared.h"
#include "cas/store_int.h"

/* What is to be published. names is replaced by what this node's own index is to be told: links of
 * blobs whose bytes are not here are left out. */
struct cas_shared_plan {
        struct cas_buf *names; /* encoded records */
        uint32_t *count;
        const struct cas_staged_blob *staged;
        size_t staged_count;
        cas_tag_guard_fn guard;
        void *guard_arg;
        struct cas_mutex *ordered; /* out: held until the node's own commit; NULL: none */
};
/* Blobs, then names. After success, and before anything else, the caller commits here, and
 * releases `ordered` afterwards: changes of one tag become known here in the order that they had.
 */
int cas_shared_publish(struct cas_store *s, struct cas_shared_plan *plan,
                       struct cas_err *err) CAS_MUST_CHECK;

void cas_shared_init(struct cas_store *s);
void cas_shared_release(struct cas_store *s);

#endif
