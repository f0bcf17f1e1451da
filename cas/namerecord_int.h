/* SPDX-License-Identifier: Apache-2.0 */
/* One change of a name, as the journal keeps it and as the index takes it in. */
#ifndef CAS_NAMERECORD_INT_H
#define CAS_NAMERECORD_INT_H

#include "cas/record_int.h"

enum cas_name_kind {
        CAS_NAME_MANIFEST_LINK = 1,   /* repo, digest, number: size, media_type */
        CAS_NAME_MANIFEST_UNLINK = 2, /* repo, digest */
        CAS_NAME_BLOB_LINK = 3,       /* repo, digest, number: unix seconds */
        CAS_NAME_BLOB_UNLINK = 4,     /* repo, digest */
        CAS_NAME_TAG = 5,             /* repo, tag, digest */
        CAS_NAME_UNTAG = 6,           /* repo, tag */
        CAS_NAME_REFERRER = 7,        /* repo, digest: subject, referrer */
        CAS_NAME_UNREFERRER = 8,      /* repo, digest: subject, referrer */
};
struct cas_name_record {
        enum cas_name_kind kind;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        char tag[CAS_TAG_BYTES_MAX + 1];
        struct cas_digest digest;
        struct cas_digest referrer;
        uint64_t number;
        char media_type[256];
};

void cas_name_record_encode(const struct cas_name_record *rec, struct cas_buf *out);
/* Reads one record; the grammar of names is checked. Errors: CORRUPT. */
int cas_name_record_decode(struct cas_cursor *c, struct cas_name_record *out,
                           struct cas_err *err) CAS_MUST_CHECK;
/* The index's family and key of what the record changes. */
enum cas_family cas_name_record_key(const struct cas_name_record *rec, struct cas_record_key *key);
/* Whether it adds (else it removes); value, appended, is what the index holds then. */
bool cas_name_record_value(const struct cas_name_record *rec, struct cas_buf *value);
void cas_name_record_apply(const struct cas_name_record *rec, struct cas_batch *batch);
/* The record that adds what the index holds under a key. Errors: CORRUPT. */
int cas_name_record_from_index(enum cas_family family, const void *key, size_t key_len,
                               const void *value, size_t value_len, struct cas_name_record *out,
                               struct cas_err *err) CAS_MUST_CHECK;

#endif
