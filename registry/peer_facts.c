/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/decompress.h"
#include "cas/json.h"
#include "registry/peer_int.h"

static int malformed(const char *key, struct cas_err *err)
{
        return cas_fail(err, CAS_E_CORRUPT, "facts of a layer: %s", key);
}

/* A number that is there and at most `max`. */
static int number_in(const json_t *doc, const char *key, uint64_t max, uint64_t *out,
                     struct cas_err *err)
{
        if (!cas_json_has(doc, key))
                return malformed(key, err);
        int rc = cas_json_u64_in(doc, key, 0, out, err);
        return rc < 0 || *out > max ? malformed(key, err) : 0;
}

static int digest_in(const json_t *doc, const char *key, struct cas_digest *out,
                     struct cas_err *err)
{
        const char *text;
        struct cas_err why = CAS_ERR_INIT;
        if (cas_json_string_in(doc, key, &text, &why) < 0 || !text ||
            cas_digest_parse(text, out, &why) < 0)
                return malformed(key, err);
        return 0;
}

static int hash_in(const json_t *doc, const char *key, struct cas_hash *out, struct cas_err *err)
{
        const char *text;
        struct cas_err why = CAS_ERR_INIT;
        if (cas_json_string_in(doc, key, &text, &why) < 0 || !text ||
            !cas_hash_from_hex(text, strlen(text), out) || cas_hash_is_zero(out))
                return malformed(key, err);
        return 0;
}

static int parse_record(const json_t *doc, struct cas_layer_record *out, struct cas_err *err)
{
        uint64_t version, compression;
        if (digest_in(doc, "layer", &out->blob, err) < 0 ||
            digest_in(doc, "diffId", &out->diff_id, err) < 0 ||
            number_in(doc, "tarSize", CAS_TAR_BYTES_MAX, &out->tar_bytes, err) < 0 ||
            number_in(doc, "contentSize", INT64_MAX, &out->content_bytes, err) < 0 ||
            number_in(doc, "entries", CAS_TAR_ENTRIES_MAX, &out->entry_count, err) < 0 ||
            number_in(doc, "compression", CAS_COMPRESSION_ZSTD, &compression, err) < 0 ||
            number_in(doc, "listingVersion", UINT32_MAX, &version, err) < 0 ||
            hash_in(doc, "listing", &out->listing, err) < 0)
                return -(int)err->code;
        out->compression = (uint8_t)compression;
        out->listing_version = (uint32_t)version;
        return 0;
}

static int parse_facts(const json_t *doc, struct reg_peer_layer *out, struct cas_err *err)
{
        uint64_t version;
        if (number_in(doc, "version", UINT32_MAX, &version, err) < 0)
                return -(int)err->code;
        if (version != 1)
                return cas_fail(err, CAS_E_UNSUPPORTED, "facts of a layer: version %llu",
                                (unsigned long long)version);
        if (parse_record(doc, &out->record, err) < 0 ||
            number_in(doc, "size", CAS_UPLOAD_BYTES_MAX, &out->blob_bytes, err) < 0 ||
            number_in(doc, "listingSize", CAS_LISTING_BYTES_MAX, &out->listing_bytes, err) < 0)
                return -(int)err->code;
        out->has_recipe = cas_json_has(doc, "recipe");
        if (!out->has_recipe)
                return 0;
        if (hash_in(doc, "recipe", &out->recipe, err) < 0)
                return -(int)err->code;
        return number_in(doc, "recipeSize", CAS_OBJECT_BYTES_MAX, &out->recipe_bytes, err);
}

int reg_peer_facts_parse(const void *data, size_t len, const struct cas_digest *layer,
                         struct reg_peer_layer *out, struct cas_err *err)
{
        cas_cleanup_json json_t *doc = NULL;
        struct cas_err why = CAS_ERR_INIT;
        struct reg_peer_layer facts = {0};
        if (cas_json_parse(data, len, REG_PEER_FACTS_BYTES_MAX, &doc, &why) < 0)
                return cas_fail(err, CAS_E_CORRUPT, "facts of a layer: %s", why.msg);
        if (!json_is_object(doc))
                return malformed("no object", err);
        int rc = parse_facts(doc, &facts, err);
        if (rc < 0)
                return rc;
        if (!cas_digest_equal(&facts.record.blob, layer))
                return malformed("of another layer", err);
        *out = facts;
        return 0;
}
