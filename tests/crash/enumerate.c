/* SPDX-License-Identifier: Apache-2.0 */
/* Ends, starves or powers off an operation at each of its I/O calls in turn,
 * then opens the store again: fsck must find no errors, what was acknowledged
 * must be there, what was not must be wholly there or wholly not, and the same
 * operation must succeed then.
 *
 *   enumerate [--long] [OPERATION]
 *
 * This process never opens a store itself (RocksDB's threads do not survive a
 * fork): children prepare, operate and check. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>

#include "cas/commit_int.h"
#include "cas/backend.h"
#include "cas/condense.h"
#include "cas/elsewhere.h"
#include "cas/image.h"
#include "cas/lease.h"
#include "cas/maintain.h"
#include "cas/packset_int.h"
#include "cas/regen.h"
#include "cas/store_int.h"
#include "cas/verity.h"
#include "tests/support/fault_io.h"
#include "tests/support/scratch.h"
#include "tests/support/tarmake.h"
#include "tests/support/testimage.h"
#include "tests/support/teststore.h"

#define FILES 6
#define ACKNOWLEDGED 1u
#define CALLS_MAX 5000

#define must(cond)                                                                                 \
        do {                                                                                       \
                if (!(cond)) {                                                                     \
                        (void)fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);           \
                        _exit(1);                                                                  \
                }                                                                                  \
        } while (0)

enum outcome { BEFORE, AFTER, BROKEN };

/* An operation on the store that prepare left. run must not hold anything when it fails. */
struct operation {
        const char *name;
        void (*prepare)(struct cas_store *s);
        int (*run)(struct cas_store *s, struct cas_err *err);
        enum outcome (*look)(struct cas_store *s);
        bool whole_open; /* opening the store is what is enumerated */
        bool only_long;
        bool from_nothing; /* there is no store before */
};

static bool has_tag(struct cas_store *s, const char *tag, struct cas_digest *out)
{
        struct cas_err err = CAS_ERR_INIT;
        return cas_tag_get(s, "r", tag, out, &err) == 0;
}

static void put_image(struct cas_store *s, const char *tag, unsigned seed, struct testimage *out)
{
        struct cas_err err = CAS_ERR_INIT;
        must(testimage_put(s, "r", tag, seed, FILES, out, &err) == 0);
}

/* The image that testimage_put makes of a seed, without a store to put it into. */
static bool image_is_whole(struct cas_store *s, const char *tag, unsigned seed)
{
        struct cas_err err = CAS_ERR_INIT;
        struct testimage image;
        cas_cleanup_free char *config = cas_xasprintf("{\"seed\":%u}", seed);
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", seed, FILES);
        struct cas_manifest_info info;
        image.config = test_digest(config);
        image.layer.blob = test_digest(blob);
        return has_tag(s, tag, &image.manifest) &&
               cas_manifest_stat(s, "r", &image.manifest, &info, &err) == 0 &&
               testimage_is_whole(s, &image, seed, FILES);
}

/* ---- operations ---- */

static void prepare_one(struct cas_store *s)
{
        struct testimage image;
        put_image(s, "old", 0, &image);
}

static int run_publish(struct cas_store *s, struct cas_err *err)
{
        struct testimage image;
        return testimage_put(s, "r", "new", 3, FILES, &image, err); /* shares files with the old */
}

static enum outcome look_publish(struct cas_store *s)
{
        struct cas_digest d;
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", 3, FILES);
        struct cas_digest layer = test_digest(blob);
        if (!image_is_whole(s, "old", 0))
                return BROKEN;
        if (image_is_whole(s, "new", 3))
                return AFTER;
        return has_tag(s, "new", &d) || test_has_blob(s, &layer) ? BROKEN : BEFORE;
}

static const char first_half[] = "first half of an upload, ";
static const char second_half[] = "and its second half";

