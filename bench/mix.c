/* SPDX-License-Identifier: Apache-2.0 */
/* What a build does to a writable tree: makes, writes, renames, looks up and
 * removes files, and prints nanoseconds per operation of each phase.
 *
 *   mix DIR COUNT
 *
 * COUNT files of 4 KiB in directories of a hundred, below a new directory in DIR. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include "cas/base.h"

#define PER_DIR 100

static char base[3000];

static void fail(const char *what, const char *path)
{
        fprintf(stderr, "mix: %s %s: %s\n", what, path, strerror(errno));
        exit(1);
}

static uint64_t now_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static const char *name_of(char out[4096], const char *prefix, uint64_t i)
{
        (void)snprintf(out, 4096, "%s/d%ju/%s%ju", base, (uintmax_t)(i / PER_DIR), prefix,
                       (uintmax_t)i);
        return out;
}

static void do_mkdir(uint64_t i)
{
        char path[4096];
        (void)snprintf(path, sizeof(path), "%s/d%ju", base, (uintmax_t)i);
        if (mkdir(path, 0755) < 0)
                fail("mkdir", path);
}

static void do_create(uint64_t i)
{
        static const char data[4096] = "x";
        char path[4096];
        int fd = open(name_of(path, "f", i), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (fd < 0 || write(fd, data, sizeof(data)) != (ssize_t)sizeof(data) || close(fd) < 0)
                fail("create", path);
}

static void do_append(uint64_t i)
{
        char path[4096];
        int fd = open(name_of(path, "f", i), O_WRONLY | O_APPEND | O_CLOEXEC);
        if (fd < 0 || write(fd, "more", 4) != 4 || close(fd) < 0)
                fail("append", path);
}

static void do_stat(uint64_t i)
{
        struct stat st;
        char path[4096];
        if (stat(name_of(path, "f", i), &st) < 0)
                fail("stat", path);
}

static void do_rename(uint64_t i)
{
        char from[4096], to[4096];
        if (rename(name_of(from, "f", i), name_of(to, "g", i)) < 0)
                fail("rename", from);
}

static void do_unlink(uint64_t i)
{
        char path[4096];
        if (unlink(name_of(path, "g", i)) < 0)
                fail("unlink", path);
}

static void do_rmdir(uint64_t i)
{
        char path[4096];
        (void)snprintf(path, sizeof(path), "%s/d%ju", base, (uintmax_t)i);
        if (rmdir(path) < 0)
                fail("rmdir", path);
}

static void phase(const char *name, void (*fn)(uint64_t i), uint64_t count)
{
        uint64_t start = now_ns();
        for (uint64_t i = 0; i < count; i++)
                fn(i);
        printf("%s %.1f\n", name, (double)(now_ns() - start) / (double)count);
}

int main(int argc, char **argv)
{
        uint64_t count = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
        if (count == 0) {
                fprintf(stderr, "usage: mix DIR COUNT\n");
                return 2;
        }
        uint64_t dirs = (count + PER_DIR - 1) / PER_DIR;
        (void)snprintf(base, sizeof(base), "%s/mix.%d", argv[1], (int)getpid());
        if (mkdir(base, 0755) < 0)
                fail("mkdir", base);
        phase("mkdir", do_mkdir, dirs);
        phase("create", do_create, count);
        phase("append", do_append, count);
        phase("stat", do_stat, count);
        phase("rename", do_rename, count);
        phase("unlink", do_unlink, count);
        phase("rmdir", do_rmdir, dirs);
        return rmdir(base) < 0;
}
