/* SPDX-License-Identifier: Apache-2.0 */
/* Every step on an upper directory, as root in overlayfs's own format, and as a normal user who
 * keeps owners in xattrs. What the kernel makes of it: upperkernel_test.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "fusefs/upperparts_int.h"
#include "tests/support/scratch.h"

#define USER_ID 65533

static bool as_user; /* the group that runs */

struct fixture {
        char *scratch;
        int dir_fd;
        struct ffs_upperlayer_config config;
        struct ffs_upperlayer *u;
        int root;
};

static void reopen(struct fixture *f)
{
        if (f->u)
                ffs_upperlayer_close(f->u);
        f->u = NULL;
        assert_int_equal(ffs_upperlayer_open(&f->config, &f->u), 0);
        f->root = ffs_upperlayer_root_fd(f->u);
}

static int setup(void **state)
{
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        f->scratch = scratch_new();
        f->dir_fd = open(f->scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(f->dir_fd >= 0);
        assert_int_equal(mkdirat(f->dir_fd, "upper", 0755), 0);
        f->config = (struct ffs_upperlayer_config){
                .dir_fd = f->dir_fd,
                .format = as_user ? FFS_UPPER_USER : FFS_UPPER_TRUSTED,
                .owners_in_xattrs = as_user,
        };
        reopen(f);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        ffs_upperlayer_close(f->u);
        (void)close(f->dir_fd);
        scratch_free(f->scratch);
        free(f);
        return 0;
}

/* ---- words of the tests ---- */

static struct ffs_upper_entry look(struct fixture *f, int dirfd, const char *name)
{
        struct ffs_upper_entry e;
        assert_int_equal(ffs_upper_look(f->u, dirfd, name, &e), 0);
        return e;
}

static enum ffs_upper_kind kind(struct fixture *f, int dirfd, const char *name)
{
        struct ffs_upper_entry e = look(f, dirfd, name);
        ffs_upper_entry_release(&e);
        return e.kind;
}

static struct stat shown(struct fixture *f, int dirfd, const char *name)
{
        struct ffs_upper_entry e = look(f, dirfd, name);
        assert_int_equal(e.kind, FFS_UPPER_PRESENT);
        ffs_upper_entry_release(&e);
        return e.st;
}

static void make(struct fixture *f, int dirfd, const char *name, mode_t mode)
{
        struct ffs_upper_new what = {.mode = mode, .target = "target"};
        assert_int_equal(ffs_upper_make(f->u, dirfd, name, &what, NULL), 0);
}

static int open_path(struct fixture *f, int dirfd, const char *name)
{
        int fd;
        assert_int_equal(ffs_upper_open(f->u, dirfd, name, O_PATH, &fd), 0);
        return fd;
}

/* Names in work/ that are left. */
static int litter(struct fixture *f)
{
        int n = -2;
        cas_cleanup_free char *path = cas_xasprintf("%s/work/work", f->scratch);
        DIR *d = opendir(path);
        assert_non_null(d);
        while (readdir(d))
                n++;
        (void)closedir(d);
        return n;
}

struct names {
        char text[512];
};
static bool add_name(void *arg, const char *name, enum ffs_upper_kind k, uint8_t type,
                     uint64_t ino CAS_UNUSED)
{
        struct names *n = arg;
        size_t used = strlen(n->text);
        (void)snprintf(n->text + used, sizeof(n->text) - used, "%s%s:%c%d", used ? " " : "", name,
                       k == FFS_UPPER_WHITEOUT ? 'w' : 'p', type);
        return true;
}
static bool is_listed(struct fixture *f, int dirfd, const char *word)
{
        struct names n = {""};
        assert_int_equal(ffs_upper_list(f->u, dirfd, add_name, &n), 0);
        for (char *rest = n.text, *w; (w = strsep(&rest, " "));) {
                if (strcmp(w, word) == 0)
                        return true;
        }
        return false;
}

/* ---- making ---- */

static void types(void **state)
{
        struct fixture *f = *state;
        static const struct {
                const char *name;
                mode_t mode;
                uint32_t uid, gid;
                unsigned major, minor;
        } cases[] = {
                {"file", S_IFREG | 0644, 0, 0, 0, 0},    {"odd", S_IFREG | 0004, 33, 34, 0, 0},
                {"suid", S_IFREG | 04755, 0, 0, 0, 0},   {"sgid", S_IFREG | 02711, 7, 8, 0, 0},
                {"dir", S_IFDIR | 0755, 0, 0, 0, 0},     {"sticky", S_IFDIR | 01777, 1, 2, 0, 0},
                {"closed", S_IFDIR | 02000, 1, 2, 0, 0}, {"fifo", S_IFIFO | 0600, 5, 0, 0, 0},
                {"sock", S_IFSOCK | 0777, 0, 5, 0, 0},   {"link", S_IFLNK | 0777, 0, 0, 0, 0},
                {"null", S_IFCHR | 0666, 0, 0, 1, 3},    {"disk", S_IFBLK | 0660, 0, 6, 259, 1000},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct ffs_upper_new what = {.mode = cases[i].mode,
                                             .uid = cases[i].uid,
                                             .gid = cases[i].gid,
                                             .rdev = makedev(cases[i].major, cases[i].minor),
                                             .target = "where"};
                assert_int_equal(ffs_upper_make(f->u, f->root, cases[i].name, &what, NULL), 0);
                struct stat st = shown(f, f->root, cases[i].name);
                assert_int_equal(st.st_mode, cases[i].mode);
                assert_int_equal(st.st_uid, cases[i].uid);
                assert_int_equal(st.st_gid, cases[i].gid);
                if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode))
                        assert_int_equal(st.st_rdev, what.rdev);
                char word[64];
                (void)snprintf(word, sizeof(word), "%s:p%d", cases[i].name,
                               (int)IFTODT(cases[i].mode));
                assert_true(is_listed(f, f->root, word));
                assert_int_equal(ffs_upper_make(f->u, f->root, cases[i].name, &what, NULL),
                                 -EEXIST);
        }
        assert_int_equal(litter(f), 0);
        char text[16];
        assert_int_equal(readlinkat(f->root, "link", text, sizeof(text)), 5);
}

static void disk_ids(void **state)
{
        struct fixture *f = *state;
        struct ffs_upper_new what = {.mode = S_IFREG | 0640, .uid = 33, .gid = 34};
        assert_int_equal(ffs_upper_make(f->u, f->root, "f", &what, NULL), 0);
        struct stat st;
        assert_int_equal(fstatat(f->root, "f", &st, AT_SYMLINK_NOFOLLOW), 0);
        assert_int_equal(st.st_uid, as_user ? USER_ID : 33);
        assert_int_equal(st.st_gid, as_user ? USER_ID : 34);
        if (!as_user)
                return;
        cas_cleanup_free char *path = cas_xasprintf("%s/upper/f", f->scratch);
        char text[64] = "";
        assert_true(getxattr(path, "user.containers.override_stat", text, 63) > 0);
        assert_string_equal(text, "33:34:0640:file");
}

