/* SPDX-License-Identifier: Apache-2.0 */
/* Pushes through the cache: what was missing is seen once it is there, where
 * uploads are sent, how large they may be. */
#include <stdio.h>
#include <strings.h>
#include <time.h>

#include "registry/cachecheck_int.h"

#define UPLOAD_BYTES_DEFAULT (UINT64_C(128) * 1024 * 1024)
#define UPLOAD_PIECE_BYTES ((uint64_t)1024 * 1024) /* that should have arrived before the rest */
#define UPLOAD_LOOKS 20
#define UPLOAD_LOOK_MS 50
#define HEADER_BYTES 7000 /* bearer tokens become as long */

static const char manifest_type[] = "application/vnd.oci.image.manifest.v1+json";

static int expect(const struct reg_check_answer *a, unsigned status, const char *what,
                  struct cas_err *err)
{
        if (a->status == status)
                return 0;
        return cas_fail(err, CAS_E_INVALID, "%s: status %u instead of %u: %.*s", what, a->status,
                        status, (int)cas_min_u64(a->body.len_bytes, 120), cas_buf_str(&a->body));
}

static int push_blob(struct reg_check *c, struct cas_err *err)
{
        reg_cleanup_answer struct reg_check_answer a = {0};
        cas_cleanup_free char *path =
                cas_xasprintf("/v2/%s/blobs/uploads/?digest=%s", c->repo, c->blob.digest);
        struct reg_check_ask post = {.method = "POST",
                                     .path = path,
                                     .headers = {"Content-Type: application/octet-stream"},
                                     .body = c->blob.bytes.data,
                                     .body_bytes = c->blob.bytes.len_bytes};
        int rc = reg_check_ask(c, &post, &a, err);
        if (rc == 0 && a.status == 202) { /* a registry that wants another request */
                cas_cleanup_free char *digest = cas_xasprintf("digest=%s", c->blob.digest);
                cas_cleanup_free char *location = reg_check_location(&a, digest);
                post.method = "PUT";
                post.path = location;
                reg_check_answer_release(&a);
                rc = reg_check_ask(c, &post, &a, err);
        }
        return rc < 0 ? rc : expect(&a, 201, "pushing a blob", err);
}

int reg_check_push_manifest(struct reg_check *c, unsigned which, struct cas_err *err)
{
        reg_cleanup_answer struct reg_check_answer a = {0};
        char type[sizeof(manifest_type) + 16];
        (void)snprintf(type, sizeof(type), "Content-Type: %s", manifest_type);
        struct reg_check_ask put = {.method = "PUT",
                                    .path = c->tag_path,
                                    .headers = {type},
                                    .body = c->manifests[which].bytes.data,
                                    .body_bytes = c->manifests[which].bytes.len_bytes};
        int rc = reg_check_ask(c, &put, &a, err);
        return rc < 0 ? rc : expect(&a, 201, "pushing a manifest", err);
}

static int status_of(struct reg_check *c, const char *method, const char *path, unsigned *out,
                     struct cas_err *err)
{
        reg_cleanup_answer struct reg_check_answer a = {0};
        int rc = reg_check_ask(c, &(struct reg_check_ask){.method = method, .path = path}, &a, err);
        *out = a.status;
        return rc;
}

