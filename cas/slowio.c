/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/slowio.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <xxhash.h>

#include "cas/log.h"

#define VARIABLE "LAMINA_SLOW_IO"
#define DEVICES_MAX 8
#define NS_PER_S UINT64_C(1000000000)
/* A disk reads over a gap as long as this rather than seek. */
#define SKIP_BYTES (UINT64_C(128) << 10)

static const struct cas_slow_class classes[] = {
        {"nvme", UINT64_C(3000) << 20, 80 * 1000, 32, false},
        {"ssd", UINT64_C(500) << 20, 150 * 1000, 16, false},
        {"hdd", UINT64_C(150) << 20, 8 * 1000 * 1000, 1, true},
};

/* In memory that all processes of a user share. */
struct turn {
        _Atomic uint64_t free_ns;   /* of CLOCK_MONOTONIC: when the queue has room again */
        _Atomic uint64_t file, end; /* where the head is */
};

struct device {
        const struct cas_slow_class *class;
        char *dir; /* owned; absolute, without a slash at its end */
        size_t dir_len;
        struct turn *turn; /* mapped */
};

struct cas_slowio {
        struct cas_io io;
        struct device devices[DEVICES_MAX];
        size_t count;
};

/* ---- time ---- */

static uint64_t now_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void sleep_until(uint64_t ns)
{
        static _Thread_local bool exact;
        const struct timespec t = {.tv_sec = (time_t)(ns / NS_PER_S),
                                   .tv_nsec = (long)(ns % NS_PER_S)};
        if (!exact)
                (void)prctl(PR_SET_TIMERSLACK, 1);
        exact = true;
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
                ;
}

/* Waits for a device's turn and for the operation itself. */
static void charge(const struct device *d, uint64_t latency_ns, uint64_t bytes)
{
        const struct cas_slow_class *c = d->class;
        const uint64_t transfer = bytes * NS_PER_S / c->bytes_per_s;
        /* While it has the queue: of many at a time, the bytes of one hold up those of others, and
         * so does their number. */
        const uint64_t held = cas_max_u64(transfer, (latency_ns + transfer) / c->queue);
        const uint64_t now = now_ns();
        uint64_t start, was = atomic_load(&d->turn->free_ns);
        do
                start = cas_max_u64(was, now);
        while (!atomic_compare_exchange_weak(&d->turn->free_ns, &was, start + held));
        sleep_until(start + latency_ns + transfer);
}

/* ---- devices ---- */

static const struct device *device_of(const struct cas_slowio *s, int fd)
{
        char link[40], path[PATH_MAX];
        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        ssize_t len = readlink(link, path, sizeof(path) - 1);
        if (len < 0)
                return NULL;
        path[len] = '\0';
        for (size_t i = 0; i < s->count; i++) {
                const struct device *d = &s->devices[i];
                if (strncmp(path, d->dir, d->dir_len) == 0 && path[d->dir_len] == '/')
                        return d;
        }
        return NULL;
}

/* The latency of reading or writing there, and where the head is afterwards. */
static uint64_t latency_at(const struct device *d, int fd, off_t offset, uint64_t bytes)
{
        struct stat st;
        if (!d->class->seeks)
                return d->class->latency_ns;
        const uint64_t at = (uint64_t)offset, file = fstat(fd, &st) == 0 ? st.st_ino : 0;
        const uint64_t was = atomic_exchange(&d->turn->file, file);
        const uint64_t end = atomic_exchange(&d->turn->end, at + bytes);
        return was == file && at >= end && at - end <= SKIP_BYTES ? 0 : d->class->latency_ns;
}

/* ---- operations ---- */

static int slow_openat(void *ctx CAS_UNUSED, int dirfd, const char *path, int flags, mode_t mode)
{
        return openat(dirfd, path, flags, mode);
}

static int slow_close(void *ctx CAS_UNUSED, int fd)
{
        return close(fd);
}

static ssize_t slow_pread(void *ctx, int fd, void *buf, size_t len, off_t offset)
{
        const struct device *d = device_of(ctx, fd);
        ssize_t n = pread(fd, buf, len, offset);
        if (d && n > 0)
                charge(d, latency_at(d, fd, offset, (uint64_t)n), (uint64_t)n);
        return n;
}

/* Writes are collected by the system: they cost their bytes, and syncing the rest. */
static ssize_t slow_pwrite(void *ctx, int fd, const void *buf, size_t len, off_t offset)
{
        const struct device *d = device_of(ctx, fd);
        ssize_t n = pwrite(fd, buf, len, offset);
        if (d && n > 0)
                charge(d, 0, (uint64_t)n);
        return n;
}

static ssize_t slow_copy_file_range(void *ctx, int in, off_t *in_offset, int out, off_t *out_offset,
                                    size_t len)
{
        const struct device *from = device_of(ctx, in), *to = device_of(ctx, out);
        off_t at = in_offset ? *in_offset : 0;
        ssize_t n = copy_file_range(in, in_offset, out, out_offset, len, 0);
        if (from && n > 0)
                charge(from, latency_at(from, in, at, (uint64_t)n), (uint64_t)n);
        if (to && n > 0)
                charge(to, 0, (uint64_t)n);
        return n;
}

static int slow_ftruncate(void *ctx CAS_UNUSED, int fd, off_t len)
{
        return ftruncate(fd, len);
}

static int sync_fd(const struct cas_slowio *s, int fd, int (*sync)(int))
{
        const struct device *d = device_of(s, fd);
        int rc = sync(fd);
        if (d)
                charge(d, d->class->latency_ns, 0);
        return rc;
}

