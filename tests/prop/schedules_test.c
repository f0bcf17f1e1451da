/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on one store side by side, in an order that a seed decides (tests/support/sched.h):
 * pushes of images that share objects, deletions, collection without grace, condensing, recoding,
 * copies of blobs that come and go, leases, uploads, tags, scrubbing, pulls. While they run, what
 * is acknowledged is readable; afterwards names are right, fsck finds nothing, and once everything
 * is deleted nothing is left.
 *
 *   schedules_test [--schedules N] [--seconds N] [--from SEED] [--seed SEED [--trace]]
 *                  [--only OPS | --duels]
 *
 * OPS: letters of the operations that take part (the table below). Duels: see DUEL_STEPS. */
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "cas/blob.h"
#include "cas/condense.h"
#include "cas/lease.h"
#include "cas/maintain.h"
#include "cas/object.h"
#include "cas/transfer.h"
#include "cas/tree.h"
#include "tests/support/farstore.h"
#include "tests/support/imageworld.h"
#include "tests/support/sched.h"
#include "tests/support/scratch.h"

#define ACTORS 4
#define STEPS_MAX 2000000
#define STEPS_GUESS 6000
#define CHANGES 3
#define STUCK_S 120
#define REPLAYED_EVERY 25
#define LAZY_FILES 2
#define LAZY_WAIT_MS 1000000 /* of the scheduler's time */
#define EMPTIED_EVERY 4

struct run {
        struct cas_store *store;
        const struct world *world;
        const char *layout;
        struct world_history history;
        uint64_t seed;
        char path[256];
        struct farstore far; /* only of schedules with lazy layers */
        struct teststore near;
        bool has_far;
        struct lazy {
                struct testimage image;
                bool there, whole;
        } lazy[ACTORS];
};
static struct run run;

/* In every other schedule only two meet: an image was put, decoded and deleted before, so that
 * collection removes what the other, who puts it again or one that shares files with it, is about
 * to count on. Such schedules are short, so that few changes of who runs are likely to be at the
 * right places. */
#define DUEL_STEPS 1500
#define DUEL_GATES                                                                                 \
        120 /* and of passages through the gate, where half of them have their changes             \
             */

/* What an actor does, decided before anything runs. */
struct step {
        const struct operation *op;
        uint64_t random;
};
struct actor {
        struct step steps[6];
        unsigned count, number;
};

/* Ends the schedule but for errors of a code that may be. */
#define expect(rc, may, err, ...)                                                                  \
        do {                                                                                       \
                if ((rc) < 0 && (rc) != -(may))                                                    \
                        sched_fail(__VA_ARGS__, (err)->msg);                                       \
        } while (0)
#define NO_ERROR 0

/* ---- putting ---- */

static void push_blob(const struct world_blob *blob)
{
        struct cas_err err = CAS_ERR_INIT;
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_upload *u = NULL;
        size_t half = blob->bytes.len_bytes / 2;
        int rc = cas_upload_create(run.store, WORLD_REPO, id, &err);
        if (rc == 0)
                rc = cas_upload_open(run.store, WORLD_REPO, id, &u, &err);
        if (rc == 0)
                rc = cas_upload_append(u, blob->bytes.data, half, &err);
        if (rc == 0)
                rc = cas_upload_append(u, blob->bytes.data + half, blob->bytes.len_bytes - half,
                                       &err);
        if (rc == 0)
                rc = cas_upload_finish(u, &blob->digest, &err);
        expect(rc, NO_ERROR, &err, "upload: %s");
}

/* HEAD: what is here is not sent. */
static bool is_here(const struct world_blob *blob)
{
        struct cas_err err = CAS_ERR_INIT;
        bool linked = false;
        int rc = cas_blob_linked(run.store, WORLD_REPO, &blob->digest, &linked, &err);
        if (rc == 0 && linked)
                rc = cas_blob_stat(run.store, &blob->digest, NULL, &err);
        expect(rc, CAS_E_NOTFOUND, &err, "HEAD: %s");
        return rc == 0 && linked;
}

