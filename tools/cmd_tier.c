/* SPDX-License-Identifier: Apache-2.0 */
/* lamina tier: the devices and buckets that packs lie on. */
#include <stdio.h>
#include <time.h>

#include "registry/reg_config.h"
#include "tools/access.h"
#include "tools/ops_json.h"
#include "tools/paths.h"

struct tier_args {
        const char *class, *capacity, *high, *low, *density, *cache, *rate, *cool_after;
        const char *endpoint, *region, *style, *ca, *sse, *sse_key, *profile;
        bool force, stop, packs;
};

#define FIELD(f) offsetof(struct tier_args, f)
static const struct cli_option options[] = {
        {"class", 0, CLI_STRING, FIELD(class), "CLASS",
         "add, set: nvme, ssd, hdd or remote, from fast to slow; default: ssd, of s3://… remote"},
        {"capacity", 0, CLI_STRING, FIELD(capacity), "SIZE",
         "add, set: never more than this lies there (K, M, G, T); 0: what the file system has, but "
         "for a hundredth; default: 0"},
        {"high", 0, CLI_STRING, FIELD(high), "PERCENT",
         "add, set: of the capacity, above which packs sink to the next tier; default: 90"},
        {"low", 0, CLI_STRING, FIELD(low), "PERCENT",
         "add, set: of the capacity, down to which they do; default: 80"},
        {"density", 0, CLI_STRING, FIELD(density), "WORD",
         "add, set: fast, default or cold: how packs are written that sink to it; default: by the "
         "class"},
        {"cache", 0, CLI_STRING, FIELD(cache), "SIZE",
         "add, set: of the capacity, for blocks of slower tiers; default: 0"},
        {"rate", 0, CLI_STRING, FIELD(rate), "SIZE",
         "add, set: bytes a second that the mover may read and write there; default: no bound"},
        {"cool-after", 0, CLI_STRING, FIELD(cool_after), "TIME",
         "add, set: packs not read for so long (60, 12h, 7d) sink even when there is room; 0: they "
         "do not; default: 0"},
        {"endpoint", 0, CLI_STRING, FIELD(endpoint), "URL",
         "add: of a bucket: where the store of objects answers; default: AWS's of the region"},
        {"region", 0, CLI_STRING, FIELD(region), "NAME", "add: of a bucket; default: us-east-1"},
        {"style", 0, CLI_STRING, FIELD(style), "WORD",
         "add: of a bucket's addresses: path (HOST/BUCKET/KEY) or virtual (BUCKET.HOST/KEY); "
         "default: virtual"},
        {"ca", 0, CLI_STRING, FIELD(ca), "FILE",
         "add: of a bucket: PEM file of who is trusted; default: the system's"},
        {"sse", 0, CLI_STRING, FIELD(sse), "WORD",
         "add: of a bucket: encryption by the server, AES256 or aws:kms"},
        {"sse-key", 0, CLI_STRING, FIELD(sse_key), "ID", "add: of a bucket: the key of aws:kms"},
        {"profile", 0, CLI_STRING, FIELD(profile), "NAME",
         "add: of a bucket: the profile of ~/.aws/credentials; default: the environment, those "
         "files, the instance's metadata"},
        {"force", 0, CLI_FLAG, FIELD(force), NULL,
         "remove: forget a tier that is lost with what lies there, and tell what depends on it"},
        {"stop", 0, CLI_FLAG, FIELD(stop), NULL,
         "evacuate: no more of it: the tier takes packs again"},
        {"packs", 0, CLI_FLAG, FIELD(packs), NULL, "list: packs, too, with their heat (--json)"},
        {0},
};

/* ---- arguments ---- */

static int size_arg(json_t *settings, const char *key, const char *text, struct cas_err *err)
{
        uint64_t bytes;
        if (!text)
                return 0;
        if (!cli_bytes_parse(text, &bytes))
                return cas_fail(err, CAS_E_INVALID, "--%s: a size such as 500G, not %s", key, text);
        cas_cleanup_free char *number = cas_xasprintf("%llu", (unsigned long long)bytes);
        json_object_set_new(settings, key, json_string(number));
        return 0;
}

static int time_arg(json_t *settings, const char *text, struct cas_err *err)
{
        uint64_t seconds;
        if (!text)
                return 0;
        if (strcmp(text, "0") == 0)
                seconds = 0;
        else if (reg_config_seconds(text, &seconds, err) < 0)
                return cas_err_wrap(err, "--cool-after");
        cas_cleanup_free char *number = cas_xasprintf("%llu", (unsigned long long)seconds);
        json_object_set_new(settings, "cool_after", json_string(number));
        return 0;
}

