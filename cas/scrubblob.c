/* SPDX-License-Identifier: Apache-2.0 */
/* Scrub of blobs: files by their digest; what is condensed is made from its recipe. */
#include <fcntl.h>
#include <stdio.h>

#include "cas/blobcache_int.h"
#include "cas/recipe_int.h"
#include "cas/regen.h"
#include "cas/scrub_int.h"

#define PIECE_BYTES (256 * CAS_KIB)

/* ---- files ---- */

struct blob_look {
        struct cas_look *look;
        struct cas_scrub_run *run;
        struct cas_digest digest;
        struct cas_damage damage;
        struct cas_blob_record rec;
        char text[CAS_DIGEST_TEXT_BYTES];
};

/* A copy that is a cache may be lost. */
static void found_copy(struct blob_look *b, enum cas_fsck_message message, const char *detail)
{
        if (b->rec.copy == CAS_BLOB_CACHED)
                message = CAS_FSCK_COPY_DAMAGED;
        cas_look_found(b->look, message, &b->damage, b->text, "%s", detail);
}

/* Record and file as they are together: who gives files their names, or takes them away, waits. */
static int read_record(struct blob_look *b, const char *path, struct stat *st, bool *has_file,
                       struct cas_err *err)
{
        struct cas_store *s = b->run->s;
        cas_blob_files_lock(s, true);
        int rc = cas_blob_record_get(s, &b->digest, &b->rec, err);
        *has_file = s->io->ops->fstatat(s->io->ctx, s->dirfd, path, st, AT_SYMLINK_NOFOLLOW) == 0;
        cas_blob_files_unlock(s);
        return rc;
}

static void check_file(struct blob_look *b, const char *path)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest got;
        uint64_t bytes = 0;
        char text[CAS_DIGEST_TEXT_BYTES];
        int rc = cas_scrub_hash_file(b->run, b->run->s->dirfd, path, b->digest.alg, &got, &bytes,
                                     &err);
        if (rc == 0 && bytes != b->rec.size_bytes) {
                (void)snprintf(err.msg, sizeof(err.msg), "%llu bytes, the index says %llu",
                               (unsigned long long)bytes, (unsigned long long)b->rec.size_bytes);
                found_copy(b, CAS_FSCK_BLOB_SIZE, err.msg);
        } else if (rc == 0 && !cas_digest_equal(&got, &b->digest)) {
                found_copy(b, CAS_FSCK_BLOB_DIGEST, cas_digest_text(&got, text));
        } else if (rc == -CAS_E_NOTFOUND) {
                found_copy(b, CAS_FSCK_BLOB_MISSING, path);
        } else if (rc < 0) {
                found_copy(b, CAS_FSCK_BLOB_DIGEST, err.msg);
        }
}

/* What is not verbatim needs a recipe that was proved. */
static void check_proved(struct blob_look *b)
{
        struct cas_recipe_record recipe;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_recipe_stat(b->run->s, &b->digest, &recipe, &miss);
        if (rc < 0 || !recipe.is_proved)
                cas_look_found(b->look, CAS_FSCK_RECIPE_MISSING, &b->damage, b->text, "%s",
                               rc < 0 ? miss.msg : "");
}

static void check_blob(struct cas_look *look, const struct cas_scrub_item *item)
{
        struct blob_look b = {.look = look, .run = cas_look_run(look)};
        struct cas_err err = CAS_ERR_INIT;
        struct stat st;
        bool has_file;
        char path[CAS_BLOB_PATH_BYTES];
        if (cas_digest_value_decode(item->key, item->key_len, &b.digest, &err) < 0 ||
            cas_blob_record_decode(item->value, item->value_len, &b.rec, &err) < 0) {
                cas_look_found(look, CAS_FSCK_RECORD_MALFORMED, NULL, "blobs", "%s", err.msg);
                return;
        }
        cas_look_pin_blob(look, &b.digest);
        cas_digest_text(&b.digest, b.text);
        cas_blob_path(&b.digest, path);
        b.damage = (struct cas_damage){.kind = CAS_DAMAGE_BLOB, .digest = b.digest};
        if (!cas_look_is_first(look)) {
                int rc = read_record(&b, path, &st, &has_file, &err);
                if (rc == -CAS_E_NOTFOUND)
                        return;
                if (rc == 0 && b.rec.copy != CAS_BLOB_CONDENSED && !has_file) {
                        found_copy(&b, CAS_FSCK_BLOB_MISSING, path);
                        return;
                }
        }
        if (b.rec.copy != CAS_BLOB_VERBATIM)
                check_proved(&b);
        if (b.rec.copy != CAS_BLOB_CONDENSED)
                check_file(&b, path);
}

