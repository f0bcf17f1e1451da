/* SPDX-License-Identifier: Apache-2.0 */
/* Collection all the time, with publishers that count on what it is about to remove: images of the
 * same blobs, files and chunks come and go, by one publication, by pushes that ask first, and under
 * leases, while others condense and recode. Each publisher has a repository of its own, so it knows
 * what must be there, and looks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <pthread.h>
#include <time.h>

#include "cas/condense.h"
#include "cas/lease.h"
#include "cas/maintain.h"
#include "cas/store_int.h"
#include "tests/support/imageworld.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

#define PUBLISHERS 4
#define RUN_NS UINT64_C(2500000000)
#define FILES 6
#define SEEDS 4 /* of images that share all files but a few */
#define GRACE_S 3
/* From the answer to a HEAD until the manifest: what a client may count on, clocks being whole
 * seconds. */
#define SURE_NS UINT64_C(1900000000)

struct races {
        struct cas_store *store;
        const struct world *world;
        uint64_t grace_s, end_ns;
        _Atomic(bool) over;
        _Atomic(unsigned) runs, full_runs, stopped, pushes, sure, refused, removed;
};
struct publisher {
        struct races *r;
        unsigned number;
        uint64_t random;
        char repo[16];
        bool has[WORLD_IMAGES], has_seed[SEEDS];
        struct testimage images[SEEDS];
};

#define must(rc, err)                                                                              \
        do {                                                                                       \
                if ((rc) < 0) {                                                                    \
                        (void)fprintf(stderr, "%s:%d: %s\n", __func__, __LINE__, (err)->msg);      \
                        abort();                                                                   \
                }                                                                                  \
        } while (0)
