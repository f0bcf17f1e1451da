/* SPDX-License-Identifier: Apache-2.0 */
/* What other laminas ask for (spec/peer.md): the parts of a layer. Every answer
 * is reached through a layer that the repository links, and every object is one
 * of that layer's: who may pull the layer may have its parts, and nobody else.
 * All of it waits for the disk, or compresses: it runs on workers. */
#include <inttypes.h>

#include "cas/assemble.h"
#include "cas/json.h"
#include "cas/object.h"
#include "cas/order.h"
#include "registry/peer_frame.h"
#include "registry/peer_sets.h"
#include "registry/range.h"
#include "registry/registry_int.h"

/* A layer that is asked about, and what belongs to it. */
struct peer_layer {
        struct cas_digest digest;
        struct cas_layer_record record;
        struct cas_recipe_record recipe; /* its object is all zero when there is none that counts */
        struct reg_peer_set *set;        /* NULL until it is wanted */
};

struct peer_answer {
        const char *media_type;
        bool may_change;                 /* else caches may keep it for ever */
        const struct cas_digest *digest; /* of the layer; NULL: of none. Borrowed */
        struct cas_buf body;
};

/* ---- what the address names ---- */

static int not_found(struct cas_err *err)
{
        return cas_fail(err, CAS_E_NOTFOUND, "no such part of a layer of this repository");
}

/* Decimal, in its only form. */
static int parse_number(const char **at, char end, uint64_t max, uint64_t *out, struct cas_err *err)
{
        const char *p = *at;
        uint64_t value = 0;
        do {
                unsigned digit = (unsigned)(*p - '0');
                if (digit > 9 || value > (max - digit) / 10)
                        return not_found(err);
                value = 10 * value + digit;
                p++;
        } while (*p != end);
        if (**at == '0' && p - *at > 1)
                return not_found(err);
        *at = p;
        *out = value;
        return 0;
}

static int parse_hash(const char *text, struct cas_hash *out, struct cas_err *err)
{
        return cas_hash_from_hex(text, strlen(text), out) ? 0 : not_found(err);
}

static int find_layer(struct reg_call *call, struct peer_layer *out, struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        bool linked = false;
        int rc = cas_digest_parse(call->route.rest[1], &out->digest, err);
        if (rc == 0)
                rc = cas_blob_linked(call->store, call->route.repo, &out->digest, &linked, err);
        if (rc == 0 && !linked)
                rc = cas_fail(err, CAS_E_NOTFOUND, "the repository has no such blob");
        if (rc == 0)
                rc = cas_layer_stat(call->store, &out->digest, &out->record, err);
        if (rc < 0)
                return rc;
        rc = cas_recipe_stat(call->store, &out->digest, &out->recipe, &miss);
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = miss;
                return rc;
        }
        if (rc < 0 || !cas_recipe_travels(&out->recipe))
                out->recipe = (struct cas_recipe_record){0};
        return 0;
}

static int want_set(struct reg_call *call, struct peer_layer *layer, struct cas_err *err)
{
        return reg_peer_sets_get(call->registry->peer_sets, call->store, &layer->record,
                                 &layer->recipe.recipe, &layer->set, err);
}

/* ---- answers ---- */

static void frame_answer(struct peer_answer *a, enum reg_peer_frame_kind kind,
                         uint64_t object_bytes, const struct cas_buf *raw)
{
        a->media_type = REG_PEER_FRAME_TYPE;
        reg_peer_frame_encode(kind, object_bytes, cas_buf_str(raw), raw->len_bytes, &a->body);
}

