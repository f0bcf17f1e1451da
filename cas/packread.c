/* SPDX-License-Identifier: Apache-2.0 */
/* Reading of blocks for who wants content: out of a cache, or the home copy (cas/backend.h). */
#include "cas/packfile_int.h"

/* A place may turn out to be bad: how often one is asked for. */
#define PLACES_MAX 3

/* Whether what went wrong may be the place's fault. */
static bool is_bad_place(int rc)
{
        return rc == -CAS_E_CORRUPT || rc == -CAS_E_IO;
}

static int read_places(struct cas_packset *ps, const struct cas_packfd *home, uint64_t offset,
                       uint32_t bytes, cas_pack_read_fn fn, void *arg, struct cas_err *err)
{
        const struct cas_backend_ops *ops = ps->backend->ops;
        struct cas_err why = CAS_ERR_INIT;
        int rc = 0;
        for (unsigned i = 0; i < PLACES_MAX; i++) {
                struct cas_block_place place;
                rc = ops->block_open(ps->backend, home->tier, &home->file, home->fd, offset, bytes,
                                     &place, err);
                if (rc < 0)
                        return rc;
                const bool is_home = place.fd == home->fd;
                why = (struct cas_err)CAS_ERR_INIT;
                rc = fn(arg, place.fd, &why);
                ops->block_close(ps->backend, &place, is_bad_place(rc) && !is_home);
                if (!is_bad_place(rc) || is_home)
                        break;
        }
        if (rc < 0)
                *err = why;
        return rc;
}

int cas_packset_read(struct cas_packset *ps, uint64_t pack_id, uint64_t offset, uint32_t bytes,
                     cas_pack_read_fn fn, void *arg, struct cas_err *err)
{
        const struct cas_backend_ops *ops = ps->backend->ops;
        struct cas_packfd home;
        int rc = cas_packset_fd_get(ps, pack_id, &home, err);
        if (rc < 0)
                return rc;
        if (ops->block_open)
                rc = read_places(ps, &home, offset, bytes, fn, arg, err);
        else if (home.fd >= 0)
                rc = fn(arg, home.fd, err);
        else
                rc = cas_fail(err, CAS_E_UNSUPPORTED, "blocks of tier %u cannot be read",
                              home.tier);
        if (rc == 0 && ops->touched && !ops->block_open)
                ops->touched(ps->backend, home.tier, pack_id, offset, bytes);
        cas_packset_fd_put(ps, &home);
        return rc;
}
