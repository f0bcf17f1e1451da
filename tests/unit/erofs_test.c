/* SPDX-License-Identifier: Apache-2.0 */
/* The image writer, held against three others: our reader, erofs-utils (where installed) and the
 * kernel (as root, in a mount namespace of its own). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

#include "cas/erofs.h"
#include "tests/support/kernel_tree.h"
#include "tests/support/listing_text.h"
#include "tests/support/scratch.h"

extern char **environ;

/* One of everything. */
static const char odd_tree[] =
        "d . 755 0 0 1700000000.987654321\n"
        "d bin 755 0 0 1000.5\n"
        "f bin/sh 100000 4755 0 0 1000.123456789\n"
        "x security.capability %01%00%00%02%00%20%00%00%00%00%00%00%00%00%00%00%00%00%00%00\n"
        "h bin/bash bin/sh\n"
        "f bin/tiny =hello 600 4294967294 4294967293 -1.999999999\n"
        "f bin/sixty-four 64\nf bin/sixty-five 65\nf bin/empty 0\n"
        "f bin/beyond-4GiB 5000000000\nf bin/8TiB 8796093022208\nf bin/8TiB+ 8796093022209\n"
        "f bin/16TiB 17592186044416\n"
        "d etc 1777 1 2 3.4\n"
        "x user.a b\nx user.empty\nx trusted.t %00%ff\n"
        "x trusted.overlay.opaque y\nx trusted.overlay.overlay.redirect z\n"
        "x system.posix_acl_default %02%00%00%00%01%00%07%00%ff%ff%ff%ff%04%00%05%00%ff%ff%ff%ff"
        "%20%00%05%00%ff%ff%ff%ff\n"
        "f etc/acl 70\n"
        "x system.posix_acl_access %02%00%00%00%01%00%06%00%ff%ff%ff%ff%02%00%04%00%e8%03%00%00"
        "%04%00%04%00%ff%ff%ff%ff%10%00%04%00%ff%ff%ff%ff%20%00%04%00%ff%ff%ff%ff\n"
        "l lib usr/lib\nd usr/lib/deep/er\n"
        "d dev\nc dev/null 1 3 666\nc dev/high 4095 1048575\nb dev/sda 259 1000000\np dev/fifo\n"
        "s dev/sock\n"
        "d names\nf names/! =1\nf names/-dash =2\nf names/.hidden =3\nf names/..double =4\n"
        "f names/%c3%bcml%c3%a4ut =5\nf names/sp%20ace%0anewline =6\nf names/%01%ff =7\n"
        "f names/.wh.kept =8\n";

struct images {
        struct cas_buf flat, top, base;
};

static void image_write(const struct cas_merge *m, bool stacked, struct cas_buf *out)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_tree_options options = {.stacked = stacked};
        if (cas_merge_write_erofs(m, &options, out, NULL, &err) < 0)
                fail_msg("%s", err.msg);
}

static void image_of(const char *layer, struct cas_buf *out)
{
        cas_cleanup_merge struct cas_merge *m = cas_merge_new();
        (void)merge_text(m, layer, NULL);
        image_write(m, false, out);
}

static char *reader_text(const struct cas_buf *image)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_tree struct cas_tree *t = NULL;
        struct cas_buf text = CAS_BUF_INIT;
        if (cas_tree_open_mem(image->data, image->len_bytes, &t, &err) < 0)
                fail_msg("%s", err.msg);
        tree_to_text(t, &text);
        return (char *)text.data;
}

/* ---- against erofs-utils ---- */

/* 0 when the program ran and liked it, -1 when it is not installed. */
static int run_tool(const char *tool, const char *argument, const char *image)
{
        char *argv[] = {(char *)tool, (char *)argument, (char *)image, NULL};
        posix_spawn_file_actions_t quiet;
        pid_t pid;
        int status;
        (void)posix_spawn_file_actions_init(&quiet);
        (void)posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
        int rc = posix_spawnp(&pid, tool, &quiet, NULL, argv, environ);
        (void)posix_spawn_file_actions_destroy(&quiet);
        if (rc != 0)
                return -1;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return status;
}

