/* SPDX-License-Identifier: Apache-2.0 */
/* The resolve protocol: its messages, and owner against client over a socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>

#include "cas/log.h"
#include "fusefs/resolve_client_int.h"
#include "fusefs/unixsock_int.h"
#include "tests/support/farstore.h"
#include "tests/support/fusebox.h"

static struct cas_extent extent_at(uint64_t offset)
{
        return (struct cas_extent){.object_offset = offset,
                                   .length_bytes = 100,
                                   .chunk_offset = 50,
                                   .pack_id = 7,
                                   .block_offset = 12345,
                                   .block_stored_bytes = 400,
                                   .block_raw_bytes = 1000,
                                   .block_checksum = UINT64_C(0x1122334455667788),
                                   .codec = 2};
}

static void requests_round_trip(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        uint8_t msg[FFS_RESOLVE_REQUEST_BYTES];
        struct ffs_resolve_request out,
                r = {.type = FFS_RESOLVE_EXTENTS, .tag = 99, .first_chunk = 512, .count_max = 512};
        memset(r.object.bytes, 0xab, sizeof(r.object.bytes));
        ffs_resolve_request_encode(&r, msg);
        assert_int_equal(ffs_resolve_request_decode(msg, sizeof(msg), &out, &err), 0);
        assert_int_equal(out.tag, 99);
        assert_int_equal(out.first_chunk, 512);
        assert_int_equal(out.count_max, 512);
        assert_true(cas_hash_equal(&out.object, &r.object));
        r = (struct ffs_resolve_request){.type = FFS_RESOLVE_PACK, .tag = 1, .pack_id = 42};
        ffs_resolve_request_encode(&r, msg);
        assert_int_equal(ffs_resolve_request_decode(msg, sizeof(msg), &out, &err), 0);
        assert_int_equal(out.pack_id, 42);
        assert_int_equal(ffs_resolve_request_decode(msg, sizeof(msg) - 1, &out, &err),
                         -CAS_E_INVALID);
        msg[4] = 9;
        assert_int_equal(ffs_resolve_request_decode(msg, sizeof(msg), &out, &err), -CAS_E_INVALID);
        r = (struct ffs_resolve_request){.type = FFS_RESOLVE_EXTENTS, .count_max = 513};
        ffs_resolve_request_encode(&r, msg);
        assert_int_equal(ffs_resolve_request_decode(msg, sizeof(msg), &out, &err), -CAS_E_INVALID);
}

static void requests_of_tiers_round_trip(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        uint8_t msg[FFS_RESOLVE_REQUEST_BYTES + 2 * FFS_RESOLVE_TOUCH_BYTES];
        struct ffs_resolve_request out, r = {.type = FFS_RESOLVE_FILL,
                                             .asks_again = true,
                                             .was_bad = true,
                                             .pack_id = 7,
                                             .offset = UINT64_C(1) << 40,
                                             .bytes = FFS_RESOLVE_FILL_BYTES_MAX};
        ffs_resolve_request_encode(&r, msg);
        assert_int_equal(ffs_resolve_request_decode(msg, FFS_RESOLVE_REQUEST_BYTES, &out, &err), 0);
        assert_true(out.asks_again && out.was_bad && !out.knows_tiers);
        assert_int_equal(out.pack_id, 7);
        assert_int_equal(out.offset, r.offset);
        assert_int_equal(out.bytes, r.bytes);
        r.bytes++;
        ffs_resolve_request_encode(&r, msg);
        assert_int_equal(ffs_resolve_request_decode(msg, FFS_RESOLVE_REQUEST_BYTES, &out, &err),
                         -CAS_E_INVALID);
        r.bytes = 1;
        r.offset = UINT64_MAX;
        ffs_resolve_request_encode(&r, msg);
        assert_int_equal(ffs_resolve_request_decode(msg, FFS_RESOLVE_REQUEST_BYTES, &out, &err),
                         -CAS_E_INVALID);
        const struct ffs_resolve_touch touches[2] = {{1, 2, 3, false}, {4, 5, 6, true}};
        struct ffs_resolve_touch touch;
        r = (struct ffs_resolve_request){.type = FFS_RESOLVE_TOUCHED, .touches = 2};
        ffs_resolve_request_encode(&r, msg);
        ffs_resolve_touch_encode(&touches[0], msg + FFS_RESOLVE_REQUEST_BYTES);
        ffs_resolve_touch_encode(&touches[1],
                                 msg + FFS_RESOLVE_REQUEST_BYTES + FFS_RESOLVE_TOUCH_BYTES);
        assert_int_equal(ffs_resolve_request_decode(msg, sizeof(msg), &out, &err), 0);
        assert_int_equal(out.touches, 2);
        ffs_resolve_touch_decode(msg, 1, &touch);
        assert_int_equal(touch.offset, 5);
        assert_int_equal(touch.bytes, 6);
        assert_true(touch.was_bad);
        assert_int_equal(ffs_resolve_request_decode(msg, sizeof(msg) - 1, &out, &err),
                         -CAS_E_INVALID);
        r.touches = FFS_RESOLVE_TOUCHES_MAX + 1;
        ffs_resolve_request_encode(&r, msg);
        assert_int_equal(ffs_resolve_request_decode(msg, sizeof(msg), &out, &err), -CAS_E_INVALID);
}

static int decode(const struct ffs_resolve_reply *r, const struct cas_extent *extents,
                  struct cas_extent *got)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_resolve_reply out;
        cas_cleanup_buf struct cas_buf msg = CAS_BUF_INIT;
        ffs_resolve_reply_encode(r, extents, &msg);
        return ffs_resolve_reply_decode(msg.data, msg.len_bytes, &out, got, &err);
}

static void replies_are_checked(void **state CAS_UNUSED)
{
        static struct cas_extent got[FFS_RESOLVE_EXTENTS_MAX];
        struct ffs_resolve_reply r = {
                .type = FFS_RESOLVE_EXTENTS, .size_bytes = 200, .chunk_count = 2, .count = 2};
        struct cas_extent good[2] = {extent_at(0), extent_at(100)}, bad[2];
        assert_int_equal(decode(&r, good, got), 0);
        assert_int_equal(got[1].object_offset, 100);
        assert_int_equal(got[1].block_checksum, good[1].block_checksum);
        assert_int_equal(got[1].codec, 2);
#define REFUSED(CHANGE)                                                                            \
        do {                                                                                       \
                memcpy(bad, good, sizeof(bad));                                                    \
                CHANGE;                                                                            \
                assert_int_equal(decode(&r, bad, got), -CAS_E_INVALID);                            \
        } while (0)
        REFUSED(bad[1].object_offset = 101);
        REFUSED(bad[0].object_offset = 1);
        REFUSED(bad[1].length_bytes = 101);
        REFUSED(bad[1].length_bytes = 0);
        REFUSED(bad[0].chunk_offset = 901);
        REFUSED(bad[0].chunk_offset = UINT32_MAX - 10);
        REFUSED(bad[0].block_raw_bytes = 5 << 20);
        REFUSED(bad[0].block_stored_bytes = 9 << 20);
        REFUSED(bad[0].block_offset = UINT64_MAX);
        r.chunk_count = 1;
        REFUSED((void)bad);
        r.chunk_count = 2;
        r.type = FFS_RESOLVE_PING;
        REFUSED((void)bad);
        struct ffs_resolve_reply none = {.type = FFS_RESOLVE_EXTENTS, .code = CAS_E_NOTFOUND};
        assert_int_equal(decode(&none, NULL, NULL), 0);
}

/* ---- over a socket ---- */

