/* SPDX-License-Identifier: Apache-2.0 */
/* What an image is: its documents, and what is known of its layers. */
#include "cas/elsewhere.h"
#include "cas/blob.h"
#include "cas/condense.h"
#include "cas/image.h"
#include "cas/json.h"
#include "cas/layer.h"
#include "cas/map.h"
#include "tools/ops.h"
#include "tools/ops_json.h"

static int blob_json(struct cas_store *s, const struct cas_digest *digest, size_t bytes_max,
                     struct cas_buf *bytes, json_t **out, struct cas_err *err)
{
        if (cas_blob_read(s, digest, bytes_max, bytes, err) < 0)
                return -(int)err->code;
        char text[CAS_DIGEST_TEXT_BYTES];
        if (cas_json_parse(bytes->data, bytes->len_bytes, bytes_max, out, err) < 0)
                return cas_err_wrap(err, "%s", cas_digest_text(digest, text));
        return 0;
}

static json_t *number(uint64_t v)
{
        return json_integer((json_int_t)v);
}

/* ---- layers ---- */

static json_t *layer_json(struct cas_store *s, const struct cas_descriptor *d)
{
        struct cas_recipe_record rec = {.blob = d->digest, .blob_bytes = d->size_bytes};
        struct cas_layer_record layer;
        struct cas_elsewhere_progress come;
        struct cas_err ignored = CAS_ERR_INIT;
        uint64_t verbatim_bytes = 0;
        cas_cleanup_fd int fd = -1;
        bool known = cas_recipe_stat(s, &d->digest, &rec, &ignored) == 0;
        json_t *j = op_recipe_json(s, &rec);
        json_object_set_new(j, "mediaType", op_text_json(d->media_type));
        if (!known)
                json_object_set_new(j, "reason", json_string("not condensed yet"));
        if (cas_blob_open(s, &d->digest, &fd, &verbatim_bytes, &ignored) < 0)
                verbatim_bytes = 0;
        json_object_set_new(j, "verbatimBytes", number(verbatim_bytes));
        if (cas_layer_stat(s, &d->digest, &layer, &ignored) == 0) {
                json_object_set_new(j, "tarBytes", number(layer.tar_bytes));
                json_object_set_new(j, "contentBytes", number(layer.content_bytes));
                json_object_set_new(j, "entries", number(layer.entry_count));
        }
        if (cas_elsewhere_progress(s, &d->digest, &come, &ignored) == 0) {
                json_object_set_new(j, "hereBytes", number(come.here_bytes));
                json_object_set_new(j, "filesBytes", number(come.file_bytes));
        }
        return j;
}

/* How many layers of the store have an object: the low half counts, the high half is the number of
 * the layer that counted last. */
struct sharing {
        struct cas_store *s;
        struct cas_map *objects; /* of the image's layers */
        uint32_t layer;
        struct cas_err *err;
        int rc;
};

static int each_object(struct sharing *sh, const struct cas_layer_record *layer,
                       void (*fn)(struct sharing *sh, const struct cas_entry *e, void *arg),
                       void *arg)
{
        cas_cleanup_listing struct cas_listing listing = {0};
        int rc = cas_layer_listing(sh->s, layer, &listing, sh->err);
        sh->layer++;
        for (size_t i = 0; rc == 0 && i < listing.count; i++) {
                const struct cas_entry *e = &listing.entries[i];
                if (e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX)
                        fn(sh, e, arg);
        }
        return rc;
}

static void note_object(struct sharing *sh, const struct cas_entry *e, void *arg CAS_UNUSED)
{
        (void)cas_map_put(sh->objects, e->object.bytes, sizeof(e->object.bytes), NULL);
}

/* True the first time that the present layer comes with it. */
static bool is_first(struct sharing *sh, uint64_t *value)
{
        bool first = *value >> 32 != sh->layer;
        *value = (uint64_t)sh->layer << 32 | (uint32_t)*value;
        return first;
}

