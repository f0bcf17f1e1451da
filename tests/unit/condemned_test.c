/* SPDX-License-Identifier: Apache-2.0 */
/* References and condemned things as they stand in the index: each is found by its child, and what
 * is malformed is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cas/condemned_int.h"
#include "cas/refs_int.h"
#include "cas/store_int.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)

static struct cas_hash hash_of(const char *text)
{
        struct cas_hash h;
        cas_sha256(text, strlen(text), &h);
        return h;
}

static void write_batch(struct teststore *t, struct cas_batch *b)
{
        struct cas_err err = CAS_ERR_INIT;
        ok(cas_index_write(t->store->index, b, &err));
}

static bool blob_is_needed(struct teststore *t, const struct cas_digest *d)
{
        struct cas_err err = CAS_ERR_INIT;
        bool needed;
        ok(cas_blob_is_needed(t->store->index, d, &needed, &err));
        return needed;
}

static bool object_is_needed(struct teststore *t, const struct cas_hash *h, const char *roles)
{
        struct cas_err err = CAS_ERR_INIT;
        bool needed;
        ok(cas_object_is_needed(t->store->index, h, roles, &needed, &err));
        return needed;
}

static bool chunk_is_needed(struct teststore *t, const struct cas_hash *h)
{
        struct cas_err err = CAS_ERR_INIT;
        bool needed;
        ok(cas_chunk_is_needed(t->store->index, h, &needed, &err));
        return needed;
}

/* "role:parent " of each, parents by their first byte unless they are text. */
static int tell(void *arg, const struct cas_ref_seen *ref, struct cas_err *err CAS_UNUSED)
{
        if (ref->parent_len < CAS_REF_PARENT_BYTES)
                cas_buf_printf(arg, "%c:%.*s ", ref->role, (int)ref->parent_len,
                               (const char *)ref->parent);
        else
                cas_buf_printf(arg, "%c:%zu:%02x ", ref->role ? ref->role : '-', ref->parent_len,
                               ref->parent[0]);
        return 0;
}

static void references_of_blobs_tell_their_parents(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        cas_cleanup_buf struct cas_buf told = CAS_BUF_INIT;
        const struct cas_digest child = test_digest("child"), other = test_digest("other");
        const struct cas_digest manifest = test_digest("manifest");
        const struct cas_hash tree = {.bytes = {0xab, 1}};
        struct cas_record_key parent;
        cas_key_digest(&manifest, &parent);
        cas_batch_put_blob_ref(b, &child, CAS_BLOB_IN_TREE, tree.bytes, sizeof(tree.bytes));
        write_batch(t, b);
        assert_false(blob_is_needed(t, &child)); /* a tree keeps nothing */
        cas_batch_put_blob_ref(b, &child, CAS_BLOB_IN_REPO, "a/b", 3);
        cas_batch_put_blob_ref(b, &child, CAS_BLOB_LINKED, "x", 1);
        cas_batch_put_blob_ref(b, &child, CAS_BLOB_NAMED, parent.bytes, parent.len);
        write_batch(t, b);
        assert_true(blob_is_needed(t, &child));
        assert_false(blob_is_needed(t, &other));
        ok(cas_blob_refs_each(t->store->index, &child, tell, &told, &err));
        assert_string_equal(cas_buf_str(&told), "b:a/b m:33:01 r:x t:32:ab ");
        cas_batch_del_blob_ref(b, &child, CAS_BLOB_IN_REPO, "a/b", 3);
        cas_batch_del_blob_ref(b, &child, CAS_BLOB_LINKED, "x", 1);
        write_batch(t, b);
        assert_true(blob_is_needed(t, &child));
        cas_batch_del_blob_ref(b, &child, CAS_BLOB_NAMED, parent.bytes, parent.len);
        write_batch(t, b);
        assert_false(blob_is_needed(t, &child));
}

