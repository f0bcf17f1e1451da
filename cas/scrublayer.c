/* SPDX-License-Identifier: Apache-2.0 */
/* Scrub of layers: what was decoded is there, and is what the blob says. */
#include "cas/blobcache_int.h"
#include "cas/decompress.h"
#include "cas/elsewhere_int.h"
#include "cas/hashset.h"
#include "cas/layer.h"
#include "cas/scrub_int.h"

#define PIECE_BYTES (256 * CAS_KIB)

struct layer_look {
        struct cas_look *look;
        struct cas_scrub_run *run;
        struct cas_layer_record rec;
        char text[CAS_DIGEST_TEXT_BYTES];
};

/* ---- files ---- */

/* The object is there and has the size that the layer says. False: the look is over. */
static bool check_file(struct layer_look *l, const struct cas_entry *e)
{
        const struct cas_damage damage = {.kind = CAS_DAMAGE_OBJECT, .hash = e->object};
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_object_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        cas_look_pin_object(l->look, &e->object);
        int rc = cas_index_peek(l->run->s->index, CAS_FAMILY_OBJECTS, e->object.bytes,
                                CAS_HASH_BYTES, &value, &miss);
        if (rc == 0)
                rc = cas_object_record_decode(value.data, value.len_bytes, &rec, &miss);
        if (rc == -CAS_E_NOMEM) {
                cas_scrub_fail(l->run, &miss);
                return false;
        }
        if (rc < 0)
                cas_look_found(l->look, CAS_FSCK_OBJECT_MISSING, &damage, l->text, "%.200s: %s",
                               e->path, miss.msg);
        else if (rec.size_bytes != e->size_bytes)
                cas_look_found(l->look, CAS_FSCK_OBJECT_SIZE, &damage, l->text,
                               "%.200s: %llu bytes, the layer says %llu", e->path,
                               (unsigned long long)rec.size_bytes,
                               (unsigned long long)e->size_bytes);
        return true;
}

static bool is_object(const struct cas_entry *e)
{
        return e->type == CAS_ENTRY_FILE && e->size_bytes > CAS_INLINE_BYTES_MAX;
}

static void check_listing(struct layer_look *l)
{
        cas_cleanup_listing struct cas_listing listing = {0};
        const struct cas_damage damage = {.kind = CAS_DAMAGE_OBJECT, .hash = l->rec.listing};
        struct cas_err bad = CAS_ERR_INIT;
        cas_look_pin_object(l->look, &l->rec.listing);
        if (cas_layer_listing(l->run->s, &l->rec, &listing, &bad) < 0) {
                cas_look_found(l->look, CAS_FSCK_LAYER_LISTING, &damage, l->text, "%s", bad.msg);
                return;
        }
        bool good = true;
        for (size_t i = 0; good && i < listing.count; i++)
                good = !is_object(&listing.entries[i]) || check_file(l, &listing.entries[i]);
}

/* ---- the tar of a verbatim blob ---- */

struct blob_source {
        struct cas_scrub_file *file;
        uint64_t at;
};

static int give_blob(void *arg, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct blob_source *source = arg;
        int rc = cas_io_pread(cas_scrub_file_io(source->file), cas_scrub_file_fd(source->file), buf,
                              len, source->at, out_len, "blob", err);
        source->at += rc == 0 ? *out_len : 0;
        return rc;
}

static int hash_tar(struct layer_look *l, struct blob_source *source, struct cas_digest *out,
                    struct cas_err *err)
{
        cas_cleanup_decompress struct cas_decompress *d = NULL;
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(l->rec.diff_id.alg);
        cas_cleanup_free uint8_t *piece = cas_xmalloc(PIECE_BYTES);
        size_t n = 1;
        int rc = cas_decompress_open(give_blob, source, &d, err);
        while (rc == 0 && n > 0) {
                rc = cas_decompress_read(d, piece, PIECE_BYTES, &n, err);
                if (rc == 0)
                        cas_hasher_update(hasher, piece, n);
        }
        if (rc == 0)
                cas_hasher_final(hasher, out);
        return rc;
}

static void check_tar(struct layer_look *l)
{
        cas_cleanup_scrub_file struct cas_scrub_file *file = NULL;
        struct blob_source source = {0};
        struct cas_blob_record rec;
        struct cas_digest got;
        struct cas_err err = CAS_ERR_INIT;
        char path[CAS_BLOB_PATH_BYTES], text[CAS_DIGEST_TEXT_BYTES];
        if (cas_blob_record_get(l->run->s, &l->rec.blob, &rec, &err) < 0 ||
            rec.copy != CAS_BLOB_VERBATIM)
                return;
        cas_blob_path(&l->rec.blob, path);
        if (cas_scrub_file_open(l->run, l->run->s->dirfd, path, &source.file, &err) < 0)
                return; /* told of with the blobs */
        file = source.file;
        int rc = hash_tar(l, &source, &got, &err);
        if (rc < 0 || !cas_digest_equal(&got, &l->rec.diff_id))
                cas_look_found(l->look, CAS_FSCK_LAYER_TAR, NULL, l->text, "%s",
                               rc < 0 ? err.msg : cas_digest_text(&got, text));
}

