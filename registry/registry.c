/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/registry.h"

#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "cas/shared.h"
#include "registry/access_config.h"
#include "registry/operation.h"
#include "registry/operation_config.h"
#include "registry/peer.h"
#include "registry/peer_sets.h"
#include "registry/range.h"
#include "registry/registry_int.h"
#include "registry/retention.h"
#include "registry/webpage.h"
#include "registry/upstream.h"
#include "registry/upstream_config.h"

/* What belongs to which layer, remembered: some 48 bytes a file. */
#define PEER_SETS_BYTES_MAX (64 * CAS_MIB)

/* What can be done with what. HEAD is GET. */
static const struct route {
        enum reg_noun noun;
        enum reg_http_method method;
        unsigned actions; /* enum reg_action: what who asks must be allowed to do */
        reg_handler handler;
        bool keep; /* reg_call.keep */
} routes[] = {
        {REG_NOUN_PING, REG_HTTP_GET, 0, reg_ping, false},
        {REG_NOUN_CATALOG, REG_HTTP_GET, REG_ACTION_PULL, reg_catalog, false},
        {REG_NOUN_BLOB, REG_HTTP_GET, REG_ACTION_PULL, reg_blob_get, true},
        {REG_NOUN_BLOB, REG_HTTP_DELETE, REG_ACTION_DELETE, reg_blob_delete, false},
        {REG_NOUN_UPLOADS, REG_HTTP_POST, REG_ACTION_PUSH, reg_upload_create, false},
        {REG_NOUN_UPLOADS, REG_HTTP_GET, REG_ACTION_PUSH, reg_upload_list, false},
        {REG_NOUN_UPLOAD, REG_HTTP_GET, REG_ACTION_PUSH, reg_upload_status, false},
        {REG_NOUN_UPLOAD, REG_HTTP_PATCH, REG_ACTION_PUSH, reg_upload_patch, false},
        {REG_NOUN_UPLOAD, REG_HTTP_PUT, REG_ACTION_PUSH, reg_upload_put, false},
        {REG_NOUN_UPLOAD, REG_HTTP_DELETE, REG_ACTION_PUSH, reg_upload_delete, false},
        {REG_NOUN_MANIFEST, REG_HTTP_GET, REG_ACTION_PULL, reg_manifest_get, true},
        {REG_NOUN_MANIFEST, REG_HTTP_PUT, REG_ACTION_PUSH, reg_manifest_put, false},
        {REG_NOUN_MANIFEST, REG_HTTP_DELETE, REG_ACTION_DELETE, reg_manifest_delete, false},
        {REG_NOUN_TAGS, REG_HTTP_GET, REG_ACTION_PULL, reg_tags_list, true},
        {REG_NOUN_REFERRERS, REG_HTTP_GET, REG_ACTION_PULL, reg_referrers_list, true},
        {REG_NOUN_LAMINA, REG_HTTP_GET, REG_ACTION_PULL, reg_peer_get, false},
        {REG_NOUN_EXTENSIONS, REG_HTTP_GET, REG_ACTION_PULL, reg_extensions_get, false},
};

static const char *method_text(enum reg_http_method method)
{
        switch (method) {
        case REG_HTTP_GET:
                return "GET, HEAD";
        case REG_HTTP_HEAD:
                return "HEAD";
        case REG_HTTP_POST:
                return "POST";
        case REG_HTTP_PUT:
                return "PUT";
        case REG_HTTP_PATCH:
                return "PATCH";
        case REG_HTTP_DELETE:
                return "DELETE";
        case REG_HTTP_OTHER:
                return "";
        }
        return "";
}

static void refuse_method(struct reg_call *call)
{
        cas_cleanup_buf struct cas_buf allow = CAS_BUF_INIT;
        for (size_t i = 0; i < CAS_COUNT(routes); i++) {
                if (routes[i].noun == call->route.noun)
                        cas_buf_printf(&allow, "%s%s", allow.len_bytes ? ", " : "",
                                       method_text(routes[i].method));
        }
        reg_http_reply_header(call->req, "Allow", cas_buf_str(&allow));
        reg_reply_code(call->req, REG_E_UNSUPPORTED, "not possible here");
}

