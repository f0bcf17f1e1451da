/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs of a remote registry, as streams that outlive their connections. */
#include "registry/remote_int.h"

struct reg_remote_blob {
        struct reg_remote *r;         /* borrowed */
        char *path;                   /* owned: below /v2/, or a URL */
        char *repo;                   /* owned; NULL: by URL, without credentials */
        uint64_t at, end;             /* end: exclusive; UINT64_MAX while it is not known */
        uint64_t blob_bytes;          /* UINT64_MAX while it is not known */
        struct reg_httpc_transfer *t; /* owned; NULL: to be opened (again) */
        bool ranges;                  /* the registry serves them */
        bool ranges_only;             /* a part is wanted, and not what is before it */
        unsigned failures;            /* since the last byte */
};

void reg_remote_blob_close(struct reg_remote_blob *b)
{
        if (!b)
                return;
        reg_httpc_end(b->t);
        free(b->path);
        free(b->repo);
        free(b);
}

/* "bytes A-B/N", N a number or an asterisk. */
static bool parse_content_range(const char *text, uint64_t *first, uint64_t *total)
{
        unsigned long long a, b, n;
        int used = 0;
        if (!text || strncmp(text, "bytes ", 6) != 0 || text[6] < '0' || text[6] > '9')
                return false;
        if (sscanf(text + 6, "%19llu-%19llu/%19llu%n", &a, &b, &n, &used) == 3 &&
            text[6 + used] == 0 && a <= b && b < n) {
                *first = a;
                *total = n;
                return true;
        }
        if (sscanf(text + 6, "%19llu-%19llu/*%n", &a, &b, &used) == 2 && used > 0 &&
            text[6 + used] == 0 && a <= b) {
                *first = a;
                *total = UINT64_MAX;
                return true;
        }
        return false;
}

static int set_total(struct reg_remote_blob *b, uint64_t total, struct cas_err *err)
{
        if (total == UINT64_MAX)
                return 0;
        if (b->blob_bytes != UINT64_MAX && b->blob_bytes != total)
                return cas_fail(err, CAS_E_CORRUPT, "%s: first of %llu bytes, then of %llu",
                                b->path, (unsigned long long)b->blob_bytes,
                                (unsigned long long)total);
        b->blob_bytes = total;
        b->end = cas_min_u64(b->end, total);
        return 0;
}

/* Reads away what a server without ranges sends first. */
static int skip(struct reg_remote_blob *b, struct cas_err *err)
{
        if (b->ranges_only && b->at > 0)
                return cas_fail(err, CAS_E_UNSUPPORTED, "%s: no ranges", b->path);
        uint8_t piece[16384];
        for (uint64_t left = b->at; left > 0;) {
                size_t n;
                if (reg_httpc_read(b->t, piece, cas_min_u64(left, sizeof(piece)), &n, err) < 0)
                        return -(int)err->code;
                if (n == 0)
                        return cas_fail(err, CAS_E_IO, "%s: it ends early", b->path);
                left -= n;
        }
        return 0;
}

/* Judges an answer: is it what stands at b->at? */
static int take_answer(struct reg_remote_blob *b, struct cas_err *err)
{
        unsigned status = reg_httpc_status(b->t);
        const char *coded = reg_httpc_header(b->t, "Content-Encoding");
        if (coded && strcasecmp(coded, "identity") != 0)
                return cas_fail(err, CAS_E_UNSUPPORTED, "%s: sent as %.20s", b->path, coded);
        if (status == 206) {
                uint64_t first, total;
                if (!parse_content_range(reg_httpc_header(b->t, "Content-Range"), &first, &total) ||
                    first != b->at)
                        return cas_fail(err, CAS_E_CORRUPT, "%s: another range than asked for",
                                        b->path);
                b->ranges = true;
                return set_total(b, total, err);
        }
        if (status == 416) {
                /* Right behind the end: nothing is left. */
                const char *text = reg_httpc_header(b->t, "Content-Range");
                unsigned long long total;
                if (text && sscanf(text, "bytes */%19llu", &total) == 1 && total == b->at)
                        return set_total(b, total, err);
                return cas_fail(err, CAS_E_INVALID, "%s: it is shorter than %llu bytes", b->path,
                                (unsigned long long)b->at);
        }
        if (status != 200)
                return cas_fail(err, CAS_E_INVALID, "%s: HTTP %u", b->path, status);
        const char *accepts = reg_httpc_header(b->t, "Accept-Ranges");
        b->ranges = accepts && strcasecmp(accepts, "bytes") == 0;
        if (set_total(b, reg_httpc_length(b->t), err) < 0)
                return -(int)err->code;
        return skip(b, err);
}

static int connect_at(struct reg_remote_blob *b, struct reg_remote_failure *failure,
                      struct cas_err *err)
{
        static const unsigned accept[] = {416, 0};
        char range[64];
        const char *headers[] = {NULL, NULL};
        if (b->ranges_only && b->end != UINT64_MAX)
                (void)snprintf(range, sizeof(range), "Range: bytes=%llu-%llu",
                               (unsigned long long)b->at, (unsigned long long)(b->end - 1));
        else
                (void)snprintf(range, sizeof(range), "Range: bytes=%llu-",
                               (unsigned long long)b->at);
        if (b->ranges_only || b->at > 0)
                headers[0] = range;
        struct reg_remote_request q = {.method = "GET",
                                       .path = b->path,
                                       .scope_repo = b->repo,
                                       .actions = "pull",
                                       .headers = headers,
                                       .accept = accept};
        if (reg_remote_exchange(b->r, &q, &b->t, failure, err) < 0)
                return -(int)err->code;
        return take_answer(b, err);
}

