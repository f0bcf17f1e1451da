/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "cas/io.h"
#include "cas/tar_int.h"
#include "cas/tarwrite.h"
#include "tests/support/memsource.h"
#include "tests/support/scratch.h"
#include "tests/support/tarmake.h"

/* Everything a tar holds, as one line per entry; content of more than 40 bytes as its SHA-256. */
static int dump(const struct cas_buf *tar, size_t step, struct cas_buf *out, struct cas_err *err)
{
        struct memsource s = {.data = tar->data, .len = tar->len_bytes, .step = step};
        cas_cleanup_tar struct cas_tar *t = NULL;
        assert_int_equal(cas_tar_open(memsource_lend, &s, &t, err), 0);
        for (;;) {
                struct cas_entry *e;
                cas_cleanup_buf struct cas_buf content = CAS_BUF_INIT;
                if (cas_tar_next(t, &e, err) < 0)
                        return -(int)err->code;
                if (!e)
                        return 0;
                for (size_t len = 1; len > 0;) {
                        const uint8_t *data;
                        if (cas_tar_data(t, &data, &len, err) < 0)
                                return -(int)err->code;
                        if (len > 0)
                                cas_buf_append(&content, data, len);
                }
                assert_int_equal(content.len_bytes, e->size_bytes);
                cas_buf_printf(out, "%d %s", (int)e->type, e->path);
                if (e->target)
                        cas_buf_printf(out, " -> %s", e->target);
                cas_buf_printf(out, " %o %u:%u %" PRId64 ".%09u", e->mode, e->uid, e->gid,
                               e->mtime_s, e->mtime_ns);
                if (e->dev_major || e->dev_minor)
                        cas_buf_printf(out, " %u,%u", e->dev_major, e->dev_minor);
                if (content.len_bytes > 40) {
                        struct cas_hash hash;
                        char hex[CAS_HASH_HEX_BYTES];
                        cas_sha256(content.data, content.len_bytes, &hash);
                        cas_buf_printf(out, " %zu:%s", content.len_bytes, cas_hash_hex(&hash, hex));
                } else if (e->type == CAS_ENTRY_FILE) {
                        cas_buf_printf(out, " [%s]", cas_buf_str(&content));
                }
                for (size_t i = 0; i < e->xattr_count; i++)
                        cas_buf_printf(out, " %s=%.*s", e->xattrs[i].name,
                                       (int)e->xattrs[i].value_bytes,
                                       (const char *)e->xattrs[i].value);
                cas_buf_append_byte(out, '\n');
        }
}

static void reads_as(const struct cas_buf *tar, const char *want)
{
        static const size_t steps[] = {1, 100, 512, 100000, SIZE_MAX};
        for (size_t i = 0; i < CAS_COUNT(steps); i++) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                if (dump(tar, steps[i], &out, &err) < 0)
                        fail_msg("%s", err.msg);
                assert_string_equal(cas_buf_str(&out), want);
        }
}

static void fails(struct cas_buf *tar, enum cas_code code, const char *why)
{
        static const size_t steps[] = {100, SIZE_MAX};
        for (size_t i = 0; i < CAS_COUNT(steps); i++) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                assert_int_equal(dump(tar, steps[i], &out, &err), -(int)code);
                if (!strstr(err.msg, why))
                        fail_msg("\"%s\" does not say \"%s\"", err.msg, why);
        }
        cas_buf_clear(tar);
}

