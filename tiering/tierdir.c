/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/tierdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

#include "cas/io.h"
#include "tiering/blocks.h"

#define MARKER "tier"
#define MARKER_NEW "tier.new"
#define MARKER_BYTES_MAX 4096
#define PACKS "packs"
#define CACHE "cache"
#define PACK_SUFFIX ".pack"

/* ---- markers ---- */

static char *marker_text(const struct tier_dir_name *n)
{
        return cas_xasprintf("lamina tier\nstore = %s\nid = %u\nname = %s\n", n->store_id, n->id,
                             n->name);
}

/* The value of a line `key = …` of a marker; false: there is none. */
static bool marker_value(const char *text, const char *key, char *out, size_t out_bytes)
{
        cas_cleanup_free char *head = cas_xasprintf("\n%s = ", key);
        const char *at = strstr(text, head);
        if (!at)
                return false;
        at += strlen(head);
        (void)snprintf(out, out_bytes, "%.*s", (int)cas_min_u64(strcspn(at, "\n"), 64), at);
        return true;
}

/* A renamed tier is the same: store and id are what counts. */
static int marker_check(const char *where, const char *text, const struct tier_dir_name *n,
                        struct cas_err *err)
{
        char store[80], id[80], name[80] = "?", wanted[16];
        if (strncmp(text, "lamina tier\n", 12) != 0 ||
            !marker_value(text, "store", store, sizeof(store)) ||
            !marker_value(text, "id", id, sizeof(id)))
                return cas_fail(err, CAS_E_DENIED,
                                "%s/" MARKER " is no tier's marker: the directory is left alone",
                                where);
        (void)marker_value(text, "name", name, sizeof(name));
        (void)snprintf(wanted, sizeof(wanted), "%u", n->id);
        if (strcmp(store, n->store_id) != 0)
                return cas_fail(err, CAS_E_DENIED,
                                "%s is tier %s of another store (%s): it is left alone. Give this "
                                "store a directory of its own",
                                where, name, store);
        if (strcmp(id, wanted) != 0)
                return cas_fail(err, CAS_E_DENIED,
                                "%s is tier %s (number %s) of this store, not %s (number %s): it "
                                "is left alone. A tier that was removed is not taken back; empty "
                                "the directory when nothing in it is wanted",
                                where, name, id, n->name, wanted);
        return 0;
}

static int marker_read(int dirfd, struct cas_buf *out, struct cas_err *err)
{
        return cas_io_read_file(cas_io_posix(), dirfd, MARKER, MARKER_BYTES_MAX, out, err);
}

/* ---- making ---- */

/* What a fresh file system has, and what a making that broke off left, do not count. */
static int first_name(int dirfd, bool marked, char out[NAME_MAX + 1], struct cas_err *err)
{
        const char *const passed[] = {".",   "..",  "lost+found",         MARKER_NEW,
                                      PACKS, CACHE, marked ? MARKER : "."};
        int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        if (!dir) {
                int error = errno;
                if (fd >= 0)
                        (void)close(fd);
                return cas_fail_sys(err, error, "list the directory");
        }
        out[0] = '\0';
        for (struct dirent *e; !out[0] && (e = readdir(dir));) {
                bool pass = false;
                for (size_t i = 0; i < CAS_COUNT(passed); i++)
                        pass = pass || strcmp(e->d_name, passed[i]) == 0;
                if (!pass)
                        (void)snprintf(out, NAME_MAX + 1, "%s", e->d_name);
        }
        (void)closedir(dir);
        return 0;
}

