/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/webpage.h"

#include <stdio.h>
#include <strings.h>
#include <time.h>

#include "cas/condense.h"
#include "cas/limits.h"
#include "registry/access_int.h"
#include "registry/operation.h"
#include "registry/webhtml.h"
#include "registry/websharing.h"

#define REPOS_PER_PAGE 50
#define REPOS_LOOKED_AT 20000 /* for one page of a search */
#define TAGS_PER_PAGE 50
#define TAGS_COUNTED 1000
#define REFERRERS_SHOWN 50
#define CHILDREN_SHOWN 200
#define CSP                                                                                        \
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "              \
        "frame-ancestors 'none'"

bool reg_web_path(const struct reg_uri *uri)
{
        if (uri->segment_count == 0)
                return true;
        return (uri->segment_count == 1 && uri->segments[0][0] == '\0') ||
               strcmp(uri->segments[0], "web") == 0;
}

/* ---- answers ---- */

static void page_headers(struct reg_http_req *req)
{
        reg_http_reply_header(req, "Content-Type", "text/html; charset=utf-8");
        reg_http_reply_header(req, "Content-Security-Policy", CSP);
        reg_http_reply_header(req, "Referrer-Policy", "no-referrer");
        reg_http_reply_header(req, "Cache-Control", "private, no-store");
        reg_http_reply_header(req, "Vary", "Authorization");
}

static void reply_page(struct reg_call *call, unsigned status, struct cas_buf *page)
{
        reg_html_end(page);
        page_headers(call->req);
        reg_metrics_add(reg_operation_metrics(call->registry->operation), REG_COUNTER_WEB_PAGES, 1);
        reg_http_reply_buf(call->req, status, page);
}

/* For the top of the page: nobody signs in where all is for everybody. */
static const char *viewer(const struct reg_call *call)
{
        bool open = !call->identity->user[0] && reg_access_public(call->registry->access, NULL);
        return open ? NULL : call->identity->user;
}

static void reply_message(struct reg_http_req *req, unsigned status, const char *user,
                          const char *title, const char *text)
{
        cas_cleanup_buf struct cas_buf page = CAS_BUF_INIT;
        reg_html_begin(&page, title, user);
        cas_buf_append_str(&page, "<h1>");
        reg_html_text(&page, title);
        cas_buf_append_str(&page, "</h1><p>");
        reg_html_text(&page, text);
        cas_buf_append_str(&page, "</p>");
        reg_html_end(&page);
        page_headers(req);
        reg_http_reply_buf(req, status, &page);
}

void reg_web_refuse(struct reg_http_req *req, enum reg_verdict verdict)
{
        switch (verdict) {
        case REG_UNAUTHORIZED:
                reg_http_reply_header(req, "WWW-Authenticate",
                                      "Basic realm=\"lamina\", charset=\"UTF-8\"");
                reply_message(req, 401, "", "Sign in", "This page is shown to who signs in.");
                return;
        case REG_LIMITED:
                reg_http_reply_header(req, "Retry-After", "1");
                reply_message(req, 429, "", "Too often", "Try again in a moment.");
                return;
        case REG_FORBIDDEN:
        case REG_ALLOWED:
        case REG_LATER:
                break;
        }
        reply_message(req, 403, "", "Not permitted", "This is not for you to see.");
}

static void reply_error(struct reg_call *call, const struct cas_err *err)
{
        bool absent = err->code == CAS_E_NOTFOUND || err->code == CAS_E_INVALID;
        reply_message(call->req, absent ? 404 : 500, viewer(call),
                      absent ? "Not found" : "Something went wrong",
                      absent ? "There is no such image here." : "The log says more.");
}

/* The repository that the query names, if who asks may see it. False: answered. What is not there
 * looks as what is not to be seen. */
static bool find_repo(struct reg_call *call, const char **out)
{
        struct cas_err err = CAS_ERR_INIT;
        const char *repo = reg_uri_param(reg_http_uri(call->req), "name");
        struct reg_access *access = call->registry->access;
        bool exists = false;
        if (!repo || !cas_repo_name_valid(repo)) {
                (void)cas_fail(&err, CAS_E_NOTFOUND, "no name");
                reply_error(call, &err);
                return false;
        }
        enum reg_verdict verdict =
                reg_access_check(access, call->req, call->identity, repo, REG_ACTION_PULL);
        if (verdict != REG_ALLOWED) {
                reg_web_refuse(call->req, verdict);
                return false;
        }
        if (cas_repo_exists(call->store, repo, &exists, &err) == 0 && !exists)
                (void)cas_fail(&err, CAS_E_NOTFOUND, "no repository");
        if (err.code != CAS_OK)
                reply_error(call, &err);
        *out = repo;
        return err.code == CAS_OK;
}

