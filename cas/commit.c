/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/commit_int.h"

#include <time.h>

#include "cas/condemned_int.h"
#include "cas/map.h"
#include "cas/refs_int.h"

#define GROUP_COMMITS_MAX 64
/* A blob's link that is younger than this is not renewed. */
#define LINK_RENEW_S 600

/* After a failed attempt to agree with the journal again, the next waits for so long. */
#define MEND_PAUSE_NS (250 * 1000 * 1000)

static const char position_key[] = "journal";

struct cas_commit {
        struct cas_commit *next;
        struct cas_batch *batch;                /* borrowed */
        const struct cas_name_changes *changes; /* borrowed */
        bool done;
        int rc;
        struct cas_err err;
};

/* ---- what a commit changes ---- */

/* Commits that are written together, those that were checked already. */
struct group {
        struct cas_buf records;
        uint32_t count;
        struct cas_batch *batch;
        struct cas_map *tags; /* key -> owned struct cas_digest, as they leave it */
};

/* Records of one commit while they are checked. */
struct change {
        struct cas_store *store;
        const struct group *group;
        const struct cas_name_changes *wanted;
        struct cas_map *touched; /* family byte and key -> enum touch, as this commit leaves it */
        struct cas_buf records;  /* what goes into the journal */
        uint32_t count;
        struct cas_batch *batch;
};
enum touch { TOUCH_REMOVED = 1, TOUCH_ADDED = 2 };

static uint64_t *touch_of(struct change *ch, enum cas_family family,
                          const struct cas_record_key *key, bool make)
{
        uint8_t full[1 + CAS_RECORD_KEY_BYTES_MAX];
        full[0] = (uint8_t)family;
        memcpy(full + 1, key->bytes, key->len);
        return make ? cas_map_put(ch->touched, full, 1 + key->len, NULL)
                    : cas_map_get(ch->touched, full, 1 + key->len);
}

static bool same_value(const struct change *ch, const struct cas_name_record *rec,
                       const struct cas_buf *now, const struct cas_buf *wanted)
{
        if (rec->kind == CAS_NAME_BLOB_LINK && !ch->wanted->renews) {
                uint64_t since = 0;
                struct cas_err ignored = CAS_ERR_INIT;
                return cas_time_value_decode(now->data, now->len_bytes, &since, &ignored) == 0 &&
                       since <= rec->number && rec->number - since < LINK_RENEW_S;
        }
        return now->len_bytes == wanted->len_bytes &&
               (now->len_bytes == 0 || memcmp(now->data, wanted->data, now->len_bytes) == 0);
}

