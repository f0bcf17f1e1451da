/* SPDX-License-Identifier: Apache-2.0 */
/* Uppers written by us as overlayfs shows them, and uppers written by overlayfs as we read them: in
 * a mount namespace of its own, over a tree of ours and a directory of objects, with the options of
 * spec/mounts.md. */
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
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "fusefs/upperparts_int.h"
#include "tests/support/kernel_tree.h"
#include "tests/support/listing_text.h"
#include "tests/support/scratch.h"

#define CHILD_SECONDS 120
#define BIG 1000

static const char lower_text[] = "d . 755\n"
                                 "f big 1000 644 1 2 1000\nf moved 1000 600\nf gone =x\n"
                                 "f h1 1000 640\nh h2 h1\nh sub/h3 h1\n"
                                 "d dir 755\nf dir/a =a\nf dir/b =b\nd dir/deep 700\n"
                                 "f dir/deep/f 1000\n"
                                 "d hidden 755\nf hidden/x =x\nd other 755\nf other/y =y\n"
                                 "d emptied 755\nf emptied/e =e\nf sub/m 1000\n";

struct fixture {
        char *dir; /* tree, objects/, o/upper o/work, root/ */
        int dir_fd, o_fd;
        uint8_t uuid[16];
        uint64_t h1_nid;
        enum ffs_upper_format format;
        struct ffs_upperlayer *u;
        int root;
};

/* ---- lower ---- */

static char *path_of(struct fixture *f, const char *name)
{
        return cas_xasprintf("%s/%s", f->dir, name);
}

static void write_bytes(const char *path, const void *data, size_t len)
{
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, data, len), len);
}

/* The object holds the path that it stands for. */
static void write_object(struct fixture *f, const char *path)
{
        struct cas_hash hash;
        char hex[CAS_HASH_HEX_BYTES], data[BIG] = "";
        listing_object(path, BIG, &hash);
        (void)cas_hash_hex(&hash, hex);
        cas_cleanup_free char *dir = cas_xasprintf("%s/objects/%.2s", f->dir, hex);
        cas_cleanup_free char *file = cas_xasprintf("%s/%s", dir, hex + 2);
        (void)mkdir(dir, 0700);
        (void)snprintf(data, sizeof(data), "%s", path);
        write_bytes(file, data, sizeof(data));
}

static void make_lower(struct fixture *f)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_merge struct cas_merge *m = cas_merge_new();
        cas_cleanup_buf struct cas_buf image = CAS_BUF_INIT;
        struct cas_digest digest;
        const struct cas_tree_options flat = {.stacked = false};
        assert_int_equal(merge_text(m, lower_text, &err), 0);
        assert_int_equal(cas_merge_write_erofs(m, &flat, &image, &digest, &err), 0);
        memcpy(f->uuid, image.data + 1024 + 48, sizeof(f->uuid));
        cas_cleanup_tree struct cas_tree *t = NULL;
        assert_int_equal(cas_tree_open_mem(image.data, image.len_bytes, &t, &err), 0);
        assert_int_equal(cas_tree_lookup(t, cas_tree_root(t), "h1", 2, &f->h1_nid, &err), 0);
        cas_cleanup_free char *file = path_of(f, "tree.erofs"), *at = path_of(f, "tree");
        write_bytes(file, image.data, image.len_bytes);
        assert_int_equal(mount(file, at, "erofs", MS_RDONLY, ""), 0);
        static const char *const objects[] = {"big", "moved", "h1", "dir/deep/f", "sub/m"};
        for (size_t i = 0; i < CAS_COUNT(objects); i++)
                write_object(f, objects[i]);
}

