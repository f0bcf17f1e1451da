/* SPDX-License-Identifier: Apache-2.0 */
/* fsck: packs, blocks, chunks and objects. One thread walks a pack; the pool
 * decodes its blocks and compares every chunk with its name. */
#include <fcntl.h>
#include <stdio.h>

#include "cas/fsck_int.h"
#include "cas/object.h"
#include "cas/pack_int.h"
#include "cas/packset_int.h"
#include "cas/record_int.h"
#include "cas/verity.h"

#define READ_BYTES (256 * CAS_KIB)

struct pack_check {
        struct cas_fsck_run *run;
        uint64_t pack_id;
        char subject[32];
        int fd;
        bool hash_wanted;
        struct cas_hash sha256; /* as the index has it */
        /* guarded by run->mutex: what the index does not know */
        uint64_t garbage_chunks, garbage_bytes;
};

struct block_task {
        struct pack_check *pack; /* outlives the task */
        struct cas_extent block;
        uint32_t chunk_count;
        struct cas_pack_chunk chunks[];
};

/* ---- chunks ---- */

static void check_digest(struct pack_check *pack, const struct cas_pack_chunk *chunk,
                         const uint8_t *block, bool *sound)
{
        struct cas_hash got;
        if (chunk->is_object)
                cas_verity_of(block + chunk->chunk_offset, chunk->length_bytes, &got);
        else
                cas_sha256(block + chunk->chunk_offset, chunk->length_bytes, &got);
        *sound = cas_hash_equal(&got, &chunk->chunk);
        if (!*sound) {
                char name[CAS_HASH_HEX_BYTES], hex[CAS_HASH_HEX_BYTES];
                cas_fsck_say(pack->run, CAS_FSCK_CHUNK_DIGEST, cas_hash_hex(&chunk->chunk, name),
                             "%s, in pack %s", cas_hash_hex(&got, hex), pack->subject);
        }
}

static bool same_place(const struct cas_chunk_record *rec, const struct cas_extent *block,
                       const struct cas_pack_chunk *chunk)
{
        return rec->pack_id == block->pack_id && rec->block_offset == block->block_offset &&
               rec->chunk_offset == chunk->chunk_offset;
}

static bool same_facts(const struct cas_chunk_record *rec, const struct cas_extent *block,
                       const struct cas_pack_chunk *chunk)
{
        return rec->block_stored_bytes == block->block_stored_bytes &&
               rec->block_raw_bytes == block->block_raw_bytes &&
               rec->block_checksum == block->block_checksum && rec->codec == block->codec &&
               rec->length_bytes == chunk->length_bytes;
}

/* Compares a sound chunk with what the index says of it. */
static void check_place(struct pack_check *pack, const struct cas_extent *block,
                        const struct cas_pack_chunk *chunk)
{
        struct cas_fsck_run *run = pack->run;
        struct cas_chunk_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_index_get_chunk(run->s->index, &chunk->chunk, &rec, &miss);
        if (rc < 0 && rc != -CAS_E_NOTFOUND && rc != -CAS_E_CORRUPT) {
                cas_fsck_fail(run, &miss);
                return;
        }
        if (rc == 0 && same_place(&rec, block, chunk)) {
                if (same_facts(&rec, block, chunk)) {
                        cas_mutex_lock(&run->mutex);
                        (void)cas_hashset_add(&run->chunks, chunk->chunk.bytes);
                        cas_mutex_unlock(&run->mutex);
                }
                return; /* chunks that were not found sound are told of later */
        }
        cas_mutex_lock(&run->mutex);
        pack->garbage_chunks++;
        pack->garbage_bytes += chunk->length_bytes;
        cas_mutex_unlock(&run->mutex);
}

