/* SPDX-License-Identifier: Apache-2.0 */
/* Docker archives ("docker save") as a source. Such an archive has no
 * manifests: one of schema 2 is made of each image's config and layers as they
 * are, so that the config keeps its bytes and thus the image its id. Plain
 * layers are named by the config's diff_ids, which the import compares;
 * compressed ones are hashed first. */
#include "cas/archive_int.h"
#include "cas/json.h"

#define DOCKER_MANIFEST_JSON_BYTES_MAX (64 * CAS_MIB)
#define DOCKER_CONFIGS_BYTES_MAX CAS_GIB
#define DOCKER_LAYER "application/vnd.docker.image.rootfs.diff.tar"

struct docker_blob {
        struct cas_digest digest;
        char *name;           /* owned; file in the archive; NULL: bytes below */
        struct cas_buf bytes; /* a manifest that was made */
        uint64_t size_bytes;
};

struct docker {
        struct cas_source base;
        struct cas_archive archive;
        struct cas_map *by_digest; /* owned; digest -> index in blobs */
        struct cas_map *hashed;    /* owned; name of a compressed layer -> index in blobs */
        struct docker_blob *blobs; /* owned */
        size_t count;
        uint64_t config_bytes; /* parsed so far: bounds what a short list can cost */
};

static struct docker_blob *docker_add_blob(struct docker *k, const struct cas_digest *digest,
                                           bool *inserted)
{
        uint64_t *at = cas_map_put(k->by_digest, digest, sizeof(*digest), inserted);
        if (*inserted) {
                size_t n = k->count++;
                *at = n;
                if ((n & (n - 1)) == 0)
                        k->blobs = cas_xrealloc(k->blobs, (n ? n * 2 : 1) * sizeof(*k->blobs));
                k->blobs[n] = (struct docker_blob){.digest = *digest};
        }
        return &k->blobs[*at];
}

static int docker_open_blob(struct cas_source *src, const struct cas_digest *digest,
                            struct cas_stream *out, struct cas_err *err)
{
        struct docker *k = (struct docker *)src;
        const uint64_t *at = cas_map_get(k->by_digest, digest, sizeof(*digest));
        if (!at)
                return cas_fail(err, CAS_E_NOTFOUND, "not in the archive");
        const struct docker_blob *b = &k->blobs[*at];
        if (b->name)
                return cas_archive_stream(&k->archive, b->name, out, err);
        *out = (struct cas_stream){
                .fd = -1, .memory = b->bytes.data, .left_bytes = b->bytes.len_bytes};
        return 0;
}

static void docker_free(struct cas_source *src)
{
        struct docker *k = (struct docker *)src;
        cas_source_release(src);
        cas_archive_release(&k->archive);
        for (size_t i = 0; i < k->count; i++) {
                free(k->blobs[i].name);
                cas_buf_release(&k->blobs[i].bytes);
        }
        free(k->blobs);
        cas_map_free(k->by_digest);
        cas_map_free(k->hashed);
        free(k);
}

static const struct cas_source_ops docker_ops = {
        .open_blob = docker_open_blob,
        .free = docker_free,
};

static int docker_hash(struct cas_stream st, struct cas_digest *out, struct cas_err *err)
{
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(CAS_DIGEST_SHA256);
        cas_cleanup_free uint8_t *buf = cas_xmalloc(CAS_MIB);
        for (size_t n = 1; n > 0;) {
                int r = cas_stream_read(&st, buf, CAS_MIB, &n, err);
                if (r < 0)
                        return r;
                cas_hasher_update(hasher, buf, n);
        }
        cas_hasher_final(hasher, out);
        return 0;
}