static int setup(void **state)
{
        static const char *const dirs[] = {"tree", "objects", "o", "root", "o/upper", "o/work"};
        struct fixture *f = cas_xcalloc(1, sizeof(*f));
        f->dir = scratch_new();
        for (size_t i = 0; i < CAS_COUNT(dirs); i++) {
                cas_cleanup_free char *path = path_of(f, dirs[i]);
                assert_int_equal(mkdir(path, 0755), 0);
        }
        f->dir_fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        f->o_fd = openat(f->dir_fd, "o", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        make_lower(f);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        cas_cleanup_free char *tree = path_of(f, "tree");
        if (f->u)
                ffs_upperlayer_close(f->u);
        (void)umount2(tree, MNT_DETACH);
        (void)close(f->o_fd);
        (void)close(f->dir_fd);
        scratch_free(f->dir);
        free(f);
        return 0;
}

static void mount_overlay(struct fixture *f)
{
        if (f->u)
                ffs_upperlayer_close(f->u);
        f->u = NULL;
        const char *options = f->format == FFS_UPPER_USER
                                      ? "userxattr"
                                      : "metacopy=on,redirect_dir=on,xino=on,index=on";
        cas_cleanup_free char *all = cas_xasprintf(
                "%s,lowerdir=%s/tree::%s/objects,upperdir=%s/o/upper,workdir=%s/o/work", options,
                f->dir, f->dir, f->dir, f->dir);
        cas_cleanup_free char *root = path_of(f, "root");
        if (mount("overlay", root, "overlay", 0, all) < 0)
                fail_msg("overlay: %s", strerror(errno));
}

static void unmount_overlay(struct fixture *f)
{
        cas_cleanup_free char *root = path_of(f, "root");
        assert_int_equal(umount(root), 0);
}

static void open_ours(struct fixture *f)
{
        const struct ffs_upperlayer_config config = {.dir_fd = f->o_fd, .format = f->format};
        assert_int_equal(ffs_upperlayer_open(&config, &f->u), 0);
        f->root = ffs_upperlayer_root_fd(f->u);
}

/* ---- what the kernel shows ---- */

static char *in_root(struct fixture *f, const char *name)
{
        return cas_xasprintf("%s/root/%s", f->dir, name);
}

static struct stat stat_of(struct fixture *f, const char *name)
{
        struct stat st;
        cas_cleanup_free char *path = in_root(f, name);
        if (lstat(path, &st) < 0)
                fail_msg("%s: %s", name, strerror(errno));
        return st;
}

static void is_gone(struct fixture *f, const char *name)
{
        struct stat st;
        cas_cleanup_free char *path = in_root(f, name);
        assert_int_equal(lstat(path, &st), -1);
        assert_int_equal(errno, ENOENT);
}

static void holds(struct fixture *f, const char *name, const char *text)
{
        char data[BIG + 1] = "";
        cas_cleanup_free char *path = in_root(f, name);
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, data, BIG) < 0)
                fail_msg("%s: %s", name, strerror(errno));
        assert_string_equal(data, text);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
        return strcmp((*a)->d_name, (*b)->d_name);
}

static void lists(struct fixture *f, const char *name, const char *names)
{
        cas_cleanup_free char *path = in_root(f, name);
        char text[512] = "";
        struct dirent **list;
        int count = scandir(path, &list, NULL, by_name);
        assert_true(count >= 0);
        for (int i = 0; i < count; i++) {
                size_t used = strlen(text);
                if (list[i]->d_name[0] != '.')
                        (void)snprintf(text + used, sizeof(text) - used, "%s%s", used ? " " : "",
                                       list[i]->d_name);
                free(list[i]);
        }
        free(list);
        assert_string_equal(text, names);
}

static void make(struct fixture *f, int dirfd, const char *name, struct ffs_upper_new what)
{
        assert_int_equal(ffs_upper_make(f->u, dirfd, name, &what, NULL), 0);
}

/* ---- ours, read by the kernel ---- */