#define must_be(what)                                                                              \
        do {                                                                                       \
                if (!(what)) {                                                                     \
                        (void)fprintf(stderr, "%s:%d: not %s\n", __func__, __LINE__, #what);       \
                        abort();                                                                   \
                }                                                                                  \
        } while (0)

static uint64_t now_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static unsigned any(uint64_t *random, unsigned below)
{
        *random = *random * 6364136223846793005u + 1442695040888963407u;
        return (unsigned)((*random >> 33) % below);
}

static void nap(uint64_t *random)
{
        const struct timespec t = {.tv_nsec = (long)any(random, 20) * 1000000};
        (void)nanosleep(&t, NULL);
}

/* ---- images of the world ---- */

static int put_manifest(struct publisher *p, const struct world_image *image, struct cas_err *err)
{
        const struct cas_manifest_put_options options = {.repo = p->repo,
                                                         .tag = "t",
                                                         .media_type = CAS_MT_OCI_MANIFEST,
                                                         .expected = &image->manifest.digest,
                                                         .linked_only = true};
        return cas_manifest_put(p->r->store, &options, image->manifest.bytes.data,
                                image->manifest.bytes.len_bytes, NULL, err);
}

static void publish(struct publisher *p, unsigned n)
{
        const struct world_image *image = &p->r->world->images[n];
        const struct world_blob *blob;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *pub = NULL;
        must(cas_publish_begin(p->r->store, &pub, &err), &err);
        for (unsigned i = 0; (blob = world_image_blob(image, i)) != NULL; i++) {
                must(cas_publish_blob(pub, blob->bytes.data, blob->bytes.len_bytes, &blob->digest,
                                      NULL, &err),
                     &err);
                must(cas_publish_blob_link(pub, p->repo, &blob->digest, &err), &err);
        }
        const struct world_blob *m = &image->manifest;
        must(cas_publish_blob(pub, m->bytes.data, m->bytes.len_bytes, &m->digest, NULL, &err),
             &err);
        must(cas_publish_manifest_link(pub, p->repo, &m->digest, CAS_MT_OCI_MANIFEST,
                                       m->bytes.len_bytes, &err),
             &err);
        must(cas_publish_commit(pub, &err), &err);
        p->has[n] = true;
}

/* HEAD, as the registry answers it. */
static bool is_here(struct publisher *p, const struct cas_digest *d)
{
        struct cas_err err = CAS_ERR_INIT;
        bool waits, linked;
        must(cas_blob_waits(p->r->store, p->repo, d, &waits, &err), &err);
        if (waits)
                must(cas_blob_renew(p->r->store, p->repo, d, &err), &err);
        must(cas_blob_linked(p->r->store, p->repo, d, &linked, &err), &err);
        int rc = linked ? cas_blob_stat(p->r->store, d, NULL, &err) : 0;
        must_be(rc == 0 || rc == -CAS_E_NOTFOUND);
        return linked && rc == 0;
}

static void upload(struct publisher *p, const struct world_blob *blob)
{
        struct cas_err err = CAS_ERR_INIT;
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_upload *u = NULL;
        must(cas_upload_create(p->r->store, p->repo, id, &err), &err);
        must(cas_upload_open(p->r->store, p->repo, id, &u, &err), &err);
        must(cas_upload_append(u, blob->bytes.data, blob->bytes.len_bytes, &err), &err);
        must(cas_upload_finish(u, &blob->digest, &err), &err);
}

/* As clients do: what is said to be here is not sent, and must be here for the grace. Without one
 * the manifest may be refused; then it is wholly not there. */
static void push(struct publisher *p, unsigned n)
{
        const struct world_image *image = &p->r->world->images[n];
        const struct world_blob *blob;
        struct cas_err err = CAS_ERR_INIT;
        uint64_t since = now_ns();
        for (unsigned i = 0; (blob = world_image_blob(image, i)) != NULL; i++) {
                if (!is_here(p, &blob->digest))
                        upload(p, blob);
                nap(&p->random);
        }
        int rc = put_manifest(p, image, &err);
        bool sure = p->r->grace_s == GRACE_S && now_ns() - since < SURE_NS;
        if (sure || rc != -CAS_E_NOTFOUND)
                must(rc, &err);
        p->has[n] = p->has[n] || rc == 0;
        atomic_fetch_add(&p->r->pushes, 1);
        atomic_fetch_add(&p->r->sure, sure);
        atomic_fetch_add(&p->r->refused, rc < 0);
}

static void drop(struct publisher *p, unsigned n)
{
        struct cas_err err = CAS_ERR_INIT;
        if (p->has[n])
                must(cas_manifest_delete(p->r->store, p->repo, NULL,
                                         &p->r->world->images[n].manifest.digest, NULL, NULL, &err),
                     &err);
        p->has[n] = false;
}

static void check(struct publisher *p, unsigned n)
{
        struct cas_err err = CAS_ERR_INIT;
        if (p->has[n])
                must(world_image_check(p->r->store, p->repo, &p->r->world->images[n], &err), &err);
}

/* With layers decoded, and a tree. */
static void open_image(struct publisher *p, unsigned n)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_image struct cas_image opened = {0};
        struct cas_tree_ref trees[CAS_IMAGE_TREES_MAX];
        size_t count;
        if (!p->has[n])
                return;
        must(cas_image_open_manifest(p->r->store, &p->r->world->images[n].manifest.digest, NULL,
                                     &opened, &err),
             &err);
        must(cas_image_trees(p->r->store, &opened, trees, &count, &err), &err);
}

/* A mount: what was there when the lease was taken stays, though its name goes. */
static void lease(struct publisher *p, unsigned n)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct world_image *image = &p->r->world->images[n];
        struct cas_lease l = {.root = image->manifest.digest, .owner = "test"};
        const struct world_blob *blob;
        (void)snprintf(l.id, sizeof(l.id), "mount:%u", p->number);
        must(cas_lease_put(p->r->store, &l, &err), &err);
        if (cas_blob_stat(p->r->store, &l.root, NULL, &err) == 0) {
                cas_cleanup_image struct cas_image opened = {0};
                drop(p, n);
                nap(&p->random);
                must(cas_image_open_manifest(p->r->store, &l.root, NULL, &opened, &err), &err);
                for (unsigned i = 0; (blob = world_image_blob(image, i)) != NULL; i++)
                        must(world_blob_check(p->r->store, blob, &err), &err);
        }
        must(cas_lease_drop(p->r->store, l.id, &err), &err);
}

/* ---- images whose files are shared ---- */

static void publish_files(struct publisher *p, unsigned n)
{
        struct cas_err err = CAS_ERR_INIT;
        must(testimage_put(p->r->store, p->repo, "f", 2 * n, FILES, &p->images[n], &err), &err);
        p->has_seed[n] = true;
}

static void drop_files(struct publisher *p, unsigned n)
{
        struct cas_err err = CAS_ERR_INIT;
        if (p->has_seed[n])
                must(cas_manifest_delete(p->r->store, p->repo, NULL, &p->images[n].manifest, NULL,
                                         NULL, &err),
                     &err);
        p->has_seed[n] = false;
}