static int put_manifest(const struct world_image *image, const char *tag, struct cas_err *err)
{
        const struct cas_manifest_put_options options = {.repo = WORLD_REPO,
                                                         .tag = tag,
                                                         .media_type = CAS_MT_OCI_MANIFEST,
                                                         .expected = &image->manifest.digest};
        return cas_manifest_put(run.store, &options, image->manifest.bytes.data,
                                image->manifest.bytes.len_bytes, NULL, err);
}

static void lease_id(const struct actor *a, unsigned i, struct cas_lease *out)
{
        (void)snprintf(out->id, sizeof(out->id), "push:%u:%u", a->number, i);
}

static void lease_put(const struct actor *a, unsigned i, const struct cas_digest *root)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_lease lease = {.root = *root, .owner = "test"};
        lease_id(a, i, &lease);
        int rc = cas_lease_put(run.store, &lease, &err);
        expect(rc, NO_ERROR, &err, "lease: %s");
}

static void lease_drop(const struct actor *a, unsigned i)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_lease lease;
        lease_id(a, i, &lease);
        int rc = cas_lease_drop(run.store, lease.id, &err);
        expect(rc, NO_ERROR, &err, "end of a lease: %s");
}

/* As clients push. Without leases, and with no grace, what was sent may be gone before the manifest
 * comes, which is told; with leases it may not. */
static void push(const struct actor *a, uint64_t random, bool leased)
{
        unsigned n = (unsigned)(random % WORLD_IMAGES);
        const struct world_image *image = &run.world->images[n];
        const struct world_blob *blob;
        struct cas_err err = CAS_ERR_INIT;
        for (unsigned i = 0; leased && (blob = world_image_blob(image, i)) != NULL; i++)
                lease_put(a, i, &blob->digest);
        for (unsigned i = 0; (blob = world_image_blob(image, i)) != NULL; i++)
                if (!is_here(blob))
                        push_blob(blob);
        unsigned event = world_begin(&run.history, WORLD_PUT, n);
        int rc = put_manifest(image, random >> 32 & 1 ? "t" : NULL, &err);
        expect(rc, leased ? NO_ERROR : CAS_E_NOTFOUND, &err, "manifest: %s");
        world_end(&run.history, event, rc == 0);
        for (unsigned i = 0; leased && world_image_blob(image, i); i++)
                lease_drop(a, i);
}

static void do_push(const struct actor *a, uint64_t random)
{
        push(a, random, false);
}

static void do_push_leased(const struct actor *a, uint64_t random)
{
        push(a, random, true);
}

/* One publication has all of it: nothing of it may go meanwhile, whether it was here or not. */
static void do_publish(const struct actor *a CAS_UNUSED, uint64_t random)
{
        unsigned n = (unsigned)(random % WORLD_IMAGES);
        const struct world_image *image = &run.world->images[n];
        const struct world_blob *blob;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        unsigned event = world_begin(&run.history, WORLD_PUT, n);
        int rc = cas_publish_begin(run.store, &p, &err);
        for (unsigned i = 0; rc == 0 && (blob = world_image_blob(image, i)) != NULL; i++) {
                rc = cas_publish_blob(p, blob->bytes.data, blob->bytes.len_bytes, &blob->digest,
                                      NULL, &err);
                if (rc == 0)
                        rc = cas_publish_blob_link(p, WORLD_REPO, &blob->digest, &err);
        }
        const struct world_blob *m = &image->manifest;
        if (rc == 0)
                rc = cas_publish_blob(p, m->bytes.data, m->bytes.len_bytes, &m->digest, NULL, &err);
        if (rc == 0)
                rc = cas_publish_manifest_link(p, WORLD_REPO, &m->digest, CAS_MT_OCI_MANIFEST,
                                               m->bytes.len_bytes, &err);
        if (rc == 0)
                rc = cas_publish_commit(p, &err);
        expect(rc, NO_ERROR, &err, "publish: %s");
        world_end(&run.history, event, true);
}

