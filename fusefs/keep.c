/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/keep_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>

#include "cas/log.h"
#include "cas/mutex.h"
#include "fusefs/unixsock_int.h"

#define ANSWER_WAIT_MS 10000
_Static_assert(FFS_KEEP_FDS_MAX <= FFS_SOCK_FDS_MAX, "an item is one message");
_Static_assert(FFS_KEEP_TEXT_BYTES_MAX + FFS_KEEP_NAME_BYTES + 32 <= FFS_KEEP_MESSAGE_BYTES_MAX,
               "an item is one message");

/* ---- items ---- */

static void close_all(const int *fds, size_t fd_count)
{
        for (size_t i = 0; i < fd_count; i++)
                (void)close(fds[i]);
}

void ffs_keep_item_release(struct ffs_keep_item *item)
{
        free(item->text);
        close_all(item->fds, item->fd_count);
        *item = (struct ffs_keep_item){0};
}

struct ffs_keep_item *ffs_keep_items_find(const struct ffs_keep_items *items, const char *name)
{
        for (size_t i = 0; i < items->count; i++) {
                if (strcmp(items->list[i].name, name) == 0)
                        return &items->list[i];
        }
        return NULL;
}

void ffs_keep_items_put(struct ffs_keep_items *items, struct ffs_keep_item *item)
{
        struct ffs_keep_item *old = ffs_keep_items_find(items, item->name);
        if (old) {
                ffs_keep_item_release(old);
                *old = *item;
        } else {
                if (items->count == items->room) {
                        items->room = items->room ? items->room * 2 : 16;
                        items->list =
                                cas_xrealloc(items->list, items->room * sizeof(items->list[0]));
                }
                items->list[items->count++] = *item;
        }
        *item = (struct ffs_keep_item){0};
}

void ffs_keep_items_drop(struct ffs_keep_items *items, const char *name)
{
        struct ffs_keep_item *item = ffs_keep_items_find(items, name);
        if (!item)
                return;
        ffs_keep_item_release(item);
        size_t at = (size_t)(item - items->list);
        memmove(item, item + 1, (--items->count - at) * sizeof(*item));
}

void ffs_keep_items_release(struct ffs_keep_items *items)
{
        for (size_t i = 0; i < items->count; i++)
                ffs_keep_item_release(&items->list[i]);
        free(items->list);
        *items = (struct ffs_keep_items){0};
}

/* ---- messages ---- */

int ffs_keep_send(int fd, const char *verb, const struct ffs_keep_item *item, struct cas_err *err)
{
        cas_cleanup_free char *text = cas_xasprintf("%s %s\n%s", verb, item->name, item->text);
        return ffs_sock_send(fd, text, strlen(text), item->fds, item->fd_count, err);
}

static bool name_is_good(const char *name, size_t len)
{
        if (len == 0 || len >= FFS_KEEP_NAME_BYTES)
                return false;
        for (size_t i = 0; i < len; i++) {
                if (name[i] <= ' ' || name[i] > '~')
                        return false;
        }
        return true;
}

int ffs_keep_item_parse(const char *text, const int *fds, size_t fd_count,
                        struct ffs_keep_item *out, struct cas_err *err)
{
        size_t name_len = strcspn(text, "\n");
        if (!name_is_good(text, name_len) || text[name_len] != '\n' ||
            strlen(text + name_len + 1) > FFS_KEEP_TEXT_BYTES_MAX || fd_count > FFS_KEEP_FDS_MAX) {
                close_all(fds, fd_count);
                return cas_fail(err, CAS_E_INVALID, "not an item to keep");
        }
        *out = (struct ffs_keep_item){.text = cas_xstrdup(text + name_len + 1),
                                      .fd_count = fd_count};
        memcpy(out->name, text, name_len);
        if (fd_count)
                memcpy(out->fds, fds, fd_count * sizeof(fds[0]));
        return 0;
}

/* ---- the side of fs ---- */

struct ffs_keep {
        const struct ffs_host *host; /* borrowed */
        struct ffs_serving serving;
        struct cas_mutex mutex; /* guards all below; one question at a time; leaf */
        int hold_fd;
        bool left;
        struct ffs_keep_items items;
        char message[FFS_KEEP_MESSAGE_BYTES_MAX + 1];
};

