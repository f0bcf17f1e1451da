/* SPDX-License-Identifier: Apache-2.0 */
/* The calls themselves, in place of libc's: compiled without fortification, whose inline functions
 * have their names. */
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "tests/support/below/recorder_int.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes" /* libc's own have macros in between */
#define EXPORT __attribute__((visibility("default")))

/* ---- the system's ---- */

int recorder_raw_stat(int dirfd, const char *path, struct stat *st, int flags)
{
        return (int)syscall(SYS_newfstatat, dirfd, path, st, flags);
}

static int raw_fstat(int fd, struct stat *st)
{
        return recorder_raw_stat(fd, "", st, AT_EMPTY_PATH);
}

static int raw_openat(int dirfd, const char *path, int flags, mode_t mode)
{
        return (int)syscall(SYS_openat, dirfd, path, flags, mode);
}

static ssize_t raw_pread(int fd, void *buf, size_t len, off_t offset)
{
        return syscall(SYS_pread64, fd, buf, len, offset);
}

static ssize_t raw_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
        return syscall(SYS_pwrite64, fd, buf, len, offset);
}

/* ---- where a call is ---- */

struct place {
        uint32_t dir;
        char name[NAME_MAX + 1];
        const char *path;
};

static bool locate(int dirfd, const char *path, struct place *out)
{
        char parent[PATH_MAX];
        struct stat st;
        if (!recorder_is_on || !path)
                return false;
        size_t len = strlen(path);
        while (len > 1 && path[len - 1] == '/')
                len--;
        const char *slash = memrchr(path, '/', len);
        size_t start = slash ? (size_t)(slash - path) + 1 : 0;
        if (len >= sizeof(parent) || len - start > NAME_MAX || len == start)
                return false;
        memcpy(out->name, path + start, len - start);
        out->name[len - start] = '\0';
        memcpy(parent, path, start);
        parent[start] = '\0';
        out->path = path;
        if (recorder_raw_stat(dirfd, start ? parent : ".", &st, 0) != 0)
                return false;
        recorder_lock();
        bool ours = recorder_number(&st, &out->dir);
        recorder_unlock();
        return ours;
}

static bool is_ours(int fd, struct stat *st, uint32_t *number)
{
        if (!recorder_is_on || raw_fstat(fd, st) != 0)
                return false;
        recorder_lock();
        bool ours = recorder_number(st, number);
        recorder_unlock();
        return ours;
}

/* The number of what a name leads to. Files that stdio made have none: RocksDB's LOG. */
static bool number_at(int dirfd, const struct place *p, struct stat *st, uint32_t *number)
{
        if (recorder_raw_stat(dirfd, p->path, st, AT_SYMLINK_NOFOLLOW) != 0)
                return false;
        if (recorder_number(st, number))
                return true;
        if (strncmp(p->name, "LOG", 3) != 0)
                recorder_refuse("a file that nobody made", p->name);
        return false;
}

/* Locks, and unlocks again when the call fails: then errno is set. */
static bool begins(const char *call, const char *path, int fd, unsigned traits)
{
        recorder_lock();
        int e = recorder_strike(call, path, fd, traits);
        if (e <= 0)
                return true;
        recorder_unlock();
        errno = e;
        return false;
}

static int ends(int rc)
{
        int saved = errno;
        recorder_unlock();
        errno = saved;
        return rc;
}

/* ---- opening and closing ---- */

static int open_ours(const char *call, int dirfd, const struct place *p, int flags, mode_t mode)
{
        struct stat st;
        uint32_t number;
        bool creates = flags & O_CREAT;
        if (!begins(call, p->path, -1,
                    RECORDER_OPENS | RECORDER_HAS_PATH | (creates ? RECORDER_TAKES_SPACE : 0)))
                return -1;
        if (flags & O_DSYNC & ~O_TMPFILE)
                recorder_refuse("a file that syncs every write", p->path);
        bool there = recorder_raw_stat(dirfd, p->path, &st, 0) == 0;
        int fd = raw_openat(dirfd, p->path, flags, mode);
        if (fd < 0)
                return ends(fd);
        if (!there && creates) {
                int rc = raw_fstat(fd, &st);
                cas_assert(rc == 0);
                number = recorder_new_number(&st);
                recorder_add(&(struct recorder_op){
                        .kind = RECORDER_CREATE, .file = number, .dir = p->dir, .name = p->name});
        } else if (there && (flags & O_TRUNC) && st.st_size > 0 && recorder_number(&st, &number)) {
                recorder_add(&(struct recorder_op){.kind = RECORDER_TRUNCATE, .file = number});
        }
        return ends(fd);
}