static int run_upload(struct cas_store *s, struct cas_err *err)
{
        char id[CAS_UPLOAD_ID_BYTES];
        struct cas_upload *u = NULL;
        cas_cleanup_free char *whole = cas_xasprintf("%s%s", first_half, second_half);
        struct cas_digest d = test_digest(whole);
        int rc = cas_upload_create(s, "r", id, err);
        if (rc == 0)
                rc = cas_upload_open(s, "r", id, &u, err);
        if (rc < 0)
                return rc;
        rc = cas_upload_append(u, first_half, strlen(first_half), err);
        cas_upload_close(u);
        if (rc == 0)
                rc = cas_upload_open(s, "r", id, &u, err);
        if (rc < 0)
                return rc;
        rc = cas_upload_append(u, second_half, strlen(second_half), err);
        if (rc == 0)
                rc = cas_upload_finish(u, &d, err);
        if (rc < 0)
                cas_upload_close(u);
        return rc;
}

static enum outcome look_upload(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_free char *whole = cas_xasprintf("%s%s", first_half, second_half);
        cas_cleanup_buf struct cas_buf got = CAS_BUF_INIT;
        struct cas_digest d = test_digest(whole);
        bool linked;
        if (!image_is_whole(s, "old", 0) || cas_blob_linked(s, "r", &d, &linked, &err) < 0)
                return BROKEN;
        if (!linked)
                return test_has_blob(s, &d) ? BROKEN : BEFORE;
        return cas_blob_read(s, &d, 1000, &got, &err) == 0 ? AFTER : BROKEN;
}

static void prepare_two(struct cas_store *s)
{
        struct testimage image;
        put_image(s, "old", 0, &image);
        put_image(s, "second", 50, &image);
}

static int run_tag(struct cas_store *s, struct cas_err *err)
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

static enum outcome look_tag(struct cas_store *s)
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

static int run_delete(struct cas_store *s, struct cas_err *err)
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

static int run_compact(struct cas_store *s, struct cas_err *err)
{
        int rc = cas_commit_compact(s, err);
        return rc < 0 ? rc : run_tag(s, err); /* and the new journal goes on */
}

/* ---- condensing ---- */

/* A layer as a client pushes it; the same whenever it is asked for. */
static void condensed_tar(struct cas_buf *out)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        for (unsigned i = 0; i < 4; i++) {
                cas_cleanup_free char *name = cas_xasprintf("dir/file%u", i % 3);
                test_file(300 + i, &bytes);
                tarmake_header(out, &(struct tarmake){.name = name, .size = bytes.len_bytes});
                tarmake_data(out, bytes.data, bytes.len_bytes);
        }
        tarmake_end(out);
}

static struct cas_digest condensed_digest(void)
{
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        struct cas_digest d;
        condensed_tar(&tar);
        cas_digest_of(CAS_DIGEST_SHA256, tar.data, tar.len_bytes, &d);
        return d;
}

static void prepare_condense(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        struct cas_digest d;
        cas_cleanup_publish struct cas_publish *p = NULL;
        prepare_one(s);
        condensed_tar(&tar);
        must(cas_publish_begin(s, &p, &err) == 0);
        must(cas_publish_blob(p, tar.data, tar.len_bytes, NULL, &d, &err) == 0);
        must(cas_publish_blob_link(p, "r", &d, &err) == 0);
        must(cas_publish_commit(p, &err) == 0);
}

static int run_condense(struct cas_store *s, struct cas_err *err)
{
        struct cas_digest d = condensed_digest();
        struct cas_recipe_record rec;
        const struct cas_condense_options options = {.threads = 1};
        int rc = cas_condense_blob(s, &d, &options, NULL, &rec, err);
        must(rc < 0 || rec.is_proved);
        return rc;
}

