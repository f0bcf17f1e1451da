/* SPDX-License-Identifier: Apache-2.0 */
/* The owner's part of a mount: the image is chosen and decoded, its trees are
 * made, and a lease keeps all of it from garbage collection. The lease is
 * short until the mount says that it stands (lease-keep). */
#include <stdio.h>
#include <time.h>

#include "cas/blob.h"
#include "cas/elsewhere.h"
#include "cas/lease.h"
#include "cas/order.h"
#include "cas/prefetch.h"
#include "tools/lazymount.h"
#include "tools/ops.h"
#include "tools/ops_json.h"
#include "tools/remote_name.h"

#define LEASE_PREPARE_S 600

static json_t *strings_json(char *const *list)
{
        json_t *out = json_array();
        for (; list && *list; list++)
                json_array_append_new(out, op_text_json(*list));
        return out;
}

static json_t *config_json(const struct cas_image_config *c)
{
        return json_pack("{s:o, s:o, s:o, s:o, s:o}", "user", op_text_json(c->user ? c->user : ""),
                         "workingDir", op_text_json(c->working_dir ? c->working_dir : ""), "env",
                         strings_json(c->env), "entrypoint", strings_json(c->entrypoint), "cmd",
                         strings_json(c->cmd));
}

static int trees_json(struct cas_store *s, const struct cas_image *image, json_t **out,
                      struct cas_err *err)
{
        struct cas_tree_ref trees[CAS_IMAGE_TREES_MAX];
        size_t count = 0;
        if (cas_image_trees(s, image, trees, &count, err) < 0)
                return -(int)err->code;
        op_cleanup_json json_t *list = json_array();
        for (size_t i = 0; i < count; i++) {
                char digest[CAS_DIGEST_TEXT_BYTES], path[4096];
                cas_tree_path(s, &trees[i].digest, path, sizeof(path));
                json_array_append_new(list, json_pack("{s:s, s:s}", "digest",
                                                      cas_digest_text(&trees[i].digest, digest),
                                                      "path", path));
        }
        *out = cas_steal(&list);
        return 0;
}

/* What is to be mounted: a name, or a manifest that the store has under any name or none. */
struct wanted {
        struct cas_ref ref; /* the name, for people, where there is a manifest */
        struct cas_digest manifest;
        bool has_manifest;
        struct cas_platform platform;
        bool has_platform;
        const char *remote; /* borrowed: the name of an image at a registry; NULL: of one here */
        struct lazymount_options lazy;
};

/* A name at a registry, unless there is a manifest, whose name is for people. */
static int wanted_name(const json_t *args, struct wanted *out, struct cas_err *err)
{
        const char *name, *pull;
        const json_t *background = json_object_get(args, "background");
        if (op_arg_string(args, "name", &name, err) < 0 ||
            op_arg_string_opt(args, "pull", &pull, err) < 0 ||
            lazymount_pull_parse(pull, &out->lazy.pull, err) < 0)
                return -(int)err->code;
        out->lazy.on_demand_only = json_is_false(background);
        if (out->has_manifest || !remote_name_is(name))
                return op_arg_ref(args, "name", &out->ref, err);
        out->remote = name;
        return 0;
}

static int wanted_from_args(const json_t *args, struct wanted *out, struct cas_err *err)
{
        const char *manifest;
        memset(out, 0, sizeof(*out));
        if (op_arg_platform(args, &out->platform, &out->has_platform, err) < 0 ||
            op_arg_string_opt(args, "manifest", &manifest, err) < 0)
                return -(int)err->code;
        out->has_manifest = manifest != NULL;
        if (wanted_name(args, out, err) < 0)
                return -(int)err->code;
        return manifest ? cas_digest_parse(manifest, &out->manifest, err) : 0;
}

/* What the lease holds. An image at a registry comes here first, as far as is needed. */
static int wanted_root(struct cas_store *s, struct wanted *w, const struct op_context *ctx,
                       struct cas_digest *out, struct cas_err *err)
{
        struct cas_manifest_info info = {.digest = w->manifest};
        w->lazy.platform = w->has_platform ? &w->platform : NULL;
        w->lazy.progress = ctx->progress;
        w->lazy.remotes = ctx->remotes;
        if (w->remote && lazymount_bring(s, w->remote, &w->lazy, &w->ref, err) < 0)
                return -(int)err->code;
        if (!w->has_manifest && cas_ref_resolve(s, &w->ref, &info, err) < 0)
                return -(int)err->code;
        *out = info.digest;
        return 0;
}

