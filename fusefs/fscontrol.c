/* SPDX-License-Identifier: Apache-2.0 */
/* fs's side of fs.sock: one thread, one request per connection, one after the
 * other. Peers are the store's user and root, who may do with it as they like;
 * what they send is checked all the same. */
#include "fusefs/fscontrol_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "cas/log.h"
#include "fusefs/slots_int.h"
#include "fusefs/unixsock_int.h"

#define SOCKET_ITEM "socket"
#define REQUEST_WAIT_MS 1000
#define REQUEST_FDS_MAX 2

struct ffs_fscontrol {
        struct ffs_fscontrol_config config;
        int listen_fd;
        _Atomic bool left;
};

/* One request, and its answer in the making. */
struct request {
        struct ffs_fscontrol *control;
        const char *rest; /* what follows the verb */
        int fds[REQUEST_FDS_MAX];
        size_t fd_count;
        char answer[FFS_MESSAGE_BYTES_MAX];
        int answer_fd; /* -1: none */
};

static int take_fd(struct request *r, size_t i)
{
        return i < r->fd_count ? cas_steal_fd(&r->fds[i]) : -1;
}

/* ---- verbs ---- */

/* The text of a volume in the last line, if there is one. */
static int parse_volume(const char *text, struct ffs_volume_spec **out, struct cas_err *err)
{
        cas_cleanup_free struct ffs_volume_spec *spec = cas_xmalloc(sizeof(*spec));
        if (ffs_volume_parse(text, strlen(text), spec, err) < 0)
                return -(int)err->code;
        *out = cas_steal(&spec);
        return 0;
}

static int connection_add(struct request *r, struct cas_err *err)
{
        struct ffs_tree_spec tree;
        cas_cleanup_free struct ffs_volume_spec *volume = NULL;
        cas_cleanup_free char *line = cas_xstrdup(r->rest);
        char *text = strchr(line, '\n');
        if (!text)
                return cas_fail(err, CAS_E_INVALID, "no line feed behind the connection");
        *text++ = '\0';
        if (ffs_tree_spec_parse(line, &tree, err) < 0 ||
            (!tree.shared && parse_volume(text, &volume, err) < 0))
                return -(int)err->code;
        if (r->fd_count < 1)
                return cas_fail(err, CAS_E_INVALID, "no descriptor of the connection");
        return ffs_treeset_add(r->control->config.trees, &tree, take_fd(r, 0), volume,
                               take_fd(r, 1), err);
}

static int volume_add(struct request *r, struct cas_err *err)
{
        struct ffs_tree_spec tree = {0};
        cas_cleanup_free struct ffs_volume_spec *volume = NULL;
        cas_cleanup_free char *name = cas_xstrdup(r->rest);
        char *text = strchr(name, '\n');
        if (!text)
                return cas_fail(err, CAS_E_INVALID, "no line feed behind the connection");
        *text++ = '\0';
        if (parse_volume(text, &volume, err) < 0 ||
            ffs_treeset_volume_add(r->control->config.trees, name, volume, take_fd(r, 0), &tree,
                                   err) < 0)
                return -(int)err->code;
        char line[FFS_TREE_TEXT_BYTES];
        ffs_tree_spec_format(&tree, line);
        (void)snprintf(r->answer, sizeof(r->answer), "ok %s", line);
        return 0;
}

static int volume_remove(struct request *r, struct cas_err *err)
{
        cas_cleanup_free char *name = cas_xstrdup(r->rest);
        char *id = strchr(name, ' ');
        if (!id)
                return cas_fail(err, CAS_E_INVALID, "no volume behind the connection");
        *id++ = '\0';
        return ffs_treeset_volume_remove(r->control->config.trees, name, id, err);
}

static unsigned open_descriptors(void)
{
        unsigned count = 0;
        DIR *d = opendir("/proc/self/fd");
        if (!d)
                return 0;
        while (readdir(d))
                count++;
        (void)closedir(d);
        return count - 3; /* . and .. and its own */
}

/* In a memfd, since it may be long. */
static int status(struct request *r, struct cas_err *err)
{
        const struct ffs_fscontrol_config *c = &r->control->config;
        cas_cleanup_free char *trees = ffs_treeset_status(c->trees);
        cas_cleanup_free char *text =
                cas_xasprintf("{\"objects\":%zu,\"descriptors\":%u,\"connections\":%s}",
                              c->slots ? ffs_slots_count(c->slots) : 0, open_descriptors(), trees);
        cas_cleanup_fd int fd = memfd_create("lamina-status", MFD_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "memfd for the status");
        size_t len = strlen(text);
        if (write(fd, text, len) != (ssize_t)len)
                return cas_fail_sys(err, errno, "status");
        r->answer_fd = cas_steal_fd(&fd);
        return 0;
}

static int leave(struct request *r, struct cas_err *err CAS_UNUSED)
{
        ffs_fscontrol_leave(r->control);
        return 0;
}

