/* SPDX-License-Identifier: Apache-2.0 */
/* Users of an image: whatever its passwd and group hold, and whoever is asked for, the answer is a
 * user or an error. The input is passwd, then group, then the user, with NULs between. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "tools/run_spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(int dir, const char *name, const uint8_t *data, size_t len)
{
        cas_cleanup_fd int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        cas_assert(fd >= 0);
        cas_assert(write(fd, data, len) == (ssize_t)len);
}

static char root[64];
static int etc = -1;

static void root_remove(void)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/etc", root);
        (void)rmdir(path);
        (void)rmdir(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        if (size == 0)
                return 0;
        if (etc < 0) {
                snprintf(root, sizeof(root), "/dev/shm/lamina-account-%d", (int)getpid());
                (void)mkdir(root, 0700);
                cas_cleanup_free char *path = cas_xasprintf("%s/etc", root);
                (void)mkdir(path, 0700);
                etc = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
                cas_assert(etc >= 0);
                cas_assert(atexit(root_remove) == 0);
        }
        const uint8_t *end = data + size;
        const uint8_t *group = memchr(data, 0, size);
        group = group ? group + 1 : end;
        const uint8_t *user = group < end ? memchr(group, 0, (size_t)(end - group)) : NULL;
        user = user ? user + 1 : end;
        put(etc, "passwd", data, (size_t)(group - data));
        put(etc, "group", group, (size_t)(user - group));
        cas_cleanup_free char *text = cas_xstrndup((const char *)user, (size_t)(end - user));
        struct cas_err err = CAS_ERR_INIT;
        struct run_user found;
        if (run_user_find(root, text, &found, &err) == 0) {
                cas_assert(found.home[0] == '/');
                cas_assert(found.group_count >= 1);
                run_user_release(&found);
        } else {
                cas_assert(err.code == CAS_E_INVALID || err.code == CAS_E_LIMIT);
        }
        (void)unlinkat(etc, "passwd", 0);
        (void)unlinkat(etc, "group", 0);
        return 0;
}
