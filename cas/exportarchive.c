/* SPDX-License-Identifier: Apache-2.0 */
/* Export into archives, written front to back, as a whole or not at all
 * (cas/outfile_int.h).
 *
 * Docker archives hold the config, and each layer once: plain and gzip layers
 * as they are, which every `docker load` takes; zstd ones decoded, since those
 * before 23.0 do not read it. */
#include "cas/blobstream.h"
#include "cas/decompress.h"
#include "cas/export_int.h"
#include "cas/json.h"
#include "cas/outfile_int.h"
#include "cas/source_int.h"
#include "cas/tarwrite.h"

static int out_header(struct cas_outfile *o, const char *name, enum cas_entry_type type,
                      uint64_t size_bytes, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf head = CAS_BUF_INIT;
        struct cas_entry e = {.type = type,
                              .path = (char *)(uintptr_t)name,
                              .mode = type == CAS_ENTRY_DIR ? 0755 : 0644,
                              .size_bytes = size_bytes};
        int r = cas_tarwrite_header(&head, &e, err);
        return r < 0 ? r : cas_outfile_write(o, head.data, head.len_bytes, err);
}

static int out_padding(struct cas_outfile *o, uint64_t size_bytes, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf pad = CAS_BUF_INIT;
        cas_tarwrite_padding(&pad, size_bytes);
        return cas_outfile_write(o, pad.data, pad.len_bytes, err);
}

static int out_file(struct cas_outfile *o, const char *name, const void *data, size_t len,
                    struct cas_err *err)
{
        int r = out_header(o, name, CAS_ENTRY_FILE, len, err);
        if (r == 0)
                r = cas_outfile_write(o, data, len, err);
        return r == 0 ? out_padding(o, len, err) : r;
}

static int out_end(struct cas_outfile *o, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf end = CAS_BUF_INIT;
        cas_tarwrite_end(&end);
        return cas_outfile_write(o, end.data, end.len_bytes, err);
}

static int out_blob(struct cas_outfile *o, struct cas_export *ex, const struct cas_export_blob *b,
                    const char *name, struct cas_err *err)
{
        int r = out_header(o, name, CAS_ENTRY_FILE, b->size_bytes, err);
        if (r == 0)
                r = cas_export_blob_each(ex, b, cas_outfile_write, o, err);
        return r == 0 ? out_padding(o, b->size_bytes, err) : r;
}

/* ---- OCI archives ---- */

static int oci_write(struct cas_export *ex, struct cas_outfile *o, const char *name,
                     struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf index = CAS_BUF_INIT;
        bool sha512 = false;
        for (size_t i = 0; i < ex->blob_count; i++)
                sha512 |= ex->blobs[i].digest.alg == CAS_DIGEST_SHA512;
        int r = cas_export_index(ex, name, NULL, &index, err);
        if (r == 0)
                r = out_header(o, "blobs", CAS_ENTRY_DIR, 0, err);
        if (r == 0)
                r = out_header(o, "blobs/sha256", CAS_ENTRY_DIR, 0, err);
        if (r == 0 && sha512)
                r = out_header(o, "blobs/sha512", CAS_ENTRY_DIR, 0, err);
        for (size_t i = 0; r == 0 && i < ex->blob_count; i++) {
                char path[CAS_LAYOUT_PATH_BYTES];
                r = out_blob(o, ex, &ex->blobs[i], cas_layout_blob_path(&ex->blobs[i].digest, path),
                             err);
        }
        if (r == 0)
                r = out_file(o, "index.json", index.data, index.len_bytes, err);
        if (r == 0)
                r = out_file(o, "oci-layout", CAS_LAYOUT_MARKER, strlen(CAS_LAYOUT_MARKER), err);
        return r == 0 ? out_end(o, err) : r;
}

int cas_export_oci_archive(struct cas_export *ex, const struct cas_transfer_address *to,
                           struct cas_err *err)
{
        struct cas_outfile o;
        cas_cleanup_free char *name = cas_export_name(&ex->ref, to->tag);
        int r = cas_outfile_open(&o, to->path, err);
        if (r < 0)
                return r;
        return cas_outfile_close(&o, oci_write(ex, &o, name, err), err);
}

/* ---- docker archives ---- */

static const struct cas_export_blob *find_blob(const struct cas_export *ex,
                                               const struct cas_digest *digest)
{
        for (size_t i = 0; i < ex->blob_count; i++) {
                if (cas_digest_equal(&ex->blobs[i].digest, digest))
                        return &ex->blobs[i];
        }
        return NULL;
}

