/* SPDX-License-Identifier: Apache-2.0 */
/* Packing, unpacking, and the tars that packing writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>

#include "cas/tar.h"
#include "cas/tarwrite.h"
#include "cas/transfer.h"
#include "tests/support/memsource.h"
#include "tests/support/teststore.h"

#define check(call, err)                                                                           \
        do {                                                                                       \
                int check_ = (call);                                                               \
                if (check_ < 0)                                                                    \
                        print_error("%s: %s\n", #call, (err)->msg);                                \
                assert_int_equal(check_, 0);                                                       \
        } while (0)

/* ---- tars ---- */

static char long_name[300];

static void entries_are_read_back(void **state CAS_UNUSED)
{
        static uint8_t binary[] = {0, '\n', '=', 0xff};
        struct cas_xattr xattrs[] = {{"security.capability", binary, sizeof(binary)},
                                     {"user.text", binary, 1},
                                     {"user.without", binary, 0}};
        memset(long_name, 'n', sizeof(long_name) - 1);
        const struct cas_entry entries[] = {
                {.type = CAS_ENTRY_DIR, .path = "", .mode = 0755},
                {.type = CAS_ENTRY_DIR, .path = "d", .mode = 01777, .uid = 1, .gid = 2},
                {.type = CAS_ENTRY_FILE, .path = "f", .mode = 04755, .size_bytes = 3, .mtime_s = 7},
                {.type = CAS_ENTRY_FILE, .path = long_name, .mtime_s = -2, .mtime_ns = 500000000},
                {.type = CAS_ENTRY_FILE, .path = "ns", .mtime_s = 1, .mtime_ns = 1},
                {.type = CAS_ENTRY_FILE, .path = "past", .mtime_s = -5},
                {.type = CAS_ENTRY_FILE, .path = "far", .mtime_s = INT64_C(1) << 40},
                {.type = CAS_ENTRY_FILE,
                 .path = "\xc3\xa4\xff",
                 .uid = 4000000000u,
                 .gid = 4000000001u},
                {.type = CAS_ENTRY_FILE, .path = "x", .xattrs = xattrs, .xattr_count = 3},
                {.type = CAS_ENTRY_SYMLINK, .path = "s", .target = long_name, .mode = 0777},
                {.type = CAS_ENTRY_HARDLINK, .path = "h", .target = "f"},
                {.type = CAS_ENTRY_CHARDEV, .path = "c", .dev_major = 4095, .dev_minor = 1048575},
                {.type = CAS_ENTRY_BLOCKDEV, .path = "b", .dev_major = 8},
                {.type = CAS_ENTRY_FIFO, .path = "p"},
        };
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        for (size_t i = 0; i < CAS_COUNT(entries); i++) {
                check(cas_tarwrite_header(&tar, &entries[i], &err), &err);
                cas_buf_append(&tar, "abc", entries[i].size_bytes);
                cas_tarwrite_padding(&tar, entries[i].size_bytes);
        }
        cas_tarwrite_end(&tar);
        assert_int_equal(tar.len_bytes % 512, 0);
        struct memsource source = {.data = tar.data, .len = tar.len_bytes, .step = SIZE_MAX};
        cas_cleanup_tar struct cas_tar *t = NULL;
        check(cas_tar_open(memsource_lend, &source, &t, &err), &err);
        struct cas_entry *e;
        for (size_t i = 0; i < CAS_COUNT(entries); i++) {
                const struct cas_entry *want = &entries[i];
                check(cas_tar_next(t, &e, &err), &err);
                assert_non_null(e);
                size_t len = strlen(want->path);
                if (len == 0)
                        assert_string_equal(e->path, "./");
                else
                        assert_memory_equal(e->path, want->path, len);
                assert_int_equal(e->type, want->type);
                assert_int_equal(e->mode, want->mode);
                assert_int_equal(e->uid, want->uid);
                assert_int_equal(e->gid, want->gid);
                assert_int_equal(e->mtime_s, want->mtime_s);
                assert_int_equal(e->mtime_ns, want->mtime_ns);
                assert_int_equal(e->size_bytes, want->size_bytes);
                assert_int_equal(e->dev_major, want->dev_major);
                assert_int_equal(e->dev_minor, want->dev_minor);
                assert_int_equal(e->xattr_count, want->xattr_count ? 2 : 0);
                for (size_t k = 0; k < e->xattr_count; k++) {
                        assert_string_equal(e->xattrs[k].name, xattrs[k].name);
                        assert_int_equal(e->xattrs[k].value_bytes, xattrs[k].value_bytes);
                        assert_memory_equal(e->xattrs[k].value, binary, xattrs[k].value_bytes);
                }
                if (want->target)
                        assert_string_equal(e->target, want->target);
        }
        check(cas_tar_next(t, &e, &err), &err);
        assert_null(e);
}

