/* SPDX-License-Identifier: Apache-2.0 */
/* Each case: entries of a tar in its order, and the listing that they come to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <inttypes.h>

#include "cas/extract.h"
#include "tests/support/listing_text.h"

static int extract(const char *tar, struct cas_listing *out, struct cas_err *err)
{
        cas_cleanup_listing struct cas_listing entries = {0};
        cas_cleanup_extract struct cas_extract *x = cas_extract_new();
        listing_from_text(tar, &entries);
        for (size_t i = 0; i < entries.count; i++) {
                struct cas_entry *file;
                if (cas_extract_add(x, &entries.entries[i], &file, err) < 0)
                        return -(int)err->code;
        }
        cas_extract_listing(x, out);
        return 0;
}

/* One line per entry, so that a difference can be read. */
static void print(const struct cas_listing *l, struct cas_buf *out)
{
        for (size_t i = 0; i < l->count; i++) {
                const struct cas_entry *e = &l->entries[i];
                bool bare = e->type == CAS_ENTRY_WHITEOUT || e->type == CAS_ENTRY_HARDLINK ||
                            e->implied;
                cas_buf_printf(out,
                               "%d \"%s\" -> \"%s\" %o %u:%u %" PRId64 ".%u %u,%u [%.*s]%s%s%s",
                               (int)e->type, e->path, e->target ? e->target : "",
                               bare ? 0 : e->mode, e->uid, e->gid, e->mtime_s, e->mtime_ns,
                               e->dev_major, e->dev_minor, (int)e->size_bytes,
                               (const char *)e->inline_data, e->opaque ? " opaque" : "",
                               e->implied ? " implied" : "", e->below ? " below" : "");
                for (size_t x = 0; x < e->xattr_count; x++)
                        cas_buf_printf(out, " %s=%.*s", e->xattrs[x].name,
                                       (int)e->xattrs[x].value_bytes,
                                       (const char *)e->xattrs[x].value);
                cas_buf_append_byte(out, '\n');
        }
}

static void comes_to(const char *tar, const char *want)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_listing struct cas_listing got = {0};
        cas_cleanup_listing struct cas_listing expected = {0};
        cas_cleanup_buf struct cas_buf got_text = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf want_text = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        if (extract(tar, &got, &err) < 0)
                fail_msg("%s\n%s", tar, err.msg);
        listing_from_text(want, &expected);
        print(&got, &got_text);
        print(&expected, &want_text);
        assert_string_equal(cas_buf_str(&got_text), cas_buf_str(&want_text));
        if (cas_listing_encode(&got, &bytes, &err) < 0)
                fail_msg("%s\n%s", tar, err.msg);
}

static void refused(const char *tar, enum cas_code code, const char *why)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_listing struct cas_listing got = {0};
        assert_int_equal(extract(tar, &got, &err), -(int)code);
        if (!strstr(err.msg, why))
                fail_msg("\"%s\" does not say \"%s\"", err.msg, why);
}

static void paths_are_cleaned_and_sorted(void **state)
{
        (void)state;
        comes_to("", "");
        comes_to("d . 0700 5 6 7.8", "d . 0700 5 6 7.8");
        comes_to("d ./", "d .");
        comes_to("f b =1\nf /a =2\nd ./c/\nf c//x/../y =3\nf ../../up =4",
                 "f a =2\nf b =1\nd c\nf c/y =3\nf up =4");
        comes_to("f a%20b =1\nd a\nf a/z =2\nf a.b =3", "d a\nf a/z =2\nf a%20b =1\nf a.b =3");
        comes_to("f deep/er/file =1", "f deep/er/file =1");
        comes_to("f d/x =1\nd d 0711", "d d 0711\nf d/x =1");
        refused("f . =1", CAS_E_INVALID, "root");
        refused("l / x", CAS_E_INVALID, "root");
}

