/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/accesslog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "cas/log.h"
#include "cas/mutex.h"

#define SHARDS 8
#define SHARD_BYTES_MAX (1024 * 1024)
#define SHARD_BYTES_MANY (64 * 1024) /* not to be kept until the next time */
#define WRITE_EVERY_MS 200
#define TEXT_BYTES_MAX 2048 /* of one text of a line that a client has sent */
#define DROPS_TOLD_EVERY_S 10

/* Lines of some threads that are not written yet; the lock is held for a copy. */
struct shard {
        _Alignas(64) struct cas_mutex mutex;
        struct cas_buf lines;
};

struct reg_accesslog {
        const struct reg_log_config *config;
        struct reg_metrics *metrics;
        struct shard shards[SHARDS];
        struct cas_mutex file_mutex; /* guards fd; held while it is written to */
        int fd;
        struct cas_mutex mutex; /* guards the two flags; never held for long */
        pthread_cond_t change;
        bool stop, many;
        pthread_t writer;
        _Atomic(uint64_t) dropped;
        uint64_t dropped_told, told_s; /* the writer's */
};

/* ---- lines ---- */

/* A text of a client's between quotes: nothing in it can end the text, or the line. */
static void append_json(struct cas_buf *out, const char *text)
{
        cas_buf_append_byte(out, '"');
        size_t at = 0;
        for (; text[at] && at < TEXT_BYTES_MAX; at++) {
                unsigned char c = (unsigned char)text[at];
                if (c == '"' || c == '\\')
                        cas_buf_printf(out, "\\%c", c);
                else if (c < ' ' || c >= 0x7f) /* bytes as they came: not all of it is UTF-8 */
                        cas_buf_printf(out, "\\u%04x", c);
                else
                        cas_buf_append_byte(out, c);
        }
        cas_buf_append_str(out, text[at] ? "...\"" : "\"");
}

/* blanks: they may be in it, since it stands between quotes. Nothing is "-". */
static void append_combined(struct cas_buf *out, const char *text, bool blanks)
{
        size_t at = 0;
        if (!text[0])
                cas_buf_append_byte(out, '-');
        for (; text[at] && at < TEXT_BYTES_MAX; at++) {
                unsigned char c = (unsigned char)text[at];
                bool plain = c > ' ' && c < 0x7f && c != '"' && c != '\\';
                if (plain || (c == ' ' && blanks))
                        cas_buf_append_byte(out, c);
                else
                        cas_buf_printf(out, "\\x%02x", c);
        }
        if (text[at])
                cas_buf_append_str(out, "...");
}

static void line_json(const struct reg_http_done *done, const char *user, const char *id,
                      const struct tm *t, unsigned ms, struct cas_buf *out)
{
        char time_text[32];
        const size_t len = strftime(time_text, sizeof(time_text), "%Y-%m-%dT%H:%M:%S", t);
        cas_assert(len > 0);
        cas_buf_printf(out, "{\"time\":\"%s.%03uZ\",\"client\":", time_text, ms);
        append_json(out, done->client);
        cas_buf_append_str(out, ",\"user\":");
        append_json(out, user);
        cas_buf_append_str(out, ",\"method\":");
        append_json(out, done->method);
        cas_buf_append_str(out, ",\"target\":");
        append_json(out, done->target);
        cas_buf_printf(out, ",\"status\":%u,\"whole\":%s,\"in\":%llu,\"out\":%llu,\"us\":%llu",
                       done->status, done->whole ? "true" : "false",
                       (unsigned long long)done->in_bytes, (unsigned long long)done->out_bytes,
                       (unsigned long long)(done->duration_ns / 1000));
        cas_buf_append_str(out, ",\"agent\":");
        append_json(out, done->agent);
        cas_buf_append_str(out, ",\"referer\":");
        append_json(out, done->referer);
        cas_buf_append_str(out, ",\"id\":");
        append_json(out, id);
        cas_buf_append_str(out, "}\n");
}

