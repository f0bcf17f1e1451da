/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on names and leases. */
#include "cas/blob.h"
#include "cas/commit_int.h"
#include "cas/image.h"
#include "cas/lease.h"
#include "tests/crash/parts/operation.h"

int run_tag(struct cas_store *s, struct cas_err *err)
{
        struct cas_digest d;
        cas_cleanup_publish struct cas_publish *p = NULL;
        int rc = cas_tag_get(s, "r", "old", &d, err);
        if (rc == 0)
                rc = cas_publish_begin(s, &p, err);
        if (rc == 0)
                rc = cas_publish_tag(p, "r", "second", &d, err);
        if (rc == 0)
                rc = cas_publish_tag(p, "r", "third", &d, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

enum outcome look_tag(struct cas_store *s)
{
        struct cas_digest old, second, third;
        if (!image_is_whole(s, "old", 0) || !has_tag(s, "old", &old) ||
            !has_tag(s, "second", &second))
                return BROKEN;
        bool moved = cas_digest_equal(&old, &second), made = has_tag(s, "third", &third);
        if (moved != made || (!moved && !image_is_whole(s, "second", 50)))
                return BROKEN;
        return moved ? AFTER : BEFORE;
}

int run_delete(struct cas_store *s, struct cas_err *err)
{
        struct cas_digest d;
        struct cas_err miss = CAS_ERR_INIT;
        cas_cleanup_publish struct cas_publish *p = NULL;
        if (cas_tag_get(s, "r", "second", &d, &miss) < 0)
                return 0; /* gone before */
        int rc = cas_publish_begin(s, &p, err);
        if (rc == 0)
                rc = cas_publish_manifest_unlink(p, "r", &d, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

static enum outcome look_delete(struct cas_store *s)
{
        struct cas_digest d;
        if (!image_is_whole(s, "old", 0))
                return BROKEN;
        if (!has_tag(s, "second", &d))
                return AFTER;
        return image_is_whole(s, "second", 50) ? BEFORE : BROKEN;
}
static int run_untag(struct cas_store *s, struct cas_err *err)
{
        struct cas_digest d;
        if (!has_tag(s, "second", &d))
                return 0;
        return cas_manifest_delete(s, "r", "second", NULL, NULL, NULL, err);
}

static enum outcome look_untag(struct cas_store *s)
{
        struct cas_digest d;
        if (!image_is_whole(s, "old", 0))
                return BROKEN;
        if (!has_tag(s, "second", &d))
                return AFTER;
        return image_is_whole(s, "second", 50) ? BEFORE : BROKEN;
}

/* ---- a blob of a repository ---- */

static const char lonely[] = "a blob that no manifest names";

static void prepare_unlink(struct cas_store *s)
{
        prepare_one(s);
        (void)test_put_blob(s, "r", lonely);
}

static int run_unlink(struct cas_store *s, struct cas_err *err)
{
        struct cas_digest d = test_digest(lonely);
        cas_cleanup_publish struct cas_publish *p = NULL;
        int rc = cas_publish_begin(s, &p, err);
        if (rc == 0)
                rc = cas_publish_blob_unlink(p, "r", &d, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

static enum outcome look_unlink(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest d = test_digest(lonely);
        bool linked;
        if (!image_is_whole(s, "old", 0) || cas_blob_linked(s, "r", &d, &linked, &err) < 0)
                return BROKEN;
        if (linked && !test_has_blob(s, &d))
                return BROKEN;
        return linked ? BEFORE : AFTER;
}

/* ---- leases ---- */

static bool note_lease(void *arg, const struct cas_lease *lease)
{
        bool *there = arg;
        *there = *there || strcmp(lease->id, "mount:test") == 0;
        return true;
}

static enum outcome lease_is(struct cas_store *s, bool wanted)
{
        struct cas_err err = CAS_ERR_INIT;
        bool there = false;
        if (!image_is_whole(s, "old", 0) || cas_lease_each(s, note_lease, &there, &err) < 0)
                return BROKEN;
        return there == wanted ? AFTER : BEFORE;
}

static int run_lease(struct cas_store *s, struct cas_err *err)
{
        struct cas_lease lease = {.id = "mount:test", .owner = "a test"};
        int rc = cas_tag_get(s, "r", "old", &lease.root, err);
        return rc < 0 ? rc : cas_lease_put(s, &lease, err);
}

static enum outcome look_lease(struct cas_store *s)
{
        return lease_is(s, true);
}

static void prepare_drop(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        prepare_one(s);
        must(run_lease(s, &err) == 0);
}

static int run_drop(struct cas_store *s, struct cas_err *err)
{
        return cas_lease_drop(s, "mount:test", err);
}

static enum outcome look_drop(struct cas_store *s)
{
        return lease_is(s, false);
}

/* ---- the journal is written anew ---- */

static int run_compact(struct cas_store *s, struct cas_err *err)
{
        int rc = cas_commit_compact(s, err);
        return rc < 0 ? rc : run_tag(s, err); /* and the new journal goes on */
}
static const struct operation list[] = {
        {.name = "tag", .prepare = prepare_two, .run = run_tag, .look = look_tag, .quick = true},
        {.name = "untag", .prepare = prepare_two, .run = run_untag, .look = look_untag},
        {.name = "delete", .prepare = prepare_two, .run = run_delete, .look = look_delete},
        {.name = "unlink", .prepare = prepare_unlink, .run = run_unlink, .look = look_unlink},
        {.name = "lease", .prepare = prepare_one, .run = run_lease, .look = look_lease},
        {.name = "drop", .prepare = prepare_drop, .run = run_drop, .look = look_drop},
        {.name = "journal",
         .prepare = prepare_two,
         .run = run_compact,
         .look = look_tag,
         .quick = true},
};
const struct operations crash_names = {list, CAS_COUNT(list)};
