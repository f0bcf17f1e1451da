/* SPDX-License-Identifier: Apache-2.0 */
/* Webhooks: their queue through crashes and full disks, order, what is sent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cas/json.h"
#include "cas/mutex.h"
#include "registry/hookqueue.h"
#include "registry/webhook.h"
#include "tests/support/scratch.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)

/* ---- the queue ---- */

static const char store_id[] = "0123456789abcdef0123456789abcdef";

static struct reg_hookqueue *open_queue(struct teststore *t, const struct cas_io *io,
                                        uint64_t max_bytes, uint64_t *cut)
{
        const struct reg_hookqueue_config config = {.io = io,
                                                    .dirfd = cas_store_dirfd(t->store),
                                                    .dir = ".",
                                                    .name = "q",
                                                    .store_id = store_id,
                                                    .max_bytes = max_bytes};
        struct reg_hookqueue *q = NULL;
        struct cas_err err = CAS_ERR_INIT;
        ok(reg_hookqueue_open(&config, &q, cut, &err));
        return q;
}

static void add(struct reg_hookqueue *q, const char *text)
{
        struct cas_err err = CAS_ERR_INIT;
        ok(reg_hookqueue_add(q, text, strlen(text), true, &err));
}

static void join(void *arg, const void *event, size_t len)
{
        cas_buf_append(arg, event, len);
        cas_buf_append_byte(arg, ' ');
}

/* What is next, as one text; delivered when `take`. */
static void expect(struct reg_hookqueue *q, unsigned max, const char *text, bool take)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf seen = CAS_BUF_INIT;
        uint64_t last = 0;
        unsigned count;
        ok(reg_hookqueue_next(q, max, 1000000, join, &seen, &last, &count, &err));
        assert_string_equal(cas_buf_str(&seen), text);
        if (take)
                ok(reg_hookqueue_delivered(q, last, &err));
}

static void a_queue_goes_on_where_it_ended(void **state)
{
        struct teststore *t = *state;
        uint64_t cut = 0;
        struct reg_hookqueue *q = open_queue(t, NULL, 1000000, &cut);
        add(q, "a");
        add(q, "b");
        add(q, "c");
        expect(q, 2, "a b ", true);
        add(q, "d");
        reg_hookqueue_close(q);
        q = open_queue(t, NULL, 1000000, &cut);
        assert_int_equal(cut, 0);
        expect(q, 9, "c d ", false);
        expect(q, 9, "c d ", true);
        expect(q, 9, "", false);
        add(q, "e");
        expect(q, 9, "e ", true);
        reg_hookqueue_close(q);
}

/* Wherever a crash cuts the file: what is whole stays, in order, and the queue goes on. */
static void a_torn_tail_is_cut_off(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf all = CAS_BUF_INIT;
        uint64_t cut = 0, events, bytes;
        int dirfd = cas_store_dirfd(t->store);
        struct reg_hookqueue *q = open_queue(t, NULL, 1000000, &cut);
        add(q, "one");
        add(q, "two");
        expect(q, 1, "one ", true);
        add(q, "three");
        reg_hookqueue_close(q);
        ok(cas_io_read_file(cas_io_posix(), dirfd, "q", 1000000, &all, &err));
        for (size_t len = 64; len <= all.len_bytes; len++) {
                ok(cas_io_replace_file(cas_io_posix(), dirfd, ".", "q", all.data, len, 0600, &err));
                q = open_queue(t, NULL, 1000000, &cut);
                reg_hookqueue_pending(q, &events, &bytes);
                add(q, "next");
                cas_cleanup_buf struct cas_buf seen = CAS_BUF_INIT;
                uint64_t last;
                unsigned count;
                ok(reg_hookqueue_next(q, 9, 1000000, join, &seen, &last, &count, &err));
                assert_int_equal(count, events + 1);
                const char *text = cas_buf_str(&seen);
                assert_non_null(strstr(text, "next "));
                if (strstr(text, "three"))
                        assert_true(strstr(text, "two") < strstr(text, "three"));
                if (len == all.len_bytes)
                        assert_string_equal(text, "two three next ");
                reg_hookqueue_close(q);
        }
}

