/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>

#include "cas/blobcache_int.h"
#include "cas/condense.h"
#include "cas/maintain.h"
#include "cas/object.h"
#include "cas/pack_int.h"
#include "cas/repair_run_int.h"
#include "cas/tree_int.h"
#include "cas/verity.h"
#include "tests/support/pushedimage.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

#define FILES 12

static void check_ok(int rc, const struct cas_err *err, int line)
{
        if (rc < 0)
                fail_msg("line %d: %s", line, err->msg);
}
#define ok(call) check_ok(call, &err, __LINE__)

/* ---- what is told, and an upstream ---- */

static struct cas_buf told;

static void tell(void *arg CAS_UNUSED, enum cas_fsck_severity severity CAS_UNUSED, const char *id,
                 const char *subject, const char *message)
{
        cas_buf_printf(&told, "%s %s|", id, subject);
        assert_true(message[0] != '\0');
}

/* Has one image; `lies`: gives other bytes. */
struct upstream {
        const struct pushedimage *image;
        unsigned asked;
        bool lies;
        char repo[64];
};

static int fetch(void *arg, struct cas_publish *p, const struct cas_digest *blob,
                 const char *const *repos, size_t repo_count, struct cas_err *err)
{
        struct upstream *up = arg;
        up->asked++;
        if (repo_count > 0)
                (void)snprintf(up->repo, sizeof(up->repo), "%s", repos[0]);
        if (!up->image || !cas_digest_equal(blob, &up->image->layer))
                return cas_fail(err, CAS_E_NOTFOUND, "no such blob");
        size_t len = up->image->bytes.len_bytes - (up->lies ? 1 : 0);
        return cas_publish_blob(p, up->image->bytes.data, len, blob, NULL, err);
}

static struct cas_repair *repair_of(struct teststore *t, struct upstream *up,
                                    struct cas_scrub_options *options)
{
        *options = (struct cas_scrub_options){
                .repair = true, .fetch_blob = up ? fetch : NULL, .fetch_arg = up};
        cas_buf_clear(&told);
        return cas_repair_new(t->store, options, tell, NULL);
}

#define repair_with(t, up, call)                                                                   \
        ({                                                                                         \
                struct cas_scrub_options options_;                                                 \
                enum cas_repaired out = 0;                                                         \
                struct cas_repair *r = repair_of(t, up, &options_);                                \
                ok(call);                                                                          \
                cas_repair_free(r);                                                                \
                (int)out;                                                                          \
        })

static bool was_told(const char *text)
{
        return told.data && strstr(cas_buf_str(&told), text) != NULL;
}

static void say(void *arg, enum cas_fsck_severity severity CAS_UNUSED, const char *id,
                const char *subject CAS_UNUSED, const char *message)
{
        if (strcmp(id, "pack-garbage") != 0 && strcmp(id, "chunk-unused") != 0) {
                cas_buf_printf(arg, "%s ", id);
                print_message("%s\n", message);
        }
}

static void expect_fsck(struct teststore *t, const char *expected)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        cas_cleanup_buf struct cas_buf ids = CAS_BUF_INIT;
        ok(cas_fsck(t->store, NULL, NULL, say, &ids, &r, &err));
        assert_string_equal(cas_buf_str(&ids), expected);
}

/* ---- images ---- */

static void put(struct teststore *t, struct pushedimage *image, const char *tag, unsigned seed,
                enum pushed_kind kind)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record layer;
        pushedimage_make(image, "library/app", tag, seed, FILES, kind);
        ok(pushedimage_push(t->store, image, &err));
        ok(pushedimage_decode(t->store, image, &layer, &err));
}

static struct cas_recipe_record condense(struct teststore *t, const struct pushedimage *image,
                                         bool keep)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_condense_options options = {.threads = 2, .keep_verbatim = keep};
        struct cas_recipe_record rec;
        ok(cas_condense_blob(t->store, &image->layer, &options, NULL, &rec, &err));
        assert_string_equal(rec.reason, "");
        assert_true(rec.is_proved);
        return rec;
}

