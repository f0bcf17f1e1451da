/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/testlayout.h"

#include <sys/stat.h>
#include <zlib.h>

#include "tests/support/tarmake.h"

void testlayout_write(const struct testlayout *l, const char *name, const void *data, size_t len)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", l->path, name);
        FILE *f = fopen(path, "w");
        cas_assert(f != NULL);
        cas_assert(fwrite(data, 1, len, f) == len);
        cas_assert(fclose(f) == 0);
}

void testlayout_init(struct testlayout *l, const char *dir, const char *name)
{
        *l = (struct testlayout){.path = cas_xasprintf("%s/%s", dir, name)};
        cas_cleanup_free char *blobs = cas_xasprintf("%s/blobs", l->path);
        cas_cleanup_free char *sha256 = cas_xasprintf("%s/blobs/sha256", l->path);
        cas_assert(mkdir(l->path, 0755) == 0);
        cas_assert(mkdir(blobs, 0755) == 0);
        cas_assert(mkdir(sha256, 0755) == 0);
}

void testlayout_release(struct testlayout *l)
{
        free(l->path);
        cas_buf_release(&l->index);
}

char *testlayout_path(const struct testlayout *l, const struct cas_digest *d)
{
        char hex[CAS_DIGEST_TEXT_BYTES];
        return cas_xasprintf("%s/blobs/sha256/%s", l->path, cas_digest_hex(d, hex));
}

struct cas_digest testlayout_blob(struct testlayout *l, const void *data, size_t len)
{
        struct cas_digest d;
        char hex[CAS_DIGEST_TEXT_BYTES];
        cas_digest_of(CAS_DIGEST_SHA256, data, len, &d);
        cas_cleanup_free char *name = cas_xasprintf("blobs/sha256/%s", cas_digest_hex(&d, hex));
        testlayout_write(l, name, data, len);
        return d;
}

void testlayout_descriptor(struct cas_buf *out, const char *type, const struct cas_digest *d,
                           uint64_t size, const char *more)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_buf_printf(out, "{\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%llu%s}", type,
                       cas_digest_text(d, text), (unsigned long long)size, more);
}

void testlayout_layer(const char *text, struct cas_buf *gzip, struct cas_digest *diff_id)
{
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        tarmake_file(&tar, "f", text);
        tarmake_end(&tar);
        cas_digest_of(CAS_DIGEST_SHA256, tar.data, tar.len_bytes, diff_id);
        z_stream z = {0};
        cas_assert(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
        size_t room = deflateBound(&z, tar.len_bytes);
        cas_buf_reserve(gzip, room);
        z.next_in = tar.data;
        z.avail_in = (unsigned)tar.len_bytes;
        z.next_out = gzip->data;
        z.avail_out = (unsigned)room;
        cas_assert(deflate(&z, Z_FINISH) == Z_STREAM_END);
        gzip->len_bytes = z.total_out;
        cas_assert(deflateEnd(&z) == Z_OK);
}

void testlayout_image(struct testlayout *l, const char *text, const char *arch, struct cas_buf *out,
                      const char *more)
{
        cas_cleanup_buf struct cas_buf gzip = CAS_BUF_INIT, config = CAS_BUF_INIT,
                                       manifest = CAS_BUF_INIT;
        struct cas_digest diff_id, digest;
        char hex[CAS_DIGEST_TEXT_BYTES];
        testlayout_layer(text, &gzip, &diff_id);
        cas_buf_printf(&config,
                       "{\"os\":\"linux\",\"architecture\":\"%s\",\"rootfs\":"
                       "{\"type\":\"layers\",\"diff_ids\":[\"%s\"]}}",
                       arch, cas_digest_text(&diff_id, hex));
        digest = testlayout_blob(l, config.data, config.len_bytes);
        cas_buf_append_str(&manifest, "{\"schemaVersion\":2,\"config\":");
        testlayout_descriptor(&manifest, CAS_MT_OCI_CONFIG, &digest, config.len_bytes, "");
        cas_buf_append_str(&manifest, ",\"layers\":[");
        digest = testlayout_blob(l, gzip.data, gzip.len_bytes);
        testlayout_descriptor(&manifest, CAS_MT_OCI_LAYER_GZIP, &digest, gzip.len_bytes, "");
        cas_buf_append_str(&manifest, "]}");
        digest = testlayout_blob(l, manifest.data, manifest.len_bytes);
        testlayout_descriptor(out, CAS_MT_OCI_MANIFEST, &digest, manifest.len_bytes, more);
}

void testlayout_name(struct testlayout *l, const char *descriptor, const char *name)
{
        if (l->index.len_bytes)
                cas_buf_append_byte(&l->index, ',');
        cas_buf_append(&l->index, descriptor, strlen(descriptor) - 1);
        if (name[0])
                cas_buf_printf(&l->index,
                               ",\"annotations\":{\"org.opencontainers.image.ref.name\":\"%s\"}",
                               name);
        cas_buf_append_byte(&l->index, '}');
}

void testlayout_finish(struct testlayout *l)
{
        static const char marker[] = "{\"imageLayoutVersion\":\"1.0.0\"}";
        cas_cleanup_buf struct cas_buf index = CAS_BUF_INIT;
        cas_buf_printf(&index, "{\"schemaVersion\":2,\"manifests\":[%s]}", cas_buf_str(&l->index));
        testlayout_write(l, "oci-layout", marker, sizeof(marker) - 1);
        testlayout_write(l, "index.json", index.data, index.len_bytes);
}