/* Receives an answer into k->message. */
static int receive_locked(struct ffs_keep *k, int *fds, size_t *fd_count, struct cas_err *err)
{
        size_t len = 0;
        if (ffs_sock_receive(k->hold_fd, k->message, FFS_KEEP_MESSAGE_BYTES_MAX, &len, fds,
                             fd_count, ANSWER_WAIT_MS, err) < 0)
                return -(int)err->code;
        k->message[len] = '\0';
        return len ? 0 : cas_fail(err, CAS_E_IO, "hold has gone");
}

static int receive_ok_locked(struct ffs_keep *k, struct cas_err *err)
{
        size_t no_fds = 0;
        if (receive_locked(k, NULL, &no_fds, err) < 0)
                return -(int)err->code;
        return ffs_process_answer(k->message, err);
}

/* Gives one item to the hold of now. */
static int give_locked(struct ffs_keep *k, const struct ffs_keep_item *item, struct cas_err *err)
{
        if (ffs_keep_send(k->hold_fd, "put", item, err) < 0)
                return -(int)err->code;
        return receive_ok_locked(k, err);
}

/* hold has died: another takes its place, with what we have. */
static int revive_locked(struct ffs_keep *k, struct cas_err *err)
{
        int pair[2];
        if (ffs_process_socketpair(pair, err) < 0)
                return -(int)err->code;
        cas_cleanup_fd int mine = pair[0];
        cas_cleanup_fd int theirs = pair[1];
        char text[FFS_MESSAGE_BYTES_MAX];
        k->serving.fs_pid = getpid();
        int n = ffs_serving_format(k->left ? "adopt-left" : "adopt", &k->serving, text,
                                   sizeof(text));
        pid_t pid;
        if (ffs_sock_send(mine, text, (size_t)n, NULL, 0, err) < 0 ||
            ffs_process_spawn(k->host, "hold", "--adopt", theirs, &pid, err) < 0)
                return -(int)err->code;
        (void)close(cas_steal_fd(&theirs)); /* so that its end is noticed */
        (void)close(k->hold_fd);
        k->hold_fd = cas_steal_fd(&mine);
        for (size_t i = 0; i < k->items.count; i++) {
                if (give_locked(k, &k->items.list[i], err) < 0)
                        return cas_err_wrap(err, "the new hold");
        }
        cas_log(CAS_LOG_WARN, "fs.revived_hold", "pid=%d items=%zu", (int)pid, k->items.count);
        return 0;
}

static bool hold_is_gone(const struct ffs_keep *k)
{
        struct pollfd p = {.fd = k->hold_fd};
        return poll(&p, 1, 0) > 0;
}

static int ensure_hold_locked(struct ffs_keep *k, struct cas_err *err)
{
        return hold_is_gone(k) ? revive_locked(k, err) : 0;
}

/* The items that hold has, from the first to the last. */
static int fetch(struct ffs_keep *k, struct cas_err *err)
{
        for (unsigned i = 0;; i++) {
                char ask[32];
                int fds[FFS_KEEP_FDS_MAX];
                size_t fd_count = FFS_KEEP_FDS_MAX;
                int n = snprintf(ask, sizeof(ask), "get %u", i);
                if (ffs_sock_send(k->hold_fd, ask, (size_t)n, NULL, 0, err) < 0 ||
                    receive_locked(k, fds, &fd_count, err) < 0)
                        return -(int)err->code;
                if (strncmp(k->message, "item ", 5) != 0)
                        return ffs_process_answer(k->message, err);
                struct ffs_keep_item item;
                if (ffs_keep_item_parse(k->message + 5, fds, fd_count, &item, err) < 0)
                        return -(int)err->code;
                ffs_keep_items_put(&k->items, &item);
        }
}

int ffs_keep_open(const struct ffs_host *host, int hold_fd, const struct ffs_serving *serving,
                  struct ffs_keep **out, struct cas_err *err)
{
        struct ffs_keep *k = cas_xcalloc(1, sizeof(*k));
        k->host = host;
        k->serving = *serving;
        k->hold_fd = hold_fd;
        cas_mutex_init(&k->mutex, "keep");
        if (fetch(k, err) < 0) {
                ffs_keep_close(k);
                return -(int)err->code;
        }
        *out = k;
        return 0;
}

void ffs_keep_close(struct ffs_keep *k)
{
        ffs_keep_items_release(&k->items);
        (void)close(k->hold_fd);
        cas_mutex_release(&k->mutex);
        free(k);
}

void ffs_keep_each(struct ffs_keep *k, void (*fn)(void *arg, const struct ffs_keep_item *item),
                   void *arg)
{
        cas_mutex_lock(&k->mutex);
        for (size_t i = 0; i < k->items.count; i++)
                fn(arg, &k->items.list[i]);
        cas_mutex_unlock(&k->mutex);
}

