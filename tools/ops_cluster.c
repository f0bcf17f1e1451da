/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on the cluster that a store is a node of. */
#include "tiering/cluster.h"
#include "tools/ops.h"
#include "tools/ops_json.h"

static int cluster_of(struct cas_store *s, struct tier_cluster **out, struct cas_err *err)
{
        *out = tier_cluster_of(cas_store_shared(s));
        return *out ? 0
                    : cas_fail(err, CAS_E_NOTFOUND,
                               "the store is of no cluster (`lamina cluster "
                               "join` makes it a node)");
}

static bool node_seen(void *arg, const struct tier_cluster_node *node)
{
        json_t *one = json_pack("{s:I, s:o, s:s, s:I}", "node", (json_int_t)node->node, "name",
                                op_text_json(node->name), "store", node->store, "seen",
                                (json_int_t)node->seen_unix_s);
        return json_array_append_new(arg, one) == 0;
}

int op_cluster_status(struct cas_store *s, const json_t *args CAS_UNUSED,
                      const struct op_context *ctx CAS_UNUSED, json_t **result, struct cas_err *err)
{
        struct tier_cluster *c;
        struct tier_cluster_status status;
        struct tier_cluster_config config = {0};
        op_cleanup_json json_t *nodes = json_array();
        int rc = cluster_of(s, &c, err);
        if (rc == 0)
                rc = tier_cluster_status(c, &status, node_seen, nodes, err);
        if (rc == 0)
                rc = tier_cluster_config_read(cas_store_dirfd(s), &config, err);
        if (rc == 0)
                *result = json_pack("{s:s, s:I, s:I, s:I, s:I, s:b, s:s, s:O}", "where",
                                    config.where, "node", (json_int_t)status.node, "fresh",
                                    (json_int_t)status.settings.fresh_s, "grace",
                                    (json_int_t)status.settings.grace_s, "gcEvery",
                                    (json_int_t)status.settings.gc_s, "conditionalDelete",
                                    (int)status.abilities.conditional_delete, "collector",
                                    status.collector, "nodes", nodes);
        tier_cluster_config_release(&config);
        return rc;
}

int op_cluster_gc(struct cas_store *s, const json_t *args CAS_UNUSED,
                  const struct op_context *ctx CAS_UNUSED, json_t **result, struct cas_err *err)
{
        struct tier_cluster *c;
        struct tier_cluster_gc_result r;
        int rc = cluster_of(s, &c, err);
        if (rc == 0)
                rc = tier_cluster_gc(c, &r, err);
        if (rc < 0)
                return rc;
        const struct {
                const char *name;
                uint64_t value;
        } values[] = {
                {"manifests", r.manifests},
                {"links", r.links},
                {"blobs", r.blobs},
                {"uploads", r.uploads},
                {"linksCondemned", r.links_condemned},
                {"blobsCondemned", r.blobs_condemned},
                {"linksRemoved", r.links_removed},
                {"blobsRemoved", r.blobs_removed},
                {"uploadsRemoved", r.uploads_removed},
                {"piecesRemoved", r.pieces_removed},
                {"bytesRemoved", r.bytes_removed},
        };
        *result = json_object();
        for (size_t i = 0; i < CAS_COUNT(values); i++)
                json_object_set_new(*result, values[i].name,
                                    json_integer((json_int_t)values[i].value));
        return 0;
}
