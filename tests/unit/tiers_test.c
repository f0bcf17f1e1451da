/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>

#include "cas/blockcache.h"
#include "cas/maintain.h"
#include "cas/object.h"
#include "cas/packfile_int.h"
#include "cas/scrub.h"
#include "cas/store_int.h"
#include "tests/support/fewtiers.h"
#include "tests/support/scratch.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

#define FILES 12
#define SEED 7

enum { FAST, SLOW, FAR }; /* numbers of the tiers */

struct world {
        char *dir;
        struct fewtiers tiers;
        struct cas_store *store;
        struct testimage image;
};

static void check_ok(int rc, const struct cas_err *err, int line)
{
        if (rc < 0)
                fail_msg("line %d: %s", line, err->msg);
}
#define ok(call) check_ok(call, &err, __LINE__)

static int try_open(struct world *w, struct cas_err *err)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/store", w->dir);
        const struct cas_store_config config = {
                .path = path, .threads = 2, .backend = &w->tiers.backend};
        fewtiers_recount(&w->tiers);
        return cas_store_open(&config, &w->store, err);
}

static void reopen(struct world *w)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_store_close(cas_steal(&w->store));
        ok(try_open(w, &err));
}

static void add_tier(struct world *w, const char *name, const char *path, bool is_remote,
                     enum cas_pack_density density)
{
        cas_cleanup_free char *dir = cas_xasprintf("%s/%s", w->dir, path);
        (void)fewtiers_add(&w->tiers, name, dir, is_remote, density);
}

static int setup(void **state)
{
        struct cas_err err = CAS_ERR_INIT;
        struct world *w = cas_xcalloc(1, sizeof(*w));
        w->dir = scratch_new();
        cas_cleanup_free char *store = cas_xasprintf("%s/store", w->dir);
        assert_int_equal(mkdir(store, 0700), 0);
        fewtiers_init(&w->tiers);
        add_tier(w, "fast", "store/packs", false, CAS_PACK_FAST);
        add_tier(w, "slow", "slow", false, CAS_PACK_FAST);
        add_tier(w, "far", "far", true, CAS_PACK_FAST);
        ok(try_open(w, &err));
        ok(testimage_put(w->store, "r", "t", SEED, FILES, &w->image, &err));
        *state = w;
        return 0;
}

static int teardown(void **state)
{
        struct world *w = *state;
        cas_store_close(w->store);
        fewtiers_release(&w->tiers);
        scratch_free(w->dir);
        free(w);
        return 0;
}

/* ---- looking ---- */

struct seen {
        struct cas_pack_info list[256];
        size_t count;
};

static bool see(void *arg, const struct cas_pack_info *pack)
{
        struct seen *seen = arg;
        assert_true(seen->count < CAS_COUNT(seen->list));
        seen->list[seen->count++] = *pack;
        return true;
}

static struct seen all(struct world *w)
{
        struct cas_err err = CAS_ERR_INIT;
        struct seen seen = {.count = 0};
        ok(cas_pack_each(w->store, see, &seen, &err));
        return seen;
}

/* The one pack that there is. */
static struct cas_pack_info only(struct world *w)
{
        struct seen seen = all(w);
        assert_int_equal(seen.count, 1);
        return seen.list[0];
}

static void expect_files(struct world *w, uint32_t tier, unsigned packs)
{
        unsigned others;
        assert_int_equal(fewtiers_packs(&w->tiers, tier, &others), packs);
        assert_int_equal(others, 0);
}

/* What is counted is what lies there. */
static void expect_counts(struct world *w)
{
        uint64_t counted[FEWTIERS_MAX];
        for (unsigned i = 0; i < w->tiers.count; i++)
                counted[i] = atomic_load(&w->tiers.tiers[i].used_bytes);
        fewtiers_recount(&w->tiers);
        for (unsigned i = 0; i < w->tiers.count; i++)
                if (!w->tiers.tiers[i].remote)
                        assert_int_equal(atomic_load(&w->tiers.tiers[i].used_bytes), counted[i]);
}

static void say(void *arg, enum cas_fsck_severity severity, const char *id, const char *subject,
                const char *message)
{
        cas_buf_printf(arg, "%s(%s) %s: %s\n", id, severity == CAS_FSCK_ERROR ? "error" : "note",
                       subject, message);
}

