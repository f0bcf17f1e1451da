/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <zlib.h>

#include "cas/blobcache_int.h"
#include "cas/commit_int.h"
#include "cas/condense.h"
#include "cas/image.h"
#include "cas/layer.h"
#include "cas/maintain.h"
#include "cas/object.h"
#include "cas/regen.h"
#include "cas/store_int.h"
#include "tests/support/tarmake.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

static const struct cas_condense_options plain_options = {.threads = 2};
static const struct cas_gc_options collect_all = {.live_percent_min = 50};

static void check_ok(int rc, const struct cas_err *err, int line)
{
        if (rc < 0)
                fail_msg("line %d: %s", line, err->msg);
}
#define ok(call) check_ok(call, &err, __LINE__)

/* ---- layers ---- */

/* A tar of a few files; the first name comes twice, with other content. */
static void make_tar(unsigned seed, struct cas_buf *out)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        for (unsigned i = 0; i < 8; i++) {
                cas_cleanup_free char *name = cas_xasprintf("dir/file%u", i % 7);
                test_file(seed + i, &bytes);
                tarmake_header(out, &(struct tarmake){.name = name,
                                                      .size = bytes.len_bytes,
                                                      .mode = 0644,
                                                      .mtime = 1700000000});
                tarmake_data(out, bytes.data, bytes.len_bytes);
        }
        tarmake_end(out);
}

static void make_gzip(const struct cas_buf *raw, int level, struct cas_buf *out)
{
        z_stream z = {0};
        assert_int_equal(deflateInit2(&z, level, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
        size_t bound = deflateBound(&z, raw->len_bytes);
        cas_buf_reserve(out, bound);
        z.next_in = raw->data;
        z.avail_in = (uInt)raw->len_bytes;
        z.next_out = out->data;
        z.avail_out = (uInt)bound;
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        out->len_bytes = z.total_out;
        (void)deflateEnd(&z);
}

static void make_layer(unsigned seed, bool gzip, struct cas_buf *out)
{
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        make_tar(seed, &tar);
        if (gzip)
                make_gzip(&tar, 6, out);
        else
                cas_buf_append(out, tar.data, tar.len_bytes);
}

/* An image of one layer, pushed as a client does. */
struct image {
        struct cas_digest layer, manifest;
        struct cas_buf bytes;
};

static void push_image(struct teststore *t, const char *tag, struct image *image)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_cleanup_buf struct cas_buf json = CAS_BUF_INIT;
        char text[CAS_DIGEST_TEXT_BYTES], config_text[CAS_DIGEST_TEXT_BYTES];
        struct cas_digest config;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_blob(p, image->bytes.data, image->bytes.len_bytes, NULL, &image->layer,
                            &err));
        ok(cas_publish_blob(p, tag, strlen(tag), NULL, &config, &err));
        cas_buf_printf(&json,
                       "{\"schemaVersion\":2,\"mediaType\":\"%s\",\"config\":{\"mediaType\":\"%s\","
                       "\"digest\":\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":\"%s\","
                       "\"digest\":\"%s\",\"size\":%zu}]}",
                       CAS_MT_OCI_MANIFEST, CAS_MT_OCI_CONFIG,
                       cas_digest_text(&config, config_text), strlen(tag), CAS_MT_OCI_LAYER_TAR,
                       cas_digest_text(&image->layer, text), image->bytes.len_bytes);
        ok(cas_publish_blob(p, json.data, json.len_bytes, NULL, &image->manifest, &err));
        ok(cas_publish_blob_link(p, "r", &image->layer, &err));
        ok(cas_publish_blob_link(p, "r", &config, &err));
        ok(cas_publish_manifest_link(p, "r", &image->manifest, CAS_MT_OCI_MANIFEST, json.len_bytes,
                                     &err));
        ok(cas_publish_tag(p, "r", tag, &image->manifest, &err));
        ok(cas_publish_commit(p, &err));
}

static void put_image(struct teststore *t, const char *tag, unsigned seed, bool gzip,
                      struct image *image)
{
        *image = (struct image){0};
        make_layer(seed, gzip, &image->bytes);
        push_image(t, tag, image);
}

