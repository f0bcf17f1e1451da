/* SPDX-License-Identifier: Apache-2.0 */
/* A raw HTTP client for tests: what is said and heard on a socket. Asserts. */
#ifndef TESTS_HTTPCLIENT_H
#define TESTS_HTTPCLIENT_H

#include "registry/http.h"

/* Connects to 127.0.0.1; answers are waited for 20 s. */
int httpclient_dial(unsigned port);
void httpclient_say(int fd, const char *text);
/* Reads until the head of an answer is whole. Returns the offset of what follows in `out`. */
size_t httpclient_hear_head(int fd, struct cas_buf *out);
/* Reads until the text ends with `last`. */
void httpclient_hear_until(int fd, struct cas_buf *out, const char *last);
unsigned httpclient_status(const struct cas_buf *head);
/* A whole answer with Content-Length; `out` is its body. Returns the status. */
unsigned httpclient_hear(int fd, struct cas_buf *out);
bool httpclient_at_end(int fd);
/* Closes with a reset. */
void httpclient_reset(int fd);

/* Thread: stops a server. */
struct httpclient_stop {
        struct reg_http_server *server;
        unsigned wait_ms;
};
void *httpclient_stop_main(void *stop);

#endif