static void expect_sound(struct world *w)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        cas_cleanup_buf struct cas_buf said = CAS_BUF_INIT;
        ok(cas_fsck(w->store, NULL, NULL, say, &said, &r, &err));
        if (said.len_bytes > 0)
                print_error("%.*s", (int)said.len_bytes, (const char *)said.data);
        assert_int_equal(said.len_bytes, 0);
        assert_true(testimage_is_whole(w->store, &w->image, SEED, FILES));
}

static int try_move(struct world *w, uint64_t pack_id, uint32_t to,
                    struct cas_pack_move_result *out, struct cas_err *err)
{
        const struct cas_pack_move_options o = {.to = to};
        return cas_pack_move(w->store, pack_id, &o, out, err);
}

static struct cas_pack_move_result move(struct world *w, uint64_t pack_id, uint32_t to)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_pack_move_result r;
        ok(try_move(w, pack_id, to, &r, &err));
        return r;
}

/* ---- packs and room ---- */

static void test_stat(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_pack_info info, found = only(w);
        assert_int_equal(found.tier, FAST);
        assert_int_equal(found.density, CAS_PACK_FAST);
        assert_false(found.sealed);
        assert_true(found.open);
        assert_int_equal(found.dead_bytes, 0);
        ok(cas_pack_stat(w->store, found.pack_id, &info, &err));
        assert_int_equal(info.size_bytes, found.size_bytes);
        assert_int_equal(cas_pack_stat(w->store, 1, &info, &err), -CAS_E_NOTFOUND);
        expect_counts(w);
}

static void test_placement_follows_room(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image;
        struct fewtier *fast = &w->tiers.tiers[FAST];
        fast->leaving = true;
        ok(testimage_put(w->store, "r", "u", 100, FILES, &image, &err));
        struct seen seen = all(w);
        assert_int_equal(seen.count, 2);
        assert_int_equal(seen.list[1].tier, SLOW);
        fast->leaving = false;
        ok(testimage_put(w->store, "r", "v", 200, FILES, &image, &err));
        assert_int_equal(all(w).count, 2); /* the first was gone on with */
        expect_counts(w);
        expect_sound(w);
}

static void test_no_room(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image;
        for (unsigned i = 0; i < 2; i++)
                w->tiers.tiers[i].capacity_bytes = w->tiers.tiers[i].used_bytes + 1000;
        assert_int_equal(testimage_put(w->store, "r", "u", 100, FILES, &image, &err),
                         -CAS_E_NOSPACE);
        expect_counts(w);
        expect_sound(w);
        for (unsigned i = 0; i < 2; i++)
                w->tiers.tiers[i].capacity_bytes = 0;
        err = (struct cas_err)CAS_ERR_INIT;
        ok(testimage_put(w->store, "r", "u", 100, FILES, &image, &err));
        assert_true(testimage_is_whole(w->store, &image, 100, FILES));
        reopen(w);
        expect_counts(w);
        expect_sound(w);
}

/* ---- moving as it is ---- */

static void test_move(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_pack_info before = only(w), after;
        struct cas_pack_move_result r = move(w, before.pack_id, SLOW);
        assert_false(r.recoded);
        assert_int_equal(r.bytes_before, before.size_bytes);
        after = only(w);
        assert_int_equal(after.pack_id, before.pack_id);
        assert_int_equal(after.tier, SLOW);
        assert_true(after.sealed);
        assert_false(after.open);
        assert_int_equal(after.size_bytes, r.bytes_after);
        expect_files(w, FAST, 0);
        expect_files(w, SLOW, 1);
        expect_counts(w);
        expect_sound(w);
        r = move(w, before.pack_id, SLOW); /* it is there */
        assert_int_equal(r.bytes_after, after.size_bytes);
        (void)move(w, before.pack_id, FAST);
        assert_int_equal(only(w).tier, FAST);
        expect_files(w, SLOW, 0);
        reopen(w);
        expect_sound(w);
        assert_int_equal(try_move(w, 1, SLOW, &r, &err), -CAS_E_NOTFOUND);
        assert_int_equal(try_move(w, before.pack_id, 9, &r, &err), -CAS_E_UNSUPPORTED);
}

