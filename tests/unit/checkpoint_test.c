/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cas/maintain.h"
#include "cas/removetree.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)
#define FILES 12

static struct testimage put(struct cas_store *s, const char *tag, unsigned seed)
{
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image;
        ok(testimage_put(s, "r", tag, seed, FILES, &image, &err));
        return image;
}

static void unlink_image(struct cas_store *s, const struct testimage *image)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(s, &p, &err));
        ok(cas_publish_manifest_unlink(p, "r", &image->manifest, &err));
        ok(cas_publish_commit(p, &err));
}

static void collect_all(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_gc_options options = {.live_percent_min = 99, .full = true};
        struct cas_gc_result r;
        ok(cas_gc(s, &options, NULL, &r, &err));
}

static void say(void *arg, enum cas_fsck_severity severity, const char *id, const char *subject,
                const char *message)
{
        (void)arg;
        if (severity != CAS_FSCK_NOTE)
                (void)fprintf(stderr, "%s %s: %s\n", id, subject, message);
}

static struct cas_store *open_copy(const char *path)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store *s = NULL;
        if (cas_store_open(&(struct cas_store_config){.path = path, .must_exist = true}, &s, &err) <
            0)
                fail_msg("%s", err.msg);
        return s;
}

static void expect_clean(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        ok(cas_fsck(s, NULL, NULL, say, NULL, &r, &err));
        assert_int_equal(r.errors, 0);
}

static void test_copy(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_checkpoint_result r;
        struct testimage one = put(t->store, "one", 1), two = put(t->store, "two", 7);
        cas_cleanup_free char *path = cas_xasprintf("%s/copy", t->dir);
        ok(cas_checkpoint(t->store, path, NULL, &r, &err));
        assert_true(r.files_linked >= 6); /* blobs */
        assert_true(r.files_copied >= 2); /* the pack that is written to, the journal */
        /* What happens to the store does not happen to the copy. */
        struct testimage three = put(t->store, "three", 20);
        unlink_image(t->store, &one);
        collect_all(t->store);
        struct cas_store *copy = open_copy(path);
        assert_true(testimage_is_whole(copy, &one, 1, FILES));
        assert_true(testimage_is_whole(copy, &two, 7, FILES));
        assert_false(test_has_blob(copy, &three.layer.blob));
        expect_clean(copy);
        /* And the other way round. */
        unlink_image(copy, &two);
        collect_all(copy);
        struct testimage four = put(copy, "four", 30);
        assert_true(testimage_is_whole(copy, &four, 30, FILES));
        cas_store_close(copy);
        assert_true(testimage_is_whole(t->store, &two, 7, FILES));
        assert_true(testimage_is_whole(t->store, &three, 20, FILES));
        expect_clean(t->store);
}

static void test_empty(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_checkpoint_result r;
        cas_cleanup_free char *path = cas_xasprintf("%s/copy", t->dir);
        ok(cas_checkpoint(t->store, path, NULL, &r, &err));
        struct cas_store *copy = open_copy(path);
        expect_clean(copy);
        struct testimage one = put(copy, "one", 1);
        assert_true(testimage_is_whole(copy, &one, 1, FILES));
        cas_store_close(copy);
}

static void test_copy_of_a_copy(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_checkpoint_result r;
        struct testimage one = put(t->store, "one", 1);
        teststore_reopen(t);
        cas_cleanup_free char *first = cas_xasprintf("%s/a", t->dir);
        cas_cleanup_free char *second = cas_xasprintf("%s/b", t->dir);
        ok(cas_checkpoint(t->store, first, NULL, &r, &err));
        struct cas_store *copy = open_copy(first);
        ok(cas_checkpoint(copy, second, NULL, &r, &err));
        cas_store_close(copy);
        copy = open_copy(second);
        assert_string_equal(cas_store_id(copy), cas_store_id(t->store));
        assert_true(testimage_is_whole(copy, &one, 1, FILES));
        expect_clean(copy);
        cas_store_close(copy);
}