static int do_open(const char *call, int dirfd, const char *path, int flags, mode_t mode)
{
        struct place p;
        /* Without a name nothing of it stays. */
        bool nameless = (flags & O_TMPFILE) == O_TMPFILE;
        if (nameless || !locate(dirfd, path, &p))
                return raw_openat(dirfd, path, flags, mode);
        return open_ours(call, dirfd, &p, flags, mode);
}

/* Whether the variadic argument is there. */
static bool takes_mode(int flags)
{
        return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
}

#define DEFINE_OPEN(NAME)                                                                          \
        EXPORT int NAME(const char *path, int flags, ...)                                          \
        {                                                                                          \
                va_list args;                                                                      \
                va_start(args, flags);                                                             \
                mode_t mode = takes_mode(flags) ? va_arg(args, mode_t) : 0;                        \
                va_end(args);                                                                      \
                return do_open("open", AT_FDCWD, path, flags, mode);                               \
        }
#define DEFINE_OPENAT(NAME)                                                                        \
        EXPORT int NAME(int dirfd, const char *path, int flags, ...)                               \
        {                                                                                          \
                va_list args;                                                                      \
                va_start(args, flags);                                                             \
                mode_t mode = takes_mode(flags) ? va_arg(args, mode_t) : 0;                        \
                va_end(args);                                                                      \
                return do_open("open", dirfd, path, flags, mode);                                  \
        }
DEFINE_OPEN(open)
DEFINE_OPEN(open64)
DEFINE_OPENAT(openat)
DEFINE_OPENAT(openat64)

#define DEFINE_CREAT(NAME)                                                                         \
        EXPORT int NAME(const char *path, mode_t mode)                                             \
        {                                                                                          \
                return do_open("creat", AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);       \
        }
DEFINE_CREAT(creat)
DEFINE_CREAT(creat64)

/* What fortified callers call. */
#define DEFINE_OPEN_2(NAME)                                                                        \
        EXPORT int NAME(const char *path, int flags)                                               \
        {                                                                                          \
                return do_open("open", AT_FDCWD, path, flags, 0);                                  \
        }
#define DEFINE_OPENAT_2(NAME)                                                                      \
        EXPORT int NAME(int dirfd, const char *path, int flags)                                    \
        {                                                                                          \
                return do_open("open", dirfd, path, flags, 0);                                     \
        }
DEFINE_OPEN_2(__open_2)
DEFINE_OPEN_2(__open64_2)
DEFINE_OPENAT_2(__openat_2)
DEFINE_OPENAT_2(__openat64_2)

