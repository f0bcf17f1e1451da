/* SPDX-License-Identifier: Apache-2.0 */
/* Packs in one directory: the backend of a store that was given none. */
#include <errno.h>
#include <fcntl.h>

#include "cas/packset_int.h"

struct backend_local {
        struct cas_backend backend;
        int dirfd; /* owned */
};

static struct backend_local *local_of(struct cas_backend *b)
{
        return (struct backend_local *)b;
}

static int local_pack_place(struct cas_backend *b, uint64_t pack_id CAS_UNUSED, int *out_dirfd,
                            uint32_t *out_tier, struct cas_err *err CAS_UNUSED)
{
        *out_dirfd = local_of(b)->dirfd;
        *out_tier = 0;
        return 0;
}

static int local_pack_dir(struct cas_backend *b, uint64_t pack_id CAS_UNUSED, uint32_t tier,
                          int *out_dirfd, struct cas_err *err)
{
        if (tier != 0)
                return cas_fail(err, CAS_E_UNSUPPORTED, "no tier %u is configured", tier);
        *out_dirfd = local_of(b)->dirfd;
        return 0;
}

static int local_tier_each(struct cas_backend *b,
                           int (*fn)(void *arg, uint32_t tier, int dirfd, struct cas_err *err),
                           void *arg, struct cas_err *err)
{
        return fn(arg, 0, local_of(b)->dirfd, err);
}

static void local_close(struct cas_backend *b)
{
        cas_cleanup_fd int fd CAS_UNUSED = local_of(b)->dirfd;
        free(b);
}

struct cas_backend *cas_backend_local_new(int packs_dirfd)
{
        static const struct cas_backend_ops ops = {
                .pack_place = local_pack_place,
                .pack_dir = local_pack_dir,
                .tier_each = local_tier_each,
                .close = local_close,
        };
        struct backend_local *local = cas_xcalloc(1, sizeof(*local));
        local->backend.ops = &ops;
        /* Without a descriptor left every operation fails with the reason. */
        local->dirfd = fcntl(packs_dirfd, F_DUPFD_CLOEXEC, 3);
        return &local->backend;
}
