/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/hookqueue.h"

#include <errno.h>
#include <fcntl.h>
#include <xxhash.h>

#include "cas/limits.h"
#include "cas/mutex.h"

/* Of the first record: what a damaged file says must leave room for what follows. */
#define SEQUENCE_MAX (UINT64_MAX / 2)
#define HEADER_BYTES 64
#define HEADER_VERSION 1
#define RECORD_MAGIC UINT32_C(0x5456454c) /* "LEVT" */
/* The file is written anew when so much of it is done with, and twice as much as still waits. */
#define DONE_BYTES_MAX (4 * CAS_MIB)

static const char header_magic[8] = {'L', 'A', 'M', 'H', 'O', 'O', 'K', '\n'};

struct reg_hookqueue {
        const struct cas_io *io;
        int dirfd;
        char *dir, *path; /* owned */
        uint8_t header[HEADER_BYTES];
        uint64_t max_bytes;

        struct cas_mutex mutex; /* guards all below */
        pthread_cond_t change;  /* syncing */
        int fd;
        uint64_t end;           /* of the file's whole records */
        uint64_t head;          /* where the next event to deliver is, or some record before it */
        uint64_t next_sequence; /* of the next event */
        uint64_t delivered;     /* sequence of the last event that was */
        uint64_t pending_bytes; /* records of events that wait */
        uint64_t synced;        /* sequence of the last event that is durable */
        bool syncing;           /* a thread syncs the file, without the lock */
        bool doubtful;          /* a sync has failed: another of this file would prove nothing */
};

/* ---- records ---- */

static uint64_t record_checksum(const uint8_t *head, const void *payload, size_t payload_bytes)
{
        return XXH3_64bits_withSeed(payload, payload_bytes, XXH3_64bits(head, 24));
}

void reg_hookrecord_encode(const struct reg_hookrecord *rec, struct cas_buf *out)
{
        size_t at = out->len_bytes;
        cas_buf_append_le32(out, RECORD_MAGIC);
        cas_buf_append_le32(out, (uint32_t)rec->payload_bytes);
        cas_buf_append_le64(out, rec->sequence);
        cas_buf_append_le32(out, rec->kind);
        cas_buf_append_le32(out, 0);
        cas_buf_append_le64(out, record_checksum(out->data + at, rec->payload, rec->payload_bytes));
        cas_buf_append(out, rec->payload, rec->payload_bytes);
}

size_t reg_hookrecord_bytes(const void *head)
{
        const uint8_t *p = head;
        uint32_t payload = cas_get_le32(p + 4);
        bool good = cas_get_le32(p) == RECORD_MAGIC && payload <= REG_HOOKQUEUE_EVENT_BYTES_MAX;
        return good ? REG_HOOKRECORD_HEAD_BYTES + (size_t)payload : 0;
}

size_t reg_hookrecord_decode(const void *data, size_t len, struct reg_hookrecord *out)
{
        const uint8_t *p = data;
        size_t bytes = len >= REG_HOOKRECORD_HEAD_BYTES ? reg_hookrecord_bytes(p) : 0;
        if (bytes == 0 || bytes > len)
                return 0;
        uint32_t kind = cas_get_le32(p + 16);
        *out = (struct reg_hookrecord){.kind = (enum reg_hookrecord_kind)kind,
                                       .sequence = cas_get_le64(p + 8),
                                       .payload = p + REG_HOOKRECORD_HEAD_BYTES,
                                       .payload_bytes = bytes - REG_HOOKRECORD_HEAD_BYTES};
        if (record_checksum(p, out->payload, out->payload_bytes) != cas_get_le64(p + 24) ||
            cas_get_le32(p + 20) != 0)
                return 0;
        if (kind == REG_HOOKRECORD_DELIVERED)
                return out->payload_bytes == 0 ? bytes : 0;
        return kind == REG_HOOKRECORD_EVENT && out->payload_bytes > 0 ? bytes : 0;
}

/* ---- opening ---- */

static void header_make(const char *store_id, uint8_t out[HEADER_BYTES])
{
        memset(out, 0, HEADER_BYTES);
        memcpy(out, header_magic, sizeof(header_magic));
        cas_put_le32(out + 8, HEADER_VERSION);
        for (size_t i = 0; i < 32 && store_id[i]; i++) {
                char c = store_id[i];
                unsigned digit = (unsigned)(c >= 'a' ? c - 'a' + 10 : c - '0') & 15;
                out[16 + i / 2] |= (uint8_t)(digit << (i % 2 ? 0 : 4));
        }
        cas_put_le64(out + 56, XXH3_64bits(out, 56));
}

