/* SPDX-License-Identifier: Apache-2.0 */
/* A consistent copy of a store beside which everything goes on.
 *
 * 1. What does not change once it is there (blobs, sealed packs, trees) is linked: most of the
 * work.
 * 2. Removals are held, and commits of names for as long as it takes to copy the index; that
 * instant is the one which the copy shows. What the copied index tells of and 1 did not find is
 * linked; packs that are still written to are copied, as far as the index tells.
 * 3. Removals go on. What the copied index does not tell of goes from the copy; its journal ends
 *    where the index has seen it to. `format` comes last: without it, the directory is no store. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cas/commit_int.h"
#include "cas/dirwalk_int.h"
#include "cas/format_int.h"
#include "cas/maintain.h"
#include "cas/packset_int.h"
#include "cas/packfile_int.h"
#include "cas/record_int.h"
#include "cas/store_int.h"

#define COPY_BYTES (4 * CAS_MIB)

struct checkpoint {
        struct cas_store *s;
        struct cas_store *copy;  /* no more than its directory, locked; owned */
        struct cas_index *index; /* of the copy, once it was made; owned */
        struct cas_journal_position seen;
        int journal_fd; /* of the file that was the journal at that instant */
        const struct cas_progress *progress;
        struct cas_checkpoint_result *out;
        uint64_t done, total; /* files */
        bool apart;           /* another file system: nothing can be linked */
};

static void checkpoint_release(struct checkpoint *cp)
{
        cas_index_close(cp->index);
        if (cp->journal_fd >= 0)
                (void)close(cp->journal_fd);
        cas_store_close(cp->copy);
}

/* ---- files ---- */

/* Copies the first `bytes` of a file; it is an error that it has fewer. */
static int copy_bytes(struct checkpoint *cp, int from, int to, uint64_t bytes, const char *path,
                      struct cas_err *err)
{
        const struct cas_io *io = cp->s->io;
        off_t in = 0, out = 0;
        while ((uint64_t)in < bytes) {
                size_t want = cas_min_u64(bytes - (uint64_t)in, COPY_BYTES);
                ssize_t n = io->ops->copy_file_range(io->ctx, from, &in, to, &out, want);
                if (n > 0 || (n < 0 && errno == EINTR))
                        continue;
                if (n == 0)
                        return cas_fail(err, CAS_E_CORRUPT, "%s is shorter than it was", path);
                if (errno != EXDEV && errno != EOPNOTSUPP && errno != EINVAL && errno != ENOSYS)
                        return cas_fail_sys(err, errno, "copy %s", path);
                break;
        }
        cas_cleanup_free uint8_t *buf = (uint64_t)in < bytes ? cas_xmalloc(COPY_BYTES) : NULL;
        for (uint64_t at = (uint64_t)in; at < bytes;) {
                size_t want = cas_min_u64(bytes - at, COPY_BYTES);
                int rc = cas_io_pread_exact(io, from, buf, want, at, path, err);
                if (rc == 0)
                        rc = cas_io_pwrite_all(io, to, buf, want, at, path, err);
                if (rc < 0)
                        return rc;
                at += want;
        }
        cp->out->files_copied++;
        cp->out->bytes_copied += bytes;
        return 0;
}

/* A file of the copy with the bytes of an open one. */
static int copy_open_file(struct checkpoint *cp, int from, uint64_t bytes, const char *path,
                          struct cas_err *err)
{
        const struct cas_io *io = cp->s->io;
        int to;
        int rc =
                cas_io_open(io, cp->copy->dirfd, path, O_WRONLY | O_CREAT | O_EXCL, 0600, &to, err);
        if (rc < 0)
                return rc;
        rc = copy_bytes(cp, from, to, bytes, path, err);
        struct cas_err late = CAS_ERR_INIT;
        if (cas_io_close(io, &to, path, &late) < 0 && rc == 0) {
                *err = late;
                rc = -(int)err->code;
        }
        return rc;
}

