/* SPDX-License-Identifier: Apache-2.0 */
/* Owners, modes and devices as they are shown and as they are on the disk. Who
 * may chown keeps them where they belong. Who may not owns everything itself and
 * keeps them in user.containers.override_stat, as podman's storage does. */
#include <errno.h>
#include <stdio.h>
#include <sys/sysmacros.h>

#include "fusefs/upperparts_int.h"

/* ---- the text ---- */

static bool take_number(const char **p, const char *end, unsigned base, uint64_t max, uint64_t *out)
{
        uint64_t n = 0;
        const char *s = *p;
        for (; s < end && *s >= '0' && *s < (char)('0' + base); s++) {
                n = n * base + (uint64_t)(*s - '0');
                if (n > max)
                        return false;
        }
        if (s == *p)
                return false;
        *p = s;
        *out = n;
        return true;
}

static bool take_text(const char **p, const char *end, const char *text)
{
        size_t len = strlen(text);
        if ((size_t)(end - *p) < len || memcmp(*p, text, len) != 0)
                return false;
        *p += len;
        return true;
}

static bool take_device(const char **p, const char *end, dev_t *out)
{
        uint64_t major_number, minor_number;
        if (!take_text(p, end, "-") || !take_number(p, end, 10, UINT32_MAX, &major_number) ||
            !take_text(p, end, "-") || !take_number(p, end, 10, UINT32_MAX, &minor_number))
                return false;
        *out = makedev((unsigned)major_number, (unsigned)minor_number);
        return true;
}

static const struct {
        const char *name;
        mode_t type;
} types[] = {
        {"file", S_IFREG},    {"dir", S_IFDIR},   {"symlink", S_IFLNK}, {"pipe", S_IFIFO},
        {"socket", S_IFSOCK}, {"block", S_IFBLK}, {"char", S_IFCHR},
};

static bool take_type(const char **p, const char *end, struct ffs_override *o)
{
        for (size_t i = 0; i < CAS_COUNT(types); i++) {
                if (!take_text(p, end, types[i].name))
                        continue;
                o->has_type = true;
                o->mode |= types[i].type;
                return (types[i].type != S_IFBLK && types[i].type != S_IFCHR) ||
                       take_device(p, end, &o->rdev);
        }
        return false;
}

bool ffs_override_parse(const char *text, size_t len, struct ffs_override *out)
{
        const char *p = text, *end = text + len;
        uint64_t uid, gid, mode;
        if (!take_number(&p, end, 10, UINT32_MAX - 1, &uid) || !take_text(&p, end, ":") ||
            !take_number(&p, end, 10, UINT32_MAX - 1, &gid) || !take_text(&p, end, ":") ||
            !take_number(&p, end, 8, 0177777, &mode)) /* some write the type's bits too */
                return false;
        *out = (struct ffs_override){
                .uid = (uint32_t)uid, .gid = (uint32_t)gid, .mode = (mode_t)mode & 07777};
        if (p < end && (!take_text(&p, end, ":") || !take_type(&p, end, out)))
                return false;
        return p == end;
}

void ffs_override_format(const struct ffs_override *o, char out[FFS_OVERRIDE_TEXT_BYTES])
{
        int n = snprintf(out, FFS_OVERRIDE_TEXT_BYTES, "%u:%u:%04o", o->uid, o->gid,
                         o->mode & 07777);
        for (size_t i = 0; i < CAS_COUNT(types) && o->has_type; i++) {
                if ((o->mode & S_IFMT) != types[i].type)
                        continue;
                n += snprintf(out + n, FFS_OVERRIDE_TEXT_BYTES - (size_t)n, ":%s", types[i].name);
                if (S_ISBLK(o->mode) || S_ISCHR(o->mode))
                        (void)snprintf(out + n, FFS_OVERRIDE_TEXT_BYTES - (size_t)n, "-%u-%u",
                                       major(o->rdev), minor(o->rdev));
        }
}

/* ---- showing ---- */

/* Special files are regular ones on the disk; everything else is what it is. */
static bool fits(mode_t disk, mode_t shown)
{
        if (S_ISREG(disk))
                return !S_ISDIR(shown) && !S_ISLNK(shown);
        return (disk & S_IFMT) == (shown & S_IFMT);
}

static int show_override(struct ffs_place at, struct stat *st)
{
        char text[FFS_OVERRIDE_TEXT_BYTES];
        struct ffs_override o;
        ssize_t n = ffs_place_getxattr(at, FFS_OVERRIDE_XATTR, text, sizeof(text));
        if (n < 0)
                return n == -ERANGE ? -EUCLEAN : n == -ENODATA ? -ESTALE : (int)n;
        if (!ffs_override_parse(text, (size_t)n, &o))
                return -EUCLEAN;
        if (!o.has_type)
                o.mode |= st->st_mode & S_IFMT;
        if (!fits(st->st_mode, o.mode))
                return -EUCLEAN;
        if (S_ISREG(st->st_mode) && !S_ISREG(o.mode)) {
                st->st_size = 0;
                st->st_rdev = o.rdev;
        }
        st->st_mode = o.mode;
        st->st_uid = o.uid;
        st->st_gid = o.gid;
        return 0;
}

int ffs_upper_show_stat(const struct ffs_upperlayer *u, struct ffs_place at, bool has_override,
                        struct stat *st)
{
        if (has_override)
                return show_override(at, st);
        if (u->config.owners_in_xattrs && st->st_uid == u->owner)
                st->st_uid = st->st_gid = 0; /* what its user has made is root's inside */
        return 0;
}