static void check_block(void *arg)
{
        cas_cleanup_free struct block_task *task = arg;
        struct pack_check *pack = task->pack;
        cas_cleanup_buf struct cas_buf scratch = CAS_BUF_INIT;
        cas_cleanup_free uint8_t *raw = cas_xmalloc(task->block.block_raw_bytes + 1);
        struct cas_err err = CAS_ERR_INIT;
        if (cas_block_read(pack->fd, &task->block, raw, &scratch, &err) < 0) {
                cas_fsck_say(pack->run, CAS_FSCK_BLOCK_DAMAGED, pack->subject, "at byte %llu: %s",
                             (unsigned long long)task->block.block_offset, err.msg);
        } else {
                for (uint32_t i = 0; i < task->chunk_count; i++) {
                        bool sound;
                        check_digest(pack, &task->chunks[i], raw, &sound);
                        if (sound)
                                check_place(pack, &task->block, &task->chunks[i]);
                }
        }
        cas_mutex_lock(&pack->run->mutex);
        pack->run->out->blocks++;
        pack->run->out->chunks += task->chunk_count;
        cas_mutex_unlock(&pack->run->mutex);
        cas_fsck_progress(pack->run, "packs", task->block.block_stored_bytes);
}

static int submit_block(void *arg, const struct cas_pack_item *item, struct cas_err *err CAS_UNUSED)
{
        struct pack_check *pack = arg;
        if (item->kind != CAS_PACK_BLOCK)
                return 0; /* the walk has checked their checksums; objects are checked by content */
        struct block_task *task =
                cas_xmalloc(sizeof(*task) + item->chunk_count * sizeof(task->chunks[0]));
        task->pack = pack;
        task->block = item->block;
        task->chunk_count = item->chunk_count;
        memcpy(task->chunks, item->chunks, item->chunk_count * sizeof(task->chunks[0]));
        cas_pool_submit(pack->run->s->pool, &pack->run->group, check_block, task);
        return 0;
}

/* ---- packs ---- */

static void hash_pack(void *arg)
{
        struct pack_check *pack = arg;
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(CAS_DIGEST_SHA256);
        cas_cleanup_free uint8_t *buf = cas_xmalloc(READ_BYTES);
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest got;
        size_t len = READ_BYTES;
        for (uint64_t at = 0; len == READ_BYTES; at += len) {
                if (cas_io_pread(pack->run->s->io, pack->fd, buf, READ_BYTES, at, &len,
                                 pack->subject, &err) < 0) {
                        cas_fsck_say(pack->run, CAS_FSCK_PACK_DAMAGED, pack->subject, "%s",
                                     err.msg);
                        return;
                }
                cas_hasher_update(hasher, buf, len);
        }
        cas_hasher_final(hasher, &got);
        if (memcmp(got.bytes, pack->sha256.bytes, CAS_HASH_BYTES) != 0)
                cas_fsck_say(pack->run, CAS_FSCK_PACK_SHA256, pack->subject, "%s", "");
}

/* Recovery cuts torn tails, but no whole records. */
static void check_tail(struct pack_check *pack, uint64_t end)
{
        struct cas_err err = CAS_ERR_INIT;
        bool more = false;
        if (cas_pack_has_record(pack->run->s->io, pack->fd, pack->pack_id, end + 1, &more, &err) <
            0)
                cas_fsck_fail(pack->run, &err);
        else if (more)
                cas_fsck_say(pack->run, CAS_FSCK_PACK_TAIL, pack->subject, "damaged at byte %llu",
                             (unsigned long long)end);
}

static void walk_pack(struct pack_check *pack, const struct cas_pack_record *rec)
{
        struct cas_fsck_run *run = pack->run;
        struct cas_err err = CAS_ERR_INIT;
        struct stat st = {0};
        uint64_t end = 0;
        bool sealed = false;
        if (fstat(pack->fd, &st) != 0 || (uint64_t)st.st_size < rec->size_bytes) {
                cas_fsck_say(run, CAS_FSCK_PACK_SHORT, pack->subject, "%llu bytes are missing",
                             (unsigned long long)(rec->size_bytes - (uint64_t)st.st_size));
        }
        int rc = cas_pack_walk(run->s->io, pack->fd, pack->pack_id, submit_block, pack, &end,
                               &sealed, &err);
        if (rc < 0)
                cas_fsck_say(run, CAS_FSCK_PACK_DAMAGED, pack->subject, "%s", err.msg);
        else if (rec->sealed && !sealed)
                cas_fsck_say(run, CAS_FSCK_PACK_DAMAGED, pack->subject, "its footer is gone");
        else if (!sealed && end < rec->size_bytes)
                cas_fsck_say(run, CAS_FSCK_PACK_DAMAGED, pack->subject, "at byte %llu",
                             (unsigned long long)end);
        else if (!sealed && end < (uint64_t)st.st_size)
                check_tail(pack, end);
}

