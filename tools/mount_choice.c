/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/mount_choice.h"

#include <errno.h>

#include "tools/mounting.h"
#include "tools/rootless.h"

#define UID_RANGE_COUNT 65536

static bool id_parse(const char *text, char **end, uint32_t *out)
{
        if (text[0] < '0' || text[0] > '9')
                return false;
        errno = 0;
        unsigned long long value = strtoull(text, end, 10);
        if (errno || value > UINT32_MAX)
                return false;
        *out = (uint32_t)value;
        return true;
}

int mount_choice_range(const char *text, uint32_t *first, uint32_t *count, struct cas_err *err)
{
        char *end;
        *count = UID_RANGE_COUNT;
        bool good = id_parse(text, &end, first);
        if (good && *end == ':')
                good = id_parse(end + 1, &end, count);
        if (!good || *end)
                return cas_fail(err, CAS_E_INVALID, "--uid-range %s: not FIRST[:COUNT]", text);
        /* The last id of all means none. */
        if (*first == 0 || *count == 0 || *count > UINT32_MAX - *first)
                return cas_fail(err, CAS_E_INVALID,
                                "--uid-range %s: not a range of ids of its own (1 to 4294967294)",
                                text);
        return 0;
}

static int pages_parse(const struct mount_choice *c, enum ffs_page_mode *out, struct cas_err *err)
{
        static const char *const names[] = {
                [FFS_PAGE_MODE_AUTO] = "auto",
                [FFS_PAGE_MODE_PASSTHROUGH] = "passthrough",
                [FFS_PAGE_MODE_INODE] = "inode",
                [FFS_PAGE_MODE_PRIVATE] = "private",
        };
        const char *text = c->pages ? c->pages : c->private_pages ? "private" : "auto";
        for (size_t i = 0; i < CAS_COUNT(names); i++) {
                if (strcmp(text, names[i]) != 0)
                        continue;
                if (c->private_pages && i != FFS_PAGE_MODE_PRIVATE)
                        return cas_fail(err, CAS_E_INVALID, "--private-pages and --pages %s", text);
                *out = (enum ffs_page_mode)i;
                return 0;
        }
        return cas_fail(err, CAS_E_INVALID, "--pages %s: auto, passthrough, inode or private",
                        text);
}

int mount_choice_apply(const struct mount_choice *c, struct ffs_mount_options *out, char **id_map,
                       struct cas_err *err)
{
        uint32_t first, count;
        if (mounting_driver(c->driver, &out->driver, err) < 0 ||
            pages_parse(c, &out->pages, err) < 0)
                return -(int)err->code;
        if (out->driver == FFS_DRIVER_OVERLAY &&
            (out->pages == FFS_PAGE_MODE_INODE || out->pages == FFS_PAGE_MODE_PRIVATE))
                return cas_fail(err, CAS_E_INVALID,
                                "--pages %s is the fuse driver's: by overlayfs all mounts share",
                                c->pages ? c->pages : "private");
        if (c->size &&
            (!cli_bytes_parse(c->size, &out->size_limit_bytes) || out->size_limit_bytes == 0))
                return cas_fail(err, CAS_E_INVALID, "--size %s: bytes, K, M, G or T", c->size);
        if (out->size_limit_bytes && !out->rw && !out->upper)
                return cas_fail(err, CAS_E_INVALID, "--size is for writable mounts");
        if (c->uid_range && geteuid() != 0)
                return cas_fail(err, CAS_E_INVALID,
                                "--uid-range needs root: others have the ids that /etc/subuid and "
                                "/etc/subgid give them");
        if (c->uid_range) {
                if (mount_choice_range(c->uid_range, &first, &count, err) < 0)
                        return -(int)err->code;
                *id_map = cas_xasprintf("0:%u:%u;0:%u:%u", first, count, first, count);
        } else if (geteuid() != 0) {
                struct rootless_ids ids;
                if (rootless_ids_find(&ids, err) < 0)
                        return -(int)err->code;
                *id_map = rootless_map_outside(&ids);
        }
        out->id_map = *id_map;
        return 0;
}
