/* SPDX-License-Identifier: Apache-2.0 */
/* Deflate streams by difference: what a predicted encoder would have written, and corrections
 * (spec/recipe-gzip-diff.md). A stream, with whatever stands around it, is cut into segments that
 * are coded each on its own, given up to 32 KiB of plain bytes before it. A segment is a list of
 * items: blocks, pieces of blocks, bytes as they are.
 *
 * Encoder and decoder are one and the same code (rangecoder.h). All of it is format. */
#ifndef CAS_DIFFERENCE_H
#define CAS_DIFFERENCE_H

#include "cas/deflate/diffhead.h"
#include "cas/deflate/predict.h"

#define CAS_DIFFERENCE_WINDOW_BYTES 32768
#define CAS_DIFFERENCE_PLAIN_BYTES_MAX (6U << 20) /* of one segment */
#define CAS_DIFFERENCE_TOKENS_MAX (1U << 17)      /* of one item */
#define CAS_DIFFERENCE_RAW_BYTES_MAX (1U << 16)   /* of one item */
/* What prediction may take: positions of chains that are looked at, in a segment. Even depth 4096
 * takes a third of it on usual data. */
#define CAS_DIFFERENCE_WORK_MIN (1U << 22)
#define CAS_DIFFERENCE_WORK_PER_BYTE 256U
/* What one item can make at most: a token takes up to 48 bits. */
#define CAS_DIFFERENCE_ITEM_BYTES_MAX (CAS_DIFFERENCE_TOKENS_MAX * 6 + 4096)

struct cas_difference_params {
        struct cas_predict_params predict;
        uint8_t tree; /* enum cas_diffhead_tree */
};
#define CAS_DIFFERENCE_PARAMS_BYTES (CAS_PREDICT_PARAMS_BYTES + 1)
void cas_difference_params_put(const struct cas_difference_params *p,
                               uint8_t out[CAS_DIFFERENCE_PARAMS_BYTES]);
bool cas_difference_params_get(const uint8_t in[CAS_DIFFERENCE_PARAMS_BYTES],
                               struct cas_difference_params *out);

/* Numbers are in the corrections. */
enum cas_difference_kind {
        CAS_DIFFERENCE_END = 0,   /* of the segment */
        CAS_DIFFERENCE_BLOCK = 1, /* a block begins */
        CAS_DIFFERENCE_MORE = 2,  /* the block goes on */
        CAS_DIFFERENCE_RAW = 3    /* bytes outside of streams, at a whole byte */
};
struct cas_difference_item {
        enum cas_difference_kind kind;
        struct cas_deflate_block block; /* of BLOCK and MORE */
        const uint32_t *tokens;         /* borrowed; none of STORED */
        uint32_t token_count;           /* up to CAS_DIFFERENCE_TOKENS_MAX */
        bool ends;                      /* of blocks: it ends here */
        uint8_t padding;                /* when the final block ends */
        const uint8_t *raw;             /* borrowed */
        uint32_t raw_bytes;             /* 1 to CAS_DIFFERENCE_RAW_BYTES_MAX */
};

/* The plain bytes of a segment, behind those of the stream that go before. */
struct cas_difference_plain {
        const uint8_t *data;   /* borrowed; CAS_PREDICT_SLACK_BYTES of zeros behind */
        uint32_t window_bytes; /* up to CAS_DIFFERENCE_WINDOW_BYTES */
        uint32_t plain_bytes;  /* up to CAS_DIFFERENCE_PLAIN_BYTES_MAX */
};

struct cas_difference;
struct cas_difference *cas_difference_new(void);
void cas_difference_free(struct cas_difference *d);
CAS_DEFINE_CLEANUP(cas_cleanup_difference_, struct cas_difference *, cas_difference_free);
#define cas_cleanup_difference __attribute__((cleanup(cas_cleanup_difference_)))

/* ---- encoding ---- */

/* Corrections are appended to `out`, which is borrowed until finish. */
void cas_difference_encode_begin(struct cas_difference *d,
                                 const struct cas_difference_params *params,
                                 const struct cas_difference_plain *plain, struct cas_buf *out);
/* Items of a parsed stream: together they stand for exactly the plain bytes. */
void cas_difference_encode(struct cas_difference *d, const struct cas_difference_item *item);
/* False: prediction takes more work than a reader puts in; what was appended is of no use. */
bool cas_difference_encode_finish(struct cas_difference *d) CAS_MUST_CHECK;
/* What the tokens alone would cost: codes them until *at, a position in the plain data, reaches
 * `limit`, and returns the corrections' bytes up to here. For trials; heads and ends are left out.
 */
size_t cas_difference_try(struct cas_difference *d, const struct cas_difference_item *item,
                          uint32_t limit, uint32_t *at);

/* ---- decoding ---- */

/* `start` and `start_bits` (0 to 7): what the stream's byte holds already in which the segment
 * begins. */
void cas_difference_decode_begin(struct cas_difference *d,
                                 const struct cas_difference_params *params,
                                 const struct cas_difference_plain *plain,
                                 const uint8_t *corrections, size_t corrections_bytes,
                                 uint8_t start, unsigned start_bits);
/* Appends the bytes that became whole with the next item, at most CAS_DIFFERENCE_ITEM_BYTES_MAX.
 * *out_more false: the segment is over, nothing was appended. Any corrections are safe.
 * Errors: CORRUPT. */
int cas_difference_decode(struct cas_difference *d, struct cas_buf *out, bool *out_more,
                          struct cas_err *err) CAS_MUST_CHECK;
/* Bits of the byte that is not whole yet; 0 at a whole byte. */
unsigned cas_difference_pending_bits(const struct cas_difference *d);
/* … and those bits. */
uint8_t cas_difference_pending(const struct cas_difference *d);

#endif
