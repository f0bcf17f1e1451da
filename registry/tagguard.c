/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/tagguard.h"

#include "registry/range.h"

struct reg_conditions reg_conditions_of(const struct reg_http_req *req)
{
        return (struct reg_conditions){
                .if_match = reg_http_header(req, "If-Match"),
                .if_none_match = reg_http_header(req, "If-None-Match"),
        };
}

bool reg_conditions_hold(const struct reg_conditions *c, const struct cas_digest *now)
{
        bool exists = now && now->alg != CAS_DIGEST_NONE;
        char text[CAS_DIGEST_TEXT_BYTES] = "";
        if (exists)
                cas_digest_text(now, text);
        if (c->if_match && !(exists && reg_etag_listed_strong(c->if_match, text)))
                return false;
        return !(c->if_none_match && exists && reg_etag_listed(c->if_none_match, text));
}

static int refuse(struct reg_tagguard *g, enum reg_code code)
{
        g->refused = true;
        g->code = code;
        return -CAS_E_DENIED;
}

static void note_before(struct reg_tagguard *g, const struct cas_tag_change *change)
{
        for (size_t i = 0; i < g->tag_count; i++) {
                if (strcmp(g->tags[i], change->tag) == 0)
                        g->before[i] = change->before;
        }
}

int reg_tagguard_ask(void *arg, const struct cas_tag_change *change, struct cas_err *err)
{
        struct reg_tagguard *g = arg;
        bool exists = change->before.alg != CAS_DIGEST_NONE;
        char text[CAS_DIGEST_TEXT_BYTES] = "absent";
        note_before(g, change);
        if (g->must_exist && !exists)
                return cas_fail(err, CAS_E_NOTFOUND, "no tag %s in repository %s", change->tag,
                                change->repo);
        if (exists)
                cas_digest_text(&change->before, text);
        if (!reg_conditions_hold(&g->conditions, &change->before)) {
                (void)cas_fail(err, CAS_E_DENIED, "tag %s is %s", change->tag, text);
                return refuse(g, REG_E_PRECONDITION_FAILED);
        }
        const char *rule = reg_immutable_rule(g->immutable, change->repo, change->tag);
        if (exists && rule && !cas_digest_equal(&change->before, &change->after)) {
                (void)cas_fail(err, CAS_E_DENIED, "tag %s is immutable, it is %s%s%s", change->tag,
                               text, rule[0] ? ": rule " : "", rule);
                return refuse(g, REG_E_TAG_IMMUTABLE);
        }
        return 0;
}
