/* SPDX-License-Identifier: Apache-2.0 */
/* Lists: of keys, and of uploads in parts that were left behind. */
#include "tiering/s3_int.h"

#define PAGES_BARREN_MAX 8 /* one after the other, that bring nothing new */
#define PAGE_KEYS "1000"

/* One page of a list. */
static int ask(struct s3 *s, struct s3_request *r, struct cas_buf *body, struct cas_err *err)
{
        s3_cleanup_answer struct s3_answer a = {0};
        r->method = "GET";
        r->into = (struct s3_into){.kind = S3_SINK_BUF, .buf = body, .bytes = S3_XML_BYTES_MAX};
        if (s3_perform(s, r, &a, err) < 0)
                return -(int)err->code;
        return a.status == 200 ? 0 : s3_fail_answer(s, r, &a, err);
}

struct listing {
        const char *prefix; /* whole; "" for all */
        const char *after;  /* whole; NULL: from the beginning */
        char delimiter[2];
        size_t strip;       /* what of each key is the configuration's */
        char *token, *last; /* owned */
        unsigned barren;
};

static void listing_release(struct listing *l)
{
        free(l->token);
        free(l->last);
}

static int read_page(struct s3 *s, struct listing *l, struct s3_page *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        struct s3_request r = {0};
        s3_request_query(&r, "list-type", "2");
        s3_request_query(&r, "encoding-type", "url");
        s3_request_query(&r, "max-keys", PAGE_KEYS);
        if (*l->prefix)
                s3_request_query(&r, "prefix", l->prefix);
        if (l->delimiter[0])
                s3_request_query(&r, "delimiter", l->delimiter);
        if (l->token)
                s3_request_query(&r, "continuation-token", l->token);
        else if (l->after)
                s3_request_query(&r, "start-after", l->after);
        if (ask(s, &r, &body, err) < 0)
                return -(int)err->code;
        return s3_xml_page(body.data, body.len_bytes, out, err);
}

/* Tells of a page's items. Returns 0, 1 (enough), or -code. */
static int tell_page(struct listing *l, const struct s3_page *page,
                     int (*fn)(void *arg, const char *key, const struct s3_object *object,
                               struct cas_err *err),
                     void *arg, struct cas_err *err)
{
        bool any = false;
        for (size_t i = 0; i < page->count; i++) {
                const struct s3_listed *item = &page->items[i];
                int order = l->last ? strcmp(item->key, l->last) : 1;
                if (strncmp(item->key, l->prefix, strlen(l->prefix)) != 0 || order < 0)
                        return cas_fail(err, CAS_E_CORRUPT,
                                        "the store lists what was not asked for, or in no order");
                if (order == 0 || (l->after && strcmp(item->key, l->after) <= 0))
                        continue; /* said before; a prefix of what was */
                any = true;
                free(l->last);
                l->last = cas_xstrdup(item->key);
                int rc = fn(arg, item->key + l->strip, item->is_prefix ? NULL : &item->object, err);
                if (rc != 0)
                        return rc;
        }
        l->barren = any ? 0 : l->barren + 1;
        return 0;
}

static int walk(struct s3 *s, struct listing *l,
                int (*fn)(void *arg, const char *key, const struct s3_object *object,
                          struct cas_err *err),
                void *arg, struct cas_err *err)
{
        for (;;) {
                s3_cleanup_page struct s3_page page = {0};
                if (read_page(s, l, &page, err) < 0)
                        return -(int)err->code;
                int rc = tell_page(l, &page, fn, arg, err);
                if (rc != 0)
                        return rc < 0 ? rc : 0;
                if (!page.truncated)
                        return 0;
                if (!page.token || l->barren == PAGES_BARREN_MAX)
                        return cas_fail(err, CAS_E_CORRUPT, "the store's list does not end");
                free(l->token);
                l->token = cas_steal(&page.token);
        }
}

int s3_list(struct s3 *s, const char *prefix, const char *after, char delimiter,
            int (*fn)(void *arg, const char *key, const struct s3_object *object,
                      struct cas_err *err),
            void *arg, struct cas_err *err)
{
        const char *ours = s->config.prefix;
        cas_cleanup_free char *whole =
                ours ? cas_xasprintf("%s/%s", ours, prefix) : cas_xstrdup(prefix);
        cas_cleanup_free char *whole_after = NULL;
        if (after && s3_key(s, after, &whole_after, err) < 0)
                return -(int)err->code;
        __attribute__((cleanup(listing_release))) struct listing l = {
                .prefix = whole,
                .after = whole_after,
                .delimiter = {delimiter},
                .strip = ours ? strlen(ours) + 1 : 0};
        int rc = walk(s, &l, fn, arg, err);
        return rc < 0 ? cas_err_wrap(err, "list of %.200s", whole) : 0;
}

/* Uploads that were left behind. */

static int read_uploads(struct s3 *s, const char *prefix, const struct s3_uploads *before,
                        struct s3_uploads *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        struct s3_request r = {0};
        s3_request_query(&r, "uploads", "");
        s3_request_query(&r, "encoding-type", "url");
        s3_request_query(&r, "prefix", prefix);
        if (before->key_marker)
                s3_request_query(&r, "key-marker", before->key_marker);
        if (before->key_marker && before->id_marker)
                s3_request_query(&r, "upload-id-marker", before->id_marker);
        if (ask(s, &r, &body, err) < 0)
                return -(int)err->code;
        return s3_xml_uploads(body.data, body.len_bytes, out, err);
}

int s3_abort_upload(struct s3 *s, const char *key, const char *id, struct cas_err *err)
{
        s3_cleanup_answer struct s3_answer a = {0};
        struct s3_request r = {.method = "DELETE", .key = key};
        s3_request_query(&r, "uploadId", id);
        if (s3_perform(s, &r, &a, err) < 0)
                return -(int)err->code;
        return a.status < 300 || a.status == 404 ? 0 : s3_fail_answer(s, &r, &a, err);
}

int s3_abort_uploads(struct s3 *s, const char *prefix, unsigned older_s, unsigned *out_count,
                     struct cas_err *err)
{
        const char *ours = s->config.prefix;
        cas_cleanup_free char *whole =
                ours ? cas_xasprintf("%s/%s", ours, prefix) : cas_xstrdup(prefix);
        s3_cleanup_uploads struct s3_uploads page = {0};
        unsigned count = 0;
        for (unsigned pages = 0; pages == 0 || page.truncated; pages++) {
                struct s3_uploads next = {0};
                if (pages == S3_UPLOAD_PAGES_MAX || (pages > 0 && !page.key_marker))
                        return cas_fail(err, CAS_E_CORRUPT, "the store's list does not end");
                if (read_uploads(s, whole, &page, &next, err) < 0)
                        return cas_err_wrap(err, "uploads of %.200s", whole);
                s3_uploads_release(&page);
                page = next;
                int64_t since = time(NULL) + atomic_load(&s->skew_s) - older_s;
                for (size_t i = 0; i < page.count; i++) {
                        const struct s3_upload *u = &page.items[i];
                        if (u->begun_unix_s > since || strncmp(u->key, whole, strlen(whole)) != 0)
                                continue;
                        if (s3_abort_upload(s, u->key, u->id, err) < 0)
                                return -(int)err->code;
                        count++;
                }
        }
        if (out_count)
                *out_count = count;
        return 0;
}