static int slow_fsync(void *ctx, int fd)
{
        return sync_fd(ctx, fd, fsync);
}

static int slow_fdatasync(void *ctx, int fd)
{
        return sync_fd(ctx, fd, fdatasync);
}

static int slow_renameat(void *ctx CAS_UNUSED, int old_dirfd, const char *old_path, int new_dirfd,
                         const char *new_path)
{
        return renameat(old_dirfd, old_path, new_dirfd, new_path);
}

static int slow_linkat(void *ctx CAS_UNUSED, int old_dirfd, const char *old_path, int new_dirfd,
                       const char *new_path)
{
        return linkat(old_dirfd, old_path, new_dirfd, new_path, 0);
}

static int slow_unlinkat(void *ctx CAS_UNUSED, int dirfd, const char *path, int flags)
{
        return unlinkat(dirfd, path, flags);
}

static int slow_mkdirat(void *ctx CAS_UNUSED, int dirfd, const char *path, mode_t mode)
{
        return mkdirat(dirfd, path, mode);
}

static int slow_fstatat(void *ctx CAS_UNUSED, int dirfd, const char *path, struct stat *st,
                        int flags)
{
        return fstatat(dirfd, path, st, flags);
}

static const struct cas_io_ops slow_ops = {
        .openat = slow_openat,
        .close = slow_close,
        .pread = slow_pread,
        .pwrite = slow_pwrite,
        .copy_file_range = slow_copy_file_range,
        .ftruncate = slow_ftruncate,
        .fsync = slow_fsync,
        .fdatasync = slow_fdatasync,
        .renameat = slow_renameat,
        .linkat = slow_linkat,
        .unlinkat = slow_unlinkat,
        .mkdirat = slow_mkdirat,
        .fstatat = slow_fstatat,
};

/* ---- the list ---- */

static struct turn *map_turn(const char *dir)
{
        char path[80];
        (void)snprintf(path, sizeof(path), "/dev/shm/lamina-slow-io-%u-%016llx",
                       (unsigned)geteuid(), (unsigned long long)XXH3_64bits(dir, strlen(dir)));
        cas_cleanup_fd int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        void *at = MAP_FAILED;
        if (fd >= 0 && ftruncate(fd, sizeof(struct turn)) == 0)
                at = mmap(NULL, sizeof(struct turn), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED) /* then each process has a device of its own */
                at = mmap(NULL, sizeof(struct turn), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return at == MAP_FAILED ? NULL : at;
}

static int add_device(struct cas_slowio *s, const char *word, size_t len, struct cas_err *err)
{
        cas_cleanup_free char *text = cas_xstrndup(word, len);
        char *class = strrchr(text, '=');
        if (s->count == DEVICES_MAX)
                return cas_fail(err, CAS_E_LIMIT, VARIABLE ": more than %d devices", DEVICES_MAX);
        if (!class || text[0] != '/')
                return cas_fail(err, CAS_E_INVALID, VARIABLE ": %s is no /DIRECTORY=CLASS", text);
        *class ++ = '\0';
        struct device *d = &s->devices[s->count];
        *d = (struct device){.dir_len = strlen(text)};
        while (d->dir_len > 1 && text[d->dir_len - 1] == '/')
                d->dir_len--;
        for (size_t i = 0; i < CAS_COUNT(classes); i++) {
                if (strcmp(classes[i].name, class) == 0)
                        d->class = &classes[i];
        }
        if (!d->class)
                return cas_fail(err, CAS_E_INVALID, VARIABLE ": no class %s", class);
        d->dir = cas_xstrndup(text, d->dir_len);
        d->turn = map_turn(d->dir);
        s->count++;
        return d->turn ? 0 : cas_fail(err, CAS_E_NOMEM, VARIABLE);
}

int cas_slowio_new(const char *list, struct cas_slowio **out, struct cas_err *err)
{
        struct cas_slowio *s = cas_xcalloc(1, sizeof(*s));
        int rc = 0;
        s->io = (struct cas_io){.ops = &slow_ops, .ctx = s};
        while (*list && rc == 0) {
                size_t len = strcspn(list, ":");
                rc = add_device(s, list, len, err);
                list += len + (list[len] == ':');
        }
        if (rc < 0) {
                cas_slowio_free(s);
                return rc;
        }
        *out = s;
        return 0;
}

void cas_slowio_free(struct cas_slowio *s)
{
        if (!s)
                return;
        for (size_t i = 0; i < s->count; i++) {
                free(s->devices[i].dir);
                if (s->devices[i].turn)
                        (void)munmap(s->devices[i].turn, sizeof(struct turn));
        }
        free(s);
}

const struct cas_io *cas_slowio_io(struct cas_slowio *s)
{
        return &s->io;
}

static const struct cas_io *device_io;

static void choose(void)
{
        const char *list = getenv(VARIABLE);
        struct cas_slowio *s;
        struct cas_err err = CAS_ERR_INIT;
        device_io = cas_io_posix();
        if (!list || !*list)
                return;
        if (cas_slowio_new(list, &s, &err) < 0) {
                cas_log(CAS_LOG_ERROR, "slow_io", "error=\"%s\"", err.msg);
                return;
        }
        cas_log(CAS_LOG_WARN, "slow_io", "devices=\"%s\" for=benchmarks", list);
        device_io = cas_slowio_io(s);
}

const struct cas_io *cas_io_device(void)
{
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        (void)pthread_once(&once, choose);
        return device_io;
}