static void refused(void **state)
{
        struct fixture *f = *state;
        struct ffs_upper_new what = {.mode = S_IFCHR | 0600, .rdev = makedev(0, 0)};
        assert_int_equal(ffs_upper_make(f->u, f->root, "wh", &what, NULL), -EPERM);
        what = (struct ffs_upper_new){.mode = S_IFREG | 0600};
        static const char *const bad[] = {"", ".", "..", "a/b", "/", "../x"};
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct ffs_upper_entry e;
                assert_int_equal(ffs_upper_make(f->u, f->root, bad[i], &what, NULL), -EINVAL);
                assert_int_equal(ffs_upper_look(f->u, f->root, bad[i], &e), -EINVAL);
                assert_int_equal(ffs_upper_whiteout(f->u, f->root, bad[i]), -EINVAL);
        }
        what.metacopy = true;
        assert_int_equal(ffs_upper_make(f->u, f->root, "m", &what, NULL), as_user ? -EPERM : 0);
}

static void over_whiteouts(void **state)
{
        struct fixture *f = *state;
        static const mode_t modes[] = {S_IFREG | 0644, S_IFDIR | 0755, S_IFLNK | 0777,
                                       S_IFIFO | 0640};
        for (size_t i = 0; i < CAS_COUNT(modes); i++) {
                for (uint32_t uid = 0; uid < 2; uid++) { /* plain, and not */
                        struct ffs_upper_new what = {.mode = modes[i], .uid = uid, .target = "t"};
                        char name[16];
                        (void)snprintf(name, sizeof(name), "n%zu-%u", i, uid);
                        assert_int_equal(ffs_upper_whiteout(f->u, f->root, name), 0);
                        assert_int_equal(kind(f, f->root, name), FFS_UPPER_WHITEOUT);
                        assert_int_equal(ffs_upper_make(f->u, f->root, name, &what, NULL), 0);
                        assert_int_equal(shown(f, f->root, name).st_mode, modes[i]);
                        assert_int_equal(ffs_upper_make(f->u, f->root, name, &what, NULL), -EEXIST);
                }
        }
        assert_int_equal(litter(f), 0);
}

static void copied_up(void **state)
{
        struct fixture *f = *state;
        static const char value[] = "v";
        struct cas_xattr xattrs[] = {
                {(char *)(uintptr_t) "security.capability", NULL, 0},
                {(char *)(uintptr_t) "trusted.overlay.opaque", (uint8_t *)(uintptr_t)value, 1},
                {(char *)(uintptr_t) "user.overlay.redirect", (uint8_t *)(uintptr_t)value, 1},
                {(char *)(uintptr_t) "user.containers.override_stat", (uint8_t *)(uintptr_t)value,
                 1},
        };
        static const uint8_t caps[20] = {1, 0, 0, 2, 0, 4};
        xattrs[0].value = (uint8_t *)(uintptr_t)caps;
        xattrs[0].value_bytes = sizeof(caps);
        for (size_t i = 1; i < CAS_COUNT(xattrs); i++)
                xattrs[i].value_bytes = 1;
        struct ffs_upper_new what = {.mode = S_IFREG | 04755,
                                     .uid = 12,
                                     .gid = 13,
                                     .mtime_s = 1000000,
                                     .mtime_ns = 7,
                                     .set_mtime = true,
                                     .has_origin = true,
                                     .origin = UINT64_C(0x123456789abcdef0),
                                     .xattrs = xattrs,
                                     .xattr_count = CAS_COUNT(xattrs)};
        int begun;
        assert_int_equal(ffs_upper_begin(f->u, &begun), 0);
        cas_cleanup_fd int fd = begun;
        assert_int_equal(write(fd, "hello", 5), 5);
        assert_int_equal(ffs_upper_finish(f->u, fd, &what, f->root, "f", false), 0);
        struct ffs_upper_entry e = look(f, f->root, "f");
        assert_int_equal(e.st.st_mode, what.mode);
        assert_int_equal(e.st.st_uid, 12);
        assert_int_equal(e.st.st_gid, 13);
        assert_int_equal(e.st.st_size, 5);
        assert_int_equal(e.st.st_mtim.tv_sec, 1000000);
        assert_int_equal(e.st.st_mtim.tv_nsec, 7);
        assert_true(e.has_origin);
        assert_true(e.origin == what.origin);
        assert_false(e.opaque || e.metacopy || e.redirect);
        for (size_t i = 0; i < CAS_COUNT(xattrs); i++) {
                char got[32];
                ssize_t n = ffs_upper_getxattr(f->u, fd, xattrs[i].name, got, sizeof(got));
                assert_int_equal(n, xattrs[i].value_bytes);
                assert_memory_equal(got, xattrs[i].value, xattrs[i].value_bytes);
        }
        char list[512];
        ssize_t n = ffs_upper_listxattr(f->u, fd, list, sizeof(list)), names = 0;
        for (ssize_t i = 0; i < n; i += (ssize_t)strlen(list + i) + 1)
                names++;
        assert_int_equal(names, CAS_COUNT(xattrs)); /* and nothing of ours or overlayfs's */
        /* Over what is there: only when asked to, and over whiteouts. */
        int other;
        assert_int_equal(ffs_upper_begin(f->u, &other), 0);
        assert_int_equal(ffs_upper_finish(f->u, other, &what, f->root, "f", false), -EEXIST);
        assert_int_equal(ffs_upper_finish(f->u, other, &what, f->root, "f", true), 0);
        assert_int_equal(shown(f, f->root, "f").st_size, 0);
        assert_int_equal(ffs_upper_whiteout(f->u, f->root, "w"), 0);
        assert_int_equal(ffs_upper_link(f->u, other, f->root, "w"), 0);
        assert_int_equal(shown(f, f->root, "w").st_nlink, 2);
        (void)close(other);
        assert_int_equal(litter(f), 0);
}

static void marks(void **state)
{
        struct fixture *f = *state;
        struct ffs_upper_new what = {.mode = S_IFDIR | 0750, .opaque = true};
        assert_int_equal(ffs_upper_make(f->u, f->root, "o", &what, NULL), 0);
        struct ffs_upper_entry e = look(f, f->root, "o");
        assert_true(e.opaque);
        if (as_user)
                return;
        what = (struct ffs_upper_new){.mode = S_IFDIR | 0750, .redirect = "/a/b"};
        assert_int_equal(ffs_upper_make(f->u, f->root, "r", &what, NULL), 0);
        e = look(f, f->root, "r");
        assert_false(e.opaque);
        assert_string_equal(e.redirect, "/a/b");
        ffs_upper_entry_release(&e);
        cas_cleanup_fd int r = open_path(f, f->root, "r");
        assert_int_equal(ffs_upper_set_redirect(f->u, r, "c"), 0);
        assert_int_equal(ffs_upper_set_redirect(f->u, r, "c/"), -EINVAL);
        e = look(f, f->root, "r");
        assert_string_equal(e.redirect, "c");
        ffs_upper_entry_release(&e);
        assert_int_equal(ffs_upper_set_opaque(f->u, r), 0);
        e = look(f, f->root, "r");
        assert_true(e.opaque && !e.redirect); /* as overlayfs reads it */
        what = (struct ffs_upper_new){.mode = S_IFREG | 0600,
                                      .metacopy = true,
                                      .size_bytes = 12345,
                                      .redirect = "/x",
                                      .mtime_s = 5,
                                      .set_mtime = true};
        cas_cleanup_fd int fd = -1;
        assert_int_equal(ffs_upper_make(f->u, f->root, "m", &what, &fd), 0);
        e = look(f, f->root, "m");
        assert_true(e.metacopy);
        assert_int_equal(e.st.st_size, 12345);
        assert_int_equal(e.st.st_mtim.tv_sec, 5);
        assert_string_equal(e.redirect, "/x");
        ffs_upper_entry_release(&e);
        assert_int_equal(ffs_upper_clear_metacopy(f->u, fd), 0);
        e = look(f, f->root, "m");
        assert_false(e.metacopy || e.redirect);
}

