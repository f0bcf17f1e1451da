/* SPDX-License-Identifier: Apache-2.0 */
/* lamina cluster: this store as one of several nodes over one bucket. */
#include <stdio.h>
#include <time.h>

#include "tiering/cluster.h"
#include "tiering/tierset.h"
#include "tools/access.h"
#include "tools/ops_json.h"
#include "tools/paths.h"

struct cluster_args {
        const char *endpoint, *region, *style, *ca, *profile, *name;
        uint64_t fresh_s, grace_s, gc_s;
        bool force;
};

static const struct cli_option options[] = {
        {"endpoint", 0, CLI_STRING, offsetof(struct cluster_args, endpoint), "URL",
         "join: https://HOST[:PORT] of the store; default: AWS's of the region"},
        {"region", 0, CLI_STRING, offsetof(struct cluster_args, region), "NAME",
         "join: default: us-east-1"},
        {"style", 0, CLI_STRING, offsetof(struct cluster_args, style), "STYLE",
         "join: path (HOST/BUCKET/KEY) or virtual (BUCKET.HOST/KEY); default: path with an "
         "endpoint, else virtual"},
        {"ca", 0, CLI_STRING, offsetof(struct cluster_args, ca), "FILE",
         "join: certificates to trust, PEM; default: the system's"},
        {"profile", 0, CLI_STRING, offsetof(struct cluster_args, profile), "NAME",
         "join: of the shared files of credentials; default: environment, files, metadata"},
        {"name", 0, CLI_STRING, offsetof(struct cluster_args, name), "TEXT",
         "join: what people call this node; default: the host's name"},
        {"fresh", 0, CLI_NUMBER, offsetof(struct cluster_args, fresh_s), "SECONDS",
         "join, first node: a node believes what it knows of a tag for so long; default: 5"},
        {"grace", 0, CLI_NUMBER, offsetof(struct cluster_args, grace_s), "SECONDS",
         "join, first node: what nothing needs stays for so long; default: 86400"},
        {"gc-every", 0, CLI_NUMBER, offsetof(struct cluster_args, gc_s), "SECONDS",
         "join, first node: from one collection to the next; default: 3600"},
        {"force", 0, CLI_FLAG, offsetof(struct cluster_args, force), NULL,
         "leave: also when the bucket cannot be reached"},
        {0},
};

static char *copy_of(const char *text)
{
        return text ? cas_xstrdup(text) : NULL;
}

static int config_of(const struct cluster_args *a, const char *where,
                     struct tier_cluster_config *out, struct cas_err *err)
{
        out->s3.endpoint = copy_of(a->endpoint);
        out->s3.region = copy_of(a->region);
        out->s3.credentials = copy_of(a->profile);
        if (a->ca && path_absolute(a->ca, &out->s3.ca_file, err) < 0)
                return -(int)err->code;
        out->s3.path_style = a->style ? strcmp(a->style, "path") == 0 : a->endpoint != NULL;
        return tier_cluster_config_where(out, where, err);
}

/* The store, which nobody else may own, without what it shares. */
static int open_alone(const struct cli *cli, struct cas_store **out, struct cas_err *err)
{
        cas_cleanup_free char *path = NULL;
        if (path_store(cli->store_option, &path, err) < 0 || access_nobody(path, err) < 0)
                return -(int)err->code;
        const struct cas_store_config config = {
                .path = path, .backend_open = tier_set_open, .lock_wait_ms = ACCESS_WAIT_MS};
        return cas_store_open(&config, out, err);
}

static int join(const struct cli *cli, const struct cluster_args *a, struct cas_err *err)
{
        struct tier_cluster_config config = {0};
        struct tier_cluster_settings settings = {
                .fresh_s = a->fresh_s, .grace_s = a->grace_s, .gc_s = a->gc_s};
        cas_cleanup_store struct cas_store *s = NULL;
        char host[256] = "";
        (void)gethostname(host, sizeof(host) - 1);
        int rc = config_of(a, cli->operands[1], &config, err);
        if (rc == 0)
                rc = open_alone(cli, &s, err);
        if (rc == 0)
                rc = tier_cluster_join(s, &config, a->name ? a->name : host, &settings, err);
        if (rc == 0 && cli->json) {
                op_cleanup_json json_t *result = json_pack(
                        "{s:s, s:I, s:I, s:I, s:I}", "where", config.where, "node",
                        (json_int_t)config.node, "fresh", (json_int_t)settings.fresh_s, "grace",
                        (json_int_t)settings.grace_s, "gcEvery", (json_int_t)settings.gc_s);
                (void)cli_print_json(result);
        } else if (rc == 0) {
                printf("node %llu of %s\n", (unsigned long long)config.node, config.where);
        }
        tier_cluster_config_release(&config);
        return rc;
}