/* ---- what is stored ---- */

/* Sizes of the whole store are for those who may read all of it, or have signed in. */
static void append_totals(struct reg_call *call, struct cas_buf *page)
{
        struct reg_operation *op = call->registry->operation;
        struct cas_store_stats s;
        uint64_t images, image_bytes;
        bool allowed = call->identity->user[0] || reg_access_public(call->registry->access, NULL);
        if (!allowed || !reg_operation_stats(op, &s) || s.blob_count == 0)
                return;
        struct reg_html_bar bars[3];
        size_t count = 0;
        if (reg_websharing_bytes(reg_operation_sharing(op), &images, &image_bytes) &&
            image_bytes > s.blob_bytes)
                bars[count++] = (struct reg_html_bar){
                        "Images, each by itself", 1, {{"grey", "images", image_bytes}}};
        bars[count++] = (struct reg_html_bar){
                "Layers, each once, as pushed", 1, {{"c", "layers", s.blob_bytes}}};
        uint64_t cached = s.cached_bytes, verbatim = s.copy_bytes - s.cached_bytes;
        bars[count++] = (struct reg_html_bar){"Stored on disk",
                                              4,
                                              {{"a", "files, each once", s.pack_bytes},
                                               {"c", "layers as pushed", verbatim},
                                               {"grey", "copies kept for speed", cached},
                                               {"b", "trees of mounts", s.tree_bytes}}};
        cas_buf_append_str(page, "<section class=\"card\"><h2>What is stored</h2>");
        reg_html_bars(page, bars, count);
        cas_buf_printf(page,
                       "<p class=\"dim small\">%llu repositories, %llu tags, %llu layers and other "
                       "blobs, %llu of them condensed; %llu distinct files</p></section>",
                       (unsigned long long)s.repo_count, (unsigned long long)s.tag_count,
                       (unsigned long long)s.blob_count, (unsigned long long)s.condensed_count,
                       (unsigned long long)s.object_count);
}

/* ---- repositories ---- */

struct repo_list {
        struct reg_call *call;
        const char *query;
        size_t looked_at, count;
        bool more;
        char names[REPOS_PER_PAGE][CAS_REPO_NAME_BYTES_MAX + 1];
        char last[CAS_REPO_NAME_BYTES_MAX + 1]; /* that was looked at */
};

static bool take_repo(void *arg, const char *repo)
{
        struct repo_list *list = arg;
        const struct reg_call *call = list->call;
        if (list->count == REPOS_PER_PAGE || list->looked_at == REPOS_LOOKED_AT) {
                list->more = true;
                return false;
        }
        list->looked_at++;
        (void)snprintf(list->last, sizeof(list->last), "%s", repo);
        if (strcasestr(repo, list->query) &&
            reg_access_lists(call->registry->access, call->identity, repo))
                (void)snprintf(list->names[list->count++], sizeof(list->names[0]), "%s", repo);
        return true;
}

static bool count_tag(void *arg, const char *tag CAS_UNUSED,
                      const struct cas_digest *manifest CAS_UNUSED)
{
        size_t *count = arg;
        return ++*count < TAGS_COUNTED;
}

static void append_repo_link(struct cas_buf *page, const char *repo)
{
        cas_buf_append_str(page, "<a href=\"/web/repo?name=");
        reg_html_query(page, repo);
        cas_buf_append_str(page, "\">");
        reg_html_text(page, repo);
        cas_buf_append_str(page, "</a>");
}

static void append_repos(const struct repo_list *list, struct cas_buf *page)
{
        cas_buf_append_str(page, "<table><tr><th>Repository</th><th class=\"n\">Tags</th></tr>");
        for (size_t i = 0; i < list->count; i++) {
                struct cas_err err = CAS_ERR_INIT;
                size_t tags = 0;
                cas_buf_append_str(page, "<tr><td class=\"name\">");
                append_repo_link(page, list->names[i]);
                if (cas_tag_each(list->call->store, list->names[i], NULL, count_tag, &tags, &err) <
                    0)
                        tags = 0;
                cas_buf_printf(page, "</td><td class=\"n\">%zu%s</td></tr>\n", tags,
                               tags == TAGS_COUNTED ? "+" : "");
        }
        cas_buf_append_str(page, "</table>");
}

