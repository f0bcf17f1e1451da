/* SPDX-License-Identifier: Apache-2.0 */
/* The owner's part of reading a sandbox's changes: the image that the upper was
 * made over, its trees, and the image that comes of it. */
#include <stdio.h>

#include "cas/derive.h"
#include "cas/io.h"
#include "cas/layerwrite.h"
#include "cas/map.h"
#include "cas/object.h"
#include "fusefs/changes.h"
#include "fusefs/upper.h"
#include "tools/ops.h"
#include "tools/ops_json.h"

#define READ_BYTES (256 * 1024)

/* ---- the image below ---- */

static bool has_trees(const struct ffs_image *image, const struct cas_digest *trees, size_t count)
{
        if (image->tree_count != count)
                return false;
        for (size_t i = 0; i < count; i++) {
                if (!cas_digest_equal(&image->trees[i], &trees[i]))
                        return false;
        }
        return true;
}

static void image_take_tree(struct cas_store *s, const struct cas_digest *tree,
                            struct ffs_image *image)
{
        size_t i = image->tree_count++;
        image->trees[i] = *tree;
        cas_tree_path(s, tree, image->tree_paths[i], sizeof(image->tree_paths[i]));
}

static int base_open(struct cas_store *s, const struct cas_digest *manifest,
                     const struct cas_digest *trees, size_t tree_count,
                     const struct cas_progress *progress, struct cas_image *out,
                     struct ffs_image *out_trees, struct cas_err *err)
{
        struct cas_tree_ref refs[CAS_IMAGE_TREES_MAX];
        size_t count = 0;
        if (manifest->alg == CAS_DIGEST_NONE)
                return cas_fail(err, CAS_E_INVALID,
                                "the upper directory does not say which image it was made over: "
                                "name it (--base)");
        if (cas_image_open_manifest(s, manifest, progress, out, err) < 0 ||
            cas_image_trees(s, out, refs, &count, err) < 0)
                return cas_err_wrap(err, "image below");
        *out_trees = (struct ffs_image){.manifest = *manifest};
        for (size_t i = 0; i < count; i++)
                image_take_tree(s, &refs[i].digest, out_trees);
        if (!has_trees(out_trees, trees, tree_count))
                return cas_fail(err, CAS_E_INVALID,
                                "the upper directory was made over another image, or over trees "
                                "of it that the store no longer makes");
        return 0;
}

/* ---- the layer ---- */

struct commit {
        struct cas_store *s;
        const struct cas_progress *progress;
        struct cas_layer_writer *writer; /* made with the first change */
        struct cas_map *skipped;         /* paths of sockets, which tars have not */
        uint8_t *buf;
        int64_t newest_s;
        uint64_t done_bytes;
        uint64_t counts[3]; /* by enum ffs_change_kind */
        uint64_t sockets;
};

static void commit_release(struct commit *c)
{
        cas_layer_writer_free(c->writer);
        cas_map_free(c->skipped);
        free(c->buf);
}

static int put_data(void *arg, const void *data, size_t len, struct cas_err *err)
{
        struct commit *c = arg;
        c->done_bytes += len;
        cas_progress_update(c->progress, "commit", c->done_bytes, 0);
        return cas_layer_writer_data(c->writer, data, len, err);
}

static int put_file(struct commit *c, int fd, const struct cas_entry *e, struct cas_err *err)
{
        for (uint64_t at = 0; at < e->size_bytes;) {
                size_t n, want = (size_t)cas_min_u64(e->size_bytes - at, READ_BYTES);
                if (cas_io_pread(cas_io_posix(), fd, c->buf, want, at, &n, e->path, err) < 0)
                        return -(int)err->code;
                if (n < want)
                        return cas_fail(err, CAS_E_BUSY,
                                        "%.200s became shorter while it was committed", e->path);
                if (put_data(c, c->buf, n, err) < 0)
                        return -(int)err->code;
                at += n;
        }
        return 0;
}

static int put_object(struct commit *c, const struct cas_entry *e, struct cas_err *err)
{
        struct cas_object_info info;
        if (e->size_bytes <= CAS_INLINE_BYTES_MAX)
                return put_data(c, e->inline_data, (size_t)e->size_bytes, err);
        if (cas_object_stat(c->s, &e->object, &info, err) < 0)
                return cas_err_wrap(err, "%.200s", e->path);
        if (info.size_bytes != e->size_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "%.200s: its object is of another size",
                                e->path);
        return cas_object_each(c->s, &e->object, put_data, c, err);
}

/* Sockets, and hard links to them. */
static bool is_skipped(struct commit *c, const struct cas_entry *e)
{
        bool skipped = e->type == CAS_ENTRY_SOCKET ||
                       (e->type == CAS_ENTRY_HARDLINK && cas_map_get_str(c->skipped, e->target));
        if (e->type == CAS_ENTRY_SOCKET)
                (void)cas_map_put(c->skipped, e->path, strlen(e->path), NULL);
        c->sockets += skipped;
        return skipped;
}

