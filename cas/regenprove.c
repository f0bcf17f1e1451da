/* SPDX-License-Identifier: Apache-2.0 */
/* Proving a recipe: all segments are made side by side, as they will be for those who pull the
 * blob, and compared with the verbatim copy. A segment that comes out otherwise loses its mark, and
 * all is made once more without it; when the first one does, the recipe does not make the blob. */
#include <inttypes.h>

#include "cas/regen_int.h"

#define COMPARE_BYTES (64 * CAS_KIB)
/* Rounds in which single marks are dropped; after them all but the first are. */
#define ROUNDS_MAX 3

struct proof {
        const struct cas_wrap_ops *ops; /* NULL: by kind */
        struct cas_recipe *recipe;
        const struct cas_digest *blob;
        const struct cas_wrap_input *verbatim;
        unsigned threads;
        const struct cas_progress *progress;
        bool *dropped;    /* by mark */
        uint8_t *compare; /* COMPARE_BYTES of the verbatim copy */

        /* One round. */
        uint64_t position;
        bool *bad; /* by mark */
        uint32_t bad_count;
        uint64_t first_difference; /* of what comes from the first mark */
        struct cas_hasher *hasher;
};

/* Whether data is what the verbatim copy has at p->position. */
static int compare_piece(struct proof *p, const uint8_t *data, size_t len, bool *equal,
                         struct cas_err *err)
{
        *equal = true;
        for (size_t at = 0; at < len && *equal;) {
                size_t n = cas_min_u64(COMPARE_BYTES, len - at);
                if (cas_io_pread_exact(p->verbatim->io, p->verbatim->fd, p->compare, n,
                                       p->position + at, "blob", err) < 0)
                        return -(int)err->code;
                *equal = memcmp(p->compare, data + at, n) == 0;
                for (size_t i = 0; !*equal && i < n; i++)
                        if (p->compare[i] != data[at + i]) {
                                p->first_difference = p->position + at + i;
                                break;
                        }
                at += n;
        }
        return 0;
}

static void set_bad(struct proof *p, uint32_t mark)
{
        p->bad_count += !p->bad[mark];
        p->bad[mark] = true;
}

static int fail_differs(const struct proof *p, struct cas_err *err)
{
        return cas_fail(err, CAS_E_CORRUPT, "the recipe makes other bytes from byte %" PRIu64 " on",
                        p->first_difference);
}

static int take_piece(struct proof *p, const struct cas_regen_step *step, struct cas_err *err)
{
        bool equal = true;
        if (!p->bad[step->mark] && compare_piece(p, step->data, step->len, &equal, err) < 0)
                return -(int)err->code;
        if (!equal)
                set_bad(p, step->mark);
        if (!equal && step->mark == 0)
                return fail_differs(p, err);
        if (p->bad_count == 0)
                cas_hasher_update(p->hasher, step->data, step->len);
        p->position += step->len;
        cas_progress_update(p->progress, "prove", p->position, p->verbatim->blob_bytes);
        return 0;
}

static uint32_t mark_after(const struct proof *p, uint32_t mark)
{
        uint32_t count = cas_recipe_head(p->recipe)->mark_count;
        do
                mark++;
        while (mark < count && p->dropped[mark]);
        return mark;
}

/* What went wrong with memory or disk says nothing of the mark. */
static bool is_recipe_fault(enum cas_code code)
{
        return code == CAS_E_CORRUPT || code == CAS_E_INVALID || code == CAS_E_LIMIT ||
               code == CAS_E_UNSUPPORTED;
}

static int take_segment(struct proof *p, const struct cas_regen_step *step, struct cas_err *err)
{
        struct cas_recipe_mark next;
        uint32_t after = mark_after(p, step->mark);
        if (step->failed && (step->mark == 0 || !is_recipe_fault(step->reason.code))) {
                *err = step->reason;
                return -(int)err->code;
        }
        if (step->failed)
                set_bad(p, step->mark);
        if (after == cas_recipe_head(p->recipe)->mark_count)
                return 0;
        if (cas_recipe_mark(p->recipe, after, &next, err) < 0)
                return -(int)err->code;
        p->position = next.blob_offset;
        return 0;
}

