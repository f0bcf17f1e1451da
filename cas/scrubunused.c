/* SPDX-License-Identifier: Apache-2.0 */
/* Scrub of chunks that nothing needs and that nobody has noted as garbage: three sorted families
 * are gone through side by side, some records at a time. */
#include "cas/condemned_int.h"
#include "cas/refs_int.h"
#include "cas/scrub_int.h"

#define CHUNKS_AT_ONCE 4096

/* Chunks in order, and which of them something needs. */
struct some {
        struct cas_scrub_run *run;
        struct cas_hash *list; /* owned */
        bool needed[CHUNKS_AT_ONCE];
        size_t count, at; /* at: of the family that is gone through */
        size_t key_bytes; /* of its keys that are compared */
        uint64_t unused;
};

static int take_chunk(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                      size_t value_len CAS_UNUSED, struct cas_err *err CAS_UNUSED)
{
        struct some *some = arg;
        if (key_len != CAS_HASH_BYTES)
                return 0; /* told of with the places */
        memcpy(some->list[some->count].bytes, key, CAS_HASH_BYTES);
        some->needed[some->count++] = false;
        return some->count == CHUNKS_AT_ONCE;
}

/* An object, or a reference to a chunk: chunks of its name are needed. */
static int mark_needed(void *arg, const void *key, size_t key_len, const void *value CAS_UNUSED,
                       size_t value_len CAS_UNUSED, struct cas_err *err CAS_UNUSED)
{
        struct some *some = arg;
        if (key_len < some->key_bytes)
                return 0;
        int order = 1;
        while (some->at < some->count &&
               (order = memcmp(some->list[some->at].bytes, key, some->key_bytes)) < 0)
                some->at++;
        for (size_t i = some->at; i < some->count && order == 0; i++) {
                if (memcmp(some->list[i].bytes, key, some->key_bytes) != 0)
                        break;
                some->needed[i] = true;
        }
        return some->at == some->count;
}

static int mark_by(struct some *some, enum cas_family family, size_t key_bytes, struct cas_err *err)
{
        const struct cas_scan scan = {
                .family = family, .from = some->list[0].bytes, .from_len = key_bytes};
        some->at = 0;
        some->key_bytes = key_bytes;
        return cas_index_scan(some->run->s->index, &scan, mark_needed, some, err);
}

/* Whether somebody knows that nothing needs the chunk. */
static bool is_condemned(struct cas_scrub_run *run, const struct cas_hash *chunk)
{
        struct cas_err err = CAS_ERR_INIT;
        bool there = false;
        for (enum cas_condemned_kind kind = CAS_CONDEMNED_OBJECT; kind <= CAS_CONDEMNED_CHUNK;
             kind++) {
                struct cas_record_key key;
                cas_condemned_key(&(struct cas_condemned){.kind = kind, .hash = *chunk}, &key);
                if (cas_index_has(run->s->index, CAS_FAMILY_CONDEMNED, key.bytes, key.len, &there,
                                  &err) < 0 ||
                    there)
                        return true;
        }
        return false;
}

/* Seen twice, with the record of the chunk there each time: who needs it from now on wrote that
 * before. */
static bool is_unused(struct cas_scrub_run *run, const struct cas_hash *chunk)
{
        struct cas_err err = CAS_ERR_INIT;
        bool there = false, needed = true;
        if (cas_index_has(run->s->index, CAS_FAMILY_CHUNKS, chunk->bytes, CAS_HASH_BYTES, &there,
                          &err) < 0 ||
            !there || is_condemned(run, chunk))
                return false;
        return cas_chunk_is_needed(run->s->index, chunk, &needed, &err) == 0 && !needed &&
               !is_condemned(run, chunk) &&
               cas_index_has(run->s->index, CAS_FAMILY_CHUNKS, chunk->bytes, CAS_HASH_BYTES, &there,
                             &err) == 0 &&
               there;
}

static bool check_some(struct some *some)
{
        struct cas_err err = CAS_ERR_INIT;
        int rc = mark_by(some, CAS_FAMILY_OBJECTS, CAS_HASH_BYTES, &err);
        if (rc == 0)
                rc = mark_by(some, CAS_FAMILY_CHUNK_REFS, CAS_REF_CHILD_BYTES, &err);
        if (rc == -CAS_E_NOMEM)
                cas_scrub_fail(some->run, &err);
        for (size_t i = 0; rc == 0 && i < some->count; i++)
                some->unused += !some->needed[i] && is_unused(some->run, &some->list[i]);
        return rc == 0;
}

static bool read_some(struct some *some)
{
        struct cas_record_key *place = &some->run->place.key;
        struct cas_err err = CAS_ERR_INIT;
        uint8_t from[CAS_RECORD_KEY_BYTES_MAX + 1];
        memcpy(from, place->bytes, place->len);
        from[place->len] = 0;
        some->count = 0;
        int rc = cas_index_scan(some->run->s->index,
                                &(struct cas_scan){.family = CAS_FAMILY_CHUNKS,
                                                   .from = from,
                                                   .from_len = place->len ? place->len + 1 : 0},
                                take_chunk, some, &err);
        if (rc == -CAS_E_NOMEM)
                cas_scrub_fail(some->run, &err);
        return rc == 0; /* what cannot be read was told with the places */
}

void cas_scrub_unused(struct cas_scrub_run *run)
{
        cas_cleanup_free struct some *some = cas_xcalloc(1, sizeof(*some));
        cas_cleanup_free struct cas_hash *list = cas_xcalloc(CHUNKS_AT_ONCE, sizeof(*list));
        some->run = run;
        some->list = list;
        while (read_some(some) && some->count > 0 && check_some(some)) {
                run->place.key.len = CAS_HASH_BYTES;
                memcpy(run->place.key.bytes, list[some->count - 1].bytes, CAS_HASH_BYTES);
                if (!cas_scrub_goes_on(run))
                        break;
        }
        if (some->unused)
                cas_scrub_say(run, CAS_FSCK_CHUNK_UNUSED, "index",
                              "%llu of them (`lamina gc --full` frees them)",
                              (unsigned long long)some->unused);
}