static int settings_fill(const struct tier_args *a, json_t *settings, struct cas_err *err)
{
        const struct {
                const char *key, *text;
        } texts[] = {{"class", a->class},       {"high", a->high},      {"low", a->low},
                     {"density", a->density},   {"region", a->region},  {"style", a->style},
                     {"endpoint", a->endpoint}, {"ca", a->ca},          {"sse", a->sse},
                     {"sse_key", a->sse_key},   {"profile", a->profile}};
        for (size_t i = 0; i < CAS_COUNT(texts); i++) {
                if (access_arg(settings, texts[i].key, texts[i].text, err) < 0)
                        return -(int)err->code;
        }
        if (size_arg(settings, "capacity", a->capacity, err) < 0 ||
            size_arg(settings, "cache", a->cache, err) < 0 ||
            size_arg(settings, "rate", a->rate, err) < 0 ||
            time_arg(settings, a->cool_after, err) < 0)
                return -(int)err->code;
        return 0;
}

/* ---- what is shown ---- */

static long long count(const json_t *o, const char *key)
{
        return json_integer_value(json_object_get(o, key));
}

static const char *text(const json_t *o, const char *key)
{
        const char *s = json_string_value(json_object_get(o, key));
        return s ? s : "";
}

static void size_print(const json_t *o, const char *key, int width)
{
        char bytes[24];
        printf("%*s  ", width, cli_bytes_text((uint64_t)count(o, key), bytes, sizeof(bytes)));
}

static void mover_print(const json_t *mover, const json_t *tiers)
{
        char due[24], rate[24];
        const json_t *moving = json_object_get(mover, "moving");
        printf("mover: %s", text(mover, "state"));
        if (json_is_object(moving)) {
                const char *to = "?";
                for (size_t i = 0; i < json_array_size(tiers); i++) {
                        const json_t *t = json_array_get(tiers, i);
                        if (count(t, "id") == count(moving, "to"))
                                to = text(t, "name");
                }
                printf(" pack %s to %s (%s)", text(moving, "pack"), to, text(moving, "why"));
        }
        if (count(mover, "duePacks") > 0)
                printf(", %lld packs to go (%s, the oldest for %lld s)", count(mover, "duePacks"),
                       cli_bytes_text((uint64_t)count(mover, "dueBytes"), due, sizeof(due)),
                       (long long)time(NULL) - count(mover, "dueSince"));
        if (count(mover, "bytesPerSecond") > 0)
                printf(", %s/s", cli_bytes_text((uint64_t)count(mover, "bytesPerSecond"), rate,
                                                sizeof(rate)));
        printf("\n");
        if (text(mover, "lastFailure")[0])
                printf("mover: failed last with: %s\n", text(mover, "lastFailure"));
}

static int list_show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        const json_t *tiers = json_object_get(result, "tiers");
        printf("%-16s %-7s %-8s %10s  %10s  %10s  %10s  %-8s %s\n", "NAME", "CLASS", "STATE",
               "HOME", "OTHER", "CACHE", "CAPACITY", "DENSITY", "WHERE");
        for (size_t i = 0; i < json_array_size(tiers); i++) {
                const json_t *t = json_array_get(tiers, i);
                printf("%-16s %-7s %-8s ", text(t, "name"), text(t, "class"), text(t, "state"));
                size_print(t, "homeBytes", 10);
                size_print(t, "otherBytes", 10);
                size_print(t, "cachedBytes", 10);
                if (count(t, "capacity") > 0)
                        size_print(t, "capacity", 10);
                else
                        printf("%10s  ", "-");
                printf("%-8s %s\n", text(t, "density"),
                       text(t, "where")[0] ? text(t, "where") : "(the store)");
        }
        for (size_t i = 0; i < json_array_size(tiers); i++) {
                const json_t *t = json_array_get(tiers, i);
                if (text(t, "why")[0])
                        printf("%s: %s\n", text(t, "name"), text(t, "why"));
        }
        mover_print(json_object_get(result, "mover"), tiers);
        return cli_finish();
}

static int removed_show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        const json_t *images = json_object_get(result, "images");
        if (count(result, "packs") == 0)
                return CLI_OK;
        printf("%lld packs are lost with it, and these images depend on them:\n",
               count(result, "packs"));
        for (size_t i = 0; i < json_array_size(images); i++)
                printf("%s\n", json_string_value(json_array_get(images, i)));
        return cli_finish();
}

