/* SPDX-License-Identifier: Apache-2.0 */
/* The node table: what it remembers, and that a successor finds it whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "fusefs/nodes_int.h"

struct table {
        int fd;
        struct ffs_nodes *n;
};

static void table_open(struct table *t)
{
        struct cas_err err = CAS_ERR_INIT;
        if (ffs_nodes_open(t->fd, &t->n, &err) < 0)
                fail_msg("%s", err.msg);
}

static void table_new(struct table *t)
{
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(ffs_nodes_state_create(&t->fd, &err), 0);
        table_open(t);
}

/* As a successor finds it. */
static void table_again(struct table *t)
{
        ffs_nodes_close(t->n);
        table_open(t);
}

static void table_free(struct table *t)
{
        ffs_nodes_close(t->n);
        (void)close(t->fd);
}

static struct ffs_node add(struct table *t, const struct ffs_node *what)
{
        struct ffs_node out;
        assert_int_equal(ffs_nodes_intern(t->n, what, 1, &out), 0);
        return out;
}

static struct ffs_node root_of(struct table *t, uint32_t volume)
{
        struct ffs_node root = {.volume = volume,
                                .flags = FFS_NODE_IS_ROOT | FFS_NODE_HAS_UPPER,
                                .vid = 1,
                                .ino = 1,
                                .type = S_IFDIR};
        assert_int_equal(ffs_nodes_intern(t->n, &root, 0, &root), 0);
        return root;
}

static struct ffs_node dir_in(const struct ffs_node *parent, const char *name)
{
        struct ffs_node dir = {.volume = parent->volume,
                               .parent = parent->id,
                               .vid = FFS_VID_NONE,
                               .flags = FFS_NODE_HAS_UPPER,
                               .ino = 2,
                               .type = S_IFDIR};
        (void)snprintf(dir.name, sizeof(dir.name), "%s", name);
        return dir;
}

static struct ffs_node file_in(const struct ffs_node *parent, const char *name, uint64_t upper_ino)
{
        struct ffs_node file = dir_in(parent, name);
        file.type = S_IFREG;
        file.upper_ino = upper_ino;
        return file;
}

static void count_gone(void *arg, const struct ffs_node *node CAS_UNUSED)
{
        (*(size_t *)arg)++;
}

static void inodes_are_found_again(void **state CAS_UNUSED)
{
        struct table t;
        struct ffs_node got, root, dir, file, other, lower;
        char name[256];
        memset(name, 'n', 255);
        name[255] = '\0';
        table_new(&t);
        root = root_of(&t, 7);
        struct ffs_node what = dir_in(&root, name);
        dir = add(&t, &what);
        what = file_in(&dir, "file", 500);
        file = add(&t, &what);
        what = file_in(&dir, "lower", 0);
        what.flags = FFS_NODE_DATA_LOWER;
        what.vid = 99;
        lower = add(&t, &what);
        /* Another name of the same inode is the same node; the same number elsewhere is not. */
        what = file_in(&root, "link", 500);
        other = add(&t, &what);
        assert_true(other.id == file.id);
        assert_string_equal(other.name, "file");
        what.volume = 8;
        what.parent = root_of(&t, 8).id;
        assert_true(add(&t, &what).id != file.id);
        for (int i = 0; i < 2; i++) {
                assert_true(ffs_nodes_find_dir(t.n, root.id, name, &got));
                assert_true(got.id == dir.id);
                assert_string_equal(got.name, name);
                assert_false(ffs_nodes_find_dir(t.n, dir.id, name, &got));
                assert_true(ffs_nodes_find_upper(t.n, 7, 500, &got));
                assert_true(got.id == file.id && got.parent == dir.id);
                assert_true(ffs_nodes_find_vid(t.n, 7, 99, &got));
                assert_true(got.id == lower.id);
                assert_false(ffs_nodes_find_vid(t.n, 8, 99, &got));
                assert_int_equal(ffs_nodes_lookups(t.n, file.id), 2);
                table_again(&t);
        }
        table_free(&t);
}