static void do_import(const struct actor *a CAS_UNUSED, uint64_t random)
{
        unsigned n = (unsigned)(random % WORLD_IMAGES);
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *text = cas_xasprintf("oci:%s:%u", run.layout, n);
        struct cas_transfer_address from;
        unsigned event = world_begin(&run.history, WORLD_PUT, n);
        int rc = cas_transfer_address_parse(text, &from, &err);
        expect(rc, NO_ERROR, &err, "address: %s");
        rc = cas_import(run.store, &from, WORLD_REPO ":i", NULL, NULL, NULL, &err);
        cas_transfer_address_release(&from);
        expect(rc, NO_ERROR, &err, "import: %s");
        world_end(&run.history, event, true);
}

static void do_tag(const struct actor *a CAS_UNUSED, uint64_t random)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        const struct world_image *image = &run.world->images[random % WORLD_IMAGES];
        int rc = cas_publish_begin(run.store, &p, &err);
        if (rc == 0)
                rc = cas_publish_tag(p, WORLD_REPO, "t", &image->manifest.digest, &err);
        if (rc == 0)
                rc = cas_publish_commit(p, &err);
        expect(rc, CAS_E_NOTFOUND, &err, "tag: %s");
}

static void do_delete(const struct actor *a CAS_UNUSED, uint64_t random)
{
        unsigned n = (unsigned)(random % WORLD_IMAGES);
        struct cas_err err = CAS_ERR_INIT;
        unsigned event = world_begin(&run.history, WORLD_DELETE, n);
        int rc = cas_manifest_delete(run.store, WORLD_REPO, NULL,
                                     &run.world->images[n].manifest.digest, NULL, NULL, &err);
        expect(rc, CAS_E_NOTFOUND, &err, "delete: %s");
        world_end(&run.history, event, rc == 0);
}

/* A session that comes to nothing. */
static void do_upload(const struct actor *a CAS_UNUSED, uint64_t random)
{
        struct cas_err err = CAS_ERR_INIT;
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_upload *u = NULL;
        int rc = cas_upload_create(run.store, WORLD_REPO, id, &err);
        if (rc == 0)
                rc = cas_upload_open(run.store, WORLD_REPO, id, &u, &err);
        if (rc == 0)
                rc = cas_upload_append(u, "never more than this", 20, &err);
        if (rc == 0 && random % 2)
                rc = cas_upload_cancel(u, &err);
        else
                cas_upload_close(u);
        expect(rc, NO_ERROR, &err, "upload session: %s");
}

/* ---- maintenance ---- */

static void do_collect(const struct actor *a CAS_UNUSED, uint64_t random)
{
        static const unsigned live[] = {0, 50, 99};
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result result;
        const struct cas_gc_options options = {.full = random % 4 == 0,
                                               .live_percent_min = live[random / 4 % 3]};
        int rc = cas_gc(run.store, &options, NULL, &result, &err);
        expect(rc, NO_ERROR, &err, "gc: %s");
}

static const struct world_blob *any_layer(uint64_t random)
{
        return &run.world->layers[random % WORLD_LAYERS];
}

static void do_condense(const struct actor *a CAS_UNUSED, uint64_t random)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recipe_record rec;
        const struct cas_condense_options options = {.threads = 1,
                                                     .keep_verbatim = random >> 32 & 1};
        int rc = cas_condense_blob(run.store, &any_layer(random)->digest, &options, NULL, &rec,
                                   &err);
        expect(rc, CAS_E_NOTFOUND, &err, "condense: %s");
}

static void do_recode(const struct actor *a CAS_UNUSED, uint64_t random)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_recode_result result;
        int rc =
                cas_condense_packs(run.store, random % 2 ? CAS_CONDENSE_COLD : CAS_CONDENSE_DEFAULT,
                                   NULL, NULL, &result, &err);
        expect(rc, CAS_E_BUSY, &err, "recode: %s");
        if (rc == 0 && result.damaged)
                sched_fail("recode: %llu damaged packs", (unsigned long long)result.damaged);
}

static void do_copies(const struct actor *a CAS_UNUSED, uint64_t random)
{
        struct cas_err err = CAS_ERR_INIT;
        uint64_t freed;
        int rc = random >> 32 & 1 ? cas_blob_cache_drop(run.store, &any_layer(random)->digest, &err)
                                  : cas_blob_cache_shrink(run.store, 0, &freed, &err);
        expect(rc, CAS_E_NOTFOUND, &err, "copies: %s");
}