/* Reads the blob as those do who serve it, from its copy or its recipe. */
static int read_condensed(struct cas_store *s, const struct cas_digest *d, struct cas_buf *out,
                          struct cas_err *err)
{
        cas_cleanup_regen struct cas_regen *g = NULL;
        struct cas_recipe_record rec;
        int rc = cas_blob_read(s, d, 1 << 24, out, err);
        if (rc != -CAS_E_UNSUPPORTED)
                return rc;
        rc = cas_recipe_stat(s, d, &rec, err);
        if (rc == 0)
                rc = cas_regen_open(s, d, &rec.recipe, 0, 1, &g, err);
        for (size_t n = 1; rc == 0 && n > 0; out->len_bytes += rc == 0 ? n : 0) {
                cas_buf_reserve(out, 65536);
                rc = cas_regen_read(g, out->data + out->len_bytes, 65536, &n, err);
        }
        return rc;
}

static bool condensed_is_served(struct cas_store *s, enum cas_blob_copy *copy)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf want = CAS_BUF_INIT, got = CAS_BUF_INIT;
        struct cas_digest d = condensed_digest();
        condensed_tar(&want);
        return cas_blob_copy(s, &d, copy, &err) == 0 && read_condensed(s, &d, &got, &err) == 0 &&
               got.len_bytes == want.len_bytes && memcmp(got.data, want.data, want.len_bytes) == 0;
}

static enum outcome look_condense(struct cas_store *s)
{
        enum cas_blob_copy copy;
        if (!image_is_whole(s, "old", 0) || !condensed_is_served(s, &copy))
                return BROKEN;
        return copy == CAS_BLOB_CONDENSED ? AFTER : BEFORE;
}

static void prepare_copy(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        prepare_condense(s);
        must(run_condense(s, &err) == 0);
}

/* A copy comes again, and goes. */
static int run_copy(struct cas_store *s, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf tar = CAS_BUF_INIT;
        struct cas_digest d = condensed_digest();
        bool kept;
        condensed_tar(&tar);
        s->blob_cache_bytes = UINT64_MAX;
        int rc = cas_io_replace_file(s->io, s->dirfd, "uploads", "uploads/tmp-copy", tar.data,
                                     tar.len_bytes, 0600, err);
        if (rc == 0)
                rc = cas_blob_cache_put(s, "tmp-copy", &d, &kept, err);
        return rc < 0 ? rc : cas_blob_cache_shrink(s, 0, NULL, err);
}

static enum outcome look_copy(struct cas_store *s)
{
        enum cas_blob_copy copy;
        if (!condensed_is_served(s, &copy))
                return BROKEN;
        return copy == CAS_BLOB_CONDENSED ? AFTER : BEFORE;
}

static void prepare_recode(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        prepare_two(s);
        must(cas_packset_seal(s->packset, &err) == 0);
        struct testimage image;
        put_image(s, "third", 90, &image);
}

static int run_recode(struct cas_store *s, struct cas_err *err)
{
        struct cas_recode_result r;
        int rc = cas_condense_packs(s, CAS_CONDENSE_DEFAULT, NULL, NULL, &r, err);
        must(rc < 0 || r.damaged == 0);
        return rc;
}

static bool is_dense(void *arg, uint64_t pack_id CAS_UNUSED, const struct cas_pack_record *rec)
{
        bool *all = arg;
        *all = *all && rec->density == CAS_PACK_DEFAULT;
        return true;
}

static enum outcome look_recode(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        bool dense = true;
        if (!image_is_whole(s, "old", 0) || !image_is_whole(s, "second", 50) ||
            !image_is_whole(s, "third", 90) ||
            cas_index_each_pack(s->index, is_dense, &dense, &err) < 0)
                return BROKEN;
        return dense ? AFTER : BEFORE;
}

/* ---- opening after a crash ---- */

