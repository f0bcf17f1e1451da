/* SPDX-License-Identifier: Apache-2.0 */
/* The retention rules of a configuration, applied at once or only looked at. */
#include "registry/registry.h"
#include "registry/retention.h"
#include "tools/ops.h"
#include "tools/ops_json.h"

static void item_seen(void *arg, const struct reg_retention_item *item)
{
        char digest[CAS_DIGEST_TEXT_BYTES];
        json_t *j = json_pack("{s:s, s:s, s:s, s:I, s:s}", "rule", item->rule, "repository",
                              item->repo, "digest", cas_digest_text(&item->manifest, digest),
                              "pushed", (json_int_t)item->pushed_unix_s, "why", item->reason);
        if (item->tag[0])
                json_object_set_new(j, "tag", json_string(item->tag));
        if (item->pulled_unix_s)
                json_object_set_new(j, "pulled", json_integer((json_int_t)item->pulled_unix_s));
        json_array_append_new(arg, j);
}

static int read_settings(const json_t *settings, struct reg_config *config, struct cas_err *err)
{
        size_t i;
        const json_t *line;
        if (!json_is_array(settings))
                return cas_fail(err, CAS_E_INVALID, "argument settings: not an array");
        json_array_foreach(settings, i, line)
        {
                const char *text[3] = {0};
                bool known = false;
                for (size_t k = 0; k < 3; k++)
                        text[k] = json_string_value(json_array_get(line, k));
                if (!text[0] || !text[1] || !text[2])
                        return cas_fail(err, CAS_E_INVALID, "argument settings: not a setting");
                int rc = reg_config_set(config, text[0], text[1], text[2], &known, err);
                if (rc < 0)
                        return cas_err_wrap(err, "[%s] %s", text[0], text[1]);
        }
        return 0;
}

int op_retention(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                 json_t **result, struct cas_err *err)
{
        struct reg_config config = {0};
        struct reg_retention_result r = {0};
        op_cleanup_json json_t *removed = json_array();
        json_int_t now = json_integer_value(json_object_get(args, "now"));
        int rc = read_settings(json_object_get(args, "settings"), &config, err);
        if (rc == 0) {
                const struct reg_retention_run run = {
                        .store = s,
                        .config = reg_config_area(&config, reg_retention_area.word),
                        .immutable = reg_config_area(&config, reg_immutable_area.word),
                        .clock = ctx->registry ? reg_clock(ctx->registry) : NULL,
                        .events = ctx->registry ? reg_listeners(ctx->registry) : NULL,
                        .now_unix_s = now > 0 ? (uint64_t)now : 0,
                        .dry_run = json_is_true(json_object_get(args, "dryRun")),
                        .fn = item_seen,
                        .arg = removed,
                };
                rc = reg_retention_apply(&run, &r, err);
        }
        reg_config_release(&config);
        if (rc < 0)
                return rc;
        *result = json_pack("{s:O, s:I, s:I, s:I, s:I, s:I}", "removed", removed, "repositories",
                            (json_int_t)r.repositories, "seen", (json_int_t)r.tags_seen, "tags",
                            (json_int_t)r.tags_removed, "manifests",
                            (json_int_t)r.manifests_removed, "failed", (json_int_t)r.failed);
        return 0;
}