static void note_damage(void *arg, enum cas_fsck_severity severity, const char *id,
                        const char *subject, const char *message)
{
        if (severity == CAS_FSCK_ERROR)
                sched_fail("%s: %s %s: %s", (const char *)arg, id, subject, message);
}

static void check_store(const char *when)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result result;
        int rc = cas_fsck(run.store, NULL, NULL, note_damage, (void *)(uintptr_t)when, &result,
                          &err);
        expect(rc, NO_ERROR, &err, "fsck: %s");
        if (result.errors)
                sched_fail("%s: fsck counts %llu errors", when, (unsigned long long)result.errors);
}

static void do_check(const struct actor *a CAS_UNUSED, uint64_t random CAS_UNUSED)
{
        check_store("fsck meanwhile");
}

/* ---- reading ---- */

static void do_pull(const struct actor *a CAS_UNUSED, uint64_t random)
{
        unsigned n = (unsigned)(random % WORLD_IMAGES);
        struct cas_err err = CAS_ERR_INIT;
        uint64_t from = world_now(&run.history);
        int rc = world_image_check(run.store, WORLD_REPO, &run.world->images[n], &err);
        bool was_there = world_was_there(&run.history, n, from, world_now(&run.history));
        expect(rc, was_there ? NO_ERROR : CAS_E_NOTFOUND, &err, "pull: %s");
}

/* A layer that is decoded, a tree that is made: as mounting does. */
static void do_open(const struct actor *a CAS_UNUSED, uint64_t random)
{
        unsigned n = (unsigned)(random % WORLD_IMAGES);
        const struct world_image *image = &run.world->images[n];
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_image struct cas_image opened = {0};
        struct cas_tree_ref trees[CAS_IMAGE_TREES_MAX];
        size_t count;
        uint64_t from = world_now(&run.history);
        int rc = cas_image_open_manifest(run.store, &image->manifest.digest, NULL, &opened, &err);
        if (rc == 0)
                rc = cas_image_trees(run.store, &opened, trees, &count, &err);
        bool was_there = world_was_there(&run.history, n, from, world_now(&run.history));
        expect(rc, was_there ? NO_ERROR : CAS_E_NOTFOUND, &err, "open: %s");
}

/* A mount: who has a lease of an image that was there afterwards keeps all of it, whatever is
 * deleted. */
static void do_mount(const struct actor *a, uint64_t random)
{
        const struct world_image *image = &run.world->images[random % WORLD_IMAGES];
        const unsigned id = 99;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_image struct cas_image opened = {0};
        lease_put(a, id, &image->manifest.digest);
        int rc = cas_blob_stat(run.store, &image->manifest.digest, NULL, &err);
        expect(rc, CAS_E_NOTFOUND, &err, "look after a lease: %s");
        if (rc == 0) {
                rc = cas_image_open_manifest(run.store, &image->manifest.digest, NULL, &opened,
                                             &err);
                expect(rc, NO_ERROR, &err, "open of a leased image: %s");
                for (unsigned i = 0; i < WORLD_IMAGE_LAYERS; i++) {
                        sched_point("mounted");
                        rc = world_blob_check(run.store, world_image_blob(image, i + 1), &err);
                        expect(rc, NO_ERROR, &err, "read of a leased image: %s");
                        cas_cleanup_listing struct cas_listing listing = {0};
                        rc = cas_layer_listing(run.store, &opened.layers[i], &listing, &err);
                        expect(rc, NO_ERROR, &err, "listing of a leased image: %s");
                        for (size_t f = 0; f < listing.count; f++) {
                                cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
                                rc = cas_object_read(run.store, &listing.entries[f].object, 1 << 20,
                                                     &bytes, &err);
                                expect(rc, NO_ERROR, &err, "file of a leased image: %s");
                        }
                }
        }
        lease_drop(a, id);
}

/* ---- layers that come later ---- */