EXPORT DIR *opendir(const char *path)
{
        int fd = do_open("opendir", AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
        return fd < 0 ? NULL : fdopendir(fd);
}

/* A close that fails has closed. */
EXPORT int close(int fd)
{
        struct stat st;
        uint32_t number;
        int flags = recorder_is_on ? fcntl(fd, F_GETFL) : -1;
        bool writes = flags >= 0 && (flags & O_ACCMODE) != O_RDONLY;
        if (!writes || !is_ours(fd, &st, &number))
                return (int)syscall(SYS_close, fd);
        recorder_lock();
        int e = recorder_strike("close", NULL, fd, 0);
        int rc = (int)syscall(SYS_close, fd);
        if (e > 0) {
                errno = e;
                rc = -1;
        }
        return ends(rc);
}

/* ---- reading ---- */

static ssize_t do_pread(int fd, void *buf, size_t len, off_t offset)
{
        struct stat st;
        uint32_t number;
        if (is_ours(fd, &st, &number)) {
                recorder_lock();
                int e = recorder_strike("read", NULL, fd, RECORDER_MAY_BE_SHORT);
                recorder_unlock();
                if (e > 0) {
                        errno = e;
                        return -1;
                }
                if (e < 0 && len > 1)
                        len /= 2;
        }
        return offset < 0 ? syscall(SYS_read, fd, buf, len) : raw_pread(fd, buf, len, offset);
}

EXPORT ssize_t read(int fd, void *buf, size_t len)
{
        return do_pread(fd, buf, len, -1);
}

EXPORT ssize_t __read_chk(int fd, void *buf, size_t len, size_t have)
{
        cas_assert(len <= have);
        return do_pread(fd, buf, len, -1);
}

#define DEFINE_PREAD(NAME)                                                                         \
        EXPORT ssize_t NAME(int fd, void *buf, size_t len, off_t offset)                           \
        {                                                                                          \
                return do_pread(fd, buf, len, offset);                                             \
        }
DEFINE_PREAD(pread)
DEFINE_PREAD(pread64)

#define DEFINE_PREAD_CHK(NAME)                                                                     \
        EXPORT ssize_t NAME(int fd, void *buf, size_t len, off_t offset, size_t have)              \
        {                                                                                          \
                cas_assert(len <= have);                                                           \
                return do_pread(fd, buf, len, offset);                                             \
        }
DEFINE_PREAD_CHK(__pread_chk)
DEFINE_PREAD_CHK(__pread64_chk)

static int do_stat(int dirfd, const char *path, struct stat *st, int flags)
{
        struct place p;
        if (locate(dirfd, path, &p)) {
                if (!begins("stat", path, -1, RECORDER_HAS_PATH))
                        return -1;
                recorder_unlock();
        }
        return recorder_raw_stat(dirfd, path, st, flags);
}

#define DEFINE_STATS(SUFFIX)                                                                       \
        EXPORT int fstatat##SUFFIX(int dirfd, const char *path, struct stat##SUFFIX *st,           \
                                   int flags)                                                      \
        {                                                                                          \
                return do_stat(dirfd, path, (struct stat *)(void *)st, flags);                     \
        }                                                                                          \
        EXPORT int stat##SUFFIX(const char *path, struct stat##SUFFIX *st)                         \
        {                                                                                          \
                return do_stat(AT_FDCWD, path, (struct stat *)(void *)st, 0);                      \
        }                                                                                          \
        EXPORT int lstat##SUFFIX(const char *path, struct stat##SUFFIX *st)                        \
        {                                                                                          \
                return do_stat(AT_FDCWD, path, (struct stat *)(void *)st, AT_SYMLINK_NOFOLLOW);    \
        }
DEFINE_STATS()
DEFINE_STATS(64)

/* ---- writing ---- */

/* What came into a file by another way than a buffer. */
static void note_range(int fd, uint32_t number, uint64_t offset, uint64_t length)
{
        cas_cleanup_free char *link = cas_xasprintf("/proc/self/fd/%d", fd);
        cas_cleanup_free uint8_t *bytes = cas_xmalloc(length + 1);
        int in = raw_openat(AT_FDCWD, link, O_RDONLY | O_CLOEXEC, 0);
        cas_assert(in >= 0);
        for (uint64_t done = 0; done < length;) {
                ssize_t n = raw_pread(in, bytes + done, length - done, (off_t)(offset + done));
                cas_assert(n > 0);
                done += (uint64_t)n;
        }
        (void)syscall(SYS_close, in);
        recorder_add(&(struct recorder_op){.kind = RECORDER_WRITE,
                                           .file = number,
                                           .offset = offset,
                                           .length = length,
                                           .data = bytes});
}

static void note_write(uint32_t number, off_t offset, const void *data, size_t len)
{
        recorder_add(&(struct recorder_op){.kind = RECORDER_WRITE,
                                           .file = number,
                                           .offset = (uint64_t)offset,
                                           .length = len,
                                           .data = data});
}

/* offset -1: where the descriptor stands. */
static ssize_t write_ours(int fd, const struct stat *before, uint32_t number, const void *buf,
                          size_t len, off_t offset)
{
        struct stat st = *before;
        int flags = fcntl(fd, F_GETFL);
        recorder_lock();
        int e = recorder_strike("write", NULL, fd, RECORDER_TAKES_SPACE | RECORDER_MAY_BE_SHORT);
        if (e != 0 && len > 1)
                len /= 2;
        bool moves = offset < 0;
        if (flags & O_APPEND) {
                (void)raw_fstat(fd, &st);
                offset = st.st_size;
        } else if (moves) {
                offset = lseek(fd, 0, SEEK_CUR);
        }
        ssize_t n = raw_pwrite(fd, buf, len, offset);
        if (n > 0)
                note_write(number, offset, buf, (size_t)n);
        if (n > 0 && moves && e <= 0)
                (void)lseek(fd, offset + n, SEEK_SET);
        if (e > 0) {
                errno = e;
                n = -1;
        }
        return ends((int)n);
}

