/* SPDX-License-Identifier: Apache-2.0 */
/* Mounts of images by the overlay driver, through the public interface. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/support/fusebox.h"
#include "tests/support/listing_text.h"

#define WATCHDOG_S 120

static struct fusebox box;
static struct ffs_image flat, stacked, other;

static const char base_layer[] = "d . 755 0 0 1700000000.987654321\n"
                                 "d bin 755 0 0 1000.5\n"
                                 "f bin/big 300000 755 0 0 1000.123456789\n"
                                 "h bin/big-link bin/big\n"
                                 "f bin/tiny =hello 600 1000 1000 5.6\n"
                                 "d etc 755\nf etc/conf 5000 644\nf etc/gone 5001 644\n"
                                 "l etc/link conf\n"
                                 "d dev\nc dev/null 1 3 666\np dev/fifo 600\n"
                                 "d data 755\nf data/one 70000 644\nf data/two 70001 600 7 8\n";
static const char top_layer[] = "d etc 755\nf etc/conf 6000 640\nw etc/gone\nd new 700\n"
                                "f new/file 9000 644\n";

static uint32_t seed_of(const char *path, uint64_t size_bytes)
{
        struct cas_hash h;
        listing_object(path, size_bytes, &h);
        return cas_get_le32(h.bytes);
}

/* Files get content of our own: the store holds it under its real name. */
static void fill_listing(struct cas_listing *l)
{
        for (size_t i = 0; i < l->count; i++) {
                struct cas_entry *e = &l->entries[i];
                if (e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX)
                        fusebox_add(&box, seed_of(e->path, e->size_bytes), e->size_bytes,
                                    &e->object);
        }
}

static void apply(struct cas_merge *m, const char *text)
{
        struct cas_listing l;
        struct cas_err err = CAS_ERR_INIT;
        listing_from_text(text, &l);
        fill_listing(&l);
        if (cas_merge_apply(m, &l, &err) < 0)
                fail_msg("%s", err.msg);
        cas_listing_release(&l);
}

static void add_tree(struct ffs_image *image, const struct cas_merge *m, bool is_stacked)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_tree_options options = {.stacked = is_stacked};
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        size_t i = image->tree_count++;
        if (cas_merge_write_erofs(m, &options, &bytes, &image->trees[i], &err) < 0)
                fail_msg("%s", err.msg);
        char hex[CAS_DIGEST_TEXT_BYTES];
        (void)snprintf(image->tree_paths[i], sizeof(image->tree_paths[i]), "%s/%s.erofs", box.dir,
                       cas_digest_hex(&image->trees[i], hex));
        FILE *f = fopen(image->tree_paths[i], "we");
        assert_non_null(f);
        assert_int_equal(fwrite(bytes.data, 1, bytes.len_bytes, f), bytes.len_bytes);
        assert_int_equal(fclose(f), 0);
}

static void make_images(void)
{
        cas_cleanup_merge struct cas_merge *m = cas_merge_new();
        cas_cleanup_merge struct cas_merge *base = cas_merge_new();
        struct cas_err err = CAS_ERR_INIT;
        apply(m, base_layer);
        apply(base, base_layer);
        assert_int_equal(cas_merge_mark_base(m, &err), 0);
        apply(m, top_layer);
        (void)snprintf(flat.name, sizeof(flat.name), "flat:1");
        (void)snprintf(stacked.name, sizeof(stacked.name), "stacked:1");
        (void)snprintf(other.name, sizeof(other.name), "other:1");
        cas_digest_of(CAS_DIGEST_SHA256, "flat", 4, &flat.manifest);
        cas_digest_of(CAS_DIGEST_SHA256, "stacked", 7, &stacked.manifest);
        cas_digest_of(CAS_DIGEST_SHA256, "other", 5, &other.manifest);
        add_tree(&flat, m, false);
        add_tree(&stacked, m, true);
        add_tree(&stacked, base, false);
        add_tree(&other, base, false);
}

static int setup(void **state CAS_UNUSED)
{
        fusebox_open(&box, WATCHDOG_S);
        make_images();
        return 0;
}

static int teardown(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        int rc = ffs_host_shutdown(&box.host, &err);
        if (rc < 0)
                fprintf(stderr, "shutdown: %s\n", err.msg);
        fusebox_close(&box);
        return rc;
}

/* ---- helpers ---- */

static const char *at(const char *mount, const char *path)
{
        static char full[8][600];
        static unsigned next;
        char *out = full[next++ % 8];
        (void)snprintf(out, sizeof(full[0]), "%s/%s/%s", box.dir, mount, path);
        return out;
}

