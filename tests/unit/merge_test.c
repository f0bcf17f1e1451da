/* SPDX-License-Identifier: Apache-2.0 */
/* Merging layers, one rule a test: layers as text in, the tree as text out, through the image
 * writer and reader. Stacked trees are checked against the flat tree of the same chain. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "tests/support/listing_text.h"

#define LAYERS_MAX 4

/* The image of some layers; base: how many of them lie below the cut (0: flat). */
static int image_of(const char *const *layers, size_t base, struct cas_buf *image,
                    struct cas_err *err)
{
        cas_cleanup_merge struct cas_merge *m = cas_merge_new();
        for (size_t i = 0; layers[i]; i++) {
                if (merge_text(m, layers[i], err) < 0)
                        return -(int)err->code;
                if (i + 1 == base && cas_merge_mark_base(m, err) < 0)
                        return -(int)err->code;
        }
        const struct cas_tree_options options = {.stacked = base > 0};
        return cas_merge_write_erofs(m, &options, image, NULL, err);
}

static char *text_of(const char *const *layers, size_t base)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf image = CAS_BUF_INIT, text = CAS_BUF_INIT;
        if (image_of(layers, base, &image, &err) < 0)
                fail_msg("%s", err.msg);
        cas_cleanup_tree struct cas_tree *t = NULL;
        if (cas_tree_open_mem(image.data, image.len_bytes, &t, &err) < 0)
                fail_msg("%s", err.msg);
        tree_to_text(t, &text);
        return cas_xstrdup(cas_buf_str(&text));
}

#define LAYERS(...) ((const char *const[LAYERS_MAX + 1]){__VA_ARGS__, NULL})

static void expect_tree(const char *const *layers, const char *want)
{
        cas_cleanup_free char *got = text_of(layers, 0);
        assert_string_equal(got, want);
}

static void expect_stacked(const char *const *layers, size_t base, const char *want)
{
        cas_cleanup_free char *got = text_of(layers, base);
        assert_string_equal(got, want);
}

static void expect_failure(const char *const *layers, enum cas_code code, const char *message)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf image = CAS_BUF_INIT;
        assert_int_equal(image_of(layers, 0, &image, &err), -(int)code);
        if (!strstr(err.msg, message))
                fail_msg("message \"%s\" lacks \"%s\"", err.msg, message);
}

#define ROOT(nlink) "/ d 755 0 0 " #nlink " 0.0 0\n"

static void empty_image_has_a_default_root(void **state CAS_UNUSED)
{
        expect_tree(LAYERS(""), ROOT(2));
}

static void root_entry_sets_its_attributes(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("d . 700 1 2 3.4"), "/ d 700 1 2 2 3.4 0\n");
}

static void parents_are_implied(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f a/b/c =x"), ROOT(3) "/a d 755 0 0 3 0.0 0\n"
                                                  "/a/b d 755 0 0 2 0.0 0\n"
                                                  "/a/b/c f 644 0 0 1 0.0 1 \"x\"\n");
}

static void implied_parent_takes_a_later_entry(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f a/b =x\nd a 711 1 1 5"),
                    ROOT(3) "/a d 711 1 1 2 5.0 0\n/a/b f 644 0 0 1 0.0 1 \"x\"\n");
}

static void parent_of_a_lower_layer_keeps_its_attributes(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("d a 711 1 1 5", "f a/b =x"),
                    ROOT(3) "/a d 711 1 1 2 5.0 0\n/a/b f 644 0 0 1 0.0 1 \"x\"\n");
}

static void directory_over_directory_keeps_children(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("d a\nx user.old 1\nf a/b =x", "d a 700 1 1 9\nx user.new 2"),
                    ROOT(3) "/a d 700 1 1 2 9.0 0 user.new=2\n/a/b f 644 0 0 1 0.0 1 \"x\"\n");
}

