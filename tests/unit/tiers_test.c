/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <fcntl.h>

#include "cas/maintain.h"
#include "cas/object.h"
#include "cas/packfile_int.h"
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
        struct cas_pack_info list[16];
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
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