static void write_names(struct fixture *f)
{
        const int r = f->root;
        assert_int_equal(ffs_upper_whiteout(f->u, r, "gone"), 0);
        /* a directory that replaces one */
        assert_int_equal(ffs_upper_whiteout(f->u, r, "hidden"), 0);
        make(f, r, "hidden", (struct ffs_upper_new){.mode = S_IFDIR | 0711, .opaque = true});
        cas_cleanup_fd int hidden = -1, emptied = -1, dir = -1;
        assert_int_equal(ffs_upper_open(f->u, r, "hidden", O_PATH, &hidden), 0);
        make(f, hidden, "new", (struct ffs_upper_new){.mode = S_IFREG | 0600});
        /* one that was emptied, and is taken over by a rename of a merged one */
        make(f, r, "emptied",
             (struct ffs_upper_new){.mode = S_IFDIR | 0755, .set_mtime = true, .mtime_s = 7});
        assert_int_equal(ffs_upper_open(f->u, r, "emptied", O_PATH, &emptied), 0);
        assert_int_equal(ffs_upper_whiteout(f->u, emptied, "e"), 0);
        make(f, r, "dir",
             (struct ffs_upper_new){.mode = S_IFDIR | 0755, .set_mtime = true, .mtime_s = 7});
        assert_int_equal(ffs_upper_open(f->u, r, "dir", O_PATH, &dir), 0);
        assert_int_equal(ffs_upper_whiteout(f->u, dir, "a"), 0);
        make(f, dir, "c", (struct ffs_upper_new){.mode = S_IFREG | 0600, .uid = 3});
        assert_int_equal(ffs_upper_set_redirect(f->u, dir, "/dir"), 0);
        assert_int_equal(ffs_upper_rename(f->u, r, "dir", r, "emptied", 0, true), 0);
}

static void write_data(struct fixture *f)
{
        const int r = f->root;
        make(f, r, "big",
             (struct ffs_upper_new){.mode = S_IFREG | 0600,
                                    .uid = 8,
                                    .gid = 9,
                                    .metacopy = true,
                                    .size_bytes = BIG,
                                    .set_mtime = true,
                                    .mtime_s = 1000,
                                    .has_origin = true,
                                    .origin = 77});
        make(f, r, "moved2",
             (struct ffs_upper_new){.mode = S_IFREG | 0640,
                                    .metacopy = true,
                                    .size_bytes = BIG,
                                    .set_mtime = true,
                                    .redirect = "/moved"});
        assert_int_equal(ffs_upper_whiteout(f->u, r, "moved"), 0);
        /* an inode of several names, copied up under all of them */
        cas_cleanup_fd int fd = -1, sub = -1;
        struct ffs_upper_new what = {.mode = S_IFREG | 0640,
                                     .metacopy = true,
                                     .size_bytes = BIG,
                                     .set_mtime = true,
                                     .redirect = "/h1"};
        make(f, r, "sub",
             (struct ffs_upper_new){.mode = S_IFDIR | 0755, .set_mtime = true, .mtime_s = 7});
        assert_int_equal(ffs_upper_open(f->u, r, "sub", O_PATH, &sub), 0);
        assert_int_equal(ffs_upper_make(f->u, r, "h1", &what, &fd), 0);
        assert_int_equal(ffs_upper_link(f->u, fd, r, "h2"), 0);
        assert_int_equal(ffs_upper_link(f->u, fd, sub, "h3"), 0);
        /* and one with data */
        int data;
        assert_int_equal(ffs_upper_begin(f->u, &data), 0);
        assert_int_equal(write(data, "mine", 4), 4);
        what = (struct ffs_upper_new){.mode = S_IFREG | 04711, .set_mtime = true, .mtime_s = 5};
        assert_int_equal(ffs_upper_finish(f->u, data, &what, sub, "m", false), 0);
        assert_int_equal(ffs_upper_setxattr(f->u, data, "trusted.overlay.opaque", "z", 1, 0), 0);
        (void)close(data);
}

