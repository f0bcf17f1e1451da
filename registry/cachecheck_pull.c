/* SPDX-License-Identifier: Apache-2.0 */
/* Pulls through the cache: what the registry says must come out as it went in,
 * for everybody who may have it and for nobody else. */
#include <stdio.h>
#include <strings.h>
#include <time.h>

#include "registry/cachecheck_int.h"

#define TAG_SECONDS_UNKNOWN 60
#define TAG_SECONDS_SPARE 5
#define TAG_SECONDS_MAX 120
#define TAG_LOOK_MS 200

static bool same_bytes(const struct reg_check_answer *a, const struct cas_buf *bytes)
{
        return a->body.len_bytes == bytes->len_bytes &&
               memcmp(a->body.data, bytes->data, bytes->len_bytes) == 0;
}

/* The first that is not as it should be is told. False then. */
static bool judge_headers(struct reg_check *c, const struct reg_check_answer *a, const char *what,
                          const struct reg_check_content *content)
{
        char etag[CAS_DIGEST_TEXT_BYTES + 2];
        (void)snprintf(etag, sizeof(etag), "\"%s\"", content->digest);
        const char *got = reg_check_header(a, "ETag");
        bool good = true;
        if (strcmp(reg_check_header(a, "Docker-Content-Digest"), content->digest) != 0) {
                reg_check_wrong(c, "digest-header", "pass all headers of the registry on",
                                "the %s comes with Docker-Content-Digest \"%.140s\" instead of %s: "
                                "clients check it",
                                what, reg_check_header(a, "Docker-Content-Digest"),
                                content->digest);
                good = false;
        }
        if (strcmp(got, etag) != 0) {
                reg_check_wrong(c, "etag",
                                "pass ETag on as it is; a weak one (W/) shows that the answer was "
                                "changed on its way, most often compressed",
                                "the %s comes with ETag %.140s instead of %s: nothing can be "
                                "revalidated or resumed",
                                what, got[0] ? got : "(none)", etag);
                good = false;
        }
        if (reg_httpc_length(a->transfer) != content->bytes.len_bytes) {
                reg_check_wrong(c, "length",
                                "do not change answers (no compression, no filters); pass "
                                "Content-Length on",
                                "the %s comes without its Content-Length: progress, resumption and "
                                "some clients break",
                                what);
                good = false;
        }
        if (reg_check_header(a, "Vary")[0]) {
                reg_check_wrong(c, "vary", "add no Vary: an answer is the same for all who may ask",
                                "the %s comes with Vary: %.100s: caches keep a copy for each "
                                "client, or none",
                                what, reg_check_header(a, "Vary"));
                good = false;
        }
        return good;
}

static int pull(struct reg_check *c, const char *what, const char *path,
                const struct reg_check_content *content, bool *good, struct cas_err *err)
{
        reg_cleanup_answer struct reg_check_answer a = {0};
        int rc = reg_check_get(c, &(struct reg_check_ask){.path = path}, &a, NULL, err);
        if (rc < 0)
                return rc;
        if (a.status != 200 || !same_bytes(&a, &content->bytes)) {
                reg_check_wrong(c, "content", "pass answers on unchanged",
                                "the %s does not come as it was pushed: status %u, %zu of %zu "
                                "bytes",
                                what, a.status, a.body.len_bytes, content->bytes.len_bytes);
                *good = false;
                return 0;
        }
        if (!judge_headers(c, &a, what, content))
                *good = false;
        return 0;
}

static void tell_kept(struct reg_check *c, const struct reg_check_answer *a)
{
        static const char *const names[] = {"X-Cache", "X-Cache-Status", "CF-Cache-Status",
                                            "X-Proxy-Cache"};
        for (size_t i = 0; i < CAS_COUNT(names); i++) {
                const char *value = reg_check_header(a, names[i]);
                if (strcasestr(value, "hit")) {
                        reg_check_good(c, "kept", "content is kept (%s: %.60s)", names[i], value);
                        return;
                }
        }
        if (!strcasestr(reg_check_header(a, "Cache-Control"), "public"))
                reg_check_skip(c, "kept", "what is in %s is private: it is not to be kept",
                               c->repo);
        else if (strcmp(reg_check_header(a, "Age"), "0") > 0)
                reg_check_good(c, "kept", "content is kept (Age: %.20s)",
                               reg_check_header(a, "Age"));
        else
                reg_check_note(c, "kept",
                               "if it should be: let the cache keep what is public, and say so in "
                               "a header such as X-Cache",
                               "nothing shows that content is kept");
}

