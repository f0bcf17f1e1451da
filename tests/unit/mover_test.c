/* SPDX-License-Identifier: Apache-2.0 */
/* The mover on a real store: what sinks, in which order, and how far; what cools; what leaves; what
 * fails and is left alone; and that reading works throughout. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <time.h>

#include "cas/maintain.h"
#include "cas/object.h"
#include "cas/publish.h"
#include "tests/support/packs.h"
#include "tests/support/scratch.h"
#include "tiering/heat.h"
#include "tiering/mover.h"

#define MIB (UINT64_C(1) << 20)
#define OBJECTS 24
#define OBJECT_BYTES (1024 * 1024)

struct world {
        char *dir, *path;
        struct cas_store *s;
        struct tier_set *set;
        struct cas_hash objects[OBJECTS];
        uint8_t *bytes; /* of all objects */
};

static void store_open(struct world *w)
{
        const struct cas_store_config config = {
                .path = w->path, .backend_open = tier_set_open, .threads = 2};
        test_ok(cas_store_open(&config, &w->s, err));
        w->set = tier_set_of(w->s);
}

static int setup(void **state)
{
        struct world *w = cas_xcalloc(1, sizeof(*w));
        struct test_random r = {.state = 5};
        w->dir = scratch_new();
        w->path = cas_xasprintf("%s/store", w->dir);
        w->bytes = cas_xmalloc((size_t)OBJECTS * OBJECT_BYTES);
        for (uint64_t i = 0; i < (uint64_t)OBJECTS * OBJECT_BYTES / 8; i++) {
                uint64_t v = test_random_next(&r);
                memcpy(w->bytes + 8 * i, &v, 8);
        }
        store_open(w);
        *state = w;
        return 0;
}

static int teardown(void **state)
{
        struct world *w = *state;
        cas_store_close(w->s);
        scratch_free(w->dir);
        free(w->path);
        free(w->bytes);
        free(w);
        return 0;
}

static void tier_add(struct world *w, const char *name, enum tier_class class, uint64_t capacity,
                     uint8_t density)
{
        struct tier_config c;
        tier_config_init(&c, class);
        (void)snprintf(c.name, sizeof(c.name), "%s", name);
        c.where = cas_xasprintf("%s/%s", w->dir, name);
        c.capacity_bytes = capacity;
        c.density = density;
        test_ok(tier_set_add(w->set, &c, err));
        tier_config_release(&c);
}

static void tier_edit(struct world *w, const char *name, const char *key, const char *value)
{
        struct tier_config c;
        test_ok(tier_set_config(w->set, name, &c, err));
        test_ok(tier_config_set(&c, key, value, err));
        test_ok(tier_set_change(w->set, &c, err));
        tier_config_release(&c);
}

/* Each object into a pack of its own: the store is opened anew, which leaves packs that are moved
 * as they are. */
static void put(struct world *w, unsigned i)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        test_ok(cas_publish_begin(w->s, &p, err));
        test_ok(cas_publish_object(p, w->bytes + (size_t)i * OBJECT_BYTES, OBJECT_BYTES,
                                   &w->objects[i], err));
        test_ok(cas_publish_commit(p, err));
}

static void check_read(struct world *w, unsigned i)
{
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        test_ok(cas_object_read(w->s, &w->objects[i], OBJECT_BYTES, &out, err));
        assert_int_equal(out.len_bytes, OBJECT_BYTES);
        assert_memory_equal(out.data, w->bytes + (size_t)i * OBJECT_BYTES, OBJECT_BYTES);
}

struct wanted {
        const char *name;
        struct tier_status status;
};

static bool status_seen(void *arg, const struct tier_status *t)
{
        struct wanted *w = arg;
        if (strcmp(t->config.name, w->name) != 0)
                return true;
        w->status = *t;
        return false;
}

static struct tier_status status_of(struct world *w, const char *name)
{
        struct wanted wanted = {.name = name};
        tier_set_each(w->set, status_seen, &wanted);
        return wanted.status;
}

