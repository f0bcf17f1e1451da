/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cas/layer.h"

static struct cas_entry *add(struct cas_listing *l, enum cas_entry_type type, const char *path,
                             const char *target)
{
        l->entries = cas_xrealloc(l->entries, (l->count + 1) * sizeof(*l->entries));
        struct cas_entry *e = &l->entries[l->count++];
        *e = (struct cas_entry){.type = type, .path = cas_xstrdup(path)};
        if (target)
                e->target = cas_xstrdup(target);
        return e;
}

static void set_xattr(struct cas_entry *e, const char *name, const char *value)
{
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(cas_entry_set_xattr(e, name, value, strlen(value), &err), 0);
}

/* One of everything. */
static void fill(struct cas_listing *l)
{
        struct cas_entry *e = add(l, CAS_ENTRY_DIR, "", NULL);
        e->mode = 0755;
        e = add(l, CAS_ENTRY_HARDLINK, "a", "below/x");
        e->below = true;
        add(l, CAS_ENTRY_HARDLINK, "a2", "a");
        e = add(l, CAS_ENTRY_BLOCKDEV, "block", NULL);
        e->dev_major = 0xfff;
        e->dev_minor = 0xfffff;
        e = add(l, CAS_ENTRY_CHARDEV, "char", NULL);
        e->mode = 0666;
        e = add(l, CAS_ENTRY_DIR, "d", NULL);
        e->opaque = true;
        e->mode = 01777;
        e->uid = 4294967294;
        e = add(l, CAS_ENTRY_FILE, "d/f", NULL);
        e->mode = 04755;
        e->mtime_s = -7;
        e->mtime_ns = 999999999;
        e->size_bytes = 3;
        memcpy(e->inline_data, "abc", 3);
        set_xattr(e, "user.b", "2");
        set_xattr(e, "user.a", "");
        set_xattr(e, "user.b", "replaced");
        add(l, CAS_ENTRY_HARDLINK, "d/g", "d/f");
        e = add(l, CAS_ENTRY_DIR, "d2", NULL);
        e->opaque = e->implied = true;
        add(l, CAS_ENTRY_WHITEOUT, "d2/gone", NULL);
        e = add(l, CAS_ENTRY_FILE, "large", NULL);
        e->gid = 12;
        e->size_bytes = CAS_INLINE_BYTES_MAX + 1;
        memset(e->object.bytes, 0xab, CAS_HASH_BYTES);
        add(l, CAS_ENTRY_FIFO, "pipe", NULL);
        add(l, CAS_ENTRY_SYMLINK, "s", "../any thing");
        add(l, CAS_ENTRY_SOCKET, "sock", NULL);
}

static void assert_entry_equal(const struct cas_entry *a, const struct cas_entry *b)
{
        assert_int_equal(a->type, b->type);
        assert_string_equal(a->path, b->path);
        assert_int_equal(a->target != NULL, b->target != NULL);
        if (a->target)
                assert_string_equal(a->target, b->target);
        assert_int_equal(a->mode, b->mode);
        assert_int_equal(a->uid, b->uid);
        assert_int_equal(a->gid, b->gid);
        assert_int_equal(a->mtime_s, b->mtime_s);
        assert_int_equal(a->mtime_ns, b->mtime_ns);
        assert_int_equal(a->dev_major, b->dev_major);
        assert_int_equal(a->dev_minor, b->dev_minor);
        assert_int_equal(a->size_bytes, b->size_bytes);
        assert_memory_equal(a->object.bytes, b->object.bytes, CAS_HASH_BYTES);
        assert_memory_equal(a->inline_data, b->inline_data, CAS_INLINE_BYTES_MAX);
        assert_int_equal(a->opaque, b->opaque);
        assert_int_equal(a->implied, b->implied);
        assert_int_equal(a->below, b->below);
        assert_int_equal(a->xattr_count, b->xattr_count);
        for (size_t i = 0; i < a->xattr_count; i++) {
                assert_string_equal(a->xattrs[i].name, b->xattrs[i].name);
                assert_int_equal(a->xattrs[i].value_bytes, b->xattrs[i].value_bytes);
                assert_memory_equal(a->xattrs[i].value, b->xattrs[i].value,
                                    a->xattrs[i].value_bytes);
        }
}

static void bytes_give_the_listing_back(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_listing struct cas_listing a = {0};
        cas_cleanup_listing struct cas_listing b = {0};
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf again = CAS_BUF_INIT;
        fill(&a);
        assert_int_equal(cas_listing_encode(&a, &bytes, &err), 0);
        assert_int_equal(cas_listing_decode(bytes.data, bytes.len_bytes, &b, &err), 0);
        assert_int_equal(a.count, b.count);
        for (size_t i = 0; i < a.count; i++)
                assert_entry_equal(&a.entries[i], &b.entries[i]);
        assert_int_equal(cas_listing_encode(&b, &again, &err), 0);
        assert_int_equal(bytes.len_bytes, again.len_bytes);
        assert_memory_equal(bytes.data, again.data, bytes.len_bytes);
}