/* What every answer says. */
static void common_headers(struct reg_http_req *req)
{
        reg_http_reply_header(req, "Docker-Distribution-Api-Version", "registry/2.0");
        reg_http_reply_header(req, "X-Content-Type-Options", "nosniff");
        reg_http_reply_header(req, REG_PEER_HEADER, REG_PEER_VERSION);
}

static void refuse(void *arg CAS_UNUSED, struct reg_http_req *req, unsigned status, const char *why)
{
        common_headers(req);
        reg_reply_status(req, status, "UNSUPPORTED", why);
}

static const struct route *find_route(enum reg_noun noun, enum reg_http_method method)
{
        if (method == REG_HTTP_HEAD)
                method = REG_HTTP_GET;
        for (size_t i = 0; i < CAS_COUNT(routes); i++) {
                if (routes[i].noun == noun && routes[i].method == method)
                        return &routes[i];
        }
        return NULL;
}

static void context_free(void *arg)
{
        struct reg_context *context = arg;
        reg_identity_release(&context->identity);
        free(context);
}

/* What the client calls its request, if that is a plain word; else a name that no other request
 * of this run has. */
static void request_id(struct reg_registry *registry, const struct reg_http_req *req,
                       char out[REG_REQUEST_ID_BYTES])
{
        const char *given = reg_http_header(req, "X-Request-Id");
        size_t len = given ? strspn(given, "abcdefghijklmnopqrstuvwxyz0123456789"
                                           "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_.")
                           : 0;
        if (len > 0 && !given[len] && len < REG_REQUEST_ID_BYTES)
                memcpy(out, given, len + 1);
        else
                reg_operation_id(registry->operation, out);
}

static bool is_web(const struct reg_registry *registry, const struct reg_http_req *req)
{
        return reg_web_config(registry->config)->enabled && reg_web_path(reg_http_uri(req));
}

/* What is done to the repository. Of what is no repository's, only the catalog is guarded. */
static unsigned actions_of(const struct route *route, const struct reg_route *parsed)
{
        return parsed->repo[0] || route->noun == REG_NOUN_CATALOG ? route->actions : 0;
}

/* Who asks has not been believed; the answer says what to ask a token for. */
static void refuse_unknown(struct reg_registry *registry, struct reg_http_req *req,
                           enum reg_verdict verdict)
{
        if (verdict == REG_UNAUTHORIZED)
                reg_access_disbelieved(registry->access, req);
        if (is_web(registry, req)) {
                reg_web_refuse(req, verdict);
                return;
        }
        struct reg_route parsed;
        struct cas_err err = CAS_ERR_INIT;
        const struct route *route = NULL;
        const struct reg_uri *uri = reg_http_uri(req);
        bool ns_used;
        if (reg_route_parse(uri, &parsed, &err) == 0) {
                (void)reg_upstream_of(registry->upstreams, reg_uri_param(uri, "ns"), &parsed,
                                      &ns_used);
                route = find_route(parsed.noun, reg_http_method(req));
        }
        if (route)
                reg_access_refuse(registry->access, req, NULL, verdict,
                                  parsed.repo[0] ? parsed.repo : NULL, actions_of(route, &parsed));
        else
                reg_access_refuse(registry->access, req, NULL, verdict, NULL, 0);
}

/* Who asks, kept with the request. NULL: *verdict says why not. */
static const struct reg_context *identify(struct reg_registry *registry, struct reg_http_req *req,
                                          bool may_block, enum reg_verdict *verdict)
{
        cas_cleanup_free struct reg_context *context = cas_xcalloc(1, sizeof(*context));
        *verdict = reg_access_identify(registry->access, req, may_block, &context->identity);
        if (*verdict == REG_ALLOWED) {
                request_id(registry, req, context->id);
                reg_http_set_context(req, context, context_free);
                reg_metrics_begun(reg_operation_metrics(registry->operation));
                return cas_steal(&context);
        }
        return NULL;
}

/* What is asked for is this store's own. */
static void serve_own(struct reg_call *call, const struct route *route)
{
        call->keep = route->keep;
        call->names_generation = cas_names_generation(call->store, call->route.repo);
        route->handler(call);
}

/* A page of another site has its visitor's browser change something, with the password that the
 * browser was told for the web pages. Browsers say so; other clients do not send the header. */