/* Who reads has the old file, or finds the new one. */
static void test_readers_go_on(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        const uint64_t id = only(w).pack_id;
        char byte;
        cas_cleanup_fd int fd = -1;
        struct cas_packfd kept;
        ok(cas_pack_open_fd(w->store, id, &fd, &err));
        ok(cas_packset_fd_get(w->store->packset, id, &kept, &err));
        (void)move(w, id, SLOW);
        assert_int_equal(pread(fd, &byte, 1, 0), 1);
        assert_int_equal(pread(kept.fd, &byte, 1, 0), 1);
        cas_packset_fd_put(w->store->packset, &kept);
        ok(cas_packset_fd_get(w->store->packset, id, &kept, &err));
        assert_int_equal(kept.tier, SLOW);
        cas_packset_fd_put(w->store->packset, &kept);
        assert_true(testimage_is_whole(w->store, &w->image, SEED, FILES));
        assert_int_equal(atomic_load(&w->tiers.touched_tier), SLOW);
}

static void test_busy(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_pack_move_result r;
        struct cas_pack_claim claim;
        const uint64_t id = only(w).pack_id;
        assert_true(cas_packset_claim(w->store->packset, id, &claim));
        assert_int_equal(try_move(w, id, SLOW, &r, &err), -CAS_E_BUSY);
        cas_packset_unclaim(w->store->packset, &claim, false);
        (void)move(w, id, SLOW);
}

static bool stop(void *arg CAS_UNUSED)
{
        return true;
}

static void test_stopped(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_pack_move_result r;
        const struct cas_pack_move_options o = {.to = SLOW, .stop = stop};
        assert_int_equal(cas_pack_move(w->store, only(w).pack_id, &o, &r, &err), -CAS_E_BUSY);
        expect_files(w, FAST, 1);
        expect_files(w, SLOW, 0);
        expect_counts(w);
        assert_false(only(w).sealed);
}

static void test_no_room_to_move(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_pack_move_result r;
        const uint64_t id = only(w).pack_id;
        w->tiers.tiers[SLOW].capacity_bytes = 1000;
        assert_int_equal(try_move(w, id, SLOW, &r, &err), -CAS_E_NOSPACE);
        expect_files(w, SLOW, 0);
        expect_counts(w);
        w->tiers.tiers[SLOW].capacity_bytes = 0;
        w->tiers.tiers[SLOW].leaving = true;
        assert_int_equal(try_move(w, id, SLOW, &r, &err), -CAS_E_UNSUPPORTED);
        w->tiers.tiers[SLOW].unreachable = true;
        assert_int_equal(try_move(w, id, SLOW, &r, &err), -CAS_E_IO);
        expect_sound(w);
}

