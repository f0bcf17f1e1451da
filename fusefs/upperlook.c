/* SPDX-License-Identifier: Apache-2.0 */
/* Reading what an upper says: whiteouts, marks of overlayfs, listings. A look is
 * one fstatat and one listxattrat, and a getxattrat for each mark that is there. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/sysmacros.h>

#include "fusefs/upperparts_int.h"

/* Written by us alone: the inode below that a file was copied up from, as 16 hex digits. */
#define MARK_ORIGIN "lamina.origin"
#define ORIGIN_DIGITS 16

enum mark {
        HAS_OPAQUE = 1,
        HAS_REDIRECT = 2,
        HAS_METACOPY = 4,
        HAS_WHITEOUT = 8,
        HAS_ORIGIN = 16,
        HAS_OVERRIDE = 32,
};

void ffs_upper_mark_name(const struct ffs_upperlayer *u, const char *mark,
                         char out[FFS_UPPER_XATTR_NAME_BYTES])
{
        (void)snprintf(out, FFS_UPPER_XATTR_NAME_BYTES, "%s%s", u->prefix, mark);
}

/* ---- values ---- */

static bool is_redirect_part(const char *part, size_t len)
{
        return len > 0 && len <= NAME_MAX && !(len == 1 && part[0] == '.') &&
               !(len == 2 && part[0] == '.' && part[1] == '.');
}

bool ffs_upper_redirect_is_valid(const char *text, size_t len)
{
        if (len == 0 || len > FFS_UPPER_REDIRECT_BYTES_MAX || memchr(text, '\0', len))
                return false;
        if (text[0] != '/')
                return is_redirect_part(text, len) && !memchr(text, '/', len);
        const char *end = text + len;
        for (const char *part = text + 1; part <= end;) {
                const char *slash = memchr(part, '/', (size_t)(end - part));
                const char *stop = slash ? slash : end;
                if (!is_redirect_part(part, (size_t)(stop - part)))
                        return false;
                part = stop + 1;
        }
        return true;
}

/* Empty, or: version 0, its own length, flags 0, digest algorithm, and the fs-verity digest that
 * the data should have, which the object file system verifies anyway. */
bool ffs_upper_metacopy_is_valid(const uint8_t *value, size_t len)
{
        return len == 0 || (len >= 4 && value[0] == 0 && value[1] == len && value[2] == 0);
}

static bool parse_origin(const uint8_t *text, size_t len, uint64_t *out)
{
        uint64_t n = 0;
        for (size_t i = 0; i < len; i++) {
                uint8_t c = text[i];
                unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                                 : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
                                                        : 16;
                if (digit > 15)
                        return false;
                n = n << 4 | digit;
        }
        *out = n;
        return len == ORIGIN_DIGITS;
}

/* ---- marks ---- */

static unsigned mark_of(const struct ffs_upperlayer *u, const char *name)
{
        static const struct {
                const char *name;
                unsigned bit;
        } marks[] = {{"opaque", HAS_OPAQUE},
                     {"redirect", HAS_REDIRECT},
                     {"metacopy", HAS_METACOPY},
                     {"whiteout", HAS_WHITEOUT},
                     {MARK_ORIGIN, HAS_ORIGIN}};
        if (u->config.owners_in_xattrs && strcmp(name, FFS_OVERRIDE_XATTR) == 0)
                return HAS_OVERRIDE;
        if (strncmp(name, u->prefix, u->prefix_len) != 0)
                return 0;
        for (size_t i = 0; i < CAS_COUNT(marks); i++) {
                if (strcmp(name + u->prefix_len, marks[i].name) == 0)
                        return marks[i].bit;
        }
        return 0;
}

static int find_marks(const struct ffs_upperlayer *u, struct ffs_place at, const struct stat *st,
                      unsigned *out)
{
        *out = 0;
        /* user.* xattrs are for files and directories alone. */
        if (u->config.format == FFS_UPPER_USER && !S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode))
                return 0;
        cas_cleanup_free char *names = NULL;
        size_t len;
        int rc = ffs_place_xattr_names(at, &names, &len);
        for (size_t i = 0; rc == 0 && i < len; i += strlen(names + i) + 1)
                *out |= mark_of(u, names + i);
        return rc;
}

static int read_mark(const struct ffs_upperlayer *u, struct ffs_place at, const char *mark,
                     size_t max_bytes, uint8_t **value, size_t *len)
{
        char name[FFS_UPPER_XATTR_NAME_BYTES];
        ffs_upper_mark_name(u, mark, name);
        int rc = ffs_place_xattr_value(at, name, max_bytes, value, len);
        return rc == -E2BIG ? -EUCLEAN : rc;
}

