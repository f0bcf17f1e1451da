/* SPDX-License-Identifier: Apache-2.0 */
/* Scrub of where chunks are: every record of a chunk was found true while its pack was read, or is
 * looked at by itself.
 *
 * While a pack is read, fingerprints of the chunks that the index has in that very place are added
 * up, by range of their names; the sums are kept in the index (meta), so that a pass goes on after
 * the store was closed. Then the records of each range are added up the same way. Where the sums of
 * a pack agree, all of its records are true (two sums of 64 bits agree by chance as seldom as
 * checksums do). Where they do not, because of damage or since chunks came and went meanwhile, each
 * chunk that the index has in that pack is read. So memory is 16 bytes a pack, and the index is
 * read once. */
#include "cas/scrub_int.h"

#include <xxhash.h>

#include "cas/map.h"
#include "cas/verity.h"

static const char sums_prefix[] = "scrub-pack/";

/* Chunks that are looked at one by one, at a time. */
#define SUSPECTS_MAX 65536
#define SUSPECTS_AT_ONCE 64

uint64_t cas_scrub_chunk_print(const struct cas_hash *chunk, const struct cas_chunk_record *rec)
{
        uint8_t place[20];
        cas_put_le64(place, rec->pack_id);
        cas_put_le64(place + 8, rec->block_offset);
        cas_put_le32(place + 16, rec->chunk_offset);
        return XXH3_64bits_withSeed(chunk->bytes, CAS_HASH_BYTES,
                                    XXH3_64bits(place, sizeof(place)));
}

/* ---- sums, kept ---- */

static void sums_key(uint64_t pack_id, struct cas_record_key *out)
{
        out->len = sizeof(sums_prefix) - 1 + 8;
        memcpy(out->bytes, sums_prefix, sizeof(sums_prefix) - 1);
        cas_put_be64(out->bytes + sizeof(sums_prefix) - 1, pack_id);
}

void cas_scrub_note_pack(struct cas_scrub_run *run, uint64_t pack_id,
                         const uint64_t sums[CAS_SCRUB_RANGES])
{
        struct cas_record_key key;
        uint8_t value[8 * CAS_SCRUB_RANGES];
        sums_key(pack_id, &key);
        for (unsigned i = 0; i < CAS_SCRUB_RANGES; i++)
                cas_put_le64(value + 8 * (size_t)i, sums[i]);
        cas_batch_put(run->notes, CAS_FAMILY_META, key.bytes, key.len, value, sizeof(value));
}

static int forget_one(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                      size_t value_len CAS_UNUSED, struct cas_err *err CAS_UNUSED)
{
        cas_batch_del(arg, CAS_FAMILY_META, key, key_len);
        return 0;
}

int cas_scrub_forget_packs(struct cas_scrub_run *run, struct cas_err *err)
{
        cas_cleanup_batch struct cas_batch *batch = cas_batch_new();
        int rc = cas_index_scan(run->s->index,
                                &(struct cas_scan){.family = CAS_FAMILY_META,
                                                   .prefix = sums_prefix,
                                                   .prefix_len = sizeof(sums_prefix) - 1},
                                forget_one, batch, err);
        return rc < 0 ? rc : cas_index_write(run->s->index, batch, err);
}

/* ---- sums, compared ---- */

/* Packs and the difference of both sums of one range; what is left is suspicious. */
struct sums {
        struct cas_scrub_run *run;
        unsigned range;
        struct cas_map *packs; /* be64 id -> sum over the packs less sum over the records */
        struct cas_map *suspects;
};

static void add(struct sums *sums, uint64_t pack_id, uint64_t n)
{
        uint8_t key[8];
        cas_put_be64(key, pack_id);
        *cas_map_put(sums->packs, key, sizeof(key), NULL) += n;
}

static void take_sum(void *arg, const void *key, size_t key_len, const void *value,
                     size_t value_len)
{
        struct sums *sums = arg;
        const size_t prefix = sizeof(sums_prefix) - 1;
        if (key_len == prefix + 8 && value_len == 8 * CAS_SCRUB_RANGES)
                add(sums, cas_get_be64((const uint8_t *)key + prefix),
                    cas_get_le64((const uint8_t *)value + 8 * (size_t)sums->range));
}

struct malformed {
        struct cas_hash chunk;
};

