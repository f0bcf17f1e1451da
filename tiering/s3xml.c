/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/s3xml_int.h"

#include <expat.h>

#include "tiering/s3sign_int.h"

#define PATH_BYTES 256

/* One walk over a document: fn is called at the end of each element with its path
 * ("Root/Child/…") and its text. */
struct walk {
        XML_Parser parser;
        void (*fn)(struct walk *w, const char *path, const char *text);
        void *arg;
        char path[PATH_BYTES];
        size_t starts[S3_XML_DEPTH_MAX]; /* in path: where each open element's name begins */
        unsigned depth, elements;
        struct cas_buf text;
        struct cas_err *err;
        bool failed;
};

static void fail(struct walk *w, enum cas_code code, const char *what)
{
        if (w->failed)
                return;
        w->failed = true;
        (void)cas_fail(w->err, code, "answer of the store: %s", what);
        (void)XML_StopParser(w->parser, XML_FALSE);
}

static void on_doctype(void *arg, const XML_Char *name CAS_UNUSED, const XML_Char *sys CAS_UNUSED,
                       const XML_Char *pub CAS_UNUSED, int internal CAS_UNUSED)
{
        fail(arg, CAS_E_CORRUPT, "a document type, which none of its answers has");
}

static void on_start(void *arg, const XML_Char *name, const XML_Char **attributes CAS_UNUSED)
{
        struct walk *w = arg;
        size_t at = strlen(w->path), len = strlen(name);
        if (w->depth == S3_XML_DEPTH_MAX || at + len + 2 > PATH_BYTES) {
                fail(w, CAS_E_LIMIT, "nested too deep");
                return;
        }
        if (++w->elements > S3_XML_ELEMENTS_MAX) {
                fail(w, CAS_E_LIMIT, "too many elements");
                return;
        }
        w->starts[w->depth++] = at;
        (void)snprintf(w->path + at, PATH_BYTES - at, "%s%s", at > 0 ? "/" : "", name);
        cas_buf_clear(&w->text);
}

static void on_text(void *arg, const XML_Char *text, int len)
{
        struct walk *w = arg;
        if (w->failed)
                return;
        if (w->text.len_bytes + (size_t)len > S3_XML_TEXT_BYTES_MAX) {
                fail(w, CAS_E_LIMIT, "too long a text");
                return;
        }
        cas_buf_append(&w->text, text, (size_t)len);
}

static void on_end(void *arg, const XML_Char *name CAS_UNUSED)
{
        struct walk *w = arg;
        if (w->failed)
                return;
        w->fn(w, w->path, cas_buf_str(&w->text));
        w->path[w->starts[--w->depth]] = '\0';
        cas_buf_clear(&w->text);
}

static int walk_document(const void *data, size_t len,
                         void (*fn)(struct walk *w, const char *path, const char *text), void *arg,
                         struct cas_err *err)
{
        if (len > S3_XML_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "answer of the store: over %zu bytes",
                                S3_XML_BYTES_MAX);
        struct walk w = {.fn = fn, .arg = arg, .err = err};
        w.parser = XML_ParserCreate(NULL);
        cas_assert(w.parser != NULL);
        XML_SetUserData(w.parser, &w);
        XML_SetStartDoctypeDeclHandler(w.parser, on_doctype);
        XML_SetElementHandler(w.parser, on_start, on_end);
        XML_SetCharacterDataHandler(w.parser, on_text);
        enum XML_Status status = XML_Parse(w.parser, data, (int)len, 1);
        if (status != XML_STATUS_OK && !w.failed) {
                w.failed = true;
                (void)cas_fail(err, CAS_E_CORRUPT, "answer of the store: no XML (%s)",
                               XML_ErrorString(XML_GetErrorCode(w.parser)));
        }
        XML_ParserFree(w.parser);
        cas_buf_release(&w.text);
        return w.failed ? -(int)err->code : 0;
}

static void copy_printable(const char *text, char *out, size_t size)
{
        size_t i = 0;
        for (; text[i] && i + 1 < size; i++)
                out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
        out[i] = '\0';
}

static void problem_element(struct walk *w, const char *path, const char *text)
{
        struct s3_problem *p = w->arg;
        if (strcmp(path, "Error/Code") == 0)
                copy_printable(text, p->code, sizeof(p->code));
        else if (strcmp(path, "Error/Message") == 0)
                copy_printable(text, p->message, sizeof(p->message));
        else if (strcmp(path, "Error/Region") == 0)
                copy_printable(text, p->region, sizeof(p->region));
}

void s3_xml_problem(const void *data, size_t len, struct s3_problem *out)
{
        struct cas_err ignored = CAS_ERR_INIT;
        *out = (struct s3_problem){0};
        if (walk_document(data, len, problem_element, out, &ignored) < 0)
                *out = (struct s3_problem){0};
}