static bool is_forged(const struct reg_http_req *req)
{
        const char *from = reg_http_header(req, "Sec-Fetch-Site");
        enum reg_http_method method = reg_http_method(req);
        return from && method != REG_HTTP_GET && method != REG_HTTP_HEAD &&
               strcmp(from, "same-origin") != 0 && strcmp(from, "none") != 0;
}

/* Who asks is known: what they ask for. */
static void serve(struct reg_registry *registry, struct reg_http_req *req,
                  const struct reg_context *context)
{
        const struct reg_identity *identity = &context->identity;
        struct reg_call call = {.registry = registry,
                                .store = registry->store,
                                .req = req,
                                .identity = identity,
                                .id = context->id};
        struct cas_err err = CAS_ERR_INIT;
        if (is_web(registry, req)) {
                reg_web_serve(&call);
                return;
        }
        if (is_forged(req)) {
                reg_reply_code(req, REG_E_DENIED, "not for pages of another site");
                return;
        }
        if (reg_route_parse(reg_http_uri(req), &call.route, &err) < 0) {
                reg_reply_err(req, REG_ABOUT_NAME, &err);
                return;
        }
        bool ns_used;
        struct reg_upstream *upstream = reg_upstream_of(
                registry->upstreams, reg_uri_param(reg_http_uri(req), "ns"), &call.route, &ns_used);
        const struct route *route = find_route(call.route.noun, reg_http_method(req));
        if (!route) {
                refuse_method(&call);
                return;
        }
        const char *repo = call.route.repo[0] ? call.route.repo : NULL;
        unsigned actions = actions_of(route, &call.route);
        enum reg_verdict verdict = reg_access_check(registry->access, req, identity, repo, actions);
        if (verdict != REG_ALLOWED)
                reg_access_refuse(registry->access, req, identity, verdict, repo, actions);
        else if (upstream && actions == REG_ACTION_PULL)
                reg_upstream_serve(upstream, &call, route->handler, ns_used);
        else if (upstream && actions == REG_ACTION_PUSH && !reg_upstream_is_shared(upstream))
                reg_reply_code(req, REG_E_UNSUPPORTED,
                               "what is pulled through cannot be pushed to");
        else if (reg_http_method(req) == REG_HTTP_GET || reg_http_method(req) == REG_HTTP_HEAD ||
                 reg_shared_prepare(&call))
                serve_own(&call, route);
}

static void tell(struct reg_registry *registry, const struct reg_http_req *req,
                 const struct reg_identity *identity, const char *id, const char *repo,
                 struct reg_event event)
{
        event.repo = repo;
        event.tag = event.tag ? event.tag : "";
        event.from_repo = event.from_repo ? event.from_repo : "";
        event.media_type = event.media_type ? event.media_type : "";
        event.user = identity->user;
        event.client = reg_http_client(req);
        event.request_id = id;
        event.req = req;
        reg_events_tell(registry->events, &event);
}

/* Sends what is kept to who may have it. */
static void serve_kept(struct reg_registry *registry, struct reg_http_req *req,
                       const struct reg_context *context, const struct reg_kept *kept)
{
        const struct reg_identity *identity = &context->identity;
        const char *known = reg_http_header(req, "If-None-Match");
        enum reg_verdict verdict =
                reg_access_check(registry->access, req, identity, kept->repo, REG_ACTION_PULL);
        if (verdict != REG_ALLOWED) {
                common_headers(req);
                reg_access_refuse(registry->access, req, identity, verdict, kept->repo,
                                  REG_ACTION_PULL);
                return;
        }
        reg_metrics_add(reg_operation_metrics(registry->operation), REG_COUNTER_ANSWERS_READY, 1);
        if (known && reg_etag_listed(known, kept->etag)) {
                reg_http_reply_answer(req, kept->same);
        } else {
                reg_http_reply_answer(req, kept->whole);
                if (kept->is_pull)
                        tell(registry, req, identity, context->id, kept->repo, kept->pull);
        }
}

/* Whether what is kept is the answer to this request. */
static bool kept_fits(const struct reg_http_req *req, const struct reg_kept *kept)
{
        const char *known = reg_http_header(req, "If-None-Match");
        if (known && reg_etag_listed(known, kept->etag))
                return kept->same != NULL;
        return kept->whole && !reg_http_header(req, "Range");
}

