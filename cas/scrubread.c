/* SPDX-License-Identifier: Apache-2.0 */
/* Reading of files past the page cache (O_DIRECT; where a file system has none, what was read is
 * dropped from it again), and of blocks past the cache of blocks: looking at everything shall not
 * push out what is used. */
#include "cas/scrub_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "cas/packfile_int.h"

#define ALIGN_BYTES 4096
#define WINDOW_BYTES (2 * CAS_MIB)
/* The last two: a record that begins in one ends in the next. */
#define WINDOWS 2
/* A chunk may move between looking it up and opening its pack. */
#define LOOKUPS_MAX 4

struct window {
        uint64_t at;
        size_t len;
        uint8_t *data; /* owned, aligned; NULL: none yet */
};

struct cas_scrub_file {
        struct cas_scrub_run *run;
        struct cas_io io; /* this file's reading; its context is the file */
        char *path;       /* owned */
        int fd;
        bool direct;
        struct window windows[WINDOWS];
        unsigned newest;
        struct cas_hasher *hasher; /* borrowed; NULL: none */
        uint64_t fed_bytes;        /* to it, from the beginning on */
};

/* ---- opening ---- */

/* O_DIRECT where there is that. */
static int open_past_cache(struct cas_scrub_run *run, int dirfd, const char *path, int *out_fd,
                           bool *direct, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        const int flags = O_RDONLY | O_NOFOLLOW;
        int rc = cas_io_open(run->s->io, dirfd, path, flags | O_DIRECT, 0, out_fd, &why);
        *direct = rc == 0;
        if (rc < 0 && why.sys_errno == EINVAL)
                return cas_io_open(run->s->io, dirfd, path, flags, 0, out_fd, err);
        if (rc < 0)
                *err = why;
        return rc;
}

/* The home copy of a pack. One that is remote is fetched, and paid for. */
static int open_pack_past_cache(struct cas_scrub_run *run, uint64_t pack_id, int *out_fd,
                                bool *direct, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        bool fetched;
        struct stat st;
        int rc = cas_packset_open_flags(run->s->packset, pack_id, O_NOFOLLOW | O_DIRECT, out_fd,
                                        &fetched, &why);
        *direct = rc == 0 && !fetched;
        if (rc < 0 && why.sys_errno == EINVAL)
                return cas_packset_open_flags(run->s->packset, pack_id, O_NOFOLLOW, out_fd,
                                              &fetched, err);
        if (rc < 0)
                *err = why;
        else if (fetched && fstat(*out_fd, &st) == 0)
                cas_scrub_read(run, (uint64_t)st.st_size);
        return rc;
}

static ssize_t file_pread(void *ctx, int fd, void *buf, size_t len, off_t offset);
static const struct cas_io_ops file_ops = {.pread = file_pread};

static struct cas_scrub_file *file_new(struct cas_scrub_run *run, const char *path, int fd,
                                       bool direct)
{
        struct cas_scrub_file *f = cas_xcalloc(1, sizeof(*f));
        f->run = run;
        f->io = (struct cas_io){.ops = &file_ops, .ctx = f};
        f->path = cas_xstrdup(path);
        f->fd = fd;
        f->direct = direct;
        return f;
}

int cas_scrub_file_open(struct cas_scrub_run *run, int dirfd, const char *path,
                        struct cas_scrub_file **out, struct cas_err *err)
{
        int fd = -1;
        bool direct = false;
        int rc = open_past_cache(run, dirfd, path, &fd, &direct, err);
        if (rc == 0)
                *out = file_new(run, path, fd, direct);
        return rc;
}

int cas_scrub_file_open_pack(struct cas_scrub_run *run, uint64_t pack_id,
                             struct cas_scrub_file **out, struct cas_err *err)
{
        char name[CAS_PACK_NAME_BYTES];
        int fd = -1;
        bool direct = false;
        int rc = open_pack_past_cache(run, pack_id, &fd, &direct, err);
        if (rc == 0)
                *out = file_new(run, cas_pack_name(pack_id, name), fd, direct);
        return rc;
}

void cas_scrub_file_close(struct cas_scrub_file *f)
{
        if (!f)
                return;
        for (unsigned i = 0; i < WINDOWS; i++)
                free(f->windows[i].data);
        (void)f->run->s->io->ops->close(f->run->s->io->ctx, f->fd);
        free(f->path);
        free(f);
}

int cas_scrub_file_fd(const struct cas_scrub_file *f)
{
        return f->fd;
}

const struct cas_io *cas_scrub_file_io(const struct cas_scrub_file *f)
{
        return &f->io;
}

