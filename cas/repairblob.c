/* SPDX-License-Identifier: Apache-2.0 */
/* Repair of blobs, and of recipes that do not make theirs any more. */
#include <fcntl.h>

#include "cas/blobcache_int.h"
#include "cas/condense.h"
#include "cas/log.h"
#include "cas/pins_int.h"
#include "cas/blockcache.h"
#include "cas/recipe_int.h"
#include "cas/refs_int.h"
#include "cas/regen.h"
#include "cas/repair_run_int.h"

#define PIECE_BYTES (256 * CAS_KIB)
/* Repositories that an upstream is told of. */
#define REPOS_MAX 16

/* ---- from an upstream ---- */

static int fetch(struct cas_repair *r, const struct cas_digest *blob, const char *const *repos,
                 size_t repo_count, struct cas_err *err)
{
        const struct cas_mend mend = {.names = CAS_HASHSET_INIT, .blob = *blob};
        cas_cleanup_publish struct cas_publish *p = NULL;
        int rc = cas_publish_begin(r->s, &p, err);
        if (rc < 0)
                return rc;
        cas_publish_mend(p, &mend);
        rc = r->options->fetch_blob(r->options->fetch_arg, p, blob, repos, repo_count, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

int cas_repair_fetch(struct cas_repair *r, const struct cas_digest *blob, bool *found,
                     struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        struct cas_blob_record rec;
        char **repos = NULL;
        size_t count = 0;
        *found = false;
        if (!r->options || !r->options->fetch_blob)
                return 0;
        int rc = cas_needs_repos(r->s, blob, &repos, &count, REPOS_MAX, err);
        if (rc == 0) {
                rc = fetch(r, blob, (const char *const *)repos, count, &why);
                /* What it gave is believed when it is seen. */
                if (rc == 0)
                        rc = cas_blob_record_get(r->s, blob, &rec, &why);
                if (rc == 0)
                        rc = cas_repair_look_file(r->s, blob, rec.size_bytes, &why);
                *found = rc == 0;
                if (rc < 0 && rc != -CAS_E_NOTFOUND)
                        cas_log(CAS_LOG_WARN, "repair", "upstream error=\"%s\"", why.msg);
                rc = why.code == CAS_E_NOSPACE ? cas_fail(err, CAS_E_NOSPACE, "%s", why.msg) : 0;
        }
        for (size_t i = 0; i < count; i++)
                free(repos[i]);
        free(repos);
        return rc;
}

/* ---- by a recipe ---- */

/* Makes the blob; into a file unless fd is -1. Its digest is compared by who makes it. */
static int make(struct cas_store *s, const struct cas_recipe_record *recipe, int fd,
                const char *path, struct cas_err *err)
{
        cas_cleanup_regen struct cas_regen *g = NULL;
        cas_cleanup_free uint8_t *piece = cas_xmalloc(PIECE_BYTES);
        uint64_t at = 0;
        size_t n = 1;
        int rc = cas_regen_open(s, &recipe->blob, &recipe->recipe, 0, 1, &g, err);
        while (rc == 0 && n > 0) {
                rc = cas_regen_read(g, piece, PIECE_BYTES, &n, err);
                if (rc == 0 && fd >= 0 && n > 0)
                        rc = cas_io_pwrite_all(s->io, fd, piece, n, at, path, err);
                at += n;
        }
        return rc;
}

/* The file, whole and synced, in the place of the damaged one. */
static int name_file(struct cas_store *s, const char *from, const struct cas_digest *blob,
                     struct cas_err *err)
{
        struct cas_blob_record rec;
        char path[CAS_BLOB_PATH_BYTES];
        cas_blob_path(blob, path);
        cas_blob_files_lock(s, true);
        int rc = cas_blob_record_get(s, blob, &rec, err);
        if (rc == 0)
                rc = cas_io_rename(s->io, s->dirfd, from, s->dirfd, path, err);
        *strrchr(path, '/') = '\0';
        if (rc == 0)
                rc = cas_io_sync_dir(s->io, s->dirfd, path, err);
        cas_blob_files_unlock(s);
        return rc;
}

static int make_file(struct cas_store *s, const struct cas_recipe_record *recipe,
                     struct cas_err *err)
{
        char path[CAS_TEMPORARY_PATH_BYTES];
        cas_cleanup_fd int fd = -1;
        int rc = cas_temporary_path(path, err);
        if (rc == 0)
                rc = cas_io_open(s->io, s->dirfd, path, O_WRONLY | O_CREAT | O_EXCL, 0600, &fd,
                                 err);
        if (rc < 0)
                return rc;
        rc = make(s, recipe, fd, path, err);
        if (rc == 0)
                rc = cas_io_fsync(s->io, fd, path, err);
        if (rc == 0)
                rc = name_file(s, path, &recipe->blob, err);
        if (rc < 0)
                (void)s->io->ops->unlinkat(s->io->ctx, s->dirfd, path, 0);
        return rc;
}

struct recipe_look {
        struct cas_store *s;
        struct cas_losses *losses;
};

static int look_referred(void *arg, const struct cas_hash *object, struct cas_err *err)
{
        struct recipe_look *look = arg;
        struct cas_err bad = CAS_ERR_INIT;
        int rc = cas_repair_look_object(look->s, object, look->losses, &bad);
        if (rc == 0 || cas_repair_is_damage(rc))
                return 0;
        *err = bad;
        return rc;
}

/* What of a recipe is damaged, the recipe itself first: without it the rest is not known. */
static int look_at_recipe(struct cas_store *s, const struct cas_recipe_record *rec,
                          struct cas_losses *l, struct cas_err *err)
{
        struct recipe_look look = {.s = s, .losses = l};
        cas_cleanup_recipe struct cas_recipe *recipe = NULL;
        struct cas_err bad = CAS_ERR_INIT;
        int rc = look_referred(&look, &rec->recipe, err);
        if (rc < 0 || l->count > 0)
                return rc;
        rc = cas_recipe_open(s, &rec->recipe, &recipe, &bad);
        if (rc == 0)
                rc = cas_tarrecipe_each_object(recipe, look_referred, &look, &bad);
        if (rc == 0 || cas_repair_is_damage(rc) || rc == -CAS_E_UNSUPPORTED)
                return 0;
        *err = bad;
        return rc;
}

/* Makes the blob by its recipe, whose parts are repaired first where that has to be. *out false: it
 * cannot be made. */
static int remake(struct cas_repair *r, const struct cas_recipe_record *recipe, bool to_file,
                  bool *out, struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        int rc = -CAS_E_CORRUPT;
        for (unsigned round = 0; round < 3; round++) {
                cas_cleanup_losses struct cas_losses l;
                cas_losses_init(&l);
                cas_blockcache_clear(r->s->blocks);
                rc = to_file ? make_file(r->s, recipe, &why) : make(r->s, recipe, -1, "", &why);
                *out = rc == 0;
                if (rc == 0 || rc == -CAS_E_NOSPACE || rc == -CAS_E_NOMEM)
                        break;
                rc = look_at_recipe(r->s, recipe, &l, err);
                if (rc == 0 && l.count > 0)
                        rc = cas_losses_repair(r, &l, err);
                if (rc < 0)
                        return rc;
                if (l.count == 0 || cas_losses_left(&l) > 0)
                        break;
        }
        if (!*out && (rc == -CAS_E_NOSPACE || rc == -CAS_E_NOMEM)) {
                *err = why;
                return rc;
        }
        return 0;
}

/* ---- recipes ---- */

static int tell_lost(struct cas_repair *r, const struct cas_digest *blob, enum cas_repaired *out,
                     struct cas_err *err)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        *out = CAS_QUARANTINED;
        return cas_needs_tell(r, "blob", cas_digest_text(blob, text), blob, 1, err);
}

/* The file of a copy, which is no copy. */
static int put_copy_aside(struct cas_store *s, const struct cas_digest *blob, struct cas_err *err)
{
        char path[CAS_BLOB_PATH_BYTES], hex[CAS_DIGEST_TEXT_BYTES];
        cas_blob_path(blob, path);
        cas_cleanup_free char *name = cas_xasprintf("blobs/%s-%s", cas_digest_alg_name(blob->alg),
                                                    cas_digest_hex(blob, hex));
        cas_blob_files_lock(s, true);
        int rc = cas_quarantine_file(s, s->dirfd, path, name, err);
        cas_blob_files_unlock(s);
        return rc;
}

/* *whole: the file is what it should be, so that nothing else is needed. */
static int look_at_copy(struct cas_store *s, const struct cas_digest *blob,
                        const struct cas_blob_record *rec, bool *whole, struct cas_err *err)
{
        struct cas_err bad = CAS_ERR_INIT;
        *whole = false;
        if (rec->copy == CAS_BLOB_CONDENSED)
                return 0;
        int rc = cas_repair_look_file(s, blob, rec->size_bytes, &bad);
        *whole = rc == 0;
        if (rc == 0 || cas_repair_is_damage(rc) || rc == -CAS_E_IO)
                return 0;
        *err = bad;
        return rc;
}

int cas_repair_recipe_blob(struct cas_repair *r, const struct cas_digest *blob,
                           enum cas_repaired *out, struct cas_err *err)
{
        struct cas_blob_record rec = {.copy = CAS_BLOB_CONDENSED};
        struct cas_err miss = CAS_ERR_INIT;
        bool whole = false;
        int rc = cas_blob_record_get(r->s, blob, &rec, &miss);
        *out = CAS_REPAIRED;
        if (rc < 0 && !cas_repair_is_damage(rc)) {
                *err = miss;
                return rc;
        }
        if (look_at_copy(r->s, blob, &rec, &whole, err) < 0)
                return -(int)err->code;
        /* The file is the truth from now on, and condensing makes the recipe again. */
        if (whole)
                return cas_recipe_doubt(r->s, blob, err);
        rc = cas_repair_fetch(r, blob, &whole, err);
        if (rc < 0 || whole)
                return rc;
        if (rec.copy == CAS_BLOB_CACHED)
                rc = put_copy_aside(r->s, blob, err);
        if (rc == 0)
                rc = cas_recipe_doubt(r->s, blob, err);
        return rc < 0 ? rc : tell_lost(r, blob, out, err);
}

/* A recipe that somebody doubted, since it could not be followed for a while. */
static int prove(struct cas_store *s, const struct cas_digest *blob, struct cas_err *err)
{
        const struct cas_condense_options options = {.keep_verbatim = true, .threads = 1};
        struct cas_recipe_record ignored;
        return cas_condense_blob(s, blob, &options, NULL, &ignored, err);
}

static int repair_recipe(struct cas_repair *r, const struct cas_digest *blob,
                         enum cas_repaired *out, struct cas_err *err)
{
        struct cas_recipe_record recipe;
        struct cas_err miss = CAS_ERR_INIT;
        bool made = false;
        int rc = cas_recipe_stat(r->s, blob, &recipe, &miss);
        if (rc < 0 && !cas_repair_is_damage(rc)) {
                *err = miss;
                return rc;
        }
        bool known = rc == 0 && !cas_hash_is_zero(&recipe.recipe);
        *out = CAS_REPAIRED;
        rc = known ? remake(r, &recipe, false, &made, err) : 0;
        if (rc == 0 && made && !recipe.is_proved)
                rc = prove(r->s, blob, err);
        return rc < 0 || made ? rc : cas_repair_recipe_blob(r, blob, out, err);
}

int cas_repair_recipe(struct cas_repair *r, const struct cas_digest *blob, enum cas_repaired *out,
                      struct cas_err *err)
{
        cas_cleanup_pins struct cas_pins *pins = cas_pins_new(r->s);
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_mutex_lock(&r->mutex);
        cas_pin_blob(pins, blob);
        int rc = repair_recipe(r, blob, out, err);
        cas_mutex_unlock(&r->mutex);
        return rc < 0 ? cas_err_wrap(err, "repair recipe of %s", cas_digest_text(blob, text)) : 0;
}

/* ---- blobs ---- */

/* Nothing brings it: aside with it, or away when nobody needs it. */
static int give_up(struct cas_repair *r, const struct cas_digest *blob,
                   const struct cas_blob_record *rec, enum cas_repaired *out, struct cas_err *err)
{
        bool needed;
        int rc = cas_blob_is_needed(r->s->index, blob, &needed, err);
        if (rc == 0)
                rc = cas_quarantine_blob(r->s, blob, err);
        if (rc == 0 && rec->copy == CAS_BLOB_CACHED)
                rc = cas_recipe_doubt(r->s, blob, err);
        if (rc < 0)
                return rc;
        *out = CAS_NOT_NEEDED;
        return needed ? tell_lost(r, blob, out, err) : 0;
}

static int repair_blob(struct cas_repair *r, const struct cas_digest *blob, enum cas_repaired *out,
                       struct cas_err *err)
{
        struct cas_blob_record rec;
        struct cas_recipe_record recipe;
        struct cas_err miss = CAS_ERR_INIT;
        bool whole = false;
        int rc = cas_blob_record_get(r->s, blob, &rec, &miss);
        *out = CAS_REPAIRED;
        if (rc < 0 && !cas_repair_is_damage(rc)) {
                *err = miss;
                return rc;
        }
        if (rc < 0) { /* it is absent already */
                rc = cas_repair_fetch(r, blob, &whole, err);
                return rc < 0 || whole ? rc : tell_lost(r, blob, out, err);
        }
        if (rec.copy == CAS_BLOB_CONDENSED)
                return repair_recipe(r, blob, out, err);
        rc = look_at_copy(r->s, blob, &rec, &whole, err);
        if (rc == 0 && !whole && cas_recipe_stat(r->s, blob, &recipe, &miss) == 0 &&
            !cas_hash_is_zero(&recipe.recipe))
                rc = remake(r, &recipe, true, &whole, err);
        if (rc == 0 && !whole)
                rc = cas_repair_fetch(r, blob, &whole, err);
        return rc < 0 || whole ? rc : give_up(r, blob, &rec, out, err);
}

int cas_repair_blob(struct cas_repair *r, const struct cas_digest *blob, enum cas_repaired *out,
                    struct cas_err *err)
{
        cas_cleanup_pins struct cas_pins *pins = cas_pins_new(r->s);
        char text[CAS_DIGEST_TEXT_BYTES];
        cas_mutex_lock(&r->mutex);
        cas_pin_blob(pins, blob);
        int rc = repair_blob(r, blob, out, err);
        cas_mutex_unlock(&r->mutex);
        return rc < 0 ? cas_err_wrap(err, "repair blob %s", cas_digest_text(blob, text)) : 0;
}
