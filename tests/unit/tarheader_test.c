/* SPDX-License-Identifier: Apache-2.0 */
/* What is foretold of header blocks. It is format: the digests here never change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/tarheader_int.h"
#include "tests/support/tarmake.h"

static void check_digest(const struct cas_buf *bytes, const char *want)
{
        struct cas_hash h;
        char hex[CAS_HASH_HEX_BYTES];
        cas_sha256(bytes->data, bytes->len_bytes, &h);
        assert_string_equal(cas_hash_hex(&h, hex), want);
}

static const char long_path[] = "usr/lib/node_modules/a-package-with-a-long-name/node_modules/"
                                "another-package/dist/some/more/directories/until-it-is-long.js";

static const struct cas_entry entries[] = {
        {.type = CAS_ENTRY_DIR, .path = (char *)"", .mode = 0755, .mtime_s = 1},
        {.type = CAS_ENTRY_DIR, .path = (char *)"usr/bin", .mode = 01777, .uid = 5, .gid = 6},
        {.type = CAS_ENTRY_FILE,
         .path = (char *)"usr/bin/tool",
         .mode = 04755,
         .mtime_s = 1700000000,
         .size_bytes = 123456789},
        {.type = CAS_ENTRY_FILE, .path = (char *)long_path, .mode = 0644, .uid = 3000000},
        {.type = CAS_ENTRY_FILE, .path = (char *)"big", .mode = 0600, .size_bytes = 1ULL << 40},
        {.type = CAS_ENTRY_SYMLINK,
         .path = (char *)"sh",
         .target = (char *)"/bin/bash",
         .mode = 0777},
        {.type = CAS_ENTRY_HARDLINK, .path = (char *)"z", .target = (char *)"usr/bin/tool"},
        {.type = CAS_ENTRY_CHARDEV, .path = (char *)"null", .dev_major = 1, .dev_minor = 3},
        {.type = CAS_ENTRY_BLOCKDEV, .path = (char *)"disk", .dev_major = 8, .mtime_s = -5},
        {.type = CAS_ENTRY_FIFO, .path = (char *)"fifo", .mode = 0644},
        {.type = CAS_ENTRY_WHITEOUT, .path = (char *)"usr/gone"},
        {.type = CAS_ENTRY_WHITEOUT, .path = (char *)"gone"},
};

static void foretell_all(const struct cas_tarheader_model *m, struct cas_buf *out)
{
        uint8_t block[CAS_TAR_BLOCK_BYTES];
        for (size_t i = 0; i < CAS_COUNT(entries); i++) {
                cas_tarheader_foretell(m, &entries[i], block);
                cas_tarheader_set_checksum(block);
                assert_true(cas_tar_block_valid(block));
                cas_buf_append(out, block, sizeof(block));
        }
        cas_tarheader_foretell(m, NULL, block);
        cas_buf_append(out, block, sizeof(block));
}

static void first_headers(void **state CAS_UNUSED)
{
        const struct cas_tarheader_model none = {0};
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        foretell_all(&none, &out);
        check_digest(&out, "a50c0978ce579df6a44fcb461732fd622eb956006ddb4178a918cc17e58d7822");
}

/* After headers of each style that is met: whose names begin with "./", whose numbers are padded
 * with spaces, GNU's magic, numbers of other widths. */
static void headers_after_others(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        for (unsigned style = 0; style < 4; style++) {
                struct cas_tarheader_model m = {0};
                cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
                struct tarmake h = {.name = style & 1 ? "./x" : "/x", .mode = 0644};
                if (style & 2) {
                        h.magic = "ustar  ";
                        h.patch_at = 100;
                        h.patch_bytes = 8;
                        h.patch = style & 1 ? "   644 " : "0100644";
                }
                tarmake_header(&tar, &h);
                cas_tarheader_learn(&m, &entries[2], tar.data);
                foretell_all(&m, &out);
        }
        check_digest(&out, "2dd8be9d38b50832471f7e32b86da68c1adb14a36da729ce1f226f1570bcc4d2");
}

/* Every header that the model has learned is foretold when it comes again. */
static void what_was_learned_is_foretold(void **state CAS_UNUSED)
{
        struct cas_tarheader_model m = {0};
        for (unsigned round = 0; round < 2; round++)
                for (size_t i = 0; i < CAS_COUNT(entries); i++) {
                        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
                        uint8_t block[CAS_TAR_BLOCK_BYTES];
                        char name[120], link[120];
                        const struct cas_entry *e = &entries[i];
                        bool white = e->type == CAS_ENTRY_WHITEOUT, dir = e->type == CAS_ENTRY_DIR;
                        if (e->path == long_path || e->size_bytes >> 33 || e->mtime_s < 0)
                                continue; /* not as tarmake writes them */
                        const char *base = strrchr(e->path, '/');
                        base = base ? base + 1 : e->path;
                        (void)snprintf(name, sizeof(name), "./%.*s%s%s%s", (int)(base - e->path),
                                       e->path, white ? ".wh." : "", base,
                                       dir && e->path[0] ? "/" : "");
                        (void)snprintf(link, sizeof(link), "%s%s",
                                       e->type == CAS_ENTRY_HARDLINK ? "./" : "",
                                       e->target ? e->target : "");
                        tarmake_header(&tar, &(struct tarmake){.name = name,
                                                               .link = e->target ? link : NULL,
                                                               .type = "0501234610"[e->type],
                                                               .size = e->size_bytes,
                                                               .mode = e->mode,
                                                               .uid = e->uid,
                                                               .gid = e->gid,
                                                               .mtime = (uint64_t)e->mtime_s,
                                                               .major = e->dev_major,
                                                               .minor = e->dev_minor});
                        if (round == 1) {
                                cas_tarheader_foretell(&m, e, block);
                                cas_tarheader_set_checksum(block);
                                assert_memory_equal(block, tar.data, sizeof(block));
                        }
                        cas_tarheader_learn(&m, e, tar.data);
                }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(first_headers),
                cmocka_unit_test(headers_after_others),
                cmocka_unit_test(what_was_learned_is_foretold),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
