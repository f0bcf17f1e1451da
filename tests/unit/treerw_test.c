/* SPDX-License-Identifier: Apache-2.0 */
/* Writable volumes on real mounts: as lamina mounts them in both page modes, and by a server of the
 * test's own for uppers in the user format. Then the same while what serves is killed again and
 * again: every call succeeds, once. LAMINA_SEED repeats the instants of the kills. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>

#include "cas/buf.h"
#include "fusefs/ownerwait_int.h"
#include "fusefs/treefs_int.h"
#include "tests/support/boximage.h"

#define SECONDS_MAX 60
#define ROUNDS 250
#define KILL_EVERY_US 25000
#define FS_KILL_EVERY_US 250000 /* one that was not ready yet is replaced later and later */

/* ---- mounts ---- */

static const struct mode {
        const char *name;
        enum ffs_page_mode pages;
        bool user_format; /* served by the test itself, in inode mode */
} modes[] = {
        {"passthrough", FFS_PAGE_MODE_PASSTHROUGH, false},
        {"inode", FFS_PAGE_MODE_INODE, false},
        {"inode, user format", FFS_PAGE_MODE_INODE, true},
};

static struct fusebox box;
static unsigned images_made;

struct mounted {
        const struct mode *mode;
        char dir[300], upper[300];
        pid_t killer; /* or keeper of the test's own server; 0: none */
        int dir_fd;
};

static void sleep_us(unsigned long us)
{
        struct timespec t = {.tv_sec = (time_t)(us / 1000000),
                             .tv_nsec = (long)(us % 1000000) * 1000};
        (void)nanosleep(&t, NULL);
}

static unsigned long random_us(unsigned long about_us)
{
        return about_us / 2 + (unsigned long)rand() % about_us;
}

static void seed_kills(void)
{
        const char *seed = getenv("LAMINA_SEED");
        srand(seed ? (unsigned)strtoul(seed, NULL, 10) : (unsigned)getpid());
}

/* Kills `lamina fs` for ever. */
static void kill_fs(void)
{
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        seed_kills();
        for (;;) {
                struct ffs_serving serving;
                struct cas_err err = CAS_ERR_INIT;
                sleep_us(random_us(FS_KILL_EVERY_US));
                if (ffs_hold_ask(box.run_dir, "status", &serving, &err) == 0)
                        (void)kill(serving.fs_pid, SIGKILL);
        }
}

/* What a server of the test's own has, and its successors. */
struct own {
        int fuse_fd, state_fds[FFS_TREEFS_STATE_FDS];
        const struct ffs_image *image;
        const char *upper;
};

static void nobody_is_away(void *arg CAS_UNUSED)
{
}

static void serve_own(const struct own *own)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_reader_config reading = {.resolve_path = box.resolve_path,
                                            .block_cache_bytes = 1 << 20,
                                            .extent_cache_bytes = 1 << 20,
                                            .packs_max = 8};
        struct ffs_ownerwait_config waiting = {.reader = ffs_reader_new(&reading),
                                               .wait_ms = FFS_OWNER_WAIT_MS,
                                               .owner_away = nobody_is_away};
        struct ffs_treefs_config config = {.fuse_fd = own->fuse_fd,
                                           .pages = FFS_PAGES_INODE,
                                           .reader = waiting.reader,
                                           .threads = 4};
        struct ffs_volume_spec spec = {
                .id = "own", .tree_count = 1, .rw = true, .format = FFS_UPPER_USER};
        struct ffs_treefs *t;
        uint32_t number = 1;
        memcpy(config.state_fds, own->state_fds, sizeof(config.state_fds));
        spec.trees[0] = own->image->trees[0];
        (void)snprintf(spec.tree_paths[0], sizeof(spec.tree_paths[0]), "%s",
                       own->image->tree_paths[0]);
        int dir_fd = open(own->upper, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (ffs_ownerwait_start(&waiting, &config.wait, &err) < 0 ||
            ffs_treefs_new(&config, &t, &err) < 0 ||
            ffs_treefs_add(t, &spec, dir_fd, &number, &err) < 0 || ffs_treefs_start(t, &err) < 0) {
                fprintf(stderr, "server: %s\n", err.msg);
                _exit(2);
        }
        struct pollfd p = {.fd = ffs_treefs_ended_fd(t), .events = POLLIN};
        while (poll(&p, 1, -1) < 0)
                ;
        _exit(0);
}