static void expect_whole(struct teststore *t, const struct pushedimage *image)
{
        struct cas_err err = CAS_ERR_INIT;
        int got = pushedimage_check(t->store, image, &err);
        if (got != 0)
                fail_msg("%d: %s", got, err.msg);
}

static struct cas_hash file_of(const struct pushedimage *image, unsigned file)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_hash id;
        test_file(image->seed + file, &bytes);
        cas_verity_of(bytes.data, bytes.len_bytes, &id);
        return id;
}

/* Of a file of several chunks: every fifth. */
static unsigned large_file(const struct pushedimage *image)
{
        unsigned file = 1;
        while ((image->seed + file) % 5 != 4)
                file++;
        return file;
}

static struct cas_hash chunk_of(struct teststore *t, const struct cas_hash *object, uint32_t index)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_object_record rec;
        struct cas_chunk_ref ref = {.chunk = *object};
        uint32_t count = 1;
        ok(cas_index_get_object(t->store->index, object, &rec, &err));
        if (rec.chunk_count > 1)
                ok(cas_index_get_object_chunks(t->store->index, object, index, &ref, 1, &count,
                                               &err));
        assert_int_equal(count, 1);
        return ref.chunk;
}

/* ---- damage ---- */

static char *pack_path(struct teststore *t, uint64_t id)
{
        char name[CAS_PACK_NAME_BYTES];
        return cas_xasprintf("%s/packs/%s", t->path, cas_pack_name(id, name));
}

static void flip_bit(const char *path, off_t at, unsigned bit)
{
        cas_cleanup_fd int fd = open(path, O_RDWR | O_CLOEXEC);
        uint8_t byte;
        assert_true(fd >= 0);
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= (uint8_t)(1 << bit);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

/* Never the same bit twice in a row, which would repair it. */
static void flip_file(const char *path, off_t at)
{
        static unsigned flips;
        flip_bit(path, at, flips++ % 8);
}

static struct cas_chunk_record place_of(struct teststore *t, const struct cas_hash *chunk)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_chunk_record rec;
        ok(cas_index_get_chunk(t->store->index, chunk, &rec, &err));
        return rec;
}

static void damage_chunk(struct teststore *t, const struct cas_hash *chunk)
{
        struct cas_chunk_record rec = place_of(t, chunk);
        cas_cleanup_free char *path = pack_path(t, rec.pack_id);
        flip_file(path, (off_t)(rec.block_offset + rec.block_stored_bytes / 2));
}

static char *blob_file(struct teststore *t, const struct cas_digest *blob)
{
        char path[CAS_BLOB_PATH_BYTES];
        cas_blob_path(blob, path);
        return cas_xasprintf("%s/%s", t->path, path);
}

static void damage_blob(struct teststore *t, const struct cas_digest *blob)
{
        cas_cleanup_free char *path = blob_file(t, blob);
        flip_file(path, 100);
}

static bool in_quarantine(struct teststore *t, const char *name)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/quarantine/%s", t->path, name);
        return access(path, F_OK) == 0;
}

static bool blob_in_quarantine(struct teststore *t, const struct cas_digest *blob)
{
        char hex[CAS_DIGEST_TEXT_BYTES];
        cas_cleanup_free char *name = cas_xasprintf("blobs/sha256-%s", cas_digest_hex(blob, hex));
        return in_quarantine(t, name);
}

/* Repairs all packs, as scrub does with those in which it finds damage. */
static uint64_t packs[64];
static unsigned pack_count;

static bool note_pack(void *arg CAS_UNUSED, uint64_t id,
                      const struct cas_pack_record *rec CAS_UNUSED)
{
        packs[pack_count++] = id;
        return pack_count < 64;
}

static void list_packs(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        pack_count = 0;
        ok(cas_index_each_pack(t->store->index, note_pack, NULL, &err));
}

