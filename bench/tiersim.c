/* SPDX-License-Identifier: Apache-2.0 */
/* Replays traces of reads against the policies of tiering/evictor.h, and bounds from the future.
 *
 *   tiersim [--policy NAME,…] [--capacity SHARE,…] [--by object|block|pack] [--tiers A,B]
 *           [--bounds] [--json FILE] TRACE…
 *
 * SHARE is of the bytes of all that the trace reads. --tiers: two fast tiers of these shares, the
 * second takes what goes from the first. One line for each trace, capacity and policy: hits of
 * reads and of bytes in percent (scans left out), and bytes written to the fast tier as a share of
 * those read. With --bounds also those, and by pack placement by heat; tiersim.h says what they
 * are. */
#include "bench/tiersim.h"

#include <getopt.h>
#include <stdio.h>
#include <time.h>

#include "cas/base.h"
#include "tiering/evictor_int.h"

#define LIST_MAX 16

struct options {
        bool policies[TIER_EVICT_KINDS];
        double capacities[LIST_MAX], tiers[2];
        unsigned capacity_count;
        enum sim_unit unit;
        bool bounds;
        FILE *json;
        bool json_began;
};

static const char *const units[] = {"object", "block", "pack"};

static struct tier_key key_of(uint32_t n)
{
        return (struct tier_key){.hi = n / 64, .lo = (uint64_t)(n % 64) << 18};
}

/* ---- one cache, or two ---- */

struct chain {
        const struct sim_keys *keys;
        struct tier_evictor *fast, *next; /* next: NULL, or what takes what goes from fast */
        struct sim_result *fast_result, *next_result;
};

static void gone(void *arg, const struct tier_key *key CAS_UNUSED, uint64_t bytes)
{
        ((struct sim_result *)arg)->evicted_bytes += bytes;
}

static void sinks(void *arg, const struct tier_key *key, uint64_t bytes)
{
        struct chain *c = arg;
        c->fast_result->evicted_bytes += bytes;
        if (c->next && tier_evictor_admit(c->next, key, bytes, false, gone, c->next_result))
                c->next_result->written_bytes += bytes;
}

static void replay(struct chain *c)
{
        for (size_t i = 0; i < c->keys->count; i++) {
                uint32_t n = c->keys->reads[i];
                struct tier_key key = key_of(n);
                uint64_t bytes = c->keys->bytes[n];
                struct sim_result *r = c->fast_result;
                r->reads += !c->keys->scan[i];
                r->read_bytes += c->keys->scan[i] ? 0 : bytes;
                if (tier_evictor_hit(c->fast, &key)) {
                        r->hits += !c->keys->scan[i];
                        r->hit_bytes += c->keys->scan[i] ? 0 : bytes;
                        continue;
                }
                if (c->next && tier_evictor_hit(c->next, &key)) {
                        c->next_result->hits += !c->keys->scan[i];
                        c->next_result->hit_bytes += c->keys->scan[i] ? 0 : bytes;
                }
                if (tier_evictor_admit(c->fast, &key, bytes, false, sinks, c)) {
                        r->written_bytes += bytes;
                        if (c->next)
                                tier_evictor_remove(c->next, &key);
                }
        }
}

/* ---- output ---- */

static double percent(uint64_t part, uint64_t whole)
{
        return whole ? 100.0 * (double)part / (double)whole : 0;
}

static void show(struct options *o, const char *trace, double capacity, const char *who,
                 const struct sim_result *r, double seconds)
{
        (void)printf("%-44.44s %-6s %6.2f %-12s %7.2f %7.2f %8.2f %6.1f\n", trace, units[o->unit],
                     capacity * 100, who, percent(r->hits, r->reads),
                     percent(r->hit_bytes, r->read_bytes), percent(r->written_bytes, r->read_bytes),
                     seconds);
        (void)fflush(stdout);
        if (!o->json)
                return;
        (void)fprintf(o->json,
                      "%s\n{\"trace\": \"%s\", \"unit\": \"%s\", \"capacity\": %g, \"policy\": "
                      "\"%s\", \"hit\": %.6f, \"byte_hit\": %.6f, \"written\": %.6f, "
                      "\"evicted\": %.6f, \"reads\": %ju, \"read_bytes\": %ju}",
                      o->json_began ? "," : "[", trace, units[o->unit], capacity, who,
                      percent(r->hits, r->reads) / 100, percent(r->hit_bytes, r->read_bytes) / 100,
                      percent(r->written_bytes, r->read_bytes) / 100,
                      percent(r->evicted_bytes, r->read_bytes) / 100, (uintmax_t)r->reads,
                      (uintmax_t)r->read_bytes);
        o->json_began = true;
}

