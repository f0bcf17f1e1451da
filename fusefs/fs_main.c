/* SPDX-License-Identifier: Apache-2.0 */
/* `lamina fs`: serves the object file system and the tree file systems over
 * descriptors that `lamina hold` keeps. It has nothing that a successor would
 * miss. When hold dies, it goes on and starts a new one, which gets the
 * descriptors from here. It ends when nothing is left to serve. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include "cas/limits.h"
#include "cas/log.h"
#include "fusefs/fill_int.h"
#include "fusefs/fscontrol_int.h"
#include "fusefs/objectfs_int.h"
#include "fusefs/ownerwait_int.h"
#include "fusefs/process_int.h"
#include "fusefs/pulse_int.h"
#include "fusefs/unixsock_int.h"

/* While somebody reads: one block of the largest for each thread. Nothing is kept when all is
 * quiet. */
#define BLOCK_CACHE_BYTES (WORKERS_MAX * CAS_BLOCK_BYTES_MAX)
#define WORKERS_MAX 8
#define EXTENT_CACHE_BYTES (4 * CAS_MIB)
#define PACKS_MAX 512
#define READ_AHEAD_KIB 1024 /* longer pieces are asked for by the opener */
#define PAUSE_MS 500
#define TICK_MS 2000
/* Without an object file system: so long after the last connection. */
#define IDLE_MS 10000
#define START_WAIT_MS 10000
#define OWNER_START_PAUSE_MS 5000

struct fs_process {
        const struct ffs_host *host;
        struct ffs_keep *keep;
        struct ffs_serving serving;
        struct ffs_reader *reader;
        struct ffs_opener *opener; /* NULL: none could be started */
        struct ffs_ownerwait *wait;
        struct ffs_slots *slots;      /* NULL: there is no object file system */
        struct ffs_objectfs *objects; /* NULL: there is none, or it has ended */
        struct ffs_treeset *trees;
        struct ffs_fscontrol *control;
        uint64_t idle_since_ms;    /* 0: something is served */
        uint64_t owner_started_ms; /* by us, last; 0: never. Of the waiting thread alone */
};

static uint64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static int receive_start(struct fs_process *p, int hold_fd, struct cas_err *err)
{
        char text[FFS_MESSAGE_BYTES_MAX + 1];
        size_t len = 0, no_fds = 0;
        if (ffs_sock_receive(hold_fd, text, FFS_MESSAGE_BYTES_MAX, &len, NULL, &no_fds,
                             START_WAIT_MS, err) < 0)
                return -(int)err->code;
        text[len] = '\0';
        if (ffs_serving_parse("start", text, &p->serving, err) < 0 ||
            ffs_keep_open(p->host, hold_fd, &p->serving, &p->keep, err) < 0)
                return -(int)err->code;
        return 0;
}

/* The kernel's own read-ahead of FUSE is 128 KiB at most, whatever INIT asks for. */
static void set_read_ahead(const struct ffs_serving *s)
{
        char path[64], text[16];
        (void)snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", s->dev_major,
                       s->dev_minor);
        int n = snprintf(text, sizeof(text), "%d", READ_AHEAD_KIB);
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, text, (size_t)n) != n)
                cas_log(CAS_LOG_WARN, "fs.readahead", "path=%s errno=%d", path, errno);
}

static unsigned worker_count(void)
{
        long cpus = sysconf(_SC_NPROCESSORS_ONLN);
        return cpus < 2 ? 4 : (unsigned)cas_min_u64((uint64_t)cpus + 2, WORKERS_MAX);
}

/* Requests wait and nobody has replaced the owner: this process does. One that starts is given
 * time, and one that is there already makes the new one end. */
