/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/assemble.h"

#include <inttypes.h>
#include <stdio.h>

#include "cas/blob.h"
#include "cas/commit_int.h"
#include "cas/layer_int.h"
#include "cas/map.h"
#include "cas/once.h"
#include "cas/recipe_int.h"
#include "cas/regen.h"

/* Objects that a recipe names itself: a layer has no more files. */
#define OWN_OBJECTS_MAX CAS_TAR_ENTRIES_MAX

/* ---- what is needed ---- */

void cas_assembly_needs_release(struct cas_assembly_needs *n)
{
        free(n->missing);
        free(n->missing_sizes);
        *n = (struct cas_assembly_needs){0};
}

struct needs {
        struct cas_store *s;
        struct cas_publish *keep; /* borrowed */
        struct cas_map *seen;     /* owned */
        struct cas_assembly_needs out;
        size_t alloc;
};

static int need(struct needs *n, const struct cas_hash *id, uint64_t size_bytes,
                struct cas_err *err)
{
        struct cas_object_info info;
        struct cas_err miss = CAS_ERR_INIT;
        bool is_new;
        (void)cas_map_put(n->seen, id->bytes, CAS_HASH_BYTES, &is_new);
        if (!is_new)
                return 0;
        cas_publish_keep_object(n->keep, id);
        n->out.content_bytes += size_bytes;
        int rc = cas_object_stat(n->s, id, &info, &miss);
        if (rc == 0)
                return 0;
        if (rc != -CAS_E_NOTFOUND) {
                *err = miss;
                return rc;
        }
        if (n->out.missing_count == n->alloc) {
                n->alloc = n->alloc ? 2 * n->alloc : 256;
                n->out.missing = cas_xrealloc(n->out.missing, n->alloc * sizeof(n->out.missing[0]));
                n->out.missing_sizes = cas_xrealloc(n->out.missing_sizes,
                                                    n->alloc * sizeof(n->out.missing_sizes[0]));
        }
        n->out.missing_sizes[n->out.missing_count] = size_bytes;
        n->out.missing[n->out.missing_count++] = *id;
        n->out.missing_bytes += size_bytes;
        return 0;
}

static int need_own(void *arg, const struct cas_hash *object, struct cas_err *err)
{
        return need(arg, object, 0, err);
}

static int need_listed(struct needs *n, const struct cas_hash *listing, struct cas_err *err)
{
        cas_cleanup_listing struct cas_listing l = {0};
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        int rc = cas_object_read(n->s, listing, CAS_LISTING_BYTES_MAX, &bytes, err);
        if (rc == 0)
                rc = cas_listing_decode(bytes.data, bytes.len_bytes, &l, err);
        for (size_t i = 0; rc == 0 && i < l.count; i++) {
                const struct cas_entry *e = &l.entries[i];
                if (e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX)
                        rc = need(n, &e->object, e->size_bytes, err);
        }
        return rc;
}