static int copy_file(struct checkpoint *cp, int from_dirfd, const char *from, const char *path,
                     struct cas_err *err)
{
        cas_cleanup_fd int fd = -1;
        struct stat st;
        int rc = cas_io_open(cp->s->io, from_dirfd, from, O_RDONLY, 0, &fd, err);
        if (rc < 0)
                return rc;
        if (fstat(fd, &st) != 0)
                return cas_fail_sys(err, errno, "%s", from);
        return copy_open_file(cp, fd, (uint64_t)st.st_size, path, err);
}

/* Gives a file that never changes a place in the copy: another name where that can be. One that has
 * it already is fine. Errors: NOTFOUND (the file is gone). */
static int take_file(struct checkpoint *cp, int from_dirfd, const char *from, const char *path,
                     struct cas_err *err)
{
        const struct cas_io *io = cp->s->io;
        struct stat st;
        cas_progress_update(cp->progress, "files", cas_min_u64(cp->done++, cp->total), cp->total);
        if (!cp->apart) {
                if (io->ops->linkat(io->ctx, from_dirfd, from, cp->copy->dirfd, path) == 0) {
                        cp->out->files_linked++;
                        return 0;
                }
                if (errno == EEXIST)
                        return 0;
                if (errno != EXDEV && errno != EPERM && errno != EMLINK && errno != EOPNOTSUPP)
                        return cas_fail_sys(err, errno, "link %s", path);
                /* A tier that lies elsewhere says nothing of the store's own files. */
                cp->apart = errno == EXDEV && from_dirfd == cp->s->dirfd;
        }
        if (io->ops->fstatat(io->ctx, cp->copy->dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0)
                return 0;
        return copy_file(cp, from_dirfd, from, path, err);
}

/* The same where it does not matter that the file is gone. */
static int take_if_there(struct checkpoint *cp, int from_dirfd, const char *from, const char *path,
                         struct cas_err *err)
{
        struct cas_err why = CAS_ERR_INIT;
        int rc = take_file(cp, from_dirfd, from, path, &why);
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *err = why;
        return rc;
}

/* ---- 1: what does not change ---- */

static int take_blob_file(void *arg, const char *path, const struct cas_digest *digest CAS_UNUSED,
                          struct cas_err *err)
{
        struct checkpoint *cp = arg;
        return take_if_there(cp, cp->s->dirfd, path, path, err);
}

/* A tree under its name; others are still being written. */
static bool is_tree(const char *name)
{
        struct cas_hash hash;
        return strlen(name) == 64 + strlen(".erofs") && cas_hash_from_hex(name, 64, &hash) &&
               strcmp(name + 64, ".erofs") == 0;
}

static int take_tree_file(void *arg, const char *path, const char *name, struct cas_err *err)
{
        struct checkpoint *cp = arg;
        return is_tree(name) ? take_if_there(cp, cp->s->dirfd, path, path, err) : 0;
}

struct pack_scan {
        struct checkpoint *cp;
        bool all; /* else sealed ones, whether they are there or not */
        struct cas_err *err;
        int rc;
};

static int take_pack(struct checkpoint *cp, uint64_t pack_id, const struct cas_pack_record *rec,
                     struct cas_err *err)
{
        struct cas_backend *backend = cp->s->backend;
        struct cas_tier_info tier;
        char name[CAS_PACK_NAME_BYTES];
        int dirfd;
        int rc = backend->ops->tier_info(backend, rec->tier, &tier, err);
        if (rc == 0 && tier.remote)
                return 0; /* it stays there */
        if (rc == 0)
                rc = backend->ops->pack_dir(backend, pack_id, rec->tier, &dirfd, err);
        if (rc < 0)
                return rc;
        (void)cas_pack_name(pack_id, name);
        cas_cleanup_free char *path = cas_xasprintf(CAS_DIR_PACKS "/%s", name);
        if (rec->sealed)
                return take_file(cp, dirfd, name, path, err);
        cas_cleanup_fd int fd = -1;
        rc = cas_io_open(cp->s->io, dirfd, name, O_RDONLY, 0, &fd, err);
        return rc < 0 ? rc : copy_open_file(cp, fd, rec->size_bytes, path, err);
}

static bool pack_seen(void *arg, uint64_t pack_id, const struct cas_pack_record *rec)
{
        struct pack_scan *scan = arg;
        struct cas_err why = CAS_ERR_INIT;
        if (!scan->all && !rec->sealed)
                return true;
        scan->rc = take_pack(scan->cp, pack_id, rec, &why);
        if (scan->rc == -CAS_E_NOTFOUND && !scan->all)
                scan->rc = 0;
        if (scan->rc < 0)
                *scan->err = why;
        return scan->rc == 0;
}

static int take_packs(struct checkpoint *cp, struct cas_index *index, bool all, struct cas_err *err)
{
        struct pack_scan scan = {.cp = cp, .all = all, .err = err};
        int rc = cas_index_each_pack(index, pack_seen, &scan, err);
        return rc < 0 ? rc : scan.rc;
}

static int take_unchanging(struct checkpoint *cp, struct cas_err *err)
{
        int rc = cas_blob_files_each(cp->s, take_blob_file, NULL, cp, err);
        if (rc == 0)
                rc = cas_dir_each(cp->s, CAS_DIR_TREES, take_tree_file, cp, err);
        return rc < 0 ? rc : take_packs(cp, cp->s->index, false, err);
}

/* ---- 2: the instant ---- */

/* The index, and the journal that it has seen. */
static int take_index(struct checkpoint *cp, struct cas_err *err)
{
        struct cas_store *s = cp->s;
        cas_cleanup_free char *path = cas_xasprintf("%s/" CAS_DIR_INDEX, cp->copy->path);
        int rc = cas_index_flush(s->index, err);
        if (rc < 0)
                return rc;
        rc = cas_commit_pause(s, err);
        if (rc < 0)
                return rc;
        rc = cas_index_checkpoint(s->index, path, err);
        if (rc == 0)
                rc = cas_journal_dup(s->journal, &cp->journal_fd, err);
        cp->seen = cas_journal_position(s->journal);
        cas_commit_go_on(s);
        return rc < 0 ? rc : cas_index_open(path, false, &cp->index, err);
}

/* A blob of the copied index that has a file. */
static int want_blob(void *arg, const void *key, size_t key_len, const void *value,
                     size_t value_len, struct cas_err *err)
{
        struct checkpoint *cp = arg;
        struct cas_blob_record rec;
        struct cas_digest digest;
        char path[CAS_BLOB_PATH_BYTES];
        int rc = cas_digest_value_decode(key, key_len, &digest, err);
        if (rc == 0)
                rc = cas_blob_record_decode(value, value_len, &rec, err);
        if (rc < 0 || rec.copy == CAS_BLOB_CONDENSED)
                return rc;
        cas_blob_path(&digest, path);
        /* A file that is gone where it should be is damage that was there before. */
        return take_if_there(cp, cp->s->dirfd, path, path, err);
}

static int want_tree(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                     const void *value, size_t value_len, struct cas_err *err)
{
        struct checkpoint *cp = arg;
        struct cas_tree_record rec;
        char hex[CAS_HASH_HEX_BYTES];
        struct cas_hash hash;
        int rc = cas_tree_record_decode(value, value_len, &rec, err);
        if (rc < 0)
                return rc;
        free(rec.layers);
        memcpy(hash.bytes, rec.tree.bytes, sizeof(hash.bytes));
        cas_cleanup_free char *path =
                cas_xasprintf(CAS_DIR_TREES "/%s.erofs", cas_hash_hex(&hash, hex));
        return take_if_there(cp, cp->s->dirfd, path, path, err);
}

static int take_instant(struct checkpoint *cp, struct cas_err *err)
{
        int rc = take_index(cp, err);
        if (rc == 0)
                rc = cas_index_scan(cp->index, &(struct cas_scan){.family = CAS_FAMILY_BLOBS},
                                    want_blob, cp, err);
        if (rc == 0)
                rc = cas_index_scan(cp->index, &(struct cas_scan){.family = CAS_FAMILY_TREES},
                                    want_tree, cp, err);
        return rc < 0 ? rc : take_packs(cp, cp->index, true, err);
}

/* ---- 3: the rest ---- */

/* The copy has one directory for packs. */
struct homing {
        struct checkpoint *cp;
        struct cas_batch *batch;
};

static bool is_remote(const struct checkpoint *cp, uint32_t tier)
{
        struct cas_tier_info info;
        struct cas_err ignored = CAS_ERR_INIT;
        return cp->s->backend->ops->tier_info(cp->s->backend, tier, &info, &ignored) == 0 &&
               info.remote;
}

static bool home_pack(void *arg, uint64_t pack_id, const struct cas_pack_record *rec)
{
        const struct homing *h = arg;
        struct cas_pack_record here = *rec;
        if (rec->tier == CAS_TIER_OWN || is_remote(h->cp, rec->tier))
                return true;
        here.tier = CAS_TIER_OWN;
        cas_batch_put_pack(h->batch, pack_id, &here);
        return true;
}

static int home_packs(struct checkpoint *cp, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        struct homing h = {.cp = cp, .batch = batch};
        int rc = cas_index_each_pack(cp->index, home_pack, &h, err);
        return rc < 0 ? rc : cas_index_write(cp->index, batch, err);
}

/* Blobs that went between 1 and 2. */
static int drop_stray_blob(void *arg, const char *path, const struct cas_digest *digest,
                           struct cas_err *err)
{
        const struct checkpoint *cp = arg;
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_blob_record rec;
        struct cas_record_key key;
        struct cas_err miss = CAS_ERR_INIT;
        cas_key_digest(digest, &key);
        int rc = cas_index_get(cp->index, CAS_FAMILY_BLOBS, key.bytes, key.len, &value, &miss);
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = miss;
                return rc;
        }
        if (rc == 0)
                rc = cas_blob_record_decode(value.data, value.len_bytes, &rec, err);
        else
                rec.copy = CAS_BLOB_CONDENSED;
        if (rc == -CAS_E_CORRUPT || rec.copy != CAS_BLOB_CONDENSED)
                return rc == -CAS_E_CORRUPT ? rc : 0;
        return cas_io_unlink(cp->s->io, cp->copy->dirfd, path, err);
}

