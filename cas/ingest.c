/* SPDX-License-Identifier: Apache-2.0 */
/* File objects of one publication on their way into packs.
 *
 * The caller's thread copies bytes into batches; a worker thread, started with
 * the first object, names, cuts and compresses them. A batch has its bytes and
 * a list of what happens to them. There are BATCHES of them, so memory is
 * bounded and the caller waits when the worker is behind.
 *
 * The worker alone touches the fields marked so; while the queue is empty and
 * the worker waits (after a drain), the caller's thread may use them as well.
 * After the first error the worker drops what comes, and every call reports it.
 *
 * When a publication has many new chunks their records go to the index before
 * it ends (`checkpoint`): they are unreachable until it commits, and garbage if
 * it does not, which is why they are condemned; so memory does not grow with the size of an image.
 */
#include <time.h>

#include "cas/chunker.h"
#include "cas/condemned_int.h"
#include "cas/kept_int.h"
#include "cas/mend_int.h"
#include "cas/packwriter_int.h"
#include "cas/pins_int.h"
#include "cas/prefixset.h"
#include "cas/refs_int.h"
#include "cas/verity.h"

#define BATCHES 3
#define BATCH_BYTES (1 * CAS_MIB)
#define BATCH_OPS 4096
#define WINDOW_BYTES (2 * CAS_CHUNKER_BYTES_MAX)
/* New chunks and objects kept in memory before a checkpoint. */
#define CHECKPOINT_ENTRIES 16384
#define CHECKPOINT_REFS 65536
/* Names remembered as already in this publication; the memory is let go at this many. */
#define SEEN_MAX 16384

enum op_kind { OP_BEGIN, OP_BEGIN_NAMED, OP_DATA, OP_END, OP_LAYER, OP_RECIPE };
struct op {
        enum op_kind kind;
        uint32_t length_bytes; /* DATA: that many of the batch's bytes */
        union {
                struct cas_hash *id_slot;         /* BEGIN */
                struct cas_hash *name;            /* BEGIN_NAMED, owned */
                struct cas_layer_record *layer;   /* LAYER, owned */
                struct cas_recipe_record *recipe; /* RECIPE, owned */
        };
};

struct batch {
        struct batch *next;
        uint32_t len_bytes;
        uint32_t op_count;
        struct op ops[BATCH_OPS];
        uint8_t bytes[BATCH_BYTES];
};

struct new_object {
        struct cas_hash id;
        uint64_t size_bytes;
        struct cas_chunk_ref *refs; /* owned; NULL unless there are several */
        uint32_t chunk_count;
        uint32_t replaced_count; /* chunks of the list that this one replaces */
};

struct cas_ingest {
        struct cas_packset *ps;
        struct cas_pins *pins;           /* borrowed; NULL: nobody collects */
        const struct cas_hashset *mends; /* borrowed; NULL: nothing is damaged that is known of */

        /* caller's thread */
        struct batch *filling;
        unsigned batch_count; /* made so far */
        bool object_open;
        uint64_t object_bytes;
        pthread_t thread;
        bool started;

        struct cas_mutex queue; /* a leaf; guards: */
        pthread_cond_t work;    /* full batches, or stopping */
        pthread_cond_t change;  /* a batch became free, or all are done */
        struct batch *full, **full_end;
        struct batch *free_list;
        bool busy; /* the worker has a batch in hand */
        bool stopping;
        struct cas_err err; /* first error of the worker */

        /* worker */
        struct cas_packwriter writer;
        struct cas_verity *verity;
        struct cas_map *seen;     /* names of chunks and objects that need nothing more */
        struct cas_hash *id_slot; /* NULL: no object is open */
        bool is_named;            /* the open object must have this digest: */
        struct cas_hash name, found;
        uint64_t size_bytes;        /* of the open object, so far */
        struct cas_chunk_ref *refs; /* its chunks, when it is cut */
        uint32_t ref_count, ref_max;
        uint32_t window_bytes;
        uint8_t *window; /* bytes that wait for the next cut */
        struct new_object *objects;
        size_t object_count, object_max;
        size_t listed_ref_count; /* in objects */
        bool cut_is_new;         /* a chunk of the open object was not in the index */
        struct cas_hash
                *orphans; /* new chunks, maybe, of objects that the store has in other pieces */
        size_t orphan_count, orphan_max;
        bool replaces; /* an object of kept frames is among what is not published yet */

        struct { /* the open object of kept frames; caller's thread, while the worker waits */
                struct cas_hash id;
                uint32_t frame_count;
                uint64_t size_bytes;
        } kept;
};

/* ---- worker: chunks and objects ---- */