static void test_refusals(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_checkpoint_result r;
        cas_cleanup_free char *inside = cas_xasprintf("%s/copy", t->path);
        cas_cleanup_free char *full = cas_xasprintf("%s/full", t->dir);
        cas_cleanup_free char *file = cas_xasprintf("%s/full/file", t->dir);
        assert_int_equal(cas_checkpoint(t->store, inside, NULL, &r, &err), -CAS_E_INVALID);
        ok(mkdir(full, 0700));
        FILE *f = fopen(file, "w");
        assert_non_null(f);
        (void)fclose(f);
        assert_int_equal(cas_checkpoint(t->store, full, NULL, &r, &err), -CAS_E_EXISTS);
        assert_int_equal(cas_checkpoint(t->store, t->path, NULL, &r, &err), -CAS_E_BUSY);
        expect_clean(t->store);
}

/* To another file system nothing can be linked. */
static void test_other_file_system(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_checkpoint_result r;
        struct stat here, there;
        char path[] = "/dev/shm/lamina-checkpoint-XXXXXX";
        if (stat(t->dir, &here) != 0 || stat("/dev/shm", &there) != 0 ||
            here.st_dev == there.st_dev)
                skip();
        assert_non_null(mkdtemp(path));
        struct testimage one = put(t->store, "one", 1);
        ok(cas_checkpoint(t->store, path, NULL, &r, &err));
        assert_int_equal(r.files_linked, 0);
        struct cas_store *copy = open_copy(path);
        assert_true(testimage_is_whole(copy, &one, 1, FILES));
        expect_clean(copy);
        cas_store_close(copy);
        ok(cas_remove_tree(path, &err));
}

struct traffic {
        struct cas_store *store;
        _Atomic bool stop;
        _Atomic unsigned kept; /* images "keep-N" below this are acknowledged */
};

static void *publish_on(void *arg)
{
        struct traffic *traffic = arg;
        for (unsigned i = 0; !traffic->stop; i++) {
                cas_cleanup_free char *keep = cas_xasprintf("keep-%u", i);
                cas_cleanup_free char *lose = cas_xasprintf("lose-%u", i);
                (void)put(traffic->store, keep, 1000 + i);
                traffic->kept = i + 1;
                struct testimage gone = put(traffic->store, lose, 100000 + 3 * i);
                unlink_image(traffic->store, &gone);
        }
        return NULL;
}

static void *collect_on(void *arg)
{
        struct traffic *traffic = arg;
        while (!traffic->stop)
                collect_all(traffic->store);
        return NULL;
}

static bool image_seen(void *arg, const char *tag, const struct cas_digest *manifest)
{
        (void)manifest;
        *(unsigned *)arg += strncmp(tag, "keep-", 5) == 0;
        return true;
}

static void test_beside_others(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct traffic traffic = {.store = t->store};
        pthread_t publisher, collector;
        ok(pthread_create(&publisher, NULL, publish_on, &traffic));
        ok(pthread_create(&collector, NULL, collect_on, &traffic));
        for (unsigned i = 0; i < 6; i++) {
                cas_cleanup_free char *path = cas_xasprintf("%s/copy-%u", t->dir, i);
                struct cas_checkpoint_result r;
                unsigned before = traffic.kept, seen = 0;
                ok(cas_checkpoint(t->store, path, NULL, &r, &err));
                struct cas_store *copy = open_copy(path);
                expect_clean(copy);
                ok(cas_tag_each(copy, "r", NULL, image_seen, &seen, &err));
                assert_true(seen >= before);
                cas_store_close(copy);
                ok(cas_remove_tree(path, &err));
        }
        traffic.stop = true;
        ok(pthread_join(publisher, NULL));
        ok(pthread_join(collector, NULL));
        expect_clean(t->store);
}

#define with_store(f) cmocka_unit_test_setup_teardown(f, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                with_store(test_copy),
                with_store(test_empty),
                with_store(test_copy_of_a_copy),
                with_store(test_refusals),
                with_store(test_other_file_system),
                with_store(test_beside_others),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