static void what_tars_cannot_say_is_refused(void **state CAS_UNUSED)
{
        uint8_t value[] = {1};
        struct cas_xattr odd = {"user.a=b", value, 1};
        const struct cas_entry entries[] = {
                {.type = CAS_ENTRY_SOCKET, .path = "s"},
                {.type = CAS_ENTRY_FILE, .path = "d/.wh.w"},
                {.type = CAS_ENTRY_WHITEOUT, .path = "d/.wh..opq"},
                {.type = CAS_ENTRY_FILE, .path = "x", .xattrs = &odd, .xattr_count = 1},
        };
        for (size_t i = 0; i < CAS_COUNT(entries); i++) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
                assert_int_equal(cas_tarwrite_header(&tar, &entries[i], &err), -CAS_E_INVALID);
                assert_int_equal(tar.len_bytes, 0);
        }
}

/* ---- directories ---- */

static void put_file(int dirfd, const char *name, size_t size)
{
        cas_cleanup_fd int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
        cas_cleanup_free uint8_t *data = cas_xmalloc(size + 1);
        for (size_t i = 0; i < size; i++)
                data[i] = (uint8_t)(i * i >> 7);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, data, size), (ssize_t)size);
}

static void make_tree(const char *dir)
{
        assert_int_equal(mkdir(dir, 0750), 0);
        cas_cleanup_fd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(mkdirat(fd, "sub", 0700), 0);
        assert_int_equal(mkdirat(fd, "sub/empty", 0711), 0);
        put_file(fd, "small", 10);
        put_file(fd, "empty", 0);
        put_file(fd, "sub/large", 1500000);
        assert_int_equal(linkat(fd, "small", fd, "sub/link", 0), 0);
        assert_int_equal(symlinkat("../../outside", fd, "sub/away"), 0);
        assert_int_equal(mkfifoat(fd, "sub/fifo", 0600), 0);
        struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1000000000, .tv_nsec = 123456789}};
        static const char *const names[] = {"sub/large", "sub/away", "sub/empty", "sub", "."};
        for (size_t i = 0; i < CAS_COUNT(names); i++)
                assert_int_equal(utimensat(fd, names[i], times, AT_SYMLINK_NOFOLLOW), 0);
}

static void assert_same_inode(int a, int b, const char *name)
{
        struct stat x, y;
        assert_int_equal(fstatat(a, name, &x, AT_SYMLINK_NOFOLLOW), 0);
        assert_int_equal(fstatat(b, name, &y, AT_SYMLINK_NOFOLLOW), 0);
        assert_int_equal(x.st_mode, y.st_mode);
        assert_int_equal(x.st_uid, y.st_uid);
        assert_int_equal(x.st_gid, y.st_gid);
        assert_int_equal(x.st_mtim.tv_sec, y.st_mtim.tv_sec);
        assert_int_equal(x.st_mtim.tv_nsec, y.st_mtim.tv_nsec);
        if (S_ISDIR(x.st_mode))
                return;
        assert_int_equal(x.st_size, y.st_size);
        assert_int_equal(x.st_nlink, y.st_nlink);
        if (!S_ISREG(x.st_mode))
                return;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf p = CAS_BUF_INIT, q = CAS_BUF_INIT;
        check(cas_io_read_file(cas_io_posix(), a, name, 4 * CAS_MIB, &p, &err), &err);
        check(cas_io_read_file(cas_io_posix(), b, name, 4 * CAS_MIB, &q, &err), &err);
        assert_int_equal(p.len_bytes, q.len_bytes);
        if (p.len_bytes)
                assert_memory_equal(p.data, q.data, p.len_bytes);
}

