/* SPDX-License-Identifier: Apache-2.0 */
/* Routes: which noun of which repository a path names. Repository names hold
 * slashes and may have parts called "blobs" or "manifests", so paths are split
 * from the right. Pure functions over text that is not trusted. */
#ifndef REG_ROUTE_H
#define REG_ROUTE_H

#include "cas/limits.h"
#include "registry/http_uri.h"

enum reg_noun {
        REG_NOUN_PING,       /* /v2/ */
        REG_NOUN_CATALOG,    /* /v2/_catalog */
        REG_NOUN_BLOB,       /* /v2/REPO/blobs/DIGEST */
        REG_NOUN_UPLOADS,    /* /v2/REPO/blobs/uploads/ */
        REG_NOUN_UPLOAD,     /* /v2/REPO/blobs/uploads/ID */
        REG_NOUN_MANIFEST,   /* /v2/REPO/manifests/TAG-OR-DIGEST */
        REG_NOUN_TAGS,       /* /v2/REPO/tags/list */
        REG_NOUN_REFERRERS,  /* /v2/REPO/referrers/DIGEST */
        REG_NOUN_LAMINA,     /* /v2/REPO/_lamina/… (spec/peer.md): see rest */
        REG_NOUN_EXTENSIONS, /* /v2/_oci/ext/discover, /v2/REPO/_oci/ext/discover */
};

struct reg_route {
        enum reg_noun noun;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1]; /* valid by cas_repo_name_valid; "" without one */
        const char *last;        /* digest, tag or id as sent, not checked; borrowed from the uri */
        const char *const *rest; /* LAMINA: what follows, not checked; borrowed from the uri */
        size_t rest_count;
};

/* Errors: NOTFOUND (no route of ours), INVALID (repository name). */
int reg_route_parse(const struct reg_uri *uri, struct reg_route *out,
                    struct cas_err *err) CAS_MUST_CHECK;

#endif
