/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/xattr.h"

#include "cas/buf.h"

static const char acl_access[] = "system.posix_acl_access";
static const char acl_default[] = "system.posix_acl_default";

/* The kernel's ACL xattr (linux/posix_acl_xattr.h): a version, then entries in the order of
 * their tags. */
enum acl_tag {
        ACL_USER_OBJ = 0x01,
        ACL_USER = 0x02,
        ACL_GROUP_OBJ = 0x04,
        ACL_GROUP = 0x08,
        ACL_MASK = 0x10,
        ACL_OTHER = 0x20,
};
#define ACL_VERSION 2

struct acl {
        unsigned user, group, mask, other; /* permissions */
        unsigned tags;                     /* those that are there */
        size_t count;
};

static bool acl_parse(const uint8_t *value, size_t len, struct acl *out)
{
        struct cas_cursor c = cas_cursor_over(value, len);
        unsigned last_tag = 0;
        *out = (struct acl){0};
        if (cas_cursor_le32(&c) != ACL_VERSION)
                return false;
        for (; cas_cursor_left(&c) > 0; out->count++) {
                unsigned tag = cas_cursor_le16(&c), permissions = cas_cursor_le16(&c);
                uint32_t id = cas_cursor_le32(&c);
                bool named = tag == ACL_USER || tag == ACL_GROUP;
                bool known = tag == ACL_USER_OBJ || tag == ACL_GROUP_OBJ || tag == ACL_MASK ||
                             tag == ACL_OTHER || named;
                if (c.failed || !known || permissions > 7 || tag < last_tag ||
                    (named ? id == UINT32_MAX : tag == last_tag))
                        return false;
                last_tag = tag;
                out->tags |= tag;
                if (tag == ACL_USER_OBJ)
                        out->user = permissions;
                else if (tag == ACL_GROUP_OBJ)
                        out->group = permissions;
                else if (tag == ACL_MASK)
                        out->mask = permissions;
                else if (tag == ACL_OTHER)
                        out->other = permissions;
        }
        unsigned base = ACL_USER_OBJ | ACL_GROUP_OBJ | ACL_OTHER;
        bool whole = (out->tags & base) == base;
        bool masked = out->tags & ACL_MASK || !(out->tags & (ACL_USER | ACL_GROUP));
        return out->count == 0 || (whole && masked);
}

static const struct cas_xattr *find(const struct cas_entry *e, const char *name)
{
        for (size_t i = 0; i < e->xattr_count; i++)
                if (strcmp(e->xattrs[i].name, name) == 0)
                        return &e->xattrs[i];
        return NULL;
}

/* The kernel keeps the mode and the access ACL of a file the same, and no ACL that says no more
 * than the mode does. */
static int settle_acl(struct cas_entry *e, const char *name, struct cas_err *err)
{
        const struct cas_xattr *x = find(e, name);
        struct acl acl;
        if (!x)
                return 0;
        if (!acl_parse(x->value, x->value_bytes, &acl))
                return cas_fail(err, CAS_E_INVALID, "xattr %s: malformed ACL", name);
        if (acl.count > 0 && name == acl_access) {
                unsigned group = acl.tags & ACL_MASK ? acl.mask : acl.group;
                e->mode = (e->mode & ~0777U) | acl.user << 6 | group << 3 | acl.other;
        }
        bool minimal = (acl.tags & (ACL_USER | ACL_GROUP | ACL_MASK)) == 0;
        if (acl.count == 0 || (minimal && name == acl_access))
                cas_entry_remove_xattr(e, name);
        return 0;
}

static bool starts(const char *name, const char *prefix)
{
        return strncmp(name, prefix, strlen(prefix)) == 0 && name[strlen(prefix)] != '\0';
}

static bool settable(const struct cas_entry *e, const char *name)
{
        bool plain = e->type == CAS_ENTRY_FILE || e->type == CAS_ENTRY_DIR;
        if (strcmp(name, acl_access) == 0)
                return e->type != CAS_ENTRY_SYMLINK;
        if (strcmp(name, acl_default) == 0)
                return e->type == CAS_ENTRY_DIR;
        if (strcmp(name, "security.selinux") == 0)
                return false; /* the host's policy labels files */
        return starts(name, "security.") || starts(name, "trusted.") ||
               (plain && starts(name, "user."));
}

int cas_xattr_settle(struct cas_entry *e, struct cas_err *err)
{
        for (size_t i = e->xattr_count; i-- > 0;)
                if (!settable(e, e->xattrs[i].name))
                        cas_entry_remove_xattr(e, e->xattrs[i].name);
        if (settle_acl(e, acl_access, err) < 0 || settle_acl(e, acl_default, err) < 0)
                return -(int)err->code;
        return 0;
}