static bool seen_before(struct cas_ingest *in, const struct cas_hash *name)
{
        return cas_map_get(in->seen, name->bytes, CAS_HASH_BYTES) != NULL;
}

static void note_seen(struct cas_ingest *in, const struct cas_hash *name)
{
        if (cas_map_count(in->seen) >= SEEN_MAX) {
                cas_map_free(in->seen);
                in->seen = cas_map_new();
        }
        (void)cas_map_put(in->seen, name->bytes, CAS_HASH_BYTES, NULL);
}

/* Whether what the index has of that name is damaged. */
static bool is_mended(const struct cas_ingest *in, const struct cas_hash *name)
{
        return in->mends && cas_hashset_has(in->mends, name->bytes);
}

static void pin_chunk(struct cas_ingest *in, const struct cas_hash *name)
{
        if (in->pins)
                cas_pin_chunk(in->pins, name);
}

static void pin_object(struct cas_ingest *in, const struct cas_hash *id)
{
        if (in->pins)
                cas_pin_object(in->pins, id);
}

/* Makes sure that the chunk is, or will be, in a pack and in the index. It is pinned first, so that
 * what is found stays. Pending ones are looked up before the others: what leaves that map is in the
 * index by then, or was given up. */
static int store_chunk(struct cas_ingest *in, const struct cas_packwriter_chunk *chunk,
                       struct cas_err *err)
{
        if (seen_before(in, &chunk->name))
                return 0;
        note_seen(in, &chunk->name);
        pin_chunk(in, &chunk->name);
        if (cas_packwriter_claim(&in->writer, &chunk->name)) {
                in->cut_is_new = true;
                return 0;
        }
        struct cas_chunk_record rec;
        struct cas_err reason = CAS_ERR_INIT;
        if (is_mended(in, &chunk->name))
                return cas_packwriter_add(&in->writer, chunk, err);
        int rc = cas_index_get_chunk(in->ps->index, &chunk->name, &rec, &reason);
        if (rc == -CAS_E_NOTFOUND) {
                in->cut_is_new = true;
                return cas_packwriter_add(&in->writer, chunk, err);
        }
        if (rc < 0)
                *err = reason;
        return rc;
}

/* Pins it as well: what is there stays. */
static int object_is_indexed(struct cas_ingest *in, const struct cas_hash *id, bool *out,
                             struct cas_err *err)
{
        struct cas_object_record rec;
        struct cas_err reason = CAS_ERR_INIT;
        pin_object(in, id);
        *out = false;
        if (is_mended(in, id))
                return 0;
        int rc = cas_index_get_object(in->ps->index, id, &rec, &reason);
        *out = rc == 0;
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = reason;
                return rc;
        }
        return 0;
}

/* Takes refs over when it is not NULL. */
static void add_object(struct cas_ingest *in, const struct new_object *object)
{
        if (in->object_count == in->object_max) {
                in->object_max = in->object_max ? in->object_max * 2 : 256;
                in->objects = cas_xrealloc(in->objects, in->object_max * sizeof(in->objects[0]));
        }
        in->objects[in->object_count++] = *object;
        if (object->refs)
                in->listed_ref_count += object->chunk_count;
}

static void drop_objects(struct cas_ingest *in)
{
        for (size_t i = 0; i < in->object_count; i++)
                free(in->objects[i].refs);
        in->object_count = 0;
        in->listed_ref_count = 0;
        in->orphan_count = 0;
}

/* The open object is complete. */
static void name_object(struct cas_ingest *in, struct cas_hash *id)
{
        cas_verity_final(in->verity, id);
        *in->id_slot = *id;
        in->id_slot = NULL;
}

/* An object of no or one chunk, whole in memory. */
static int end_small(struct cas_ingest *in, const void *data, uint32_t len, struct cas_err *err)
{
        struct cas_hash id;
        bool indexed;
        name_object(in, &id);
        if (seen_before(in, &id))
                return 0;
        int rc = object_is_indexed(in, &id, &indexed, err);
        if (rc < 0)
                return rc;
        if (indexed) {
                note_seen(in, &id);
                return 0;
        }
        if (len == 0) {
                note_seen(in, &id);
                rc = cas_packwriter_object(&in->writer, &id, 0, NULL, 0, false, err);
        } else {
                rc = store_chunk(in,
                                 &(struct cas_packwriter_chunk){.name = id,
                                                                .data = data,
                                                                .length_bytes = len,
                                                                .is_object = true,
                                                                .shared = true},
                                 err);
        }
        if (rc == 0)
                add_object(in, &(struct new_object){.id = id,
                                                    .size_bytes = len,
                                                    .chunk_count = len > 0 ? 1 : 0});
        return rc;
}