/* Starts servers until one ends by itself. */
static void keep_own(const struct own *own, bool kills)
{
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        seed_kills();
        for (;;) {
                pid_t pid = fork();
                int status;
                if (pid == 0) {
                        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                        serve_own(own);
                }
                if (kills)
                        sleep_us(random_us(KILL_EVERY_US));
                if (kills && waitpid(pid, &status, WNOHANG) == 0)
                        (void)kill(pid, SIGKILL);
                if (waitpid(pid, &status, 0) != pid || WIFEXITED(status))
                        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
        }
}

static void mount_own(struct mounted *m, const struct ffs_image *image, bool kills)
{
        struct cas_err err = CAS_ERR_INIT;
        struct own own = {.image = image, .upper = m->upper};
        char path[400];
        assert_int_equal(ffs_treefs_state_create(own.state_fds, &err), 0);
        own.fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
        assert_true(own.fuse_fd >= 0);
        static const char *const parts[] = {"upper", "work"};
        for (size_t i = 0; i < CAS_COUNT(parts); i++) {
                (void)snprintf(path, sizeof(path), "%s/%s", m->upper, parts[i]);
                assert_int_equal(mkdir(path, 0755), 0);
        }
        (void)snprintf(path, sizeof(path),
                       "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions",
                       own.fuse_fd);
        assert_int_equal(mount("own", m->dir, "fuse.own", 0, path), 0);
        m->killer = fork();
        if (m->killer == 0)
                keep_own(&own, kills);
        (void)close(own.fuse_fd);
        for (size_t i = 0; i < FFS_TREEFS_STATE_FDS; i++)
                (void)close(own.state_fds[i]);
}