/* The same file is hashed once, however many images name it. */
static int docker_hash_once(struct docker *k, const char *name, struct cas_stream st,
                            struct cas_digest *out, struct cas_err *err)
{
        const uint64_t *at = cas_map_get_str(k->hashed, name);
        if (at) {
                *out = k->blobs[*at].digest;
                return 0;
        }
        int r = docker_hash(st, out, err);
        if (r < 0)
                return r;
        bool inserted;
        struct docker_blob *b = docker_add_blob(k, out, &inserted);
        if (inserted) {
                b->name = cas_xstrdup(name);
                b->size_bytes = st.left_bytes;
        }
        *cas_map_put(k->hashed, name, strlen(name), NULL) = (uint64_t)(b - k->blobs);
        return 0;
}

/* What the first bytes of a layer say: "", ".gzip" or ".zstd" after DOCKER_LAYER. */
static int docker_layer_suffix(struct cas_stream st, const char **out, struct cas_err *err)
{
        static const uint8_t gzip[] = {0x1f, 0x8b}, zstd[] = {0x28, 0xb5, 0x2f, 0xfd};
        uint8_t head[4] = {0};
        size_t len = 0;
        for (size_t n = 1; n > 0 && len < sizeof(head); len += n) {
                int r = cas_stream_read(&st, head + len, sizeof(head) - len, &n, err);
                if (r < 0)
                        return r;
        }
        *out = memcmp(head, gzip, sizeof(gzip)) == 0   ? ".gzip"
               : memcmp(head, zstd, sizeof(zstd)) == 0 ? ".zstd"
                                                       : "";
        return 0;
}

static void append_descriptor(struct cas_buf *out, const char *type, const char *suffix,
                              const struct cas_digest *digest, uint64_t size_bytes)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_buf_printf(out, "{\"mediaType\":\"%s%s\",\"size\":%llu,\"digest\":\"%s\"}", type,
                       suffix, (unsigned long long)size_bytes, cas_digest_text(digest, text));
}

/* Registers the layer's file under its digest and appends its descriptor. */
static int docker_layer(struct docker *k, const char *name, const struct cas_digest *diff_id,
                        struct cas_buf *manifest, struct cas_err *err)
{
        struct cas_stream st;
        const char *suffix = "";
        struct cas_digest digest = *diff_id;
        int r = cas_archive_stream(&k->archive, name, &st, err);
        if (r == 0)
                r = docker_layer_suffix(st, &suffix, err);
        if (r == 0 && suffix[0])
                r = docker_hash_once(k, name, st, &digest, err);
        if (r < 0)
                return cas_err_wrap(err, "layer %.200s", name);
        bool inserted;
        struct docker_blob *b = docker_add_blob(k, &digest, &inserted);
        if (inserted) {
                b->name = cas_xstrdup(name);
                b->size_bytes = st.left_bytes;
        }
        append_descriptor(manifest, DOCKER_LAYER, suffix, &digest, b->size_bytes);
        return 0;
}

