/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/metrics.h"

#include <dirent.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define SHARDS 32 /* a power of two */
#define CACHE_LINE_BYTES 64

/* What a request was about, by its path. X(NAME, label) */
#define KIND_TABLE(X)                                                                              \
        X(BLOB, "blob")                                                                            \
        X(MANIFEST, "manifest")                                                                    \
        X(UPLOAD, "upload")                                                                        \
        X(TAGS, "tags")                                                                            \
        X(REFERRERS, "referrers")                                                                  \
        X(CATALOG, "catalog")                                                                      \
        X(PING, "ping")                                                                            \
        X(WEB, "web")                                                                              \
        X(OPERATION, "operation")                                                                  \
        X(OTHER, "other")
enum kind {
#define X(name, label) KIND_##name,
        KIND_TABLE(X)
#undef X
                KIND_COUNT
};
static const char *const kind_labels[] = {
#define X(name, label) label,
        KIND_TABLE(X)
#undef X
};

static const char *const method_labels[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "?"};
#define METHODS CAS_COUNT(method_labels)
static const char *const class_labels[] = {"none", "1xx", "2xx", "3xx", "4xx", "5xx"};
#define CLASSES CAS_COUNT(class_labels)

static const char *const event_labels[] = {
        [REG_EVENT_PULL_MANIFEST] = "pull_manifest",
        [REG_EVENT_PULL_BLOB] = "pull_blob",
        [REG_EVENT_PUSH_MANIFEST] = "push_manifest",
        [REG_EVENT_PUSH_BLOB] = "push_blob",
        [REG_EVENT_MOUNT_BLOB] = "mount_blob",
        [REG_EVENT_DELETE_MANIFEST] = "delete_manifest",
        [REG_EVENT_DELETE_TAG] = "delete_tag",
        [REG_EVENT_DELETE_BLOB] = "delete_blob",
};
#define EVENTS CAS_COUNT(event_labels)

/* Upper ends of the buckets of latencies. */
static const struct {
        uint64_t ns;
        const char *label;
} buckets[] = {
        {100000, "0.0001"},    {250000, "0.00025"}, {500000, "0.0005"},  {1000000, "0.001"},
        {2500000, "0.0025"},   {5000000, "0.005"},  {10000000, "0.01"},  {25000000, "0.025"},
        {100000000, "0.1"},    {500000000, "0.5"},  {2500000000, "2.5"}, {10000000000, "10.0"},
        {60000000000, "60.0"},
};
#define BUCKETS (CAS_COUNT(buckets) + 1) /* the last has no end */

typedef _Atomic(uint64_t) count_t;

struct shard {
        _Alignas(CACHE_LINE_BYTES) count_t requests[KIND_COUNT][METHODS][CLASSES];
        count_t latencies[KIND_COUNT][BUCKETS];
        count_t latency_ns[KIND_COUNT];
        count_t in_bytes[KIND_COUNT], out_bytes[KIND_COUNT];
        count_t begun, ended; /* by any thread: their difference over all shards counts */
        count_t events[EVENTS];
        count_t counters[REG_COUNTER_COUNT];
};

struct reg_metrics {
        struct shard *shards; /* SHARDS of them */
        uint64_t start_unix_s;
};

