/* SPDX-License-Identifier: Apache-2.0 */
/* Writable volumes on a real mount, in both page modes and both formats of an upper. The server is
 * a process of its own, so that a test that hangs or dies ends with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/rwbox.h"

static int mount_by_hand(int argc, char **argv)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_view *view;
        const char *layers[8] = {NULL};
        if (argc < 6)
                return 2;
        for (int i = 5; i < argc && i < 12; i++) {
                static char text[8][65536];
                int fd = open(argv[i], O_RDONLY | O_CLOEXEC);
                ssize_t n = read(fd, text[i - 5], sizeof(text[0]) - 1);
                rwbox_must(n >= 0);
                layers[i - 5] = text[i - 5];
                (void)close(fd);
        }
        rwbox_must(view_of_text(layers, 0, &view, &err) == 0);
        struct ffs_treefs *t = rwbox_new(
                argv[4], strcmp(argv[2], "inode") == 0 ? FFS_PAGES_INODE : FFS_PAGES_PASSTHROUGH,
                strcmp(argv[3], "user") == 0 ? FFS_UPPER_USER : FFS_UPPER_TRUSTED, view);
        rwbox_open_volume(t);
        rwbox_mount(t);
        rwbox_serve(t);
        struct pollfd p = {.fd = ffs_connection_ended_fd(t->connection), .events = POLLIN};
        while (poll(&p, 1, -1) < 0)
                ;
        return 0;
}

int main(int argc, char **argv)
{
        if (argc > 1 && strcmp(argv[1], "mount") == 0)
                return mount_by_hand(argc, argv);
        return 0;
}
