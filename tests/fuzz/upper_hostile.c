/* SPDX-License-Identifier: Apache-2.0 */
/* Property: whatever an upper directory holds, looking at it, listing it and every step on it ends,
 * without a crash and without a trace outside of it. The input is a list of instructions that make
 * the directory; the steps are always the same. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include "cas/removetree.h"
#include "fusefs/upperparts_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INSTRUCTIONS_MAX 40
#define INDEXED "work/index/00fb1d0001aefa0276e63e4374b3c9c9ff9f71e63e2900000000000000"

static const char *const places[] = {"upper/a",   "upper/b",       "upper/d",    "upper/d/a",
                                     "upper/d/b", "upper/d/d",     "work/work",  "work/work/x",
                                     "work",      "work/work/x/y", "work/index", "upper",
                                     INDEXED};
static const char *const marks[] = {"opaque",   "redirect", "metacopy",      "whiteout",
                                    "nlink",    "origin",   "lamina.origin", "overlay.opaque",
                                    "overlay.", "x"};

struct input {
        const uint8_t *data;
        size_t size;
        struct ffs_upperlayer_config config;
};

static unsigned take(struct input *in, unsigned below)
{
        if (in->size == 0)
                return 0;
        in->size--;
        return *in->data++ % below;
}

/* One of the places, reached without following links; fd -1 where it cannot be. */
struct place {
        int fd;
        const char *name;
};
static struct place take_place(struct input *in)
{
        const char *path = places[take(in, CAS_COUNT(places))];
        const char *slash = strrchr(path, '/');
        cas_cleanup_free char *dir = slash ? cas_xstrndup(path, (size_t)(slash - path)) : NULL;
        struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                               .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH};
        long fd = syscall(SYS_openat2, in->config.dir_fd, dir ? dir : ".", &how, sizeof(how));
        return (struct place){(int)fd, slash ? slash + 1 : path};
}

static void mark(struct input *in, struct place at)
{
        char name[FFS_UPPER_XATTR_NAME_BYTES], path[128];
        unsigned which = take(in, CAS_COUNT(marks) + 4);
        size_t len = take(in, 64);
        len = len < in->size ? len : in->size;
        const char *prefix =
                in->config.format == FFS_UPPER_USER ? "user.overlay." : "trusted.overlay.";
        static const char *const others[] = {FFS_OVERRIDE_XATTR, FFS_OVERRIDE_PREFIX FFS_ACL_ACCESS,
                                             FFS_OVERRIDE_PREFIX FFS_ACL_DEFAULT, "user.x"};
        if (which < CAS_COUNT(marks))
                (void)snprintf(name, sizeof(name), "%s%s", prefix, marks[which]);
        else
                (void)snprintf(name, sizeof(name), "%s", others[which - CAS_COUNT(marks)]);
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", at.fd, at.name);
        (void)lsetxattr(path, name, in->data, len, 0);
        in->data += len;
        in->size -= len;
}

static void instruct_at(struct input *in, struct place at, struct place other)
{
        switch (take(in, 9)) {
        case 0:
                (void)mkdirat(at.fd, at.name, 0700);
                break;
        case 1:
                (void)mknodat(at.fd, at.name, S_IFREG | 0600, 0);
                break;
        case 2:
                (void)mknodat(at.fd, at.name, S_IFCHR, 0);
                break;
        case 3:
                (void)mknodat(at.fd, at.name, S_IFIFO | 0600, 0);
                break;
        case 4:
                (void)!symlinkat("../../outside", at.fd, at.name);
                break;
        case 5:
                (void)!linkat(other.fd, other.name, at.fd, at.name, 0);
                break;
        case 6:
                (void)renameat(at.fd, at.name, other.fd, other.name);
                break;
        case 7:
                (void)fchmodat(at.fd, at.name, take(in, 2) ? 0 : 07777, AT_SYMLINK_NOFOLLOW);
                break;
        default:
                mark(in, at);
                break;
        }
}

static void instruct(struct input *in)
{
        struct place at = take_place(in), other = take_place(in);
        cas_cleanup_fd int at_fd = at.fd, other_fd = other.fd;
        if (at_fd >= 0 && other_fd >= 0)
                instruct_at(in, at, other);
}

/* ---- the steps ---- */

static bool see(void *arg, const char *name CAS_UNUSED, enum ffs_upper_kind kind,
                uint8_t type CAS_UNUSED, uint64_t ino CAS_UNUSED)
{
        cas_assert(kind != FFS_UPPER_ABSENT);
        return ++*(int *)arg < 100;
}

static bool see_index(void *arg CAS_UNUSED, const uint8_t uuid[16] CAS_UNUSED,
                      uint64_t nid CAS_UNUSED, int fd)
{
        cas_assert(fd >= 0);
        return true;
}

static void use_fd(struct ffs_upperlayer *u, int fd)
{
        char text[512];
        struct ffs_upper_entry e;
        if (ffs_upper_look_fd(u, fd, &e) == 0)
                ffs_upper_entry_release(&e);
        (void)ffs_upper_listxattr(u, fd, text, sizeof(text));
        (void)ffs_upper_getxattr(u, fd, FFS_ACL_ACCESS, text, sizeof(text));
        (void)ffs_upper_setxattr(u, fd, "user.x", "y", 1, 0);
        (void)ffs_upper_chown(u, fd, 3, 4);
        (void)ffs_upper_chmod(u, fd, 0750);
}