void cas_scrub_file_feed(struct cas_scrub_file *f, struct cas_hasher *hasher)
{
        f->hasher = hasher;
        f->fed_bytes = 0;
}

/* ---- windows ---- */

static void feed(struct cas_scrub_file *f, const struct window *w)
{
        if (!f->hasher || f->fed_bytes < w->at || f->fed_bytes >= w->at + w->len)
                return;
        size_t skip = f->fed_bytes - w->at;
        cas_hasher_update(f->hasher, w->data + skip, w->len - skip);
        f->fed_bytes = w->at + w->len;
}

static int load(struct cas_scrub_file *f, uint64_t at, struct window **out, struct cas_err *err)
{
        f->newest = (f->newest + 1) % WINDOWS;
        struct window *w = &f->windows[f->newest];
        if (!w->data && posix_memalign((void **)&w->data, ALIGN_BYTES, WINDOW_BYTES) != 0) {
                w->data = NULL;
                return cas_fail(err, CAS_E_NOMEM, "no memory to read %s", f->path);
        }
        w->at = at;
        w->len = 0;
        int rc = cas_io_pread_blocks(f->run->s->io, f->fd, w->data, WINDOW_BYTES,
                                     f->direct ? ALIGN_BYTES : 1, at, &w->len, f->path, err);
        if (rc < 0)
                return rc;
        if (!f->direct)
                (void)posix_fadvise(f->fd, (off_t)at, (off_t)WINDOW_BYTES, POSIX_FADV_DONTNEED);
        feed(f, w);
        cas_scrub_read(f->run, w->len);
        *out = w;
        return 0;
}

/* The window with the byte at `offset`; it may be too short to have it, at the file's end. */
static int window_at(struct cas_scrub_file *f, uint64_t offset, struct window **out,
                     struct cas_err *err)
{
        uint64_t start = offset / WINDOW_BYTES * WINDOW_BYTES;
        for (unsigned i = 0; i < WINDOWS; i++) {
                struct window *w = &f->windows[i];
                if (w->data && w->at == start && offset < w->at + w->len) {
                        *out = w;
                        return 0;
                }
        }
        return load(f, start, out, err);
}

static int read_some(struct cas_scrub_file *f, void *buf, size_t len, uint64_t offset,
                     size_t *out_len, struct cas_err *err)
{
        size_t got = 0;
        while (got < len) {
                struct window *w;
                int rc = window_at(f, offset + got, &w, err);
                if (rc < 0)
                        return rc;
                size_t skip = offset + got - w->at;
                if (skip >= w->len)
                        break;
                size_t n = cas_min_u64(len - got, w->len - skip);
                memcpy((uint8_t *)buf + got, w->data + skip, n);
                got += n;
        }
        *out_len = got;
        return 0;
}

static ssize_t file_pread(void *ctx, int fd, void *buf, size_t len, off_t offset)
{
        struct cas_scrub_file *f = ctx;
        size_t got = 0;
        struct cas_err err = CAS_ERR_INIT;
        cas_assert(fd == f->fd);
        if (read_some(f, buf, len, (uint64_t)offset, &got, &err) < 0) {
                errno = err.sys_errno ? err.sys_errno : EIO;
                return -1;
        }
        return (ssize_t)got;
}

int cas_scrub_file_rest(struct cas_scrub_file *f, uint64_t *bytes, struct cas_err *err)
{
        uint64_t at = f->hasher ? f->fed_bytes : 0;
        for (;;) {
                struct window *w;
                int rc = window_at(f, at, &w, err);
                if (rc < 0)
                        return rc;
                feed(f, w);
                at = w->at + w->len;
                if (w->len < WINDOW_BYTES)
                        break;
        }
        *bytes = at;
        return 0;
}

int cas_scrub_hash_file(struct cas_scrub_run *run, int dirfd, const char *path,
                        enum cas_digest_alg alg, struct cas_digest *out, uint64_t *out_bytes,
                        struct cas_err *err)
{
        cas_cleanup_scrub_file struct cas_scrub_file *f = NULL;
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(alg);
        int rc = cas_scrub_file_open(run, dirfd, path, &f, err);
        if (rc < 0)
                return rc;
        cas_scrub_file_feed(f, hasher);
        rc = cas_scrub_file_rest(f, out_bytes, err);
        if (rc == 0)
                cas_hasher_final(hasher, out);
        return rc;
}

/* ---- blocks ---- */

struct cas_scrub_blocks {
        struct cas_scrub_run *run;
        bool fetches;
        uint64_t pack_id; /* of fd; 0: none */
        int fd;
        /* of what is decoded; raw_bytes 0: nothing */
        uint64_t block_pack, block_offset, block_checksum;
        uint32_t raw_bytes;
        struct cas_buf raw, scratch;
};

