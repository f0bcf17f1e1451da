/* SPDX-License-Identifier: Apache-2.0 */
/* Files: put in parallel parts where they are long, fetched in parallel ranges. */
#include "tiering/s3_int.h"

#include "cas/io.h"

#define GET_TRIES 3 /* of a file whose digest is not what it must be */

/* What the workers share: the first that fails ends it for all. */
struct job {
        struct s3 *s;
        struct cas_mutex mutex; /* guards what follows */
        bool failed;
        struct cas_err err;
};

static bool job_failed(struct job *j)
{
        cas_mutex_lock(&j->mutex);
        bool failed = j->failed;
        cas_mutex_unlock(&j->mutex);
        return failed;
}

static void job_fail(struct job *j, const struct cas_err *err)
{
        cas_mutex_lock(&j->mutex);
        if (!j->failed)
                j->err = *err;
        j->failed = true;
        cas_mutex_unlock(&j->mutex);
}

/* Runs fn on each of count tasks, several at a time. */
static int job_run(struct job *j, void (*fn)(void *task), void *tasks, size_t task_bytes,
                   size_t count, struct cas_err *err)
{
        struct cas_pool *pool = s3_workers(j->s);
        struct cas_pool_group group = {0};
        cas_mutex_init(&j->mutex, "s3.job");
        for (size_t i = 0; i < count && !job_failed(j); i++)
                cas_pool_submit(pool, &group, fn, (uint8_t *)tasks + i * task_bytes);
        cas_pool_wait(pool, &group);
        if (j->failed)
                *err = j->err;
        cas_mutex_release(&j->mutex);
        return j->failed ? -(int)err->code : 0;
}

/* Ranges. */

static bool range_fits(const struct s3_answer *a, uint64_t offset, uint64_t len,
                       uint64_t whole_bytes)
{
        unsigned long long first, last, total;
        int end = 0;
        return sscanf(a->range, "bytes %19llu-%19llu/%19llu%n", &first, &last, &total, &end) == 3 &&
               a->range[end] == '\0' && first == offset && last == offset + len - 1 &&
               (whole_bytes == UINT64_MAX || total == whole_bytes);
}

int s3_fetch_range(struct s3 *s, const char *key, uint64_t offset, uint64_t whole_bytes,
                   const struct s3_into *into, struct cas_err *err)
{
        s3_cleanup_answer struct s3_answer a = {0};
        uint64_t len = into->bytes;
        cas_cleanup_free char *range = cas_xasprintf("bytes=%llu-%llu", (unsigned long long)offset,
                                                     (unsigned long long)(offset + len - 1));
        for (unsigned tried = 0;; tried++) {
                struct s3_request r = {.method = "GET", .key = key, .into = *into};
                s3_request_header(&r, "range", range);
                if (s3_perform(s, &r, &a, err) < 0)
                        return -(int)err->code;
                if (a.status == 404)
                        return cas_fail(err, CAS_E_NOTFOUND, "s3://%s/%.200s: there is none",
                                        s->config.bucket, key);
                if (a.status == 416)
                        return cas_fail(err, CAS_E_CORRUPT,
                                        "s3://%s/%.200s: it ends before byte %llu",
                                        s->config.bucket, key, (unsigned long long)offset);
                bool all = a.status == 200 && offset == 0 && a.length == len;
                if (all || (a.status == 206 && range_fits(&a, offset, len, whole_bytes)))
                        return 0;
                if (tried + 1 >= s->config.tries)
                        return cas_fail(err, CAS_E_CORRUPT,
                                        "s3://%s/%.200s: another range than was asked for (%s)",
                                        s->config.bucket, key, a.range);
                atomic_fetch_add(&s->retried, 1);
        }
}

/* Fetching a file. */

struct piece {
        struct job *job;
        const char *key;
        struct s3_into into;
        uint64_t whole_bytes;
};

static void fetch_piece(void *arg)
{
        struct piece *p = arg;
        struct cas_err err = CAS_ERR_INIT;
        if (job_failed(p->job))
                return;
        if (s3_fetch_range(p->job->s, p->key, p->into.offset, p->whole_bytes, &p->into, &err) < 0)
                job_fail(p->job, &err);
}

