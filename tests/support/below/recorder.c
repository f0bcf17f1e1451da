/* SPDX-License-Identifier: Apache-2.0 */
/* The trace and the numbers of files. The calls are in tests/support/below/calls.c. */
#include "tests/support/below/recorder_int.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "cas/map.h"

#define OPS_MAX 200000
#define FILES_MAX 20000
#define ARENA_BYTES (2ULL << 30) /* address space: only what is used costs memory */
#define STRUCK_BYTES 300

struct stored_op {
        struct recorder_op op;
        uint64_t name_at, to_name_at, data_at; /* in the arena */
};
struct stored_file {
        uint32_t dir;
        bool is_dir;
        uint64_t name_at;
};
struct recorder {
        size_t op_count, file_count;
        uint64_t arena_used;
        enum recorder_fault fault;
        unsigned fault_at, fault_calls;
        bool fault_stays, struck;
        char struck_call[STRUCK_BYTES];
        struct stored_op ops[OPS_MAX];
        struct stored_file files[FILES_MAX];
        char arena[];
};

/* Of the process that records; guarded by the mutex once it does. */
static struct {
        struct recorder *r;
        bool armed;
        dev_t device;
        struct cas_map *numbers; /* inode -> number of the file */
        uint32_t next;
} recording;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
bool recorder_is_on;

void recorder_lock(void)
{
        (void)pthread_mutex_lock(&mutex);
}

void recorder_unlock(void)
{
        (void)pthread_mutex_unlock(&mutex);
}

void recorder_refuse(const char *what, const char *name)
{
        (void)fprintf(stderr, "recorder: %s: %s\n", what, name);
        abort();
}

struct recorder *recorder_new(void)
{
        struct recorder *r = mmap(NULL, sizeof(*r) + ARENA_BYTES, PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        cas_assert(r != MAP_FAILED);
        r->arena_used = 1; /* 0: none */
        return r;
}

void recorder_free(struct recorder *r)
{
        (void)munmap(r, sizeof(*r) + ARENA_BYTES);
}

void recorder_reset(struct recorder *r)
{
        r->op_count = r->file_count = 0;
        r->arena_used = 1;
        recorder_fault_clear(r);
        r->struck = false;
}

static uint64_t keep(struct recorder *r, const void *data, size_t len)
{
        uint64_t at = r->arena_used;
        cas_assert(len < ARENA_BYTES - at);
        memcpy(r->arena + at, data, len);
        r->arena_used += len;
        return at;
}

static uint64_t keep_name(struct recorder *r, const char *name)
{
        return name ? keep(r, name, strlen(name) + 1) : 0;
}

size_t recorder_op_count(const struct recorder *r)
{
        return r->op_count;
}

struct recorder_op recorder_op(const struct recorder *r, size_t i)
{
        const struct stored_op *s = &r->ops[i];
        struct recorder_op op = s->op;
        op.name = s->name_at ? r->arena + s->name_at : NULL;
        op.to_name = s->to_name_at ? r->arena + s->to_name_at : NULL;
        op.data = s->data_at ? (const uint8_t *)r->arena + s->data_at : NULL;
        return op;
}

size_t recorder_file_count(const struct recorder *r)
{
        return r->file_count;
}

struct recorder_file recorder_file(const struct recorder *r, size_t i)
{
        const struct stored_file *f = &r->files[i];
        return (struct recorder_file){
                .dir = f->dir, .is_dir = f->is_dir, .name = r->arena + f->name_at};
}

const char *recorder_kind_name(enum recorder_kind kind)
{
        static const char *const names[] = {
                [RECORDER_CREATE] = "create",     [RECORDER_LINK] = "link",
                [RECORDER_RENAME] = "rename",     [RECORDER_UNLINK] = "unlink",
                [RECORDER_WRITE] = "write",       [RECORDER_TRUNCATE] = "truncate",
                [RECORDER_SYNC] = "sync",         [RECORDER_SYNC_BAD] = "failed sync",
                [RECORDER_SYNC_ALL] = "sync all", [RECORDER_NOTE] = "note",
        };
        return names[kind];
}

void recorder_add(const struct recorder_op *op)
{
        struct recorder *r = recording.r;
        cas_assert(r->op_count < OPS_MAX);
        struct stored_op *s = &r->ops[r->op_count];
        *s = (struct stored_op){.op = *op,
                                .name_at = keep_name(r, op->name),
                                .to_name_at = keep_name(r, op->to_name)};
        if (op->data)
                s->data_at = keep(r, op->data, op->length);
        s->op.armed = recording.armed;
        r->op_count++;
}

/* ---- numbers of files ---- */

bool recorder_number(const struct stat *st, uint32_t *out)
{
        uint64_t inode = st->st_ino;
        const uint64_t *number = st->st_dev == recording.device
                                         ? cas_map_get(recording.numbers, &inode, sizeof(inode))
                                         : NULL;
        if (number)
                *out = (uint32_t)*number;
        return number != NULL;
}

uint32_t recorder_new_number(const struct stat *st)
{
        uint64_t inode = st->st_ino;
        cas_assert(st->st_dev == recording.device);
        /* An inode that is used again is another file. */
        *cas_map_put(recording.numbers, &inode, sizeof(inode), NULL) = recording.next;
        return recording.next++;
}

static void add_file(uint32_t dir, const char *name, const struct stat *st)
{
        struct recorder *r = recording.r;
        uint32_t number = recorder_new_number(st);
        cas_assert(number == r->file_count && number < FILES_MAX);
        cas_assert(st->st_nlink == 1 || S_ISDIR(st->st_mode));
        r->files[r->file_count++] = (struct stored_file){
                .dir = dir, .is_dir = S_ISDIR(st->st_mode), .name_at = keep_name(r, name)};
}

static void add_directory(const char *path, uint32_t number)
{
        DIR *dir = opendir(path);
        cas_assert(dir != NULL);
        for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
                struct stat st;
                if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
                        continue;
                cas_cleanup_free char *below = cas_xasprintf("%s/%s", path, e->d_name);
                int rc = recorder_raw_stat(AT_FDCWD, below, &st, AT_SYMLINK_NOFOLLOW);
                cas_assert(rc == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)));
                uint32_t mine = recording.next;
                add_file(number, e->d_name, &st);
                if (S_ISDIR(st.st_mode))
                        add_directory(below, mine);
        }
        (void)closedir(dir);
}

