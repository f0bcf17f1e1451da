/* SPDX-License-Identifier: Apache-2.0 */
/* Answers that are kept: what small contents and lists were answered with, ready
 * to be sent again to whoever asks for the same target and may have it.
 *
 * An answer is true as long as the names of its repository are those it was made
 * from (cas_names_generation, read before the first look at them), and is made
 * anew now and then nevertheless, so that what a store has lost is noticed.
 * Bounded by bytes; thread-safe. */
#ifndef REG_ANSWERS_H
#define REG_ANSWERS_H

#include "registry/events.h"
#include "registry/http.h"

#define REG_ANSWERS_BYTES_MAX (16 << 20) /* of all that are kept */
#define REG_ANSWER_BODY_BYTES_MAX (64 * 1024)
#define REG_ANSWER_AGE_NS_MAX UINT64_C(10000000000)

/* What a kept answer says. Immutable. */
struct reg_kept {
        struct reg_http_answer *whole; /* 200; NULL: not made yet */
        struct reg_http_answer *same;  /* 304; likewise */
        char *repo;
        char *etag;            /* without quotes */
        bool is_pull;          /* sending `whole` to GET is one */
        struct reg_event pull; /* its kind, tag (owned), digest, media type (owned) and bytes */
};

struct reg_answers;
/* The store is borrowed. */
struct reg_answers *reg_answers_new(struct cas_store *s, size_t bytes_max);
void reg_answers_free(struct reg_answers *a); /* NULL is nothing */
/* Forgets what is kept for a target. */
void reg_answers_forget(struct reg_answers *a, const char *target);
/* Forgets all: what it depended on beside names has changed. */
void reg_answers_clear(struct reg_answers *a);

/* What is kept for a target, if it is still true; to be given back. NULL: nothing. */
const struct reg_kept *reg_answers_get(struct reg_answers *a, const char *target);
void reg_answers_put_back(const struct reg_kept *kept);

/* What a call's answer is, for those that come after it. generation: of the repository's names,
 * read before they were looked at. pull (may be NULL): what is told when it is sent. */
void reg_answers_keep(struct reg_answers *a, const char *target, const char *repo,
                      uint64_t generation, const char *etag, struct reg_http_answer *answer,
                      bool is_304, size_t body_bytes, const struct reg_event *pull);

#endif
