/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of cas/elsewhere*.c and maintenance share.
 *
 * A *part* is a layer that is elsewhere, with the files that it has. What a
 * reader asks for is a *want*; what is asked of a source in one go, a *flight*.
 * Workers take wants, those who complete a layer fly by themselves; an object
 * is in one flight at a time. */
#ifndef CAS_ELSEWHERE_INT_H
#define CAS_ELSEWHERE_INT_H

#include "cas/elsewhere.h"
#include "cas/mutex.h"

/* The blob's digest is the key, not part of the value. */
void cas_elsewhere_encode(const struct cas_elsewhere_layer *rec, struct cas_buf *out);
int cas_elsewhere_decode(const struct cas_digest *blob, const void *data, size_t len,
                         struct cas_elsewhere_layer *out, struct cas_err *err) CAS_MUST_CHECK;
/* Takes the record away. */
int cas_elsewhere_drop(struct cas_store *s, const struct cas_digest *blob,
                       struct cas_err *err) CAS_MUST_CHECK;

/* Decodes a blob that is here, unless it was decoded before (cas/layer.c). */
int cas_layer_decode_here(struct cas_store *s, const struct cas_digest *blob,
                          const struct cas_progress *progress, struct cas_layer_record *out,
                          struct cas_err *err) CAS_MUST_CHECK;

/* *ids is owned by the caller. */
int cas_order_decode(const void *value, size_t len, struct cas_hash **ids, size_t *count,
                     size_t max, struct cas_err *err) CAS_MUST_CHECK;
/* The manifest that an entry of the family `orders` is about; false for a malformed one. */
bool cas_order_manifest(const void *key, size_t key_len, const void *value, size_t value_len,
                        struct cas_digest *out);

/* ---- parts ---- */

struct cas_part;
struct cas_part_file {
        struct cas_hash id;
        uint64_t size_bytes;
        struct cas_part *part;
        uint64_t
                refused_until_ms; /* the source does not give it; not asked for in the background */
        bool here;
        bool flying;
};
struct cas_part {
        struct cas_part *next;
        struct cas_elsewhere_layer rec;
        struct cas_part_source *source;
        struct cas_part_file *files; /* owned; in the order of the listing, each content once */
        size_t count;
        size_t first_gap; /* those before it are here */
        struct cas_elsewhere_progress progress;
        unsigned users; /* flights, and who completes it */
        bool gone;      /* no record any more: freed with its last user */
};
struct cas_part_source {
        struct cas_part_source *next;
        char *text;                /* owned */
        struct cas_remote *remote; /* owned; NULL: not connected */
        bool connecting;
        uint64_t down_since_ms; /* 0: it answers, as far as is known */
        uint64_t next_try_ms;
        uint64_t pause_ms;
        uint64_t logged_ms;
        struct cas_err why; /* while it is down */
};

#define CAS_FLIGHT_FILES_MAX 256
struct cas_part_flight {
        struct cas_part *part;
        struct cas_part_file *files[CAS_FLIGHT_FILES_MAX];
        bool came[CAS_FLIGHT_FILES_MAX];
        size_t count;
        uint64_t bytes;
};

struct cas_want;
struct cas_elsewhere {
        struct cas_store *store;
        struct cas_remotes remotes;
        struct cas_mutex loading; /* who looks at the records; outside of every lock of the store */
        struct cas_mutex mutex;   /* "elsewhere": guards all below; a leaf */
        pthread_cond_t changed;
        uint64_t changes,
                seen_changes; /* of records: parts are to be looked at while they differ */
        bool ending;
        struct cas_part *parts;
        struct cas_part_source *sources;
        struct cas_map *places; /* object that is not here -> struct cas_part_file */
        struct cas_want *wants; /* oldest first */
        uint64_t wanted_ms;     /* when a reader asked last */
        pthread_t workers[4];
        unsigned worker_count;
        bool ended;
};

struct cas_elsewhere *cas_elsewhere_new(struct cas_store *s);
/* Ends the threads; no reader waits any more. */
void cas_elsewhere_end(struct cas_elsewhere *e);
void cas_elsewhere_free(struct cas_elsewhere *e);

uint64_t cas_elsewhere_now_ms(void);
/* Waits for a change until `until_ms` at most; false on time-out. */
bool cas_elsewhere_wait_locked(struct cas_elsewhere *e, uint64_t until_ms);

/* Looks at the records when they changed. Called without the lock. */
int cas_elsewhere_settle(struct cas_elsewhere *e, struct cas_err *err) CAS_MUST_CHECK;
bool cas_elsewhere_is_stale_locked(const struct cas_elsewhere *e);
/* NULL: not elsewhere. */
struct cas_part *cas_part_find_locked(struct cas_elsewhere *e, const struct cas_digest *blob);
/* The file, of whatever part, that has the object and is not here; NULL: none. */
struct cas_part_file *cas_part_file_locked(const struct cas_elsewhere *e,
                                           const struct cas_hash *id);
void cas_part_came_locked(struct cas_elsewhere *e, struct cas_part_file *file);
void cas_part_put_locked(struct cas_elsewhere *e, struct cas_part *part);

/* ---- flights ---- */

/* Whose fault it is: a source that answers with nonsense about a file is there. */
bool cas_is_refusal(enum cas_code code);
/* Whether the source may be asked now. */
bool cas_source_ready_locked(const struct cas_part_source *source, uint64_t now_ms);
/* Adds the file, unless it is here or on its way. */
void cas_flight_add_locked(struct cas_part_flight *f, struct cas_part_file *file);
/* Asks the source, publishes what comes, wakes who waits. Called with the lock, which is let go of
 * meanwhile. Errors: as of cas_elsewhere_bring; the files are free for another flight then. */
int cas_flight_run_locked(struct cas_elsewhere *e, struct cas_part_flight *f,
                          struct cas_err *err) CAS_MUST_CHECK;
/* Readers wait, or have just asked. */
bool cas_elsewhere_is_wanted_locked(const struct cas_elsewhere *e, uint64_t now_ms);
/* Errors: as of the remote. */
int cas_source_remote(struct cas_elsewhere *e, struct cas_part_source *source,
                      struct cas_remote **out, struct cas_err *err) CAS_MUST_CHECK;
/* The source did not answer (err), or does again (NULL). */
void cas_source_note_locked(struct cas_elsewhere *e, struct cas_part_source *source,
                            const struct cas_err *err);

#endif
