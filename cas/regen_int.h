/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of regeneration that proving uses, and proving: a recipe that was just made is made
 * into the blob, from every one of its marks, before anybody relies on it. Private to cas. */
#ifndef CAS_REGEN_INT_H
#define CAS_REGEN_INT_H

#include "cas/regen.h"
#include "cas/wrap_int.h"

/* What is regenerated, and how. */
struct cas_regen_config {
        struct cas_recipe *recipe;       /* borrowed until it is closed */
        const struct cas_digest *digest; /* NULL: not compared */
        uint64_t offset;                 /* where to begin */
        unsigned threads;                /* 0: one per CPU */
        const bool *dropped;            /* by mark: as if it were not there; NULL: none. Borrowed */
        const struct cas_wrap_ops *ops; /* NULL: those of the recipe's kind; else a test's own */
};
int cas_regen_start(const struct cas_regen_config *config, struct cas_regen **out,
                    struct cas_err *err) CAS_MUST_CHECK;

/* The stream segment by segment; not to be mixed with cas_regen_read. */
enum cas_regen_step_kind {
        CAS_REGEN_PIECE,   /* data, borrowed until the next call */
        CAS_REGEN_SEGMENT, /* the segment that begins at `mark` is complete, or `failed` */
        CAS_REGEN_END,
};
struct cas_regen_step {
        enum cas_regen_step_kind kind;
        uint32_t mark; /* where the segment was begun */
        const uint8_t *data;
        size_t len;
        bool failed;
        struct cas_err reason; /* of the failure */
};
void cas_regen_next(struct cas_regen *g, struct cas_regen_step *out);

/* Makes the whole blob from what the writer holds, each segment from its mark, and compares it byte
 * for byte with the verbatim copy, and its digest with `blob`. Marks from which other bytes come
 * are dropped from the writer, and what they were to make is made from the mark before, until all
 * of it is right: what is published afterwards was proved as it is. *dropped_marks counts them.
 * Blocks for a whole regeneration, more when marks are dropped.
 * Errors: CORRUPT (the recipe does not make the blob: the message says where it differs), IO. */
int cas_regen_prove(struct cas_recipe_writer *w, const struct cas_digest *blob,
                    const struct cas_wrap_input *verbatim, unsigned threads,
                    const struct cas_progress *progress, uint32_t *dropped_marks,
                    struct cas_err *err) CAS_MUST_CHECK;
/* The same with the operations of a test. */
int cas_regen_prove_ops(const struct cas_wrap_ops *ops, struct cas_recipe_writer *w,
                        const struct cas_digest *blob, const struct cas_wrap_input *verbatim,
                        unsigned threads, const struct cas_progress *progress,
                        uint32_t *dropped_marks, struct cas_err *err) CAS_MUST_CHECK;

#endif