static void flip_byte(const char *path, off_t offset)
{
        uint8_t byte;
        cas_cleanup_fd int fd = open(path, O_RDWR | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(pread(fd, &byte, 1, offset), 1);
        byte ^= 0x40;
        assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
}

static void test_damage_does_not_move(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_pack_move_result r;
        struct cas_pack_file file = {.pack_id = only(w).pack_id};
        (void)move(w, file.pack_id, SLOW);
        cas_cleanup_free char *path = fewtiers_path(&w->tiers, SLOW, &file);
        flip_byte(path, 5000);
        assert_int_equal(try_move(w, file.pack_id, FAST, &r, &err), -CAS_E_CORRUPT);
        assert_int_equal(only(w).tier, SLOW);
        expect_files(w, FAST, 0);
        expect_counts(w);
}

/* ---- what a crash leaves ---- */

/* Copies the pack's file to another tier's directory. */
static void copy_pack(struct world *w, uint64_t id, uint32_t from, uint32_t to, const char *end)
{
        const struct cas_pack_file file = {.pack_id = id};
        cas_cleanup_free char *source = fewtiers_path(&w->tiers, from, &file);
        cas_cleanup_free char *target = fewtiers_path(&w->tiers, to, &file);
        cas_cleanup_free char *named = cas_xasprintf("%s%s", target, end);
        cas_cleanup_fd int in = open(source, O_RDONLY | O_CLOEXEC);
        cas_cleanup_fd int out = open(named, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        assert_true(in >= 0 && out >= 0);
        while (copy_file_range(in, NULL, out, NULL, 1 << 20, 0) > 0)
                continue;
}

static void remove_pack(struct world *w, uint64_t id, uint32_t from)
{
        const struct cas_pack_file file = {.pack_id = id};
        cas_cleanup_free char *path = fewtiers_path(&w->tiers, from, &file);
        assert_int_equal(unlink(path), 0);
}

static void test_copies_beside_the_home_go(void **state)
{
        struct world *w = *state;
        const uint64_t id = only(w).pack_id;
        (void)move(w, id, SLOW);
        copy_pack(w, id, SLOW, FAST, "");
        copy_pack(w, id, SLOW, FAST, ".moving");
        reopen(w);
        assert_int_equal(only(w).tier, SLOW);
        expect_files(w, FAST, 0);
        expect_counts(w);
        expect_sound(w);
}

static void test_a_copy_takes_the_place_of_what_is_missing(void **state)
{
        struct world *w = *state;
        const uint64_t id = only(w).pack_id;
        (void)move(w, id, SLOW);
        copy_pack(w, id, SLOW, FAST, "");
        remove_pack(w, id, SLOW);
        reopen(w);
        assert_int_equal(only(w).tier, FAST);
        expect_sound(w);
        /* One that is not the pack does not. */
        (void)move(w, id, SLOW);
        copy_pack(w, id, SLOW, FAST, "");
        const struct cas_pack_file file = {.pack_id = id};
        cas_cleanup_free char *slow = fewtiers_path(&w->tiers, SLOW, &file);
        cas_cleanup_free char *fast = fewtiers_path(&w->tiers, FAST, &file);
        cas_cleanup_free char *aside = cas_xasprintf("%s/aside", w->dir);
        assert_int_equal(rename(slow, aside), 0);
        flip_byte(fast, 5000);
        reopen(w);
        assert_int_equal(only(w).tier, SLOW);
        expect_files(w, FAST, 1);
        assert_int_equal(rename(aside, slow), 0);
        reopen(w);
        expect_files(w, FAST, 0);
        expect_sound(w);
}

static void test_nothing_goes_while_the_home_cannot_be_reached(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf file = CAS_BUF_INIT;
        const uint64_t id = only(w).pack_id;
        (void)move(w, id, SLOW);
        copy_pack(w, id, SLOW, FAST, "");
        w->tiers.tiers[SLOW].unreachable = true;
        reopen(w);
        assert_int_equal(only(w).tier, SLOW);
        expect_files(w, FAST, 1);
        int rc = cas_object_read(w->store, &w->image.layer.listing, CAS_MIB, &file, &err);
        assert_int_equal(rc, -CAS_E_IO);
        assert_non_null(strstr(err.msg, "tier slow"));
        w->tiers.tiers[SLOW].unreachable = false;
        reopen(w);
        expect_files(w, FAST, 0);
        expect_sound(w);
}

/* ---- recoded on the way ---- */

static void test_recoded_to_a_directory(void **state)
{
        struct world *w = *state;
        const uint64_t id = only(w).pack_id;
        w->tiers.tiers[SLOW].density = CAS_PACK_COLD;
        struct cas_pack_move_result r = move(w, id, SLOW);
        struct cas_pack_info now = only(w);
        assert_true(r.recoded);
        assert_true(r.bytes_after < r.bytes_before);
        assert_int_not_equal(now.pack_id, id);
        assert_int_equal(now.tier, SLOW);
        assert_int_equal(now.density, CAS_PACK_COLD);
        expect_files(w, FAST, 0);
        expect_files(w, SLOW, 1);
        expect_counts(w);
        expect_sound(w);
        /* Back as it is: nothing gets less dense. */
        r = move(w, now.pack_id, FAST);
        assert_false(r.recoded);
        assert_int_equal(only(w).density, CAS_PACK_COLD);
        expect_sound(w);
}

static void test_as_it_is(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_pack_move_result r;
        const struct cas_pack_move_options o = {.to = SLOW, .as_it_is = true};
        const uint64_t id = only(w).pack_id;
        w->tiers.tiers[SLOW].density = CAS_PACK_COLD;
        ok(cas_pack_move(w->store, id, &o, &r, &err));
        assert_false(r.recoded);
        assert_int_equal(only(w).pack_id, id);
        assert_int_equal(only(w).density, CAS_PACK_FAST);
        expect_sound(w);
}

static void test_recoded_to_a_bucket(void **state)
{
        struct world *w = *state;
        w->tiers.tiers[FAR].density = CAS_PACK_COLD;
        struct cas_pack_move_result r = move(w, only(w).pack_id, FAR);
        assert_true(r.recoded);
        assert_int_equal(only(w).tier, FAR);
        assert_int_equal(only(w).density, CAS_PACK_COLD);
        assert_true(only(w).sealed);
        expect_files(w, FAST, 0);
        expect_files(w, FAR, 1);
        expect_counts(w);
        expect_sound(w);
}

/* ---- a bucket ---- */

static void test_there_and_back(void **state)
{
        struct world *w = *state;
        const uint64_t id = only(w).pack_id;
        (void)move(w, id, FAR);
        assert_int_equal(only(w).tier, FAR);
        expect_files(w, FAST, 0);
        expect_files(w, FAR, 1);
        expect_counts(w);
        reopen(w);
        expect_sound(w);
        assert_true(atomic_load(&w->tiers.places) > 0);
        assert_int_equal(atomic_load(&w->tiers.touched_tier), FAR);
        (void)move(w, id, SLOW);
        expect_files(w, FAR, 0);
        expect_files(w, SLOW, 1);
        expect_counts(w);
        expect_sound(w);
}

static void test_bad_places_are_asked_for_again(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        (void)move(w, only(w).pack_id, FAR);
        reopen(w); /* nothing is decoded any more */
        w->tiers.bad_places = 2;
        ok(cas_object_read(w->store, &w->image.layer.listing, CAS_MIB, &bytes, &err));
        assert_int_equal(atomic_load(&w->tiers.bad_closed), 2);
        reopen(w);
        w->tiers.bad_places = UINT_MAX; /* for ever */
        int rc = cas_object_read(w->store, &w->image.layer.listing, CAS_MIB, &bytes, &err);
        assert_int_equal(rc, -CAS_E_CORRUPT);
        assert_true(atomic_load(&w->tiers.bad_closed) >= 5);
        w->tiers.bad_places = 0;
        expect_sound(w);
}

static struct cas_gc_result collect(struct world *w)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result r;
        ok(cas_gc(w->store, &(struct cas_gc_options){.full = true, .live_percent_min = 99}, NULL,
                  &r, &err));
        return r;
}

static void remove_image(struct world *w, const struct testimage *image)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        ok(cas_publish_begin(w->store, &p, &err));
        ok(cas_publish_manifest_unlink(p, "r", &image->manifest, &err));
        ok(cas_publish_commit(p, &err));
}

