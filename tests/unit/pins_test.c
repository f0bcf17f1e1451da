/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "cas/condemned_int.h"
#include "cas/lease_int.h"
#include "cas/pins_int.h"
#include "cas/record_int.h"
#include "cas/store_int.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)

static struct cas_hash hash_of(uint64_t number)
{
        struct cas_hash h;
        cas_sha256(&number, sizeof(number), &h);
        return h;
}

static bool blob_pinned(struct cas_store *s, const struct cas_digest *d)
{
        cas_gate_close(s);
        bool yes = cas_blob_is_pinned(s, d);
        cas_gate_open(s);
        return yes;
}

static bool object_pinned(struct cas_store *s, const struct cas_hash *h)
{
        cas_gate_close(s);
        bool yes = cas_object_is_pinned(s, h);
        cas_gate_open(s);
        return yes;
}

static bool chunk_pinned(struct cas_store *s, const struct cas_hash *h)
{
        cas_gate_close(s);
        bool yes = cas_chunk_is_pinned(s, h);
        cas_gate_open(s);
        return yes;
}

static bool leased(struct cas_store *s, const struct cas_digest *d)
{
        cas_gate_close(s);
        bool yes = cas_blob_is_leased(s, d);
        cas_gate_open(s);
        return yes;
}

/* ---- pins ---- */

static void kinds_are_apart(void **state)
{
        struct teststore *t = *state;
        struct cas_digest d = test_digest("a"), other = test_digest("b");
        struct cas_hash h;
        memcpy(h.bytes, d.bytes, sizeof(h.bytes));
        struct cas_pins *p = cas_pins_new(t->store);
        assert_false(blob_pinned(t->store, &d));
        cas_pin_blob(p, &d);
        assert_true(blob_pinned(t->store, &d));
        assert_false(blob_pinned(t->store, &other));
        assert_false(object_pinned(t->store, &h));
        cas_pin_object(p, &h);
        assert_true(object_pinned(t->store, &h));
        assert_false(chunk_pinned(t->store, &h));
        cas_pin_chunk(p, &h);
        assert_true(chunk_pinned(t->store, &h));
        cas_pins_free(p);
        assert_false(blob_pinned(t->store, &d));
        assert_false(object_pinned(t->store, &h));
        assert_false(chunk_pinned(t->store, &h));
}

static void a_name_is_pinned_by_each_set(void **state)
{
        struct teststore *t = *state;
        struct cas_hash h = hash_of(1);
        struct cas_pins *a = cas_pins_new(t->store), *b = cas_pins_new(t->store),
                        *c = cas_pins_new(t->store);
        cas_pin_object(a, &h);
        cas_pin_object(b, &h);
        cas_pin_object(c, &h);
        cas_pin_object(c, &h);
        cas_pins_free(b);
        assert_true(object_pinned(t->store, &h));
        cas_pins_free(c);
        assert_true(object_pinned(t->store, &h));
        cas_pins_free(a);
        assert_false(object_pinned(t->store, &h));
}

static void all_of_many_are_pinned(void **state)
{
        enum { COUNT = 100000 };
        struct teststore *t = *state;
        struct cas_pins *p = cas_pins_new(t->store);
        for (uint64_t i = 0; i < COUNT; i++) {
                struct cas_hash h = hash_of(i);
                cas_pin_chunk(p, &h);
        }
        cas_gate_close(t->store);
        for (uint64_t i = 0; i < 2 * COUNT; i++) {
                struct cas_hash h = hash_of(i);
                if (cas_chunk_is_pinned(t->store, &h) != (i < COUNT))
                        fail_msg("name %llu", (unsigned long long)i);
        }
        cas_gate_open(t->store);
        cas_pins_free(p);
}

static void a_name_of_zeros_is_one(void **state)
{
        struct teststore *t = *state;
        struct cas_hash zero = {{0}}, h = hash_of(1);
        struct cas_pins *p = cas_pins_new(t->store);
        cas_pin_object(p, &h);
        assert_false(object_pinned(t->store, &zero));
        cas_pin_object(p, &zero);
        assert_true(object_pinned(t->store, &zero));
        cas_pins_free(p);
}

