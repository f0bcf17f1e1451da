/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "cas/commit_int.h"
#include "cas/format_int.h"
#include "cas/lease.h"
#include "cas/maintain.h"
#include "cas/pack_int.h"
#include "cas/packset_int.h"
#include "cas/record_int.h"
#include "cas/refs_int.h"
#include "cas/store_int.h"
#include "tests/support/scratch.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

#define ok(call) assert_int_equal(call, 0)
#define FILES 12

static const struct cas_gc_options all_of_it = {.live_percent_min = 50};

static void collect(void *arg, enum cas_fsck_severity severity CAS_UNUSED, const char *id,
                    const char *subject, const char *message)
{
        cas_buf_printf(arg, "%s ", id);
        (void)subject;
        (void)message;
}

/* Ids of what fsck finds, in order. */
static void expect_fsck(struct teststore *t, const char *expected)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        cas_cleanup_buf struct cas_buf ids = CAS_BUF_INIT;
        ok(cas_fsck(t->store, NULL, NULL, collect, &ids, &r, &err));
        assert_string_equal(cas_buf_str(&ids), expected);
}

static struct testimage put(struct teststore *t, const char *repo, const char *tag, unsigned seed)
{
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image;
        ok(testimage_put(t->store, repo, tag, seed, FILES, &image, &err));
        return image;
}

static void unlink_manifest(struct teststore *t, const char *repo, const struct cas_digest *d)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_manifest_unlink(p, repo, d, &err));
        ok(cas_publish_commit(p, &err));
}

static void a_sound_store_has_no_findings(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        (void)put(t, "a", "x", 0);
        (void)put(t, "a", "y", 6);
        (void)put(t, "b", NULL, 0);
        ok(cas_packset_seal(t->store->packset, &err));
        (void)put(t, "b", "z", 100);
        expect_fsck(t, "");
        ok(cas_fsck(t->store, NULL, NULL, NULL, NULL, &r, &err));
        assert_int_equal(r.layers, 3);
        assert_int_equal(r.manifests, 4);
        assert_int_equal(r.blobs, 3 * 3);
        assert_true(r.packs >= 2 && r.blocks > 0 && r.chunks > r.objects);
}

static void gc_keeps_what_is_named(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result r;
        struct testimage image = put(t, "a", "x", 0);
        ok(cas_gc(t->store, &all_of_it, NULL, &r, &err));
        assert_int_equal(r.blobs_removed + r.objects_removed + r.chunks_removed + r.layers_removed +
                                 r.packs_removed + r.packs_rewritten,
                         0);
        assert_true(testimage_is_whole(t->store, &image, 0, FILES));
        expect_fsck(t, "");
}

static void gc_removes_what_nothing_names(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result dry, r;
        struct cas_store_stats st;
        struct testimage gone = put(t, "a", "x", 0); /* shares half of its files with the next */
        struct testimage stays = put(t, "b", "x", 6);
        unlink_manifest(t, "a", &gone.manifest);
        struct cas_gc_options options = all_of_it;
        options.dry_run = true;
        ok(cas_gc(t->store, &options, NULL, &dry, &err));
        assert_true(test_has_blob(t->store, &gone.manifest));
        ok(cas_gc(t->store, &all_of_it, NULL, &r, &err));
        assert_int_equal(r.blobs_removed, 3);
        assert_int_equal(r.layers_removed, 1);
        assert_int_equal(r.objects_removed, 6 + 1); /* and the listing */
        assert_int_equal(dry.blobs_removed, r.blobs_removed);
        assert_int_equal(dry.objects_removed, r.objects_removed);
        assert_int_equal(dry.chunks_removed, r.chunks_removed);
        assert_false(test_has_blob(t->store, &gone.manifest));
        assert_true(testimage_is_whole(t->store, &stays, 6, FILES));
        bool there;
        ok(cas_repo_exists(t->store, "a", &there, &err));
        assert_false(there);
        unlink_manifest(t, "b", &stays.manifest);
        ok(cas_gc(t->store, &all_of_it, NULL, &r, &err));
        ok(cas_store_stats(t->store, &st, &err));
        assert_int_equal(st.blob_count + st.object_count + st.chunk_count + st.layer_count +
                                 st.repo_count + st.pack_count,
                         0);
        teststore_reopen(t);
        expect_fsck(t, "");
}

