/* SPDX-License-Identifier: Apache-2.0 */
/* Random chains of layers, cut anywhere: the kernel shows of the stacked trees what it shows of
 * the flat one. LAMINA_SEED repeats a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <time.h>

#include "tests/support/kernel_tree.h"
#include "tests/support/listing_text.h"

#define ROUNDS 60
#define LAYERS 4

static uint64_t random_state;

static unsigned draw(unsigned below)
{
        random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        return (unsigned)(random_state >> 33) % below;
}

/* A path of up to three names out of four. */
static void draw_path(char out[16])
{
        size_t len = 0;
        for (unsigned depth = draw(3) + 1; depth > 0; depth--) {
                if (len > 0)
                        out[len++] = '/';
                out[len++] = (char)('m' + draw(4));
        }
        out[len] = '\0';
}

static void draw_layer(struct cas_buf *out)
{
        for (unsigned i = draw(8) + 1; i > 0; i--) {
                char path[16], other[16];
                draw_path(path);
                draw_path(other);
                switch (draw(9)) {
                case 0:
                case 1:
                        cas_buf_printf(out, "d %s %o %u %u %u\n", path, 0700 + draw(64), draw(3),
                                       draw(3), draw(1000));
                        break;
                case 2:
                        cas_buf_printf(out, "d %s 755 opaque\n", path);
                        break;
                case 3:
                        cas_buf_printf(out, "d %s 755 opaque implied\n", path);
                        break;
                case 4:
                        cas_buf_printf(out, "w %s\n", path);
                        break;
                case 5:
                        cas_buf_printf(out, "h %s %s%s\n", path, other, draw(2) ? " below" : "");
                        break;
                case 6:
                        cas_buf_printf(out, "l %s /%s\n", path, other);
                        break;
                default:
                        cas_buf_printf(out, "f %s %u 644 0 0 %u\n", path, draw(2) ? 10 : 100,
                                       draw(1000));
                        if (draw(3) == 0)
                                cas_buf_printf(out, "x user.k%u v\n", draw(3));
                }
        }
}

static void image_write(const struct cas_merge *m, bool stacked, struct cas_buf *out)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_tree_options options = {.stacked = stacked};
        if (cas_merge_write_erofs(m, &options, out, NULL, &err) < 0)
                fail_msg("%s", err.msg);
}

/* Layers that do not go together are drawn again. */
static void add_layer(struct cas_merge **m, struct cas_buf *texts, unsigned count, unsigned cut)
{
        for (;;) {
                struct cas_err err = CAS_ERR_INIT;
                cas_buf_clear(&texts[count]);
                draw_layer(&texts[count]);
                if (merge_text(*m, cas_buf_str(&texts[count]), &err) == 0)
                        return;
                assert_int_equal(err.code, CAS_E_INVALID);
                cas_merge_free(*m); /* half of the layer is in it */
                *m = cas_merge_new();
                for (unsigned i = 0; i < count; i++) {
                        assert_int_equal(merge_text(*m, cas_buf_str(&texts[i]), &err), 0);
                        if (i + 1 == cut)
                                assert_int_equal(cas_merge_mark_base(*m, &err), 0);
                }
        }
}

static void run_round(unsigned number)
{
        struct cas_buf texts[LAYERS] = {0};
        cas_cleanup_buf struct cas_buf flat = CAS_BUF_INIT, top = CAS_BUF_INIT, base = CAS_BUF_INIT;
        struct cas_merge *m = cas_merge_new();
        struct cas_err err = CAS_ERR_INIT;
        unsigned cut = draw(LAYERS - 1) + 1;
        for (unsigned i = 0; i < LAYERS; i++) {
                add_layer(&m, texts, i, cut);
                if (i + 1 == cut) {
                        image_write(m, false, &base);
                        assert_int_equal(cas_merge_mark_base(m, &err), 0);
                }
        }
        image_write(m, false, &flat);
        image_write(m, true, &top);
        cas_merge_free(m);
        const struct cas_buf *one[] = {&flat}, *two[] = {&top, &base};
        cas_cleanup_free char *by_one = kernel_tree_overlay(one, 1);
        cas_cleanup_free char *by_two = kernel_tree_overlay(two, 2);
        assert_non_null(by_one);
        assert_non_null(by_two);
        if (strcmp(by_one, by_two) != 0) {
                (void)printf("round %u, cut at %u\n", number, cut);
                for (unsigned i = 0; i < LAYERS; i++)
                        (void)printf("layer %u:\n%s", i, cas_buf_str(&texts[i]));
        }
        assert_string_equal(by_one, by_two);
        for (unsigned i = 0; i < LAYERS; i++)
                cas_buf_release(&texts[i]);
}

static void stacked_equals_flat(void **state CAS_UNUSED)
{
        if (!kernel_tree_possible())
                skip();
        const char *seed = getenv("LAMINA_SEED");
        random_state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
        (void)printf("LAMINA_SEED=%llu\n", (unsigned long long)random_state);
        for (unsigned i = 0; i < ROUNDS; i++)
                run_round(i);
}

int main(void)
{
        const struct CMUnitTest tests[] = {cmocka_unit_test(stacked_equals_flat)};
        return cmocka_run_group_tests_name("tree_stack", tests, NULL, NULL);
}