static void image_release(struct image *image)
{
        cas_buf_release(&image->bytes);
}
#define cleanup_image __attribute__((cleanup(image_release)))

/* ---- what is asked again and again ---- */

static enum cas_blob_copy copy_of(struct teststore *t, const struct image *image)
{
        struct cas_err err = CAS_ERR_INIT;
        enum cas_blob_copy copy;
        ok(cas_blob_copy(t->store, &image->layer, &copy, &err));
        return copy;
}

static bool has_file(struct teststore *t, const struct image *image)
{
        char path[CAS_BLOB_PATH_BYTES];
        struct stat st;
        cas_blob_path(&image->layer, path);
        return fstatat(t->store->dirfd, path, &st, 0) == 0;
}

static struct cas_recipe_record condense(struct teststore *t, const struct image *image)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recipe_record rec;
        ok(cas_condense_blob(t->store, &image->layer, &plain_options, NULL, &rec, &err));
        return rec;
}

/* The blob can be had, by whatever way, and is right. */
static void expect_served(struct teststore *t, const struct image *image)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recipe_record rec;
        cas_cleanup_regen struct cas_regen *g = NULL;
        cas_cleanup_buf struct cas_buf got = CAS_BUF_INIT;
        cas_cleanup_fd int fd = -1;
        uint64_t bytes;
        ok(cas_blob_stat(t->store, &image->layer, &bytes, &err));
        assert_int_equal(bytes, image->bytes.len_bytes);
        cas_buf_reserve(&got, bytes + 1);
        int rc = cas_blob_open(t->store, &image->layer, &fd, &bytes, &err);
        if (rc == 0) {
                ok(cas_io_pread_exact(cas_io_posix(), fd, got.data, bytes, 0, "blob", &err));
                got.len_bytes = bytes;
        } else {
                assert_int_equal(rc, -CAS_E_UNSUPPORTED);
                ok(cas_recipe_stat(t->store, &image->layer, &rec, &err));
                assert_true(rec.is_proved);
                ok(cas_regen_open(t->store, &image->layer, &rec.recipe, 0, 2, &g, &err));
                for (size_t n = 1; n > 0; got.len_bytes += n)
                        ok(cas_regen_read(g, got.data + got.len_bytes, bytes + 1 - got.len_bytes,
                                          &n, &err));
        }
        assert_int_equal(got.len_bytes, image->bytes.len_bytes);
        assert_memory_equal(got.data, image->bytes.data, got.len_bytes);
}

static void say(void *arg, enum cas_fsck_severity severity CAS_UNUSED, const char *id,
                const char *subject CAS_UNUSED, const char *message CAS_UNUSED)
{
        if (strcmp(id, "pack-garbage") != 0 && strcmp(id, "chunk-unused") != 0)
                cas_buf_printf(arg, "%s ", id);
}

static void expect_fsck(struct teststore *t, const char *expected)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        cas_cleanup_buf struct cas_buf ids = CAS_BUF_INIT;
        ok(cas_fsck(t->store, NULL, NULL, say, &ids, &r, &err));
        assert_string_equal(cas_buf_str(&ids), expected);
}

static void forget_image(struct teststore *t, const struct image *image)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_manifest_unlink(p, "r", &image->manifest, &err));
        ok(cas_publish_commit(p, &err));
}

/* ---- condensing ---- */