struct cas_scrub_blocks *cas_scrub_blocks_new(struct cas_scrub_run *run, bool fetches)
{
        struct cas_scrub_blocks *b = cas_xcalloc(1, sizeof(*b));
        b->run = run;
        b->fetches = fetches;
        b->fd = -1;
        return b;
}

static void close_pack(struct cas_scrub_blocks *b)
{
        if (b->fd >= 0)
                (void)b->run->s->io->ops->close(b->run->s->io->ctx, cas_steal_fd(&b->fd));
        b->pack_id = 0;
}

void cas_scrub_blocks_free(struct cas_scrub_blocks *b)
{
        if (!b)
                return;
        close_pack(b);
        cas_buf_release(&b->raw);
        cas_buf_release(&b->scratch);
        free(b);
}

static int open_pack(struct cas_scrub_blocks *b, uint64_t pack_id, struct cas_err *err)
{
        struct cas_packset *ps = b->run->s->packset;
        struct cas_pack_home home;
        bool direct;
        if (b->fd >= 0 && b->pack_id == pack_id)
                return 0;
        close_pack(b);
        int rc = cas_packset_home(ps, pack_id, &home, err);
        if (rc == -CAS_E_IO && !cas_packset_is_reachable(ps, home.rec.tier))
                return cas_fail(err, CAS_E_BUSY, "its tier cannot be reached");
        if (rc == 0 && home.dirfd < 0 && !b->fetches)
                return cas_fail(err, CAS_E_BUSY, "it is remote");
        if (rc == 0)
                rc = open_pack_past_cache(b->run, pack_id, &b->fd, &direct, err);
        if (rc == 0)
                b->pack_id = pack_id;
        return rc;
}

static int load_block(struct cas_scrub_blocks *b, const struct cas_chunk_record *rec,
                      struct cas_err *err)
{
        const struct cas_extent extent = {
                .length_bytes = rec->length_bytes,
                .chunk_offset = rec->chunk_offset,
                .pack_id = rec->pack_id,
                .block_offset = rec->block_offset,
                .block_stored_bytes = rec->block_stored_bytes,
                .block_raw_bytes = rec->block_raw_bytes,
                .block_checksum = rec->block_checksum,
                .codec = rec->codec,
        };
        if (b->raw_bytes == rec->block_raw_bytes && b->block_pack == rec->pack_id &&
            b->block_offset == rec->block_offset && b->block_checksum == rec->block_checksum)
                return 0;
        int rc = open_pack(b, rec->pack_id, err);
        if (rc < 0)
                return rc;
        b->raw_bytes = 0;
        cas_buf_clear(&b->raw);
        rc = cas_buf_try_reserve(&b->raw, rec->block_raw_bytes, CAS_BLOCK_BYTES_MAX, err);
        if (rc == 0)
                rc = cas_block_read(b->fd, &extent, b->raw.data, &b->scratch, err);
        if (rc < 0)
                return rc;
        b->raw_bytes = rec->block_raw_bytes;
        b->block_pack = rec->pack_id;
        b->block_offset = rec->block_offset;
        b->block_checksum = rec->block_checksum;
        cas_scrub_read(b->run, rec->block_stored_bytes);
        return 0;
}

static int get_chunk(struct cas_scrub_run *run, const struct cas_hash *chunk,
                     struct cas_chunk_record *rec, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        int rc = cas_index_peek(run->s->index, CAS_FAMILY_CHUNKS, chunk->bytes, CAS_HASH_BYTES,
                                &value, err);
        return rc < 0 ? rc : cas_chunk_record_decode(value.data, value.len_bytes, rec, err);
}

int cas_scrub_chunk_bytes(struct cas_scrub_blocks *b, const struct cas_hash *chunk,
                          struct cas_chunk_record *rec, const uint8_t **out, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        for (unsigned i = 0; i < LOOKUPS_MAX; i++) {
                int rc = get_chunk(b->run, chunk, rec, err);
                if (rc < 0)
                        return rc;
                rc = load_block(b, rec, &why);
                if (rc == 0) {
                        *out = b->raw.data + rec->chunk_offset;
                        return 0;
                }
                if (rc != -CAS_E_NOTFOUND)
                        break;
        }
        *err = why;
        if (err->code == CAS_E_NOTFOUND || err->code == CAS_E_LIMIT)
                err->code = CAS_E_CORRUPT; /* the index has it, and nobody can read it */
        return -(int)err->code;
}