static void check_files(struct publisher *p, unsigned n)
{
        must_be(!p->has_seed[n] || testimage_is_whole(p->r->store, &p->images[n], 2 * n, FILES));
}

/* ---- threads ---- */

static void *publishes(void *arg)
{
        static void (*const acts[])(struct publisher *, unsigned) = {
                publish, push, push, drop, drop, check, open_image, lease};
        static void (*const of_files[])(struct publisher *, unsigned) = {publish_files, drop_files,
                                                                         check_files};
        struct publisher *p = arg;
        while (now_ns() < p->r->end_ns) {
                if (any(&p->random, 4) > 0)
                        acts[any(&p->random, CAS_COUNT(acts))](p, any(&p->random, WORLD_IMAGES));
                else
                        of_files[any(&p->random, CAS_COUNT(of_files))](p, any(&p->random, SEEDS));
        }
        for (unsigned n = 0; n < WORLD_IMAGES; n++)
                check(p, n);
        for (unsigned n = 0; n < SEEDS; n++)
                check_files(p, n);
        return NULL;
}

static void condense(struct races *r, uint64_t *random)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recipe_record rec;
        const struct cas_condense_options options = {.threads = 1,
                                                     .keep_verbatim = any(random, 2) > 0};
        const struct cas_digest *layer = &r->world->layers[any(random, WORLD_LAYERS)].digest;
        int rc = cas_condense_blob(r->store, layer, &options, NULL, &rec, &err);
        if (rc != -CAS_E_NOTFOUND)
                must(rc, &err);
}

static void recode(struct races *r, uint64_t *random)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recode_result result = {0};
        must(cas_condense_packs(r->store, any(random, 2) ? CAS_CONDENSE_COLD : CAS_CONDENSE_DEFAULT,
                                NULL, NULL, &result, &err),
             &err);
        must_be(result.damaged == 0);
}

static void *condenses(void *arg)
{
        struct races *r = arg;
        uint64_t random = 77, freed;
        struct cas_err err = CAS_ERR_INIT;
        while (now_ns() < r->end_ns) {
                switch (any(&random, 4)) {
                case 0:
                        recode(r, &random);
                        break;
                case 1:
                        must(cas_blob_cache_shrink(r->store, 0, &freed, &err), &err);
                        break;
                default:
                        condense(r, &random);
                        break;
                }
                nap(&random);
        }
        return NULL;
}

static bool breaks_off(void *arg)
{
        unsigned *left = arg;
        return *left != UINT32_MAX && (*left == 0 || --*left == 0);
}

static void *collects(void *arg)
{
        static const unsigned live[] = {0, 50, 99}, duty[] = {0, 0, 50};
        struct races *r = arg;
        uint64_t random = 5;
        while (!atomic_load(&r->over)) {
                struct cas_err err = CAS_ERR_INIT;
                struct cas_gc_result result;
                unsigned left = any(&random, 3) ? UINT32_MAX : any(&random, 30);
                const struct cas_gc_options options = {.full = any(&random, 4) == 0,
                                                       .dry_run = any(&random, 16) == 0,
                                                       .grace_s = r->grace_s,
                                                       .live_percent_min = live[any(&random, 3)],
                                                       .duty_percent = duty[any(&random, 3)],
                                                       .stop = breaks_off,
                                                       .stop_arg = &left};
                must(cas_gc(r->store, &options, NULL, &result, &err), &err);
                atomic_fetch_add(&r->runs, 1);
                atomic_fetch_add(&r->full_runs, result.full);
                atomic_fetch_add(&r->stopped, result.stopped);
                if (!options.dry_run)
                        atomic_fetch_add(&r->removed, (unsigned)result.blobs_removed);
        }
        return NULL;
}

static void race(struct races *r, struct publisher publishers[PUBLISHERS])
{
        pthread_t threads[PUBLISHERS + 1], collectors[2];
        r->end_ns = now_ns() + (r->grace_s ? 2 * RUN_NS : RUN_NS);
        atomic_store(&r->over, false);
        for (unsigned i = 0; i < 2; i++)
                must_be(pthread_create(&collectors[i], NULL, collects, r) == 0);
        for (unsigned i = 0; i < PUBLISHERS; i++)
                must_be(pthread_create(&threads[i], NULL, publishes, &publishers[i]) == 0);
        must_be(pthread_create(&threads[PUBLISHERS], NULL, condenses, r) == 0);
        for (unsigned i = 0; i < PUBLISHERS + 1; i++)
                must_be(pthread_join(threads[i], NULL) == 0);
        atomic_store(&r->over, true);
        for (unsigned i = 0; i < 2; i++)
                must_be(pthread_join(collectors[i], NULL) == 0);
}