static int run_round(struct proof *p, struct cas_err *err)
{
        const struct cas_regen_config config = {
                .recipe = p->recipe, .threads = p->threads, .dropped = p->dropped, .ops = p->ops};
        cas_cleanup_regen struct cas_regen *g = NULL;
        struct cas_regen_step step = {.kind = CAS_REGEN_PIECE};
        p->position = 0;
        p->bad_count = 0;
        if (cas_regen_start(&config, &g, err) < 0)
                return -(int)err->code;
        while (step.kind != CAS_REGEN_END) {
                int ret = 0;
                cas_regen_next(g, &step);
                if (step.kind == CAS_REGEN_PIECE)
                        ret = take_piece(p, &step, err);
                else if (step.kind == CAS_REGEN_SEGMENT)
                        ret = take_segment(p, &step, err);
                if (ret < 0)
                        return ret;
        }
        return 0;
}

/* Rounds until every mark that is left holds. */
static int run_rounds(struct proof *p, uint32_t *dropped_count, struct cas_err *err)
{
        uint32_t marks = cas_recipe_head(p->recipe)->mark_count;
        struct cas_digest found;
        for (unsigned round = 1;; round++) {
                if (run_round(p, err) < 0)
                        return -(int)err->code;
                cas_hasher_final(p->hasher, &found);
                if (p->bad_count == 0)
                        break;
                for (uint32_t i = 1; i < marks; i++)
                        p->dropped[i] |= p->bad[i] || round >= ROUNDS_MAX;
                memset(p->bad, 0, marks * sizeof(p->bad[0]));
        }
        if (!cas_digest_equal(&found, p->blob))
                return cas_fail(err, CAS_E_CORRUPT, "the verbatim copy has another digest");
        *dropped_count = 0;
        for (uint32_t i = 1; i < marks; i++)
                *dropped_count += p->dropped[i];
        return 0;
}

int cas_regen_prove_ops(const struct cas_wrap_ops *ops, struct cas_recipe_writer *w,
                        const struct cas_digest *blob, const struct cas_wrap_input *verbatim,
                        unsigned threads, const struct cas_progress *progress,
                        uint32_t *dropped_marks, struct cas_err *err)
{
        uint32_t marks = w->head.mark_count, count = 0;
        cas_cleanup_recipe struct cas_recipe *recipe = NULL;
        cas_cleanup_free bool *dropped = cas_xcalloc(marks + 1, sizeof(*dropped));
        cas_cleanup_free bool *bad = cas_xcalloc(marks + 1, sizeof(*bad));
        cas_cleanup_free uint8_t *compare = cas_xmalloc(COMPARE_BYTES);
        cas_cleanup_hasher struct cas_hasher *hasher =
                cas_hasher_new((enum cas_digest_alg)blob->alg);
        struct proof p = {.ops = ops,
                          .blob = blob,
                          .verbatim = verbatim,
                          .threads = threads,
                          .progress = progress,
                          .dropped = dropped,
                          .compare = compare,
                          .bad = bad,
                          .hasher = hasher};
        if (w->head.blob_bytes != verbatim->blob_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "the recipe makes %" PRIu64 " bytes",
                                w->head.blob_bytes);
        if (cas_recipe_open_writer(w, &recipe, err) < 0)
                return -(int)err->code;
        p.recipe = recipe;
        if (run_rounds(&p, &count, err) < 0 ||
            (count > 0 && cas_recipe_writer_drop_marks(w, dropped, err) < 0))
                return -(int)err->code;
        *dropped_marks = count;
        return 0;
}

int cas_regen_prove(struct cas_recipe_writer *w, const struct cas_digest *blob,
                    const struct cas_wrap_input *verbatim, unsigned threads,
                    const struct cas_progress *progress, uint32_t *dropped_marks,
                    struct cas_err *err)
{
        return cas_regen_prove_ops(NULL, w, blob, verbatim, threads, progress, dropped_marks, err);
}
