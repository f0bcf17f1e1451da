/* SPDX-License-Identifier: Apache-2.0 */
/* What an upper directory made by hand says of a view. What kernel overlayfs makes:
 * tests/sys/sandbox_changes.py. Needs root, for trusted.* and devices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "cas/path.h"
#include "fusefs/changes_int.h"
#include "tests/support/scratch.h"
#include "tests/support/view_text.h"

#define LAYERS(...) ((const char *const[]){__VA_ARGS__, NULL})

struct fixture {
        char *scratch;
        int dir_fd, upper_fd;
        struct ffs_upperlayer_config config;
        struct ffs_view *view;
};

static int setup(void **state)
{
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        f->scratch = scratch_new();
        f->dir_fd = open(f->scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(mkdirat(f->dir_fd, "upper", 0755), 0);
        f->upper_fd = openat(f->dir_fd, "upper", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(f->upper_fd >= 0);
        f->config = (struct ffs_upperlayer_config){
                .dir_fd = f->dir_fd, .format = FFS_UPPER_TRUSTED, .read_only = true};
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        ffs_view_unref(f->view);
        (void)close(f->upper_fd);
        (void)close(f->dir_fd);
        scratch_free(f->scratch);
        free(f);
        return 0;
}

/* ---- words of the tests ---- */

static void below(struct fixture *f, const char *const *layers, size_t base)
{
        struct cas_err err = CAS_ERR_INIT;
        if (view_of_text(layers, base, &f->view, &err) < 0)
                fail_msg("%s", err.msg);
}

/* Of a root as the view's is: nothing of it is told. */
static void same_root(struct fixture *f)
{
        const struct timespec times[2] = {{0}};
        assert_int_equal(fchmod(f->upper_fd, 0755), 0);
        assert_int_equal(futimens(f->upper_fd, times), 0);
}

static void touch(struct fixture *f, const char *path)
{
        const struct timespec times[2] = {{0}};
        assert_int_equal(utimensat(f->upper_fd, path, times, AT_SYMLINK_NOFOLLOW), 0);
}

static void make_dir(struct fixture *f, const char *path)
{
        assert_int_equal(mkdirat(f->upper_fd, path, 0755), 0);
        assert_int_equal(fchmodat(f->upper_fd, path, 0755, 0), 0);
}

