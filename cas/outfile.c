/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/outfile_int.h"

#include <errno.h>
#include <fcntl.h>

#include "cas/io.h"

int cas_outfile_open(struct cas_outfile *o, const char *path, struct cas_err *err)
{
        struct stat st;
        *o = (struct cas_outfile){.fd = -1, .path = path};
        if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
                o->fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
        } else {
                o->temporary = cas_xasprintf("%s.XXXXXX", path);
                o->fd = mkostemp(o->temporary, O_CLOEXEC);
                if (o->fd < 0) {
                        free(cas_steal(&o->temporary));
                } else {
                        mode_t mask = umask(0);
                        (void)umask(mask);
                        (void)fchmod(o->fd, 0666 & ~mask);
                }
        }
        return o->fd < 0 ? cas_fail_sys(err, errno, "create %s", path) : 0;
}

int cas_outfile_write(void *arg, const void *data, size_t len, struct cas_err *err)
{
        struct cas_outfile *o = arg;
        const uint8_t *at = data;
        while (len > 0) {
                ssize_t n = write(o->fd, at, len);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return cas_fail_sys(err, errno, "write %s", o->path);
                at += n;
                len -= (size_t)n;
        }
        return 0;
}

int cas_outfile_write_at(const struct cas_outfile *o, const void *data, size_t len, uint64_t offset,
                         struct cas_err *err)
{
        cas_assert(o->temporary != NULL);
        return cas_io_pwrite_all(cas_io_posix(), o->fd, data, len, offset, o->path, err);
}

/* The directory of a path, synced. */
static int sync_parent(const char *path, struct cas_err *err)
{
        cas_cleanup_free char *dir = cas_xstrdup(path);
        char *slash = strrchr(dir, '/');
        if (slash)
                slash[slash == dir] = '\0';
        return cas_io_sync_dir(cas_io_posix(), AT_FDCWD, slash ? dir : ".", err);
}

int cas_outfile_close(struct cas_outfile *o, int r, struct cas_err *err)
{
        if (r == 0 && o->temporary && fsync(o->fd) < 0)
                r = cas_fail_sys(err, errno, "sync %s", o->path);
        if (close(o->fd) < 0 && r == 0)
                r = cas_fail_sys(err, errno, "write %s", o->path);
        if (r == 0 && o->temporary && rename(o->temporary, o->path) < 0)
                r = cas_fail_sys(err, errno, "rename to %s", o->path);
        if (r < 0 && o->temporary)
                (void)unlink(o->temporary);
        if (r == 0 && o->temporary)
                r = sync_parent(o->path, err);
        free(o->temporary);
        return r;
}
