/* SPDX-License-Identifier: Apache-2.0 */
/* Trees of a store: found, made, made again. Layers are text (see listing_text.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "cas/store_int.h"
#include "cas/tree_int.h"
#include "tests/support/listing_text.h"
#include "tests/support/teststore.h"

#define LAYERS_MAX 4

/* A chain of layers; the text of a layer is its identity. */
struct chain {
        const char *texts[LAYERS_MAX];
        struct cas_layer_record layers[LAYERS_MAX];
        struct cas_tree_chain chain;
        atomic_uint listings_read;
};

static int read_listing(void *arg, size_t index, struct cas_listing *out, struct cas_err *err)
{
        struct chain *c = arg;
        if (!c->texts[index])
                return cas_fail(err, CAS_E_NOTFOUND, "no such listing");
        atomic_fetch_add(&c->listings_read, 1);
        listing_from_text(c->texts[index], out);
        return 0;
}

static void chain_set(struct chain *c, size_t base_count, size_t count, const char *const *texts)
{
        memset(c, 0, sizeof(*c));
        for (size_t i = 0; i < count; i++) {
                c->texts[i] = texts[i];
                cas_digest_of(CAS_DIGEST_SHA256, texts[i], strlen(texts[i]), &c->layers[i].blob);
                cas_digest_of(CAS_DIGEST_SHA512, texts[i], strlen(texts[i]), &c->layers[i].diff_id);
                cas_sha256(texts[i], strlen(texts[i]), &c->layers[i].listing);
        }
        c->chain = (struct cas_tree_chain){.layers = c->layers,
                                           .count = count,
                                           .base_count = base_count,
                                           .listing = read_listing,
                                           .listing_arg = c};
}

#define CHAIN(c, base, ...)                                                                        \
        chain_set((c), (base), sizeof((const char *[]){__VA_ARGS__}) / sizeof(const char *),       \
                  (const char *[]){__VA_ARGS__})

static struct cas_tree_ref ensure(struct cas_store *s, struct chain *c)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_tree_ref ref = {0};
        if (cas_tree_ensure_chain(s, &c->chain, &ref, &err) < 0)
                fail_msg("%s", err.msg);
        return ref;
}

static char *text_of_file(const char *path)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_tree struct cas_tree *t = NULL;
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct cas_buf text = CAS_BUF_INIT;
        assert_true(fd >= 0);
        if (cas_tree_open_fd(fd, &t, &err) < 0)
                fail_msg("%s", err.msg);
        tree_to_text(t, &text);
        return (char *)text.data;
}

static void is_made_and_found(void **state)
{
        struct teststore *t = *state;
        struct chain c;
        char path[4096];
        struct stat st;
        CHAIN(&c, 0, "f a =x\nf b 100\n", "w a\nf c =y\n");
        struct cas_tree_ref first = ensure(t->store, &c);
        assert_int_equal(atomic_load(&c.listings_read), 2);
        cas_tree_path(t->store, &first.digest, path, sizeof(path));
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0400);
        assert_int_equal((uint64_t)st.st_size, first.size_bytes);
        cas_cleanup_free char *text = text_of_file(path);
        assert_non_null(strstr(text, "/c f 644 0 0 1 0.0 1 \"y\"\n"));
        assert_null(strstr(text, "/a "));

        struct cas_tree_ref second = ensure(t->store, &c);
        assert_int_equal(atomic_load(&c.listings_read), 2);
        assert_memory_equal(&first, &second, sizeof(first));
        teststore_reopen(t);
        second = ensure(t->store, &c);
        assert_int_equal(atomic_load(&c.listings_read), 2);
        assert_memory_equal(&first, &second, sizeof(first));
}

static void order_and_cut_are_part_of_the_key(void **state CAS_UNUSED)
{
        struct chain a, b, cut;
        struct cas_hash key_a, key_b, key_cut, key_less;
        CHAIN(&a, 0, "f a =x\n", "f b =x\n");
        CHAIN(&b, 0, "f b =x\n", "f a =x\n");
        CHAIN(&cut, 1, "f a =x\n", "f b =x\n");
        cas_tree_key(&a.chain, &key_a);
        cas_tree_key(&b.chain, &key_b);
        cas_tree_key(&cut.chain, &key_cut);
        a.chain.count = 1;
        cas_tree_key(&a.chain, &key_less);
        assert_false(cas_hash_equal(&key_a, &key_b));
        assert_false(cas_hash_equal(&key_a, &key_cut));
        assert_false(cas_hash_equal(&key_a, &key_less));
}

