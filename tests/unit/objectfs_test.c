/* SPDX-License-Identifier: Apache-2.0 */
/* The object file system as a reader sees it, with the real processes: this
 * program is its own `hold` and `fs`. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "fusefs/unixsock_int.h"
#include "tests/support/fusebox.h"

#define SMALL_COUNT 400
#define SMALL_BYTES 5000
#define LARGE_BYTES (24U << 20)
#define LARGE_SEED 77
/* Its extents come in several pages. */
#define HUGE_BYTES (72U << 20)
#define HUGE_SEED 78
#define WATCHDOG_S 120

static struct fusebox box;
static struct cas_hash small_ids[SMALL_COUNT], large_id, huge_id, empty_id;

static uint64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Every content of this test is made from its seed; what was cached before is dropped. */
static void drop_caches(void)
{
        int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
        if (fd >= 0) {
                (void)!write(fd, "3", 1);
                (void)close(fd);
        }
}

/* 0 when the file has the content of its seed, else the errno or -1. */
static int check_file(const struct cas_hash *id, uint32_t seed, size_t bytes)
{
        char path[512];
        fusebox_object_path(&box, id, path, sizeof(path));
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return errno;
        cas_cleanup_free uint8_t *want = cas_xmalloc(bytes);
        cas_cleanup_free uint8_t *got = cas_xmalloc(bytes + 1);
        fusebox_content(seed, bytes, want);
        size_t at = 0;
        for (;;) {
                ssize_t n = read(fd, got + at, bytes + 1 - at);
                if (n < 0)
                        return errno;
                if (n == 0)
                        break;
                at += (size_t)n;
        }
        return at == bytes && memcmp(got, want, bytes) == 0 ? 0 : -1;
}

static int setup(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        fusebox_open(&box, WATCHDOG_S);
        fusebox_add_many(&box, 1000, SMALL_COUNT, SMALL_BYTES, small_ids);
        fusebox_add(&box, LARGE_SEED, LARGE_BYTES, &large_id);
        fusebox_add(&box, HUGE_SEED, HUGE_BYTES, &huge_id);
        fusebox_add(&box, 0, 0, &empty_id);
        if (ffs_hold_start(&box.host, &box.serving, &err) < 0) {
                fprintf(stderr, "hold: %s\n", err.msg);
                return -1;
        }
        return 0;
}

static int teardown(void **state CAS_UNUSED)
{
        fusebox_close(&box);
        return 0;
}

static void attributes_are_exact(void **state CAS_UNUSED)
{
        char path[512];
        struct stat st;
        fusebox_object_path(&box, &large_id, path, sizeof(path));
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode, S_IFREG | 0444);
        assert_int_equal(st.st_size, LARGE_BYTES);
        assert_int_equal(st.st_blocks, LARGE_BYTES / 512);
        assert_int_equal(st.st_nlink, 1);
        fusebox_object_path(&box, &empty_id, path, sizeof(path));
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, 0);
        assert_int_equal(check_file(&empty_id, 0, 0), 0);
        assert_int_equal(open(path, O_WRONLY), -1);
        assert_int_equal(errno, EROFS);
}

static void the_root_lists_its_directories(void **state CAS_UNUSED)
{
        char path[512];
        (void)snprintf(path, sizeof(path), "%s/objects", box.run_dir);
        DIR *d = opendir(path);
        assert_non_null(d);
        int count = 0;
        for (struct dirent *e; (e = readdir(d));)
                count += e->d_name[0] != '.';
        (void)closedir(d);
        assert_int_equal(count, 256);
}

static void content_is_right(void **state CAS_UNUSED)
{
        for (uint32_t i = 0; i < SMALL_COUNT; i++)
                assert_int_equal(check_file(&small_ids[i], 1000 + i, SMALL_BYTES), 0);
        assert_int_equal(check_file(&large_id, LARGE_SEED, LARGE_BYTES), 0);
}