static void unnamed(void **state)
{
        struct fixture *f = *state;
        struct ffs_upper_new what = {.mode = S_IFREG | 0624, .uid = 4, .gid = 5};
        cas_cleanup_fd int fd = -1, again = -1;
        assert_int_equal(ffs_upper_tmpfile(f->u, f->root, &what, &fd), 0);
        struct ffs_upper_entry e;
        assert_int_equal(ffs_upper_look_fd(f->u, fd, &e), 0);
        assert_int_equal(e.st.st_mode, S_IFREG | 0624);
        assert_int_equal(e.st.st_uid, 4);
        const char *hidden = "0123456789abcdef";
        assert_int_equal(ffs_upper_link_hidden(f->u, fd, hidden), 0);
        assert_int_equal(ffs_upper_link_hidden(f->u, fd, hidden), -EEXIST);
        assert_int_equal(ffs_upper_link_hidden(f->u, fd, "0123456789abcde"), -EINVAL);
        assert_int_equal(ffs_upper_open_hidden(f->u, hidden, O_RDWR, &again), 0);
        assert_int_equal(ffs_upper_link(f->u, again, f->root, "named"), 0);
        assert_int_equal(shown(f, f->root, "named").st_nlink, 2);
        assert_int_equal(ffs_upper_drop_hidden(f->u, hidden, false), 0);
        assert_int_equal(litter(f), 0);
}

/* ---- taking away and moving ---- */

static void gone(void **state)
{
        struct fixture *f = *state;
        make(f, f->root, "f", S_IFREG | 0644);
        make(f, f->root, "d", S_IFDIR | 0755);
        cas_cleanup_fd int d = open_path(f, f->root, "d");
        make(f, d, "in", S_IFREG | 0644);
        assert_int_equal(ffs_upper_whiteout(f->u, d, "w"), 0);
        assert_true(is_listed(f, d, "in:p8"));
        assert_true(is_listed(f, d, "w:w2"));
        assert_int_equal(ffs_upper_whiteout(f->u, f->root, "d"), -ENOTEMPTY);
        assert_int_equal(ffs_upper_unlink(f->u, f->root, "d", true), -ENOTEMPTY);
        assert_int_equal(ffs_upper_unlink(f->u, d, "in", false), 0);
        assert_int_equal(kind(f, d, "in"), FFS_UPPER_ABSENT);
        assert_int_equal(ffs_upper_whiteout(f->u, f->root, "f"), 0);
        assert_int_equal(ffs_upper_whiteout(f->u, f->root, "f"), 0);
        assert_int_equal(ffs_upper_whiteout(f->u, f->root, "d"), 0);
        assert_int_equal(kind(f, f->root, "f"), FFS_UPPER_WHITEOUT);
        assert_int_equal(kind(f, f->root, "d"), FFS_UPPER_WHITEOUT);
        make(f, f->root, "e", S_IFDIR | 0755);
        cas_cleanup_fd int e = open_path(f, f->root, "e");
        assert_int_equal(ffs_upper_whiteout(f->u, e, "w"), 0);
        assert_int_equal(ffs_upper_unlink(f->u, f->root, "e", true), 0);
        assert_int_equal(kind(f, f->root, "e"), FFS_UPPER_ABSENT);
        assert_int_equal(litter(f), 0);
}

static bool is_text(void *arg, const char *hidden)
{
        return strcmp(arg, hidden) == 0;
}

static void hidden_names(void **state)
{
        struct fixture *f = *state;
        const char *a = "000000000000000a", *b = "000000000000000b";
        make(f, f->root, "f", S_IFREG | 0644);
        make(f, f->root, "d", S_IFDIR | 0755);
        cas_cleanup_fd int d = open_path(f, f->root, "d");
        assert_int_equal(ffs_upper_whiteout(f->u, d, "w"), 0);
        assert_int_equal(ffs_upper_hide(f->u, f->root, "f", true, a), 0);
        assert_int_equal(ffs_upper_hide(f->u, f->root, "d", false, b), 0);
        assert_int_equal(kind(f, f->root, "f"), FFS_UPPER_WHITEOUT);
        assert_int_equal(kind(f, f->root, "d"), FFS_UPPER_ABSENT);
        f->config.keep_hidden = true;
        reopen(f);
        assert_int_equal(litter(f), 2);
        int fd;
        assert_int_equal(ffs_upper_open_hidden(f->u, a, O_RDWR, &fd), 0);
        (void)close(fd);
        assert_int_equal(ffs_upper_open_hidden(f->u, "../../upper/x", O_PATH, &fd), -EINVAL);
        assert_int_equal(ffs_upper_drop_hidden(f->u, b, true), 0);
        assert_int_equal(litter(f), 1);
        make(f, f->root, "g", S_IFREG | 0644);
        assert_int_equal(ffs_upper_hide(f->u, f->root, "g", false, b), 0);
        assert_int_equal(ffs_upper_sweep_hidden(f->u, is_text, (void *)(uintptr_t)a), 0);
        assert_int_equal(litter(f), 1);
        assert_int_equal(ffs_upper_open_hidden(f->u, b, O_PATH, &fd), -ENOENT);
        f->config.keep_hidden = false;
        reopen(f);
        assert_int_equal(litter(f), 0);
}

