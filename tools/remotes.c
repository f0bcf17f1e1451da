/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/remotes.h"

#include "cas/elsewhere.h"
#include "registry/peer.h"
#include "tools/remote_name.h"

#define CONNECT_MS 5000
#define IDLE_MS 10000
#define CONNECTIONS_PER_HOST 12

struct remotes {
        struct cas_remotes table;
        struct reg_httpc *http; /* owned */
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
        r->table = (struct cas_remotes){.open = open_source, .arg = r, .wait_ms = wait_ms};
        cas_store_set_remotes(s, &r->table);
        *out = r;
        return 0;
}

void remotes_break(struct remotes *r)
{
        if (r)
                reg_httpc_break(r->http);
}

void remotes_free(struct remotes *r)
{
        if (!r)
                return;
        reg_httpc_free(r->http);
        free(r);
}
