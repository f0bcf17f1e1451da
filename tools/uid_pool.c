/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/uid_pool.h"

#include <errno.h>
#include <fcntl.h>

#include "cas/io.h"
#include "tools/paths.h"
#include "tools/rootless.h"

#define POOL_NAME "lamina"
#define POOL_BYTES_MAX (1024 * 1024)

static bool covers(const struct rootless_range *ranges, size_t count, uint32_t first)
{
        for (size_t i = 0; i < count; i++) {
                if (first >= ranges[i].outside && ranges[i].count >= UID_POOL_COUNT &&
                    first - ranges[i].outside <= ranges[i].count - UID_POOL_COUNT)
                        return true;
        }
        return false;
}

bool uid_pool_next(const char *subuid, const char *subgid, uint32_t from, uint32_t *first)
{
        struct rootless_range uids[ROOTLESS_RANGES_MAX], gids[ROOTLESS_RANGES_MAX];
        size_t uid_count = 0, gid_count = 0;
        bool found = false;
        rootless_ranges_add(subuid, strlen(subuid), POOL_NAME, UINT32_MAX, uids, &uid_count);
        rootless_ranges_add(subgid, strlen(subgid), POOL_NAME, UINT32_MAX, gids, &gid_count);
        for (size_t i = 0; i < uid_count; i++) {
                uint64_t at = uids[i].outside;
                if (at < from) /* pieces are counted from where the range begins */
                        at += (from - at + UID_POOL_COUNT - 1) / UID_POOL_COUNT * UID_POOL_COUNT;
                for (; at <= UINT32_MAX && covers(&uids[i], 1, (uint32_t)at);
                     at += UID_POOL_COUNT) {
                        if (!covers(gids, gid_count, (uint32_t)at))
                                continue;
                        if (!found || at < *first)
                                *first = (uint32_t)at;
                        found = true;
                        break;
                }
        }
        return found;
}

static int text_read(const char *path, struct cas_buf *out, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        if (cas_io_read_file(cas_io_posix(), AT_FDCWD, path, POOL_BYTES_MAX, out, &why) < 0 &&
            why.code != CAS_E_NOTFOUND) {
                *err = why;
                return -(int)err->code;
        }
        cas_buf_append_byte(out, '\0');
        return 0;
}

static char *taken_path(const char *run_dir, uint32_t first)
{
        return cas_xasprintf("%s/ranges/%u", run_dir, first);
}

int uid_pool_take(const char *run_dir, uint32_t *first, struct cas_err *err)
{
        cas_cleanup_free char *dir = cas_xasprintf("%s/ranges", run_dir);
        cas_cleanup_buf struct cas_buf subuid = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf subgid = CAS_BUF_INIT;
        if (path_make_dirs(dir, 0700, err) < 0 || text_read("/etc/subuid", &subuid, err) < 0 ||
            text_read("/etc/subgid", &subgid, err) < 0)
                return -(int)err->code;
        uint32_t at;
        bool any = false;
        for (uint32_t from = 1;
             uid_pool_next(cas_buf_str(&subuid), cas_buf_str(&subgid), from, &at); from = at + 1) {
                cas_cleanup_free char *path = taken_path(run_dir, at);
                cas_cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
                any = true;
                if (fd >= 0) {
                        *first = at;
                        return 0;
                }
                if (errno != EEXIST)
                        return cas_fail_sys(err, errno, "make %s", path);
        }
        if (any)
                return cas_fail(err, CAS_E_LIMIT,
                                "--uid-range auto: all ranges of the pool are in use");
        return cas_fail(err, CAS_E_NOTFOUND,
                        "--uid-range auto: no pool: a line `" POOL_NAME ":FIRST:COUNT` in "
                        "/etc/subuid and /etc/subgid, COUNT %d for each sandbox",
                        UID_POOL_COUNT);
}

void uid_pool_give_back(const char *run_dir, uint32_t first)
{
        cas_cleanup_free char *path = taken_path(run_dir, first);
        (void)unlink(path);
}