static void every_type_of_header_is_read(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf t = CAS_BUF_INIT;
        struct tarmake h = {.name = "dir/",
                            .type = '5',
                            .mode = 040755,
                            .uid = 1,
                            .gid = 2,
                            .mtime = 3,
                            .size = 512};
        tarmake_header(&t, &h); /* a directory's size means nothing */
        tarmake_file(&t, "file", "content");
        h = (struct tarmake){.name = "hard", .link = "file", .type = '1', .size = 7};
        tarmake_header(&t, &h); /* nor does a link's */
        h = (struct tarmake){.name = "sym", .link = "any/where", .type = '2', .mode = 0777};
        tarmake_header(&t, &h);
        h = (struct tarmake){.name = "char", .type = '3', .major = 5, .minor = 1};
        tarmake_header(&t, &h);
        h.name = "block";
        h.type = '4';
        tarmake_header(&t, &h);
        h = (struct tarmake){.name = "pipe", .type = '6', .mode = 07000};
        tarmake_header(&t, &h);
        h = (struct tarmake){.name = "contiguous", .type = '7', .size = 3};
        tarmake_header(&t, &h);
        tarmake_data(&t, "abc", 3);
        tarmake_end(&t);
        cas_buf_append_str(&t, "whatever follows the end");
        reads_as(&t, "1 dir/ 755 1:2 3.000000000\n"
                     "2 file 644 0:0 0.000000000 [content]\n"
                     "8 hard -> file 0 0:0 0.000000000\n"
                     "3 sym -> any/where 777 0:0 0.000000000\n"
                     "4 char 0 0:0 0.000000000 5,1\n"
                     "5 block 0 0:0 0.000000000 5,1\n"
                     "6 pipe 7000 0:0 0.000000000\n"
                     "2 contiguous 0 0:0 0.000000000 [abc]\n");
}

static void v7_and_star_headers_are_read(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf t = CAS_BUF_INIT;
        char hundred[101] = {0};
        char prefix131[132] = {0};
        memset(hundred, 'n', 100);
        memset(prefix131, 'p', 131);
        struct tarmake h = {.name = "old/",
                            .magic = "\0\0\0\0\0\0\0",
                            .patch_at = 156,
                            .patch_bytes = 1,
                            .patch = "",
                            .prefix = "not a prefix"};
        tarmake_header(&t, &h);
        h.name = hundred;
        tarmake_header(&t, &h);
        h = (struct tarmake){.name = hundred, .prefix = "a/prefix"};
        tarmake_header(&t, &h);
        /* star's prefix is shorter, and full: times follow it at once. */
        h = (struct tarmake){.name = "star",
                             .prefix = prefix131,
                             .patch_at = 345 + 131,
                             .patch_bytes = 36,
                             .patch = "00000000001\0"
                                      "00000000002\0"
                                      "\0\0\0\0\0\0\0\0"
                                      "tar"};
        tarmake_header(&t, &h);
        h = (struct tarmake){.name = "gnu",
                             .magic = "ustar  ",
                             .patch_at = 345,
                             .patch_bytes = 12,
                             .patch = "00000000007"};
        tarmake_header(&t, &h);
        reads_as(&t, "1 old/ 0 0:0 0.000000000\n"
                     "2 nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
                     "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn 0 0:0 0.000000000 []\n"
                     "2 a/prefix/nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
                     "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn 0 0:0 0.000000000 []\n"
                     "2 ppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppp"
                     "pppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppp"
                     "/star 0 0:0 0.000000000 []\n"
                     "2 gnu 0 0:0 0.000000000 []\n");
}

static void numbers_have_many_forms(void **state)
{
        (void)state;
        static const struct {
                size_t at, bytes;
                const char *field, *want;
        } cases[] = {
                {108, 8, "    17 \0", "2 n 0 15:0 0.000000000 []\n"},
                {108, 8, "17\0garb", "2 n 0 15:0 0.000000000 []\n"},
                {108, 8, "\0\0\0\0\0\0\0\0", "2 n 0 0:0 0.000000000 []\n"},
                {108, 8, "\x80\0\0\0\xff\xff\xff\xfe", "2 n 0 4294967294:0 0.000000000 []\n"},
                {136, 12, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe",
                 "2 n 0 0:0 -2.000000000 []\n"},
                {136, 12, "\x80\0\0\0\0\0\0\1\0\0\0\0", "2 n 0 0:0 4294967296.000000000 []\n"},
                {136, 12, "777777777777", "2 n 0 0:0 68719476735.000000000 []\n"},
        };
        static const struct {
                size_t at, bytes;
                const char *field;
        } bad[] = {
                {108, 8, "12x4567\0"},
                {108, 8, "9\0\0\0\0\0\0\0"},
                {108, 8, "\xff\xff\xff\xff\xff\xff\xff\xff"},
                {108, 8, "\x80\0\0\1\0\0\0\0"},
                {124, 12, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"},
                {124, 12, "\x81\0\0\0\0\0\0\0\0\0\0\0"},
                {124, 12, "\x80\0\0\0\x80\0\0\0\0\0\0\0"},
                {136, 12, "\x80\0\0\1\0\0\0\0\0\0\0\0"},
                {100, 8, "-000644\0"},
        };
        cas_cleanup_buf struct cas_buf t = CAS_BUF_INIT;
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct tarmake h = {.name = "n",
                                    .patch_at = cases[i].at,
                                    .patch = cases[i].field,
                                    .patch_bytes = cases[i].bytes};
                cas_buf_clear(&t);
                tarmake_header(&t, &h);
                reads_as(&t, cases[i].want);
        }
        cas_buf_clear(&t);
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                struct tarmake h = {.name = "n",
                                    .patch_at = bad[i].at,
                                    .patch = bad[i].field,
                                    .patch_bytes = bad[i].bytes};
                tarmake_header(&t, &h);
                fails(&t, CAS_E_CORRUPT, "damaged number");
        }
}