/* What is live of a pack is written anew on its tier. */
static void test_collection_keeps_tiers(void **state)
{
        static const uint32_t tiers[] = {SLOW, FAR};
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        for (size_t i = 0; i < CAS_COUNT(tiers); i++) {
                struct testimage other;
                w->tiers.tiers[FAST].leaving = true;
                ok(testimage_put(w->store, "r", "u", 100, FILES, &other, &err));
                w->tiers.tiers[FAST].leaving = false;
                struct seen seen = all(w);
                for (size_t k = 0; k < seen.count; k++)
                        (void)move(w, seen.list[k].pack_id, tiers[i]);
                remove_image(w, &other);
                assert_true(collect(w).bytes_freed > 0);
                seen = all(w);
                for (size_t k = 0; k < seen.count; k++)
                        assert_int_equal(seen.list[k].tier, tiers[i]);
                expect_files(w, FAST, 0);
                expect_files(w, tiers[i], (unsigned)seen.count);
                expect_counts(w);
                expect_sound(w);
        }
}

static void test_condensing_keeps_tiers(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recode_result r;
        (void)move(w, only(w).pack_id, SLOW);
        ok(cas_condense_packs(w->store, CAS_CONDENSE_DEFAULT, NULL, NULL, &r, &err));
        assert_int_equal(r.packs, 0); /* it is as dense as that tier's are to be */
        w->tiers.tiers[SLOW].density = CAS_PACK_COLD;
        ok(cas_condense_packs(w->store, CAS_CONDENSE_DEFAULT, NULL, NULL, &r, &err));
        assert_int_equal(r.packs, 1);
        assert_int_equal(only(w).tier, SLOW);
        assert_int_equal(only(w).density, CAS_PACK_COLD);
        expect_counts(w);
        expect_sound(w);
}