static void later_entries_replace_earlier_ones(void **state)
{
        (void)state;
        comes_to("f a =1 0600 1\nf a =2 0644 2", "f a =2 0644 2");
        comes_to("d d 0700 1 1 5\nx user.a 1\nf d/x =x\nd d 0755 2 2 6\nx user.b 2",
                 "d d 0755 2 2 6\nx user.b 2\nf d/x =x");
        comes_to("d d\nf d/x =1\nf d =2", "f d =2");
        comes_to("f d/x/y =1\nl d z", "l d z");
        /* A directory in the place of a file is a new one: nothing below shows through. */
        comes_to("f d =1\nd d\nf d/x =2", "d d opaque\nf d/x =2");
        comes_to("l d z\nd d", "d d opaque");
        refused("f d =1\nf d/x =2", CAS_E_INVALID, "no directory");
        refused("p d\nd d/x/y", CAS_E_INVALID, "no directory");
        comes_to("c dev 1 3 0666\nb dev 7 0 0660\np dev 0600", "p dev 0600");
}

static void whiteouts_hide_the_layers_below_only(void **state)
{
        (void)state;
        comes_to("f .wh.a =", "w a");
        comes_to("f d/.wh.a =", "w d/a");
        comes_to("d d\nf d/.wh.a =\nf d/.wh.b =", "d d\nw d/a\nw d/b");
        comes_to("d .wh.d\nl .wh.l x", "w d\nw l");
        comes_to("f .wh.a =\nf a =1", "f a =1");
        comes_to("f a =1\nf .wh.a =", "f a =1");
        comes_to("f .wh.d =\nd d 0700", "d d 0700 opaque");
        comes_to("d d 0700\nf d/x =1\nf .wh.d =", "d d 0700 opaque\nf d/x =1");
        comes_to("f .wh.d =\nf d/x =1", "d d 0755 opaque\nf d/x =1");
        comes_to("f d/x =1\nf .wh.d =", "d d 0755 opaque\nf d/x =1");
        comes_to("f .wh.d =\nf d/.wh.x =", "w d");
        comes_to("f d =1\nf d/.wh.x =", "f d =1");
        comes_to("f d/.wh.x =\nf d =1", "f d =1");
        refused("f .wh. =", CAS_E_INVALID, "no name");
        refused("f d/.wh.. =", CAS_E_INVALID, "no name");
        refused("f d/.wh... =", CAS_E_INVALID, "no name");
        refused("f .wh.d/x =1", CAS_E_INVALID, "whiteout as a directory");
        comes_to("f .wh.... =", "w ...");
        comes_to("f .whatever =1", "f .whatever =1");
}

static void opaque_marks_do_not_depend_on_order(void **state)
{
        (void)state;
        comes_to("d d 0700\nf d/.wh..wh..opq =\nf d/x =1", "d d 0700 opaque\nf d/x =1");
        comes_to("f d/x =1\nf d/.wh..wh..opq =\nd d 0700", "d d 0700 opaque\nf d/x =1");
        comes_to("f d/.wh..wh..opq =", "d d opaque implied");
        comes_to("f d/x =1\nf d/.wh..wh..opq =", "d d opaque implied\nf d/x =1");
        comes_to("f .wh..wh..opq =\nf a =1", "d . opaque implied\nf a =1");
        comes_to("d .\nf .wh..wh..opq =", "d . opaque");
        comes_to("f d =1\nf d/.wh..wh..opq =", "f d =1");
        comes_to("f d/.wh..wh..opq =\nf .wh.d =", "w d");
        /* What an opaque directory hides needs no whiteouts. */
        comes_to("d d\nf d/.wh..wh..opq =\nf d/.wh.x =\nf d/e/.wh.y =\nd d/f\nf d/f/.wh..wh..opq =",
                 "d d opaque\nd d/f");
}

static void hard_links_take_the_inode_of_their_moment(void **state)
{
        (void)state;
        comes_to("f a =1 0600\nh b a\nh c b", "f a =1 0600\nh b a\nh c a");
        comes_to("f z =1 0600\nh a z", "f a =1 0600\nh z a");
        comes_to("f f =old\nh g f\nf f =new", "f f =new\nf g =old");
        comes_to("f f =old\nh g f\nh h f\nf f =new", "f f =new\nf g =old\nh h g");
        comes_to("f f =1\nh d/g /f\nh ../e ./d/../f", "f d/g =1\nh e d/g\nh f d/g");
        comes_to("l s x\nh t s", "l s x\nh t s");
        comes_to("p p\nh q p\nc c 1 2\nh d c", "c c 1 2\nh d c\np p\nh q p");
        comes_to("h g low/f", "h g low/f below");
        comes_to("h g f\nh h g\nh i f", "h g f below\nh h g\nh i f below");
        comes_to("h g f\nf f =new", "f f =new\nh g f below");
        comes_to("f .wh.f =\nh g f", "w f\nh g f below");
        comes_to("h g f\nf .wh.f =", "w f\nh g f below");
        comes_to("f x =1\nh x y", "h x y below");
        refused("f f =1\nh f f", CAS_E_INVALID, "itself");
        refused("h f f", CAS_E_INVALID, "itself");
        refused("d d\nh g d", CAS_E_INVALID, "a directory");
        refused("f d/x =1\nh g d", CAS_E_INVALID, "a directory");
        refused("h g /", CAS_E_INVALID, "a directory");
        refused("f d =1\nh g d/x", CAS_E_INVALID, "below what is no directory");
        refused("f d =1\nd d\nh g d/x", CAS_E_INVALID, "not there");
}