/* Makes the manifest of one image; top names it. */
static int docker_manifest(struct docker *k, const char *config_name, const json_t *layers,
                           struct cas_descriptor *top, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf config = CAS_BUF_INIT, manifest = CAS_BUF_INIT;
        cas_cleanup_image_config struct cas_image_config parsed = {0};
        int r = cas_archive_read(&k->archive, config_name, CAS_CONFIG_BYTES_MAX, &config, err);
        if (r == 0)
                r = cas_image_config_parse(config.data, config.len_bytes, &parsed, err);
        if (r < 0)
                return cas_err_wrap(err, "config %.200s", config_name);
        k->config_bytes += config.len_bytes;
        if (k->config_bytes > DOCKER_CONFIGS_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than a gigabyte of configs");
        if (parsed.diff_id_count != json_array_size(layers))
                return cas_fail(err, CAS_E_INVALID, "%zu layers, but %zu diff_ids in the config",
                                json_array_size(layers), parsed.diff_id_count);
        struct cas_digest digest;
        bool inserted;
        cas_digest_of(CAS_DIGEST_SHA256, config.data, config.len_bytes, &digest);
        struct docker_blob *b = docker_add_blob(k, &digest, &inserted);
        if (inserted)
                b->name = cas_xstrdup(config_name);
        cas_buf_append_str(&manifest, "{\"schemaVersion\":2,\"mediaType\":\"" CAS_MT_DOCKER_MANIFEST
                                      "\",\"config\":");
        append_descriptor(&manifest, CAS_MT_DOCKER_CONFIG, "", &digest, config.len_bytes);
        cas_buf_append_str(&manifest, ",\"layers\":[");
        for (size_t i = 0; i < parsed.diff_id_count; i++) {
                const char *name = json_string_value(json_array_get(layers, i));
                if (!name)
                        return cas_fail(err, CAS_E_INVALID, "\"Layers\" must hold strings");
                if (i > 0)
                        cas_buf_append_byte(&manifest, ',');
                r = docker_layer(k, name, &parsed.diff_ids[i], &manifest, err);
                if (r < 0)
                        return r;
        }
        cas_buf_append_str(&manifest, "]}");
        *top = (struct cas_descriptor){.media_type = CAS_MT_DOCKER_MANIFEST,
                                       .size_bytes = manifest.len_bytes};
        cas_digest_of(CAS_DIGEST_SHA256, manifest.data, manifest.len_bytes, &top->digest);
        b = docker_add_blob(k, &top->digest, &inserted);
        if (inserted) {
                b->bytes = manifest;
                manifest = (struct cas_buf)CAS_BUF_INIT;
        }
        return 0;
}

/* One element of manifest.json: {"Config": …, "RepoTags": […], "Layers": […]}. */
static int docker_image(struct docker *k, const json_t *j, struct cas_err *err)
{
        const char *config;
        const json_t *layers, *tags;
        struct cas_descriptor top;
        int r = cas_json_string_in(j, "Config", &config, err);
        if (r == 0)
                r = cas_json_array_in(j, "Layers", &layers, err);
        if (r == 0)
                r = cas_json_array_in(j, "RepoTags", &tags, err);
        if (r < 0)
                return r;
        if (!config)
                return cas_fail(err, CAS_E_INVALID, "\"Config\" is missing");
        r = docker_manifest(k, config, layers, &top, err);
        if (r == 0 && json_array_size(tags) == 0)
                r = cas_source_add(&k->base, "", "", &top, err);
        for (size_t i = 0; r == 0 && i < json_array_size(tags); i++) {
                const char *name = json_string_value(json_array_get(tags, i));
                if (!name)
                        return cas_fail(err, CAS_E_INVALID, "\"RepoTags\" must hold strings");
                r = cas_source_add(&k->base, name, "", &top, err);
        }
        return r;
}

static int docker_load(struct docker *k, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        cas_cleanup_json json_t *j = NULL;
        int r = cas_archive_read(&k->archive, "manifest.json", DOCKER_MANIFEST_JSON_BYTES_MAX,
                                 &text, err);
        if (r == 0)
                r = cas_json_parse(text.data, text.len_bytes, DOCKER_MANIFEST_JSON_BYTES_MAX, &j,
                                   err);
        if (r == 0 && !json_is_array(j))
                r = cas_fail(err, CAS_E_INVALID, "not an array");
        for (size_t i = 0; r == 0 && i < json_array_size(j); i++)
                r = docker_image(k, json_array_get(j, i), err);
        return r < 0 ? cas_err_wrap(err, "manifest.json") : 0;
}

int cas_docker_source(const char *path, int tmp_dirfd, struct cas_source **out, struct cas_err *err)
{
        struct docker *k = cas_xcalloc(1, sizeof(*k));
        cas_cleanup_source struct cas_source *src = &k->base;
        src->ops = &docker_ops;
        k->archive.fd = -1;
        k->by_digest = cas_map_new();
        k->hashed = cas_map_new();
        int r = cas_archive_open(path, tmp_dirfd, &k->archive, err);
        if (r < 0)
                return r;
        if (docker_load(k, err) < 0)
                return cas_err_wrap(err, "docker archive %s", path);
        *out = cas_steal(&src);
        return 0;
}
