/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/kernel_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "cas/map.h"
#include "tests/support/listing_text.h"
#include "tests/support/scratch.h"

#define CHILD_SECONDS 60

#define must(cond)                                                                                 \
        do {                                                                                       \
                if (!(cond)) {                                                                     \
                        (void)fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #cond,        \
                                      strerror(errno));                                            \
                        _exit(1);                                                                  \
                }                                                                                  \
        } while (0)

bool kernel_tree_possible(void)
{
        bool erofs = false;
        char line[128];
        FILE *f = fopen("/proc/filesystems", "re");
        while (f && fgets(line, sizeof(line), f))
                erofs = erofs || strstr(line, "\terofs\n");
        if (f)
                (void)fclose(f);
        if (geteuid() != 0 || !erofs) {
                (void)printf("skipped: mounting trees takes root and EROFS\n");
                return false;
        }
        return true;
}

/* ---- walking what is mounted ---- */

struct walk {
        struct cas_buf *out;
        struct cas_map *seen; /* st_ino -> 1 + offset in paths */
        struct cas_buf paths;
        bool overlay;
};

static void walk_xattrs(const struct walk *w, const char *path)
{
        static char names[1 << 16], value[1 << 16];
        char **texts = NULL;
        size_t count = 0;
        ssize_t len = llistxattr(path, names, sizeof(names));
        must(len >= 0);
        for (const char *name = names; name < names + len; name += strlen(name) + 1) {
                if (!w->overlay && strncmp(name, "trusted.overlay.", 16) == 0)
                        continue;
                ssize_t value_len = lgetxattr(path, name, value, sizeof(value));
                must(value_len >= 0);
                texts = cas_xrealloc(texts, (count + 1) * sizeof(texts[0]));
                texts[count++] = xattr_to_text(name, value, (size_t)value_len);
        }
        xattrs_append(texts, count, w->out);
}

/* Objects hold their id, so that reading one tells which it is. */
static void walk_content(const struct walk *w, const char *path, const struct stat *st)
{
        char text[64] = "";
        if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
                cas_buf_printf(w->out, " %u:%u", major(st->st_rdev), minor(st->st_rdev));
        } else if (S_ISLNK(st->st_mode)) {
                char target[4096];
                ssize_t len = readlink(path, target, sizeof(target));
                must(len >= 0);
                if (len <= 64)
                        cas_buf_printf(w->out, " \"%.*s\"", (int)len, target);
        } else if (S_ISREG(st->st_mode) && (w->overlay || st->st_size <= 64)) {
                cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
                must(fd >= 0);
                ssize_t len = read(fd, text, sizeof(text));
                must(len >= 0);
                if (st->st_size <= 64)
                        cas_buf_printf(w->out, " \"%.*s\"", (int)len, text);
                else
                        cas_buf_printf(w->out, " @%.16s", text);
        }
}

static char type_letter(mode_t mode)
{
        switch (mode & S_IFMT) {
        case S_IFDIR:
                return 'd';
        case S_IFREG:
                return 'f';
        case S_IFLNK:
                return 'l';
        case S_IFCHR:
                return 'c';
        case S_IFBLK:
                return 'b';
        case S_IFIFO:
                return 'p';
        default:
                return 's';
        }
}

static void walk_path(struct walk *w, const char *path);

static int by_name(const struct dirent **a, const struct dirent **b)
{
        return strcmp((*a)->d_name, (*b)->d_name);
}

static void walk_dir(struct walk *w, const char *path)
{
        struct dirent **names;
        int count = scandir(path, &names, NULL, by_name);
        must(count >= 0);
        for (int i = 0; i < count; i++) {
                const char *name = names[i]->d_name;
                if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
                        cas_cleanup_free char *child = cas_xasprintf("%s/%s", path, name);
                        walk_path(w, child);
                }
                free(names[i]);
        }
        free(names);
}

/* path starts with "." */
static void walk_path(struct walk *w, const char *path)
{
        struct stat st;
        must(lstat(path, &st) == 0);
        const char *shown = path + 1;
        if (st.st_nlink > 1 && !S_ISDIR(st.st_mode)) {
                uint64_t *seen = cas_map_put(w->seen, &st.st_ino, sizeof(st.st_ino), NULL);
                if (*seen > 0) {
                        cas_buf_printf(w->out, "%s =%s\n", shown,
                                       (char *)w->paths.data + *seen - 1);
                        return;
                }
                *seen = w->paths.len_bytes + 1;
                cas_buf_append(&w->paths, shown, strlen(shown) + 1);
        }
        cas_buf_printf(w->out, "%s %c %o %u %u", *shown ? shown : "/", type_letter(st.st_mode),
                       st.st_mode & 07777, st.st_uid, st.st_gid);
        if (w->overlay && S_ISDIR(st.st_mode))
                cas_buf_append_str(w->out, " -");
        else
                cas_buf_printf(w->out, " %u", (unsigned)st.st_nlink);
        cas_buf_printf(w->out, " %lld.%u %llu", (long long)st.st_mtim.tv_sec,
                       (unsigned)st.st_mtim.tv_nsec,
                       (unsigned long long)(S_ISDIR(st.st_mode) ? 0 : st.st_size));
        walk_content(w, path, &st);
        walk_xattrs(w, path);
        cas_buf_append_byte(w->out, '\n');
        if (S_ISDIR(st.st_mode))
                walk_dir(w, path);
}