static int drop_stray_pack(void *arg, const char *path, const char *name, struct cas_err *err)
{
        const struct checkpoint *cp = arg;
        struct cas_pack_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        uint64_t id;
        if (!cas_pack_name_parse(name, &id))
                return 0;
        int rc = cas_index_get_pack(cp->index, id, &rec, &miss);
        if (rc == -CAS_E_NOTFOUND || (rc == 0 && is_remote(cp, rec.tier)))
                return cas_io_unlink(cp->s->io, cp->copy->dirfd, path, err);
        if (rc < 0)
                *err = miss;
        return rc;
}

static int drop_strays(struct checkpoint *cp, struct cas_err *err)
{
        int rc = cas_blob_files_each(cp->copy, drop_stray_blob, NULL, cp, err);
        return rc < 0 ? rc : cas_dir_each(cp->copy, CAS_DIR_PACKS, drop_stray_pack, cp, err);
}

static int take_journal(struct checkpoint *cp, struct cas_err *err)
{
        return copy_open_file(cp, cp->journal_fd, cp->seen.offset, CAS_JOURNAL_PATH, err);
}

/* Keys of the registry: without them addresses and tokens that are out would be void. */
static int take_key_file(void *arg, const char *path, const char *name CAS_UNUSED,
                         struct cas_err *err)
{
        struct checkpoint *cp = arg;
        return copy_file(cp, cp->s->dirfd, path, path, err);
}