static void read_by_kernel(struct fixture *f)
{
        lists(f, "", "big emptied h1 h2 hidden moved2 other sub");
        is_gone(f, "gone");
        is_gone(f, "moved");
        is_gone(f, "dir");
        lists(f, "hidden", "new");
        lists(f, "emptied", "b c deep");
        lists(f, "emptied/deep", "f");
        holds(f, "emptied/b", "b");
        holds(f, "emptied/deep/f", "dir/deep/f");
        assert_int_equal(stat_of(f, "emptied/c").st_uid, 3);
        struct stat st = stat_of(f, "big");
        assert_int_equal(st.st_mode, S_IFREG | 0600);
        assert_int_equal(st.st_uid, 8);
        assert_int_equal(st.st_size, BIG);
        assert_int_equal(st.st_mtim.tv_sec, 1000);
        holds(f, "big", "big");
        holds(f, "moved2", "moved");
        holds(f, "sub/m", "mine");
        assert_int_equal(stat_of(f, "sub/m").st_mode, S_IFREG | 04711);
        cas_cleanup_free char *m = in_root(f, "sub/m"), *big = in_root(f, "big");
        char value[8], list[256];
        assert_int_equal(getxattr(m, "trusted.overlay.opaque", value, sizeof(value)), 1);
        assert_int_equal(listxattr(big, list, sizeof(list)), 0);
        st = stat_of(f, "h1");
        assert_true(st.st_ino == stat_of(f, "h2").st_ino);
        assert_true(st.st_ino == stat_of(f, "sub/h3").st_ino);
        assert_int_equal(st.st_nlink, 3);
        holds(f, "sub/h3", "h1");
}

/* The kernel goes on with it: it was not mounted read-only, and what it does works. */
static void goes_on(struct fixture *f)
{
        cas_cleanup_free char *h2 = in_root(f, "h2"), *big = in_root(f, "big"),
                              *emptied = in_root(f, "emptied"), *dir = in_root(f, "dir"),
                              *gone = in_root(f, "gone"), *moved2 = in_root(f, "moved2");
        write_bytes(h2, "h2 has it", 9);
        holds(f, "sub/h3", "h2 has it");
        assert_int_equal(chmod(big, 0604), 0);
        assert_int_equal(rename(emptied, dir), 0);
        assert_int_equal(rename(moved2, gone), 0);
        lists(f, "dir", "b c deep");
        holds(f, "gone", "moved");
}

static void ours_by_the_kernel(void **state)
{
        struct fixture *f = *state;
        open_ours(f);
        write_names(f);
        write_data(f);
        mount_overlay(f);
        read_by_kernel(f);
        unmount_overlay(f);
        mount_overlay(f); /* what it wrote when it looked does not disturb it */
        read_by_kernel(f);
        goes_on(f);
        unmount_overlay(f);
        open_ours(f);
        struct ffs_upper_entry e;
        assert_int_equal(ffs_upper_look(f->u, f->root, "dir", &e), 0);
        assert_false(e.opaque);
        assert_string_equal(e.redirect, "/dir");
        ffs_upper_entry_release(&e);
        assert_int_equal(ffs_upper_look(f->u, f->root, "gone", &e), 0);
        assert_true(e.metacopy);
        assert_string_equal(e.redirect, "/moved");
        ffs_upper_entry_release(&e);
        assert_int_equal(ffs_upper_look(f->u, f->root, "h1", &e), 0);
        assert_false(e.metacopy);
        assert_int_equal(e.st.st_size, 9);
        ffs_upper_entry_release(&e);
        assert_int_equal(ffs_upper_look(f->u, f->root, "big", &e), 0);
        assert_true(e.metacopy && e.has_origin && e.origin == 77);
        ffs_upper_entry_release(&e);
}

/* ---- the kernel's, read by us ---- */

static void write_by_kernel(struct fixture *f)
{
        cas_cleanup_free char *root = in_root(f, "");
        cas_cleanup_fd int at = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(unlinkat(at, "gone", 0), 0);
        assert_int_equal(unlinkat(at, "hidden/x", 0), 0);
        assert_int_equal(unlinkat(at, "hidden", AT_REMOVEDIR), 0);
        assert_int_equal(mkdirat(at, "hidden", 0700), 0);
        assert_int_equal(unlinkat(at, "dir/a", 0), 0);
        assert_int_equal(mknodat(at, "dir/fifo", S_IFIFO | 0600, 0), 0);
        assert_int_equal(mkdirat(at, "other/new", 0700), 0);
}