static void a_flipped_byte_ends_the_queue(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf all = CAS_BUF_INIT;
        uint64_t cut = 0;
        int dirfd = cas_store_dirfd(t->store);
        struct reg_hookqueue *q = open_queue(t, NULL, 1000000, &cut);
        add(q, "one");
        add(q, "two");
        reg_hookqueue_close(q);
        ok(cas_io_read_file(cas_io_posix(), dirfd, "q", 1000000, &all, &err));
        size_t second = 64 + 32 + 3;
        for (size_t at = second; at < all.len_bytes; at++) {
                all.data[at] ^= 1;
                ok(cas_io_replace_file(cas_io_posix(), dirfd, ".", "q", all.data, all.len_bytes,
                                       0600, &err));
                q = open_queue(t, NULL, 1000000, &cut);
                assert_int_equal(cut, all.len_bytes - second);
                expect(q, 9, "one ", false);
                reg_hookqueue_close(q);
                all.data[at] ^= 1;
        }
}

static void a_full_queue_refuses_and_goes_on(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        uint64_t cut = 0;
        struct reg_hookqueue *q = open_queue(t, NULL, 100, &cut);
        add(q, "one");
        add(q, "two");
        assert_int_equal(reg_hookqueue_add(q, "three and more", 14, true, &err), -CAS_E_LIMIT);
        expect(q, 1, "one ", true);
        add(q, "four");
        expect(q, 9, "two four ", true);
        reg_hookqueue_close(q);
}

/* What is done with does not stay: the file is bounded, and sequences go on. */
static void a_long_life_takes_no_room(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        uint64_t cut = 0;
        static char event[60000];
        struct stat st;
        memset(event, 'x', sizeof(event) - 1);
        struct reg_hookqueue *q = open_queue(t, NULL, 1000000, &cut);
        for (int i = 0; i < 300; i++) {
                ok(reg_hookqueue_add(q, event, sizeof(event) - 1, false, &err));
                cas_cleanup_buf struct cas_buf seen = CAS_BUF_INIT;
                uint64_t last = 0;
                unsigned count;
                ok(reg_hookqueue_next(q, 1, 10, join, &seen, &last, &count, &err));
                assert_int_equal(last, i + 1);
                ok(reg_hookqueue_delivered(q, last, &err));
        }
        ok(fstatat(cas_store_dirfd(t->store), "q", &st, 0));
        assert_true(st.st_size < 5000000);
        reg_hookqueue_close(q);
        q = open_queue(t, NULL, 1000000, &cut);
        expect(q, 9, "", false);
        add(q, "z");
        expect(q, 9, "z ", true);
        reg_hookqueue_close(q);
        q = open_queue(t, NULL, 1000000, &cut);
        assert_int_equal(cut, 0);
        reg_hookqueue_close(q);
}

static atomic_bool sync_fails;
static int failing_fdatasync(void *ctx CAS_UNUSED, int fd)
{
        if (!atomic_load(&sync_fails))
                return fdatasync(fd);
        errno = EIO;
        return -1;
}

static void a_sync_that_fails_is_told(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_io_ops ops = *cas_io_posix()->ops;
        const struct cas_io io = {.ops = &ops};
        uint64_t cut = 0;
        ops.fdatasync = failing_fdatasync;
        struct reg_hookqueue *q = open_queue(t, &io, 1000000, &cut);
        add(q, "one");
        atomic_store(&sync_fails, true);
        assert_int_equal(reg_hookqueue_add(q, "two", 3, true, &err), -CAS_E_IO);
        atomic_store(&sync_fails, false);
        struct stat before, after;
        ok(fstatat(cas_store_dirfd(t->store), "q", &before, 0));
        add(q, "three"); /* in a new file: what the other has on the disk is not known */
        ok(fstatat(cas_store_dirfd(t->store), "q", &after, 0));
        assert_true(before.st_ino != after.st_ino);
        expect(q, 1, "one ", true);
        add(q, "four");
        reg_hookqueue_close(q);
        q = open_queue(t, NULL, 1000000, &cut);
        assert_int_equal(cut, 0);
        expect(q, 9, "two three four ", true);
        reg_hookqueue_close(q);
}

struct adder {
        struct reg_hookqueue *q;
        char letter;
};

