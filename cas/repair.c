/* SPDX-License-Identifier: Apache-2.0 */
/* What scrub calls: each kind of thing that can be damaged, by its name. */
#include "cas/damage_int.h"
#include "cas/repair_run_int.h"

struct cas_repair *cas_repair_new(struct cas_store *s, const struct cas_scrub_options *options,
                                  cas_fsck_fn fn, void *arg)
{
        struct cas_repair *r = cas_xcalloc(1, sizeof(*r));
        *r = (struct cas_repair){.s = s, .options = options, .fn = fn, .arg = arg};
        cas_mutex_init(&r->mutex, "repair");
        return r;
}

void cas_repair_free(struct cas_repair *r)
{
        if (!r)
                return;
        cas_mutex_release(&r->mutex);
        free(r);
}

/* ---- chunks and objects ---- */

int cas_repair_chunk(struct cas_repair *r, const struct cas_hash *chunk, enum cas_repaired *out,
                     struct cas_err *err)
{
        cas_cleanup_losses struct cas_losses l;
        char hex[CAS_HASH_HEX_BYTES];
        cas_losses_init(&l);
        cas_losses_add(&l, chunk, false);
        cas_mutex_lock(&r->mutex);
        int rc = cas_losses_settle(r, &l, out, err);
        cas_mutex_unlock(&r->mutex);
        return rc < 0 ? cas_err_wrap(err, "repair chunk %s", cas_hash_hex(chunk, hex)) : 0;
}

static int repair_object(struct cas_repair *r, const struct cas_hash *object,
                         enum cas_repaired *out, struct cas_err *err)
{
        cas_cleanup_losses struct cas_losses l;
        struct cas_err bad = CAS_ERR_INIT;
        cas_losses_init(&l);
        int rc = cas_repair_look_object(r->s, object, &l, &bad);
        *out = CAS_REPAIRED; /* it is sound */
        if (rc == 0)
                return 0;
        if (!cas_repair_is_damage(rc)) {
                *err = bad;
                return rc;
        }
        rc = cas_losses_settle(r, &l, out, err);
        if (rc < 0 || *out != CAS_REPAIRED)
                return rc;
        /* All its chunks are right, and the object may be wrong still: its list is. */
        return cas_repair_look_object(r->s, object, NULL, &bad) == 0
                       ? 0
                       : cas_fail(err, CAS_E_CORRUPT, "%s", bad.msg);
}

int cas_repair_object(struct cas_repair *r, const struct cas_hash *object, enum cas_repaired *out,
                      struct cas_err *err)
{
        char hex[CAS_HASH_HEX_BYTES];
        cas_mutex_lock(&r->mutex);
        int rc = repair_object(r, object, out, err);
        cas_mutex_unlock(&r->mutex);
        return rc < 0 ? cas_err_wrap(err, "repair object %s", cas_hash_hex(object, hex)) : 0;
}

/* ---- what readers met ---- */

/* *sound: by now, or it always was. */
static int look_at_note(struct cas_store *s, const struct cas_damage_note *note, bool *sound,
                        struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        struct cas_err bad = CAS_ERR_INIT;
        *sound = false;
        if (note->is_blob)
                return 0;
        int rc = cas_repair_read_chunk(s, &note->chunk, &bytes, &bad);
        *sound = rc == 0;
        if (rc == 0 || cas_repair_is_damage(rc))
                return 0;
        *err = bad;
        return rc;
}

static void tell_note(struct cas_repair *r, const struct cas_damage_note *note,
                      enum cas_repaired how)
{
        char subject[CAS_DIGEST_TEXT_BYTES];
        if (note->is_blob)
                (void)cas_digest_text(&note->blob, subject);
        else
                (void)cas_hash_hex(&note->chunk, subject);
        if (r->fn)
                r->fn(r->arg, CAS_FSCK_ERROR, note->is_blob ? "recipe-digest" : "chunk-digest",
                      subject,
                      how == CAS_QUARANTINED ? "a reader met the damage; put aside"
                                             : "a reader met the damage; repaired");
}

int cas_repair_noted(struct cas_repair *r, struct cas_fsck_result *out, struct cas_err *err)
{
        struct cas_damage_note notes[16];
        struct cas_err away = CAS_ERR_INIT;
        size_t count;
        /* While a part of the store is away, nobody knows what is lost: it stays noted. */
        if (cas_packset_reach_all(r->s->packset, &away) < 0)
                return 0;
        while ((count = cas_damage_take(r->s, notes, CAS_COUNT(notes))) > 0) {
                for (size_t i = 0; i < count; i++) {
                        enum cas_repaired how = CAS_REPAIRED;
                        bool sound;
                        int rc = look_at_note(r->s, &notes[i], &sound, err);
                        if (rc == 0 && !sound)
                                rc = notes[i].is_blob
                                             ? cas_repair_recipe(r, &notes[i].blob, &how, err)
                                             : cas_repair_chunk(r, &notes[i].chunk, &how, err);
                        if (rc < 0)
                                return rc;
                        if (!sound)
                                tell_note(r, &notes[i], how);
                        out->errors += !sound;
                        out->repaired += !sound && how == CAS_REPAIRED;
                        out->quarantined += !sound && how == CAS_QUARANTINED;
                }
        }
        return 0;
}
