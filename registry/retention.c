/* SPDX-License-Identifier: Apache-2.0 */
/* Removals are guarded: inside the commit, a tag must still name what was looked
 * at, and a manifest must have no tag. */
#include "registry/retention.h"

#include <stdio.h>
#include <time.h>

#include "cas/blob.h"
#include "cas/hashset.h"
#include "cas/image.h"
#include "cas/log.h"

#define TAGS_MAX 100000 /* of one repository; of more, the rules are not applied */
#define MANIFESTS_MAX 50000
#define REASON_BYTES 160
#define NOTES_MAX 512

struct tag {
        char name[CAS_TAG_BYTES_MAX + 1];
        struct cas_digest manifest;
        struct cas_tag_times times;
};

/* One repository under work. */
struct work {
        const struct reg_retention_run *run;
        struct reg_retention_result *out;
        uint64_t now_s;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        size_t tag_count, manifest_count;
        struct tag *tags; /* owned, as the next */
        struct cas_manifest_info *manifests;
        bool too_many;
};

static bool stopped(const struct work *w)
{
        return w->run->stop && atomic_load(w->run->stop);
}

/* ---- removing ---- */

/* A tag must be what it was when its age was looked at. */
static int guard_tag(void *arg, const struct cas_tag_change *change, struct cas_err *err)
{
        const struct cas_digest *looked_at = arg;
        if (cas_digest_equal(&change->before, looked_at))
                return 0;
        return cas_fail(err, CAS_E_BUSY, "%s:%s has changed", change->repo, change->tag);
}

static int guard_untagged(void *arg CAS_UNUSED, const struct cas_tag_change *change,
                          struct cas_err *err)
{
        return cas_fail(err, CAS_E_BUSY, "%s:%s was set", change->repo, change->tag);
}

static void tell(const struct work *w, const struct reg_retention_item *item)
{
        const struct reg_event event = {
                .kind = item->tag[0] ? REG_EVENT_DELETE_TAG : REG_EVENT_DELETE_MANIFEST,
                .repo = item->repo,
                .tag = item->tag,
                .from_repo = "",
                .digest = item->manifest,
                .media_type = "",
                .user = "",
                .client = "",
                .request_id = "",
        };
        if (w->run->events)
                reg_events_tell(w->run->events, &event);
}

static void remove_item(struct work *w, const struct reg_retention_item *item)
{
        const struct reg_retention_run *run = w->run;
        struct cas_err err = CAS_ERR_INIT;
        bool tag = item->tag[0] != '\0';
        int rc = 0;
        if (!run->dry_run) {
                struct cas_digest looked_at = item->manifest;
                rc = cas_manifest_delete(run->store, w->repo, tag ? item->tag : NULL,
                                         &item->manifest, tag ? guard_tag : guard_untagged,
                                         &looked_at, &err);
        }
        if (rc < 0) {
                w->out->failed += rc != -CAS_E_NOTFOUND && rc != -CAS_E_BUSY;
                cas_log(CAS_LOG_WARN, "retention", "repository=%s tag=%s stays=\"%s\"", w->repo,
                        item->tag, err.msg);
                return;
        }
        *(tag ? &w->out->tags_removed : &w->out->manifests_removed) += 1;
        if (run->fn)
                run->fn(run->arg, item);
        if (run->dry_run)
                return;
        tell(w, item);
        if (run->metrics)
                reg_metrics_add(run->metrics,
                                tag ? REG_COUNTER_RETENTION_TAGS : REG_COUNTER_RETENTION_MANIFESTS,
                                1);
}

/* ---- tags ---- */

static bool take_tag(void *arg, const char *name, const struct cas_digest *manifest)
{
        struct work *w = arg;
        if (w->tag_count == TAGS_MAX) {
                w->too_many = true;
                return false;
        }
        if ((w->tag_count & (w->tag_count + 1)) == 0) /* grows by doubling */
                w->tags = cas_xrealloc(w->tags, (2 * w->tag_count + 1) * sizeof(*w->tags));
        struct tag *t = &w->tags[w->tag_count++];
        (void)snprintf(t->name, sizeof(t->name), "%s", name);
        t->manifest = *manifest;
        return true;
}