static void file_replaces_directory(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f a/b/c =x", "f a =y"), ROOT(2) "/a f 644 0 0 1 0.0 1 \"y\"\n");
}

static void directory_replaces_file(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f a =y", "d a 700\nf a/b =x"),
                    ROOT(3) "/a d 700 0 0 2 0.0 0\n/a/b f 644 0 0 1 0.0 1 \"x\"\n");
}

static void directory_made_again_in_one_layer_is_empty(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("d a\nf a/b =x", "f a =y\nd a\nf a/c =z"),
                    ROOT(3) "/a d 755 0 0 2 0.0 0\n/a/c f 644 0 0 1 0.0 1 \"z\"\n");
}

static void implied_directory_replaces_a_lower_file(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f a =y", "f a/b =x"),
                    ROOT(3) "/a d 755 0 0 2 0.0 0\n/a/b f 644 0 0 1 0.0 1 \"x\"\n");
}

static void path_through_a_file_of_the_same_layer_is_invalid(void **state CAS_UNUSED)
{
        expect_failure(LAYERS("f a =y\nf a/b =x"), CAS_E_INVALID, "a/b: its path leads through");
}

static void whiteout_removes_a_lower_file(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f a =x\nf b =y", "w a"), ROOT(2) "/b f 644 0 0 1 0.0 1 \"y\"\n");
}

static void whiteout_removes_a_lower_subtree(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f a/b/c =x\nf a/d =y", "w a"), ROOT(2));
}

static void whiteout_of_nothing_does_nothing(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f a =x", "w b\nw c/d\nw a/e"), ROOT(2) "/a f 644 0 0 1 0.0 1 \"x\"\n");
}

static void whiteout_spares_its_own_layer_before_and_after_it(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f a =x\nf b =x", "f a =y\nw a\nw b\nf b =y"),
                    ROOT(2) "/a f 644 0 0 1 0.0 1 \"y\"\n/b f 644 0 0 1 0.0 1 \"y\"\n");
}

static void whiteout_and_directory_of_one_layer_make_it_opaque(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f a/b =x", "d a 700\nf a/c =y\nw a"),
                    ROOT(3) "/a d 700 0 0 2 0.0 0\n/a/c f 644 0 0 1 0.0 1 \"y\"\n");
}

static void opaque_directory_hides_lower_children_only(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f a/b =x\nf a/c/d =x", "f a/e =y\nd a 700 opaque\nf a/c/f =z"),
                    ROOT(3) "/a d 700 0 0 3 0.0 0\n/a/c d 755 0 0 2 0.0 0\n"
                            "/a/c/f f 644 0 0 1 0.0 1 \"z\"\n/a/e f 644 0 0 1 0.0 1 \"y\"\n");
}

static void implied_opaque_directory_keeps_lower_attributes(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("d a 700 1 1 7\nx user.k v\nf a/b =x", "d a 755 opaque implied"),
                    ROOT(3) "/a d 700 1 1 2 7.0 0 user.k=v\n");
}

static void implied_opaque_directory_is_not_made(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f b =x", "d a/c opaque implied\nd b opaque implied"),
                    ROOT(2) "/b f 644 0 0 1 0.0 1 \"x\"\n");
}

static void implied_opaque_mark_follows_a_lower_symlink(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("l a t\nd t 711\nf t/x =x", "d a opaque implied"),
                    ROOT(3) "/a l 777 0 0 1 0.0 1 \"t\"\n/t d 711 0 0 2 0.0 0\n");
}

static void opaque_root_hides_everything_below(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("d . 700 1 1 7\nf a/b =x\nf c =x", "d . 755 opaque implied\nf d =y"),
                    "/ d 700 1 1 2 7.0 0\n/d f 644 0 0 1 0.0 1 \"y\"\n");
}

