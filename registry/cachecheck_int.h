/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the check share: cachecheck.c (which checks there are),
 * cachecheck_ask.c (requests and findings), cachecheck_pull.c, cachecheck_push.c. */
#ifndef REG_CACHECHECK_INT_H
#define REG_CACHECHECK_INT_H

#include "cas/digest.h"
#include "registry/cachecheck.h"

#define REG_CHECK_BLOB_BYTES ((size_t)256 * 1024)

/* Content that is pushed and pulled. */
struct reg_check_content {
        struct cas_buf bytes;
        char digest[CAS_DIGEST_TEXT_BYTES];
        char *path; /* "/v2/REPO/blobs/DIGEST"; owned */
};

struct reg_check {
        const struct reg_cachecheck_config *config;
        struct reg_httpc *http;
        char *base; /* the URL without a slash at its end; owned */
        char *repo; /* owned */
        char *tag;  /* owned */
        char *tag_path;
        char *authorization; /* "Authorization: …"; NULL: nobody's */
        void (*tell)(void *arg, const struct reg_finding *finding);
        void *tell_arg;
        unsigned wrong;
        struct reg_check_content blob;         /* compressible, so that it shows */
        struct reg_check_content manifests[2]; /* the tag moves from the first to the second */
};

/* A request. path: below the base, or a whole URL. */
struct reg_check_ask {
        const char *method, *path;
        const char *headers[4]; /* besides Authorization; NULL ends them */
        const void *body;
        size_t body_bytes;
        int (*body_read)(void *arg, uint64_t offset, void *buf, size_t len, size_t *out_len,
                         struct cas_err *err);
        void *body_arg;
        uint64_t read_bytes; /* what body_read gives */
        bool anonymous;
};
struct reg_check_answer {
        struct reg_httpc_transfer *transfer;
        unsigned status;
        struct cas_buf body;
};
void reg_check_answer_release(struct reg_check_answer *a);
#define reg_cleanup_answer __attribute__((cleanup(reg_check_answer_release)))
/* Redirects are not followed. Errors: no answer. */
int reg_check_ask(struct reg_check *c, const struct reg_check_ask *ask,
                  struct reg_check_answer *out, struct cas_err *err) CAS_MUST_CHECK;
/* The same for GET; one redirect is followed, without Authorization. *redirected may be NULL. */
int reg_check_get(struct reg_check *c, const struct reg_check_ask *ask,
                  struct reg_check_answer *out, bool *redirected,
                  struct cas_err *err) CAS_MUST_CHECK;
/* "" when it was not sent. */
const char *reg_check_header(const struct reg_check_answer *a, const char *name);
/* A Location as a path of the base or a whole URL, with one more parameter (NULL: none). Owned. */
char *reg_check_location(const struct reg_check_answer *a, const char *parameter);
/* Whether it has the scheme, host and port of the base; so has a path. */
bool reg_check_same_origin(const struct reg_check *c, const char *url);

/* Findings. advice NULL: none. */
void reg_check_good(struct reg_check *c, const char *check, const char *fmt, ...) CAS_PRINTF(3, 4);
void reg_check_skip(struct reg_check *c, const char *check, const char *fmt, ...) CAS_PRINTF(3, 4);
void reg_check_note(struct reg_check *c, const char *check, const char *advice, const char *fmt,
                    ...) CAS_PRINTF(4, 5);
void reg_check_wrong(struct reg_check *c, const char *check, const char *advice, const char *fmt,
                     ...) CAS_PRINTF(4, 5);

/* cachecheck_push.c. Both push what is pulled later; errors: it cannot be pushed at all. */
int reg_check_missing(struct reg_check *c, struct cas_err *err) CAS_MUST_CHECK;
int reg_check_push_manifest(struct reg_check *c, unsigned which,
                            struct cas_err *err) CAS_MUST_CHECK;
int reg_check_location_given(struct reg_check *c, struct cas_err *err) CAS_MUST_CHECK;
int reg_check_large_upload(struct reg_check *c, struct cas_err *err) CAS_MUST_CHECK;
int reg_check_large_headers(struct reg_check *c, struct cas_err *err) CAS_MUST_CHECK;
/* Deletes what was pushed. */
void reg_check_clean(struct reg_check *c);

/* cachecheck_pull.c */
int reg_check_content(struct reg_check *c, struct cas_err *err) CAS_MUST_CHECK;
int reg_check_head(struct reg_check *c, struct cas_err *err) CAS_MUST_CHECK;
int reg_check_redirect(struct reg_check *c, struct cas_err *err) CAS_MUST_CHECK;
int reg_check_compression(struct reg_check *c, struct cas_err *err) CAS_MUST_CHECK;
int reg_check_range(struct reg_check *c, struct cas_err *err) CAS_MUST_CHECK;
int reg_check_ranges(struct reg_check *c, struct cas_err *err) CAS_MUST_CHECK;
int reg_check_revalidation(struct reg_check *c, struct cas_err *err) CAS_MUST_CHECK;
int reg_check_private(struct reg_check *c, struct cas_err *err) CAS_MUST_CHECK;
int reg_check_moved_tag(struct reg_check *c, struct cas_err *err) CAS_MUST_CHECK;

#endif