/* The open object is in the store as other chunks (cas/kept_int.h): these are nobody's. */
static void leave_orphans(struct cas_ingest *in)
{
        if (!in->cut_is_new)
                return;
        if (in->orphan_max - in->orphan_count < in->ref_count) {
                in->orphan_max = 2 * in->orphan_max + in->ref_count;
                in->orphans = cas_xrealloc(in->orphans, in->orphan_max * sizeof(in->orphans[0]));
        }
        for (uint32_t i = 0; i < in->ref_count; i++)
                in->orphans[in->orphan_count++] = in->refs[i].chunk;
}

/* Whether all that the list of an object names is there. It may be another list than the one that
 * was just cut (cas/kept_int.h), so that chunks of it may have been lost that came not again. */
static int list_is_whole(struct cas_ingest *in, const struct cas_hash *id, bool *out,
                         struct cas_err *err)
{
        struct cas_chunk_ref refs[256];
        uint32_t first = 0, count;
        *out = true;
        do {
                int rc = cas_index_get_object_chunks(in->ps->index, id, first, refs,
                                                     CAS_COUNT(refs), &count, err);
                if (rc < 0)
                        return rc;
                bool same = count <= in->ref_count - cas_min_u64(first, in->ref_count) &&
                            memcmp(refs, in->refs + first, count * sizeof(refs[0])) == 0;
                for (uint32_t i = 0; rc == 0 && !same && *out && i < count; i++)
                        rc = cas_index_has(in->ps->index, CAS_FAMILY_CHUNKS, refs[i].chunk.bytes,
                                           CAS_HASH_BYTES, out, err);
                if (rc < 0)
                        return rc;
                first += count;
        } while (count > 0 && *out);
        return 0;
}

/* What the index has of a large object. *replaced_count: chunks of a list that is not to stay. */
static int look_up_list(struct cas_ingest *in, const struct cas_hash *id, bool *stays,
                        uint32_t *replaced_count, struct cas_err *err)
{
        struct cas_object_record rec;
        struct cas_err reason = CAS_ERR_INIT;
        pin_object(in, id);
        int rc = cas_index_get_object(in->ps->index, id, &rec, &reason);
        *stays = false;
        *replaced_count = rc == 0 ? rec.chunk_count : 0;
        if (rc == -CAS_E_NOTFOUND || is_mended(in, id))
                return 0;
        if (rc == 0)
                rc = list_is_whole(in, id, stays, &reason);
        if (rc < 0)
                *err = reason;
        return rc;
}

static int end_large(struct cas_ingest *in, struct cas_err *err)
{
        struct cas_hash id;
        bool stays = true;
        uint32_t replaced_count = 0;
        int rc = 0;
        name_object(in, &id);
        if (!seen_before(in, &id)) {
                note_seen(in, &id);
                rc = look_up_list(in, &id, &stays, &replaced_count, err);
        }
        if (rc < 0)
                return rc;
        if (stays) {
                leave_orphans(in);
                return 0;
        }
        rc = cas_packwriter_object(&in->writer, &id, in->size_bytes, in->refs, in->ref_count, false,
                                   err);
        if (rc < 0)
                return rc;
        add_object(in, &(struct new_object){.id = id,
                                            .size_bytes = in->size_bytes,
                                            .chunk_count = in->ref_count,
                                            .refs = cas_steal(&in->refs),
                                            .replaced_count = replaced_count});
        in->ref_max = 0;
        return 0;
}

/* Adds to the list of the open object. */
static int push_ref(struct cas_ingest *in, const struct cas_hash *name, uint32_t len,
                    struct cas_err *err)
{
        if (in->ref_count == CAS_OBJECT_CHUNKS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "a file of more than %u chunks",
                                CAS_OBJECT_CHUNKS_MAX);
        if (in->ref_count == in->ref_max) {
                uint32_t max = in->ref_max ? in->ref_max * 2 : 64;
                struct cas_chunk_ref *refs = realloc(in->refs, max * sizeof(refs[0]));
                if (!refs)
                        return cas_fail(err, CAS_E_NOMEM, "no memory for %u chunks", max);
                in->refs = refs;
                in->ref_max = max;
        }
        in->refs[in->ref_count++] = (struct cas_chunk_ref){.chunk = *name, .length_bytes = len};
        return 0;
}

static int add_cut(struct cas_ingest *in, const void *data, uint32_t len, struct cas_err *err)
{
        struct cas_packwriter_chunk chunk = {.data = data, .length_bytes = len, .shared = true};
        cas_sha256(data, len, &chunk.name);
        if (push_ref(in, &chunk.name, len, err) < 0)
                return -(int)err->code;
        return store_chunk(in, &chunk, err);
}

