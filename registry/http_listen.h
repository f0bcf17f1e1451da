/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets: what a server listens on, and how a client reaches a Unix socket
 * whose path is longer than an address may be. */
#ifndef REG_HTTP_LISTEN_H
#define REG_HTTP_LISTEN_H

#include "cas/err.h"

/* Listens at "ADDR:PORT", "[V6]:PORT" or the absolute path of a Unix socket (file mode
 * socket_mode), where a socket that nobody answers on is replaced. The descriptor does not
 * block. Errors: INVALID (text), BUSY (somebody listens there), DENIED, IO. */
int reg_listen(const char *where, unsigned socket_mode, int *out_fd,
               struct cas_err *err) CAS_MUST_CHECK;
/* The TCP port of a listening socket; 0 when it is none. */
unsigned reg_listen_port(int fd);
/* Connects to a Unix socket. Errors: NOTFOUND (no such file, or nobody listens), DENIED. */
int reg_connect_unix(const char *path, int *out_fd, struct cas_err *err) CAS_MUST_CHECK;

#endif
