/* SPDX-License-Identifier: Apache-2.0 */
/* Tree file systems as their readers see them: a server process of this program's own serves a
 * mounted connection, is killed and followed by another. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "fusefs/opener_int.h"
#include "fusefs/ownerwait_int.h"
#include "fusefs/treefs_int.h"
#include "tests/support/fusebox.h"
#include "tests/support/listing_text.h"

#define WATCHDOG_S 100
#define GUARD_S 20 /* of one mount */
#define VOLUMES_MAX 3
#define COMMAND_BYTES 64

/* ---- the server: SELF treefs RESOLVE RUN_DIR STORE MODE SHARED FUSE S0 S1 S2 ID TREES… ---- */

static void nobody_is_away(void *arg CAS_UNUSED)
{
}

static void nothing_is_done(void *arg CAS_UNUSED, uint64_t tag CAS_UNUSED)
{
}

static void must(int rc, const struct cas_err *err)
{
        if (rc < 0) {
                fprintf(stderr, "treefs server: %s: %s\n", cas_code_name(err->code), err->msg);
                exit(1);
        }
}

static void add_volume(struct ffs_treefs *t, const char *id, const char *trees, uint32_t number)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_volume_spec *spec = cas_xcalloc(1, sizeof(*spec));
        cas_cleanup_free char *copy = cas_xstrdup(trees);
        char *state = NULL;
        (void)snprintf(spec->id, sizeof(spec->id), "%s", id);
        for (char *path = strtok_r(copy, ",", &state); path; path = strtok_r(NULL, ",", &state)) {
                cas_digest_of(CAS_DIGEST_SHA256, path, strlen(path),
                              &spec->trees[spec->tree_count]);
                (void)snprintf(spec->tree_paths[spec->tree_count++], sizeof(spec->tree_paths[0]),
                               "%s", path);
        }
        must(ffs_treefs_add(t, spec, -1, &number, &err), &err);
        free(spec);
}

static void serve_commands(struct ffs_treefs *t)
{
        char command[COMMAND_BYTES];
        ssize_t n;
        while ((n = read(0, command, sizeof(command) - 1)) > 0) {
                struct cas_err err = CAS_ERR_INIT;
                struct ffs_treefs_counts counts;
                command[n] = '\0';
                if (strncmp(command, "remove ", 7) == 0)
                        must(ffs_treefs_remove(t, command + 7, &err), &err);
                ffs_treefs_count(t, &counts);
                if (write(1, &counts, sizeof(counts)) != (ssize_t)sizeof(counts))
                        return;
        }
}

static int server_main(int argc, char **argv)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_host host = {.resolve_path = argv[2],
                                .run_dir = argv[3],
                                .store_path = argv[4],
                                .program = "/proc/self/exe"};
        struct ffs_reader_config reader = {.resolve_path = host.resolve_path,
                                           .block_cache_bytes = 8 << 20,
                                           .extent_cache_bytes = 1 << 20,
                                           .packs_max = 16};
        struct ffs_treefs_config config = {.reader = ffs_reader_new(&reader), .threads = 3};
        struct ffs_ownerwait_config wait = {
                .reader = config.reader, .wait_ms = 5000, .owner_away = nobody_is_away};
        struct ffs_treefs *t;
        must(ffs_ownerwait_start(&wait, &config.wait, &err), &err);
        config.pages = strcmp(argv[5], "inode") == 0 ? FFS_PAGES_INODE : FFS_PAGES_PASSTHROUGH;
        config.shared = strcmp(argv[6], "shared") == 0;
        config.fuse_fd = (int)strtol(argv[7], NULL, 10);
        for (int i = 0; i < FFS_TREEFS_STATE_FDS; i++)
                config.state_fds[i] = (int)strtol(argv[8 + i], NULL, 10);
        if (config.pages == FFS_PAGES_PASSTHROUGH)
                must(ffs_opener_start(&host, nothing_is_done, NULL, &config.opener, &err), &err);
        must(ffs_treefs_new(&config, &t, &err), &err);
        uint32_t number = 1;
        for (int i = 11; i + 1 < argc; i += 2)
                add_volume(t, argv[i], argv[i + 1], number++);
        must(ffs_treefs_start(t, &err), &err);
        serve_commands(t);
        _exit(0);
}