static void check_by_tools(const struct cas_buf *image)
{
        char *dir = scratch_new();
        cas_cleanup_free char *path = cas_xasprintf("%s/image", dir);
        FILE *f = fopen(path, "we");
        assert_non_null(f);
        assert_int_equal(fwrite(image->data, 1, image->len_bytes, f), image->len_bytes);
        assert_int_equal(fclose(f), 0);
        int fsck = run_tool("fsck.erofs", "-d1", path), dump = run_tool("dump.erofs", "-s", path);
        scratch_free(dir);
        if (fsck == -1)
                (void)printf("skipped: fsck.erofs is not installed\n");
        else
                assert_int_equal(fsck, 0);
        if (dump != -1)
                assert_int_equal(dump, 0);
}

static void check_by_kernel(const struct cas_buf *image)
{
        if (!kernel_tree_possible())
                return;
        cas_cleanup_free char *kernel = kernel_tree_overlay(&image, 1);
        cas_cleanup_free char *ours = reader_text(image);
        assert_non_null(kernel);
        /* overlayfs has no link counts of directories */
        cas_cleanup_buf struct cas_buf want = CAS_BUF_INIT;
        for (char *line = ours, *end; *line; line = end + 1) {
                end = strchr(line, '\n');
                char type[2];
                unsigned mode, uid, gid;
                int before, after;
                if (sscanf(line, "%*s %1[d] %o %u %u%n %*u%n", type, &mode, &uid, &gid, &before,
                           &after) == 4)
                        cas_buf_printf(&want, "%.*s -%.*s", before, line,
                                       (int)(end + 1 - line) - after, line + after);
                else
                        cas_buf_append(&want, line, (size_t)(end + 1 - line));
        }
        assert_string_equal(kernel, cas_buf_str(&want));
}

static void check_all(const char *layer)
{
        cas_cleanup_buf struct cas_buf image = CAS_BUF_INIT;
        image_of(layer, &image);
        assert_int_equal(image.len_bytes % EROFS_BLOCK_BYTES, 0);
        check_by_tools(&image);
        check_by_kernel(&image);
}

static void odd_tree_is_read_by_all(void **state CAS_UNUSED)
{
        check_all(odd_tree);
        cas_cleanup_buf struct cas_buf image = CAS_BUF_INIT;
        image_of(odd_tree, &image);
        if (!kernel_tree_possible())
                return;
        cas_cleanup_free char *kernel = kernel_tree_erofs(&image);
        assert_non_null(strstr(kernel, "/etc d 1777 1 2 2 3.4 0"));
        assert_non_null(strstr(kernel, "/ d 755 0 0 7 1700000000.987654321 0"));
}

static void empty_tree_is_read_by_all(void **state CAS_UNUSED)
{
        check_all("");
}

static void large_directory_is_read_by_all(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf layer = CAS_BUF_INIT;
        for (unsigned i = 0; i < 20000; i++)
                cas_buf_printf(&layer, "f d/%x-%0*u =x\n", i * 2654435761u, (int)(i % 200), i);
        check_all(cas_buf_str(&layer));
}