static int moved_show(const struct cli *cli, const json_t *result)
{
        char before[24], after[24];
        printf("moved %lld packs, %s", count(result, "packs"),
               cli_bytes_text((uint64_t)count(result, "bytes"), before, sizeof(before)));
        if (count(result, "recoded") > 0)
                printf(" that take %s now",
                       cli_bytes_text((uint64_t)count(result, "bytesAfter"), after, sizeof(after)));
        printf("\n");
        if (strcmp(cli->operands[0], "evacuate") == 0 && count(result, "packs") >= 0)
                printf("`lamina tier remove %s` takes it off the list\n", cli->operands[1]);
        return cli_finish();
}

static int explained_show(const struct cli *cli, const json_t *result)
{
        (void)cli;
        const json_t *pieces = json_object_get(result, "pieces");
        if (text(result, "blob")[0])
                printf("%s\n", text(result, "blob"));
        for (size_t i = 0; i < json_array_size(pieces); i++) {
                const json_t *p = json_array_get(pieces, i);
                char size[24], stored[24];
                printf("pack %s on %s (%s)%s%s\n", text(p, "pack"), text(p, "tier"),
                       text(p, "state"), text(p, "where")[0] ? " at " : "", text(p, "where"));
                printf("  %s of it, %s in all, density %s%s\n",
                       cli_bytes_text((uint64_t)count(p, "storedBytes"), stored, sizeof(stored)),
                       cli_bytes_text((uint64_t)count(p, "packBytes"), size, sizeof(size)),
                       text(p, "density"),
                       json_is_true(json_object_get(p, "open")) ? ", being written to" : "");
                printf("  heat %.2f", json_number_value(json_object_get(p, "heat")));
                if (count(p, "used") > 0)
                        printf(", read or brought there %lld s ago",
                               (long long)time(NULL) - count(p, "used"));
                printf("\n  %s\n", text(p, "next"));
        }
        return cli_finish();
}

/* ---- actions ---- */

/* A directory that is there, or will be, below one that is. */
static int where_arg(const char *operand, char **out, struct cas_err *err)
{
        if (strncmp(operand, "s3://", 5) == 0 || operand[0] == '/') {
                *out = cas_xstrdup(operand);
                return 0;
        }
        cas_cleanup_free char *here = getcwd(NULL, 0);
        if (!here)
                return cas_fail(err, CAS_E_IO, "the current directory has no name");
        *out = cas_xasprintf("%s/%s", here, operand);
        return 0;
}

static int add(const struct cli *cli, const struct tier_args *a)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *where = NULL;
        op_cleanup_json json_t *settings = json_object();
        op_cleanup_json json_t *call = json_object();
        if (where_arg(cli->operands[2], &where, &err) < 0)
                return cli_report("tier", &err);
        if (where[0] != '/')
                json_object_set_new(settings, "class", json_string("remote"));
        if (settings_fill(a, settings, &err) < 0 ||
            access_arg(settings, "where", where, &err) < 0 ||
            access_arg(call, "name", cli->operands[1], &err) < 0)
                return cli_usage_error(cli, "%s", err.msg);
        json_object_set(call, "settings", settings);
        return access_command(cli, "tier-add", cas_steal(&call), list_show);
}

static int set(const struct cli *cli, const struct tier_args *a)
{
        struct cas_err err = CAS_ERR_INIT;
        op_cleanup_json json_t *settings = json_object();
        op_cleanup_json json_t *call = json_object();
        if (settings_fill(a, settings, &err) < 0 ||
            access_arg(call, "name", cli->operands[1], &err) < 0)
                return cli_usage_error(cli, "%s", err.msg);
        json_object_set(call, "settings", settings);
        return access_command(cli, "tier-set", cas_steal(&call), list_show);
}

/* An operation with the operands as these members. */
static int plain(const struct cli *cli, const char *op, const char *first, const char *second,
                 json_t *flags, int (*show)(const struct cli *cli, const json_t *result))
{
        struct cas_err err = CAS_ERR_INIT;
        op_cleanup_json json_t *call = flags;
        if ((first && access_arg(call, first, cli->operands[1], &err) < 0) ||
            (second && access_arg(call, second, cli->operands[2], &err) < 0))
                return cli_usage_error(cli, "%s", err.msg);
        return access_command(cli, op, cas_steal(&call), show);
}

static int list(const struct cli *cli, const struct tier_args *a)
{
        return plain(cli, "tier-list", NULL, NULL, json_pack("{s:b}", "packs", a->packs),
                     list_show);
}

static int remove_(const struct cli *cli, const struct tier_args *a)
{
        return plain(cli, "tier-remove", "name", NULL, json_pack("{s:b}", "force", a->force),
                     removed_show);
}