static int get_whole(struct s3 *s, const char *key, int fd, uint64_t bytes, struct cas_err *err)
{
        s3_cleanup_answer struct s3_answer a = {0};
        struct s3_request r = {.method = "GET",
                               .key = key,
                               .into = {.kind = S3_SINK_FILE, .fd = fd, .bytes = bytes},
                               .whole = true};
        if (s3_perform(s, &r, &a, err) < 0)
                return -(int)err->code;
        return a.status == 200 ? 0 : s3_fail_answer(s, &r, &a, err);
}

static int get_pieces(struct s3 *s, const char *key, int fd, uint64_t bytes, struct cas_err *err)
{
        uint64_t part = s->config.part_bytes;
        size_t count = (size_t)((bytes + part - 1) / part);
        if (count > S3_PARTS_MAX) {
                part = (bytes + S3_PARTS_MAX - 1) / S3_PARTS_MAX;
                count = (size_t)((bytes + part - 1) / part);
        }
        cas_cleanup_free struct piece *pieces = cas_xcalloc(count, sizeof(*pieces));
        struct job job = {.s = s};
        for (size_t i = 0; i < count; i++)
                pieces[i] = (struct piece){.job = &job,
                                           .key = key,
                                           .whole_bytes = bytes,
                                           .into = {.kind = S3_SINK_FILE,
                                                    .fd = fd,
                                                    .offset = i * part,
                                                    .bytes = cas_min_u64(part, bytes - i * part)}};
        return job_run(&job, fetch_piece, pieces, sizeof(*pieces), count, err);
}

static int check_file(struct s3 *s, const char *key, int fd, uint64_t bytes,
                      const struct cas_digest *sha256, struct cas_err *err)
{
        struct cas_hash hash;
        if (s3_hash_file(fd, 0, bytes, &hash, err) < 0)
                return -(int)err->code;
        if (memcmp(hash.bytes, sha256->bytes, CAS_HASH_BYTES) != 0)
                return cas_fail(err, CAS_E_CORRUPT,
                                "s3://%s/%.200s: what was fetched has another digest",
                                s->config.bucket, key);
        return 0;
}

int s3_get_file(struct s3 *s, const char *key, int fd, uint64_t bytes,
                const struct cas_digest *sha256, struct cas_err *err)
{
        cas_cleanup_free char *whole = NULL;
        cas_assert(!sha256 || sha256->alg == CAS_DIGEST_SHA256);
        if (s3_key(s, key, &whole, err) < 0)
                return -(int)err->code;
        for (unsigned tried = 1;; tried++) {
                struct cas_err why = CAS_ERR_INIT;
                int rc = bytes <= s->config.part_bytes ? get_whole(s, whole, fd, bytes, &why)
                                                       : get_pieces(s, whole, fd, bytes, &why);
                bool fetched = rc == 0;
                if (rc == 0 && sha256)
                        rc = check_file(s, whole, fd, bytes, sha256, &why);
                if (rc == 0)
                        return 0;
                /* Bytes that came wrong may come right. */
                if (!fetched || rc != -CAS_E_CORRUPT || tried == GET_TRIES) {
                        *err = why;
                        return rc;
                }
        }
}

/* Putting a file whole. */

static int put_whole(struct s3 *s, const char *key, int fd, uint64_t bytes,
                     const struct cas_hash *hash, const struct s3_condition *condition,
                     struct cas_err *err)
{
        s3_cleanup_answer struct s3_answer a = {0};
        struct s3_write_headers h;
        struct s3_request r = {.method = "PUT",
                               .key = key,
                               .from = {.there = true, .fd = fd, .bytes = bytes},
                               .from_sha256 = hash};
        s3_write_headers(s, &r, hash, &h);
        if (s3_known_abilities(s).checksums) {
                s3_checksum(hash, h.checksum);
                s3_request_header(&r, "x-amz-checksum-sha256", h.checksum);
        }
        s3_marked_condition_headers(s, &r, condition, &h);
        if (s3_perform(s, &r, &a, err) < 0)
                return -(int)err->code;
        return s3_check_written(s, &r, &a, err);
}

/* Putting it in parts. */

struct upload {
        struct s3 *s;
        struct job job;
        const char *key;
        char *id; /* owned */
        int fd;
        bool checksums;
        char nonce[S3_NONCE_BYTES];
};
struct part {
        struct upload *upload;
        unsigned number;
        uint64_t offset, bytes;
        char etag[S3_ETAG_BYTES], checksum[S3_CHECKSUM_BYTES];
};