static void renames(void **state)
{
        struct fixture *f = *state;
        make(f, f->root, "f", S_IFREG | 0644);
        make(f, f->root, "d", S_IFDIR | 0755);
        cas_cleanup_fd int d = open_path(f, f->root, "d");
        make(f, d, "in", S_IFREG | 0644);
        const int r = f->root;
        /* files: to nothing, over a whiteout, over a file */
        assert_int_equal(ffs_upper_rename(f->u, r, "f", d, "g", 0, true), 0);
        assert_int_equal(kind(f, r, "f"), FFS_UPPER_WHITEOUT);
        assert_int_equal(ffs_upper_rename(f->u, d, "g", r, "f", RENAME_NOREPLACE, false), 0);
        assert_int_equal(kind(f, d, "g"), FFS_UPPER_ABSENT);
        assert_int_equal(ffs_upper_rename(f->u, r, "f", d, "in", RENAME_NOREPLACE, false), -EEXIST);
        assert_int_equal(ffs_upper_rename(f->u, r, "f", d, "in", 0, true), 0);
        assert_int_equal(kind(f, r, "f"), FFS_UPPER_WHITEOUT);
        /* directories: over a whiteout, leaving one and not */
        assert_int_equal(ffs_upper_rename(f->u, r, "d", r, "f", 0, true), 0);
        assert_int_equal(kind(f, r, "d"), FFS_UPPER_WHITEOUT);
        assert_int_equal(ffs_upper_rename(f->u, r, "f", r, "d", 0, false), 0);
        assert_int_equal(kind(f, r, "f"), FFS_UPPER_ABSENT);
        /* over a directory with whiteouts, with something in it, over a file */
        make(f, r, "e", S_IFDIR | 0711);
        cas_cleanup_fd int e = open_path(f, r, "e");
        assert_int_equal(ffs_upper_whiteout(f->u, e, "w"), 0);
        assert_int_equal(ffs_upper_rename(f->u, r, "e", r, "d", 0, false), -ENOTEMPTY);
        assert_int_equal(ffs_upper_rename(f->u, r, "d", r, "e", 0, true), 0);
        assert_int_equal(kind(f, r, "d"), FFS_UPPER_WHITEOUT);
        assert_true(is_listed(f, r, "e:p4"));
        make(f, r, "x", S_IFREG | 0600);
        assert_int_equal(ffs_upper_rename(f->u, r, "e", r, "x", 0, false), -ENOTDIR);
        assert_int_equal(ffs_upper_rename(f->u, r, "x", r, "e", 0, false), -EISDIR);
        assert_int_equal(ffs_upper_rename(f->u, r, "x", r, "e", RENAME_EXCHANGE, false), 0);
        assert_true(S_ISDIR(shown(f, r, "x").st_mode));
        assert_int_equal(ffs_upper_rename(f->u, r, "x", r, "e", RENAME_EXCHANGE, true), -EINVAL);
        assert_int_equal(litter(f), 0);
}

static void xattr_whiteouts(void **state)
{
        struct fixture *f = *state;
        const char *prefix = as_user ? "user.overlay." : "trusted.overlay.";
        make(f, f->root, "d", S_IFDIR | 0755);
        make(f, f->root, "e", S_IFDIR | 0755);
        cas_cleanup_fd int d = open_path(f, f->root, "d");
        char name[64], path[512];
        (void)snprintf(name, sizeof(name), "%sopaque", prefix);
        (void)snprintf(path, sizeof(path), "%s/upper/d", f->scratch);
        assert_int_equal(setxattr(path, name, "x", 1, 0), 0);
        make(f, d, "w", S_IFREG | 0600);
        make(f, d, "f", S_IFREG | 0600);
        (void)snprintf(name, sizeof(name), "%swhiteout", prefix);
        (void)snprintf(path, sizeof(path), "%s/upper/d/w", f->scratch);
        assert_int_equal(setxattr(path, name, "", 0, 0), 0);
        assert_int_equal(kind(f, d, "w"), FFS_UPPER_WHITEOUT);
        assert_int_equal(kind(f, d, "f"), FFS_UPPER_PRESENT);
        assert_true(is_listed(f, d, "w:w8"));
        assert_true(is_listed(f, d, "f:p8"));
        assert_false(look(f, f->root, "d").opaque);
        /* A directory takes its place and leaves a whiteout that counts everywhere. */
        assert_int_equal(ffs_upper_rename(f->u, f->root, "e", d, "w", 0, true), 0);
        assert_int_equal(kind(f, f->root, "e"), FFS_UPPER_WHITEOUT);
        assert_true(is_listed(f, f->root, "e:w2"));
}

/* ---- attributes ---- */

static void attributes(void **state)
{
        struct fixture *f = *state;
        static const mode_t modes[] = {S_IFREG | 0644, S_IFDIR | 0755, S_IFIFO | 0640};
        for (size_t i = 0; i < CAS_COUNT(modes); i++) {
                char name[16];
                (void)snprintf(name, sizeof(name), "n%zu", i);
                make(f, f->root, name, modes[i]);
                cas_cleanup_fd int fd = open_path(f, f->root, name);
                assert_int_equal(ffs_upper_chown(f->u, fd, 44, UINT32_MAX), 0);
                assert_int_equal(ffs_upper_chown(f->u, fd, UINT32_MAX, 45), 0);
                assert_int_equal(ffs_upper_chmod(f->u, fd, 06050), 0);
                const struct timespec times[2] = {{1, 2}, {3, 4}};
                assert_int_equal(ffs_upper_utimens(f->u, fd, times), 0);
                struct stat st = shown(f, f->root, name);
                assert_int_equal(st.st_mode, (modes[i] & S_IFMT) | 06050);
                assert_int_equal(st.st_uid, 44);
                assert_int_equal(st.st_gid, 45);
                assert_int_equal(st.st_mtim.tv_sec, 3);
                assert_int_equal(st.st_atim.tv_nsec, 2);
        }
        cas_cleanup_fd int fd = -1;
        assert_int_equal(ffs_upper_open(f->u, f->root, "n0", O_RDWR, &fd),
                         0); /* whatever its mode */
        make(f, f->root, "l", S_IFLNK | 0777);
        cas_cleanup_fd int l = open_path(f, f->root, "l");
        assert_int_equal(ffs_upper_chmod(f->u, l, 0600), -EOPNOTSUPP);
        assert_int_equal(ffs_upper_chown(f->u, l, 9, 9), 0);
        int none;
        if (!as_user)
                assert_int_equal(ffs_upper_open(f->u, f->root, "n2", O_RDONLY, &none), -EUCLEAN);
        assert_int_equal(ffs_upper_open(f->u, f->root, "l", O_RDONLY, &none), -EUCLEAN);
        assert_int_equal(ffs_upper_open(f->u, f->root, "n1", O_RDONLY, &none), -EUCLEAN);
        cas_cleanup_fd int again = -1;
        assert_int_equal(ffs_upper_reopen(f->u, fd, O_RDONLY, &again), 0);
        assert_int_equal(ffs_upper_reopen(f->u, l, O_RDONLY, &none), -EUCLEAN);
}

