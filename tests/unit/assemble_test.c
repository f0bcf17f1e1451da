/* SPDX-License-Identifier: Apache-2.0 */
/* Layers made of parts: what is not proved leaves the store as it was. The parts come from the same
 * store here, which has forgotten the layers; tests/unit/peer_test.c has two. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/assemble.h"
#include "cas/blob.h"
#include "cas/blobstream.h"
#include "cas/maintain.h"
#include "cas/object.h"
#include "cas/verity.h"
#include "tests/support/tarmake.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

static void check_ok(int rc, const struct cas_err *err, int line)
{
        if (rc < 0)
                fail_msg("line %d: %s", line, err->msg);
}
#define ok(call) check_ok(call, &err, __LINE__)

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

static void make_tar(unsigned seed, struct cas_buf *out)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        for (unsigned i = 0; i < 8; i++) {
                cas_cleanup_free char *name = cas_xasprintf("file%u", i % 7); /* one comes twice */
                test_file(seed + i, &bytes);
                tarmake_header(out, &(struct tarmake){.name = name,
                                                      .size = bytes.len_bytes,
                                                      .mode = 0644,
                                                      .mtime = 1700000000});
                tarmake_data(out, bytes.data, bytes.len_bytes);
        }
        tarmake_end(out);
}

static void copy_object(struct cas_store *from, const struct cas_hash *id, struct cas_store *to)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_object_read(from, id, 1 << 28, &bytes, &err));
        ok(cas_publish_begin(to, &p, &err));
        ok(cas_publish_named_begin(p, id, &err));
        ok(cas_publish_object_write(p, bytes.data, bytes.len_bytes, &err));
        ok(cas_publish_object_end(p, &err));
        ok(cas_publish_commit(p, &err));
}