static int begin_upload(struct upload *u, const struct cas_hash *hash, struct cas_err *err)
{
        s3_cleanup_answer struct s3_answer a = {0};
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        struct s3_write_headers h;
        struct s3_request r = {
                .method = "POST",
                .key = u->key,
                .from = {.there = true, .memory = ""},
                .into = {.kind = S3_SINK_BUF, .buf = &body, .bytes = S3_ERROR_BODY_BYTES_MAX}};
        s3_request_query(&r, "uploads", "");
        s3_write_headers(u->s, &r, hash, &h);
        s3_mark_header(&r, &h);
        memcpy(u->nonce, h.nonce, S3_NONCE_BYTES);
        if (u->checksums)
                s3_request_header(&r, "x-amz-checksum-algorithm", "SHA256");
        if (s3_perform(u->s, &r, &a, err) < 0)
                return -(int)err->code;
        if (a.status != 200)
                return s3_fail_answer(u->s, &r, &a, err);
        return s3_xml_upload_id(body.data, body.len_bytes, &u->id, err);
}

static int put_part(struct part *p, struct cas_err *err)
{
        struct upload *u = p->upload;
        s3_cleanup_answer struct s3_answer a = {0};
        cas_cleanup_free char *number = cas_xasprintf("%u", p->number);
        struct cas_hash hash;
        if (s3_hash_file(u->fd, p->offset, p->bytes, &hash, err) < 0)
                return -(int)err->code;
        struct s3_request r = {
                .method = "PUT",
                .key = u->key,
                .from = {.there = true, .fd = u->fd, .offset = p->offset, .bytes = p->bytes},
                .from_sha256 = &hash};
        s3_request_query(&r, "partNumber", number);
        s3_request_query(&r, "uploadId", u->id);
        s3_checksum(&hash, p->checksum);
        if (u->checksums)
                s3_request_header(&r, "x-amz-checksum-sha256", p->checksum);
        if (s3_perform(u->s, &r, &a, err) < 0)
                return -(int)err->code;
        if (a.status != 200)
                return s3_fail_answer(u->s, &r, &a, err);
        if (!*a.etag || strpbrk(a.etag, "<&"))
                return cas_fail(err, CAS_E_CORRUPT, "a part was taken without an ETag");
        memcpy(p->etag, a.etag, S3_ETAG_BYTES);
        return 0;
}

static void part_main(void *arg)
{
        struct part *p = arg;
        struct cas_err err = CAS_ERR_INIT;
        if (!job_failed(&p->upload->job) && put_part(p, &err) < 0) {
                (void)cas_err_wrap(&err, "part %u", p->number);
                job_fail(&p->upload->job, &err);
        }
}