static ssize_t do_write(int fd, const void *buf, size_t len, off_t offset)
{
        struct stat st;
        uint32_t number;
        cas_assert(len <= INT32_MAX);
        if (is_ours(fd, &st, &number))
                return write_ours(fd, &st, number, buf, len, offset);
        return offset < 0 ? syscall(SYS_write, fd, buf, len) : raw_pwrite(fd, buf, len, offset);
}

EXPORT ssize_t write(int fd, const void *buf, size_t len)
{
        return do_write(fd, buf, len, -1);
}

#define DEFINE_PWRITE(NAME)                                                                        \
        EXPORT ssize_t NAME(int fd, const void *buf, size_t len, off_t offset)                     \
        {                                                                                          \
                return do_write(fd, buf, len, offset);                                             \
        }
DEFINE_PWRITE(pwrite)
DEFINE_PWRITE(pwrite64)

static ssize_t do_writev(int fd, const struct iovec *v, int count, off_t offset)
{
        struct stat st;
        uint32_t number;
        size_t len = 0;
        if (!is_ours(fd, &st, &number))
                return offset < 0 ? syscall(SYS_writev, fd, v, count)
                                  : syscall(SYS_pwritev, fd, v, count, offset, 0);
        for (int i = 0; i < count; i++)
                len += v[i].iov_len;
        cas_cleanup_free uint8_t *all = cas_xmalloc(len + 1);
        for (size_t i = 0, at = 0; i < (size_t)count; at += v[i++].iov_len)
                memcpy(all + at, v[i].iov_base, v[i].iov_len);
        return write_ours(fd, &st, number, all, len, offset);
}

EXPORT ssize_t writev(int fd, const struct iovec *v, int count)
{
        return do_writev(fd, v, count, -1);
}

#define DEFINE_PWRITEV(NAME)                                                                       \
        EXPORT ssize_t NAME(int fd, const struct iovec *v, int count, off_t offset)                \
        {                                                                                          \
                return do_writev(fd, v, count, offset);                                            \
        }
DEFINE_PWRITEV(pwritev)
DEFINE_PWRITEV(pwritev64)

#define DEFINE_PWRITEV2(NAME)                                                                      \
        EXPORT ssize_t NAME(int fd, const struct iovec *v, int count, off_t offset, int flags)     \
        {                                                                                          \
                cas_assert(flags == 0 || !recorder_is_on);                                         \
                return do_writev(fd, v, count, offset);                                            \
        }
DEFINE_PWRITEV2(pwritev2)

EXPORT ssize_t copy_file_range(int in, off_t *in_offset, int out, off_t *out_offset, size_t len,
                               unsigned flags)
{
        struct stat st;
        uint32_t number;
        if (!is_ours(out, &st, &number))
                return syscall(SYS_copy_file_range, in, in_offset, out, out_offset, len, flags);
        if (!begins("copy_file_range", NULL, out, RECORDER_TAKES_SPACE))
                return -1;
        off_t at = out_offset ? *out_offset : lseek(out, 0, SEEK_CUR);
        ssize_t n = syscall(SYS_copy_file_range, in, in_offset, out, out_offset, len, flags);
        if (n > 0)
                note_range(out, number, (uint64_t)at, (uint64_t)n);
        return ends((int)n);
}

static ssize_t do_sendfile(int out, int in, off_t *offset, size_t len)
{
        struct stat st;
        uint32_t number;
        if (!is_ours(out, &st, &number))
                return syscall(SYS_sendfile, out, in, offset, len);
        if (!begins("sendfile", NULL, out, RECORDER_TAKES_SPACE))
                return -1;
        off_t at = lseek(out, 0, SEEK_CUR);
        ssize_t n = syscall(SYS_sendfile, out, in, offset, len);
        if (n > 0)
                note_range(out, number, (uint64_t)at, (uint64_t)n);
        return ends((int)n);
}

EXPORT ssize_t sendfile(int out, int in, off_t *offset, size_t len)
{
        return do_sendfile(out, in, offset, len);
}

