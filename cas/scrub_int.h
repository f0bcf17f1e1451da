/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of scrub (spec/scrub.md). A pass is a row of steps; a step goes through things in the
 * order of their keys and notes how far it has come, so that a pass goes on where it was left.
 * Private to cas/scrub*.c.
 *
 * The thread that called goes through the steps. At full speed a pool of threads checks what it
 * hands out; with a pace it does all by itself. */
#ifndef CAS_SCRUB_INT_H
#define CAS_SCRUB_INT_H

#include "cas/fsck_messages.h"
#include "cas/object.h"
#include "cas/pace.h"
#include "cas/pins_int.h"
#include "cas/pool.h"
#include "cas/record_int.h"
#include "cas/repair_int.h"
#include "cas/scrub.h"
#include "cas/store_int.h"

/* ---- the pass ---- */

/* Where a pass is; kept in the index (meta, `scrub`). Everything before is done. */
#define CAS_SCRUB_STEP_NAME_BYTES 24
struct cas_scrub_place {
        uint64_t pass, began_unix_s, ended_unix_s, bytes;
        char step[CAS_SCRUB_STEP_NAME_BYTES]; /* "": at the beginning */
        struct cas_record_key key;            /* of the step's own kind; empty: at its beginning */
};
void cas_scrub_place_encode(const struct cas_scrub_place *place, struct cas_buf *out);
int cas_scrub_place_decode(const void *data, size_t len, struct cas_scrub_place *out,
                           struct cas_err *err) CAS_MUST_CHECK;

struct cas_scrub_run {
        struct cas_store *s;
        const struct cas_scrub_options *options;
        const struct cas_progress *progress;
        cas_fsck_fn fn;
        void *arg;
        struct cas_pace pace;      /* has its own lock */
        struct cas_repair *repair; /* NULL: damage is only told */
        uint64_t total_bytes;

        /* The calling thread's. */
        struct cas_pool *pool; /* NULL: it works alone */
        struct cas_pool_group group;
        struct cas_scrub_place place;
        struct cas_batch *notes; /* written with the place */
        uint64_t saved_ns;
        const char *doing;      /* of progress; static text */
        enum cas_family family; /* of a step of references */

        struct cas_mutex mutex; /* a leaf; guards all below, and calls of fn */
        struct cas_fsck_result *out;
        uint64_t done_bytes, unsaved_bytes;
        int rc; /* first failure of the check itself, with err */
        struct cas_err err;
};

/* Between things: rests, saves the place now and then. False: the step ends, since the pass was
 * told to stop or cannot go on. What was handed out counts as done only once it is. */
bool cas_scrub_goes_on(struct cas_scrub_run *run);
/* Writes the place and the notes. Nothing is handed out. */
void cas_scrub_save(struct cas_scrub_run *run);
/* Notes that the check itself cannot go on (NOMEM …). From any thread. */
void cas_scrub_fail(struct cas_scrub_run *run, const struct cas_err *err);
/* So many bytes were read, or made: progress, and the pace. From any thread. */
void cas_scrub_read(struct cas_scrub_run *run, uint64_t bytes);
void cas_scrub_count(struct cas_scrub_run *run, uint64_t *counter, uint64_t n);
/* Has fn done by the pool, or at once. arg is borrowed until it returns. */
void cas_scrub_submit(struct cas_scrub_run *run, void (*fn)(void *arg), void *arg);
void cas_scrub_wait(struct cas_scrub_run *run);

