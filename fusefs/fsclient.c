/* SPDX-License-Identifier: Apache-2.0 */
/* The commands' side of fs.sock. */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include "fusefs/fscontrol_int.h"
#include "fusefs/unixsock_int.h"

/* An upper directory with many hard links is read through before it is served. */
#define ANSWER_WAIT_MS 120000
#define TRIES 6
#define TRY_PAUSE_MS 50
#define STATUS_BYTES_MAX (64 << 20)

struct call {
        const char *run_dir;
        const char *message;
        int fds[2];
        size_t fd_count;
        char answer[FFS_MESSAGE_BYTES_MAX + 1];
        int answer_fd; /* -1: none */
        unsigned tries;
};

/* One attempt; *answered false when fs ended before it did. */
static int ask_once(struct call *c, bool *answered, struct cas_err *err)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/" FFS_FS_SOCKET_NAME, c->run_dir);
        cas_cleanup_fd int fd = -1;
        size_t len = 0, fd_count = 1;
        *answered = true;
        if (ffs_sock_connect(path, &fd, err) < 0) {
                err->sys_errno = err->sys_errno ? err->sys_errno : ECONNREFUSED;
                return -(int)err->code;
        }
        if (ffs_sock_send(fd, c->message, strlen(c->message), c->fds, c->fd_count, err) < 0) {
                *answered = false;
                return -(int)err->code;
        }
        if (ffs_sock_receive(fd, c->answer, FFS_MESSAGE_BYTES_MAX, &len, &c->answer_fd, &fd_count,
                             ANSWER_WAIT_MS, err) < 0)
                return -(int)err->code;
        c->answer[len] = '\0';
        if (len == 0) {
                *answered = false;
                return cas_fail(err, CAS_E_IO, "lamina fs ended before it answered: see its log");
        }
        return ffs_process_answer(c->answer, err);
}

static int ask(struct call *c, struct cas_err *err)
{
        c->answer_fd = -1;
        for (c->tries = 1;; c->tries++) {
                bool answered;
                struct cas_err why = CAS_ERR_INIT;
                int rc = ask_once(c, &answered, &why);
                if (rc == 0)
                        return 0;
                if (answered || c->tries == TRIES) {
                        *err = why;
                        return cas_err_wrap(err, "lamina fs");
                }
                struct timespec pause = {.tv_nsec = TRY_PAUSE_MS * 1000000};
                (void)nanosleep(&pause, NULL);
        }
}

static char *volume_text(const struct ffs_volume_spec *volume, struct cas_err *err)
{
        char *text = ffs_volume_format(volume);
        if (!text)
                (void)cas_fail(err, CAS_E_INVALID, "the path of a tree is not UTF-8");
        return text;
}

int ffs_fs_tree_add(const char *run_dir, const struct ffs_tree_spec *tree, int fuse_fd,
                    const struct ffs_volume_spec *volume, int dir_fd, struct cas_err *err)
{
        char line[FFS_TREE_TEXT_BYTES];
        cas_cleanup_free char *text = volume ? volume_text(volume, err) : cas_xstrdup("");
        if (!text)
                return -(int)err->code;
        ffs_tree_spec_format(tree, line);
        cas_cleanup_free char *message = cas_xasprintf("connection-add %s\n%s", line, text);
        struct call c = {.run_dir = run_dir,
                         .message = message,
                         .fds = {fuse_fd, dir_fd},
                         .fd_count = dir_fd >= 0 ? 2 : 1};
        int rc = ask(&c, err);
        if (rc == -CAS_E_EXISTS && c.tries > 1)
                rc = 0; /* the one that ended had done it */
        return rc;
}

int ffs_fs_volume_add(const char *run_dir, const char *tree, const struct ffs_volume_spec *volume,
                      int dir_fd, struct ffs_tree_spec *out, struct cas_err *err)
{
        cas_cleanup_free char *text = volume_text(volume, err);
        if (!text)
                return -(int)err->code;
        cas_cleanup_free char *message = cas_xasprintf("volume-add %s\n%s", tree, text);
        struct call c = {
                .run_dir = run_dir, .message = message, .fds = {dir_fd}, .fd_count = dir_fd >= 0};
        if (ask(&c, err) < 0)
                return -(int)err->code;
        return ffs_tree_spec_parse(c.answer + strlen("ok "), out, err);
}

int ffs_fs_volume_remove(const char *run_dir, const char *tree, const char *id, struct cas_err *err)
{
        cas_cleanup_free char *message = cas_xasprintf("volume-remove %s %s", tree, id);
        struct call c = {.run_dir = run_dir, .message = message};
        return ask(&c, err);
}

int ffs_fs_leave(const char *run_dir, struct cas_err *err)
{
        struct call c = {.run_dir = run_dir, .message = "leave"};
        return ask(&c, err);
}

int ffs_fs_status(const char *run_dir, char **out, struct cas_err *err)
{
        struct call c = {.run_dir = run_dir, .message = "connections"};
        if (ask(&c, err) < 0)
                return -(int)err->code;
        cas_cleanup_fd int fd = c.answer_fd;
        struct stat st;
        if (fd < 0 || fstat(fd, &st) < 0 || st.st_size < 0 || st.st_size > STATUS_BYTES_MAX)
                return cas_fail(err, CAS_E_IO, "lamina fs: no status");
        size_t len = (size_t)st.st_size;
        cas_cleanup_free char *text = cas_xcalloc(1, len + 1);
        if (pread(fd, text, len, 0) != (ssize_t)len)
                return cas_fail(err, CAS_E_IO, "lamina fs: the status cannot be read");
        *out = cas_steal(&text);
        return 0;
}