static void add(count_t *counter, uint64_t n)
{
        (void)atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static struct shard *my_shard(struct reg_metrics *m)
{
        static atomic_uint threads;
        static _Thread_local unsigned mine; /* one more than the shard's number */
        if (mine == 0)
                mine = 1 + atomic_fetch_add(&threads, 1) % SHARDS;
        return &m->shards[mine - 1];
}

struct reg_metrics *reg_metrics_new(void)
{
        struct reg_metrics *m = cas_xcalloc(1, sizeof(*m));
        m->shards = aligned_alloc(CACHE_LINE_BYTES, SHARDS * sizeof(struct shard));
        cas_assert(m->shards != NULL);
        memset(m->shards, 0, SHARDS * sizeof(struct shard));
        m->start_unix_s = (uint64_t)time(NULL);
        return m;
}

void reg_metrics_free(struct reg_metrics *m)
{
        if (!m)
                return;
        free(m->shards);
        free(m);
}

/* ---- counting ---- */

static bool part_is(const char *at, size_t len, const char *word)
{
        return strlen(word) == len && memcmp(at, word, len) == 0;
}

/* By the last two parts of the path; escapes are not looked into. */
static enum kind kind_of(const char *target)
{
        size_t len = strcspn(target, "?");
        if (strncmp(target, "/v2", 3) != 0 || (len > 3 && target[3] != '/')) {
                if (part_is(target, len, "/metrics") || part_is(target, len, "/healthz") ||
                    part_is(target, len, "/readyz"))
                        return KIND_OPERATION;
                if (strncmp(target, "/cas/", 5) == 0)
                        return KIND_BLOB;
                return strncmp(target, "/web", 4) == 0 || len == 1 ? KIND_WEB : KIND_OTHER;
        }
        if (len <= 4)
                return KIND_PING;
        if (part_is(target, len, "/v2/_catalog"))
                return KIND_CATALOG;
        const char *last = memrchr(target, '/', len);
        const char *noun = memrchr(target, '/', (size_t)(last - target));
        if (!noun)
                return KIND_OTHER;
        size_t last_len = len - (size_t)(last + 1 - target);
        size_t noun_len = (size_t)(last - noun) - 1;
        if (part_is(noun + 1, noun_len, "manifests"))
                return KIND_MANIFEST;
        if (part_is(noun + 1, noun_len, "uploads"))
                return KIND_UPLOAD;
        if (part_is(noun + 1, noun_len, "blobs"))
                return part_is(last + 1, last_len, "uploads") ? KIND_UPLOAD : KIND_BLOB;
        if (part_is(noun + 1, noun_len, "referrers"))
                return KIND_REFERRERS;
        bool tags = part_is(noun + 1, noun_len, "tags") && part_is(last + 1, last_len, "list");
        return tags ? KIND_TAGS : KIND_OTHER;
}

static size_t method_of(const char *method)
{
        size_t i = 0;
        while (i < METHODS - 1 && strcmp(method_labels[i], method) != 0)
                i++;
        return i;
}

static size_t bucket_of(uint64_t ns)
{
        size_t i = 0;
        while (i < CAS_COUNT(buckets) && ns > buckets[i].ns)
                i++;
        return i;
}

void reg_metrics_add(struct reg_metrics *m, enum reg_counter counter, uint64_t n)
{
        add(&my_shard(m)->counters[counter], n);
}

void reg_metrics_begun(struct reg_metrics *m)
{
        add(&my_shard(m)->begun, 1);
}

void reg_metrics_done(struct reg_metrics *m, const struct reg_http_done *done, bool begun)
{
        struct shard *s = my_shard(m);
        enum kind kind = kind_of(done->target);
        size_t class = done->status / 100;
        add(&s->requests[kind][method_of(done->method)][class < CLASSES ? class : 0], 1);
        add(&s->latencies[kind][bucket_of(done->duration_ns)], 1);
        add(&s->latency_ns[kind], done->duration_ns);
        add(&s->in_bytes[kind], done->in_bytes);
        add(&s->out_bytes[kind], done->out_bytes);
        if (begun)
                add(&s->ended, 1);
}

void reg_metrics_event(struct reg_metrics *m, const struct reg_event *event)
{
        cas_assert((size_t)event->kind < EVENTS);
        add(&my_shard(m)->events[event->kind], 1);
}

/* ---- text ---- */

/* The sum of one counter over all shards, by its place in the struct. */
static uint64_t sum_at(const struct reg_metrics *m, size_t offset)
{
        uint64_t sum = 0;
        for (size_t i = 0; i < SHARDS; i++) {
                const char *shard = (const char *)&m->shards[i];
                sum += atomic_load_explicit((const count_t *)(const void *)(shard + offset),
                                            memory_order_relaxed);
        }
        return sum;
}
#define SUM(m, member) sum_at((m), offsetof(struct shard, member))

void reg_metrics_head(struct cas_buf *out, const char *name, const char *type, const char *help)
{
        cas_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void reg_metrics_sample(struct cas_buf *out, const char *name, const char *labels, uint64_t value)
{
        cas_buf_printf(out, "%s%s %llu\n", name, labels, (unsigned long long)value);
}

void reg_metrics_label(struct cas_buf *out, const char *value)
{
        for (const char *c = value; *c; c++) {
                if (*c == '"' || *c == '\\')
                        cas_buf_append_byte(out, '\\');
                cas_buf_append_byte(out, (unsigned char)*c < ' ' ? '?' : (uint8_t)*c);
        }
}

static void append_requests(const struct reg_metrics *m, struct cas_buf *out)
{
        static const char name[] = "lamina_http_requests_total";
        reg_metrics_head(out, name, "counter", "Requests that are over.");
        for (size_t k = 0; k < KIND_COUNT; k++) {
                for (size_t w = 0; w < METHODS; w++) {
                        for (size_t c = 0; c < CLASSES; c++) {
                                uint64_t n = sum_at(m, offsetof(struct shard, requests) +
                                                               ((k * METHODS + w) * CLASSES + c) *
                                                                       sizeof(count_t));
                                if (n == 0)
                                        continue;
                                cas_buf_printf(out,
                                               "%s{kind=\"%s\",method=\"%s\",status=\"%s\"} %llu\n",
                                               name, kind_labels[k], method_labels[w],
                                               class_labels[c], (unsigned long long)n);
                        }
                }
        }
}

static void append_latencies(const struct reg_metrics *m, struct cas_buf *out)
{
        static const char name[] = "lamina_http_request_duration_seconds";
        reg_metrics_head(out, name, "histogram",
                         "From a request's first line to the end of its answer.");
        for (size_t k = 0; k < KIND_COUNT; k++) {
                uint64_t count = 0, ns;
                for (size_t b = 0; b < BUCKETS; b++) {
                        count += sum_at(m, offsetof(struct shard, latencies) +
                                                   (k * BUCKETS + b) * sizeof(count_t));
                        cas_buf_printf(out, "%s_bucket{kind=\"%s\",le=\"%s\"} %llu\n", name,
                                       kind_labels[k],
                                       b < CAS_COUNT(buckets) ? buckets[b].label : "+Inf",
                                       (unsigned long long)count);
                }
                ns = sum_at(m, offsetof(struct shard, latency_ns) + k * sizeof(count_t));
                cas_buf_printf(out, "%s_sum{kind=\"%s\"} %llu.%09llu\n", name, kind_labels[k],
                               (unsigned long long)(ns / 1000000000),
                               (unsigned long long)(ns % 1000000000));
                cas_buf_printf(out, "%s_count{kind=\"%s\"} %llu\n", name, kind_labels[k],
                               (unsigned long long)count);
        }
}

/* A family of counters with one label. */
static void append_labelled(const struct reg_metrics *m, struct cas_buf *out, const char *name,
                            const char *help, const char *label, const char *const *values,
                            size_t count, size_t offset)
{
        reg_metrics_head(out, name, "counter", help);
        for (size_t i = 0; i < count; i++)
                cas_buf_printf(out, "%s{%s=\"%s\"} %llu\n", name, label, values[i],
                               (unsigned long long)sum_at(m, offset + i * sizeof(count_t)));
}

/* Names of processes' metrics as every exporter calls them. */
static void append_process(const struct reg_metrics *m, struct cas_buf *out)
{
        unsigned long long pages = 0, fds = 0;
        FILE *f = fopen("/proc/self/statm", "re");
        if (f) {
                if (fscanf(f, "%*u %llu", &pages) != 1)
                        pages = 0;
                (void)fclose(f);
        }
        DIR *dir = opendir("/proc/self/fd");
        while (dir && readdir(dir))
                fds++;
        if (dir)
                (void)closedir(dir);
        struct timespec cpu;
        (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
        reg_metrics_head(out, "process_resident_memory_bytes", "gauge", "Memory that is resident.");
        reg_metrics_sample(out, "process_resident_memory_bytes", "",
                           pages * (uint64_t)sysconf(_SC_PAGESIZE));
        reg_metrics_head(out, "process_open_fds", "gauge", "Open descriptors.");
        reg_metrics_sample(out, "process_open_fds", "", fds > 3 ? fds - 3 : 0);
        reg_metrics_head(out, "process_cpu_seconds_total", "counter", "Time on CPUs.");
        cas_buf_printf(out, "process_cpu_seconds_total %lld.%03ld\n", (long long)cpu.tv_sec,
                       cpu.tv_nsec / 1000000);
        reg_metrics_head(out, "process_start_time_seconds", "gauge", "Unix time of the start.");
        reg_metrics_sample(out, "process_start_time_seconds", "", m->start_unix_s);
}

void reg_metrics_append(struct reg_metrics *m, struct cas_buf *out)
{
        static const struct {
                const char *name, *help;
        } counters[] = {
#define X(name, metric, help) {metric, help},
                REG_COUNTER_TABLE(X)
#undef X
        };
        append_requests(m, out);
        append_latencies(m, out);
        append_labelled(m, out, "lamina_http_received_bytes_total", "Bytes of requests' bodies.",
                        "kind", kind_labels, KIND_COUNT, offsetof(struct shard, in_bytes));
        append_labelled(m, out, "lamina_http_sent_bytes_total", "Bytes of answers' bodies.", "kind",
                        kind_labels, KIND_COUNT, offsetof(struct shard, out_bytes));
        append_labelled(m, out, "lamina_events_total", "What was pulled, pushed and deleted.",
                        "event", event_labels, EVENTS, offsetof(struct shard, events));
        uint64_t ended = SUM(m, ended), begun = SUM(m, begun);
        reg_metrics_head(out, "lamina_http_requests_in_flight", "gauge",
                         "Requests of known clients under way.");
        reg_metrics_sample(out, "lamina_http_requests_in_flight", "",
                           begun > ended ? begun - ended : 0);
        for (size_t i = 0; i < REG_COUNTER_COUNT; i++) {
                reg_metrics_head(out, counters[i].name, "counter", counters[i].help);
                reg_metrics_sample(
                        out, counters[i].name, "",
                        sum_at(m, offsetof(struct shard, counters) + i * sizeof(count_t)));
        }
        append_process(m, out);
}
