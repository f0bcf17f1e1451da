/* SPDX-License-Identifier: Apache-2.0 */
/* Wraps: how a layer's blob is made of its tar stream. Each kind has two sides: an analysis that
 * finds out how a given blob was made and writes sections WRAP, WRAP_DATA and the marks of its
 * recipe, and a reader that makes the blob again. What analysis says is never believed: a recipe
 * counts when the blob was made from it whole and its digest compared (condense.c). Private to cas.
 */
#ifndef CAS_WRAP_INT_H
#define CAS_WRAP_INT_H

#include "cas/recipe_int.h"

/* What analysis found, for people. */
struct cas_wrap_report {
        char text[96];    /* "go-1.2 level 6", "pgzip klauspost-2022-09 level 5", "zlib level 9" */
        char reason[160]; /* why the blob stays verbatim; "" when it does not */
        uint64_t corrections_bytes; /* of GZIP_DIFF */
};

/* The verbatim blob under analysis. */
struct cas_wrap_input {
        const struct cas_io *io;
        int fd;
        uint64_t blob_bytes;
};

/* Costs of a diff above this share of the blob are not worth it. */
#define CAS_WRAP_DIFF_PERCENT_MAX 3

/* Of a blob that is its tar stream: no more than marks. */
int cas_plain_analyse(struct cas_recipe_writer *w, struct cas_err *err) CAS_MUST_CHECK;
/* *out_kind is set when report->reason is "". Errors: CORRUPT, IO … : the blob stays verbatim.
 * gzip: REPLAY when a class (or several, run by run) makes all of it, else DIFF within its bound.
 */
int cas_gzip_analyse(const struct cas_wrap_input *in, struct cas_recipe_writer *w,
                     enum cas_wrap_kind *out_kind, struct cas_wrap_report *report,
                     struct cas_err *err) CAS_MUST_CHECK;
/* `p`: the caller's; NULL: frames are not kept. Those that become blocks of their own here do so
 * durably before a recipe refers to them (ZSTD_FRAMES), pinned by the writer's pins. */
int cas_zstd_analyse(const struct cas_wrap_input *in, struct cas_publish *p,
                     struct cas_recipe_writer *w, enum cas_wrap_kind *out_kind,
                     struct cas_wrap_report *report, struct cas_err *err) CAS_MUST_CHECK;

/* Whether the blob is made of the tar stream: recipes of other kinds have no tar sections. */
static inline bool cas_wrap_needs_tar(enum cas_wrap_kind kind)
{
        return kind != CAS_WRAP_ZSTD_FRAMES;
}

/* Reading: blob bytes from a mark on. */
struct cas_wrap_reader;
struct cas_wrap_ops {
        /* `tar` gives the tar stream from mark->tar_offset on; not called by kinds that need it
         * not. Errors: CORRUPT. */
        int (*open)(struct cas_recipe *r, const struct cas_recipe_mark *mark, cas_source_fn tar,
                    void *tar_arg, struct cas_wrap_reader **out, struct cas_err *err);
        /* *out_len 0: the end of the blob. Never more than the recipe's blob_bytes in all. */
        int (*read)(struct cas_wrap_reader *wr, void *buf, size_t len, size_t *out_len,
                    struct cas_err *err);
        void (*close)(struct cas_wrap_reader *wr);
};
/* The first member of each kind's own struct. */
struct cas_wrap_reader {
        const struct cas_wrap_ops *ops;
};
extern const struct cas_wrap_ops cas_wrap_plain, cas_wrap_gzip_replay, cas_wrap_gzip_diff,
        cas_wrap_zstd_replay, cas_wrap_zstd_frames;

/* The same by the kind that the recipe says (wrap.c has the table). Errors: UNSUPPORTED (a kind
 * that this version does not know), and those of the kind. */
int cas_wrap_open(struct cas_recipe *r, const struct cas_recipe_mark *mark, cas_source_fn tar,
                  void *tar_arg, struct cas_wrap_reader **out, struct cas_err *err) CAS_MUST_CHECK;
/* A cas_source_fn but for its first argument's type. */
int cas_wrap_read(struct cas_wrap_reader *wr, void *buf, size_t len, size_t *out_len,
                  struct cas_err *err) CAS_MUST_CHECK;
void cas_wrap_close(struct cas_wrap_reader *wr);
CAS_DEFINE_CLEANUP(cas_cleanup_wrap_, struct cas_wrap_reader *, cas_wrap_close);
#define cas_cleanup_wrap __attribute__((cleanup(cas_cleanup_wrap_)))

#endif
