/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/keysource.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "cas/io.h"
#include "cas/log.h"
#include "cas/mutex.h"
#include "registry/httpc.h"
#include "registry/reg_clock.h"

#define FETCH_EVERY_S 3600 /* a key that was withdrawn is not taken for longer */
#define FETCH_FLOOR_S 10   /* whoever makes up names of keys does not make us fetch more often */
#define FETCH_TIMEOUT_MS 5000

struct reg_keysource {
        char *path;              /* owned; NULL: a URL */
        char *url;               /* owned; NULL: a file */
        struct reg_httpc *httpc; /* owned; of a URL */

        struct cas_mutex reading;   /* registry.keys.reading: one reads at a time */
        struct stat seen;           /* guard: reading; of the file as last read */
        _Atomic uint64_t fetched_s; /* of a URL: when it was last tried */
        _Atomic bool failed;        /* the last try */

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
        if (s->httpc)
                reg_httpc_free(s->httpc);
        free(s->path);
        free(s->url);
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

int reg_keysource_url(const char *url, const char *ca_path, struct reg_keysource **out,
                      struct cas_err *err)
{
        const struct reg_httpc_config config = {.connect_timeout_ms = FETCH_TIMEOUT_MS,
                                                .idle_timeout_ms = FETCH_TIMEOUT_MS,
                                                .ca_path = ca_path};
        struct reg_keysource *s = source_new();
        s->url = cas_xstrdup(url);
        int rc = reg_httpc_new(&config, &s->httpc, err);
        if (rc < 0) {
                reg_keysource_free(s);
                return rc;
        }
        struct cas_err away = CAS_ERR_INIT;
        atomic_store(&s->fetched_s, reg_clock_s());
        if (reg_keysource_reload(s, &away) < 0)
                cas_log(CAS_LOG_WARN, "access", "keys=failed message=\"%s\"", away.msg);
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

static int read_file(struct reg_keysource *s, struct cas_buf *out, struct cas_err *err)
{
        if (stat(s->path, &s->seen) < 0)
                return cas_fail_sys(err, errno, "stat");
        return cas_io_read_file(cas_io_posix(), AT_FDCWD, s->path, REG_KEYS_BYTES_MAX, out, err);
}

static int fetch(struct reg_keysource *s, struct cas_buf *out, struct cas_err *err)
{
        static const char *const headers[] = {"Accept: application/jwk-set+json, application/json",
                                              NULL};
        const struct reg_httpc_request request = {
                .method = "GET", .url = s->url, .headers = headers};
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        int rc = reg_httpc_begin(s->httpc, &request, &t, err);
        if (rc < 0)
                return rc;
        if (reg_httpc_status(t) != 200)
                return cas_fail(err, CAS_E_IO, "status %u", reg_httpc_status(t));
        return reg_httpc_read_all(t, REG_KEYS_BYTES_MAX, out, err);
}

static int read_locked(struct reg_keysource *s, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        struct reg_keyset *keys = NULL;
        cas_assert_held(&s->reading);
        int rc = s->url ? fetch(s, &text, err) : read_file(s, &text, err);
        if (rc == 0)
                rc = reg_keyset_parse(text.data, text.len_bytes, &keys, err);
        atomic_store(&s->failed, rc < 0);
        if (rc < 0)
                return cas_err_wrap(err, "%s", s->url ? s->url : s->path);
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

/* Tried long enough ago. */
static bool fetch_due(uint64_t fetched_s, bool soon)
{
        return reg_clock_s() - fetched_s >= (soon ? FETCH_FLOOR_S : FETCH_EVERY_S);
}

bool reg_keysource_maybe_stale(struct reg_keysource *s, bool unknown)
{
        if (!s->url)
                return file_changed(s);
        return fetch_due(atomic_load(&s->fetched_s), unknown || atomic_load(&s->failed));
}

bool reg_keysource_stale(struct reg_keysource *s, bool unknown)
{
        if (!s->url)
                return file_changed(s);
        uint64_t fetched_s = atomic_load(&s->fetched_s);
        return fetch_due(fetched_s, unknown || atomic_load(&s->failed)) &&
               atomic_compare_exchange_strong(&s->fetched_s, &fetched_s, reg_clock_s());
}

bool reg_keysource_remote(const struct reg_keysource *s)
{
        return s->url != NULL;
}