/* root: what the lease holds, whatever the tag has become. */
static int wanted_open(struct cas_store *s, const struct wanted *w, const struct cas_digest *root,
                       const struct cas_progress *progress, struct cas_image *out,
                       struct cas_err *err)
{
        struct cas_ref ref = w->ref;
        ref.digest = *root;
        return cas_image_open_lazy(s, &ref, w->has_platform ? &w->platform : NULL,
                                   w->has_manifest ? &w->manifest : NULL, progress, out, err);
}

/* An image that was mounted with --no-background before is brought after all. */
static int wanted_fill(struct cas_store *s, const struct wanted *w, const struct cas_image *image,
                       struct cas_err *err)
{
        if (!w->remote || w->lazy.on_demand_only)
                return 0;
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < image->manifest.child_count; i++) {
                if (image->layers[i].is_elsewhere)
                        rc = cas_elsewhere_fill(s, &image->layers[i].blob, err);
        }
        return rc;
}

int op_mount_prepare(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                     json_t **result, struct cas_err *err)
{
        struct wanted wanted;
        const char *owner;
        struct cas_lease lease = {.expires_unix_s = (uint64_t)time(NULL) + LEASE_PREPARE_S};
        if (wanted_from_args(args, &wanted, err) < 0 ||
            op_arg_string(args, "owner", &owner, err) < 0 ||
            wanted_root(s, &wanted, ctx, &lease.root, err) < 0)
                return -(int)err->code;
        op_lease_id_new(lease.id, sizeof(lease.id));
        snprintf(lease.owner, sizeof(lease.owner), "%s", owner);
        /* The lease first: nothing of the image can go while it is made ready. */
        if (cas_lease_put(s, &lease, err) < 0)
                return -(int)err->code;
        cas_cleanup_image struct cas_image image = {0};
        op_cleanup_json json_t *trees = NULL;
        int rc = wanted_open(s, &wanted, &lease.root, ctx->progress, &image, err);
        if (rc == 0)
                rc = wanted_fill(s, &wanted, &image, err);
        if (rc == 0)
                rc = trees_json(s, &image, &trees, err);
        if (rc < 0) {
                struct cas_err ignored = CAS_ERR_INIT;
                (void)!cas_lease_drop(s, lease.id, &ignored); /* it expires anyway */
                return rc;
        }
        cas_order_watch(s, wanted.ref.repo, &image.manifest_digest);
        cas_prefetch_image(s, wanted.ref.repo, &image.manifest_digest);
        cas_cleanup_free char *name = op_ref_text(&wanted.ref);
        char manifest[CAS_DIGEST_TEXT_BYTES];
        *result = json_pack("{s:s, s:s, s:s, s:O, s:o}", "name", name, "manifest",
                            cas_digest_text(&image.manifest_digest, manifest), "lease", lease.id,
                            "trees", trees, "config", config_json(&image.config));
        return 0;
}

struct lease_find {
        const char *id;
        struct cas_lease found;
        bool seen;
};

static bool lease_seen(void *arg, const struct cas_lease *lease)
{
        struct lease_find *f = arg;
        if (strcmp(lease->id, f->id) != 0)
                return true;
        f->found = *lease;
        f->seen = true;
        return false;
}

int op_lease_keep(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                  json_t **result, struct cas_err *err)
{
        (void)ctx;
        struct lease_find f = {0};
        if (op_arg_string(args, "lease", &f.id, err) < 0 ||
            cas_lease_each(s, lease_seen, &f, err) < 0)
                return -(int)err->code;
        if (!f.seen)
                return cas_fail(err, CAS_E_NOTFOUND, "lease %s is gone", f.id);
        f.found.expires_unix_s = 0;
        if (cas_lease_put(s, &f.found, err) < 0)
                return -(int)err->code;
        if (cas_blob_stat(s, &f.found.root, NULL, err) < 0) { /* it had expired, and more */
                struct cas_err ignored = CAS_ERR_INIT;
                (void)!cas_lease_drop(s, f.id, &ignored);
                return -(int)err->code;
        }
        *result = json_object();
        return 0;
}

int op_lease_drop(struct cas_store *s, const json_t *args, const struct op_context *ctx,
                  json_t **result, struct cas_err *err)
{
        (void)ctx;
        const char *id;
        if (op_arg_string(args, "lease", &id, err) < 0 || cas_lease_drop(s, id, err) < 0)
                return -(int)err->code;
        *result = json_object();
        return 0;
}
