/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/treeset_int.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <time.h>

#include "cas/log.h"
#include "cas/mutex.h"
#include "fusefs/ownerwait_int.h"

#define SINGLE_THREADS 2
#define TREE_FDS (1 + FFS_TREEFS_STATE_FDS)
_Static_assert(TREE_FDS <= FFS_KEEP_FDS_MAX, "a connection is one item");
#define NAME_BYTES "0123456789abcdefghijklmnopqrstuvwxyz-"
/* By then no request of an ended connection waits for the owner. */
#define FREE_AFTER_MS (FFS_OWNER_WAIT_MS + 10000)
#define READ_AHEAD_KIB 1024

/* Of the kernel's protocol (Linux 6.9), newer than some systems' header. */
struct ffs_backing_map {
        int32_t fd;
        uint32_t flags;
        uint64_t padding;
};
#define FFS_IOC_BACKING_OPEN _IOW(229, 1, struct ffs_backing_map)
#define FFS_IOC_BACKING_CLOSE _IOW(229, 2, uint32_t)

static const char *const pages_names[] = {
        [FFS_PAGES_PASSTHROUGH] = "passthrough",
        [FFS_PAGES_INODE] = "inode",
};

struct tree_volume {
        char *text; /* owned */
        char id[sizeof(((struct ffs_volume_spec *)0)->id)];
        struct tree_volume *next;
};

struct tree {
        struct ffs_tree_spec spec;
        struct ffs_treefs *fs;
        int fds[TREE_FDS];           /* /dev/fuse, and the state */
        struct tree_volume *volumes; /* guarded by the set's mutex */
        unsigned users;              /* threads that work with it; by the mutex */
        uint64_t ended_ms;           /* 0: it serves; by the mutex */
        struct tree *next;
};

struct ffs_treeset {
        struct ffs_treeset_config config;
        int ended_fd;           /* epoll of what each tree signals its end by */
        struct cas_mutex mutex; /* guards the list; taken before keep's */
        struct tree *trees;
        size_t serving, ended;
};

static uint64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void close_fd(int fd)
{
        if (fd >= 0)
                (void)close(fd);
}

/* ---- texts ---- */

void ffs_tree_spec_format(const struct ffs_tree_spec *spec, char *out)
{
        (void)snprintf(out, FFS_TREE_TEXT_BYTES, "%s %s %s %u:%u", spec->name,
                       pages_names[spec->pages], spec->shared ? "shared" : "single",
                       spec->dev_major, spec->dev_minor);
}

int ffs_tree_spec_parse(const char *text, struct ffs_tree_spec *out, struct cas_err *err)
{
        struct ffs_tree_spec spec = {0};
        char pages[16], kind[8];
        int end = 0;
        _Static_assert(FFS_TREE_NAME_BYTES == 40, "the width below");
        if (sscanf(text, "%39[" NAME_BYTES "] %15[a-z] %7[a-z] %u:%u%n", spec.name, pages, kind,
                   &spec.dev_major, &spec.dev_minor, &end) != 5 ||
            text[end] != '\0')
                return cas_fail(err, CAS_E_INVALID, "not a connection: \"%.100s\"", text);
        bool known = false;
        for (size_t i = 0; i < CAS_COUNT(pages_names); i++) {
                if (strcmp(pages, pages_names[i]) == 0) {
                        spec.pages = (enum ffs_pages)i;
                        known = true;
                }
        }
        spec.shared = strcmp(kind, "shared") == 0;
        if (!known || (!spec.shared && strcmp(kind, "single") != 0))
                return cas_fail(err, CAS_E_INVALID, "not a connection: \"%.100s\"", text);
        *out = spec;
        return 0;
}

static void connection_item(const char *tree, char out[FFS_KEEP_NAME_BYTES])
{
        (void)snprintf(out, FFS_KEEP_NAME_BYTES, "connection/%s", tree);
}

static void volume_item(const char *tree, const char *id, char out[FFS_KEEP_NAME_BYTES])
{
        (void)snprintf(out, FFS_KEEP_NAME_BYTES, "volume/%s/%s", tree, id);
}

/* ---- trees ---- */

static void free_tree(struct tree *t)
{
        if (t->fs)
                ffs_treefs_free(t->fs);
        while (t->volumes) {
                struct tree_volume *v = t->volumes;
                t->volumes = v->next;
                free(v->text);
                free(v);
        }
        for (size_t i = 0; i < TREE_FDS; i++)
                close_fd(t->fds[i]);
        free(t);
}

