/* SPDX-License-Identifier: Apache-2.0 */
/* Mounts by the fuse driver, through the public interface and with the real processes: how
 * connections and volumes come, are shared, outlive killed processes, and go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>

#include "fusefs/fscontrol_int.h"
#include "tests/support/boximage.h"

#define WATCHDOG_S 120
#define BIG_BYTES 300000

static struct fusebox box;
static struct ffs_image one, two;

static const char *const one_layers[] = {"d . 755\nd bin 755\nf bin/big 300000 755 0 0 1000.5\n"
                                         "f bin/tiny =hello 644 1 2\nd etc 755\n"
                                         "f etc/conf 5000 600 3 4\nl etc/link conf\n"};
static const char *const two_layers[] = {"d . 755\nd bin 755\nf bin/big 300000 700 7 7 2000.5\n"
                                         "f bin/tiny =hello 644 1 2\n"};

static int setup(void **state CAS_UNUSED)
{
        fusebox_open(&box, WATCHDOG_S);
        boximage_make(&box, "one:1", one_layers, CAS_COUNT(one_layers), &one);
        boximage_make(&box, "two:1", two_layers, CAS_COUNT(two_layers), &two);
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
        static _Thread_local char full[8][600];
        static _Thread_local unsigned next;
        char *out = full[next++ % 8];
        (void)snprintf(out, sizeof(full[0]), "%s/%s/%s", box.dir, mount, path);
        return out;
}

static void pause_ms(long ms)
{
        (void)nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000},
                        NULL);
}

static struct ffs_mount_info mount_at(const struct ffs_image *image, const char *name,
                                      enum ffs_page_mode pages, bool rw)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_mount_info info;
        (void)mkdir(at(name, ""), 0755);
        struct ffs_mount_options options = {
                .dir = at(name, ""), .driver = FFS_DRIVER_FUSE, .pages = pages, .rw = rw};
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
}

static void drop_caches(void)
{
        cas_cleanup_fd int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
        (void)!write(fd, "3", 1);
}

/* 0, or what is wrong: an errno, or -1 when the content is. */
static int check_big(const char *mount)
{
        static uint8_t want[BIG_BYTES];
        static atomic_bool made;
        if (!atomic_load(&made)) {
                boximage_content("bin/big", BIG_BYTES, want);
                atomic_store(&made, true);
        }
        cas_cleanup_fd int fd = open(at(mount, "bin/big"), O_RDONLY | O_CLOEXEC);
        cas_cleanup_free uint8_t *got = cas_xmalloc(BIG_BYTES + 1);
        if (fd < 0)
                return errno;
        size_t have = 0;
        for (ssize_t n; (n = read(fd, got + have, BIG_BYTES + 1 - have)) != 0;) {
                if (n < 0)
                        return errno;
                have += (size_t)n;
        }
        return have == BIG_BYTES && memcmp(got, want, BIG_BYTES) == 0 ? 0 : -1;
}

static json_t *status(void)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *text = NULL;
        if (ffs_fs_status(box.run_dir, &text, &err) < 0)
                fail_msg("status: %s", err.msg);
        json_t *root = json_loads(text, 0, NULL);
        assert_non_null(root);
        return root;
}

/* Connections, and volumes of them all. */
static void count_served(size_t *connections, size_t *volumes)
{
        json_t *root = status();
        json_t *list = json_object_get(root, "connections"), *c;
        size_t i;
        *connections = json_array_size(list);
        *volumes = 0;
        json_array_foreach(list, i, c)
        {
                *volumes += json_array_size(json_object_get(c, "volumes"));
        }
        json_decref(root);
}

/* Ends are noticed a little later. */
static void await_served(size_t connections, size_t volumes)
{
        size_t c = 0, v = 0;
        for (int i = 0; i < 100; i++) {
                count_served(&c, &v);
                if (c == connections && v == volumes)
                        return;
                pause_ms(20);
        }
        fail_msg("%zu connections and %zu volumes, not %zu and %zu", c, v, connections, volumes);
}

static pid_t fs_pid(void)
{
        struct cas_err err = CAS_ERR_INIT;
        if (ffs_hold_ask(box.run_dir, "status", &box.serving, &err) < 0)
                fail_msg("status: %s", err.msg);
        return box.serving.fs_pid;
}

static pid_t parent_of(pid_t pid)
{
        char path[64], line[512];
        int parent = 0;
        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        FILE *f = fopen(path, "re");
        assert_non_null(f);
        assert_non_null(fgets(line, sizeof(line), f));
        (void)fclose(f);
        assert_int_equal(sscanf(strrchr(line, ')') + 1, " %*c %d", &parent), 1);
        return parent;
}