static void hard_links_share_an_inode(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f b 100 600 1 2 3\nh a b\nd z\nh z/c a"),
                    ROOT(3) "/a f 600 1 2 3 3.0 100 @c75b43a91aec6a2e\n/b =/a\n"
                            "/z d 755 0 0 2 0.0 0\n/z/c =/a\n");
}

static void hard_link_to_a_lower_layer(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f a =x", "h b a below"),
                    ROOT(2) "/a f 644 0 0 2 0.0 1 \"x\"\n/b =/a\n");
}

static void hard_link_keeps_its_inode_when_the_target_is_replaced(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f a =x\nh b a", "f a =y"),
                    ROOT(2) "/a f 644 0 0 1 0.0 1 \"y\"\n/b f 644 0 0 1 0.0 1 \"x\"\n");
}

static void hard_link_count_falls_with_a_whiteout(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f a =x\nh b a\nh c/d a", "w c"),
                    ROOT(2) "/a f 644 0 0 2 0.0 1 \"x\"\n/b =/a\n");
}

static void hard_link_to_a_symlink_is_not_followed(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("l a nowhere\nh b a"),
                    ROOT(2) "/a l 777 0 0 2 0.0 7 \"nowhere\"\n/b =/a\n");
}

static void hard_link_to_nothing_is_invalid(void **state CAS_UNUSED)
{
        expect_failure(LAYERS("h b a"), CAS_E_INVALID, "b: hard link to a, which is not there");
        expect_failure(LAYERS("f a =x", "w a\nh b a"), CAS_E_INVALID, "not there");
        expect_failure(LAYERS("h b x/y/a"), CAS_E_INVALID, "not there");
}

static void hard_link_to_a_directory_is_invalid(void **state CAS_UNUSED)
{
        expect_failure(LAYERS("d a\nh b a"), CAS_E_INVALID, "hard link to the directory a");
}

static void hard_link_below_sees_what_its_layer_removes(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("f a =x\nf c =z", "w a\nh b a below\nf c =y\nh d c below\nh e c"),
                    ROOT(2) "/b f 644 0 0 1 0.0 1 \"x\"\n/c f 644 0 0 2 0.0 1 \"y\"\n"
                            "/d f 644 0 0 1 0.0 1 \"z\"\n/e =/c\n");
}

static void entry_under_a_lower_symlink_lands_in_its_target(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("l lib usr/lib\nd usr/lib 711", "f lib/x =x"),
                    ROOT(3) "/lib l 777 0 0 1 0.0 7 \"usr/lib\"\n/usr d 755 0 0 3 0.0 0\n"
                            "/usr/lib d 711 0 0 2 0.0 0\n/usr/lib/x f 644 0 0 1 0.0 1 \"x\"\n");
}

static void symlinks_in_paths_stay_inside_the_root(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("l a /t\nl b ../../../t\nd t", "f a/x =x\nf b/y =y"),
                    ROOT(3) "/a l 777 0 0 1 0.0 2 \"/t\"\n"
                            "/b l 777 0 0 1 0.0 10 \"../../../t\"\n/t d 755 0 0 2 0.0 0\n"
                            "/t/x f 644 0 0 1 0.0 1 \"x\"\n/t/y f 644 0 0 1 0.0 1 \"y\"\n");
}

static void dangling_symlink_in_a_path_makes_its_target(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("l a gone/../t/u", "f a/x =x"),
                    ROOT(3) "/a l 777 0 0 1 0.0 11 \"gone/../t/u\"\n"
                            "/t d 755 0 0 3 0.0 0\n/t/u d 755 0 0 2 0.0 0\n"
                            "/t/u/x f 644 0 0 1 0.0 1 \"x\"\n");
}

static void whiteout_and_hard_link_follow_parent_symlinks(void **state CAS_UNUSED)
{
        expect_tree(
                LAYERS("l lib usr/lib\nf usr/lib/x =x\nf usr/lib/y =y", "w lib/x\nh z lib/y below"),
                ROOT(3) "/lib l 777 0 0 1 0.0 7 \"usr/lib\"\n/usr d 755 0 0 3 0.0 0\n"
                        "/usr/lib d 755 0 0 2 0.0 0\n/usr/lib/y f 644 0 0 2 0.0 1 \"y\"\n"
                        "/z =/usr/lib/y\n");
}