static void gc_rewrites_thin_packs(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result r;
        struct testimage big = put(t, "a", "x", 1000), thin;
        ok(testimage_put(t->store, "a", "y", 1000, 2, &thin, &err)); /* two files of it */
        unlink_manifest(t, "a", &big.manifest);
        ok(cas_gc(t->store, &(struct cas_gc_options){.live_percent_min = 0}, NULL, &r, &err));
        assert_int_equal(r.packs_rewritten, 0);
        struct cas_store_stats before, after;
        ok(cas_store_stats(t->store, &before, &err));
        ok(cas_gc(t->store, &all_of_it, NULL, &r, &err));
        assert_true(r.packs_rewritten > 0 && r.bytes_freed > 0);
        ok(cas_store_stats(t->store, &after, &err));
        uint64_t less = before.pack_bytes - after.pack_bytes;
        assert_true(less <= r.bytes_freed && less + 64 > r.bytes_freed); /* headers of packs */
        assert_true(testimage_is_whole(t->store, &thin, 1000, 2));
        teststore_reopen(t);
        assert_true(testimage_is_whole(t->store, &thin, 1000, 2));
        expect_fsck(t, "");
        ok(cas_gc(t->store, &all_of_it, NULL, &r, &err));
        assert_int_equal(r.packs_rewritten, 0);
}

static void gc_heeds_grace_and_leases(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result r;
        struct cas_gc_options graceful = all_of_it;
        graceful.grace_s = 3600;
        struct cas_digest loose = test_put_blob(t->store, NULL, "linked to nothing");
        struct cas_digest linked = test_put_blob(t->store, "up", "pushed, its manifest is to come");
        struct testimage image = put(t, "a", "x", 3);
        const struct cas_lease mount = {.id = "mount:1", .root = image.manifest};
        struct cas_lease old = {.id = "old", .root = loose, .expires_unix_s = 1};
        ok(cas_lease_put(t->store, &mount, &err));
        ok(cas_lease_put(t->store, &old, &err));
        unlink_manifest(t, "a", &image.manifest);
        ok(cas_gc(t->store, &graceful, NULL, &r, &err));
        assert_int_equal(r.blobs_removed, 0);
        assert_true(test_has_blob(t->store, &loose));
        ok(cas_gc(t->store, &all_of_it, NULL, &r, &err));
        assert_int_equal(r.blobs_removed, 2);
        assert_false(test_has_blob(t->store, &loose));
        assert_false(test_has_blob(t->store, &linked));
        assert_true(testimage_is_whole(t->store, &image, 3, FILES));
        struct cas_store_stats st;
        ok(cas_store_stats(t->store, &st, &err));
        assert_int_equal(st.lease_count, 1);
        ok(cas_lease_drop(t->store, "mount:1", &err));
        ok(cas_gc(t->store, &all_of_it, NULL, &r, &err));
        assert_int_equal(r.blobs_removed, 3);
        expect_fsck(t, "");
}

static int put_reference(void *arg, const struct cas_reference *ref, struct cas_err *err CAS_UNUSED)
{
        cas_batch_put_reference(arg, ref);
        return 0;
}

