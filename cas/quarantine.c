/* SPDX-License-Identifier: Apache-2.0 */
/* Putting aside what is damaged and cannot be made whole (spec/scrub.md). Files first, then
 * records: a crash in between leaves records of what has no file, which is absent as well, and
 * found again by the next scrub. References stay: the things are needed, only they are not here. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "cas/blobcache_int.h"
#include "cas/condense.h"
#include "cas/layer.h"
#include "cas/pins_int.h"
#include "cas/repair_run_int.h"

#define COPY_BYTES (1 * CAS_MIB)

/* ---- files ---- */

static int make_dirs(struct cas_store *s, struct cas_err *err)
{
        static const char *const dirs[] = {CAS_DIR_QUARANTINE, CAS_DIR_QUARANTINE "/blobs",
                                           CAS_DIR_QUARANTINE "/packs"};
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < CAS_COUNT(dirs); i++)
                rc = cas_store_mkdir(s, dirs[i], err);
        if (rc == 0)
                rc = cas_io_sync_dir(s->io, s->dirfd, CAS_DIR_QUARANTINE, err);
        return rc < 0 ? rc : cas_io_sync_dir(s->io, s->dirfd, ".", err);
}

/* Where a pack of another file system is: beside the others, under a name that is none of a pack.
 */
static int rename_beside(struct cas_store *s, int dirfd, const char *path, struct cas_err *err)
{
        cas_cleanup_free char *aside = cas_xasprintf("%s.damaged", path);
        int rc = cas_io_rename(s->io, dirfd, path, dirfd, aside, err);
        return rc < 0 ? rc : cas_io_sync_dir(s->io, dirfd, ".", err);
}

int cas_quarantine_file(struct cas_store *s, int dirfd, const char *path, const char *name,
                        struct cas_err *err)
{
        cas_cleanup_free char *to = cas_xasprintf(CAS_DIR_QUARANTINE "/%s", name);
        cas_cleanup_free char *from_dir = cas_xstrdup(path);
        struct cas_err why = CAS_ERR_INIT;
        char *slash = strrchr(from_dir, '/');
        int rc = make_dirs(s, err);
        if (rc < 0)
                return rc;
        rc = cas_io_rename(s->io, dirfd, path, s->dirfd, to, &why);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0 && why.sys_errno == EXDEV)
                return rename_beside(s, dirfd, path, err);
        if (rc < 0) {
                *err = why;
                return rc;
        }
        *strrchr(to, '/') = '\0';
        rc = cas_io_sync_dir(s->io, s->dirfd, to, err);
        if (slash)
                *slash = '\0';
        return rc < 0 ? rc : cas_io_sync_dir(s->io, dirfd, slash ? from_dir : ".", err);
}

static int copy_bytes(struct cas_store *s, int from, int to, const char *name, struct cas_err *err)
{
        cas_cleanup_free uint8_t *step = cas_xmalloc(COPY_BYTES);
        size_t n = 1;
        int rc = 0;
        for (uint64_t at = 0; rc == 0 && n > 0; at += n) {
                rc = cas_io_pread(s->io, from, step, COPY_BYTES, at, &n, name, err);
                if (rc == 0)
                        rc = cas_io_pwrite_all(s->io, to, step, n, at, name, err);
        }
        return rc < 0 ? rc : cas_io_fsync(s->io, to, name, err);
}

int cas_quarantine_bytes(struct cas_store *s, int fd, const char *name, struct cas_err *err)
{
        cas_cleanup_free char *to = cas_xasprintf(CAS_DIR_QUARANTINE "/%s", name);
        int out = -1;
        int rc = make_dirs(s, err);
        if (rc == 0)
                rc = cas_io_open(s->io, s->dirfd, to, O_WRONLY | O_CREAT | O_TRUNC, 0600, &out,
                                 err);
        if (rc < 0)
                return rc;
        rc = copy_bytes(s, fd, out, to, err);
        (void)s->io->ops->close(s->io->ctx, out);
        *strrchr(to, '/') = '\0';
        return rc < 0 ? rc : cas_io_sync_dir(s->io, s->dirfd, to, err);
}

/* ---- blobs ---- */

static int put_blob_aside(struct cas_store *s, const struct cas_digest *blob, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        char path[CAS_BLOB_PATH_BYTES], hex[CAS_DIGEST_TEXT_BYTES];
        struct cas_record_key key;
        cas_blob_path(blob, path);
        cas_cleanup_free char *name = cas_xasprintf("blobs/%s-%s", cas_digest_alg_name(blob->alg),
                                                    cas_digest_hex(blob, hex));
        int rc = cas_quarantine_file(s, s->dirfd, path, name, err);
        if (rc < 0)
                return rc;
        cas_key_digest(blob, &key);
        cas_batch_del(batch, CAS_FAMILY_BLOBS, key.bytes, key.len);
        return cas_index_write(s->index, batch, err);
}

int cas_quarantine_blob(struct cas_store *s, const struct cas_digest *blob, struct cas_err *err)
{
        cas_blob_files_lock(s, true);
        int rc = put_blob_aside(s, blob, err);
        cas_blob_files_unlock(s);
        return rc;
}

/* ---- chunks and objects ---- */

/* Its files and its listing are what they are; but the next who wants the layer has it decoded
 * again, when its blob is here. */
static int forget_decoding(struct cas_store *s, const struct cas_digest *blob,
                           struct cas_batch *batch, struct cas_err *err)
{
        struct cas_layer_record layer;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_layer_stat(s, blob, &layer, &miss);
        if (rc == 0) {
                layer.listing_version = CAS_LISTING_VERSION_DAMAGED;
                cas_batch_put_layer(batch, &layer);
        } else if (!cas_repair_is_damage(rc)) {
                *err = miss;
                return rc;
        }
        return 0;
}

/* An object of one chunk goes with it; a list of several stays, since the others are there. */
static int forget_loss(struct cas_store *s, const struct cas_loss *loss, struct cas_batch *batch,
                       struct cas_err *err)
{
        if (!loss->is_list)
                cas_batch_del_chunk(batch, &loss->name);
        return cas_losses_drop_list(s, &loss->name, batch, err);
}

int cas_quarantine_losses(struct cas_store *s, const struct cas_losses *l, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_cleanup_pins struct cas_pins *pins = cas_pins_new(s);
        int rc = 0;
        for (size_t i = 0; i < l->blob_count; i++) /* no record is written of what was collected */
                cas_pin_blob(pins, &l->blobs[i].blob);
        for (size_t i = 0; rc == 0 && i < l->count; i++)
                rc = forget_loss(s, &l->list[i], batch, err);
        for (size_t i = 0; rc == 0 && i < l->blob_count; i++)
                if (l->blobs[i].is_layer)
                        rc = forget_decoding(s, &l->blobs[i].blob, batch, err);
        if (rc == 0)
                rc = cas_index_write(s->index, batch, err);
        return rc;
}