static void nap(void)
{
        (void)nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
}

/* Until a tier holds as much as that of packs, or less. */
static void await_home(struct world *w, const char *name, uint64_t at_most)
{
        for (int i = 0; i < 1500 && status_of(w, name).home_bytes > at_most; i++)
                nap();
        if (status_of(w, name).home_bytes > at_most)
                fail_msg("%s holds %llu", name, (unsigned long long)status_of(w, name).home_bytes);
}

static void check_clean(struct world *w)
{
        struct cas_fsck_result r = {0};
        test_ok(cas_fsck(w->s, NULL, NULL, NULL, NULL, &r, err));
        assert_int_equal(r.errors, 0);
}

static void packs_sink_above_the_mark(void **state)
{
        struct world *w = *state;
        tier_add(w, "disk", TIER_HDD, 0, CAS_PACK_FAST);
        tier_edit(w, "own", "capacity", "33554432");
        tier_edit(w, "own", "low", "50");
        struct tier_mover *m = tier_mover_start(w->s, TIER_MOVER_ALWAYS);
        for (unsigned i = 0; i < OBJECTS; i++) {
                put(w, i);
                assert_true(status_of(w, "own").home_bytes <= 32 * MIB);
        }
        assert_true(status_of(w, "own").home_bytes + status_of(w, "disk").home_bytes >=
                    OBJECTS * OBJECT_BYTES);
        for (unsigned i = 0; i < OBJECTS; i++)
                check_read(w, i);
        tier_mover_stop(m);
        check_clean(w);
        cas_store_close(cas_steal(&w->s));
        store_open(w);
        for (unsigned i = 0; i < OBJECTS; i++)
                check_read(w, i);
}

static void the_coldest_go_first(void **state)
{
        struct world *w = *state;
        tier_cleanup_plan struct tier_plan plan = {0};
        tier_add(w, "disk", TIER_HDD, 0, CAS_PACK_FAST);
        /* Three packs: one writer at a time puts everything into one, so they are moved apart. */
        for (unsigned i = 0; i < 3; i++) {
                tier_cleanup_plan struct tier_plan now = {0};
                put(w, i);
                test_ok(tier_plan_make(w->s, w->set, NULL, NULL, &now, err));
                for (size_t k = 0; k < now.count; k++) {
                        struct tier_candidate c = now.list[k];
                        struct cas_pack_move_result r;
                        if (c.pack.tier != CAS_TIER_OWN)
                                continue;
                        c.to = 1;
                        test_ok(tier_move_pack(w->s, &c, true, NULL, NULL, &r, err));
                }
        }
        test_ok(tier_plan_make(w->s, w->set, NULL, NULL, &plan, err));
        assert_int_equal(plan.count, 3);
        assert_int_equal(plan.due_count, 0);
        uint64_t warm = plan.list[0].pack.pack_id;
        tier_plan_release(&plan);
        tier_heat_touch(tier_set_heat(w->set), warm, (uint64_t)time(NULL));
        tier_add(w, "slow", TIER_HDD, 0, CAS_PACK_FAST);
        /* 2.5 MiB of 3 may stay. */
        tier_edit(w, "disk", "capacity", "2700000");
        test_ok(tier_plan_make(w->s, w->set, NULL, NULL, &plan, err));
        assert_int_equal(plan.count, 3);
        assert_true(plan.due_count >= 1 && plan.due_count < 3);
        assert_int_equal(plan.list[0].reason, TIER_SINKS);
        assert_int_equal(plan.list[0].to, 2);
        assert_int_equal(plan.list[2].pack.pack_id, warm);
        assert_int_equal(plan.list[2].reason, TIER_STAYS);
        struct tier_mover *m = tier_mover_start(w->s, TIER_MOVER_ALWAYS);
        await_home(w, "disk", 2430000);
        tier_mover_stop(m);
        for (unsigned i = 0; i < 3; i++)
                check_read(w, i);
        check_clean(w);
}