static int times_of(const struct work *w, const struct tag *t, struct cas_tag_times *out,
                    struct cas_err *err)
{
        if (w->run->clock)
                return reg_tagclock_get(w->run->clock, w->repo, t->name, &t->manifest, out, err);
        return cas_tag_times_get(w->run->store, w->repo, t->name, &t->manifest, out, err);
}

/* Finds when each tag was set. One of which nothing is known counts from now on. */
static int find_times(struct work *w, struct cas_err *err)
{
        cas_cleanup_free struct cas_tag_note *notes = cas_xcalloc(NOTES_MAX, sizeof(*notes));
        size_t count = 0;
        int rc = 0;
        for (size_t i = 0; rc == 0 && i < w->tag_count; i++) {
                struct tag *t = &w->tags[i];
                struct cas_err miss = CAS_ERR_INIT;
                rc = times_of(w, t, &t->times, &miss);
                if (rc == 0)
                        continue;
                if (rc != -CAS_E_NOTFOUND) {
                        *err = miss;
                        return rc;
                }
                t->times = (struct cas_tag_times){.pushed_unix_s = w->now_s};
                rc = 0;
                if (w->run->dry_run)
                        continue;
                notes[count++] = (struct cas_tag_note){.repo = w->repo,
                                                       .tag = t->name,
                                                       .manifest = t->manifest,
                                                       .times = t->times};
                if (count == NOTES_MAX) {
                        rc = cas_tag_times_note(w->run->store, notes, count, err);
                        count = 0;
                }
        }
        return rc < 0 ? rc : cas_tag_times_note(w->run->store, notes, count, err);
}

/* Newest first; of equal age the later name, which is the later version as often as not. */
static int by_age(const void *a, const void *b)
{
        const struct tag *x = a, *y = b;
        if (x->times.pushed_unix_s != y->times.pushed_unix_s)
                return x->times.pushed_unix_s > y->times.pushed_unix_s ? -1 : 1;
        return strcmp(y->name, x->name);
}

static uint64_t age_of(const struct work *w, uint64_t unix_s)
{
        return w->now_s > unix_s ? w->now_s - unix_s : 0;
}

static void append_age(char *reason, const char *what, uint64_t age_s)
{
        size_t at = strlen(reason);
        (void)snprintf(reason + at, REASON_BYTES - at, "%s%s %llu %s ago", at ? ", " : "", what,
                       (unsigned long long)(age_s >= 172800 ? age_s / 86400 : age_s / 60),
                       age_s >= 172800 ? "days" : "minutes");
}

/* Whether a tag goes by a rule that keeps `rank` newer ones; every condition must hold. */
static bool goes(const struct work *w, const struct reg_retention_rule *rule, const struct tag *t,
                 uint64_t rank, char reason[REASON_BYTES])
{
        uint64_t age_s = age_of(w, t->times.pushed_unix_s);
        uint64_t used = cas_max_u64(t->times.pushed_unix_s, t->times.pulled_unix_s);
        reason[0] = '\0';
        if (!rule->has_keep && rule->max_age_s == 0 && rule->not_pulled_s == 0)
                return false;
        if ((rule->has_keep && rank < rule->keep) || age_s < rule->max_age_s ||
            age_of(w, used) < rule->not_pulled_s)
                return false;
        if (rule->has_keep)
                (void)snprintf(reason, REASON_BYTES, "%llu are newer", (unsigned long long)rank);
        if (rule->max_age_s > 0)
                append_age(reason, "pushed", age_s);
        if (rule->not_pulled_s > 0)
                append_age(reason, t->times.pulled_unix_s ? "last pulled" : "never pulled, pushed",
                           age_of(w, used));
        return true;
}

/* The same, by the times as they are now: it may have been pushed or pulled while others were
 * removed. */
static bool still_goes(const struct work *w, const struct reg_retention_rule *rule, struct tag *t,
                       uint64_t rank, char reason[REASON_BYTES])
{
        struct cas_tag_times now;
        struct cas_err err = CAS_ERR_INIT;
        if (times_of(w, t, &now, &err) == 0)
                t->times = now;
        return goes(w, rule, t, rank, reason);
}