static void put_tree(struct teststore *t, const char *bytes, const struct testimage *image)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        struct cas_digest layer = image->layer.blob;
        struct cas_tree_record rec = {.tree = test_digest(bytes),
                                      .size_bytes = strlen(bytes),
                                      .layers = &layer,
                                      .layer_count = 1};
        struct cas_hash key;
        char hex[CAS_DIGEST_TEXT_BYTES];
        cas_sha256(bytes, strlen(bytes), &key);
        cas_batch_put_tree(batch, &key, &rec);
        ok(cas_tree_references(&key, &rec, put_reference, batch, &err));
        ok(cas_index_write(t->store->index, batch, &err));
        cas_cleanup_free char *path =
                cas_xasprintf("trees/%s.erofs", cas_digest_hex(&rec.tree, hex));
        ok(cas_io_replace_file(cas_io_posix(), t->store->dirfd, "trees", path, bytes, strlen(bytes),
                               0600, &err));
}

static void trees_live_with_their_layers(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result r;
        struct testimage gone = put(t, "a", "x", 0), stays = put(t, "b", "x", 50);
        put_tree(t, "tree of the first", &gone);
        put_tree(t, "tree of the second", &stays);
        expect_fsck(t, "");
        unlink_manifest(t, "a", &gone.manifest);
        ok(cas_gc(t->store, &all_of_it, NULL, &r, &err));
        assert_int_equal(r.trees_removed, 1);
        struct cas_store_stats st;
        ok(cas_store_stats(t->store, &st, &err));
        assert_int_equal(st.tree_count, 1);
        expect_fsck(t, "pack-garbage "); /* not enough of it to rewrite the pack */
}

/* ---- damage ---- */

/* The only file below a directory of the store, as a path relative to the store. */
static char *only_file(struct teststore *t, const char *dir)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", t->path, dir);
        DIR *d = opendir(path);
        assert_non_null(d);
        char *found = NULL;
        for (struct dirent *e = readdir(d); e; e = readdir(d)) {
                if (e->d_name[0] != '.') {
                        assert_null(found);
                        found = cas_xasprintf("%s/%s", dir, e->d_name);
                }
        }
        (void)closedir(d);
        assert_non_null(found);
        return found;
}

static void flip(struct teststore *t, const char *file, off_t at)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", t->path, file);
        cas_cleanup_fd int fd = open(path, O_RDWR | O_CLOEXEC);
        struct stat st;
        uint8_t byte;
        assert_true(fd >= 0 && fstat(fd, &st) == 0);
        if (at < 0)
                at += st.st_size;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

static void fsck_finds_damaged_blobs(void **state)
{
        struct teststore *t = *state;
        struct cas_digest d = test_put_blob(t->store, "r", "one"), e;
        char path[CAS_BLOB_PATH_BYTES];
        cas_blob_path(&d, path);
        flip(t, path, 0);
        expect_fsck(t, "blob-digest ");
        cas_cleanup_free char *full = cas_xasprintf("%s/%s", t->path, path);
        ok(truncate(full, 1));
        expect_fsck(t, "blob-size ");
        ok(unlink(full));
        expect_fsck(t, "blob-missing ");
        e = test_digest("not there");
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_blob_link(p, "r", &e, &err));
        ok(cas_publish_manifest_link(p, "r", &e, "t", 1, &err));
        ok(cas_publish_referrer(p, "r", &e, &d, &err));
        ok(cas_publish_commit(p, &err));
        cas_publish_free(cas_steal(&p));
        expect_fsck(t, "blob-missing manifest-blob blob-link referrer-manifest ");
}

static void fsck_finds_damaged_packs(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_publish *p = NULL;
        struct cas_hash id;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_object(p, "lost lost lost lost lost", 24, &id, &err));
        ok(cas_publish_commit(p, &err));
        cas_publish_free(p);
        ok(cas_packset_seal(t->store->packset, &err));
        cas_cleanup_free char *pack = only_file(t, "packs");
        teststore_reopen(t);
        expect_fsck(t, "");
        flip(t, pack, 32 + 56 + 36 + 3); /* in the frame */
        struct cas_fsck_result r;
        cas_cleanup_buf struct cas_buf ids = CAS_BUF_INIT;
        ok(cas_fsck(t->store, NULL, NULL, collect, &ids, &r, &err));
        assert_true(r.errors >= 3);
        assert_non_null(strstr(cas_buf_str(&ids), "pack-damaged"));
        assert_non_null(strstr(cas_buf_str(&ids), "pack-sha256"));
        assert_non_null(strstr(cas_buf_str(&ids), "chunk-location"));
        cas_cleanup_free char *full = cas_xasprintf("%s/%s", t->path, pack);
        ok(unlink(full));
        expect_fsck(t, "pack-missing chunk-location ");
}