static void *add_many(void *arg)
{
        struct adder *a = arg;
        for (int i = 0; i < 50; i++) {
                char text[16];
                (void)snprintf(text, sizeof(text), "%c%02d", a->letter, i);
                add(a->q, text);
        }
        return NULL;
}

static void many_add_at_once(void **state)
{
        struct teststore *t = *state;
        uint64_t cut = 0;
        struct reg_hookqueue *q = open_queue(t, NULL, 1000000, &cut);
        struct adder adders[4];
        pthread_t threads[4];
        for (int i = 0; i < 4; i++) {
                adders[i] = (struct adder){q, (char)('a' + i)};
                ok(pthread_create(&threads[i], NULL, add_many, &adders[i]));
        }
        for (int i = 0; i < 4; i++)
                ok(pthread_join(threads[i], NULL));
        int next[4] = {0};
        for (int i = 0; i < 200; i++) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_buf struct cas_buf seen = CAS_BUF_INIT;
                uint64_t last;
                unsigned count;
                ok(reg_hookqueue_next(q, 1, 1, join, &seen, &last, &count, &err));
                assert_int_equal(count, 1);
                int who = seen.data[0] - 'a';
                assert_int_equal((int)strtol((const char *)seen.data + 1, NULL, 10), next[who]++);
                ok(reg_hookqueue_delivered(q, last, &err));
        }
        reg_hookqueue_close(q);
}

/* One sync waits until the test lets it go on. */
static atomic_bool sync_held, sync_waits;
static int held_fdatasync(void *ctx CAS_UNUSED, int fd)
{
        while (atomic_load(&sync_held)) {
                atomic_store(&sync_waits, true);
                (void)usleep(1000);
        }
        return fdatasync(fd);
}

static void *add_slowly(void *arg)
{
        add(arg, "slow");
        return NULL;
}

static void *deliver_all(void *arg)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_hookqueue *q = ((struct adder *)arg)->q;
        ok(reg_hookqueue_delivered(q, 90, &err));
        return NULL;
}

/* The file is written anew once the sync is over: what was added until then is in the new one. */
static void what_is_added_before_a_rewrite_is_not_lost(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_io_ops ops = *cas_io_posix()->ops;
        const struct cas_io io = {.ops = &ops};
        static char event[60000];
        uint64_t cut = 0;
        pthread_t adder, deliverer;
        memset(event, 'x', sizeof(event) - 1);
        ops.fdatasync = held_fdatasync;
        struct reg_hookqueue *q = open_queue(t, &io, 100000000, &cut);
        for (int i = 0; i < 90; i++) /* enough for a rewrite when they are delivered */
                ok(reg_hookqueue_add(q, event, sizeof(event) - 1, false, &err));
        atomic_store(&sync_held, true);
        ok(pthread_create(&adder, NULL, add_slowly, q));
        while (!atomic_load(&sync_waits))
                (void)usleep(1000);
        struct adder a = {.q = q};
        uint64_t events = 0, bytes;
        ok(pthread_create(&deliverer, NULL, deliver_all, &a));
        do {
                (void)usleep(1000);
                reg_hookqueue_pending(q, &events, &bytes);
        } while (events != 1);
        ok(reg_hookqueue_add(q, "late", 4, false, &err));
        atomic_store(&sync_held, false);
        ok(pthread_join(adder, NULL));
        ok(pthread_join(deliverer, NULL));
        add(q, "last");
        reg_hookqueue_close(q);
        q = open_queue(t, NULL, 100000000, &cut);
        assert_int_equal(cut, 0);
        expect(q, 9, "slow late last ", true);
        reg_hookqueue_close(q);
}

/* ---- delivery ---- */

struct endpoint {
        struct cas_mutex mutex;
        pthread_cond_t change;
        unsigned refuse; /* so many attempts are answered by 503 */
        unsigned attempts, events;
        char tags[256];
        char signature[REG_WEBHOOK_SIGNATURE_BYTES + 40];
};

