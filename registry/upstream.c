/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/upstream.h"

#include <fcntl.h>
#include <stdio.h>
#include <time.h>

#include "cas/io.h"
#include "cas/log.h"
#include "cas/shared.h"
#include "registry/upstream_int.h"

#define PASSWORD_BYTES_MAX 4096

/* Values of the map of known tags: seconds, and whether there was one. */
#define KNOWN_THERE 1u
#define KNOWN_SHIFT 1

/* What does not change, but may be unlinked elsewhere, is believed for so long. */
#define SHARED_CONTENT_S 60

uint64_t reg_upstream_now_s(void)
{
        struct timespec now;
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec;
}

/* ---- names ---- */

static const char *prefix_of(const struct reg_upstream_config *c)
{
        return c->prefix ? c->prefix : c->name;
}

/* "hub/library/web" below "hub" is "library/web"; NULL when it is not below. */
static const char *below(const char *repo, const char *prefix)
{
        size_t len = strlen(prefix);
        if (len == 0)
                return repo;
        return strncmp(repo, prefix, len) == 0 && repo[len] == '/' ? repo + len + 1 : NULL;
}

/* The upstream with the longest prefix. */
static struct reg_upstream *find_by_prefix(struct reg_upstreams *u, const char *repo)
{
        struct reg_upstream *best = NULL;
        for (size_t i = 0; i < u->count; i++) {
                struct reg_upstream *up = &u->list[i];
                if (below(repo, up->prefix) && (!best || strlen(up->prefix) > strlen(best->prefix)))
                        best = up;
        }
        return best;
}

struct reg_upstream *reg_upstream_of(struct reg_upstreams *u, const char *ns,
                                     struct reg_route *route, bool *ns_used)
{
        *ns_used = false;
        if (!route->repo[0] || u->count == 0)
                return NULL;
        for (size_t i = 0; ns && i < u->count; i++) {
                struct reg_upstream *up = &u->list[i];
                char local[sizeof(route->repo)];
                if (up->shared || strcmp(up->config->name, ns) != 0)
                        continue;
                int n = snprintf(local, sizeof(local), "%s%s%s", up->prefix,
                                 up->prefix[0] ? "/" : "", route->repo);
                if (n < 0 || (size_t)n >= sizeof(local))
                        return NULL;
                memcpy(route->repo, local, sizeof(local));
                *ns_used = true;
                return up;
        }
        return find_by_prefix(u, route->repo);
}

/* ---- what is fresh ---- */

static size_t known_key(const char *repo, const char *ref, char out[512])
{
        int n = snprintf(out, 512, "%s\n%s", repo, ref);
        return n < 0 || n >= 512 ? 0 : (size_t)n;
}

enum reg_fresh reg_upstream_fresh(struct reg_upstream *up, const char *repo, const char *ref)
{
        char key[512];
        size_t len = known_key(repo, ref, key);
        uint64_t now = reg_upstream_now_s();
        enum reg_fresh fresh = REG_FRESH_NOT;
        cas_mutex_lock(&up->set->mutex);
        const uint64_t *known = len ? cas_map_get(up->set->known, key, len) : NULL;
        if (known) {
                bool there = *known & KNOWN_THERE;
                uint64_t age = now - (*known >> KNOWN_SHIFT);
                uint64_t bound = there ? up->config->tag_s : up->config->negative_s;
                if (up->shared && there && strchr(ref, ':'))
                        bound = cas_max_u64(bound, SHARED_CONTENT_S);
                if (age < bound)
                        fresh = there ? REG_FRESH_HERE : REG_FRESH_NONE;
        }
        cas_mutex_unlock(&up->set->mutex);
        return fresh;
}

void reg_upstream_note(struct reg_upstream *up, const char *repo, const char *ref, bool there)
{
        reg_upstream_note_at(up, repo, ref, there, reg_upstream_now_s());
}

