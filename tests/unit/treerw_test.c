/* SPDX-License-Identifier: Apache-2.0 */
/* Writable volumes on a real mount, in both page modes and both formats of an upper. The server is
 * a process of its own, so that a test that hangs or dies ends with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/rwbox.h"

/* `TEST mount passthrough|inode trusted|user DIR OBJECTS TREE…` serves until it is unmounted. */
static int mount_by_hand(int argc, char **argv)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_view *view;
        struct cas_digest digests[FFS_VIEW_TREES_MAX] = {0};
        if (argc < 7 || argc > 6 + FFS_VIEW_TREES_MAX)
                return 2;
        const char *const *paths = (const char *const *)argv + 6;
        rwbox_must(ffs_view_open(digests, paths, (size_t)argc - 6, &view, &err) == 0);
        struct ffs_treefs *t = rwbox_new(
                argv[4], strcmp(argv[2], "inode") == 0 ? FFS_PAGES_INODE : FFS_PAGES_PASSTHROUGH,
                strcmp(argv[3], "user") == 0 ? FFS_UPPER_USER : FFS_UPPER_TRUSTED, view);
        (void)snprintf(t->store, sizeof(t->store), "%s", argv[5]);
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
