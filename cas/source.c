/* SPDX-License-Identifier: Apache-2.0 */
/* What all sources of images share: streams, the list of images, documents. */
#include "cas/source_int.h"

#include <errno.h>

int cas_stream_read(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct cas_stream *st = arg;
        size_t want = (size_t)cas_min_u64(len, st->left_bytes);
        ssize_t n = (ssize_t)want;
        if (st->fd < 0) {
                if (want > 0)
                        memcpy(buf, st->memory + st->offset, want);
        } else if (want > 0) {
                do {
                        n = pread(st->fd, buf, want, (off_t)st->offset);
                } while (n < 0 && errno == EINTR);
                if (n < 0)
                        return cas_fail_sys(err, errno, "read the source");
                if (n == 0)
                        return cas_fail(err, CAS_E_INVALID,
                                        "the source ends %llu bytes before the end of a blob",
                                        (unsigned long long)st->left_bytes);
        }
        st->offset += (uint64_t)n;
        st->left_bytes -= (uint64_t)n;
        *out_len = (size_t)n;
        return 0;
}

int cas_stream_read_all(struct cas_stream *st, const char *what, size_t max_bytes,
                        struct cas_buf *out, struct cas_err *err)
{
        if (st->left_bytes > max_bytes)
                return cas_fail(err, CAS_E_LIMIT, "%.200s has %llu bytes, over the limit of %zu",
                                what, (unsigned long long)st->left_bytes, max_bytes);
        cas_buf_reserve(out, (size_t)st->left_bytes);
        while (st->left_bytes > 0) {
                size_t n;
                int r = cas_stream_read(st, out->data + out->len_bytes, (size_t)st->left_bytes, &n,
                                        err);
                if (r < 0)
                        return r;
                out->len_bytes += n;
        }
        cas_buf_append(out, NULL, 0);
        return 0;
}

void cas_stream_close(struct cas_stream *st)
{
        if (st->own_fd && st->fd >= 0)
                (void)close(st->fd);
        *st = (struct cas_stream){.fd = -1};
}

void cas_source_free(struct cas_source *src)
{
        if (src)
                src->ops->free(src);
}

void cas_source_release(struct cas_source *src)
{
        for (size_t i = 0; i < src->image_count; i++) {
                free(src->images[i].name);
                free(src->images[i].alias);
        }
        free(src->images);
        src->images = NULL;
        src->image_count = 0;
}

int cas_source_add(struct cas_source *src, const char *name, const char *alias,
                   const struct cas_descriptor *top, struct cas_err *err)
{
        size_t n = src->image_count;
        if (n >= CAS_SOURCE_IMAGES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %d images", CAS_SOURCE_IMAGES_MAX);
        if ((n & (n - 1)) == 0)
                src->images = cas_xrealloc(src->images, (n ? n * 2 : 1) * sizeof(*src->images));
        src->images[n] = (struct cas_source_image){
                .name = cas_xstrdup(name), .alias = cas_xstrdup(alias), .top = *top};
        src->image_count++;
        return 0;
}

int cas_source_read(struct cas_source *src, const struct cas_digest *digest, size_t max_bytes,
                    struct cas_buf *out, struct cas_err *err)
{
        cas_cleanup_stream struct cas_stream st = {.fd = -1};
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_digest_text(digest, text);
        int r = src->ops->open_blob(src, digest, &st, err);
        if (r < 0)
                return r;
        size_t start = out->len_bytes;
        r = cas_stream_read_all(&st, text, max_bytes, out, err);
        if (r < 0)
                return r;
        struct cas_digest is;
        cas_digest_of(digest->alg, (const uint8_t *)cas_buf_str(out) + start,
                      out->len_bytes - start, &is);
        if (!cas_digest_equal(&is, digest))
                return cas_fail(err, CAS_E_INVALID, "the bytes of %s are not what its name says",
                                text);
        return 0;
}