static void last_component_is_never_followed(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("l a t\nf t/x =x\nl b t\nl c t", "d a 700\nw b\nf c =y"),
                    ROOT(4) "/a d 700 0 0 2 0.0 0\n/c f 644 0 0 1 0.0 1 \"y\"\n"
                            "/t d 755 0 0 2 0.0 0\n/t/x f 644 0 0 1 0.0 1 \"x\"\n");
}

static void symlink_loop_in_a_path_is_invalid(void **state CAS_UNUSED)
{
        expect_failure(LAYERS("l a b\nl b a", "f a/x =x"), CAS_E_INVALID, "symbolic links");
}

static void later_entries_see_a_replaced_parent(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("l a t\nd t", "f a/x =x\nd a\nf a/y =y"),
                    ROOT(4) "/a d 755 0 0 2 0.0 0\n/a/y f 644 0 0 1 0.0 1 \"y\"\n"
                            "/t d 755 0 0 2 0.0 0\n/t/x f 644 0 0 1 0.0 1 \"x\"\n");
}

static void special_files_keep_their_numbers(void **state CAS_UNUSED)
{
        expect_tree(LAYERS("c a 1 3 666\nb b 4095 1048575\np c\ns d\nc e 0 0 600"),
                    ROOT(2) "/a c 666 0 0 1 0.0 0 1:3\n/b b 644 0 0 1 0.0 0 4095:1048575\n"
                            "/c p 644 0 0 1 0.0 0\n/d s 644 0 0 1 0.0 0\n"
                            "/e c 600 0 0 1 0.0 0 0:0\n");
}

static void device_number_out_of_range_is_invalid(void **state CAS_UNUSED)
{
        expect_failure(LAYERS("c a 4096 0"), CAS_E_INVALID, "device number 4096:0");
        expect_failure(LAYERS("b a 0 1048576"), CAS_E_INVALID, "device number");
}

static void nesting_has_a_limit(void **state CAS_UNUSED)
{
        cas_cleanup_buf struct cas_buf path = CAS_BUF_INIT;
        cas_buf_append_str(&path, "d a");
        for (unsigned i = 0; i < CAS_TREE_DEPTH_MAX; i++)
                cas_buf_append_str(&path, "/a");
        expect_failure(LAYERS(cas_buf_str(&path)), CAS_E_LIMIT, "nested deeper");
}

static void link_work_has_a_limit(void **state CAS_UNUSED)
{
        /* 250 links of 4000 bytes in each path: 100 entries would walk 100 MB of text */
        cas_cleanup_buf struct cas_buf lower = CAS_BUF_INIT, upper = CAS_BUF_INIT;
        for (unsigned i = 0; i < 250; i++) {
                cas_buf_printf(&lower, "l s%u ", i);
                for (unsigned k = 0; k < 2000; k++)
                        cas_buf_append_str(&lower, "./");
                cas_buf_printf(&lower, "s%u\n", i + 1);
        }
        cas_buf_append_str(&lower, "d s250\n");
        for (unsigned i = 0; i < 100; i++)
                cas_buf_printf(&upper, "f s0/d%u/x =x\n", i);
        expect_failure(LAYERS(cas_buf_str(&lower), cas_buf_str(&upper)), CAS_E_LIMIT,
                       "too many symbolic links");
}

/* ---- stacked ---- */

static void stacked_holds_only_what_changed(void **state CAS_UNUSED)
{
        expect_stacked(LAYERS("d a 700 1 1 5\nf a/b =x\nf c/d =y\nf e =z", "f a/n =n"), 1,
                       ROOT(4) "/a d 700 1 1 2 5.0 0\n/a/n f 644 0 0 1 0.0 1 \"n\"\n");
}

