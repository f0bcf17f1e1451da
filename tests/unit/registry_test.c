/* SPDX-License-Identifier: Apache-2.0 */
/* What the registry answers when the disk or the store fails; all else is in
 * tests/sys/registry_conformance.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>

#include "cas/condemned_int.h"
#include "cas/store_int.h"
#include "registry/registry.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)

static struct reg_registry *start(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        static char listen[] = "127.0.0.1:0";
        static struct reg_config config = {.listen = listen, .threads = 2};
        struct reg_registry *r = NULL;
        ok(reg_start(t->store, &config, &r, &err));
        return r;
}

/* The status of the answer to a request that closes its connection. */
static int ask(struct reg_registry *r, const char *method, const char *target, const char *body)
{
        cas_cleanup_fd int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr_in to = {.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)reg_port(r)),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        ok(connect(fd, (const struct sockaddr *)&to, sizeof(to)));
        cas_cleanup_free char *request = cas_xasprintf(
                "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                method, target, strlen(body), body);
        size_t len = strlen(request);
        assert_int_equal(send(fd, request, len, MSG_NOSIGNAL), len);
        char answer[4096];
        size_t got = 0;
        ssize_t n;
        while (got < sizeof(answer) - 1 &&
               (n = recv(fd, answer + got, sizeof(answer) - 1 - got, 0)) > 0)
                got += (size_t)n;
        answer[got] = '\0';
        int status = 0;
        assert_int_equal(sscanf(answer, "HTTP/1.1 %d", &status), 1);
        return status;
}

static atomic_bool fsync_fails;
static int failing_fsync(void *ctx CAS_UNUSED, int fd)
{
        if (atomic_load(&fsync_fails)) {
                errno = EIO;
                return -1;
        }
        return fsync(fd);
}

/* A client must not be told that bytes were taken which a power cut would lose. */
static void a_piece_that_cannot_be_synced_is_refused(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_io_ops ops = *cas_io_posix()->ops;
        const struct cas_io io = {.ops = &ops};
        char id[CAS_UPLOAD_ID_BYTES];
        ops.fsync = failing_fsync;
        t->io = &io;
        teststore_reopen(t);
        struct reg_registry *r = start(t);
        ok(cas_upload_create(t->store, "r", id, &err));
        cas_cleanup_free char *target = cas_xasprintf("/v2/r/blobs/uploads/%s", id);
        assert_int_equal(ask(r, "PATCH", target, "one "), 202);
        atomic_store(&fsync_fails, true);
        assert_int_equal(ask(r, "PATCH", target, "two"), 500);
        atomic_store(&fsync_fails, false);
        /* What could not be synced is not to be trusted, nor what was before it in the file. */
        assert_int_equal(ask(r, "GET", target, ""), 404);
        reg_stop(r, 1000);
        teststore_close(t);
        t->io = NULL;
        ok(teststore_open(t, &err));
}

/* Else clients would skip to push what is lost. */
static void a_blob_whose_file_is_lost_is_not_there(void **state)
{
        struct teststore *t = *state;
        struct reg_registry *r = start(t);
        const struct cas_digest d = test_put_blob(t->store, "r", "some bytes");
        const struct cas_digest m = test_put_manifest(t->store, "r", "tag", "{}");
        char text[CAS_DIGEST_TEXT_BYTES], hex[CAS_DIGEST_TEXT_BYTES];
        cas_cleanup_free char *target = cas_xasprintf("/v2/r/blobs/%s", cas_digest_text(&d, text));
        cas_digest_hex(&d, hex);
        cas_cleanup_free char *file = cas_xasprintf("%s/blobs/sha256/%.2s/%s", t->path, hex, hex);
        cas_digest_hex(&m, hex);
        cas_cleanup_free char *manifest =
                cas_xasprintf("%s/blobs/sha256/%.2s/%s", t->path, hex, hex);
        cas_cleanup_free char *mount =
                cas_xasprintf("/v2/other/blobs/uploads/?mount=%s&from=r", text);
        static const char *const methods[] = {"HEAD", "GET"};
        for (size_t i = 0; i < CAS_COUNT(methods); i++) {
                assert_int_equal(ask(r, methods[i], target, ""), 200);
                assert_int_equal(ask(r, methods[i], "/v2/r/manifests/tag", ""), 200);
        }
        ok(truncate(file, 3));
        assert_int_equal(ask(r, "HEAD", target, ""), 404);
        ok(unlink(file));
        ok(unlink(manifest));
        for (size_t i = 0; i < CAS_COUNT(methods); i++) {
                assert_int_equal(ask(r, methods[i], target, ""), 404);
                assert_int_equal(ask(r, methods[i], "/v2/r/manifests/tag", ""), 404);
        }
        assert_int_equal(ask(r, "POST", mount, ""), 202);
        (void)test_put_blob(t->store, "r", "some bytes");
        assert_int_equal(ask(r, "HEAD", target, ""), 200);
        assert_int_equal(ask(r, "POST", mount, ""), 201);
        reg_stop(r, 1000);
}

/* As if it had been linked long ago, and nothing had named it since. */
static void make_link_old(struct teststore *t, const struct cas_digest *d)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_record_key key;
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        cas_key_repo_digest("r", d, &key);
        cas_time_value_encode(1000, &value);
        cas_batch_put(b, CAS_FAMILY_BLOB_LINKS, key.bytes, key.len, value.data, value.len_bytes);
        cas_batch_condemn_link(b, "r", d, 1000);
        ok(cas_index_write(t->store->index, b, &err));
}

static uint64_t condemned_since(struct teststore *t, const struct cas_digest *d)
{
        struct cas_err err = CAS_ERR_INIT;
        uint64_t since = 0;
        ok(cas_condemned_link_since(t->store->index, "r", d, &since, &err));
        return since;
}

/* A client that is told of a blob has the grace to name it, also when the link is young. */
static void who_is_told_of_a_blob_begins_its_grace_anew(void **state)
{
        struct teststore *t = *state;
        struct reg_registry *r = start(t);
        const uint64_t now = (uint64_t)time(NULL);
        const struct cas_digest d = test_put_blob(t->store, "r", "some bytes");
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_cleanup_free char *target = cas_xasprintf("/v2/r/blobs/%s", cas_digest_text(&d, text));
        cas_cleanup_free char *mount = cas_xasprintf("/v2/r/blobs/uploads/?mount=%s&from=r", text);
        make_link_old(t, &d);
        assert_int_equal(ask(r, "GET", target, ""), 200);
        assert_int_equal(condemned_since(t, &d), 1000);
        assert_int_equal(ask(r, "HEAD", target, ""), 200);
        assert_in_range(condemned_since(t, &d), now, now + 600);
        make_link_old(t, &d);
        assert_int_equal(ask(r, "HEAD", target, ""), 200); /* no answer of before */
        assert_in_range(condemned_since(t, &d), now, now + 600);
        make_link_old(t, &d);
        assert_int_equal(ask(r, "POST", mount, ""), 201);
        assert_in_range(condemned_since(t, &d), now, now + 600);
        reg_stop(r, 1000);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(a_piece_that_cannot_be_synced_is_refused),
                TEST(a_blob_whose_file_is_lost_is_not_there),
                TEST(who_is_told_of_a_blob_begins_its_grace_anew),
        };
        return cmocka_run_group_tests_name("registry", tests, NULL, NULL);
}