/* Twice each: as the registry answers, and as it is kept. */
int reg_check_content(struct reg_check *c, struct cas_err *err)
{
        static const char *const what[] = {"manifest by tag", "manifest by digest", "blob"};
        const char *const paths[] = {c->tag_path, c->manifests[0].path, c->blob.path};
        const struct reg_check_content *const contents[] = {&c->manifests[0], &c->manifests[0],
                                                            &c->blob};
        bool all_good = true;
        for (size_t i = 0; i < CAS_COUNT(paths); i++) {
                bool good = true;
                for (unsigned round = 0; round < 2 && good; round++) {
                        int rc = pull(c, what[i], paths[i], contents[i], &good, err);
                        if (rc < 0)
                                return rc;
                }
                all_good = all_good && good;
        }
        if (all_good)
                reg_check_good(c, "content",
                               "manifests and blobs come as they were pushed, with their headers");
        reg_cleanup_answer struct reg_check_answer a = {0};
        int rc = reg_check_get(c, &(struct reg_check_ask){.path = c->blob.path}, &a, NULL, err);
        if (rc == 0)
                tell_kept(c, &a);
        return rc;
}

int reg_check_head(struct reg_check *c, struct cas_err *err)
{
        const char *const paths[] = {c->manifests[0].path, c->blob.path};
        const uint64_t bytes[] = {c->manifests[0].bytes.len_bytes, c->blob.bytes.len_bytes};
        for (size_t i = 0; i < CAS_COUNT(paths); i++) {
                reg_cleanup_answer struct reg_check_answer a = {0};
                struct reg_check_ask head = {.method = "HEAD", .path = paths[i]};
                int rc = reg_check_ask(c, &head, &a, err);
                if (rc < 0)
                        return rc;
                if (a.status >= 300 && a.status < 400) {
                        reg_check_wrong(c, "head",
                                        "let HEAD reach the registry as HEAD (nginx: "
                                        "proxy_cache_convert_head off)",
                                        "HEAD is answered with %u: it was made a GET on its way, "
                                        "and redirected",
                                        a.status);
                        return 0;
                }
                if (a.status != 200 || reg_httpc_length(a.transfer) != bytes[i]) {
                        reg_check_wrong(c, "head", "pass the registry's answers to HEAD on",
                                        "HEAD is answered with %u and Content-Length \"%.24s\": "
                                        "200 and %llu were expected",
                                        a.status, reg_check_header(&a, "Content-Length"),
                                        (unsigned long long)bytes[i]);
                        return 0;
                }
        }
        reg_check_good(c, "head", "HEAD tells the size, and is not redirected");
        return 0;
}

int reg_check_redirect(struct reg_check *c, struct cas_err *err)
{
        reg_cleanup_answer struct reg_check_answer a = {0};
        struct reg_check_ask get = {.method = "GET", .path = c->blob.path};
        int rc = reg_check_ask(c, &get, &a, err);
        if (rc < 0)
                return rc;
        if (a.status < 300 || a.status >= 400)
                reg_check_skip(c, "redirect", "blobs are not served from elsewhere");
        else if (strcasestr(reg_check_header(&a, "Cache-Control"), "no-store"))
                reg_check_good(c, "redirect", "blobs are served from %.60s, which is not kept",
                               reg_check_header(&a, "Location"));
        else
                reg_check_wrong(c, "redirect",
                                "pass Cache-Control on, and keep nothing that says no-store",
                                "the address that a blob is served from (%.60s) may be kept longer "
                                "than it is good for",
                                reg_check_header(&a, "Location"));
        return 0;
}

int reg_check_compression(struct reg_check *c, struct cas_err *err)
{
        const char *const paths[] = {c->manifests[0].path, c->blob.path};
        const struct cas_buf *const bytes[] = {&c->manifests[0].bytes, &c->blob.bytes};
        for (size_t i = 0; i < CAS_COUNT(paths); i++) {
                reg_cleanup_answer struct reg_check_answer a = {0};
                struct reg_check_ask get = {.path = paths[i],
                                            .headers = {"Accept-Encoding: zstd, gzip, br"}};
                int rc = reg_check_get(c, &get, &a, NULL, err);
                if (rc < 0)
                        return rc;
                const char *encoding = reg_check_header(&a, "Content-Encoding");
                if (encoding[0] || !same_bytes(&a, bytes[i])) {
                        reg_check_wrong(
                                c, "compression",
                                "switch compression off for /v2/ and /cas/, as no-transform "
                                "asks for (nginx: gzip off)",
                                "a %s is compressed on its way (Content-Encoding: %.40s): "
                                "digests and ranges do not fit it",
                                i == 0 ? "manifest" : "blob", encoding);
                        return 0;
                }
        }
        reg_check_good(c, "compression", "nothing is compressed on its way");
        return 0;
}

