/* SPDX-License-Identifier: Apache-2.0 */
/* Measures how a mounted tree answers: each test walks the list of files given
 * on standard input (one path a line) and prints nanoseconds per operation.
 *
 *   access stat|open|read|pread|mmap COUNT < LIST
 *
 * stat, open: over all paths, COUNT rounds; read: every file whole; pread and
 * mmap: COUNT random 4 KiB pieces of the files, offsets from a fixed seed. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "cas/base.h"

struct file {
        char *path;
        uint64_t size_bytes;
};

static struct file *files;
static size_t file_count;

static void fail(const char *what, const char *path)
{
        fprintf(stderr, "access: %s %s: %s\n", what, path, strerror(errno));
        exit(1);
}

static void read_list(void)
{
        char *line = NULL;
        size_t alloc = 0;
        ssize_t len;
        while ((len = getline(&line, &alloc, stdin)) > 0) {
                if (line[len - 1] == '\n')
                        line[len - 1] = '\0';
                files = cas_xrealloc(files, (file_count + 1) * sizeof(files[0]));
                struct stat st;
                if (lstat(line, &st) != 0)
                        fail("stat", line);
                files[file_count++] = (struct file){cas_xstrdup(line), (uint64_t)st.st_size};
        }
        free(line);
}

static uint64_t now_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static int open_file(const struct file *f)
{
        int fd = open(f->path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                fail("open", f->path);
        return fd;
}

static uint64_t do_stat(uint64_t rounds)
{
        struct stat st;
        for (uint64_t r = 0; r < rounds; r++)
                for (size_t i = 0; i < file_count; i++)
                        if (lstat(files[i].path, &st) != 0)
                                fail("stat", files[i].path);
        return rounds * file_count;
}

static uint64_t do_open(uint64_t rounds)
{
        for (uint64_t r = 0; r < rounds; r++)
                for (size_t i = 0; i < file_count; i++)
                        (void)close(open_file(&files[i]));
        return rounds * file_count;
}

static uint64_t do_read(void)
{
        static char buf[1 << 17];
        for (size_t i = 0; i < file_count; i++) {
                int fd = open_file(&files[i]);
                ssize_t n;
                while ((n = read(fd, buf, sizeof(buf))) > 0)
                        ;
                if (n < 0)
                        fail("read", files[i].path);
                (void)close(fd);
        }
        return file_count;
}

static uint64_t random_next(uint64_t *state)
{
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        return *state;
}

/* Pieces of the largest file: what a program that maps a library or a database does. */
static uint64_t do_pieces(uint64_t count, bool map)
{
        const struct file *f = &files[0];
        for (size_t i = 1; i < file_count; i++)
                if (files[i].size_bytes > f->size_bytes)
                        f = &files[i];
        uint64_t pages = f->size_bytes / 4096;
        if (pages == 0)
                fail("too small", f->path);
        int fd = open_file(f);
        volatile uint8_t *at = NULL;
        if (map) {
                at = mmap(NULL, f->size_bytes, PROT_READ, MAP_SHARED, fd, 0);
                if (at == MAP_FAILED)
                        fail("map", f->path);
        }
        uint64_t state = 88172645463325252U, sum = 0;
        char buf[4096];
        for (uint64_t i = 0; i < count; i++) {
                uint64_t offset = random_next(&state) % pages * 4096;
                if (map)
                        sum += at[offset];
                else if (pread(fd, buf, sizeof(buf), (off_t)offset) != (ssize_t)sizeof(buf))
                        fail("read", f->path);
        }
        (void)close(fd);
        return count + (sum & 0);
}

int main(int argc, char **argv)
{
        if (argc != 3) {
                fprintf(stderr, "usage: access stat|open|read|pread|mmap COUNT < LIST\n");
                return 2;
        }
        uint64_t count = strtoull(argv[2], NULL, 10);
        read_list();
        uint64_t start = now_ns(), done;
        if (strcmp(argv[1], "stat") == 0)
                done = do_stat(count);
        else if (strcmp(argv[1], "open") == 0)
                done = do_open(count);
        else if (strcmp(argv[1], "read") == 0)
                done = do_read();
        else
                done = do_pieces(count, strcmp(argv[1], "mmap") == 0);
        printf("%.1f\n", (double)(now_ns() - start) / (double)done);
        return 0;
}
