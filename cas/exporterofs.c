/* SPDX-License-Identifier: Apache-2.0 */
/* Export of an image as a disk: a whole EROFS file system with data, mountable
 * by a kernel alone (spec/disk.md).
 *
 *   block 0       super block
 *   from 1 on     the content of files, each distinct one once, by the plan's order
 *   then          metadata
 *
 * The data goes first, in one pass over the objects, because only then it is
 * known which parts are holes; memory is bounded by the metadata. Nothing
 * depends on where the store keeps the objects, so that an image gives the same
 * bytes from any store. */
#include "cas/erofs_image_int.h"
#include "cas/map.h"
#include "cas/object.h"
#include "cas/outfile_int.h"
#include "cas/progress.h"
#include "cas/transfer.h"

#define WINDOW_BYTES ((size_t)1 << 20)
/* What is told of holes: aligned runs of zeros of this many blocks, or of more where the file's
 * map would have too many entries. */
#define CHUNK_BITS_MIN 4
#define CHUNKS_MAX 65536u

struct disk {
        struct cas_store *s;
        const struct cas_merge *merge;
        struct cas_plan plan;
        struct cas_erofs_disk image;
        uint32_t content_alloc;
        uint64_t map_alloc;
        struct cas_outfile out;
        uint64_t next_block; /* where the data goes on */
        const struct cas_progress *progress;
        uint64_t done_bytes, total_bytes;
};

static void disk_release(struct disk *d)
{
        cas_plan_release(&d->plan);
        free(d->image.contents);
        free(d->image.content_of);
        free(d->image.maps);
}

/* ---- which contents there are ---- */

static uint8_t chunk_bits_for(uint64_t size_bytes)
{
        uint8_t bits = CHUNK_BITS_MIN;
        while ((size_bytes - 1) >> (EROFS_BLOCK_BITS + bits) >= CHUNKS_MAX)
                bits++;
        return bits;
}

static int content_add(struct disk *d, const struct cas_hash *object, uint64_t size_bytes,
                       struct cas_err *err)
{
        struct cas_erofs_disk *image = &d->image;
        if (image->content_count == d->content_alloc) {
                uint32_t alloc = d->content_alloc ? d->content_alloc * 2 : 1024;
                void *contents = realloc(image->contents, alloc * sizeof(image->contents[0]));
                if (!contents)
                        return cas_fail(err, CAS_E_NOMEM, "no memory to list files");
                image->contents = contents;
                d->content_alloc = alloc;
        }
        uint8_t bits = chunk_bits_for(size_bytes);
        image->contents[image->content_count++] = (struct cas_erofs_content){
                .object = *object,
                .size_bytes = size_bytes,
                .chunk_bits = bits,
                .chunk_count = (uint32_t)((size_bytes - 1) >> (EROFS_BLOCK_BITS + bits)) + 1};
        d->total_bytes += size_bytes;
        return 0;
}

/* Gives each large file of the plan its content; equal ones have the same. */
static int list_contents(struct disk *d, struct cas_err *err)
{
        cas_cleanup_map struct cas_map *seen = cas_map_new();
        d->image.content_of = calloc(d->plan.inode_count, sizeof(d->image.content_of[0]));
        if (!d->image.content_of)
                return cas_fail(err, CAS_E_NOMEM, "no memory to list files");
        for (uint32_t i = 0; i < d->plan.inode_count; i++) {
                const struct cas_merge_inode *inode =
                        cas_merge_inode(d->merge, d->plan.inodes[i].inode);
                if (inode->type != CAS_ENTRY_FILE || inode->size_bytes <= CAS_INLINE_BYTES_MAX)
                        continue;
                struct cas_hash object;
                bool inserted;
                memcpy(object.bytes, inode->payload, CAS_HASH_BYTES);
                uint64_t *at = cas_map_put(seen, object.bytes, CAS_HASH_BYTES, &inserted);
                if (inserted) {
                        *at = d->image.content_count;
                        if (content_add(d, &object, inode->size_bytes, err) < 0)
                                return -(int)err->code;
                }
                d->image.content_of[i] = (uint32_t)*at;
                if (d->image.contents[*at].size_bytes != inode->size_bytes)
                        return cas_fail(err, CAS_E_CORRUPT, "one file object of two sizes");
        }
        return 0;
}

