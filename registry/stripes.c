/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/stripes.h"

#include "cas/mutex.h"

#define STREAMS_MAX 16

/* One thread brings stripe after stripe, each when the one that it had before is read. */
struct stripe {
        struct reg_stripes *of;
        pthread_t thread;
        bool started;
        uint8_t *data; /* owned */
        /* guarded by of->mutex */
        uint64_t index;    /* of the stripe that it has, or brings */
        size_t have_bytes; /* the thread appends, the reader takes what is there */
        int rc;
        struct cas_err err;
};

struct reg_stripes {
        struct reg_remote *r; /* borrowed */
        char *repo;           /* owned */
        struct cas_digest digest;
        uint64_t begin, at, size;
        struct reg_remote_blob *single; /* owned; NULL: in stripes */
        struct stripe stripes[STREAMS_MAX];
        unsigned count;

        struct cas_mutex mutex;
        pthread_cond_t changed;
        uint64_t reading; /* index of the stripe that is read */
        bool stop;
};

static size_t stripe_bytes(const struct reg_stripes *s, uint64_t index)
{
        uint64_t from = s->begin + index * REG_STRIPE_BYTES;
        return from >= s->size ? 0 : cas_min_u64(REG_STRIPE_BYTES, s->size - from);
}

static int bring(struct stripe *st, uint64_t index, struct cas_err *err)
{
        struct reg_stripes *s = st->of;
        reg_cleanup_remote_blob struct reg_remote_blob *b = NULL;
        uint64_t total;
        size_t want = stripe_bytes(s, index);
        if (reg_remote_blob_open_range(s->r, s->repo, &s->digest,
                                       s->begin + index * REG_STRIPE_BYTES, want, &b, &total, NULL,
                                       NULL, err) < 0)
                return -(int)err->code;
        if (total != UINT64_MAX && total != s->size)
                return cas_fail(err, CAS_E_CORRUPT, "a blob of %llu bytes, where %llu are said",
                                (unsigned long long)total, (unsigned long long)s->size);
        for (size_t have = 0, n; have < want; have += n) {
                if (reg_remote_blob_read(b, st->data + have, want - have, &n, err) < 0)
                        return -(int)err->code;
                if (n == 0)
                        return cas_fail(err, CAS_E_CORRUPT, "a blob ends early");
                cas_mutex_lock(&s->mutex);
                st->have_bytes = have + n;
                bool stop = s->stop;
                (void)pthread_cond_broadcast(&s->changed);
                cas_mutex_unlock(&s->mutex);
                if (stop)
                        return 0;
        }
        return 0;
}

static void *stripe_thread(void *arg)
{
        struct stripe *st = arg;
        struct reg_stripes *s = st->of;
        cas_mutex_lock(&s->mutex);
        while (!s->stop && st->rc == 0 && stripe_bytes(s, st->index) > 0) {
                uint64_t index = st->index;
                struct cas_err err = CAS_ERR_INIT;
                cas_mutex_unlock(&s->mutex);
                int rc = bring(st, index, &err);
                cas_mutex_lock(&s->mutex);
                st->rc = rc;
                st->err = err;
                (void)pthread_cond_broadcast(&s->changed);
                while (!s->stop && rc == 0 && s->reading <= index)
                        cas_mutex_wait(&s->mutex, &s->changed);
                st->index = index + s->count;
                st->have_bytes = 0;
                (void)pthread_cond_broadcast(&s->changed);
        }
        cas_mutex_unlock(&s->mutex);
        return NULL;
}

static int start(struct reg_stripes *s, unsigned streams, struct cas_err *err)
{
        s->count = streams < STREAMS_MAX ? streams : STREAMS_MAX;
        for (unsigned i = 0; i < s->count; i++) {
                s->stripes[i] =
                        (struct stripe){.of = s, .index = i, .data = cas_xmalloc(REG_STRIPE_BYTES)};
        }
        for (unsigned i = 0; i < s->count; i++) {
                struct stripe *st = &s->stripes[i];
                int rc = pthread_create(&st->thread, NULL, stripe_thread, st);
                if (rc)
                        return cas_fail_sys(err, rc, "start a thread");
                st->started = true;
        }
        return 0;
}

