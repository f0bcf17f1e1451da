/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and values of the index as bytes (spec/index.md). Pure encoding: no
 * I/O, no state. Decoders take any bytes and answer CORRUPT. */
#ifndef CAS_RECORD_INT_H
#define CAS_RECORD_INT_H

#include "cas/blob.h"
#include "cas/index_int.h"
#include "cas/limits.h"
#include "cas/names.h"

/* Unsigned LEB128, shortest form, at most 10 bytes. */
void cas_varint_append(struct cas_buf *b, uint64_t v);
uint64_t cas_cursor_varint(struct cas_cursor *c);
/* Algorithm byte, then the digest's bytes: a digest tells its own length. */
#define CAS_DIGEST_KEY_BYTES_MAX (1 + CAS_DIGEST_BYTES_MAX)
void cas_digest_append(struct cas_buf *b, const struct cas_digest *d);
void cas_cursor_digest(struct cas_cursor *c, struct cas_digest *out);
/* Varint length, then the bytes; read: NUL-terminated, no NUL inside, at most out_bytes - 1. */
void cas_text_append(struct cas_buf *b, const char *s);
void cas_cursor_text(struct cas_cursor *c, char *out, size_t out_bytes);
/* Fails (CORRUPT, naming `what`) unless the cursor read everything and never past the end. */
int cas_cursor_end(const struct cas_cursor *c, const char *what,
                   struct cas_err *err) CAS_MUST_CHECK;

/* A key of any family. */
#define CAS_RECORD_KEY_BYTES_MAX                                                                   \
        (CAS_REPO_NAME_BYTES_MAX + 1 + CAS_TAG_BYTES_MAX + 2 * CAS_DIGEST_KEY_BYTES_MAX)
struct cas_record_key {
        uint8_t bytes[CAS_RECORD_KEY_BYTES_MAX];
        size_t len;
};
void cas_key_pack(uint64_t pack_id, struct cas_record_key *out);
void cas_key_digest(const struct cas_digest *d, struct cas_record_key *out);
void cas_key_list_page(const struct cas_hash *object, uint32_t page, struct cas_record_key *out);
/* repo NUL, then what follows; repo and tag are within their limits (asserted). */
void cas_key_repo(const char *repo, struct cas_record_key *out);
void cas_key_tag(const char *repo, const char *tag, struct cas_record_key *out);
void cas_key_repo_digest(const char *repo, const struct cas_digest *d, struct cas_record_key *out);
void cas_key_referrer(const char *repo, const struct cas_digest *subject,
                      const struct cas_digest *referrer, struct cas_record_key *out);
/* Splits "repo NUL rest". */
int cas_key_split_repo(const void *key, size_t len, char repo[CAS_REPO_NAME_BYTES_MAX + 1],
                       struct cas_cursor *rest, struct cas_err *err) CAS_MUST_CHECK;

void cas_chunk_record_encode(const struct cas_chunk_record *rec, struct cas_buf *out);
int cas_chunk_record_decode(const void *data, size_t len, struct cas_chunk_record *out,
                            struct cas_err *err) CAS_MUST_CHECK;
void cas_object_record_encode(const struct cas_object_record *rec, struct cas_buf *out);
int cas_object_record_decode(const void *data, size_t len, struct cas_object_record *out,
                             struct cas_err *err) CAS_MUST_CHECK;
#define CAS_CHUNK_REF_BYTES (CAS_HASH_BYTES + 4)
void cas_chunk_refs_encode(const struct cas_chunk_ref *refs, uint32_t count, struct cas_buf *out);
int cas_chunk_refs_decode(const void *data, size_t len, struct cas_chunk_ref *out, uint32_t max,
                          uint32_t *count, struct cas_err *err) CAS_MUST_CHECK;
void cas_pack_record_encode(const struct cas_pack_record *rec, struct cas_buf *out);
int cas_pack_record_decode(const void *data, size_t len, struct cas_pack_record *out,
                           struct cas_err *err) CAS_MUST_CHECK;
/* The blob's digest is the key, not part of the value. */
void cas_layer_record_encode(const struct cas_layer_record *rec, struct cas_buf *out);
int cas_layer_record_decode(const struct cas_digest *blob, const void *data, size_t len,
                            struct cas_layer_record *out, struct cas_err *err) CAS_MUST_CHECK;

struct cas_blob_record {
        uint64_t size_bytes;
        uint64_t added_unix_s; /* when it was published last */
        enum cas_blob_copy copy;
};
void cas_blob_record_encode(const struct cas_blob_record *rec, struct cas_buf *out);
int cas_blob_record_decode(const void *data, size_t len, struct cas_blob_record *out,
                           struct cas_err *err) CAS_MUST_CHECK;

/* The blob's digest is the key, not part of the value. */
void cas_recipe_record_encode(const struct cas_recipe_record *rec, struct cas_buf *out);
int cas_recipe_record_decode(const struct cas_digest *blob, const void *data, size_t len,
                             struct cas_recipe_record *out, struct cas_err *err) CAS_MUST_CHECK;

void cas_lease_encode(const struct cas_lease *lease, struct cas_buf *out);
/* key: the lease's id. */
int cas_lease_decode(const void *key, size_t key_len, const void *data, size_t len,
                     struct cas_lease *out, struct cas_err *err) CAS_MUST_CHECK;

void cas_tree_record_encode(const struct cas_tree_record *rec, struct cas_buf *out);
/* out->layers is owned by the caller. */
int cas_tree_record_decode(const void *data, size_t len, struct cas_tree_record *out,
                           struct cas_err *err) CAS_MUST_CHECK;

/* Value of a manifest's link in a repository. */
void cas_manifest_value_encode(const char *media_type, uint64_t size_bytes, struct cas_buf *out);
int cas_manifest_value_decode(const void *data, size_t len, struct cas_manifest_info *out,
                              struct cas_err *err) CAS_MUST_CHECK;
/* Key and value together; of which repository it is is not told. */
int cas_manifest_entry_decode(const void *key, size_t key_len, const void *value, size_t value_len,
                              struct cas_manifest_info *out, struct cas_err *err) CAS_MUST_CHECK;
int cas_digest_value_decode(const void *data, size_t len, struct cas_digest *out,
                            struct cas_err *err) CAS_MUST_CHECK;
/* Value of a blob's link: when it was made. */
void cas_time_value_encode(uint64_t unix_s, struct cas_buf *out);
int cas_time_value_decode(const void *data, size_t len, uint64_t *out_unix_s,
                          struct cas_err *err) CAS_MUST_CHECK;

#endif