static void layers_are_condensed(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store_stats st;
        cleanup_image struct image plain, gzip;
        put_image(t, "plain", 0, false, &plain);
        put_image(t, "gzip", 3, true, &gzip);
        assert_int_equal(copy_of(t, &plain), CAS_BLOB_VERBATIM);
        struct cas_recipe_record a = condense(t, &plain), b = condense(t, &gzip);
        assert_string_equal(a.reason, "");
        assert_string_equal(b.reason, "");
        assert_true(a.is_proved && b.is_proved);
        assert_int_equal(b.blob_bytes, gzip.bytes.len_bytes);
        assert_true(b.recipe_bytes > 0 && b.recipe_bytes < 20000);
        assert_non_null(strstr(b.text, "zlib"));
        assert_int_equal(copy_of(t, &plain), CAS_BLOB_CONDENSED);
        assert_false(has_file(t, &plain) || has_file(t, &gzip));
        expect_served(t, &plain);
        expect_served(t, &gzip);
        expect_fsck(t, "");
        ok(cas_store_stats(t->store, &st, &err));
        assert_int_equal(st.condensed_count, 2);
        assert_int_equal(st.condensed_bytes, plain.bytes.len_bytes + gzip.bytes.len_bytes);
        assert_int_equal(st.recipe_count, 2);
        assert_int_equal(st.recipe_bytes, a.recipe_bytes + b.recipe_bytes);
        assert_int_equal(st.cached_count, 0);
        assert_int_equal(st.copy_count, st.blob_count - 2);
        /* Nothing is left to do. */
        struct cas_recipe_record again = condense(t, &gzip);
        assert_memory_equal(&again, &b, sizeof(b));
        teststore_reopen(t);
        expect_served(t, &plain);
        expect_served(t, &gzip);
}

static void collection_keeps_what_recipes_need(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result dry, r;
        cleanup_image struct image a, b;
        put_image(t, "a", 0, true, &a);
        put_image(t, "b", 20, true, &b);
        (void)condense(t, &a);
        (void)condense(t, &b);
        forget_image(t, &b);
        struct cas_gc_options options = collect_all;
        options.dry_run = true;
        ok(cas_gc(t->store, &options, NULL, &dry, &err));
        ok(cas_gc(t->store, &collect_all, NULL, &r, &err));
        assert_int_equal(r.recipes_removed, 1);
        assert_int_equal(dry.recipes_removed, 1);
        assert_int_equal(r.blobs_removed, 3);
        assert_int_equal(dry.blobs_removed, 3);
        assert_true(r.objects_removed > 4);
        expect_served(t, &a);
        assert_int_equal(cas_blob_stat(t->store, &b.layer, NULL, &err), -CAS_E_NOTFOUND);
        expect_fsck(t, "");
        forget_image(t, &a);
        ok(cas_gc(t->store, &collect_all, NULL, &r, &err));
        struct cas_store_stats st;
        ok(cas_store_stats(t->store, &st, &err));
        assert_int_equal(st.blob_count + st.object_count + st.recipe_count + st.pack_count, 0);
}

static void rebuilding_finds_recipes(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result r;
        struct cas_store_stats st;
        cleanup_image struct image a, b, gone;
        put_image(t, "a", 0, true, &a);
        put_image(t, "b", 20, false, &b);
        put_image(t, "gone", 40, true, &gone);
        (void)condense(t, &a);
        struct cas_recipe_record rec;
        const struct cas_condense_options keep = {.keep_verbatim = true};
        (void)condense(t, &gone);
        ok(cas_condense_blob(t->store, &b.layer, &keep, NULL, &rec, &err));
        forget_image(t, &gone);
        struct cas_gc_options options = collect_all;
        options.live_percent_min = 0; /* its record stays in the pack */
        ok(cas_gc(t->store, &options, NULL, &r, &err));
        const struct cas_store_config config = {.path = t->path};
        teststore_close(t);
        ok(cas_rebuild(&config, NULL, &err));
        teststore_reopen(t);
        expect_fsck(t, "");
        assert_int_equal(copy_of(t, &a), CAS_BLOB_CONDENSED);
        /* Packs do not know of doubts: a file that is there stays until there is a new proof. */
        assert_int_equal(copy_of(t, &b), CAS_BLOB_VERBATIM);
        ok(cas_blob_cache_shrink(t->store, 0, NULL, &err));
        assert_true(has_file(t, &b));
        expect_served(t, &a);
        expect_served(t, &b);
        ok(cas_condense_blob(t->store, &b.layer, &keep, NULL, &rec, &err));
        assert_true(rec.is_proved);
        assert_int_equal(copy_of(t, &b), CAS_BLOB_CACHED);
        ok(cas_gc(t->store, &collect_all, NULL, &r, &err));
        ok(cas_store_stats(t->store, &st, &err));
        assert_int_equal(st.recipe_count, 2);
        expect_served(t, &a);
        expect_fsck(t, "");
}

