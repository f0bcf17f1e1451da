/* SPDX-License-Identifier: Apache-2.0 */
/* Which layers more than one image names, for the web page: found out now and
 * then by looking at every manifest of repositories that everybody may read, so
 * that nothing is told of others. Thread-safe. */
#ifndef REG_WEBSHARING_H
#define REG_WEBSHARING_H

#include "cas/names.h"

struct reg_websharing;
struct reg_websharing *reg_websharing_new(void);
void reg_websharing_free(struct reg_websharing *w); /* NULL is nothing */
/* Looks at all there is; blocks for long. is_public: whether a repository is looked at. */
int reg_websharing_refresh(struct reg_websharing *w, struct cas_store *s,
                           bool (*is_public)(void *arg, const char *repo), void *arg,
                           struct cas_err *err) CAS_MUST_CHECK;
/* How many images name the layer, and how large all images are, each by itself. False: not known,
 * or there is too much to keep. */
bool reg_websharing_count(struct reg_websharing *w, const struct cas_digest *layer,
                          uint64_t *images);
bool reg_websharing_bytes(struct reg_websharing *w, uint64_t *images, uint64_t *bytes);

#endif