static void reply(struct reg_call *call, struct peer_answer *a)
{
        struct cas_hash hash;
        char tag[CAS_HASH_HEX_BYTES];
        cas_sha256(a->body.data, a->body.len_bytes, &hash);
        cas_hash_hex(&hash, tag);
        reg_http_reply_headerf(call->req, "ETag", "\"%s\"", tag);
        const char *repo = call->route.repo[0] ? call->route.repo : NULL;
        const struct reg_cached cached = {
                .kind = a->may_change ? REG_CACHED_LIST : REG_CACHED_CONTENT,
                .is_public = reg_access_public(call->registry->access, repo),
                .repo = repo,
                .digest = a->digest,
        };
        reg_cachepolicy_reply(call->registry->caches, &cached, call->req);
        if (reg_etag_listed(reg_http_header(call->req, "If-None-Match"), tag)) {
                reg_http_reply_head(call->req, 304, a->body.len_bytes);
                return;
        }
        reg_http_reply_header(call->req, "Content-Type", a->media_type);
        reg_http_reply_buf(call->req, 200, &a->body);
}

static int answer_facts(struct reg_call *call, const struct peer_layer *l, struct peer_answer *a,
                        struct cas_err *err)
{
        struct cas_object_info listing;
        char blob[CAS_DIGEST_TEXT_BYTES], diff_id[CAS_DIGEST_TEXT_BYTES], hex[CAS_HASH_HEX_BYTES];
        uint64_t blob_bytes;
        if (cas_blob_stat(call->store, &l->digest, &blob_bytes, err) < 0 ||
            cas_object_stat(call->store, &l->record.listing, &listing, err) < 0)
                return -(int)err->code;
        cas_cleanup_json json_t *doc = json_pack(
                "{s:i,s:s,s:I,s:s,s:I,s:I,s:I,s:i,s:s,s:I,s:i}", "version", 1, "layer",
                cas_digest_text(&l->digest, blob), "size", (json_int_t)blob_bytes, "diffId",
                cas_digest_text(&l->record.diff_id, diff_id), "tarSize",
                (json_int_t)l->record.tar_bytes, "contentSize", (json_int_t)l->record.content_bytes,
                "entries", (json_int_t)l->record.entry_count, "compression",
                (int)l->record.compression, "listing", cas_hash_hex(&l->record.listing, hex),
                "listingSize", (json_int_t)listing.size_bytes, "listingVersion",
                (int)l->record.listing_version);
        cas_assert(doc != NULL);
        if (!cas_hash_is_zero(&l->recipe.recipe)) {
                json_object_set_new(doc, "recipe",
                                    json_string(cas_hash_hex(&l->recipe.recipe, hex)));
                json_object_set_new(doc, "recipeSize",
                                    json_integer((json_int_t)l->recipe.recipe_bytes));
        }
        cas_json_append(doc, &a->body);
        a->media_type = "application/json";
        a->may_change = true; /* a recipe may come */
        return 0;
}

/* The chunks of a page as they travel: all by SHA-256. */
static int list_page(struct reg_call *call, const struct cas_hash *id, uint64_t page_index,
                     struct reg_peer_page *page, struct cas_err *err)
{
        cas_cleanup_free struct cas_object_chunk *chunks =
                cas_xcalloc(REG_PEER_PAGE_CHUNKS, sizeof(*chunks));
        uint32_t count;
        int rc = cas_object_chunks(call->store, id, (uint32_t)page_index * REG_PEER_PAGE_CHUNKS,
                                   chunks, REG_PEER_PAGE_CHUNKS, &count, &page->offset, err);
        if (rc < 0 || count == 0)
                return rc < 0 ? rc : not_found(err);
        page->count = count;
        page->chunks = cas_xcalloc(count, sizeof(page->chunks[0]));
        for (uint32_t i = 0; i < count; i++)
                page->chunks[i] = (struct reg_peer_chunk){chunks[i].name, chunks[i].length_bytes};
        if (count > 1 || !cas_hash_equal(&chunks[0].name, id))
                return 0;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT; /* the only chunk has another name */
        rc = cas_object_read(call->store, id, CAS_CHUNK_BYTES_MAX, &bytes, err);
        if (rc == 0)
                cas_sha256(bytes.data, bytes.len_bytes, &page->chunks[0].sha256);
        return rc;
}

