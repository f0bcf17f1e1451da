/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/fault_io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>

#include "cas/mutex.h"
#include "tests/support/scratch.h"

#define FILES_MAX 512
#define EVENTS_MAX 2048
#define PATH_BYTES 256

/* A file that was touched: its content before the last sync. */
struct file {
        uint64_t inode;
        uint64_t synced_bytes;
};

enum event_kind { EVENT_MADE, EVENT_MOVED, EVENT_REMOVED, EVENT_DIR };
/* A change of names. Paths are absolute. */
struct event {
        enum event_kind kind;
        char path[PATH_BYTES];
        char from[PATH_BYTES];   /* MOVED */
        uint64_t inode;          /* MOVED, REMOVED */
        uint64_t replaced_inode; /* MOVED: of what path was before; 0: nothing */
        bool synced;             /* the directory of path was */
        bool from_synced;        /* MOVED: the directory of from was */
};

struct fault_plan {
        struct cas_io io;
        char side[PATH_BYTES];
        enum fault_kind kind;
        unsigned at;
        bool armed;
        bool struck;
        bool dies; /* at the end of the call that is under way */
        unsigned calls;
        unsigned note;
        struct cas_mutex mutex; /* guards what follows, and armed to calls */
        unsigned file_count;
        struct file files[FILES_MAX];
        unsigned event_count;
        struct event events[EVENTS_MAX];
};

/* ---- noting ---- */

static void absolute(int dirfd, const char *path, char out[PATH_BYTES])
{
        char link[64], dir[PATH_BYTES];
        if (path[0] == '/') {
                (void)snprintf(out, PATH_BYTES, "%s", path);
                return;
        }
        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", dirfd);
        ssize_t n = readlink(link, dir, sizeof(dir) - 1);
        cas_assert(n > 0);
        dir[n] = '\0';
        if (strcmp(path, ".") == 0)
                n = snprintf(out, PATH_BYTES, "%s", dir);
        else
                n = snprintf(out, PATH_BYTES, "%s/%s", dir, path);
        cas_assert(n < PATH_BYTES);
}

static void side_path(const struct fault_plan *plan, uint64_t inode, char out[PATH_BYTES + 24])
{
        (void)snprintf(out, PATH_BYTES + 24, "%s/%llu", plan->side, (unsigned long long)inode);
}

/* The file's inode; it is kept, and its length now noted, when it is seen the first time. */
static uint64_t know_file(struct fault_plan *plan, const char *path, bool fresh)
{
        struct stat st;
        cas_assert_held(&plan->mutex);
        if (lstat(path, &st) != 0 || !S_ISREG(st.st_mode))
                return 0;
        for (unsigned i = 0; i < plan->file_count; i++) {
                if (plan->files[i].inode == st.st_ino)
                        return st.st_ino;
        }
        char side[PATH_BYTES + 24];
        side_path(plan, st.st_ino, side);
        int rc = link(path, side);
        cas_assert(rc == 0);
        cas_assert(plan->file_count < FILES_MAX);
        plan->files[plan->file_count++] =
                (struct file){.inode = st.st_ino, .synced_bytes = fresh ? 0 : (uint64_t)st.st_size};
        return st.st_ino;
}

static struct event *new_event(struct fault_plan *plan, enum event_kind kind, const char *path)
{
        cas_assert_held(&plan->mutex);
        cas_assert(plan->event_count < EVENTS_MAX);
        struct event *e = &plan->events[plan->event_count++];
        memset(e, 0, sizeof(*e));
        e->kind = kind;
        (void)snprintf(e->path, sizeof(e->path), "%s", path);
        return e;
}

static bool is_in(const char *path, const char *dir)
{
        const char *slash = strrchr(path, '/');
        size_t len = (size_t)(slash - path);
        return strlen(dir) == len && memcmp(dir, path, len) == 0;
}

