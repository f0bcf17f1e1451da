/* SPDX-License-Identifier: Apache-2.0 */
/* Two programs of e2fsprogs do the work: mke2fs takes the files of a directory,
 * debugfs gives the root directory the attributes that mke2fs does not take,
 * and all inodes times of access and change that do not tell when they were
 * unpacked, so that the same image gives the same bytes.
 * Everything lies in FILE.XXXXXX, a directory of root alone, until the image is
 * renamed to FILE. */
#include "tools/ext4.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cas/program.h"
#include "cas/removetree.h"

#define BLOCK_BYTES 4096
#define INODE_BYTES 256
#define SLACK_BYTES (64 * CAS_MIB)
#define INODES_FREE 1024 /* at the least */
#define INODE_ROOT 2u
#define INODE_FIRST 12u /* of the files: mke2fs numbers them one after the other */
/* Written out, so that neither the host's mke2fs.conf nor its release decides. */
#define FEATURES                                                                                   \
        "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,"          \
        "sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

struct ext4 {
        char *work;  /* owned: FILE.XXXXXX */
        char *root;  /* owned: the files */
        char *image; /* owned */
        char uuid[40];
        struct stat root_stat;
        uint64_t size_bytes;
        uint64_t inodes, used_inodes; /* in the file system; the root's and the files' */
};

static void ext4_release(struct ext4 *x)
{
        struct cas_err ignored = CAS_ERR_INIT;
        if (x->work)
                (void)!cas_remove_tree(x->work, &ignored);
        free(x->work);
        free(x->root);
        free(x->image);
}

/* ---- the file system ---- */

/* As RFC 9562 wants it of numbers that were not drawn (version 8). */
static void uuid_of(const struct cas_digest *digest, char out[40])
{
        uint8_t b[16];
        memcpy(b, digest->bytes, sizeof(b));
        b[6] = (uint8_t)((b[6] & 0x0f) | 0x80);
        b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
        (void)snprintf(out, 40,
                       "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
                       b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12],
                       b[13], b[14], b[15]);
}

static void choose_size(struct ext4 *x, const struct cas_unpack_counts *counts)
{
        uint64_t need = counts->block_bytes + counts->inodes * INODE_BYTES;
        x->used_inodes = counts->inodes;
        x->inodes = counts->inodes + counts->inodes / 4 + INODES_FREE;
        if (x->size_bytes == 0)
                x->size_bytes = need + need / 4 + SLACK_BYTES;
        x->size_bytes = cas_align_up(x->size_bytes, BLOCK_BYTES);
}

/* mke2fs takes 0 for "not given". */
static long long fake_time(const struct ext4 *x)
{
        return x->root_stat.st_mtime > 0 ? (long long)x->root_stat.st_mtime : 1;
}

static int make_filesystem(const struct ext4 *x, struct cas_err *err)
{
        char inodes[32], blocks[32], extended[128], time_env[64];
        (void)snprintf(inodes, sizeof(inodes), "%llu", (unsigned long long)x->inodes);
        (void)snprintf(blocks, sizeof(blocks), "%llu",
                       (unsigned long long)(x->size_bytes / BLOCK_BYTES));
        (void)snprintf(extended, sizeof(extended), "hash_seed=%s,root_owner=%u:%u", x->uuid,
                       x->root_stat.st_uid, x->root_stat.st_gid);
        (void)snprintf(time_env, sizeof(time_env), "E2FSPROGS_FAKE_TIME=%lld", fake_time(x));
        const char *const argv[] = {"mke2fs", "-q", "-F",    "-t",     "ext4",  "-O",
                                    FEATURES, "-b", "4096",  "-I",     "256",   "-m",
                                    "0",      "-N", inodes,  "-U",     x->uuid, "-E",
                                    extended, "-d", x->root, x->image, blocks,  NULL};
        const char *const envp[] = {CAS_PROGRAM_PATH, "LC_ALL=C", "MKE2FS_CONFIG=/dev/null",
                                    time_env, NULL};
        return cas_program_run(argv, envp, "e2fsprogs", err);
}

static void script_times(FILE *f, uint64_t inode, long long seconds)
{
        fprintf(f, "sif <%llu> atime @%lld\nsif <%llu> ctime @%lld\n", (unsigned long long)inode,
                seconds, (unsigned long long)inode, seconds);
}