static void use_name(struct ffs_upperlayer *u, int dirfd, const char *name)
{
        struct ffs_upper_entry e;
        cas_cleanup_fd int path = -1, data = -1;
        if (ffs_upper_look(u, dirfd, name, &e) == 0) {
                cas_assert(!e.redirect ||
                           ffs_upper_redirect_is_valid(e.redirect, strlen(e.redirect)));
                ffs_upper_entry_release(&e);
        }
        if (ffs_upper_open(u, dirfd, name, O_PATH, &path) == 0)
                use_fd(u, path);
        (void)ffs_upper_open(u, dirfd, name, O_RDWR, &data);
        const struct ffs_upper_new file = {.mode = S_IFREG | 0644},
                                   dir = {.mode = S_IFDIR | 0755, .uid = 1};
        (void)ffs_upper_make(u, dirfd, name, &dir, NULL);
        (void)ffs_upper_make(u, dirfd, name, &file, NULL);
}

static void use_dir(struct ffs_upperlayer *u, int dirfd)
{
        int n = 0;
        (void)ffs_upper_list(u, dirfd, see, &n);
        static const char *const names[] = {"a", "b", "d"};
        for (size_t i = 0; i < CAS_COUNT(names); i++)
                use_name(u, dirfd, names[i]);
        (void)ffs_upper_rename(u, dirfd, "d", dirfd, "b", 0, true);
        (void)ffs_upper_rename(u, dirfd, "b", dirfd, "a", RENAME_EXCHANGE, false);
        (void)ffs_upper_unlink(u, dirfd, "a", true);
        (void)ffs_upper_unlink(u, dirfd, "a", false);
        (void)ffs_upper_whiteout(u, dirfd, "b");
        (void)ffs_upper_hide(u, dirfd, "d", true, "0123456789abcdef");
}

static void use(const struct ffs_upperlayer_config *config)
{
        struct ffs_upperlayer *u;
        if (ffs_upperlayer_open(config, &u) < 0)
                return;
        int fd;
        (void)ffs_upperlayer_index_each(u, see_index, NULL);
        if (ffs_upperlayer_open_dir(u, "d", &fd) == 0) {
                use_dir(u, fd);
                (void)close(fd);
        }
        use_dir(u, ffs_upperlayer_root_fd(u));
        (void)ffs_upperlayer_index_drop(u);
        (void)ffs_upper_drop_hidden(u, "0123456789abcdef", true);
        ffs_upperlayer_close(u);
}

/* ---- around it ---- */

static char top[] = "/tmp/upper-hostile-XXXXXX";
static void remove_top(void)
{
        struct cas_err err = CAS_ERR_INIT;
        (void)!cas_remove_tree(top, &err);
}

static void prepare(struct input *in)
{
        static bool ready;
        if (!ready) {
                (void)umask(0);
                cas_assert(mkdtemp(top) != NULL);
                (void)atexit(remove_top);
                ready = true;
        }
        cas_cleanup_free char *o = cas_xasprintf("%s/o", top),
                              *outside = cas_xasprintf("%s/outside", top);
        struct cas_err err = CAS_ERR_INIT;
        cas_assert(cas_remove_tree(o, &err) == 0);
        cas_assert(mkdir(o, 0700) == 0);
        cas_assert(mkdir(outside, 0705) == 0 || errno == EEXIST);
        static const char *const dirs[] = {"upper", "upper/d", "work", "work/work", "work/index"};
        for (size_t i = 0; i < CAS_COUNT(dirs); i++) {
                cas_cleanup_free char *dir = cas_xasprintf("%s/%s", o, dirs[i]);
                cas_assert(mkdir(dir, 0700) == 0);
        }
        in->config.dir_fd = open(o, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cas_assert(in->config.dir_fd >= 0);
}

static void check_outside(void)
{
        struct stat st;
        char list[8];
        cas_cleanup_free char *outside = cas_xasprintf("%s/outside", top);
        cas_assert(lstat(outside, &st) == 0);
        cas_assert(st.st_mode == (S_IFDIR | 0705) && st.st_uid == geteuid());
        cas_assert(st.st_nlink == 2 || st.st_nlink == 1); /* btrfs counts no subdirectories */
        cas_assert(listxattr(outside, list, sizeof(list)) <= 0);
        cas_assert(rmdir(outside) == 0); /* it is empty */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct input in = {.data = data, .size = size};
        unsigned kind = take(&in, 8);
        in.config.format = (kind & 1) || geteuid() != 0 ? FFS_UPPER_USER : FFS_UPPER_TRUSTED;
        in.config.owners_in_xattrs = kind & 1;
        in.config.keep_hidden = kind & 2;
        in.config.size_limit_bytes = kind & 4 ? 1 << 20 : 0;
        prepare(&in);
        for (int i = 0; i < INSTRUCTIONS_MAX && in.size > 0; i++)
                instruct(&in);
        use(&in.config);
        (void)close(in.config.dir_fd);
        check_outside();
        return 0;
}