static struct stat look(const char *path)
{
        struct stat st;
        if (lstat(path, &st) < 0)
                fail_msg("%s: %s", path, strerror(errno));
        return st;
}

/* ---- tests ---- */

static void texts_of_connections(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_tree_spec spec = {.name = "inode-0a",
                                     .pages = FFS_PAGES_INODE,
                                     .shared = true,
                                     .dev_major = 0,
                                     .dev_minor = 4711},
                             back;
        char text[FFS_TREE_TEXT_BYTES];
        ffs_tree_spec_format(&spec, text);
        assert_string_equal(text, "inode-0a inode shared 0:4711");
        assert_int_equal(ffs_tree_spec_parse(text, &back, &err), 0);
        assert_string_equal(back.name, spec.name);
        assert_true(back.shared);
        assert_int_equal(back.pages, FFS_PAGES_INODE);
        assert_int_equal(back.dev_minor, 4711);
        static const char *const wrong[] = {
                "",
                "a",
                "a inode",
                "a inode shared",
                "a inode shared 0:1 x",
                "A inode shared 0:1",
                "a/b inode shared 0:1",
                "a pages shared 0:1",
                "a inode common 0:1",
                "a inode shared 0",
                "0123456789012345678901234567890123456789 inode shared 0:1",
        };
        for (size_t i = 0; i < CAS_COUNT(wrong); i++) {
                if (ffs_tree_spec_parse(wrong[i], &back, &err) != -CAS_E_INVALID)
                        fail_msg("taken: %s", wrong[i]);
        }
}

static void check_one(const char *m)
{
        assert_int_equal(check_big(m), 0);
        struct stat st = look(at(m, "bin/tiny"));
        assert_int_equal(st.st_mode, S_IFREG | 0644);
        assert_int_equal(st.st_uid, 1);
        assert_int_equal(st.st_gid, 2);
        assert_int_equal(look(at(m, "bin/big")).st_mtim.tv_nsec, 5);
        char text[16] = "";
        assert_int_equal(readlink(at(m, "etc/link"), text, sizeof(text)), 4);
        assert_string_equal(text, "conf");
        cas_cleanup_fd int fd = open(at(m, "bin/tiny"), O_RDONLY | O_CLOEXEC);
        assert_int_equal(read(fd, text, sizeof(text)), 5);
        assert_memory_equal(text, "hello", 5);
}

static void each_mode_shows_the_image(void **state CAS_UNUSED)
{
        static const struct {
                enum ffs_page_mode mode;
                const char *pages;
        } modes[] = {{FFS_PAGE_MODE_AUTO, NULL},
                     {FFS_PAGE_MODE_INODE, "inode"},
                     {FFS_PAGE_MODE_PRIVATE, "private"}};
        for (size_t i = 0; i < CAS_COUNT(modes); i++) {
                struct ffs_mount_info info = mount_at(&one, "m1", modes[i].mode, false);
                assert_string_equal(info.driver, "fuse");
                if (modes[i].pages)
                        assert_string_equal(info.pages, modes[i].pages);
                check_one("m1");
                assert_int_equal(open(at("m1", "bin/tiny"), O_WRONLY), -1);
                assert_int_equal(errno, EROFS);
                unmount("m1");
                assert_int_equal(access(at("m1", "bin"), F_OK), -1);
                await_served(0, 0);
        }
}

static void mounts_share_connections_and_volumes(void **state CAS_UNUSED)
{
        (void)mount_at(&one, "m1", FFS_PAGE_MODE_INODE, false);
        (void)mount_at(&one, "m2", FFS_PAGE_MODE_INODE, false);
        await_served(1, 1);
        (void)mount_at(&two, "m3", FFS_PAGE_MODE_INODE, false);
        await_served(1, 2);
        (void)mount_at(&one, "m4", FFS_PAGE_MODE_PRIVATE, false);
        await_served(2, 3);
        struct stat a = look(at("m1", "bin/big")), b = look(at("m2", "bin/big"));
        struct stat c = look(at("m3", "bin/big")), d = look(at("m4", "bin/big"));
        assert_int_equal(a.st_dev, b.st_dev);
        assert_int_equal(a.st_ino, b.st_ino);
        assert_int_equal(a.st_dev, c.st_dev);
        assert_int_equal(c.st_uid, 7); /* equal content, other attributes */
        assert_int_not_equal(a.st_dev, d.st_dev);
        unmount("m1");
        await_served(2, 3);
        check_one("m2");
        unmount("m2");
        await_served(2, 2);
        assert_int_equal(check_big("m3"), 0);
        unmount("m3");
        await_served(1, 1);
        check_one("m4");
        unmount("m4");
        await_served(0, 0);
}

