/* SPDX-License-Identifier: Apache-2.0 */
/* Objects of a layer from another lamina (spec/peer.md, "Asking"): small ones by
 * groups or one by one, then large ones by those of their chunks that are not
 * here. The publication checks every object's digest; lengths are those of the
 * listing, so nothing that a peer sends is longer than what was expected. */
#include "registry/peer.h"

#include "cas/elsewhere.h"
#include "cas/object.h"
#include "registry/peer_int.h"

/* So few are asked for one by one, without looking for their layer's listing at the peer. */
#define SINGLES_MAX 8
/* What a request costs, in bytes that might have travelled instead. */
#define REQUEST_BYTES 4096
/* Objects that the listing does not have: the listing itself, recipes and what only they name. */
#define UNLISTED_BYTES_MAX CAS_LISTING_BYTES_MAX
/* Chunks of all large objects of one call: some 200 GB of files. */
#define CHUNKS_MAX (2 * 1024 * 1024)
#define UNKNOWN_BYTES UINT64_MAX
#define PAGE_BYTES_MAX (8 + (size_t)REG_PEER_PAGE_CHUNKS * REG_PEER_CHUNK_ENTRY_BYTES)

struct want {
        struct cas_hash id;
        const struct reg_peer_part *part; /* NULL: the listing does not have it, or is not here */
};

/* A request for small objects, or for what an object is. */
struct request {
        uint32_t group;          /* REG_PEER_NO_GROUP: an object */
        const struct want *want; /* that one */
};

struct large {
        struct cas_hash id;
        uint64_t size_bytes;
        struct reg_peer_chunk *chunks; /* owned */
        size_t count;
        uint64_t listed_bytes; /* of chunks */
};

/* A piece of a large object: from the peer, or one chunk that is here. */
struct segment {
        uint32_t large;
        bool remote, first, last; /* of its object */
        size_t chunk;             /* the first */
        uint64_t offset;
        uint32_t bytes;
};

struct fetching {
        const struct reg_peer_source *from;
        struct cas_publish *p;
        struct cas_store *s;
        const struct cas_progress *progress;
        struct cas_layer_record record;
        struct reg_peer_set *set; /* NULL: the listing is not here */
        struct reg_peer_fetch *fetch;
        char layer[CAS_DIGEST_TEXT_BYTES];

        struct want *wants; /* owned; by id, each once, none of them here */
        size_t want_count;
        struct request *requests; /* owned */
        size_t request_count;
        struct large *larges; /* owned, as their chunks */
        size_t large_count, chunk_count;
        struct segment *segments; /* owned */
        size_t segment_count, segment_alloc;
        uint64_t done_bytes, total_bytes;
};

static void fetching_release(struct fetching *f)
{
        reg_peer_fetch_free(f->fetch);
        reg_peer_sets_put(f->from->sets, f->set);
        for (size_t i = 0; i < f->large_count; i++)
                free(f->larges[i].chunks);
        free(f->wants);
        free(f->requests);
        free(f->larges);
        free(f->segments);
}

static void note_progress(struct fetching *f, uint64_t bytes)
{
        f->done_bytes += bytes;
        f->total_bytes = f->total_bytes > f->done_bytes ? f->total_bytes : f->done_bytes;
        cas_progress_update(f->progress, "parts", f->done_bytes, f->total_bytes);
}

/* ---- what is wanted ---- */

static int compare_wants(const void *a, const void *b)
{
        const struct want *x = a, *y = b;
        return memcmp(x->id.bytes, y->id.bytes, CAS_HASH_BYTES);
}

static int collect_wants(struct fetching *f, const struct cas_hash *ids, size_t count,
                         struct cas_err *err)
{
        f->wants = cas_xcalloc(count + 1, sizeof(f->wants[0]));
        for (size_t i = 0; i < count; i++) {
                struct cas_object_info info;
                struct cas_err miss = CAS_ERR_INIT;
                int rc = cas_object_stat(f->s, &ids[i], &info, &miss);
                if (rc == -CAS_E_NOTFOUND) {
                        f->wants[f->want_count++].id = ids[i];
                } else if (rc < 0) {
                        *err = miss;
                        return rc;
                }
        }
        qsort(f->wants, f->want_count, sizeof(f->wants[0]), compare_wants);
        size_t kept = 0;
        for (size_t i = 0; i < f->want_count; i++) {
                if (i == 0 || !cas_hash_equal(&f->wants[i].id, &f->wants[kept - 1].id))
                        f->wants[kept++] = f->wants[i];
        }
        f->want_count = kept;
        return 0;
}

