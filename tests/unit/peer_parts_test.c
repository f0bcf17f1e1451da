/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <pthread.h>

#include "registry/peer_frame.h"
#include "registry/peer_sets.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)

/* ---- frames ---- */

static void frames_come_back(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        for (unsigned i = 0; i < 5000; i++)
                cas_buf_printf(&text, "%u of many, ", i % 97);
        for (size_t len = 0; len <= text.len_bytes; len = len ? len * 3 : 1) {
                cas_cleanup_buf struct cas_buf frame = CAS_BUF_INIT;
                reg_cleanup_peer_frame struct reg_peer_frame f = {0};
                reg_peer_frame_encode(REG_PEER_CONTENT, len + 5, text.data, len, &frame);
                assert_true(frame.len_bytes <= REG_PEER_FRAME_BYTES_MAX(len));
                ok(reg_peer_frame_decode(frame.data, frame.len_bytes, len, &f, &err));
                assert_int_equal(f.kind, REG_PEER_CONTENT);
                assert_int_equal(f.object_bytes, len + 5);
                assert_int_equal(f.raw.len_bytes, len);
                assert_memory_equal(f.raw.data, text.data, len);
        }
        cas_cleanup_buf struct cas_buf frame = CAS_BUF_INIT;
        reg_peer_frame_encode(REG_PEER_CONTENT, 0, text.data, text.len_bytes, &frame);
        assert_true(frame.len_bytes < text.len_bytes / 4);
}

static void frames_of_others_are_refused(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_peer_frame f = {0};
        uint8_t content[600] = {1, 2, 3};
        cas_cleanup_buf struct cas_buf frame = CAS_BUF_INIT;
        reg_peer_frame_encode(REG_PEER_CHUNKS, 7, content, sizeof(content), &frame);
        const int corrupt = -CAS_E_CORRUPT;
        assert_int_equal(reg_peer_frame_decode(frame.data, frame.len_bytes, 599, &f, &err),
                         -CAS_E_LIMIT);
        for (size_t len = 0; len < frame.len_bytes; len++)
                assert_int_equal(reg_peer_frame_decode(frame.data, len, 600, &f, &err), corrupt);
        static const struct {
                size_t at;
                uint8_t value;
                int code;
        } changes[] = {
                {0, 'X', -CAS_E_CORRUPT},   {3, '2', -CAS_E_UNSUPPORTED}, {4, 3, -CAS_E_CORRUPT},
                {5, 3, -CAS_E_CORRUPT},     {6, 1, -CAS_E_CORRUPT},       {15, 1, -CAS_E_CORRUPT},
                {16, 0x57, -CAS_E_CORRUPT}, {19, 0x7f, -CAS_E_LIMIT},     {20, 1, -CAS_E_CORRUPT},
                {24, 0xff, -CAS_E_CORRUPT},
        };
        for (size_t i = 0; i < CAS_COUNT(changes); i++) {
                uint8_t before = frame.data[changes[i].at];
                frame.data[changes[i].at] = changes[i].value;
                assert_int_equal(reg_peer_frame_decode(frame.data, frame.len_bytes, 600, &f, &err),
                                 changes[i].code);
                frame.data[changes[i].at] = before;
        }
        ok(reg_peer_frame_decode(frame.data, frame.len_bytes, 600, &f, &err));
        reg_peer_frame_release(&f);
}

static void pages_of_chunks_come_back(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_peer_chunk chunks[] = {{.sha256 = {{1}}, .length_bytes = 70000},
                                          {.sha256 = {{2}}, .length_bytes = 524288}};
        struct reg_peer_page page = {.offset = 5, .chunks = chunks, .count = 2}, out;
        reg_cleanup_peer_frame struct reg_peer_frame f = {
                .kind = REG_PEER_CHUNKS, .object_bytes = 5 + 70000 + 524288, .raw = CAS_BUF_INIT};
        reg_peer_page_encode(&page, &f.raw);
        ok(reg_peer_page_decode(&f, &out, &err));
        assert_int_equal(out.offset, 5);
        assert_int_equal(out.count, 2);
        assert_int_equal(out.chunks[1].length_bytes, 524288);
        assert_memory_equal(&out.chunks[0].sha256, &chunks[0].sha256, CAS_HASH_BYTES);
        reg_peer_page_release(&out);
        f.object_bytes--; /* beyond its end */
        assert_int_equal(reg_peer_page_decode(&f, &out, &err), -CAS_E_CORRUPT);
        f.object_bytes = 4;
        assert_int_equal(reg_peer_page_decode(&f, &out, &err), -CAS_E_CORRUPT);
        f.object_bytes = 1 << 30;
        f.raw.len_bytes--;
        assert_int_equal(reg_peer_page_decode(&f, &out, &err), -CAS_E_CORRUPT);
        f.raw.len_bytes = 8;
        assert_int_equal(reg_peer_page_decode(&f, &out, &err), -CAS_E_CORRUPT);
        f.raw.len_bytes = 8 + 36;
        f.raw.data[8 + 35] = 1; /* a chunk of 16 MiB */
        assert_int_equal(reg_peer_page_decode(&f, &out, &err), -CAS_E_CORRUPT);
}

