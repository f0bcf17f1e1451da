/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests by tag and by digest. What is stored is what is served, byte for
 * byte and under the type it was pushed with, whatever Accept says: so no answer
 * varies, and caches need one copy. */
#include <stdio.h>

#include "registry/registry_int.h"
#include "registry/tagguard.h"

#define MANIFEST_TAGS_MAX 16 /* in one PUT by digest; each is a header of the answer */

/* What the path's last part is: a tag or a digest. */
struct reference {
        bool is_digest;
        struct cas_digest digest;
        const char *tag; /* borrowed */
};

/* True when it can name anything; else *code is what to answer. */
static bool parse_reference(const char *text, struct reference *out, enum reg_code *code,
                            struct cas_err *err)
{
        *out = (struct reference){.is_digest = strchr(text, ':') != NULL, .tag = text};
        if (out->is_digest) {
                *code = REG_E_DIGEST_INVALID;
                return cas_digest_parse(text, &out->digest, err) == 0;
        }
        *code = REG_E_TAG_INVALID;
        if (cas_tag_valid(text))
                return true;
        (void)cas_fail(err, CAS_E_INVALID, "tag \"%.160s\"", text);
        return false;
}

/* GET and HEAD */

static int find_manifest(struct reg_call *call, const struct reference *ref,
                         struct cas_manifest_info *out, struct cas_err *err)
{
        struct cas_digest digest = ref->digest;
        if (!ref->is_digest) {
                int rc = cas_tag_get(call->store, call->route.repo, ref->tag, &digest, err);
                if (rc < 0)
                        return rc;
        }
        return cas_manifest_stat(call->store, call->route.repo, &digest, out, err);
}

/* Not found: is it the manifest or the whole repository? */
static enum reg_about about_missing(struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        bool exists = true;
        int rc = cas_repo_exists(call->store, call->route.repo, &exists, &err);
        return rc == 0 && !exists ? REG_ABOUT_NAME : REG_ABOUT_MANIFEST;
}

void reg_manifest_get(struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reference ref;
        enum reg_code code;
        struct cas_manifest_info info;
        if (!parse_reference(call->route.last, &ref, &code, &err)) {
                /* a tag that no tag can be is one that is not there */
                reg_reply_code(call->req, ref.is_digest ? code : REG_E_MANIFEST_UNKNOWN, err.msg);
                return;
        }
        int rc = find_manifest(call, &ref, &info, &err);
        if (rc < 0) {
                reg_reply_err(call->req,
                              rc == -CAS_E_NOTFOUND ? about_missing(call) : REG_ABOUT_MANIFEST,
                              &err);
                return;
        }
        struct reg_content content = {
                .pull = REG_EVENT_PULL_MANIFEST,
                .digest = &info.digest,
                .size_bytes = info.size_bytes,
                .media_type = info.media_type,
                .tag = ref.is_digest ? NULL : ref.tag,
        };
        if (reg_reply_content(call, &content, REG_ABOUT_MANIFEST))
                reg_call_tell(call, (struct reg_event){.kind = REG_EVENT_PULL_MANIFEST,
                                                       .tag = ref.is_digest ? NULL : ref.tag,
                                                       .digest = info.digest,
                                                       .media_type = info.media_type,
                                                       .bytes = info.size_bytes});
}

/* PUT */

struct manifest_put {
        struct reg_call call;
        struct reference ref;
        char media_type[256]; /* without parameters; "" when none was sent */
        size_t tag_count;     /* that are set: of the path, or of the query */
        const char *tags[MANIFEST_TAGS_MAX];
        struct reg_tagguard guard;
};
_Static_assert(MANIFEST_TAGS_MAX <= REG_TAGGUARD_TAGS_MAX, "each is guarded");

/* The type alone: parameters such as a charset are no part of what is stored. */
static bool read_media_type(struct manifest_put *put)
{
        const char *header = reg_http_header(put->call.req, "Content-Type");
        size_t len = header ? strcspn(header, "; \t") : 0;
        if (len >= sizeof(put->media_type))
                return false;
        memcpy(put->media_type, header ? header : "", len);
        put->media_type[len] = '\0';
        return true;
}

