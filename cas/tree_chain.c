/* SPDX-License-Identifier: Apache-2.0 */
/* Trees of chains of layers that the store has decoded. */
#include "cas/elsewhere.h"
#include "cas/pins_int.h"
#include "cas/store_int.h"
#include "cas/tree_int.h"

struct layer_source {
        struct cas_store *s;
        const struct cas_layer_record *layers;
};

static int layer_listing(void *arg, size_t index, struct cas_listing *out, struct cas_err *err)
{
        const struct layer_source *source = arg;
        return cas_layer_listing(source->s, &source->layers[index], out, err);
}

/* The caller looked the layers up before anything kept them. A tree of one that was collected since
 * would be nobody's. */
static int pin_layers(struct cas_store *s, const struct cas_tree_chain *chain,
                      struct cas_pins *pins, struct cas_err *err)
{
        for (size_t i = 0; i < chain->count; i++) {
                struct cas_layer_record now;
                cas_pin_blob(pins, &chain->layers[i].blob);
                cas_pin_object(pins, &chain->layers[i].listing);
                int rc = cas_elsewhere_layer(s, &chain->layers[i].blob, &now, err);
                if (rc < 0)
                        return cas_err_wrap(err, "layer %zu", i);
        }
        return 0;
}

/* chain: without its listings. */
static int ensure_chain(struct cas_store *s, struct cas_tree_chain chain, struct cas_tree_ref *out,
                        struct cas_err *err)
{
        cas_cleanup_pins struct cas_pins *pins = cas_pins_new(s);
        struct layer_source source = {s, chain.layers};
        int rc = pin_layers(s, &chain, pins, err);
        chain.listing = layer_listing;
        chain.listing_arg = &source;
        return rc < 0 ? rc : cas_tree_ensure_chain(s, &chain, out, err);
}

static int ensure_layers(struct cas_store *s, const struct cas_layer_record *layers, size_t count,
                         size_t base_count, struct cas_tree_ref *out, struct cas_err *err)
{
        const struct cas_tree_chain chain = {
                .layers = layers, .count = count, .base_count = base_count};
        return ensure_chain(s, chain, out, err);
}

int cas_tree_ensure_layer(struct cas_store *s, const struct cas_layer_record *layer,
                          struct cas_tree_ref *out, struct cas_err *err)
{
        const struct cas_tree_chain chain = {.layers = layer, .count = 1, .alone = true};
        return ensure_chain(s, chain, out, err);
}

int cas_tree_ensure(struct cas_store *s, const struct cas_layer_record *layers, size_t count,
                    struct cas_tree_ref *out, struct cas_err *err)
{
        return ensure_layers(s, layers, count, 0, out, err);
}

int cas_tree_ensure_stacked(struct cas_store *s, const struct cas_layer_record *layers,
                            size_t count, size_t base_count, struct cas_tree_ref *out_top,
                            struct cas_tree_ref *out_base, struct cas_err *err)
{
        cas_assert(base_count > 0);
        cas_assert(base_count < count);
        struct cas_tree_ref base;
        if (ensure_layers(s, layers, base_count, 0, &base, err) < 0 ||
            ensure_layers(s, layers, count, base_count, out_top, err) < 0)
                return -(int)err->code;
        *out_base = base;
        return 0;
}

int cas_tree_find_cut(struct cas_store *s, const struct cas_layer_record *layers, size_t count,
                      size_t *out_base_count, bool *found, struct cas_err *err)
{
        struct cas_tree_chain chain = {.layers = layers, .count = count};
        *found = false;
        *out_base_count = 0;
        /* The flat tree last: a chain that was cut gets one too when it is unpacked, or when
         * another stands on it, and its uppers belong to the cut. */
        for (size_t i = 1; i == 1 || i <= count; i++) {
                size_t base = i < count ? i : 0;
                struct cas_hash key;
                chain.base_count = base;
                cas_tree_key(&chain, &key);
                if (cas_index_has(s->index, CAS_FAMILY_TREES, key.bytes, CAS_HASH_BYTES, found,
                                  err) < 0)
                        return -(int)err->code;
                if (*found) {
                        *out_base_count = base;
                        return 0;
                }
        }
        return 0;
}
