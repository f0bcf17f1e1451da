/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/twinlog_int.h"

#include <errno.h>
#include <fcntl.h>
#include <xxhash.h>

#include "cas/log.h"

#define VERSION 1
/* Read and written so many records at a time. */
#define RECORDS_AT_ONCE 4096
/* Out of date, beside as many as are live. */
#define STALE_RECORDS_MAX (UINT64_C(1) << 16)

struct tier_twinlog {
        const struct cas_io *io;
        int dirfd; /* borrowed */
        int fd;    /* owned; -1: it failed */
        uint64_t end_offset;
};

void tier_twinlog_encode(const struct tier_twinlog_record *r,
                         uint8_t out[TIER_TWINLOG_RECORD_BYTES])
{
        cas_put_le64(out, r->pack_id);
        cas_put_le64(out + 8, r->offset);
        cas_put_le32(out + 16, r->bytes);
        cas_put_le32(out + 20, (uint32_t)r->kind);
        cas_put_le64(out + 24, XXH3_64bits(out, 24));
}

bool tier_twinlog_decode(const uint8_t in[TIER_TWINLOG_RECORD_BYTES],
                         struct tier_twinlog_record *out)
{
        uint32_t kind = cas_get_le32(in + 20);
        *out = (struct tier_twinlog_record){.kind = (enum tier_twinlog_kind)kind,
                                            .pack_id = cas_get_le64(in),
                                            .offset = cas_get_le64(in + 8),
                                            .bytes = cas_get_le32(in + 16)};
        return cas_get_le64(in + 24) == XXH3_64bits(in, 24) &&
               (kind == TIER_TWINLOG_CAME || kind == TIER_TWINLOG_WENT) && out->bytes > 0 &&
               out->offset <= (uint64_t)INT64_MAX - out->bytes;
}

static bool head_is_ours(const uint8_t head[TIER_TWINLOG_HEAD_BYTES])
{
        return memcmp(head, TIER_TWINLOG_MAGIC, 8) == 0 && cas_get_le32(head + 8) == VERSION;
}

/* Tells of the records that are there. */
static int read_records(struct tier_twinlog *l,
                        void (*fn)(void *arg, const struct tier_twinlog_record *r), void *arg,
                        struct cas_err *err)
{
        cas_cleanup_free uint8_t *bytes =
                cas_xmalloc((size_t)RECORDS_AT_ONCE * TIER_TWINLOG_RECORD_BYTES);
        size_t got = 0;
        if (cas_io_pread(l->io, l->fd, bytes, TIER_TWINLOG_HEAD_BYTES, 0, &got, TIER_TWINLOG_NAME,
                         err) < 0)
                return -(int)err->code;
        if (got < TIER_TWINLOG_HEAD_BYTES || !head_is_ours(bytes))
                return 0;
        l->end_offset = TIER_TWINLOG_HEAD_BYTES;
        for (uint64_t read = 0; read < TIER_TWINLOG_RECORDS_MAX;) {
                if (cas_io_pread(l->io, l->fd, bytes,
                                 (size_t)RECORDS_AT_ONCE * TIER_TWINLOG_RECORD_BYTES, l->end_offset,
                                 &got, TIER_TWINLOG_NAME, err) < 0)
                        return -(int)err->code;
                size_t count = got / TIER_TWINLOG_RECORD_BYTES;
                for (size_t i = 0; i < count; i++) {
                        struct tier_twinlog_record r;
                        if (!tier_twinlog_decode(bytes + i * TIER_TWINLOG_RECORD_BYTES, &r))
                                return 0;
                        fn(arg, &r);
                        l->end_offset += TIER_TWINLOG_RECORD_BYTES;
                }
                read += count;
                if (count < RECORDS_AT_ONCE)
                        break;
        }
        return 0;
}

