/* SPDX-License-Identifier: Apache-2.0 */
/* Condensing: a layer's blob gets a recipe, the recipe is proved (the blob is made from it whole
 * and its digest compared), and from then on the verbatim copy is a cache. */
#ifndef CAS_CONDENSE_H
#define CAS_CONDENSE_H

#include "cas/layer.h"

/* Codecs of packs that condensing writes (spec/pack.md). */
enum cas_condense_codec {
        CAS_CONDENSE_DEFAULT = 0, /* zstd -9, 1 MiB blocks */
        CAS_CONDENSE_COLD = 1,    /* zstd -19, 4 MiB blocks */
};

/* Grows when analysis learns to understand more: blobs that stayed verbatim are looked at again. */
#define CAS_CONDENSE_ANALYSIS 2

/* What is known of a blob's recipe; kept in the index and, once proved, in packs. */
struct cas_recipe_record {
        struct cas_digest blob;
        struct cas_hash recipe; /* object; all zero when the blob has to stay verbatim */
        bool is_proved;         /* only then may the verbatim copy go */
        uint32_t analysis;      /* CAS_CONDENSE_ANALYSIS when it was looked at */
        uint8_t wrap;           /* enum cas_wrap_kind */
        uint64_t blob_bytes;
        uint64_t recipe_bytes;      /* of the recipe object, before its blocks are compressed */
        uint64_t corrections_bytes; /* of them, corrections of a diff */
        char text[96];              /* how the blob was made, for people */
        char reason[160];           /* why it stays verbatim; "" when it does not */
};
/* Errors: NOTFOUND (not looked at yet). is_proved does not say that the copy is gone: cas_blob_open
 * gives it while it is there. */
int cas_recipe_stat(struct cas_store *s, const struct cas_digest *blob,
                    struct cas_recipe_record *out, struct cas_err *err) CAS_MUST_CHECK;
/* Whether the blob is made of the content of file objects alone, so that a store which has that
 * content elsewhere can make it too: frames that are kept as they came are more than that. */
bool cas_recipe_travels(const struct cas_recipe_record *rec);
/* What of the recipe tells of the compression alone: parameters, marks, corrections. */
int cas_recipe_wrap_bytes(struct cas_store *s, const struct cas_recipe_record *rec,
                          uint64_t *out_bytes, struct cas_err *err) CAS_MUST_CHECK;
/* Whether condensing the blob is worth a try: it was not looked at by an analysis of this version,
 * or its recipe waits to be proved. */
bool cas_recipe_is_due(const struct cas_recipe_record *rec);
/* What was made from the blob's recipe was not the blob (CORRUPT), or could not be made: nobody
 * relies on the recipe any more until it has been proved again, so that a blob without a copy is
 * answered with NOTFOUND, and who brings it again heals it. Absent is success. */
int cas_recipe_doubt(struct cas_store *s, const struct cas_digest *blob,
                     struct cas_err *err) CAS_MUST_CHECK;

struct cas_condense_options {
        bool keep_verbatim; /* do not drop the copy, only make it a cache */
        bool again;         /* also blobs that were looked at before and stayed verbatim */
        unsigned threads;   /* of proving; 0: one per CPU */
};
/* Condenses one layer blob: decodes it when it was not, makes a recipe, proves it, commits, drops
 * the copy. Safe to break off at any point, and to repeat; concurrent calls for one blob do it
 * once. A blob that stays verbatim is success: see out->reason. */
int cas_condense_blob(struct cas_store *s, const struct cas_digest *blob,
                      const struct cas_condense_options *options,
                      const struct cas_progress *progress, struct cas_recipe_record *out,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Rewrites packs whose blocks are less dense than home copies of their tier are to be (with
 * CAS_CONDENSE_COLD: than cold ones), pack by pack, each on its tier, beside publications
 * and readers; on a thread per CPU at low priority. Stops soon when *stop (may be NULL) is set:
 * that is success, as is a pack that is being written to or is damaged, which stays as it is. What
 * was moved stays moved; another call goes on. Errors: BUSY (under way), NOSPACE, IO. */
struct cas_recode_result {
        uint64_t packs; /* moved wholly and removed */
        uint64_t empty; /* of them: nothing was to be moved */
        uint64_t bytes_before, bytes_after;
        uint64_t damaged; /* packs; fsck tells more */
};
int cas_condense_packs(struct cas_store *s, enum cas_condense_codec codec,
                       const _Atomic(bool) *stop, const struct cas_progress *progress,
                       struct cas_recode_result *out, struct cas_err *err) CAS_MUST_CHECK;

#endif
