/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/journal_int.h"

#include <errno.h>
#include <fcntl.h>
#include <xxhash.h>

#include "cas/store_int.h"

#define JOURNAL_NEW_PATH CAS_DIR_JOURNAL "/names.new"
#define JOURNAL_VERSION 1
#define JOURNAL_MAGIC "LAMJRNL\n"
#define HEADER_BYTES 64
#define GROUP_MAGIC 0x5052474cu /* "LGRP" */
#define GROUP_HEADER_BYTES 32
#define GROUP_PAYLOAD_BYTES_MAX (64 * CAS_MIB)
#define SNAPSHOT_GROUP_BYTES (1 * CAS_MIB)
/* Written anew when longer than this many times what it was after the last time, and this. */
#define COMPACT_FACTOR 4
#define COMPACT_BYTES_MIN (1 * CAS_MIB)

struct header {
        uint8_t store_id[16];
        uint64_t generation;    /* counts how often the journal was written anew */
        uint64_t base_sequence; /* what the snapshot includes */
        uint64_t snapshot_end;  /* offset behind the snapshot's groups */
};

struct cas_journal {
        const struct cas_io *io;
        int dirfd;
        int fd;
        struct header header;
        uint64_t sequence; /* of the last group */
        uint64_t end;      /* where the next group goes */
        uint64_t compact_base_bytes;
};

/* ---- header ---- */

static void header_encode(const struct header *h, uint8_t out[HEADER_BYTES])
{
        memset(out, 0, HEADER_BYTES);
        memcpy(out, JOURNAL_MAGIC, 8);
        cas_put_le32(out + 8, JOURNAL_VERSION);
        memcpy(out + 16, h->store_id, 16);
        cas_put_le64(out + 32, h->generation);
        cas_put_le64(out + 40, h->base_sequence);
        cas_put_le64(out + 48, h->snapshot_end);
        cas_put_le64(out + 56, XXH3_64bits(out, 56));
}

static int header_decode(const uint8_t raw[HEADER_BYTES], struct header *out, struct cas_err *err)
{
        if (memcmp(raw, JOURNAL_MAGIC, 8) != 0)
                return cas_fail(err, CAS_E_CORRUPT, "journal: not a journal");
        if (cas_get_le32(raw + 8) != JOURNAL_VERSION)
                return cas_fail(err, CAS_E_UNSUPPORTED, "journal: version %u",
                                cas_get_le32(raw + 8));
        memcpy(out->store_id, raw + 16, 16);
        out->generation = cas_get_le64(raw + 32);
        out->base_sequence = cas_get_le64(raw + 40);
        out->snapshot_end = cas_get_le64(raw + 48);
        if (cas_get_le64(raw + 56) != XXH3_64bits(raw, 56) || cas_get_le32(raw + 12) != 0 ||
            out->snapshot_end < HEADER_BYTES)
                return cas_fail(err, CAS_E_CORRUPT, "journal: damaged header");
        return 0;
}

static bool id_from_hex(const char *hex, uint8_t out[16])
{
        for (size_t i = 0; i < 32; i++) {
                const char *digits = "0123456789abcdef";
                const char *at = hex[i] ? strchr(digits, hex[i]) : NULL;
                if (!at)
                        return false;
                uint8_t v = (uint8_t)(at - digits);
                out[i / 2] = (uint8_t)(i % 2 ? out[i / 2] | v : v << 4);
        }
        return hex[32] == '\0';
}

/* ---- groups ---- */

struct group {
        uint64_t sequence;
        uint32_t count;
        struct cas_buf payload; /* owned */
};

static void group_encode(uint64_t sequence, uint32_t count, const struct cas_buf *payload,
                         struct cas_buf *out)
{
        size_t at = out->len_bytes;
        cas_buf_append_le32(out, GROUP_MAGIC);
        cas_buf_append_le32(out, (uint32_t)payload->len_bytes);
        cas_buf_append_le64(out, sequence);
        cas_buf_append_le32(out, count);
        cas_buf_append_le32(out, 0);
        cas_buf_append_le64(out, 0); /* where the checksum goes, zero while it is taken */
        cas_buf_append(out, payload->data, payload->len_bytes);
        cas_put_le64(out->data + at + 24, XXH3_64bits(out->data + at, out->len_bytes - at));
}