static void xattrs(void **state)
{
        struct fixture *f = *state;
        static const char *const names[] = {
                "user.a",
                "user.overlay.opaque",
                "user.overlay.overlay.opaque",
                "user.containers.override_stat",
                "user.containers.override_security.x",
                "trusted.overlay.redirect",
                "trusted.x",
                "security.x",
        };
        make(f, f->root, "d", S_IFDIR | 0755);
        cas_cleanup_fd int fd = open_path(f, f->root, "d");
        char got[64];
        for (size_t i = 0; i < CAS_COUNT(names); i++) {
                assert_int_equal(ffs_upper_getxattr(f->u, fd, names[i], got, 64), -ENODATA);
                assert_int_equal(ffs_upper_removexattr(f->u, fd, names[i]), -ENODATA);
                assert_int_equal(ffs_upper_setxattr(f->u, fd, names[i], names[i], strlen(names[i]),
                                                    XATTR_CREATE),
                                 0);
                assert_int_equal(ffs_upper_setxattr(f->u, fd, names[i], "", 0, XATTR_CREATE),
                                 -EEXIST);
        }
        struct ffs_upper_entry e = look(f, f->root, "d");
        assert_false(e.opaque || e.redirect);
        assert_int_equal(e.st.st_uid, 0);
        char list[1024];
        ssize_t len = ffs_upper_listxattr(f->u, fd, list, sizeof(list)), count = 0;
        assert_int_equal(ffs_upper_listxattr(f->u, fd, NULL, 0), len);
        assert_int_equal(ffs_upper_listxattr(f->u, fd, list, (size_t)len - 1), -ERANGE);
        for (ssize_t i = 0; i < len; i += (ssize_t)strlen(list + i) + 1)
                count++;
        assert_int_equal(count, CAS_COUNT(names));
        for (size_t i = 0; i < CAS_COUNT(names); i++) {
                ssize_t n = ffs_upper_getxattr(f->u, fd, names[i], got, 64);
                assert_int_equal(n, strlen(names[i]));
                assert_memory_equal(got, names[i], (size_t)n);
                assert_int_equal(ffs_upper_getxattr(f->u, fd, names[i], NULL, 0), n);
                assert_int_equal(ffs_upper_removexattr(f->u, fd, names[i]), 0);
        }
        assert_int_equal(ffs_upper_listxattr(f->u, fd, list, sizeof(list)), 0);
        char longest[FFS_UPPER_XATTR_NAME_BYTES];
        memset(longest, 'a', sizeof(longest) - 1);
        longest[sizeof(longest) - 1] = '\0';
        memcpy(longest, as_user ? "user.overlay." : "trusted.overlay.", as_user ? 13 : 16);
        assert_int_equal(ffs_upper_setxattr(f->u, fd, longest, "", 0, 0), -ERANGE);
        assert_int_equal(ffs_upper_getxattr(f->u, fd, longest, NULL, 0), -ENODATA);
}

/* ---- ACLs ---- */

struct acl_entry {
        uint16_t tag, perm;
        uint32_t id;
};
static size_t acl_of(const struct acl_entry *entries, size_t count, uint8_t out[128])
{
        cas_put_le32(out, 2);
        for (size_t i = 0; i < count; i++) {
                cas_put_le16(out + 4 + 8 * i, entries[i].tag);
                cas_put_le16(out + 6 + 8 * i, entries[i].perm);
                cas_put_le32(out + 8 + 8 * i, entries[i].id);
        }
        return 4 + 8 * count;
}

static void acl_is(struct fixture *f, const char *name, const char *xattr,
                   const struct acl_entry *entries, size_t count)
{
        uint8_t want[128], got[256];
        size_t len = acl_of(entries, count, want);
        cas_cleanup_fd int fd = open_path(f, f->root, name);
        assert_int_equal(ffs_upper_getxattr(f->u, fd, xattr, got, sizeof(got)), len);
        assert_memory_equal(got, want, len);
}

#define NO_ID UINT32_MAX
static const struct acl_entry full_acl[] = {{1, 7, NO_ID}, {2, 6, 33},     {4, 5, NO_ID},
                                            {8, 3, 34},    {16, 7, NO_ID}, {32, 1, NO_ID}};

static void access_acls(void **state)
{
        struct fixture *f = *state;
        uint8_t acl[128];
        size_t len = acl_of(full_acl, 6, acl);
        make(f, f->root, "f", S_IFREG | 0640);
        cas_cleanup_fd int fd = open_path(f, f->root, "f");
        assert_int_equal(ffs_upper_setxattr(f->u, fd, FFS_ACL_ACCESS, acl, len, 0), 0);
        assert_int_equal(shown(f, f->root, "f").st_mode, S_IFREG | 0771);
        acl_is(f, "f", FFS_ACL_ACCESS, full_acl, 6);
        assert_int_equal(ffs_upper_chmod(f->u, fd, 0624), 0);
        const struct acl_entry changed[] = {{1, 6, NO_ID}, {2, 6, 33},     {4, 5, NO_ID},
                                            {8, 3, 34},    {16, 2, NO_ID}, {32, 4, NO_ID}};
        acl_is(f, "f", FFS_ACL_ACCESS, changed, 6);
        assert_int_equal(shown(f, f->root, "f").st_mode, S_IFREG | 0624);
        const struct acl_entry small[] = {{1, 4, NO_ID}, {4, 2, NO_ID}, {32, 1, NO_ID}};
        len = acl_of(small, 3, acl);
        assert_int_equal(ffs_upper_setxattr(f->u, fd, FFS_ACL_ACCESS, acl, len, 0), 0);
        assert_int_equal(shown(f, f->root, "f").st_mode, S_IFREG | 0421);
        assert_int_equal(ffs_upper_getxattr(f->u, fd, FFS_ACL_ACCESS, NULL, 0), -ENODATA);
        assert_int_equal(ffs_upper_setxattr(f->u, fd, FFS_ACL_DEFAULT, acl, len, 0), -EACCES);
        acl[0] = 3;
        assert_true(ffs_upper_setxattr(f->u, fd, FFS_ACL_ACCESS, acl, len, 0) < 0);
}

static void inherited_acls(void **state)
{
        struct fixture *f = *state;
        uint8_t acl[128];
        size_t len = acl_of(full_acl, 6, acl);
        make(f, f->root, "d", S_IFDIR | 0755);
        cas_cleanup_fd int d = open_path(f, f->root, "d");
        assert_int_equal(ffs_upper_setxattr(f->u, d, FFS_ACL_DEFAULT, acl, len, 0), 0);
        const struct acl_entry cut[] = {{1, 6, NO_ID}, {2, 6, 33},     {4, 5, NO_ID},
                                        {8, 3, 34},    {16, 4, NO_ID}, {32, 0, NO_ID}};
        static const mode_t modes[] = {S_IFREG | 0640, S_IFREG | 04640, S_IFDIR | 0640,
                                       S_IFIFO | 0640};
        for (size_t i = 0; i < CAS_COUNT(modes); i++) {
                for (uint32_t uid = 0; uid < 2; uid++) { /* plain, and not */
                        struct ffs_upper_new what = {.mode = modes[i], .uid = uid};
                        char name[16];
                        (void)snprintf(name, sizeof(name), "d/n%zu-%u", i, uid);
                        assert_int_equal(ffs_upper_make(f->u, d, name + 2, &what, NULL), 0);
                        assert_int_equal(shown(f, d, name + 2).st_mode, modes[i]);
                        cas_cleanup_fd int fd = open_path(f, d, name + 2);
                        uint8_t want[128], got[128];
                        assert_int_equal(
                                ffs_upper_getxattr(f->u, fd, FFS_ACL_ACCESS, got, sizeof(got)),
                                acl_of(cut, 6, want));
                        assert_memory_equal(got, want, acl_of(cut, 6, want));
                        assert_int_equal(
                                ffs_upper_getxattr(f->u, fd, FFS_ACL_DEFAULT, got, sizeof(got)),
                                S_ISDIR(modes[i]) ? (ssize_t)len : -ENODATA);
                }
        }
        struct ffs_upper_new old = {.mode = S_IFDIR | 0700, .has_origin = true}; /* copied up */
        assert_int_equal(ffs_upper_make(f->u, d, "old", &old, NULL), 0);
        cas_cleanup_fd int fd = open_path(f, d, "old");
        assert_int_equal(ffs_upper_listxattr(f->u, fd, NULL, 0), 0);
        old = (struct ffs_upper_new){.mode = S_IFREG | 0600, .set_mtime = true};
        assert_int_equal(ffs_upper_make(f->u, d, "old-file", &old, NULL), 0);
        cas_cleanup_fd int file = open_path(f, d, "old-file");
        assert_int_equal(ffs_upper_listxattr(f->u, file, NULL, 0), 0);
}