static void references_of_objects_and_chunks_have_roles(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        cas_cleanup_buf struct cas_buf told = CAS_BUF_INIT;
        const struct cas_hash file = hash_of("file"), listing = {.bytes = {0xcd}};
        const struct cas_hash chunk = hash_of("chunk");
        const struct cas_digest blob = test_digest("blob");
        struct cas_record_key parent;
        cas_key_digest(&blob, &parent);
        cas_batch_put_object_ref(b, &file, CAS_OBJECT_FILE, listing.bytes, CAS_HASH_BYTES);
        cas_batch_put_object_ref(b, &file, CAS_OBJECT_RECIPE, parent.bytes, parent.len);
        cas_batch_put_chunk_ref(b, &chunk, &file);
        write_batch(t, b);
        ok(cas_object_refs_each(t->store->index, &file, tell, &told, &err));
        assert_string_equal(cas_buf_str(&told), "f:16:cd r:33:01 ");
        assert_true(object_is_needed(t, &file, NULL) && object_is_needed(t, &file, "sf"));
        assert_false(object_is_needed(t, &file, "l") || object_is_needed(t, &listing, NULL));
        assert_true(chunk_is_needed(t, &chunk));
        assert_false(chunk_is_needed(t, &file));
        cas_batch_put_object(b, &file, 5, NULL, 1); /* it is its own chunk */
        cas_batch_del_chunk_ref(b, &chunk, &file);
        cas_batch_del_object_ref(b, &file, CAS_OBJECT_FILE, listing.bytes, CAS_HASH_BYTES);
        write_batch(t, b);
        assert_true(chunk_is_needed(t, &file));
        assert_false(chunk_is_needed(t, &chunk) || object_is_needed(t, &file, "f"));
}

static void manifests_become_nodes(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        cas_cleanup_buf struct cas_buf told = CAS_BUF_INIT;
        char type[256];
        bool is_node;
        struct cas_descriptor children[2] = {{.media_type = CAS_MT_OCI_MANIFEST},
                                             {.media_type = "application/x"}};
        children[0].digest = test_digest("image");
        children[1].digest = test_digest("something");
        const struct cas_digest index = test_digest("index");
        const struct cas_manifest m = {.kind = CAS_MANIFEST_INDEX,
                                       .media_type = CAS_MT_OCI_INDEX,
                                       .children = children,
                                       .child_count = 2};
        ok(cas_node_get(t->store->index, &index, &is_node, type, &err));
        assert_false(is_node);
        cas_batch_put_manifest_refs(b, &index, &m);
        write_batch(t, b);
        ok(cas_node_get(t->store->index, &index, &is_node, type, &err));
        assert_true(is_node);
        assert_string_equal(type, CAS_MT_OCI_INDEX);
        ok(cas_blob_refs_each(t->store->index, &children[0].digest, tell, &told, &err));
        ok(cas_blob_refs_each(t->store->index, &children[1].digest, tell, &told, &err));
        assert_string_equal(cas_buf_str(&told), "i:33:01 m:33:01 ");
        cas_batch_del_manifest_refs(b, &index, &m);
        write_batch(t, b);
        ok(cas_node_get(t->store->index, &index, &is_node, NULL, &err));
        assert_false(is_node || blob_is_needed(t, &children[0].digest) ||
                     blob_is_needed(t, &children[1].digest));
}

static int take_condemned(void *arg, const void *key, size_t key_len, const void *value,
                          size_t value_len, struct cas_err *err)
{
        struct cas_condemned c;
        struct cas_record_key again;
        ok(cas_condemned_decode(key, key_len, value, value_len, &c, err));
        cas_condemned_key(&c, &again);
        assert_int_equal(again.len, key_len);
        assert_memory_equal(again.bytes, key, key_len);
        cas_buf_printf(arg, "%d%s%s@%d ", (int)c.kind, c.repo[0] ? ":" : "", c.repo,
                       (int)c.since_unix_s);
        return 0;
}