/* A file of nothing but the header, in the place of what is there. */
static int file_create(struct reg_hookqueue *q, struct cas_err *err)
{
        return cas_io_replace_file(q->io, q->dirfd, q->dir, q->path, q->header, HEADER_BYTES, 0600,
                                   err);
}

static int header_check(const struct reg_hookqueue *q, struct cas_err *err)
{
        uint8_t have[HEADER_BYTES];
        size_t len;
        int rc = cas_io_pread(q->io, q->fd, have, sizeof(have), 0, &len, q->path, err);
        if (rc < 0)
                return rc;
        if (len < HEADER_BYTES || memcmp(have, header_magic, sizeof(header_magic)) != 0 ||
            cas_get_le64(have + 56) != XXH3_64bits(have, 56))
                return cas_fail(err, CAS_E_CORRUPT, "%s: not a queue of events", q->path);
        if (cas_get_le32(have + 8) != HEADER_VERSION)
                return cas_fail(err, CAS_E_UNSUPPORTED, "%s: version %u", q->path,
                                cas_get_le32(have + 8));
        if (memcmp(have, q->header, HEADER_BYTES) != 0)
                return cas_fail(err, CAS_E_CORRUPT, "%s: of another store", q->path);
        return 0;
}

/* Reads the record at `at` into buf. *bytes 0: there is no whole one. */
static int record_read(const struct reg_hookqueue *q, uint64_t at, struct cas_buf *buf,
                       struct reg_hookrecord *rec, size_t *bytes, struct cas_err *err)
{
        size_t got;
        cas_buf_clear(buf);
        cas_buf_reserve(buf, REG_HOOKRECORD_HEAD_BYTES + REG_HOOKQUEUE_EVENT_BYTES_MAX);
        *bytes = 0;
        int rc = cas_io_pread(q->io, q->fd, buf->data, REG_HOOKRECORD_HEAD_BYTES, at, &got, q->path,
                              err);
        if (rc < 0 || got < REG_HOOKRECORD_HEAD_BYTES)
                return rc;
        size_t want = reg_hookrecord_bytes(buf->data);
        if (want == 0)
                return 0;
        rc = cas_io_pread(q->io, q->fd, buf->data, want, at, &got, q->path, err);
        if (rc == 0)
                *bytes = reg_hookrecord_decode(buf->data, got, rec);
        return rc;
}

/* Counts what waits behind what was delivered. */
static int count_pending(struct reg_hookqueue *q, struct cas_buf *buf, struct cas_err *err)
{
        struct reg_hookrecord rec;
        size_t bytes;
        bool first = true;
        q->head = q->end;
        for (uint64_t at = HEADER_BYTES; at < q->end; at += bytes) {
                int rc = record_read(q, at, buf, &rec, &bytes, err);
                if (rc < 0)
                        return rc;
                if (bytes == 0)
                        return cas_fail(err, CAS_E_IO, "%s: changes while it is read", q->path);
                if (rec.kind != REG_HOOKRECORD_EVENT || rec.sequence <= q->delivered)
                        continue;
                if (first)
                        q->head = at;
                first = false;
                q->pending_bytes += bytes;
        }
        return 0;
}

/* Whether a record may follow: sequences of events have no gap, and what is delivered was there.
 * The first record says where they begin. */
static bool sequence_take(struct reg_hookqueue *q, const struct reg_hookrecord *rec, bool first,
                          uint64_t *last)
{
        bool event = rec->kind == REG_HOOKRECORD_EVENT;
        if (event && rec->sequence == 0)
                return false;
        if (first) {
                if (rec->sequence > SEQUENCE_MAX)
                        return false;
                *last = rec->sequence;
                q->delivered = event ? rec->sequence - 1 : rec->sequence;
                return true;
        }
        if (event ? rec->sequence != *last + 1 : rec->sequence > *last)
                return false;
        if (event)
                *last = rec->sequence;
        else
                q->delivered = cas_max_u64(q->delivered, rec->sequence);
        return true;
}

/* Finds the end of what is whole, and what of it was delivered. */
static int recover(struct reg_hookqueue *q, uint64_t *cut_bytes, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf buf = CAS_BUF_INIT;
        struct reg_hookrecord rec;
        uint64_t size, last = 0;
        size_t bytes;
        int rc = cas_io_size(q->io, q->dirfd, q->path, &size, err);
        q->end = HEADER_BYTES;
        while (rc == 0) {
                rc = record_read(q, q->end, &buf, &rec, &bytes, err);
                if (rc < 0 || bytes == 0)
                        break;
                if (!sequence_take(q, &rec, q->end == HEADER_BYTES, &last))
                        break;
                q->end += bytes;
        }
        if (rc < 0)
                return rc;
        q->next_sequence = last + 1;
        q->synced = last;
        *cut_bytes = size > q->end ? size - q->end : 0;
        if (*cut_bytes > 0)
                rc = cas_io_ftruncate(q->io, q->fd, q->end, q->path, err);
        return rc < 0 ? rc : count_pending(q, &buf, err);
}

