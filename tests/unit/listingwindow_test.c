/* SPDX-License-Identifier: Apache-2.0 */
/* Entries of a listing by where they begin, in listings that are read whole and in larger ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/listingwindow_int.h"
#include "tests/support/packs.h"
#include "tests/support/teststore.h"

#define ENTRIES_MAX 20000

static char *path_of(unsigned i)
{
        char *path = cas_xmalloc(CAS_PATH_BYTES_MAX);
        int len = snprintf(path, CAS_PATH_BYTES_MAX, "%05u", i);
        for (unsigned n = i % 1000 == 7 ? 200 : i % 3; n > 0; n--)
                len += snprintf(path + len, 300, "/%0250u", n);
        return path;
}

/* Publishes a listing; where its entries begin goes to starts, which has one more for the end. */
static struct cas_hash put_listing(struct cas_store *s, unsigned count, uint64_t *starts)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_listing struct cas_listing l = {0};
        cas_cleanup_publish struct cas_publish *p = NULL;
        struct cas_hash id;
        size_t len, at = CAS_LISTING_HEAD_BYTES;
        l.entries = cas_xcalloc(count, sizeof(*l.entries));
        for (; l.count < count; l.count++) {
                struct cas_entry *e = &l.entries[l.count];
                *e = (struct cas_entry){.type = CAS_ENTRY_FILE,
                                        .path = path_of((unsigned)l.count),
                                        .size_bytes = 1000 + l.count};
        }
        test_ok(cas_listing_encode(&l, &bytes, err));
        for (unsigned i = 0; i <= count; i++) {
                struct cas_entry e;
                starts[i] = at;
                if (i == count)
                        break;
                test_ok(cas_listing_decode_entry(bytes.data + at, bytes.len_bytes - at, &e, &len,
                                                 err));
                cas_entry_release(&e);
                at += len;
        }
        assert_int_equal(at, bytes.len_bytes);
        test_ok(cas_publish_begin(s, &p, err));
        test_ok(cas_publish_object(p, bytes.data, bytes.len_bytes, &id, err));
        test_ok(cas_publish_commit(p, err));
        return id;
}

static void check_entry(struct cas_listing_window *w, const uint64_t *starts, unsigned i)
{
        struct cas_listing_place place;
        cas_cleanup_free char *path = path_of(i);
        test_ok(cas_listing_window_read(w, starts[i], &place, err));
        assert_string_equal(place.entry.path, path);
        assert_int_equal(place.entry.size_bytes, 1000 + i);
        assert_int_equal(place.end, starts[i + 1]);
}

static void entries_are_found_in_any_order(void **state)
{
        struct teststore *t = *state;
        static const unsigned counts[] = {1, 900, ENTRIES_MAX};
        struct test_random r = {1};
        cas_cleanup_free uint64_t *starts = cas_xcalloc(ENTRIES_MAX + 1, sizeof(*starts));
        for (unsigned n = 0; n < CAS_COUNT(counts); n++) {
                struct cas_hash id = put_listing(t->store, counts[n], starts);
                cas_cleanup_listing_window struct cas_listing_window *w = NULL;
                struct cas_listing_place place;
                struct cas_err reason = CAS_ERR_INIT;
                test_ok(cas_listing_window_open(t->store, &id, &w, err));
                for (unsigned i = 0; i < counts[n]; i++)
                        check_entry(w, starts, i);
                for (unsigned i = 0; i < 500; i++)
                        check_entry(w, starts, (unsigned)(test_random_next(&r) % counts[n]));
                const uint64_t bad[] = {0, 15, starts[counts[n]], UINT64_MAX};
                for (unsigned i = 0; i < CAS_COUNT(bad); i++)
                        assert_int_equal(cas_listing_window_read(w, bad[i], &place, &reason),
                                         -CAS_E_CORRUPT);
                check_entry(w, starts, 0);
        }
}

static void what_is_no_listing_is_refused(void **state)
{
        struct teststore *t = *state;
        static const char *const texts[] = {"", "LLST", "LLST\2\0\0\0\0\0\0\0\0\0\0\0"};
        static const size_t lengths[] = {0, 4, 16};
        static const int codes[] = {-CAS_E_CORRUPT, -CAS_E_CORRUPT, -CAS_E_UNSUPPORTED};
        for (unsigned i = 0; i < CAS_COUNT(texts); i++) {
                cas_cleanup_publish struct cas_publish *p = NULL;
                struct cas_listing_window *w = NULL;
                struct cas_hash id;
                struct cas_err reason = CAS_ERR_INIT;
                test_ok(cas_publish_begin(t->store, &p, err));
                test_ok(cas_publish_object(p, texts[i], lengths[i], &id, err));
                test_ok(cas_publish_commit(p, err));
                assert_int_equal(cas_listing_window_open(t->store, &id, &w, &reason), codes[i]);
        }
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(entries_are_found_in_any_order),
                TEST(what_is_no_listing_is_refused),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