static void check_pack(struct cas_fsck_run *run, uint64_t pack_id,
                       const struct cas_pack_record *rec)
{
        struct pack_check pack = {.run = run, .pack_id = pack_id, .fd = -1, .sha256 = rec->sha256};
        struct cas_err err = CAS_ERR_INIT;
        (void)snprintf(pack.subject, sizeof(pack.subject), "%016llx", (unsigned long long)pack_id);
        run->out->packs++;
        if (cas_packset_open_pack(run->s->packset, pack_id, &pack.fd, &err) < 0) {
                cas_fsck_say(run, CAS_FSCK_PACK_MISSING, pack.subject, "%s", err.msg);
                return;
        }
        if (rec->sealed)
                cas_pool_submit(run->s->pool, &run->group, hash_pack, &pack);
        walk_pack(&pack, rec);
        cas_pool_wait(run->s->pool, &run->group);
        (void)close(pack.fd);
        if (pack.garbage_chunks)
                cas_fsck_say(run, CAS_FSCK_PACK_GARBAGE, pack.subject,
                             "%llu chunks of %llu bytes in all (`lamina gc` frees them)",
                             (unsigned long long)pack.garbage_chunks,
                             (unsigned long long)pack.garbage_bytes);
}

static int check_pack_record(void *arg, const void *key, size_t key_len, const void *value,
                             size_t value_len, struct cas_err *err CAS_UNUSED)
{
        struct cas_fsck_run *run = arg;
        struct cas_pack_record rec;
        struct cas_err malformed = CAS_ERR_INIT;
        if (key_len != 8 || cas_pack_record_decode(value, value_len, &rec, &malformed) < 0)
                cas_fsck_say(run, CAS_FSCK_RECORD_MALFORMED, "packs", "%s", malformed.msg);
        else
                check_pack(run, cas_get_be64(key), &rec);
        return 0;
}

/* Chunks of the index that no block was found to hold. */
static int check_chunk_record(void *arg, const void *key, size_t key_len, const void *value,
                              size_t value_len, struct cas_err *err CAS_UNUSED)
{
        struct cas_fsck_run *run = arg;
        struct cas_chunk_record rec;
        struct cas_hash name;
        struct cas_err malformed = CAS_ERR_INIT;
        char hex[CAS_HASH_HEX_BYTES];
        if (key_len != CAS_HASH_BYTES) {
                cas_fsck_say(run, CAS_FSCK_RECORD_MALFORMED, "chunks", "%s", "key");
                return 0;
        }
        memcpy(name.bytes, key, CAS_HASH_BYTES);
        cas_hash_hex(&name, hex);
        if (cas_chunk_record_decode(value, value_len, &rec, &malformed) < 0)
                cas_fsck_say(run, CAS_FSCK_RECORD_MALFORMED, hex, "%s", malformed.msg);
        else if (!cas_hashset_has(&run->chunks, name.bytes))
                cas_fsck_say(run, CAS_FSCK_CHUNK_LOCATION, hex, "pack %016llx, byte %llu",
                             (unsigned long long)rec.pack_id, (unsigned long long)rec.block_offset);
        return 0;
}

int cas_fsck_packs(struct cas_fsck_run *run, struct cas_err *err)
{
        int rc = cas_index_scan(run->s->index, &(struct cas_scan){.family = CAS_FAMILY_PACKS},
                                check_pack_record, run, err);
        return rc < 0 ? rc
                      : cas_index_scan(run->s->index,
                                       &(struct cas_scan){.family = CAS_FAMILY_CHUNKS},
                                       check_chunk_record, run, err);
}

