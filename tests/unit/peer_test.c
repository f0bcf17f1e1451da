/* SPDX-License-Identifier: Apache-2.0 */
/* Two stores and a registry between them: what is missing comes, and nothing
 * that may not be had. Peers that lie are in tests/sys/peer_pull.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <zlib.h>

#include "cas/assemble.h"
#include "cas/blobstream.h"
#include "cas/condense.h"
#include "cas/maintain.h"
#include "cas/object.h"
#include "cas/order.h"
#include "registry/peer_int.h"
#include "registry/registry.h"
#include "tests/support/tarmake.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

static void check_ok(int rc, const struct cas_err *err, int line)
{
        if (rc < 0)
                fail_msg("line %d: %s", line, err->msg);
}
#define ok(call) check_ok(call, &err, __LINE__)

/* Two stores, a registry over the first, and a client of it. */
struct two {
        struct teststore *origin, *here;
        struct reg_registry *registry;
        struct reg_httpc *http;
        struct reg_remote *remote;
};

static int two_setup(void **state)
{
        static char listen[] = "127.0.0.1:0";
        static struct reg_config config = {.listen = listen, .threads = 2};
        struct cas_err err = CAS_ERR_INIT;
        struct two *t = cas_xcalloc(1, sizeof(*t));
        assert_int_equal(teststore_setup((void **)&t->origin), 0);
        assert_int_equal(teststore_setup((void **)&t->here), 0);
        ok(reg_start(t->origin->store, &config, &t->registry, &err));
        ok(reg_httpc_new(&(struct reg_httpc_config){0}, &t->http, &err));
        char host[64];
        (void)snprintf(host, sizeof(host), "127.0.0.1:%u", reg_port(t->registry));
        ok(reg_remote_open(&(struct reg_remote_config){.http = t->http,
                                                       .host = host,
                                                       .plain_http = true,
                                                       .anonymous = true,
                                                       .attempts = 1},
                           &t->remote, &err));
        *state = t;
        return 0;
}

static int two_teardown(void **state)
{
        struct two *t = *state;
        reg_remote_close(t->remote);
        reg_httpc_free(t->http);
        reg_stop(t->registry, 1000);
        (void)teststore_teardown((void **)&t->origin);
        (void)teststore_teardown((void **)&t->here);
        free(t);
        return 0;
}

/* ---- layers ---- */

#define LARGE_BYTES ((size_t)2000000)

struct memory {
        const struct cas_buf *bytes;
        size_t at;
};

static int read_memory(void *arg, void *buf, size_t len, size_t *out_len,
                       struct cas_err *err CAS_UNUSED)
{
        struct memory *m = arg;
        *out_len = cas_min_u64(len, m->bytes->len_bytes - m->at);
        memcpy(buf, m->bytes->data + m->at, *out_len);
        m->at += *out_len;
        return 0;
}

static void add_file(struct cas_buf *tar, const char *name, const struct cas_buf *bytes)
{
        tarmake_header(tar, &(struct tarmake){.name = name,
                                              .size = bytes->len_bytes,
                                              .mode = 0644,
                                              .mtime = 1700000000});
        tarmake_data(tar, bytes->data, bytes->len_bytes);
}

/* A gzip layer: files [first, first + count) of test_file, and one of 2 MB that cannot be
 * compressed with `changed` bytes in its middle. */
static void make_layer(unsigned first, unsigned count, uint8_t changed, struct cas_buf *out)
{
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT, bytes = CAS_BUF_INIT;
        for (unsigned i = first; i < first + count; i++) {
                cas_cleanup_free char *name = cas_xasprintf("dir/file%u", i);
                test_file(i, &bytes);
                add_file(&tar, name, &bytes);
        }
        cas_buf_clear(&bytes);
        uint32_t x = 1;
        cas_buf_reserve(&bytes, LARGE_BYTES);
        for (size_t i = 0; i < LARGE_BYTES; i++) {
                x = x * 1664525 + 1013904223;
                bytes.data[i] = (uint8_t)(x >> 24);
        }
        bytes.len_bytes = LARGE_BYTES;
        memset(bytes.data + LARGE_BYTES / 2, changed, 100);
        add_file(&tar, "large", &bytes);
        tarmake_end(&tar);
        z_stream z = {0};
        assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
        size_t bound = deflateBound(&z, tar.len_bytes);
        cas_buf_reserve(out, bound);
        z.next_in = tar.data;
        z.avail_in = (uInt)tar.len_bytes;
        z.next_out = out->data;
        z.avail_out = (uInt)bound;
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        out->len_bytes = z.total_out;
        (void)deflateEnd(&z);
}

