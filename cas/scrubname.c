/* SPDX-License-Identifier: Apache-2.0 */
/* Scrub of names: what they refer to is there. */
#include "cas/blob.h"
#include "cas/image.h"
#include "cas/namerecord_int.h"
#include "cas/scrub_int.h"

struct name_look {
        struct cas_look *look;
        struct cas_scrub_run *run;
        struct cas_name_record rec;
        char *subject; /* owned */
};

static bool has_key(struct name_look *n, enum cas_family family, const struct cas_record_key *key)
{
        struct cas_err err = CAS_ERR_INIT;
        bool here = false;
        int rc = cas_index_has(n->run->s->index, family, key->bytes, key->len, &here, &err);
        if (rc == -CAS_E_NOMEM)
                cas_scrub_fail(n->run, &err);
        return rc == 0 && here;
}

static bool has_blob(struct name_look *n, const struct cas_digest *digest)
{
        struct cas_record_key key;
        cas_look_pin_blob(n->look, digest);
        cas_key_digest(digest, &key);
        return has_key(n, CAS_FAMILY_BLOBS, &key) ||
               has_key(n, CAS_FAMILY_ELSEWHERE, &key); /* told of as such */
}

static bool is_linked(struct name_look *n, enum cas_family family, const struct cas_digest *digest)
{
        struct cas_record_key key;
        cas_key_repo_digest(n->rec.repo, digest, &key);
        return has_key(n, family, &key);
}

/* ---- manifests ---- */

/* A blob that a manifest names: lost, unless the repository never had it: images of a cache come in
 * pieces, and a client may have deleted a blob. */
static void check_reference(struct name_look *n, const struct cas_descriptor *d)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        if (!d->foreign && !has_blob(n, &d->digest) &&
            is_linked(n, CAS_FAMILY_BLOB_LINKS, &d->digest))
                cas_look_found(n->look, CAS_FSCK_MANIFEST_REFERENCE,
                               &(struct cas_damage){.kind = CAS_DAMAGE_BLOB, .digest = d->digest},
                               n->subject, "%s", cas_digest_text(&d->digest, text));
}

static void check_manifest_bytes(struct name_look *n)
{
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        cas_cleanup_manifest struct cas_manifest m = {0};
        struct cas_err bad = CAS_ERR_INIT;
        int rc = cas_blob_read(n->run->s, &n->rec.digest, CAS_MANIFEST_BYTES_MAX, &bytes, &bad);
        if (rc == 0)
                rc = cas_manifest_parse(bytes.data, bytes.len_bytes, n->rec.media_type, &m, &bad);
        if (rc < 0) {
                cas_look_found(n->look, CAS_FSCK_MANIFEST_MALFORMED, NULL, n->subject, "%s",
                               bad.msg);
                return;
        }
        if (m.kind == CAS_MANIFEST_INDEX)
                return; /* children may be absent */
        check_reference(n, &m.config);
        for (size_t i = 0; i < m.child_count; i++)
                check_reference(n, &m.children[i]);
}

static void check_manifest(struct name_look *n)
{
        if (cas_look_is_first(n->look))
                cas_scrub_count(n->run, &n->run->out->manifests, 1);
        if (!has_blob(n, &n->rec.digest))
                cas_look_found(
                        n->look, CAS_FSCK_MANIFEST_BLOB,
                        &(struct cas_damage){.kind = CAS_DAMAGE_BLOB, .digest = n->rec.digest},
                        n->subject, "%s", "");
        else if (cas_media_type_is_manifest(n->rec.media_type))
                check_manifest_bytes(n);
}

/* ---- all ---- */

static void check_one(struct name_look *n)
{
        const struct cas_name_record *rec = &n->rec;
        switch (rec->kind) {
        case CAS_NAME_MANIFEST_LINK:
                check_manifest(n);
                break;
        case CAS_NAME_BLOB_LINK:
                if (!has_blob(n, &rec->digest))
                        cas_look_found(n->look, CAS_FSCK_BLOB_LINK, NULL, n->subject, "%s", "");
                break;
        case CAS_NAME_TAG:
                if (!is_linked(n, CAS_FAMILY_MANIFESTS, &rec->digest))
                        cas_look_found(n->look, CAS_FSCK_TAG_MANIFEST, NULL, n->subject, "%s", "");
                break;
        case CAS_NAME_REFERRER:
                if (!is_linked(n, CAS_FAMILY_MANIFESTS, &rec->referrer))
                        cas_look_found(n->look, CAS_FSCK_REFERRER_MANIFEST, NULL, n->subject, "%s",
                                       "");
                break;
        case CAS_NAME_MANIFEST_UNLINK:
        case CAS_NAME_BLOB_UNLINK:
        case CAS_NAME_UNTAG:
        case CAS_NAME_UNREFERRER:
                break; /* not in the index */
        }
}

static void check_name(struct cas_look *look, const struct cas_scrub_item *item)
{
        struct name_look n = {.look = look, .run = cas_look_run(look)};
        const struct cas_name_record *rec = &n.rec;
        struct cas_err malformed = CAS_ERR_INIT;
        char text[CAS_DIGEST_TEXT_BYTES];
        if (cas_name_record_from_index(item->family, item->key, item->key_len, item->value,
                                       item->value_len, &n.rec, &malformed) < 0) {
                cas_look_found(look, CAS_FSCK_RECORD_MALFORMED, NULL, cas_family_name(item->family),
                               "%s", malformed.msg);
                return;
        }
        n.subject = cas_xasprintf(
                "%s%s%s@%s", rec->repo, rec->tag[0] ? ":" : "", rec->tag,
                cas_digest_text(rec->kind == CAS_NAME_REFERRER ? &rec->referrer : &rec->digest,
                                text));
        check_one(&n);
        free(n.subject);
}

static void check_family(struct cas_scrub_run *run, enum cas_family family)
{
        (void)cas_scrub_each(run, &(struct cas_scrub_family){.family = family,
                                                             .check = check_name,
                                                             .counter = &run->out->names,
                                                             .at_once = 16});
}

void cas_scrub_manifests(struct cas_scrub_run *run)
{
        check_family(run, CAS_FAMILY_MANIFESTS);
}

void cas_scrub_blob_links(struct cas_scrub_run *run)
{
        check_family(run, CAS_FAMILY_BLOB_LINKS);
}

void cas_scrub_tags(struct cas_scrub_run *run)
{
        check_family(run, CAS_FAMILY_TAGS);
}

void cas_scrub_referrers(struct cas_scrub_run *run)
{
        check_family(run, CAS_FAMILY_REFERRERS);
}