/* ---- what is left ---- */

static void tell(void *arg CAS_UNUSED, enum cas_fsck_severity severity, const char *id,
                 const char *subject, const char *message)
{
        (void)fprintf(stderr, "fsck: %d %s %s: %s\n", (int)severity, id, subject, message);
}

static void expect_sound(struct cas_store *s, bool clean)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        must(cas_fsck(s, NULL, NULL, clean ? tell : NULL, NULL, &r, &err), &err);
        assert_int_equal(r.errors, 0);
        if (clean)
                assert_int_equal(r.warnings, 0);
}

static int add_one(void *arg, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                   const void *value CAS_UNUSED, size_t value_len CAS_UNUSED,
                   struct cas_err *err CAS_UNUSED)
{
        ++*(uint64_t *)arg;
        return 0;
}

/* After a run that looks at everything. */
static void count(struct cas_store *s, uint64_t families[CAS_FAMILY_COUNT],
                  struct cas_store_stats *st)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result result;
        const struct cas_gc_options options = {.full = true, .live_percent_min = 100};
        /* Dead bytes that are noted of a pack while it goes are forgotten by the next run. */
        for (unsigned i = 0; i < 2; i++) {
                must(cas_gc(s, &options, NULL, &result, &err), &err);
                assert_false(result.stopped);
                assert_int_equal(result.waiting, 0);
        }
        for (enum cas_family f = 0; f < CAS_FAMILY_COUNT; f++) {
                families[f] = 0;
                must(cas_index_scan(s->index, &(struct cas_scan){.family = f}, add_one,
                                    &families[f], &err),
                     &err);
        }
        must(cas_store_stats(s, st, &err), &err);
}

/* What is counted depends on images alone, but for how many packs there are, and for trees: which
 * of those an image has depends on what else was there. */
static bool is_comparable(enum cas_family family)
{
        return family != CAS_FAMILY_META && family != CAS_FAMILY_PACKS &&
               family != CAS_FAMILY_PACK_DEAD && family != CAS_FAMILY_TREES &&
               family != CAS_FAMILY_CHAINS && family != CAS_FAMILY_BLOB_REFS;
}

static void expect_equal(struct cas_store *s, struct cas_store *fresh, bool empty)
{
        uint64_t got[CAS_FAMILY_COUNT], want[CAS_FAMILY_COUNT];
        struct cas_store_stats st, fresh_st;
        count(s, got, &st);
        count(fresh, want, &fresh_st);
        for (enum cas_family f = 0; f < CAS_FAMILY_COUNT; f++) {
                if (got[f] != want[f] && (empty ? f != CAS_FAMILY_META : is_comparable(f)))
                        fail_msg("%s: %llu, not %llu", cas_family_name(f),
                                 (unsigned long long)got[f], (unsigned long long)want[f]);
        }
        assert_int_equal(st.blob_bytes, fresh_st.blob_bytes);
        assert_int_equal(st.object_bytes, fresh_st.object_bytes);
        assert_int_equal(st.copy_bytes, fresh_st.copy_bytes);
        /* What lies together is compressed together, so as it comes. */
        const uint64_t some = fresh_st.pack_bytes / 10 + (fresh_st.pack_count ? 1000 : 0);
        print_message("%llu bytes in packs, %llu in a fresh store\n",
                      (unsigned long long)st.pack_bytes, (unsigned long long)fresh_st.pack_bytes);
        assert_in_range(st.pack_bytes + some, fresh_st.pack_bytes, fresh_st.pack_bytes + 2 * some);
        expect_sound(s, true);
}

/* All that may be known of the publisher's images is known. */
static void complete(struct races *r, struct publisher *p)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recode_result recoded;
        const struct cas_condense_options options = {.threads = 1};
        uint64_t freed;
        for (unsigned n = 0; n < WORLD_IMAGES; n++) {
                open_image(p, n);
                for (unsigned i = 1; p->has[n] && i <= WORLD_IMAGE_LAYERS; i++) {
                        struct cas_recipe_record rec;
                        must(cas_condense_blob(r->store,
                                               &world_image_blob(&r->world->images[n], i)->digest,
                                               &options, NULL, &rec, &err),
                             &err);
                }
        }
        must(cas_blob_cache_shrink(r->store, 0, &freed, &err), &err);
        must(cas_condense_packs(r->store, CAS_CONDENSE_COLD, NULL, NULL, &recoded, &err), &err);
}

