/* SPDX-License-Identifier: Apache-2.0 */
/* A node of several that share one bucket (spec/cluster.md): implements the table of cas/shared.h.
 * Which bucket, says STORE/cluster. Thread-safe. */
#ifndef TIERING_CLUSTER_H
#define TIERING_CLUSTER_H

#include "cas/shared.h"
#include "tiering/objects.h"

struct tier_cluster;

/* STORE/cluster. All owned. */
struct tier_cluster_config {
        struct s3_config s3;
        char *where; /* s3://BUCKET/PREFIX */
        uint64_t node;
};
void tier_cluster_config_release(struct tier_cluster_config *c);
/* "s3://BUCKET/PREFIX" into s3.bucket and s3.prefix. Errors: INVALID. */
int tier_cluster_config_where(struct tier_cluster_config *c, const char *where,
                              struct cas_err *err) CAS_MUST_CHECK;
/* Errors: NOTFOUND (the store is of no cluster), INVALID. */
int tier_cluster_config_read(int store_dirfd, struct tier_cluster_config *out,
                             struct cas_err *err) CAS_MUST_CHECK;

/* What all nodes keep to; made by the first that joins. 0: the default. */
struct tier_cluster_settings {
        uint64_t fresh_s; /* a node believes what it knows of a tag for so long; 5 */
        uint64_t grace_s; /* what nothing needs stays for so long; 24 h */
        uint64_t gc_s;    /* from one run of collection to the next; 1 h */
};
/* Takes a number, and writes STORE/cluster: durable on return. Settings that others made stay, and
 * are given back. Errors: EXISTS (it has joined one), UNSUPPORTED (the bucket does not honour
 * conditions), AWAY. */
int tier_cluster_join(struct cas_store *s, struct tier_cluster_config *config, const char *name,
                      struct tier_cluster_settings *settings, struct cas_err *err) CAS_MUST_CHECK;
/* force: also when the bucket cannot be reached; the node's entry stays there. */
int tier_cluster_leave(struct cas_store *s, bool force, struct cas_err *err) CAS_MUST_CHECK;

/* As cas_store_config.shared_open: *out NULL when the store is of no cluster. */
int tier_cluster_shared_open(struct cas_store *s, struct cas_shared **out,
                             struct cas_err *err) CAS_MUST_CHECK;
/* Over any objects, which it takes: for tests, and below the others. Tries out what they can do.
 * store_id borrowed for the call. */
int tier_cluster_open(struct tier_objects *objects, uint64_t node, const char *store_id,
                      const struct tier_cluster_settings *settings, struct tier_cluster **out,
                      struct cas_err *err) CAS_MUST_CHECK;
struct cas_shared *tier_cluster_shared(struct tier_cluster *c);
/* NULL when the shared store is none of ours. */
struct tier_cluster *tier_cluster_of(struct cas_shared *sh);

struct tier_cluster_node {
        uint64_t node;
        char name[256], store[64];
        uint64_t seen_unix_s;
};
struct tier_cluster_status {
        uint64_t node;
        struct tier_cluster_settings settings;
        struct s3_abilities abilities;
        char collector[64]; /* who holds the lease; "": nobody */
        uint64_t token;
};
int tier_cluster_status(struct tier_cluster *c, struct tier_cluster_status *out,
                        bool (*fn)(void *arg, const struct tier_cluster_node *node), void *arg,
                        struct cas_err *err) CAS_MUST_CHECK;

struct tier_cluster_gc_result {
        uint64_t manifests, links, blobs, uploads; /* looked at */
        uint64_t links_condemned, blobs_condemned;
        uint64_t links_removed, blobs_removed, uploads_removed, pieces_removed, bytes_removed;
};
/* One run, by this node. Errors: BUSY (another node collects), AWAY; CORRUPT: a manifest cannot be
 * read, so nothing was removed. */
int tier_cluster_gc(struct tier_cluster *c, struct tier_cluster_gc_result *out,
                    struct cas_err *err) CAS_MUST_CHECK;
/* Runs now and then, in a thread of its own, until the cluster is closed. */
void tier_cluster_gc_start(struct tier_cluster *c);

#endif
