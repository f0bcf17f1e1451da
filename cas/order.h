/* SPDX-License-Identifier: Apache-2.0 */
/* The order in which the files of an image were first read after it was
 * mounted: what a lazy mount brings first at the next start, on this host or on
 * another (spec/lazy.md). It is advice: whoever follows it is right whatever it
 * says. */
#ifndef CAS_ORDER_H
#define CAS_ORDER_H

#include "cas/image.h"

#define CAS_ORDER_OBJECTS_MAX 4096

/* Notes the order for the image manifest, in place of what was noted; repo (may be NULL) remembers
 * it as its latest. What is beyond CAS_ORDER_OBJECTS_MAX is left out. Durable on return. */
int cas_order_put(struct cas_store *s, const char *repo, const struct cas_digest *manifest,
                  const struct cas_hash *ids, size_t count, struct cas_err *err) CAS_MUST_CHECK;
/* What was noted for the manifest, at most `max`. *ids is owned by the caller; none is success with
 * *count 0. */
int cas_order_get(struct cas_store *s, const struct cas_digest *manifest, struct cas_hash **ids,
                  size_t *count, size_t max, struct cas_err *err) CAS_MUST_CHECK;
/* The same, and where nothing was noted for the manifest: the latest order of the repository,
 * carried over by the paths of the files, so that the next version of an image profits. Reads the
 * listings of both images then. */
int cas_order_find(struct cas_store *s, const char *repo, const struct cas_digest *manifest,
                   struct cas_hash **ids, size_t *count, size_t max,
                   struct cas_err *err) CAS_MUST_CHECK;

/* The image is being mounted: what is first read in the next half minute becomes its order, once
 * for each process. Cheap. */
void cas_order_watch(struct cas_store *s, const char *repo, const struct cas_digest *manifest);
/* For how long images are watched, instead. */
void cas_order_set_watch_ms(struct cas_store *s, uint64_t ms);
/* The object was asked for by a reader. Cheap while nothing is watched. */
void cas_order_seen(struct cas_store *s, const struct cas_hash *id);

#endif
