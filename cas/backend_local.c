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

static int local_pack_place(struct cas_backend *b, uint64_t pack_id CAS_UNUSED, uint32_t want,
                            int *out_dirfd, uint32_t *out_tier, struct cas_err *err)
{
        if (want != CAS_TIER_ANY && want != CAS_TIER_OWN)
                return cas_fail(err, CAS_E_UNSUPPORTED, "no tier %u is configured", want);
        *out_dirfd = local_of(b)->dirfd;
        *out_tier = CAS_TIER_OWN;
        return 0;
}

static int local_pack_dir(struct cas_backend *b, uint64_t pack_id CAS_UNUSED, uint32_t tier,
                          int *out_dirfd, struct cas_err *err)
{
        if (tier != CAS_TIER_OWN)
                return cas_fail(err, CAS_E_UNSUPPORTED, "no tier %u is configured", tier);
        *out_dirfd = local_of(b)->dirfd;
        return 0;
}

static int local_tier_info(struct cas_backend *b CAS_UNUSED, uint32_t tier,
                           struct cas_tier_info *out, struct cas_err *err)
{
        if (tier != CAS_TIER_OWN)
                return cas_fail(err, CAS_E_UNSUPPORTED, "no tier %u is configured", tier);
        *out = (struct cas_tier_info){.tier = CAS_TIER_OWN,
                                      .name = "own",
                                      .reachable = true,
                                      .writable = true,
                                      .density = CAS_PACK_DEFAULT};
        return 0;
}

static int local_tier_each(struct cas_backend *b,
                           int (*fn)(void *arg, const struct cas_tier_info *tier, int dirfd,
                                     struct cas_err *err),
                           void *arg, struct cas_err *err)
{
        struct cas_tier_info info;
        int rc = local_tier_info(b, CAS_TIER_OWN, &info, err);
        return rc < 0 ? rc : fn(arg, &info, local_of(b)->dirfd, err);
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
                .tier_info = local_tier_info,
                .tier_each = local_tier_each,
                .close = local_close,
        };
        struct backend_local *local = cas_xcalloc(1, sizeof(*local));
        local->backend.ops = &ops;
        /* Without a descriptor left every operation fails with the reason. */
        local->dirfd = fcntl(packs_dirfd, F_DUPFD_CLOEXEC, 3);
        return &local->backend;
}
