/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes in memory as the sources that readers of streams take, in steps of a chosen size. */
#ifndef TESTS_SUPPORT_MEMSOURCE_H
#define TESTS_SUPPORT_MEMSOURCE_H

#include "cas/err.h"

struct memsource {
        const uint8_t *data; /* borrowed */
        size_t len, at;
        size_t step;     /* at most so many bytes at once */
        unsigned repeat; /* how often it all comes again */
};

static inline size_t memsource_take(struct memsource *s, size_t max, const uint8_t **data)
{
        if (s->at == s->len && s->repeat > 0) {
                s->repeat--;
                s->at = 0;
        }
        size_t n = s->len - s->at;
        n = n < max ? n : max;
        n = n < s->step ? n : s->step;
        *data = n > 0 ? s->data + s->at : NULL;
        s->at += n;
        return n;
}

/* A cas_source_fn. */
static inline int memsource_read(void *arg, void *buf, size_t len, size_t *out_len,
                                 struct cas_err *err)
{
        const uint8_t *data;
        (void)err;
        *out_len = memsource_take(arg, len, &data);
        if (*out_len > 0)
                memcpy(buf, data, *out_len);
        return 0;
}

/* A cas_tar_source_fn. */
static inline int memsource_lend(void *arg, const uint8_t **data, size_t *len, struct cas_err *err)
{
        (void)err;
        *len = memsource_take(arg, SIZE_MAX, data);
        return 0;
}

#endif