static int take(void *arg, const struct reg_webhook_config *hook CAS_UNUSED,
                const char *const *headers, const void *body, size_t len, unsigned *status,
                struct cas_err *err)
{
        struct endpoint *e = arg;
        cas_cleanup_json json_t *doc = NULL;
        ok(cas_json_parse(body, len, 1000000, &doc, err));
        cas_mutex_lock(&e->mutex);
        e->attempts++;
        *status = e->refuse > 0 ? 503 : 202;
        for (size_t i = 0; headers[i]; i++) {
                if (strncmp(headers[i], "X-Lamina-Signature-256: ", 24) == 0)
                        (void)snprintf(e->signature, sizeof(e->signature), "%s", headers[i] + 24);
        }
        if (e->refuse > 0) {
                e->refuse--;
        } else {
                size_t i;
                json_t *event;
                json_array_foreach(json_object_get(doc, "events"), i, event)
                {
                        const json_t *target = json_object_get(event, "target");
                        const char *tag = json_string_value(json_object_get(target, "tag"));
                        size_t at = strlen(e->tags);
                        (void)snprintf(e->tags + at, sizeof(e->tags) - at, "%s ", tag ? tag : "-");
                        e->events++;
                }
        }
        (void)pthread_cond_broadcast(&e->change);
        cas_mutex_unlock(&e->mutex);
        return 0;
}

static void wait_events(struct endpoint *e, unsigned events)
{
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += 20;
        cas_mutex_lock(&e->mutex);
        while (e->events < events)
                assert_true(cas_mutex_timedwait(&e->mutex, &e->change, &until));
        cas_mutex_unlock(&e->mutex);
}

static void set(void **area, const char *key, const char *value)
{
        struct cas_err err = CAS_ERR_INIT;
        ok(reg_webhook_area.set(area, "ci", key, value, &err));
}

static struct reg_event push_of(const char *repo, const char *tag)
{
        return (struct reg_event){.kind = REG_EVENT_PUSH_MANIFEST,
                                  .repo = repo,
                                  .tag = tag,
                                  .from_repo = "",
                                  .digest = test_digest(tag),
                                  .media_type = "application/vnd.oci.image.manifest.v1+json",
                                  .bytes = 3,
                                  .user = "ann",
                                  .client = "192.0.2.1",
                                  .request_id = "r1"};
}

static void events_arrive_in_order_after_failures(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct endpoint e = {.refuse = 2};
        const struct reg_webhook_sender sender = {.send = take, .arg = &e};
        void *area = NULL;
        cas_mutex_init(&e.mutex, "endpoint");
        cas_cond_init(&e.change);
        set(&area, "url", "http://127.0.0.1:1/");
        set(&area, "secret", "key");
        set(&area, "repositories", "team/**");
        set(&area, "actions", "push, delete pull");
        struct reg_events *events = reg_events_new();
        struct reg_webhooks *w = NULL;
        ok(reg_webhooks_start(t->store, area, &sender, events, &w, &err));
        struct reg_event event = push_of("team/app", "one");
        reg_events_tell(events, &event);
        event = push_of("other", "not");
        reg_events_tell(events, &event);
        event = push_of("team/app", "two");
        reg_events_tell(events, &event);
        event.kind = REG_EVENT_PULL_MANIFEST;
        event.tag = "pulled";
        reg_events_tell(events, &event);
        event.kind = REG_EVENT_PULL_BLOB; /* not without blobs = yes */
        reg_events_tell(events, &event);
        wait_events(&e, 3);
        assert_string_equal(e.tags, "one two pulled ");
        assert_true(e.attempts >= 4);
        assert_memory_equal(e.signature, "sha256=", 7);
        struct reg_webhook_stats s;
        reg_webhooks_stats(w, 0, &s);
        assert_int_equal(s.failed, 2);
        assert_int_equal(s.dropped, 0);
        reg_webhooks_stop(w);
        reg_events_free(events);
        reg_webhook_area.release(area);
        cas_mutex_release(&e.mutex);
}