static void what_is_not_read_cools(void **state)
{
        struct world *w = *state;
        struct tier_mover_status status;
        tier_add(w, "disk", TIER_HDD, 0, CAS_PACK_COLD);
        put(w, 0);
        /* What can be written to is not cooled: it is moved by hand, which seals it. */
        tier_add(w, "flash", TIER_SSD, 0, CAS_PACK_FAST);
        tier_cleanup_plan struct tier_plan plan = {0};
        test_ok(tier_plan_make(w->s, w->set, NULL, NULL, &plan, err));
        assert_int_equal(plan.count, 1);
        plan.list[0].to = 2;
        struct cas_pack_move_result r;
        test_ok(tier_move_pack(w->s, &plan.list[0], true, NULL, NULL, &r, err));
        struct tier_mover *m = tier_mover_start(w->s, TIER_MOVER_ALWAYS);
        tier_edit(w, "flash", "cool_after", "1");
        await_home(w, "flash", 0);
        check_read(w, 0);
        for (int i = 0; i < 500; i++, nap()) {
                tier_mover_status(m, &status);
                if (status.moved_packs == 1)
                        break;
        }
        tier_mover_stop(m);
        assert_int_equal(status.moved_packs, 1);
        assert_int_equal(status.recoded_packs, 1);
        assert_int_equal(status.failures, 0);
        check_clean(w);
}

static void what_leaves_goes_and_pause_stops(void **state)
{
        struct world *w = *state;
        tier_add(w, "flash", TIER_SSD, 0, CAS_PACK_FAST);
        tier_edit(w, "own", "class", "hdd"); /* so that new packs go to the other */
        for (unsigned i = 0; i < 4; i++)
                put(w, i);
        assert_true(status_of(w, "flash").home_bytes >= 4 * OBJECT_BYTES);
        struct tier_mover *m = tier_mover_start(w->s, TIER_MOVER_ALWAYS);
        test_ok(tier_set_pause(w->set, true, err));
        tier_edit(w, "flash", "state", "leaving");
        for (int i = 0; i < 20; i++)
                nap();
        assert_true(status_of(w, "flash").home_bytes >= 4 * OBJECT_BYTES);
        test_ok(tier_set_pause(w->set, false, err));
        await_home(w, "flash", 0);
        for (unsigned i = 0; i < 4; i++)
                check_read(w, i);
        tier_mover_stop(m);
        test_ok(tier_set_remove(w->set, "flash", err));
        check_clean(w);
}

/* A target without room for any pack: nothing is tried, and writers are told at once. */
static void a_target_that_is_full_is_left_alone(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct tier_mover_status status;
        tier_add(w, "disk", TIER_HDD, 1000, CAS_PACK_FAST);
        for (unsigned i = 0; i < 4; i++)
                put(w, i);
        tier_edit(w, "own", "capacity", "6000000");
        struct tier_mover *m = tier_mover_start(w->s, TIER_MOVER_ALWAYS);
        for (int i = 0; i < 10; i++)
                nap();
        struct cas_backend *b = cas_store_backend(w->s);
        uint64_t began = (uint64_t)time(NULL);
        assert_int_equal(b->ops->pack_grow(b, CAS_TIER_OWN, 4 * MIB, &err), -CAS_E_NOSPACE);
        assert_true((uint64_t)time(NULL) - began < TIER_ROOM_WAIT_MS / 1000 - 5);
        tier_mover_status(m, &status);
        tier_mover_stop(m);
        assert_int_equal(status.moved_packs, 0);
        assert_int_equal(status.failures, 0);
        for (unsigned i = 0; i < 4; i++)
                check_read(w, i);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(packs_sink_above_the_mark, setup, teardown),
                cmocka_unit_test_setup_teardown(the_coldest_go_first, setup, teardown),
                cmocka_unit_test_setup_teardown(what_is_not_read_cools, setup, teardown),
                cmocka_unit_test_setup_teardown(what_leaves_goes_and_pause_stops, setup, teardown),
                cmocka_unit_test_setup_teardown(a_target_that_is_full_is_left_alone, setup,
                                                teardown),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