static void repos_page(struct reg_call *call)
{
        const struct reg_uri *uri = reg_http_uri(call->req);
        const char *query = reg_uri_param(uri, "q"), *last = reg_uri_param(uri, "last");
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf page = CAS_BUF_INIT;
        cas_cleanup_free struct repo_list *list = cas_xcalloc(1, sizeof(*list));
        if (!reg_access_take(call->registry->access, call->req, call->identity->user)) {
                reg_web_refuse(call->req, REG_LIMITED); /* other pages: find_repo */
                return;
        }
        list->call = call;
        list->query = query ? query : "";
        if (cas_repo_each(call->store,
                          last && strlen(last) <= CAS_REPO_NAME_BYTES_MAX ? last : NULL, take_repo,
                          list, &err) < 0) {
                reply_error(call, &err);
                return;
        }
        reg_html_begin(&page, "Images", viewer(call));
        if (!last && !query)
                append_totals(call, &page);
        cas_buf_append_str(&page, "<form action=\"/web/\" method=\"get\" role=\"search\"><input "
                                  "type=\"search\" name=\"q\" placeholder=\"Search repositories\" "
                                  "aria-label=\"Search repositories\" value=\"");
        reg_html_text(&page, list->query);
        cas_buf_append_str(&page, "\"><button>Search</button></form>\n<section class=\"card\">");
        if (list->count > 0)
                append_repos(list, &page);
        else
                cas_buf_append_str(&page, "<p class=\"dim\">No repository.</p>");
        cas_buf_append_str(&page, "</section>");
        if (list->more) {
                cas_buf_append_str(&page, "<p class=\"more\"><a href=\"/web/?q=");
                reg_html_query(&page, list->query);
                cas_buf_append_str(&page, "&amp;last=");
                reg_html_query(&page, list->last);
                cas_buf_append_str(&page, "\">more</a></p>");
        }
        reply_page(call, 200, &page);
}

/* ---- tags ---- */

struct tag_row {
        char name[CAS_TAG_BYTES_MAX + 1];
        struct cas_digest manifest;
};
struct tag_list {
        size_t count;
        bool more;
        struct tag_row rows[TAGS_PER_PAGE];
};

static bool take_tag(void *arg, const char *tag, const struct cas_digest *manifest)
{
        struct tag_list *list = arg;
        if (list->count == TAGS_PER_PAGE) {
                list->more = true;
                return false;
        }
        struct tag_row *row = &list->rows[list->count++];
        (void)snprintf(row->name, sizeof(row->name), "%s", tag);
        row->manifest = *manifest;
        return true;
}

/* Reads and parses a manifest of the repository. */
static int load(struct cas_store *s, const char *repo, const struct cas_digest *digest,
                struct cas_manifest_info *info, struct cas_manifest *m, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        int rc = cas_manifest_stat(s, repo, digest, info, err);
        if (rc == 0)
                rc = cas_blob_read(s, digest, CAS_MANIFEST_BYTES_MAX, &bytes, err);
        return rc < 0 ? rc
                      : cas_manifest_parse(bytes.data, bytes.len_bytes, info->media_type, m, err);
}

static uint64_t image_bytes(const struct cas_manifest *m)
{
        uint64_t bytes = m->config.size_bytes;
        for (size_t i = 0; i < m->child_count; i++)
                bytes += m->children[i].size_bytes;
        return bytes;
}

static void append_image_link(struct cas_buf *page, const char *repo, const char *ref)
{
        cas_buf_append_str(page, "<a href=\"/web/image?name=");
        reg_html_query(page, repo);
        cas_buf_append_str(page, "&amp;ref=");
        reg_html_query(page, ref);
        cas_buf_append_str(page, "\">");
}