/* ---- the mount ---- */

static struct fusebox box;

struct side {
        char dir[300];
        int fuse_fd, state[FFS_TREEFS_STATE_FDS];
        const char *mode, *kind;
        const char *volumes[2 * VOLUMES_MAX + 1]; /* id, trees, …, NULL */
        pid_t pid, guard;
        int to, from; /* commands and their answers */
};

/* A process of its own, which aborts the connection when a test hangs in the kernel. */
static void guard_main(const struct side *s, unsigned minor_number)
{
        char control[320], path[400];
        (void)close(s->fuse_fd);
        (void)sleep(GUARD_S);
        (void)snprintf(control, sizeof(control), "%s.control", s->dir);
        (void)snprintf(path, sizeof(path), "%s/%u/abort", control, minor_number);
        (void)mkdir(control, 0700);
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("fusectl", control, "fusectl", 0, NULL) < 0)
                _exit(1);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        fprintf(stderr, "treefs: guard aborts connection %u\n", minor_number);
        (void)!write(fd, "1", 1);
        _exit(1);
}

static void side_spawn(struct side *s)
{
        int in[2], out[2];
        assert_int_equal(pipe2(in, O_CLOEXEC), 0);
        assert_int_equal(pipe2(out, O_CLOEXEC), 0);
        char numbers[4][16];
        const char *argv[12 + 2 * VOLUMES_MAX] = {
                "lamina", "treefs",   box.resolve_path, box.run_dir, box.store_path, s->mode,
                s->kind,  numbers[0], numbers[1],       numbers[2],  numbers[3]};
        (void)snprintf(numbers[0], sizeof(numbers[0]), "%d", s->fuse_fd);
        for (int i = 0; i < FFS_TREEFS_STATE_FDS; i++)
                (void)snprintf(numbers[i + 1], sizeof(numbers[0]), "%d", s->state[i]);
        for (size_t i = 0; s->volumes[i]; i++)
                argv[11 + i] = s->volumes[i];
        s->pid = fork();
        if (s->pid == 0) {
                (void)dup2(in[0], 0);
                (void)dup2(out[1], 1);
                (void)fcntl(s->fuse_fd, F_SETFD, 0);
                for (int i = 0; i < FFS_TREEFS_STATE_FDS; i++)
                        (void)fcntl(s->state[i], F_SETFD, 0);
                (void)execv("/proc/self/exe", (char *const *)argv);
                _exit(127);
        }
        (void)close(in[0]);
        (void)close(out[1]);
        s->to = in[1];
        s->from = out[0];
}

static struct ffs_treefs_counts side_ask(struct side *s, const char *command)
{
        struct ffs_treefs_counts counts;
        assert_int_equal(write(s->to, command, strlen(command)), (ssize_t)strlen(command));
        assert_int_equal(read(s->from, &counts, sizeof(counts)), sizeof(counts));
        return counts;
}

static void side_kill(struct side *s)
{
        (void)kill(s->pid, SIGKILL);
        (void)waitpid(s->pid, NULL, 0);
        (void)close(s->to);
        (void)close(s->from);
}

/* The device of the mount, without asking the file system. */
static unsigned side_minor(const struct side *s)
{
        struct statx stx;
        assert_int_equal(statx(AT_FDCWD, s->dir, AT_STATX_DONT_SYNC, STATX_TYPE, &stx), 0);
        return stx.stx_dev_minor;
}

static void side_open(struct side *s, const char *mode, const char *kind)
{
        static unsigned count;
        struct cas_err err = CAS_ERR_INIT;
        char options[128];
        s->mode = mode;
        s->kind = kind;
        (void)snprintf(s->dir, sizeof(s->dir), "%s/mount%u", box.dir, count++);
        assert_int_equal(mkdir(s->dir, 0755), 0);
        s->fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
        assert_true(s->fuse_fd >= 0);
        assert_int_equal(ffs_treefs_state_create(s->state, &err), 0);
        (void)snprintf(options, sizeof(options),
                       "fd=%d,rootmode=40555,user_id=0,group_id=0,allow_other,default_permissions",
                       s->fuse_fd);
        assert_int_equal(mount("test", s->dir, "fuse.lamina", MS_NOATIME, options), 0);
        unsigned minor_number = side_minor(s);
        s->guard = fork();
        if (s->guard == 0)
                guard_main(s, minor_number);
        side_spawn(s);
}