static void apply_tags(struct work *w, const struct reg_retention_rule *rule)
{
        uint64_t rank = 0;
        for (size_t i = 0; i < w->tag_count && !stopped(w); i++) {
                struct tag *t = &w->tags[i];
                char reason[REASON_BYTES];
                bool all = rule->tags.count == 0;
                if (!t->name[0] || (!all && !reg_globs_match(&rule->tags, t->name)) ||
                    reg_immutable_rule(w->run->immutable, w->repo, t->name))
                        continue;
                uint64_t newer = rank++;
                if (!goes(w, rule, t, newer, reason) || !still_goes(w, rule, t, newer, reason))
                        continue;
                const struct reg_retention_item item = {.rule = rule->name,
                                                        .repo = w->repo,
                                                        .tag = t->name,
                                                        .manifest = t->manifest,
                                                        .pushed_unix_s = t->times.pushed_unix_s,
                                                        .pulled_unix_s = t->times.pulled_unix_s,
                                                        .reason = reason};
                remove_item(w, &item);
                t->name[0] = '\0'; /* gone, or not to be tried by another rule */
        }
}

/* ---- untagged manifests ---- */

static bool take_manifest(void *arg, const struct cas_manifest_info *info)
{
        struct work *w = arg;
        if (w->manifest_count == MANIFESTS_MAX) {
                w->too_many = true;
                return false;
        }
        if ((w->manifest_count & (w->manifest_count + 1)) == 0)
                w->manifests = cas_xrealloc(w->manifests,
                                            (2 * w->manifest_count + 1) * sizeof(*w->manifests));
        w->manifests[w->manifest_count++] = *info;
        return true;
}

/* Manifests that stay, and those whose children and referrers are not marked yet. */
struct marks {
        struct work *work;
        struct cas_hashset stay;
        size_t todo_count;
        struct cas_digest *todo; /* owned */
};

static void mark(struct marks *m, const struct cas_digest *d)
{
        if (!cas_hashset_add(&m->stay, d->bytes))
                return;
        if ((m->todo_count & (m->todo_count + 1)) == 0)
                m->todo = cas_xrealloc(m->todo, (2 * m->todo_count + 1) * sizeof(*m->todo));
        m->todo[m->todo_count++] = *d;
}

static bool mark_referrer(void *arg, const struct cas_digest *referrer)
{
        mark(arg, referrer);
        return true;
}

static int mark_children(struct marks *m, const struct cas_digest *d, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest parsed = {0};
        struct cas_manifest_info info;
        struct cas_err miss = CAS_ERR_INIT;
        struct cas_store *s = m->work->run->store;
        int rc = cas_manifest_stat(s, m->work->repo, d, &info, &miss);
        if (rc == -CAS_E_NOTFOUND) /* of a sparse index, or a subject that is not here */
                return 0;
        if (rc < 0) {
                *err = miss;
                return rc;
        }
        rc = cas_blob_read(s, d, CAS_MANIFEST_BYTES_MAX, &bytes, err);
        if (rc == 0)
                rc = cas_manifest_parse(bytes.data, bytes.len_bytes, info.media_type, &parsed, err);
        for (size_t i = 0; rc == 0 && parsed.kind == CAS_MANIFEST_INDEX && i < parsed.child_count;
             i++)
                mark(m, &parsed.children[i].digest);
        return rc;
}

static int mark_all(struct marks *m, struct cas_err *err)
{
        int rc = 0;
        while (rc == 0 && m->todo_count > 0) {
                struct cas_digest d = m->todo[--m->todo_count];
                rc = mark_children(m, &d, err);
                if (rc == 0)
                        rc = cas_referrer_each(m->work->run->store, m->work->repo, &d,
                                               mark_referrer, m, err);
        }
        return rc;
}

static bool mark_tagged(void *arg, const char *tag CAS_UNUSED, const struct cas_digest *manifest)
{
        mark(arg, manifest);
        return true;
}