/* Cuts chunks off the front of data while the place of the next cut is certain. A file that is not
 * longer than the longest chunk is never cut. *used: bytes that are done with. */
static int cut_chunks(struct cas_ingest *in, const uint8_t *data, size_t len, bool last,
                      size_t *used, struct cas_err *err)
{
        *used = 0;
        while (len - *used > (last && in->ref_count > 0 ? 0 : CAS_CHUNKER_BYTES_MAX)) {
                size_t n = cas_chunker_cut(data + *used, len - *used);
                int rc = add_cut(in, data + *used, (uint32_t)n, err);
                if (rc < 0)
                        return rc;
                *used += n;
        }
        return 0;
}

static void keep_in_window(struct cas_ingest *in, const uint8_t *data, size_t len)
{
        cas_assert(in->window_bytes + len <= WINDOW_BYTES);
        memcpy(in->window + in->window_bytes, data, len);
        in->window_bytes += (uint32_t)len;
}

/* A piece of the open object. Bytes are cut where they lie; what waits for more goes to the window,
 * and as soon as the window holds nothing older than this piece, cutting goes on in the piece. */
static int object_data(struct cas_ingest *in, const uint8_t *data, size_t len, bool last,
                       struct cas_err *err)
{
        size_t at = 0, used;
        in->size_bytes += len;
        cas_verity_update(in->verity, data, len);
        if (last && in->window_bytes == 0 && in->size_bytes <= CAS_CHUNK_SMALL_BYTES_MAX &&
            in->ref_count == 0)
                return end_small(in, data, (uint32_t)len, err);
        while (in->window_bytes > 0 && at < len) {
                size_t older = in->window_bytes;
                size_t n = cas_min_u64(len - at, WINDOW_BYTES - in->window_bytes);
                keep_in_window(in, data + at, n);
                int rc = cut_chunks(in, in->window, in->window_bytes, last && at + n == len, &used,
                                    err);
                if (rc < 0)
                        return rc;
                if (used >= older) {
                        at += used - older;
                        in->window_bytes = 0;
                } else {
                        at += n;
                        in->window_bytes -= (uint32_t)used;
                        memmove(in->window, in->window + used, in->window_bytes);
                }
        }
        int rc = cut_chunks(in, data + at, len - at, last, &used, err);
        if (rc < 0)
                return rc;
        at += used;
        keep_in_window(in, data + at, len - at);
        return 0;
}

static int object_end(struct cas_ingest *in, struct cas_err *err)
{
        size_t used;
        if (in->ref_count == 0 && in->size_bytes <= CAS_CHUNK_SMALL_BYTES_MAX)
                return end_small(in, in->window, in->window_bytes, err);
        int rc = cut_chunks(in, in->window, in->window_bytes, true, &used, err);
        return rc < 0 ? rc : end_large(in, err);
}

static int checkpoint(struct cas_ingest *in, struct cas_err *err);

static int maybe_checkpoint(struct cas_ingest *in, struct cas_err *err)
{
        if (in->writer.entry_count < CHECKPOINT_ENTRIES && in->object_count < CHECKPOINT_ENTRIES &&
            in->listed_ref_count + in->orphan_count < CHECKPOINT_REFS)
                return 0;
        return checkpoint(in, err);
}

/* ---- worker: batches ---- */

static int check_name(const struct cas_ingest *in, struct cas_err *err)
{
        char hex[CAS_HASH_HEX_BYTES];
        if (cas_hash_equal(&in->found, &in->name))
                return 0;
        return cas_fail(err, CAS_E_CORRUPT, "object %s: other bytes came",
                        cas_hash_hex(&in->name, hex));
}

static int do_op(struct cas_ingest *in, const struct batch *b, uint32_t index, uint32_t at,
                 struct cas_err *err)
{
        const struct op *op = &b->ops[index];
        switch (op->kind) {
        case OP_BEGIN:
        case OP_BEGIN_NAMED:
                in->is_named = op->kind == OP_BEGIN_NAMED;
                in->id_slot = in->is_named ? &in->found : op->id_slot;
                if (in->is_named)
                        in->name = *op->name;
                in->size_bytes = 0;
                in->ref_count = 0;
                in->cut_is_new = false;
                in->window_bytes = 0;
                return 0;
        case OP_DATA:
                return object_data(in, b->bytes + at, op->length_bytes,
                                   index + 1 < b->op_count && b->ops[index + 1].kind == OP_END,
                                   err);
        case OP_END: {
                int rc = in->id_slot ? object_end(in, err) : 0;
                if (rc == 0 && in->is_named)
                        rc = check_name(in, err);
                return rc < 0 ? rc : maybe_checkpoint(in, err);
        }
        case OP_LAYER:
                return cas_packwriter_layer(&in->writer, op->layer, err);
        case OP_RECIPE:
                return cas_packwriter_recipe(&in->writer, op->recipe, err);
        }
        return 0;
}

