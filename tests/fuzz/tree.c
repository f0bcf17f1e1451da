/* SPDX-License-Identifier: Apache-2.0 */
/* The tree reader over any bytes: it answers or refuses, and never reads outside. Checksum and
 * magic numbers are set right first, so that the fuzzer gets behind them. */
#include <sys/stat.h>

#include "cas/erofs.h"
#include "cas/tree.h"

#define VISITS_MAX 5000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct visit {
        const struct cas_tree *t;
        unsigned left;
        unsigned depth;
        uint64_t sum; /* of all bytes seen, so that they are read */
};

static void add_bytes(struct visit *v, const void *data, size_t len)
{
        for (size_t i = 0; i < len; i++)
                v->sum += ((const uint8_t *)data)[i];
}

static bool see_xattr(void *arg, const char *name, const void *value, size_t len)
{
        struct visit *v = arg;
        add_bytes(v, name, strlen(name));
        add_bytes(v, value, len);
        return v->left-- > 1;
}

static void see_inode(struct visit *v, uint64_t nid);

static bool see_name(void *arg, const char *name, size_t len, uint64_t nid, uint8_t type,
                     uint64_t next)
{
        struct visit *v = arg;
        add_bytes(v, name, len);
        v->sum += type + next;
        if (v->depth < 8 && v->left > 0) {
                v->depth++;
                see_inode(v, nid);
                v->depth--;
        }
        return v->left > 0;
}

static void see_inode(struct visit *v, uint64_t nid)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_inode inode;
        const void *bytes;
        size_t len;
        uint64_t found, cookie = 0;
        if (v->left == 0)
                return;
        v->left--;
        if (cas_tree_inode(v->t, nid, &inode, &err) == 0)
                v->sum += inode.size_bytes;
        if (v->left > 0)
                (void)!cas_tree_xattrs(v->t, nid, see_xattr, v, &err);
        v->left += v->left == 0;
        if (cas_tree_inline(v->t, nid, &bytes, &len, &err) == 0)
                add_bytes(v, bytes, len);
        if (cas_tree_lookup(v->t, nid, "name", 4, &found, &err) == 0)
                v->sum += found;
        (void)!cas_tree_readdir(v->t, nid, &cookie, see_name, v, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct cas_err err = CAS_ERR_INIT;
        size_t blocks = size / EROFS_BLOCK_BYTES;
        if (blocks == 0 || blocks > 64)
                return 0;
        cas_cleanup_free uint8_t *image = cas_xmalloc(blocks * EROFS_BLOCK_BYTES);
        memcpy(image, data, blocks * EROFS_BLOCK_BYTES);
        uint8_t *sb = image + EROFS_SUPER_OFFSET;
        memcpy(image + TREE_OFF_MAGIC, TREE_MAGIC, 8);
        cas_put_le32(image + TREE_OFF_VERSION, CAS_TREE_VERSION);
        cas_put_le32(image + TREE_OFF_FLAGS, image[TREE_OFF_FLAGS] & TREE_FLAG_STACKED);
        cas_put_le32(sb + EROFS_SB_MAGIC, EROFS_MAGIC);
        cas_put_le32(sb + EROFS_SB_BLOCKS, (uint32_t)blocks);
        cas_put_le32(sb + EROFS_SB_CHECKSUM, 0);
        cas_put_le32(sb + EROFS_SB_CHECKSUM,
                     cas_erofs_crc32c(sb, EROFS_BLOCK_BYTES - EROFS_SUPER_OFFSET));
        cas_cleanup_tree struct cas_tree *t = NULL;
        if (cas_tree_open_mem(image, blocks * EROFS_BLOCK_BYTES, &t, &err) < 0)
                return 0;
        struct visit v = {.t = t, .left = VISITS_MAX};
        see_inode(&v, cas_tree_root(t));
        return v.sum == UINT64_MAX; /* never; the sum must be computed */
}