/* Reads the group at *offset and moves it behind; false in *whole (and the offset as it was)
 * when there is none. */
static int group_read(const struct cas_io *io, int fd, uint64_t *offset, struct group *g,
                      bool *whole, struct cas_err *err)
{
        uint8_t raw[GROUP_HEADER_BYTES];
        size_t got;
        *whole = false;
        int rc = cas_io_pread(io, fd, raw, sizeof(raw), *offset, &got, "journal", err);
        if (rc < 0 || got < sizeof(raw) || cas_get_le32(raw) != GROUP_MAGIC)
                return rc;
        size_t len = cas_get_le32(raw + 4);
        if (len > GROUP_PAYLOAD_BYTES_MAX)
                return 0;
        cas_buf_clear(&g->payload);
        rc = cas_buf_try_reserve(&g->payload, len + sizeof(raw),
                                 GROUP_PAYLOAD_BYTES_MAX + sizeof(raw), err);
        if (rc < 0)
                return rc;
        uint64_t checksum = cas_get_le64(raw + 24);
        cas_put_le64(raw + 24, 0);
        cas_buf_append(&g->payload, raw, sizeof(raw));
        rc = cas_io_pread(io, fd, g->payload.data + sizeof(raw), len, *offset + sizeof(raw), &got,
                          "journal", err);
        if (rc < 0 || got < len || XXH3_64bits(g->payload.data, sizeof(raw) + len) != checksum)
                return rc;
        memmove(g->payload.data, g->payload.data + sizeof(raw), len);
        g->payload.len_bytes = len;
        g->sequence = cas_get_le64(raw + 8);
        g->count = cas_get_le32(raw + 16);
        *offset += sizeof(raw) + len;
        *whole = true;
        return 0;
}

/* ---- creating, opening ---- */

int cas_journal_create(const struct cas_io *io, int dirfd, const char *store_id,
                       struct cas_err *err)
{
        struct header h = {.generation = 1, .snapshot_end = HEADER_BYTES};
        uint8_t raw[HEADER_BYTES];
        bool hex = id_from_hex(store_id, h.store_id);
        cas_assert(hex);
        header_encode(&h, raw);
        return cas_io_replace_file(io, dirfd, CAS_DIR_JOURNAL, CAS_JOURNAL_PATH, raw, sizeof(raw),
                                   0600, err);
}

static int read_header(struct cas_journal *j, const char *store_id, struct cas_err *err)
{
        uint8_t raw[HEADER_BYTES], id[16];
        int rc = cas_io_pread_exact(j->io, j->fd, raw, sizeof(raw), 0, "journal", err);
        if (rc == 0)
                rc = header_decode(raw, &j->header, err);
        if (rc < 0)
                return rc;
        if (!id_from_hex(store_id, id) || memcmp(id, j->header.store_id, sizeof(id)) != 0)
                return cas_fail(err, CAS_E_CORRUPT, "journal: belongs to another store");
        return 0;
}

/* Where the index left off. The journal may have been written anew since, with nothing added. */
static int start_after(struct cas_journal *j, const struct cas_journal_position *seen,
                       uint64_t size, struct cas_err *err)
{
        bool same = seen->generation == j->header.generation;
        bool anew = seen->generation < j->header.generation &&
                    seen->sequence == j->header.base_sequence;
        j->sequence = seen->sequence;
        j->end = same ? seen->offset : j->header.snapshot_end;
        if ((!same && !anew) || j->end > size)
                return cas_fail(err, CAS_E_CORRUPT,
                                "journal: lacks names that the index has seen (up to change %llu); "
                                "`lamina fsck --rebuild` keeps the names of the index",
                                (unsigned long long)seen->sequence);
        return 0;
}