static void line_combined(const struct reg_http_done *done, const char *user, const struct tm *t,
                          struct cas_buf *out)
{
        char time_text[40];
        const size_t len = strftime(time_text, sizeof(time_text), "%d/%b/%Y:%H:%M:%S +0000", t);
        cas_assert(len > 0);
        append_combined(out, done->client, false);
        cas_buf_append_str(out, " - ");
        append_combined(out, user, false);
        cas_buf_printf(out, " [%s] \"", time_text);
        append_combined(out, done->method, false);
        cas_buf_append_byte(out, ' ');
        append_combined(out, done->target, false);
        cas_buf_printf(out, " HTTP/1.1\" %03u %llu \"", done->status,
                       (unsigned long long)done->out_bytes);
        append_combined(out, done->referer, true);
        cas_buf_append_str(out, "\" \"");
        append_combined(out, done->agent, true);
        cas_buf_append_str(out, "\"\n");
}

void reg_accesslog_line(enum reg_access_log_format format, const struct reg_http_done *done,
                        const char *user, const char *id, uint64_t unix_ns, struct cas_buf *out)
{
        time_t s = (time_t)(unix_ns / 1000000000);
        struct tm t;
        (void)gmtime_r(&s, &t);
        if (format == REG_ACCESS_LOG_JSON)
                line_json(done, user, id, &t, (unsigned)(unix_ns / 1000000 % 1000), out);
        else
                line_combined(done, user, &t, out);
}

static void wake_writer(struct reg_accesslog *l)
{
        cas_mutex_lock(&l->mutex);
        l->many = true;
        (void)pthread_cond_signal(&l->change);
        cas_mutex_unlock(&l->mutex);
}