int cas_recipe_each_own_object(struct cas_store *s, const struct cas_hash *recipe,
                               int (*fn)(void *arg, const struct cas_hash *object,
                                         struct cas_err *err),
                               void *arg, struct cas_err *err)
{
        cas_cleanup_recipe struct cas_recipe *r = NULL;
        if (cas_recipe_open(s, recipe, &r, err) < 0)
                return -(int)err->code;
        const struct cas_recipe_head *head = cas_recipe_head(r);
        uint64_t bytes = head->section_bytes[CAS_RECIPE_TAR_OBJECTS];
        if (bytes % CAS_HASH_BYTES != 0)
                return cas_fail(err, CAS_E_CORRUPT, "recipe: half a digest");
        if (bytes / CAS_HASH_BYTES > OWN_OBJECTS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "recipe: more than %d objects", OWN_OBJECTS_MAX);
        for (uint64_t at = 0; at < bytes; at += CAS_HASH_BYTES) {
                struct cas_hash id;
                int rc = cas_recipe_read(r, CAS_RECIPE_TAR_OBJECTS, at, id.bytes, CAS_HASH_BYTES,
                                         err);
                if (rc == 0 && !cas_hash_is_zero(&id))
                        rc = fn(arg, &id, err);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

bool cas_recipe_travels(const struct cas_recipe_record *rec)
{
        return rec->is_proved && rec->wrap != CAS_WRAP_ZSTD_FRAMES;
}

static int check_wrap(struct cas_store *s, const struct cas_hash *recipe, struct cas_err *err)
{
        cas_cleanup_recipe struct cas_recipe *r = NULL;
        if (cas_recipe_open(s, recipe, &r, err) < 0)
                return -(int)err->code;
        if (cas_recipe_head(r)->wrap == CAS_WRAP_ZSTD_FRAMES)
                return cas_fail(err, CAS_E_UNSUPPORTED, "a recipe made of kept frames");
        return 0;
}

int cas_assembly_needs(struct cas_publish *keep, const struct cas_hash *listing,
                       const struct cas_hash *recipe, struct cas_assembly_needs *out,
                       struct cas_err *err)
{
        cas_cleanup_map struct cas_map *seen = cas_map_new();
        struct cas_store *s = cas_publish_store(keep);
        struct needs n = {.s = s, .keep = keep, .seen = seen};
        cas_publish_keep_object(keep, listing);
        cas_publish_keep_object(keep, recipe);
        int rc = check_wrap(s, recipe, err);
        if (rc == 0)
                rc = need_listed(&n, listing, err);
        if (rc == 0)
                rc = cas_recipe_each_own_object(s, recipe, need_own, &n, err);
        if (rc < 0)
                cas_assembly_needs_release(&n.out);
        *out = n.out;
        return rc;
}

/* ---- making it ---- */

struct assembly {
        struct cas_store *s;
        const struct cas_digest *blob;
        uint64_t blob_bytes;
        const struct cas_hash *recipe;
        const struct cas_progress *progress;
        struct cas_regen *regen;
        struct cas_recipe_record rec;
};

/* The last bytes come only when the digest is right. */
static int read_regen(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        const struct assembly *a = arg;
        return cas_regen_read(a->regen, buf, len, out_len, err);
}

static int publish_recipe(void *arg, struct cas_publish *p,
                          const struct cas_layer_record *layer CAS_UNUSED, struct cas_err *err)
{
        const struct assembly *a = arg;
        return cas_publish_assembled(p, &a->rec, err);
}

/* What is known of the recipe without having looked at a copy of the blob. */
static int describe(struct assembly *a, struct cas_err *err)
{
        cas_cleanup_recipe struct cas_recipe *r = NULL;
        struct cas_object_info info;
        if (cas_recipe_open(a->s, a->recipe, &r, err) < 0 ||
            cas_object_stat(a->s, a->recipe, &info, err) < 0)
                return -(int)err->code;
        const struct cas_recipe_head *head = cas_recipe_head(r);
        if (head->blob_bytes != a->blob_bytes)
                return cas_fail(err, CAS_E_CORRUPT,
                                "the recipe makes %" PRIu64 " bytes, not %" PRIu64,
                                head->blob_bytes, a->blob_bytes);
        a->rec = (struct cas_recipe_record){
                .blob = *a->blob,
                .recipe = *a->recipe,
                .is_proved = true,
                .analysis = CAS_CONDENSE_ANALYSIS,
                .wrap = (uint8_t)head->wrap,
                .blob_bytes = head->blob_bytes,
                .recipe_bytes = info.size_bytes,
                .text = "by a recipe from elsewhere",
        };
        return 0;
}

static int assemble_parts(struct assembly *a, struct cas_layer_record *out, struct cas_err *err)
{
        cas_cleanup_regen struct cas_regen *g = NULL;
        if (describe(a, err) < 0 || cas_regen_open(a->s, a->blob, a->recipe, 0, 0, &g, err) < 0)
                return -(int)err->code;
        a->regen = g;
        const struct cas_layer_source source = {.read = read_regen,
                                                .finish = publish_recipe,
                                                .arg = a,
                                                .stored_bytes = a->blob_bytes,
                                                .progress = a->progress};
        return cas_layer_decode(a->s, &source, a->blob, out, err);
}

static int assemble(void *arg, void *result, struct cas_err *err)
{
        struct assembly *a = arg;
        struct cas_layer_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_blob_stat(a->s, a->blob, NULL, &miss);
        if (rc == 0)
                rc = cas_layer_stat(a->s, a->blob, &rec, &miss);
        if (rc == -CAS_E_NOTFOUND)
                rc = assemble_parts(a, &rec, err);
        else if (rc < 0)
                *err = miss;
        if (rc == 0)
                memcpy(result, &rec, sizeof(rec));
        return rc;
}

int cas_layer_assemble(struct cas_store *s, const struct cas_digest *blob, uint64_t blob_bytes,
                       const struct cas_hash *recipe, const struct cas_progress *progress,
                       struct cas_layer_record *out, struct cas_err *err)
{
        static struct cas_once once = CAS_ONCE_INIT("assemble.once");
        struct assembly a = {.s = s,
                             .blob = blob,
                             .blob_bytes = blob_bytes,
                             .recipe = recipe,
                             .progress = progress};
        char text[CAS_DIGEST_TEXT_BYTES];
        int rc = cas_once(&once, s, blob, assemble, &a, out, sizeof(*out), err);
        return rc < 0 ? cas_err_wrap(err, "assemble %s", cas_digest_text(blob, text)) : 0;
}