/* Counts whole groups from j->end on; *last_end is where the last ends. */
static int count_groups(struct cas_journal *j, uint64_t *count, uint64_t *last_end,
                        uint64_t *last_sequence, struct cas_err *err)
{
        struct group g = {.payload = CAS_BUF_INIT};
        bool whole = true;
        int rc = 0;
        *last_end = j->end;
        *last_sequence = j->sequence;
        for (*count = 0; rc == 0; (*count)++) {
                uint64_t offset = *last_end;
                rc = group_read(j->io, j->fd, &offset, &g, &whole, err);
                if (rc < 0 || !whole || g.sequence != *last_sequence + 1)
                        break;
                *last_end = offset;
                *last_sequence = g.sequence;
        }
        cas_buf_release(&g.payload);
        return rc;
}

static int cut_tail(struct cas_journal *j, uint64_t size, struct cas_err *err)
{
        if (size == j->end)
                return 0;
        int rc = cas_io_ftruncate(j->io, j->fd, j->end, "journal", err);
        return rc < 0 ? rc : cas_io_fsync(j->io, j->fd, "journal", err);
}

static int find_end(struct cas_journal *j, const struct cas_journal_position *seen,
                    struct cas_err *err)
{
        uint64_t size = 0, count = 0, last_end = 0, last_sequence = 0;
        int rc = cas_io_size(j->io, j->dirfd, CAS_JOURNAL_PATH, &size, err);
        if (rc < 0)
                return rc;
        if (seen) {
                rc = start_after(j, seen, size, err);
        } else {
                j->end = j->header.snapshot_end;
                j->sequence = j->header.base_sequence;
        }
        if (rc == 0)
                rc = count_groups(j, &count, &last_end, &last_sequence, err);
        if (rc < 0)
                return rc;
        if (!seen) {
                j->end = last_end;
                j->sequence = last_sequence;
        } else if (count > 1) {
                return cas_fail(err, CAS_E_CORRUPT,
                                "index: lost %llu changes of names that the journal has; run "
                                "`lamina fsck --rebuild`",
                                (unsigned long long)count);
        }
        return cut_tail(j, size, err);
}

static int load(struct cas_journal *j, const char *store_id,
                const struct cas_journal_position *seen, struct cas_err *err)
{
        int rc = cas_io_unlink(j->io, j->dirfd, JOURNAL_NEW_PATH, err);
        if (rc == 0)
                rc = cas_io_open(j->io, j->dirfd, CAS_JOURNAL_PATH, O_RDWR, 0, &j->fd, err);
        if (rc == 0)
                rc = read_header(j, store_id, err);
        if (rc == 0)
                rc = find_end(j, seen, err);
        if (rc == 0)
                j->compact_base_bytes = j->header.snapshot_end;
        return rc;
}

int cas_journal_open(const struct cas_io *io, int dirfd, const char *store_id,
                     const struct cas_journal_position *seen, struct cas_journal **out,
                     struct cas_err *err)
{
        struct cas_journal *j = cas_xcalloc(1, sizeof(*j));
        *j = (struct cas_journal){.io = io, .dirfd = dirfd, .fd = -1};
        int rc = load(j, store_id, seen, err);
        if (rc < 0) {
                cas_journal_close(j);
                return rc;
        }
        *out = j;
        return 0;
}

int cas_journal_reopen(struct cas_journal *j, const char *store_id,
                       const struct cas_journal_position *seen, struct cas_err *err)
{
        if (j->fd >= 0)
                (void)j->io->ops->close(j->io->ctx, cas_steal_fd(&j->fd));
        return load(j, store_id, seen, err);
}

void cas_journal_close(struct cas_journal *j)
{
        if (!j)
                return;
        if (j->fd >= 0)
                (void)j->io->ops->close(j->io->ctx, j->fd);
        free(j);
}

struct cas_journal_position cas_journal_position(const struct cas_journal *j)
{
        return (struct cas_journal_position){
                .sequence = j->sequence, .generation = j->header.generation, .offset = j->end};
}

/* ---- appending, replaying ---- */

int cas_journal_dup(const struct cas_journal *j, int *out_fd, struct cas_err *err)
{
        *out_fd = fcntl(j->fd, F_DUPFD_CLOEXEC, 0);
        return *out_fd < 0 ? cas_fail_sys(err, errno, "journal") : 0;
}

