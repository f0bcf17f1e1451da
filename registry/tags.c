/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of names: the tags of a repository and the catalog, in pages. */
#include "cas/json.h"
#include "cas/shared.h"
#include "registry/range.h"
#include "registry/registry_int.h"

#define CATALOG_DEFAULT 100
#define CATALOG_MAX 1000

bool reg_page_size(struct reg_call *call, uint64_t absent, uint64_t max, bool clamp, uint64_t *out)
{
        const char *text = reg_uri_param(reg_http_uri(call->req), "n");
        *out = absent;
        if (!text || (reg_count_parse(text, UINT64_MAX, out) && (clamp || *out <= max))) {
                *out = cas_min_u64(*out, max);
                return true;
        }
        reg_reply_code(call->req, REG_E_PAGINATION_NUMBER_INVALID, "n is no number of names");
        return false;
}

/* One page: at most `max` names, and whether there are more. */
struct page {
        json_t *names; /* owned */
        uint64_t max;
        bool more;
};

static bool page_add(struct page *page, const char *name)
{
        if (json_array_size(page->names) == page->max) {
                page->more = true;
                return false;
        }
        int rc = json_array_append_new(page->names, json_string(name));
        cas_assert(rc == 0);
        return true;
}

static bool add_tag(void *arg, const char *tag, const struct cas_digest *manifest CAS_UNUSED)
{
        return page_add(arg, tag);
}

static bool add_name(void *arg, const char *tag)
{
        return page_add(arg, tag);
}

/* Of the nodes' shared store, where there is one: it is asked each time. */

static int repo_exists(struct cas_store *s, const char *repo, bool *out, struct cas_err *err)
{
        struct cas_shared *sh = cas_store_shared(s);
        return sh ? sh->ops->repo_exists(sh, repo, out, err) : cas_repo_exists(s, repo, out, err);
}

static int each_tag(struct cas_store *s, const char *repo, const char *last, struct page *page,
                    struct cas_err *err)
{
        struct cas_shared *sh = cas_store_shared(s);
        return sh ? sh->ops->tag_each(sh, repo, last, add_name, page, err)
                  : cas_tag_each(s, repo, last, add_tag, page, err);
}

static int each_repo(struct cas_store *s, const char *last, bool (*fn)(void *arg, const char *repo),
                     void *arg, struct cas_err *err)
{
        struct cas_shared *sh = cas_store_shared(s);
        return sh ? sh->ops->repo_each(sh, last, fn, arg, err)
                  : cas_repo_each(s, last, fn, arg, err);
}

struct catalog {
        struct reg_call *call;
        struct page page;
};

/* What the caller may not pull from is not there for him. */
static bool add_repo(void *arg, const char *repo)
{
        struct catalog *c = arg;
        return !reg_access_lists(c->call->registry->access, c->call->identity, repo) ||
               page_add(&c->page, repo);
}

/* The link to the next page. Tags and names of repositories need no escapes in a query. */
static void link_next(struct reg_call *call, const struct page *page, const char *path)
{
        size_t count = json_array_size(page->names);
        if (!page->more || count == 0)
                return;
        reg_http_reply_headerf(call->req, "Link", "<%s?n=%llu&last=%s>; rel=\"next\"", path,
                               (unsigned long long)page->max,
                               json_string_value(json_array_get(page->names, count - 1)));
}

static void reply_names(struct reg_call *call, const json_t *doc)
{
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        cas_json_append(doc, &body);
        reg_reply_list(call, "application/json", &body);
}

void reg_tags_list(struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        const char *repo = call->route.repo;
        struct page page = {0};
        bool exists = false;
        if (!reg_page_size(call, REG_PAGE_MAX, REG_PAGE_MAX, true, &page.max))
                return;
        int rc = repo_exists(call->store, repo, &exists, &err);
        if (rc == 0 && !exists) {
                reg_reply_code(call->req, REG_E_NAME_UNKNOWN, "no such repository");
                return;
        }
        cas_cleanup_json json_t *names = json_array();
        page.names = names;
        if (rc == 0 && page.max > 0)
                rc = each_tag(call->store, repo, reg_uri_param(reg_http_uri(call->req), "last"),
                              &page, &err);
        if (rc < 0) {
                reg_reply_err(call->req, REG_ABOUT_NAME, &err);
                return;
        }
        cas_cleanup_free char *path = cas_xasprintf("/v2/%s/tags/list", repo);
        cas_cleanup_json json_t *doc = json_pack("{s:s,s:O}", "name", repo, "tags", names);
        cas_assert(doc != NULL);
        link_next(call, &page, path);
        reply_names(call, doc);
}

static void catalog_work(struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        struct catalog catalog = {.call = call};
        struct page *page = &catalog.page;
        if (!reg_page_size(call, CATALOG_DEFAULT, CATALOG_MAX, false, &page->max))
                return;
        cas_cleanup_json json_t *names = json_array();
        page->names = names;
        int rc = 0;
        if (page->max > 0)
                rc = each_repo(call->store, reg_uri_param(reg_http_uri(call->req), "last"),
                               add_repo, &catalog, &err);
        if (rc < 0) {
                reg_reply_err(call->req, REG_ABOUT_NAME, &err);
                return;
        }
        cas_cleanup_json json_t *doc = json_pack("{s:O}", "repositories", names);
        cas_assert(doc != NULL);
        link_next(call, page, "/v2/_catalog");
        reply_names(call, doc);
}

void reg_catalog(struct reg_call *call)
{
        reg_call_work(call, catalog_work); /* looks at as many repositories as there are */
}
