/* SPDX-License-Identifier: Apache-2.0 */
/* Referrers: the manifests of a repository whose subject is a digest, as an
 * image index made for the request, in pages by digest. What clients of other
 * registries listed in an index under a fallback tag ("sha256-…", distribution-
 * spec) counts, too, as far as it is in the repository. */
#include <stdio.h>

#include "cas/json.h"
#include "registry/registry_int.h"

#define REFERRERS_PAGE 500
/* Of manifests that are read for a page: what they annotate is in it. */
#define PAGE_BYTES_MAX CAS_MANIFEST_BYTES_MAX

struct referrers {
        struct reg_call *call;
        const char *filter;     /* artifactType wanted, or NULL */
        struct cas_digest last; /* of the page before; alg NONE on the first */
        unsigned count;
        bool more;
        uint64_t read_bytes;
        struct cas_digest found[REFERRERS_PAGE];
};

static bool after_last(const struct referrers *r, const struct cas_digest *digest)
{
        return r->last.alg == CAS_DIGEST_NONE || memcmp(digest, &r->last, sizeof(*digest)) > 0;
}

static bool collect(void *arg, const struct cas_digest *digest)
{
        struct referrers *r = arg;
        if (!after_last(r, digest))
                return true; /* on an earlier page */
        r->more = r->count == REFERRERS_PAGE;
        if (!r->more)
                r->found[r->count++] = *digest;
        return !r->more;
}

/* One more, among those that are sorted: the smallest make the page. */
static void insert(struct referrers *r, const struct cas_digest *digest)
{
        unsigned at = 0;
        while (at < r->count && memcmp(&r->found[at], digest, sizeof(*digest)) < 0)
                at++;
        if (!after_last(r, digest) || (at < r->count && cas_digest_equal(&r->found[at], digest)))
                return;
        bool full = r->count == REFERRERS_PAGE;
        r->more = r->more || full;
        if (at == REFERRERS_PAGE)
                return;
        memmove(&r->found[at + 1], &r->found[at], (r->count - at - full) * sizeof(r->found[0]));
        r->found[at] = *digest;
        r->count += !full;
}

/* The tag that stands for the API where a registry has none: at most 32 characters of the
 * algorithm and 64 of the digest. */
static void fallback_tag(const struct cas_digest *subject, char out[CAS_TAG_BYTES_MAX + 1])
{
        char hex[CAS_DIGEST_TEXT_BYTES];
        (void)snprintf(out, CAS_TAG_BYTES_MAX + 1, "%.32s-%.64s", cas_digest_alg_name(subject->alg),
                       cas_digest_hex(subject, hex));
}

/* Adds what the index under the fallback tag lists, if there is one. */
static int collect_fallback(struct referrers *r, const struct cas_digest *subject,
                            struct cas_err *err)
{
        struct cas_store *store = r->call->store;
        const char *repo = r->call->route.repo;
        char tag[CAS_TAG_BYTES_MAX + 1];
        struct cas_digest digest;
        struct cas_manifest_info info;
        struct cas_err miss = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest index = {0};
        fallback_tag(subject, tag);
        int rc = cas_tag_get(store, repo, tag, &digest, &miss);
        if (rc == 0)
                rc = cas_manifest_stat(store, repo, &digest, &info, &miss);
        if (rc == 0)
                rc = cas_blob_read(store, &digest, CAS_MANIFEST_BYTES_MAX, &bytes, &miss);
        if (rc == 0)
                rc = cas_manifest_parse(bytes.data, bytes.len_bytes, info.media_type, &index,
                                        &miss);
        if (rc < 0 && miss.code != CAS_E_NOTFOUND && miss.code != CAS_E_INVALID)
                *err = miss;
        if (rc < 0)
                return miss.code == CAS_E_NOTFOUND || miss.code == CAS_E_INVALID ? 0 : rc;
        for (size_t i = 0; index.kind == CAS_MANIFEST_INDEX && i < index.child_count; i++)
                insert(r, &index.children[i].digest);
        return 0;
}

/* Copies annotations, and the artifact type by the spec's rule: the manifest's own, else an
 * image's config type. */
static int describe(json_t *descriptor, const struct cas_buf *bytes, struct cas_err *err)
{
        cas_cleanup_json json_t *doc = NULL;
        const json_t *annotations = NULL, *config = NULL;
        const char *type = NULL;
        int rc = cas_json_parse(bytes->data, bytes->len_bytes, CAS_MANIFEST_BYTES_MAX, &doc, err);
        if (rc == 0)
                rc = cas_json_string_in(doc, "artifactType", &type, err);
        if (rc == 0)
                rc = cas_json_object_in(doc, "config", &config, err);
        if (rc == 0 && config && (!type || !type[0]))
                rc = cas_json_string_in(config, "mediaType", &type, err);
        if (rc == 0)
                rc = cas_json_object_in(doc, "annotations", &annotations, err);
        if (rc < 0)
                return rc;
        int failed = 0;
        if (type && type[0])
                failed |= json_object_set_new(descriptor, "artifactType", json_string(type));
        if (annotations && json_object_size(annotations) > 0)
                failed |=
                        json_object_set_new(descriptor, "annotations", json_deep_copy(annotations));
        cas_assert(failed == 0);
        return 0;
}

