/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/s3server.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "cas/json.h"
#include "tests/support/httpclient.h"

struct s3server {
        pid_t pid; /* 0: not ours */
        int stdin_fd;
        unsigned port;
        char *endpoint, *bucket; /* owned */
};

static unsigned read_port(int fd)
{
        char text[64] = "";
        size_t have = 0;
        while (!strchr(text, '\n')) {
                ssize_t n = read(fd, text + have, sizeof(text) - 1 - have);
                assert_true(n > 0);
                have += (size_t)n;
        }
        unsigned port = 0;
        assert_int_equal(sscanf(text, "port %u", &port), 1);
        return port;
}

struct s3server *s3server_start_bad(void)
{
        struct s3server *s = cas_xcalloc(1, sizeof(*s));
        int in[2], out[2];
        assert_int_equal(pipe2(in, O_CLOEXEC), 0);
        assert_int_equal(pipe2(out, O_CLOEXEC), 0);
        pid_t parent = getpid();
        s->pid = fork();
        assert_true(s->pid >= 0);
        if (s->pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (getppid() != parent || dup2(in[0], 0) < 0 || dup2(out[1], 1) < 0)
                        _exit(127);
                execlp("python3", "python3", "tests/support/badbucket.py", "--until-stdin-ends",
                       NULL);
                _exit(127);
        }
        (void)close(in[0]);
        (void)close(out[1]);
        s->stdin_fd = in[1];
        s->port = read_port(out[0]);
        (void)close(out[0]);
        s->endpoint = cas_xasprintf("http://127.0.0.1:%u", s->port);
        s->bucket = cas_xstrdup("bucket");
        assert_int_equal(setenv("AWS_ACCESS_KEY_ID", "AKIDTEST", 1), 0);
        assert_int_equal(setenv("AWS_SECRET_ACCESS_KEY", "secret/of+tests", 1), 0);
        (void)unsetenv("AWS_SESSION_TOKEN");
        return s;
}

struct s3server *s3server_start(void)
{
        const char *endpoint = getenv("LAMINA_S3_ENDPOINT"), *bucket = getenv("LAMINA_S3_BUCKET");
        if (!endpoint || !bucket)
                return s3server_start_bad();
        struct s3server *s = cas_xcalloc(1, sizeof(*s));
        s->stdin_fd = -1;
        s->endpoint = cas_xstrdup(endpoint);
        s->bucket = cas_xstrdup(bucket);
        return s;
}

void s3server_stop(struct s3server *s)
{
        if (s->pid > 0) {
                (void)close(s->stdin_fd);
                assert_int_equal(kill(s->pid, SIGKILL), 0);
                assert_int_equal(waitpid(s->pid, NULL, 0), s->pid);
        }
        free(s->endpoint);
        free(s->bucket);
        free(s);
}

bool s3server_is_bad(const struct s3server *s)
{
        return s->pid > 0;
}

unsigned s3server_port(const struct s3server *s)
{
        return s->port;
}

struct s3_config s3server_config(const struct s3server *s)
{
        return (struct s3_config){.endpoint = s->endpoint,
                                  .bucket = s->bucket,
                                  .path_style = true,
                                  .sse = s->pid > 0 ? NULL : getenv("LAMINA_S3_SSE"),
                                  .sse_kms_key = s->pid > 0 ? NULL : getenv("LAMINA_S3_SSE_KEY"),
                                  .timeout_ms = 10000};
}

static void control(struct s3server *s, const char *method, const char *what, const char *body,
                    struct cas_buf *out)
{
        cas_cleanup_free char *text = cas_xasprintf("%s /_control/%s HTTP/1.1\r\nHost: c\r\n"
                                                    "Content-Length: %zu\r\n\r\n%s",
                                                    method, what, strlen(body), body);
        int fd = httpclient_dial(s->port);
        httpclient_say(fd, text);
        assert_int_equal(httpclient_hear(fd, out), 200);
        (void)close(fd);
}

void s3server_control(struct s3server *s, const char *what, const char *body)
{
        cas_cleanup_buf struct cas_buf answer = CAS_BUF_INIT;
        control(s, "POST", what, body, &answer);
}

void s3server_fault(struct s3server *s, const char *json)
{
        s3server_control(s, "faults", json);
}

void s3server_heal(struct s3server *s)
{
        s3server_control(s, "faults", "[]");
}

void s3server_set(struct s3server *s, const char *json)
{
        s3server_control(s, "settings", json);
}

unsigned s3server_count(struct s3server *s, const char *what)
{
        cas_cleanup_buf struct cas_buf answer = CAS_BUF_INIT;
        cas_cleanup_json json_t *j = NULL;
        struct cas_err err = CAS_ERR_INIT;
        control(s, "GET", "counts", "", &answer);
        assert_int_equal(cas_json_parse(answer.data, answer.len_bytes, 1 << 20, &j, &err), 0);
        const json_t *value = json_object_get(j, what);
        if (!value)
                value = json_object_get(json_object_get(j, "counts"), what);
        return (unsigned)json_integer_value(value);
}