static int put_entry(struct commit *c, const struct ffs_change *change, const struct cas_entry *e,
                     struct cas_err *err)
{
        if (!c->writer && cas_layer_writer_open(c->s, &c->writer, err) < 0)
                return -(int)err->code;
        c->counts[change->kind]++;
        if (e->mtime_s > c->newest_s)
                c->newest_s = e->mtime_s;
        return cas_layer_writer_entry(c->writer, e, err);
}

static int put_change(void *arg, const struct ffs_change *change, struct cas_err *err)
{
        struct commit *c = arg;
        const struct cas_entry *e = change->entry;
        const struct cas_entry gone = {.type = CAS_ENTRY_WHITEOUT, .path = e->path};
        if (is_skipped(c, e)) /* what it took the place of is gone all the same */
                return change->kind == FFS_CHANGE_MODIFIED ? put_entry(c, change, &gone, err) : 0;
        int rc = put_entry(c, change, e, err);
        if (rc < 0)
                return rc;
        switch (change->data) {
        case FFS_CHANGE_NO_DATA:
                return 0;
        case FFS_CHANGE_IN_UPPER:
                return put_file(c, change->fd, e, err);
        case FFS_CHANGE_IN_OBJECT:
                return put_object(c, e, err);
        }
        return cas_fail(err, CAS_E_INVALID, "%.200s: data of no known kind", e->path);
}

/* *has_layer false: nothing was changed. */
static int make_layer(struct commit *c, const char *upper, const struct ffs_image *trees,
                      struct cas_layer_record *out, bool *has_layer, struct cas_err *err)
{
        const struct ffs_changes_options options = {0};
        c->skipped = cas_map_new();
        c->buf = cas_xmalloc(READ_BYTES);
        if (ffs_changes_each(upper, trees, &options, put_change, c, err) < 0)
                return -(int)err->code;
        *has_layer = c->writer != NULL;
        return c->writer ? cas_layer_writer_finish(c->writer, out, err) : 0;
}

/* ---- operations ---- */

/* The digest of the image's manifest: as it was asked for, or as the upper says. */
static int choose_manifest(const json_t *args, const struct ffs_upper_info *info,
                           struct cas_digest *out, struct cas_err *err)
{
        const char *text;
        *out = info->manifest;
        if (op_arg_string_opt(args, "manifest", &text, err) < 0)
                return -(int)err->code;
        return text ? cas_digest_parse(text, out, err) : 0;
}

static int commit_run(struct commit *c, const json_t *args, const char *upper,
                      const struct cas_ref *ref, struct cas_manifest_info *out, struct cas_err *err)
{
        struct cas_derive_options derive = {.created_by = "lamina commit"};
        struct cas_digest manifest;
        struct cas_layer_record layer;
        bool has_layer = false;
        cas_cleanup_image struct cas_image base = {0};
        cas_cleanup_free struct ffs_upper_info *info = cas_xcalloc(1, sizeof(*info));
        cas_cleanup_free struct ffs_image *trees = cas_xcalloc(1, sizeof(*trees));
        cas_cleanup_publish struct cas_publish *keep = NULL; /* what it is made of */
        if (cas_publish_begin(c->s, &keep, err) < 0 ||
            op_arg_string_opt(args, "config", &derive.config_json, err) < 0 ||
            op_arg_string_opt(args, "comment", &derive.comment, err) < 0 ||
            op_arg_string_opt(args, "author", &derive.author, err) < 0 ||
            ffs_upper_describe(upper, info, err) < 0 ||
            choose_manifest(args, info, &manifest, err) < 0)
                return -(int)err->code;
        cas_publish_keep_blob(keep, &manifest);
        if (base_open(c->s, &manifest, info->trees, info->tree_count, c->progress, &base, trees,
                      err) < 0 ||
            make_layer(c, upper, trees, &layer, &has_layer, err) < 0)
                return -(int)err->code;
        derive.base = &base;
        derive.layer = has_layer ? &layer : NULL;
        derive.newest_s = c->newest_s;
        return cas_image_derive(c->s, ref, &derive, out, err);
}

int op_commit(struct cas_store *s, const json_t *args, const struct op_context *ctx,
              json_t **result, struct cas_err *err)
{
        struct cas_ref ref;
        struct cas_manifest_info made;
        cas_cleanup_free char *upper = NULL;
        if (op_arg_path(args, "upper", &upper, err) < 0 || op_arg_ref(args, "name", &ref, err) < 0)
                return -(int)err->code;
        if (ref.digest.alg != CAS_DIGEST_NONE)
                return cas_fail(err, CAS_E_INVALID, "commit under NAME[:TAG], without a digest");
        struct commit c = {.s = s, .progress = ctx->progress};
        int rc = commit_run(&c, args, upper, &ref, &made, err);
        if (rc == 0) {
                *result = op_manifest_json(ref.repo, ref.tag, &made);
                json_object_update_new(
                        *result, json_pack("{s:I, s:I, s:I, s:I}", "added",
                                           (json_int_t)c.counts[FFS_CHANGE_ADDED], "modified",
                                           (json_int_t)c.counts[FFS_CHANGE_MODIFIED], "deleted",
                                           (json_int_t)c.counts[FFS_CHANGE_DELETED], "sockets",
                                           (json_int_t)c.sockets));
        }
        commit_release(&c);
        return rc < 0 ? cas_err_wrap(err, "commit %s", upper) : 0;
}
