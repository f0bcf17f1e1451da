/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/dirwalk_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

static void close_dir(DIR **dir)
{
        if (*dir)
                (void)closedir(*dir);
}

/* Takes fd. */
static int each_entry(int fd, const char *path, cas_dir_fn fn, void *arg, struct cas_err *err)
{
        __attribute__((cleanup(close_dir))) DIR *dir = fdopendir(fd);
        cas_assert(dir != NULL);
        for (;;) {
                errno = 0;
                const struct dirent *e = readdir(dir);
                if (!e && errno != 0)
                        return cas_fail_sys(err, errno, "read %s", path);
                if (!e)
                        return 0;
                if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
                        continue;
                char full[PATH_MAX];
                if (strcmp(path, ".") == 0)
                        (void)snprintf(full, sizeof(full), "%s", e->d_name);
                else
                        (void)snprintf(full, sizeof(full), "%s/%s", path, e->d_name);
                int rc = fn(arg, full, e->d_name, err);
                if (rc < 0)
                        return rc;
        }
}

int cas_dir_each(struct cas_store *s, const char *path, cas_dir_fn fn, void *arg,
                 struct cas_err *err)
{
        int fd = openat(s->dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open %s/%s", s->path, path);
        return each_entry(fd, path, fn, arg, err);
}

int cas_dir_each_at(int dirfd, cas_dir_fn fn, void *arg, struct cas_err *err)
{
        int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open a directory");
        return each_entry(fd, ".", fn, arg, err);
}

struct blob_walk {
        struct cas_store *s;
        int (*fn)(void *arg, const char *path, const struct cas_digest *digest,
                  struct cas_err *err);
        cas_dir_fn stray;
        void *arg;
        enum cas_digest_alg alg;
};

static int walk_blob(void *arg, const char *path, const char *name, struct cas_err *err)
{
        const struct blob_walk *walk = arg;
        cas_cleanup_free char *text = cas_xasprintf("%s:%s", cas_digest_alg_name(walk->alg), name);
        struct cas_digest digest;
        struct cas_err malformed = CAS_ERR_INIT;
        if (cas_digest_parse(text, &digest, &malformed) == 0) {
                char expected[CAS_BLOB_PATH_BYTES];
                cas_blob_path(&digest, expected);
                if (strcmp(expected, path) == 0)
                        return walk->fn(walk->arg, path, &digest, err);
        }
        return walk->stray ? walk->stray(walk->arg, path, name, err) : 0;
}

static int walk_fan(void *arg, const char *path, const char *name, struct cas_err *err)
{
        const struct blob_walk *walk = arg;
        struct stat st;
        if (walk->s->io->ops->fstatat(walk->s->io->ctx, walk->s->dirfd, path, &st,
                                      AT_SYMLINK_NOFOLLOW) == 0 &&
            !S_ISDIR(st.st_mode))
                return walk->stray ? walk->stray(walk->arg, path, name, err) : 0;
        return cas_dir_each(walk->s, path, walk_blob, arg, err);
}

int cas_blob_files_each(struct cas_store *s,
                        int (*fn)(void *arg, const char *path, const struct cas_digest *digest,
                                  struct cas_err *err),
                        cas_dir_fn stray, void *arg, struct cas_err *err)
{
        static const enum cas_digest_alg algs[] = {CAS_DIGEST_SHA256, CAS_DIGEST_SHA512};
        for (size_t i = 0; i < CAS_COUNT(algs); i++) {
                struct blob_walk walk = {
                        .s = s, .fn = fn, .stray = stray, .arg = arg, .alg = algs[i]};
                char path[CAS_BLOB_PATH_BYTES];
                struct cas_err miss = CAS_ERR_INIT;
                (void)snprintf(path, sizeof(path), CAS_DIR_BLOBS "/%s",
                               cas_digest_alg_name(algs[i]));
                int rc = cas_dir_each(s, path, walk_fan, &walk, &miss);
                if (rc == -CAS_E_NOTFOUND && algs[i] == CAS_DIGEST_SHA512)
                        continue; /* made with the first of them */
                if (rc < 0) {
                        *err = miss;
                        return rc;
                }
        }
        return 0;
}

/* What lies beside the directories of an algorithm's blobs. */
static int walk_beside(void *arg, const char *path, const char *name, struct cas_err *err)
{
        const struct blob_walk *walk = arg;
        if (strlen(name) == 2 && strspn(name, "0123456789abcdef") == 2)
                return 0;
        return walk->stray(walk->arg, path, name, err);
}

int cas_blob_directory_each(struct cas_store *s, unsigned number,
                            int (*fn)(void *arg, const char *path, const struct cas_digest *digest,
                                      struct cas_err *err),
                            cas_dir_fn stray, void *arg, struct cas_err *err)
{
        static const enum cas_digest_alg algs[] = {CAS_DIGEST_SHA256, CAS_DIGEST_SHA512};
        const unsigned of_one = CAS_BLOB_DIRECTORIES / CAS_COUNT(algs), fan = number % of_one;
        cas_assert(number < CAS_BLOB_DIRECTORIES);
        struct blob_walk walk = {
                .s = s, .fn = fn, .stray = stray, .arg = arg, .alg = algs[number / of_one]};
        char path[CAS_BLOB_PATH_BYTES];
        struct cas_err miss = CAS_ERR_INIT;
        int rc;
        if (fan == 0) {
                (void)snprintf(path, sizeof(path), CAS_DIR_BLOBS "/%s",
                               cas_digest_alg_name(walk.alg));
                rc = cas_dir_each(s, path, walk_beside, &walk, &miss);
        } else {
                (void)snprintf(path, sizeof(path), CAS_DIR_BLOBS "/%s/%02x",
                               cas_digest_alg_name(walk.alg), fan - 1);
                rc = cas_dir_each(s, path, walk_blob, &walk, &miss);
        }
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = miss;
        return rc;
}
