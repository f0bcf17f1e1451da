/* SPDX-License-Identifier: Apache-2.0 */
/* A directory that is not empty is moved up to the top before its turn comes:
 * nothing is ever more than two levels down, so that neither paths nor open
 * files nor the stack grow with the depth, and each directory is read once. */
#include "cas/removetree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

static void close_dir(DIR **dir)
{
        if (*dir)
                (void)closedir(*dir);
}
#define cleanup_dir __attribute__((cleanup(close_dir)))

/* The next name, or NULL at the end or for an error, which is in errno. */
static const char *next_name(DIR *dir)
{
        const struct dirent *e;
        do {
                errno = 0;
                e = readdir(dir);
        } while (e && (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0));
        return e ? e->d_name : NULL;
}

/* 0 when it has gone; ENOTEMPTY for a directory with something in it. */
static int remove_one(int dirfd, const char *name)
{
        if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
                return 0;
        if (errno != EISDIR && errno != EPERM)
                return errno;
        if (unlinkat(dirfd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
                return 0;
        return errno == EEXIST ? ENOTEMPTY : errno;
}

/* Moves a directory to the top, under a name that is free there. */
static int move_up(int dirfd, const char *name, int top, uint64_t *moved)
{
        for (;;) {
                char to[32];
                (void)snprintf(to, sizeof(to), "removed-%llu", (unsigned long long)(*moved)++);
                if (renameat2(dirfd, name, top, to, RENAME_NOREPLACE) == 0)
                        return 0;
                if (errno != EEXIST)
                        return errno;
        }
}

static DIR *open_dir(int dirfd, const char *name)
{
        int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        if (!dir && fd >= 0)
                (void)close(fd);
        return dir;
}

/* Empties top/name, and removes it. */
static int remove_dir(int top, const char *name, uint64_t *moved)
{
        cleanup_dir DIR *dir = open_dir(top, name);
        if (!dir)
                return errno;
        const char *in;
        while ((in = next_name(dir))) {
                int rc = remove_one(dirfd(dir), in);
                if (rc == ENOTEMPTY)
                        rc = move_up(dirfd(dir), in, top, moved);
                if (rc)
                        return rc;
        }
        if (errno)
                return errno;
        return unlinkat(top, name, AT_REMOVEDIR) == 0 ? 0 : errno;
}

/* One pass over the top. *again when directories may have come up meanwhile. */
static int remove_pass(int top, uint64_t *moved, bool *again)
{
        cleanup_dir DIR *dir = open_dir(top, ".");
        if (!dir)
                return errno;
        *again = false;
        const char *name;
        while ((name = next_name(dir))) {
                int rc = remove_one(top, name);
                if (rc == ENOTEMPTY) {
                        *again = true;
                        rc = remove_dir(top, name, moved);
                }
                if (rc)
                        return rc;
        }
        return errno;
}

int cas_remove_tree(const char *path, struct cas_err *err)
{
        uint64_t moved = 0;
        int rc = remove_one(AT_FDCWD, path);
        if (rc == 0)
                return 0;
        if (rc != ENOTEMPTY)
                return cas_fail_sys(err, rc, "remove %s", path);
        cas_cleanup_fd int top = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (top < 0)
                return cas_fail_sys(err, errno, "remove %s", path);
        bool again;
        do
                rc = remove_pass(top, &moved, &again);
        while (rc == 0 && again);
        if (rc == 0 && unlinkat(AT_FDCWD, path, AT_REMOVEDIR) != 0 && errno != ENOENT)
                rc = errno;
        return rc ? cas_fail_sys(err, rc, "remove %s", path) : 0;
}