/* ---- paths, work/, space ---- */

static void paths(void **state)
{
        struct fixture *f = *state;
        const char name[] = "a-directory-with-a-name-that-makes-the-path-long";
        cas_cleanup_free char *path = cas_xcalloc(400, sizeof(name));
        cas_cleanup_fd int at = dup(f->root);
        for (int i = 0; i < 200; i++) {
                make(f, at, name, S_IFDIR | 0755);
                int next = open_path(f, at, name);
                (void)close(at);
                at = next;
                size_t used = strlen(path);
                (void)snprintf(path + used, sizeof(name) + 2, "%s%s", used ? "/" : "", name);
        }
        int fd;
        assert_int_equal(ffs_upperlayer_open_dir(f->u, path, &fd), 0); /* 9.8 KB */
        struct stat a, b;
        assert_int_equal(fstat(fd, &a), 0);
        assert_int_equal(fstat(at, &b), 0);
        assert_true(a.st_ino == b.st_ino);
        (void)close(fd);
        assert_int_equal(ffs_upperlayer_open_dir(f->u, "", &fd), 0);
        (void)close(fd);
        make(f, f->root, "file", S_IFREG | 0644);
        assert_int_equal(symlinkat("/etc", f->root, "etc"), 0);
        assert_int_equal(ffs_upperlayer_open_dir(f->u, "nothing", &fd), -ESTALE);
        assert_int_equal(ffs_upperlayer_open_dir(f->u, "file", &fd), -EUCLEAN);
        assert_int_equal(ffs_upperlayer_open_dir(f->u, "etc", &fd), -EUCLEAN);
        assert_int_equal(ffs_upperlayer_open_dir(f->u, "etc/ssl", &fd), -EUCLEAN);
        assert_int_equal(ffs_upperlayer_open_dir(f->u, "../work", &fd), -EUCLEAN);
}