static void stacked_has_whiteouts(void **state CAS_UNUSED)
{
        expect_stacked(LAYERS("f a/b =x\nf a/c =x\nd e/f\nf g =x", "w a/b\nw e\nw nothing"), 1,
                       ROOT(3) "/a d 755 0 0 2 0.0 0\n/a/b w\n/e w\n");
}

static void stacked_replaced_directory_is_opaque(void **state CAS_UNUSED)
{
        expect_stacked(LAYERS("f a/b =x\nf c/d =x\nf e =x\nl g h",
                              "w a\nd a 700\nf a/n =n\nd c 711 opaque\nd e\nd g"),
                       1,
                       ROOT(6) "/a d 700 0 0 2 0.0 0 opaque\n/a/n f 644 0 0 1 0.0 1 \"n\"\n"
                               "/c d 711 0 0 2 0.0 0 opaque\n/e d 755 0 0 2 0.0 0 opaque\n"
                               "/g d 755 0 0 2 0.0 0 opaque\n");
}

static void stacked_opaque_directory_has_no_whiteouts(void **state CAS_UNUSED)
{
        expect_stacked(LAYERS("f a/b =x\nf a/c/d =x", "w a/b\nd a opaque\nf a/c/e =e"), 1,
                       ROOT(3) "/a d 755 0 0 3 0.0 0 opaque\n/a/c d 755 0 0 2 0.0 0\n"
                               "/a/c/e f 644 0 0 1 0.0 1 \"e\"\n");
}

static void stacked_removed_and_made_again_below_hides_nothing_twice(void **state CAS_UNUSED)
{
        expect_stacked(LAYERS("f a/b =x", "w a/b", "f a/b =y"), 1,
                       ROOT(3) "/a d 755 0 0 2 0.0 0\n/a/b f 644 0 0 1 0.0 1 \"y\"\n");
        expect_stacked(LAYERS("f b =x", "f a =x", "w a"), 1, ROOT(2));
}

static void stacked_changed_directory_attributes(void **state CAS_UNUSED)
{
        expect_stacked(LAYERS("f a/b/c =x", "d a/b 700 1 1 9"), 1,
                       ROOT(3) "/a d 755 0 0 3 0.0 0\n/a/b d 700 1 1 2 9.0 0\n");
}

static void stacked_entry_under_a_base_symlink(void **state CAS_UNUSED)
{
        expect_stacked(LAYERS("l lib usr/lib\nd usr/lib 711", "f lib/x =x"), 1,
                       ROOT(3) "/usr d 755 0 0 3 0.0 0\n/usr/lib d 711 0 0 2 0.0 0\n"
                               "/usr/lib/x f 644 0 0 1 0.0 1 \"x\"\n");
}

static void stacked_link_to_the_base_brings_its_whole_group(void **state CAS_UNUSED)
{
        expect_stacked(LAYERS("f d/a =x\nh d/b d/a\nf d/c =y", "h e d/a below"), 1,
                       ROOT(3) "/d d 755 0 0 2 0.0 0\n/d/a f 644 0 0 3 0.0 1 \"x\"\n/d/b =/d/a\n"
                               "/e =/d/a\n");
}

static void stacked_loss_of_a_link_corrects_the_count(void **state CAS_UNUSED)
{
        expect_stacked(LAYERS("f a =x\nh b a", "w b"), 1,
                       ROOT(2) "/a f 644 0 0 1 0.0 1 \"x\"\n/b w\n");
}

static void stacked_link_moved_within_its_group(void **state CAS_UNUSED)
{
        expect_stacked(LAYERS("f a =x\nh b a\nh c a", "w c\nh d a below"), 1,
                       ROOT(2) "/a f 644 0 0 3 0.0 1 \"x\"\n/b =/a\n/c w\n/d =/a\n");
}