static void append_tag(struct reg_call *call, const char *repo, const struct tag_row *row,
                       uint64_t now_s, struct cas_buf *page)
{
        cas_cleanup_manifest struct cas_manifest m = {0};
        struct cas_manifest_info info;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_tag_times times = {0};
        char digest[CAS_DIGEST_TEXT_BYTES];
        if (reg_tagclock_get(reg_operation_tagclock(call->registry->operation), repo, row->name,
                             &row->manifest, &times, &err) < 0)
                times = (struct cas_tag_times){0};
        cas_buf_append_str(page, "<tr><td class=\"name\">");
        append_image_link(page, repo, row->name);
        reg_html_text(page, row->name);
        cas_buf_append_str(page, "</a></td><td class=\"wide\">");
        reg_html_digest(page, cas_digest_text(&row->manifest, digest));
        cas_buf_append_str(page, "</td><td>");
        reg_html_ago(page, times.pushed_unix_s, now_s);
        cas_buf_append_str(page, "</td><td class=\"wide\">");
        reg_html_ago(page, times.pulled_unix_s, now_s);
        cas_buf_append_str(page, "</td><td class=\"n\">");
        if (load(call->store, repo, &row->manifest, &info, &m, &err) < 0)
                cas_buf_append_str(page, "&ndash;");
        else if (m.kind == CAS_MANIFEST_INDEX)
                cas_buf_printf(page, "%zu images", m.child_count);
        else
                reg_html_bytes(page, image_bytes(&m));
        cas_buf_append_str(page, "</td></tr>\n");
}

static void repo_page(struct reg_call *call)
{
        const char *repo, *last = reg_uri_param(reg_http_uri(call->req), "last");
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf page = CAS_BUF_INIT;
        cas_cleanup_free struct tag_list *list = cas_xcalloc(1, sizeof(*list));
        uint64_t now_s = (uint64_t)time(NULL);
        if (!find_repo(call, &repo))
                return;
        if (cas_tag_each(call->store, repo, last && cas_tag_valid(last) ? last : NULL, take_tag,
                         list, &err) < 0) {
                reply_error(call, &err);
                return;
        }
        reg_html_begin(&page, repo, viewer(call));
        cas_buf_append_str(&page,
                           "<p class=\"small\"><a href=\"/web/\">All repositories</a></p><h1>");
        reg_html_text(&page, repo);
        cas_buf_append_str(&page, "</h1><section class=\"card\">");
        if (list->count > 0)
                cas_buf_append_str(&page, "<table><tr><th>Tag</th><th class=\"wide\">Digest</th>"
                                          "<th>Pushed</th><th class=\"wide\">Pulled</th>"
                                          "<th class=\"n\">Size</th></tr>");
        for (size_t i = 0; i < list->count; i++)
                append_tag(call, repo, &list->rows[i], now_s, &page);
        cas_buf_append_str(&page, list->count > 0 ? "</table></section>"
                                                  : "<p class=\"dim\">No tag.</p></section>");
        if (list->more) {
                cas_buf_append_str(&page, "<p class=\"more\"><a href=\"/web/repo?name=");
                reg_html_query(&page, repo);
                cas_buf_append_str(&page, "&amp;last=");
                reg_html_query(&page, list->rows[list->count - 1].name);
                cas_buf_append_str(&page, "\">more</a></p>");
        }
        reply_page(call, 200, &page);
}

/* ---- an image ---- */

struct image {
        struct reg_call *call;
        const char *repo, *ref;
        struct cas_manifest_info info;
        struct cas_manifest manifest;
        char digest[CAS_DIGEST_TEXT_BYTES];
};

static void row(struct cas_buf *page, const char *term, const char *value)
{
        if (!value[0])
                return;
        cas_buf_printf(page, "<dt>%s</dt><dd>", term);
        reg_html_text(page, value);
        cas_buf_append_str(page, "</dd>");
}

static void append_words(struct cas_buf *out, char *const *words)
{
        for (size_t i = 0; words && words[i] && out->len_bytes < 2000; i++)
                cas_buf_printf(out, "%s%.500s", out->len_bytes ? " " : "", words[i]);
}

/* Manifests may name what is in other repositories alone: whether that is in the store, and what
 * it is, is no business of theirs. */
static bool is_linked(const struct image *im, const struct cas_digest *d)
{
        struct cas_err ignored = CAS_ERR_INIT;
        bool linked = false;
        return cas_blob_linked(im->call->store, im->repo, d, &linked, &ignored) == 0 && linked;
}

