/* SPDX-License-Identifier: Apache-2.0 */
/* Whole streams of pigz, put together from runs of the class "zlib"
 * (tests/golden/deflate/pigz.txt: mode, level, block size, sample kind, seed, length, output
 * length, SHA-256 of the deflate stream). */
#include "cas/deflate/encoder.h"
#include "cas/digest.h"
#include "tests/support/deflatesample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define DICTIONARY_BYTES 32768

/* Each block is a run of its own, with what came before as its dictionary. */
static void by_threads(struct cas_deflate_encoder *e, const struct cas_buf *in, size_t block,
                       struct cas_buf *out)
{
        for (size_t at = 0, n; at == 0 || at < in->len_bytes; at += n) {
                size_t known = at < DICTIONARY_BYTES ? at : DICTIONARY_BYTES;
                n = cas_min_u64(block, in->len_bytes - at);
                e->ops->begin(e, in->data + at - known, known);
                e->ops->write(e, in->data + at, n, out);
                bool is_last = at + n == in->len_bytes;
                e->ops->end(e, is_last ? CAS_DEFLATE_END_FINISH : CAS_DEFLATE_END_PIGZ, out);
                if (is_last)
                        break;
        }
}

/* pigz -p 1: one run. */
static void by_one(struct cas_deflate_encoder *e, const struct cas_buf *in, size_t block,
                   struct cas_buf *out)
{
        e->ops->begin(e, NULL, 0);
        for (size_t at = 0, n; at < in->len_bytes; at += n) {
                n = cas_min_u64(block, in->len_bytes - at);
                e->ops->write(e, in->data + at, n, out);
                if (at + n < in->len_bytes)
                        e->ops->end(e, CAS_DEFLATE_END_PIGZ, out);
        }
        e->ops->end(e, CAS_DEFLATE_END_FINISH, out);
}

/* pigz -i: every block is a run that knows nothing, with two markers behind it. */
static void independently(struct cas_deflate_encoder *e, const struct cas_buf *in, size_t block,
                          struct cas_buf *out)
{
        for (size_t at = 0;;) {
                size_t n = cas_min_u64(block, in->len_bytes - at);
                e->ops->begin(e, NULL, 0);
                e->ops->write(e, in->data + at, n, out);
                at += n;
                if (at == in->len_bytes)
                        break;
                e->ops->end(e, CAS_DEFLATE_END_SYNC, out);
                e->ops->end(e, CAS_DEFLATE_END_FULL, out);
        }
        e->ops->end(e, CAS_DEFLATE_END_FINISH, out);
}

static void check_line(const char *line)
{
        char mode[16], sha256[65], hex[65];
        int level, kind;
        unsigned seed;
        size_t block, len, out_len;
        struct cas_hash hash;
        cas_cleanup_buf struct cas_buf in = CAS_BUF_INIT, out = CAS_BUF_INIT;
        if (sscanf(line, "%15s %d %zu %d %u %zu %zu %64s", mode, &level, &block, &kind, &seed, &len,
                   &out_len, sha256) != 8)
                fail_msg("not a vector: %s", line);
        deflate_sample((enum deflate_sample)kind, seed, len, &in);
        cas_buf_reserve(&in, 1);
        const struct cas_deflate_class *class = cas_deflate_class_by_name("zlib");
        cas_cleanup_deflate_encoder struct cas_deflate_encoder *e = class->create(class, level);
        if (strcmp(mode, "threads") == 0)
                by_threads(e, &in, block, &out);
        else if (strcmp(mode, "one") == 0)
                by_one(e, &in, block, &out);
        else if (strcmp(mode, "independent") == 0)
                independently(e, &in, block, &out);
        else
                fail_msg("no such mode: %s", line);
        cas_sha256(out.data, out.len_bytes, &hash);
        for (unsigned i = 0; i < 32; i++)
                snprintf(hex + (size_t)2 * i, 3, "%02x", hash.bytes[i]);
        if (out.len_bytes != out_len || strcmp(hex, sha256) != 0)
                fail_msg("%zu bytes, %s; wanted:\n%s", out.len_bytes, hex, line);
}

static void streams(void **state CAS_UNUSED)
{
        char line[256];
        size_t count = 0;
        FILE *f = fopen("tests/golden/deflate/pigz.txt", "re");
        assert_non_null(f);
        for (; fgets(line, sizeof(line), f);) {
                if (line[0] == '#')
                        continue;
                check_line(line);
                count++;
        }
        fclose(f);
        assert_true(count > 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(streams),
        };
        return cmocka_run_group_tests_name("pigz_streams", tests, NULL, NULL);
}
