/* SPDX-License-Identifier: Apache-2.0 */
/* Recipes: what makes a layer's blob again, byte for byte (spec/recipe.md). A recipe is a file
 * object of sections:
 *
 *   tar     what makes the tar stream: bytes of the recipe's own, and file objects  (tarrecipe.c)
 *   wrap    what makes the blob of the tar stream                                   (wrap_int.h)
 *   marks   checkpoints: where both can be begun in the middle
 *
 * Reading is in constant memory, whatever the recipe says: sections are read piece by piece, and
 * every number in them is checked. Private to cas. */
#ifndef CAS_RECIPE_INT_H
#define CAS_RECIPE_INT_H

#include "cas/decompress.h"
#include "cas/limits.h"
#include "cas/object.h"
#include "cas/publish.h"
#include "cas/spool.h"

struct cas_pins;

/* Numbers are in recipes. */
enum cas_wrap_kind {
        CAS_WRAP_PLAIN = 0,       /* the blob is the tar stream */
        CAS_WRAP_GZIP_REPLAY = 1, /* encoder classes (cas/deflate/encoder.h) */
        CAS_WRAP_GZIP_DIFF = 2,   /* predicted tokens and corrections */
        CAS_WRAP_ZSTD_REPLAY = 3, /* libzstd with the same parameters */
        CAS_WRAP_ZSTD_FRAMES = 4, /* frames that are stored as they are, as blocks of chunks */
        CAS_WRAP_KIND_COUNT
};

enum cas_recipe_section {
        CAS_RECIPE_TAR_OPS = 0, /* of tarrecipe.c … */
        CAS_RECIPE_TAR_BYTES = 1,
        CAS_RECIPE_TAR_OBJECTS = 2,
        CAS_RECIPE_TAR_SEEK = 3,
        CAS_RECIPE_WRAP = 4,      /* of the kind of wrap */
        CAS_RECIPE_WRAP_DATA = 5, /* … and what it has in bulk: corrections, literal frames */
        CAS_RECIPE_MARKS = 6,
        CAS_RECIPE_SECTION_COUNT
};

/* Where regeneration can begin: with blob byte blob_offset, when it is fed the tar stream from
 * tar_offset on. `state` is the wrap's own. The first stands for the beginning: both are 0. */
#define CAS_MARK_STATE_BYTES_MAX 128
struct cas_recipe_mark {
        uint64_t blob_offset;
        uint64_t tar_offset;
        uint8_t state_bytes;
        uint8_t state[CAS_MARK_STATE_BYTES_MAX];
};
#define CAS_RECIPE_MARK_SPACING_BYTES (4 * CAS_MIB) /* of tar, aimed at */

struct cas_recipe_head {
        uint64_t blob_bytes, tar_bytes;
        enum cas_wrap_kind wrap;
        uint64_t section_bytes[CAS_RECIPE_SECTION_COUNT];
        uint32_t mark_count; /* at least 1 */
        uint8_t mark_bytes;  /* of each in its section */
};

/* As bytes (spec/recipe.md). */
#define CAS_RECIPE_VERSION 1
#define CAS_RECIPE_MAGIC "LRCP"
#define CAS_RECIPE_HEAD_BYTES (32 + 8 * CAS_RECIPE_SECTION_COUNT)
#define CAS_RECIPE_MARK_BYTES_MIN 17 /* without state */
#define CAS_RECIPE_MARK_BYTES_MAX (CAS_RECIPE_MARK_BYTES_MIN + CAS_MARK_STATE_BYTES_MAX)

/* ---- writing (recipewriter.c) ---- */

struct cas_recipe_writer {
        struct cas_spool *sections[CAS_RECIPE_SECTION_COUNT]; /* owned */
        struct cas_recipe_head head; /* the maker's: blob_bytes, tar_bytes, wrap */
        struct cas_recipe_mark last_mark;
        struct cas_store *store; /* borrowed */
        /* Borrowed: objects that the recipe is to refer to are pinned before they are looked for,
         * since nothing may need them yet. NULL: nobody collects. */
        struct cas_pins *pins;
};
/* Pins an object, where there are pins. */
void cas_recipe_writer_pin(const struct cas_recipe_writer *w, const struct cas_hash *object);
void cas_recipe_writer_init(struct cas_recipe_writer *w, struct cas_store *s);
void cas_recipe_writer_release(struct cas_recipe_writer *w);
#define cas_cleanup_recipe_writer __attribute__((cleanup(cas_recipe_writer_release)))
/* The first at 0 and 0; then each further in the blob, and not before in the tar, than the one
 * before (INVALID). */
int cas_recipe_writer_mark(struct cas_recipe_writer *w, const struct cas_recipe_mark *mark,
                           struct cas_err *err) CAS_MUST_CHECK;
/* Takes back the marks whose number is true in `drop`; never the first (asserted). */
int cas_recipe_writer_drop_marks(struct cas_recipe_writer *w, const bool *drop,
                                 struct cas_err *err) CAS_MUST_CHECK;
/* Forgets what is in a section, for another try. */
void cas_recipe_writer_clear(struct cas_recipe_writer *w, enum cas_recipe_section section);
/* The recipe as one object of the publication; *id_slot as in cas_publish_object_begin. */
int cas_recipe_writer_publish(struct cas_recipe_writer *w, struct cas_publish *p,
                              struct cas_hash *id_slot, struct cas_err *err) CAS_MUST_CHECK;