EXPORT ssize_t sendfile64(int out, int in, off_t *offset, size_t len)
{
        return do_sendfile(out, in, offset, len);
}

EXPORT ssize_t splice(int in, off_t *in_offset, int out, off_t *out_offset, size_t len,
                      unsigned flags)
{
        struct stat st;
        uint32_t number;
        if (is_ours(out, &st, &number))
                recorder_refuse("splice", "into a file");
        return syscall(SYS_splice, in, in_offset, out, out_offset, len, flags);
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
        struct stat st;
        uint32_t number;
        va_list args;
        va_start(args, request);
        void *arg = va_arg(args, void *);
        va_end(args);
        bool clones = request == FICLONE || request == FICLONERANGE;
        if (!clones || !is_ours(fd, &st, &number))
                return (int)syscall(SYS_ioctl, fd, request, arg);
        if (!begins("clone", NULL, fd, RECORDER_TAKES_SPACE))
                return -1;
        int rc = (int)syscall(SYS_ioctl, fd, request, arg);
        if (rc == 0 && raw_fstat(fd, &st) == 0)
                note_range(fd, number, 0, (uint64_t)st.st_size);
        return ends(rc);
}

static int do_ftruncate(int fd, off_t len)
{
        struct stat st;
        uint32_t number;
        if (!is_ours(fd, &st, &number))
                return (int)syscall(SYS_ftruncate, fd, len);
        if (!begins("ftruncate", NULL, fd, 0))
                return -1;
        int rc = (int)syscall(SYS_ftruncate, fd, len);
        if (rc == 0)
                recorder_add(&(struct recorder_op){
                        .kind = RECORDER_TRUNCATE, .file = number, .length = (uint64_t)len});
        return ends(rc);
}

EXPORT int ftruncate(int fd, off_t len)
{
        return do_ftruncate(fd, len);
}

EXPORT int ftruncate64(int fd, off_t len)
{
        return do_ftruncate(fd, len);
}

static int do_truncate(const char *path, off_t len)
{
        struct place p;
        struct stat st;
        uint32_t number;
        if (!locate(AT_FDCWD, path, &p))
                return (int)syscall(SYS_truncate, path, len);
        if (!begins("truncate", path, -1, RECORDER_HAS_PATH))
                return -1;
        bool known = number_at(AT_FDCWD, &p, &st, &number);
        int rc = (int)syscall(SYS_truncate, path, len);
        if (rc == 0 && known)
                recorder_add(&(struct recorder_op){
                        .kind = RECORDER_TRUNCATE, .file = number, .length = (uint64_t)len});
        return ends(rc);
}

EXPORT int truncate(const char *path, off_t len)
{
        return do_truncate(path, len);
}

EXPORT int truncate64(const char *path, off_t len)
{
        return do_truncate(path, len);
}

/* Space that is set aside behind the end changes nothing that is seen. */
static int do_fallocate(int fd, int mode, off_t offset, off_t len)
{
        struct stat st;
        uint32_t number;
        if (!is_ours(fd, &st, &number))
                return (int)syscall(SYS_fallocate, fd, mode, offset, len);
        if (mode & ~FALLOC_FL_KEEP_SIZE)
                recorder_refuse("fallocate", "of another kind");
        if (!begins("fallocate", NULL, fd, RECORDER_TAKES_SPACE))
                return -1;
        int rc = (int)syscall(SYS_fallocate, fd, mode, offset, len);
        if (rc == 0 && mode == 0 && offset + len > st.st_size)
                recorder_add(&(struct recorder_op){.kind = RECORDER_TRUNCATE,
                                                   .file = number,
                                                   .length = (uint64_t)(offset + len)});
        return ends(rc);
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t len)
{
        return do_fallocate(fd, mode, offset, len);
}

EXPORT int fallocate64(int fd, int mode, off_t offset, off_t len)
{
        return do_fallocate(fd, mode, offset, len);
}

EXPORT int posix_fallocate(int fd, off_t offset, off_t len)
{
        return do_fallocate(fd, 0, offset, len) == 0 ? 0 : errno;
}

EXPORT int posix_fallocate64(int fd, off_t offset, off_t len)
{
        return do_fallocate(fd, 0, offset, len) == 0 ? 0 : errno;
}

