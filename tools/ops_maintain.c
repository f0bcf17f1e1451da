/* SPDX-License-Identifier: Apache-2.0 */
/* Operations that look after a store. */
#include <stdatomic.h>

#include "cas/scrub.h"
#include "tools/care_defaults.h"
#include "tools/ops.h"
#include "tools/ops_json.h"
#include "tools/ops_tier.h"
#include "tools/repair_source.h"
#include "tools/tier_metrics.h"

#define WHY_PATHS_DEFAULT 3
#define WHY_PATHS_MAX 1000

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

/* Whether this process is about to end. */
static bool told_to_stop(void *arg)
{
        const struct op_context *ctx = arg;
        return ctx->ending && atomic_load(ctx->ending);
}

/* Clients of a registry count on what they were told some time ago; without one, what nothing needs
 * is not waited for by anybody. */
static uint64_t grace_default_s(const struct op_context *ctx)
{
        return ctx->registry ? GC_GRACE_DEFAULT_S : 0;
}

static unsigned percent_arg(const json_t *args, const char *key, unsigned fallback)
{
        return (unsigned)cas_min_u64(number_arg(args, key, fallback), 100);
}

int op_gc(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
          struct cas_err *err)
{
        struct op_context asked = *ctx;
        const struct cas_gc_options options = {
                .dry_run = json_is_true(json_object_get(args, "dryRun")),
                .full = json_is_true(json_object_get(args, "full")),
                .live_percent_min = percent_arg(args, "livePercent", GC_LIVE_PERCENT_DEFAULT),
                .duty_percent = percent_arg(args, "share", 0),
                .grace_s = number_arg(args, "grace", grace_default_s(ctx)),
                .stop = told_to_stop,
                .stop_arg = &asked,
        };
        struct cas_gc_result r = {0};
        if (cas_gc(s, &options, ctx->progress, &r, err) < 0)
                return -(int)err->code;
        const struct {
                const char *key;
                uint64_t value;
        } rows[] = {
                {"blobsRemoved", r.blobs_removed},
                {"blobBytes", r.blob_bytes},
                {"objectsRemoved", r.objects_removed},
                {"chunksRemoved", r.chunks_removed},
                {"layersRemoved", r.layers_removed},
                {"recipesRemoved", r.recipes_removed},
                {"treesRemoved", r.trees_removed},
                {"linksRemoved", r.links_removed},
                {"packsRemoved", r.packs_removed},
                {"packsRewritten", r.packs_rewritten},
                {"bytesFreed", r.bytes_freed},
                {"lookedAt", r.looked_at},
                {"waiting", r.waiting},
                {"grace", options.grace_s},
        };
        *result = json_pack("{s:b, s:b}", "full", r.full, "stopped", r.stopped);
        for (size_t i = 0; i < CAS_COUNT(rows); i++)
                json_object_set_new(*result, rows[i].key, number(rows[i].value));
        return 0;
}

static void step_seen(void *arg, unsigned path, const struct cas_why_step *step)
{
        json_t *paths = arg;
        while (json_array_size(paths) <= path)
                json_array_append_new(paths, json_array());
        json_array_append_new(json_array_get(paths, path),
                              json_pack("{s:s, s:o, s:o}", "kind", step->kind, "name",
                                        op_text_json(step->name), "text",
                                        op_text_json(step->text)));
}