static void parents_stay_while_they_are_named(void **state CAS_UNUSED)
{
        struct table t;
        size_t gone = 0;
        struct ffs_node got;
        table_new(&t);
        struct ffs_node root = root_of(&t, 1), what = dir_in(&root, "d"), dir = add(&t, &what);
        what = file_in(&dir, "f", 5);
        struct ffs_node file = add(&t, &what);
        ffs_nodes_forget(t.n, dir.id, 1, count_gone, &gone);
        assert_int_equal(gone, 0);
        assert_true(ffs_nodes_get(t.n, dir.id, &got));
        ffs_nodes_forget(t.n, file.id, 1, count_gone, &gone);
        assert_int_equal(gone, 2);
        assert_false(ffs_nodes_get(t.n, dir.id, &got));
        assert_false(ffs_nodes_get(t.n, file.id, &got));
        assert_int_equal(ffs_nodes_count(t.n), 1);
        /* The slot is used again, the id is not. */
        what = dir_in(&root, "d");
        assert_true(add(&t, &what).id != dir.id);
        table_free(&t);
}

static void changes_are_remembered(void **state CAS_UNUSED)
{
        struct table t;
        struct stat st = {.st_mode = S_IFREG | 0640,
                          .st_uid = 3,
                          .st_gid = 4,
                          .st_size = 1234,
                          .st_mtim = {5, 6}};
        struct stat kept;
        struct ffs_node got;
        table_new(&t);
        struct ffs_node root = root_of(&t, 1), what = dir_in(&root, "d"), dir = add(&t, &what);
        what = file_in(&root, "f", 5);
        struct ffs_node file = add(&t, &what);
        file.parent = dir.id;
        memset(file.name, 'x', 200);
        file.name[200] = '\0';
        assert_int_equal(ffs_nodes_update(t.n, &file, NULL), 0);
        table_again(&t);
        assert_true(ffs_nodes_get(t.n, file.id, &got));
        assert_string_equal(got.name, file.name);
        assert_true(got.parent == dir.id);
        assert_false(ffs_nodes_attr(t.n, file.id, &kept));
        file.flags = FFS_NODE_ORPHAN;
        file.parent = 0;
        assert_int_equal(ffs_nodes_update(t.n, &file, &st), 0);
        table_again(&t);
        assert_false(ffs_nodes_find_upper(t.n, 1, 5, &got));
        assert_true(ffs_nodes_attr(t.n, file.id, &kept));
        assert_int_equal(kept.st_mode, st.st_mode);
        assert_int_equal(kept.st_uid, 3);
        assert_int_equal(kept.st_size, 1234);
        assert_int_equal(kept.st_mtim.tv_nsec, 6);
        table_free(&t);
}

static void a_successor_stands_for_the_old_node(void **state CAS_UNUSED)
{
        struct table t;
        size_t gone = 0;
        struct ffs_node got, made;
        table_new(&t);
        struct ffs_node root = root_of(&t, 1), what = file_in(&root, "f", 5);
        what.flags |= FFS_NODE_DATA_LOWER;
        what.vid = 77;
        struct ffs_node old = add(&t, &what);
        what.flags = FFS_NODE_HAS_UPPER;
        what.vid = FFS_VID_NONE;
        assert_int_equal(ffs_nodes_supersede(t.n, old.id, &what, &made), 0);
        for (int i = 0; i < 2; i++) {
                assert_true(ffs_nodes_get(t.n, old.id, &got));
                assert_true(got.flags & FFS_NODE_SUPERSEDED && got.successor == made.id);
                assert_true(got.vid == 77);
                assert_true(ffs_nodes_find_upper(t.n, 1, 5, &got));
                assert_true(got.id == made.id);
                table_again(&t);
        }
        assert_true(add(&t, &what).id == made.id);
        ffs_nodes_forget(t.n, made.id, 1, count_gone, &gone);
        assert_int_equal(gone, 0);
        ffs_nodes_forget(t.n, old.id, 1, count_gone, &gone);
        assert_int_equal(gone, 2);
        table_free(&t);
}

