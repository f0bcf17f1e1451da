/* SPDX-License-Identifier: Apache-2.0 */
/* Files of blobs and trees that the index does not know any more. They go after what took them out
 * of the index is durable; what a crash leaves of them is found by the next full run. Who names a
 * file and tells the index of it excludes who looks and removes it, so one that came back stays. */
#include <errno.h>
#include <fcntl.h>

#include "cas/blobcache_int.h"
#include "cas/gc_int.h"
#include "cas/tree_int.h"

/* Removed after one sync, and under one lock. */
#define FILES_AT_ONCE 512
#define FILES_LOCKED 16

struct cas_gc_file {
        struct cas_digest digest;
        bool is_tree;
};

int cas_gc_file_later(struct cas_gc_run *gc, const struct cas_digest *digest, bool is_tree,
                      struct cas_err *err)
{
        if (gc->file_count == gc->file_max) {
                gc->file_max = gc->file_max ? 2 * gc->file_max : 64;
                gc->files = cas_xrealloc(gc->files, gc->file_max * sizeof(gc->files[0]));
        }
        gc->files[gc->file_count++] = (struct cas_gc_file){.digest = *digest, .is_tree = is_tree};
        return gc->file_count >= FILES_AT_ONCE ? cas_gc_files(gc, err) : 0;
}

void cas_gc_files_release(struct cas_gc_run *gc)
{
        free(gc->files);
        gc->files = NULL;
        gc->file_count = gc->file_max = 0;
}

/* Whether the index tells of the file. */
static int blob_is_known(struct cas_gc_run *gc, const struct cas_digest *digest, bool *out,
                         struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_blob_record rec;
        struct cas_record_key key;
        struct cas_err miss = CAS_ERR_INIT;
        cas_key_digest(digest, &key);
        int rc = cas_index_get(gc->ix, CAS_FAMILY_BLOBS, key.bytes, key.len, &value, &miss);
        *out = false;
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc == 0)
                rc = cas_blob_record_decode(value.data, value.len_bytes, &rec, &miss);
        if (rc < 0)
                *err = miss;
        *out = rc < 0 || rec.copy != CAS_BLOB_CONDENSED;
        return rc;
}

static int see_tree(void *arg, const struct cas_ref_seen *ref, struct cas_err *err CAS_UNUSED)
{
        bool *known = arg;
        *known = ref->role == CAS_BLOB_IN_TREE;
        return *known;
}

static int file_is_known(struct cas_gc_run *gc, const struct cas_gc_file *f, bool *out,
                         struct cas_err *err)
{
        *out = false;
        return f->is_tree ? cas_blob_refs_each(gc->ix, &f->digest, see_tree, out, err)
                          : blob_is_known(gc, &f->digest, out, err);
}

static int unlink_file(struct cas_gc_run *gc, const char *path, struct cas_err *err)
{
        const struct cas_store *s = gc->s;
        struct stat st;
        if (s->io->ops->fstatat(s->io->ctx, s->dirfd, path, &st, AT_SYMLINK_NOFOLLOW) != 0)
                return errno == ENOENT ? 0 : cas_fail_sys(err, errno, "stat %s", path);
        gc->out->bytes_freed += (uint64_t)st.st_size;
        return gc->trial ? 0 : cas_io_unlink(s->io, s->dirfd, path, err);
}

static int remove_file(struct cas_gc_run *gc, const struct cas_gc_file *f, struct cas_err *err)
{
        char path[CAS_BLOB_PATH_BYTES > CAS_TREE_PATH_BYTES ? CAS_BLOB_PATH_BYTES
                                                            : CAS_TREE_PATH_BYTES];
        bool known;
        int rc = file_is_known(gc, f, &known, err);
        if (rc < 0 || known)
                return rc;
        if (f->is_tree)
                cas_tree_relative_path(&f->digest, path);
        else
                cas_blob_path(&f->digest, path);
        rc = unlink_file(gc, path, err);
        if (rc == 0 && !gc->trial && f->is_tree)
                cas_trees_forget(gc->s->trees, &f->digest);
        else if (rc == 0 && !gc->trial)
                cas_blobcache_forget(gc->s->blobcache, &f->digest);
        return rc;
}

/* With what keeps others from naming such files. */
static int remove_some(struct cas_gc_run *gc, size_t first, size_t count, struct cas_err *err)
{
        int rc = 0;
        cas_removal_begin(&gc->s->removals);
        cas_blob_files_lock(gc->s, true);
        cas_trees_naming_lock(gc->s->trees, true);
        for (size_t i = first; rc == 0 && i < first + count; i++)
                rc = remove_file(gc, &gc->files[i], err);
        cas_trees_naming_unlock(gc->s->trees);
        cas_blob_files_unlock(gc->s);
        cas_removal_end(&gc->s->removals);
        return rc;
}

int cas_gc_files(struct cas_gc_run *gc, struct cas_err *err)
{
        int rc = gc->file_count > 0 ? cas_index_sync(gc->ix, err) : 0;
        for (size_t at = 0; rc == 0 && at < gc->file_count; at += FILES_LOCKED)
                rc = remove_some(gc, at, cas_min_u64(FILES_LOCKED, gc->file_count - at), err);
        gc->file_count = 0;
        return rc;
}
