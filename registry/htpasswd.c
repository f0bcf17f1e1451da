/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/htpasswd.h"

#include <crypt.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cas/buf.h"
#include "cas/io.h"
#include "cas/mutex.h"

#define FILE_BYTES_MAX (16 << 20)
#define USER_BYTES_MAX 255
#define HASH_BYTES 60 /* "$2y$", two digits, "$", 22 of salt, 31 of hash */
#define COST_AT 4
#define COST_MIN 4
#define COST_MAX 17 /* about ten seconds */

struct line {
        const char *user, *hash;
};

/* What the file said. Immutable, refcounted. */
struct table {
        _Atomic unsigned refs;
        char *text; /* owned; lines are cut in place */
        size_t count;
        struct line *lines;      /* owned; sorted by user */
        char nobody[HASH_BYTES]; /* setting of the dearest hash, for users that are not there */
};

struct reg_htpasswd {
        char *path; /* owned */
        _Atomic uint64_t generation;
        struct cas_mutex reading; /* name registry.htpasswd.reading: one reads the file at a time */
        struct stat seen;         /* guard: reading; of the file as last looked at */
        struct cas_mutex mutex;   /* registry.htpasswd, inside of reading */
        struct table *table;      /* guard: mutex */
};

static void table_unref(struct table *t)
{
        if (!t || atomic_fetch_sub(&t->refs, 1) != 1)
                return;
        free(t->text);
        free(t->lines);
        free(t);
}
CAS_DEFINE_CLEANUP(cleanup_table_, struct table *, table_unref);
#define cleanup_table __attribute__((cleanup(cleanup_table_)))

static unsigned cost_of(const char *hash)
{
        return (unsigned)(hash[COST_AT] - '0') * 10 + (unsigned)(hash[COST_AT + 1] - '0');
}

static bool is_bcrypt(const char *hash)
{
        static const char digits[] = "0123456789";
        static const char base64[] =
                "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        if (strlen(hash) != HASH_BYTES || hash[0] != '$' || hash[1] != '2' ||
            !strchr("aby", hash[2]) || hash[3] != '$' || !strchr(digits, hash[COST_AT]) ||
            !strchr(digits, hash[COST_AT + 1]) || hash[6] != '$')
                return false;
        return strspn(hash + 7, base64) == HASH_BYTES - 7 && cost_of(hash) >= COST_MIN &&
               cost_of(hash) <= COST_MAX;
}

static bool is_user(const char *user)
{
        size_t len = strlen(user);
        for (size_t i = 0; i < len; i++) {
                if ((unsigned char)user[i] < ' ' || user[i] == 0x7f)
                        return false;
        }
        return len > 0 && len <= USER_BYTES_MAX;
}

static int parse_line(struct table *t, char *text, size_t *room, struct cas_err *err)
{
        char *colon = strchr(text, ':');
        size_t len = strlen(text);
        if (len > 0 && text[len - 1] == '\r')
                text[len - 1] = '\0';
        if (text[0] == '\0' || text[0] == '#')
                return 0;
        if (!colon)
                return cas_fail(err, CAS_E_INVALID, "not USER:HASH");
        *colon = '\0';
        const struct line line = {.user = text, .hash = colon + 1};
        if (!is_user(line.user))
                return cas_fail(err, CAS_E_INVALID, "not a user's name");
        if (!is_bcrypt(line.hash))
                return cas_fail(err, CAS_E_INVALID,
                                "not a bcrypt hash of a cost of %d to %d (htpasswd -B)", COST_MIN,
                                COST_MAX);
        if (!t->nobody[0] || cost_of(line.hash) > cost_of(t->nobody))
                (void)snprintf(t->nobody, sizeof(t->nobody), "%.29s", line.hash);
        if (t->count == *room) {
                *room = *room ? *room * 2 : 16;
                t->lines = cas_xrealloc(t->lines, *room * sizeof(*t->lines));
        }
        t->lines[t->count++] = line;
        return 0;
}

static int compare_lines(const void *a, const void *b)
{
        return strcmp(((const struct line *)a)->user, ((const struct line *)b)->user);
}

