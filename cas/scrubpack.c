/* SPDX-License-Identifier: Apache-2.0 */
/* Scrub of packs: the calling thread reads a pack once, in order; others decode its blocks and
 * compare every chunk with its name and with where the index has it. */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "cas/codec.h"
#include "cas/pack_int.h"
#include "cas/packfile_int.h"
#include "cas/scrub_int.h"
#include "cas/verity.h"

/* One look at one pack. */
struct pack_look {
        struct cas_look *look;
        struct cas_scrub_run *run;
        uint64_t pack_id;
        char subject[32];
        struct cas_damage damage;
        struct cas_pack_record rec;
        /* Nobody had it in hand when the look began: what the index did not know of it then, it
         * will never know. */
        bool quiet;
        uint64_t blocks, chunks;

        struct cas_mutex mutex; /* a leaf; guards: */
        uint64_t sums[CAS_SCRUB_RANGES];
        uint64_t garbage_chunks, garbage_bytes;
};

struct block_task {
        struct pack_look *pack; /* outlives the task */
        struct cas_extent block;
        uint8_t *frame; /* owned */
        uint32_t chunk_count;
        struct cas_pack_chunk chunks[];
};

/* ---- blocks ---- */

static bool is_sound(struct pack_look *pack, const struct cas_pack_chunk *chunk,
                     const uint8_t *block)
{
        struct cas_hash got;
        char name[CAS_HASH_HEX_BYTES], hex[CAS_HASH_HEX_BYTES];
        if (chunk->is_object)
                cas_verity_of(block + chunk->chunk_offset, chunk->length_bytes, &got);
        else
                cas_sha256(block + chunk->chunk_offset, chunk->length_bytes, &got);
        if (cas_hash_equal(&got, &chunk->chunk))
                return true;
        cas_look_found(pack->look, CAS_FSCK_CHUNK_DIGEST, &pack->damage,
                       cas_hash_hex(&chunk->chunk, name), "%s, in pack %s", cas_hash_hex(&got, hex),
                       pack->subject);
        return false;
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

/* Compares a sound chunk with what the index says of it. Records that are wrong are found when the
 * sums are compared. */
static void note_chunk(struct pack_look *pack, const struct cas_extent *block,
                       const struct cas_pack_chunk *chunk)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_chunk_record rec;
        struct cas_err miss = CAS_ERR_INIT;
        int rc = cas_index_peek(pack->run->s->index, CAS_FAMILY_CHUNKS, chunk->chunk.bytes,
                                CAS_HASH_BYTES, &value, &miss);
        if (rc == 0)
                rc = cas_chunk_record_decode(value.data, value.len_bytes, &rec, &miss);
        if (rc < 0 && rc != -CAS_E_NOTFOUND && rc != -CAS_E_CORRUPT && rc != -CAS_E_IO) {
                cas_scrub_fail(pack->run, &miss);
                return;
        }
        bool here = rc == 0 && same_place(&rec, block, chunk);
        cas_mutex_lock(&pack->mutex);
        if (here && same_facts(&rec, block, chunk)) {
                pack->sums[cas_scrub_range(&chunk->chunk)] +=
                        cas_scrub_chunk_print(&chunk->chunk, &rec);
        } else if (!here) {
                pack->garbage_chunks++;
                pack->garbage_bytes += chunk->length_bytes;
        }
        cas_mutex_unlock(&pack->mutex);
}

static void check_block(void *arg)
{
        struct block_task *task = arg;
        struct pack_look *pack = task->pack;
        cas_cleanup_free uint8_t *raw = cas_xmalloc(task->block.block_raw_bytes + 1);
        struct cas_err err = CAS_ERR_INIT;
        int rc = cas_codec_decode(task->block.codec, task->frame, task->block.block_stored_bytes,
                                  raw, task->block.block_raw_bytes, &err);
        if (rc == 0 && XXH3_64bits(raw, task->block.block_raw_bytes) != task->block.block_checksum)
                rc = cas_fail(&err, CAS_E_CORRUPT, "checksum of the decoded block differs");
        if (rc < 0)
                cas_look_found(pack->look, CAS_FSCK_BLOCK_DAMAGED, &pack->damage, pack->subject,
                               "at byte %llu: %s", (unsigned long long)task->block.block_offset,
                               err.msg);
        for (uint32_t i = 0; rc == 0 && i < task->chunk_count; i++) {
                if (is_sound(pack, &task->chunks[i], raw))
                        note_chunk(pack, &task->block, &task->chunks[i]);
        }
        free(task->frame);
        free(task);
}