static void owner_away(void *arg)
{
        struct fs_process *p = arg;
        uint64_t now = now_ms();
        if (p->owner_started_ms && now - p->owner_started_ms < OWNER_START_PAUSE_MS)
                return;
        p->owner_started_ms = now;
        struct cas_err err = CAS_ERR_INIT;
        if (ffs_process_start_owner(p->host, &err) < 0)
                cas_log(CAS_LOG_ERROR, "fs.owner", "why=\"%s\"", err.msg);
        else
                cas_log(CAS_LOG_WARN, "fs.started_owner", "store=%s", p->host->store_path);
}

static int start_waiting(struct fs_process *p, struct cas_err *err)
{
        struct ffs_reader_config reader = {.resolve_path = p->host->resolve_path,
                                           .block_cache_bytes = BLOCK_CACHE_BYTES,
                                           .extent_cache_bytes = EXTENT_CACHE_BYTES,
                                           .packs_max = PACKS_MAX};
        p->reader = ffs_reader_new(&reader);
        struct ffs_ownerwait_config wait = {.reader = p->reader,
                                            .wait_ms = FFS_OWNER_WAIT_MS,
                                            .owner_away = owner_away,
                                            .owner_away_arg = p};
        return ffs_ownerwait_start(&wait, &p->wait, err);
}

/* Once the file system is served: the opener begins with a look-up. */
static void start_opener(struct fs_process *p)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_fill *fill = ffs_objectfs_fill(p->objects);
        if (ffs_opener_start(p->host, ffs_fill_done, fill, &p->opener, &err) < 0)
                cas_log(CAS_LOG_WARN, "fs.opener", "why=\"%s\"", err.msg);
        else
                ffs_fill_set_opener(fill, p->opener);
}

static int serve_objects(struct fs_process *p, struct cas_err *err)
{
        int fds[2]; /* for the life of the process */
        if (ffs_keep_fds(p->keep, FFS_KEEP_OBJECTS, fds, 2, err) < 0) {
                if (err->code != CAS_E_NOTFOUND)
                        return -(int)err->code;
                *err = (struct cas_err)CAS_ERR_INIT; /* a user without the right to mount */
                return 0;
        }
        if (ffs_slots_open(&ffs_slots_objects, fds[1], &p->slots, err) < 0)
                return -(int)err->code;
        struct ffs_objectfs_config config = {.fuse_fd = fds[0],
                                             .slots = p->slots,
                                             .reader = p->reader,
                                             .threads = worker_count(),
                                             .wait = p->wait};
        if (ffs_objectfs_start(&config, &p->objects, err) < 0)
                return -(int)err->code;
        set_read_ahead(&p->serving);
        start_opener(p);
        return 0;
}

/* Trees come after the objects that their pages may be of, commands when all is there. */
static int serve_all(struct fs_process *p, struct cas_err *err)
{
        if (start_waiting(p, err) < 0 || serve_objects(p, err) < 0)
                return -(int)err->code;
        struct ffs_treeset_config trees = {.opener = p->opener,
                                           .keep = p->keep,
                                           .reader = p->reader,
                                           .wait = p->wait,
                                           .threads = worker_count()};
        if (ffs_treeset_open(&trees, &p->trees, err) < 0)
                return -(int)err->code;
        struct ffs_fscontrol_config control = {
                .run_dir = p->host->run_dir, .keep = p->keep, .trees = p->trees, .slots = p->slots};
        return ffs_fscontrol_start(&control, &p->control, err);
}

/* ---- life ---- */

/* The run directory is another's: what is served is used from elsewhere. */
static void leave(struct fs_process *p)
{
        struct cas_err err = CAS_ERR_INIT;
        ffs_fscontrol_leave(p->control);
        if (ffs_keep_leave(p->keep, &err) < 0)
                cas_log(CAS_LOG_WARN, "fs.leave", "why=\"%s\"", err.msg);
}

static void objects_ended(struct fs_process *p)
{
        struct cas_err err = CAS_ERR_INIT;
        p->objects = NULL; /* its threads may still be in it */
        if (p->opener)
                ffs_opener_stop(p->opener);
        if (ffs_keep_drop(p->keep, FFS_KEEP_OBJECTS, &err) < 0)
                cas_log(CAS_LOG_WARN, "fs.objects", "why=\"%s\"", err.msg);
        leave(p);
}