/* The parts of a condensed layer of one store in another, all but `leave_out` of the missing. */
static struct cas_recipe_record copy_parts(struct cas_store *from, const struct cas_buf *blob,
                                           struct cas_store *to, size_t leave_out,
                                           struct cas_layer_record *rec)
{
        static const struct cas_condense_options options = {.threads = 2};
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recipe_record recipe;
        struct memory m = {.bytes = blob};
        cas_cleanup_assembly_needs struct cas_assembly_needs needs = {0};
        ok(cas_layer_import(from, read_memory, &m, NULL, NULL, rec, &err));
        ok(cas_condense_blob(from, &rec->blob, &options, NULL, &recipe, &err));
        assert_true(recipe.is_proved && cas_recipe_travels(&recipe));
        copy_object(from, &rec->listing, to);
        copy_object(from, &recipe.recipe, to);
        cas_cleanup_publish struct cas_publish *keep = NULL;
        ok(cas_publish_begin(to, &keep, &err));
        ok(cas_assembly_needs(keep, &rec->listing, &recipe.recipe, &needs, &err));
        assert_true(needs.missing_bytes <= needs.content_bytes);
        assert_true(needs.missing_count > leave_out);
        for (size_t i = leave_out; i < needs.missing_count; i++)
                copy_object(from, &needs.missing[i], to);
        return recipe;
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

static int other_setup(void **state)
{
        struct teststore **two = cas_xcalloc(2, sizeof(*two));
        assert_int_equal(teststore_setup((void **)&two[0]), 0);
        assert_int_equal(teststore_setup((void **)&two[1]), 0);
        *state = two;
        return 0;
}

static int other_teardown(void **state)
{
        struct teststore **two = *state;
        (void)teststore_teardown((void **)&two[0]);
        (void)teststore_teardown((void **)&two[1]);
        free(two);
        return 0;
}

static void a_blob_that_never_had_a_copy(void **state)
{
        struct teststore **t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf blob = CAS_BUF_INIT;
        struct cas_layer_record rec, got;
        enum cas_blob_copy copy;
        make_tar(1, &blob);
        struct cas_recipe_record recipe = copy_parts(t[0]->store, &blob, t[1]->store, 0, &rec);
        struct cas_store *s = t[1]->store;
        assert_int_equal(cas_layer_assemble(s, &rec.blob, blob.len_bytes + 1, &recipe.recipe, NULL,
                                            &got, &err),
                         -CAS_E_CORRUPT);
        ok(cas_layer_assemble(s, &rec.blob, blob.len_bytes, &recipe.recipe, NULL, &got, &err));
        assert_true(cas_hash_equal(&got.listing, &rec.listing));
        ok(cas_blob_copy(s, &rec.blob, &copy, &err));
        assert_int_equal(copy, CAS_BLOB_CONDENSED);
        check_blob(s, &rec.blob, &blob);
        struct cas_gc_result collected;
        ok(cas_gc(s, &(struct cas_gc_options){.live_percent_min = 50, .grace_s = 3600}, NULL,
                  &collected, &err));
        check_blob(s, &rec.blob, &blob); /* young */
        teststore_close(t[1]);           /* packs alone tell of it */
        const struct cas_store_config config = {.path = t[1]->path};
        ok(cas_rebuild(&config, NULL, &err));
        ok(teststore_open(t[1], &err));
        check_blob(t[1]->store, &rec.blob, &blob);
        struct cas_fsck_result result;
        ok(cas_fsck(t[1]->store, NULL, NULL, NULL, NULL, &result, &err));
        assert_int_equal(result.errors, 0);
}

static void what_is_not_proved_is_not_there(void **state)
{
        struct teststore **t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf one = CAS_BUF_INIT, two = CAS_BUF_INIT;
        struct cas_layer_record a, b, got;
        make_tar(1, &one);
        make_tar(100, &two);
        struct cas_store *s = t[1]->store;
        struct cas_recipe_record recipe = copy_parts(t[0]->store, &one, s, 0, &a);
        struct cas_recipe_record poor = copy_parts(t[0]->store, &two, s, 1, &b);
        /* another blob's recipe, something missing, no recipe at all */
        assert_int_equal(
                cas_layer_assemble(s, &b.blob, one.len_bytes, &recipe.recipe, NULL, &got, &err),
                -CAS_E_CORRUPT);
        int rc = cas_layer_assemble(s, &b.blob, two.len_bytes, &poor.recipe, NULL, &got, &err);
        assert_true(rc == -CAS_E_NOTFOUND || rc == -CAS_E_CORRUPT);
        assert_int_equal(
                cas_layer_assemble(s, &a.blob, one.len_bytes, &a.listing, NULL, &got, &err),
                -CAS_E_CORRUPT);
        assert_false(test_has_blob(s, &a.blob));
        assert_false(test_has_blob(s, &b.blob));
        assert_int_equal(cas_layer_stat(s, &a.blob, &got, &err), -CAS_E_NOTFOUND);
        struct cas_fsck_result result;
        ok(cas_fsck(s, NULL, NULL, NULL, NULL, &result, &err));
        assert_int_equal(result.errors, 0);
        /* nothing of it stands in the way */
        ok(cas_layer_assemble(s, &a.blob, one.len_bytes, &recipe.recipe, NULL, &got, &err));
        check_blob(s, &a.blob, &one);
}

static void needs_are_told_of_what_anybody_sent(void **state)
{
        struct teststore **t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf blob = CAS_BUF_INIT;
        cas_cleanup_assembly_needs struct cas_assembly_needs needs = {0};
        struct cas_layer_record rec;
        make_tar(1, &blob);
        struct cas_recipe_record recipe = copy_parts(t[0]->store, &blob, t[1]->store, 0, &rec);
        cas_cleanup_publish struct cas_publish *keep = NULL;
        ok(cas_publish_begin(t[1]->store, &keep, &err));
        ok(cas_assembly_needs(keep, &rec.listing, &recipe.recipe, &needs, &err));
        assert_int_equal(needs.missing_count, 0);
        assert_true(needs.content_bytes > 0);
        cas_assembly_needs_release(&needs);
        assert_int_equal(cas_assembly_needs(keep, &recipe.recipe, &recipe.recipe, &needs, &err),
                         -CAS_E_CORRUPT);
        assert_int_equal(cas_assembly_needs(keep, &rec.listing, &rec.listing, &needs, &err),
                         -CAS_E_CORRUPT);
        struct cas_hash none = {{7}};
        assert_int_equal(cas_assembly_needs(keep, &none, &recipe.recipe, &needs, &err),
                         -CAS_E_NOTFOUND);
}

static void objects_are_what_they_were_said_to_be(void **state)
{
        struct teststore **t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_hash id;
        cas_verity_of("one thing", 9, &id);
        struct cas_object_info info;
        for (unsigned i = 0; i < 2; i++) {
                cas_cleanup_publish struct cas_publish *p = NULL;
                ok(cas_publish_begin(t[0]->store, &p, &err));
                ok(cas_publish_named_begin(p, &id, &err));
                ok(cas_publish_object_write(p, i ? "one thing" : "other one", 9, &err));
                ok(cas_publish_object_end(p, &err));
                if (i == 0) {
                        assert_int_equal(cas_publish_drain(p, &err), -CAS_E_CORRUPT);
                        assert_int_equal(cas_publish_commit(p, &err), -CAS_E_CORRUPT);
                        continue;
                }
                ok(cas_publish_commit(p, &err));
        }
        ok(cas_object_stat(t[0]->store, &id, &info, &err));
        assert_int_equal(info.size_bytes, 9);
}

static void chunks_are_found_by_their_content(void **state)
{
        struct teststore **t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_hash id, sha256;
        uint32_t x = 1;
        for (size_t i = 0; i < 3000000; i++) {
                x = x * 1664525 + 1013904223;
                cas_buf_append_byte(&bytes, (uint8_t)(x >> 24));
        }
        cas_verity_of(bytes.data, bytes.len_bytes, &id);
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(t[0]->store, &p, &err));
        ok(cas_publish_object(p, bytes.data, bytes.len_bytes, &id, &err));
        ok(cas_publish_commit(p, &err));
        struct cas_object_chunk chunks[7];
        uint64_t offset, at = 0;
        uint32_t first = 0, count;
        for (;; first += count) {
                ok(cas_object_chunks(t[0]->store, &id, first, chunks, 7, &count, &offset, &err));
                if (count == 0)
                        break;
                assert_int_equal(offset, at);
                for (uint32_t i = 0; i < count; i++) {
                        uint8_t out[CAS_CHUNK_BYTES_MAX];
                        uint32_t len = chunks[i].length_bytes;
                        bool here;
                        cas_sha256(bytes.data + at, len, &sha256);
                        assert_true(cas_hash_equal(&sha256, &chunks[i].name));
                        ok(cas_chunk_find(t[0]->store, &sha256, len, &here, &err));
                        assert_true(here);
                        ok(cas_chunk_read(t[0]->store, &sha256, len, out, &err));
                        assert_memory_equal(out, bytes.data + at, len);
                        ok(cas_chunk_find(t[0]->store, &sha256, len - 1, &here, &err));
                        assert_false(here);
                        assert_int_equal(cas_chunk_read(t[0]->store, &sha256, len - 1, out, &err),
                                         -CAS_E_NOTFOUND);
                        at += len;
                }
        }
        assert_int_equal(at, bytes.len_bytes);
        assert_true(first > 10);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, other_setup, other_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(a_blob_that_never_had_a_copy),
                TEST(what_is_not_proved_is_not_there),
                TEST(needs_are_told_of_what_anybody_sent),
                TEST(objects_are_what_they_were_said_to_be),
                TEST(chunks_are_found_by_their_content),
        };
        return cmocka_run_group_tests_name("assemble", tests, NULL, NULL);
}