/* Reopening forgets blocks that are in memory. */
static int repair_chunk(struct teststore *t, const struct cas_hash *chunk, struct upstream *up)
{
        struct cas_err err = CAS_ERR_INIT;
        return repair_with(t, up, cas_repair_chunk(r, chunk, &out, &err));
}

static int repair_pack(struct teststore *t, uint64_t id, struct upstream *up)
{
        struct cas_err err = CAS_ERR_INIT;
        return repair_with(t, up, cas_repair_pack(r, id, &out, &err));
}

static int repair_blob(struct teststore *t, const struct cas_digest *blob, struct upstream *up)
{
        struct cas_err err = CAS_ERR_INIT;
        return repair_with(t, up, cas_repair_blob(r, blob, &out, &err));
}

static int repair_recipe(struct teststore *t, const struct cas_digest *blob, struct upstream *up)
{
        struct cas_err err = CAS_ERR_INIT;
        return repair_with(t, up, cas_repair_recipe(r, blob, &out, &err));
}

static int repair_object(struct teststore *t, const struct cas_hash *object)
{
        struct cas_err err = CAS_ERR_INIT;
        return repair_with(t, NULL, cas_repair_object(r, object, &out, &err));
}

/* ---- chunks ---- */

static void what_is_sound_is_left_alone(void **state)
{
        struct teststore *t = *state;
        cleanup_pushedimage struct pushedimage a;
        put(t, &a, "a", 0, PUSHED_GZIP);
        struct cas_hash file = file_of(&a, 1);
        struct cas_chunk_record before = place_of(t, &file), after;
        assert_int_equal(repair_chunk(t, &file, NULL), CAS_REPAIRED);
        assert_int_equal(repair_object(t, &file), CAS_REPAIRED);
        assert_int_equal(repair_blob(t, &a.layer, NULL), CAS_REPAIRED);
        after = place_of(t, &file);
        assert_int_equal(after.pack_id, before.pack_id);
        assert_int_equal(after.block_offset, before.block_offset);
        assert_int_equal(told.len_bytes, 0);
        expect_whole(t, &a);
}

static void chunks_come_from_the_blob_of_a_layer(void **state)
{
        struct teststore *t = *state;
        cleanup_pushedimage struct pushedimage a;
        put(t, &a, "a", 0, PUSHED_GZIP);
        const unsigned files[] = {1, large_file(&a)};
        for (unsigned i = 0; i < CAS_COUNT(files); i++) {
                struct cas_hash object = file_of(&a, files[i]), chunk = chunk_of(t, &object, 0);
                struct cas_chunk_record before = place_of(t, &chunk);
                damage_chunk(t, &chunk);
                teststore_reopen(t);
                assert_int_equal(repair_chunk(t, &chunk, NULL), CAS_REPAIRED);
                struct cas_chunk_record after = place_of(t, &chunk);
                assert_true(after.pack_id != before.pack_id ||
                            after.block_offset != before.block_offset);
        }
        /* The others of the two blocks are damaged as well: the packs go. */
        list_packs(t);
        for (unsigned i = 0; i < pack_count; i++)
                (void)repair_pack(t, packs[i], NULL);
        teststore_reopen(t);
        expect_whole(t, &a);
        expect_fsck(t, "");
        assert_false(in_quarantine(t, "packs"));
}

static void listings_come_from_the_blob_of_their_layer(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_pushedimage struct pushedimage a;
        struct cas_layer_record layer, again;
        put(t, &a, "a", 0, PUSHED_TAR);
        ok(cas_layer_stat(t->store, &a.layer, &layer, &err));
        list_packs(t);
        damage_chunk(t, &layer.listing);
        teststore_reopen(t);
        assert_int_equal(repair_object(t, &layer.listing), CAS_REPAIRED);
        ok(cas_layer_stat(t->store, &a.layer, &again, &err));
        assert_memory_equal(&layer.listing, &again.listing, sizeof(layer.listing));
        (void)repair_pack(t, packs[0], NULL);
        teststore_reopen(t);
        expect_fsck(t, "");
}

