/* SPDX-License-Identifier: Apache-2.0 */
/* Traces that are made up.
 *
 *   zipf:s=0.9,keys=1000000,reads=4000000,sizes=0,scan=0
 *     reads independent of each other, of keys by Zipf's law. sizes=1: those of files, else equal.
 *
 *   images:s=0.9,images=1000000,events=40000,days=10,shift=10,rollouts=200,pulls=15,scan=0
 *     mounts and pulls of images by Zipf's law. An image is a layer of its own over a runtime over
 *     a base; a mount reads some of the files of each (the same ones mostly), a pull the whole of
 *     the layers that a node has not. Each day `shift` percent of the popular images change places
 *     with others, and `rollouts` images get a new layer of their own, pulled by some nodes each.
 *
 *   scan=1: after half of it, among the other reads, as much is read as was until then, once each
 *   (keys, or the layers of images one after the other), as a mirror does.
 *
 * The sizes of files are those of the 86,057 files of 39 real images; blocks are 256 KiB, stored as
 * 25 to 60 percent; packs are 64 MiB in order of creation. */
#include "bench/tiersim.h"

#include <math.h>
#include <stdio.h>

#include "cas/base.h"

#define BLOCK_BYTES (256u << 10)
#define PACK_BYTES (64u << 20)
#define BASES 300
#define RUNTIMES 3000
#define LAYER_STRIDE (48u << 20) /* between places of layers in packs, at least their length */
#define NODES_MAX 24

/* 64 equal shares of the files are between two neighbours; the last of them, by the logarithm. */
static const uint32_t file_sizes[] = {
        0,    34,   53,    71,    94,    119,   143,   157,   167,   187,   207,   240,    273,
        313,  355,  387,   422,   456,   490,   530,   567,   608,   658,   705,   758,    812,
        874,  945,  1026,  1075,  1121,  1187,  1272,  1359,  1472,  1585,  1700,  1847,   2006,
        2167, 2325, 2518,  2739,  2991,  3288,  3613,  3989,  4474,  4968,  5420,  6062,   6957,
        8142, 9062, 10807, 13131, 15037, 18116, 20381, 25312, 33535, 46968, 67982, 131685, 3600000};

static uint64_t file_bytes(uint64_t hash)
{
        unsigned q = (unsigned)(hash >> 8) % (CAS_COUNT(file_sizes) - 1);
        double part = (double)(hash >> 40) / (double)(1 << 24);
        double from = file_sizes[q] + 1.0, to = file_sizes[q + 1] + 1.0;
        return (uint64_t)(from * pow(to / from, part));
}

/* ---- Zipf ---- */

struct zipf {
        double *sums; /* owned */
        uint32_t count;
};

static void zipf_make(struct zipf *z, uint32_t count, double s)
{
        *z = (struct zipf){.sums = cas_xmalloc(count * sizeof(double)), .count = count};
        double sum = 0;
        for (uint32_t i = 0; i < count; i++)
                z->sums[i] = sum += pow(i + 1.0, -s);
}

