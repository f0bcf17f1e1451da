/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/carried.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

int carried_open(const char *name, const char *start, const char *end, int *out_fd,
                 struct cas_err *err)
{
        cas_cleanup_fd int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
        if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
                fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
                return cas_fail_sys(err, errno, "memfd_create");
        size_t size = (size_t)(end - start);
        for (size_t at = 0; at < size;) {
                ssize_t n = write(fd, start + at, size - at);
                if (n < 0)
                        return cas_fail_sys(err, errno, "write %s", name);
                at += (size_t)n;
        }
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0)
                return cas_fail_sys(err, errno, "seal %s", name);
        /* A file that is open for writing cannot be run. */
        cas_cleanup_free char *link = cas_xasprintf("/proc/self/fd/%d", fd);
        *out_fd = open(link, O_RDONLY | O_CLOEXEC);
        return *out_fd < 0 ? cas_fail_sys(err, errno, "open %s", name) : 0;
}
