/* SPDX-License-Identifier: Apache-2.0 */
/* Two nodes over a bucket in memory: the protocol of spec/cluster.md step by step. Operations of
 * one node happen at every request of another's, and every request fails, or loses its answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "cas/image.h"
#include "cas/shared.h"
#include "tests/support/memobjects.h"
#include "tests/support/scratch.h"
#include "tests/support/teststore.h"
#include "tiering/cell.h"
#include "tiering/cluster.h"

#define ok(call) assert_int_equal(call, 0)
#define GRACE_S 100
#define REQUESTS_MAX 200

/* ---- two nodes ---- */

struct world {
        struct membucket bucket;
        char *dirs[2];
        struct cas_store *nodes[2];
        struct tier_cluster *clusters[2];
};
static struct world *opening; /* cas_store_config.shared_open has no argument */
static unsigned opening_node;

static const struct tier_cluster_settings settings = {
        .fresh_s = 5, .grace_s = GRACE_S, .gc_s = 3600};

static int open_shared(struct cas_store *s, struct cas_shared **out, struct cas_err *err)
{
        struct tier_cluster **c = &opening->clusters[opening_node];
        int rc = tier_cluster_open(membucket_objects(&opening->bucket), 0, cas_store_id(s),
                                   &settings, c, err);
        if (rc == 0)
                *out = tier_cluster_shared(*c);
        return rc;
}

static void node_open(struct world *w, unsigned i)
{
        struct cas_err err = CAS_ERR_INIT;
        const struct cas_store_config config = {
                .path = w->dirs[i], .shared_open = open_shared, .threads = 1};
        opening = w;
        opening_node = i;
        ok(cas_store_open(&config, &w->nodes[i], &err));
}

/* What the node knows is lost. */
static void node_new(struct world *w, unsigned i)
{
        cas_store_close(w->nodes[i]);
        scratch_free(w->dirs[i]);
        w->dirs[i] = scratch_new();
        node_open(w, i);
}

static int setup(void **state)
{
        struct world *w = cas_xcalloc(1, sizeof(*w));
        membucket_init(&w->bucket);
        for (unsigned i = 0; i < 2; i++) {
                w->dirs[i] = scratch_new();
                node_open(w, i);
        }
        *state = w;
        return 0;
}

static int teardown(void **state)
{
        struct world *w = *state;
        for (unsigned i = 0; i < 2; i++) {
                cas_store_close(w->nodes[i]);
                scratch_free(w->dirs[i]);
        }
        membucket_release(&w->bucket);
        free(w);
        return 0;
}

/* ---- what clients do ---- */

/* As imports do: no upload of a client's. */
static bool without_upload;

