/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/challenge.h"

void reg_challenge_release(struct reg_challenge *c)
{
        free(c->realm);
        free(c->service);
        free(c->scope);
        free(c->error);
        *c = (struct reg_challenge){0};
}

static bool is_token_char(char c)
{
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
               (c != 0 && strchr("!#$%&'*+-.^_`|~", c));
}

static size_t token_length(const char *p)
{
        size_t n = 0;
        while (is_token_char(p[n]))
                n++;
        return n;
}

static const char *skip_spaces(const char *p)
{
        return p + strspn(p, " \t");
}

/* "…" with \-escapes, or a token. *at moves behind it; NULL when it is neither. */
static char *take_value(const char **at)
{
        const char *p = *at;
        if (*p != '"') {
                size_t n = token_length(p);
                *at = p + n;
                return n > 0 ? cas_xstrndup(p, n) : NULL;
        }
        cas_cleanup_free char *value = cas_xmalloc(strlen(p));
        size_t n = 0;
        for (p++; *p != '"'; p++) {
                if (*p == '\\')
                        p++;
                if (*p < ' ' || *p > '~') /* the end, too */
                        return NULL;
                value[n++] = *p;
        }
        value[n] = 0;
        *at = p + 1;
        return cas_steal(&value);
}

struct parser {
        const char *at;
        struct reg_challenge now;  /* the one that is read */
        struct reg_challenge best; /* of those before */
        unsigned params;
};

/* The challenge that was read is over. */
static void settle(struct parser *p)
{
        bool usable = p->now.kind == REG_CHALLENGE_BASIC ||
                      (p->now.kind == REG_CHALLENGE_BEARER && p->now.realm);
        if (usable && p->now.kind > p->best.kind) {
                reg_challenge_release(&p->best);
                p->best = p->now;
                p->now = (struct reg_challenge){0};
        }
        reg_challenge_release(&p->now);
}

static int take_param(struct parser *p, size_t name_len, struct cas_err *err)
{
        const char *name = p->at;
        p->at = skip_spaces(skip_spaces(p->at + name_len) + 1);
        cas_cleanup_free char *value = take_value(&p->at);
        if (!value)
                return cas_fail(err, CAS_E_INVALID, "WWW-Authenticate: a bad value");
        if (++p->params > REG_CHALLENGE_PARAMS_MAX)
                return cas_fail(err, CAS_E_LIMIT, "WWW-Authenticate: too many parameters");
        const struct {
                const char *name;
                char **into;
        } known[] = {{"realm", &p->now.realm},
                     {"service", &p->now.service},
                     {"scope", &p->now.scope},
                     {"error", &p->now.error}};
        for (size_t i = 0; i < CAS_COUNT(known); i++) {
                if (strlen(known[i].name) != name_len ||
                    strncasecmp(known[i].name, name, name_len) != 0)
                        continue;
                if (*known[i].into)
                        return cas_fail(err, CAS_E_INVALID, "WWW-Authenticate: %s twice",
                                        known[i].name);
                *known[i].into = cas_steal(&value);
        }
        return 0;
}

static void begin_scheme(struct parser *p, size_t len)
{
        settle(p);
        if (len == 5 && strncasecmp(p->at, "Basic", 5) == 0)
                p->now.kind = REG_CHALLENGE_BASIC;
        else if (len == 6 && strncasecmp(p->at, "Bearer", 6) == 0)
                p->now.kind = REG_CHALLENGE_BEARER;
        p->at += len;
}

/* What may follow a scheme in place of parameters: bytes in base64, of schemes unknown here. */
static bool skip_token68(struct parser *p)
{
        const char *q = p->at + token_length(p->at);
        while (is_token_char(*q) || *q == '/')
                q++;
        q += strspn(q, "=");
        q = skip_spaces(q);
        if (*q != ',' && *q != 0)
                return false;
        p->at = q;
        return true;
}

static int parse_all(struct parser *p, struct cas_err *err)
{
        bool fresh = false; /* right after a scheme */
        for (;;) {
                p->at = skip_spaces(p->at);
                if (*p->at == 0)
                        return 0;
                if (*p->at == ',') {
                        p->at++;
                        fresh = false;
                        continue;
                }
                size_t len = token_length(p->at);
                const char *after = skip_spaces(p->at + len);
                bool param = len > 0 && *after == '=' && after[1] != '=' &&
                             *skip_spaces(after + 1) != 0 && *skip_spaces(after + 1) != ',';
                if (fresh && !param) {
                        if (!skip_token68(p))
                                break;
                } else if (param) {
                        if (take_param(p, len, err) < 0)
                                return -(int)err->code;
                        p->at = skip_spaces(p->at);
                        if (*p->at != ',' && *p->at != 0)
                                break;
                } else if (len > 0 && (*after == 0 || *after == ',' || after > p->at + len)) {
                        begin_scheme(p, len);
                        fresh = true;
                        continue;
                } else {
                        break;
                }
                fresh = false;
        }
        return cas_fail(err, CAS_E_INVALID, "WWW-Authenticate: malformed near %.20s", p->at);
}

int reg_challenge_parse(const char *header, struct reg_challenge *out, struct cas_err *err)
{
        if (strlen(header) > REG_CHALLENGE_BYTES_MAX)
                return cas_fail(err, CAS_E_LIMIT, "WWW-Authenticate: %zu bytes", strlen(header));
        struct parser p = {.at = header};
        int rc = parse_all(&p, err);
        settle(&p);
        if (rc < 0)
                reg_challenge_release(&p.best);
        else
                *out = p.best;
        return rc;
}