/* Tags of the path or the query. False: one is no tag, or they are too many. */
static bool read_tags(struct manifest_put *put)
{
        const struct reg_uri *uri = reg_http_uri(put->call.req);
        if (!put->ref.is_digest) {
                put->tags[put->tag_count++] = put->ref.tag;
                return true;
        }
        for (size_t i = 0; i < uri->param_count; i++) {
                if (strcmp(uri->params[i].name, "tag") != 0)
                        continue;
                if (!cas_tag_valid(uri->params[i].value) || put->tag_count == MANIFEST_TAGS_MAX)
                        return false;
                put->tags[put->tag_count++] = uri->params[i].value;
        }
        return true;
}

/* A body that is not what its digest says has an error of its own. */
static bool digest_agrees(const struct manifest_put *put, const struct cas_buf *body)
{
        struct cas_digest digest;
        if (!put->ref.is_digest)
                return true;
        cas_digest_of(put->ref.digest.alg, body->data, body->len_bytes, &digest);
        return cas_digest_equal(&digest, &put->ref.digest);
}

/* A manifest that is pushed by its digest alone is what the conditions are about. They cannot come
 * to hold or not hold between here and the commit but by a deletion. False: answered. */
static bool check_conditions(struct reg_call *call, const struct reference *ref)
{
        const struct reg_conditions conditions = reg_conditions_of(call->req);
        struct cas_manifest_info info;
        struct cas_err miss = CAS_ERR_INIT;
        if (!conditions.if_match && !conditions.if_none_match)
                return true;
        bool there =
                cas_manifest_stat(call->store, call->route.repo, &ref->digest, &info, &miss) == 0;
        if (reg_conditions_hold(&conditions, there ? &info.digest : NULL))
                return true;
        reg_reply_code(call->req, REG_E_PRECONDITION_FAILED,
                       there ? "the manifest is there" : "the manifest is not there");
        return false;
}

/* What a change of tags that failed is answered with. */
static void reply_refused(struct reg_call *call, const struct reg_tagguard *guard,
                          enum reg_about about, const struct cas_err *err)
{
        if (guard->refused)
                reg_reply_code(call->req, guard->code, err->msg);
        else
                reg_reply_err(call->req, about, err);
}

static void tell_put(const struct manifest_put *put, const struct cas_manifest_info *info)
{
        struct reg_event event = {.kind = REG_EVENT_PUSH_MANIFEST,
                                  .digest = info->digest,
                                  .media_type = info->media_type,
                                  .bytes = info->size_bytes};
        if (put->tag_count == 0)
                reg_call_tell(&put->call, event);
        for (size_t i = 0; i < put->tag_count; i++) {
                event.tag = put->tags[i];
                event.before = put->guard.before[i];
                reg_call_tell(&put->call, event);
        }
}

/* An index may name what is not here; whoever pushed it by mistake is told (a warning has no date,
 * distribution-spec). */
static void warn_sparse(struct reg_call *call, const struct cas_manifest *manifest)
{
        size_t absent = 0;
        for (size_t i = 0; manifest->kind == CAS_MANIFEST_INDEX && i < manifest->child_count; i++) {
                const struct cas_descriptor *child = &manifest->children[i];
                struct cas_manifest_info info;
                struct cas_err miss = CAS_ERR_INIT;
                if (cas_media_type_is_manifest(child->media_type))
                        absent += cas_manifest_stat(call->store, call->route.repo, &child->digest,
                                                    &info, &miss) == -CAS_E_NOTFOUND;
        }
        if (absent > 0)
                reg_http_reply_headerf(call->req, "Warning",
                                       "299 - \"%zu of %zu manifests of the index are not here\"",
                                       absent, manifest->child_count);
}

static void reply_put(struct manifest_put *put, const struct cas_manifest_info *info,
                      const struct cas_manifest *manifest)
{
        struct reg_http_req *req = put->call.req;
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_digest_text(&info->digest, text);
        reg_http_reply_headerf(req, "Location", "/v2/%s/manifests/%s", put->call.route.repo, text);
        reg_http_reply_header(req, "Docker-Content-Digest", text);
        warn_sparse(&put->call, manifest);
        for (size_t i = 0; put->ref.is_digest && i < put->tag_count; i++)
                reg_http_reply_header(req, "OCI-Tag", put->tags[i]);
        if (manifest->has_subject)
                reg_http_reply_header(req, "OCI-Subject",
                                      cas_digest_text(&manifest->subject.digest, text));
        reg_http_reply_header(req, "Cache-Control", REG_CACHE_NONE);
        reg_http_reply_empty(req, 201);
}

static void put_guard(struct manifest_put *put)
{
        put->guard = (struct reg_tagguard){
                .immutable = put->call.registry->immutable,
                .conditions = reg_conditions_of(put->call.req),
                .tags = put->tags,
                .tag_count = put->tag_count,
        };
}

