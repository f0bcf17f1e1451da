/* SPDX-License-Identifier: Apache-2.0 */
/* Views: what stacked trees show is what the flat tree of the same layers shows, whoever asks in
 * whatever order. LAMINA_SEED repeats the random part. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>

#include "tests/support/view_text.h"

#define ROUNDS 150
#define LAYERS_MAX 4
#define LAYERS(...) ((const char *const[LAYERS_MAX + 1]){__VA_ARGS__, NULL})

static struct ffs_view *view_of(const char *const *layers, size_t base)
{
        struct cas_err err = CAS_ERR_INIT;
        struct ffs_view *v;
        if (view_of_text(layers, base, &v, &err) < 0)
                fail_msg("%s", err.msg);
        return v;
}

static uint64_t vid_at(const struct ffs_view *v, const char *path)
{
        struct cas_err err = CAS_ERR_INIT;
        uint64_t vid;
        if (ffs_view_path(v, path, &vid, &err) < 0)
                fail_msg("%s: %s", path, err.msg);
        return vid;
}

static void expect_no_path(const struct ffs_view *v, const char *path, enum cas_code code)
{
        struct cas_err err = CAS_ERR_INIT;
        uint64_t vid;
        assert_int_equal(ffs_view_path(v, path, &vid, &err), -(int)code);
}

static const char *const stack[] = {
        "d a 711 1 2 3\nf a/low =x\nf a/both =below\nd b 755\nf b/gone =x\nd b/deep 755\n"
        "f b/deep/f 1000\nd c 755\nf c/hidden =x\nh c/hard b/deep/f\nf dir_then_file =x\n",
        "d a 700 5 6 7\nf a/both =above\nf a/top 70\nw b/gone\nd c 755 opaque\nf c/new =y\n"
        "w dir_then_file\nd dir_then_file 755\nf dir_then_file/in =z\nf b/deep/g =g\n",
        NULL};

static void stacked_trees_merge(void **state CAS_UNUSED)
{
        cas_cleanup_free char *flat = NULL, *stacked = NULL;
        ffs_cleanup_view struct ffs_view *one = view_of(stack, 0), *two = view_of(stack, 1);
        assert_int_equal(ffs_view_tree_count(one), 1);
        assert_int_equal(ffs_view_tree_count(two), 2);
        flat = view_to_text(one);
        stacked = view_to_text(two);
        assert_string_equal(flat, stacked);
        assert_non_null(strstr(flat, "/a/both 100644 0 0 1 0.0 5 \"above\"\n"));
        assert_null(strstr(flat, "gone"));
        assert_null(strstr(flat, "hidden"));
        /* What lies below only has the vid of the tree below. */
        assert_true(vid_at(two, "a/low") >> 40 == 1);
        assert_true(vid_at(two, "/a") >> 40 == 0);
        expect_no_path(two, "b/gone", CAS_E_NOTFOUND);
        expect_no_path(two, "b/gone/x", CAS_E_NOTFOUND);
        expect_no_path(two, "a/low/x", CAS_E_INVALID);
        expect_no_path(two, "a//low", CAS_E_INVALID);
        expect_no_path(two, "a/./low", CAS_E_INVALID);
        expect_no_path(two, "a/../b", CAS_E_INVALID);
        expect_no_path(two, "a/", CAS_E_INVALID);
        assert_true(vid_at(two, "") == ffs_view_root(two));
        assert_true(vid_at(two, "/") == ffs_view_root(two));
}

/* A successor is asked about directories that only its predecessor found by name. */
static void unknown_directories_are_found(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        ffs_cleanup_view struct ffs_view *first = view_of(stack, 1), *second = view_of(stack, 1);
        uint64_t deep = vid_at(first, "b/deep"), f = vid_at(first, "b/deep/f"), got = 0;
        assert_true(deep >> 40 == 0);
        assert_int_equal(ffs_view_lookup(second, deep, "f", 1, &got, &err), 0);
        assert_true(got == f);
        assert_int_equal(ffs_view_lookup(second, f, "f", 1, &got, &err), -CAS_E_INVALID);
        assert_int_equal(ffs_view_lookup(second, UINT64_C(3) << 40, "f", 1, &got, &err),
                         -CAS_E_CORRUPT);
        assert_int_equal(ffs_view_lookup(second, UINT64_C(1) << 39, "f", 1, &got, &err),
                         -CAS_E_CORRUPT);
        assert_int_equal(ffs_view_lookup(second, FFS_VID_NONE, "f", 1, &got, &err), -CAS_E_CORRUPT);
}