static bool count_one(void *arg, const struct ffs_node *node CAS_UNUSED, uint64_t lookups)
{
        *(uint64_t *)arg += lookups;
        return true;
}

static void a_volume_goes_alone(void **state CAS_UNUSED)
{
        struct table t;
        uint64_t lookups = 0;
        table_new(&t);
        struct ffs_node one = root_of(&t, 1), two = root_of(&t, 2);
        for (uint64_t i = 1; i <= 1000; i++) {
                char name[100];
                (void)snprintf(name, sizeof(name), "%090u", (unsigned)i);
                struct ffs_node what = file_in(i % 2 ? &one : &two, name, i);
                (void)add(&t, &what);
        }
        assert_int_equal(ffs_nodes_count(t.n), 1002);
        ffs_nodes_drop_volume(t.n, 1);
        assert_int_equal(ffs_nodes_count(t.n), 501);
        ffs_nodes_each(t.n, 1, count_one, &lookups);
        assert_int_equal(lookups, 0);
        ffs_nodes_each(t.n, 2, count_one, &lookups);
        assert_int_equal(lookups, 500);
        table_again(&t);
        assert_int_equal(ffs_nodes_count(t.n), 501);
        static const uint32_t there[] = {7, 2, 9};
        ffs_nodes_drop_others(t.n, there, CAS_COUNT(there));
        assert_int_equal(ffs_nodes_count(t.n), 501);
        ffs_nodes_drop_others(t.n, there, 1);
        assert_int_equal(ffs_nodes_count(t.n), 0);
        table_free(&t);
}

/* ---- killed at any instant ---- */

#define KILLS 60
#define FILES 40

/* Renames files to and fro for ever: each is "a<i>…" in one directory or "b<i>…" in the other. */
static void rename_for_ever(int fd, uint64_t root)
{
        struct table t = {.fd = fd};
        struct ffs_node dirs[2];
        table_open(&t);
        assert_true(ffs_nodes_find_dir(t.n, root, "one", &dirs[0]));
        assert_true(ffs_nodes_find_dir(t.n, root, "two", &dirs[1]));
        for (unsigned round = (unsigned)getpid();; round++)
                for (uint64_t i = 0; i < FILES; i++) {
                        struct ffs_node f;
                        assert_true(ffs_nodes_find_upper(t.n, 9, i + 1, &f));
                        int which = (round + i) % 2;
                        f.parent = dirs[which].id;
                        (void)snprintf(f.name, sizeof(f.name), "%c%0*u", 'a' + which,
                                       which ? 150 : 3, (unsigned)i);
                        assert_int_equal(ffs_nodes_update(t.n, &f, NULL), 0);
                        /* And something comes and goes. */
                        struct ffs_node what = file_in(&dirs[which], f.name, 1000 + i), out;
                        assert_int_equal(ffs_nodes_intern(t.n, &what, 1, &out), 0);
                        ffs_nodes_forget(t.n, out.id, 1, count_gone, &(size_t){0});
                }
}

static void expect_whole(struct table *t, uint64_t root)
{
        struct ffs_node dirs[2];
        assert_true(ffs_nodes_find_dir(t->n, root, "one", &dirs[0]));
        assert_true(ffs_nodes_find_dir(t->n, root, "two", &dirs[1]));
        for (uint64_t i = 0; i < FILES; i++) {
                struct ffs_node f;
                char expected[256];
                assert_true(ffs_nodes_find_upper(t->n, 9, i + 1, &f));
                int which = f.name[0] - 'a';
                assert_in_range(which, 0, 1);
                (void)snprintf(expected, sizeof(expected), "%c%0*u", 'a' + which, which ? 150 : 3,
                               (unsigned)i);
                assert_string_equal(f.name, expected);
                assert_true(f.parent == dirs[which].id);
                assert_int_equal(ffs_nodes_lookups(t->n, f.id), 1);
        }
}