static void checksums_may_be_of_signed_bytes(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf t = CAS_BUF_INIT;
        struct tarmake h = {.name = "\xc3\xa9"};
        tarmake_header(&t, &h);
        int sum = 0;
        memset(t.data + 148, ' ', 8);
        for (size_t i = 0; i < 512; i++)
                sum += (int8_t)t.data[i];
        (void)snprintf((char *)t.data + 148, 8, "%06o", (unsigned)sum);
        reads_as(&t, "2 \xc3\xa9 0 0:0 0.000000000 []\n");
        t.data[148] ^= 1;
        fails(&t, CAS_E_CORRUPT, "not a tar");
}

static void pax_records_overrule_the_header(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf t = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf x = CAS_BUF_INIT;
        static const struct {
                const char *key, *value;
        } records[] = {
                {"path", "replaced by the next"},
                {"path", "a long name=\nof odd bytes"},
                {"size", "5"},
                {"uid", "3000000"},
                {"gid", "4000000"},
                {"mtime", "-1.25"},
                {"atime", "9"},
                {"comment", "nothing"},
                {"SCHILY.xattr.user.b", "="},
                {"SCHILY.xattr.user.a", "1"},
                {"SCHILY.xattr.user.gone", "1"},
                {"SCHILY.xattr.user.gone", ""},
                {"LIBARCHIVE.xattr.user.c", "MQ"},
                {"RHT.security.selinux", "label"},
        };
        for (size_t i = 0; i < CAS_COUNT(records); i++)
                tarmake_record(&x, records[i].key, records[i].value, strlen(records[i].value));
        tarmake_extension(&t, 'x', x.data, x.len_bytes);
        struct tarmake h = {.name = "short", .uid = 1, .mtime = 9};
        tarmake_header(&t, &h);
        tarmake_data(&t, "12345", 5);
        tarmake_pax(&t, "linkpath", "far away");
        h = (struct tarmake){.name = "s", .type = '2', .link = "near"};
        tarmake_header(&t, &h);
        tarmake_file(&t, "plain", "p"); /* records hold for one entry only */
        reads_as(&t, "2 a long name=\nof odd bytes 0 3000000:4000000 -2.750000000 [12345] "
                     "user.a=1 user.b==\n"
                     "3 s -> far away 0 0:0 0.000000000\n"
                     "2 plain 644 0:0 0.000000000 [p]\n");
}

static void global_records_hold_until_overruled(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf t = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf x = CAS_BUF_INIT;
        tarmake_record(&x, "uid", "7", 1);
        tarmake_record(&x, "mtime", "1.5", 3);
        tarmake_record(&x, "comment", "0123456789abcdef", 16);
        tarmake_extension(&t, 'g', x.data, x.len_bytes);
        tarmake_file(&t, "one", "1");
        tarmake_pax(&t, "uid", "8");
        tarmake_file(&t, "two", "2");
        tarmake_pax(&t, "mtime", "");
        tarmake_file(&t, "three", "3");
        reads_as(&t, "2 one 644 7:0 1.500000000 [1]\n"
                     "2 two 644 8:0 1.500000000 [2]\n"
                     "2 three 644 7:0 0.000000000 [3]\n");
}