static int pack(struct teststore *t, const char *dir, const char *name, const char *config,
                uint64_t *skipped, struct cas_manifest_info *out, struct cas_err *err)
{
        struct cas_ref ref;
        struct cas_pack_options options = {.config_json = config, .skipped_count = skipped};
        int r = cas_ref_parse(name, &ref, err);
        return r == 0 ? cas_pack_dir(t->store, dir, &ref, &options, NULL, out, err) : r;
}

static int unpack(struct teststore *t, const char *name, const char *dir, struct cas_err *err)
{
        struct cas_ref ref;
        cas_cleanup_image struct cas_image image = {0};
        struct cas_unpack_counts counts = {0};
        int r = cas_ref_parse(name, &ref, err);
        if (r == 0)
                r = cas_image_open(t->store, &ref, NULL, NULL, &image, err);
        if (r == 0)
                r = cas_unpack(t->store, &image, dir, NULL, &counts, err);
        if (r == 0)
                assert_int_equal(counts.lossy, 0);
        return r;
}

static void directories_round_trip(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_manifest_info first, second;
        uint64_t skipped = 99;
        cas_cleanup_free char *in = cas_xasprintf("%s/in", t->dir),
                              *out = cas_xasprintf("%s/out", t->dir);
        make_tree(in);
        check(pack(t, in, "dir:1", NULL, &skipped, &first, &err), &err);
        assert_int_equal(skipped, 0);
        check(pack(t, in, "dir:2", NULL, NULL, &second, &err), &err);
        assert_true(cas_digest_equal(&first.digest, &second.digest));
        check(unpack(t, "dir:1", out, &err), &err);
        static const char *const names[] = {".",        "small",     "empty",
                                            "sub",      "sub/empty", "sub/away",
                                            "sub/fifo", "sub/large", "sub/link"};
        cas_cleanup_fd int a = open(in, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cas_cleanup_fd int b = open(out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        for (size_t i = 0; i < CAS_COUNT(names); i++)
                assert_same_inode(a, b, names[i]);
        struct cas_err full = CAS_ERR_INIT;
        assert_int_equal(unpack(t, "dir:1", out, &full), -CAS_E_EXISTS);
        /* And the copy packs to the same image. */
        check(pack(t, out, "dir:3", NULL, NULL, &second, &err), &err);
        assert_true(cas_digest_equal(&first.digest, &second.digest));
}

static void sockets_are_left_out(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_manifest_info info;
        uint64_t skipped = 0;
        cas_cleanup_free char *in = cas_xasprintf("%s/in", t->dir);
        assert_int_equal(mkdir(in, 0700), 0);
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        (void)snprintf(name.sun_path, sizeof(name.sun_path), "%s/socket", in);
        cas_cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(fd, (struct sockaddr *)&name, sizeof(name)), 0);
        check(pack(t, in, "s", NULL, &skipped, &info, &err), &err);
        assert_int_equal(skipped, 1);
}

static void configs_are_taken_over(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_manifest_info info;
        struct cas_ref ref;
        cas_cleanup_image struct cas_image image = {0};
        cas_cleanup_free char *in = cas_xasprintf("%s/in", t->dir);
        assert_int_equal(mkdir(in, 0700), 0);
        check(pack(t, in, "c", "{\"config\":{\"Cmd\":[\"/bin/app\"],\"User\":\"7\"}}", NULL, &info,
                   &err),
              &err);
        check(cas_ref_parse("c", &ref, &err), &err);
        check(cas_image_find(t->store, &ref, NULL, &image, &err), &err);
        assert_string_equal(image.config.cmd[0], "/bin/app");
        assert_string_equal(image.config.user, "7");
        assert_string_equal(image.config.platform.os, "linux");
        struct cas_err bad = CAS_ERR_INIT;
        assert_int_equal(pack(t, in, "c", "{\"config\":7}", NULL, &info, &bad), -CAS_E_INVALID);
        assert_int_equal(pack(t, "/nonexistent", "c", NULL, NULL, &info, &bad), -CAS_E_NOTFOUND);
}

int main(void)
{
#define with_store(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(entries_are_read_back),
                cmocka_unit_test(what_tars_cannot_say_is_refused),
                with_store(directories_round_trip),
                with_store(sockets_are_left_out),
                with_store(configs_are_taken_over),
        };
        return cmocka_run_group_tests_name("packdir", tests, NULL, NULL);
}