/* What a tag names before this commit; alg NONE when there is none. */
static int tag_before(const struct change *ch, const struct cas_record_key *key,
                      struct cas_digest *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_err miss = CAS_ERR_INIT;
        struct cas_name_record rec;
        const uint64_t *earlier = cas_map_get(ch->group->tags, key->bytes, key->len);
        *out = (struct cas_digest){.alg = CAS_DIGEST_NONE};
        if (earlier) {
                *out = *(const struct cas_digest *)(uintptr_t)*earlier;
                return 0;
        }
        int rc = cas_index_get(ch->store->index, CAS_FAMILY_TAGS, key->bytes, key->len, &value,
                               &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        rc = cas_name_record_from_index(CAS_FAMILY_TAGS, key->bytes, key->len, value.data,
                                        value.len_bytes, &rec, err);
        if (rc == 0)
                *out = rec.digest;
        return rc;
}

/* A tag is set or removed: asks who guards it. *noop: it is so already. */
static int tag_guard(const struct change *ch, const struct cas_name_record *rec,
                     const struct cas_record_key *key, bool *noop, struct cas_err *err)
{
        struct cas_tag_change change = {.repo = rec->repo, .tag = rec->tag};
        if (rec->kind == CAS_NAME_TAG)
                change.after = rec->digest;
        int rc = tag_before(ch, key, &change.before, err);
        if (rc < 0)
                return rc;
        *noop = cas_digest_equal(&change.before, &change.after);
        return ch->wanted->guard ? ch->wanted->guard(ch->wanted->guard_arg, &change, err) : 0;
}

/* Whether the index already says what rec says. */
static int is_noop(struct change *ch, const struct cas_name_record *rec, enum cas_family family,
                   const struct cas_record_key *key, bool *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf now = CAS_BUF_INIT;
        cas_cleanup_buf struct cas_buf wanted = CAS_BUF_INIT;
        struct cas_err miss = CAS_ERR_INIT;
        if (family == CAS_FAMILY_TAGS)
                return tag_guard(ch, rec, key, out, err);
        bool adds = cas_name_record_value(rec, &wanted);
        int rc = cas_index_get(ch->store->index, family, key->bytes, key->len, &now, &miss);
        if (rc < 0 && rc != -CAS_E_NOTFOUND) {
                *err = miss;
                return rc;
        }
        *out = adds ? rc == 0 && same_value(ch, rec, &now, &wanted) : rc != 0;
        return 0;
}

/* The references that come or go with a name, and what is to be looked at for it. A link that a
 * manifest of the same commit asks for is needed; others may turn out not to be. */
static void change_refs(struct change *ch, const struct cas_name_record *rec,
                        const struct cas_record_key *key)
{
        const size_t repo_len = strlen(rec->repo);
        const uint64_t now = (uint64_t)time(NULL);
        switch (rec->kind) {
        case CAS_NAME_MANIFEST_LINK:
                cas_batch_put_blob_ref(ch->batch, &rec->digest, CAS_BLOB_LINKED, rec->repo,
                                       repo_len);
                break;
        case CAS_NAME_MANIFEST_UNLINK:
                cas_batch_del_blob_ref(ch->batch, &rec->digest, CAS_BLOB_LINKED, rec->repo,
                                       repo_len);
                cas_batch_condemn_blob(ch->batch, &rec->digest, now);
                break;
        case CAS_NAME_BLOB_LINK:
                cas_batch_put_blob_ref(ch->batch, &rec->digest, CAS_BLOB_IN_REPO, rec->repo,
                                       repo_len);
                if (!ch->wanted->named || !cas_map_get(ch->wanted->named, key->bytes, key->len))
                        cas_batch_condemn_link(ch->batch, rec->repo, &rec->digest, rec->number);
                break;
        case CAS_NAME_BLOB_UNLINK:
                cas_batch_del_blob_ref(ch->batch, &rec->digest, CAS_BLOB_IN_REPO, rec->repo,
                                       repo_len);
                cas_batch_condemn_blob(ch->batch, &rec->digest, now);
                break;
        case CAS_NAME_UNTAG: /* its times have the same key */
                cas_batch_del(ch->batch, CAS_FAMILY_TAG_TIMES, key->bytes, key->len);
                break;
        case CAS_NAME_TAG:
        case CAS_NAME_REFERRER:
        case CAS_NAME_UNREFERRER:
                break;
        }
}

static int change_add(struct change *ch, const struct cas_name_record *rec, struct cas_err *err)
{
        struct cas_record_key key;
        enum cas_family family = cas_name_record_key(rec, &key);
        if (!touch_of(ch, family, &key, false)) {
                bool noop = false;
                int rc = is_noop(ch, rec, family, &key, &noop, err);
                if (rc < 0 || noop)
                        return rc;
        }
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        bool adds = cas_name_record_value(rec, &value);
        *touch_of(ch, family, &key, true) = adds ? TOUCH_ADDED : TOUCH_REMOVED;
        cas_name_record_encode(rec, &ch->records);
        cas_name_record_apply(rec, ch->batch);
        change_refs(ch, rec, &key);
        ch->count++;
        return 0;
}

/* What goes with a manifest that is unlinked: its tags, its entries as a referrer. */
struct follow {
        struct change *change;
        enum cas_family family;
        const struct cas_digest *manifest;
};

static int follow_one(void *arg, const void *key, size_t key_len, const void *value,
                      size_t value_len, struct cas_err *err)
{
        const struct follow *f = arg;
        struct cas_name_record rec;
        int rc = cas_name_record_from_index(f->family, key, key_len, value, value_len, &rec, err);
        if (rc < 0)
                return rc;
        bool tag = f->family == CAS_FAMILY_TAGS;
        if (!cas_digest_equal(tag ? &rec.digest : &rec.referrer, f->manifest))
                return 0;
        struct cas_record_key full;
        rec.kind = tag ? CAS_NAME_UNTAG : CAS_NAME_UNREFERRER;
        (void)cas_name_record_key(&rec, &full);
        if (touch_of(f->change, f->family, &full, false))
                return 0; /* this commit has moved it already */
        return change_add(f->change, &rec, err);
}

static int change_follow(struct change *ch, const struct cas_name_record *unlink,
                         struct cas_err *err)
{
        static const enum cas_family followers[] = {CAS_FAMILY_TAGS, CAS_FAMILY_REFERRERS};
        struct cas_record_key prefix;
        cas_key_repo(unlink->repo, &prefix);
        for (size_t i = 0; i < CAS_COUNT(followers); i++) {
                struct follow f = {
                        .change = ch, .family = followers[i], .manifest = &unlink->digest};
                const struct cas_scan scan = {
                        .family = followers[i], .prefix = prefix.bytes, .prefix_len = prefix.len};
                int rc = cas_index_scan(ch->store->index, &scan, follow_one, &f, err);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

/* A tag needs its manifest, as this commit leaves it. */
static int check_tag(struct change *ch, const struct cas_name_record *tag, struct cas_err *err)
{
        struct cas_record_key key;
        bool there;
        cas_key_repo_digest(tag->repo, &tag->digest, &key);
        const uint64_t *touch = touch_of(ch, CAS_FAMILY_MANIFESTS, &key, false);
        if (touch) {
                there = *touch == TOUCH_ADDED;
        } else {
                int rc = cas_index_has(ch->store->index, CAS_FAMILY_MANIFESTS, key.bytes, key.len,
                                       &there, err);
                if (rc < 0)
                        return rc;
        }
        char text[CAS_DIGEST_TEXT_BYTES];
        if (!there)
                return cas_fail(err, CAS_E_NOTFOUND, "tag %s:%s: no manifest %s in the repository",
                                tag->repo, tag->tag, cas_digest_text(&tag->digest, text));
        return 0;
}

static int change_fill(struct change *ch, const struct cas_commit *c, struct cas_err *err)
{
        struct cas_name_record rec;
        if (c->changes->fill && c->changes->fill(c->changes->fill_arg, err) < 0)
                return -(int)err->code;
        const struct cas_buf *records = c->changes->records;
        struct cas_cursor at = cas_cursor_over(records->data, records->len_bytes);
        for (uint32_t i = 0; i < c->changes->count; i++) {
                int rc = cas_name_record_decode(&at, &rec, err);
                if (rc == 0 && rec.kind == CAS_NAME_MANIFEST_UNLINK)
                        rc = change_follow(ch, &rec, err);
                if (rc == 0)
                        rc = change_add(ch, &rec, err);
                if (rc < 0)
                        return rc;
        }
        at = cas_cursor_over(records->data, records->len_bytes);
        for (uint32_t i = 0; i < c->changes->count; i++) {
                int rc = cas_name_record_decode(&at, &rec, err);
                if (rc == 0 && rec.kind == CAS_NAME_TAG)
                        rc = check_tag(ch, &rec, err);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

/* ---- groups of commits ---- */

int cas_commit_seen(struct cas_index *ix, struct cas_journal_position *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        struct cas_err miss = CAS_ERR_INIT;
        *out = (struct cas_journal_position){0};
        int rc = cas_index_get(ix, CAS_FAMILY_META, position_key, sizeof(position_key) - 1, &value,
                               &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        struct cas_cursor c = cas_cursor_over(value.data, value.len_bytes);
        out->sequence = cas_cursor_varint(&c);
        out->generation = cas_cursor_varint(&c);
        out->offset = cas_cursor_varint(&c);
        return cas_cursor_end(&c, "journal's position", err);
}

void cas_commit_note_seen(struct cas_batch *batch, const struct cas_journal_position *position)
{
        cas_cleanup_buf struct cas_buf value = CAS_BUF_INIT;
        cas_varint_append(&value, position->sequence);
        cas_varint_append(&value, position->generation);
        cas_varint_append(&value, position->offset);
        cas_batch_put(batch, CAS_FAMILY_META, position_key, sizeof(position_key) - 1, value.data,
                      value.len_bytes);
}

struct feed {
        enum cas_family family;
        cas_journal_put_fn put;
        void *sink;
};

static int feed_name(void *arg, const void *key, size_t key_len, const void *value,
                     size_t value_len, struct cas_err *err)
{
        const struct feed *feed = arg;
        struct cas_name_record rec;
        int rc =
                cas_name_record_from_index(feed->family, key, key_len, value, value_len, &rec, err);
        return rc < 0 ? rc : feed->put(feed->sink, &rec, err);
}

static int feed_names(void *arg, cas_journal_put_fn put, void *sink, struct cas_err *err)
{
        static const enum cas_family named[] = {CAS_FAMILY_MANIFESTS, CAS_FAMILY_BLOB_LINKS,
                                                CAS_FAMILY_TAGS, CAS_FAMILY_REFERRERS};
        struct cas_store *s = arg;
        for (size_t i = 0; i < CAS_COUNT(named); i++) {
                struct feed feed = {.family = named[i], .put = put, .sink = sink};
                int rc = cas_index_scan(s->index, &(struct cas_scan){.family = named[i]}, feed_name,
                                        &feed, err);
                if (rc < 0)
                        return rc;
        }
        return 0;
}

/* Whether the change is in the journal, in both or in neither is not known. */
static void note_broken(struct cas_store *s, const struct cas_err *why)
{
        cas_mutex_lock(&s->names);
        s->commit_broken = true;
        s->commit_error = *why;
        s->commit_mend_ns = 0;
        cas_mutex_unlock(&s->names);
}

int cas_commit_compact(struct cas_store *s, struct cas_err *err)
{
        bool unknown;
        int rc = cas_journal_compact(s->journal, feed_names, s, &unknown, err);
        if (rc < 0 && unknown)
                note_broken(s, err);
        return rc;
}

/* Makes the joined changes durable: journal, then index. */
static int write_changes(struct cas_store *s, const struct cas_buf *records, uint32_t count,
                         struct cas_batch *batch, struct cas_err *err)
{
        if (count == 0)
                return cas_index_write(s->index, batch, err);
        bool unknown;
        int rc = cas_journal_append(s->journal, records, count, &unknown, err);
        if (rc < 0) {
                if (unknown)
                        note_broken(s, err);
                return rc;
        }
        const struct cas_journal_position position = cas_journal_position(s->journal);
        cas_commit_note_seen(batch, &position);
        rc = cas_index_write(s->index, batch, err);
        if (rc < 0)
                note_broken(s, err); /* the journal is ahead, and the index may be with it */
        return rc;
}

static void note_tag(struct cas_map *tags, const struct cas_name_record *rec)
{
        struct cas_record_key key;
        bool made;
        (void)cas_name_record_key(rec, &key);
        uint64_t *slot = cas_map_put(tags, key.bytes, key.len, &made);
        if (made)
                *slot = (uintptr_t)cas_xmalloc(sizeof(struct cas_digest));
        *(struct cas_digest *)(uintptr_t)*slot =
                rec->kind == CAS_NAME_TAG ? rec->digest : (struct cas_digest){0};
}

/* For the commits that come later in the group: what tags name from now on. */
static void note_tags(struct group *g, const struct change *ch)
{
        struct cas_cursor at = cas_cursor_over(ch->records.data, ch->records.len_bytes);
        struct cas_err err = CAS_ERR_INIT;
        struct cas_name_record rec;
        for (uint32_t i = 0; i < ch->count; i++) {
                int rc = cas_name_record_decode(&at, &rec, &err);
                cas_assert(rc == 0); /* it was encoded here */
                if (rec.kind == CAS_NAME_TAG || rec.kind == CAS_NAME_UNTAG)
                        note_tag(g->tags, &rec);
        }
}

/* Checks a commit and joins its changes to the group's, or notes its error. */
static void join_commit(struct cas_store *s, struct cas_commit *c, struct group *g)
{
        struct change ch = {.store = s,
                            .group = g,
                            .wanted = c->changes,
                            .touched = cas_map_new(),
                            .batch = cas_batch_new()};
        c->rc = change_fill(&ch, c, &c->err);
        if (c->rc == 0) {
                cas_buf_append(&g->records, ch.records.data, ch.records.len_bytes);
                g->count += ch.count;
                cas_batch_join(g->batch, c->batch);
                cas_batch_join(g->batch, ch.batch);
                if (c->next)
                        note_tags(g, &ch);
        }
        cas_map_free(ch.touched);
        cas_buf_release(&ch.records);
        cas_batch_free(ch.batch);
}

static void free_tag(void *arg CAS_UNUSED, const void *key CAS_UNUSED, size_t key_len CAS_UNUSED,
                     uint64_t value)
{
        free((void *)(uintptr_t)value);
}

/* Tells who keeps what names lead to. Also after a failure: the index may be ahead. */
static void note_changed(struct cas_store *s, const struct cas_buf *records, uint32_t count)
{
        struct cas_cursor at = cas_cursor_over(records->data, records->len_bytes);
        struct cas_err err = CAS_ERR_INIT;
        struct cas_name_record rec;
        for (uint32_t i = 0; i < count; i++) {
                int rc = cas_name_record_decode(&at, &rec, &err);
                cas_assert(rc == 0); /* it was encoded here */
                cas_names_changed(s, rec.repo);
        }
}

static void write_group(struct cas_store *s, struct cas_commit *first)
{
        struct group g = {.records = CAS_BUF_INIT, .batch = cas_batch_new(), .tags = cas_map_new()};
        struct cas_err err = CAS_ERR_INIT;
        for (struct cas_commit *c = first; c; c = c->next)
                join_commit(s, c, &g);
        int rc = write_changes(s, &g.records, g.count, g.batch, &err);
        note_changed(s, &g.records, g.count);
        for (struct cas_commit *c = first; c; c = c->next) {
                if (c->rc == 0 && rc < 0) {
                        c->rc = rc;
                        c->err = err;
                }
        }
        /* Its failure takes nothing back that was committed. */
        if (rc == 0 && cas_journal_wants_compaction(s->journal))
                rc = cas_commit_compact(s, &err);
        cas_map_each(g.tags, free_tag, NULL);
        cas_map_free(g.tags);
        cas_batch_free(g.batch);
        cas_buf_release(&g.records);
}

/* Takes the commits that share the next sync. They are checked against the index as it is, so
 * one that takes names away has a group of its own. */
static struct cas_commit *take_group(struct cas_store *s)
{
        cas_assert_held(&s->names);
        struct cas_commit *first = s->commit_first, *last = first;
        for (unsigned n = 1; n < GROUP_COMMITS_MAX && !last->changes->removes; n++) {
                if (!last->next || last->next->changes->removes)
                        break;
                last = last->next;
        }
        s->commit_first = last->next;
        if (!s->commit_first)
                s->commit_last = &s->commit_first;
        last->next = NULL;
        return first;
}

/* Commits for everyone in the queue until `mine` is done. */
static void lead(struct cas_store *s, const struct cas_commit *mine)
{
        cas_assert_held(&s->names);
        s->commit_busy = true;
        while (!mine->done && !s->commit_broken) {
                struct cas_commit *group = take_group(s);
                cas_mutex_unlock(&s->names);
                write_group(s, group);
                cas_mutex_lock(&s->names);
                while (group) {
                        struct cas_commit *next = group->next; /* its thread may free it */
                        group->done = true;
                        group = next;
                }
                (void)pthread_cond_broadcast(&s->names_change);
        }
        s->commit_busy = false;
        (void)pthread_cond_broadcast(&s->names_change);
}

/* ---- after a commit that failed halfway ---- */

static int64_t now_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* What the index has decides, as when the store is opened. The journal is written anew: what is
 * read of a file whose sync failed need not be on the disk. */
static int agree_again(struct cas_store *s, struct cas_err *err)
{
        struct cas_journal_position seen;
        bool unknown;
        int rc = cas_index_mend(s->index, err);
        if (rc == 0)
                rc = cas_commit_seen(s->index, &seen, err);
        if (rc == 0)
                rc = cas_journal_reopen(s->journal, s->id, &seen, err);
        if (rc == 0)
                rc = cas_journal_compact(s->journal, feed_names, s, &unknown, err);
        return rc;
}

/* As the leader of commits. */
static void mend(struct cas_store *s)
{
        struct cas_err err = CAS_ERR_INIT;
        cas_assert_held(&s->names);
        cas_assert(!s->commit_busy);
        s->commit_busy = true;
        cas_mutex_unlock(&s->names);
        int rc = agree_again(s, &err);
        /* What failed may be seen from now on. */
        for (size_t i = 0; i < CAS_NAMES_GENERATIONS; i++)
                atomic_fetch_add(&s->names_generations[i], 1);
        cas_mutex_lock(&s->names);
        s->commit_busy = false;
        s->commit_broken = rc < 0;
        if (rc < 0) {
                s->commit_error = err;
                s->commit_mend_ns = now_ns() + MEND_PAUSE_NS;
        }
        (void)pthread_cond_broadcast(&s->names_change);
}

/* Waits until no one else commits, and journal and index agree. */
static int settle(struct cas_store *s, struct cas_err *err)
{
        cas_assert_held(&s->names);
        while (s->commit_busy)
                cas_mutex_wait(&s->names, &s->names_change);
        if (s->commit_broken && now_ns() >= s->commit_mend_ns)
                mend(s);
        if (!s->commit_broken)
                return 0;
        return cas_fail(err, s->commit_error.code,
                        "names cannot be changed since an earlier change failed: %s",
                        s->commit_error.msg);
}

static void fail_queue(struct cas_store *s, const struct cas_err *why)
{
        cas_assert_held(&s->names);
        for (struct cas_commit *c = s->commit_first; c; c = c->next) {
                c->err = *why;
                c->rc = -(int)why->code;
                c->done = true;
        }
        s->commit_first = NULL;
        s->commit_last = &s->commit_first;
        (void)pthread_cond_broadcast(&s->names_change);
}

int cas_commit_names(struct cas_store *s, struct cas_batch *batch,
                     const struct cas_name_changes *changes, struct cas_err *err)
{
        struct cas_commit mine = {.batch = batch, .changes = changes};
        struct cas_err why = CAS_ERR_INIT;
        cas_mutex_lock(&s->names);
        *s->commit_last = &mine;
        s->commit_last = &mine.next;
        while (!mine.done) {
                if (s->commit_busy)
                        cas_mutex_wait(&s->names, &s->names_change);
                else if (settle(s, &why) < 0)
                        fail_queue(s, &why);
                else if (!mine.done)
                        lead(s, &mine);
        }
        cas_mutex_unlock(&s->names);
        if (mine.rc < 0)
                *err = mine.err;
        return mine.rc;
}

int cas_commit_pause(struct cas_store *s, struct cas_err *err)
{
        cas_mutex_lock(&s->names);
        int rc = settle(s, err);
        if (rc == 0)
                s->commit_busy = true;
        cas_mutex_unlock(&s->names);
        return rc;
}

void cas_commit_go_on(struct cas_store *s)
{
        cas_mutex_lock(&s->names);
        s->commit_busy = false;
        (void)pthread_cond_broadcast(&s->names_change);
        cas_mutex_unlock(&s->names);
}