/* fds: /dev/fuse and the state; taken over. */
static int new_tree(struct ffs_treeset *s, const struct ffs_tree_spec *spec,
                    const int fds[TREE_FDS], struct tree **out, struct cas_err *err)
{
        struct tree *t = cas_xcalloc(1, sizeof(*t));
        t->spec = *spec;
        memcpy(t->fds, fds, sizeof(t->fds));
        bool passes = spec->pages == FFS_PAGES_PASSTHROUGH;
        struct ffs_treefs_config config = {.fuse_fd = fds[0],
                                           .pages = spec->pages,
                                           .shared = spec->shared,
                                           .reader = s->config.reader,
                                           .opener = passes ? s->config.opener : NULL,
                                           .threads = spec->shared ? s->config.threads
                                                                   : SINGLE_THREADS,
                                           .wait = s->config.wait};
        memcpy(config.state_fds, fds + 1, sizeof(config.state_fds));
        int rc = passes && !s->config.opener
                         ? cas_fail(err, CAS_E_DENIED,
                                    "without the object file system there is no passthrough")
                         : ffs_treefs_new(&config, &t->fs, err);
        if (rc < 0)
                free_tree(t);
        else
                *out = t;
        return rc;
}

static void remember_volume(struct tree *t, const struct ffs_volume_spec *spec, char *text)
{
        struct tree_volume *v = cas_xcalloc(1, sizeof(*v));
        (void)snprintf(v->id, sizeof(v->id), "%s", spec->id);
        v->text = text;
        v->next = t->volumes;
        t->volumes = v;
}

static struct tree_volume **find_volume(struct tree *t, const char *id)
{
        struct tree_volume **at = &t->volumes;
        while (*at && strcmp((*at)->id, id) != 0)
                at = &(*at)->next;
        return at;
}

/* Whether files of the upper may be opened in the kernel's stead: not those of a stacked file
 * system. One without a name stands for all. */
static int check_upper(const struct tree *t, int dir_fd, struct cas_err *err)
{
        cas_cleanup_fd int file = openat(dir_fd, "upper", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        struct ffs_backing_map map = {.fd = file};
        if (file < 0)
                return cas_fail_sys(err, errno, "upper directory");
        int id = ioctl(t->fds[0], FFS_IOC_BACKING_OPEN, &map);
        if (id < 0)
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "files of the upper directory cannot be passed through: %s",
                                strerrordesc_np(errno));
        uint32_t opened = (uint32_t)id;
        (void)ioctl(t->fds[0], FFS_IOC_BACKING_CLOSE, &opened);
        return 0;
}

/* The kernel's own read-ahead of FUSE is 128 KiB at most. Only root may, and knows the device. */
static void set_read_ahead(const struct ffs_tree_spec *spec)
{
        char path[64], text[16];
        if (geteuid() != 0 || spec->dev_minor == 0)
                return;
        (void)snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", spec->dev_major,
                       spec->dev_minor);
        int n = snprintf(text, sizeof(text), "%d", READ_AHEAD_KIB);
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, text, (size_t)n) != n)
                cas_log(CAS_LOG_WARN, "fs.readahead", "path=%s errno=%d", path, errno);
}

/* Its threads run: from now on it is given up by its end alone. */
static int start_tree(struct ffs_treeset *s, struct tree *t, struct cas_err *err)
{
        if (ffs_treefs_start(t->fs, err) < 0)
                return -(int)err->code;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = t};
        cas_mutex_lock(&s->mutex);
        t->next = s->trees;
        s->trees = t;
        s->serving++;
        cas_mutex_unlock(&s->mutex);
        if (epoll_ctl(s->ended_fd, EPOLL_CTL_ADD, ffs_treefs_ended_fd(t->fs), &event) < 0)
                cas_log(CAS_LOG_ERROR, "fs.watch", "connection=%s errno=%d", t->spec.name, errno);
        set_read_ahead(&t->spec);
        cas_log(CAS_LOG_INFO, "fs.connection", "name=%s pages=%s device=%u:%u", t->spec.name,
                pages_names[t->spec.pages], t->spec.dev_major, t->spec.dev_minor);
        return 0;
}