static unsigned lazy_seed(const struct actor *a)
{
        return 5 + a->number; /* neighbours share a file */
}

/* An image of a layer that is elsewhere, each actor's own; leased until its manifest names it. */
static void put_lazy(const struct actor *a, struct lazy *l)
{
        cas_cleanup_free char *tag = cas_xasprintf("lazy%u", a->number);
        cas_cleanup_free char *config = cas_xasprintf("{\"seed\":%u}", lazy_seed(a));
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", lazy_seed(a), LAZY_FILES);
        struct cas_digest digest = test_digest(config);
        lease_put(a, 50, &digest);
        digest = test_digest(blob);
        lease_put(a, 51, &digest);
        farstore_image(&run.far, WORLD_REPO, tag, lazy_seed(a), LAZY_FILES, &l->image);
        lease_drop(a, 50);
        lease_drop(a, 51);
        l->there = true;
}

static void do_lazy(const struct actor *a, uint64_t random)
{
        struct lazy *l = &run.lazy[a->number];
        struct cas_err err = CAS_ERR_INIT;
        int rc = 0;
        if (!l->there)
                put_lazy(a, l);
        if (random % 4 == 0) {
                struct cas_hash id = farstore_file(&run.far, &l->image, random >> 32 & 1);
                do {
                        rc = cas_elsewhere_bring(run.store, &id, LAZY_WAIT_MS, &err);
                } while (rc == -CAS_E_BUSY); /* time may be over at any point */
                if (rc != -CAS_E_IO)         /* "too slow" */
                        expect(rc, l->whole ? CAS_E_NOTFOUND : NO_ERROR, &err,
                               "file from elsewhere: %s");
        } else if (random % 4 == 1) {
                rc = cas_elsewhere_complete(run.store, &l->image.layer.blob, NULL, &err);
                expect(rc, CAS_E_IO, &err, "layer from elsewhere: %s");
                l->whole |= rc == 0;
        } else if (random % 4 == 2) {
                rc = cas_manifest_delete(run.store, WORLD_REPO, NULL, &l->image.manifest, NULL,
                                         NULL, &err);
                expect(rc, NO_ERROR, &err, "delete of a lazy image: %s");
                *l = (struct lazy){0};
        }
}

static void check_lazy(void)
{
        struct cas_err err = CAS_ERR_INIT;
        for (unsigned i = 0; i < ACTORS; i++) {
                const struct lazy *l = &run.lazy[i];
                const struct actor a = {.number = i};
                struct cas_layer_record rec;
                if (l->there) {
                        int rc = cas_elsewhere_layer(run.store, &l->image.layer.blob, &rec, &err);
                        expect(rc, NO_ERROR, &err, "lazy layer at the end: %s");
                }
                if (l->whole &&
                    !testimage_is_whole(run.store, &l->image, lazy_seed(&a), LAZY_FILES))
                        sched_fail("a layer that has come is not whole");
        }
}

static void delete_lazy(void)
{
        struct cas_err err = CAS_ERR_INIT;
        for (unsigned i = 0; i < ACTORS; i++) {
                if (!run.lazy[i].there)
                        continue;
                int rc = cas_manifest_delete(run.store, WORLD_REPO, NULL,
                                             &run.lazy[i].image.manifest, NULL, NULL, &err);
                expect(rc, NO_ERROR, &err, "delete of a lazy image: %s");
        }
}

/* ---- schedules ---- */

static const struct operation {
        char letter;
        unsigned weight;
        const char *name;
        void (*run)(const struct actor *a, uint64_t random);
} operations[] = {
        {'p', 4, "push", do_push},         {'l', 3, "push with leases", do_push_leased},
        {'w', 4, "publish", do_publish},   {'i', 3, "import", do_import},
        {'t', 2, "tag", do_tag},           {'d', 6, "delete", do_delete},
        {'u', 1, "upload", do_upload},     {'g', 7, "gc", do_collect},
        {'c', 3, "condense", do_condense}, {'r', 1, "recode", do_recode},
        {'b', 2, "copies", do_copies},     {'f', 2, "fsck", do_check},
        {'x', 3, "pull", do_pull},         {'o', 3, "open", do_open},
        {'m', 3, "mount", do_mount},       {'e', 2, "lazy", do_lazy},
};

