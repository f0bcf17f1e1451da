/* SPDX-License-Identifier: Apache-2.0 */
/* Packs lent to readers in other processes. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#include "cas/object.h"
#include "cas/packfile_int.h"
#include "cas/store_int.h"

/* Bytes that are lent in one piece. */
#define LEND_BYTES_MAX (UINT32_C(8) << 20)

/* Where a pack lies: its record, and its home copy when it has one here. */
struct lent {
        struct cas_pack_record rec;
        struct cas_pack_file file;
        int home_fd; /* owned; -1: none here */
        bool counts_reads;
};

static void lent_release(struct lent *l)
{
        if (l->home_fd >= 0)
                (void)close(l->home_fd);
}

/* Errors: NOTFOUND. A home copy that is remote is -1, and one that cannot be opened, with *why. */
static int lent_find(struct cas_store *s, uint64_t pack_id, struct lent *out, struct cas_err *why,
                     struct cas_err *err)
{
        struct cas_tier_info info;
        struct cas_pack_record now;
        *out = (struct lent){.home_fd = -1};
        if (cas_index_get_pack(s->index, pack_id, &out->rec, err) < 0)
                return -(int)err->code;
        int rc = cas_packset_open_home(s->packset, pack_id, &out->home_fd, &now, why);
        if (rc == 0)
                out->rec = now;
        out->file = cas_pack_file_of(pack_id, &out->rec);
        if (rc != -CAS_E_NOTFOUND)
                rc = s->backend->ops->tier_info(s->backend, out->rec.tier, &info, err);
        else
                *err = *why;
        if (rc < 0) {
                lent_release(out);
                return rc;
        }
        out->counts_reads = info.counts_reads;
        return 0;
}

int cas_pack_open_fds(struct cas_store *s, uint64_t pack_id, struct cas_pack_fds *out,
                      struct cas_err *err)
{
        const struct cas_backend_ops *ops = s->backend->ops;
        struct cas_err why = CAS_ERR_INIT, ignored = CAS_ERR_INIT;
        struct lent l;
        *out = (struct cas_pack_fds){.home_fd = -1, .cache_fd = -1};
        if (lent_find(s, pack_id, &l, &why, err) < 0)
                return -(int)err->code;
        out->wants_touched = ops->touched && l.counts_reads;
        if (!ops->cache_open ||
            ops->cache_open(s->backend, l.rec.tier, &l.file, &out->cache_fd, &ignored) < 0)
                out->cache_fd = -1;
        out->home_fd = l.home_fd;
        if (out->home_fd >= 0 || out->cache_fd >= 0 || why.code == CAS_OK)
                return 0;
        *err = why;
        return -(int)err->code;
}

/* Another descriptor of the same file that cannot be written by. */
static int lend(int fd, int *out_fd, struct cas_err *err)
{
        char path[40];
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        *out_fd = open(path, O_RDONLY | O_CLOEXEC);
        return *out_fd < 0 ? cas_fail_sys(err, errno, "lend a pack") : 0;
}

/* The bytes in a file of their own, at the same offset. */
static int lend_copy(struct cas_store *s, int fd, uint64_t offset, uint32_t bytes, int *out_fd,
                     struct cas_err *err)
{
        cas_cleanup_free uint8_t *data = cas_xmalloc(bytes);
        cas_cleanup_fd int copy = memfd_create("lamina-block", MFD_CLOEXEC);
        if (copy < 0)
                return cas_fail_sys(err, errno, "memory for a block");
        if (cas_io_pread_exact(s->io, fd, data, bytes, offset, "pack", err) < 0 ||
            cas_io_pwrite_all(cas_io_posix(), copy, data, bytes, offset, "block", err) < 0)
                return -(int)err->code;
        return lend(copy, out_fd, err);
}

static int bring(struct cas_store *s, const struct lent *l, uint64_t offset, uint32_t bytes,
                 bool bad, int *out_fd, struct cas_err *err)
{
        const struct cas_backend_ops *ops = s->backend->ops;
        struct cas_block_place place;
        int rc = ops->block_open(s->backend, l->rec.tier, &l->file, l->home_fd, offset, bytes,
                                 &place, err);
        if (rc == 0 && bad) {
                ops->block_close(s->backend, &place, true);
                rc = ops->block_open(s->backend, l->rec.tier, &l->file, l->home_fd, offset, bytes,
                                     &place, err);
        }
        if (rc < 0)
                return rc;
        rc = bad ? lend_copy(s, place.fd, offset, bytes, out_fd, err) : lend(place.fd, out_fd, err);
        ops->block_close(s->backend, &place, false);
        return rc;
}

int cas_block_bring(struct cas_store *s, uint64_t pack_id, uint64_t offset, uint32_t bytes,
                    bool bad, int *out_fd, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        struct lent l;
        int rc = 0;
        if (bytes == 0 || bytes > LEND_BYTES_MAX || offset > (uint64_t)INT64_MAX - LEND_BYTES_MAX)
                return cas_fail(err, CAS_E_INVALID, "%u bytes at %llu of a pack", bytes,
                                (unsigned long long)offset);
        if (lent_find(s, pack_id, &l, &why, err) < 0)
                return -(int)err->code;
        if (l.home_fd < 0 && why.code != CAS_OK) {
                *err = why;
                rc = -(int)err->code;
        } else if (s->backend->ops->block_open) {
                rc = bring(s, &l, offset, bytes, bad, out_fd, err);
        } else if (l.home_fd >= 0) {
                *out_fd = cas_steal_fd(&l.home_fd);
        } else {
                rc = cas_fail(err, CAS_E_UNSUPPORTED, "blocks of tier %u cannot be read",
                              l.rec.tier);
        }
        lent_release(&l);
        return rc;
}

/* What the cache has of a pack that lies here goes, by being looked at. */
static void throw_out(struct cas_store *s, uint64_t pack_id, uint64_t offset, uint32_t bytes)
{
        const struct cas_backend_ops *ops = s->backend->ops;
        struct cas_err ignored = CAS_ERR_INIT;
        struct cas_block_place place;
        struct lent l;
        if (!ops->block_open || lent_find(s, pack_id, &l, &ignored, &ignored) < 0)
                return;
        if (l.home_fd >= 0 && ops->block_open(s->backend, l.rec.tier, &l.file, l.home_fd, offset,
                                              bytes, &place, &ignored) == 0)
                ops->block_close(s->backend, &place, place.fd != l.home_fd);
        lent_release(&l);
}

void cas_pack_touched(struct cas_store *s, uint64_t pack_id, uint64_t offset, uint32_t bytes,
                      bool was_bad)
{
        const struct cas_backend_ops *ops = s->backend->ops;
        struct cas_pack_record rec;
        struct cas_err ignored = CAS_ERR_INIT;
        if (bytes == 0 || bytes > LEND_BYTES_MAX || offset > (uint64_t)INT64_MAX - LEND_BYTES_MAX)
                return;
        if (was_bad)
                throw_out(s, pack_id, offset, bytes);
        if (ops->touched && cas_index_get_pack(s->index, pack_id, &rec, &ignored) == 0)
                ops->touched(s->backend, rec.tier, pack_id, offset, bytes);
}