static struct cas_layer_record put_layer(struct cas_store *s, const struct cas_buf *blob,
                                         bool condense)
{
        static const struct cas_condense_options options = {.threads = 2};
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record rec;
        struct cas_recipe_record recipe;
        struct memory m = {.bytes = blob};
        ok(cas_layer_import(s, read_memory, &m, NULL, NULL, &rec, &err));
        if (condense) {
                ok(cas_condense_blob(s, &rec.blob, &options, NULL, &recipe, &err));
                assert_true(recipe.is_proved);
        }
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(s, &p, &err));
        ok(cas_publish_blob_link(p, "a/b", &rec.blob, &err));
        ok(cas_publish_commit(p, &err));
        return rec;
}

static void check_record(const struct cas_layer_record *got,
                         const struct cas_layer_record *expected)
{
        assert_true(cas_digest_equal(&got->blob, &expected->blob));
        assert_true(cas_digest_equal(&got->diff_id, &expected->diff_id));
        assert_true(cas_hash_equal(&got->listing, &expected->listing));
        assert_int_equal(got->tar_bytes, expected->tar_bytes);
        assert_int_equal(got->content_bytes, expected->content_bytes);
        assert_int_equal(got->entry_count, expected->entry_count);
        assert_int_equal(got->compression, expected->compression);
        assert_int_equal(got->listing_version, expected->listing_version);
}

static void check_blob(struct cas_store *s, const struct cas_digest *digest,
                       const struct cas_buf *expected)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_blob_stream struct cas_blob_stream *stream = NULL;
        cas_cleanup_buf struct cas_buf got = CAS_BUF_INIT;
        size_t n = 1;
        ok(cas_blob_stream_open(s, digest, 0, UINT64_MAX, true, &stream, &err));
        while (n > 0) {
                cas_buf_reserve(&got, CAS_MIB);
                ok(cas_blob_stream_read(stream, got.data + got.len_bytes, CAS_MIB, &n, &err));
                got.len_bytes += n;
        }
        assert_int_equal(got.len_bytes, expected->len_bytes);
        assert_memory_equal(got.data, expected->data, got.len_bytes);
}

/* ---- tests ---- */

static void a_layer_comes_by_its_parts(void **state)
{
        struct two *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf old = CAS_BUF_INIT, new = CAS_BUF_INIT;
        make_layer(0, 30, 1, &old);
        make_layer(3, 30, 2, &new);
        struct cas_layer_record had = put_layer(t->here->store, &old, false), got;
        struct cas_layer_record rec = put_layer(t->origin->store, &new, true);
        ok(reg_peer_bring(t->remote, "a/b", &rec.blob, new.len_bytes, t->here->store, NULL, NULL,
                          &got, &err));
        check_record(&got, &rec);
        enum cas_blob_copy copy;
        ok(cas_blob_copy(t->here->store, &rec.blob, &copy, &err));
        assert_int_equal(copy, CAS_BLOB_CONDENSED);
        check_blob(t->here->store, &rec.blob, &new);
        check_blob(t->here->store, &had.blob, &old);
        teststore_reopen(t->here); /* durable */
        check_blob(t->here->store, &rec.blob, &new);
        struct cas_fsck_result result;
        ok(cas_fsck(t->here->store, NULL, NULL, NULL, NULL, &result, &err));
        assert_int_equal(result.errors, 0);
        /* at once, now that it is there */
        ok(reg_peer_bring(t->remote, "a/b", &rec.blob, new.len_bytes, t->here->store, NULL, NULL,
                          &got, &err));
}

