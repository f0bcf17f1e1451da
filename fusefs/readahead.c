/* SPDX-License-Identifier: Apache-2.0 */
#include "fusefs/readahead_int.h"

#include "cas/mutex.h"

#define STREAMS_MAX 16
/* A block that begins so far behind the last one still belongs to its stream: records of other
 * kinds lie between blocks, and readers skip. */
#define STREAM_GAP_BYTES (128U << 10)

struct stream {
        uint64_t pack_id;
        uint64_t end;       /* of the block read last */
        uint64_t ahead_end; /* of what was fetched; at least `end` */
        uint64_t window_bytes;
        uint64_t used; /* clock; 0: free */
};

struct ffs_readahead {
        struct cas_mutex mutex; /* leaf; guards all below */
        uint64_t clock;
        struct stream streams[STREAMS_MAX];
};

struct ffs_readahead *ffs_readahead_new(void)
{
        struct ffs_readahead *r = cas_xcalloc(1, sizeof(*r));
        cas_mutex_init(&r->mutex, "readahead");
        return r;
}

void ffs_readahead_free(struct ffs_readahead *r)
{
        if (!r)
                return;
        cas_mutex_release(&r->mutex);
        free(r);
}

/* The stream that this block continues, or the one to replace. */
static struct stream *find_locked(struct ffs_readahead *r, uint64_t pack_id, uint64_t offset,
                                  bool *continues)
{
        cas_assert_held(&r->mutex);
        struct stream *oldest = &r->streams[0];
        for (size_t i = 0; i < STREAMS_MAX; i++) {
                struct stream *s = &r->streams[i];
                /* Threads come out of order: a block just before the end is of the stream too. */
                uint64_t back = cas_max_u64(s->window_bytes, STREAM_GAP_BYTES);
                if (s->used && s->pack_id == pack_id && offset + back >= s->end &&
                    offset <= cas_max_u64(s->end, s->ahead_end) + STREAM_GAP_BYTES) {
                        *continues = true;
                        return s;
                }
                if (s->used < oldest->used)
                        oldest = s;
        }
        *continues = false;
        return oldest;
}

static void grow_locked(struct stream *s, uint64_t end, struct ffs_readahead_advice *out)
{
        s->end = cas_max_u64(s->end, end);
        s->window_bytes =
                cas_min_u64(s->window_bytes ? s->window_bytes * 2 : FFS_READAHEAD_MIN_BYTES,
                            FFS_READAHEAD_MAX_BYTES);
        if (s->ahead_end < s->end)
                s->ahead_end = s->end;
        /* Asked for by halves of the window, so that requests stay large. */
        if (s->ahead_end - s->end >= s->window_bytes / 2)
                return;
        out->fetch_offset = s->ahead_end;
        out->fetch_bytes = s->end + s->window_bytes - s->ahead_end;
        s->ahead_end = s->end + s->window_bytes;
}

void ffs_readahead_note(struct ffs_readahead *r, uint64_t pack_id, uint64_t offset, uint64_t bytes,
                        struct ffs_readahead_advice *out)
{
        *out = (struct ffs_readahead_advice){0};
        bool continues;
        cas_mutex_lock(&r->mutex);
        struct stream *s = find_locked(r, pack_id, offset, &continues);
        if (continues) {
                grow_locked(s, offset + bytes, out);
        } else {
                if (s->used && s->ahead_end > s->end) {
                        out->drop_pack = s->pack_id;
                        out->drop_offset = s->end;
                        out->drop_bytes = s->ahead_end - s->end;
                }
                *s = (struct stream){
                        .pack_id = pack_id, .end = offset + bytes, .ahead_end = offset + bytes};
        }
        s->used = ++r->clock;
        cas_mutex_unlock(&r->mutex);
}