/* The digest of the listing of fill(): changes only with CAS_LISTING_VERSION. */
static void bytes_are_the_golden_ones(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_listing struct cas_listing l = {0};
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        fill(&l);
        assert_int_equal(cas_listing_encode(&l, &bytes, &err), 0);
        struct cas_hash hash;
        char hex[CAS_HASH_HEX_BYTES];
        cas_sha256(bytes.data, bytes.len_bytes, &hash);
        assert_string_equal(cas_hash_hex(&hash, hex),
                            "d4432ee4779157415ea55e04367d8137c55044823ca75f38e58ca1f5824527d2");
}

static void every_cut_is_damage(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_listing struct cas_listing l = {0};
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        fill(&l);
        assert_int_equal(cas_listing_encode(&l, &bytes, &err), 0);
        for (size_t len = 0; len < bytes.len_bytes; len++) {
                struct cas_listing out = {0};
                assert_int_equal(cas_listing_decode(bytes.data, len, &out, &err), -CAS_E_CORRUPT);
                assert_null(out.entries);
        }
        struct cas_listing out = {0};
        cas_buf_append_byte(&bytes, 0);
        assert_int_equal(cas_listing_decode(bytes.data, bytes.len_bytes, &out, &err),
                         -CAS_E_CORRUPT);
        bytes.data[4] = 2;
        assert_int_equal(cas_listing_decode(bytes.data, bytes.len_bytes, &out, &err),
                         -CAS_E_UNSUPPORTED);
}

static void refuse(struct cas_listing *l, const char *why)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        assert_int_equal(cas_listing_encode(l, &bytes, &err), -CAS_E_INVALID);
        assert_non_null(strstr(err.msg, why));
        cas_listing_release(l);
}

static void what_cannot_be_is_refused(void **state)
{
        (void)state;
        struct cas_listing l = {0};
        add(&l, CAS_ENTRY_FILE, "b", NULL);
        add(&l, CAS_ENTRY_FILE, "a", NULL);
        refuse(&l, "out of order");
        add(&l, CAS_ENTRY_FILE, "a", NULL);
        add(&l, CAS_ENTRY_DIR, "a", NULL);
        refuse(&l, "out of order");
        add(&l, CAS_ENTRY_FILE, "a", NULL);
        add(&l, CAS_ENTRY_FILE, "a/b", NULL);
        refuse(&l, "not a directory");
        add(&l, CAS_ENTRY_HARDLINK, "a", "b");
        add(&l, CAS_ENTRY_FILE, "b", NULL);
        refuse(&l, "no earlier file");
        add(&l, CAS_ENTRY_DIR, "a", NULL);
        add(&l, CAS_ENTRY_HARDLINK, "b", "a");
        refuse(&l, "no earlier file");
        add(&l, CAS_ENTRY_FILE, "", NULL);
        refuse(&l, "root");
        add(&l, CAS_ENTRY_FILE, "../a", NULL);
        refuse(&l, "malformed path");
        add(&l, CAS_ENTRY_DIR, "a", NULL)->implied = true;
        refuse(&l, "flags");
        add(&l, CAS_ENTRY_FILE, "a", NULL)->opaque = true;
        refuse(&l, "flags");
        add(&l, CAS_ENTRY_WHITEOUT, "a", NULL)->mode = 0644;
        refuse(&l, "attributes");
        add(&l, CAS_ENTRY_SYMLINK, "a", "");
        refuse(&l, "symbolic link");
        add(&l, CAS_ENTRY_CHARDEV, "a", NULL)->dev_major = 0x1000;
        refuse(&l, "device number");
        add(&l, CAS_ENTRY_FILE, "a", NULL)->mtime_ns = 1000000000;
        refuse(&l, "time");
        add(&l, (enum cas_entry_type)10, "a", NULL);
        refuse(&l, "type");
}

static void xattrs_are_bounded(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_entry e = {0};
        cas_cleanup_free char *big = cas_xcalloc(1, CAS_XATTR_VALUE_BYTES_MAX + 1);
        assert_int_equal(
                cas_entry_set_xattr(&e, "user.x", big, CAS_XATTR_VALUE_BYTES_MAX + 1, &err),
                -CAS_E_LIMIT);
        assert_int_equal(cas_entry_set_xattr(&e, "", big, 1, &err), -CAS_E_LIMIT);
        assert_int_equal(cas_entry_set_xattr(&e, "user.x", big, 40000, &err), 0);
        assert_int_equal(cas_entry_set_xattr(&e, "user.y", big, 40000, &err), -CAS_E_LIMIT);
        assert_int_equal(cas_entry_set_xattr(&e, "user.x", big, 10, &err), 0);
        assert_int_equal(cas_entry_set_xattr(&e, "user.y", big, 40000, &err), 0);
        assert_int_equal(e.xattr_count, 2);
        cas_entry_release(&e);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(bytes_give_the_listing_back),
                cmocka_unit_test(bytes_are_the_golden_ones),
                cmocka_unit_test(every_cut_is_damage),
                cmocka_unit_test(what_cannot_be_is_refused),
                cmocka_unit_test(xattrs_are_bounded),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