static void do_batch(struct cas_ingest *in, const struct batch *b, struct cas_err *err)
{
        uint32_t at = 0;
        for (uint32_t i = 0; i < b->op_count && err->code == CAS_OK; i++) {
                if (do_op(in, b, i, at, err) < 0)
                        break;
                if (b->ops[i].kind == OP_DATA)
                        at += b->ops[i].length_bytes;
        }
}

static void batch_reset(struct batch *b)
{
        for (uint32_t i = 0; i < b->op_count; i++) {
                if (b->ops[i].kind == OP_BEGIN_NAMED)
                        free(b->ops[i].name);
                if (b->ops[i].kind == OP_LAYER)
                        free(b->ops[i].layer);
                if (b->ops[i].kind == OP_RECIPE)
                        free(b->ops[i].recipe);
        }
        b->op_count = 0;
        b->len_bytes = 0;
        b->next = NULL;
}

static struct batch *next_full_locked(struct cas_ingest *in)
{
        cas_assert_held(&in->queue);
        struct batch *b = in->full;
        in->full = b->next;
        if (!in->full)
                in->full_end = &in->full;
        return b;
}

static void *worker(void *arg)
{
        struct cas_ingest *in = arg;
        struct cas_err err = CAS_ERR_INIT;
        cas_mutex_lock(&in->queue);
        for (;;) {
                while (!in->full && !in->stopping)
                        cas_mutex_wait(&in->queue, &in->work);
                if (!in->full)
                        break;
                struct batch *b = next_full_locked(in);
                bool drop = in->stopping;
                in->busy = true;
                cas_mutex_unlock(&in->queue);
                if (!drop)
                        do_batch(in, b, &err);
                batch_reset(b);
                cas_mutex_lock(&in->queue);
                in->busy = false;
                if (err.code != CAS_OK)
                        in->err = err;
                b->next = in->free_list;
                in->free_list = b;
                (void)pthread_cond_broadcast(&in->change);
        }
        cas_mutex_unlock(&in->queue);
        return NULL;
}

/* ---- caller's side ---- */

struct cas_ingest *cas_ingest_new(struct cas_packset *ps, struct cas_pins *pins)
{
        struct cas_ingest *in = cas_xcalloc(1, sizeof(*in));
        in->ps = ps;
        in->pins = pins;
        cas_mutex_init(&in->queue, "ingest.queue");
        cas_cond_init(&in->work);
        cas_cond_init(&in->change);
        in->full_end = &in->full;
        return in;
}

static void batches_free(struct batch *b)
{
        while (b) {
                struct batch *next = b->next;
                batch_reset(b);
                free(b);
                b = next;
        }
}

static void worker_stop(struct cas_ingest *in)
{
        cas_mutex_lock(&in->queue);
        in->stopping = true;
        (void)pthread_cond_signal(&in->work);
        cas_mutex_unlock(&in->queue);
        (void)pthread_join(in->thread, NULL);
        cas_packwriter_release(&in->writer);
        cas_verity_free(in->verity);
        cas_map_free(in->seen);
        free(in->window);
}

void cas_ingest_free(struct cas_ingest *in)
{
        if (!in)
                return;
        if (in->started)
                worker_stop(in);
        batches_free(in->filling);
        batches_free(in->full);
        batches_free(in->free_list);
        drop_objects(in);
        free(in->objects);
        free(in->orphans);
        free(in->refs);
        (void)pthread_cond_destroy(&in->work);
        (void)pthread_cond_destroy(&in->change);
        cas_mutex_release(&in->queue);
        free(in);
}

static int ingest_start(struct cas_ingest *in, struct cas_err *err)
{
        if (in->started)
                return 0;
        cas_packwriter_init(&in->writer, in->ps, &cas_packstyle_fast);
        in->verity = cas_verity_new();
        in->seen = cas_map_new();
        in->window = cas_xmalloc(WINDOW_BYTES);
        in->started = true;
        int rc = pthread_create(&in->thread, NULL, worker, in);
        if (rc == 0)
                return 0;
        in->started = false;
        cas_packwriter_release(&in->writer);
        cas_verity_free(in->verity);
        cas_map_free(in->seen);
        free(in->window);
        return cas_fail_sys(err, rc, "start a thread");
}