/* The tree of a name, counted: release_tree. */
static struct tree *get_tree(struct ffs_treeset *s, const char *name)
{
        cas_mutex_lock(&s->mutex);
        struct tree *t = s->trees;
        while (t && (t->ended_ms || strcmp(t->spec.name, name) != 0))
                t = t->next;
        if (t)
                t->users++;
        cas_mutex_unlock(&s->mutex);
        return t;
}

static void release_tree(struct ffs_treeset *s, struct tree *t)
{
        cas_mutex_lock(&s->mutex);
        t->users--;
        cas_mutex_unlock(&s->mutex);
}

/* ---- what a predecessor served ---- */

struct kept {
        char name[FFS_KEEP_NAME_BYTES];
        char *text; /* owned */
        size_t fd_count;
        struct kept *next;
};

struct kept_lists {
        struct kept *connections, *volumes;
};

static void note_kept(void *arg, const struct ffs_keep_item *item)
{
        struct kept_lists *lists = arg;
        bool is_connection = strncmp(item->name, "connection/", 11) == 0;
        if (!is_connection && strncmp(item->name, "volume/", 7) != 0)
                return;
        struct kept *k = cas_xcalloc(1, sizeof(*k));
        memcpy(k->name, item->name, sizeof(k->name));
        k->text = cas_xstrdup(item->text);
        k->fd_count = item->fd_count;
        struct kept **list = is_connection ? &lists->connections : &lists->volumes;
        k->next = *list;
        *list = k;
}

static void free_kept(struct kept *list)
{
        while (list) {
                struct kept *k = list;
                list = k->next;
                free(k->text);
                free(k);
        }
}

static void drop_item(struct ffs_treeset *s, const char *name)
{
        struct cas_err err = CAS_ERR_INIT;
        if (ffs_keep_drop(s->config.keep, name, &err) < 0)
                cas_log(CAS_LOG_WARN, "fs.drop", "item=%s why=\"%s\"", name, err.msg);
}

/* The text is the number, a line feed, and the volume's own text. */
static int restore_volume(struct ffs_treeset *s, struct tree *t, const struct kept *k,
                          struct cas_err *err)
{
        cas_cleanup_free struct ffs_volume_spec *spec = cas_xmalloc(sizeof(*spec));
        char *end;
        unsigned long number = strtoul(k->text, &end, 10);
        cas_cleanup_fd int dir_fd = -1;
        if (*end != '\n' || number == 0 || number >= FFS_NODE_VOLUMES_MAX)
                return cas_fail(err, CAS_E_INVALID, "%s has no number", k->name);
        if (ffs_volume_parse(end + 1, strlen(end + 1), spec, err) < 0 ||
            (spec->rw && ffs_keep_fds(s->config.keep, k->name, &dir_fd, 1, err) < 0))
                return -(int)err->code;
        uint32_t same = (uint32_t)number;
        if (ffs_treefs_add(t->fs, spec, cas_steal_fd(&dir_fd), &same, err) < 0)
                return -(int)err->code;
        remember_volume(t, spec, cas_xstrdup(end + 1));
        return 0;
}

static int restore_volumes(struct ffs_treeset *s, struct tree *t, const struct kept *volumes,
                           struct cas_err *err)
{
        char prefix[FFS_KEEP_NAME_BYTES];
        volume_item(t->spec.name, "", prefix);
        for (const struct kept *k = volumes; k; k = k->next) {
                struct cas_err why = CAS_ERR_INIT;
                if (strncmp(k->name, prefix, strlen(prefix)) != 0 ||
                    restore_volume(s, t, k, &why) == 0)
                        continue;
                if (why.code == CAS_E_UNSUPPORTED) {
                        *err = why;
                        return -(int)err->code;
                }
                cas_log(CAS_LOG_ERROR, "fs.volume", "item=%s why=\"%s\"", k->name, why.msg);
                drop_item(s, k->name);
        }
        return 0;
}

static int restore_tree(struct ffs_treeset *s, const struct kept *k, const struct kept *volumes,
                        struct cas_err *err)
{
        struct ffs_tree_spec spec;
        struct tree *t;
        int fds[TREE_FDS];
        if (ffs_tree_spec_parse(k->text, &spec, err) < 0 ||
            ffs_keep_fds(s->config.keep, k->name, fds, TREE_FDS, err) < 0 ||
            new_tree(s, &spec, fds, &t, err) < 0)
                return -(int)err->code;
        if (restore_volumes(s, t, volumes, err) < 0) {
                free_tree(t);
                return -(int)err->code;
        }
        return start_tree(s, t, err);
}

