/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests by tag and by digest. What is stored is what is served, byte for
 * byte and under the type it was pushed with, whatever Accept says: so no answer
 * varies, and caches need one copy. */
#include <stdio.h>

#include "registry/registry_int.h"

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
        size_t tag_count;     /* of the query, PUT by digest only */
        const char *tags[MANIFEST_TAGS_MAX];
        struct cas_digest before[MANIFEST_TAGS_MAX]; /* what the tags named */
};

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

/* Tags of the query. False: one is no tag, or they are too many. */
static bool read_tags(struct manifest_put *put)
{
        const struct reg_uri *uri = reg_http_uri(put->call.req);
        for (size_t i = 0; i < uri->param_count; i++) {
                if (strcmp(uri->params[i].name, "tag") != 0)
                        continue;
                if (!cas_tag_valid(uri->params[i].value) || put->tag_count == MANIFEST_TAGS_MAX)
                        return false;
                put->tags[put->tag_count++] = uri->params[i].value;
        }
        return true;
}

static int put_tags(struct manifest_put *put, const struct cas_digest *digest, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        if (put->tag_count == 0)
                return 0;
        int rc = cas_publish_begin(put->call.store, &p, err);
        for (size_t i = 0; rc == 0 && i < put->tag_count; i++)
                rc = cas_publish_tag(p, put->call.route.repo, put->tags[i], digest, err);
        if (rc == 0)
                rc = cas_publish_commit(p, err);
        return rc;
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

/* Tags that are set: of the path, or of the query. */
static size_t count_tags(const struct manifest_put *put)
{
        return put->ref.is_digest ? put->tag_count : 1;
}

static const char *nth_tag(const struct manifest_put *put, size_t i)
{
        return put->ref.is_digest ? put->tags[i] : put->ref.tag;
}

/* What the tags name before they are set; alg NONE for those that are new. */
static void look_before(struct manifest_put *put)
{
        struct cas_err err = CAS_ERR_INIT;
        for (size_t i = 0; i < count_tags(put); i++) {
                if (cas_tag_get(put->call.store, put->call.route.repo, nth_tag(put, i),
                                &put->before[i], &err) < 0)
                        put->before[i] = (struct cas_digest){0};
        }
}

static void tell_put(const struct manifest_put *put, const struct cas_manifest_info *info)
{
        struct reg_event event = {.kind = REG_EVENT_PUSH_MANIFEST,
                                  .digest = info->digest,
                                  .media_type = info->media_type,
                                  .bytes = info->size_bytes};
        if (count_tags(put) == 0)
                reg_call_tell(&put->call, event);
        for (size_t i = 0; i < count_tags(put); i++) {
                event.tag = nth_tag(put, i);
                event.before = put->before[i];
                reg_call_tell(&put->call, event);
        }
}

static void reply_put(struct manifest_put *put, const struct cas_manifest_info *info,
                      const struct cas_manifest *manifest)
{
        struct reg_http_req *req = put->call.req;
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_digest_text(&info->digest, text);
        reg_http_reply_headerf(req, "Location", "/v2/%s/manifests/%s", put->call.route.repo, text);
        reg_http_reply_header(req, "Docker-Content-Digest", text);
        for (size_t i = 0; i < put->tag_count; i++)
                reg_http_reply_header(req, "OCI-Tag", put->tags[i]);
        if (manifest->has_subject)
                reg_http_reply_header(req, "OCI-Subject",
                                      cas_digest_text(&manifest->subject.digest, text));
        reg_http_reply_header(req, "Cache-Control", REG_CACHE_NONE);
        reg_http_reply_empty(req, 201);
}

static void put_end(struct reg_http_req *req, void *state, const struct cas_buf *body)
{
        struct manifest_put *put = state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_manifest_info info;
        cas_cleanup_manifest struct cas_manifest manifest = {0};
        if (!digest_agrees(put, body)) {
                reg_reply_code(req, REG_E_DIGEST_INVALID, "the manifest has another digest");
                return;
        }
        const char *media_type = put->media_type[0] ? put->media_type : NULL;
        struct cas_manifest_put_options options = {
                .repo = put->call.route.repo,
                .tag = put->ref.is_digest ? NULL : put->ref.tag,
                .media_type = media_type,
                .expected = put->ref.is_digest ? &put->ref.digest : NULL,
                .allow_sparse = true,
                .linked_only = true,
        };
        int rc = cas_manifest_parse(body->data, body->len_bytes, media_type, &manifest, &err);
        look_before(put);
        if (rc == 0)
                rc = cas_manifest_put(put->call.store, &options, body->data, body->len_bytes, &info,
                                      &err);
        if (rc == 0)
                rc = put_tags(put, &info.digest, &err);
        if (rc < 0) {
                reg_reply_err(req, REG_ABOUT_MANIFEST_PUT, &err);
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
        else if (put->ref.is_digest && !read_tags(put))
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
        struct cas_digest before = ref.digest;
        int rc = 0;
        if (!ref.is_digest)
                rc = cas_tag_get(call->store, call->route.repo, ref.tag, &before, &err);
        if (rc == 0)
                rc = cas_manifest_delete(call->store, call->route.repo,
                                         ref.is_digest ? NULL : ref.tag, &ref.digest, NULL, NULL,
                                         &err);
        if (rc < 0) {
                reg_reply_err(call->req, REG_ABOUT_MANIFEST, &err);
                return;
        }
        struct reg_event event = {.kind = REG_EVENT_DELETE_MANIFEST, .digest = ref.digest};
        if (!ref.is_digest) {
                event.kind = REG_EVENT_DELETE_TAG;
                event.tag = ref.tag;
                event.digest = before;
        }
        reg_call_tell(call, event);
        reg_http_reply_header(call->req, "Cache-Control", REG_CACHE_NONE);
        reg_http_reply_empty(call->req, 202);
}

void reg_manifest_delete(struct reg_call *call)
{
        reg_call_work(call, manifest_delete_work);
}