static void symbolic_links_are_followed_inside_the_root(void **state)
{
        (void)state;
        comes_to("l lib usr/lib 0777\nf lib/x =1", "l lib usr/lib\nf usr/lib/x =1");
        comes_to("l lib /usr/lib\nf lib/x =1", "l lib /usr/lib\nf usr/lib/x =1");
        comes_to("l a ../../../b\nf a/x =1", "l a ../../../b\nf b/x =1");
        comes_to("d d\nl d/up ..\nf d/up/x =1", "d d\nl d/up ..\nf x =1");
        comes_to("l a b\nl b c\nf a/d/x =1\nf a/.wh.y =", "l a b\nl b c\nf c/d/x =1\nw c/y");
        comes_to("l a b\nf b/f =1\nh g a/f", "l a b\nf b/f =1\nh g b/f");
        comes_to("l a b\nh g a/f", "l a b\nh g b/f below");
        comes_to("l a b\nd a\nf a/x =1", "d a opaque\nf a/x =1");
        refused("l a a\nf a/x =1", CAS_E_INVALID, "symbolic links");
        refused("l a b\nl b a\nf a/x =1", CAS_E_INVALID, "symbolic links");
        refused("f f =1\nl a f\nf a/x =1", CAS_E_INVALID, "no directory");
        refused("l a .wh.b\nf a/x =1", CAS_E_INVALID, "whiteout as a directory");
        comes_to("l s x 0700", "l s x 0777");
}

static void aufs_bookkeeping_is_left_out(void **state)
{
        (void)state;
        comes_to("d .wh..wh.orph\nf .wh..wh.aufs =1\nf a =2", "f a =2");
        comes_to("d .wh..wh.plnk\nf .wh..wh.plnk/1.2 =1 0600\nh a .wh..wh.plnk/1.2\nh b "
                 ".wh..wh.plnk/1.2",
                 "f a =1 0600\nh b a");
        comes_to("f d/.wh..wh.aufs =1", "");
}

static void attributes_are_those_that_linux_keeps(void **state)
{
        (void)state;
        comes_to(
                "f a =1\nx user.a 1\nx security.capability c\nx security.selinux s\nx trusted.t t\n"
                "x system.nfs4_acl n\nx other o\nx user. u\nx com.apple.x y",
                "f a =1\nx security.capability c\nx trusted.t t\nx user.a 1");
        comes_to("l a b\nx user.a 1\nx trusted.t t", "l a b\nx trusted.t t");
        comes_to("p a\nx user.a 1", "p a");
        comes_to("f a =1\nx system.posix_acl_default %02", "f a =1");
        refused("f a =1\nx system.posix_acl_access %02", CAS_E_INVALID, "ACL");
        refused("d a\nx system.posix_acl_default bogus", CAS_E_INVALID, "ACL");
        refused("f a =1 0644 4294967295", CAS_E_INVALID, "owner");
        refused("c a 4096 1", CAS_E_INVALID, "device");
        refused("b a 1 1048576", CAS_E_INVALID, "device");
}

static void put_acl(struct cas_buf *b, unsigned tag, unsigned permissions, uint32_t id)
{
        cas_buf_append_le16(b, (uint16_t)tag);
        cas_buf_append_le16(b, (uint16_t)permissions);
        cas_buf_append_le32(b, id);
}