static void publisher_init(struct publisher *p, struct races *r, unsigned number)
{
        *p = (struct publisher){.r = r, .number = number, .random = number + (uint64_t)time(NULL)};
        (void)snprintf(p->repo, sizeof(p->repo), "r%u", number);
}

/* The same images, put once. */
static void copy_images(struct races *fresh, const struct publisher *from)
{
        struct publisher p;
        publisher_init(&p, fresh, from->number);
        for (unsigned n = 0; n < WORLD_IMAGES; n++) {
                if (from->has[n])
                        publish(&p, n);
        }
        for (unsigned n = 0; n < SEEDS; n++) {
                if (from->has_seed[n])
                        publish_files(&p, n);
        }
        for (unsigned n = 0; n < 2; n++) { /* both tags, and no time of them */
                struct cas_err err = CAS_ERR_INIT;
                cas_cleanup_publish struct cas_publish *pub = NULL;
                must(cas_publish_begin(fresh->store, &pub, &err), &err);
                must(cas_publish_untag(pub, p.repo, n ? "t" : "f", &err), &err);
                must(cas_publish_commit(pub, &err), &err);
        }
        complete(fresh, &p);
}

static void untag(struct publisher *p)
{
        struct cas_err err = CAS_ERR_INIT;
        for (unsigned n = 0; n < 2; n++) {
                cas_cleanup_publish struct cas_publish *pub = NULL;
                must(cas_publish_begin(p->r->store, &pub, &err), &err);
                must(cas_publish_untag(pub, p->repo, n ? "t" : "f", &err), &err);
                must(cas_publish_commit(pub, &err), &err);
        }
}

static void compare_with_fresh(struct races *r, struct publisher publishers[PUBLISHERS])
{
        struct teststore *other;
        must_be(teststore_setup((void **)&other) == 0);
        struct races fresh = {.store = other->store, .world = r->world};
        for (unsigned i = 0; i < PUBLISHERS; i++) {
                untag(&publishers[i]);
                complete(r, &publishers[i]);
                copy_images(&fresh, &publishers[i]);
        }
        expect_equal(r->store, fresh.store, false);
        for (unsigned i = 0; i < PUBLISHERS; i++) {
                for (unsigned n = 0; n < WORLD_IMAGES; n++) {
                        check(&publishers[i], n);
                        drop(&publishers[i], n);
                }
                for (unsigned n = 0; n < SEEDS; n++) {
                        check_files(&publishers[i], n);
                        drop_files(&publishers[i], n);
                }
        }
        (void)teststore_teardown((void **)&other);
        must_be(teststore_setup((void **)&other) == 0);
        expect_equal(r->store, other->store, true);
        (void)teststore_teardown((void **)&other);
}

static void run(struct teststore *t, uint64_t grace_s)
{
        struct races r = {.store = t->store, .world = world_get(), .grace_s = grace_s};
        struct publisher publishers[PUBLISHERS];
        for (unsigned i = 0; i < PUBLISHERS; i++)
                publisher_init(&publishers[i], &r, i);
        race(&r, publishers);
        print_message("%u runs, %u of them full, %u broken off; %u blobs removed; %u pushes, %u "
                      "of them sure, %u refused\n",
                      r.runs, r.full_runs, r.stopped, r.removed, r.pushes, r.sure, r.refused);
        assert_true(r.full_runs > 0 && r.stopped > 0);
        assert_true(grace_s == 0 ? r.removed > 0 : r.sure > 0);
        expect_sound(t->store, false);
        compare_with_fresh(&r, publishers);
}

static void nothing_is_lost_nor_left_over(void **state)
{
        run(*state, 0);
}

static void a_client_can_count_on_the_grace(void **state)
{
        run(*state, GRACE_S);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, teststore_setup, teststore_teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(nothing_is_lost_nor_left_over),
                TEST(a_client_can_count_on_the_grace),
        };
        return cmocka_run_group_tests_name("gc_races", tests, NULL, NULL);
}
