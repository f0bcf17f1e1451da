/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/enter_program.h"

#include "cas/buf.h"
#include "tools/carried.h"

extern const char enter_blob_start[], enter_blob_end[]; /* enter_blob.S */

int enter_program_open(int *out_fd, struct cas_err *err)
{
        return carried_open("lamina-enter", enter_blob_start, enter_blob_end, out_fd, err);
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
