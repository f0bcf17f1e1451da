/* SPDX-License-Identifier: Apache-2.0 */
/* What must hold for tags to be changed: the request's If-Match and
 * If-None-Match, and that immutable tags stay. Asked inside the commit
 * (cas_publish_guard_tags), so that of changes that race each sees what the one
 * before it left. */
#ifndef REG_TAGGUARD_H
#define REG_TAGGUARD_H

#include "cas/publish.h"
#include "registry/immutable.h"
#include "registry/reg_err.h"

#define REG_TAGGUARD_TAGS_MAX 17

/* RFC 9110: entity tags or "*", compared strongly in the first and weakly in the second; NULL when
 * the request has none. Borrowed. */
struct reg_conditions {
        const char *if_match, *if_none_match;
};
struct reg_conditions reg_conditions_of(const struct reg_http_req *req);
/* Whether they hold for what is there now; NULL or alg NONE: nothing is. */
bool reg_conditions_hold(const struct reg_conditions *c, const struct cas_digest *now);

struct reg_tagguard {
        const struct reg_immutable *immutable; /* borrowed; may be NULL */
        struct reg_conditions conditions;
        bool must_exist; /* a tag that is not there is NOTFOUND */
        /* Tags whose state before is wanted: borrowed, or NULL */
        const char *const *tags;
        size_t tag_count; /* <= REG_TAGGUARD_TAGS_MAX */
        struct cas_digest before[REG_TAGGUARD_TAGS_MAX];
        /* Set when it has refused, with the error's text. */
        bool refused;
        enum reg_code code;
};
/* A cas_tag_guard_fn; arg is a struct reg_tagguard. Refusals are DENIED. */
int reg_tagguard_ask(void *arg, const struct cas_tag_change *change, struct cas_err *err);

#endif
