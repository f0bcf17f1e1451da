/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/webhook_send.h"

#include "registry/httpc.h"

#define ANSWER_BYTES_MAX (64 * 1024) /* that are read, so that the connection can go on */

struct reg_webhook_http {
        struct reg_httpc *client;
};

static int send_http(void *arg, const struct reg_webhook_config *hook, const char *const *headers,
                     const void *body, size_t len, unsigned *status, struct cas_err *err)
{
        struct reg_webhook_http *h = arg;
        const struct reg_httpc_request request = {
                .method = "POST",
                .url = hook->url,
                .headers = headers,
                .body = body,
                .body_bytes = len,
                .no_redirects = true,
        };
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        cas_cleanup_buf struct cas_buf answer = CAS_BUF_INIT;
        struct cas_err ignored = CAS_ERR_INIT;
        int rc = reg_httpc_begin(h->client, &request, &t, err);
        if (rc < 0)
                return rc;
        *status = reg_httpc_status(t);
        (void)!reg_httpc_read_all(t, ANSWER_BYTES_MAX, &answer, &ignored);
        return 0;
}

int reg_webhook_http_new(const struct reg_webhook_config *hook, struct reg_webhook_http **out,
                         struct reg_webhook_sender *sender, struct cas_err *err)
{
        const struct reg_httpc_config config = {
                .connections_per_host = 1,
                .connections = 1,
                .connect_timeout_ms = (unsigned)hook->timeout_s * 1000,
                .idle_timeout_ms =
                        (unsigned)hook->timeout_s * 100, /* tenfold for answers to POST */
        };
        struct reg_webhook_http *h = cas_xcalloc(1, sizeof(*h));
        int rc = reg_httpc_new(&config, &h->client, err);
        if (rc < 0) {
                free(h);
                return rc;
        }
        *out = h;
        *sender = (struct reg_webhook_sender){.send = send_http, .arg = h};
        return 0;
}

void reg_webhook_http_break(struct reg_webhook_http *h)
{
        if (h)
                reg_httpc_break(h->client);
}

void reg_webhook_http_free(struct reg_webhook_http *h)
{
        if (!h)
                return;
        reg_httpc_free(h->client);
        free(h);
}
