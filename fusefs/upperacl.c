/* SPDX-License-Identifier: Apache-2.0 */
/* POSIX ACLs in the form of their xattrs (version 2): u32 version, then for each
 * entry u16 tag, u16 permissions, u32 id, little-endian. Bytes in, bytes out. */
#include <sys/stat.h>

#include "fusefs/upperparts_int.h"

#define ACL_HEAD_BYTES 4
#define ACL_ENTRY_BYTES 8
#define ACL_VERSION 2

enum {
        TAG_USER_OBJ = 1,
        TAG_USER = 2,
        TAG_GROUP_OBJ = 4,
        TAG_GROUP = 8,
        TAG_MASK = 16,
        TAG_OTHER = 32
};

static uint32_t get32(const uint8_t *p)
{
        return cas_get_le32(p);
}

static unsigned tag_of(const uint8_t *e)
{
        return cas_get_le16(e);
}

static unsigned perm_of(const uint8_t *e)
{
        return cas_get_le16(e + 2);
}

static void set_perm(uint8_t *e, unsigned perm)
{
        cas_put_le16(e + 2, (uint16_t)perm);
}

/* Tags come in ascending order, each of the four without a name once, and with names the mask. */
bool ffs_acl_is_valid(const uint8_t *acl, size_t len)
{
        if (len < ACL_HEAD_BYTES + 3 * ACL_ENTRY_BYTES || get32(acl) != ACL_VERSION ||
            (len - ACL_HEAD_BYTES) % ACL_ENTRY_BYTES != 0 || len > FFS_UPPER_XATTR_BYTES_MAX)
                return false;
        unsigned seen = 0, last = 0;
        for (const uint8_t *e = acl + ACL_HEAD_BYTES; e < acl + len; e += ACL_ENTRY_BYTES) {
                unsigned tag = tag_of(e);
                bool named = tag == TAG_USER || tag == TAG_GROUP;
                if (tag == 0 || (tag & (tag - 1)) || tag > TAG_OTHER || tag < last ||
                    (tag == last && !named) || perm_of(e) > 7)
                        return false;
                seen |= tag;
                last = tag;
        }
        unsigned needed = TAG_USER_OBJ | TAG_GROUP_OBJ | TAG_OTHER;
        if (seen & (TAG_USER | TAG_GROUP))
                needed |= TAG_MASK;
        return (seen & needed) == needed;
}

/* The entries that stand for the three classes of a mode; group: the mask, where there is one. */
struct classes {
        uint8_t *user, *group, *other;
        bool minimal;
};
static struct classes classes_of(uint8_t *acl, size_t len)
{
        struct classes c = {.minimal = true};
        for (uint8_t *e = acl + ACL_HEAD_BYTES; e < acl + len; e += ACL_ENTRY_BYTES) {
                switch (tag_of(e)) {
                case TAG_USER_OBJ:
                        c.user = e;
                        break;
                case TAG_GROUP_OBJ:
                        c.group = e;
                        break;
                case TAG_MASK: /* behind the group */
                        c.group = e;
                        c.minimal = false;
                        break;
                case TAG_OTHER:
                        c.other = e;
                        break;
                default:
                        c.minimal = false;
                        break;
                }
        }
        cas_assert(c.user != NULL);
        cas_assert(c.group != NULL);
        cas_assert(c.other != NULL);
        return c;
}

bool ffs_acl_to_mode(const uint8_t *acl, size_t len, mode_t *permissions)
{
        struct classes c = classes_of((uint8_t *)(uintptr_t)acl, len); /* read only */
        *permissions = (mode_t)(perm_of(c.user) << 6 | perm_of(c.group) << 3 | perm_of(c.other));
        return c.minimal;
}

bool ffs_acl_inherit(uint8_t *acl, size_t len, mode_t *mode)
{
        struct classes c = classes_of(acl, len);
        set_perm(c.user, perm_of(c.user) & (*mode >> 6 & 7));
        set_perm(c.group, perm_of(c.group) & (*mode >> 3 & 7));
        set_perm(c.other, perm_of(c.other) & (*mode & 7));
        mode_t permissions;
        bool minimal = ffs_acl_to_mode(acl, len, &permissions);
        *mode = (*mode & ~(mode_t)0777) | permissions;
        return minimal;
}

void ffs_acl_chmod(uint8_t *acl, size_t len, mode_t mode)
{
        struct classes c = classes_of(acl, len);
        set_perm(c.user, mode >> 6 & 7);
        set_perm(c.group, mode >> 3 & 7);
        set_perm(c.other, mode & 7);
}