static void records_are_whole_after_a_kill(void **state CAS_UNUSED)
{
        struct table t;
        table_new(&t);
        struct ffs_node root = root_of(&t, 9), what = dir_in(&root, "one"), one = add(&t, &what);
        what = dir_in(&root, "two");
        (void)add(&t, &what);
        for (unsigned i = 0; i < FILES; i++) {
                what = file_in(&one, "", i + 1);
                (void)snprintf(what.name, sizeof(what.name), "a%03u", i);
                (void)add(&t, &what);
        }
        for (int i = 0; i < KILLS; i++) {
                ffs_nodes_close(t.n);
                pid_t pid = fork();
                assert_true(pid >= 0);
                if (pid == 0) {
                        rename_for_ever(t.fd, root.id);
                        _exit(1);
                }
                struct timespec wait = {.tv_nsec = 1000000 + i * 100003};
                (void)nanosleep(&wait, NULL);
                (void)kill(pid, SIGKILL);
                (void)waitpid(pid, NULL, 0);
                table_open(&t);
                expect_whole(&t, root.id);
        }
        /* Nothing was lost either. */
        assert_in_range(ffs_nodes_count(t.n), FILES + 3, FILES + 3 + KILLS);
        table_free(&t);
}

static void damage_is_refused(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_nodes *n;
        int fd;
        assert_int_equal(ffs_nodes_state_create(&fd, &err), 0);
        uint32_t version = 99;
        assert_int_equal(pwrite(fd, &version, 4, 8), 4);
        assert_int_equal(ffs_nodes_open(fd, &n, &err), -CAS_E_UNSUPPORTED);
        assert_int_equal(pwrite(fd, &version, 4, 0), 4);
        assert_int_equal(ffs_nodes_open(fd, &n, &err), -CAS_E_CORRUPT);
        assert_int_equal(ftruncate(fd, 100), 0);
        assert_int_equal(ffs_nodes_open(fd, &n, &err), -CAS_E_CORRUPT);
        (void)close(fd);
}

/* What is forgotten one after the other is not looked through again each time. */
static void who_is_known_is_known(void **state CAS_UNUSED)
{
        struct table t;
        uint32_t at = 0;
        size_t gone = 0;
        table_new(&t);
        struct ffs_node root = root_of(&t, 1), other = root_of(&t, 2), nodes[50];
        assert_false(ffs_nodes_any_known(t.n, 1, &at)); /* the root is not asked for */
        for (unsigned i = 0; i < CAS_COUNT(nodes); i++) {
                char name[16];
                (void)snprintf(name, sizeof(name), "f%u", i);
                struct ffs_node what = file_in(&root, name, 100 + i);
                nodes[i] = add(&t, &what);
        }
        for (unsigned i = 0; i < CAS_COUNT(nodes); i++) {
                assert_true(ffs_nodes_any_known(t.n, 1, &at));
                ffs_nodes_forget(t.n, nodes[i * 7 % CAS_COUNT(nodes)].id, 1, count_gone, &gone);
        }
        assert_int_equal(gone, CAS_COUNT(nodes));
        assert_false(ffs_nodes_any_known(t.n, 1, &at));
        struct ffs_node what = file_in(&other, "theirs", 1);
        (void)add(&t, &what);
        assert_false(ffs_nodes_any_known(t.n, 1, &at));
        assert_true(ffs_nodes_any_known(t.n, 2, &at));
        table_free(&t);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(inodes_are_found_again),
                cmocka_unit_test(parents_stay_while_they_are_named),
                cmocka_unit_test(changes_are_remembered),
                cmocka_unit_test(a_successor_stands_for_the_old_node),
                cmocka_unit_test(a_volume_goes_alone),
                cmocka_unit_test(who_is_known_is_known),
                cmocka_unit_test(records_are_whole_after_a_kill),
                cmocka_unit_test(damage_is_refused),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