static void hundred_thousand_names_are_found(void **state CAS_UNUSED)
{
        enum { COUNT = 100000 };
        cas_cleanup_buf struct cas_buf layer = CAS_BUF_INIT, image = CAS_BUF_INIT;
        for (unsigned i = 0; i < COUNT; i++)
                cas_buf_printf(&layer, "f d/%u 100\n", i);
        image_of(cas_buf_str(&layer), &image);
        check_by_tools(&image);
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_tree struct cas_tree *t = NULL;
        uint64_t dir, nid;
        assert_int_equal(cas_tree_open_mem(image.data, image.len_bytes, &t, &err), 0);
        assert_int_equal(cas_tree_entry_count(t), COUNT + 2);
        assert_int_equal(cas_tree_lookup(t, cas_tree_root(t), "d", 1, &dir, &err), 0);
        for (unsigned i = 0; i < COUNT; i++) {
                char name[16], path[20];
                struct cas_inode inode;
                struct cas_hash object;
                int len = snprintf(name, sizeof(name), "%u", i);
                (void)snprintf(path, sizeof(path), "d/%u", i);
                listing_object(path, 100, &object);
                assert_int_equal(cas_tree_lookup(t, dir, name, (size_t)len, &nid, &err), 0);
                assert_int_equal(cas_tree_inode(t, nid, &inode, &err), 0);
                assert_true(cas_hash_equal(&inode.object, &object));
        }
        assert_int_equal(cas_tree_lookup(t, dir, "100000", 6, &nid, &err), -CAS_E_NOTFOUND);
        assert_int_equal(cas_tree_lookup(t, dir, "", 0, &nid, &err), -CAS_E_NOTFOUND);
        assert_int_equal(cas_tree_lookup(t, dir, "~", 1, &nid, &err), -CAS_E_NOTFOUND);
}

struct page {
        unsigned count, limit;
        uint64_t last;
};

static bool count_page(void *arg, const char *name CAS_UNUSED, size_t len CAS_UNUSED,
                       uint64_t nid CAS_UNUSED, uint8_t type CAS_UNUSED, uint64_t next)
{
        struct page *p = arg;
        if (p->limit == 0)
                return false;
        p->limit--;
        p->count++;
        p->last = next;
        return true;
}

static void readdir_goes_on_from_a_cookie(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf layer = CAS_BUF_INIT, image = CAS_BUF_INIT;
        for (unsigned i = 0; i < 1000; i++)
                cas_buf_printf(&layer, "f %u =x\n", i);
        image_of(cas_buf_str(&layer), &image);
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_tree struct cas_tree *t = NULL;
        assert_int_equal(cas_tree_open_mem(image.data, image.len_bytes, &t, &err), 0);
        struct page p = {0};
        uint64_t cookie = 0;
        for (unsigned pages = 0; pages < 1000 / 7 + 2; pages++) {
                p.limit = 7;
                assert_int_equal(
                        cas_tree_readdir(t, cas_tree_root(t), &cookie, count_page, &p, &err), 0);
                if (p.limit == 0)
                        assert_int_equal(cookie >= p.last, 1);
        }
        assert_int_equal(p.count, 1000);
}

static void directories_of_every_size_are_read_by_all(void **state CAS_UNUSED)
{
        /* tails of all lengths, next to a block's end and to each other */
        cas_cleanup_buf struct cas_buf layer = CAS_BUF_INIT;
        for (unsigned d = 0; d < 120; d++) {
                cas_buf_printf(&layer, "d d%u\n", d);
                for (unsigned i = 0; i < d * 3; i++)
                        cas_buf_printf(&layer, "f d%u/%u-%0*u %u\n", d, i, (int)(d % 40), i,
                                       i % 3 ? 5000 : 10);
        }
        check_all(cas_buf_str(&layer));
}

static void long_names_and_links_are_read_by_all(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf layer = CAS_BUF_INIT;
        for (unsigned len = 3900; len <= CAS_SYMLINK_BYTES_MAX; len += 15)
                cas_buf_printf(&layer, "l l%u %0*u\n", len, (int)len, 7);
        cas_buf_printf(&layer, "l longest %0*u\n", CAS_SYMLINK_BYTES_MAX, 7);
        for (unsigned i = 0; i < 100; i++)
                cas_buf_printf(&layer, "f %0255u =x\n", i);
        check_all(cas_buf_str(&layer));
}