static void test_garbage_in_a_bucket(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_pack_record rec;
        struct cas_gc_result r;
        const uint64_t id = only(w).pack_id;
        (void)move(w, id, FAR);
        ok(cas_index_get_pack(w->store->index, id, &rec, &err));
        const struct cas_pack_file file = cas_pack_file_of(id, &rec);
        cas_cleanup_free char *path = fewtiers_path(&w->tiers, FAR, &file);
        cas_cleanup_free char *aside = cas_xasprintf("%s/aside", w->dir);
        assert_int_equal(link(path, aside), 0);
        (void)move(w, id, SLOW);
        assert_int_equal(link(aside, path), 0); /* as a crash leaves it */
        /* Not what is young, nor what may be another's. */
        ok(cas_gc(w->store, &(struct cas_gc_options){.full = true, .grace_s = 3600}, NULL, &r,
                  &err));
        expect_files(w, FAR, 1);
        w->tiers.tiers[FAR].shared = true;
        (void)collect(w);
        expect_files(w, FAR, 1);
        w->tiers.tiers[FAR].shared = false;
        (void)collect(w);
        expect_files(w, FAR, 0);
        expect_sound(w);
}

/* ---- the whole store ---- */

static void put_second(struct world *w, struct testimage *out)
{
        struct cas_err err = CAS_ERR_INIT;
        ok(testimage_put(w->store, "r", "second", 300, FILES, out, &err));
}

/* One image on the slow tier, one in the bucket. */
static void spread(struct world *w, struct testimage *second)
{
        (void)move(w, only(w).pack_id, FAR);
        put_second(w, second);
        struct seen seen = all(w);
        assert_int_equal(seen.count, 2);
        (void)move(w, seen.list[1].pack_id, SLOW);
}

static void test_rebuild(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage second;
        cas_cleanup_free char *path = cas_xasprintf("%s/store", w->dir);
        cas_cleanup_free char *index = cas_xasprintf("%s/index", path);
        const struct cas_store_config config = {.path = path, .backend = &w->tiers.backend};
        spread(w, &second);
        cas_store_close(cas_steal(&w->store));
        scratch_free(cas_steal(&index));
        w->tiers.tiers[SLOW].unreachable = true;
        assert_int_equal(cas_rebuild(&config, NULL, &err), -CAS_E_IO);
        w->tiers.tiers[SLOW].unreachable = false;
        err = (struct cas_err)CAS_ERR_INIT;
        ok(cas_rebuild(&config, NULL, &err));
        ok(try_open(w, &err));
        struct seen seen = all(w);
        assert_int_equal(seen.count, 2);
        assert_int_equal(seen.list[0].tier, FAR);
        assert_int_equal(seen.list[1].tier, SLOW);
        expect_sound(w);
        assert_true(testimage_is_whole(w->store, &second, 300, FILES));
}

static void test_checkpoint(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage second;
        struct cas_checkpoint_result r;
        cas_cleanup_free char *path = cas_xasprintf("%s/copy", w->dir);
        cas_cleanup_free char *packs = cas_xasprintf("%s/packs", path);
        spread(w, &second);
        ok(cas_checkpoint(w->store, path, NULL, &r, &err));
        /* The copy has one directory, and the bucket. */
        struct fewtiers few;
        fewtiers_init(&few);
        (void)fewtiers_add(&few, "own", packs, false, CAS_PACK_FAST);
        (void)fewtiers_add(&few, "none", w->tiers.tiers[SLOW].dir, false, CAS_PACK_FAST);
        few.tiers[1].unreachable = true;
        (void)fewtiers_add(&few, "far", w->tiers.tiers[FAR].dir, true, CAS_PACK_FAST);
        const struct cas_store_config config = {
                .path = path, .threads = 1, .backend = &few.backend};
        cas_cleanup_store struct cas_store *copy = NULL;
        ok(cas_store_open(&config, &copy, &err));
        assert_true(testimage_is_whole(copy, &w->image, SEED, FILES));
        assert_true(testimage_is_whole(copy, &second, 300, FILES));
        unsigned others;
        assert_int_equal(fewtiers_packs(&few, 0, &others), 1);
        cas_store_close(cas_steal(&copy));
        fewtiers_release(&few);
        expect_sound(w);
}