int op_why(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
           struct cas_err *err)
{
        (void)ctx;
        const char *what;
        op_cleanup_json json_t *paths = json_array();
        uint64_t max = cas_min_u64(number_arg(args, "paths", WHY_PATHS_DEFAULT), WHY_PATHS_MAX);
        if (op_arg_string(args, "what", &what, err) < 0 ||
            cas_why(s, what, (unsigned)max, step_seen, paths, err) < 0)
                return -(int)err->code;
        *result = json_pack("{s:O}", "paths", paths);
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

static json_t *checked_json(const struct cas_fsck_result *r, json_t *findings)
{
        const struct {
                const char *key;
                uint64_t value;
        } rows[] = {
                {"packs", r->packs},     {"blocks", r->blocks}, {"chunks", r->chunks},
                {"objects", r->objects}, {"blobs", r->blobs},   {"recipes", r->recipes},
                {"layers", r->layers},   {"trees", r->trees},   {"manifests", r->manifests},
                {"names", r->names},
        };
        json_t *checked = json_object();
        for (size_t i = 0; i < CAS_COUNT(rows); i++)
                json_object_set_new(checked, rows[i].key, number(rows[i].value));
        return json_pack("{s:o, s:o, s:o, s:o, s:b, s:o, s:O}", "errors", number(r->errors),
                         "warnings", number(r->warnings), "repaired", number(r->repaired),
                         "quarantined", number(r->quarantined), "stopped", r->stopped, "checked",
                         checked, "findings", findings);
}

int op_fsck(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
            struct cas_err *err)
{
        op_cleanup_json json_t *findings = json_array();
        const struct cas_fsck_options options = {
                .repair = json_is_true(json_object_get(args, "repair")),
        };
        struct cas_fsck_result r = {0};
        if (cas_fsck(s, &options, ctx->progress, finding_seen, findings, &r, err) < 0)
                return -(int)err->code;
        *result = checked_json(&r, findings);
        return 0;
}

static int scrub_state(struct cas_store *s, json_t **result, struct cas_err *err)
{
        struct cas_scrub_state state = {0};
        if (cas_scrub_state(s, &state, err) < 0)
                return -(int)err->code;
        *result = json_pack("{s:o, s:o, s:o, s:o, s:s}", "passes", number(state.pass), "began",
                            number(state.began_unix_s), "ended", number(state.ended_unix_s),
                            "bytesChecked", number(state.bytes_checked), "at",
                            state.at ? state.at : "");
        return 0;
}

int op_scrub(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
             struct cas_err *err)
{
        if (json_is_true(json_object_get(args, "state")))
                return scrub_state(s, result, err);
        op_cleanup_json json_t *findings = json_array();
        struct op_context asked = *ctx;
        struct repair_source source = {.registry = ctx->registry, .remotes = ctx->remotes};
        const struct cas_scrub_options options = {
                .from_start = json_is_true(json_object_get(args, "fromStart")),
                .repair = json_is_true(json_object_get(args, "repair")),
                .bytes_per_s = number_arg(args, "rate", 0),
                .duty_percent = percent_arg(args, "share", 0),
                .stop = told_to_stop,
                .stop_arg = &asked,
                .fetch_blob = repair_source_fetch,
                .fetch_arg = &source,
        };
        struct cas_fsck_result r = {0};
        if (cas_scrub(s, &options, ctx->progress, finding_seen, findings, &r, err) < 0)
                return -(int)err->code;
        *result = checked_json(&r, findings);
        return 0;
}

int op_checkpoint(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                  json_t **result, struct cas_err *err)
{
        cas_cleanup_free char *dir = NULL;
        struct cas_checkpoint_result r = {0};
        if (op_arg_path(args, "dir", &dir, err) < 0 ||
            cas_checkpoint(s, dir, ctx->progress, &r, err) < 0)
                return -(int)err->code;
        *result = json_pack("{s:o, s:o, s:o}", "linked", number(r.files_linked), "copied",
                            number(r.files_copied), "copiedBytes", number(r.bytes_copied));
        return 0;
}

int op_stats(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
             struct cas_err *err)
{
        (void)args;
        struct cas_store_stats t = {0};
        if (cas_store_stats(s, &t, err) < 0)
                return -(int)err->code;
        const struct tier_saved saved = tier_saved(&t);
        const struct {
                const char *key;
                uint64_t value;
        } rows[] = {
                {"blobs", t.blob_count},
                {"blobBytes", t.blob_bytes},
                {"copies", t.copy_count},
                {"copyBytes", t.copy_bytes},
                {"cachedCopies", t.cached_count},
                {"cachedCopyBytes", t.cached_bytes},
                {"condensed", t.condensed_count},
                {"condensedBytes", t.condensed_bytes},
                {"recipes", t.recipe_count},
                {"recipeBytes", t.recipe_bytes},
                {"refused", t.refused_count},
                {"objects", t.object_count},
                {"objectBytes", t.object_bytes},
                {"chunks", t.chunk_count},
                {"packs", t.pack_count},
                {"packBytes", t.pack_bytes},
                {"layers", t.layer_count},
                {"manifests", t.manifest_count},
                {"repositories", t.repo_count},
                {"tags", t.tag_count},
                {"leases", t.lease_count},
                {"trees", t.tree_count},
                {"treeBytes", t.tree_bytes},
                {"contentBytes", t.content_bytes},
                {"chunkBytes", t.chunk_bytes},
                {"dedupSavedBytes", saved.by_dedup},
                {"compressionSavedBytes", saved.by_compression},
                {"condensingSavedBytes", saved.by_condensing},
        };
        json_t *out = json_pack("{s:s, s:s}", "store", cas_store_path(s), "id", cas_store_id(s));
        for (size_t i = 0; i < CAS_COUNT(rows); i++)
                json_object_set_new(out, rows[i].key, number(rows[i].value));
        struct tier_set *set = tier_set_of(s);
        if (set && tier_set_is_configured(set))
                json_object_set_new(out, "tiers", op_tiers_json(set, ctx));
        *result = out;
        return 0;
}