static void many_and_large_xattrs_are_read_by_all(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf layer = CAS_BUF_INIT;
        for (unsigned f = 0; f < 3; f++) { /* all but the first two of "one" are shared */
                cas_buf_printf(&layer, "f f%u 100\n", f);
                for (unsigned i = 0; i < 300; i++)
                        cas_buf_printf(&layer, "x user.%03u value-of-%u\n", i, i);
        }
        cas_buf_printf(&layer, "f one =x\nx user.large %060000u\nx user.second %05000u\n", 1, 2);
        for (unsigned i = 0; i < 50; i++)
                cas_buf_printf(&layer, "f g%u =x\nx user.once %0*u\n", i, (int)(i * 37 + 1), i);
        cas_buf_printf(&layer, "f n =x\nx user.%0250u =\n", 1);
        check_all(cas_buf_str(&layer));
}

static void names_of_unknown_prefixes_are_left_out(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf image = CAS_BUF_INIT;
        image_of("f a =x\nx btrfs.x 1\nx system.nfs4_acl 2\nx user. 3\nx user.k 4\n"
                 "x system.posix_acl_accessory 5",
                 &image);
        cas_cleanup_free char *text = reader_text(&image);
        assert_non_null(strstr(text, "/a f 644 0 0 1 0.0 1 \"x\" user.k=4\n"));
}

static void too_large_xattr_is_refused(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_merge struct cas_merge *m = cas_merge_new();
        cas_cleanup_buf struct cas_buf layer = CAS_BUF_INIT;
        cas_buf_printf(&layer, "f a =x\nx user.k %065536u\n", 1);
        assert_int_equal(merge_text(m, cas_buf_str(&layer), &err), -CAS_E_LIMIT);
}

/* ---- stacking ---- */

static void stacked_trees_equal_the_flat_one(void **state CAS_UNUSED)
{
        static const char base[] =
                "d . 750 1 1 9\nd a 711 1 2 3.4\nf a/b 100\nf a/c 200\nf a/d =x\n"
                "d e\nf e/f 300\nf e/g/h 400\nl lib usr/lib\nf usr/lib/x 500\n"
                "f h1 600\nh h2 h1\nh a/h3 h1\nf k =k\nd m\nf m/n =n\nf o 70\n"
                "x user.k v\n";
        static const char top[] = "w a/b\nf a/new 700 600 7 7 7.7\nd e 700 opaque\nf e/i =i\n"
                                  "f lib/y 800\nh h4 h2 below\nw k\nd k\nf k/z =z\nf m =file\n"
                                  "w nothing\nd usr 1777 5 5 5\nw h1\nf o 71\n";
        cas_cleanup_merge struct cas_merge *m = cas_merge_new();
        cas_cleanup_buf struct cas_buf flat = CAS_BUF_INIT, upper = CAS_BUF_INIT,
                                       lower = CAS_BUF_INIT;
        struct cas_err err = CAS_ERR_INIT;
        (void)merge_text(m, base, NULL);
        image_write(m, false, &lower);
        assert_int_equal(cas_merge_mark_base(m, &err), 0);
        (void)merge_text(m, top, NULL);
        image_write(m, false, &flat);
        image_write(m, true, &upper);
        check_by_tools(&upper);
        if (!kernel_tree_possible())
                return;
        const struct cas_buf *one[] = {&flat}, *two[] = {&upper, &lower};
        cas_cleanup_free char *by_one = kernel_tree_overlay(one, 1);
        cas_cleanup_free char *by_two = kernel_tree_overlay(two, 2);
        assert_non_null(by_one);
        assert_non_null(by_two);
        assert_string_equal(by_one, by_two);
}

/* The xattr of one name and value: as overlayfs's own, unescaped. */
static bool xattr_is(void *arg, const char *name, const void *value, size_t len)
{
        char *out = arg;
        if (strncmp(name, "trusted.overlay.", 16) == 0)
                (void)snprintf(out, 64, "%s=%.*s", name + 16, (int)len, (const char *)value);
        return true;
}