static void fsck_compares_index_and_packs(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image = put(t, "r", "t", 4); /* its first file is a large one */
        struct cas_chunk_ref first;
        uint32_t count;
        cas_cleanup_listing struct cas_listing listing = {0};
        ok(cas_layer_listing(t->store, &image.layer, &listing, &err));
        ok(cas_index_get_object_chunks(t->store->index, &listing.entries[0].object, 0, &first, 1,
                                       &count, &err));
        assert_int_equal(count, 1);
        struct cas_chunk_record rec;
        ok(cas_index_get_chunk(t->store->index, &first.chunk, &rec, &err));
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        struct cas_chunk_record moved = rec;
        moved.chunk_offset++;
        moved.length_bytes--;
        cas_batch_put_chunk(batch, &first.chunk, &moved);
        ok(cas_index_write(t->store->index, batch, &err));
        expect_fsck(t, "pack-garbage chunk-location object-size ");
        cas_batch_del_chunk(batch, &first.chunk);
        ok(cas_index_write(t->store->index, batch, &err));
        expect_fsck(t, "pack-garbage chunk-missing ");
        cas_batch_put_chunk(batch, &first.chunk, &rec);
        cas_batch_put(batch, CAS_FAMILY_OBJECTS, listing.entries[1].object.bytes, CAS_HASH_BYTES,
                      "\x05", 1);
        cas_batch_del(batch, CAS_FAMILY_OBJECTS, listing.entries[2].object.bytes, CAS_HASH_BYTES);
        ok(cas_index_write(t->store->index, batch, &err));
        expect_fsck(t, "record-malformed chunk-unused object-missing object-missing ");
}

static void fsck_compares_names_and_journal(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest m = test_put_manifest(t->store, "r", "t", "manifest");
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        struct cas_digest other = test_put_manifest(t->store, "r", "u", "other");
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        cas_buf_append(&value, &m, 33);
        cas_batch_put(batch, CAS_FAMILY_TAGS, "r\0u", 3, value.data, value.len_bytes);
        cas_batch_put(batch, CAS_FAMILY_TAGS, "r\0v", 3, value.data, value.len_bytes);
        cas_batch_del(batch, CAS_FAMILY_TAGS, "r\0t", 3);
        ok(cas_index_write(t->store->index, batch, &err));
        expect_fsck(t, "journal-differs journal-differs journal-differs ");
        cas_buf_clear(&value);
        other.bytes[0] ^= 1;
        cas_buf_append(&value, &other, 33);
        cas_batch_put(batch, CAS_FAMILY_TAGS, "r\0t", 3, value.data, value.len_bytes);
        ok(cas_index_write(t->store->index, batch, &err));
        expect_fsck(t, "tag-manifest journal-differs journal-differs journal-differs ");
}

static void fsck_reads_manifests(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image = put(t, "r", "t", 0);
        struct cas_gc_result r;
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        struct cas_digest text = test_put_blob(t->store, NULL, "no json");
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(t->store, &p, &err));
        ok(cas_publish_manifest_link(p, "s", &text, "application/vnd.oci.image.manifest.v1+json", 7,
                                     &err));
        ok(cas_publish_commit(p, &err));
        cas_publish_free(cas_steal(&p));
        cas_batch_del(batch, CAS_FAMILY_BLOBS, &image.config, 33);
        cas_batch_del(batch, CAS_FAMILY_LAYERS, &image.layer.blob, 33);
        ok(cas_index_write(t->store->index, batch, &err));
        expect_fsck(
                t, "manifest-reference manifest-malformed blob-link reference-stale blob-unknown ");
        ok(cas_gc(t->store, &all_of_it, NULL, &r, &err)); /* what they need is known */
        assert_int_equal(r.blobs_removed + r.objects_removed, 0);
}

