/* SPDX-License-Identifier: Apache-2.0 */
/* The owner's part of an additional layer store (spec/als.md): which image a
 * reference of podman's means, what is told of a layer, its tree, and who counts
 * on it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <time.h>

#include "cas/blob.h"
#include "cas/blobstream.h"
#include "cas/decompress.h"
#include "cas/lease.h"
#include "cas/mutex.h"
#include "tools/ops.h"
#include "tools/ops_json.h"

#define PREPARE_S 600
#define MANIFESTS_MAX 1000 /* of a repository that are looked into */
#define PIECE_BYTES ((size_t)1 << 20)
#define USE_PREFIX "als:" /* of a lease's id */
/* A lease's owner text: how often the layer is used, and by what name. */
#define USES_FORMAT "als uses=%u ref=%.200s"

/* ---- names ---- */

/* Up to three readings of a reference: as it stands; without its host; and, of Docker Hub's own
 * images, without "library/". */
#define READINGS_MAX 3

static void add_reading(struct cas_ref *out, size_t *count, const char *text)
{
        struct cas_err ignored = CAS_ERR_INIT;
        if (cas_ref_parse(text, &out[*count], &ignored) == 0)
                ++*count;
}

static size_t read_ref(const char *text, struct cas_ref out[READINGS_MAX])
{
        size_t count = 0;
        const char *slash = strchr(text, '/');
        size_t host = slash ? (size_t)(slash - text) : 0;
        add_reading(out, &count, text);
        if (!slash || (!memchr(text, '.', host) && !memchr(text, ':', host) &&
                       strncmp(text, "localhost/", 10) != 0))
                return count;
        add_reading(out, &count, slash + 1);
        if (strncmp(slash + 1, "library/", 8) == 0)
                add_reading(out, &count, slash + 9);
        return count;
}

static bool has_layer(const struct cas_image *image, const struct cas_digest *layer)
{
        for (size_t i = 0; i < image->manifest.child_count; i++)
                if (cas_digest_equal(&image->manifest.children[i].digest, layer))
                        return true;
        return false;
}

/* Whether this is an image with the layer; other answers are none of its errors. */
static bool image_has(struct cas_store *s, const struct cas_ref *ref,
                      const struct cas_digest *layer, struct cas_digest *out)
{
        struct cas_err ignored = CAS_ERR_INIT;
        cas_cleanup_image struct cas_image image = {0};
        if (cas_image_find(s, ref, NULL, &image, &ignored) < 0 || !has_layer(&image, layer))
                return false;
        *out = image.manifest_digest;
        return true;
}

struct manifests {
        struct cas_digest items[MANIFESTS_MAX];
        size_t count;
};

static bool manifest_seen(void *arg, const struct cas_manifest_info *info)
{
        struct manifests *m = arg;
        m->items[m->count++] = info->digest;
        return m->count < MANIFESTS_MAX;
}

/* The image of the name; else, since a tag moves while others still have what it named, and an
 * index has images for other hosts, any other of the repository. */
static bool repo_has(struct cas_store *s, const struct cas_ref *ref, const struct cas_digest *layer,
                     struct cas_digest *out)
{
        struct cas_err ignored = CAS_ERR_INIT;
        if (image_has(s, ref, layer, out))
                return true;
        cas_cleanup_free struct manifests *all = cas_xcalloc(1, sizeof(*all));
        if (cas_manifest_each(s, ref->repo, manifest_seen, all, &ignored) < 0)
                return false;
        for (size_t i = 0; i < all->count; i++) {
                struct cas_ref one = *ref;
                one.tag[0] = '\0';
                one.digest = all->items[i];
                if (image_has(s, &one, layer, out))
                        return true;
        }
        return false;
}

/* ---- uses ---- */

struct als_use {
        struct cas_lease lease; /* of the name and the layer; root: the image */
        unsigned count;
        bool found;
};

static void use_id(const char *ref, const struct cas_digest *layer, char *out, size_t out_bytes)
{
        char digest[CAS_DIGEST_TEXT_BYTES], hex[CAS_HASH_HEX_BYTES];
        cas_cleanup_free char *text = cas_xasprintf("%s %s", cas_digest_text(layer, digest), ref);
        struct cas_hash hash;
        cas_sha256(text, strlen(text), &hash);
        (void)snprintf(out, out_bytes, USE_PREFIX "%.32s", cas_hash_hex(&hash, hex));
}

static bool use_seen(void *arg, const struct cas_lease *lease)
{
        struct als_use *u = arg;
        if (strcmp(lease->id, u->lease.id) != 0)
                return true;
        u->lease = *lease;
        u->found = true;
        (void)sscanf(lease->owner, "als uses=%u", &u->count);
        return false;
}

