/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/sandboxes.h"

#include "tools/paths.h"

void sandbox_arg_release(struct sandbox_arg *s)
{
        free(s->upper);
        free(s->mount);
        free(s->info);
        *s = (struct sandbox_arg){0};
}

struct find {
        const char *dir;
        bool is_upper;
        struct ffs_mount_info *found;
        bool seen;
};

static bool mount_seen(void *arg, const struct ffs_mount_info *info)
{
        struct find *f = arg;
        if (strcmp(f->is_upper ? info->upper : info->dir, f->dir) != 0)
                return true;
        *f->found = *info;
        f->seen = true;
        return false;
}

static int find_mount(const struct mounting *m, const char *path, bool is_upper,
                      struct sandbox_arg *out, struct cas_err *err)
{
        struct find f = {.dir = path, .is_upper = is_upper, .found = out->mount};
        if (ffs_mount_each(&m->host, mount_seen, &f, err) < 0)
                return -(int)err->code;
        out->mounted = f.seen;
        return 0;
}

static bool has_binding(const char *path)
{
        struct cas_err ignored = CAS_ERR_INIT;
        cas_cleanup_free struct ffs_upper_info *info = cas_xcalloc(1, sizeof(*info));
        return ffs_upper_describe(path, info, &ignored) == 0;
}

int sandbox_arg_find(const struct mounting *m, const char *dir, bool is_upper,
                     struct sandbox_arg *out, struct cas_err *err)
{
        cas_cleanup_free char *path = NULL;
        sandbox_cleanup_arg struct sandbox_arg s = {.mount = cas_xcalloc(1, sizeof(*s.mount)),
                                                    .info = cas_xcalloc(1, sizeof(*s.info))};
        if (path_real(dir, &path, err) < 0)
                return -(int)err->code;
        if (find_mount(m, path, is_upper, &s, err) < 0)
                return -(int)err->code;
        if (!is_upper && !s.mounted && has_binding(path)) {
                is_upper = true;
                if (find_mount(m, path, is_upper, &s, err) < 0)
                        return -(int)err->code;
        }
        if (!is_upper && !s.mounted)
                return cas_fail(err, CAS_E_NOTFOUND,
                                "nothing of lamina is mounted at %s, and it is no upper directory",
                                path);
        if (!is_upper && !s.mount->upper[0])
                return cas_fail(err, CAS_E_INVALID, "%s is mounted read-only: nothing can change",
                                path);
        s.by_upper = is_upper;
        s.upper = is_upper ? cas_steal(&path) : cas_xstrdup(s.mount->upper);
        if (ffs_upper_describe(s.upper, s.info, err) < 0)
                return -(int)err->code;
        *out = s;
        s = (struct sandbox_arg){0};
        return 0;
}

int sandbox_arg_prepare(const struct mounting *m, const struct sandbox_arg *s,
                        struct ffs_image *image, json_t **prepared, struct cas_err *err)
{
        const struct cas_digest *manifest = &s->info->manifest;
        const char *name = s->info->name;
        if (manifest->alg == CAS_DIGEST_NONE && s->mounted) {
                manifest = &s->mount->manifest;
                name = s->mount->name;
        }
        if (manifest->alg == CAS_DIGEST_NONE)
                return cas_fail(err, CAS_E_INVALID,
                                "%s does not say which image it was made over, as older versions "
                                "left it: mount it first",
                                s->upper);
        return mounting_prepare_manifest(m, name[0] ? name : "unnamed", manifest, image, prepared,
                                         err);
}