static void append_to(struct cas_store *s, const char *path, const char *text)
{
        cas_cleanup_fd int fd =
                openat(s->dirfd, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

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

static enum outcome look_recover(struct cas_store *s)
{
        return image_is_whole(s, "old", 0) && image_is_whole(s, "second", 50) ? AFTER : BROKEN;
}

/* ---- making a store ---- */

static enum outcome look_empty(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store_stats st;
        return cas_store_stats(s, &st, &err) == 0 && st.blob_count == 0 ? AFTER : BROKEN;
}

/* ---- a layer that comes from elsewhere ---- */

#define FAR_SEED 20

/* What testimage_put would make of FAR_SEED, without putting it anywhere. */
static void far_listing(struct cas_buf *out, struct cas_layer_record *layer)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_cleanup_buf struct cas_buf file = CAS_BUF_INIT;
        cas_cleanup_listing struct cas_listing listing = {0};
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", FAR_SEED, FILES);
        listing.entries = cas_xcalloc(FILES, sizeof(listing.entries[0]));
        listing.count = FILES;
        for (unsigned i = 0; i < FILES; i++) {
                test_file(FAR_SEED + i, &file);
                listing.entries[i] = (struct cas_entry){.type = CAS_ENTRY_FILE,
                                                        .path = cas_xasprintf("f%04u", i),
                                                        .mode = 0644,
                                                        .size_bytes = file.len_bytes};
                cas_verity_of(file.data, file.len_bytes, &listing.entries[i].object);
                layer->content_bytes += file.len_bytes;
        }
        must(cas_listing_encode(&listing, out, &err) == 0);
        layer->blob = layer->diff_id = test_digest(blob);
        layer->tar_bytes = 1024;
        layer->entry_count = FILES;
        layer->listing_version = CAS_LISTING_VERSION;
        cas_verity_of(out->data, out->len_bytes, &layer->listing);
}

static int far_fetch(struct cas_remote *r CAS_UNUSED, const struct cas_digest *layer CAS_UNUSED,
                     const struct cas_hash *ids, size_t count, struct cas_publish *p,
                     struct cas_err *err)
{
        for (unsigned i = 0; i < FILES; i++) {
                cas_cleanup_buf struct cas_buf file = CAS_BUF_INIT;
                struct cas_hash id, got;
                bool wanted = false;
                test_file(FAR_SEED + i, &file);
                cas_verity_of(file.data, file.len_bytes, &id);
                for (size_t k = 0; k < count; k++)
                        wanted = wanted || cas_hash_equal(&ids[k], &id);
                if (wanted && (cas_publish_object(p, file.data, file.len_bytes, &got, err) < 0 ||
                               cas_publish_drain(p, err) < 0))
                        return -(int)err->code;
        }
        return 0;
}

static int far_finish(struct cas_remote *r CAS_UNUSED, struct cas_store *s,
                      const struct cas_layer_record *layer, uint64_t blob_bytes CAS_UNUSED,
                      const struct cas_progress *progress CAS_UNUSED, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_cleanup_listing struct cas_listing listing = {0};
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", FAR_SEED, FILES);
        int rc = cas_publish_begin(s, &p, err);
        if (rc == 0)
                rc = cas_layer_listing(s, layer, &listing, err);
        if (rc == 0)
                rc = cas_publish_blob(p, blob, strlen(blob), &layer->blob, NULL, err);
        if (rc == 0)
                rc = cas_publish_layer(p, layer, &listing, err);
        return rc < 0 ? rc : cas_publish_commit(p, err);
}

static void far_close(struct cas_remote *r CAS_UNUSED)
{
}

static int far_open(void *arg CAS_UNUSED, const char *source CAS_UNUSED, struct cas_remote **out,
                    struct cas_err *err CAS_UNUSED)
{
        static const struct cas_remote_ops ops = {
                .fetch_objects = far_fetch, .finish_layer = far_finish, .close = far_close};
        static struct cas_remote remote = {.ops = &ops};
        *out = &remote;
        return 0;
}

static int put_far_manifest(struct cas_store *s, const struct cas_layer_record *layer,
                            struct cas_err *err)
{
        char config_text[CAS_DIGEST_TEXT_BYTES], layer_text[CAS_DIGEST_TEXT_BYTES];
        cas_cleanup_free char *config = cas_xasprintf("{\"seed\":%u}", FAR_SEED);
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", FAR_SEED, FILES);
        struct cas_digest digest = test_digest(config);
        cas_cleanup_free char *manifest =
                cas_xasprintf("{\"schemaVersion\":2,\"mediaType\":\"" CAS_MT_OCI_MANIFEST
                              "\",\"config\":{\"mediaType\":\"" CAS_MT_OCI_CONFIG
                              "\",\"digest\":\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":"
                              "\"" CAS_MT_OCI_LAYER_TAR "\",\"digest\":\"%s\",\"size\":%zu}]}",
                              cas_digest_text(&digest, config_text), strlen(config),
                              cas_digest_text(&layer->blob, layer_text), strlen(blob));
        const struct cas_manifest_put_options options = {
                .repo = "r", .tag = "new", .allow_elsewhere = true};
        return cas_manifest_put(s, &options, manifest, strlen(manifest), NULL, err);
}

/* Listing, record and config; then the name; then files and blob. */
static int run_elsewhere(struct cas_store *s, struct cas_err *err)
{
        static const struct cas_remotes remotes = {.open = far_open};
        cas_cleanup_publish struct cas_publish *p = NULL;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_listing struct cas_listing listing = {0};
        cas_cleanup_free char *config = cas_xasprintf("{\"seed\":%u}", FAR_SEED);
        struct cas_elsewhere_layer rec = {.blob_bytes = strlen("layer 20 6"), .source = "far"};
        struct cas_hash id;
        far_listing(&bytes, &rec.layer);
        rec.manifest = rec.layer.blob;
        cas_store_set_remotes(s, &remotes);
        int rc = cas_publish_begin(s, &p, err);
        if (rc == 0)
                rc = cas_publish_object(p, bytes.data, bytes.len_bytes, &id, err);
        if (rc == 0)
                rc = cas_listing_decode(bytes.data, bytes.len_bytes, &listing, err);
        if (rc == 0)
                rc = cas_publish_blob(p, config, strlen(config), NULL, NULL, err);
        if (rc == 0)
                rc = cas_elsewhere_put(p, &rec, &listing, err);
        if (rc == 0)
                rc = cas_publish_commit(p, err);
        cas_publish_free(cas_steal(&p));
        cas_elsewhere_changed(s);
        if (rc == 0)
                rc = put_far_manifest(s, &rec.layer, err);
        return rc < 0 ? rc : cas_elsewhere_complete(s, &rec.layer.blob, NULL, err);
}

static enum outcome look_elsewhere(struct cas_store *s)
{
        struct cas_digest d;
        cas_cleanup_free char *blob = cas_xasprintf("layer %u %u", FAR_SEED, FILES);
        struct cas_digest layer = test_digest(blob);
        if (!image_is_whole(s, "old", 0))
                return BROKEN;
        if (image_is_whole(s, "new", FAR_SEED))
                return AFTER;
        return has_tag(s, "new", &d) && !cas_layer_is_elsewhere(s, &layer) ? BROKEN : BEFORE;
}

static const struct operation operations[] = {
        {.name = "publish", .prepare = prepare_one, .run = run_publish, .look = look_publish},
        {.name = "upload", .prepare = prepare_one, .run = run_upload, .look = look_upload},
        {.name = "elsewhere", .prepare = prepare_one, .run = run_elsewhere, .look = look_elsewhere},
        {.name = "tag", .prepare = prepare_two, .run = run_tag, .look = look_tag},
        {.name = "delete", .prepare = prepare_two, .run = run_delete, .look = look_delete},
        {.name = "gc", .prepare = prepare_gc, .run = run_gc, .look = look_gc},
        {.name = "condense",
         .prepare = prepare_condense,
         .run = run_condense,
         .look = look_condense},
        {.name = "copy", .prepare = prepare_copy, .run = run_copy, .look = look_copy},
        {.name = "recode", .prepare = prepare_recode, .run = run_recode, .look = look_recode},
        {.name = "compact", .prepare = prepare_two, .run = run_compact, .look = look_tag},
        {.name = "recover",
         .prepare = prepare_recover,
         .run = run_nothing,
         .look = look_recover,
         .whole_open = true},
        {.name = "make",
         .run = run_nothing,
         .look = look_empty,
         .whole_open = true,
         .only_long = true,
         .from_nothing = true},
};

/* ---- children ---- */

struct arena {
        char *dir;   /* scratch */
        char *base;  /* the prepared store */
        char *store; /* the one at work: a copy */
        struct fault_plan *plan;
};

/* Runs fn in a child; its exit status, or 128 + signal. */
static int in_child(void (*fn)(struct arena *a, const struct operation *op), struct arena *a,
                    const struct operation *op)
{
        (void)fflush(NULL);
        pid_t pid = fork();
        must(pid >= 0);
        if (pid == 0) {
                fn(a, op);
                (void)fflush(NULL);
                _exit(0);
        }
        int status;
        pid_t got;
        do {
                got = waitpid(pid, &status, 0);
        } while (got < 0 && errno == EINTR);
        must(got == pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static struct cas_store *open_store(const char *path, const struct cas_io *io)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store *s = NULL;
        const struct cas_store_config config = {.path = path, .io = io, .threads = 1};
        if (cas_store_open(&config, &s, &err) < 0) {
                (void)fprintf(stderr, "open: %s\n", err.msg);
                _exit(1);
        }
        return s;
}

static void child_prepare(struct arena *a, const struct operation *op)
{
        struct cas_store *s = open_store(a->base, NULL);
        op->prepare(s);
        /* Not closed in order: op->prepare may have left what a crash leaves. */
        _exit(0);
}

static void child_operate(struct arena *a, const struct operation *op)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store *s = NULL;
        const struct cas_store_config config = {
                .path = a->store, .io = fault_io(a->plan), .threads = 1};
        if (op->whole_open)
                fault_plan_arm(a->plan, true);
        int rc = cas_store_open(&config, &s, &err);
        must(rc == 0 || op->whole_open);
        if (rc == 0) {
                fault_plan_arm(a->plan, true);
                rc = op->run(s, &err);
        }
        if (rc == 0)
                fault_plan_note(a->plan, ACKNOWLEDGED);
        else
                must(err.code != CAS_OK && err.msg[0] && fault_plan_struck(a->plan));
        _exit(0);
}

static void tell(void *arg CAS_UNUSED, enum cas_fsck_severity severity, const char *id,
                 const char *subject, const char *message)
{
        if (severity == CAS_FSCK_ERROR)
                (void)fprintf(stderr, "fsck: %s %s: %s\n", id, subject, message);
}

static void check_store(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_fsck_result r;
        if (cas_fsck(s, NULL, NULL, tell, NULL, &r, &err) < 0)
                (void)fprintf(stderr, "fsck: %s\n", err.msg);
        must(err.code == CAS_OK && r.errors == 0);
}

static void child_check(struct arena *a, const struct operation *op)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_store *s = open_store(a->store, NULL);
        check_store(s);
        enum outcome now = op->look(s);
        must(now != BROKEN);
        must(now == AFTER || fault_plan_noted(a->plan) != ACKNOWLEDGED);
        if (op->run(s, &err) < 0) {
                (void)fprintf(stderr, "again: %s\n", err.msg);
                _exit(1);
        }
        must(op->look(s) == AFTER);
        check_store(s);
        cas_store_close(s);
}