/* The index knows so much of the pack; what is behind is being written. */
static bool is_known(const struct pack_look *pack, const struct cas_pack_item *item)
{
        return pack->rec.sealed || item->record_offset + item->record_bytes <= pack->rec.size_bytes;
}

static int take_item(void *arg, const struct cas_pack_item *item, struct cas_err *err)
{
        struct pack_look *pack = arg;
        if (!is_known(pack, item))
                return cas_fail(err, CAS_E_BUSY, "being written");
        if (item->kind != CAS_PACK_BLOCK)
                return 0; /* the walk has checked their checksums; objects are checked by content */
        struct block_task *task =
                cas_xmalloc(sizeof(*task) + item->chunk_count * sizeof(task->chunks[0]));
        task->pack = pack;
        task->block = item->block;
        task->frame = cas_xmalloc(item->block.block_stored_bytes);
        memcpy(task->frame, item->frame, item->block.block_stored_bytes);
        task->chunk_count = item->chunk_count;
        memcpy(task->chunks, item->chunks, item->chunk_count * sizeof(task->chunks[0]));
        pack->blocks++;
        pack->chunks += item->chunk_count;
        cas_scrub_submit(pack->run, check_block, task);
        return 0;
}

/* ---- a pack ---- */

/* Recovery cuts torn tails, but no whole records: such a pack is not written to. */
static void check_tail(struct pack_look *pack, int fd, uint64_t end)
{
        struct cas_err err = CAS_ERR_INIT;
        bool more = false;
        if (cas_packset_is_open(pack->run->s->packset, pack->pack_id))
                return;
        if (cas_pack_has_record(pack->run->s->io, fd, pack->pack_id, end + 1, &more, &err) < 0)
                cas_look_found(pack->look, CAS_FSCK_PACK_DAMAGED, &pack->damage, pack->subject,
                               "%s", err.msg);
        else if (more)
                cas_look_found(pack->look, CAS_FSCK_PACK_TAIL, NULL, pack->subject,
                               "damaged at byte %llu", (unsigned long long)end);
}

static void walk_pack(struct pack_look *pack, struct cas_scrub_file *f, uint64_t file_bytes)
{
        const struct cas_pack_record *rec = &pack->rec;
        struct cas_err err = CAS_ERR_INIT;
        uint64_t end = 0;
        bool sealed = false;
        int rc = cas_pack_walk(cas_scrub_file_io(f), cas_scrub_file_fd(f), pack->pack_id, take_item,
                               pack, &end, &sealed, &err);
        if (rc == -CAS_E_BUSY)
                return;
        if (rc < 0)
                cas_look_found(pack->look, CAS_FSCK_PACK_DAMAGED, &pack->damage, pack->subject,
                               "%s", err.msg);
        else if (rec->sealed && !sealed)
                cas_look_found(pack->look, CAS_FSCK_PACK_DAMAGED, &pack->damage, pack->subject,
                               "its footer is gone");
        else if (!sealed && end < rec->size_bytes)
                cas_look_found(pack->look, CAS_FSCK_PACK_DAMAGED, &pack->damage, pack->subject,
                               "at byte %llu", (unsigned long long)end);
        else if (!sealed && end < file_bytes)
                check_tail(pack, cas_scrub_file_fd(f), end);
}

