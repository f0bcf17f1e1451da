/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/upper_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cas/io.h"
#include "cas/removetree.h"

#define BINDING_NAME "lamina.json"
#define BINDING_VERSION 1
#define BINDING_BYTES_MAX 8192

static char *binding_text(const struct cas_digest *trees, size_t tree_count, const char *options)
{
        char digest[CAS_DIGEST_TEXT_BYTES];
        json_t *list = json_array();
        for (size_t i = 0; i < tree_count; i++)
                (void)json_array_append_new(list, json_string(cas_digest_text(&trees[i], digest)));
        json_t *root = json_pack("{s:i, s:s, s:o}", "version", BINDING_VERSION, "options", options,
                                 "trees", list);
        char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;
        json_decref(root);
        cas_assert(text != NULL);
        return text;
}

/* Equal as JSON, however it is written. */
static bool binding_equal(const struct cas_buf *have, const char *want)
{
        json_t *a = json_loadb(cas_buf_str(have), have->len_bytes, JSON_REJECT_DUPLICATES, NULL);
        json_t *b = json_loads(want, 0, NULL);
        bool equal = a && b && json_equal(a, b);
        json_decref(a);
        json_decref(b);
        return equal;
}

/* A directory, and no link to one: overlayfs would write behind it. *made when it was not there. */
static int make_dir(const char *path, bool *made, struct cas_err *err)
{
        struct stat st;
        *made = mkdir(path, 0755) == 0;
        if (!*made && errno != EEXIST)
                return cas_fail_sys(err, errno, "make %s", path);
        if (lstat(path, &st) < 0)
                return cas_fail_sys(err, errno, "%s", path);
        if (!S_ISDIR(st.st_mode))
                return cas_fail(err, CAS_E_INVALID, "%s is not a directory", path);
        return 0;
}

/* Who else could write here could turn what root writes elsewhere by links. */
static int refuse_shared(const char *dir, struct cas_err *err)
{
        struct stat st;
        if (lstat(dir, &st) < 0)
                return cas_fail_sys(err, errno, "%s", dir);
        if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 0022))
                return cas_fail(err, CAS_E_DENIED,
                                "%s is not a directory that only its user, who is this one, can "
                                "write (chown, chmod go-w)",
                                dir);
        return 0;
}

/* Only a regular file: nothing that blocks, and no link. */
static int binding_read(const char *path, struct cas_buf *out, struct cas_err *err)
{
        struct stat st;
        if (lstat(path, &st) < 0)
                return cas_fail_sys(err, errno, "%s", path);
        if (!S_ISREG(st.st_mode))
                return cas_fail(err, CAS_E_INVALID, "%s is not a regular file", path);
        return cas_io_read_file(cas_io_posix(), AT_FDCWD, path, BINDING_BYTES_MAX, out, err);
}

static int refuse_foreign(const char *upper, struct cas_err *err)
{
        DIR *d = opendir(upper);
        if (!d)
                return errno == ENOENT ? 0 : cas_fail_sys(err, errno, "open %s", upper);
        int entries = 0;
        while (readdir(d))
                entries++;
        (void)closedir(d);
        if (entries > 2)
                return cas_fail(err, CAS_E_INVALID,
                                "%s has files, but no %s beside it says over which trees they "
                                "were made: use an empty directory",
                                upper, BINDING_NAME);
        return 0;
}

int ffs_upper_prepare(const char *dir, const struct cas_digest *trees, size_t tree_count,
                      const char *options, struct ffs_upper *out, struct cas_err *err)
{
        int n = snprintf(out->upper, sizeof(out->upper), "%s/upper", dir);
        if (n < 0 || (size_t)n >= sizeof(out->upper))
                return cas_fail(err, CAS_E_INVALID, "the path of the upper directory is too long");
        (void)snprintf(out->work, sizeof(out->work), "%s/work", dir);
        const struct cas_io *io = cas_io_posix();
        cas_cleanup_free char *binding = cas_xasprintf("%s/%s", dir, BINDING_NAME);
        cas_cleanup_free char *want = binding_text(trees, tree_count, options);
        cas_cleanup_buf struct cas_buf have = CAS_BUF_INIT;
        struct cas_err why = CAS_ERR_INIT;
        bool made;
        if (make_dir(dir, &made, err) < 0 || refuse_shared(dir, err) < 0)
                return -(int)err->code;
        if (binding_read(binding, &have, &why) == 0) {
                if (!binding_equal(&have, want))
                        return cas_fail(err, CAS_E_INVALID,
                                        "%s was made over other trees or options (see %s): an "
                                        "upper directory fits only the image it was made over",
                                        dir, binding);
        } else if (why.code != CAS_E_NOTFOUND) {
                *err = why;
                return -(int)err->code;
        } else if (refuse_foreign(out->upper, err) < 0 ||
                   cas_io_replace_file(io, AT_FDCWD, dir, binding, want, strlen(want), 0600, err) <
                           0) {
                return -(int)err->code;
        }
        if (make_dir(out->upper, &out->fresh, err) < 0 || make_dir(out->work, &made, err) < 0)
                return -(int)err->code;
        return 0;
}

int ffs_upper_remove(const char *dir, struct cas_err *err)
{
        return cas_remove_tree(dir, err);
}
