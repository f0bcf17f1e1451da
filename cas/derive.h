/* SPDX-License-Identifier: Apache-2.0 */
/* New images: one layer more than a base has, or than none. */
#ifndef CAS_DERIVE_H
#define CAS_DERIVE_H

#include "cas/image.h"

struct cas_derive_options {
        const struct cas_image *base;         /* found (cas_image_find), or NULL */
        const struct cas_layer_record *layer; /* NULL: the base's layers alone; one of the two */
        int64_t newest_s;                     /* of the layer's entries: dates the image */
        const char *created_by;               /* for the history */
        const char *comment;                  /* may be NULL */
        const char *author;                   /* may be NULL: the base's stays */
        const char *config_json; /* NULL, or an image config whose "config" member is taken: over
                                  * the base's, Env and Labels by their names, all else as whole */
        const struct cas_platform *platform; /* without a base; NULL: the host's */
};
/* Stores config and manifest under ref, which has no digest. The layer is a gzip blob of the store.
 * The standard is the base's (Docker, else OCI), its documents are kept but for what changes. Dated
 * by $SOURCE_DATE_EPOCH, else by the newest entry, though never before the base. The caller keeps
 * base and layer from collection. Durable on return. Errors: INVALID (config_json, the base's
 * documents), CORRUPT, LIMIT, NOTFOUND. */
int cas_image_derive(struct cas_store *s, const struct cas_ref *ref,
                     const struct cas_derive_options *options, struct cas_manifest_info *out,
                     struct cas_err *err) CAS_MUST_CHECK;

#endif