static void write_more_by_kernel(struct fixture *f)
{
        cas_cleanup_free char *root = in_root(f, "");
        cas_cleanup_fd int at = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(fchmodat(at, "big", 0600, 0), 0);
        assert_int_equal(renameat(at, "moved", at, "moved2"), 0);
        assert_int_equal(renameat(at, "dir", at, "sub/dir"), 0);
        assert_int_equal(fchmodat(at, "h1", 0604, 0), 0);
        assert_int_equal(unlinkat(at, "h2", 0), 0);
        cas_cleanup_free char *m = in_root(f, "sub/m");
        assert_int_equal(setxattr(m, "trusted.overlay.whiteout", "x", 1, 0), 0);
}

static enum ffs_upper_kind kind_of(struct fixture *f, int dirfd, const char *name)
{
        struct ffs_upper_entry e;
        assert_int_equal(ffs_upper_look(f->u, dirfd, name, &e), 0);
        ffs_upper_entry_release(&e);
        return e.kind;
}

static void read_names(struct fixture *f, const char *dir_path)
{
        struct ffs_upper_entry e;
        assert_int_equal(kind_of(f, f->root, "gone"), FFS_UPPER_WHITEOUT);
        assert_int_equal(ffs_upper_look(f->u, f->root, "hidden", &e), 0);
        assert_true(e.opaque);
        ffs_upper_entry_release(&e);
        int dir;
        assert_int_equal(ffs_upperlayer_open_dir(f->u, dir_path, &dir), 0);
        assert_int_equal(kind_of(f, dir, "a"), FFS_UPPER_WHITEOUT);
        assert_int_equal(ffs_upper_look(f->u, dir, "fifo", &e), 0);
        assert_int_equal(e.st.st_mode, S_IFIFO | 0600);
        (void)close(dir);
}

struct indexed {
        struct fixture *f;
        int count;
};

static bool on_indexed(void *arg, const uint8_t uuid[16], uint64_t nid, int fd)
{
        struct indexed *i = arg;
        int sub;
        assert_memory_equal(uuid, i->f->uuid, 16);
        assert_true(nid == i->f->h1_nid);
        /* h2 is a whiteout, and h3 has no name in the upper yet */
        assert_int_equal(ffs_upperlayer_open_dir(i->f->u, "sub", &sub), 0);
        assert_int_equal(ffs_upper_link(i->f->u, fd, sub, "h3"), 0);
        (void)close(sub);
        i->count++;
        return true;
}

static void kernels_by_us(void **state)
{
        struct fixture *f = *state;
        mount_overlay(f);
        write_by_kernel(f);
        write_more_by_kernel(f);
        unmount_overlay(f);
        open_ours(f);
        read_names(f, "sub/dir");
        struct ffs_upper_entry e;
        assert_int_equal(kind_of(f, f->root, "dir"), FFS_UPPER_WHITEOUT);
        assert_int_equal(kind_of(f, f->root, "moved"), FFS_UPPER_WHITEOUT);
        assert_int_equal(kind_of(f, f->root, "h2"), FFS_UPPER_WHITEOUT);
        assert_int_equal(ffs_upper_look(f->u, f->root, "big", &e), 0);
        assert_true(e.metacopy && !e.redirect && !e.has_origin);
        assert_int_equal(e.st.st_size, BIG);
        ffs_upper_entry_release(&e);
        assert_int_equal(ffs_upper_look(f->u, f->root, "moved2", &e), 0);
        assert_true(e.metacopy);
        assert_string_equal(e.redirect, "moved");
        ffs_upper_entry_release(&e);
        int sub;
        assert_int_equal(ffs_upperlayer_open_dir(f->u, "sub", &sub), 0);
        assert_int_equal(ffs_upper_look(f->u, sub, "dir", &e), 0);
        assert_string_equal(e.redirect, "/dir");
        ffs_upper_entry_release(&e);
        cas_cleanup_fd int m = -1;
        assert_int_equal(ffs_upper_open(f->u, sub, "m", O_RDONLY, &m), 0);
        char value[8];
        assert_int_equal(ffs_upper_getxattr(f->u, m, "trusted.overlay.whiteout", value, 8), 1);
        assert_int_equal(ffs_upper_listxattr(f->u, m, NULL, 0), 25);
        (void)close(sub);
        /* links by the index become links */
        struct indexed indexed = {.f = f};
        assert_int_equal(ffs_upperlayer_index_each(f->u, on_indexed, &indexed), 0);
        assert_int_equal(indexed.count, 1);
        assert_int_equal(ffs_upperlayer_index_drop(f->u), 0);
        mount_overlay(f);
        struct stat st = stat_of(f, "h1");
        assert_int_equal(st.st_nlink, 2);
        assert_int_equal(st.st_mode, S_IFREG | 0604);
        assert_true(st.st_ino == stat_of(f, "sub/h3").st_ino);
        is_gone(f, "h2");
        holds(f, "sub/h3", "h1");
        holds(f, "sub/dir/b", "b");
        unmount_overlay(f);
}