/* ---- rebuild and upgrade ---- */

static void rebuild(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_store_config config = {.path = t->path};
        teststore_close(t);
        int rc = cas_rebuild(&config, NULL, &err);
        if (rc < 0)
                print_error("%s\n", err.msg);
        ok(rc);
        ok(teststore_open(t, &err));
}

static int append_entry(void *arg, const void *key, size_t key_len, const void *value,
                        size_t value_len, struct cas_err *err CAS_UNUSED)
{
        cas_buf_append(arg, key, key_len);
        cas_buf_append(arg, value, value_len);
        return 0;
}

/* The same without when the blob was added: a rebuild takes that from the file's time, which may
 * be of another second. */
static int append_blob(void *arg, const void *key, size_t key_len, const void *value,
                       size_t value_len, struct cas_err *err)
{
        struct cas_blob_record rec;
        if (cas_blob_record_decode(value, value_len, &rec, err) < 0)
                return -(int)err->code;
        cas_buf_append(arg, key, key_len);
        cas_buf_append_le64(arg, rec.size_bytes);
        return 0;
}

/* The place in the journal; whether a full collection is due is of no account. */
static int append_meta(void *arg, const void *key, size_t key_len, const void *value,
                       size_t value_len, struct cas_err *err)
{
        return key_len == 7 && memcmp(key, "journal", 7) == 0
                       ? append_entry(arg, key, key_len, value, value_len, err)
                       : 0;
}

static cas_scan_fn append_of(enum cas_family f)
{
        if (f == CAS_FAMILY_META)
                return append_meta;
        return f == CAS_FAMILY_BLOBS ? append_blob : append_entry;
}

/* What rests on the other families is compared with them by tests/unit/refs_test.c; what waits for
 * collection is no part of what a rebuild finds. */
static bool is_compared(enum cas_family f)
{
        switch (f) {
        case CAS_FAMILY_NODES:
        case CAS_FAMILY_BLOB_REFS:
        case CAS_FAMILY_OBJECT_REFS:
        case CAS_FAMILY_CHUNK_REFS:
        case CAS_FAMILY_CONDEMNED:
        case CAS_FAMILY_PACK_DEAD:
                return false;
        default:
                return true;
        }
}

static bool same_family(enum cas_family family, const struct cas_buf *a, const struct cas_buf *b)
{
        if (a->len_bytes == b->len_bytes &&
            (a->len_bytes == 0 || memcmp(a->data, b->data, a->len_bytes) == 0))
                return true;
        print_error("family %s differs\n", cas_family_name(family));
        return false;
}

static void rebuilding_gives_the_same_index(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result r;
        struct testimage image = put(t, "a", "x", 0), other = put(t, "b", "y", 30), gone;
        ok(cas_packset_seal(t->store->packset, &err));
        gone = put(t, "b", "z", 60);
        const struct cas_lease lease = {.id = "l", .root = image.manifest};
        ok(cas_lease_put(t->store, &lease, &err));
        put_tree(t, "a tree", &image);
        unlink_manifest(t, "b", &gone.manifest);
        ok(cas_gc(t->store, &all_of_it, NULL, &r, &err));
        struct cas_buf before[CAS_FAMILY_COUNT] = {{0}};
        for (enum cas_family f = 0; f < CAS_FAMILY_COUNT; f++)
                ok(cas_index_scan(t->store->index, &(struct cas_scan){.family = f}, append_of(f),
                                  &before[f], &err));
        rebuild(t);
        for (enum cas_family f = 0; f < CAS_FAMILY_COUNT; f++) {
                cas_cleanup_buf struct cas_buf after = CAS_BUF_INIT;
                ok(cas_index_scan(t->store->index, &(struct cas_scan){.family = f}, append_of(f),
                                  &after, &err));
                assert_true(!is_compared(f) || same_family(f, &before[f], &after));
                cas_buf_release(&before[f]);
        }
        assert_true(testimage_is_whole(t->store, &image, 0, FILES));
        assert_true(testimage_is_whole(t->store, &other, 30, FILES));
        expect_fsck(t, "");
        cas_cleanup_free char *old = cas_xasprintf("%s/index.old/CURRENT", t->path);
        assert_int_equal(access(old, F_OK), -1);
}