static void test_what_cannot_be_reached_is_not_lost(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        struct cas_gc_result collected;
        cas_cleanup_buf struct cas_buf said = CAS_BUF_INIT;
        const uint64_t id = only(w).pack_id;
        (void)move(w, id, SLOW);
        w->tiers.tiers[SLOW].unreachable = true;
        reopen(w);
        const struct cas_scrub_options options = {.repair = true};
        ok(cas_scrub(w->store, &options, NULL, say, &said, &r, &err));
        cas_buf_append(&said, "", 1);
        assert_non_null(strstr((const char *)said.data, "pack-unreachable"));
        assert_int_equal(r.quarantined, 0);
        assert_int_equal(r.repaired, 0);
        (void)!cas_gc(w->store, &(struct cas_gc_options){.full = true, .live_percent_min = 100},
                      NULL, &collected, &err);
        assert_int_equal(collected.packs_removed, 0);
        w->tiers.tiers[SLOW].unreachable = false;
        reopen(w);
        assert_int_equal(only(w).pack_id, id);
        expect_sound(w);
}

static void test_damage_in_a_bucket_is_put_aside(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_pack_record rec;
        struct cas_fsck_result r;
        cas_cleanup_buf struct cas_buf said = CAS_BUF_INIT;
        const uint64_t id = only(w).pack_id;
        char name[CAS_PACK_NAME_BYTES];
        (void)move(w, id, FAR);
        ok(cas_index_get_pack(w->store->index, id, &rec, &err));
        const struct cas_pack_file file = cas_pack_file_of(id, &rec);
        cas_cleanup_free char *path = fewtiers_path(&w->tiers, FAR, &file);
        cas_cleanup_free char *aside =
                cas_xasprintf("%s/store/quarantine/packs/%s", w->dir, cas_pack_name(id, name));
        flip_byte(path, (off_t)(rec.size_bytes / 2));
        reopen(w);
        const struct cas_scrub_options options = {.repair = true};
        ok(cas_scrub(w->store, &options, NULL, say, &said, &r, &err));
        assert_true(r.errors > 0);
        if (r.quarantined == 0)
                print_error("%.*s", (int)said.len_bytes, (const char *)said.data);
        assert_true(r.quarantined > 0);
        assert_int_equal(access(aside, F_OK), 0);
        assert_int_not_equal(access(path, F_OK), 0);
        assert_int_equal(cas_index_get_pack(w->store->index, id, &rec, &err), -CAS_E_NOTFOUND);
}

/* ---- beside everything else ---- */

#define ROUNDS 12

struct beside {
        struct world *w;
        _Atomic(bool) stop;
        bool whole;
        unsigned reads;
};

static void *read_on(void *arg)
{
        struct beside *b = arg;
        b->whole = true;
        while (!atomic_load(&b->stop)) {
                b->whole = b->whole && testimage_is_whole(b->w->store, &b->w->image, SEED, FILES);
                cas_blockcache_clear(b->w->store->blocks);
                b->reads++;
        }
        return NULL;
}

static void *publish_on(void *arg)
{
        struct beside *b = arg;
        b->whole = true;
        for (unsigned i = 0; !atomic_load(&b->stop); i++) {
                struct cas_err err = CAS_ERR_INIT;
                struct testimage image;
                unsigned seed = 1000 + 20 * (i % 8);
                cas_cleanup_free char *tag = cas_xasprintf("p%u", i % 8);
                b->whole = b->whole &&
                           testimage_put(b->w->store, "r", tag, seed, 3, &image, &err) == 0 &&
                           testimage_is_whole(b->w->store, &image, seed, 3);
        }
        return NULL;
}