static int move(const struct cli *cli, const struct tier_args *a)
{
        (void)a;
        return plain(cli, "tier-move", "what", "tier", json_object(), moved_show);
}

static int evacuate(const struct cli *cli, const struct tier_args *a)
{
        return plain(cli, "tier-evacuate", "name", NULL, json_pack("{s:b}", "stop", a->stop),
                     a->stop ? NULL : moved_show);
}

static int explain(const struct cli *cli, const struct tier_args *a)
{
        (void)a;
        return plain(cli, "tier-explain", "what", NULL, json_object(), explained_show);
}

static int pause_(const struct cli *cli, const struct tier_args *a)
{
        (void)a;
        return plain(cli, "tier-pause", NULL, NULL, json_pack("{s:b}", "paused", true), NULL);
}

static int resume(const struct cli *cli, const struct tier_args *a)
{
        (void)a;
        return plain(cli, "tier-pause", NULL, NULL, json_pack("{s:b}", "paused", false), NULL);
}

static const struct {
        const char *name, *operands;
        size_t operand_count;
        int (*run)(const struct cli *cli, const struct tier_args *a);
} actions[] = {
        {"add", "NAME DIR|s3://BUCKET/PREFIX", 2, add},
        {"set", "NAME", 1, set},
        {"remove", "NAME", 1, remove_},
        {"list", "", 0, list},
        {"move", "PACK|DIGEST|NAME TIER", 2, move},
        {"evacuate", "NAME", 1, evacuate},
        {"explain", "DIGEST|NAME|PACK", 1, explain},
        {"pause", "", 0, pause_},
        {"resume", "", 0, resume},
};

static int run(const struct cli *cli, void *args)
{
        const char *action = cli->operand_count ? cli->operands[0] : "list";
        for (size_t i = 0; i < CAS_COUNT(actions); i++) {
                if (strcmp(actions[i].name, action) != 0)
                        continue;
                size_t given = cli->operand_count ? cli->operand_count - 1 : 0;
                if (given != actions[i].operand_count)
                        return cli_usage_error(cli, "tier %s %s", action, actions[i].operands);
                return actions[i].run(cli, args);
        }
        return cli_usage_error(cli,
                               "no action %s: add, set, remove, list, move, evacuate, "
                               "explain, pause or resume",
                               action);
}

const struct cli_command cmd_tier = {
        .name = "tier",
        .synopsis = "[add|set|remove|list|move|evacuate|explain|pause|resume] [OPERAND]...",
        .summary = "spread the store over devices and buckets",
        .description =
                "A tier is a directory on a device, or a prefix of a bucket of an S3-compatible "
                "store. The store's own directory is one: it is called own, and `set` changes it "
                "as any. Packs are written to the fastest tier that has room. While the store has "
                "an owner (`lamina serve`, or any mount), its mover moves those that were read "
                "least to the next slower tier when theirs is above its high mark, and writes "
                "them anew as densely as that tier has them. What is read often from slow tiers "
                "is cached on the fastest tier with a --cache.\n\n"
                "add NAME DIR makes the directory, or takes an empty one, and marks it as this "
                "store's; with s3://BUCKET/PREFIX a place in a bucket. A directory that comes back "
                "empty, or is another store's, is refused, and left alone.\n\n"
                "set NAME changes settings. Where a tier lies is not changed: add another, and "
                "evacuate the first.\n\n"
                "list shows the tiers: home are packs that live there, other are blobs and "
                "uploads, which are in the store's own directory, cache are copies that may go. "
                "It is what is done when nothing is said.\n\n"
                "move moves a pack, or all packs that hold pieces of a blob, a file, a chunk or "
                "an image, to a tier.\n\n"
                "evacuate NAME moves all packs off a tier; nothing new goes there. It goes on "
                "where it was broken off, by itself while there is an owner. remove NAME then "
                "takes it off the list. A tier that is lost is removed by --force, which tells "
                "the images that had pieces there.\n\n"
                "explain tells where the pieces of something lie, how warm they are, and what "
                "would happen to them next.\n\n"
                "pause and resume stop the mover, and let it go on; that is kept over restarts. "
                "While it is paused, writes fail when there is no room.",
        .examples = "lamina tier add disk /mnt/disk/lamina --class hdd --capacity 2T\n"
                    "lamina tier set own --capacity 200G --cache 40G\n"
                    "lamina tier add far s3://bucket/lamina --endpoint https://s3.example\n"
                    "lamina tier explain web:1.0",
        .options = options,
        .args_bytes = sizeof(struct tier_args),
        .operands_min = 0,
        .operands_max = 3,
        .run = run,
};