static void too_many_pin_everything_of_the_kind(void **state)
{
        struct teststore *t = *state;
        struct cas_pins *p = cas_pins_new(t->store), *joined = cas_pins_new(t->store);
        struct cas_hash h = {{0}}, other = hash_of(1);
        for (uint64_t i = 0; i < CAS_PINS_MAX; i++) {
                cas_put_le64(h.bytes + 8, i + 1);
                cas_pin_chunk(p, &h);
        }
        assert_false(chunk_pinned(t->store, &other));
        cas_pin_chunk(p, &h); /* is one of them */
        assert_false(chunk_pinned(t->store, &other));
        cas_put_le64(h.bytes + 8, CAS_PINS_MAX + 1);
        cas_pin_chunk(p, &h);
        assert_true(chunk_pinned(t->store, &other));
        assert_false(object_pinned(t->store, &other));
        cas_pins_join(joined, p);
        cas_pins_free(p);
        assert_true(chunk_pinned(t->store, &other));
        cas_pins_free(joined);
        assert_false(chunk_pinned(t->store, &other));
}

static void what_is_joined_stays(void **state)
{
        enum { COUNT = 1000 };
        struct teststore *t = *state;
        struct cas_pins *a = cas_pins_new(t->store), *b = cas_pins_new(t->store),
                        *empty = cas_pins_new(t->store);
        struct cas_digest d = test_digest("a");
        cas_pin_blob(a, &d);
        for (uint64_t i = 0; i < COUNT; i++) {
                struct cas_hash h = hash_of(i);
                cas_pin_object(i < COUNT / 2 ? a : b, &h);
        }
        cas_pins_join(b, a);
        cas_pins_join(b, empty);
        cas_pins_free(a);
        cas_pins_free(empty);
        assert_true(blob_pinned(t->store, &d));
        for (uint64_t i = 0; i < COUNT; i++) {
                struct cas_hash h = hash_of(i);
                assert_true(object_pinned(t->store, &h));
        }
        cas_pins_free(b);
        cas_pins_free(NULL);
}

/* ---- against a thread that removes ---- */

enum { THINGS = 64, ROUNDS = 3000, WORKERS = 3 };

/* What the store is in this test. */
struct shelf {
        struct cas_store *store;
        struct cas_hash names[THINGS];
        _Atomic(bool) there[THINGS];
        _Atomic(bool) done;
        _Atomic(unsigned) lost, found, removed;
};

static void *remove_things(void *arg)
{
        struct shelf *sh = arg;
        while (!atomic_load(&sh->done)) {
                cas_gate_close(sh->store);
                for (unsigned i = 0; i < THINGS; i++) {
                        if (!cas_object_is_pinned(sh->store, &sh->names[i]) &&
                            atomic_exchange(&sh->there[i], false))
                                sh->removed++;
                }
                cas_gate_open(sh->store);
        }
        return NULL;
}

/* Pins, looks, brings what is not there; then all must stay until the pins go. */
static void *use_things(void *arg)
{
        struct shelf *sh = arg;
        /* Until both have had their turn, however busy the machine is. */
        for (unsigned round = 0; round < ROUNDS || atomic_load(&sh->removed) == 0; round++) {
                cas_cleanup_pins struct cas_pins *p = cas_pins_new(sh->store);
                unsigned used[8];
                for (unsigned i = 0; i < CAS_COUNT(used); i++) {
                        used[i] = (round * 7 + i * 5) % THINGS;
                        cas_pin_object(p, &sh->names[used[i]]);
                        if (atomic_exchange(&sh->there[used[i]], true))
                                sh->found++;
                }
                for (unsigned i = 0; i < CAS_COUNT(used); i++) {
                        if (!atomic_load(&sh->there[used[i]]))
                                sh->lost++;
                }
        }
        return NULL;
}

static void pinned_things_stay_beside_a_collector(void **state)
{
        struct teststore *t = *state;
        struct shelf *sh = cas_xcalloc(1, sizeof(*sh));
        pthread_t remover, users[WORKERS];
        sh->store = t->store;
        for (unsigned i = 0; i < THINGS; i++)
                sh->names[i] = hash_of(i);
        ok(pthread_create(&remover, NULL, remove_things, sh));
        for (unsigned i = 0; i < WORKERS; i++)
                ok(pthread_create(&users[i], NULL, use_things, sh));
        for (unsigned i = 0; i < WORKERS; i++)
                ok(pthread_join(users[i], NULL));
        atomic_store(&sh->done, true);
        ok(pthread_join(remover, NULL));
        assert_int_equal(sh->lost, 0);
        assert_true(sh->removed > 0);
        free(sh);
}

