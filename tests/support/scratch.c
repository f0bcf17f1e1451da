/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/scratch.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "cas/base.h"

char *scratch_new(void)
{
        const char *parent = getenv("TMPDIR");
        char *path = cas_xasprintf("%s/lamina-test-XXXXXX", parent ? parent : "/tmp");
        cas_assert(mkdtemp(path) != NULL);
        return path;
}

static int remove_entry(const char *path, const struct stat *st CAS_UNUSED, int type CAS_UNUSED,
                        struct FTW *at CAS_UNUSED)
{
        return remove(path);
}

void scratch_free(char *path)
{
        if (!path)
                return;
        (void)nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
        free(path);
}

/* nftw() passes no argument on. */
static __thread const char *copy_from;
static __thread const char *copy_to;

static int copy_entry(const char *path, const struct stat *st, int type, struct FTW *at CAS_UNUSED)
{
        cas_cleanup_free char *to = cas_xasprintf("%s%s", copy_to, path + strlen(copy_from));
        if (type == FTW_D)
                return mkdir(to, st->st_mode & 07777);
        cas_assert(S_ISREG(st->st_mode));
        cas_cleanup_fd int in = open(path, O_RDONLY | O_CLOEXEC);
        cas_cleanup_fd int out =
                open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, st->st_mode & 07777);
        cas_assert(in >= 0 && out >= 0);
        for (off_t left = st->st_size; left > 0;) {
                ssize_t n = sendfile(out, in, NULL, (size_t)left);
                cas_assert(n > 0);
                left -= n;
        }
        return 0;
}

void scratch_copy(const char *from, const char *to)
{
        copy_from = from;
        copy_to = to;
        int rc = nftw(from, copy_entry, 16, FTW_PHYS | FTW_MOUNT);
        cas_assert(rc == 0);
}
