/* SPDX-License-Identifier: Apache-2.0 */
/* What is counted of a registry that serves, as Prometheus reads it
 * (spec/registry-operation.md). Counting is for hot paths: each thread has a
 * shard of its own, as long as there are not more threads than shards, and
 * nothing waits. Labels are words of this program: their number is bounded,
 * whatever clients send. Thread-safe. */
#ifndef REG_METRICS_H
#define REG_METRICS_H

#include "cas/buf.h"
#include "registry/events.h"
#include "registry/http.h"

/* Counters that any file of the registry may add to. X(NAME, metric, help) */
#define REG_COUNTER_TABLE(X)                                                                       \
        X(ANSWERS_READY, "lamina_ready_answers_total", "Answers sent from those kept in memory.")  \
        X(ANSWERS_MADE, "lamina_made_answers_total", "Answers that were made and kept in memory.") \
        X(UPSTREAM_REQUESTS, "lamina_upstream_requests_total", "Requests to upstreams.")           \
        X(UPSTREAM_JOINED, "lamina_upstream_joined_total",                                         \
          "Requests of clients that waited for another's request upstream.")                       \
        X(UPSTREAM_STALE, "lamina_upstream_stale_total",                                           \
          "Failed requests upstream whose clients got what was here.")                             \
        X(UPSTREAM_FAILED, "lamina_upstream_failed_total", "Failed requests upstream.")            \
        X(UPSTREAM_BYTES, "lamina_upstream_bytes_total",                                           \
          "Bytes of blobs that came from upstreams.")                                              \
        X(WEB_PAGES, "lamina_web_pages_total", "Web pages that were made.")                        \
        X(RETENTION_RUNS, "lamina_retention_runs_total", "Runs of the retention rules.")           \
        X(RETENTION_TAGS, "lamina_retention_tags_removed_total", "Tags that retention removed.")   \
        X(RETENTION_MANIFESTS, "lamina_retention_manifests_removed_total",                         \
          "Untagged manifests that retention removed.")                                            \
        X(ACCESS_LOG_LINES, "lamina_access_log_lines_total", "Lines of the access log.")           \
        X(ACCESS_LOG_DROPPED, "lamina_access_log_dropped_total",                                   \
          "Lines of the access log that did not fit into memory.")

enum reg_counter {
#define X(name, metric, help) REG_COUNTER_##name,
        REG_COUNTER_TABLE(X)
#undef X
                REG_COUNTER_COUNT
};

struct reg_metrics;
struct reg_metrics *reg_metrics_new(void);
void reg_metrics_free(struct reg_metrics *m);

void reg_metrics_add(struct reg_metrics *m, enum reg_counter counter, uint64_t n);
/* A request is under way; `done` of it ends that. */
void reg_metrics_begun(struct reg_metrics *m);
/* begun: reg_metrics_begun was called for it. */
void reg_metrics_done(struct reg_metrics *m, const struct reg_http_done *done, bool begun);
void reg_metrics_event(struct reg_metrics *m, const struct reg_event *event);

/* All of the above, and of the process, in the text format 0.0.4. */
void reg_metrics_append(struct reg_metrics *m, struct cas_buf *out);
/* For what others know: the head of a family, then its samples. type: "gauge", "counter". */
void reg_metrics_head(struct cas_buf *out, const char *name, const char *type, const char *help);
void reg_metrics_sample(struct cas_buf *out, const char *name, const char *labels, uint64_t value);
/* Appends text as the value of a label. */
void reg_metrics_label(struct cas_buf *out, const char *value);

#endif
