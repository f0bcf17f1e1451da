/* SPDX-License-Identifier: Apache-2.0 */
/* A deflate stream (RFC 1951) taken apart into blocks and tokens, so that it can be told which
 * encoder made it, and made again bit by bit. Accepts every legal stream, of any flush. */
#ifndef CAS_TOKEN_H
#define CAS_TOKEN_H

#include "cas/decompress.h"

/* A literal is its byte. A match has bit 31, length - 3 in bits 16 to 23, distance - 1 in bits 0
 * to 14; bit 30 says that length 258 was written as 284 with extra bits 31, which no usual encoder
 * does. */
#define CAS_TOKEN_IS_MATCH UINT32_C(0x80000000)
#define CAS_TOKEN_ODD_258 UINT32_C(0x40000000)
static inline uint32_t cas_token_match(uint32_t length, uint32_t distance)
{
        return CAS_TOKEN_IS_MATCH | (length - 3) << 16 | (distance - 1);
}
static inline uint32_t cas_token_length(uint32_t match)
{
        return (match >> 16 & 0xff) + 3;
}
static inline uint32_t cas_token_distance(uint32_t match)
{
        return (match & 0x7fff) + 1;
}

enum cas_deflate_block_type {
        CAS_DEFLATE_STORED = 0,
        CAS_DEFLATE_FIXED = 1,
        CAS_DEFLATE_DYNAMIC = 2
};

/* Head of a block, as it is in the stream. */
struct cas_deflate_block {
        enum cas_deflate_block_type type;
        bool is_final;
        uint64_t bit_offset;   /* of the block's first bit in the stream */
        uint64_t plain_offset; /* of its first byte in the decoded stream */
        /* STORED */
        uint16_t stored_bytes;
        uint8_t padding; /* the bits between head and length, usually zero */
        /* DYNAMIC */
        uint16_t literal_count, distance_count; /* HLIT + 257, HDIST + 1 */
        uint8_t clen_count;                     /* HCLEN + 4 */
        uint8_t clen_lengths[19];               /* by symbol, not by the order of the stream */
        uint8_t lengths[288 + 32];              /* literal_count, then distance_count of them */
        uint16_t clen_symbol_count;
        uint8_t clen_symbols[288 + 32]; /* as coded: 0 to 18 … */
        uint8_t clen_extra[288 + 32];   /* … with its extra bits */
};

enum cas_deflate_event_kind {
        CAS_DEFLATE_BLOCK,  /* a block begins */
        CAS_DEFLATE_TOKENS, /* tokens and the bytes that they stand for; any number a block */
        CAS_DEFLATE_BYTES,  /* bytes of a stored block */
        CAS_DEFLATE_BLOCK_END,
        CAS_DEFLATE_END /* of the stream: given again and again */
};
struct cas_deflate_event {
        enum cas_deflate_event_kind kind;
        const struct cas_deflate_block *block; /* always the present one; borrowed */
        const uint32_t *tokens;                /* borrowed until the next call */
        size_t token_count;
        const uint8_t *plain; /* borrowed until the next call */
        size_t plain_bytes;
        uint8_t padding; /* END: the bits that fill the last byte, usually zero */
};

struct cas_deflate_parser;
/* `source` gives stored bytes, beginning with the stream's first. */
struct cas_deflate_parser *cas_deflate_parser_new(cas_source_fn source, void *arg);
void cas_deflate_parser_free(struct cas_deflate_parser *p);
CAS_DEFINE_CLEANUP(cas_cleanup_deflate_parser_, struct cas_deflate_parser *,
                   cas_deflate_parser_free);
#define cas_cleanup_deflate_parser __attribute__((cleanup(cas_cleanup_deflate_parser_)))

/* Errors: CORRUPT (not deflate, or cut off), and the source's. After one, only free. */
int cas_deflate_parser_next(struct cas_deflate_parser *p, struct cas_deflate_event *out,
                            struct cas_err *err) CAS_MUST_CHECK;

/* Between streams, which is before the first event and after END: */

/* Bytes that were taken from the source and not by a stream (the header of a gzip member, its
 * trailer); borrowed until the next call. */
void cas_deflate_parser_rest(const struct cas_deflate_parser *p, const uint8_t **data, size_t *len);
/* Takes more of the source until rest gives at least `want`, or the source is at its end. */
#define CAS_DEFLATE_FILL_BYTES_MAX (256 * 1024)
int cas_deflate_parser_fill(struct cas_deflate_parser *p, size_t want,
                            struct cas_err *err) CAS_MUST_CHECK;
/* Drops the first `skip` bytes of what rest gives; another stream begins behind them. */
void cas_deflate_parser_restart(struct cas_deflate_parser *p, size_t skip);

/* Bits of the present stream that were consumed. */
uint64_t cas_deflate_parser_bits(const struct cas_deflate_parser *p);

#endif