static int take_keys(struct checkpoint *cp, struct cas_err *err)
{
        struct stat st;
        if (fstatat(cp->s->dirfd, CAS_DIR_REGISTRY, &st, 0) != 0)
                return 0;
        int rc = cas_store_mkdir(cp->copy, CAS_DIR_REGISTRY, err);
        return rc < 0 ? rc : cas_dir_each(cp->s, CAS_DIR_REGISTRY, take_key_file, cp, err);
}

static int take_rest(struct checkpoint *cp, struct cas_err *err)
{
        struct cas_format format;
        int rc = home_packs(cp, err);
        if (rc == 0)
                rc = drop_strays(cp, err);
        if (rc == 0)
                rc = take_journal(cp, err);
        if (rc == 0)
                rc = take_keys(cp, err);
        if (rc == 0)
                rc = cas_format_read(cp->s->io, cp->s->dirfd, &format, err);
        if (rc < 0)
                return rc;
        cas_index_close(cas_steal(&cp->index));
        if (syncfs(cp->copy->dirfd) != 0)
                return cas_fail_sys(err, errno, "sync %s", cp->copy->path);
        return cas_format_write(cp->s->io, cp->copy->dirfd, &format, err);
}

/* ---- all ---- */

static int refuse_content(void *arg, const char *path CAS_UNUSED, const char *name,
                          struct cas_err *err)
{
        const struct checkpoint *cp = arg;
        if (strcmp(name, CAS_LOCK_PATH) == 0)
                return 0;
        return cas_fail(err, CAS_E_EXISTS, "%s is not empty (it holds %s): name a new directory",
                        cp->copy->path, name);
}