static void side_close(struct side *s)
{
        (void)umount2(s->dir, MNT_DETACH);
        side_kill(s);
        (void)kill(s->guard, SIGKILL);
        (void)waitpid(s->guard, NULL, 0);
        (void)close(s->fuse_fd);
        for (int i = 0; i < FFS_TREEFS_STATE_FDS; i++)
                (void)close(s->state[i]);
        (void)rmdir(s->dir);
}

/* ---- trees ---- */

/* Files above 64 bytes have the content that fusebox makes of their size as its seed. */
static void apply(struct cas_merge *m, const char *text)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_listing struct cas_listing l = {0};
        listing_from_text(text, &l);
        for (size_t i = 0; i < l.count; i++)
                if (l.entries[i].type == CAS_ENTRY_FILE &&
                    l.entries[i].size_bytes > CAS_INLINE_BYTES_MAX)
                        fusebox_add(&box, (uint32_t)l.entries[i].size_bytes,
                                    l.entries[i].size_bytes, &l.entries[i].object);
        if (cas_merge_apply(m, &l, &err) < 0)
                fail_msg("%s", err.msg);
}

static void write_tree(const struct cas_merge *m, bool stacked, char *path, size_t room,
                       const char *name)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf image = CAS_BUF_INIT;
        const struct cas_tree_options options = {.stacked = stacked};
        assert_int_equal(cas_merge_write_erofs(m, &options, &image, NULL, &err), 0);
        (void)snprintf(path, room, "%s/%s.erofs", box.dir, name);
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(write(fd, image.data, image.len_bytes), (ssize_t)image.len_bytes);
}

static char base_path[300], top_path[300], other_path[300], stack_paths[700];

static const char *const base_text =
        "d usr 755 0 0 5\nd usr/bin 755\nf usr/bin/tool 300000 755 0 0 7.5\n"
        "x security.capability %01%00%00%02%00%04%00%00%00%00%00%00%00%00%00%00%00%00%00%00\n"
        "f usr/bin/same 200000 644 0 0 9\nf usr/small =little 600 1 2 3\n"
        "l usr/link bin/same\nh usr/hard usr/bin/tool\nc usr/null 1 3 666\nf usr/empty =\n"
        "d gone 755\nf gone/x =x\nd usr/share 755\nf usr/share/a 70 644 0 0 9\n"
        "f usr/share/b 70 644 0 0 9\n";
static const char *const top_text = "w gone\nd app 700 5 6 7\nf app/main 5000 755\n"
                                    "f usr/bin/added =new\n";
static const char *const other_text = "d usr 755 0 0 99\nd usr/bin 755\n"
                                      "f usr/bin/same 200000 644 0 0 9\nf different 200000 600\n";

static void make_trees(void)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_merge *m = cas_merge_new();
        apply(m, base_text);
        write_tree(m, false, base_path, sizeof(base_path), "base");
        assert_int_equal(cas_merge_mark_base(m, &err), 0);
        apply(m, top_text);
        write_tree(m, true, top_path, sizeof(top_path), "top");
        cas_merge_free(m);
        m = cas_merge_new();
        apply(m, other_text);
        write_tree(m, false, other_path, sizeof(other_path), "other");
        cas_merge_free(m);
        (void)snprintf(stack_paths, sizeof(stack_paths), "%s,%s", top_path, base_path);
}

/* ---- reading ---- */

static struct stat stat_of(const char *dir, const char *path)
{
        struct stat st;
        cas_cleanup_free char *full = cas_xasprintf("%s/%s", dir, path);
        if (lstat(full, &st) < 0)
                fail_msg("%s: %s", full, strerror(errno));
        return st;
}