static bool type_wanted(const struct referrers *r, const json_t *descriptor)
{
        const char *type = json_string_value(json_object_get(descriptor, "artifactType"));
        return !r->filter || (type && strcmp(type, r->filter) == 0);
}

static int add_descriptor(struct referrers *r, const struct cas_digest *digest, json_t *list,
                          struct cas_err *err)
{
        struct cas_store *store = r->call->store;
        struct cas_manifest_info info;
        struct cas_err miss = CAS_ERR_INIT;
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        int rc = cas_manifest_stat(store, r->call->route.repo, digest, &info, &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0; /* deleted since */
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        rc = cas_blob_read(store, digest, CAS_MANIFEST_BYTES_MAX, &bytes, err);
        if (rc < 0)
                return rc;
        r->read_bytes += bytes.len_bytes;
        cas_cleanup_json json_t *descriptor =
                json_pack("{s:s,s:s,s:I}", "mediaType", info.media_type, "digest",
                          cas_digest_text(digest, text), "size", (json_int_t)info.size_bytes);
        cas_assert(descriptor != NULL);
        rc = describe(descriptor, &bytes, err);
        if (rc == 0 && type_wanted(r, descriptor)) {
                int failed = json_array_append(list, descriptor);
                cas_assert(failed == 0);
        }
        return rc;
}

/* Escapes everything that is not plain: the filter comes from the client. */
static void append_escaped(struct cas_buf *out, const char *text)
{
        for (const char *c = text; *c; c++) {
                if ((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                    (*c >= '0' && *c <= '9') || strchr("-._~/", *c))
                        cas_buf_append_byte(out, (uint8_t)*c);
                else
                        cas_buf_printf(out, "%%%02X", (unsigned char)*c);
        }
}

static void link_next(const struct referrers *r)
{
        cas_cleanup_buf struct cas_buf query = CAS_BUF_INIT;
        char last[CAS_DIGEST_TEXT_BYTES];
        if (!r->more)
                return;
        if (r->filter) {
                cas_buf_append_str(&query, "artifactType=");
                append_escaped(&query, r->filter);
                cas_buf_append_str(&query, "&");
        }
        reg_http_reply_headerf(r->call->req, "Link",
                               "</v2/%s/referrers/%s?%slast=%s>; rel=\"next\"", r->call->route.repo,
                               r->call->route.last, cas_buf_str(&query),
                               cas_digest_text(&r->found[r->count - 1], last));
}

static void reply_referrers(const struct referrers *r, json_t *list)
{
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        cas_cleanup_json json_t *doc = json_pack("{s:i,s:s,s:O}", "schemaVersion", 2, "mediaType",
                                                 CAS_MT_OCI_INDEX, "manifests", list);
        cas_assert(doc != NULL);
        cas_json_append(doc, &body);
        link_next(r);
        if (r->filter)
                reg_http_reply_header(r->call->req, "OCI-Filters-Applied", "artifactType");
        reg_reply_list(r->call, CAS_MT_OCI_INDEX, &body);
}

static int list_referrers(struct referrers *r, const struct cas_digest *subject, json_t *list,
                          struct cas_err *err)
{
        int rc = cas_referrer_each(r->call->store, r->call->route.repo, subject, collect, r, err);
        if (rc == 0)
                rc = collect_fallback(r, subject, err);
        for (unsigned i = 0; rc == 0 && i < r->count; i++) {
                rc = add_descriptor(r, &r->found[i], list, err);
                if (r->read_bytes >= PAGE_BYTES_MAX && i + 1 < r->count) { /* the page is full */
                        r->count = i + 1;
                        r->more = true;
                }
        }
        return rc;
}

static void referrers_work(struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest subject;
        const struct reg_uri *uri = reg_http_uri(call->req);
        const char *last = reg_uri_param(uri, "last");
        cas_cleanup_free struct referrers *r = cas_xcalloc(1, sizeof(*r));
        cas_cleanup_json json_t *list = json_array();
        r->call = call;
        r->filter = reg_uri_param(uri, "artifactType");
        if (r->filter && !r->filter[0])
                r->filter = NULL;
        if (cas_digest_parse(call->route.last, &subject, &err) < 0 ||
            (last && last[0] && cas_digest_parse(last, &r->last, &err) < 0))
                reg_reply_err(call->req, REG_ABOUT_BLOB, &err);
        else if (list_referrers(r, &subject, list, &err) < 0)
                reg_reply_err(call->req, REG_ABOUT_MANIFEST, &err);
        else
                reply_referrers(r, list);
}

void reg_referrers_list(struct reg_call *call)
{
        reg_call_work(call, referrers_work); /* reads as many manifests as there are referrers */
}
