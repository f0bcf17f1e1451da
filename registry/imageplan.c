/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/imageplan.h"

#include "cas/json.h"
#include "cas/limits.h"

void reg_plan_release(struct reg_plan *p)
{
        for (size_t i = 0; i < p->doc_count; i++)
                cas_buf_release(&p->docs[i].bytes);
        for (size_t i = 0; i < p->blob_count; i++) {
                for (char **u = p->blobs[i].urls; u && *u; u++)
                        free(*u);
                free(p->blobs[i].urls);
        }
        free(p->docs);
        free(p->blobs);
        cas_map_free(p->seen_docs);
        cas_map_free(p->seen_blobs);
        *p = (struct reg_plan){0};
}

static struct reg_plan_blob *add_blob(struct reg_plan *p, const struct cas_descriptor *d,
                                      struct cas_err *err)
{
        bool inserted;
        uint64_t *at = cas_map_put(p->seen_blobs, &d->digest, sizeof(d->digest), &inserted);
        char text[CAS_DIGEST_TEXT_BYTES];
        if (!inserted) {
                struct reg_plan_blob *b = &p->blobs[*at];
                if (b->size_bytes == d->size_bytes)
                        return b;
                (void)cas_fail(err, CAS_E_INVALID, "%s is said to have two sizes",
                               cas_digest_text(&d->digest, text));
                return NULL;
        }
        if (p->blob_count >= REG_PLAN_BLOBS_MAX) {
                (void)cas_fail(err, CAS_E_LIMIT, "more than %d blobs", REG_PLAN_BLOBS_MAX);
                return NULL;
        }
        size_t n = p->blob_count++;
        if ((n & (n - 1)) == 0)
                p->blobs = cas_xrealloc(p->blobs, (n ? n * 2 : 1) * sizeof(*p->blobs));
        *at = n;
        p->blobs[n] = (struct reg_plan_blob){
                .digest = d->digest, .size_bytes = d->size_bytes, .foreign = d->foreign};
        (void)snprintf(p->blobs[n].media_type, sizeof(p->blobs[n].media_type), "%s", d->media_type);
        return &p->blobs[n];
}

/* Where a layer says that it is kept; what is no http address is passed over later. */
static void take_urls(const struct cas_buf *bytes, size_t layer, struct reg_plan_blob *b)
{
        cas_cleanup_json json_t *j = NULL;
        struct cas_err unused = CAS_ERR_INIT;
        if (b->urls ||
            cas_json_parse(bytes->data, bytes->len_bytes, CAS_MANIFEST_BYTES_MAX, &j, &unused) < 0)
                return;
        const json_t *urls =
                json_object_get(json_array_get(json_object_get(j, "layers"), layer), "urls");
        size_t count = 0;
        b->urls = cas_xcalloc(REG_PLAN_URLS_MAX + 1, sizeof(*b->urls));
        for (size_t i = 0; i < json_array_size(urls) && count < REG_PLAN_URLS_MAX; i++) {
                const char *url = json_string_value(json_array_get(urls, i));
                if (url && strlen(url) == json_string_length(json_array_get(urls, i)))
                        b->urls[count++] = cas_xstrdup(url);
        }
}

static int add_image_blobs(struct reg_plan *p, const struct cas_manifest *m,
                           const struct cas_buf *bytes, struct cas_err *err)
{
        if (!add_blob(p, &m->config, err))
                return -(int)err->code;
        for (size_t i = 0; i < m->child_count; i++) {
                struct reg_plan_blob *b = add_blob(p, &m->children[i], err);
                if (!b)
                        return -(int)err->code;
                b->layer |= cas_media_type_is_layer(m->children[i].media_type);
                if (m->children[i].foreign)
                        take_urls(bytes, i, b);
        }
        return 0;
}

static int add_doc(struct reg_plan *p, const struct reg_plan_source *source,
                   const struct cas_manifest_info *info, const struct cas_buf *bytes,
                   unsigned depth, struct cas_err *err);

