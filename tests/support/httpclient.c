/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/httpclient.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

int httpclient_dial(unsigned port)
{
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_port = htons((uint16_t)port),
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct timeval limit = {.tv_sec = 20};
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
        assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
        return fd;
}

void httpclient_say(int fd, const char *text)
{
        size_t len = strlen(text);
        assert_int_equal(send(fd, text, len, MSG_NOSIGNAL), (ssize_t)len);
}

void httpclient_hear_until(int fd, struct cas_buf *out, const char *last)
{
        size_t len = strlen(last);
        cas_buf_clear(out);
        while (out->len_bytes < len || memcmp(out->data + out->len_bytes - len, last, len) != 0) {
                cas_buf_reserve(out, 4096);
                assert_int_equal(recv(fd, out->data + out->len_bytes, 1, 0), 1);
                out->data[++out->len_bytes] = '\0';
        }
}

size_t httpclient_hear_head(int fd, struct cas_buf *out)
{
        httpclient_hear_until(fd, out, "\r\n\r\n");
        return out->len_bytes;
}

unsigned httpclient_status(const struct cas_buf *head)
{
        return (unsigned)strtoul(cas_buf_str(head) + strlen("HTTP/1.1 "), NULL, 10);
}

unsigned httpclient_hear(int fd, struct cas_buf *out)
{
        (void)httpclient_hear_head(fd, out);
        unsigned status = httpclient_status(out);
        const char *at = strstr(cas_buf_str(out), "Content-Length: ");
        assert_non_null(at);
        size_t left = strtoul(at + 16, NULL, 10);
        cas_buf_clear(out);
        cas_buf_reserve(out, left + 1);
        while (out->len_bytes < left) {
                ssize_t n = recv(fd, out->data + out->len_bytes, left - out->len_bytes, 0);
                assert_true(n > 0);
                out->len_bytes += (size_t)n;
        }
        out->data[left] = '\0';
        return status;
}

bool httpclient_at_end(int fd)
{
        char c;
        return recv(fd, &c, 1, 0) == 0;
}

void httpclient_reset(int fd)
{
        struct linger linger = {.l_onoff = 1};
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
        (void)close(fd);
}

void *httpclient_stop_main(void *arg)
{
        struct httpclient_stop *stop = arg;
        reg_http_stop(stop->server, stop->wait_ms);
        return NULL;
}