static void the_blob_is_pulled_where_that_is_better(void **state)
{
        struct two *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf blob = CAS_BUF_INIT, other = CAS_BUF_INIT;
        make_layer(0, 10, 1, &blob);
        make_layer(50, 10, 1, &other);
        struct cas_layer_record rec = put_layer(t->origin->store, &blob, false), got;
        const int unsupported = -CAS_E_UNSUPPORTED;
        /* no recipe */
        assert_int_equal(reg_peer_bring(t->remote, "a/b", &rec.blob, blob.len_bytes, t->here->store,
                                        NULL, NULL, &got, &err),
                         unsupported);
        rec = put_layer(t->origin->store, &other, true);
        /* nearly all is missing */
        assert_int_equal(reg_peer_bring(t->remote, "a/b", &rec.blob, other.len_bytes,
                                        t->here->store, NULL, NULL, &got, &err),
                         unsupported);
        /* another length than the manifest's */
        assert_int_equal(reg_peer_bring(t->remote, "a/b", &rec.blob, other.len_bytes + 1,
                                        t->here->store, NULL, NULL, &got, &err),
                         -CAS_E_CORRUPT);
        assert_int_equal(reg_peer_bring(t->remote, "a/b", &rec.blob, 5000, t->here->store, NULL,
                                        NULL, &got, &err),
                         unsupported);
        assert_false(test_has_blob(t->here->store, &rec.blob));
}

static int fetch(struct two *t, const struct cas_digest *layer, const struct cas_hash *ids,
                 size_t count, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        int rc = cas_publish_begin(t->here->store, &p, err);
        if (rc == 0)
                rc = reg_peer_objects(t->remote, "a/b", layer, ids, count, p, NULL, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

static void check_objects(struct two *t, const struct reg_peer_parts *parts, bool all)
{
        struct cas_err err = CAS_ERR_INIT;
        for (size_t i = 0; i < parts->count; i++) {
                struct cas_object_info info;
                cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
                int rc = cas_object_stat(t->here->store, &parts->parts[i].id, &info, &err);
                if (rc < 0 && !all)
                        continue;
                ok(rc);
                ok(cas_object_read(t->here->store, &parts->parts[i].id, 1 << 24, &bytes, &err));
                assert_int_equal(bytes.len_bytes, parts->parts[i].size_bytes);
        }
}

static void objects_come_in_groups_and_one_by_one(void **state)
{
        struct two *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf blob = CAS_BUF_INIT;
        cas_cleanup_listing struct cas_listing listing = {0};
        reg_cleanup_peer_parts struct reg_peer_parts parts = {0};
        make_layer(0, 400, 1, &blob);
        struct cas_layer_record rec = put_layer(t->origin->store, &blob, false);
        ok(cas_layer_listing(t->origin->store, &rec, &listing, &err));
        reg_peer_parts_make(&listing, &parts);
        assert_true(parts.group_count > 2);
        cas_cleanup_free struct cas_hash *ids = cas_xcalloc(parts.count + 1, sizeof(*ids));
        for (size_t i = 0; i < parts.count; i++)
                ids[i] = parts.parts[i].id;
        ok(fetch(t, &rec.blob, &rec.listing, 1, &err)); /* so that groups are known */
        ok(fetch(t, &rec.blob, ids, 1, &err));
        ok(fetch(t, &rec.blob, ids, 12, &err));
        check_objects(t, &parts, false);
        ok(fetch(t, &rec.blob, ids, parts.count, &err));
        check_objects(t, &parts, true);
        ok(fetch(t, &rec.blob, ids, parts.count, &err)); /* nothing travels */
        ids[0].bytes[0] ^= 1;                            /* what is not of this layer */
        assert_int_equal(fetch(t, &rec.blob, ids, 1, &err), -CAS_E_NOTFOUND);
}

static void objects_are_had_through_their_layer_alone(void **state)
{
        struct two *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct reg_peer_layer facts;
        cas_cleanup_buf struct cas_buf one = CAS_BUF_INIT, two = CAS_BUF_INIT;
        make_layer(0, 4, 1, &one);
        make_layer(9, 4, 1, &two);
        struct cas_layer_record a = put_layer(t->origin->store, &one, true);
        struct cas_layer_record b = put_layer(t->origin->store, &two, true);
        ok(reg_peer_layer(t->remote, "a/b", &a.blob, &facts, &err));
        assert_true(facts.has_recipe);
        check_record(&facts.record, &a);
        assert_int_equal(facts.blob_bytes, one.len_bytes);
        const int not_found = -CAS_E_NOTFOUND;
        assert_int_equal(reg_peer_layer(t->remote, "other", &a.blob, &facts, &err), not_found);
        assert_int_equal(fetch(t, &b.blob, &a.listing, 1, &err), not_found);
        assert_int_equal(fetch(t, &b.blob, &facts.recipe, 1, &err), not_found);
        ok(fetch(t, &a.blob, &a.listing, 1, &err));
        ok(fetch(t, &a.blob, &facts.recipe, 1, &err));
}

static void a_source_of_lazy_mounts_brings_objects(void **state)
{
        struct two *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf blob = CAS_BUF_INIT;
        make_layer(0, 5, 1, &blob);
        struct cas_layer_record rec = put_layer(t->origin->store, &blob, false);
        char host[64];
        struct reg_remote *own;
        struct cas_object_info info;
        (void)snprintf(host, sizeof(host), "127.0.0.1:%u", reg_port(t->registry));
        ok(reg_remote_open(
                &(struct reg_remote_config){
                        .http = t->http, .host = host, .plain_http = true, .anonymous = true},
                &own, &err));
        struct cas_remote *r = reg_peer_remote_new(own, "a/b");
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->here->store, &p, &err));
        ok(r->ops->fetch_objects(r, &rec.blob, &rec.listing, 1, p, &err));
        ok(cas_publish_commit(p, &err));
        ok(cas_object_stat(t->here->store, &rec.listing, &info, &err));
        r->ops->close(r);
}