static void test_beside_readers_and_publications(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct beside reader = {.w = w}, publisher = {.w = w};
        pthread_t threads[2];
        unsigned moved = 0;
        assert_int_equal(pthread_create(&threads[0], NULL, read_on, &reader), 0);
        assert_int_equal(pthread_create(&threads[1], NULL, publish_on, &publisher), 0);
        for (unsigned i = 0; i < ROUNDS; i++) {
                static const uint32_t to[] = {SLOW, FAR, FAST};
                struct seen seen = all(w);
                for (size_t k = 0; k < seen.count; k++) {
                        struct cas_pack_move_result r;
                        int rc = try_move(w, seen.list[k].pack_id, to[i % 3], &r, &err);
                        assert_true(rc == 0 || rc == -CAS_E_BUSY);
                        moved += rc == 0;
                }
        }
        atomic_store(&reader.stop, true);
        atomic_store(&publisher.stop, true);
        (void)pthread_join(threads[0], NULL);
        (void)pthread_join(threads[1], NULL);
        assert_true(moved > 0 && reader.reads > 0);
        assert_true(reader.whole);
        assert_true(publisher.whole);
        expect_counts(w);
        assert_true(testimage_is_whole(w->store, &w->image, SEED, FILES));
}

struct found {
        uint64_t pack_id, bytes;
        unsigned count;
};

static bool find_pack(void *arg, uint64_t pack_id, uint64_t stored_bytes)
{
        struct found *found = arg;
        found->pack_id = pack_id;
        found->bytes += stored_bytes;
        found->count++;
        return true;
}

static void test_packs_of(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct testimage second;
        char layer[CAS_DIGEST_TEXT_BYTES], hex[CAS_HASH_HEX_BYTES];
        struct found f = {.count = 0}, object = {.count = 0}, config = {.count = 0};
        const uint64_t id = only(w).pack_id;
        (void)move(w, id, SLOW);
        put_second(w, &second);
        ok(cas_packs_of(w->store, cas_digest_text(&w->image.layer.blob, layer), find_pack, &f,
                        &err));
        assert_int_equal(f.count, 1);
        assert_int_equal(f.pack_id, id);
        ok(cas_packs_of(w->store, cas_hash_hex(&w->image.layer.listing, hex), find_pack, &object,
                        &err));
        assert_int_equal(object.count, 1);
        assert_true(object.bytes > 0 && object.bytes < f.bytes);
        ok(cas_packs_of(w->store, cas_digest_text(&w->image.config, layer), find_pack, &config,
                        &err));
        assert_int_equal(config.count, 0);
        hex[0] = hex[0] == '0' ? '1' : '0';
        assert_int_equal(cas_packs_of(w->store, hex, find_pack, &f, &err), -CAS_E_NOTFOUND);
        assert_int_equal(cas_packs_of(w->store, "no digest", find_pack, &f, &err), -CAS_E_INVALID);
}

int main(void)
{
#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        const struct CMUnitTest tests[] = {
                test(test_stat),
                test(test_placement_follows_room),
                test(test_no_room),
                test(test_move),
                test(test_readers_go_on),
                test(test_busy),
                test(test_stopped),
                test(test_no_room_to_move),
                test(test_damage_does_not_move),
                test(test_copies_beside_the_home_go),
                test(test_a_copy_takes_the_place_of_what_is_missing),
                test(test_nothing_goes_while_the_home_cannot_be_reached),
                test(test_recoded_to_a_directory),
                test(test_as_it_is),
                test(test_recoded_to_a_bucket),
                test(test_there_and_back),
                test(test_bad_places_are_asked_for_again),
                test(test_collection_keeps_tiers),
                test(test_condensing_keeps_tiers),
                test(test_garbage_in_a_bucket),
                test(test_rebuild),
                test(test_checkpoint),
                test(test_what_cannot_be_reached_is_not_lost),
                test(test_packs_of),
                test(test_damage_in_a_bucket_is_put_aside),
                test(test_beside_readers_and_publications),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
