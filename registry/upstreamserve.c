/* SPDX-License-Identifier: Apache-2.0 */
/* Clients of repositories that come from elsewhere. */
#include <stdio.h>

#include "registry/range.h"
#include "registry/upstream_int.h"

#define RETRY_AFTER_S_DEFAULT 5

static enum reg_about about_of(enum reg_flight_kind kind)
{
        return kind == REG_FLIGHT_MANIFEST ? REG_ABOUT_MANIFEST
               : kind == REG_FLIGHT_LIST   ? REG_ABOUT_NAME
                                           : REG_ABOUT_BLOB;
}

/* The upstream's answer was none that helps: ours. */
static void reply_failure(const struct reg_waiter *w, bool stopping)
{
        const struct reg_flight *f = w->flight;
        struct reg_http_req *req = w->call.req;
        const char *host = f->up->config->name;
        cas_cleanup_free char *why = NULL;
        if (stopping) {
                reg_reply_code(req, REG_E_UNAVAILABLE, "the registry is being stopped");
                return;
        }
        unsigned retry_s =
                f->failure.retry_after_s ? f->failure.retry_after_s : RETRY_AFTER_S_DEFAULT;
        switch ((enum cas_code) - f->rc) {
        case CAS_E_NOTFOUND:
                why = cas_xasprintf("%s does not have it", host);
                reg_reply_code(req, reg_code_of(CAS_E_NOTFOUND, about_of(f->kind)), why);
                return;
        case CAS_E_DENIED:
                why = cas_xasprintf("%s does not let this registry have it", host);
                reg_reply_code(req, REG_E_DENIED, why);
                return;
        default:
                break;
        }
        bool limited = f->failure.status == 429;
        reg_http_reply_headerf(req, "Retry-After", "%u", retry_s);
        why = cas_xasprintf(limited ? "%s was asked too often" : "%s cannot be reached now", host);
        reg_reply_status(req, limited ? 429 : 503,
                         reg_code_text(limited ? REG_E_TOOMANYREQUESTS : REG_E_UNAVAILABLE), why);
}

static void namespace_header(const struct reg_waiter *w)
{
        if (w->ns_used)
                reg_http_reply_header(w->call.req, "OCI-Namespace", w->flight->up->config->name);
}

/* ---- blobs on their way ---- */

static void tell_pull(const struct reg_call *call, const struct cas_digest *digest, uint64_t bytes)
{
        reg_call_tell(call, (struct reg_event){.kind = REG_EVENT_PULL_BLOB,
                                               .digest = *digest,
                                               .media_type = "application/octet-stream",
                                               .bytes = bytes});
}

static void blob_headers(const struct reg_waiter *w)
{
        struct reg_http_req *req = w->call.req;
        const char *digest = w->flight->what;
        reg_http_reply_header(req, "Docker-Content-Digest", digest);
        reg_http_reply_headerf(req, "ETag", "\"%s\"", digest);
        reg_http_reply_header(req, "Content-Type", "application/octet-stream");
        reg_http_reply_header(req, "Accept-Ranges", "bytes");
        reg_http_reply_header(req, "Cache-Control", REG_CACHE_NONE); /* it may yet break off */
}

/* From what has come, and what comes. Several ranges are answered with the whole. */
static void reply_arriving(const struct reg_waiter *w)
{
        struct reg_flight *f = w->flight;
        struct reg_http_req *req = w->call.req;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest digest;
        struct reg_range part = {.bytes = f->total_bytes};
        enum reg_range_kind kind = REG_RANGE_WHOLE;
        if (cas_digest_parse(f->what, &digest, &err) < 0) {
                reg_reply_err(req, REG_ABOUT_BLOB, &err);
                return;
        }
        if (reg_if_range_allows(reg_http_header(req, "If-Range"), f->what))
                kind = reg_range_parse(reg_http_header(req, "Range"), f->total_bytes, &part);
        if (kind == REG_RANGE_UNSATISFIABLE) {
                reg_http_reply_headerf(req, "Content-Range", "bytes */%llu",
                                       (unsigned long long)f->total_bytes);
                reg_reply_code(req, REG_E_RANGE_INVALID, "the range is outside of the content");
                return;
        }
        blob_headers(w);
        if (kind == REG_RANGE_PART)
                reg_http_reply_headerf(req, "Content-Range", "bytes %llu-%llu/%llu",
                                       (unsigned long long)part.first,
                                       (unsigned long long)(part.first + part.bytes - 1),
                                       (unsigned long long)f->total_bytes);
        tell_pull(&w->call, &digest, part.bytes);
        if (part.bytes == 0)
                reg_http_reply_empty(req, 200);
        else
                reg_flight_blob_reply(f, req, kind == REG_RANGE_PART ? 206 : 200, part.first,
                                      part.bytes);
}