static const char *only; /* NULL: all */
static bool only_duels;

static const struct operation *any_operation(void)
{
        unsigned sum = 0;
        for (size_t i = 0; i < CAS_COUNT(operations); i++)
                sum += only && !strchr(only, operations[i].letter) ? 0 : operations[i].weight;
        uint64_t at = sched_random(sum);
        for (size_t i = 0;; i++) {
                unsigned weight =
                        only && !strchr(only, operations[i].letter) ? 0 : operations[i].weight;
                if (at < weight)
                        return &operations[i];
                at -= weight;
        }
}

static const struct operation *operation_of(char letter)
{
        size_t i = 0;
        while (operations[i].letter != letter)
                i++;
        return &operations[i];
}

static void *act(void *arg)
{
        const struct actor *a = arg;
        for (unsigned i = 0; i < a->count; i++) {
                sched_name(a->steps[i].op->name);
                sched_point(a->steps[i].op->name);
                a->steps[i].op->run(a, a->steps[i].random);
        }
        return NULL;
}

static void plan(struct actor actors[ACTORS])
{
        for (unsigned i = 0; i < ACTORS; i++) {
                struct actor *a = &actors[i];
                *a = (struct actor){.number = i};
                a->count = 2 + (unsigned)sched_random(CAS_COUNT(a->steps) - 1);
                for (unsigned k = 0; k < a->count; k++)
                        a->steps[k] = (struct step){.op = any_operation(),
                                                    .random = sched_random(UINT64_MAX)};
        }
}

static void prepare_duel(uint64_t random, bool at_gate)
{
        const struct actor nobody = {0};
        do_publish(&nobody, random);
        do_open(&nobody, random);
        do_delete(&nobody, random);
        sched_changes_within(at_gate ? DUEL_GATES : DUEL_STEPS);
}

/* One puts an image, or mounts it; the other collects. */
static void plan_duel(struct actor actors[ACTORS], uint64_t random)
{
        static const char putting[] = "wilpo";
        const struct operation *ops[2] = {operation_of(putting[sched_random(sizeof(putting) - 1)]),
                                          operation_of('g')};
        for (unsigned i = 0; i < ACTORS; i++)
                actors[i] = (struct actor){.number = i};
        for (unsigned i = 0; i < 2; i++) {
                actors[i].count = 1;
                actors[i].steps[0] = (struct step){.op = ops[i], .random = i ? 0 : random};
        }
        if (ops[0]->letter != 'i' && ops[0]->letter != 'o')
                actors[0].steps[actors[0].count++] =
                        (struct step){.op = operation_of('o'), .random = random};
}

static void open_store(void)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_store_config config = {
                .path = run.path, .io = sched_io(), .threads = 2, .blob_cache_bytes = 1 << 20};
        int rc = cas_store_open(&config, &run.store, &err);
        expect(rc, NO_ERROR, &err, "open: %s");
}

static void open_far(const struct actor actors[ACTORS])
{
        for (unsigned i = 0; i < ACTORS; i++)
                for (unsigned k = 0; k < actors[i].count; k++)
                        run.has_far |= actors[i].steps[k].op->run == do_lazy;
        run.near = (struct teststore){
                .dir = cas_xasprintf("%s.far", run.path), .path = run.path, .store = run.store};
        if (!run.has_far)
                return;
        if (mkdir(run.near.dir, 0700) != 0)
                sched_fail("no directory");
        farstore_open(&run.far, &run.near, LAZY_WAIT_MS);
}

static void close_all(void)
{
        if (run.has_far)
                farstore_close(&run.far);
        else
                cas_store_close(run.store);
        scratch_free(run.near.dir);
}