static void what_stays_verbatim_says_why(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store_stats st;
        struct cas_recipe_record rec;
        cleanup_image struct image small = {0}, odd = {0};
        cas_buf_append_str(&small.bytes, "few bytes");
        push_image(t, "small", &small);
        for (unsigned i = 0; i < 2000; i++)
                cas_buf_printf(&odd.bytes, "this is no tar %u\n", i);
        push_image(t, "odd", &odd);
        rec = condense(t, &small);
        assert_false(rec.is_proved);
        assert_non_null(strstr(rec.reason, "small"));
        rec = condense(t, &odd);
        assert_false(rec.is_proved);
        assert_true(rec.reason[0] != '\0');
        assert_int_equal(copy_of(t, &odd), CAS_BLOB_VERBATIM);
        expect_served(t, &odd);
        ok(cas_store_stats(t->store, &st, &err));
        assert_int_equal(st.refused_count, 2);
        /* Looked at again when it is asked for, or analysis has learnt more. */
        struct cas_recipe_record old = rec, now;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        memcpy(old.reason, "as it was", 10);
        cas_batch_put_recipe(batch, &old);
        ok(cas_index_write(t->store->index, batch, &err));
        now = condense(t, &odd);
        assert_string_equal(now.reason, "as it was");
        const struct cas_condense_options again = {.again = true};
        ok(cas_condense_blob(t->store, &odd.layer, &again, NULL, &now, &err));
        assert_string_equal(now.reason, rec.reason);
        old.analysis = 0;
        cas_batch_put_recipe(batch, &old);
        ok(cas_index_write(t->store->index, batch, &err));
        assert_string_equal(condense(t, &odd).reason, rec.reason);
        expect_fsck(t, "");
        struct cas_digest absent = test_digest("nowhere");
        assert_int_equal(cas_condense_blob(t->store, &absent, &plain_options, NULL, &rec, &err),
                         -CAS_E_NOTFOUND);
}

/* ---- brought again ---- */

static void a_push_of_what_is_there_changes_nothing(void **state)
{
        struct teststore *t = *state;
        cleanup_image struct image a;
        put_image(t, "a", 0, true, &a);
        (void)condense(t, &a);
        push_image(t, "again", &a);
        assert_int_equal(copy_of(t, &a), CAS_BLOB_CONDENSED);
        assert_false(has_file(t, &a));
        expect_served(t, &a);
}

static void a_push_heals(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_image struct image a;
        int fd = -1;
        put_image(t, "a", 0, true, &a);
        (void)condense(t, &a);
        ok(cas_recipe_doubt(t->store, &a.layer, &err));
        assert_int_equal(cas_blob_stat(t->store, &a.layer, NULL, &err), -CAS_E_NOTFOUND);
        assert_int_equal(cas_blob_open(t->store, &a.layer, &fd, NULL, &err), -CAS_E_NOTFOUND);
        expect_fsck(t, "recipe-missing ");
        push_image(t, "a", &a);
        assert_int_equal(copy_of(t, &a), CAS_BLOB_VERBATIM);
        expect_served(t, &a);
        expect_fsck(t, "");
        assert_true(condense(t, &a).is_proved);
        assert_false(has_file(t, &a));
        expect_served(t, &a);
        /* Or it is proved again. */
        ok(cas_recipe_doubt(t->store, &a.layer, &err));
        assert_true(condense(t, &a).is_proved);
        expect_served(t, &a);
}