/* The directories of a tier are there, and empty, or are not there. */
static int parts_check(int dirfd, const char *where, struct cas_err *err)
{
        static const char *const parts[] = {PACKS, CACHE};
        char name[NAME_MAX + 1];
        for (size_t i = 0; i < CAS_COUNT(parts); i++) {
                cas_cleanup_fd int fd =
                        openat(dirfd, parts[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (fd < 0 && errno == ENOENT)
                        continue;
                if (fd < 0)
                        return cas_fail_sys(err, errno, "%s/%s", where, parts[i]);
                if (first_name(fd, false, name, err) < 0)
                        return cas_err_wrap(err, "%s/%s", where, parts[i]);
                if (name[0])
                        return cas_fail(err, CAS_E_DENIED,
                                        "%s/%s is not empty (%s), and nothing says whose it is: "
                                        "choose an empty directory",
                                        where, parts[i], name);
        }
        return 0;
}

/* A marker of this store is no hindrance where no packs are: it may be of a tier that is on no list
 * any more, or of a copy of the store. */
static int new_check(int dirfd, const char *where, const struct tier_dir_name *n,
                     struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf marker = CAS_BUF_INIT;
        struct cas_err miss = CAS_ERR_INIT, other = CAS_ERR_INIT;
        char name[NAME_MAX + 1], store[80];
        int rc = marker_read(dirfd, &marker, &miss);
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = miss;
                return cas_err_wrap(err, "%s", where);
        }
        const char *text = cas_buf_str(&marker);
        bool ours = rc == 0 && marker_value(text, "store", store, sizeof(store)) &&
                    strcmp(store, n->store_id) == 0;
        if (rc == 0 && !ours)
                return marker_check(where, text, n, err);
        if (first_name(dirfd, ours, name, err) < 0)
                return cas_err_wrap(err, "%s", where);
        if (name[0])
                return cas_fail(err, CAS_E_DENIED,
                                "%s is not empty (%s): a tier needs a directory of its own; choose "
                                "an empty one",
                                where, name);
        rc = parts_check(dirfd, where, err);
        if (rc == -CAS_E_DENIED && ours && marker_check(where, text, n, &other) < 0)
                *err = other;
        else if (rc == -CAS_E_DENIED && ours)
                (void)cas_fail(err, CAS_E_DENIED,
                               "%s holds packs of a tier of this store, or of one that this is a "
                               "copy of: it is left alone",
                               where);
        return rc;
}

static int new_fill(int dirfd, const struct tier_dir_name *n, struct cas_err *err)
{
        const struct cas_io *io = cas_io_posix();
        cas_cleanup_free char *text = marker_text(n);
        if (fchmod(dirfd, 0700) != 0)
                return cas_fail_sys(err, errno, "set its mode");
        int rc = cas_io_mkdir(io, dirfd, PACKS, 0700, err);
        if (rc == 0)
                rc = cas_io_mkdir(io, dirfd, CACHE, 0700, err);
        if (rc == 0)
                rc = cas_io_sync_dir(io, dirfd, PACKS, err);
        return rc < 0 ? rc
                      : cas_io_replace_file(io, dirfd, ".", MARKER, text, strlen(text), 0600, err);
}

int tier_dir_make(const char *where, const struct tier_dir_name *n, char **path,
                  struct cas_err *err)
{
        if (where[0] != '/')
                return cas_fail(err, CAS_E_INVALID, "%s is not an absolute path", where);
        if (cas_io_mkdir(cas_io_posix(), AT_FDCWD, where, 0700, err) < 0)
                return -(int)err->code;
        cas_cleanup_free char *real = realpath(where, NULL);
        if (!real)
                return cas_fail_sys(err, errno, "%s", where);
        cas_cleanup_fd int fd = open(real, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "%s", real);
        int rc = new_check(fd, real, n, err);
        if (rc == 0 && new_fill(fd, n, err) < 0)
                rc = cas_err_wrap(err, "%s", real);
        if (rc < 0)
                return rc;
        *path = cas_steal(&real);
        return 0;
}

bool tier_dir_is_within(const char *inner, const char *outer)
{
        cas_cleanup_free char *in = realpath(inner, NULL), *out = realpath(outer, NULL);
        struct stat a, b;
        if (!in || !out)
                return false;
        size_t len = strlen(out);
        if (strncmp(in, out, len) == 0 && (in[len] == '\0' || in[len] == '/' || len == 1))
                return true;
        return stat(in, &a) == 0 && stat(out, &b) == 0 && a.st_dev == b.st_dev &&
               a.st_ino == b.st_ino; /* by a bind mount */
}

/* ---- opening ---- */

int tier_dir_open(const char *where, const struct tier_dir_name *n, struct tier_dir *out,
                  struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf marker = CAS_BUF_INIT;
        struct stat st;
        cas_cleanup_fd int fd = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) != 0)
                return cas_fail_sys(err, errno, "%s", where);
        int rc = marker_read(fd, &marker, err);
        if (rc == -CAS_E_NOTFOUND) {
                *err = (struct cas_err)CAS_ERR_INIT;
                return cas_fail(err, CAS_E_DENIED,
                                "%s has no marker of a tier: is its file system mounted? What lies "
                                "there is left alone",
                                where);
        }
        if (rc == 0)
                rc = marker_check(where, cas_buf_str(&marker), n, err);
        if (rc < 0)
                return rc;
        cas_cleanup_fd int packs = openat(fd, PACKS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cas_cleanup_fd int cache =
                packs < 0 ? -1 : openat(fd, CACHE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (packs < 0 || cache < 0)
                return cas_fail_sys(err, errno, "%s", where);
        *out = (struct tier_dir){.packs_fd = cas_steal_fd(&packs),
                                 .cache_fd = cas_steal_fd(&cache),
                                 .device = st.st_dev,
                                 .inode = st.st_ino};
        return 0;
}

int tier_dir_check(const char *where, const struct tier_dir *d, struct cas_err *err)
{
        struct stat st;
        cas_cleanup_free char *marker = cas_xasprintf("%s/" MARKER, where);
        if (stat(where, &st) != 0)
                return cas_fail_sys(err, errno, "%s", where);
        if (st.st_dev != d->device || st.st_ino != d->inode)
                return cas_fail(err, CAS_E_NOTFOUND, "%s is another directory now", where);
        return access(marker, R_OK) == 0 ? 0 : cas_fail_sys(err, errno, "%s", marker);
}

static bool has_suffix(const char *name, const char *suffix)
{
        size_t len = strlen(name), tail = strlen(suffix);
        return len > tail && strcmp(name + len - tail, suffix) == 0;
}

/* Calls fn with each name that ends so. */
static int names_each(int dirfd, const char *suffix,
                      int (*fn)(void *arg, int dirfd, const char *name, struct cas_err *err),
                      void *arg, struct cas_err *err)
{
        int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        if (!dir) {
                int error = errno;
                if (fd >= 0)
                        (void)close(fd);
                return cas_fail_sys(err, error, "list the directory");
        }
        int rc = 0;
        for (struct dirent *e; rc == 0 && (e = readdir(dir));) {
                if (has_suffix(e->d_name, suffix))
                        rc = fn(arg, dirfd, e->d_name, err);
        }
        (void)closedir(dir);
        return rc;
}

static int add_bytes(void *arg, int dirfd, const char *name, struct cas_err *err)
{
        struct stat st;
        if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
                return errno == ENOENT ? 0 : cas_fail_sys(err, errno, "%s", name);
        if (S_ISREG(st.st_mode))
                *(uint64_t *)arg += (uint64_t)st.st_size;
        return 0;
}

int tier_dir_pack_bytes(int packs_fd, uint64_t *out, struct cas_err *err)
{
        *out = 0;
        return names_each(packs_fd, PACK_SUFFIX, add_bytes, out, err);
}

static int tree_add(int dirfd, const char *path, unsigned depth, uint64_t *bytes,
                    struct cas_err *err)
{
        int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        if (!dir) {
                int error = errno;
                if (fd >= 0)
                        (void)close(fd);
                return error == ENOENT ? 0 : cas_fail_sys(err, error, "%s", path);
        }
        int rc = 0;
        for (struct dirent *e; rc == 0 && (e = readdir(dir));) {
                struct stat st;
                if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
                    fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
                        continue;
                if (S_ISREG(st.st_mode))
                        *bytes += (uint64_t)st.st_size;
                else if (S_ISDIR(st.st_mode) && depth > 1)
                        rc = tree_add(fd, e->d_name, depth - 1, bytes, err);
        }
        (void)closedir(dir);
        return rc;
}

int tier_dir_tree_bytes(int dirfd, const char *path, unsigned depth, uint64_t *out,
                        struct cas_err *err)
{
        *out = 0;
        return tree_add(dirfd, path, depth, out, err);
}

void tier_dir_close(struct tier_dir *d)
{
        cas_cleanup_fd int packs CAS_UNUSED = cas_steal_fd(&d->packs_fd);
        cas_cleanup_fd int cache CAS_UNUSED = cas_steal_fd(&d->cache_fd);
}

/* ---- unmaking ---- */

static int pack_found(void *arg, int dirfd CAS_UNUSED, const char *name, struct cas_err *err)
{
        return cas_fail(err, CAS_E_BUSY, "%s/" PACKS "/%s is there still", (const char *)arg, name);
}

int tier_dir_unmake(const char *where, struct tier_dir *d, struct cas_err *err)
{
        cas_cleanup_fd int fd = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "%s", where);
        int rc = names_each(d->packs_fd, PACK_SUFFIX, pack_found, (void *)(uintptr_t)where, err);
        if (rc == 0)
                rc = tier_blocks_remove(d->cache_fd, err);
        if (rc == 0)
                rc = cas_io_unlink(cas_io_posix(), fd, MARKER, err);
        if (rc == 0)
                rc = cas_io_sync_dir(cas_io_posix(), fd, ".", err);
        if (rc < 0)
                return rc;
        /* What else somebody put there stays. */
        (void)unlinkat(fd, PACKS, AT_REMOVEDIR);
        (void)unlinkat(fd, CACHE, AT_REMOVEDIR);
        return 0;
}