static void count_object(struct sharing *sh, const struct cas_entry *e, void *arg CAS_UNUSED)
{
        uint64_t *value = cas_map_get(sh->objects, e->object.bytes, sizeof(e->object.bytes));
        if (value && is_first(sh, value))
                ++*value;
}

static bool count_layer(void *arg, const struct cas_layer_record *layer)
{
        struct sharing *sh = arg;
        sh->rc = each_object(sh, layer, count_object, NULL);
        return sh->rc == 0;
}

static void sum_object(struct sharing *sh, const struct cas_entry *e, void *arg)
{
        uint64_t *sums = arg; /* own, shared */
        uint64_t *value = cas_map_get(sh->objects, e->object.bytes, sizeof(e->object.bytes));
        if (value && is_first(sh, value))
                sums[(uint32_t)*value > 1] += e->size_bytes;
}

/* Adds to each layer which bytes of its files no other layer of the store has. */
static int sharing_json(struct cas_store *s, const struct cas_manifest *m, json_t *layers,
                        struct cas_err *err)
{
        cas_cleanup_map struct cas_map *objects = cas_map_new();
        struct sharing sh = {.s = s, .objects = objects, .err = err};
        struct cas_err ignored = CAS_ERR_INIT;
        struct cas_layer_record layer;
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < m->child_count; i++)
                if (cas_layer_stat(s, &m->children[i].digest, &layer, &ignored) == 0)
                        rc = each_object(&sh, &layer, note_object, NULL);
        if (rc == 0)
                rc = cas_layer_each(s, NULL, count_layer, &sh, err);
        if (rc == 0)
                rc = sh.rc;
        for (size_t i = 0; rc == 0 && i < m->child_count; i++) {
                uint64_t sums[2] = {0, 0};
                if (cas_layer_stat(s, &m->children[i].digest, &layer, &ignored) != 0)
                        continue;
                rc = each_object(&sh, &layer, sum_object, sums);
                json_t *j = json_array_get(layers, i);
                json_object_set_new(j, "ownBytes", number(sums[0]));
                json_object_set_new(j, "sharedBytes", number(sums[1]));
        }
        return rc;
}

/* ---- the whole ---- */

static int image_json(struct cas_store *s, const struct cas_manifest *m, bool sharing, json_t *out,
                      struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        json_t *config = NULL;
        struct cas_err ignored = CAS_ERR_INIT;
        /* Artifacts carry configs that are anything at all: shown where they are JSON. */
        if (blob_json(s, &m->config.digest, CAS_CONFIG_BYTES_MAX, &bytes, &config, &ignored) == 0)
                json_object_set_new(out, "config", config);
        json_t *layers = json_array();
        json_object_set_new(out, "layers", layers);
        for (size_t i = 0; i < m->child_count; i++)
                json_array_append_new(layers, layer_json(s, &m->children[i]));
        return sharing ? sharing_json(s, m, layers, err) : 0;
}

int op_inspect(struct cas_store *s, const json_t *args, const struct op_context *ctx,
               json_t **result, struct cas_err *err)
{
        (void)ctx;
        struct cas_ref ref;
        struct cas_manifest_info info;
        if (op_arg_ref(args, "name", &ref, err) < 0 || cas_ref_resolve(s, &ref, &info, err) < 0)
                return -(int)err->code;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        op_cleanup_json json_t *document = NULL;
        if (blob_json(s, &info.digest, CAS_MANIFEST_BYTES_MAX, &bytes, &document, err) < 0)
                return -(int)err->code;
        cas_cleanup_manifest struct cas_manifest manifest = {0};
        if (cas_manifest_parse(bytes.data, bytes.len_bytes, info.media_type, &manifest, err) < 0)
                return -(int)err->code;
        op_cleanup_json json_t *out = op_manifest_json(ref.repo, ref.tag, &info);
        json_object_set(out, "manifest", document);
        if (manifest.kind == CAS_MANIFEST_IMAGE &&
            image_json(s, &manifest, json_is_true(json_object_get(args, "sharing")), out, err) < 0)
                return -(int)err->code;
        *result = cas_steal(&out);
        return 0;
}