static void check_malformed(struct cas_look *look, void *arg)
{
        const struct malformed *m = arg;
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_chunk_record rec;
        struct cas_err err = CAS_ERR_INIT;
        char hex[CAS_HASH_HEX_BYTES];
        int rc = cas_index_peek(cas_look_run(look)->s->index, CAS_FAMILY_CHUNKS, m->chunk.bytes,
                                CAS_HASH_BYTES, &value, &err);
        if (rc == 0 && cas_chunk_record_decode(value.data, value.len_bytes, &rec, &err) < 0)
                cas_look_found(look, CAS_FSCK_RECORD_MALFORMED,
                               &(struct cas_damage){.kind = CAS_DAMAGE_CHUNK, .hash = m->chunk},
                               cas_hash_hex(&m->chunk, hex), "%s", err.msg);
}

static void subtract_record(void *arg, const void *key, size_t key_len, const void *value,
                            size_t value_len)
{
        struct sums *sums = arg;
        struct cas_chunk_record rec;
        struct malformed m;
        struct cas_err malformed = CAS_ERR_INIT;
        if (key_len != CAS_HASH_BYTES) {
                cas_scrub_say(sums->run, CAS_FSCK_RECORD_MALFORMED, "chunks", "%s", "key");
                return;
        }
        memcpy(m.chunk.bytes, key, CAS_HASH_BYTES);
        if (cas_chunk_record_decode(value, value_len, &rec, &malformed) < 0)
                cas_scrub_look(sums->run, check_malformed, &m);
        else
                add(sums, rec.pack_id, 0 - cas_scrub_chunk_print(&m.chunk, &rec));
}

static void note_suspect(void *arg, const void *key, size_t key_len, uint64_t value)
{
        struct sums *sums = arg;
        if (value != 0)
                (void)cas_map_put(sums->suspects, key, key_len, NULL);
}

/* ---- one by one ---- */

struct suspect {
        uint64_t pack_id, block_offset;
        struct cas_hash chunk;
};
struct suspects {
        struct sums *sums;
        struct suspect *list; /* owned */
        size_t count;
};
struct portion {
        struct cas_scrub_run *run;
        struct cas_scrub_blocks *blocks; /* while it is worked on */
        size_t count;
        struct suspect list[SUSPECTS_AT_ONCE];
};
struct suspect_look {
        struct portion *portion;
        const struct suspect *suspect;
};

/* The bytes have the name: a chunk's, or that of an object of one chunk. */
static bool has_name(const uint8_t *bytes, uint32_t len, const struct cas_hash *name)
{
        struct cas_hash got;
        cas_sha256(bytes, len, &got);
        if (cas_hash_equal(&got, name))
                return true;
        cas_verity_of(bytes, len, &got);
        return cas_hash_equal(&got, name);
}

static void check_suspect(struct cas_look *look, void *arg)
{
        const struct suspect_look *l = arg;
        const struct cas_hash *chunk = &l->suspect->chunk;
        const struct cas_damage damage = {.kind = CAS_DAMAGE_CHUNK, .hash = *chunk};
        struct cas_chunk_record rec = {0};
        struct cas_err err = CAS_ERR_INIT;
        const uint8_t *bytes;
        char hex[CAS_HASH_HEX_BYTES];
        cas_look_pin_chunk(look, chunk);
        cas_look_pin_object(look, chunk);
        int rc = cas_scrub_chunk_bytes(l->portion->blocks, chunk, &rec, &bytes, &err);
        if (rc == -CAS_E_NOTFOUND || rc == -CAS_E_BUSY)
                return;
        if (rc == -CAS_E_NOMEM)
                cas_scrub_fail(l->portion->run, &err);
        else if (rc < 0 || !has_name(bytes, rec.length_bytes, chunk))
                cas_look_found(look, CAS_FSCK_CHUNK_LOCATION, &damage, cas_hash_hex(chunk, hex),
                               "pack %016llx, byte %llu%s%s", (unsigned long long)rec.pack_id,
                               (unsigned long long)rec.block_offset, rc < 0 ? ": " : "",
                               rc < 0 ? err.msg : "");
}

static void check_portion(void *arg)
{
        cas_cleanup_free struct portion *p = arg;
        p->blocks = cas_scrub_blocks_new(p->run, true);
        for (size_t i = 0; i < p->count; i++)
                cas_scrub_look(p->run, check_suspect,
                               &(struct suspect_look){.portion = p, .suspect = &p->list[i]});
        cas_scrub_blocks_free(p->blocks);
}

