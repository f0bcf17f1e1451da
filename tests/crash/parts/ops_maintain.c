/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on the whole store: collection, trees, the index, opening, rebuilding, upgrading. */
#include <fcntl.h>

#include "cas/format_int.h"
#include "cas/maintain.h"
#include "cas/packset_int.h"
#include "cas/removetree.h"
#include "cas/tree.h"
#include "tests/crash/parts/operation.h"

static void append_to(struct cas_store *s, const char *path, const char *text)
{
        cas_cleanup_fd int fd =
                openat(s->dirfd, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static bool layer_of(struct cas_store *s, unsigned seed, struct cas_layer_record *out)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", seed, FILES);
        struct cas_digest d = test_digest(blob);
        return cas_layer_stat(s, &d, out, &err) == 0;
}

/* ---- collection ---- */

/* A pack with two images, one of which goes: what stays moves to another pack. */
static void prepare_gc(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        prepare_two(s);
        must(cas_packset_seal(s->packset, &err) == 0);
        must(run_delete(s, &err) == 0);
}

static int run_gc(struct cas_store *s, struct cas_err *err)
{
        struct cas_gc_result r;
        return cas_gc(s, &(struct cas_gc_options){.live_percent_min = 99}, NULL, &r, err);
}

static enum outcome look_gc(struct cas_store *s)
{
        cas_cleanup_free char *config = cas_xasprintf("{\"seed\":%u}", 50);
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", 50, FILES);
        struct cas_digest layer = test_digest(blob), config_digest = test_digest(config);
        if (!image_is_whole(s, "old", 0))
                return BROKEN;
        /* A collection may have come halfway: what nobody needs may go in pieces. */
        return test_has_blob(s, &layer) || test_has_blob(s, &config_digest) ? BEFORE : AFTER;
}
static int run_gc_full(struct cas_store *s, struct cas_err *err)
{
        struct cas_gc_result r;
        return cas_gc(s, &(struct cas_gc_options){.full = true, .live_percent_min = 99}, NULL, &r,
                      err);
}

/* With a tree of the image that goes. */
static void prepare_gc_tree(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record layer;
        struct cas_tree_ref ref;
        prepare_two(s);
        must(layer_of(s, 50, &layer) && cas_tree_ensure(s, &layer, 1, &ref, &err) == 0);
        must(cas_packset_seal(s->packset, &err) == 0);
        must(run_delete(s, &err) == 0);
}

/* And what no record tells of: files that a crash left. */
static void prepare_gc_files(struct cas_store *s)
{
        const struct cas_digest stray = test_digest("stray");
        char blob[CAS_BLOB_PATH_BYTES], hex[CAS_DIGEST_TEXT_BYTES];
        prepare_gc_tree(s);
        cas_blob_path(&stray, blob);
        append_to(s, blob, "stray");
        cas_cleanup_free char *tree =
                cas_xasprintf(CAS_DIR_TREES "/%s.erofs", cas_digest_hex(&stray, hex));
        append_to(s, tree, "half of a tree");
}

static bool stop_after(void *arg)
{
        unsigned *asks = arg;
        return (*asks)-- == 0;
}

/* Broken off again and again, a little later each time. */
static int run_gc_stop(struct cas_store *s, struct cas_err *err)
{
        struct cas_gc_result r;
        int rc;
        for (unsigned asks = 1;; asks *= 2) {
                unsigned left = asks;
                rc = cas_gc(s,
                            &(struct cas_gc_options){
                                    .live_percent_min = 99, .stop = stop_after, .stop_arg = &left},
                            NULL, &r, err);
                if (rc < 0 || !r.stopped)
                        return rc;
        }
}

/* ---- a tree ---- */

static int run_tree(struct cas_store *s, struct cas_err *err)
{
        struct cas_layer_record layer;
        struct cas_tree_ref ref;
        if (!layer_of(s, 0, &layer))
                return cas_fail(err, CAS_E_NOTFOUND, "no layer");
        return cas_tree_ensure(s, &layer, 1, &ref, err);
}

static enum outcome look_tree(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_layer_record layer;
        size_t cut;
        bool found;
        if (!image_is_whole(s, "old", 0) || !layer_of(s, 0, &layer) ||
            cas_tree_find_cut(s, &layer, 1, &cut, &found, &err) < 0)
                return BROKEN;
        return found ? AFTER : BEFORE;
}

/* ---- the index ---- */

static int run_index(struct cas_store *s, struct cas_err *err)
{
        return cas_store_compact(s, err);
}

static int run_rebuild(const struct cas_store_config *config, struct cas_err *err)
{
        return cas_rebuild(config, NULL, err);
}

/* What a store of the version before was: without what the newest step adds. */
static int forget_key(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                      size_t value_len CAS_UNUSED, struct cas_err *err CAS_UNUSED)
{
        struct cas_batch *b = arg;
        cas_batch_del(b, CAS_FAMILY_BLOB_REFS, key, key_len);
        return 0;
}

static void prepare_upgrade(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_format format;
        cas_cleanup_batch struct cas_batch *b = cas_batch_new();
        prepare_two(s);
        must(cas_index_scan(s->index, &(struct cas_scan){.family = CAS_FAMILY_BLOB_REFS},
                            forget_key, b, &err) == 0);
        must(cas_index_write(s->index, b, &err) == 0);
        must(cas_format_read(s->io, s->dirfd, &format, &err) == 0);
        format.version = CAS_FORMAT_VERSION - 1;
        must(cas_format_write(s->io, s->dirfd, &format, &err) == 0);
}

static int run_upgrade(const struct cas_store_config *config, struct cas_err *err)
{
        unsigned from, to;
        return cas_upgrade(config, &from, &to, err);
}

/* ---- a checkpoint ---- */

static void ignore_message(void *arg CAS_UNUSED, enum cas_fsck_severity severity CAS_UNUSED,
                           const char *id CAS_UNUSED, const char *subject CAS_UNUSED,
                           const char *message CAS_UNUSED)
{
}

static char *checkpoint_path(struct cas_store *s)
{
        return cas_xasprintf("%s/../copy", cas_store_path(s));
}

/* Nobody takes what is there for a whole one. */
static enum outcome look_checkpoint(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        cas_cleanup_free char *path = checkpoint_path(s);
        cas_cleanup_store struct cas_store *copy = NULL;
        const struct cas_store_config config = {.path = path, .threads = 1, .must_exist = true};
        if (!image_is_whole(s, "old", 0))
                return BROKEN;
        int rc = cas_store_open(&config, &copy, &err);
        if (rc == -CAS_E_NOTFOUND)
                return BEFORE;
        if (rc < 0 || !image_is_whole(copy, "old", 0) || !image_is_whole(copy, "second", 50) ||
            cas_fsck(copy, NULL, NULL, ignore_message, NULL, &r, &err) < 0 || r.errors > 0) {
                (void)fprintf(stderr, "the copy: %s\n", err.msg);
                return BROKEN;
        }
        return AFTER;
}

/* Over what is left of another attempt: that is removed. */
static int run_checkpoint(struct cas_store *s, struct cas_err *err)
{
        struct cas_checkpoint_result r;
        cas_cleanup_free char *path = checkpoint_path(s);
        cas_cleanup_free char *format = cas_xasprintf("%s/" CAS_FORMAT_PATH, path);
        struct stat st;
        if (stat(format, &st) == 0)
                return 0;
        int rc = cas_remove_tree(path, err);
        return rc < 0 ? rc : cas_checkpoint(s, path, NULL, &r, err);
}

/* ---- opening, after a crash and of nothing ---- */

static void prepare_recover(struct cas_store *s)
{
        prepare_two(s);
        append_to(s, "journal/names", "LGRP torn tail of a group");
        append_to(s, "journal/names.new", "half of a journal");
        append_to(s, "uploads/tmp-0123456789", "half of a blob");
}
static int run_nothing(struct cas_store *s CAS_UNUSED, struct cas_err *err CAS_UNUSED)
{
        return 0;
}
static enum outcome look_empty(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store_stats st;
        return cas_store_stats(s, &st, &err) == 0 && st.blob_count == 0 ? AFTER : BROKEN;
}

static const struct operation list[] = {
        {.name = "gc", .prepare = prepare_gc, .run = run_gc, .look = look_gc, .quick = true},
        {.name = "gc-part",
         .prepare = prepare_gc_tree,
         .run = run_gc,
         .look = look_gc,
         .closes = true},
        {.name = "gc-full", .prepare = prepare_gc_files, .run = run_gc_full, .look = look_gc},
        {.name = "gc-stop", .prepare = prepare_gc_files, .run = run_gc_stop, .look = look_gc},
        {.name = "tree", .prepare = prepare_one, .run = run_tree, .look = look_tree},
        {.name = "index", .prepare = prepare_two, .run = run_index, .look = look_both},
        {.name = "rebuild", .prepare = prepare_two, .run_closed = run_rebuild, .look = look_both},
        {.name = "upgrade",
         .prepare = prepare_upgrade,
         .run_closed = run_upgrade,
         .look = look_both},
        {.name = "checkpoint",
         .prepare = prepare_two,
         .run = run_checkpoint,
         .look = look_checkpoint},
        {.name = "recover",
         .prepare = prepare_recover,
         .run = run_nothing,
         .look = look_both,
         .opening = true,
         .quick = true},
        {.name = "make", .run = run_nothing, .look = look_empty, .opening = true},
};
const struct operations crash_maintain = {list, CAS_COUNT(list)};
