/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests become nodes: their references are written, and those of all that they lead to and that
 * is here (spec/gc.md). One thread. Private to cas. */
#ifndef CAS_REFNODES_INT_H
#define CAS_REFNODES_INT_H

#include "cas/refs_int.h"
#include "cas/store_int.h"

struct cas_map;

/* A blob that is written and synced under a temporary name. */
struct cas_staged_blob {
        struct cas_digest digest;
        uint64_t size_bytes;
        char path[CAS_TEMPORARY_PATH_BYTES]; /* empty: it has its name */
        bool adopted;                        /* the file has another name besides */
};

struct cas_nodes {
        struct cas_store *store; /* borrowed, as the next three */
        struct cas_batch *batch; /* gets the references */
        const struct cas_staged_blob *staged;
        size_t staged_count;
        struct cas_map *kept; /* borrowed; NULL, or gets all that nodes name */
        bool limited;         /* of CAS_NODES_MAX and CAS_NODES_BYTES_MAX */
        bool absent;          /* something that is named as a manifest is not here */

        struct cas_map *seen;     /* owned: digests of manifests that were looked at */
        struct cas_digest *queue; /* owned */
        size_t count, max, next;
        size_t made;    /* nodes, of the queue */
        uint64_t bytes; /* read for them */
};
/* What one commit makes nodes of beside the manifests that it links. */
#define CAS_NODES_MAX CAS_INDEX_CHILDREN_MAX
#define CAS_NODES_BYTES_MAX (64 * CAS_MIB)

/* The caller has set what is borrowed and `limited`; the rest is zero. */
void cas_nodes_init(struct cas_nodes *n);
void cas_nodes_release(struct cas_nodes *n);
#define cas_cleanup_nodes __attribute__((cleanup(cas_nodes_release)))
/* A manifest that is staged or here. What is no manifest, or cannot be read, is none: found is
 * false. *here: there is such a blob. */
int cas_nodes_load(struct cas_nodes *n, const struct cas_digest *digest, struct cas_manifest *out,
                   bool *found, bool *here, struct cas_err *err) CAS_MUST_CHECK;
/* Makes it a node; what it names as manifests is to be looked at. */
void cas_nodes_put(struct cas_nodes *n, const struct cas_digest *digest,
                   const struct cas_manifest *m);
/* Something that is to be looked at, once. */
void cas_nodes_add(struct cas_nodes *n, const struct cas_digest *digest);
/* Takes the next that is to be looked at. */
bool cas_nodes_take(struct cas_nodes *n, struct cas_digest *out);
/* Looks at all: what is here, a manifest, and no node in the index becomes one. Errors: LIMIT. */
int cas_nodes_run(struct cas_nodes *n, struct cas_err *err) CAS_MUST_CHECK;

#endif