static void check_mark(const struct cas_tree *t, const char *dir, const char *name,
                       const char *mark)
{
        struct cas_err err = CAS_ERR_INIT;
        uint64_t nid = cas_tree_root(t);
        char found[64] = "";
        if (dir[0])
                assert_int_equal(cas_tree_lookup(t, nid, dir, strlen(dir), &nid, &err), 0);
        if (name[0])
                assert_int_equal(cas_tree_lookup(t, nid, name, strlen(name), &nid, &err), 0);
        assert_int_equal(cas_tree_xattrs(t, nid, xattr_is, found, &err), 0);
        assert_string_equal(found, mark);
}

static void a_layer_by_itself_keeps_its_marks(void **state CAS_UNUSED)
{
        cas_cleanup_merge struct cas_merge *m = cas_merge_new();
        cas_cleanup_buf struct cas_buf image = CAS_BUF_INIT;
        cas_cleanup_tree struct cas_tree *t = NULL;
        struct cas_err err = CAS_ERR_INIT;
        uint64_t nid;
        cas_merge_keep_marks(m);
        assert_int_equal(merge_text(m,
                                    "d a 711 1 2 3.4\nx user.k v\nw a/b\nf a/new 700\nw a/z\n"
                                    "d e 700 opaque\nf e/i =i\nw e/f\nd e/j\nw e/j/k\nw k\n"
                                    "d p opaque implied\nd q\n",
                                    NULL),
                         0);
        image_write(m, false, &image);
        check_by_tools(&image);
        assert_int_equal(cas_tree_open_mem(image.data, image.len_bytes, &t, &err), 0);
        check_mark(t, "", "", "opaque=x");
        check_mark(t, "a", "", "opaque=x");
        check_mark(t, "a", "b", "whiteout=");
        check_mark(t, "a", "z", "whiteout=");
        check_mark(t, "a", "new", "");
        check_mark(t, "", "k", "whiteout=");
        check_mark(t, "e", "", "opaque=y");
        check_mark(t, "e", "j", "");
        check_mark(t, "", "p", "opaque=y");
        check_mark(t, "", "q", "");
        assert_int_equal(cas_tree_lookup(t, cas_tree_root(t), "e", 1, &nid, &err), 0);
        assert_int_equal(cas_tree_lookup(t, nid, "f", 1, &nid, &err), -CAS_E_NOTFOUND);
}

static void links_below_are_refused_in_a_layer_by_itself(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_merge struct cas_merge *m = cas_merge_new();
        cas_merge_keep_marks(m);
        assert_int_equal(merge_text(m, "h a b below\n", &err), -CAS_E_UNSUPPORTED);
}

/* ---- determinism ---- */

static void equal_trees_are_equal_bytes(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf one = CAS_BUF_INIT, two = CAS_BUF_INIT;
        image_of("f a/b 100\nf a/c =x\nx user.k v\nf z 100\nx user.k v\n", &one);
        cas_cleanup_merge struct cas_merge *m = cas_merge_new();
        (void)merge_text(m, "f z 5\nf a/gone 9\nf a/c/d =x\nx user.k v\n", NULL);
        (void)merge_text(m, "w a\nf z 100\nx user.k v\nf a/c =x\nx user.k v\nf a/b 100\n", NULL);
        image_write(m, false, &two);
        assert_int_equal(one.len_bytes, two.len_bytes);
        assert_memory_equal(one.data, two.data, one.len_bytes);
}

static void uuid_follows_from_the_rest(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf image = CAS_BUF_INIT;
        uint8_t uuid[16];
        struct cas_hash hash;
        image_of(odd_tree, &image);
        uint8_t *sb = image.data + EROFS_SUPER_OFFSET;
        memcpy(uuid, sb + EROFS_SB_UUID, 16);
        memset(sb + EROFS_SB_UUID, 0, 16);
        memset(sb + EROFS_SB_CHECKSUM, 0, 4);
        cas_sha256(image.data, image.len_bytes, &hash);
        hash.bytes[6] = (uint8_t)((hash.bytes[6] & 0x0f) | 0x80);
        hash.bytes[8] = (uint8_t)((hash.bytes[8] & 0x3f) | 0x80);
        assert_memory_equal(uuid, hash.bytes, 16);
}