static int use_get(struct cas_store *s, const char *ref, const struct cas_digest *layer,
                   struct als_use *out, struct cas_err *err)
{
        *out = (struct als_use){0};
        use_id(ref, layer, out->lease.id, sizeof(out->lease.id));
        return cas_lease_each(s, use_seen, out, err);
}

/* ---- a layer that was asked for ---- */

struct asked {
        const char *ref; /* borrowed */
        struct cas_digest layer, manifest;
};

/* An image that somebody counts on is found though its name has gone. */
static int find_image(struct cas_store *s, struct asked *a, struct cas_err *err)
{
        struct cas_ref readings[READINGS_MAX];
        struct als_use use;
        if (use_get(s, a->ref, &a->layer, &use, err) < 0)
                return -(int)err->code;
        a->manifest = use.lease.root;
        if (use.found)
                return 0;
        size_t count = read_ref(a->ref, readings);
        for (size_t i = 0; i < count; i++)
                if (repo_has(s, &readings[i], &a->layer, &a->manifest))
                        return 0;
        return cas_fail(err, CAS_E_NOTFOUND, "%.300s: no such image with this layer", a->ref);
}

static int asked_parse(struct cas_store *s, const json_t *args, struct asked *out,
                       struct cas_err *err)
{
        const char *layer;
        if (op_arg_string(args, "ref", &out->ref, err) < 0 ||
            op_arg_string(args, "layer", &layer, err) < 0 ||
            cas_digest_parse(layer, &out->layer, err) < 0)
                return -(int)err->code;
        return find_image(s, out, err);
}

/* As containers/storage numbers them. */
static int compression_number(enum cas_compression compression)
{
        switch (compression) {
        case CAS_COMPRESSION_NONE:
                return 0;
        case CAS_COMPRESSION_GZIP:
                return 2;
        case CAS_COMPRESSION_ZSTD:
                return 4;
        }
        return 0;
}

int op_als_find(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                json_t **result, struct cas_err *err)
{
        struct asked a;
        struct cas_layer_record layer;
        uint64_t blob_bytes;
        char blob[CAS_DIGEST_TEXT_BYTES], diff_id[CAS_DIGEST_TEXT_BYTES];
        if (asked_parse(s, args, &a, err) < 0 ||
            cas_layer_ensure(s, &a.layer, ctx->progress, &layer, err) < 0 ||
            cas_blob_stat(s, &a.layer, &blob_bytes, err) < 0)
                return -(int)err->code;
        *result = json_pack("{s:I, s:{s:s, s:I, s:s, s:I, s:i}}", "size", (json_int_t)blob_bytes,
                            "info", "compressed-diff-digest", cas_digest_text(&a.layer, blob),
                            "compressed-size", (json_int_t)blob_bytes, "diff-digest",
                            cas_digest_text(&layer.diff_id, diff_id), "diff-size",
                            (json_int_t)layer.tar_bytes, "compression",
                            compression_number(layer.compression));
        return 0;
}

/* The lease first: nothing of the image can go while the tree is made. */
int op_als_prepare(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                   json_t **result, struct cas_err *err)
{
        struct asked a;
        struct cas_layer_record layer;
        struct cas_tree_ref tree;
        const char *owner;
        if (op_arg_string(args, "owner", &owner, err) < 0 || asked_parse(s, args, &a, err) < 0)
                return -(int)err->code;
        struct cas_lease lease = {.root = a.manifest,
                                  .expires_unix_s = (uint64_t)time(NULL) + PREPARE_S};
        op_lease_id_new(lease.id, sizeof(lease.id));
        (void)snprintf(lease.owner, sizeof(lease.owner), "%s", owner);
        if (cas_lease_put(s, &lease, err) < 0)
                return -(int)err->code;
        if (cas_blob_stat(s, &a.manifest, NULL, err) < 0 ||
            cas_layer_ensure(s, &a.layer, ctx->progress, &layer, err) < 0 ||
            cas_tree_ensure_layer(s, &layer, &tree, err) < 0) {
                struct cas_err ignored = CAS_ERR_INIT;
                (void)!cas_lease_drop(s, lease.id, &ignored); /* it expires anyway */
                return -(int)err->code;
        }
        char manifest[CAS_DIGEST_TEXT_BYTES], digest[CAS_DIGEST_TEXT_BYTES], path[4096];
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_tree_path(s, &tree.digest, path, sizeof(path));
        cas_cleanup_free char *name =
                cas_xasprintf("%.300s (layer %s)", a.ref, cas_digest_text(&a.layer, text));
        *result = json_pack("{s:o, s:s, s:s, s:[{s:s, s:s}]}", "name", op_text_json(name),
                            "manifest", cas_digest_text(&a.manifest, manifest), "lease", lease.id,
                            "trees", "digest", cas_digest_text(&tree.digest, digest), "path", path);
        return 0;
}