/* Condensed, so that no layer can be decoded; a second copy that the index does not point to. */
static void chunks_come_from_other_blocks(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_pushedimage struct pushedimage a;
        put(t, &a, "a", 0, PUSHED_GZIP);
        struct cas_mend mend = {.names = CAS_HASHSET_INIT};
        for (unsigned i = 0; i < FILES; i++) {
                struct cas_hash object = file_of(&a, i);
                for (uint32_t c = 0; c < 8; c++) {
                        struct cas_object_record rec;
                        ok(cas_index_get_object(t->store->index, &object, &rec, &err));
                        if (c < rec.chunk_count) {
                                struct cas_hash chunk = chunk_of(t, &object, c);
                                (void)cas_hashset_add(&mend.names, chunk.bytes);
                        }
                }
        }
        ok(cas_packset_seal(t->store->packset, &err));
        ok(cas_layer_mend(t->store, &a.layer, &mend, &err)); /* all of it once more */
        cas_hashset_release(&mend.names);
        (void)condense(t, &a, false);
        struct cas_hash object = file_of(&a, large_file(&a)), chunk = chunk_of(t, &object, 1);
        uint64_t pack = place_of(t, &chunk).pack_id;
        damage_chunk(t, &chunk);
        teststore_reopen(t);
        assert_int_equal(repair_chunk(t, &chunk, NULL), CAS_REPAIRED);
        assert_int_equal(repair_pack(t, pack, NULL), CAS_REPAIRED);
        teststore_reopen(t);
        expect_whole(t, &a);
        expect_fsck(t, "");
}

static void chunks_come_from_an_upstream(void **state)
{
        struct teststore *t = *state;
        cleanup_pushedimage struct pushedimage a;
        struct upstream up = {.lies = true};
        put(t, &a, "a", 0, PUSHED_GZIP);
        (void)condense(t, &a, false);
        struct cas_hash object = file_of(&a, 1);
        uint64_t pack = place_of(t, &object).pack_id;
        damage_chunk(t, &object);
        teststore_reopen(t);
        up.image = &a;
        up.lies = false;
        assert_int_equal(repair_pack(t, pack, &up), CAS_REPAIRED);
        assert_true(up.asked > 0);
        assert_string_equal(up.repo, "library/app");
        teststore_reopen(t);
        expect_whole(t, &a);
        expect_fsck(t, "");
        (void)condense(t, &a, false);
        expect_whole(t, &a);
        expect_fsck(t, "");
}

/* Nobody has it: it is absent, its images are named, and who brings them heals everything. */
static void what_is_lost_is_named_and_healed_by_a_push(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        for (unsigned large = 0; large < 2; large++) {
                cleanup_pushedimage struct pushedimage a, b;
                struct cas_layer_record layer;
                struct upstream up = {.lies = true};
                put(t, &a, "lost", large * 100, PUSHED_GZIP);
                put(t, &b, "other", large * 100 + 50, PUSHED_GZIP);
                (void)condense(t, &a, false);
                (void)condense(t, &b, false);
                up.image = &a;
                struct cas_hash object = file_of(&a, large ? large_file(&a) : 1);
                struct cas_hash chunk = chunk_of(t, &object, 0);
                uint64_t pack = place_of(t, &chunk).pack_id;
                damage_chunk(t, &chunk);
                teststore_reopen(t);
                assert_int_equal(repair_pack(t, pack, &up), CAS_QUARANTINED);
                assert_true(was_told("quarantined "));
                assert_true(was_told("image-damaged library/app:lost|"));
                cas_cleanup_free char *name =
                        cas_xasprintf("packs/%016llx.pack", (unsigned long long)pack);
                assert_true(in_quarantine(t, name));
                teststore_reopen(t);
                assert_int_equal(cas_blob_stat(t->store, &a.layer, NULL, &err), -CAS_E_NOTFOUND);
                expect_whole(t, &b);
                /* A mount goes on with what there is. */
                ok(pushedimage_decode(t->store, &a, &layer, &err));
                assert_int_equal(pushedimage_check(t->store, &a, &err), 1);
                ok(pushedimage_push(t->store, &a, &err));
                ok(pushedimage_decode(t->store, &a, &layer, &err));
                assert_int_equal(layer.listing_version, CAS_LISTING_VERSION);
                expect_whole(t, &a);
                expect_fsck(t, "");
                (void)condense(t, &a, false);
                expect_whole(t, &a);
                expect_fsck(t, "");
        }
}