/* ---- the format of normal users ---- */

static void user_format(void **state)
{
        struct fixture *f = *state;
        f->format = FFS_UPPER_USER;
        mount_overlay(f);
        write_by_kernel(f);
        unmount_overlay(f);
        open_ours(f);
        read_names(f, "dir");
        int dir;
        assert_int_equal(ffs_upper_whiteout(f->u, f->root, "moved"), 0);
        assert_int_equal(ffs_upper_whiteout(f->u, f->root, "other"), -ENOTEMPTY);
        assert_int_equal(ffs_upperlayer_open_dir(f->u, "hidden", &dir), 0);
        assert_int_equal(ffs_upper_setxattr(f->u, dir, "user.overlay.opaque", "q", 1, 0), 0);
        make(f, dir, "in", (struct ffs_upper_new){.mode = S_IFDIR | 0700, .opaque = true});
        (void)close(dir);
        mount_overlay(f);
        lists(f, "", "big dir emptied h1 h2 hidden other sub");
        lists(f, "hidden", "in");
        lists(f, "dir", "b deep fifo");
        holds(f, "dir/b", "b"); /* larger files are redirects by trusted. xattrs of the tree */
        cas_cleanup_free char *hidden = in_root(f, "hidden");
        char value[8];
        assert_int_equal(getxattr(hidden, "user.overlay.opaque", value, sizeof(value)), 1);
        unmount_overlay(f);
}

/* ---- a user's own overlayfs, in a user namespace ---- */

#define USER_ID 65533

