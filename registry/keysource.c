/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/keysource.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "cas/io.h"
#include "cas/mutex.h"

struct reg_keysource {
        char *path; /* owned */

        struct cas_mutex reading; /* registry.keys.reading: one reads at a time */
        struct stat seen;         /* guard: reading; of the file as last read */

        struct cas_mutex mutex;  /* registry.keys, inside of reading; guards the rest */
        struct reg_keyset *keys; /* NULL: none yet */
        uint64_t generation;
};

static struct reg_keysource *source_new(void)
{
        struct reg_keysource *s = cas_xcalloc(1, sizeof(*s));
        cas_mutex_init(&s->reading, "registry.keys.reading");
        cas_mutex_init(&s->mutex, "registry.keys");
        return s;
}

void reg_keysource_free(struct reg_keysource *s)
{
        if (!s)
                return;
        reg_keyset_unref(s->keys);
        cas_mutex_release(&s->reading);
        cas_mutex_release(&s->mutex);
        free(s->path);
        free(s);
}

int reg_keysource_file(const char *path, struct reg_keysource **out, struct cas_err *err)
{
        struct reg_keysource *s = source_new();
        s->path = cas_xstrdup(path);
        int rc = reg_keysource_reload(s, err);
        if (rc < 0) {
                reg_keysource_free(s);
                return rc;
        }
        *out = s;
        return 0;
}

struct reg_keyset *reg_keysource_get(struct reg_keysource *s, uint64_t *generation)
{
        cas_mutex_lock(&s->mutex);
        struct reg_keyset *keys = s->keys ? reg_keyset_ref(s->keys) : NULL;
        *generation = s->generation;
        cas_mutex_unlock(&s->mutex);
        return keys;
}

static void keys_replace(struct reg_keysource *s, struct reg_keyset *keys)
{
        cas_mutex_lock(&s->mutex);
        struct reg_keyset *former = s->keys;
        s->keys = keys;
        s->generation++;
        cas_mutex_unlock(&s->mutex);
        reg_keyset_unref(former);
}

static int read_locked(struct reg_keysource *s, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        struct reg_keyset *keys;
        cas_assert_held(&s->reading);
        if (stat(s->path, &s->seen) < 0)
                return cas_fail_sys(err, errno, "%s", s->path);
        if (cas_io_read_file(cas_io_posix(), AT_FDCWD, s->path, REG_KEYS_BYTES_MAX, &text, err) <
                    0 ||
            reg_keyset_parse(text.data, text.len_bytes, &keys, err) < 0)
                return cas_err_wrap(err, "%s", s->path);
        keys_replace(s, keys);
        return 0;
}

int reg_keysource_reload(struct reg_keysource *s, struct cas_err *err)
{
        cas_mutex_lock(&s->reading);
        int rc = read_locked(s, err);
        cas_mutex_unlock(&s->reading);
        return rc;
}

static bool file_changed(struct reg_keysource *s)
{
        struct stat now;
        if (stat(s->path, &now) < 0)
                return false;
        cas_mutex_lock(&s->reading);
        bool changed = now.st_ino != s->seen.st_ino || now.st_size != s->seen.st_size ||
                       now.st_mtim.tv_sec != s->seen.st_mtim.tv_sec ||
                       now.st_mtim.tv_nsec != s->seen.st_mtim.tv_nsec;
        cas_mutex_unlock(&s->reading);
        return changed;
}

bool reg_keysource_stale(struct reg_keysource *s, bool unknown CAS_UNUSED)
{
        return file_changed(s);
}

bool reg_keysource_remote(const struct reg_keysource *s CAS_UNUSED)
{
        return false;
}
