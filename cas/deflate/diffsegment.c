/* SPDX-License-Identifier: Apache-2.0 */
#include "cas/deflate/diffsegment.h"

/* Blocks are cut in two only beyond this; an event adds less than what is left to the maximum. */
#define CUT_BYTES (CAS_DIFFERENCE_PLAIN_BYTES_MAX - (1U << 20))
#define ITEMS_MAX 2000
#define TOKENS_AIM (3U << 20)
#define RAW_BYTES_AIM (256U << 10)

/* Offsets instead of pointers: the buffers grow. */
struct collected {
        struct cas_difference_item item;
        size_t first; /* token, or byte of raw */
};

struct cas_diffsegment {
        struct cas_buf plain; /* window, plain bytes */
        uint32_t window_bytes;
        size_t stream_begin; /* where the present stream begins in `plain`; 0 if before */
        bool in_stream;
        uint32_t *tokens; /* owned */
        size_t token_count, token_room;
        struct cas_buf raw;
        struct collected *items; /* owned */
        size_t count, room;
        bool open;       /* the last item is a block that has not ended */
        bool had_tokens; /* the event before were tokens of that block */
        uint32_t farthest;
};

struct cas_diffsegment *cas_diffsegment_new(void)
{
        return cas_xcalloc(1, sizeof(struct cas_diffsegment));
}

void cas_diffsegment_free(struct cas_diffsegment *s)
{
        if (!s)
                return;
        cas_buf_release(&s->plain);
        cas_buf_release(&s->raw);
        free(s->tokens);
        free(s->items);
        free(s);
}

static struct collected *add_item(struct cas_diffsegment *s, enum cas_difference_kind kind)
{
        if (s->count == s->room) {
                s->room = s->room ? 2 * s->room : 64;
                s->items = cas_xrealloc(s->items, s->room * sizeof(*s->items));
        }
        struct collected *c = &s->items[s->count++];
        memset(c, 0, sizeof(*c));
        c->item.kind = kind;
        c->first = kind == CAS_DIFFERENCE_RAW ? s->raw.len_bytes : s->token_count;
        return c;
}

static struct collected *last_item(struct cas_diffsegment *s)
{
        cas_assert(s->count > 0);
        return &s->items[s->count - 1];
}

static struct collected *add_more(struct cas_diffsegment *s, const struct cas_deflate_block *block)
{
        struct collected *c = add_item(s, CAS_DIFFERENCE_MORE);
        c->item.block = *block;
        return c;
}

static size_t plain_bytes(const struct cas_diffsegment *s)
{
        return s->plain.len_bytes - s->window_bytes;
}

bool cas_diffsegment_is_full(const struct cas_diffsegment *s, const struct cas_deflate_event *next)
{
        if (next->kind == CAS_DEFLATE_BLOCK)
                return plain_bytes(s) >= CAS_DIFFSEGMENT_PLAIN_BYTES || s->count >= ITEMS_MAX ||
                       s->token_count >= TOKENS_AIM;
        if (next->kind != CAS_DEFLATE_TOKENS || !s->had_tokens)
                return false;
        return plain_bytes(s) + next->plain_bytes > CUT_BYTES || s->token_count >= 2 * TOKENS_AIM;
}

static void add_tokens(struct cas_diffsegment *s, const struct cas_deflate_event *e)
{
        if (e->token_count == 0)
                return;
        if (!s->open || s->count == 0)
                add_more(s, e->block);
        s->open = true;
        if (s->token_count + e->token_count > s->token_room) {
                s->token_room = 2 * (s->token_count + e->token_count);
                s->tokens = cas_xrealloc(s->tokens, s->token_room * sizeof(*s->tokens));
        }
        for (size_t i = 0; i < e->token_count;) {
                struct collected *c = last_item(s);
                size_t n = CAS_DIFFERENCE_TOKENS_MAX - c->item.token_count;
                if (n == 0) {
                        add_more(s, e->block);
                        continue;
                }
                n = n < e->token_count - i ? n : e->token_count - i;
                memcpy(s->tokens + s->token_count, e->tokens + i, n * sizeof(*s->tokens));
                s->token_count += n;
                c->item.token_count += (uint32_t)n;
                i += n;
        }
        for (size_t i = 0; i < e->token_count; i++)
                if (e->tokens[i] & CAS_TOKEN_IS_MATCH &&
                    cas_token_distance(e->tokens[i]) > s->farthest)
                        s->farthest = cas_token_distance(e->tokens[i]);
}