static void maps_and_reads_anywhere(void **state CAS_UNUSED)
{
        char path[512];
        fusebox_object_path(&box, &huge_id, path, sizeof(path));
        drop_caches();
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        cas_cleanup_free uint8_t *want = cas_xmalloc(HUGE_BYTES);
        fusebox_content(HUGE_SEED, HUGE_BYTES, want);
        uint8_t *map = mmap(NULL, HUGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
        assert_true(map != MAP_FAILED);
        uint64_t x = 1;
        for (int i = 0; i < 300; i++) {
                x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
                size_t at = (size_t)(x >> 33) % (HUGE_BYTES - 5000);
                uint8_t got[5000];
                assert_int_equal(pread(fd, got, sizeof(got), (off_t)at), sizeof(got));
                assert_memory_equal(got, want + at, sizeof(got));
                at = (size_t)(x >> 20) % HUGE_BYTES;
                assert_int_equal(map[at], want[at]);
        }
        assert_int_equal(check_file(&huge_id, HUGE_SEED, HUGE_BYTES), 0);
        (void)munmap(map, HUGE_BYTES);
}

static void what_is_absent_may_come(void **state CAS_UNUSED)
{
        cas_cleanup_free uint8_t *data = cas_xmalloc(3000);
        fusebox_content(5555, 3000, data);
        struct cas_hash id;
        /* The name is known beforehand: an object made in another store of the same content. */
        fusebox_add(&box, 5555, 3000, &id);
        struct cas_hash absent = id;
        absent.bytes[31] ^= 1;
        assert_int_equal(check_file(&absent, 5555, 3000), ENOENT);
        assert_int_equal(check_file(&id, 5555, 3000), 0);
        char path[512];
        (void)snprintf(path, sizeof(path), "%s/objects/zz", box.run_dir);
        assert_int_equal(access(path, F_OK), -1);
        (void)snprintf(path, sizeof(path), "%s/objects/ab/cd", box.run_dir);
        assert_int_equal(access(path, F_OK), -1);
}

/* ---- owners come and go ---- */

static void *owner_returns(void *arg)
{
        struct timespec wait = {.tv_nsec = 700 * 1000 * 1000};
        (void)nanosleep(&wait, NULL);
        fusebox_owner_start(arg);
        return NULL;
}

static void cold_reads_wait_for_the_owner(void **state CAS_UNUSED)
{
        assert_int_equal(check_file(&small_ids[0], 1000, SMALL_BYTES), 0);
        fusebox_owner_stop(&box);
        assert_int_equal(check_file(&small_ids[0], 1000, SMALL_BYTES), 0); /* cached */
        char name[512];
        struct cas_hash fresh = small_ids[1];
        fresh.bytes[0] ^= 0xff; /* absent: the owner must say so */
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, owner_returns, &box), 0);
        uint64_t start = now_ms();
        fusebox_object_path(&box, &fresh, name, sizeof(name));
        assert_int_equal(access(name, F_OK), -1);
        assert_int_equal(errno, ENOENT);
        assert_true(now_ms() - start >= 500);
        assert_int_equal(pthread_join(thread, NULL), 0);
        drop_caches();
        assert_int_equal(check_file(&large_id, LARGE_SEED, LARGE_BYTES), 0);
}

static void who_waits_can_be_killed(void **state CAS_UNUSED)
{
        fusebox_owner_stop(&box);
        struct cas_hash fresh = small_ids[2];
        fresh.bytes[0] ^= 0xff;
        char path[512];
        fusebox_object_path(&box, &fresh, path, sizeof(path));
        pid_t pid = fork();
        if (pid == 0)
                _exit(access(path, F_OK) == 0);
        struct timespec wait = {.tv_nsec = 300 * 1000 * 1000};
        (void)nanosleep(&wait, NULL);
        assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
        uint64_t start = now_ms();
        (void)kill(pid, SIGKILL);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        assert_true(now_ms() - start < 2000);
        fusebox_owner_start(&box);
}

/* An owner that hangs: it takes connections and answers none. */
static void a_hanging_owner_hinders_nobody_else(void **state CAS_UNUSED)
{
        enum { WAITING = 12 };
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(check_file(&large_id, LARGE_SEED, LARGE_BYTES), 0);
        fusebox_owner_stop(&box);
        int hanging = -1;
        assert_int_equal(ffs_sock_listen(box.resolve_path, &hanging, &err), 0);
        pid_t pids[WAITING];
        for (unsigned i = 0; i < WAITING; i++) {
                struct cas_hash fresh = small_ids[i];
                fresh.bytes[1] ^= 0xff;
                pids[i] = fork();
                if (pids[i] == 0) {
                        (void)close(hanging);
                        _exit(check_file(&fresh, 0, 0) != ENOENT);
                }
        }
        struct timespec wait = {.tv_nsec = 200 * 1000 * 1000};
        (void)nanosleep(&wait, NULL);
        char path[512];
        fusebox_object_path(&box, &large_id, path, sizeof(path));
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        uint64_t start = now_ms();
        assert_int_equal(check_file(&large_id, LARGE_SEED, LARGE_BYTES), 0);
        assert_true(now_ms() - start < 4000); /* its extents are known */
        (void)close(hanging);
        fusebox_owner_start(&box);
        for (unsigned i = 0; i < WAITING; i++) {
                int status;
                assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
                assert_int_equal(status, 0);
        }
}

/* ---- fs and hold are killed ---- */

#define READERS 20
#define KILLS 8

static int reader_main(unsigned number)
{
        for (uint32_t i = 0; i < SMALL_COUNT; i++) {
                uint32_t k = (i * 7 + number * 37) % SMALL_COUNT;
                int rc = check_file(&small_ids[k], 1000 + k, SMALL_BYTES);
                if (rc) {
                        fprintf(stderr, "reader %u: file %u: %s\n", number, k,
                                rc < 0 ? "wrong content" : strerror(rc));
                        return 1;
                }
                if (i % 100 == number && check_file(&large_id, LARGE_SEED, LARGE_BYTES))
                        return 1;
        }
        return 0;
}

static pid_t fs_pid_now(void)
{
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(ffs_hold_ask(box.run_dir, "status", &box.serving, &err), 0);
        return box.serving.fs_pid;
}

