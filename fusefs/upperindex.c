/* SPDX-License-Identifier: Apache-2.0 */
/* What overlayfs keeps in work/index (index=on): for every inode of several names
 * below that was copied up, one more link, named by the hex digits of the file
 * handle below it. Bytes of a handle:
 *
 *   version 0, magic 0xfb, length of it all, flags, type, UUID (16), identifier
 *
 * EROFS's identifiers: type 0x01, u32 nid and u32 generation, or type 0x81 (Linux
 * 6.16), u32 upper and u32 lower half of the nid, u32 generation; in the byte
 * order of the machine, which the flags tell. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "fusefs/upperparts_int.h"

#define FH_HEAD_BYTES 21
#define FH_BYTES_MAX 64
#define FH_MAGIC 0xfb
#define FH_BIG_ENDIAN 1
#define FH_ANY_ENDIAN 2
#define FH_PATH_UPPER 4
#define FH_TYPE_INO32 0x01
#define FH_TYPE_INO64 0x81

static int hex_digit(char c)
{
        return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool from_hex(const char *text, uint8_t *out, size_t *out_len)
{
        size_t digits = strlen(text);
        if (digits % 2 || digits < (size_t)2 * FH_HEAD_BYTES || digits > (size_t)2 * FH_BYTES_MAX)
                return false;
        for (size_t i = 0; i < digits; i += 2) {
                int high = hex_digit(text[i]), low = hex_digit(text[i + 1]);
                if (high < 0 || low < 0)
                        return false;
                out[i / 2] = (uint8_t)(high << 4 | low);
        }
        *out_len = digits / 2;
        return true;
}

static uint32_t native32(const uint8_t *p)
{
        uint32_t v;
        memcpy(&v, p, sizeof(v));
        return v;
}

static bool is_native(uint8_t flags)
{
        bool big = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__;
        return (flags & FH_ANY_ENDIAN) || ((flags & FH_BIG_ENDIAN) != 0) == big;
}

bool ffs_upper_index_name_parse(const char *name, uint8_t uuid[16], uint64_t *nid)
{
        uint8_t fh[FH_BYTES_MAX];
        size_t len;
        if (!from_hex(name, fh, &len) || fh[0] != 0 || fh[1] != FH_MAGIC || fh[2] != len ||
            (fh[3] & FH_PATH_UPPER) || !is_native(fh[3]))
                return false;
        const uint8_t *id = fh + FH_HEAD_BYTES;
        size_t id_len = len - FH_HEAD_BYTES;
        if (fh[4] == FH_TYPE_INO32 && id_len == 8)
                *nid = native32(id);
        else if (fh[4] == FH_TYPE_INO64 && id_len == 12)
                *nid = (uint64_t)native32(id) << 32 | native32(id + 4);
        else
                return false;
        memcpy(uuid, fh + 5, 16);
        return true;
}

/* ---- the directory ---- */

/* NULL with 0: there is none. overlayfs makes it with no permissions at all. */
static int open_index(const struct ffs_upperlayer *u, DIR **out)
{
        *out = NULL;
        if (u->work_base_fd < 0)
                return 0;
        struct ffs_place at = {u->work_base_fd, "index"};
        struct stat st;
        int rc = ffs_place_stat(at, &st);
        if (rc < 0)
                return rc == -ENOENT ? 0 : rc;
        if (!S_ISDIR(st.st_mode))
                return -EUCLEAN;
        if (!u->config.read_only && u->euid != 0)
                (void)ffs_place_chmod(at, 0700);
        cas_cleanup_fd int fd =
                openat(u->work_base_fd, "index", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        if (!d)
                return -errno;
        (void)cas_steal_fd(&fd);
        *out = d;
        return 0;
}

/* Calls fn for every entry but "." and ".." until it fails. */
static int each_entry(struct ffs_upperlayer *u,
                      int (*fn)(struct ffs_upperlayer *u, int dirfd, const char *name, void *arg),
                      void *arg)
{
        DIR *d;
        int rc = open_index(u, &d);
        while (rc == 0 && d) {
                errno = 0;
                struct dirent *e = readdir(d);
                if (!e) {
                        rc = -errno;
                        break;
                }
                if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
                        rc = fn(u, dirfd(d), e->d_name, arg);
        }
        if (d)
                (void)closedir(d);
        return rc;
}

struct report {
        bool (*fn)(void *arg, const uint8_t uuid[16], uint64_t nid, int fd);
        void *arg;
};

/* 1: no more is wanted. */
static int report_entry(struct ffs_upperlayer *u, int dirfd, const char *name, void *arg)
{
        const struct report *report = arg;
        uint8_t uuid[16];
        uint64_t nid;
        enum ffs_upper_kind kind;
        struct stat st;
        if (!ffs_upper_index_name_parse(name, uuid, &nid))
                return 0;
        int rc = ffs_upper_kind((struct ffs_place){dirfd, name}, u, &kind, &st);
        if (rc < 0 || kind != FFS_UPPER_PRESENT || S_ISDIR(st.st_mode))
                return rc;
        cas_cleanup_fd int fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        return report->fn(report->arg, uuid, nid, fd) ? 0 : 1;
}

int ffs_upperlayer_index_each(struct ffs_upperlayer *u,
                              bool (*fn)(void *arg, const uint8_t uuid[16], uint64_t nid, int fd),
                              void *arg)
{
        struct report report = {fn, arg};
        int rc = each_entry(u, report_entry, &report);
        return rc == 1 ? 0 : rc;
}

/* ---- dropping ---- */

/* overlayfs counts links from "nlink" and finds the index by "origin": without both, the file is
 * one of the upper alone, with the names that it has. */
static int drop_entry(struct ffs_upperlayer *u, int dirfd, const char *name, void *arg CAS_UNUSED)
{
        static const char *const marks[] = {"nlink", "origin"};
        struct ffs_place at = {dirfd, name};
        struct stat st;
        int rc = ffs_place_stat(at, &st);
        if (rc < 0)
                return rc;
        for (size_t i = 0; i < CAS_COUNT(marks) && !S_ISDIR(st.st_mode); i++) {
                char mark[FFS_UPPER_XATTR_NAME_BYTES];
                ffs_upper_mark_name(u, marks[i], mark);
                rc = ffs_place_removexattr(at, mark);
                if (rc < 0 && rc != -ENODATA && rc != -EOPNOTSUPP && rc != -EPERM)
                        return rc;
        }
        char temp[FFS_UPPER_TEMP_BYTES];
        ffs_upper_work_name(u, temp);
        if (renameat(dirfd, name, u->work_fd, temp) < 0)
                return -errno;
        return ffs_upper_work_remove(u, temp);
}

int ffs_upperlayer_index_drop(struct ffs_upperlayer *u)
{
        int rc = each_entry(u, drop_entry, NULL);
        if (rc == 0 && u->work_base_fd >= 0 &&
            unlinkat(u->work_base_fd, "index", AT_REMOVEDIR) < 0 && errno != ENOENT)
                rc = -errno;
        return rc;
}