static int read_redirect(const struct ffs_upperlayer *u, struct ffs_place at, char **out)
{
        uint8_t *value;
        size_t len;
        int rc = read_mark(u, at, "redirect", FFS_UPPER_REDIRECT_BYTES_MAX, &value, &len);
        if (rc < 0)
                return rc;
        if (!ffs_upper_redirect_is_valid((char *)value, len)) {
                free(value);
                return -EUCLEAN;
        }
        *out = (char *)value;
        return 0;
}

/* The first byte of "opaque" if it is the only one, else 0: 'y', or 'x' for whiteouts by xattr. */
static int read_opaque(const struct ffs_upperlayer *u, struct ffs_place at, char *out)
{
        char name[FFS_UPPER_XATTR_NAME_BYTES];
        ffs_upper_mark_name(u, "opaque", name);
        ssize_t n = ffs_place_getxattr(at, name, out, 1);
        if (n != 1)
                *out = 0;
        return n >= 0 || n == -ERANGE || n == -ENODATA || n == -EOPNOTSUPP ? 0 : (int)n;
}

static int read_metacopy(const struct ffs_upperlayer *u, struct ffs_place at)
{
        cas_cleanup_free uint8_t *value = NULL;
        size_t len;
        int rc = read_mark(u, at, "metacopy", 255, &value, &len);
        return rc < 0 ? rc : ffs_upper_metacopy_is_valid(value, len) ? 0 : -EUCLEAN;
}

static int read_origin(const struct ffs_upperlayer *u, struct ffs_place at, uint64_t *out)
{
        cas_cleanup_free uint8_t *value = NULL;
        size_t len;
        int rc = read_mark(u, at, MARK_ORIGIN, ORIGIN_DIGITS, &value, &len);
        return rc < 0 ? rc : parse_origin(value, len, out) ? 0 : -EUCLEAN;
}

/* As overlayfs reads them: an opaque directory's redirect, or that of a file with data, means
 * nothing. Where it follows none (user.), what has one is refused. */
static int read_marks(const struct ffs_upperlayer *u, struct ffs_place at, unsigned marks,
                      struct ffs_upper_entry *e)
{
        char opaque = 0;
        int rc = 0;
        bool dir = S_ISDIR(e->st.st_mode), file = S_ISREG(e->st.st_mode);
        if (dir && (marks & HAS_OPAQUE))
                rc = read_opaque(u, at, &opaque);
        e->opaque = opaque == 'y';
        e->metacopy = file && (marks & HAS_METACOPY);
        bool redirect = (marks & HAS_REDIRECT) && (e->metacopy || (dir && !e->opaque));
        if (rc == 0 && u->config.format == FFS_UPPER_USER && (e->metacopy || redirect))
                return -EUCLEAN;
        if (rc == 0 && e->metacopy)
                rc = read_metacopy(u, at);
        if (rc == 0 && redirect)
                rc = read_redirect(u, at, &e->redirect);
        e->has_origin = marks & HAS_ORIGIN;
        if (rc == 0 && e->has_origin)
                rc = read_origin(u, at, &e->origin);
        return rc == -ENODATA ? -ESTALE : rc; /* gone since it was listed */
}

/* ---- looking ---- */

void ffs_upper_entry_release(struct ffs_upper_entry *e)
{
        free(e->redirect);
        e->redirect = NULL;
}