int cas_journal_append(struct cas_journal *j, const struct cas_buf *records, uint32_t count,
                       bool *unknown, struct cas_err *err)
{
        *unknown = false;
        if (records->len_bytes > GROUP_PAYLOAD_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %llu bytes of names at once",
                                (unsigned long long)GROUP_PAYLOAD_BYTES_MAX);
        cas_cleanup_buf struct cas_buf group = CAS_BUF_INIT;
        group_encode(j->sequence + 1, count, records, &group);
        int rc = cas_io_pwrite_all(j->io, j->fd, group.data, group.len_bytes, j->end, "journal",
                                   err);
        if (rc < 0) {
                /* Nothing was synced: taking it back is enough. */
                struct cas_err ignored = CAS_ERR_INIT;
                *unknown = cas_io_ftruncate(j->io, j->fd, j->end, "journal", &ignored) < 0;
                return rc;
        }
        rc = cas_io_fdatasync(j->io, j->fd, "journal", err);
        if (rc < 0) {
                *unknown = true;
                return rc;
        }
        j->sequence++;
        j->end += group.len_bytes;
        return 0;
}

static int replay_group(const struct group *g,
                        int (*fn)(void *arg, const struct cas_name_record *rec,
                                  struct cas_err *err),
                        void *arg, struct cas_err *err)
{
        struct cas_cursor c = cas_cursor_over(g->payload.data, g->payload.len_bytes);
        for (uint32_t i = 0; i < g->count; i++) {
                struct cas_name_record rec;
                int rc = cas_name_record_decode(&c, &rec, err);
                if (rc == 0)
                        rc = fn(arg, &rec, err);
                if (rc < 0)
                        return rc;
        }
        return cas_cursor_end(&c, "journal", err);
}

int cas_journal_replay(struct cas_journal *j,
                       int (*fn)(void *arg, const struct cas_name_record *rec, struct cas_err *err),
                       void *arg, uint64_t *bad_offset, struct cas_err *err)
{
        struct group g = {.payload = CAS_BUF_INIT};
        uint64_t offset = HEADER_BYTES, sequence = j->header.base_sequence;
        bool whole = true;
        int rc = 0;
        while (rc == 0 && offset < j->end) {
                bool snapshot = offset < j->header.snapshot_end;
                uint64_t start = offset;
                rc = group_read(j->io, j->fd, &offset, &g, &whole, err);
                if (rc < 0)
                        break;
                if (!whole || g.sequence != sequence + !snapshot) {
                        offset = start;
                        break;
                }
                sequence = g.sequence;
                rc = replay_group(&g, fn, arg, err);
        }
        cas_buf_release(&g.payload);
        if (bad_offset)
                *bad_offset = offset < j->end ? offset : 0;
        else if (rc == 0 && offset < j->end)
                rc = cas_fail(err, CAS_E_CORRUPT, "journal: damaged at byte %llu",
                              (unsigned long long)offset);
        return rc;
}

/* A journal that is only read, up to what the index has seen. */
static int verify_open(struct cas_journal *j, const char *store_id,
                       const struct cas_journal_position *seen, struct cas_err *err)
{
        struct stat st;
        int rc = cas_io_open(j->io, j->dirfd, CAS_JOURNAL_PATH, O_RDONLY, 0, &j->fd, err);
        if (rc == 0)
                rc = read_header(j, store_id, err);
        if (rc < 0)
                return rc;
        if (fstat(j->fd, &st) != 0)
                return cas_fail_sys(err, errno, "stat journal");
        return start_after(j, seen, (uint64_t)st.st_size, err);
}

int cas_journal_verify(const struct cas_io *io, int dirfd, const char *store_id,
                       const struct cas_journal_position *seen,
                       int (*fn)(void *arg, const struct cas_name_record *rec, struct cas_err *err),
                       void *arg, uint64_t *bytes, struct cas_err *err)
{
        struct cas_journal j = {.io = io, .dirfd = dirfd, .fd = -1};
        *bytes = 0;
        int rc = verify_open(&j, store_id, seen, err);
        if (rc == 0) {
                *bytes = j.end;
                rc = cas_journal_replay(&j, fn, arg, NULL, err);
        }
        if (j.fd >= 0)
                (void)io->ops->close(io->ctx, j.fd);
        return rc;
}