static void *do_mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset)
{
        struct stat st;
        uint32_t number;
        if (fd >= 0 && (prot & PROT_WRITE) && (flags & MAP_TYPE) != MAP_PRIVATE &&
            is_ours(fd, &st, &number))
                recorder_refuse("a shared mapping", "for writing");
        return (void *)syscall(SYS_mmap, at, len, prot, flags, fd, offset);
}

EXPORT void *mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset)
{
        return do_mmap(at, len, prot, flags, fd, offset);
}

EXPORT void *mmap64(void *at, size_t len, int prot, int flags, int fd, off_t offset)
{
        return do_mmap(at, len, prot, flags, fd, offset);
}

/* ---- syncing: the machine stays up, so that noting it is all ---- */

static int do_sync(const char *call, long number_of_call, int fd)
{
        struct stat st;
        uint32_t number;
        if (!is_ours(fd, &st, &number))
                return (int)syscall(number_of_call, fd);
        recorder_lock();
        int e = recorder_strike(call, NULL, fd, RECORDER_TAKES_SPACE);
        recorder_add(&(struct recorder_op){.kind = e > 0 ? RECORDER_SYNC_BAD : RECORDER_SYNC,
                                           .file = number,
                                           .is_dir = S_ISDIR(st.st_mode)});
        if (e > 0)
                errno = e;
        return ends(e > 0 ? -1 : 0);
}

EXPORT int fsync(int fd)
{
        return do_sync("fsync", SYS_fsync, fd);
}

EXPORT int fdatasync(int fd)
{
        return do_sync("fdatasync", SYS_fdatasync, fd);
}

/* Promises nothing; never fails (RocksDB asserts so). */
EXPORT int sync_file_range(int fd, off_t offset, off_t len, unsigned flags)
{
        struct stat st;
        uint32_t number;
        if (!is_ours(fd, &st, &number))
                return (int)syscall(SYS_sync_file_range, fd, offset, len, flags);
        return 0;
}

static void note_sync_all(void)
{
        if (!recorder_is_on)
                return;
        recorder_lock();
        recorder_add(&(struct recorder_op){.kind = RECORDER_SYNC_ALL});
        recorder_unlock();
}

EXPORT int syncfs(int fd)
{
        struct stat st;
        uint32_t number;
        if (!is_ours(fd, &st, &number))
                return (int)syscall(SYS_syncfs, fd);
        note_sync_all();
        return 0;
}

EXPORT void sync(void)
{
        note_sync_all();
}

/* ---- names ---- */

static int do_rename(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags)
{
        struct place a, b;
        struct stat st, over;
        uint32_t number = 0, replaced;
        bool from_ours = locate(from_dirfd, from, &a), to_ours = locate(to_dirfd, to, &b);
        if (!from_ours && !to_ours)
                return (int)syscall(SYS_renameat2, from_dirfd, from, to_dirfd, to, flags);
        if (!from_ours || !to_ours || (flags & ~(unsigned)RENAME_NOREPLACE))
                recorder_refuse("a rename of another kind", from);
        if (!begins("rename", from, -1, RECORDER_HAS_PATH | RECORDER_TAKES_SPACE))
                return -1;
        bool known = number_at(from_dirfd, &a, &st, &number);
        /* From one name of a file to another: nothing happens. */
        bool same = known && recorder_raw_stat(to_dirfd, to, &over, AT_SYMLINK_NOFOLLOW) == 0 &&
                    recorder_number(&over, &replaced) && replaced == number;
        int rc = (int)syscall(SYS_renameat2, from_dirfd, from, to_dirfd, to, flags);
        if (rc == 0 && known && !same)
                recorder_add(&(struct recorder_op){.kind = RECORDER_RENAME,
                                                   .file = number,
                                                   .is_dir = S_ISDIR(st.st_mode),
                                                   .dir = a.dir,
                                                   .name = a.name,
                                                   .to_dir = b.dir,
                                                   .to_name = b.name});
        return ends(rc);
}

EXPORT int rename(const char *from, const char *to)
{
        return do_rename(AT_FDCWD, from, AT_FDCWD, to, 0);
}

EXPORT int renameat(int from_dirfd, const char *from, int to_dirfd, const char *to)
{
        return do_rename(from_dirfd, from, to_dirfd, to, 0);
}

