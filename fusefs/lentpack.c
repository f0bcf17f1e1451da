/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/lentpack_int.h"

#include <fcntl.h>
#include <sys/stat.h>

/* How much behind a block is dropped with it: folios of the page cache are larger than pages, and
 * one that reaches into the next block goes only when that has been read. */
#define DROP_BEHIND_BYTES (UINT64_C(1) << 20)

struct ffs_lentpack {
        struct ffs_resolved_pack files; /* owned */
};

int ffs_lentpack_open(struct ffs_resolve_client *client, uint64_t pack_id, int timeout_ms,
                      struct ffs_lentpack **out, struct cas_err *err)
{
        struct ffs_resolved_pack files;
        if (ffs_resolve_pack(client, pack_id, timeout_ms, &files, err) < 0)
                return -(int)err->code;
        /* Blocks are fetched as a whole, and ahead of readers by our own judgement. */
        if (files.home_fd >= 0)
                (void)posix_fadvise(files.home_fd, 0, 0, POSIX_FADV_RANDOM);
        if (files.cache_fd >= 0)
                (void)posix_fadvise(files.cache_fd, 0, 0, POSIX_FADV_RANDOM);
        *out = cas_xmalloc(sizeof(**out));
        (*out)->files = files;
        return 0;
}

void ffs_lentpack_free(struct ffs_lentpack *p)
{
        if (!p)
                return;
        if (p->files.home_fd >= 0)
                (void)close(p->files.home_fd);
        if (p->files.cache_fd >= 0)
                (void)close(p->files.cache_fd);
        free(p);
}

bool ffs_lentpack_wants_touched(const struct ffs_lentpack *p)
{
        return p->files.wants_touched;
}

void ffs_lentpack_fetch(const struct ffs_lentpack *p, uint64_t offset, uint64_t bytes)
{
        if (p->files.home_fd < 0)
                return;
        if (p->files.cache_fd >= 0) { /* what is there is not read from the slow device */
                off_t data = lseek(p->files.cache_fd, (off_t)offset, SEEK_DATA);
                if (data >= 0 && (uint64_t)data < offset + bytes)
                        return;
        }
        (void)posix_fadvise(p->files.home_fd, (off_t)offset, (off_t)bytes, POSIX_FADV_WILLNEED);
}

static void drop(int fd, uint64_t offset, uint64_t bytes)
{
        if (fd >= 0)
                (void)posix_fadvise(fd, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
}

void ffs_lentpack_drop(const struct ffs_lentpack *p, uint64_t offset, uint64_t bytes)
{
        drop(p->files.home_fd, offset, bytes);
        drop(p->files.cache_fd, offset, bytes);
}

static bool is_removed(int fd)
{
        struct stat st;
        return fd >= 0 && fstat(fd, &st) == 0 && st.st_nlink == 0;
}

bool ffs_lentpack_is_stale(const struct ffs_lentpack *p)
{
        return is_removed(p->files.home_fd) || is_removed(p->files.cache_fd);
}

/* ---- blocks ---- */

static int read_from(int fd, const struct cas_extent *e, void *out, struct cas_buf *scratch,
                     struct cas_err *err)
{
        int rc = cas_block_read(fd, e, out, scratch, err);
        uint64_t from = e->block_offset - cas_min_u64(e->block_offset, DROP_BEHIND_BYTES);
        drop(fd, from, e->block_offset + e->block_stored_bytes - from);
        return rc;
}

/* Whether there is something at all of its bytes; pages at its ends may be its neighbours'. */
static bool is_cached(const struct ffs_lentpack *p, const struct cas_extent *e)
{
        if (p->files.cache_fd < 0)
                return false;
        off_t hole = lseek(p->files.cache_fd, (off_t)e->block_offset, SEEK_HOLE);
        return hole >= 0 && (uint64_t)hole >= e->block_offset + e->block_stored_bytes;
}

static bool is_bad(int rc)
{
        return rc == -CAS_E_CORRUPT || rc == -CAS_E_IO;
}

/* The owner brings it; what it brought may be gone again when we come, and is then brought for us
 * alone. */
static int read_brought(const struct ffs_lentpack *p, struct ffs_resolve_client *client,
                        const struct cas_extent *e, int timeout_ms, void *out,
                        struct cas_buf *scratch, struct ffs_lentpack_use *use, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        use->by_owner = true;
        for (bool was_bad = use->cache_was_bad;; was_bad = true) {
                cas_cleanup_fd int fd = -1;
                if (ffs_resolve_fill(client, e->pack_id, e->block_offset, e->block_stored_bytes,
                                     was_bad, timeout_ms, &fd, err) < 0)
                        return -(int)err->code;
                /* A file with a name is the pack's cache: one that we should have open. */
                if (p->files.cache_fd < 0 && !is_removed(fd))
                        use->stale = true;
                why = (struct cas_err)CAS_ERR_INIT;
                int rc = read_from(fd, e, out, scratch, &why);
                if (!is_bad(rc) || was_bad)
                        break;
        }
        if (why.code != CAS_OK)
                *err = why;
        return -(int)why.code;
}

int ffs_lentpack_read(struct ffs_lentpack *p, struct ffs_resolve_client *client,
                      const struct cas_extent *e, int timeout_ms, void *out,
                      struct cas_buf *scratch, struct ffs_lentpack_use *use, struct cas_err *err)
{
        struct cas_err ignored = CAS_ERR_INIT;
        *use = (struct ffs_lentpack_use){0};
        if (is_cached(p, e)) {
                if (read_from(p->files.cache_fd, e, out, scratch, &ignored) == 0)
                        return 0;
                use->cache_was_bad = true;
        } else if (is_removed(p->files.cache_fd)) {
                use->stale = true;
        }
        use->from_home = p->files.home_fd >= 0;
        if (use->from_home)
                return read_from(p->files.home_fd, e, out, scratch, err);
        if (!p->files.fills)
                return cas_fail(err, CAS_E_IO, "pack %016llx is not here",
                                (unsigned long long)e->pack_id);
        return read_brought(p, client, e, timeout_ms, out, scratch, use, err);
}