static void note_synced(struct fault_plan *plan, int fd)
{
        struct stat st;
        char path[PATH_BYTES], link[64];
        if (fstat(fd, &st) != 0)
                return;
        cas_mutex_lock(&plan->mutex);
        for (unsigned i = 0; i < plan->file_count; i++) {
                if (plan->files[i].inode == st.st_ino)
                        plan->files[i].synced_bytes = (uint64_t)st.st_size;
        }
        if (S_ISDIR(st.st_mode)) {
                (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
                ssize_t n = readlink(link, path, sizeof(path) - 1);
                cas_assert(n > 0);
                path[n] = '\0';
                for (unsigned i = 0; i < plan->event_count; i++) {
                        struct event *e = &plan->events[i];
                        e->synced = e->synced || is_in(e->path, path);
                        if (e->kind == EVENT_MOVED)
                                e->from_synced = e->from_synced || is_in(e->from, path);
                }
        }
        cas_mutex_unlock(&plan->mutex);
}

/* ---- striking ---- */

enum call_kind { CALL_READS, CALL_TAKES_SPACE, CALL_OTHER };

/* Counts a call. True: it fails, with errno set. *dies: the process is to end. */
static bool strike(struct fault_plan *plan, enum call_kind kind, bool *dies)
{
        bool fails = false;
        *dies = false;
        cas_mutex_lock(&plan->mutex);
        bool counts = plan->armed && (plan->kind != FAULT_ENOSPC || kind == CALL_TAKES_SPACE) &&
                      (plan->kind == FAULT_EIO || kind != CALL_READS);
        if (counts && ++plan->calls == plan->at && plan->kind != FAULT_NONE) {
                plan->struck = true;
                *dies = plan->kind == FAULT_KILL;
                plan->dies = plan->kind == FAULT_KILL_AFTER;
                fails = plan->kind == FAULT_EIO || plan->kind == FAULT_ENOSPC;
                errno = plan->kind == FAULT_ENOSPC ? ENOSPC : EIO;
        }
        cas_mutex_unlock(&plan->mutex);
        return fails;
}

static bool fails_or_dies(struct fault_plan *plan, enum call_kind kind)
{
        bool dies;
        bool fails = strike(plan, kind, &dies);
        if (dies)
                _exit(FAULT_EXIT_STATUS);
        return fails;
}

/* The end of a call that was made. */
static void survive(struct fault_plan *plan)
{
        cas_mutex_lock(&plan->mutex);
        bool dies = plan->dies;
        cas_mutex_unlock(&plan->mutex);
        if (dies)
                _exit(FAULT_EXIT_STATUS);
}

static int fault_openat(void *ctx, int dirfd, const char *path, int flags, mode_t mode)
{
        struct fault_plan *plan = ctx;
        char full[PATH_BYTES];
        bool creates = flags & O_CREAT;
        if (fails_or_dies(plan, creates ? CALL_TAKES_SPACE : CALL_READS))
                return -1;
        if ((flags & O_ACCMODE) == O_RDONLY)
                return openat(dirfd, path, flags, mode);
        absolute(dirfd, path, full);
        cas_mutex_lock(&plan->mutex);
        bool there = access(full, F_OK) == 0;
        if (there)
                (void)know_file(plan, full, false);
        int fd = openat(dirfd, path, flags, mode);
        if (fd >= 0 && !there) {
                (void)new_event(plan, EVENT_MADE, full);
                (void)know_file(plan, full, true);
        }
        cas_mutex_unlock(&plan->mutex);
        survive(plan);
        return fd;
}

static int fault_close(void *ctx CAS_UNUSED, int fd)
{
        return close(fd);
}

static ssize_t fault_pread(void *ctx, int fd, void *buf, size_t len, off_t offset)
{
        return fails_or_dies(ctx, CALL_READS) ? -1 : pread(fd, buf, len, offset);
}

static ssize_t fault_pwrite(void *ctx, int fd, const void *buf, size_t len, off_t offset)
{
        bool dies;
        bool fails = strike(ctx, CALL_TAKES_SPACE, &dies);
        if (!fails && !dies) {
                ssize_t n = pwrite(fd, buf, len, offset);
                survive(ctx);
                return n;
        }
        int saved = errno;
        ssize_t torn = pwrite(fd, buf, len / 2, offset);
        if (dies || torn < 0)
                _exit(FAULT_EXIT_STATUS);
        errno = saved;
        return -1;
}

static ssize_t fault_copy_file_range(void *ctx, int in, off_t *in_offset, int out,
                                     off_t *out_offset, size_t len)
{
        if (fails_or_dies(ctx, CALL_TAKES_SPACE))
                return -1;
        return copy_file_range(in, in_offset, out, out_offset, len, 0);
}

static int fault_ftruncate(void *ctx, int fd, off_t len)
{
        struct fault_plan *plan = ctx;
        struct stat st;
        if (fails_or_dies(plan, CALL_OTHER))
                return -1;
        int rc = ftruncate(fd, len);
        cas_mutex_lock(&plan->mutex);
        for (unsigned i = 0; rc == 0 && fstat(fd, &st) == 0 && i < plan->file_count; i++) {
                if (plan->files[i].inode == st.st_ino &&
                    plan->files[i].synced_bytes > (uint64_t)len)
                        plan->files[i].synced_bytes = (uint64_t)len;
        }
        cas_mutex_unlock(&plan->mutex);
        survive(plan);
        return rc;
}

static int fault_fsync(void *ctx, int fd)
{
        if (fails_or_dies(ctx, CALL_TAKES_SPACE))
                return -1;
        note_synced(ctx, fd);
        survive(ctx);
        return 0; /* the machine stays up: nothing to wait for */
}

static int fault_renameat(void *ctx, int old_dirfd, const char *old_path, int new_dirfd,
                          const char *new_path)
{
        struct fault_plan *plan = ctx;
        char from[PATH_BYTES], to[PATH_BYTES];
        if (fails_or_dies(plan, CALL_TAKES_SPACE))
                return -1;
        absolute(old_dirfd, old_path, from);
        absolute(new_dirfd, new_path, to);
        cas_mutex_lock(&plan->mutex);
        uint64_t replaced = know_file(plan, to, false), inode = know_file(plan, from, false);
        int rc = renameat(old_dirfd, old_path, new_dirfd, new_path);
        if (rc == 0 && inode != replaced) {
                struct event *e = new_event(plan, EVENT_MOVED, to);
                (void)snprintf(e->from, sizeof(e->from), "%s", from);
                e->inode = inode;
                e->replaced_inode = replaced;
        }
        cas_mutex_unlock(&plan->mutex);
        survive(plan);
        return rc;
}

static int fault_linkat(void *ctx, int old_dirfd, const char *old_path, int new_dirfd,
                        const char *new_path)
{
        struct fault_plan *plan = ctx;
        char to[PATH_BYTES];
        if (fails_or_dies(plan, CALL_TAKES_SPACE))
                return -1;
        absolute(new_dirfd, new_path, to);
        cas_mutex_lock(&plan->mutex);
        int rc = linkat(old_dirfd, old_path, new_dirfd, new_path, 0);
        if (rc == 0) {
                (void)new_event(plan, EVENT_MADE, to);
                (void)know_file(plan, to, false);
        }
        cas_mutex_unlock(&plan->mutex);
        survive(plan);
        return rc;
}

static int fault_unlinkat(void *ctx, int dirfd, const char *path, int flags)
{
        struct fault_plan *plan = ctx;
        char full[PATH_BYTES];
        if (fails_or_dies(plan, CALL_OTHER))
                return -1;
        absolute(dirfd, path, full);
        cas_mutex_lock(&plan->mutex);
        uint64_t inode = know_file(plan, full, false);
        int rc = unlinkat(dirfd, path, flags);
        if (rc == 0 && inode)
                new_event(plan, EVENT_REMOVED, full)->inode = inode;
        cas_mutex_unlock(&plan->mutex);
        survive(plan);
        return rc;
}

static int fault_mkdirat(void *ctx, int dirfd, const char *path, mode_t mode)
{
        struct fault_plan *plan = ctx;
        char full[PATH_BYTES];
        if (fails_or_dies(plan, CALL_TAKES_SPACE))
                return -1;
        absolute(dirfd, path, full);
        cas_mutex_lock(&plan->mutex);
        int rc = mkdirat(dirfd, path, mode);
        int saved = errno;
        if (rc == 0)
                (void)new_event(plan, EVENT_DIR, full);
        cas_mutex_unlock(&plan->mutex);
        survive(plan);
        errno = saved;
        return rc;
}

static int fault_fstatat(void *ctx, int dirfd, const char *path, struct stat *st, int flags)
{
        return fails_or_dies(ctx, CALL_READS) ? -1 : fstatat(dirfd, path, st, flags);
}

/* ---- plans ---- */

struct fault_plan *fault_plan_new(const char *side)
{
        static const struct cas_io_ops ops = {
                .openat = fault_openat,
                .close = fault_close,
                .pread = fault_pread,
                .pwrite = fault_pwrite,
                .copy_file_range = fault_copy_file_range,
                .ftruncate = fault_ftruncate,
                .fsync = fault_fsync,
                .fdatasync = fault_fsync,
                .renameat = fault_renameat,
                .linkat = fault_linkat,
                .unlinkat = fault_unlinkat,
                .mkdirat = fault_mkdirat,
                .fstatat = fault_fstatat,
        };
        struct fault_plan *plan = mmap(NULL, sizeof(*plan), PROT_READ | PROT_WRITE,
                                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        cas_assert(plan != MAP_FAILED);
        plan->io = (struct cas_io){.ops = &ops, .ctx = plan};
        (void)snprintf(plan->side, sizeof(plan->side), "%s", side);
        fault_plan_reset(plan, FAULT_NONE, 0);
        return plan;
}

void fault_plan_free(struct fault_plan *plan)
{
        (void)munmap(plan, sizeof(*plan));
}

void fault_plan_reset(struct fault_plan *plan, enum fault_kind kind, unsigned at)
{
        char side[PATH_BYTES + 24];
        for (unsigned i = 0; i < plan->file_count; i++) {
                side_path(plan, plan->files[i].inode, side);
                (void)unlink(side);
        }
        cas_mutex_init(&plan->mutex, "fault_plan"); /* who held it is gone */
        plan->kind = kind;
        plan->at = at;
        plan->armed = plan->struck = plan->dies = false;
        plan->calls = plan->note = plan->file_count = plan->event_count = 0;
}

void fault_plan_arm(struct fault_plan *plan, bool armed)
{
        cas_mutex_lock(&plan->mutex);
        plan->armed = armed;
        cas_mutex_unlock(&plan->mutex);
}

unsigned fault_plan_calls(const struct fault_plan *plan)
{
        return plan->calls;
}

bool fault_plan_struck(const struct fault_plan *plan)
{
        return plan->struck;
}

void fault_plan_note(struct fault_plan *plan, unsigned note)
{
        plan->note = note;
}

unsigned fault_plan_noted(const struct fault_plan *plan)
{
        return plan->note;
}

const struct cas_io *fault_io(struct fault_plan *plan)
{
        return &plan->io;
}

/* ---- the power cut ---- */

static void put_back(const struct fault_plan *plan, uint64_t inode, const char *path)
{
        char side[PATH_BYTES + 24];
        side_path(plan, inode, side);
        if (link(side, path) != 0)
                cas_assert(errno == EEXIST || errno == ENOENT);
}

static void take_back(const struct fault_plan *plan, const struct event *e)
{
        switch (e->kind) {
        case EVENT_MADE:
                if (!e->synced)
                        (void)unlink(e->path);
                break;
        case EVENT_DIR:
                if (!e->synced)
                        scratch_free(cas_xstrdup(e->path));
                break;
        case EVENT_REMOVED:
                if (!e->synced)
                        put_back(plan, e->inode, e->path);
                break;
        case EVENT_MOVED:
                if (!e->synced) {
                        (void)unlink(e->path);
                        if (e->replaced_inode)
                                put_back(plan, e->replaced_inode, e->path);
                }
                /* Never neither of both: a rename is atomic. */
                if (!e->synced || !e->from_synced)
                        put_back(plan, e->inode, e->from);
                break;
        }
}

void fault_power_cut(struct fault_plan *plan, unsigned lose)
{
        for (unsigned i = plan->event_count; (lose & FAULT_LOSE_NAMES) && i > 0; i--)
                take_back(plan, &plan->events[i - 1]);
        for (unsigned i = 0; (lose & FAULT_LOSE_DATA) && i < plan->file_count; i++) {
                char side[PATH_BYTES + 24];
                struct stat st;
                side_path(plan, plan->files[i].inode, side);
                if (stat(side, &st) == 0 && (uint64_t)st.st_size > plan->files[i].synced_bytes)
                        cas_assert(truncate(side, (off_t)plan->files[i].synced_bytes) == 0);
        }
}
