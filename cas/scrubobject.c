/* SPDX-License-Identifier: Apache-2.0 */
/* Scrub of objects: lists fit together, chunks are there, the content has the object's digest. An
 * object of one chunk has that chunk's name, and was compared with it in its pack. Of one that lies
 * in remote packs the chunks were, too, and the whole is when it is read. */
#include "cas/scrub_int.h"
#include "cas/verity.h"

#define REFS_AT_ONCE 256

struct object_look {
        struct cas_look *look;
        struct cas_scrub_run *run;
        struct cas_hash id;
        struct cas_object_record rec;
        struct cas_damage damage;
        struct cas_scrub_blocks *blocks; /* borrowed */
        char hex[CAS_HASH_HEX_BYTES];
};

static void found(struct object_look *o, enum cas_fsck_message message, const char *fmt, ...)
        CAS_PRINTF(3, 4);
static void found(struct object_look *o, enum cas_fsck_message message, const char *fmt, ...)
{
        char text[CAS_ERR_MSG_MAX];
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        cas_look_found(o->look, message, &o->damage, o->hex, "%s", text);
}

/* The index has the chunk, with this length. */
static bool check_needed(struct object_look *o, const struct cas_hash *chunk, uint64_t length_bytes)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_chunk_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        char hex[CAS_HASH_HEX_BYTES];
        cas_look_pin_chunk(o->look, chunk);
        int rc = cas_index_peek(o->run->s->index, CAS_FAMILY_CHUNKS, chunk->bytes, CAS_HASH_BYTES,
                                &value, &miss);
        if (rc == 0)
                rc = cas_chunk_record_decode(value.data, value.len_bytes, &rec, &miss);
        if (rc < 0) {
                found(o, CAS_FSCK_CHUNK_MISSING, "chunk %s: %s", cas_hash_hex(chunk, hex),
                      miss.msg);
                return false;
        }
        if (rec.length_bytes != length_bytes) {
                found(o, CAS_FSCK_OBJECT_SIZE, "chunk %s has %u bytes, %llu expected",
                      cas_hash_hex(chunk, hex), rec.length_bytes, (unsigned long long)length_bytes);
                return false;
        }
        return true;
}

/* ---- content ---- */

struct content {
        struct object_look *o;
        struct cas_scrub_blocks *blocks;
        struct cas_verity *verity;
};

static bool add_chunk(struct content *c, const struct cas_chunk_ref *ref)
{
        struct object_look *o = c->o;
        struct cas_chunk_record rec;
        struct cas_err err = CAS_ERR_INIT;
        const uint8_t *bytes;
        if (!check_needed(o, &ref->chunk, ref->length_bytes))
                return false;
        int rc = cas_scrub_chunk_bytes(c->blocks, &ref->chunk, &rec, &bytes, &err);
        if (rc == 0 && rec.length_bytes == ref->length_bytes) {
                cas_verity_update(c->verity, bytes, rec.length_bytes);
                return true;
        }
        if (rc == -CAS_E_NOMEM)
                cas_scrub_fail(o->run, &err);
        else if (rc != -CAS_E_BUSY)
                found(o, CAS_FSCK_OBJECT_DIGEST, "%s", rc < 0 ? err.msg : "a chunk has changed");
        return false;
}

/* The pages of the list from chunk `*first` on; *first and *bytes move behind. */
static bool add_refs(struct content *c, uint32_t *first, uint64_t *bytes)
{
        struct object_look *o = c->o;
        struct cas_chunk_ref refs[REFS_AT_ONCE];
        struct cas_err err = CAS_ERR_INIT;
        uint32_t count = 0;
        uint64_t offset = 0;
        if (cas_index_get_object_chunks_at(o->run->s->index, &o->id, *first, refs, REFS_AT_ONCE,
                                           &count, &offset, &err) < 0) {
                found(o, CAS_FSCK_RECORD_MALFORMED, "object-chunks: %s", err.msg);
                return false;
        }
        if (count == 0) {
                found(o, CAS_FSCK_OBJECT_SIZE, "%u chunks of %llu bytes, %u of %llu expected",
                      *first, (unsigned long long)*bytes, o->rec.chunk_count,
                      (unsigned long long)o->rec.size_bytes);
                return false;
        }
        if (offset != *bytes) {
                found(o, CAS_FSCK_OBJECT_SIZE, "the list has chunk %u at byte %llu, it is at %llu",
                      *first, (unsigned long long)offset, (unsigned long long)*bytes);
                return false;
        }
        bool whole = true;
        for (uint32_t i = 0; i < count; i++) {
                *bytes += refs[i].length_bytes;
                whole = whole ? add_chunk(c, &refs[i])
                              : check_needed(o, &refs[i].chunk, refs[i].length_bytes) && false;
        }
        *first += count;
        return whole;
}

