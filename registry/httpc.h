/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP client: transfers by libcurl's multi interface on one thread of its
 * own, with pooled connections, HTTP/1.1 and 2, TLS, proxies from the
 * environment. Nothing of libcurl shows here.
 *
 * Thread-safe: any number of transfers by any number of threads. */
#ifndef REG_HTTPC_H
#define REG_HTTPC_H

#include "cas/buf.h"

struct reg_httpc;
struct reg_httpc_config {
        unsigned connections_per_host; /* 0: 6 */
        unsigned connections;          /* 0: 64 */
        unsigned connect_timeout_ms;   /* 0: 10,000 */
        /* A transfer on which nothing moves; 0: 30,000. Not while its reader or its body's source
         * takes its time; ten times as long for the answer to a PUT, POST, PATCH or DELETE. */
        unsigned idle_timeout_ms;
        bool http1_only;
        const char *ca_path; /* a file of certificates to trust besides the system's; may be NULL */
        const char *client_cert_path, *client_key_path; /* may be NULL */
        bool insecure;                                  /* certificates are not checked */
        /* Certificates of /etc/containers/certs.d/HOST[:PORT] and of docker's are used, too. */
        bool host_certs;
};
int reg_httpc_new(const struct reg_httpc_config *config, struct reg_httpc **out,
                  struct cas_err *err) CAS_MUST_CHECK;
/* Breaks off what is under way. No transfer may be open. */
void reg_httpc_free(struct reg_httpc *c);

/* What is under way fails, and so does all that is begun from now on; does not wait. */
void reg_httpc_break(struct reg_httpc *c);

struct reg_httpc_request {
        const char *method;         /* "GET" … */
        const char *url;            /* http or https */
        const char *const *headers; /* "Name: value", NULL-terminated; may be NULL */
        /* A body: bytes, or a source that gives exactly body_bytes in order from body_offset. */
        const void *body;
        uint64_t body_bytes;
        int (*body_read)(void *arg, uint64_t offset, void *buf, size_t len, size_t *out_len,
                         struct cas_err *err);
        void *body_arg;
        /* Redirects of GET and HEAD, and those of any method that keep it (307, 308), are followed:
         * at most 5, http(s) only, never from https to http, nor from elsewhere to this machine or
         * its link. Authorization goes to the first scheme, host and port alone. */
        bool no_redirects;
        /* The URL is what somebody elsewhere said: it must not lead to this machine or its link,
         * whatever its name means. */
        bool from_elsewhere;
};

/* One exchange, which has a connection of its own: a slow reader holds up nobody else. The caller
 * reads the answer as it comes: what is not read is not taken from the network (a bounded buffer).
 * One thread at a time uses a transfer. */
struct reg_httpc_transfer;
/* Sends the request; returns when the answer's headers are here. body_read is called meanwhile, on
 * the caller's thread, and may be called from offset 0 again. While as many transfers are open as
 * the configuration allows, waits for one to end. Errors: IO (no connection, TLS, broken off),
 * LIMIT (timeout), BUSY (reg_httpc_break), INVALID (URL), DENIED (a certificate that is not
 * trusted; a redirect that is not followed: see no_redirects), and body_read's. Any status is
 * success. */
int reg_httpc_begin(struct reg_httpc *c, const struct reg_httpc_request *request,
                    struct reg_httpc_transfer **out, struct cas_err *err) CAS_MUST_CHECK;
unsigned reg_httpc_status(const struct reg_httpc_transfer *t);
/* The last header of this name in the final answer (any case), or NULL. Borrowed. */
const char *reg_httpc_header(const struct reg_httpc_transfer *t, const char *name);
/* The index-th of those of this name, in order, or NULL. Borrowed. */
const char *reg_httpc_header_at(const struct reg_httpc_transfer *t, const char *name, size_t index);
/* Whether who answered is this machine or on its link (or was reached by a proxy there). */
bool reg_httpc_was_near(const struct reg_httpc_transfer *t);
/* Content-Length, or UINT64_MAX when it was not said. */
uint64_t reg_httpc_length(const struct reg_httpc_transfer *t);
/* The URL that answered, after redirects. Borrowed. */
const char *reg_httpc_url(const struct reg_httpc_transfer *t);
/* Blocks until something is there; *out_len 0: the end. Errors: IO (the answer broke off). */
int reg_httpc_read(struct reg_httpc_transfer *t, void *buf, size_t len, size_t *out_len,
                   struct cas_err *err) CAS_MUST_CHECK;
/* The whole rest, appended. Errors: LIMIT (> max_bytes), IO. */
int reg_httpc_read_all(struct reg_httpc_transfer *t, size_t max_bytes, struct cas_buf *out,
                       struct cas_err *err) CAS_MUST_CHECK;
/* Breaks off what is under way. */
void reg_httpc_end(struct reg_httpc_transfer *t);
CAS_DEFINE_CLEANUP(reg_cleanup_transfer_, struct reg_httpc_transfer *, reg_httpc_end);
#define reg_cleanup_transfer __attribute__((cleanup(reg_cleanup_transfer_)))

#endif