/* One set, several threads. */
struct shared_set {
        struct cas_pins *pins;
        uint64_t first;
};

static void *pin_many(void *arg)
{
        const struct shared_set *set = arg;
        for (uint64_t i = 0; i < 5000; i++) {
                struct cas_hash h = hash_of(set->first + i);
                cas_pin_object(set->pins, &h);
        }
        return NULL;
}

static void threads_share_a_set(void **state)
{
        struct teststore *t = *state;
        struct cas_pins *p = cas_pins_new(t->store);
        struct shared_set sets[] = {{p, 0}, {p, 2500}, {p, 5000}};
        pthread_t threads[3];
        for (unsigned i = 0; i < 3; i++)
                ok(pthread_create(&threads[i], NULL, pin_many, &sets[i]));
        for (unsigned i = 0; i < 3; i++)
                ok(pthread_join(threads[i], NULL));
        for (uint64_t i = 0; i < 10001; i++) {
                struct cas_hash h = hash_of(i);
                assert_int_equal(object_pinned(t->store, &h), i < 10000);
        }
        cas_pins_free(p);
}

/* ---- publications ---- */

static void publications_pin_until_they_are_freed(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_publish *p;
        cas_cleanup_free char *large = cas_xmalloc(CAS_MIB);
        const struct cas_digest other = test_digest("other");
        const struct cas_hash kept = hash_of(1);
        struct cas_hash small_id, large_id, cut;
        struct cas_chunk_ref ref;
        struct cas_digest blob;
        uint32_t count;
        for (size_t i = 0; i < CAS_MIB; i++)
                large[i] = (char)(i * i >> 7);
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_object(p, "small", 5, &small_id, &err));
        ok(cas_publish_object(p, large, CAS_MIB, &large_id, &err));
        ok(cas_publish_blob(p, "blob", 4, NULL, &blob, &err));
        ok(cas_publish_drain(p, &err));
        cas_publish_keep_blob(p, &other);
        cas_publish_keep_object(p, &kept);
        assert_true(object_pinned(t->store, &small_id));
        assert_true(object_pinned(t->store, &large_id));
        assert_true(blob_pinned(t->store, &blob));
        assert_true(blob_pinned(t->store, &other));
        assert_true(object_pinned(t->store, &kept));
        ok(cas_publish_commit(p, &err));
        ok(cas_index_get_object_chunks(t->store->index, &large_id, 0, &ref, 1, &count, &err));
        assert_int_equal(count, 1);
        cut = ref.chunk;
        assert_true(chunk_pinned(t->store, &cut));
        assert_true(object_pinned(t->store, &large_id));
        cas_publish_free(p);
        assert_false(object_pinned(t->store, &small_id));
        assert_false(object_pinned(t->store, &large_id));
        assert_false(chunk_pinned(t->store, &cut));
        assert_false(blob_pinned(t->store, &blob));
        assert_false(blob_pinned(t->store, &other));
        /* What is there already is pinned as well, but for the chunks of what is whole. */
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_object(p, large, CAS_MIB, &large_id, &err));
        ok(cas_publish_blob(p, "blob", 4, NULL, &blob, &err));
        ok(cas_publish_drain(p, &err));
        assert_true(object_pinned(t->store, &large_id));
        assert_true(blob_pinned(t->store, &blob));
        cas_publish_free(p);
        assert_false(object_pinned(t->store, &large_id));
}

/* ---- leases ---- */

static struct cas_lease lease_of(const char *id, const struct cas_digest *root, uint64_t expires)
{
        struct cas_lease lease = {.root = *root, .expires_unix_s = expires, .owner = "a test"};
        memcpy(lease.id, id, strlen(id) + 1);
        return lease;
}

static void put_lease(struct teststore *t, const char *id, const struct cas_digest *root,
                      uint64_t expires)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_lease lease = lease_of(id, root, expires);
        ok(cas_lease_put(t->store, &lease, &err));
}