static void readers_survive_killed_servers(void **state CAS_UNUSED)
{
        drop_caches();
        pid_t readers[READERS];
        for (unsigned i = 0; i < READERS; i++) {
                readers[i] = fork();
                if (readers[i] == 0)
                        _exit(reader_main(i));
        }
        struct timespec wait = {.tv_nsec = 60 * 1000 * 1000};
        for (int i = 0; i < KILLS; i++) {
                (void)nanosleep(&wait, NULL);
                (void)kill(fs_pid_now(), SIGKILL);
                drop_caches();
        }
        for (unsigned i = 0; i < READERS; i++) {
                int status;
                assert_int_equal(waitpid(readers[i], &status, 0), readers[i]);
                assert_int_equal(status, 0);
        }
        (void)fs_pid_now();
        assert_true(box.serving.restarts >= KILLS / 2);
}

static void a_killed_hold_is_replaced_too(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        /* The fs of now serves: one that was only starting when hold died would have nothing. */
        drop_caches();
        assert_int_equal(check_file(&large_id, LARGE_SEED, LARGE_BYTES), 0);
        pid_t fs = fs_pid_now();
        /* hold is the parent of fs, or its child when fs had to revive one. */
        char path[64], line[512];
        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)fs);
        FILE *f = fopen(path, "re");
        assert_non_null(f);
        assert_non_null(fgets(line, sizeof(line), f));
        (void)fclose(f);
        int parent = 0;
        assert_int_equal(sscanf(strrchr(line, ')') + 1, " %*c %d", &parent), 1);
        assert_true(parent > 1);
        (void)kill(parent, SIGKILL);
        drop_caches();
        assert_int_equal(check_file(&small_ids[3], 1003, SMALL_BYTES), 0);
        struct timespec wait = {.tv_nsec = 20 * 1000 * 1000};
        struct ffs_serving serving = {0};
        int rc = -1;
        for (int i = 0; i < 100 && rc < 0; i++) {
                (void)nanosleep(&wait, NULL);
                rc = ffs_hold_ask(box.run_dir, "status", &serving, &err);
        }
        assert_int_equal(rc, 0);
        assert_int_equal(serving.fs_pid, fs);
        (void)kill(fs, SIGKILL); /* the new hold can do what the old one could */
        drop_caches();
        assert_int_equal(check_file(&large_id, LARGE_SEED, LARGE_BYTES), 0);
        assert_int_not_equal(fs_pid_now(), fs);
}

/* Kills fs; the pid of its successor. */
static pid_t replaced_fs(void)
{
        pid_t before = fs_pid_now();
        (void)kill(before, SIGKILL);
        for (int i = 0; i < 1000 && fs_pid_now() == before; i++)
                (void)usleep(10000);
        assert_int_not_equal(fs_pid_now(), before);
        return fs_pid_now();
}

/* A process is not gone as long as one of its threads waits in the kernel for an answer of that
 * very process: hold may not wait for it. */
static void one_that_waits_for_itself_is_replaced(void **state CAS_UNUSED)
{
        struct cas_hash absent;
        char path[600], name[600];
        memset(&absent, 0x5a, sizeof(absent));
        fusebox_object_path(&box, &absent, path, sizeof(path));
        (void)snprintf(name, sizeof(name), "%s/" FUSEBOX_SELF_READER, box.run_dir);
        int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(write(fd, path, strlen(path)), (ssize_t)strlen(path));
        (void)close(fd);
        fusebox_owner_stop(&box); /* so that there is no answer */
        pid_t before = replaced_fs();
        (void)usleep(300000); /* until it has found the name, and waits */
        (void)unlink(name);
        (void)replaced_fs();
        assert_int_not_equal(kill(before, 0), -1); /* what waited is still there */
        fusebox_owner_start(&box);
        drop_caches();
        assert_int_equal(check_file(&small_ids[5], 1005, SMALL_BYTES), 0);
        for (int i = 0; i < 500 && kill(before, 0) == 0; i++)
                (void)usleep(10000);
        assert_int_equal(kill(before, 0), -1); /* answered, and gone */
}

int main(int argc, char **argv)
{
        int status;
        if (fusebox_is_process(argc, argv, &status))
                return status;
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(attributes_are_exact),
                cmocka_unit_test(the_root_lists_its_directories),
                cmocka_unit_test(content_is_right),
                cmocka_unit_test(maps_and_reads_anywhere),
                cmocka_unit_test(what_is_absent_may_come),
                cmocka_unit_test(cold_reads_wait_for_the_owner),
                cmocka_unit_test(who_waits_can_be_killed),
                cmocka_unit_test(a_hanging_owner_hinders_nobody_else),
                cmocka_unit_test(readers_survive_killed_servers),
                cmocka_unit_test(a_killed_hold_is_replaced_too),
                cmocka_unit_test(one_that_waits_for_itself_is_replaced),
        };
        if (!fusebox_possible()) {
                printf("skipped: needs root and /dev/fuse\n");
                return 0;
        }
        return cmocka_run_group_tests_name("objectfs", tests, setup, teardown);
}