static void append_config(const struct image *im, struct cas_buf *page)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT, command = CAS_BUF_INIT;
        cas_cleanup_image_config struct cas_image_config config = {0};
        struct cas_err err = CAS_ERR_INIT;
        char platform[CAS_PLATFORM_TEXT_BYTES];
        const char *type = im->manifest.config.media_type;
        if ((strcmp(type, CAS_MT_OCI_CONFIG) != 0 && strcmp(type, CAS_MT_DOCKER_CONFIG) != 0) ||
            !is_linked(im, &im->manifest.config.digest) ||
            cas_blob_read(im->call->store, &im->manifest.config.digest, CAS_CONFIG_BYTES_MAX,
                          &bytes, &err) < 0 ||
            cas_image_config_parse(bytes.data, bytes.len_bytes, &config, &err) < 0)
                return;
        row(page, "Platform", cas_platform_text(&config.platform, platform));
        append_words(&command, config.entrypoint);
        append_words(&command, config.cmd);
        row(page, "Command", cas_buf_str(&command));
        row(page, "User", config.user ? config.user : "");
        row(page, "Directory", config.working_dir ? config.working_dir : "");
}

static void append_head(const struct image *im, struct cas_buf *page)
{
        const char *host = reg_http_header(im->call->req, "Host");
        cas_buf_append_str(page, "<p class=\"small\">");
        append_repo_link(page, im->repo);
        cas_buf_append_str(page, "</p><h1>");
        reg_html_text(page, im->repo);
        cas_buf_append_str(page, strchr(im->ref, ':') ? "@" : ":");
        reg_html_text(page, im->ref);
        cas_buf_append_str(page, "</h1><section class=\"card\"><h2>Pull</h2><pre>podman pull ");
        reg_html_text(page, host ? host : "localhost");
        cas_buf_append_byte(page, '/');
        reg_html_text(page, im->repo);
        cas_buf_append_str(page, strchr(im->ref, ':') ? "@" : ":");
        reg_html_text(page, im->ref);
        cas_buf_append_str(page, "</pre></section><section class=\"card\"><dl>");
        row(page, "Digest", im->digest);
        row(page, "Type", im->info.media_type);
        row(page, "Artifact", im->manifest.artifact_type);
        if (im->manifest.kind == CAS_MANIFEST_IMAGE) {
                append_config(im, page);
                cas_buf_append_str(page, "<dt>Size</dt><dd>");
                reg_html_bytes(page, image_bytes(&im->manifest));
                cas_buf_append_str(page, "</dd>");
        }
        cas_buf_append_str(page, "</dl></section>");
}

static void append_children(const struct image *im, struct cas_buf *page)
{
        cas_buf_append_str(page, "<section class=\"card\"><h2>Platforms</h2><table>"
                                 "<tr><th>Platform</th><th>Digest</th><th class=\"n\">Size</th>"
                                 "</tr>");
        for (size_t i = 0; i < im->manifest.child_count && i < CHILDREN_SHOWN; i++) {
                const struct cas_descriptor *d = &im->manifest.children[i];
                cas_cleanup_manifest struct cas_manifest child = {0};
                struct cas_manifest_info info;
                struct cas_err err = CAS_ERR_INIT;
                char digest[CAS_DIGEST_TEXT_BYTES], platform[CAS_PLATFORM_TEXT_BYTES] = "any";
                if (d->has_platform)
                        cas_platform_text(&d->platform, platform);
                int rc = load(im->call->store, im->repo, &d->digest, &info, &child, &err);
                cas_buf_append_str(page, "<tr><td>");
                reg_html_text(page, platform);
                cas_buf_append_str(page, "</td><td>");
                cas_digest_text(&d->digest, digest);
                if (rc == 0)
                        append_image_link(page, im->repo, digest);
                reg_html_digest(page, digest);
                cas_buf_append_str(page, rc == 0 ? "</a></td><td class=\"n\">"
                                                 : "</td><td class=\"n dim\">");
                if (rc == 0)
                        reg_html_bytes(page, image_bytes(&child));
                else
                        cas_buf_append_str(page, "not here");
                cas_buf_append_str(page, "</td></tr>\n");
        }
        cas_buf_append_str(page, "</table></section>");
}