static void leases_keep_roots(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest a = test_digest("a"), b = test_digest("b");
        put_lease(t, "one", &a, 0);
        put_lease(t, "two", &a, 0);
        assert_true(leased(t->store, &a));
        assert_false(leased(t->store, &b));
        ok(cas_lease_drop(t->store, "one", &err));
        ok(cas_lease_drop(t->store, "one", &err));
        assert_true(leased(t->store, &a));
        put_lease(t, "two", &b, 0); /* in its place */
        assert_false(leased(t->store, &a));
        assert_true(leased(t->store, &b));
        teststore_reopen(t);
        assert_false(leased(t->store, &a));
        assert_true(leased(t->store, &b));
        ok(cas_lease_drop(t->store, "two", &err));
        assert_false(leased(t->store, &b));
        uint64_t since; /* what a lease does not keep any more is to be looked at */
        ok(cas_condemned_blob_since(t->store->index, &a, &since, &err));
        ok(cas_condemned_blob_since(t->store->index, &b, &since, &err));
        teststore_reopen(t);
        assert_false(leased(t->store, &b));
}

static bool count_lease(void *arg, const struct cas_lease *lease CAS_UNUSED)
{
        unsigned *count = arg;
        (*count)++;
        return true;
}

static void leases_expire(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest a = test_digest("a"), b = test_digest("b");
        const uint64_t now = (uint64_t)time(NULL);
        uint64_t dropped;
        unsigned count = 0;
        put_lease(t, "past", &a, now - 1);
        put_lease(t, "future", &b, now + 1000);
        put_lease(t, "for ever", &b, 0);
        assert_false(leased(t->store, &a));
        assert_true(leased(t->store, &b));
        teststore_reopen(t);
        ok(cas_leases_expire(t->store, now, &dropped, &err));
        assert_int_equal(dropped, 1);
        ok(cas_lease_each(t->store, count_lease, &count, &err));
        assert_int_equal(count, 2);
        ok(cas_leases_expire(t->store, now + 1001, &dropped, &err));
        assert_int_equal(dropped, 1);
        assert_true(leased(t->store, &b));
}

static void unreadable_leases_keep_everything(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest a = test_digest("a");
        uint64_t dropped;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_batch_put(batch, CAS_FAMILY_LEASES, "bad", 3, "?", 1);
        ok(cas_index_write(t->store->index, batch, &err));
        put_lease(t, "past", &a, 1);
        teststore_reopen(t);
        assert_true(leased(t->store, &a));
        assert_int_equal(cas_leases_expire(t->store, 100, &dropped, &err), -CAS_E_CORRUPT);
        assert_int_equal(dropped, 1);
}

static void *lease_again_and_again(void *arg)
{
        struct teststore *t = arg;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest roots[] = {test_digest("a"), test_digest("b")};
        for (unsigned i = 0; i < 60; i++) {
                struct cas_lease lease = lease_of("shared", &roots[i % 2], 0);
                ok(cas_lease_put(t->store, &lease, &err));
                if (i % 5 == 4)
                        ok(cas_lease_drop(t->store, "shared", &err));
        }
        return NULL;
}

struct seen_root {
        struct cas_digest root;
        unsigned count;
};

static bool note_root(void *arg, const struct cas_lease *lease)
{
        struct seen_root *seen = arg;
        seen->root = lease->root;
        seen->count++;
        return true;
}

/* Memory and index agree whoever was last. */
static void threads_change_a_lease(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest roots[] = {test_digest("a"), test_digest("b")};
        pthread_t threads[3];
        struct seen_root seen = {.count = 0};
        for (unsigned i = 0; i < 3; i++)
                ok(pthread_create(&threads[i], NULL, lease_again_and_again, t));
        for (unsigned i = 0; i < 3; i++)
                ok(pthread_join(threads[i], NULL));
        ok(cas_lease_each(t->store, note_root, &seen, &err));
        for (unsigned i = 0; i < 2; i++)
                assert_int_equal(leased(t->store, &roots[i]),
                                 seen.count > 0 && cas_digest_equal(&seen.root, &roots[i]));
}

int main(void)
{
#define pins_test(f) cmocka_unit_test_setup_teardown(f, teststore_setup, teststore_teardown)
        const struct CMUnitTest tests[] = {
                pins_test(kinds_are_apart),
                pins_test(a_name_is_pinned_by_each_set),
                pins_test(all_of_many_are_pinned),
                pins_test(a_name_of_zeros_is_one),
                pins_test(too_many_pin_everything_of_the_kind),
                pins_test(what_is_joined_stays),
                pins_test(pinned_things_stay_beside_a_collector),
                pins_test(threads_share_a_set),
                pins_test(publications_pin_until_they_are_freed),
                pins_test(leases_keep_roots),
                pins_test(leases_expire),
                pins_test(unreadable_leases_keep_everything),
                pins_test(threads_change_a_lease),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