static int publish_blob(struct cas_store *s, const char *repo, const char *text,
                        struct cas_err *err)
{
        struct cas_digest d = test_digest(text);
        cas_cleanup_publish struct cas_publish *p = NULL;
        int rc = cas_publish_begin(s, &p, err);
        if (rc == 0)
                rc = cas_publish_blob(p, text, strlen(text), &d, NULL, err);
        if (rc == 0)
                rc = cas_publish_blob_link(p, repo, &d, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

static int push_blob(struct cas_store *s, const char *repo, const char *text, struct cas_err *err)
{
        if (without_upload)
                return publish_blob(s, repo, text, err);
        struct cas_upload *u;
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_digest d = test_digest(text);
        struct cas_err ignored = CAS_ERR_INIT;
        int rc = cas_upload_create(s, repo, id, err);
        if (rc == 0)
                rc = cas_upload_open(s, repo, id, &u, err);
        if (rc < 0)
                return rc;
        rc = cas_upload_append(u, text, strlen(text), err);
        if (rc == 0)
                rc = cas_upload_finish(u, &d, err);
        if (rc < 0 && cas_upload_cancel(u, &ignored) < 0)
                cas_upload_close(u);
        return rc;
}

static char *manifest_text(const char *config, const char *layer)
{
        char c[CAS_DIGEST_TEXT_BYTES], l[CAS_DIGEST_TEXT_BYTES];
        struct cas_digest dc = test_digest(config), dl = test_digest(layer);
        return cas_xasprintf("{\"schemaVersion\":2,\"mediaType\":\"" CAS_MT_OCI_MANIFEST "\","
                             "\"config\":{\"mediaType\":\"application/x-c\",\"digest\":\"%s\","
                             "\"size\":%zu},\"layers\":[{\"mediaType\":\"application/x-l\","
                             "\"digest\":\"%s\",\"size\":%zu}]}",
                             cas_digest_text(&dc, c), strlen(config), cas_digest_text(&dl, l),
                             strlen(layer));
}

static int push_manifest(struct cas_store *s, const char *repo, const char *tag, const char *config,
                         const char *layer, struct cas_err *err)
{
        cas_cleanup_free char *text = manifest_text(config, layer);
        const struct cas_manifest_put_options options = {
                .repo = repo, .tag = tag, .media_type = CAS_MT_OCI_MANIFEST, .linked_only = true};
        return cas_manifest_put(s, &options, text, strlen(text), NULL, err);
}

/* As a client: each blob is asked for, and brought where it is not there. */
static int push(struct cas_store *s, const char *repo, const char *tag, const char *config,
                const char *layer, struct cas_err *err)
{
        const char *blobs[] = {config, layer};
        for (size_t i = 0; i < 2; i++) {
                struct cas_digest d = test_digest(blobs[i]);
                struct cas_err miss = CAS_ERR_INIT;
                uint64_t bytes;
                int rc = cas_shared_hold_blob(s, repo, &d, &bytes, &miss);
                if (rc == -CAS_E_NOTFOUND)
                        rc = push_blob(s, repo, blobs[i], &miss);
                if (rc < 0) {
                        *err = miss;
                        return rc;
                }
        }
        return push_manifest(s, repo, tag, config, layer, err);
}

static int read_sink(void *arg, const void *data, size_t len, struct cas_err *err)
{
        (void)err;
        cas_buf_append(arg, data, len);
        return 0;
}

static bool blob_readable(struct cas_store *s, const char *repo, const char *text)
{
        struct cas_digest d = test_digest(text);
        struct cas_shared *sh = cas_store_shared(s);
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        uint64_t bytes;
        return sh->ops->link_get(sh, repo, &d, false, &bytes, &err) == 0 && bytes == strlen(text) &&
               sh->ops->blob_read(sh, &d, read_sink, &out, &err) == 0 &&
               strcmp(cas_buf_str(&out), text) == 0;
}

/* The whole image is there under the tag. */
static bool image_there(struct world *w, const char *repo, const char *tag, const char *config,
                        const char *layer)
{
        cas_cleanup_free char *text = manifest_text(config, layer);
        struct cas_shared *sh = cas_store_shared(w->nodes[1]);
        struct cas_digest want = test_digest(text), got;
        struct cas_manifest_info info;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        return sh->ops->tag_get(sh, repo, tag, &got, &err) == 0 && cas_digest_equal(&want, &got) &&
               sh->ops->manifest_get(sh, repo, &want, &info, &err) == 0 &&
               sh->ops->blob_read(sh, &want, read_sink, &out, &err) == 0 &&
               strcmp(cas_buf_str(&out), text) == 0 && blob_readable(w->nodes[1], repo, config) &&
               blob_readable(w->nodes[1], repo, layer);
}

/* A node that knows nothing has it, too. */
static bool image_for_new_node(struct world *w, const char *repo, const char *tag,
                               const char *config, const char *layer)
{
        cas_cleanup_free char *text = manifest_text(config, layer);
        struct cas_digest want = test_digest(text), got;
        struct cas_err err = CAS_ERR_INIT;
        node_new(w, 1);
        return cas_shared_learn_manifest(w->nodes[1], repo, tag, &err) == 0 &&
               cas_tag_get(w->nodes[1], repo, tag, &got, &err) == 0 &&
               cas_digest_equal(&want, &got) && blob_readable(w->nodes[1], repo, config) &&
               blob_readable(w->nodes[1], repo, layer);
}

static void collect(struct world *w, unsigned node)
{
        struct tier_cluster_gc_result result;
        struct cas_err err = CAS_ERR_INIT;
        if (tier_cluster_gc(w->clusters[node], &result, &err) < 0)
                fail_msg("%s", err.msg);
}

static void grace_passes(struct world *w)
{
        w->bucket.now_unix_s += GRACE_S + 1;
}

static void clean_up(struct world *w)
{
        for (unsigned i = 0; i < 6; i++) {
                grace_passes(w);
                collect(w, 0);
        }
}

static const char layer_a[] = "layer a", layer_b[] = "layer b", config_a[] = "config a";

static char *large_layer(void)
{
        size_t len = 100000;
        char *text = cas_xmalloc(len + 1);
        for (size_t i = 0; i < len; i++)
                text[i] = (char)('a' + i * 7 % 26);
        text[len] = '\0';
        return text;
}

/* ---- tests ---- */

static void what_one_node_takes_all_have(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *large = large_layer();
        ok(push(w->nodes[0], "a/b", "one", config_a, large, &err));
        assert_true(image_for_new_node(w, "a/b", "one", config_a, large));
        assert_int_equal(membucket_count(&w->bucket, "repos/_"), 0);
        assert_int_equal(membucket_count(&w->bucket, "repos/a/b/_uploads"), 0);
        assert_int_equal(membucket_count(&w->bucket, "data/"), 2); /* config, layer */
        /* the same again brings no bytes */
        ok(push(w->nodes[1], "a/b", "two", config_a, large, &err));
        assert_int_equal(membucket_count(&w->bucket, "data/"), 2);
        assert_true(image_for_new_node(w, "a/b", "two", config_a, large));
}

static void a_tag_that_moved_is_learned(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *second = manifest_text(config_a, layer_b);
        struct cas_digest want = test_digest(second), got;
        ok(push(w->nodes[0], "a", "t", config_a, layer_a, &err));
        ok(cas_shared_learn_manifest(w->nodes[1], "a", "t", &err));
        ok(push(w->nodes[0], "a", "t", config_a, layer_b, &err));
        ok(cas_shared_learn_manifest(w->nodes[1], "a", "t", &err));
        ok(cas_tag_get(w->nodes[1], "a", "t", &got, &err));
        assert_true(cas_digest_equal(&want, &got));
        ok(cas_manifest_delete(w->nodes[1], "a", "t", NULL, NULL, NULL, &err));
        assert_int_equal(cas_shared_learn_manifest(w->nodes[0], "a", "t", &err), -CAS_E_NOTFOUND);
        assert_int_equal(cas_tag_get(w->nodes[0], "a", "t", &got, &err), -CAS_E_NOTFOUND);
        /* the manifest is there still, and goes with its digest */
        char text[CAS_DIGEST_TEXT_BYTES];
        ok(cas_shared_learn_manifest(w->nodes[0], "a", cas_digest_text(&want, text), &err));
        ok(cas_manifest_delete(w->nodes[0], "a", NULL, &want, NULL, NULL, &err));
        assert_int_equal(cas_shared_learn_manifest(w->nodes[1], "a", text, &err), -CAS_E_NOTFOUND);
}

static int refuse_change(void *arg, const struct cas_tag_change *change, struct cas_err *err)
{
        *(struct cas_digest *)arg = change->before;
        return cas_fail(err, CAS_E_DENIED, "immutable");
}

static void a_guard_is_asked_of_what_all_see(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest before = {0};
        cas_cleanup_free char *first = manifest_text(config_a, layer_a);
        cas_cleanup_free char *second = manifest_text(config_a, layer_b);
        struct cas_digest want = test_digest(first);
        ok(push(w->nodes[0], "a", "t", config_a, layer_a, &err));
        ok(push(w->nodes[1], "a", "other", config_a, layer_b, &err));
        const struct cas_manifest_put_options options = {.repo = "a",
                                                         .tag = "t",
                                                         .media_type = CAS_MT_OCI_MANIFEST,
                                                         .linked_only = true,
                                                         .guard = refuse_change,
                                                         .guard_arg = &before};
        assert_int_equal(
                cas_manifest_put(w->nodes[1], &options, second, strlen(second), NULL, &err),
                -CAS_E_DENIED);
        assert_true(cas_digest_equal(&before, &want)); /* which this node had never seen */
        assert_true(image_there(w, "a", "t", config_a, layer_a));
}

static void an_upload_goes_on_elsewhere(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_upload *u, *late;
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_digest d = test_digest("one two three");
        ok(cas_upload_create(w->nodes[0], "a", id, &err));
        ok(cas_upload_open(w->nodes[0], "a", id, &late, &err));
        ok(cas_upload_append(late, "one ", 4, &err));
        ok(cas_upload_sync(late, &err));
        ok(cas_upload_append(late, "lost", 4, &err)); /* never acknowledged */
        ok(cas_upload_open(w->nodes[1], "a", id, &u, &err));
        assert_int_equal(cas_upload_bytes(u), 4);
        ok(cas_upload_append(u, "two ", 4, &err));
        ok(cas_upload_sync(u, &err));
        cas_upload_close(u);
        /* who was slow finds that others went on */
        assert_int_equal(cas_upload_sync(late, &err), -CAS_E_BUSY);
        cas_upload_close(late);
        ok(cas_upload_open(w->nodes[0], "a", id, &u, &err));
        assert_int_equal(cas_upload_bytes(u), 8);
        ok(cas_upload_append(u, "three", 5, &err));
        ok(cas_upload_finish(u, &d, &err));
        assert_true(blob_readable(w->nodes[1], "a", "one two three"));
        assert_int_equal(cas_upload_open(w->nodes[1], "a", id, &u, &err), -CAS_E_NOTFOUND);
        assert_int_equal(membucket_count(&w->bucket, "repos/a/_uploads/"), 0);
}

static void what_nothing_needs_goes_in_four_runs(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *text = manifest_text(config_a, layer_a);
        struct cas_digest d = test_digest(text);
        ok(push(w->nodes[0], "a", "t", config_a, layer_a, &err));
        clean_up(w);
        assert_true(image_there(w, "a", "t", config_a, layer_a));
        ok(cas_manifest_delete(w->nodes[0], "a", NULL, &d, NULL, NULL, &err));
        collect(w, 0); /* too young */
        assert_int_equal(membucket_count(&w->bucket, "repos/a/_links/"), 2);
        for (unsigned i = 0; i < 2; i++) {
                grace_passes(w);
                collect(w, 0);
        }
        assert_int_equal(membucket_count(&w->bucket, "repos/a/_links/"), 0);
        assert_int_equal(membucket_count(&w->bucket, "blobs/"), 2);
        for (unsigned i = 0; i < 2; i++) {
                grace_passes(w);
                collect(w, 1);
        }
        assert_int_equal(membucket_count(&w->bucket, "blobs/"), 0);
        assert_int_equal(membucket_count(&w->bucket, "data/"), 0);
        ok(push(w->nodes[1], "a", "t", config_a, layer_a, &err)); /* from nothing */
        assert_true(image_there(w, "a", "t", config_a, layer_a));
}

static void what_was_asked_for_stays_for_the_grace(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest d = test_digest(layer_a);
        uint64_t bytes;
        ok(push_blob(w->nodes[0], "a", layer_a, &err));
        ok(push_blob(w->nodes[0], "a", config_a, &err));
        grace_passes(w);
        collect(w, 0);
        grace_passes(w);
        ok(cas_shared_hold_blob(w->nodes[1], "a", &d, &bytes, &err)); /* HEAD */
        collect(w, 0);
        ok(cas_shared_hold_blob(w->nodes[1], "a", &d, &bytes, &err));
        d = test_digest(config_a); /* which nobody asked for */
        assert_int_equal(cas_shared_hold_blob(w->nodes[1], "a", &d, &bytes, &err), -CAS_E_NOTFOUND);
}

static void what_broke_off_is_collected(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *large = large_layer();
        unsigned done = 0;
        for (unsigned at = 1; at < REQUESTS_MAX && !done; at++) {
                struct cas_err why = CAS_ERR_INIT;
                w->bucket.requests = 0;
                w->bucket.fault_at = at;
                w->bucket.fault = at % 2 ? MEMBUCKET_AWAY : MEMBUCKET_LOST_ACK;
                done = push(w->nodes[0], "a", "t", config_a, large, &why) == 0 &&
                       w->bucket.requests < at;
                w->bucket.fault_at = 0;
                node_new(w, 0); /* it died */
        }
        assert_true(done);
        cas_cleanup_free char *text = manifest_text(config_a, large);
        struct cas_digest d = test_digest(text);
        char name[CAS_DIGEST_TEXT_BYTES];
        assert_true(image_there(w, "a", "t", config_a, large));
        clean_up(w);
        assert_true(image_there(w, "a", "t", config_a, large));
        assert_int_equal(membucket_count(&w->bucket, "data/"), 2);
        ok(cas_shared_learn_manifest(w->nodes[0], "a", cas_digest_text(&d, name), &err));
        ok(cas_manifest_delete(w->nodes[0], "a", NULL, &d, NULL, NULL, &err));
        clean_up(w);
        assert_int_equal(membucket_count(&w->bucket, "data/"), 0);
        assert_int_equal(membucket_count(&w->bucket, "blobs/"), 0);
        assert_int_equal(membucket_count(&w->bucket, "repos/"), 0);
}

/* Every request of a push fails once, or loses its answer: the push fails or is good; again, it is
 * good. */
static void fails_at_each_request(void **state, enum membucket_fault fault)
{
        struct world *w = *state;
        bool reached = true;
        for (unsigned at = 1; reached; at++) {
                cas_cleanup_free char *layer = cas_xasprintf("layer %u", at);
                cas_cleanup_free char *tag = cas_xasprintf("t%u", at);
                struct cas_err err = CAS_ERR_INIT;
                assert_true(at < REQUESTS_MAX);
                w->bucket.requests = 0;
                w->bucket.fault_at = at;
                w->bucket.fault = fault;
                int rc = push(w->nodes[0], "a", tag, config_a, layer, &err);
                reached = w->bucket.requests >= at;
                w->bucket.fault_at = 0;
                if (rc == 0)
                        assert_true(image_there(w, "a", tag, config_a, layer));
                else
                        assert_int_equal(err.code, CAS_E_AWAY);
                ok(push(w->nodes[1], "a", tag, config_a, layer, &err));
                assert_true(image_there(w, "a", tag, config_a, layer));
        }
}

static void requests_that_fail(void **state)
{
        fails_at_each_request(state, MEMBUCKET_AWAY);
}

static void answers_that_are_lost(void **state)
{
        fails_at_each_request(state, MEMBUCKET_LOST_ACK);
}

/* ---- something else in the middle ---- */

struct meanwhile {
        struct world *w;
        enum { COLLECTION, COLLECTION_TWICE, DELETION, OTHER_PUSH, EXPIRY } what;
        const char *layer;
};

static void meanwhile_happens(void *arg)
{
        struct meanwhile *m = arg;
        struct world *w = m->w;
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *text = manifest_text(config_a, m->layer);
        struct cas_digest d = test_digest(text);
        char name[CAS_DIGEST_TEXT_BYTES];
        switch (m->what) {
        case COLLECTION:
                collect(w, 1);
                break;
        case COLLECTION_TWICE: /* with all graces over */
        case EXPIRY:
                for (unsigned i = 0; i < 4; i++) {
                        grace_passes(w);
                        collect(w, 1);
                }
                break;
        case DELETION:
                if (cas_shared_learn_manifest(w->nodes[1], "a", cas_digest_text(&d, name), &err) ==
                    0)
                        ok(cas_manifest_delete(w->nodes[1], "a", NULL, &d, NULL, NULL, &err));
                break;
        case OTHER_PUSH:
                ok(push(w->nodes[1], "a", "other", config_a, m->layer, &err));
                break;
        }
}

/* At each request of a push, all of something else. What is acknowledged is there, and stays. */
static void in_the_middle(void **state, int what, bool condemned)
{
        struct world *w = *state;
        cas_cleanup_free char *filling = large_layer();
        bool reached = true;
        unsigned good = 0;
        for (unsigned at = 1; reached; at++) {
                cas_cleanup_free char *layer = cas_xasprintf("%u %s", at, at % 2 ? filling : "x");
                struct meanwhile m = {.w = w, .what = what, .layer = layer};
                struct cas_err err = CAS_ERR_INIT;
                assert_true(at < REQUESTS_MAX);
                if (condemned) { /* all of it was there, and is about to go */
                        ok(push_blob(w->nodes[0], "a", layer, &err));
                        ok(push_blob(w->nodes[0], "a", config_a, &err));
                        grace_passes(w);
                        collect(w, 1);
                        grace_passes(w);
                }
                w->bucket.requests = 0;
                w->bucket.hook = meanwhile_happens;
                w->bucket.hook_arg = &m;
                w->bucket.hook_at = at;
                int rc = push(w->nodes[0], "a", "t", config_a, layer, &err);
                reached = w->bucket.hook_at == 0;
                w->bucket.hook_at = 0;
                bool goes = what == DELETION && reached; /* the deletion may have come last */
                if (rc == 0 && !goes && !image_there(w, "a", "t", config_a, layer))
                        fail_msg("not there: at request %u", at);
                if (rc < 0)
                        assert_true(err.code == CAS_E_BUSY || err.code == CAS_E_NOTFOUND);
                if (rc == 0 && !goes) {
                        clean_up(w);
                        assert_true(image_there(w, "a", "t", config_a, layer));
                }
                good += rc == 0;
        }
        assert_true(good > 0);
}

static void collection_in_the_middle(void **state)
{
        in_the_middle(state, COLLECTION, false);
}

static void collection_in_the_middle_of_what_is_condemned(void **state)
{
        in_the_middle(state, COLLECTION, true);
}

static void collections_without_grace_in_the_middle(void **state)
{
        in_the_middle(state, COLLECTION_TWICE, true);
}

static void sessions_expire_in_the_middle(void **state)
{
        in_the_middle(state, EXPIRY, false);
}

static void sessions_of_imports_expire_in_the_middle(void **state)
{
        without_upload = true;
        in_the_middle(state, EXPIRY, false);
        without_upload = false;
}

static void another_push_in_the_middle(void **state)
{
        in_the_middle(state, OTHER_PUSH, false);
}

static void a_deletion_in_the_middle(void **state)
{
        in_the_middle(state, DELETION, false);
}

static void push_happens(void *arg)
{
        struct meanwhile *m = arg;
        struct cas_err err = CAS_ERR_INIT;
        ok(push(m->w->nodes[0], "a", "t", config_a, m->layer, &err));
}

/* And the other way round: a push in the middle of collection. */
static void a_push_in_the_middle_of_collection(void **state)
{
        struct world *w = *state;
        bool reached = true;
        for (unsigned at = 1; reached; at++) {
                cas_cleanup_free char *layer = cas_xasprintf("layer %u", at);
                struct meanwhile m = {.w = w, .layer = layer};
                struct cas_err err = CAS_ERR_INIT;
                assert_true(at < REQUESTS_MAX);
                ok(push_blob(w->nodes[1], "a", layer, &err));
                ok(push_blob(w->nodes[1], "a", config_a, &err));
                for (unsigned i = 0; i < 1 + at % 4; i++) { /* condemned, or without a link … */
                        grace_passes(w);
                        collect(w, 1);
                }
                grace_passes(w);
                w->bucket.requests = 0;
                w->bucket.hook = push_happens;
                w->bucket.hook_arg = &m;
                w->bucket.hook_at = at;
                struct tier_cluster_gc_result result;
                ok(tier_cluster_gc(w->clusters[1], &result, &err));
                reached = w->bucket.hook_at == 0;
                w->bucket.hook_at = 0;
                if (!reached)
                        break;
                assert_true(image_there(w, "a", "t", config_a, layer));
                clean_up(w);
                assert_true(image_there(w, "a", "t", config_a, layer));
        }
}

/* ---- the rest ---- */

static void cut_off_it_takes_nothing(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        ok(push(w->nodes[0], "a", "t", config_a, layer_a, &err));
        w->bucket.away = true;
        assert_int_equal(push(w->nodes[0], "a", "u", config_a, layer_a, &err), -CAS_E_AWAY);
        assert_int_equal(cas_shared_learn_manifest(w->nodes[0], "a", "t", &err), -CAS_E_AWAY);
        struct cas_digest got;
        ok(cas_tag_get(w->nodes[0], "a", "t", &got, &err)); /* what it knows it keeps */
        w->bucket.away = false;
        ok(push(w->nodes[0], "a", "u", config_a, layer_a, &err));
}

static void a_store_without_conditions_is_refused(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct tier_cluster *c;
        w->bucket.abilities.if_match = false;
        assert_int_equal(
                tier_cluster_open(membucket_objects(&w->bucket), 0, "", &settings, &c, &err),
                -CAS_E_UNSUPPORTED);
        assert_non_null(strstr(err.msg, "If-Match"));
}

static void cells_that_cannot_be_deleted_stay_empty(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        w->bucket.abilities.conditional_delete = false;
        node_new(w, 0);
        node_new(w, 1);
        ok(push_blob(w->nodes[0], "a", layer_a, &err));
        clean_up(w);
        assert_int_equal(membucket_count(&w->bucket, "repos/"), 0);
        assert_int_equal(membucket_count(&w->bucket, "blobs/"), 0);
        struct cas_digest d = test_digest(layer_a);
        uint64_t bytes;
        assert_int_equal(cas_shared_hold_blob(w->nodes[0], "a", &d, &bytes, &err), -CAS_E_NOTFOUND);
        ok(push(w->nodes[1], "a", "t", config_a, layer_a, &err));
        assert_true(image_there(w, "a", "t", config_a, layer_a));
}

static bool name_note(void *arg, const char *name)
{
        cas_buf_printf(arg, "%s,", name);
        return true;
}

static void lists_are_in_order(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        static const char *const repos[] = {"b/c", "b", "b/0", "a"};
        cas_cleanup_buf struct cas_buf out = CAS_BUF_INIT;
        struct cas_shared *sh = cas_store_shared(w->nodes[1]);
        for (size_t i = 0; i < CAS_COUNT(repos); i++) {
                ok(push(w->nodes[0], repos[i], "z", config_a, layer_a, &err));
                ok(push(w->nodes[0], repos[i], "y", config_a, layer_a, &err));
        }
        ok(sh->ops->repo_each(sh, NULL, name_note, &out, &err));
        assert_string_equal(cas_buf_str(&out), "a,b,b/0,b/c,");
        cas_buf_clear(&out);
        ok(sh->ops->repo_each(sh, "b", name_note, &out, &err));
        assert_string_equal(cas_buf_str(&out), "b/0,b/c,");
        cas_buf_clear(&out);
        ok(sh->ops->tag_each(sh, "b", "y", name_note, &out, &err));
        assert_string_equal(cas_buf_str(&out), "z,");
        bool exists;
        ok(sh->ops->repo_exists(sh, "b/d", &exists, &err));
        assert_false(exists);
}

static void one_collects_at_a_time(void **state)
{
        struct world *w = *state;
        struct cas_err err = CAS_ERR_INIT;
        struct tier_cluster_gc_result result;
        static const char held[] =
                "lamina 1\nnonce 00000000000000000000000000000001\ntoken 7\nholder node 9\n\n";
        struct tier_objects *o = membucket_objects(&w->bucket);
        ok(o->ops->put(o, "gc/lease", held, sizeof(held) - 1, NULL, NULL, &err));
        o->ops->close(o);
        assert_int_equal(tier_cluster_gc(w->clusters[0], &result, &err), -CAS_E_BUSY);
        struct tier_cluster_status status;
        ok(tier_cluster_status(w->clusters[0], &status, NULL, NULL, &err));
        assert_string_equal(status.collector, "node 9");
        assert_int_equal(status.token, 7);
}

static void cells_are_read_back(void **state)
{
        (void)state;
        tier_cleanup_cell struct tier_cell cell = {.state = TIER_CELL_FINISHING,
                                                   .alg = CAS_DIGEST_SHA512,
                                                   .size_bytes = 12345678901,
                                                   .type = "a/b",
                                                   .owner = "user:me and you"};
        tier_cleanup_cell struct tier_cell got = TIER_CELL_INIT;
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT, again = CAS_BUF_INIT;
        struct cas_err err = CAS_ERR_INIT;
        memset(cell.nonce, 'a', TIER_CELL_NONCE_BYTES - 1);
        cell.digest = test_digest("x");
        tier_cell_add_piece(&cell, "data/0/0-1", 5);
        tier_cell_add_piece(&cell, "data/0/5-2", 7);
        cas_buf_append(&cell.content, "a\0\n\nb", 5);
        ok(tier_cell_encode(&cell, &text, &err));
        ok(tier_cell_decode(text.data, text.len_bytes, &got, &err));
        ok(tier_cell_encode(&got, &again, &err));
        assert_int_equal(text.len_bytes, again.len_bytes);
        assert_memory_equal(text.data, again.data, text.len_bytes);
        for (size_t len = 0; len < text.len_bytes - 5; len++) {
                tier_cleanup_cell struct tier_cell part = TIER_CELL_INIT;
                assert_int_equal(tier_cell_decode(text.data, len, &part, &err), -CAS_E_CORRUPT);
        }
        static const char *const bad[] = {
                "lamina 2\nnonce 00000000000000000000000000000001\n\n",
                "lamina 1\nnonce 0000000000000000000000000000000g\n\n",
                "lamina 1\nnonce 00000000000000000000000000000001\nunknown 1\n\n",
                "lamina 1\nnonce 00000000000000000000000000000001\nsize -1\n\n",
                "lamina 1\nnonce 00000000000000000000000000000001\nsize 99999999999999999999\n\n",
                "lamina 1\nnonce 00000000000000000000000000000001\nstate live\n\n",
                "lamina 1\nnonce 00000000000000000000000000000001\npiece blobs/x 1\n\n",
                "lamina 1\nnonce 00000000000000000000000000000001\npiece data/../x 1\n\n",
                "lamina 1\nnonce 00000000000000000000000000000001\ndigest sha256:00\n\n",
        };
        for (size_t i = 0; i < CAS_COUNT(bad); i++) {
                tier_cleanup_cell struct tier_cell part = TIER_CELL_INIT;
                assert_int_equal(tier_cell_decode(bad[i], strlen(bad[i]), &part, &err),
                                 -CAS_E_CORRUPT);
        }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        /* nothing here is about the disk */
        if (access("/dev/shm", W_OK) == 0)
                (void)setenv("TMPDIR", "/dev/shm", 1);
        const struct CMUnitTest tests[] = {
                TEST(what_one_node_takes_all_have),
                TEST(a_tag_that_moved_is_learned),
                TEST(a_guard_is_asked_of_what_all_see),
                TEST(an_upload_goes_on_elsewhere),
                TEST(what_nothing_needs_goes_in_four_runs),
                TEST(what_was_asked_for_stays_for_the_grace),
                TEST(what_broke_off_is_collected),
                TEST(requests_that_fail),
                TEST(answers_that_are_lost),
                TEST(collection_in_the_middle),
                TEST(collection_in_the_middle_of_what_is_condemned),
                TEST(collections_without_grace_in_the_middle),
                TEST(sessions_expire_in_the_middle),
                TEST(sessions_of_imports_expire_in_the_middle),
                TEST(another_push_in_the_middle),
                TEST(a_deletion_in_the_middle),
                TEST(a_push_in_the_middle_of_collection),
                TEST(cut_off_it_takes_nothing),
                TEST(a_store_without_conditions_is_refused),
                TEST(cells_that_cannot_be_deleted_stay_empty),
                TEST(lists_are_in_order),
                TEST(one_collects_at_a_time),
                cmocka_unit_test(cells_are_read_back),
        };
        return cmocka_run_group_tests_name("cluster", tests, NULL, NULL);
}