static void pax_times_keep_their_sign(void **state)
{
        (void)state;
        static const struct {
                const char *text;
                int64_t s;
                uint32_t ns;
        } cases[] = {
                {"0", 0, 0},
                {"12", 12, 0},
                {"-12", -12, 0},
                {"1.", 1, 0},
                {"1.5", 1, 500000000},
                {"-1.5", -2, 500000000},
                {"-0.25", -1, 750000000},
                {"1.123456789987", 1, 123456789},
                {"1.000000001", 1, 1},
                {"9223372036854775807", INT64_MAX, 0},
        };
        static const char *const bad[] = {"",
                                          "-",
                                          ".5",
                                          "x",
                                          "1.x",
                                          "1e3",
                                          "+1",
                                          "--1",
                                          "9223372036854775808",
                                          "1 ",
                                          "00000000000000000000000000000"};
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                int64_t s;
                uint32_t ns;
                assert_true(cas_tar_pax_time(cases[i].text, &s, &ns));
                assert_int_equal(s, cases[i].s);
                assert_int_equal(ns, cases[i].ns);
        }
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                int64_t s;
                uint32_t ns;
                assert_false(cas_tar_pax_time(bad[i], &s, &ns));
        }
}

static void gnu_headers_are_read(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf t = CAS_BUF_INIT;
        tarmake_extension(&t, 'V', "", 0);
        tarmake_extension(&t, 'L', "a long name", 12);
        tarmake_extension(&t, 'K', "a long target", 14);
        struct tarmake h = {.name = "a lo", .link = "a lo", .type = '2'};
        tarmake_header(&t, &h);
        tarmake_extension(&t, 'L', "", 1);
        tarmake_file(&t, "kept", "k");
        h = (struct tarmake){.name = "dumped/", .type = 'D', .size = 600};
        tarmake_header(&t, &h);
        char names[600] = "Yfile";
        tarmake_data(&t, names, sizeof(names));
        tarmake_file(&t, "last", "l");
        reads_as(&t, "3 a long name -> a long target 0 0:0 0.000000000\n"
                     "2 kept 644 0:0 0.000000000 [k]\n"
                     "1 dumped/ 0 0:0 0.000000000\n"
                     "2 last 644 0:0 0.000000000 [l]\n");
        cas_buf_clear(&t);
        tarmake_extension(&t, 'M', "rest", 4);
        fails(&t, CAS_E_UNSUPPORTED, "entry type 0x4d");
}

static void archives_may_end_in_several_ways(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf t = CAS_BUF_INIT;
        cas_buf_reserve(&t, 1);
        reads_as(&t, "");
        tarmake_end(&t);
        reads_as(&t, "");
        cas_buf_clear(&t);
        tarmake_file(&t, "f", "x");
        const char *want = "2 f 644 0:0 0.000000000 [x]\n";
        reads_as(&t, want);
        t.len_bytes -= 511; /* not even the padding */
        reads_as(&t, want);
        t.len_bytes += 511;
        cas_buf_append_zero(&t, 512);
        reads_as(&t, want);
        cas_buf_append_zero(&t, 512);
        tarmake_file(&t, "after the end", "y");
        reads_as(&t, want);
        t.data[1024 + 512] = 'x'; /* in the place of the second zero block */
        fails(&t, CAS_E_CORRUPT, "single zero block");
        tarmake_pax(&t, "path", "of nothing");
        tarmake_end(&t);
        fails(&t, CAS_E_CORRUPT, "without its entry");
}