/* What was acknowledged while the endpoint was dead arrives after a restart. */
static void a_dead_endpoint_gets_all_later(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct endpoint e = {.refuse = UINT32_MAX};
        const struct reg_webhook_sender sender = {.send = take, .arg = &e};
        void *area = NULL;
        cas_mutex_init(&e.mutex, "endpoint");
        cas_cond_init(&e.change);
        set(&area, "url", "http://127.0.0.1:1/");
        struct reg_events *events = reg_events_new();
        struct reg_webhooks *w = NULL;
        ok(reg_webhooks_start(t->store, area, &sender, events, &w, &err));
        struct reg_event event = push_of("a", "one");
        reg_events_tell(events, &event);
        event = push_of("a", "two");
        reg_events_tell(events, &event);
        reg_webhooks_stop(w);
        reg_events_free(events);
        e.refuse = 0;
        events = reg_events_new();
        ok(reg_webhooks_start(t->store, area, &sender, events, &w, &err));
        wait_events(&e, 2);
        assert_string_equal(e.tags, "one two ");
        reg_webhooks_stop(w);
        reg_events_free(events);
        reg_webhook_area.release(area);
        cas_mutex_release(&e.mutex);
}

/* An endpoint that takes connections and never answers holds up no end. */
static void an_end_waits_for_no_endpoint(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof(address);
        cas_cleanup_fd int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ok(bind(fd, (const struct sockaddr *)&address, len));
        ok(listen(fd, 4));
        ok(getsockname(fd, (struct sockaddr *)&address, &len));
        cas_cleanup_free char *url = cas_xasprintf("http://127.0.0.1:%u/", ntohs(address.sin_port));
        void *area = NULL;
        set(&area, "url", url);
        struct reg_events *events = reg_events_new();
        struct reg_webhooks *w = NULL;
        ok(reg_webhooks_start(t->store, area, NULL, events, &w, &err));
        struct reg_event event = push_of("a", "one");
        reg_events_tell(events, &event);
        cas_cleanup_fd int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC); /* it is on its way */
        assert_true(peer >= 0);
        struct timespec from, to;
        (void)clock_gettime(CLOCK_MONOTONIC, &from);
        reg_webhooks_stop(w);
        (void)clock_gettime(CLOCK_MONOTONIC, &to);
        assert_true(to.tv_sec - from.tv_sec < 5);
        reg_events_free(events);
        /* and what was not taken is still there */
        events = reg_events_new();
        struct reg_webhook_stats stats;
        ok(reg_webhooks_start(t->store, area, NULL, events, &w, &err));
        reg_webhooks_stats(w, 0, &stats);
        assert_int_equal(stats.pending_events, 1);
        reg_webhooks_stop(w);
        reg_events_free(events);
        reg_webhook_area.release(area);
}

static void signatures_are_hmac(void **state CAS_UNUSED)
{
        char text[REG_WEBHOOK_SIGNATURE_BYTES];
        reg_webhook_sign("key", "The quick brown fox jumps over the lazy dog", 43, text);
        assert_string_equal(
                text, "sha256=f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8");
}

static void settings_are_checked(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        static const char *const bad[][3] = {
                {"ci", "url", "ftp://x"},     {"ci", "header", "no colon"},
                {"ci", "header", "A b: c"},   {"ci", "actions", "push, all"},
                {"ci", "actions", ""},        {"ci", "queue", "1"},
                {"ci", "timeout", "1h"},      {"", "url", "http://x/"},
                {"../x", "url", "http://x/"}, {"ci", "blobs", "maybe"},
        };
        void *area = NULL;
        for (size_t i = 0; i < CAS_COUNT(bad); i++)
                assert_int_equal(reg_webhook_area.set(&area, bad[i][0], bad[i][1], bad[i][2], &err),
                                 -CAS_E_INVALID);
        assert_int_equal(reg_webhook_area.set(&area, "ci", "colour", "red", &err), -CAS_E_NOTFOUND);
        reg_webhook_area.release(area);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(a_queue_goes_on_where_it_ended),
                TEST(a_torn_tail_is_cut_off),
                TEST(a_flipped_byte_ends_the_queue),
                TEST(a_full_queue_refuses_and_goes_on),
                TEST(a_long_life_takes_no_room),
                TEST(a_sync_that_fails_is_told),
                TEST(many_add_at_once),
                TEST(what_is_added_before_a_rewrite_is_not_lost),
                TEST(events_arrive_in_order_after_failures),
                TEST(a_dead_endpoint_gets_all_later),
                TEST(an_end_waits_for_no_endpoint),
                cmocka_unit_test(signatures_are_hmac),
                cmocka_unit_test(settings_are_checked),
        };
        return cmocka_run_group_tests_name("webhook", tests, NULL, NULL);
}
