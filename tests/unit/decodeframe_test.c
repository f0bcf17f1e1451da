/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>

#include "cas/decodeframe.h"
#include "cas/io.h"
#include "tests/support/memsource.h"
#include "tests/support/memsink.h"
#include "tests/support/tarmake.h"

/* What decoding came to. */
struct outcome {
        int rc;
        struct cas_err err;
        struct cas_decode_result result;
        struct cas_digest tar, contents;
        uint64_t tar_bytes, zero_bytes, file_count;
};

static void finish(struct memsink *m, struct outcome *o)
{
        cas_hasher_final(m->tar, &o->tar);
        cas_hasher_final(m->contents, &o->contents);
        o->tar_bytes = m->tar_bytes;
        o->zero_bytes = m->zero_bytes;
        o->file_count = m->file_count;
        memsink_release(m);
}

static void decode_here(const struct cas_buf *layer, struct outcome *o)
{
        struct memsink m;
        struct cas_decode_sink sink;
        struct memsource s = {.data = layer->data, .len = layer->len_bytes, .step = 10000};
        memsink_init(&m, &sink);
        o->rc = cas_decode_run(memsource_read, &s, &sink, &o->result, &o->err);
        finish(&m, o);
}

struct served {
        const struct cas_buf *layer;
        int in[2], out[2];
};

static void *feed(void *arg)
{
        const struct served *s = arg;
        size_t at = 0;
        while (at < s->layer->len_bytes) {
                ssize_t n = write(s->in[1], s->layer->data + at, s->layer->len_bytes - at);
                if (n < 0)
                        break; /* it had enough */
                at += (size_t)n;
        }
        (void)close(s->in[1]);
        return NULL;
}

static void *serve(void *arg)
{
        const struct served *s = arg;
        assert_true(cas_decodeframe_ready(s->out[1], 5));
        assert_true(cas_decodeframe_serve(s->in[0], s->out[1]));
        (void)close(s->in[0]);
        (void)close(s->out[1]);
        return NULL;
}

static void decode_framed(const struct cas_buf *layer, struct outcome *o)
{
        struct memsink m;
        struct cas_decode_sink sink;
        struct served s = {.layer = layer};
        pthread_t threads[2];
        assert_int_equal(pipe2(s.in, O_CLOEXEC), 0);
        assert_int_equal(pipe2(s.out, O_CLOEXEC), 0);
        assert_int_equal(pthread_create(&threads[0], NULL, feed, &s), 0);
        assert_int_equal(pthread_create(&threads[1], NULL, serve, &s), 0);
        memsink_init(&m, &sink);
        cas_cleanup_decodeframe_reader struct cas_decodeframe_reader *r =
                cas_decodeframe_reader_new(&sink, &o->result);
        o->rc = 0;
        while (o->rc == 0 && !cas_decodeframe_reader_ended(r)) {
                uint8_t *at;
                size_t room;
                cas_decodeframe_reader_room(r, &at, &room);
                ssize_t n = read(s.out[0], at, room);
                assert_true(n > 0);
                o->rc = cas_decodeframe_reader_took(r, (size_t)n, &o->err);
        }
        uint32_t confined;
        assert_true(cas_decodeframe_reader_ready(r, &confined));
        assert_int_equal(confined, 5);
        assert_int_equal(pthread_join(threads[0], NULL), 0);
        assert_int_equal(pthread_join(threads[1], NULL), 0);
        (void)close(s.out[0]);
        finish(&m, o);
}

/* Decoding says the same on both ways. */
static void compare(const char *name, const struct cas_buf *layer)
{
        struct outcome here = {.err = CAS_ERR_INIT}, framed = {.err = CAS_ERR_INIT};
        decode_here(layer, &here);
        decode_framed(layer, &framed);
        if (here.rc != framed.rc || strcmp(here.err.msg, framed.err.msg) != 0)
                fail_msg("%s: \"%s\" and \"%s\"", name, here.err.msg, framed.err.msg);
        assert_true(cas_digest_equal(&here.tar, &framed.tar));
        assert_int_equal(here.tar_bytes, framed.tar_bytes);
        if (here.rc == 0) {
                assert_true(cas_digest_equal(&here.contents, &framed.contents));
                assert_int_equal(here.zero_bytes, framed.zero_bytes);
                assert_int_equal(here.file_count, framed.file_count);
                assert_int_equal(here.result.compression, framed.result.compression);
                assert_int_equal(here.result.listing.len_bytes, framed.result.listing.len_bytes);
                assert_memory_equal(here.result.listing.data, framed.result.listing.data,
                                    here.result.listing.len_bytes);
        }
        cas_decode_result_release(&here.result);
        cas_decode_result_release(&framed.result);
}