static int finish_inodes(const struct ext4 *x, struct cas_err *err)
{
        cas_cleanup_free char *script = cas_xasprintf("%s/script", x->work);
        FILE *f = fopen(script, "we");
        if (!f)
                return cas_fail_sys(err, errno, "create %s", script);
        fprintf(f, "set_current_time @%lld\n", fake_time(x));
        fprintf(f, "sif <%u> mode 0%o\nsif <%u> mtime @%lld\n", INODE_ROOT, x->root_stat.st_mode,
                INODE_ROOT, (long long)x->root_stat.st_mtime);
        script_times(f, INODE_ROOT, fake_time(x));
        for (uint64_t i = 1; i < x->used_inodes; i++)
                script_times(f, INODE_FIRST - 1 + i, fake_time(x));
        if (fclose(f) != 0)
                return cas_fail_sys(err, errno, "write %s", script);
        const char *const argv[] = {"debugfs", "-w", "-f", script, x->image, NULL};
        const char *const envp[] = {CAS_PROGRAM_PATH, "LC_ALL=C", NULL};
        return cas_program_run(argv, envp, "e2fsprogs", err);
}

static int sync_path(const char *path, int flags, struct cas_err *err)
{
        cas_cleanup_fd int fd = open(path, flags | O_CLOEXEC);
        if (fd < 0 || fsync(fd) < 0)
                return cas_fail_sys(err, errno, "sync %s", path);
        return 0;
}

/* The image becomes FILE, with the mode of a new file. */
static int publish(const struct ext4 *x, const char *file, struct cas_err *err)
{
        mode_t mask = umask(0);
        (void)umask(mask);
        if (chmod(x->image, 0666 & ~mask) < 0)
                return cas_fail_sys(err, errno, "mode of %s", x->image);
        if (sync_path(x->image, O_RDONLY, err) < 0)
                return -(int)err->code;
        if (rename(x->image, file) < 0)
                return cas_fail_sys(err, errno, "rename to %s", file);
        cas_cleanup_free char *dir = cas_xstrdup(file);
        char *slash = strrchr(dir, '/');
        cas_assert(slash != NULL); /* paths of operations are absolute */
        slash[slash == dir] = 0;
        return sync_path(dir, O_RDONLY | O_DIRECTORY, err);
}

static int make_work(struct ext4 *x, const char *file, struct cas_err *err)
{
        struct stat st;
        if (stat(file, &st) == 0 && !S_ISREG(st.st_mode))
                return cas_fail(err, CAS_E_INVALID, "%s is there and is not a regular file", file);
        char *work = cas_xasprintf("%s.XXXXXX", file);
        if (!mkdtemp(work)) {
                int saved = errno;
                free(work);
                return cas_fail_sys(err, saved, "make a directory beside %s", file);
        }
        x->work = work;
        x->root = cas_xasprintf("%s/root", work);
        x->image = cas_xasprintf("%s/image", work);
        return 0;
}

int ext4_export(struct cas_store *s, const struct cas_image *image, const char *file,
                uint64_t size_bytes, const struct cas_progress *progress, struct cas_err *err)
{
        __attribute__((cleanup(ext4_release))) struct ext4 x = {.size_bytes = size_bytes};
        struct cas_unpack_counts counts = {0};
        if (geteuid() != 0)
                return cas_fail(err, CAS_E_DENIED,
                                "an ext4 disk needs root: mke2fs(8) takes owners and devices from "
                                "unpacked files (--format erofs does not)");
        uuid_of(&image->manifest_digest, x.uuid);
        if (make_work(&x, file, err) < 0 ||
            cas_unpack(s, image, x.root, progress, &counts, err) < 0)
                return -(int)err->code;
        if (counts.lossy > 0)
                return cas_fail(err, CAS_E_UNSUPPORTED,
                                "%llu entries cannot be unpacked with all of their attributes here",
                                (unsigned long long)counts.lossy);
        if (stat(x.root, &x.root_stat) < 0)
                return cas_fail_sys(err, errno, "%s", x.root);
        choose_size(&x, &counts);
        if (make_filesystem(&x, err) < 0 || finish_inodes(&x, err) < 0 ||
            publish(&x, file, err) < 0)
                return cas_err_wrap(err, "export to %s", file);
        return 0;
}