static void mount_layer(struct mounted *m, const struct mode *mode, const char *layer, bool kills)
{
        struct ffs_image image;
        struct ffs_mount_info info;
        struct cas_err err = CAS_ERR_INIT;
        char name[32];
        *m = (struct mounted){.mode = mode};
        (void)snprintf(name, sizeof(name), "image%u:1", images_made);
        (void)snprintf(m->dir, sizeof(m->dir), "%s/mnt%u", box.dir, images_made);
        (void)snprintf(m->upper, sizeof(m->upper), "%s/upper%u", box.dir, images_made++);
        assert_int_equal(mkdir(m->dir, 0755), 0);
        assert_int_equal(mkdir(m->upper, 0700), 0);
        boximage_make(&box, name, &layer, 1, &image);
        struct ffs_mount_options options = {.dir = m->dir,
                                            .driver = FFS_DRIVER_FUSE,
                                            .pages = mode->pages,
                                            .rw = true,
                                            .upper = m->upper};
        if (mode->user_format)
                mount_own(m, &image, kills);
        else if (ffs_mount(&box.host, &image, &options, "lease", &info, &err) < 0)
                fail_msg("%s", err.msg);
        if (!mode->user_format && kills && (m->killer = fork()) == 0)
                kill_fs();
        m->dir_fd = open(m->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(m->dir_fd >= 0);
        assert_int_equal(fchdir(m->dir_fd), 0);
}

static void unmount(struct mounted *m)
{
        struct ffs_mount_info info;
        struct cas_err err = CAS_ERR_INIT;
        int status = 0;
        assert_int_equal(chdir("/"), 0);
        (void)close(m->dir_fd);
        if (!m->mode->user_format) {
                if (m->killer > 0)
                        (void)kill(m->killer, SIGKILL);
                if (ffs_umount(&box.host, m->dir, &info, &err) < 0)
                        fail_msg("%s", err.msg);
        } else {
                assert_int_equal(umount2(m->dir, 0), 0);
        }
        if (m->killer > 0)
                (void)waitpid(m->killer, &status, 0);
        if (m->mode->user_format)
                assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- what programs do ---- */

static void put(const char *path, const char *text, int flags)
{
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0644);
        if (fd < 0)
                fail_msg("%s: %s", path, strerror(errno));
        assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static void expect(const char *path, const char *text)
{
        char got[4096];
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                fail_msg("%s: %s", path, strerror(errno));
        ssize_t n = read(fd, got, sizeof(got) - 1);
        assert_true(n >= 0);
        got[n] = '\0';
        assert_string_equal(got, text);
}

static struct stat stat_of(const char *path)
{
        struct stat st;
        if (lstat(path, &st) < 0)
                fail_msg("%s: %s", path, strerror(errno));
        return st;
}

static void expect_absent(const char *path)
{
        struct stat st;
        assert_int_equal(lstat(path, &st), -1);
        assert_int_equal(errno, ENOENT);
}

/* Names of a directory, sorted, with spaces. */
static int by_text(const void *a, const void *b)
{
        return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void expect_names(const char *path, const char *expected)
{
        char *names[512];
        size_t count = 0;
        DIR *d = opendir(path);
        assert_non_null(d);
        for (struct dirent *e; (e = readdir(d));)
                if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && count < 512)
                        names[count++] = cas_xstrdup(e->d_name);
        (void)closedir(d);
        qsort(names, count, sizeof(names[0]), by_text);
        cas_cleanup_buf struct cas_buf all = CAS_BUF_INIT;
        for (size_t i = 0; i < count; i++) {
                cas_buf_printf(&all, "%s%s", i ? " " : "", names[i]);
                free(names[i]);
        }
        assert_string_equal(cas_buf_str(&all), expected);
}

#define ok(call) assert_int_equal((call), 0)
#define fails(call, error)                                                                         \
        do {                                                                                       \
                errno = 0;                                                                         \
                assert_int_equal((call), -1);                                                      \
                assert_int_equal(errno, (error));                                                  \
        } while (0)

/* ---- one process serves ---- */

static const char layer[] = "d . 755\n"
                            "d dir 755\nf dir/small =hello\nf dir/big 300000 644 0 0 1000.5\n"
                            "d dir/sub 755\nf dir/sub/deep 5000 640 1000 50 2000\n"
                            "f one 70000\nh two one\nh dir/three one\n"
                            "l link one\np fifo 644\nd empty 755\nf x =abc\nx user.a 1\n"
                            "d away 755\nf away/f 1000\n";

static void files_are_copied_up(const struct mode *mode)
{
        struct stat before = stat_of("dir/big"), after;
        int old = open("dir/big", O_RDONLY | O_CLOEXEC);
        assert_true(old >= 0);
        put("dir/big", "more", O_APPEND);
        after = stat_of("dir/big");
        assert_true(after.st_ino == before.st_ino);
        assert_int_equal(after.st_size, 300004);
        assert_int_equal(stat_of("dir").st_mtim.tv_sec, 0);
        /* The open file is another node in passthrough mode, and the same file all the same. */
        ok(fstat(old, &after));
        assert_int_equal(after.st_size, 300004);
        ok(fchmod(old, 0600));
        assert_int_equal(stat_of("dir/big").st_mode & 07777, 0600);
        (void)close(old);
        put("dir/small", "HE", 0);
        expect("dir/small", "HEllo");
        put("dir/small", "new", O_TRUNC);
        expect("dir/small", "new");
        ok(truncate("dir/sub/deep", 10));
        assert_int_equal(stat_of("dir/sub/deep").st_size, 10);
        ok(chmod("x", 0600));
        expect("x", "abc");
        char value[8];
        assert_int_equal(getxattr("x", "user.a", value, sizeof(value)), 1);
        assert_int_equal(stat_of("x").st_mtim.tv_sec, 0);
        (void)mode;
}

static void hard_links_stay_links(const struct mode *mode CAS_UNUSED)
{
        struct stat one = stat_of("one");
        assert_int_equal(one.st_nlink, 3);
        put("two", "changed", 0);
        struct stat two = stat_of("two"), three = stat_of("dir/three");
        assert_true(one.st_ino == two.st_ino && two.st_ino == three.st_ino);
        assert_int_equal(three.st_nlink, 3);
        char got[8] = "";
        int fd = open("dir/three", O_RDONLY | O_CLOEXEC);
        assert_int_equal(read(fd, got, 7), 7);
        assert_string_equal(got, "changed");
        ok(unlink("one"));
        ok(fstat(fd, &three));
        assert_int_equal(three.st_nlink, 2);
        (void)close(fd);
        ok(link("two", "four"));
        assert_int_equal(stat_of("dir/three").st_nlink, 3);
        ok(rename("two", "four")); /* two names of one file: nothing happens */
        assert_int_equal(stat_of("two").st_nlink, 3);
}

static void names_come_and_go(const struct mode *mode CAS_UNUSED)
{
        put("new", "text", O_CREAT | O_EXCL);
        fails(open("new", O_CREAT | O_EXCL | O_WRONLY, 0644), EEXIST);
        ok(mkdir("dir/made", 0755));
        fails(rmdir("dir"), ENOTEMPTY);
        ok(unlink("away/f"));
        expect_names("away", "");
        ok(rmdir("away"));
        expect_absent("away");
        ok(mkdir("away", 0700));
        expect_names("away", ""); /* what was below does not come back */
        ok(rename("new", "dir/made/moved"));
        expect("dir/made/moved", "text");
        expect_absent("new");
        ok(symlink("target", "sym"));
        char text[16] = "";
        assert_int_equal(readlink("sym", text, sizeof(text)), 6);
        assert_string_equal(text, "target");
        ok(mkfifo("p", 0600));
        ok(unlink("p"));
        ok(unlink("fifo"));
        expect_names(".", "away dir empty four link sym two x");
        expect_names("dir", "big made small sub three");
}

static void renames_keep_what_is_below(const struct mode *mode)
{
        if (mode->user_format) {
                fails(rename("dir/sub", "moved"), EXDEV);
                return;
        }
        struct stat before = stat_of("dir/sub/deep");
        ok(rename("dir", "renamed"));
        ok(rename("renamed/sub", "moved"));
        assert_true(stat_of("moved/deep").st_ino == before.st_ino);
        expect_names("renamed", "big made small three");
        ok(mkdir("dir", 0755));
        expect_names("dir", "");
        ok(rename("dir", "empty")); /* over an empty directory of below */
        expect_names("empty", "");
        ok(renameat2(AT_FDCWD, "moved", AT_FDCWD, "renamed", RENAME_EXCHANGE));
        expect_names("moved", "big made small three");
        fails(renameat2(AT_FDCWD, "x", AT_FDCWD, "link", RENAME_NOREPLACE), EEXIST);
        fails(rename("empty", "moved"), ENOTEMPTY);
}

static void files_without_names_go_on(const struct mode *mode CAS_UNUSED)
{
        struct stat st;
        char got[16] = "", path[64];
        int fd = open("gone", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        assert_int_equal(write(fd, "text", 4), 4);
        ok(unlink("gone"));
        ok(fstat(fd, &st));
        assert_int_equal(st.st_nlink, 0);
        assert_int_equal(pwrite(fd, "TE", 2, 0), 2);
        assert_int_equal(pread(fd, got, 15, 0), 4);
        assert_string_equal(got, "TExt");
        (void)close(fd);
        fd = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0640);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, "tmp", 3), 3);
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        ok(linkat(AT_FDCWD, path, AT_FDCWD, "linked", AT_SYMLINK_FOLLOW));
        expect("linked", "tmp");
        assert_int_equal(stat_of("linked").st_nlink, 1);
        (void)close(fd);
        ok(mkdir("cwd", 0755));
        fd = open("cwd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ok(rmdir("cwd"));
        ok(fstat(fd, &st));
        assert_int_equal(st.st_nlink, 0);
        (void)close(fd);
}

static void the_rest_of_a_file(const struct mode *mode CAS_UNUSED)
{
        char value[16];
        int fd = open("rest", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        ok(fallocate(fd, 0, 0, 8192));
        assert_int_equal(stat_of("rest").st_size, 8192);
        ok(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
        assert_int_equal(pwrite(fd, "data", 4, 8192), 4);
        int to = open("copy", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        off_t from_at = 8192, to_at = 0;
        assert_int_equal(copy_file_range(fd, &from_at, to, &to_at, 4, 0), 4);
        expect("copy", "data");
        ok(fsync(fd));
        void *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, to, 0);
        assert_true(map != MAP_FAILED);
        memcpy(map, "DATA", 4);
        ok(msync(map, 4096, MS_SYNC));
        ok(munmap(map, 4096));
        expect("copy", "DATA");
        ok(setxattr("copy", "user.k", "v", 1, XATTR_CREATE));
        fails(setxattr("copy", "user.k", "v", 1, XATTR_CREATE), EEXIST);
        assert_int_equal(getxattr("copy", "user.k", value, sizeof(value)), 1);
        ok(removexattr("copy", "user.k"));
        fails(removexattr("copy", "user.k"), ENODATA);
        (void)close(fd);
        (void)close(to);
}

static void behaves_as_a_file_system(void **state)
{
        static void (*const steps[])(const struct mode *mode) = {
                files_are_copied_up,        hard_links_stay_links,     names_come_and_go,
                renames_keep_what_is_below, files_without_names_go_on, the_rest_of_a_file,
        };
        const struct mode *mode = *state;
        struct mounted m;
        if (!mode)
                skip();
        mount_layer(&m, mode, layer, false);
        for (size_t i = 0; i < CAS_COUNT(steps); i++)
                steps[i](mode);
        unmount(&m);
}

/* ---- the server is killed all the time ---- */

/* Every call must succeed, and only once: no error of a second try, nothing lost. */
static void work_round(unsigned i, bool trusted)
{
        char a[64], b[64], c[64], text[64], value[8];
        (void)snprintf(text, sizeof(text), "text of %u", i);
        (void)snprintf(a, sizeof(a), "work/%u", i);
        ok(mkdir(a, 0755));
        (void)snprintf(b, sizeof(b), "work/%u/file", i);
        put(b, text, O_CREAT | O_EXCL);
        (void)snprintf(c, sizeof(c), "work/%u/link", i);
        ok(link(b, c));
        ok(setxattr(c, "user.x", text, 4, XATTR_CREATE));
        ok(unlink(b));
        assert_int_equal(stat_of(c).st_nlink, 1);
        ok(rename(c, b));
        expect(b, text);
        assert_int_equal(getxattr(b, "user.x", value, sizeof(value)), 4);
        ok(removexattr(b, "user.x"));
        ok(symlink("file", c));
        /* Of the layer: three names of a file, a directory, a large file. */
        (void)snprintf(a, sizeof(a), "low/%u/one", i);
        put(a, text, 0);
        (void)snprintf(c, sizeof(c), "low/%u/two", i);
        assert_true(stat_of(a).st_ino == stat_of(c).st_ino);
        assert_int_equal(stat_of(c).st_nlink, 2);
        ok(unlink(a));
        (void)snprintf(b, sizeof(b), "work/%u/two", i);
        ok(rename(c, b));
        (void)snprintf(a, sizeof(a), "low/%u/sub", i);
        (void)snprintf(c, sizeof(c), "work/%u/sub", i);
        if (trusted)
                ok(rename(a, c));
        (void)snprintf(a, sizeof(a), trusted ? "work/%u/sub/f" : "low/%u/sub/f", i);
        ok(chmod(a, 0600));
        (void)snprintf(c, sizeof(c), "work/%u/file", i);
        ok(renameat2(AT_FDCWD, a, AT_FDCWD, c, RENAME_EXCHANGE));
        expect(a, text);
        assert_int_equal(stat_of(c).st_size, 3000);
        (void)snprintf(c, sizeof(c), "low/%u", i);
        if (trusted)
                ok(rmdir(c));
}

static void survives_kills(void **state)
{
        const struct mode *mode = *state;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        struct mounted m;
        if (!mode)
                skip();
        bool trusted = !mode->user_format;
        cas_buf_append_str(&text, "d . 755\nd low 755\nd work 755\nf open 100000\n");
        for (unsigned i = 0; i < ROUNDS; i++)
                cas_buf_printf(&text,
                               "d low/%u 755\nf low/%u/one 20000\nh low/%u/two low/%u/one\n"
                               "d low/%u/sub 755\nf low/%u/sub/f 3000\n",
                               i, i, i, i, i, i);
        mount_layer(&m, mode, cas_buf_str(&text), true);
        /* Open all the time: an unlinked file, a removed directory, a file of below. */
        struct stat st;
        char got[8] = "";
        int gone = open("gone", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        assert_int_equal(write(gone, "kept", 4), 4);
        ok(unlink("gone"));
        ok(mkdir("dir", 0755));
        int dir = open("dir", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ok(rmdir("dir"));
        int below = open("open", O_RDONLY | O_CLOEXEC);
        for (unsigned i = 0; i < ROUNDS; i++)
                work_round(i, trusted);
        assert_int_equal(pread(gone, got, 4, 0), 4);
        assert_string_equal(got, "kept");
        assert_int_equal(pwrite(gone, "more", 4, 4), 4);
        ok(fstat(gone, &st));
        assert_int_equal(st.st_nlink, 0);
        assert_int_equal(st.st_size, 8);
        ok(fstat(dir, &st));
        assert_int_equal(st.st_nlink, 0);
        ok(fchmod(below, 0600));
        assert_int_equal(stat_of("open").st_mode & 07777, 0600);
        (void)close(gone);
        (void)close(dir);
        (void)close(below);
        for (unsigned i = 0; i < ROUNDS; i++) {
                char path[64];
                (void)snprintf(path, sizeof(path), "work/%u", i);
                expect_names(path, trusted ? "file link sub two" : "file link two");
        }
        if (trusted)
                expect_names("low", "");
        expect_names(".", "low open work");
        unmount(&m);
}

int main(int argc, char **argv)
{
        struct CMUnitTest tests[2 * CAS_COUNT(modes)];
        char names[2 * CAS_COUNT(modes)][100];
        int status;
        if (fusebox_is_process(argc, argv, &status))
                return status;
        bool possible = fusebox_possible();
        if (possible)
                fusebox_open(&box, SECONDS_MAX);
        for (size_t i = 0; i < CAS_COUNT(tests); i++) {
                const struct mode *mode = &modes[i / 2];
                (void)snprintf(names[i], sizeof(names[i]), "%s: %s", mode->name,
                               i % 2 ? "survives kills" : "behaves as a file system");
                tests[i] = (struct CMUnitTest){
                        .name = names[i],
                        .test_func = i % 2 ? survives_kills : behaves_as_a_file_system,
                        .initial_state = possible ? (void *)(uintptr_t)mode : NULL};
        }
        status = cmocka_run_group_tests(tests, NULL, NULL);
        if (possible)
                fusebox_close(&box);
        return status;
}
