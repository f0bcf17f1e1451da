/* SPDX-License-Identifier: Apache-2.0 */
/* What lamina.json of an upper directory says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cas/removetree.h"
#include "fusefs/binding_int.h"

static struct ffs_binding sample(void)
{
        struct ffs_binding b = {.tree_count = 2,
                                .options = "a=b",
                                .format = FFS_UPPER_USER,
                                .owners_in_xattrs = true,
                                .id_map = "0:1000:1;0:1000:1",
                                .size_limit_bytes = 1 << 30,
                                .has_image = true,
                                .name = "web:1"};
        cas_digest_of(CAS_DIGEST_SHA256, "one", 3, &b.trees[0]);
        cas_digest_of(CAS_DIGEST_SHA256, "two", 3, &b.trees[1]);
        cas_digest_of(CAS_DIGEST_SHA256, "m", 1, &b.manifest);
        return b;
}

static int parse(const char *text, struct ffs_binding *out)
{
        struct cas_err err = CAS_ERR_INIT;
        return ffs_binding_parse(text, strlen(text), out, &err);
}

static void all_of_it_is_read_back(void **state CAS_UNUSED)
{
        struct ffs_binding want = sample(), got;
        cas_cleanup_free char *text = ffs_binding_format(&want);
        assert_int_equal(parse(text, &got), 0);
        assert_true(ffs_binding_fits(&got, &want));
        assert_true(got.has_image);
        assert_string_equal(got.name, want.name);
        assert_true(cas_digest_equal(&got.manifest, &want.manifest));
}

#define TREE "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"

static void older_ones_are_read(void **state CAS_UNUSED)
{
        struct ffs_binding b;
        assert_int_equal(parse("{\"version\":1,\"options\":\"o\",\"trees\":[\"" TREE "\"]}", &b),
                         0);
        assert_int_equal(b.tree_count, 1);
        assert_int_equal(b.format, FFS_UPPER_TRUSTED);
        assert_int_equal(b.manifest.alg, CAS_DIGEST_NONE);
        assert_string_equal(b.name, "");
        assert_int_equal(b.size_limit_bytes, 0);
}

static void what_binds_must_be_equal(void **state CAS_UNUSED)
{
        const struct ffs_binding have = sample();
        struct ffs_binding b = have;
        (void)snprintf(b.name, sizeof(b.name), "other");
        b.manifest = b.trees[0];
        b.size_limit_bytes = 0;
        b.id_map[0] = '\0'; /* owners of the image are on the disk, whatever is shown */
        assert_true(ffs_binding_fits(&have, &b));
        b.size_limit_bytes = 1;
        assert_false(ffs_binding_fits(&have, &b));
        b = have;
        b.trees[1] = b.trees[0];
        assert_false(ffs_binding_fits(&have, &b));
        b = have;
        b.tree_count = 1;
        assert_false(ffs_binding_fits(&have, &b));
        b = have;
        b.format = FFS_UPPER_TRUSTED;
        assert_false(ffs_binding_fits(&have, &b));
        b = have;
        b.owners_in_xattrs = false;
        assert_false(ffs_binding_fits(&have, &b));
}

static void other_texts_are_refused(void **state CAS_UNUSED)
{
        static const char *const texts[] = {
                "",
                "[]",
                "{}",
                "{\"version\":2,\"options\":\"o\",\"trees\":[\"" TREE "\"]}",
                "{\"version\":1,\"options\":\"o\",\"trees\":[]}",
                "{\"version\":1,\"options\":\"o\",\"trees\":[\"sha256:2c\"]}",
                "{\"version\":1,\"options\":7,\"trees\":[\"" TREE "\"]}",
                "{\"version\":1,\"trees\":[\"" TREE "\"]}",
                "{\"version\":1,\"options\":\"o\",\"trees\":[\"" TREE "\"],\"format\":\"x\"}",
                "{\"version\":1,\"options\":\"o\",\"trees\":[\"" TREE "\"],\"size\":-1}",
                "{\"version\":1,\"options\":\"o\",\"trees\":[\"" TREE "\"],\"image\":1}",
                "{\"version\":1,\"options\":\"o\",\"trees\":[\"" TREE "\"],\"manifest\":1}",
                "{\"version\":1,\"options\":\"o\",\"trees\":[\"" TREE "\"],\"version\":1}",
        };
        for (size_t i = 0; i < CAS_COUNT(texts); i++) {
                struct ffs_binding b;
                assert_int_equal(parse(texts[i], &b), -CAS_E_INVALID);
        }
}

static void only_regular_files_are_read(void **state CAS_UNUSED)
{
        char dir[] = "/tmp/lamina-binding-XXXXXX";
        assert_non_null(mkdtemp(dir));
        cas_cleanup_fd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct ffs_binding b;
        struct cas_err absent = CAS_ERR_INIT, fifo = CAS_ERR_INIT, link = CAS_ERR_INIT;
        assert_int_equal(ffs_binding_read(fd, &b, &absent), -CAS_E_NOTFOUND);
        assert_int_equal(mkfifoat(fd, FFS_BINDING_NAME, 0600), 0);
        assert_int_equal(ffs_binding_read(fd, &b, &fifo), -CAS_E_INVALID);
        assert_int_equal(unlinkat(fd, FFS_BINDING_NAME, 0), 0);
        assert_int_equal(symlinkat("/etc/passwd", fd, FFS_BINDING_NAME), 0);
        assert_int_equal(ffs_binding_read(fd, &b, &link), -CAS_E_INVALID);
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(cas_remove_tree(dir, &err), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(all_of_it_is_read_back),
                cmocka_unit_test(older_ones_are_read),
                cmocka_unit_test(what_binds_must_be_equal),
                cmocka_unit_test(other_texts_are_refused),
                cmocka_unit_test(only_regular_files_are_read),
        };
        return cmocka_run_group_tests_name("binding", tests, NULL, NULL);
}