static void damage_is_found(void **state)
{
        (void)state;
        cas_cleanup_buf struct cas_buf t = CAS_BUF_INIT;
        tarmake_file(&t, "f", "0123456789");
        t.len_bytes = 515;
        fails(&t, CAS_E_CORRUPT, "cut off");
        tarmake_file(&t, "f", "0123456789");
        cas_buf_append_str(&t, "not a header");
        fails(&t, CAS_E_CORRUPT, "cut off");
        tarmake_file(&t, "f", "0123456789");
        cas_buf_append_str(&t, "not a header");
        cas_buf_append_zero(&t, 512);
        fails(&t, CAS_E_CORRUPT, "damaged header at byte 1024");
        tarmake_pax(&t, "path", "x");
        t.len_bytes = 520;
        fails(&t, CAS_E_CORRUPT, "cut off");
        struct tarmake h = {.name = "x", .type = 'x', .size = CAS_TAR_HEADER_BYTES_MAX + 1};
        tarmake_header(&t, &h);
        fails(&t, CAS_E_LIMIT, "extended header");
        h = (struct tarmake){.name = "f", .size = UINT64_C(0777777777777)};
        tarmake_header(&t, &h);
        fails(&t, CAS_E_CORRUPT, "cut off");
        tarmake_pax(&t, "size", "99999999999999");
        tarmake_file(&t, "f", "x");
        fails(&t, CAS_E_LIMIT, "a file of");
}

static void bad_pax_records_are_refused(void **state)
{
        (void)state;
        static const char *const bad[] = {
                "12 path=abcd",
                "6 p=a\n1",
                "x path=a\n",
                "0 p=a\n",
                "-6 p=a\n",

                "99999999999999999999 path=a\n",
                "9 path=a",
                "6 =aa\n",
                "7 pa a\n",
                "6 p=ab",
                "1 ",
                "5 p=\n ",
        };
        static const struct {
                const char *key, *value;
                size_t len;
        } values[] = {
                {"path", "a\0b", 3},
                {"linkpath", "\0", 1},
                {"uid", "4294967296", 10},
                {"uid", "-1", 2},
                {"size", "0x10", 4},
                {"mtime", "now", 3},
                {"GNU.sparse.map", "1,2,x", 5},
                {"GNU.sparse.map", "1", 1},
                {"GNU.sparse.map", "5,5,1,1", 7},
                {"GNU.sparse.numbytes", "x", 1},
        };
        cas_cleanup_buf struct cas_buf t = CAS_BUF_INIT;
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                tarmake_extension(&t, 'x', bad[i], strlen(bad[i]));
                tarmake_file(&t, "f", "x");
                fails(&t, CAS_E_CORRUPT, "");
        }
        for (size_t i = 0; i < CAS_COUNT(values); i++) {
                cas_cleanup_buf struct cas_buf x = CAS_BUF_INIT;
                tarmake_record(&x, values[i].key, values[i].value, values[i].len);
                tarmake_extension(&t, 'x', x.data, x.len_bytes);
                tarmake_file(&t, "f", "x");
                fails(&t, CAS_E_CORRUPT, "");
        }
        cas_cleanup_buf struct cas_buf x = CAS_BUF_INIT;
        for (int i = 0; i < 3000; i++)
                tarmake_record(&x, "uid", "1", 1);
        tarmake_extension(&t, 'g', x.data, x.len_bytes);
        tarmake_extension(&t, 'g', x.data, x.len_bytes);
        fails(&t, CAS_E_LIMIT, "for all entries");
        tarmake_pax(&t, "GNU.sparse.major", "2");
        tarmake_file(&t, "f", "x");
        fails(&t, CAS_E_UNSUPPORTED, "format 2");
}