/* How the store keeps a layer. */
static void append_form(const struct image *im, const struct cas_digest *d, struct cas_buf *page)
{
        struct cas_store *s = im->call->store;
        enum cas_blob_copy copy;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recipe_record recipe;
        if (!is_linked(im, d) || cas_blob_copy(s, d, &copy, &err) < 0) {
                cas_buf_append_str(page, "<span class=\"tag\">not here</span>");
                return;
        }
        const char *how = cas_recipe_stat(s, d, &recipe, &err) < 0 ? ""
                          : recipe.is_proved                       ? recipe.text
                                                                   : recipe.reason;
        cas_buf_append_str(page, "<span class=\"tag");
        cas_buf_append_str(page, copy == CAS_BLOB_CONDENSED ? " b\" title=\""
                                 : copy == CAS_BLOB_CACHED  ? " a\" title=\""
                                                            : "\" title=\"");
        reg_html_text(page, how);
        cas_buf_append_str(page, copy == CAS_BLOB_CONDENSED ? "\">condensed</span>"
                                 : copy == CAS_BLOB_CACHED  ? "\">condensed, copy kept</span>"
                                                            : "\">as pushed</span>");
}

static void append_layers(const struct image *im, struct cas_buf *page)
{
        struct cas_store *s = im->call->store;
        struct reg_websharing *sharing = reg_operation_sharing(im->call->registry->operation);
        bool counted = reg_access_public(im->call->registry->access, im->repo);
        uint64_t own = 0, shared = 0;
        bool known = true;
        cas_cleanup_buf struct cas_buf rows = CAS_BUF_INIT;
        for (size_t i = 0; i < im->manifest.child_count; i++) {
                const struct cas_descriptor *d = &im->manifest.children[i];
                struct cas_layer_record layer;
                struct cas_err err = CAS_ERR_INIT;
                char digest[CAS_DIGEST_TEXT_BYTES];
                uint64_t images = 0;
                known = reg_websharing_count(sharing, &d->digest, &images) && known;
                uint64_t others = images > counted ? images - counted : 0;
                *(others ? &shared : &own) += d->size_bytes;
                cas_buf_printf(&rows, "<tr><td class=\"wide\">%zu</td><td>", i + 1);
                reg_html_digest(&rows, cas_digest_text(&d->digest, digest));
                cas_buf_append_str(&rows, "</td><td>");
                append_form(im, &d->digest, &rows);
                cas_buf_append_str(&rows, "</td><td class=\"wide n\">");
                if (is_linked(im, &d->digest) && cas_layer_stat(s, &d->digest, &layer, &err) == 0)
                        cas_buf_printf(&rows, "%llu", (unsigned long long)layer.entry_count);
                else
                        cas_buf_append_str(&rows, "&ndash;");
                cas_buf_append_str(&rows, "</td><td class=\"wide n\">");
                if (others)
                        cas_buf_printf(&rows, "%llu", (unsigned long long)others);
                else
                        cas_buf_append_str(&rows, known ? "none" : "&ndash;");
                cas_buf_append_str(&rows, "</td><td class=\"n\">");
                reg_html_bytes(&rows, d->size_bytes);
                cas_buf_append_str(&rows, "</td></tr>\n");
        }
        cas_buf_append_str(page, "<section class=\"card\"><h2>Layers</h2>");
        if (known && own + shared > 0) {
                const struct reg_html_bar bar = {"Size as pushed",
                                                 2,
                                                 {{"a", "of this image alone", own},
                                                  {"b", "shared with other images", shared}}};
                reg_html_bars(page, &bar, 1);
        }
        cas_buf_append_str(page, "<table><tr><th class=\"wide\"></th><th>Digest</th><th>Form</th>"
                                 "<th class=\"wide n\">Entries</th>"
                                 "<th class=\"wide n\">In other images</th>"
                                 "<th class=\"n\">Size</th></tr>");
        cas_buf_append(page, rows.data, rows.len_bytes);
        cas_buf_append_str(page, "</table></section>");
}

struct referrer_list {
        size_t count;
        struct cas_digest digests[REFERRERS_SHOWN];
};

static bool take_referrer(void *arg, const struct cas_digest *referrer)
{
        struct referrer_list *list = arg;
        list->digests[list->count++] = *referrer;
        return list->count < REFERRERS_SHOWN;
}

