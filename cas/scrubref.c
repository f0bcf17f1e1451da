/* SPDX-License-Identifier: Apache-2.0 */
/* Scrub of references: each one that should be is, each one that is has its parent. */
#include "cas/refscheck_int.h"
#include "cas/scrub_int.h"

static void found(void *arg, bool missing, const struct cas_reference *ref)
{
        struct cas_scrub_run *run = arg;
        struct cas_err why = CAS_ERR_INIT;
        char text[CAS_REFERENCE_TEXT_BYTES];
        const enum cas_fsck_message message =
                missing ? CAS_FSCK_REFERENCE_MISSING : CAS_FSCK_REFERENCE_STALE;
        (void)cas_reference_text(ref, text);
        if (!run->repair) {
                cas_scrub_say(run, message, text, "%s", "");
        } else if (cas_refs_repair(run->s, missing, ref, &why) < 0) {
                cas_scrub_say(run, message, text, "not repaired: %s", why.msg);
        } else {
                cas_scrub_say(run, message, text, "repaired");
                cas_scrub_count(run, &run->out->repaired, missing);
        }
}

/* It looks twice by itself. */
static void check_record(struct cas_look *look, const struct cas_scrub_item *item)
{
        struct cas_scrub_run *run = cas_look_run(look);
        struct cas_err err = CAS_ERR_INIT;
        int rc = cas_refs_check_record(run->s, item->family, item->key, item->key_len, item->value,
                                       item->value_len, found, run, &err);
        if (rc == -CAS_E_NOMEM)
                cas_scrub_fail(run, &err);
        else if (rc < 0)
                cas_scrub_say(run, CAS_FSCK_INDEX_DAMAGED, cas_family_name(item->family), "%s",
                              err.msg);
}

void cas_scrub_references(struct cas_scrub_run *run)
{
        cas_assert(cas_refs_checks(run->family));
        (void)cas_scrub_each(run, &(struct cas_scrub_family){.family = run->family,
                                                             .check = check_record,
                                                             .at_once = 64});
}