/* The layer's record, and so its listing. *found false: so few are wanted that the peer is not
 * asked for it. */
static int find_record(struct fetching *f, bool *found, struct cas_err *err)
{
        struct cas_err miss = CAS_ERR_INIT;
        struct reg_peer_layer facts;
        *found = true;
        if (f->from->record) {
                f->record = *f->from->record;
                return 0;
        }
        int rc = cas_elsewhere_layer(f->s, f->from->layer, &f->record, &miss);
        if (rc == 0)
                return 0;
        if (rc != -CAS_E_NOTFOUND) {
                *err = miss;
                return rc;
        }
        *found = f->want_count > SINGLES_MAX;
        if (!*found)
                return 0;
        rc = reg_peer_layer(f->from->remote, f->from->repo, f->from->layer, &facts, err);
        if (rc == 0)
                f->record = facts.record;
        return rc;
}

/* Which of what is wanted stands where in the listing, when that is here. */
static int find_parts(struct fetching *f, struct cas_err *err)
{
        static const struct cas_hash no_recipe;
        struct cas_object_info info;
        struct cas_err miss = CAS_ERR_INIT;
        bool found;
        int rc = find_record(f, &found, err);
        if (rc < 0 || !found)
                return rc;
        rc = cas_object_stat(f->s, &f->record.listing, &info, &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        rc = reg_peer_sets_get(f->from->sets, f->s, &f->record, &no_recipe, &f->set, err);
        for (size_t i = 0; rc == 0 && i < f->want_count; i++) {
                struct want *w = &f->wants[i];
                w->part = reg_peer_parts_find(reg_peer_set_parts(f->set), &w->id);
                f->total_bytes += w->part ? w->part->size_bytes : 0;
        }
        return rc;
}

static const struct want *find_want(const struct fetching *f, const struct cas_hash *id)
{
        const struct want key = {.id = *id};
        return bsearch(&key, f->wants, f->want_count, sizeof(f->wants[0]), compare_wants);
}

/* ---- small objects ---- */

static void request(struct fetching *f, uint32_t group, const struct want *want)
{
        f->requests[f->request_count++] = (struct request){group, want};
}

/* Whether it costs less to take the whole group. */
static bool group_is_worth(const struct fetching *f, const struct reg_peer_parts *parts,
                           uint32_t group)
{
        uint64_t one_by_one = 0;
        size_t count = 0;
        for (uint32_t i = parts->group_first[group]; i < parts->group_first[group + 1]; i++) {
                if (parts->parts[i].group != group || !find_want(f, &parts->parts[i].id))
                        continue;
                one_by_one += parts->parts[i].size_bytes + REQUEST_BYTES;
                count++;
        }
        return count > 1 && one_by_one >= reg_peer_parts_group_bytes(parts, group);
}

/* In the order of the listing: so neighbours lie together here as they do there. */
static void plan_requests(struct fetching *f)
{
        f->requests = cas_xcalloc(f->want_count + 1, sizeof(f->requests[0]));
        const struct reg_peer_parts *parts = f->set ? reg_peer_set_parts(f->set) : NULL;
        uint32_t group = REG_PEER_NO_GROUP; /* that was looked at last */
        bool whole = false;
        for (size_t i = 0; parts && i < parts->count; i++) {
                const struct reg_peer_part *part = &parts->parts[i];
                if (part->group != REG_PEER_NO_GROUP && part->group != group) {
                        group = part->group;
                        whole = group_is_worth(f, parts, group);
                        if (whole)
                                request(f, group, NULL);
                }
                const struct want *want =
                        whole && part->group == group ? NULL : find_want(f, &part->id);
                if (want)
                        request(f, REG_PEER_NO_GROUP, want);
        }
        for (size_t i = 0; i < f->want_count; i++) {
                if (!f->wants[i].part)
                        request(f, REG_PEER_NO_GROUP, &f->wants[i]);
        }
}

static void ask(struct fetching *f, const struct request *r)
{
        char hex[CAS_HASH_HEX_BYTES];
        if (r->group == REG_PEER_NO_GROUP) {
                reg_peer_fetch_ask(f->fetch,
                                   cas_xasprintf("layers/%s/objects/%s", f->layer,
                                                 cas_hash_hex(&r->want->id, hex)),
                                   PAGE_BYTES_MAX);
                return;
        }
        reg_peer_fetch_ask(
                f->fetch,
                cas_xasprintf("layers/%s/groups/%s/%u", f->layer,
                              cas_hash_hex(&f->record.listing, hex), r->group),
                (size_t)reg_peer_parts_group_bytes(reg_peer_set_parts(f->set), r->group));
}

static int publish_whole(struct fetching *f, const struct cas_hash *id, const void *data,
                         size_t len, struct cas_err *err)
{
        int rc = cas_publish_named_begin(f->p, id, err);
        if (rc == 0)
                rc = cas_publish_object_write(f->p, data, len, err);
        if (rc == 0)
                rc = cas_publish_object_end(f->p, err);
        if (rc == 0)
                note_progress(f, len);
        return rc;
}

static int wrong_answer(const struct cas_hash *id, struct cas_err *err)
{
        char hex[CAS_HASH_HEX_BYTES];
        return cas_fail(err, CAS_E_CORRUPT, "object %s: the answer is not what was asked for",
                        cas_hash_hex(id, hex));
}

static int take_group(struct fetching *f, uint32_t group, const struct reg_peer_frame *frame,
                      struct cas_err *err)
{
        const struct reg_peer_parts *parts = reg_peer_set_parts(f->set);
        const uint8_t *at = frame->raw.data;
        if (frame->kind != REG_PEER_CONTENT ||
            frame->raw.len_bytes != reg_peer_parts_group_bytes(parts, group))
                return cas_fail(err, CAS_E_CORRUPT, "group %u: the answer is of another", group);
        for (uint32_t i = parts->group_first[group]; i < parts->group_first[group + 1]; i++) {
                const struct reg_peer_part *part = &parts->parts[i];
                if (part->group != group)
                        continue;
                if (find_want(f, &part->id) &&
                    publish_whole(f, &part->id, at, part->size_bytes, err) < 0)
                        return -(int)err->code;
                at += part->size_bytes;
        }
        return 0;
}

/* ---- large objects: their chunks ---- */

static int add_page(struct fetching *f, struct large *l, const struct reg_peer_frame *frame,
                    struct cas_err *err)
{
        reg_cleanup_peer_page struct reg_peer_page page = {0};
        if (frame->kind != REG_PEER_CHUNKS || frame->object_bytes != l->size_bytes)
                return wrong_answer(&l->id, err);
        int rc = reg_peer_page_decode(frame, &page, err);
        if (rc < 0)
                return rc;
        if (page.offset != l->listed_bytes)
                return wrong_answer(&l->id, err);
        f->chunk_count += page.count;
        if (f->chunk_count > CHUNKS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "more than %d chunks at once", CHUNKS_MAX);
        l->chunks = cas_xrealloc(l->chunks, (l->count + page.count) * sizeof(l->chunks[0]));
        for (size_t i = 0; i < page.count; i++) {
                l->chunks[l->count++] = page.chunks[i];
                l->listed_bytes += page.chunks[i].length_bytes;
        }
        return 0;
}

/* The first page. */
static int add_large(struct fetching *f, const struct want *want,
                     const struct reg_peer_frame *frame, struct cas_err *err)
{
        uint64_t max = want->part ? want->part->size_bytes : UNLISTED_BYTES_MAX;
        if (frame->object_bytes > max || (want->part && frame->object_bytes < max) ||
            frame->object_bytes <= REG_PEER_SMALL_BYTES_MAX)
                return wrong_answer(&want->id, err);
        f->larges = cas_xrealloc(f->larges, (f->large_count + 1) * sizeof(f->larges[0]));
        struct large *l = &f->larges[f->large_count++];
        *l = (struct large){.id = want->id, .size_bytes = frame->object_bytes};
        if (!want->part)
                f->total_bytes += l->size_bytes;
        return add_page(f, l, frame, err);
}

/* The other pages, of files of half a GiB and more. */
static int add_pages(struct fetching *f, struct large *l, struct cas_err *err)
{
        char hex[CAS_HASH_HEX_BYTES];
        while (l->listed_bytes < l->size_bytes) {
                reg_cleanup_peer_frame struct reg_peer_frame frame = {0};
                if (l->count % REG_PEER_PAGE_CHUNKS != 0)
                        return wrong_answer(&l->id, err);
                reg_peer_fetch_ask(f->fetch,
                                   cas_xasprintf("layers/%s/objects/%s/chunks/%zu", f->layer,
                                                 cas_hash_hex(&l->id, hex),
                                                 l->count / REG_PEER_PAGE_CHUNKS),
                                   PAGE_BYTES_MAX);
                if (reg_peer_fetch_take(f->fetch, &frame, err) < 0 ||
                    add_page(f, l, &frame, err) < 0)
                        return -(int)err->code;
        }
        return 0;
}

static int take_object(struct fetching *f, const struct want *want,
                       const struct reg_peer_frame *frame, struct cas_err *err)
{
        if (frame->kind == REG_PEER_CHUNKS)
                return add_large(f, want, frame, err);
        if (frame->kind != REG_PEER_CONTENT || frame->raw.len_bytes != frame->object_bytes ||
            (want->part && frame->object_bytes != want->part->size_bytes))
                return wrong_answer(&want->id, err);
        return publish_whole(f, &want->id, frame->raw.data, frame->raw.len_bytes, err);
}

static int fetch_requests(struct fetching *f, struct cas_err *err)
{
        size_t asked = 0;
        for (size_t i = 0; i < f->request_count; i++) {
                const struct request *r = &f->requests[i];
                reg_cleanup_peer_frame struct reg_peer_frame frame = {0};
                while (asked < f->request_count && !reg_peer_fetch_full(f->fetch))
                        ask(f, &f->requests[asked++]);
                int rc = reg_peer_fetch_take(f->fetch, &frame, err);
                if (rc == 0)
                        rc = r->want ? take_object(f, r->want, &frame, err)
                                     : take_group(f, r->group, &frame, err);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

/* ---- large objects: their bytes ---- */

static void add_segment(struct fetching *f, const struct segment *segment)
{
        if (f->segment_count == f->segment_alloc) {
                f->segment_alloc = f->segment_alloc ? 2 * f->segment_alloc : 64;
                f->segments = cas_xrealloc(f->segments, f->segment_alloc * sizeof(f->segments[0]));
        }
        f->segments[f->segment_count++] = *segment;
}

/* Chunks [first, end), which begin at offset, as one part, or chunk by chunk. */
static int plan_part(struct fetching *f, uint32_t large, size_t first, size_t end, uint64_t offset,
                     struct cas_err *err)
{
        const struct reg_peer_chunk *chunks = f->larges[large].chunks;
        cas_cleanup_free bool *here = cas_xcalloc(end - first, sizeof(*here));
        uint64_t missing = 0, bytes = 0;
        for (size_t i = first; i < end; i++) {
                if (cas_chunk_find(f->s, &chunks[i].sha256, chunks[i].length_bytes,
                                   &here[i - first], err) < 0)
                        return -(int)err->code;
                bytes += chunks[i].length_bytes;
                missing += here[i - first] ? 0 : chunks[i].length_bytes;
        }
        struct segment s = {.large = large, .offset = offset};
        if (missing > bytes / 2) {
                s.remote = true;
                s.chunk = first;
                s.bytes = (uint32_t)bytes;
                add_segment(f, &s);
                return 0;
        }
        for (size_t i = first; i < end; i++) {
                s.remote = !here[i - first];
                s.chunk = i;
                s.bytes = chunks[i].length_bytes;
                add_segment(f, &s);
                s.offset += s.bytes;
        }
        return 0;
}

static int plan_large(struct fetching *f, uint32_t large, struct cas_err *err)
{
        const struct large *l = &f->larges[large];
        size_t first_segment = f->segment_count, first = 0;
        uint64_t offset = 0, bytes = 0;
        for (size_t i = 0; i < l->count; i++) {
                bytes += l->chunks[i].length_bytes;
                if (bytes < REG_PEER_GROUP_BYTES && i + 1 < l->count)
                        continue;
                int rc = plan_part(f, large, first, i + 1, offset, err);
                if (rc < 0)
                        return rc;
                offset += bytes;
                first = i + 1;
                bytes = 0;
        }
        f->segments[first_segment].first = true;
        f->segments[f->segment_count - 1].last = true;
        return 0;
}

static void ask_segment(struct fetching *f, const struct segment *s)
{
        char hex[CAS_HASH_HEX_BYTES];
        if (s->remote)
                reg_peer_fetch_ask(f->fetch,
                                   cas_xasprintf("layers/%s/objects/%s/parts/%llu-%u", f->layer,
                                                 cas_hash_hex(&f->larges[s->large].id, hex),
                                                 (unsigned long long)s->offset, s->bytes),
                                   s->bytes);
}

static int read_segment(struct fetching *f, const struct segment *s, struct cas_buf *out,
                        struct cas_err *err)
{
        const struct large *l = &f->larges[s->large];
        if (!s->remote) {
                cas_buf_clear(out);
                cas_buf_reserve(out, s->bytes);
                out->len_bytes = s->bytes;
                return cas_chunk_read(f->s, &l->chunks[s->chunk].sha256, s->bytes, out->data, err);
        }
        reg_cleanup_peer_frame struct reg_peer_frame frame = {0};
        int rc = reg_peer_fetch_take(f->fetch, &frame, err);
        if (rc < 0)
                return rc;
        if (frame.kind != REG_PEER_CONTENT || frame.object_bytes != l->size_bytes ||
            frame.raw.len_bytes != s->bytes)
                return wrong_answer(&l->id, err);
        cas_buf_release(out);
        *out = frame.raw;
        frame.raw = (struct cas_buf)CAS_BUF_INIT;
        note_progress(f, s->bytes);
        return 0;
}

static int fetch_segments(struct fetching *f, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        size_t asked = 0;
        for (size_t i = 0; i < f->segment_count; i++) {
                const struct segment *s = &f->segments[i];
                while (asked < f->segment_count && !reg_peer_fetch_full(f->fetch))
                        ask_segment(f, &f->segments[asked++]);
                if (read_segment(f, s, &bytes, err) < 0 ||
                    (s->first && cas_publish_named_begin(f->p, &f->larges[s->large].id, err) < 0) ||
                    cas_publish_object_write(f->p, bytes.data, bytes.len_bytes, err) < 0 ||
                    (s->last && cas_publish_object_end(f->p, err) < 0))
                        return -(int)err->code;
        }
        return 0;
}

static int fetch_larges(struct fetching *f, struct cas_err *err)
{
        int rc = 0;
        for (uint32_t i = 0; rc == 0 && i < f->large_count; i++)
                rc = add_pages(f, &f->larges[i], err);
        for (uint32_t i = 0; rc == 0 && i < f->large_count; i++)
                rc = plan_large(f, i, err);
        return rc < 0 ? rc : fetch_segments(f, err);
}

/* ---- all of it ---- */

static int fetch_all(struct fetching *f, const struct cas_hash *ids, size_t count,
                     struct cas_err *err)
{
        if (collect_wants(f, ids, count, err) < 0)
                return -(int)err->code;
        if (f->want_count == 0)
                return 0;
        if (find_parts(f, err) < 0)
                return -(int)err->code;
        f->fetch = reg_peer_fetch_new(f->from->remote, f->from->repo, f->from->meter);
        plan_requests(f);
        if (fetch_requests(f, err) < 0 || fetch_larges(f, err) < 0)
                return -(int)err->code;
        return cas_publish_drain(f->p, err);
}

int reg_peer_fetch_objects(const struct reg_peer_source *from, const struct cas_hash *ids,
                           size_t count, struct cas_publish *p, const struct cas_progress *progress,
                           struct cas_err *err)
{
        struct fetching f = {.from = from, .p = p, .s = cas_publish_store(p), .progress = progress};
        (void)cas_digest_text(from->layer, f.layer);
        int rc = fetch_all(&f, ids, count, err);
        fetching_release(&f);
        return rc < 0 ? cas_err_wrap(err, "parts of layer %s from %s", f.layer,
                                     reg_remote_host(from->remote))
                      : 0;
}

int reg_peer_objects(struct reg_remote *r, const char *repo, const struct cas_digest *layer,
                     const struct cas_hash *ids, size_t count, struct cas_publish *p,
                     const struct cas_progress *progress, struct cas_err *err)
{
        char name[REG_REMOTE_REPO_BYTES];
        struct reg_peer_sets *sets = reg_peer_sets_new(0);
        const struct reg_peer_source from = {
                .remote = r, .repo = reg_remote_repo(r, repo, name), .sets = sets, .layer = layer};
        int rc = reg_peer_fetch_objects(&from, ids, count, p, progress, err);
        reg_peer_sets_free(sets);
        return rc;
}