/* What clients ask for before they push must not stay missing. */
int reg_check_missing(struct reg_check *c, struct cas_err *err)
{
        static const char advice[] =
                "do not keep answers that are errors (nginx: no proxy_cache_valid for 404 or any)";
        unsigned blob = 0, tag = 0;
        int rc = status_of(c, "HEAD", c->blob.path, &blob, err);
        if (rc == 0)
                rc = status_of(c, "GET", c->blob.path, &blob, err);
        if (rc == 0)
                rc = status_of(c, "GET", c->tag_path, &tag, err);
        if (rc == 0)
                rc = push_blob(c, err);
        if (rc == 0)
                rc = reg_check_push_manifest(c, 0, err);
        if (rc == 0)
                rc = status_of(c, "HEAD", c->blob.path, &blob, err);
        if (rc == 0 && blob != 404) {
                reg_cleanup_answer struct reg_check_answer a = {0};
                rc = reg_check_get(c, &(struct reg_check_ask){.path = c->blob.path}, &a, NULL, err);
                blob = a.status;
        }
        if (rc == 0)
                rc = status_of(c, "GET", c->tag_path, &tag, err);
        if (rc < 0)
                return rc;
        if (blob == 404 || tag == 404)
                reg_check_wrong(c, "missing", advice,
                                "a %s that was asked for before its push is still said to be "
                                "missing after it: 404 was kept",
                                tag == 404 ? "tag" : "blob");
        else
                reg_check_good(c, "missing", "what was missing is seen once it is pushed");
        return 0;
}

static int begin_upload(struct reg_check *c, char **out_location, struct cas_err *err)
{
        reg_cleanup_answer struct reg_check_answer a = {0};
        cas_cleanup_free char *path = cas_xasprintf("/v2/%s/blobs/uploads/", c->repo);
        int rc = reg_check_ask(c, &(struct reg_check_ask){.method = "POST", .path = path}, &a, err);
        if (rc == 0)
                rc = expect(&a, 202, "beginning an upload", err);
        if (rc == 0 && !reg_check_header(&a, "Location")[0])
                rc = cas_fail(err, CAS_E_INVALID, "beginning an upload: no Location");
        if (rc == 0)
                *out_location = reg_check_location(&a, NULL);
        return rc;
}

static void cancel_upload(struct reg_check *c, const char *location)
{
        struct cas_err err = CAS_ERR_INIT;
        unsigned status;
        (void)!status_of(c, "DELETE", location, &status, &err);
}

int reg_check_location_given(struct reg_check *c, struct cas_err *err)
{
        cas_cleanup_free char *location = NULL;
        int rc = begin_upload(c, &location, err);
        if (rc < 0)
                return rc;
        if (reg_check_same_origin(c, location))
                reg_check_good(c, "location", "uploads go on where they were begun");
        else
                reg_check_wrong(
                        c, "location",
                        "pass Host and X-Forwarded-Proto on, and do not rewrite Location (nginx: "
                        "proxy_set_header Host $http_host; proxy_redirect off)",
                        "an upload is to go on at %.200s, which is not %s", location, c->base);
        cancel_upload(c, reg_check_same_origin(c, location) ? location
                                                            : location + strcspn(location, "/"));
        return 0;
}

/* An upload in two parts: between them it is seen whether the first has arrived. */
struct large_upload {
        struct reg_check *check;
        const char *location;
        uint64_t bytes;
        bool looked, streamed;
};

/* Taken (429: another writer is at it), or at least some of it. */
static bool has_arrived(struct large_upload *u)
{
        reg_cleanup_answer struct reg_check_answer a = {0};
        struct cas_err err = CAS_ERR_INIT;
        struct reg_check_ask get = {.method = "GET", .path = u->location};
        if (reg_check_ask(u->check, &get, &a, &err) < 0)
                return false;
        const char *range = reg_check_header(&a, "Range");
        return a.status == 429 || (range[0] && strcmp(range, "0-0") != 0);
}

static int large_read(void *arg, uint64_t offset, void *buf, size_t len, size_t *out_len,
                      struct cas_err *err CAS_UNUSED)
{
        struct large_upload *u = arg;
        if (offset >= UPLOAD_PIECE_BYTES && !u->looked) {
                u->looked = true;
                for (unsigned i = 0; i < UPLOAD_LOOKS && !u->streamed; i++) {
                        struct timespec pause = {.tv_nsec = UPLOAD_LOOK_MS * 1000000L};
                        (void)nanosleep(&pause, NULL);
                        u->streamed = has_arrived(u);
                }
        }
        *out_len = cas_min_u64(len, u->bytes - offset);
        uint8_t *to = buf;
        for (size_t i = 0; i < *out_len; i++)
                to[i] = (uint8_t)((offset + i) * 2654435761u >> 11);
        return 0;
}