/* ---- enumerating ---- */

struct mode {
        const char *name;
        enum fault_kind kind;
        unsigned lose;
        bool only_long;
};
static const struct mode modes[] = {
        {"kill", FAULT_KILL, 0, false},
        {"power", FAULT_KILL, FAULT_LOSE_DATA | FAULT_LOSE_NAMES, false},
        {"power, names kept", FAULT_KILL, FAULT_LOSE_DATA, true},
        {"power, data kept", FAULT_KILL, FAULT_LOSE_NAMES, true},
        {"kill after", FAULT_KILL_AFTER, 0, false},
        {"power after", FAULT_KILL_AFTER, FAULT_LOSE_DATA | FAULT_LOSE_NAMES, false},
        {"no space", FAULT_ENOSPC, 0, false},
        {"I/O error", FAULT_EIO, 0, true},
        {"I/O error, then power", FAULT_EIO, FAULT_LOSE_DATA | FAULT_LOSE_NAMES, true},
};

/* One fault at call `at`. False when the operation ended before it. */
static bool strike_at(struct arena *a, const struct operation *op, const struct mode *mode,
                      unsigned at)
{
        if (!op->from_nothing)
                scratch_copy(a->base, a->store);
        fault_plan_reset(a->plan, mode->kind, at);
        int status = in_child(child_operate, a, op);
        bool struck = fault_plan_struck(a->plan);
        bool kills = mode->kind == FAULT_KILL || mode->kind == FAULT_KILL_AFTER;
        bool good = status == (struck && kills ? FAULT_EXIT_STATUS : 0);
        /* Also when nothing struck: the operation was acknowledged, the power goes after it. */
        fault_power_cut(a->plan, mode->lose);
        good = good && in_child(child_check, a, op) == 0;
        scratch_free(cas_xstrdup(a->store));
        if (!good) {
                (void)fprintf(stderr, "FAILED: %s, %s at call %u (operation ended with %d)\n",
                              op->name, mode->name, at, status);
                exit(1);
        }
        return struck;
}