static void put_end(struct reg_http_req *req, void *state, const struct cas_buf *body)
{
        struct manifest_put *put = state;
        struct reg_call *call = &put->call;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_manifest_info info;
        cas_cleanup_manifest struct cas_manifest manifest = {0};
        if (!digest_agrees(put, body)) {
                reg_reply_code(req, REG_E_DIGEST_INVALID, "the manifest has another digest");
                return;
        }
        if (put->tag_count == 0 && !check_conditions(call, &put->ref))
                return;
        if (body->len_bytes >
            reg_access_room(call->registry->access, call->identity, call->route.repo)) {
                reg_reply_code(req, REG_E_DENIED, REG_NO_ROOM);
                return;
        }
        put_guard(put);
        struct cas_manifest_put_options options = {
                .repo = call->route.repo,
                .media_type = put->media_type[0] ? put->media_type : NULL,
                .expected = put->ref.is_digest ? &put->ref.digest : NULL,
                .allow_sparse = true,
                .linked_only = true,
                .tags = put->tags,
                .tag_count = put->tag_count,
                .guard = reg_tagguard_ask,
                .guard_arg = &put->guard,
        };
        int rc = cas_manifest_parse(body->data, body->len_bytes, options.media_type, &manifest,
                                    &err);
        if (rc == 0)
                rc = cas_manifest_put(call->store, &options, body->data, body->len_bytes, &info,
                                      &err);
        if (rc < 0) {
                reply_refused(call, &put->guard, REG_ABOUT_MANIFEST_PUT, &err);
                return;
        }
        reg_decoder_add(put->call.registry->decoder, &manifest);
        tell_put(put, &info);
        reply_put(put, &info, &manifest);
}

static void put_too_long(struct reg_http_req *req, void *state CAS_UNUSED)
{
        reg_reply_code(req, REG_E_MANIFEST_TOO_LARGE, "a manifest has at most 4 MiB");
}

void reg_manifest_put(struct reg_call *call)
{
        static const struct reg_http_whole_ops ops = {
                .bytes_max = CAS_MANIFEST_BYTES_MAX,
                .end = put_end,
                .free = free,
                .too_long = put_too_long,
        };
        struct cas_err err = CAS_ERR_INIT;
        enum reg_code code;
        struct manifest_put *put = cas_xcalloc(1, sizeof(*put));
        put->call = *call;
        if (!parse_reference(call->route.last, &put->ref, &code, &err))
                reg_reply_code(call->req, code, err.msg);
        else if (!read_media_type(put))
                reg_reply_code(call->req, REG_E_MANIFEST_INVALID, "Content-Type is too long");
        else if (!read_tags(put))
                reg_reply_code(call->req, REG_E_TAG_INVALID, "tag parameters");
        else {
                reg_http_accept_whole(call->req, &ops, put);
                return;
        }
        free(put);
}

/* DELETE */

static void manifest_delete_work(struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reference ref;
        enum reg_code code;
        if (!parse_reference(call->route.last, &ref, &code, &err)) {
                reg_reply_code(call->req, code, err.msg);
                return;
        }
        struct reg_tagguard guard = {
                .immutable = call->registry->immutable,
                .must_exist = !ref.is_digest,
                .tags = &ref.tag,
                .tag_count = !ref.is_digest,
        };
        if (!ref.is_digest)
                guard.conditions = reg_conditions_of(call->req);
        else if (!check_conditions(call, &ref))
                return;
        int rc = cas_manifest_delete(call->store, call->route.repo, ref.is_digest ? NULL : ref.tag,
                                     &ref.digest, reg_tagguard_ask, &guard, &err);
        if (rc < 0) {
                reply_refused(call, &guard, REG_ABOUT_MANIFEST, &err);
                return;
        }
        struct reg_event event = {.kind = REG_EVENT_DELETE_MANIFEST, .digest = ref.digest};
        if (!ref.is_digest) {
                event.kind = REG_EVENT_DELETE_TAG;
                event.tag = ref.tag;
                event.digest = guard.before[0];
        }
        reg_call_tell(call, event);
        reg_http_reply_header(call->req, "Cache-Control", REG_CACHE_NONE);
        reg_http_reply_empty(call->req, 202);
}

void reg_manifest_delete(struct reg_call *call)
{
        reg_call_work(call, manifest_delete_work);
}