static int by_place(const void *a, const void *b)
{
        const struct suspect *x = a, *y = b;
        if (x->pack_id != y->pack_id)
                return x->pack_id < y->pack_id ? -1 : 1;
        return (x->block_offset > y->block_offset) - (x->block_offset < y->block_offset);
}

static void check_list(struct suspects *suspects)
{
        struct cas_scrub_run *run = suspects->sums->run;
        if (suspects->count)
                qsort(suspects->list, suspects->count, sizeof(suspects->list[0]), by_place);
        for (size_t i = 0; i < suspects->count;) {
                struct portion *p = cas_xcalloc(1, sizeof(*p));
                p->run = run;
                p->count = cas_min_u64(SUSPECTS_AT_ONCE, suspects->count - i);
                memcpy(p->list, suspects->list + i, p->count * sizeof(p->list[0]));
                i += p->count;
                cas_scrub_submit(run, check_portion, p);
        }
        cas_scrub_wait(run);
        suspects->count = 0;
}

static void take_suspect(void *arg, const void *key, size_t key_len, const void *value,
                         size_t value_len)
{
        struct suspects *suspects = arg;
        struct cas_chunk_record rec;
        struct cas_err malformed = CAS_ERR_INIT;
        uint8_t pack[8];
        if (key_len != CAS_HASH_BYTES ||
            cas_chunk_record_decode(value, value_len, &rec, &malformed) < 0)
                return;
        cas_put_be64(pack, rec.pack_id);
        if (!cas_map_get(suspects->sums->suspects, pack, sizeof(pack)))
                return;
        struct suspect *s = &suspects->list[suspects->count++];
        s->pack_id = rec.pack_id;
        s->block_offset = rec.block_offset;
        memcpy(s->chunk.bytes, key, CAS_HASH_BYTES);
        if (suspects->count == SUSPECTS_MAX)
                check_list(suspects);
}

/* ---- ranges ---- */

/* Calls fn for the records of one range: two prefixes of names cannot be told by one prefix of
 * bytes, so each first byte is gone through. */
static bool scan_range(struct sums *sums, cas_scrub_record_fn fn, void *arg)
{
        bool good = true;
        for (unsigned low = 0; good && low < 16; low++) {
                const uint8_t first = (uint8_t)(sums->range << 4 | low);
                good = cas_scrub_scan(sums->run,
                                      &(struct cas_scan){.family = CAS_FAMILY_CHUNKS,
                                                         .prefix = &first,
                                                         .prefix_len = 1},
                                      fn, arg);
        }
        return good;
}

static bool check_suspects(struct sums *sums)
{
        struct suspects suspects = {.sums = sums};
        if (cas_map_count(sums->suspects) == 0)
                return true;
        suspects.list = cas_xcalloc(SUSPECTS_MAX, sizeof(suspects.list[0]));
        bool good = scan_range(sums, take_suspect, &suspects);
        if (good)
                check_list(&suspects);
        free(suspects.list);
        return good;
}

static bool check_range(struct cas_scrub_run *run, unsigned range)
{
        cas_cleanup_map struct cas_map *packs = cas_map_new();
        cas_cleanup_map struct cas_map *suspects = cas_map_new();
        struct sums sums = {.run = run, .range = range, .packs = packs, .suspects = suspects};
        if (!cas_scrub_scan(run,
                            &(struct cas_scan){.family = CAS_FAMILY_META,
                                               .prefix = sums_prefix,
                                               .prefix_len = sizeof(sums_prefix) - 1},
                            take_sum, &sums) ||
            !scan_range(&sums, subtract_record, &sums))
                return false;
        cas_map_each(packs, note_suspect, &sums);
        return check_suspects(&sums);
}

void cas_scrub_places(struct cas_scrub_run *run)
{
        /* The sums of the last packs are in the index before they are read there. */
        cas_scrub_save(run);
        for (unsigned range = run->place.key.len ? run->place.key.bytes[0] : 0;
             range < CAS_SCRUB_RANGES; range++) {
                if (!check_range(run, range))
                        return;
                run->place.key.bytes[0] = (uint8_t)(range + 1);
                run->place.key.len = 1;
        }
}