/* The bytes of version 1, for ever. LAMINA_GOLDEN_WRITE=1 writes the file of a new version. */
static void bytes_are_those_of_the_golden_file(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf image = CAS_BUF_INIT, golden = CAS_BUF_INIT;
        image_of(odd_tree, &image);
        static const char path[] = "tests/golden/tree-odd.erofs";
        if (getenv("LAMINA_GOLDEN_WRITE")) {
                FILE *f = fopen(path, "we");
                assert_non_null(f);
                assert_int_equal(fwrite(image.data, 1, image.len_bytes, f), image.len_bytes);
                assert_int_equal(fclose(f), 0);
        }
        struct cas_err err = CAS_ERR_INIT;
        if (cas_io_read_file(cas_io_posix(), AT_FDCWD, path, 1 << 20, &golden, &err) < 0)
                fail_msg("%s (tests run from the top of the repository)", err.msg);
        assert_int_equal(image.len_bytes, golden.len_bytes);
        assert_memory_equal(image.data, golden.data, golden.len_bytes);
}

/* ---- what the reader refuses ---- */

static void expect_refusal(struct cas_buf *image, size_t at, uint8_t flip, enum cas_code code)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_tree *t = NULL;
        image->data[at] ^= flip;
        assert_int_equal(cas_tree_open_mem(image->data, image->len_bytes, &t, &err), -(int)code);
        image->data[at] ^= flip;
}

static void foreign_and_damaged_images_are_refused(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf image = CAS_BUF_INIT;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_tree *t = NULL;
        image_of(odd_tree, &image);
        expect_refusal(&image, EROFS_SUPER_OFFSET, 1, CAS_E_CORRUPT);
        expect_refusal(&image, EROFS_SUPER_OFFSET + EROFS_SB_UUID, 1, CAS_E_CORRUPT);
        expect_refusal(&image, EROFS_SUPER_OFFSET + EROFS_SB_CHECKSUM, 1, CAS_E_CORRUPT);
        expect_refusal(&image, TREE_OFF_MAGIC, 1, CAS_E_CORRUPT);
        expect_refusal(&image, TREE_OFF_VERSION, 2, CAS_E_UNSUPPORTED);
        expect_refusal(&image, TREE_OFF_FLAGS, 2, CAS_E_UNSUPPORTED);
        static const size_t lengths[] = {0, 1, EROFS_BLOCK_BYTES - 1, EROFS_BLOCK_BYTES};
        for (size_t i = 0; i < CAS_COUNT(lengths); i++)
                assert_int_equal(cas_tree_open_mem(image.data, lengths[i], &t, &err),
                                 -CAS_E_CORRUPT);
}

#define T(name) cmocka_unit_test(name)

int main(void)
{
        const struct CMUnitTest tests[] = {
                T(odd_tree_is_read_by_all),
                T(empty_tree_is_read_by_all),
                T(large_directory_is_read_by_all),
                T(hundred_thousand_names_are_found),
                T(readdir_goes_on_from_a_cookie),
                T(directories_of_every_size_are_read_by_all),
                T(long_names_and_links_are_read_by_all),
                T(many_and_large_xattrs_are_read_by_all),
                T(names_of_unknown_prefixes_are_left_out),
                T(too_large_xattr_is_refused),
                T(stacked_trees_equal_the_flat_one),
                T(a_layer_by_itself_keeps_its_marks),
                T(links_below_are_refused_in_a_layer_by_itself),
                T(equal_trees_are_equal_bytes),
                T(uuid_follows_from_the_rest),
                T(bytes_are_those_of_the_golden_file),
                T(foreign_and_damaged_images_are_refused),
        };
        return cmocka_run_group_tests_name("erofs", tests, NULL, NULL);
}