static int errno_of(const char *dir, const char *path)
{
        struct stat st;
        cas_cleanup_free char *full = cas_xasprintf("%s/%s", dir, path);
        return lstat(full, &st) < 0 ? errno : 0;
}

static int open_at(const char *dir, const char *path)
{
        cas_cleanup_free char *full = cas_xasprintf("%s/%s", dir, path);
        int fd = open(full, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                fail_msg("%s: %s", full, strerror(errno));
        return fd;
}

/* What fusebox made of its size as seed. */
static void expect_content(int fd, size_t bytes)
{
        cas_cleanup_free uint8_t *want = cas_xmalloc(bytes);
        cas_cleanup_free uint8_t *got = cas_xmalloc(bytes + 1);
        fusebox_content((uint32_t)bytes, bytes, want);
        assert_int_equal(pread(fd, got, bytes + 1, 0), (ssize_t)bytes);
        assert_memory_equal(got, want, bytes);
}

static void expect_file(const char *dir, const char *path, size_t bytes)
{
        cas_cleanup_fd int fd = open_at(dir, path);
        expect_content(fd, bytes);
}

/* Names of a directory, sorted, each with a space behind it. */
static char *names_of(const char *dir, const char *path)
{
        struct dirent **list;
        struct cas_buf out = CAS_BUF_INIT;
        cas_cleanup_free char *full = cas_xasprintf("%s/%s", dir, path);
        int n = scandir(full, &list, NULL, alphasort);
        assert_true(n >= 0);
        for (int i = 0; i < n; i++) {
                cas_buf_printf(&out, "%s ", list[i]->d_name);
                free(list[i]);
        }
        free(list);
        cas_buf_append_byte(&out, '\0');
        return (char *)out.data;
}

static size_t resident_pages(int fd, size_t bytes)
{
        uint8_t pages[256];
        size_t count = 0, want = (bytes + 4095) / 4096;
        assert_true(want <= sizeof(pages));
        void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
        assert_true(map != MAP_FAILED);
        assert_int_equal(mincore(map, bytes, pages), 0);
        for (size_t i = 0; i < want; i++)
                count += pages[i] & 1;
        (void)munmap(map, bytes);
        return count;
}

/* ---- tests; *state is the page mode ---- */

static void expect_image(const char *dir, bool opens)
{
        char text[64];
        struct stat st = stat_of(dir, "usr/bin/tool");
        assert_int_equal(st.st_mode, S_IFREG | 0755);
        assert_int_equal(st.st_size, 300000);
        assert_int_equal(st.st_nlink, 2);
        assert_int_equal(st.st_mtim.tv_sec, 7);
        assert_int_equal(st.st_mtim.tv_nsec, 5);
        assert_true(st.st_ino == stat_of(dir, "usr/hard").st_ino);
        assert_true(st.st_ino != stat_of(dir, "usr/bin/same").st_ino);
        st = stat_of(dir, "usr/small");
        assert_int_equal(st.st_uid, 1);
        assert_int_equal(st.st_gid, 2);
        st = stat_of(dir, "usr/null");
        assert_int_equal(st.st_mode, S_IFCHR | 0666);
        assert_true(st.st_rdev == makedev(1, 3));
        st = stat_of(dir, "app");
        assert_int_equal(st.st_mode, S_IFDIR | 0700);
        assert_int_equal(errno_of(dir, "gone"), ENOENT);
        assert_int_equal(errno_of(dir, "gone"), ENOENT);
        assert_int_equal(errno_of(dir, "usr/small/x"), ENOTDIR);
        expect_file(dir, "usr/bin/tool", 300000);
        expect_file(dir, "usr/hard", 300000);
        expect_file(dir, "usr/link", 200000);
        expect_file(dir, "app/main", 5000);
        cas_cleanup_fd int small = open_at(dir, "usr/small");
        assert_int_equal(read(small, text, sizeof(text)), 6);
        assert_memory_equal(text, "little", 6);
        cas_cleanup_fd int empty = open_at(dir, "usr/empty");
        assert_int_equal(read(empty, text, sizeof(text)), 0);
        cas_cleanup_free char *root = names_of(dir, ".");
        cas_cleanup_free char *bin = names_of(dir, "usr/bin");
        assert_string_equal(root, ". .. app usr ");
        assert_string_equal(bin, ". .. added same tool ");
        cas_cleanup_free char *again = names_of(dir, "usr/bin");
        assert_string_equal(again, bin);
        cas_cleanup_free char *link = cas_xasprintf("%s/usr/link", dir);
        assert_int_equal(readlink(link, text, sizeof(text)), 8);
        assert_memory_equal(text, "bin/same", 8);
        cas_cleanup_free char *tool = cas_xasprintf("%s/usr/bin/tool", dir);
        assert_int_equal(getxattr(tool, "security.capability", text, sizeof(text)), 20);
        assert_int_equal(listxattr(tool, text, sizeof(text)), 20);
        assert_string_equal(text, "security.capability");
        assert_int_equal(getxattr(tool, "user.none", text, sizeof(text)), -1);
        assert_int_equal(errno, ENODATA);
        if (opens) /* else the kernel does not ask: such volumes are bound read-only */
                assert_int_equal(open(tool, O_RDWR | O_CLOEXEC), -1);
        assert_int_equal(chmod(tool, 0600), -1);
        assert_int_equal(errno, EROFS);
        assert_int_equal(unlink(tool), -1);
        assert_int_equal(errno, EROFS);
}

static void private_shows_the_image(void **state)
{
        struct side s = {.volumes = {"only", stack_paths}};
        side_open(&s, *state, "private");
        expect_image(s.dir, strcmp(*state, "inode") != 0);
        side_close(&s);
}

static void volumes_come_by_name_and_go(void **state)
{
        struct side s = {.volumes = {"one", stack_paths, "two", other_path}};
        side_open(&s, *state, "shared");
        cas_cleanup_free char *names = names_of(s.dir, ".");
        assert_string_equal(names, ". .. one two ");
        assert_int_equal(errno_of(s.dir, "three"), ENOENT);
        cas_cleanup_free char *one = cas_xasprintf("%s/one", s.dir);
        expect_image(one, strcmp(*state, "inode") != 0);
        expect_file(s.dir, "two/different", 200000);
        assert_true(stat_of(s.dir, "one/usr").st_ino != stat_of(s.dir, "two/usr").st_ino);
        struct ffs_treefs_counts counts = side_ask(&s, "count");
        assert_int_equal(counts.volumes, 2);
        assert_true(counts.shared_nodes > 0);
        (void)side_ask(&s, "remove one");
        assert_int_equal(errno_of(s.dir, "one"), ENOENT);
        cas_cleanup_free char *left = names_of(s.dir, ".");
        assert_string_equal(left, ". .. two ");
        expect_file(s.dir, "two/usr/bin/same", 200000);
        (void)side_ask(&s, "remove two");
        /* The kernel forgets by itself, soon. */
        for (int i = 0; i < 100; i++) {
                counts = side_ask(&s, "count");
                if (counts.volumes == 0 && counts.shared_nodes == 0 && counts.open_files == 0)
                        break;
                (void)usleep(20000);
        }
        assert_int_equal(counts.volumes, 0);
        assert_int_equal(counts.shared_nodes, 0);
        assert_int_equal(counts.open_files, 0);
        side_close(&s);
}

/* Equal files at one path are one inode; others share pages as the mode says. Two names of one
 * volume never are one inode. */
static void equal_files_share(void **state)
{
        bool passthrough = strcmp(*state, "passthrough") == 0;
        struct side s = {.volumes = {"one", stack_paths, "two", other_path}};
        side_open(&s, *state, "shared");
        assert_true(stat_of(s.dir, "one/usr/bin/same").st_ino ==
                    stat_of(s.dir, "two/usr/bin/same").st_ino);
        assert_true(stat_of(s.dir, "one/usr/share/a").st_ino !=
                    stat_of(s.dir, "one/usr/share/b").st_ino);
        assert_true(stat_of(s.dir, "one/usr/bin/same").st_ino !=
                    stat_of(s.dir, "two/different").st_ino);
        cas_cleanup_fd int one = open_at(s.dir, "one/usr/bin/same");
        cas_cleanup_fd int two = open_at(s.dir, "two/usr/bin/same");
        cas_cleanup_fd int other = open_at(s.dir, "two/different");
        expect_content(one, 200000);
        assert_int_equal(resident_pages(two, 200000), 49);
        assert_int_equal(resident_pages(other, 200000), passthrough ? 49 : 0);
        struct ffs_treefs_counts counts = side_ask(&s, "count");
        assert_int_equal(counts.open_files, passthrough ? 3 : 0);
        assert_int_equal(counts.backings > 0, passthrough);
        side_close(&s);
}

/* What was open goes on; what the kernel knows is known to the successor. */
static void a_successor_takes_over(void **state)
{
        bool passthrough = strcmp(*state, "passthrough") == 0;
        struct side s = {.volumes = {"one", stack_paths, "two", other_path}};
        side_open(&s, *state, "shared");
        /* The successor begins as a copy of this process, and closes what is open here: from its
         * first close on the kernel knows that it need not tell. */
        expect_file(s.dir, "one/usr/share/a", 70);
        cas_cleanup_fd int file = open_at(s.dir, "one/usr/bin/same");
        cas_cleanup_fd int dir = open_at(s.dir, "one/usr/bin");
        cas_cleanup_free char *app = cas_xasprintf("%s/one/app", s.dir);
        assert_int_equal(stat_of(s.dir, "one/app").st_mode, S_IFDIR | 0700);
        struct ffs_treefs_counts before = side_ask(&s, "count");
        side_kill(&s);
        side_spawn(&s);
        expect_content(file, 200000);
        cas_cleanup_fd int tool = openat(dir, "tool", O_RDONLY | O_CLOEXEC);
        assert_true(tool >= 0);
        expect_content(tool, 300000);
        expect_file(s.dir, "one/app/main", 5000); /* a directory that only the predecessor met */
        struct ffs_treefs_counts after = side_ask(&s, "count");
        assert_true(after.shared_nodes >= before.shared_nodes);
        assert_true(after.backings >= before.backings);
        /* The kernel tells of what was closed after close has returned. */
        unsigned open_files = passthrough ? 2 : 0;
        for (int i = 0; i < 500 && after.open_files != open_files; i++) {
                (void)usleep(20000);
                after = side_ask(&s, "count");
        }
        assert_int_equal(after.open_files, open_files);
        /* The same inode again: the id that is in use for it must be found. */
        expect_file(s.dir, "two/usr/bin/same", 200000);
        (void)close(tool);
        tool = -1;
        (void)close(file);
        file = -1;
        for (int i = 0; i < 100 && side_ask(&s, "count").open_files > 0; i++)
                (void)usleep(20000);
        assert_int_equal(side_ask(&s, "count").open_files, 0);
        side_close(&s);
}

static int setup(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        fusebox_open(&box, WATCHDOG_S);
        make_trees();
        must(ffs_hold_start(&box.host, &box.serving, &err), &err);
        return 0;
}

static int teardown(void **state CAS_UNUSED)
{
        fusebox_close(&box);
        return 0;
}

int main(int argc, char **argv)
{
        int status;
        if (argc > 1 && strcmp(argv[1], "treefs") == 0)
                return server_main(argc, argv);
        if (fusebox_is_process(argc, argv, &status))
                return status;
        if (!fusebox_possible()) {
                (void)printf("needs root and /dev/fuse\n");
                return 77;
        }
        static char inode[] = "inode", passthrough[] = "passthrough";
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_prestate(private_shows_the_image, inode),
                cmocka_unit_test_prestate(private_shows_the_image, passthrough),
                cmocka_unit_test_prestate(volumes_come_by_name_and_go, inode),
                cmocka_unit_test_prestate(volumes_come_by_name_and_go, passthrough),
                cmocka_unit_test_prestate(equal_files_share, inode),
                cmocka_unit_test_prestate(equal_files_share, passthrough),
                cmocka_unit_test_prestate(a_successor_takes_over, inode),
                cmocka_unit_test_prestate(a_successor_takes_over, passthrough),
        };
        return cmocka_run_group_tests_name("treefs", tests, setup, teardown);
}
