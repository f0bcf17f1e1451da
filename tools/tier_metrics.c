/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/tier_metrics.h"

#include <stdio.h>
#include <time.h>

#include "registry/metrics.h"

static uint64_t less(uint64_t a, uint64_t b)
{
        return a > b ? a - b : 0;
}

struct tier_saved tier_saved(const struct cas_store_stats *t)
{
        return (struct tier_saved){.by_dedup = less(t->content_bytes, t->chunk_bytes),
                                   .by_compression = less(t->chunk_bytes, t->pack_bytes),
                                   .by_condensing = less(t->condensed_bytes, t->recipe_bytes)};
}

/* ---- tiers ---- */

struct row {
        const char *name, *labels; /* more labels; "" */
        const char *type, *help;   /* NULL: of the family that came before */
        size_t offset;             /* in struct tier_status */
};
#define FIELD(f) offsetof(struct tier_status, f)
static const struct row rows[] = {
        {"lamina_tier_bytes", ",kind=\"home\"", "gauge", "Bytes that lie on a tier.",
         FIELD(home_bytes)},
        {"lamina_tier_bytes", ",kind=\"other\"", NULL, NULL, FIELD(other_bytes)},
        {"lamina_tier_bytes", ",kind=\"cache\"", NULL, NULL, FIELD(cached_bytes)},
        {"lamina_tier_capacity_bytes", "", "gauge", "Its capacity; 0: the file system's.",
         FIELD(config.capacity_bytes)},
        {"lamina_tier_room_bytes", "", "gauge", "What can be written there now.",
         FIELD(room_bytes)},
        {"lamina_tier_written_bytes_total", "", "counter", "Bytes of packs written there.",
         FIELD(written_bytes)},
        {"lamina_tier_read_bytes_total", "", "counter", "Bytes of its packs that were read.",
         FIELD(read_bytes)},
        {"lamina_tier_waits_total", "", "counter", "Writers that waited for room there.",
         FIELD(waits)},
        {"lamina_tier_waited_milliseconds_total", "", "counter", "How long they waited.",
         FIELD(waited_ms)},
        {"lamina_tier_refused_total", "", "counter", "Writers that got no room there.",
         FIELD(refused)},
};

struct writing {
        struct cas_buf *out;
        const struct row *row;
};

static char *labels_of(const struct tier_status *t, const char *more)
{
        return cas_xasprintf("{tier=\"%s\",class=\"%s\"%s}", t->config.name,
                             tier_class_name(t->config.class), more);
}

static bool row_write(void *arg, const struct tier_status *t)
{
        const struct writing *w = arg;
        cas_cleanup_free char *labels = labels_of(t, w->row->labels);
        uint64_t value;
        memcpy(&value, (const char *)t + w->row->offset, sizeof(value));
        reg_metrics_sample(w->out, w->row->name, labels, value);
        return true;
}

static bool state_write(void *arg, const struct tier_status *t)
{
        const struct writing *w = arg;
        cas_cleanup_free char *more = cas_xasprintf(",state=\"%s\"", tier_state_name(t->state));
        cas_cleanup_free char *labels = labels_of(t, more);
        reg_metrics_sample(w->out, "lamina_tier_state", labels, 1);
        return true;
}

static bool remote_write(void *arg, const struct tier_status *t)
{
        const struct writing *w = arg;
        if (!t->has_counts)
                return true;
        const struct {
                const char *what;
                uint64_t value;
        } counts[] = {{"all", t->counts.requests},
                      {"failed", t->counts.failed},
                      {"retried", t->counts.retried},
                      {"slowed", t->counts.slowed}};
        for (size_t i = 0; i < CAS_COUNT(counts); i++) {
                cas_cleanup_free char *more = cas_xasprintf(",what=\"%s\"", counts[i].what);
                cas_cleanup_free char *labels = labels_of(t, more);
                reg_metrics_sample(w->out, "lamina_tier_requests_total", labels, counts[i].value);
        }
        return true;
}