static void check_names(void)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest d;
        struct cas_manifest_info info;
        for (unsigned n = 0; n < WORLD_IMAGES; n++) {
                const struct world_image *image = &run.world->images[n];
                if (world_was_there(&run.history, n, UINT64_MAX - 1, UINT64_MAX)) {
                        int rc = world_image_check(run.store, WORLD_REPO, image, &err);
                        expect(rc, NO_ERROR, &err, "image at the end: %s");
                }
                if (world_is_gone(&run.history, n) &&
                    cas_manifest_stat(run.store, WORLD_REPO, &image->manifest.digest, &info,
                                      &err) == 0)
                        sched_fail("image %u is there, which was deleted", n);
        }
        static const char *const tags[] = {"t", "i"};
        for (size_t i = 0; i < CAS_COUNT(tags); i++)
                if (cas_tag_get(run.store, WORLD_REPO, tags[i], &d, &err) == 0) {
                        int rc = cas_manifest_stat(run.store, WORLD_REPO, &d, &info, &err);
                        expect(rc, NO_ERROR, &err, "what a tag names: %s");
                }
}

static void collect_all(void)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_gc_result result;
        const struct cas_gc_options options = {.full = true, .live_percent_min = 50};
        int rc = cas_gc(run.store, &options, NULL, &result, &err);
        expect(rc, NO_ERROR, &err, "gc at the end: %s");
}

/* Everything goes: then nothing may be left. */
static void check_emptied(void)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store_stats st;
        for (unsigned n = 0; n < WORLD_IMAGES; n++)
                do_delete(NULL, n);
        delete_lazy();
        collect_all();
        int rc = cas_store_stats(run.store, &st, &err);
        expect(rc, NO_ERROR, &err, "stats: %s");
        if (st.blob_count || st.object_count || st.chunk_count || st.layer_count ||
            st.recipe_count || st.tree_count || st.tag_count)
                sched_fail("left over: %llu blobs, %llu objects, %llu chunks, %llu layers, %llu "
                           "recipes, %llu trees, %llu tags",
                           (unsigned long long)st.blob_count, (unsigned long long)st.object_count,
                           (unsigned long long)st.chunk_count, (unsigned long long)st.layer_count,
                           (unsigned long long)st.recipe_count, (unsigned long long)st.tree_count,
                           (unsigned long long)st.tag_count);
}

static void check_end(void)
{
        check_names();
        check_lazy();
        check_store("fsck at the end");
        collect_all();
        check_names();
        check_lazy();
        check_store("fsck after the last gc");
        if (run.seed % EMPTIED_EVERY == 0)
                check_emptied();
}

static bool is_duel(uint64_t seed)
{
        return only_duels || (!only && seed / 2 % 2 == 0);
}

static bool is_at_gate(uint64_t seed)
{
        return only_duels || (is_duel(seed) && seed / 4 % 2 == 0);
}

static void run_schedule(const char *dir, const char *program, uint64_t seed, bool trace,
                         struct sched_result *out)
{
        struct actor actors[ACTORS];
        pthread_t threads[ACTORS];
        cas_cleanup_free char *replay =
                cas_xasprintf("%s --seed %llu%s%s", program, (unsigned long long)seed,
                              only ? " --only " : "", only ? only : "");
        run.history = (struct world_history){0};
        memset(run.lazy, 0, sizeof(run.lazy));
        run.has_far = false;
        run.seed = seed;
        (void)snprintf(run.path, sizeof(run.path), "%s/%llu", dir, (unsigned long long)seed);
        (void)alarm(STUCK_S);
        sched_begin(
                &(struct sched_config){.seed = seed,
                                       .strategy = only_duels || seed % 2 ? SCHED_PCT : SCHED_WALK,
                                       .changes = CHANGES,
                                       .focus = is_at_gate(seed) ? "gate" : NULL,
                                       .steps_guess = STEPS_GUESS,
                                       .steps_max = STEPS_MAX,
                                       .replay = replay,
                                       .trace = trace});
        open_store();
        uint64_t random = sched_random(UINT64_MAX);
        if (is_duel(seed)) {
                plan_duel(actors, random);
                prepare_duel(sched_random(3) ? sched_random(UINT64_MAX) : random, is_at_gate(seed));
        } else {
                plan(actors);
        }
        open_far(actors);
        for (unsigned i = 0; i < ACTORS; i++)
                if (pthread_create(&threads[i], NULL, act, &actors[i]) != 0)
                        sched_fail("no thread");
        for (unsigned i = 0; i < ACTORS; i++)
                (void)pthread_join(threads[i], NULL);
        uint64_t met = sched_trace_hash(); /* what follows is one thread's, and RocksDB's */
        check_end();
        close_all();
        sched_end(out);
        out->trace_hash = met;
        scratch_free(cas_xstrdup(run.path));
}