static void volumes_come_again_after_they_went(void **state CAS_UNUSED)
{
        (void)mount_at(&two, "m2", FFS_PAGE_MODE_INODE, false); /* keeps the connection */
        for (int i = 0; i < 5; i++) {
                (void)mount_at(&one, "m1", FFS_PAGE_MODE_INODE, false);
                check_one("m1");
                unmount("m1");
        }
        unmount("m2");
        await_served(0, 0);
}

static void what_is_in_use_stays(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_mount_info info;
        (void)mount_at(&one, "m1", FFS_PAGE_MODE_AUTO, false);
        int fd = open(at("m1", "bin/big"), O_RDONLY | O_CLOEXEC);
        assert_int_equal(ffs_umount(&box.host, at("m1", ""), &info, &err), -CAS_E_BUSY);
        check_one("m1");
        (void)close(fd);
        unmount("m1");
}

static void damaged_images_are_refused(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_mount_info info;
        struct ffs_image broken = one;
        (void)mkdir(at("m1", ""), 0755);
        struct ffs_mount_options options = {.dir = at("m1", ""), .driver = FFS_DRIVER_FUSE};
        (void)snprintf(broken.tree_paths[0], sizeof(broken.tree_paths[0]), "%s/no-tree", box.dir);
        cas_digest_of(CAS_DIGEST_SHA256, "x", 1, &broken.trees[0]);
        assert_int_equal(ffs_mount(&box.host, &broken, &options, "l", &info, &err),
                         -CAS_E_NOTFOUND);
        cas_cleanup_fd int fd = open(broken.tree_paths[0], O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(write(fd, "no EROFS", 8), 8);
        assert_int_equal(ffs_mount(&box.host, &broken, &options, "l", &info, &err), -CAS_E_CORRUPT);
        options.id_map = "nonsense";
        assert_int_equal(ffs_mount(&box.host, &one, &options, "l", &info, &err), -CAS_E_INVALID);
        await_served(0, 0);
}

/* In a mount of ours there is no RENAME_WHITEOUT, and in one that is passed through no passing
 * through: an upper that lies there is refused by either mode. */
static void uppers_in_a_mount_are_refused(void **state CAS_UNUSED)
{
        static const enum ffs_page_mode modes[] = {FFS_PAGE_MODE_PASSTHROUGH, FFS_PAGE_MODE_AUTO};
        struct ffs_mount_info info = mount_at(&two, "below", FFS_PAGE_MODE_AUTO, true);
        cas_cleanup_free char *dir = cas_xstrdup(at("m1", ""));
        cas_cleanup_free char *upper = cas_xstrdup(at("below", "upper"));
        (void)mkdir(dir, 0755);
        for (size_t i = 0; i < CAS_COUNT(modes); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct ffs_mount_options options = {
                        .dir = dir, .driver = FFS_DRIVER_FUSE, .pages = modes[i], .upper = upper};
                assert_int_equal(ffs_mount(&box.host, &one, &options, "l", &info, &err),
                                 -CAS_E_UNSUPPORTED);
        }
        unmount("below");
        await_served(0, 0);
}

static void an_upper_is_of_one_mount(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_mount_info info;
        cas_cleanup_free char *dir = cas_xstrdup(at("m1", ""));
        cas_cleanup_free char *other = cas_xstrdup(at("m2", ""));
        cas_cleanup_free char *upper = cas_xstrdup(at("upper1", ""));
        (void)mkdir(dir, 0755);
        (void)mkdir(other, 0755);
        struct ffs_mount_options options = {.dir = dir, .driver = FFS_DRIVER_FUSE, .upper = upper};
        assert_int_equal(ffs_mount(&box.host, &one, &options, "l", &info, &err), 0);
        options.dir = other;
        assert_int_equal(ffs_mount(&box.host, &one, &options, "l", &info, &err), -CAS_E_BUSY);
        options.driver = FFS_DRIVER_OVERLAY;
        assert_int_equal(ffs_mount(&box.host, &one, &options, "l", &info, &err), -CAS_E_BUSY);
        unmount("m1");
        assert_int_equal(ffs_mount(&box.host, &one, &options, "l", &info, &err), 0);
        unmount("m2");
        await_served(0, 0);
}

/* What one driver wrote, the other shows. */
static void drivers_share_uppers(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_mount_info info;
        cas_cleanup_free char *dir = cas_xstrdup(at("m1", ""));
        cas_cleanup_free char *upper = cas_xstrdup(at("upper2", ""));
        (void)mkdir(dir, 0755);
        struct ffs_mount_options options = {.dir = dir, .upper = upper};
        for (int i = 0; i < 4; i++) {
                char name[32];
                options.driver = i % 2 ? FFS_DRIVER_FUSE : FFS_DRIVER_OVERLAY;
                if (ffs_mount(&box.host, &one, &options, "l", &info, &err) < 0)
                        fail_msg("mount: %s", err.msg);
                for (int k = 0; k < i; k++) {
                        (void)snprintf(name, sizeof(name), "etc/new%d", k);
                        assert_int_equal(look(at("m1", name)).st_size, k + 1);
                }
                assert_int_equal(access(at("m1", "etc/conf"), F_OK) == 0, i == 0);
                if (i == 0)
                        assert_int_equal(unlink(at("m1", "etc/conf")), 0);
                (void)snprintf(name, sizeof(name), "etc/new%d", i);
                cas_cleanup_fd int fd =
                        open(at("m1", name), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
                assert_int_equal(write(fd, "12345678", (size_t)i + 1), i + 1);
                (void)close(cas_steal_fd(&fd));
                unmount("m1");
        }
        await_served(0, 0);
        options.driver = FFS_DRIVER_FUSE;
        assert_int_equal(ffs_mount(&box.host, &two, &options, "l", &info, &err), -CAS_E_INVALID);
}

/* ---- kills ---- */

static atomic_bool stopping;
static atomic_int failures;

static void *read_on(void *arg)
{
        const char *name = arg;
        while (!atomic_load(&stopping)) {
                cas_cleanup_fd int fd = open(at(name, "bin/big"), O_RDONLY | O_CLOEXEC);
                if (fd >= 0)
                        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
                int rc = fd < 0 ? errno : check_big(name);
                struct stat st;
                if (rc == 0 && lstat(at(name, "bin/none"), &st) == 0)
                        rc = -1;
                if (rc == 0 && lstat(at(name, "bin/tiny"), &st) < 0)
                        rc = errno;
                if (rc) {
                        fprintf(stderr, "%s: %s\n", name, rc < 0 ? "wrong" : strerror(rc));
                        atomic_fetch_add(&failures, 1);
                }
        }
        return NULL;
}

/* How often fs has started another hold. */
static unsigned revivals(void)
{
        char line[512];
        unsigned count = 0;
        cas_cleanup_free char *path = cas_xasprintf("%s/fs.log", box.run_dir);
        FILE *f = fopen(path, "re");
        while (f && fgets(line, sizeof(line), f))
                count += strstr(line, " fs.revived_hold ") != NULL;
        if (f)
                (void)fclose(f);
        return count;
}

/* fs and hold at once are too many: the next kill waits. */
static void kill_hold(void)
{
        unsigned before = revivals();
        json_decref(status()); /* fs is there */
        (void)kill(parent_of(fs_pid()), SIGKILL);
        for (int i = 0; i < 500 && revivals() == before; i++)
                pause_ms(20);
        assert_int_not_equal(revivals(), before);
}

static void readers_outlive_killed_processes(void **state CAS_UNUSED)
{
        static const enum ffs_page_mode modes[] = {FFS_PAGE_MODE_AUTO, FFS_PAGE_MODE_INODE,
                                                   FFS_PAGE_MODE_PRIVATE};
        static char names[6][8];
        pthread_t threads[CAS_COUNT(names)];
        atomic_store(&stopping, false);
        for (size_t i = 0; i < CAS_COUNT(names); i++) {
                (void)snprintf(names[i], sizeof(names[i]), "k%zu", i);
                (void)mount_at(i < 3 ? &one : &two, names[i], modes[i % 3], false);
                assert_int_equal(check_big(names[i]), 0);
        }
        for (size_t i = 0; i < CAS_COUNT(names); i++)
                assert_int_equal(pthread_create(&threads[i], NULL, read_on, names[i]), 0);
        for (int i = 0; i < 10; i++) {
                if (i % 3 == 2)
                        kill_hold();
                else
                        (void)kill(fs_pid(), SIGKILL);
                drop_caches();
                pause_ms(100);
        }
        atomic_store(&stopping, true);
        for (size_t i = 0; i < CAS_COUNT(names); i++)
                assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(atomic_load(&failures), 0);
        await_served(4, 6);
        for (size_t i = 0; i < CAS_COUNT(names); i++)
                unmount(names[i]);
        await_served(0, 0);
}

static void *mount_on(void *arg CAS_UNUSED)
{
        for (int i = 0; i < 12; i++) {
                (void)mount_at(&one, "c1", FFS_PAGE_MODE_INODE, i % 2);
                if (check_big("c1"))
                        atomic_fetch_add(&failures, 1);
                unmount("c1");
        }
        atomic_store(&stopping, true);
        return NULL;
}

/* A command's request is answered by the successor, or asked again. */
static void commands_outlive_killed_processes(void **state CAS_UNUSED)
{
        pthread_t thread;
        atomic_store(&stopping, false);
        (void)mount_at(&two, "m1", FFS_PAGE_MODE_AUTO, false);
        assert_int_equal(pthread_create(&thread, NULL, mount_on, NULL), 0);
        /* Ever more seldom: on a machine that is short of time one must live to answer. */
        for (unsigned ms = 70; !atomic_load(&stopping); ms += 10) {
                (void)kill(fs_pid(), SIGKILL);
                pause_ms(ms);
        }
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(atomic_load(&failures), 0);
        assert_int_equal(check_big("m1"), 0);
        unmount("m1");
        await_served(0, 0);
}

static void nothing_is_left(void **state CAS_UNUSED)
{
        (void)mount_at(&one, "m1", FFS_PAGE_MODE_INODE, false); /* what comes with the first */
        unmount("m1");
        await_served(0, 0);
        json_t *before = status();
        json_int_t descriptors = json_integer_value(json_object_get(before, "descriptors"));
        (void)mount_at(&two, "m2", FFS_PAGE_MODE_INODE, false);
        for (int i = 0; i < 20; i++) {
                (void)mount_at(&one, "m1", FFS_PAGE_MODE_INODE, i % 2);
                assert_int_equal(check_big("m1"), 0);
                unmount("m1");
        }
        await_served(1, 1);
        json_t *during = status();
        json_t *c = json_array_get(json_object_get(during, "connections"), 0);
        for (int i = 0; i < 200; i++) { /* until the kernel has forgotten */
                if (json_integer_value(json_object_get(c, "openVolumes")) == 1)
                        break;
                json_decref(during);
                pause_ms(20);
                during = status();
                c = json_array_get(json_object_get(during, "connections"), 0);
        }
        assert_int_equal(json_integer_value(json_object_get(c, "openVolumes")), 1);
        assert_int_equal(json_integer_value(json_object_get(c, "writableNodes")), 0);
        unmount("m2");
        await_served(0, 0);
        json_t *after = status();
        /* Connections that ended keep theirs for a while: m1's first, and this one. */
        json_int_t now = json_integer_value(json_object_get(after, "descriptors"));
        assert_true(now <= descriptors + 16);
        json_decref(before);
        json_decref(during);
        json_decref(after);
}

static void mounting_is_quick(void **state CAS_UNUSED)
{
        struct timespec a, b;
        (void)mount_at(&two, "m1", FFS_PAGE_MODE_AUTO, false);
        (void)clock_gettime(CLOCK_MONOTONIC, &a);
        for (int i = 0; i < 20; i++) {
                (void)mount_at(&one, "m2", FFS_PAGE_MODE_AUTO, false);
                unmount("m2");
        }
        (void)clock_gettime(CLOCK_MONOTONIC, &b);
        double ms = (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6;
        printf("mount and umount of a volume: %.2f ms\n", ms / 20);
        assert_true(ms / 20 < 50);
        unmount("m1");
}

int main(int argc, char **argv)
{
        int exit_status;
        if (fusebox_is_process(argc, argv, &exit_status))
                return exit_status;
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(texts_of_connections),
                cmocka_unit_test(each_mode_shows_the_image),
                cmocka_unit_test(mounts_share_connections_and_volumes),
                cmocka_unit_test(volumes_come_again_after_they_went),
                cmocka_unit_test(what_is_in_use_stays),
                cmocka_unit_test(damaged_images_are_refused),
                cmocka_unit_test(uppers_in_a_mount_are_refused),
                cmocka_unit_test(an_upper_is_of_one_mount),
                cmocka_unit_test(drivers_share_uppers),
                cmocka_unit_test(readers_outlive_killed_processes),
                cmocka_unit_test(commands_outlive_killed_processes),
                cmocka_unit_test(nothing_is_left),
                cmocka_unit_test(mounting_is_quick),
        };
        if (!fusebox_possible()) {
                printf("skipped: needs root and /dev/fuse\n");
                return 0;
        }
        return cmocka_run_group_tests_name("fusedriver", tests, setup, teardown);
}