/* HEAD asks the store: who means to push learns from it what the store has lost. */
static void ready(void *arg, struct reg_http_req *req)
{
        struct reg_registry *registry = arg;
        if (reg_http_method(req) != REG_HTTP_GET)
                return;
        const struct reg_kept *kept = reg_answers_get(registry->answers, reg_http_target(req));
        if (!kept)
                return;
        if (kept_fits(req, kept)) {
                enum reg_verdict verdict;
                const struct reg_context *context = identify(registry, req, false, &verdict);
                if (context) /* others are answered by begin */
                        serve_kept(registry, req, context, kept);
        }
        reg_answers_put_back(kept);
}

static void begin_blocking(void *arg, struct reg_http_req *req)
{
        struct reg_registry *registry = arg;
        enum reg_verdict verdict;
        const struct reg_context *context = identify(registry, req, true, &verdict);
        cas_assert(verdict != REG_LATER);
        if (context)
                serve(registry, req, context);
        else
                refuse_unknown(registry, req, verdict);
}

static bool changes_shared(const struct reg_registry *registry, const struct reg_http_req *req)
{
        enum reg_http_method method = reg_http_method(req);
        return cas_store_shared(registry->store) && method != REG_HTTP_GET &&
               method != REG_HTTP_HEAD;
}

static void begin(void *arg, struct reg_http_req *req)
{
        struct reg_registry *registry = arg;
        enum reg_verdict verdict;
        common_headers(req);
        if (reg_operation_serve(registry->operation, req) || reg_shared_blob_serve(registry, req) ||
            reg_token_serve(registry->access, req))
                return;
        if (changes_shared(registry, req)) { /* what it needs is asked for over the network */
                reg_http_defer(req, begin_blocking, registry);
                return;
        }
        const struct reg_context *context = identify(registry, req, false, &verdict);
        if (context)
                serve(registry, req, context);
        else if (verdict == REG_LATER)
                reg_http_defer(req, begin_blocking, registry);
        else
                refuse_unknown(registry, req, verdict);
}

static void done(void *arg, const struct reg_http_done *done)
{
        struct reg_registry *registry = arg;
        const struct reg_context *context = done->context;
        reg_operation_done(registry->operation, done, context ? context->identity.user : "",
                           context ? context->id : "", context != NULL);
}

void reg_call_tell(const struct reg_call *call, struct reg_event event)
{
        tell(call->registry, call->req, call->identity, call->id, call->route.repo, event);
}

void reg_ping(struct reg_call *call)
{
        reg_http_reply_header(call->req, "Content-Type", "application/json");
        reg_http_reply_header(call->req, "Cache-Control", REG_CACHE_NONE);
        reg_http_reply_bytes(call->req, 200, "{}", 2);
}

/* Work that goes on in end */

struct deferred {
        struct reg_call call;
        reg_handler work;
};

static void deferred_piece(struct reg_http_req *req CAS_UNUSED, void *state CAS_UNUSED,
                           const void *data CAS_UNUSED, size_t len CAS_UNUSED)
{
}

static void deferred_end(struct reg_http_req *req CAS_UNUSED, void *state)
{
        struct deferred *d = state;
        d->work(&d->call);
}

static void deferred_too_long(struct reg_http_req *req, void *state CAS_UNUSED)
{
        reg_reply_code(req, REG_E_TOO_LARGE, "a body is not expected here");
}

void reg_call_work(const struct reg_call *call, reg_handler work)
{
        static const struct reg_http_body_ops ops = {
                .bytes_max = 64 * 1024,
                .piece = deferred_piece,
                .end = deferred_end,
                .free = free,
                .too_long = deferred_too_long,
        };
        struct deferred *d = cas_xcalloc(1, sizeof(*d));
        d->call = *call;
        d->work = work;
        reg_http_accept(call->req, &ops, d);
}

static void registry_free(struct reg_registry *registry)
{
        reg_decoder_stop(registry->decoder);
        reg_upstreams_free(registry->upstreams);
        reg_operation_stop(registry->operation);
        reg_access_free(registry->access);
        reg_purger_free(registry->purger);
        reg_events_free(registry->events);
        reg_answers_free(registry->answers);
        reg_cachepolicy_free(registry->caches);
        reg_shared_blobs_free(registry->shared);
        reg_peer_sets_free(registry->peer_sets);
        free(registry);
}