void cas_scrub_blobs(struct cas_scrub_run *run)
{
        (void)cas_scrub_each(run, &(struct cas_scrub_family){.family = CAS_FAMILY_BLOBS,
                                                             .check = check_blob,
                                                             .counter = &run->out->blobs,
                                                             .at_once = 4});
}

/* ---- recipes ---- */

struct recipe_look {
        struct cas_look *look;
        struct cas_scrub_run *run;
        struct cas_recipe_record rec;
        char subject[CAS_DIGEST_TEXT_BYTES];
        bool whole; /* every object that it refers to is there */
};

static int check_referred(void *arg, const struct cas_hash *object, struct cas_err *err)
{
        struct recipe_look *r = arg;
        const struct cas_damage damage = {.kind = CAS_DAMAGE_OBJECT, .hash = *object};
        char hex[CAS_HASH_HEX_BYTES];
        bool here;
        cas_look_pin_object(r->look, object);
        int rc = cas_index_has(r->run->s->index, CAS_FAMILY_OBJECTS, object->bytes, CAS_HASH_BYTES,
                               &here, err);
        if (rc == 0 && !here && r->whole) {
                cas_look_found(r->look, CAS_FSCK_RECIPE_OBJECT, &damage, r->subject, "%s",
                               cas_hash_hex(object, hex));
                r->whole = false; /* one is enough to say */
        }
        return rc;
}

static int check_objects(struct recipe_look *r, struct cas_err *err)
{
        cas_cleanup_recipe struct cas_recipe *recipe = NULL;
        cas_look_pin_object(r->look, &r->rec.recipe);
        int rc = cas_recipe_open(r->run->s, &r->rec.recipe, &recipe, err);
        return rc < 0 ? rc : cas_tarrecipe_each_object(recipe, check_referred, r, err);
}

/* Makes the blob: regeneration compares its digest. */
static int make_blob(struct recipe_look *r, struct cas_err *err)
{
        cas_cleanup_regen struct cas_regen *g = NULL;
        cas_cleanup_free uint8_t *piece = cas_xmalloc(PIECE_BYTES);
        size_t n = 1;
        int rc = cas_regen_open(r->run->s, &r->rec.blob, &r->rec.recipe, 0, 1, &g, err);
        while (rc == 0 && n > 0) {
                rc = cas_regen_read(g, piece, PIECE_BYTES, &n, err);
                if (rc == 0)
                        cas_scrub_read(r->run, n);
        }
        return rc;
}

static void check_made(struct recipe_look *r)
{
        const struct cas_damage damage = {.kind = CAS_DAMAGE_RECIPE, .digest = r->rec.blob};
        struct cas_err err = CAS_ERR_INIT;
        r->whole = true;
        int rc = check_objects(r, &err);
        if (rc == -CAS_E_NOTFOUND)
                cas_look_found(r->look, CAS_FSCK_RECIPE_OBJECT, &damage, r->subject, "%s", err.msg);
        else if (r->whole && (rc < 0 || make_blob(r, &err) < 0))
                cas_look_found(r->look, CAS_FSCK_RECIPE_DIGEST, &damage, r->subject, "%s", err.msg);
}

static void check_recipe(struct cas_look *look, const struct cas_scrub_item *item)
{
        struct recipe_look r = {.look = look, .run = cas_look_run(look)};
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest blob;
        bool here;
        if (cas_digest_value_decode(item->key, item->key_len, &blob, &err) < 0 ||
            cas_recipe_record_decode(&blob, item->value, item->value_len, &r.rec, &err) < 0) {
                cas_look_found(look, CAS_FSCK_RECORD_MALFORMED, NULL, "recipes", "%s", err.msg);
                return;
        }
        cas_look_pin_blob(look, &blob);
        cas_digest_text(&blob, r.subject);
        if (cas_index_has(r.run->s->index, CAS_FAMILY_BLOBS, item->key, item->key_len, &here,
                          &err) < 0)
                cas_look_found(look, CAS_FSCK_RECIPE_DIGEST, NULL, r.subject, "%s", err.msg);
        else if (!here)
                cas_look_found(look, CAS_FSCK_RECIPE_BLOB, NULL, r.subject, "%s", "");
        else if (r.rec.is_proved)
                check_made(&r);
        if (cas_look_is_first(look) && r.rec.is_proved)
                cas_scrub_count(r.run, &r.run->out->recipes, 1);
}

void cas_scrub_recipes(struct cas_scrub_run *run)
{
        (void)cas_scrub_each(run, &(struct cas_scrub_family){.family = CAS_FAMILY_RECIPES,
                                                             .check = check_recipe,
                                                             .at_once = 1});
}