static void answers_over_a_socket(void **state CAS_UNUSED)
{
        static struct cas_extent extents[FFS_RESOLVE_EXTENTS_MAX];
        struct fusebox box;
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_resolve_reply reply;
        struct cas_hash small, large, absent = {{1}};
        fusebox_open(&box, 60);
        fusebox_add(&box, 1, 1000, &small);
        fusebox_add(&box, 2, 3 << 20, &large);
        struct stat st;
        assert_int_equal(stat(box.resolve_path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        struct ffs_resolve_client *c = ffs_resolve_client_new(box.resolve_path);
        assert_int_equal(ffs_resolve_ping(c, 1000, &err), 0);
        assert_int_equal(ffs_resolve_extents(c, &small, 0, 512, 1000, &reply, extents, &err), 0);
        assert_int_equal(reply.count, 1);
        assert_int_equal(reply.size_bytes, 1000);
        struct ffs_resolved_pack pack;
        assert_int_equal(ffs_resolve_pack(c, extents[0].pack_id, 1000, &pack, &err), 0);
        assert_int_equal(pack.cache_fd, -1);
        assert_false(pack.wants_touched);
        assert_true(pack.fills);
        int fd = pack.home_fd;
        uint8_t want[1000];
        cas_cleanup_free uint8_t *block = cas_xmalloc(extents[0].block_raw_bytes);
        cas_cleanup_buf struct cas_buf scratch = CAS_BUF_INIT;
        fusebox_content(1, sizeof(want), want);
        assert_int_equal(cas_block_read(fd, &extents[0], block, &scratch, &err), 0);
        assert_memory_equal(block + extents[0].chunk_offset, want, sizeof(want));
        assert_int_equal(write(fd, "x", 1), -1); /* read-only */
        (void)close(fd);
        /* In pages, whose extents follow each other. */
        assert_int_equal(ffs_resolve_extents(c, &large, 0, 5, 1000, &reply, extents, &err), 0);
        assert_int_equal(reply.count, 5);
        assert_true(reply.chunk_count > 5);
        uint64_t end = extents[4].object_offset + extents[4].length_bytes;
        assert_int_equal(ffs_resolve_extents(c, &large, 5, 5, 1000, &reply, extents, &err), 0);
        assert_int_equal(extents[0].object_offset, end);
        assert_int_equal(ffs_resolve_extents(c, &large, 5000, 5, 1000, &reply, extents, &err), 0);
        assert_int_equal(reply.count, 0);
        assert_int_equal(ffs_resolve_extents(c, &absent, 0, 5, 1000, &reply, extents, &err),
                         -CAS_E_NOTFOUND);
        assert_int_equal(ffs_resolve_pack(c, 99, 1000, &pack, &err), -CAS_E_NOTFOUND);
        /* A restarted owner is found, over the connections that broke. */
        fusebox_owner_stop(&box);
        assert_int_equal(ffs_resolve_ping(c, 1000, &err), -CAS_E_BUSY);
        fusebox_owner_start(&box);
        assert_int_equal(ffs_resolve_ping(c, 1000, &err), 0);
        assert_int_equal(ffs_resolve_extents(c, &small, 0, 512, 1000, &reply, extents, &err), 0);
        ffs_resolve_client_free(c);
        fusebox_close(&box);
}

/* An object that comes from another store, slowly: others do not wait for it. */
static void what_is_on_its_way_keeps_nobody_waiting(void **state)
{
        static struct cas_extent extents[FFS_RESOLVE_EXTENTS_MAX];
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct farstore far;
        struct testimage image;
        struct ffs_resolver *resolver;
        struct ffs_resolve_reply reply;
        cas_cleanup_free char *path = cas_xasprintf("%s/sock", t->dir);
        farstore_open(&far, t, 10000);
        farstore_image(&far, "app", "1", 0, 12, &image);
        struct cas_hash slow = farstore_file(&far, &image, 0);
        struct cas_hash never = farstore_file(&far, &image, 9);
        assert_int_equal(ffs_resolver_start(t->store, path, &resolver, &err), 0);
        struct ffs_resolve_client *c = ffs_resolve_client_new(path);
        far.delay_ms = 600;
        assert_int_equal(ffs_resolve_extents(c, &slow, 0, 512, 1000, &reply, extents, &err),
                         -CAS_E_BUSY);
        assert_int_equal(ffs_resolve_ping(c, 100, &err), 0);
        assert_int_equal(
                ffs_resolve_extents(c, &image.layer.listing, 0, 512, 100, &reply, extents, &err),
                0); /* the owner is not away */
        unsigned tries = 0;
        while (ffs_resolve_extents(c, &slow, 0, 512, 1000, &reply, extents, &err) == -CAS_E_BUSY &&
               tries++ < 500)
                (void)usleep(10000);
        assert_int_equal(reply.code, CAS_OK);
        assert_int_equal(reply.count, 1);
        far.victim = never;
        far.misses = true;
        far.delay_ms = 0;
        assert_int_equal(ffs_resolve_extents(c, &never, 0, 512, 1000, &reply, extents, &err),
                         -CAS_E_IO);
        /* An old client, which does not know of it, is told of an error. */
        far.delay_ms = 600;
        struct ffs_resolve_request old = {.type = FFS_RESOLVE_EXTENTS,
                                          .object = farstore_file(&far, &image, 5),
                                          .count_max = 1};
        uint8_t msg[FFS_RESOLVE_REQUEST_BYTES], answer[FFS_RESOLVE_REPLY_BYTES_MAX];
        size_t len, no_fds = 0;
        cas_cleanup_fd int fd = -1;
        ffs_resolve_request_encode(&old, msg);
        assert_int_equal(ffs_sock_connect(path, &fd, &err), 0);
        assert_int_equal(ffs_sock_send(fd, msg, sizeof(msg), NULL, 0, &err), 0);
        assert_int_equal(
                ffs_sock_receive(fd, answer, sizeof(answer), &len, NULL, &no_fds, 2000, &err), 0);
        assert_int_equal(ffs_resolve_reply_decode(answer, len, &reply, extents, &err), 0);
        assert_int_equal(reply.code, CAS_E_IO);
        ffs_resolve_client_free(c);
        ffs_resolver_stop(resolver);
        farstore_close(&far);
}

static void rude_clients_are_cut(void **state CAS_UNUSED)
{
        struct fusebox box;
        struct cas_err err = CAS_ERR_INIT;
        cas_log_set_level(CAS_LOG_ERROR);
        fusebox_open(&box, 60);
        for (int i = 0; i < 300; i++) { /* more than the owner keeps */
                cas_cleanup_fd int fd = -1;
                char junk[200] = {0}, answer[100];
                size_t len = 1, no_fds = 0;
                assert_int_equal(ffs_sock_connect(box.resolve_path, &fd, &err), 0);
                assert_int_equal(ffs_sock_send(fd, junk, (size_t)(i % 199) + 1, NULL, 0, &err), 0);
                assert_int_equal(ffs_sock_receive(fd, answer, sizeof(answer), &len, NULL, &no_fds,
                                                  2000, &err),
                                 0);
                assert_int_equal(len, 0);
        }
        struct ffs_resolve_client *c = ffs_resolve_client_new(box.resolve_path);
        assert_int_equal(ffs_resolve_ping(c, 1000, &err), 0);
        ffs_resolve_client_free(c);
        struct ffs_resolver *second;
        assert_int_equal(ffs_resolver_start(box.store, box.resolve_path, &second, &err),
                         -CAS_E_BUSY);
        fusebox_close(&box);
}

static void sockets_may_have_long_names(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        char dir[] = "/tmp/lamina-test-XXXXXX", path[300];
        assert_non_null(mkdtemp(dir));
        (void)snprintf(path, sizeof(path), "%s/%0*d", dir, 120, 0);
        assert_int_equal(mkdir(path, 0700), 0);
        cas_cleanup_free char *name = cas_xasprintf("%s/sock", path);
        cas_cleanup_fd int fd = -1, other = -1, again = -1;
        assert_int_equal(ffs_sock_listen(name, &fd, &err), 0);
        assert_int_equal(ffs_sock_connect(name, &other, &err), 0);
        assert_int_equal(ffs_sock_listen(name, &again, &err), -CAS_E_BUSY);
        (void)unlink(name);
        (void)rmdir(path);
        (void)rmdir(dir);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(requests_round_trip),
                cmocka_unit_test(requests_of_tiers_round_trip),
                cmocka_unit_test(replies_are_checked),
                cmocka_unit_test(answers_over_a_socket),
                cmocka_unit_test_setup_teardown(what_is_on_its_way_keeps_nobody_waiting,
                                                teststore_setup, teststore_teardown),
                cmocka_unit_test(rude_clients_are_cut),
                cmocka_unit_test(sockets_may_have_long_names),
        };
        return cmocka_run_group_tests_name("resolve", tests, NULL, NULL);
}