static void what_nothing_needs_is_removed(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_pushedimage struct pushedimage a;
        cas_cleanup_publish struct cas_publish *p = NULL;
        put(t, &a, "a", 0, PUSHED_GZIP);
        struct cas_hash chunk;
        cas_sha256("nobody", 6, &chunk);
        struct cas_hash sound = file_of(&a, 1);
        struct cas_chunk_record rec = place_of(t, &sound);
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        cas_batch_put_chunk(batch, &chunk, &rec); /* which is not it */
        ok(cas_index_write(t->store->index, batch, &err));
        (void)repair_chunk(t, &chunk, NULL);
        bool there;
        ok(cas_index_has(t->store->index, CAS_FAMILY_CHUNKS, chunk.bytes, CAS_HASH_BYTES, &there,
                         &err));
        assert_false(there);
        expect_whole(t, &a);
        expect_fsck(t, "");
}

static int skip_bytes(void *arg CAS_UNUSED, const void *data CAS_UNUSED, size_t len CAS_UNUSED,
                      struct cas_err *err CAS_UNUSED)
{
        return 0;
}

/* Readers get an error that says what to do, and the next scrub begins with what they met. */
static void what_readers_meet_is_noted_and_repaired(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_fsck_options options = {.repair = true};
        struct cas_fsck_result r;
        cleanup_pushedimage struct pushedimage a;
        put(t, &a, "a", 0, PUSHED_GZIP);
        struct cas_hash object = file_of(&a, 1);
        damage_chunk(t, &object);
        teststore_reopen(t);
        for (unsigned i = 0; i < 2; i++) {
                assert_int_equal(cas_object_each(t->store, &object, skip_bytes, NULL, &err),
                                 -CAS_E_CORRUPT);
                assert_non_null(strstr(err.msg, "lamina scrub --repair"));
                assert_int_equal(cas_scrub_noted(t->store), 1);
        }
        cas_buf_clear(&told);
        ok(cas_fsck(t->store, &options, NULL, tell, NULL, &r, &err));
        assert_int_equal(cas_scrub_noted(t->store), 0);
        assert_true(r.errors > 0 && r.repaired == r.errors);
        assert_non_null(strstr(cas_buf_str(&told), "chunk-digest "));
        expect_whole(t, &a);
        expect_fsck(t, "");
}

/* ---- objects ---- */

static void wrong_lists_are_made_again(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        for (unsigned round = 0; round < 3; round++) {
                cleanup_pushedimage struct pushedimage a;
                put(t, &a, "a", round * 100, PUSHED_GZIP);
                if (round == 1)
                        (void)condense(t, &a, false); /* the list of the pack is all there is */
                struct cas_hash object = file_of(&a, large_file(&a));
                struct cas_object_record rec;
                struct cas_chunk_ref refs[64];
                uint32_t count;
                ok(cas_index_get_object(t->store->index, &object, &rec, &err));
                ok(cas_index_get_object_chunks(t->store->index, &object, 0, refs, 64, &count,
                                               &err));
                assert_int_equal(count, rec.chunk_count);
                cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
                struct cas_chunk_ref swapped = refs[0];
                refs[0] = refs[1];
                refs[1] = swapped;
                cas_batch_del_object(batch, &object, count);
                if (round < 2) /* else it is gone */
                        cas_batch_put_object(batch, &object, rec.size_bytes, refs, count);
                ok(cas_index_write(t->store->index, batch, &err));
                assert_int_equal(repair_object(t, &object), CAS_REPAIRED);
                expect_whole(t, &a);
                expect_fsck(t, "");
        }
}