static void fsck_makes_blobs(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_image struct image a;
        put_image(t, "a", 0, true, &a);
        struct cas_recipe_record rec = condense(t, &a), wrong = rec;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_cleanup_listing struct cas_listing listing = {0};
        struct cas_layer_record layer;
        ok(cas_layer_stat(t->store, &a.layer, &layer, &err));
        ok(cas_layer_listing(t->store, &layer, &listing, &err));
        wrong.recipe = layer.listing; /* no recipe at all */
        cas_batch_put_recipe(batch, &wrong);
        ok(cas_index_write(t->store->index, batch, &err));
        expect_fsck(t, "recipe-digest reference-stale "); /* the recipe's own, to this blob */
        cas_batch_put_recipe(batch, &rec);
        ok(cas_index_write(t->store->index, batch, &err));
        expect_fsck(t, "");
        for (size_t i = 0; i < listing.count; i++)
                if (listing.entries[i].type == CAS_ENTRY_FILE &&
                    listing.entries[i].size_bytes < 100000) {
                        cas_batch_del_object(batch, &listing.entries[i].object, 1);
                        break;
                }
        ok(cas_index_write(t->store->index, batch, &err));
        expect_fsck(t, "recipe-object object-missing ");
}

/* A layer's record is lost: it is decoded from what its recipe makes. */
static void layers_are_decoded_from_recipes(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record before, after;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        struct cas_record_key key;
        cleanup_image struct image a;
        put_image(t, "a", 0, true, &a);
        (void)condense(t, &a);
        ok(cas_layer_stat(t->store, &a.layer, &before, &err));
        cas_key_digest(&a.layer, &key);
        cas_batch_del(batch, CAS_FAMILY_LAYERS, key.bytes, key.len);
        ok(cas_index_write(t->store->index, batch, &err));
        ok(cas_layer_ensure(t->store, &a.layer, NULL, &after, &err));
        assert_memory_equal(&before, &after, sizeof(before));
}

/* ---- copies ---- */

/* A file in STORE/uploads with the image's layer. */
static void spool(struct teststore *t, const struct image *image, const char *name)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *path = cas_xasprintf("%s/uploads/%s", t->path, name);
        ok(cas_io_replace_file(cas_io_posix(), AT_FDCWD, t->path, path, image->bytes.data,
                               image->bytes.len_bytes, 0600, &err));
}

static bool put_copy(struct teststore *t, const struct image *image)
{
        struct cas_err err = CAS_ERR_INIT;
        bool kept;
        spool(t, image, "tmp-copy");
        ok(cas_blob_cache_put(t->store, "tmp-copy", &image->layer, &kept, &err));
        assert_true(faccessat(t->store->dirfd, "uploads/tmp-copy", F_OK, 0) < 0);
        return kept;
}

static void copies_live_under_a_budget(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct image images[3];
        uint64_t freed;
        for (unsigned i = 0; i < 3; i++) {
                cas_cleanup_free char *tag = cas_xasprintf("t%u", i);
                put_image(t, tag, i * 20, true, &images[i]);
                (void)condense(t, &images[i]);
        }
        assert_false(put_copy(t, &images[0])); /* no budget */
        t->store->blob_cache_bytes = images[0].bytes.len_bytes + images[1].bytes.len_bytes + 1000;
        assert_true(put_copy(t, &images[0]));
        assert_true(put_copy(t, &images[1]));
        assert_false(put_copy(t, &images[1])); /* there is one */
        assert_int_equal(copy_of(t, &images[0]), CAS_BLOB_CACHED);
        expect_served(t, &images[0]); /* from its copy: the other is older now */
        assert_true(put_copy(t, &images[2]));
        assert_true(has_file(t, &images[0]) && has_file(t, &images[2]));
        assert_false(has_file(t, &images[1]));
        assert_int_equal(copy_of(t, &images[1]), CAS_BLOB_CONDENSED);
        expect_fsck(t, "");
        /* They survive a restart; what is lost or damaged is not missed. */
        teststore_reopen(t);
        assert_true(has_file(t, &images[0]) && has_file(t, &images[2]));
        char path[CAS_BLOB_PATH_BYTES];
        cas_blob_path(&images[0].layer, path);
        assert_int_equal(unlinkat(t->store->dirfd, path, 0), 0);
        expect_fsck(t, "copy-damaged ");
        expect_served(t, &images[0]);
        ok(cas_blob_cache_drop(t->store, &images[0].layer, &err));
        expect_fsck(t, "");
        ok(cas_blob_cache_shrink(t->store, 0, &freed, &err));
        assert_int_equal(freed, images[2].bytes.len_bytes);
        for (unsigned i = 0; i < 3; i++) {
                assert_false(has_file(t, &images[i]));
                expect_served(t, &images[i]);
                image_release(&images[i]);
        }
        expect_fsck(t, "");
}

