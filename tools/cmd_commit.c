/* SPDX-License-Identifier: Apache-2.0 */
/* lamina commit: a sandbox's changes become a layer of an image. */
#include <stdio.h>

#include "tools/access.h"
#include "tools/image_options.h"
#include "tools/ops_json.h"
#include "tools/progressline.h"
#include "tools/sandboxes.h"

struct commit_args {
        struct image_options image;
        const char *message;
        const char *author;
        const char *base;
        bool upper;
};

#define FIELD(name) offsetof(struct commit_args, name)
static const struct cli_option options[] = {
        {"upper", 0, CLI_FLAG, FIELD(upper), NULL,
         "DIR is an upper directory, though it be a mount point too"},
        {"message", 'm', CLI_STRING, FIELD(message), "TEXT", "a comment in the image's history"},
        {"author", 'a', CLI_STRING, FIELD(author), "TEXT", "who made it"},
        {"base", 0, CLI_STRING, FIELD(base), "DIGEST",
         "the manifest of the image below, where the upper directory does not say it (those of "
         "old versions)"},
        IMAGE_OPTIONS(FIELD(image)),
        {0},
};

static int call_args(const struct cli *cli, const struct commit_args *a, const char *config,
                     const struct sandbox_arg *s, json_t *call, struct cas_err *err)
{
        char manifest[CAS_DIGEST_TEXT_BYTES];
        if (s->mounted && !a->base && s->info->manifest.alg == CAS_DIGEST_NONE &&
            access_arg(call, "manifest", cas_digest_text(&s->mount->manifest, manifest), err) < 0)
                return -(int)err->code;
        if (access_arg(call, "upper", s->upper, err) < 0 ||
            access_arg(call, "name", cli->operands[1], err) < 0 ||
            access_arg(call, "manifest", a->base, err) < 0 ||
            access_arg(call, "config", config, err) < 0 ||
            access_arg(call, "comment", a->message, err) < 0 ||
            access_arg(call, "author", a->author, err) < 0)
                return -(int)err->code;
        return 0;
}

static int show(const json_t *result)
{
        json_int_t sockets = json_integer_value(json_object_get(result, "sockets"));
        printf("%s %s\n", json_string_value(json_object_get(result, "name")),
               json_string_value(json_object_get(result, "digest")));
        if (sockets > 0)
                fprintf(stderr, "lamina: %lld sockets were left out: layers cannot hold them\n",
                        (long long)sockets);
        return cli_finish();
}

static int run(const struct cli *cli, void *args)
{
        struct commit_args *a = args;
        struct cas_err err = CAS_ERR_INIT;
        mounting_cleanup struct mounting m = {0};
        sandbox_cleanup_arg struct sandbox_arg s = {0};
        cas_cleanup_free char *config = NULL;
        op_cleanup_json json_t *call = json_object();
        op_cleanup_json json_t *result = NULL;
        int rc = image_options_config(&a->image, &config, &err);
        image_options_release(&a->image);
        if (rc < 0 || mounting_open(cli, &m, &err) < 0 ||
            sandbox_arg_find(&m, cli->operands[0], a->upper, &s, &err) < 0 ||
            call_args(cli, a, config, &s, call, &err) < 0)
                return cli_report(cli->command->name, &err);
        cli_cleanup_progress struct cli_progress *progress = cli_progress_new();
        rc = access_call(m.store, "commit", call, cli_progress_sink(progress), &result, &err);
        if (rc < 0)
                return cli_report(cli->command->name, &err);
        return cli->json ? cli_print_json(result) : show(result);
}

const struct cli_command cmd_commit = {
        .name = "commit",
        .synopsis = "DIR NAME:TAG",
        .summary = "make an image of what a sandbox changed",
        .description =
                "Makes an image out of the one that DIR stands on and a layer of what was "
                "changed in it. DIR is where a writable mount is, or the directory that keeps "
                "its changes, mounted or not. A mount may be in use meanwhile: then the layer "
                "is of no single instant, and a file that becomes shorter while it is read ends "
                "the commit.\n\n"
                "The layer is in the form that `lamina pack` writes: the same changes give the "
                "same bytes. The image is dated by what was changed last. The base's "
                "configuration is kept but for what the options say; a new entrypoint without "
                "--cmd takes the base's command away. Where nothing was changed, the image has "
                "the base's layers, and an entry in its history.",
        .examples = "lamina commit /mnt web:2.0 --message 'certificates'\n"
                    "lamina commit /srv/changes web:2.0 --env MODE=test",
        .options = options,
        .args_bytes = sizeof(struct commit_args),
        .operands_min = 2,
        .operands_max = 2,
        .run = run,
};