/* ---- data ---- */

/* One content on its way to the disk. */
struct stream {
        struct disk *d;
        struct cas_erofs_content *c;
        uint8_t *window; /* WINDOW_BYTES; begins at a block */
        size_t filled;
        uint64_t seen_bytes;  /* in earlier windows */
        uint32_t chunk_first; /* block at which the chunk begins */
        bool chunk_data;      /* something of the chunk is not zero */
};

static bool is_zero(const uint8_t *data, size_t len)
{
        return data[0] == 0 && memcmp(data, data + 1, len - 1) == 0;
}

static int map_add(struct disk *d, uint32_t block, struct cas_err *err)
{
        struct cas_erofs_disk *image = &d->image;
        if (image->map_count == d->map_alloc) {
                uint64_t alloc = d->map_alloc ? d->map_alloc * 2 : 1024;
                void *maps = realloc(image->maps, alloc * sizeof(image->maps[0]));
                if (!maps)
                        return cas_fail(err, CAS_E_NOMEM, "no memory for the holes of files");
                image->maps = maps;
                d->map_alloc = alloc;
        }
        image->maps[image->map_count++] = block;
        return 0;
}

/* A chunk of zeros takes no blocks: what follows takes its place. */
static int chunk_end(struct stream *st, struct cas_err *err)
{
        struct disk *d = st->d;
        uint32_t block = st->chunk_first;
        if (!st->chunk_data) {
                d->next_block = block;
                block = EROFS_NULL_BLOCK;
                st->c->holes = true;
        }
        st->chunk_first = (uint32_t)d->next_block;
        st->chunk_data = false;
        return map_add(d, block, err);
}

/* Part of one chunk. Zeros are left out: they read as such where the file has nothing. */
static int part_write(struct stream *st, const uint8_t *data, size_t len, struct cas_err *err)
{
        struct disk *d = st->d;
        uint64_t blocks = (len + EROFS_BLOCK_BYTES - 1) / EROFS_BLOCK_BYTES;
        if (d->next_block + blocks >= EROFS_NULL_BLOCK)
                return cas_fail(err, CAS_E_LIMIT, "a disk of more than 16 TiB");
        if (!is_zero(data, len)) {
                st->chunk_data = true;
                if (cas_outfile_write_at(&d->out, data, len, d->next_block * EROFS_BLOCK_BYTES,
                                         err) < 0)
                        return -(int)err->code;
        }
        d->next_block += blocks;
        return 0;
}

/* The window is full, or the content ends in it. */
static int window_write(struct stream *st, struct cas_err *err)
{
        uint64_t chunk_bytes = (uint64_t)EROFS_BLOCK_BYTES << st->c->chunk_bits;
        for (size_t at = 0; at < st->filled;) {
                uint64_t offset = st->seen_bytes + at;
                size_t len =
                        (size_t)cas_min_u64(st->filled - at, chunk_bytes - offset % chunk_bytes);
                int r = part_write(st, st->window + at, len, err);
                at += len;
                offset += len;
                if (r == 0 && (offset % chunk_bytes == 0 || offset == st->c->size_bytes))
                        r = chunk_end(st, err);
                if (r < 0)
                        return r;
        }
        struct disk *d = st->d;
        d->done_bytes += st->filled;
        cas_progress_update(d->progress, "export", d->done_bytes, d->total_bytes);
        st->seen_bytes += st->filled;
        st->filled = 0;
        return 0;
}

