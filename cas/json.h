/* SPDX-License-Identifier: Apache-2.0 */
/* JSON that comes from outside, by jansson: size, depth and the number of
 * values are bounded before anything is allocated, and duplicate keys are
 * refused, since two readers of one document must not see two things.
 * A member that is null counts as absent, as Go's encoders write empty lists.
 * No state; thread-safe. */
#ifndef CAS_JSON_H
#define CAS_JSON_H

#include <jansson.h>

#include "cas/buf.h"

static inline void cas_cleanup_json_(json_t **j)
{
        json_decref(*j);
}
/* For references that are owned; what the getters below give is borrowed. */
#define cas_cleanup_json __attribute__((cleanup(cas_cleanup_json_)))

/* One document: an object or an array. Errors: INVALID, LIMIT (bytes, depth, values). */
int cas_json_parse(const void *data, size_t len, size_t max_bytes, json_t **out,
                   struct cas_err *err) CAS_MUST_CHECK;
/* Compact text, keys in the order they were set. */
void cas_json_append(const json_t *j, struct cas_buf *out);

/* Members of an object. Absent: *out is NULL (u64: `absent`). Of another type: INVALID, and
 * the message names the key. */
int cas_json_object_in(const json_t *j, const char *key, const json_t **out,
                       struct cas_err *err) CAS_MUST_CHECK;
int cas_json_array_in(const json_t *j, const char *key, const json_t **out,
                      struct cas_err *err) CAS_MUST_CHECK;
int cas_json_string_in(const json_t *j, const char *key, const char **out,
                       struct cas_err *err) CAS_MUST_CHECK;
int cas_json_u64_in(const json_t *j, const char *key, uint64_t absent, uint64_t *out,
                    struct cas_err *err) CAS_MUST_CHECK;
/* Copies a string member into an array of `size` bytes, "" when absent. Errors: LIMIT. */
int cas_json_copy_in(const json_t *j, const char *key, char *out, size_t size,
                     struct cas_err *err) CAS_MUST_CHECK;
/* True when the member is there and not null. */
bool cas_json_has(const json_t *j, const char *key);

#endif