static void read_pack(struct pack_look *pack, struct cas_scrub_file *f)
{
        cas_cleanup_hasher struct cas_hasher *hasher = cas_hasher_new(CAS_DIGEST_SHA256);
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest got;
        struct stat st = {0};
        uint64_t bytes;
        if (fstat(cas_scrub_file_fd(f), &st) != 0 || (uint64_t)st.st_size < pack->rec.size_bytes)
                cas_look_found(pack->look, CAS_FSCK_PACK_SHORT, &pack->damage, pack->subject,
                               "%llu bytes are missing",
                               (unsigned long long)(pack->rec.size_bytes - (uint64_t)st.st_size));
        if (pack->rec.sealed)
                cas_scrub_file_feed(f, hasher);
        walk_pack(pack, f, (uint64_t)st.st_size);
        if (!pack->rec.sealed)
                return;
        if (cas_scrub_file_rest(f, &bytes, &err) < 0) {
                cas_look_found(pack->look, CAS_FSCK_PACK_DAMAGED, &pack->damage, pack->subject,
                               "%s", err.msg);
                return;
        }
        cas_hasher_final(hasher, &got);
        if (memcmp(got.bytes, pack->rec.sha256.bytes, CAS_HASH_BYTES) != 0)
                cas_look_found(pack->look, CAS_FSCK_PACK_SHA256, &pack->damage, pack->subject, "%s",
                               "");
}

static void note_pack(struct pack_look *pack)
{
        struct cas_scrub_run *run = pack->run;
        cas_scrub_note_pack(run, pack->pack_id, pack->sums);
        if (!cas_look_is_first(pack->look))
                return;
        cas_scrub_count(run, &run->out->blocks, pack->blocks);
        cas_scrub_count(run, &run->out->chunks, pack->chunks);
        if (pack->garbage_chunks && pack->quiet)
                cas_scrub_say(run, CAS_FSCK_PACK_GARBAGE, pack->subject,
                              "%llu chunks of %llu bytes in all (`lamina gc` frees them)",
                              (unsigned long long)pack->garbage_chunks,
                              (unsigned long long)pack->garbage_bytes);
}

static void check_pack(struct pack_look *pack)
{
        cas_cleanup_scrub_file struct cas_scrub_file *f = NULL;
        struct cas_packset *ps = pack->run->s->packset;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_pack_record known;
        pack->quiet = cas_packset_is_quiet(ps, pack->pack_id);
        int rc = cas_index_get_pack(ps->index, pack->pack_id, &known, &err);
        if (rc == -CAS_E_NOTFOUND && !cas_look_is_first(pack->look))
                return; /* the index has forgotten it since */
        if (rc == 0 && !cas_packset_is_reachable(ps, known.tier)) {
                cas_look_found(pack->look, CAS_FSCK_PACK_UNREACHABLE, NULL, pack->subject, "%s",
                               "");
                return;
        }
        if (rc == 0)
                rc = cas_scrub_file_open_pack(pack->run, pack->pack_id, &f, &err);
        if (rc < 0) {
                cas_look_found(pack->look, CAS_FSCK_PACK_MISSING, &pack->damage, pack->subject,
                               "%s", err.msg);
                return;
        }
        read_pack(pack, f);
        cas_scrub_wait(pack->run);
        note_pack(pack);
}

static void check_record(struct cas_look *look, const struct cas_scrub_item *item)
{
        struct pack_look pack = {.look = look, .run = cas_look_run(look)};
        struct cas_err malformed = CAS_ERR_INIT;
        if (item->key_len != 8 ||
            cas_pack_record_decode(item->value, item->value_len, &pack.rec, &malformed) < 0) {
                cas_look_found(look, CAS_FSCK_RECORD_MALFORMED, NULL, "packs", "%s", malformed.msg);
                return;
        }
        pack.pack_id = cas_get_be64(item->key);
        pack.damage = (struct cas_damage){.kind = CAS_DAMAGE_PACK, .pack_id = pack.pack_id};
        (void)snprintf(pack.subject, sizeof(pack.subject), "%016llx",
                       (unsigned long long)pack.pack_id);
        cas_mutex_init(&pack.mutex, "scrub.pack");
        check_pack(&pack);
        cas_mutex_release(&pack.mutex);
}

void cas_scrub_packs(struct cas_scrub_run *run)
{
        (void)cas_scrub_each(run, &(struct cas_scrub_family){.family = CAS_FAMILY_PACKS,
                                                             .check = check_record,
                                                             .counter = &run->out->packs,
                                                             .at_once = 1,
                                                             .alone = true});
}
