/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/enter_program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#include "cas/buf.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

extern const char enter_blob_start[], enter_blob_end[]; /* enter_blob.S */

int enter_program_open(int *out_fd, struct cas_err *err)
{
        cas_cleanup_fd int fd = memfd_create("lamina-enter", MFD_CLOEXEC | MFD_EXEC);
        if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
                fd = memfd_create("lamina-enter", MFD_CLOEXEC);
        if (fd < 0)
                return cas_fail_sys(err, errno, "memfd_create");
        size_t size = (size_t)(enter_blob_end - enter_blob_start);
        for (size_t at = 0; at < size;) {
                ssize_t n = write(fd, enter_blob_start + at, size - at);
                if (n < 0)
                        return cas_fail_sys(err, errno, "write the sandbox's first process");
                at += (size_t)n;
        }
        /* A file that is open for writing cannot be run. */
        cas_cleanup_free char *link = cas_xasprintf("/proc/self/fd/%d", fd);
        *out_fd = open(link, O_RDONLY | O_CLOEXEC);
        return *out_fd < 0 ? cas_fail_sys(err, errno, "the sandbox's first process") : 0;
}

char **enter_program_argv(const struct run_spec *spec)
{
        size_t words = 0;
        while (spec->argv[words])
                words++;
        cas_cleanup_buf struct cas_buf groups = CAS_BUF_INIT;
        for (size_t i = 0; i < spec->group_count; i++)
                cas_buf_printf(&groups, "%s%u", i ? "," : "", spec->groups[i]);
        char **argv = cas_xcalloc(words + 7, sizeof(char *));
        argv[0] = cas_xstrdup(ENTER_PROGRAM_PATH);
        argv[1] = spec->userns_fd < 0
                          ? cas_xstrdup("-")
                          : cas_xasprintf("%d%s", ENTER_USERNS_FD, spec->whole_proc ? "p" : "");
        argv[2] = cas_xasprintf("%u", spec->uid);
        argv[3] = cas_xasprintf("%u", spec->gid);
        argv[4] = cas_xstrdup(spec->group_count ? cas_buf_str(&groups) : "-");
        argv[5] = cas_xstrdup(spec->workdir);
        for (size_t i = 0; i < words; i++)
                argv[6 + i] = cas_xstrdup(spec->argv[i]);
        return argv;
}