/* ---- blobs ---- */

static void blobs_are_made_from_their_recipes(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_pushedimage struct pushedimage a;
        enum cas_blob_copy copy;
        put(t, &a, "a", 0, PUSHED_GZIP);
        (void)condense(t, &a, true);
        damage_blob(t, &a.layer);
        assert_int_equal(repair_blob(t, &a.layer, NULL), CAS_REPAIRED);
        ok(cas_blob_copy(t->store, &a.layer, &copy, &err));
        assert_int_equal(copy, CAS_BLOB_CACHED);
        expect_whole(t, &a);
        expect_fsck(t, "");
        /* And where objects of the recipe are damaged, but those can be had by nothing else: the
         * file is the truth. */
        cas_cleanup_free char *path = blob_file(t, &a.layer);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(repair_blob(t, &a.layer, NULL), CAS_REPAIRED);
        expect_whole(t, &a);
        expect_fsck(t, "");
}

static void blobs_come_from_an_upstream(void **state)
{
        struct teststore *t = *state;
        cleanup_pushedimage struct pushedimage a;
        struct upstream up = {.image = NULL};
        put(t, &a, "a", 0, PUSHED_GZIP);
        up.image = &a;
        damage_blob(t, &a.layer);
        assert_int_equal(repair_blob(t, &a.layer, &up), CAS_REPAIRED);
        assert_int_equal(up.asked, 1);
        assert_false(blob_in_quarantine(t, &a.layer));
        expect_whole(t, &a);
        expect_fsck(t, "");
}

static void lost_blobs_are_put_aside_and_healed_by_a_push(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_pushedimage struct pushedimage a;
        struct upstream up = {.lies = true};
        put(t, &a, "a", 0, PUSHED_GZIP);
        up.image = &a;
        assert_true(a.bytes.len_bytes > 256 * CAS_KIB);
        const struct cas_digest blobs[] = {a.layer, a.config, a.manifest};
        for (unsigned i = 0; i < CAS_COUNT(blobs); i++) {
                cas_cleanup_free char *path = blob_file(t, &blobs[i]);
                flip_file(path, 10);
                assert_int_equal(repair_blob(t, &blobs[i], &up), CAS_QUARANTINED);
                assert_true(blob_in_quarantine(t, &blobs[i]));
                assert_true(was_told("image-damaged library/app:a|"));
                assert_int_equal(cas_blob_stat(t->store, &blobs[i], NULL, &err), -CAS_E_NOTFOUND);
                assert_int_equal(repair_blob(t, &blobs[i], &up), CAS_QUARANTINED);
        }
        ok(pushedimage_push(t->store, &a, &err));
        expect_whole(t, &a);
        expect_fsck(t, "");
}

/* ---- recipes ---- */

static void recipes_give_way_to_a_sound_copy(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_pushedimage struct pushedimage a;
        enum cas_blob_copy copy;
        put(t, &a, "a", 0, PUSHED_GZIP);
        struct cas_recipe_record rec = condense(t, &a, true);
        uint64_t pack = place_of(t, &rec.recipe).pack_id;
        ok(cas_packset_seal(t->store->packset, &err));
        damage_chunk(t, &rec.recipe);
        teststore_reopen(t);
        assert_int_equal(repair_recipe(t, &a.layer, NULL), CAS_REPAIRED);
        ok(cas_blob_copy(t->store, &a.layer, &copy, &err));
        assert_int_equal(copy, CAS_BLOB_VERBATIM);
        (void)repair_pack(t, pack, NULL);
        teststore_reopen(t);
        expect_whole(t, &a);
        (void)condense(t, &a, false);
        expect_whole(t, &a);
        expect_fsck(t, "");
}