static void sparse_maps_must_fit(void **state)
{
        (void)state;
        static const struct {
                const char *map, *size, *stored, *content; /* content NULL: refused */
        } cases[] = {
                {"0,2,4,2", "8", "abcd", "2 f 644 0:0 0.000000000 [ab"},
                {"2,2", "4", "abcd", NULL},
                {"0,4", "3", "abcd", NULL},
                {"0,2,1,2", "8", "abcd", NULL},
                {"0,9223372036854775807,9223372036854775807,5", "8", "abcd", NULL},
                {"0,4", NULL, "abcd", NULL},
        };
        for (size_t i = 0; i < CAS_COUNT(cases); i++) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_buf struct cas_buf t = CAS_BUF_INIT;
                cas_cleanup_buf struct cas_buf x = CAS_BUF_INIT;
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                tarmake_record(&x, "GNU.sparse.map", cases[i].map, strlen(cases[i].map));
                if (cases[i].size)
                        tarmake_record(&x, "GNU.sparse.size", cases[i].size, strlen(cases[i].size));
                tarmake_extension(&t, 'x', x.data, x.len_bytes);
                tarmake_file(&t, "f", cases[i].stored);
                int ret = dump(&t, SIZE_MAX, &out, &err);
                assert_int_equal(ret, cases[i].content ? 0 : -CAS_E_CORRUPT);
                if (cases[i].content)
                        assert_memory_equal(out.data, cases[i].content, strlen(cases[i].content));
        }
        static const char *const maps_in_data[] = {
                "",         "x\n", "1\n0\n", "\n", "2\n0\n1\n0\n1\n", "99999999999999999999\n",
                "1000001\n"};
        for (size_t i = 0; i < CAS_COUNT(maps_in_data); i++) {
                cas_cleanup_buf struct cas_buf t = CAS_BUF_INIT;
                cas_cleanup_buf struct cas_buf x = CAS_BUF_INIT;
                tarmake_record(&x, "GNU.sparse.major", "1", 1);
                tarmake_record(&x, "GNU.sparse.realsize", "100", 3);
                tarmake_extension(&t, 'x', x.data, x.len_bytes);
                tarmake_file(&t, "f", maps_in_data[i]);
                fails(&t, CAS_E_CORRUPT, "sparse map");
        }
}

/* ---- the writer, and other people's programs ---- */

static char *repeat(const char *text, size_t count)
{
        cas_cleanup_buf struct cas_buf b = CAS_BUF_INIT;
        for (size_t i = 0; i < count; i++)
                cas_buf_append_str(&b, text);
        return cas_xstrdup(cas_buf_str(&b));
}

static void write_entry(struct cas_buf *tar, const struct cas_entry *e, const char *content)
{
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(cas_tarwrite_header(tar, e, &err), 0);
        cas_buf_append_str(tar, content);
        cas_tarwrite_padding(tar, strlen(content));
}

static void what_is_written_reads_back(void **state)
{
        (void)state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf want = CAS_BUF_INIT;
        cas_cleanup_free char *n100 = repeat("0123456789", 10);
        cas_cleanup_free char *split = cas_xasprintf("%s/%s/%s", "p", n100, n100);
        cas_cleanup_free char *whole = cas_xasprintf("%s%s/%s", n100, n100, n100);
        cas_cleanup_free char *unsplit = cas_xasprintf("%sx/y", whole);
        cas_cleanup_free char *name101 = cas_xasprintf("%sx", n100);
        const char *const paths[] = {"f", n100, split, whole, unsplit, name101};
        struct cas_entry root = {.type = CAS_ENTRY_DIR, .path = (char *)(uintptr_t) ""};
        write_entry(&tar, &root, "");
        cas_buf_printf(&want, "1 ./ 0 0:0 0.000000000\n");
        for (size_t i = 0; i < CAS_COUNT(paths); i++) {
                struct cas_entry e = {.type = CAS_ENTRY_FILE,
                                      .path = (char *)(uintptr_t)paths[i],
                                      .mode = 04755,
                                      .size_bytes = 3,
                                      .uid = UINT32_MAX - 1,
                                      .gid = 07777777,
                                      .mtime_s = (int64_t)i - 2,
                                      .mtime_ns = (uint32_t)i * 10};
                write_entry(&tar, &e, "abc");
                cas_buf_printf(&want, "2 %s 4755 4294967294:2097151 %" PRId64 ".%09u [abc]\n",
                               paths[i], e.mtime_s, e.mtime_ns);
                e.type = CAS_ENTRY_SYMLINK;
                e.target = e.path;
                write_entry(&tar, &e, "");
                cas_buf_printf(&want, "3 %s -> %s 4755 4294967294:2097151 %" PRId64 ".%09u\n",
                               paths[i], paths[i], e.mtime_s, e.mtime_ns);
        }
        struct cas_entry e = {.type = CAS_ENTRY_CHARDEV,
                              .path = (char *)(uintptr_t) "d/dev",
                              .dev_major = 511,
                              .dev_minor = 70000,
                              .mtime_s = INT64_C(1) << 40};
        assert_int_equal(cas_entry_set_xattr(&e, "user.\xff", "v\n", 2, &err), 0);
        write_entry(&tar, &e, "");
        cas_buf_printf(&want, "4 d/dev 0 0:0 1099511627776.000000000 511,70000 user.\xff=v\n\n");
        e.path = (char *)(uintptr_t) "x";
        assert_int_equal(cas_entry_set_xattr(&e, "user.a=b", "v", 1, &err), 0);
        assert_int_equal(cas_tarwrite_header(&tar, &e, &err), -CAS_E_INVALID);
        e.path = NULL;
        cas_entry_release(&e);
        e = (struct cas_entry){.path = (char *)(uintptr_t) "s"};
        e.type = CAS_ENTRY_SOCKET;
        assert_int_equal(cas_tarwrite_header(&tar, &e, &err), -CAS_E_INVALID);
        cas_tarwrite_end(&tar);
        reads_as(&tar, cas_buf_str(&want));
}