struct slow {
        unsigned take;
        struct cas_buf names;
        uint64_t cookie;
};

static bool take_some(void *arg, const char *name, size_t len, uint64_t vid CAS_UNUSED,
                      uint8_t type CAS_UNUSED, uint64_t next)
{
        struct slow *s = arg;
        if (s->take-- == 0)
                return false;
        cas_buf_printf(&s->names, "%.*s ", (int)len, name);
        s->cookie = next;
        return true;
}

/* A listing goes on at the refused entry, or at the cookie that was given for the next. */
static void listing_in_pieces(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        ffs_cleanup_view struct ffs_view *v = view_of(stack, 1);
        uint64_t a = vid_at(v, "a");
        for (unsigned step = 1; step < 5; step++) {
                cas_cleanup_buf struct cas_buf by_refusal = CAS_BUF_INIT, by_next = CAS_BUF_INIT;
                struct slow s = {0};
                uint64_t cookie = 0;
                do {
                        s.take = step;
                        assert_int_equal(ffs_view_readdir(v, a, &cookie, take_some, &s, &err), 0);
                        assert_true(cookie < UINT64_C(1) << 62);
                } while (s.take == UINT32_MAX);
                by_refusal = s.names;
                s = (struct slow){0};
                do {
                        s.take = step;
                        cookie = s.cookie;
                        assert_int_equal(ffs_view_readdir(v, a, &cookie, take_some, &s, &err), 0);
                } while (s.take == UINT32_MAX);
                by_next = s.names;
                assert_string_equal(cas_buf_str(&by_refusal), "both top low ");
                assert_string_equal(cas_buf_str(&by_next), "both top low ");
        }
        struct slow s = {.take = 9};
        uint64_t odd = UINT64_MAX;
        assert_int_equal(ffs_view_readdir(v, a, &odd, take_some, &s, &err), 0);
        assert_int_equal(s.take, 9);
}

static bool append_path(void *arg, const char *path)
{
        cas_buf_printf(arg, "%s ", path);
        return true;
}

static bool one_path(void *arg, const char *path)
{
        (void)append_path(arg, path);
        return false;
}

static void links_have_all_names(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        for (size_t base = 0; base < 2; base++) {
                cas_cleanup_buf struct cas_buf names = CAS_BUF_INIT, one = CAS_BUF_INIT;
                ffs_cleanup_view struct ffs_view *v =
                        view_of(LAYERS("f x/f 100\nh a x/f\nd x/y 755\nh x/y/z x/f\nf single 100\n",
                                       "f other 100\n"),
                                base);
                uint64_t vid = vid_at(v, "x/y/z");
                assert_int_equal(ffs_view_links(v, vid, append_path, &names, &err), 0);
                assert_string_equal(cas_buf_str(&names), "a x/f x/y/z ");
                assert_int_equal(ffs_view_links(v, vid, one_path, &one, &err), 0);
                assert_string_equal(cas_buf_str(&one), "a ");
                cas_buf_clear(&one);
                assert_int_equal(ffs_view_links(v, vid_at(v, "single"), append_path, &one, &err),
                                 0);
                assert_int_equal(one.len_bytes, 0);
        }
}

static void numbers_differ(void **state CAS_UNUSED)
{
        ffs_cleanup_view struct ffs_view *v = view_of(stack, 1), *again = view_of(stack, 1);
        assert_true(ffs_view_ino(v, vid_at(v, "a")) == ffs_view_ino(again, vid_at(again, "a")));
        assert_true(ffs_view_ino(v, vid_at(v, "a")) != ffs_view_ino(v, vid_at(v, "b")));
        /* The same nid in two trees. */
        assert_true(ffs_view_ino(v, 40) != ffs_view_ino(v, (UINT64_C(1) << 40) + 40));
        assert_true(ffs_view_ino(v, 40) >> 63 == 0);
}