static void a_recipe_alone_is_lost_with_its_object(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        for (unsigned round = 0; round < 2; round++) {
                cleanup_pushedimage struct pushedimage a;
                struct upstream up = {.lies = round == 0};
                put(t, &a, "a", round * 100, PUSHED_GZIP);
                struct cas_recipe_record rec = condense(t, &a, false);
                uint64_t pack = place_of(t, &rec.recipe).pack_id;
                up.image = &a;
                damage_chunk(t, &rec.recipe);
                teststore_reopen(t);
                (void)repair_pack(t, pack, &up);
                if (round == 0) {
                        assert_true(was_told("image-damaged library/app:a|"));
                        assert_int_equal(cas_blob_stat(t->store, &a.layer, NULL, &err),
                                         -CAS_E_NOTFOUND);
                        ok(pushedimage_push(t->store, &a, &err));
                }
                struct cas_layer_record layer;
                ok(pushedimage_decode(t->store, &a, &layer, &err));
                expect_whole(t, &a);
                (void)condense(t, &a, false);
                teststore_reopen(t);
                expect_whole(t, &a);
                expect_fsck(t, "");
        }
}

static void kept_frames_are_brought_again_with_their_blob(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_pushedimage struct pushedimage a;
        put(t, &a, "a", 0, PUSHED_ZSTD_FRAMES);
        struct cas_recipe_record rec = condense(t, &a, true);
        assert_int_equal(rec.wrap, 4);
        const unsigned files[] = {1, large_file(&a)};
        for (unsigned i = 0; i < CAS_COUNT(files); i++) {
                struct cas_hash object = file_of(&a, files[i]), chunk = chunk_of(t, &object, 0);
                struct cas_chunk_record at = place_of(t, &chunk);
                enum cas_blob_copy copy;
                assert_int_equal(at.codec, CAS_CODEC_ZSTD_KEPT);
                damage_chunk(t, &chunk);
                teststore_reopen(t);
                assert_int_equal(repair_pack(t, at.pack_id, NULL), CAS_REPAIRED);
                expect_whole(t, &a);
                assert_int_equal(repair_recipe(t, &a.layer, NULL), CAS_REPAIRED);
                ok(cas_blob_copy(t->store, &a.layer, &copy, &err));
                assert_int_equal(copy, CAS_BLOB_VERBATIM);
                (void)condense(t, &a, true);
                expect_whole(t, &a);
                expect_fsck(t, "");
        }
        ok(cas_blob_cache_drop(t->store, &a.layer, &err));
        teststore_reopen(t);
        expect_whole(t, &a);
        expect_fsck(t, "");
}

/* ---- trees ---- */

static void trees_are_made_again(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_pushedimage struct pushedimage a;
        struct cas_layer_record layer;
        struct cas_tree_ref tree, again;
        put(t, &a, "a", 0, PUSHED_GZIP);
        ok(cas_layer_stat(t->store, &a.layer, &layer, &err));
        ok(cas_tree_ensure(t->store, &layer, 1, &tree, &err));
        char path[4096];
        cas_tree_path(t->store, &tree.digest, path, sizeof(path));
        flip_file(path, 2000);
        assert_int_equal(repair_with(t, NULL, cas_repair_tree(r, &tree.digest, &out, &err)),
                         CAS_REPAIRED);
        assert_int_equal(access(path, F_OK), -1);
        expect_fsck(t, "");
        ok(cas_tree_ensure(t->store, &layer, 1, &again, &err));
        assert_true(cas_digest_equal(&tree.digest, &again.digest));
        expect_fsck(t, "");
        assert_int_equal(repair_with(t, NULL, cas_repair_tree(r, &a.layer, &out, &err)),
                         CAS_NOT_NEEDED);
}

/* ---- packs ---- */