/* ---- reading (recipe.c) ---- */

struct cas_recipe;
/* Errors: NOTFOUND, CORRUPT, UNSUPPORTED (version). Thread-safe once open. */
int cas_recipe_open(struct cas_store *s, const struct cas_hash *object, struct cas_recipe **out,
                    struct cas_err *err) CAS_MUST_CHECK;
/* What a writer holds, before it is published. The writer is borrowed, and stays as it is, until
 * the recipe is closed. */
int cas_recipe_open_writer(struct cas_recipe_writer *w, struct cas_recipe **out,
                           struct cas_err *err) CAS_MUST_CHECK;
void cas_recipe_close(struct cas_recipe *r);
CAS_DEFINE_CLEANUP(cas_cleanup_recipe_, struct cas_recipe *, cas_recipe_close);
#define cas_cleanup_recipe __attribute__((cleanup(cas_cleanup_recipe_)))
const struct cas_recipe_head *cas_recipe_head(const struct cas_recipe *r);
struct cas_store *cas_recipe_store(const struct cas_recipe *r);
/* Exactly len bytes of a section. Pages read before are remembered, so small pieces in a row cost
 * little. Errors: CORRUPT (past its end). */
int cas_recipe_read(struct cas_recipe *r, enum cas_recipe_section section, uint64_t offset,
                    void *buf, size_t len, struct cas_err *err) CAS_MUST_CHECK;
int cas_recipe_mark(struct cas_recipe *r, uint32_t index, struct cas_recipe_mark *out,
                    struct cas_err *err) CAS_MUST_CHECK;
/* The last mark whose blob_offset is at most `offset`. */
int cas_recipe_find_mark(struct cas_recipe *r, uint64_t blob_offset, uint32_t *out_index,
                         struct cas_err *err) CAS_MUST_CHECK;

/* A section read in order, through a buffer of its own. One thread. */
struct cas_recipe_stream {
        struct cas_recipe *recipe; /* borrowed */
        enum cas_recipe_section section;
        uint64_t offset; /* in the section, of the byte that comes next */
        uint8_t *buffer; /* owned; what is there of it is [at, end) */
        size_t at, end;
};
/* offset: at most the section's length, else the first read fails. */
void cas_recipe_stream_init(struct cas_recipe_stream *st, struct cas_recipe *r,
                            enum cas_recipe_section section, uint64_t offset);
void cas_recipe_stream_release(struct cas_recipe_stream *st);
/* Bytes that are left. */
uint64_t cas_recipe_stream_left(const struct cas_recipe_stream *st);
/* Exactly len bytes. Errors: CORRUPT (past the section's end). */
int cas_recipe_stream_read(struct cas_recipe_stream *st, void *buf, size_t len,
                           struct cas_err *err) CAS_MUST_CHECK;
/* As cas_cursor_varint reads them. */
int cas_recipe_stream_varint(struct cas_recipe_stream *st, uint64_t *out,
                             struct cas_err *err) CAS_MUST_CHECK;
int cas_recipe_stream_skip(struct cas_recipe_stream *st, uint64_t bytes,
                           struct cas_err *err) CAS_MUST_CHECK;

/* ---- the tar stream (tarrecipe.c) ---- */

/* Takes the tar stream apart: fills the sections TAR_* and head.tar_bytes. `tar` gives the stream.
 * What is no file content goes into the recipe's bytes; content is referred to when its object is
 * in the store: by its place in `listing` (the object that the layer was decoded to; NULL: none)
 * where that has it, which costs next to nothing, else by its digest. Any stream is fine: what
 * cannot be understood as tar is bytes of the recipe. */
struct cas_tarrecipe_stats {
        uint64_t tar_bytes, own_bytes, object_refs, object_bytes;
};
int cas_tarrecipe_make(struct cas_store *s, const struct cas_hash *listing, cas_source_fn tar,
                       void *tar_arg, struct cas_recipe_writer *w, struct cas_tarrecipe_stats *out,
                       struct cas_err *err) CAS_MUST_CHECK;
struct cas_tarrecipe_reader;
/* The tar stream from `offset` on. */
int cas_tarrecipe_open(struct cas_recipe *r, uint64_t offset, struct cas_tarrecipe_reader **out,
                       struct cas_err *err) CAS_MUST_CHECK;
/* A cas_source_fn. */
int cas_tarrecipe_read(void *reader, void *buf, size_t len, size_t *out_len,
                       struct cas_err *err) CAS_MUST_CHECK;
void cas_tarrecipe_close(struct cas_tarrecipe_reader *t);
CAS_DEFINE_CLEANUP(cas_cleanup_tarrecipe_, struct cas_tarrecipe_reader *, cas_tarrecipe_close);
#define cas_cleanup_tarrecipe __attribute__((cleanup(cas_cleanup_tarrecipe_)))
/* Calls fn for each object that a recipe refers to, the listing first, for collection and checking;
 * one object may come several times. */
int cas_tarrecipe_each_object(struct cas_recipe *r,
                              int (*fn)(void *arg, const struct cas_hash *object,
                                        struct cas_err *err),
                              void *arg, struct cas_err *err) CAS_MUST_CHECK;

#endif