static int worker_error_locked(const struct cas_ingest *in, struct cas_err *err)
{
        cas_assert_held(&in->queue);
        if (in->err.code == CAS_OK)
                return 0;
        *err = in->err;
        return -(int)err->code;
}

static void submit_locked(struct cas_ingest *in)
{
        cas_assert_held(&in->queue);
        struct batch *b = in->filling;
        if (!b)
                return;
        in->filling = NULL;
        *in->full_end = b;
        in->full_end = &b->next;
        (void)pthread_cond_signal(&in->work);
}

/* A batch with room for one more operation, and for a byte where bytes come. */
static int batch_room(struct cas_ingest *in, bool for_bytes, struct cas_err *err)
{
        struct batch *b = in->filling;
        if (b && b->op_count < BATCH_OPS && (!for_bytes || b->len_bytes < BATCH_BYTES))
                return 0;
        int rc = ingest_start(in, err);
        if (rc < 0)
                return rc;
        cas_mutex_lock(&in->queue);
        submit_locked(in);
        if (!in->free_list && in->batch_count < BATCHES) {
                in->free_list = cas_xmalloc(sizeof(*b));
                in->free_list->op_count = 0;
                batch_reset(in->free_list);
                in->batch_count++;
        }
        while (!in->free_list)
                cas_mutex_wait(&in->queue, &in->change);
        in->filling = in->free_list;
        in->free_list = in->filling->next;
        in->filling->next = NULL;
        rc = worker_error_locked(in, err);
        cas_mutex_unlock(&in->queue);
        return rc;
}

static int push_op(struct cas_ingest *in, const struct op *op, struct cas_err *err)
{
        int rc = batch_room(in, false, err);
        if (rc < 0)
                return rc;
        in->filling->ops[in->filling->op_count++] = *op;
        return 0;
}

int cas_ingest_object_begin(struct cas_ingest *in, struct cas_hash *id_slot, struct cas_err *err)
{
        cas_assert(!in->object_open);
        int rc = push_op(in, &(struct op){.kind = OP_BEGIN, .id_slot = id_slot}, err);
        if (rc < 0)
                return rc;
        in->object_open = true;
        in->object_bytes = 0;
        return 0;
}

int cas_ingest_named_begin(struct cas_ingest *in, const struct cas_hash *id, struct cas_err *err)
{
        cas_assert(!in->object_open);
        int rc = batch_room(in, false, err);
        if (rc < 0)
                return rc;
        struct cas_hash *copy = cas_xmalloc(sizeof(*copy));
        *copy = *id;
        in->object_open = true;
        in->object_bytes = 0;
        return push_op(in, &(struct op){.kind = OP_BEGIN_NAMED, .name = copy}, err);
}

/* Appends what fits; successive pieces of an object in one batch are one operation. */
static size_t push_bytes(struct batch *b, const uint8_t *data, size_t len)
{
        size_t n = cas_min_u64(len, BATCH_BYTES - b->len_bytes);
        struct op *last = b->op_count ? &b->ops[b->op_count - 1] : NULL;
        if (!last || last->kind != OP_DATA) {
                last = &b->ops[b->op_count++];
                *last = (struct op){.kind = OP_DATA};
        }
        memcpy(b->bytes + b->len_bytes, data, n);
        b->len_bytes += (uint32_t)n;
        last->length_bytes += (uint32_t)n;
        return n;
}

int cas_ingest_object_write(struct cas_ingest *in, const void *data, size_t len,
                            struct cas_err *err)
{
        const uint8_t *at = data;
        cas_assert(in->object_open);
        if (len > CAS_OBJECT_BYTES_MAX - in->object_bytes)
                return cas_fail(err, CAS_E_LIMIT, "a file of more than %llu bytes",
                                (unsigned long long)CAS_OBJECT_BYTES_MAX);
        in->object_bytes += len;
        while (len > 0) {
                int rc = batch_room(in, true, err);
                if (rc < 0)
                        return rc;
                size_t n = push_bytes(in->filling, at, len);
                at += n;
                len -= n;
        }
        return 0;
}

int cas_ingest_object_end(struct cas_ingest *in, struct cas_err *err)
{
        cas_assert(in->object_open);
        int rc = push_op(in, &(struct op){.kind = OP_END}, err);
        if (rc < 0)
                return rc;
        in->object_open = false;
        return 0;
}

