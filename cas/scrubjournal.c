/* SPDX-License-Identifier: Apache-2.0 */
/* Scrub of the journal: all groups by their checksums, and what they make against the names of the
 * index.
 *
 * Names are compared in as many rounds as are needed for those of one round to fit into memory; a
 * round takes the names whose hashes fall to it. Names change meanwhile: what differs is compared
 * again by itself, between two looks at the index that found the same. */
#include <stdio.h>
#include <xxhash.h>

#include "cas/commit_int.h"
#include "cas/map.h"
#include "cas/scrub_int.h"

/* Names of one round: about 100 bytes each. */
#define ROUND_NAMES_MAX 1000000
/* Names that differ and are compared again, in one go. */
#define DIFFERENT_MAX 100000
#define LOOKS_MAX 5

/* Names of one round by the journal: family and key -> hash of the value, never 0. */
struct names {
        struct cas_scrub_run *run;
        struct cas_map *journal;
        uint64_t round, rounds;
        enum cas_family family; /* while the index is read */
        bool full;              /* more than ROUND_NAMES_MAX */
        struct cas_map *different;
};

static const enum cas_family named[] = {CAS_FAMILY_MANIFESTS, CAS_FAMILY_BLOB_LINKS,
                                        CAS_FAMILY_TAGS, CAS_FAMILY_REFERRERS};

struct full_key {
        uint8_t bytes[1 + CAS_RECORD_KEY_BYTES_MAX];
        size_t len;
};

static void full_key_set(enum cas_family family, const void *key, size_t len, struct full_key *out)
{
        len = cas_min_u64(len, CAS_RECORD_KEY_BYTES_MAX);
        out->bytes[0] = (uint8_t)family;
        memcpy(out->bytes + 1, key, len);
        out->len = 1 + len;
}

static uint64_t value_hash(const void *value, size_t len)
{
        uint64_t h = XXH3_64bits(value, len);
        return h ? h : 1;
}

static bool is_of_round(const struct names *names, const struct full_key *key)
{
        return XXH3_64bits(key->bytes, key->len) % names->rounds == names->round;
}

/* ---- the journal ---- */

static int take_name(void *arg, const struct cas_name_record *rec, struct cas_err *err)
{
        struct names *names = arg;
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        struct full_key full;
        enum cas_family family = cas_name_record_key(rec, &key);
        full_key_set(family, key.bytes, key.len, &full);
        if (!is_of_round(names, &full))
                return 0;
        if (!cas_name_record_value(rec, &value)) {
                (void)cas_map_remove(names->journal, full.bytes, full.len);
                return 0;
        }
        names->full = cas_map_count(names->journal) == ROUND_NAMES_MAX;
        if (names->full)
                return cas_fail(err, CAS_E_LIMIT, "more names than fit");
        *cas_map_put(names->journal, full.bytes, full.len, NULL) =
                value_hash(value.data, value.len_bytes);
        return 0;
}

struct replay {
        int (*fn)(void *arg, const struct cas_name_record *rec, struct cas_err *err);
        void *arg;
        struct cas_journal_position seen;
        int rc;
        struct cas_err err;
};

/* The journal as far as the index has seen it. */
static void replay(struct cas_look *look, void *arg)
{
        struct replay *r = arg;
        struct cas_scrub_run *run = cas_look_run(look);
        struct cas_err bad = CAS_ERR_INIT;
        uint64_t bytes = 0;
        int rc = cas_commit_seen(run->s->index, &r->seen, &bad);
        if (rc == 0)
                rc = cas_journal_verify(run->s->io, run->s->dirfd, run->s->id, &r->seen, r->fn,
                                        r->arg, &bytes, &bad);
        cas_scrub_read(run, bytes);
        r->rc = rc;
        r->err = bad;
        if (rc == -CAS_E_NOMEM)
                cas_scrub_fail(run, &bad);
        else if (rc < 0 && rc != -CAS_E_LIMIT)
                cas_look_found(look, CAS_FSCK_JOURNAL_DAMAGED, NULL, "journal", "%s", bad.msg);
}

static void replay_round(struct cas_look *look, void *arg)
{
        struct names *names = arg;
        struct replay r = {.fn = take_name, .arg = names};
        cas_map_free(names->journal);
        names->journal = cas_map_new();
        replay(look, &r);
}

/* ---- the index ---- */

static void note_different(struct names *names, const struct full_key *key)
{
        if (cas_map_count(names->different) < DIFFERENT_MAX)
                (void)cas_map_put(names->different, key->bytes, key->len, NULL);
}

static void compare_name(void *arg, const void *key, size_t key_len, const void *value,
                         size_t value_len)
{
        struct names *names = arg;
        struct full_key full;
        full_key_set(names->family, key, key_len, &full);
        if (!is_of_round(names, &full))
                return;
        const uint64_t *hash = cas_map_get(names->journal, full.bytes, full.len);
        if (!hash || *hash != value_hash(value, value_len))
                note_different(names, &full);
        (void)cas_map_remove(names->journal, full.bytes, full.len);
}

static void note_left(void *arg, const void *key, size_t key_len, uint64_t value CAS_UNUSED)
{
        struct full_key full;
        memcpy(full.bytes, key, key_len);
        full.len = key_len;
        note_different(arg, &full);
}

/* ---- what differs, once more ---- */

/* Names that differed: hashes of their values, 0 where there is none. */
struct again {
        struct cas_scrub_run *run;
        struct cas_map *before, *journal, *after;
        struct cas_map *to; /* of read_index */
};