/* The directory of the copy, outside of the store. */
static int open_directory(struct checkpoint *cp, const char *path, struct cas_err *err)
{
        const struct cas_store_config config = {.path = path, .io = cp->s->io};
        int rc = cas_store_open_bare(&config, &cp->copy, err);
        if (rc < 0)
                return rc;
        size_t len = strlen(cp->s->path);
        if (strncmp(cp->copy->path, cp->s->path, len) == 0 && cp->copy->path[len] == '/')
                return cas_fail(err, CAS_E_INVALID, "%s lies in the store itself", cp->copy->path);
        return cas_dir_each(cp->copy, ".", refuse_content, cp, err);
}

static int make_directories(struct checkpoint *cp, struct cas_err *err)
{
        static const char *const dirs[] = {CAS_DIR_BLOBS,   CAS_DIR_TREES,     CAS_DIR_PACKS,
                                           CAS_DIR_UPLOADS, CAS_DIR_SANDBOXES, CAS_DIR_JOURNAL};
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < CAS_COUNT(dirs); i++)
                rc = cas_store_mkdir(cp->copy, dirs[i], err);
        for (int alg = CAS_DIGEST_SHA256; rc == 0 && alg <= CAS_DIGEST_SHA512; alg++)
                rc = cas_blob_dirs_make(cp->copy, (enum cas_digest_alg)alg, err);
        return rc;
}

int cas_checkpoint(struct cas_store *s, const char *path, const struct cas_progress *progress,
                   struct cas_checkpoint_result *out, struct cas_err *err)
{
        __attribute__((cleanup(checkpoint_release))) struct checkpoint cp = {
                .s = s, .journal_fd = -1, .progress = progress, .out = out};
        struct cas_store_stats stats;
        *out = (struct cas_checkpoint_result){0};
        int rc = open_directory(&cp, path, err);
        if (rc == 0)
                rc = cas_store_stats(s, &stats, err);
        if (rc < 0)
                return rc;
        cp.total = stats.copy_count + stats.pack_count + stats.tree_count;
        rc = make_directories(&cp, err);
        if (rc == 0)
                rc = take_unchanging(&cp, err);
        if (rc == 0) {
                cas_removals_hold(&s->removals);
                rc = take_instant(&cp, err);
                cas_removals_let_go(&s->removals);
        }
        if (rc == 0)
                rc = take_rest(&cp, err);
        return rc < 0 ? cas_err_wrap(err, "checkpoint") : 0;
}
