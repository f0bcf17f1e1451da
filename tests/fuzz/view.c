/* SPDX-License-Identifier: Apache-2.0 */
/* Views over any bytes: up to three trees of blocks that the fuzzer draws, with checksums, magic
 * numbers and counts set right so that it gets behind them. Every call ends and answers or
 * refuses; asked again it says the same. */
#include <sys/stat.h>

#include "cas/erofs.h"
#include "fusefs/view_int.h"

#define VISITS_MAX 500
#define BLOCKS_MAX 24

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct visit {
        const struct ffs_view *v;
        unsigned left, depth;
        uint64_t sum; /* of what was seen, so that it is read */
};

static void see_inode(struct visit *v, uint64_t vid);

static bool see_name(void *arg, const char *name, size_t len, uint64_t vid, uint8_t type,
                     uint64_t next)
{
        struct visit *v = arg;
        cas_assert(next < UINT64_C(1) << 62);
        v->sum += (uint8_t)name[len - 1] + type;
        if (v->depth < 6 && v->left > 0) {
                v->depth++;
                see_inode(v, vid);
                v->depth--;
        }
        return v->left > 0;
}

static bool see_path(void *arg, const char *path)
{
        struct visit *v = arg;
        v->sum += strlen(path);
        return v->left > 0 && v->left-- > 1;
}

static void see_inode(struct visit *v, uint64_t vid)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_inode inode = {0};
        uint64_t found = 0, again = 0, cookie = 0;
        if (v->left == 0)
                return;
        v->left--;
        if (ffs_view_inode(v->v, vid, &inode, &err) == 0)
                v->sum += inode.size_bytes + ffs_view_ino(v->v, vid);
        int rc = ffs_view_lookup(v->v, vid, "name", 4, &found, &err);
        if (rc == 0) {
                cas_assert(ffs_view_lookup(v->v, vid, "name", 4, &again, &err) == 0);
                cas_assert(found == again);
        }
        if (S_ISDIR(inode.mode)) {
                struct cas_hash key;
                (void)!ffs_view_parent(v->v, vid, &found, &err);
                (void)!ffs_view_dir_key(v->v, vid, &key, &err);
        }
        if (inode.nlink > 1 && !S_ISDIR(inode.mode))
                (void)!ffs_view_links(v->v, vid, see_path, v, &err);
        (void)!ffs_view_readdir(v->v, vid, &cookie, see_name, v, &err);
}

static struct cas_tree *make_tree(uint8_t *image, size_t blocks)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_tree *t = NULL;
        uint8_t *sb = image + EROFS_SUPER_OFFSET;
        size_t bytes = blocks * EROFS_BLOCK_BYTES;
        memcpy(image + TREE_OFF_MAGIC, TREE_MAGIC, 8);
        cas_put_le32(image + TREE_OFF_VERSION, CAS_TREE_VERSION);
        cas_put_le32(image + TREE_OFF_FLAGS, image[TREE_OFF_FLAGS] & TREE_FLAG_STACKED);
        cas_put_le64(image + TREE_OFF_ENTRIES,
                     cas_get_le64(image + TREE_OFF_ENTRIES) % (bytes / EROFS_DIRENT_BYTES));
        cas_put_le32(sb + EROFS_SB_MAGIC, EROFS_MAGIC);
        cas_put_le32(sb + EROFS_SB_BLOCKS, (uint32_t)blocks);
        cas_put_le32(sb + EROFS_SB_CHECKSUM, 0);
        cas_put_le32(sb + EROFS_SB_CHECKSUM,
                     cas_erofs_crc32c(sb, EROFS_BLOCK_BYTES - EROFS_SUPER_OFFSET));
        return cas_tree_open_mem(image, bytes, &t, &err) == 0 ? t : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_tree *trees[3] = {NULL};
        static const struct cas_digest digests[3];
        struct ffs_view *v = NULL;
        if (size < 2)
                return 0;
        size_t count = data[0] % 3 + 1, want = data[1];
        size_t blocks = (size - 2) / EROFS_BLOCK_BYTES / count;
        if (blocks == 0 || blocks * count > BLOCKS_MAX)
                return 0;
        size_t bytes = blocks * count * EROFS_BLOCK_BYTES;
        cas_cleanup_free uint8_t *images = cas_xmalloc(bytes);
        memcpy(images, data + 2, bytes);
        bool good = true;
        for (size_t i = 0; i < count; i++) {
                trees[i] = make_tree(images + i * blocks * EROFS_BLOCK_BYTES, blocks);
                good = good && trees[i];
        }
        if (!good || ffs_view_new(digests, trees, count, &v, &err) < 0) {
                for (size_t i = 0; i < count; i++)
                        cas_tree_close(trees[i]);
                return 0;
        }
        struct visit visit = {.v = v, .left = VISITS_MAX};
        /* A directory that nobody looked up comes first, as after a takeover. */
        see_inode(&visit, want);
        see_inode(&visit, ffs_view_root(v));
        ffs_view_unref(v);
        return visit.sum == UINT64_MAX; /* never; the sum must be computed */
}