EXPORT int renameat2(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags)
{
        return do_rename(from_dirfd, from, to_dirfd, to, flags);
}

static int do_link(int from_dirfd, const char *from, int to_dirfd, const char *to, int flags)
{
        struct place a, b;
        struct stat st;
        uint32_t number;
        if (!locate(to_dirfd, to, &b))
                return (int)syscall(SYS_linkat, from_dirfd, from, to_dirfd, to, flags);
        if (!locate(from_dirfd, from, &a) || flags)
                recorder_refuse("a link of a file from elsewhere", to);
        if (!begins("link", from, -1, RECORDER_HAS_PATH | RECORDER_TAKES_SPACE))
                return -1;
        bool known = number_at(from_dirfd, &a, &st, &number);
        int rc = (int)syscall(SYS_linkat, from_dirfd, from, to_dirfd, to, flags);
        if (rc == 0 && known)
                recorder_add(&(struct recorder_op){
                        .kind = RECORDER_LINK, .file = number, .dir = b.dir, .name = b.name});
        return ends(rc);
}

EXPORT int link(const char *from, const char *to)
{
        return do_link(AT_FDCWD, from, AT_FDCWD, to, 0);
}

EXPORT int linkat(int from_dirfd, const char *from, int to_dirfd, const char *to, int flags)
{
        return do_link(from_dirfd, from, to_dirfd, to, flags);
}

static int do_symlink(const char *target, int dirfd, const char *path)
{
        struct place p;
        if (locate(dirfd, path, &p))
                recorder_refuse("a symbolic link", path);
        return (int)syscall(SYS_symlinkat, target, dirfd, path);
}

EXPORT int symlink(const char *target, const char *path)
{
        return do_symlink(target, AT_FDCWD, path);
}

EXPORT int symlinkat(const char *target, int dirfd, const char *path)
{
        return do_symlink(target, dirfd, path);
}

static int do_unlink(int dirfd, const char *path, int flags)
{
        struct place p;
        struct stat st;
        uint32_t number;
        if (!locate(dirfd, path, &p))
                return (int)syscall(SYS_unlinkat, dirfd, path, flags);
        if (!begins("unlink", path, -1, RECORDER_HAS_PATH))
                return -1;
        bool known = number_at(dirfd, &p, &st, &number);
        int rc = (int)syscall(SYS_unlinkat, dirfd, path, flags);
        if (rc == 0 && known)
                recorder_add(&(struct recorder_op){.kind = RECORDER_UNLINK,
                                                   .file = number,
                                                   .is_dir = S_ISDIR(st.st_mode),
                                                   .dir = p.dir,
                                                   .name = p.name});
        return ends(rc);
}

EXPORT int unlink(const char *path)
{
        return do_unlink(AT_FDCWD, path, 0);
}

EXPORT int unlinkat(int dirfd, const char *path, int flags)
{
        return do_unlink(dirfd, path, flags);
}

EXPORT int rmdir(const char *path)
{
        return do_unlink(AT_FDCWD, path, AT_REMOVEDIR);
}

EXPORT int remove(const char *path)
{
        if (unlink(path) == 0)
                return 0;
        return errno == EISDIR ? rmdir(path) : -1;
}

static int do_mkdir(int dirfd, const char *path, mode_t mode)
{
        struct place p;
        struct stat st;
        if (!locate(dirfd, path, &p))
                return (int)syscall(SYS_mkdirat, dirfd, path, mode);
        if (!begins("mkdir", path, -1, RECORDER_HAS_PATH | RECORDER_TAKES_SPACE))
                return -1;
        int rc = (int)syscall(SYS_mkdirat, dirfd, path, mode);
        if (rc == 0 && recorder_raw_stat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0) {
                uint32_t number = recorder_new_number(&st);
                recorder_add(&(struct recorder_op){.kind = RECORDER_CREATE,
                                                   .file = number,
                                                   .is_dir = true,
                                                   .dir = p.dir,
                                                   .name = p.name});
        }
        return ends(rc);
}

EXPORT int mkdir(const char *path, mode_t mode)
{
        return do_mkdir(AT_FDCWD, path, mode);
}

EXPORT int mkdirat(int dirfd, const char *path, mode_t mode)
{
        return do_mkdir(dirfd, path, mode);
}