static bool write_text(const char *path, const char *text)
{
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
        return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

static void become_user(struct fixture *f, bool in_namespace)
{
        assert_int_equal(setgroups(0, NULL), 0);
        assert_int_equal(setgid(USER_ID), 0);
        assert_int_equal(setuid(USER_ID), 0);
        (void)prctl(PR_SET_DUMPABLE, 1); /* /proc/self is its own again */
        if (!in_namespace)
                return;
        assert_int_equal(unshare(CLONE_NEWUSER | CLONE_NEWNS), 0);
        assert_true(write_text("/proc/self/setgroups", "deny"));
        assert_true(write_text("/proc/self/uid_map", "0 65533 1"));
        assert_true(write_text("/proc/self/gid_map", "0 65533 1"));
        cas_cleanup_free char *options =
                cas_xasprintf("userxattr,lowerdir=%s/low,upperdir=%s/o/upper,workdir=%s/o/work",
                              f->dir, f->dir, f->dir);
        cas_cleanup_free char *root = path_of(f, "root");
        assert_int_equal(mount("overlay", root, "overlay", 0, options), 0);
}

/* fn's failure is its process's. */
static void as_user(struct fixture *f, bool in_namespace, void (*fn)(struct fixture *f))
{
        pid_t pid = fork();
        if (pid == 0) {
                become_user(f, in_namespace);
                if (!in_namespace) {
                        const struct ffs_upperlayer_config config = {.dir_fd = f->o_fd,
                                                                     .format = FFS_UPPER_USER,
                                                                     .owners_in_xattrs = true};
                        assert_int_equal(ffs_upperlayer_open(&config, &f->u), 0);
                        f->root = ffs_upperlayer_root_fd(f->u);
                }
                fn(f);
                _exit(0);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

static void users_kernel_writes(struct fixture *f)
{
        cas_cleanup_free char *root = in_root(f, "");
        cas_cleanup_fd int at = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(unlinkat(at, "gone", 0), 0);
        assert_int_equal(unlinkat(at, "d/x", 0), 0);
        assert_int_equal(unlinkat(at, "d", AT_REMOVEDIR), 0);
        assert_int_equal(mkdirat(at, "d", 0750), 0);
        assert_int_equal(mknodat(at, "d/fifo", S_IFIFO | 0640, 0), 0);
}

static void user_reads_and_writes(struct fixture *f)
{
        struct ffs_upper_entry e;
        assert_int_equal(kind_of(f, f->root, "gone"), FFS_UPPER_WHITEOUT);
        assert_int_equal(ffs_upper_look(f->u, f->root, "d", &e), 0);
        assert_true(e.opaque && e.st.st_uid == 0 && e.st.st_gid == 0);
        int d;
        assert_int_equal(ffs_upper_open(f->u, f->root, "d", O_PATH, &d), 0);
        assert_int_equal(ffs_upper_look(f->u, d, "fifo", &e), 0);
        assert_int_equal(e.st.st_mode, S_IFIFO | 0640);
        make(f, d, "mine", (struct ffs_upper_new){.mode = S_IFREG | 0640, .uid = 33});
        assert_int_equal(ffs_upper_whiteout(f->u, f->root, "kept"), 0);
        make(f, f->root, "gone", (struct ffs_upper_new){.mode = S_IFDIR | 0700, .opaque = true});
}

static void users_kernel_reads(struct fixture *f)
{
        lists(f, "", "d gone");
        lists(f, "d", "fifo mine");
        assert_int_equal(stat_of(f, "d/mine").st_mode, S_IFREG | 0640);
}

static void users_own_overlayfs(void **state)
{
        struct fixture *f = *state;
        static const char *const made[] = {"", "low", "low/d", "o", "o/upper", "o/work", "root"};
        static const char *const files[] = {"low/gone", "low/kept", "low/d/x"};
        for (size_t i = 0; i < CAS_COUNT(made); i++) {
                cas_cleanup_free char *path = path_of(f, made[i]);
                assert_true(mkdir(path, 0755) == 0 || errno == EEXIST);
                assert_int_equal(chown(path, USER_ID, USER_ID), 0);
        }
        for (size_t i = 0; i < CAS_COUNT(files); i++) {
                cas_cleanup_free char *path = path_of(f, files[i]);
                write_bytes(path, "x", 1);
                assert_int_equal(chown(path, USER_ID, USER_ID), 0);
        }
        if (access("/proc/self/ns/user", F_OK) < 0)
                skip();
        as_user(f, true, users_kernel_writes);
        as_user(f, false, user_reads_and_writes);
        as_user(f, true, users_kernel_reads);
}

static int run_in_namespace(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(ours_by_the_kernel, setup, teardown),
                cmocka_unit_test_setup_teardown(kernels_by_us, setup, teardown),
                cmocka_unit_test_setup_teardown(user_format, setup, teardown),
                cmocka_unit_test_setup_teardown(users_own_overlayfs, setup, teardown),
        };
        (void)umask(0);
        (void)alarm(CHILD_SECONDS); /* mounts go with the namespace */
        if (unshare(CLONE_NEWNS) < 0 || mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                return 1;
        return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
        if (!kernel_tree_possible())
                return 0;
        (void)fflush(NULL);
        pid_t pid = fork();
        if (pid == 0)
                exit(run_in_namespace());
        int status;
        return waitpid(pid, &status, 0) == pid && status == 0 ? 0 : 1;
}