static void stuck(int signal CAS_UNUSED)
{
        sched_fail("a thread waits for something that is not the scheduler's");
}

/* Memory, where there is enough: RocksDB syncs every batch. */
static char *new_directory(void)
{
        char *path = cas_xstrdup("/dev/shm/lamina-schedules-XXXXXX");
        if (mkdtemp(path))
                return path;
        free(path);
        return scratch_new();
}

static int64_t seconds_now(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec;
}

struct options {
        uint64_t from, schedules;
        int64_t seconds;
        bool one, trace;
};

static bool read_options(int argc, char **argv, struct options *o)
{
        static const struct option longs[] = {{"schedules", required_argument, NULL, 'n'},
                                              {"seconds", required_argument, NULL, 't'},
                                              {"from", required_argument, NULL, 'f'},
                                              {"seed", required_argument, NULL, 's'},
                                              {"trace", no_argument, NULL, 'v'},
                                              {"duels", no_argument, NULL, 'd'},
                                              {"only", required_argument, NULL, 'o'},
                                              {0}};
        int c;
        while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
                switch (c) {
                case 'n':
                        o->schedules = strtoull(optarg, NULL, 10);
                        break;
                case 't':
                        o->seconds = strtoll(optarg, NULL, 10);
                        break;
                case 's':
                        o->one = true;
                        o->from = strtoull(optarg, NULL, 10);
                        break;
                case 'f':
                        o->from = strtoull(optarg, NULL, 10);
                        break;
                case 'v':
                        o->trace = true;
                        break;
                case 'd':
                        only_duels = true;
                        break;
                case 'o':
                        only = optarg;
                        break;
                default:
                        return false;
                }
        }
        return optind == argc;
}

/* 0, or the exit status. */
static int run_schedules(const char *dir, const char *program, const struct options *o)
{
        struct sched_result sum = {0};
        uint64_t done = 0;
        cas_cleanup_free char *layout = cas_xasprintf("%s/layout", dir);
        run.world = world_get();
        run.layout = layout;
        world_write_layout(dir);
        int64_t end = seconds_now() + o->seconds;
        while (o->one ? done < 1 : done < o->schedules && seconds_now() < end) {
                struct sched_result r, again;
                run_schedule(dir, program, o->from + done, o->trace, &r);
                if (!o->one && done % REPLAYED_EVERY == 0) {
                        run_schedule(dir, program, o->from + done, o->trace, &again);
                        if (r.trace_hash != again.trace_hash) {
                                (void)fprintf(stderr, "schedule %llu is another the second time\n",
                                              (unsigned long long)(o->from + done));
                                return 1;
                        }
                }
                sum.steps += r.steps;
                sum.switches += r.switches;
                sum.timeouts += r.timeouts;
                sum.threads += r.threads;
                done++;
        }
        (void)printf("%llu passed: schedules from %llu on; %llu steps, %llu switches, %llu time "
                     "limits, %u threads\n",
                     (unsigned long long)done, (unsigned long long)o->from,
                     (unsigned long long)sum.steps, (unsigned long long)sum.switches,
                     (unsigned long long)sum.timeouts, sum.threads);
        return 0;
}

/* A schedule that fails ends its process: this one tidies up. */
int main(int argc, char **argv)
{
        struct options o = {.from = 1, .schedules = 400, .seconds = 20};
        int status;
        if (!read_options(argc, argv, &o))
                return 2;
        char *dir = new_directory();
        pid_t child = fork();
        if (child == 0) {
                (void)signal(SIGALRM, stuck);
                exit(run_schedules(dir, argv[0], &o));
        }
        bool ended = child > 0 && waitpid(child, &status, 0) == child;
        scratch_free(dir);
        return ended && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
