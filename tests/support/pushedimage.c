/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/pushedimage.h"

#include <stdio.h>
#include <zlib.h>
#include <zstd.h>

#include "cas/blob.h"
#include "cas/blobstream.h"
#include "cas/object.h"
#include "cas/publish.h"
#include "cas/verity.h"
#include "tests/support/tarmake.h"
#include "tests/support/testimage.h"

#define FRAME_BYTES (100 * CAS_KIB)

#define must(cond)                                                                                 \
        do {                                                                                       \
                if (!(cond)) {                                                                     \
                        (void)fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);           \
                        abort();                                                                   \
                }                                                                                  \
        } while (0)

/* Where the file whose number is given lies: the last one has the name of the first. */
static unsigned name_of(const struct pushedimage *image, unsigned file)
{
        return file + 1 == image->files ? 0 : file;
}

/* As no level of the library does it: such frames have to be kept as they are. */
static void add_frame(const void *data, size_t len, struct cas_buf *out)
{
        size_t bound = ZSTD_compressBound(len);
        ZSTD_CCtx *ctx = ZSTD_createCCtx();
        must(ctx != NULL);
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_compressionLevel, 3);
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_minMatch, 7);
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_searchLog, 1);
        (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_hashLog, 8);
        cas_buf_reserve(out, out->len_bytes + bound);
        size_t n = ZSTD_compress2(ctx, out->data + out->len_bytes, bound, data, len);
        must(!ZSTD_isError(n));
        (void)ZSTD_freeCCtx(ctx);
        out->len_bytes += n;
}

/* *framed: so much of the tar is in frames; content is in frames of its own, the rest between. */
static void add_file(struct pushedimage *image, unsigned file, struct cas_buf *tar, size_t *framed)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_free char *name = cas_xasprintf("dir/file%u", name_of(image, file));
        test_file(image->seed + file, &bytes);
        tarmake_header(tar, &(struct tarmake){.name = name,
                                              .size = bytes.len_bytes,
                                              .mode = 0644,
                                              .mtime = 1700000000});
        if (framed) {
                add_frame(tar->data + *framed, tar->len_bytes - *framed, &image->bytes);
                for (size_t at = 0; at < bytes.len_bytes; at += FRAME_BYTES)
                        add_frame(bytes.data + at, cas_min_u64(FRAME_BYTES, bytes.len_bytes - at),
                                  &image->bytes);
                *framed = tar->len_bytes + bytes.len_bytes;
        }
        tarmake_data(tar, bytes.data, bytes.len_bytes);
}

