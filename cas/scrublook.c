/* SPDX-License-Identifier: Apache-2.0 */
/* Looking at one thing until it is certain what is wrong with it; then putting it right, and
 * telling. */
#include "cas/packfile_int.h"
#include "cas/scrub_int.h"

#include <stdio.h>

/* Looks at what looked wrong at first. Others move and replace things while one looks; only what
 * is wrong each time is told. */
#define SECOND_LOOKS 2
/* Findings of one look that are told; hostile packs could have millions. */
#define FINDINGS_MAX 4096
#define OUTCOME_BYTES (CAS_ERR_MSG_MAX + 32)

static const struct {
        enum cas_fsck_severity severity;
        const char *id;
        const char *meaning;
} messages[] = {
#define X(name, level, text_id, text)                                                              \
        [CAS_FSCK_##name] = {.severity = CAS_FSCK_##level, .id = (text_id), .meaning = (text)},
        CAS_FSCK_TABLE(X)
#undef X
};

struct finding {
        enum cas_fsck_message message;
        struct cas_damage damage;
        char *subject, *detail; /* owned */
};

struct cas_look {
        struct cas_scrub_run *run;
        struct cas_pins *pins;  /* owned; NULL: the first look */
        struct cas_mutex mutex; /* a leaf; guards: */
        struct finding *found;  /* owned */
        size_t count, max;
};

struct cas_scrub_run *cas_look_run(const struct cas_look *look)
{
        return look->run;
}

bool cas_look_is_first(const struct cas_look *look)
{
        return !look->pins;
}

void cas_look_pin_blob(struct cas_look *look, const struct cas_digest *blob)
{
        if (look->pins)
                cas_pin_blob(look->pins, blob);
}

void cas_look_pin_object(struct cas_look *look, const struct cas_hash *object)
{
        if (look->pins)
                cas_pin_object(look->pins, object);
}

void cas_look_pin_chunk(struct cas_look *look, const struct cas_hash *chunk)
{
        if (look->pins)
                cas_pin_chunk(look->pins, chunk);
}

/* ---- findings ---- */

static void clear(struct cas_look *look)
{
        for (size_t i = 0; i < look->count; i++) {
                free(look->found[i].subject);
                free(look->found[i].detail);
        }
        look->count = 0;
}

static void add_locked(struct cas_look *look, enum cas_fsck_message message,
                       const struct cas_damage *damage, const char *subject, const char *detail)
{
        cas_assert_held(&look->mutex);
        if (look->count == FINDINGS_MAX)
                return;
        if (look->count == look->max) {
                look->max = look->max ? 2 * look->max : 8;
                look->found = cas_xrealloc(look->found, look->max * sizeof(look->found[0]));
        }
        look->found[look->count++] = (struct finding){
                .message = message,
                .damage = damage ? *damage : (struct cas_damage){.kind = CAS_DAMAGE_NONE},
                .subject = cas_xstrdup(subject),
                .detail = cas_xstrdup(detail)};
}

void cas_look_found(struct cas_look *look, enum cas_fsck_message message,
                    const struct cas_damage *damage, const char *subject, const char *fmt, ...)
{
        char detail[CAS_ERR_MSG_MAX];
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(detail, sizeof(detail), fmt, ap);
        va_end(ap);
        cas_mutex_lock(&look->mutex);
        add_locked(look, message, damage, subject, detail);
        cas_mutex_unlock(&look->mutex);
}

/* ---- telling ---- */

static void tell(struct cas_scrub_run *run, enum cas_fsck_message message, const char *subject,
                 const char *detail, const char *outcome)
{
        char text[2 * OUTCOME_BYTES + 128];
        (void)snprintf(text, sizeof(text), "%s%s%s%s%s", messages[message].meaning,
                       detail[0] ? ": " : "", detail, outcome[0] ? "; " : "", outcome);
        cas_mutex_lock(&run->mutex);
        if (messages[message].severity == CAS_FSCK_ERROR)
                run->out->errors++;
        else if (messages[message].severity == CAS_FSCK_WARNING)
                run->out->warnings++;
        if (run->fn)
                run->fn(run->arg, messages[message].severity, messages[message].id, subject, text);
        cas_mutex_unlock(&run->mutex);
}

void cas_scrub_say(struct cas_scrub_run *run, enum cas_fsck_message message, const char *subject,
                   const char *fmt, ...)
{
        char detail[CAS_ERR_MSG_MAX];
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(detail, sizeof(detail), fmt, ap);
        va_end(ap);
        tell(run, message, subject, detail, "");
}

/* ---- putting right ---- */

static int repair_one(struct cas_scrub_run *run, const struct cas_damage *d, enum cas_repaired *out,
                      struct cas_err *err)
{
        switch (d->kind) {
        case CAS_DAMAGE_CHUNK:
                return cas_repair_chunk(run->repair, &d->hash, out, err);
        case CAS_DAMAGE_OBJECT:
                return cas_repair_object(run->repair, &d->hash, out, err);
        case CAS_DAMAGE_BLOB:
                return cas_repair_blob(run->repair, &d->digest, out, err);
        case CAS_DAMAGE_RECIPE:
                return cas_repair_recipe(run->repair, &d->digest, out, err);
        case CAS_DAMAGE_TREE:
                return cas_repair_tree(run->repair, &d->digest, out, err);
        case CAS_DAMAGE_PACK:
                return cas_repair_pack(run->repair, d->pack_id, out, err);
        case CAS_DAMAGE_INDEX_LOG: /* what is in it is in memory, too */
                *out = CAS_REPAIRED;
                return cas_index_flush(run->s->index, err);
        case CAS_DAMAGE_NONE:
                break;
        }
        return cas_fail(err, CAS_E_UNSUPPORTED, "nothing can be put right");
}

static bool same_damage(const struct cas_damage *a, const struct cas_damage *b)
{
        if (a->kind != b->kind)
                return false;
        switch (a->kind) {
        case CAS_DAMAGE_CHUNK:
        case CAS_DAMAGE_OBJECT:
                return cas_hash_equal(&a->hash, &b->hash);
        case CAS_DAMAGE_BLOB:
        case CAS_DAMAGE_RECIPE:
        case CAS_DAMAGE_TREE:
                return cas_digest_equal(&a->digest, &b->digest);
        case CAS_DAMAGE_PACK:
                return a->pack_id == b->pack_id;
        case CAS_DAMAGE_INDEX_LOG:
        case CAS_DAMAGE_NONE:
                break;
        }
        return true;
}

/* What became of the damage; `out` has OUTCOME_BYTES. */
static void put_right(struct cas_scrub_run *run, const struct cas_damage *damage, uint64_t findings,
                      char *out)
{
        enum cas_repaired result = CAS_REPAIRED;
        struct cas_err why = CAS_ERR_INIT;
        out[0] = '\0';
        if (!run->repair || damage->kind == CAS_DAMAGE_NONE)
                return;
        /* While a part of the store is away, nobody knows what is lost. */
        int rc = cas_packset_reach_all(run->s->packset, &why);
        if (rc == 0)
                rc = repair_one(run, damage, &result, &why);
        if (rc < 0) {
                (void)snprintf(out, OUTCOME_BYTES, "not repaired: %s", why.msg);
        } else if (result == CAS_QUARANTINED) {
                (void)snprintf(out, OUTCOME_BYTES, "put aside");
                cas_scrub_count(run, &run->out->quarantined, findings);
        } else {
                (void)snprintf(out, OUTCOME_BYTES,
                               result == CAS_NOT_NEEDED ? "removed, nothing needs it" : "repaired");
                cas_scrub_count(run, &run->out->repaired, findings);
        }
}

static bool is_error(const struct finding *f)
{
        return messages[f->message].severity == CAS_FSCK_ERROR;
}

/* Findings of one damage follow each other; it is put right once, and all are told with that. */
static void settle(struct cas_look *look)
{
        char outcome[OUTCOME_BYTES];
        for (size_t i = 0, end; i < look->count; i = end) {
                const struct cas_damage *damage = &look->found[i].damage;
                uint64_t errors = 0;
                for (end = i; end < look->count && same_damage(damage, &look->found[end].damage);
                     end++)
                        errors += is_error(&look->found[end]);
                put_right(look->run, damage, errors, outcome);
                for (size_t k = i; k < end; k++)
                        tell(look->run, look->found[k].message, look->found[k].subject,
                             look->found[k].detail, outcome);
        }
}

void cas_scrub_look(struct cas_scrub_run *run, void (*check)(struct cas_look *look, void *arg),
                    void *arg)
{
        struct cas_look look = {.run = run};
        cas_mutex_init(&look.mutex, "scrub.look");
        check(&look, arg);
        for (unsigned i = 0; i < SECOND_LOOKS && look.count > 0; i++) {
                clear(&look);
                if (!look.pins)
                        look.pins = cas_pins_new(run->s);
                check(&look, arg);
        }
        cas_pins_free(look.pins); /* what nothing needs may go */
        settle(&look);
        clear(&look);
        free(look.found);
        cas_mutex_release(&look.mutex);
}