int tier_twinlog_open(const struct cas_io *io, int dirfd,
                      void (*fn)(void *arg, const struct tier_twinlog_record *r), void *arg,
                      struct tier_twinlog **out, struct cas_err *err)
{
        struct tier_twinlog *l = cas_xcalloc(1, sizeof(*l));
        *l = (struct tier_twinlog){.io = io, .dirfd = dirfd, .fd = -1};
        int rc = cas_io_open(io, dirfd, TIER_TWINLOG_NAME, O_RDWR | O_CREAT | O_NOFOLLOW, 0600,
                             &l->fd, err);
        if (rc == 0)
                rc = read_records(l, fn, arg, err);
        if (rc < 0) {
                tier_twinlog_close(l);
                return rc;
        }
        *out = l;
        return 0;
}

void tier_twinlog_close(struct tier_twinlog *l)
{
        if (!l)
                return;
        if (l->fd >= 0)
                (void)close(l->fd);
        free(l);
}

static void give_up(struct tier_twinlog *l, const struct cas_err *why)
{
        cas_log(CAS_LOG_WARN, "blocks.log", "error=\"%s\"", why->msg);
        (void)close(cas_steal_fd(&l->fd));
}

void tier_twinlog_append(struct tier_twinlog *l, const struct tier_twinlog_record *r)
{
        uint8_t bytes[TIER_TWINLOG_RECORD_BYTES];
        struct cas_err err = CAS_ERR_INIT;
        if (l->fd < 0)
                return;
        tier_twinlog_encode(r, bytes);
        if (cas_io_pwrite_all(l->io, l->fd, bytes, sizeof(bytes), l->end_offset, TIER_TWINLOG_NAME,
                              &err) < 0)
                give_up(l, &err);
        else
                l->end_offset += sizeof(bytes);
}

bool tier_twinlog_is_long(const struct tier_twinlog *l, uint64_t live)
{
        return l->end_offset / TIER_TWINLOG_RECORD_BYTES > 2 * live + STALE_RECORDS_MAX;
}

static int write_records(const struct cas_io *io, int fd,
                         bool (*next)(void *arg, struct tier_twinlog_record *out), void *arg,
                         uint64_t *end_offset, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf buf = CAS_BUF_INIT;
        bool more = true;
        cas_buf_append(&buf, TIER_TWINLOG_MAGIC, 8);
        cas_buf_append_le32(&buf, VERSION);
        cas_buf_append_le32(&buf, 0);
        for (*end_offset = 0; more;) {
                for (size_t i = 0; i < RECORDS_AT_ONCE && more; i++) {
                        struct tier_twinlog_record r;
                        uint8_t bytes[TIER_TWINLOG_RECORD_BYTES];
                        more = next(arg, &r);
                        if (!more)
                                break;
                        tier_twinlog_encode(&r, bytes);
                        cas_buf_append(&buf, bytes, sizeof(bytes));
                }
                if (cas_io_pwrite_all(io, fd, buf.data, buf.len_bytes, *end_offset,
                                      TIER_TWINLOG_NAME, err) < 0)
                        return -(int)err->code;
                *end_offset += buf.len_bytes;
                cas_buf_clear(&buf);
        }
        return 0;
}

int tier_twinlog_renew(struct tier_twinlog *l,
                       bool (*next)(void *arg, struct tier_twinlog_record *out), void *arg,
                       struct cas_err *err)
{
        cas_cleanup_fd int fd = -1;
        uint64_t end_offset = 0;
        int rc = cas_io_open(l->io, l->dirfd, TIER_TWINLOG_NEW_NAME,
                             O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600, &fd, err);
        if (rc == 0)
                rc = write_records(l->io, fd, next, arg, &end_offset, err);
        if (rc == 0)
                rc = cas_io_rename(l->io, l->dirfd, TIER_TWINLOG_NEW_NAME, l->dirfd,
                                   TIER_TWINLOG_NAME, err);
        if (rc < 0)
                return rc;
        if (l->fd >= 0)
                (void)close(l->fd);
        l->fd = cas_steal_fd(&fd);
        l->end_offset = end_offset;
        return 0;
}