static void make_file(struct fixture *f, const char *path, const char *text)
{
        cas_cleanup_fd int fd =
                openat(f->upper_fd, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static void whiteout(struct fixture *f, const char *path)
{
        assert_int_equal(mknodat(f->upper_fd, path, S_IFCHR, makedev(0, 0)), 0);
}

static void mark(struct fixture *f, const char *path, const char *name, const char *value)
{
        cas_cleanup_free char *full = cas_xasprintf("/proc/self/fd/%d/%s", f->upper_fd, path);
        assert_int_equal(lsetxattr(full, name, value, strlen(value), 0), 0);
}

struct told {
        struct cas_buf text;
        char last[4096];
        unsigned until; /* changes that are taken; 0: all */
};

static int tell(void *arg, const struct ffs_change *change, struct cas_err *err)
{
        static const char letters[] = "AMD";
        struct told *t = arg;
        const struct cas_entry *e = change->entry;
        assert_true(t->text.len_bytes == 0 || cas_path_compare(t->last, e->path) < 0);
        (void)snprintf(t->last, sizeof(t->last), "%s", e->path);
        cas_buf_printf(&t->text, "%c /%s %d", letters[change->kind], e->path, e->type);
        if (e->opaque)
                cas_buf_append_str(&t->text, " opaque");
        if (e->target)
                cas_buf_printf(&t->text, " -> %s", e->target);
        if (change->kind == FFS_CHANGE_DELETED)
                assert_int_equal(e->type, CAS_ENTRY_WHITEOUT);
        if (change->data == FFS_CHANGE_IN_UPPER) {
                char data[256] = "";
                ssize_t n = read(change->fd, data, sizeof(data) - 1);
                assert_int_equal(n, e->size_bytes);
                cas_buf_printf(&t->text, " \"%s\"", data);
        }
        if (change->data == FFS_CHANGE_IN_OBJECT)
                cas_buf_printf(&t->text, " below:%llu", (unsigned long long)e->size_bytes);
        if (e->uid || e->gid)
                cas_buf_printf(&t->text, " %u:%u", e->uid, e->gid);
        for (size_t i = 0; i < e->xattr_count; i++)
                cas_buf_printf(&t->text, " %s", e->xattrs[i].name);
        cas_buf_append_byte(&t->text, '\n');
        return --t->until == 0 ? cas_fail(err, CAS_E_NOMEM, "enough") : 0;
}

static int walk(struct fixture *f, const struct ffs_changes_options *options, struct told *told,
                struct cas_err *err)
{
        struct ffs_changes_source source = {.view = f->view};
        assert_int_equal(ffs_upperlayer_open(&f->config, &source.upper), 0);
        int rc = ffs_changes_walk(&source, options, tell, told, err);
        ffs_upperlayer_close(source.upper);
        return rc;
}

static void expect_with(struct fixture *f, const struct ffs_changes_options *options,
                        const char *text)
{
        struct cas_err err = CAS_ERR_INIT;
        struct told told = {0};
        if (walk(f, options, &told, &err) < 0)
                fail_msg("%s", err.msg);
        assert_string_equal(cas_buf_str(&told.text), text);
        cas_buf_release(&told.text);
}

static void expect(struct fixture *f, const char *text)
{
        expect_with(f, &(struct ffs_changes_options){0}, text);
}

static void expect_error(struct fixture *f, enum cas_code code)
{
        struct cas_err err = CAS_ERR_INIT;
        struct told told = {0};
        assert_int_equal(walk(f, &(struct ffs_changes_options){0}, &told, &err), -(int)code);
        cas_buf_release(&told.text);
}

/* ---- cases ---- */

static void names_are_added_changed_and_deleted(void **state)
{
        struct fixture *f = *state;
        below(f, LAYERS("d a 755\nf a/x =1\nf a/y =2\nd b 755\nf b/z =3\nf gone =4\n"), 0);
        make_dir(f, "a");
        make_file(f, "a/x", "new");
        make_file(f, "a/n", "");
        whiteout(f, "a/y");
        whiteout(f, "a/never");
        whiteout(f, "gone");
        make_dir(f, "b");
        touch(f, "b");
        same_root(f);
        expect(f, "M /a 1\nA /a/n 2 \"\"\nM /a/x 2 \"new\"\nD /a/y 9\nD /gone 9\n");
        touch(f, "a");
        expect(f, "A /a/n 2 \"\"\nM /a/x 2 \"new\"\nD /a/y 9\nD /gone 9\n");
        expect_with(
                f, &(struct ffs_changes_options){.with_unchanged_directories = true},
                "M / 1\nM /a 1\nA /a/n 2 \"\"\nM /a/x 2 \"new\"\nD /a/y 9\nM /b 1\nD /gone 9\n");
        mark(f, "b", "user.k", "v");
        expect(f, "A /a/n 2 \"\"\nM /a/x 2 \"new\"\nD /a/y 9\nM /b 1 user.k\nD /gone 9\n");
}

static void opaque_directories_hide(void **state)
{
        struct fixture *f = *state;
        below(f,
              LAYERS("d d 755\nf d/a =1\nd d/e 755\nf d/e/f =2\nf d/e/g =3\nd d/h 755\nf d/h/i "
                     "=4\n"),
              0);
        make_dir(f, "d");
        mark(f, "d", "trusted.overlay.opaque", "y");
        make_dir(f, "d/e");
        make_file(f, "d/e/g", "x");
        make_dir(f, "new");
        mark(f, "new", "trusted.overlay.opaque", "y");
        same_root(f);
        expect(f, "M /d 1 opaque\nM /d/e 1\nM /d/e/g 2 \"x\"\nA /new 1\n");
        expect_with(
                f, &(struct ffs_changes_options){.explicit_deletions = true},
                "M /d 1\nD /d/a 9\nM /d/e 1\nD /d/e/f 9\nM /d/e/g 2 \"x\"\nD /d/h 9\nA /new 1\n");
}

static void moved_directories_are_listed_whole(void **state)
{
        struct fixture *f = *state;
        static const char text[] = "D /d 9\nD /m 9\nA /moved 1\nA /moved/a 2 below:100\n"
                                   "A /moved/e 1\nA /moved/e/f 2 below:1\nA /moved/e/new 2 \"n\"\n"
                                   "M /over 1 opaque\nA /over/m 2 below:2\n";
        below(f,
              LAYERS("d d 755\nf d/a 100\nf d/b =1\nd d/e 755\nf d/e/f =1\nd over 755\nf over/old "
                     "=1\n",
                     "d m 755\nf m/m =22\n"),
              1);
        whiteout(f, "d");
        whiteout(f, "m");
        make_dir(f, "moved");
        mark(f, "moved", "trusted.overlay.redirect", "/d");
        whiteout(f, "moved/b");
        make_dir(f, "moved/e");
        make_file(f, "moved/e/new", "n");
        make_dir(f, "over");
        mark(f, "over", "trusted.overlay.redirect", "m");
        same_root(f);
        expect(f, text);
}

static void hard_links_stay_together(void **state)
{
        struct fixture *f = *state;
        below(f,
              LAYERS("f a 100\nh b a\nd d 755\nh d/c a\nd e 755\nf e/x 70\nh e/y e/x\nf z 80\nh zz "
                     "z\n"),
              0);
        make_dir(f, "moved");
        mark(f, "moved", "trusted.overlay.redirect", "/d");
        whiteout(f, "d");
        make_file(f, "m1", "same");
        assert_int_equal(linkat(f->upper_fd, "m1", f->upper_fd, "moved/m2", 0), 0);
        same_root(f);
        /* A name of the group moves, so that all of it is listed; others are left alone. */
        expect(f, "M /a 2 below:100\nM /b 8 -> a\nD /d 9\nA /m1 2 \"same\"\nA /moved 1\n"
                  "A /moved/c 8 -> a\nA /moved/m2 8 -> m1\n");
}

static void metacopies_have_their_data_below(void **state)
{
        struct fixture *f = *state;
        below(f, LAYERS("f a 100\nf b 200\nd d 755\nf d/c =123\n"), 0);
        make_file(f, "a", "");
        cas_cleanup_fd int fd = openat(f->upper_fd, "a", O_WRONLY | O_CLOEXEC);
        assert_int_equal(ftruncate(fd, 100), 0);
        mark(f, "a", "trusted.overlay.metacopy", "");
        assert_int_equal(fchownat(f->upper_fd, "a", 5, 6, 0), 0);
        whiteout(f, "b");
        make_file(f, "n", "");
        cas_cleanup_fd int moved = openat(f->upper_fd, "n", O_WRONLY | O_CLOEXEC);
        assert_int_equal(ftruncate(moved, 200), 0);
        mark(f, "n", "trusted.overlay.metacopy", "");
        mark(f, "n", "trusted.overlay.redirect", "/b");
        make_file(f, "o", "abc");
        mark(f, "o", "trusted.overlay.metacopy", "");
        mark(f, "o", "trusted.overlay.redirect", "/d/c");
        same_root(f);
        expect(f, "M /a 2 below:100 5:6\nD /b 9\nA /n 2 below:200\nA /o 2 below:3\n");
}

static void whiteouts_by_xattr_and_owners_aside(void **state)
{
        struct fixture *f = *state;
        f->config.format = FFS_UPPER_USER;
        f->config.owners_in_xattrs = true;
        below(f, LAYERS("d d 755\nf d/a =1\nf d/b =2\n"), 0);
        make_dir(f, "d");
        mark(f, "d", "user.overlay.opaque", "x");
        mark(f, "d", "user.containers.override_stat", "7:8:0755");
        make_file(f, "d/a", "");
        mark(f, "d/a", "user.overlay.whiteout", "y");
        make_file(f, "d/b", "text");
        mark(f, "d/b", "user.containers.override_stat", "9:10:04755");
        same_root(f);
        expect(f, "M /d 1 7:8\nD /d/a 9\nM /d/b 2 \"text\" 9:10\n");
}

static void a_callback_ends_it(void **state)
{
        struct fixture *f = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct told told = {.until = 1};
        below(f, LAYERS("f a =1\n"), 0);
        make_file(f, "b", "1");
        make_file(f, "c", "2");
        same_root(f);
        assert_int_equal(walk(f, &(struct ffs_changes_options){0}, &told, &err), -CAS_E_NOMEM);
        assert_string_equal(cas_buf_str(&told.text), "A /b 2 \"1\"\n");
        cas_buf_release(&told.text);
}

/* ---- what no overlay may say ---- */

static void redirects_must_lead_somewhere(void **state)
{
        static const char *const bad[] = {"/absent", "absent", "/f", "/d/absent/x", "/f/x"};
        struct fixture *f = *state;
        below(f, LAYERS("d d 755\nf f =1\n"), 0);
        make_dir(f, "n");
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                mark(f, "n", "trusted.overlay.redirect", bad[i]);
                expect_error(f, CAS_E_CORRUPT);
        }
        static const char *const worse[] = {"/../d", "..", "/d/", "//d", "a/b", "", "/"};
        for (size_t i = 0; i < CAS_COUNT(worse); i++) {
                mark(f, "n", "trusted.overlay.redirect", worse[i]);
                expect_error(f, CAS_E_CORRUPT);
        }
}

static void metacopies_must_have_data(void **state)
{
        struct fixture *f = *state;
        below(f, LAYERS("d d 755\nf f 100\n"), 0);
        make_file(f, "f", "short");
        mark(f, "f", "trusted.overlay.metacopy", "");
        expect_error(f, CAS_E_CORRUPT);
        assert_int_equal(unlinkat(f->upper_fd, "f", 0), 0);
        make_file(f, "g", "");
        mark(f, "g", "trusted.overlay.metacopy", "");
        expect_error(f, CAS_E_CORRUPT);
        mark(f, "g", "trusted.overlay.redirect", "/d");
        expect_error(f, CAS_E_CORRUPT);
}

/* Many moved directories that each show the whole image: bounded. */
static void repeated_moves_are_bounded(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        cas_buf_append_str(&text, "d big 755\n");
        for (int i = 0; i < 4000; i++)
                cas_buf_printf(&text, "f big/f%d =1\n", i);
        below(f, LAYERS(cas_buf_str(&text)), 0);
        for (int i = 0; i < 1100; i++) {
                char name[16];
                (void)snprintf(name, sizeof(name), "m%d", i);
                make_dir(f, name);
                mark(f, name, "trusted.overlay.redirect", "/big");
        }
        expect_error(f, CAS_E_LIMIT);
}

int main(void)
{
        if (geteuid() != 0) {
                printf("skipped: needs root\n");
                return 0;
        }
#define with_upper(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
        const struct CMUnitTest tests[] = {
                with_upper(names_are_added_changed_and_deleted),
                with_upper(opaque_directories_hide),
                with_upper(moved_directories_are_listed_whole),
                with_upper(hard_links_stay_together),
                with_upper(metacopies_have_their_data_below),
                with_upper(whiteouts_by_xattr_and_owners_aside),
                with_upper(a_callback_ends_it),
                with_upper(redirects_must_lead_somewhere),
                with_upper(metacopies_must_have_data),
                with_upper(repeated_moves_are_bounded),
        };
        return cmocka_run_group_tests_name("changes", tests, NULL, NULL);
}
