/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/binding_int.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>

#include "cas/io.h"

#define BINDING_VERSION 1
#define BINDING_BYTES_MAX 8192

/* ---- text ---- */

static void set(json_t *root, const char *key, json_t *value)
{
        int rc = json_object_set_new(root, key, value);
        cas_assert(rc == 0);
}

static void set_information(json_t *root, const struct ffs_binding *b)
{
        char digest[CAS_DIGEST_TEXT_BYTES];
        json_t *name = b->name[0] ? json_string(b->name) : NULL; /* NULL: not UTF-8 */
        if (name)
                set(root, "name", name);
        if (b->manifest.alg != CAS_DIGEST_NONE)
                set(root, "manifest", json_string(cas_digest_text(&b->manifest, digest)));
}

char *ffs_binding_format(const struct ffs_binding *b)
{
        char digest[CAS_DIGEST_TEXT_BYTES];
        json_t *list = json_array();
        for (size_t i = 0; i < b->tree_count; i++)
                (void)json_array_append_new(list,
                                            json_string(cas_digest_text(&b->trees[i], digest)));
        json_t *root = json_pack("{s:i, s:s, s:o}", "version", BINDING_VERSION, "options",
                                 b->options, "trees", list);
        cas_assert(root != NULL);
        if (b->format == FFS_UPPER_USER)
                set(root, "format", json_string("user"));
        if (b->owners_in_xattrs)
                set(root, "ownersInXattrs", json_true());
        if (b->id_map[0])
                set(root, "idMap", json_string(b->id_map));
        if (b->size_limit_bytes)
                set(root, "size", json_integer((json_int_t)b->size_limit_bytes));
        if (b->has_image)
                set(root, "image", json_true());
        if (b->frozen)
                set(root, "frozen", json_true());
        set_information(root, b);
        char *text = json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS);
        json_decref(root);
        cas_assert(text != NULL);
        return text;
}

/* Absent is "". */
static bool take_text(const json_t *root, const char *key, char *out, size_t out_bytes)
{
        const json_t *value = json_object_get(root, key);
        const char *text = json_string_value(value);
        if (!value)
                return true;
        if (!text || json_string_length(value) != strlen(text) || strlen(text) >= out_bytes)
                return false;
        memcpy(out, text, strlen(text) + 1);
        return true;
}

static bool take_digest(const json_t *value, struct cas_digest *out)
{
        struct cas_err ignored = CAS_ERR_INIT;
        const char *text = json_string_value(value);
        return text && cas_digest_parse(text, out, &ignored) == 0;
}

static bool take_flag(const json_t *root, const char *key, bool *out)
{
        const json_t *value = json_object_get(root, key);
        *out = json_is_true(value);
        return !value || json_is_boolean(value);
}

static bool take_size(const json_t *root, uint64_t *out)
{
        const json_t *value = json_object_get(root, "size");
        *out = (uint64_t)json_integer_value(value);
        return !value || (json_is_integer(value) && json_integer_value(value) > 0);
}

static bool take_format(const json_t *root, enum ffs_upper_format *out)
{
        char text[16] = "trusted";
        if (!take_text(root, "format", text, sizeof(text)))
                return false;
        *out = strcmp(text, "user") == 0 ? FFS_UPPER_USER : FFS_UPPER_TRUSTED;
        return *out == FFS_UPPER_USER || strcmp(text, "trusted") == 0;
}

static bool take_binding(const json_t *root, struct ffs_binding *b)
{
        const json_t *trees = json_object_get(root, "trees");
        const json_t *manifest = json_object_get(root, "manifest");
        b->tree_count = json_array_size(trees);
        if (json_integer_value(json_object_get(root, "version")) != BINDING_VERSION ||
            b->tree_count < 1 || b->tree_count > FFS_VOLUME_TREES_MAX)
                return false;
        for (size_t i = 0; i < b->tree_count; i++) {
                if (!take_digest(json_array_get(trees, i), &b->trees[i]))
                        return false;
        }
        return json_is_string(json_object_get(root, "options")) &&
               take_text(root, "options", b->options, sizeof(b->options)) &&
               take_format(root, &b->format) &&
               take_flag(root, "ownersInXattrs", &b->owners_in_xattrs) &&
               take_text(root, "idMap", b->id_map, sizeof(b->id_map)) &&
               take_size(root, &b->size_limit_bytes) && take_flag(root, "image", &b->has_image) &&
               take_flag(root, "frozen", &b->frozen) &&
               take_text(root, "name", b->name, sizeof(b->name)) &&
               (!manifest || take_digest(manifest, &b->manifest));
}

int ffs_binding_parse(const char *text, size_t len, struct ffs_binding *out, struct cas_err *err)
{
        json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
        struct ffs_binding b = {0};
        bool good = root && take_binding(root, &b);
        json_decref(root);
        if (!good)
                return cas_fail(err, CAS_E_INVALID,
                                FFS_BINDING_NAME " does not say over which trees it was made");
        *out = b;
        return 0;
}

int ffs_binding_read(int dir_fd, struct ffs_binding *out, struct cas_err *err)
{
        struct stat st;
        char text[BINDING_BYTES_MAX];
        size_t n;
        /* Only a regular file: nothing that blocks, and no link. */
        cas_cleanup_fd int fd =
                openat(dir_fd, FFS_BINDING_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0 && errno != ELOOP)
                return cas_fail_sys(err, errno, "open " FFS_BINDING_NAME);
        if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
                return cas_fail(err, CAS_E_INVALID, FFS_BINDING_NAME " is not a regular file");
        if (cas_io_pread(cas_io_posix(), fd, text, sizeof(text), 0, &n, FFS_BINDING_NAME, err) < 0)
                return -(int)err->code;
        return ffs_binding_parse(text, n, out, err);
}

bool ffs_binding_fits(const struct ffs_binding *have, const struct ffs_binding *want)
{
        if (have->tree_count != want->tree_count)
                return false;
        for (size_t i = 0; i < have->tree_count; i++) {
                if (!cas_digest_equal(&have->trees[i], &want->trees[i]))
                        return false;
        }
        return strcmp(have->options, want->options) == 0 && have->format == want->format &&
               have->owners_in_xattrs == want->owners_in_xattrs &&
               (!want->size_limit_bytes || have->size_limit_bytes == want->size_limit_bytes);
}