/* Volumes without their connection: somebody was killed while both came or went. */
static void drop_orphans(struct ffs_treeset *s, const struct kept *volumes)
{
        for (const struct kept *k = volumes; k; k = k->next) {
                char name[FFS_KEEP_NAME_BYTES];
                const char *begin = k->name + strlen("volume/");
                size_t len = strcspn(begin, "/");
                memcpy(name, begin, len);
                name[len] = '\0';
                struct tree *t = get_tree(s, name);
                if (t)
                        release_tree(s, t);
                else
                        drop_item(s, k->name);
        }
}

static int restore(struct ffs_treeset *s, const struct kept_lists *lists, struct cas_err *err)
{
        for (const struct kept *k = lists->connections; k; k = k->next) {
                struct cas_err why = CAS_ERR_INIT;
                if (restore_tree(s, k, lists->volumes, &why) == 0)
                        continue;
                if (why.code == CAS_E_UNSUPPORTED) {
                        *err = why;
                        return cas_err_wrap(err, "%s", k->name);
                }
                cas_log(CAS_LOG_ERROR, "fs.connection", "item=%s why=\"%s\"", k->name, why.msg);
                drop_item(s, k->name);
        }
        drop_orphans(s, lists->volumes);
        return 0;
}

int ffs_treeset_open(const struct ffs_treeset_config *config, struct ffs_treeset **out,
                     struct cas_err *err)
{
        struct ffs_treeset *s = cas_xcalloc(1, sizeof(*s)); /* for the life of the process */
        s->config = *config;
        cas_mutex_init(&s->mutex, "treeset");
        s->ended_fd = epoll_create1(EPOLL_CLOEXEC);
        if (s->ended_fd < 0)
                return cas_fail_sys(err, errno, "epoll");
        struct kept_lists lists = {0};
        ffs_keep_each(config->keep, note_kept, &lists);
        int rc = restore(s, &lists, err);
        free_kept(lists.connections);
        free_kept(lists.volumes);
        if (rc == 0)
                *out = s;
        return rc;
}

/* ---- additions ---- */

/* Adds the volume to the tree and gives it to hold. dir_fd is taken over. */
static int add_volume(struct ffs_treeset *s, struct tree *t, const struct ffs_volume_spec *spec,
                      int dir_fd, struct cas_err *err)
{
        cas_cleanup_fd int dir = dir_fd;
        cas_cleanup_free char *text = ffs_volume_format(spec);
        if (!text)
                return cas_fail(err, CAS_E_INVALID, "the path of a tree is not UTF-8");
        char item[FFS_KEEP_NAME_BYTES];
        uint32_t number = 0;
        /* hold gets one of its own: the tree may close this one at any time. */
        cas_cleanup_fd int kept = dir < 0 ? -1 : fcntl(dir, F_DUPFD_CLOEXEC, 0);
        if (dir >= 0 && kept < 0)
                return cas_fail_sys(err, errno, "dup");
        if (ffs_treefs_add(t->fs, spec, cas_steal_fd(&dir), &number, err) < 0)
                return -(int)err->code;
        cas_cleanup_free char *numbered = cas_xasprintf("%u\n%s", number, text);
        volume_item(t->spec.name, spec->id, item);
        if (ffs_keep_put(s->config.keep, item, numbered, &kept, kept >= 0, err) < 0) {
                struct cas_err ignored = CAS_ERR_INIT;
                (void)!ffs_treefs_remove(t->fs, spec->id, &ignored);
                return -(int)err->code;
        }
        cas_mutex_lock(&s->mutex);
        remember_volume(t, spec, cas_steal(&text));
        bool ended = t->ended_ms != 0; /* and its volumes were dropped, but for this one */
        cas_mutex_unlock(&s->mutex);
        if (!ended)
                return 0;
        drop_item(s, item);
        return cas_fail(err, CAS_E_BUSY, "connection %s has ended", t->spec.name);
}