static int find_untagged(struct work *w, const struct reg_retention_rule *rule, struct marks *m,
                         struct cas_err *err)
{
        int rc = cas_manifest_each(w->run->store, w->repo, take_manifest, w, err);
        if (rc == 0)
                rc = cas_tag_each(w->run->store, w->repo, NULL, mark_tagged, m, err);
        /* What is young stays, with all that it names. */
        for (size_t i = 0; rc == 0 && i < w->manifest_count; i++) {
                uint64_t added = 0;
                rc = cas_blob_added(w->run->store, &w->manifests[i].digest, &added, err);
                if (rc == -CAS_E_NOTFOUND)
                        rc = 0;
                else if (rc == 0 && age_of(w, added) < rule->untagged_s)
                        mark(m, &w->manifests[i].digest);
        }
        return rc < 0 ? rc : mark_all(m, err);
}

static int apply_untagged(struct work *w, const struct reg_retention_rule *rule,
                          struct cas_err *err)
{
        struct marks m = {.work = w};
        int rc = find_untagged(w, rule, &m, err);
        for (size_t i = 0; rc == 0 && !w->too_many && i < w->manifest_count && !stopped(w); i++) {
                const struct cas_digest *d = &w->manifests[i].digest;
                uint64_t added = 0;
                char reason[REASON_BYTES] = "";
                struct cas_err gone = CAS_ERR_INIT;
                if (cas_hashset_has(&m.stay, d->bytes) ||
                    cas_blob_added(w->run->store, d, &added, &gone) < 0 ||
                    age_of(w, added) < rule->untagged_s)
                        continue;
                append_age(reason, "untagged, pushed", age_of(w, added));
                const struct reg_retention_item item = {.rule = rule->name,
                                                        .repo = w->repo,
                                                        .tag = "",
                                                        .manifest = *d,
                                                        .pushed_unix_s = added,
                                                        .reason = reason};
                remove_item(w, &item);
        }
        cas_hashset_release(&m.stay);
        free(m.todo);
        free(w->manifests);
        w->manifests = NULL;
        w->manifest_count = 0;
        return rc;
}

/* ---- repositories ---- */

static int apply_rules(struct work *w, struct cas_err *err)
{
        const struct reg_retention_config *config = w->run->config;
        bool any = false;
        for (size_t i = 0; i < config->count; i++)
                any = any || reg_globs_match(&config->rules[i].repositories, w->repo);
        if (!any)
                return 0;
        w->out->repositories++;
        int rc = cas_tag_each(w->run->store, w->repo, NULL, take_tag, w, err);
        if (rc == 0)
                rc = find_times(w, err);
        if (w->tag_count > 0)
                qsort(w->tags, w->tag_count, sizeof(*w->tags), by_age);
        w->out->tags_seen += w->tag_count;
        for (size_t i = 0; rc == 0 && i < config->count && !w->too_many; i++) {
                const struct reg_retention_rule *rule = &config->rules[i];
                if (!reg_globs_match(&rule->repositories, w->repo))
                        continue;
                apply_tags(w, rule);
                if (rule->untagged_s > 0)
                        rc = apply_untagged(w, rule, err);
        }
        if (w->too_many)
                cas_log(CAS_LOG_WARN, "retention", "repository=%s skipped=\"too many names\"",
                        w->repo);
        return rc < 0 ? cas_err_wrap(err, "repository %s", w->repo) : 0;
}

static bool first_repo(void *arg, const char *repo)
{
        struct work *w = arg;
        (void)snprintf(w->repo, sizeof(w->repo), "%s", repo);
        return false;
}

int reg_retention_apply(const struct reg_retention_run *run, struct reg_retention_result *out,
                        struct cas_err *err)
{
        char last[CAS_REPO_NAME_BYTES_MAX + 1] = "";
        int rc = 0;
        *out = (struct reg_retention_result){0};
        if (!run->config || run->config->count == 0)
                return 0;
        if (run->metrics)
                reg_metrics_add(run->metrics, REG_COUNTER_RETENTION_RUNS, 1);
        while (rc == 0) {
                struct work w = {.run = run,
                                 .out = out,
                                 .now_s = run->now_unix_s ? run->now_unix_s : (uint64_t)time(NULL)};
                rc = cas_repo_each(run->store, last, first_repo, &w, err);
                if (rc < 0 || !w.repo[0] || stopped(&w))
                        break;
                rc = apply_rules(&w, err);
                memcpy(last, w.repo, sizeof(last));
                free(w.tags);
        }
        return rc;
}