static void forget_index(struct teststore *t)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_store_config config = {.path = t->path};
        teststore_close(t);
        cas_cleanup_free char *index = cas_xasprintf("%s/index", t->path);
        ok(cas_index_destroy(index, &err));
        ok(cas_rebuild(&config, NULL, &err));
        teststore_reopen(t);
}

/* Damage of every kind in a pack: afterwards all is there, and can be found from packs alone. */
static void packs_are_repaired(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_pushedimage struct pushedimage a;
        put(t, &a, "a", 0, PUSHED_GZIP);
        for (unsigned round = 0; round < 40; round++) {
                list_packs(t);
                uint64_t id = packs[round % pack_count];
                cas_cleanup_free char *path = pack_path(t, id);
                struct stat st;
                if (round % 4 == 3)
                        ok(cas_packset_seal(t->store->packset, &err));
                teststore_close(t);
                assert_int_equal(stat(path, &st), 0);
                if (round == 39)
                        assert_int_equal(unlink(path), 0);
                else
                        flip_file(path,
                                  (off_t)(((uint64_t)round * 7919 * 131) % (uint64_t)st.st_size));
                teststore_reopen(t);
                (void)repair_pack(t, id, NULL);
                struct cas_pack_record rec;
                assert_int_equal(cas_index_get_pack(t->store->index, id, &rec, &err),
                                 -CAS_E_NOTFOUND);
                assert_int_equal(access(path, F_OK), -1);
                expect_whole(t, &a);
                expect_fsck(t, "");
        }
        forget_index(t);
        struct cas_layer_record layer;
        ok(cas_layer_stat(t->store, &a.layer, &layer, &err));
        expect_whole(t, &a);
        expect_fsck(t, "");
}

/* One bit anywhere in a pack, no index: what is behind the damage is there. */
static void rebuilding_uses_what_is_behind_damage(void **state)
{
        struct teststore *t = *state;
        struct cas_err err = CAS_ERR_INIT;
        cleanup_pushedimage struct pushedimage a;
        struct cas_layer_record layer;
        put(t, &a, "a", 0, PUSHED_GZIP);
        list_packs(t);
        assert_int_equal(pack_count, 1);
        cas_cleanup_free char *path = pack_path(t, packs[0]);
        const off_t places[] = {3, 32, 60, 400};
        for (unsigned i = 0; i < CAS_COUNT(places); i++) {
                struct cas_store_stats stats;
                flip_bit(path, places[i], 2);
                forget_index(t);
                ok(cas_store_stats(t->store, &stats, &err));
                assert_true(stats.object_count > 1);
                assert_int_equal(access(path, F_OK), 0);
                flip_bit(path, places[i], 2);
                forget_index(t);
                ok(cas_layer_stat(t->store, &a.layer, &layer, &err));
                expect_whole(t, &a);
                expect_fsck(t, "");
        }
}

static int teardown(void **state)
{
        cas_buf_release(&told);
        told = (struct cas_buf)CAS_BUF_INIT;
        return teststore_teardown(state);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, teststore_setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(what_is_sound_is_left_alone),
                TEST(chunks_come_from_the_blob_of_a_layer),
                TEST(listings_come_from_the_blob_of_their_layer),
                TEST(chunks_come_from_other_blocks),
                TEST(chunks_come_from_an_upstream),
                TEST(what_is_lost_is_named_and_healed_by_a_push),
                TEST(what_nothing_needs_is_removed),
                TEST(what_readers_meet_is_noted_and_repaired),
                TEST(wrong_lists_are_made_again),
                TEST(blobs_are_made_from_their_recipes),
                TEST(blobs_come_from_an_upstream),
                TEST(lost_blobs_are_put_aside_and_healed_by_a_push),
                TEST(recipes_give_way_to_a_sound_copy),
                TEST(a_recipe_alone_is_lost_with_its_object),
                TEST(kept_frames_are_brought_again_with_their_blob),
                TEST(trees_are_made_again),
                TEST(packs_are_repaired),
                TEST(rebuilding_uses_what_is_behind_damage),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