/* The mode and the number of xattrs that a file of mode 0777 has with this ACL. */
static int with_acl(const struct cas_buf *acl, uint32_t *mode, size_t *count)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_extract struct cas_extract *x = cas_extract_new();
        cas_cleanup_listing struct cas_listing l = {0};
        struct cas_entry *file,
                e = {.type = CAS_ENTRY_FILE, .path = cas_xstrdup("f"), .mode = 04777};
        assert_int_equal(
                cas_entry_set_xattr(&e, "system.posix_acl_access", acl->data, acl->len_bytes, &err),
                0);
        int ret = cas_extract_add(x, &e, &file, &err);
        cas_entry_release(&e);
        if (ret < 0)
                return ret;
        cas_extract_listing(x, &l);
        *mode = l.entries[0].mode;
        *count = l.entries[0].xattr_count;
        return 0;
}

static void access_lists_agree_with_modes(void **state)
{
        (void)state;
        uint32_t mode;
        size_t count;
        cas_cleanup_buf struct cas_buf acl = CAS_BUF_INIT;
        cas_buf_append_le32(&acl, 2);
        assert_int_equal(with_acl(&acl, &mode, &count), 0);
        assert_int_equal(mode, 04777);
        assert_int_equal(count, 0);
        put_acl(&acl, 1, 7, UINT32_MAX);
        assert_int_equal(with_acl(&acl, &mode, &count), -CAS_E_INVALID);
        put_acl(&acl, 4, 5, UINT32_MAX);
        put_acl(&acl, 32, 4, UINT32_MAX);
        assert_int_equal(with_acl(&acl, &mode, &count), 0);
        assert_int_equal(mode, 04754);
        assert_int_equal(count, 0);
        acl.len_bytes -= 16;
        put_acl(&acl, 2, 6, 1000);
        assert_int_equal(with_acl(&acl, &mode, &count), -CAS_E_INVALID);
        acl.len_bytes -= 8;
        put_acl(&acl, 2, 6, 1000);
        put_acl(&acl, 2, 6, 1001);
        put_acl(&acl, 4, 5, UINT32_MAX);
        put_acl(&acl, 32, 4, UINT32_MAX);
        assert_int_equal(with_acl(&acl, &mode, &count), -CAS_E_INVALID); /* no mask */
        acl.len_bytes -= 8;
        put_acl(&acl, 16, 1, UINT32_MAX);
        put_acl(&acl, 32, 4, UINT32_MAX);
        assert_int_equal(with_acl(&acl, &mode, &count), 0);
        assert_int_equal(mode, 04714);
        assert_int_equal(count, 1);
}

/* A path may grow through symbolic links, but neither without bound nor for long. */
static void expansion_is_bounded(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        cas_buf_append_str(&tar, "l a0 ");
        for (int i = 0; i < 600; i++)
                cas_buf_append_str(&tar, "d/../");
        cas_buf_append_str(&tar, "\nl a1 a0/a0\nf a0/x =1\nf a1/x =1");
        refused(cas_buf_str(&tar), CAS_E_LIMIT, "too");
        cas_buf_clear(&tar);
        cas_buf_append_str(&tar, "l s0 s\n");
        for (int i = 1; i < 41; i++)
                cas_buf_printf(&tar, "l s%d s%d\n", i, i - 1);
        cas_cleanup_free char *fits = cas_xasprintf("%sf s39/x =1", cas_buf_str(&tar));
        cas_cleanup_free char *loops = cas_xasprintf("%sf s40/x =1", cas_buf_str(&tar));
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_listing struct cas_listing got = {0};
        assert_int_equal(extract(fits, &got, &err), 0);
        refused(loops, CAS_E_INVALID, "symbolic links");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(paths_are_cleaned_and_sorted),
                cmocka_unit_test(later_entries_replace_earlier_ones),
                cmocka_unit_test(whiteouts_hide_the_layers_below_only),
                cmocka_unit_test(opaque_marks_do_not_depend_on_order),
                cmocka_unit_test(hard_links_take_the_inode_of_their_moment),
                cmocka_unit_test(symbolic_links_are_followed_inside_the_root),
                cmocka_unit_test(aufs_bookkeeping_is_left_out),
                cmocka_unit_test(attributes_are_those_that_linux_keeps),
                cmocka_unit_test(access_lists_agree_with_modes),
                cmocka_unit_test(expansion_is_bounded),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
