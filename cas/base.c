/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/base.h"

#include <stdarg.h>
#include <stdio.h>

void cas_assert_failed(const char *cond, const char *file, int line)
{
        fprintf(stderr, "lamina: assertion failed: %s (%s:%d)\n", cond, file, line);
        abort();
}

void *cas_xmalloc(size_t size)
{
        void *p = malloc(size ? size : 1);
        cas_assert(p != NULL);
        return p;
}

void *cas_xcalloc(size_t count, size_t size)
{
        void *p = calloc(count ? count : 1, size ? size : 1);
        cas_assert(p != NULL);
        return p;
}

void *cas_xrealloc(void *old, size_t size)
{
        void *p = realloc(old, size ? size : 1);
        cas_assert(p != NULL);
        return p;
}

char *cas_xstrdup(const char *s)
{
        return cas_xstrndup(s, strlen(s));
}

char *cas_xstrndup(const char *s, size_t n)
{
        size_t len = strnlen(s, n);
        char *copy = cas_xmalloc(len + 1);
        memcpy(copy, s, len);
        copy[len] = '\0';
        return copy;
}

char *cas_xasprintf(const char *fmt, ...)
{
        char *out = NULL;
        va_list ap;
        va_start(ap, fmt);
        int n = vasprintf(&out, fmt, ap);
        va_end(ap);
        cas_assert(n >= 0);
        return out;
}
