/* SPDX-License-Identifier: Apache-2.0 */
/* Tiers of an open store: which directories are taken and which refused, where new packs go, what
 * room is counted, and who waits for it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>

#include "tests/support/scratch.h"
#include "tiering/tierset.h"

#define MIB (UINT64_C(1) << 20)

struct world {
        char *dir, *path; /* scratch, store */
        struct cas_store *s;
        struct tier_set *set;
        struct cas_backend *b;
};

static void store_open(struct world *w)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_store_config config = {
                .path = w->path, .backend_open = tier_set_open, .threads = 1};
        if (cas_store_open(&config, &w->s, &err) < 0)
                fail_msg("%s", err.msg);
        w->set = tier_set_of(w->s);
        w->b = cas_store_backend(w->s);
        assert_non_null(w->set);
}

static void store_reopen(struct world *w)
{
        cas_store_close(cas_steal(&w->s));
        store_open(w);
}

static int setup(void **state)
{
        struct world *w = cas_xcalloc(1, sizeof(*w));
        w->dir = scratch_new();
        w->path = cas_xasprintf("%s/store", w->dir);
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
        free(w);
        return 0;
}

static struct tier_config config_of(struct world *w, const char *name, enum tier_class class,
                                    uint64_t capacity)
{
        struct tier_config c;
        tier_config_init(&c, class);
        (void)snprintf(c.name, sizeof(c.name), "%s", name);
        c.where = cas_xasprintf("%s/%s", w->dir, name);
        c.capacity_bytes = capacity;
        return c;
}

static int add(struct world *w, const char *name, enum tier_class class, uint64_t capacity,
               struct cas_err *err)
{
        struct tier_config c = config_of(w, name, class, capacity);
        int rc = tier_set_add(w->set, &c, err);
        tier_config_release(&c);
        return rc;
}

static void must_add(struct world *w, const char *name, enum tier_class class, uint64_t capacity)
{
        struct cas_err err = CAS_ERR_INIT;
        if (add(w, name, class, capacity, &err) < 0)
                fail_msg("%s", err.msg);
}

static void own_capacity(struct world *w, uint64_t bytes)
{
        struct tier_config c;
        struct cas_err err = CAS_ERR_INIT;
        assert_int_equal(tier_set_config(w->set, "own", &c, &err), 0);
        c.capacity_bytes = bytes;
        assert_int_equal(tier_set_change(w->set, &c, &err), 0);
        tier_config_release(&c);
}

struct wanted {
        const char *name;
        struct tier_status status;
        char why[512], where[512];
        bool found;
};

static bool status_seen(void *arg, const struct tier_status *t)
{
        struct wanted *w = arg;
        if (strcmp(t->config.name, w->name) != 0)
                return true;
        w->status = *t;
        (void)snprintf(w->why, sizeof(w->why), "%s", t->why);
        (void)snprintf(w->where, sizeof(w->where), "%s", t->config.where ? t->config.where : "");
        w->found = true;
        return false;
}

static struct wanted status_of(struct world *w, const char *name)
{
        struct wanted wanted = {.name = name};
        tier_set_each(w->set, status_seen, &wanted);
        return wanted;
}

static int place(struct world *w, uint32_t want, uint32_t *tier, struct cas_err *err)
{
        int dirfd;
        return w->b->ops->pack_place(w->b, 1, want, &dirfd, tier, err);
}

static uint32_t placed(struct world *w)
{
        struct cas_err err = CAS_ERR_INIT;
        uint32_t tier = 99;
        if (place(w, CAS_TIER_ANY, &tier, &err) < 0)
                fail_msg("%s", err.msg);
        return tier;
}

static int grow(struct world *w, uint32_t tier, uint64_t bytes, struct cas_err *err)
{
        return w->b->ops->pack_grow(w->b, tier, bytes, err);
}

/* ---- the list and the directories ---- */