static void stacked_real_zero_device_is_no_whiteout(void **state CAS_UNUSED)
{
        expect_stacked(LAYERS("f a =x\nf b =x", "c a 0 0 600\nw b"), 1,
                       ROOT(2) "/a c 600 0 0 1 0.0 0 0:0\n/b w\n");
}

static void stacked_refuses_a_base_that_looks_like_objects(void **state CAS_UNUSED)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf image = CAS_BUF_INIT;
        assert_int_equal(image_of(LAYERS("d a0", "f x =x"), 1, &image, &err),
                         -(int)CAS_E_UNSUPPORTED);
        struct cas_err err2 = CAS_ERR_INIT;
        assert_int_equal(image_of(LAYERS("f a0 =x\nd a\nd a0b\nd A0", "f x =x"), 1, &image, &err2),
                         0);
}

#define T(name) cmocka_unit_test(name)

int main(void)
{
        const struct CMUnitTest tests[] = {
                T(empty_image_has_a_default_root),
                T(root_entry_sets_its_attributes),
                T(parents_are_implied),
                T(implied_parent_takes_a_later_entry),
                T(parent_of_a_lower_layer_keeps_its_attributes),
                T(directory_over_directory_keeps_children),
                T(file_replaces_directory),
                T(directory_replaces_file),
                T(directory_made_again_in_one_layer_is_empty),
                T(implied_directory_replaces_a_lower_file),
                T(path_through_a_file_of_the_same_layer_is_invalid),
                T(whiteout_removes_a_lower_file),
                T(whiteout_removes_a_lower_subtree),
                T(whiteout_of_nothing_does_nothing),
                T(whiteout_spares_its_own_layer_before_and_after_it),
                T(whiteout_and_directory_of_one_layer_make_it_opaque),
                T(opaque_directory_hides_lower_children_only),
                T(implied_opaque_directory_keeps_lower_attributes),
                T(implied_opaque_directory_is_not_made),
                T(implied_opaque_mark_follows_a_lower_symlink),
                T(opaque_root_hides_everything_below),
                T(hard_links_share_an_inode),
                T(hard_link_to_a_lower_layer),
                T(hard_link_keeps_its_inode_when_the_target_is_replaced),
                T(hard_link_count_falls_with_a_whiteout),
                T(hard_link_to_a_symlink_is_not_followed),
                T(hard_link_to_nothing_is_invalid),
                T(hard_link_to_a_directory_is_invalid),
                T(hard_link_below_sees_what_its_layer_removes),
                T(entry_under_a_lower_symlink_lands_in_its_target),
                T(symlinks_in_paths_stay_inside_the_root),
                T(dangling_symlink_in_a_path_makes_its_target),
                T(whiteout_and_hard_link_follow_parent_symlinks),
                T(last_component_is_never_followed),
                T(symlink_loop_in_a_path_is_invalid),
                T(later_entries_see_a_replaced_parent),
                T(special_files_keep_their_numbers),
                T(device_number_out_of_range_is_invalid),
                T(nesting_has_a_limit),
                T(link_work_has_a_limit),
                T(stacked_holds_only_what_changed),
                T(stacked_has_whiteouts),
                T(stacked_replaced_directory_is_opaque),
                T(stacked_opaque_directory_has_no_whiteouts),
                T(stacked_removed_and_made_again_below_hides_nothing_twice),
                T(stacked_changed_directory_attributes),
                T(stacked_entry_under_a_base_symlink),
                T(stacked_link_to_the_base_brings_its_whole_group),
                T(stacked_loss_of_a_link_corrects_the_count),
                T(stacked_link_moved_within_its_group),
                T(stacked_real_zero_device_is_no_whiteout),
                T(stacked_refuses_a_base_that_looks_like_objects),
        };
        return cmocka_run_group_tests_name("merge", tests, NULL, NULL);
}