static void judge_large(struct reg_check *c, const struct large_upload *u, unsigned status)
{
        unsigned long long mib = u->bytes >> 20;
        if (status != 202) {
                reg_check_wrong(
                        c, "upload-size",
                        "allow bodies of any size (nginx: client_max_body_size 0), or push past "
                        "the cache to another host name",
                        "an upload of %llu MiB in one request was answered with %u", mib, status);
                return;
        }
        reg_check_good(c, "upload-size", "an upload of %llu MiB in one request is taken", mib);
        if (!u->looked)
                return;
        if (u->streamed)
                reg_check_good(c, "upload-buffering", "uploads are passed on while they come");
        else
                reg_check_note(c, "upload-buffering",
                               "nginx: proxy_request_buffering off; proxy_http_version 1.1",
                               "uploads seem to be kept whole before they are passed on: pushes "
                               "take longer, and the proxy's disk");
}

int reg_check_large_upload(struct reg_check *c, struct cas_err *err)
{
        cas_cleanup_free char *location = NULL;
        reg_cleanup_answer struct reg_check_answer a = {0};
        struct cas_err broken = CAS_ERR_INIT;
        int rc = begin_upload(c, &location, err);
        if (rc < 0)
                return rc;
        struct large_upload u = {.check = c,
                                 .location = location,
                                 .bytes = c->config->upload_bytes ? c->config->upload_bytes
                                                                  : UPLOAD_BYTES_DEFAULT};
        struct reg_check_ask patch = {.method = "PATCH",
                                      .path = location,
                                      .headers = {"Content-Type: application/octet-stream"},
                                      .body_read = large_read,
                                      .body_arg = &u,
                                      .read_bytes = u.bytes};
        if (reg_check_ask(c, &patch, &a, &broken) < 0)
                reg_check_wrong(c, "upload-size",
                                "allow bodies of any size (nginx: client_max_body_size 0) and "
                                "longer times",
                                "an upload of %llu MiB in one request breaks off: %s",
                                (unsigned long long)u.bytes >> 20, broken.msg);
        else
                judge_large(c, &u, a.status);
        cancel_upload(c, location);
        return 0;
}

int reg_check_large_headers(struct reg_check *c, struct cas_err *err)
{
        reg_cleanup_answer struct reg_check_answer a = {0};
        char header[HEADER_BYTES + 1];
        size_t name = (size_t)snprintf(header, sizeof(header), "X-Lamina-Check: ");
        memset(header + name, 'x', sizeof(header) - name);
        header[sizeof(header) - 1] = '\0';
        struct reg_check_ask get = {.method = "GET", .path = c->tag_path, .headers = {header}};
        int rc = reg_check_ask(c, &get, &a, err);
        if (rc < 0)
                return rc;
        if (a.status == 200)
                reg_check_good(c, "header-size", "a header of %d bytes is passed on", HEADER_BYTES);
        else
                reg_check_wrong(c, "header-size",
                                "allow headers of 8 KiB and more, as bearer tokens have them "
                                "(nginx: large_client_header_buffers 4 32k)",
                                "a request with a header of %d bytes was answered with %u",
                                HEADER_BYTES, a.status);
        return 0;
}

void reg_check_clean(struct reg_check *c)
{
        struct cas_err err = CAS_ERR_INIT;
        unsigned status = 0, blob = 0;
        for (size_t i = 0; i < CAS_COUNT(c->manifests); i++)
                (void)!status_of(c, "DELETE", c->manifests[i].path, &status, &err);
        (void)!status_of(c, "DELETE", c->blob.path, &blob, &err);
        if (blob != 202 && blob != 404)
                reg_check_note(c, "cleanup", "delete the repository, or give --user",
                               "what was pushed to %s could not be deleted again", c->repo);
}