static void end_block(struct cas_diffsegment *s, const struct cas_deflate_event *e)
{
        if (s->count == 0 || !s->open)
                add_more(s, e->block);
        last_item(s)->item.ends = true;
        s->open = false;
}

void cas_diffsegment_event(struct cas_diffsegment *s, const struct cas_deflate_event *e)
{
        bool had_tokens = false;
        switch (e->kind) {
        case CAS_DEFLATE_BLOCK:
                if (!s->in_stream) {
                        s->in_stream = true;
                        s->stream_begin = s->plain.len_bytes;
                }
                add_item(s, CAS_DIFFERENCE_BLOCK)->item.block = *e->block;
                s->open = true;
                break;
        case CAS_DEFLATE_TOKENS:
                add_tokens(s, e);
                had_tokens = true;
                break;
        case CAS_DEFLATE_BYTES:
                break;
        case CAS_DEFLATE_BLOCK_END:
                end_block(s, e);
                break;
        case CAS_DEFLATE_END:
                last_item(s)->item.padding = e->padding;
                s->in_stream = false;
                break;
        }
        if (e->kind == CAS_DEFLATE_TOKENS || e->kind == CAS_DEFLATE_BYTES)
                cas_buf_append(&s->plain, e->plain, e->plain_bytes);
        s->had_tokens = had_tokens;
}

bool cas_diffsegment_raw(struct cas_diffsegment *s, const uint8_t *data, size_t len)
{
        cas_assert(!s->in_stream);
        cas_assert(len <= CAS_DIFFERENCE_RAW_BYTES_MAX);
        if (s->count >= ITEMS_MAX || s->raw.len_bytes >= RAW_BYTES_AIM)
                return false;
        if (len > 0) {
                add_item(s, CAS_DIFFERENCE_RAW)->item.raw_bytes = (uint32_t)len;
                cas_buf_append(&s->raw, data, len);
        }
        return true;
}

bool cas_diffsegment_is_empty(const struct cas_diffsegment *s)
{
        return s->count == 0;
}

void cas_diffsegment_plain(struct cas_diffsegment *s, struct cas_difference_plain *out)
{
        cas_buf_reserve(&s->plain, CAS_PREDICT_SLACK_BYTES);
        memset(s->plain.data + s->plain.len_bytes, 0, CAS_PREDICT_SLACK_BYTES);
        *out = (struct cas_difference_plain){.data = s->plain.data,
                                             .window_bytes = s->window_bytes,
                                             .plain_bytes = (uint32_t)plain_bytes(s)};
}

bool cas_diffsegment_item(const struct cas_diffsegment *s, size_t index,
                          struct cas_difference_item *out)
{
        if (index >= s->count)
                return false;
        const struct collected *c = &s->items[index];
        *out = c->item;
        if (out->kind == CAS_DIFFERENCE_RAW)
                out->raw = s->raw.data + c->first;
        else if (s->tokens)
                out->tokens = s->tokens + c->first;
        return true;
}

uint32_t cas_diffsegment_farthest(const struct cas_diffsegment *s)
{
        return s->farthest;
}

void cas_diffsegment_next(struct cas_diffsegment *s)
{
        size_t len = s->plain.len_bytes;
        size_t window = s->in_stream ? len - s->stream_begin : 0;
        if (window > CAS_DIFFERENCE_WINDOW_BYTES)
                window = CAS_DIFFERENCE_WINDOW_BYTES;
        if (window > 0)
                memmove(s->plain.data, s->plain.data + len - window, window);
        s->plain.len_bytes = window;
        s->window_bytes = (uint32_t)window;
        s->stream_begin = 0;
        s->token_count = s->count = 0;
        cas_buf_clear(&s->raw);
        s->open = s->had_tokens = false;
        s->farthest = 0;
}
