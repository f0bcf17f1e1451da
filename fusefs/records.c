/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/records_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "cas/log.h"

#define RECORD_VERSION 1
#define RECORD_BYTES_MAX 32768

int ffs_run_lock(const char *run_dir, int *out_fd, struct cas_err *err)
{
        static const char *const dirs[] = {"", "/trees", "/images", "/views", "/mounts"};
        for (size_t i = 0; i < CAS_COUNT(dirs); i++) {
                cas_cleanup_free char *path = cas_xasprintf("%s%s", run_dir, dirs[i]);
                if (mkdir(path, 0700) < 0 && errno != EEXIST)
                        return cas_fail_sys(err, errno, "make %s", path);
        }
        cas_cleanup_free char *path = cas_xasprintf("%s/lock", run_dir);
        cas_cleanup_fd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
                return cas_fail_sys(err, errno, "open %s", path);
        int rc;
        do
                rc = flock(fd, LOCK_EX);
        while (rc < 0 && errno == EINTR);
        if (rc < 0)
                return cas_fail_sys(err, errno, "lock %s", path);
        *out_fd = cas_steal_fd(&fd);
        return 0;
}

void ffs_record_id(const char *dir, char out[40])
{
        struct cas_hash hash;
        char hex[CAS_HASH_HEX_BYTES];
        cas_sha256(dir, strlen(dir), &hash);
        (void)snprintf(out, 40, "%.32s", cas_hash_hex(&hash, hex));
}

static int read_text(const char *path, size_t max_bytes, struct cas_buf *out, struct cas_err *err)
{
        return cas_io_read_file(cas_io_posix(), AT_FDCWD, path, max_bytes, out, err);
}

int ffs_boot_id(char out[40], struct cas_err *err)
{
        cas_cleanup_fd int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
        char line[40] = "";
        if (fd < 0 || read(fd, line, sizeof(line) - 1) < 36)
                return cas_fail_sys(err, errno, "read the boot id");
        line[strcspn(line, "\n")] = '\0';
        memcpy(out, line, sizeof(line));
        return 0;
}

int ffs_run_write(const char *path, const char *text, struct cas_err *err)
{
        cas_cleanup_free char *new_path = cas_xasprintf("%s.new", path);
        cas_cleanup_fd int fd = open(new_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0)
                return cas_fail_sys(err, errno, "write %s", new_path);
        size_t len = strlen(text);
        ssize_t n = write(fd, text, len);
        if (n != (ssize_t)len)
                return cas_fail_sys(err, n < 0 ? errno : ENOSPC, "write %s", new_path);
        if (rename(new_path, path) < 0)
                return cas_fail_sys(err, errno, "rename to %s", path);
        return 0;
}

/* ---- text ---- */

char *ffs_record_format(const struct ffs_record *r)
{
        char digest[CAS_DIGEST_TEXT_BYTES];
        json_t *trees = json_array();
        for (size_t i = 0; i < r->tree_count; i++)
                (void)json_array_append_new(trees,
                                            json_string(cas_digest_text(&r->trees[i], digest)));
        json_t *root = json_pack(
                "{s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:s, s:s, s:s, s:b, s:s, s:o}",
                "version", RECORD_VERSION, "id", r->info.id, "dir", r->info.dir, "name",
                r->info.name, "manifest", cas_digest_text(&r->info.manifest, digest), "driver",
                r->info.driver, "pages", r->info.pages, "connection", r->connection, "volume",
                r->volume, "rw", (int)r->info.rw, "upper", r->info.upper, "lease", r->info.lease,
                "image", r->image, "upperIsOurs", (int)r->upper_is_ours, "boot", r->boot, "trees",
                trees);
        char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
        json_decref(root);
        return text;
}

static bool take_text(const json_t *root, const char *key, char *out, size_t out_bytes)
{
        const char *text = json_string_value(json_object_get(root, key));
        if (!text || strlen(text) >= out_bytes)
                return false;
        memcpy(out, text, strlen(text) + 1);
        return true;
}

/* Records of earlier versions do not have it. */
static bool take_new_text(const json_t *root, const char *key, char *out, size_t out_bytes)
{
        out[0] = '\0';
        return !json_object_get(root, key) || take_text(root, key, out, out_bytes);
}

static bool is_plain_name(const char *name)
{
        return !strchr(name, '/') && name[0] != '.';
}

static bool take_digest(const json_t *value, struct cas_digest *out)
{
        struct cas_err ignored = CAS_ERR_INIT;
        const char *text = json_string_value(value);
        return text && cas_digest_parse(text, out, &ignored) == 0;
}

