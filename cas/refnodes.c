/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/refnodes_int.h"

#include "cas/blob.h"
#include "cas/io.h"
#include "cas/map.h"

void cas_nodes_init(struct cas_nodes *n)
{
        n->seen = cas_map_new();
}

void cas_nodes_release(struct cas_nodes *n)
{
        cas_map_free(n->seen);
        free(n->queue);
}

static const struct cas_staged_blob *find_staged(const struct cas_nodes *n,
                                                 const struct cas_digest *digest)
{
        for (size_t i = 0; i < n->staged_count; i++) {
                if (cas_digest_equal(&n->staged[i].digest, digest))
                        return &n->staged[i];
        }
        return NULL;
}

static int read_bytes(struct cas_nodes *n, const struct cas_digest *digest, struct cas_buf *out,
                      struct cas_err *err)
{
        struct cas_store *s = n->store;
        const struct cas_staged_blob *staged = find_staged(n, digest);
        if (!staged)
                return cas_blob_read(s, digest, CAS_MANIFEST_BYTES_MAX, out, err);
        if (staged->size_bytes > CAS_MANIFEST_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "larger than any manifest");
        return cas_io_read_file(s->io, s->dirfd, staged->path, CAS_MANIFEST_BYTES_MAX, out, err);
}

int cas_nodes_load(struct cas_nodes *n, const struct cas_digest *digest, struct cas_manifest *out,
                   bool *found, bool *here, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_err why = CAS_ERR_INIT;
        int rc = read_bytes(n, digest, &bytes, &why);
        *found = false;
        *here = rc != -CAS_E_NOTFOUND;
        if (rc == -CAS_E_NOTFOUND || rc == -CAS_E_LIMIT || rc == -CAS_E_CORRUPT ||
            rc == -CAS_E_UNSUPPORTED)
                return 0;
        if (rc == 0) {
                n->bytes += bytes.len_bytes;
                /* As the bytes say themselves, whatever they were called by. */
                rc = cas_manifest_parse(bytes.data, bytes.len_bytes, NULL, out, &why);
                *found = rc == 0;
                if (rc != -CAS_E_NOMEM)
                        return 0;
        }
        *err = why;
        return rc;
}

void cas_nodes_add(struct cas_nodes *n, const struct cas_digest *digest)
{
        bool is_new;
        (void)cas_map_put(n->seen, digest, sizeof(*digest), &is_new);
        if (!is_new)
                return;
        if (n->count == n->max) {
                n->max = n->max ? 2 * n->max : 16;
                n->queue = cas_xrealloc(n->queue, n->max * sizeof(n->queue[0]));
        }
        n->queue[n->count++] = *digest;
}

bool cas_nodes_take(struct cas_nodes *n, struct cas_digest *out)
{
        if (n->next == n->count)
                return false;
        *out = n->queue[n->next++];
        return true;
}

static void keep(struct cas_nodes *n, const struct cas_digest *blob)
{
        if (n->kept)
                (void)cas_map_put(n->kept, blob, sizeof(*blob), NULL);
}

void cas_nodes_put(struct cas_nodes *n, const struct cas_digest *digest,
                   const struct cas_manifest *m)
{
        (void)cas_map_put(n->seen, digest, sizeof(*digest), NULL);
        cas_batch_put_manifest_refs(n->batch, digest, m);
        if (m->kind == CAS_MANIFEST_IMAGE)
                keep(n, &m->config.digest);
        for (size_t i = 0; i < m->child_count; i++) {
                const struct cas_descriptor *d = &m->children[i];
                keep(n, &d->digest);
                if (m->kind == CAS_MANIFEST_INDEX && cas_media_type_is_manifest(d->media_type))
                        cas_nodes_add(n, &d->digest);
        }
}

static int look_at(struct cas_nodes *n, const struct cas_digest *digest, struct cas_err *err)
{
        cas_cleanup_manifest struct cas_manifest m = {0};
        bool is_node, found, here;
        int rc = cas_node_get(n->store->index, digest, &is_node, NULL, err);
        if (rc < 0 || is_node)
                return rc;
        rc = cas_nodes_load(n, digest, &m, &found, &here, err);
        if (rc < 0)
                return rc;
        n->absent |= !here;
        n->made += found;
        if (n->limited && (n->made > CAS_NODES_MAX || n->bytes > CAS_NODES_BYTES_MAX))
                return cas_fail(err, CAS_E_LIMIT,
                                "an index with more than %d manifests or %d MiB below it",
                                CAS_NODES_MAX, (int)(CAS_NODES_BYTES_MAX / CAS_MIB));
        if (found)
                cas_nodes_put(n, digest, &m);
        return 0;
}

int cas_nodes_run(struct cas_nodes *n, struct cas_err *err)
{
        struct cas_digest digest;
        int rc = 0;
        n->bytes = 0;
        while (rc == 0 && cas_nodes_take(n, &digest))
                rc = look_at(n, &digest, err);
        return rc;
}