/* Takes b; frees it when it cannot be opened. */
static int open_blob(struct reg_remote_blob *b, struct reg_remote_blob **out, uint64_t *out_bytes,
                     bool *ranges, struct reg_remote_failure *failure, struct cas_err *err)
{
        for (;;) {
                if (connect_at(b, failure, err) == 0)
                        break;
                /* The exchange has its own attempts; this is for what breaks while it is skipped.
                 */
                if (err->code != CAS_E_IO || !b->t || ++b->failures >= b->r->config.attempts) {
                        reg_remote_blob_close(b);
                        return -(int)err->code;
                }
                reg_httpc_end(cas_steal(&b->t));
        }
        b->failures = 0;
        if (out_bytes)
                *out_bytes = b->blob_bytes;
        if (ranges)
                *ranges = b->ranges;
        *out = b;
        return 0;
}

static struct reg_remote_blob *blob_new(struct reg_remote *r, const char *repo,
                                        const struct cas_digest *digest, uint64_t offset)
{
        char name[REG_REMOTE_REPO_BYTES], text[CAS_DIGEST_TEXT_BYTES];
        struct reg_remote_blob *b = cas_xcalloc(1, sizeof(*b));
        b->r = r;
        b->repo = cas_xstrdup(reg_remote_repo(r, repo, name));
        b->path = cas_xasprintf("%s/blobs/%s", name, cas_digest_text(digest, text));
        b->at = offset;
        b->end = b->blob_bytes = UINT64_MAX;
        return b;
}

int reg_remote_blob_open(struct reg_remote *r, const char *repo, const struct cas_digest *digest,
                         uint64_t offset, struct reg_remote_blob **out, uint64_t *out_bytes,
                         struct reg_remote_failure *failure, struct cas_err *err)
{
        return open_blob(blob_new(r, repo, digest, offset), out, out_bytes, NULL, failure, err);
}

int reg_remote_blob_open_range(struct reg_remote *r, const char *repo,
                               const struct cas_digest *digest, uint64_t offset, uint64_t bytes,
                               struct reg_remote_blob **out, uint64_t *out_bytes, bool *ranges,
                               struct reg_remote_failure *failure, struct cas_err *err)
{
        cas_assert(bytes > 0);
        struct reg_remote_blob *b = blob_new(r, repo, digest, offset);
        b->ranges_only = true;
        b->end = bytes > UINT64_MAX - offset ? UINT64_MAX : offset + bytes;
        return open_blob(b, out, out_bytes, ranges, failure, err);
}

int reg_remote_blob_open_url(struct reg_remote *r, const char *url, uint64_t offset,
                             struct reg_remote_blob **out, uint64_t *out_bytes,
                             struct reg_remote_failure *failure, struct cas_err *err)
{
        if (strncmp(url, "https://", 8) != 0 && strncmp(url, "http://", 7) != 0)
                return cas_fail(err, CAS_E_INVALID, "URL %.100s: not of http or https", url);
        struct reg_remote_blob *b = cas_xcalloc(1, sizeof(*b));
        b->r = r;
        b->path = cas_xstrdup(url);
        b->at = offset;
        b->end = b->blob_bytes = UINT64_MAX;
        return open_blob(b, out, out_bytes, NULL, failure, err);
}

/* A piece of the answer that is open. Too few bytes are an error, as a broken connection is. */
static int read_open(struct reg_remote_blob *b, void *buf, size_t len, size_t *out_len,
                     struct cas_err *err)
{
        size_t n;
        if (reg_httpc_read(b->t, buf, cas_min_u64(len, b->end - b->at), &n, err) < 0)
                return -(int)err->code;
        if (n == 0 && b->end != UINT64_MAX)
                return cas_fail(err, CAS_E_IO, "%s: it ends after %llu of %llu bytes", b->path,
                                (unsigned long long)b->at, (unsigned long long)b->end);
        b->at += n;
        *out_len = n;
        return 0;
}

int reg_remote_blob_read(void *blob, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct reg_remote_blob *b = blob;
        for (;;) {
                if (b->at == b->end) {
                        *out_len = 0;
                        return 0;
                }
                struct cas_err why = CAS_ERR_INIT;
                int rc = b->t ? 0 : connect_at(b, NULL, &why);
                if (rc == 0)
                        rc = read_open(b, buf, len, out_len, &why);
                if (rc == 0) {
                        b->failures = 0;
                        return 0;
                }
                /* Without an answer: the exchange has tried already. */
                bool broken = b->t && (why.code == CAS_E_IO || why.code == CAS_E_LIMIT);
                if (!broken || ++b->failures >= b->r->config.attempts) {
                        *err = why;
                        return rc;
                }
                reg_httpc_end(cas_steal(&b->t));
                remote_pause(b->failures - 1, &(struct reg_remote_failure){0});
        }
}