static bool take_record(const json_t *root, struct ffs_record *r)
{
        const json_t *trees = json_object_get(root, "trees");
        r->tree_count = json_array_size(trees);
        if (json_integer_value(json_object_get(root, "version")) != RECORD_VERSION ||
            r->tree_count < 1 || r->tree_count > FFS_TREES_MAX)
                return false;
        for (size_t i = 0; i < r->tree_count; i++) {
                if (!take_digest(json_array_get(trees, i), &r->trees[i]))
                        return false;
        }
        r->info.rw = json_is_true(json_object_get(root, "rw"));
        r->upper_is_ours = json_is_true(json_object_get(root, "upperIsOurs"));
        return take_digest(json_object_get(root, "manifest"), &r->info.manifest) &&
               take_text(root, "id", r->info.id, sizeof(r->info.id)) &&
               take_text(root, "dir", r->info.dir, sizeof(r->info.dir)) &&
               take_text(root, "name", r->info.name, sizeof(r->info.name)) &&
               take_text(root, "driver", r->info.driver, sizeof(r->info.driver)) &&
               take_text(root, "upper", r->info.upper, sizeof(r->info.upper)) &&
               take_text(root, "lease", r->info.lease, sizeof(r->info.lease)) &&
               take_text(root, "image", r->image, sizeof(r->image)) &&
               take_text(root, "boot", r->boot, sizeof(r->boot)) &&
               take_new_text(root, "pages", r->info.pages, sizeof(r->info.pages)) &&
               take_new_text(root, "connection", r->connection, sizeof(r->connection)) &&
               take_new_text(root, "volume", r->volume, sizeof(r->volume)) &&
               r->info.dir[0] == '/' && is_plain_name(r->image) && is_plain_name(r->connection) &&
               is_plain_name(r->volume);
}

int ffs_record_parse(const char *text, size_t len, struct ffs_record *out, struct cas_err *err)
{
        json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
        struct ffs_record *r = cas_xcalloc(1, sizeof(*r));
        bool good = root && take_record(root, r);
        if (good)
                *out = *r;
        free(r);
        json_decref(root);
        return good ? 0 : cas_fail(err, CAS_E_CORRUPT, "not the record of a mount");
}

/* ---- files ---- */

int ffs_record_load(const char *run_dir, const char *id, struct ffs_record *out,
                    struct cas_err *err)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/mounts/%s", run_dir, id);
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        if (read_text(path, RECORD_BYTES_MAX, &text, err) < 0)
                return -(int)err->code;
        if (ffs_record_parse(cas_buf_str(&text), text.len_bytes, out, err) < 0)
                return cas_err_wrap(err, "%s", path);
        return 0;
}

int ffs_record_save(const char *run_dir, const struct ffs_record *record, struct cas_err *err)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/mounts/%s", run_dir, record->info.id);
        cas_cleanup_free char *text = ffs_record_format(record);
        if (!text)
                return cas_fail(err, CAS_E_INVALID, "mount point %s: its path must be UTF-8",
                                record->info.dir);
        return ffs_run_write(path, text, err);
}

int ffs_record_remove(const char *run_dir, const char *id, struct cas_err *err)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/mounts/%s", run_dir, id);
        if (unlink(path) < 0 && errno != ENOENT)
                return cas_fail_sys(err, errno, "remove %s", path);
        return 0;
}

int ffs_record_each(const char *run_dir, bool (*fn)(void *arg, const struct ffs_record *record),
                    void *arg, struct cas_err *err)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/mounts", run_dir);
        DIR *dir = opendir(path);
        if (!dir)
                return errno == ENOENT ? 0 : cas_fail_sys(err, errno, "open %s", path);
        struct ffs_record *record = cas_xmalloc(sizeof(*record));
        bool more = true;
        for (struct dirent *e; more && (e = readdir(dir));) {
                if (strlen(e->d_name) != 32 || strspn(e->d_name, "0123456789abcdef") != 32)
                        continue;
                struct cas_err why = CAS_ERR_INIT;
                if (ffs_record_load(run_dir, e->d_name, record, &why) == 0)
                        more = fn(arg, record);
                else if (why.code != CAS_E_NOTFOUND)
                        cas_log(CAS_LOG_WARN, "mounts.record", "why=\"%s\"", why.msg);
        }
        free(record);
        (void)closedir(dir);
        return 0;
}