void reg_accesslog_add(struct reg_accesslog *l, const struct reg_http_done *done, const char *user,
                       const char *id)
{
        static atomic_uint threads;
        static _Thread_local unsigned mine; /* one more than the shard's number */
        if (mine == 0)
                mine = 1 + atomic_fetch_add(&threads, 1) % SHARDS;
        struct timespec now;
        (void)clock_gettime(CLOCK_REALTIME, &now);
        cas_cleanup_buf struct cas_buf line = CAS_BUF_INIT;
        reg_accesslog_line(l->config->access, done, user, id,
                           (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec, &line);
        struct shard *s = &l->shards[mine - 1];
        cas_mutex_lock(&s->mutex);
        size_t before = s->lines.len_bytes, after = before + line.len_bytes;
        bool fits = after <= SHARD_BYTES_MAX;
        if (fits)
                cas_buf_append(&s->lines, line.data, line.len_bytes);
        cas_mutex_unlock(&s->mutex);
        if (before < SHARD_BYTES_MANY && after >= SHARD_BYTES_MANY)
                wake_writer(l);
        reg_metrics_add(l->metrics,
                        fits ? REG_COUNTER_ACCESS_LOG_LINES : REG_COUNTER_ACCESS_LOG_DROPPED, 1);
        if (!fits)
                atomic_fetch_add(&l->dropped, 1);
}

/* ---- writing ---- */

static int log_fd(const struct reg_log_config *config, int *out, struct cas_err *err)
{
        *out = config->file ? open(config->file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640)
                            : fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
        if (*out < 0)
                return cas_fail_sys(err, errno, "access log %s",
                                    config->file ? config->file : "stderr");
        return 0;
}

/* False: what is left of the lines is lost. */
static bool write_all(int fd, const struct cas_buf *lines)
{
        for (size_t at = 0; at < lines->len_bytes;) {
                ssize_t n = write(fd, lines->data + at, lines->len_bytes - at);
                if (n < 0 && errno != EINTR)
                        return false;
                at += n > 0 ? (size_t)n : 0;
        }
        return true;
}

static uint64_t lines_in(const struct cas_buf *lines)
{
        uint64_t n = 0;
        for (size_t i = 0; i < lines->len_bytes; i++)
                n += lines->data[i] == '\n';
        return n;
}

static void tell_drops(struct reg_accesslog *l, bool now)
{
        uint64_t dropped = atomic_load(&l->dropped), s = (uint64_t)time(NULL);
        if (dropped == l->dropped_told || (!now && s - l->told_s < DROPS_TOLD_EVERY_S))
                return;
        cas_log(CAS_LOG_WARN, "access-log", "dropped=%llu",
                (unsigned long long)(dropped - l->dropped_told));
        l->dropped_told = dropped;
        l->told_s = s;
}

static void write_out(struct reg_accesslog *l, struct cas_buf *spare, bool last)
{
        for (size_t i = 0; i < SHARDS; i++) {
                struct shard *s = &l->shards[i];
                cas_mutex_lock(&s->mutex);
                struct cas_buf lines = s->lines;
                s->lines = *spare;
                cas_mutex_unlock(&s->mutex);
                *spare = lines;
                cas_mutex_lock(&l->file_mutex);
                bool written = write_all(l->fd, spare);
                cas_mutex_unlock(&l->file_mutex);
                if (!written)
                        atomic_fetch_add(&l->dropped, lines_in(spare));
                cas_buf_clear(spare);
        }
        tell_drops(l, last);
}

static void *write_lines(void *arg)
{
        struct reg_accesslog *l = arg;
        cas_cleanup_buf struct cas_buf spare = CAS_BUF_INIT;
        for (bool stop = false; !stop;) {
                struct timespec until;
                (void)clock_gettime(CLOCK_MONOTONIC, &until);
                until.tv_nsec += WRITE_EVERY_MS * 1000000L;
                until.tv_sec += until.tv_nsec / 1000000000;
                until.tv_nsec %= 1000000000;
                cas_mutex_lock(&l->mutex);
                while (!l->stop && !l->many && cas_mutex_timedwait(&l->mutex, &l->change, &until))
                        ;
                stop = l->stop;
                l->many = false;
                cas_mutex_unlock(&l->mutex);
                write_out(l, &spare, stop);
        }
        return NULL;
}

int reg_accesslog_reopen(struct reg_accesslog *l, struct cas_err *err)
{
        int fd;
        if (log_fd(l->config, &fd, err) < 0)
                return -(int)err->code;
        cas_mutex_lock(&l->file_mutex);
        int old = l->fd;
        l->fd = fd;
        cas_mutex_unlock(&l->file_mutex);
        (void)close(old);
        return 0;
}

static void log_free(struct reg_accesslog *l)
{
        for (size_t i = 0; i < SHARDS; i++) {
                cas_buf_release(&l->shards[i].lines);
                cas_mutex_release(&l->shards[i].mutex);
        }
        if (l->fd >= 0)
                (void)close(l->fd);
        (void)pthread_cond_destroy(&l->change);
        cas_mutex_release(&l->mutex);
        cas_mutex_release(&l->file_mutex);
        free(l);
}

int reg_accesslog_open(const struct reg_log_config *config, struct reg_metrics *metrics,
                       struct reg_accesslog **out, struct cas_err *err)
{
        struct reg_accesslog *l = aligned_alloc(_Alignof(struct reg_accesslog), sizeof(*l));
        cas_assert(l != NULL);
        memset(l, 0, sizeof(*l));
        l->config = config;
        l->metrics = metrics;
        cas_mutex_init(&l->file_mutex, "access log file");
        cas_mutex_init(&l->mutex, "access log");
        cas_cond_init(&l->change);
        for (size_t i = 0; i < SHARDS; i++)
                cas_mutex_init(&l->shards[i].mutex, "access log lines");
        int rc = log_fd(config, &l->fd, err);
        if (rc == 0 && pthread_create(&l->writer, NULL, write_lines, l) != 0)
                rc = cas_fail(err, CAS_E_NOMEM, "no thread for the access log");
        if (rc < 0)
                log_free(l);
        else
                *out = l;
        return rc;
}

void reg_accesslog_close(struct reg_accesslog *l)
{
        if (!l)
                return;
        cas_mutex_lock(&l->mutex);
        l->stop = true;
        (void)pthread_cond_signal(&l->change);
        cas_mutex_unlock(&l->mutex);
        (void)pthread_join(l->writer, NULL);
        log_free(l);
}
