/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/http_uri.h"

static int hex_value(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        if (c >= 'A' && c <= 'F')
                return c - 'A' + 10;
        return -1;
}

/* Decodes in place. plus: "+" is a space, as in queries. A NUL would end the
 * string early, and a slash in a segment would read as two segments later. */
static int decode(char *text, bool plus, struct cas_err *err)
{
        char *to = text;
        for (const char *from = text; *from; from++) {
                char c = *from;
                if (c == '%') {
                        int high = hex_value(from[1]);
                        int low = high < 0 ? -1 : hex_value(from[2]);
                        if (low < 0)
                                return cas_fail(err, CAS_E_INVALID, "broken escape in the URL");
                        c = (char)(high << 4 | low);
                        if (c == '\0' || (c == '/' && !plus))
                                return cas_fail(err, CAS_E_INVALID, "escaped NUL or slash");
                        from += 2;
                } else if (c == '+' && plus) {
                        c = ' ';
                }
                *to++ = c;
        }
        *to = '\0';
        return 0;
}

/* path: what follows the first slash. */
static int parse_path(char *path, struct reg_uri *out, struct cas_err *err)
{
        for (char *at = path; at;) {
                char *next = strchr(at, '/');
                if (next)
                        *next++ = '\0';
                if (out->segment_count == REG_URI_SEGMENTS_MAX)
                        return cas_fail(err, CAS_E_LIMIT, "more than %d path segments",
                                        REG_URI_SEGMENTS_MAX);
                int rc = decode(at, false, err);
                if (rc < 0)
                        return rc;
                out->segments[out->segment_count++] = at;
                at = next;
        }
        return 0;
}

static int parse_query(char *query, struct reg_uri *out, struct cas_err *err)
{
        for (char *at = query; at && *at;) {
                char *next = strchr(at, '&');
                if (next)
                        *next++ = '\0';
                char *value = strchr(at, '=');
                if (value)
                        *value++ = '\0';
                if (out->param_count == REG_URI_PARAMS_MAX)
                        return cas_fail(err, CAS_E_LIMIT, "more than %d query parameters",
                                        REG_URI_PARAMS_MAX);
                int rc = decode(at, true, err);
                if (rc == 0 && value)
                        rc = decode(value, true, err);
                if (rc < 0)
                        return rc;
                if (*at)
                        out->params[out->param_count++] =
                                (struct reg_uri_param){.name = at, .value = value ? value : ""};
                at = next;
        }
        return 0;
}

int reg_uri_parse(const char *target, struct reg_uri *out, struct cas_err *err)
{
        *out = (struct reg_uri){0};
        size_t len = strnlen(target, REG_URI_BYTES_MAX + 1);
        if (len > REG_URI_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "the URL is longer than %d bytes",
                                REG_URI_BYTES_MAX);
        if (target[0] != '/')
                return cas_fail(err, CAS_E_INVALID, "the URL is not a path");
        for (size_t i = 0; i < len; i++) {
                if ((unsigned char)target[i] <= ' ' || target[i] == 0x7f)
                        return cas_fail(err, CAS_E_INVALID, "control character in the URL");
        }
        /* one copy as it came, one that is cut up */
        out->text = cas_xmalloc(2 * (len + 1));
        memcpy(out->text, target, len + 1);
        out->raw = out->text;
        char *path = out->text + len + 1;
        memcpy(path, target, len + 1);
        char *query = strchr(path, '?');
        if (query)
                *query++ = '\0';
        out->query = query ? out->raw + (query - path) : out->raw + len;
        int rc = parse_path(path + 1, out, err);
        if (rc == 0)
                rc = parse_query(query, out, err);
        if (rc < 0)
                reg_uri_release(out);
        return rc;
}

void reg_uri_release(struct reg_uri *uri)
{
        free(uri->text);
        *uri = (struct reg_uri){0};
}

const char *reg_uri_param(const struct reg_uri *uri, const char *name)
{
        for (size_t i = 0; i < uri->param_count; i++) {
                if (strcmp(uri->params[i].name, name) == 0)
                        return uri->params[i].value;
        }
        return NULL;
}
