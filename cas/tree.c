/* SPDX-License-Identifier: Apache-2.0 */
/* The trees that a store keeps: STORE/trees/<hex>.erofs, found by the chain of
 * layers in the index, made when they are not there, made again when their file
 * is gone or damaged. A file is checked against its digest once while the store
 * is open, and by its size at every use.
 *
 * One thread at a time works on a key; others that want it wait. What is on
 * disk at any moment: the file is whole and synced before the index names it,
 * so that a crash leaves at worst a file that no record names. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "cas/map.h"
#include "cas/record_int.h"
#include "cas/refs_int.h"
#include "cas/store_int.h"
#include "cas/tree_int.h"

#define CHECK_BYTES ((size_t)1 << 20)
#define KEY_VERSION 2
#define KEY_ALONE (UINT32_C(1) << 31)

struct cas_trees {
        struct cas_rwlock naming; /* "trees.naming": cas_trees_naming_lock */
        struct cas_mutex mutex;   /* "store.trees", a leaf; guards all below */
        pthread_cond_t change;
        struct cas_map *busy;    /* keys that a thread works on */
        struct cas_map *checked; /* digests of files that were found whole */
};

struct cas_trees *cas_trees_new(void)
{
        struct cas_trees *t = cas_xcalloc(1, sizeof(*t));
        cas_rwlock_init(&t->naming, "trees.naming");
        cas_mutex_init(&t->mutex, "store.trees");
        cas_cond_init(&t->change);
        t->busy = cas_map_new();
        t->checked = cas_map_new();
        return t;
}

void cas_trees_free(struct cas_trees *t)
{
        if (!t)
                return;
        cas_assert(cas_map_count(t->busy) == 0);
        cas_map_free(t->busy);
        cas_map_free(t->checked);
        (void)pthread_cond_destroy(&t->change);
        cas_mutex_release(&t->mutex);
        cas_rwlock_release(&t->naming);
        free(t);
}

void cas_trees_naming_lock(struct cas_trees *t, bool exclusive)
{
        if (exclusive)
                cas_rwlock_write(&t->naming);
        else
                cas_rwlock_read(&t->naming);
}

void cas_trees_naming_unlock(struct cas_trees *t)
{
        cas_rwlock_unlock(&t->naming);
}

void cas_trees_forget(struct cas_trees *t, const struct cas_digest *tree)
{
        cas_mutex_lock(&t->mutex);
        (void)cas_map_remove(t->checked, tree, sizeof(*tree));
        cas_mutex_unlock(&t->mutex);
}

static bool was_checked(struct cas_trees *t, const struct cas_digest *tree)
{
        cas_mutex_lock(&t->mutex);
        bool yes = cas_map_get(t->checked, tree, sizeof(*tree)) != NULL;
        cas_mutex_unlock(&t->mutex);
        return yes;
}

static void note_checked(struct cas_trees *t, const struct cas_digest *tree)
{
        cas_mutex_lock(&t->mutex);
        (void)cas_map_put(t->checked, tree, sizeof(*tree), NULL);
        cas_mutex_unlock(&t->mutex);
}

static void key_begin(struct cas_trees *t, const struct cas_hash *key)
{
        bool mine;
        cas_mutex_lock(&t->mutex);
        while (cas_map_put(t->busy, key, sizeof(*key), &mine), !mine)
                cas_mutex_wait(&t->mutex, &t->change);
        cas_mutex_unlock(&t->mutex);
}

static void key_end(struct cas_trees *t, const struct cas_hash *key)
{
        cas_mutex_lock(&t->mutex);
        (void)cas_map_remove(t->busy, key, sizeof(*key));
        (void)pthread_cond_broadcast(&t->change);
        cas_mutex_unlock(&t->mutex);
}

/* ---- names ---- */

void cas_tree_relative_path(const struct cas_digest *tree, char out[CAS_TREE_PATH_BYTES])
{
        char hex[CAS_DIGEST_TEXT_BYTES];
        (void)snprintf(out, CAS_TREE_PATH_BYTES, CAS_DIR_TREES "/%s.erofs",
                       cas_digest_hex(tree, hex));
}

void cas_tree_path(const struct cas_store *s, const struct cas_digest *tree, char *out,
                   size_t out_bytes)
{
        char path[CAS_TREE_PATH_BYTES];
        cas_tree_relative_path(tree, path);
        (void)snprintf(out, out_bytes, "%s/%s", s->path, path);
}