static void completion(const struct upload *u, const struct part *parts, size_t count,
                       struct cas_buf *out)
{
        cas_buf_append_str(out, "<CompleteMultipartUpload "
                                "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
        for (size_t i = 0; i < count; i++) {
                cas_buf_printf(out, "<Part><PartNumber>%u</PartNumber><ETag>%s</ETag>",
                               parts[i].number, parts[i].etag);
                if (u->checksums)
                        cas_buf_printf(out, "<ChecksumSHA256>%s</ChecksumSHA256>",
                                       parts[i].checksum);
                cas_buf_append_str(out, "</Part>");
        }
        cas_buf_append_str(out, "</CompleteMultipartUpload>");
}

/* Whether the object is there by our own doing though the answer to it was lost: the upload is
 * gone then. */
static int was_completed(struct upload *u, const struct s3_request *r, const struct s3_answer *a,
                         struct cas_err *err)
{
        bool ours;
        s3_cleanup_answer struct s3_answer head = {0};
        if (s3_look_up(u->s, u->key, u->nonce, &head, &ours, err) < 0)
                return -(int)err->code;
        return ours ? 0 : s3_fail_answer(u->s, r, a, err);
}

/* One request to put the parts together. *again: the answer was an error after the beginning of a
 * success. */
static int complete_once(struct upload *u, const struct cas_buf *text,
                         const struct s3_condition *condition, bool *again, struct cas_err *err)
{
        s3_cleanup_answer struct s3_answer a = {0};
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        struct s3_write_headers h;
        struct s3_request r = {
                .method = "POST",
                .key = u->key,
                .from = {.there = true, .memory = text->data, .bytes = text->len_bytes},
                .into = {.kind = S3_SINK_BUF, .buf = &body, .bytes = S3_ERROR_BODY_BYTES_MAX},
                .slow = true};
        *again = false;
        s3_request_query(&r, "uploadId", u->id);
        if (s3_condition_headers(u->s, &r, condition, &h))
                r.nonce = u->nonce;
        if (s3_perform(u->s, &r, &a, err) < 0)
                return -(int)err->code;
        if (a.status == 404)
                return was_completed(u, &r, &a, err);
        if (s3_check_written(u->s, &r, &a, err) < 0)
                return -(int)err->code;
        if (strcmp(a.nonce, u->nonce) == 0)
                return 0; /* looked up */
        *again = s3_xml_is_problem(body.data, body.len_bytes);
        if (!*again)
                return s3_xml_completed(body.data, body.len_bytes, err);
        struct s3_problem p;
        s3_xml_problem(body.data, body.len_bytes, &p);
        return cas_fail(err, CAS_E_IO, "the parts were not put together: %s: %s", p.code,
                        p.message);
}

static int complete(struct upload *u, const struct part *parts, size_t count,
                    const struct s3_condition *condition, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        completion(u, parts, count, &text);
        for (unsigned tried = 0;; tried++) {
                struct cas_err why = CAS_ERR_INIT;
                bool again;
                int rc = complete_once(u, &text, condition, &again, &why);
                if (rc == 0)
                        return 0;
                if (!again || tried + 1 >= u->s->config.tries ||
                    !s3_handles_sleep(&u->s->handles, s3_wait_ms(tried, 0))) {
                        *err = why;
                        return rc;
                }
        }
}

static int put_parts(struct upload *u, struct part *parts, size_t count,
                     const struct cas_hash *hash, const struct s3_condition *condition,
                     struct cas_err *err)
{
        if (begin_upload(u, hash, err) < 0)
                return -(int)err->code;
        int rc = job_run(&u->job, part_main, parts, sizeof(*parts), count, err);
        if (rc == 0)
                rc = complete(u, parts, count, condition, err);
        if (rc < 0) {
                /* What this leaves behind is found by s3_abort_uploads(). */
                struct cas_err ignored = CAS_ERR_INIT;
                (void)!s3_abort_upload(u->s, u->key, u->id, &ignored);
        }
        return rc;
}

int s3_put_parts(struct s3 *s, const char *key, int fd, uint64_t bytes, const struct cas_hash *hash,
                 const struct s3_condition *condition, struct cas_err *err)
{
        uint64_t part_bytes =
                cas_max_u64(s->config.part_bytes, (bytes + S3_PARTS_MAX - 1) / S3_PARTS_MAX);
        size_t count = (size_t)((bytes + part_bytes - 1) / part_bytes);
        struct upload u = {.s = s, .job = {.s = s}, .key = key, .fd = fd};
        u.checksums = s3_known_abilities(s).checksums;
        cas_cleanup_free struct part *parts = cas_xcalloc(count, sizeof(*parts));
        for (size_t i = 0; i < count; i++)
                parts[i] = (struct part){.upload = &u,
                                         .number = (unsigned)i + 1,
                                         .offset = i * part_bytes,
                                         .bytes = cas_min_u64(part_bytes, bytes - i * part_bytes)};
        int rc = put_parts(&u, parts, count, hash, condition, err);
        free(u.id);
        return rc;
}

int s3_put_file(struct s3 *s, const char *key, int fd, uint64_t bytes,
                const struct cas_digest *sha256, const struct s3_condition *condition,
                struct cas_err *err)
{
        cas_cleanup_free char *whole = NULL;
        struct cas_hash hash;
        cas_assert(!sha256 || sha256->alg == CAS_DIGEST_SHA256);
        if (s3_key(s, key, &whole, err) < 0 || s3_hash_file(fd, 0, bytes, &hash, err) < 0)
                return -(int)err->code;
        if (sha256 && memcmp(hash.bytes, sha256->bytes, CAS_HASH_BYTES) != 0)
                return cas_fail(err, CAS_E_CORRUPT,
                                "s3://%s/%.200s: the file to be put has another digest",
                                s->config.bucket, whole);
        return bytes <= s->config.part_bytes
                       ? put_whole(s, whole, fd, bytes, &hash, condition, err)
                       : s3_put_parts(s, whole, fd, bytes, &hash, condition, err);
}