void reg_hookqueue_close(struct reg_hookqueue *q)
{
        if (!q)
                return;
        if (q->fd >= 0)
                (void)q->io->ops->close(q->io->ctx, q->fd);
        (void)pthread_cond_destroy(&q->change);
        cas_mutex_release(&q->mutex);
        free(q->dir);
        free(q->path);
        free(q);
}

static int file_open(struct reg_hookqueue *q, struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_io_open(q->io, q->dirfd, q->path, O_RDWR, 0, &q->fd, &miss);
        if (rc == -CAS_E_NOTFOUND) {
                rc = file_create(q, err);
                return rc < 0 ? rc : cas_io_open(q->io, q->dirfd, q->path, O_RDWR, 0, &q->fd, err);
        }
        if (rc < 0)
                *err = miss;
        return rc;
}

int reg_hookqueue_open(const struct reg_hookqueue_config *config, struct reg_hookqueue **out,
                       uint64_t *cut_bytes, struct cas_err *err)
{
        struct reg_hookqueue *q = cas_xcalloc(1, sizeof(*q));
        q->io = config->io ? config->io : cas_io_posix();
        q->dirfd = config->dirfd;
        q->dir = cas_xstrdup(config->dir);
        q->path = cas_xasprintf("%s/%s", config->dir, config->name);
        q->max_bytes = config->max_bytes;
        q->fd = -1;
        cas_mutex_init(&q->mutex, "webhook queue");
        cas_cond_init(&q->change);
        header_make(config->store_id, q->header);
        int rc = file_open(q, err);
        if (rc == 0)
                rc = header_check(q, err);
        if (rc == 0)
                rc = recover(q, cut_bytes, err);
        if (rc < 0)
                reg_hookqueue_close(q);
        else
                *out = q;
        return rc;
}

/* ---- adding ---- */

static int append_locked(struct reg_hookqueue *q, const struct cas_buf *record, struct cas_err *err)
{
        cas_assert_held(&q->mutex);
        int rc = cas_io_pwrite_all(q->io, q->fd, record->data, record->len_bytes, q->end, q->path,
                                   err);
        if (rc == 0) {
                q->end += record->len_bytes;
                return 0;
        }
        struct cas_err ignored = CAS_ERR_INIT; /* else the next record overwrites what is there */
        (void)!cas_io_ftruncate(q->io, q->fd, q->end, q->path, &ignored);
        return rc;
}

/* Only what waits, in a new file. Sequences go on: its first record says where. */
static int rewrite_locked(struct reg_hookqueue *q, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf all = CAS_BUF_INIT;
        const struct reg_hookrecord done = {.kind = REG_HOOKRECORD_DELIVERED,
                                            .sequence = q->delivered,
                                            .payload = (const uint8_t *)""};
        cas_assert_held(&q->mutex);
        while (q->syncing)
                cas_mutex_wait(&q->mutex, &q->change);
        uint64_t len = q->end - q->head; /* others may have added while this one waited */
        int rc = cas_buf_try_reserve(&all, HEADER_BYTES + REG_HOOKRECORD_HEAD_BYTES + len, SIZE_MAX,
                                     err);
        if (rc < 0)
                return rc;
        cas_buf_append(&all, q->header, HEADER_BYTES);
        reg_hookrecord_encode(&done, &all);
        rc = cas_io_pread_exact(q->io, q->fd, all.data + all.len_bytes, len, q->head, q->path, err);
        all.len_bytes += len;
        if (rc == 0)
                rc = cas_io_replace_file(q->io, q->dirfd, q->dir, q->path, all.data, all.len_bytes,
                                         0600, err);
        int fd = -1;
        if (rc == 0)
                rc = cas_io_open(q->io, q->dirfd, q->path, O_RDWR, 0, &fd, err);
        if (rc < 0) {
                q->doubtful = true; /* the open file may have lost its name */
                return rc;
        }
        (void)q->io->ops->close(q->io->ctx, q->fd);
        q->fd = fd;
        q->head = HEADER_BYTES;
        q->end = all.len_bytes;
        q->synced = q->next_sequence - 1;
        q->doubtful = false;
        return 0;
}