static int add_child(struct reg_plan *p, const struct reg_plan_source *source,
                     const struct cas_descriptor *d, unsigned depth, bool wanted,
                     struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_err why = CAS_ERR_INIT;
        char text[CAS_DIGEST_TEXT_BYTES];
        if (!cas_media_type_is_manifest(d->media_type))
                return add_blob(p, d, err) ? 0 : -(int)err->code;
        if (cas_map_get(p->seen_docs, &d->digest, sizeof(d->digest)))
                return 0;
        int rc = source->read(source->arg, &d->digest, &bytes, &why);
        if (rc == -CAS_E_NOTFOUND && !wanted) {
                p->complete = false;
                return 0;
        }
        if (rc < 0) {
                *err = why;
                return rc;
        }
        if (bytes.len_bytes != d->size_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "%s: %zu bytes, where %llu are said",
                                cas_digest_text(&d->digest, text), bytes.len_bytes,
                                (unsigned long long)d->size_bytes);
        struct cas_manifest_info info = {.digest = d->digest, .size_bytes = d->size_bytes};
        (void)snprintf(info.media_type, sizeof(info.media_type), "%s", d->media_type);
        return add_doc(p, source, &info, &bytes, depth + 1, err);
}

static int none_fits(const struct cas_manifest *m, const struct cas_platform *wanted,
                     struct cas_err *err)
{
        char text[CAS_PLATFORM_TEXT_BYTES];
        cas_cleanup_buf struct cas_buf list = CAS_BUF_INIT;
        for (size_t i = 0; i < m->child_count && i < 20; i++) {
                if (m->children[i].has_platform)
                        cas_buf_printf(&list, "%s%s", list.len_bytes ? ", " : "",
                                       cas_platform_text(&m->children[i].platform, text));
        }
        return cas_fail(err, CAS_E_NOTFOUND, "nothing for %s; there is %s",
                        cas_platform_text(wanted, text),
                        list.len_bytes ? cas_buf_str(&list) : "no platform at all");
}

static int add_fitting(struct reg_plan *p, const struct reg_plan_source *source,
                       const struct cas_manifest *m, unsigned depth, struct cas_err *err)
{
        const struct cas_descriptor *best = NULL;
        unsigned best_fit = 0;
        for (size_t i = 0; i < m->child_count; i++) {
                const struct cas_descriptor *d = &m->children[i];
                unsigned fit =
                        d->has_platform ? cas_platform_fit(source->platform, &d->platform) : 0;
                if (fit > best_fit) {
                        best = d;
                        best_fit = fit;
                }
        }
        if (!best && m->child_count == 1 && !m->children[0].has_platform)
                best = &m->children[0];
        if (!best)
                return none_fits(m, source->platform, err);
        p->complete = p->complete && m->child_count == 1;
        return add_child(p, source, best, depth, true, err);
}

static int add_index_children(struct reg_plan *p, const struct reg_plan_source *source,
                              const struct cas_manifest *m, unsigned depth, struct cas_err *err)
{
        if (source->platform)
                return add_fitting(p, source, m, depth, err);
        for (size_t i = 0; i < m->child_count; i++) {
                if (add_child(p, source, &m->children[i], depth, false, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

static int add_doc(struct reg_plan *p, const struct reg_plan_source *source,
                   const struct cas_manifest_info *info, const struct cas_buf *bytes,
                   unsigned depth, struct cas_err *err)
{
        bool inserted;
        cas_cleanup_manifest struct cas_manifest m = {0};
        (void)cas_map_put(p->seen_docs, &info->digest, sizeof(info->digest), &inserted);
        if (!inserted)
                return 0;
        p->doc_bytes += bytes->len_bytes;
        if (depth > CAS_INDEX_DEPTH_MAX || p->doc_bytes > REG_PLAN_DOC_BYTES_MAX ||
            cas_map_count(p->seen_docs) > REG_PLAN_DOCS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "an image of too many or too large documents");
        if (cas_manifest_parse(bytes->data, bytes->len_bytes, info->media_type, &m, err) < 0)
                return -(int)err->code;
        int rc = m.kind == CAS_MANIFEST_INDEX ? add_index_children(p, source, &m, depth, err)
                                              : add_image_blobs(p, &m, bytes, err);
        if (rc < 0)
                return rc;
        size_t n = p->doc_count++;
        if ((n & (n - 1)) == 0)
                p->docs = cas_xrealloc(p->docs, (n ? n * 2 : 1) * sizeof(*p->docs));
        p->docs[n] = (struct reg_plan_doc){.info = *info, .has_subject = m.has_subject};
        cas_buf_append(&p->docs[n].bytes, bytes->data, bytes->len_bytes);
        return 0;
}

int reg_plan_add(struct reg_plan *p, const struct reg_plan_source *source,
                 const struct cas_manifest_info *info, const struct cas_buf *bytes,
                 struct cas_err *err)
{
        if (!p->seen_docs) {
                p->seen_docs = cas_map_new();
                p->seen_blobs = cas_map_new();
                p->complete = true;
        }
        return add_doc(p, source, info, bytes, 0, err);
}