/* By what the tree is made of: not by diff_ids, which are what a decoder said (spec/security.md).
 */
void cas_tree_key(const struct cas_tree_chain *chain, struct cas_hash *out)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        cas_buf_append_le32(&text, KEY_VERSION);
        cas_buf_append_le32(&text, CAS_TREE_VERSION);
        cas_buf_append_le32(&text, (uint32_t)chain->base_count | (chain->alone ? KEY_ALONE : 0));
        for (size_t i = 0; i < chain->count; i++)
                cas_buf_append(&text, chain->layers[i].listing.bytes, CAS_HASH_BYTES);
        cas_sha256(text.data, text.len_bytes, out);
}

/* ---- files ---- */

/* The file's bytes have the tree's digest. */
static int check_bytes(struct cas_store *s, int fd, const char *path,
                       const struct cas_tree_record *rec, struct cas_err *err)
{
        cas_cleanup_free uint8_t *piece = cas_xmalloc(CHECK_BYTES);
        cas_cleanup_hasher struct cas_hasher *h = cas_hasher_new(CAS_DIGEST_SHA256);
        struct cas_digest digest;
        for (uint64_t at = 0; at < rec->size_bytes;) {
                size_t len = (size_t)cas_min_u64(CHECK_BYTES, rec->size_bytes - at);
                if (cas_io_pread_exact(s->io, fd, piece, len, at, path, err) < 0)
                        return -(int)err->code;
                cas_hasher_update(h, piece, len);
                at += len;
        }
        cas_hasher_final(h, &digest);
        if (!cas_digest_equal(&digest, &rec->tree))
                return cas_fail(err, CAS_E_CORRUPT, "%s: bytes differ from its digest", path);
        return 0;
}

/* Errors: NOTFOUND, CORRUPT. */
static int check_file(struct cas_store *s, const struct cas_tree_record *rec, struct cas_err *err)
{
        char path[CAS_TREE_PATH_BYTES];
        uint64_t size_bytes;
        cas_tree_relative_path(&rec->tree, path);
        if (cas_io_size(s->io, s->dirfd, path, &size_bytes, err) < 0)
                return -(int)err->code;
        if (size_bytes != rec->size_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "%s: has the wrong size", path);
        if (was_checked(s->trees, &rec->tree))
                return 0;
        cas_cleanup_fd int fd = -1;
        if (cas_io_open(s->io, s->dirfd, path, O_RDONLY, 0, &fd, err) < 0 ||
            check_bytes(s, fd, path, rec, err) < 0)
                return -(int)err->code;
        note_checked(s->trees, &rec->tree);
        return 0;
}

static int write_temporary(struct cas_store *s, const char *path, const struct cas_buf *image,
                           struct cas_err *err)
{
        cas_cleanup_fd int fd = -1;
        int rc = cas_io_open(s->io, s->dirfd, path, O_WRONLY | O_CREAT | O_EXCL, 0400, &fd, err);
        if (rc == 0 && fchmod(fd, 0400) != 0) /* whatever the umask */
                rc = cas_fail_sys(err, errno, "set the mode of %s", path);
        if (rc == 0)
                rc = cas_io_pwrite_all(s->io, fd, image->data, image->len_bytes, 0, path, err);
        if (rc == 0)
                rc = cas_io_fsync(s->io, fd, path, err);
        if (rc == 0)
                rc = cas_io_close(s->io, &fd, path, err);
        return rc;
}

/* Gives a file, synced, its tree's name, durably. Replaces one that is there. */
static int name_file(struct cas_store *s, const char *temporary, const struct cas_digest *tree,
                     struct cas_err *err)
{
        char path[CAS_TREE_PATH_BYTES];
        cas_tree_relative_path(tree, path);
        int rc = cas_io_rename(s->io, s->dirfd, temporary, s->dirfd, path, err);
        return rc < 0 ? rc : cas_io_sync_dir(s->io, s->dirfd, CAS_DIR_TREES, err);
}

/* ---- making ---- */