static unsigned compare_all(const char *dir)
{
        DIR *d = opendir(dir);
        unsigned count = 0;
        assert_non_null(d);
        for (struct dirent *e; (e = readdir(d));) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
                cas_cleanup_free char *path = cas_xasprintf("%s/%s", dir, e->d_name);
                if (e->d_name[0] == '.')
                        continue;
                assert_int_equal(
                        cas_io_read_file(cas_io_posix(), AT_FDCWD, path, 16 << 20, &bytes, &err),
                        0);
                compare(e->d_name, &bytes);
                count++;
        }
        (void)closedir(d);
        return count;
}

static void frames_say_what_decoding_says(void **state)
{
        (void)state;
        assert_true(compare_all("tests/golden/layer") > 0);
        assert_true(compare_all("tests/golden-fail/layer") > 30);
}

/* More files than one frame of operations takes, and one that goes over many pieces. */
static void many_and_large_files(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf big = CAS_BUF_INIT;
        char text[200];
        for (unsigned i = 0; i < 3000; i++) {
                char name[16];
                (void)snprintf(name, sizeof(name), "f%u", i);
                memset(text, 'a' + (int)(i % 20), sizeof(text));
                text[20 + i % 150] = '\0';
                tarmake_file(&tar, name, text);
        }
        for (unsigned i = 0; i < 3000000; i++)
                cas_buf_append_byte(&big, (uint8_t)(i * 31 >> 8));
        struct tarmake h = {.name = "big", .size = big.len_bytes};
        tarmake_header(&tar, &h);
        tarmake_data(&tar, big.data, big.len_bytes);
        tarmake_end(&tar);
        compare("many", &tar);
}

/* ---- what a process that was taken over might say ---- */

static void say(struct cas_buf *b, uint32_t kind, const void *data, size_t len)
{
        cas_buf_append_le32(b, kind);
        cas_buf_append_le32(b, (uint32_t)len);
        cas_buf_append(b, data, len);
}

static void say_op(struct cas_buf *b, uint8_t op, uint64_t v)
{
        uint8_t bytes[9] = {op};
        cas_put_le64(bytes + 1, v);
        say(b, CAS_DECODEFRAME_OPS, bytes, sizeof(bytes));
}

static uint64_t place(uint32_t at, uint32_t len)
{
        return at | (uint64_t)len << 32;
}

static void begin(struct cas_buf *b, size_t tar_bytes)
{
        cas_cleanup_free uint8_t *tar = cas_xcalloc(1, tar_bytes);
        say(b, CAS_DECODEFRAME_READY, "\1\0\0\0", 4);
        say(b, CAS_DECODEFRAME_TAR, tar, tar_bytes);
}

static int hear(const struct cas_buf *b, struct cas_err *err)
{
        struct memsink m;
        struct cas_decode_sink sink;
        cas_cleanup_decode_result struct cas_decode_result result = {0};
        memsink_init(&m, &sink);
        cas_cleanup_decodeframe_reader struct cas_decodeframe_reader *r =
                cas_decodeframe_reader_new(&sink, &result);
        int rc = 0;
        for (size_t at = 0; rc == 0 && at < b->len_bytes;) {
                uint8_t *to;
                size_t n;
                cas_decodeframe_reader_room(r, &to, &n);
                n = cas_min_u64(n, b->len_bytes - at);
                memcpy(to, b->data + at, n);
                at += n;
                rc = cas_decodeframe_reader_took(r, n, err);
        }
        memsink_release(&m);
        return rc;
}

static void refused(const struct cas_buf *b, const char *why)
{
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(hear(b, &err), -CAS_E_CORRUPT);
        if (!strstr(err.msg, why))
                fail_msg("\"%s\" instead of \"%s\"", err.msg, why);
}

#define WITH(b, tar_bytes)                                                                         \
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;                                           \
        begin(&b, tar_bytes)