static int answer_chunks(struct reg_call *call, const struct cas_hash *id, uint64_t object_bytes,
                         uint64_t page_index, struct peer_answer *a, struct cas_err *err)
{
        reg_cleanup_peer_page struct reg_peer_page page = {0};
        cas_cleanup_buf struct cas_buf raw = CAS_BUF_INIT;
        int rc = list_page(call, id, page_index, &page, err);
        if (rc < 0)
                return rc;
        reg_peer_page_encode(&page, &raw);
        frame_answer(a, REG_PEER_CHUNKS, object_bytes, &raw);
        return 0;
}

static int answer_whole(struct reg_call *call, const struct cas_hash *id, struct peer_answer *a,
                        struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf raw = CAS_BUF_INIT;
        int rc = cas_object_read(call->store, id, REG_PEER_SMALL_BYTES_MAX, &raw, err);
        if (rc == 0)
                frame_answer(a, REG_PEER_CONTENT, raw.len_bytes, &raw);
        return rc;
}

static int answer_part(struct reg_call *call, const struct cas_hash *id, uint64_t object_bytes,
                       const char *range, struct peer_answer *a, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf raw = CAS_BUF_INIT;
        uint64_t offset, length;
        size_t got;
        if (parse_number(&range, '-', CAS_OBJECT_BYTES_MAX, &offset, err) < 0)
                return -(int)err->code;
        range++;
        if (parse_number(&range, '\0', REG_PEER_PART_BYTES_MAX, &length, err) < 0)
                return -(int)err->code;
        if (length == 0 || offset > object_bytes || length > object_bytes - offset)
                return not_found(err);
        cas_buf_reserve(&raw, length);
        int rc = cas_object_pread(call->store, id, offset, raw.data, length, &got, err);
        if (rc < 0)
                return rc;
        raw.len_bytes = got;
        frame_answer(a, REG_PEER_CONTENT, object_bytes, &raw);
        return 0;
}

/* rest: objects/HEX, objects/HEX/chunks/N, objects/HEX/parts/OFFSET-LENGTH */
static int answer_object(struct reg_call *call, struct peer_layer *layer, struct peer_answer *a,
                         struct cas_err *err)
{
        const char *const *rest = call->route.rest;
        size_t count = call->route.rest_count;
        struct cas_hash id;
        struct cas_object_info info;
        uint64_t page;
        if (parse_hash(rest[3], &id, err) < 0 || want_set(call, layer, err) < 0)
                return -(int)err->code;
        if (!reg_peer_set_has(layer->set, &id))
                return not_found(err);
        if (cas_object_stat(call->store, &id, &info, err) < 0)
                return -(int)err->code;
        if (count == 4)
                return info.size_bytes <= REG_PEER_SMALL_BYTES_MAX
                               ? answer_whole(call, &id, a, err)
                               : answer_chunks(call, &id, info.size_bytes, 0, a, err);
        if (strcmp(rest[4], "parts") == 0)
                return answer_part(call, &id, info.size_bytes, rest[5], a, err);
        const char *at = rest[5];
        if (strcmp(rest[4], "chunks") != 0)
                return not_found(err);
        if (parse_number(&at, '\0', UINT32_MAX / REG_PEER_PAGE_CHUNKS, &page, err) < 0)
                return -(int)err->code;
        return answer_chunks(call, &id, info.size_bytes, page, a, err);
}

/* rest: groups/LISTING/N */
static int answer_group(struct reg_call *call, struct peer_layer *layer, struct peer_answer *a,
                        struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf raw = CAS_BUF_INIT;
        struct cas_hash listing;
        uint64_t group;
        const char *at = call->route.rest[4];
        if (parse_hash(call->route.rest[3], &listing, err) < 0 ||
            parse_number(&at, '\0', REG_PEER_NO_GROUP, &group, err) < 0)
                return -(int)err->code;
        if (!cas_hash_equal(&listing, &layer->record.listing))
                return not_found(err);
        if (want_set(call, layer, err) < 0)
                return -(int)err->code;
        const struct reg_peer_parts *parts = reg_peer_set_parts(layer->set);
        if (group >= parts->group_count)
                return not_found(err);
        for (uint32_t i = parts->group_first[group]; i < parts->group_first[group + 1]; i++) {
                const struct reg_peer_part *part = &parts->parts[i];
                if (part->group == group &&
                    cas_object_read(call->store, &part->id, part->size_bytes, &raw, err) < 0)
                        return -(int)err->code;
        }
        frame_answer(a, REG_PEER_CONTENT, raw.len_bytes, &raw);
        return 0;
}

