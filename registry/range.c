/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/range.h"

#include <strings.h>

/* Digits at *at, which is moved past them; more than fit are UINT64_MAX. */
static bool take_number(const char **at, uint64_t *out)
{
        const char *c = *at;
        uint64_t n = 0;
        for (; *c >= '0' && *c <= '9'; c++) {
                uint64_t digit = (uint64_t)(*c - '0');
                n = n > (UINT64_MAX - digit) / 10 ? UINT64_MAX : n * 10 + digit;
        }
        bool any = c != *at;
        *at = c;
        *out = n;
        return any;
}

static void skip_space(const char **at)
{
        while (**at == ' ' || **at == '\t')
                (*at)++;
}

/* What follows the unit, NULL when the header is none that concerns us. */
static const char *range_set(const char *header)
{
        return header && strncasecmp(header, "bytes=", 6) == 0 ? header + 6 : NULL;
}

/* One range at *at, which is moved past it. WHOLE: it is none. */
static enum reg_range_kind take_range(const char **at, uint64_t size, struct reg_range *out)
{
        uint64_t first = 0, last = 0;
        skip_space(at);
        bool has_first = take_number(at, &first);
        if (**at != '-')
                return REG_RANGE_WHOLE;
        (*at)++;
        bool has_last = take_number(at, &last);
        skip_space(at);
        if (!has_first && !has_last)
                return REG_RANGE_WHOLE;
        if (!has_first) { /* the last bytes */
                *out = (struct reg_range){.bytes = cas_min_u64(last, size)};
                out->first = size - out->bytes;
        } else if (first >= size || (has_last && last < first)) {
                return REG_RANGE_UNSATISFIABLE;
        } else {
                uint64_t end = has_last && last < size - 1 ? last + 1 : size;
                *out = (struct reg_range){.first = first, .bytes = end - first};
        }
        return out->bytes > 0 ? REG_RANGE_PART : REG_RANGE_UNSATISFIABLE;
}

enum reg_range_kind reg_range_parse(const char *header, uint64_t size, struct reg_range *out)
{
        const char *at = range_set(header);
        struct reg_range range = {0};
        enum reg_range_kind kind = at ? take_range(&at, size, &range) : REG_RANGE_WHOLE;
        if (kind == REG_RANGE_WHOLE || *at != '\0')
                return REG_RANGE_WHOLE;
        if (kind == REG_RANGE_PART)
                *out = range;
        return kind;
}

/* All of a list; what cannot be served is left out. */
static enum reg_range_kind take_ranges(const char *at, uint64_t size, struct reg_range *list,
                                       size_t *count)
{
        uint64_t total = 0;
        for (;; at++) {
                skip_space(&at);
                if (*at != ',' && *at != '\0') { /* lists may have empty members */
                        enum reg_range_kind kind = take_range(&at, size, &list[*count]);
                        if (kind == REG_RANGE_WHOLE)
                                return kind;
                        if (kind == REG_RANGE_PART)
                                total += list[(*count)++].bytes; /* no more than 1024 contents */
                }
                if (*at == '\0')
                        break;
                if (*at != ',')
                        return REG_RANGE_WHOLE;
        }
        if (*count == 0)
                return REG_RANGE_UNSATISFIABLE;
        return total / 2 > size ? REG_RANGE_WHOLE : REG_RANGE_PARTS;
}

enum reg_range_kind reg_ranges_parse(const char *header, uint64_t size, struct reg_range **list,
                                     size_t *count)
{
        const char *at = range_set(header);
        size_t members = 1;
        *list = NULL;
        *count = 0;
        if (!at)
                return REG_RANGE_WHOLE;
        for (const char *c = at; *c; c++)
                members += *c == ',';
        if (members > REG_RANGES_MAX)
                return REG_RANGE_TOO_MANY;
        *list = cas_xcalloc(members, sizeof(**list));
        if (members > 1)
                return take_ranges(at, size, *list, count);
        enum reg_range_kind kind = reg_range_parse(header, size, *list);
        *count = kind == REG_RANGE_PART;
        return kind;
}

bool reg_content_range_parse(const char *header, uint64_t *out_first, uint64_t *out_last)
{
        const char *at = header;
        return take_number(&at, out_first) && *at++ == '-' && take_number(&at, out_last) &&
               *at == '\0' && *out_first <= *out_last && *out_last < UINT64_MAX;
}

/* The tag at `at`, without W/; *out_len without quotes. Returns what follows, NULL at nonsense. */
static const char *take_etag(const char *at, const char **out_text, size_t *out_len)
{
        if (strncmp(at, "W/", 2) == 0)
                at += 2;
        if (*at != '"')
                return NULL;
        const char *end = strchr(at + 1, '"');
        if (!end)
                return NULL;
        *out_text = at + 1;
        *out_len = (size_t)(end - at - 1);
        return end + 1;
}

static bool etag_listed(const char *header, const char *text, bool weakly)
{
        size_t len = strlen(text);
        const char *at = header;
        if (!at)
                return false;
        skip_space(&at);
        if (strcmp(at, "*") == 0)
                return true;
        for (;;) {
                const char *tag;
                size_t tag_len;
                skip_space(&at);
                bool weak = *at == 'W';
                at = take_etag(at, &tag, &tag_len);
                if (!at)
                        return false;
                if ((weakly || !weak) && tag_len == len && memcmp(tag, text, len) == 0)
                        return true;
                skip_space(&at);
                if (*at++ != ',')
                        return false;
        }
}

bool reg_etag_listed(const char *header, const char *text)
{
        return etag_listed(header, text, true);
}

bool reg_etag_listed_strong(const char *header, const char *text)
{
        return etag_listed(header, text, false);
}

bool reg_if_range_allows(const char *header, const char *text)
{
        if (!header)
                return true;
        size_t len = strlen(text);
        return header[0] == '"' && strncmp(header + 1, text, len) == 0 &&
               strcmp(header + 1 + len, "\"") == 0;
}

bool reg_count_parse(const char *text, uint64_t max, uint64_t *out)
{
        uint64_t n;
        const char *at = text;
        if (!take_number(&at, &n) || *at != '\0')
                return false;
        *out = cas_min_u64(n, max);
        return true;
}