static void rebuilding_needs_no_index(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image = put(t, "a", "x", 0);
        struct cas_digest tagged;
        teststore_close(t);
        cas_cleanup_free char *index = cas_xasprintf("%s/index", t->path);
        cas_cleanup_free char *away = cas_xasprintf("%s/away", t->dir);
        ok(rename(index, away));
        rebuild(t);
        ok(cas_tag_get(t->store, "a", "x", &tagged, &err));
        assert_true(cas_digest_equal(&tagged, &image.manifest));
        assert_true(testimage_is_whole(t->store, &image, 0, FILES));
        expect_fsck(t, "");
}

/* A crash while the new index takes the old one's place, between the two renames. */
static void a_rebuild_that_broke_off_leaves_the_old_index(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image = put(t, "a", "x", 0);
        cas_cleanup_free char *index = cas_xasprintf("%s/index", t->path);
        cas_cleanup_free char *old = cas_xasprintf("%s/index.old", t->path);
        const struct cas_lease lease = {.id = "l", .root = image.manifest};
        struct cas_digest tagged;
        ok(cas_lease_put(t->store, &lease, &err)); /* which only the index has */
        for (int first = 0; first < 2; first++) {
                bool there = false;
                teststore_close(t);
                ok(rename(index, old));
                if (first)
                        ok(teststore_open(t, &err));
                else
                        rebuild(t);
                ok(cas_tag_get(t->store, "a", "x", &tagged, &err));
                ok(cas_index_has(t->store->index, CAS_FAMILY_LEASES, "l", 1, &there, &err));
                assert_true(there);
                expect_fsck(t, "");
        }
}

static bool last_pack(void *arg, uint64_t pack_id, const struct cas_pack_record *rec CAS_UNUSED)
{
        *(uint64_t *)arg = pack_id;
        return true;
}

static char *last_pack_path(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        char name[CAS_PACK_NAME_BYTES];
        uint64_t id = 0;
        ok(cas_index_each_pack(t->store->index, last_pack, &id, &err));
        return cas_xasprintf("%s/packs/%s", t->path, cas_pack_name(id, name));
}

/* Two layers share files, the pack with these is lost: both are to be decoded again. */
static void rebuilding_forgets_layers_that_lost_files(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record rec;
        struct testimage image = put(t, "a", "x", 0);
        cas_cleanup_free char *lost = last_pack_path(t);
        ok(cas_packset_seal(t->store->packset, &err));
        struct testimage sharing = put(t, "a", "y", 3), other = put(t, "a", "z", 50);
        ok(unlink(lost));
        rebuild(t);
        assert_int_equal(cas_layer_stat(t->store, &image.layer.blob, &rec, &err), -CAS_E_NOTFOUND);
        assert_int_equal(cas_layer_stat(t->store, &sharing.layer.blob, &rec, &err),
                         -CAS_E_NOTFOUND);
        assert_true(testimage_is_whole(t->store, &other, 50, FILES));
}

static void rebuilding_cuts_nothing_off_a_damaged_pack(void **state)
{
        struct teststore *t = *state;
        struct stat before, after;
        (void)put(t, "a", "x", 0);
        cas_cleanup_free char *path = last_pack_path(t);
        cas_cleanup_fd int fd = open(path, O_RDWR | O_CLOEXEC);
        ok(fstat(fd, &before));
        assert_int_equal(pwrite(fd, "xxxx", 4, 200), 4);
        rebuild(t);
        teststore_reopen(t);
        ok(fstat(fd, &after));
        assert_int_equal(after.st_size, before.st_size);
}