/* Until the event is durable: by a sync of this thread, or one of another that began later. */
static int sync_locked(struct reg_hookqueue *q, uint64_t sequence, struct cas_err *err)
{
        cas_assert_held(&q->mutex);
        while (q->synced < sequence) {
                if (q->syncing) {
                        cas_mutex_wait(&q->mutex, &q->change);
                        continue;
                }
                if (q->doubtful) {
                        int rc = rewrite_locked(q, err);
                        if (rc < 0)
                                return rc;
                        continue;
                }
                uint64_t until = q->next_sequence - 1;
                q->syncing = true;
                cas_mutex_unlock(&q->mutex);
                int rc = cas_io_fdatasync(q->io, q->fd, q->path, err);
                cas_mutex_lock(&q->mutex);
                q->syncing = false;
                if (rc == 0)
                        q->synced = until;
                else
                        q->doubtful = true;
                (void)pthread_cond_broadcast(&q->change);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

int reg_hookqueue_add(struct reg_hookqueue *q, const void *event, size_t len, bool sync,
                      struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf record = CAS_BUF_INIT;
        struct reg_hookrecord rec = {
                .kind = REG_HOOKRECORD_EVENT, .payload = event, .payload_bytes = len};
        if (len == 0 || len > REG_HOOKQUEUE_EVENT_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "an event of %zu bytes", len);
        cas_mutex_lock(&q->mutex);
        int rc = 0;
        uint64_t sequence = rec.sequence = q->next_sequence;
        reg_hookrecord_encode(&rec, &record);
        if (q->pending_bytes + record.len_bytes > q->max_bytes)
                rc = cas_fail(err, CAS_E_LIMIT, "the queue is full");
        else
                rc = append_locked(q, &record, err);
        if (rc == 0) {
                q->next_sequence++;
                q->pending_bytes += record.len_bytes;
                if (sync)
                        rc = sync_locked(q, sequence, err);
        }
        cas_mutex_unlock(&q->mutex);
        return rc;
}

/* ---- delivering ---- */

int reg_hookqueue_next(struct reg_hookqueue *q, unsigned max, size_t max_bytes,
                       void (*fn)(void *arg, const void *event, size_t len), void *arg,
                       uint64_t *last, unsigned *count, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf buf = CAS_BUF_INIT;
        struct reg_hookrecord rec;
        size_t bytes, sum = 0;
        int rc = 0;
        *count = 0;
        cas_mutex_lock(&q->mutex);
        for (uint64_t at = q->head; at < q->end && *count < max; at += bytes) {
                rc = record_read(q, at, &buf, &rec, &bytes, err);
                if (rc == 0 && bytes == 0)
                        rc = cas_fail(err, CAS_E_CORRUPT, "%s: damaged at %llu", q->path,
                                      (unsigned long long)at);
                if (rc < 0)
                        break;
                if (rec.kind != REG_HOOKRECORD_EVENT || rec.sequence <= q->delivered)
                        continue;
                sum += rec.payload_bytes;
                if (*count > 0 && sum > max_bytes)
                        break;
                fn(arg, rec.payload, rec.payload_bytes);
                *last = rec.sequence;
                ++*count;
        }
        cas_mutex_unlock(&q->mutex);
        return rc;
}

/* Moves the head behind what was delivered. */
static int advance_locked(struct reg_hookqueue *q, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf buf = CAS_BUF_INIT;
        struct reg_hookrecord rec;
        cas_assert_held(&q->mutex);
        for (size_t bytes; q->head < q->end; q->head += bytes) {
                int rc = record_read(q, q->head, &buf, &rec, &bytes, err);
                if (rc < 0)
                        return rc;
                if (bytes == 0)
                        return cas_fail(err, CAS_E_CORRUPT, "%s: damaged at %llu", q->path,
                                        (unsigned long long)q->head);
                if (rec.kind != REG_HOOKRECORD_EVENT)
                        continue;
                if (rec.sequence > q->delivered)
                        return 0;
                q->pending_bytes -= bytes;
        }
        return 0;
}

int reg_hookqueue_delivered(struct reg_hookqueue *q, uint64_t last, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf record = CAS_BUF_INIT;
        const struct reg_hookrecord rec = {
                .kind = REG_HOOKRECORD_DELIVERED, .sequence = last, .payload = (const uint8_t *)""};
        reg_hookrecord_encode(&rec, &record);
        cas_mutex_lock(&q->mutex);
        cas_assert(last < q->next_sequence);
        q->delivered = last;
        int rc = append_locked(q, &record, err);
        if (rc == 0)
                rc = advance_locked(q, err);
        uint64_t done = q->head - HEADER_BYTES;
        if (rc == 0 && done >= DONE_BYTES_MAX && done / 2 >= q->end - q->head)
                rc = rewrite_locked(q, err);
        cas_mutex_unlock(&q->mutex);
        return rc;
}

void reg_hookqueue_pending(struct reg_hookqueue *q, uint64_t *events, uint64_t *bytes)
{
        cas_mutex_lock(&q->mutex);
        *events = q->next_sequence - 1 - q->delivered;
        *bytes = q->pending_bytes;
        cas_mutex_unlock(&q->mutex);
}