static void compress_gzip(const struct cas_buf *tar, struct cas_buf *out)
{
        z_stream z = {0};
        must(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
        size_t bound = deflateBound(&z, tar->len_bytes);
        cas_buf_reserve(out, bound);
        z.next_in = tar->data;
        z.avail_in = (uInt)tar->len_bytes;
        z.next_out = out->data;
        z.avail_out = (uInt)bound;
        must(deflate(&z, Z_FINISH) == Z_STREAM_END);
        out->len_bytes = z.total_out;
        (void)deflateEnd(&z);
}

static void make_layer(struct pushedimage *image, enum pushed_kind kind)
{
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        const bool frames = kind == PUSHED_ZSTD_FRAMES;
        size_t framed = 0;
        for (unsigned i = 0; i < image->files; i++)
                add_file(image, i, &tar, frames ? &framed : NULL);
        tarmake_end(&tar);
        if (kind == PUSHED_TAR)
                cas_buf_append(&image->bytes, tar.data, tar.len_bytes);
        else if (kind == PUSHED_GZIP)
                compress_gzip(&tar, &image->bytes);
        else
                add_frame(tar.data + framed, tar.len_bytes - framed, &image->bytes);
        cas_digest_of(CAS_DIGEST_SHA256, image->bytes.data, image->bytes.len_bytes, &image->layer);
}

void pushedimage_make(struct pushedimage *out, const char *repo, const char *tag, unsigned seed,
                      unsigned files, enum pushed_kind kind)
{
        static const char *const types[] = {CAS_MT_OCI_LAYER_TAR, CAS_MT_OCI_LAYER_GZIP,
                                            CAS_MT_OCI_LAYER_TAR "+zstd"};
        char layer[CAS_DIGEST_TEXT_BYTES], config[CAS_DIGEST_TEXT_BYTES];
        *out = (struct pushedimage){.repo = repo, .tag = tag, .seed = seed, .files = files};
        make_layer(out, kind);
        cas_buf_printf(&out->config_bytes, "{\"seed\":%u,\"files\":%u,\"kind\":%d}", seed, files,
                       (int)kind);
        cas_digest_of(CAS_DIGEST_SHA256, out->config_bytes.data, out->config_bytes.len_bytes,
                      &out->config);
        cas_buf_printf(&out->manifest_bytes,
                       "{\"schemaVersion\":2,\"mediaType\":\"" CAS_MT_OCI_MANIFEST
                       "\",\"config\":{\"mediaType\":\"" CAS_MT_OCI_CONFIG
                       "\",\"digest\":\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":\"%s\","
                       "\"digest\":\"%s\",\"size\":%zu}]}",
                       cas_digest_text(&out->config, config), out->config_bytes.len_bytes,
                       types[kind], cas_digest_text(&out->layer, layer), out->bytes.len_bytes);
        cas_digest_of(CAS_DIGEST_SHA256, out->manifest_bytes.data, out->manifest_bytes.len_bytes,
                      &out->manifest);
}

void pushedimage_release(struct pushedimage *image)
{
        cas_buf_release(&image->bytes);
        cas_buf_release(&image->config_bytes);
        cas_buf_release(&image->manifest_bytes);
}

static int push_blob(struct cas_publish *p, const char *repo, const struct cas_buf *bytes,
                     const struct cas_digest *digest, struct cas_err *err)
{
        int rc = cas_publish_blob(p, bytes->data, bytes->len_bytes, digest, NULL, err);
        return rc < 0 ? rc : cas_publish_blob_link(p, repo, digest, err);
}

int pushedimage_push(struct cas_store *s, const struct pushedimage *image, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        int rc = cas_publish_begin(s, &p, err);
        if (rc == 0)
                rc = push_blob(p, image->repo, &image->bytes, &image->layer, err);
        if (rc == 0)
                rc = push_blob(p, image->repo, &image->config_bytes, &image->config, err);
        if (rc == 0)
                rc = cas_publish_blob(p, image->manifest_bytes.data,
                                      image->manifest_bytes.len_bytes, &image->manifest, NULL, err);
        if (rc == 0)
                rc = cas_publish_manifest_link(p, image->repo, &image->manifest,
                                               CAS_MT_OCI_MANIFEST, image->manifest_bytes.len_bytes,
                                               err);
        if (rc == 0 && image->tag)
                rc = cas_publish_tag(p, image->repo, image->tag, &image->manifest, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

int pushedimage_decode(struct cas_store *s, const struct pushedimage *image,
                       struct cas_layer_record *out, struct cas_err *err)
{
        return cas_layer_ensure(s, &image->layer, NULL, out, err);
}

/* ---- checking ---- */

struct compare {
        const struct cas_buf *want;
        size_t at;
        bool differs;
};

static void compare(struct compare *c, const void *data, size_t len)
{
        c->differs = c->differs || len > c->want->len_bytes - c->at ||
                     memcmp(c->want->data + c->at, data, len) != 0;
        c->at += cas_min_u64(len, c->want->len_bytes - c->at);
}

static int compare_piece(void *arg, const void *data, size_t len, struct cas_err *err)
{
        struct compare *c = arg;
        (void)err;
        compare(c, data, len);
        return 0;
}

/* What a comparison has come to; rc: of reading. */
static int verdict(const struct compare *c, int rc, struct cas_err *err)
{
        if (c->differs || (rc == 0 && c->at != c->want->len_bytes)) {
                (void)cas_fail(err, CAS_E_CORRUPT, "other bytes were given");
                return -1;
        }
        return rc < 0 ? 1 : 0;
}

static int check_blob(struct cas_store *s, const struct cas_digest *digest,
                      const struct cas_buf *want, struct cas_err *err)
{
        cas_cleanup_blob_stream struct cas_blob_stream *stream = NULL;
        cas_cleanup_free uint8_t *piece = cas_xmalloc(64 * CAS_KIB);
        struct compare c = {.want = want};
        size_t n = 1;
        int rc = cas_blob_stream_open(s, digest, 0, UINT64_MAX, true, &stream, err);
        while (rc == 0 && n > 0) {
                rc = cas_blob_stream_read(stream, piece, 64 * CAS_KIB, &n, err);
                if (rc == 0)
                        compare(&c, piece, n);
        }
        return verdict(&c, rc, err);
}

static int check_file(struct cas_store *s, unsigned seed, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct compare c = {.want = &bytes};
        struct cas_hash id;
        test_file(seed, &bytes);
        cas_verity_of(bytes.data, bytes.len_bytes, &id);
        int rc = cas_object_each(s, &id, compare_piece, &c, err);
        return verdict(&c, rc, err);
}

int pushedimage_check(struct cas_store *s, const struct pushedimage *image, struct cas_err *err)
{
        struct cas_layer_record layer;
        int got[4] = {check_blob(s, &image->layer, &image->bytes, err),
                      check_blob(s, &image->config, &image->config_bytes, err),
                      check_blob(s, &image->manifest, &image->manifest_bytes, err), 0};
        if (cas_layer_stat(s, &image->layer, &layer, err) == 0) {
                /* The first one is hidden by the last. */
                for (unsigned i = 1; i < image->files && got[3] >= 0; i++) {
                        int file = check_file(s, image->seed + i, err);
                        got[3] =
                                file < 0 ? file : cas_max_u64((uint64_t)got[3], (uint64_t)file) > 0;
                }
        }
        int worst = 0;
        for (size_t i = 0; i < CAS_COUNT(got); i++)
                worst = got[i] < 0 || worst < 0 ? -1 : worst | got[i];
        return worst;
}