static void read_index(void *arg, const void *key, size_t key_len, uint64_t value CAS_UNUSED)
{
        struct again *again = arg;
        const uint8_t *full = key;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_err err = CAS_ERR_INIT;
        int rc = cas_index_peek(again->run->s->index, (enum cas_family)full[0], full + 1,
                                key_len - 1, &bytes, &err);
        *cas_map_put(again->to, key, key_len, NULL) =
                rc == 0 ? value_hash(bytes.data, bytes.len_bytes) : 0;
}

static int take_again(void *arg, const struct cas_name_record *rec, struct cas_err *err CAS_UNUSED)
{
        struct again *again = arg;
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_record_key key;
        struct full_key full;
        enum cas_family family = cas_name_record_key(rec, &key);
        full_key_set(family, key.bytes, key.len, &full);
        if (cas_map_get(again->before, full.bytes, full.len))
                *cas_map_put(again->journal, full.bytes, full.len, NULL) =
                        cas_name_record_value(rec, &value) ? value_hash(value.data, value.len_bytes)
                                                           : 0;
        return 0;
}

static uint64_t hash_of(const struct cas_map *map, const void *key, size_t len)
{
        const uint64_t *value = cas_map_get(map, key, len);
        return value ? *value : 0;
}

struct settled {
        struct again *again;
        struct cas_map *left; /* names that differ still, or that changed meanwhile */
};

static void settle_name(void *arg, const void *key, size_t key_len, uint64_t before)
{
        struct settled *settled = arg;
        uint64_t after = hash_of(settled->again->after, key, key_len);
        if (before != after || before != hash_of(settled->again->journal, key, key_len))
                (void)cas_map_put(settled->left, key, key_len, NULL);
}

static void tell_name(void *arg, const void *key, size_t key_len, uint64_t value CAS_UNUSED)
{
        struct again *again = arg;
        const uint8_t *full = key;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        uint64_t index = hash_of(again->before, key, key_len);
        uint64_t journal = hash_of(again->journal, key, key_len);
        if (index != hash_of(again->after, key, key_len))
                return; /* it changes all the time */
        (void)snprintf(repo, sizeof(repo), "%.*s", (int)cas_min_u64(key_len - 1, sizeof(repo) - 1),
                       (const char *)full + 1);
        cas_scrub_say(again->run, CAS_FSCK_JOURNAL_DIFFERS, repo, "%s: %s",
                      cas_family_name((enum cas_family)full[0]),
                      !index     ? "only in the journal"
                      : !journal ? "not in the journal"
                                 : "another value in the journal");
}

/* One look at names; those that are settled leave the map. */
static bool look_again(struct cas_scrub_run *run, struct cas_map **different, bool last)
{
        cas_cleanup_map struct cas_map *before = cas_map_new();
        cas_cleanup_map struct cas_map *journal = cas_map_new();
        cas_cleanup_map struct cas_map *after = cas_map_new();
        struct again again = {.run = run, .before = before, .journal = journal, .after = after};
        struct settled settled = {.again = &again, .left = cas_map_new()};
        struct cas_journal_position seen;
        struct cas_err err = CAS_ERR_INIT;
        uint64_t bytes = 0;
        again.to = before;
        cas_map_each(*different, read_index, &again);
        int rc = cas_commit_seen(run->s->index, &seen, &err);
        if (rc == 0)
                rc = cas_journal_verify(run->s->io, run->s->dirfd, run->s->id, &seen, take_again,
                                        &again, &bytes, &err);
        again.to = after;
        cas_map_each(*different, read_index, &again);
        if (rc == 0)
                cas_map_each(before, settle_name, &settled);
        if (rc == 0 && last)
                cas_map_each(settled.left, tell_name, &again);
        cas_map_free(*different);
        *different = settled.left; /* nothing, when the journal cannot be read: that is told */
        return rc == 0;
}

static void check_different(struct names *names)
{
        bool good = true;
        for (unsigned i = 1; good && i <= LOOKS_MAX && cas_map_count(names->different) > 0; i++)
                good = look_again(names->run, &names->different, i == LOOKS_MAX);
}

/* ---- rounds ---- */

static bool check_round(struct names *names)
{
        bool good = true;
        cas_scrub_look(names->run, replay_round, names);
        if (names->full)
                return true; /* to be done again, in more rounds */
        for (size_t i = 0; good && i < CAS_COUNT(named); i++) {
                names->family = named[i];
                good = cas_scrub_scan(names->run, &(struct cas_scan){.family = named[i]},
                                      compare_name, names);
        }
        if (!good)
                return false;
        cas_map_each(names->journal, note_left, names);
        check_different(names);
        return true;
}

/* The place: le32 round, le32 rounds. */
void cas_scrub_journal(struct cas_scrub_run *run)
{
        struct cas_record_key *place = &run->place.key;
        struct names names = {.run = run, .rounds = 1};
        if (place->len == 8) {
                names.round = cas_get_le32(place->bytes);
                names.rounds = cas_max_u64(1, cas_get_le32(place->bytes + 4));
        }
        bool good = true;
        while (good && names.round < names.rounds) {
                names.journal = cas_map_new();
                names.different = cas_map_new();
                names.full = false;
                good = check_round(&names);
                cas_map_free(names.journal);
                cas_map_free(names.different);
                if (names.full) {
                        names.rounds *= 2;
                        names.round *= 2;
                } else if (good) {
                        names.round++;
                }
                cas_put_le32(place->bytes, (uint32_t)names.round);
                cas_put_le32(place->bytes + 4, (uint32_t)names.rounds);
                place->len = 8;
                good = good && cas_scrub_goes_on(run);
        }
}