static bool nothing_left(struct fs_process *p)
{
        if (p->objects || ffs_treeset_count(p->trees) > 0) {
                p->idle_since_ms = 0;
                return false;
        }
        if (!p->idle_since_ms)
                p->idle_since_ms = now_ms();
        return ffs_fscontrol_has_left(p->control) || now_ms() - p->idle_since_ms >= IDLE_MS;
}

/* A hold that ends is followed by another; after reading, the page cache is tidied up. */
static void watch(struct fs_process *p)
{
        for (;;) {
                bool dead = ffs_treeset_reap(p->trees);
                if (nothing_left(p))
                        break;
                struct pollfd fds[4] = {
                        {.fd = p->objects ? ffs_objectfs_ended_fd(p->objects) : -1,
                         .events = POLLIN},
                        {.fd = ffs_treeset_ended_fd(p->trees), .events = POLLIN},
                        {.fd = ffs_keep_hold_fd(p->keep)}, /* its end */
                        {.fd = ffs_reader_activity_fd(p->reader), .events = POLLIN}};
                if (poll(fds, 4, p->idle_since_ms ? PAUSE_MS : dead ? TICK_MS : -1) < 0)
                        continue;
                struct cas_err err = CAS_ERR_INIT;
                if (fds[0].revents)
                        objects_ended(p);
                if (fds[2].revents && ffs_keep_revive(p->keep, &err) < 0)
                        cas_log(CAS_LOG_ERROR, "fs.hold", "why=\"%s\"", err.msg);
                if (fds[3].revents)
                        (void)ffs_reader_tidy(p->reader);
                if (fds[2].revents || fds[3].revents) /* neither is done in a tight loop */
                        (void)poll(fds, 2, PAUSE_MS);
        }
        if (!ffs_fscontrol_has_left(p->control))
                leave(p);
}

static void give_pulse(struct fs_process *p)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_fd int fd = -1;
        if (ffs_pulse_start(&fd, &err) < 0 ||
            ffs_keep_put(p->keep, FFS_PULSE_ITEM, "", &fd, 1, &err) < 0)
                cas_log(CAS_LOG_WARN, "fs.pulse", "why=\"%s\"", err.msg);
}

int ffs_fs_main(const struct ffs_host *host, int hold_fd)
{
        ffs_process_protect();
        (void)umask(0); /* files of uppers get the mode that their maker asked for */
        /* Blocks come and go by the hundred KiB: they are mapped, so that memory goes back. */
        (void)mallopt(M_MMAP_THRESHOLD, 128 * 1024);
        (void)mallopt(M_ARENA_MAX, 2);
        ffs_process_raise_file_limit();
        (void)signal(SIGCHLD, SIG_IGN); /* a hold that we started is nobody's to wait for */
        (void)signal(SIGPIPE, SIG_IGN);
        (void)fcntl(hold_fd, F_SETFD, FD_CLOEXEC);
        struct fs_process p = {.host = host};
        struct cas_err err = CAS_ERR_INIT;
        if (receive_start(&p, hold_fd, &err) < 0 || serve_all(&p, &err) < 0) {
                cas_log(CAS_LOG_ERROR, "fs.failed", "why=\"%s\"", err.msg);
                return 1;
        }
        give_pulse(&p);
        if (ffs_keep_ready(p.keep, &err) < 0)
                cas_log(CAS_LOG_WARN, "fs.ready", "why=\"%s\"", err.msg);
        cas_log(CAS_LOG_INFO, "fs.serving", "device=%u:%u connections=%zu restarts=%u",
                p.serving.dev_major, p.serving.dev_minor, ffs_treeset_count(p.trees),
                p.serving.restarts);
        watch(&p);
        cas_log(CAS_LOG_INFO, "fs.ended", "device=%u:%u", p.serving.dev_major, p.serving.dev_minor);
        _exit(0); /* threads still run */
}