/* ---- objects ---- */

struct object_task {
        struct cas_fsck_run *run;
        struct cas_hash id;
        uint64_t size_bytes;
};

struct object_sum {
        struct cas_verity *verity;
        uint64_t size_bytes;
};

static int add_bytes(void *arg, const void *data, size_t len, struct cas_err *err CAS_UNUSED)
{
        struct object_sum *sum = arg;
        cas_verity_update(sum->verity, data, len);
        sum->size_bytes += len;
        return 0;
}

/* The content of an object of several chunks, or of none. */
static void check_object(void *arg)
{
        cas_cleanup_free struct object_task *task = arg;
        cas_cleanup_verity struct cas_verity *verity = cas_verity_new();
        struct object_sum sum = {.verity = verity};
        struct cas_err err = CAS_ERR_INIT;
        struct cas_hash got;
        char hex[CAS_HASH_HEX_BYTES], got_hex[CAS_HASH_HEX_BYTES];
        cas_hash_hex(&task->id, hex);
        int rc = cas_object_each(task->run->s, &task->id, add_bytes, &sum, &err);
        cas_verity_final(verity, &got);
        if (rc < 0)
                cas_fsck_say(task->run, CAS_FSCK_OBJECT_DIGEST, hex, "%s", err.msg);
        else if (sum.size_bytes != task->size_bytes)
                cas_fsck_say(task->run, CAS_FSCK_OBJECT_SIZE, hex, "%llu bytes, %llu expected",
                             (unsigned long long)sum.size_bytes,
                             (unsigned long long)task->size_bytes);
        else if (!cas_hash_equal(&got, &task->id))
                cas_fsck_say(task->run, CAS_FSCK_OBJECT_DIGEST, hex, "%s",
                             cas_hash_hex(&got, got_hex));
}

struct objects {
        struct cas_fsck_run *run;
        struct cas_hashset used; /* chunks that objects need */
};

/* True when the index has the chunk, with this length. */
static bool check_needed(struct objects *o, const struct cas_hash *object,
                         const struct cas_hash *chunk, uint64_t length_bytes)
{
        struct cas_chunk_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        char hex[CAS_HASH_HEX_BYTES], chunk_hex[CAS_HASH_HEX_BYTES];
        (void)cas_hashset_add(&o->used, chunk->bytes);
        int rc = cas_index_get_chunk(o->run->s->index, chunk, &rec, &miss);
        if (rc < 0) {
                cas_fsck_say(o->run, CAS_FSCK_CHUNK_MISSING, cas_hash_hex(object, hex), "%s",
                             miss.msg);
                return false;
        }
        if (rec.length_bytes != length_bytes) {
                cas_fsck_say(o->run, CAS_FSCK_OBJECT_SIZE, cas_hash_hex(object, hex),
                             "chunk %s has %u bytes, %llu expected", cas_hash_hex(chunk, chunk_hex),
                             rec.length_bytes, (unsigned long long)length_bytes);
                return false;
        }
        return true;
}

/* A page of the list, which begins with chunk `first`, says that it starts at byte `bytes`. */
static bool page_starts_at(struct objects *o, const struct cas_hash *id, uint32_t chunk_count,
                           uint32_t first, uint64_t bytes)
{
        char hex[CAS_HASH_HEX_BYTES];
        struct cas_err err = CAS_ERR_INIT;
        uint32_t chunk = 0;
        uint64_t offset = 0;
        int rc = cas_index_seek_object_chunk(o->run->s->index, id, chunk_count, first, UINT64_MAX,
                                             &chunk, &offset, &err);
        if (rc == 0 && chunk == first && offset == bytes)
                return true;
        cas_fsck_say(o->run, CAS_FSCK_OBJECT_SIZE, cas_hash_hex(id, hex),
                     "the list has chunk %u at byte %llu, it is at %llu", first,
                     (unsigned long long)offset, (unsigned long long)bytes);
        return false;
}

