/* SPDX-License-Identifier: Apache-2.0 */
/* What a store honours, tried out: each ability is asked for on objects of our own, once where it
 * must hold and once where it must refuse. What is not seen to hold is taken as absent; errors that
 * say nothing about abilities (no rights, no store) end the probe. */
#include "tiering/s3_int.h"

#include <sys/mman.h>

#define BODY "lamina probe"
#define STALE_ETAG "\"00000000000000000000000000000000\""

struct probe {
        struct s3 *s;
        char *name, *key; /* owned; without and with the prefix */
        struct s3_abilities *out;
};

static void probe_release(struct probe *p)
{
        struct cas_err ignored = CAS_ERR_INIT;
        if (p->name)
                (void)!s3_delete(p->s, p->name, NULL, &ignored);
        free(p->name);
        free(p->key);
}

/* Whether an error is the store's word about what was asked, and not about something else. */
static bool is_word(int rc)
{
        return rc == -CAS_E_EXISTS || rc == -CAS_E_UNSUPPORTED || rc == -CAS_E_CORRUPT ||
               rc == -CAS_E_NOTFOUND || rc == -CAS_E_IO;
}

/* *held: a write that must be done was done, one that must be refused was refused. */
static int try_put(struct probe *p, const struct s3_condition *condition, bool must_hold,
                   bool *held, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        int rc = s3_put(p->s, p->name, BODY, strlen(BODY), condition, NULL, &why);
        *held = must_hold ? rc == 0 : rc == -CAS_E_EXISTS;
        if (rc < 0 && !is_word(rc)) {
                *err = why;
                return rc;
        }
        return 0;
}

static int probe_absent(struct probe *p, struct cas_err *err)
{
        const struct s3_condition absent = {.if_absent = true};
        bool made, refused;
        if (try_put(p, &absent, true, &made, err) < 0)
                return -(int)err->code;
        if (!made && s3_put(p->s, p->name, BODY, strlen(BODY), NULL, NULL, err) < 0)
                return -(int)err->code;
        if (try_put(p, &absent, false, &refused, err) < 0)
                return -(int)err->code;
        p->out->if_absent = made && refused;
        return 0;
}

/* With quotes, as it must be, or else without. */
static int probe_match(struct probe *p, bool bare, struct cas_err *err)
{
        struct s3_object object;
        bool stale_refused, replaced;
        p->out->bare_etags = bare;
        s3_set_abilities(p->s, p->out);
        const struct s3_condition stale = {.if_match = STALE_ETAG},
                                  match = {.if_match = object.etag};
        if (try_put(p, &stale, false, &stale_refused, err) < 0 ||
            s3_head(p->s, p->name, &object, err) < 0 ||
            try_put(p, &match, true, &replaced, err) < 0)
                return -(int)err->code;
        p->out->if_match = stale_refused && replaced;
        p->out->bare_etags = bare && p->out->if_match;
        s3_set_abilities(p->s, p->out);
        return 0;
}

static int count_key(void *arg, const char *key CAS_UNUSED, const struct s3_object *object,
                     struct cas_err *err CAS_UNUSED)
{
        *(bool *)arg = object != NULL;
        return 0;
}

static int probe_reading(struct probe *p, struct cas_err *err)
{
        char piece[4] = "";
        struct cas_err why = CAS_ERR_INIT;
        int rc = s3_get_range(p->s, p->name, 2, piece, sizeof(piece), &why);
        if (rc < 0 && !is_word(rc)) {
                *err = why;
                return rc;
        }
        p->out->ranges = rc == 0 && memcmp(piece, &BODY[2], sizeof(piece)) == 0;
        return s3_list(p->s, p->name, NULL, 0, count_key, &p->out->list_after_write, err);
}

/* One that is put with a checksum of other bytes must be refused; that of the right bytes kept. */
static int put_with_checksum(struct probe *p, const char *of, unsigned *status, struct cas_err *err)
{
        s3_cleanup_answer struct s3_answer a = {0};
        struct cas_err why = CAS_ERR_INIT;
        struct cas_hash hash;
        char checksum[S3_CHECKSUM_BYTES];
        cas_sha256(of, strlen(of), &hash);
        s3_checksum(&hash, checksum);
        struct s3_request r = {.method = "PUT",
                               .key = p->key,
                               .from = {.there = true, .memory = BODY, .bytes = strlen(BODY)},
                               .tries = 1};
        s3_request_header(&r, "x-amz-checksum-sha256", checksum);
        int rc = s3_perform(p->s, &r, &a, &why);
        if (rc < 0 && !is_word(rc)) {
                *err = why;
                return rc;
        }
        *status = a.status;
        return 0;
}