static int stream_put(void *arg, const void *data, size_t len, struct cas_err *err)
{
        struct stream *st = arg;
        const uint8_t *from = data;
        if (len > st->c->size_bytes - st->seen_bytes - st->filled)
                return cas_fail(err, CAS_E_CORRUPT, "a file object is longer than its file");
        while (len > 0) {
                size_t n = (size_t)cas_min_u64(len, WINDOW_BYTES - st->filled);
                memcpy(st->window + st->filled, from, n);
                st->filled += n;
                from += n;
                len -= n;
                if (st->filled == WINDOW_BYTES && window_write(st, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

static int content_write(struct disk *d, struct cas_erofs_content *c, uint8_t *window,
                         struct cas_err *err)
{
        struct stream st = {
                .d = d, .c = c, .window = window, .chunk_first = (uint32_t)d->next_block};
        c->block = (uint32_t)d->next_block;
        c->map = d->image.map_count;
        if (cas_object_each(d->s, &c->object, stream_put, &st, err) < 0 ||
            window_write(&st, err) < 0)
                return -(int)err->code;
        if (st.seen_bytes != c->size_bytes)
                return cas_fail(err, CAS_E_CORRUPT, "a file object is shorter than its file");
        if (!c->holes)
                d->image.map_count = c->map; /* its blocks follow each other */
        return 0;
}

static int write_contents(struct disk *d, struct cas_err *err)
{
        cas_cleanup_free uint8_t *window = cas_xmalloc(WINDOW_BYTES);
        d->next_block = 1;
        for (uint32_t i = 0; i < d->image.content_count; i++)
                if (content_write(d, &d->image.contents[i], window, err) < 0)
                        return -(int)err->code;
        return 0;
}

/* ---- the whole ---- */

static int write_metadata(struct disk *d, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf meta = CAS_BUF_INIT;
        uint8_t super[EROFS_BLOCK_BYTES];
        d->image.meta_block = (uint32_t)d->next_block;
        int r = cas_erofs_write_disk(d->merge, &d->plan, &d->image, &meta, super, err);
        if (r == 0)
                r = cas_outfile_write_at(&d->out, meta.data, meta.len_bytes,
                                         d->next_block * EROFS_BLOCK_BYTES, err);
        return r == 0 ? cas_outfile_write_at(&d->out, super, sizeof(super), 0, err) : r;
}

static int merge_layers(struct cas_store *s, const struct cas_image *image, struct cas_merge *m,
                        struct cas_err *err)
{
        for (size_t i = 0; i < image->manifest.child_count; i++) {
                char text[CAS_DIGEST_TEXT_BYTES];
                cas_cleanup_listing struct cas_listing listing = {0};
                if (cas_layer_listing(s, &image->layers[i], &listing, err) < 0 ||
                    cas_merge_apply(m, &listing, err) < 0)
                        return cas_err_wrap(err, "layer %s",
                                            cas_digest_text(&image->layers[i].blob, text));
        }
        return 0;
}

static int disk_write(struct disk *d, const char *path, struct cas_err *err)
{
        if (cas_outfile_open(&d->out, path, err) < 0)
                return -(int)err->code;
        int r = 0;
        if (!d->out.temporary)
                r = cas_fail(err, CAS_E_INVALID, "%s is there and is not a regular file", path);
        if (r == 0)
                r = write_contents(d, err);
        if (r == 0)
                r = write_metadata(d, err);
        return cas_outfile_close(&d->out, r, err);
}

int cas_export_erofs(struct cas_store *s, const struct cas_image *image, const char *path,
                     const struct cas_progress *progress, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *keep = NULL;
        cas_cleanup_merge struct cas_merge *m = cas_merge_new();
        __attribute__((cleanup(disk_release))) struct disk d = {
                .s = s, .merge = m, .progress = progress};
        int r = cas_publish_begin(s, &keep, err);
        if (r == 0)
                r = cas_image_keep(keep, image, err);
        if (r == 0)
                r = merge_layers(s, image, m, err);
        if (r == 0)
                r = cas_plan_make(m, false, &d.plan, err);
        if (r == 0)
                r = list_contents(&d, err);
        if (r == 0)
                r = disk_write(&d, path, err);
        return r < 0 ? cas_err_wrap(err, "export to %s", path) : 0;
}
