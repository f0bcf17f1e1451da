/* SPDX-License-Identifier: Apache-2.0 */
/* `lamina opener`: answers `lamina fs` over one socket, with a few threads, as
 * each of them waits for fs now and then. Keeps no state but the descriptors of
 * what it prepared last. Ends when fs has. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include "cas/log.h"
#include "cas/mutex.h"
#include "fusefs/kmount_int.h"
#include "fusefs/opener_int.h"
#include "fusefs/opener_msg_int.h"
#include "fusefs/process_int.h"
#include "fusefs/unixsock_int.h"

#define THREADS 4
#define MOUNT_TICK_MS 1000 /* where there is no /proc */
/* The kernel drops an inode at once when nobody has it, and who looked it up may not yet. */
#define KEPT_MAX 128
#define READ_AHEAD_PIECE_BYTES UINT64_C(1048576) /* the kernel cuts a longer one off */

struct opener_process {
        int fs_fd, dir_fd;
        struct cas_mutex mutex; /* guards kept; leaf */
        int kept[KEPT_MAX];     /* ring; -1 empty */
        size_t kept_at;
};

static void keep(struct opener_process *p, int fd)
{
        cas_mutex_lock(&p->mutex);
        int old = p->kept[p->kept_at];
        p->kept[p->kept_at] = fd;
        p->kept_at = (p->kept_at + 1) % KEPT_MAX;
        cas_mutex_unlock(&p->mutex);
        if (old >= 0)
                (void)close(old);
}

/* Asks only: the kernel's requests are answered while nobody here waits. */
static void read_ahead(int fd, uint64_t from, uint64_t to)
{
        for (; from < to; from += READ_AHEAD_PIECE_BYTES)
                (void)readahead(fd, (off_t)from, cas_min_u64(to - from, READ_AHEAD_PIECE_BYTES));
}

/* Opening sends no request: the object file system has none for it. */
static int run(const struct opener_process *p, const struct ffs_opener_request *r)
{
        char hex[CAS_HASH_HEX_BYTES];
        int fd = openat(p->dir_fd, cas_hash_hex(&r->object, hex), O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
                read_ahead(fd, r->from, r->to);
        return fd;
}

static bool answer(struct opener_process *p, const struct ffs_opener_request *r, int *fd, int error)
{
        const struct ffs_opener_reply reply = {.tag = r->tag, .error = *fd < 0 ? error : 0};
        struct cas_err err = CAS_ERR_INIT;
        bool with_fd = r->kind == FFS_OPENER_OPEN && *fd >= 0;
        /* Blocking: fs reads as long as it lives. */
        struct pollfd writable = {.fd = p->fs_fd, .events = POLLOUT};
        (void)poll(&writable, 1, -1);
        int rc = ffs_sock_send(p->fs_fd, &reply, sizeof(reply), fd, with_fd, &err);
        if (r->kind == FFS_OPENER_PREPARE && *fd >= 0)
                keep(p, cas_steal_fd(fd));
        return rc == 0;
}

static void *serve(void *arg)
{
        struct opener_process *p = arg;
        for (;;) {
                struct ffs_opener_request r;
                size_t len = 0, no_fds = 0;
                struct cas_err err = CAS_ERR_INIT;
                if (ffs_sock_receive(p->fs_fd, &r, sizeof(r), &len, NULL, &no_fds, -1, &err) < 0 ||
                    len != sizeof(r))
                        _exit(0); /* fs has gone */
                cas_cleanup_fd int fd = run(p, &r);
                int error = errno;
                if (r.kind != FFS_OPENER_READ_AHEAD && !answer(p, &r, &fd, error))
                        _exit(0);
        }
        return NULL;
}

/* Ends with the mount: what is open here would keep an unmounted file system alive. */
static CAS_NORETURN void watch_mount(const char *objects_dir)
{
        cas_cleanup_fd int mounts = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
        for (;;) {
                struct pollfd changed = {.fd = mounts, .events = POLLPRI};
                struct ffs_mount_id id;
                struct cas_err err = CAS_ERR_INIT;
                if (ffs_kmount_identify(objects_dir, &id, &err) < 0 || !id.is_mount_root)
                        _exit(0);
                (void)poll(&changed, 1, mounts < 0 ? MOUNT_TICK_MS : -1);
        }
}

int ffs_opener_main(const struct ffs_host *host, int fs_fd)
{
        ffs_process_protect();
        (void)signal(SIGPIPE, SIG_IGN);
        (void)fcntl(fs_fd, F_SETFD, FD_CLOEXEC);
        struct opener_process p = {.fs_fd = fs_fd};
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *objects = cas_xasprintf("%s/objects", host->run_dir);
        cas_cleanup_free char *path = cas_xasprintf("%s/" FFS_OPENER_DIR, objects);
        p.dir_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (p.dir_fd < 0) {
                cas_log(CAS_LOG_ERROR, "opener.failed", "path=%s errno=%d", path, errno);
                return 1;
        }
        if (ffs_process_drop_capabilities(&err) < 0) {
                cas_log(CAS_LOG_ERROR, "opener.failed", "why=\"%s\"", err.msg);
                return 1;
        }
        cas_mutex_init(&p.mutex, "opener");
        for (size_t i = 0; i < KEPT_MAX; i++)
                p.kept[i] = -1;
        for (unsigned i = 0; i < THREADS; i++) {
                pthread_t thread;
                if (pthread_create(&thread, NULL, serve, &p) != 0)
                        return 1;
                (void)pthread_detach(thread);
        }
        watch_mount(objects);
}