static void rebuilding_rescues_names_of_a_lost_journal(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest tagged;
        struct testimage image = put(t, "a", "x", 0);
        teststore_close(t);
        cas_cleanup_free char *journal = cas_xasprintf("%s/journal/names", t->path);
        ok(truncate(journal, 70));
        assert_int_equal(teststore_open(t, &err), -CAS_E_CORRUPT);
        assert_non_null(strstr(err.msg, "--rebuild"));
        rebuild(t);
        ok(cas_tag_get(t->store, "a", "x", &tagged, &err));
        assert_true(cas_digest_equal(&tagged, &image.manifest));
        expect_fsck(t, "");
        teststore_close(t);
        ok(truncate(journal, 3));
        rebuild(t);
        ok(cas_tag_get(t->store, "a", "x", &tagged, &err));
        expect_fsck(t, "");
        /* Damage in the snapshot, where the journal tells its length and not what it lost. */
        ok(cas_commit_compact(t->store, &err));
        cas_cleanup_fd int fd = open(journal, O_RDWR | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "xxxx", 4, 100), 4);
        rebuild(t);
        ok(cas_tag_get(t->store, "a", "x", &tagged, &err));
        expect_fsck(t, "");
}

static void upgrading_is_checked(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        unsigned from = 0, to = 0;
        const struct cas_store_config config = {.path = t->path};
        assert_int_equal(cas_upgrade(&config, &from, &to, &err), -CAS_E_BUSY);
        struct cas_format format;
        ok(cas_format_read(cas_io_posix(), t->store->dirfd, &format, &err));
        int dirfd = dup(t->store->dirfd);
        teststore_close(t);
        ok(cas_upgrade(&config, &from, &to, &err));
        assert_int_equal(from, CAS_FORMAT_VERSION);
        assert_int_equal(to, CAS_FORMAT_VERSION);
        format.version = 1;
        ok(cas_format_write(cas_io_posix(), dirfd, &format, &err));
        assert_int_equal(teststore_open(t, &err), -CAS_E_UNSUPPORTED);
        ok(cas_upgrade(&config, &from, &to, &err));
        assert_int_equal(from, 1);
        assert_int_equal(to, CAS_FORMAT_VERSION);
        teststore_reopen(t);
        expect_fsck(t, "");
        teststore_close(t);
        format.version = CAS_FORMAT_VERSION + 1;
        ok(cas_format_write(cas_io_posix(), dirfd, &format, &err));
        assert_int_equal(cas_upgrade(&config, &from, &to, &err), -CAS_E_UNSUPPORTED);
        format.version = CAS_FORMAT_VERSION;
        format.incompat = 4;
        ok(cas_format_write(cas_io_posix(), dirfd, &format, &err));
        assert_int_equal(cas_upgrade(&config, &from, &to, &err), -CAS_E_UNSUPPORTED);
        (void)close(dirfd);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(a_sound_store_has_no_findings),
                TEST(gc_keeps_what_is_named),
                TEST(gc_removes_what_nothing_names),
                TEST(gc_rewrites_thin_packs),
                TEST(gc_heeds_grace_and_leases),
                TEST(trees_live_with_their_layers),
                TEST(fsck_finds_damaged_blobs),
                TEST(fsck_finds_damaged_packs),
                TEST(fsck_compares_index_and_packs),
                TEST(fsck_compares_names_and_journal),
                TEST(fsck_reads_manifests),
                TEST(rebuilding_gives_the_same_index),
                TEST(rebuilding_needs_no_index),
                TEST(a_rebuild_that_broke_off_leaves_the_old_index),
                TEST(rebuilding_forgets_layers_that_lost_files),
                TEST(rebuilding_cuts_nothing_off_a_damaged_pack),
                TEST(rebuilding_rescues_names_of_a_lost_journal),
                TEST(upgrading_is_checked),
        };
        return cmocka_run_group_tests_name("maintain", tests, NULL, NULL);
}