static void file_in(struct world *w, const char *path, uint64_t bytes)
{
        cas_cleanup_free char *full = cas_xasprintf("%s/%s", w->dir, path);
        cas_cleanup_fd int fd = open(full, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
}

static void a_store_without_a_list_counts_nothing(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        assert_false(tier_set_is_configured(w->set));
        assert_int_equal(placed(w), CAS_TIER_OWN);
        assert_int_equal(grow(w, CAS_TIER_OWN, UINT64_MAX / 2, &err), 0);
        assert_int_equal(status_of(w, "own").status.home_bytes, 0);
        w->b->ops->pack_shrunk(w->b, CAS_TIER_OWN, UINT64_MAX / 2);
        assert_int_equal(faccessat(cas_store_dirfd(w->s), "tiers", F_OK, 0), -1);
}

static void a_tier_is_added_and_there_again(void **state)
{
        struct world *w = *state;
        struct stat st;
        uint32_t id;
        struct cas_err err = CAS_ERR_INIT;
        must_add(w, "disk", TIER_HDD, 100 * MIB);
        assert_true(tier_set_is_configured(w->set));
        cas_cleanup_free char *dir = cas_xasprintf("%s/disk", w->dir);
        cas_cleanup_free char *packs = cas_xasprintf("%s/disk/packs", w->dir);
        assert_int_equal(stat(dir, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0700);
        assert_int_equal(stat(packs, &st), 0);
        store_reopen(w);
        struct wanted disk = status_of(w, "disk");
        assert_true(disk.found);
        assert_int_equal(disk.status.state, TIER_OK);
        assert_int_equal(disk.status.config.capacity_bytes, 100 * MIB);
        assert_int_equal(tier_set_find(w->set, "disk", &id, &err), 0);
        assert_int_equal(id, 1);
        assert_int_equal(add(w, "disk", TIER_HDD, 0, &err), -CAS_E_EXISTS);
}

static void wrong_directories_are_refused(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        must_add(w, "disk", TIER_HDD, 0);
        const char *inside[] = {"store/x", "store", "disk/x", ".", "disk", "store/packs"};
        for (size_t i = 0; i < CAS_COUNT(inside); i++) {
                struct tier_config c = config_of(w, "other", TIER_HDD, 0);
                free(c.where);
                c.where = cas_xasprintf("%s/%s", w->dir, inside[i]);
                err = (struct cas_err)CAS_ERR_INIT;
                int rc = tier_set_add(w->set, &c, &err);
                if (rc != -CAS_E_DENIED)
                        fail_msg("%s: %d %s", inside[i], rc, err.msg);
                tier_config_release(&c);
        }
        cas_cleanup_free char *made = cas_xasprintf("%s/disk/x", w->dir);
        assert_int_equal(access(made, F_OK), -1);
        /* By another name. */
        cas_cleanup_free char *target = cas_xasprintf("%s/disk", w->dir);
        cas_cleanup_free char *link = cas_xasprintf("%s/link", w->dir);
        assert_int_equal(symlink(target, link), 0);
        assert_int_equal(add(w, "link", TIER_HDD, 0, &err), -CAS_E_DENIED);
        /* Something lies there. */
        cas_cleanup_free char *full = cas_xasprintf("%s/full", w->dir);
        cas_cleanup_free char *file = cas_xasprintf("%s/full/file", w->dir);
        assert_int_equal(mkdir(full, 0755), 0);
        int fd = open(file, O_WRONLY | O_CREAT, 0600);
        assert_true(fd >= 0);
        (void)close(fd);
        assert_int_equal(add(w, "full", TIER_HDD, 0, &err), -CAS_E_DENIED);
        assert_non_null(strstr(err.msg, "not empty (file)"));
        struct stat st;
        assert_int_equal(stat(full, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0755);
        /* Its parent is not there. */
        assert_int_equal(add(w, "no/where", TIER_HDD, 0, &err), -CAS_E_INVALID); /* its name */
        struct tier_config c = config_of(w, "nowhere", TIER_HDD, 0);
        free(c.where);
        c.where = cas_xasprintf("%s/no/where", w->dir);
        assert_true(tier_set_add(w->set, &c, &err) < 0);
        tier_config_release(&c);
}

static void another_stores_tier_is_refused(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct world other = {.dir = w->dir};
        other.path = cas_xasprintf("%s/store2", w->dir);
        store_open(&other);
        must_add(w, "disk", TIER_HDD, 0);
        assert_int_equal(add(&other, "disk", TIER_HDD, 0, &err), -CAS_E_DENIED);
        assert_non_null(strstr(err.msg, "another store"));
        cas_store_close(other.s);
        free(other.path);
        /* An empty directory took the place of it, and it comes back. */
        cas_cleanup_free char *disk = cas_xasprintf("%s/disk", w->dir);
        cas_cleanup_free char *away = cas_xasprintf("%s/away", w->dir);
        assert_int_equal(rename(disk, away), 0);
        assert_int_equal(mkdir(disk, 0700), 0);
        store_reopen(w);
        assert_int_equal(status_of(w, "disk").status.state, TIER_REFUSED);
        cas_cleanup_free char *marker = cas_xasprintf("%s/disk/tier", w->dir);
        assert_int_equal(access(marker, F_OK), -1); /* nothing was made there */
        uint32_t tier;
        assert_int_equal(place(w, 1, &tier, &err), -CAS_E_IO);
        int dirfd;
        assert_int_equal(w->b->ops->pack_dir(w->b, 5, 1, &dirfd, &err), -CAS_E_IO);
        assert_int_equal(rmdir(disk), 0);
        tier_set_look(w->set);
        assert_int_equal(status_of(w, "disk").status.state, TIER_FAILED);
        assert_int_equal(rename(away, disk), 0);
        tier_set_look(w->set);
        assert_int_equal(status_of(w, "disk").status.state, TIER_OK);
        assert_int_equal(w->b->ops->pack_dir(w->b, 5, 1, &dirfd, &err), 0);
        /* While it is open. */
        assert_int_equal(rename(disk, away), 0);
        tier_set_look(w->set);
        assert_int_equal(status_of(w, "disk").status.state, TIER_FAILED);
        assert_int_equal(w->b->ops->pack_dir(w->b, 5, 1, &dirfd, &err), -CAS_E_IO);
        assert_int_equal(rename(away, disk), 0);
        tier_set_look(w->set);
        assert_int_equal(status_of(w, "disk").status.state, TIER_OK);
}

static void a_removed_tier_is_not_taken_back(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        must_add(w, "disk", TIER_HDD, 0);
        file_in(w, "disk/packs/0000000000000001.pack", 10);
        cas_cleanup_free char *disk = cas_xasprintf("%s/disk", w->dir);
        cas_cleanup_free char *away = cas_xasprintf("%s/away", w->dir);
        assert_int_equal(rename(disk, away), 0);
        tier_set_look(w->set);
        assert_int_equal(tier_set_remove(w->set, "disk", &err), 0);
        assert_int_equal(tier_set_remove(w->set, "disk", &err), -CAS_E_NOTFOUND);
        assert_int_equal(tier_set_remove(w->set, "own", &err), -CAS_E_INVALID);
        assert_int_equal(rename(away, disk), 0);
        assert_int_equal(add(w, "disk", TIER_HDD, 0, &err), -CAS_E_DENIED);
        assert_non_null(strstr(err.msg, "not taken back"));
        cas_cleanup_free char *pack = cas_xasprintf("%s/disk/packs/0000000000000001.pack", w->dir);
        assert_int_equal(access(pack, F_OK), 0);
        assert_int_equal(unlink(pack), 0);
        must_add(w, "disk", TIER_HDD, 0);
        assert_int_equal(tier_set_remove(w->set, "disk", &err), 0);
        /* One that is there is left clean. */
        must_add(w, "second", TIER_SSD, 0);
        assert_int_equal(tier_set_remove(w->set, "second", &err), 0);
        must_add(w, "second", TIER_SSD, 0);
        uint32_t id;
        assert_int_equal(tier_set_find(w->set, "second", &id, &err), 0);
        assert_true(id > 2);
        store_reopen(w);
        assert_false(status_of(w, "disk").found);
        assert_int_equal(status_of(w, "second").status.state, TIER_OK);
}

/* ---- room ---- */

static void new_packs_go_to_the_fastest_with_room(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        uint32_t tier;
        must_add(w, "disk", TIER_HDD, 80 * MIB);
        must_add(w, "flash", TIER_SSD, 40 * MIB);
        own_capacity(w, 16 * MIB);
        assert_int_equal(placed(w), CAS_TIER_OWN);
        assert_int_equal(grow(w, CAS_TIER_OWN, 15 * MIB, &err), 0);
        assert_int_equal(placed(w), 2);
        assert_int_equal(grow(w, 2, 36 * MIB, &err), 0);
        assert_int_equal(placed(w), 1);
        assert_int_equal(grow(w, 1, 71 * MIB, &err), 0);
        assert_int_equal(place(w, CAS_TIER_ANY, &tier, &err), -CAS_E_NOSPACE);
        assert_non_null(strstr(err.msg, "tier own is full"));
        assert_non_null(strstr(err.msg, "lamina tier"));
        /* Never more than the capacity, to the byte. */
        assert_int_equal(grow(w, 1, 9 * MIB, &err), 0);
        err = (struct cas_err)CAS_ERR_INIT;
        assert_int_equal(grow(w, 1, 1, &err), -CAS_E_NOSPACE);
        assert_int_equal(status_of(w, "disk").status.home_bytes, 80 * MIB);
        w->b->ops->pack_shrunk(w->b, 1, 40 * MIB);
        assert_int_equal(placed(w), 1);
        w->b->ops->pack_shrunk(w->b, CAS_TIER_OWN, 15 * MIB);
        assert_int_equal(placed(w), CAS_TIER_OWN);
        /* What is asked for by name. */
        assert_int_equal(place(w, 2, &tier, &err), 0);
        assert_int_equal(tier, 2);
        err = (struct cas_err)CAS_ERR_INIT;
        assert_int_equal(place(w, 9, &tier, &err), -CAS_E_UNSUPPORTED);
}

static void what_leaves_takes_nothing(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct tier_config c;
        struct cas_tier_info info;
        must_add(w, "flash", TIER_SSD, 0);
        assert_int_equal(tier_set_config(w->set, "own", &c, &err), 0);
        c.class = TIER_HDD;
        assert_int_equal(tier_set_change(w->set, &c, &err), 0);
        tier_config_release(&c);
        assert_int_equal(placed(w), 1);
        assert_int_equal(tier_set_config(w->set, "flash", &c, &err), 0);
        c.leaving = true;
        assert_int_equal(tier_set_change(w->set, &c, &err), 0);
        tier_config_release(&c);
        assert_int_equal(placed(w), CAS_TIER_OWN);
        assert_int_equal(w->b->ops->tier_info(w->b, 1, &info, &err), 0);
        assert_true(info.reachable);
        assert_false(info.writable);
        assert_int_equal(tier_set_below(w->set, 0, 1, false), CAS_TIER_ANY);
        assert_int_equal(tier_set_below(w->set, 1, 1, false), 0);
        assert_int_equal(tier_set_below(w->set, 0, 1, true), CAS_TIER_ANY);
}

static void what_is_there_is_counted_at_opening(void **state)
{
        struct world *w = *state;
        must_add(w, "disk", TIER_HDD, 80 * MIB);
        file_in(w, "store/uploads/tmp-x", 5000);
        file_in(w, "store/blobs/sha256/00/ab", 700);
        store_reopen(w);
        /* Temporary uploads go when the store is opened, before they are counted. */
        assert_int_equal(status_of(w, "own").status.other_bytes, 700);
        assert_int_equal(status_of(w, "disk").status.home_bytes, 0);
}

static void marks_say_what_is_to_be_moved(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        must_add(w, "disk", TIER_HDD, 0);
        own_capacity(w, 100 * MIB);
        assert_int_equal(grow(w, CAS_TIER_OWN, 85 * MIB, &err), 0);
        assert_int_equal(tier_set_excess(w->set, CAS_TIER_OWN, false), 0);
        assert_true(tier_set_excess(w->set, CAS_TIER_OWN, true) > 4 * MIB);
        assert_int_equal(grow(w, CAS_TIER_OWN, 6 * MIB, &err), 0);
        uint64_t excess = tier_set_excess(w->set, CAS_TIER_OWN, false);
        assert_true(excess >= 11 * MIB && excess < 12 * MIB);
        assert_int_equal(tier_set_below(w->set, CAS_TIER_OWN, MIB, false), 1);
        assert_int_equal(tier_set_below(w->set, 1, MIB, false), CAS_TIER_ANY);
        assert_int_equal(tier_set_below(w->set, 1, MIB, true), CAS_TIER_OWN);
        assert_int_equal(tier_set_below(w->set, 1, 50 * MIB, true), CAS_TIER_ANY);
}

/* ---- who waits ---- */

struct maker {
        struct world *w;
        _Atomic(bool) awake, stop;
};

static void wake(void *arg)
{
        atomic_store(&((struct maker *)arg)->awake, true);
}

static void nap(void)
{
        (void)nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
}

/* A mover that gives room once it is asked. */
static void *maker_run(void *arg)
{
        struct maker *m = arg;
        tier_set_mover(m->w->set, wake, m);
        while (!atomic_load(&m->awake) && !atomic_load(&m->stop))
                nap();
        if (atomic_load(&m->awake))
                m->w->b->ops->pack_shrunk(m->w->b, CAS_TIER_OWN, 8 * MIB);
        return NULL;
}

static void writers_wait_for_the_mover(void **state)
{
        struct world *w = *state;
        struct maker m = {.w = w};
        struct cas_err err = CAS_ERR_INIT;
        pthread_t thread;
        own_capacity(w, 10 * MIB);
        assert_int_equal(grow(w, CAS_TIER_OWN, 10 * MIB, &err), 0);
        /* Nobody is at work: at once. */
        assert_int_equal(grow(w, CAS_TIER_OWN, MIB, &err), -CAS_E_NOSPACE);
        assert_int_equal(pthread_create(&thread, NULL, maker_run, &m), 0);
        err = (struct cas_err)CAS_ERR_INIT;
        int rc = -CAS_E_NOSPACE;
        for (int i = 0; i < 200 && rc < 0; i++, nap()) /* until it is at work */
                rc = grow(w, CAS_TIER_OWN, 3 * MIB, &err);
        atomic_store(&m.stop, true);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(rc, 0);
        assert_true(atomic_load(&m.awake));
        assert_int_equal(status_of(w, "own").status.home_bytes, 5 * MIB);
        assert_true(status_of(w, "own").status.waits > 0);
        tier_set_mover(w->set, NULL, NULL);
        w->b->ops->pack_shrunk(w->b, CAS_TIER_OWN, 5 * MIB);
}

static void paused_movers_are_not_waited_for(void **state)
{
        struct world *w = *state;
        struct maker m = {.w = w};
        struct cas_err err = CAS_ERR_INIT;
        own_capacity(w, 10 * MIB);
        assert_int_equal(tier_set_pause(w->set, true, &err), 0);
        assert_int_equal(grow(w, CAS_TIER_OWN, 10 * MIB, &err), 0);
        tier_set_mover(w->set, wake, &m);
        assert_int_equal(grow(w, CAS_TIER_OWN, MIB, &err), -CAS_E_NOSPACE);
        w->b->ops->pack_shrunk(w->b, CAS_TIER_OWN, 10 * MIB);
        tier_set_mover(w->set, NULL, NULL);
        store_reopen(w);
        assert_true(tier_set_is_paused(w->set));
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
        const struct CMUnitTest tests[] = {
                CASE(a_store_without_a_list_counts_nothing),
                CASE(a_tier_is_added_and_there_again),
                CASE(wrong_directories_are_refused),
                CASE(another_stores_tier_is_refused),
                CASE(a_removed_tier_is_not_taken_back),
                CASE(new_packs_go_to_the_fastest_with_room),
                CASE(what_leaves_takes_nothing),
                CASE(what_is_there_is_counted_at_opening),
                CASE(marks_say_what_is_to_be_moved),
                CASE(writers_wait_for_the_mover),
                CASE(paused_movers_are_not_waited_for),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