bool s3_xml_is_problem(const void *data, size_t len)
{
        struct s3_problem p;
        s3_xml_problem(data, len, &p);
        return p.code[0] != '\0';
}

bool s3_time_parse(const char *text, int64_t *out_unix_s)
{
        struct tm t = {0};
        const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &t);
        if (!end)
                return false;
        if (*end == '.')
                end += 1 + strspn(end + 1, "0123456789");
        if (strcmp(end, "Z") != 0)
                return false;
        *out_unix_s = timegm(&t);
        return *out_unix_s >= 0;
}

static bool parse_size(const char *text, uint64_t *out)
{
        size_t digits = strspn(text, "0123456789");
        if (digits == 0 || digits > 18 || text[digits])
                return false;
        *out = strtoull(text, NULL, 10);
        return true;
}

static void set_text(char **out, const char *text)
{
        free(*out);
        *out = cas_xstrdup(text);
}

/* A listing. */

struct page_walk {
        struct s3_page *page;
        struct s3_listed item; /* that is being read */
        bool encoded;          /* keys are percent-encoded */
        bool root;             /* it was a listing at all */
};

static void add_listed(struct walk *w, struct page_walk *p, bool is_prefix)
{
        struct s3_page *page = p->page;
        if (!p->item.key) {
                fail(w, CAS_E_CORRUPT, "an object without a key");
                return;
        }
        if (page->count == S3_LISTED_MAX) {
                fail(w, CAS_E_LIMIT, "too many objects in one page");
                return;
        }
        if (page->count == page->alloc_count) {
                page->alloc_count = page->alloc_count ? 2 * page->alloc_count : 64;
                page->items = cas_xrealloc(page->items, page->alloc_count * sizeof(*page->items));
        }
        p->item.is_prefix = is_prefix;
        page->items[page->count++] = p->item;
        p->item = (struct s3_listed){0};
}

static void page_element(struct walk *w, const char *path, const char *text)
{
        struct page_walk *p = w->arg;
        static const char root[] = "ListBucketResult";
        if (strncmp(path, root, sizeof(root) - 1) != 0)
                return;
        const char *at = path + sizeof(root) - 1;
        if (!*at)
                p->root = true;
        else if (strcmp(at, "/Contents/Key") == 0 || strcmp(at, "/CommonPrefixes/Prefix") == 0)
                set_text(&p->item.key, text);
        else if (strcmp(at, "/Contents/ETag") == 0)
                copy_printable(text, p->item.object.etag, S3_ETAG_BYTES);
        else if (strcmp(at, "/Contents/Size") == 0) {
                if (!parse_size(text, &p->item.object.size_bytes))
                        fail(w, CAS_E_CORRUPT, "an object's size is none");
        } else if (strcmp(at, "/Contents/LastModified") == 0) {
                if (!s3_time_parse(text, &p->item.object.modified_unix_s))
                        fail(w, CAS_E_CORRUPT, "an object's time is none");
        } else if (strcmp(at, "/Contents") == 0)
                add_listed(w, p, false);
        else if (strcmp(at, "/CommonPrefixes") == 0)
                add_listed(w, p, true);
        else if (strcmp(at, "/IsTruncated") == 0)
                p->page->truncated = strcmp(text, "true") == 0;
        else if (strcmp(at, "/NextContinuationToken") == 0)
                set_text(&p->page->token, text);
        else if (strcmp(at, "/EncodingType") == 0)
                p->encoded = strcmp(text, "url") == 0;
}

void s3_page_release(struct s3_page *p)
{
        for (size_t i = 0; i < p->count; i++)
                free(p->items[i].key);
        free(p->items);
        free(p->token);
        *p = (struct s3_page){0};
}

static int by_key(const void *a, const void *b)
{
        return strcmp(((const struct s3_listed *)a)->key, ((const struct s3_listed *)b)->key);
}

int s3_xml_page(const void *data, size_t len, struct s3_page *out, struct cas_err *err)
{
        s3_cleanup_page struct s3_page page = {0};
        struct page_walk p = {.page = &page};
        int rc = walk_document(data, len, page_element, &p, err);
        free(p.item.key);
        if (rc < 0)
                return rc;
        if (!p.root)
                return cas_fail(err, CAS_E_CORRUPT, "answer of the store: no listing");
        for (size_t i = 0; p.encoded && i < page.count; i++) {
                if (!s3_decode(page.items[i].key))
                        return cas_fail(err, CAS_E_CORRUPT,
                                        "answer of the store: a key that is not encoded well");
        }
        if (page.count > 0)
                qsort(page.items, page.count, sizeof(*page.items), by_key);
        *out = page;
        page = (struct s3_page){0};
        return 0;
}