int cas_ingest_layer(struct cas_ingest *in, const struct cas_layer_record *layer,
                     struct cas_err *err)
{
        cas_assert(!in->object_open);
        int rc = batch_room(in, false, err);
        if (rc < 0)
                return rc;
        struct cas_layer_record *copy = cas_xmalloc(sizeof(*copy));
        *copy = *layer;
        return push_op(in, &(struct op){.kind = OP_LAYER, .layer = copy}, err);
}

int cas_ingest_recipe(struct cas_ingest *in, const struct cas_recipe_record *recipe,
                      struct cas_err *err)
{
        cas_assert(!in->object_open);
        int rc = batch_room(in, false, err);
        if (rc < 0)
                return rc;
        struct cas_recipe_record *copy = cas_xmalloc(sizeof(*copy));
        *copy = *recipe;
        return push_op(in, &(struct op){.kind = OP_RECIPE, .recipe = copy}, err);
}

int cas_ingest_drain(struct cas_ingest *in, struct cas_err *err)
{
        cas_assert(!in->object_open);
        if (!in->started)
                return 0;
        cas_mutex_lock(&in->queue);
        submit_locked(in);
        while (in->full || in->busy)
                cas_mutex_wait(&in->queue, &in->change);
        int rc = worker_error_locked(in, err);
        cas_mutex_unlock(&in->queue);
        return rc;
}

/* ---- kept frames ---- */

void cas_kept_name(const struct cas_hash *id, uint32_t frame_count, const void *plain, size_t len,
                   struct cas_hash *out)
{
        if (frame_count == 1)
                *out = *id;
        else
                cas_sha256(plain, len, out);
}

static int check_kept_id(struct cas_ingest *in, struct cas_err *err)
{
        struct cas_hash id;
        char hex[CAS_HASH_HEX_BYTES];
        cas_verity_final(in->verity, &id);
        if (cas_hash_equal(&id, &in->kept.id))
                return 0;
        return cas_fail(err, CAS_E_CORRUPT, "the frames are not object %s",
                        cas_hash_hex(&in->kept.id, hex));
}

int cas_ingest_kept_begin(struct cas_ingest *in, const struct cas_hash *id, uint32_t frame_count,
                          struct cas_err *err)
{
        cas_assert(!in->object_open && frame_count > 0);
        if (cas_ingest_drain(in, err) < 0 || ingest_start(in, err) < 0)
                return -(int)err->code;
        in->object_open = true;
        pin_object(in, id);
        in->kept.id = *id;
        in->kept.frame_count = frame_count;
        in->kept.size_bytes = 0;
        in->ref_count = 0;
        return 0;
}

/* One that is kept already is the same frame: the caller has seen to that. */
static int store_kept(struct cas_ingest *in, const struct cas_packwriter_chunk *chunk,
                      const struct cas_kept_frame *frame, struct cas_err *err)
{
        struct cas_chunk_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        if (seen_before(in, &chunk->name))
                return 0;
        note_seen(in, &chunk->name);
        pin_chunk(in, &chunk->name);
        int rc = cas_index_get_chunk(in->ps->index, &chunk->name, &rec, &miss);
        if (rc == 0 && rec.codec == CAS_CODEC_ZSTD_KEPT)
                return 0;
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = miss;
                return rc;
        }
        return cas_packwriter_add_kept(&in->writer, chunk, frame->stored, frame->stored_bytes, err);
}

int cas_ingest_kept_frame(struct cas_ingest *in, const struct cas_kept_frame *frame,
                          struct cas_err *err)
{
        const bool is_object = in->kept.frame_count == 1;
        struct cas_packwriter_chunk chunk = {
                .data = frame->plain, .length_bytes = frame->plain_bytes, .is_object = is_object};
        cas_assert(in->object_open && in->ref_count < in->kept.frame_count);
        cas_verity_update(in->verity, frame->plain, frame->plain_bytes);
        in->kept.size_bytes += frame->plain_bytes;
        if (is_object && check_kept_id(in, err) < 0)
                return -(int)err->code;
        cas_kept_name(&in->kept.id, in->kept.frame_count, frame->plain, frame->plain_bytes,
                      &chunk.name);
        if (push_ref(in, &chunk.name, frame->plain_bytes, err) < 0)
                return -(int)err->code;
        return store_kept(in, &chunk, frame, err);
}