/* Takes the text of the file. */
static int table_parse(char *text, struct table **out, struct cas_err *err)
{
        cleanup_table struct table *t = cas_xcalloc(1, sizeof(*t));
        size_t room = 0, number = 0;
        atomic_init(&t->refs, 1);
        t->text = text;
        for (char *line = text; line;) {
                char *end = strchr(line, '\n');
                if (end)
                        *end++ = '\0';
                number++;
                if (parse_line(t, line, &room, err) < 0)
                        return cas_err_wrap(err, "line %zu", number);
                line = end;
        }
        if (t->count > 0)
                qsort(t->lines, t->count, sizeof(*t->lines), compare_lines);
        for (size_t i = 1; i < t->count; i++) {
                if (compare_lines(&t->lines[i - 1], &t->lines[i]) == 0)
                        return cas_fail(err, CAS_E_INVALID, "there twice: %.64s", t->lines[i].user);
        }
        if (!t->nobody[0])
                (void)snprintf(t->nobody, sizeof(t->nobody), "$2y$10$%s", "abcdefghijklmnopqrstuu");
        *out = cas_steal(&t);
        return 0;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
        return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
               a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
               a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static void table_replace(struct reg_htpasswd *h, struct table *t)
{
        cas_mutex_lock(&h->mutex);
        struct table *former = h->table;
        h->table = t;
        cas_mutex_unlock(&h->mutex);
        atomic_fetch_add(&h->generation, 1);
        table_unref(former);
}

static int refresh_locked(struct reg_htpasswd *h, bool force, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        struct stat now;
        struct table *t = NULL;
        cas_assert_held(&h->reading);
        if (stat(h->path, &now) < 0)
                return cas_fail_sys(err, errno, "%s", h->path);
        if (!force && same_file(&now, &h->seen))
                return 0;
        h->seen = now; /* one that cannot be used is told once */
        if (cas_io_read_file(cas_io_posix(), AT_FDCWD, h->path, FILE_BYTES_MAX, &text, err) < 0)
                return cas_err_wrap(err, "%s", h->path);
        if (strlen(cas_buf_str(&text)) != text.len_bytes)
                return cas_fail(err, CAS_E_INVALID, "%s: not a text", h->path);
        if (table_parse(cas_xstrdup(cas_buf_str(&text)), &t, err) < 0)
                return cas_err_wrap(err, "%s", h->path);
        table_replace(h, t);
        return 0;
}

int reg_htpasswd_refresh(struct reg_htpasswd *h, bool force, struct cas_err *err)
{
        cas_mutex_lock(&h->reading);
        int rc = refresh_locked(h, force, err);
        cas_mutex_unlock(&h->reading);
        return rc;
}

int reg_htpasswd_open(const char *path, struct reg_htpasswd **out, struct cas_err *err)
{
        struct reg_htpasswd *h = cas_xcalloc(1, sizeof(*h));
        h->path = cas_xstrdup(path);
        cas_mutex_init(&h->reading, "registry.htpasswd.reading");
        cas_mutex_init(&h->mutex, "registry.htpasswd");
        int rc = reg_htpasswd_refresh(h, true, err);
        if (rc < 0) {
                reg_htpasswd_free(h);
                return rc;
        }
        *out = h;
        return 0;
}

void reg_htpasswd_free(struct reg_htpasswd *h)
{
        if (!h)
                return;
        table_unref(h->table);
        cas_mutex_release(&h->reading);
        cas_mutex_release(&h->mutex);
        free(h->path);
        free(h);
}

uint64_t reg_htpasswd_generation(const struct reg_htpasswd *h)
{
        return atomic_load(&h->generation);
}

static struct table *table_ref(struct reg_htpasswd *h)
{
        cas_mutex_lock(&h->mutex);
        struct table *t = h->table;
        atomic_fetch_add(&t->refs, 1);
        cas_mutex_unlock(&h->mutex);
        return t;
}

static const char *hash_of(const struct table *t, const char *user)
{
        const struct line key = {.user = user};
        const struct line *line =
                t->count ? bsearch(&key, t->lines, t->count, sizeof(*t->lines), compare_lines)
                         : NULL;
        return line ? line->hash : NULL;
}

bool reg_htpasswd_verify(struct reg_htpasswd *h, const char *user, const char *password)
{
        cleanup_table struct table *t = table_ref(h);
        const char *hash = hash_of(t, user);
        struct crypt_data *work = cas_xcalloc(1, sizeof(*work));
        const char *made = crypt_r(password, hash ? hash : t->nobody, work);
        bool good = hash && made && strlen(made) == HASH_BYTES &&
                    CRYPTO_memcmp(made, hash, HASH_BYTES) == 0;
        OPENSSL_cleanse(work, sizeof(*work));
        free(work);
        return good;
}

bool reg_htpasswd_stamp(struct reg_htpasswd *h, const char *user, struct cas_hash *out)
{
        cleanup_table struct table *t = table_ref(h);
        const char *hash = hash_of(t, user);
        if (hash)
                cas_sha256(hash, HASH_BYTES, out);
        return hash != NULL;
}
