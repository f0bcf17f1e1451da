/* SPDX-License-Identifier: Apache-2.0 */
/* The thread of the HTTP client: takes exchanges, drives libcurl, and hands
 * answers' heads and bytes to those who wait. */
#include <time.h>

#include "cas/limits.h"
#include "registry/httpc_int.h"

#define LOOP_MS 500         /* how often idleness is looked for */
#define LOOP_ALONE_MS 60000 /* while nothing is under way; asking wakes */
#define SLOW_ANSWER_FACTOR 10

uint64_t httpc_now_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void httpc_ring_put(struct httpc_ring *r, const void *data, size_t len)
{
        cas_assert(len <= httpc_ring_room(r));
        if (!r->data)
                r->data = cas_xmalloc(REG_HTTPC_RING_BYTES);
        size_t end = (r->at + r->have) % REG_HTTPC_RING_BYTES;
        size_t first = cas_min_u64(len, REG_HTTPC_RING_BYTES - end);
        memcpy(r->data + end, data, first);
        memcpy(r->data, (const uint8_t *)data + first, len - first);
        r->have += len;
}

size_t httpc_ring_take(struct httpc_ring *r, void *buf, size_t len)
{
        len = cas_min_u64(len, r->have);
        if (len == 0)
                return 0;
        size_t first = cas_min_u64(len, REG_HTTPC_RING_BYTES - r->at);
        memcpy(buf, r->data + r->at, first);
        memcpy((uint8_t *)buf + first, r->data, len - first);
        r->at = (r->at + len) % REG_HTTPC_RING_BYTES;
        r->have -= len;
        return len;
}

/* The callbacks. */

static size_t header_line(struct reg_httpc_transfer *x, const char *line, size_t len)
{
        if (x->head_done)
                return len; /* a trailer */
        size_t kept = len;
        while (kept > 0 && (line[kept - 1] == '\r' || line[kept - 1] == '\n'))
                kept--;
        if (kept >= 5 && strncmp(line, "HTTP/", 5) == 0) {
                cas_buf_clear(&x->head);
                return len;
        }
        if (kept == 0) {
                long status = 0;
                curl_off_t length = -1;
                (void)curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &status);
                (void)curl_easy_getinfo(x->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
                if (status >= 200) {
                        x->status = (unsigned)status;
                        x->length = length < 0 ? UINT64_MAX : (uint64_t)length;
                        x->head_done = true;
                        (void)pthread_cond_broadcast(&x->changed);
                }
                return len;
        }
        if (x->head.len_bytes + kept + 1 > REG_HTTPC_HEAD_BYTES_MAX || memchr(line, 0, kept)) {
                x->head_too_long = true;
                return 0;
        }
        cas_buf_append(&x->head, line, kept);
        cas_buf_append_byte(&x->head, 0);
        return len;
}

static bool is_near(const char *address)
{
        cas_cleanup_free char *host = cas_xasprintf(strchr(address, ':') ? "[%s]" : "%s", address);
        return httpc_host_is_near(host);
}

size_t httpc_on_header(char *line, size_t size, size_t count, void *arg)
{
        struct reg_httpc_transfer *x = arg;
        x->moved_at_ns = httpc_now_ns();
        cas_mutex_lock(&x->mutex);
        if (!x->head_done && x->head.len_bytes == 0) {
                char *address = NULL;
                x->was_near =
                        curl_easy_getinfo(x->easy, CURLINFO_PRIMARY_IP, &address) == CURLE_OK &&
                        address && is_near(address);
        }
        size_t n = header_line(x, line, size * count);
        cas_mutex_unlock(&x->mutex);
        return n;
}

size_t httpc_on_data(char *data, size_t size, size_t count, void *arg)
{
        struct reg_httpc_transfer *x = arg;
        size_t len = size * count;
        x->moved_at_ns = httpc_now_ns();
        cas_mutex_lock(&x->mutex);
        bool fits = len <= httpc_ring_room(&x->in);
        if (fits)
                httpc_ring_put(&x->in, data, len);
        else
                x->in_paused = true;
        (void)pthread_cond_broadcast(&x->changed);
        cas_mutex_unlock(&x->mutex);
        return fits ? len : CURL_WRITEFUNC_PAUSE;
}

/* What of the body goes out next; 0 when it ends, or a word of libcurl's. */
static size_t body_piece(struct reg_httpc_transfer *x, char *buf, size_t len)
{
        if (x->body) {
                len = cas_min_u64(len, x->body_bytes - x->body_sent);
                memcpy(buf, x->body + x->body_sent, len);
                x->body_sent += len;
                return len;
        }
        size_t n = httpc_ring_take(&x->out, buf, len);
        if (n > 0) {
                x->body_sent += n;
                (void)pthread_cond_broadcast(&x->changed);
                return n;
        }
        if (x->body_bytes == UINT64_MAX || x->body_sent == x->body_bytes)
                return 0;
        if (x->out_ended)
                return CURL_READFUNC_ABORT;
        x->out_paused = true;
        return CURL_READFUNC_PAUSE;
}

size_t httpc_on_send(char *buf, size_t size, size_t count, void *arg)
{
        struct reg_httpc_transfer *x = arg;
        x->moved_at_ns = httpc_now_ns();
        cas_mutex_lock(&x->mutex);
        size_t n = body_piece(x, buf, size * count);
        cas_mutex_unlock(&x->mutex);
        return n;
}