/* A decoder that was taken over may claim the diff_id of any layer: nobody gets its tree by that.
 */
static void what_a_layer_claims_is_not_part_of_the_key(void **state)
{
        struct teststore *t = *state;
        struct chain good, evil;
        CHAIN(&good, 0, "f a =good\n");
        CHAIN(&evil, 0, "f a =evil\n");
        evil.layers[0].diff_id = good.layers[0].diff_id;
        struct cas_tree_ref first = ensure(t->store, &evil);
        struct cas_tree_ref second = ensure(t->store, &good);
        assert_false(cas_digest_equal(&first.digest, &second.digest));
}

/* Whatever happened to the file, its bytes come back as they were. */
static void damaged_file_is_made_again(void **state)
{
        struct teststore *t = *state;
        struct chain c;
        char path[4096];
        CHAIN(&c, 0, "f a =x\nf b 100\n");
        struct cas_tree_ref first = ensure(t->store, &c);
        cas_tree_path(t->store, &first.digest, path, sizeof(path));
        for (int damage = 0; damage < 3; damage++) {
                cas_cleanup_fd int fd = -1;
                teststore_reopen(t);
                assert_int_equal(chmod(path, 0600), 0);
                switch (damage) {
                case 0:
                        assert_int_equal(unlink(path), 0);
                        break;
                case 1:
                        assert_int_equal(truncate(path, 4000), 0);
                        break;
                default:
                        fd = open(path, O_WRONLY | O_CLOEXEC);
                        assert_int_equal(pwrite(fd, "?", 1, 2000), 1);
                }
                unsigned before = atomic_load(&c.listings_read);
                struct cas_tree_ref again = ensure(t->store, &c);
                assert_int_equal(atomic_load(&c.listings_read), before + 1);
                assert_memory_equal(&first, &again, sizeof(first));
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
                struct cas_digest digest;
                assert_int_equal(
                        cas_io_read_file(cas_io_posix(), AT_FDCWD, path, 1 << 20, &bytes, &err), 0);
                cas_digest_of(CAS_DIGEST_SHA256, bytes.data, bytes.len_bytes, &digest);
                assert_true(cas_digest_equal(&digest, &first.digest));
        }
}

static void file_that_vanishes_while_open_is_made_again(void **state)
{
        struct teststore *t = *state;
        struct chain c;
        char path[4096];
        CHAIN(&c, 0, "f a =x\n");
        struct cas_tree_ref first = ensure(t->store, &c);
        cas_tree_path(t->store, &first.digest, path, sizeof(path));
        assert_int_equal(unlink(path), 0);
        struct cas_tree_ref again = ensure(t->store, &c);
        assert_memory_equal(&first, &again, sizeof(first));
        assert_int_equal(access(path, R_OK), 0);
}

static void stacked_tree_differs_from_the_flat_one(void **state)
{
        struct teststore *t = *state;
        struct chain flat, base, top;
        char path[4096];
        CHAIN(&flat, 0, "f a =x\nf b/c =x\n", "f b/d =y\nw a\n");
        CHAIN(&base, 0, "f a =x\nf b/c =x\n");
        CHAIN(&top, 1, "f a =x\nf b/c =x\n", "f b/d =y\nw a\n");
        struct cas_tree_ref flat_ref = ensure(t->store, &flat);
        struct cas_tree_ref base_ref = ensure(t->store, &base);
        struct cas_tree_ref top_ref = ensure(t->store, &top);
        assert_false(cas_digest_equal(&flat_ref.digest, &base_ref.digest));
        assert_false(cas_digest_equal(&flat_ref.digest, &top_ref.digest));
        cas_tree_path(t->store, &top_ref.digest, path, sizeof(path));
        cas_cleanup_free char *text = text_of_file(path);
        assert_string_equal(text, "/ d 755 0 0 3 0.0 0\n/a w\n/b d 755 0 0 2 0.0 0\n"
                                  "/b/d f 644 0 0 1 0.0 1 \"y\"\n");
}