static void append_referrers(const struct image *im, struct cas_buf *page)
{
        struct referrer_list list = {0};
        struct cas_err err = CAS_ERR_INIT;
        if (cas_referrer_each(im->call->store, im->repo, &im->info.digest, take_referrer, &list,
                              &err) < 0 ||
            list.count == 0)
                return;
        cas_buf_append_str(page, "<section class=\"card\"><h2>What refers to it</h2><table>"
                                 "<tr><th>Kind</th><th>Digest</th></tr>");
        for (size_t i = 0; i < list.count; i++) {
                cas_cleanup_manifest struct cas_manifest m = {0};
                struct cas_manifest_info info;
                struct cas_err gone = CAS_ERR_INIT;
                char digest[CAS_DIGEST_TEXT_BYTES];
                if (load(im->call->store, im->repo, &list.digests[i], &info, &m, &gone) < 0)
                        continue;
                cas_buf_append_str(page, "<tr><td class=\"name\">");
                reg_html_text(page, m.artifact_type[0]       ? m.artifact_type
                                    : m.config.media_type[0] ? m.config.media_type
                                                             : info.media_type);
                cas_buf_append_str(page, "</td><td>");
                append_image_link(page, im->repo, cas_digest_text(&list.digests[i], digest));
                reg_html_digest(page, digest);
                cas_buf_append_str(page, "</a></td></tr>");
        }
        cas_buf_append_str(page, "</table></section>");
}

static int find_image(struct image *im, struct cas_err *err)
{
        struct cas_store *s = im->call->store;
        struct cas_digest digest;
        int rc = strchr(im->ref, ':') ? cas_digest_parse(im->ref, &digest, err)
                                      : cas_tag_get(s, im->repo, im->ref, &digest, err);
        if (rc == 0)
                rc = load(s, im->repo, &digest, &im->info, &im->manifest, err);
        if (rc == 0)
                cas_digest_text(&digest, im->digest);
        return rc;
}

static void image_page(struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf page = CAS_BUF_INIT;
        struct image im = {.call = call, .ref = reg_uri_param(reg_http_uri(call->req), "ref")};
        if (!find_repo(call, &im.repo))
                return;
        if (!im.ref)
                im.ref = "latest";
        if (find_image(&im, &err) < 0) {
                reply_error(call, &err);
        } else {
                cas_cleanup_free char *title = cas_xasprintf("%s:%.140s", im.repo, im.ref);
                reg_html_begin(&page, title, viewer(call));
                append_head(&im, &page);
                if (im.manifest.kind == CAS_MANIFEST_INDEX)
                        append_children(&im, &page);
                else
                        append_layers(&im, &page);
                append_referrers(&im, &page);
                reply_page(call, 200, &page);
        }
        cas_manifest_release(&im.manifest);
}

/* ---- addresses ---- */

static void redirect(struct reg_call *call)
{
        reg_http_reply_header(call->req, "Location", "/web/");
        reg_http_reply_header(call->req, "Cache-Control", "no-store");
        reg_http_reply_empty(call->req, 302);
}

static void style(struct reg_call *call)
{
        reg_http_reply_header(call->req, "Content-Type", "text/css; charset=utf-8");
        reg_http_reply_header(call->req, "Cache-Control", "public, max-age=3600");
        reg_http_reply_bytes(call->req, 200, reg_web_style, strlen(reg_web_style));
}

static void login(struct reg_call *call)
{
        if (call->identity->user[0])
                redirect(call);
        else
                reg_web_refuse(call->req, REG_UNAUTHORIZED);
}

void reg_web_serve(struct reg_call *call)
{
        static const struct {
                const char *name;
                void (*page)(struct reg_call *call);
                bool blocks;
        } pages[] = {
                {"", repos_page, true},      {"repo", repo_page, true}, {"image", image_page, true},
                {"style.css", style, false}, {"login", login, false},
        };
        const struct reg_uri *uri = reg_http_uri(call->req);
        enum reg_http_method method = reg_http_method(call->req);
        if (method != REG_HTTP_GET && method != REG_HTTP_HEAD) {
                reg_http_reply_header(call->req, "Allow", "GET, HEAD");
                reg_http_reply_empty(call->req, 405);
                return;
        }
        if (uri->segment_count < 2) {
                redirect(call);
                return;
        }
        for (size_t i = 0; uri->segment_count == 2 && i < CAS_COUNT(pages); i++) {
                if (strcmp(uri->segments[1], pages[i].name) != 0)
                        continue;
                if (pages[i].blocks)
                        reg_call_work(call, pages[i].page);
                else
                        pages[i].page(call);
                return;
        }
        reply_message(call->req, 404, viewer(call), "Not found", "There is no such page.");
}