static void a_kept_copy_is_a_cache(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recipe_record rec;
        struct cas_gc_result r;
        const struct cas_condense_options keep = {.keep_verbatim = true};
        cleanup_image struct image a;
        put_image(t, "a", 0, true, &a);
        ok(cas_condense_blob(t->store, &a.layer, &keep, NULL, &rec, &err));
        assert_int_equal(copy_of(t, &a), CAS_BLOB_CACHED);
        expect_served(t, &a);
        /* What the index does not count is garbage. */
        ok(cas_blob_cache_drop(t->store, &a.layer, &err));
        char path[CAS_BLOB_PATH_BYTES];
        cas_blob_path(&a.layer, path);
        ok(cas_io_replace_file(cas_io_posix(), t->store->dirfd, "blobs", path, "x", 1, 0600, &err));
        expect_fsck(t, "copy-unknown ");
        expect_served(t, &a);
        struct cas_gc_options full = collect_all;
        full.full = true; /* nobody noted it */
        ok(cas_gc(t->store, &full, NULL, &r, &err));
        expect_fsck(t, "");
        expect_served(t, &a);
}

/* ---- at the same time ---- */

struct work {
        struct teststore *t;
        struct image *image;
        struct cas_recipe_record rec;
        _Atomic(bool) *stop;
};

static void *condense_one(void *arg)
{
        struct work *w = arg;
        w->rec = condense(w->t, w->image);
        return NULL;
}

static void *push_and_collect(void *arg)
{
        struct work *w = arg;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result r;
        while (!*w->stop) {
                push_image(w->t, "again", w->image);
                ok(cas_gc(w->t->store, &collect_all, NULL, &r, &err));
                (void)test_put_blob(w->t->store, "r", "some blob");
        }
        return NULL;
}

static void everything_goes_on_meanwhile(void **state)
{
        struct teststore *t = *state;
        struct image images[4];
        struct work works[8], traffic;
        pthread_t threads[8], pusher;
        _Atomic(bool) stop = false;
        for (unsigned i = 0; i < 4; i++) {
                cas_cleanup_free char *tag = cas_xasprintf("t%u", i);
                put_image(t, tag, i * 20, i % 2, &images[i]);
        }
        struct image pushed = images[3]; /* pushing fills in digests */
        traffic = (struct work){.t = t, .image = &pushed, .stop = &stop};
        assert_int_equal(pthread_create(&pusher, NULL, push_and_collect, &traffic), 0);
        for (unsigned i = 0; i < 8; i++) {
                works[i] = (struct work){.t = t, .image = &images[i / 2]};
                assert_int_equal(pthread_create(&threads[i], NULL, condense_one, &works[i]), 0);
        }
        for (unsigned i = 0; i < 8; i++)
                (void)pthread_join(threads[i], NULL);
        stop = true;
        (void)pthread_join(pusher, NULL);
        for (unsigned i = 0; i < 8; i++) {
                assert_true(works[i].rec.is_proved);
                assert_memory_equal(&works[i].rec, &works[i ^ 1].rec, sizeof(works[i].rec));
        }
        for (unsigned i = 0; i < 4; i++) {
                assert_false(has_file(t, &images[i]));
                expect_served(t, &images[i]);
                image_release(&images[i]);
        }
        expect_fsck(t, "");
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(layers_are_condensed),
                TEST(collection_keeps_what_recipes_need),
                TEST(rebuilding_finds_recipes),
                TEST(what_stays_verbatim_says_why),
                TEST(a_push_of_what_is_there_changes_nothing),
                TEST(a_push_heals),
                TEST(fsck_makes_blobs),
                TEST(layers_are_decoded_from_recipes),
                TEST(copies_live_under_a_budget),
                TEST(a_kept_copy_is_a_cache),
                TEST(everything_goes_on_meanwhile),
        };
        return cmocka_run_group_tests_name("condense", tests, NULL, NULL);
}