/* Counts are read and written by one thread at a time. */
static struct cas_mutex use_mutex = CAS_MUTEX_INIT("als.use");

static int use_change(struct cas_store *s, struct asked *a, bool begins, unsigned *out_count,
                      struct cas_err *err)
{
        struct als_use use;
        if (use_get(s, a->ref, &a->layer, &use, err) < 0)
                return -(int)err->code;
        if (!begins && use.count <= 1) {
                *out_count = 0;
                return cas_lease_drop(s, use.lease.id, err);
        }
        if (!use.found) {
                if (find_image(s, a, err) < 0)
                        return -(int)err->code;
                use.lease.root = a->manifest;
        }
        *out_count = begins ? use.count + 1 : use.count - 1;
        (void)snprintf(use.lease.owner, sizeof(use.lease.owner), USES_FORMAT, *out_count, a->ref);
        if (cas_lease_put(s, &use.lease, err) < 0)
                return -(int)err->code;
        if (use.found || cas_blob_stat(s, &use.lease.root, NULL, err) == 0)
                return 0;
        struct cas_err ignored = CAS_ERR_INIT;
        (void)!cas_lease_drop(s, use.lease.id, &ignored);
        return -(int)err->code;
}

int op_als_use(struct cas_store *s, const json_t *args, const struct op_context *ctx CAS_UNUSED,
               json_t **result, struct cas_err *err)
{
        struct asked a = {0};
        const char *layer;
        unsigned count = 0;
        if (op_arg_string(args, "ref", &a.ref, err) < 0 ||
            op_arg_string(args, "layer", &layer, err) < 0 ||
            cas_digest_parse(layer, &a.layer, err) < 0)
                return -(int)err->code;
        cas_mutex_lock(&use_mutex);
        int rc = use_change(s, &a, json_is_true(json_object_get(args, "begins")), &count, err);
        cas_mutex_unlock(&use_mutex);
        if (rc < 0)
                return rc;
        *result = json_pack("{s:I}", "count", (json_int_t)count);
        return 0;
}

struct use_ids {
        char (*ids)[sizeof(((struct cas_lease *)0)->id)]; /* owned */
        size_t count;
};

static bool use_collect(void *arg, const struct cas_lease *lease)
{
        struct use_ids *u = arg;
        if (strncmp(lease->id, USE_PREFIX, strlen(USE_PREFIX)) != 0)
                return true;
        u->ids = cas_xrealloc(u->ids, (u->count + 1) * sizeof(u->ids[0]));
        memcpy(u->ids[u->count++], lease->id, sizeof(lease->id));
        return true;
}

int op_als_reset(struct cas_store *s, const json_t *args CAS_UNUSED,
                 const struct op_context *ctx CAS_UNUSED, json_t **result, struct cas_err *err)
{
        struct use_ids u = {0};
        cas_mutex_lock(&use_mutex);
        int rc = cas_lease_each(s, use_collect, &u, err);
        for (size_t i = 0; rc == 0 && i < u.count; i++)
                rc = cas_lease_drop(s, u.ids[i], err);
        cas_mutex_unlock(&use_mutex);
        free(u.ids);
        if (rc == 0)
                *result = json_pack("{s:I}", "count", (json_int_t)u.count);
        return rc;
}

/* ---- blobs ---- */

static int write_all(int fd, const uint8_t *data, size_t len, uint64_t offset, const char *path,
                     struct cas_err *err)
{
        return cas_io_pwrite_all(cas_io_posix(), fd, data, len, offset, path, err);
}

/* Into a file that is there, which the caller made. */
int op_blob_write(struct cas_store *s, const json_t *args, const struct op_context *ctx CAS_UNUSED,
                  json_t **result, struct cas_err *err)
{
        const char *text;
        struct cas_digest digest;
        cas_cleanup_free char *file = NULL;
        cas_cleanup_blob_stream struct cas_blob_stream *stream = NULL;
        if (op_arg_string(args, "digest", &text, err) < 0 ||
            cas_digest_parse(text, &digest, err) < 0 || op_arg_path(args, "file", &file, err) < 0 ||
            cas_blob_stream_open(s, &digest, 0, UINT64_MAX, true, &stream, err) < 0)
                return -(int)err->code;
        cas_cleanup_fd int fd = open(file, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open %s", file);
        cas_cleanup_free uint8_t *piece = cas_xmalloc(PIECE_BYTES);
        uint64_t offset = 0;
        for (size_t n = 1; n > 0; offset += n) {
                if (cas_blob_stream_read(stream, piece, PIECE_BYTES, &n, err) < 0 ||
                    write_all(fd, piece, n, offset, file, err) < 0)
                        return -(int)err->code;
        }
        *result = json_object();
        return 0;
}