/* ---- writing it anew ---- */

bool cas_journal_wants_compaction(const struct cas_journal *j)
{
        return j->end > COMPACT_FACTOR * j->compact_base_bytes + COMPACT_BYTES_MIN;
}

struct snapshot {
        const struct cas_io *io;
        int fd;
        uint64_t sequence;
        uint64_t end;
        struct cas_buf records;
        uint32_t count;
};

static int snapshot_flush(struct snapshot *snap, struct cas_err *err)
{
        if (snap->count == 0)
                return 0;
        cas_cleanup_buf struct cas_buf group = CAS_BUF_INIT;
        group_encode(snap->sequence, snap->count, &snap->records, &group);
        int rc = cas_io_pwrite_all(snap->io, snap->fd, group.data, group.len_bytes, snap->end,
                                   JOURNAL_NEW_PATH, err);
        if (rc < 0)
                return rc;
        snap->end += group.len_bytes;
        snap->count = 0;
        cas_buf_clear(&snap->records);
        return 0;
}

static int snapshot_put(void *sink, const struct cas_name_record *rec, struct cas_err *err)
{
        struct snapshot *snap = sink;
        cas_name_record_encode(rec, &snap->records);
        snap->count++;
        return snap->records.len_bytes >= SNAPSHOT_GROUP_BYTES ? snapshot_flush(snap, err) : 0;
}

/* The header goes last: it says how long the snapshot is. */
static int snapshot_finish(struct cas_journal *j, struct snapshot *snap, struct header *h,
                           struct cas_err *err)
{
        uint8_t raw[HEADER_BYTES];
        int rc = snapshot_flush(snap, err);
        h->snapshot_end = snap->end;
        header_encode(h, raw);
        if (rc == 0)
                rc = cas_io_pwrite_all(j->io, snap->fd, raw, sizeof(raw), 0, JOURNAL_NEW_PATH, err);
        if (rc == 0)
                rc = cas_io_fsync(j->io, snap->fd, JOURNAL_NEW_PATH, err);
        return rc;
}

int cas_journal_compact(struct cas_journal *j,
                        int (*feed)(void *arg, cas_journal_put_fn put, void *sink,
                                    struct cas_err *err),
                        void *arg, bool *unknown, struct cas_err *err)
{
        *unknown = false;
        struct snapshot snap = {
                .io = j->io, .fd = -1, .sequence = j->sequence, .end = HEADER_BYTES};
        struct header h = j->header;
        h.generation++;
        h.base_sequence = j->sequence;
        /* Not again at every commit when it fails. */
        j->compact_base_bytes = j->end;
        int rc = cas_io_open(j->io, j->dirfd, JOURNAL_NEW_PATH, O_RDWR | O_CREAT | O_TRUNC, 0600,
                             &snap.fd, err);
        if (rc < 0)
                return rc;
        rc = feed(arg, snapshot_put, &snap, err);
        if (rc == 0)
                rc = snapshot_finish(j, &snap, &h, err);
        cas_buf_release(&snap.records);
        if (rc == 0) {
                rc = cas_io_rename(j->io, j->dirfd, JOURNAL_NEW_PATH, j->dirfd, CAS_JOURNAL_PATH,
                                   err);
                *unknown = rc < 0;
        }
        if (rc < 0) {
                struct cas_err ignored = CAS_ERR_INIT;
                (void)j->io->ops->close(j->io->ctx, snap.fd);
                if (!*unknown && cas_io_unlink(j->io, j->dirfd, JOURNAL_NEW_PATH, &ignored) < 0)
                        return rc; /* the next opening removes it */
                return rc;
        }
        (void)j->io->ops->close(j->io->ctx, j->fd);
        j->fd = snap.fd;
        j->header = h;
        j->end = snap.end;
        j->compact_base_bytes = snap.end;
        rc = cas_io_sync_dir(j->io, j->dirfd, CAS_DIR_JOURNAL, err);
        *unknown = rc < 0;
        return rc;
}