/* A step goes through things of one kind, from run->place.key on. */
typedef void (*cas_scrub_step_fn)(struct cas_scrub_run *run);
/* scrubindex.c */
void cas_scrub_tables(struct cas_scrub_run *run);
void cas_scrub_index_files(struct cas_scrub_run *run);
void cas_scrub_leases(struct cas_scrub_run *run);
void cas_scrub_chains(struct cas_scrub_run *run);
void cas_scrub_orders(struct cas_scrub_run *run);
void cas_scrub_tag_times(struct cas_scrub_run *run);
void cas_scrub_condemned(struct cas_scrub_run *run);
void cas_scrub_pack_dead(struct cas_scrub_run *run);
/* scrubpack.c, scrubchunk.c, scrubobject.c */
void cas_scrub_packs(struct cas_scrub_run *run);
void cas_scrub_places(struct cas_scrub_run *run);
void cas_scrub_objects(struct cas_scrub_run *run);
void cas_scrub_unused(struct cas_scrub_run *run); /* scrubunused.c */
/* scrubblob.c, scrublayer.c, scrubtree.c */
void cas_scrub_blobs(struct cas_scrub_run *run);
void cas_scrub_recipes(struct cas_scrub_run *run);
void cas_scrub_layers(struct cas_scrub_run *run);
void cas_scrub_elsewhere(struct cas_scrub_run *run);
void cas_scrub_trees(struct cas_scrub_run *run);
/* scrubname.c, scrubjournal.c */
void cas_scrub_manifests(struct cas_scrub_run *run);
void cas_scrub_blob_links(struct cas_scrub_run *run);
void cas_scrub_tags(struct cas_scrub_run *run);
void cas_scrub_referrers(struct cas_scrub_run *run);
void cas_scrub_journal(struct cas_scrub_run *run);
/* scrubref.c: of run->family */
void cas_scrub_references(struct cas_scrub_run *run);
/* scrubdir.c */
void cas_scrub_directories(struct cas_scrub_run *run);

/* ---- looking, and telling (scrublook.c) ---- */

/* What can be put right. */
enum cas_damage_kind {
        CAS_DAMAGE_NONE,
        CAS_DAMAGE_CHUNK,
        CAS_DAMAGE_OBJECT,
        CAS_DAMAGE_BLOB,
        CAS_DAMAGE_RECIPE,
        CAS_DAMAGE_TREE,
        CAS_DAMAGE_PACK,
        CAS_DAMAGE_INDEX_LOG,
};
struct cas_damage {
        enum cas_damage_kind kind;
        union {
                struct cas_hash hash;     /* CHUNK, OBJECT */
                struct cas_digest digest; /* BLOB, RECIPE, TREE */
                uint64_t pack_id;
        };
};

/* One look at one thing. What looks wrong at first is looked at again, with what it is made of
 * pinned, and told when it is wrong then, too. */
struct cas_look;
struct cas_scrub_run *cas_look_run(const struct cas_look *look);
bool cas_look_is_first(const struct cas_look *look);
/* Nothing at the first look. */
void cas_look_pin_blob(struct cas_look *look, const struct cas_digest *blob);
void cas_look_pin_object(struct cas_look *look, const struct cas_hash *object);
void cas_look_pin_chunk(struct cas_look *look, const struct cas_hash *chunk);
/* From any thread. damage NULL: nothing can be put right. */
void cas_look_found(struct cas_look *look, enum cas_fsck_message message,
                    const struct cas_damage *damage, const char *subject, const char *fmt, ...)
        CAS_PRINTF(5, 6);
void cas_scrub_look(struct cas_scrub_run *run, void (*check)(struct cas_look *look, void *arg),
                    void *arg);
/* Tells at once: what cannot be otherwise, and notes. From any thread. */
void cas_scrub_say(struct cas_scrub_run *run, enum cas_fsck_message message, const char *subject,
                   const char *fmt, ...) CAS_PRINTF(4, 5);

/* ---- records of the index in order (scrubfamily.c) ---- */

struct cas_scrub_blocks;
struct cas_scrub_item {
        enum cas_family family;
        const void *key, *value; /* borrowed for the call */
        size_t key_len, value_len;
        void *arg;
        struct cas_scrub_blocks *blocks; /* of the thread; NULL unless records have spots */
};
/* Where what a record tells of lies; all zero: nowhere, or it does not matter. */
struct cas_scrub_spot {
        uint64_t pack_id, offset;
};
struct cas_scrub_family {
        enum cas_family family;
        /* One look at a record. Its record was there when the look began. */
        void (*check)(struct cas_look *look, const struct cas_scrub_item *item);
        void *arg;
        uint64_t *counter; /* of records; of run->out, or NULL */
        unsigned at_once;  /* records that one thread takes: many when each costs little */
        bool alone;        /* check is called by the calling thread, and hands out work itself */
        /* At full speed records are looked at in the order of these, slice by slice, so that what
         * lies together is read together; NULL: in the order of their keys. */
        struct cas_scrub_spot (*spot)(struct cas_scrub_run *run, const struct cas_scrub_item *item);
};
/* From run->place.key on. False: the step ends before its end. */
bool cas_scrub_each(struct cas_scrub_run *run, const struct cas_scrub_family *family);
/* Records with a prefix, in slices, without a look: fn gets each once. False: as above. */
typedef void (*cas_scrub_record_fn)(void *arg, const void *key, size_t key_len, const void *value,
                                    size_t value_len);