static unsigned enumerate(struct arena *a, const struct operation *op, bool is_long)
{
        unsigned tries = 0;
        must(op->from_nothing || in_child(child_prepare, a, op) == 0);
        for (size_t m = 0; m < CAS_COUNT(modes); m++) {
                if (modes[m].only_long && !is_long)
                        continue;
                unsigned at = 1;
                while (strike_at(a, op, &modes[m], at) && at < CALLS_MAX)
                        at++;
                must(at > 1 && at < CALLS_MAX);
                tries += at;
                (void)printf("%-8s %-22s %4u calls\n", op->name, modes[m].name, at - 1);
        }
        if (!op->from_nothing)
                scratch_free(cas_xstrdup(a->base));
        return tries;
}

int main(int argc, char **argv)
{
        bool is_long = argc > 1 && strcmp(argv[1], "--long") == 0;
        const char *only = argc > 1 + is_long ? argv[1 + is_long] : NULL;
        if (access("/dev/shm", W_OK) == 0)
                (void)setenv("TMPDIR", "/dev/shm", 1); /* thousands of stores; crashes are made */
        struct arena a = {.dir = scratch_new()};
        a.base = cas_xasprintf("%s/base", a.dir);
        a.store = cas_xasprintf("%s/store", a.dir);
        cas_cleanup_free char *side = cas_xasprintf("%s/side", a.dir);
        must(mkdir(side, 0700) == 0);
        a.plan = fault_plan_new(side);
        unsigned tries = 0;
        for (size_t i = 0; i < CAS_COUNT(operations); i++) {
                const struct operation *op = &operations[i];
                if (only ? strcmp(only, op->name) != 0 : op->only_long && !is_long)
                        continue;
                tries += enumerate(&a, op, is_long);
        }
        must(tries > 0);
        (void)printf("%u crashes survived\n", tries);
        fault_plan_free(a.plan);
        scratch_free(a.dir);
        free(a.base);
        free(a.store);
        return 0;
}
