/* SPDX-License-Identifier: Apache-2.0 */
/* Operations between the store and other registries. */
#include "tools/ops.h"
#include "tools/ops_json.h"
#include "tools/remote_arg.h"
#include "tools/remotes.h"

/* A registry to talk to, as the arguments say. */
struct op_remote {
        struct remotes *remotes;
        struct reg_httpc *http;
        struct reg_remote *remote;
        const char *repo, *reference;
        struct reg_transfer_options options;
        struct cas_platform platform;
        bool has_platform;
};

static void op_remote_release(struct op_remote *r)
{
        reg_remote_close(r->remote);
        remotes_client_free(r->remotes, r->http);
}
#define cleanup_op_remote __attribute__((cleanup(op_remote_release)))

static bool is_set(const json_t *args, const char *key)
{
        return json_is_true(json_object_get(args, key));
}

static int op_remote_open(const json_t *args, const struct op_context *ctx, struct op_remote *out,
                          struct cas_err *err)
{
        struct reg_remote_config config = {.plain_http = is_set(args, "plainHttp")};
        if (op_arg_string(args, "host", &config.host, err) < 0 ||
            op_arg_string(args, "repository", &out->repo, err) < 0 ||
            op_arg_string(args, "reference", &out->reference, err) < 0 ||
            op_arg_string_opt(args, "user", &config.user, err) < 0 ||
            op_arg_string_opt(args, "password", &config.password, err) < 0 ||
            op_arg_string_opt(args, "identityToken", &config.identity_token, err) < 0 ||
            op_arg_platform(args, &out->platform, &out->has_platform, err) < 0)
                return -(int)err->code;
        if (!cas_repo_name_valid(out->repo))
                return cas_fail(err, CAS_E_INVALID, "argument repository: not a name");
        json_int_t jobs = json_integer_value(json_object_get(args, "jobs"));
        if (jobs < 0 || jobs > REG_TRANSFER_JOBS_MAX)
                return cas_fail(err, CAS_E_INVALID, "argument jobs: at most %d",
                                REG_TRANSFER_JOBS_MAX);
        config.anonymous = !config.user && !config.identity_token;
        out->options = (struct reg_transfer_options){.referrers = is_set(args, "referrers"),
                                                     .proved = is_set(args, "proved"),
                                                     .jobs = (unsigned)jobs,
                                                     .progress = ctx->progress};
        out->remotes = ctx->remotes;
        if (remotes_client(out->remotes, is_set(args, "insecure"), (unsigned)jobs, &out->http,
                           err) < 0)
                return -(int)err->code;
        config.http = out->http;
        return reg_remote_open(&config, &out->remote, err);
}

int op_pull(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
            struct cas_err *err)
{
        cleanup_op_remote struct op_remote r = {0};
        struct cas_ref to;
        struct reg_transfer_result done;
        if (op_arg_ref(args, "name", &to, err) < 0 || op_remote_open(args, ctx, &r, err) < 0)
                return -(int)err->code;
        if (!r.has_platform)
                cas_platform_host(&r.platform);
        if (!is_set(args, "allPlatforms"))
                r.options.platform = &r.platform;
        if (reg_pull(s, r.remote, r.repo, r.reference, &to, &r.options, &done, err) < 0)
                return -(int)err->code;
        *result = op_manifest_json(to.repo, to.tag, &done.info);
        remote_result_add(*result, &done);
        return 0;
}

int op_push(struct cas_store *s, const json_t *args, const struct op_context *ctx, json_t **result,
            struct cas_err *err)
{
        cleanup_op_remote struct op_remote r = {0};
        struct cas_ref from;
        struct reg_transfer_result done;
        if (op_arg_ref(args, "name", &from, err) < 0 || op_remote_open(args, ctx, &r, err) < 0)
                return -(int)err->code;
        if (r.has_platform)
                r.options.platform = &r.platform;
        const char *tag = cas_tag_valid(r.reference) ? r.reference : "";
        if (reg_push(s, &from, r.remote, r.repo, tag, &r.options, &done, err) < 0)
                return -(int)err->code;
        *result = op_manifest_json(r.repo, tag, &done.info);
        remote_result_add(*result, &done);
        return 0;
}