static void the_order_of_first_reads_comes(void **state)
{
        struct two *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image;
        cas_cleanup_listing struct cas_listing l = {0};
        struct cas_hash put[5], *ids = NULL;
        size_t count;
        ok(testimage_put(t->origin->store, "a/b", "tag", 1, 5, &image, &err));
        ok(reg_peer_order(t->remote, "a/b", &image.manifest, &ids, &count, 100, &err));
        assert_int_equal(count, 0);
        free(ids);
        ok(cas_layer_listing(t->origin->store, &image.layer, &l, &err));
        size_t n = 0;
        for (size_t i = l.count; i-- > 0 && n < CAS_COUNT(put);) {
                if (l.entries[i].type == CAS_ENTRY_FILE)
                        put[n++] = l.entries[i].object;
        }
        ok(cas_order_put(t->origin->store, "a/b", &image.manifest, put, n, &err));
        ok(reg_peer_order(t->remote, "a/b", &image.manifest, &ids, &count, 3, &err));
        assert_int_equal(count, 3);
        assert_memory_equal(ids, put, 3 * sizeof(put[0]));
        free(ids);
        assert_int_equal(reg_peer_order(t->remote, "other", &image.manifest, &ids, &count, 3, &err),
                         -CAS_E_NOTFOUND);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, two_setup, two_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(a_layer_comes_by_its_parts),
                TEST(the_blob_is_pulled_where_that_is_better),
                TEST(objects_come_in_groups_and_one_by_one),
                TEST(objects_are_had_through_their_layer_alone),
                TEST(a_source_of_lazy_mounts_brings_objects),
                TEST(the_order_of_first_reads_comes),
        };
        return cmocka_run_group_tests_name("peer", tests, NULL, NULL);
}