int httpc_on_rewind(void *arg, curl_off_t offset, int origin)
{
        struct reg_httpc_transfer *x = arg;
        if (origin != SEEK_SET || offset < 0)
                return CURL_SEEKFUNC_CANTSEEK;
        cas_mutex_lock(&x->mutex);
        x->body_sent = x->body_offset = (uint64_t)offset;
        x->body_generation++;
        x->out.at = x->out.have = 0;
        (void)pthread_cond_broadcast(&x->changed);
        cas_mutex_unlock(&x->mutex);
        return CURL_SEEKFUNC_OK;
}

/* The thread. */

void httpc_ask(struct reg_httpc_transfer *x, unsigned what)
{
        struct reg_httpc *c = x->c;
        cas_mutex_lock(&c->mutex);
        x->asked |= what;
        if (!x->asked_listed) {
                x->asked_listed = true;
                x->asked_next = NULL;
                if (c->asked_last)
                        c->asked_last->asked_next = x;
                else
                        c->asked = x;
                c->asked_last = x;
        }
        cas_mutex_unlock(&c->mutex);
        (void)curl_multi_wakeup(c->multi);
}

static void add_active(struct reg_httpc *c, struct reg_httpc_transfer *x)
{
        x->active_prev = NULL;
        x->active_next = c->active;
        if (c->active)
                c->active->active_prev = x;
        c->active = x;
}

static void let_go(struct reg_httpc *c, struct reg_httpc_transfer *x, CURLcode result, bool idle)
{
        (void)curl_multi_remove_handle(c->multi, x->easy);
        if (x->active_prev)
                x->active_prev->active_next = x->active_next;
        else
                c->active = x->active_next;
        if (x->active_next)
                x->active_next->active_prev = x->active_prev;
        cas_mutex_lock(&x->mutex);
        x->result = result;
        x->idle = idle;
        x->done = true;
        (void)pthread_cond_broadcast(&x->changed);
        cas_mutex_unlock(&x->mutex);
}

static void resume(struct reg_httpc_transfer *x)
{
        cas_mutex_lock(&x->mutex);
        x->in_paused = x->out_paused = false;
        cas_mutex_unlock(&x->mutex);
        x->moved_at_ns = httpc_now_ns();
        (void)curl_easy_pause(x->easy, CURLPAUSE_CONT); /* may call back */
}

static void do_asked(struct reg_httpc *c, struct reg_httpc_transfer *x, unsigned what)
{
        if (what & HTTPC_START) {
                x->moved_at_ns = httpc_now_ns();
                add_active(c, x);
                CURLMcode rc = curl_multi_add_handle(c->multi, x->easy);
                if (rc != CURLM_OK)
                        let_go(c, x, CURLE_FAILED_INIT, false);
        }
        /* done is written by this thread alone */
        if ((what & HTTPC_RESUME) && !x->done)
                resume(x);
        if ((what & HTTPC_END) && !x->done)
                let_go(c, x, CURLE_ABORTED_BY_CALLBACK, false);
}

/* All that is under way, once nothing more is to come. */
static void end_broken(struct reg_httpc *c)
{
        cas_mutex_lock(&c->mutex);
        bool broken = c->broken;
        cas_mutex_unlock(&c->mutex);
        while (broken && c->active)
                let_go(c, c->active, CURLE_ABORTED_BY_CALLBACK, false);
}

/* Holds the mutex all the while, so that nobody frees what is worked on. */
static bool take_asked(struct reg_httpc *c)
{
        cas_mutex_lock(&c->mutex);
        while (c->asked) {
                struct reg_httpc_transfer *x = c->asked;
                c->asked = x->asked_next;
                if (!c->asked)
                        c->asked_last = NULL;
                unsigned what = x->asked;
                x->asked = 0;
                x->asked_listed = false;
                do_asked(c, x, what);
        }
        bool go_on = !c->stopping;
        cas_mutex_unlock(&c->mutex);
        return go_on;
}

static void take_results(struct reg_httpc *c)
{
        int left;
        CURLMsg *m;
        while ((m = curl_multi_info_read(c->multi, &left))) {
                if (m->msg != CURLMSG_DONE)
                        continue;
                char *x = NULL;
                CURLcode result = m->data.result;
                (void)curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &x);
                let_go(c, (struct reg_httpc_transfer *)(void *)x, result, false);
        }
}

static bool is_idle(struct reg_httpc *c, struct reg_httpc_transfer *x, uint64_t now)
{
        uint64_t limit_ns = (uint64_t)c->config.idle_timeout_ms * 1000000;
        cas_mutex_lock(&x->mutex);
        if (x->in_paused || x->out_paused)
                x->moved_at_ns = now; /* our own side is slow */
        if (x->answer_is_slow && !x->head_done && x->body_sent == x->body_bytes)
                limit_ns *= SLOW_ANSWER_FACTOR;
        cas_mutex_unlock(&x->mutex);
        return now - x->moved_at_ns > limit_ns;
}

static void end_idle(struct reg_httpc *c)
{
        uint64_t now = httpc_now_ns();
        for (struct reg_httpc_transfer *x = c->active, *next; x; x = next) {
                next = x->active_next;
                if (is_idle(c, x, now))
                        let_go(c, x, CURLE_OPERATION_TIMEDOUT, true);
        }
}

void *httpc_thread(void *arg)
{
        struct reg_httpc *c = arg;
        while (take_asked(c)) {
                int running;
                (void)curl_multi_perform(c->multi, &running);
                take_results(c);
                end_idle(c);
                end_broken(c);
                (void)curl_multi_poll(c->multi, NULL, 0, c->active ? LOOP_MS : LOOP_ALONE_MS, NULL);
        }
        cas_assert(!c->active);
        return NULL;
}
