/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/fill_int.h"

#include <pthread.h>
#include <stdatomic.h>

#include "cas/mutex.h"

#define LOOKUPS_MAX 64
#define FIRST_BYTES UINT64_C(1048576)       /* asked for before a look-up is answered */
#define WHOLE_BYTES (UINT64_C(4) * 1048576) /* objects up to this are asked for to the end */
/* In front of who reads from front to back. It doubles: the kernel asks again only where it ends,
 * and has put pages of its own there by then, at the reader's expense. */
#define AHEAD_FIRST_BYTES (UINT64_C(2) * 1048576)
#define AHEAD_MAX_BYTES (UINT64_C(16) * 1048576)
#define JITTER_BYTES (UINT64_C(2) * 1048576) /* requests of one read-ahead come in any order */
#define STREAMS 32

/* A look-up that waits for its object to be prepared. */
struct lookup {
        bool used;
        fuse_req_t req;
        uint64_t node;
        struct cas_hash object;
        uint64_t size_bytes;
};

/* Somebody who reads an object from front to back. */
struct stream {
        uint64_t node; /* 0: free */
        uint64_t next; /* the end of what was read or asked for */
        uint64_t ahead_bytes;
        uint64_t used; /* turn of its last use */
};

struct ffs_fill {
        void (*answer)(void *arg, fuse_req_t req, uint64_t node, const struct cas_hash *object,
                       uint64_t size_bytes);
        void *arg;
        struct ffs_opener *_Atomic opener;
        struct cas_mutex mutex; /* guards what follows; leaf */
        struct lookup lookups[LOOKUPS_MAX];
        struct stream streams[STREAMS];
        uint64_t turn;
};

struct ffs_fill *ffs_fill_new(void (*answer)(void *arg, fuse_req_t req, uint64_t node,
                                             const struct cas_hash *object, uint64_t size_bytes),
                              void *arg)
{
        struct ffs_fill *f = cas_xcalloc(1, sizeof(*f));
        f->answer = answer;
        f->arg = arg;
        cas_mutex_init(&f->mutex, "fill");
        return f;
}

void ffs_fill_set_opener(struct ffs_fill *f, struct ffs_opener *opener)
{
        atomic_store(&f->opener, opener);
}

/* ---- streams ---- */

static struct stream *stream_find_locked(struct ffs_fill *f, uint64_t node, uint64_t offset)
{
        cas_assert_held(&f->mutex);
        for (size_t i = 0; i < STREAMS; i++) {
                struct stream *s = &f->streams[i];
                if (s->node == node && offset + JITTER_BYTES >= s->next &&
                    offset <= s->next + JITTER_BYTES)
                        return s;
        }
        return NULL;
}

static void stream_begin_locked(struct ffs_fill *f, uint64_t node, uint64_t end)
{
        cas_assert_held(&f->mutex);
        struct stream *oldest = &f->streams[0];
        for (size_t i = 1; i < STREAMS; i++) {
                if (f->streams[i].used < oldest->used)
                        oldest = &f->streams[i];
        }
        *oldest = (struct stream){
                .node = node, .next = end, .ahead_bytes = AHEAD_FIRST_BYTES, .used = ++f->turn};
}

/* What is to be asked for now that [offset, end) is read: *to > end, or nothing. One read says
 * nothing: it begins a stream, and those that go on from there prove it. */
static bool plan_ahead(struct ffs_fill *f, uint64_t node, uint64_t size_bytes, uint64_t offset,
                       uint64_t end, uint64_t *to)
{
        bool goes_on = false;
        cas_mutex_lock(&f->mutex);
        struct stream *s = stream_find_locked(f, node, offset);
        if (!s) {
                stream_begin_locked(f, node, end);
        } else if (end >= s->next && end < size_bytes) {
                *to = cas_min_u64(end + s->ahead_bytes, size_bytes);
                s->next = *to;
                s->ahead_bytes = cas_min_u64(s->ahead_bytes * 2, AHEAD_MAX_BYTES);
                s->used = ++f->turn;
                goes_on = true;
        }
        cas_mutex_unlock(&f->mutex);
        return goes_on;
}

void ffs_fill_read(struct ffs_fill *f, uint64_t node, const struct cas_hash *object,
                   uint64_t size_bytes, uint64_t offset, uint64_t len)
{
        uint64_t to;
        struct ffs_opener *opener = atomic_load(&f->opener);
        if (opener && size_bytes > WHOLE_BYTES &&
            plan_ahead(f, node, size_bytes, offset, offset + len, &to))
                ffs_opener_read_ahead(opener, object, offset + len, to);
}

/* ---- look-ups ---- */

/* A place for it, which is its tag; LOOKUPS_MAX when there is none. */
static uint64_t lookup_add(struct ffs_fill *f, const struct lookup *lookup)
{
        uint64_t tag = 0;
        cas_mutex_lock(&f->mutex);
        while (tag < LOOKUPS_MAX && f->lookups[tag].used)
                tag++;
        if (tag < LOOKUPS_MAX)
                f->lookups[tag] = *lookup;
        /* A read where this ends comes from the beginning. */
        if (tag < LOOKUPS_MAX && lookup->size_bytes > WHOLE_BYTES)
                stream_begin_locked(f, lookup->node, FIRST_BYTES);
        cas_mutex_unlock(&f->mutex);
        return tag;
}

static struct lookup lookup_take(struct ffs_fill *f, uint64_t tag)
{
        cas_assert(tag < LOOKUPS_MAX);
        cas_mutex_lock(&f->mutex);
        struct lookup lookup = f->lookups[tag];
        f->lookups[tag].used = false;
        cas_mutex_unlock(&f->mutex);
        return lookup;
}

void ffs_fill_done(void *arg, uint64_t tag)
{
        struct ffs_fill *f = arg;
        struct lookup lookup = lookup_take(f, tag);
        cas_assert(lookup.used);
        f->answer(f->arg, lookup.req, lookup.node, &lookup.object, lookup.size_bytes);
}

bool ffs_fill_lookup(struct ffs_fill *f, fuse_req_t req, uint64_t node,
                     const struct cas_hash *object, uint64_t size_bytes)
{
        struct ffs_opener *opener = atomic_load(&f->opener);
        const struct lookup lookup = {.used = true,
                                      .req = req,
                                      .node = node,
                                      .object = *object,
                                      .size_bytes = size_bytes};
        uint64_t tag = opener ? lookup_add(f, &lookup) : LOOKUPS_MAX;
        if (tag == LOOKUPS_MAX)
                return false;
        uint64_t bytes = size_bytes <= WHOLE_BYTES ? size_bytes : FIRST_BYTES;
        if (ffs_opener_prepare(opener, object, bytes, tag))
                return true;
        (void)lookup_take(f, tag);
        return false;
}
