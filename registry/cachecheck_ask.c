/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <strings.h>

#include "registry/cachecheck_int.h"

#define ANSWER_BYTES_MAX ((size_t)8 * 1024 * 1024)

/* Requests */

void reg_check_answer_release(struct reg_check_answer *a)
{
        if (a->transfer)
                reg_httpc_end(a->transfer);
        cas_buf_release(&a->body);
        *a = (struct reg_check_answer){0};
}

int reg_check_ask(struct reg_check *c, const struct reg_check_ask *ask,
                  struct reg_check_answer *out, struct cas_err *err)
{
        cas_cleanup_free char *url = ask->path[0] == '/' ? cas_xasprintf("%s%s", c->base, ask->path)
                                                         : cas_xstrdup(ask->path);
        const char *headers[CAS_COUNT(ask->headers) + 2] = {0};
        size_t count = 0;
        if (c->authorization && !ask->anonymous && reg_check_same_origin(c, url))
                headers[count++] = c->authorization;
        for (size_t i = 0; i < CAS_COUNT(ask->headers) && ask->headers[i]; i++)
                headers[count++] = ask->headers[i];
        struct reg_httpc_request request = {
                .method = ask->method,
                .url = url,
                .headers = headers,
                .body = ask->body,
                .body_bytes = ask->body_read ? ask->read_bytes : ask->body_bytes,
                .body_read = ask->body_read,
                .body_arg = ask->body_arg,
                .no_redirects = true,
        };
        *out = (struct reg_check_answer){0};
        cas_buf_init(&out->body);
        int rc = reg_httpc_begin(c->http, &request, &out->transfer, err);
        if (rc == 0)
                rc = reg_httpc_read_all(out->transfer, ANSWER_BYTES_MAX, &out->body, err);
        if (rc == 0)
                out->status = reg_httpc_status(out->transfer);
        else
                reg_check_answer_release(out);
        return rc < 0 ? cas_err_wrap(err, "%s %s", ask->method, ask->path) : 0;
}

int reg_check_get(struct reg_check *c, const struct reg_check_ask *ask,
                  struct reg_check_answer *out, bool *redirected, struct cas_err *err)
{
        struct reg_check_ask next = *ask;
        next.method = "GET";
        int rc = reg_check_ask(c, &next, out, err);
        bool elsewhere = rc == 0 && out->status >= 301 && out->status <= 308 &&
                         out->status != 304 && reg_check_header(out, "Location")[0];
        if (redirected)
                *redirected = elsewhere;
        if (!elsewhere)
                return rc;
        cas_cleanup_free char *location = reg_check_location(out, NULL);
        reg_check_answer_release(out);
        next.path = location;
        next.anonymous = true;
        return reg_check_ask(c, &next, out, err);
}

const char *reg_check_header(const struct reg_check_answer *a, const char *name)
{
        const char *value = reg_httpc_header(a->transfer, name);
        return value ? value : "";
}

char *reg_check_location(const struct reg_check_answer *a, const char *parameter)
{
        const char *location = reg_check_header(a, "Location");
        if (!parameter)
                return cas_xstrdup(location);
        return cas_xasprintf("%s%c%s", location, strchr(location, '?') ? '&' : '?', parameter);
}

bool reg_check_same_origin(const struct reg_check *c, const char *url)
{
        size_t len = strlen(c->base);
        return url[0] == '/' ||
               (strncasecmp(url, c->base, len) == 0 && (url[len] == '/' || url[len] == '\0'));
}

/* Findings */

const char *reg_finding_kind_text(enum reg_finding_kind kind)
{
        switch (kind) {
        case REG_FINDING_GOOD:
                return "good";
        case REG_FINDING_NOTE:
                return "note";
        case REG_FINDING_WRONG:
                return "wrong";
        case REG_FINDING_SKIPPED:
                return "skipped";
        }
        return "";
}

static void find(struct reg_check *c, enum reg_finding_kind kind, const char *check,
                 const char *advice, const char *fmt, va_list ap)
{
        char *text = NULL;
        int n = vasprintf(&text, fmt, ap);
        cas_assert(n >= 0);
        cas_cleanup_free char *what = text;
        struct reg_finding finding = {check, kind, what, advice ? advice : ""};
        c->wrong += kind == REG_FINDING_WRONG;
        c->tell(c->tell_arg, &finding);
}

void reg_check_good(struct reg_check *c, const char *check, const char *fmt, ...)
{
        va_list ap;
        va_start(ap, fmt);
        find(c, REG_FINDING_GOOD, check, NULL, fmt, ap);
        va_end(ap);
}

void reg_check_skip(struct reg_check *c, const char *check, const char *fmt, ...)
{
        va_list ap;
        va_start(ap, fmt);
        find(c, REG_FINDING_SKIPPED, check, NULL, fmt, ap);
        va_end(ap);
}

void reg_check_note(struct reg_check *c, const char *check, const char *advice, const char *fmt,
                    ...)
{
        va_list ap;
        va_start(ap, fmt);
        find(c, REG_FINDING_NOTE, check, advice, fmt, ap);
        va_end(ap);
}

void reg_check_wrong(struct reg_check *c, const char *check, const char *advice, const char *fmt,
                     ...)
{
        va_list ap;
        va_start(ap, fmt);
        find(c, REG_FINDING_WRONG, check, advice, fmt, ap);
        va_end(ap);
}
