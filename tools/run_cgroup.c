/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/run_cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#define V2_ROOT "/sys/fs/cgroup"
#define V1_ROOT "/sys/fs/cgroup/memory"
#define REMOVE_TRIES 100
#define REMOVE_TICK_MS 20

static int text_write(const char *dir, const char *name, const char *text)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", dir, name);
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
        return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

static bool file_there(const char *dir, const char *name)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", dir, name);
        return access(path, F_OK) == 0;
}

/* The hierarchy that limits memory here; NULL: none. */
static const char *hierarchy(bool *second)
{
        *second = !file_there(V1_ROOT, "memory.limit_in_bytes");
        if (!*second)
                return V1_ROOT;
        return file_there(V2_ROOT, "cgroup.controllers") ? V2_ROOT : NULL;
}

static int limit_set(const char *dir, bool second, uint64_t memory_bytes)
{
        char number[24];
        (void)snprintf(number, sizeof(number), "%llu", (unsigned long long)memory_bytes);
        int rc = text_write(dir, second ? "memory.max" : "memory.limit_in_bytes", number);
        /* Where swap is counted it is no way out of the limit. */
        const char *swap = second ? "memory.swap.max" : "memory.memsw.limit_in_bytes";
        if (rc == 0 && file_there(dir, swap))
                rc = text_write(dir, swap, second ? "0" : number);
        return rc;
}

int run_cgroup_make(const char *id, uint64_t memory_bytes, int *procs_fd, struct cas_err *err)
{
        bool second;
        const char *root = hierarchy(&second);
        if (geteuid() != 0)
                return cas_fail(err, CAS_E_DENIED,
                                "--memory needs root: others limit it by `systemd-run --user "
                                "--scope -p MemoryMax=BYTES lamina run …`");
        if (!root)
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "--memory: no control groups are mounted at " V2_ROOT);
        cas_cleanup_free char *parent = cas_xasprintf("%s/lamina", root);
        cas_cleanup_free char *dir = cas_xasprintf("%s/%s", parent, id);
        if (mkdir(parent, 0755) < 0 && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", parent);
        if (second && (text_write(root, "cgroup.subtree_control", "+memory") < 0 ||
                       text_write(parent, "cgroup.subtree_control", "+memory") < 0))
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "--memory: the memory controller cannot be used at %s", root);
        if (mkdir(dir, 0755) < 0)
                return cas_fail_sys(err, errno, "make %s", dir);
        int rc = limit_set(dir, second, memory_bytes);
        if (rc == 0) {
                cas_cleanup_free char *procs = cas_xasprintf("%s/cgroup.procs", dir);
                *procs_fd = open(procs, O_WRONLY | O_CLOEXEC);
                rc = *procs_fd < 0 ? -errno : 0;
        }
        if (rc == 0)
                return 0;
        (void)rmdir(dir);
        return cas_fail_sys(err, -rc, "limit the memory of %s", dir);
}

void run_cgroup_remove(const char *id)
{
        bool second;
        const char *root = hierarchy(&second);
        if (!root)
                return;
        cas_cleanup_free char *dir = cas_xasprintf("%s/lamina/%s", root, id);
        for (int i = 0; i < REMOVE_TRIES && rmdir(dir) < 0 && errno == EBUSY; i++) {
                struct timespec tick = {.tv_nsec = REMOVE_TICK_MS * 1000000};
                (void)nanosleep(&tick, NULL);
        }
}