static void append_tiers(struct tier_set *set, struct cas_buf *out)
{
        for (size_t i = 0; i < CAS_COUNT(rows); i++) {
                struct writing w = {.out = out, .row = &rows[i]};
                if (rows[i].help)
                        reg_metrics_head(out, rows[i].name, rows[i].type, rows[i].help);
                tier_set_each(set, row_write, &w);
        }
        struct writing w = {.out = out};
        reg_metrics_head(out, "lamina_tier_state", "gauge", "The state that a tier is in.");
        tier_set_each(set, state_write, &w);
        reg_metrics_head(out, "lamina_tier_requests_total", "counter",
                         "Requests to the stores of objects.");
        tier_set_each(set, remote_write, &w);
}

/* ---- the rest ---- */

struct figure {
        const char *name, *labels, *type, *help; /* help NULL: as above */
        uint64_t value;
};

static void figures_append(struct cas_buf *out, const struct figure *f, size_t count)
{
        for (size_t i = 0; i < count; i++) {
                if (f[i].help)
                        reg_metrics_head(out, f[i].name, f[i].type, f[i].help);
                reg_metrics_sample(out, f[i].name, f[i].labels, f[i].value);
        }
}

static void append_cache(struct tier_set *set, struct cas_buf *out)
{
        struct tier_blocks_counts c;
        if (!tier_set_cache_counts(set, &c))
                return;
        const struct figure figures[] = {
                {"lamina_block_cache_reads_total", "{outcome=\"hit\"}", "counter",
                 "Reads of blocks of slower tiers.", c.hits},
                {"lamina_block_cache_reads_total", "{outcome=\"miss\"}", NULL, NULL, c.misses},
                {"lamina_block_cache_read_bytes_total", "{outcome=\"hit\"}", "counter",
                 "Their bytes.", c.hit_bytes},
                {"lamina_block_cache_read_bytes_total", "{outcome=\"miss\"}", NULL, NULL,
                 c.miss_bytes},
                {"lamina_block_cache_admitted_total", "", "counter", "Misses that were kept.",
                 c.admitted},
                {"lamina_block_cache_rejected_total", "", "counter", "Misses that were not.",
                 c.rejected},
                {"lamina_block_cache_evicted_total", "", "counter", "Blocks that made room.",
                 c.evicted},
                {"lamina_block_cache_brought_bytes_total", "", "counter",
                 "Bytes read from home copies.", c.brought_bytes},
                {"lamina_block_cache_bytes", "", "gauge", "Bytes that it holds.", c.cached_bytes},
                {"lamina_block_cache_capacity_bytes", "", "gauge", "Bytes that it may hold.",
                 c.capacity_bytes},
        };
        figures_append(out, figures, CAS_COUNT(figures));
}

static void append_mover(struct tier_mover *mover, struct cas_buf *out)
{
        struct tier_mover_status m;
        tier_mover_status(mover, &m);
        uint64_t now = (uint64_t)time(NULL);
        const struct figure figures[] = {
                {"lamina_mover_packs_total", "{how=\"copied\"}", "counter", "Packs moved.",
                 less(m.moved_packs, m.recoded_packs)},
                {"lamina_mover_packs_total", "{how=\"recoded\"}", NULL, NULL, m.recoded_packs},
                {"lamina_mover_moved_bytes_total", "", "counter", "Their bytes before.",
                 m.moved_bytes},
                {"lamina_mover_written_bytes_total", "", "counter", "Their bytes after.",
                 m.written_bytes},
                {"lamina_mover_failed_total", "", "counter", "Moves that failed.", m.failures},
                {"lamina_mover_backlog_packs", "", "gauge", "Packs that are to be moved.",
                 m.due_packs},
                {"lamina_mover_backlog_bytes", "", "gauge", "Their bytes.", m.due_bytes},
                {"lamina_mover_backlog_seconds", "", "gauge", "Since when there are such.",
                 m.due_since_unix_s ? less(now, m.due_since_unix_s) : 0},
                {"lamina_mover_bytes_per_second", "", "gauge", "What it moved in the last minute.",
                 m.bytes_per_s},
        };
        figures_append(out, figures, CAS_COUNT(figures));
}

void tier_metrics_append(struct cas_store *s, struct tier_mover *mover, struct cas_buf *out)
{
        struct tier_set *set = tier_set_of(s);
        if (!set || !tier_set_is_configured(set))
                return;
        append_tiers(set, out);
        append_cache(set, out);
        if (mover)
                append_mover(mover, out);
}