static int merge_chain(const struct cas_tree_chain *chain, struct cas_merge *m, struct cas_err *err)
{
        for (size_t i = 0; i < chain->count; i++) {
                char text[CAS_DIGEST_TEXT_BYTES];
                cas_cleanup_listing struct cas_listing listing = {0};
                if (chain->listing(chain->listing_arg, i, &listing, err) < 0 ||
                    cas_merge_apply(m, &listing, err) < 0)
                        return cas_err_wrap(err, "layer %s",
                                            cas_digest_text(&chain->layers[i].blob, text));
                if (i + 1 == chain->base_count && cas_merge_mark_base(m, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

static int put_ref(void *arg, const struct cas_reference *ref, struct cas_err *err CAS_UNUSED)
{
        cas_batch_put_reference(arg, ref);
        return 0;
}

static int del_ref(void *arg, const struct cas_reference *ref, struct cas_err *err CAS_UNUSED)
{
        cas_batch_del_reference(arg, ref);
        return 0;
}

static void record_release(struct cas_tree_record *rec)
{
        free(rec->layers);
}

/* References of the record that is there, if any, go. One that cannot be read keeps its own. */
static int drop_references(struct cas_store *s, const struct cas_hash *key, struct cas_batch *batch,
                           struct cas_err *err)
{
        __attribute__((cleanup(record_release))) struct cas_tree_record rec = {0};
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_index_get_tree(s->index, key, &rec, &miss);
        if (rc == -CAS_E_NOTFOUND || rc == -CAS_E_CORRUPT)
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        return cas_tree_references(key, &rec, del_ref, batch, err);
}

/* By who has the key to itself. */
static int put_record(struct cas_store *s, const struct cas_hash *key,
                      const struct cas_tree_chain *chain, const struct cas_digest *tree,
                      uint64_t size_bytes, struct cas_err *err)
{
        cas_cleanup_free struct cas_digest *layers =
                cas_xcalloc(chain->count + 1, sizeof(layers[0]));
        for (size_t i = 0; i < chain->count; i++)
                layers[i] = chain->layers[i].blob;
        const struct cas_tree_record rec = {.tree = *tree,
                                            .size_bytes = size_bytes,
                                            .layers = layers,
                                            .layer_count = chain->count};
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_batch_put_tree(batch, key, &rec);
        int rc = drop_references(s, key, batch, err);
        if (rc == 0)
                rc = cas_tree_references(key, &rec, put_ref, batch, err);
        return rc < 0 ? rc : cas_index_write(s->index, batch, err);
}

/* File and record. */
static int publish_tree(struct cas_store *s, const struct cas_hash *key,
                        const struct cas_tree_chain *chain, const struct cas_buf *image,
                        const struct cas_digest *tree, struct cas_err *err)
{
        char temporary[CAS_TEMPORARY_PATH_BYTES];
        int rc = cas_temporary_path(temporary, err);
        if (rc < 0)
                return rc;
        rc = write_temporary(s, temporary, image, err);
        cas_trees_naming_lock(s->trees, false);
        if (rc == 0)
                rc = name_file(s, temporary, tree, err);
        if (rc == 0)
                rc = put_record(s, key, chain, tree, image->len_bytes, err);
        cas_trees_naming_unlock(s->trees);
        if (rc < 0)
                (void)s->io->ops->unlinkat(s->io->ctx, s->dirfd, temporary, 0);
        return rc;
}

/* The same listings of other blobs: the tree lives on with the blobs used last. False in *found:
 * its file has gone with the others. */
static int take_over(struct cas_store *s, const struct cas_hash *key,
                     const struct cas_tree_chain *chain, const struct cas_tree_record *rec,
                     bool *found, struct cas_err *err)
{
        char path[CAS_TREE_PATH_BYTES];
        struct cas_err gone = CAS_ERR_INIT;
        uint64_t bytes;
        cas_tree_relative_path(&rec->tree, path);
        cas_trees_naming_lock(s->trees, false);
        int rc = cas_io_size(s->io, s->dirfd, path, &bytes, &gone);
        *found = rc == 0;
        if (rc == 0)
                rc = put_record(s, key, chain, &rec->tree, rec->size_bytes, err);
        else if (rc == -CAS_E_NOTFOUND)
                rc = 0;
        else
                *err = gone;
        cas_trees_naming_unlock(s->trees);
        return rc;
}

static int make_tree(struct cas_store *s, const struct cas_hash *key,
                     const struct cas_tree_chain *chain, struct cas_tree_ref *out,
                     struct cas_err *err)
{
        cas_cleanup_merge struct cas_merge *m = cas_merge_new();
        cas_cleanup_buf struct cas_buf image = CAS_BUF_INIT;
        const struct cas_tree_options options = {.stacked = chain->base_count > 0};
        struct cas_digest digest;
        if (chain->alone)
                cas_merge_keep_marks(m);
        if (merge_chain(chain, m, err) < 0 ||
            cas_merge_write_erofs(m, &options, &image, &digest, err) < 0 ||
            publish_tree(s, key, chain, &image, &digest, err) < 0)
                return -(int)err->code;
        note_checked(s->trees, &digest);
        *out = (struct cas_tree_ref){.digest = digest, .size_bytes = image.len_bytes};
        return 0;
}

static bool same_layers(const struct cas_tree_record *rec, const struct cas_tree_chain *chain)
{
        bool same = rec->layer_count == chain->count;
        for (size_t i = 0; same && i < chain->count; i++)
                same = cas_digest_equal(&rec->layers[i], &chain->layers[i].blob);
        return same;
}

/* *found is false when the tree must be made. */
static int find_tree(struct cas_store *s, const struct cas_hash *key,
                     const struct cas_tree_chain *chain, struct cas_tree_ref *out, bool *found,
                     struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        __attribute__((cleanup(record_release))) struct cas_tree_record rec = {0};
        *found = false;
        int rc = cas_index_get_tree(s->index, key, &rec, &miss);
        if (rc == 0)
                rc = check_file(s, &rec, &miss);
        if (rc == -CAS_E_NOTFOUND || rc == -CAS_E_CORRUPT)
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        *found = true;
        *out = (struct cas_tree_ref){.digest = rec.tree, .size_bytes = rec.size_bytes};
        return same_layers(&rec, chain) ? 0 : take_over(s, key, chain, &rec, found, err);
}

int cas_tree_ensure_chain(struct cas_store *s, const struct cas_tree_chain *chain,
                          struct cas_tree_ref *out, struct cas_err *err)
{
        cas_assert(chain->base_count < chain->count || chain->base_count == 0);
        struct cas_hash key;
        bool found;
        cas_tree_key(chain, &key);
        key_begin(s->trees, &key);
        int rc = find_tree(s, &key, chain, out, &found, err);
        if (rc == 0 && !found)
                rc = make_tree(s, &key, chain, out, err);
        key_end(s->trees, &key);
        return rc;
}

/* ---- dropping ---- */

static int drop_tree(struct cas_store *s, const struct cas_hash *key, const struct cas_digest *tree,
                     struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        __attribute__((cleanup(record_release))) struct cas_tree_record rec = {0};
        struct cas_err miss = CAS_ERR_INIT;
        char path[CAS_TREE_PATH_BYTES];
        struct stat st;
        int rc = cas_index_get_tree(s->index, key, &rec, &miss);
        if (rc == -CAS_E_NOTFOUND || (rc == 0 && !cas_digest_equal(&rec.tree, tree)))
                return 0;
        if (rc == 0)
                rc = cas_tree_references(key, &rec, del_ref, batch, &miss);
        if (rc == 0)
                cas_batch_del(batch, CAS_FAMILY_TREES, key->bytes, CAS_HASH_BYTES);
        if (rc == 0)
                rc = cas_index_write(s->index, batch, &miss);
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        cas_trees_forget(s->trees, tree);
        cas_tree_relative_path(tree, path);
        if (s->io->ops->fstatat(s->io->ctx, s->dirfd, path, &st, AT_SYMLINK_NOFOLLOW) != 0)
                return 0;
        rc = cas_io_unlink(s->io, s->dirfd, path, err);
        return rc < 0 ? rc : cas_io_sync_dir(s->io, s->dirfd, CAS_DIR_TREES, err);
}

int cas_tree_drop(struct cas_store *s, const struct cas_hash *key, const struct cas_digest *tree,
                  struct cas_err *err)
{
        key_begin(s->trees, key);
        cas_trees_naming_lock(s->trees, true);
        int rc = drop_tree(s, key, tree, err);
        cas_trees_naming_unlock(s->trees);
        key_end(s->trees, key);
        return rc;
}