/* Uploads that were begun. */

struct uploads_walk {
        struct s3_uploads *uploads;
        struct s3_upload item;
        bool encoded, root;
};

static void add_upload(struct walk *w, struct uploads_walk *p)
{
        struct s3_uploads *u = p->uploads;
        if (!p->item.key || !p->item.id) {
                fail(w, CAS_E_CORRUPT, "an upload without a key or an id");
                return;
        }
        if (u->count == S3_LISTED_MAX) {
                fail(w, CAS_E_LIMIT, "too many uploads in one page");
                return;
        }
        if (u->count == u->alloc_count) {
                u->alloc_count = u->alloc_count ? 2 * u->alloc_count : 16;
                u->items = cas_xrealloc(u->items, u->alloc_count * sizeof(*u->items));
        }
        u->items[u->count++] = p->item;
        p->item = (struct s3_upload){0};
}

static void uploads_element(struct walk *w, const char *path, const char *text)
{
        struct uploads_walk *p = w->arg;
        static const char root[] = "ListMultipartUploadsResult";
        if (strncmp(path, root, sizeof(root) - 1) != 0)
                return;
        const char *at = path + sizeof(root) - 1;
        if (!*at)
                p->root = true;
        else if (strcmp(at, "/Upload/Key") == 0)
                set_text(&p->item.key, text);
        else if (strcmp(at, "/Upload/UploadId") == 0)
                set_text(&p->item.id, text);
        else if (strcmp(at, "/Upload/Initiated") == 0) {
                if (!s3_time_parse(text, &p->item.begun_unix_s))
                        fail(w, CAS_E_CORRUPT, "an upload's time is none");
        } else if (strcmp(at, "/Upload") == 0)
                add_upload(w, p);
        else if (strcmp(at, "/IsTruncated") == 0)
                p->uploads->truncated = strcmp(text, "true") == 0;
        else if (strcmp(at, "/NextKeyMarker") == 0)
                set_text(&p->uploads->key_marker, text);
        else if (strcmp(at, "/NextUploadIdMarker") == 0)
                set_text(&p->uploads->id_marker, text);
        else if (strcmp(at, "/EncodingType") == 0)
                p->encoded = strcmp(text, "url") == 0;
}

void s3_uploads_release(struct s3_uploads *u)
{
        for (size_t i = 0; i < u->count; i++) {
                free(u->items[i].key);
                free(u->items[i].id);
        }
        free(u->items);
        free(u->key_marker);
        free(u->id_marker);
        *u = (struct s3_uploads){0};
}

int s3_xml_uploads(const void *data, size_t len, struct s3_uploads *out, struct cas_err *err)
{
        s3_cleanup_uploads struct s3_uploads uploads = {0};
        struct uploads_walk p = {.uploads = &uploads};
        int rc = walk_document(data, len, uploads_element, &p, err);
        free(p.item.key);
        free(p.item.id);
        if (rc < 0)
                return rc;
        bool well = p.root;
        for (size_t i = 0; p.encoded && well && i < uploads.count; i++)
                well = s3_decode(uploads.items[i].key);
        if (p.encoded && well && uploads.key_marker)
                well = s3_decode(uploads.key_marker);
        if (!well)
                return cas_fail(err, CAS_E_CORRUPT, "answer of the store: no list of uploads");
        *out = uploads;
        uploads = (struct s3_uploads){0};
        return 0;
}

/* Answers of one value. */

static void upload_id_element(struct walk *w, const char *path, const char *text)
{
        if (strcmp(path, "InitiateMultipartUploadResult/UploadId") == 0)
                set_text((char **)w->arg, text);
}

int s3_xml_upload_id(const void *data, size_t len, char **out, struct cas_err *err)
{
        cas_cleanup_free char *id = NULL;
        if (walk_document(data, len, upload_id_element, &id, err) < 0)
                return -(int)err->code;
        if (!id || !*id)
                return cas_fail(err, CAS_E_CORRUPT, "answer of the store: no id of an upload");
        *out = cas_steal(&id);
        return 0;
}

static void completed_element(struct walk *w, const char *path, const char *text CAS_UNUSED)
{
        if (strcmp(path, "CompleteMultipartUploadResult") == 0)
                *(bool *)w->arg = true;
}

int s3_xml_completed(const void *data, size_t len, struct cas_err *err)
{
        bool completed = false;
        if (walk_document(data, len, completed_element, &completed, err) < 0)
                return -(int)err->code;
        if (!completed)
                return cas_fail(err, CAS_E_CORRUPT, "answer of the store: no end of an upload");
        return 0;
}