bool cas_scrub_scan(struct cas_scrub_run *run, const struct cas_scan *scan, cas_scrub_record_fn fn,
                    void *arg);

/* ---- reading past all caches (scrubread.c) ---- */

/* One file, read mostly in order, by one thread. */
struct cas_scrub_file;
/* Errors: NOTFOUND, IO. */
int cas_scrub_file_open(struct cas_scrub_run *run, int dirfd, const char *path,
                        struct cas_scrub_file **out, struct cas_err *err) CAS_MUST_CHECK;
/* A pack's home copy; one that is remote is fetched. Errors: NOTFOUND, IO. */
int cas_scrub_file_open_pack(struct cas_scrub_run *run, uint64_t pack_id,
                             struct cas_scrub_file **out, struct cas_err *err) CAS_MUST_CHECK;
void cas_scrub_file_close(struct cas_scrub_file *f);
CAS_DEFINE_CLEANUP(cas_cleanup_scrub_file_, struct cas_scrub_file *, cas_scrub_file_close);
#define cas_cleanup_scrub_file __attribute__((cleanup(cas_cleanup_scrub_file_)))
int cas_scrub_file_fd(const struct cas_scrub_file *f);
/* For functions that read by an I/O table: only reading works, of this file's descriptor. */
const struct cas_io *cas_scrub_file_io(const struct cas_scrub_file *f);
/* Bytes that are read in order from the beginning go to the hasher (borrowed) as well. */
void cas_scrub_file_feed(struct cas_scrub_file *f, struct cas_hasher *hasher);
/* Reads what was not read yet; *bytes: the file's length. */
int cas_scrub_file_rest(struct cas_scrub_file *f, uint64_t *bytes,
                        struct cas_err *err) CAS_MUST_CHECK;
/* The digest of a whole file. */
int cas_scrub_hash_file(struct cas_scrub_run *run, int dirfd, const char *path,
                        enum cas_digest_alg alg, struct cas_digest *out, uint64_t *out_bytes,
                        struct cas_err *err) CAS_MUST_CHECK;

/* Blocks of packs; the last one is remembered. One thread. */
/* fetches: remote packs are fetched, whole, for their blocks; else those are not looked at. */
struct cas_scrub_blocks *cas_scrub_blocks_new(struct cas_scrub_run *run, bool fetches);
void cas_scrub_blocks_free(struct cas_scrub_blocks *b);
CAS_DEFINE_CLEANUP(cas_cleanup_scrub_blocks_, struct cas_scrub_blocks *, cas_scrub_blocks_free);
#define cas_cleanup_scrub_blocks __attribute__((cleanup(cas_cleanup_scrub_blocks_)))
/* A chunk where the index has it, wherever it moves meanwhile; borrowed until the next call.
 * Errors: NOTFOUND (the index has no such chunk), CORRUPT (also: no pack), IO. */
int cas_scrub_chunk_bytes(struct cas_scrub_blocks *b, const struct cas_hash *chunk,
                          struct cas_chunk_record *rec, const uint8_t **out,
                          struct cas_err *err) CAS_MUST_CHECK;

/* ---- sums of packs (scrubchunk.c) ---- */

/* Which chunks were found sound where the index has them, pack by pack: their fingerprints are
 * summed up by the first bits of their names, and compared later with the same sums over the
 * records of the index. A pack whose sums differ has its chunks looked at one by one. */
#define CAS_SCRUB_RANGES 16
uint64_t cas_scrub_chunk_print(const struct cas_hash *chunk, const struct cas_chunk_record *rec);
static inline unsigned cas_scrub_range(const struct cas_hash *chunk)
{
        return chunk->bytes[0] >> 4;
}
/* Into run->notes. */
void cas_scrub_note_pack(struct cas_scrub_run *run, uint64_t pack_id,
                         const uint64_t sums[CAS_SCRUB_RANGES]);
/* Forgets all sums: at the end of a pass, and before it begins anew. */
int cas_scrub_forget_packs(struct cas_scrub_run *run, struct cas_err *err) CAS_MUST_CHECK;

#endif
