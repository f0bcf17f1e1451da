/* SPDX-License-Identifier: Apache-2.0 */
/* Operations that look after a store. */
#include "cas/maintain.h"
#include "tools/ops.h"
#include "tools/ops_json.h"

#define GC_GRACE_DEFAULT_S 3600
#define GC_LIVE_PERCENT_DEFAULT 50

static uint64_t number_arg(const json_t *args, const char *key, uint64_t fallback)
{
        const json_t *v = json_object_get(args, key);
        return json_is_integer(v) && json_integer_value(v) >= 0 ? (uint64_t)json_integer_value(v)
                                                                : fallback;
}

static json_t *number(uint64_t v)
{
        return json_integer((json_int_t)v);
}

int op_gc(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
          struct cas_err *err)
{
        struct cas_gc_options options = {
                .dry_run = json_is_true(json_object_get(args, "dryRun")),
                .live_percent_min = (unsigned)cas_min_u64(
                        number_arg(args, "livePercent", GC_LIVE_PERCENT_DEFAULT), 100),
                .grace_s = number_arg(args, "grace", GC_GRACE_DEFAULT_S),
        };
        struct cas_gc_result r = {0};
        if (cas_gc(s, &options, ctx->progress, &r, err) < 0)
                return -(int)err->code;
        *result = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "blobsRemoved",
                            number(r.blobs_removed), "blobBytes", number(r.blob_bytes),
                            "objectsRemoved", number(r.objects_removed), "chunksRemoved",
                            number(r.chunks_removed), "layersRemoved", number(r.layers_removed),
                            "treesRemoved", number(r.trees_removed), "packsRemoved",
                            number(r.packs_removed), "packsRewritten", number(r.packs_rewritten),
                            "bytesFreed", number(r.bytes_freed));
        json_object_set_new(*result, "recipesRemoved", number(r.recipes_removed));
        return 0;
}

static const char *severity_name(enum cas_fsck_severity severity)
{
        switch (severity) {
        case CAS_FSCK_ERROR:
                return "error";
        case CAS_FSCK_WARNING:
                return "warning";
        case CAS_FSCK_NOTE:
                return "note";
        }
        return "error";
}

static void finding_seen(void *arg, enum cas_fsck_severity severity, const char *id,
                         const char *subject, const char *message)
{
        json_array_append_new(arg,
                              json_pack("{s:s, s:s, s:o, s:o}", "severity", severity_name(severity),
                                        "id", id, "subject", op_text_json(subject), "message",
                                        op_text_json(message)));
}

int op_fsck(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
            struct cas_err *err)
{
        (void)args;
        op_cleanup_json json_t *findings = json_array();
        struct cas_fsck_result r = {0};
        if (cas_fsck(s, NULL, ctx->progress, finding_seen, findings, &r, err) < 0)
                return -(int)err->code;
        json_t *checked = json_pack(
                "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "packs", number(r.packs), "blocks",
                number(r.blocks), "chunks", number(r.chunks), "objects", number(r.objects), "blobs",
                number(r.blobs), "layers", number(r.layers), "trees", number(r.trees), "manifests",
                number(r.manifests), "names", number(r.names));
        json_object_set_new(checked, "recipes", number(r.recipes));
        *result = json_pack("{s:o, s:o, s:o, s:O}", "errors", number(r.errors), "warnings",
                            number(r.warnings), "checked", checked, "findings", findings);
        return 0;
}

int op_stats(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
             struct cas_err *err)
{
        (void)args;
        (void)ctx;
        struct cas_store_stats t = {0};
        if (cas_store_stats(s, &t, err) < 0)
                return -(int)err->code;
        const struct {
                const char *key;
                uint64_t value;
        } rows[] = {
                {"blobs", t.blob_count},          {"blobBytes", t.blob_bytes},
                {"copies", t.copy_count},         {"copyBytes", t.copy_bytes},
                {"cachedCopies", t.cached_count}, {"cachedCopyBytes", t.cached_bytes},
                {"condensed", t.condensed_count}, {"condensedBytes", t.condensed_bytes},
                {"recipes", t.recipe_count},      {"recipeBytes", t.recipe_bytes},
                {"refused", t.refused_count},     {"objects", t.object_count},
                {"objectBytes", t.object_bytes},  {"chunks", t.chunk_count},
                {"packs", t.pack_count},          {"packBytes", t.pack_bytes},
                {"layers", t.layer_count},        {"manifests", t.manifest_count},
                {"repositories", t.repo_count},   {"tags", t.tag_count},
                {"leases", t.lease_count},        {"trees", t.tree_count},
                {"treeBytes", t.tree_bytes},
        };
        json_t *out = json_pack("{s:s, s:s}", "store", cas_store_path(s), "id", cas_store_id(s));
        for (size_t i = 0; i < CAS_COUNT(rows); i++)
                json_object_set_new(out, rows[i].key, number(rows[i].value));
        *result = out;
        return 0;
}