static int start_purger(struct reg_registry *registry, struct cas_err *err)
{
        const struct reg_purge_config *config =
                reg_config_area(registry->config, reg_purge_area.word);
        if (!config)
                return 0;
        int rc = reg_purger_new(config, NULL, NULL, &registry->purger, err);
        if (rc == 0)
                reg_events_listen(registry->events, reg_purger_event, registry->purger);
        return rc;
}

static int start_access(struct reg_registry *registry, struct cas_err *err)
{
        struct reg_access_config config;
        bool any = reg_access_configured(registry->config, registry->store, &config);
        int rc = reg_access_new(any ? &config : NULL, &registry->access, err);
        if (rc == 0)
                reg_access_listen(registry->access, registry->events);
        return rc;
}

int reg_start(struct cas_store *s, const struct reg_config *config, struct reg_registry **out,
              struct cas_err *err)
{
        if (cas_store_shared(s) && reg_config_area(config, reg_retention_area.word))
                return cas_fail(err, CAS_E_INVALID,
                                "[retention] is not for nodes of a cluster: times of tags are each "
                                "node's own");
        struct reg_registry *registry = cas_xcalloc(1, sizeof(*registry));
        registry->store = s;
        registry->config = config;
        registry->events = reg_events_new();
        registry->answers = reg_answers_new(s, REG_ANSWERS_BYTES_MAX);
        registry->peer_sets = reg_peer_sets_new(PEER_SETS_BYTES_MAX);
        registry->immutable = reg_config_area(config, reg_immutable_area.word);
        registry->caches = reg_cachepolicy_new(reg_config_area(config, reg_cache_area.word));
        int rc = reg_shared_blobs_new(s, reg_config_area(config, reg_cache_area.word),
                                      &registry->shared, err);
        if (rc == 0)
                rc = start_purger(registry, err);
        if (rc == 0)
                rc = start_access(registry, err);
        if (rc == 0)
                rc = reg_operation_start(s, config, registry->access, registry->events,
                                         &registry->operation, err);
        if (rc == 0)
                rc = reg_upstreams_new(reg_config_area(config, "upstream"), s,
                                       reg_operation_metrics(registry->operation),
                                       &registry->upstreams, err);
        if (rc < 0) {
                registry_free(registry);
                return rc;
        }
        registry->decoder = reg_decoder_start(s);
        struct reg_http_config http = {
                .listen = config->listen,
                .threads = config->threads,
                .connections_max = config->connections_max,
                .idle_s = config->idle_s,
                .header_s = config->header_s,
                .rate_min = config->rate_min,
                .name = "registry-request",
                .begin = begin,
                .ready = ready,
                .refuse = refuse,
                .trusted_proxies = config->trusted_proxies,
                .tls = reg_config_area(config, "tls"),
                .done = done,
                .arg = registry,
        };
        rc = reg_http_start(&http, &registry->http, err);
        if (rc < 0) {
                registry_free(registry);
                return rc;
        }
        *out = registry;
        return 0;
}

int reg_reload(struct reg_registry *r, struct cas_err *err)
{
        /* each is tried, whatever became of the others; the first failure is told */
        struct cas_err errors[3] = {CAS_ERR_INIT, CAS_ERR_INIT, CAS_ERR_INIT};
        const int others[] = {reg_http_tls_reload(r->http, &errors[0]),
                              reg_shared_blobs_reload(r->shared, &errors[1]),
                              reg_operation_reload(r->operation, &errors[2])};
        int rc = reg_access_reload(r->access, err);
        reg_answers_clear(r->answers); /* they say who else may keep them */
        for (size_t i = 0; rc == 0 && i < CAS_COUNT(others); i++) {
                if (others[i] < 0)
                        *err = errors[i];
                rc = others[i];
        }
        return rc;
}

struct reg_events *reg_listeners(struct reg_registry *r)
{
        return r->events;
}

struct reg_tagclock *reg_clock(struct reg_registry *r)
{
        return reg_operation_tagclock(r->operation);
}

unsigned reg_port(const struct reg_registry *r)
{
        return reg_http_port(r->http);
}

void reg_stop(struct reg_registry *r, unsigned wait_ms)
{
        if (!r)
                return;
        reg_operation_stopping(r->operation);
        reg_upstreams_stop(r->upstreams);
        reg_http_stop(r->http, wait_ms);
        registry_free(r);
}