static void frames_that_cannot_be(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf early = CAS_BUF_INIT;
        say(&early, CAS_DECODEFRAME_TAR, "x", 1);
        refused(&early, "cannot be");
        WITH(again, 1);
        say(&again, CAS_DECODEFRAME_READY, "\1\0\0\0", 4);
        refused(&again, "cannot be");
        WITH(empty, 1);
        say(&empty, CAS_DECODEFRAME_OPS, "", 0);
        refused(&empty, "cannot be");
        WITH(unknown, 1);
        say(&unknown, 99, "x", 1);
        refused(&unknown, "cannot be");
        WITH(late, 1);
        say(&late, CAS_DECODEFRAME_LISTING, "LLST", 4);
        say(&late, CAS_DECODEFRAME_TAR, "x", 1);
        refused(&late, "after the listing");
        WITH(bare, 1);
        say(&bare, CAS_DECODEFRAME_END, "\1", 1);
        refused(&bare, "an end");
        WITH(large, 1);
        cas_buf_append_le32(&large, CAS_DECODEFRAME_TAR);
        cas_buf_append_le32(&large, CAS_DECODE_PIECE_BYTES + 1);
        refused(&large, "cannot be");
}

static void content_that_is_not_there(void **state)
{
        (void)state;
        WITH(beyond, 1000);
        say_op(&beyond, CAS_DECODEOP_FILE, 5000);
        say_op(&beyond, CAS_DECODEOP_CONTENT, place(500, 501));
        refused(&beyond, "not there");
        WITH(wraps, 1000);
        say_op(&wraps, CAS_DECODEOP_FILE, CAS_OBJECT_BYTES_MAX);
        say_op(&wraps, CAS_DECODEOP_CONTENT, place(0xfffffff0, 0x20));
        refused(&wraps, "not there");
        WITH(twice, 1000);
        say_op(&twice, CAS_DECODEOP_FILE, 5000);
        say_op(&twice, CAS_DECODEOP_CONTENT, place(0, 1000));
        say_op(&twice, CAS_DECODEOP_CONTENT, place(999, 1));
        refused(&twice, "not there");
        WITH(of_none, 1000);
        say_op(&of_none, CAS_DECODEOP_CONTENT, place(0, 10));
        refused(&of_none, "not there");
        WITH(too_much, 1000);
        say_op(&too_much, CAS_DECODEOP_FILE, 100);
        say_op(&too_much, CAS_DECODEOP_ZEROS, 101);
        refused(&too_much, "larger than its file");
        WITH(small, 1000);
        say_op(&small, CAS_DECODEOP_FILE, 64);
        refused(&small, "a file that cannot be");
        WITH(inside, 1000);
        say_op(&inside, CAS_DECODEOP_FILE, 100);
        say_op(&inside, CAS_DECODEOP_FILE, 100);
        refused(&inside, "a file that cannot be");
        WITH(cut, 1000);
        say_op(&cut, CAS_DECODEOP_FILE, 100);
        say(&cut, CAS_DECODEFRAME_LISTING, "LLST", 4);
        refused(&cut, "cut off");
        WITH(half, 1000);
        say(&half, CAS_DECODEFRAME_OPS, "\1\0", 2);
        refused(&half, "half an operation");
        WITH(odd, 1000);
        say_op(&odd, 77, 0);
        refused(&odd, "unknown operation");
}

static void errors_are_text(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        WITH(escape, 1);
        say(&escape, CAS_DECODEFRAME_ERROR, "\6\0\0\0bad \033[2J layer", 4 + 14);
        assert_int_equal(CAS_E_LIMIT, 6);
        assert_int_equal(hear(&escape, &err), -CAS_E_LIMIT);
        assert_string_equal(err.msg, "bad ?[2J layer");
        WITH(not_found, 1); /* would say that the blob is not here */
        say(&not_found, CAS_DECODEFRAME_ERROR, "\1\0\0\0x", 5);
        refused(&not_found, "an error that is none");
}

int main(void)
{
        (void)signal(SIGPIPE, SIG_IGN);
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(frames_say_what_decoding_says),
                cmocka_unit_test(many_and_large_files),
                cmocka_unit_test(frames_that_cannot_be),
                cmocka_unit_test(content_that_is_not_there),
                cmocka_unit_test(errors_are_text),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