/* ---- groups ---- */

static void add_file(struct cas_listing *l, unsigned seed, uint64_t size_bytes)
{
        l->entries = cas_xrealloc(l->entries, (l->count + 1) * sizeof(l->entries[0]));
        struct cas_entry *e = &l->entries[l->count++];
        *e = (struct cas_entry){.type = CAS_ENTRY_FILE, .size_bytes = size_bytes};
        cas_sha256(&seed, sizeof(seed), &e->object);
}

static void groups_are_made_in_order_of_the_listing(void **state CAS_UNUSED)
{
        cas_cleanup_listing struct cas_listing l = {0};
        reg_cleanup_peer_parts struct reg_peer_parts p = {0};
        for (unsigned i = 0; i < 40; i++) {
                add_file(&l, i, 100000);
                add_file(&l, i / 2, i / 2 % 10 == 3 ? 999 : 100000); /* repeated */
                add_file(&l, 1000 + i, i % 2 ? CAS_INLINE_BYTES_MAX : 300000);
        }
        reg_peer_parts_make(&l, &p);
        assert_int_equal(p.count, 60);      /* 40 small, 20 large */
        assert_int_equal(p.group_count, 4); /* 11 files make one: 1,100,000 bytes */
        uint64_t bytes = 0;
        for (uint32_t g = 0; g < p.group_count; g++) {
                uint64_t in_group = reg_peer_parts_group_bytes(&p, g);
                assert_int_equal(in_group, g < 3 ? 1100000 : 700000);
                bytes += in_group;
        }
        assert_int_equal(bytes, 4000000);
        for (size_t i = 0; i < p.count; i++) {
                const struct reg_peer_part *part = &p.parts[i];
                assert_ptr_equal(reg_peer_parts_find(&p, &part->id), part);
                if (part->size_bytes == 300000)
                        assert_int_equal(part->group, REG_PEER_NO_GROUP);
                else
                        assert_in_range(i, p.group_first[part->group],
                                        p.group_first[part->group + 1] - 1);
        }
        const struct cas_hash other = {{1}};
        assert_null(reg_peer_parts_find(&p, &other));
}

static void a_layer_may_have_no_files(void **state CAS_UNUSED)
{
        struct cas_listing l = {0};
        reg_cleanup_peer_parts struct reg_peer_parts p = {0};
        const struct cas_hash other = {{1}};
        reg_peer_parts_make(&l, &p);
        assert_int_equal(p.count, 0);
        assert_int_equal(p.group_count, 0);
        assert_null(reg_peer_parts_find(&p, &other));
}

static void groups_have_so_many_objects_at_most(void **state CAS_UNUSED)
{
        cas_cleanup_listing struct cas_listing l = {0};
        reg_cleanup_peer_parts struct reg_peer_parts p = {0};
        for (unsigned i = 0; i < REG_PEER_GROUP_OBJECTS_MAX + 1; i++)
                add_file(&l, i, 65);
        reg_peer_parts_make(&l, &p);
        assert_int_equal(p.group_count, 2);
        assert_int_equal(p.group_first[1], REG_PEER_GROUP_OBJECTS_MAX);
}

/* ---- sets ---- */

static const struct cas_hash no_recipe;

static struct reg_peer_set *get_set(struct reg_peer_sets *sets, struct teststore *t,
                                    const struct testimage *image)
{
        struct cas_err err = CAS_ERR_INIT;
        struct reg_peer_set *set;
        ok(reg_peer_sets_get(sets, t->store, &image->layer, &no_recipe, &set, &err));
        return set;
}