static void litter_goes(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_free char *work = cas_xasprintf("%s/work/work", f->scratch);
        cas_cleanup_free char *deep = cas_xasprintf("%s/#1", work);
        assert_int_equal(mkdir(deep, 0700), 0);
        cas_cleanup_fd int at = open(deep, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        for (int i = 0; i < 300; i++) {
                assert_int_equal(mknodat(at, "w", S_IFCHR, 0), 0);
                assert_int_equal(mkdirat(at, "a-directory-in-a-directory", 0700), 0);
                int next = openat(at, "a-directory-in-a-directory", O_RDONLY | O_CLOEXEC);
                assert_true(next >= 0);
                (void)close(at);
                at = next;
        }
        assert_int_equal(fchmod(at, 0), 0);
        assert_int_equal(chmod(work, 0), 0); /* as overlayfs leaves it */
        reopen(f);
        assert_int_equal(litter(f), 0);
        cas_cleanup_free char *incompat = cas_xasprintf("%s/incompat", work);
        cas_cleanup_free char *feature = cas_xasprintf("%s/volatile", incompat);
        assert_int_equal(mkdir(incompat, 0700), 0);
        assert_int_equal(mkdir(feature, 0700), 0);
        struct ffs_upperlayer *u;
        assert_int_equal(ffs_upperlayer_open(&f->config, &u), -EUCLEAN);
        assert_int_equal(rmdir(feature), 0);
        reopen(f);
}

static void strange_work(void **state)
{
        struct fixture *f = *state;
        struct ffs_upperlayer *u;
        cas_cleanup_free char *work = cas_xasprintf("%s/work", f->scratch);
        cas_cleanup_free char *moved = cas_xasprintf("%s/moved", f->scratch);
        assert_int_equal(rename(work, moved), 0);
        assert_int_equal(symlink("moved", work), 0);
        assert_int_equal(ffs_upperlayer_open(&f->config, &u), -EUCLEAN);
        f->config.read_only = true; /* has no need of it */
        reopen(f);
}

static void space(void **state)
{
        struct fixture *f = *state;
        make(f, f->root, "d", S_IFDIR | 0755);
        cas_cleanup_fd int d = open_path(f, f->root, "d");
        cas_cleanup_fd int fd = -1;
        struct ffs_upper_new what = {.mode = S_IFREG | 0644};
        assert_int_equal(ffs_upper_make(f->u, d, "f", &what, &fd), 0);
        assert_int_equal(fallocate(fd, 0, 0, 1 << 20), 0);
        assert_int_equal(ffs_upper_link(f->u, fd, f->root, "link"), 0); /* counted once */
        f->config.size_limit_bytes = 2 << 20;
        reopen(f);
        struct statvfs vfs;
        assert_int_equal(ffs_upper_statvfs(f->u, &vfs), 0);
        assert_int_equal(vfs.f_blocks * vfs.f_frsize, 2 << 20);
        uint64_t left = vfs.f_bavail * vfs.f_frsize;
        assert_in_range(left, (1 << 20) - 65536, 1 << 20);
        assert_int_equal(ffs_upper_reserve(f->u, 2 << 20), -ENOSPC);
        assert_int_equal(ffs_upper_reserve(f->u, left - 8192), 0);
        for (int i = 0; i < 1000; i++) {
                char name[16];
                (void)snprintf(name, sizeof(name), "n%d", i);
                int rc = ffs_upper_make(f->u, f->root, name, &what, NULL);
                if (rc == 0)
                        continue;
                assert_int_equal(rc, -ENOSPC);
                assert_in_range(i, 8, 40);
                break;
        }
        assert_int_equal(ffs_upper_unlink(f->u, d, "f", false), 0); /* the other name stays */
        assert_int_equal(ffs_upper_reserve(f->u, 1 << 19), -ENOSPC);
        assert_int_equal(ffs_upper_whiteout(f->u, f->root, "link"), 0);
        assert_int_equal(ffs_upper_reserve(f->u, 1 << 19), 0);
        ffs_upper_unreserve(f->u, UINT64_MAX);
        assert_int_equal(ffs_upper_reserve(f->u, 2 << 20), 0);
}

static uint64_t space_left(struct fixture *f)
{
        struct statvfs vfs;
        assert_int_equal(ffs_upper_statvfs(f->u, &vfs), 0);
        return vfs.f_bavail * vfs.f_frsize;
}

/* Who makes and removes things again and again has neither more room nor less afterwards, and the
 * next opening counts the same. */
static void space_is_given_back_as_it_was_taken(void **state)
{
        struct fixture *f = *state;
        f->config.size_limit_bytes = 4 << 20;
        reopen(f);
        const struct ffs_upper_new file = {.mode = S_IFREG | 0644}, dir = {.mode = S_IFDIR | 0755};
        uint64_t before = space_left(f);
        for (int i = 0; i < 200; i++) {
                cas_cleanup_fd int fd = -1;
                assert_int_equal(ffs_upper_make(f->u, f->root, "f", &file, &fd), 0);
                assert_int_equal(ffs_upper_reserve(f->u, ffs_upper_cost(1)), 0);
                assert_int_equal(pwrite(fd, "x", 1, 0), 1);
                assert_int_equal(ffs_upper_make(f->u, f->root, "d", &dir, NULL), 0);
                assert_int_equal(ffs_upper_unlink(f->u, f->root, "f", false), 0);
                assert_int_equal(ffs_upper_unlink(f->u, f->root, "d", true), 0);
        }
        assert_int_equal(space_left(f), before);
        cas_cleanup_fd int fd = -1;
        assert_int_equal(ffs_upper_make(f->u, f->root, "holes", &file, &fd), 0);
        assert_int_equal(ffs_upper_reserve(f->u, ffs_upper_cost(1 << 20)), 0);
        assert_int_equal(ftruncate(fd, 1 << 20), 0);
        before = space_left(f);
        reopen(f);
        assert_int_equal(space_left(f), before);
        assert_true(ffs_upper_cost(UINT64_MAX) == UINT64_MAX);
}

/* ---- threads ---- */

#define THREADS 4

struct worker {
        struct fixture *f;
        unsigned number;
        int rc;
};

static int work_once(struct fixture *f, const char *name, const char *other)
{
        const struct ffs_upper_new file = {.mode = S_IFREG | 0644, .uid = 1},
                                   dir = {.mode = S_IFDIR | 0755, .opaque = true};
        int rc = ffs_upper_make(f->u, f->root, name, &file, NULL);
        rc = rc ? rc : ffs_upper_whiteout(f->u, f->root, name);
        rc = rc ? rc : ffs_upper_make(f->u, f->root, name, &dir, NULL);
        rc = rc ? rc : ffs_upper_rename(f->u, f->root, name, f->root, other, 0, true);
        rc = rc ? rc : ffs_upper_unlink(f->u, f->root, other, true);
        return rc ? rc : ffs_upper_unlink(f->u, f->root, name, false);
}

static void *work(void *arg)
{
        struct worker *w = arg;
        char name[16], other[16];
        (void)snprintf(name, sizeof(name), "name-%u", w->number);
        (void)snprintf(other, sizeof(other), "other-%u", w->number);
        for (int i = 0; i < 100 && w->rc == 0; i++)
                w->rc = work_once(w->f, name, other);
        return NULL;
}

static void threads(void **state)
{
        struct fixture *f = *state;
        f->config.size_limit_bytes = 1 << 20;
        reopen(f);
        pthread_t ids[THREADS];
        struct worker workers[THREADS];
        for (unsigned i = 0; i < THREADS; i++) {
                workers[i] = (struct worker){.f = f, .number = i};
                assert_int_equal(pthread_create(&ids[i], NULL, work, &workers[i]), 0);
        }
        for (unsigned i = 0; i < THREADS; i++) {
                assert_int_equal(pthread_join(ids[i], NULL), 0);
                assert_int_equal(workers[i].rc, 0);
        }
        struct names n = {""};
        assert_int_equal(ffs_upper_list(f->u, f->root, add_name, &n), 0);
        assert_string_equal(n.text, "");
        assert_int_equal(litter(f), 0);
}

/* ---- kills ---- */

#define KILLS 60

/* "x" goes through everything that a name can be, and never is nothing: below, there is something.
 */
CAS_NORETURN static void change_for_ever(struct fixture *f)
{
        static const uint8_t value[] = "value";
        struct cas_xattr xattr = {(char *)(uintptr_t) "user.x", (uint8_t *)(uintptr_t)value, 5};
        const struct ffs_upper_new file = {.mode = S_IFREG | 02751,
                                           .uid = 21,
                                           .gid = 22,
                                           .set_mtime = true,
                                           .mtime_s = 1234,
                                           .xattrs = &xattr,
                                           .xattr_count = 1};
        struct ffs_upper_new dir = file;
        dir.mode = S_IFDIR | 01751;
        dir.opaque = true;
        for (;;) {
                int rc = ffs_upper_make(f->u, f->root, "x", &file, NULL);
                rc = rc ? rc : ffs_upper_rename(f->u, f->root, "x", f->root, "y", 0, true);
                rc = rc ? rc : ffs_upper_rename(f->u, f->root, "y", f->root, "x", 0, false);
                rc = rc ? rc : ffs_upper_whiteout(f->u, f->root, "x");
                rc = rc ? rc : ffs_upper_make(f->u, f->root, "x", &dir, NULL);
                rc = rc ? rc : ffs_upper_rename(f->u, f->root, "x", f->root, "y", 0, true);
                rc = rc ? rc : ffs_upper_rename(f->u, f->root, "y", f->root, "x", 0, false);
                rc = rc ? rc : ffs_upper_whiteout(f->u, f->root, "x");
                if (rc < 0)
                        _exit(1);
        }
}

static void is_whole(struct fixture *f, const char *name)
{
        struct ffs_upper_entry e = look(f, f->root, name);
        if (e.kind != FFS_UPPER_PRESENT)
                return;
        bool is_dir = S_ISDIR(e.st.st_mode);
        assert_int_equal(e.st.st_mode, is_dir ? (S_IFDIR | 01751) : (S_IFREG | 02751));
        assert_int_equal(e.st.st_uid, 21);
        assert_int_equal(e.st.st_gid, 22);
        assert_int_equal(e.st.st_mtim.tv_sec, 1234);
        assert_int_equal(e.opaque, is_dir);
        cas_cleanup_fd int fd = open_path(f, f->root, name);
        assert_int_equal(ffs_upper_getxattr(f->u, fd, "user.x", NULL, 0), 5);
}

static void killed(void **state)
{
        struct fixture *f = *state;
        unsigned seed = (unsigned)time(NULL);
        print_message("seed %u\n", seed);
        srandom(seed);
        for (int i = 0; i < KILLS; i++) {
                assert_int_equal(ffs_upper_whiteout(f->u, f->root, "x"), 0);
                (void)ffs_upper_whiteout(f->u, f->root, "y");
                (void)ffs_upper_unlink(f->u, f->root, "y", false);
                pid_t pid = fork();
                if (pid == 0)
                        change_for_ever(f);
                (void)usleep((useconds_t)(random() % 5000));
                assert_int_equal(kill(pid, SIGKILL), 0);
                int status;
                assert_int_equal(waitpid(pid, &status, 0), pid);
                assert_true(WIFSIGNALED(status));
                reopen(f);
                assert_int_equal(litter(f), 0);
                assert_true(kind(f, f->root, "x") != FFS_UPPER_ABSENT);
                is_whole(f, "x");
                is_whole(f, "y");
        }
}

/* ---- what others wrote ---- */

static void hostile_marks(void **state)
{
        struct fixture *f = *state;
        static const struct {
                const char *name, *value;
                size_t len;
                mode_t type;
        } cases[] = {
                {"redirect", "", 0, S_IFDIR},
                {"redirect", "a/b", 3, S_IFDIR},
                {"redirect", "..", 2, S_IFDIR},
                {"redirect", "/a/../b", 7, S_IFDIR},
                {"redirect", "/", 1, S_IFDIR},
                {"redirect", "//", 2, S_IFDIR},
                {"redirect", "/a//b", 5, S_IFDIR},
                {"redirect", "/a/", 3, S_IFDIR},
                {"redirect", "/a\0b", 4, S_IFDIR},
                {"metacopy", "\1\4\0\0", 4, S_IFREG},
                {"metacopy", "\0\5\0\0", 4, S_IFREG},
                {"metacopy", "\0\4\1\0", 4, S_IFREG},
                {"metacopy", "\0", 1, S_IFREG},
                {"lamina.origin", "12", 2, S_IFREG},
                {"lamina.origin", "000000000000000G", 16, S_IFREG},
                {"lamina.origin", "00000000000000000", 17, S_IFREG},
        };
        const char *prefix = as_user ? "user.overlay." : "trusted.overlay.";
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                char name[64], path[512], at[16];
                (void)snprintf(at, sizeof(at), "n%zu", i);
                make(f, f->root, at, cases[i].type | 0755);
                (void)snprintf(path, sizeof(path), "%s/upper/%s", f->scratch, at);
                (void)snprintf(name, sizeof(name), "%s%s", prefix, cases[i].name);
                assert_int_equal(setxattr(path, name, cases[i].value, cases[i].len, 0), 0);
                struct ffs_upper_entry e;
                assert_int_equal(ffs_upper_look(f->u, f->root, at, &e), -EUCLEAN);
                assert_null(e.redirect);
        }
}

