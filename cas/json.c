/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/json.h"

#include "cas/limits.h"

/* Looks at brackets and separators outside of strings: jansson allocates as it goes and recurses,
 * so depth and number of values are known before it starts. */
static int json_scan(const char *text, size_t len, struct cas_err *err)
{
        size_t depth = 0, values = 0;
        bool in_string = false;
        for (size_t i = 0; i < len; i++) {
                char c = text[i];
                if (in_string) {
                        if (c == '\\')
                                i++;
                        else if (c == '"')
                                in_string = false;
                        continue;
                }
                if (c == '"') {
                        in_string = true;
                } else if (c == '[' || c == '{') {
                        if (++depth > CAS_JSON_DEPTH_MAX)
                                return cas_fail(err, CAS_E_LIMIT,
                                                "JSON is nested deeper than %d levels",
                                                CAS_JSON_DEPTH_MAX);
                        values++;
                } else if ((c == ']' || c == '}') && depth > 0) {
                        depth--;
                } else if (c == ',') {
                        values++;
                }
        }
        if (values > CAS_JSON_VALUES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "JSON holds more than %d values",
                                CAS_JSON_VALUES_MAX);
        return 0;
}

int cas_json_parse(const void *data, size_t len, size_t max_bytes, json_t **out,
                   struct cas_err *err)
{
        if (len > max_bytes)
                return cas_fail(err, CAS_E_LIMIT, "JSON of %zu bytes, over the limit of %zu", len,
                                max_bytes);
        int r = json_scan(data, len, err);
        if (r < 0)
                return r;
        json_error_t where;
        json_t *j = json_loadb(data, len, JSON_REJECT_DUPLICATES, &where);
        if (!j)
                return cas_fail(err, CAS_E_INVALID, "not valid JSON: line %d column %d: %s",
                                where.line, where.column, where.text);
        *out = j;
        return 0;
}

static int json_append_piece(const char *piece, size_t len, void *arg)
{
        cas_buf_append(arg, piece, len);
        return 0;
}

void cas_json_append(const json_t *j, struct cas_buf *out)
{
        int r = json_dump_callback(j, json_append_piece, out, JSON_COMPACT | JSON_ENCODE_ANY);
        cas_assert(r == 0);
}

static const char *json_type_name(json_type type)
{
        switch (type) {
        case JSON_OBJECT:
                return "an object";
        case JSON_ARRAY:
                return "an array";
        case JSON_STRING:
                return "a string";
        case JSON_INTEGER:
                return "an integer";
        case JSON_REAL:
        case JSON_TRUE:
        case JSON_FALSE:
        case JSON_NULL:
                break;
        }
        return "something else";
}

/* Gives the member when it is of the wanted type, NULL when it is absent. */
static int json_member(const json_t *j, const char *key, json_type type, const json_t **out,
                       struct cas_err *err)
{
        const json_t *v = json_object_get(j, key);
        *out = NULL;
        if (!v || json_is_null(v))
                return 0;
        if (json_typeof(v) != type)
                return cas_fail(err, CAS_E_INVALID, "\"%s\" must be %s", key, json_type_name(type));
        *out = v;
        return 0;
}

int cas_json_object_in(const json_t *j, const char *key, const json_t **out, struct cas_err *err)
{
        return json_member(j, key, JSON_OBJECT, out, err);
}

int cas_json_array_in(const json_t *j, const char *key, const json_t **out, struct cas_err *err)
{
        return json_member(j, key, JSON_ARRAY, out, err);
}

int cas_json_string_in(const json_t *j, const char *key, const char **out, struct cas_err *err)
{
        const json_t *v;
        int r = json_member(j, key, JSON_STRING, &v, err);
        if (r < 0)
                return r;
        *out = v ? json_string_value(v) : NULL;
        return 0;
}

int cas_json_u64_in(const json_t *j, const char *key, uint64_t absent, uint64_t *out,
                    struct cas_err *err)
{
        const json_t *v;
        int r = json_member(j, key, JSON_INTEGER, &v, err);
        if (r < 0)
                return r;
        if (v && json_integer_value(v) < 0)
                return cas_fail(err, CAS_E_INVALID, "\"%s\" must not be negative", key);
        *out = v ? (uint64_t)json_integer_value(v) : absent;
        return 0;
}

int cas_json_copy_in(const json_t *j, const char *key, char *out, size_t size, struct cas_err *err)
{
        const char *text;
        int r = cas_json_string_in(j, key, &text, err);
        if (r < 0)
                return r;
        size_t len = text ? strlen(text) : 0;
        if (len >= size)
                return cas_fail(err, CAS_E_LIMIT, "\"%s\" is longer than %zu bytes", key, size - 1);
        if (len > 0)
                memcpy(out, text, len);
        out[len] = 0;
        return 0;
}

bool cas_json_has(const json_t *j, const char *key)
{
        const json_t *v = json_object_get(j, key);
        return v && !json_is_null(v);
}