static void reply_blob_head(const struct reg_waiter *w)
{
        blob_headers(w);
        reg_http_reply_head(w->call.req, 200, w->flight->total_bytes);
}

/* ---- lists ---- */

static void reply_list(struct reg_waiter *w)
{
        const struct reg_flight *f = w->flight;
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        cas_buf_append(&body, f->body.data, f->body.len_bytes);
        if (f->next_link)
                reg_http_reply_header(w->call.req, "Link", f->next_link);
        reg_reply_list(&w->call,
                       w->call.route.noun == REG_NOUN_TAGS ? "application/json" : CAS_MT_OCI_INDEX,
                       &body);
}

/* ---- waiting ---- */

static void answer(struct reg_waiter *w)
{
        struct reg_flight *f = w->flight;
        struct reg_upstreams *u = f->up->set;
        cas_mutex_lock(&u->mutex);
        enum reg_flight_state state = f->state;
        cas_mutex_unlock(&u->mutex);
        namespace_header(w);
        if (state == REG_FLIGHT_ARRIVING) {
                reply_arriving(w);
                return;
        }
        bool list_here = state == REG_FLIGHT_DONE && f->rc < 0 && f->kind == REG_FLIGHT_LIST &&
                         f->rc != -CAS_E_NOTFOUND;
        if (state != REG_FLIGHT_DONE || (f->rc < 0 && !f->stale && !list_here)) {
                reply_failure(w, state != REG_FLIGHT_DONE);
                return;
        }
        if (f->rc < 0)
                reg_http_reply_headerf(w->call.req, "Warning",
                                       "299 - \"%s cannot be asked: this is what is known here\"",
                                       f->up->config->name);
        if (f->rc == 0 && f->kind == REG_FLIGHT_BLOB_HEAD)
                reply_blob_head(w);
        else if (f->rc == 0 && f->kind == REG_FLIGHT_LIST)
                reply_list(w);
        else
                w->local(&w->call);
}

static void resume(void *arg, struct reg_http_req *req CAS_UNUSED)
{
        struct reg_waiter *w = arg;
        answer(w);
        reg_flight_unref(w->flight);
        free(w);
}

static void ask(struct reg_upstream *up, const struct reg_call *call, reg_handler local,
                bool ns_used, enum reg_flight_kind kind, const char *what)
{
        struct reg_waiter *w = cas_xcalloc(1, sizeof(*w));
        w->call = *call;
        w->local = local;
        w->ns_used = ns_used;
        if (reg_flight_join(up, kind, what, w, resume))
                return;
        free(w);
        reg_reply_code(call->req, REG_E_UNAVAILABLE, "the registry is being stopped");
}

/* Answers from here. */
static void serve_local(struct reg_upstream *up, const struct reg_call *call, reg_handler local,
                        bool ns_used)
{
        struct reg_call copy = *call;
        if (ns_used)
                reg_http_reply_header(call->req, "OCI-Namespace", up->config->name);
        local(&copy);
}

/* What was learned of a tag may have been forgotten since. */
static bool tag_is_here(const struct reg_call *call, const char *ref)
{
        struct cas_err ignored = CAS_ERR_INIT;
        struct cas_manifest_info info;
        struct cas_digest digest;
        return cas_tag_get(call->store, call->route.repo, ref, &digest, &ignored) == 0 &&
               cas_manifest_stat(call->store, call->route.repo, &digest, &info, &ignored) == 0;
}

