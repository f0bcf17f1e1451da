/* SPDX-License-Identifier: Apache-2.0 */
/* Property: texts of an upper (by the first byte: override, redirect, metacopy, name in the index,
 * ACL, map of ids, name of an xattr) are refused, or mean the same when they are written again. */
#include "fusefs/upperparts_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_override(const char *text, size_t len)
{
        struct ffs_override a, b;
        char first[FFS_OVERRIDE_TEXT_BYTES], second[FFS_OVERRIDE_TEXT_BYTES];
        if (!ffs_override_parse(text, len, &a))
                return;
        ffs_override_format(&a, first);
        cas_assert(ffs_override_parse(first, strlen(first), &b));
        ffs_override_format(&b, second);
        cas_assert(strcmp(first, second) == 0);
        cas_assert(a.uid == b.uid && a.gid == b.gid && a.mode == b.mode && a.rdev == b.rdev);
}

static void try_redirect(const char *text, size_t len)
{
        if (!ffs_upper_redirect_is_valid(text, len))
                return;
        cas_assert(len > 0 && len <= FFS_UPPER_REDIRECT_BYTES_MAX);
        cas_cleanup_free char *copy = cas_xstrndup(text, len);
        cas_assert(strlen(copy) == len);
        cas_assert(copy[0] == '/' || !strchr(copy, '/'));
        char *rest = copy + (copy[0] == '/');
        for (char *part; (part = strsep(&rest, "/"));)
                cas_assert(ffs_upper_is_name(part));
}

static void try_acl(const uint8_t *data, size_t len)
{
        mode_t mode, again = 0640;
        if (!ffs_acl_is_valid(data, len))
                return;
        uint8_t *acl = cas_xmalloc(len);
        memcpy(acl, data, len);
        const struct ffs_idmap map = {.uid_count = 1,
                                      .gid_count = 1,
                                      .uids = {{0, 1000, 70000}},
                                      .gids = {{0, 2000, 70000}}};
        if (!ffs_idmap_acl_to_image(&map, acl, len)) {
                memcpy(acl, data, len);
                ffs_idmap_acl_to_host(&map, acl, len);
        }
        cas_assert(ffs_acl_is_valid(acl, len));
        (void)ffs_acl_inherit(acl, len, &again);
        (void)ffs_acl_to_mode(acl, len, &mode);
        cas_assert(mode == again && (mode & ~0640U) == 0);
        ffs_acl_chmod(acl, len, 0724);
        (void)ffs_acl_to_mode(acl, len, &mode);
        cas_assert(mode == 0724);
        free(acl);
}

static void try_idmap(const char *text)
{
        struct ffs_idmap map, same;
        struct cas_err err = CAS_ERR_INIT;
        char written[FFS_IDMAP_TEXT_BYTES], again[FFS_IDMAP_TEXT_BYTES];
        if (ffs_idmap_parse(text, &map, &err) < 0)
                return;
        ffs_idmap_format(&map, written, sizeof(written));
        cas_assert(ffs_idmap_parse(written, &same, &err) == 0);
        ffs_idmap_format(&same, again, sizeof(again));
        cas_assert(strcmp(written, again) == 0);
        for (size_t i = 0; i < map.uid_count; i++) {
                uint32_t id, last = map.uids[i].image + map.uids[i].count - 1;
                cas_assert(ffs_idmap_uid_to_image(&map, ffs_idmap_uid_to_host(&map, last), &id));
                cas_assert(id == last);
        }
}

static void try_xattr_name(const char *text)
{
        const char *const prefixes[] = {"trusted.overlay.", "user.overlay."};
        for (unsigned i = 0; i < 4; i++) {
                struct ffs_upperlayer u = {.prefix = prefixes[i & 1],
                                           .prefix_len = strlen(prefixes[i & 1])};
                char disk[FFS_UPPER_XATTR_NAME_BYTES], shown[FFS_UPPER_XATTR_NAME_BYTES];
                u.config.owners_in_xattrs = i & 2;
                /* What is said to be set is listed under the same name, and what is listed can be
                 * asked for. */
                if (text[0] && ffs_upper_xattr_to_disk(&u, text, disk) == 0) {
                        cas_assert(ffs_upper_xattr_from_disk(&u, disk, shown));
                        cas_assert(strcmp(shown, text) == 0);
                }
                if (ffs_upper_xattr_from_disk(&u, text, shown) &&
                    ffs_upper_xattr_to_disk(&u, shown, disk) == 0)
                        cas_assert(strcmp(disk, text) == 0);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        if (size == 0)
                return 0;
        cas_cleanup_free char *text = cas_xstrndup((const char *)data + 1, size - 1);
        uint8_t uuid[16];
        uint64_t nid;
        switch (data[0] % 7) {
        case 0:
                try_override((const char *)data + 1, size - 1);
                break;
        case 1:
                try_redirect((const char *)data + 1, size - 1);
                break;
        case 2:
                (void)ffs_upper_metacopy_is_valid(data + 1, size - 1);
                break;
        case 3:
                (void)ffs_upper_index_name_parse(text, uuid, &nid);
                break;
        case 4:
                try_acl(data + 1, size - 1);
                break;
        case 5:
                try_idmap(text);
                break;
        default:
                try_xattr_name(text);
                break;
        }
        return 0;
}