static void sets_tell_what_belongs_to_a_layer(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage one, two;
        ok(testimage_put(t->store, "a", "one", 1, 7, &one, &err));
        ok(testimage_put(t->store, "a", "two", 100, 7, &two, &err));
        struct reg_peer_sets *sets = reg_peer_sets_new(1 << 20);
        struct reg_peer_set *a = get_set(sets, t, &one), *b = get_set(sets, t, &two);
        assert_true(reg_peer_set_has(a, &one.layer.listing));
        assert_false(reg_peer_set_has(a, &two.layer.listing));
        assert_int_equal(reg_peer_set_parts(a)->count, 7);
        for (size_t i = 0; i < 7; i++) {
                assert_true(reg_peer_set_has(a, &reg_peer_set_parts(a)->parts[i].id));
                assert_false(reg_peer_set_has(b, &reg_peer_set_parts(a)->parts[i].id));
        }
        assert_ptr_equal(get_set(sets, t, &one), a); /* kept */
        reg_peer_sets_put(sets, a);
        reg_peer_sets_put(sets, a);
        reg_peer_sets_put(sets, b);
        assert_int_equal(reg_peer_sets_count(sets), 2);
        struct testimage gone = one; /* a listing that cannot be read leaves nothing behind */
        gone.layer.listing.bytes[0] ^= 1;
        assert_int_equal(reg_peer_sets_get(sets, t->store, &gone.layer, &no_recipe, &a, &err),
                         -CAS_E_NOTFOUND);
        assert_int_equal(reg_peer_sets_count(sets), 2);
        reg_peer_sets_free(sets);
}

static void old_sets_are_forgotten(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage images[6];
        struct reg_peer_sets *sets = reg_peer_sets_new(3000); /* room for some */
        for (unsigned i = 0; i < CAS_COUNT(images); i++)
                ok(testimage_put(t->store, "a", "tag", 50 * i, 9, &images[i], &err));
        struct reg_peer_set *first = get_set(sets, t, &images[0]);
        for (unsigned i = 1; i < CAS_COUNT(images); i++)
                reg_peer_sets_put(sets, get_set(sets, t, &images[i]));
        assert_in_range(reg_peer_sets_count(sets), 2, 4);
        assert_ptr_equal(get_set(sets, t, &images[0]), first); /* in use: it stayed */
        reg_peer_sets_put(sets, first);
        reg_peer_sets_put(sets, first);
        struct reg_peer_sets *none = reg_peer_sets_new(0);
        struct reg_peer_set *last = get_set(none, t, &images[1]);
        reg_peer_sets_put(none, last);
        assert_int_equal(reg_peer_sets_count(none), 1); /* the last one stays */
        reg_peer_sets_put(none, get_set(none, t, &images[2]));
        assert_int_equal(reg_peer_sets_count(none), 1);
        reg_peer_sets_free(none);
        reg_peer_sets_free(sets);
}

struct crowd {
        struct teststore *t;
        struct reg_peer_sets *sets;
        const struct testimage *images;
};

static void *ask_often(void *arg)
{
        struct crowd *c = arg;
        for (unsigned i = 0; i < 60; i++) {
                struct reg_peer_set *set = get_set(c->sets, c->t, &c->images[i % 3]);
                assert_true(reg_peer_set_has(set, &c->images[i % 3].layer.listing));
                reg_peer_sets_put(c->sets, set);
        }
        return NULL;
}

static void many_may_ask_at_once(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage images[3];
        for (unsigned i = 0; i < CAS_COUNT(images); i++)
                ok(testimage_put(t->store, "a", "tag", 50 * i, 9, &images[i], &err));
        struct crowd c = {.t = t, .sets = reg_peer_sets_new(1500), .images = images};
        pthread_t threads[4];
        for (unsigned i = 0; i < CAS_COUNT(threads); i++)
                ok(pthread_create(&threads[i], NULL, ask_often, &c));
        for (unsigned i = 0; i < CAS_COUNT(threads); i++)
                ok(pthread_join(threads[i], NULL));
        assert_in_range(reg_peer_sets_count(c.sets), 1, 3);
        reg_peer_sets_free(c.sets);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(frames_come_back),
                cmocka_unit_test(frames_of_others_are_refused),
                cmocka_unit_test(pages_of_chunks_come_back),
                cmocka_unit_test(groups_are_made_in_order_of_the_listing),
                cmocka_unit_test(a_layer_may_have_no_files),
                cmocka_unit_test(groups_have_so_many_objects_at_most),
                TEST(sets_tell_what_belongs_to_a_layer),
                TEST(old_sets_are_forgotten),
                TEST(many_may_ask_at_once),
        };
        return cmocka_run_group_tests_name("peer parts", tests, NULL, NULL);
}