static void failure_leaves_nothing(void **state)
{
        struct teststore *t = *state;
        struct chain c;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_tree_ref ref;
        CHAIN(&c, 0, "f a =x\n", "h b gone below\n");
        assert_int_equal(cas_tree_ensure_chain(t->store, &c.chain, &ref, &err), -CAS_E_INVALID);
        assert_non_null(strstr(err.msg, "hard link to gone"));
        struct cas_err err2 = CAS_ERR_INIT;
        c.texts[1] = NULL;
        assert_int_equal(cas_tree_ensure_chain(t->store, &c.chain, &ref, &err2), -CAS_E_NOTFOUND);
        c.texts[1] = "f b =y\n";
        (void)ensure(t->store, &c); /* and nothing is in the way */
}

/* The tree lives by the blobs that were used last, whatever compressed them. */
static void record_follows_the_blobs_in_use(void **state)
{
        struct teststore *t = *state;
        struct chain c;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_hash key;
        struct cas_tree_record rec;
        CHAIN(&c, 0, "f a =x\n");
        (void)ensure(t->store, &c);
        cas_digest_of(CAS_DIGEST_SHA256, "other", 5, &c.layers[0].blob);
        (void)ensure(t->store, &c);
        assert_int_equal(atomic_load(&c.listings_read), 1);
        cas_tree_key(&c.chain, &key);
        assert_int_equal(cas_index_get_tree(t->store->index, &key, &rec, &err), 0);
        assert_int_equal(rec.layer_count, 1);
        assert_true(cas_digest_equal(&rec.layers[0], &c.layers[0].blob));
        free(rec.layers);
}

static void trees_tell_where_a_chain_is_cut(void **state)
{
        struct teststore *t = *state;
        struct chain c;
        struct cas_err err = CAS_ERR_INIT;
        size_t cut;
        bool found;
        CHAIN(&c, 2, "f a =1\n", "f b =1\n", "f c =1\n");
        assert_int_equal(cas_tree_find_cut(t->store, c.layers, 3, &cut, &found, &err), 0);
        assert_false(found);
        (void)ensure(t->store, &c);
        assert_int_equal(cas_tree_find_cut(t->store, c.layers, 3, &cut, &found, &err), 0);
        assert_true(found);
        assert_int_equal(cut, 2);
        assert_int_equal(cas_tree_find_cut(t->store, c.layers, 2, &cut, &found, &err), 0);
        assert_false(found);
        c.chain.base_count = 0;
        (void)ensure(t->store, &c);
        assert_int_equal(cas_tree_find_cut(t->store, c.layers, 3, &cut, &found, &err), 0);
        assert_true(found);
        assert_int_equal(cut, 2); /* as its uppers have it, though it was unpacked since */
}

struct job {
        struct cas_store *s;
        struct chain *c;
        struct cas_tree_ref ref;
        int rc;
};

static void *run_job(void *arg)
{
        struct job *j = arg;
        struct cas_err err = CAS_ERR_INIT;
        j->rc = cas_tree_ensure_chain(j->s, &j->c->chain, &j->ref, &err);
        return NULL;
}

static void concurrent_calls_make_it_once(void **state)
{
        struct teststore *t = *state;
        struct chain c;
        enum { THREADS = 8 };
        struct job jobs[THREADS];
        pthread_t threads[THREADS];
        CHAIN(&c, 0, "f a =x\n", "f b 100\n");
        for (int i = 0; i < THREADS; i++) {
                jobs[i] = (struct job){.s = t->store, .c = &c};
                assert_int_equal(pthread_create(&threads[i], NULL, run_job, &jobs[i]), 0);
        }
        for (int i = 0; i < THREADS; i++) {
                assert_int_equal(pthread_join(threads[i], NULL), 0);
                assert_int_equal(jobs[i].rc, 0);
                assert_memory_equal(&jobs[i].ref, &jobs[0].ref, sizeof(jobs[0].ref));
        }
        assert_int_equal(atomic_load(&c.listings_read), 2);
}

#define T(name) cmocka_unit_test_setup_teardown(name, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                T(is_made_and_found),
                cmocka_unit_test(order_and_cut_are_part_of_the_key),
                T(what_a_layer_claims_is_not_part_of_the_key),
                T(damaged_file_is_made_again),
                T(file_that_vanishes_while_open_is_made_again),
                T(stacked_tree_differs_from_the_flat_one),
                T(failure_leaves_nothing),
                T(record_follows_the_blobs_in_use),
                T(trees_tell_where_a_chain_is_cut),
                T(concurrent_calls_make_it_once),
        };
        return cmocka_run_group_tests_name("tree", tests, NULL, NULL);
}
