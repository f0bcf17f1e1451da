/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the EROFS on-disk format that trees use: offsets and constants
 * (Linux Documentation/filesystems/erofs.rst; spec/tree.md says which of its
 * freedoms are taken). All integers little-endian. */
#ifndef CAS_EROFS_H
#define CAS_EROFS_H

#include "cas/base.h"
#include "cas/limits.h"

#define EROFS_BLOCK_BITS 12
#define EROFS_BLOCK_BYTES 4096u

/* The kilobyte before the super block: composefs's header, then ours. */
#define COMPOSEFS_MAGIC 0xd078629au
#define COMPOSEFS_VERSION 1
#define COMPOSEFS_FLAG_ACL 1u
enum {
        COMPOSEFS_OFF_MAGIC = 0,
        COMPOSEFS_OFF_VERSION = 4,
        COMPOSEFS_OFF_FLAGS = 8,
        COMPOSEFS_OFF_FORMAT = 12,
        TREE_OFF_MAGIC = 64, /* TREE_MAGIC, 8 bytes */
        TREE_OFF_VERSION = 72,
        TREE_OFF_FLAGS = 76,
        TREE_OFF_ENTRIES = 80, /* u64: names in the image, the root's included */
};
#define TREE_MAGIC "lamtree\n"
#define TREE_FLAG_STACKED 1u

/* super block */
#define EROFS_SUPER_OFFSET 1024u
#define EROFS_SUPER_BYTES 128u
#define EROFS_MAGIC 0xe0f5e1e2u
#define EROFS_COMPAT_SB_CHECKSUM 0x1u
#define EROFS_COMPAT_MTIME 0x2u
#define EROFS_COMPAT_XATTR_FILTER 0x4u
#define EROFS_INCOMPAT_CHUNKED 0x4u
enum {
        EROFS_SB_MAGIC = 0,
        EROFS_SB_CHECKSUM = 4,
        EROFS_SB_COMPAT = 8,
        EROFS_SB_BLOCK_BITS = 12, /* u8 */
        EROFS_SB_ROOT_NID = 14,   /* u16 */
        EROFS_SB_INODES = 16,     /* u64 */
        EROFS_SB_TIME_S = 24,     /* u64: mtime of compact inodes */
        EROFS_SB_TIME_NS = 32,
        EROFS_SB_BLOCKS = 36,
        EROFS_SB_META_BLOCK = 40,
        EROFS_SB_XATTR_BLOCK = 44,
        EROFS_SB_UUID = 48, /* 16 bytes */
        EROFS_SB_INCOMPAT = 80,
};

/* inodes: 32-byte slots; nid counts slots from the metadata area's start */
#define EROFS_SLOT_BITS 5
#define EROFS_COMPACT_BYTES 32u
#define EROFS_EXTENDED_BYTES 64u
#define EROFS_FORMAT_EXTENDED 1u
#define EROFS_LAYOUT_SHIFT 1
#define EROFS_LAYOUT_PLAIN 0u
#define EROFS_LAYOUT_INLINE 2u
#define EROFS_LAYOUT_CHUNKED 4u
enum {
        EROFS_I_FORMAT = 0,      /* u16 */
        EROFS_I_XATTR_COUNT = 2, /* u16 */
        EROFS_I_MODE = 4,        /* u16 */
        EROFS_IC_NLINK = 6,      /* compact from here: u16 */
        EROFS_IC_SIZE = 8,       /* u32 */
        EROFS_IC_UNION = 16,     /* u32 */
        EROFS_IC_INO = 20,       /* u32 */
        EROFS_IC_UID = 24,       /* u16 */
        EROFS_IC_GID = 26,       /* u16 */
        EROFS_IE_SIZE = 8,       /* extended from here: u64 */
        EROFS_IE_UNION = 16,     /* u32 */
        EROFS_IE_INO = 20,
        EROFS_IE_UID = 24,
        EROFS_IE_GID = 28,
        EROFS_IE_MTIME_S = 32, /* u64 */
        EROFS_IE_MTIME_NS = 40,
        EROFS_IE_NLINK = 44,
};
/* A chunk map's entry without a block: a hole. Chunks have 1 << (12 + bits) bytes. */
#define EROFS_NULL_BLOCK 0xffffffffu
#define EROFS_CHUNK_ENTRY_BYTES 4u
#define EROFS_CHUNK_BITS_MASK 0x1fu