/* Runs a program with its output in a file; fails the test when it fails. */
static void run(const char *out_path, char *const argv[])
{
        pid_t pid = fork();
        if (pid == 0) {
                int fd = out_path ? open(out_path, O_WRONLY | O_CREAT | O_TRUNC, 0600) : -1;
                if (fd >= 0)
                        (void)dup2(fd, STDOUT_FILENO);
                (void)execvp(argv[0], argv);
                _exit(127);
        }
        int status = 1;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

static void make_file(const char *dir, const char *name, const uint64_t *at, size_t count,
                      uint64_t size)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", dir, name);
        cas_cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0640);
        uint8_t data[5000];
        assert_true(fd >= 0);
        for (size_t i = 0; i < count; i++) {
                memset(data, (int)('a' + i), sizeof(data));
                assert_int_equal(pwrite(fd, data, sizeof(data), (off_t)at[i]), sizeof(data));
        }
        assert_int_equal(ftruncate(fd, (off_t)size), 0);
        const struct timespec times[2] = {{.tv_sec = 1},
                                          {.tv_sec = 1600000000, .tv_nsec = 123456789}};
        assert_int_equal(futimens(fd, times), 0);
}

/* What dump() has to print of a file of make_file(). */
static void expect_file(const char *dir, const char *name, const char *time, struct cas_buf *want)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf content = CAS_BUF_INIT;
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", dir, name);
        struct cas_hash hash;
        char hex[CAS_HASH_HEX_BYTES];
        assert_int_equal(cas_io_read_file(cas_io_posix(), AT_FDCWD, path, 10 << 20, &content, &err),
                         0);
        cas_sha256(content.data, content.len_bytes, &hash);
        cas_buf_printf(want, "2 %s 640 1:2 %s %zu:%s\n", name, time, content.len_bytes,
                       cas_hash_hex(&hash, hex));
}