static int keep_tree(struct ffs_treeset *s, const struct tree *t, struct cas_err *err)
{
        char item[FFS_KEEP_NAME_BYTES], text[FFS_TREE_TEXT_BYTES];
        connection_item(t->spec.name, item);
        ffs_tree_spec_format(&t->spec, text);
        return ffs_keep_put(s->config.keep, item, text, t->fds, TREE_FDS, err);
}

static void give_up(struct ffs_treeset *s, const char *tree, const char *volume)
{
        char item[FFS_KEEP_NAME_BYTES];
        connection_item(tree, item);
        drop_item(s, item);
        if (!volume)
                return;
        volume_item(tree, volume, item);
        drop_item(s, item);
}

/* The volume is with hold before the connection is: one without the other would never serve. */
static int bring_up(struct ffs_treeset *s, struct tree *t, const struct ffs_volume_spec *volume,
                    int dir_fd, struct cas_err *err)
{
        if ((volume && add_volume(s, t, volume, dir_fd, err) < 0) || keep_tree(s, t, err) < 0) {
                give_up(s, t->spec.name, volume ? volume->id : NULL);
                free_tree(t);
                return -(int)err->code;
        }
        if (start_tree(s, t, err) < 0) {
                give_up(s, t->spec.name, volume ? volume->id : NULL);
                return -(int)err->code; /* threads of it may run: it is not freed */
        }
        return 0;
}

int ffs_treeset_add(struct ffs_treeset *s, const struct ffs_tree_spec *spec, int fuse_fd,
                    const struct ffs_volume_spec *volume, int dir_fd, struct cas_err *err)
{
        cas_cleanup_fd int fuse = fuse_fd;
        cas_cleanup_fd int dir = dir_fd;
        int fds[TREE_FDS];
        struct tree *t = get_tree(s, spec->name);
        if (t) {
                release_tree(s, t);
                return cas_fail(err, CAS_E_EXISTS, "there is a connection %s", spec->name);
        }
        if (spec->shared != !volume || (volume && volume->rw != (dir >= 0)))
                return cas_fail(err, CAS_E_INVALID, "connection %s: its volume", spec->name);
        if (ffs_treefs_state_create(fds + 1, err) < 0)
                return -(int)err->code;
        fds[0] = cas_steal_fd(&fuse);
        if (new_tree(s, spec, fds, &t, err) < 0)
                return -(int)err->code;
        return bring_up(s, t, volume, cas_steal_fd(&dir), err);
}

static int volume_add_to(struct ffs_treeset *s, struct tree *t, const struct ffs_volume_spec *spec,
                         int *dir_fd, struct cas_err *err)
{
        cas_cleanup_free char *text = ffs_volume_format(spec);
        cas_mutex_lock(&s->mutex);
        const struct tree_volume *there = *find_volume(t, spec->id);
        bool equal = there && text && strcmp(there->text, text) == 0;
        cas_mutex_unlock(&s->mutex);
        if (there)
                return equal ? 0
                             : cas_fail(err, CAS_E_EXISTS, "there is another volume %s", spec->id);
        if (!t->spec.shared || spec->rw != (*dir_fd >= 0))
                return cas_fail(err, CAS_E_INVALID, "volume %s", spec->id);
        if (spec->rw && t->spec.pages == FFS_PAGES_PASSTHROUGH && check_upper(t, *dir_fd, err) < 0)
                return -(int)err->code;
        return add_volume(s, t, spec, cas_steal_fd(dir_fd), err);
}

int ffs_treeset_volume_add(struct ffs_treeset *s, const char *name,
                           const struct ffs_volume_spec *volume, int dir_fd,
                           struct ffs_tree_spec *tree, struct cas_err *err)
{
        cas_cleanup_fd int dir = dir_fd;
        struct tree *t = get_tree(s, name);
        if (!t)
                return cas_fail(err, CAS_E_BUSY, "there is no connection %s", name);
        int rc = volume_add_to(s, t, volume, &dir, err);
        *tree = t->spec;
        release_tree(s, t);
        return rc;
}

int ffs_treeset_volume_remove(struct ffs_treeset *s, const char *name, const char *id,
                              struct cas_err *err)
{
        struct tree *t = get_tree(s, name);
        if (!t)
                return 0;
        cas_mutex_lock(&s->mutex);
        struct tree_volume **at = find_volume(t, id);
        struct tree_volume *v = *at;
        if (v)
                *at = v->next;
        cas_mutex_unlock(&s->mutex);
        int rc = 0;
        if (v) {
                char item[FFS_KEEP_NAME_BYTES];
                volume_item(name, id, item);
                rc = ffs_treefs_remove(t->fs, id, err);
                drop_item(s, item);
                free(v->text);
                free(v);
        }
        release_tree(s, t);
        return rc;
}