static void hostile_overrides(void **state)
{
        struct fixture *f = *state;
        static const char *const bad[] = {
                "",
                "0",
                "0:0",
                "0:0:",
                "0:0:888",
                "-1:0:644",
                "0:0:0644:",
                "0:0:0644:x",
                "0:0:0644:dir",
                "0:0:644:symlink",
                "0:0:644 ",
                "0:0:0200000",
                "4294967295:0:644",
                "0:0:644:char",
                "0:0:644:char-1",
                "0:0:644:char-1-",
                "0:0:644:char-1-2x",
                "0:0:644:file-1-2",
                " 0:0:644",
                "0:0:644:filee",
        };
        make(f, f->root, "f", S_IFREG | 0644);
        cas_cleanup_free char *path = cas_xasprintf("%s/upper/f", f->scratch);
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct ffs_upper_entry e;
                assert_int_equal(setxattr(path, FFS_OVERRIDE_XATTR, bad[i], strlen(bad[i]), 0), 0);
                int rc = ffs_upper_look(f->u, f->root, "f", &e);
                if (rc != (as_user ? -EUCLEAN : 0))
                        fail_msg("\"%s\": %d", bad[i], rc);
        }
        static const struct {
                const char *text;
                mode_t mode;
        } good[] = {{"1:2:0100755", S_IFREG | 0755}, /* as some write it */
                    {"1:2:644", S_IFREG | 0644},
                    {"1:2:04755:file", S_IFREG | 04755},
                    {"1:2:0:pipe", S_IFIFO},
                    {"1:2:0600:char-0-0", S_IFCHR | 0600}};
        for (size_t i = 0; i < CAS_COUNT(good) && as_user; i++) {
                assert_int_equal(
                        setxattr(path, FFS_OVERRIDE_XATTR, good[i].text, strlen(good[i].text), 0),
                        0);
                assert_int_equal(shown(f, f->root, "f").st_mode, good[i].mode);
                assert_int_equal(shown(f, f->root, "f").st_gid, 2);
        }
}

static void index_names(void **state CAS_UNUSED)
{
        uint8_t uuid[16];
        uint64_t nid;
        assert_true(ffs_upper_index_name_parse(
                "00fb210081aefa0276e63e4374b3c9c9ff9f71e63e010000002900000000000000", uuid, &nid));
        assert_true(nid == UINT64_C(0x100000029));
        assert_int_equal(uuid[0], 0xae);
        assert_int_equal(uuid[15], 0x3e);
        assert_true(ffs_upper_index_name_parse(
                "00fb1d0001aefa0276e63e4374b3c9c9ff9f71e63e2900000000000000", uuid, &nid));
        assert_true(nid == 0x29);
        static const char *const bad[] = {
                "",
                "#1f9a",
                "00fb210081aefa0276e63e4374b3c9c9ff9f71e63e0100000029000000000000",
                "00fb210081aefa0276e63e4374b3c9c9ff9f71e63e01000000290000000000000",
                "01fb210081aefa0276e63e4374b3c9c9ff9f71e63e010000002900000000000000",
                "00fb210481aefa0276e63e4374b3c9c9ff9f71e63e010000002900000000000000",
                "00fb210181aefa0276e63e4374b3c9c9ff9f71e63e010000002900000000000000",
                "00fb210082aefa0276e63e4374b3c9c9ff9f71e63e010000002900000000000000",
                "00FB210081aefa0276e63e4374b3c9c9ff9f71e63e010000002900000000000000",
                "00fb210001aefa0276e63e4374b3c9c9ff9f71e63e010000002900000000000000",
                "zzfb210081aefa0276e63e4374b3c9c9ff9f71e63e010000002900000000000000",
        };
        for (size_t i = 0; i < CAS_COUNT(bad); i++)
                assert_false(ffs_upper_index_name_parse(bad[i], uuid, &nid));
}

static int run_group(const char *name)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(types),          TEST(disk_ids),
                TEST(refused),        TEST(over_whiteouts),
                TEST(copied_up),      TEST(marks),
                TEST(unnamed),        TEST(gone),
                TEST(hidden_names),   TEST(renames),
                TEST(attributes),     TEST(xattr_whiteouts),
                TEST(xattrs),         TEST(access_acls),
                TEST(inherited_acls), TEST(paths),
                TEST(litter_goes),    TEST(strange_work),
                TEST(space),          TEST(space_is_given_back_as_it_was_taken),
                TEST(killed),         TEST(threads),
                TEST(hostile_marks),  TEST(hostile_overrides),
                TEST(index_names),
        };
        print_message("%s\n", name);
        return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

/* The calls that Linux has from 6.6 and 6.13 on are unknown from here on. */
static bool hide_new_calls(void)
{
        struct sock_filter filter[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 452, 2, 0), /* fchmodat2 */
                BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 463, 0, 2), /* setxattrat to removexattrat */
                BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 466, 1, 0),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = {CAS_COUNT(filter), filter};
        return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
               prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static bool become_user(void)
{
        as_user = true;
        return geteuid() != 0 ||
               (setgroups(0, NULL) == 0 && setgid(USER_ID) == 0 && setuid(USER_ID) == 0);
}

/* Neither ids nor filters can be taken back. */
static int run_apart(const char *name, bool user, bool old_kernel)
{
        (void)fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
                if ((user && !become_user()) || (old_kernel && !hide_new_calls()))
                        _exit(99);
                _exit(run_group(name) == 0 ? 0 : 1);
        }
        int status;
        return waitpid(pid, &status, 0) == pid && status == 0 ? 0 : 1;
}

int main(void)
{
        (void)umask(0); /* as the server's */
        int failed = 0;
        if (geteuid() != 0) {
                print_message("root's groups need root\n");
        } else {
                failed += run_apart("root", false, false);
                failed += run_apart("root, older kernel", false, true);
        }
        failed += run_apart("a user, owners in xattrs", true, false);
        return failed + run_apart("a user, older kernel", true, true);
}