/* A zstd layer as the tar that it is. */
static int docker_decoded(struct cas_export *ex, struct cas_outfile *o,
                          const struct cas_layer_record *layer, const char *name,
                          struct cas_err *err)
{
        cas_cleanup_blob_stream struct cas_blob_stream *st = NULL;
        cas_cleanup_decompress struct cas_decompress *d = NULL;
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(CAS_DIGEST_SHA256);
        cas_cleanup_free uint8_t *buf = cas_xmalloc(CAS_MIB);
        int r = cas_blob_stream_open(ex->s, &layer->blob, 0, UINT64_MAX, true, &st, err);
        if (r == 0)
                r = cas_decompress_open(cas_blob_stream_read, st, &d, err);
        if (r == 0)
                r = out_header(o, name, CAS_ENTRY_FILE, layer->tar_bytes, err);
        uint64_t done = 0;
        for (size_t n = 1; r == 0 && n > 0; done += n) {
                r = cas_decompress_read(d, buf, CAS_MIB, &n, err);
                if (r < 0)
                        break;
                cas_hasher_update(hasher, buf, n);
                if (n > layer->tar_bytes - done)
                        r = cas_fail(err, CAS_E_CORRUPT, "layer is longer than it was");
                else
                        r = cas_outfile_write(o, buf, n, err);
        }
        if (r < 0)
                return r;
        struct cas_digest is;
        cas_hasher_final(hasher, &is);
        if (!cas_digest_equal(&is, &layer->diff_id))
                return cas_fail(err, CAS_E_CORRUPT, "layer decodes to something else");
        return out_padding(o, done, err);
}

static int docker_layer_out(struct cas_export *ex, struct cas_outfile *o,
                            const struct cas_descriptor *d, char *name, size_t name_bytes,
                            struct cas_map *written, struct cas_err *err)
{
        struct cas_layer_record layer;
        char hex[CAS_DIGEST_TEXT_BYTES];
        bool inserted;
        int r = cas_layer_ensure(ex->s, &d->digest, NULL, &layer, err);
        if (r < 0)
                return r;
        (void)snprintf(name, name_bytes, "%s.tar", cas_digest_hex(&layer.diff_id, hex));
        (void)cas_map_put(written, name, strlen(name), &inserted);
        if (!inserted)
                return 0;
        if (layer.compression == CAS_COMPRESSION_ZSTD)
                return docker_decoded(ex, o, &layer, name, err);
        const struct cas_export_blob *b = find_blob(ex, &d->digest);
        if (!b)
                return cas_fail(err, CAS_E_NOTFOUND, "layer %s is not in the store", hex);
        return out_blob(o, ex, b, name, err);
}

static int docker_write(struct cas_export *ex, const struct cas_image *image, struct cas_outfile *o,
                        const char *tag, struct cas_map *written, struct cas_err *err)
{
        const struct cas_manifest *m = &image->manifest;
        const struct cas_export_blob *config = find_blob(ex, &m->config.digest);
        cas_cleanup_json json_t *layers = json_array();
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        char hex[CAS_DIGEST_TEXT_BYTES], name[CAS_DIGEST_TEXT_BYTES + 8];
        cas_assert(config != NULL);
        int r = 0;
        for (size_t i = 0; r == 0 && i < m->child_count; i++) {
                r = docker_layer_out(ex, o, &m->children[i], name, sizeof(name), written, err);
                if (r == 0)
                        (void)json_array_append_new(layers, json_string(name));
        }
        (void)snprintf(name, sizeof(name), "%s.json", cas_digest_hex(&m->config.digest, hex));
        if (r == 0)
                r = out_blob(o, ex, config, name, err);
        if (r < 0)
                return r;
        cas_cleanup_json json_t *list =
                json_pack("[{s:s, s:[s*], s:O}]", "Config", name, "RepoTags", tag[0] ? tag : NULL,
                          "Layers", layers);
        if (!list)
                return cas_fail(err, CAS_E_INVALID, "\"%.200s\" is not UTF-8", tag);
        cas_json_append(list, &text);
        r = out_file(o, "manifest.json", text.data, text.len_bytes, err);
        return r == 0 ? out_end(o, err) : r;
}

int cas_export_docker_archive(struct cas_export *ex, const struct cas_image *image,
                              const struct cas_transfer_address *to, struct cas_err *err)
{
        struct cas_outfile o;
        cas_cleanup_map struct cas_map *written = cas_map_new();
        cas_cleanup_free char *tag = to->tag[0] ? cas_xstrdup(to->tag)
                                     : ex->ref.tag[0]
                                             ? cas_xasprintf("%s:%s", ex->ref.repo, ex->ref.tag)
                                             : cas_xstrdup("");
        int r = cas_outfile_open(&o, to->path, err);
        if (r < 0)
                return r;
        return cas_outfile_close(&o, docker_write(ex, image, &o, tag, written, err), err);
}
