/* SPDX-License-Identifier: Apache-2.0 */
/* An S3 store for tests: tests/support/badbucket.py as a child, which ends with us; or another one
 * that runs already, told by $LAMINA_S3_ENDPOINT, $LAMINA_S3_BUCKET and AWS's own variables, which
 * does not fail on demand ($LAMINA_S3_SSE, $LAMINA_S3_SSE_KEY: by which it encrypts). Asserts. */
#ifndef TESTS_S3SERVER_H
#define TESTS_S3SERVER_H

#include "tiering/s3.h"

struct s3server;
struct s3server *s3server_start(void);
/* Ours always, whatever the environment says. */
struct s3server *s3server_start_bad(void);
void s3server_stop(struct s3server *s);
bool s3server_is_bad(const struct s3server *s);
unsigned s3server_port(const struct s3server *s);
/* For s3_open(); strings are borrowed from the server. */
struct s3_config s3server_config(const struct s3server *s);
/* JSON, as badbucket.py has it. */
void s3server_fault(struct s3server *s, const char *json);
void s3server_heal(struct s3server *s);
void s3server_set(struct s3server *s, const char *json);
/* POST to /_control/WHAT. */
void s3server_control(struct s3server *s, const char *what, const char *body);
/* Requests of one operation so far ("PutObject"); "uploads": that are open. */
unsigned s3server_count(struct s3server *s, const char *what);

#endif