static bool is_device_whiteout(const struct stat *st)
{
        return S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

/* A regular file that may be a whiteout by xattr. */
static bool may_be_whiteout(const struct stat *st)
{
        return S_ISREG(st->st_mode) && st->st_size == 0;
}

/* e->st is filled in. */
static int look_at(struct ffs_upperlayer *u, struct ffs_place at, struct ffs_upper_entry *e)
{
        unsigned marks;
        int rc = find_marks(u, at, &e->st, &marks);
        if (rc < 0)
                return rc;
        if (at.name && (marks & HAS_WHITEOUT) && may_be_whiteout(&e->st)) {
                e->kind = FFS_UPPER_WHITEOUT;
                return 0;
        }
        e->kind = FFS_UPPER_PRESENT;
        rc = read_marks(u, at, marks, e);
        if (rc == 0)
                rc = ffs_upper_show_stat(u, at, marks & HAS_OVERRIDE, &e->st);
        if (rc < 0)
                ffs_upper_entry_release(e);
        return rc;
}

int ffs_upper_look(struct ffs_upperlayer *u, int dirfd, const char *name,
                   struct ffs_upper_entry *out)
{
        *out = (struct ffs_upper_entry){.kind = FFS_UPPER_ABSENT};
        if (!ffs_upper_is_name(name))
                return -EINVAL;
        struct ffs_place at = {dirfd, name};
        int rc = ffs_place_stat(at, &out->st);
        if (rc < 0)
                return rc == -ENOENT ? 0 : rc;
        if (is_device_whiteout(&out->st)) {
                out->kind = FFS_UPPER_WHITEOUT;
                return 0;
        }
        return look_at(u, at, out);
}

int ffs_upper_look_fd(struct ffs_upperlayer *u, int fd, struct ffs_upper_entry *out)
{
        *out = (struct ffs_upper_entry){.kind = FFS_UPPER_ABSENT};
        struct ffs_place at = {fd, NULL};
        int rc = ffs_place_stat(at, &out->st);
        return rc < 0 ? rc : look_at(u, at, out);
}

int ffs_upper_kind(struct ffs_place at, const struct ffs_upperlayer *u, enum ffs_upper_kind *out,
                   struct stat *st)
{
        int rc = ffs_place_stat(at, st);
        *out = FFS_UPPER_ABSENT;
        if (rc < 0)
                return rc == -ENOENT ? 0 : rc;
        *out = is_device_whiteout(st) ? FFS_UPPER_WHITEOUT : FFS_UPPER_PRESENT;
        if (!may_be_whiteout(st))
                return 0;
        char name[FFS_UPPER_XATTR_NAME_BYTES];
        ffs_upper_mark_name(u, "whiteout", name);
        if (ffs_place_getxattr(at, name, NULL, 0) >= 0)
                *out = FFS_UPPER_WHITEOUT;
        return 0;
}

/* ---- listing ---- */

struct listing {
        struct ffs_upperlayer *u;
        int fd;
        bool xattr_whiteouts; /* opaque="x": regular files may be some */
};

/* Shown type and kind of a name; what the kernel says suffices for nearly all. */
static int settle(const struct listing *l, const char *name, enum ffs_upper_kind *kind,
                  uint8_t *type)
{
        *kind = FFS_UPPER_PRESENT;
        bool regular = *type == DT_REG || *type == DT_UNKNOWN;
        bool odd = *type == DT_CHR || *type == DT_UNKNOWN;
        if (!odd && !(regular && (l->xattr_whiteouts || l->u->config.owners_in_xattrs)))
                return 0;
        struct stat st;
        struct ffs_place at = {l->fd, name};
        int rc = odd || l->xattr_whiteouts ? ffs_upper_kind(at, l->u, kind, &st) : 0;
        if (rc < 0 || *kind == FFS_UPPER_ABSENT || *kind == FFS_UPPER_WHITEOUT)
                return rc;
        if (odd)
                *type = (uint8_t)IFTODT(st.st_mode);
        if (*type != DT_REG || !l->u->config.owners_in_xattrs)
                return 0;
        char text[FFS_OVERRIDE_TEXT_BYTES];
        struct ffs_override o;
        ssize_t n = ffs_place_getxattr(at, FFS_OVERRIDE_XATTR, text, sizeof(text));
        if (n > 0 && ffs_override_parse(text, (size_t)n, &o) && o.has_type)
                *type = (uint8_t)IFTODT(o.mode);
        return 0;
}

static int list_all(const struct listing *l, DIR *d,
                    bool (*fn)(void *arg, const char *name, enum ffs_upper_kind kind, uint8_t type,
                               uint64_t ino),
                    void *arg)
{
        for (;;) {
                errno = 0;
                struct dirent *e = readdir(d);
                if (!e)
                        return -errno;
                if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
                        continue;
                enum ffs_upper_kind kind;
                uint8_t type = e->d_type;
                int rc = settle(l, e->d_name, &kind, &type);
                if (rc < 0)
                        return rc;
                if (kind != FFS_UPPER_ABSENT && !fn(arg, e->d_name, kind, type, e->d_ino))
                        return 0;
        }
}

int ffs_upper_list(struct ffs_upperlayer *u, int dirfd,
                   bool (*fn)(void *arg, const char *name, enum ffs_upper_kind kind, uint8_t type,
                              uint64_t ino),
                   void *arg)
{
        cas_cleanup_fd int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        struct listing l = {.u = u, .fd = fd};
        char opaque;
        int rc = read_opaque(u, (struct ffs_place){fd, NULL}, &opaque);
        if (rc < 0)
                return rc;
        l.xattr_whiteouts = opaque == 'x';
        DIR *d = fdopendir(fd);
        if (!d)
                return -errno;
        (void)cas_steal_fd(&fd); /* the DIR's now, and l's until it is closed */
        rc = list_all(&l, d, fn, arg);
        (void)closedir(d);
        return rc;
}

static bool stop_at_present(void *arg, const char *name CAS_UNUSED, enum ffs_upper_kind kind,
                            uint8_t type CAS_UNUSED, uint64_t ino CAS_UNUSED)
{
        bool *found = arg;
        *found = kind == FFS_UPPER_PRESENT;
        return !*found;
}

int ffs_upper_only_whiteouts(struct ffs_upperlayer *u, int dirfd, const char *name)
{
        cas_cleanup_fd int fd = openat(dirfd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        bool found = false;
        int rc = ffs_upper_list(u, fd, stop_at_present, &found);
        return rc < 0 ? rc : found ? -ENOTEMPTY : 0;
}