static uint32_t zipf_at(const struct zipf *z, uint64_t random)
{
        double x = (double)(random >> 11) / (double)(UINT64_C(1) << 53) * z->sums[z->count - 1];
        uint32_t low = 0, high = z->count - 1;
        while (low < high) {
                uint32_t middle = low + (high - low) / 2;
                if (z->sums[middle] < x)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

static double option(const char *description, const char *name, double otherwise)
{
        size_t len = strlen(name);
        const char *at = strchr(description, ':');
        for (at = at ? at + 1 : ""; *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : "")
                if (strncmp(at, name, len) == 0 && at[len] == '=')
                        return strtod(at + len + 1, NULL);
        return otherwise;
}

static void make_zipf(struct sim_trace *t, const char *d)
{
        struct zipf z;
        uint32_t keys = (uint32_t)option(d, "keys", 1000000);
        uint64_t reads = (uint64_t)option(d, "reads", 4000000), random = 42;
        bool sizes = option(d, "sizes", 0) != 0, scan = option(d, "scan", 0) != 0;
        zipf_make(&z, keys, option(d, "s", 0.9));
        cas_cleanup_free uint8_t *seen = cas_xcalloc(keys, 1);
        uint32_t scanned = 0;
        for (uint64_t i = 0; i < reads; i++) {
                uint32_t key = zipf_at(&z, sim_random(&random));
                struct sim_read r = {.time_ms = i, .object = key + 1};
                r.event = (uint32_t)i + 1;
                if (i < reads / 2)
                        seen[key] = 1;
                bool scans = scan && i > reads / 2 && scanned < keys && i % 2 == 0;
                while (scans && scanned < keys && !seen[scanned])
                        scanned++;
                if (scans && scanned < keys) {
                        r.object = scanned++ + 1;
                        r.event = SIM_EVENT_SCAN;
                }
                r.object_bytes = sizes ? 4096 + file_bytes(sim_mix(r.object, 7)) : BLOCK_BYTES;
                r.bytes = (uint32_t)r.object_bytes;
                r.pack = r.object / 256;
                r.offset = r.object % 256 * BLOCK_BYTES;
                sim_trace_add(t, &r);
        }
        free(z.sums);
}

/* ---- images ---- */

enum kind { OWN, RUNTIME, BASE };
struct world {
        struct sim_trace *trace;
        struct zipf images, runtimes, bases;
        uint32_t *image_at; /* owned; by rank */
        uint32_t *version;  /* owned; of each image: 0, or the number of its roll-out */
        uint32_t rollouts;
        uint64_t random;
        uint64_t now_ms;
        uint32_t event;
};

static unsigned file_count(enum kind kind, uint64_t layer)
{
        uint64_t h = sim_mix(layer, 3);
        switch (kind) {
        case BASE:
                return 200 + (unsigned)(h % 600);
        case RUNTIME:
                return 50 + (unsigned)(h % 400);
        case OWN:
                break;
        }
        return 1 + (unsigned)(h % 12) * (unsigned)(h >> 32 & 7);
}

/* Percent of the files of a layer that every mount reads. */
static const unsigned read_percent[] = {[OWN] = 60, [RUNTIME] = 30, [BASE] = 8};

static uint32_t stored_bytes(uint64_t layer, uint64_t block)
{
        return BLOCK_BYTES / 100 * (25 + (uint32_t)(sim_mix(layer, block ^ 0x55) % 36));
}

static void read_file(struct world *w, uint64_t layer, uint64_t place, uint64_t file,
                      uint64_t offset, uint64_t bytes, bool scan)
{
        struct sim_read r = {.time_ms = w->now_ms,
                             .object = sim_mix(layer, file + 1000),
                             .object_bytes = bytes,
                             .event = scan ? SIM_EVENT_SCAN : w->event};
        for (uint64_t b = offset / BLOCK_BYTES; b * BLOCK_BYTES < offset + bytes; b++) {
                uint64_t at = place + b * (BLOCK_BYTES / 2);
                r.pack = at / PACK_BYTES + 1;
                r.offset = at % PACK_BYTES;
                r.bytes = stored_bytes(layer, b);
                sim_trace_add(w->trace, &r);
        }
}

/* number: of the layer among those of its kind, in order of creation. */
static void read_layer(struct world *w, enum kind kind, uint64_t number, bool whole, bool scan)
{
        uint64_t layer = sim_mix(number, kind + 1u), offset = 0;
        uint64_t stride = kind == OWN ? LAYER_STRIDE / 16 : LAYER_STRIDE;
        uint64_t place = ((uint64_t)kind << 50) + number * stride;
        for (unsigned f = 0, count = file_count(kind, layer); f < count; f++) {
                uint64_t h = sim_mix(layer, f), bytes = file_bytes(h);
                bool wanted = whole || sim_mix(h, 5) % 100 < read_percent[kind];
                if (wanted || sim_random(&w->random) % 200 == 0)
                        read_file(w, layer, place, f, offset, bytes, scan);
                offset += bytes;
        }
}

static void read_image(struct world *w, uint32_t image, bool pull, bool scan)
{
        uint32_t runtime = zipf_at(&w->runtimes, sim_mix(image, 11));
        uint32_t base = zipf_at(&w->bases, sim_mix(runtime, 12));
        uint64_t own = w->version[image] ? w->images.count + w->version[image] : image;
        w->event++;
        w->now_ms += 20000;
        if (!pull || scan || sim_random(&w->random) % 10 == 0)
                read_layer(w, BASE, base, pull && !scan, scan);
        if (!pull || scan || sim_random(&w->random) % 3 == 0)
                read_layer(w, RUNTIME, runtime, pull && !scan, scan);
        read_layer(w, OWN, own, pull, scan);
}

static uint32_t popular_rank(struct world *w)
{
        double x = (double)(sim_random(&w->random) >> 11) / (double)(UINT64_C(1) << 53);
        return (uint32_t)pow((double)w->images.count, x) - 1;
}

static void new_day(struct world *w, double shift, unsigned rollouts)
{
        for (uint32_t rank = 0; rank < w->images.count && rank < 20000; rank++) {
                if ((double)(sim_random(&w->random) % 1000) >= shift * 10)
                        continue;
                uint32_t other = popular_rank(w), image = w->image_at[rank];
                w->image_at[rank] = w->image_at[other];
                w->image_at[other] = image;
        }
        for (unsigned i = 0; i < rollouts; i++) {
                uint32_t rank = popular_rank(w), image = w->image_at[rank];
                w->version[image] = ++w->rollouts;
                unsigned nodes = 1 + NODES_MAX / (1 + rank / 100);
                for (unsigned n = 0; n < nodes; n++)
                        read_image(w, image, true, false);
        }
}

static void make_images(struct sim_trace *t, const char *d)
{
        struct world w = {.trace = t, .random = 4711};
        uint32_t images = (uint32_t)option(d, "images", 1000000);
        unsigned events = (unsigned)option(d, "events", 40000);
        unsigned days = (unsigned)option(d, "days", 10), pulls = (unsigned)option(d, "pulls", 15);
        bool scan = option(d, "scan", 0) != 0;
        zipf_make(&w.images, images, option(d, "s", 0.9));
        zipf_make(&w.runtimes, RUNTIMES, 0.9);
        zipf_make(&w.bases, BASES, 1.0);
        w.image_at = cas_xmalloc(images * sizeof(w.image_at[0]));
        w.version = cas_xcalloc(images, sizeof(w.version[0]));
        for (uint32_t i = 0; i < images; i++)
                w.image_at[i] = i;
        for (uint32_t i = images - 1; i > 0; i--) {
                uint32_t j = (uint32_t)(sim_random(&w.random) % i), image = w.image_at[i];
                w.image_at[i] = w.image_at[j];
                w.image_at[j] = image;
        }
        uint32_t scanned = 0;
        uint64_t scan_reads = 0, half = 0;
        for (unsigned i = 0; i < events; i++) {
                if (i && i % (events / days) == 0)
                        new_day(&w, option(d, "shift", 10), (unsigned)option(d, "rollouts", 200));
                uint32_t image = w.image_at[zipf_at(&w.images, sim_random(&w.random))];
                read_image(&w, image, sim_random(&w.random) % 100 < pulls, false);
                if (i == events / 2)
                        half = t->count;
                for (; scan && half && scan_reads < half && scan_reads < (t->count - half) / 2;
                     scanned += 7) { /* images one after the other, as far as it goes */
                        size_t before = t->count;
                        read_image(&w, scanned % images, true, true);
                        scan_reads += t->count - before;
                }
        }
        free(w.image_at);
        free(w.version);
        free(w.images.sums);
        free(w.runtimes.sums);
        free(w.bases.sums);
}

void sim_trace_make(struct sim_trace *t, const char *description)
{
        if (strncmp(description, "zipf:", 5) == 0) {
                make_zipf(t, description);
        } else if (strncmp(description, "images:", 7) == 0) {
                make_images(t, description);
        } else {
                (void)fprintf(stderr, "%s: neither a file nor «zipf:…» nor «images:…»\n",
                              description);
                exit(2);
        }
}