static void serve_manifest(struct reg_upstream *up, const struct reg_call *call, reg_handler local,
                           bool ns_used)
{
        const char *ref = call->route.last;
        struct cas_err ignored = CAS_ERR_INIT;
        struct cas_manifest_info info;
        struct cas_digest digest;
        bool by_digest = cas_digest_parse(ref, &digest, &ignored) == 0;
        enum reg_fresh fresh = reg_upstream_fresh(up, call->route.repo, ref);
        bool here = by_digest && (!up->shared || fresh == REG_FRESH_HERE) &&
                    cas_manifest_stat(call->store, call->route.repo, &digest, &info, &ignored) == 0;
        bool known = fresh == REG_FRESH_NONE || (fresh == REG_FRESH_HERE && !up->shared) ||
                     (fresh == REG_FRESH_HERE && tag_is_here(call, ref));
        if (here || known || (!by_digest && !cas_tag_valid(ref)))
                serve_local(up, call, local, ns_used);
        else
                ask(up, call, local, ns_used, REG_FLIGHT_MANIFEST, ref);
}

static void serve_blob(struct reg_upstream *up, const struct reg_call *call, reg_handler local,
                       bool ns_used)
{
        struct cas_err ignored = CAS_ERR_INIT;
        struct cas_digest digest;
        bool linked = false;
        bool good = cas_digest_parse(call->route.last, &digest, &ignored) == 0;
        bool fresh = !up->shared ||
                     (reg_http_method(call->req) != REG_HTTP_HEAD &&
                      reg_upstream_fresh(up, call->route.repo, call->route.last) == REG_FRESH_HERE);
        if (!good ||
            (fresh &&
             cas_blob_linked(call->store, call->route.repo, &digest, &linked, &ignored) == 0 &&
             linked && cas_blob_stat(call->store, &digest, NULL, &ignored) == 0))
                serve_local(up, call, local, ns_used);
        else if (reg_http_method(call->req) == REG_HTTP_HEAD)
                ask(up, call, local, ns_used, REG_FLIGHT_BLOB_HEAD, call->route.last);
        else
                ask(up, call, local, ns_used, REG_FLIGHT_BLOB, call->route.last);
}

/* What follows the repository's name upstream: the query is the client's, but for ns. */
static char *list_path(const struct reg_call *call)
{
        const struct reg_uri *uri = reg_http_uri(call->req);
        cas_cleanup_buf struct cas_buf path = CAS_BUF_INIT;
        cas_buf_printf(&path, call->route.noun == REG_NOUN_TAGS ? "tags/list" : "referrers/%s",
                       call->route.last);
        const char *at = uri->query;
        char joint = '?';
        while (*at) {
                size_t len = strcspn(at, "&");
                if (len > 0 && strncmp(at, "ns=", 3) != 0) {
                        cas_buf_printf(&path, "%c%.*s", joint, (int)len, at);
                        joint = '&';
                }
                at += len + (at[len] == '&');
        }
        return cas_xstrdup(cas_buf_str(&path));
}

static void serve_list(struct reg_upstream *up, const struct reg_call *call, reg_handler local,
                       bool ns_used)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest subject;
        if (call->route.noun == REG_NOUN_REFERRERS &&
            cas_digest_parse(call->route.last, &subject, &err) < 0) {
                serve_local(up, call, local, ns_used);
                return;
        }
        cas_cleanup_free char *path = list_path(call);
        ask(up, call, local, ns_used, REG_FLIGHT_LIST, path);
}

void reg_upstream_serve(struct reg_upstream *up, const struct reg_call *call, reg_handler local,
                        bool ns_used)
{
        switch (call->route.noun) {
        case REG_NOUN_MANIFEST:
                serve_manifest(up, call, local, ns_used);
                break;
        case REG_NOUN_BLOB:
                serve_blob(up, call, local, ns_used);
                break;
        case REG_NOUN_TAGS:
        case REG_NOUN_REFERRERS:
                if (up->shared) {
                        reg_shared_list(call, local);
                        break;
                }
                serve_list(up, call, local, ns_used);
                break;
        default:
                serve_local(up, call, local, ns_used);
                break;
        }
}