/* True when the object's list is whole and all of its chunks are there. */
static bool check_list(struct objects *o, const struct cas_hash *id,
                       const struct cas_object_record *rec)
{
        struct cas_chunk_ref refs[256];
        struct cas_err err = CAS_ERR_INIT;
        uint32_t first = 0, count;
        uint64_t bytes = 0;
        bool whole = true;
        do {
                if (cas_index_get_object_chunks(o->run->s->index, id, first, refs, CAS_COUNT(refs),
                                                &count, &err) < 0) {
                        cas_fsck_say(o->run, CAS_FSCK_RECORD_MALFORMED, "object-chunks", "%s",
                                     err.msg);
                        return false;
                }
                if (count > 0 && !page_starts_at(o, id, rec->chunk_count, first, bytes))
                        whole = false;
                for (uint32_t i = 0; i < count; i++) {
                        bytes += refs[i].length_bytes;
                        whole = check_needed(o, id, &refs[i].chunk, refs[i].length_bytes) && whole;
                }
                first += count;
        } while (count > 0);
        if (first != rec->chunk_count || bytes != rec->size_bytes) {
                char hex[CAS_HASH_HEX_BYTES];
                cas_fsck_say(o->run, CAS_FSCK_OBJECT_SIZE, cas_hash_hex(id, hex),
                             "%u chunks of %llu bytes, %u of %llu expected", first,
                             (unsigned long long)bytes, rec->chunk_count,
                             (unsigned long long)rec->size_bytes);
                return false;
        }
        return whole;
}

static int check_object_record(void *arg, const void *key, size_t key_len, const void *value,
                               size_t value_len, struct cas_err *err CAS_UNUSED)
{
        struct objects *o = arg;
        struct cas_object_record rec;
        struct cas_hash id;
        struct cas_err malformed = CAS_ERR_INIT;
        o->run->out->objects++;
        if (key_len != CAS_HASH_BYTES ||
            cas_object_record_decode(value, value_len, &rec, &malformed) < 0) {
                cas_fsck_say(o->run, CAS_FSCK_RECORD_MALFORMED, "objects", "%s", malformed.msg);
                return 0;
        }
        memcpy(id.bytes, key, CAS_HASH_BYTES);
        if (rec.chunk_count == 1) { /* its chunk, named alike, was compared with its name */
                (void)check_needed(o, &id, &id, rec.size_bytes);
                return 0;
        }
        if (rec.chunk_count > 1 && !check_list(o, &id, &rec))
                return 0;
        struct object_task *task = cas_xmalloc(sizeof(*task));
        *task = (struct object_task){.run = o->run, .id = id, .size_bytes = rec.size_bytes};
        cas_pool_submit(o->run->s->pool, &o->run->group, check_object, task);
        return 0;
}

struct unused {
        const struct cas_hashset *used;
        uint64_t count;
};

static int count_unused(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                        size_t value_len CAS_UNUSED, struct cas_err *err CAS_UNUSED)
{
        struct unused *unused = arg;
        if (key_len == CAS_HASH_BYTES && !cas_hashset_has(unused->used, key))
                unused->count++;
        return 0;
}

int cas_fsck_objects(struct cas_fsck_run *run, struct cas_err *err)
{
        struct objects o = {.run = run};
        int rc = cas_index_scan(run->s->index, &(struct cas_scan){.family = CAS_FAMILY_OBJECTS},
                                check_object_record, &o, err);
        cas_pool_wait(run->s->pool, &run->group);
        struct unused unused = {.used = &o.used};
        if (rc == 0)
                rc = cas_index_scan(run->s->index, &(struct cas_scan){.family = CAS_FAMILY_CHUNKS},
                                    count_unused, &unused, err);
        if (rc == 0 && unused.count)
                cas_fsck_say(run, CAS_FSCK_CHUNK_UNUSED, "index",
                             "%llu of them (`lamina gc` frees them)",
                             (unsigned long long)unused.count);
        cas_hashset_release(&o.used);
        return rc;
}