static int duplicate(const int *from, size_t count, int *to, struct cas_err *err)
{
        for (size_t i = 0; i < count; i++) {
                to[i] = fcntl(from[i], F_DUPFD_CLOEXEC, 0);
                if (to[i] < 0) {
                        int error = errno;
                        close_all(to, i);
                        return cas_fail_sys(err, error, "dup");
                }
        }
        return 0;
}

int ffs_keep_fds(struct ffs_keep *k, const char *name, int *fds, size_t fd_count,
                 struct cas_err *err)
{
        cas_mutex_lock(&k->mutex);
        const struct ffs_keep_item *item = ffs_keep_items_find(&k->items, name);
        int rc = !item ? cas_fail(err, CAS_E_NOTFOUND, "nothing is kept as %s", name)
                 : item->fd_count != fd_count
                         ? cas_fail(err, CAS_E_INVALID, "%zu descriptors are kept as %s",
                                    item->fd_count, name)
                         : duplicate(item->fds, fd_count, fds, err);
        cas_mutex_unlock(&k->mutex);
        return rc;
}

static int make_item(const char *name, const char *text, const int *fds, size_t fd_count,
                     struct ffs_keep_item *out, struct cas_err *err)
{
        cas_assert(name_is_good(name, strlen(name)) && fd_count <= FFS_KEEP_FDS_MAX);
        if (strlen(text) > FFS_KEEP_TEXT_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "%zu bytes to keep of %s", strlen(text), name);
        *out = (struct ffs_keep_item){0};
        if (duplicate(fds, fd_count, out->fds, err) < 0)
                return -(int)err->code;
        out->fd_count = fd_count;
        out->text = cas_xstrdup(text);
        (void)snprintf(out->name, sizeof(out->name), "%s", name);
        return 0;
}

int ffs_keep_put(struct ffs_keep *k, const char *name, const char *text, const int *fds,
                 size_t fd_count, struct cas_err *err)
{
        struct ffs_keep_item item;
        if (make_item(name, text, fds, fd_count, &item, err) < 0)
                return -(int)err->code;
        cas_mutex_lock(&k->mutex);
        ffs_keep_items_put(&k->items, &item);
        struct cas_err why = CAS_ERR_INIT;
        int rc = give_locked(k, ffs_keep_items_find(&k->items, name), &why);
        if (rc < 0 && hold_is_gone(k)) {
                rc = revive_locked(k, err); /* which gives this one too */
        } else if (rc < 0) {
                ffs_keep_items_drop(&k->items, name);
                *err = why;
        }
        cas_mutex_unlock(&k->mutex);
        return rc;
}

/* One line without descriptors. */
static int tell_locked(struct ffs_keep *k, const char *line, struct cas_err *err)
{
        if (ensure_hold_locked(k, err) < 0 ||
            ffs_sock_send(k->hold_fd, line, strlen(line), NULL, 0, err) < 0)
                return -(int)err->code;
        return receive_ok_locked(k, err);
}

int ffs_keep_drop(struct ffs_keep *k, const char *name, struct cas_err *err)
{
        char line[FFS_KEEP_NAME_BYTES + 8];
        (void)snprintf(line, sizeof(line), "drop %s", name);
        cas_mutex_lock(&k->mutex);
        ffs_keep_items_drop(&k->items, name);
        int rc = tell_locked(k, line, err);
        cas_mutex_unlock(&k->mutex);
        return rc;
}

int ffs_keep_ready(struct ffs_keep *k, struct cas_err *err)
{
        cas_mutex_lock(&k->mutex);
        int rc = tell_locked(k, "ready", err);
        cas_mutex_unlock(&k->mutex);
        return rc;
}

int ffs_keep_leave(struct ffs_keep *k, struct cas_err *err)
{
        cas_mutex_lock(&k->mutex);
        k->left = true;
        int rc = tell_locked(k, "leave", err);
        cas_mutex_unlock(&k->mutex);
        return rc;
}

int ffs_keep_hold_fd(struct ffs_keep *k)
{
        cas_mutex_lock(&k->mutex);
        int fd = k->hold_fd;
        cas_mutex_unlock(&k->mutex);
        return fd;
}

int ffs_keep_revive(struct ffs_keep *k, struct cas_err *err)
{
        cas_mutex_lock(&k->mutex);
        int rc = ensure_hold_locked(k, err);
        cas_mutex_unlock(&k->mutex);
        return rc;
}