static struct stat look(const char *path)
{
        struct stat st;
        if (lstat(path, &st) < 0)
                fail_msg("%s: %s", path, strerror(errno));
        return st;
}

static struct ffs_mount_info mount_image(const struct ffs_image *image, const char *name, bool rw,
                                         const char *upper)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_mount_info info;
        const char *dir = at(name, "");
        (void)mkdir(dir, 0755);
        struct ffs_mount_options options = {.dir = dir, .rw = rw, .upper = upper};
        if (ffs_mount(&box.host, image, &options, "mount:test", &info, &err) < 0)
                fail_msg("mount: %s", err.msg);
        return info;
}

static void unmount(const char *name)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_mount_info info;
        if (ffs_umount(&box.host, at(name, ""), &info, &err) < 0)
                fail_msg("umount: %s", err.msg);
        assert_string_equal(info.lease, "mount:test");
}

/* The file at `path` of the image, where it was made with `size`. */
static void check_content(const char *mount, const char *path, size_t size)
{
        cas_cleanup_fd int fd = open(at(mount, path), O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                fail_msg("%s: %s", path, strerror(errno));
        cas_cleanup_free uint8_t *want = cas_xmalloc(size), *got = cas_xmalloc(size + 1);
        fusebox_content(seed_of(path, size), size, want);
        size_t have = 0;
        for (ssize_t n; (n = read(fd, got + have, size + 1 - have)) > 0;)
                have += (size_t)n;
        assert_int_equal(have, size);
        assert_memory_equal(got, want, size);
}

static void write_file(const char *path, const char *text)
{
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (fd < 0)
                fail_msg("%s: %s", path, strerror(errno));
        assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static size_t entries_in(const char *path)
{
        DIR *d = opendir(path);
        assert_non_null(d);
        size_t n = 0;
        for (struct dirent *e; (e = readdir(d));)
                n += e->d_name[0] != '.';
        (void)closedir(d);
        return n;
}

static bool count_one(void *arg, const struct ffs_mount_info *info CAS_UNUSED)
{
        ++*(int *)arg;
        return true;
}

static int mounts_now(void)
{
        struct cas_err err = CAS_ERR_INIT;
        int count = 0;
        assert_int_equal(ffs_mount_each(&box.host, count_one, &count, &err), 0);
        return count;
}

/* ---- tests ---- */

static void check_tree(const char *m, size_t conf_bytes, bool has_top)
{
        check_content(m, "bin/big", 300000);
        check_content(m, "etc/conf", conf_bytes);
        check_content(m, "data/one", 70000);
        check_content(m, "data/two", 70001);
        struct stat big = look(at(m, "bin/big")), link = look(at(m, "bin/big-link"));
        assert_int_equal(big.st_ino, link.st_ino);
        assert_int_equal(big.st_nlink, 2);
        assert_int_equal(big.st_mtim.tv_nsec, 123456789);
        struct stat two = look(at(m, "data/two"));
        assert_int_equal(two.st_uid, 7);
        assert_int_equal(two.st_mode & 07777, 0600);
        assert_int_equal(access(at(m, "etc/gone"), F_OK) == 0, !has_top);
        assert_int_equal(access(at(m, "new/file"), F_OK) == 0, has_top);
        dev_t dev = look(at(m, "")).st_dev;
        static const char *const paths[] = {"bin",      "bin/big",  "bin/tiny", "etc",
                                            "etc/conf", "etc/link", "dev/null", "dev/fifo"};
        for (size_t i = 0; i < CAS_COUNT(paths); i++)
                assert_int_equal(look(at(m, paths[i])).st_dev, dev);
        char text[8] = "";
        cas_cleanup_fd int fd = open(at(m, "bin/tiny"), O_RDONLY | O_CLOEXEC);
        assert_int_equal(read(fd, text, sizeof(text)), 5);
        assert_string_equal(text, "hello");
}

static void reads_like_the_image(void **state CAS_UNUSED)
{
        (void)mount_image(&flat, "m1", false, NULL);
        check_tree("m1", 6000, true);
        assert_int_equal(open(at("m1", "etc/conf"), O_WRONLY), -1);
        assert_int_equal(errno, EROFS);
        assert_int_equal(open(at("m1", "etc/x"), O_WRONLY | O_CREAT, 0600), -1);
        assert_int_equal(errno, EROFS);
        unmount("m1");
        assert_int_equal(access(at("m1", "bin"), F_OK), -1);
}

static void stacked_trees_are_one_image(void **state CAS_UNUSED)
{
        (void)mount_image(&stacked, "m1", false, NULL);
        (void)mount_image(&other, "m2", false, NULL); /* its tree is the other's base */
        check_tree("m1", 6000, true);
        check_tree("m2", 5000, false);
        assert_int_equal(entries_in(at("run", "trees")), 2);
        unmount("m1");
        check_tree("m2", 5000, false);
        assert_int_equal(entries_in(at("run", "trees")), 1);
        unmount("m2");
        assert_int_equal(entries_in(at("run", "trees")), 0);
        assert_int_equal(entries_in(at("run", "images")), 0);
}

static void mounts_of_an_image_are_one_overlay(void **state CAS_UNUSED)
{
        (void)mount_image(&flat, "m1", false, NULL);
        (void)mount_image(&flat, "m2", false, NULL);
        assert_int_equal(entries_in(at("run", "images")), 1);
        assert_int_equal(mounts_now(), 2);
        struct stat a = look(at("m1", "bin/big")), b = look(at("m2", "bin/big"));
        assert_int_equal(a.st_dev, b.st_dev);
        assert_int_equal(a.st_ino, b.st_ino);
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_mount_info info;
        struct ffs_mount_options again = {.dir = at("m1", "")};
        assert_int_equal(ffs_mount(&box.host, &other, &again, "mount:x", &info, &err), -CAS_E_BUSY);
        unmount("m1");
        check_tree("m2", 6000, true);
        unmount("m2");
        assert_int_equal(mounts_now(), 0);
}

static void busy_mounts_stay(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_mount_info info;
        (void)mount_image(&flat, "m1", false, NULL);
        int fd = open(at("m1", "bin/big"), O_RDONLY | O_CLOEXEC);
        assert_int_equal(ffs_umount(&box.host, at("m1", ""), &info, &err), -CAS_E_BUSY);
        assert_int_equal(ffs_host_shutdown(&box.host, &err), -CAS_E_BUSY);
        check_tree("m1", 6000, true);
        (void)close(fd);
        unmount("m1");
        assert_int_equal(ffs_umount(&box.host, at("m1", ""), &info, &err), -CAS_E_NOTFOUND);
}

static void writes_go_to_the_upper(void **state CAS_UNUSED)
{
        (void)mount_image(&stacked, "w1", true, NULL);
        struct ffs_mount_info info = mount_image(&stacked, "w2", true, NULL);
        assert_true(info.rw);
        assert_int_equal(entries_in(at("store", "sandboxes")), 2);
        struct stat before = look(at("w1", "bin/big"));
        write_file(at("w1", "bin/big"), "tail");
        struct stat after = look(at("w1", "bin/big")), link = look(at("w1", "bin/big-link"));
        assert_int_equal(after.st_size, 300004);
        assert_int_equal(after.st_ino, before.st_ino);
        assert_int_equal(after.st_dev, before.st_dev);
        assert_int_equal(link.st_size, 300004); /* copy-up kept the hard link */
        assert_int_equal(link.st_ino, after.st_ino);
        assert_int_equal(rename(at("w1", "data"), at("w1", "moved")), 0); /* redirect_dir */
        assert_int_equal(unlink(at("w1", "etc/conf")), 0);
        check_tree("w2", 6000, true);
        /* A change of mode copies no data. */
        assert_int_equal(chmod(at("w2", "bin/big"), 0700), 0);
        struct stat st = look(at("w2", "bin/big"));
        assert_int_equal(st.st_mode & 07777, 0700);
        check_content("w2", "bin/big", 300000);
        cas_cleanup_free char *upper = cas_xasprintf("%s/upper/bin/big", info.upper);
        st = look(upper);
        assert_int_equal(st.st_size, 300000);
        assert_true(st.st_blocks < 64);
        unmount("w1");
        unmount("w2");
        assert_int_equal(entries_in(at("store", "sandboxes")), 0);
}

static void uppers_belong_to_their_trees(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_mount_info info;
        char upper[600];
        (void)snprintf(upper, sizeof(upper), "%s", at("upper", ""));
        (void)mount_image(&flat, "w1", true, upper);
        write_file(at("w1", "etc/mine"), "kept");
        struct ffs_mount_options options = {.dir = at("w2", ""), .upper = upper};
        assert_int_equal(ffs_mount(&box.host, &flat, &options, "mount:x", &info, &err),
                         -CAS_E_BUSY); /* in use */
        unmount("w1");
        err = (struct cas_err)CAS_ERR_INIT;
        assert_int_equal(ffs_mount(&box.host, &stacked, &options, "mount:x", &info, &err),
                         -CAS_E_INVALID);
        assert_int_equal(mounts_now(), 0);
        (void)mount_image(&flat, "w1", true, upper);
        assert_int_equal(look(at("w1", "etc/mine")).st_size, 4);
        unmount("w1");
        /* An upper that somebody else made is not taken over. */
        (void)mkdir(at("foreign", ""), 0755);
        (void)mkdir(at("foreign", "upper"), 0755);
        write_file(at("foreign", "upper/file"), "x");
        options.upper = at("foreign", "");
        assert_int_equal(ffs_mount(&box.host, &flat, &options, "mount:x", &info, &err),
                         -CAS_E_INVALID);
}

static void mounts_survive_a_killed_fs(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        (void)mount_image(&stacked, "m1", false, NULL);
        for (int i = 0; i < 3; i++) {
                assert_int_equal(ffs_hold_ask(box.run_dir, "replace", &box.serving, &err), 0);
                int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
                (void)!write(fd, "3", 1);
                (void)close(fd);
                check_tree("m1", 6000, true);
        }
        unmount("m1");
}

static void a_dead_host_is_begun_anew(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        char path[700];
        (void)mount_image(&flat, "m1", false, NULL);
        assert_int_equal(ffs_hold_ask(box.run_dir, "status", &box.serving, &err), 0);
        (void)snprintf(path, sizeof(path), "%s/fusectl/%u/abort", box.dir, box.serving.dev_minor);
        (void)mkdir(at("fusectl", ""), 0700);
        (void)mount("fusectl", at("fusectl", ""), "fusectl", 0, NULL);
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(write(fd, "1", 1), 1);
        (void)umount2(at("fusectl", ""), MNT_DETACH);
        /* What stood on the aborted connection cannot be helped; what comes does not suffer. */
        (void)mount_image(&flat, "m2", false, NULL);
        check_tree("m2", 6000, true);
        unmount("m1");
        unmount("m2");
}

static void reports_what_it_cannot_do(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_mount_info info;
        struct ffs_mount_options options = {
                .dir = at("m1", ""), .driver = FFS_DRIVER_OVERLAY, .pages = FFS_PAGE_MODE_INODE};
        assert_int_equal(ffs_mount(&box.host, &flat, &options, "l", &info, &err), -CAS_E_INVALID);
        options = (struct ffs_mount_options){.dir = at("absent", "")};
        assert_int_equal(ffs_mount(&box.host, &flat, &options, "l", &info, &err), -CAS_E_NOTFOUND);
        (void)mkdir(at("m-\xff", ""), 0755);
        options.dir = at("m-\xff", "");
        assert_int_equal(ffs_mount(&box.host, &flat, &options, "l", &info, &err), -CAS_E_INVALID);
        struct ffs_image broken = flat;
        cas_digest_of(CAS_DIGEST_SHA256, "x", 1, &broken.trees[0]);
        (void)snprintf(broken.tree_paths[0], sizeof(broken.tree_paths[0]), "%s/no-tree", box.dir);
        options.dir = at("m1", "");
        assert_int_equal(ffs_mount(&box.host, &broken, &options, "l", &info, &err),
                         -CAS_E_NOTFOUND);
        write_file(broken.tree_paths[0], "this is no EROFS image");
        assert_true(ffs_mount(&box.host, &broken, &options, "l", &info, &err) < 0);
        assert_int_equal(mounts_now(), 0);
        assert_int_equal(entries_in(at("run", "trees")), 0);
}

static void mounts_come_and_go(void **state CAS_UNUSED)
{
        (void)mount_image(&flat, "m1", false, NULL);
        for (int i = 0; i < 20; i++) {
                (void)mount_image(&stacked, "m2", false, NULL);
                unmount("m2");
        }
        unmount("m1");
}

int main(int argc, char **argv)
{
        int status;
        if (fusebox_is_process(argc, argv, &status))
                return status;
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(reads_like_the_image),
                cmocka_unit_test(stacked_trees_are_one_image),
                cmocka_unit_test(mounts_of_an_image_are_one_overlay),
                cmocka_unit_test(busy_mounts_stay),
                cmocka_unit_test(writes_go_to_the_upper),
                cmocka_unit_test(uppers_belong_to_their_trees),
                cmocka_unit_test(mounts_survive_a_killed_fs),
                cmocka_unit_test(a_dead_host_is_begun_anew),
                cmocka_unit_test(reports_what_it_cannot_do),
                cmocka_unit_test(mounts_come_and_go),
        };
        if (!fusebox_possible()) {
                printf("skipped: needs root and /dev/fuse\n");
                return 0;
        }
        return cmocka_run_group_tests_name("mount", tests, setup, teardown);
}