/* directories: blocks of dirents, then their names */
#define EROFS_DIRENT_BYTES 12u
enum {
        EROFS_D_NID = 0,      /* u64 */
        EROFS_D_NAME_OFF = 8, /* u16: from the block's start */
        EROFS_D_TYPE = 10,    /* u8 */
};
enum cas_erofs_type {
        EROFS_FT_REG = 1,
        EROFS_FT_DIR = 2,
        EROFS_FT_CHR = 3,
        EROFS_FT_BLK = 4,
        EROFS_FT_FIFO = 5,
        EROFS_FT_SOCK = 6,
        EROFS_FT_SYMLINK = 7,
};

/* xattrs: a header in the inode, shared ones by number, the others in line */
#define EROFS_XATTR_HEADER_BYTES 12u
#define EROFS_XATTR_ENTRY_BYTES 4u
#define EROFS_XATTR_SHARED_MAX 255u
#define EROFS_XATTR_FILTER_SEED 0x25bbe08fu
enum {
        EROFS_X_FILTER = 0,       /* header: u32, a set bit: no name of that hash */
        EROFS_X_SHARED = 4,       /* u8 */
        EROFS_XE_NAME_BYTES = 0,  /* entry: u8 */
        EROFS_XE_INDEX = 1,       /* u8 */
        EROFS_XE_VALUE_BYTES = 2, /* u16 */
};
enum cas_erofs_xattr_index {
        EROFS_XATTR_USER = 1,
        EROFS_XATTR_ACL_ACCESS = 2,
        EROFS_XATTR_ACL_DEFAULT = 3,
        EROFS_XATTR_TRUSTED = 4,
        EROFS_XATTR_SECURITY = 6,
};
struct cas_erofs_xattr_prefix {
        uint8_t index;
        uint8_t len;
        const char *text;
};
/* Full names only for the two ACLs; sorted by nothing. */
#define EROFS_XATTR_PREFIXES                                                                       \
        {                                                                                          \
                {EROFS_XATTR_USER, 5, "user."},                                                    \
                        {EROFS_XATTR_ACL_ACCESS, 23, "system.posix_acl_access"},                   \
                        {EROFS_XATTR_ACL_DEFAULT, 24, "system.posix_acl_default"},                 \
                        {EROFS_XATTR_TRUSTED, 8, "trusted."},                                      \
                {                                                                                  \
                        EROFS_XATTR_SECURITY, 9, "security."                                       \
                }                                                                                  \
        }

/* overlayfs's names, behind "trusted." */
#define OVERLAY_PREFIX "overlay."
#define OVERLAY_REDIRECT "overlay.redirect"
#define OVERLAY_METACOPY "overlay.metacopy"
#define OVERLAY_OPAQUE "overlay.opaque"
#define OVERLAY_WHITEOUT "overlay.whiteout"
/* Ours, hidden by overlayfs like all of its own: a 0/0 device that is no whiteout. */
#define OVERLAY_DEVICE "overlay.lamina.device"
#define OVERLAY_REDIRECT_BYTES 66u /* "/xx/" and 62 digits */

static inline uint64_t cas_erofs_xattr_entry_bytes(size_t name_len, size_t value_len)
{
        return cas_align_up(EROFS_XATTR_ENTRY_BYTES + name_len + value_len, 4);
}
/* log2 of the chunk size over the block size: one entry covers 8 TiB. */
static inline unsigned cas_erofs_chunk_bits(uint64_t size_bytes)
{
        unsigned bits = 0;
        while (bits < EROFS_CHUNK_BITS_MASK &&
               (EROFS_BLOCK_BYTES * UINT64_C(1) << bits) < size_bytes)
                bits++;
        return bits;
}
static inline uint64_t cas_erofs_chunk_count(uint64_t size_bytes)
{
        unsigned shift = EROFS_BLOCK_BITS + cas_erofs_chunk_bits(size_bytes);
        return (size_bytes + (UINT64_C(1) << shift) - 1) >> shift;
}
/* As the kernel packs device numbers. */
static inline uint32_t cas_erofs_rdev(uint32_t major, uint32_t minor)
{
        return (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
}

/* CRC-32C with seed ~0, not inverted at the end; the checksum field counts as zero because it
 * is when this is called. */
static inline uint32_t cas_erofs_crc32c(const uint8_t *data, size_t len)
{
        uint32_t crc = UINT32_MAX;
        for (size_t i = 0; i < len; i++) {
                crc ^= data[i];
                for (int bit = 0; bit < 8; bit++)
                        crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
        }
        return crc;
}

#endif