/* ---- layers ---- */

static void check_layer(struct cas_look *look, const struct cas_scrub_item *item)
{
        struct layer_look l = {.look = look, .run = cas_look_run(look)};
        struct cas_digest blob;
        struct cas_err err = CAS_ERR_INIT;
        bool here;
        if (cas_digest_value_decode(item->key, item->key_len, &blob, &err) < 0 ||
            cas_layer_record_decode(&blob, item->value, item->value_len, &l.rec, &err) < 0) {
                cas_look_found(look, CAS_FSCK_RECORD_MALFORMED, NULL, "layers", "%s", err.msg);
                return;
        }
        cas_look_pin_blob(look, &blob);
        cas_digest_text(&blob, l.text);
        int rc = cas_index_has(l.run->s->index, CAS_FAMILY_BLOBS, item->key, item->key_len, &here,
                               &err);
        if (rc < 0 || !here)
                cas_look_found(look, CAS_FSCK_LAYER_BLOB, NULL, l.text, "%s",
                               rc < 0 ? err.msg : "");
        check_listing(&l);
        if (rc == 0 && here)
                check_tar(&l);
}

void cas_scrub_layers(struct cas_scrub_run *run)
{
        (void)cas_scrub_each(run, &(struct cas_scrub_family){.family = CAS_FAMILY_LAYERS,
                                                             .check = check_layer,
                                                             .counter = &run->out->layers,
                                                             .at_once = 1});
}

/* ---- layers that are elsewhere ---- */

static int count_files(struct cas_scrub_run *run, const struct cas_listing *listing,
                       uint64_t *files, uint64_t *here, struct cas_err *err)
{
        struct cas_hashset seen = CAS_HASHSET_INIT;
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < listing->count; i++) {
                const struct cas_entry *e = &listing->entries[i];
                bool is_here = false;
                if (!is_object(e) || !cas_hashset_add(&seen, e->object.bytes))
                        continue;
                rc = cas_index_has(run->s->index, CAS_FAMILY_OBJECTS, e->object.bytes,
                                   CAS_HASH_BYTES, &is_here, err);
                ++*files;
                *here += is_here;
        }
        cas_hashset_release(&seen);
        return rc;
}

static void check_elsewhere(struct cas_look *look, const struct cas_scrub_item *item)
{
        cas_cleanup_listing struct cas_listing listing = {0};
        struct cas_scrub_run *run = cas_look_run(look);
        struct cas_elsewhere_layer rec;
        struct cas_layer_record layer;
        struct cas_digest blob;
        struct cas_err bad = CAS_ERR_INIT;
        char text[CAS_DIGEST_TEXT_BYTES];
        uint64_t files = 0, here = 0;
        if (cas_digest_value_decode(item->key, item->key_len, &blob, &bad) < 0 ||
            cas_elsewhere_decode(&blob, item->value, item->value_len, &rec, &bad) < 0) {
                cas_look_found(look, CAS_FSCK_RECORD_MALFORMED, NULL, "elsewhere", "%s", bad.msg);
                return;
        }
        cas_look_pin_blob(look, &blob);
        cas_look_pin_object(look, &rec.layer.listing);
        if (cas_layer_stat(run->s, &blob, &layer, &bad) == 0)
                return; /* it came otherwise, and the record is about to go */
        cas_digest_text(&blob, text);
        if (cas_layer_listing(run->s, &rec.layer, &listing, &bad) < 0 ||
            count_files(run, &listing, &files, &here, &bad) < 0)
                cas_look_found(
                        look, CAS_FSCK_LAYER_LISTING,
                        &(struct cas_damage){.kind = CAS_DAMAGE_OBJECT, .hash = rec.layer.listing},
                        text, "%s", bad.msg);
        else if (cas_look_is_first(look))
                cas_scrub_say(run, CAS_FSCK_LAYER_ELSEWHERE, text,
                              "%llu of %llu files are here, the others at %s",
                              (unsigned long long)here, (unsigned long long)files, rec.source);
}

void cas_scrub_elsewhere(struct cas_scrub_run *run)
{
        (void)cas_scrub_each(run, &(struct cas_scrub_family){.family = CAS_FAMILY_ELSEWHERE,
                                                             .check = check_elsewhere,
                                                             .at_once = 1});
}