void reg_upstream_note_at(struct reg_upstream *up, const char *repo, const char *ref, bool there,
                          uint64_t since_s)
{
        char key[512];
        size_t len = known_key(repo, ref, key);
        if (len == 0)
                return;
        cas_mutex_lock(&up->set->mutex);
        if (cas_map_count(up->set->known) >= REG_UPSTREAM_KNOWN_MAX) { /* all are asked for again */
                cas_map_free(up->set->known);
                up->set->known = cas_map_new();
        }
        *cas_map_put(up->set->known, key, len, NULL) =
                since_s << KNOWN_SHIFT | (there ? KNOWN_THERE : 0);
        cas_mutex_unlock(&up->set->mutex);
}

bool reg_upstream_stale_ok(struct reg_upstream *up, const char *repo, const char *ref)
{
        char key[512];
        size_t len = known_key(repo, ref, key);
        cas_mutex_lock(&up->set->mutex);
        const uint64_t *known = len ? cas_map_get(up->set->known, key, len) : NULL;
        /* what was asked for by another process is as old as this one, at least */
        uint64_t since = known && (*known & KNOWN_THERE) ? *known >> KNOWN_SHIFT : up->set->start_s;
        cas_mutex_unlock(&up->set->mutex);
        return reg_upstream_now_s() - since <= up->config->stale_s;
}

/* ---- the registry ---- */

static int password_read(const char *path, struct cas_buf *out, struct cas_err *err)
{
        int rc = cas_io_read_file(cas_io_posix(), AT_FDCWD, path, PASSWORD_BYTES_MAX, out, err);
        while (rc == 0 && out->len_bytes > 0 && strchr("\r\n", (char)out->data[out->len_bytes - 1]))
                out->len_bytes--;
        return rc;
}

/* Not under the mutex; who comes second throws its own away. */
static int remote_open(struct reg_upstream *up, struct cas_err *err)
{
        const struct reg_upstream_config *c = up->config;
        const struct reg_httpc_config http = {.ca_path = c->ca_file, .insecure = c->insecure};
        cas_cleanup_buf struct cas_buf password = CAS_BUF_INIT;
        struct reg_remote_config remote = {
                .host = c->host ? c->host : c->name,
                .plain_http = c->plain_http,
                .user = c->user,
                .auth_file = c->auth_file,
                .anonymous = c->anonymous,
                .attempts = 3,
                .impatient = true,
        };
        struct reg_httpc *client = NULL;
        struct reg_remote *opened = NULL;
        int rc = c->password_file ? password_read(c->password_file, &password, err) : 0;
        if (rc == 0)
                rc = reg_httpc_new(&http, &client, err);
        if (rc < 0)
                return rc;
        remote.http = client;
        remote.password = c->password_file ? cas_buf_str(&password) : NULL;
        rc = reg_remote_open(&remote, &opened, err);
        cas_mutex_lock(&up->set->mutex);
        if (rc == 0 && !up->remote) {
                up->http = cas_steal(&client);
                up->remote = cas_steal(&opened);
        }
        struct reg_httpc *late = up->set->stopping ? up->http : NULL;
        cas_mutex_unlock(&up->set->mutex);
        if (late) /* who stops all did not see it */
                reg_httpc_break(late);
        reg_remote_close(opened);
        reg_httpc_free(client);
        return rc;
}

int reg_upstream_remote(struct reg_upstream *up, struct reg_remote **out,
                        struct reg_remote_failure *failure, struct cas_err *err)
{
        uint64_t now = reg_upstream_now_s();
        cas_mutex_lock(&up->set->mutex);
        uint64_t pause_s = up->not_before_s > now ? up->not_before_s - now : 0;
        bool by_limit = up->paused_by_limit, stopping = up->set->stopping;
        struct reg_remote *remote = up->remote;
        cas_mutex_unlock(&up->set->mutex);
        if (stopping || pause_s > 0) {
                *failure = (struct reg_remote_failure){.status = by_limit ? 429 : 503,
                                                       .retry_after_s = (unsigned)pause_s};
                return cas_fail(err, CAS_E_BUSY, "%s %s", up->config->name,
                                by_limit ? "is asked too often" : "did not answer a moment ago");
        }
        int rc = remote ? 0 : remote_open(up, err);
        if (rc < 0)
                return rc;
        cas_mutex_lock(&up->set->mutex);
        *out = up->remote;
        cas_mutex_unlock(&up->set->mutex);
        return 0;
}