static int get_range(struct reg_check *c, const char *range, struct reg_check_answer *out,
                     struct cas_err *err)
{
        cas_cleanup_free char *header = cas_xasprintf("Range: bytes=%s", range);
        struct reg_check_ask get = {.path = c->blob.path, .headers = {header}};
        return reg_check_get(c, &get, out, NULL, err);
}

int reg_check_range(struct reg_check *c, struct cas_err *err)
{
        static const struct {
                const char *range;
                size_t first, bytes;
        } parts[] = {{"1000-4999", 1000, 4000},
                     {"262000-", 262000, REG_CHECK_BLOB_BYTES - 262000},
                     {"-500", REG_CHECK_BLOB_BYTES - 500, 500}};
        for (size_t i = 0; i < CAS_COUNT(parts); i++) {
                reg_cleanup_answer struct reg_check_answer a = {0};
                char expected[64];
                int rc = get_range(c, parts[i].range, &a, err);
                if (rc < 0)
                        return rc;
                (void)snprintf(expected, sizeof(expected), "bytes %zu-%zu/%zu", parts[i].first,
                               parts[i].first + parts[i].bytes - 1, REG_CHECK_BLOB_BYTES);
                if (a.status != 206 || a.body.len_bytes != parts[i].bytes ||
                    strcmp(reg_check_header(&a, "Content-Range"), expected) != 0 ||
                    memcmp(a.body.data, c->blob.bytes.data + parts[i].first, parts[i].bytes) != 0) {
                        reg_check_wrong(c, "range",
                                        "let the cache answer ranges, and pass Range and "
                                        "If-Range on where it keeps nothing",
                                        "a range (%s) is answered with %u and %zu bytes "
                                        "(Content-Range: %.60s): broken pulls begin anew, lazy "
                                        "pulls load all",
                                        parts[i].range, a.status, a.body.len_bytes,
                                        reg_check_header(&a, "Content-Range"));
                        return 0;
                }
        }
        reg_check_good(c, "range", "single ranges are answered as asked for");
        return 0;
}

/* How many parts of "multipart/byteranges" there are, when the bytes of each are in the answer. */
static size_t count_parts(const struct reg_check_answer *a, const uint8_t *blob,
                          const size_t firsts[], size_t count, size_t part_bytes)
{
        const uint8_t *at = a->body.data;
        size_t left = a->body.len_bytes, found = 0;
        while (found < count) {
                const uint8_t *hit =
                        left ? memmem(at, left, blob + firsts[found], part_bytes) : NULL;
                if (!hit)
                        break;
                left -= (size_t)(hit - at) + part_bytes;
                at = hit + part_bytes;
                found++;
        }
        return found;
}

int reg_check_ranges(struct reg_check *c, struct cas_err *err)
{
        static const size_t firsts[] = {0, 50000, 100000, 250000};
        reg_cleanup_answer struct reg_check_answer a = {0};
        int rc = get_range(c, "0-63,50000-50063,100000-100063,250000-250063", &a, err);
        if (rc < 0)
                return rc;
        const char *type = reg_check_header(&a, "Content-Type");
        bool multipart = a.status == 206 && strncasecmp(type, "multipart/byteranges", 20) == 0;
        size_t parts =
                multipart ? count_parts(&a, c->blob.bytes.data, firsts, CAS_COUNT(firsts), 64) : 0;
        if (parts == CAS_COUNT(firsts))
                reg_check_good(c, "ranges", "several ranges at once are answered part by part");
        else if (a.status == 200 && same_bytes(&a, &c->blob.bytes))
                reg_check_note(c, "ranges",
                               "pass requests for several ranges to the registry (Varnish: "
                               "return (pipe) when Range has a comma)",
                               "several ranges at once are answered with the whole: partial pulls "
                               "of zstd:chunked layers load all");
        else
                reg_check_wrong(c, "ranges",
                                "pass requests for several ranges to the registry (Varnish: "
                                "return (pipe) when Range has a comma)",
                                "four ranges at once are answered with %u, %.60s and %zu parts: "
                                "partial pulls of zstd:chunked layers break",
                                a.status, type, parts);
        return 0;
}

int reg_check_revalidation(struct reg_check *c, struct cas_err *err)
{
        cas_cleanup_free char *header =
                cas_xasprintf("If-None-Match: \"%s\"", c->manifests[0].digest);
        reg_cleanup_answer struct reg_check_answer a = {0};
        struct reg_check_ask get = {.path = c->tag_path, .headers = {header}};
        int rc = reg_check_get(c, &get, &a, NULL, err);
        if (rc < 0)
                return rc;
        if (a.status == 304)
                reg_check_good(c, "revalidation", "what a client has is not sent again (304)");
        else
                reg_check_note(c, "revalidation", "pass If-None-Match and ETag on",
                               "a client that has the manifest is answered with %u instead of 304",
                               a.status);
        return 0;
}