int cas_ingest_kept_end(struct cas_ingest *in, struct cas_err *err)
{
        struct new_object object = {.id = in->kept.id,
                                    .size_bytes = in->kept.size_bytes,
                                    .chunk_count = in->kept.frame_count};
        struct cas_object_record before;
        struct cas_err miss = CAS_ERR_INIT;
        cas_assert(in->object_open && in->ref_count == in->kept.frame_count);
        in->object_open = false;
        if (object.chunk_count > 1 && check_kept_id(in, err) < 0)
                return -(int)err->code;
        int rc = cas_index_get_object(in->ps->index, &object.id, &before, &miss);
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = miss;
                return rc;
        }
        object.replaced_count = rc == 0 ? before.chunk_count : 0;
        if (object.chunk_count > 1) {
                if (cas_packwriter_object(&in->writer, &object.id, object.size_bytes, in->refs,
                                          in->ref_count, true, err) < 0)
                        return -(int)err->code;
                object.refs = cas_steal(&in->refs);
                in->ref_max = 0;
        }
        in->replaces = true;
        add_object(in, &object);
        return maybe_checkpoint(in, err);
}

bool cas_ingest_replaces(const struct cas_ingest *in)
{
        return in->replaces || in->mends;
}

void cas_ingest_mend(struct cas_ingest *in, const struct cas_hashset *names)
{
        cas_assert(!in->started);
        in->mends = names;
}

/* ---- committing ---- */

/* The chunks of a list that goes are for collection to look at. */
static int drop_list(struct cas_ingest *in, const struct new_object *object,
                     struct cas_batch *batch, uint64_t now, struct cas_err *err)
{
        struct cas_chunk_ref refs[256];
        uint32_t first = 0, count;
        if (object->replaced_count == 1)
                cas_batch_condemn(batch, CAS_CONDEMNED_CHUNK, &object->id, now);
        do {
                int rc = cas_index_get_object_chunks(in->ps->index, &object->id, first, refs,
                                                     CAS_COUNT(refs), &count, err);
                if (rc < 0)
                        return rc;
                for (uint32_t i = 0; i < count; i++) {
                        cas_batch_del_chunk_ref(batch, &refs[i].chunk, &object->id);
                        cas_batch_condemn(batch, CAS_CONDEMNED_CHUNK, &refs[i].chunk, now);
                }
                first += count;
        } while (count > 0);
        cas_batch_del_object(batch, &object->id, object->replaced_count);
        return 0;
}

static int put_object(struct cas_ingest *in, const struct new_object *object,
                      struct cas_batch *batch, bool wanted, uint64_t now, struct cas_err *err)
{
        int rc = object->replaced_count > 0 ? drop_list(in, object, batch, now, err) : 0;
        if (rc < 0)
                return rc;
        cas_batch_put_object(batch, &object->id, object->size_bytes, object->refs,
                             object->chunk_count);
        for (uint32_t i = 0; object->refs && i < object->chunk_count; i++)
                cas_batch_put_chunk_ref(batch, &object->refs[i].chunk, &object->id);
        if (!wanted)
                cas_batch_condemn(batch, CAS_CONDEMNED_OBJECT, &object->id, now);
        return 0;
}

/* wanted: objects that the batch refers to; NULL: none. */
static int flush_writer(struct cas_ingest *in, struct cas_batch *batch,
                        const struct cas_prefixset *wanted, struct cas_err *err)
{
        const uint64_t now = (uint64_t)time(NULL);
        int rc = cas_packwriter_flush(&in->writer, batch, err);
        for (size_t i = 0; rc == 0 && i < in->object_count; i++) {
                const struct new_object *object = &in->objects[i];
                rc = put_object(in, object, batch, wanted && cas_prefixset_has(wanted, &object->id),
                                now, err);
        }
        for (size_t i = 0; rc == 0 && i < in->orphan_count; i++)
                cas_batch_condemn(batch, CAS_CONDEMNED_CHUNK, &in->orphans[i], now);
        return rc;
}

static int checkpoint(struct cas_ingest *in, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        int rc = flush_writer(in, batch, NULL, err);
        if (rc == 0)
                rc = cas_packset_write(in->ps, batch, cas_ingest_replaces(in), err);
        if (rc < 0)
                return rc;
        cas_packwriter_published(&in->writer);
        drop_objects(in);
        in->replaces = false;
        return 0;
}

int cas_ingest_flush(struct cas_ingest *in, struct cas_batch *batch,
                     const struct cas_prefixset *wanted, struct cas_err *err)
{
        int rc = cas_ingest_drain(in, err);
        if (rc < 0 || !in->started)
                return rc;
        rc = flush_writer(in, batch, wanted, err);
        if (rc < 0) {
                cas_mutex_lock(&in->queue);
                in->err = *err;
                cas_mutex_unlock(&in->queue);
        }
        return rc;
}

void cas_ingest_published(struct cas_ingest *in)
{
        if (!in->started)
                return;
        cas_packwriter_published(&in->writer);
        drop_objects(in);
}
