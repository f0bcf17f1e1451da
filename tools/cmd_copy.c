/* SPDX-License-Identifier: Apache-2.0 */
/* lamina copy: an image from one registry to another, without a store. */
#include "tools/cli.h"
#include "tools/ops_json.h"
#include "tools/progressline.h"
#include "tools/remote_arg.h"

struct copy_args {
        struct remote_args remote;
};

static const struct cli_option options[] = {
        {"platform", 0, CLI_STRING, offsetof(struct copy_args, remote.platform),
         "OS/ARCH[/VARIANT]", "only this one of an index; default: all"},
        REMOTE_OPTIONS_CONNECTION(struct copy_args),
        {0},
};

struct ends {
        struct reg_httpc *http;
        struct reg_remote *from, *to;
};

static void ends_release(struct ends *e)
{
        reg_remote_close(e->from);
        reg_remote_close(e->to);
        reg_httpc_free(e->http);
}

static int copy(const struct remote_args *a, const struct remote_address *from,
                const struct remote_address *to, const struct cas_progress *progress,
                struct reg_transfer_result *out, struct cas_err *err)
{
        __attribute__((cleanup(ends_release))) struct ends e = {0};
        bool insecure = a->tls_verify && a->tls_verify[0] != 'y' && a->tls_verify[0] != 't';
        char reference[CAS_DIGEST_TEXT_BYTES];
        struct cas_platform platform;
        struct reg_transfer_options transfer = {
                .referrers = a->referrers, .jobs = (unsigned)a->jobs, .progress = progress};
        if (a->platform) {
                if (cas_platform_parse(a->platform, &platform, err) < 0)
                        return -(int)err->code;
                transfer.platform = &platform;
        }
        if (remote_client(insecure, (unsigned)a->jobs, &e.http, err) < 0)
                return -(int)err->code;
        struct reg_remote_config config = {
                .http = e.http, .plain_http = a->plain_http, .auth_file = a->authfile};
        config.host = from->host;
        if (reg_remote_open(&config, &e.from, err) < 0)
                return -(int)err->code;
        config.host = to->host;
        if (reg_remote_open(&config, &e.to, err) < 0)
                return -(int)err->code;
        return reg_copy(e.from, from->ref.repo, remote_reference(from, reference), e.to,
                        to->ref.repo, to->ref.tag, &transfer, out, err);
}

static int run(const struct cli *cli, void *args)
{
        const struct copy_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        struct remote_address from, to;
        struct reg_transfer_result done;
        char digest[CAS_DIGEST_TEXT_BYTES];
        if (remote_address_parse(cli->operands[0], &from, &err) < 0 ||
            remote_address_parse(cli->operands[1], &to, &err) < 0 ||
            remote_args_check(&a->remote, &err) < 0)
                return cli_report(cli->command->name, &err);
        int rc;
        {
                cli_cleanup_progress struct cli_progress *progress = cli_progress_new();
                rc = copy(&a->remote, &from, &to, cli_progress_sink(progress), &done, &err);
        }
        if (rc < 0)
                return cli_report(cli->command->name, &err);
        if (cli->json) {
                op_cleanup_json json_t *result =
                        op_manifest_json(to.ref.repo, to.ref.tag, &done.info);
                remote_result_add(result, &done);
                return cli_print_json(result);
        }
        printf("%s %s\n", cli->operands[1], cas_digest_text(&done.info.digest, digest));
        return cli_finish();
}

const struct cli_command cmd_copy = {
        .name = "copy",
        .synopsis = "HOST/NAME[:TAG][@DIGEST] HOST/NAME[:TAG]",
        .summary = "copy an image from one registry to another",
        .description =
                "Copies an image with exactly its bytes, of all its platforms, past the store: "
                "layers are streamed from one registry to the other, side by side, and mounted "
                "where both are one. What the second has already does not travel. A connection "
                "that breaks, on either side, is gone on with. The image has its name there "
                "last.\n\n"
                "Credentials, certificates and proxies are those of lamina-pull(1), of both "
                "registries; proxies are those of the environment.",
        .examples = "lamina copy docker.io/library/alpine:3 registry.example.org/base/alpine:3",
        .options = options,
        .args_bytes = sizeof(struct copy_args),
        .operands_min = 2,
        .operands_max = 2,
        .run = run,
};
