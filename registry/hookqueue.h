/* SPDX-License-Identifier: Apache-2.0 */
/* The queue of a webhook: an append-only file of events that are to be
 * delivered, in order, at least once (spec/registry-operation.md). What was
 * added durably survives kill -9 and power cuts; a tail that is not whole is cut
 * off at the next opening.
 *
 * Thread-safe: any number of threads add; one delivers. Those who add at the
 * same time share a sync. */
#ifndef REG_HOOKQUEUE_H
#define REG_HOOKQUEUE_H

#include "cas/io.h"

#define REG_HOOKQUEUE_EVENT_BYTES_MAX (64 * 1024)

struct reg_hookqueue_config {
        const struct cas_io *io; /* NULL: the system's; outlives the queue */
        int dirfd;               /* of `dir` and its file; borrowed */
        const char *dir;         /* an existing directory, relative to dirfd */
        const char *name;        /* of the file in it */
        const char *store_id;    /* 32 hex digits; a file of another store is refused */
        uint64_t max_bytes;      /* of events that wait; more are refused */
};
struct reg_hookqueue;
/* Errors: CORRUPT (the header), UNSUPPORTED (another version), IO. *cut_bytes: of a tail that was
 * not whole. */
int reg_hookqueue_open(const struct reg_hookqueue_config *config, struct reg_hookqueue **out,
                       uint64_t *cut_bytes, struct cas_err *err) CAS_MUST_CHECK;
void reg_hookqueue_close(struct reg_hookqueue *q); /* NULL is nothing */

/* Appends an event; with sync it is durable on return, else soon. Errors: LIMIT (the queue is full,
 * or the event too long), NOSPACE, IO; after a sync that failed the event may be there or not. */
int reg_hookqueue_add(struct reg_hookqueue *q, const void *event, size_t len, bool sync,
                      struct cas_err *err) CAS_MUST_CHECK;
/* The events that are next, oldest first, at most max and (but for the first) max_bytes of them,
 * to fn. *last: the sequence of the last one; *count 0 when none waits. */
int reg_hookqueue_next(struct reg_hookqueue *q, unsigned max, size_t max_bytes,
                       void (*fn)(void *arg, const void *event, size_t len), void *arg,
                       uint64_t *last, unsigned *count, struct cas_err *err) CAS_MUST_CHECK;
/* Events up to and including that one need not be delivered again: noted, not synced. */
int reg_hookqueue_delivered(struct reg_hookqueue *q, uint64_t last,
                            struct cas_err *err) CAS_MUST_CHECK;
/* What waits. */
void reg_hookqueue_pending(struct reg_hookqueue *q, uint64_t *events, uint64_t *bytes);

/* Records, as they lie in the file. */
enum reg_hookrecord_kind { REG_HOOKRECORD_EVENT = 1, REG_HOOKRECORD_DELIVERED = 2 };
#define REG_HOOKRECORD_HEAD_BYTES 32
struct reg_hookrecord {
        enum reg_hookrecord_kind kind;
        uint64_t sequence;
        const uint8_t *payload; /* borrowed */
        size_t payload_bytes;
};
void reg_hookrecord_encode(const struct reg_hookrecord *rec, struct cas_buf *out);
/* Bytes of the record at the start of data; 0 when there is no whole one. */
size_t reg_hookrecord_decode(const void *data, size_t len, struct reg_hookrecord *out);
/* How many bytes the record is said to have, from its head alone; 0 when it is no head. */
size_t reg_hookrecord_bytes(const void *head);

#endif