static void check_content(struct object_look *o)
{
        cas_cleanup_verity struct cas_verity *verity = cas_verity_new();
        struct content c = {.o = o, .blocks = o->blocks, .verity = verity};
        struct cas_hash got;
        char hex[CAS_HASH_HEX_BYTES];
        uint32_t first = 0;
        uint64_t bytes = 0;
        bool whole = true;
        while (first < o->rec.chunk_count && whole)
                whole = add_refs(&c, &first, &bytes);
        cas_verity_final(verity, &got);
        if (!whole)
                return;
        if (first != o->rec.chunk_count || bytes != o->rec.size_bytes)
                found(o, CAS_FSCK_OBJECT_SIZE, "%u chunks of %llu bytes, %u of %llu expected",
                      first, (unsigned long long)bytes, o->rec.chunk_count,
                      (unsigned long long)o->rec.size_bytes);
        else if (!cas_hash_equal(&got, &o->id))
                found(o, CAS_FSCK_OBJECT_DIGEST, "%s", cas_hash_hex(&got, hex));
}

static void check_object(struct cas_look *look, const struct cas_scrub_item *item)
{
        struct object_look o = {.look = look, .run = cas_look_run(look), .blocks = item->blocks};
        struct cas_err malformed = CAS_ERR_INIT;
        if (item->key_len != CAS_HASH_BYTES) {
                cas_look_found(look, CAS_FSCK_RECORD_MALFORMED, NULL, "objects", "%s", "key");
                return;
        }
        memcpy(o.id.bytes, item->key, CAS_HASH_BYTES);
        cas_hash_hex(&o.id, o.hex);
        o.damage = (struct cas_damage){.kind = CAS_DAMAGE_OBJECT, .hash = o.id};
        cas_look_pin_object(look, &o.id);
        if (cas_object_record_decode(item->value, item->value_len, &o.rec, &malformed) < 0)
                found(&o, CAS_FSCK_RECORD_MALFORMED, "%s", malformed.msg);
        else if (o.rec.chunk_count == 1)
                (void)check_needed(&o, &o.id, o.rec.size_bytes);
        else
                check_content(&o);
}

/* Where the first chunk of an object of several is. */
static struct cas_scrub_spot spot_of(struct cas_scrub_run *run, const struct cas_scrub_item *item)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_object_record object;
        struct cas_chunk_record chunk;
        struct cas_chunk_ref first;
        struct cas_hash id;
        struct cas_err err = CAS_ERR_INIT;
        uint32_t count = 0;
        if (item->key_len != CAS_HASH_BYTES ||
            cas_object_record_decode(item->value, item->value_len, &object, &err) < 0 ||
            object.chunk_count < 2)
                return (struct cas_scrub_spot){0};
        memcpy(id.bytes, item->key, CAS_HASH_BYTES);
        if (cas_index_get_object_chunks(run->s->index, &id, 0, &first, 1, &count, &err) < 0 ||
            count == 0 ||
            cas_index_peek(run->s->index, CAS_FAMILY_CHUNKS, first.chunk.bytes, CAS_HASH_BYTES,
                           &value, &err) < 0 ||
            cas_chunk_record_decode(value.data, value.len_bytes, &chunk, &err) < 0)
                return (struct cas_scrub_spot){0}; /* the look tells */
        return (struct cas_scrub_spot){.pack_id = chunk.pack_id, .offset = chunk.block_offset};
}

void cas_scrub_objects(struct cas_scrub_run *run)
{
        (void)cas_scrub_each(run, &(struct cas_scrub_family){.family = CAS_FAMILY_OBJECTS,
                                                             .check = check_object,
                                                             .counter = &run->out->objects,
                                                             .at_once = 64,
                                                             .spot = spot_of});
}
