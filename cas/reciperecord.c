/* SPDX-License-Identifier: Apache-2.0 */
/* What the index knows of a blob's recipe. */
#include <errno.h>
#include <fcntl.h>

#include "cas/blobcache_int.h"
#include "cas/pins_int.h"
#include "cas/store_int.h"

int cas_recipe_stat(struct cas_store *s, const struct cas_digest *blob,
                    struct cas_recipe_record *out, struct cas_err *err)
{
        return cas_index_get_recipe(s->index, blob, out, err);
}

/* Whether a file of the right length is there: it is what the blob has from now on. */
static int has_file(struct cas_store *s, const struct cas_digest *blob, uint64_t bytes, bool *out,
                    struct cas_err *err)
{
        struct stat st;
        char path[CAS_BLOB_PATH_BYTES];
        cas_blob_path(blob, path);
        int r = s->io->ops->fstatat(s->io->ctx, s->dirfd, path, &st, AT_SYMLINK_NOFOLLOW);
        *out = r == 0 && (uint64_t)st.st_size == bytes;
        return r == 0 || errno == ENOENT ? 0 : cas_fail_sys(err, errno, "stat %s", path);
}

/* The records, as they are without a proof. */
static int doubt(struct cas_store *s, const struct cas_digest *blob, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        struct cas_recipe_record recipe;
        struct cas_blob_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        bool file = false;
        int rc = cas_recipe_stat(s, blob, &recipe, &miss);
        if (rc == 0)
                rc = cas_blob_record_get(s, blob, &rec, &miss);
        if (rc == 0 && rec.copy == CAS_BLOB_CACHED)
                rc = has_file(s, blob, rec.size_bytes, &file, &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        if (!recipe.is_proved)
                return 0;
        recipe.is_proved = false;
        cas_batch_put_recipe(batch, &recipe);
        if (rec.copy == CAS_BLOB_CACHED) {
                rec.copy = file ? CAS_BLOB_VERBATIM : CAS_BLOB_CONDENSED;
                cas_batch_put_blob(batch, blob, &rec);
        }
        return cas_index_write(s->index, batch, err);
}

int cas_recipe_doubt(struct cas_store *s, const struct cas_digest *blob, struct cas_err *err)
{
        cas_cleanup_pins struct cas_pins *pins = cas_pins_new(s);
        cas_pin_blob(pins, blob);
        cas_blob_files_lock(s, true);
        int rc = doubt(s, blob, err);
        cas_blob_files_unlock(s);
        return rc;
}

bool cas_recipe_is_due(const struct cas_recipe_record *rec)
{
        bool stays = rec->reason[0] != '\0';
        return !rec->is_proved && (!stays || rec->analysis != CAS_CONDENSE_ANALYSIS);
}