/* Who asks for a layer's facts asks for its parts next. */
static int renew_layer(struct reg_call *call, struct cas_err *err)
{
        struct cas_digest digest;
        bool waits;
        int rc = cas_digest_parse(call->route.rest[1], &digest, err);
        if (rc == 0)
                rc = cas_blob_waits(call->store, call->route.repo, &digest, &waits, err);
        return rc < 0 || !waits ? rc : cas_blob_renew(call->store, call->route.repo, &digest, err);
}

static int answer_layer(struct reg_call *call, struct peer_layer *layer, struct peer_answer *a,
                        struct cas_err *err)
{
        const char *const *rest = call->route.rest;
        size_t count = call->route.rest_count;
        if ((count == 2 && renew_layer(call, err) < 0) || find_layer(call, layer, err) < 0)
                return -(int)err->code;
        a->digest = &layer->digest;
        if (count == 2)
                return answer_facts(call, layer, a, err);
        if (strcmp(rest[2], "objects") == 0 && (count == 4 || count == 6))
                return answer_object(call, layer, a, err);
        if (strcmp(rest[2], "groups") == 0 && count == 5)
                return answer_group(call, layer, a, err);
        return not_found(err);
}

/* rest: manifests/DIGEST/order */
static int answer_order(struct reg_call *call, struct peer_answer *a, struct cas_err *err)
{
        cas_cleanup_free struct cas_hash *ids = NULL;
        cas_cleanup_buf struct cas_buf raw = CAS_BUF_INIT;
        struct cas_digest manifest;
        struct cas_manifest_info info;
        size_t count = 0;
        if (cas_digest_parse(call->route.rest[1], &manifest, err) < 0 ||
            cas_manifest_stat(call->store, call->route.repo, &manifest, &info, err) < 0 ||
            cas_order_find(call->store, call->route.repo, &manifest, &ids, &count, REG_PEER_IDS_MAX,
                           err) < 0)
                return -(int)err->code;
        if (count > 0)
                cas_buf_append(&raw, ids, count * sizeof(ids[0]));
        frame_answer(a, REG_PEER_IDS, 0, &raw);
        a->may_change = true;
        return 0;
}

static int answer(struct reg_call *call, struct peer_layer *layer, struct peer_answer *a,
                  struct cas_err *err)
{
        const char *const *rest = call->route.rest;
        size_t count = call->route.rest_count;
        if (count >= 2 && strcmp(rest[0], "layers") == 0)
                return answer_layer(call, layer, a, err);
        if (count == 3 && strcmp(rest[0], "manifests") == 0 && strcmp(rest[2], "order") == 0)
                return answer_order(call, a, err);
        return not_found(err);
}

static void peer_work(struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        struct peer_layer layer = {0};
        struct peer_answer a = {0};
        int rc = answer(call, &layer, &a, &err);
        reg_peer_sets_put(call->registry->peer_sets, layer.set);
        if (rc < 0)
                reg_reply_err(call->req, REG_ABOUT_BLOB, &err);
        else
                reply(call, &a);
        cas_buf_release(&a.body);
}

void reg_peer_get(struct reg_call *call)
{
        reg_call_work(call, peer_work);
}

void reg_extensions_get(struct reg_call *call)
{
        static const char text[] =
                "{\"extensions\":[{\"name\":\"_lamina\",\"description\":\"layers by their parts\","
                "\"url\":\"spec/peer.md\"}]}";
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        cas_buf_append(&body, text, sizeof(text) - 1);
        reg_reply_list(call, "application/json", &body);
}
