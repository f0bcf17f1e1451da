/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/volume_int.h"

#include <jansson.h>

#define VOLUME_VERSION 1
#define ID_BYTES "0123456789abcdefghijklmnopqrstuvwxyz-"

static const char *const format_names[] = {
        [FFS_UPPER_TRUSTED] = "trusted",
        [FFS_UPPER_USER] = "user",
};

static json_t *trees_json(const struct ffs_volume_spec *spec)
{
        json_t *list = json_array();
        for (size_t i = 0; i < spec->tree_count; i++) {
                char digest[CAS_DIGEST_TEXT_BYTES];
                json_t *tree =
                        json_pack("{s:s, s:s}", "digest", cas_digest_text(&spec->trees[i], digest),
                                  "path", spec->tree_paths[i]);
                if (!tree) {
                        json_decref(list);
                        return NULL;
                }
                (void)json_array_append_new(list, tree);
        }
        return list;
}

char *ffs_volume_format(const struct ffs_volume_spec *spec)
{
        cas_assert(spec->tree_count >= 1 && spec->tree_count <= FFS_VOLUME_TREES_MAX);
        char map[FFS_IDMAP_TEXT_BYTES];
        ffs_idmap_format(&spec->map, map, sizeof(map));
        json_t *trees = trees_json(spec);
        if (!trees)
                return NULL;
        json_t *root = json_pack(
                "{s:i, s:s, s:o, s:b, s:s, s:b, s:I, s:s}", "version", VOLUME_VERSION, "id",
                spec->id, "trees", trees, "rw", (int)spec->rw, "format", format_names[spec->format],
                "ownersInXattrs", (int)spec->owners_in_xattrs, "sizeLimit",
                (json_int_t)cas_min_u64(spec->size_limit_bytes, INT64_MAX), "idMap", map);
        char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
        json_decref(root);
        return text;
}

static bool take_id(const json_t *root, struct ffs_volume_spec *spec)
{
        const char *id = json_string_value(json_object_get(root, "id"));
        size_t len = id ? strlen(id) : 0;
        if (len == 0 || len >= sizeof(spec->id) || strspn(id, ID_BYTES) != len)
                return false;
        memcpy(spec->id, id, len + 1);
        return true;
}

static bool take_tree(const json_t *tree, struct cas_digest *digest, char *path, size_t path_bytes)
{
        struct cas_err ignored = CAS_ERR_INIT;
        const char *name = json_string_value(json_object_get(tree, "digest"));
        const char *text = json_string_value(json_object_get(tree, "path"));
        if (!name || !text || text[0] != '/' || strlen(text) >= path_bytes ||
            cas_digest_parse(name, digest, &ignored) < 0)
                return false;
        memcpy(path, text, strlen(text) + 1);
        return true;
}

static bool take_trees(const json_t *list, struct ffs_volume_spec *spec)
{
        spec->tree_count = json_array_size(list);
        if (spec->tree_count < 1 || spec->tree_count > FFS_VOLUME_TREES_MAX)
                return false;
        for (size_t i = 0; i < spec->tree_count; i++) {
                if (!take_tree(json_array_get(list, i), &spec->trees[i], spec->tree_paths[i],
                               sizeof(spec->tree_paths[i])))
                        return false;
        }
        return true;
}

static bool take_format(const json_t *root, enum ffs_upper_format *out)
{
        const char *name = json_string_value(json_object_get(root, "format"));
        for (size_t i = 0; name && i < CAS_COUNT(format_names); i++) {
                if (strcmp(name, format_names[i]) == 0) {
                        *out = (enum ffs_upper_format)i;
                        return true;
                }
        }
        return false;
}

static bool take_spec(const json_t *root, struct ffs_volume_spec *spec)
{
        struct cas_err ignored = CAS_ERR_INIT;
        const json_t *limit = json_object_get(root, "sizeLimit");
        const char *map = json_string_value(json_object_get(root, "idMap"));
        if (json_integer_value(json_object_get(root, "version")) != VOLUME_VERSION ||
            !take_id(root, spec) || !take_trees(json_object_get(root, "trees"), spec) ||
            !take_format(root, &spec->format) || !json_is_integer(limit) ||
            json_integer_value(limit) < 0 || !map || ffs_idmap_parse(map, &spec->map, &ignored) < 0)
                return false;
        spec->size_limit_bytes = (uint64_t)json_integer_value(limit);
        spec->rw = json_is_true(json_object_get(root, "rw"));
        spec->owners_in_xattrs = json_is_true(json_object_get(root, "ownersInXattrs"));
        return true;
}

int ffs_volume_parse(const char *text, size_t len, struct ffs_volume_spec *out, struct cas_err *err)
{
        if (len > FFS_VOLUME_TEXT_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a volume's text of %zu bytes", len);
        json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
        cas_cleanup_free struct ffs_volume_spec *spec = cas_xcalloc(1, sizeof(*spec));
        bool good = root && take_spec(root, spec);
        json_decref(root);
        if (!good)
                return cas_fail(err, CAS_E_INVALID, "not the description of a volume");
        *out = *spec;
        return 0;
}