/* ---- ends ---- */

int ffs_treeset_ended_fd(const struct ffs_treeset *s)
{
        return s->ended_fd;
}

static void end_tree(struct ffs_treeset *s, struct tree *t)
{
        char item[FFS_KEEP_NAME_BYTES];
        (void)epoll_ctl(s->ended_fd, EPOLL_CTL_DEL, ffs_treefs_ended_fd(t->fs), NULL);
        cas_mutex_lock(&s->mutex);
        t->ended_ms = now_ms();
        s->serving--;
        s->ended++;
        connection_item(t->spec.name, item);
        drop_item(s, item);
        for (const struct tree_volume *v = t->volumes; v; v = v->next) {
                volume_item(t->spec.name, v->id, item);
                drop_item(s, item);
        }
        cas_mutex_unlock(&s->mutex);
        ffs_treefs_ended(t->fs);
        cas_log(CAS_LOG_INFO, "fs.connection_ended", "name=%s", t->spec.name);
}

/* Nobody works with it: its threads have ended first, and then nobody at all waits for the owner,
 * or nobody can any more. */
static bool is_over(const struct ffs_treeset *s, const struct tree *t)
{
        return t->ended_ms && !t->users && ffs_treefs_is_still(t->fs) &&
               (ffs_ownerwait_count(s->config.wait) == 0 ||
                now_ms() - t->ended_ms >= FREE_AFTER_MS);
}

/* The first that can be freed, taken off the list. */
static struct tree *take_old(struct ffs_treeset *s)
{
        cas_mutex_lock(&s->mutex);
        struct tree **at = &s->trees;
        while (*at && !is_over(s, *at))
                at = &(*at)->next;
        struct tree *t = *at;
        if (t) {
                *at = t->next;
                s->ended--;
        }
        cas_mutex_unlock(&s->mutex);
        return t;
}

bool ffs_treeset_reap(struct ffs_treeset *s)
{
        struct epoll_event event;
        while (epoll_wait(s->ended_fd, &event, 1, 0) > 0)
                end_tree(s, event.data.ptr);
        for (struct tree *t; (t = take_old(s));)
                free_tree(t);
        cas_mutex_lock(&s->mutex);
        bool more = s->ended > 0;
        cas_mutex_unlock(&s->mutex);
        return more;
}

size_t ffs_treeset_count(struct ffs_treeset *s)
{
        cas_mutex_lock(&s->mutex);
        size_t n = s->serving;
        cas_mutex_unlock(&s->mutex);
        return n;
}

static json_t *tree_json(const struct tree *t)
{
        struct ffs_treefs_counts counts;
        ffs_treefs_count(t->fs, &counts);
        cas_cleanup_free char *device =
                cas_xasprintf("%u:%u", t->spec.dev_major, t->spec.dev_minor);
        json_t *ids = json_array();
        for (const struct tree_volume *v = t->volumes; v; v = v->next)
                (void)json_array_append_new(ids, json_string(v->id));
        return json_pack("{s:s, s:s, s:b, s:s, s:o, s:I, s:I, s:I, s:I, s:I}", "name", t->spec.name,
                         "pages", pages_names[t->spec.pages], "shared", (int)t->spec.shared,
                         "device", device, "volumes", ids, "openVolumes",
                         (json_int_t)counts.volumes, "sharedNodes", (json_int_t)counts.shared_nodes,
                         "writableNodes", (json_int_t)counts.rw_nodes, "backings",
                         (json_int_t)counts.backings, "openFiles", (json_int_t)counts.open_files);
}

char *ffs_treeset_status(struct ffs_treeset *s)
{
        json_t *list = json_array();
        cas_mutex_lock(&s->mutex);
        for (const struct tree *t = s->trees; t; t = t->next) {
                if (!t->ended_ms)
                        (void)json_array_append_new(list, tree_json(t));
        }
        cas_mutex_unlock(&s->mutex);
        char *text = json_dumps(list, JSON_COMPACT);
        json_decref(list);
        cas_assert(text != NULL);
        return text;
}