void reg_upstream_failed(struct reg_upstream *up, const struct reg_remote_failure *failure)
{
        if (failure->status != 0 && failure->status != 429 && failure->status < 500)
                return; /* it answered: only this is not to be had */
        uint64_t pause_s = failure->retry_after_s ? failure->retry_after_s : REG_UPSTREAM_PAUSE_S;
        pause_s = cas_min_u64(pause_s, REG_UPSTREAM_PAUSE_MAX_S);
        cas_mutex_lock(&up->set->mutex);
        up->not_before_s = cas_max_u64(up->not_before_s, reg_upstream_now_s() + pause_s);
        up->paused_by_limit = failure->status == 429;
        cas_mutex_unlock(&up->set->mutex);
        cas_log(CAS_LOG_WARN, "upstream", "host=%s status=%u pause=%llu", up->config->name,
                failure->status, (unsigned long long)pause_s);
}

bool reg_upstream_is_paused(struct reg_upstream *up)
{
        cas_mutex_lock(&up->set->mutex);
        bool paused = up->not_before_s > reg_upstream_now_s();
        cas_mutex_unlock(&up->set->mutex);
        return paused;
}

bool reg_upstream_is_shared(const struct reg_upstream *up)
{
        return up->shared;
}

/* ---- all of them ---- */

int reg_upstreams_new(const struct reg_upstreams_config *config, struct cas_store *s,
                      struct reg_metrics *metrics, struct reg_upstreams **out, struct cas_err *err)
{
        size_t count = config ? config->count : 0;
        for (size_t i = 0; i < count; i++) {
                const char *prefix = prefix_of(&config->list[i]);
                if (!prefix[0] && cas_store_shared(s))
                        return cas_fail(err, CAS_E_INVALID,
                                        "[upstream %s]: nodes of a cluster need a prefix for it",
                                        config->list[i].name);
                if (prefix[0] && !cas_repo_name_valid(prefix))
                        return cas_fail(err, CAS_E_INVALID,
                                        "[upstream %s]: no repository can be called so: set prefix",
                                        config->list[i].name);
                for (size_t k = 0; k < i; k++) {
                        if (strcmp(prefix, prefix_of(&config->list[k])) == 0)
                                return cas_fail(err, CAS_E_INVALID,
                                                "[upstream %s] and [upstream %s] have one prefix",
                                                config->list[i].name, config->list[k].name);
                }
        }
        struct reg_upstreams *u = cas_xcalloc(1, sizeof(*u));
        u->store = s;
        u->metrics = metrics;
        u->start_s = reg_upstream_now_s();
        u->known = cas_map_new();
        u->joinable = cas_map_new();
        struct cas_shared *shared = cas_store_shared(s);
        u->count = count + (shared != NULL);
        count = u->count;
        u->list = count ? cas_xcalloc(count, sizeof(*u->list)) : NULL;
        u->work = count ? reg_work_new(REG_FLIGHTS_MAX) : NULL;
        cas_mutex_init(&u->mutex, "upstreams");
        if (shared) {
                (void)snprintf(u->shared_name, sizeof(u->shared_name), "the bucket");
                u->shared = (struct reg_upstream_config){.name = u->shared_name,
                                                         .tag_s = shared->ops->fresh_s(shared)};
                u->list[--count] = (struct reg_upstream){
                        .set = u, .config = &u->shared, .shared = true, .prefix = ""};
        }
        for (size_t i = 0; i < count; i++)
                u->list[i] = (struct reg_upstream){.set = u,
                                                   .config = &config->list[i],
                                                   .prefix = prefix_of(&config->list[i])};
        *out = u;
        return 0;
}

void reg_upstreams_free(struct reg_upstreams *u)
{
        if (!u)
                return;
        reg_work_free(u->work);
        cas_assert(!u->flights);
        for (size_t i = 0; i < u->count; i++) {
                reg_remote_close(u->list[i].remote);
                reg_httpc_free(u->list[i].http);
        }
        cas_map_free(u->known);
        cas_map_free(u->joinable);
        cas_mutex_release(&u->mutex);
        free(u->list);
        free(u);
}