static void condemned_things_come_in_order(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        cas_cleanup_buf struct cas_buf told = CAS_BUF_INIT;
        const struct cas_digest blob = test_digest("blob");
        const struct cas_hash h = hash_of("thing");
        cas_batch_condemn(b, CAS_CONDEMNED_CHUNK, &h, 7);
        cas_batch_condemn(b, CAS_CONDEMNED_LISTING, &h, 5);
        cas_batch_condemn(b, CAS_CONDEMNED_RECIPE, &h, 6);
        cas_batch_condemn_blob(b, &blob, 3);
        cas_batch_condemn_blob(b, &blob, 4);
        cas_batch_condemn_link(b, "a/b", &blob, 2);
        write_batch(t, b);
        const struct cas_scan all = {.family = CAS_FAMILY_CONDEMNED};
        ok(cas_index_scan(t->store->index, &all, take_condemned, &told, &err));
        assert_string_equal(cas_buf_str(&told), "1:a/b@2 2@4 3@5 4@6 6@7 ");
        cas_batch_uncondemn(b, CAS_CONDEMNED_LISTING, &h);
        cas_batch_uncondemn_blob(b, &blob);
        cas_batch_uncondemn_link(b, "a/b", &blob);
        write_batch(t, b);
        cas_buf_clear(&told);
        ok(cas_index_scan(t->store->index, &all, take_condemned, &told, &err));
        assert_string_equal(cas_buf_str(&told), "4@6 6@7 ");
}

static void malformed_condemned_records_are_told(void **state CAS_UNUSED)
{
        static const struct {
                const char *key;
                size_t len;
        } wrong[] = {{"", 0},     {"\0", 1},       {"\7", 1},          {"\3short", 6},
                     {"\2\1", 2}, {"\1norepo", 7}, {"\1UPPER\0\1", 8}, {"\1a\0\2", 4}};
        for (size_t i = 0; i < CAS_COUNT(wrong); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_condemned c;
                assert_int_equal(
                        cas_condemned_decode(wrong[i].key, wrong[i].len, "\1", 1, &c, &err),
                        -CAS_E_CORRUPT);
        }
}

static void since_is_told_of_blobs_and_links(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        const struct cas_digest blob = test_digest("blob"), other = test_digest("other");
        struct cas_index *ix = t->store->index;
        uint64_t since;
        cas_batch_condemn_blob(b, &blob, 1000);
        cas_batch_condemn_link(b, "r", &blob, 2000);
        write_batch(t, b);
        ok(cas_condemned_blob_since(ix, &blob, &since, &err));
        assert_int_equal(since, 1000);
        ok(cas_condemned_link_since(ix, "r", &blob, &since, &err));
        assert_int_equal(since, 2000);
        assert_int_equal(cas_condemned_blob_since(ix, &other, &since, &err), -CAS_E_NOTFOUND);
        assert_int_equal(cas_condemned_link_since(ix, "r2", &blob, &since, &err), -CAS_E_NOTFOUND);
        assert_int_equal(cas_condemned_link_since(ix, "r", &other, &since, &err), -CAS_E_NOTFOUND);
}

static void packs_remember_what_is_dead(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        uint64_t bytes = 1;
        ok(cas_pack_dead_get(t->store->index, 7, &bytes, &err));
        assert_int_equal(bytes, 0);
        cas_batch_put_pack_dead(b, 7, 123456789);
        write_batch(t, b);
        ok(cas_pack_dead_get(t->store->index, 7, &bytes, &err));
        assert_int_equal(bytes, 123456789);
        cas_batch_put_pack_dead(b, 7, 0);
        write_batch(t, b);
        ok(cas_pack_dead_get(t->store->index, 7, &bytes, &err));
        assert_int_equal(bytes, 0);
}

int main(void)
{
#define in_store(test) cmocka_unit_test_setup_teardown(test, teststore_setup, teststore_teardown)
        const struct CMUnitTest tests[] = {
                in_store(references_of_blobs_tell_their_parents),
                in_store(references_of_objects_and_chunks_have_roles),
                in_store(manifests_become_nodes),
                in_store(condemned_things_come_in_order),
                cmocka_unit_test(malformed_condemned_records_are_told),
                in_store(since_is_told_of_blobs_and_links),
                in_store(packs_remember_what_is_dead),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