static void gnu_tar_writes_what_we_read(void **state)
{
        (void)state;
        static const char *const options[][3] = {
                {"--format=v7", "", "0"},
                {"--format=oldgnu", "", "0"},
                {"--format=gnu", "", "0"},
                {"--format=ustar", "", "0"},
                {"--format=posix", "", "123456789"},
                {"--format=oldgnu", "--sparse", "0"},
                {"--format=gnu", "--sparse", "0"},
                {"--format=posix", "--sparse-version=0.0", "123456789"},
                {"--format=posix", "--sparse-version=0.1", "123456789"},
                {"--format=posix", "--sparse-version=1.0", "123456789"},
        };
        char *dir = scratch_new();
        uint64_t at[40];
        for (size_t i = 0; i < CAS_COUNT(at); i++)
                at[i] = i * 50000;
        make_file(dir, "dense", (uint64_t[]){0, 5000}, 2, 10000);
        make_file(dir, "head", at, 1, 3000000);
        make_file(dir, "hole", NULL, 0, 3000000);
        make_file(dir, "many", at, CAS_COUNT(at), 2000000);
        make_file(dir, "tail", (uint64_t[]){2000000}, 1, 2005000);
        cas_cleanup_free char *tar_path = cas_xasprintf("%s.tar", dir);
        for (size_t i = 0; i < CAS_COUNT(options); i++) {
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
                cas_cleanup_buf struct cas_buf want = CAS_BUF_INIT;
                cas_cleanup_free char *time =
                        cas_xasprintf("1600000000.%09lu", strtoul(options[i][2], NULL, 10));
                const char *sparse = options[i][1][0] ? "--sparse" : "--no-recursion";
                const char *version = options[i][1][0] ? options[i][1] : sparse;
                const char *const argv[] = {"tar",  "-C",    dir,         options[i][0],
                                            sparse, version, "--owner=1", "--group=2",
                                            "-cf",  "-",     "dense",     "head",
                                            "hole", "many",  "tail",      NULL};
                run(tar_path, (char *const *)(uintptr_t)argv);
                assert_int_equal(
                        cas_io_read_file(cas_io_posix(), AT_FDCWD, tar_path, 20 << 20, &tar, &err),
                        0);
                static const char *const names[] = {"dense", "head", "hole", "many", "tail"};
                for (size_t n = 0; n < CAS_COUNT(names); n++)
                        expect_file(dir, names[n], time, &want);
                if (options[i][1][0]) /* or the file system has no holes, and this tests nothing */
                        assert_true(tar.len_bytes < 2000000);
                cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
                assert_int_equal(dump(&tar, 1000, &out, &err), 0);
                assert_string_equal(cas_buf_str(&out), cas_buf_str(&want));
        }
        (void)unlink(tar_path);
        scratch_free(dir);
}

static void gnu_tar_reads_what_we_write(void **state)
{
        (void)state;
        char *dir = scratch_new();
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        cas_cleanup_free char *name = repeat("long-name-", 20);
        cas_cleanup_free char *path = cas_xasprintf("d/%s/%s", name, name);
        struct cas_entry e = {.type = CAS_ENTRY_FILE,
                              .path = path,
                              .mode = 0600,
                              .size_bytes = 3,
                              .mtime_s = 1600000000,
                              .mtime_ns = 123456700};
        write_entry(&tar, &e, "abc");
        struct cas_entry link = {
                .type = CAS_ENTRY_HARDLINK, .path = (char *)(uintptr_t) "link", .target = path};
        write_entry(&tar, &link, "");
        cas_tarwrite_end(&tar);
        cas_cleanup_free char *tar_path = cas_xasprintf("%s/in.tar", dir);
        cas_cleanup_fd int fd = open(tar_path, O_WRONLY | O_CREAT, 0600);
        assert_int_equal(write(fd, tar.data, tar.len_bytes), tar.len_bytes);
        const char *const argv[] = {"tar", "-C", dir, "--no-same-owner", "-xf", tar_path, NULL};
        run(NULL, (char *const *)(uintptr_t)argv);
        struct stat st;
        cas_cleanup_free char *link_path = cas_xasprintf("%s/link", dir);
        assert_int_equal(stat(link_path, &st), 0);
        assert_int_equal(st.st_size, 3);
        assert_int_equal(st.st_nlink, 2);
        assert_int_equal(st.st_mtim.tv_sec, 1600000000);
        assert_int_equal(st.st_mtim.tv_nsec, 123456700);
        scratch_free(dir);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_type_of_header_is_read),
                cmocka_unit_test(v7_and_star_headers_are_read),
                cmocka_unit_test(numbers_have_many_forms),
                cmocka_unit_test(checksums_may_be_of_signed_bytes),
                cmocka_unit_test(pax_records_overrule_the_header),
                cmocka_unit_test(global_records_hold_until_overruled),
                cmocka_unit_test(pax_times_keep_their_sign),
                cmocka_unit_test(gnu_headers_are_read),
                cmocka_unit_test(archives_may_end_in_several_ways),
                cmocka_unit_test(damage_is_found),
                cmocka_unit_test(bad_pax_records_are_refused),
                cmocka_unit_test(sparse_maps_must_fit),
                cmocka_unit_test(what_is_written_reads_back),
                cmocka_unit_test(gnu_tar_writes_what_we_read),
                cmocka_unit_test(gnu_tar_reads_what_we_write),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