static const struct verb {
        const char *name;
        int (*run)(struct request *r, struct cas_err *err);
} verbs[] = {
        {"connection-add", connection_add},
        {"volume-add", volume_add},
        {"volume-remove", volume_remove},
        {"connections", status},
        {"leave", leave},
};

static int run_verb(struct request *r, char *text, struct cas_err *err)
{
        char *space = strchr(text, ' ');
        r->rest = space ? space + 1 : "";
        if (space)
                *space = '\0';
        for (size_t i = 0; i < CAS_COUNT(verbs); i++) {
                if (strcmp(text, verbs[i].name) == 0)
                        return verbs[i].run(r, err);
        }
        return cas_fail(err, CAS_E_INVALID, "what is \"%.32s\"?", text);
}

/* ---- the thread ---- */

static void answer(struct ffs_fscontrol *c, int fd)
{
        static char text[FFS_FS_MESSAGE_BYTES_MAX + 1]; /* of the one thread */
        struct request r = {.control = c, .fd_count = REQUEST_FDS_MAX, .answer_fd = -1};
        struct cas_err err = CAS_ERR_INIT;
        size_t len = 0;
        if (ffs_sock_receive(fd, text, FFS_FS_MESSAGE_BYTES_MAX, &len, r.fds, &r.fd_count,
                             REQUEST_WAIT_MS, &err) < 0 ||
            len == 0)
                return;
        text[len] = '\0';
        int rc = run_verb(&r, text, &err);
        if (rc < 0 || !r.answer[0])
                (void)ffs_process_answer_format(rc, &err, r.answer, sizeof(r.answer));
        if (rc < 0)
                cas_log(CAS_LOG_WARN, "fs.command", "verb=%s code=%s why=\"%s\"", text,
                        cas_code_name(err.code), err.msg);
        if (ffs_sock_send(fd, r.answer, strlen(r.answer), &r.answer_fd, r.answer_fd >= 0, &err) < 0)
                cas_log(CAS_LOG_DEBUG, "fs.answer", "why=gone");
        for (size_t i = 0; i < r.fd_count; i++) {
                if (r.fds[i] >= 0)
                        (void)close(r.fds[i]);
        }
        if (r.answer_fd >= 0)
                (void)close(r.answer_fd);
}

static void *control_thread(void *arg)
{
        struct ffs_fscontrol *c = arg;
        while (!atomic_load(&c->left)) {
                cas_cleanup_fd int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC);
                if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
                        continue;
                if (fd < 0)
                        break; /* left */
                if (ffs_sock_peer_trusted(fd))
                        answer(c, fd);
        }
        return NULL;
}

static int listen_new(const struct ffs_fscontrol *c, int *out_fd, struct cas_err *err)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/" FFS_FS_SOCKET_NAME, c->config.run_dir);
        cas_cleanup_fd int fd = -1;
        if (ffs_sock_listen(path, &fd, err) < 0 ||
            ffs_keep_put(c->config.keep, SOCKET_ITEM, "", &fd, 1, err) < 0)
                return -(int)err->code;
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

int ffs_fscontrol_start(const struct ffs_fscontrol_config *config, struct ffs_fscontrol **out,
                        struct cas_err *err)
{
        struct ffs_fscontrol *c = cas_xcalloc(1, sizeof(*c)); /* for the life of the process */
        struct cas_err why = CAS_ERR_INIT;
        c->config = *config;
        if (ffs_keep_fds(config->keep, SOCKET_ITEM, &c->listen_fd, 1, &why) < 0 &&
            listen_new(c, &c->listen_fd, err) < 0)
                return -(int)err->code;
        pthread_t thread;
        int flags = fcntl(c->listen_fd, F_GETFL);
        if (flags < 0 || fcntl(c->listen_fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
                return cas_fail_sys(err, errno, "fcntl");
        int rc = pthread_create(&thread, NULL, control_thread, c);
        if (rc)
                return cas_fail_sys(err, rc, "thread");
        (void)pthread_setname_np(thread, "control");
        (void)pthread_detach(thread);
        *out = c;
        return 0;
}

void ffs_fscontrol_leave(struct ffs_fscontrol *c)
{
        if (atomic_exchange(&c->left, true))
                return;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *path = cas_xasprintf("%s/" FFS_FS_SOCKET_NAME, c->config.run_dir);
        (void)unlink(path);
        /* Wakes the thread; what waits there is told that nobody is here. The number stays taken:
         * the thread may be about to use it. */
        (void)shutdown(c->listen_fd, SHUT_RDWR);
        if (ffs_keep_drop(c->config.keep, SOCKET_ITEM, &err) < 0)
                cas_log(CAS_LOG_WARN, "fs.leave", "why=\"%s\"", err.msg);
}

bool ffs_fscontrol_has_left(const struct ffs_fscontrol *c)
{
        return atomic_load(&c->left);
}
