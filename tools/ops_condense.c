/* SPDX-License-Identifier: Apache-2.0 */
/* Condensing of one image, or of all. */
#include "cas/condense.h"

#include "cas/blob.h"
#include "cas/image.h"
#include "cas/maintain.h"
#include "cas/map.h"
#include "cas/names.h"
#include "tools/ops.h"
#include "tools/ops_json.h"

/* ---- which layers ---- */

struct gathering {
        struct cas_store *s;
        struct cas_map *seen;      /* manifests and layers, by digest */
        struct cas_digest *layers; /* owned */
        size_t count;
        char **repos; /* owned, with their texts */
        size_t repo_count;
        const char *repo;
        struct cas_err *err;
        int rc;
};

static void gathering_release(struct gathering *g)
{
        cas_map_free(g->seen);
        free(g->layers);
        for (size_t i = 0; i < g->repo_count; i++)
                free(g->repos[i]);
        free(g->repos);
}
#define cleanup_gathering __attribute__((cleanup(gathering_release)))

static bool is_new(struct gathering *g, const struct cas_digest *digest)
{
        bool inserted;
        (void)cas_map_put(g->seen, digest, sizeof(*digest), &inserted);
        return inserted;
}

static void add_layer(struct gathering *g, const struct cas_descriptor *d)
{
        if (!cas_media_type_is_layer(d->media_type) || !is_new(g, &d->digest))
                return;
        g->layers = cas_xrealloc(g->layers, (g->count + 1) * sizeof(*g->layers));
        g->layers[g->count++] = d->digest;
}

/* Foreign layers, and images of an index, need not be here. */
static int add_manifest(struct gathering *g, const struct cas_digest *digest,
                        const char *media_type, unsigned depth, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        if (!is_new(g, digest))
                return 0;
        if (depth > CAS_INDEX_DEPTH_MAX)
                return cas_fail(err, CAS_E_LIMIT, "indexes nested deeper than %d",
                                CAS_INDEX_DEPTH_MAX);
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_blob_read(g->s, digest, CAS_MANIFEST_BYTES_MAX, &bytes, &miss);
        if (rc == -CAS_E_NOTFOUND && depth > 0)
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        if (cas_manifest_parse(bytes.data, bytes.len_bytes, media_type, &m, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < m.child_count; i++) {
                const struct cas_descriptor *d = &m.children[i];
                if (m.kind == CAS_MANIFEST_IMAGE) {
                        if (cas_blob_stat(g->s, &d->digest, NULL, &miss) == 0)
                                add_layer(g, d);
                } else if (cas_media_type_is_manifest(d->media_type)) {
                        if (add_manifest(g, &d->digest, d->media_type, depth + 1, err) < 0)
                                return -(int)err->code;
                }
        }
        return 0;
}

static bool manifest_seen(void *arg, const struct cas_manifest_info *info)
{
        struct gathering *g = arg;
        if (cas_media_type_is_manifest(info->media_type))
                g->rc = add_manifest(g, &info->digest, info->media_type, 0, g->err);
        return g->rc == 0;
}

static bool repo_seen(void *arg, const char *repo)
{
        struct gathering *g = arg;
        g->repos = cas_xrealloc(g->repos, (g->repo_count + 1) * sizeof(*g->repos));
        g->repos[g->repo_count++] = cas_xstrdup(repo);
        return true;
}

static int gather(struct gathering *g, const json_t *args, struct cas_err *err)
{
        g->seen = cas_map_new();
        g->err = err;
        if (!json_is_true(json_object_get(args, "all"))) {
                struct cas_ref ref;
                struct cas_manifest_info info;
                if (op_arg_ref(args, "name", &ref, err) < 0 ||
                    cas_ref_resolve(g->s, &ref, &info, err) < 0)
                        return -(int)err->code;
                return add_manifest(g, &info.digest, info.media_type, 0, err);
        }
        int rc = cas_repo_each(g->s, NULL, repo_seen, g, err);
        for (size_t i = 0; rc == 0 && i < g->repo_count; i++) {
                rc = cas_manifest_each(g->s, g->repos[i], manifest_seen, g, err);
                if (rc == 0)
                        rc = g->rc;
        }
        return rc;
}

/* ---- condense ---- */

static int codec_arg(const json_t *args, enum cas_condense_codec *out, struct cas_err *err)
{
        const char *codec;
        if (op_arg_string_opt(args, "codec", &codec, err) < 0)
                return -(int)err->code;
        *out = codec && strcmp(codec, "cold") == 0 ? CAS_CONDENSE_COLD : CAS_CONDENSE_DEFAULT;
        if (codec && *out == CAS_CONDENSE_DEFAULT && strcmp(codec, "default") != 0)
                return cas_fail(err, CAS_E_INVALID, "codec %s: use default or cold", codec);
        return 0;
}

int op_condense(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                json_t **result, struct cas_err *err)
{
        cleanup_gathering struct gathering g = {.s = s};
        op_cleanup_json json_t *layers = json_array();
        const struct cas_condense_options options = {
                .keep_verbatim = json_is_true(json_object_get(args, "keep")),
                .again = json_is_true(json_object_get(args, "again")),
        };
        struct cas_recode_result packs = {0};
        enum cas_condense_codec codec;
        uint64_t condensed = 0, failed = 0, blob_bytes = 0;
        if (codec_arg(args, &codec, err) < 0 || gather(&g, args, err) < 0)
                return -(int)err->code;
        for (size_t i = 0; i < g.count; i++) {
                struct cas_recipe_record rec = {0};
                struct cas_err why = CAS_ERR_INIT;
                if (cas_condense_blob(s, &g.layers[i], &options, ctx->progress, &rec, &why) < 0) {
                        if (why.code != CAS_E_CORRUPT && why.code != CAS_E_INVALID &&
                            why.code != CAS_E_LIMIT && why.code != CAS_E_UNSUPPORTED) {
                                *err = why;
                                return -(int)err->code;
                        }
                        /* A layer that cannot be decoded is kept as it is. */
                        rec = (struct cas_recipe_record){.blob = g.layers[i]};
                        (void)snprintf(rec.reason, sizeof(rec.reason), "%.150s", why.msg);
                        failed++;
                }
                condensed += rec.is_proved;
                blob_bytes += rec.blob_bytes;
                json_array_append_new(layers, op_recipe_json(s, &rec));
        }
        if (json_is_true(json_object_get(args, "all")) &&
            (cas_condense_packs(s, codec, NULL, ctx->progress, &packs, err) < 0 ||
             cas_store_compact(s, err) < 0))
                return -(int)err->code;
        *result = json_pack("{s:O, s:I, s:I, s:I, s:I, s:I, s:I}", "layers", layers, "condensed",
                            (json_int_t)condensed, "failed", (json_int_t)failed, "blobBytes",
                            (json_int_t)blob_bytes, "packs", (json_int_t)packs.packs,
                            "packBytesBefore", (json_int_t)packs.bytes_before, "packBytesAfter",
                            (json_int_t)packs.bytes_after);
        return 0;
}