static int probe_checksums(struct probe *p, struct cas_err *err)
{
        s3_cleanup_answer struct s3_answer a = {0};
        struct cas_hash hash;
        char checksum[S3_CHECKSUM_BYTES];
        unsigned wrong, right;
        if (put_with_checksum(p, "other bytes", &wrong, err) < 0 ||
            put_with_checksum(p, BODY, &right, err) < 0)
                return -(int)err->code;
        struct s3_request head = {.method = "HEAD", .key = p->key};
        s3_request_header(&head, "x-amz-checksum-mode", "ENABLED");
        if (s3_perform(p->s, &head, &a, err) < 0)
                return -(int)err->code;
        cas_sha256(BODY, strlen(BODY), &hash);
        s3_checksum(&hash, checksum);
        p->out->checksums = wrong == 400 && right == 200 && a.status == 200 &&
                            strcmp(a.checksum, checksum) == 0;
        return 0;
}

static int put_parts(struct probe *p, struct cas_err *err)
{
        const struct s3_condition absent = {.if_absent = true};
        cas_cleanup_fd int fd = memfd_create("s3-probe", MFD_CLOEXEC);
        if (fd < 0 || write(fd, BODY, strlen(BODY)) != (ssize_t)strlen(BODY))
                return cas_fail(err, CAS_E_NOMEM, "no file in memory");
        struct cas_hash hash;
        cas_sha256(BODY, strlen(BODY), &hash);
        return s3_put_parts(p->s, p->key, fd, strlen(BODY), &hash, &absent, err);
}

/* The object is there: it must be refused; then it is not, and it must be made. */
static int probe_parts(struct probe *p, struct cas_err *err)
{
        struct cas_err first = CAS_ERR_INIT, second = CAS_ERR_INIT;
        int refused = put_parts(p, &first);
        if (refused < 0 && !is_word(refused)) {
                *err = first;
                return refused;
        }
        if (s3_delete(p->s, p->name, NULL, err) < 0)
                return -(int)err->code;
        int made = put_parts(p, &second);
        if (made < 0 && !is_word(made)) {
                *err = second;
                return made;
        }
        p->out->multipart_if_absent = refused == -CAS_E_EXISTS && made == 0;
        if (made < 0 && p->out->checksums) {
                /* Not of parts, then: rather none at all. */
                p->out->checksums = false;
                s3_set_abilities(p->s, p->out);
        }
        return 0;
}

static int probe_delete(struct probe *p, struct cas_err *err)
{
        struct s3_object object;
        struct s3_abilities tried = *p->out;
        struct cas_err why = CAS_ERR_INIT;
        if (s3_put(p->s, p->name, BODY, strlen(BODY), NULL, NULL, err) < 0 ||
            s3_head(p->s, p->name, &object, err) < 0)
                return -(int)err->code;
        tried.conditional_delete = true;
        s3_set_abilities(p->s, &tried);
        bool refused = s3_delete(p->s, p->name, STALE_ETAG, &why) == -CAS_E_EXISTS;
        bool there = s3_head(p->s, p->name, &object, &why) == 0;
        bool done = refused && there && s3_delete(p->s, p->name, object.etag, &why) == 0;
        bool gone = done && s3_head(p->s, p->name, &object, &why) == -CAS_E_NOTFOUND;
        p->out->conditional_delete = gone;
        return 0;
}

int s3_probe(struct s3 *s, struct s3_abilities *out, struct cas_err *err)
{
        struct s3_abilities found = {0};
        char nonce[S3_NONCE_BYTES];
        s3_nonce(nonce);
        __attribute__((cleanup(probe_release))) struct probe p = {.s = s, .out = &found};
        p.name = cas_xasprintf("probe/%s", nonce);
        s3_set_abilities(s, &found);
        if (s3_key(s, p.name, &p.key, err) < 0)
                return -(int)err->code;
        if (probe_absent(&p, err) < 0 || probe_match(&p, false, err) < 0 ||
            (!found.if_match && probe_match(&p, true, err) < 0) || probe_reading(&p, err) < 0 ||
            probe_checksums(&p, err) < 0)
                return cas_err_wrap(err, "trying out what the store can do");
        s3_set_abilities(s, &found);
        if (probe_parts(&p, err) < 0 || probe_delete(&p, err) < 0)
                return cas_err_wrap(err, "trying out what the store can do");
        s3_set_abilities(s, &found);
        *out = found;
        return 0;
}
