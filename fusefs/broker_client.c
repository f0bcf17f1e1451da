/* SPDX-License-Identifier: Apache-2.0 */
/* The asking end of the broker's socket. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>

#include "fusefs/broker.h"
#include "fusefs/process_int.h"
#include "fusefs/unixsock_int.h"

#define ANSWER_WAIT_MS (10 * 60 * 1000) /* the image may have to be decoded first */

/* "ok", line feed, text; or "failed CODE TEXT". */
static int parse_answer(char *text, size_t len, char **reply, struct cas_err *err)
{
        char name[32];
        int at = 0;
        text[len] = '\0';
        if (strncmp(text, "ok\n", 3) == 0) {
                *reply = cas_xstrdup(text + 3);
                return 0;
        }
        if (sscanf(text, "failed %31s %n", name, &at) == 1 && at) {
                enum cas_code code = cas_code_by_name(name);
                return cas_fail(err, code ? code : CAS_E_IO, "%s", text + at);
        }
        return cas_fail(err, CAS_E_INVALID, "the broker answers something else");
}

int ffs_broker_ask(const char *path, const char *request, char **reply, int *out_mount_fd,
                   int *out_connection_fd, struct cas_err *err)
{
        cas_cleanup_fd int fd = -1;
        cas_cleanup_fd int mount_fd = -1;
        cas_cleanup_free char *text = cas_xmalloc(FFS_BROKER_MESSAGE_BYTES_MAX + 1);
        size_t len = 0, fd_count = 1;
        if (ffs_sock_connect(path, &fd, err) < 0 ||
            ffs_sock_send(fd, request, strlen(request), NULL, 0, err) < 0 ||
            ffs_sock_receive(fd, text, FFS_BROKER_MESSAGE_BYTES_MAX, &len, &mount_fd, &fd_count,
                             ANSWER_WAIT_MS, err) < 0 ||
            parse_answer(text, len, reply, err) < 0)
                return cas_err_wrap(err, "lamina broker");
        if (fd_count != 1) {
                free(cas_steal(reply));
                return cas_fail(err, CAS_E_INVALID, "the broker sent no mount");
        }
        *out_mount_fd = cas_steal_fd(&mount_fd);
        *out_connection_fd = cas_steal_fd(&fd);
        return 0;
}

int ffs_broker_attach(int mount_fd, const char *dir, struct cas_err *err)
{
        if (move_mount(mount_fd, "", AT_FDCWD, dir, MOVE_MOUNT_F_EMPTY_PATH) < 0)
                return cas_fail_sys(err, errno, "attach the broker's mount at %s", dir);
        return 0;
}
