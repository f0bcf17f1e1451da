/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/remotes.h"

#include "cas/elsewhere.h"
#include "cas/mutex.h"
#include "registry/peer.h"
#include "tools/remote_arg.h"
#include "tools/remote_name.h"

#define CONNECT_MS 5000
#define IDLE_MS 10000
#define CONNECTIONS_PER_HOST 12

/* Of an operation. */
struct client {
        struct client *next;
        struct reg_httpc *http;
};

struct remotes {
        struct cas_remotes table;
        struct reg_httpc *http; /* owned */

        struct cas_mutex mutex; /* guards all below; taken before a client's */
        bool broken;
        struct client *clients;
};

/* Its patience is that of readers who wait. */
static int http_new(struct reg_httpc **out, struct cas_err *err)
{
        const struct reg_httpc_config config = {.connections_per_host = CONNECTIONS_PER_HOST,
                                                .connect_timeout_ms = CONNECT_MS,
                                                .idle_timeout_ms = IDLE_MS,
                                                .host_certs = true};
        return reg_httpc_new(&config, out, err);
}

/* Sources are "HOST[:PORT]/NAME". Failures are tried again by the store, which knows who waits. */
static int open_source(void *arg, const char *source, struct cas_remote **out, struct cas_err *err)
{
        struct remotes *r = arg;
        struct reg_remote *remote;
        const char *slash = strchr(source, '/');
        if (!slash)
                return cas_fail(err, CAS_E_INVALID, "%s is no source", source);
        cas_cleanup_free char *host = cas_xstrndup(source, (size_t)(slash - source));
        const struct reg_remote_config config = {.http = r->http, .host = host, .attempts = 1};
        if (reg_remote_open(&config, &remote, err) < 0)
                return -(int)err->code;
        *out = reg_peer_remote_new(remote, slash + 1);
        return 0;
}

int remotes_start(struct cas_store *s, unsigned wait_ms, struct remotes **out, struct cas_err *err)
{
        struct remotes *r = cas_xcalloc(1, sizeof(*r));
        if (http_new(&r->http, err) < 0) {
                free(r);
                return -(int)err->code;
        }
        cas_mutex_init(&r->mutex, "remotes");
        r->table = (struct cas_remotes){.open = open_source, .arg = r, .wait_ms = wait_ms};
        cas_store_set_remotes(s, &r->table);
        *out = r;
        return 0;
}

int remotes_client(struct remotes *r, bool insecure, unsigned jobs, struct reg_httpc **out,
                   struct cas_err *err)
{
        int rc = remote_client(insecure, jobs, out, err);
        if (rc < 0 || !r)
                return rc;
        struct client *client = cas_xcalloc(1, sizeof(*client));
        client->http = *out;
        cas_mutex_lock(&r->mutex);
        client->next = r->clients;
        r->clients = client;
        if (r->broken)
                reg_httpc_break(client->http);
        cas_mutex_unlock(&r->mutex);
        return 0;
}

void remotes_client_free(struct remotes *r, struct reg_httpc *http)
{
        if (r && http) {
                cas_mutex_lock(&r->mutex);
                struct client **at = &r->clients;
                while ((*at)->http != http)
                        at = &(*at)->next;
                struct client *client = *at;
                *at = client->next;
                cas_mutex_unlock(&r->mutex);
                free(client);
        }
        reg_httpc_free(http);
}

void remotes_break(struct remotes *r)
{
        if (!r)
                return;
        reg_httpc_break(r->http);
        cas_mutex_lock(&r->mutex);
        r->broken = true;
        for (struct client *c = r->clients; c; c = c->next)
                reg_httpc_break(c->http);
        cas_mutex_unlock(&r->mutex);
}

void remotes_free(struct remotes *r)
{
        if (!r)
                return;
        cas_assert(!r->clients);
        reg_httpc_free(r->http);
        cas_mutex_release(&r->mutex);
        free(r);
}