static double now_s(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
        return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t share_of(const struct sim_keys *k, double share)
{
        return (uint64_t)((double)k->total_bytes * share);
}

static void try_policy(struct options *o, const char *trace, const struct sim_keys *k,
                       double capacity, enum tier_evictor_kind kind)
{
        uint64_t expected = k->total_bytes / cas_max_u64(k->distinct, 1);
        struct sim_result result = {0}, next = {0};
        struct chain c = {.keys = k, .fast_result = &result, .next_result = &next};
        bool two = o->tiers[0] > 0;
        double began = now_s();
        c.fast = tier_evictor_new_seeded(kind, share_of(k, two ? o->tiers[0] : capacity), expected,
                                         1);
        if (two)
                c.next = tier_evictor_new_seeded(kind, share_of(k, o->tiers[1]), expected, 2);
        replay(&c);
        show(o, trace, two ? o->tiers[0] : capacity, tier_evictor_name(kind), &result,
             now_s() - began);
        if (two) {
                next.reads = result.reads;
                next.read_bytes = result.read_bytes;
                show(o, trace, o->tiers[1], tier_evictor_name(kind), &next, 0);
        }
        tier_evictor_free(c.fast);
        tier_evictor_free(c.next);
}

static void try_bounds(struct options *o, const char *trace, const struct sim_keys *k,
                       double capacity)
{
        static const struct {
                const char *name;
                void (*run)(const struct sim_keys *k, uint64_t capacity, struct sim_result *out);
        } bounds[] = {{"belady bytes", sim_bound_bytes},
                      {"bound hits", sim_bound_hits},
                      {"offline", sim_offline},
                      {"static", sim_static}};
        for (size_t i = 0; i < CAS_COUNT(bounds); i++) {
                struct sim_result result;
                double began = now_s();
                bounds[i].run(k, share_of(k, capacity), &result);
                show(o, trace, capacity, bounds[i].name, &result, now_s() - began);
        }
}

/* Heat that halves in a hundredth, a tenth and half of the trace. */
static void try_heat(struct options *o, const char *trace, const struct sim_keys *k,
                     double capacity)
{
        static const struct {
                const char *name;
                double part;
        } lives[] = {{"heat 1/100", 0.01}, {"heat 1/10", 0.1}, {"heat 1/2", 0.5}};
        for (size_t i = 0; i < CAS_COUNT(lives); i++) {
                struct sim_result result;
                double began = now_s();
                sim_heat(k, share_of(k, capacity), lives[i].part * (double)k->count, &result);
                show(o, trace, capacity, lives[i].name, &result, now_s() - began);
        }
}

static void try_trace(struct options *o, const char *name)
{
        struct sim_trace t;
        struct sim_keys k;
        const char *slash = strrchr(name, '/');
        const char *title = slash && !strchr(name, ':') ? slash + 1 : name;
        sim_trace_get(&t, name);
        sim_keys_make(&k, &t, o->unit);
        free(t.reads);
        (void)printf("# %s: %zu reads, %u keys, %ju MiB\n", title, k.count, k.distinct,
                     (uintmax_t)(k.total_bytes >> 20));
        for (unsigned c = 0; c < o->capacity_count; c++) {
                for (unsigned p = 0; p < TIER_EVICT_KINDS; p++)
                        if (o->policies[p])
                                try_policy(o, title, &k, o->capacities[c],
                                           (enum tier_evictor_kind)p);
                if (o->bounds)
                        try_bounds(o, title, &k, o->capacities[c]);
                if (o->unit == SIM_PACK)
                        try_heat(o, title, &k, o->capacities[c]);
        }
        sim_keys_release(&k);
}

/* ---- options ---- */

static void usage(void)
{
        (void)fputs("tiersim [--policy NAME,...] [--capacity SHARE,...] [--by object|block|pack]\n"
                    "        [--tiers A,B] [--bounds] [--json FILE] TRACE...\n",
                    stderr);
        exit(2);
}

static unsigned numbers(const char *text, double *out, unsigned max)
{
        unsigned count = 0;
        for (char *end; *text && count < max; text = *end == ',' ? end + 1 : end) {
                out[count++] = strtod(text, &end);
                if (end == text)
                        usage();
        }
        return count;
}

static void parse_policies(struct options *o, const char *text)
{
        memset(o->policies, 0, sizeof(o->policies));
        while (*text) {
                size_t len = strcspn(text, ",");
                cas_cleanup_free char *name = cas_xstrndup(text, len);
                enum tier_evictor_kind kind;
                if (!tier_evictor_parse(name, &kind))
                        usage();
                o->policies[kind] = true;
                text += len + (text[len] == ',');
        }
}

static void parse_unit(struct options *o, const char *text)
{
        for (unsigned i = 0; i < CAS_COUNT(units); i++) {
                if (strcmp(units[i], text) == 0) {
                        o->unit = (enum sim_unit)i;
                        return;
                }
        }
        usage();
}

int main(int argc, char **argv)
{
        static const struct option longs[] = {{"policy", required_argument, NULL, 'p'},
                                              {"capacity", required_argument, NULL, 'c'},
                                              {"by", required_argument, NULL, 'b'},
                                              {"tiers", required_argument, NULL, 't'},
                                              {"bounds", no_argument, NULL, 'B'},
                                              {"json", required_argument, NULL, 'j'},
                                              {0}};
        struct options o = {.unit = SIM_BLOCK, .capacities = {0.1}, .capacity_count = 1};
        memset(o.policies, 1, sizeof(o.policies));
        for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
                switch (c) {
                case 'p':
                        parse_policies(&o, optarg);
                        break;
                case 'c':
                        o.capacity_count = numbers(optarg, o.capacities, LIST_MAX);
                        break;
                case 'b':
                        parse_unit(&o, optarg);
                        break;
                case 't':
                        if (numbers(optarg, o.tiers, 2) != 2)
                                usage();
                        break;
                case 'B':
                        o.bounds = true;
                        break;
                case 'j':
                        o.json = fopen(optarg, "we");
                        if (!o.json)
                                usage();
                        break;
                default:
                        usage();
                }
        }
        if (optind == argc)
                usage();
        (void)printf("%-44s %-6s %6s %-12s %7s %7s %8s %6s\n", "trace", "by", "cap %", "policy",
                     "hit %", "bytes %", "written", "s");
        for (int i = optind; i < argc; i++)
                try_trace(&o, argv[i]);
        if (o.json) {
                (void)fputs(o.json_began ? "\n]\n" : "[]\n", o.json);
                return fclose(o.json) != 0;
        }
        return 0;
}