static int leave(const struct cli *cli, const struct cluster_args *a, struct cas_err *err)
{
        cas_cleanup_store struct cas_store *s = NULL;
        int rc = open_alone(cli, &s, err);
        if (rc == 0)
                rc = tier_cluster_leave(s, a->force, err);
        if (rc == 0 && cli->json)
                printf("{}\n");
        return rc;
}

static long long number(const json_t *object, const char *key)
{
        return (long long)json_integer_value(json_object_get(object, key));
}

static const char *text(const json_t *object, const char *key)
{
        const char *value = json_string_value(json_object_get(object, key));
        return value ? value : "";
}

static int show_status(const struct cli *cli, const json_t *result)
{
        (void)cli;
        size_t i;
        const json_t *node;
        printf("node %lld of %s\ntags are believed for %lld s, the grace is %lld s\n",
               number(result, "node"), text(result, "where"), number(result, "fresh"),
               number(result, "grace"));
        json_array_foreach(json_object_get(result, "nodes"), i, node)
        {
                char when[32] = "never";
                time_t seen = (time_t)number(node, "seen");
                struct tm at;
                if (gmtime_r(&seen, &at))
                        (void)strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &at);
                printf("%4lld  %-24s  started %s\n", number(node, "node"), text(node, "name"),
                       when);
        }
        if (text(result, "collector")[0])
                printf("%s collects\n", text(result, "collector"));
        return cli_finish();
}

static int show_gc(const struct cli *cli, const json_t *result)
{
        char bytes[24];
        (void)cli;
        printf("%lld links and %lld blobs removed (%s), %lld and %lld condemned, %lld uploads "
               "ended\n",
               number(result, "linksRemoved"), number(result, "blobsRemoved"),
               cli_bytes_text((uint64_t)number(result, "bytesRemoved"), bytes, sizeof(bytes)),
               number(result, "linksCondemned"), number(result, "blobsCondemned"),
               number(result, "uploadsRemoved"));
        return cli_finish();
}

static int run(const struct cli *cli, void *args)
{
        const struct cluster_args *a = args;
        const char *what = cli->operands[0];
        struct cas_err err = CAS_ERR_INIT;
        bool joins = strcmp(what, "join") == 0;
        if (cli->operand_count != (joins ? 2u : 1u))
                return cli_usage_error(cli, "join s3://BUCKET/PREFIX, status, leave or gc");
        if (a->style && strcmp(a->style, "path") != 0 && strcmp(a->style, "virtual") != 0)
                return cli_usage_error(cli, "--style: path or virtual");
        if (strcmp(what, "status") == 0)
                return access_command(cli, "cluster-status", json_object(), show_status);
        if (strcmp(what, "gc") == 0)
                return access_command(cli, "cluster-gc", json_object(), show_gc);
        if (!joins && strcmp(what, "leave") != 0)
                return cli_usage_error(cli, "join s3://BUCKET/PREFIX, status, leave or gc");
        int rc = joins ? join(cli, a, &err) : leave(cli, a, &err);
        return rc < 0 ? cli_report(cli->command->name, &err) : cli_finish();
}

const struct cli_command cmd_cluster = {
        .name = "cluster",
        .synopsis = "join s3://BUCKET/PREFIX | status | leave | gc",
        .summary = "share one bucket with other nodes",
        .description =
                "Several stores, each served by its own lamina-serve(1), share the images in one "
                "bucket of an S3-compatible store: what is pushed to one is there for all, an "
                "upload that was begun on one goes on on another, and a node that is lost takes "
                "nothing with it. A node's store is a cache of the bucket.\n\n"
                "join makes this store a node. The store must not be in use, and must have no "
                "repositories of its own. What the bucket's store can do is tried out first: one "
                "that does not honour conditional writes is refused, since nodes would overwrite "
                "each other's tags. The first node's settings are those of all. Credentials are "
                "looked for at each start: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the shared "
                "files, instance metadata.\n\n"
                "status lists the nodes. gc removes from the bucket what no repository needs, as "
                "the nodes do by themselves from time to time. leave makes the store a plain one "
                "again, with what it had cached.\n\n"
                "A node that cannot reach the bucket answers from what it knows for as long as "
                "--fresh says, then with 503, and takes no pushes.",
        .examples = "lamina cluster join s3://images/prod --endpoint https://s3.example\n"
                    "lamina serve --listen 0.0.0.0:5000",
        .options = options,
        .args_bytes = sizeof(struct cluster_args),
        .operands_min = 1,
        .operands_max = 2,
        .run = run,
};