void recorder_begin(struct recorder *r, const char *dir)
{
        struct stat st;
        cas_assert(!recorder_is_on);
        int rc = recorder_raw_stat(AT_FDCWD, dir, &st, 0);
        cas_assert(rc == 0);
        recording.r = r;
        recording.device = st.st_dev;
        recording.numbers = cas_map_new();
        recording.next = 0;
        recording.armed = false;
        add_file(0, "", &st);
        add_directory(dir, 0);
        recorder_is_on = true;
}

void recorder_arm(bool armed)
{
        recorder_lock();
        recording.armed = armed;
        recorder_unlock();
}

void recorder_note(unsigned note)
{
        recorder_lock();
        recorder_add(&(struct recorder_op){.kind = RECORDER_NOTE, .note = note});
        recorder_unlock();
}

/* ---- faults ---- */

void recorder_fault_set(struct recorder *r, enum recorder_fault fault, unsigned at, bool stays)
{
        r->fault = fault;
        r->fault_at = at;
        r->fault_stays = stays;
        r->fault_calls = 0;
        r->struck = false;
        r->struck_call[0] = '\0';
}

void recorder_fault_clear(struct recorder *r)
{
        r->fault = RECORDER_NO_FAULT;
}

bool recorder_struck(const struct recorder *r)
{
        return r->struck;
}

const char *recorder_struck_call(const struct recorder *r)
{
        return r->struck_call;
}

static bool can_strike(enum recorder_fault fault, unsigned traits)
{
        switch (fault) {
        case RECORDER_NO_FAULT:
                return false;
        case RECORDER_EIO:
                return true;
        case RECORDER_ENOSPC:
                return traits & RECORDER_TAKES_SPACE;
        case RECORDER_EMFILE:
                return traits & RECORDER_OPENS;
        case RECORDER_ENOMEM:
                return traits & RECORDER_HAS_PATH;
        case RECORDER_SHORT:
                return traits & RECORDER_MAY_BE_SHORT;
        }
        return false;
}

/* Which call it was, for people. */
static void note_call(struct recorder *r, const char *call, const char *path, int fd)
{
        char link[64], name[200];
        if (!path) {
                (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
                ssize_t n = readlink(link, name, sizeof(name) - 1);
                name[n > 0 ? n : 0] = '\0';
        }
        (void)snprintf(r->struck_call, sizeof(r->struck_call), "%s %.200s", call,
                       path ? path : name);
}

int recorder_strike(const char *call, const char *path, int fd, unsigned traits)
{
        static const int errnos[] = {
                [RECORDER_EIO] = EIO,       [RECORDER_ENOSPC] = ENOSPC, [RECORDER_EMFILE] = EMFILE,
                [RECORDER_ENOMEM] = ENOMEM, [RECORDER_SHORT] = -1,
        };
        struct recorder *r = recording.r;
        if (!recording.armed || !can_strike(r->fault, traits))
                return 0;
        unsigned n = ++r->fault_calls;
        if (n < r->fault_at || (n > r->fault_at && !r->fault_stays))
                return 0;
        if (!r->struck)
                note_call(r, call, path, fd);
        r->struck = true;
        return errnos[r->fault];
}