/* What nobody may ask for without saying who it is must not come out of the cache after somebody
 * has. A query of its own is one that is not kept: it tells what the registry wants. */
int reg_check_private(struct reg_check *c, struct cas_err *err)
{
        const char *const paths[] = {c->manifests[0].path, c->tag_path, c->blob.path};
        static const char *const what[] = {"manifest by digest", "manifest by tag", "blob"};
        reg_cleanup_answer struct reg_check_answer asked = {0};
        if (!c->authorization) {
                reg_check_skip(c, "private",
                               "give --user and a repository that not everybody may read to see "
                               "whether it stays private");
                return 0;
        }
        cas_cleanup_free char *fresh = cas_xasprintf("/v2/%s/tags/list?n=10&x=%s", c->repo, c->tag);
        struct reg_check_ask get = {.method = "GET", .path = fresh, .anonymous = true};
        int rc = reg_check_ask(c, &get, &asked, err);
        if (rc < 0)
                return rc;
        if (asked.status == 200) {
                reg_check_skip(c, "private", "everybody may read %s; give a --repo that is not so",
                               c->repo);
                return 0;
        }
        for (size_t i = 0; i < CAS_COUNT(paths); i++) {
                reg_cleanup_answer struct reg_check_answer a = {0};
                get.path = paths[i];
                rc = reg_check_get(c, &get, &a, NULL, err);
                if (rc < 0)
                        return rc;
                if (a.status == 200) {
                        reg_check_wrong(c, "private",
                                        "keep no answer that says private or no-store, and none to "
                                        "a request with Authorization but what says public (nginx: "
                                        "no proxy_ignore_headers Cache-Control)",
                                        "a %s that needs a password was given to somebody without "
                                        "one: the answer to another was kept",
                                        what[i]);
                        return 0;
                }
        }
        reg_check_good(c, "private", "what needs a password is not given to those without");
        return 0;
}

/* s-maxage of the answer; 0: none. */
static uint64_t seconds_said(const char *control, const char *word)
{
        const char *at = strcasestr(control, word);
        return at ? strtoull(at + strlen(word), NULL, 10) : 0;
}

static double now_s(void)
{
        struct timespec now;
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int look_at_tag(struct reg_check *c, unsigned *status, bool *moved, uint64_t *limit_s,
                       struct cas_err *err)
{
        reg_cleanup_answer struct reg_check_answer a = {0};
        int rc = reg_check_get(c, &(struct reg_check_ask){.path = c->tag_path}, &a, NULL, err);
        if (rc < 0)
                return rc;
        const char *control = reg_check_header(&a, "Cache-Control");
        *status = a.status;
        *moved = same_bytes(&a, &c->manifests[1].bytes);
        *limit_s = control[0] ? seconds_said(control, "s-maxage=") : TAG_SECONDS_UNKNOWN;
        *limit_s = cas_min_u64(*limit_s + TAG_SECONDS_SPARE, TAG_SECONDS_MAX);
        return 0;
}

int reg_check_moved_tag(struct reg_check *c, struct cas_err *err)
{
        bool moved = false;
        uint64_t limit_s;
        unsigned status;
        int rc = look_at_tag(c, &status, &moved, &limit_s, err);
        if (rc == 0 && status != 200) {
                reg_check_skip(c, "moved-tag", "the tag cannot be pulled: status %u", status);
                return 0;
        }
        if (rc == 0)
                rc = reg_check_push_manifest(c, 1, err);
        double start = now_s(), end = start;
        while (rc == 0 && !moved && end - start <= (double)limit_s) {
                uint64_t unused;
                rc = look_at_tag(c, &status, &moved, &unused, err);
                end = now_s();
                struct timespec pause = {.tv_nsec = TAG_LOOK_MS * 1000000L};
                if (!moved)
                        (void)nanosleep(&pause, NULL);
        }
        if (rc < 0)
                return rc;
        if (moved && end - start < 0.5)
                reg_check_good(c, "moved-tag", "a moved tag is seen at once");
        else if (moved)
                reg_check_good(c, "moved-tag", "a moved tag is seen after %.1f seconds",
                               end - start);
        else
                reg_check_wrong(
                        c, "moved-tag",
                        "keep manifests by tag for s-maxage at most, and revalidate (nginx: "
                        "no proxy_cache_valid; let [purge NAME] tell the cache)",
                        "a tag that moved is still served as it was after %llu seconds",
                        (unsigned long long)limit_s);
        return 0;
}