/* ---- threads ---- */

#define THREADS 4

static void *read_all(void *arg)
{
        return view_to_text(arg);
}

static void threads_agree(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        pthread_t threads[THREADS];
        ffs_cleanup_view struct ffs_view *v = view_of(stack, 1), *alone = view_of(stack, 1);
        uint64_t deep = vid_at(alone, "b/deep"), got;
        cas_cleanup_free char *want = view_to_text(alone);
        for (size_t i = 0; i < THREADS; i++)
                assert_int_equal(pthread_create(&threads[i], NULL, read_all, v), 0);
        assert_int_equal(ffs_view_lookup(v, deep, "f", 1, &got, &err), 0);
        for (size_t i = 0; i < THREADS; i++) {
                void *text;
                assert_int_equal(pthread_join(threads[i], &text), 0);
                assert_string_equal(text, want);
                free(text);
        }
}

/* ---- random chains ---- */

static uint64_t random_state;

static unsigned draw(unsigned below)
{
        random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        return (unsigned)(random_state >> 33) % below;
}

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
        for (unsigned i = draw(10) + 1; i > 0; i--) {
                char path[16], other[16];
                draw_path(path);
                draw_path(other);
                switch (draw(8)) {
                case 0:
                case 1:
                        cas_buf_printf(out, "d %s %o %u\nx user.k%u v\n", path, 0700 + draw(64),
                                       draw(3), draw(3));
                        break;
                case 2:
                        cas_buf_printf(out, "d %s 755 opaque\n", path);
                        break;
                case 3:
                        cas_buf_printf(out, "w %s\n", path);
                        break;
                case 4:
                        cas_buf_printf(out, "h %s %s%s\n", path, other, draw(2) ? " below" : "");
                        break;
                case 5:
                        cas_buf_printf(out, "c %s 0 0\n", path);
                        break;
                default:
                        cas_buf_printf(out, "f %s %u 644 0 0 %u\n", path, draw(2) ? 10 : 100,
                                       draw(1000));
                }
        }
}

/* False: the layers do not go together. */
static bool run_round(void)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_buf texts[LAYERS_MAX] = {0};
        const char *layers[LAYERS_MAX + 1] = {NULL};
        ffs_cleanup_view struct ffs_view *one = NULL, *two = NULL;
        size_t cut = draw(LAYERS_MAX - 1) + 1;
        for (size_t i = 0; i < LAYERS_MAX; i++) {
                draw_layer(&texts[i]);
                layers[i] = cas_buf_str(&texts[i]);
        }
        bool good = view_of_text(layers, 0, &one, &err) == 0;
        if (!good)
                assert_int_equal(err.code, CAS_E_INVALID);
        if (good && view_of_text(layers, cut, &two, &err) < 0)
                fail_msg("%s", err.msg);
        if (good) {
                cas_cleanup_free char *flat = view_to_text(one);
                cas_cleanup_free char *stacked = view_to_text(two);
                for (size_t i = 0; strcmp(flat, stacked) != 0 && i < LAYERS_MAX; i++)
                        (void)printf("layer %zu, cut at %zu:\n%s", i, cut, layers[i]);
                assert_string_equal(flat, stacked);
        }
        for (size_t i = 0; i < LAYERS_MAX; i++)
                cas_buf_release(&texts[i]);
        return good;
}

static void random_stacks_equal_flat(void **state CAS_UNUSED)
{
        const char *seed = getenv("LAMINA_SEED");
        random_state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
        (void)printf("LAMINA_SEED=%llu\n", (unsigned long long)random_state);
        for (unsigned good = 0; good < ROUNDS;)
                good += run_round();
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(stacked_trees_merge),
                cmocka_unit_test(unknown_directories_are_found),
                cmocka_unit_test(listing_in_pieces),
                cmocka_unit_test(links_have_all_names),
                cmocka_unit_test(numbers_differ),
                cmocka_unit_test(threads_agree),
                cmocka_unit_test(random_stacks_equal_flat),
        };
        return cmocka_run_group_tests_name("view", tests, NULL, NULL);
}