/* ---- writing ---- */

/* Its owner must be able to go on with it, and no set-id bit works for the owner on the disk. */
mode_t ffs_upper_disk_mode(const struct ffs_upperlayer *u, mode_t mode)
{
        if (!u->config.owners_in_xattrs)
                return mode & 07777;
        return (mode & 0777) | (S_ISDIR(mode) ? 0700 : 0600);
}

bool ffs_upper_needs_override(const struct ffs_upperlayer *u, uint32_t uid, uint32_t gid,
                              mode_t mode)
{
        return u->config.owners_in_xattrs && !S_ISLNK(mode) &&
               (uid != 0 || gid != 0 || !(S_ISREG(mode) || S_ISDIR(mode)) ||
                (mode & 07777) != ffs_upper_disk_mode(u, mode));
}

static int put_override(struct ffs_place at, uint32_t uid, uint32_t gid, mode_t mode, dev_t rdev)
{
        struct ffs_override o = {
                .uid = uid, .gid = gid, .mode = mode, .has_type = true, .rdev = rdev};
        char text[FFS_OVERRIDE_TEXT_BYTES];
        ffs_override_format(&o, text);
        return ffs_place_setxattr(at, FFS_OVERRIDE_XATTR, text, strlen(text), 0);
}

int ffs_upper_put_owner(const struct ffs_upperlayer *u, struct ffs_place at, uint32_t uid,
                        uint32_t gid, mode_t mode, dev_t rdev)
{
        int rc = 0;
        if (u->config.owners_in_xattrs) {
                if (ffs_upper_needs_override(u, uid, gid, mode))
                        rc = put_override(at, uid, gid, mode, rdev);
        } else {
                rc = ffs_place_chown(at, uid, gid);
        }
        if (rc < 0 || S_ISLNK(mode))
                return rc;
        return ffs_place_chmod(at, ffs_upper_disk_mode(u, mode)); /* chown took set-id bits away */
}

/* ---- changing ---- */

/* Owner and mode as they are shown now. */
static int shown(struct ffs_upperlayer *u, int fd, struct stat *st)
{
        struct ffs_upper_entry e;
        int rc = ffs_upper_look_fd(u, fd, &e);
        if (rc < 0)
                return rc;
        *st = e.st;
        ffs_upper_entry_release(&e);
        return 0;
}

/* A mode changes the ACL that is kept beside it, as on any file system. */
static int chmod_kept_acl(struct ffs_place at, mode_t mode)
{
        cas_cleanup_free uint8_t *acl = NULL;
        size_t len;
        int rc = ffs_place_xattr_value(at, FFS_OVERRIDE_PREFIX FFS_ACL_ACCESS,
                                       FFS_UPPER_XATTR_BYTES_MAX, &acl, &len);
        if (rc == -ENODATA || rc == -EOPNOTSUPP)
                return 0;
        if (rc < 0)
                return rc;
        if (!ffs_acl_is_valid(acl, len))
                return -EUCLEAN;
        ffs_acl_chmod(acl, len, mode);
        return ffs_place_setxattr(at, FFS_OVERRIDE_PREFIX FFS_ACL_ACCESS, acl, len, 0);
}

int ffs_upper_put_mode(const struct ffs_upperlayer *u, struct ffs_place at, const struct stat *st,
                       mode_t mode)
{
        int rc = put_override(at, st->st_uid, st->st_gid, mode, st->st_rdev);
        return rc < 0 ? rc : ffs_place_chmod(at, ffs_upper_disk_mode(u, mode));
}

int ffs_upper_chmod(struct ffs_upperlayer *u, int fd, mode_t mode)
{
        struct ffs_place at = {fd, NULL};
        if (!u->config.owners_in_xattrs)
                return ffs_place_chmod(at, mode & 07777);
        struct stat disk, st = {0};
        int rc = ffs_place_stat(at, &disk);
        if (rc == 0)
                rc = shown(u, fd, &st);
        if (rc < 0)
                return rc;
        if (!S_ISREG(disk.st_mode) && !S_ISDIR(disk.st_mode))
                return S_ISLNK(disk.st_mode) ? -EOPNOTSUPP : ffs_place_chmod(at, mode & 07777);
        mode = (st.st_mode & S_IFMT) | (mode & 07777);
        rc = ffs_upper_put_mode(u, at, &st, mode);
        return rc < 0 ? rc : chmod_kept_acl(at, mode);
}

int ffs_upper_chown(struct ffs_upperlayer *u, int fd, uint32_t uid, uint32_t gid)
{
        struct ffs_place at = {fd, NULL};
        const uint32_t same = UINT32_MAX;
        if (!u->config.owners_in_xattrs)
                return ffs_place_chown(at, uid, gid);
        struct stat disk, st = {0};
        int rc = ffs_place_stat(at, &disk);
        if (rc == 0)
                rc = shown(u, fd, &st);
        if (rc < 0)
                return rc;
        uid = uid == same ? st.st_uid : uid;
        gid = gid == same ? st.st_gid : gid;
        /* No xattr can be kept on these. The owner of a link decides nothing, and archives are full
         * of them: it stays who it is. */
        if (S_ISLNK(disk.st_mode))
                return 0;
        if (!S_ISREG(disk.st_mode) && !S_ISDIR(disk.st_mode))
                return uid == st.st_uid && gid == st.st_gid ? 0 : -EPERM;
        return put_override(at, uid, gid, st.st_mode, st.st_rdev);
}