int reg_stripes_open(struct reg_remote *r, const char *repo, const struct cas_digest *digest,
                     uint64_t offset, uint64_t size, unsigned streams, struct reg_stripes **out,
                     struct cas_err *err)
{
        cas_assert(offset <= size);
        reg_cleanup_stripes struct reg_stripes *s = cas_xcalloc(1, sizeof(*s));
        s->r = r;
        s->repo = cas_xstrdup(repo);
        s->digest = *digest;
        s->begin = s->at = offset;
        s->size = size;
        cas_mutex_init(&s->mutex, "stripes");
        cas_cond_init(&s->changed);
        bool ranges = false;
        uint64_t total = UINT64_MAX;
        if (streams > 1 && size - offset >= REG_STRIPES_BLOB_BYTES_MIN) {
                reg_cleanup_remote_blob struct reg_remote_blob *probe = NULL;
                struct cas_err why = CAS_ERR_INIT;
                int rc = reg_remote_blob_open_range(r, repo, digest, offset, 1, &probe, &total,
                                                    &ranges, NULL, &why);
                if (rc < 0 && rc != -CAS_E_UNSUPPORTED && rc != -CAS_E_INVALID) {
                        *err = why;
                        return rc;
                }
                ranges = ranges && rc == 0;
        }
        int rc = ranges ? start(s, streams, err)
                        : reg_remote_blob_open(r, repo, digest, offset, &s->single, &total, NULL,
                                               err);
        if (rc < 0)
                return rc;
        if (total != UINT64_MAX && total != size)
                return cas_fail(err, CAS_E_CORRUPT, "a blob of %llu bytes, where %llu are said",
                                (unsigned long long)total, (unsigned long long)size);
        *out = cas_steal(&s);
        return 0;
}

static int read_stripe(struct reg_stripes *s, void *buf, size_t len, size_t *out_len,
                       struct cas_err *err)
{
        uint64_t index = (s->at - s->begin) / REG_STRIPE_BYTES;
        size_t in = (s->at - s->begin) % REG_STRIPE_BYTES;
        struct stripe *st = &s->stripes[index % s->count];
        cas_mutex_lock(&s->mutex);
        while (st->rc == 0 && (st->index != index || st->have_bytes <= in))
                cas_mutex_wait(&s->mutex, &s->changed);
        bool there = st->index == index && st->have_bytes > in;
        size_t n = there ? cas_min_u64(len, st->have_bytes - in) : 0;
        if (!there)
                *err = st->err;
        cas_mutex_unlock(&s->mutex);
        if (!there)
                return -(int)err->code;
        memcpy(buf, st->data + in, n); /* nobody writes what is there */
        s->at += n;
        *out_len = n;
        if (in + n == stripe_bytes(s, index)) {
                cas_mutex_lock(&s->mutex);
                s->reading = index + 1;
                (void)pthread_cond_broadcast(&s->changed);
                cas_mutex_unlock(&s->mutex);
        }
        return 0;
}

int reg_stripes_read(void *stripes, void *buf, size_t len, size_t *out_len, struct cas_err *err)
{
        struct reg_stripes *s = stripes;
        if (!s->single && s->at < s->size)
                return read_stripe(s, buf, len, out_len, err);
        *out_len = 0;
        if (!s->single)
                return 0;
        if (reg_remote_blob_read(s->single, buf, len, out_len, err) < 0)
                return -(int)err->code;
        s->at += *out_len;
        if (s->at > s->size || (*out_len == 0 && s->at < s->size))
                return cas_fail(err, CAS_E_CORRUPT, "a blob of another length than is said");
        return 0;
}

void reg_stripes_close(struct reg_stripes *s)
{
        if (!s)
                return;
        cas_mutex_lock(&s->mutex);
        s->stop = true;
        (void)pthread_cond_broadcast(&s->changed);
        cas_mutex_unlock(&s->mutex);
        for (unsigned i = 0; i < s->count; i++) {
                if (s->stripes[i].started)
                        (void)pthread_join(s->stripes[i].thread, NULL);
                free(s->stripes[i].data);
        }
        reg_remote_blob_close(s->single);
        (void)pthread_cond_destroy(&s->changed);
        cas_mutex_release(&s->mutex);
        free(s->repo);
        free(s);
}