/* ---- mounting, in the child ---- */

struct plan {
        const char *dir;
        size_t count;
        bool overlay;
};

static void mount_all(const struct plan *p)
{
        must(unshare(CLONE_NEWNS) == 0);
        must(mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
        cas_cleanup_buf struct cas_buf options = CAS_BUF_INIT;
        cas_buf_append_str(&options, "metacopy=on,redirect_dir=on,xino=on,lowerdir=");
        for (size_t i = 0; i < p->count; i++) {
                cas_cleanup_free char *image = cas_xasprintf("%s/image%zu", p->dir, i);
                cas_cleanup_free char *at = cas_xasprintf("%s/tree%zu", p->dir, i);
                must(mkdir(at, 0700) == 0);
                must(mount(image, at, "erofs", MS_RDONLY, "") == 0);
                cas_buf_printf(&options, "%s:", at);
        }
        cas_buf_printf(&options, ":%s/objects", p->dir);
        cas_cleanup_free char *root = cas_xasprintf("%s/root", p->dir);
        if (p->overlay) {
                must(mkdir(root, 0700) == 0);
                must(mount("overlay", root, "overlay", MS_RDONLY, cas_buf_str(&options)) == 0);
        }
        cas_cleanup_free char *top = cas_xasprintf("%s/%s", p->dir, p->overlay ? "root" : "tree0");
        must(chdir(top) == 0);
}

static void child_run(const struct plan *p)
{
        (void)alarm(CHILD_SECONDS); /* mounts go with the namespace */
        mount_all(p);
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        struct walk w = {.out = &out, .seen = cas_map_new(), .overlay = p->overlay};
        cas_buf_init(&w.paths);
        walk_path(&w, ".");
        must(chdir("/") == 0);
        cas_cleanup_free char *dump = cas_xasprintf("%s/dump", p->dir);
        FILE *f = fopen(dump, "we");
        must(f && fwrite(out.data, 1, out.len_bytes, f) == out.len_bytes && fclose(f) == 0);
        _exit(0);
}

/* ---- what is mounted ---- */

static bool write_file(const char *path, const void *data, size_t len)
{
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        return fd >= 0 && write(fd, data, len) == (ssize_t)len;
}

struct object_walk {
        const struct cas_tree *t;
        const char *dir;
};

static void write_objects(const struct object_walk *o, uint64_t nid);

static bool write_object_of(void *arg, const char *name CAS_UNUSED, size_t len CAS_UNUSED,
                            uint64_t nid, uint8_t type CAS_UNUSED, uint64_t next CAS_UNUSED)
{
        write_objects(arg, nid);
        return true;
}

static void write_objects(const struct object_walk *o, uint64_t nid)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_inode i;
        char hex[CAS_HASH_HEX_BYTES];
        if (cas_tree_inode(o->t, nid, &i, &err) < 0)
                return;
        if (S_ISDIR(i.mode)) {
                uint64_t cookie = 0;
                (void)!cas_tree_readdir(o->t, nid, &cookie, write_object_of, (void *)o, &err);
        }
        if (!i.has_object)
                return;
        (void)cas_hash_hex(&i.object, hex);
        cas_cleanup_free char *dir = cas_xasprintf("%s/objects/%.2s", o->dir, hex);
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", dir, hex + 2);
        (void)mkdir(dir, 0700);
        (void)write_file(path, hex, 64);
}

static char *read_dump(const char *dir)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/dump", dir);
        FILE *f = fopen(path, "re");
        struct cas_buf text = CAS_BUF_INIT;
        char piece[4096];
        size_t n;
        while (f && (n = fread(piece, 1, sizeof(piece), f)) > 0)
                cas_buf_append(&text, piece, n);
        if (f)
                (void)fclose(f);
        return (char *)text.data;
}

static char *run(const struct cas_buf *const *images, size_t count, bool overlay)
{
        char *dir = scratch_new();
        cas_cleanup_free char *objects = cas_xasprintf("%s/objects", dir);
        bool ready = mkdir(objects, 0700) == 0;
        for (size_t i = 0; i < count && ready; i++) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_tree struct cas_tree *t = NULL;
                cas_cleanup_free char *path = cas_xasprintf("%s/image%zu", dir, i);
                ready = write_file(path, images[i]->data, images[i]->len_bytes) &&
                        cas_tree_open_mem(images[i]->data, images[i]->len_bytes, &t, &err) == 0;
                if (ready)
                        write_objects(&(struct object_walk){t, dir}, cas_tree_root(t));
        }
        const struct plan p = {.dir = dir, .count = count, .overlay = overlay};
        pid_t pid = ready ? fork() : -1;
        if (pid == 0)
                child_run(&p);
        int status = 1;
        char *text = NULL;
        if (pid > 0 && waitpid(pid, &status, 0) == pid && status == 0)
                text = read_dump(dir);
        scratch_free(dir);
        return text;
}

char *kernel_tree_overlay(const struct cas_buf *const *images, size_t count)
{
        return run(images, count, true);
}

char *kernel_tree_erofs(const struct cas_buf *image)
{
        return run(&image, 1, false);
}
