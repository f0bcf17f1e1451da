/* SPDX-License-Identifier: Apache-2.0 */
/* A spool is a file (none as long as there is little) and, behind its bytes, a tail in memory. Only
 * the one who appends changes anything; the mutex keeps readers from seeing it half done. What is
 * in the file stays as it is and is read without it. */
#include "cas/spool.h"

#include <fcntl.h>

#include "cas/limits.h"
#include "cas/mutex.h"
#include "cas/store_int.h"

#define TAIL_BYTES_MAX (512 * CAS_KIB)
#define COPY_BYTES (64 * CAS_KIB)

struct cas_spool {
        struct cas_store *store; /* borrowed */
        struct cas_mutex mutex;  /* a leaf; guards all below against readers */
        int fd;                  /* -1: none yet; fixed once file_bytes is above 0 */
        uint64_t file_bytes;     /* in the file; the tail follows them */
        struct cas_buf tail;
};

struct cas_spool *cas_spool_new(struct cas_store *s)
{
        struct cas_spool *sp = cas_xcalloc(1, sizeof(*sp));
        sp->store = s;
        cas_mutex_init(&sp->mutex, "spool");
        sp->fd = -1;
        return sp;
}

void cas_spool_free(struct cas_spool *sp)
{
        if (!sp)
                return;
        if (sp->fd >= 0)
                (void)close(sp->fd);
        cas_buf_release(&sp->tail);
        cas_mutex_release(&sp->mutex);
        free(sp);
}

uint64_t cas_spool_bytes(const struct cas_spool *sp)
{
        return sp->file_bytes + sp->tail.len_bytes;
}

/* What stays of the name when we die before it is unlinked goes when the store is opened. */
static int open_file(struct cas_spool *sp, struct cas_err *err)
{
        const struct cas_store *s = sp->store;
        char path[CAS_TEMPORARY_PATH_BYTES];
        if (cas_temporary_path(path, err) < 0 ||
            cas_io_open(s->io, s->dirfd, path, O_RDWR | O_CREAT | O_EXCL, 0600, &sp->fd, err) < 0 ||
            cas_io_unlink(s->io, s->dirfd, path, err) < 0)
                return -(int)err->code;
        return 0;
}

static int flush_tail(struct cas_spool *sp, struct cas_err *err)
{
        if (sp->fd < 0 && open_file(sp, err) < 0)
                return -(int)err->code;
        if (cas_io_pwrite_all(sp->store->io, sp->fd, sp->tail.data, sp->tail.len_bytes,
                              sp->file_bytes, "spool", err) < 0)
                return -(int)err->code;
        cas_mutex_lock(&sp->mutex);
        sp->file_bytes += sp->tail.len_bytes;
        cas_buf_clear(&sp->tail);
        cas_mutex_unlock(&sp->mutex);
        return 0;
}

int cas_spool_append(struct cas_spool *sp, const void *data, size_t len, struct cas_err *err)
{
        const uint8_t *at = data;
        while (len > 0) {
                size_t n = cas_min_u64(len, TAIL_BYTES_MAX - sp->tail.len_bytes);
                cas_mutex_lock(&sp->mutex);
                cas_buf_append(&sp->tail, at, n);
                cas_mutex_unlock(&sp->mutex);
                at += n;
                len -= n;
                if (sp->tail.len_bytes == TAIL_BYTES_MAX && flush_tail(sp, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

/* The file keeps what is cut off until it is written over or the spool is freed. */
void cas_spool_truncate(struct cas_spool *sp, uint64_t bytes)
{
        cas_assert(bytes <= cas_spool_bytes(sp));
        sp->tail.len_bytes = bytes > sp->file_bytes ? bytes - sp->file_bytes : 0;
        sp->file_bytes = cas_min_u64(bytes, sp->file_bytes);
}

int cas_spool_read(struct cas_spool *sp, uint64_t offset, void *buf, size_t len,
                   struct cas_err *err)
{
        uint8_t *out = buf;
        cas_mutex_lock(&sp->mutex);
        cas_assert(offset <= cas_spool_bytes(sp));
        cas_assert(len <= cas_spool_bytes(sp) - offset);
        size_t in_file = offset < sp->file_bytes ? cas_min_u64(len, sp->file_bytes - offset) : 0;
        if (len > in_file)
                memcpy(out + in_file, sp->tail.data + (offset + in_file - sp->file_bytes),
                       len - in_file);
        cas_mutex_unlock(&sp->mutex);
        if (in_file == 0)
                return 0; /* there may be no file, and one may be on its way */
        return cas_io_pread_exact(sp->store->io, sp->fd, out, in_file, offset, "spool", err);
}

int cas_spool_append_spool(struct cas_spool *sp, struct cas_spool *from, struct cas_err *err)
{
        cas_cleanup_free uint8_t *piece = cas_xmalloc(COPY_BYTES);
        uint64_t bytes = cas_spool_bytes(from);
        for (uint64_t at = 0; at < bytes;) {
                size_t n = cas_min_u64(COPY_BYTES, bytes - at);
                if (cas_spool_read(from, at, piece, n, err) < 0 ||
                    cas_spool_append(sp, piece, n, err) < 0)
                        return -(int)err->code;
                at += n;
        }
        return 0;
}
